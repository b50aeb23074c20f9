"""Relationship matrices Z diag(w) Z' on the CPU: tiles of variants by BLAS, summed over tiles in float64.

Called where a dense matrix is factorised next, so the BLAS is scipy's, which has the factorisations: numpy brings a
second OpenBLAS, whose threads spin against the first's.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.linalg import blas

from .cpu import CpuProducts, decode_items
from .genotypes import PackedGenotypes, items_per_row, take_variants

TILE_BYTES = 1 << 24  # of a decoded tile, whose products are summed in its own type
LEAST_VARIANTS = 1024  # of a tile: fewer make the sums in float64 cost more than the products
ROWS = 256  # of a matrix that are summed at once


def relationship_matrices(products: CpuProducts, weights: sparse.spmatrix) -> Iterator[np.ndarray]:
    """Z diag(w_g) Z' (n, n) float64 for every column g of weights (m, G), not negative, one after another.

    The upper triangle is what counts; below it is anything finite.  The array is the caller's until the next one is
    asked for, which is made in its place.
    Cost: n^2 multiplications for every variant of every g, half a pass of n columns where none is in two.  Memory: a
    matrix, a copy of it in the products' type, and a tile.
    """
    columns, n = sparse.csc_array(weights), products.num_samples
    out, part = np.empty((n, n)), None
    for g in range(columns.shape[1]):
        entries = slice(columns.indptr[g], columns.indptr[g + 1])
        rows, w = columns.indices[entries], columns.data[entries]
        out[...] = 0
        for tile in weighted_tiles(products, rows, w / w.max()):
            part = gram_of_columns(tile, part)
            for first in range(0, n, ROWS):
                out[first : first + ROWS, first:] += part[first : min(first + ROWS, n), first:n]
        out *= w.max()
        yield out


def weighted_tiles(products: CpuProducts, rows: np.ndarray, w: np.ndarray) -> Iterator[np.ndarray]:
    """diag(w)^(1/2) Z' of variants ``rows`` with weights w (k,), some at a time."""
    width = tile_width(products.num_samples, np.dtype(products.dtype).itemsize)
    for first in range(0, len(rows), width):
        some = slice(first, first + width)
        tile = decoded_variants(take_variants(products.genotypes, rows[some]), products.dtype)
        roots = np.sqrt(w[some])
        if (roots != 1).any():
            tile *= roots[:, None].astype(tile.dtype)
        yield tile


def tile_width(num_samples: int, itemsize: int) -> int:
    """Variants of a tile, which is no larger than the matrix unless it has the least."""
    return max(LEAST_VARIANTS, min(num_samples, TILE_BYTES // (num_samples * itemsize)))


def decoded_variants(genotypes: PackedGenotypes, dtype: type) -> np.ndarray:
    """Z' (m, n rounded up to whole items) of all variants."""
    products = CpuProducts(genotypes, dtype)
    width = genotypes.samples_per_item * items_per_row(genotypes.num_samples, genotypes.bits)
    tile, first = np.empty((genotypes.num_variants, width), dtype), 0
    for part in genotypes.parts:
        rows = slice(first, first + len(part))
        decode_items(part, products.table[rows], tile[rows], genotypes.bits)
        first = rows.stop
    return tile


def gram_of_columns(tile: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """The upper triangle of T'T (n, n) for T (m, n), in ``out`` where one is given."""
    syrk = blas.ssyrk if tile.dtype == np.float32 else blas.dsyrk
    if out is None:
        out = np.zeros((tile.shape[1], tile.shape[1]), tile.dtype)
    # BLAS takes the transposes, in the order of columns, without a copy: what is upper here is lower there
    return syrk(1.0, tile.T, c=out.T, lower=1, overwrite_c=1).T
