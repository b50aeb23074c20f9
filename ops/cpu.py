"""Genotype products on the CPU: decode a tile with numba, multiply it with BLAS, while it is in cache.

Z (n, m) is the standardised genotype matrix of ``genotypes``; it exists only one tile at a time.  A block of variants
is decoded in chunks of samples.  With one chunk (n up to ``CHUNK_BYTES``-worth) the decoded tile serves both
directions of a product; with more, decoding again is cheaper than writing the tile to memory.

Products of calls with few columns in float32 go straight from the packed bytes (:mod:`gpu_reml.ops.cpu_fused`).

Only numpy's BLAS is called: scipy brings a second OpenBLAS, whose threads spin against the first's.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import get_num_threads
from scipy import sparse

from . import blas
from .cpu_fused import MIN_SAMPLES, fused_weighted, fused_z, fused_z_rows, fused_zt
from .cpu_kernels import as_pairs, decode, pair_table, scatter
from .dosages import DOSAGE_MISSING, decode_dosages
from .genotypes import (
    CALL_BITS,
    CHUNK,
    Block,
    PackedGenotypes,
    blocks,
    blocks_between,
    chunks,
    decode_table,
    items_per_row,
)
from .weights import BlockWeights, overlapping

BLOCK_WIDTH = 512  # variants a tile: enough rows for BLAS to run at speed, few enough to stay in cache
CHUNK_BYTES = 1 << 15  # bytes of one variant's decoded values in a tile (8,192 samples in float32)
FUSED_COLUMNS = 24  # most columns for which products straight from packed bytes beat decoding and BLAS
SCATTERED = 4  # how many times cheaper a column is in BLAS than added to one group at a time
HELD_BYTES = 1 << 26  # a decoded tile of whole blocks of weights
INNER_ROWS = 1 << 14  # variants whose products are held in float64 at once
GRAM_BYTES = 1 << 21  # features of a Gram matrix that are held in float64 at once
ALONE = 1 << 22  # multiplications of a Gram matrix that one thread does sooner than it shares them
GROUPED_BYTES = 1 << 28  # right-hand sides and results of a grouped product that are laid out at once
MOST_RUNS = 8  # of variants of the same groups that a chunk is cut into


@dataclass(frozen=True)
class CpuProducts:
    """Products with Z of ``genotypes`` in ``dtype`` (float32 tiles by default, float64 for exact comparisons).

    Every method costs one read of the packed genotypes; a *pass* is both directions, Z (Z' B).  ``block_width`` and
    ``chunk_bytes`` shape the decoded tiles; float32 products of calls with at most ``fused_columns`` columns need none.
    """

    genotypes: PackedGenotypes
    dtype: type = np.float32
    block_width: int = BLOCK_WIDTH
    chunk_bytes: int = CHUNK_BYTES
    fused_columns: int = FUSED_COLUMNS

    name = "cpu"

    def __post_init__(self):
        if not isinstance(self.genotypes, PackedGenotypes):
            raise ValueError(f"genotypes: expected those of standardise, found {type(self.genotypes).__name__}")
        if np.dtype(self.dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise ValueError(f"dtype: expected float32 or float64, found {self.dtype}")
        if self.block_width < 1 or self.chunk_bytes < 64:
            raise ValueError(
                f"expected block_width >= 1 and chunk_bytes >= 64, found {self.block_width}, {self.chunk_bytes}"
            )

    @property
    def num_samples(self) -> int:
        return self.genotypes.num_samples

    @property
    def num_variants(self) -> int:
        return self.genotypes.num_variants

    @property
    def arithmetic(self) -> str:
        """What multiplies, in words for a log."""
        return f"{np.dtype(self.dtype)} products"

    @property
    def home(self) -> tuple[str, np.dtype]:
        """Where blocks live: those of one type need no copy."""
        return "arrays", np.dtype(self.dtype)

    def block(self, array: np.ndarray) -> np.ndarray:
        """An array (n, k) in the working type."""
        return np.asarray(array, self.dtype)

    def zt(self, B: np.ndarray) -> np.ndarray:
        """Z' B, (n, k) -> (m, k); half a pass."""
        self._require_rows(B, self.num_samples, "B")
        if self._is_narrow(B):
            return fused_zt(self.genotypes, self.table, B)
        B = self._padded(B)
        U = np.zeros((self.num_variants, B.shape[1]), self.dtype)
        for_each_tile(self, lambda block, samples, T: _add(U[block.rows], T @ B[samples]))
        return U

    def z(self, U: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        """Z U, or Z diag(w) U for weights w (m,), (m, k) -> (n, k); half a pass."""
        self._require_rows(U, self.num_variants, "U")
        w = np.ones((self.num_variants, 1), self.dtype) if w is None else np.asarray(w, self.dtype)[:, None]
        if self._is_narrow(U):
            return fused_z(self.genotypes, self.table, w * U)
        out = self._zero_rows(U.shape[1])
        for_each_tile(self, lambda block, samples, T: _add(out[samples], T.T @ (w[block.rows] * U[block.rows])))
        return out[: self.num_samples]

    def weighted(self, B: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Z W Z' B, (n, k) -> (n, k); W is diag(w) for weights w (m,), or a :class:`BlockWeights`; one pass."""
        self._require_rows(B, self.num_samples, "B")
        if isinstance(w, BlockWeights):
            return self._block_weighted(B, w)
        if self._is_narrow(B):
            return fused_weighted(self.genotypes, self.table, B, w)
        B = self._padded(B)
        w = np.asarray(w, self.dtype)[:, None]
        out = self._zero_rows(B.shape[1])
        decoder = _Decoder(self)
        for block in blocks(self.genotypes, self.block_width):
            U = np.zeros((block.stop - block.start, B.shape[1]), self.dtype)
            for samples, T in decoder.tiles(block):
                U += T @ B[samples]
            U *= w[block.rows]
            # the last tile decoded is still in the buffer, so the way back starts with it
            for samples, T in decoder.tiles(block, backwards=True):
                _add(out[samples], T.T @ U)
        return out[: self.num_samples]

    def mixed(self, weights: sparse.spmatrix, theta: np.ndarray) -> np.ndarray:
        """(m,) weights of variants, from those of components (m, G) and theta (G,), as products take them."""
        return weights @ np.asarray(theta, np.float64)

    def _block_weighted(self, B: np.ndarray, weights: BlockWeights) -> np.ndarray:
        """Tiles are made of whole blocks of weights, so that one that was decoded serves both directions."""
        require_variants(weights, self.num_variants)
        if self._is_narrow(B):
            return fused_z(self.genotypes, self.table, weights.multiply(fused_zt(self.genotypes, self.table, B)))
        B = self._padded(B)
        out = self._zero_rows(B.shape[1])
        stretches = _Stretches(self, weights)
        for stretch in stretches:
            U = weights.multiply(stretches.features(stretch, B), stretch.start)
            for block in reversed(stretch.blocks):
                rows = slice(block.start - stretch.start, block.stop - stretch.start)
                for samples, T in stretches.decoder.tiles(block, backwards=True):
                    _add(out[samples], T.T @ U[rows])
        return out[: self.num_samples]

    def multiply_blocks(self, F: np.ndarray, weights: BlockWeights) -> np.ndarray:
        """W F, (m, k) -> (m, k), of features F; no pass."""
        self._require_rows(F, self.num_variants, "F")
        require_variants(weights, self.num_variants)
        return weights.multiply(F)

    def block_core(self, B: np.ndarray, weights: BlockWeights, groups: Sequence[slice]) -> np.ndarray:
        """(G, k, k) float64 B' Z_g W_g Z_g' B for groups of consecutive variants, made of whole blocks; half a pass.

        Z' B is never held whole.
        """
        self._require_rows(B, self.num_samples, "B")
        require_variants(weights, self.num_variants)
        out = np.zeros((len(groups), B.shape[1], B.shape[1]))
        for start, stop, F in self._stretch_features(B, weights):
            WF = weights.multiply(F, start)
            for g, rows in overlapping(groups, start, stop):
                out[g] += F[rows].T @ WF[rows]
        return (out + out.transpose(0, 2, 1)) / 2

    def _stretch_features(self, B: np.ndarray, weights: BlockWeights) -> Iterator[tuple[int, int, np.ndarray]]:
        """(start, stop, Z' B (stop - start, k)) of consecutive variants that weights mix with no others."""
        B, stretches = self._padded(B), _Stretches(self, weights)
        for stretch in stretches:
            yield stretch.start, stretch.stop, stretches.features(stretch, B)

    def grouped(self, U: np.ndarray, weights: sparse.spmatrix) -> np.ndarray:
        """Z diag(W_g) Z-side products for every column g of ``weights`` (m, G): (m, k) -> (G, n, k); half a pass.

        Cost: variants in a row multiply only by the groups that have weight there, so disjoint contiguous groups
        together cost k columns, and groups that overlap everywhere G k.  Where a variant is in few of its block's
        groups, each is added to those alone.
        """
        U = np.ascontiguousarray(U, self.dtype)
        weights = sparse.csr_array(weights)
        if self._is_scattered(weights):
            return self._scattered(U, weights)
        k = U.shape[1]
        out = np.zeros((weights.shape[1], self.num_samples, k), self.dtype)
        per_batch = max(1, GROUPED_BYTES // (8 * max(1, k) * (CHUNK + self.num_samples)))
        for start, stop in _runs(weights):
            rows = weights[start:stop]
            active = np.unique(rows.indices)
            for first in range(0, len(active), per_batch):
                batch = active[first : first + per_batch]
                right = rows[:, batch].toarray().astype(self.dtype)[:, :, None] * U[start:stop, None, :]
                product = self._z_rows(start, stop, right.reshape(stop - start, -1))
                out[batch] += product.reshape(-1, len(batch), k).transpose(1, 0, 2)
        return out

    def _z_rows(self, start: int, stop: int, V: np.ndarray) -> np.ndarray:
        """Z V (n, c) of variants start:stop, V (stop - start, c)."""
        if self._is_narrow(V):
            return fused_z_rows(self.genotypes, self.table, V, start, stop)
        out, decoder = self._zero_rows(V.shape[1]), _Decoder(self)
        for block in blocks_between(self.genotypes, start, stop, self.block_width):
            for samples, T in decoder.tiles(block):
                _add(out[samples], T.T @ V[block.start - start : block.stop - start])
        return out[: self.num_samples]

    def _is_scattered(self, weights: sparse.csr_array) -> bool:
        """Whether the variants of a block are in few of the groups that the block has."""
        block = np.repeat(np.arange(self.num_variants) // self.block_width, np.diff(weights.indptr))
        active = len(np.unique(block * weights.shape[1] + weights.indices))
        return SCATTERED * weights.nnz < self.block_width * active

    def _scattered(self, U: np.ndarray, weights: sparse.csr_array) -> np.ndarray:
        out = np.zeros((weights.shape[1], U.shape[1], self._padded_samples), self.dtype)
        data, indices = weights.data.astype(self.dtype), weights.indices.astype(np.int64)

        def add_block(block: Block, samples: slice, T: np.ndarray) -> None:
            indptr = weights.indptr[block.start : block.stop + 1].astype(np.int64)
            scatter(T, U[block.rows], indptr, indices, data, out[:, :, samples])

        for_each_tile(self, add_block)
        return np.ascontiguousarray(out[:, :, : self.num_samples].transpose(0, 2, 1))

    def inner(self, FA: np.ndarray, FB: np.ndarray, weights: sparse.spmatrix) -> np.ndarray:
        """(G, k) float64 fa_k' W_g fb_k for every column g of ``weights``, from features FA and FB (m, k); no pass."""
        weights = sparse.csr_array(weights)
        out = np.zeros((weights.shape[1], FA.shape[1]))
        for first in range(0, len(FA), INNER_ROWS):
            rows = slice(first, first + INNER_ROWS)
            out += weights[rows].T @ (FA[rows].astype(np.float64) * FB[rows])
        return out

    def gram(self, FA: np.ndarray, FB: np.ndarray | None, weights: sparse.spmatrix) -> np.ndarray:
        """(G, a, b) FA' W_g FB for every column g of ``weights``, from features (m, a) and (m, b); no pass.

        FB None: FA.
        """
        out = self._grams((FA,), FA if FB is None else FB, weights)
        return (out + out.transpose(0, 2, 1)) / 2 if FB is None else out

    def grams(self, pieces: Sequence[np.ndarray], F: np.ndarray, weights: sparse.spmatrix) -> np.ndarray:
        """(G, d + k, k) [F_1 .. F_p, F]' W_g F for every column g of ``weights``, from features of d columns in
        ``pieces`` (m, d_i) and F (m, k); no pass."""
        out = self._grams((*pieces, F), F, weights)
        own = out[:, -F.shape[1] :]
        out[:, -F.shape[1] :] = (own + own.transpose(0, 2, 1)) / 2
        return out

    def _grams(self, pieces: Sequence[np.ndarray], F: np.ndarray, weights: sparse.spmatrix) -> np.ndarray:
        """[F_1 .. F_p]' W_g F; components are dealt to as many threads as numba has."""
        columns, width = sparse.csc_array(weights), sum(piece.shape[1] for piece in pieces)
        out = np.empty((columns.shape[1], width, F.shape[1]))

        def of_group(g: int) -> None:
            entries = slice(columns.indptr[g], columns.indptr[g + 1])
            out[g] = weighted_gram(pieces, F, columns.indices[entries], columns.data[entries])

        if columns.nnz * width * F.shape[1] < ALONE:
            for g in range(len(out)):
                of_group(g)
        else:
            with blas.one_thread(), ThreadPoolExecutor(get_num_threads()) as pool:
                list(pool.map(of_group, range(len(out))))
        return out

    def core(self, B: np.ndarray, weights: sparse.spmatrix) -> np.ndarray:
        """(G, k, k) B' Z W_g Z' B for every column g of ``weights``; half a pass, and Z' B is never held whole."""
        self._require_rows(B, self.num_samples, "B")
        B, weights = self._padded(B), sparse.csr_array(weights)
        out, decoder = np.zeros((weights.shape[1], B.shape[1], B.shape[1])), _Decoder(self)
        for block in blocks(self.genotypes, self.block_width):
            F = sum(T @ B[samples] for samples, T in decoder.tiles(block))
            local = sparse.csc_array(weights[block.rows])
            for g in np.unique(local.nonzero()[1]):
                entries = slice(local.indptr[g], local.indptr[g + 1])
                out[g] += weighted_gram((F,), F, local.indices[entries], local.data[entries])
        return (out + out.transpose(0, 2, 1)) / 2

    def squared_norms_by_sample(self, weights: sparse.spmatrix) -> np.ndarray:
        """(n, G) float64: sum_j W_jg z_ij^2, the diagonals of Z diag(W_g) Z'; half a pass."""
        weights = sparse.csr_array(weights)
        out = np.zeros((self._padded_samples, weights.shape[1]))

        def add_block(block: Block, samples: slice, T: np.ndarray) -> None:
            out[samples] += (T * T).T @ weights[block.start : block.stop].toarray().astype(self.dtype)

        for_each_tile(self, add_block)
        return out[: self.num_samples]

    @cached_property
    def table(self) -> np.ndarray:
        """What decodes each variant, in the working type."""
        return decode_table(self.genotypes, self.dtype)

    def _is_narrow(self, B: np.ndarray) -> bool:
        """Whether B has so few columns that the decoded tiles would cost more than they save."""
        enough = self.num_samples >= MIN_SAMPLES and self.genotypes.bits == CALL_BITS
        return enough and np.dtype(self.dtype) == np.float32 and 1 <= B.shape[1] <= self.fused_columns

    def _require_rows(self, B: np.ndarray, rows: int, name: str) -> None:
        if B.ndim != 2 or len(B) != rows:
            raise ValueError(f"{name}: expected ({rows}, k), found {B.shape}")

    @property
    def _padded_samples(self) -> int:
        """Samples that a row of genotypes has room for."""
        per_item = self.genotypes.samples_per_item
        return per_item * items_per_row(self.num_samples, self.genotypes.bits)

    def _zero_rows(self, k: int) -> np.ndarray:
        return np.zeros((self._padded_samples, k), self.dtype)

    def _padded(self, B: np.ndarray) -> np.ndarray:
        """B in the working type with zero rows for the bits after the last sample."""
        if len(B) == self._padded_samples:
            return np.ascontiguousarray(B, self.dtype)
        padded = self._zero_rows(B.shape[1])
        padded[: len(B)] = B
        return padded


def _runs(weights: sparse.csr_array) -> Iterator[tuple[int, int]]:
    """Chunks of the variants that have weight, cut where the groups change if they seldom do."""
    counts = np.diff(weights.indptr)
    for start, stop in chunks(0, weights.shape[0]):
        here = counts[start:stop]
        if not here.any():
            continue
        group = np.full(stop - start, -1)
        alone = here == 1
        group[alone] = weights.indices[weights.indptr[start:stop][alone]]
        changes = np.flatnonzero((np.diff(group) != 0) | (np.diff(here) != 0)) + 1
        cuts = start + changes if len(changes) < MOST_RUNS else []
        for first, last in pairwise([start, *cuts, stop]):
            if weights.indptr[last] > weights.indptr[first]:
                yield int(first), int(last)


def weighted_gram(pieces: Sequence[np.ndarray], B: np.ndarray, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
    """[A_1 .. A_p][rows]' diag(w) B[rows] in float64, a slab of rows at a time."""
    ends = np.cumsum([piece.shape[1] for piece in pieces])
    total = np.zeros((ends[-1], B.shape[1]))
    slab_rows = max(1, min(len(rows), GRAM_BYTES // (8 * max(1, int(ends[-1])))))
    left = np.empty((slab_rows, ends[-1]))
    for first in range(0, len(rows), slab_rows):
        slab = rows[first : first + slab_rows]
        for piece, last in zip(pieces, ends, strict=True):
            left[: len(slab), last - piece.shape[1] : last] = np.take(piece, slab, axis=0)
        total += left[: len(slab)].T @ (w[first : first + slab_rows, None] * np.take(B, slab, axis=0))
    return total


def _add(target: np.ndarray, term: np.ndarray) -> None:
    np.add(target, term, out=target)


class _Decoder:
    """Decodes tiles into one reused buffer; a tile that is asked for twice running is decoded once."""

    def __init__(self, products: CpuProducts, width: int | None = None):
        self._table, self._bits = products.table, products.genotypes.bits
        self._per_item = products.genotypes.samples_per_item
        self._items = items_per_row(products.num_samples, self._bits)
        self._chunk = min(self._items, products.chunk_bytes // (self._per_item * np.dtype(products.dtype).itemsize))
        self._buffer = np.empty((width or products.block_width, self._per_item * self._chunk), products.dtype)
        self._held: tuple[int, int] | None = None

    def tiles(self, block: Block, backwards: bool = False) -> Iterator[tuple[slice, np.ndarray]]:
        """(samples, tile) for each chunk of samples; the tile (b, samples) holds until the next one is asked for."""
        starts = range(0, self._items, self._chunk)
        for first in reversed(starts) if backwards else starts:
            last = min(first + self._chunk, self._items)
            samples = slice(self._per_item * first, self._per_item * last)
            tile = self._buffer[: len(block.packed), : samples.stop - samples.start]
            if self._held != (block.start, first):
                decode_items(block.packed[:, first:last], self._table[block.rows], tile, self._bits)
                self._held = (block.start, first)
            yield samples, tile


def decode_items(items: np.ndarray, table: np.ndarray, tile: np.ndarray, bits: int) -> None:
    """Write the standardised genotypes of packed ``items`` (b, items) to ``tile`` (b, samples)."""
    if bits == CALL_BITS:
        decode(items, pair_table(table), as_pairs(tile))
    else:
        decode_dosages(items, table, DOSAGE_MISSING[bits], tile)


class _Stretch(NamedTuple):
    """Variants ``start:stop`` that weights mix with no others, in ``blocks`` that are decoded one at a time."""

    start: int
    stop: int
    blocks: tuple[Block, ...]


class _Stretches:
    """The stretches of block weights that have any, and a decoder with room for the largest, up to HELD_BYTES."""

    def __init__(self, products: CpuProducts, weights: BlockWeights):
        listed = list(weights.stretches(products.block_width))
        nonzero = np.concatenate([[0], np.cumsum(weights.factors_by_variant != 0)])
        self._listed = [(start, stop) for start, stop in listed if nonzero[stop] > nonzero[start]]
        per_row = min(products.chunk_bytes, products._padded_samples * np.dtype(products.dtype).itemsize)
        longest = max((stop - start for start, stop in self._listed), default=1)
        self._width = min(longest, max(products.block_width, HELD_BYTES // per_row))
        self._genotypes, self._dtype = products.genotypes, products.dtype
        self.decoder = _Decoder(products, self._width)

    def __iter__(self) -> Iterator[_Stretch]:
        for start, stop in self._listed:
            yield _Stretch(start, stop, tuple(blocks_between(self._genotypes, start, stop, self._width)))

    def features(self, stretch: _Stretch, B: np.ndarray) -> np.ndarray:
        """Z' B of the stretch, (b, k)."""
        U = np.zeros((stretch.stop - stretch.start, B.shape[1]), self._dtype)
        for block in stretch.blocks:
            rows = slice(block.start - stretch.start, block.stop - stretch.start)
            for samples, T in self.decoder.tiles(block):
                _add(U[rows], T @ B[samples])
        return U


def require_variants(weights: BlockWeights, num_variants: int) -> None:
    if weights.num_variants != num_variants:
        raise ValueError(f"weights: expected blocks of {num_variants} variants in all, found {weights.num_variants}")


def for_each_tile(products: CpuProducts, use: Callable[[Block, slice, np.ndarray], None]) -> None:
    """Call ``use(block, samples, tile)`` for every tile of Z', in variant then sample order.

    ``tile`` (variants of the block, samples) is valid only during the call.
    """
    decoder = _Decoder(products)
    for block in blocks(products.genotypes, products.block_width):
        for samples, tile in decoder.tiles(block):
            use(block, samples, tile)


def to_dense(genotypes: PackedGenotypes) -> np.ndarray:
    """Z (n, m) float64, for small cohorts and tests; the one function that holds n x m numbers."""
    rows = []
    for_each_tile(
        CpuProducts(genotypes, np.float64, chunk_bytes=1 << 40), lambda block, samples, T: rows.append(T.copy())
    )
    return np.ascontiguousarray(np.concatenate(rows).T[: genotypes.num_samples])
