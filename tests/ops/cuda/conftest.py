"""Device arrays for the tests of the launchers, on a device or in numba's simulator."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

GUARD = -7.0


class Device:
    """Makes device arrays; memory that nobody has written is NaN, so an entry that a kernel leaves out shows."""

    stream = 0

    def __init__(self):
        self.allocated_bytes = 0

    @staticmethod
    def put(array, dtype=np.float32):
        from numba import cuda

        return cuda.to_device(np.ascontiguousarray(array, dtype))

    def empty(self, shape, dtype=np.float32):
        return self.put(np.full(shape, np.nan if np.dtype(dtype).kind == "f" else -1), dtype)

    def allocate(self, shape, dtype):
        """What launchers take scratch memory from."""
        self.allocated_bytes += int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.empty(shape, dtype)

    def guarded(self, array, dtype=np.float32):
        """(array on the device, function that reads it back): rows before and after it must keep their value."""
        array = np.asarray(array, dtype)
        whole = self.put(np.concatenate([np.full_like(array[:1], GUARD), array, np.full_like(array[:1], GUARD)]), dtype)

        def read():
            host = whole.copy_to_host()
            assert (host[[0, -1]] == GUARD).all(), "a kernel wrote outside its result"
            return host[1:-1]

        return whole[1:-1], read


@pytest.fixture
def device():
    return Device()


@pytest.fixture(scope="session")
def simulator_run(tmp_path_factory):
    """(process, file with what it prints) of the gpu tests in numba's simulator, which run beside the tests here."""
    folder = Path(__file__).parent
    options = ["-q", "--require-gpu", "-p", "no:xdist", "-m", "gpu and not device"]
    command = [sys.executable, "-m", "pytest", *options, str(folder), str(folder.parent / "device")]
    printed = tmp_path_factory.mktemp("simulator") / "printed.txt"
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "OPENBLAS_NUM_THREADS": "1"}
    with open(printed, "wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=folder)
    yield process, printed
    process.kill()


@pytest.fixture(scope="session", autouse=True)
def simulator_started_early(request):
    """The simulator starts with the first test here, if the one that waits for it is to run in this process too.

    Where workers share the tests, that one starts it: the others are busy anyway.
    """
    wanted = any(item.name == "test_the_gpu_tests_pass_in_the_simulator" for item in request.session.items)
    if wanted and os.environ.get("NUMBA_ENABLE_CUDASIM") != "1" and "PYTEST_XDIST_WORKER" not in os.environ:
        request.getfixturevalue("simulator_run")
