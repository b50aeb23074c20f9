"""Stands where numba's driver stands: device arrays, streams and launches on a :class:`~.machine.Machine`."""

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
from numba import cuda
from numba.cuda import dispatcher, types
from numba.cuda.np.numpy_support import from_dtype
from numba.cuda.typing.typeof import typeof

from gpu_reml.validation.cuda_compile import compile_ptx

from .machine import Machine
from .memory import GlobalMemory
from .program import Kernel
from .semantics import PtxError

HOPPER = (9, 0, "a")


class DeviceArray:
    """What a numba device array is to the launchers: a part of a :class:`~.memory.GlobalMemory`, as NumPy sees it."""

    def __init__(self, memory: GlobalMemory, host: np.ndarray):
        self.memory, self.host = memory, host
        self.shape, self.dtype, self.size, self.nbytes = host.shape, host.dtype, host.size, host.nbytes
        self.ndim = host.ndim

    @property
    def _numba_type_(self):
        if not self.host.flags.c_contiguous:
            raise ValueError("kernels take C-contiguous arrays")
        return types.Array(from_dtype(self.dtype), self.ndim, "C")

    def __len__(self):
        return len(self.host)

    def __getitem__(self, key):
        return DeviceArray(self.memory, self.host[key])

    def reshape(self, *shape):
        return DeviceArray(self.memory, self.host.reshape(*shape))

    def view(self, dtype):
        return DeviceArray(self.memory, self.host.view(dtype))

    def copy_to_device(self, host, stream=0):
        host = host.host if isinstance(host, DeviceArray) else host
        if host.shape != self.shape or host.dtype != self.dtype or not self.host.flags.c_contiguous:
            raise ValueError(f"copy of {host.shape} {host.dtype} to {self.shape} {self.dtype}")

        def copy():  # reads the host when its turn comes, as a device does
            self.host[...] = host
            self.memory.set_written(self.host)

        stream.enqueue(copy) if isinstance(stream, Stream) else copy()

    def copy_to_host(self, ary=None, stream=0):
        if ary is None:
            return self.host.copy()
        ary[...] = self.host
        return ary


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


def words_of(value) -> list[np.generic]:
    """A kernel's argument as numba-cuda flattens it."""
    if isinstance(value, DeviceArray):
        head = (0, 0, value.size, value.dtype.itemsize, value.memory.address(value.host))
        return [np.int64(word) for word in (*head, *value.shape, *value.host.strides)]
    if isinstance(value, tuple):
        return [word for each in value for word in words_of(each)]
    return [np.uint8(value) if isinstance(value, bool | np.bool_) else np.asarray(value)[()]]


def packed_arguments(values) -> bytes:
    """All arguments, each aligned to its size."""
    packed = b""
    for word in words_of(tuple(values)):
        packed += b"\0" * (-len(packed) % word.nbytes) + word.tobytes()
    return packed


class Emulator:
    """A device: memory, a machine, and kernels compiled as on a Hopper device but for the driver.

    ``change(name, ptx) -> ptx``: a mutation of the code.  ``kernels`` may be shared by several.
    """

    def __init__(self, schedule="lockstep", kernels: dict | None = None, change=None):
        self.memory = GlobalMemory()
        self.machine = Machine(self.memory, schedule)
        self.kernels = {} if kernels is None else kernels
        self.change, self.launched = change, Counter()

    def array(self, shape, dtype) -> DeviceArray:
        """Poisoned memory that nobody has written."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return DeviceArray(self.memory, self.memory.allocate(size).view(dtype).reshape(shape))

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
        kernel = self.kernel(jitted, tuple(map(typeof, arguments)))
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
