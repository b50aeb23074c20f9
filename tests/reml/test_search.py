"""The rules that steer exact searches, each on a likelihood where the search would be slow or lost without it."""

from types import SimpleNamespace

import numpy as np

from gpu_reml.reml import FitSettings, Status, ai_step, dense_covariance, fit_exact
from gpu_reml.reml.engines import search as module
from gpu_reml.reml.engines.search import DensePoint, line_search, search
from gpu_reml.validation.small import make_cohort


class Parabola:
    """A log-likelihood of one parameter with a constant curvature, and how often it was evaluated."""

    def __init__(self, curvature, constant=0.0, rounding=0.0):
        self.curvature, self.constant, self.rounding, self.calls = curvature, constant, rounding, 0

    def at(self, theta):
        self.calls += 1
        noise = self.rounding * (float(theta[0]) * 1e9 % 1 - 0.5)
        value = self.constant - self.curvature * float(theta[0]) ** 2 / 2 + noise
        return DensePoint(theta, value, None, np.ones((1, 1)))


def searched(monkeypatch, model, start, information):
    """The search from ``start`` where the information is a constant."""
    monkeypatch.setattr(
        module, "derivatives", lambda model, point: (-model.curvature * point.theta, np.array([[information]]))
    )
    everything = np.array([-np.inf]), FitSettings(), lambda *record: record, np.ones(1, bool)
    return search(model, np.array([start]), *everything)


def test_a_step_to_the_other_side_that_gains_little_is_halved(monkeypatch):
    """With half of the curvature as information, full steps mirror the error for ever and gain a little each time."""
    found = searched(monkeypatch, Parabola(1.98), -100.0, 1.0)
    assert found.status is Status.CONVERGED and len(found.history) < 10


def test_a_gain_that_rounding_hides_is_not_looked_for(monkeypatch):
    monkeypatch.setattr(module, "SECANTS", 0)  # so that many short steps are taken
    model = Parabola(1.0, constant=1e6, rounding=1e-9)
    found = searched(monkeypatch, model, -1e-4, 4.0)
    assert found.status is Status.CONVERGED and model.calls == len(found.history)


def test_the_last_falls_of_the_score_along_short_steps_save_iterations(monkeypatch):
    """The average information is off by chance, and each step would leave the same share of the way."""
    cohorts = [make_cohort(150, 300, 6, seed=seed, h2=0.95) for seed in range(6)]

    def iterations(**changed):
        for name, value in ({"SECANTS": 3, "LARGEST_SECANT": 0.1} | changed).items():
            monkeypatch.setattr(module, name, value)
        return sum(len(fit_exact(c.y, c.X, dense_covariance(c.Ks)).history) for c in cohorts)

    usual = iterations()
    assert iterations(SECANTS=0) >= usual + 20 and iterations(SECANTS=1) >= usual + 3
    assert iterations(LARGEST_SECANT=np.inf) >= usual + 5


def test_a_step_to_a_bound_ends_on_it_and_not_beside_it_by_rounding():
    rng = np.random.default_rng(0)
    model = SimpleNamespace(at=lambda theta: DensePoint(theta, 0.0, None, np.ones((1, 1))))
    for lower, start in zip(rng.uniform(1e-7, 1e-5, 300), rng.uniform(0.1, 3, 300), strict=True):
        at, bound = np.array([start]), np.array([lower])
        step = ai_step(at, np.array([-100.0]), np.eye(1), bound)
        assert line_search(model, DensePoint(at, -1.0, None, np.ones((1, 1))), step, 0.0, bound).theta[0] >= lower


def test_a_likelihood_ratio_has_steps_of_its_own():
    cohort = make_cohort(120, 240, 2, seed=0)
    covariance = dense_covariance(cohort.Ks)
    expected = fit_exact(cohort.y, cohort.X, covariance, FitSettings(lrt=True))
    few = FitSettings(lrt=True, max_iterations=len(expected.history))
    found = fit_exact(cohort.y, cohort.X, covariance, few)
    assert [test.statistic for test in found.ratio_tests] == [test.statistic for test in expected.ratio_tests]
