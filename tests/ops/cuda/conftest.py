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


PARTS = {"tensor": ["test_tensor.py"], "portable": ["../device", "../test_dosages.py", "."]}


@pytest.fixture(scope="session")
def interpreted_runs(tmp_path_factory):
    """part -> (process, file with what it prints) of its gpu tests on interpreted PTX; starts it the first time."""
    folder = Path(__file__).parent
    runs = {}

    def run(part):
        if part not in runs:
            left = [] if part == "tensor" else [f"--ignore={folder / 'test_tensor.py'}"]
            options = ["-q", "--require-gpu", "-p", "no:xdist", "-p", "ptx.plugin", "-m", "gpu and not large", *left]
            command = [sys.executable, "-m", "pytest", *options, *(str(folder / path) for path in PARTS[part])]
            support = str(folder.parents[1] / "support")
            environment = {**os.environ, "PYTHONPATH": support, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            printed = tmp_path_factory.mktemp("interpreted") / f"{part}.txt"
            with open(printed, "wb") as output:
                process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=folder)
            runs[part] = process, printed
        return runs[part]

    yield run
    for process, _ in runs.values():
        process.kill()


@pytest.fixture(scope="session", autouse=True)
def interpreter_started_early(request):
    """The interpreter starts with the first test here, if those that wait for it are to run in this process too.

    Where workers share the tests, each of those starts its own: the others are busy anyway.
    """
    wanted = any(item.name.startswith("test_the_gpu_tests_pass_on_interpreted") for item in request.session.items)
    if wanted and os.environ.get("NUMBA_ENABLE_CUDASIM") != "1" and "PYTEST_XDIST_WORKER" not in os.environ:
        for part in PARTS:
            request.getfixturevalue("interpreted_runs")(part)
