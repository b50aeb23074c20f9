"""Genotype products on one or several devices: variants are shared out, partial products summed in a fixed order.

One device is the case of one shard.  Every shard works in a host thread of its own; sample-side blocks live on
the first device and visit the others through the host.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..genotypes import PackedGenotypes, decode_table
from ..weights import BlockWeights
from .block import DeviceBlock, ShardedBlock, zero_sums
from .block_weights import BlockProducts, require_rows
from .interface import Array, Device, WeightedRows
from .pool import size_class
from .store import Piece, Store, padded, pieces, pitch, rows_at_once

TILE_COLUMNS = 8  # columns are multiplied by eights: fewer cost the same
PRODUCT_COLUMNS = 512  # of a product at once: from there on it is bound by arithmetic, even while genotypes stream
SPREAD_COLUMNS = 64  # of right-hand sides for several groups that are laid out at once
PIECE_BYTES = 1 << 28  # packed genotypes moved and launched at once
RING_DEPTH = 3  # one being filled, one being copied, one being multiplied


class Shard(NamedTuple):
    """Some of the variants on one device."""

    device: Device
    store: Store

    @property
    def rows(self) -> slice:
        return slice(self.store.first, self.store.last)

    def factor(self, w: np.ndarray) -> Array:
        """Weights w of some variants on the device."""
        return self.device.upload(self.device.factor(w))


@dataclass(frozen=True)
class DeviceProducts(BlockProducts):
    """Products with Z (n, m) of ``genotypes`` on devices; the methods are those of
    :class:`~gpu_reml.ops.cpu.CpuProducts`, with blocks that stay there.

    NumPy arrays are accepted wherever a block is, and uploaded.  A *pass* is both directions, Z (Z' B): genotypes that
    are resident are read from the device's memory, the others cross the bus once for both directions.
    """

    genotypes: PackedGenotypes
    shards: tuple[Shard, ...]
    name: str = "cuda"
    _placed: dict = field(default_factory=dict, repr=False)

    dtype = np.float32

    @property
    def arithmetic(self) -> str:
        """What multiplies, in words for a log."""
        return self.lead.arithmetic

    @property
    def num_samples(self) -> int:
        return self.genotypes.num_samples

    @property
    def num_variants(self) -> int:
        return self.genotypes.num_variants

    @property
    def lead(self) -> Device:
        """The device on which blocks (n, k) live."""
        return self.shards[0].device

    @property
    def home(self) -> Device:
        """Where blocks live."""
        return self.lead

    @property
    def peak_bytes(self) -> dict[str, int]:
        """Most bytes that were held on every device."""
        return {shard.device.label: shard.device.pool.peak_held for shard in self.shards}

    def keep_within(self, planned: int) -> None:
        """Let memory go, rather than keep it for later, where more than ``planned`` bytes would be held on a device."""
        for shard in self.shards:
            shard.device.pool.planned = planned

    def block(self, array) -> DeviceBlock:
        """A block (n, k) on the first device; one that is there is returned as it is."""
        return array if isinstance(array, DeviceBlock) else DeviceBlock.upload(self.lead, array)

    def features(self, array) -> ShardedBlock:
        """Features (m, k) on the devices."""
        if isinstance(array, ShardedBlock):
            return array
        return ShardedBlock([DeviceBlock.upload(shard.device, array[shard.rows]) for shard in self.shards])

    def zt(self, B) -> ShardedBlock:
        """Z' B, (n, k) -> (m, k); half a pass."""
        require_rows("B", B, self.num_samples)
        return ShardedBlock(self._each(lambda shard, B_there: self._zt(shard, B_there), B))

    def _zt(self, shard: Shard, B: DeviceBlock) -> DeviceBlock:
        out = DeviceBlock.empty(shard.device, shard.store.last - shard.store.first, B.shape[1])
        if B.shape[1]:
            operand = shard.device.operand(B.array)
            for variants in shard.store.variants():
                here = slice(variants.start - shard.store.first, variants.stop - shard.store.first)
                shard.device.zt(variants, operand, out.array[here])
        return out

    def z(self, U, w: np.ndarray | None = None) -> DeviceBlock:
        """Z U, or Z diag(w) U for weights w (m,), (m, k) -> (n, k); half a pass."""
        require_rows("U", U, self.num_variants)
        w = np.ones(self.num_variants) if w is None else np.asarray(w, np.float64)
        return self._grouped(self.features(U), sparse.csc_array(w[:, None]), {})[0]

    def weighted(self, B, w) -> DeviceBlock:
        """Z W Z' B, (n, k) -> (n, k); W is diag(w) for weights w (m,), or a :class:`BlockWeights`; one pass.

        Variants without weight are not read.
        """
        require_rows("B", B, self.num_samples)
        if isinstance(w, BlockWeights):
            self._keep_matrices_of(w)
            factors = self._factors(w.factors_by_variant)
            return self._summed(self._each(lambda s, B_there: self._block_weighted(s, B_there, w, *factors[s]), B))
        if np.shape(w) != (self.num_variants,):
            raise ValueError(f"w: expected ({self.num_variants},), found {np.shape(w)}")
        factors = self._factors(np.asarray(w, np.float64))
        return self._summed(self._each(lambda shard, B_there: self._weighted(shard, B_there, *factors[shard]), B))

    def mixed(self, weights: sparse.spmatrix, theta: np.ndarray) -> np.ndarray:
        """(m,) weights of variants, from those of components (m, G) and theta (G,), as products take them."""
        return weights @ np.asarray(theta, np.float64)

    def _factors(self, w: np.ndarray) -> dict:
        """For every shard (its w, the factor on its device); those of the last call are kept, as solves repeat them."""
        known, placed = self._placed.get("w", (None, None))
        if known is None or not np.array_equal(known, w):
            placed = {s: (w[s.rows], s.factor(w[s.rows])) for s in self.shards}
            self._placed["w"] = w.copy(), placed
        return placed

    def _weighted(self, shard: Shard, B: DeviceBlock, w: np.ndarray, factor: Array) -> DeviceBlock:
        device, first, k = shard.device, shard.store.first, B.shape[1]
        if k > PRODUCT_COLUMNS:
            whole = DeviceBlock.empty(device, len(B), k)
            for batch in _batches(k):
                whole[:, batch] = self._weighted(shard, B[:, batch], w, factor)
            return whole
        if not k:
            return DeviceBlock.zeros(device, len(B), k)
        operand, out = device.operand(B.array), zero_sums(device, len(B), k)
        for variants in shard.store.variants(lambda piece: w[piece.start - first : piece.stop - first].any()):
            here = slice(variants.start - first, variants.stop - first)
            U = device.pool.array((variants.stop - variants.start, k), device.accumulator)
            device.zt(variants, operand, U)
            device.z(variants, U, WeightedRows(None, factor[here]), out)
            del U  # before the next piece's is made
        return DeviceBlock(device, device.rounded(out))

    def grouped(self, U, weights: sparse.spmatrix) -> list[DeviceBlock]:
        """G blocks (n, k): Z diag(W_g) U for every column g of ``weights`` (m, G), from U (m, k); half a pass.

        Cost: the smaller of k columns for every entry of ``weights`` and G k columns for every variant, by eights.
        Weights cross to the devices once, and stay there until others come.
        """
        require_rows("U", U, self.num_variants)
        if weights.shape[0] != self.num_variants:
            raise ValueError(f"weights: expected ({self.num_variants}, G), found {weights.shape}")
        return self._grouped(self.features(U), weights, self._placed)

    def _grouped(self, U: ShardedBlock, weights: sparse.spmatrix, kept: dict) -> list[DeviceBlock]:
        """kept: weights of earlier calls on the devices, in whose place these are left."""
        if not U.shape[1]:
            return [DeviceBlock.zeros(self.lead, self.num_samples, 0) for _ in range(weights.shape[1])]
        parts = self._each_with(U.parts, lambda shard, part: self._group_sums(shard, part, weights, kept))
        return [self._summed(list(blocks)) for blocks in zip(*parts, strict=True)]

    def _group_sums(self, shard: Shard, U: DeviceBlock, weights: sparse.spmatrix, kept: dict) -> list[DeviceBlock]:
        """The shard's part of every group, in the cheaper of two ways."""
        k, G = U.shape[1], weights.shape[1]
        together = self.num_variants * padded(G * k, TILE_COLUMNS)
        one_by_one = weights.nnz * padded(k, TILE_COLUMNS)
        place, sums = (self._spread, self._spread_sums) if together < one_by_one else (self._lists, self._listed_sums)
        key = place.__name__, shard.store.first
        if kept.get(key, (None, None))[0] is not weights:
            kept.pop(key, None)  # before room is asked for those in its place
            columns = sparse.csc_array(weights).sorted_indices()
            kept[key] = weights, {piece.start: place(shard, piece, columns[piece.rows]) for piece in shard.store.pieces}
        return sums(shard, U, kept[key][1], G)

    def _spread(self, shard: Shard, piece: Piece, weights: sparse.csc_array) -> tuple[DeviceBlock, WeightedRows]:
        """Weights of a piece (b, G) as a block on the device, and what selects all of its variants alike."""
        ones = shard.factor(np.ones(weights.shape[0]))
        return DeviceBlock.upload(shard.device, weights.toarray()), WeightedRows(None, ones)

    def _spread_sums(self, shard: Shard, U: DeviceBlock, placed: dict, G: int) -> list[DeviceBlock]:
        """Groups side by side: columns W_g U for several g are one right-hand side of all variants."""
        device, store, k = shard.device, shard.store, U.shape[1]
        batch = max(1, SPREAD_COLUMNS // k)
        batches = [range(g, min(g + batch, G)) for g in range(0, G, batch)]
        sums = [DeviceBlock.zeros(device, self.num_samples, k * len(groups)) for groups in batches]
        for variants in store.variants():
            W, alike = placed[variants.start]
            part = U.array[variants.start - store.first : variants.stop - store.first]
            for groups, out in zip(batches, sums, strict=True):
                some = W if len(batches) == 1 else W[:, groups.start : groups.stop]
                right = device.pool.array((len(part), k * len(groups)), np.float32)
                device.spread(part, some.array, right)
                device.z(variants, right, alike, out.array)
        return [
            out[:, k * g : k * (g + 1)] for groups, out in zip(batches, sums, strict=True) for g in range(len(groups))
        ]

    def _lists(self, shard: Shard, piece: Piece, weights: sparse.csc_array) -> list[tuple[int, WeightedRows]]:
        """The groups with weight on variants of a piece, and what selects these."""
        columns = ((g, *_column(weights, g)) for g in range(weights.shape[1]))
        return [(g, self._selection(shard, piece, rows, w)) for g, rows, w in columns if len(rows)]

    def _listed_sums(self, shard: Shard, U: DeviceBlock, placed: dict, G: int) -> list[DeviceBlock]:
        """Group by group: each adds up the variants that it has weight on."""
        device, store, k = shard.device, shard.store, U.shape[1]
        out = [DeviceBlock.zeros(device, self.num_samples, k) for _ in range(G)]
        for variants in store.variants():
            part = U.array[variants.start - store.first : variants.stop - store.first]
            for g, selection in placed[variants.start]:
                device.z(variants, part, selection, out[g].array)
        return out

    def _selection(self, shard: Shard, piece: Piece, rows: np.ndarray, w: np.ndarray) -> WeightedRows:
        """Weights w of some rows of a piece: as they are when all are listed."""
        factor = shard.factor(w)
        if len(rows) == piece.stop - piece.start:
            return WeightedRows(None, factor)
        return WeightedRows(shard.device.upload(rows.astype(np.int32)), factor)

    def inner(self, FA, FB, weights: sparse.spmatrix) -> np.ndarray:
        """(G, k) float64 fa_k' W_g fb_k for every column g of ``weights``, from features FA and FB (m, k); no pass."""
        FA, FB = self.features(FA), self.features(FB)

        def dots(shard: Shard, part: tuple[DeviceBlock, DeviceBlock]) -> np.ndarray:
            a, b = (block.array for block in part)
            return np.array([shard.device.weighted_dots(a, b, *entries) for entries in self._columns(shard, weights)])

        if not FA.shape[1]:
            return np.zeros((weights.shape[1], 0))
        return sum(self._each_with(list(zip(FA.parts, FB.parts, strict=True)), dots))

    def gram(self, FA, FB, weights: sparse.spmatrix) -> np.ndarray:
        """(G, a, b) float64 FA' W_g FB for every column g of ``weights``, from features (m, a) and (m, b); no pass.

        FB None: FA.
        """
        left = self.features(FA)
        right = left if FB is None else self.features(FB)

        def grams(shard: Shard, part: tuple[DeviceBlock, DeviceBlock]) -> np.ndarray:
            a, b = (block.array for block in part)
            return np.array([shard.device.weighted_gram(a, b, *entries) for entries in self._columns(shard, weights)])

        if not left.shape[1] or not right.shape[1]:
            return np.zeros((weights.shape[1], left.shape[1], right.shape[1]))
        total = sum(self._each_with(list(zip(left.parts, right.parts, strict=True)), grams))
        return (total + total.transpose(0, 2, 1)) / 2 if FB is None else total

    def grams(self, pieces: Sequence[Any], F, weights: sparse.spmatrix) -> np.ndarray:
        """(G, d + k, k) float64 [F_1 .. F_p, F]' W_g F for every column g of ``weights``, from features; no pass."""
        of_pieces = (self.gram(piece, F, weights) for piece in pieces)
        return np.concatenate([*of_pieces, self.gram(F, None, weights)], axis=1)

    def core(self, B, weights: sparse.spmatrix) -> np.ndarray:
        """(G, k, k) float64 B' Z W_g Z' B for every column g; half a pass, with Z' B of one piece at a time."""
        require_rows("B", B, self.num_samples)
        columns = sparse.csc_array(weights).sorted_indices()

        def cores(shard: Shard, B_there: DeviceBlock) -> np.ndarray:
            device, k = shard.device, B_there.shape[1]
            total = np.zeros((columns.shape[1], k, k))
            operands = self._operands(device, B_there)
            for variants in shard.store.variants():
                F = self._piece_features(device, variants, operands, k)
                local = columns[variants.rows]
                for g in np.flatnonzero(np.diff(local.indptr)):
                    total[g] += device.weighted_gram(F.array, F.array, *_listed(device, local, g))
                del F
            return total

        total = sum(self._each(cores, B))
        return (total + total.transpose(0, 2, 1)) / 2

    def _operands(self, device: Device, B: DeviceBlock) -> list[tuple[slice, Any]]:
        """(columns, their operand on the device) of B, a product's worth at a time."""
        return [(b, device.operand(B[:, b].array)) for b in _batches(B.shape[1])]

    def _piece_features(self, device: Device, variants, operands: list, k: int) -> DeviceBlock:
        """Z' B of a piece (b, k), from the operands of B (n, k)."""
        F = DeviceBlock.empty(device, variants.stop - variants.start, k)
        for batch, operand in operands:
            part = DeviceBlock.empty(device, len(F), batch.stop - batch.start)
            device.zt(variants, operand, part.array)
            F[:, batch] = part
        return F

    def _columns(self, shard: Shard, weights: sparse.spmatrix) -> list[tuple[Array | None, Array]]:
        """(rows, weights) of every column of ``weights`` on the device; kept for the weights of the last calls."""
        key = ("columns", shard.store.first)
        known, placed = self._placed.get(key, (None, None))
        if known is not weights:
            local = sparse.csc_array(weights)[shard.rows].sorted_indices()
            placed = [_listed(shard.device, local, g) for g in range(local.shape[1])]
            self._placed[key] = weights, placed
        return placed

    def squared_norms_by_sample(self, weights: sparse.spmatrix) -> np.ndarray:
        """(n, G) float64 (of float32 sums): sum_j W_jg z_ij^2, the diagonals of Z diag(W_g) Z'; half a pass."""
        if weights.shape[0] != self.num_variants:
            raise ValueError(f"weights: expected ({self.num_variants}, G), found {weights.shape}")
        weights = sparse.csc_array(weights).sorted_indices()
        tables = decode_table(self.genotypes, np.float32)

        def norms(shard: Shard, _) -> np.ndarray:
            out = [DeviceBlock.zeros(shard.device, self.num_samples, 1) for _ in range(weights.shape[1])]
            for variants in shard.store.variants():
                table, block = shard.device.upload(tables[variants.rows]), weights[variants.rows]
                for g, target in enumerate(out):
                    rows, w = _column(block, g)
                    if len(rows):
                        chosen = WeightedRows(
                            shard.device.upload(rows.astype(np.int32)), shard.device.upload(np.float32(w))
                        )
                        shard.device.squares(variants, table, chosen, target.array)
            return np.concatenate([np.asarray(block, np.float64) for block in out], axis=1)

        return sum(self._each_with([None] * len(self.shards), norms))

    # shards

    def _each(self, task: Callable[[Shard, DeviceBlock], Any], B) -> list:
        """``task(shard, B there)`` on every shard."""
        if len(self.shards) == 1:
            return [task(self.shards[0], self.block(B))]
        host = np.ascontiguousarray(B, np.float32)
        return self._each_with([host] * len(self.shards), lambda s, part: task(s, DeviceBlock.upload(s.device, part)))

    def _each_with(self, parts: Sequence, task: Callable[[Shard, Any], Any]) -> list:
        """``task(shard, part)`` on every shard, each in a thread of its own; in order."""
        if len(self.shards) == 1:
            return [task(self.shards[0], parts[0])]
        with ThreadPoolExecutor(len(self.shards)) as threads:
            running = [
                threads.submit(shard.device.run, lambda shard=shard, part=part: task(shard, part))
                for shard, part in zip(self.shards, parts, strict=True)
            ]
            return [future.result() for future in running]

    def _summed(self, parts: list[DeviceBlock]) -> DeviceBlock:
        """Partial products of all shards on the first device, in the shards' order."""
        total = parts[0]
        for part in parts[1:]:
            total = total + self.block(np.asarray(part))
        return total


def _column(weights: sparse.csc_array, g: int) -> tuple[np.ndarray, np.ndarray]:
    entries = slice(weights.indptr[g], weights.indptr[g + 1])
    return weights.indices[entries], weights.data[entries]


def _listed(device: Device, weights: sparse.csc_array, g: int) -> tuple[Array | None, Array]:
    """(rows, or None where all are listed, weights) of a column on a device."""
    rows, w = _column(weights, g)
    listed = None if len(rows) == weights.shape[0] else device.upload(rows.astype(np.int32))
    return listed, device.upload(w.astype(np.float64))


def _batches(num_columns: int) -> list[slice]:
    """Columns that are multiplied at once: more would only take more memory."""
    return [slice(c, min(c + PRODUCT_COLUMNS, num_columns)) for c in range(0, num_columns, PRODUCT_COLUMNS)]


@dataclass(frozen=True)
class Residency:
    """How genotypes are kept on each device: ``piece_bytes`` moved and launched at once, ``resident_bytes`` that may
    stay (None for all), ``ring_depth`` buffers for what streams."""

    piece_bytes: int = PIECE_BYTES
    resident_bytes: int | None = None
    ring_depth: int = RING_DEPTH

    def __post_init__(self):
        if self.piece_bytes < 1 or (self.resident_bytes or 0) < 0 or self.ring_depth < 1:
            raise ValueError(f"expected piece_bytes >= 1, resident_bytes >= 0 and ring_depth >= 1, found {self}")


def make_device_products(
    genotypes: PackedGenotypes,
    devices: Sequence[Device],
    residency: Residency | None = None,
    cuts: np.ndarray | None = None,
    name: str = "cuda",
) -> DeviceProducts:
    """Products with genotypes on ``devices``, an equal share of the variants on each; blocks live on the first.

    cuts: variants at which pieces may end (``cuts`` of :class:`BlockWeights`); default anywhere.
    Raises DeviceMemoryError when what should stay does not fit.
    """
    residency = residency or Residency()
    shares = [s for s in _shares(genotypes.num_variants, len(devices), cuts) if s.stop > s.start]
    shards = []
    for device, rows in zip(devices, shares, strict=False):
        store = device.run(lambda device=device, rows=rows: _make_store(device, genotypes, rows, residency, cuts))
        shards.append(Shard(device, store))
    return DeviceProducts(genotypes, tuple(shards), name)


def _shares(num_variants: int, num_devices: int, cuts: np.ndarray | None) -> list[slice]:
    """Variants for each device: equal numbers, to what the pieces may be cut at."""
    edges = [num_variants * d // num_devices for d in range(num_devices + 1)]
    if cuts is not None:
        edges = [int(cuts[np.searchsorted(cuts, edge)]) for edge in edges]
    return [slice(*pair) for pair in pairwise(edges)]


def _make_store(device: Device, genotypes: PackedGenotypes, rows: slice, residency: Residency, cuts) -> Store:
    row_bytes = pitch(genotypes.num_samples, device.pitch_alignment, genotypes.bits)
    width = rows_at_once(residency.piece_bytes, row_bytes, device.row_alignment)
    listed = pieces(genotypes, width, rows, cuts)
    room, resident = residency.resident_bytes, 0
    for piece in listed:
        size = size_class(padded(piece.stop - piece.start, device.row_alignment) * row_bytes)
        if room is not None:
            room -= size
            if room < 0:
                break
        resident += 1
    return Store(device, genotypes, listed, resident, residency.ring_depth)
