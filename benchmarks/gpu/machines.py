"""Where the benchmark runs: a CUDA device, or a device made of NumPy on which everything but the kernels is tried."""

import gc
import platform
from importlib import metadata

import numpy as np

from gpu_reml.ops import PackedGenotypes, standardise

from .cohorts import Cohort, genotypes_of, packed_rows, stream_of, thresholds

CHUNK_BYTES = 1 << 30  # of genotypes made at once


class MissingPeerError(RuntimeError):
    """There is nothing to compare with."""


class HostMachine:
    """The NumPy device; what needs CUDA is missing."""

    name = "host"
    kernels = ("host",)
    free_bytes = 1 << 40

    def describe(self) -> dict:
        return {"device": "NumPy on the host", "versions": versions("numpy", "scipy", "numba")}

    def device(self, kernels: str | None = None, limit: int | None = None):
        """A device with memory of its own, whose kernels are ``kernels``."""
        from gpu_reml.validation.host_device import HostDevice

        return HostDevice(limit=limit)

    def synchronize(self) -> None:
        """NumPy is never ahead."""

    def reclaim(self) -> None:
        gc.collect()

    def copy(self, source, target) -> None:
        target[...] = source

    def simulate(self, cohort: Cohort) -> PackedGenotypes:
        """A cohort's genotypes in host memory."""
        return standardise([packed_rows(cohort, 0, cohort.num_variants)], cohort.num_samples)

    def blas(self):
        raise MissingPeerError("cuBLAS needs a CUDA device")


class CudaMachine:
    """The first CUDA device; raises ValueError where there is none, saying what is missing."""

    name = "cuda"

    def __init__(self):
        from gpu_reml.ops.cuda.driver import list_devices, simulating

        self._info = None if simulating() else list_devices()[0]
        from numba import cuda  # not before it is known that it can be imported

        from gpu_reml.ops.cuda.device import TENSOR_CORES

        self._cuda = cuda
        capable = self._info is not None and self._info.compute_capability >= TENSOR_CORES
        self.kernels = ("tensor", "portable") if capable else ("portable",)

    @property
    def free_bytes(self) -> int:
        return int(min(self._cuda.current_context().get_memory_info().free, 1 << 40))

    def describe(self) -> dict:
        if self._info is None:
            return {"device": "numba's CUDA simulator", "versions": versions("numba", "numba-cuda", "numpy")}
        from cuda.bindings import driver

        return {
            "device": self._info.name,
            "compute_capability": list(self._info.compute_capability),
            "memory_bytes": self._info.total,
            "free_bytes": self._info.free,
            "cuda_driver_version": int(driver.cuDriverGetVersion()[1]),
            "versions": versions("numba", "numba-cuda", "cuda-bindings", "cuda-core", "llvmlite", "numpy", "scipy"),
        }

    def device(self, kernels: str | None = None, limit: int | None = None):
        from gpu_reml.ops.cuda.device import CudaDevice

        return CudaDevice(0, limit, kernels or "auto")

    def synchronize(self) -> None:
        self._cuda.synchronize()

    def reclaim(self) -> None:
        """Memory of what was dropped goes back to the driver now."""
        gc.collect()
        if self._info is not None:
            self._cuda.current_context().deallocations.clear()

    def copy(self, source, target) -> None:
        target.copy_to_device(source)

    def simulate(self, cohort: Cohort) -> PackedGenotypes:
        """A cohort's genotypes, made and counted on the device, in host memory."""
        from . import kernels

        n, m, row_bytes = cohort.num_samples, cohort.num_variants, cohort.row_bytes
        packed, counts = np.empty((m, row_bytes), np.uint8), np.empty((m, 3), np.int32)
        below = thresholds(cohort)
        chunk = min(m, max(1, CHUNK_BYTES // row_bytes))
        made = self._cuda.device_array((chunk, row_bytes), np.uint8)
        counted = self._cuda.device_array((chunk, 3), np.int32)
        for first in range(0, m, chunk):
            rows = slice(first, min(first + chunk, m))
            count = rows.stop - first
            limits = self._cuda.to_device(below[rows])
            kernels.launch_simulate(limits, stream_of(cohort.seed), first, made[:count])
            kernels.launch_count(made[:count], n, counted[:count])
            made[:count].copy_to_host(packed[rows])
            counted[:count].copy_to_host(counts[rows])
        return genotypes_of(packed, cohort, counts)

    def blas(self):
        from .blas import Blas

        return Blas()


def versions(*packages: str) -> dict[str, str | None]:
    """Installed versions, with Python's and the system's."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
