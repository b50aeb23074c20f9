"""The gpu tests on interpreted PTX, with tests/support on the path:

    pytest -p ptx.plugin -m "gpu and not large" --require-gpu

Every test runs in each of SCHEDULES, on a device of its own, and may leave no race and no read of what nobody wrote.
"""

from collections import Counter

import pytest

from gpu_reml.ops.cuda import device as device_module
from gpu_reml.ops.cuda import driver

from .shim import Emulator

SCHEDULES = ("lockstep", "shuffled")
KERNELS: dict = {}  # compiled once
LAUNCHED: Counter = Counter()
driver.cuda_available = lambda allow_simulator=False: True  # before a conftest.py imports it


@pytest.fixture(autouse=True, params=SCHEDULES)
def ptx_device(request, monkeypatch):
    emulator = Emulator(request.param, kernels=KERNELS)
    emulator.install(monkeypatch, device_module)
    yield emulator
    LAUNCHED[request.param] += sum(emulator.launched.values())
    assert not emulator.machine.issues, dict(emulator.machine.issues)


def pytest_terminal_summary(terminalreporter):
    for schedule, count in LAUNCHED.items():
        terminalreporter.write_line(f"{schedule}: {count} launches of {len(KERNELS)} kernels")
