"""The scan of components against dense algebra: exact scores, laws by brute force, one-step estimates."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import alpha_law, draw_probes, exact_fits, exact_probes, fit_exact, fit_weights, scan, with_residuals
from gpu_reml.reml.studies.scan import STRONG, ScanSettings
from gpu_reml.reml.studies.scan_law import log10_p, log_tail
from gpu_reml.reml.studies.scan_refit import refit
from gpu_reml.reml.studies.scan_replicates import moments_of
from gpu_reml.reml.studies.scan_result import bonferroni, false_discovery
from gpu_reml.validation import dense
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.scan_dense import dense_score
from gpu_reml.validation.small import covariance_of, make_cohort

TIGHT = ScanSettings(tol=1e-10, solve=1e-10)


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(160, 300, 2, seed=4, h2=0.6)


@pytest.fixture(scope="module")
def result(cohort):
    return fit_exact(cohort.y, cohort.X, covariance_of(cohort))


def sets_of(cohort):
    """Windows, an overlapping continuous annotation, and a single variant."""
    rng, m = np.random.default_rng(3), len(cohort.W)
    single = np.zeros(m)
    single[7] = 1
    return np.column_stack([np.repeat(np.eye(6), m // 6, axis=0), rng.gamma(2.0, size=m), single])


def expected(cohort, result, weights):
    Z = dense.standardised(cohort.counts)
    free = ~result.at_bound
    return [dense_score(result.theta, cohort.y, cohort.X, cohort.Ks, dense.kernel(Z, w), free) for w in weights.T]


def test_score_information_and_step_with_exact_probes_are_those_of_dense_algebra(cohort, result):
    weights = sets_of(cohort)
    found = scan(result, cohort.y, cohort.X, covariance_of(cohort), weights, exact_probes(cohort.n), TIGHT)
    truth = expected(cohort, result, weights)
    for name, values in (("z", found.z), ("theta", found.theta), ("own", found.own)):
        np.testing.assert_allclose(values, [getattr(each, name) for each in truth], rtol=1e-6, err_msg=name)
    traces = np.array([np.trace(dense.kernel(dense.standardised(cohort.counts), w)) for w in weights.T]) / cohort.n
    np.testing.assert_allclose(found.variance.se, [each.se for each in truth] * traces, rtol=1e-6)
    np.testing.assert_allclose(found.skewness, [each.third / each.variance**1.5 for each in truth], rtol=1e-6)
    longer = [max(each.theta, 0) * np.sum(each.eigenvalues**3) / np.sum(each.eigenvalues**2) for each in truth]
    np.testing.assert_allclose(found.saturation, longer, rtol=1e-6)
    assert 0 < found.saturation.max() < 1 and found.saturation.min() == 0
    dominance = [2 * each.eigenvalues[-1] ** 2 / each.variance for each in truth]
    np.testing.assert_allclose(found.dominance, dominance, rtol=0.15)
    np.testing.assert_allclose(found.dominance[-1], dominance[-1], rtol=1e-6)
    assert found.remarks == [*[""] * 7, "one direction"]
    assert not found.z_mc_se.any()


def test_scores_by_random_replicates_are_within_their_stated_errors_of_dense_ones(cohort, result):
    weights = sets_of(cohort)
    z = np.array([each.z for each in expected(cohort, result, weights)])
    misses = []
    for seed in range(12):
        probes = draw_probes(cohort.n, 128, rank=20, seed=seed)
        found = scan(result, cohort.y, cohort.X, covariance_of(cohort), weights, probes)
        misses.append((found.z - z) / found.z_mc_se)
    assert np.abs(misses).max() < 4.5
    assert 0.6 < np.sqrt(np.mean(np.square(misses))) < 1.4


def with_strong_sets(cohort):
    """A phenotype with two windows of more variance than the rest, its fit, and the weights of a few sets."""
    Z, rng = dense.standardised(cohort.counts), np.random.default_rng(8)
    windows = Z[:, 60:90] @ rng.standard_normal(30) / 6 + Z[:, 210:240] @ rng.standard_normal(30) / 9
    y = cohort.y / cohort.y.std() + windows
    return y, fit_exact(y, cohort.X, covariance_of(cohort)), np.repeat(np.eye(10), 30, axis=0)[:, [0, 2, 5, 7]]


def highest(cohort, y, result, weights):
    """(theta, se, lrt) of the dense likelihood along K - sum_g beta_g K_g."""
    K, free = dense.kernel(dense.standardised(cohort.counts), weights), ~result.at_bound
    beta = dense_score(result.theta, y, cohort.X, cohort.Ks, K, free).beta
    parts = [part for part, kept in zip([*cohort.Ks, np.eye(cohort.n)], free, strict=True) if kept]
    way = [dense.covariance_matrix(result.theta, cohort.Ks), K - np.tensordot(beta, parts, axes=1)]

    def loglik(theta):
        return dense.dense_loglik(np.array([1.0, theta, 0.0]), y, cohort.X, way)

    found = optimize.minimize_scalar(lambda x: -loglik(np.exp(x)), bounds=(-6, 1), method="bounded")
    theta, step = np.exp(found.x), 0.02 * np.exp(found.x)
    bend = (loglik(theta + step) - 2 * loglik(theta) + loglik(theta - step)) / step**2
    return theta, (-bend) ** -0.5, 2 * (loglik(theta) - loglik(0.0))


def test_the_likelihood_along_a_step_is_the_dense_one_and_its_top_nearly_that_of_a_full_fit(cohort):
    y, result, weights = with_strong_sets(cohort)
    covariance = covariance_of(cohort)
    found = scan(result, y, cohort.X, covariance, weights, exact_probes(cohort.n), TIGHT)
    strong = np.flatnonzero(found.z >= 1)
    assert strong.tolist() == [1, 3]
    assert np.isnan(found.reml_lrt[[0, 2]]).all()
    traces = np.array([np.trace(dense.kernel(dense.standardised(cohort.counts), w)) for w in weights.T]) / cohort.n
    truth = np.array([highest(cohort, y, result, weights[:, a]) for a in strong])
    ours = [found.reml_variance.estimate / traces, found.reml_variance.se / traces, found.reml_lrt]
    for values, true, rtol in zip(ours, truth.T, (2e-3, 0.03, 1e-4), strict=True):
        np.testing.assert_allclose(values[strong], true, rtol=rtol)
    sets = make_covariance(covariance.products, weights, list("abcd"))
    full = refit(y, cohort.X, covariance, sets, strong, fit=exact_fits)
    np.testing.assert_allclose(found.reml_lrt[strong], full.lrt, rtol=0.08)
    np.testing.assert_allclose(found.reml_variance.estimate[strong], full.variance, rtol=0.02)
    assert (found.variance.estimate[strong] / full.variance < 0.94).all()  # one step is further off


def test_the_likelihood_along_a_step_by_random_replicates_is_within_its_stated_errors(cohort):
    y, result, weights = with_strong_sets(cohort)
    exact = scan(result, y, cohort.X, covariance_of(cohort), weights, exact_probes(cohort.n), TIGHT)
    misses = []
    for seed in range(12):
        probes = draw_probes(cohort.n, 512, rank=20, seed=seed)
        found = scan(result, y, cohort.X, covariance_of(cohort), weights, probes)
        theta = (found.reml_variance.estimate - exact.reml_variance.estimate) / found.reml_variance.mc_se
        misses += [theta[[1, 3]], ((found.reml_lrt - exact.reml_lrt) / found.reml_lrt_mc_se)[[1, 3]]]
    assert np.abs(misses).max() < 4.5
    assert 0.4 < np.sqrt(np.mean(np.square(misses))) < 1.2  # of many equal directions it is stated too large


def test_a_tail_is_that_of_a_weighted_sum_of_chi_squares():
    rng = np.random.default_rng(0)
    for eigenvalues in (np.ones(1), np.array([1.0, 0.5, 0.2]), np.r_[3.0, np.ones(20)], np.r_[1.0, -0.05 * np.ones(9)]):
        drawn = rng.chisquare(1, (400_000, len(eigenvalues))) @ eigenvalues - eigenvalues.sum()
        q = np.quantile(drawn, [0.5, 0.9, 0.99, 0.999])
        variance, third = 2 * np.sum(eigenvalues**2), 8 * np.sum(eigenvalues**3)
        lead, variance, third = (np.full(4, value) for value in (eigenvalues[0], variance, third))
        np.testing.assert_allclose(np.exp(log_tail(q, lead, variance, third)), [0.5, 0.1, 0.01, 0.001], rtol=0.08)


def test_a_tail_beyond_the_range_of_float64_is_known_by_its_logarithm():
    z, one = np.array([900.0]), np.ones(1)
    found = log10_p(z, np.sqrt(0.5) * one, np.sqrt(8) * one, np.zeros(1), np.zeros(1))
    exact = -(np.log(2) + stats.norm.logsf(np.sqrt(1 + np.sqrt(2) * z))) / np.log(10)
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    gamma = log10_p(z, np.zeros(1), 0.5 * one, np.zeros(1), np.zeros(1))  # chi-square with 32 degrees of freedom
    x, k = (32 + 8 * z) / 2, np.arange(16)
    np.testing.assert_allclose(gamma, (x - special.logsumexp(k * np.log(x) - special.gammaln(k + 1))) / np.log(10))


def test_a_scale_that_is_estimated_from_replicates_gives_the_tail_of_an_f_law():
    # one variant: q / (mean of 128 squares) has the law F(1, 128)
    f = stats.f.isf(1e-4, 1, 128)
    z, error = (f - 1) / np.sqrt(2), np.sqrt(2 / 128)
    values = (np.array([z]), np.array([np.sqrt(0.5)]), np.array([np.sqrt(8.0)]))
    found = log10_p(*values, np.zeros(1), np.array([error]))
    assert abs(found[0] - 4) < 0.15
    assert log10_p(*values, np.zeros(1), np.zeros(1))[0] > 4.2


def test_solving_for_strong_sets_alone_leaves_the_size_at_a_thousandth():
    # sets that replicates put on the wrong side of 0.001 are solved for on both of its sides
    rng, num, grid, one = np.random.default_rng(1), 10, np.linspace(0.5, 20, 300), np.ones(300)
    q = rng.chisquare(num, 300_000)
    unit = np.sqrt(2 * num)
    exact = np.interp((q - num) / unit, grid, log10_p(grid, one / unit, np.sqrt(8 / num) * one, 0 * one, 0 * one))
    sizes = []
    for _ in range(20):
        x = rng.standard_normal((200, num))
        E = x @ x.T
        found, means = moments_of(E, E, complete=False), np.diag(E)
        scale = np.sqrt(found.variance)
        errors = means.var() / 200 / found.variance, found.variance_error / (2 * found.variance)
        law = log10_p(grid, *(value * one for value in (found.lead / scale, found.third / scale**3, *errors)))
        first = np.interp((q - means.mean()) / scale, grid, law)
        sizes.append(np.mean(np.where(first >= STRONG, exact, first) >= 3) / 1e-3)
    assert 0.88 < np.mean(sizes) < 1.1  # 0.8 where they are solved for from 0.001 on


def test_strong_sets_of_few_variants_have_the_exact_law_of_their_statistic(cohort):
    Z, rng = dense.standardised(cohort.counts), np.random.default_rng(8)
    y = Z[:, 40:46] @ rng.standard_normal(6) + cohort.y / 4
    covariance, weights = covariance_of(cohort), sets_of(cohort)
    weights[:, -1] = np.isin(np.arange(len(weights)), np.arange(38, 50))
    result = fit_exact(y, cohort.X, covariance)
    args = (result, y, cohort.X, covariance, weights, draw_probes(cohort.n, 128, rank=20, seed=3))
    exact, plain = scan(*args), scan(*args, ScanSettings(exact_variants=0))
    truth = dense_score(result.theta, y, cohort.X, cohort.Ks, dense.kernel(Z, weights[:, -1]), ~result.at_bound)
    assert exact.exact.tolist() == [True, *[False] * 6, True] and not plain.exact.any()
    assert abs(exact.z[-1] - truth.z) < 3 * exact.z_mc_se[-1] < 0.6 * plain.z_mc_se[-1]
    np.testing.assert_allclose(exact.dominance[-1], 2 * truth.eigenvalues[-1] ** 2 / truth.variance, rtol=0.02)
    whole = scan(*args[:5], exact_probes(cohort.n), TIGHT)
    assert abs(exact.log10p[-1] - whole.log10p[-1]) < 0.04 * whole.log10p[-1]
    np.testing.assert_array_equal(exact.z[1:-1], plain.z[1:-1])
    assert exact.saturation[-1] > 3 and exact.remarks[-1] == "saturated"
    assert exact.to_frame()["saturation"].tolist() == exact.saturation.tolist()


def test_p_values_under_the_null_are_uniform_whatever_the_size_of_a_set(cohort):
    rng, weights = np.random.default_rng(5), sets_of(cohort)
    covariance = covariance_of(cohort)
    theta = np.array([0.25, 0.25, 0.5])
    root = np.linalg.cholesky(dense.covariance_matrix(theta, cohort.Ks))
    p = []
    for seed in range(25):
        y = root @ rng.standard_normal(cohort.n)
        probes = draw_probes(cohort.n, 128, rank=20, seed=seed)
        p.append(scan(fit_exact(y, cohort.X, covariance), y, cohort.X, covariance, weights, probes).p)
    p = np.concatenate(p)
    for level in (0.5, 0.1, 0.02):
        share, se = np.mean(p <= level), np.sqrt(level * (1 - level) / len(p)) * 1.6  # sets of one y are dependent
        assert abs(share - level) < 4 * se, level


def test_a_set_that_the_baseline_holds_already_is_named_and_has_no_test(cohort, result):
    covariance = covariance_of(cohort)
    weights = np.column_stack([cohort.W[:, 0], sets_of(cohort)[:, 0]])
    found = scan(result, cohort.y, cohort.X, covariance, weights, exact_probes(cohort.n), TIGHT)
    assert found.remarks[0] == "not told from the baseline" and np.isnan(found.p[0])
    frame = found.to_frame()
    assert frame["p_bonferroni"].iloc[1] == frame["p"].iloc[1] == frame["p_fdr"].iloc[1]


def test_a_residual_that_differs_between_samples_is_that_of_the_fit(cohort):
    noise = np.random.default_rng(1).uniform(0.5, 2.0, cohort.n)
    covariance = with_residuals(covariance_of(cohort), noise[:, None])
    result = fit_exact(cohort.y, cohort.X, covariance)
    weights = sets_of(cohort)
    sets = make_covariance(CpuProducts(cohort.genotypes, np.float64), weights)
    found = scan(result, cohort.y, cohort.X, covariance, sets, exact_probes(cohort.n), TIGHT)
    root = np.sqrt(noise)
    Z = dense.standardised(cohort.counts)
    Ks = [K / np.outer(root, root) for K in cohort.Ks]
    for a, w in enumerate(weights.T):
        K = dense.kernel(Z, w) / np.outer(root, root)
        args = (result.theta, cohort.y / root, cohort.X / root[:, None], Ks, K, ~result.at_bound)
        np.testing.assert_allclose(found.z[a], dense_score(*args).z, rtol=1e-6)


def test_a_set_of_many_variants_takes_fewer_pairs_of_replicates(cohort, result):
    probes = draw_probes(cohort.n, 256, rank=20, seed=1)
    args = (result, cohort.y, cohort.X, covariance_of(cohort), sets_of(cohort), probes)
    few, all_pairs = scan(*args, ScanSettings(pair_work=2e6)), scan(*args)
    assert few.replicates[6] < few.replicates[0] < few.replicates[7] == 256
    np.testing.assert_allclose(few.z[:6], all_pairs.z[:6], rtol=0.2, atol=0.1)


def test_adjusted_p_values_are_those_of_their_definitions():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.9])
    np.testing.assert_allclose(bonferroni(p), [0.04, 0.16, np.nan, 0.12, 1.0])
    np.testing.assert_allclose(false_discovery(p), [0.04, 0.16 / 3, np.nan, 0.16 / 3, 0.9])


def test_sets_of_other_samples_are_refused(cohort, result):
    other = make_cohort(50, 60, 1, seed=1)
    with pytest.raises(ValueError, match="sets: expected 160 samples, found 50"):
        scan(result, cohort.y, cohort.X, covariance_of(cohort), covariance_of(other))


@pytest.mark.parametrize("number", [1, 2])
def test_a_scan_and_learned_weights_on_devices_are_those_of_the_cpu(cohort, result, number):
    products = make_device_products(cohort.genotypes, [HostDevice(label=f"device {d}") for d in range(number)], None)
    weights, probes = sets_of(cohort), draw_probes(cohort.n, 64, rank=20, seed=2)
    args = (result, cohort.y, cohort.X)
    there = scan(*args, make_covariance(products, cohort.W), weights, probes)
    here = scan(*args, covariance_of(cohort, np.float32), weights, probes)
    np.testing.assert_allclose(there.z, here.z, atol=2e-3)
    np.testing.assert_allclose(there.log10p, here.log10p, atol=2e-3)
    law, probes = alpha_law(cohort.genotypes), draw_probes(cohort.n, 32, seed=2)
    one, other = (
        fit_weights(cohort.y, cohort.X, make_covariance(each), law, probes, interval=False)
        for each in (products, CpuProducts(cohort.genotypes))
    )
    assert abs(one.tau[0] - other.tau[0]) < 1e-3 * other.se[0]


def test_components_at_zero_are_held_there_and_a_fit_without_any_is_a_baseline_too(cohort):
    covariance, rng = covariance_of(cohort), np.random.default_rng(3)
    drawn = ((y, fit_exact(y, cohort.X, covariance)) for y in rng.standard_normal((40, cohort.n)))
    y, result = next(pair for pair in drawn if pair[1].at_bound.tolist() == [True, True, False])
    weights = sets_of(cohort)
    found = scan(result, y, cohort.X, covariance, weights, exact_probes(cohort.n), TIGHT)
    Z = dense.standardised(cohort.counts)
    for a, w in enumerate(weights.T):
        truth = dense_score(result.theta, y, cohort.X, cohort.Ks, dense.kernel(Z, w), ~result.at_bound)
        np.testing.assert_allclose(found.z[a], truth.z, rtol=1e-6)
    assert np.isnan(found.enrichment.estimate).sum() < len(weights.T)  # a set's own step has a share of what it adds


def test_many_fixed_effects_leave_a_scan_its_replicates(cohort):
    X = np.random.default_rng(2).standard_normal((cohort.n, 130))
    covariance = covariance_of(cohort)
    result = fit_exact(cohort.y, X, covariance)
    found = scan(result, cohort.y, X, covariance, sets_of(cohort)[:, :2], 64)
    assert np.isfinite(found.z).all()


def test_enrichment_after_the_step_and_its_error_are_those_of_variances_variant_by_variant(cohort, result):
    weights, Z = sets_of(cohort), dense.standardised(cohort.counts)
    found = scan(result, cohort.y, cohort.X, covariance_of(cohort), weights, exact_probes(cohort.n), TIGHT)
    varies, squares = Z.any(axis=0), (Z**2).mean(axis=0)
    W = cohort.W * varies[:, None]
    for a, truth in enumerate(expected(cohort, result, weights)):
        w = weights[:, a] * varies

        def enriched(theta, own, w=w, beta=truth.beta):
            s = ((W / W.sum(axis=0)) @ (theta - beta * own)[:-1] + own * w / w.sum()) * squares
            return (w @ s / s.sum()) / (w.sum() / varies.sum())

        np.testing.assert_allclose(found.enrichment.estimate[a], enriched(result.theta, truth.theta), rtol=1e-6)
        step = 1e-5 * result.theta[-1]
        slopes = [
            (enriched(result.theta + step * axis, truth.theta) - enriched(result.theta - step * axis, truth.theta))
            / (2 * step)
            for axis in np.eye(3)
        ]
        own = (enriched(result.theta, truth.theta + step) - enriched(result.theta, truth.theta - step)) / (2 * step)
        se = np.sqrt(slopes @ result.covariance @ slopes + (own * truth.se) ** 2)
        np.testing.assert_allclose(found.enrichment.se[a], se, rtol=1e-4)
