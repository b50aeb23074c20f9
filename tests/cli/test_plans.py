"""What a command's arrays take at their peak stays within the items of its plan."""

import re
import tracemalloc

import numpy as np
import pytest
import scipy.stats  # noqa: F401 - a fit imports it when it needs it, and modules are no arrays of the fit

from gpu_reml.cli import gwas, relax, sparse
from gpu_reml.cli.main import main
from gpu_reml.validation import simulate_bed

N, M = 400, 16000
COMMANDS = {
    "one component": (main, ["--method", "stochastic"]),
    "by chromosome": (main, ["--method", "stochastic", "--by-chromosome", "--max-probes", "64"]),
    "exact": (main, ["--method", "exact"]),
    "exact, by chromosome": (main, ["--method", "exact", "--by-chromosome"]),
    "relax": (relax.main, ["--n-groups", "2", "--outer-iters", "2"]),
    "sparse": (sparse.main, ["--method", "stochastic", "--outer-max", "1"]),
    "gwas": (gwas.main, []),
    "loco": (gwas.main, ["--model", "loco", "--method", "score"]),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    simulate_bed(folder / "data", N, M, 1)
    people = [line.split()[:2] for line in (folder / "data.fam").read_text().splitlines()]
    values = np.random.default_rng(0).standard_normal(N)
    rows = [f"{fid} {iid} {value:.5f}\n" for (fid, iid), value in zip(people, values, strict=True)]
    (folder / "pheno.txt").write_text("".join(rows))
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_arrays_stay_within_the_items_of_the_plan(cohort, tmp_path, capsys, name):
    command, flags = COMMANDS[name]
    paths = ["--bfile", cohort / "data", "--pheno", cohort / "pheno.txt", "--out", tmp_path / "out"]
    given = [*map(str, paths), "--device", "cpu", *flags]
    assert command([*given, "--plan"]) == 0
    line = re.search(r"memory about (\d+) MiB: .*, program (\d+)", capsys.readouterr().out)
    mapped = N * M / 4 / 2**20  # the genotypes, which are a map of their file and no array
    planned = int(line[1]) - int(line[2]) - mapped
    assert command(given) in (0, 3)  # compiles and imports what is not yet there, which is no array
    tracemalloc.start()
    try:
        assert command(given) in (0, 3)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert 0.3 * planned <= peak <= planned + 0.5, (peak, line[0])  # a plan is in whole MiB
