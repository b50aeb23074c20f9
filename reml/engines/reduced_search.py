"""Maxima of a trait's likelihood within a basis, and how far other probes would have led from one: no pass."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from gpu_reml.ops import blas

from ..inference import bounded_covariance, mc_covariance_of_theta
from ..linalg import symmetric
from ..result import Record, Status
from ..step import Step, ai_step, shortened
from .reduced import reduced_v
from .reduced_model import Model, Problem
from .reduced_point import (
    Outside,
    Point,
    controls_at,
    information,
    is_definite,
    most_in_a_round,
    point_at,
    score_at,
)

MOST_SHRINKAGE = 0.25  # of a residual in one round, without which V would be singular
INNER_STEPS = 4  # AI steps in a round, while they are long: the basis knows no better
LAST_STEPS = 20  # the same once a first step is short
EXACT = 1e-10  # Newton decrement that ends a fit whose basis is complete: steps cost nothing there
SHORT = 1e-2  # squared step in standard errors, under which steps are taken to the end
MOST_RUNS = 20  # of AI steps within the basis, each from controls made anew
MAXIMISED = 1e-5  # share of theta that the last of them moves
DIFFERENCE = 1e-4  # step of differences of scores, in standard errors
FAR = 5.0  # errors of a score at a bound from 0, at which no other probes would free the parameter
ALLOWED = 2.0  # errors that a score at a bound is taken to be nearer to 0: three off would leave next to no error
RESAMPLED = 16  # weightings of the probes, in pairs of opposite signs


class Walk(NamedTuple):
    """Where a trait stands: its ``theta`` and what is ``off`` the basis there.

    ``lengths``: of the last moves of theta, in standard errors; ``cut``: whether the last was held back; ``point``:
    what was known after it.  ``status`` is set once it has ended.
    """

    trait: int
    theta: np.ndarray
    off: Outside
    lengths: tuple[float, ...] = ()
    cut: bool = False
    point: Point | None = None
    history: tuple[Record, ...] = ()
    status: Status | None = None

    def settled(self, tol: float, grew: bool) -> bool:
        """Whether theta moves no more: with a step of ``tol``, or two where the basis still grows."""
        if not self.lengths or self.cut or self.lengths[-1] > tol:
            return False
        return not grew or self.lengths[0] <= 3 * tol


def tolerance(problem: Problem, model: Model) -> float:
    """The Newton decrement that ends a fit."""
    return min(problem.settings.tol, EXACT) if model.exact else problem.settings.tol


def maximised(problem: Problem, model: Model, walk: Walk, inverse: np.ndarray) -> tuple[np.ndarray, bool]:
    """(theta, held): where bounded AI steps within the basis lead a trait, and whether one was held back: a residual on
    its way to its bound, or a variance that grows to where the basis says nothing true of V.

    They end when one is 3 % of the first: the next round looks at what is left.
    """
    layout, least, tol = problem.layout, MOST_SHRINKAGE * walk.theta, 1e-2 * tolerance(problem, model)
    guarded = layout.guarded & (least > problem.settings.residual_floor)
    lower, upper = np.where(guarded, least, problem.lower), most_in_a_round(problem, walk.theta)
    point = point_at(problem, model, walk.trait, walk.theta, walk.off, inverse)
    for taken in range(1, LAST_STEPS + 1):
        step = shortened(ai_step(point.theta, point.score, point.ai, lower, problem.estimated), point.theta, upper)
        point = along(problem, model, walk, point, step, inverse)
        tol = tol if model.exact else max(tol, 1e-3 * step.decrement)
        if step.decrement <= tol or (taken >= INNER_STEPS and step.decrement > SHORT):
            break
    held = (guarded & (point.theta <= lower * (1 + 1e-9))) | (point.theta >= upper * (1 - 1e-9))
    return point.theta, bool(held.any())


def along(problem: Problem, model: Model, walk: Walk, point: Point, step: Step, inverse: np.ndarray) -> Point:
    """The point that a step leads to; where the likelihood falls there half as steeply as it rose before, the step has
    overshot its maximum, which bisection finds."""
    slope, low, high, t = float(point.score @ step.direction), 0.0, 1.0, 1.0
    found = point
    while True:
        theta, after = np.maximum(point.theta + t * step.direction, problem.lower), -np.inf
        if is_definite(model, theta):
            found = point_at(problem, model, walk.trait, theta, walk.off, inverse)
            after = float(found.score @ step.direction)
        if after >= -0.5 * slope and (t == 1.0 or after <= 0.5 * slope):
            return found
        if high - low < 1e-3:
            return found
        low, high = (t, high) if after > 0 else (low, t)
        t = (low + high) / 2


def best_within(problem: Problem, model: Model, walk: Walk) -> np.ndarray:
    """theta of the highest likelihood within the basis, from the walk's along the problem's directions; no pass."""
    for _ in range(MOST_RUNS):
        theta, held = maximised(problem, model, walk, controls_at(problem, model, walk.theta))
        moved = np.abs(theta - walk.theta).sum()
        walk = walk._replace(theta=theta)
        if not held and moved <= MAXIMISED * np.abs(theta).sum():
            break
    return walk.theta


def known_better(problem: Problem, model: Model, walk: Walk) -> Walk:
    """The walk whose point has the average information that a pass of p columns tells, and its Monte-Carlo error."""
    ai = information(problem, model, walk.theta, walk.trait)
    point = walk.point._replace(ai=ai)
    return walk._replace(point=point._replace(mc=mc_covariance(problem, model, walk._replace(point=point))))


def mc_covariance(problem: Problem, model: Model, walk: Walk) -> np.ndarray:
    """(p, p) second moment, about theta, of where other probes would have led; 0 for exact probes.

    That is a bounded step with another error of the score, by the average information or by the curvature within the
    basis, whichever moves a parameter further: the first is too large where y happens to tell less than on average, the
    second where the basis misses much of what the traces change by.  Where the likelihood is not concave, the maximum
    itself is found again with other weights of the probes.
    """
    point, layout = walk.point, problem.layout
    if model.exact:
        return np.zeros_like(point.ai)
    errors, free = point.traces.covariance / 4, problem.free(point.theta)
    if not np.isfinite(errors).all():
        return mc_covariance_of_theta(point.ai, errors, free)
    may_move = layout.estimated & (free | (np.abs(point.score) <= FAR * np.sqrt(np.diag(errors))))
    bounds = problem.lower, most_in_a_round(problem, point.theta)
    score = np.where(free, point.score, np.minimum(0, point.score + ALLOWED * np.sqrt(np.diag(errors))))
    curvature = curvature_at(problem, model, walk, may_move)
    concave = np.linalg.eigvalsh(curvature[np.ix_(may_move, may_move)])[0] > 0
    by_information = bounded_covariance(point.theta, score, point.ai, errors, bounds, may_move)
    if concave:
        within = bounded_covariance(point.theta, score, curvature, errors, bounds, may_move)
    else:
        within = resampled_covariance(problem, model, walk)
    return larger_covariance(by_information, within)


def larger_covariance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(p, p) the larger variance of each parameter, with the correlations of the first, of the second where it has
    none."""
    own, other = np.diag(first), np.diag(second)
    has = own > 0
    scale = np.sqrt(np.fmax(other, own) / np.where(has, own, np.where(other > 0, other, 1.0)))
    return np.where(np.outer(has, has), first, second) * np.outer(scale, scale)


def curvature_at(problem: Problem, model: Model, walk: Walk, may_move: np.ndarray) -> np.ndarray:
    """(p, p) minus the derivative of the score, by differences within the basis, a small solve for each parameter that
    ``may_move`` (p,) bool; for the others the average information.

    It is twice the average information less that of the traces; of what is off the basis these are taken as equal, as
    they are in expectation.
    """
    theta, ai, trait = walk.theta, walk.point.ai, walk.trait
    inverse, V = controls_at(problem, model, theta), reduced_v(model.basis.T, theta)
    c = np.linalg.solve(V, model.trait(trait))
    inside = np.column_stack([model.basis.T.images(c[:, 0]).T, c])
    within = inside.T @ np.linalg.solve(V, inside) / 2
    here, falls = score_at(problem, model, trait, theta, V, inverse), within.copy()
    sizes = DIFFERENCE / np.sqrt(np.diag(ai))

    def fall(h: int) -> None:
        there, rise = theta + sizes[h] * (np.arange(len(theta)) == h), sizes[h] * model.basis.T.parameter(h)
        falls[h] = (here - score_at(problem, model, trait, there, V + rise, inverse)) / sizes[h]

    with blas.one_thread(), ThreadPoolExecutor(get_num_threads()) as pool:
        list(pool.map(fall, np.flatnonzero(may_move)))
    return symmetric(falls + ai - within)


def resampled_covariance(problem: Problem, model: Model, walk: Walk) -> np.ndarray:
    """:func:`mc_covariance` from maxima within the basis, with weights of the probes that err as their mean does."""
    traces = walk.point.traces
    s = model.num_probes
    spread = np.sqrt(np.trace(traces.covariance) / np.trace(np.cov(traces.per_probe)) * s)
    half = np.random.default_rng(0).standard_normal((RESAMPLED // 2, s))
    half -= half.mean(axis=1, keepdims=True)
    total = np.zeros_like(walk.point.ai)
    for draw in (*half, *-half):
        weighted = problem._replace(weights=(1 + spread * draw) / s)
        move = best_within(weighted, model, walk) - walk.theta
        total += np.outer(move, move) / RESAMPLED
    return total
