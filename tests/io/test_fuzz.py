"""Damaged files for every reader, a hundred each; by hand: python -m tests.fuzz --inputs 3000."""

import subprocess
import sys
from pathlib import Path

import pytest

for package in ("bgen", "zstandard", "rdata"):
    pytest.importorskip(package)

ROOT = Path(__file__).resolve().parents[2]


def test_no_damaged_file_ends_in_a_traceback_a_crash_or_a_hang():
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", "100", "--seed", "7"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    rows = [line.split() for line in found.stdout.splitlines()[1:-1]]
    assert len(rows) > 45 and all("100" in row for row in rows)
    assert all(int(row[row.index("100") + 1]) > 0 or row[:2] == ["cache", "entry"] for row in rows), found.stdout
