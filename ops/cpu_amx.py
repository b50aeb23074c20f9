"""Digits as AMX takes them, and whether there is AMX: Intel servers since 2023, Linux.

A tile instruction multiplies 16 rows of 64 bytes with 64 rows of 16 bytes.  Z'B takes counts as the left factor and
digits as the right one; Z V takes digits as the left factor and counts as the right one, so that neither needs counts
to be transposed.
"""

import ctypes
import platform
from functools import cache

import numpy as np
from numba import prange
from numba.core import registry

from .compile import parallel
from .cpu_amx_tiles import PAIR, ROW
from .cpu_missing import PIECE
from .cpu_sums import Kernels, aligned_zeros, lay_group
from .integers import Integers

FEATURES = {"+amx-tile", "+amx-int8"}
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64


@cache
def available() -> bool:
    """Whether processor and system let this process use int8 tiles.  The system is asked once, and only if need be."""
    return FEATURES <= compiled_for() and permitted()


def refused() -> bool:
    """Whether the processor has int8 tiles that the system does not let this process use."""
    return FEATURES <= compiled_for() and not available()


def compiled_for() -> set[str]:
    """Features of the processor that numba compiles for."""
    return set(registry.cpu_target.target_context.codegen().magic_tuple()[2].split(","))


def permitted() -> bool:
    """Ask Linux for the tile registers, as it wants before their first use; forked processes have what this one has.

    Linux refuses where the processor or the kernel has no tiles, and where a thread's stack for signals has no room.
    """
    if platform.system() != "Linux":
        return False
    request = (ctypes.c_long(number) for number in (ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA))
    return ctypes.CDLL(None).syscall(*request) == 0


def lay_samples(integers: Integers, room: int) -> np.ndarray:
    """(room / 4, vectors, 16, 64) int8: of 16 groups of samples, four bytes of each of 16 columns."""
    digits = _zeros(room // 4, integers.values.shape[1] * integers.digits)
    _lay_samples(integers.values, integers.digits, room, digits.view(np.uint32))
    return digits


def lay_variants(integers: Integers) -> np.ndarray:
    """(steps, vectors, 16, 64) int8: of 16 columns, 64 variants."""
    b, k = integers.values.shape
    digits = _zeros(-(-b // ROW), k * integers.digits)
    _lay_variants(integers.values, integers.digits, digits.view(np.uint32))
    return digits


def _zeros(steps: int, columns: int) -> np.ndarray:
    return aligned_zeros(steps, -(-columns // 16), 16, ROW)


@parallel
def _lay_samples(values, digits, room, out):
    """Group g of step s is place 16 s + g = (t, i) of a piece: samples 16 i + {t, 4 + t, 8 + t, 12 + t} of it."""
    for step in prange(len(out)):
        left = np.zeros((4, values.shape[1]), np.int32)
        words = np.zeros(16 * out.shape[1], np.uint32)
        piece = step * 4 // PIECE * PIECE
        width, place = min(PIECE, room - piece), 16 * step - 4 * piece
        first, t = piece + place % width, place // width
        for g in range(16):
            lay_group(values, 16 * (first + g) + t, 4, left, digits, words)
            for v in range(out.shape[1]):
                for c in range(16):
                    out[step, v, g, c] = words[16 * v + c]


@parallel
def _lay_variants(values, digits, out):
    """Group g of step s is variants 64 s + 4 g to 64 s + 4 g + 3."""
    for step in prange(len(out)):
        left = np.zeros((4, values.shape[1]), np.int32)
        words = np.zeros(16 * out.shape[1], np.uint32)
        for g in range(16):
            lay_group(values, 4 * (16 * step + g), 1, left, digits, words)
            for v in range(out.shape[1]):
                for c in range(16):
                    out[step, v, c, g] = words[16 * v + c]


KERNELS = Kernels("AMX", available, lay_samples, lay_variants, PAIR, tiles=True)
