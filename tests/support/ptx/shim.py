"""Stands where numba's driver stands: device arrays, streams and launches on a :class:`~.machine.Machine`."""

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
from numba import cuda
from numba.cuda import dispatcher, types
from numba.cuda.np.numpy_support import from_dtype

from gpu_reml.validation.cuda_compile import compile_ptx

from .machine import Machine
from .memory import BASE, Memory
from .program import Kernel, PtxError

HOPPER = (9, 0, "a")


class DeviceArray:
    """What a numba device array is to the launchers: C-contiguous memory of a :class:`~.memory.Memory`."""

    def __init__(self, memory: Memory, address: int, shape, dtype):
        self.memory, self.address, self.dtype = memory, address, np.dtype(dtype)
        self.shape = (int(shape),) if np.ndim(shape) == 0 else tuple(map(int, shape))

    size = property(lambda self: int(np.prod(self.shape, dtype=np.int64)))
    nbytes = property(lambda self: self.size * self.dtype.itemsize)
    ndim = property(lambda self: len(self.shape))

    def __len__(self):
        return self.shape[0]

    def _part(self, shape, dtype=None, skipped: int = 0):
        return DeviceArray(self.memory, self.address + skipped, shape, dtype or self.dtype)

    def reshape(self, *shape):
        shape = shape[0] if isinstance(shape[0], tuple) else shape
        if int(np.prod(shape, dtype=np.int64)) != self.size:
            raise ValueError(f"reshape of {self.shape} to {shape}")
        return self._part(shape)

    def view(self, dtype):
        dtype = np.dtype(dtype)
        if self.ndim != 1 or self.nbytes % dtype.itemsize:
            raise ValueError(f"view of {self.shape} {self.dtype} as {dtype}")
        return self._part(self.nbytes // dtype.itemsize, dtype)

    def __getitem__(self, key):
        if isinstance(key, tuple):
            return Strided(self, key)
        if not isinstance(key, slice) or key.step not in (None, 1):
            raise IndexError(f"slices of rows are modelled, found {key}")
        start, stop, _ = key.indices(len(self))
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        return self._part((max(0, stop - start), *self.shape[1:]), None, start * row)

    @property
    def place(self) -> slice:
        first = self.address - BASE
        return slice(first, first + self.nbytes)

    def copy_to_device(self, host, stream=0):
        if isinstance(host, DeviceArray):
            host = host.copy_to_host()
        if host.shape != self.shape or host.dtype != self.dtype:
            raise ValueError(f"copy of {host.shape} {host.dtype} to {self.shape} {self.dtype}")

        def copy():  # reads the host when its turn comes, as a device does
            self.memory.bytes[self.place] = np.ascontiguousarray(host).reshape(-1).view(np.uint8)
            self.memory.written[self.place] = 1

        stream.enqueue(copy) if isinstance(stream, Stream) else copy()

    def copy_to_host(self, ary=None, stream=0):
        found = self.memory.bytes[self.place].copy().view(self.dtype).reshape(self.shape)
        if ary is None:
            return found
        ary[...] = found
        return ary


class Strided:
    """Part of an array that is not contiguous: it has a shape, and no kernel here takes it."""

    def __init__(self, array: DeviceArray, key: tuple):
        part = np.empty(array.shape, "?")[key]
        self.shape, self.size = part.shape, part.size


class Stream:
    """A ``late`` one does nothing before somebody waits for it."""

    def __init__(self, late: bool):
        self.late, self.queue = late, []

    def enqueue(self, task):
        if self.late:
            self.queue.append(task)
        else:
            task()

    def synchronize(self):
        while self.queue:
            self.queue.pop(0)()


class Event:
    def record(self, stream):
        self.stream, self.tasks = stream, list(stream.queue)

    def synchronize(self):
        for task in self.tasks:
            if task in self.stream.queue:
                self.stream.queue.remove(task)
                task()

    def wait(self, stream):
        self.synchronize()


class Cuda:
    """The parts of ``numba.cuda`` that a device is made of; every second stream, the one of copies, is late."""

    def __init__(self, emulator: "Emulator"):
        self._emulator, self._streams = emulator, 0
        self.gpus = [nullcontext()]

    def get_current_device(self):
        return SimpleNamespace(compute_capability=HOPPER[:2])

    def current_context(self):
        memory = SimpleNamespace(free=10**10, total=10**10)
        return SimpleNamespace(
            get_memory_info=lambda: (memory.free, memory.total), deallocations=SimpleNamespace(clear=lambda: None)
        )

    def stream(self):
        self._streams += 1
        return Stream(late=self._streams % 2 == 0)

    def event(self):
        return Event()

    def device_array(self, shape, dtype):
        return self._emulator.array(shape, dtype)

    def pinned_array(self, shape, dtype):
        return np.full(shape, 0xFF, dtype)

    def to_device(self, host, **_):
        array = self._emulator.array(np.shape(host), np.asarray(host).dtype)
        array.copy_to_device(np.asarray(host))
        return array

    def synchronize(self):
        pass


def numba_type(value):
    """The type that numba gives a kernel's argument."""
    if isinstance(value, DeviceArray):
        return types.Array(from_dtype(value.dtype), value.ndim, "C")
    if isinstance(value, tuple):
        return types.UniTuple(numba_type(value[0]), len(value))
    if isinstance(value, np.generic):
        return from_dtype(value.dtype)
    for kind, found in ((bool, types.boolean), (int, types.int64), (float, types.float64)):
        if isinstance(value, kind):
            return found
    raise TypeError(f"kernel argument {value!r}")


def words_of(value) -> list[bytes]:
    """A kernel's argument as numba-cuda flattens it."""
    if isinstance(value, DeviceArray):
        item = value.dtype.itemsize
        strides = [item * int(np.prod(value.shape[i + 1 :], dtype=np.int64)) for i in range(value.ndim)]
        head = (0, 0, value.size, item, value.address)
        return [np.int64(word).tobytes() for word in (*head, *value.shape, *strides)]
    if isinstance(value, tuple):
        return [word for each in value for word in words_of(each)]
    if isinstance(value, bool | np.bool_):
        return [np.uint8(value).tobytes()]
    return [np.asarray(value).tobytes()]


def packed_arguments(values) -> bytes:
    """All arguments, each aligned to its size."""
    packed = b""
    for word in (word for value in values for word in words_of(value)):
        packed += b"\0" * (-len(packed) % len(word)) + word
    return packed


class Emulator:
    """A device: memory, a machine, and kernels compiled as on a Hopper device but for the driver.

    ``change(name, ptx) -> ptx``: a mutation of the code.  ``kernels`` may be shared by several.
    """

    def __init__(self, schedule="lockstep", truncating=False, kernels: dict | None = None, change=None):
        self.memory = Memory()
        self.machine = Machine(self.memory, schedule, truncating)
        self.kernels = {} if kernels is None else kernels
        self.change, self.launched = change, Counter()

    def array(self, shape, dtype) -> DeviceArray:
        """Poisoned memory that nobody has written."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return DeviceArray(self.memory, self.memory.allocate(size), shape, dtype)

    def kernel(self, jitted, kinds: tuple) -> Kernel:
        key = jitted, kinds
        if key not in self.kernels:
            self.kernels[key] = Kernel(compile_ptx(jitted, kinds, HOPPER), jitted.py_func.__name__)
        kernel = self.kernels[key]
        changed = self.change(kernel.name, kernel.text) if self.change else kernel.text
        return kernel if changed == kernel.text else Kernel(changed, kernel.name)

    def launch(self, jitted, grid, block, arguments) -> None:
        if not isinstance(block, int | tuple) or block == ():
            raise PtxError(f"block of {block!r} threads")
        kernel = self.kernel(jitted, tuple(map(numba_type, arguments)))
        self.machine.launch(kernel, grid, block, packed_arguments(arguments))
        self.launched[jitted.py_func.__name__] += 1

    def install(self, monkeypatch, *modules) -> None:
        """Launches of all kernels run here, and so do copies; ``cuda`` of the modules is this device's."""

        def configured(jitted, configuration):
            grid, block = configuration[:2]
            return lambda *arguments: self.launch(jitted, grid, block, arguments)

        monkeypatch.setattr(dispatcher.CUDADispatcher, "__getitem__", configured)
        shim = Cuda(self)
        monkeypatch.setattr(cuda, "to_device", shim.to_device)
        for module in modules:
            monkeypatch.setattr(module, "cuda", shim)
