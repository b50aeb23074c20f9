"""What dense REML says beside its estimates: likelihood ratios by maximising once more without some components."""

from dataclasses import replace

import numpy as np

from .likelihood_ratio import RatioTest, law_of_fit, others, ratio_test, tested_sets, without
from .residuals import Layout
from .result import Status
from .search import Model, Point, Search, average_information, search
from .settings import FitSettings

MOST_STEPS = 200


def maximum(model: Model, theta: np.ndarray, lower: np.ndarray, settings: FitSettings, estimated: np.ndarray) -> Search:
    """The highest likelihood from theta along what is ``estimated``: see :func:`~gpu_reml.reml.step.ai_step`."""
    own = replace(settings, max_iterations=max(MOST_STEPS, settings.max_iterations))
    return search(model, theta, lower, own, lambda *record: record, estimated)


def exact_ratio_tests(
    model: Model, point: Point, lower: np.ndarray, layout: Layout, settings: FitSettings
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
