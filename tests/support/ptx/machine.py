"""Runs launches of a :class:`~.program.Kernel`: the threads of many blocks at once, in groups by where they are.

Groups go in order of their block of code, the least first, and join where they meet.  ``issues`` counts, by kernel and
line, races, reads of what nobody wrote, barriers that not all threads reach, copies in flight at the end, and words of
one bank of shared memory that are read at once.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from .memory import IN_FLIGHT, POISON, GlobalMemory, SharedMemory
from .semantics import F4, I1, I4, U1, U4, PtxError

WARP, BATCH = 32, 4096  # threads of a warp, and of the blocks that run together
POISONED_COPY = np.uint32(0xFFFFFFFF)

# Schedules: the warps of a block all together, or one at a time to its next barrier, in an order for every such turn.
SCHEDULES = {
    "lockstep": None,
    "reverse": lambda warps, turn: range(warps)[::-1],
    "shuffled": lambda warps, turn: np.random.default_rng(turn).permutation(warps) if turn else range(warps)[::-1],
}

# Where a lane's numbers belong in the matrices of mma.m16n8k32 (PTX ISA 9.7.14.5.11): row g + 8 (r % 2), column
# 4 q + e + 16 (r // 2) of A, and row 4 q + e + 16 r, column g of B are byte e of register r of lane 4 g + q; row
# g + 8 (r // 2), column 2 q + r % 2 of C is register r.
G, Q = np.arange(WARP)[:, None] // 4, np.arange(WARP)[:, None] % 4
E, R = np.arange(16) % 4, np.arange(16) // 4


def taken(rows, columns, width: int) -> np.ndarray:
    """For every entry of a matrix, in order, which of the warp's numbers it is."""
    return np.argsort((rows * width + columns).ravel())


TAKE_A = taken(G + 8 * (R % 2), 4 * Q + E + 16 * (R // 2), 32)
TAKE_B = taken(4 * Q + E[:8] + 16 * R[:8], G + 0 * R[:8], 8)
TAKE_C = taken(G + 8 * (E[:4] // 2), 2 * Q + E[:4] % 2, 8)
PUT_C = np.argsort(TAKE_C).reshape(WARP, 4).T


class Part(NamedTuple):
    """A register of a result of mma that no other instruction has looked into yet."""

    matrix: np.ndarray
    register: int

    def unpacked(self) -> np.ndarray:
        return self.matrix.reshape(-1, 128)[:, PUT_C[self.register]].reshape(-1)


class Machine:
    def __init__(self, memory: GlobalMemory, schedule: str = "lockstep"):
        self.memory, self.schedule = memory, SCHEDULES[schedule]
        self.issues, self.line = Counter(), 0

    # launches

    def launch(self, kernel, grid, block, arguments: bytes) -> None:
        grid, block = ((tuple(np.atleast_1d(x).tolist()) + (1, 1))[:3] for x in (grid, block))
        threads, num_blocks = int(np.prod(block)), int(np.prod(grid))
        possible = all(0 < size < most for size, most in zip(grid, (2**31, 2**16, 2**16), strict=True))
        if not possible or not 0 < threads <= kernel.most_threads:
            raise PtxError(f"{kernel.name}: impossible launch of {grid} blocks of {block} threads")
        if len(arguments) != kernel.parameter_bytes:
            raise PtxError(f"{kernel.name}: {len(arguments)} bytes of arguments for {kernel.parameter_bytes}")
        self.kernel, self.arguments, self.threads = kernel, arguments, threads
        self.memory.epoch += 1
        together = max(1, BATCH // threads)
        batches = [np.arange(i, min(i + together, num_blocks)) for i in range(0, num_blocks, together)]
        try:
            with np.errstate(all="ignore"):
                for blocks in batches if self.schedule is None else batches[::-1]:
                    self._number(blocks, grid, block)
                    self._run(len(blocks))
        except PtxError as error:
            raise PtxError(f"{kernel.name} near line {self.line}: {error}") from None

    def _number(self, blocks: np.ndarray, grid, block) -> None:
        """Give the threads of these blocks their numbers and their special registers."""
        self.all_lanes = np.arange(len(blocks) * self.threads)
        t, number = self.all_lanes % self.threads, blocks[self.all_lanes // self.threads]
        self.warp = self.all_lanes // self.threads * -(-self.threads // WARP) + t // WARP
        self.thread = (number * self.threads + t).astype("i4")  # only to tell threads apart
        self.ids = {"%laneid": t % WARP}
        for name, axes, at in (("tid", block, t), ("ctaid", grid, number)):
            indices = at % axes[0], at // axes[0] % axes[1], at // (axes[0] * axes[1])
            self.ids |= {f"%{name}.{axis}": index for axis, index in zip("xyz", indices, strict=True)}
            self.ids |= {f"%n{name}.{axis}": np.asarray(size) for axis, size in zip("xyz", axes, strict=True)}
        self.ids = {name: value.astype(U4) for name, value in self.ids.items()}

    def _run(self, num_blocks: int) -> None:
        """The blocks that have been numbered, to their end."""
        self.spaces = {"global": self.memory, "shared": SharedMemory(self.kernel.shared_bytes, num_blocks)}
        self.copies, self.registers = [], {}
        warps = -(-self.threads // WARP)
        units = [np.flatnonzero(self.warp % warps == w) for w in range(warps)] if self.schedule else [self.all_lanes]
        states = [{0: unit} for unit in units]
        turn = 0
        while any(states):
            arrived = np.full(len(self.all_lanes), -1)
            for u in self.schedule(warps, turn) if self.schedule else [0]:
                states[u] = self._run_to_barrier(states[u])
                for where, lanes in states[u].items():
                    arrived[lanes] = where
            self._check_barrier(arrived.reshape(-1, self.threads))
            self.spaces["shared"].epoch += 1
            turn += 1
        if self.copies:
            self.issue("copy in flight at the end")

    def _check_barrier(self, arrived: np.ndarray) -> None:
        waits = arrived >= 0
        if (waits.any(1) & ~waits.all(1)).any():
            self.issue("barrier that some threads of the block do not reach")
        if (arrived != arrived[:, :1]).any(1)[waits.all(1)].any():
            self.issue("threads of a block wait at different barriers")

    def _run_to_barrier(self, groups: dict) -> dict:
        """Run groups {block of code: threads} until all wait or have ended; those that wait, by where they go on."""
        waiting: dict = {}
        while groups:
            at = min(groups)
            lanes, block = groups.pop(at), self.kernel.blocks[at]
            condition = np.broadcast_to(self._run_block(block, lanes), lanes.shape)
            following = waiting if block.ending == "barrier" else groups
            if block.ending != "end":
                join(following, at + 1, lanes[~condition])
                join(following, block.target, lanes[condition])
        return waiting

    def _run_block(self, block, lanes: np.ndarray) -> np.ndarray:
        """A block of code for some threads; which of them branch."""
        self.lanes, self.all = lanes, len(lanes) == len(self.all_lanes)
        self.fragments: dict = {}
        self.env = {register: self._get(register) for register in block.live}
        for self.line, step in block.steps:
            step(self)
        for register in block.kept:
            self._put(register)
        return block.condition(self)

    # registers

    def _get(self, register: str):
        if register not in self.registers:
            raise PtxError(f"{register} is read before it is written")
        value = self.registers[register]
        if self.all:
            return value
        value = self.registers[register] = whole(value)
        return value if value.ndim == 0 else value[self.lanes]

    def _put(self, register: str) -> None:
        value = self.env[register]
        if not self.all:
            value, kept = whole(value), whole(self.registers.get(register))
            size = len(self.all_lanes)
            if kept is None:
                kept = np.full(size * value.dtype.itemsize, POISON, "u1").view(value.dtype)
            kept = np.full(size, kept) if kept.ndim == 0 else kept.copy()
            kept[self.lanes] = value
            value = kept
        self.registers[register] = value

    def value(self, register: str):
        found = self.env[register]
        if type(found) is Part:
            found = self.env[register] = found.unpacked()
        return found

    def special(self, name: str):
        value = self.ids[name]
        return value if self.all or value.ndim == 0 else value[self.lanes]

    # reports

    def issue(self, what: str) -> None:
        self.issues[what, self.kernel.name, self.line] += 1

    def check(self, right: np.ndarray, what: str) -> None:
        if not right.all():
            text = self.kernel.text.split("\n")[self.line - 1].strip()
            raise PtxError(f"{text} {what}; {int(np.sum(~right))} threads")

    # asynchronous copies: what was read arrives when its thread waits, and until then the target holds poison

    def start_copy(self, target, where, size: int) -> None:
        count = size // 4
        data = self.memory.load(where, U4, count, self.lanes, self)
        target = np.broadcast_to(target, self.lanes.shape)
        self.spaces["shared"].store(target, [POISONED_COPY] * count, U4, self.lanes, self, IN_FLIGHT)
        self.copies.append((self.lanes, target, np.stack(data, axis=1)))

    def wait_copies(self) -> None:
        shared, copies, self.copies = self.spaces["shared"], self.copies, []
        waits = np.zeros(len(self.all_lanes), bool)
        waits[self.lanes] = True
        for lanes, target, data in copies:
            done = waits[lanes]
            if done.any():
                shared.land(target[done], data[done], lanes[done], self)
            if not done.all():
                self.copies.append((lanes[~done], target[~done], data[~done]))

    # tensor cores

    def multiply(self, results: list[str], a: list, b: list, c) -> None:
        registers, sources = c
        parts = [self.env.get(register) for register in registers]
        first = parts[0]
        if all(type(p) is Part and p.matrix is first.matrix and p.register == r for r, p in enumerate(parts)):
            start = first.matrix
        else:
            start = self._by_warp([each(self) for each in sources], I4)[:, TAKE_C].reshape(-1, 16, 8)
        product = self._fragment(a, U1, TAKE_A, 32) @ self._fragment(b, I1, TAKE_B, 8)  # exact: below 2^24
        total = start + product.astype(I4)  # wraps, as the device's does
        self.env |= {register: Part(total, r) for r, register in enumerate(results)}

    def _fragment(self, words: list, kind: np.dtype, take: np.ndarray, width: int) -> np.ndarray:
        """(warps, rows, width) float32; most fragments are used several times in a block of code."""
        key = tuple(map(id, words))
        if key not in self.fragments:
            matrix = self._by_warp(words, U4).view(kind)[:, take].astype(F4).reshape(len(self.lanes) // WARP, -1, width)
            self.fragments[key] = matrix, words  # which stay, and so do their ids
        return self.fragments[key][0]

    def _by_warp(self, values: list, kind: np.dtype) -> np.ndarray:
        """(warps, 32 x registers) of whole warps."""
        warps = self.warp[self.lanes]
        if self.threads % WARP or len(warps) % WARP or (warps.reshape(-1, WARP) != warps[::WARP, None]).any():
            raise PtxError("mma with part of a warp")
        table = np.empty((len(warps), len(values)), kind)
        for i, value in enumerate(values):
            table[:, i] = value
        return table.reshape(-1, WARP * len(values))


def join(groups: dict, at: int, lanes: np.ndarray) -> None:
    if len(lanes):
        groups[at] = np.sort(np.concatenate([groups[at], lanes])) if at in groups else lanes


def whole(value):
    return value.unpacked() if type(value) is Part else value
