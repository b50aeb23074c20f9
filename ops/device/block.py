"""Blocks (n, k) float32 that stay on a device, with the operators of NumPy that the estimators use."""

from collections.abc import Sequence
from numbers import Real

import numpy as np

from .interface import Array, Device


def zero_sums(device: Device, rows: int, k: int) -> Array:
    """Zeros (rows, k > 0) of the type in which the device sums products with Z."""
    out = device.pool.array((rows, k), device.accumulator)
    device.fill(out, 0.0)
    return out


class DeviceBlock:
    """A block (n, k) in a device's memory; arithmetic makes new blocks there, columns are copies.

    With another block: ``+ - +=``.  With a number or a row (k,): ``*`` and ``/``.  ``block @ C`` for a small NumPy
    matrix C (k, r) is a block; ``A.T @ B`` is a NumPy matrix (p, q), summed in float64.  ``block[:, columns]`` by
    slice, mask or indices.  ``np.asarray(block)`` brings it to the host.
    """

    __array_ufunc__ = None  # so that NumPy leaves row * block to the block
    __slots__ = ("__weakref__", "array", "device")
    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, device: Device, array: Array):
        self.device, self.array = device, array

    @classmethod
    def empty(cls, device: Device, rows: int, k: int) -> "DeviceBlock":
        return cls(device, device.pool.array((rows, k), np.float32))

    @classmethod
    def zeros(cls, device: Device, rows: int, k: int) -> "DeviceBlock":
        block = cls.empty(device, rows, k)
        if k:
            device.fill(block.array, 0.0)
        return block

    @classmethod
    def upload(cls, device: Device, host: np.ndarray) -> "DeviceBlock":
        """A NumPy array (n, k) on the device."""
        host = np.ascontiguousarray(host, np.float32)
        if host.ndim != 2:
            raise ValueError(f"block: expected (n, k), found {host.shape}")
        # x[:, None] has a stride of zero, which numba-cuda does not take for contiguous
        return cls(device, device.upload(host.reshape(-1).reshape(host.shape)))

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.array.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if not self.shape[1]:
            return np.empty(self.shape, dtype or np.float32)
        return self.device.download(self.array).astype(dtype or np.float32, copy=False)

    def astype(self, dtype, copy: bool = True) -> "DeviceBlock":
        if np.dtype(dtype) != self.dtype:
            raise TypeError(
                f"blocks on {self.device.label} are float32; np.asarray(block, {np.dtype(dtype)}) is a copy"
            )
        return self.copy() if copy else self

    def copy(self) -> "DeviceBlock":
        return self._combined(1.0, None, None)

    def zeros_like(self) -> "DeviceBlock":
        return DeviceBlock.zeros(self.device, *self.shape)

    # arithmetic

    def _combined(self, a, other: "DeviceBlock | None", b) -> "DeviceBlock":
        """a * self + b * other."""
        n, k = self.shape
        out = DeviceBlock.empty(self.device, n, k)
        if k:
            rows = [None if x is None else np.broadcast_to(np.asarray(x, np.float32), (k,)) for x in (a, b)]
            self.device.combine(self.array, rows[0], None if other is None else other.array, rows[1], out.array)
        return out

    def __add__(self, other):
        return self._combined(1.0, other, 1.0) if self._is_like(other) else NotImplemented

    def __iadd__(self, other):
        if not self._is_like(other):
            return NotImplemented
        if self.shape[1]:
            ones = np.ones(self.shape[1], np.float32)
            self.device.combine(self.array, ones, other.array, ones, self.array)
        return self

    def __sub__(self, other):
        return self._combined(1.0, other, -1.0) if self._is_like(other) else NotImplemented

    def __mul__(self, row):
        return self._combined(row, None, None) if self._is_row(row) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, row):
        return self._combined(1.0 / np.asarray(row, np.float64), None, None) if self._is_row(row) else NotImplemented

    def _is_like(self, other) -> bool:
        if not isinstance(other, DeviceBlock):
            return False
        if other.shape != self.shape:
            raise ValueError(f"blocks of different shapes: {self.shape} and {other.shape}")
        return True

    def _is_row(self, row) -> bool:
        shape = np.shape(row) if isinstance(row, Real | np.ndarray | np.generic) else None
        if shape not in (None, (), (self.shape[1],)):
            raise ValueError(f"expected a number or a row ({self.shape[1]},), found {shape}")
        return shape is not None

    def scale_rows(self, column: "DeviceBlock") -> "DeviceBlock":
        """diag(s) times the block, for a column s (n, 1) on the device."""
        if column.shape != (len(self), 1):
            raise ValueError(f"expected a column ({len(self)}, 1), found {column.shape}")
        out = DeviceBlock.empty(self.device, *self.shape)
        if self.shape[1]:
            self.device.spread(self.array, column.array, out.array)
        return out

    # products

    @property
    def T(self) -> "Transposed":  # noqa: N802
        return Transposed(self)

    def __matmul__(self, C):
        """(n, k) @ (k, r) -> a block (n, r), for a small NumPy matrix."""
        if not isinstance(C, np.ndarray):
            return NotImplemented
        n, k = self.shape
        if C.ndim != 2 or len(C) != k:
            raise ValueError(f"matrix: expected ({k}, r), found {C.shape}")
        if not k:
            return DeviceBlock.zeros(self.device, n, C.shape[1])
        out = DeviceBlock.empty(self.device, n, C.shape[1])
        if C.shape[1]:
            self.device.matmul(self.array, np.ascontiguousarray(C, np.float32), out.array)
        return out

    def column_dots(self, other: "DeviceBlock") -> np.ndarray:
        """(k,) float64 inner products of matching columns."""
        if not self._is_like(other):
            raise TypeError(f"expected a block, found {type(other).__name__}")
        return self.device.column_dots(self.array, other.array) if self.shape[1] else np.zeros(0)

    # columns

    def __getitem__(self, key) -> "DeviceBlock":
        columns = self._columns(key)
        out = DeviceBlock.empty(self.device, len(self), len(columns))
        if len(columns):
            self.device.take(self.array, columns, out.array)
        return out

    def __setitem__(self, key, value) -> None:
        columns = self._columns(key)
        if not len(columns):
            return
        if isinstance(value, Real):
            filled = DeviceBlock.empty(self.device, len(self), len(columns))
            self.device.fill(filled.array, float(value))
            value = filled
        if value.shape != (len(self), len(columns)):
            raise ValueError(f"columns: expected {(len(self), len(columns))}, found {value.shape}")
        self.device.put(value.array, columns, self.array)

    def _columns(self, key) -> np.ndarray:
        if not (isinstance(key, tuple) and len(key) == 2 and (key[0] is ... or key[0] == slice(None))):
            raise IndexError(f"a block on {self.device.label} is indexed by columns, block[:, columns]; found {key!r}")
        return np.arange(self.shape[1], dtype=np.int32)[key[1]].astype(np.int32, copy=False).reshape(-1)

    @classmethod
    def side_by_side(cls, blocks: "Sequence[DeviceBlock]") -> "DeviceBlock":
        """Blocks of the same rows as one."""
        first = blocks[0]
        out = cls.empty(first.device, len(first), sum(block.shape[1] for block in blocks))
        start = 0
        for block in blocks:
            if len(block) != len(first):
                raise ValueError(f"blocks of different numbers of rows: {len(first)} and {len(block)}")
            if block.shape[1]:
                out[:, start : start + block.shape[1]] = block
            start += block.shape[1]
        return out


class Transposed:
    """A block's transpose: the left side of ``A.T @ B``."""

    __array_ufunc__ = None

    def __init__(self, block: DeviceBlock):
        self.block = block

    def __matmul__(self, other: DeviceBlock) -> np.ndarray:
        """(p, q) float64."""
        if not isinstance(other, DeviceBlock):
            return NotImplemented
        if len(other) != len(self.block):
            raise ValueError(f"blocks of different numbers of rows: {len(self.block)} and {len(other)}")
        p, q = self.block.shape[1], other.shape[1]
        return self.block.device.gram(self.block.array, other.array) if p and q else np.zeros((p, q))


class ShardedBlock:
    """Features (m, k) of a block, each device's variants on that device, in order."""

    __slots__ = ("parts",)
    dtype = DeviceBlock.dtype
    ndim = 2

    def __init__(self, parts: Sequence[DeviceBlock]):
        self.parts = tuple(parts)

    @property
    def shape(self) -> tuple[int, int]:
        return sum(len(part) for part in self.parts), self.parts[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.concatenate([np.asarray(part, dtype) for part in self.parts])

    def __getitem__(self, key) -> "ShardedBlock":
        """Some columns, ``features[..., columns]``."""
        if not (isinstance(key, tuple) and len(key) == 2 and key[0] is ...):
            raise IndexError(f"features are indexed by columns, features[..., columns]; found {key!r}")
        return ShardedBlock([part[:, key[1]] for part in self.parts])

    def __matmul__(self, C: np.ndarray) -> "ShardedBlock":
        """(m, k) @ (k, r), for a small NumPy matrix."""
        return ShardedBlock([part @ C for part in self.parts])

    def __add__(self, other: "ShardedBlock") -> "ShardedBlock":
        return ShardedBlock([a + b for a, b in zip(self.parts, other.parts, strict=True)])

    def __iadd__(self, other: "ShardedBlock") -> "ShardedBlock":
        for a, b in zip(self.parts, other.parts, strict=True):
            a += b
        return self

    @classmethod
    def side_by_side(cls, blocks: "Sequence[ShardedBlock]") -> "ShardedBlock":
        return cls([DeviceBlock.side_by_side(parts) for parts in zip(*(block.parts for block in blocks), strict=True)])
