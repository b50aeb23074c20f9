"""The bounded average-information step."""

from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize

from gpu_reml.ops.arguments import as_matrix, as_vector

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

    theta, score, lower (p,), ai (p, p) positive definite.  estimated (p,) bool: the others stay where they are.  No
    ridge: raises SingularInformationError when ai is not positive definite to rounding.
    Source: Gilmour, Thompson & Cullis 1995, Biometrics 51:1440; NNLS: Lawson & Hanson 1974, ch. 23.
    """
    theta = as_vector(theta, "theta")
    p = len(theta)
    score, lower, ai = as_vector(score, "score", p), as_vector(lower, "lower", p), as_matrix(ai, "ai", p, p)
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
