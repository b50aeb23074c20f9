"""What every covariance has, with the defaults of a plain one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


class Covariance(ABC):
    """G genetic components K_g (n, n), never formed.  Blocks B are (n, k).

    ``block`` puts an array where the products are computed, in their type; what it returns is a
    :data:`~gpu_reml.reml.linalg.Block`, as are all B and all results here.  ``features(B)`` is whatever makes
    ``inner``, ``gram``, ``apply_each`` and ``apply_features`` cheap: for genotypes Z'B, half a pass.  Features times a
    small matrix, ``F @ C``, are those of B C.  ``core(B)`` is (G, k, k) B'K_gB without features kept.

    A class of your own derives from this one, or has the members down to ``core`` and any of the others.
    """

    names: tuple[str, ...]
    num_samples: int
    num_components: int
    dtype: type
    overlap: float = 1.0
    """Components a variant belongs to, on average: the cost of :meth:`apply_each` relative to one component."""
    traces: np.ndarray
    """(G,) tr(K_g)."""

    @abstractmethod
    def block(self, array: np.ndarray) -> Any:
        """An array (n, k) where the products are computed, in their type."""

    @abstractmethod
    def apply(self, theta: np.ndarray, B: Any) -> Any:
        """sum_g theta_g K_g B, (n, k) -> (n, k); a pass."""

    @abstractmethod
    def features(self, B: Any) -> Any:
        """What the methods below take for B; half a pass."""

    @abstractmethod
    def inner(self, FA: Any, FB: Any) -> np.ndarray:
        """(G, k) a_k' K_g b_k, column by column, from features of A and B; no pass."""

    @abstractmethod
    def gram(self, FA: Any, FB: Any = None) -> np.ndarray:
        """(G, a, b) A' K_g B from features of A and B (None: A); no pass."""

    def grams(self, pieces: Sequence[Any], F: Any) -> np.ndarray:
        """(G, d + k, k) [A_1 .. A_p, B]' K_g B from the features of A_i, d columns in all, and F (m, k) of B; no
        pass."""
        return np.concatenate([*(self.gram(piece, F) for piece in pieces), self.gram(F)], axis=1)

    @abstractmethod
    def apply_each(self, F: Any) -> Any:
        """G blocks (n, k), K_g B for every g, from features of B; half a pass of ``overlap`` k columns."""

    @abstractmethod
    def apply_features(self, theta: np.ndarray, F: Any) -> Any:
        """sum_g theta_g K_g B (n, k) from features of B; half a pass."""

    def core(self, B: Any) -> np.ndarray:
        """(G, k, k) B' K_g B; half a pass."""
        return self.gram(self.features(B))

    sweeps: int = 1
    """Reads of the genotypes in a product."""
    backend: str = "functions"
    """What computes the products."""
    layout: Any = None
    """The :class:`~gpu_reml.reml.residuals.Layout` of the residuals that come with it; None for one identity."""
    factors: np.ndarray | None = None
    """(G,) by what the K_g as given were divided; None where they were not."""

    products: Any = None
    """The :class:`~gpu_reml.ops.Products` of the genotypes that components are made of."""
    weights: Any = None
    """Those of the variants, where components are made of genotypes: sparse (m, G), or blocks."""

    @property
    def home(self) -> Any:
        """Where blocks live: those of the same home need no copy.  None takes any block."""
        return id(self)

    def image_squares(self, F: Any) -> np.ndarray:
        """(G, k) |K_g b|^2 by columns from features of B where they tell, else nan; no pass."""
        return np.full((self.num_components, F.shape[-1]), np.nan)

    def matrices(self) -> Iterator[np.ndarray] | None:
        """Every K_g (n, n) float64 by its upper triangle, half a pass of n columns; None where only products do."""
        return None

    def diagonals(self) -> np.ndarray:
        """(n, G) the diagonal of every K_g; at most half a pass.  ValueError where there is none to give."""
        raise ValueError(
            f"covariance: the diagonals of {', '.join(self.names)} are needed here; give its class a method "
            "diagonals() that returns them, (n, G)"
        )

    def variant_effects(self, theta: np.ndarray, F: Any) -> Any:
        """(m, G) theta_g W_g Z'Py / c_g, effects per standardised genotype from features F (m, 1) of P y, dense or
        sparse; ValueError where components have no variants."""
        raise ValueError(
            f"covariance: {', '.join(self.names)} has no variants, so no effects of variants; use one made from "
            "genotypes"
        )
