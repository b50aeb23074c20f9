"""Association in two steps: null models in one process, tests of a chromosome each in others."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gpu_reml import io
from gpu_reml.cli.gwas import main
from gpu_reml.validation import dense
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
    single = [*model_words(folder), "--model", "loco", "--method", "score"]
    assert main(words_of(folder, *single, "--refine", "0", out="single")) == 0
    some = ["--refine", "0.05", "--refine-most", "200"]
    assert main(words_of(folder, *single, *some, out="refined")) == 0
    assert main(words_of(folder, *model_words(folder), "--step", "1", out="first")) == 0
    jobs = {
        name: ["--step", "2", "--null", folder / "first.null.npz", "--bfile", folder / f"c{name}", "--maf", "0.05"]
        for name in "123"
    }
    scores = {name: [*words, "--refine", "0"] for name, words in jobs.items()}
    command = [sys.executable, "-m", "gpu_reml.cli.gwas", *words_of(folder, *scores["1"], out="job1")]
    subprocess.run(command, check=True, capture_output=True)
    assert all(main(words_of(folder, *scores[name], out=f"job{name}")) == 0 for name in "23")
    for trait in ("one", "two"):
        assert joined(folder, ["job1", "job2", "job3"], trait) == text(folder, f"single.{trait}.gwas.tsv")
    assert all(main(words_of(folder, *jobs[name], *some, out=f"again{name}")) == 0 for name in "123")
    for trait in ("one", "two"):
        rows = joined(folder, ["again1", "again2", "again3"], trait)
        (folder / "joined.tsv").write_text("\n".join(rows) + "\n")
        found, whole = (pd.read_csv(folder / f, sep="\t") for f in ("joined.tsv", f"refined.{trait}.gwas.tsv"))
        assert (found["METHOD"] == "refined").sum() > 3 and found["METHOD"].equals(whole["METHOD"])
        by_score = (found["METHOD"] != "refined").to_numpy()
        assert found[by_score].equals(whole[by_score])  # to the bit; solves are of others together
        for column in ("BETA", "SE", "LOG10P"):
            np.testing.assert_allclose(found.loc[~by_score, column], whole.loc[~by_score, column], rtol=1e-4)
    record = json.loads((folder / "job1.one.gwas_metadata.json").read_text())
    whole = json.loads((folder / "single.one.gwas_metadata.json").read_text())
    assert record["calibration"] == whole["calibration"] and record["fit"]["h2"] == whole["fit"]["h2"]
    assert record["n"] == N and record["covariates"] == ["intercept", "age"]


def test_model_variants_apart_from_those_tested_are_the_two_steps_in_one_run(cohort):
    folder, half = cohort, ["--model-extract", cohort / "half.txt"]
    some = ["--refine", "0.05"]
    assert main(words_of(folder, *model_words(folder), *half, *some, out="apart")) == 0
    assert main(words_of(folder, *model_words(folder), *half, "--step", "1", out="model")) == 0
    tests = ["--step", "2", "--null", folder / "model.null.npz", "--bfile", folder / "data", "--maf", "0.05"]
    assert main(words_of(folder, *tests, *some, out="tested")) == 0
    assert (pd.read_csv(folder / "tested.one.gwas.tsv", sep="\t")["METHOD"] == "refined").any()
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


def test_refined_tests_of_other_variants_than_the_models_are_generalised_least_squares(cohort):
    """Of model variants and tests apart: K of every other variant, without the chromosome, and h2 of the null model."""
    folder = cohort
    words = [*model_words(folder), "--model-extract", folder / "half.txt", "--dtype", "float64"]
    assert main(words_of(folder, *words, "--refine", "1", "--refine-most", "500", out="gls")) == 0
    table = pd.read_csv(folder / "gls.one.gwas.tsv", sep="\t")
    assert (table["METHOD"].dropna() == "refined").all()
    people, ids = simulate_cohort(N, M, 8), (folder / "half.txt").read_text().split()
    counts, Z = people.counts, dense.standardised(people.counts)
    y = pd.read_csv(folder / "pheno.txt", sep="\t")["one"].to_numpy()
    X = np.column_stack([np.ones(N), pd.read_csv(folder / "age.txt", sep="\t")["age"]])
    components = json.loads((folder / "gls.one.gwas_metadata.json").read_text())["fit"]
    theta = np.array([components[part][0]["theta"] for part in ("components", "residuals")])
    frequency = np.nanmean(np.where(counts < 0, np.nan, counts), axis=0) / 2
    modelled = people.variants["id"].isin(ids).to_numpy() & (np.minimum(frequency, 1 - frequency) >= 0.05)
    chrom = np.repeat(["1", "2", "3"], M // 3)
    for name, chromosome in (("1", "1"), ("3", "3")):
        own = Z[:, modelled & (chrom != chromosome)]
        P = dense.projection(theta, y, X, [own @ own.T / own.shape[1]]).P
        row = table[table["CHROM"].astype(str) == name].dropna(subset="BETA").iloc[5]
        j = people.variants["id"].tolist().index(row["ID"])
        z, sd = Z[:, j], np.nanstd(np.where(counts[:, j] < 0, np.nan, counts[:, j]))
        beta = z @ P @ y / (z @ P @ z)
        se = np.sqrt((y @ P @ y / (z @ P @ z) - beta**2) / (N - 3))
        np.testing.assert_allclose([row["BETA"], row["SE"]], np.array([beta, se]) / sd, rtol=1e-4)


def test_null_models_whose_genotypes_are_gone_or_others_test_by_score_alone(cohort, tmp_path, capsys):
    for name in ("data.bed", "data.bim", "data.fam"):
        (tmp_path / name).write_bytes((cohort / name).read_bytes())
    words = ["--bfile", tmp_path / "data", "--pheno", cohort / "pheno.txt", "--step", "1"]
    assert main(words_of(tmp_path, *words, out="m")) == 0
    tests = ["--step", "2", "--null", tmp_path / "m.null.npz", "--bfile", cohort / "c1", "--refine", "1"]
    (tmp_path / "data.bed").unlink()
    capsys.readouterr()
    assert main(words_of(tmp_path, *tests, out="t")) == 2
    error = capsys.readouterr().err
    assert "data.bed" in error and "or --refine 0 for scores alone" in error and error.count("\n") == 1
    content = bytearray((cohort / "data.bed").read_bytes())
    content[100] ^= 0b11
    (tmp_path / "data.bed").write_bytes(content)
    assert main(words_of(tmp_path, *tests, out="t")) == 2
    assert "has changed since --step 1" in capsys.readouterr().err
    assert main(words_of(tmp_path, *tests, "--refine", "0", out="t")) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "1", "--bfile", "{0}/c1", "--pheno", "{0}/pheno.txt", "--refine", "1"], "--refine to --step 2"),
        (["--step", "1", "--bfile", "{0}/c1", "--pheno", "{0}/pheno.txt", "--report"], "give --report to --step 2"),
        (["--step", "1", "--bfile", "{0}/c1", "--pheno", "{0}/pheno.txt", "--method", "exact"], "--refine-most N"),
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
