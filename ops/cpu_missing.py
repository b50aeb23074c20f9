"""Missing calls of products in integers: the words that miss some, noted while they are decoded, and what they add.

A missing genotype is decoded as one that is there, and the integers of those that are missing are added up apart: from
notes where they are few, or by multiplying masks.  Both sums are exact, so the choice changes no bit.
"""

import numpy as np

from .compile import compiled
from .cpu_decode import COUNTS, MASKS, NOTES, add_rows, lowest_bit

PIECE = 128  # most words of 16 packed genotypes of one tile's row: 2,048 samples
ROOM = 64  # variants that are noted for a sample before their integers are added
DENSE, OVERHEAD = 1 / 22, 4.5  # from what share of calls missing on masks are multiplied: see how_missing
ONE = np.uint64(1)


def how_missing(num_missing: np.ndarray, n: int, columns: int, digits: int) -> np.ndarray:
    """(b,) what is decoded of each variant for its missing calls: nothing, notes of them, or masks of all n calls.

    Notes cost by the missing call, masks by the digit, and both by columns.
    """
    vectors = -(-columns // 16)
    share = DENSE * digits * vectors / (OVERHEAD + vectors)
    few = np.where(num_missing > 0, NOTES, COUNTS)
    return np.where(num_missing > share * n, MASKS, few).astype(np.int8)


@compiled
def add_found(lost, noted, values, first, missing):
    """missing[r] += the sum of values[first + i] over the calls i that row r's notes say are missing."""
    found = np.empty(16 * PIECE, np.uint16)
    entry, columns = 0, values.shape[1]
    while entry < noted:
        r, count = lost[entry] // np.uint32(PIECE << 16), 0
        while entry < noted and lost[entry] // np.uint32(PIECE << 16) == r:
            word, bits = np.int64(lost[entry] >> np.uint32(16)) % PIECE, np.uint64(lost[entry] & np.uint32(0xFFFF))
            while bits:
                found[count] = 16 * word + genotype_of(lowest_bit(bits))
                count += 1
                bits &= bits - ONE
            entry += 1
        _add_rows(values, first, found, 0, count, missing, r * columns)


@compiled
def genotype_of(bit):
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


@compiled
def note_variants(start, how, lost, number, noted, counts, rests, missing):
    """Note which variants each sample of ``lost`` misses; where no room is left, add what is noted."""
    quarter, columns = len(noted) // 4, rests.shape[1]
    for entry in range(number):
        place, bits = np.int64(lost[entry] >> np.uint32(16)), np.uint64(lost[entry] & np.uint32(0xFFFF))
        first, i = start + place // ROOM * 4, place % ROOM
        while bits:
            genotype = genotype_of(lowest_bit(bits))
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
def add_noted(rests, noted, counts, missing):
    """Add what is noted of every sample."""
    for r in range(len(counts)):
        _add_rows(rests, 0, noted, r * ROOM, counts[r], missing, r * rests.shape[1])
