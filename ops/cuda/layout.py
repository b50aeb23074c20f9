"""How packed genotypes, right-hand sides and sums lie on a CUDA device, and the memory they take.

Arithmetic that needs no CUDA software, so a plan can be made where there is none.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import isqrt

from ..device.pool import size_class

PITCH = 64  # bytes of which a row of packed genotypes has a multiple: a tile of 256 samples
ROWS = 64  # variants of which a piece has a multiple
DOSAGE_CONSTANTS = (12,)  # the same for dosages: centre, slope and offset
CONSTANTS = (8, 8)  # bytes for every variant: table, and reciprocal SD with the shift of the mean

TILE_COLUMNS = 8  # columns of one mma
MAX_TILES = 8  # column tiles of a panel
STEP_TERMS = 16  # terms of the sum in one mma
FRAGMENT_WORDS = 128  # of one step and column tile: 32 lanes x (2 high + 2 low)
FLUSH_TERMS = 256  # the longest sum that is left to the accumulators of the tensor cores
MAX_PARTIALS = 1024

MAX_STAGES = 256  # of one sum before it joins the result
MIN_STAGES = 16  # of one sum where it is divided, or writing the parts would cost more than it gains
MAX_PARTS = 64
ENOUGH_BLOCKS = 1024  # thread blocks that fill any device several times over
ZT_ROWS = 256  # variants of a thread block of Z' B
TILE_SAMPLES = 256  # of a thread block of Z W: 64 bytes of every variant


def panels(num_columns: int) -> tuple[tuple[int, int], ...]:
    """(first column, column tiles) of the panels that a right-hand side of ``num_columns`` is cut into.

    As few panels as ``MAX_TILES`` allows, and none more than one tile wider than another.
    """
    tiles = -(-num_columns // TILE_COLUMNS)
    count = -(-tiles // MAX_TILES)
    starts = [panel * (tiles // count) + min(panel, tiles % count) for panel in range(count + 1)]
    return tuple((TILE_COLUMNS * a, b - a) for a, b in pairwise(starts))


def panel_columns(first_column: int, num_tiles: int, num_columns: int) -> int:
    """Columns of the result that a panel has."""
    return min(TILE_COLUMNS * num_tiles, num_columns - first_column)


def stage_words(num_tiles: int, num_steps: int) -> int:
    """Words of the fragments of one stage of ``num_steps`` steps."""
    return num_steps * num_tiles * FRAGMENT_WORDS


def partials_shape(num_rows: int, num_tiles: int) -> tuple[int, int]:
    """Shape of the partial maxima and sums: a multiple of 4 parts near the square root of the number of rows.

    The two passes over the rows then have about equally many steps.
    """
    width = -(-TILE_COLUMNS * num_tiles // 32) * 32
    return min(4 * -(-isqrt(num_rows) // 4) + 4, MAX_PARTIALS), width


def column_bytes(num_rows: int, num_tiles: int) -> int:
    """Bytes of the partials and of the scales and sums of the columns of one panel."""
    num_parts, width = partials_shape(num_rows, num_tiles)
    return (12 * num_parts + 12) * width


def sample_operand_bytes(num_samples: int, num_columns: int) -> int:
    """At most the device memory that :func:`launch_sample_operand` holds at a time, its scratch included."""
    total = 0
    for _, num_tiles in panels(num_columns):
        steps = sample_stage_steps(num_tiles)
        stages = -(-num_samples // (STEP_TERMS * steps))
        total += 4 * stages * stage_words(num_tiles, steps) + column_bytes(num_samples, num_tiles)
    return total


def sample_stage_steps(num_tiles: int) -> int:
    """Steps of 16 samples in a stage of Z' B: 4 for each word (16 genotypes) that a lane loads at once.

    Two stages of fragments are in shared memory at a time, at most 32 KB, and their words in registers.
    """
    return FLUSH_TERMS // STEP_TERMS if num_tiles <= 2 else 8 if num_tiles == 3 else 4


def variant_stage_steps(num_tiles: int) -> int:
    """Steps of 16 variants in a stage of Z W; two stages are in shared memory at a time, at most 42 KB."""
    return 8 if num_tiles <= 3 else 4


@dataclass(frozen=True)
class Division:
    """A sum of many stages as launches of ``parts`` sums, each of ``stages``."""

    parts: int
    stages: int

    def launches(self, num_stages: int):
        """(first stage, parts) of every launch."""
        for first in range(0, num_stages, self.parts * self.stages):
            yield first, min(self.parts, -(-(num_stages - first) // self.stages))


def divide(num_blocks: int, num_stages: int) -> Division:
    """Enough parts for ``ENOUGH_BLOCKS`` thread blocks in all, each of ``MIN_STAGES`` to ``MAX_STAGES`` stages."""
    parts = min(-(-ENOUGH_BLOCKS // num_blocks), -(-num_stages // MIN_STAGES), MAX_PARTS)
    stages = min(-(-num_stages // parts), MAX_STAGES)
    return Division(min(parts, -(-num_stages // stages)), stages)


def scratch_bytes(num_samples: int, num_variants: int, num_columns: int) -> int:
    """At most what :func:`launch_zt` or :func:`launch_z` holds at a time; the operand of Z' B is not counted."""
    most = 0
    for first_column, num_tiles in panels(num_columns):
        row_bytes = 4 * panel_columns(first_column, num_tiles, num_columns)
        steps = sample_stage_steps(num_tiles)
        zt = divide(-(-num_variants // ZT_ROWS), -(-num_samples // (STEP_TERMS * steps)))
        steps = variant_stage_steps(num_tiles)
        num_stages = -(-num_variants // (STEP_TERMS * steps))
        z = divide(-(-num_samples // TILE_SAMPLES), num_stages)
        stages = min(num_stages, z.parts * z.stages)
        operand = 4 * stages * (stage_words(num_tiles, steps) + STEP_TERMS * steps)
        operand += column_bytes(stages * STEP_TERMS * steps, num_tiles)
        parts = [d.parts * rows * row_bytes * (d.parts > 1) for d, rows in ((zt, num_variants), (z, num_samples))]
        most = max(most, parts[0], operand + parts[1])
    return most


def product_bytes(num_samples: int, num_variants: int, num_columns: int) -> int:
    """Memory of Z W Z' B with ``num_variants`` at a time, beside B and the result: operands, Z' B and partial sums."""
    first_half = size_class(4 * num_variants * num_columns)
    return first_half + half_product_bytes(num_samples, num_variants, num_columns)


def half_product_bytes(num_samples: int, num_variants: int, num_columns: int) -> int:
    """Memory of Z' B beside B and the result, in size classes (a sixteenth more than what is asked for)."""
    asked = sample_operand_bytes(num_samples, num_columns) + scratch_bytes(num_samples, num_variants, num_columns)
    return asked * 17 // 16
