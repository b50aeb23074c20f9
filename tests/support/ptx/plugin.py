"""The gpu tests on interpreted PTX: ``pytest -p ptx.plugin -m gpu --require-gpu`` with tests/support on the path.

PTX_SCHEDULE: "lockstep" or "reverse"; PTX_TRUNCATING=1: accumulators of tensor cores are rounded toward zero.
"""

import os
from collections import Counter

import pytest

from gpu_reml.ops.cuda import device as device_module
from gpu_reml.ops.cuda import driver

from .shim import Emulator

SCHEDULE = os.environ.get("PTX_SCHEDULE", "lockstep")
TRUNCATING = os.environ.get("PTX_TRUNCATING") == "1"
KERNELS: dict = {}
LAUNCHED: Counter = Counter()
driver.cuda_available = lambda allow_simulator=False: True  # before a conftest.py imports it


@pytest.fixture(autouse=True)
def ptx_device(monkeypatch):
    """Every test has a device of its own; kernels are compiled once."""
    emulator = Emulator(SCHEDULE, TRUNCATING, KERNELS)
    emulator.install(monkeypatch, device_module)
    yield emulator
    LAUNCHED.update(emulator.launched)
    assert not emulator.machine.issues, dict(emulator.machine.issues)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{sum(LAUNCHED.values())} launches of {len(KERNELS)} kernels: {dict(LAUNCHED)}")
