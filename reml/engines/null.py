"""The likelihood without genetic components: in closed form for one residual, by exact AI steps for several."""

from dataclasses import replace

import numpy as np
from scipy import linalg

from ..formulas import restricted_loglik
from ..inference import boundary_weights
from ..residuals import Layout, layout_of
from ..result import ConvergenceError, Status
from ..settings import FitSettings
from ..traits import Traits
from .search import DensePoint, search

# The search takes at most so many steps of O(n) each; ten to fifty are usual.
MOST_STEPS = 1000


class DiagonalModel:
    """Error contrasts of y (n, 1) with V = sum_j theta_j diag(r_j), r (n, p); O(n c^2) a point.

    The contrasts are never formed: with an orthonormal basis Q (n, c) of X, log|A'VA| = log|V| + log|Q'V^-1Q|.
    """

    def __init__(self, diagonals: np.ndarray, y: np.ndarray, Q: np.ndarray):
        self.diagonals, self.y, self.Q = diagonals, y, Q

    def at(self, theta):
        v = self.diagonals @ theta
        if not (v > 0).all():
            return None
        scaled = self.Q / v[:, None]
        L = linalg.cholesky(self.Q.T @ scaled, lower=True)
        factor = (v, linalg.solve_triangular(L, scaled.T, lower=True))
        Py = self._solve(factor, self.y)
        logdet = np.log(v).sum() + 2 * np.log(np.diag(L)).sum()
        n, c = self.Q.shape
        return DensePoint(theta, float(restricted_loglik(logdet, (self.y.T @ Py).item(), n - c)), factor, Py)

    @staticmethod
    def _solve(factor, B):
        v, half = factor
        return B / v[:, None] - half.T @ (half @ B)

    def solve(self, point, B):
        """P B."""
        return self._solve(point.factor, B)

    def traces(self, point):
        """tr(P R_j)."""
        v, half = point.factor
        return self.diagonals.T @ (1 / v - (half**2).sum(axis=0))

    def images(self, B):
        return self.diagonals * B


def null_loglik(covariance, traits: Traits, settings: FitSettings) -> float | None:
    """Log-likelihood of the error contrasts of the scaled y with the residuals alone; None where that is closed.

    No Monte-Carlo error and no genotype pass; its steps are not those that ``settings`` limit.
    """
    layout: Layout = layout_of(covariance)
    if not layout.num_parts:
        return None
    diagonals = np.column_stack([layout.parts, np.ones(len(layout.parts))])
    model = DiagonalModel(diagonals, traits.scaled, traits.Q)
    num_residuals = diagonals.shape[1]
    lower = np.append(np.zeros(num_residuals - 1), settings.residual_floor)
    theta = 1 / num_residuals / diagonals.mean(axis=0)
    if layout.held:
        theta[:-1], theta[-1] = 1.0, settings.residual_floor
    estimated = layout.estimated[layout.num_genetic :]
    own = replace(settings, max_iterations=MOST_STEPS)
    found = search(model, theta, lower, own, lambda *record: record, estimated)
    if found.status is not Status.CONVERGED:
        raise ConvergenceError(
            f"the residuals alone did not converge in {MOST_STEPS} steps; merge those of few samples or small variance"
        )
    return found.point.loglik


def lrt_weights(layout: Layout, T: np.ndarray, *, constrain: bool = True) -> np.ndarray:
    """Weights of the test of all genetic components, from T (p, p) = tr(R_g R_h) on the complement of X.

    Components that may be negative have a chi-square with as many degrees of freedom.
    T is the information where the residual is an identity; with several residuals the null's V is another, and the
    weights are those for residual variances in the proportions of the reference.
    """
    if not constrain:
        return np.eye(layout.num_genetic + 1)[-1]
    reduced = layout.reduced(T)
    return boundary_weights(reduced, num_residuals=len(reduced) - layout.num_genetic)
