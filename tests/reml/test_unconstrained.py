"""Fits in which variances may be negative: no bias at zero, the same in every engine, and V stays positive definite."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import chdtrc, chdtri

from gpu_reml.reml import (
    ConvergenceError,
    FitSettings,
    SolverSettings,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
    wald_test,
    with_residuals,
)
from gpu_reml.validation.dense import dense_loglik, dense_score
from gpu_reml.validation.small import covariance_of, make_cohort

FREE = FitSettings(constrain=False)
TIGHT = FitSettings(
    engine="reduced",
    tol=1e-12,
    constrain=False,
    solver=SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13),
)


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(150, 400, 2, seed=2)


def noise(cohort, seed):
    return 3.0 * np.random.default_rng(seed).standard_normal(cohort.n)


def test_estimates_average_to_zero_where_there_is_no_variance_and_bounds_lift_them():
    cohort = make_cohort(120, 400, 1, seed=3)
    h2 = {
        constrain: np.array(
            [
                fit_exact(noise(cohort, seed), cohort.X, cohort.Ks, FitSettings(constrain=constrain)).h2.estimate[-1]
                for seed in range(100)
            ]
        )
        for constrain in (False, True)
    }
    free, bounded = h2[False], h2[True]
    error = free.std(ddof=1) / 10
    assert abs(free.mean()) <= 2 * error
    assert bounded.mean() > 2 * error and (bounded >= 0).all()
    np.testing.assert_allclose(free[free > 0], bounded[free > 0], atol=1e-6)
    assert 30 <= np.sum(free < 0) <= 70 and (bounded[free < 0] == 0).all()


@pytest.mark.parametrize(("num_components", "seed"), [(1, 1), (2, 1), (3, 4)])
def test_every_engine_finds_the_maximum_of_the_dense_likelihood(cohorts, num_components, seed):
    cohort = cohorts[num_components]
    y = noise(cohort, seed)
    exact = fit_exact(y, cohort.X, covariance_of(cohort), FREE)
    assert exact.theta.min() < 0 and not exact.at_bound.any() and not exact.constrained
    assert np.abs(dense_score(exact.theta, y, cohort.X, cohort.Ks) * exact.se).max() < 1e-5
    assert exact.loglik == pytest.approx(dense_loglik(exact.theta, y, cohort.X, cohort.Ks), abs=1e-8)
    for each in [TIGHT, FREE] if num_components == 1 else [TIGHT]:
        found = fit(y, cohort.X, covariance_of(cohort), exact_probes(cohort.n), each)
        np.testing.assert_allclose(found.theta, exact.theta, atol=1e-5 * y.var())
        assert found.loglik == pytest.approx(exact.loglik, abs=1e-6) and not found.at_bound.any()


def test_random_probes_err_by_what_is_stated(cohort):
    y = noise(cohort, 1)
    expected = fit_exact(y, cohort.X, covariance_of(cohort), FREE)
    assert expected.theta.min() < 0
    found = fit(y, cohort.X, covariance_of(cohort, np.float32), draw_probes(cohort.n, 64, 0, 3), FREE)
    assert found.method == "reduced" and found.converged
    assert (np.abs(found.theta - expected.theta) <= 4 * found.mc_se + 0.01 * found.se).all()


def test_one_component_has_an_interval_that_reaches_below_zero():
    cohort = make_cohort(200, 400, 1, seed=4)
    y = noise(cohort, 3)
    dense = fit_exact(y, cohort.X, covariance_of(cohort), FREE)
    lanczos = fit(y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, 64, 0, 1), FREE)
    for found in (dense, lanczos):
        assert found.profile.lower < 0 < found.profile.upper
        ends = np.interp([found.profile.lower, found.profile.upper], found.profile.h2, found.profile.loglik)
        np.testing.assert_allclose(found.profile.loglik.max() - ends, chdtri(1, 0.05) / 2, atol=1e-3)
    assert lanczos.profile.lower == pytest.approx(dense.profile.lower, abs=0.05)


def test_positive_estimates_are_those_of_the_bounded_fit():
    cohort = make_cohort(200, 400, 2, seed=6, h2=0.8)
    bounded = fit_exact(cohort.y, cohort.X, covariance_of(cohort))
    assert (bounded.theta > 0).all()
    free = fit_exact(cohort.y, cohort.X, covariance_of(cohort), FREE)
    np.testing.assert_allclose(free.theta, bounded.theta, rtol=1e-6)
    assert free.loglik == pytest.approx(bounded.loglik, abs=1e-9)


def test_tests_are_of_chi_square_without_bounds(cohort):
    y = noise(cohort, 1)
    found = fit_exact(y, cohort.X, covariance_of(cohort), replace(FREE, lrt=True))
    assert found.lrt.weights.tolist() == [0, 0, 1] and "chi-square)" in found.summary()
    assert found.lrt.p == pytest.approx(chdtrc(2, found.lrt.statistic))
    for test in found.ratio_tests:
        assert test.statistic > 0 and test.p == pytest.approx(chdtrc(1, test.statistic)) and test.p_of_zero == 0
    wald = wald_test(found, found.names)
    assert wald.p_mixture == pytest.approx(wald.p)


def test_residuals_of_several_kinds_keep_their_bounds(cohort):
    groups = (np.arange(cohort.n)[:, None] % 2 == [0, 1]).astype(float)
    covariance = with_residuals(covariance_of(cohort), groups, ["even", "odd"])
    y = noise(cohort, 7) * np.where(groups[:, 0] > 0, 1.0, 0.5)
    exact = fit_exact(y, cohort.X, covariance, FREE)
    found = fit(y, cohort.X, covariance, exact_probes(cohort.n), TIGHT)
    assert exact.theta[:2].min() < 0 < exact.theta[2:].min()
    np.testing.assert_allclose(found.theta, exact.theta, atol=1e-4 * y.var())


def test_a_likelihood_that_rises_to_a_singular_covariance_is_an_error_that_says_so(cohorts):
    """y has hardly anything along one direction, whose variance is best taken for nothing."""
    cohort = cohorts[3]
    with pytest.raises(ConvergenceError, match="no longer positive definite, as it may without bounds"):
        fit_exact(noise(cohort, 1), cohort.X, covariance_of(cohort), FREE)
