"""The gpu tests of kernels and blocks in numba's simulator, which replaces the compiler of a whole process."""

import re

import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating


@pytest.mark.skipif(bool(missing_toolkit_libraries()), reason="numba.cuda cannot be imported without cudart")
@pytest.mark.skipif(simulating(), reason="already in the simulator")
def test_the_gpu_tests_pass_in_the_simulator(simulator_run):
    """Same tests as on a device; --require-gpu makes a skipped one a failure."""
    process, printed = simulator_run
    code, text = process.wait(), printed.read_text()
    assert code == 0, text
    assert re.search(r"\d+ passed", text) and "skipped" not in text, text
