"""The two sets of kernels for products with packed genotypes, behind one interface."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..device.interface import Array, Variants, WeightedRows
from ..dosages import DOSAGE_UNIT, dosage_table
from ..genotypes import CALL_BITS, COUNT_OF_CODE
from ..integers import DIGITS
from . import portable


def make_kernels(kind: str, allocate: Callable[..., Array], stream):
    """ "tensor" or "portable"; ``allocate(shape, dtype)`` gives scratch memory."""
    if kind == "portable":
        return PortableKernels(allocate, stream)
    if kind == "tensor":
        return TensorKernels(allocate, stream)
    raise ValueError(f"kernels: expected auto, tensor or portable, found {kind!r}")


class PortableKernels:
    """Float32 arithmetic on any device, from a table of standardised genotypes by code, or of dosages."""

    def __init__(self, allocate, stream):
        self._scratch = allocate, stream

    def constants(self, mean: np.ndarray, inv_sd: np.ndarray, bits: int = CALL_BITS) -> tuple[np.ndarray, ...]:
        if bits != CALL_BITS:
            return (dosage_table(mean, inv_sd, bits),)
        values = (COUNT_OF_CODE - mean[:, None]) * inv_sd[:, None]
        return (np.nan_to_num(values).astype(np.float32),)

    accumulator, arithmetic = np.dtype(np.float32), "float32 products"

    def factor(self, w: np.ndarray) -> np.ndarray:
        return w.astype(np.float32)

    def rounded(self, sums: Array) -> Array:
        return sums

    def operand(self, B: Array) -> Array:
        return B

    def zt(self, variants: Variants, operand: Array, out: Array) -> None:
        portable.launch_zt(self._encoded(variants), operand, out, *self._scratch)

    def z(self, variants: Variants, U: Array, selection: WeightedRows, out: Array) -> None:
        portable.launch_z(self._encoded(variants), U, selection.factor, selection.rows, out, *self._scratch)

    def _encoded(self, variants: Variants) -> portable.Encoded:
        return portable.Encoded(variants.packed, *variants.constants, variants.bits)


class TensorKernels:
    """Tensor cores, in exact integers, from means and 1/SDs (b, 2); see :mod:`.tensor_products`."""

    accumulator, arithmetic = np.dtype(np.float64), f"products in integers (tensor cores, {DIGITS} digits)"

    def __init__(self, allocate, stream):
        from . import operands, tensor_products  # inline PTX: not in the simulator

        self._operands, self._tensor = operands, tensor_products
        self._allocate, self._stream = allocate, stream

    def constants(self, mean: np.ndarray, inv_sd: np.ndarray, bits: int = CALL_BITS) -> tuple[np.ndarray, ...]:
        if bits == CALL_BITS:  # a missing call is taken as one copy
            return (np.stack([mean - 1, inv_sd], axis=1),)
        unit = DOSAGE_UNIT[bits]
        return (np.stack([mean / unit, inv_sd * unit], axis=1),)

    def factor(self, w: np.ndarray) -> np.ndarray:
        return w.astype(np.float64)

    def rounded(self, sums: Array) -> Array:
        out = self._allocate(sums.shape, np.float32)
        self._tensor.launch_round_sums(sums, out, self._stream)
        return out

    def operand(self, B: Array) -> Any:
        return self._operands.launch_sample_operand(B, self._allocate, self._stream)

    def zt(self, variants: Variants, operand: Any, out: Array) -> None:
        self._tensor.launch_zt(self._block(variants), operand, out, self._allocate, self._stream)

    def z(self, variants: Variants, U: Array, selection: WeightedRows, out: Array) -> None:
        weighted = (U, selection.factor, selection.rows)
        self._tensor.launch_z(self._block(variants), weighted, out, self._allocate, self._stream)

    def _block(self, variants: Variants):
        packed = variants.packed.view(np.uint8) if variants.bits == 16 else variants.packed
        return self._tensor.TensorBlock(
            packed, *variants.constants, variants.start, variants.complete, bits=variants.bits
        )
