"""Symmetric matrices of one size by their upper triangles, with what a likelihood asks of them."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy.linalg import blas

# Matrices are kept by panels of so many rows: so few that the squares on the diagonal, which are kept whole, hardly
# count.
ROWS = 128
# A product takes so many numbers of all matrices at once.
PIECE = 180_000


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

    def _slabs(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows, and every K_g's numbers in them from the diagonal on (G, rows, columns)."""
        for panel in self._panels:
            first = self.size - panel.shape[2]
            yield slice(first, first + panel.shape[1]), panel

    @cached_property
    def traces(self) -> np.ndarray:
        """(G,) tr(K_g)."""
        return sum(np.trace(panel, axis1=1, axis2=2, dtype=np.float64) for panel in self._panels)

    def combine(self, theta: np.ndarray) -> np.ndarray:
        """sum_g theta_g K_g (N, N), its upper triangle; below that is nothing."""
        out = np.empty((self.size, self.size))
        for rows, panel in self._slabs():
            total = [blas.dgemv(1.0, some.T, theta) for _, some in pieces(panel)]
            out[rows, rows.start :] = np.concatenate(total).reshape(panel.shape[1:])
        return out

    def traces_with(self, A: np.ndarray) -> np.ndarray:
        """(G,) tr(A K_g) of a symmetric A (N, N) by its upper triangle."""
        found = np.zeros(self.num_matrices)
        for rows, panel in self._slabs():
            weights = np.array(A[rows, rows.start :])
            fill_square(weights)
            weights[:, len(weights) :] *= 2
            for where, some in pieces(panel):
                found += blas.dgemv(1.0, some.T, weights.ravel()[where], trans=1)
        return found

    def images(self, x: np.ndarray) -> np.ndarray:
        """(N, G) K_g x of x (N,)."""
        out = np.zeros((self.num_matrices, self.size))
        for rows, panel in self._slabs():
            for image, own in zip(out, panel, strict=True):
                wide = own.astype(np.float64, copy=False)
                image[rows] += blas.dgemv(1.0, wide.T, x[rows.start :], trans=1)
                image[rows.stop :] += blas.dgemv(1.0, wide.T, x[rows])[len(own) :]
        return out.T

    @cached_property
    def inner(self) -> np.ndarray:
        """(G, G) tr(K_g K_h); G^2 N^2 flop."""
        found = np.zeros((self.num_matrices, self.num_matrices))
        for panel in self._panels:
            square = panel[:, :, : panel.shape[1]]
            found += 2 * gram_of_matrices(panel) - gram_of_matrices(square)
        return found


def pieces(panel: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Pieces of a panel (G, rows, columns), some numbers of every matrix: which they are, and the numbers (G, k) in
    float64.

    A piece stays in cache and is too small for BLAS to share it among threads, which would wait for one another more
    often than they add numbers.
    """
    flat = panel.reshape(len(panel), -1)
    width = max(1, PIECE // len(panel))
    for first in range(0, flat.shape[1], width):
        where = slice(first, first + width)
        yield where, np.array(flat[:, where], np.float64)


def gram_of_matrices(panel: np.ndarray) -> np.ndarray:
    """(G, G) float64 inner products of the G matrices of a panel."""
    found = np.zeros((len(panel), len(panel)))
    for _, some in pieces(panel):
        found += blas.dsyrk(1.0, some.T, trans=1)
    return np.triu(found) + np.triu(found, 1).T


def fill_square(rows: np.ndarray) -> None:
    """Complete the square that begins rows (k, l >= k) from its upper triangle."""
    square = rows[:, : len(rows)]
    square[...] = np.triu(square) + np.triu(square, 1).T
