"""Products with few columns, straight from the packed bytes: no decoded tile is ever stored.

With few columns a decoded tile costs more to write and read back than the multiplications it serves.  Here sixteen
genotypes are decoded into a vector register and used at once by all columns of a register tile.

Both directions work on blocks of variants that stay in cache between them.  Z'B is parallel over variants, Z U over
samples, and every number is summed in an order fixed by the shapes: results do not depend on the number of threads.
Sums run over at most ``CHUNK_WORDS`` words or ``RUN`` variants before they join a total, which bounds rounding.
"""

import numba
import numpy as np
from numba import prange

from .compile import compiled, parallel
from .cpu_simd import WORD, prefetch, z_tile, zt_tile
from .genotypes import PackedGenotypes, blocks_between

MIN_SAMPLES = 64  # fewer do not fill a row of words, and take no time anyhow
BLOCK_BYTES = 1 << 22  # packed bytes of a block: few starts of the threads, and still in cache for the way back
CHUNK_WORDS = 512  # words of one dot product: 8,192 samples, and 16 columns of them take 512 KiB
RUN = 512  # variants summed into one accumulator
ACCUMULATOR_WORDS = 256  # words times columns of an accumulator of Z U: 16 KiB, which level-1 caches hold
AHEAD = 16  # variants between the one that is used and the one that is fetched from memory
GROUP = 8  # variants that a register tile, or two of them, holds: the tiles below are written for eight


def fused_zt(genotypes: PackedGenotypes, values: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Z' B, (n, k) -> (m, k) float32, with ``values`` (m, 4) float32 the genotypes of each code; half a pass."""
    panels = _panels(B)
    U = np.zeros((genotypes.num_variants, B.shape[1]), np.float32)
    for rows, packed in _packed_blocks(genotypes):
        _zt_block(packed, values[rows], panels, U[rows], _num_tasks(len(packed) // GROUP))
    return U


def fused_z(genotypes: PackedGenotypes, values: np.ndarray, U: np.ndarray) -> np.ndarray:
    """Z U, (m, k) -> (n, k) float32; half a pass."""
    return fused_z_rows(genotypes, values, U, 0, genotypes.num_variants)


def fused_z_rows(genotypes: PackedGenotypes, values: np.ndarray, U: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Z U of variants start:stop alone, (stop - start, k) -> (n, k) float32."""
    U = np.array(U, np.float32, order="C")  # a copy: kernels compile again for a read-only array
    out = _zero_words(genotypes.num_samples, U.shape[1])
    for rows, packed in _packed_blocks(genotypes, start, stop):
        _z_block(packed, values[rows], U[rows.start - start : rows.stop - start], out, _num_sample_tasks(out))
    return _rows_of(out, genotypes.num_samples)


def fused_weighted(genotypes: PackedGenotypes, values: np.ndarray, B: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Z diag(w) Z' B, (n, k) -> (n, k) float32, for weights w (m,); one pass."""
    panels = _panels(B)
    w = np.asarray(w, np.float32)[:, None]
    out = _zero_words(genotypes.num_samples, B.shape[1])
    for rows, packed in _packed_blocks(genotypes):
        U = np.zeros((len(packed), B.shape[1]), np.float32)
        _zt_block(packed, values[rows], panels, U, _num_tasks(len(packed) // GROUP))
        U *= w[rows]
        _z_block(packed, values[rows], U, out, _num_sample_tasks(out))
    return _rows_of(out, genotypes.num_samples)


def _packed_blocks(genotypes: PackedGenotypes, start: int = 0, stop: int | None = None):
    """(rows of Z', packed bytes) of each block of variants start:stop.

    Memory maps are read-only, so all bytes are passed as read-only: a kernel then compiles once for every source.
    """
    num_bytes = (genotypes.num_samples + 3) // 4
    width = max(GROUP * GROUP, BLOCK_BYTES // num_bytes // GROUP * GROUP)
    for block in blocks_between(genotypes, start, genotypes.num_variants if stop is None else stop, width):
        packed = np.ascontiguousarray(block.packed).view()
        packed.flags.writeable = False
        yield block.rows, packed


def _column_tiles(k: int) -> list[tuple[int, int]]:
    """(first column, width) of the register tiles of Z'B: fours, then at most a two and a one."""
    fours = [(c, 4) for c in range(0, k - 3, 4)]
    twos = [(k // 4 * 4, 2)] if k & 2 else []
    return fours + twos + ([(k - 1, 1)] if k & 1 else [])


def _panels(B: np.ndarray) -> np.ndarray:
    """(k, 16 words) float32: for each column tile, B laid out as (words, width, 16).

    Rows after the last sample are zero, so whatever the padding bits decode to contributes nothing to Z'B.
    """
    n, k = B.shape
    words = _num_words(n)
    padded = np.zeros((words * WORD, k), np.float32)
    padded[:n] = B
    panels = _lines(k, words).reshape(k, words * WORD)
    for c, width in _column_tiles(k):
        panel = panels[c : c + width].reshape(words, width, WORD)
        panel[:] = padded[:, c : c + width].reshape(words, WORD, width).transpose(0, 2, 1)
    return panels


def _num_words(num_samples: int) -> int:
    return (num_samples + WORD - 1) // WORD


def _zero_words(num_samples: int, k: int) -> np.ndarray:
    return np.zeros((_num_words(num_samples), k, WORD), np.float32)


def _rows_of(out: np.ndarray, num_samples: int) -> np.ndarray:
    """(words, k, 16) -> (n, k), without the padding."""
    return np.ascontiguousarray(out.transpose(0, 2, 1).reshape(-1, out.shape[1])[:num_samples])


def _num_tasks(at_least: int) -> int:
    """A multiple of the number of threads, for even shares."""
    threads = numba.get_num_threads()
    return max(1, -(-at_least // threads)) * threads


def _num_sample_tasks(out: np.ndarray) -> int:
    words, k, _ = out.shape
    return _num_tasks(words * k // ACCUMULATOR_WORDS)


@parallel
def _zt_block(packed, values, panels, U, tasks):
    """U += Z'B for a block: packed (b, nbytes), values (b, 4), panels (k, 16 words), U (b, k)."""
    b = packed.shape[0]
    words = panels.shape[1] // WORD
    groups = (b + GROUP - 1) // GROUP
    for task in prange(tasks):
        for first in range(0, words, CHUNK_WORDS):
            last = min(first + CHUNK_WORDS, words)
            for group in range(groups * task // tasks, groups * (task + 1) // tasks):
                j = GROUP * group
                if j + GROUP <= b:
                    _zt_group(packed, values, panels, U, j, first, last)
                else:
                    for left in range(j, b):
                        _zt_variant(packed, values, panels, U, left, first, last)


@compiled
def _zt_group(packed, values, panels, U, j, first, last):
    """The dot products of eight variants: tiles of 4 x 4, 8 x 2 and 8 x 1 accumulators."""
    k = U.shape[1]
    c = 0
    while c + 4 <= k:
        zt_tile(packed, values, panels, U, j, c, first, last, 4, 4)
        zt_tile(packed, values, panels, U, j + 4, c, first, last, 4, 4)
        c += 4
    if c + 2 <= k:
        zt_tile(packed, values, panels, U, j, c, first, last, 8, 2)
        c += 2
    if c < k:
        zt_tile(packed, values, panels, U, j, c, first, last, 8, 1)


@compiled
def _zt_variant(packed, values, panels, U, j, first, last):
    """The dot products of one variant, for those left over after the groups."""
    k = U.shape[1]
    c = 0
    while c + 4 <= k:
        zt_tile(packed, values, panels, U, j, c, first, last, 1, 4)
        c += 4
    if c + 2 <= k:
        zt_tile(packed, values, panels, U, j, c, first, last, 1, 2)
        c += 2
    if c < k:
        zt_tile(packed, values, panels, U, j, c, first, last, 1, 1)


@compiled
def _lines(words, k):
    """Zeros (words, k, 16) float32 from the start of a cache line on, so that a vector lies in one."""
    room = np.zeros((words * k + 1) * WORD, np.float32)
    skip = (64 - room.ctypes.data % 64) % 64 // 4
    return room[skip : skip + words * k * WORD].reshape((words, k, WORD))


@parallel
def _z_block(packed, values, U, out, tasks):
    """out += Z U for a block: packed (b, nbytes), values (b, 4), U (b, k), out (words, k, 16)."""
    b = packed.shape[0]
    words, k = out.shape[:2]
    for task in prange(tasks):
        first, last = words * task // tasks, words * (task + 1) // tasks
        if first == last:  # more tasks than words
            continue
        sums = _lines(last - first, k)
        for start in range(0, b, RUN):
            sums[:] = 0
            stop = min(start + RUN, b)
            together = stop - (stop - start) % GROUP
            for j in range(start, together, GROUP):
                _z_group(packed, values, U, j, sums, first, last)
            for j in range(together, stop):
                _z_variant(packed, values, U, j, sums, first, last)
            out[first:last] += sums


@compiled
def _z_group(packed, values, U, j, sums, first, last):
    """What eight variants add: tiles of 4 x 4, 8 x 2 and 8 x 1.

    A strip of a row is too short for the processor to foresee the next one's, so these are fetched meanwhile.
    """
    nbytes = packed.shape[1]
    for row in range(j + AHEAD, j + AHEAD + GROUP):
        for place in range(4 * first, 4 * last + 60, 64):
            prefetch(packed, row * nbytes + place)
    k = U.shape[1]
    c = 0
    while c + 4 <= k:
        z_tile(packed, values, U, j, c, sums, first, last, 4, 4)
        z_tile(packed, values, U, j + 4, c, sums, first, last, 4, 4)
        c += 4
    if c + 2 <= k:
        z_tile(packed, values, U, j, c, sums, first, last, 8, 2)
        c += 2
    if c < k:
        z_tile(packed, values, U, j, c, sums, first, last, 8, 1)


@compiled
def _z_variant(packed, values, U, j, sums, first, last):
    """What one variant adds, for those left over after the groups."""
    for c in range(U.shape[1]):
        z_tile(packed, values, U, j, c, sums, first, last, 1, 1)
