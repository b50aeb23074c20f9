"""A checksum of large arrays at the speed of memory, for files that are kept and mapped again."""

import numpy as np
from numba import prange

from .compile import compiled, parallel

BLOCK_WORDS = 1 << 16  # 512 KiB: a block is one thread's, and its sum does not depend on how many there are
_P1, _P2, _P4 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x85EBCA77C2B2AE63)


@compiled
def _turn(x, bits):
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@compiled
def _round(sum_, word):
    return _turn(sum_ + word * _P2, 31) * _P1


@parallel
def _block_sums(words, sums):
    for block in prange(len(sums)):
        first, last = block * BLOCK_WORDS, min((block + 1) * BLOCK_WORDS, len(words))
        a = b = c = d = np.uint64(last - first)
        whole = last - (last - first) % 4
        for i in range(first, whole, 4):
            a, b = _round(a, words[i]), _round(b, words[i + 1])
            c, d = _round(c, words[i + 2]), _round(d, words[i + 3])
        for i in range(whole, last):
            a = _round(a, words[i])
        sums[block] = _turn(a, 1) + _turn(b, 7) + _turn(c, 12) + _turn(d, 18)


@compiled
def _joined(sums, total):
    for each in sums:
        total = _turn(total ^ _round(np.uint64(0), each), 27) * _P1 + _P4
    return total


def checksum(array: np.ndarray) -> int:
    """64 bits of all bytes of a C-contiguous array; it differs wherever a single byte, or eight aligned ones, differ.

    Every step of the sum is one-to-one in the word that it takes, so a change within one word is never missed; other
    changes are with a chance of 2^-64.  The rounds are those of xxHash (Collet 2012).  Cost: one read of the array.
    """
    if not array.flags.c_contiguous:
        raise ValueError("array: expected one that is contiguous in C's order")
    flat = array.reshape(-1).view(np.uint8)
    whole = len(flat) // 8 * 8
    words = flat[:whole].view(np.uint64)
    words.flags.writeable = False  # maps are, and a kernel compiles once for each kind
    sums = np.zeros(-(-len(words) // BLOCK_WORDS) + 1, np.uint64)
    _block_sums(words, sums[:-1])
    sums[-1] = int.from_bytes(flat[whole:].tobytes(), "little")
    return int(_joined(sums, np.uint64(len(flat))))
