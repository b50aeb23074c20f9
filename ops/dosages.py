"""Dosages: expected copies of the counted allele as integer codes of 8 or 16 bits, one item a sample.

    bits 16    code x 2^-14 copies, 0 to 32768 (PLINK 2's unit: what a .pgen holds is kept to the bit), 65535 missing
    bits 8     code / 127 copies, 0 to 254, 255 missing

Moments are formed from integer sums, so they are those of the codes to float64's accuracy.
"""

import numpy as np
from numba import prange

from .compile import parallel

DOSAGE_UNIT = {8: 1.0 / 127, 16: 2.0**-14}  # copies of the counted allele in one step of the code
DOSAGE_TYPE = {8: np.uint8, 16: np.uint16}
DOSAGE_MISSING = {8: 255, 16: 65535}
_CODE_OF_CALL = {bits: np.array([2, 0, 1, 0]) * round(1 / unit) for bits, unit in DOSAGE_UNIT.items()}


def dosage_table(mean: np.ndarray, inv_sd: np.ndarray, bits: int, dtype: type = np.float32) -> np.ndarray:
    """(m, 3) (centre, slope, offset) with z = (code - centre) slope + offset, for dosages of ``bits`` bits.

    ``mean`` (m,) in copies of the allele, ``inv_sd`` (m,).  The centre is the code next to the mean: code - centre is
    exact, so z has the type's relative accuracy even where the mean is many SDs, as for a rare allele counted from its
    common side.
    """
    unit = DOSAGE_UNIT[bits]
    centre = np.rint(np.asarray(mean, np.float64) / unit)
    return np.stack([centre, unit * inv_sd, (centre * unit - mean) * inv_sd], axis=1).astype(dtype)


def dosage_moments(dosages: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, 1 / SD, called): of the dosages (m, n) that are not missing, in copies; 1 / SD is 0 where all are equal.

    With S = sum of the codes = q called + r and q the integer next to the mean, the squared deviations from q sum to an
    exact integer Q, and called x variance = Q - r^2 / called is at least Q / 2: nothing is lost to cancellation where
    the allele is rare.  Cost: two reads of each row, the second from cache.
    """
    unit = DOSAGE_UNIT[bits]
    sums = np.empty((len(dosages), 4), np.int64)
    _dosage_sums(dosages, DOSAGE_MISSING[bits], sums)
    called, near, rest, squares = sums.T
    divisor = np.maximum(called, 1)
    mean = unit * (near + rest / divisor)
    varies = squares > 0
    inv_sd = np.zeros(len(dosages))
    scaled_variance = squares[varies] - rest[varies] * (rest[varies] / called[varies])
    inv_sd[varies] = np.sqrt(called[varies] / scaled_variance) / unit
    return mean, inv_sd, called.copy()


@parallel
def _dosage_sums(dosages, missing, sums):
    """Each row's called c, q next to S / c, r = S - q c for the sum S of its codes, and the sum of (code - q)^2."""
    for j in prange(dosages.shape[0]):
        row = dosages[j]
        called = total = squares = 0
        for i in range(len(row)):
            code = np.int64(row[i])
            if code != missing:
                called += 1
                total += code
        near = (2 * total + called) // max(2 * called, 1)
        for i in range(len(row)):
            code = np.int64(row[i])
            if code != missing:
                squares += (code - near) ** 2
        sums[j, 0] = called
        sums[j, 1] = near
        sums[j, 2] = total - near * called
        sums[j, 3] = squares


@parallel
def decode_dosages(dosages, table, missing, tile):
    """Write z of the dosages (b, width) to ``tile`` (b, width), by ``table`` (b, 3) of :func:`dosage_table`."""
    for j in prange(dosages.shape[0]):
        row = dosages[j]
        out = tile[j]
        centre, slope, offset = table[j, 0], table[j, 1], table[j, 2]
        for i in range(len(row)):
            code = row[i]
            z = (out.dtype.type(code) - centre) * slope + offset
            out[i] = z if code != missing else 0


def encode_dosages(copies: np.ndarray, bits: int, index: np.ndarray, out: np.ndarray) -> None:
    """Codes of samples ``index`` from copies (b, n) float32, to rows ``out``; negative or NaN is missing."""
    _encode(copies, round(1 / DOSAGE_UNIT[bits]), DOSAGE_MISSING[bits], index, out)


@parallel
def _encode(copies, steps, missing, index, out):
    for j in prange(copies.shape[0]):
        for i in range(len(index)):
            dosage = np.float64(copies[j, index[i]])
            out[j, i] = np.int64(dosage * steps + 0.5) if dosage >= 0 else missing


def dosages_of_calls(packed: np.ndarray, bits: int, index: np.ndarray, out: np.ndarray) -> None:
    """Codes of samples ``index`` from packed calls (b, ceil(n / 4)): a call is a whole number of copies."""
    codes = _CODE_OF_CALL[bits].copy()
    codes[1] = DOSAGE_MISSING[bits]
    _recode(packed, codes, index, out)


@parallel
def _recode(packed, codes, index, out):
    for j in prange(packed.shape[0]):
        for s in range(len(index)):
            i = index[s]
            out[j, s] = codes[(packed[j, i >> 2] >> (2 * (i & 3))) & 3]


def calls_of_dosages(dosages: np.ndarray, most: float, out: np.ndarray) -> None:
    """Pack 16-bit dosages (m, n) as calls in .bed coding: the whole number at most ``most`` away, or missing."""
    _call(dosages, int(most / DOSAGE_UNIT[16]), out)


@parallel
def _call(dosages, most, out):
    n = dosages.shape[1]
    for j in prange(dosages.shape[0]):
        for b in range(out.shape[1]):
            byte = 0
            for s in range(min(4, n - 4 * b)):
                dosage = np.int64(dosages[j, 4 * b + s])
                copies = (dosage + 8192) >> 14
                code = 4 - 2 * copies if copies else 3
                is_called = dosage <= 32768 and abs(dosage - (copies << 14)) <= most
                byte |= (code if is_called else 1) << (2 * s)
            out[j, b] = byte
