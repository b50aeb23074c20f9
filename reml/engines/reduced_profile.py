"""Profile likelihoods within a basis, which is extended as far as they need it."""

import numpy as np

from ..profile import Curve, Drop, Quantity, curve_of, quantities
from .reduced_fit import answering
from .reduced_likelihood import started_again
from .reduced_model import Model, Problem, grown, most_basis
from .reduced_point import is_definite, y_error, y_residual, y_tolerance
from .reduced_search import Walk, best_within
from .rise import end_at, rise

END = 0.01  # error of an interval's end, in standard errors
LOOSE = 5.0  # times the tolerance of y's solve, which costs 0.005 of a log-likelihood
SMALL = 0.5  # share of the residual that the probes have been solved at, under which they are solved anew
MOST_SOLVES = 10  # of y at a maximum that moves as they get better


def reduced_curves(problem: Problem, model: Model, walk: Walk, covariance: np.ndarray) -> tuple[Curve, ...]:
    """Profiles of every component and of h2, if the settings ask for them.

    covariance: the sampling covariance of theta as reported.  Ends are NaN where the basis has no room to answer there
    and at the maximum.  Cost: a value that is looked at what y lacks in the basis there, half a pass at least, times
    the overlap; an end half a pass of the probes too, and what they lack.
    """
    settings, curves = problem.settings, []
    if not settings.profile:
        return ()
    latest = model
    for quantity in quantities(problem.layout, settings.residual_floor, constrained=settings.constrain):
        for basis in (latest, model):  # where what others have left takes the room
            held = Held(problem, basis, walk, quantity)
            curve = curve_of(quantity, walk.theta, covariance, held.drop, held.settle, END)
            if not held.lost:
                latest = held.model
                break
        curves.append(curve)
    return tuple(curves)


class Held:
    """The likelihood of a trait with a quantity held, within the present basis ``model``."""

    def __init__(self, problem: Problem, model: Model, walk: Walk, quantity: Quantity):
        self.problem, self.model, self.walk, self.quantity = problem, model, walk, quantity
        self.thetas: dict[float, np.ndarray] = {}
        self.last = walk.theta
        self.solved_at = self.residual(walk.theta)
        self.lost = False  # whether the basis would have had to be started again

    def residual(self, theta: np.ndarray) -> float:
        """What keeps V from being singular."""
        return float(theta[self.problem.layout.guarded].sum())

    def drop(self, value: float) -> Drop:
        """From the maximum of the fit; NaN where there is no room."""
        start = np.maximum(self.quantity.at(self.last, value), self.problem.lower)
        if self.lost or not is_definite(self.model, start):
            return Drop(np.nan, np.nan) if self.lost else Drop(np.inf, 0.0)
        theta = self.maximum(value, start)
        if self.residual(theta) < SMALL * self.solved_at:
            self.solve_probes(theta)
            theta = self.maximum(value, theta)
        if self.lost:
            return Drop(np.nan, np.nan)
        self.thetas[value] = self.last = theta
        ends = (end_at(self.problem, self.model, at) for at in (theta, self.walk.theta))
        found = rise(self.problem, self.model, *ends, self.walk.trait)
        return Drop(found.value, found.mc_se)

    def settle(self, value: float) -> bool:
        """Whether the probes were not solved at the maximum with this value; now they are."""
        if self.lost or value not in self.thetas:
            return False
        before = self.model.basis.size
        self.solve_probes(self.thetas[value])
        return self.model.basis.size != before

    def solve_probes(self, theta: np.ndarray) -> None:
        """Extends the basis until it answers for y and the probes at theta."""
        larger = answering(self.problem, self.model, theta, self.walk.trait)
        self.lost |= started_again(self.model, larger)
        self.solved_at = min(self.solved_at, self.residual(theta))
        self.model = larger

    def maximum(self, value: float, theta: np.ndarray) -> np.ndarray:
        """theta at the highest likelihood from there, in a basis that is extended until it answers for y."""
        problem = self.problem._replace(directions=self.quantity.directions(value))
        for _ in range(MOST_SOLVES):
            theta = best_within(problem, self.model, self.walk._replace(theta=theta))
            before = self.model
            self.solve_y(theta)
            if self.model is before:
                break
        return theta

    def solve_y(self, theta: np.ndarray) -> None:
        """Extends the basis by y's residuals until it answers for y at theta."""
        problem, trait = self.problem, self.walk.trait
        limit = most_basis(problem, self.model.num_traits + self.model.num_probes)
        while True:
            R, energy = y_residual(problem, self.model, theta, trait)
            if y_error(problem, self.model, R, energy, theta) <= LOOSE * y_tolerance(problem):
                return
            larger = grown(problem, self.model, R, np.arange(0), R[:, :0])
            self.lost |= larger.basis.size > limit
            if self.lost or larger.basis.size == self.model.basis.size:
                return
            self.model = larger
