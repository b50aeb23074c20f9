"""Run the tensor-core kernels on a CPU: the same source, with NumPy in the place of a device.

numba's simulator runs one Python thread a CUDA thread and knows no inline PTX.  Here a value is a vector over the lanes
of a warp and the blocks of a grid, so the plain Python body of a kernel runs once for each warp of a block, and the
register algorithms of :func:`gpu_reml.ops.cuda.intrinsics.traced` run with :class:`NumpyInstructions`.

The emulator is strict where a device is fickle.  Shared memory starts poisoned (NaN); what is copied asynchronously is
poison until the copying warp has waited; one warp runs to its next barrier before another starts, so a missing barrier
shows; indices and the alignment of vector accesses are checked.  What it cannot show is a race inside one warp.

It asks of a kernel that branches and loops are the same for all lanes of a warp and all blocks along x.
"""

import threading
import types as python_types
from dataclasses import dataclass, field
from functools import partial

import numpy as np

LANES = np.arange(32)
_NIBBLES = np.array([0, 4, 8, 12], np.uint32)
POISON = 0xFF  # every byte: NaN as fp16 and as float32


def poisoned(shape, dtype) -> np.ndarray:
    """An array that nobody has written to."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[:] = POISON
    return array


def round_to_nearest(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def round_toward_zero(values: np.ndarray) -> np.ndarray:
    nearest = values.astype(np.float32)
    return np.where(np.abs(nearest.astype(np.float64)) > np.abs(values), np.nextafter(nearest, np.float32(0)), nearest)


@dataclass
class Emulator:
    """Stands in for :func:`gpu_reml.ops.cuda.launch.launch`; device arrays are NumPy arrays.

    ``rounding``: of the accumulator after each mma.  ``reverse``: run the last warp of a block first.
    """

    rounding: object = round_to_nearest
    reverse: bool = False
    launched: list = field(default_factory=list)

    def __call__(self, kernel, grid, block: int, stream, *arguments) -> None:
        name = kernel.py_func.__name__
        if block % 32 or not 0 < block <= 1024 or not (0 < grid[0] < 2**31 and 0 < grid[1] < 2**16):
            raise ValueError(f"{name}: impossible launch of {grid} blocks of {block} threads")
        self.launched.append((name, grid))
        arguments = [_Memory(a) if isinstance(a, np.ndarray) else a for a in arguments]
        for y in range(grid[1]):
            blocks = _Blocks(grid, y, block // 32)
            bodies = [self._body(kernel.py_func, blocks, warp) for warp in range(block // 32)]
            turns = _Turns([partial(body, *arguments) for body in bodies])
            blocks.barrier = turns.barrier
            turns.run(self.reverse)

    def _body(self, function, blocks: "_Blocks", warp: int):
        """``function`` with its globals replaced by their stand-ins for one warp of every block."""
        instructions = NumpyInstructions(blocks.count, self.rounding)
        names = {**function.__globals__, **_STAND_INS, "cuda": _cuda_module(blocks, warp)}
        for name, value in function.__globals__.items():
            if hasattr(value, "algorithm"):
                names[name] = lambda *arguments, f=value.algorithm: f(instructions, *arguments)
        code = function.__code__
        return python_types.FunctionType(code, names, function.__name__, None, function.__closure__)


class _Blocks:
    """The blocks of a grid with one y: their shared arrays, and the barrier."""

    def __init__(self, grid, y: int, num_warps: int):
        self.grid, self.y, self.count, self.num_warps = grid, y, grid[0], num_warps
        self.shared = {}
        self.barrier = None

    def shared_array(self, key: int, size: int, dtype) -> "_Shared":
        if key not in self.shared:
            self.shared[key] = _Shared(poisoned((self.count, size), np.dtype(str(dtype))))
        return self.shared[key]


def _cuda_module(blocks: _Blocks, warp: int):
    declared = iter(range(100))  # a shared array is known by the order of its declaration

    def array(size, dtype, alignment=None):
        return blocks.shared_array(next(declared), size, dtype)

    space = python_types.SimpleNamespace
    return space(
        threadIdx=space(x=32 * warp + LANES),
        blockIdx=space(x=np.arange(blocks.count)[:, None], y=blocks.y),
        blockDim=space(x=32 * blocks.num_warps),
        shared=space(array=array),
        syncthreads=lambda: blocks.barrier(),
    )


class _Abandoned(BaseException):
    """Ends the warps that are left when one has failed."""


class _Turns:
    """Bodies that run one at a time, each to its next barrier; every body has a thread that waits for its turn."""

    def __init__(self, bodies):
        self._bodies = bodies
        self._ours = threading.Semaphore(0)
        self._theirs = [threading.Semaphore(0) for _ in bodies]
        self._current = None
        self._ended, self._failure = set(), None

    def barrier(self) -> None:
        """Called by a body: give the turn back, and go on when it comes round again."""
        warp = self._current
        self._ours.release()
        self._theirs[warp].acquire()
        if self._failure:
            raise _Abandoned

    def run(self, reverse: bool) -> None:
        order = range(len(self._bodies))[:: -1 if reverse else 1]
        threads = [threading.Thread(target=self._run_body, args=(warp,)) for warp in order]
        for thread in threads:
            thread.start()
        while len(self._ended) < len(threads):
            if self._ended and not self._failure:
                self._failure = RuntimeError("some warps of a block wait at a barrier, others have ended")
            for warp in [warp for warp in order if warp not in self._ended]:
                self._current = warp
                self._theirs[warp].release()
                self._ours.acquire()
        for thread in threads:
            thread.join()
        if self._failure:
            raise self._failure

    def _run_body(self, warp: int) -> None:
        self._theirs[warp].acquire()
        try:
            if not self._failure:
                self._bodies[warp]()
        except _Abandoned:
            pass
        except BaseException as failure:
            self._failure = failure
        self._ended.add(warp)
        self._ours.release()


class _Memory:
    """A device array: checked element access with vectors of indices."""

    def __init__(self, array: np.ndarray):
        if not array.flags.c_contiguous:
            raise ValueError("device arrays are C-contiguous")
        self.array = array
        self.shape, self.size = array.shape, array.size

    def __len__(self):
        return self.shape[0]

    def _checked(self, index):
        index = index if isinstance(index, tuple) else (index,)
        for i, length in zip(index, self.shape, strict=True):
            if np.min(i) < 0 or np.max(i) >= length:
                raise IndexError(f"index {np.min(i)}..{np.max(i)} of {length}")
        return index

    def __getitem__(self, index):
        return self.array[self._checked(index)]

    def __setitem__(self, index, value):
        self.array[self._checked(index)] = value

    def words(self, position, count: int, inside=True):
        """``count`` words from ``position`` on, aligned to their total size; whatever is first where not ``inside``."""
        index = position[0] if len(position) == 1 else position[0] * self.shape[1] + position[1]
        byte = np.asarray(index) * self.array.itemsize
        if np.any(byte % (4 * count)):
            raise ValueError(f"access of {4 * count} bytes is not aligned")
        flat = self.array.reshape(-1).view(np.uint32)
        word = np.where(inside, byte // 4, 0)
        if np.min(word) < 0 or np.max(word) + count > len(flat):
            raise IndexError(f"word {np.min(word)}..{np.max(word)} of {len(flat)}")
        return [flat[word + i] for i in range(count)]


class _Shared:
    """A shared array of every block (blocks, words)."""

    def __init__(self, words: np.ndarray):
        self.words = words

    def _place(self, index, count: int):
        if np.any(index % count):
            raise ValueError(f"shared access of {4 * count} bytes is not aligned")
        if np.min(index) < 0 or np.max(index) + count > self.words.shape[1]:
            raise IndexError(f"shared word {np.min(index)}..{np.max(index)} of {self.words.shape[1]}")
        index = np.broadcast_to(index, (len(self.words), 32))
        return np.arange(len(self.words))[:, None], index

    def load(self, index, count: int):
        block, index = self._place(index, count)
        return [self.words[block, index + i] for i in range(count)]

    def store(self, index, values, inside):
        block, index = self._place(np.where(inside, index, 0), len(values))
        inside = np.broadcast_to(inside, index.shape)
        block = np.broadcast_to(block, index.shape)
        for i, value in enumerate(values):
            self.words[block[inside], index[inside] + i] = np.broadcast_to(value, index.shape)[inside]


class NumpyInstructions:
    """The instruction set of register algorithms over vectors (blocks, 32); see the LLVM one for their meaning."""

    def __init__(self, num_blocks: int, rounding):
        self._shape, self._rounding = (num_blocks, 32), rounding
        self._first_bytes = 8 * np.arange(32 * num_blocks).reshape(num_blocks, 32, 1)
        self._copies, self._fragments = [], {}

    def shift_right(self, word, bits):
        return np.asarray(word, np.uint32) >> np.asarray(bits, np.uint32)

    def mask(self, word, bits):
        return word & np.uint32(bits)

    def multiply_add(self, word, factor, addend):
        return ((np.asarray(word, np.uint64) * factor + addend) % 2**32).astype(np.uint32)

    def permute(self, low, high, selector):
        table = np.empty((*self._shape, 2), np.uint32)
        table[..., 0], table[..., 1] = low, high
        nibbles = np.asarray(selector, np.uint32)[..., None] >> _NIBBLES & np.uint32(15)
        if nibbles.max() > 7:
            raise ValueError("prmt selector with a sign bit")
        chosen = table.view(np.uint8).reshape(-1)[self._first_bytes + nibbles]
        return chosen.view(np.uint32)[..., 0]

    def short(self, index):
        if np.min(index) < 0 or np.max(index) >= 2**31:
            raise OverflowError("index does not fit 31 bits")
        return index

    def plus(self, index, other):
        return index + other

    def times(self, index, factor):
        return index * factor

    def smaller(self, a, b):
        return np.minimum(a, b)

    def below(self, index, limit):
        return np.less(index, limit)

    def true(self):
        return True

    def both(self, a, b):
        return np.logical_and(a, b)

    def number(self, value):
        return np.float32(value)

    def add(self, a, b):
        return a + b

    def subtract(self, a, b):
        return a - b

    def multiply(self, a, b):
        return a * b

    def select(self, condition, a, b):
        return np.where(condition, a, b)

    def bits_of_float(self, value):
        return np.ascontiguousarray(value, np.float32).view(np.uint32)

    def float_of_bits(self, word):
        return np.ascontiguousarray(word, np.uint32).view(np.float32)

    def round_to_half(self, value):
        return np.asarray(value, np.float32).astype(np.float16)

    def float_of_half(self, half):
        return half.astype(np.float32)

    def pack_halves(self, low, high):
        return low.view(np.uint16).astype(np.uint32) | high.view(np.uint16).astype(np.uint32) << np.uint32(16)

    def mma(self, a, b, c):
        # PTX ISA, matrix fragments for mma.m16n8k16: row g + 8 (r % 2), column 2 q + e + 8 (r // 2) of A, row
        # 2 q + e + 8 r, column g of B and row g + 8 (r // 2), column 2 q + r % 2 of C are in register r of lane 4 g + q
        A = self._halves(a).reshape(2, 2, -1, 8, 4, 2).transpose(2, 1, 3, 0, 4, 5).reshape(-1, 16, 16)
        B = self._halves(b).reshape(2, -1, 8, 4, 2).transpose(1, 0, 3, 4, 2).reshape(-1, 16, 8)
        C = np.stack([np.broadcast_to(x, self._shape) for x in c]).astype(np.float64)
        C = C.reshape(2, 2, -1, 8, 4).transpose(2, 0, 3, 4, 1).reshape(-1, 16, 8)
        D = self._rounding(A @ B + C).reshape(-1, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3)
        return list(D.reshape(4, *self._shape))

    def _halves(self, registers):
        """(registers, blocks, 32, 2) halves of fragment registers; most fragments are used several times in a row."""
        known = self._fragments.get(id(registers))
        if known is None or known[0] is not registers:
            words = np.stack([np.broadcast_to(word, self._shape) for word in registers])
            known = registers, np.ascontiguousarray(words, np.uint32).view(np.float16).astype(np.float64)
            if len(self._fragments) >= 32:
                self._fragments.clear()
            self._fragments[id(registers)] = known
        return known[1]

    def load_shared(self, shared, index, offset, count):
        return shared.load(index + offset, count)

    def load_words(self, array, row, column, count):
        return array.words((row, column), count)

    stream_words = load_words

    def load_float(self, array, row, column):
        return array[row, column]

    def load_index(self, array, position):
        return array[position].astype(np.int64)

    def store_if(self, inside, array, row, column, value):
        inside, row, column, value = np.broadcast_arrays(inside, row, column, value)
        if inside.any():
            array[row[inside], column[inside]] = value[inside]

    def add_to_if(self, inside, array, row, column, value):
        inside, row, column, value = np.broadcast_arrays(inside, row, column, value)
        if inside.any():
            place = row[inside], column[inside]
            array[place] = array[place] + value[inside]

    def copy_async(self, inside, shared, index, source, size):
        array, *position = source
        values = array.words(tuple(position), size // 4, inside)
        shared.store(index, [np.uint32(2**32 - 1)] * (size // 4), inside)
        self._copies.append((shared, index, values, inside))

    def wait_async(self):
        for shared, index, values, inside in self._copies:
            shared.store(index, values, inside)
        self._copies.clear()


class _Type:
    """A numba type as a kernel uses it: to convert a value, or to name the type of an array."""

    def __init__(self, name: str):
        self._name = name

    def __call__(self, value):
        return np.asarray(value).astype(self._name) if np.ndim(value) else np.dtype(self._name).type(value)

    def __str__(self):
        return self._name


def _elementwise(vector_function, scalar_function):
    def apply(*values):
        return vector_function(*values) if any(map(np.ndim, values)) else scalar_function(*values)

    return apply


_STAND_INS = {
    "min": _elementwise(np.fmin, min),
    "max": _elementwise(np.fmax, max),
    **{name: _Type(name) for name in ("int32", "int64", "uint32", "float32", "float64")},
}
