"""Operands of the tensor-core kernels: fp16 tables of the genotypes, and right-hand sides as fp16 fragments.

A right-hand side is split in two fp16 numbers, x = high + low, after a power of two has brought the largest magnitude
of its column into [2^11, 2^12): 22 bits of x, and an absolute error of at most 2^-37 of the largest of the column.
The two are kept in the order in which the lanes of a warp need them for mma.sync.m16n8k16 (PTX ISA, "Matrix Fragments
for mma.m16n8k16"), so that a lane fetches its share of both with one 16-byte load.

The sum over k of a product may run in any order.  Here it is the order in which a lane finds the genotypes in the words
that it holds: half e of register r of lane 4 g + q belongs to column g and to the term ``first + 4 e + 8 r``, where
``first`` depends on q.  Scales, sums and fragments are made on the device, in a fixed order, without synchronisation.
"""

from dataclasses import dataclass

import numpy as np
from numba import cuda
from numba.cuda.types import float32, float64, int32, int64, uint32

from .intrinsics import select, traced, words_result
from .launch import cuda_kernel, launch
from .layout import STEP_TERMS, TILE_COLUMNS, panels, partials_shape, sample_stage_steps, stage_words

TABLE_UNIT = 1 / 1024  # the centre of a table is a multiple of it, so differences from the counts are exact in fp16

_THREADS = 64  # of a block; every number of threads here is a multiple of it
_HIGHEST_SCALE = 253  # exponent bits of 2^126, whose reciprocal is still a normal number

_MATRIX, _WORDS = float32[:, ::1], uint32[::1]
_PARTIALS = (_MATRIX, float64[:, ::1])
_LISTED = (_MATRIX, float32[::1], int32[::1], int64, int64)
SIG_LIST_ROWS = (int64, int64, int32[::1])
SIG_TAKE_ROWS = (int32[::1], int64, int64, int32[::1])
SIG_SAMPLE_PARTIALS = (_MATRIX, int64, *_PARTIALS)
SIG_VARIANT_PARTIALS = (*_LISTED, _MATRIX, *_PARTIALS)
SIG_FOLD = (*_PARTIALS, _MATRIX)
SIG_SAMPLE_FRAGMENTS = (_MATRIX, int64, _MATRIX, int64, int64, _WORDS)
SIG_VARIANT_FRAGMENTS = (*_LISTED, _MATRIX, int64, _WORDS)


def make_tables(mean: np.ndarray, inv_sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tables (m, 4) float16 by PLINK code and moments (m, 2) float32 = (inv_sd, delta) of m variants, on the host.

    With the centre c = mean rounded to a multiple of 1/1024 and delta = mean - c, |delta| <= 2^-11, a table holds
    (2 - c, delta, 1 - c, -c) for two copies, missing, one copy and none, and

        z = inv_sd (table - delta)

    The counts are exact and a missing call is zero within 2^-23 inv_sd.  Where inv_sd = 0 everything is zero.
    """
    varies = inv_sd != 0
    centre = np.round(mean / TABLE_UNIT) * TABLE_UNIT
    delta = mean - centre
    table = np.where(varies[:, None], np.stack([2 - centre, delta, 1 - centre, -centre], axis=1), 0.0)
    moments = np.stack([inv_sd, np.where(varies, delta, 0.0)], axis=1)
    return table.astype(np.float16), moments.astype(np.float32)


@dataclass(frozen=True)
class PanelOperand:
    """A panel of a right-hand side on the device.

    ``fragments``: uint32, ``num_stages`` stages one after the other; ``columns`` (3, >= 8 num_tiles) float32: the power
    of two that the fragments of a column were multiplied by, its reciprocal, and the weighted sum of the column.
    """

    first_column: int
    num_tiles: int
    num_stages: int
    fragments: object
    columns: object


@dataclass(frozen=True)
class SampleOperand:
    """A right-hand side (n, k) of Z' B on the device; serves any number of blocks of variants."""

    num_samples: int
    num_columns: int
    panels: tuple[PanelOperand, ...]


@dataclass(frozen=True)
class ListedRows:
    """The ``count`` variants of a product with Z: rows (padded, with valid rows) of the block, int32 on the device."""

    rows: object
    count: int


# Kernels.  One thread for each element of the padded result, so no thread has to leave early.


@traced(lambda *kinds: words_result(4))
def split_halves(op, x0, x1, x2, x3):
    """Words (high 0 and 1, high 2 and 3, low 0 and 1, low 2 and 3) of fp16 with x = high + low."""
    values = [x0, x1, x2, x3]
    high = [op.round_to_half(x) for x in values]
    low = [op.round_to_half(op.subtract(x, op.float_of_half(h))) for x, h in zip(values, high, strict=True)]
    return [op.pack_halves(*pair) for half in (high, low) for pair in (half[:2], half[2:])]


@traced(lambda peak: peak)
def column_scale(op, peak):
    """The power of two that brings ``peak`` >= 0 into [2^11, 2^12), at most 2^126."""
    # 2^(E-127) <= peak < 2^(E-126) for exponent bits E; the scale is 2^(138-E), whose exponent bits are 265 - E
    exponent = op.multiply_add(op.shift_right(op.bits_of_float(peak), 23), 2**32 - 1, 265)
    return op.float_of_bits(op.multiply_add(op.smaller(exponent, _HIGHEST_SCALE), 2**23, 0))


@cuda_kernel()
def list_rows_kernel(first, last, out):
    """out = first, first + 1, ..., and ``last`` from there on."""
    thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    out[thread] = int32(min(first + thread, last))


@cuda_kernel()
def take_rows_kernel(rows, first, last, out):
    """out = rows[first], rows[first + 1], ..., and rows[last] from there on."""
    thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    out[thread] = rows[min(first + thread, last)]


@cuda_kernel()
def sample_partials_kernel(B, first_column, peaks, totals):
    """Largest magnitudes and sums of every ``len(peaks)``-th row of B: one thread for each entry of the partials.

    A column past the last of B repeats the last.
    """
    thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    num_parts, width = peaks.shape
    num_rows, num_columns = B.shape
    part, column = thread // width, thread % width
    source = min(first_column + column, num_columns - 1)
    peak, total = float32(0), float64(0)
    for step in range((num_rows + num_parts - 1) // num_parts):
        row = step * num_parts + part
        x = select(row < num_rows, B[min(row, num_rows - 1), source], float32(0))
        peak = max(peak, abs(x))
        total += float64(x)
    peaks[part, column] = peak
    totals[part, column] = total


@cuda_kernel()
def variant_partials_kernel(U, factor, rows, count, first_column, moments, peaks, totals):
    """As :func:`sample_partials_kernel`, of W = factor U in the first ``count`` listed rows; sums are of delta W."""
    thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    num_parts, width = peaks.shape
    part, column = thread // width, thread % width
    source = min(first_column + column, U.shape[1] - 1)
    peak, total = float32(0), float64(0)
    for step in range((count + num_parts - 1) // num_parts):
        item = step * num_parts + part
        row = rows[min(item, count - 1)]
        x = select(item < count, factor[row] * U[row, source], float32(0))
        peak = max(peak, abs(x))
        total += float64(moments[row, 1]) * float64(x)
    peaks[part, column] = peak
    totals[part, column] = total


@cuda_kernel()
def fold_kernel(peaks, totals, columns):
    """``columns`` (scale, 1 / scale, sum) from partial maxima and sums; one thread a column."""
    column = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    peak, total = float32(0), float64(0)
    for part in range(len(peaks)):
        peak = max(peak, peaks[part, column])
        total += totals[part, column]
    scale = column_scale(peak)
    columns[0, column] = scale
    columns[1, column] = float32(1) / scale
    columns[2, column] = float32(total)


@cuda_kernel()
def sample_fragments_kernel(B, first_column, columns, num_tiles, steps, fragments):
    """Fragments of B for the kernel of Z' B; one thread for each lane of each step and column tile.

    A stage is ``steps`` = 4 w steps, w words (16 w samples) of each lane of a quad in turn; its step 4 j + s takes what
    has bits 2 s of the four bytes of word j.
    """
    thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    lane, tile, step = thread % 32, thread // 32 % num_tiles, thread // (32 * num_tiles)
    stage, inner = step // steps, step % steps
    first = STEP_TERMS * (stage * steps + lane % 4 * (steps // 4) + inner // 4) + inner % 4
    num_rows, num_columns = B.shape
    column = TILE_COLUMNS * tile + lane // 4
    source = min(first_column + column, num_columns - 1)
    scale = columns[0, column]
    x0 = select(first < num_rows, scale * B[min(first, num_rows - 1), source], float32(0))
    x1 = select(first + 4 < num_rows, scale * B[min(first + 4, num_rows - 1), source], float32(0))
    x2 = select(first + 8 < num_rows, scale * B[min(first + 8, num_rows - 1), source], float32(0))
    x3 = select(first + 12 < num_rows, scale * B[min(first + 12, num_rows - 1), source], float32(0))
    words = split_halves(x0, x1, x2, x3)
    for i in range(4):
        fragments[4 * thread + i] = words[i]


@cuda_kernel()
def variant_fragments_kernel(U, factor, rows, count, first_column, columns, num_tiles, fragments):
    """Fragments of W = factor U for the kernel of Z W; lane q has variants q, q + 4, q + 8 and q + 12 of a step.

    Listed rows from ``count`` on get weight zero.
    """
    thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    lane, tile, step = thread % 32, thread // 32 % num_tiles, thread // (32 * num_tiles)
    first = STEP_TERMS * step + lane % 4
    column = TILE_COLUMNS * tile + lane // 4
    source = min(first_column + column, U.shape[1] - 1)
    scale = columns[0, column]
    r0, r1, r2, r3 = rows[first], rows[first + 4], rows[first + 8], rows[first + 12]
    x0 = select(first < count, scale * (factor[r0] * U[r0, source]), float32(0))
    x1 = select(first + 4 < count, scale * (factor[r1] * U[r1, source]), float32(0))
    x2 = select(first + 8 < count, scale * (factor[r2] * U[r2, source]), float32(0))
    x3 = select(first + 12 < count, scale * (factor[r3] * U[r3, source]), float32(0))
    words = split_halves(x0, x1, x2, x3)
    for i in range(4):
        fragments[4 * thread + i] = words[i]


# Launchers


def launch_sample_operand(B, allocate, stream) -> SampleOperand:
    """The operand of Z' B from B (n, k) float32; 2 reads of B, and about 4 bytes written for each of its numbers.

    ``allocate(shape, dtype)`` gives device memory for the operand, which keeps it, and for scratch.
    """
    num_samples, num_columns = B.shape
    operands = []
    for first_column, num_tiles in panels(num_columns):
        arguments = (B, first_column)
        columns = _launch_columns(sample_partials_kernel, arguments, num_samples, num_tiles, allocate, stream)
        steps = sample_stage_steps(num_tiles)
        num_stages = -(-num_samples // (STEP_TERMS * steps))
        fragments = allocate((num_stages * stage_words(num_tiles, steps),), np.uint32)
        arguments = (B, first_column, columns, num_tiles, steps, fragments)
        _launch_threads(sample_fragments_kernel, fragments.size // 4, stream, *arguments)
        operands.append(PanelOperand(first_column, num_tiles, num_stages, fragments, columns))
    return SampleOperand(num_samples, num_columns, tuple(operands))


def launch_rows(rows, first: int, count: int, padded: int, allocate, stream) -> ListedRows:
    """Listed rows ``first:first + count``, padded with the last of them; ``rows`` None lists every row of a block."""
    out = allocate((padded,), np.int32)
    kernel, listed = (list_rows_kernel, ()) if rows is None else (take_rows_kernel, (rows,))
    _launch_threads(kernel, padded, stream, *listed, first, first + count - 1, out)
    return ListedRows(out, count)


def launch_variant_operand(U, factor, moments, listed: ListedRows, panel, stage_steps: int, allocate, stream):
    """The operand of Z[:, listed] W with W = factor U, for one (first column, column tiles) ``panel`` of U (b, k).

    ``factor`` (b,) is inv_sd times the weights; ``moments`` (b, 2) as from :func:`make_tables`.
    """
    first_column, num_tiles = panel
    listed_U = (U, factor, listed.rows, listed.count, first_column)
    arguments = (*listed_U, moments)
    columns = _launch_columns(variant_partials_kernel, arguments, listed.count, num_tiles, allocate, stream)
    num_stages = -(-listed.count // (STEP_TERMS * stage_steps))
    fragments = allocate((num_stages * stage_words(num_tiles, stage_steps),), np.uint32)
    _launch_threads(variant_fragments_kernel, fragments.size // 4, stream, *listed_U, columns, num_tiles, fragments)
    return PanelOperand(first_column, num_tiles, num_stages, fragments, columns)


def _launch_columns(partials_kernel, arguments, num_rows: int, num_tiles: int, allocate, stream):
    """Scales and sums of the columns of a panel, in two passes; the partials are given back."""
    shape = partials_shape(num_rows, num_tiles)
    peaks, totals = allocate(shape, np.float32), allocate(shape, np.float64)
    columns = allocate((3, shape[1]), np.float32)
    _launch_threads(partials_kernel, peaks.size, stream, *arguments, peaks, totals)
    launch(fold_kernel, (shape[1] // 32, 1), 32, stream, peaks, totals, columns)
    return columns


def _launch_threads(kernel, num_threads: int, stream, *arguments) -> None:
    launch(kernel, (num_threads // _THREADS, 1), _THREADS, stream, *arguments)
