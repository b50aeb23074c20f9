"""A whole process stays within the memory that its plan says, and the plan is no wild guess."""

import re
import subprocess
import sys

import numpy as np
import pytest

from gpu_reml.validation import simulate_bed

N, M = 2000, 20000
# VmHWM is of this program alone; ru_maxrss would begin at that of the process that started it.
RUN = """
import re, sys
from gpu_reml.cli.main import main
code = main(sys.argv[1:])
print("peak", int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    simulate_bed(folder / "data", N, M, 1)
    rng = np.random.default_rng(0)
    people = [line.split()[:2] for line in (folder / "data.fam").read_text().splitlines()]
    rows = [f"{fid} {iid} {value:.5f}\n" for (fid, iid), value in zip(people, rng.standard_normal(N), strict=True)]
    (folder / "pheno.txt").write_text("".join(rows))
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("flags", "least"), [([], 0.5), (["--vc-block-sizes", ",".join([str(M // 10)] * 10)], 0.3)])
def test_the_process_takes_what_its_plan_says(cohort, flags, least):
    """A basis of several components seldom has as many vectors as are planned for.

    The first run compiles what is not compiled yet, which takes memory of its own, so it is the second that counts.
    """
    paths = ["--bfile", cohort / "data", "--pheno", cohort / "pheno.txt", "--out", cohort / "out"]
    command = [sys.executable, "-c", RUN, *map(str, paths), "--device", "cpu", "--method", "stochastic", *flags]
    subprocess.run(command, capture_output=True)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    planned = float(re.search(r"memory about (\d+) MiB", done.stdout)[1])
    peak = float(re.search(r"peak ([\d.]+)", done.stdout)[1])
    assert least * planned <= peak <= 1.1 * planned, (peak, planned)
