"""Profile likelihoods within a basis, which is extended where an end of an interval lies."""

import numpy as np

from .profile import Curve, Drop, Quantity, curve_of, quantities
from .reduced_fit import Walk, answering, controls_at, is_definite, maximised
from .reduced_model import Model, Problem
from .rise import end_at, rise

END = 0.01  # error of an interval's end, in standard errors
MOST_RUNS = 20  # of AI steps within the basis, each from controls made anew
SETTLED = 1e-5  # share of theta that the last of them moves


def reduced_curves(problem: Problem, model: Model, walk: Walk, covariance: np.ndarray) -> tuple[Curve, ...]:
    """Profiles of every component and of h2, if the settings ask for them.

    covariance: the sampling covariance of theta as reported.  Cost: a value that is looked at is small algebra; every
    end half a pass of y and the probes, and what the basis lacks there.
    """
    settings, curves = problem.settings, []
    if not settings.profile:
        return ()
    for quantity in quantities(problem.layout, settings.residual_floor, constrained=settings.constrain):
        held = Held(problem, model, walk, quantity)
        curves.append(curve_of(quantity, walk.theta, covariance, held.drop, held.settle, END))
        model = held.model
    return tuple(curves)


class Held:
    """The likelihood of a trait with a quantity held, within the present basis ``model``."""

    def __init__(self, problem: Problem, model: Model, walk: Walk, quantity: Quantity):
        self.problem, self.model, self.walk, self.quantity = problem, model, walk, quantity
        self.thetas: dict[float, np.ndarray] = {}
        self.last = walk.theta

    def drop(self, value: float) -> Drop:
        """From the maximum of the fit; no pass."""
        start = np.maximum(self.quantity.at(self.last, value), self.problem.lower)
        if not is_definite(self.model, start):
            return Drop(np.inf, 0.0)
        problem = self.problem._replace(directions=self.quantity.directions(value))
        theta = best_within(problem, self.model, self.walk._replace(theta=start))
        self.thetas[value] = self.last = theta
        ends = (end_at(problem, self.model, at) for at in (theta, self.walk.theta))
        found = rise(problem, self.model, *ends, self.walk.trait)
        return Drop(found.value, found.mc_se)

    def settle(self, value: float) -> bool:
        """Whether the basis did not answer at the maximum with this value; now it does."""
        if value not in self.thetas:
            return False
        before = self.model.basis.size
        self.model = answering(self.problem, self.model, self.thetas[value], self.walk.trait)
        if self.model.basis.size < before:  # it was started again
            self.model = answering(self.problem, self.model, self.walk.theta, self.walk.trait)
        return self.model.basis.size != before


def best_within(problem: Problem, model: Model, walk: Walk) -> np.ndarray:
    """theta of the highest likelihood within the basis, from the walk's along the problem's directions; no pass."""
    for _ in range(MOST_RUNS):
        theta, held = maximised(problem, model, walk, controls_at(problem, model, walk.theta))
        moved = np.abs(theta - walk.theta).sum()
        walk = walk._replace(theta=theta)
        if not held and moved <= SETTLED * np.abs(theta).sum():
            break
    return walk.theta
