"""Stated Monte-Carlo errors: two of them cover as they say, and too few probes say nothing."""

import numpy as np
import pytest
from scipy import stats

from gpu_reml.reml import draw_probes, fit, fit_exact, haseman_elston
from gpu_reml.reml.monte_carlo import LEAST_PROBES, covariance_of_mean, error_of_mean, widening
from gpu_reml.reml.studies.effects import mean_and_error
from gpu_reml.reml.studies.loco import shrunken_means
from gpu_reml.validation.small import covariance_of, make_cohort


@pytest.mark.parametrize("s", [16, 24])
def test_two_errors_of_a_mean_cover_as_two_of_a_normal_law(s):
    draws = np.random.default_rng(s).standard_normal((20_000, s))
    covered = np.mean([abs(row.mean()) <= 2 * error_of_mean(row) for row in draws])
    assert covered == pytest.approx(stats.norm.cdf(2) - stats.norm.cdf(-2), abs=0.005)


def test_the_widening_is_students():
    for df in (7, 15, 31):
        assert 2 * widening(df) == pytest.approx(stats.t(df).ppf(stats.norm.cdf(2)))
    assert widening(8) == pytest.approx(1.18, abs=0.005) and widening(1e9) == pytest.approx(1)


def test_slopes_fitted_to_the_probes_take_degrees_of_freedom():
    values = np.random.default_rng(0).standard_normal((2, 20))
    expected = np.cov(values, ddof=1) / 20 * 19 / 18 * widening(18) ** 2
    np.testing.assert_allclose(covariance_of_mean(values, 1), expected)


def test_fewer_than_sixteen_probes_give_an_estimate_with_an_unknown_error():
    cohort = make_cohort(300, 750, 2, seed=3)
    covariance = covariance_of(cohort)
    exact = fit_exact(cohort.y, cohort.X, covariance)
    few = draw_probes(cohort.n, LEAST_PROBES - 1, seed=2)
    found = fit(cohort.y, cohort.X, covariance, few)
    assert found.num_probes == LEAST_PROBES - 1 and np.isnan([*found.mc_se, found.mc_ratio, found.loglik_mc_se]).all()
    assert not found.mc_target_met and (np.abs(found.theta - exact.theta) < exact.se).all()
    one = fit(cohort.y, cohort.X, covariance.only(0), few)
    assert np.isnan([*one.mc_se, one.mc_ratio]).all() and np.isfinite(one.theta).all()
    he = haseman_elston(cohort.y, cohort.X, covariance, few)
    assert np.isnan(he.mc_se).all() and np.isfinite([*he.theta, *he.se]).all()
    enough = haseman_elston(cohort.y, cohort.X, covariance, draw_probes(cohort.n, LEAST_PROBES, seed=2))
    assert np.isfinite(enough.mc_se).all()


def test_few_first_probes_are_added_to_until_their_error_is_known():
    from gpu_reml.reml import FitSettings, ProbeSettings

    cohort = make_cohort(100, 250, 1, seed=3)
    for engine in ("krylov", "reduced"):
        settings = FitSettings(engine=engine, probes=ProbeSettings(first=2, mc_target=10.0))
        found = fit(cohort.y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, 64, seed=1), settings)
        assert LEAST_PROBES <= found.num_probes <= 64 and np.isfinite(found.mc_se).all()


def test_reliability_and_calibration_say_so_as_well():
    values = np.random.default_rng(1).standard_normal((15, 3))
    assert np.isnan(mean_and_error(values.sum(axis=0), (values**2).sum(axis=0), np.ones((30, 15)))[1]).all()
    se = shrunken_means(values, np.arange(15) % 3, 3).errors
    assert np.isnan(se).all()
    many = np.random.default_rng(1).standard_normal((18, 1))
    se = shrunken_means(many, np.zeros(18, int), 1).errors
    assert se[0, 0] == pytest.approx(many.std(ddof=1) / np.sqrt(18) * widening(17))
