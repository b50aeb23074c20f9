"""What the device backend asks of one device.

Arrays are the device's own (anything with ``shape``, ``dtype``, ``nbytes`` and row slices).  Work is enqueued in order
on one compute stream; only :meth:`Device.download` and the methods that return NumPy arrays wait for it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..weights import HeldBlocks
from .pool import Pool

Array = Any  # an array in a device's memory
Token = Any  # a point in the order of work


class DeviceLostError(RuntimeError):
    """The device stopped answering; what it held is gone."""


class Variants(NamedTuple):
    """Variants ``start:stop`` on a device: packed items (at least that many rows, pitch), and constants by variant.

    ``bits``: of a genotype, as in :class:`~gpu_reml.ops.genotypes.PackedGenotypes`.  ``complete``: no call is missing.
    """

    start: int
    stop: int
    packed: Array
    constants: tuple[Array, ...]
    bits: int = 2
    complete: bool = False

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


class WeightedRows(NamedTuple):
    """Rows of some variants (ascending int32, None for all) and their weights, in the type that the device takes."""

    rows: Array | None
    factor: Array


class Device(Protocol):
    """Memory, copies, block algebra and genotype products of one device.

    Blocks are (rows, k) float32 and C-contiguous.  Sums have a fixed order; results of reductions are float64.
    Products with Z are summed, and the features between the two halves of a product kept, in the type ``accumulator``.
    """

    label: str
    arithmetic: str  # what multiplies, in words for a log
    pool: Pool
    accumulator: np.dtype
    pitch_alignment: int  # bytes; rows of packed genotypes start on its multiples
    row_alignment: int  # packed genotypes have a multiple of this many rows

    # memory
    def upload(self, host: np.ndarray) -> Array: ...
    def download(self, array: Array) -> np.ndarray: ...
    def fill(self, array: Array, value: float) -> None: ...
    def pinned(self, num_bytes: int) -> np.ndarray: ...
    def copy_in(self, pinned: np.ndarray, array: Array, after: Token) -> Token: ...
    def mark(self) -> Token: ...
    def wait(self, token: Token) -> None: ...
    def host_wait(self, token: Token) -> None: ...
    def run(self, task: Callable[[], Any]) -> Any: ...

    # block algebra
    def combine(self, A: Array, a: np.ndarray, B: Array | None, b: np.ndarray | None, out: Array) -> None: ...
    def matmul(self, A: Array, C: np.ndarray, out: Array) -> None: ...
    def spread(self, U: Array, W: Array, out: Array) -> None: ...
    def take(self, A: Array, columns: np.ndarray, out: Array) -> None: ...
    def put(self, A: Array, columns: np.ndarray, out: Array) -> None: ...
    def column_dots(self, A: Array, B: Array) -> np.ndarray: ...
    def gram(self, A: Array, B: Array) -> np.ndarray: ...
    def weighted_dots(self, A: Array, B: Array, rows: Array | None, w: Array) -> np.ndarray: ...
    def weighted_gram(self, A: Array, B: Array, rows: Array | None, w: Array) -> np.ndarray: ...

    # genotypes
    def constants(self, mean: np.ndarray, inv_sd: np.ndarray, bits: int) -> tuple[np.ndarray, ...]: ...
    def factor(self, w: np.ndarray) -> np.ndarray: ...
    def rounded(self, sums: Array) -> Array: ...
    def operand(self, B: Array) -> Any: ...
    def zt(self, variants: Variants, operand: Any, out: Array) -> None: ...
    def z(self, variants: Variants, U: Array, selection: WeightedRows, out: Array) -> None: ...
    def squares(self, variants: Variants, table: Array, selection: WeightedRows, out: Array) -> None: ...
    def place_blocks(self, held: HeldBlocks) -> Any: ...
    def multiply_blocks(self, placed: Any, U: Array, out: Array) -> None: ...
