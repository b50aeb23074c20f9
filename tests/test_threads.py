"""Threads of numba and BLAS that sleep when they have nothing to do."""

import os
import subprocess
import sys

import pytest

SHOWN = "import os, numba; print(os.environ['OPENBLAS_THREAD_TIMEOUT'], numba.config.THREADING_LAYER)"
FIRST = {
    "the package": "import numba, gpu_reml; ",
    "a command": "from gpu_reml.cli.run import limit_threads; limit_threads(1); import gpu_reml.ops; ",
}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("theirs", [{}, {"OPENBLAS_THREAD_TIMEOUT": "7", "NUMBA_THREADING_LAYER": "omp"}])
def test_threads_sleep_soon_unless_the_user_has_chosen(first, theirs):
    names = ("OPENBLAS_THREAD_TIMEOUT", "NUMBA_THREADING_LAYER")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    run = subprocess.run(
        [sys.executable, "-c", FIRST[first] + SHOWN],
        env=environment | theirs,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == (["7", "omp"] if theirs else ["4", "workqueue"])


def test_a_command_sets_how_long_blas_waits_before_numpy_is_there():
    code = "import sys; from gpu_reml.cli.run import limit_threads; limit_threads(1); print('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
