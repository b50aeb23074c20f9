"""The two sets of kernels for products with packed genotypes, behind one interface."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..device.interface import Array, Variants, WeightedRows
from ..dosages import dosage_table
from ..genotypes import CALL_BITS, COUNT_OF_CODE
from . import algebra, portable


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

    def factor(self, w: np.ndarray, inv_sd: np.ndarray) -> np.ndarray:
        return w

    def operand(self, B: Array) -> Array:
        return B

    def zt(self, variants: Variants, operand: Array, out: Array) -> None:
        portable.launch_zt(self._encoded(variants), operand, out, *self._scratch)

    def z(self, variants: Variants, U: Array, selection: WeightedRows, out: Array) -> None:
        portable.launch_z(self._encoded(variants), U, selection.factor, selection.rows, out, *self._scratch)

    def _encoded(self, variants: Variants) -> portable.Encoded:
        return portable.Encoded(variants.packed, *variants.constants, variants.bits)


class TensorKernels:
    """Tensor cores, from a table (b, 4) of centred counts and what standardises them; see :mod:`.tensor`."""

    def __init__(self, allocate, stream):
        from . import fragments, tensor  # inline PTX: not in the simulator

        self._fragments, self._tensor = fragments, tensor
        self._allocate, self._stream = allocate, stream

    def constants(self, mean: np.ndarray, inv_sd: np.ndarray, bits: int = CALL_BITS) -> tuple[np.ndarray, ...]:
        if bits != CALL_BITS:
            raise ValueError(f"kernels: tensor cores multiply calls; dosages of {bits} bits need kernels='portable'")
        return self._fragments.make_tables(mean, inv_sd)

    def factor(self, w: np.ndarray, inv_sd: np.ndarray) -> np.ndarray:
        return w * inv_sd

    def operand(self, B: Array) -> Any:
        return self._fragments.launch_sample_operand(B, self._allocate, self._stream)

    def zt(self, variants: Variants, operand: Any, out: Array) -> None:
        self._tensor.launch_zt(self._block(variants), operand, out, self._allocate, self._stream)

    def z(self, variants: Variants, U: Array, selection: WeightedRows, out: Array) -> None:
        rows, factor = selection
        if rows is not None:  # the kernels look factors up by row of the block
            by_row = self._allocate((1, len(U)), np.float32)
            algebra.launch_put(factor.reshape((1, len(rows))), rows, by_row, self._stream)
            factor = by_row.reshape((len(U),))
        self._tensor.launch_z(self._block(variants), U, factor, out, self._allocate, self._stream, rows)

    def _block(self, variants: Variants):
        return self._tensor.TensorBlock(variants.packed, *variants.constants)
