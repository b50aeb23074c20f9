import os
import re
import subprocess
import sys
from importlib.metadata import requires

import pytest
from cuda import pathfinder

from gpu_reml.ops.cuda import driver as cuda_device
from gpu_reml.ops.cuda.driver import cuda_available, cuda_unavailable_reason, missing_toolkit_libraries


class DriverLibrary:
    """A driver that says which CUDA it supports, as cuDriverGetVersion does, or fails to."""

    def __init__(self, version):
        self.version = version

    def cuDriverGetVersion(self, address):  # noqa: N802
        if isinstance(self.version, int):
            address._obj.value = self.version
            return 0
        return 999


@pytest.fixture
def machine(monkeypatch):
    """Set what this machine seems to have: machine(simulator, driver's error, missing libraries, driver's CUDA)."""

    def pretend(simulator=False, error=None, missing=(), driver=13000):
        monkeypatch.setattr(cuda_device, "simulating", lambda: simulator)
        monkeypatch.setattr(cuda_device, "missing_toolkit_libraries", lambda: list(missing))
        monkeypatch.setattr(cuda_device, "driver_problem", lambda: error)
        monkeypatch.setattr(cuda_device, "driver_library", lambda: driver and DriverLibrary(driver))

    return pretend


@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        ({"simulator": True}, "NUMBA_ENABLE_CUDASIM=1 replaces the CUDA device by a simulator; unset it"),
        ({"error": "CUDA_ERROR_NO_DEVICE (100)"}, "the CUDA driver finds no device; check"),
        ({"error": "\nCUDA driver library cannot be found.\nEnsure\n"}, "no NVIDIA driver .* install the driver"),
        ({"error": "CUDA_ERROR_X\n (9)"}, r"the CUDA driver does not start: CUDA_ERROR_X \(9\)"),
        ({"missing": ["nvrtc", "nvvm"]}, r"libraries not found: nvrtc, nvvm; pip install 'gpu-reml\[cuda\]'"),
        (
            {"driver": 12040, "missing": ["nvvm"], "error": "CUDA_ERROR_X (9)"},
            r"supports CUDA 12\.4 at most, and kernels are compiled for CUDA 13\.0; install NVIDIA driver 580 or newer",
        ),
        ({"driver": "silent", "error": "CUDA_ERROR_X (9)"}, r"the CUDA driver does not start: CUDA_ERROR_X \(9\)"),
    ],
)
def test_what_is_missing_is_said_in_one_line(machine, situation, reason):
    machine(**situation)
    assert not cuda_available()
    assert re.search(reason, cuda_unavailable_reason())
    assert "\n" not in cuda_unavailable_reason()


def test_the_simulator_is_available_only_when_it_is_allowed(machine):
    machine(simulator=True)
    assert not cuda_available()
    assert cuda_available(allow_simulator=True)
    machine(simulator=True, missing=["cudart"])
    assert not cuda_available(allow_simulator=True)


def test_a_complete_machine_is_available_without_a_reason(machine):
    machine()
    assert cuda_available()
    assert cuda_unavailable_reason() == ""


@pytest.mark.parametrize("version", [13000, 13020, 14010])
def test_a_driver_of_the_toolkit_s_version_or_newer_is_available(machine, version):
    machine(driver=version)
    assert cuda_available() and cuda_device.driver_version() >= (13, 0)


def test_the_driver_needed_is_that_of_the_toolkit_that_is_installed_with_the_package():
    pins = {re.search(r"==(\d+)\.(\d+)\.\*", text).groups() for text in requires("gpu-reml") if "cuda-toolkit" in text}
    assert pins == {tuple(map(str, cuda_device.CUDA_NEEDED))}


def test_without_the_driver_library_the_toolkit_is_not_even_loaded(machine, monkeypatch):
    machine(driver=None)
    monkeypatch.setattr(cuda_device, "missing_toolkit_libraries", lambda: pytest.fail("the toolkit was loaded"))
    assert not cuda_available()


def test_every_toolkit_library_that_does_not_load_is_named(monkeypatch):
    def load(name):
        if name in ("nvvm", "cudart"):
            raise pathfinder.DynamicLibNotFoundError(f"Failure finding {name}")

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", load)
    monkeypatch.setattr(cuda_device, "simulating", lambda: False)
    assert missing_toolkit_libraries() == ["cudart", "nvvm"]
    monkeypatch.setattr(cuda_device, "simulating", lambda: True)
    assert missing_toolkit_libraries() == ["cudart"]


def test_looking_for_a_device_without_a_toolkit_does_not_import_numba_cuda():
    """numba.cuda fails at import where cudart is missing: a machine without CUDA software must not reach it."""
    script = """
import sys
from cuda import pathfinder

def load(name):
    raise pathfinder.DynamicLibNotFoundError(name)

pathfinder.load_nvidia_dynamic_lib = load
from gpu_reml.ops.cuda.driver import cuda_available
print(cuda_available(), "numba.cuda" in sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["False", "False"], result.stderr
