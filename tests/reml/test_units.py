"""A phenotype, a covariate or a covariance in any unit: the same heritability and tests, or a ValueError.

Never an error of zero, an overflow or another number.
"""

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, leave_out
from gpu_reml.reml import (
    FitSettings,
    accuracy,
    average_information,
    cross_validate,
    draw_folds,
    draw_probes,
    effects,
    exact_scan,
    fit,
    fit_exact,
    haseman_elston,
    loco_scan,
    loglik,
    ols_scan,
    pcg,
    score,
    with_residuals,
)
from gpu_reml.reml.studies.memberships import membership_gradient
from gpu_reml.reml.studies.sparse import sparse_reml
from gpu_reml.validation.small import covariance_of, make_cohort

pytestmark = pytest.mark.filterwarnings("error")
N, M = 70, 100
COHORT = make_cohort(N, M, 2, seed=3)
Y, X, PROBES = COHORT.y, COHORT.X, draw_probes(N, 32, 20)
REDUCED = FitSettings(engine="reduced")
ESTIMATORS = {
    "exact": lambda y, X, c: fit_exact(y, X, c),
    "krylov": lambda y, X, c: fit(y, X, c, PROBES),
    "reduced": lambda y, X, c: fit(y, X, c, PROBES, REDUCED),
    "moments": lambda y, X, c: haseman_elston(y, X, c, PROBES),
}
K = COHORT.Ks[:1]
EXPECTED = {name: estimate(Y, X, K) for name, estimate in ESTIMATORS.items()}


def assert_same(found, expected, unit=1.0, unit_of_k=1.0):
    """The same shares, tests and errors; variances in the units that were given."""
    for part in ("estimate", "se", "mc_se"):
        np.testing.assert_allclose(getattr(found.h2, part), getattr(expected.h2, part), rtol=1e-10, atol=1e-14)
    units = np.array([unit**2 / unit_of_k, unit**2])
    np.testing.assert_allclose(found.theta / units, expected.theta, rtol=1e-10)
    np.testing.assert_allclose(found.se / units, expected.se, rtol=1e-10)
    np.testing.assert_allclose(found.mean_traces, expected.mean_traces * unit_of_k, rtol=1e-12)
    if hasattr(expected, "lrt"):
        assert found.lrt.statistic == pytest.approx(expected.lrt.statistic, rel=1e-9)
        assert found.lrt.p == pytest.approx(expected.lrt.p, rel=1e-9)
        np.testing.assert_allclose(found.history[-1].theta / units, expected.history[-1].theta, rtol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_phenotype_in_any_unit_has_the_same_heritability_or_is_refused(estimator):
    fitted = 0
    for power in [*range(-150, 151, 25), -200, -71, 69, 71, 80, 160, 300]:
        unit = float(f"1e{power}")
        if abs(power) > 69:
            with pytest.raises(ValueError, match=r"y: a standard deviation of .* give it in another unit, y / 1e"):
                ESTIMATORS[estimator](unit * Y, X, K)
            continue
        assert_same(ESTIMATORS[estimator](unit * Y, X, K), EXPECTED[estimator], unit)
        fitted += 1
    assert fitted == 6


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_covariance_in_any_unit_gives_the_same_fit_or_is_refused(estimator):
    for power in (-100, -5, 30):
        unit = float(f"1e{power}")
        function = (lambda B, unit=unit: unit * (K[0] @ B), unit * np.trace(K[0]))
        for given in ([unit * K[0]], function)[: 1 + (power == 30)]:
            assert_same(ESTIMATORS[estimator](Y, X, given), EXPECTED[estimator], 1.0, unit)
    for unit in (1e-200, 1e200):
        with pytest.raises(ValueError, match=r"covariance: component component_000 has a tr\(K\)/n of about"):
            ESTIMATORS[estimator](Y, X, [unit * K[0]])


def test_a_wrong_trace_of_a_covariance_in_another_unit_is_told_in_that_unit():
    with pytest.raises(ValueError, match=r"has a trace of 7\.\d+e\+31 .*, not 3e\+30"):
        fit(Y, [[1.0]] * N, (lambda B: 1e30 * (K[0] @ B), 3e30), PROBES)


def test_components_in_several_units_and_residuals_in_theirs_give_the_same_fit():
    D = np.random.default_rng(0).uniform(0.5, 2, (N, 1))
    expected = fit(Y, X, with_residuals(COHORT.Ks, D), PROBES)
    start, seen = expected.theta, []
    for a, b, r in ((1e30, 1e-30, 1), (1, 1e20, 1e-10), (1e-8, 1e-8, 1e8)):
        units = np.array([a, b, r])
        model = with_residuals([a * COHORT.Ks[0], b * COHORT.Ks[1]], r * D)
        found = fit(Y, X, model, PROBES, callback=seen.append)
        np.testing.assert_allclose(found.h2.estimate, expected.h2.estimate, rtol=1e-9)
        np.testing.assert_allclose(found.h2.se, expected.h2.se, rtol=1e-9)
        np.testing.assert_allclose(found.theta * units, expected.theta, rtol=1e-9)
        np.testing.assert_allclose(seen[-1].theta * units, expected.history[-1].theta, rtol=1e-8)
        warm = fit(Y, X, model, PROBES, start=start / units)
        np.testing.assert_allclose(warm.theta * units, fit_at(start, D).theta, rtol=1e-8)


def fit_at(start, D):
    return fit(Y, X, with_residuals(COHORT.Ks, D), PROBES, start=start)


@pytest.mark.parametrize("estimator", ["exact", "krylov", "reduced"])
def test_covariates_in_any_unit_give_the_same_fit_with_effects_in_theirs(estimator):
    expected = EXPECTED[estimator]
    for units in ((1, 1e150, 1e-60), (1e-149, 1, 1), (1e130, 1e130, 1e130)):
        found = ESTIMATORS[estimator](Y, X * units, K)
        np.testing.assert_allclose(found.h2.estimate, expected.h2.estimate, rtol=1e-10)
        assert found.lrt.statistic == pytest.approx(expected.lrt.statistic, rel=1e-9)
        np.testing.assert_allclose(found.fixed_effects.estimate * units, expected.fixed_effects.estimate, rtol=1e-8)
        with np.errstate(under="ignore", over="ignore"):
            np.testing.assert_allclose(found.fixed_effects.se * units, expected.fixed_effects.se, rtol=1e-8)
        shift = np.log(np.array(units, float)).sum()
        assert found.loglik_gcta + shift == pytest.approx(expected.loglik_gcta, rel=1e-9)
    for unit in (1e-200, 1e200):
        with pytest.raises(ValueError, match=r"X: column 1 has values of about .*; give it in another unit"):
            ESTIMATORS[estimator](Y, X * (1, unit, 1), K)


def test_functions_of_theta_scale_with_the_phenotype():
    theta = np.array([20.0, 25.0])
    ai, gradient = average_information(theta, Y, X, K).ai, score(theta, Y, X, K, probes=PROBES)
    blup, folds = effects(theta, Y, X, K), draw_folds(N, 3)
    held = cross_validate(theta, Y, X, K, folds)
    single = covariance_of(COHORT, np.float32)
    two = np.array([10.0, 10.0, 25.0])
    tangent = score(two, Y, X, single, probes=PROBES)
    for unit in (1e-60, 1e60):
        at, y = theta * unit**2, Y * unit
        np.testing.assert_allclose(average_information(at, y, X, K).ai * unit**4, ai, rtol=1e-9)
        np.testing.assert_allclose(score(at, y, X, K, probes=PROBES).score * unit**2, gradient.score, rtol=1e-9)
        found = effects(at, y, X, K)
        np.testing.assert_allclose(found.random / unit, blup.random, rtol=1e-9)
        np.testing.assert_allclose(found.fixed.se / unit, blup.fixed.se, rtol=1e-9)
        np.testing.assert_allclose(cross_validate(at, y, X, K, folds).random / unit, held.random, rtol=1e-8, atol=1e-9)
        other = score(two * unit**2, y, X, single, probes=PROBES)
        np.testing.assert_allclose(other.score * unit**2, tangent.score, rtol=1e-3)
    for wrong in (1e-100, 1e80):
        for function in (effects, average_information):
            with pytest.raises(ValueError, match="y: a standard deviation of"):
                function(theta, Y * wrong, X, K)
        with pytest.raises(ValueError, match="y: a standard deviation of"):
            cross_validate(theta, Y * wrong, X, K, folds)


def test_a_log_likelihood_shifts_by_the_log_of_the_unit_for_probes_of_any_type():
    V = 20 * K[0] + 25 * np.eye(N)
    for probes, tol in ((PROBES.trace, 1e-9), (PROBES.trace.astype(np.float32), 1e-5)):
        expected = loglik(None, Y, X, V, probes=probes).value
        for unit in (1e-15, 1e15):
            found = loglik(None, Y * unit, X, V * unit**2, probes=probes)
            assert found.value + (N - X.shape[1]) * np.log(unit) == pytest.approx(expected, rel=tol)


def test_scans_give_the_same_tests_and_effects_in_the_traits_units():
    products = CpuProducts(COHORT.genotypes, np.float64)
    tested = [np.arange(M // 2), np.arange(M // 2, M)]
    left = leave_out(products, np.ones(M), tested, ["1", "2"])
    thetas = np.full((2, 1, 2), 20.0)

    def scans(unit):
        rng = np.random.default_rng(0)
        y = Y[:, None] * unit
        yield ols_scan(y, X, products)
        yield exact_scan(y, X, COHORT.genotypes, list(zip(tested, tested, strict=True))).scan
        yield loco_scan(y, X, left, tested, thetas * unit**2, rng).scan

    unit = 1e60
    for found, expected in zip(scans(unit), scans(1.0), strict=True):
        np.testing.assert_allclose(found.log10p, expected.log10p, rtol=1e-8)
        np.testing.assert_allclose(found.beta / unit, expected.beta, rtol=1e-8, atol=1e-12)
    for unit in (1e-200, 1e200):
        with pytest.raises(ValueError, match=r"Y\[:, 0\]: a standard deviation of"):
            loco_scan(Y[:, None] * unit, X, left, tested, thetas, np.random.default_rng(0))
        np.testing.assert_allclose(
            ols_scan(Y[:, None] * unit, X, products).log10p, ols_scan(Y[:, None], X, products).log10p, rtol=1e-8
        )


def test_sparse_reml_and_the_gradient_of_memberships_do_not_depend_on_the_unit():
    covariance = covariance_of(COHORT, np.float32)
    theta = np.array([10.0, 10.0, 25.0])

    def both(unit):
        y = Y * unit
        gradient = membership_gradient(y, X, covariance.products, np.full((M, 2), 0.5), theta * unit**2, PROBES)
        found = sparse_reml(
            y, X, covariance, lambda X, start: fit(y, X, covariance, PROBES, start=start, strict=False), PROBES.sketch
        )
        return gradient, found

    (gradient, chosen), (found, again) = both(1.0), both(1e-60)
    np.testing.assert_allclose(found, gradient, rtol=1e-2, atol=1e-4 * np.abs(gradient).max())
    np.testing.assert_array_equal(again.support, chosen.support)
    assert again.h2_reml.estimate == pytest.approx(chosen.h2_reml.estimate, rel=1e-4)
    with pytest.raises(ValueError, match="y: a standard deviation of"):
        sparse_reml(Y * 1e160, X, covariance, None, PROBES.sketch)
    with pytest.raises(ValueError, match="y: a standard deviation of"):
        membership_gradient(Y * 1e160, X, covariance.products, np.full((M, 2), 0.5), theta, PROBES)


def test_the_accuracy_of_predictions_has_no_unit():
    rng = np.random.default_rng(0)
    fixed, random = rng.standard_normal((2, N))
    y = fixed + random + rng.standard_normal(N)
    expected = accuracy(y, fixed, random, X)
    for unit in (1e-200, 1e-150, 1e150, 1e200):
        np.testing.assert_allclose(accuracy(unit * y, unit * fixed, unit * random, X), expected, rtol=1e-10)
        np.testing.assert_allclose(accuracy(y, fixed, random, X * (1, unit, 1)), expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_solve_does_not_depend_on_the_size_of_its_right_hand_sides(dtype):
    V = (2 * K[0] + np.eye(N)).astype(dtype)
    B = np.random.default_rng(0).standard_normal((N, 3)).astype(dtype)
    expected = pcg(V, B, tol=1e-5).X
    for unit in (1e-30, 1e-20, 1e20, 1e30):
        found = pcg(V, B * dtype(unit), tol=1e-5)
        np.testing.assert_allclose(found.X / dtype(unit), expected, rtol=1e-3, atol=1e-5)
        assert found.converged.all() and (found.residuals < 1e-4).all()
