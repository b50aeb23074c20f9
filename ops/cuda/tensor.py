"""Products with Z on tensor cores, straight from packed genotypes, in exact integers.

Genotypes are bytes 0, 1, 2 and right-hand sides the balanced base-256 digits of integers (:mod:`.operands`), which
mma.sync.m16n8k32 multiplies and sums in int32.  Sums are exact, so a result has the same bits however a sum is divided,
on every device, and on CPUs (:mod:`gpu_reml.ops.cpu_integers`); :mod:`gpu_reml.ops.integers` says what is made of them.

A lane turns its own words of genotypes into mma fragments: neither counts nor Z are ever in memory.  Multiplied is
c = 2 - count, which a subtraction makes of the two bits of a call, with 1 for a missing one, and sum_i count q_i is
2 sum_i q_i less that.  What missing calls should not have added is a product of its own, with masks in the place of
counts, where the block has any.
"""

from functools import cache

from numba import cuda
from numba.cuda.types import UniTuple, float64, int32, int64, uint8, uint32

from ..genotypes import CALL_BITS, CHUNK
from ..integers import DIGITS
from .intrinsics import indices_result, no_result, traced, wait_async, words_result, zeros
from .launch import cuda_kernel
from .layout import (
    FRAGMENT_WORDS,
    MASK_DIGITS,
    STEP_TERMS,
    STEPS,
    TILE_COLUMNS,
    sample_stage_steps,
    variant_stage_steps,
    zt_rows,
)

ZT_WARPS = 8
ROW_WORDS = 16  # of a variant in a thread block of Z V
# what the bytes are that are multiplied
COUNTS, CALL_MASKS, BYTES, BYTE_MASKS, LOW_BYTES, HIGH_BYTES, WORD_MASKS = range(7)
BITS_OF = (2, 2, 8, 8, 16, 16, 16)  # of a genotype
MASKS = (CALL_MASKS, BYTE_MASKS, WORD_MASKS)

_WIDE, _WORDS = float64[:, ::1], uint32[::1]
SIG_ZT = (uint8[:, ::1], int64, _WORDS, _WIDE, UniTuple(int64, 4))
SIG_Z = (uint8[:, ::1], int32[::1], _WORDS, _WIDE, _WIDE, _WIDE, UniTuple(int64, 7))

# Register algorithms


def fields(op, word, plane: int):
    """2 - count of 16 genotypes, two bits each, with 1 for a missing one; or 1 for a missing one and 0 for others."""
    high = op.shift_right(word, 1)
    if plane == CALL_MASKS:
        return op.without(op.mask(word, 0x55555555), high)
    return op.minus(word, op.mask(high, 0x55555555))


def spread(op, word):
    """Fields s = 0..3 of the four bytes of a word, as bytes of a word each."""
    return [op.mask(op.shift_right(word, 2 * s) if s else word, 0x03030303) for s in range(4)]


def across(op, words):
    """Four words whose bytes are those of the same place in ``words``: a 4 x 4 matrix of bytes, transposed."""
    found = []
    for selector in (0x5140, 0x7362):
        low, high = (op.permute(*pair, selector) for pair in (words[:2], words[2:]))
        found += [op.permute(low, high, 0x5410), op.permute(low, high, 0x7632)]
    return found


def byte_masks(op, word):
    """1 in each byte that is 255, 0 in others."""
    carried = op.plus(op.mask(word, 0x7F7F7F7F), 0x01010101)
    return op.shift_right(op.mask(op.both(carried, word), 0x80808080), 7)


def sixteens(op, word, plane: int):
    """Two 16-bit dosages with 0 for a missing one, or their masks: of codes up to 2^15 only 65535 has both end bits."""
    masks = op.mask(op.both(op.shift_right(word, 15), word), 0x00010001)
    return masks if plane == WORD_MASKS else op.minus(word, op.times(masks, 0xFFFF))


def lane_bytes(op, words, plane: int):
    """Bytes of a lane's 16 genotypes of one row in ``words``: byte e of word t is of genotype 4 e + t."""
    if BITS_OF[plane] == 2:
        return spread(op, fields(op, words[0], plane))
    if BITS_OF[plane] == 16:
        found, selector = [sixteens(op, word, plane) for word in words], 0x7531 if plane == HIGH_BYTES else 0x6420
        return across(op, [op.permute(*found[i : i + 2], selector) for i in range(0, 8, 2)])
    return across(op, [byte_masks(op, word) for word in words] if plane == BYTE_MASKS else words)


def variant_bytes(op, words, selector, m_tiles: int, plane: int):
    """For each sample of a lane, in order, a word of its bytes of four variants, from a word of each."""
    if BITS_OF[plane] == 8:
        return across(op, [byte_masks(op, word) for word in words] if plane == BYTE_MASKS else words)
    if BITS_OF[plane] == 16:
        words, selector = [sixteens(op, word, plane) for word in words], 0x7351 if plane == HIGH_BYTES else 0x6240
    low, high = (op.permute(*pair, selector) for pair in (words[:2], words[2:]))
    found = [op.permute(low, high, four) for four in (0x5410, 0x7632)]
    if BITS_OF[plane] == 16:
        return found
    return [each for byte in found[: m_tiles // 2] for each in spread(op, fields(op, byte, plane))]


def multiply_step(op, sums, rows, shared, index, offset):
    """sums + A B for one step: A from ``rows``, the four words of each row, digits from shared[index + offset]."""
    result, pairs = list(sums), list(zip(rows[::2], rows[1::2], strict=True))
    for n in range(len(sums) // (4 * len(pairs))):
        fragment = op.load_shared(shared, index, offset + n * FRAGMENT_WORDS, 4)
        for half in (0, 2):
            for m, (upper, lower) in enumerate(pairs):
                tile = (upper[half], lower[half], upper[half + 1], lower[half + 1])
                at = 4 * (n * len(pairs) + m)
                result[at : at + 4] = op.mma(tile, fragment[half : half + 2], result[at : at + 4])
    return result


@traced(lambda sums, *kinds: sums)
def add_samples(op, sums, words, shared, index, num_rows: int, plane: int):
    """sums + A B of one stage: the words of each row, fragments from shared[index].

    Rows g and g + 8 of m-tile i of a warp are rows 2 i and 2 i + 1 of a lane.
    """
    size = BITS_OF[plane] // 2
    of_row = len(words) // num_rows
    digit_tiles = len(sums) // (2 * num_rows)
    for step in range(of_row // size):
        begin = [row * of_row + step * size for row in range(num_rows)]
        rows = [lane_bytes(op, words[first : first + size], plane) for first in begin]
        sums = multiply_step(op, sums, rows, shared, index, step * digit_tiles * FRAGMENT_WORDS)
    return sums


@traced(lambda sums, *kinds: sums)
def add_variants(op, sums, shared, place, selector, steps: int, m_tiles: int, plane: int):
    """sums + A B of one stage of ``steps`` steps, for ``m_tiles`` m-tiles of a warp.

    place: where the lane's fragments and genotypes begin in shared memory.  Lane q holds variants q + 4 j of a step,
    j < 16, and from each the word of its samples; of calls it takes one or two bytes, which ``selector`` picks from two
    words.  Rows g and g + 8 of an m-tile are samples 2 i and 2 i + 1 of the lane.
    """
    fragments, genotypes = place
    digit_tiles = len(sums) // (4 * m_tiles)
    for step in range(steps):
        rows = [[] for _ in range(2 * m_tiles)]
        for four in range(4):
            at = [ROW_WORDS * (STEP_TERMS * step + 4 * (4 * four + e)) for e in range(4)]
            words = [op.load_shared(shared, genotypes, row, 1)[0] for row in at]
            for row, each in zip(rows, variant_bytes(op, words, selector, m_tiles, plane), strict=True):
                row.append(each)
        sums = multiply_step(op, sums, rows, shared, fragments, step * digit_tiles * FRAGMENT_WORDS)
    return sums


@traced(lambda first, stride, count: indices_result(count))
def every(op, first, stride: int, count: int):
    """first + stride i for i < count, as short indices."""
    return [op.plus(op.short(first), stride * i) for i in range(count)]


@traced(lambda packed, row, byte, last, count, words: words_result(count, words))
def load_genotypes(op, packed, row, byte, last, count: int, words: int):
    """``words`` words from ``byte`` on of rows row + 8 i, i < count; what begins after byte ``last`` may be any."""
    if words <= 4:
        return [word for i in range(count) for word in op.stream_words(packed, op.plus(row, 8 * i), byte, words)]
    places = [op.smaller(op.plus(byte, 4 * first), last) for first in range(0, words, 4)]
    rows = [op.plus(row, 8 * i) for i in range(count)]
    return [word for each in rows for place in places for word in op.stream_words(packed, each, place, 4)]


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
        op.copy_async(inside, shared, op.plus(target, first), (fragments, op.plus(source, first)))


@traced(no_result)
def copy_variants(op, shared, to, packed, listed, byte, stride: int):
    """Start to copy 16 bytes of each listed row to shared memory, the first to ``to``, the next ``stride`` rows on."""
    for i, row in enumerate(listed):
        op.copy_async(op.true(), shared, op.plus(to, ROW_WORDS * stride * i), (packed, row, byte))


def _columns(op, sums, num_rows: int, digits: int):
    """(column of the panel, but for the lane's first, its integers by row as float64) of a lane's sums."""
    for tile in range(len(sums) // (2 * digits * num_rows)):
        for e in range(2):
            totals = []
            for i in range(num_rows):
                at = [4 * ((tile * digits + d) * (num_rows // 2) + i // 2) + 2 * (i % 2) + e for d in range(digits)]
                total = op.number_of(sums[at[-1]])
                for place in at[-2::-1]:
                    total = op.add(op.multiply(total, op.number(256.0)), op.number_of(sums[place]))
                totals.append(total)
            yield TILE_COLUMNS * tile + e, totals


@traced(no_result)
def store_integers(op, sums, out, place, rows, digits: int):
    """out[first row + row, first column + column] = the integers of a lane's sums.

    place: (rows and columns that there are, first row, first column, first column of the lane).
    """
    num_rows, num_columns, first_row, first_column, lane_column = place
    for column, totals in _columns(op, sums, len(rows), digits):
        here = op.plus(lane_column, column)
        known = op.below(here, num_columns)
        for row, total in zip(rows, totals, strict=True):
            with op.where(op.both(op.below(row, num_rows), known)):
                op.store(out, op.plus(first_row, row), op.plus(first_column, here), total)


@traced(no_result)
def add_samples_to(op, sums, arrays, source, place, rows, some, plane: int):
    """out += scale (total + STEPS sum + missing) / STEPS for a lane's sums, with - STEPS for calls.

    arrays: out; columns, where row ``3 chunk`` has scales and the second after it totals; what missing calls add, of
    the panel's columns, where there are some (1, else 0).  source: (chunk, the panel's first column among
    ``columns``); place as in :func:`store_integers`.  Of high bytes 256 sums are added, and nothing else.
    """
    out, columns, missing = arrays
    num_rows, num_columns, first_row, first_column, lane_column = place
    chunk, panel_column = source
    top, steps = op.times(chunk, 3), STEPS[BITS_OF[plane]]
    factor = {COUNTS: -steps, HIGH_BYTES: 256 * steps}.get(plane, steps)
    for column, totals in _columns(op, sums, len(rows), DIGITS):
        here = op.plus(lane_column, column)
        known, at, target = op.below(here, num_columns), op.plus(panel_column, here), op.plus(first_column, here)
        scale, whole = (op.load_number(columns, op.plus(top, i), at) for i in (0, 2))
        for row, total in zip(rows, totals, strict=True):
            left = op.multiply(total, op.number(factor))
            if plane != HIGH_BYTES:
                left = op.add(whole, left)
            row_there = op.plus(first_row, row)
            with op.where(op.both(op.below(row, num_rows), known)):
                if plane != HIGH_BYTES:
                    lost = op.load_number(missing, op.times(row_there, some), op.times(here, some))
                    left = op.add(left, op.select(op.below(0, some), lost, op.number(0.0)))
                value = op.multiply(op.multiply(left, op.number(1 / steps)), scale)
                op.store(out, row_there, target, op.add(op.load_number(out, row_there, target), value))


# Kernels


@cache
def make_zt_kernel(num_tiles: int, plane: int):
    """Kernel of A' q for a panel of ``num_tiles`` column tiles; grid (variants, parts of the samples)."""
    bits = BITS_OF[plane]
    threads, block_rows = 32 * ZT_WARPS, zt_rows(bits)
    lane_rows = block_rows // (8 * ZT_WARPS)
    warp_rows, digit_tiles = 8 * lane_rows, DIGITS * num_tiles
    steps = sample_stage_steps(digit_tiles)
    stage_bytes, lane_words = STEP_TERMS * steps * bits // 8, steps * bits // 2
    size = steps * digit_tiles * FRAGMENT_WORDS
    shared_words, num_sums = 2 * size, 2 * lane_rows * digit_tiles

    @cuda_kernel(launch_bounds=(threads, 2 if num_tiles <= 2 and bits == CALL_BITS else 1))
    def zt_kernel(packed, num_variants, fragments, out, where):
        """out (parts num_variants, k) = integer sums over each part of the samples, of a slice of ``packed``.

        where: first column of the panel, its columns, stages of a part, stages.
        """
        first_column, num_columns, part_stages, num_stages = where
        thread, part = cuda.threadIdx.x, cuda.blockIdx.y
        lane = thread & 31
        warp_row = cuda.blockIdx.x * block_rows + (thread >> 5) * warp_rows
        packed_row = min(warp_row, (num_variants - 1) & ~(warp_rows - 1)) + (lane >> 2)
        begin = part * part_stages
        end = min(begin + part_stages, num_stages)
        byte, last = (lane & 3) * (4 * lane_words), packed.shape[1] - 16

        shared = cuda.shared.array(shared_words, uint32, alignment=16)
        copy_fragments(shared, 0, fragments, begin, thread, size, threads)
        words = load_genotypes(packed, packed_row, begin * stage_bytes + byte, last, lane_rows, lane_words)
        sums = zeros(num_sums)
        for stage in range(begin, end):
            buffer = (stage - begin & 1) * size
            following = min(stage + 1, end - 1) * stage_bytes + byte
            next_words = load_genotypes(packed, packed_row, following, last, lane_rows, lane_words)  # early
            wait_async()
            cuda.syncthreads()  # the fragments of this stage are there, and nobody reads the other buffer any more
            if stage + 1 < end:
                copy_fragments(shared, size - buffer, fragments, stage + 1, thread, size, threads)
            sums = add_samples(sums, words, shared, buffer + 4 * lane, lane_rows, plane)
            words = next_words

        rows = every(warp_row + (lane >> 2), 8, lane_rows)
        place = (num_variants, num_columns, part * num_variants, first_column, 2 * (lane & 3))
        store_integers(sums, out, place, rows, DIGITS)

    return zt_kernel


def z_warps(digit_tiles: int, bits: int = CALL_BITS) -> int:
    """Warps of a thread block of Z V.

    Two groups of warps have half of the samples each, and the warps of a group share the m-tiles of the same words, so
    that the sums fit their registers.
    """
    return 2 if bits != CALL_BITS else 4 if digit_tiles <= 6 else 8


@cache
def make_z_kernel(num_tiles: int, plane: int):
    """Kernel of A q for a panel of ``num_tiles`` column tiles; grid (tiles of samples, chunks of the variants)."""
    masks, bits = plane in MASKS, BITS_OF[plane]
    digits = MASK_DIGITS if masks else DIGITS
    digit_tiles = digits * num_tiles
    warps, steps = z_warps(digit_tiles, bits), variant_stage_steps(digit_tiles)
    threads, siblings = 32 * warps, warps // 2
    word_samples, variants = 32 // bits, STEP_TERMS * steps
    m_tiles = word_samples // (2 * siblings)
    stride, lane_copies = threads // 4, 4 * variants // threads  # from one variant that a thread copies to the next
    # a stage in shared memory: fragments, genotypes
    size = steps * digit_tiles * FRAGMENT_WORDS
    buffer_words = size + ROW_WORDS * variants
    shared_words, num_sums = 2 * buffer_words, 4 * m_tiles * digit_tiles
    lane_rows, chunk_stages, tile_samples = 2 * m_tiles, CHUNK // variants, ROW_WORDS * word_samples

    @cuda_kernel(launch_bounds=(threads, {3: 3, 4: 3, 6: 2}.get(digit_tiles, 1)))
    def z_kernel(packed, listed, fragments, columns, missing, out, where):
        """out (chunks n, k) += what the variants ``listed`` of each chunk add; with masks, = their integers.

        where: samples, column of ``out``, columns of the panel, its first column, stages that the first chunk lacks,
        stages, whether calls are missing.
        """
        num_samples, out_column, num_columns, panel_column, lacking, num_stages, some = where
        thread, chunk = cuda.threadIdx.x, cuda.blockIdx.y
        lane, warp = thread & 31, thread >> 5
        quad, word = lane & 3, 8 * (warp // siblings) + (lane >> 2)
        first_byte = warp % siblings * (m_tiles // 2)
        begin = max(chunk * chunk_stages - lacking, 0)
        end = min((chunk + 1) * chunk_stages - lacking, num_stages)

        # a thread copies quarter ``piece`` of the 64 bytes of variants ``variant``, ``variant + stride``, ...
        variant, piece = thread >> 2, thread & 3
        byte = cuda.blockIdx.x * (4 * ROW_WORDS) + 16 * piece
        # rows 2 and 3 of every four are turned by half a row, so that the four lanes of a quad read other banks
        to_genotypes = size + ROW_WORDS * variant + 4 * (piece + (variant & 2) & 3)
        from_genotypes = size + ROW_WORDS * quad + (word + 4 * (quad & 2) & 15)
        selector = uint32(0x5140 + 0x1111 * first_byte)

        shared = cuda.shared.array(shared_words, uint32, alignment=16)
        rows = load_listed(listed, begin * variants + variant, lane_copies, stride)
        copy_fragments(shared, 0, fragments, begin, thread, size, threads)
        copy_variants(shared, to_genotypes, packed, rows, byte, stride)
        rows = load_listed(listed, min(begin + 1, end - 1) * variants + variant, lane_copies, stride)
        sums = zeros(num_sums)
        for stage in range(begin, end):
            buffer = (stage - begin & 1) * buffer_words
            other = buffer_words - buffer
            wait_async()
            cuda.syncthreads()  # this stage is there, and nobody reads the other buffer any more
            if stage + 1 < end:
                copy_fragments(shared, other, fragments, stage + 1, thread, size, threads)
                copy_variants(shared, other + to_genotypes, packed, rows, byte, stride)
            rows = load_listed(listed, min(stage + 2, end - 1) * variants + variant, lane_copies, stride)
            place = (buffer + 4 * lane, buffer + from_genotypes)
            sums = add_variants(sums, shared, place, selector, steps, m_tiles, plane)

        samples = every(cuda.blockIdx.x * tile_samples + word_samples * word + 4 * first_byte, 1, lane_rows)
        limits = (num_samples, num_columns, chunk * num_samples, out_column, 2 * quad)
        if masks:
            store_integers(sums, out, limits, samples, digits)
        else:
            arrays, source = (out, columns, missing), (chunk, panel_column)
            add_samples_to(sums, arrays, source, limits, samples, some, plane)

    return z_kernel
