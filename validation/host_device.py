"""A device made of NumPy, for checking the device backend's logic where there is no device.

It keeps a device's rules: memory that was not written is poison, copies happen only when something waits for them (so a
buffer that is filled again too early shows), and every array that crosses to the host or from it is recorded.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from gpu_reml.ops.device.interface import Variants, WeightedRows
from gpu_reml.ops.device.pool import DeviceMemoryError, Pool
from gpu_reml.ops.dosages import DOSAGE_MISSING, DOSAGE_UNIT
from gpu_reml.ops.genotypes import CALL_BITS, COUNT_OF_CODE, items_per_row
from gpu_reml.ops.weights import HeldBlocks


class PoisonedPool(Pool):
    """A pool whose arrays hold NaN (or all bits set) until they are written."""

    def array(self, shape, dtype):
        array = super().array(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = 0xFF
        return array


class PendingCopy:
    """A copy that is made when it is waited for, from what the source holds then."""

    def __init__(self, source: np.ndarray, target: np.ndarray):
        self._source, self._target, self._done = source, target, False

    def finish(self) -> None:
        if not self._done:
            self._target[...] = self._source
            self._done = True


class HostDevice:
    """Implements :class:`~gpu_reml.ops.device.interface.Device` with float64 arithmetic and float32 results.

    memory: bytes that the device has.  ``downloaded`` and ``uploaded``: shapes that crossed to the host and from it,
    genotypes left out.
    """

    pitch_alignment = 64
    row_alignment = 64
    accumulator, arithmetic = np.dtype(np.float64), "float64 products"

    def __init__(self, memory: int | None = None, limit: int | None = None, label: str = "host device"):
        self.label, self._memory, self._given = label, memory, 0
        self.pool = PoisonedPool(self._allocate, limit, self._count_again)
        self.downloaded: list[tuple[int, ...]] = []
        self.uploaded: list[tuple[int, ...]] = []
        self._decoded: dict = {}

    def _allocate(self, num_bytes: int) -> np.ndarray:
        if self._memory is not None and self.pool.held + num_bytes > self._memory:
            raise DeviceMemoryError(f"{self.label}: out of memory")
        return np.empty(num_bytes, np.uint8)

    def _count_again(self) -> None:
        """Nothing to hand back: NumPy frees at once."""

    # memory

    def upload(self, host: np.ndarray) -> np.ndarray:
        self.uploaded.append(host.shape)
        array = self.pool.array(host.shape, host.dtype)
        array[...] = host
        return array

    def download(self, array: np.ndarray) -> np.ndarray:
        self.downloaded.append(array.shape)
        return array.copy()

    def fill(self, array: np.ndarray, value: float) -> None:
        array[...] = value

    def pinned(self, num_bytes: int) -> np.ndarray:
        return np.full(num_bytes, 0xFF, np.uint8)

    def copy_in(self, pinned: np.ndarray, array: np.ndarray, after: Any) -> PendingCopy:
        return PendingCopy(pinned, array)

    def mark(self) -> None:
        return None

    def wait(self, token: PendingCopy | None) -> None:
        if token is not None:
            token.finish()

    host_wait = wait

    def run(self, task: Callable[[], Any]) -> Any:
        return task()

    # block algebra

    def combine(self, A, a, B, b, out) -> None:
        total = A.astype(np.float64) * a
        out[...] = total if B is None else total + B.astype(np.float64) * b

    def matmul(self, A, C, out) -> None:
        out[...] = A.astype(np.float64) @ C

    def spread(self, U, W, out) -> None:
        out[...] = (W[:, :, None] * U[:, None, :]).reshape(len(U), -1)

    def take(self, A, columns, out) -> None:
        out[...] = A[:, columns]

    def put(self, A, columns, out) -> None:
        out[:, columns] = A

    def column_dots(self, A, B) -> np.ndarray:
        return np.einsum("ij,ij->j", A.astype(np.float64), B)

    def gram(self, A, B) -> np.ndarray:
        return A.T.astype(np.float64) @ B

    def weighted_dots(self, A, B, rows, w) -> np.ndarray:
        chosen = slice(None) if rows is None else rows
        return w @ (A[chosen].astype(np.float64) * B[chosen])

    def weighted_gram(self, A, B, rows, w) -> np.ndarray:
        chosen = slice(None) if rows is None else rows
        return A[chosen].T.astype(np.float64) @ (w[:, None] * B[chosen])

    # genotypes

    def constants(self, mean: np.ndarray, inv_sd: np.ndarray, bits: int) -> tuple[np.ndarray, ...]:
        return mean, inv_sd

    def factor(self, w: np.ndarray) -> np.ndarray:
        return w

    def rounded(self, sums: np.ndarray) -> np.ndarray:
        out = self.pool.array(sums.shape, np.float32)
        out[...] = sums
        return out

    def operand(self, B):
        return B

    def zt(self, variants: Variants, operand, out) -> None:
        out[...] = self._rows_of_z(variants, len(operand)) @ operand

    def z(self, variants: Variants, U, selection: WeightedRows, out) -> None:
        chosen = slice(None) if selection.rows is None else selection.rows
        out += self._rows_of_z(variants, len(out))[chosen].T @ (selection.factor[:, None] * U[chosen])

    def squares(self, variants: Variants, table, selection: WeightedRows, out) -> None:
        chosen = slice(None) if selection.rows is None else selection.rows
        squares = self._rows_of_z(variants, len(out))[chosen] ** 2
        out[:, 0] += (selection.factor @ squares).astype(np.float32)

    def place_blocks(self, held: HeldBlocks) -> HeldBlocks:
        return HeldBlocks(self.upload(held.matrices), held.starts)

    def multiply_blocks(self, placed: HeldBlocks, U, out) -> None:
        offset = 0
        for first, last in pairwise(placed.starts):
            size = last - first
            out[first:last] = placed.matrices[offset : offset + size * size].reshape(size, size) @ U[first:last]
            offset += size * size

    def _rows_of_z(self, variants: Variants, num_samples: int) -> np.ndarray:
        """(b, n) float64 standardised genotypes, decoded from the packed items; once for the same items."""
        count = variants.stop - variants.start
        items = variants.packed[:count, : items_per_row(num_samples, variants.bits)]
        key = variants.start, hash(items.tobytes())
        if key not in self._decoded:
            mean, inv_sd = variants.constants
            copies = _copies(items, num_samples, variants.bits)
            self._decoded[key] = np.nan_to_num((copies - mean[:, None]) * inv_sd[:, None])
        return self._decoded[key]


def _copies(items: np.ndarray, num_samples: int, bits: int) -> np.ndarray:
    """(b, n) copies of the counted allele, NaN where it is missing."""
    if bits == CALL_BITS:
        codes = (items[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
        return COUNT_OF_CODE[codes.reshape(len(items), -1)[:, :num_samples]]
    return np.where(items == DOSAGE_MISSING[bits], np.nan, items * DOSAGE_UNIT[bits])
