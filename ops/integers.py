"""Products with genotypes in exact integer arithmetic: what is summed, whatever multiplies it.

A block's columns become integers q with one scale a column, b ~ scale q, and counts of the allele are 0, 1, 2.  Sums of
counts times integers are exact, so a product has the same bits for any block size, any number of threads and any
processor that forms the same sums.  Rounding b to scale q is the only error: at most scale / 2 an entry, where
scale = max |b| / LIMIT[digits].  Two base-256 digits carry 15 bits and three 23, which is as many as float32:
3e-5 and 1e-7 of a normal column's norm, and more in a column whose largest entry is far above the others.

For variant j with mean mu_j and 1/SD s_j, where a missing call is a standardised genotype of 0:

    (Z'B)_jk = s_j scale_k (sum_i g_ij q_ik - mu_j (sum_i q_ik - sum_{i missing} q_ik))
    (Z V)_ik = scale_k (sum_j g_ij q_jk - sum_{j called} c_jk / MEAN_STEPS),  q of the columns of s_j v_jk,
               c_jk = round(MEAN_STEPS mu_j q_jk)

with g = 0 where a call is missing.  All sums are of integers; what is around them is float64, an entry at a time.
Z V takes a chunk of variants (:func:`gpu_reml.ops.genotypes.chunks`) at a time, each with its own scales, and adds the
chunks in order.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from .compile import parallel

DIGITS = 3  # of a column: as exact as float32
SLAB = 1 << 7  # rows that one thread takes at a time
MEAN_STEPS = 256  # steps of a mean times an integer: its rounding is 1/256 of the integers' own
MOST_SAMPLES = (2**31 - 1) // (2 * 128)  # whose counts times digits an int32 sums for certain: 8.4 million
LIMIT = {digits: 127 * (256**digits - 1) // 255 for digits in (2, 3)}  # the largest integer of balanced digits


class Integers(NamedTuple):
    """Columns as integers: ``values`` (rows, k) int32 times ``scale`` (k,) float64, of ``digits`` base-256 digits."""

    values: np.ndarray
    scale: np.ndarray
    digits: int


def as_integers(B: np.ndarray, digits: int = DIGITS, factors: np.ndarray | None = None) -> Integers:
    """The nearest integers of the columns of B (rows, k), or of diag(factors) B; an entry is off by at most scale / 2.

    A column with an entry that is not finite has the scale NaN, so that its products are NaN.
    """
    B = np.ascontiguousarray(B)
    factors = np.ones(len(B)) if factors is None else np.ascontiguousarray(factors, np.float64)
    tasks = -(-len(B) // SLAB)
    largest, strange = np.zeros((tasks, B.shape[1])), np.zeros((tasks, B.shape[1]))
    _largest(B, factors, largest, strange)
    largest, finite = largest.max(axis=0, initial=0), (strange == 0).all(axis=0)
    scale = np.where(finite, largest / LIMIT[digits], np.nan)
    steps = np.divide(1, scale, out=np.zeros_like(scale), where=finite & (scale > 0))
    values = np.empty(B.shape, np.int32)
    _round(B, factors, steps, finite, values)
    return Integers(values, scale, digits)


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


def times_means(integers: Integers, mean: np.ndarray) -> np.ndarray:
    """(b, k) round(MEAN_STEPS mu_j q_jk) of variants with these means (b,): integers below 2^33, as float64."""
    products = integers.values * (MEAN_STEPS * mean)[:, None]
    return np.rint(products, out=products)
