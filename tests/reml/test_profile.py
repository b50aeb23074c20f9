"""Profile likelihoods: the highest likelihood with a quantity held, and where it has fallen by 1.92."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize, special

from gpu_reml.reml import FitSettings, ProbeSettings, SolverSettings, draw_probes, exact_probes, fit, fit_exact
from gpu_reml.reml.profile import Drop, curve_of, found_end
from gpu_reml.validation.dense import dense_loglik, dense_score
from gpu_reml.validation.small import covariance_of, make_cohort

PROFILE = FitSettings(profile=True)
TIGHT = FitSettings(
    engine="reduced",
    tol=1e-12,
    profile=True,
    solver=SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13),
)
FALLEN = special.chdtri(1, 0.05) / 2


def highest(cohort, theta_of, start):
    """The highest dense log-likelihood over theta_of(x), linear in x, which is not negative."""
    arguments, zero = (cohort.y, cohort.X, cohort.Ks), theta_of(np.zeros(len(start)))
    slopes = np.array([theta_of(unit) - zero for unit in np.eye(len(start))])
    found = optimize.minimize(
        lambda x: -dense_loglik(theta_of(x), *arguments),
        start,
        jac=lambda x: -slopes @ dense_score(theta_of(x), *arguments),
        bounds=[(0, None)] * (len(start) - 1) + [(1e-3, None)],
        method="L-BFGS-B",
        options={"ftol": 1e-14, "gtol": 1e-8},
    )
    return -found.fun


@pytest.fixture(scope="module")
def dense():
    cohort = make_cohort(150, 400, 2, seed=2)
    return cohort, fit_exact(cohort.y, cohort.X, covariance_of(cohort), PROFILE)


def test_at_an_end_the_likelihood_maximised_over_the_others_has_fallen_by_as_much_as_is_asked(dense):
    cohort, found = dense
    traces = found.mean_traces
    for curve in found.profiles[:2]:
        g = found.names.index(curve.quantity)
        for end in (curve.lower, curve.upper):

            def theta_of(x, g=g, end=end):
                return np.insert(x, g, end / traces[g])

            top = highest(cohort, theta_of, np.delete(found.theta, g))
            assert found.loglik - top == pytest.approx(FALLEN, abs=1e-3) or (end == 0 and found.loglik - top < FALLEN)


def test_the_interval_of_h2_is_where_the_share_of_all_components_is_held(dense):
    cohort, found = dense
    curve = found.profiles[-1]
    assert curve.quantity == "h2" and curve.estimate == pytest.approx(found.h2.estimate[-1])
    assert (found.profile.lower, found.profile.upper) == (curve.lower, curve.upper)
    assert "profile-likelihood 95% interval" in found.summary() and "95% profile" in found.summary()
    for h2 in (curve.lower, curve.upper):
        assert 0 < h2 < 1

        def theta_of(x, h2=h2):
            return np.append(x, (x @ found.mean_traces) * (1 - h2) / h2)

        start = found.theta[:2] * h2 / curve.estimate
        assert found.loglik - highest(cohort, theta_of, start) == pytest.approx(FALLEN, abs=1e-3)


def test_curves_rise_to_the_estimate_and_fall_from_there(dense):
    _, found = dense
    for curve, estimate in zip(found.profiles, [*found.variances.estimate[:2], found.h2.estimate[-1]], strict=True):
        peak = int(np.argmax(curve.difference))
        assert curve.value[peak] == pytest.approx(estimate) and curve.difference[peak] == 0
        assert (np.diff(curve.difference[: peak + 1]) >= 0).all() and (np.diff(curve.difference[peak:]) <= 0).all()
        assert (np.diff(curve.value) > 0).all() and (curve.mc_se == 0).all()


def test_one_component_has_the_interval_of_h2_that_comes_for_nothing():
    cohort = make_cohort(150, 400, 1, seed=1)
    covariance = covariance_of(cohort)
    exact = fit_exact(cohort.y, cohort.X, covariance, PROFILE)
    lanczos = fit(cohort.y, cohort.X, covariance, draw_probes(cohort.n, 64, 0, 1), PROFILE)
    for found in (exact, lanczos):
        variance, h2 = found.profiles
        assert (h2.lower, h2.upper) == pytest.approx((found.profile.lower, found.profile.upper), abs=1e-4)
        assert variance.lower < found.variances.estimate[0] < variance.upper
    for mine, dense in zip(lanczos.profiles, exact.profiles, strict=True):
        for name in ("lower", "upper"):
            error = getattr(mine, f"{name}_mc_se")
            assert error > 0 and abs(getattr(mine, name) - getattr(dense, name)) <= 4 * error
    same = fit(cohort.y, cohort.X, covariance, exact_probes(cohort.n), PROFILE)
    for mine, dense in zip(same.profiles, exact.profiles, strict=True):
        assert (mine.lower, mine.upper) == pytest.approx((dense.lower, dense.upper), rel=1e-3)
        assert mine.lower_mc_se == mine.upper_mc_se == 0


@pytest.mark.parametrize("constrain", [True, False])
def test_the_reduced_model_finds_the_ends_of_dense_searches(constrain):
    cohort = make_cohort(120, 400, 2, seed=2)
    y = cohort.y if constrain else np.random.default_rng(1).standard_normal(cohort.n)
    settings = replace(TIGHT, constrain=constrain)
    expected = fit_exact(y, cohort.X, covariance_of(cohort), replace(PROFILE, constrain=constrain))
    found = fit(y, cohort.X, covariance_of(cohort), exact_probes(cohort.n), settings)
    errors = [*expected.variances.se[:2], expected.h2.se[-1]]
    for mine, dense, se in zip(found.profiles, expected.profiles, errors, strict=True):
        assert (mine.lower, mine.upper) == pytest.approx((dense.lower, dense.upper), abs=0.02 * se)
        assert (dense.lower < 0) == (not constrain) or constrain
        if dense.lower == 0:
            assert mine.lower == 0 and mine.lower_mc_se == 0


def stochastic(cohort):
    settings = replace(PROFILE, probes=ProbeSettings(first=32, mc_target=10))
    return fit(cohort.y, cohort.X, covariance_of(cohort, np.float32), draw_probes(cohort.n, 32, 0, 2), settings)


def test_random_probes_leave_ends_the_error_that_is_stated():
    cohort = make_cohort(250, 1500, 2, seed=2, h2=0.4)
    expected, found = fit_exact(cohort.y, cohort.X, covariance_of(cohort), PROFILE), stochastic(cohort)
    assert found.mc_ratio > 0
    errors = [*expected.variances.se[:2], expected.h2.se[-1]]
    for mine, dense, se in zip(found.profiles, expected.profiles, errors, strict=True):
        for name in ("lower", "upper"):
            off = abs(getattr(mine, name) - getattr(dense, name))
            assert off <= 4 * getattr(mine, f"{name}_mc_se") + 0.02 * se
        assert mine.upper_mc_se < 0.5 * se


def test_an_end_that_the_probes_cannot_tell_is_unknown_and_not_the_edge():
    """Near h2 of 1 the log-likelihood of so few probes errs by more than it has to fall."""
    found = stochastic(make_cohort(500, 4000, 2, seed=4, h2=0.6))
    h2 = found.profiles[-1]
    assert np.isnan(h2.upper) and np.isnan(h2.upper_mc_se) and found.profile is None
    assert 0 < h2.lower < h2.estimate and "NA" in found.summary().splitlines()[-1]


def test_an_end_is_found_on_curves_that_are_no_parabola_and_at_bounds():
    target = 1.96

    def drop_of(function):
        return lambda value: Drop(function(value) ** 2 / 2, 0.1)

    steep = drop_of(lambda v: np.exp(v) - 1)
    assert found_end(steep, 0.0, 5.0, np.inf, target, 1e-6).end == pytest.approx(np.log(2.96), abs=1e-5)
    flat = drop_of(lambda v: np.log1p(v))
    assert found_end(flat, 0.0, 0.1, np.inf, target, 1e-6).end == pytest.approx(np.exp(1.96) - 1, rel=1e-5)
    reached = found_end(drop_of(lambda v: 1 - v), 1.0, 0.5, 0.0, target, 1e-6)
    assert reached.end == 0.0 and reached.error(1.0, target, 0.0) == 0.0
    never = found_end(drop_of(lambda v: v), 0.5, 0.9, 1.0, target, 1e-6)
    assert never.end == 1.0
    singular = found_end(lambda v: Drop(v**2 / 2 if v < 1.5 else np.inf, 0.0), 0.0, 4.0, np.inf, target, 1e-6)
    assert singular.end == pytest.approx(1.5, abs=0.01)
    unknown = found_end(lambda v: Drop(np.nan, np.nan), 0.0, 1.0, np.inf, target, 1e-6)
    assert np.isnan(unknown.end)


def test_an_edge_that_is_no_value_is_only_approached():
    asked = []

    def drop(value):
        asked.append(value)
        return Drop(value**2 / 8, 0.0)  # too flat to fall as far before 1

    assert found_end(drop, 0.5, 0.9, 1.0, 1.96, 1e-6).end == 1.0
    assert len(asked) > 5 and max(asked) < 1 and asked[-1] > 0.99


def test_a_curve_that_is_flat_at_its_peak_is_followed_and_not_jumped_over():
    end = 5 * 1.96 ** (1 / 6)
    found = found_end(lambda v: Drop((v / 5) ** 12 / 2, 0.0), 0.0, 0.4, np.inf, 1.96, 1e-4)
    assert found.end == pytest.approx(end, rel=1e-3) and max(found.drops) < 3 * end


def test_an_end_is_looked_for_again_where_what_was_known_of_the_likelihood_has_grown():
    known = {"width": 1.0}  # of the likelihood, as far as it is known, which is less than it is

    def settle(_):
        known["width"], grown = min(4.0, 2 * known["width"]), known["width"] < 4
        return grown

    quantity = SimpleNamespace(
        name="a", which=0, least=-np.inf, most=np.inf, value=lambda theta: 0.0, error=lambda theta, covariance: 1.0
    )
    found = curve_of(quantity, np.zeros(2), np.eye(1), lambda v: Drop((v / known["width"]) ** 2 / 2, 0.0), settle, 1e-6)
    assert -found.lower == pytest.approx(4 * 1.96, rel=0.01) and found.upper == pytest.approx(4 * 1.96, rel=0.01)
