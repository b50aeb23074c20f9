"""Likelihood ratios of fits within a basis: the maxima of restricted models, which extend it until it answers there.

That the maxima themselves err adds to a ratio only half of their squared error in standard errors, which is left out:
0.005 a component where mc_se is a tenth of se.
"""

import numpy as np

from ..likelihood_ratio import RatioTest, law_of_fit, others, ratio_test, tested_sets, without
from ..probes import Probes
from ..result import Status
from .reduced_fit import ended, state_at
from .reduced_model import Model, Problem
from .reduced_search import Walk
from .rise import end_at, rise


def maximum(
    problem: Problem, probes: Probes, model: Model, theta: np.ndarray, estimated: np.ndarray, trait: int = 0
) -> tuple[Model, Walk]:
    """The highest likelihood of a trait from theta along what is ``estimated``, as
    :func:`~gpu_reml.reml.step.ai_step` takes it, with the probes of the model, whose basis grows until it answers."""
    own = Probes(probes.trace[:, : model.num_probes], probes.sketch)
    problem = problem._replace(directions=estimated)
    state = ended(problem, own, state_at(problem, model, theta, trait), 1.0)
    return state.model, state.walk


def started_again(before: Model, after: Model) -> bool:
    """Whether a basis is no extension of the one before."""
    return after.basis.U[0] is not before.basis.U[0]


def reduced_ratio_tests(problem: Problem, probes: Probes, model: Model, walk: Walk) -> tuple[RatioTest, ...]:
    """The tests that the settings ask for, at the end of a trait's fit; each extends the basis for those after it.

    NaN where a smaller model does not converge, or the basis has no room to answer at both maxima.
    """
    tests, layout, theta = [], problem.layout, walk.theta
    latest = model
    for tested in tested_sets(problem.settings.lrt, layout.names):
        names, end, ratio = [layout.names[g] for g in tested], walk, (0.0, 0.0)
        if (theta[tested] != 0).any():
            start, kept, ratio = without(theta, tested), others(layout, tested), (np.nan, np.nan)
            for basis in (latest, model):  # where what others have left takes the room
                larger, end = maximum(problem, probes, basis, start, kept, walk.trait)
                if not started_again(basis, larger):
                    break
            if end.status is Status.CONVERGED and not started_again(basis, larger):
                latest = larger
                found = rise(problem, larger, *(end_at(problem, larger, at) for at in (end.theta, theta)), walk.trait)
                ratio = 2 * found.value, 2 * found.mc_se
        law = law_of_fit(end.point.ai, layout, end.theta, problem.lower, tested)
        tests.append(ratio_test(names, *ratio, law))
    return tuple(tests)
