"""Portable float32 products with standardised genotypes: the reference, and the path of devices without tensor cores.

Z (n, m) is never formed: a thread block decodes tiles of it into shared memory (see :mod:`gpu_reml.ops.cuda.tiles`).
The same kernels read three encodings of a block of b variants, by rows, with any number of items after sample n:

    bits 2     packed (b, pitch) uint8, four PLINK codes a byte      table (b, 4): z of each code
    bits 8     dosages (b, pitch) uint8, 255 is a missing call       table (b, 3): see :mod:`gpu_reml.ops.dosages`
    bits 16    dosages (b, pitch) uint16, 65535 is a missing call    table (b, 3)

A missing call has z = 0.  Kernels are compiled on their first launch.  ``SIG_*`` are their argument types, for
compiling without a device.
"""

from functools import cache
from typing import Any, NamedTuple

from numba import cuda
from numba.cuda.types import boolean, float32, int32, int64, uint8, uint16

from .launch import cuda_kernel
from .tiles import (
    DEPTH,
    NARROW,
    SEGMENT,
    WIDE,
    ZERO,
    accumulate,
    ceil_div,
    chunk_results,
    clear,
    flush,
    join_chunks,
    launch_shape,
    load_right,
    product_scratch_bytes,
    row_list,
    split_product,
    split_sum,
    tile_for,
)

DIAG_THREADS = 128
QUADS = DEPTH // 4  # groups of four samples, a byte of packed genotypes, along the depth of a tile

_MATRIX = float32[:, ::1]
_ITEMS = {2: uint8[:, ::1], 8: uint8[:, ::1], 16: uint16[:, ::1]}
SIG_ZT = {bits: (items, _MATRIX, _MATRIX, float32[:, :, ::1], int64) for bits, items in _ITEMS.items()}
SIG_Z = {
    bits: (items, _MATRIX, int32[::1], float32[::1], _MATRIX, float32[:, :, ::1], int64, boolean)
    for bits, items in _ITEMS.items()
}
SIG_DIAG = {
    bits: (items, _MATRIX, int32[::1], float32[::1], float32[:, :, ::1], int64, boolean)
    for bits, items in _ITEMS.items()
}


class Encoded(NamedTuple):
    """A block of b variants on the device: ``items`` (b, pitch) and ``table`` in one of the encodings above."""

    items: Any
    table: Any
    bits: int = 2


@cuda.jit(device=True, inline="always")
def _dosage(dosages, table, row, sample, bits):
    code = dosages[row, sample]
    if code == (1 << bits) - 1:
        return ZERO
    return (float32(code) - table[row, 0]) * table[row, 1] + table[row, 2]


@cuda.jit(device=True, inline="always")
def _genotype(items, table, row, sample, bits):
    """z of one sample and one variant."""
    if bits == 2:
        return table[row, (items[row, sample // 4] >> (2 * (sample % 4))) & 3]
    return _dosage(items, table, row, sample, bits)


@cuda.jit(device=True, inline="always")
def _four_genotypes(items, table, row, sample, last, bits):
    """z of samples ``sample`` (a multiple of 4) to ``sample + 3``; any finite numbers after sample ``last``."""
    if bits == 2:
        codes = items[row, sample // 4]
        return (
            table[row, codes & 3],
            table[row, (codes >> 2) & 3],
            table[row, (codes >> 4) & 3],
            table[row, codes >> 6],
        )
    return (
        _dosage(items, table, row, sample, bits),
        _dosage(items, table, row, min(sample + 1, last), bits),
        _dosage(items, table, row, min(sample + 2, last), bits),
        _dosage(items, table, row, min(sample + 3, last), bits),
    )


@cuda.jit(device=True, inline="always")
def _load_weighted(rows, factor, U, first, last, column, right, listed):
    """right[d, c] = factor[q] U[r[q], column + c] for q = first + d before ``last``, and 0 elsewhere."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    q = first + y % DEPTH
    row = int64(0)
    weight = ZERO
    if q < last:
        row = int64(rows[q]) if listed else q
        weight = factor[q]
    for c in range(x + cuda.blockDim.x * (y // DEPTH), right.shape[1], cuda.blockDim.x * (cuda.blockDim.y // DEPTH)):
        right[y % DEPTH, c] = weight * U[row, column + c] if q < last and column + c < U.shape[1] else ZERO


@cache
def make_zt_kernel(bits: int, narrow: bool):
    """Kernel: out[chunk] (b, k) = Z[samples of the chunk]' B[those samples], ``length`` samples a chunk."""
    tile = NARROW if narrow else WIDE
    left_shape, right_shape = tile.left_shape, tile.right_shape
    tile_rows, side, count = tile.rows, tile.side, tile.side**2

    @cuda_kernel()
    def zt_kernel(items, table, B, out, length):
        left = cuda.shared.array(left_shape, float32)
        right = cuda.shared.array(right_shape, float32)
        partial = cuda.local.array(count, float32)
        total = cuda.local.array(count, float32)
        lost = cuda.local.array(count, float32)

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        columns, rows = cuda.blockDim.x, cuda.blockDim.y
        num_samples, num_variants = B.shape[0], out.shape[1]
        variant = int64(cuda.blockIdx.x) * tile_rows
        column = int64(cuda.blockIdx.y) * columns * side
        first = int64(cuda.blockIdx.z) * length
        last = min(first + length, num_samples)

        clear(partial, total, lost, count)
        for step in range((last - first + DEPTH - 1) // DEPTH):
            sample = first + step * DEPTH
            load_right(B, sample, last, column, right)
            for e in range(y * columns + x, tile_rows * QUADS, rows * columns):
                v, d = e // QUADS, 4 * (e % QUADS)
                z = (ZERO, ZERO, ZERO, ZERO)
                if variant + v < num_variants and sample + d < num_samples:
                    z = _four_genotypes(items, table, variant + v, sample + d, num_samples - 1, bits)
                left[d, v] = z[0]
                left[d + 1, v] = z[1]
                left[d + 2, v] = z[2]
                left[d + 3, v] = z[3]
            accumulate(left, right, step, (partial, total, lost), side)
        flush(partial, total, lost, count)

        for o in range(side):
            for c in range(side):
                v, j = variant + y + o * rows, column + x + c * columns
                if v < num_variants and j < out.shape[2]:
                    out[cuda.blockIdx.z, v, j] = total[o * side + c]

    return zt_kernel


@cache
def make_z_kernel(bits: int, narrow: bool, listed: bool):
    """Kernel: out[chunk] (n, k) = [out +] Z[:, r] diag(factor) U[r], ``length`` of the rows r a chunk.

    r is ``rows`` when ``listed``, else every row of the block and ``rows`` is not read.
    """
    tile = NARROW if narrow else WIDE
    left_shape, right_shape = tile.left_shape, tile.right_shape
    side, count = tile.side, tile.side**2
    tile_quads = tile.rows // 4

    @cuda_kernel()
    def z_kernel(items, table, rows, factor, U, out, length, add):
        left = cuda.shared.array(left_shape, float32)
        right = cuda.shared.array(right_shape, float32)
        partial = cuda.local.array(count, float32)
        total = cuda.local.array(count, float32)
        lost = cuda.local.array(count, float32)

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        columns, height = cuda.blockDim.x, cuda.blockDim.y
        num_samples = out.shape[1]
        sample = int64(cuda.blockIdx.x) * 4 * tile_quads
        column = int64(cuda.blockIdx.y) * columns * side
        first = int64(cuda.blockIdx.z) * length
        last = min(first + length, len(factor))

        clear(partial, total, lost, count)
        for step in range((last - first + DEPTH - 1) // DEPTH):
            start = first + step * DEPTH
            _load_weighted(rows, factor, U, start, last, column, right, listed)
            for e in range(y * columns + x, DEPTH * tile_quads, height * columns):
                d, quad = e // tile_quads, e % tile_quads
                z = (ZERO, ZERO, ZERO, ZERO)
                if start + d < last and sample + 4 * quad < num_samples:
                    row = int64(rows[start + d]) if listed else start + d
                    z = _four_genotypes(items, table, row, sample + 4 * quad, num_samples - 1, bits)
                # Row s * tile_quads + quad of the tile is sample 4 * quad + s: consecutive threads, consecutive banks.
                left[d, quad] = z[0]
                left[d, tile_quads + quad] = z[1]
                left[d, 2 * tile_quads + quad] = z[2]
                left[d, 3 * tile_quads + quad] = z[3]
            accumulate(left, right, step, (partial, total, lost), side)
        flush(partial, total, lost, count)

        for o in range(side):
            r = y + o * height
            i = sample + 4 * (r % tile_quads) + r // tile_quads
            for c in range(side):
                j = column + x + c * columns
                if i < num_samples and j < out.shape[2]:
                    there = out[cuda.blockIdx.z, i, j] if add else ZERO
                    out[cuda.blockIdx.z, i, j] = there + total[o * side + c]

    return z_kernel


@cache
def make_diag_kernel(bits: int, listed: bool):
    """Kernel: out[chunk, 0] (n,) = [out +] sum over rows r of factor z^2, ``length`` of the rows a chunk.

    One thread a sample; rows as in :func:`make_z_kernel`.
    """

    @cuda_kernel()
    def diag_kernel(items, table, rows, factor, out, length, add):
        sample = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if sample >= out.shape[2]:
            return
        first = int64(cuda.blockIdx.y) * length
        last = min(first + length, len(factor))
        partial, total, lost = ZERO, ZERO, ZERO
        for q in range(first, last):
            row = int64(rows[q]) if listed else q
            z = _genotype(items, table, row, sample, bits)
            partial += factor[q] * z * z
            if (q + 1 - first) % SEGMENT == 0 or q + 1 == last:
                term = partial - lost
                raised = total + term
                lost = (raised - total) - term
                total = raised
                partial = ZERO
        there = out[cuda.blockIdx.y, 0, sample] if add else ZERO
        out[cuda.blockIdx.y, 0, sample] = there + total

    return diag_kernel


def zt_scratch_bytes(num_samples: int, num_variants: int, num_columns: int) -> int:
    """Bytes that :func:`launch_zt` allocates."""
    return product_scratch_bytes(num_variants, num_columns, num_samples)


def z_scratch_bytes(num_samples: int, num_variants: int, num_columns: int) -> int:
    """Bytes that :func:`launch_z` allocates for ``num_variants`` of them used."""
    return product_scratch_bytes(num_samples, num_columns, num_variants) + 4


def diag_scratch_bytes(num_samples: int, num_variants: int) -> int:
    """Bytes that :func:`launch_diag` allocates for ``num_variants`` of them used."""
    chunks = split_sum(ceil_div(num_samples, DIAG_THREADS), num_variants)[0]
    return (4 * chunks * num_samples if chunks > 1 else 0) + 4


def launch_zt(genotypes: Encoded, B, out, allocate, stream) -> None:
    """out (b, k) = Z' B for B (n, k); half a pass over the block of ``genotypes``."""
    if 0 in out.shape:
        return
    narrow = tile_for(out.shape[1]) is NARROW
    chunks, length = split_product(*out.shape, B.shape[0])
    grid, block = launch_shape(tile_for(out.shape[1]), *out.shape)
    results = chunk_results(out, chunks, allocate)
    kernel = make_zt_kernel(genotypes.bits, narrow)
    kernel[(*grid, chunks), block, stream](genotypes.items, genotypes.table, B, results, length)
    join_chunks(results, out, False, stream)


def launch_z(genotypes: Encoded, U, factor, rows, out, allocate, stream) -> None:
    """out (n, k) += Z[:, rows] diag(factor) U[rows], for U (b, k), int32 ``rows`` (q,) in any order, factor (q,).

    rows None: all b rows of the block, factor (b,).  Cost: only the listed rows are read, so disjoint lists together
    cost half a pass.
    """
    if 0 in out.shape or not factor.size:
        return
    narrow = tile_for(out.shape[1]) is NARROW
    chunks, length = split_product(*out.shape, factor.size)
    grid, block = launch_shape(tile_for(out.shape[1]), *out.shape)
    results = chunk_results(out, chunks, allocate)
    kernel, listed = make_z_kernel(genotypes.bits, narrow, rows is not None), row_list(rows, allocate)
    operands = genotypes.items, genotypes.table, listed, factor, U
    kernel[(*grid, chunks), block, stream](*operands, results, length, chunks == 1)
    join_chunks(results, out, True, stream)


def launch_diag(genotypes: Encoded, factor, rows, out, allocate, stream) -> None:
    """out (n,) += sum over ``rows`` of factor z^2, the diagonal of Z diag(factor) Z'; rows as in :func:`launch_z`."""
    if not out.size or not factor.size:
        return
    blocks = ceil_div(out.size, DIAG_THREADS)
    chunks, length = split_sum(blocks, factor.size)
    row = out.reshape((1, out.size))
    results = chunk_results(row, chunks, allocate)
    kernel, listed = make_diag_kernel(genotypes.bits, rows is not None), row_list(rows, allocate)
    operands = genotypes.items, genotypes.table, listed, factor
    kernel[(blocks, chunks), DIAG_THREADS, stream](*operands, results, length, chunks == 1)
    join_chunks(results, row, True, stream)
