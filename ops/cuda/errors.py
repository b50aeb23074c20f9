"""What CUDA's libraries raise, in the terms of who asked for a device.

numba-cuda has errors of its own for the driver and for libNVVM, launches through ``cuda.core``, whose errors are no
kin of them, and links by ``cuda.bindings``, which has a third kind.
"""

from cuda.bindings.nvjitlink import nvJitLinkError
from cuda.bindings.nvvm import nvvmError
from cuda.core._utils.cuda_utils import CUDAError, NVRTCError

from ..device.interface import DeviceLostError
from ..device.pool import DeviceMemoryError
from .driver import simulating

if simulating():  # it calls neither driver nor compiler
    NUMBA_DRIVER, NUMBA_COMPILER = (), ()
else:
    from numba.cuda.cudadrv.driver import LinkerError
    from numba.cuda.cudadrv.error import CudaDriverError, NvvmError

    NUMBA_DRIVER, NUMBA_COMPILER = (CudaDriverError,), (LinkerError, NvvmError)

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
COMPILER_ERRORS = (NVRTCError, nvJitLinkError, nvvmError, *NUMBA_COMPILER)  # the first is a CUDAError too
CUDA_ERRORS = (CUDAError, *NUMBA_DRIVER, *COMPILER_ERRORS)


def explained(error: Exception, label: str) -> DeviceMemoryError | DeviceLostError:
    """The error to raise for one of ``CUDA_ERRORS`` on the device ``label``; its message is one line."""
    said = " ".join(str(error).split())
    if OUT_OF_MEMORY in said:
        return DeviceMemoryError(
            f"{label} is out of memory: give it a lower limit on its memory, or free what others hold there"
        )
    if isinstance(error, COMPILER_ERRORS):
        return DeviceLostError(
            f"{label} got no kernel: compiling it failed ({said}); check that the toolkit's libraries are those of pip "
            "install 'gpu-reml[cuda]'; a fit goes on from what its hook saved"
        )
    return DeviceLostError(
        f"{label} stopped answering ({said}); what it held is lost, and a fit goes on from what its hook saved"
    )
