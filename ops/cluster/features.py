"""Features (m, k) that stay on the workers that have their variants."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import tasks
from .session import Cluster


class ClusterFeatures:
    """Features of a block, each node's on the worker that holds its variants; arithmetic makes new ones there.

    ``terms``: what is summed, each a future for every node and a matrix (k', k) that it is multiplied by, None for one
    alone that is not.  Sums of products are made by one task a node, when they are needed.  ``edges``: where shards
    begin and end among a node's variants.  ``np.asarray`` brings all to the driver.
    """

    __array_ufunc__ = None  # so that NumPy leaves what it meets to these
    __slots__ = ("cluster", "columns", "dtype", "edges", "terms")
    ndim = 2

    def __init__(
        self, cluster: Cluster, terms: Sequence[Any], edges: Sequence[np.ndarray], columns: int, dtype: np.dtype
    ):
        self.cluster, self.terms, self.edges = cluster, tuple(terms), tuple(edges)
        self.columns, self.dtype = columns, np.dtype(dtype)

    @property
    def parts(self) -> tuple[Any, ...]:
        """A future for each node."""
        if len(self.terms) > 1 or self.terms[0][1] is not None:
            matrices = [C for _, C in self.terms]
            made = [
                self.cluster.submit(tasks.combination, [parts[i] for parts, _ in self.terms], matrices, edges)
                for i, edges in enumerate(self.edges)
            ]
            self.terms = ((tuple(made), None),)
        return self.terms[0][0]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(int(edges[-1]) for edges in self.edges), self.columns

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.concatenate(self.cluster.fetch(self.parts)).astype(dtype or self.dtype, copy=False)

    def _with(self, terms: Sequence[Any], columns: int) -> "ClusterFeatures":
        return ClusterFeatures(self.cluster, terms, self.edges, columns, self.dtype)

    def __getitem__(self, key) -> "ClusterFeatures":
        """Some columns, ``features[..., columns]``."""
        if not (isinstance(key, tuple) and len(key) == 2 and (key[0] is ... or key[0] == slice(None))):
            raise IndexError(f"features are indexed by columns, features[..., columns]; found {key!r}")
        taken = tuple(self.cluster.submit(tasks.take, part, key[1]) for part in self.parts)
        return self._with([(taken, None)], len(np.arange(self.columns)[key[1]]))

    def __matmul__(self, C: np.ndarray) -> "ClusterFeatures":
        """(m, k) @ (k, r), for a small NumPy matrix."""
        return self._with([(self.parts, C)], C.shape[1])

    def __add__(self, other: "ClusterFeatures") -> "ClusterFeatures":
        whole = np.eye(self.columns)
        terms = [(parts, whole if C is None else C) for each in (self, other) for parts, C in each.terms]
        return self._with(terms, self.columns)

    __iadd__ = __add__

    @classmethod
    def side_by_side(cls, blocks: "Sequence[ClusterFeatures]") -> "ClusterFeatures":
        first = blocks[0]
        each = zip(*(block.parts for block in blocks), strict=True)
        made = tuple(first.cluster.submit(tasks.side_by_side, *parts) for parts in each)
        return first._with([(made, None)], sum(block.columns for block in blocks))
