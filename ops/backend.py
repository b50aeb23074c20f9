"""Choice of the backend: once, explicit, never silently another."""

import os

import numpy as np

from .cpu import CpuProducts
from .cpu_integers import IntegerProducts, can_multiply
from .device.products import Residency, make_device_products
from .genotypes import CALL_BITS, PackedGenotypes

DEVICES = ("auto", "cpu", "cuda")
ARITHMETIC = ("auto", "float")


def resolve_backend(device: str) -> str:
    """ "cpu" or "cuda" for a requested device; "auto" takes a CUDA device when there is one (never the simulator).

    Raises ValueError when "cuda" is asked for and cannot be had, saying what is missing.
    """
    if device not in DEVICES:
        raise ValueError(f"device: expected one of {', '.join(DEVICES)}, found {device!r}")
    if device == "cpu":
        return "cpu"
    from .cuda.driver import cuda_available, cuda_unavailable_reason

    if cuda_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise ValueError(f"device='cuda': {cuda_unavailable_reason()}")


def takes_integers(bits: int, dtype: type) -> bool:
    """Whether products on the CPU are by integers: where they can be, unless ``GPU_REML_PRODUCTS=float``."""
    wanted = os.environ.get("GPU_REML_PRODUCTS", "auto")
    if wanted not in ARITHMETIC:
        raise ValueError(f"GPU_REML_PRODUCTS: expected one of {', '.join(ARITHMETIC)}, found {wanted!r}")
    return wanted == "auto" and can_multiply(bits, dtype)


def make_cpu_products(genotypes: PackedGenotypes, dtype: type = np.float32) -> CpuProducts:
    """Products on the CPU by the arithmetic that :func:`takes_integers` chooses."""
    if isinstance(genotypes, PackedGenotypes) and takes_integers(genotypes.bits, dtype):
        return IntegerProducts(genotypes)
    return CpuProducts(genotypes, dtype)


def make_products(
    genotypes: PackedGenotypes,
    device: str = "auto",
    dtype: type = np.float32,
    *,
    residency: Residency | None = None,
    limit: int | None = None,
    num_devices: int = 1,
    cuts: np.ndarray | None = None,
):
    """Products with the genotypes on a backend; float64 products exist on the CPU only.

    On CUDA devices: ``residency`` says what of the genotypes stays there (all by default), ``limit`` the bytes that may
    be held on each device, ``num_devices`` how many share the variants, ``cuts`` where pieces may end, which block
    weights (:class:`~gpu_reml.ops.weights.BlockWeights`) say.  Dosages take the portable kernels: those for
    tensor cores multiply calls.
    """
    backend = resolve_backend(device)
    if backend == "cpu":
        return make_cpu_products(genotypes, dtype)
    if np.dtype(dtype) != np.float32:
        raise ValueError("dtype: the cuda backend computes in float32; use device='cpu' for float64")
    from .cuda.device import CudaDevice
    from .cuda.driver import list_devices

    found = len(list_devices())
    if not 1 <= num_devices <= found:
        raise ValueError(f"num_devices: expected 1 to {found}, the CUDA devices that are visible; found {num_devices}")
    kernels = "auto" if genotypes.bits == CALL_BITS else "portable"
    devices = [CudaDevice(i, limit, kernels) for i in range(num_devices)]
    return make_device_products(genotypes, devices, residency, cuts)
