"""A covariance of which only the images of some vectors are known: enough for an estimator that asks for no others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg

from gpu_reml.ops.base import Covariance

SPANNED = 1e-6  # share of a column's length that may be off the span of the vectors: float32 blocks round so much


@dataclass(frozen=True, eq=False)
class KnownFeatures:
    """A block (n, k) with its images K_g B (G, n, k); None for a block off the span of the vectors."""

    block: np.ndarray
    images: np.ndarray | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.block.shape

    def __getitem__(self, key) -> "KnownFeatures":
        return KnownFeatures(self.block[key], None if self.images is None else self.images[key])

    @staticmethod
    def side_by_side(blocks: "Sequence[KnownFeatures]") -> "KnownFeatures":
        known = all(each.images is not None for each in blocks)
        images = np.concatenate([each.images for each in blocks], axis=-1) if known else None
        return KnownFeatures(np.concatenate([each.block for each in blocks], axis=-1), images)


class KnownImages(Covariance):
    """G components K_g known by ``images`` (G, n, q) of ``vectors`` (n, q), and their ``traces`` (G,).

    Whatever lies in the span of the vectors has images by linearity; one of two blocks has to, for u'K_g v.
    Cost: no pass.  ValueError for a product with a block off the span.
    """

    backend = "images"

    def __init__(self, names: Sequence[str], vectors: np.ndarray, images: np.ndarray, traces: np.ndarray):
        self.names, self.vectors, self.images, self.traces = tuple(names), vectors, images, traces
        self.num_samples, self.num_components, self.dtype = len(vectors), len(self.names), np.float64

    @property
    def home(self) -> tuple[str, np.dtype]:
        return "arrays", np.dtype(np.float64)

    def block(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array, np.float64)

    @cached_property
    def _factors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return linalg.svd(self.vectors, full_matrices=False, check_finite=False)

    def features(self, B: np.ndarray) -> KnownFeatures:
        U, singular, Vt = self._factors
        kept = singular > singular.max() * len(self.vectors) * np.finfo(np.float64).eps
        inside = U[:, kept].T @ B
        off = np.linalg.norm(B - U[:, kept] @ inside, axis=0)
        if (off > SPANNED * np.linalg.norm(B, axis=0)).any():
            return KnownFeatures(B, None)
        return KnownFeatures(B, self.images @ (Vt[kept].T @ (inside / singular[kept, None])))

    def apply(self, theta: np.ndarray, B: np.ndarray) -> np.ndarray:
        return self.apply_features(theta, self.features(B))

    def inner(self, FA: KnownFeatures, FB: KnownFeatures) -> np.ndarray:
        return np.einsum("nk,gnk->gk", FA.block, images_of_block(FB))

    def gram(self, FA: KnownFeatures, FB: KnownFeatures | None = None) -> np.ndarray:
        if FB is None or FB.images is None:
            right = FA.block if FB is None else FB.block
            return np.einsum("gna,nb->gab", images_of_block(FA), right, optimize=True)
        return np.einsum("na,gnb->gab", FA.block, FB.images, optimize=True)

    def apply_each(self, F: KnownFeatures) -> np.ndarray:
        return images_of_block(F).copy()

    def apply_features(self, theta: np.ndarray, F: KnownFeatures) -> np.ndarray:
        return np.tensordot(np.asarray(theta, np.float64), images_of_block(F), 1)


def images_of_block(F: KnownFeatures) -> np.ndarray:
    """(G, n, k), or a ValueError."""
    if F.images is None:
        raise ValueError("block: lies outside of the vectors whose images are known")
    return F.images
