"""Likelihood ratios of some components beside others: dense refits, the reduced model, and the law of the statistic."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, special

from gpu_reml.reml import (
    FitSettings,
    ProbeSettings,
    SolverSettings,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
    with_residuals,
)
from gpu_reml.reml.inference import boundary_weights
from gpu_reml.reml.likelihood_ratio import ratio_law
from gpu_reml.reml.step import ai_step
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.small import covariance_of, make_cohort

TESTS = FitSettings(lrt=True)
TIGHT = FitSettings(
    engine="reduced",
    tol=1e-12,
    lrt=True,
    solver=SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13),
)


def left_out(cohort, which):
    """2 (ell - ell_0) by two fits of the independent dense reference."""
    kept = [K for g, K in enumerate(cohort.Ks) if g not in which]
    return 2 * (exact_reml(cohort.y, cohort.X, cohort.Ks).loglik - exact_reml(cohort.y, cohort.X, kept).loglik)


@pytest.mark.parametrize("num_components", [2, 3, 5])
def test_ratios_are_those_of_two_dense_fits(cohorts, num_components):
    cohort = cohorts[num_components]
    expected = [left_out(cohort, [g]) for g in range(num_components)]
    dense = fit_exact(cohort.y, cohort.X, covariance_of(cohort), TESTS).ratio_tests
    reduced = fit(cohort.y, cohort.X, covariance_of(cohort), exact_probes(cohort.n), TIGHT).ratio_tests
    for found in (dense, reduced):
        np.testing.assert_allclose([test.statistic for test in found], expected, atol=1e-6)
        assert [test.mc_se for test in found] == [0.0] * num_components
    np.testing.assert_allclose([test.p for test in reduced], [test.p for test in dense], rtol=1e-4)


def test_sets_of_components_are_left_out_together(cohorts):
    cohort = cohorts[4]
    covariance = covariance_of(cohort)
    names = covariance.names
    asked = replace(TESTS, lrt=((names[2], names[0]), (names[1],)))
    both, one = fit_exact(cohort.y, cohort.X, covariance, asked).ratio_tests
    assert both.components == (names[2], names[0]) and both.df == 2 and one.df == 1
    assert both.statistic == pytest.approx(left_out(cohort, [0, 2]), abs=1e-6)
    assert one.statistic == pytest.approx(left_out(cohort, [1]), abs=1e-6)


def test_random_probes_leave_ratios_the_error_that_is_stated_and_not_that_of_two_likelihoods():
    cohort = make_cohort(800, 2500, 3, 21, 0.6)
    covariance = covariance_of(cohort, np.float32)
    expected = fit_exact(cohort.y, cohort.X, covariance, TESTS).ratio_tests
    errors = []
    for seed in range(2):
        found = fit(cohort.y, cohort.X, covariance, draw_probes(cohort.n, 48, 0, seed), TESTS)
        assert found.method == "reduced"
        for test, dense in zip(found.ratio_tests, expected, strict=True):
            errors.append((test.statistic - dense.statistic) / test.mc_se)
            assert abs(errors[-1]) <= 4
            assert test.mc_se < 0.8 * found.lrt.mc_se
            assert test.p == pytest.approx(dense.p, rel=1.0)
    assert 0.3 < np.sqrt(np.mean(np.square(errors))) < 1.6


def test_a_component_at_zero_has_no_ratio_and_p_is_one():
    cohort = make_cohort(200, 400, 2, seed=41, overlap=False)
    rng = np.random.default_rng(0)
    for _ in range(8):
        y = rng.standard_normal(cohort.n)
        found = fit_exact(y, cohort.X, covariance_of(cohort), TESTS)
        for test, theta in zip(found.ratio_tests, found.theta[:2], strict=True):
            assert (test.statistic == 0 and test.p == 1) == (theta == 0)


def test_one_component_has_the_test_of_all():
    cohort = make_cohort(200, 400, 1, seed=3)
    covariance, probes = covariance_of(cohort), draw_probes(cohort.n, 32, 0, 1)
    settings = replace(TESTS, probes=ProbeSettings(mc_target=10))
    for found in (
        fit_exact(cohort.y, cohort.X, covariance, TESTS),
        fit(cohort.y, cohort.X, covariance, probes, settings),
    ):
        (test,) = found.ratio_tests
        assert test.statistic == pytest.approx(found.lrt.statistic, abs=1e-8)
        assert (test.df, test.p_of_zero) == (1, 0.5)
        assert test.p == pytest.approx(found.lrt.p, rel=1e-6) and test.mc_se == found.lrt.mc_se


def test_residuals_of_several_kinds_stay_in_the_smaller_model(cohorts):
    cohort = cohorts[2]
    groups = (np.arange(cohort.n)[:, None] % 2 == [0, 1]).astype(float)
    both = with_residuals(covariance_of(cohort), groups, ["even", "odd"])
    found = fit_exact(cohort.y, cohort.X, both, TESTS).ratio_tests
    whole = fit_exact(cohort.y, cohort.X, both).loglik
    for g, test in enumerate(found):
        smaller = with_residuals([cohort.Ks[1 - g]], groups, ["even", "odd"])
        expected = 2 * (whole - fit_exact(cohort.y, cohort.X, smaller).loglik)
        assert test.statistic == pytest.approx(expected, abs=1e-5)


def information_of(k, seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((2 * k, k)) + 0.7
    whole = np.eye(k + 1)
    whole[:k, :k] = A.T @ A
    return whole


def simulated(information, tested, beside, num=4000):
    """Statistics of normal vectors: the gain of the tested components' cone over that of those beside them."""
    order = [*beside, *tested]
    upper = np.linalg.cholesky(information[np.ix_(order, order)]).T
    draws = np.random.default_rng(1).standard_normal((num, len(order)))
    smaller = upper[:, : len(beside)]
    left = [optimize.nnls(smaller, z)[1] if beside else np.linalg.norm(z) for z in draws]
    return np.array([a**2 - optimize.nnls(upper, z)[1] ** 2 for a, z in zip(left, draws, strict=True)])


@pytest.mark.parametrize(("tested", "beside"), [([0], [1]), ([0], [1, 2, 3]), ([0, 2], [1, 3]), ([0, 1, 2], [])])
def test_the_law_is_that_of_normal_vectors_projected_on_cones(tested, beside):
    information = information_of(4, 3)
    is_tested, at_bound = (np.isin(np.arange(5), which) for which in (tested, beside))
    law = ratio_law(information, is_tested, at_bound)
    free = [i for i in range(5) if i not in (*tested, *beside)]
    kept = [*tested, *beside]
    cross = information[np.ix_(kept, free)]
    profiled = np.eye(5)
    profiled[np.ix_(kept, kept)] = information[np.ix_(kept, kept)] - cross @ np.linalg.solve(
        information[np.ix_(free, free)], cross.T
    )
    values = simulated(profiled, tested, beside)
    assert law.p_of_zero == pytest.approx(np.mean(values < 1e-9), abs=0.02)
    for quantile in (0.3, 0.1, 0.03):
        t = np.quantile(values, 1 - quantile)
        if t > 1e-6:
            assert law.p(t) == pytest.approx(quantile, abs=4 * np.sqrt(quantile / 4000) + 0.005)
    assert law.p(0.0) == 1.0


def test_with_no_other_at_its_bound_the_law_is_half_and_half_and_the_mixture():
    information = information_of(3, 5)
    one, none = np.array([True, False, False, False]), np.zeros(4, bool)
    law = ratio_law(information, one, none)
    assert law.p_of_zero == 0.5
    assert law.p(2.7) == pytest.approx(0.5 * special.chdtrc(1, 2.7), rel=1e-12)
    two = np.array([True, True, False, False])
    weights = boundary_weights(np.delete(np.delete(information, 3, 0), 3, 1), num_residuals=1)
    assert ratio_law(information, two, none).p_of_zero == pytest.approx(weights[0], abs=1e-12)


def test_unknown_names_of_components_are_errors(cohorts):
    cohort = cohorts[2]
    for asked, problem in (
        ((("x",),), "no component 'x'"),
        (((),), "different components"),
        ((("a", "a"),), "no comp"),
    ):
        with pytest.raises(ValueError, match=f"lrt: .*{problem}"):
            fit_exact(cohort.y, cohort.X, covariance_of(cohort), replace(TESTS, lrt=asked))
        with pytest.raises(ValueError, match=f"lrt: .*{problem}"):
            fit(cohort.y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, 8), replace(TESTS, lrt=asked))


def test_steps_along_directions_are_the_best_within_the_bounds():
    rng = np.random.default_rng(2)
    for trial in range(60):
        p = int(rng.integers(2, 7))
        A = rng.standard_normal((2 * p, p))
        ai, score = A.T @ A, 3 * rng.standard_normal(p)
        lower = np.where(rng.random(p) < 0.3, -np.inf, 0.0)
        theta = np.where(np.isinf(lower), rng.standard_normal(p), np.maximum(0, rng.standard_normal(p)))
        M = np.eye(p) if trial % 3 == 0 else rng.standard_normal((p, int(rng.integers(1, p + 1))))
        step = ai_step(theta, score, ai, lower, M)
        assert (step.theta >= lower).all()
        bounded = np.isfinite(lower)
        constraint = {
            "type": "ineq",
            "fun": lambda d, M=M, theta=theta, b=bounded: (theta + M @ d)[b],
            "jac": lambda d, M=M, b=bounded: M[b],
        }
        best = optimize.minimize(
            lambda d, M=M, ai=ai, score=score: (M @ d) @ ai @ (M @ d) / 2 - score @ M @ d,
            np.zeros(M.shape[1]),
            jac=lambda d, M=M, ai=ai, score=score: M.T @ (ai @ (M @ d) - score),
            method="SLSQP",
            constraints=[constraint] if bounded.any() else [],
            options={"ftol": 1e-14, "maxiter": 300},
        )
        value = step.direction @ ai @ step.direction / 2 - score @ step.direction
        assert value <= best.fun + 1e-8


def test_a_basis_without_room_for_two_maxima_leaves_ratios_and_profiles_unknown_and_not_wrong():
    cohort = make_cohort(300, 900, 2, seed=4, h2=0.6)
    arguments = cohort.y, cohort.X, covariance_of(cohort, np.float32), draw_probes(cohort.n, 16, 0, 1)
    probes, asked = ProbeSettings(first=16, mc_target=10), replace(TESTS, profile=True)
    wide = fit(*arguments, replace(asked, probes=probes))
    narrow = fit(*arguments, replace(asked, probes=probes, solver=SolverSettings(most_basis=1)))
    assert wide.converged and narrow.converged
    assert np.isfinite([test.statistic for test in wide.ratio_tests]).all()
    for test, other in zip(narrow.ratio_tests, wide.ratio_tests, strict=True):
        if np.isnan(test.statistic):
            assert np.isnan(test.p)
        else:
            assert abs(test.statistic - other.statistic) <= 4 * np.hypot(test.mc_se, other.mc_se)
    unknown = [curve for curve in narrow.profiles if np.isnan([curve.lower, curve.upper]).any()]
    assert unknown and "NA" in narrow.summary()
    for curve, other, se in zip(narrow.profiles, wide.profiles, [*wide.variances.se[:2], wide.h2.se[-1]], strict=True):
        for end in ("lower", "upper"):
            if np.isfinite(getattr(curve, end)):
                assert abs(getattr(curve, end) - getattr(other, end)) <= 0.5 * se
