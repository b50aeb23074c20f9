"""Maximisation of a likelihood whose derivatives are exact: bounded AI steps with a line search."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from .linalg import symmetric
from .result import Record, Status
from .settings import FitSettings
from .step import Step, ai_step, score_norm

TOLERANCE = 1e-12  # Newton decrement (squared step in standard errors) that ends a search, unless settings ask for less
SUFFICIENT = 0.1  # share of the gain promised by the slope that a step must bring
ROUNDING = 1e-12  # relative rounding of a log-likelihood, below which its gain is not asked for


class Point(NamedTuple):
    """What is known at one theta: the log-likelihood, V factorised in the model's way, and P y (N, 1)."""

    theta: np.ndarray
    loglik: float
    factor: Any
    Py: np.ndarray


class Model(Protocol):
    """The likelihood of the contrasts; ``solve(point, B)`` is V^-1 B (N, k)."""

    def at(self, theta: np.ndarray) -> Point | None: ...
    def solve(self, point: Point, B: np.ndarray) -> np.ndarray: ...
    def traces(self, point: Point) -> np.ndarray: ...
    def images(self, B: np.ndarray) -> np.ndarray: ...


def derivatives(model: Model, point: Point) -> tuple[np.ndarray, np.ndarray]:
    """Score 1/2 [y'P K_g P y - tr(P K_g)] (p,) and average information (p, p)."""
    F = model.images(point.Py)
    return (F.T @ point.Py[:, 0] - model.traces(point)) / 2, average_information(model, point, F)


def average_information(model: Model, point: Point, F: np.ndarray | None = None) -> np.ndarray:
    """(p, p) 1/2 y'P K_g P K_h P y; ``F`` = [K_g P y] where it is known."""
    F = model.images(point.Py) if F is None else F
    return symmetric(F.T @ model.solve(point, F)) / 2


def line_search(model: Model, point: Point, step: Step, slope: float, lower: np.ndarray) -> Point:
    """The first of the steps 1, 1/2, 1/4, .. times ``step`` that brings a tenth of the gain its slope promises.

    A step that rounding hides counts as enough, so the search ends.  Source: Armijo 1966, Pacific J. Math. 16:1.
    """
    length = 1.0
    while True:
        trial = model.at(np.maximum(point.theta + length * step.direction, lower))
        least = point.loglik + SUFFICIENT * length * slope - ROUNDING * (len(point.Py) + abs(point.loglik))
        if trial is not None and trial.loglik >= least:
            return trial
        length /= 2


class Search(NamedTuple):
    """Where a search ended."""

    point: Point
    history: tuple[Record, ...]
    status: Status


def search(
    model: Model, theta: np.ndarray, lower: np.ndarray, settings: FitSettings, report, estimated: np.ndarray
) -> Search:
    """Bounded AI steps from theta until one is shorter than the tolerance; that one is still taken.

    ``report(iteration, theta, decrement, score_norm)`` makes a record of each.  estimated: as
    :func:`~gpu_reml.reml.step.ai_step` takes it.
    """
    point = model.at(theta)
    if point is None or not np.isfinite(point.loglik):
        raise ValueError(f"start: the covariance is not positive definite at {theta} (in units of y's variance)")
    tol = min(settings.tol, TOLERANCE)
    history = []
    for iteration in range(1, settings.max_iterations + 1):
        score, ai = derivatives(model, point)
        step = ai_step(point.theta, score, ai, lower, estimated)
        norm = score_norm(score, ai, estimated)
        history.append(report(iteration, point.theta, step.decrement, norm))
        point = line_search(model, point, step, float(score @ step.direction), lower)
        if step.decrement <= tol:
            return Search(point, tuple(history), Status.CONVERGED)
    return Search(point, tuple(history), Status.MAX_ITERATIONS)
