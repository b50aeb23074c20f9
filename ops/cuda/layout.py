"""How packed genotypes, right-hand sides and sums lie on a CUDA device, and the memory they take.

Arithmetic that needs no CUDA software, so a plan can be made where there is none.
"""

from itertools import pairwise
from math import isqrt

from ..device.pool import size_class
from ..genotypes import CALL_BITS, CHUNK
from ..integers import DIGITS, MEAN_STEPS

PITCH = 64  # bytes of which a row of packed genotypes has a multiple: a tile of 256 samples
ROWS = 64  # variants of which a piece has a multiple
CONSTANTS = (16,)  # bytes for every variant: mean and reciprocal SD

TILE_COLUMNS = 8  # columns of one mma
MASK_DIGITS = DIGITS + 1  # of what a missing call takes off in Z V
MAX_TILES = {DIGITS: 5, MASK_DIGITS: 4}  # of a panel, by digits: so many sums fit the registers
STEP_TERMS = 64  # terms of the sum in one step: two mma
SLOTS = 128  # of which the variants of Z V take a multiple: a stage of any panel
FRAGMENT_WORDS = 128  # of one step and digit of a column tile: 32 lanes x 4
CHUNK_PARTS = 128  # partial results of a column of a chunk of variants
MAX_PARTIALS = 1024

MIN_STAGES = 16  # of one sum where it is divided, or writing the parts would cost more than it gains
MAX_PARTS = 64
MAX_CHUNKS = 32  # of one launch of Z V
ENOUGH_BLOCKS = 512  # thread blocks that fill any device twice
# what a sum of means times integers is kept in, by bits of a genotype, whose unit is a count or a step of a dosage
STEPS = {2: float(MEAN_STEPS), 8: 1.0, 16: 1 / 256}
MISSING_VALUE = {
    2: 0.0,
    8: 255.0,
    16: 0.0,
}  # what is multiplied of a missing genotype, beyond what means are counted from
MOST_TERMS = {2: 1 << 22, 8: 1 << 16, 16: 1 << 16}  # of a sum: an int32 holds it
ZT_SLICE = 8192  # variants whose sums are kept before they are standardised
TILE_SAMPLES = {2: 256, 8: 64, 16: 32}  # of a thread block of Z V: 64 bytes of every variant


def zt_rows(bits: int = CALL_BITS) -> int:
    """Variants of a thread block of Z' B: a row of dosages takes more registers."""
    return 256 if bits == CALL_BITS else 128


def padded_columns(num_columns: int) -> int:
    """Columns in whole tiles."""
    return -(-num_columns // TILE_COLUMNS) * TILE_COLUMNS


def panels(num_columns: int, digits: int = DIGITS) -> tuple[tuple[int, int], ...]:
    """(first column, column tiles) of the panels that a right-hand side of ``num_columns`` is cut into.

    As few panels as ``MAX_TILES`` allows, and none more than one tile wider than another.
    """
    tiles = -(-num_columns // TILE_COLUMNS)
    count = -(-tiles // (MAX_TILES[digits]))
    starts = [panel * (tiles // count) + min(panel, tiles % count) for panel in range(count + 1)]
    return tuple((TILE_COLUMNS * a, b - a) for a, b in pairwise(starts))


def panel_columns(first_column: int, num_tiles: int, num_columns: int) -> int:
    """Columns of the result that a panel has."""
    return min(TILE_COLUMNS * num_tiles, num_columns - first_column)


def fragment_words(num_rows: int, num_tiles: int, digits: int) -> int:
    """Words of the fragments of a panel, for a multiple of STEP_TERMS rows."""
    return num_rows // STEP_TERMS * num_tiles * digits * FRAGMENT_WORDS


def num_partials(num_rows: int) -> int:
    """Partial results of a column of so many rows: a multiple of 8 near the square root of their number.

    A pass over the rows and one over the partial results then have about equally many steps.
    """
    return min(8 * -(-isqrt(num_rows) // 8) + 8, MAX_PARTIALS)


def sample_stage_steps(digit_tiles: int) -> int:
    """Steps of 64 samples in a stage of Z' B, each a word (16 genotypes) of every lane, which are loaded at once.

    Two stages of fragments are in shared memory at a time, at most 36 KB, and their words in registers.
    """
    return 4 if digit_tiles <= 3 else 2


def variant_stage_steps(digit_tiles: int) -> int:
    """Steps of 64 variants in a stage of Z V; two stages are in shared memory at a time, at most 40 KB."""
    return 2 if digit_tiles <= 12 else 1


def padded_samples(num_samples: int) -> int:
    """Rows of the integers of a right-hand side of Z' B: whole stages of any panel."""
    return -(-num_samples // (4 * STEP_TERMS)) * 4 * STEP_TERMS


def padded_slots(num_slots: int) -> int:
    """Rows of the integers of a right-hand side of Z V."""
    return -(-num_slots // SLOTS) * SLOTS


def divide(num_blocks: int, num_stages: int, most_stages: int) -> tuple[int, int]:
    """(parts, stages of a part) of a sum.

    Enough parts for ``ENOUGH_BLOCKS`` thread blocks, but of MIN_STAGES or more, and of ``most_stages`` at most.
    """
    parts = min(-(-ENOUGH_BLOCKS // num_blocks), -(-num_stages // MIN_STAGES), MAX_PARTS)
    parts = max(parts, -(-num_stages // most_stages))
    stages = -(-num_stages // parts)
    return -(-num_stages // stages), stages


def operand_bytes(num_samples: int, num_columns: int) -> int:
    """Memory that the operand of Z' B keeps."""
    width, rows = padded_columns(num_columns), padded_samples(num_samples)
    return (24 + DIGITS * rows) * width


def operand_making_bytes(num_samples: int, num_columns: int) -> int:
    """At most the device memory that :func:`launch_sample_operand` holds at a time, its scratch included."""
    width, rows = padded_columns(num_columns), padded_samples(num_samples)
    return (24 + 4 * rows + max(DIGITS * rows, 16 * num_partials(num_samples))) * width


def sample_division(num_samples: int, num_variants: int, digit_tiles: int, bits: int) -> tuple[int, int, int]:
    """(parts, stages of a part, stages) of the sums of Z' B."""
    terms = STEP_TERMS * sample_stage_steps(digit_tiles)
    num_stages = -(-num_samples // terms)
    return *divide(-(-num_variants // zt_rows(bits)), num_stages, MOST_TERMS[bits] // terms), num_stages


def zt_scratch_bytes(num_samples: int, num_variants: int, num_columns: int, bits: int = CALL_BITS) -> int:
    """At most what :func:`launch_zt` holds at a time beside the operand, where calls are missing."""
    digit_tiles, products = DIGITS * panels(num_columns)[0][1], 3 if bits == 16 else 2
    slices = {min(num_variants, ZT_SLICE), num_variants % ZT_SLICE} - {0}
    parts = [rows * sample_division(num_samples, rows, digit_tiles, bits)[0] for rows in slices]
    return 8 * products * max(parts) * num_columns


def z_scratch_bytes(num_samples: int, num_variants: int, num_columns: int) -> int:
    """At most what :func:`launch_z` holds at a time, where calls are missing and sums are divided."""
    width, chunks = padded_columns(num_columns), chunks_at_once(num_samples, num_variants)
    slots = min(chunks * CHUNK, padded_slots(num_variants + SLOTS - 1))  # variants may begin within a chunk
    kept = 4 * slots + 24 * chunks * width + 8 * slots * width
    part_columns = 0
    for first_column, num_tiles in panels(num_columns, MASK_DIGITS):
        columns = panel_columns(first_column, num_tiles, num_columns)
        fragments = TILE_COLUMNS * num_tiles * slots
        sums = 8 * chunks * num_samples * columns
        part_columns = max(part_columns, sums + max(MASK_DIGITS * fragments, sums + DIGITS * fragments))
    return kept + max(16 * chunks * CHUNK_PARTS * width, part_columns)


def chunks_at_once(num_samples: int, num_variants: int) -> int:
    """Chunks of variants that a launch of Z V takes: as many as ``ENOUGH_BLOCKS`` thread blocks do."""
    most = -(-num_variants // CHUNK)
    return min(max(1, ENOUGH_BLOCKS // -(-num_samples // TILE_SAMPLES[CALL_BITS])), MAX_CHUNKS, most)


def product_bytes(num_samples: int, num_variants: int, num_columns: int, bits: int = CALL_BITS) -> int:
    """Memory of Z W Z' B with ``num_variants`` at a time, beside B and the result: Z' B and sums in float64, operands
    and partial sums."""
    features, sums = size_class(8 * num_variants * num_columns), size_class(8 * num_samples * num_columns)
    second = operand_bytes(num_samples, num_columns) + z_scratch_bytes(num_samples, num_variants, num_columns)
    return features + sums + max(half_product_bytes(num_samples, num_variants, num_columns, bits), second * 17 // 16)


def half_product_bytes(num_samples: int, num_variants: int, num_columns: int, bits: int = CALL_BITS) -> int:
    """Memory of Z' B beside B and the result, in size classes (a sixteenth more than what is asked for)."""
    running = operand_bytes(num_samples, num_columns) + zt_scratch_bytes(num_samples, num_variants, num_columns, bits)
    return max(operand_making_bytes(num_samples, num_columns), running) * 17 // 16
