"""Genotype products on a CUDA device: packed genotypes are uploaded once and stay there.

Float32 throughout; the kernels and their rounding are described in :mod:`gpu_reml.ops.cuda_kernels`.
"""

from dataclasses import dataclass

import numpy as np
from numba import cuda
from scipy import sparse

from .cuda_device import cuda_available, cuda_unavailable_reason
from .cuda_kernels import MAX_COLUMNS, MAX_THREADS, diag_kernel, launch_shape, z_kernel, zt_kernel
from .genotypes import PackedGenotypes, code_values


@dataclass(frozen=True)
class DeviceBlock:
    """Variants ``start:stop`` on the device: packed (b, ceil(n / 4)) uint8 and values (b, 4) float32 by code."""

    start: int
    stop: int
    packed: object
    values: object

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    def take(self, variants: np.ndarray, weights: np.ndarray) -> tuple:
        """Device arrays (rows of the block, weights) of those ``variants`` (ascending) that are in the block."""
        first, last = np.searchsorted(variants, [self.start, self.stop])
        local = variants[first:last].astype(np.int64) - self.start
        return cuda.to_device(local), cuda.to_device(np.ascontiguousarray(weights[first:last], np.float32))


@dataclass(frozen=True)
class CudaProducts:
    """Products with Z (n, m) of ``genotypes``, NumPy in and out; build it with :func:`make_cuda_products`.

    Every method costs one read of the packed genotypes on the device; a *pass* is both directions, Z (Z' B).  Results
    are the same bit for bit for any ``threads``.
    """

    genotypes: PackedGenotypes
    blocks: tuple[DeviceBlock, ...]
    threads: int

    name = "cuda"
    dtype = np.float32

    @property
    def num_samples(self) -> int:
        return self.genotypes.num_samples

    @property
    def num_variants(self) -> int:
        return self.genotypes.num_variants

    def zt(self, B: np.ndarray) -> np.ndarray:
        """Z' B, (n, k) -> (m, k) float32; half a pass."""
        B = _upload("B", B, (self.num_samples, None))
        U = np.empty((self.num_variants, B.shape[1]), np.float32)
        for block in self.blocks:
            U[block.rows] = self._launch_zt(block, B).copy_to_host()
        return U

    def z(self, U: np.ndarray) -> np.ndarray:
        """Z U, (m, k) -> (n, k) float32; half a pass."""
        _check_shape("U", U, (self.num_variants, None))
        variants = np.arange(self.num_variants)
        out = self._zeros(U.shape[1])
        for block in self.blocks:
            selected = block.take(variants, np.ones(self.num_variants))
            self._launch_z(block, selected, _to_device(U[block.rows]), out)
        return out.copy_to_host()

    def weighted(self, B: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Z diag(w) Z' B, (n, k) -> (n, k) float32, for weights w (m,); one pass, and Z' B never leaves the device.

        Device memory: 4 k bytes for each variant of a block.
        """
        _check_shape("w", w, (self.num_variants,))
        B = _upload("B", B, (self.num_samples, None))
        variants = np.flatnonzero(w)
        weights = np.asarray(w)[variants]
        out = self._zeros(B.shape[1])
        for block in self.blocks:
            self._launch_z(block, block.take(variants, weights), self._launch_zt(block, B), out)
        return out.copy_to_host()

    def grouped(self, U: np.ndarray, weights: sparse.sparray) -> np.ndarray:
        """(G, n, k) float32: Z diag(W_g) U for every column g of ``weights`` (m, G), from U (m, k); half a pass.

        Cost: group g reads only the variants that it has weight on, so disjoint groups together cost k columns.
        """
        _check_shape("U", U, (self.num_variants, None))
        weights = self._columns(weights)
        on_device = [_to_device(U[block.rows]) for block in self.blocks]
        result = np.empty((weights.shape[1], self.num_samples, U.shape[1]), np.float32)
        for g in range(weights.shape[1]):
            out = self._zeros(U.shape[1])
            for block, U_block in zip(self.blocks, on_device, strict=True):
                self._launch_z(block, block.take(*_column(weights, g)), U_block, out)
            result[g] = out.copy_to_host()
        return result

    def squared_norms_by_sample(self, weights: sparse.sparray) -> np.ndarray:
        """(n, G) float64 (of float32 sums): sum_j W_jg z_ij^2, the diagonals of Z diag(W_g) Z'; half a pass."""
        weights = self._columns(weights)
        result = np.empty((self.num_samples, weights.shape[1]))
        grid = -(-self.num_samples // self.threads)
        for g in range(weights.shape[1]):
            out = _to_device(np.zeros(self.num_samples))
            for block in self.blocks:
                variants, w = block.take(*_column(weights, g))
                if variants.size:
                    diag_kernel[grid, self.threads](block.packed, block.values, variants, w, out)
            result[:, g] = out.copy_to_host()
        return result

    def _launch_zt(self, block: DeviceBlock, B):
        """Z' B of a block of variants, (b, k) on the device."""
        U = cuda.device_array((block.stop - block.start, B.shape[1]), np.float32)
        if U.size:
            grid, threads = launch_shape(*U.shape, self.threads)
            zt_kernel[grid, threads](block.packed, block.values, B, U)
        return U

    def _launch_z(self, block: DeviceBlock, selected: tuple, U, out) -> None:
        """Add Z diag(w) U of the selected variants of a block to ``out`` (n, k) on the device."""
        variants, weights = selected
        if variants.size and out.size:
            grid, threads = launch_shape(*out.shape, self.threads)
            z_kernel[grid, threads](block.packed, block.values, variants, weights, U, out)

    def _zeros(self, k: int):
        return cuda.to_device(np.zeros((self.num_samples, k), np.float32))

    def _columns(self, weights: sparse.sparray) -> sparse.csc_array:
        if weights.shape[0] != self.num_variants:
            raise ValueError(f"weights: expected ({self.num_variants}, G), found {weights.shape}")
        return sparse.csc_array(weights).sorted_indices()


def _column(weights: sparse.csc_array, g: int) -> tuple[np.ndarray, np.ndarray]:
    entries = slice(weights.indptr[g], weights.indptr[g + 1])
    return weights.indices[entries], weights.data[entries]


def _check_shape(name: str, array: np.ndarray, expected: tuple) -> None:
    """Raise ValueError unless ``array`` has the ``expected`` shape, where None stands for any length."""
    shape = np.shape(array)
    if len(shape) != len(expected) or any(e not in (None, found) for e, found in zip(expected, shape, strict=True)):
        lengths = ["k" if e is None else str(e) for e in expected]
        raise ValueError(f"{name}: expected ({', '.join(lengths)}{',' * (len(lengths) == 1)}), found {shape}")


def _upload(name: str, array: np.ndarray, expected: tuple):
    _check_shape(name, array, expected)
    return _to_device(array)


def _to_device(array: np.ndarray):
    return cuda.to_device(np.ascontiguousarray(array, np.float32))


def make_cuda_products(
    genotypes: PackedGenotypes, *, block_width: int | None = None, threads: int = MAX_THREADS
) -> CudaProducts:
    """Upload ``genotypes`` to the current device, where they stay, and return the products with them.

    block_width: variants of which Z' B is held at once in a pass; all of a part when None.  threads: of a block on the
    device; the time of numba's simulator grows with it.

    Device memory: ``genotypes.num_bytes`` + 16 m.  Raises ValueError when there is no device (the reason is in the
    message) or when its free memory cannot hold the genotypes.
    """
    if block_width is not None and block_width < 1:
        raise ValueError(f"block_width: expected a positive number of variants, found {block_width}")
    if threads not in range(MAX_COLUMNS, MAX_THREADS + 1, MAX_COLUMNS):
        raise ValueError(f"threads: expected a multiple of {MAX_COLUMNS} up to {MAX_THREADS}, found {threads}")
    if not cuda_available(allow_simulator=True):
        raise ValueError(f"no CUDA device can be used: {cuda_unavailable_reason()}")
    required, free = genotypes.num_bytes + 16 * genotypes.num_variants, cuda.current_context().get_memory_info().free
    if required > free:
        raise ValueError(
            f"packed genotypes need {required:,} bytes on the device and {free:,.0f} are free; use --device cpu"
        )
    return CudaProducts(genotypes, tuple(_upload_blocks(genotypes, block_width)), threads)


def _upload_blocks(genotypes: PackedGenotypes, block_width: int | None):
    values = code_values(genotypes).astype(np.float32)
    offset = 0
    for part in genotypes.parts:
        packed = cuda.to_device(np.ascontiguousarray(part))
        part_values = cuda.to_device(values[offset : offset + len(part)])
        width = block_width or max(1, len(part))
        for first in range(0, len(part), width):
            last = min(first + width, len(part))
            yield DeviceBlock(offset + first, offset + last, packed[first:last], part_values[first:last])
        offset += len(part)
