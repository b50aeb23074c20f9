"""The likelihood of error contrasts y (N, 1) from dense matrices, in the form that :mod:`.search` climbs.

Factorisations and everything of their size are scipy's BLAS and LAPACK: numpy brings a second OpenBLAS, whose threads
would spin against the first's.  Matrices are given and kept by their upper triangles, in the order of rows: what LAPACK
calls lower, without a copy.
"""

import numpy as np
from scipy.linalg import blas, lapack

from ..formulas import restricted_loglik
from . import spectral
from .search import DensePoint
from .spectral import Measure, Spectrum
from .triangles import Triangles


class Diagonalised:
    """K = Q S diag(values) S'Q' (N, N), with Q the reflections that make it tridiagonal.

    Coordinates in that basis are by ``rotate``, so neither Q nor Q S is ever formed.  Cost: 4/3 N^3 flop for the
    tridiagonal form, the rest is of order N^2.  Memory: K, which is overwritten, S, and as much again while it is made.
    rounding: that of the numbers K is made of; eigenvalues that it hides (:func:`.spectral.with_null_space`) are 0.
    """

    def __init__(self, K: np.ndarray, rounding: float):
        N = len(K)
        work = lapack.dsytrd_lwork(N, lower=1)[0]
        self._reflectors, diagonal, beside, self._tau, _ = lapack.dsytrd(K.T, lower=1, lwork=int(work), overwrite_a=1)
        values, self._S, failed = lapack.dstevd(diagonal, beside if N > 1 else np.zeros(1))
        if failed:
            raise ArithmeticError(f"eigenvalues of a tridiagonal matrix of size {N} did not converge")
        self.values = spectral.with_null_space(values, rounding)

    def _reflect(self, transposed: str, B: np.ndarray) -> np.ndarray:
        """Q B or Q'B (N, k).

        SciPy has no LAPACK routine for it, but the reflectors are those of a QR decomposition one row lower down.  That
        starts at the second number of their array, so its last row is what lies above the diagonal, which is zeroed.
        """
        N, k = B.shape
        if N == 1:
            return B
        self._reflectors[0, 1:] = 0
        below = self._reflectors.reshape(-1, order="F")[1 : 1 + N * (N - 1)].reshape((N, N - 1), order="F")
        shifted = np.zeros((N, k), order="F")
        shifted[:-1] = B[1:]
        work = lapack.dormqr("L", transposed, below, self._tau, shifted, -1)[1][0]
        turned = lapack.dormqr("L", transposed, below, self._tau, shifted, int(work), overwrite_c=1)[0]
        return np.concatenate([B[:1], turned[:-1]])

    def rotate(self, B: np.ndarray) -> np.ndarray:
        """Coordinates (N, k) of vectors B (N, k)."""
        return blas.dgemm(1.0, self._S, self._reflect("T", B), trans_a=1)

    def back(self, C: np.ndarray) -> np.ndarray:
        """Vectors (N, k) from their coordinates C (N, k)."""
        return self._reflect("N", blas.dgemm(1.0, self._S, C))

    @property
    def traces(self) -> np.ndarray:
        """(1,) tr(K)."""
        return self.values.sum(keepdims=True)

    @property
    def inner(self) -> np.ndarray:
        """(1, 1) tr(K K)."""
        return np.array([[self.values @ self.values]])


class SpectralModel:
    """One component, diagonalised: O(N) a point.  Vectors of the search are coordinates in its basis."""

    def __init__(self, matrix: Diagonalised, y: np.ndarray):
        self.values, self.rotate, self.back = matrix.values, matrix.rotate, matrix.back
        self.y = matrix.rotate(y)
        measures = (Measure(self.values, weights) for weights in (self.y[:, 0] ** 2, np.ones(len(y))))
        self.spectrum = Spectrum(*measures, len(y))

    def at(self, theta):
        value = spectral.loglik(self.spectrum, theta)
        if not np.isfinite(value):
            return None
        d = spectral.eigenvalues_of_v(theta, self.values)[:, None]
        return DensePoint(theta, value, d, self.y / d)

    def solve(self, point, B):
        return B / point.factor

    def traces(self, point):
        return self.spectrum.trace.integrate(spectral.ratios(point.theta, self.spectrum.trace))

    def images(self, B):
        return np.column_stack([self.values[:, None] * B, B])


class DenseModel:
    """Any number of components by the Cholesky factor of V: N^3 a point with its traces, and 4 G N^2 flop."""

    def __init__(self, matrices: Triangles, y: np.ndarray):
        self.matrices, self.y = matrices, y

    def rotate(self, B: np.ndarray) -> np.ndarray:
        return B

    def back(self, C: np.ndarray) -> np.ndarray:
        return C

    def at(self, theta):
        N = len(self.y)
        V = self.matrices.combine(theta[:-1])
        V[np.diag_indices(N)] += theta[-1]
        L, info = lapack.dpotrf(V.T, lower=1, clean=0, overwrite_a=1)
        if info > 0:
            return None
        Py = lapack.dpotrs(L, self.y, lower=1)[0]
        logdet = 2 * np.log(np.diag(L)).sum()
        return DensePoint(theta, float(restricted_loglik(logdet, (self.y.T @ Py).item(), N)), L, Py)

    def solve(self, point, B):
        return lapack.dpotrs(point.factor, B, lower=1)[0]

    def traces(self, point):
        """tr(V^-1 K_g), residual last; 2/3 N^3 flop to invert."""
        inverse = lapack.dpotri(point.factor, lower=1)[0].T
        return np.append(self.matrices.traces_with(inverse), np.trace(inverse))

    def images(self, B):
        """[K_1 B, .., K_G B, B] (N, G + 1) for B (N, 1)."""
        return np.column_stack([self.matrices.images(B[:, 0]), B])
