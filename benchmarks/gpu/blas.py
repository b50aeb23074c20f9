"""The peer: the same product by decoding genotypes to float16 tiles and multiplying with cuBLAS.

It keeps one float16 part of every operand (the kernels of the package keep two, for float32's accuracy), so it does
half their multiplications, and pays with accuracy and with a tile that is written and read.
"""

import ctypes

import numpy as np
from cuda import pathfinder

from gpu_reml.ops.genotypes import code_values

from . import kernels

# cublas_api.h, library_types.h
REAL_32F, REAL_16F, COMPUTE_32F, DEFAULT_ALGORITHM = 0, 2, 68, -1
PLAIN, TRANSPOSED = 0, 1

TILE_BYTES = 1 << 30  # of decoded genotypes
ALIGNMENT = 8  # float16 numbers that matrices for tensor cores come in multiples of


class BlasError(RuntimeError):
    """cuBLAS is missing, or it answered with an error."""


def load_cublas() -> ctypes.CDLL:
    """The cuBLAS of a wheel or of a toolkit on this machine."""
    try:
        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    except (pathfinder.DynamicLibNotFoundError, OSError) as error:
        raise BlasError(f"cuBLAS cannot be loaded: {str(error).splitlines()[0]}") from error


class Blas:
    """float16 products with float32 sums on the current device, by ``library`` or the one that is found."""

    def __init__(self, library=None):
        self._library = library or load_cublas()
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))

    def _call(self, name: str, *arguments) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise BlasError(f"{name} failed with code {code}")

    def close(self) -> None:
        self._call("cublasDestroy_v2", self._handle)

    def multiply(self, L, R, out, *, alpha: float = 1.0, beta: float = 0.0, transpose: bool = False) -> None:
        """out = alpha L R + beta out, with L' for L when ``transpose``.

        L and R float16, out float32, all C-contiguous.  To cuBLAS, which reads by columns, they are their own
        transposes: it makes out' = R' L'.
        """
        rows, columns = out.shape
        depth = R.shape[0]
        alpha, beta = ctypes.c_float(alpha), ctypes.c_float(beta)
        self._call(
            "cublasGemmEx",
            self._handle,
            *map(ctypes.c_int, (PLAIN, TRANSPOSED if transpose else PLAIN, columns, rows, depth)),
            ctypes.byref(alpha),
            *_matrix(R, REAL_16F),
            *_matrix(L, REAL_16F),
            ctypes.byref(beta),
            *_matrix(out, REAL_32F),
            ctypes.c_int(COMPUTE_32F),
            ctypes.c_int(DEFAULT_ALGORITHM),
        )


def _matrix(array, kind: int) -> tuple[ctypes.c_void_p, ctypes.c_int, ctypes.c_int]:
    """Address, type and leading dimension."""
    interface = getattr(array, "__cuda_array_interface__", None)
    address = interface["data"][0] if interface else array.ctypes.data  # the simulator's arrays are NumPy's
    return ctypes.c_void_p(address), ctypes.c_int(kind), ctypes.c_int(array.shape[1])


class DecodedProduct:
    """Z diag(w) Z' B from the resident genotypes of ``products``, tile by tile in float16."""

    def __init__(self, products, w: np.ndarray, blas: Blas, tile_bytes: int = TILE_BYTES):
        (shard,) = products.shards
        self._store, self._pool, self._blas = shard.store, shard.device.pool, blas
        self._scale = float(w.mean())  # float16 has no room for weights of 1 / m
        self._factor = shard.device.upload((w / self._scale).astype(np.float32))
        self._ones = shard.device.upload(np.ones(products.num_samples, np.float32))
        bits = code_values(products.genotypes).astype(np.float16).view(np.uint16)
        self._table = shard.device.upload(bits.astype(np.uint64))
        self._width = 4 * next(self._store.variants()).packed.shape[1]
        rows = max(ALIGNMENT, tile_bytes // (2 * self._width) // ALIGNMENT * ALIGNMENT)
        self._rows = min(rows, _aligned(products.num_variants))
        self._words = self._pool.array((self._rows, self._width // 4), np.uint64)

    def weighted(self, B):
        """(n, k) float32 on the device -> (width, columns) float32 there, the product in its first n and k."""
        columns = _aligned(B.shape[1])
        right = self._pool.array((self._width, columns), np.float16)
        kernels.launch_halve(B, self._ones, right)
        out = self._pool.array((self._width, columns), np.float32)
        U = self._pool.array((self._rows, columns), np.float32)
        halves = self._pool.array((self._rows, columns), np.float16)
        started = False
        for variants in self._store.variants():
            for first in range(variants.start, variants.stop, self._rows):
                rows = slice(first, min(first + self._rows, variants.stop))
                count = rows.stop - rows.start
                offset = first - variants.start
                words = self._words[:count]
                kernels.launch_decode(variants.packed[offset : offset + count], self._table[rows], words)
                tile = words.view(np.float16)
                self._blas.multiply(tile, right, U[:count])
                kernels.launch_halve(U[:count], self._factor[rows], halves[:count])
                self._blas.multiply(tile, halves[:count], out, alpha=self._scale, beta=float(started), transpose=True)
                started = True
        return out


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
