"""Genotype products on the CPU in integers, where the processor multiplies bytes (:mod:`gpu_reml.ops.integers`)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from . import blas, cpu_amx, cpu_vnni
from .cpu import CpuProducts, require_variants, weighted_gram
from .cpu_sums import Kernels, Plane, SampleDigits, add_z_sums, zt_sums
from .dosages import DOSAGE_MISSING, DOSAGE_UNIT
from .genotypes import CALL_BITS, CHUNK, PackedGenotypes, blocks_between, chunks
from .integers import CHOICES, as_integers, digits_for, joined, parts_of
from .weights import BlockWeights

FUSED_COLUMNS = 28  # columns up to which float32 products straight from packed bytes are as fast for any cohort
FEW_DOSAGES = 2  # columns of dosages up to which decoding them to float32 is as fast
FUSED_WORK = 32_000  # samples times columns that they take beyond those in less than integers are made and laid out in
KINDS = (cpu_amx.KERNELS, cpu_vnni.KERNELS)  # the fastest first
VARIANT_BYTES = 32  # an entry of a chunk's features: itself, weighted, as an integer, times its mean, and as digits
SAMPLE_BYTES = 16  # an entry of a block: as an integer, as digits, and the float64 sum


def best_kernels(kinds: Iterable[Kernels] | None = None) -> Kernels | None:
    """The first of these kinds (all by default) that this process can use, or None."""
    return next((kernels for kernels in (KINDS if kinds is None else kinds) if kernels.available()), None)


@dataclass(frozen=True)
class IntegerProducts(CpuProducts):
    """Products by exact sums of integers, for a block with more than ``fused_columns`` columns.

    By default (None) those are :func:`fused_columns` of the cohort.  ``digits``: 3 are as exact as float32 (1e-7 of a
    column), 2 are faster (3e-5), 8 are as exact as float64; by default those of ``dtype``.  ``kernels`` multiply.  The
    bits of a column depend on neither threads, nor kernels, nor how variants lie in files, nor, without block weights,
    the other columns.  What has no integer form (squared genotypes, groups scattered over the variants) is computed as
    :class:`CpuProducts` does.
    """

    fused_columns: int | None = None
    digits: int | None = None
    kernels: Kernels | None = field(default_factory=best_kernels)

    def __post_init__(self):
        super().__post_init__()
        if self.fused_columns is None:
            object.__setattr__(self, "fused_columns", fused_columns(self.num_samples, self.genotypes.bits, self.dtype))
        if self.digits is None:
            object.__setattr__(self, "digits", digits_for(self.dtype))
        if self.digits not in CHOICES:
            raise ValueError(f"digits: expected one of {', '.join(map(str, CHOICES))}, found {self.digits}")
        if self.kernels is None or not self.kernels.available():
            raise ValueError("kernels: integer products need a processor with AMX or VNNI")

    @property
    def arithmetic(self) -> str:
        """What multiplies, in words for a log."""
        why = ", since the system refuses AMX" if cpu_amx.refused() else ""
        kind = f"in integers ({self.kernels.instruction}{why}, {self.digits} digits)"
        if self.fused_columns == 0:
            return f"products {kind}"
        return f"products of more than {self.fused_columns} columns {kind}, of fewer in float32"

    def zt(self, B: np.ndarray) -> np.ndarray:
        """Z' B, (n, k) -> (m, k); half a pass."""
        self._require_rows(B, self.num_samples, "B")
        if self._is_few(B):
            return super().zt(B)
        laid, U = self._laid(B), np.empty((self.num_variants, B.shape[1]), self.dtype)
        for start, stop in chunks(0, self.num_variants):
            U[start:stop] = self._features(laid, start, stop, np.float64)
        return U

    def z(self, U: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        """Z U, or Z diag(w) U for weights w (m,), (m, k) -> (n, k); half a pass."""
        self._require_rows(U, self.num_variants, "U")
        if self._is_few(U):
            return super().z(U, w)
        out = self._zero_sums(U.shape[1])
        for start, stop in chunks(0, self.num_variants):
            V = U[start:stop] if w is None else U[start:stop] * np.asarray(w[start:stop], np.float64)[:, None]
            self._add(start, stop, V, out)
        return self._result(out)

    def weighted(self, B: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Z W Z' B, (n, k) -> (n, k); W is diag(w) for weights w (m,), or a :class:`BlockWeights`; one pass."""
        self._require_rows(B, self.num_samples, "B")
        if self._is_few(B):
            return super().weighted(B, w)
        if not isinstance(w, np.ndarray):
            return self._block_weighted(B, w)
        laid, out = self._laid(B), self._zero_sums(B.shape[1])
        for start, stop in chunks(0, self.num_variants):
            U = self._features(laid, start, stop, np.float64)
            U *= np.asarray(w[start:stop], np.float64)[:, None]
            self._add(start, stop, U, out)
        return self._result(out)

    def _block_weighted(self, B: np.ndarray, weights: BlockWeights) -> np.ndarray:
        require_variants(weights, self.num_variants)
        out = self._zero_sums(B.shape[1])
        for start, stop, F in self._stretch_features(B, weights):
            U = weights.multiply(F, start)
            for first in range(start, stop, CHUNK):
                last = min(first + CHUNK, stop)
                self._add(first, last, U[first - start : last - start], out)
        return self._result(out)

    def _stretch_features(self, B: np.ndarray, weights: BlockWeights) -> Iterator[tuple[int, int, np.ndarray]]:
        """At most CHUNK variants together, or one larger block; between them BLAS has one thread, and so one result."""
        if self._is_few(B):
            yield from super()._stretch_features(B, weights)
            return
        laid = self._laid(B)
        with blas.one_thread():
            for start, stop in weights.stretches(CHUNK):
                if weights.factors_by_variant[start:stop].any():
                    yield start, stop, self._features(laid, start, stop, self.dtype)

    def core(self, B: np.ndarray, weights: sparse.spmatrix) -> np.ndarray:
        """(G, k, k) B' Z W_g Z' B for every column g of ``weights``; half a pass, and Z' B is never held whole."""
        self._require_rows(B, self.num_samples, "B")
        if self._is_few(B):
            return super().core(B, weights)
        laid, weights = self._laid(B), sparse.csr_array(weights)
        out = np.zeros((weights.shape[1], B.shape[1], B.shape[1]))
        for start, stop in chunks(0, self.num_variants):
            F = self._features(laid, start, stop, self.dtype)
            local = sparse.csc_array(weights[start:stop])
            for g in np.unique(local.nonzero()[1]):
                entries = slice(local.indptr[g], local.indptr[g + 1])
                out[g] += weighted_gram((F,), F, local.indices[entries], local.data[entries])
        return (out + out.transpose(0, 2, 1)) / 2

    def _is_few(self, B: np.ndarray) -> bool:
        """Whether floating point is as fast for so few columns."""
        if self.genotypes.bits == CALL_BITS:
            return B.shape[1] == 0 or self._is_narrow(B)
        return B.shape[1] <= self.fused_columns

    def _laid(self, B: np.ndarray) -> SampleDigits:
        return SampleDigits(as_integers(B, self.digits), self.kernels)

    def _features(self, laid: SampleDigits, start: int, stop: int, dtype: type) -> np.ndarray:
        """Z' B (stop - start, k) of these variants."""
        columns = laid.integers.values.shape[1]
        U = np.empty((stop - start, columns))
        for block in blocks_between(self.genotypes, start, stop, stop - start):
            found = U[block.start - start : block.stop - start]
            first, *others = planes(self.genotypes, block.packed, block.rows)
            zt_sums(first, laid, found)
            for plane in others:
                more = np.empty_like(found)
                zt_sums(plane, laid, more)
                found += more
        return laid.integers.joined(U).astype(dtype, copy=False)

    def _z_rows(self, start: int, stop: int, V: np.ndarray) -> np.ndarray:
        if self._is_few(V):
            return super()._z_rows(start, stop, V)
        out = self._zero_sums(V.shape[1])
        self._add(start, stop, V, out)
        return self._result(out)

    def _zero_sums(self, k: int) -> np.ndarray:
        """Room for the sums of Z V, each part of the digits apart."""
        return np.zeros((self.num_samples, parts_of(self.digits) * k))

    def _result(self, sums: np.ndarray) -> np.ndarray:
        return joined(sums, parts_of(self.digits)).astype(self.dtype, copy=False)

    def _add(self, start: int, stop: int, V: np.ndarray, out: np.ndarray) -> None:
        """out += Z V of variants start:stop, within a chunk."""
        q = as_integers(V, self.digits, self.genotypes.inv_sd[start:stop])
        found = list(blocks_between(self.genotypes, start, stop, stop - start))
        if len(found) == 1:
            for plane in planes(self.genotypes, found[0].packed, found[0].rows):
                add_z_sums(plane, q, self.kernels, out)
            return
        # where files end, a chunk's sums are formed as whole numbers and scaled once, so that the bits are the same
        pieces = [(block, planes(self.genotypes, block.packed, block.rows)) for block in found]
        for p in range(len(pieces[0][1])):
            sums = np.zeros_like(out)
            for block, here in pieces:
                part = q._replace(
                    values=q.values[block.start - start : block.stop - start], scale=np.ones(len(q.scale))
                )
                add_z_sums(here[p]._replace(unit=1.0), part, self.kernels, sums)
            out += sums * (q.scale * pieces[0][1][p].unit)


def planes(genotypes: PackedGenotypes, items: np.ndarray, rows: slice) -> list[Plane]:
    """What is multiplied of variants ``rows``, whose items these are: calls, or each byte of the dosages."""
    mean, inv_sd = genotypes.mean[rows], genotypes.inv_sd[rows]
    num_missing = genotypes.num_samples - genotypes.num_called[rows]
    if genotypes.bits == CALL_BITS:
        one = np.ones(len(mean), np.int64)
        return [Plane(items, one, 0 * one, mean, inv_sd, num_missing)]
    unit, missing = DOSAGE_UNIT[genotypes.bits], DOSAGE_MISSING[genotypes.bits]
    centre = np.rint(mean / unit).astype(np.int64)
    low, high, above = centre & 255, centre >> 8, mean / unit - centre
    lowest = Plane(items, low, low, above, inv_sd, num_missing, unit, (0, missing))
    if genotypes.bits == 8:
        return [lowest]
    none = np.zeros(len(mean))
    return [lowest, Plane(items, high, high, none, inv_sd, none, 256 * unit, (8, missing))]


def fused_columns(n: int, bits: int = CALL_BITS, dtype: type = np.float32) -> int:
    """Most columns for which floating point is as fast as integers, for n samples.

    Float32 products of calls need no decoded tile then; to make integers of a variant's features costs as much for few
    samples as for many.
    """
    if np.dtype(dtype) != np.float32:
        return 0
    return FUSED_COLUMNS + FUSED_WORK // n if bits == CALL_BITS else FEW_DOSAGES


def have_integers(bits: int, dtype: type) -> bool:
    """Whether integers are as fast as floating point: not for dosages of 16 bits in float32, which are two bytes."""
    return bits <= 8 or np.dtype(dtype) == np.float64


def integer_bytes(n: int, m: int, columns: int, dtype: type = np.float32) -> int:
    """Most bytes that a product in integers holds beside its blocks, for n samples and m variants."""
    return parts_of(digits_for(dtype)) * columns * (VARIANT_BYTES * min(m, CHUNK) + SAMPLE_BYTES * n)
