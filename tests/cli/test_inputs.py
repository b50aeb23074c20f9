"""What the commands say of their tables, lists and genotypes, and what they refuse before a fit."""

import importlib
import json
import os

import numpy as np
import pandas as pd
import pytest

from gpu_reml.io import write_grm
from gpu_reml.validation import dense
from gpu_reml.validation.simulate import simulate_cohort, write_plink

N, M = 61, 80
COMMANDS = ("main", "gwas", "sparse", "relax", "predict")
SHORT = {"sparse": ("--max-active", 2, "--outer-max", 1), "relax": ("--n-groups", 2, "--outer-iters", 1)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A fileset, a trait y of everyone, a covariate age, and a saved model."""
    folder = tmp_path_factory.mktemp("inputs")
    people = simulate_cohort(N, M, 4)
    write_plink(people, folder / "data")
    rng = np.random.default_rng(0)
    Z = dense.standardised(people.counts)
    y = 50 + Z @ rng.standard_normal(M) / np.sqrt(M) + rng.standard_normal(N)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(y=y).to_csv(folder / "pheno.txt", sep="\t", index=False)
    ids.assign(age=rng.integers(20, 60, N)).to_csv(folder / "age.txt", sep="\t", index=False)
    assert run("main", folder, "--save-model", folder / "model", "--quiet", out=folder / "saved") == 0
    return folder, ids


def run(command, folder, *arguments, out):
    """Exit code of a command on the cohort."""
    data = ["--bfile", folder / "data", "--device", "cpu", "--out", out]
    data += ["--model", folder / "model.npz"] if command == "predict" else ["--pheno", folder / "pheno.txt"]
    data += SHORT.get(command, ())
    main = importlib.import_module(f"gpu_reml.cli.{command}").main
    return main([str(part) for part in [*data, *arguments]])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_remove_list_that_matches_nobody_stops_every_command(cohort, tmp_path, capsys, command):
    folder, ids = cohort
    ids.assign(IID="0" + ids["IID"]).to_csv(tmp_path / "rm.txt", sep=" ", header=False, index=False)
    assert run(command, folder, "--remove", tmp_path / "rm.txt", out=tmp_path / "o") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "rm.txt shares no sample with the genotypes: it has FID F" in error
    assert "(its IIDs are genotyped with zeros before them: FID F" in error
    assert not list(tmp_path.glob("o*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_counts_listed_samples_that_are_not_genotyped(cohort, tmp_path, capsys, command):
    folder, ids = cohort
    pd.concat([ids.iloc[:5], ids.iloc[:3] + "x"]).to_csv(tmp_path / "rm.txt", sep=" ", header=False, index=False)
    ids.assign(age=1.0 + np.arange(N)).iloc[::-1].to_csv(tmp_path / "age.txt", sep="\t", index=False)
    with open(tmp_path / "age.txt", "a") as file:
        file.write("no one 5\n".replace(" ", "\t"))
    tables = ("--remove", tmp_path / "rm.txt", *(("--qcovar", tmp_path / "age.txt") if command != "predict" else ()))
    assert run(command, folder, *tables, out=tmp_path / "o") in (0, 3)
    out = capsys.readouterr().out
    assert f"note: --remove {tmp_path}/rm.txt: 3 of 8 samples are not in the genotypes (FID F" in out
    if command != "predict":
        assert f"note: {tmp_path}/age.txt: 1 of {N + 1} samples are not in the genotypes (FID no IID one)" in out


@pytest.mark.parametrize("command", ["main", "gwas", "sparse", "relax"])
def test_many_missing_calls_are_noted_with_the_call_rate(cohort, tmp_path, capsys, command):
    folder, _ = cohort
    for share, noted in ((0.0, False), (0.06, True)):
        people = simulate_cohort(N, M, 4)
        people.counts[np.random.default_rng(1).random((N, M)) < share] = -127
        write_plink(people, tmp_path / "holes")
        assert run(command, folder, "--bfile", tmp_path / "holes", out=tmp_path / "o") in (0, 3)
        out = capsys.readouterr().out
        rate = (people.counts >= 0)[:, np.ptp(np.clip(people.counts, 0, 2), axis=0) > 0].mean()
        assert (f"of the analysed genotypes are missing (mean call rate {rate:.4f})" in out) == noted


def test_variants_without_a_position_are_counted_as_such_beside_ld_bins(cohort, tmp_path, capsys):
    folder, _ = cohort
    people = simulate_cohort(N, M, 4)
    people.variants.loc[[3, 5, 8], "bp"] = [0, -7, 0]
    people.variants.loc[11, "chrom"] = "0"
    people.counts[:, 20] = 1
    write_plink(people, tmp_path / "data")
    assert run("main", folder, "--bfile", tmp_path / "data", "--ld-bins", 2, "--method", "he", out=tmp_path / "o") == 0
    out = capsys.readouterr().out
    reason = "4 have no position (chromosome 0, or bp of 0 or below), 1 do not vary"
    assert f"note: 5 variants are in no LD bin: {reason}" in out
    assert "note: 4 of 79 variants are in no component and left out (--uncovered background keeps them as one)" in out


def test_the_notes_of_every_trait_of_a_group_are_given(cohort, tmp_path, capsys):
    folder, _ = cohort
    table = pd.read_csv(folder / "pheno.txt", sep="\t").assign(w=lambda t: t["y"] ** 2)
    table.loc[4, ["y", "w"]] = -9
    table.to_csv(tmp_path / "p.txt", sep="\t", index=False)
    flags = ("--pheno", tmp_path / "p.txt", "--pheno-name", "all", "--method", "he")
    assert run("main", folder, *flags, out=tmp_path / "o") == 0
    out = capsys.readouterr().out
    assert all(f"1 value(s) of -9 in phenotype {name} taken as missing" in out for name in "yw")


def test_a_relationship_matrix_that_is_none_is_refused_and_one_nearly_so_is_noted(cohort, tmp_path, capsys):
    folder, ids = cohort
    samples = ids.rename(columns=str.lower)
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    for least, code, told in ((-0.5, 2, "-0.5, with a mean diagonal of"), (-0.02, 0, "note: ")):
        K = (vectors * np.append(least, np.linspace(0.1, 2, N - 1))) @ vectors.T
        write_grm(tmp_path / "k", (K + K.T) / 2, samples)
        flags = ["--grm", tmp_path / "k", "--pheno", folder / "pheno.txt", "--out", tmp_path / "o"]
        assert importlib.import_module("gpu_reml.cli.main").main([str(flag) for flag in flags]) == code
        said = "".join(capsys.readouterr())
        assert told in said and "k.grm.bin: the smallest eigenvalue is" in said


def test_traits_and_files_of_any_name_have_results(cohort, tmp_path, capsys):
    folder, ids = cohort
    values = pd.read_csv(folder / "pheno.txt", sep="\t")["y"]
    names = ["../../etc/passwd", "y" * 400, "y" * 399 + "z", "\u00e9\u4e2d:t"]
    ids.assign(**dict.fromkeys(names, values)).to_csv(tmp_path / "p.txt", sep="\t", index=False)
    out = tmp_path / os.fsdecode(b"caf\xe9")
    for suffix in ("bed", "bim", "fam"):
        (tmp_path / f"{out.name}.{suffix}").write_bytes((folder / f"data.{suffix}").read_bytes())
    flags = ("--pheno", tmp_path / "p.txt", "--pheno-name", "all", "--bfile", out, "--method", "he")
    assert run("main", folder, *flags, out=out) == 0
    assert len(list(tmp_path.glob("*.json"))) == len(names) and not (tmp_path.parent / "etc").exists()
    found = {json.loads(path.read_text())["phenotype"] for path in tmp_path.glob("*.json")}
    assert found == set(names)
    assert "y" * 40 in capsys.readouterr().out


def test_values_far_from_the_others_are_noted(cohort, tmp_path, capsys):
    folder, _ = cohort
    table = pd.read_csv(folder / "pheno.txt", sep="\t")
    table.loc[[2, 7], "y"] = -999
    table.to_csv(tmp_path / "p.txt", sep="\t", index=False)
    assert run("main", folder, "--method", "he", out=tmp_path / "o") == 0
    assert "standard deviations from the others" not in capsys.readouterr().out
    assert run("main", folder, "--pheno", tmp_path / "p.txt", "--method", "he", out=tmp_path / "o") == 0
    told = "note: y: 2 value(s) are more than 20 standard deviations from the others (the farthest is -999); write NA"
    assert told in capsys.readouterr().out
