"""The components of another covariance among some of its samples: for traits that not everybody has."""

from dataclasses import replace
from typing import Any

import numpy as np

from ..linalg import Block
from ..matrices import matrices_of
from .wrapped import WrappedCovariance


class SubsetCovariance(WrappedCovariance):
    """The components K_g[rows, rows] of another covariance: its products with blocks that are zero for the others.

    rows (n_t,) ascending.  diagonals (n, G): those of the other covariance, where they are known already.
    Blocks are arrays (n_t, k) on the host, wherever the other one computes.  Products cost what they cost there, and
    the traces its diagonals once, half a pass.  Residuals are those of the samples.
    ValueError where the samples have nothing of a residual.
    """

    def __init__(self, covariance, rows: np.ndarray, diagonals: np.ndarray | None = None):
        super().__init__(covariance)
        self.products, self.weights = self.base.products, self.base.weights
        self.rows = np.asarray(rows)
        self._whole = self.num_samples
        self.num_samples = len(self.rows)
        self._diagonals = (self.base.diagonals() if diagonals is None else diagonals)[self.rows]
        self.layout = None if self.base.layout is None else layout_among(self.base.layout, self.rows, self._diagonals)

    @property
    def traces(self) -> np.ndarray:
        return self._diagonals.sum(axis=0)

    @property
    def home(self) -> Any:
        return ("arrays", np.dtype(self.dtype))

    def diagonals(self) -> np.ndarray:
        """(n_t, G)."""
        return self._diagonals

    def matrices(self):
        """Every K_g (n_t, n_t) by its upper triangle."""
        return (K[np.ix_(self.rows, self.rows)] for K in matrices_of(self.base))

    def block(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array, self.dtype)

    def among_all(self, B: np.ndarray) -> np.ndarray:
        """(n, k) B (n_t, k), with zeros for the samples that are not here."""
        whole = np.zeros((self._whole, B.shape[1]), B.dtype)
        whole[self.rows] = B
        return whole

    def _placed(self, B: np.ndarray) -> Block:
        return self.base.block(self.among_all(B))

    def _taken(self, image: Block) -> np.ndarray:
        return np.asarray(image, self.dtype)[self.rows]

    def apply(self, theta, B):
        return self._taken(self.base.apply(theta, self._placed(B)))

    def features(self, B):
        return self.base.features(self._placed(B))

    def image_squares(self, F):
        """Unknown: features have the images among all samples."""
        return np.full((self.num_components, F.shape[-1]), np.nan)

    def core(self, B):
        return self.base.core(self._placed(B))

    def apply_each(self, F):
        """A list of G blocks (n_t, k)."""
        return [self._taken(image) for image in self.base.apply_each(F)]

    def apply_features(self, theta, F):
        return self._taken(self.base.apply_features(theta, F))

    def variant_effects(self, theta, F):
        return self.base.variant_effects(theta, F)


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
