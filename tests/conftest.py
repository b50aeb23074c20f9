"""GPU tests: skipped with a printed count where there is no device, failures under --require-gpu."""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

if find_spec("gpu_reml") is None:  # a checkout that nobody installed: the folders at its root are the package
    package = ModuleType("gpu_reml")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["gpu_reml"] = package

from gpu_reml.ops.cuda.driver import cuda_available, cuda_unavailable_reason

# A machine for GPU tests may lack the packages that read files and invent examples: what needs them is not collected.
NEEDS = {
    "pandas": ["io", "cli", "validation", "test_benchmarks.py", "test_packaging.py"],
    "distributed": ["ops/cluster"],
    "hypothesis": ["io", "validation", "ops/test_packing.py", "reml/test_properties.py", "reml/test_fit_properties.py"],
}
collect_ignore = [path for name, paths in NEEDS.items() if find_spec(name) is None for path in paths]


def pytest_addoption(parser):
    parser.addoption(
        "--require-gpu", action="store_true", help="fail, instead of skip, the gpu tests where there is no CUDA device"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "device: not for numba's simulator")
    config.addinivalue_line("markers", "large: too long for the interpreter of PTX")


def pytest_runtest_setup(item):
    # Whoever sets NUMBA_ENABLE_CUDASIM=1 asks for the simulator, so there it is allowed.
    if item.get_closest_marker("gpu") is None or cuda_available(allow_simulator=True):
        return
    reason = f"gpu test: {cuda_unavailable_reason()}"
    if item.config.getoption("--require-gpu"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter):
    # what is skipped before a module is collected has no keywords
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if "gpu" in getattr(report, "keywords", ())
    ]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} gpu tests skipped: {cuda_unavailable_reason()}")
    for report in terminalreporter.stats.get("passed", []):
        for line in dict(report.user_properties).get("lines", ()):
            terminalreporter.write_line(line)


@pytest.fixture
def within_two_minutes():
    """A test that waits for other processes fails where it would wait for ever."""

    def late(_number, _frame):
        raise TimeoutError("two minutes are over")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def forked_workers():
    """Workers are forked from a process that has imported most of what they need, but for numba, which takes its number
    of threads from the environment when it is imported."""
    import dask
    from distributed.utils import get_mp_context

    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    get_mp_context().set_forkserver_preload(["distributed", "numpy", "scipy.linalg", "scipy.sparse", "threadpoolctl"])


@pytest.fixture(scope="session")
def external_data():
    """Folder of cohorts that other people made; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("GPU_REML_EXTERNAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no external data at {folder}; set GPU_REML_EXTERNAL_DATA")
    return folder
