"""Association in two steps: null models in one process, tests of a chromosome each in others."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gpu_reml import io
from gpu_reml.cli.gwas import main
from gpu_reml.validation.simulate import Cohort, simulate_cohort, write_plink

N, M = 250, 240


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two traits, of which one lacks some people, an age, and each chromosome in a fileset of its own."""
    folder = tmp_path_factory.mktemp("steps")
    people = simulate_cohort(N, M, 8)
    chroms = np.repeat(["1", "2", "3"], M // 3)
    people.variants["chrom"] = chroms
    write_plink(people, folder / "data")
    order = np.random.default_rng(1).permutation(N)  # a job's fileset may have people in another order, and more
    for name in "123":
        part = chroms == name
        samples = people.samples.iloc[order].reset_index(drop=True)
        variants = people.variants[part].reset_index(drop=True)
        write_plink(Cohort(np.ascontiguousarray(people.counts[order][:, part]), samples, variants), folder / f"c{name}")
    rng = np.random.default_rng(2)
    y = people.counts[:, :20] @ rng.standard_normal((20, 2)) / 3 + rng.standard_normal((N, 2))
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    write = {"sep": "\t", "index": False, "na_rep": "NA"}
    ids.assign(one=y[:, 0], two=y[:, 1]).to_csv(folder / "pheno.txt", **write)
    gaps = y[:, 1].copy()
    gaps[3:9] = np.nan
    ids.assign(one=y[:, 0], two=gaps).to_csv(folder / "gaps.txt", **write)
    ids.assign(age=rng.integers(20, 70, N)).to_csv(folder / "age.txt", **write)
    (folder / "half.txt").write_text("\n".join(people.variants["id"][::2]) + "\n")
    return folder


def words_of(folder, *arguments, out):
    return [str(word) for word in [*arguments, "--out", folder / out, "--device", "cpu", "--quiet"]]


def model_words(folder, pheno="pheno.txt"):
    names = ["--pheno", folder / pheno, "--pheno-name", "all", "--qcovar", folder / "age.txt"]
    return ["--bfile", folder / "data", *names, "--maf", "0.05"]


def text(folder, name):
    return (folder / name).read_text().splitlines()


def joined(folder, outs, trait):
    tables = [text(folder, f"{out}.{trait}.gwas.tsv") for out in outs]
    assert len({table[0] for table in tables}) == 1
    return [tables[0][0], *(line for table in tables for line in table[1:])]


def test_a_chromosome_a_process_gives_the_table_of_the_single_run_bit_for_bit(cohort):
    folder = cohort
    single = [*model_words(folder), "--model", "loco", "--method", "score", "--refine", "0"]
    assert main(words_of(folder, *single, out="single")) == 0
    assert main(words_of(folder, *model_words(folder), "--step", "1", out="first")) == 0
    jobs = {
        name: ["--step", "2", "--null", folder / "first.null.npz", "--bfile", folder / f"c{name}", "--maf", "0.05"]
        for name in "123"
    }
    command = [sys.executable, "-m", "gpu_reml.cli.gwas", *words_of(folder, *jobs["1"], out="job1")]
    subprocess.run(command, check=True, capture_output=True)
    assert all(main(words_of(folder, *jobs[name], out=f"job{name}")) == 0 for name in "23")
    for trait in ("one", "two"):
        assert joined(folder, ["job1", "job2", "job3"], trait) == text(folder, f"single.{trait}.gwas.tsv")
    record = json.loads((folder / "job1.one.gwas_metadata.json").read_text())
    whole = json.loads((folder / "single.one.gwas_metadata.json").read_text())
    assert record["calibration"] == whole["calibration"] and record["fit"]["h2"] == whole["fit"]["h2"]
    assert record["n"] == N and record["covariates"] == ["intercept", "age"]


def test_model_variants_apart_from_those_tested_are_the_two_steps_in_one_run(cohort):
    folder, half = cohort, ["--model-extract", cohort / "half.txt"]
    assert main(words_of(folder, *model_words(folder), *half, out="apart")) == 0
    assert main(words_of(folder, *model_words(folder), *half, "--step", "1", out="model")) == 0
    tests = ["--step", "2", "--null", folder / "model.null.npz", "--bfile", folder / "data", "--maf", "0.05"]
    assert main(words_of(folder, *tests, out="tested")) == 0
    found = pd.read_csv(folder / "apart.one.gwas.tsv", sep="\t")
    assert text(folder, "apart.one.gwas.tsv") == text(folder, "tested.one.gwas.tsv")
    null = io.read_null(folder / "model.null.npz")
    assert len(found) > 1.5 * 0.5 * M and null.groups[0].about[0]["fit"]["components"][0]["name"] == "genome"
    extract = ["--extract", cohort / "half.txt"]
    assert main(words_of(folder, *model_words(folder), *extract, "--step", "1", out="extract")) == 0
    np.testing.assert_array_equal(io.read_null(folder / "extract.null.npz").groups[0].Py, null.groups[0].Py)


def test_traits_of_different_people_have_null_models_of_their_own(cohort):
    folder = cohort
    assert main(words_of(folder, *model_words(folder, "gaps.txt"), "--step", "1", "--model", "lmm", out="gaps")) == 0
    null = io.read_null(folder / "gaps.null.npz")
    assert [len(group.samples) for group in null.groups] == [N, N - 6] and null.phenotypes == ["one", "two"]
    tests = ["--step", "2", "--null", folder / "gaps.null.npz", "--bfile", folder / "c2"]
    assert main(words_of(folder, *tests, out="gapped")) == 0
    assert pd.read_csv(folder / "gapped.two.gwas.tsv", sep="\t")["N"].max() == N - 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "2", "--bfile", "{0}/c1", "--pheno", "{0}/pheno.txt"], "null models of --step 1; give both"),
        (["--step", "2", "--null", "{0}/first.null.npz", "--bfile", "{0}/c1", "--qcovar", "x"], "leave --qcovar out"),
        (
            ["--step", "2", "--null", "{0}/pheno.txt", "--bfile", "{0}/c1"],
            "give the file that the first step of a scan wrote",
        ),
        (["--step", "1", "--bfile", "{0}/c1", "--pheno", "{0}/pheno.txt", "--model", "ols"], "have no null model"),
        (["--step", "2", "--null", "{0}/other.npz", "--bfile", "{0}/c3"], "chromosome 3: the null models leave out"),
        (["--step", "2", "--null", "{0}/cut.npz", "--bfile", "{0}/c3"], "SHA-256 differs"),
    ],
)
def test_what_the_steps_cannot_do_is_one_line(cohort, arguments, message, capsys):
    folder = cohort
    if not (folder / "other.npz").exists():
        words = [*model_words(folder), "--chr", "1,2", "--step", "1"]
        assert main(words_of(folder, *words, out="first")) == 0
        (folder / "other.npz").write_bytes((folder / "first.null.npz").read_bytes())
        arrays = dict(np.load(folder / "other.npz"))
        arrays["0.gamma"] = arrays["0.gamma"] * 2
        np.savez(folder / "cut.npz", **arrays)
        capsys.readouterr()
    assert main(words_of(folder, *(word.format(folder) for word in arguments), out="wrong")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error, error
