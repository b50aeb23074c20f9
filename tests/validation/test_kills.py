"""Runs that are killed and resumed, a few of those of ``python -m gpu_reml.validation.kills``."""

import os
import subprocess
import sys

import pytest

from gpu_reml.validation import kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_runs_resume_to_the_same_results_and_leave_nothing():
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "gpu_reml.validation.kills",
        "--kills",
        "3",
        "--only",
        "four components",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **one})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all results as of runs that nobody killed; 8 processes with one --out: whole" in done.stdout


@pytest.mark.parametrize("change", ["a file more", "a file less", "another digit"])
def test_a_difference_is_found_and_named(tmp_path, change):
    (tmp_path / "run.hsq").write_text("V(G)\t1.5\n")
    (tmp_path / "run.log").write_text("3 iterations, 0.5 s\n")
    case = kills.Case("one", (), kills.content_of(tmp_path), 1.0)
    (tmp_path / "run.log").write_text("3 iterations, 7.1 s\n")
    assert kills.difference(case, kills.content_of(tmp_path)) is None
    if change == "a file more":
        (tmp_path / ".run.hsq.01234567.tmp").touch()
        expected = "files left over or missing: .run.hsq.01234567.tmp"
    elif change == "a file less":
        (tmp_path / "run.hsq").unlink()
        expected = "files left over or missing: run.hsq"
    else:
        (tmp_path / "run.hsq").write_text("V(G)\t1.6\n")
        expected = "run.hsq differ"
    assert kills.difference(case, kills.content_of(tmp_path)) == f"one: {expected}"
