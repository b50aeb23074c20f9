"""Dense restricted likelihoods of log-linear weights, for many phenotypes at once; the oracle of the study of alphas.

Everything is in the space of the m variants: with Z off the fixed effects, H = Z'Z and b = Z'Py, M = Z'PZ,

    y'P Z diag(a) Z' P y = sum_j a_j b_j^2,    tr(P Z diag(a) Z') = sum_j a_j M_jj,
    tr(P Z diag(a) Z' P Z diag(c) Z') = sum_jk a_j c_k M_jk^2

so the score of every exponent tau and its information are sums, and the identity follows from P V P = P.
"""

from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.interpolate import CubicSpline

from gpu_reml.ops import CpuProducts, to_dense

NOTHING = 1e-10  # an eigenvalue over the largest that is rounding
SHARES = np.linspace(0.0, 0.995, 200)  # heritabilities on which likelihoods are maximised
FINE = 0.001  # of alpha, between the points of a grid


@dataclass(frozen=True)
class Dense:
    """Phenotypes seen through the variants: ``gram`` H (m, m), ``forms`` Z'y (m, R), ``squares`` y'y (R,) off the fixed
    effects, and the ``dimension`` n - c."""

    gram: np.ndarray
    forms: np.ndarray
    squares: np.ndarray
    dimension: int

    @classmethod
    def of(cls, products: CpuProducts, Y: np.ndarray, X: np.ndarray) -> "Dense":
        """Of phenotypes Y (n, R) with covariates X (n, c)."""
        Q = linalg.orth(X)
        Z, Y = (A - Q @ (Q.T @ A) for A in (np.asarray(to_dense(products.genotypes), np.float64), Y))
        return cls(Z.T @ Z, Z.T @ Y, (Y**2).sum(axis=0), len(Y) - Q.shape[1])

    def profile(self, weights: np.ndarray) -> np.ndarray:
        """(R,) log-likelihoods of K = Z diag(weights) Z' / sum, the highest over its heritability, less a constant."""
        root = np.sqrt(weights / weights.sum())
        values, vectors = linalg.eigh(root[:, None] * self.gram * root)
        kept = values > NOTHING * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        seen = (vectors.T @ (root[:, None] * self.forms)) ** 2 / values[:, None]  # (u'y)^2
        unseen = np.maximum(self.squares - seen.sum(axis=0), 0.0)
        heights = np.empty((len(SHARES), len(unseen)))
        for i, h2 in enumerate(SHARES):
            d = h2 * values + 1 - h2
            left = (seen / d[:, None]).sum(axis=0) + unseen / (1 - h2)
            logdet = np.log(d).sum() + (self.dimension - len(values)) * np.log(1 - h2)
            heights[i] = -0.5 * (logdet + self.dimension * np.log(left))
        return top_of(heights)

    def first_order(self, weights: np.ndarray, columns: np.ndarray, h2: float) -> tuple[np.ndarray, np.ndarray]:
        """(I^-1 s (R, K), standard errors (K,)) of tau with weights exp(columns tau) (m,) at the truth: variances h2 of
        K and 1 - h2.

        s is the score of tau and both variances and I their expected information, so its mean is exactly 0.
        """
        w, e, n = weights / weights.sum(), 1 - h2, self.dimension
        root = np.sqrt(w)
        inner = np.eye(len(w)) * (e / h2) + root[:, None] * self.gram * root
        middle = linalg.solve(inner, root[:, None] * np.column_stack([self.gram, self.forms]), assume_a="pos")
        seen = (np.column_stack([self.gram, self.forms]) - self.gram @ (root[:, None] * middle)) / e
        M, b = seen[:, : len(w)], seen[:, len(w) :]
        A = np.column_stack([h2 * w[:, None] * (columns - w @ columns), w])  # dV by tau and by the variance of K
        quadratic, traces = A.T @ b**2, A.T @ np.diag(M)
        products = A.T @ (M**2) @ A
        ypy = (self.squares - h2 * np.einsum("mr,mr->r", self.forms, w[:, None] * b)) / e
        with_identity = (traces - h2 * products[-1]) / e  # tr(P A P), as P V P = P
        trace_p = (n - h2 * traces[-1]) / e
        information = np.zeros((len(traces) + 1,) * 2)
        information[:-1, :-1], information[-1, :-1], information[:-1, -1] = products, with_identity, with_identity
        information[-1, -1] = (trace_p - h2 * with_identity[-1]) / e
        score = np.vstack([quadratic, (ypy - h2 * quadratic[-1]) / e]) - np.append(traces, trace_p)[:, None]
        inverse = linalg.inv(information)
        K = columns.shape[1]
        return (inverse @ score)[:K].T, np.sqrt(2 * np.diag(inverse)[:K])


def top_of(heights: np.ndarray) -> np.ndarray:
    """(R,) the maxima of curves given at equal steps (k, R), by the parabola through the highest and its neighbours."""
    at = np.clip(heights.argmax(axis=0), 1, len(heights) - 2)
    before, here, after = (heights[at + i, np.arange(heights.shape[1])] for i in (-1, 0, 1))
    shift = np.clip((before - after) / (2 * (before - 2 * here + after)), -1, 1)
    return here - (before - after) * shift / 4


def maxima(grid: np.ndarray, heights: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) where curves on a grid (k, R) are highest, and (R,) twice their fall from there to the ``truth`` (R,)."""
    spline, fine = CubicSpline(grid, heights, axis=0), np.arange(grid[0], grid[-1], FINE)
    values = spline(fine)
    at = values.argmax(axis=0)
    there = np.array([CubicSpline(grid, curve)(x) for curve, x in zip(heights.T, truth, strict=True)])
    return fine[at], 2 * (values[at, np.arange(len(at))] - there)
