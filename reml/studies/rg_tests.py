"""Likelihood ratios of a stack of traits, and the Monte-Carlo errors of its maximum.

Between two matrices S the log-likelihood rises by the integral of the score along the straight line, which stays in the
cone.  Every probe has a value of it, with the controls that scores have, so that the spread of the integral over probes
is the Monte-Carlo error of the difference (compare :mod:`gpu_reml.reml.engines.rise`).
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from ..cross_fit import Traces
from .rg_cone import AT_BOUND, at_bounds, cone_step
from .rg_search import Multiple, Restriction, cone_of, untold
from .rg_stack import Stack, StackPoint, point_at

NODES, MOST_NODES = 4, 64  # of the Gauss rule, doubled until it is good enough
QUADRATURE = 1e-6  # error of y's part of the log-likelihood, whose integral is known, that is good enough
DRAWS = 12  # errors of the score, each with both signs, where bounds come in


class Ratio(NamedTuple):
    """A likelihood ratio with its Monte-Carlo error and its p."""

    statistic: float
    mc_se: float
    p: float


UNKNOWN = Ratio(np.nan, np.nan, np.nan)
NOTHING = Ratio(0.0, 0.0, 1.0)  # where the restriction holds already


def rise(stack: Stack, before: StackPoint, after: StackPoint) -> tuple[float, float]:
    """By how much the log-likelihood rises from one S to another, and its Monte-Carlo error; no pass."""
    known = before.ypy - after.ypy
    if stack.exact:
        return (before.logdet - after.logdet + known) / 2, 0.0
    step, num = after.S - before.S, NODES
    d = stack.entries.vector(step)
    while True:
        nodes, weights = np.polynomial.legendre.leggauss(num)
        points = [point_at(stack, before.S + (1 + node) / 2 * step, after.controls) for node in nodes]
        found = sum(weight / 2 * float(point.forms @ d) for weight, point in zip(weights, points, strict=True))
        if num >= MOST_NODES or abs(found - known) <= 2 * QUADRATURE:
            break
        num *= 2
    logdet = sum(weight / 2 * (d @ point.traces.per_probe) for weight, point in zip(weights, points, strict=True))
    per_probe, controls = (known - logdet) / 2, points[0].traces.controls
    return float(per_probe.mean()), float(np.sqrt(Traces(per_probe[None], controls).covariance[0, 0]))


class RgTest(NamedTuple):
    """A restriction that is tested; p is the mean of the tails of chi-squares with these ``degrees`` of freedom."""

    restriction: Restriction
    degrees: tuple[int, ...]


def ratio_of(stack: Stack, smaller: StackPoint, best: StackPoint, degrees: tuple[int, ...]) -> Ratio:
    """Twice the rise of the log-likelihood from the maximum under a restriction to the best."""
    value, mc_se = rise(stack, smaller, best)
    statistic = max(0.0, 2 * value)
    tails = [float(special.chdtrc(df, statistic)) if df else 0.0 for df in degrees]
    p = sum(tails) / len(tails) if statistic > 0 else 1.0
    return Ratio(statistic, 2 * mc_se, p)


def uncorrelated(stack: Stack, weights: np.ndarray, a: int, b: int) -> RgTest:
    """That sum_h weights_h S_h[a, b] = 0, with one degree of freedom; weights (H,)."""
    own = stack.entries
    return RgTest(Restriction(np.where((own.a == a) & (own.b == b), weights[own.h], 0.0)[None]), (1,))


def one_correlation(stack: Stack, S: np.ndarray, component: int, a: int, b: int) -> RgTest | None:
    """That two traits' correlation in a component is 1, or -1 where it is negative at S.  None where it is that
    already.

    Of two traits the law is half a chi-square and half a zero, since no correlation is beyond 1.  Of t traits the row
    of the one is then a multiple of the other's, t - 1 restrictions, one of which is a bound: the ratio is chi-square
    with t - 1 degrees of freedom, or t - 2 where the matrix is of less rank, half of the time each, as long as no
    other combination of the traits is without variance (Self & Liang 1987, J. Am. Stat. Assoc. 82:605).
    """
    M, t = S[component], S.shape[1]
    if abs(M[a, b]) >= (1 - AT_BOUND) * np.sqrt(M[a, a] * M[b, b]):
        return None
    less, more = sorted((a, b), key=lambda trait: M[trait, trait])
    multiple = Multiple(component, more, less, 1.0 if M[a, b] >= 0 else -1.0)
    return RgTest(Restriction(np.zeros((0, len(stack.entries.h))), multiple), (t - 2, t - 1))


def mc_covariance(stack: Stack, point: StackPoint, ai: np.ndarray, floor: float) -> np.ndarray:
    """(p, p) second moment, about x, of where the step leads when the score has other probes' errors; NaN for under 16
    probes, 0 for exact ones."""
    own = stack.entries
    p = len(own.h)
    if stack.exact:
        return np.zeros((p, p))
    errors, zero = point.traces.covariance / 4, untold(stack)
    if not np.isfinite(errors).all():
        return np.full((p, p), np.nan)
    J = np.eye(p)[:, ~zero.any(axis=0)]
    x, cone = own.vector(point.S), cone_of(stack, point.S, floor)
    to_bound = np.linalg.eigvalsh(cone.slack(x)).min(axis=1)
    A = J.T @ ai @ J
    inverse = J @ np.linalg.solve(A, J.T)
    inside = inverse @ errors @ inverse
    if (to_bound > 3 * np.sqrt(np.diag(inside).max())).all():
        return inside
    values, vectors = np.linalg.eigh(errors)
    half = np.random.default_rng(0).standard_normal((p, DRAWS))
    drawn = (vectors * np.sqrt(np.maximum(values, 0))) @ np.hstack([half, -half])
    moves = [at_bounds(cone, x + J @ cone_step(x, J.T @ (point.score + error), A, cone, J)) - x for error in drawn.T]
    return sum(np.outer(move, move) for move in moves) / len(moves)
