"""Components T K_g T' of another covariance's K_g: samples that stand at, or are made of, that one's."""

from abc import abstractmethod
from typing import Any

import numpy as np

from ..linalg import Block
from .wrapped import WrappedCovariance


class PlacedCovariance(WrappedCovariance):
    """The components T K_g T' (n, n) of a covariance of q others: T'B is multiplied there, and taken back by T.

    Features are the other covariance's of T'B, so that all that follows from features without a pass is the same.
    Blocks are arrays (n, k) on the host, wherever the other covariance computes.
    """

    def __init__(self, covariance: Any, num_samples: int):
        super().__init__(covariance)
        self.products, self.weights = self.base.products, self.base.weights
        self.num_samples = num_samples

    @abstractmethod
    def among_others(self, B: np.ndarray) -> np.ndarray:
        """(q, k) T'B, in the precision of the products."""

    @abstractmethod
    def _taken(self, image: Block) -> np.ndarray:
        """(n, k) T times a block of the others, in the precision of the products."""

    @property
    def traces(self) -> np.ndarray:
        return self.diagonals().sum(axis=0)

    @property
    def home(self) -> Any:
        return ("arrays", np.dtype(self.dtype))

    def block(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array, self.dtype)

    def _placed(self, B: np.ndarray) -> Block:
        return self.base.block(self.among_others(B))

    def apply(self, theta, B):
        return self._taken(self.base.apply(theta, self._placed(B)))

    def features(self, B):
        return self.base.features(self._placed(B))

    def image_squares(self, F):
        """Unknown: features have the images among the others."""
        return np.full((self.num_components, F.shape[-1]), np.nan)

    def grams(self, pieces, F):
        return self.base.grams(pieces, F)

    def core(self, B):
        return self.base.core(self._placed(B))

    def apply_each(self, F):
        """A list of G blocks (n, k)."""
        return [self._taken(image) for image in self.base.apply_each(F)]

    def apply_features(self, theta, F):
        return self._taken(self.base.apply_features(theta, F))

    def variant_effects(self, theta, F):
        return self.base.variant_effects(theta, F)
