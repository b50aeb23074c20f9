"""Portable float32 CUDA kernels for products with packed, standardised genotypes.

Z (n, m) is never formed.  A thread block decodes a tile of Z into shared memory, a tile of the right-hand side beside
it, and multiplies them; only shared memory and barriers are used, so the same source runs on any device and in numba's
simulator.  Every sum has a fixed order that does not depend on the shape of the thread block, so results are
reproducible bit for bit: no atomics, no split sums.

Rounding: a plain float32 sum over ``SEGMENT`` terms, and a Kahan sum over the segments, so the error does not grow
with n or m (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 4.3).

Launch: block (columns, rows) with columns in 8, 16, 32 and columns * rows <= ``MAX_THREADS``; a block makes
``OUTPUTS`` * rows rows and ``columns`` columns of the result; grid (row tiles, column tiles).  See
:func:`launch_shape`.

Kernels are compiled on their first launch, so importing this module needs neither a driver nor a toolkit.  ``SIG_*``
are their argument types, for compiling without a device.
"""

from numba import cuda
from numba.cuda.types import float32, int64, uint8

MAX_THREADS = 256
MIN_COLUMNS, MAX_COLUMNS = 8, 32
OUTPUTS = 4  # rows of the result that one thread accumulates
DEPTH = 32  # terms of the sum in one shared tile: 8 bytes of a variant, or 32 variants
SEGMENT = 512  # terms summed plainly before they join the compensated total
TILES_PER_SEGMENT = SEGMENT // DEPTH
TILE_BYTES = DEPTH // 4
# One more column than the widest tile, so that the rows of a tile start in different banks.
Z_TILE = (DEPTH, OUTPUTS * MAX_THREADS // MIN_COLUMNS + 1)
RIGHT_TILE = (DEPTH, MAX_COLUMNS)

ZERO = float32(0.0)  # a bare 0.0 is a float64 and would carry the sums to float64

_PACKED = uint8[:, ::1]
_MATRIX = float32[:, ::1]
SIG_ZT = (_PACKED, _MATRIX, _MATRIX, _MATRIX)
SIG_Z = (_PACKED, _MATRIX, int64[::1], float32[::1], _MATRIX, _MATRIX)
SIG_DIAG = (_PACKED, _MATRIX, int64[::1], float32[::1], float32[::1])


def launch_shape(
    num_rows: int, num_columns: int, threads: int = MAX_THREADS
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(grid, block) of :func:`zt_kernel` or :func:`z_kernel` for a result of ``num_rows`` x ``num_columns``.

    threads: of a block; a multiple of ``MAX_COLUMNS``, at most ``MAX_THREADS``.
    """
    columns = MIN_COLUMNS
    while columns < min(num_columns, MAX_COLUMNS):
        columns *= 2
    rows = threads // columns
    return (-(-num_rows // (OUTPUTS * rows)), -(-num_columns // columns)), (columns, rows)


@cuda.jit(device=True, inline="always")
def _clear(partial, total, lost):
    for o in range(OUTPUTS):
        partial[o] = ZERO
        total[o] = ZERO
        lost[o] = ZERO


@cuda.jit(device=True, inline="always")
def _multiply_tiles(z_tile, right_tile, column, row, stride, partial):
    """partial[o] += sum over the depth of the tiles, for rows ``row + o * stride`` of the result."""
    for d in range(DEPTH):
        right = right_tile[d, column]
        for o in range(OUTPUTS):
            partial[o] += z_tile[d, row + o * stride] * right


@cuda.jit(device=True, inline="always")
def _flush(partial, total, lost):
    """Kahan step: total += partial, with the rounding error of the total kept in ``lost``."""
    for o in range(OUTPUTS):
        term = partial[o] - lost[o]
        raised = total[o] + term
        lost[o] = (raised - total[o]) - term
        total[o] = raised
        partial[o] = ZERO


@cuda.jit(cache=True)
def zt_kernel(packed, values, B, U):
    """U = Z' B for b variants: packed (b, ceil(n / 4)), values (b, 4) by code, B (n, k), U (b, k) overwritten.

    The bits after sample n of the last byte may hold anything.
    """
    z_tile = cuda.shared.array(Z_TILE, float32)
    right_tile = cuda.shared.array(RIGHT_TILE, float32)
    partial = cuda.local.array(OUTPUTS, float32)
    total = cuda.local.array(OUTPUTS, float32)
    lost = cuda.local.array(OUTPUTS, float32)

    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    columns, rows = cuda.blockDim.x, cuda.blockDim.y
    num_variants, num_bytes = packed.shape
    num_samples, num_columns = B.shape
    variant = int64(cuda.blockIdx.x) * OUTPUTS * rows
    column = int64(cuda.blockIdx.y) * columns + x

    _clear(partial, total, lost)
    for tile in range((num_samples + DEPTH - 1) // DEPTH):
        sample, byte = tile * DEPTH, tile * TILE_BYTES
        for d in range(y, DEPTH, rows):
            inside = sample + d < num_samples and column < num_columns
            right_tile[d, x] = B[sample + d, column] if inside else ZERO
        for e in range(y * columns + x, OUTPUTS * rows * TILE_BYTES, rows * columns):
            v, b = e // TILE_BYTES, e % TILE_BYTES
            inside = variant + v < num_variants and byte + b < num_bytes
            codes = packed[variant + v, byte + b] if inside else uint8(0)
            for s in range(4):
                z_tile[4 * b + s, v] = values[variant + v, (codes >> (2 * s)) & 3] if inside else ZERO
        cuda.syncthreads()
        if column < num_columns:
            _multiply_tiles(z_tile, right_tile, x, y, rows, partial)
        cuda.syncthreads()
        if (tile + 1) % TILES_PER_SEGMENT == 0:
            _flush(partial, total, lost)
    _flush(partial, total, lost)

    for o in range(OUTPUTS):
        v = variant + y + o * rows
        if v < num_variants and column < num_columns:
            U[v, column] = total[o]


@cuda.jit(cache=True)
def z_kernel(packed, values, variants, weights, U, out):
    """out (n, k) += Z[:, variants] diag(weights) U[variants], for the listed variants of a block, in their order.

    packed (b, ceil(n / 4)), values (b, 4) by code, variants (q,) rows of the block, weights (q,), U (b, k).
    Cost: q of the b variants are read, so disjoint sets of variants together cost one read.
    """
    z_tile = cuda.shared.array(Z_TILE, float32)
    right_tile = cuda.shared.array(RIGHT_TILE, float32)
    partial = cuda.local.array(OUTPUTS, float32)
    total = cuda.local.array(OUTPUTS, float32)
    lost = cuda.local.array(OUTPUTS, float32)

    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    columns, rows = cuda.blockDim.x, cuda.blockDim.y
    num_listed, num_bytes = len(variants), packed.shape[1]
    num_samples, num_columns = out.shape
    # OUTPUTS = 4 rows of the result for each row of threads: one byte of each variant.
    byte = int64(cuda.blockIdx.x) * rows
    column = int64(cuda.blockIdx.y) * columns + x

    _clear(partial, total, lost)
    for tile in range((num_listed + DEPTH - 1) // DEPTH):
        first = tile * DEPTH
        for d in range(y, DEPTH, rows):
            inside = first + d < num_listed and column < num_columns
            right_tile[d, x] = weights[first + d] * U[variants[first + d], column] if inside else ZERO
        for e in range(y * columns + x, DEPTH * rows, rows * columns):
            d, b = e // rows, e % rows
            inside = first + d < num_listed and byte + b < num_bytes
            v = variants[first + d] if inside else int64(0)
            codes = packed[v, byte + b] if inside else uint8(0)
            for s in range(4):
                z_tile[d, 4 * b + s] = values[v, (codes >> (2 * s)) & 3] if inside else ZERO
        cuda.syncthreads()
        if column < num_columns:
            _multiply_tiles(z_tile, right_tile, x, y, rows, partial)
        cuda.syncthreads()
        if (tile + 1) % TILES_PER_SEGMENT == 0:
            _flush(partial, total, lost)
    _flush(partial, total, lost)

    for o in range(OUTPUTS):
        i = 4 * byte + y + o * rows
        if i < num_samples and column < num_columns:
            out[i, column] += total[o]


@cuda.jit(cache=True)
def diag_kernel(packed, values, variants, weights, out):
    """out (n,) += sum over the listed variants of weights z^2: the diagonal of Z diag(w) Z'.

    One thread a sample; grid and block are one-dimensional.  Arguments as in :func:`z_kernel`.
    """
    sample = cuda.grid(1)
    if sample >= len(out):
        return
    byte, shift = sample // 4, 2 * (sample % 4)
    partial, total, lost = ZERO, ZERO, ZERO
    for q in range(len(variants)):
        v = variants[q]
        z = values[v, (packed[v, byte] >> shift) & 3]
        partial += weights[q] * z * z
        if (q + 1) % SEGMENT == 0 or q + 1 == len(variants):
            term = partial - lost
            raised = total + term
            lost = (raised - total) - term
            total = raised
            partial = ZERO
    out[sample] += total
