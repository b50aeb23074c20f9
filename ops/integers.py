"""Products with genotypes in exact integer arithmetic: what is summed, whatever multiplies it.

A block's columns become integers q with one scale a column, b ~ scale q, and counts of the allele are 0, 1, 2.  Sums of
counts times integers are exact, so a product has the same bits for any block size, any number of threads and any
processor that forms the same sums.  Rounding b to scale q is the only error: at most scale / 2 an entry.

Two base-256 digits carry 15 bits and three 23, which is as many as float32, with scale = max |b| / LIMIT[digits]: 3e-5
and 1e-7 of a normal column's norm, and more in a column whose largest entry is far above the others.  Eight digits
are for float64: 59 bits below the power of two next above max |b|, so a number above 2^-6 of the largest is exact.
They are two columns of four digits, q = 2^30 h + l.

A variant's genotypes are whole steps of ``unit`` copies: g is 0, 1, 2 for calls, or the code of a dosage.  A missing
one has a standardised value of 0 and is taken as g = fill_j: 1 for calls, the code next to the mean for dosages.
With a base_j of 0 for calls and of fill_j for dosages, only a_j = mean_j / unit - base_j is left to take off for those
that are there.  For variant j with 1/SD s_j, and n_jk = sum_i q_ik - sum_{i missing} q_ik:

    (Z'B)_jk = unit s_j scale_k (sum_i g_ij q_ik - fill_j sum_{i missing} q_ik - base_j n_jk - a_j n_jk)
    (Z V)_ik = unit scale_k (sum_j g_ij q_jk - sum_j fill_j q_jk - sum_{j there} r_jk / steps),  q of the columns of
               s_j v_jk,  r_jk = round(steps a_j q_jk) - steps (fill_j - base_j) q_jk

The steps are 256, and 1 with eight digits.  All sums are of integers; what is around them is float64, an entry at a
time, and for h and l apart.  Dosages of 16 bits are summed a byte at a time.  Z V takes a chunk of variants
(:func:`gpu_reml.ops.genotypes.chunks`) at a time, each with its own scales, and adds the chunks in order.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from .compile import compiled, parallel

DIGITS = 3  # of a column of float32: as exact
SLAB = 1 << 7  # rows that one thread takes at a time
MEAN_STEPS = 256  # steps of a mean times an integer: its rounding is 1/256 of the integers' own
LIMIT = {digits: 127 * (256**digits - 1) // 255 for digits in (2, 3)}  # the largest integer of balanced digits
DIGITS = 3  # of float32
DOUBLE = 8  # digits of float64, in two columns
DOUBLE_BITS = 59  # of its integers, beside the sign
LOW_BITS = 30  # of them in the second column
CHOICES = (*LIMIT, DOUBLE)
SMALLEST = 1e-289  # number of a column whose step has an inverse


def digits_for(dtype: type) -> int:
    """Digits that make products as exact as those of this type in floating point."""
    return DIGITS if np.dtype(dtype) == np.float32 else DOUBLE


def parts_of(digits: int) -> int:
    """Columns that one column of numbers becomes."""
    return 2 if digits == DOUBLE else 1


class Integers(NamedTuple):
    """Columns as integers: ``values`` (rows, columns) int32 times ``scale`` (columns,) float64, of ``digits`` each.

    ``parts``: 1, or 2 where the first half of the columns are h and the second half l of the same numbers.
    """

    values: np.ndarray
    scale: np.ndarray
    digits: int
    parts: int = 1

    @property
    def mean_steps(self) -> int:
        return MEAN_STEPS if self.parts == 1 else 1

    def joined(self, sums: np.ndarray) -> np.ndarray:
        """Results (rows, k) from those of every column (rows, columns)."""
        return joined(sums, self.parts)


def joined(sums: np.ndarray, parts: int) -> np.ndarray:
    """The sum of the parts, each a block of columns."""
    k = sums.shape[1] // parts
    return sums if parts == 1 else sums[:, :k] + sums[:, k:]


def as_integers(B: np.ndarray, digits: int = DIGITS, factors: np.ndarray | None = None) -> Integers:
    """The nearest integers of the columns of B (rows, k), or of diag(factors) B; an entry is off by at most scale / 2.

    A column with an entry that is not finite has the scale NaN, so that its products are NaN; one without an entry
    above 1e-289 is 0.
    """
    B = np.ascontiguousarray(B)
    factors = np.ones(len(B)) if factors is None else np.ascontiguousarray(factors, np.float64)
    tasks = -(-len(B) // SLAB)
    largest, strange = np.zeros((tasks, B.shape[1])), np.zeros((tasks, B.shape[1]))
    _largest(B, factors, largest, strange)
    largest, finite = largest.max(axis=0, initial=0), (strange == 0).all(axis=0)
    scale = np.ldexp(1.0, np.frexp(largest)[1] - DOUBLE_BITS) if digits == DOUBLE else largest / LIMIT[digits]
    scale = np.where(largest > SMALLEST, scale, 0.0)
    steps = np.divide(1, scale, out=np.zeros_like(scale), where=finite & (scale > 0))
    scale[~finite] = np.nan
    if digits != DOUBLE:
        values = np.empty(B.shape, np.int32)
        _round(B, factors, steps, finite, values)
        return Integers(values, scale, digits)
    values = np.empty((len(B), 2 * B.shape[1]), np.int32)
    _round_double(B, factors, steps, finite, values)
    return Integers(values, np.concatenate([scale * 2.0**LOW_BITS, scale]), DOUBLE // 2, 2)


@parallel
def _largest(B, factors, largest, strange):
    """The largest absolute entry of each column, a slab of rows apart; ``strange``: NaN for what is not finite."""
    for task in prange(len(largest)):
        for row in range(task * SLAB, min(task * SLAB + SLAB, len(B))):
            for c in range(B.shape[1]):
                number = np.float64(B[row, c]) * factors[row]
                largest[task, c] = max(largest[task, c], abs(number))
                strange[task, c] += number * 0.0


@parallel
def _round(B, factors, steps, finite, values):
    """values = the nearest integers of diag(factors) B times ``steps``; 0 in columns that are not finite."""
    for task in prange((len(B) + SLAB - 1) // SLAB):
        for row in range(task * SLAB, min(task * SLAB + SLAB, len(B))):
            for c in range(B.shape[1]):
                number = np.float64(B[row, c]) * factors[row]
                values[row, c] = np.int32(np.rint((number if finite[c] else 0.0) * steps[c]))


@parallel
def _round_double(B, factors, steps, finite, values):
    """The same in two columns: 2^30 values[:, c] + values[:, k + c]."""
    k = B.shape[1]
    for task in prange((len(B) + SLAB - 1) // SLAB):
        for row in range(task * SLAB, min(task * SLAB + SLAB, len(B))):
            for c in range(k):
                number = np.float64(B[row, c]) * factors[row]
                values[row, c], values[row, k + c] = halves(np.rint((number if finite[c] else 0.0) * steps[c]))


@compiled
def halves(number):
    """(h, l) with 2^30 h + l = number, a whole one below 2^60, and -2^29 <= l < 2^29."""
    whole = np.int64(number)
    high = (whole + (1 << LOW_BITS - 1)) >> LOW_BITS
    return np.int32(high), np.int32(whole - (high << LOW_BITS))


def mean_rests(q: Integers, fill: np.ndarray, base: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rests, totals) of variants: r (b, columns) int32 with zeros up to a multiple of 16 columns, and the sums over
    variants of steps fill q + r (columns,).

    fill, base, above: (b,) what a missing genotype is taken as, and the base and what the mean is above it.
    """
    b, columns = q.values.shape
    rests, totals = np.zeros((b, -(-columns // 16) * 16), np.int32), np.zeros((-(-b // SLAB), columns))
    beyond, fill = np.asarray(fill - base, np.float64), np.asarray(fill, np.float64)
    take = _rests if q.parts == 1 else _rests_double
    take(q.values, fill, beyond, np.ascontiguousarray(above), rests, totals)
    return rests, totals.sum(axis=0)


@parallel
def _rests(values, fill, beyond, above, rests, totals):
    """Totals are of a slab of variants each, and exact."""
    for task in prange(len(totals)):
        for j in range(task * SLAB, min(task * SLAB + SLAB, len(values))):
            for c in range(values.shape[1]):
                rest = np.rint(values[j, c] * (MEAN_STEPS * above[j])) - MEAN_STEPS * (beyond[j] * values[j, c])
                totals[task, c] += MEAN_STEPS * (fill[j] * values[j, c]) + rest
                rests[j, c] = np.int32(rest)


@parallel
def _rests_double(values, fill, beyond, above, rests, totals):
    k = values.shape[1] // 2
    for task in prange(len(totals)):
        for j in range(task * SLAB, min(task * SLAB + SLAB, len(values))):
            for c in range(k):
                whole = (np.int64(values[j, c]) << LOW_BITS) + values[j, k + c]
                rest = np.int64(np.rint(np.float64(whole) * above[j])) - np.int64(beyond[j]) * whole
                rests[j, c], rests[j, k + c] = halves(rest)
                totals[task, c] += fill[j] * values[j, c] + rests[j, c]
                totals[task, k + c] += fill[j] * values[j, k + c] + rests[j, k + c]
