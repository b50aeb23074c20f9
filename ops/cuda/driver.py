"""Whether CUDA kernels can run here, on what, and what is missing when they cannot.

Importing this module needs no CUDA software.  ``numba.cuda`` cannot even be imported without the toolkit's run-time
library, so nothing here imports it before that library has been found.
"""

import ctypes
import os
import sys
from typing import NamedTuple

from cuda import pathfinder
from numba import config

TOOLKIT_LIBRARIES = ("cudart", "nvrtc", "nvvm", "nvJitLink")  # to import numba.cuda, compile a kernel and load it
SIMULATOR_LIBRARIES = ("cudart",)
CUDA_NEEDED = (13, 0)  # of the toolkit that the extra "cuda" installs; a driver loads no machine code of a later major
DRIVER_NEEDED = 580  # the first with CUDA 13.0


def simulating() -> bool:
    """Whether numba's CUDA simulator stands in for a device (NUMBA_ENABLE_CUDASIM=1)."""
    return bool(config.ENABLE_CUDASIM)


def missing_toolkit_libraries() -> list[str]:
    """CUDA toolkit libraries that are needed and that this Python cannot load."""
    missing = []
    for name in SIMULATOR_LIBRARIES if simulating() else TOOLKIT_LIBRARIES:
        try:
            pathfinder.load_nvidia_dynamic_lib(name)
        except pathfinder.DynamicLibNotFoundError:
            missing.append(name)
    return missing


def driver_library() -> ctypes.CDLL | None:
    """The CUDA driver's library, None where there is none: asked first, since asking the toolkit costs 100 MB."""
    named = os.environ.get("NUMBA_CUDA_DRIVER")
    names = (
        ["nvcuda.dll"] if sys.platform == "win32" else ["libcuda.so.1", "libcuda.so", "/usr/lib/wsl/lib/libcuda.so.1"]
    )
    for name in [named] if named else names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA (major, minor) that the driver supports; None without a driver, or where it does not say."""
    library, version = driver_library(), ctypes.c_int(0)
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def cuda_available(allow_simulator: bool = False) -> bool:
    """Whether kernels can run here: a device, its driver and the toolkit's libraries; the simulator only if allowed."""
    if simulating():
        return allow_simulator and not missing_toolkit_libraries()
    return driver_library() is not None and not cuda_unavailable_reason()


def cuda_unavailable_reason() -> str:
    """One line: which of device, driver and toolkit is missing and what to install; empty when nothing is."""
    return _software_missing() or _described(driver_problem())


def _software_missing() -> str:
    version = None if simulating() else driver_version()
    if version is not None and version < CUDA_NEEDED:
        return (
            f"the CUDA driver supports CUDA {_dotted(version)} at most, and kernels are compiled for CUDA "
            f"{_dotted(CUDA_NEEDED)}; install NVIDIA driver {DRIVER_NEEDED} or newer, or use device='cpu'"
        )
    missing = missing_toolkit_libraries()
    if missing:
        return f"CUDA toolkit libraries not found: {', '.join(missing)}; pip install 'gpu-reml[cuda]'"
    if simulating():
        return "NUMBA_ENABLE_CUDASIM=1 replaces the CUDA device by a simulator; unset it to use a device"
    return ""


def _described(problem: str | None) -> str:
    if problem is None:
        return ""
    if "NO_DEVICE" in problem:
        return "the CUDA driver finds no device; check that one is installed and that CUDA_VISIBLE_DEVICES shows it"
    if "library cannot be found" in problem:
        return "no NVIDIA driver (libcuda) on this machine; install the driver of the device, or use device='cpu'"
    return f"the CUDA driver does not start: {' '.join(problem.split())}"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def driver_problem() -> str | None:
    """The driver's own account of why it has no device, or None; needs the toolkit's run-time library."""
    from numba import cuda

    return None if cuda.is_available() else str(cuda.cuda_error())


class DeviceInfo(NamedTuple):
    """A CUDA device as the driver describes it; memory in bytes."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    total: int
    free: int


def list_devices() -> list[DeviceInfo]:
    """The devices this process may use; raises ValueError with the reason when there is none.

    Asking how much memory is free makes a context on every device, which takes some hundred MiB of it for a moment.
    """
    reason = cuda_unavailable_reason()
    if reason:
        raise ValueError(f"no CUDA device: {reason}")
    from numba import cuda

    found = []
    for index, gpu in enumerate(cuda.gpus):
        with gpu:
            device = cuda.get_current_device()
            free, total = cuda.current_context().get_memory_info()
        name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
        found.append(DeviceInfo(index, name, tuple(device.compute_capability), int(total), int(free)))
    return found
