"""Products with Z of a block of variants on tensor cores: launches, and what makes numbers of integer sums."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.types import float32, float64, int64

from ..genotypes import CALL_BITS, CHUNK
from ..integers import DIGITS
from .algebra import launch_fill
from .intrinsics import traced
from .launch import cuda_kernel, launch
from .layout import (
    MASK_DIGITS,
    MISSING_VALUE,
    SLOTS,
    STEP_TERMS,
    TILE_SAMPLES,
    ZT_SLICE,
    chunks_at_once,
    padded_slots,
    panel_columns,
    panels,
    sample_division,
    variant_stage_steps,
    zt_rows,
)
from .operands import SampleOperand, Span, VariantIntegers, launch_fragments, launch_variant_integers
from .tensor import (
    BITS_OF,
    BYTE_MASKS,
    BYTES,
    CALL_MASKS,
    COUNTS,
    HIGH_BYTES,
    LOW_BYTES,
    MASKS,
    WORD_MASKS,
    ZT_WARPS,
    make_z_kernel,
    make_zt_kernel,
    z_warps,
)

_THREADS = 128
PLANES = {2: (COUNTS,), 8: (BYTES,), 16: (LOW_BYTES, HIGH_BYTES)}
MASK_OF = {2: CALL_MASKS, 8: BYTE_MASKS, 16: WORD_MASKS}

_WIDE = float64[:, ::1]
SIG_STANDARDISE = {dtype: (_WIDE, _WIDE, _WIDE, int64, _WIDE, _WIDE, dtype[:, ::1]) for dtype in (float32, float64)}
SIG_ADD_CHUNKS = {dtype: (_WIDE, int64, dtype[:, ::1], int64) for dtype in (float32, float64)}
SIG_ROUND_SUMS = (_WIDE, float32[:, ::1])

# Kernels


@traced(lambda *kinds: float64)
def standardised(op, counted, lost, total, mean, inv_sd, scale):
    """(counted - mean (total - lost)) inv_sd scale, in the order of the CPU's roundings."""
    centred = op.subtract(counted, op.multiply(mean, op.subtract(total, lost)))
    return op.multiply(op.multiply(centred, inv_sd), scale)


@cache
def make_standardise_kernel(missing: bool, bits: int = CALL_BITS):
    """Kernel: Z' B of a slice of the variants from integer sums of what is multiplied, its high bytes and masks."""
    calls, wide, of_missing = bits == CALL_BITS, bits == 16, MISSING_VALUE[bits]

    @cuda_kernel()
    def standardise_kernel(sums, high_sums, lost_sums, num_parts, columns, moments, out):
        """out (rows, k) from sums (parts rows, k); columns of the operand, moments (rows, 2): means and 1/SDs."""
        thread = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        row, column = thread // out.shape[1], thread % out.shape[1]
        if row >= out.shape[0]:
            return
        total = columns[2, column]
        counted, lost = float64(0), float64(0)
        for part in range(num_parts):
            counted += sums[part * out.shape[0] + row, column]
            if wide:
                counted += float64(256) * high_sums[part * out.shape[0] + row, column]
            if missing:
                lost += lost_sums[part * out.shape[0] + row, column]
        if calls:
            counted = total - counted
        counted -= of_missing * lost
        out[row, column] = standardised(counted, lost, total, moments[row, 0], moments[row, 1], columns[0, column])

    return standardise_kernel


@cuda_kernel()
def add_chunks_kernel(chunks, num_chunks, out, first_column):
    """out[:, first_column...] += chunks (num_chunks rows, columns), one after the other."""
    thread = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    row, column = thread // chunks.shape[1], thread % chunks.shape[1]
    if row < out.shape[0]:
        total = float64(out[row, first_column + column])
        for chunk in range(num_chunks):
            total += chunks[chunk * out.shape[0] + row, column]
        out[row, first_column + column] = total


@cuda_kernel()
def round_sums_kernel(sums, out):
    """out float32 = sums, both (n, k)."""
    thread = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    row, column = thread // out.shape[1], thread % out.shape[1]
    if row < out.shape[0]:
        out[row, column] = sums[row, column]


# Launchers


@dataclass(frozen=True)
class TensorBlock:
    """b variants on the device: rows of genotypes of so many bits as uint8, and moments (b, 2) float64.

    Moments are means, of calls beyond one copy, and 1/SDs, in counts or in codes of dosages.  A row of ``packed`` is a
    multiple of 64 bytes, and rows exist up to a multiple of 64; what follows sample n in a row, and the rows from b on,
    may hold anything.  ``start``: the first variant's place among all, which decides with which others it is summed;
    ``complete``: whether no genotype is missing.
    """

    packed: Any
    moments: Any
    start: int = 0
    complete: bool = False
    bits: int = CALL_BITS


def launch_zt(block: TensorBlock, operand: SampleOperand, out, allocate, stream) -> None:
    """out (b, k), float32 or float64, = Z' B for the right-hand side B of ``operand``.

    One read of the genotypes for each panel, and another where calls are missing.
    """
    for first in range(0, len(out) if out.shape[1] else 0, ZT_SLICE):
        _launch_zt_slice(block, operand, slice(first, min(first + ZT_SLICE, len(out))), out, allocate, stream)


def _launch_zt_slice(block: TensorBlock, operand: SampleOperand, rows: slice, out, allocate, stream) -> None:
    packed, target = block.packed[rows.start : rows.start + ZT_SLICE], out[rows]
    planes = PLANES[block.bits] if block.complete else (*PLANES[block.bits], MASK_OF[block.bits])
    found = [_launch_zt_sums(packed, operand, len(target), plane, allocate, stream) for plane in planes]
    (sums, parts), high, lost = found[0], found[len(PLANES[block.bits]) - 1][0], found[-1][0]
    arguments = (sums, high, lost, parts, operand.columns, block.moments[rows], target)
    _launch_threads(make_standardise_kernel(not block.complete, block.bits), target.size, stream, *arguments)


def _launch_zt_sums(packed, operand: SampleOperand, num_variants: int, plane: int, allocate, stream):
    """(integer sums (parts variants, k) float64, parts)."""
    bits, digit_tiles = BITS_OF[plane], DIGITS * operand.panels[0].num_tiles  # as many steps in all panels
    parts, part_stages, num_stages = sample_division(operand.num_samples, num_variants, digit_tiles, bits)
    num_blocks = -(-num_variants // zt_rows(bits))
    sums = allocate((parts * num_variants, operand.num_columns), np.float64)
    for panel in operand.panels:
        num_columns = panel_columns(panel.first_column, panel.num_tiles, operand.num_columns)
        where = (panel.first_column, num_columns, part_stages, num_stages)
        arguments = (packed, num_variants, panel.fragments, sums, where)
        launch(make_zt_kernel(panel.num_tiles, plane), (num_blocks, parts), 32 * ZT_WARPS, stream, *arguments)
    return sums, parts


def launch_z(block: TensorBlock, weighted, out, allocate, stream) -> None:
    """out (n, k) += Z[:, rows] diag(w) U[rows]; ``weighted``: U (b, k), w (q,) float64, rows.  U and out: float32 or
    float64; a float32 sum is rounded once for each chunk.

    ``rows`` are q int32, ascending rows of the block on the device; None means all b.  One read of the genotypes of the
    listed variants for each panel, and another where calls are missing.
    """
    _, factor, rows = weighted
    count = factor.shape[0]
    if out.size == 0 or count == 0:
        return
    for span in _spans(block.start if rows is None else 0, count, chunks_at_once(len(out), count)):
        _launch_z_chunks(block, weighted, span, out, allocate, stream)


def _spans(start: int, count: int, most_chunks: int) -> Iterator[Span]:
    """``count`` variants, the first at place ``start`` of all, in spans of at most so many chunks."""
    offset = start % CHUNK
    for first in range(0, offset + count, most_chunks * CHUNK):
        lacking = offset // SLOTS * SLOTS if first == 0 else 0
        left = min(most_chunks * CHUNK, offset + count - first) - lacking
        yield Span(first + lacking - offset, padded_slots(left), lacking)


def _launch_z_chunks(block: TensorBlock, weighted, span, out, allocate, stream) -> None:
    """Some chunks of the variants."""
    missing = not block.complete
    made = launch_variant_integers(weighted, block.moments, span, (missing, block.bits), allocate, stream)
    for panel in panels(out.shape[1], MASK_DIGITS if missing else DIGITS):
        _launch_z_panel(block, made, panel, span, out, allocate, stream)


def _launch_z_panel(block: TensorBlock, made: VariantIntegers, panel, span, out, allocate, stream) -> None:
    """Some columns of some chunks: what missing calls add, then the counts, then the sum of several chunks."""
    first_column, num_tiles = panel
    num_samples, num_chunks = len(out), span.num_chunks
    shape = (num_chunks * num_samples, panel_columns(first_column, num_tiles, out.shape[1]))
    lost, parts = made.columns, out
    if not block.complete:
        lost = allocate(shape, np.float64)
        where = (num_samples, 0, shape[1], first_column)
        _launch_z_product(block, made, num_tiles, (span, where), (lost, lost), MASK_OF[block.bits], allocate, stream)
    if num_chunks > 1 or out.dtype == np.float32:
        parts = allocate(shape, np.float64)
        launch_fill(parts, 0.0, stream)
    where = (num_samples, first_column if parts is out else 0, shape[1], first_column)
    for plane in PLANES[block.bits]:
        _launch_z_product(block, made, num_tiles, (span, where), (lost, parts), plane, allocate, stream)
    if parts is not out:
        count = num_samples * shape[1]
        _launch_threads(add_chunks_kernel, count, stream, parts, num_chunks, out, first_column)


def _launch_z_product(block, made, num_tiles: int, place, to, plane: int, allocate, stream) -> None:
    """A product of masks with the rests, or of counts with the integers; to: (what is lost, ``out``)."""
    span, where = place
    digits, values = (MASK_DIGITS, made.rests) if plane in MASKS else (DIGITS, made.values)
    fragments = launch_fragments(values, (where[-1], num_tiles, digits, 0), allocate, stream)
    variants = STEP_TERMS * variant_stage_steps(digits * num_tiles)
    stages = (span.lacking // variants, span.num_slots // variants)
    arguments = (block.packed, made.listed, fragments, made.columns, *to, (*where, *stages, int(not block.complete)))
    grid = (-(-where[0] // TILE_SAMPLES[block.bits]), span.num_chunks)
    threads = 32 * z_warps(digits * num_tiles, block.bits)
    launch(make_z_kernel(num_tiles, plane), grid, threads, stream, *arguments)


def launch_round_sums(sums, out, stream) -> None:
    """out (n, k) float32 = sums (n, k) float64."""
    if out.size:
        _launch_threads(round_sums_kernel, out.size, stream, sums, out)


def _launch_threads(kernel, num_threads: int, stream, *arguments) -> None:
    launch(kernel, (-(-num_threads // _THREADS), 1), _THREADS, stream, *arguments)
