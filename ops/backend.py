"""Choice of the backend: once, explicit, never silently another."""

import numpy as np

from .cpu import CpuProducts
from .genotypes import PackedGenotypes

DEVICES = ("auto", "cpu", "cuda")


def resolve_backend(device: str) -> str:
    """"cpu" or "cuda" for a requested device; "auto" takes a CUDA device when there is one (never the simulator).

    Raises ValueError when "cuda" is asked for and cannot be had, saying what is missing.
    """
    if device not in DEVICES:
        raise ValueError(f"device: expected one of {', '.join(DEVICES)}, found {device!r}")
    if device == "cpu":
        return "cpu"
    from .cuda_device import cuda_available, cuda_unavailable_reason

    if cuda_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise ValueError(f"--device cuda: {cuda_unavailable_reason()}")


def make_products(genotypes: PackedGenotypes, device: str = "auto", dtype: type = np.float32):
    """Products with the genotypes on a backend; float64 products exist on the CPU only."""
    backend = resolve_backend(device)
    if backend == "cpu":
        return CpuProducts(genotypes, dtype)
    if np.dtype(dtype) != np.float32:
        raise ValueError("dtype: the cuda backend computes in float32; use --device cpu for float64 products")
    from .cuda import make_cuda_products

    return make_cuda_products(genotypes)
