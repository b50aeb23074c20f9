"""The bounded average-information step."""

from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize

from gpu_reml.ops.arguments import as_matrix, as_numbers, as_vector

from .linalg import symmetric


class Step(NamedTuple):
    """New ``theta``, the step taken to it, and the Newton decrement d' AI d (squared length in standard errors)."""

    theta: np.ndarray
    direction: np.ndarray
    decrement: float


class SingularInformationError(ArithmeticError):
    """The components cannot be told apart: their information matrix is singular.  ``index``: one of them."""

    def __init__(self, index: int):
        super().__init__(f"information matrix is singular at parameter {index}")
        self.index = index


def ai_step(
    theta: np.ndarray, score: np.ndarray, ai: np.ndarray, lower: np.ndarray, estimated: np.ndarray | None = None
) -> Step:
    """Maximise s'd - d'AI d / 2 over theta + d >= lower, exactly (a non-negative least-squares problem).

    theta, score, lower (p,), ai (p, p) positive definite; lower may be -inf.  estimated (p,) bool: the others stay
    where they are; or (p, q): directions along which theta moves.  No ridge: raises SingularInformationError when ai is
    not positive definite to rounding.
    Source: Gilmour, Thompson & Cullis 1995, Biometrics 51:1440; NNLS: Lawson & Hanson 1974, ch. 23.

    >>> import numpy as np
    >>> from gpu_reml.reml import ai_step
    >>> ai_step([1.0, 1.0], [-8.0, 2.0], 4 * np.eye(2), np.zeros(2)).theta.tolist()  # the first meets its bound
    [0.0, 1.5]
    """
    theta = as_vector(theta, "theta")
    p = len(theta)
    lower = as_numbers(lower, "lower")
    unbounded = np.isneginf(lower)
    score, lower = as_vector(score, "score", p), as_vector(np.where(unbounded, 0.0, lower), "lower", p)
    ai = as_matrix(ai, "ai", p, p)
    if np.ndim(estimated) == 2 or unbounded.any():
        lower = np.where(unbounded, -np.inf, lower)
        return _step_along(theta, score, ai, lower, directions_of(estimated, p))
    if estimated is not None and not np.all(estimated):
        part = ai_step(theta[estimated], score[estimated], ai[np.ix_(estimated, estimated)], lower[estimated])
        new, direction = theta.copy(), np.zeros_like(theta)
        new[estimated], direction[estimated] = part.theta, part.direction
        return Step(new, direction, part.decrement)
    scale = np.sqrt(np.diag(ai))
    if not (scale > 0).all():
        raise SingularInformationError(int(np.argmin(scale)))
    unit = symmetric(ai) / np.outer(scale, scale)
    try:
        L = np.linalg.cholesky(unit)
    except np.linalg.LinAlgError:
        raise SingularInformationError(int(np.argmax(np.abs(np.linalg.eigh(unit)[1][:, 0])))) from None
    # x = scale (theta_new - lower) >= 0 minimises |L'x - (L' scale (theta - lower) + L^-1 score / scale)|
    target = L.T @ (scale * (theta - lower)) + linalg.solve_triangular(L, score / scale, lower=True)
    x, _ = optimize.nnls(L.T, target)
    new = lower + x / scale
    direction = new - theta
    return Step(new, direction, float(direction @ ai @ direction))


def shortened(step: Step, theta: np.ndarray, upper: np.ndarray) -> Step:
    """The step from theta, as far as it stays at or below ``upper``."""
    rising = step.direction > 0
    t = float(np.min((upper - theta)[rising] / step.direction[rising], initial=1.0))
    return Step(theta + t * step.direction, t * step.direction, t**2 * step.decrement) if t < 1 else step


def directions_of(estimated: np.ndarray | None, num_parameters: int) -> np.ndarray:
    """(p, q) directions along which theta moves: those given, or the axes of the parameters (p,) that are estimated."""
    if estimated is None:
        return np.eye(num_parameters)
    return estimated if estimated.ndim == 2 else np.eye(num_parameters)[:, estimated]


def score_norm(score: np.ndarray, ai: np.ndarray, estimated: np.ndarray) -> float:
    """Length of the score in units of its standard errors, over the directions that :func:`ai_step` takes."""
    M = directions_of(estimated, len(score))
    return float(np.sqrt(np.sum((M.T @ score) ** 2 / np.einsum("pq,pr,rq->q", M, ai, M))))


def _step_along(theta: np.ndarray, score: np.ndarray, ai: np.ndarray, lower: np.ndarray, M: np.ndarray) -> Step:
    """:func:`ai_step` over theta + M d, as a problem of least distance under inequalities: min |u| with G u >= h, where
    d = L^-T (u + L^-1 M's) and L L' = M'AI M.

    Source: Lawson & Hanson 1974, ch. 23.4 (LSI to LDP to NNLS).
    """
    information = symmetric(M.T @ ai @ M)
    scale = np.sqrt(np.diag(information))
    if not (scale > 0).all():
        raise SingularInformationError(_largest(M[:, int(np.argmin(scale))]))
    unit = information / np.outer(scale, scale)
    try:
        L = np.linalg.cholesky(unit)
    except np.linalg.LinAlgError:
        weakest = np.linalg.eigh(unit)[1][:, 0] / scale
        raise SingularInformationError(_largest(M @ weakest)) from None
    right = linalg.solve_triangular(L, M.T @ score / scale, lower=True)
    bounded = np.flatnonzero(np.isfinite(lower) & M.any(axis=1))
    u, active = np.zeros_like(right), bounded
    if len(bounded):
        units = np.sqrt(np.diag(ai))[bounded]
        G = units[:, None] * linalg.solve_triangular(L, (M / scale)[bounded].T, lower=True).T
        u, active = _least_distance(G, units * (lower - theta)[bounded] - G @ right)
        active = bounded[active]
    direction = M @ (linalg.solve_triangular(L.T, u + right, lower=False) / scale)
    new = np.maximum(theta + direction, lower)
    new[active] = lower[active]
    direction = new - theta
    return Step(new, direction, float(direction @ ai @ direction))


def _least_distance(G: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shortest u with G u >= h, which is feasible, and which inequalities (bool) hold it back.

    In units of the farthest plane's distance from 0, since what is found errs by u's squared length times rounding.
    """
    unit = float(np.max(h / np.linalg.norm(G, axis=1)))
    if unit <= 0:
        return np.zeros(G.shape[1]), np.zeros(len(h), bool)
    A, target = np.vstack([G.T, h / unit]), np.append(np.zeros(G.shape[1]), 1.0)
    weights, _ = optimize.nnls(A, target)
    rest = A @ weights - target
    return -unit * rest[:-1] / rest[-1], weights > 0


def _largest(vector: np.ndarray) -> int:
    return int(np.argmax(np.abs(vector)))
