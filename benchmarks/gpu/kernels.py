"""Kernels that only the benchmark needs: genotypes made and counted on the device, and decoded to float16 for a GEMM.

``SIG_*`` are argument types, for compiling without a device.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float16, float32, int32, int64, uint8, uint32, uint64

from gpu_reml.ops.cuda.launch import cuda_kernel

from .cohorts import GOLDEN, HASH_BITS, MIX, VARIANT_SHIFT

THREADS = 256

SIG_SIMULATE = (uint32[:, ::1], uint64, int64, uint8[:, ::1])
SIG_COUNT = (uint8[:, ::1], int64, int32[:, ::1])
SIG_DECODE = (uint8[:, ::1], uint64[:, ::1], uint64[:, ::1])
SIG_HALVE = (float32[:, ::1], float32[::1], float16[:, ::1])

# A plain integer beside a uint64 would make int64 or float64 of it.
STEP, HIGH, LOW = uint64(GOLDEN), uint64(HASH_BITS), uint64(VARIANT_SHIFT)
(SHIFT_1, FACTOR_1), (SHIFT_2, FACTOR_2), (SHIFT_3, _) = [(uint64(s), uint64(f)) for s, f in MIX]


@cuda.jit(device=True, inline="always")
def _hash(stream, variant, sample):
    z = stream + ((uint64(variant) << LOW) | uint64(sample)) * STEP
    z = (z ^ (z >> SHIFT_1)) * FACTOR_1
    z = (z ^ (z >> SHIFT_2)) * FACTOR_2
    return uint32((z ^ (z >> SHIFT_3)) >> HIGH)


@cuda_kernel()
def simulate_kernel(thresholds, stream, first, packed):
    """packed (rows, bytes) = genotypes of the variants from ``first``, whose ``thresholds`` (rows, 3) these are."""
    row = cuda.blockIdx.x
    byte = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if byte >= packed.shape[1]:
        return
    codes = 0
    for s in range(4):
        drawn = _hash(stream, first + row, 4 * byte + s)
        code = 3
        if drawn < thresholds[row, 0]:
            code = 1
        elif drawn < thresholds[row, 1]:
            code = 0
        elif drawn < thresholds[row, 2]:
            code = 2
        codes |= code << (2 * s)
    packed[row, byte] = uint8(codes)


@cuda_kernel()
def count_kernel(packed, num_samples, counts):
    """counts (rows, 3) of missing calls, two copies and one; a thread block for each variant."""
    shared = cuda.shared.array((3, THREADS), int32)
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    missing, two, one = int32(0), int32(0), int32(0)
    for byte in range(thread, packed.shape[1], THREADS):
        codes = packed[row, byte]
        for s in range(4):
            if 4 * byte + s < num_samples:
                code = (codes >> (2 * s)) & 3
                missing += int32(code == 1)
                two += int32(code == 0)
                one += int32(code == 2)
    shared[0, thread], shared[1, thread], shared[2, thread] = missing, two, one
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            for c in range(3):
                shared[c, thread] += shared[c, thread + half]
        half //= 2
    if thread == 0:
        for c in range(3):
            counts[row, c] = shared[c, 0]


@cuda_kernel()
def decode_kernel(packed, table, words):
    """words (rows, bytes) = four float16 numbers each, by ``table`` (rows, 4) of their bits for each code."""
    row = cuda.blockIdx.x
    byte = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if byte < packed.shape[1]:
        codes = packed[row, byte]
        word = uint64(0)
        for s in range(4):
            word |= table[row, (codes >> (2 * s)) & 3] << uint64(16 * s)
        words[row, byte] = word


@cuda_kernel()
def halve_kernel(values, factor, halves):
    """halves = diag(factor) values in float16, and 0 in the rows and columns that values (r, k) lacks."""
    column = cuda.threadIdx.x
    row = int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y
    if row >= halves.shape[0]:
        return
    while column < halves.shape[1]:
        value = float32(0)
        if row < values.shape[0] and column < values.shape[1]:
            value = factor[row] * values[row, column]
        halves[row, column] = float16(value)
        column += cuda.blockDim.x


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def launch_simulate(thresholds, stream: int, first: int, packed) -> None:
    rows, num_bytes = packed.shape
    grid = rows, _blocks(num_bytes, THREADS)
    simulate_kernel[grid, THREADS](thresholds, np.uint64(stream), first, packed)


def launch_count(packed, num_samples: int, counts) -> None:
    count_kernel[packed.shape[0], THREADS](packed, num_samples, counts)


def launch_decode(packed, table, words) -> None:
    rows, num_bytes = packed.shape
    decode_kernel[(rows, _blocks(num_bytes, THREADS)), THREADS](packed, table, words)


def launch_halve(values, factor, halves) -> None:
    halve_kernel[_blocks(halves.shape[0], 8), (32, 8)](values, factor, halves)
