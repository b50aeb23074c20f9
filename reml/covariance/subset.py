"""The components of another covariance among some of its samples: for traits that not everybody has."""

from dataclasses import replace

import numpy as np

from ..linalg import Block
from ..matrices import matrices_of
from .placement import PlacedCovariance


class SubsetCovariance(PlacedCovariance):
    """The components K_g[rows, rows] of another covariance: its products with blocks that are zero for the others.

    rows (n_t,) ascending.  diagonals (n, G): those of the other covariance, where they are known already.
    Blocks are arrays (n_t, k) on the host, wherever the other one computes.  Products cost what they cost there, and
    the traces its diagonals once, half a pass.  Residuals are those of the samples.
    ValueError where the samples have nothing of a residual.
    """

    def __init__(self, covariance, rows: np.ndarray, diagonals: np.ndarray | None = None):
        super().__init__(covariance, len(rows))
        self.rows = np.asarray(rows)
        self._diagonals = (self.base.diagonals() if diagonals is None else diagonals)[self.rows]
        self.layout = None if self.base.layout is None else layout_among(self.base.layout, self.rows, self._diagonals)

    def diagonals(self) -> np.ndarray:
        """(n_t, G)."""
        return self._diagonals

    def matrices(self):
        """Every K_g (n_t, n_t) by its upper triangle."""
        return (K[np.ix_(self.rows, self.rows)] for K in matrices_of(self.base))

    def among_others(self, B):
        whole = np.zeros((self.base.num_samples, B.shape[1]), B.dtype)
        whole[self.rows] = B
        return whole

    def _taken(self, image: Block) -> np.ndarray:
        return np.asarray(image, self.dtype)[self.rows]


def layout_among(layout, rows: np.ndarray, diagonals: np.ndarray):
    """A :class:`~gpu_reml.reml.residuals.Layout` among some samples; diagonals (n_t, ..) of the components there."""
    squares = np.ones(len(rows)) if layout.root is None else layout.root[rows] ** 2
    parts = None if layout.parts is None else layout.parts[rows]
    residuals = [*([] if parts is None else (parts * squares[:, None]).T), *([] if layout.held else [squares])]
    for name, values in zip(layout.residual_names, residuals, strict=True):
        if not values.any():
            raise ValueError(f"residual {name}: is zero for all {len(rows)} samples of a phenotype; leave it out there")
    genetic = diagonals[:, : layout.num_genetic] * squares[:, None]
    return replace(
        layout,
        mean_traces=genetic.mean(axis=0),
        residual_traces=np.array([values.mean() for values in residuals]),
        parts=parts,
        root=None if layout.root is None else layout.root[rows],
    )
