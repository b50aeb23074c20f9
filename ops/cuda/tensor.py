"""Products with Z on tensor cores, straight from packed genotypes.

With the tables and moments of :func:`.fragments.make_tables`, z = inv_sd (table - delta), so

    Z' B  = inv_sd (T' B - delta (1'B)),        Z W = T (inv_sd W) - 1 (delta' (inv_sd W))

and only the products with T, whose entries are exact in fp16, need tensor cores.  A lane looks its own genotypes up in
the table of their variant, four bytes at a time, straight into mma fragments: neither T nor Z is ever in memory.

Rounding: tensor cores add in float32 but may truncate, so a sum is carried in their accumulators for one stage, 64 to
256 terms, and then added to a float32 total with rounding to nearest; a total joins ``out`` after at most
``MAX_STAGES`` stages.  How a sum is divided depends on shapes only, so results are the same on every device of a kind.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import cuda
from numba.cuda.types import UniTuple, float16, float32, int32, int64, uint8, uint32

from .fragments import SampleOperand, launch_rows, launch_variant_operand
from .intrinsics import fill, floats_result, indices_result, no_result, traced, wait_async, words_result
from .launch import cuda_kernel, launch
from .layout import (
    FRAGMENT_WORDS,
    STEP_TERMS,
    TILE_COLUMNS,
    TILE_SAMPLES,
    ZT_ROWS,
    divide,
    panel_columns,
    panels,
    sample_stage_steps,
    stage_words,
    variant_stage_steps,
)

ZT_WARPS = 8
ROW_WORDS = TILE_SAMPLES // 16
TABLE_WORDS = 2  # of a variant

_MATRIX, _WORDS, _TABLE = float32[:, ::1], uint32[::1], float16[:, ::1]
SIG_ZT = (uint8[:, ::1], _TABLE, _MATRIX, _WORDS, _MATRIX, _MATRIX, UniTuple(int64, 6))
SIG_Z = (uint8[:, ::1], _TABLE, int32[::1], _WORDS, _MATRIX, _MATRIX, UniTuple(int64, 6))
SIG_SUM_PARTS = (_MATRIX, int64, _MATRIX, int64, int64)

# Register algorithms


def decode(op, word, table, shift):
    """Genotypes with bits ``shift`` of the four bytes of ``word``: fp16 pairs (bytes 0 and 1), (bytes 2 and 3).

    ``table`` is two words, the fp16 values of codes (0, 1) and (2, 3); code c is bytes 2 c and 2 c + 1 of the two, so
    the selector of a byte is 0x22 c + 0x10.  23 instructions for the 16 genotypes of a word, 4 of them multiply-adds.
    """
    codes = op.mask(op.shift_right(word, shift), 0x03030303)
    selector = op.multiply_add(codes, 0x22, 0x10101010)
    return op.permute(*table, selector), op.permute(*table, op.shift_right(selector, 16))


def multiply_step(op, accumulators, tiles, shared, index, offset):
    """accumulators + A (high + low) for one step: A fragments ``tiles``, high and low from shared[index + offset]."""
    result = list(accumulators)
    for n in range(len(accumulators) // (4 * len(tiles))):
        fragment = op.load_shared(shared, index, offset + n * FRAGMENT_WORDS, 4)
        for half in (fragment[:2], fragment[2:]):
            for m, tile in enumerate(tiles):
                at = 4 * (n * len(tiles) + m)
                result[at : at + 4] = op.mma(tile, half, result[at : at + 4])
    return result


@traced(lambda total, *kinds: total)
def add_samples(op, total, words, tables, shared, index):
    """total + T' B of one stage: ``words`` of each row, two words of table a row, fragments from shared[index].

    Rows g and g + 8 of m-tile i of a warp are rows 2 i and 2 i + 1 of a lane.
    """
    num_rows = len(tables) // 2
    words_of_row = len(words) // num_rows
    steps = 4 * words_of_row
    num_tiles = len(total) // (2 * num_rows)
    sums = [op.number(0)] * len(total)
    for step in range(steps):
        word, shift = step // 4, 2 * (step % 4)
        pairs = [
            decode(op, words[row * words_of_row + word], tables[2 * row : 2 * row + 2], shift)
            for row in range(num_rows)
        ]
        tiles = [(a[0], b[0], a[1], b[1]) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
        sums = multiply_step(op, sums, tiles, shared, index, step * num_tiles * FRAGMENT_WORDS)
    return [op.add(a, b) for a, b in zip(total, sums, strict=True)]


@traced(lambda total, *kinds: total)
def add_variants(op, total, shared, place, shift, steps: int, m_tiles: int):
    """total + T W of one stage of ``steps`` steps, for ``m_tiles`` m-tiles of a warp.

    place: where the lane's fragments, tables and genotypes begin in shared memory.  Lane q holds variants q + 4 j of a
    step, j = 0..3, and from each the word of its 16 samples; bits ``shift + 2 i`` of its bytes make m-tiles 2 i and
    2 i + 1, whose rows g and g + 8 are bytes (0, 1) and (2, 3).
    """
    fragments, tables, genotypes = place
    num_tiles = len(total) // (4 * m_tiles)
    sums = [op.number(0)] * len(total)
    for step in range(steps):
        at = TABLE_WORDS * STEP_TERMS * step
        table = [*op.load_shared(shared, tables, at, 4), *op.load_shared(shared, tables, at + 4, 4)]
        rows = [ROW_WORDS * (STEP_TERMS * step + 4 * j) for j in range(4)]
        words = [op.shift_right(*op.load_shared(shared, genotypes, row, 1), shift) for row in rows]
        tiles = []
        for i in range(m_tiles // 2):
            pairs = [decode(op, words[j], table[2 * j : 2 * j + 2], 2 * i) for j in range(4)]
            tiles += [_interleave(op, [pair[half] for pair in pairs]) for half in range(2)]
        sums = multiply_step(op, sums, tiles, shared, fragments, step * num_tiles * FRAGMENT_WORDS)
    return [op.add(a, b) for a, b in zip(total, sums, strict=True)]


def _interleave(op, pairs):
    """A fragment from the fp16 pairs (row g, row g + 8) of four variants."""
    return [op.permute(a, b, selector) for a, b in (pairs[:2], pairs[2:]) for selector in (0x5410, 0x7632)]


@traced(lambda first, count: indices_result(count))
def every_eighth(op, first, count: int):
    """Rows first + 8 i of Z' B: what a lane holds of m-tiles of consecutive rows."""
    return [op.plus(op.short(first), 8 * i) for i in range(count)]


@traced(lambda first, m_tiles: indices_result(2, m_tiles))
def tile_samples(op, first, m_tiles: int):
    """Rows of Z W that a lane holds, in the order of :func:`add_variants`: bit pair i, bytes (0, 1), (2, 3)."""
    return [op.plus(op.short(first), i + 4 * byte) for i in range(m_tiles // 2) for byte in range(4)]


@traced(lambda packed, row, byte, count, words: words_result(count, words))
def load_genotypes(op, packed, row, byte, count: int, words: int):
    """``words`` words from ``byte`` on of rows row + 8 i, i < count."""
    return [word for i in range(count) for word in op.stream_words(packed, op.plus(row, 8 * i), byte, words)]


@traced(lambda table, rows, last: words_result(TABLE_WORDS, rows.count))
def load_tables(op, table, rows, last):
    """The tables of the rows, two words each."""
    return [word for row in rows for word in op.load_words(table, op.smaller(row, op.short(last)), 0, TABLE_WORDS)]


@traced(lambda moments, rows, *kinds: floats_result(rows.count))
def load_moments(op, moments, rows, last, column: int, share):
    """``share`` times a column of the moments of the rows."""
    return [op.multiply(share, op.load_float(moments, op.smaller(row, op.short(last)), column)) for row in rows]


@traced(lambda rows, first, count, stride: indices_result(count))
def load_listed(op, rows, first, count: int, stride: int):
    """rows[first + stride i] for i < count."""
    return [op.load_index(rows, op.plus(first, stride * i)) for i in range(count)]


@traced(no_result)
def copy_fragments(op, shared, buffer, fragments, stage, thread, size: int, threads: int):
    """Start to copy the ``size`` words of a stage to shared[buffer...], 16 bytes a thread at a time."""
    lane_word = op.times(thread, 4)
    source, target = op.plus(op.times(stage, size), lane_word), op.plus(buffer, lane_word)
    for first in range(0, size, 4 * threads):
        inside = op.true() if first + 4 * threads <= size else op.below(lane_word, size - first)
        op.copy_async(inside, shared, op.plus(target, first), (fragments, op.plus(source, first)), 16)


@traced(no_result)
def copy_variants(op, shared, to, packed, table, listed, byte, stride: int):
    """Start to copy 16 bytes of each listed row, and of one lane in four the table, to shared memory.

    to: (word for the genotypes of the first row, for its table, lane in the four); the next row is ``stride`` on.
    """
    genotypes, tables, piece = to
    for i, row in enumerate(listed):
        at = op.plus(genotypes, ROW_WORDS * stride * i)
        op.copy_async(op.true(), shared, at, (packed, row, byte), 16)
        at = op.plus(tables, TABLE_WORDS * stride * i)
        op.copy_async(op.below(piece, 1), shared, at, (table, row, 0), 4 * TABLE_WORDS)


def _finished(op, total, place, rows, columns, scales, shifts):
    """(whether inside, row and column of ``out``, value) of scale (total / column scale - shift column sum).

    One column after the other, so that a value is written before the next is made, which takes few registers.
    """
    num_rows, num_columns, row_origin, column_origin, first = place
    tile_sums = 2 * len(rows)
    for at in range(0, len(total), tile_sums):
        for i in range(2):
            column = op.plus(op.short(first), at // tile_sums * TILE_COLUMNS + i)
            unscale, column_sum = op.load_float(columns, 1, column), op.load_float(columns, 2, column)
            for r, row in enumerate(rows):
                value = op.multiply(total[at + 2 * r + i], unscale)
                value = op.multiply(scales[r], op.subtract(value, op.multiply(shifts[r], column_sum)))
                inside = op.both(op.below(row, op.short(num_rows)), op.below(column, op.short(num_columns)))
                yield inside, op.plus(row, row_origin), op.plus(column, column_origin), value


@traced(no_result)
def store_tile(op, total, out, place, rows, columns, scales, shifts):
    """out[place] = the finished product, for rows and columns within the limits.

    place: (limit of rows, of columns, row and column of ``out`` where the product begins, first column of the lane).
    """
    for inside, row, column, value in _finished(op, total, place, rows, columns, scales, shifts):
        op.store_if(inside, out, row, column, value)


@traced(no_result)
def add_tile(op, total, out, place, rows, columns, scales, shifts):
    """As :func:`store_tile`, but added to what is there."""
    for inside, row, column, value in _finished(op, total, place, rows, columns, scales, shifts):
        op.add_to_if(inside, out, row, column, value)


@traced(no_result)
def store_element(op, inside, array, row, column, value):
    """array[row, column] = value where ``inside``."""
    op.store_if(inside, array, row, column, value)


@traced(no_result)
def add_to_element(op, inside, array, row, column, value):
    """array[row, column] += value where ``inside``."""
    op.add_to_if(inside, array, row, column, value)


# Kernels


@lru_cache(None)
def make_zt_kernel(num_tiles: int):
    """Kernel of Z' B for a panel of ``num_tiles`` column tiles; grid (variants, parts of the samples)."""
    threads, lane_rows = 32 * ZT_WARPS, ZT_ROWS // (8 * ZT_WARPS)
    warp_rows = 8 * lane_rows
    steps = sample_stage_steps(num_tiles)
    words_of_row = steps // 4
    stage_bytes = STEP_TERMS * steps // 4
    size = stage_words(num_tiles, steps)
    shared_words = 2 * size
    num_sums = 2 * lane_rows * num_tiles

    @cuda_kernel(launch_bounds=(threads, 2 if num_tiles <= 4 else 1))
    def zt_kernel(packed, table, moments, fragments, columns, out, where):
        """out (b, k) or its parts (parts b, k) from packed, table and moments of a :class:`TensorBlock`.

        where: column of ``out``, columns of the panel, first stage, stages of a part, stages, whether to add.
        """
        out_column, num_columns, first_stage, part_stages, num_stages, add = where
        thread, part = cuda.threadIdx.x, cuda.blockIdx.y
        lane = thread & 31
        num_variants = len(moments)
        last = num_variants - 1
        warp_row = cuda.blockIdx.x * ZT_ROWS + (thread >> 5) * warp_rows
        rows = every_eighth(warp_row + (lane >> 2), lane_rows)
        packed_row = min(warp_row, last & ~(warp_rows - 1)) + (lane >> 2)
        begin = first_stage + part * part_stages
        end = min(begin + part_stages, num_stages)
        byte = (lane & 3) * (4 * words_of_row)

        shared = cuda.shared.array(shared_words, uint32, alignment=16)
        copy_fragments(shared, 0, fragments, begin, thread, size, threads)
        tables = load_tables(table, rows, last)
        words = load_genotypes(packed, packed_row, begin * stage_bytes + byte, lane_rows, words_of_row)
        total = fill(num_sums, float32(0))
        for stage in range(begin, end):
            buffer = (stage - begin & 1) * size
            following = min(stage + 1, end - 1) * stage_bytes + byte
            next_words = load_genotypes(packed, packed_row, following, lane_rows, words_of_row)  # long before their use
            wait_async()
            cuda.syncthreads()  # the fragments of this stage are there, and nobody reads the other buffer any more
            if stage + 1 < end:
                copy_fragments(shared, size - buffer, fragments, stage + 1, thread, size, threads)
            total = add_samples(total, words, tables, shared, buffer + 4 * lane)
            words = next_words

        scales = load_moments(moments, rows, last, 0, float32(1))
        shifts = load_moments(moments, rows, last, 1, float32(1) if begin == 0 else float32(0))
        place = (num_variants, num_columns, part * num_variants, out_column, 2 * (lane & 3))
        if add:
            add_tile(total, out, place, rows, columns, scales, shifts)
        else:
            store_tile(total, out, place, rows, columns, scales, shifts)

    return zt_kernel


def z_warps(num_tiles: int) -> int:
    """Warps of a thread block of Z W.

    Two groups of warps have 128 samples each, and the warps of a group share the m-tiles of the same words, so that the
    sums fit their registers.
    """
    return 4 if num_tiles <= 4 else 8


@lru_cache(None)
def make_z_kernel(num_tiles: int):
    """Kernel of Z W for a panel of ``num_tiles`` column tiles; grid (tiles of 256 samples, parts of the variants)."""
    warps, steps = z_warps(num_tiles), variant_stage_steps(num_tiles)
    threads, siblings = 32 * warps, warps // 2
    m_tiles, variants = 8 // siblings, STEP_TERMS * steps
    stride = threads // 4  # from one variant that a thread copies to the next
    lane_copies = variants // stride
    # a stage in shared memory: fragments, tables, genotypes
    size = stage_words(num_tiles, steps)
    first_genotype = size + TABLE_WORDS * variants
    buffer_words = first_genotype + ROW_WORDS * variants
    shared_words = 2 * buffer_words
    lane_rows, num_sums = 2 * m_tiles, 4 * m_tiles * num_tiles

    @cuda_kernel(launch_bounds=(threads, {1: 4, 2: 4, 3: 3, 4: 2}.get(num_tiles, 1)))
    def z_kernel(packed, table, listed, fragments, columns, out, where):
        """out (n, k) or its parts (parts n, k) from packed and table rows ``listed`` and the fragments of W.

        where: samples, column of ``out``, columns of the panel, stages of a part, stages, whether to add.
        """
        num_samples, out_column, num_columns, part_stages, num_stages, add = where
        thread, part = cuda.threadIdx.x, cuda.blockIdx.y
        lane, warp = thread & 31, thread >> 5
        quad, word = lane & 3, 8 * (warp // siblings) + (lane >> 2)
        first_pair = warp % siblings * (m_tiles // 2)
        begin = part * part_stages
        end = min(begin + part_stages, num_stages)

        # a thread copies quarter ``piece`` of the 64 bytes of variants ``variant``, ``variant + stride``, ...
        variant, piece = thread >> 2, thread & 3
        byte = cuda.blockIdx.x * (TILE_SAMPLES // 4) + 16 * piece
        # rows 2 and 3 of every four are turned by half a row, so that the four lanes of a quad read other banks
        to_genotypes = first_genotype + ROW_WORDS * variant + 4 * (piece + (variant & 2) & 3)
        to_table = size + TABLE_WORDS * ((variant & ~15) + 4 * (variant & 3) + (variant >> 2 & 3))
        from_genotypes = first_genotype + ROW_WORDS * quad + (word + 4 * (quad & 2) & 15)

        shared = cuda.shared.array(shared_words, uint32, alignment=16)
        rows = load_listed(listed, begin * variants + variant, lane_copies, stride)
        copy_fragments(shared, 0, fragments, begin, thread, size, threads)
        copy_variants(shared, (to_genotypes, to_table, piece), packed, table, rows, byte, stride)
        rows = load_listed(listed, min(begin + 1, end - 1) * variants + variant, lane_copies, stride)
        total = fill(num_sums, float32(0))
        for stage in range(begin, end):
            buffer = (stage - begin & 1) * buffer_words
            other = buffer_words - buffer
            wait_async()
            cuda.syncthreads()  # this stage is there, and nobody reads the other buffer any more
            if stage + 1 < end:
                copy_fragments(shared, other, fragments, stage + 1, thread, size, threads)
                to = (other + to_genotypes, other + to_table, piece)
                copy_variants(shared, to, packed, table, rows, byte, stride)
            rows = load_listed(listed, min(stage + 2, end - 1) * variants + variant, lane_copies, stride)
            place = (buffer + 4 * lane, buffer + size + 4 * TABLE_WORDS * quad, buffer + from_genotypes)
            total = add_variants(total, shared, place, uint32(2 * first_pair), steps, m_tiles)

        samples = tile_samples(cuda.blockIdx.x * TILE_SAMPLES + 16 * word + first_pair, m_tiles)
        scales = fill(lane_rows, float32(1))
        shifts = fill(lane_rows, float32(1) if part == 0 else float32(0))
        limits = (num_samples, num_columns, part * num_samples, out_column, 2 * quad)
        if add:
            add_tile(total, out, limits, samples, columns, scales, shifts)
        else:
            store_tile(total, out, limits, samples, columns, scales, shifts)

    return z_kernel


@cuda_kernel()
def sum_parts_kernel(parts, num_parts, out, out_column, add):
    """out[:, out_column...] = (or +=, with ``add``) the sum of ``parts`` (num_parts rows, columns), in their order."""
    thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    num_rows, num_columns = len(out), parts.shape[1]
    row, column = thread // num_columns, thread % num_columns
    inside = row < num_rows
    source = min(row, num_rows - 1)
    total = float32(0)
    for part in range(num_parts):
        total += parts[part * num_rows + source, column]
    if add:
        add_to_element(inside, out, row, out_column + column, total)
    else:
        store_element(inside, out, row, out_column + column, total)


# Launchers


@dataclass(frozen=True)
class TensorBlock:
    """b variants on the device: packed uint8 rows, table (b, 4) float16, moments (b, 2) float32.

    A row of ``packed`` is a multiple of 64 bytes, and rows exist up to a multiple of 32; what follows sample n in a
    row, and the rows from b on, may hold anything.  Any row of a larger block may be the first.
    """

    packed: object
    table: object
    moments: object


def launch_zt(block: TensorBlock, operand: SampleOperand, out, allocate, stream) -> None:
    """out (b, k) = Z' B for the right-hand side B of ``operand``; one read of the genotypes for each panel."""
    if out.size == 0:
        return
    for panel in operand.panels:
        num_columns = panel_columns(panel.first_column, panel.num_tiles, operand.num_columns)
        num_blocks = -(-len(out) // ZT_ROWS)
        num_stages = panel.num_stages
        division = divide(num_blocks, num_stages)
        for first, parts in division.launches(num_stages):
            stages = (first, division.stages, num_stages)
            target, column = _target(parts, out, panel.first_column, num_columns, allocate)
            where = (column, num_columns, *stages, int(parts == 1 and first > 0))
            arguments = (block.packed, block.table, block.moments, panel.fragments, panel.columns, target, where)
            launch(make_zt_kernel(panel.num_tiles), (num_blocks, parts), 32 * ZT_WARPS, stream, *arguments)
            if parts > 1:
                _launch_sum(target, parts, out, panel.first_column, int(first > 0), stream)


def launch_z(block: TensorBlock, U, factor, out, allocate, stream, rows=None) -> None:
    """out (n, k) += Z[:, rows] diag(w) U[rows] from U (b, k), factor (b,) = inv_sd w; rows None means all.

    ``rows`` are int32, ascending rows of the block on the device.  One read of the genotypes of the listed variants for
    each panel.
    """
    count = len(U) if rows is None else len(rows)
    if out.size == 0 or count == 0:
        return
    num_blocks = -(-len(out) // TILE_SAMPLES)
    for panel in panels(out.shape[1]):
        variants = STEP_TERMS * variant_stage_steps(panel[1])
        num_stages = -(-count // variants)
        division = divide(num_blocks, num_stages)
        for first, parts in division.launches(num_stages):
            stages = min(division.stages * parts, num_stages - first)
            begin = first * variants
            span = min(stages * variants, count - begin)
            listed = launch_rows(rows, begin, span, stages * variants, allocate, stream)
            _launch_z_panel(block, (U, factor, listed), out, panel, (parts, division.stages), allocate, stream)


def _launch_z_panel(block, weighted, out, panel, division, allocate, stream) -> None:
    """One launch of the kernel of Z W: a panel of the columns and a span of the variants."""
    U, factor, listed = weighted
    parts, part_stages = division
    first_column, num_tiles = panel
    steps = variant_stage_steps(num_tiles)
    operand = launch_variant_operand(U, factor, block.moments, listed, panel, steps, allocate, stream)
    num_columns = panel_columns(first_column, num_tiles, out.shape[1])
    target, column = _target(parts, out, first_column, num_columns, allocate)
    where = (len(out), column, num_columns, part_stages, operand.num_stages, int(parts == 1))
    arguments = (block.packed, block.table, listed.rows, operand.fragments, operand.columns, target, where)
    grid = (-(-len(out) // TILE_SAMPLES), parts)
    launch(make_z_kernel(num_tiles), grid, 32 * z_warps(num_tiles), stream, *arguments)
    if parts > 1:
        _launch_sum(target, parts, out, first_column, 1, stream)


def _target(parts: int, out, first_column: int, num_columns: int, allocate):
    """Where a kernel writes, and at which column: ``out`` itself, or the parts of a sum."""
    return (out, first_column) if parts == 1 else (allocate((parts * len(out), num_columns), np.float32), 0)


def _launch_sum(parts, num_parts: int, out, out_column: int, add: int, stream) -> None:
    num_elements = len(out) * parts.shape[1]
    launch(sum_parts_kernel, (-(-num_elements // 128), 1), 128, stream, parts, num_parts, out, out_column, add)
