"""Runs launches of a :class:`~.program.Kernel`: the threads of many blocks at once, in groups by where they are.

Groups go in order of their block of code, the least first, and join where they meet.  Schedules: "lockstep", or
"reverse": one warp at a time to its next barrier, the last first.  ``issues`` counts races, reads of what nobody wrote,
barriers that not all threads reach and copies in flight at the end, by kernel and line.
"""

from collections import Counter

import numpy as np

from .memory import POISON, Memory, SharedMemory
from .program import Kernel, PtxError

u4, u8, i8, f2, f4, f8 = (np.dtype(t) for t in ("u4", "u8", "i8", "f2", "f4", "f8"))
WARP, BATCH = 32, 4096  # threads of a warp, and of the blocks that run together
POISONED_COPY = 0xFFFFFFFF
SPLITTER = 134217729.0  # 2^27 + 1, Dekker 1971


# Where each lane's numbers belong in the matrices of mma.m16n8k16 (PTX ISA 9.7.14.5.8).
LANES, GROUP, MEMBER = np.arange(WARP), np.arange(WARP) // 4, np.arange(WARP) % 4


def _taken(rows, columns, shape) -> np.ndarray:
    """For every entry of a matrix, in order, which of the warp's numbers it is."""
    where = np.full(shape, -1)
    where[rows, columns] = np.arange(rows.size).reshape(rows.shape)
    return where.ravel()


A, B, C = np.arange(8), np.arange(4), np.arange(4)
A_ROWS = GROUP[:, None] + 8 * ((A % 4) >= 2)
A_COLUMNS = 2 * MEMBER[:, None] + (A & 1) + 8 * (A >= 4)
B_ROWS, B_COLUMNS = 2 * MEMBER[:, None] + (B & 1) + 8 * (B >= 2), GROUP[:, None] + 0 * B
C_ROWS, C_COLUMNS = GROUP[:, None] + 8 * (C >= 2), 2 * MEMBER[:, None] + (C & 1)
TAKE_A, TAKE_B = _taken(A_ROWS, A_COLUMNS, (16, 16)), _taken(B_ROWS, B_COLUMNS, (16, 8))
TAKE_C, PUT_C = _taken(C_ROWS, C_COLUMNS, (16, 8)), (8 * C_ROWS + C_COLUMNS).T


class Machine:
    """``truncating``: accumulators of tensor cores are rounded toward zero, not to nearest."""

    def __init__(self, memory: Memory, schedule: str = "lockstep", truncating: bool = False):
        self.memory, self.schedule, self.truncating = memory, schedule, truncating
        self.issues, self.launches, self.counted, self.line = Counter(), 0, 0, 0

    # launches

    def launch(self, kernel: Kernel, grid, block, arguments: bytes) -> None:
        grid, block = ((tuple(np.atleast_1d(x).tolist()) + (1, 1))[:3] for x in (grid, block))
        threads, most = int(np.prod(block)), min([1024, *kernel.most_threads[:1]])
        if not 0 < threads <= most or not 0 < grid[0] < 2**31 or not all(0 < g < 65536 for g in grid[1:]):
            raise PtxError(f"{kernel.name}: impossible launch of {grid} blocks of {block} threads")
        if len(arguments) != kernel.parameter_bytes:
            raise PtxError(f"{kernel.name}: {len(arguments)} bytes of arguments for {kernel.parameter_bytes}")
        self.kernel, self.grid, self.block, self.arguments = kernel, grid, block, arguments
        self.launches += 1
        together = max(1, BATCH // threads)
        with np.errstate(all="ignore"):
            for first in range(0, int(np.prod(grid)), together):
                self._run(np.arange(first, min(first + together, int(np.prod(grid)))), threads)

    def _run(self, blocks: np.ndarray, threads: int) -> None:
        """Some blocks (linear numbers) to their end."""
        self._number(blocks, threads)
        kernel, warps = self.kernel, -(-threads // WARP)
        self.shared = SharedMemory(kernel.shared_bytes, self.lanes // threads, self.warp)
        self.copies: list[dict] = []
        if self.schedule == "lockstep":
            units = [None]
        else:
            units = [np.flatnonzero(self.warp % warps == w) for w in reversed(range(warps))]
        registers = [None] * len(kernel.index)
        states = [{0: unit} for unit in units]
        while True:
            arrived = np.full(len(self.lanes), -1)
            for u, groups in enumerate(states):
                states[u] = self._run_to_barrier(groups, registers)
                for where, idx in states[u].items():
                    arrived[slice(None) if idx is None else idx] = where
            if not any(states):
                break
            self._check_barrier(arrived.reshape(-1, threads))
            self.shared.epoch += 1
        if self.copies:
            self.issue("copy in flight at the end")

    def _number(self, blocks: np.ndarray, threads: int) -> None:
        self.lanes = np.arange(len(blocks) * threads)
        self.threads = threads
        t, number = self.lanes % threads, blocks[self.lanes // threads]
        self.warp = self.lanes // threads * -(-threads // WARP) + t // WARP
        self.thread = (number * threads + t).astype("i4")  # only to tell threads apart
        ids = {"%laneid": t % WARP}
        for name, axes, at in (("%tid", self.block, t), ("%ctaid", self.grid, number)):
            ids[f"{name}.x"], ids[f"{name}.y"] = at % axes[0], at // axes[0] % axes[1]
            ids[f"{name}.z"] = at // (axes[0] * axes[1])
        self.ids = {name: value.astype(u4) for name, value in ids.items()}
        for i, axis in enumerate("xyz"):
            self.ids[f"%ntid.{axis}"], self.ids[f"%nctaid.{axis}"] = np.uint32(self.block[i]), np.uint32(self.grid[i])

    def _check_barrier(self, arrived: np.ndarray) -> None:
        waits = arrived >= 0
        if (waits.any(1) & ~waits.all(1)).any():
            self.issue("barrier that some threads of the block do not reach")
        if (arrived != arrived[:, :1]).any(1)[waits.all(1)].any():
            self.issue("threads of a block wait at different barriers")

    def _run_to_barrier(self, groups: dict, registers: list) -> dict:
        """Run groups {block of code: threads} until all wait or have ended; those that wait."""
        waiting = {}
        while groups:
            at = min(groups)
            idx = groups.pop(at)
            what, *where = self.kernel.functions[at](self, registers, idx)
            if what == "bar":
                self._join(waiting, where[0], idx)
            elif what == "go":
                self._join(groups, where[0], idx)
            elif what == "if":
                self._branch(groups, idx, *where)
        return waiting

    def _branch(self, groups: dict, idx, taken: int, otherwise: int, condition) -> None:
        if np.all(condition):
            self._join(groups, taken, idx)
        elif not np.any(condition):
            self._join(groups, otherwise, idx)
        else:
            lanes = self.lanes_of(idx)
            self._join(groups, taken, lanes[condition])
            self._join(groups, otherwise, lanes[~condition])

    def _join(self, groups: dict, at: int, idx) -> None:
        if at in groups:
            idx = np.sort(np.concatenate([groups[at], idx]))
            if len(idx) == len(self.lanes):
                idx = None
        groups[at] = idx

    # registers

    def get(self, registers, k: int, idx, name: str):
        value = registers[k]
        if value is None:
            raise PtxError(f"{self.kernel.name} near line {self.line}: {name} is read before it is written")
        return value if idx is None or value.ndim == 0 else value[idx]

    def put(self, registers, k: int, value, idx) -> None:
        if idx is None:
            registers[k] = value
            return
        current = registers[k]
        if current is None:
            current = np.full(len(self.lanes) * value.dtype.itemsize, POISON, "u1").view(value.dtype)
        elif current.ndim == 0:
            current = np.full(len(self.lanes), current)
        else:
            current = current.copy()
        current[idx] = value
        registers[k] = current

    def special(self, name: str, idx):
        value = self.ids[name]
        return value if idx is None or value.ndim == 0 else value[idx]

    def parameter(self, name: str, kind: str, extra: int):
        return np.frombuffer(self.arguments, kind, 1, self.kernel.parameters[name] + extra)[0]

    def lanes_of(self, idx) -> np.ndarray:
        return self.lanes if idx is None else idx

    # reports

    def issue(self, what: str) -> None:
        self.issues[what, self.kernel.name, self.line] += 1

    def fail(self, what: str, which) -> None:
        text = self.kernel.text.split("\n")[self.line - 1].strip()
        raise PtxError(f"{self.kernel.name} line {self.line}: {text} {what}; {int(np.sum(which))} threads")

    # arithmetic

    @staticmethod
    def fma(a, b, c):
        """a b + c, rounded once (float64: but for the last bit of rare cases)."""
        if a.dtype == f4:
            product, c = a.astype(f8) * b.astype(f8), c.astype(f8)  # exact
            total = np.asarray(product + c)
            back = total - product
            error = np.asarray((product - (total - back)) + (c - back))
            bits = total.view(i8).copy()  # round to odd, so that the second rounding is right
            odd = (error != 0) & (bits & 1 == 0) & np.isfinite(total)
            bits += np.where(odd, np.where((error > 0) == (total > 0), 1, -1), 0)
            return bits.view(f8).astype(f4)[()]
        product = a * b
        a_high, b_high = (x * SPLITTER - (x * SPLITTER - x) for x in (a, b))
        a_low, b_low = a - a_high, b - b_high
        product_error = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
        total = product + c
        back = total - product
        return total + (product_error + ((product - (total - back)) + (c - back)))

    def divide(self, a, b):
        """(quotient toward zero, remainder) of integers."""
        a, b = np.asarray(a), np.asarray(b)
        if (b == 0).any():
            self.issue("integer division by zero")
            b = np.where(b == 0, 1, b).astype(b.dtype)
        if a.dtype.kind == "u":
            return (a // b)[()], (a % b)[()]
        quotient = np.abs(a) // np.abs(b)
        quotient = np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)
        return quotient[()], (a - quotient * b)[()]

    @staticmethod
    def shift(a, by, sign: str):
        """Shifts by as many bits as there are, or more, leave nothing but a sign."""
        bits = 8 * a.dtype.itemsize
        inside, amount = by < bits, np.minimum(by, bits - 1).astype(a.dtype)
        shifted = a << amount if sign == "<<" else a >> amount
        return shifted if sign == ">>" and a.dtype.kind == "i" else np.where(inside, shifted, a.dtype.type(0))[()]

    @staticmethod
    def prmt(a, b, c):
        a, b, c = np.broadcast_arrays(a, b, c)
        both = a.astype(u8) | b.astype(u8) << np.uint64(32)
        result = np.zeros(a.shape, u4)
        for i in range(4):
            control = c >> np.uint32(4 * i) & np.uint32(15)
            byte = (both >> ((control & np.uint32(7)) * np.uint32(8)).astype(u8)).astype("u1")
            if (control & np.uint32(8)).any():
                sign = (byte.view("i1") >> np.int8(7)).view("u1")
                byte = np.where(control & np.uint32(8), sign, byte)
            result |= byte.astype(u4) << np.uint32(8 * i)
        return result[()]

    # tensor cores

    def _warps(self, words, idx, kind: np.dtype) -> np.ndarray:
        """(warps, lane's numbers) of ``words`` for whole warps."""
        lanes = self.lanes_of(idx)
        by_warp = self.warp[lanes]
        if self.threads % WARP or len(lanes) % WARP or (by_warp.reshape(-1, WARP) != by_warp[::WARP, None]).any():
            raise PtxError(f"{self.kernel.name} line {self.line}: mma with part of a warp")
        table = np.empty((len(lanes), len(words)), kind)
        for i, word in enumerate(words):
            table[:, i] = word
        return table

    def fragment_a(self, *words_and_idx):
        *words, idx = words_and_idx
        return self._warps(words, idx, u4).view(f2).reshape(-1, 256)[:, TAKE_A].astype(f8).reshape(-1, 16, 16)

    def fragment_b(self, *words_and_idx):
        *words, idx = words_and_idx
        return self._warps(words, idx, u4).view(f2).reshape(-1, 128)[:, TAKE_B].astype(f8).reshape(-1, 16, 8)

    def pack_c(self, *values_and_idx):
        *values, idx = values_and_idx
        return self._warps(values, idx, f4).reshape(-1, 128)[:, TAKE_C].reshape(-1, 16, 8)

    def mma(self, a, b, c, idx):
        exact = np.matmul(a, b) + c
        rounded = exact.astype(f4)
        if self.truncating:
            over = np.abs(rounded.astype(f8)) > np.abs(exact)
            rounded = np.where(over, np.nextafter(rounded, np.float32(0)), rounded)
        return rounded

    @staticmethod
    def unpack_d(d):
        flat = d.reshape(len(d), 128)
        return tuple(flat[:, place].reshape(-1) for place in PUT_C)

    # memory

    def load_global(self, address, kind: str, count: int, idx):
        size = np.dtype(kind).itemsize
        at = self.memory.offsets(address, size * count, self.fail)
        self.memory.note_read(at, size * count, self.launches, self.thread[self.lanes_of(idx)], self.issue)
        first = (at // np.uint64(size)).astype(i8)
        return [self.memory.views[kind][first + i] for i in range(count)]

    def store_global(self, address, values, kind: str, idx):
        size, threads = np.dtype(kind).itemsize, self.thread[self.lanes_of(idx)]
        at = self.memory.offsets(address, size * len(values), self.fail)
        at = np.broadcast_to(at, threads.shape)
        first = (at // np.uint64(size)).astype(i8)
        for i, value in enumerate(values):
            self.memory.views[kind][first + i] = value
        self.memory.note_write(at, size * len(values), self.launches, threads, self.issue)

    def load_shared(self, address, kind: str, count: int, idx):
        size, lanes = np.dtype(kind).itemsize, self.lanes_of(idx)
        at = self.shared.offsets(address, size * count, lanes, self.fail)
        self.shared.note_read(at, size * count, lanes, self.issue)
        return [self.shared.views[kind][at // size + i] for i in range(count)]

    def store_shared(self, address, values, kind: str, idx):
        size, lanes = np.dtype(kind).itemsize, self.lanes_of(idx)
        at = self.shared.offsets(address, size * len(values), lanes, self.fail)
        self.shared.note_write(at, size * len(values), lanes, self.issue)
        for i, value in enumerate(values):
            self.shared.views[kind][at // size + i] = value

    def copy_async(self, target, source, size: int, idx):
        """What was read arrives when its thread waits; until then the target holds poison."""
        lanes = self.lanes_of(idx)
        at = self.shared.offsets(target, size, lanes, self.fail)
        source = np.broadcast_to(self.memory.offsets(source, size, self.fail), lanes.shape)
        self.memory.note_read(source, size, self.launches, self.thread[lanes], self.issue)
        self.shared.note_write(at, size, lanes, self.issue, "starts")
        words = (at >> 2)[:, None] + np.arange(size // 4)
        self.shared.views["<u4"][words] = POISONED_COPY
        data = self.memory.views["<u4"][(source.astype(i8) >> 2)[:, None] + np.arange(size // 4)]
        self.copies.append({"lanes": lanes, "at": at, "data": data})

    def wait_copies(self, idx):
        mine = np.zeros(len(self.lanes), bool)
        mine[self.lanes_of(idx)] = True
        left = []
        for copy in self.copies:
            done = mine[copy["lanes"]]
            at, data = copy["at"][done], copy["data"][done]
            if len(at):
                size = 4 * data.shape[1]
                self.shared.note_write(at, size, copy["lanes"][done], self.issue, "ends")
                self.shared.views["<u4"][(at >> 2)[:, None] + np.arange(size // 4)] = data
            if not done.all():
                left.append({name: value[~done] for name, value in copy.items()})
        self.copies = left
