"""The basis of several components within the memory of the machine."""

import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml.cli import plan
from gpu_reml.cli.flags.estimation import Estimation
from gpu_reml.cli.machine import cgroup_limits, machine_memory
from gpu_reml.cli.main import main
from gpu_reml.cli.plan import PROGRAM, Sizes, host_plan, host_room
from gpu_reml.validation import simulate_bed

MIB = 2**20
COHORT = Sizes(20_000, (100_000,), 22, 1, 10, 100_000)


@pytest.fixture
def memory(monkeypatch):
    """Sets what the machine has, in MiB."""
    return lambda mib: monkeypatch.setattr(plan, "machine_memory", lambda: int(mib * MIB))


def room(**probes):
    estimation = Estimation(**probes)
    found = host_room(COHORT, estimation, "float32")
    return found, host_plan(COHORT, "stochastic", estimation, "float32", None, found, found.probes)


def test_less_memory_never_means_a_larger_basis_and_what_is_planned_fits(memory):
    bases = []
    for mib in np.geomspace(8000, 1100, 25):
        memory(mib)
        found, items = room()
        bases.append(found.choice.basis)
        if found.choice.basis > 6 * 33:  # the least may take all that there is
            assert sum(items.values()) + PROGRAM <= 0.8 * mib
    assert bases == sorted(bases, reverse=True) and bases[0] == 1024 and bases[-1] == 6 * 33


def test_a_basis_goes_before_probes_and_both_have_what_they_need(memory):
    memory(10_000)
    assert room()[0] == (plan.Choice(1024, None), 256)
    memory(2300)
    found, _ = room()
    assert found.choice.basis == 1024 and 32 <= found.probes < 256
    assert room(first_probes=200, max_probes=200)[0].choice.basis >= 6 * 201


def test_memory_without_room_for_the_least_is_an_error_that_names_what_is_needed(memory):
    memory(300)
    with pytest.raises(ValueError, match=r"needs [\d,]+ MiB of memory beside .* lets it have 300;"):
        room()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    simulate_bed(folder / "data", 300, 900, 1)
    people = [line.split()[:2] for line in (folder / "data.fam").read_text().splitlines()]
    values = np.random.default_rng(0).standard_normal(300)
    rows = [f"{fid} {iid} {value:.5f}\n" for (fid, iid), value in zip(people, values, strict=True)]
    (folder / "pheno.txt").write_text("".join(rows))
    return folder


def test_the_lines_of_a_fit_and_its_history_tell_the_size_of_the_basis(cohort, capsys):
    paths = [str(word) for word in ("--bfile", cohort / "data", "--pheno", cohort / "pheno.txt")]
    flags = ["--method", "stochastic", "--vc-block-sizes", "300,600", "--max-probes", "16", "--device", "cpu"]
    assert main([*paths, *flags, "--verbose", "--out", str(cohort / "out")]) == 0
    printed = capsys.readouterr()
    assert "AI-REML in a reduced model of at most 299 vectors" in printed.out
    history = pd.read_csv(cohort / "out.history.tsv", sep="\t")
    assert f"basis of {history['basis'].iloc[-1]};" in printed.err
    assert (history["pcg_iterations"] == 0).all() and (np.diff(history["basis"]) >= 0).all()
    assert history["basis"].iloc[0] >= 17 and json.loads((cohort / "out.json").read_text())["precond_rank"] <= 299


def test_a_group_is_limited_by_those_it_is_in(tmp_path):
    job = tmp_path / "slurm" / "job"
    job.mkdir(parents=True)
    (job / "memory.max").write_text("max\n")
    (tmp_path / "slurm" / "memory.max").write_text("8589934592\n")
    (tmp_path / "own").write_text("1:cpu:/elsewhere\n0::/slurm/job\n")
    assert cgroup_limits(tmp_path / "own", tmp_path) == [8 * 2**30]
    assert cgroup_limits(tmp_path / "none", tmp_path) == []
    assert machine_memory() > 100 * MIB
