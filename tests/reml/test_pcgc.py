"""PCGC against the dense formula over all pairs, and against simulated cohorts of chosen cases."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import SingularModelError, draw_probes, exact_probes, fit_exact
from gpu_reml.reml.studies.liability import liability_factor
from gpu_reml.reml.studies.pcgc import liability_model, pcgc
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import covariance_of, make_cohort

K = 0.05


@pytest.fixture(scope="module")
def study():
    """A cohort of two components, half of whom are cases, with covariates."""
    cohort = make_cohort(120, 300, 2, seed=8, scale=1.0)
    left = cohort.y - cohort.X @ [150.0, 0, 0]
    return cohort, (left > np.median(left)).astype(float)


def dense_pcgc(cases, X, Ks, prevalence):
    """theta by least squares over pairs i < j, from a probit model fitted by a general optimiser."""
    P = cases.mean()
    r = prevalence * (1 - P) / (P * (1 - prevalence))

    def chance(b):
        k = stats.norm.cdf(X @ b)
        return k / (k + r * (1 - k)), k

    def objective(b):
        p = chance(b)[0]
        return -np.sum(np.log(np.where(cases == 1, p, 1 - p)))

    b = optimize.minimize(objective, np.array([-1.5, *np.zeros(X.shape[1] - 1)]), tol=1e-14).x
    p, k = chance(b)
    # Golan's form of the slope: phi / sqrt(p (1 - p)) [1 - p (P - K) / (P (1 - K))] / (k + (1 - k) r)
    slope = stats.norm.pdf(X @ b) * (1 - p * (P - prevalence) / (P * (1 - prevalence))) / (k + (1 - k) * r)
    q = slope / np.sqrt(p * (1 - p))
    z = (cases - p) / np.sqrt(p * (1 - p))
    i, j = np.triu_indices(len(z), 1)
    A = np.column_stack([(q[i] * q[j] * matrix[i, j]) for matrix in Ks])
    return np.linalg.lstsq(A, z[i] * z[j], rcond=None)[0], b, q, z


def test_with_exact_probes_it_is_least_squares_over_all_pairs(study):
    cohort, y = study
    found = pcgc(y + 1, cohort.X, covariance_of(cohort), K, exact_probes(cohort.n))  # coded 1 and 2
    theta, b, _, _ = dense_pcgc(y, cohort.X, cohort.Ks, K)
    np.testing.assert_allclose(found.fixed_effects.estimate, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.theta[:2], theta, rtol=1e-3)
    traces = np.array([np.trace(matrix) for matrix in cohort.Ks]) / cohort.n
    assert found.theta[2] == pytest.approx(1 - traces @ found.theta[:2])
    assert found.vp.estimate[0] == pytest.approx(1) and found.vp.se[0] == pytest.approx(0, abs=1e-7)
    assert (found.mc_se == 0).all()


def test_its_sampling_errors_are_those_of_a_corrected_jackknife(study):
    """Every pair's part of q - T theta written out: 4 sum_i r_i r_i' less 2 T, between the inverses of T."""
    cohort, y = study
    found = pcgc(y, cohort.X, cohort.Ks, K, exact_probes(cohort.n))
    model = liability_model(y == 1, cohort.X, K)
    M = np.array([np.outer(model.scale, model.scale) * (k - np.diag(np.diag(k))) for k in cohort.Ks])
    T = np.einsum("gij,hij->gh", M, M)
    pairs = M * np.outer(model.z, model.z) - M * np.tensordot(found.theta[:2], M, axes=1)
    assert np.abs(pairs.sum(axis=(1, 2))).max() < 1e-6 * np.abs(pairs).sum()
    r = pairs.sum(axis=2)
    expected = np.linalg.inv(T) @ (4 * r @ r.T - 2 * T) @ np.linalg.inv(T)
    np.testing.assert_allclose(found.covariance[:2, :2], expected, rtol=1e-8)
    np.testing.assert_allclose(found.T, T, rtol=1e-8)


def test_without_covariates_the_slope_is_that_of_lee(study):
    cohort, y = study
    model = liability_model(y == 1, np.ones((cohort.n, 1)), K)
    np.testing.assert_allclose(model.scale**-2, liability_factor(K, y.mean()), rtol=1e-10)
    np.testing.assert_allclose(model.z, (y - y.mean()) / y.std(), rtol=1e-10)
    assert model.fixed_effects.estimate[0] == pytest.approx(special.ndtri(K)) and model.fixed_variance < 1e-20


def test_monte_carlo_errors_are_the_spread_over_seeds(study):
    cohort, y = study
    covariance = covariance_of(cohort, np.float32)
    exact = pcgc(y, cohort.X, covariance, K, exact_probes(cohort.n))
    fits = [pcgc(y, cohort.X, covariance, K, draw_probes(cohort.n, 40, 0, seed)) for seed in range(40)]
    thetas = np.array([f.theta for f in fits])
    ratio = np.sqrt(np.mean([f.mc_se**2 for f in fits], axis=0)) / thetas.std(axis=0, ddof=1)
    assert ((ratio > 1 / 1.5) & (ratio < 1.5)).all(), ratio
    assert (np.abs(thetas.mean(axis=0) - exact.theta) <= 4 * thetas.std(axis=0) / np.sqrt(40)).all()
    errors = np.array([f.se for f in fits]) / exact.se
    assert (np.abs(errors.mean(axis=0) - 1) < 0.03).all()  # two halves of the probes keep their noise out


def chosen_cases(rng, n, m, prevalence, h2, effect):
    """Half cases of a disease of low prevalence, drawn from a population; liability 1 given a covariate's effect."""
    freq = rng.uniform(0.1, 0.5, m)
    b = rng.standard_normal(m)
    b *= np.sqrt(h2 / (b @ b)) / np.sqrt(2 * freq * (1 - freq))
    threshold = -special.ndtri(prevalence) * np.sqrt(1 + effect**2)
    none, not_two = ((1 - freq) ** 2).astype(np.float32), (1 - freq**2).astype(np.float32)
    left, kept = {1: n // 2, 0: n // 2}, []
    while left[0] or left[1]:
        drawn = rng.random((2000, m), dtype=np.float32)
        counts = (drawn > none).astype(np.int8) + (drawn > not_two)
        x = rng.standard_normal(2000)
        noise = np.sqrt(1 - h2) * rng.standard_normal(2000)
        case = (counts @ b.astype(np.float32) - 2 * freq @ b + effect * x + noise > threshold).astype(int)
        for value in (0, 1):
            rows = np.flatnonzero(case == value)[: left[value]]
            left[value] -= len(rows)
            kept.append((counts[rows], x[rows], case[rows]))
    counts, x, y = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return y.astype(float), x, counts


@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_it_finds_the_heritability_of_liability_where_cases_were_chosen_and_reml_does_not(effect):
    n, prevalence, fits, reml = 300, 0.01, [], []
    for seed in range(10):
        y, x, counts = chosen_cases(np.random.default_rng(seed), n, 150, prevalence, 0.5, effect)
        covariance = make_covariance(CpuProducts(standardise([pack(counts)], n), np.float32), None, ["g"])
        X = np.column_stack([np.ones(n), x]) if effect else np.ones((n, 1))
        fits.append(pcgc(y, X, covariance, prevalence, draw_probes(n, 48, 0, seed)))
        if seed < 2:
            reml.append(fit_exact(y, X, covariance).h2.estimate[-1] * liability_factor(prevalence, 0.5))
    h2 = np.array([f.h2.estimate[-1] for f in fits])
    assert abs(h2.mean() - 0.5) <= 2 * h2.std(ddof=1) / np.sqrt(len(h2)), h2
    claimed = np.sqrt(np.mean([f.h2.se[-1] ** 2 + f.h2.mc_se[-1] ** 2 for f in fits]))
    assert 0.6 < claimed / h2.std(ddof=1) < 1.7  # ten cohorts know a spread to a quarter
    assert np.mean(reml) < 0.4
    if effect:
        slopes = np.array([f.fixed_effects.estimate[1] for f in fits])
        assert abs(slopes.mean() - effect) <= 3 * slopes.std(ddof=1) / np.sqrt(len(slopes))
        assert np.mean([f.fixed_variance for f in fits]) == pytest.approx(effect**2, rel=0.25)
        assert fits[0].h2_marginal[0] == pytest.approx(h2[0] / (1 + fits[0].fixed_variance))


def test_on_a_device_it_is_the_answer_of_the_cpu(study):
    cohort, y = study
    probes = draw_probes(cohort.n, 24, 0, 3)
    expected = pcgc(y, cohort.X, covariance_of(cohort, np.float32), K, probes)
    products = make_device_products(cohort.genotypes, [HostDevice(label="device 0")], None)
    found = pcgc(y, cohort.X, make_covariance(products, cohort.W), K, probes)
    np.testing.assert_allclose(found.theta, expected.theta, atol=1e-4 * expected.se.min())
    np.testing.assert_allclose(found.se, expected.se, rtol=1e-3)


def test_impossible_arguments_are_refused(study):
    cohort, y = study
    covariance, probes = covariance_of(cohort), draw_probes(cohort.n, 20, 0)
    with pytest.raises(ValueError, match="X: has no intercept"):
        pcgc(y, cohort.X[:, 1:2], covariance, K, probes)
    with pytest.raises(ValueError, match="y: expected two values, the larger for cases, found 120"):
        pcgc(cohort.y, cohort.X, covariance, K, probes)
    with pytest.raises(ValueError, match=r"prevalence: expected a share between 0 and 1, found 1\.5"):
        pcgc(y, cohort.X, covariance, 1.5, probes)
    with pytest.raises(ValueError, match="tell some cases from controls without error"):
        pcgc(y, np.column_stack([np.ones(cohort.n), y + 0.01 * cohort.X[:, 1]]), covariance, K, probes)
    with pytest.raises(SingularModelError, match=r"component component_00[01] cannot be told apart"):
        pcgc(y, cohort.X, [cohort.Ks[0]] * 2, K, probes)
    with pytest.raises(ValueError, match=r"expected \(119, 119\)|expected .*samples"):
        pcgc(y[1:], cohort.X[1:], covariance, K, probes)
