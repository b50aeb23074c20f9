"""One CUDA device for the device backend: memory, streams, and which kernels do what.

Two streams: kernels, and copies of packed genotypes.  Everything else is in order on the first.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import numpy as np
from numba import config, cuda

from ..device.interface import Array, Variants, WeightedRows
from ..device.pool import Pool
from ..weights import HeldBlocks
from . import algebra, portable, weights
from .driver import simulating
from .errors import CUDA_ERRORS, explained
from .kernels import make_kernels

config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a block of few columns fills few processors, and takes no time

TENSOR_CORES = (8, 0)  # first compute capability with the instructions that the tensor-core kernels use
PITCH = 64  # bytes: a tile of 256 samples
ROWS = 64  # variants that the tensor-core kernels read together


def on_device(method):
    """Run a method in the device's context, and say whose error it was."""

    @wraps(method)
    def call(self, *arguments):
        try:
            with self._context:
                return method(self, *arguments)
        except CUDA_ERRORS as error:
            raise explained(error, self.label) from error

    return call


class CudaDevice:
    """Implements :class:`~gpu_reml.ops.device.interface.Device`.

    index: among the devices this process sees.  limit: bytes that may be held.  kernels: "tensor", "portable", or
    "auto" (tensor cores from compute capability 8.0).
    """

    pitch_alignment, row_alignment = PITCH, ROWS

    def __init__(self, index: int = 0, limit: int | None = None, kernels: str = "auto"):
        gpu = cuda.gpus[index]
        self._context = gpu if len(cuda.gpus) > 1 else nullcontext()
        with gpu:
            device = cuda.get_current_device()
            self.compute_capability = tuple(device.compute_capability)
            self.label = f"cuda:{index}"
            self._stream, self._copies = cuda.stream(), cuda.stream()
        if kernels == "auto":
            kernels = "tensor" if self.compute_capability >= TENSOR_CORES and not simulating() else "portable"
        self.kernels = kernels
        self.pool = Pool(self._allocate, limit, self._trim)
        self._products = make_kernels(kernels, self.pool.array, self._stream)

    # memory

    @on_device
    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes."""
        free, total = cuda.current_context().get_memory_info()
        return int(free), int(total)

    @on_device
    def _allocate(self, num_bytes: int) -> Array:
        return cuda.device_array(num_bytes, np.uint8)

    @on_device
    def _trim(self) -> None:
        """Memory let go of goes back to the driver now, not when numba has gathered enough of it."""
        if not simulating():
            cuda.current_context().deallocations.clear()

    @on_device
    def upload(self, host: np.ndarray) -> Array:
        array = self.pool.array(host.shape, host.dtype)
        if host.size:
            array.copy_to_device(np.ascontiguousarray(host), stream=self._stream)
        return array

    @on_device
    def download(self, array: Array) -> np.ndarray:
        host = array.copy_to_host(stream=self._stream)
        self._stream.synchronize()
        return host

    @on_device
    def fill(self, array: Array, value: float) -> None:
        algebra.launch_fill(array, value, self._stream)

    @on_device
    def pinned(self, num_bytes: int) -> np.ndarray:
        return cuda.pinned_array(num_bytes, np.uint8)

    @on_device
    def copy_in(self, pinned: np.ndarray, array: Array, after) -> Any:
        """Enqueue a copy on the copies' stream, once ``after`` is done."""
        if after is not None:
            after.wait(self._copies)
        array.copy_to_device(pinned, stream=self._copies)
        return self._recorded(self._copies)

    @on_device
    def mark(self) -> Any:
        """All kernels enqueued so far."""
        return self._recorded(self._stream)

    def _recorded(self, stream):
        event = cuda.event()
        event.record(stream)
        return event

    @on_device
    def wait(self, token) -> None:
        """Kernels enqueued from now on wait for it."""
        if token is not None:
            token.wait(self._stream)

    @on_device
    def host_wait(self, token) -> None:
        if token is not None:
            token.synchronize()

    @on_device
    def synchronize(self) -> None:
        self._stream.synchronize()
        self._copies.synchronize()

    def run(self, task: Callable[[], Any]) -> Any:
        """A task in a thread of its own: the device is that thread's."""
        with self._context:
            return task()

    # block algebra

    @on_device
    def combine(self, A: Array, a: np.ndarray, B: Array | None, b: np.ndarray | None, out: Array) -> None:
        b = None if b is None else self.upload(b)
        algebra.launch_combine(A, self.upload(a), B, b, out, self._stream)

    @on_device
    def matmul(self, A: Array, C: np.ndarray, out: Array) -> None:
        algebra.launch_matmul(A, self.upload(C), out, False, self._stream)

    @on_device
    def spread(self, U: Array, W: Array, out: Array) -> None:
        algebra.launch_spread(U, W, out, self._stream)

    @on_device
    def take(self, A: Array, columns: np.ndarray, out: Array) -> None:
        algebra.launch_take(A, self.upload(columns), out, self._stream)

    @on_device
    def put(self, A: Array, columns: np.ndarray, out: Array) -> None:
        algebra.launch_put(A, self.upload(columns), out, self._stream)

    def _float64(self, shape: tuple[int, ...], launch: Callable, *operands) -> np.ndarray:
        out = self.pool.array(shape, np.float64)
        launch(*operands, out, self.pool.array, self._stream)
        return self.download(out)

    @on_device
    def column_dots(self, A: Array, B: Array) -> np.ndarray:
        return self._float64((A.shape[1],), algebra.launch_column_dots, A, B)

    @on_device
    def gram(self, A: Array, B: Array) -> np.ndarray:
        return self._float64((A.shape[1], B.shape[1]), algebra.launch_gram, A, B)

    @on_device
    def weighted_dots(self, A: Array, B: Array, rows: Array | None, w: Array) -> np.ndarray:
        return self._float64((A.shape[1],), algebra.launch_weighted_dots, A, B, rows, w)

    @on_device
    def weighted_gram(self, A: Array, B: Array, rows: Array | None, w: Array) -> np.ndarray:
        return self._float64((A.shape[1], B.shape[1]), algebra.launch_weighted_gram, A, B, rows, w)

    # genotypes

    def constants(self, mean: np.ndarray, inv_sd: np.ndarray, bits: int) -> tuple[np.ndarray, ...]:
        return self._products.constants(mean, inv_sd, bits)

    @property
    def arithmetic(self) -> str:
        return self._products.arithmetic

    @property
    def accumulator(self) -> np.dtype:
        return self._products.accumulator

    def factor(self, w: np.ndarray) -> np.ndarray:
        return self._products.factor(w)

    @on_device
    def rounded(self, sums: Array) -> Array:
        return self._products.rounded(sums)

    @on_device
    def operand(self, B: Array) -> Any:
        return self._products.operand(B)

    @on_device
    def zt(self, variants: Variants, operand: Any, out: Array) -> None:
        self._products.zt(variants, operand, out)

    @on_device
    def z(self, variants: Variants, U: Array, selection: WeightedRows, out: Array) -> None:
        self._products.z(variants, U, selection, out)

    @on_device
    def squares(self, variants: Variants, table: Array, selection: WeightedRows, out: Array) -> None:
        encoded = portable.Encoded(variants.packed, table, variants.bits)
        column = out.reshape((out.size,))
        portable.launch_diag(encoded, selection.factor, selection.rows, column, self.pool.array, self._stream)

    @on_device
    def place_blocks(self, held: HeldBlocks) -> tuple[Array, Array]:
        tiles = weights.plan_tiles(held.starts[:-1], np.diff(held.starts))
        return self.upload(held.matrices), self.upload(tiles)

    @on_device
    def multiply_blocks(self, placed: tuple[Array, Array], U: Array, out: Array) -> None:
        weights.launch_block_weights(*placed, U, out, self._stream)
