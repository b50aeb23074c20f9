"""Digits as VNNI takes them, whose ``vpdpbusd`` has four byte products and their sum in one instruction a lane.

Processors have it as AVX512-VNNI (16 lanes) or AVX-VNNI (8).  A word of the tile of counts is broadcast against vectors
of digits, one lane a column of a digit.
"""

import numpy as np
from numba import prange

from .compile import parallel
from .cpu_missing import PIECE
from .cpu_sums import Kernels, aligned_zeros, lay_group
from .cpu_vnni_dot import lanes
from .integers import Integers

ROW_STEP = 24  # rows of every register tile divide it


def available() -> bool:
    """Whether this processor has the instruction."""
    return lanes() > 0


def lay_samples(integers: Integers, room: int) -> np.ndarray:
    """(4 room, vectors, lanes, 4) int8: of a group of four samples, four bytes of each column."""
    k = integers.values.shape[1]
    digits = aligned_zeros(4 * room, _num_vectors(k, integers.digits), lanes(), 4)
    _lay_samples(integers.values, integers.digits, room, _words(digits))
    return digits


def lay_variants(integers: Integers) -> np.ndarray:
    """(groups, vectors, lanes, 4) int8: of a group of four variants, four bytes of each column."""
    b, k = integers.values.shape
    digits = aligned_zeros(-(-b // 4), _num_vectors(k, integers.digits), lanes(), 4)
    _lay_variants(integers.values, integers.digits, _words(digits))
    return digits


def _words(digits: np.ndarray) -> np.ndarray:
    """The four digits of a group as one word: (groups, vectors, lanes, 4) int8 as (groups, vectors lanes) uint32."""
    return digits.view(np.uint32).reshape(len(digits), digits.shape[1] * digits.shape[2])


def _num_vectors(k: int, digits: int) -> int:
    return -(-k * digits // lanes())


@parallel
def _lay_samples(values, digits, room, out):
    """Digits of samples (n, k) as words (4 room, lanes): group (t, i) of a piece is its samples 16 i + 4 b + t."""
    n = len(values)
    for word in prange((n + 15) // 16):
        left = np.zeros((4, values.shape[1]), np.int32)
        first = word // PIECE * PIECE
        for t in range(4):
            place = 4 * first + t * min(PIECE, room - first) + word - first
            lay_group(values, 16 * word + t, 4, left, digits, out[place])


@parallel
def _lay_variants(values, digits, out):
    """Digits of variants (b, k) as words (groups of four, lanes)."""
    for group in prange(len(out)):
        left = np.zeros((4, values.shape[1]), np.int32)
        lay_group(values, 4 * group, 1, left, digits, out[group])


KERNELS = Kernels("AVX512-VNNI" if lanes() == 16 else "AVX-VNNI", available, lay_samples, lay_variants, ROW_STEP)
