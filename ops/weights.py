"""Weights between the two halves of a product, Z W Z': a vector is diag(w); dense symmetric blocks are here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


class HeldBlocks(NamedTuple):
    """Some blocks: all ``matrices`` one after another in a flat float32 array, and the first variant of each (and the
    end of the last) in ``starts``."""

    matrices: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class BlockWeights:
    """Block-diagonal W (m, m): dense symmetric ``matrices`` (b_i, b_i) of consecutive variants, in order."""

    matrices: tuple[np.ndarray, ...]

    def __init__(self, matrices: Sequence[np.ndarray]):
        object.__setattr__(self, "matrices", tuple(np.ascontiguousarray(W, np.float32) for W in matrices))
        for i, W in enumerate(self.matrices):
            if W.ndim != 2 or W.shape[0] != W.shape[1] or not len(W):
                raise ValueError(f"matrices[{i}]: expected a square matrix, found {W.shape}")
            if not np.isfinite(W).all():
                raise ValueError(f"matrices[{i}]: has entries that are not finite")
            if not np.allclose(W, W.T, rtol=1e-5, atol=1e-6 * np.abs(W).max()):
                raise ValueError(f"matrices[{i}]: is not symmetric")

    @cached_property
    def starts(self) -> np.ndarray:
        """First variant of every block, and m: where a piece of genotypes may be cut."""
        return np.concatenate([[0], np.cumsum([len(W) for W in self.matrices])]).astype(np.int64)

    @property
    def num_variants(self) -> int:
        return int(self.starts[-1])

    @property
    def num_bytes(self) -> int:
        return sum(W.nbytes for W in self.matrices)

    def multiply(self, U: np.ndarray) -> np.ndarray:
        """W U, (m, k) -> (m, k)."""
        out = np.empty_like(U)
        for W, start in zip(self.matrices, self.starts[:-1], strict=True):
            out[start : start + len(W)] = W.astype(U.dtype, copy=False) @ U[start : start + len(W)]
        return out

    def between(self, start: int, stop: int) -> HeldBlocks:
        """The blocks of variants start:stop, counted from ``start``; a block that sticks out is an error."""
        first, last = np.searchsorted(self.starts, [start, stop])
        if self.starts[first] != start or self.starts[last] != stop:
            raise ValueError(
                f"weights: variants {start}:{stop} are moved together and cut a block of weights; "
                "make the products with cuts=weights.starts, and no block across two genotype files"
            )
        held = self.matrices[first:last]
        return HeldBlocks(np.concatenate([W.ravel() for W in held]), self.starts[first : last + 1] - start)
