"""The components of several covariances as one."""

from collections.abc import Sequence
from functools import reduce
from itertools import chain, pairwise
from operator import add
from typing import Any

import numpy as np

from gpu_reml.ops.base import Covariance

from ..linalg import Block, columns, times, zeros_like
from ..matrices import matrices_of
from .wrapped import genetic


class MixedFeatures:
    """Features of a block for every part of a :class:`MixedCovariance`, indexed and joined by columns."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = tuple(parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Only the last entry, the number of columns, means the same for every part."""
        return self.parts[0].shape

    def __getitem__(self, key) -> "MixedFeatures":
        return MixedFeatures([part[key] for part in self.parts])

    def __matmul__(self, C: np.ndarray) -> "MixedFeatures":
        return MixedFeatures([times(part, C) for part in self.parts])

    def __add__(self, other: "MixedFeatures") -> "MixedFeatures":
        return MixedFeatures([a + b for a, b in zip(self.parts, other.parts, strict=True)])

    def __iadd__(self, other: "MixedFeatures") -> "MixedFeatures":
        for a, b in zip(self.parts, other.parts, strict=True):
            a += b
        return self

    @staticmethod
    def side_by_side(blocks: Sequence["MixedFeatures"]) -> "MixedFeatures":
        return MixedFeatures([columns(*parts) for parts in zip(*(block.parts for block in blocks), strict=True)])


class MixedCovariance(Covariance):
    """The components of several covariances of the same samples as one: genotypes beside dense matrices.

    Blocks are those of the first part, which should be the one on a device.  A part whose ``home`` is the same takes
    them as they are, another by ``block`` from an array, and its results go back the same way.  Cost: the parts'.
    """

    def __init__(self, parts: Sequence[Covariance]):
        self.parts = tuple(genetic(part) for part in parts)
        self.names = tuple(name for part in self.parts for name in part.names)
        self.num_samples = self.parts[0].num_samples
        self.num_components = len(self.names)
        self.dtype = self.parts[0].dtype
        self.backend = self.parts[0].backend
        unlike = [part.num_samples for part in self.parts if part.num_samples != self.num_samples]
        if unlike:
            raise ValueError(f"parts: expected {self.num_samples} samples in each, found {unlike[0]}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"parts: component name(s) {', '.join(twice)} occur more than once; make them unique")
        self._near = [part.home in (None, self.home) for part in self.parts]
        bounds = np.cumsum([0, *(part.num_components for part in self.parts)])
        self._own = [slice(first, last) for first, last in pairwise(bounds)]

    @property
    def home(self) -> Any:
        return self.parts[0].home

    @property
    def overlap(self) -> float:
        return max(part.overlap for part in self.parts)

    @property
    def traces(self) -> np.ndarray:
        return np.concatenate([part.traces for part in self.parts])

    @property
    def sweeps(self) -> int:
        """Reads of the genotypes in a product."""
        return sum(part.sweeps for part in self.parts)

    def diagonals(self) -> np.ndarray:
        """(n, G) the diagonal of every component."""
        return np.concatenate([part.diagonals() for part in self.parts], axis=1)

    def _blocks(self, B: Block) -> list[Block]:
        """B for every part, where that part computes."""
        return [B if near else part.block(np.asarray(B)) for part, near in zip(self.parts, self._near, strict=True)]

    def _back(self, image: Block, near: bool) -> Block:
        return image if near else self.block(np.asarray(image))

    def matrices(self):
        return chain.from_iterable(map(matrices_of, self.parts))

    def block(self, array):
        return self.parts[0].block(array)

    def apply(self, theta, B):
        """sum_g theta_g K_g B; a part whose theta are all zero costs nothing."""
        theta = np.asarray(theta)
        total = None
        for part, own, near in zip(self.parts, self._own, self._near, strict=True):
            if not theta[own].any():
                continue
            image = self._back(part.apply(theta[own], B if near else part.block(np.asarray(B))), near)
            total = image if total is None else total + image
        return zeros_like(B) if total is None else total

    def features(self, B):
        return MixedFeatures([part.features(b) for part, b in zip(self.parts, self._blocks(B), strict=True)])

    def inner(self, FA, FB):
        return np.concatenate([part.inner(*F) for part, *F in zip(self.parts, FA.parts, FB.parts, strict=True)])

    def image_squares(self, F):
        """(G, k) |K_g b|^2 by columns, nan for parts whose features do not hold the images."""
        return np.concatenate([part.image_squares(f) for part, f in zip(self.parts, F.parts, strict=True)])

    def gram(self, FA, FB=None):
        others = [None] * len(self.parts) if FB is None else FB.parts
        return np.concatenate([part.gram(*F) for part, *F in zip(self.parts, FA.parts, others, strict=True)])

    def core(self, B):
        return np.concatenate([part.core(b) for part, b in zip(self.parts, self._blocks(B), strict=True)])

    def apply_each(self, F):
        """A list of G blocks (n, k)."""
        return [
            self._back(image, near)
            for part, f, near in zip(self.parts, F.parts, self._near, strict=True)
            for image in part.apply_each(f)
        ]

    def apply_features(self, theta, F):
        theta = np.asarray(theta)
        images = (
            self._back(part.apply_features(theta[own], f), near)
            for part, f, own, near in zip(self.parts, F.parts, self._own, self._near, strict=True)
        )
        return reduce(add, images)
