"""Features (m, k) that stay on the workers that have their variants."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import tasks
from .session import Cluster


class ClusterFeatures:
    """Features of a block, each node's on the worker that holds its variants; arithmetic makes new ones there.

    ``parts``: a future for each node, ``edges``: where shards begin and end among its variants.  ``np.asarray`` brings
    all to the driver.
    """

    __array_ufunc__ = None  # so that NumPy leaves what it meets to these
    __slots__ = ("cluster", "columns", "dtype", "edges", "parts")
    ndim = 2

    def __init__(
        self, cluster: Cluster, parts: Sequence[Any], edges: Sequence[np.ndarray], columns: int, dtype: np.dtype
    ):
        self.cluster, self.parts, self.edges = cluster, tuple(parts), tuple(edges)
        self.columns, self.dtype = columns, np.dtype(dtype)

    @property
    def shape(self) -> tuple[int, int]:
        return sum(int(edges[-1]) for edges in self.edges), self.columns

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.concatenate(self.cluster.fetch(self.parts)).astype(dtype or self.dtype, copy=False)

    def _made(self, function: Any, *others: Sequence[Any], columns: int) -> "ClusterFeatures":
        parts = [self.cluster.submit(function, *each) for each in zip(self.parts, *others, strict=True)]
        return ClusterFeatures(self.cluster, parts, self.edges, columns, self.dtype)

    def __getitem__(self, key) -> "ClusterFeatures":
        """Some columns, ``features[..., columns]``."""
        if not (isinstance(key, tuple) and len(key) == 2 and (key[0] is ... or key[0] == slice(None))):
            raise IndexError(f"features are indexed by columns, features[..., columns]; found {key!r}")
        width = len(np.arange(self.shape[1])[key[1]])
        return self._made(tasks.take, [key[1]] * len(self.parts), columns=width)

    def __matmul__(self, C: np.ndarray) -> "ClusterFeatures":
        """(m, k) @ (k, r), for a small NumPy matrix."""
        return self._made(tasks.times, [C] * len(self.parts), self.edges, columns=C.shape[1])

    def __add__(self, other: "ClusterFeatures") -> "ClusterFeatures":
        return self._made(tasks.add, other.parts, columns=self.shape[1])

    __iadd__ = __add__

    @classmethod
    def side_by_side(cls, blocks: "Sequence[ClusterFeatures]") -> "ClusterFeatures":
        first, rest = blocks[0], blocks[1:]
        width = sum(block.shape[1] for block in blocks)
        return first._made(tasks.side_by_side, *(block.parts for block in rest), columns=width)
