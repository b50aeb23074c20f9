"""Sums of genotypes times integers, for processors that multiply bytes, from packed calls or bytes of dosages.

Both directions decode a tile of packed bytes to bytes 0, 1, 2 once, for all columns, and then multiply: a 32-bit word
of the tile holds four genotypes along the direction that is summed, and meets words of four digits.  What multiplies
tile and digits is VNNI (:mod:`gpu_reml.ops.cpu_vnni`) or AMX (:mod:`gpu_reml.ops.cpu_amx`).

Z'B: rows of a tile are variants; word (t, i) of a row holds samples 16 i + {t, 4 + t, 8 + t, 12 + t} of a piece, which
two instructions take from sixteen packed genotypes.  Z V: rows are samples; a word holds four variants.

A byte of a dosage takes the place of a count.  Missing genotypes: :mod:`gpu_reml.ops.cpu_missing`; those of dosages
are few and always multiplied as masks.

:mod:`gpu_reml.ops.integers` says what the sums are for.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from .compile import compiled, parallel
from .cpu_amx_tiles import PAIR, configuration, configure, multiply_columns, multiply_rows, release, turn
from .cpu_decode import COUNTS, MASKS, NOTES, decode_groups, decode_words
from .cpu_decode_dosages import dosage_groups, dosage_words
from .cpu_missing import PIECE, ROOM, add_found, add_noted, how_missing, note_variants
from .cpu_simd import prefetch
from .cpu_vnni_dot import multiply
from .integers import Integers, mean_rests

HEIGHT = 96  # most variants of a tile of Z'B: a multiple of every kind's row step
VECTORS = 3  # most vectors of 64 samples of a tile of Z V; ROOM is at least 16 of them
SLACK = 32  # rows that a register tile may reach past the last one
DEPTH = 1024  # variants of one tile of Z V
ROWS_AHEAD, GROUPS_AHEAD = 2, 8  # variants, and groups of four, between what is decoded and what is fetched
SPAN = 1 << 12  # words of 16 samples whose bytes times digits an int32 sums for certain: 65,536 times 255 times 128


class Kernels(NamedTuple):
    """What multiplies tiles of counts by digits, one kind of instruction."""

    instruction: str  # the processor's name for what has it
    available: Callable[[], bool]  # whether this processor, and the system, let this process use it
    lay_samples: Callable[[Integers, int], np.ndarray]  # digits of (n, k) for so many words of 16 samples
    lay_variants: Callable[[Integers], np.ndarray]  # digits of (b, k)
    row_step: int  # rows of its register tiles divide it
    tiles: bool = False  # whether its registers are tiles, which each thread configures


class SampleDigits:
    """Integers of a block (n, k) laid out for Z'B: made once for all variants."""

    def __init__(self, integers: Integers, kernels: Kernels):
        self.integers, self.kernels, self.num_samples = integers, kernels, len(integers.values)
        self.room = -(-self.num_samples // 256) * 16  # words of 16 samples, in whole vectors
        self.values = _in_vectors(integers.values, more=3)  # a byte has room for 3 samples after the last
        self.digits = kernels.lay_samples(integers, self.room)
        self.totals = integers.values.sum(axis=0, dtype=np.int64)


class Plane(NamedTuple):
    """Packed calls, or a byte of every dosage, of variants (b, items), and what makes values of them.

    A missing genotype is taken as ``fill``, and the mean is ``above`` the ``base``: all in steps of ``unit`` copies.
    """

    items: np.ndarray
    fill: np.ndarray
    base: np.ndarray
    above: np.ndarray
    inv_sd: np.ndarray
    num_missing: np.ndarray
    unit: float = 1.0
    kind: tuple[int, int] | None = None  # of dosages: lowest bit of the byte, and the code of a missing one

    def how_missing(self, n: int, columns: int, digits: int) -> np.ndarray:
        """(b,) what is decoded of each variant for its missing genotypes."""
        if self.kind is None:
            return how_missing(self.num_missing, n, columns, digits)
        return np.where(self.num_missing > 0, MASKS, COUNTS).astype(np.int8)


def zt_sums(plane: Plane, samples: SampleDigits, out: np.ndarray) -> None:
    """out (b, columns) = Z'B of these variants, of each column of the integers."""
    q, kernels = samples.integers, samples.kernels
    _zt(
        _read_only(plane.items),
        plane.kind,
        plane.fill,
        plane.base,
        plane.above,
        plane.inv_sd * plane.unit,
        plane.how_missing(samples.num_samples, len(q.scale), q.digits),
        samples.values,
        q.scale,
        samples.totals,
        samples.digits,
        q.digits,
        samples.room,
        _even_height(len(plane.items), kernels.row_step),
        _configuration(kernels),
        out,
    )


def add_z_sums(plane: Plane, integers: Integers, kernels: Kernels, out: np.ndarray) -> None:
    """out (n, columns) float64 += Z V of a chunk's variants; ``integers`` (b, columns) of s_j v_jk."""
    b, columns = integers.values.shape
    rests, totals = mean_rests(integers, plane.fill, plane.base, plane.above)
    mask_digits = integers.digits + (integers.parts == 1)
    how = plane.how_missing(len(out), columns, mask_digits)
    dense = np.flatnonzero(how == MASKS)
    _z(
        _read_only(plane.items),
        plane.kind,
        plane.fill,
        _in_fours(np.arange(b)),
        _in_fours(dense),
        how,
        rests,
        totals,
        integers.scale * plane.unit,
        float(integers.mean_steps),
        kernels.lay_variants(integers),
        kernels.lay_variants(Integers(rests[dense, :columns], integers.scale, mask_digits)),
        (integers.digits, mask_digits),
        _shares(len(out)),
        _configuration(kernels),
        out,
    )


def _in_fours(rows: np.ndarray) -> np.ndarray:
    """The same rows, the last once more until they are a multiple of four."""
    return np.pad(rows, (0, -len(rows) % 4), "edge" if len(rows) else "constant")


def _in_vectors(values: np.ndarray, more: int = 0) -> np.ndarray:
    """The same integers (rows, k) as int32 with zeros for ``more`` rows and up to a multiple of 16 columns."""
    rows, k = values.shape
    wide = np.zeros((rows + more, -(-k // 16) * 16), np.int32)
    wide[:rows, :k] = values
    return wide


def aligned_zeros(*shape: int) -> np.ndarray:
    """int8 zeros of this shape from the start of a cache line on."""
    count = math.prod(shape)
    room = np.zeros(count + 64, np.int8)
    skip = -room.ctypes.data % 64
    return room[skip : skip + count].reshape(shape)


def _configuration(kernels: Kernels) -> np.ndarray | None:
    """For the kernels below, which are compiled for one kind of instruction or the other by whether it is None."""
    return configuration() if kernels.tiles else None


def _read_only(packed: np.ndarray) -> np.ndarray:
    """Memory maps are read-only, so all bytes are passed as read-only: a kernel then compiles once for every source."""
    packed = np.ascontiguousarray(packed).view()
    packed.flags.writeable = False
    return packed


def _even_height(rows: int, step: int) -> int:
    """Rows of a tile of Z'B, a multiple of ``step``, so that every thread has as many tiles."""
    threads = numba.get_num_threads()
    tasks = math.ceil(max(1, rows) / (HEIGHT * threads)) * threads
    return max(step, math.ceil(rows / tasks / step) * step)


def _shares(n: int) -> tuple[int, int]:
    """(tasks, vectors of 64 samples) of tiles of Z V, so that every thread has as many."""
    vectors, threads = -(-n // 64), numba.get_num_threads()
    return min(vectors, threads * math.ceil(vectors / (VECTORS * threads))), vectors


@compiled
def lay_group(values, first, step, left, digits, out):
    """out[d k + c] = digit d of column c of four rows of integers, a byte each; rows after the last are 0."""
    k = values.shape[1]
    for b in range(4):
        row = first + b * step
        for c in range(k):
            left[b, c] = values[row, c] if row < len(values) else 0
    for d in range(digits):
        words = out[d * k : (d + 1) * k]
        for c in range(k):
            word = np.uint32(0)
            for b in range(4):
                digit = np.int32(np.int32(np.int32(left[b, c] << np.int32(24)) >> np.int32(24)))
                left[b, c] = np.int32(left[b, c] - digit) >> np.int32(8)
                word |= np.uint32(np.uint32(digit & np.int32(255)) << np.uint32(8 * b))
            words[c] = word


@compiled
def _multiply_rows(config, tile, height, digits, place, words, sums):
    """sums (variants, columns) += the first words of the tile's first rows times the digits from group ``place`` on."""
    if config is None:
        multiply(tile, 4 * tile.shape[1], 4, height, digits, place, words, sums)
    else:
        multiply_rows(tile[: (height + PAIR - 1) // PAIR * PAIR], digits, place // 16, words // 16, sums)


@compiled
def _multiply_columns(config, tile, digits, start, groups, sums):
    """sums, as :func:`_room_across` has them, += counts of groups of four variants from ``start`` on times digits."""
    height = tile.shape[1] * tile.shape[2]
    if config is None:
        multiply(tile, 4, 4 * height, height, digits, start // 4, groups, sums)
    else:
        multiply_columns(tile, digits, start // 64, (groups + 15) // 16, sums)


@compiled
def _room_across(config, sums):
    """Where Z V is summed: ``sums`` (samples, columns) themselves, or zeros (columns, samples and more) for AMX."""
    if config is None:
        return sums
    columns, row = sums.shape[1], sums.shape[0] + 16  # an odd number of cache lines
    return _zeros(columns * row).view(np.int32).reshape((columns, row))


@compiled
def _zeros(words):
    """(words,) uint32 from the start of a cache line on: vectors and rows of tiles then lie in one line each."""
    room = np.zeros(words + 16, np.uint32)
    skip = (64 - room.ctypes.data % 64) % 64 // 4
    return room[skip : skip + words]


@compiled
def _turn(config, across, sums):
    """Sums of :func:`_room_across` as (samples, columns)."""
    if config is not None:
        turn(across, sums)


@compiled
def _add_totals(sums, digits, out):
    """``out``, int64, += the integers that a row's sums by digit (digits k and more,) make, for its k columns."""
    k = len(out)
    for d in range(digits):
        for c in range(k):
            out[c] += np.int64(sums[d * k + c]) << (8 * d)


@parallel
def _zt(  # noqa: PLR0913 - a kernel takes arrays and numbers
    items, kind, fill, base, above, inv_sd, how, values, scale, totals, digits, num_digits, room, height, config, out
):
    b, columns, k = len(items), digits.shape[1] * digits.shape[2], len(scale)
    for task in prange((b + height - 1) // height):
        first = task * height
        rows = np.arange(first, min(first + height, b))
        dense = rows[how[rows] == MASKS]
        # an odd number of cache lines, so that rows do not share a few sets of a cache
        pitch = 4 * min(PIECE, room) + 16
        tile = _zeros(height * pitch).reshape((height, pitch))
        sums = _zeros(height * columns).view(np.int32).reshape((height, columns))
        mask_room = height if len(dense) else 0
        mask_sums = _zeros(mask_room * columns).view(np.int32).reshape((mask_room, columns))
        counted, missing = np.zeros((len(rows), k), np.int64), np.zeros((len(rows), values.shape[1]), np.int64)
        lost = np.empty(height * PIECE + 16, np.uint32)
        configure(config)
        for word in range(0, room, PIECE):
            width = min(PIECE, room - word)
            noted = _decode_rows(items, kind, fill, rows, how, (word, width), tile, lost, False)
            add_found(lost, noted, values, 16 * word, missing)
            _multiply_rows(config, tile, height, digits, 4 * word, 4 * width, sums)
            if len(dense):
                _decode_rows(items, kind, fill, dense, how, (word, width), tile, lost, True)
                _multiply_rows(config, tile, len(dense), digits, 4 * word, 4 * width, mask_sums)
            if word + PIECE >= room or (word + PIECE) % SPAN == 0:
                for r in range(len(rows)):
                    _add_totals(sums[r], num_digits, counted[r])
                for i in range(len(dense)):
                    _add_totals(mask_sums[i], num_digits, missing[dense[i] - first, :k])
                sums[:] = 0
                mask_sums[:] = 0
        release(config)
        _write_features((fill, base), above, inv_sd, scale, totals, rows, counted, missing, out)


@compiled
def _write_features(steps, above, inv_sd, scale, totals, rows, counted, missing, out):  # noqa: PLR0913 - arrays and numbers
    """Rows of Z'B from their sums over all samples, and over those that miss the genotype."""
    fill, base = steps
    for r in range(len(rows)):
        j = rows[r]
        for c in range(len(scale)):
            there = totals[c] - missing[r, c]
            total = counted[r, c] - fill[j] * missing[r, c] - base[j] * there
            out[j, c] = (np.float64(total) - above[j] * np.float64(there)) * inv_sd[j] * scale[c]


@compiled
def _decode_rows(items, kind, fill, rows, how, part, tile, lost, masks):  # noqa: PLR0913 - arrays and numbers
    """Genotypes, or masks, of variants ``rows`` as rows of the tile; ``part``: the first word of 16 samples, how many.

    Notes have the row times PIECE and the word in it in their upper half.  Returns how many there are.
    """
    if kind is None:
        return _call_rows(items, rows, how, part, tile, lost, masks)
    (word, width), pitch, n = part, tile.shape[1], items.shape[1]
    length = min(16 * width, n - 16 * word)
    whole, end = length // 64, np.zeros(64, items.dtype)
    for r in range(len(rows)):
        j = rows[r]
        _fetch_ahead(items, rows, r + ROWS_AHEAD, 16 * word, length)
        dosage_words(items, j * n + 16 * word, tile, (r * pitch, width), whole, fill[j], kind, masks)
        if length % 64:
            for i in range(length % 64):
                end[i] = items[j, 16 * word + 64 * whole + i]
            dosage_words(end, 0, tile, (r * pitch + 4 * whole, width), 1, fill[j], kind, masks)
    return 0


@compiled
def _fetch_ahead(items, rows, place, first, length):
    """Fetch items of row ``place`` of ``rows``: its strip is too short for the processor to foresee it."""
    if place < len(rows):
        start = (rows[place] * items.shape[1] + first) * items.itemsize
        for line in range(start, start + length * items.itemsize + 63, 64):
            prefetch(items, line)


@compiled
def _call_rows(packed, rows, how, part, tile, lost, masks):
    (word, width), nbytes, pitch, noted = part, packed.shape[1], tile.shape[1], 0
    start = 4 * word
    length = min(4 * width, nbytes - start)
    whole, end = length // 64, np.full(64, 0xFF, np.uint8)
    for r in range(len(rows)):
        _fetch_ahead(packed, rows, r + ROWS_AHEAD, start, length)
        what = MASKS if masks else NOTES if how[rows[r]] == NOTES else COUNTS
        where, place = (r * pitch, width, r * PIECE), rows[r] * nbytes + start
        noted = decode_words(packed, place, tile, where, whole, lost, noted, what)
        if length % 64:
            for i in range(length % 64):
                end[i] = packed[rows[r], start + 64 * whole + i]
            where = (r * pitch + 16 * whole, width, r * PIECE + 16 * whole)
            noted = decode_words(end, 0, tile, where, 1, lost, noted, what)
    return noted


@parallel
def _z(  # noqa: PLR0913 - a kernel takes arrays and numbers
    items, kind, fill, rows, dense, how, rests, totals, scale, steps, digits, mask_digits, counts, shares, config, out
):
    (tasks, vectors), (num_digits, num_mask_digits) = shares, counts
    per_item, k = 4 if kind is None else 1, len(scale)
    wide = 64 // per_item
    for task in prange(tasks):
        first, last = wide * (vectors * task // tasks), wide * (vectors * (task + 1) // tasks)
        width = last - first
        samples = per_item * width
        tile = _zeros(DEPTH * samples // 4 + SLACK)[: DEPTH * samples // 4].reshape((DEPTH // 4, per_item, width))
        lost = np.empty(DEPTH // 4 * width + 16, np.uint32)
        counted, missing = np.zeros((samples, k), np.int64), np.zeros((samples, rests.shape[1]), np.int64)
        noted, num_noted = np.empty((samples, ROOM), np.uint16), np.zeros(samples, np.int64)
        sums = _sums_room(samples, digits)
        across = _room_across(config, sums)
        configure(config)
        for start in range(0, len(rows), DEPTH):
            groups = min(DEPTH, len(rows) - start) // 4
            number = _decode_columns(items, kind, fill, rows, how, (start, first), tile, lost, False)
            note_variants(start, how, lost, number, noted, num_noted, rests, missing)
            _multiply_columns(config, tile, digits, start, groups, across)
        release(config)
        _turn(config, across, sums)
        add_noted(rests, noted, num_noted, missing)
        for r in range(samples):
            _add_totals(sums[r], num_digits, counted[r])
        if len(dense):
            mask_sums = _sums_room(samples, mask_digits)
            across = _room_across(config, mask_sums)
            configure(config)
            for start in range(0, len(dense), DEPTH):
                groups = min(DEPTH, len(dense) - start) // 4
                _decode_columns(items, kind, fill, dense, how, (start, first), tile, lost, True)
                _multiply_columns(config, tile, mask_digits, start, groups, across)
            release(config)
            _turn(config, across, mask_sums)
            for r in range(samples):
                _add_totals(mask_sums[r], num_mask_digits, missing[r, :k])
        _add_samples(totals, scale, steps, (per_item, per_item * first, width), counted, missing, out)


@compiled
def _add_samples(totals, scale, steps, where, counted, missing, out):
    """Add to rows of Z V what a chunk of variants sums to; ``where``: samples an item, the tile's first, its items."""
    per_item, first, width = where
    for r in range(len(counted)):
        sample = first + per_item * (r % width) + r // width
        if sample < len(out):
            for c in range(len(scale)):
                taken = totals[c] - np.float64(missing[r, c])
                out[sample, c] += (steps * np.float64(counted[r, c]) - taken) / steps * scale[c]


@compiled
def _sums_room(samples, digits):
    """Zeros (samples, columns) for sums with these digits, and room after them."""
    columns = digits.shape[1] * digits.shape[2]
    return _zeros((samples + SLACK) * columns).view(np.int32).reshape((samples + SLACK, columns))[:samples]


@compiled
def _decode_columns(items, kind, fill, rows, how, part, tile, lost, masks):  # noqa: PLR0913 - arrays and numbers
    """Genotypes, or masks, as the tile's groups of four variants; ``part``: the first of ``rows``, and of their items.

    Notes have the group times ROOM and the word in it in their upper half.  Returns how many there are.
    """
    if kind is None:
        return _call_columns(items, rows, how, part, tile, lost, masks)
    (start, first), n, width = part, items.shape[1], tile.shape[2]
    length = min(first + width, n) - first
    whole, left, ends = length // 64, length % 64, np.zeros((4, 64), items.dtype)
    for g in range(min(DEPTH, len(rows) - start) // 4):
        i, j, k, m = rows[start + 4 * g], rows[start + 4 * g + 1], rows[start + 4 * g + 2], rows[start + 4 * g + 3]
        for v in range(4):
            _fetch_ahead(items, rows, start + 4 * (g + GROUPS_AHEAD) + v, first, length)
        fills = (fill[i], fill[j], fill[k], fill[m])
        places = (i * n + first, j * n + first, k * n + first, m * n + first)
        dosage_groups(items, places, tile, g * width, whole, fills, kind, masks)
        if left:
            for v in range(4):
                for s in range(left):
                    ends[v, s] = items[rows[start + 4 * g + v], first + 64 * whole + s]
            dosage_groups(ends, (0, 64, 128, 192), tile, g * width + 64 * whole, 1, fills, kind, masks)
    return 0


@compiled
def _call_columns(packed, rows, how, part, tile, lost, masks):
    (start, first), nbytes, quarter, noted = part, packed.shape[1], tile.shape[2], 0
    length = min(first + quarter, nbytes) - first
    whole, ends = length // 16, np.full(64, 0xFF, np.uint8)
    for g in range(min(DEPTH, len(rows) - start) // 4):
        i, j, k, m = rows[start + 4 * g], rows[start + 4 * g + 1], rows[start + 4 * g + 2], rows[start + 4 * g + 3]
        for v in range(4):
            _fetch_ahead(packed, rows, start + 4 * (g + GROUPS_AHEAD) + v, first, length)
        some = how[i] == NOTES or how[j] == NOTES or how[k] == NOTES or how[m] == NOTES
        what = MASKS if masks else NOTES if some else COUNTS
        where = (4 * g * quarter, quarter, g * ROOM)
        places = (i * nbytes + first, j * nbytes + first, k * nbytes + first, m * nbytes + first)
        noted = decode_groups(packed, places, tile, where, whole, lost, noted, what)
        if length % 16:
            for b in range(length % 16):
                ends[b], ends[16 + b] = packed[i, first + 16 * whole + b], packed[j, first + 16 * whole + b]
                ends[32 + b], ends[48 + b] = packed[k, first + 16 * whole + b], packed[m, first + 16 * whole + b]
            where = (4 * g * quarter + 16 * whole, quarter, g * ROOM + 16 * whole)
            noted = decode_groups(ends, (0, 16, 32, 48), tile, where, 1, lost, noted, what)
    return noted
