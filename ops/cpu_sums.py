"""Sums of genotype counts times integers, for processors that multiply bytes, from packed calls.

Both directions decode a tile of packed bytes to bytes 0, 1, 2 once, for all columns, and then multiply: a 32-bit word
of the tile holds four genotypes along the direction that is summed, and meets words of four digits.  What multiplies
tile and digits is VNNI (:mod:`gpu_reml.ops.cpu_vnni`) or AMX (:mod:`gpu_reml.ops.cpu_amx`).

Z'B: rows of a tile are variants; word (t, i) of a row holds samples 16 i + {t, 4 + t, 8 + t, 12 + t} of a piece, which
two instructions take from sixteen packed genotypes.  Z V: rows are samples; a word holds four variants.

A missing call is decoded as 1, and what it should not have added is taken off: the words that miss calls are noted in
vectors while they are decoded, and the integers of the calls in them added up.  Where a variant misses many, a tile of
0 and 1 is multiplied, as counts are.  Both sums are exact, so the choice changes no bit.

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
from .cpu_decode import COUNTS, MASKS, NOTES, add_rows, decode_groups, decode_words, lowest_bit
from .cpu_vnni_dot import multiply
from .integers import MEAN_STEPS, SLAB, Integers

HEIGHT = 96  # most variants of a tile of Z'B: a multiple of every kind's row step
VECTORS = 3  # most vectors of 16 bytes of one variant, 64 samples, in a tile of Z V
SLACK = 32  # rows that a register tile may reach past the last one
PIECE = 128  # most words of 16 packed genotypes of one tile's row: 2,048 samples
DEPTH = 1024  # variants of one tile of Z V
DENSE, OVERHEAD = 1 / 22, 4.5  # from what share of calls missing on masks are multiplied: see _how_missing
ONE = np.uint64(1)
ROOM = 64  # variants that are noted for a sample before their integers are added; at least 16 VECTORS


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


class Calls(NamedTuple):
    """Packed calls (b, nbytes) of variants, and of each (b,) its mean, 1/SD and how many calls are missing."""

    packed: np.ndarray
    mean: np.ndarray
    inv_sd: np.ndarray
    num_missing: np.ndarray


def zt_sums(calls: Calls, samples: SampleDigits, out: np.ndarray) -> None:
    """out (b, k) = Z'B of these variants."""
    q, kernels = samples.integers, samples.kernels
    _zt(
        _read_only(calls.packed),
        calls.mean,
        calls.inv_sd,
        _how_missing(calls, samples.num_samples, q),
        samples.values,
        q.scale,
        samples.totals,
        samples.digits,
        q.digits,
        samples.room,
        _even_height(len(calls.packed), kernels.row_step),
        _configuration(kernels),
        out,
    )


def add_z_sums(calls: Calls, integers: Integers, kernels: Kernels, out: np.ndarray) -> None:
    """out (n, k) float64 += Z V of a chunk's variants; ``integers`` (b, k) of s_j v_jk."""
    b, k = integers.values.shape
    rests, totals = np.zeros((b, -(-k // 16) * 16), np.int32), np.zeros((-(-b // SLAB), k))
    _take_means(integers.values, calls.mean, rests, totals)
    masks = Integers(rests[:, :k], integers.scale, integers.digits + 1)
    how = _how_missing(calls, len(out), masks)
    dense = np.flatnonzero(how == MASKS)
    _z(
        _read_only(calls.packed),
        _in_fours(np.arange(b)),
        _in_fours(dense),
        how,
        rests,
        totals.sum(axis=0),
        integers.scale,
        kernels.lay_variants(integers),
        kernels.lay_variants(masks._replace(values=masks.values[dense])),
        integers.digits,
        _shares(calls.packed.shape[1]),
        _configuration(kernels),
        out,
    )


def _in_fours(rows: np.ndarray) -> np.ndarray:
    """The same rows, the last once more until they are a multiple of four."""
    return np.pad(rows, (0, -len(rows) % 4), "edge" if len(rows) else "constant")


def _how_missing(calls: Calls, n: int, integers: Integers) -> np.ndarray:
    """(b,) what is decoded of each variant for its missing calls: nothing, notes of them, or masks of all n calls.

    Notes cost by the missing call, masks by the digit, and both by columns.
    """
    vectors = -(-integers.values.shape[1] // 16)
    share = DENSE * integers.digits * vectors / (OVERHEAD + vectors)
    few = np.where(calls.num_missing > 0, NOTES, COUNTS)
    return np.where(calls.num_missing > share * n, MASKS, few).astype(np.int8)


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


def _shares(nbytes: int) -> tuple[int, int]:
    """(tasks, vectors) of a row's bytes in tiles of Z V, so that every thread has as many."""
    vectors, threads = -(-nbytes // 16), numba.get_num_threads()
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
    height = 4 * tile.shape[2]
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
def _totals(sums, digits, out):
    """out (k,) float64 = the integers that a row's sums by digit (digits k,) make: below 2^53, so exact."""
    k = len(out)
    out[:] = 0.0
    for d in range(digits - 1, -1, -1):
        part = sums[d * k : (d + 1) * k]
        for c in range(k):
            out[c] = 256.0 * out[c] + part[c]


@compiled
def _add_totals(sums, k, digits, out):
    """The first k of ``out``, int64, += the integers that a row's sums by digit (digits k and more,) make."""
    for d in range(digits):
        for c in range(k):
            out[c] += np.int64(sums[d * k + c]) << (8 * d)


@parallel
def _zt(  # noqa: PLR0913 - a kernel takes arrays and numbers
    packed, mean, inv_sd, how, values, scale, totals, digits, num_digits, room, height, config, out
):
    b, nbytes = packed.shape
    columns = digits.shape[1] * digits.shape[2]
    for task in prange((b + height - 1) // height):
        first = task * height
        rows = np.arange(first, min(first + height, b))
        dense = rows[how[rows] == MASKS]
        pitch = (
            4 * min(PIECE, room) + 16
        )  # an odd number of cache lines, so that rows do not share a few sets of a cache
        tile = _zeros(height * pitch).reshape((height, pitch))
        sums = _zeros(height * columns).view(np.int32).reshape((height, columns))
        mask_room = height if len(dense) else 0
        mask_sums = _zeros(mask_room * columns).view(np.int32).reshape((mask_room, columns))
        missing = np.zeros((len(rows), values.shape[1]), np.int64)
        lost = np.empty(height * PIECE + 16, np.uint32)
        configure(config)
        for word in range(0, room, PIECE):
            part = (4 * word, min(4 * PIECE, nbytes - 4 * word), min(PIECE, room - word))
            noted = _decode_rows(packed, rows, how, part, tile, lost, False)
            _add_found(lost, noted, values, 16 * word, missing)
            _multiply_rows(config, tile, height, digits, 4 * word, 4 * part[2], sums)
            if len(dense):
                _decode_rows(packed, dense, how, part, tile, lost, True)
                _multiply_rows(config, tile, len(dense), digits, 4 * word, 4 * part[2], mask_sums)
        release(config)
        for i in range(len(dense)):
            _add_totals(mask_sums[i], out.shape[1], num_digits, missing[dense[i] - first])
        _write_features(mean, inv_sd, scale, totals, rows, sums, missing, num_digits, out)


@compiled
def _write_features(mean, inv_sd, scale, totals, rows, sums, missing, num_digits, out):  # noqa: PLR0913 - arrays and numbers
    """Rows of Z'B from their sums over all samples, and over those that miss the call."""
    counted = np.empty(len(scale))
    for r in range(len(rows)):
        j, lost = rows[r], missing[r]
        _totals(sums[r], num_digits, counted)
        for c in range(len(scale)):
            called = np.float64(totals[c] - lost[c])
            out[j, c] = (counted[c] - np.float64(lost[c]) - mean[j] * called) * inv_sd[j] * scale[c]


@compiled
def _decode_rows(packed, rows, how, part, tile, lost, masks):
    """Counts, or masks, of variants ``rows`` as rows of the tile; ``part``: first byte, how many, their words.

    Notes have the row times PIECE and the word in it in their upper half.  Returns how many there are.
    """
    (start, length, width), nbytes, pitch, noted = part, packed.shape[1], tile.shape[1], 0
    whole, end = length // 64, np.full(64, 0xFF, np.uint8)
    for r in range(len(rows)):
        what = MASKS if masks else NOTES if how[rows[r]] == NOTES else COUNTS
        where, place = (r * pitch, width, r * PIECE), rows[r] * nbytes + start
        noted = decode_words(packed, place, tile, where, whole, lost, noted, what)
        if length % 64:
            for i in range(length % 64):
                end[i] = packed[rows[r], start + 64 * whole + i]
            where = (r * pitch + 16 * whole, width, r * PIECE + 16 * whole)
            noted = decode_words(end, 0, tile, where, 1, lost, noted, what)
    return noted


@compiled
def _add_found(lost, noted, values, first, missing):
    """missing[r] += the sum of values[first + i] over the calls i that row r's notes say are missing."""
    found = np.empty(16 * PIECE, np.uint16)
    entry, columns = 0, values.shape[1]
    while entry < noted:
        r, count = lost[entry] // np.uint32(PIECE << 16), 0
        while entry < noted and lost[entry] // np.uint32(PIECE << 16) == r:
            word, bits = np.int64(lost[entry] >> np.uint32(16)) % PIECE, np.uint64(lost[entry] & np.uint32(0xFFFF))
            while bits:
                found[count] = 16 * word + _genotype(lowest_bit(bits))
                count += 1
                bits &= bits - ONE
            entry += 1
        _add_rows(values, first, found, 0, count, missing, r * columns)


@compiled
def _genotype(bit):
    """Which genotype of a word a bit of a note stands for."""
    return (bit >> 1) + 8 * (bit & 1)


@compiled
def _add_rows(values, first, found, place, count, out, target):
    """out.flat[target :] += the sum of ``count`` rows of ``values``, ``found`` from ``place`` on, counted from
    ``first``."""
    columns = values.shape[1]
    c = 0
    while c + 64 <= columns:
        add_rows(values, first * columns + c, found, place, count, out, target + c, 4)
        c += 64
    if c + 32 <= columns:
        add_rows(values, first * columns + c, found, place, count, out, target + c, 2)
        c += 32
    if c < columns:
        add_rows(values, first * columns + c, found, place, count, out, target + c, 1)


@parallel
def _take_means(values, mean, rests, totals):
    """What a called genotype takes off, round(MEAN_STEPS mu_j q_jk), less what a missing one adds, MEAN_STEPS q_jk, in
    ``rests``; ``totals``: sums of the former, a slab of variants apart.  All are integers.
    """
    for task in prange(len(totals)):
        for j in range(task * SLAB, min(task * SLAB + SLAB, len(values))):
            factor = MEAN_STEPS * mean[j]
            for c in range(values.shape[1]):
                taken = np.rint(values[j, c] * factor)
                totals[task, c] += taken
                rests[j, c] = np.int32(taken - np.float64(MEAN_STEPS * np.int64(values[j, c])))


@parallel
def _z(  # noqa: PLR0913 - a kernel takes arrays and numbers
    packed, rows, dense, how, rests, total_means, scale, digits, mask_digits, num_digits, shares, config, out
):
    nbytes, (tasks, vectors) = packed.shape[1], shares
    for task in prange(tasks):
        first, last = 16 * (vectors * task // tasks), 16 * (vectors * (task + 1) // tasks)
        quarter, length = last - first, min(last, nbytes) - first
        samples = 4 * quarter
        tile = _zeros(DEPTH * quarter + SLACK)[: DEPTH * quarter].reshape((DEPTH // 4, 4, quarter))
        lost = np.empty(DEPTH // 4 * quarter + 16, np.uint32)
        missing = np.zeros((samples, rests.shape[1]), np.int64)
        noted, counts = np.empty((samples, ROOM), np.uint16), np.zeros(samples, np.int64)
        sums = _sums_room(samples, digits)
        across = _room_across(config, sums)
        configure(config)
        for start in range(0, len(rows), DEPTH):
            groups = min(DEPTH, len(rows) - start) // 4
            number = _decode_columns(packed, rows, how, start, first, length, tile, lost, False)
            _note_variants(start, how, lost, number, noted, counts, rests, missing)
            _multiply_columns(config, tile, digits, start, groups, across)
        release(config)
        _turn(config, across, sums)
        for r in range(samples):
            _add_rows(rests, 0, noted, r * ROOM, counts[r], missing, r * rests.shape[1])
        if len(dense):
            mask_sums = _sums_room(samples, mask_digits)
            across = _room_across(config, mask_sums)
            configure(config)
            for start in range(0, len(dense), DEPTH):
                groups = min(DEPTH, len(dense) - start) // 4
                _decode_columns(packed, dense, how, start, first, length, tile, lost, True)
                _multiply_columns(config, tile, mask_digits, start, groups, across)
            release(config)
            _turn(config, across, mask_sums)
            for r in range(samples):
                _add_totals(mask_sums[r], out.shape[1], num_digits + 1, missing[r])
        _add_samples(total_means, scale, first, sums, missing, num_digits, out)


@compiled
def _add_samples(total_means, scale, first, sums, missing, num_digits, out):
    """Add to rows of Z V what a chunk of variants sums to, for the samples of a tile from byte ``first`` on."""
    counted, quarter = np.empty(len(scale)), len(sums) // 4
    for r in range(len(sums)):
        sample = 4 * (first + r % quarter) + r // quarter
        if sample < len(out):
            _totals(sums[r], num_digits, counted)
            for c in range(len(scale)):
                taken = total_means[c] - np.float64(missing[r, c])
                out[sample, c] += (MEAN_STEPS * counted[c] - taken) / MEAN_STEPS * scale[c]


@compiled
def _sums_room(samples, digits):
    """Zeros (samples, columns) for sums with these digits, and room after them."""
    columns = digits.shape[1] * digits.shape[2]
    return _zeros((samples + SLACK) * columns).view(np.int32).reshape((samples + SLACK, columns))[:samples]


@compiled
def _note_variants(start, how, lost, number, noted, counts, rests, missing):
    """Note which variants each sample of ``lost`` misses; where no room is left, add what is noted."""
    quarter, columns = len(noted) // 4, rests.shape[1]
    for entry in range(number):
        place, bits = np.int64(lost[entry] >> np.uint32(16)), np.uint64(lost[entry] & np.uint32(0xFFFF))
        first, i = start + place // ROOM * 4, place % ROOM
        while bits:
            genotype = _genotype(lowest_bit(bits))
            bits &= bits - ONE
            variant, row = first + (genotype >> 2), (genotype & 3) * quarter + i
            if variant < len(how) and how[variant] == NOTES:
                count = counts[row]
                if count == ROOM:
                    _add_rows(rests, 0, noted, row * ROOM, ROOM, missing, row * columns)
                    count = 0
                noted[row, count] = variant
                counts[row] = count + 1


@compiled
def _decode_columns(packed, rows, how, start, first, length, tile, lost, masks):  # noqa: PLR0913 - arrays and numbers
    """Counts of ``length`` bytes of samples from byte ``first`` on, or masks, as the tile's groups of four variants.

    Notes have the group times ROOM and the word in it in their upper half.  Returns how many there are.
    """
    nbytes, quarter, whole, noted = packed.shape[1], tile.shape[2], length // 16, 0
    ends = np.full(64, 0xFF, np.uint8)
    for g in range(min(DEPTH, len(rows) - start) // 4):
        i, j, k, m = rows[start + 4 * g], rows[start + 4 * g + 1], rows[start + 4 * g + 2], rows[start + 4 * g + 3]
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
