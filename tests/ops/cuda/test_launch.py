"""Machine code that is kept between processes, and what errors of CUDA's libraries become."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpu_reml.ops.compile import sources_digest
from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating
from gpu_reml.ops.device.interface import DeviceLostError
from gpu_reml.ops.device.pool import DeviceMemoryError

pytestmark = [
    pytest.mark.skipif(bool(missing_toolkit_libraries()), reason="numba.cuda cannot be imported without cudart"),
    pytest.mark.skipif(simulating(), reason="the simulator neither compiles nor asks a driver"),
]

KERNEL = """
from neighbour import SIZE
from gpu_reml.ops.cuda.launch import cuda_kernel

@cuda_kernel()
def kernel(x):
    x[0] = 1
"""


@pytest.fixture
def kept_code(tmp_path, monkeypatch):
    """The file that keeps code of a kernel whose module has a neighbour with this text."""
    from numba.cuda.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kept"))
    folder = tmp_path / "kernels"
    folder.mkdir()
    path = folder / "product.py"
    path.write_text(KERNEL)

    def kernel(neighbour):
        (folder / "neighbour.py").write_text(neighbour)
        sources_digest.cache_clear()  # a process of its own reads them anew
        names = {}
        monkeypatch.setitem(sys.modules, "neighbour", SimpleNamespace(SIZE=1))
        exec(compile(KERNEL, path, "exec"), names)
        return names["kernel"]._cache._cache_file

    return kernel


def test_kept_code_of_a_kernel_counts_until_a_module_that_it_imports_changes(kept_code):
    kept_code("SIZE = 1").save("signature", "code of size 1")
    assert kept_code("SIZE = 1").load("signature") == "code of size 1"
    assert kept_code("SIZE = 2").load("signature") is None
    kept_code("SIZE = 2").save("signature", "code of size 2")
    assert kept_code("SIZE = 2").load("signature") == "code of size 2"


def test_every_kernel_of_the_package_and_of_the_benchmark_is_kept_by_the_sources_that_it_takes(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # the benchmark is not installed
    from benchmarks.gpu import kernels
    from gpu_reml.ops.cuda import algebra, operands, portable, tensor, tensor_products, weights

    made = [algebra.make_gram_kernel(False, False), portable.make_zt_kernel(2, False), tensor.make_zt_kernel(2, 0)]
    plain = [
        v
        for m in (algebra, kernels, operands, tensor_products, weights)
        for n, v in vars(m).items()
        if n.endswith("_kernel")
    ]
    found = [kernel for kernel in made + plain if hasattr(kernel, "_cache")]
    assert len(found) > 15
    for kernel in found:
        stamp, digest = kernel._cache._cache_file._source_stamp
        assert len(stamp) == 2 and len(digest) == 64, kernel.py_func


class Failing:
    """What a method of a device is called on, when a library fails in it."""

    label, _context = "cuda:3", nullcontext()


def raised(kind, message):
    from gpu_reml.ops.cuda.device import on_device

    @on_device
    def method(self):
        raise kind(message)

    return method(Failing())


def cuda_errors():
    from cuda.bindings.nvjitlink import nvJitLinkError
    from cuda.core._utils.cuda_utils import CUDAError, NVRTCError
    from numba.cuda.cudadrv.driver import CudaAPIError, LinkerError
    from numba.cuda.cudadrv.error import NvvmError

    return {
        "driver": lambda text: CudaAPIError(700, text),
        "launch": CUDAError,
        "nvrtc": NVRTCError,
        "nvjitlink": lambda text: nvJitLinkError(5),
        "linker": LinkerError,
        "nvvm": NvvmError,
    }


@pytest.mark.parametrize("source", ["driver", "launch"])
def test_a_fault_is_said_in_one_line_with_the_hint_to_go_on(source):
    fault = "CUDA_ERROR_ILLEGAL_ADDRESS: while executing a kernel,\nthe device met an address that is not allocated"
    with pytest.raises(DeviceLostError, match=r"cuda:3 stopped answering \(.*ILLEGAL_ADDRESS.*goes on from") as caught:
        raised(cuda_errors()[source], fault)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["driver", "launch"])
def test_no_memory_at_a_call_or_a_launch_is_said_as_such(source):
    with pytest.raises(DeviceMemoryError, match="cuda:3 is out of memory: give it a lower limit"):
        raised(cuda_errors()[source], "CUDA_ERROR_OUT_OF_MEMORY: the API call failed")


@pytest.mark.parametrize("source", ["nvrtc", "nvjitlink", "linker", "nvvm"])
def test_a_kernel_that_does_not_compile_or_link_is_said_as_such(source):
    with pytest.raises(DeviceLostError, match=r"cuda:3 got no kernel: compiling it failed \(.*pip install 'gpu-reml"):
        raised(cuda_errors()[source], "ERROR: in the module")


def test_a_mistake_of_the_program_stays_what_it_is():
    with pytest.raises(IndexError, match="no such row"):
        raised(IndexError, "no such row")
