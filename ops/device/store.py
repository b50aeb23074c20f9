"""Packed genotypes on one device: as many blocks as fit stay there, the others stream through a ring of buffers.

A ring slot is a page-locked host buffer and an array on the device.  The host fills the buffer of the next block (rows
copied by a few threads, to the device's pitch) while earlier blocks are copied and multiplied: copies and kernels are
only enqueued, and a slot is used again when its last copy (host side) and its last kernel (device side) are done.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..genotypes import CALL_BITS, CHUNK, PackedGenotypes, item_type, items_per_row
from .interface import Array, Device, Token, Variants

FILL_THREADS = 8  # a single thread does not read memory as fast as the bus to the device takes it


class Piece(NamedTuple):
    """Variants ``start:stop``, counted over all sources, of one source: what is moved and launched at once."""

    start: int
    stop: int
    part: int
    first: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


def pieces(
    genotypes: PackedGenotypes, width: int, rows: slice = slice(0, None), cuts: np.ndarray | None = None
) -> list[Piece]:
    """The variants in order, at most ``width`` at a time; a piece never crosses two sources.

    cuts: ascending variants at which pieces may end; a stretch between two of them that is longer stays whole.
    """
    first, last, _ = rows.indices(genotypes.num_variants)
    found, offset = [], 0
    for number, part in enumerate(genotypes.parts):
        start, end = max(first, offset), min(last, offset + len(part))
        while start < end:
            stop = min(start + width, end) if cuts is None else min(_last_cut(cuts, start, width), end)
            found.append(Piece(start, stop, number, start - offset))
            start = stop
        offset += len(part)
    return found


def _last_cut(cuts: np.ndarray, start: int, width: int) -> int:
    """The last cut within ``width`` of start, or the next one after start."""
    within = int(cuts[np.searchsorted(cuts, start + width, side="right") - 1])
    return within if within > start else int(cuts[np.searchsorted(cuts, start, side="right")])


def padded(count: int, alignment: int) -> int:
    return -(-count // alignment) * alignment


def pitch(num_samples: int, alignment: int, bits: int = CALL_BITS) -> int:
    """Bytes from one row of packed genotypes to the next on a device."""
    return padded(items_per_row(num_samples, bits) * item_type(bits).itemsize, alignment)


def rows_at_once(piece_bytes: int, row_bytes: int, alignment: int) -> int:
    """Variants of a piece of at most so many bytes: a multiple of ``alignment``, and whole chunks where one has room.

    Chunks (:data:`~gpu_reml.ops.genotypes.CHUNK`) are summed together, and pieces that cut none of them have the same
    sums whatever their size.
    """
    rows = max(1, piece_bytes // row_bytes // alignment) * alignment
    return rows - rows % CHUNK if rows >= CHUNK else rows


@dataclass
class Slot:
    """A ring slot: host buffer, device array, and when each may be written again."""

    buffer: np.ndarray
    array: Array
    copied: Token = None
    used: Token = None


class Store:
    """Genotypes of the variants first:last on a device; iterate over :meth:`variants`.

    resident: number of pieces, from the first, that stay on the device; the others stream through ``ring_depth`` slots.
    """

    def __init__(
        self, device: Device, genotypes: PackedGenotypes, listed: Sequence[Piece], resident: int, ring_depth: int
    ):
        self._device, self._genotypes, self._pieces = device, genotypes, tuple(listed)
        self.first, self.last = listed[0].start, listed[-1].stop
        self._item = item_type(genotypes.bits)
        self._pitch = pitch(genotypes.num_samples, device.pitch_alignment, genotypes.bits)
        self._threads = ThreadPoolExecutor(FILL_THREADS, thread_name_prefix="genotypes")
        here = slice(self.first, self.last)
        constants = device.constants(genotypes.mean[here], genotypes.inv_sd[here], genotypes.bits)
        self._constants = tuple(device.upload(values) for values in constants)
        slots = min(ring_depth, len(listed))
        self._rows = max(padded(piece.stop - piece.start, device.row_alignment) for piece in listed)
        self._slots = [Slot(device.pinned(self._rows * self._pitch), None) for _ in range(slots)]
        self._resident: list[Variants] = []
        for number, piece in enumerate(self._pieces[:resident]):
            array = self._array(self._num_rows(piece))
            slot = self._slots[number % slots]
            slot.array = array
            self._stage(piece, slot)
            self._resident.append(self._on_device(piece, array))
        for slot in self._slots:
            device.wait(slot.copied)
            device.host_wait(slot.copied)
        if resident == len(listed):
            self._slots = []  # nothing will stream
        for slot in self._slots:
            slot.array = self._array(self._rows)

    def _array(self, num_rows: int) -> Array:
        """Room for rows of genotypes on the device."""
        return self._device.pool.array((num_rows, self._pitch // self._item.itemsize), self._item)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What is moved and launched at once, in order."""
        return self._pieces

    @property
    def num_streamed(self) -> int:
        """Pieces that cross the bus in every product."""
        return len(self._pieces) - len(self._resident)

    def variants(self, wanted=None) -> Iterator[Variants]:
        """Every piece on the device, in order; those of which ``wanted(piece)`` is false are passed over.

        What is yielded is to be used by work enqueued before the next one is asked for.
        """
        for found in self._resident:
            if wanted is None or wanted(found):
                yield found
        turn = 0
        for piece in self._pieces[len(self._resident) :]:
            if wanted is not None and not wanted(piece):
                continue
            slot = self._slots[turn % len(self._slots)]
            self._stage(piece, slot)
            self._device.wait(slot.copied)
            yield self._on_device(piece, slot.array)
            slot.used = self._device.mark()
            turn += 1

    def _stage(self, piece: Piece, slot: Slot) -> None:
        """Fill the slot's buffer and enqueue its copy to the slot's array."""
        self._device.host_wait(slot.copied)
        rows = slot.buffer[: self._num_rows(piece) * self._pitch].view(self._item).reshape(self._num_rows(piece), -1)
        self._fill(piece, rows)
        slot.copied = self._device.copy_in(rows, slot.array[: len(rows)], slot.used)

    def _fill(self, piece: Piece, rows: np.ndarray) -> None:
        """Packed items of the piece at the device's pitch; what pads rows stays as it is, and no kernel minds it."""
        count = piece.stop - piece.start
        source = self._genotypes.parts[piece.part][piece.first : piece.first + count]
        share = -(-count // FILL_THREADS)
        target = rows[:count, : source.shape[1]]
        tasks = [
            self._threads.submit(np.copyto, target[i : i + share], source[i : i + share])
            for i in range(0, count, share)
        ]
        for task in tasks:
            task.result()

    def _num_rows(self, piece: Piece) -> int:
        return padded(piece.stop - piece.start, self._device.row_alignment)

    def _on_device(self, piece: Piece, array: Array) -> Variants:
        rows = slice(piece.start - self.first, piece.stop - self.first)
        constants = tuple(values[rows] for values in self._constants)
        complete = bool((self._genotypes.num_called[piece.rows] == self._genotypes.num_samples).all())
        return Variants(piece.start, piece.stop, array, constants, self._genotypes.bits, complete)
