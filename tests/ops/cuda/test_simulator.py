"""The gpu tests of kernels and blocks in numba's simulator, which replaces the compiler of a whole process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating


@pytest.mark.skipif(bool(missing_toolkit_libraries()), reason="numba.cuda cannot be imported without cudart")
@pytest.mark.skipif(simulating(), reason="already in the simulator")
def test_the_gpu_tests_pass_in_the_simulator():
    """Same tests as on a device; --require-gpu makes a skipped one a failure."""
    folder = Path(__file__).parent
    options = ["-q", "--require-gpu", "-p", "no:xdist", "-m", "gpu and not device"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder), str(folder.parent / "device")],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"\d+ passed", result.stdout) and "skipped" not in result.stdout, result.stdout
