"""Genotype products on the CPU in integers, where the processor multiplies bytes (:mod:`gpu_reml.ops.integers`)."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from . import cpu_amx, cpu_vnni, integers
from .cpu import CpuProducts, weighted_gram
from .cpu_sums import Calls, Kernels, SampleDigits, add_z_sums, zt_sums
from .genotypes import CALL_BITS, CHUNK, blocks_between, chunks
from .integers import DIGITS, LIMIT, as_integers

FUSED_COLUMNS = 16  # columns up to which float32 products straight from packed bytes are as fast for any cohort
FUSED_WORK = 80_000  # samples times columns that they take beyond those in less than integers are made and laid out in
KINDS = (cpu_amx.KERNELS, cpu_vnni.KERNELS)  # the fastest first
VARIANT_BYTES = 32  # an entry of a chunk's features: itself, weighted, as an integer, times its mean, and as digits
SAMPLE_BYTES = 16  # an entry of a block: as an integer, as digits, and the float64 sum


def best_kernels(kinds: Iterable[Kernels] | None = None) -> Kernels | None:
    """The first of these kinds (all by default) that this process can use, or None."""
    return next((kernels for kernels in (KINDS if kinds is None else kinds) if kernels.available()), None)


@dataclass(frozen=True)
class IntegerProducts(CpuProducts):
    """Products of calls by exact sums of integers, for a block with more than ``fused_columns`` columns.

    By default (None) those are :func:`fused_columns` of the samples.  ``digits``: 3 are as exact as float32 (1e-7 of a
    column), 2 are faster (3e-5).  ``kernels`` multiply.  The bits of a column depend on neither threads, nor kernels,
    nor how variants lie in files, nor the other columns.  What has no integer form (block weights, squared genotypes,
    groups scattered over the variants) is computed as :class:`CpuProducts` does.
    """

    fused_columns: int | None = None
    digits: int = DIGITS
    kernels: Kernels | None = field(default_factory=best_kernels)

    def __post_init__(self):
        super().__post_init__()
        if self.fused_columns is None:
            object.__setattr__(self, "fused_columns", fused_columns(self.num_samples))
        if self.digits not in LIMIT:
            raise ValueError(f"digits: expected one of {', '.join(map(str, LIMIT))}, found {self.digits}")
        if not have_integers(self.genotypes.bits, self.dtype):
            raise ValueError("genotypes: integer products are float32 products of calls")
        if self.kernels is None or not self.kernels.available():
            raise ValueError("kernels: integer products need a processor with AMX or VNNI")
        if self.genotypes.num_samples > integers.MOST_SAMPLES:
            found = self.genotypes.num_samples
            raise ValueError(f"genotypes: sums are exact for at most {integers.MOST_SAMPLES} samples, found {found}")

    @property
    def arithmetic(self) -> str:
        """What multiplies, in words for a log."""
        kind = f"{self.kernels.instruction}, {self.digits} digits"
        return f"products of more than {self.fused_columns} columns in integers ({kind}), of fewer in float32"

    def zt(self, B: np.ndarray) -> np.ndarray:
        """Z' B, (n, k) -> (m, k); half a pass."""
        self._require_rows(B, self.num_samples, "B")
        if self._is_few(B):
            return super().zt(B)
        return self._features(self._laid(B), 0, self.num_variants, self.dtype)

    def z(self, U: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        """Z U, or Z diag(w) U for weights w (m,), (m, k) -> (n, k); half a pass."""
        self._require_rows(U, self.num_variants, "U")
        if self._is_few(U):
            return super().z(U, w)
        out = np.zeros((self.num_samples, U.shape[1]))
        for start, stop in chunks(0, self.num_variants):
            V = U[start:stop] if w is None else U[start:stop] * np.asarray(w[start:stop], np.float64)[:, None]
            self._add(start, stop, V, out)
        return out.astype(self.dtype)

    def weighted(self, B: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Z W Z' B, (n, k) -> (n, k); W is diag(w) for weights w (m,), or a :class:`BlockWeights`; one pass."""
        self._require_rows(B, self.num_samples, "B")
        if self._is_few(B) or not isinstance(w, np.ndarray):
            return super().weighted(B, w)
        laid, out = self._laid(B), np.zeros((self.num_samples, B.shape[1]))
        for start, stop in chunks(0, self.num_variants):
            U = self._features(laid, start, stop, np.float64)
            U *= np.asarray(w[start:stop], np.float64)[:, None]
            self._add(start, stop, U, out)
        return out.astype(self.dtype)

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
        return B.shape[1] == 0 or self._is_narrow(B)

    def _features(self, laid: SampleDigits, start: int, stop: int, dtype: type) -> np.ndarray:
        """Z' B (stop - start, k) of these variants."""
        U = np.empty((stop - start, laid.integers.values.shape[1]), dtype)
        for block in blocks_between(self.genotypes, start, stop, stop - start):
            calls = self._calls(block.packed, block.rows)
            zt_sums(calls, laid, U[block.start - start : block.stop - start])
        return U

    def _calls(self, packed: np.ndarray, rows: slice) -> Calls:
        """Variants ``rows``, of these packed calls."""
        genotypes = self.genotypes
        num_missing = genotypes.num_samples - genotypes.num_called[rows]
        return Calls(packed, genotypes.mean[rows], genotypes.inv_sd[rows], num_missing)

    def _z_rows(self, start: int, stop: int, V: np.ndarray) -> np.ndarray:
        if self._is_few(V):
            return super()._z_rows(start, stop, V)
        out = np.zeros((self.num_samples, V.shape[1]))
        self._add(start, stop, V, out)
        return out.astype(self.dtype)

    def _add(self, start: int, stop: int, V: np.ndarray, out: np.ndarray) -> None:
        """out (n, k) += Z V of variants start:stop, within a chunk."""
        q = as_integers(V, self.digits, self.genotypes.inv_sd[start:stop])
        found = [block.packed for block in blocks_between(self.genotypes, start, stop, stop - start)]
        packed = found[0] if len(found) == 1 else np.concatenate(found)
        add_z_sums(self._calls(packed, slice(start, stop)), q, self.kernels, out)

    def _laid(self, B: np.ndarray) -> SampleDigits:
        return SampleDigits(as_integers(B, self.digits), self.kernels)


def fused_columns(n: int) -> int:
    """Most columns for which float32 products straight from packed bytes are as fast as integers, for n samples.

    To make integers of a variant's features costs as much for few samples as for many.
    """
    return FUSED_COLUMNS + FUSED_WORK // n


def have_integers(bits: int, dtype: type) -> bool:
    """Whether products with genotypes of so many bits have an integer form."""
    return bits == CALL_BITS and np.dtype(dtype) == np.float32


def integer_bytes(n: int, m: int, columns: int) -> int:
    """Most bytes that a product in integers holds beside its blocks, for n samples and m variants."""
    return columns * (VARIANT_BYTES * min(m, CHUNK) + SAMPLE_BYTES * n)
