"""Sums of genotype counts times integers, for processors that multiply bytes, from packed calls.

Both directions decode a tile of packed bytes to bytes 0, 1, 2 once, for all columns, and then multiply: a 32-bit word
of the tile holds four genotypes along the direction that is summed, and meets words of four digits.  What multiplies
tile and digits is VNNI (:mod:`gpu_reml.ops.cpu_vnni`) or AMX (:mod:`gpu_reml.ops.cpu_amx`).

Z'B: rows of a tile are variants; word (t, i) of a row holds samples 16 i + {t, 4 + t, 8 + t, 12 + t} of a piece, which
two instructions take from sixteen packed genotypes.  Z V: rows are samples; a word holds four variants.

:mod:`gpu_reml.ops.integers` says what the sums are for.  Edit this file, if only its date, after those whose compiled
functions it calls: numba's cache looks at the kernels' own file.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from .compile import compiled, parallel
from .cpu_amx_tiles import configuration, configure, multiply_columns, multiply_rows, release, turn
from .cpu_decode import decode_groups, decode_words, lowest_bit, word_at
from .cpu_vnni_dot import multiply
from .integers import MEAN_STEPS, Integers

HEIGHT = 96  # most variants of a tile of Z'B: a multiple of every kind's row step
SAMPLES = 192  # of a tile of Z V: a multiple of every row step, and of the samples that a vector of bytes has
PIECE = 128  # most words of 16 packed genotypes of one tile's row: 2,048 samples
DEPTH = 1024  # variants of one tile of Z V
LOW_BITS = np.uint32(0x55555555)
LOW_BITS_64 = np.uint64(0x5555555555555555)
ONE = np.uint64(1)
CODES = np.uint32(0x03030303)


class Kernels(NamedTuple):
    """What multiplies tiles of counts by digits, one kind of instruction."""

    instruction: str  # the processor's name for what has it
    available: Callable[[], bool]  # whether this processor, and the system, let this process use it
    lay_samples: Callable[[Integers, int], np.ndarray]  # digits of (n, k) for pieces of so many words of 16 samples
    lay_variants: Callable[[Integers], np.ndarray]  # digits of (b, k)
    row_step: int  # rows of its register tiles divide it
    tiles: bool = False  # whether its registers are tiles, which each thread configures


class SampleDigits:
    """Integers of a block (n, k) laid out for Z'B: made once for all variants."""

    def __init__(self, integers: Integers, kernels: Kernels):
        words = -(-len(integers.values) // 16)
        pieces = max(1, -(-words // PIECE))
        self.integers, self.kernels = integers, kernels
        self.width = 16 * max(1, -(-words // (16 * pieces)))  # whole vectors
        self.digits = kernels.lay_samples(integers, self.width)
        self.totals = integers.values.sum(axis=0, dtype=np.int64)


def zt_sums(packed: np.ndarray, mean: np.ndarray, inv_sd: np.ndarray, samples: SampleDigits, out: np.ndarray) -> None:
    """out (b, k) = Z'B of the variants of packed calls (b, nbytes), standardised by mean and 1/SD (b,)."""
    q, kernels = samples.integers, samples.kernels
    _zt(
        _read_only(packed),
        mean,
        inv_sd,
        q.values,
        q.scale,
        samples.totals,
        samples.digits,
        q.digits,
        samples.width,
        _even_height(len(packed), kernels.row_step),
        _configuration(kernels),
        out,
    )


def add_z_sums(packed: np.ndarray, integers: Integers, means: np.ndarray, kernels: Kernels, out: np.ndarray) -> None:
    """out (n, k) float64 += Z V of a chunk's packed calls (b, nbytes); ``integers`` (b, k) of s_j v_jk.

    ``means``: (b, k) from :func:`gpu_reml.ops.integers.times_means`.
    """
    digits = kernels.lay_variants(integers)
    config = _configuration(kernels)
    _z(_read_only(packed), means, means.sum(axis=0), integers.scale, digits, integers.digits, config, out)


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
def _multiply_rows(config, tile, digits, piece, sums):
    """sums (variants, columns) += a piece of their counts (variants, words) times its digits."""
    height, words = tile.shape
    if config is None:
        multiply(tile, 4 * words, 4, height, digits, piece * words, words, sums)
    else:
        multiply_rows(tile, digits, piece * words // 16, words // 16, sums)


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


@parallel
def _zt(packed, mean, inv_sd, values, scale, totals, digits, num_digits, width, height, config, out):  # noqa: PLR0913 - a kernel takes arrays and numbers
    b, nbytes = packed.shape
    n, k = values.shape
    columns = digits.shape[1] * digits.shape[2]
    pieces = max(1, (n + 16 * width - 1) // (16 * width))
    for task in prange((b + height - 1) // height):
        first = task * height
        rows = min(height, b - first)
        tile = _zeros(height * 4 * width).reshape((height, 4 * width))
        end = np.zeros(64, np.uint8)
        sums = _zeros(height * columns).view(np.int32).reshape((height, columns))
        missing = np.zeros((rows, k), np.int64)
        found = np.empty(16 * width, np.int64)
        configure(config)
        for piece in range(pieces):
            start = piece * 4 * width
            length = min(4 * width, nbytes - start)
            for r in range(rows):
                begin = (first + r) * nbytes + start
                lost = decode_words(packed, begin, tile, r * 4 * width, width, length // 64)
                if length % 64:  # the end of the row: it is copied to a vector's room
                    tail = length // 64 * 16
                    for i in range(64):
                        end[i] = packed[first + r, start + 4 * tail + i] if 4 * tail + i < length else 0
                    lost |= decode_words(end, 0, tile, r * 4 * width + tail, width, 1)
                if lost:
                    for i in range(_find_missing(packed, begin, length, found)):
                        sample = 4 * start + found[i]
                        if sample < n:
                            for c in range(k):
                                missing[r, c] += values[sample, c]
            _multiply_rows(config, tile, digits, piece, sums)
        release(config)
        counted = np.empty(k)
        for r in range(rows):
            _totals(sums[r], num_digits, counted)
            mu, s, lost, target = mean[first + r], inv_sd[first + r], missing[r], out[first + r]
            for c in range(k):
                target[c] = (counted[c] - mu * np.float64(totals[c] - lost[c])) * s * scale[c]


@compiled
def _find_missing(packed, begin, length, found):
    """How many calls of these bytes of ``packed`` are missing; ``found``: which, four calls a byte."""
    count, whole = 0, length // 8 * 8
    for i in range(0, whole, 8):
        word = word_at(packed, begin + i)
        lost = word & ~(word >> ONE) & LOW_BITS_64
        while lost:
            found[count] = 4 * i + (lowest_bit(lost) >> 1)
            count += 1
            lost &= lost - ONE
    for i in range(whole, length):
        code = packed.flat[begin + i]
        lost_here = code & ~(code >> 1) & 0x55
        for t in range(4):
            if lost_here >> (2 * t) & 1:
                found[count] = 4 * i + t
                count += 1
    return count


@parallel
def _z(packed, means, total_means, scale, digits, num_digits, config, out):
    b, nbytes = packed.shape
    n, k = out.shape
    columns = digits.shape[1] * digits.shape[2]
    height, quarter = SAMPLES, SAMPLES // 4
    for task in prange((n + height - 1) // height):
        first = task * quarter
        length = min(quarter, nbytes - first)
        tile = _zeros(DEPTH * quarter).reshape((DEPTH // 4, 4, quarter))
        sums = _zeros(height * columns).view(np.int32).reshape((height, columns))
        missing = np.zeros((height, k))
        found = np.empty(height, np.int64)
        across = _room_across(config, sums)
        configure(config)
        for start in range(0, b, DEPTH):
            groups = (min(DEPTH, b - start) + 3) // 4
            for g in range(groups):
                j = start + 4 * g
                j1, j2, j3 = min(j + 1, b - 1), min(j + 2, b - 1), min(j + 3, b - 1)
                lost = decode_groups(
                    packed, j * nbytes + first, j1 * nbytes + first, j2 * nbytes + first, j3 * nbytes + first,
                    tile, g * 4 * quarter, quarter, length // 16
                )  # fmt: skip
                if length % 16:
                    tail = length // 16 * 16
                    lost |= _decode_group(packed[j], packed[j1], packed[j2], packed[j3], first, tail, length, tile[g])
                if lost:
                    for v in range(j, min(j + 4, b)):
                        for i in range(_find_missing(packed, v * nbytes + first, length, found)):
                            row = (found[i] & 3) * quarter + (found[i] >> 2)
                            for c in range(k):
                                missing[row, c] += means[v, c]
            _multiply_columns(config, tile, digits, start, groups, across)
        release(config)
        _turn(config, across, sums)
        counted = np.empty(k)
        for r in range(height):
            sample = 4 * (first + r % quarter) + r // quarter
            if sample < n:
                _totals(sums[r], num_digits, counted)
                lost, target = missing[r], out[sample]
                for c in range(k):
                    steps = MEAN_STEPS * counted[c] - (total_means[c] - lost[c])
                    target[c] += steps / MEAN_STEPS * scale[c]


@compiled
def _decode_group(a, b, c, d, first, tail, length, out):
    """The last bytes of four variants, fewer than a vector: as :func:`decode_groups` does."""
    lost = np.uint32(0)
    for i in range(tail, length):
        x = np.uint32(a[first + i])
        x |= np.uint32(b[first + i]) << np.uint32(8)
        x |= np.uint32(c[first + i]) << np.uint32(16)
        x |= np.uint32(d[first + i]) << np.uint32(24)
        low = np.uint32(x & LOW_BITS)
        high = np.uint32((x >> np.uint32(1)) & LOW_BITS)
        lost |= low & ~high
        counts = np.uint32((high & ~low) | ((~(high | low) & LOW_BITS) << np.uint32(1)))
        for t in range(4):
            out[t, i] = (counts >> np.uint32(2 * t)) & CODES
    return np.uint32(lost)
