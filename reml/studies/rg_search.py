"""Maxima of the likelihood of a stack of traits over positive semidefinite matrices: no pass.

A restriction keeps some linear functions of the entries at zero, or gives one component a correlation of 1 or -1, that
is, a matrix v v'.  Steps are of average information, exact in the cone (:mod:`.rg_cone`), and shortened where the
likelihood falls at their end.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg

from .rg_cone import Cone, at_bounds, cone_step
from .rg_stack import Stack, StackPoint, point_at

MOST_STEPS = 100
NEAR = 1.0  # squared step from which the curvature that steps show is relied on
DECREMENT, EXACT = 1e-7, 1e-10  # squared step in standard errors that ends a search, by random and by exact probes
MOST_SHRINKAGE = 0.25  # of the residual in one step
MOST_GROWTH = 4.0  # of a variance in one step; all may grow to the total
OVERSHOT = 0.5  # share of the slope at the start by which the likelihood may fall at the end of a step
NARROW = 1e-3  # share of a step to which its maximum is found


class Restriction(NamedTuple):
    """``zero`` (k, p): functions of the entries that are 0; ``rank_one``: a component of two traits that is v v', with
    a correlation of ``sign``."""

    zero: np.ndarray
    rank_one: int | None = None
    sign: float = 1.0


class Maximum(NamedTuple):
    """A maximum: the ``point`` there, and whether the search ``converged``.  ``first``: S after one step."""

    point: StackPoint
    converged: bool
    first: np.ndarray


class Coordinates(NamedTuple):
    """Where a search is: entries ``x`` (p,), and ``v`` (t,) of a matrix v v'."""

    x: np.ndarray
    v: np.ndarray | None


def untold(stack: Stack) -> np.ndarray:
    """(k, p) the entries of which the data say nothing, residual covariances of traits that share nobody."""
    own, rows = stack.entries, []
    for k, (h, a, b) in enumerate(zip(*own, strict=True)):
        if a != b and not stack.T[a][b][h].any():
            rows.append(np.eye(len(own.h))[k])
    return np.array(rows).reshape(-1, len(own.h))


def maximised(
    stack: Stack, S: np.ndarray, floor: float, restriction: Restriction | None = None, most: int | None = None
) -> Maximum:
    """The maximum from S (H, t, t), with ``floor`` the smallest eigenvalue of the residual's matrix; ``most``: steps.

    Where the information is singular, as some entries cannot be told apart, the search ends without converging.
    """
    own = stack.entries
    restriction = restriction or Restriction(np.zeros((0, len(own.h))))
    restriction = restriction._replace(zero=np.vstack([restriction.zero, untold(stack)]))
    at = started(stack, S, restriction)
    point, first, known = point_at(stack, own.matrices(at.x)), None, None
    for _ in range(most or MOST_STEPS):
        try:
            step = stepped(stack, at, point, floor, restriction, known)
        except np.linalg.LinAlgError:
            return Maximum(point, False, point.S if first is None else first)
        at, point = step.at, step.point
        first = point.S if first is None else first
        if step.decrement <= (EXACT if stack.exact else DECREMENT):
            return Maximum(point, True, first)
        known = step.curvature if step.decrement <= NEAR else None
    return Maximum(point, False, first)


def started(stack: Stack, S: np.ndarray, restriction: Restriction) -> Coordinates:
    """S as it satisfies the restriction."""
    own, h = stack.entries, restriction.rank_one
    S = S.copy()
    if h is None:
        x = own.vector(S)
        C = restriction.zero
        return Coordinates(x - np.linalg.pinv(C) @ (C @ x) if len(C) else x, None)
    v = np.sqrt(np.maximum(np.diag(S[h]), 1e-3 * np.diag(S.sum(axis=0)))) * np.array([1.0, restriction.sign])
    S[h] = np.outer(v, v)
    return Coordinates(own.vector(S), v)


def jacobian(stack: Stack, at: Coordinates, restriction: Restriction) -> np.ndarray:
    """(p, q) how the entries move with what is free, the elements of v last."""
    own, h = stack.entries, restriction.rank_one
    p = len(own.h)
    rest = np.eye(p) if h is None else np.eye(p)[:, own.h != h]
    if len(restriction.zero):
        rest = rest @ linalg.null_space(restriction.zero @ rest)
    if h is None:
        return rest
    own_columns = np.zeros((p, len(at.v)))
    for k in np.flatnonzero(own.h == h):
        own_columns[k, own.a[k]] += at.v[own.b[k]]
        own_columns[k, own.b[k]] += at.v[own.a[k]]
    return np.hstack([rest, own_columns])


def cone_of(stack: Stack, S: np.ndarray, floor: float, rank_one: int | None = None) -> Cone:
    """What a step from S has to stay in: a residual falls by no more than to a share of what it is."""
    lower, coned = np.zeros_like(S), np.ones(len(S), bool)
    least = floor * np.eye(S.shape[1])
    lower[-1] = least + MOST_SHRINKAGE * (S[-1] - least)
    if np.linalg.eigvalsh(lower[-1] - least)[0] < 10 * floor:
        lower[-1] = least
    if rank_one is not None:
        coned[rank_one] = False
    return Cone(stack.entries, lower, coned)


class StackStep(NamedTuple):
    """Where a step led, its squared length in standard errors before it was shortened, and the ``curvature`` (q, q)
    that it has shown."""

    at: Coordinates
    point: StackPoint
    decrement: float
    curvature: np.ndarray


def stepped(
    stack: Stack, at: Coordinates, point: StackPoint, floor: float, restriction: Restriction, known: np.ndarray | None
) -> StackStep:
    """One step, of average information or of the curvature that is ``known``; the likelihood is higher after it."""
    own, rank_one = stack.entries, restriction.rank_one
    J, cone = jacobian(stack, at, restriction), cone_of(stack, point.S, floor, rank_one)
    A = J.T @ point.ai @ J if known is None else known
    w = cone_step(at.x, J.T @ point.score, A, cone, J)
    w = w * within_growth(own.matrices(J @ w), point.S)

    def moved(t: float) -> Coordinates:
        x = at.x + t * (J @ w)
        if rank_one is None:
            return Coordinates(at_bounds(cone, x), None)
        v = at.v + t * w[-len(at.v) :]
        x[own.h == rank_one] = np.outer(v, v)[own.a[own.h == rank_one], own.b[own.h == rank_one]]
        return Coordinates(at_bounds(cone, x), v)

    slope = float(point.score @ J @ w)
    low, high, t = 0.0, 1.0, 1.0
    while True:
        new = moved(t)
        found = point_at(stack, own.matrices(new.x), None if known is None else point.controls)
        score = jacobian(stack, new, restriction).T @ found.score
        after = float(score @ w)
        if after >= -OVERSHOT * slope and (t == 1.0 or after <= OVERSHOT * slope):
            break
        if high - low < NARROW or slope <= 0:
            break
        low, high = (t, high) if after > 0 else (low, t)
        t = (low + high) / 2
    shown = updated(A, t * w, J.T @ point.score - score)
    return StackStep(new, found, float(w @ J.T @ point.ai @ J @ w), shown)


def updated(A: np.ndarray, step: np.ndarray, fall: np.ndarray) -> np.ndarray:
    """The curvature A (q, q) with the ``fall`` of the score that a step has shown, damped to stay positive definite.

    Average information is that of the likelihood on the mean over data; near a maximum this makes steps those of its
    own curvature.  Source: Powell 1978, Lect. Notes Math. 630:144 (damped BFGS).
    """
    image = A @ step
    expected, shown = float(step @ image), float(step @ fall)
    if not expected > 0:
        return A
    share = 1.0 if shown >= 0.2 * expected else 0.8 * expected / (expected - shown)
    fall = share * fall + (1 - share) * image
    return A + np.outer(fall, fall) / float(step @ fall) - np.outer(image, image) / expected


def within_growth(step: np.ndarray, S: np.ndarray) -> float:
    """The share of a step (H, t, t) from S that lets no variance grow too far at once."""
    now, more = np.einsum("haa->ha", S), np.einsum("haa->ha", step)
    most = np.maximum(MOST_GROWTH * now, now.sum(axis=0)) - now
    growing = more > most
    return float(np.min(most[growing] / more[growing], initial=1.0))
