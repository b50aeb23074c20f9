"""Two-bit packing: pack, unpack, count, and take a subset of samples (numba, parallel over variants)."""

import numpy as np
from numba import prange

from .arguments import as_index, as_numbers
from .compile import parallel

MISSING = -127  # an int8 genotype that was not called (bed-reader's convention)


@parallel
def _count_codes(packed, num_samples, counts):
    whole, rest = num_samples // 4, num_samples % 4
    for j in prange(packed.shape[0]):
        # bit counts: the low and high bits of four codes at a time
        low = high = both = 0
        row = packed[j]
        for b in range(whole):
            byte = row[b]
            lo = byte & 0x55
            hi = (byte >> 1) & 0x55
            lh = lo & hi
            low += (lo & 1) + ((lo >> 2) & 1) + ((lo >> 4) & 1) + (lo >> 6)
            high += (hi & 1) + ((hi >> 2) & 1) + ((hi >> 4) & 1) + (hi >> 6)
            both += (lh & 1) + ((lh >> 2) & 1) + ((lh >> 4) & 1) + (lh >> 6)
        for s in range(rest):
            code = (row[whole] >> (2 * s)) & 3
            low += code & 1
            high += code >> 1
            both += (code & 1) & (code >> 1)
        counts[j, 0] = num_samples - low - high + both
        counts[j, 1] = low - both
        counts[j, 2] = high - both
        counts[j, 3] = both


def count_codes(packed: np.ndarray, num_samples: int) -> np.ndarray:
    """(m, 4) int64: how many of the first ``num_samples`` genotypes of each row have code 0, 1, 2, 3."""
    counts = np.empty((packed.shape[0], 4), np.int64)
    _count_codes(packed, num_samples, counts)
    return counts


@parallel
def _take_samples(packed, index, out):
    n = len(index)
    for j in prange(packed.shape[0]):
        for b in range(out.shape[1]):
            byte = 0
            for s in range(min(4, n - 4 * b)):
                i = index[4 * b + s]
                byte |= ((packed[j, i >> 2] >> (2 * (i & 3))) & 3) << (2 * s)
            out[j, b] = byte


def take_samples(packed: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Packed genotypes of samples ``index`` (in that order); the only copy of genotypes a subset costs."""
    index = np.ascontiguousarray(as_index(index, "index"))
    limit = 4 * packed.shape[1]
    if len(index) and (index.min() < 0 or index.max() >= limit):
        raise ValueError(f"index: expected samples in 0..{limit - 1}, found {index.min()}..{index.max()}")
    out = np.empty((packed.shape[0], (len(index) + 3) // 4), np.uint8)
    _take_samples(packed, index, out)
    return out


_CODE_OF_COUNT = np.full(256, 255, np.uint8)
_CODE_OF_COUNT[[0, 1, 2, MISSING & 0xFF]] = [3, 2, 0, 1]


def as_counts(counts: np.ndarray) -> np.ndarray:
    """Counts (n, m) as int8; a ValueError for numbers that are not whole, or no int8."""
    plain = type(counts) is np.ndarray and counts.dtype == np.int8
    given = counts if plain else as_numbers(counts, "counts")
    if given.ndim != 2:
        raise ValueError(f"counts: expected (samples, variants), found {given.shape}")
    with np.errstate(invalid="ignore"):
        whole = given.astype(np.int8, copy=False)
    if given is not whole and (whole != given).any():
        i, j = np.argwhere(whole != given)[0]
        raise ValueError(f"counts: expected 0, 1, 2 or {MISSING}, found {given[i, j]} at sample {i}, variant {j}")
    return whole


def pack(counts: np.ndarray) -> np.ndarray:
    """Pack int8 counts of A1 (n samples, m variants; 0, 1, 2, or ``MISSING``) to uint8 (m, ceil(n / 4))."""
    counts = as_counts(counts)
    codes = _CODE_OF_COUNT[counts.view(np.uint8)]
    if (codes == 255).any():
        i, j = np.argwhere(codes == 255)[0]
        raise ValueError(f"counts: expected 0, 1, 2 or {MISSING}, found {counts[i, j]} at sample {i}, variant {j}")
    n, m = counts.shape
    padded = np.zeros((m, 4 * ((n + 3) // 4)), np.uint8)
    padded[:, :n] = codes.T
    quads = padded.reshape(m, -1, 4)
    return quads[..., 0] | quads[..., 1] << 2 | quads[..., 2] << 4 | quads[..., 3] << 6


@parallel
def _pack_rows(counts, index, out):
    n = len(index)
    for j in prange(counts.shape[0]):
        row = counts[j]
        for b in range(out.shape[1]):
            byte = 0
            for s in range(min(4, n - 4 * b)):
                count = row[index[4 * b + s]]
                code = 4 - 2 * count if count else 3
                byte |= (code if count >= 0 else 1) << (2 * s)
            out[j, b] = byte


def pack_rows(counts: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """Pack samples ``index`` of int8 counts (m variants, n samples; negative is missing) to rows ``out``."""
    _pack_rows(counts, index, out)


def unpack(packed: np.ndarray, num_samples: int) -> np.ndarray:
    """int8 counts of A1 (n samples, m variants), ``MISSING`` where there is no call: the inverse of :func:`pack`."""
    if packed.ndim != 2 or not 0 <= num_samples <= 4 * packed.shape[1]:
        raise ValueError(
            f"packed: expected (variants, bytes) of four samples a byte for num_samples {num_samples}, found "
            f"{packed.shape}"
        )
    codes = (packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    counts = np.array([2, MISSING, 1, 0], np.int8)[codes].reshape(len(packed), -1)
    return np.ascontiguousarray(counts[:, :num_samples].T)
