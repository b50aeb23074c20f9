"""Memory of one device: taken in size classes, given back when an array is dropped, counted against a limit.

Freed memory is kept and used again: asking the driver costs more than most kernels, and waits for all of them.  All
work is in order on one stream, so memory whose array is gone may be used again at once.
"""

import math
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

SMALL = 1 << 20  # bytes; below, classes are powers of two
FINE = 16  # classes between two powers of two above


class DeviceMemoryError(MemoryError):
    """More memory was asked for than the limit, or the device, has."""


def size_class(num_bytes: int) -> int:
    """Bytes that an array of ``num_bytes`` takes: at most 1/16 more where that matters."""
    if num_bytes <= 512:
        return 512
    power = 1 << (num_bytes - 1).bit_length()
    if power <= SMALL:
        return power
    step = power // 2 // FINE
    return -(-num_bytes // step) * step


class Pool:
    """Arrays of a device with what they take counted.

    ``allocate(num_bytes)`` gives raw memory, a uint8 array of the device; it raises MemoryError when there is none.
    ``trim()`` is called after kept memory was let go of.  ``limit``: bytes that may be held at most.  ``planned``:
    those up to which memory is kept.  ``in_use``, ``held`` (with kept memory): bytes now, and their peaks.
    """

    def __init__(
        self, allocate: Callable[[int], Any], limit: int | None = None, trim: Callable[[], None] | None = None
    ):
        self._allocate, self._trim = allocate, trim or (lambda: None)
        self.limit = self.planned = limit
        self._kept: dict[int, list] = defaultdict(list)
        self.in_use = self.held = self.peak_in_use = self.peak_held = 0

    def array(self, shape: tuple[int, ...], dtype) -> Any:
        """An uninitialised C-contiguous array; its memory comes back when the array itself (not a slice) is dropped."""
        dtype = np.dtype(dtype)
        num_bytes = math.prod(shape) * dtype.itemsize
        if not num_bytes:
            return np.empty(shape, dtype)  # takes no memory anywhere, and no kernel is launched on it
        size = size_class(num_bytes)
        raw = self._take(size)
        array = raw[:num_bytes].view(dtype).reshape(shape)
        weakref.finalize(array, self._give_back, raw, size).atexit = False
        return array

    def _take(self, size: int) -> Any:
        raw = self._kept[size].pop() if self._kept[size] else self._new(size)
        self.in_use += size
        self.peak_in_use = max(self.peak_in_use, self.in_use)
        return raw

    def _new(self, size: int) -> Any:
        if self.planned is not None and self.held + size > self.planned:
            self.release(self.held + size - self.planned)
        if self.limit is not None and self.held + size > self.limit:
            raise DeviceMemoryError(
                f"{size:,} bytes more on the device would pass the limit of {self.limit:,} ({self.held:,} in use)"
            )
        try:
            raw = self._allocate(size)
        except MemoryError:
            self.release()
            raw = self._allocate(size)
        self.held += size
        self.peak_held = max(self.peak_held, self.held)
        return raw

    def _give_back(self, raw: Any, size: int) -> None:
        self.in_use -= size
        self._kept[size].append(raw)

    def release(self, wanted: int | None = None) -> None:
        """Let kept memory go, the largest first: all of it, or until ``wanted`` bytes are free."""
        freed = 0
        for size in sorted(self._kept, reverse=True):
            kept = self._kept[size]
            while kept and (wanted is None or freed < wanted):
                kept.pop()
                freed += size
        self.held -= freed
        if freed:
            self._trim()
