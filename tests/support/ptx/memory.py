"""Memory of the machine: global, where every allocation is exact, and shared, where a barrier starts an epoch."""

import mmap

import numpy as np

from .program import SHARED_START, PtxError

BASE = 0x7F3A_0000_0000  # of global memory: beyond 32 bits, so that an address cut short shows
GAP = 4096  # bytes between allocations
POISON = 0xFF  # NaN as float32, -1 as an integer
KINDS = [np.dtype(k + n) for k in "ui" for n in "1248"] + [np.dtype(f"f{n}") for n in (2, 4, 8)]
MANY = -2  # in place of a thread's number: several
u8, i8 = np.uint64, np.int64


def sparse(num_bytes: int, kind: str = "u1") -> np.ndarray:
    """Zeroed memory that takes room only where it is written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, num_bytes, flags=flags), kind)


def views_of(buffer: np.ndarray) -> dict[str, np.ndarray]:
    return {kind.str: buffer.view(kind) for kind in KINDS}


class Memory:
    """Global memory: allocations with a gap after each, which bytes were written, and who touched a word last."""

    def __init__(self, capacity: int = 1 << 36):
        self.capacity, self.top = capacity, GAP
        self.bytes, self.written = sparse(capacity), sparse(capacity)
        self.views = views_of(self.bytes)
        # For every four bytes, launch and thread of the last write and of the last read.
        self.write_launch, self.writer, self.read_launch, self.reader = (sparse(capacity, "i4") for _ in range(4))
        self.names: list[str] = []
        self.starts, self.ends = np.zeros(0, u8), np.zeros(0, u8)

    def allocate(self, num_bytes: int, name: str = "") -> int:
        """Address of so many poisoned bytes that nobody has written."""
        start = -(-self.top // 512) * 512
        if start + num_bytes + GAP > self.capacity:
            raise PtxError("the device's memory is full")
        self.top = start + num_bytes + GAP
        self.starts = np.append(self.starts, u8(start))
        self.ends = np.append(self.ends, u8(start + num_bytes))
        self.names.append(name)
        self.bytes[start : start + num_bytes] = POISON
        return BASE + start

    def offsets(self, address, size: int, fail) -> np.ndarray:
        """Offsets of accesses of ``size`` bytes; ``fail(what, which)`` for one out of its allocation or misaligned."""
        at = np.asarray(address) - u8(BASE)
        k = np.searchsorted(self.starts, at, "right") - 1
        outside = (k < 0) | (at >= u8(self.capacity)) | (at + u8(size) > self.ends[k])
        if outside.any():
            fail(f"global address outside of every allocation, for {size} bytes", outside)
        crooked = (at & u8(size - 1)) != 0
        if crooked.any():
            fail(f"global access of {size} bytes that is not aligned", crooked)
        return at

    def note_read(self, at, size: int, launch: int, threads, issue) -> None:
        """Report reads of what nobody wrote, and of what another thread of the launch has written."""
        if not (self.written[at].all() and self.written[at + u8(size - 1)].all()):
            issue("read of global memory that nobody wrote")
        first = np.broadcast_to((at >> u8(2)).astype(i8), threads.shape)
        for word in (first + i for i in range(max(1, size // 4))):
            if ((self.write_launch[word] == launch) & (self.writer[word] != threads)).any():
                issue("global race: read of what another thread writes")
            others = (self.read_launch[word] == launch) & (self.reader[word] != threads)
            self.read_launch[word] = launch
            reader = np.where(others, MANY, threads)
            self.reader[word] = reader
            lost = self.reader[word] != reader
            if lost.any():
                self.reader[word[lost]] = MANY

    def note_write(self, at, size: int, launch: int, threads, issue) -> None:
        for i in range(size):
            self.written[at + u8(i)] = 1
        first = (at >> u8(2)).astype(i8)
        for word in (first + i for i in range(size // 4)):
            if ((self.write_launch[word] == launch) & (self.writer[word] != threads)).any():
                issue("global race: two threads write")
            if ((self.read_launch[word] == launch) & (self.reader[word] != threads)).any():
                issue("global race: write of what another thread reads")
            self.write_launch[word], self.writer[word] = launch, threads
            if (self.writer[word] != threads).any():
                issue("global race: two threads write in one instruction")


class SharedMemory:
    """Shared memory of the blocks that run together, by words: written, awaiting a copy, and touched in which epoch."""

    def __init__(self, num_bytes: int, of_block: np.ndarray, warp: np.ndarray):
        """``of_block``, ``warp``: of each thread, its block and its warp, both counted over all."""
        stride = -(-max(num_bytes, 16) // 16) * 16
        self.num_bytes, self.warp, self.base = num_bytes, warp, of_block * stride
        words = (int(of_block[-1]) + 1) * stride // 4
        self.views = views_of(np.full(4 * words, POISON, np.uint8))
        self.written, self.pending = np.zeros(words, bool), np.zeros(words, bool)
        self.write_epoch, self.read_epoch = np.zeros(words, "i4"), np.zeros(words, "i4")
        self.writer, self.reader, self.reader_warp = (np.full(words, -1, i8) for _ in range(3))
        self.epoch = 1  # a barrier starts the next

    def offsets(self, address, size: int, threads: np.ndarray, fail) -> np.ndarray:
        at = np.broadcast_to(np.asarray(address).astype(i8) - SHARED_START, threads.shape)
        outside = (at < 0) | (at + size > self.num_bytes)
        if outside.any():
            fail(f"shared address out of {self.num_bytes} bytes", outside)
        if (at & (size - 1)).any():
            fail(f"shared access of {size} bytes that is not aligned", (at & (size - 1)) != 0)
        if size < 4:
            raise PtxError("shared accesses of less than a word are not modelled")
        return at + self.base[threads]

    def note_read(self, at: np.ndarray, size: int, threads: np.ndarray, issue) -> None:
        w = (at >> 2)[:, None] + np.arange(size // 4)
        me, my_warp = threads[:, None], self.warp[threads][:, None]
        if not self.written[w].all():
            issue("read of shared memory that nobody wrote")
        if self.pending[w].any():
            issue("read of shared memory while its copy is in flight")
        self._race("write then read", (self.write_epoch[w] == self.epoch) & (self.writer[w] != me), issue)
        same = self.read_epoch[w] == self.epoch
        who = np.where(same & (self.reader[w] != me), MANY, np.broadcast_to(me, w.shape))
        which = np.where(same & (self.reader_warp[w] != my_warp), MANY, np.broadcast_to(my_warp, w.shape))
        self.read_epoch[w], self.reader[w], self.reader_warp[w] = self.epoch, who, which
        for kept, meant in ((self.reader, who), (self.reader_warp, which)):  # several threads of this instruction
            lost = kept[w] != meant
            if lost.any():
                kept[w[lost]] = MANY

    def note_write(self, at: np.ndarray, size: int, threads: np.ndarray, issue, copy: str = "") -> None:
        """``copy``: "" for a store, "starts" or "ends" for an asynchronous copy."""
        w = (at >> 2)[:, None] + np.arange(size // 4)
        me = threads[:, None]
        if copy != "ends" and self.pending[w].any():
            issue("write to shared memory while its copy is in flight")
        self._race("write then write", (self.write_epoch[w] == self.epoch) & (self.writer[w] != me), issue)
        self._race("read then write", (self.read_epoch[w] == self.epoch) & (self.reader[w] != me), issue)
        self.write_epoch[w], self.writer[w] = self.epoch, np.broadcast_to(me, w.shape)
        if (self.writer[w] != me).any():
            issue("shared race: two threads write in one instruction")
        self.pending[w] = copy == "starts"
        self.written[w] = copy != "starts"

    @staticmethod
    def _race(what: str, clash: np.ndarray, issue) -> None:
        if clash.any():
            issue(f"shared race: {what}")
