"""GPU tests: skipped with a printed count where there is no device, failures under --require-gpu."""

import pytest

from gpu_reml.ops.cuda_device import cuda_available, cuda_unavailable_reason


def pytest_addoption(parser):
    parser.addoption(
        "--require-gpu", action="store_true", help="fail, instead of skip, the gpu tests where there is no CUDA device"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "device: too large for numba's simulator; with gpu, needs a real device")


def pytest_runtest_setup(item):
    # Whoever sets NUMBA_ENABLE_CUDASIM=1 asks for the simulator, so there it is allowed.
    if item.get_closest_marker("gpu") is None or cuda_available(allow_simulator=True):
        return
    reason = f"gpu test: {cuda_unavailable_reason()}"
    if item.config.getoption("--require-gpu"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter):
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "gpu" in report.keywords]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} gpu tests skipped: {cuda_unavailable_reason()}")
