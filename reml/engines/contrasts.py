"""Error contrasts A'y, whose likelihood is that of REML, and the components on them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import blas

from ..matrices import matrices_of


class Contrasts(NamedTuple):
    """A'B and A C for the orthonormal basis A (n, n - c) of the complement of Q: the last columns of a reflection.

    H = I - W middle W' with W (n, c) maps Q to the first c coordinates, so A takes no n x n memory.
    Source: Schreiber & Parlett 1988, SIAM J. Numer. Anal. 25:189.
    """

    W: np.ndarray
    middle: np.ndarray

    @property
    def num_fixed(self) -> int:
        return self.W.shape[1]

    def reflect(self, B: np.ndarray) -> np.ndarray:
        return B - self.W @ (self.middle @ (self.W.T @ B))

    def coordinates(self, B: np.ndarray) -> np.ndarray:
        """A'B (n - c, k) of B (n, k)."""
        return self.reflect(B)[self.num_fixed :]

    def vectors(self, C: np.ndarray) -> np.ndarray:
        """A C (n, k) of C (n - c, k)."""
        return self.reflect(np.concatenate([np.zeros((self.num_fixed, C.shape[1])), C]))

    def restrict(self, K: np.ndarray) -> np.ndarray:
        """A'K A (n - c, n - c) of a symmetric K (n, n), both by their upper triangles; K is overwritten.

        H K H = K - U W' - W U' with U = T - W middle W'T / 2, T = K W middle.  Cost: 4 c n^2 flop.
        """
        c = self.num_fixed
        if c:
            T = blas.dsymm(1.0, K.T, self.W, lower=1) @ self.middle
            U = T - self.W @ (self.middle @ (self.W.T @ T)) / 2
            K = blas.dsyr2k(-1.0, U, self.W, beta=1.0, c=K.T, lower=1, overwrite_c=1).T
        return K[c:, c:]


def contrasts(Q: np.ndarray) -> Contrasts:
    """The reflection for an orthonormal Q (n, c)."""
    c = Q.shape[1]
    if not c:
        return Contrasts(Q, np.zeros((0, 0)))
    U, cosines, Vt = np.linalg.svd(Q[:c])
    W = Q.copy()
    W[:c] += U @ Vt  # with this sign nothing cancels: W'W = 2 (I + V diag(cosines) V') is far from singular
    return Contrasts(W, (Vt.T / (1 + cosines)) @ Vt)


def contrast_matrices(covariance, basis: Contrasts) -> Iterator[np.ndarray]:
    """Every A'K_g A (N, N) float64 with N = n - c, one after another, by its upper triangle.

    Each is the caller's until the next one is asked for.  Cost: that of :func:`~gpu_reml.reml.matrices.matrices_of`.
    """
    return map(basis.restrict, matrices_of(covariance))  # one matrix at a time is held
