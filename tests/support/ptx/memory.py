"""Memory of the machine: global, where every allocation is exact, and shared, where a barrier starts an epoch."""

import mmap
from abc import ABC, abstractmethod

import numpy as np

from .semantics import SHARED_START, U4, PtxError

BASE = 0x7F3A_0000_0000  # of global memory: beyond 32 bits, so that an address cut short shows
GAP = 4096  # bytes between allocations
POISON = 0xFF  # NaN as float32, -1 as an integer
KINDS = [np.dtype(k + n) for k in "ui" for n in "1248"] + [np.dtype(f"f{n}") for n in (2, 4, 8)]
MANY = -2  # in place of a thread's number: several
WRITTEN, IN_FLIGHT = 0x01010101, 0x02020202  # states of the bytes of a word


class Memory(ABC):
    """Bytes, the state of each, and for every word who wrote and who read it last, and in which epoch.

    Two threads that touch a word in one epoch, one of them writing, race.
    """

    name = ""

    def __init__(self, num_bytes: int, zeros):
        self.bytes, state = zeros(num_bytes, "u1"), zeros(num_bytes, "u1")
        self.views = {kind: self.bytes.view(kind) for kind in KINDS}
        self.states = {size: state.view(f"u{size}") for size in (1, 2, 4)}
        self.writer, self.write_epoch, self.reader, self.read_epoch = (zeros(num_bytes // 4, "i4") for _ in range(4))
        self.epoch = 1

    @abstractmethod
    def offsets(self, address, size: int, lanes, machine) -> np.ndarray:
        """Offsets of the lanes' accesses of ``size`` bytes; one out of bounds or not aligned is an error."""

    def load(self, address, kind: np.dtype, count: int, lanes, machine) -> list[np.ndarray]:
        size = count * kind.itemsize
        at = self.offsets(address, size, lanes, machine)
        self._note_read(at, size, machine.thread[lanes][:, None], machine.issue)
        return [self.views[kind][at // kind.itemsize + i] for i in range(count)]

    def store(self, address, values, kind: np.dtype, lanes, machine, state: int = WRITTEN) -> None:
        size = len(values) * kind.itemsize
        if size < 4:
            raise PtxError("stores of less than a word are not modelled")
        at = self.offsets(address, size, lanes, machine)
        self._note_write(at, size, machine.thread[lanes][:, None], state, machine.issue)
        for i, value in enumerate(values):
            self.views[kind][at // kind.itemsize + i] = value

    def _note_read(self, at, size: int, me, issue) -> None:
        unit = min(size, 4)
        state = self.states[unit][(at // unit)[:, None] + np.arange(size // unit)]
        if (state != WRITTEN % 256**unit).any():
            flying = (state == IN_FLIGHT).any()
            issue(f"read of {self.name} memory " + ("while its copy is in flight" if flying else "that nobody wrote"))
        word = words(at, size)
        self._race("read of what another thread writes", (self.write_epoch, self.writer), word, me, issue)
        others = (self.read_epoch[word] == self.epoch) & (self.reader[word] != me)
        who = np.where(others, MANY, me)
        self.read_epoch[word], self.reader[word] = self.epoch, who
        lost = self.reader[word] != who  # several threads of this instruction
        if lost.any():
            self.reader[word[lost]] = MANY

    def _note_write(self, at, size: int, me, state: int, issue) -> None:
        word = words(at, size)
        if (self.states[4][word] == IN_FLIGHT).any():
            issue(f"write to {self.name} memory while its copy is in flight")
        self._race("two threads write", (self.write_epoch, self.writer), word, me, issue)
        self._race("write of what another thread reads", (self.read_epoch, self.reader), word, me, issue)
        self.write_epoch[word], self.writer[word] = self.epoch, me
        if (self.writer[word] != me).any():
            issue(f"{self.name} race: two threads write in one instruction")
        self.states[4][word] = state

    def _race(self, what: str, last, word, me, issue) -> None:
        epoch, thread = last
        if ((epoch[word] == self.epoch) & (thread[word] != me)).any():
            issue(f"{self.name} race: {what}")


def words(at: np.ndarray, size: int) -> np.ndarray:
    """(accesses, words of each)."""
    return (at // 4)[:, None] + np.arange(max(1, size // 4))


def sparse(num_bytes: int, kind: str) -> np.ndarray:
    """Zeroed memory that takes room only where it is written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, num_bytes * np.dtype(kind).itemsize, flags=flags), kind)


class GlobalMemory(Memory):
    """Allocations with a gap after each; a launch is an epoch."""

    name = "global"

    def __init__(self, capacity: int = 1 << 34):
        super().__init__(capacity, sparse)
        self.top, self.starts, self.ends = GAP, np.zeros(0, np.int64), np.zeros(0, np.int64)

    def allocate(self, num_bytes: int) -> np.ndarray:
        """A view of so many poisoned bytes that nobody has written."""
        start = -(-self.top // 512) * 512
        self.top = start + num_bytes + GAP
        if self.top > len(self.bytes):
            raise PtxError("the device's memory is full")
        self.starts, self.ends = np.append(self.starts, start), np.append(self.ends, start + num_bytes)
        self.bytes[start : start + num_bytes] = POISON
        return self.bytes[start : start + num_bytes]

    def address(self, view: np.ndarray) -> int:
        return BASE + view.__array_interface__["data"][0] - self.bytes.__array_interface__["data"][0]

    def set_written(self, view: np.ndarray) -> None:
        """The host has written it."""
        first = self.address(view) - BASE
        self.states[1][first : first + view.nbytes] = WRITTEN % 256

    def offsets(self, address, size, lanes, machine):
        at = np.broadcast_to(np.asarray(address).astype(np.int64) - BASE, lanes.shape)
        k = np.searchsorted(self.starts, at, "right") - 1
        machine.check((k >= 0) & (at + size <= self.ends[k]), f"address outside of every allocation, for {size} bytes")
        machine.check(at % size == 0, f"global access of {size} bytes that is not aligned")
        return at


class SharedMemory(Memory):
    """Shared memory of the blocks that run together; a barrier starts the next epoch."""

    name = "shared"

    def __init__(self, num_bytes: int, num_blocks: int):
        self.num_bytes, self.stride = num_bytes, -(-max(num_bytes, 16) // 16) * 16
        super().__init__(self.stride * num_blocks, np.zeros)
        self.bytes[:] = POISON

    def offsets(self, address, size, lanes, machine):
        at = np.broadcast_to(np.asarray(address).astype(np.int64) - SHARED_START, lanes.shape)
        machine.check((at >= 0) & (at + size <= self.num_bytes), f"shared address outside of {self.num_bytes} bytes")
        machine.check(at % size == 0, f"shared access of {size} bytes that is not aligned")
        return at + self.stride * (lanes // machine.threads)

    def load(self, address, kind, count, lanes, machine):
        self._look_at_banks(address, count * kind.itemsize, lanes, machine)
        return super().load(address, kind, count, lanes, machine)

    def land(self, address, data, lanes, machine) -> None:
        """The end of an asynchronous copy: it writes what was in flight."""
        at = self.offsets(address, 4 * data.shape[1], lanes, machine)
        self.states[4][words(at, 4 * data.shape[1])] = WRITTEN
        self.store(address, list(data.T), U4, lanes, machine)

    def _look_at_banks(self, address, size: int, lanes, machine) -> None:
        """Report words of one bank that are asked for at once: by 32 lanes of 4 bytes, 16 of 8 or 8 of 16."""
        turn = machine.warp[lanes] * (size // 4) + lanes % machine.threads % 32 // (128 // size)
        word = words(np.broadcast_to(address, lanes.shape).astype(np.int64), size)
        bank = turn[:, None] * 32 + word % 32
        asked = np.zeros(bank.max() + 1, np.int64)
        asked[bank] = word
        if (asked[bank] != word).any():
            machine.issue("several words of one bank of shared memory at once")
