"""Covariances with diagonals in sample space: S K_g S, and diagonal components of their own (docs/design.md)."""

from collections.abc import Sequence

import numpy as np

from gpu_reml.ops.arguments import as_numbers

from .covariance import Covariance, WrappedCovariance, genetic
from .covariance.wrapped import adopted
from .linalg import Block, column_dots, gram, scale_rows
from .matrices import matrices_of


class ScaledCovariance(WrappedCovariance):
    """The components S K_g S of another covariance, S = diag(scale): admixture, gene by environment, whitening.

    scale (n,).  names: by default those of the other covariance.  Products cost what they cost there, and blocks stay
    where it computes.  The traces sum_i s_i^2 (K_g)_ii need its diagonals once, half a pass.
    Raises ValueError where the scale does not fit, is not finite, or is zero for all samples, and for a covariance that
    :func:`~gpu_reml.reml.residuals.with_residuals` gave.
    """

    def __init__(self, covariance: Covariance, scale: np.ndarray, names: Sequence[str] | None = None):
        covariance, scale = genetic(covariance), as_numbers(scale, "scale")
        if scale.shape != (covariance.num_samples,):
            raise ValueError(f"scale: expected one value for each of {covariance.num_samples} samples, {scale.shape}")
        if not np.isfinite(scale).all() or not scale.any():
            raise ValueError("scale: expected finite values, not all zero")
        super().__init__(covariance)
        self.scale = scale
        self.names = self.names if names is None else tuple(names)
        self._column: Block = covariance.block(scale[:, None])
        self._traces: np.ndarray | None = None

    @property
    def traces(self) -> np.ndarray:
        if self._traces is None:
            self._traces = self.diagonals().sum(axis=0)
        return self._traces

    def diagonals(self) -> np.ndarray:
        """(n, G) the diagonal of every component; half a pass."""
        return self.scale[:, None] ** 2 * self.base.diagonals()

    def matrices(self):
        return map(lambda K: self.scale[:, None] * K * self.scale, matrices_of(self.base))

    def _scaled(self, B: Block) -> Block:
        return scale_rows(B, self._column)

    def apply(self, theta, B):
        return self._scaled(self.base.apply(theta, self._scaled(B)))

    def features(self, B):
        return self.base.features(self._scaled(B))

    def image_squares(self, F):
        """Unknown: features have the images of scaled samples before they are scaled back."""
        return Covariance.image_squares(self, F)

    def core(self, B):
        return self.base.core(self._scaled(B))

    def apply_each(self, F):
        """A list of G blocks (n, k)."""
        return [self._scaled(image) for image in self.base.apply_each(F)]

    def apply_features(self, theta, F):
        return self._scaled(self.base.apply_features(theta, F))


class DiagonalCovariance(Covariance):
    """Components that are diagonal matrices: noise whose variance depends on the sample.

    diagonals (n, J) not negative; ``like``: the covariance whose blocks they are applied to.  No genotype pass.
    """

    sweeps = 0
    home = None  # a diagonal multiplies a block wherever it is

    def __init__(self, diagonals: np.ndarray, names: Sequence[str], like: Covariance):
        like, diagonals = adopted(like), as_numbers(diagonals, "diagonals")
        if diagonals.shape != (like.num_samples, len(names)):
            raise ValueError(f"diagonals: expected ({like.num_samples}, {len(names)}), found {diagonals.shape}")
        for name, values in zip(names, diagonals.T, strict=True):
            if not np.isfinite(values).all() or (values < 0).any() or not values.any():
                raise ValueError(f"diagonals: {name}: a diagonal must be finite, not negative and not zero throughout")
        self.names, self.values = tuple(names), diagonals
        self.num_samples, self.num_components = diagonals.shape
        self.dtype, self.backend = like.dtype, like.backend
        self._like = like
        self._columns = [like.block(column[:, None]) for column in diagonals.T]

    @property
    def traces(self) -> np.ndarray:
        return self.values.sum(axis=0)

    def diagonals(self) -> np.ndarray:
        """(n, J)."""
        return self.values

    def block(self, array):
        return self._like.block(array)

    def matrices(self):
        return (np.diag(column) for column in self.values.T)

    def apply(self, theta, B):
        return scale_rows(B, self.block((self.values @ np.asarray(theta, np.float64))[:, None]))

    def features(self, B):
        return B

    def inner(self, FA, FB):
        return np.array([column_dots(FA, scale_rows(FB, column)) for column in self._columns])

    def gram(self, FA, FB=None):
        FB = FA if FB is None else FB
        return np.array([gram(FA, scale_rows(FB, column)) for column in self._columns])

    def apply_each(self, F):
        """A list of J blocks (n, k)."""
        return [scale_rows(F, column) for column in self._columns]

    def apply_features(self, theta, F):
        return self.apply(theta, F)
