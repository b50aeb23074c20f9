"""The gpu tests on the PTX that numba-cuda emits, run by the interpreter of tests/support/ptx."""

import re

import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating

pytestmark = [
    pytest.mark.skipif(bool(missing_toolkit_libraries()), reason="numba.cuda cannot be imported without cudart"),
    pytest.mark.skipif(simulating(), reason="the simulator compiles nothing"),
]


@pytest.mark.parametrize("part", ["tensor", "portable"])
def test_the_gpu_tests_pass_on_interpreted_ptx(interpreted_runs, part, record_property):
    """Same tests as on a device; --require-gpu makes a skipped one a failure, and so is any race or stray access.

    The report of the tests ends with how many they are, their seconds and launches.
    """
    process, printed = interpreted_runs(part)
    code, text = process.wait(), printed.read_text()
    assert code == 0, text
    passed = re.search(r"(\d+ passed).* in ([\d.]+ ?s)", text)
    assert passed and "skipped" not in text, text
    record_property(
        "lines", [f"interpreted PTX, {part}: {' in '.join(passed.groups())}", *re.findall(r".*launches of.*", text)]
    )
    for schedule in ("lockstep", "shuffled"):
        launches, kernels = map(int, re.search(rf"{schedule}: (\d+) launches of (\d+) kernels", text).groups())
        assert launches > 100 and kernels >= 20, text
