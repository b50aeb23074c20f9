"""What the float32 products share: tiles in shared memory, compensated sums, and sums that are split and joined.

A thread block makes a tile of a product L R.  It fills ``DEPTH`` rows of L' (``left``) and of R (``right``) in shared
memory, every thread adds its ``side`` x ``side`` outer products, and so on along the sum.  Only shared memory and
barriers are used, so the same source runs on any device and in numba's simulator.

Rounding: plain float32 sums of ``SEGMENT`` terms and a Kahan sum over the segments, so the error does not grow with
the number of terms (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 4.3).

Order: a long sum of a small result is split in chunks, one thread block each, to occupy the device.  Their number
depends on shapes only and they are joined in order, so a result is the same bit for bit on every device.
"""

from typing import NamedTuple

import numpy as np
from numba import cuda
from numba.cuda.types import boolean, float32, float64, int64, uint64

from .launch import cuda_kernel

DEPTH = 16  # terms of the sum in one shared tile
SEGMENT = 256  # terms summed plainly before they join the compensated total
TILES_PER_SEGMENT = SEGMENT // DEPTH
CHUNK_TERMS = 8 * SEGMENT  # a chunk is no shorter: joining it costs a write and a read of the result
NUM_BLOCKS = 2048  # thread blocks that splitting aims at: twice what the largest device holds
PADDING = 2  # columns that spread the rows of a left tile, written along the depth, over the banks
FLAT_THREADS = 256

ZERO = float32(0.0)  # a bare 0.0 is a float64 and would carry the sums to float64


class Tile(NamedTuple):
    """The part of a result that a thread block makes, at most ``columns`` wide; ``side`` x ``side`` of it a thread."""

    rows: int
    columns: int
    side: int

    @property
    def left_shape(self) -> tuple[int, int]:
        return DEPTH, self.rows + PADDING

    @property
    def right_shape(self) -> tuple[int, int]:
        return DEPTH, self.columns


NARROW = Tile(rows=64, columns=4, side=1)
WIDE = Tile(rows=128, columns=32, side=4)
LOW = Tile(rows=64, columns=32, side=4)  # for results in blocks of a few dozen rows


def tile_for(num_columns: int) -> Tile:
    """The tile for products of ``num_columns`` columns: a narrow result wastes no thread on columns it lacks."""
    return NARROW if num_columns <= NARROW.columns else WIDE


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def launch_shape(tile: Tile, num_rows: int, num_columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(grid, block) of a product; the columns are shared out evenly over the tiles."""
    width = ceil_div(num_columns, ceil_div(num_columns, tile.columns))
    threads = ceil_div(width, tile.side), tile.rows // tile.side
    return (ceil_div(num_rows, tile.rows), ceil_div(num_columns, threads[0] * tile.side)), threads


def flat_shape(num_rows: int, num_columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(grid, block) of a kernel with one thread an entry of a (num_rows, num_columns) array.

    A row of threads is as long as a row of the array where that fits, so a warp reads consecutive memory.
    """
    columns = ceil_div(num_columns, ceil_div(num_columns, FLAT_THREADS))
    rows = FLAT_THREADS // columns
    return (ceil_div(num_rows, rows), ceil_div(num_columns, columns)), (columns, rows)


def split_sum(num_blocks: int, num_terms: int) -> tuple[int, int]:
    """(chunks, terms of a chunk) for sums of ``num_terms`` by ``num_blocks`` thread blocks; whole segments a chunk."""
    chunks = max(1, min(NUM_BLOCKS // num_blocks, num_terms // CHUNK_TERMS))
    length = SEGMENT * max(1, ceil_div(num_terms, chunks * SEGMENT))
    return max(1, ceil_div(num_terms, length)), length


def split_product(num_rows: int, num_columns: int, num_terms: int) -> tuple[int, int]:
    """:func:`split_sum` of a product (num_rows, num_terms) (num_terms, num_columns)."""
    (row_tiles, column_tiles), _ = launch_shape(tile_for(num_columns), num_rows, num_columns)
    return split_sum(row_tiles * column_tiles, num_terms)


def product_scratch_bytes(num_rows: int, num_columns: int, num_terms: int) -> int:
    """Bytes that a split product allocates: a copy of the result for each chunk, 34 MB at most."""
    if 0 in (num_rows, num_columns):
        return 0
    chunks = split_product(num_rows, num_columns, num_terms)[0]
    return 4 * chunks * num_rows * num_columns if chunks > 1 else 0


@cuda.jit(device=True, inline="always")
def clear(partial, total, lost, count):
    """Zero the three accumulators of ``count`` results."""
    for i in range(count):
        partial[i] = ZERO
        total[i] = ZERO
        lost[i] = ZERO


@cuda.jit(device=True, inline="always")
def flush(partial, total, lost, count):
    """Kahan step: total += partial, with the rounding error of the total kept in ``lost``."""
    for i in range(count):
        term = partial[i] - lost[i]
        raised = total[i] + term
        lost[i] = (raised - total[i]) - term
        total[i] = raised
        partial[i] = ZERO


@cuda.jit(device=True, inline="always")
def load_right(B, first, last, column, right):
    """right[d, c] = B[first + d, column + c], and 0 from row ``last`` on and beside the columns of B."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    row = first + y % DEPTH
    for c in range(x + cuda.blockDim.x * (y // DEPTH), right.shape[1], cuda.blockDim.x * (cuda.blockDim.y // DEPTH)):
        right[y % DEPTH, c] = B[row, column + c] if row < last and column + c < B.shape[1] else ZERO


@cuda.jit(device=True, inline="always")
def add_products(left, right, sums, side):
    """sums += the part of left' right, summed along the depth, that a thread owns: ``side`` x ``side`` entries.

    They are in rows y + o Y and columns x + s X of the tile, for thread (x, y) of a block of X x Y.
    """
    # Four steps at a time because the compiler does not unroll, unsigned because it checks signed indices for < 0:
    # 29 instructions for the 16 multiplications of a step, against 61.
    x, y = uint64(cuda.threadIdx.x), uint64(cuda.threadIdx.y)
    columns, rows = uint64(cuda.blockDim.x), uint64(cuda.blockDim.y)
    one, two, three = uint64(1), uint64(2), uint64(3)
    for step in range(0, DEPTH, 4):
        d = uint64(step)
        for o in range(side):
            r = y + uint64(o) * rows
            for s in range(side):
                c = x + uint64(s) * columns
                sums[o * side + s] += left[d, r] * right[d, c]
                sums[o * side + s] += left[d + one, r] * right[d + one, c]
                sums[o * side + s] += left[d + two, r] * right[d + two, c]
                sums[o * side + s] += left[d + three, r] * right[d + three, c]


@cuda.jit(device=True, inline="always")
def accumulate(left, right, step, sums, side):
    """:func:`add_products` of the ``step``-th pair of tiles, once every thread has written its part of them.

    sums: (partial, total, lost) of the thread's entries.
    """
    partial, total, lost = sums
    cuda.syncthreads()
    add_products(left, right, partial, side)
    cuda.syncthreads()
    if (step + 1) % TILES_PER_SEGMENT == 0:
        flush(partial, total, lost, side * side)


SIG_JOIN = {
    "float32": (float32[:, :, ::1], float32[:, ::1], boolean),
    "float64": (float64[:, :, ::1], float64[:, ::1], boolean),
}


@cuda_kernel()
def join_kernel(partials, out, add):
    """out (n, k) = [out +] the compensated sum of partials (chunks, n, k) over its chunks, in their order."""
    i = int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y
    j = int64(cuda.blockIdx.y) * cuda.blockDim.x + cuda.threadIdx.x
    if i >= out.shape[0] or j >= out.shape[1]:
        return
    total = partials[0, i, j]
    lost = total - total
    for chunk in range(1, partials.shape[0]):
        term = partials[chunk, i, j] - lost
        raised = total + term
        lost = (raised - total) - term
        total = raised
    out[i, j] = out[i, j] + total if add else total


def chunk_results(out, chunks: int, allocate):
    """Where the chunks of a sum put their results, (chunks, n, k): ``out`` (n, k) itself when there is only one."""
    return out.reshape((1, *out.shape)) if chunks == 1 else allocate((chunks, *out.shape), out.dtype)


def join_chunks(partials, out, add: bool, stream) -> None:
    """Sum what :func:`chunk_results` gave into ``out``."""
    if partials.shape[0] > 1:
        grid, block = flat_shape(*out.shape)
        join_kernel[grid, block, stream](partials, out, add)


def row_list(rows, allocate):
    """``rows``, or what a kernel that is compiled not to read them is given in their place."""
    return allocate((1,), np.int32) if rows is None else rows
