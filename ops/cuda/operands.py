"""Right-hand sides of the tensor-core kernels: integers, and their digits as fragments of mma.

:mod:`gpu_reml.ops.integers` says what the integers of a column are: the same as on the CPU, to the bit.  Their balanced
base-256 digits are kept in the order in which the lanes of a warp need them for mma.sync.m16n8k32 (PTX ISA, "Matrix
Fragments for mma.m16n8k32"), so that a lane fetches its share of a digit of 64 terms with one 16-byte load.

The sum over k of a product may run in any order.  Here it is the order in which a lane finds the genotypes in the words
that it holds: byte e of word t of lane 4 g + q belongs to column g and to a term of which :func:`fragments_kernel` says
how it depends on q, t and e.  All is made on the device, without synchronisation, by sums that are exact or in order.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import cuda
from numba.cuda.types import Tuple, UniTuple, float32, float64, int32, int64, uint32

from ..genotypes import CALL_BITS, CHUNK
from ..integers import DIGITS, LIMIT, SMALLEST
from .intrinsics import nearest, traced, words_result
from .launch import cuda_kernel, launch
from .layout import (
    CHUNK_PARTS,
    FRAGMENT_WORDS,
    MISSING_VALUE,
    STEP_TERMS,
    STEPS,
    TILE_COLUMNS,
    fragment_words,
    num_partials,
    padded_columns,
    padded_samples,
    panels,
    sample_stage_steps,
)

_THREADS = 64
_LIMIT = float(LIMIT[DIGITS])

_MATRIX, _WIDE, _INTEGERS, _WORDS = float32[:, ::1], float64[:, ::1], int32[:, ::1], uint32[::1]
SOURCES = {
    "samples": Tuple((_MATRIX,)),
    "variants": Tuple((_MATRIX, float64[::1], _WIDE, int32[::1], int64, int64)),
    "variants, float64": Tuple((_WIDE, float64[::1], _WIDE, int32[::1], int64, int64)),
}
SIG_LIST_ROWS = (int64, int64, int32[::1])
SIG_TAKE_ROWS = (int32[::1], int64, int64, int32[::1])
SIG_PEAKS = {name: (source, UniTuple(int64, 4), _WIDE, _WIDE) for name, source in SOURCES.items()}
SIG_SCALES = (_WIDE, _WIDE, int64, _WIDE)
SIG_ROUND = {name: (source, UniTuple(int64, 4), _WIDE, _INTEGERS, _INTEGERS, _WIDE) for name, source in SOURCES.items()}
SIG_TOTALS = (_WIDE, int64, _WIDE)
SIG_FRAGMENTS = (_INTEGERS, UniTuple(int64, 4), _WORDS)


@dataclass(frozen=True)
class PanelOperand:
    """The fragments, uint32 on the device, of ``num_tiles`` column tiles from ``first_column`` on."""

    first_column: int
    num_tiles: int
    fragments: object


@dataclass(frozen=True)
class SampleOperand:
    """A right-hand side (n, k) of Z' B on the device; serves any number of blocks of variants.

    ``columns`` (3, >= k) float64: scales, reciprocal scales and sums of the integers.
    """

    num_samples: int
    num_columns: int
    columns: object
    panels: tuple[PanelOperand, ...]


@dataclass(frozen=True)
class VariantIntegers:
    """The integers (slots, >= k) of diag(inv_sd w) U on the device, of some chunks of the variants.

    ``columns``: three rows for each chunk: scales, reciprocal scales and, in steps of 1 / MEAN_STEPS of the integers,
    what is left of the integers' sum for counts 2 - c where the means are taken off.  ``rests``: what a missing call
    takes off this, None where none is missing.  ``listed``: the variant of each slot, int32; no slot is empty.
    """

    values: object
    rests: object
    columns: object
    listed: object


# Kernels


@cuda_kernel()
def list_rows_kernel(shift, count, out):
    """out = shift, shift + 1, ..., within 0 and count - 1."""
    slot = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if slot < len(out):
        out[slot] = min(max(slot + shift, 0), count - 1)


@cuda_kernel()
def take_rows_kernel(rows, shift, count, out):
    """out = rows[shift], rows[shift + 1], ..., within the first and the last of ``count``."""
    slot = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if slot < len(out):
        out[slot] = rows[min(max(slot + shift, 0), count - 1)]


@cuda.jit(device=True, inline="always")
def _sample_number(source, slot, column):
    """B[slot, column]; 0 beside B."""
    (B,) = source
    if slot < B.shape[0] and column < B.shape[1]:
        return float64(B[slot, column])
    return float64(0)


@cuda.jit(device=True, inline="always")
def _variant_number(source, slot, column):
    """w U inv_sd of the variant in the slot, in the order of the CPU's multiplications; 0 in an empty slot."""
    U, factor, moments, listed, shift, count = source
    item = slot + shift
    if 0 <= item < count and column < U.shape[1]:
        row = int64(listed[slot])
        return float64(U[row, column]) * factor[item] * moments[row, 1]
    return float64(0)


@cache
def make_peaks_kernel(weighted: bool):
    """Kernel: largest magnitudes of the numbers of every part of every chunk, and NaN where one is not finite."""

    @cuda_kernel()
    def peaks_kernel(source, where, peaks, strange):
        """where: slots, slots of a chunk, those that the first lacks, parts of a chunk.

        peaks and strange (chunks parts, width).
        """
        num_slots, chunk_slots, lacking, num_parts = where
        thread = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        part, column = thread // peaks.shape[1], thread % peaks.shape[1]
        if part >= peaks.shape[0]:
            return
        first = part // num_parts * chunk_slots - lacking
        largest, odd = float64(0), float64(0)
        for slot in range(max(first, 0) + part % num_parts, min(first + chunk_slots, num_slots), num_parts):
            x = _variant_number(source, slot, column) if weighted else _sample_number(source, slot, column)
            odd += x * float64(0)
            if abs(x) > largest:
                largest = abs(x)
        peaks[part, column], strange[part, column] = largest, odd

    return peaks_kernel


@cuda_kernel()
def scales_kernel(peaks, strange, num_parts, columns):
    """Scales and their reciprocals of every chunk and column: NaN and 0 where a number is not finite, 0 where all are
    zero."""
    thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    chunk, column = thread // columns.shape[1], thread % columns.shape[1]
    if 3 * chunk >= columns.shape[0]:
        return
    largest, odd = float64(0), float64(0)
    for part in range(chunk * num_parts, (chunk + 1) * num_parts):
        largest = max(largest, peaks[part, column])
        odd += strange[part, column]
    scale = (largest / _LIMIT if largest > SMALLEST else float64(0)) + odd
    columns[3 * chunk, column] = scale
    columns[3 * chunk + 1, column] = float64(1) / scale if scale > 0 else float64(0)


@cache
def make_round_kernel(weighted: bool, missing: bool, bits: int = CALL_BITS):
    """Kernel: integers of the numbers, and partial sums of them, or of what counts and means leave of them.

    weighted: with c the nearest integer to STEPS mean q, a sum is of STEPS q - c for calls, whose complements are
    multiplied, and of -c for dosages; where some are missing, ``rests`` is c - STEPS MISSING_VALUE q.
    """
    steps_of_mean = STEPS[bits]
    offset, of_missing = steps_of_mean * (bits == CALL_BITS), steps_of_mean * MISSING_VALUE[bits]

    @cuda_kernel()
    def round_kernel(source, where, columns, values, rests, totals):
        """where as for the peaks; values and rests (slots, width)."""
        num_slots, chunk_slots, lacking, num_parts = where
        thread = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        part, column = thread // totals.shape[1], thread % totals.shape[1]
        if part >= totals.shape[0]:
            return
        chunk = part // num_parts
        first = chunk * chunk_slots - lacking
        steps, total = columns[3 * chunk + 1, column], float64(0)
        for slot in range(max(first, 0) + part % num_parts, min(first + chunk_slots, num_slots), num_parts):
            x = _variant_number(source, slot, column) if weighted else _sample_number(source, slot, column)
            q = nearest(x * steps)
            values[slot, column] = int32(q)
            if weighted:
                _, _, moments, listed, _, _ = source
                c = nearest(q * (steps_of_mean * moments[int64(listed[slot]), 0]))
                total += offset * q - c
                if missing:
                    rests[slot, column] = int32(c - of_missing * q)
            else:
                total += q
        totals[part, column] = total

    return round_kernel


@cuda_kernel()
def totals_kernel(totals, num_parts, columns):
    """The third row of every chunk of ``columns`` = the sum of its parts, all of integers."""
    thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    chunk, column = thread // columns.shape[1], thread % columns.shape[1]
    if 3 * chunk >= columns.shape[0]:
        return
    total = float64(0)
    for part in range(chunk * num_parts, (chunk + 1) * num_parts):
        total += totals[part, column]
    columns[3 * chunk + 2, column] = total


@traced(lambda *kinds: words_result(4))
def digit_words(op, q0, q1, q2, q3):
    """Words of the balanced base-256 digits of four integers, the lowest first: byte e is of the e-th integer."""
    biased = [op.flip(op.plus(op.short(q), 0x80808080), 0x80808080) for q in (q0, q1, q2, q3)]
    words = []
    for selector in (0x5140, 0x7362):
        low, high = (op.permute(*pair, selector) for pair in (biased[:2], biased[2:]))
        words += [op.permute(low, high, 0x5410), op.permute(low, high, 0x7632)]
    return words


@cuda_kernel()
def fragments_kernel(values, where, fragments):
    """Fragments of integers (rows, width); a thread for every word t < 4 of every lane, column tile and step.

    where: first column, column tiles, digits, steps of a stage of Z' B (0: Z V).  Z' B: lane q has word j of its words
    (16 samples each) in step j of a stage, and byte e of word t is its sample 4 e + t.  Z V: q + 16 t + 4 e of a step.
    """
    first_column, num_tiles, digits, steps = where
    thread = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if digits * thread >= len(fragments):
        return
    word, quad, tile = thread % 4, thread // 4 % 4, thread // FRAGMENT_WORDS % num_tiles
    step = thread // (FRAGMENT_WORDS * num_tiles)
    if steps > 0:
        stage, inner = step // steps, step % steps
        first = STEP_TERMS * stage * steps + 16 * (quad * steps + inner) + word
    else:
        first = STEP_TERMS * step + quad + 16 * word
    column = first_column + TILE_COLUMNS * tile + thread // 16 % TILE_COLUMNS
    words = digit_words(
        values[first, column], values[first + 4, column], values[first + 8, column], values[first + 12, column]
    )
    target = (step * num_tiles + tile) * digits * FRAGMENT_WORDS + thread % FRAGMENT_WORDS
    for digit in range(3):
        fragments[target + digit * FRAGMENT_WORDS] = words[digit]
    if digits > 3:
        fragments[target + 3 * FRAGMENT_WORDS] = words[3]


# Launchers


def launch_sample_operand(B, allocate, stream) -> SampleOperand:
    """The operand of Z' B from B (n, k) float32; 2 reads of B, and 3 bytes kept for each of its numbers.

    ``allocate(shape, dtype)`` gives device memory for the operand, which keeps it, and for scratch.
    """
    num_samples, num_columns = B.shape
    num_rows = padded_samples(num_samples)
    where = (num_rows, num_rows, 0, num_partials(num_samples))
    values, _, columns = _launch_integers((B,), where, num_columns, (False, CALL_BITS), allocate, stream)
    made = []
    for first_column, num_tiles in panels(num_columns):
        steps = sample_stage_steps(DIGITS * num_tiles)
        fragments = launch_fragments(values, (first_column, num_tiles, DIGITS, steps), allocate, stream)
        made.append(PanelOperand(first_column, num_tiles, fragments))
    return SampleOperand(num_samples, num_columns, columns, tuple(made))


@dataclass(frozen=True)
class Span:
    """Some chunks of variants in slots: slot 0 has item ``shift`` (negative: slots are empty before item 0), and the
    first chunk lacks so many of its slots.

    Chunks begin at multiples of CHUNK of the places of variants among all, which are not those of a block.
    """

    shift: int
    num_slots: int
    lacking: int

    @property
    def num_chunks(self) -> int:
        return -(-(self.lacking + self.num_slots) // CHUNK)


def launch_variant_integers(weighted, moments, span: Span, how, allocate, stream) -> VariantIntegers:
    """Integers of diag(inv_sd w) U for the variants of a span.

    weighted: U (b, k), factor (q,) float64 = w, int32 rows (q,) of U or None for all.  moments (b, 2): means and 1/SDs.
    how: (whether genotypes are missing, bits of a genotype).
    """
    U, factor, rows = weighted
    num_slots = span.num_slots
    listed = allocate((num_slots,), np.int32)
    kernel, given = (list_rows_kernel, ()) if rows is None else (take_rows_kernel, (rows,))
    _launch_threads(kernel, num_slots, stream, *given, span.shift, factor.shape[0], listed)
    source = (U, factor, moments, listed, span.shift, factor.shape[0])
    where = (num_slots, CHUNK, span.lacking, CHUNK_PARTS)
    return VariantIntegers(*_launch_integers(source, where, U.shape[1], how, allocate, stream), listed)


def _launch_integers(source, where, num_columns: int, how, allocate, stream):
    """(integers, rests or None, columns) of a source of numbers."""
    missing, bits = how
    num_slots, chunk_slots, lacking, num_parts = where
    weighted, width = len(source) > 1, padded_columns(num_columns)
    chunks = -(-(lacking + num_slots) // chunk_slots)
    columns, shape = allocate((3 * chunks, width), np.float64), (chunks * num_parts, width)
    peaks, strange = allocate(shape, np.float64), allocate(shape, np.float64)
    num_threads = shape[0] * width
    _launch_threads(make_peaks_kernel(weighted), num_threads, stream, source, where, peaks, strange)
    _launch_threads(scales_kernel, chunks * width, stream, peaks, strange, num_parts, columns)
    values = allocate((num_slots, width), np.int32)
    rests = allocate((num_slots, width), np.int32) if missing else None
    kernel = make_round_kernel(weighted, missing, bits)
    into = (values, values if rests is None else rests, peaks)
    _launch_threads(kernel, num_threads, stream, source, where, columns, *into)
    _launch_threads(totals_kernel, chunks * width, stream, peaks, num_parts, columns)
    return values, rests, columns


def launch_fragments(values, where, allocate, stream):
    """Fragments of integers; ``where`` as :func:`fragments_kernel` takes it."""
    _, num_tiles, digits, _ = where
    fragments = allocate((fragment_words(values.shape[0], num_tiles, digits),), np.uint32)
    _launch_threads(fragments_kernel, fragments.size // digits, stream, values, where, fragments)
    return fragments


def _launch_threads(kernel, num_threads: int, stream, *arguments) -> None:
    launch(kernel, (-(-num_threads // _THREADS), 1), _THREADS, stream, *arguments)
