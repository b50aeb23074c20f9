"""What the five commands leave on disk is alike: the same quantity under one key, and a log of what was printed."""

import json
import re
from importlib import import_module

import numpy as np
import pandas as pd
import pytest

from gpu_reml.cli import gwas, main, parser, predict, relax, sparse
from gpu_reml.validation.simulate import simulate_cohort, write_plink

N, M = 90, 120
COMMANDS = {
    "gpu-reml": (main.main, "--vc-block-sizes 50,70 --save-model {}/m", "json", "log"),
    "gpu-reml-gwas": (gwas.main, "", "gwas_metadata.json", "gwas.log"),
    "gpu-reml-sparse": (sparse.main, "--candidate-k 20 --outer-max 2", "summary.json", "sparse.log"),
    "gpu-reml-relax": (relax.main, "--n-groups 2 --outer-iters 1 --max-probes 8", "meta.json", "relax.log"),
    "gpu-reml-predict": (predict.main, "--model {}/m.npz", "prediction_metadata.json", "prediction.log"),
}
OF_EVERY_FIT = {"phenotype", "samples", "settings", "seed", "version", "seconds", "backend", "notes", "units"}
OF_EVERY_RECORD = {"phenotype", "samples", "settings", "version", "notes", "units"}


def flags_of(name):
    """Names of the values that a command's flags set."""
    module, make = parser.COMMANDS[name]
    actions = getattr(import_module(f"gpu_reml.cli.{module}"), make)("0").flags.values()
    return {action.dest for action in actions} - {"help", "version", "devices", "threads"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(record, log, screen) of every command for one phenotype, of which one value is missing."""
    folder = tmp_path_factory.mktemp("records")
    people = simulate_cohort(N, M, 3)
    write_plink(people, folder / "data")
    y = 3 + people.counts[:, :9].sum(axis=1) + np.random.default_rng(1).standard_normal(N)
    y[4] = np.nan
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(height=y).to_csv(folder / "pheno.txt", sep="\t", index=False, na_rep="NA")
    found = {}
    for name, (run, words, record, log) in COMMANDS.items():
        data = ["--bfile", str(folder / "data"), "--pheno", str(folder / "pheno.txt"), "--out", str(folder / name)]
        with pytest.MonkeyPatch.context() as patch:
            printed = []
            patch.setattr("builtins.print", lambda *lines, printed=printed, **_: printed.extend(map(str, lines)))
            assert run([*data, "--device", "cpu", *words.format(folder).split()]) in (0, 3)
        written = json.loads((folder / f"{name}.{record}").read_text()), (folder / f"{name}.{log}").read_text()
        found[name] = (*written, "\n".join(printed))
    return folder, found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_record_has_the_common_keys(runs, name):
    record = runs[1][name][0]
    assert (OF_EVERY_RECORD if name == "gpu-reml-predict" else OF_EVERY_FIT) <= set(record)
    assert record["phenotype"] == "height"
    if name == "gpu-reml-predict":
        assert record["samples"] == {"predicted": N, "dropped": {}}
    else:
        assert record["samples"] == {"analysed": N - 1, "dropped": {"missing phenotype": 1}}
    assert not {"trait", "samples_dropped"} & set(record)
    assert set(record["settings"]) - {"threads"} == flags_of(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_keeps_a_log_of_what_it_printed(runs, name):
    _, log, screen = runs[1][name]
    lines = log.splitlines()
    assert re.fullmatch(rf"{name} \d[\w.]*", lines[0]) and len(lines) > 3
    printed = set(screen.splitlines())
    assert [line for line in lines if line not in printed] == []
    assert "column-pass" not in log


def test_the_screen_and_the_record_of_a_sparse_fit_mean_the_same_by_h2(runs):
    record, _, screen = runs[1]["gpu-reml-sparse"]
    assert re.findall(r"^h2 = ([\d.]+)", screen, re.MULTILINE) == [f"{record['h2']:.6f}"]
    assert re.findall(r"^h2_reml = ([\d.]+)", screen, re.MULTILINE) == [f"{record['h2_reml']:.6f}"]


def test_the_hsq_says_which_component_is_which_after_the_rows_of_gcta(runs):
    text = (runs[0] / "gpu-reml.hsq").read_text()
    rows = pd.read_csv(runs[0] / "gpu-reml.hsq", sep="\t", index_col=0, comment="#").index
    assert (
        list(rows[:7]) == ["V(G1)", "V(G2)", "V(e)", "Vp", "V(G1)/Vp", "V(G2)/Vp", "Sum of V(G)/Vp"] and rows[-1] == "n"
    )
    assert text.splitlines()[-3:] == ["# V(G1): block_000", "# V(G2): block_001", "# V(e): residual"]


def test_variants_that_are_divided_twice_are_refused_when_components_are_made(runs, capsys):
    folder = runs[0]
    data = ["--bfile", str(folder / "data"), "--pheno", str(folder / "pheno.txt"), "--out", str(folder / "x")]
    words = ["--vc-block-sizes", "50,70", "--maf-bins", "0.2", "--device", "cpu"]
    for command in (main.main, sparse.main):
        assert command([*data, *words]) == 2
        error = capsys.readouterr().err
        assert re.search(
            r"error: components block_000, block_001, maf_.*leave out 1 of them, or one way of dividing", error
        )
