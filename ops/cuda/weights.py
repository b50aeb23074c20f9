"""Block-diagonal weights in variant space on the device: W U for dense symmetric blocks of any sizes, in one launch."""

from functools import cache

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int64

from .launch import cuda_kernel
from .tiles import DEPTH, LOW, NARROW, ZERO, accumulate, clear, flush, launch_shape, load_right

TILE_ROWS = LOW.rows  # and NARROW.rows: the plan does not depend on the number of columns

SIG_BLOCKS = (float32[::1], int64[:, ::1], float32[:, ::1], float32[:, ::1])


def plan_tiles(first: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(t, 4) int64, a tile each: first row of U of its block, size of the block, row in it, its place in the buffer.

    Block b covers rows first[b] : first[b] + sizes[b]; the blocks (sizes[b]**2 entries each) follow one another in the
    buffer.  Tiles of large blocks come first, so that the device does not end on a long one.  Raises ValueError where
    blocks overlap.
    """
    first, sizes = np.asarray(first, np.int64), np.asarray(sizes, np.int64)
    order = np.argsort(first, kind="stable")
    order = order[sizes[order] > 0]
    overlapping = np.flatnonzero(first[order][1:] < (first + sizes)[order][:-1])
    if len(overlapping):
        a, b = order[overlapping[0]], order[overlapping[0] + 1]
        raise ValueError(
            f"blocks: expected disjoint rows, found {first[a]}:{first[a] + sizes[a]} in block {a} and "
            f"{first[b]}:{first[b] + sizes[b]} in block {b}"
        )
    offsets = np.cumsum(sizes**2) - sizes**2
    tiles = -(-sizes // TILE_ROWS)
    block = np.repeat(np.arange(len(sizes)), tiles)
    rows = TILE_ROWS * (np.arange(len(block)) - np.repeat(np.cumsum(tiles) - tiles, tiles))
    plan = np.stack([first[block], sizes[block], rows, offsets[block]], axis=1)
    return plan[np.argsort(-plan[:, 1], kind="stable")]


@cache
def make_blocks_kernel(narrow: bool):
    """Kernel: out[rows of block b] = W_b U[rows of block b], one tile of :func:`plan_tiles` a thread block."""
    tile = NARROW if narrow else LOW
    left_shape, right_shape = tile.left_shape, tile.right_shape
    tile_rows, side, count = tile.rows, tile.side, tile.side**2

    @cuda_kernel()
    def blocks_kernel(W, tiles, U, out):
        left = cuda.shared.array(left_shape, float32)
        right = cuda.shared.array(right_shape, float32)
        partial = cuda.local.array(count, float32)
        total = cuda.local.array(count, float32)
        lost = cuda.local.array(count, float32)

        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        columns, rows = cuda.blockDim.x, cuda.blockDim.y
        first, size = tiles[cuda.blockIdx.x, 0], tiles[cuda.blockIdx.x, 1]
        row, offset = tiles[cuda.blockIdx.x, 2], tiles[cuda.blockIdx.x, 3]
        column = int64(cuda.blockIdx.y) * columns * side

        clear(partial, total, lost, count)
        for step in range((size + DEPTH - 1) // DEPTH):
            term = step * DEPTH
            load_right(U, first + term, first + size, column, right)
            for e in range(y * columns + x, DEPTH * tile_rows, rows * columns):
                d, r = e // tile_rows, e % tile_rows
                # W_b is symmetric: its columns are read as rows, in consecutive memory.
                inside = term + d < size and row + r < size
                left[d, r] = W[offset + (term + d) * size + row + r] if inside else ZERO
            accumulate(left, right, step, (partial, total, lost), side)
        flush(partial, total, lost, count)

        for o in range(side):
            for c in range(side):
                r, j = row + y + o * rows, column + x + c * columns
                if r < size and j < out.shape[1]:
                    out[first + r, j] = total[o * side + c]

    return blocks_kernel


def launch_block_weights(W, tiles, U, out, stream) -> None:
    """out (m, k) = W U for block-diagonal W: its blocks, by rows, in one float32 buffer, ``tiles`` from plan_tiles.

    Rows of ``out`` that are in no block keep what they have.  out: not U.  Cost: sum(sizes**2) k multiplications.
    """
    if 0 in out.shape or not tiles.shape[0]:
        return
    narrow = out.shape[1] <= NARROW.columns
    (_, column_tiles), block = launch_shape(NARROW if narrow else LOW, TILE_ROWS, out.shape[1])
    make_blocks_kernel(narrow)[(tiles.shape[0], column_tiles), block, stream](W, tiles, U, out)
