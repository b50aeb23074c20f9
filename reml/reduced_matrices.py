"""The matrices T_g = U'K_gU of a basis that grows, kept by the pieces in which it grew."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gpu_reml.ops.cpu_symmetric import add_products


class ReducedMatrices(NamedTuple):
    """T_g (d, d), symmetric, for every component g.

    ``pieces``: (G, d_i, k_i) each, the columns that joined together, down to the last of their own rows; what lies
    below follows by symmetry.  So nothing is copied when the basis grows, and half of T is read for a sum.
    """

    num_components: int
    pieces: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(cls, matrices: np.ndarray) -> "ReducedMatrices":
        """From whole matrices (G, d, d)."""
        return cls(len(matrices), (np.asarray(matrices),))

    @property
    def size(self) -> int:
        return self.pieces[-1].shape[1] if self.pieces else 0

    def joined(self, columns: np.ndarray) -> "ReducedMatrices":
        """The matrices with new columns (G, d + k, k)."""
        return self._replace(pieces=(*self.pieces, columns))

    def placed(self) -> Iterator[tuple[np.ndarray, int, int]]:
        """Every piece with the first of its columns and the last, exclusive."""
        return ((piece, piece.shape[1] - piece.shape[2], piece.shape[1]) for piece in self.pieces)

    def whole(self) -> np.ndarray:
        """(G, d, d) the matrices themselves."""
        out = np.empty((self.num_components, self.size, self.size))
        for piece, first, last in self.placed():
            out[:, :last, first:last] = piece
            out[:, first:last, :first] = piece[:, :first].transpose(0, 2, 1)
        return out

    def parameter(self, h: int) -> np.ndarray:
        """(d, d) T_h, or the identity, of the residual, for h = G."""
        if h == self.num_components:
            return np.eye(self.size)
        return self._replace(num_components=1, pieces=tuple(piece[h : h + 1] for piece in self.pieces)).whole()[0]

    def weighted(self, theta: np.ndarray) -> np.ndarray:
        """(d, d) sum_g theta_g T_g."""
        out = np.empty((self.size, self.size))
        for piece, first, last in self.placed():
            columns = (theta @ piece.reshape(self.num_components, -1)).reshape(piece.shape[1:])
            out[:last, first:last] = columns
            out[first:last, :first] = columns[:first].T
        return out

    def times(self, C: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """(G, d, k) T_g C for coordinates C (d, k).

        known: (G, d_0, k) the same of the first d_0 coordinates, to the same bits, where pieces have joined since.
        """
        start = 0 if known is None else known.shape[1]
        out = np.zeros((self.num_components, self.size, C.shape[1]))
        if known is not None:
            out[:, :start] = known
        for piece, first, last in self.placed():
            if first >= start:
                out[:, :last] += piece @ C[first:last]
                out[:, first:last] += piece[:, :first].transpose(0, 2, 1) @ C[:first]
        return out

    def images(self, c: np.ndarray) -> np.ndarray:
        """(G, d) T_g c for coordinates c (d,)."""
        out = np.zeros((self.num_components, self.size))
        for piece in self.pieces:
            add_products(piece, c, out)
        return out

    def dots(self, *others: np.ndarray) -> np.ndarray:
        """(G, w) tr(T_g W) for w symmetric matrices W (d, d)."""
        out = np.zeros((self.num_components, len(others)))
        for piece, first, last in self.placed():
            columns = np.stack([W[:last, first:last] for W in others], axis=2)
            columns[:first] *= 2
            out += piece.reshape(self.num_components, -1) @ columns.reshape(-1, len(others))
        return out

    @property
    def traces(self) -> np.ndarray:
        """(G,) tr(T_g)."""
        own = (np.trace(piece[:, first:], axis1=1, axis2=2) for piece, first, _ in self.placed())
        return sum(own, np.zeros(self.num_components))
