"""Numba kernels of the CPU backend: decode packed bytes to a tile of values."""

import numpy as np
from numba import prange

from .compile import parallel


def pair_table(values: np.ndarray) -> np.ndarray:
    """(b, 16): the two values of four bits as one item of twice the width, so that a byte costs two moves.

    values: (b, 4) float32 or float64, the value of each two-bit code of b variants.
    """
    half_byte = np.arange(16)
    pairs = np.empty((len(values), 16, 2), values.dtype)
    pairs[:, :, 0] = values[:, half_byte & 3]
    pairs[:, :, 1] = values[:, half_byte >> 2]
    return as_pairs(pairs)[:, :, 0]


def as_pairs(values: np.ndarray) -> np.ndarray:
    """The same memory, two values an item."""
    return values.view(np.uint64 if values.dtype == np.float32 else np.complex128)


@parallel
def decode(packed, pairs, tile):
    """Write the values of bytes ``packed`` (b, nbytes) to ``tile`` (b, 2 * nbytes), items of two values each.

    Bits past the last sample decode to some value: callers multiply them by zero rows or drop them.
    """
    for j in prange(packed.shape[0]):
        table = pairs[j]
        row = packed[j]
        out = tile[j]
        for i in range(len(row)):
            byte = row[i]
            out[2 * i] = table[byte & 15]
            out[2 * i + 1] = table[byte >> 4]


SCATTER_SAMPLES = 512  # samples of one task: their sums for a hundred groups stay in cache


@parallel
def scatter(tile, U, indptr, indices, data, out):
    """out[g, c] += sum_j w_jg U[j, c] z_j over a block of variants, for the groups g that each variant belongs to.

    tile (b, samples) of z, U (b, k), weights (b, G) in CSR form, out (G, k, samples).  A block's sums are formed apart
    and then added, in an order that does not depend on the number of threads.
    """
    num_samples = tile.shape[1]
    for task in prange((num_samples + SCATTER_SAMPLES - 1) // SCATTER_SAMPLES):
        first = task * SCATTER_SAMPLES
        last = min(first + SCATTER_SAMPLES, num_samples)
        sums = np.zeros((out.shape[0], out.shape[1], last - first), out.dtype)
        z = np.empty(last - first, out.dtype)  # contiguous, which a slice of a row is not known to be
        for j in range(tile.shape[0]):
            for i in range(last - first):
                z[i] = tile[j, first + i]
            for c in range(U.shape[1]):
                for entry in range(indptr[j], indptr[j + 1]):
                    factor = U[j, c] * data[entry]
                    target = sums[indices[entry], c]
                    for i in range(last - first):
                        target[i] += factor * z[i]
        out[:, :, first:last] += sums
