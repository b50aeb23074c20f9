"""Sums of genotype counts times integers by ``vpdpbusd``: four byte products and their sum in one instruction a lane.

Processors have it as AVX512-VNNI (16 lanes) or AVX-VNNI (8).  Both directions decode a tile of packed bytes to bytes
0, 1, 2 once, for all columns, and then multiply: a 32-bit word of the tile holds four genotypes along the direction
that is summed, and is broadcast against vectors of digits, one lane a column of a digit.

Z'B: rows of a tile are variants; word (t, i) of a row holds samples 16 i + {t, 4 + t, 8 + t, 12 + t} of a piece, which
two instructions take from sixteen packed genotypes.  Z V: rows are samples; a word holds four variants.

:mod:`gpu_reml.ops.integers` says what the sums are for.  Edit this file, if only its date, after
:mod:`gpu_reml.ops.cpu_vnni_dot`: numba's cache looks at the kernels' own file.
"""

import math

import numba
import numpy as np
from numba import prange

from .compile import compiled, parallel
from .cpu_vnni_dot import MOST_VECTORS, ROWS, decode_groups, decode_words, dot, lanes, lowest_bit, word_at
from .integers import MEAN_STEPS, Integers

ROW_STEP = 24  # rows of every register tile divide it
HEIGHT = 96  # most variants of a tile of Z'B: a multiple of ROW_STEP
SAMPLES = 192  # of a tile of Z V: a multiple of ROW_STEP, and of the samples that a vector of bytes has
PIECE = 128  # most words of 16 packed genotypes of one tile's row: 2,048 samples
DEPTH = 1024  # variants of one tile of Z V
STEP = 128  # groups of four products between loads of the accumulators: their digits stay in level-1 cache
ROWS_1, ROWS_2, ROWS_3, ROWS_4 = (ROWS[vectors] for vectors in (1, 2, 3, 4))
LOW_BITS = np.uint32(0x55555555)
LOW_BITS_64 = np.uint64(0x5555555555555555)
ONE = np.uint64(1)
CODES = np.uint32(0x03030303)


def available() -> bool:
    """Whether this processor has the instruction."""
    return lanes() > 0


def instruction() -> str:
    """The processor's name for what has the instruction."""
    return "AVX512-VNNI" if lanes() == 16 else "AVX-VNNI"


class SampleDigits:
    """Integers of a block (n, k) laid out for Z'B: made once for all variants."""

    def __init__(self, integers: Integers):
        n, k = integers.values.shape
        words = -(-n // 16)
        pieces = max(1, -(-words // PIECE))
        self.integers, self.width = integers, 16 * max(1, -(-words // (16 * pieces)))  # whole vectors
        self.vectors = _num_vectors(k, integers.digits)
        self.digits = np.zeros((pieces * 4 * self.width, self.vectors, lanes(), 4), np.int8)
        self.totals = integers.values.sum(axis=0, dtype=np.int64)
        _lay_samples(integers.values, integers.digits, self.width, _words(self.digits))


def zt_sums(packed: np.ndarray, mean: np.ndarray, inv_sd: np.ndarray, samples: SampleDigits, out: np.ndarray) -> None:
    """out (b, k) = Z'B of the variants of packed calls (b, nbytes), standardised by mean and 1/SD (b,)."""
    height = _even_height(len(packed))
    q = samples.integers
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
        height,
        out,
    )


def add_z_sums(packed: np.ndarray, integers: Integers, means: np.ndarray, out: np.ndarray) -> None:
    """out (n, k) float64 += Z V of a chunk's packed calls (b, nbytes); ``integers`` (b, k) of s_j v_jk.

    ``means``: (b, k) from :func:`gpu_reml.ops.integers.times_means`.
    """
    b, k = integers.values.shape
    digits = np.zeros((-(-b // 4), _num_vectors(k, integers.digits), lanes(), 4), np.int8)
    _lay_variants(integers.values, integers.digits, _words(digits))
    _z(_read_only(packed), means, means.sum(axis=0), integers.scale, digits, integers.digits, out)


def _read_only(packed: np.ndarray) -> np.ndarray:
    """Memory maps are read-only, so all bytes are passed as read-only: a kernel then compiles once for every source."""
    packed = np.ascontiguousarray(packed).view()
    packed.flags.writeable = False
    return packed


def _words(digits: np.ndarray) -> np.ndarray:
    """The four digits of a group as one word: (groups, vectors, lanes, 4) int8 as (groups, vectors lanes) uint32."""
    return digits.view(np.uint32).reshape(len(digits), -1)


def _num_vectors(k: int, digits: int) -> int:
    return -(-k * digits // lanes())


def _even_height(rows: int) -> int:
    """Rows of a tile of Z'B, so that every thread has as many tiles."""
    threads = numba.get_num_threads()
    tasks = math.ceil(max(1, rows) / (HEIGHT * threads)) * threads
    return max(ROW_STEP, math.ceil(rows / tasks / ROW_STEP) * ROW_STEP)


@parallel
def _lay_samples(values, digits, width, out):
    """Digits of samples (n, k) as words (pieces 4 width, lanes): group (t, i) of a piece is samples 16 i + 4 b + t."""
    n = len(values)
    for word in prange((n + 15) // 16):
        left = np.zeros((4, values.shape[1]), np.int32)
        for t in range(4):
            place = (word // width * 4 + t) * width + word % width
            _lay_group(values, 16 * word + t, 4, left, digits, out[place])


@parallel
def _lay_variants(values, digits, out):
    """Digits of variants (b, k) as words (groups of four, lanes)."""
    for group in prange(len(out)):
        left = np.zeros((4, values.shape[1]), np.int32)
        _lay_group(values, 4 * group, 1, left, digits, out[group])


@compiled
def _lay_group(values, first, step, left, digits, out):
    """out[d k + c] = digit d of column c of four rows of integers, a byte each; rows after the last are 0."""
    k = values.shape[1]
    for b in range(4):
        row = first + b * step
        if row < len(values):
            left[b] = values[row]
        else:
            left[b] = 0
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
def _multiply(tile, row_step, group_step, height, digits, first_group, groups, sums):
    """sums (height, vectors lanes) += words of the tile times digits[first_group : first_group + groups].

    Word g of row r is ``row_step`` r + ``group_step`` g bytes from the tile's start.
    """
    vectors, num_lanes = digits.shape[1], digits.shape[2]
    step = 4 * num_lanes * vectors
    blocks = (vectors + MOST_VECTORS - 1) // MOST_VECTORS
    for block in range(blocks):
        v, stop = vectors * block // blocks, vectors * (block + 1) // blocks
        for g in range(0, groups, STEP):
            count, left = min(STEP, groups - g), g * group_step
            right, target = (first_group + g) * step + 4 * num_lanes * v, 4 * num_lanes * v
            if stop - v == 4:
                for r in range(0, height, ROWS_4):
                    to, of = target + r * step, left + r * row_step
                    dot(tile, of, row_step, group_step, digits, right, step, sums, to, step, count, ROWS_4, 4)
            elif stop - v == 3:
                for r in range(0, height, ROWS_3):
                    to, of = target + r * step, left + r * row_step
                    dot(tile, of, row_step, group_step, digits, right, step, sums, to, step, count, ROWS_3, 3)
            elif stop - v == 2:
                for r in range(0, height, ROWS_2):
                    to, of = target + r * step, left + r * row_step
                    dot(tile, of, row_step, group_step, digits, right, step, sums, to, step, count, ROWS_2, 2)
            else:
                for r in range(0, height, ROWS_1):
                    to, of = target + r * step, left + r * row_step
                    dot(tile, of, row_step, group_step, digits, right, step, sums, to, step, count, ROWS_1, 1)


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
def _zt(packed, mean, inv_sd, values, scale, totals, digits, num_digits, width, height, out):  # noqa: PLR0913 - a kernel takes arrays and numbers
    b, nbytes = packed.shape
    n, k = values.shape
    vectors, num_lanes = digits.shape[1], digits.shape[2]
    pieces = digits.shape[0] // (4 * width)
    for task in prange((b + height - 1) // height):
        first = task * height
        rows = min(height, b - first)
        tile = np.empty((height, 4 * width), np.uint32)
        end = np.zeros(64, np.uint8)
        sums = np.zeros((height, vectors * num_lanes), np.int32)
        missing = np.zeros((rows, k), np.int64)
        found = np.empty(16 * width, np.int64)
        for piece in range(pieces):
            start = piece * 4 * width
            length = min(4 * width, nbytes - start)
            for r in range(rows):
                begin = (first + r) * nbytes + start
                lost = decode_words(packed, begin, tile, r * 4 * width, width, length // 64)
                if length % 64:  # the end of the row: it is copied to a vector's room
                    tail = length // 64 * 16
                    end[:] = 0
                    end[: length - 4 * tail] = packed[first + r, start + 4 * tail : start + length]
                    lost |= decode_words(end, 0, tile, r * 4 * width + tail, width, 1)
                if lost:
                    for i in range(_find_missing(packed, begin, length, found)):
                        sample = 4 * start + found[i]
                        if sample < n:
                            for c in range(k):
                                missing[r, c] += values[sample, c]
            _multiply(tile, 16 * width, 4, height, digits, piece * 4 * width, 4 * width, sums)
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
def _z(packed, means, total_means, scale, digits, num_digits, out):
    b, nbytes = packed.shape
    n, k = out.shape
    vectors, num_lanes = digits.shape[1], digits.shape[2]
    height, quarter = SAMPLES, SAMPLES // 4
    for task in prange((n + height - 1) // height):
        first = task * quarter
        length = min(quarter, nbytes - first)
        tile = np.zeros((DEPTH // 4, 4, quarter), np.uint32)
        sums = np.zeros((height, vectors * num_lanes), np.int32)
        missing = np.zeros((height, k))
        found = np.empty(height, np.int64)
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
            _multiply(tile, 4, 4 * height, height, digits, start // 4, groups, sums)
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
