"""Algebra of blocks (n, k) on the device: what conjugate gradients and Lanczos need between two products.

Reductions (dots, Gram matrices) multiply and add in float64, in an order that depends on shapes only.  What changes
entry by entry costs one read of each operand and one write.  Kernels are compiled on their first launch; ``SIG_*`` are
their argument types.
"""

from functools import cache

import numpy as np
from numba import cuda
from numba.cuda.types import boolean, float32, float64, int32, int64

from .launch import cuda_kernel
from .tiles import (
    DEPTH,
    FLAT_THREADS,
    NARROW,
    WIDE,
    ZERO,
    accumulate,
    add_products,
    ceil_div,
    chunk_results,
    clear,
    flat_shape,
    flush,
    join_chunks,
    launch_shape,
    load_right,
    row_list,
    tile_for,
)

DOTS_THREADS = 256
DOTS_COLUMNS = 64  # of a thread block; the other threads share out the rows
DOTS_CHUNKS = 512
ROWS_PER_THREAD = 8  # terms that a thread adds before another thread block is worth while

GRAM_THREADS = 16  # along either side of a thread block
GRAM_SIDE = 4
GRAM_TILE = GRAM_THREADS * GRAM_SIDE
GRAM_BLOCKS = 1024  # thread blocks that splitting the rows aims at
GRAM_CHUNK_ROWS = 256
GRAM_SHAPE = (DEPTH, GRAM_TILE)
GRAM_OUTPUTS = GRAM_SIDE**2

_BLOCK = float32[:, ::1]
SIG_COMBINE = (_BLOCK, float32[::1], _BLOCK, float32[::1], _BLOCK)
SIG_SCALE = (_BLOCK, float32[::1], _BLOCK)
SIG_FILL = (float32[::1], float32)
SIG_SPREAD = (_BLOCK, _BLOCK, _BLOCK)
SIG_TAKE = SIG_PUT = (_BLOCK, int32[::1], _BLOCK)
SIG_MATMUL = (_BLOCK, _BLOCK, _BLOCK, boolean)
SIG_DOTS = (_BLOCK, _BLOCK, int32[::1], float64[::1], float64[:, ::1], int64)
SIG_COLUMN_SUMS = (float64[:, ::1], float64[::1])
SIG_GRAM = (_BLOCK, _BLOCK, int32[::1], float64[::1], float64[:, :, ::1], int64)


@cuda.jit(device=True, inline="always")
def _entry():
    """(row, column) of the entry that a thread of a :func:`flat_shape` launch has."""
    row = int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y
    return row, int64(cuda.blockIdx.y) * cuda.blockDim.x + cuda.threadIdx.x


@cuda_kernel()
def combine_kernel(A, a, B, b, out):
    i, j = _entry()
    if i < out.shape[0] and j < out.shape[1]:
        out[i, j] = a[j] * A[i, j] + b[j] * B[i, j]


@cuda_kernel()
def scale_kernel(A, a, out):
    i, j = _entry()
    if i < out.shape[0] and j < out.shape[1]:
        out[i, j] = a[j] * A[i, j]


@cuda_kernel()
def take_kernel(A, columns, out):
    i, j = _entry()
    if i < out.shape[0] and j < out.shape[1]:
        out[i, j] = A[i, columns[j]]


@cuda_kernel()
def put_kernel(A, columns, out):
    i, j = _entry()
    if i < A.shape[0] and j < A.shape[1]:
        out[i, columns[j]] = A[i, j]


@cuda_kernel()
def spread_kernel(U, W, out):
    i, j = _entry()
    if i < out.shape[0] and j < out.shape[1]:
        group = j // U.shape[1]
        out[i, j] = W[i, group] * U[i, j - group * U.shape[1]]


@cuda_kernel()
def fill_kernel(out, value):
    i = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if i < len(out):
        out[i] = value


def launch_combine(A, a, B, b, out, stream) -> None:
    """out (n, k) = A diag(a) + B diag(b) for float32 rows a and b (k,); B None: A diag(a).  out may be A or B."""
    if 0 in out.shape:
        return
    grid, block = flat_shape(*out.shape)
    if B is None:
        scale_kernel[grid, block, stream](A, a, out)
    else:
        combine_kernel[grid, block, stream](A, a, B, b, out)


def launch_take(A, columns, out, stream) -> None:
    """out (n, c) = A[:, columns] for int32 ``columns`` (c,)."""
    if 0 not in out.shape:
        grid, block = flat_shape(*out.shape)
        take_kernel[grid, block, stream](A, columns, out)


def launch_put(A, columns, out, stream) -> None:
    """out[:, columns] = A (n, c) for distinct int32 ``columns`` (c,); the other columns keep what they have."""
    if 0 not in A.shape:
        grid, block = flat_shape(*A.shape)
        put_kernel[grid, block, stream](A, columns, out)


def launch_spread(U, W, out, stream) -> None:
    """out (m, G k) = [diag(W_1) U, ..., diag(W_G) U] for U (m, k) and the columns of W (m, G)."""
    if 0 not in out.shape:
        grid, block = flat_shape(*out.shape)
        spread_kernel[grid, block, stream](U, W, out)


def launch_fill(out, value: float, stream) -> None:
    """Every entry of ``out`` = ``value``; any shape, float32 or float64."""
    if out.size:
        blocks = ceil_div(out.size, FLAT_THREADS)
        fill_kernel[blocks, FLAT_THREADS, stream](out.reshape((out.size,)), out.dtype.type(value))


@cuda.jit(device=True, inline="always")
def _sum_over_rows(sums, total):
    """Sum of ``total`` over the threads of a column, in a fixed order; valid in the threads with y = 0."""
    x, y, columns = cuda.threadIdx.x, cuda.threadIdx.y, cuda.blockDim.x
    sums[y * columns + x] = total
    count = cuda.blockDim.y
    while count > 1:
        cuda.syncthreads()
        half = (count + 1) // 2
        if y < count - half:
            sums[y * columns + x] += sums[(y + half) * columns + x]
        count = half
    return sums[x]


@cache
def make_dots_kernel(listed: bool, weighted: bool):
    """Kernel: out[chunk] (k,) = sum over rows r of w A[r] B[r], ``length`` of the rows a chunk.

    r is ``rows`` when ``listed`` and else 0, 1, ...; w is 1 unless ``weighted``.
    """

    @cuda_kernel()
    def dots_kernel(A, B, rows, w, out, length):
        sums = cuda.shared.array(DOTS_THREADS, float64)
        num_terms = len(rows) if listed else A.shape[0]
        j = int64(cuda.blockIdx.y) * cuda.blockDim.x + cuda.threadIdx.x
        first = int64(cuda.blockIdx.x) * length
        total = 0.0
        if j < A.shape[1]:
            for q in range(first + cuda.threadIdx.y, min(first + length, num_terms), cuda.blockDim.y):
                row = int64(rows[q]) if listed else q
                product = float64(A[row, j]) * float64(B[row, j])
                total += w[q] * product if weighted else product
        total = _sum_over_rows(sums, total)
        if cuda.threadIdx.y == 0 and j < A.shape[1]:
            out[cuda.blockIdx.x, j] = total

    return dots_kernel


@cuda_kernel()
def column_sums_kernel(partials, out):
    """out (k,) = column sums of partials (chunks, k)."""
    sums = cuda.shared.array(DOTS_THREADS, float64)
    j = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    total = 0.0
    if j < len(out):
        for chunk in range(cuda.threadIdx.y, partials.shape[0], cuda.blockDim.y):
            total += partials[chunk, j]
    total = _sum_over_rows(sums, total)
    if cuda.threadIdx.y == 0 and j < len(out):
        out[j] = total


def dots_shape(num_terms: int, num_columns: int) -> tuple[tuple[int, int], tuple[int, int], int]:
    """(grid, block, rows of a chunk) of a dots kernel; grid[0] is the number of chunks."""
    columns = ceil_div(num_columns, ceil_div(num_columns, DOTS_COLUMNS))
    rows = DOTS_THREADS // columns
    length = rows * max(ROWS_PER_THREAD, ceil_div(num_terms, DOTS_CHUNKS * rows))
    return (max(1, ceil_div(num_terms, length)), ceil_div(num_columns, columns)), (columns, rows), length


def dots_scratch_bytes(num_terms: int, num_columns: int) -> int:
    """Bytes that :func:`launch_column_dots` and :func:`launch_weighted_dots` allocate."""
    return 8 * dots_shape(num_terms, num_columns)[0][0] * num_columns + 12 if num_columns else 0


def _launch_dots(A, B, rows, w, out, allocate, stream) -> None:
    num_terms = A.shape[0] if rows is None else rows.size
    if not out.size or not num_terms:
        return launch_fill(out, 0, stream)
    grid, block, length = dots_shape(num_terms, out.size)
    partials = allocate((grid[0], out.size), np.float64)
    weights = allocate((1,), np.float64) if w is None else w
    kernel = make_dots_kernel(rows is not None, w is not None)
    kernel[grid, block, stream](A, B, row_list(rows, allocate), weights, partials, length)
    column_sums_kernel[grid[1], block, stream](partials, out)


def launch_column_dots(A, B, out, allocate, stream) -> None:
    """out (k,) float64 = sum_i A_ic B_ic for blocks A and B (n, k)."""
    _launch_dots(A, B, None, None, out, allocate, stream)


def launch_weighted_dots(A, B, rows, w, out, allocate, stream) -> None:
    """out (k,) float64 = sum over int32 ``rows`` j of w A_jc B_jc, w (len(rows),) float64; rows None: every row."""
    _launch_dots(A, B, rows, w, out, allocate, stream)


@cuda.jit(device=True, inline="always")
def _entry_or_zero(A, row, column):
    return float64(A[row, column]) if column < A.shape[1] else 0.0


@cache
def make_gram_kernel(listed: bool, weighted: bool):
    """Kernel: out[chunk] (p, q) = A[r]' diag(w) B[r], ``length`` of the rows r a chunk; r, w as in the dots kernel."""

    @cuda_kernel()
    def gram_kernel(A, B, rows, w, out, length):
        left = cuda.shared.array(GRAM_SHAPE, float64)
        right = cuda.shared.array(GRAM_SHAPE, float64)
        total = cuda.local.array(GRAM_OUTPUTS, float64)
        for i in range(GRAM_OUTPUTS):
            total[i] = 0.0

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        thread = y * GRAM_THREADS + x
        c = thread % GRAM_TILE
        a, b = int64(cuda.blockIdx.x) * GRAM_TILE, int64(cuda.blockIdx.y) * GRAM_TILE
        first = int64(cuda.blockIdx.z) * length
        last = min(first + length, len(rows) if listed else A.shape[0])

        for start in range(first, last, DEPTH):
            for d in range(thread // GRAM_TILE, DEPTH, GRAM_THREADS**2 // GRAM_TILE):
                left[d, c], right[d, c] = 0.0, 0.0
                if start + d < last:
                    row = int64(rows[start + d]) if listed else start + d
                    weight = w[start + d] if weighted else 1.0
                    left[d, c] = weight * _entry_or_zero(A, row, a + c)
                    right[d, c] = _entry_or_zero(B, row, b + c)
            cuda.syncthreads()
            if a + y < A.shape[1] and b + x < B.shape[1]:
                add_products(left, right, total, GRAM_SIDE)
            cuda.syncthreads()

        for o in range(GRAM_SIDE):
            for s in range(GRAM_SIDE):
                i, j = a + y + o * GRAM_THREADS, b + x + s * GRAM_THREADS
                if i < out.shape[1] and j < out.shape[2]:
                    out[cuda.blockIdx.z, i, j] = total[o * GRAM_SIDE + s]

    return gram_kernel


def gram_shape(num_terms: int, p: int, q: int) -> tuple[tuple[int, int, int], int]:
    """(grid, rows of a chunk) of a Gram kernel; grid[2] is the number of chunks."""
    tiles = ceil_div(p, GRAM_TILE), ceil_div(q, GRAM_TILE)
    chunks = max(1, min(GRAM_BLOCKS // (tiles[0] * tiles[1]), num_terms // GRAM_CHUNK_ROWS))
    length = DEPTH * max(1, ceil_div(num_terms, chunks * DEPTH))
    return (*tiles, max(1, ceil_div(num_terms, length))), length


def gram_scratch_bytes(num_terms: int, p: int, q: int) -> int:
    """Bytes that :func:`launch_gram` and :func:`launch_weighted_gram` allocate, 34 MB at most."""
    if 0 in (p, q):
        return 0
    chunks = gram_shape(num_terms, p, q)[0][2]
    return (8 * chunks * p * q if chunks > 1 else 0) + 12


def launch_gram(A, B, out, allocate, stream) -> None:
    """out (p, q) float64 = A' B for blocks A (n, p) and B (n, q)."""
    launch_weighted_gram(A, B, None, None, out, allocate, stream)


def launch_weighted_gram(A, B, rows, w, out, allocate, stream) -> None:
    """out (p, q) float64 = A[rows]' diag(w) B[rows], int32 ``rows`` in any order, float64 w (len(rows),).

    rows None: every row; w None: all ones.
    """
    num_terms = A.shape[0] if rows is None else rows.size
    if 0 in out.shape or not num_terms:
        return launch_fill(out, 0, stream)
    grid, length = gram_shape(num_terms, *out.shape)
    results = chunk_results(out, grid[2], allocate)
    weights = allocate((1,), np.float64) if w is None else w
    kernel = make_gram_kernel(rows is not None, w is not None)
    block = GRAM_THREADS, GRAM_THREADS
    kernel[grid, block, stream](A, B, row_list(rows, allocate), weights, results, length)
    join_chunks(results, out, False, stream)


@cache
def make_matmul_kernel(narrow: bool):
    """Kernel: out (n, k) = A (n, r) C (r, k), + out if ``add``."""
    tile = NARROW if narrow else WIDE
    left_shape, right_shape = tile.left_shape, tile.right_shape
    tile_rows, side, count = tile.rows, tile.side, tile.side**2

    @cuda_kernel()
    def matmul_kernel(A, C, out, add):
        left = cuda.shared.array(left_shape, float32)
        right = cuda.shared.array(right_shape, float32)
        partial = cuda.local.array(count, float32)
        total = cuda.local.array(count, float32)
        lost = cuda.local.array(count, float32)

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        columns, rows = cuda.blockDim.x, cuda.blockDim.y
        num_rows, num_terms = A.shape
        row = int64(cuda.blockIdx.x) * tile_rows
        column = int64(cuda.blockIdx.y) * columns * side

        clear(partial, total, lost, count)
        for step in range((num_terms + DEPTH - 1) // DEPTH):
            term = step * DEPTH
            load_right(C, term, num_terms, column, right)
            for e in range(y * columns + x, tile_rows * DEPTH, rows * columns):
                r, d = e // DEPTH, e % DEPTH
                left[d, r] = A[row + r, term + d] if row + r < num_rows and term + d < num_terms else ZERO
            accumulate(left, right, step, (partial, total, lost), side)
        flush(partial, total, lost, count)

        for o in range(side):
            for c in range(side):
                i, j = row + y + o * rows, column + x + c * columns
                if i < num_rows and j < out.shape[1]:
                    out[i, j] = (out[i, j] if add else ZERO) + total[o * side + c]

    return matmul_kernel


def launch_matmul(A, C, out, beta: bool, stream) -> None:
    """out (n, k) = A (n, r) C (r, k), added to ``out`` if ``beta``; float32 with compensated sums.  out: not A or C."""
    if 0 in out.shape or (beta and not C.size):
        return
    if not C.size:
        return launch_fill(out, 0, stream)
    tile = tile_for(out.shape[1])
    grid, block = launch_shape(tile, *out.shape)
    make_matmul_kernel(tile is NARROW)[grid, block, stream](A, C, out, bool(beta))
