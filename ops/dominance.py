"""Dominance deviations as a second coding of the same calls: K_D from 0, 2p and 4p - 2 for 0, 1 and 2 copies.

Uncorrelated with the additive count in Hardy-Weinberg equilibrium.  The values differ from variant to variant and are
not evenly spaced, so two bits cannot hold them: they are kept as 16-bit codes, eight times the size of the calls.
Source: Zhu et al. 2015, Am. J. Hum. Genet. 96:377, equation 2.
"""

import numpy as np
from numba import prange

from .compile import parallel
from .dosages import DOSAGE_MISSING
from .genotypes import CALL_BITS, PackedGenotypes, standardise

LARGEST = 32768  # of a 16-bit code
TERMS = 24  # of a continued fraction: enough for denominators up to the largest code


def dominance_codes(mean: np.ndarray) -> np.ndarray:
    """(m, 3) whole numbers 0 to 32768 for 0, 1 and 2 copies, an affine map of 0, 2p, 4p - 2 with p = mean / 2.

    One of the three is 0 and the ratio of the others is that of the values to about 1e-9, by the best fraction.
    """
    p = np.asarray(mean, np.float64) / 2
    values = np.stack([np.zeros_like(p), 2 * p, 4 * p - 2], axis=1)
    lifted = values - values.min(axis=1, keepdims=True)
    position = lifted / lifted.max(axis=1, keepdims=True)  # 2p and 4p - 2 are not both 0
    top = position.argmax(axis=1)
    middle = 3 - top - position.argmin(axis=1)
    rows = np.arange(len(p))
    numerator, denominator = best_fractions(position[rows, middle])
    codes = np.zeros((len(p), 3), np.int64)
    codes[rows, top], codes[rows, middle] = denominator, numerator
    return codes


def best_fractions(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators (m,), at most 32768, of the best fractions for x in [0, 1], by continued fractions.

    Only 0 and 1 themselves become 0 and 1: values that differ get codes that differ.
    """
    p0, q0 = np.ones(len(x), np.int64), np.zeros(len(x), np.int64)
    p1, q1 = np.zeros(len(x), np.int64), np.ones(len(x), np.int64)
    rest = np.array(x, np.float64)
    going = rest > 1e-12
    for _ in range(TERMS):
        term = np.where(going, np.floor(1 / np.where(going, rest, 1.0)), 0.0)
        room = (LARGEST - q0) // np.maximum(q1, 1)
        last = going & (term > room)  # a part of the term: worth it from a half on, or where 0 or 1 would be left
        part = last & ((2 * room > term) | (p1 == 0) | (p1 == q1))
        going &= ~last
        steps = np.where(going, term, np.where(part, room, 0)).astype(np.int64)
        moved = going | part
        p0, p1 = np.where(moved, p1, p0), np.where(moved, steps * p1 + p0, p1)
        q0, q1 = np.where(moved, q1, q0), np.where(moved, steps * q1 + q0, q1)
        rest = np.where(going, 1 / np.where(going, rest, 1.0) - term, 0.0)
        going &= rest > 1e-9
    return p1, q1


def dominance(genotypes: PackedGenotypes) -> PackedGenotypes:
    """Standardised dominance deviations of packed calls; frequencies are those of the analysed samples.

    Mean 0 and SD 1 (ddof 0) over the calls, a missing call is 0; a variant without spread (two of the three genotypes
    are needed) drops out.  Memory: 2 n m bytes.  Raises ValueError for dosages.
    """
    if genotypes.bits != CALL_BITS:
        raise ValueError("genotypes: dominance deviations are of calls, and these are dosages")
    codes = dominance_codes(genotypes.mean)
    table = np.stack([codes[:, 2], np.full(len(codes), DOSAGE_MISSING[16]), codes[:, 1], codes[:, 0]], axis=1)
    parts, first = [], 0
    for part in genotypes.parts:
        out = np.empty((len(part), genotypes.num_samples), np.uint16)
        _recode(np.asarray(part), table[first : first + len(part)].astype(np.uint16), out)
        parts.append(out)
        first += len(part)
    return standardise(parts, genotypes.num_samples, 16)


@parallel
def _recode(packed, table, out):
    for j in prange(out.shape[0]):
        for i in range(out.shape[1]):
            out[j, i] = table[j, (packed[j, i >> 2] >> (2 * (i & 3))) & 3]
