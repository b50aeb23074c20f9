"""Learned weights against dense likelihoods over the exponents, one fit for each."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize, special

from gpu_reml.ops import CpuProducts, alpha_weights, make_covariance, standardise
from gpu_reml.ops.packing import pack
from gpu_reml.reml import (
    FitSettings,
    LogLinear,
    ProbeSettings,
    SingularModelError,
    SolverSettings,
    alpha_law,
    draw_probes,
    exact_probes,
    fit_exact,
    fit_weights,
)

N, M = 240, 400
HALF_CHI = special.chdtri(1, 0.05) / 2


def make_sample(n, m):
    """A trait of the alpha model with alpha = -0.25 on variants of every frequency."""
    rng = np.random.default_rng(1)
    counts = rng.binomial(2, rng.beta(0.5, 1.5, m) * 0.48 + 0.01, (n, m)).astype(np.int8)
    products = CpuProducts(standardise([pack(counts)], n), np.float64)
    weights = alpha_weights(products.genotypes, -0.25)
    effects = np.sqrt(0.7 * weights / weights.sum()) * rng.standard_normal(m)
    y = products.z(effects[:, None])[:, 0] + np.sqrt(0.3) * rng.standard_normal(n)
    return SimpleNamespace(products=products, y=3 * y, X=np.ones((n, 1)), law=alpha_law(products.genotypes))


@pytest.fixture(scope="module")
def cohort():
    return make_sample(N, M)


def loglik_at(cohort, weights):
    return fit_exact(cohort.y, cohort.X, make_covariance(cohort.products, weights)).loglik


def test_alpha_its_ratio_and_its_interval_are_those_of_dense_likelihoods(cohort):
    found = fit_weights(cohort.y, cohort.X, make_covariance(cohort.products), cohort.law, exact_probes(N))

    def fall(tau):
        return -loglik_at(cohort, np.exp(tau * cohort.law.columns))

    best = optimize.minimize_scalar(fall, bounds=(-1, 3), method="bounded", options={"xatol": 1e-5})
    assert abs(found.tau[0] - best.x) < 0.005 * found.se[0]
    np.testing.assert_allclose(found.lrt, 2 * (fall(0.0) - best.fun), atol=1e-4)
    np.testing.assert_allclose([fall(end) - best.fun for end in (found.lower[0], found.upper[0])], HALF_CHI, rtol=0.02)
    curvature = (fall(best.x + 0.05) + fall(best.x - 0.05) - 2 * best.fun) / 0.05**2
    assert 0.7 < found.se[0] * np.sqrt(curvature) < 1.4  # average and observed information differ
    assert found.mc_se[0] == 0 and not found.flat[0] and found.path[0] == (0.0,)
    np.testing.assert_allclose(found.fit.loglik, -best.fun, atol=1e-5)


def test_alpha_with_random_probes_is_within_its_stated_error():
    sample = make_sample(450, 700)
    covariance = make_covariance(sample.products)

    def fall(tau):
        return -loglik_at(sample, np.exp(tau * sample.law.columns))

    best = optimize.minimize_scalar(fall, bounds=(0, 1.5), method="bounded", options={"xatol": 1e-3})
    settings = FitSettings(solver=SolverSettings(most_basis=400), probes=ProbeSettings(first=24, mc_target=10.0))
    misses = []
    for seed in range(2):
        probes = draw_probes(450, 24, seed=seed)
        found = fit_weights(sample.y, sample.X, covariance, sample.law, probes, settings, interval=False)
        assert found.fit.num_probes == 24 and found.mc_se[0] > 0
        assert abs(found.lrt - 2 * (fall(0.0) - best.fun)) < 4 * found.lrt_mc_se
        misses.append((found.tau[0] - best.x) / found.mc_se[0])
    assert np.abs(misses).max() < 3.5 and np.sqrt(np.mean(np.square(misses))) < 2


def test_exponents_of_two_components_and_of_an_annotation_are_at_the_top_of_the_dense_likelihood(cohort):
    rng = np.random.default_rng(4)
    halves = np.zeros((M, 2))
    halves[np.arange(M), np.arange(M) % 2] = 1
    columns = np.column_stack([*(cohort.law.columns,) * 2, rng.standard_normal(M)])
    law = LogLinear(columns, ("alpha_a", "alpha_b", "score"), ("a", "b", None))
    covariance = make_covariance(cohort.products, halves, ["a", "b"])
    found = fit_weights(cohort.y, cohort.X, covariance, law, exact_probes(N), interval=False)

    def height(tau):
        exponents = np.column_stack([columns[:, 0] * tau[0], columns[:, 1] * tau[1]]) + columns[:, 2:] * tau[2]
        made = make_covariance(cohort.products, halves * np.exp(exponents))
        return fit_exact(cohort.y, cohort.X, made).loglik

    top = height(found.tau)
    np.testing.assert_allclose(found.fit.loglik, top, atol=1e-6)
    for k in range(3):
        step = 0.1 * found.se[k] * np.eye(3)[k]
        rises = height(found.tau + step) - top, height(found.tau - step) - top
        assert max(rises) < 0
        assert abs(rises[0] - rises[1]) < 0.2 * abs(sum(rises))  # the top lies between them


def test_several_exponents_have_profile_intervals_over_the_others():
    sample = make_sample(120, 160)
    halves = np.zeros((160, 2))
    halves[np.arange(160), np.arange(160) % 2] = 1
    covariance = make_covariance(sample.products, halves, ["a", "b"])
    law = alpha_law(sample.products.genotypes, ["a", "b"])
    found = fit_weights(sample.y, sample.X, covariance, law, exact_probes(120))
    assert law.names == ("alpha_a", "alpha_b")
    assert (found.lower < found.tau).all() and (found.tau < found.upper).all()
    end = found.upper[0] if np.isfinite(found.upper[0]) else found.lower[0]

    def fall(other):
        made = make_covariance(sample.products, halves * np.exp(law.columns * np.array([end, other])))
        return found.fit.loglik - fit_exact(sample.y, sample.X, made).loglik

    least = optimize.minimize_scalar(fall, bounds=(-2, 5), method="bounded", options={"xatol": 1e-2})
    np.testing.assert_allclose(least.fun, HALF_CHI, rtol=0.05)


def test_a_trait_without_heritability_tells_no_alpha(cohort):
    covariance, rng = make_covariance(cohort.products), np.random.default_rng(6)
    drawn = (rng.standard_normal(N) for _ in range(20))
    y = next(y for y in drawn if fit_exact(y, cohort.X, covariance).at_bound[0])
    found = fit_weights(y, cohort.X, covariance, cohort.law, exact_probes(N))
    assert found.fit.theta[0] == 0 and found.path == ((0.0,),) and found.lrt == 0
    assert found.flat[0] and np.isinf([found.lower[0], found.upper[0]]).all()


def test_a_law_for_a_component_that_there_is_not_is_refused(cohort):
    law = LogLinear(cohort.law.columns, ("alpha",), ("rare",))
    with pytest.raises(ValueError, match="weights: no component rare; there are component_000"):
        fit_weights(cohort.y, cohort.X, make_covariance(cohort.products), law)


def test_exponents_that_cannot_be_told_apart_are_named(cohort):
    law = LogLinear(np.repeat(cohort.law.columns, 2, axis=1) * [1, -2], ("one", "other"))
    with pytest.raises(SingularModelError, match="weights: one, other cannot be told apart"):
        fit_weights(cohort.y, cohort.X, make_covariance(cohort.products), law, exact_probes(N), interval=False)


def test_a_covariance_without_genotypes_is_refused(cohort):
    with pytest.raises(ValueError, match="covariance: expected one of make_covariance, found ndarray"):
        fit_weights(cohort.y, cohort.X, np.eye(N), cohort.law)
