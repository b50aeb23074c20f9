"""Maxima of the likelihood of a stack of traits over positive semidefinite matrices: no pass.

A restriction keeps some linear functions of the entries at zero, or gives two traits a correlation of 1 or -1 in one
component, in whose matrix the row of the one is then a multiple of the other's.  Steps are of average information,
exact in the cone (:mod:`.rg_cone`), and shortened where the likelihood falls at their end.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg

from .rg_cone import AT_BOUND, Cone, Entries, at_bounds, cone_step, is_singular
from .rg_stack import Stack, StackPoint, point_at

MOST_STEPS = 100
NEAR = 1.0  # squared step from which the curvature that steps show is relied on
DECREMENT, EXACT = 1e-7, 1e-10  # squared step in standard errors that ends a search, by random and by exact probes
MOST_SHRINKAGE = 0.25  # of the residual in one step
MOST_GROWTH = 4.0  # of a variance in one step; all may grow to the total
OVERSHOT = 0.5  # share of the slope at the start by which the likelihood may fall at the end of a step
NARROW = 1e-3  # share of a step to which its maximum is found


class Multiple(NamedTuple):
    """That in a ``component`` trait ``b`` is a multiple of trait ``a``, with a correlation of ``sign``."""

    component: int
    a: int
    b: int
    sign: float

    def imposed(self, M: np.ndarray, ratio: float) -> np.ndarray:
        """The component's matrix M (t, t) with b ``ratio`` times a."""
        M = M.copy()
        M[self.b] = ratio * M[self.a]
        M[self.b, self.b] = ratio**2 * M[self.a, self.a]
        M[:, self.b] = M[self.b]
        return M


class Restriction(NamedTuple):
    """``zero`` (k, p): functions of the entries that are 0; ``multiple``: two traits of one component that are one."""

    zero: np.ndarray
    multiple: Multiple | None = None

    @property
    def turned(self) -> "Restriction":
        """The same with the roles of both traits exchanged, as the variance of the first may be zero at the maximum."""
        if self.multiple is None:
            return self
        return self._replace(multiple=self.multiple._replace(a=self.multiple.b, b=self.multiple.a))


class Maximum(NamedTuple):
    """A maximum: the ``point`` there, and whether the search ``converged``.  ``first``: S after one step."""

    point: StackPoint
    converged: bool
    first: np.ndarray


class Coordinates(NamedTuple):
    """Where a search is: entries ``x`` (p,), and the ``ratio`` of what is a multiple."""

    x: np.ndarray
    ratio: float | None


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
        known = step.curvature if step.decrement <= NEAR and not is_singular(step.curvature) else None
    return Maximum(point, False, first)


def started(stack: Stack, S: np.ndarray, restriction: Restriction) -> Coordinates:
    """S as it satisfies the restriction."""
    own, one = stack.entries, restriction.multiple
    S = S.copy()
    if one is None:
        x = own.vector(S)
        C = restriction.zero
        return Coordinates(semidefinite(own, x - np.linalg.pinv(C) @ (C @ x)) if len(C) else x, None)
    M = S[one.component]
    np.fill_diagonal(M, np.maximum(np.diag(M), 1e-3 * np.diag(S.sum(axis=0))))
    ratio = one.sign * float(np.sqrt(M[one.b, one.b] / M[one.a, one.a]))
    S[one.component] = one.imposed(M, ratio)
    return Coordinates(own.vector(S), ratio)


def semidefinite(own: Entries, x: np.ndarray) -> np.ndarray:
    """x with covariances that are all smaller where its matrices would not be positive semidefinite, as where one of
    them was put to zero; any linear function of them that is zero stays so."""
    share = 1.0
    while share > NARROW:
        S = own.matrices(np.where(own.a == own.b, x, share * x))
        if (np.linalg.eigvalsh(S) >= -AT_BOUND * np.trace(S, axis1=1, axis2=2)[:, None]).all():
            return own.vector(S)
        share /= 2
    return np.where(own.a == own.b, x, 0.0)


def jacobian(stack: Stack, at: Coordinates, restriction: Restriction) -> np.ndarray:
    """(p, q) how the entries move with what is free, the ratio of what is a multiple last."""
    own, one = stack.entries, restriction.multiple
    rest, by_ratio = np.eye(len(own.h)), np.zeros((len(own.h), 0))
    if one is not None:
        h, follows = one.component, (own.h == one.component) & ((own.a == one.b) | (own.b == one.b))
        by_ratio = np.zeros((len(own.h), 1))
        for k in np.flatnonzero(follows):
            other = own.b[k] if own.a[k] == one.b else own.a[k]
            twice = other == one.b  # the multiple's own variance, ratio^2 times the other's
            source = own.index(h, one.a, one.a if twice else other)
            rest[k, source] = at.ratio**2 if twice else at.ratio
            by_ratio[k] = (2 * at.ratio if twice else 1) * at.x[source]
        rest = rest[:, ~follows]
    if len(restriction.zero):
        rest = rest @ linalg.null_space(restriction.zero @ rest)
    return np.hstack([rest, by_ratio])


def cone_of(stack: Stack, S: np.ndarray, floor: float, multiple: Multiple | None = None) -> Cone:
    """What a step from S has to stay in: a residual falls by no more than to a share of what it is."""
    lower = np.zeros_like(S)
    least = floor * np.eye(S.shape[1])
    lower[-1] = least + MOST_SHRINKAGE * (S[-1] - least)
    if np.linalg.eigvalsh(lower[-1] - least)[0] < 10 * floor:
        lower[-1] = least
    return Cone(stack.entries, lower, None if multiple is None else (multiple.component, multiple.b))


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
    own, one = stack.entries, restriction.multiple
    J, cone = jacobian(stack, at, restriction), cone_of(stack, point.S, floor, one)
    A = J.T @ point.ai @ J if known is None else known
    w = cone_step(at.x, J.T @ point.score, A, cone, J)
    w = w * within_growth(own.matrices(J @ w), point.S)

    def moved(t: float) -> Coordinates:
        x = at_bounds(cone, at.x + t * (J @ w))
        if one is None:
            return Coordinates(x, None)
        S, ratio = own.matrices(x), at.ratio + t * float(w[-1])
        S[one.component] = one.imposed(S[one.component], ratio)
        return Coordinates(own.vector(S), ratio)

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
