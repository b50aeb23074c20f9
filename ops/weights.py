"""Weights between the two halves of a product, Z W Z': a vector is diag(w); dense symmetric blocks are here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

RANK_TOLERANCE = 1e-8  # of the largest eigenvalue: those below it are not counted in a block's rank


class HeldBlocks(NamedTuple):
    """Some blocks: all ``matrices`` one after another in a flat float32 array, and the first variant of each (and the
    end of the last) in ``starts``."""

    matrices: np.ndarray
    starts: np.ndarray


class Stretch(NamedTuple):
    """Variants ``start:stop`` that are all of dense blocks, ``matrices``, or (none) all of identity blocks."""

    start: int
    stop: int
    matrices: tuple[np.ndarray, ...]

    @property
    def held(self) -> HeldBlocks:
        """The run's blocks as one buffer, counted from its first variant."""
        starts = np.concatenate([[0], np.cumsum([len(W) for W in self.matrices])]).astype(np.int64)
        return HeldBlocks(np.concatenate([W.ravel() for W in self.matrices]), starts)


@dataclass(frozen=True, init=False, eq=False)
class BlockWeights:
    """Block-diagonal W (m, m): symmetric blocks of consecutive variants, in order, each times a factor.

    ``matrices``: a dense (b_i, b_i) float32 array a block, or the number b_i for an identity of b_i variants, which
    takes no memory.  ``factors``: (blocks,) float64.  A matrix that is symmetric to rounding (1e-5) is replaced by
    (W + W') / 2; float32 C-contiguous arrays that are symmetric are kept as they are, so memory maps stay on disk.
    """

    matrices: tuple[np.ndarray | int, ...]
    factors: np.ndarray

    def __init__(self, matrices: Sequence[np.ndarray | int], factors: np.ndarray | None = None):
        checked = tuple(_checked_block(W, f"matrices[{i}]") for i, W in enumerate(matrices))
        self._set(checked, np.ones(len(checked)) if factors is None else factors)

    def _set(self, matrices: tuple, factors: np.ndarray) -> None:
        factors = np.asarray(factors, np.float64)
        if factors.shape != (len(matrices),) or not np.isfinite(factors).all():
            raise ValueError(f"factors: expected {len(matrices)} finite numbers, one a block, found {factors.shape}")
        object.__setattr__(self, "matrices", matrices)
        object.__setattr__(self, "factors", factors)

    def scaled(self, factors: np.ndarray) -> "BlockWeights":
        """The same blocks with these factors; the matrices are shared, not copied."""
        other = object.__new__(BlockWeights)
        other._set(self.matrices, factors)
        other.__dict__.update(sizes=self.sizes, starts=self.starts)
        return other

    @classmethod
    def joined(cls, parts: "Sequence[BlockWeights]") -> "BlockWeights":
        """The blocks of several one after another; the matrices are shared."""
        whole = object.__new__(cls)
        whole._set(tuple(W for part in parts for W in part.matrices), np.concatenate([part.factors for part in parts]))
        return whole

    @cached_property
    def sizes(self) -> np.ndarray:
        """(blocks,) variants of every block."""
        return np.array([W if isinstance(W, int) else len(W) for W in self.matrices], np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """First variant of every block, and m."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @cached_property
    def cuts(self) -> np.ndarray:
        """Ascending variants where a piece of genotypes may end: between blocks, and anywhere within an identity."""
        whole = np.array([isinstance(W, int) for W in self.matrices])
        inner = [np.arange(a, b) for (a, b), cut in zip(pairwise(self.starts), whole, strict=True) if cut]
        return np.unique(np.concatenate([self.starts, *inner])).astype(np.int64)

    @property
    def num_variants(self) -> int:
        return int(self.starts[-1])

    @property
    def num_bytes(self) -> int:
        return sum(W.nbytes for W in self.matrices if not isinstance(W, int))

    @property
    def factors_by_variant(self) -> np.ndarray:
        """(m,) every variant's block's factor."""
        return np.repeat(self.factors, self.sizes)

    def multiply(self, U: np.ndarray, start: int = 0) -> np.ndarray:
        """W U, (b, k) -> (b, k), for the variants from ``start`` on; they may cut no block.

        Cost: sum of b_i^2 k; in U's type, with a block's matrix copied to it where that is not float32.
        """
        out = np.empty_like(U)
        first = int(np.searchsorted(self.starts, start))
        if self.starts[first] != start:  # within an identity
            first -= 1
        for W, factor, begin, end in zip(
            self.matrices[first:], self.factors[first:], self.starts[first:-1], self.starts[first + 1 :], strict=True
        ):
            rows = slice(max(begin - start, 0), min(end - start, len(U)))
            if rows.start >= len(U):
                break
            if isinstance(W, int) or factor == 0:
                np.multiply(U[rows], U.dtype.type(factor), out=out[rows])
                continue
            if rows.stop - rows.start != len(W):
                raise ValueError(_CUT.format(start=start, stop=start + len(U)))
            np.matmul(W.astype(U.dtype, copy=False), U[rows], out=out[rows])
            if factor != 1:
                out[rows] *= U.dtype.type(factor)
        return out

    def runs(self, start: int, stop: int) -> Iterator[Stretch]:
        """The blocks of variants start:stop, dense and identity ones in turns; a dense block that sticks out is an
        error."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        dense: list[np.ndarray] = []
        begin = start
        while first < len(self.matrices) and self.starts[first] < stop:
            W, here, end = self.matrices[first], int(self.starts[first]), int(self.starts[first + 1])
            if isinstance(W, int):
                if dense:
                    yield Stretch(begin, here, tuple(dense))
                    dense = []
                begin = min(end, stop)
                yield Stretch(max(here, start), begin, ())
            else:
                if here < start or end > stop:
                    raise ValueError(_CUT.format(start=start, stop=stop))
                dense.append(W)
            first += 1
        if dense:
            yield Stretch(begin, stop, tuple(dense))

    def stretches(self, width: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of consecutive variants that W mixes with no others: whole blocks that together are at most
        ``width`` variants, or one larger block; parts of an identity of at most that."""
        start, m, cuts = 0, self.num_variants, self.cuts
        while start < m:
            stop = int(cuts[np.searchsorted(cuts, start + width, side="right") - 1])
            if stop <= start:
                stop = int(cuts[np.searchsorted(cuts, start, side="right")])
            yield start, stop
            start = stop


_CUT = (
    "weights: variants {start}:{stop} are moved together and cut a block of weights; "
    "make the products with cuts=weights.cuts, and no block across two genotype files"
)


def _checked_block(W: np.ndarray | int, name: str) -> np.ndarray | int:
    """A symmetric float32 block, or the size of an identity, or a ValueError."""
    if np.ndim(W) == 0 and np.issubdtype(np.asarray(W).dtype, np.integer):
        if W < 1:
            raise ValueError(f"{name}: expected an identity of at least one variant, found {W}")
        return int(W)
    W = np.ascontiguousarray(W, np.float32)
    if W.ndim != 2 or W.shape[0] != W.shape[1] or not len(W):
        raise ValueError(f"{name}: expected a square matrix, or the number of variants of an identity, found {W.shape}")
    if not np.isfinite(W).all():
        raise ValueError(f"{name}: has entries that are not finite")
    if np.array_equal(W, W.T):
        return W
    if not np.allclose(W, W.T, rtol=1e-5, atol=1e-6 * np.abs(W).max()):
        raise ValueError(f"{name}: is not symmetric")
    return (W + W.T) / 2


def overlapping(groups: Sequence[slice], start: int, stop: int) -> Iterator[tuple[int, slice]]:
    """(g, its rows counted from ``start``) of the groups of variants that reach into start:stop."""
    for g, group in enumerate(groups):
        first, last = max(group.start, start), min(group.stop, stop)
        if first < last:
            yield g, slice(first - start, last - start)


def numerical_rank(W: np.ndarray) -> int:
    """Eigenvalues of a symmetric PSD W (b, b) above 1e-8 of the largest, or above the rounding of W's type.

    A matrix kept in float32 has noise of b 1.2e-7 of the largest eigenvalue where it should have zeros, so the limit is
    max(1e-8, b eps).  Cost: an eigendecomposition, b^3.
    """
    W = np.asarray(W)
    precision = np.finfo(W.dtype).eps if np.issubdtype(W.dtype, np.floating) else np.finfo(np.float64).eps
    values = np.linalg.eigvalsh(W.astype(np.float64, copy=False))
    return int((values > max(RANK_TOLERANCE, len(W) * precision) * max(values[-1], 0.0)).sum())
