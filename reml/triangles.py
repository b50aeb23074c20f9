"""Symmetric matrices of one size by their upper triangles, with what a likelihood asks of them."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy.linalg import blas

ROWS = 128  # of a panel: few enough that the squares on the diagonal, kept whole, hardly count
INNER_NUMBERS = 1 << 15  # of every matrix that inner products take at once


class Triangles:
    """G symmetric matrices K_g (N, N), half of each: panels of rows, from the diagonal on.

    Panel i is (G, rows, N - first) of rows ``first`` to ``first + rows``; the square it begins with is kept whole.
    dtype: float32 for matrices that were products in float32; what is computed is float64, by scipy's BLAS alone, whose
    threads are those of the factorisations.  Memory: G N (N + ROWS) / 2 numbers.
    """

    def __init__(self, num_matrices: int, size: int, dtype: type = np.float64):
        self.num_matrices, self.size, self._filled = num_matrices, size, 0
        shapes = ((num_matrices, min(ROWS, size - first), size - first) for first in range(0, size, ROWS))
        self._panels = [np.empty(shape, dtype) for shape in shapes]

    def append(self, K: np.ndarray) -> None:
        """Take the next matrix (N, N), by its upper triangle."""
        for panel in self._panels:
            rows, first = panel.shape[1], self.size - panel.shape[2]
            panel[self._filled] = K[first : first + rows, first:]
            fill_square(panel[self._filled])
        self._filled += 1

    def _slabs(self) -> Iterator[tuple[slice, Iterator[np.ndarray]]]:
        """Rows, and every K_g's numbers in them from the diagonal on, in float64."""
        for panel in self._panels:
            first = self.size - panel.shape[2]
            yield slice(first, first + panel.shape[1]), widened(panel)

    @cached_property
    def traces(self) -> np.ndarray:
        """(G,) tr(K_g)."""
        return sum(np.trace(panel, axis1=1, axis2=2, dtype=np.float64) for panel in self._panels)

    def combine(self, theta: np.ndarray) -> np.ndarray:
        """sum_g theta_g K_g (N, N), its upper triangle; below that is nothing."""
        out = np.empty((self.size, self.size))
        for rows, slabs in self._slabs():
            part = out[rows, rows.start :]
            total = np.zeros(part.size)
            for variance, own in zip(theta, slabs, strict=True):
                total = blas.daxpy(own.ravel(), total, a=variance)
            part[...] = total.reshape(part.shape)
        return out

    def traces_with(self, A: np.ndarray) -> np.ndarray:
        """(G,) tr(A K_g) of a symmetric A (N, N) by its upper triangle."""
        found = np.zeros(self.num_matrices)
        for rows, slabs in self._slabs():
            weights = np.array(A[rows, rows.start :])
            fill_square(weights)
            weights[:, len(weights) :] *= 2
            found += [blas.ddot(own.ravel(), weights.ravel()) for own in slabs]
        return found

    def images(self, x: np.ndarray) -> np.ndarray:
        """(N, G) K_g x of x (N,)."""
        out = np.zeros((self.num_matrices, self.size))
        for rows, slabs in self._slabs():
            for image, own in zip(out, slabs, strict=True):
                image[rows] += blas.dgemv(1.0, own.T, x[rows.start :], trans=1)
                image[rows.stop :] += blas.dgemv(1.0, own.T, x[rows])[len(own) :]
        return out.T

    @cached_property
    def inner(self) -> np.ndarray:
        """(G, G) tr(K_g K_h); G^2 N^2 flop."""
        found = np.zeros((self.num_matrices, self.num_matrices))
        for panel in self._panels:
            square = panel[:, :, : panel.shape[1]]
            found += 2 * gram_of_rows(panel) - gram_of_rows(square)
        return found


def widened(panel: np.ndarray) -> Iterator[np.ndarray]:
    """The matrices of a panel (G, rows, columns) in float64; each holds until the next is asked for."""
    wide = np.empty(panel.shape[1:])
    for own in panel:
        if own.dtype == wide.dtype:
            yield own
        else:
            wide[...] = own
            yield wide


def gram_of_rows(panel: np.ndarray) -> np.ndarray:
    """(G, G) float64 inner products of the G matrices of a panel."""
    flat = panel.reshape(len(panel), -1)
    found = np.zeros((len(flat), len(flat)))
    for first in range(0, flat.shape[1], INNER_NUMBERS):
        some = np.array(flat[:, first : first + INNER_NUMBERS], np.float64)
        found += blas.dsyrk(1.0, some.T, trans=1)
    return np.triu(found) + np.triu(found, 1).T


def fill_square(rows: np.ndarray) -> None:
    """Complete the square that begins rows (k, l >= k) from its upper triangle."""
    square = rows[:, : len(rows)]
    square[...] = np.triu(square) + np.triu(square, 1).T
