"""Choice of the backend: once, explicit, never silently another."""

import os

import numpy as np

from . import cpu_amx, cpu_vnni
from .cpu import CpuProducts
from .cpu_integers import KINDS, IntegerProducts, best_kernels, have_integers
from .cpu_sums import Kernels
from .device.products import Residency, make_device_products
from .genotypes import PackedGenotypes

DEVICES = ("auto", "cpu", "cuda")
ARITHMETIC = {"auto": KINDS, "float": (), "vnni": (cpu_vnni.KERNELS,), "amx": (cpu_amx.KERNELS,)}


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


def integer_kernels(bits: int, dtype: type) -> Kernels | None:
    """What multiplies genotypes of so many bits in integers on the CPU; None for float products.

    ``GPU_REML_PRODUCTS`` in the environment chooses: the best there is (auto), float, vnni or amx.  ValueError where
    the instruction that it names is not there.
    """
    wanted = os.environ.get("GPU_REML_PRODUCTS", "auto")
    if wanted not in ARITHMETIC:
        raise ValueError(f"GPU_REML_PRODUCTS: expected one of {', '.join(ARITHMETIC)}, found {wanted!r}")
    found = best_kernels(ARITHMETIC[wanted])
    if found is None and wanted in ("vnni", "amx"):
        raise ValueError(f"GPU_REML_PRODUCTS={wanted}: {wanted.upper()} cannot be used on this machine; auto can")
    return found if have_integers(bits, dtype) else None


def make_cpu_products(genotypes: PackedGenotypes, dtype: type = np.float32) -> CpuProducts:
    """Products on the CPU by the arithmetic that :func:`integer_kernels` chooses."""
    kernels = integer_kernels(genotypes.bits, dtype) if isinstance(genotypes, PackedGenotypes) else None
    return CpuProducts(genotypes, dtype) if kernels is None else IntegerProducts(genotypes, dtype, kernels=kernels)


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
    weights (:class:`~gpu_reml.ops.weights.BlockWeights`) say.  Raises ValueError for a backend or type that there is
    not, RuntimeError where a device is wanted and missing.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_products, pack, standardise
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.3, (200, 400)).astype(np.int8)
    >>> genotypes = standardise([pack(counts)], 200)
    >>> products = make_products(genotypes, "cpu", np.float64)
    >>> Z = (counts - counts.mean(axis=0)) / counts.std(axis=0)
    >>> bool(np.allclose(products.zt(np.ones((200, 1))), Z.T @ np.ones((200, 1))))
    True
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
    devices = [CudaDevice(i, limit) for i in range(num_devices)]
    return make_device_products(genotypes, devices, residency, cuts)
