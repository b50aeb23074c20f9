"""What dense REML says beside its estimates, by maximising once more: without some components, for likelihood ratios,
and with a quantity held, for profiles."""

from dataclasses import replace

import numpy as np

from ..likelihood_ratio import RatioTest, law_of_fit, others, ratio_test, tested_sets, without
from ..profile import Curve, Drop, Quantity, curve_of, quantities
from ..residuals import Layout
from ..result import Status
from ..settings import FitSettings
from .search import DensePoint, Likelihood, SearchResult, average_information, search

# A search within a profile or a test takes at most so many steps.
MOST_STEPS = 200
# An end of an interval may err by so many standard errors.
END_ERROR = 1e-4


def maximum(
    model: Likelihood, theta: np.ndarray, lower: np.ndarray, settings: FitSettings, estimated: np.ndarray
) -> SearchResult:
    """The highest likelihood from theta along what is ``estimated``: see :func:`~gpu_reml.reml.step.ai_step`."""
    own = replace(settings, max_iterations=max(MOST_STEPS, settings.max_iterations))
    return search(model, theta, lower, own, lambda *record: record, estimated)


def exact_ratio_tests(
    model: Likelihood, point: DensePoint, lower: np.ndarray, layout: Layout, settings: FitSettings
) -> tuple[RatioTest, ...]:
    """The tests that ``settings`` ask for, at the maximum ``point``; a search for each of components above zero."""
    tests = []
    for tested in tested_sets(settings.lrt, layout.names):
        end, statistic = point, 0.0
        if (point.theta[tested] != 0).any():
            found = maximum(model, without(point.theta, tested), lower, settings, others(layout, tested))
            end, statistic = found.point, 2 * (point.loglik - found.point.loglik)
            if found.status is not Status.CONVERGED:
                statistic = np.nan
        law = law_of_fit(average_information(model, end), layout, end.theta, lower, tested)
        tests.append(ratio_test([layout.names[g] for g in tested], statistic, 0.0, law))
    return tuple(tests)


def exact_curves(
    model: Likelihood,
    point: DensePoint,
    lower: np.ndarray,
    layout: Layout,
    settings: FitSettings,
    covariance: np.ndarray,
) -> tuple[Curve, ...]:
    """Profiles of every component and of h2, if ``settings`` ask for them; a search for each value that is looked at.

    covariance: the sampling covariance of theta as reported.
    """
    if not settings.profile:
        return ()
    curves = []
    for quantity in quantities(layout, settings.residual_floor, constrained=settings.constrain):
        found = dense_drop(model, point, lower, settings, quantity)
        curves.append(
            curve_of(quantity, point.theta, covariance, lambda v, found=found: found(v)[0], lambda _: False, END_ERROR)
        )
    return tuple(curves)


def dense_drop(model: Likelihood, point: DensePoint, lower: np.ndarray, settings: FitSettings, quantity: Quantity):
    """v -> (:class:`~gpu_reml.reml.profile.Drop` from the maximum ``point``, theta there or None); each search starts
    where the last ended."""
    last = point.theta

    def drop(value: float) -> tuple[Drop, np.ndarray | None]:
        nonlocal last
        start = np.maximum(quantity.at(last, value), lower)
        if model.at(start) is None:
            return Drop(np.inf, 0.0), None
        found = maximum(model, start, lower, settings, quantity.directions(value))
        if found.status is not Status.CONVERGED:
            return Drop(np.nan, np.nan), None
        last = found.point.theta
        return Drop(point.loglik - found.point.loglik, 0.0), last

    return drop
