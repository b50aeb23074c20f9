"""Enrichment against variances formed variant by variant from dense genotypes, and against simulated effects."""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.reml import fit_exact
from gpu_reml.reml.inference import boundary_weights
from gpu_reml.reml.studies.enrichment import enrichment, wald_test
from gpu_reml.validation.dense import standardised
from gpu_reml.validation.small import covariance_of, make_cohort, simulate_counts


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(200, 300, 3, seed=2, h2=0.6)


@pytest.fixture(scope="module")
def result(cohort):
    return fit_exact(cohort.y, cohort.X, covariance_of(cohort))


def mean_squares_of(genotypes):
    return genotypes.num_called * (genotypes.inv_sd > 0) / genotypes.num_samples


def membership_of(cohort):
    """Two overlapping sets, everything, and a continuous annotation."""
    rng = np.random.default_rng(8)
    m = len(cohort.W)
    return np.column_stack([cohort.W[:, 0], rng.random(m) < 0.3, np.ones(m), rng.gamma(2.0, size=m)])


def found_in(result, cohort, membership):
    names = [f"a{k}" for k in range(membership.shape[1])]
    return enrichment(result, covariance_of(cohort).weights, mean_squares_of(cohort.genotypes), membership, names)


def dense_quantities(theta, cohort, membership):
    """h2, share, enrichment and excess of every annotation, from the variance of each variant of dense genotypes."""
    Z = np.stack([values for values in dense_columns(cohort)])
    squares = (Z**2).mean(axis=1)
    varies = squares > 0
    W = cohort.W * varies[:, None]
    s = (W / W.sum(axis=0)) @ theta[:-1] * squares
    traces = np.array([np.trace(K) / cohort.n for K in cohort.Ks])
    A = membership * varies[:, None]
    v = A.T @ s
    share = v / s.sum()
    enriched = share / (A.sum(axis=0) / varies.sum())
    excess = v / A.sum(axis=0) - s.sum() / varies.sum()
    return v / (traces @ theta[:-1] + theta[-1]), share, enriched, excess


def dense_columns(cohort):
    """Standardised variants (m of (n,)), decoded and standardised apart from the code under test."""
    from gpu_reml.ops import unpack

    counts = np.concatenate([unpack(part, cohort.n) for part in cohort.genotypes.parts], axis=1)
    return standardised(counts).T


def test_estimates_are_sums_of_the_variances_of_variants(cohort, result):
    membership = membership_of(cohort)
    found = found_in(result, cohort, membership)
    expected = dense_quantities(result.theta, cohort, membership)
    for name, values in zip(("h2", "share", "enrichment", "excess"), expected, strict=True):
        np.testing.assert_allclose(getattr(found, name).estimate, values, rtol=1e-9, atol=1e-12)


def test_errors_are_those_by_numerical_differentiation(cohort, result):
    membership = membership_of(cohort)
    found = found_in(result, cohort, membership)
    steps = 1e-6 * result.theta.sum() * np.eye(4)
    moved = [[dense_quantities(result.theta + sign * step, cohort, membership) for sign in (1, -1)] for step in steps]
    for k, name in enumerate(("h2", "share", "enrichment", "excess")):
        J = np.stack([(up[k] - down[k]) / (2 * steps[0, 0]) for up, down in moved], axis=1)
        expected = np.sqrt(np.diag(J @ result.covariance @ J.T))
        np.testing.assert_allclose(getattr(found, name).se, expected, rtol=1e-5, atol=1e-7)


KEPT = ("names", "theta", "covariance", "mean_traces", "residual_traces")


def test_monte_carlo_errors_are_kept_apart_from_sampling_errors(cohort, result):
    noisy = SimpleNamespace(**{name: getattr(result, name) for name in KEPT})
    noisy.mc_covariance = result.covariance / 100
    found = found_in(noisy, cohort, membership_of(cohort))
    for name in ("h2", "share", "enrichment", "excess"):
        values = getattr(found, name)
        np.testing.assert_allclose(values.mc_se, values.se / 10, rtol=1e-9, atol=1e-15)


def test_an_annotation_of_all_variants_has_the_whole_heritability_and_no_test(cohort, result):
    found = found_in(result, cohort, membership_of(cohort))
    np.testing.assert_allclose(found.h2.estimate[2], result.h2.estimate[-1], rtol=1e-10)
    np.testing.assert_allclose(found.h2.se[2], result.h2.se[-1], rtol=1e-8)
    np.testing.assert_allclose([found.share.estimate[2], found.enrichment.estimate[2]], 1, rtol=1e-12)
    np.testing.assert_allclose(found.share.se[2], 0, atol=1e-9)
    assert np.isnan(found.p[2])


def test_disjoint_components_as_annotations_have_their_own_shares():
    cohort = make_cohort(150, 200, 3, seed=4, h2=0.5, overlap=False)
    result = fit_exact(cohort.y, cohort.X, covariance_of(cohort))
    found = found_in(result, cohort, cohort.W)
    np.testing.assert_allclose(found.h2.estimate, result.h2.estimate[:3], rtol=1e-10)
    np.testing.assert_allclose(found.share.estimate, result.shares.estimate, rtol=1e-10)
    np.testing.assert_allclose(found.share.se, result.shares.se, rtol=1e-8)


def test_the_test_of_a_binary_annotation_is_of_variants_in_it_against_those_outside(cohort, result):
    membership = membership_of(cohort)[:, 1:2]
    found = found_in(result, cohort, membership)
    swapped = found_in(result, cohort, 1 - membership)
    np.testing.assert_allclose(found.p, swapped.p, rtol=1e-6)
    z = found.excess.estimate / found.excess.se
    np.testing.assert_allclose(found.p, 2 * stats.norm.sf(np.abs(z)), rtol=1e-10)
    np.testing.assert_allclose(np.sign(found.excess.estimate), -np.sign(swapped.excess.estimate))


def test_simulated_enrichment_is_covered_by_its_errors():
    """Two overlapping components over many traits: estimates average to the truth, errors match their spread."""
    rng = np.random.default_rng(11)
    n, m, traits = 200, 200, 40
    counts = simulate_counts(n, m, rng, missing=0.0, ld=0.3)
    genotypes = standardise([pack(counts)], n)
    inside = rng.random(m) < 0.25
    covariance = make_covariance(CpuProducts(genotypes, np.float64), np.column_stack([np.ones(m), inside]))
    Z, theta = standardised(counts), np.array([0.3, 0.4, 0.3])
    per_variant = theta[0] / m + theta[1] * inside / inside.sum()
    truth = per_variant[inside].sum() / per_variant.sum() / inside.mean()
    estimates, errors = [], []
    for _ in range(traits):
        y = Z @ (rng.standard_normal(m) * np.sqrt(per_variant)) + np.sqrt(theta[2]) * rng.standard_normal(n)
        result = fit_exact(y, np.ones((n, 1)), covariance)
        found = enrichment(result, covariance.weights, mean_squares_of(genotypes), inside[:, None] * 1.0, ["inside"])
        estimates.append(found.enrichment.estimate[0])
        errors.append(found.enrichment.se[0])
    spread = np.std(estimates, ddof=1)
    assert abs(np.mean(estimates) - truth) <= 4 * spread / np.sqrt(traits)
    # a ratio of estimates near their bounds: its error is good to some tenths (the SD of 40 estimates to one)
    assert 0.6 <= np.sqrt(np.mean(np.square(errors))) / spread <= 1.6


def test_frame_and_records_have_a_row_for_each_annotation(cohort, result):
    found = found_in(result, cohort, membership_of(cohort))
    frame = found.to_frame()
    assert frame["annotation"].tolist() == ["a0", "a1", "a2", "a3"]
    assert {"variants", "share_of_variants", "h2", "h2_se", "h2_mc_se", "enrichment_se", "p"} <= set(frame.columns)
    assert found.to_records()[1]["share"] == pytest.approx(frame["share"][1])
    assert found.num_variants[2] == (cohort.genotypes.inv_sd > 0).sum()


def test_weights_or_annotations_that_do_not_fit_are_refused(cohort, result):
    weights, squares = covariance_of(cohort).weights, mean_squares_of(cohort.genotypes)
    membership = np.ones((300, 1))
    with pytest.raises(ValueError, match="expected a column for each of 3 components, found 2"):
        enrichment(result, weights[:, :2], squares, membership, ["a"])
    with pytest.raises(ValueError, match="trace for component component_001 is not that of the fit"):
        enrichment(result, weights * np.array([1, 2, 1]), squares, membership, ["a"])
    with pytest.raises(ValueError, match="annotation b has no variant that varies"):
        enrichment(result, weights, squares, np.column_stack([membership, 0 * membership]), ["a", "b"])
    with pytest.raises(ValueError, match=r"membership \(300, 2\)"):
        enrichment(result, weights, squares, membership, ["a", "b"])


def test_wald_test_of_one_free_component_is_its_squared_z(result):
    assert not result.at_bound.any()
    found = wald_test(result, [result.names[1]])
    z2 = (result.theta[1] / result.se[1]) ** 2
    np.testing.assert_allclose(found.statistic, z2, rtol=1e-9)
    np.testing.assert_allclose([found.p, found.p_mixture], [stats.chi2.sf(z2, 1), stats.chi2.sf(z2, 1) / 2], rtol=1e-9)


def test_wald_test_of_several_is_the_quadratic_form_with_their_covariance(result):
    C = result.covariance[:2, :2]
    found = wald_test(result, result.names[:2])
    np.testing.assert_allclose(found.statistic, result.theta[:2] @ np.linalg.solve(C, result.theta[:2]), rtol=1e-9)
    assert found.df == 2
    np.testing.assert_allclose(found.p, stats.chi2.sf(found.statistic, 2), rtol=1e-9)
    assert found.p_mixture < found.p
    with pytest.raises(ValueError, match="found nonsense"):
        wald_test(result, ["nonsense"])


def bounded_result(theta, covariance):
    names = tuple("abc"[: len(theta) - 1])
    information = np.linalg.inv(covariance)
    return SimpleNamespace(names=names, theta=theta, information=information, at_bound=theta == 0, constrained=True)


def test_a_component_at_its_bound_has_no_degree_of_freedom_and_as_a_nuisance_is_fixed():
    A = np.array([[5.0, 1, 0.5, 1], [1, 4, 0.3, 1], [0.5, 0.3, 3, 1], [1, 1, 1, 6]])
    result = bounded_result(np.array([0.0, 1.0, 2.0, 3.0]), np.linalg.inv(A))
    found = wald_test(result, ["a", "b"])
    C = np.linalg.inv(A)[:2, :2]
    assert found.df == 1
    np.testing.assert_allclose(found.statistic, np.linalg.inv(C)[1, 1], rtol=1e-10)
    nuisance = wald_test(result, ["b"])
    np.testing.assert_allclose(nuisance.statistic, 1 / np.linalg.inv(A[1:, 1:])[0, 0], rtol=1e-10)
    assert wald_test(result, ["a"]).p == 1.0


def test_wald_test_of_null_components_rejects_no_more_often_than_it_says(monkeypatch):
    """Estimates of two null components as their asymptotic law has them: a normal vector projected on the orthant."""
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    information = np.array([[4.0, 1.5, 0.0], [1.5, 3.0, 0.0], [0.0, 0.0, 1.0]])
    upper = np.linalg.cholesky(information[:2, :2]).T
    weights = boundary_weights(information)  # the same in every test
    module = import_module("gpu_reml.reml.studies.enrichment")  # the package has the function under that name
    monkeypatch.setattr(module, "boundary_weights", lambda _: weights)
    p, mixture = [], []
    for _ in range(2000):
        theta = nnls(upper, rng.standard_normal(2))[0]
        found = wald_test(bounded_result(np.append(theta, 1.0), np.linalg.inv(information)), ["a", "b"])
        p.append(found.p)
        mixture.append(found.p_mixture)
    tolerance = 4 * np.sqrt(0.05 * 0.95 / 2000)
    assert abs(np.mean(np.array(mixture) <= 0.05) - 0.05) <= tolerance
    assert np.mean(np.array(p) <= 0.05) <= 0.05
