"""Maximisation of a likelihood whose derivatives are exact: bounded AI steps with a line search."""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..formulas import ai_matrix
from ..linalg import symmetric
from ..result import Record, Status
from ..settings import FitSettings
from ..step import Step, ai_step, score_norm

# A search ends where the Newton decrement, the squared length of a step in standard errors, is below this: a step of
# half a millionth of a standard error.
TOLERANCE = 2.5e-13
# A step has to bring this share of the gain that the slope promises.
LEAST_GAIN = 0.1
# The information is corrected by how the score fell along so many of the last steps.
SECANTS = 3
# Steps of a larger decrement than this do not correct it, since the curvature along them is not that of the maximum.
LARGEST_SECANT = 0.1
# Nor do steps along which the curvature is below this share of the average information's.
LEAST_CURVATURE = 0.1
# A gain in the log-likelihood is not asked for where it is below this share of the log-likelihood, which is rounding.
ROUNDING = 1e-12


class DensePoint(NamedTuple):
    """What is known at one theta: the log-likelihood, V factorised in the model's way, and P y (N, 1)."""

    theta: np.ndarray
    loglik: float
    factor: Any
    Py: np.ndarray


class Likelihood(Protocol):
    """The likelihood of the contrasts; ``solve(point, B)`` is V^-1 B (N, k)."""

    def at(self, theta: np.ndarray) -> DensePoint | None: ...
    def solve(self, point: DensePoint, B: np.ndarray) -> np.ndarray: ...
    def traces(self, point: DensePoint) -> np.ndarray: ...
    def images(self, B: np.ndarray) -> np.ndarray: ...


def derivatives(model: Likelihood, point: DensePoint) -> tuple[np.ndarray, np.ndarray]:
    """Score 1/2 [y'P K_g P y - tr(P K_g)] (p,) and average information (p, p)."""
    F = model.images(point.Py)
    return (F.T @ point.Py[:, 0] - model.traces(point)) / 2, average_information(model, point, F)


def average_information(model: Likelihood, point: DensePoint, F: np.ndarray | None = None) -> np.ndarray:
    """(p, p) 1/2 y'P K_g P K_h P y; ``F`` = [K_g P y] where it is known."""
    F = model.images(point.Py) if F is None else F
    return ai_matrix(F, model.solve(point, F))


def line_search(model: Likelihood, point: DensePoint, step: Step, slope: float, lower: np.ndarray) -> DensePoint:
    """The first of the steps 1, 1/2, 1/4, .. times ``step`` that brings a tenth of the gain its slope promises.

    A step that rounding hides counts as enough, so the search ends.  Source: Armijo 1966, Pacific J. Math. 16:1.
    """
    length = 1.0
    while True:
        trial = model.at(np.maximum(point.theta + length * step.direction, lower))
        least = point.loglik + LEAST_GAIN * length * slope - ROUNDING * (len(point.Py) + abs(point.loglik))
        if trial is not None and trial.loglik >= least:
            return trial
        length /= 2


class Secant(NamedTuple):
    """A step (p,) and by how much the score (p,) fell along it."""

    step: np.ndarray
    fall: np.ndarray


def with_secants(ai: np.ndarray, secants: Sequence[Secant]) -> np.ndarray:
    """The average information (p, p), corrected so that it agrees with how the score fell along the last step, and
    nearly with the steps before.

    By chance it differs from the likelihood's curvature, so that a step would leave a fifth of the way to the next one.
    Source: BFGS, Nocedal & Wright 2006, Numerical Optimization, equation 6.19.
    """
    B = ai
    for s, d in secants:
        Bs = B @ s
        if s @ d >= LEAST_CURVATURE * (s @ Bs) > 0:
            B = symmetric(B - np.outer(Bs, Bs) / (s @ Bs) + np.outer(d, d) / (s @ d))
    return B


class SearchResult(NamedTuple):
    """Where a search ended, with the score (p,) and the average information (p, p) there."""

    point: DensePoint
    score: np.ndarray
    ai: np.ndarray
    history: tuple[Record, ...]
    status: Status


def search(
    model: Likelihood, theta: np.ndarray, lower: np.ndarray, settings: FitSettings, report, estimated: np.ndarray
) -> SearchResult:
    """Bounded AI steps from theta until the next would be shorter than the tolerance.

    ``report(iteration, theta, decrement, score_norm)`` makes a record of each.  estimated: as
    :func:`~gpu_reml.reml.step.ai_step` takes it.
    """
    point = model.at(theta)
    if point is None or not np.isfinite(point.loglik):
        raise ValueError(f"start: the covariance is not positive definite at {theta} (in units of y's variance)")
    tol = min(settings.tol, TOLERANCE)
    history, secants = [], deque(maxlen=SECANTS)
    score, ai = derivatives(model, point)
    for iteration in range(1, settings.max_iterations + 1):
        step = ai_step(point.theta, score, with_secants(ai, secants), lower, estimated)
        norm = score_norm(score, ai, estimated)
        history.append(report(iteration, point.theta, step.decrement, norm))
        if step.decrement <= tol:
            return SearchResult(point, score, ai, tuple(history), Status.CONVERGED)
        before, fallen = point.theta, score
        point = line_search(model, point, step, float(score @ step.direction), lower)
        score, ai = derivatives(model, point)
        if step.decrement <= LARGEST_SECANT:
            secants.append(Secant(point.theta - before, fallen - score))
    return SearchResult(point, score, ai, tuple(history), Status.MAX_ITERATIONS)
