"""Columns by name, range and pattern, one table for everything, ranks, and the words of other programs."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpu_reml.cli.aliases import ALIASES, NOTHING, translated
from gpu_reml.cli.gwas import main as gwas
from gpu_reml.cli.gwas import make_gwas_parser
from gpu_reml.cli.main import main, make_parser
from gpu_reml.io import InputError
from gpu_reml.io.columns import columns_named
from gpu_reml.validation import simulate_cohort, write_plink

N, M = 160, 240
COLUMNS = ["FID", "IID", "y", "age", *(f"PC{i}" for i in range(1, 13)), "sex", "site"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One table with a phenotype, an age, twelve components, a sex and a site in words."""
    folder = tmp_path_factory.mktemp("columns")
    people = simulate_cohort(N, M, 4)
    people.variants["chrom"] = np.repeat(["1", "2"], M // 2)
    write_plink(people, folder / "data")
    rng = np.random.default_rng(0)
    table = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    table = table.assign(y=np.exp(rng.standard_normal(N)), age=rng.integers(20, 70, N))
    table = table.assign(**{f"PC{i}": rng.standard_normal(N) for i in range(1, 13)})
    table = table.assign(sex=rng.integers(1, 3, N), site=rng.choice(["clinic", "home"], N))
    table.to_csv(folder / "all.txt", sep="\t", index=False)
    table[["FID", "IID", "y"]].to_csv(folder / "y.txt", sep="\t", index=False)
    table[["FID", "IID", "age", *(f"PC{i}" for i in range(2, 5))]].to_csv(folder / "q.txt", sep="\t", index=False)
    table[["FID", "IID", "sex", "site"]].to_csv(folder / "c.txt", sep="\t", index=False)
    return folder, table


def run(folder, *words, out, command=main):
    named = [str(folder / word) if str(word).endswith((".txt", "data")) else str(word) for word in words]
    return command([*named, "--out", str(folder / out), "--device", "cpu", "--dtype", "float64", "--quiet"])


def record_of(folder, out):
    return json.loads((folder / f"{out}.json").read_text())


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("PC{2:4}", ["PC2", "PC3", "PC4"]),
        ("PC10-PC12,age", ["PC10", "PC11", "PC12", "age"]),
        ("PC1?", ["PC10", "PC11", "PC12"]),
        ("s*", ["sex", "site"]),
        ("all", COLUMNS[2:]),
    ],
)
def test_columns_are_named_by_numbers_ranges_and_patterns(wanted, found):
    assert columns_named(wanted, COLUMNS[2:], "t.txt") == found


def test_a_column_of_the_very_name_goes_before_every_pattern():
    columns = ["a-b", "a", "c", "b", "x*", "xy", "all"]
    assert columns_named("a-b", columns, "t.txt") == ["a-b"] and columns_named("x*", columns, "t.txt") == ["x*"]
    assert columns_named("a-c,b", columns, "t.txt") == ["a", "c", "b"] and columns_named("all", columns, "t") == ["all"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("PC{1:13}", "t.txt: no column 'PC13'; the file has y, age"),
        ("Q*", r"no column 'Q\*'"),
        ("PC3-PC1", "no column 'PC3-PC1'"),
        ("PC{3:1}", r"expected \{first:last\}"),
        ("PC1,PC*", r"column\(s\) PC1 occur more than once"),
    ],
)
def test_names_that_no_column_has_are_errors(wanted, message):
    with pytest.raises(InputError, match=message):
        columns_named(wanted, COLUMNS[2:], "t.txt")


def test_one_table_serves_for_phenotype_and_covariates(cohort):
    folder, _ = cohort
    words = ["--bfile", "data", "--method", "exact"]
    names = ["--pheno-name", "y", "--qcovar-name", "age,PC{2:4}", "--covar-name", "sex,site"]
    assert run(folder, *words, "--pheno", "all.txt", *names, out="one") == 0
    assert run(folder, *words, "--pheno", "y.txt", "--qcovar", "q.txt", "--covar", "c.txt", out="apart") == 0
    one, apart = record_of(folder, "one"), record_of(folder, "apart")
    assert [row["name"] for row in one["fixed_effects"]] == [row["name"] for row in apart["fixed_effects"]]
    assert one["loglik"] == apart["loglik"] and len(one["fixed_effects"]) == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pheno", "all.txt", "--pheno-name", "y", "--qcovar", "all.txt"], "name the covariates by --qcovar-name"),
        (["--pheno", "all.txt", "--pheno-name", "y", "--qcovar-name", "y,age"], "y is the phenotype; leave it out"),
        (["--pheno", "all.txt", "--pheno-name", "y", "--covar-name", "nothing"], "no covariate 'nothing'"),
    ],
)
def test_a_phenotype_is_never_a_covariate_by_accident(cohort, words, message, capsys):
    assert run(cohort[0], "--bfile", "data", *words, out="wrong") == 2
    assert message in capsys.readouterr().err


def test_ranks_are_those_of_the_phenotype_or_of_what_covariates_leave(cohort):
    folder, table = cohort
    X = np.column_stack([np.ones(N), table["age"]])
    left = table["y"] - X @ np.linalg.lstsq(X, table["y"], rcond=None)[0]
    for when, values in {"before": table["y"], "after": left}.items():
        y = stats.norm.ppf((stats.rankdata(values) - 0.375) / (N + 0.25))
        table[["FID", "IID"]].assign(y=y).to_csv(folder / "ranked.txt", sep="\t", index=False)
        same = ["--bfile", "data", "--qcovar-name", "age", "--method", "exact"]
        assert run(folder, *same, "--pheno", "all.txt", "--pheno-name", "y", "--rint", when, out=when) == 0
        given = [*same[:2], "--qcovar", "q.txt", "--qcovar-name", "age", "--method", "exact"]
        assert run(folder, *given, "--pheno", "ranked.txt", out="ranked") == 0
        found, expected = record_of(folder, when), record_of(folder, "ranked")
        assert found["loglik"] == pytest.approx(expected["loglik"], abs=1e-6)
        assert f"--rint {when}" in (folder / f"{when}.log").read_text()


def test_the_fam_is_a_table_of_phenotypes_where_zero_is_missing_beside_one_and_two(cohort):
    folder, _ = cohort
    lines = [line.split() for line in (folder / "data.fam").read_text().splitlines()]
    status = np.random.default_rng(1).integers(0, 3, N)
    text = "".join(" ".join([*line[:5], str(s)]) + "\n" for line, s in zip(lines, status, strict=True))
    (folder / "status.fam").write_text(text)
    assert run(folder, "--bfile", "data", "--pheno", folder / "status.fam", "--method", "exact", out="fam") == 0
    assert record_of(folder, "fam")["samples"]["analysed"] == (status > 0).sum()
    assert f"{(status == 0).sum()} value(s) of 0 beside 1 and 2" in (folder / "fam.log").read_text()


def test_commands_of_other_programs_run_as_they_are(cohort):
    folder, _ = cohort
    same = ["--bfile", "data", "--method", "exact", "--pheno", "all.txt", "--pheno-name", "y"]
    assert run(folder, *same, "--qcovar-name", "age,PC1,PC2", "--covar-name", "sex", out="ours") == 0
    bolt = ["--reml", "--bfile", "data", "--phenoFile", "all.txt", "--phenoCol", "y", "--covarFile", "all.txt"]
    bolt += ["--covarCol=sex", "--qCovarCol=age", "--qCovarCol=PC{1:2}", "--numThreads", "1", "--method", "exact"]
    assert run(folder, *bolt, out="bolt") == 0
    assert record_of(folder, "bolt")["loglik"] == record_of(folder, "ours")["loglik"]
    assert "--reml: no effect, since REML is what is fitted" in (folder / "bolt.log").read_text()
    regenie = ["--step", "1", "--bed", "data", "--phenoFile", "all.txt", "--phenoColList", "y", "--bsize", "100"]
    regenie += ["--covarFile", "all.txt", "--covarColList", "age,PC{1:2}", "--catCovarList", "sex", "--qt", "--lowmem"]
    assert run(folder, *regenie, out="fit", command=gwas) == 0
    tests = ["--step", "2", "--bed", "data", "--pred", folder / "fit.null.npz", "--bsize", "200", "--qt"]
    assert gwas([str(folder / w) if w == "data" else str(w) for w in tests] + ["--out", str(folder / "fit")]) == 0
    assert pd.read_csv(folder / "fit.gwas.tsv", sep="\t")["LOG10P"].notna().sum() > 0.9 * M
    gcta = ["--mlma-loco", "--bfile", "data", "--pheno", "y.txt", "--qcovar", "q.txt", "--thread-num", "1"]
    assert run(folder, *gcta, out="mlma", command=gwas) == 0
    assert set(pd.read_csv(folder / "mlma.gwas.tsv", sep="\t")["METHOD"].dropna()) == {"exact"}


def test_every_alias_leads_to_a_flag_that_there_is_and_is_none_itself():
    flags = set(make_parser("0").flags) | set(make_gwas_parser("0").flags)
    for word, meant in ALIASES.items():
        assert meant.split()[0] in flags and word not in flags and word not in NOTHING, word
    assert not set(NOTHING) & flags


def test_values_stay_with_their_words():
    known = {"--qcovar", "--covar", "--qcovar-name", "--covar-name", "--pheno", "--bfile", "--threads"}
    words = ["--covarFile=x", "--covarCol", "a", "--covarCol=b", "--bsize", "10", "--threads", "2"]
    assert translated(words, known).words == ["--covar", "x", "--covar-name", "a,b", "--threads", "2"]
    both = ["--covarFile", "x", "--qCovarCol", "q", "--covarCol", "a"]
    assert translated(both, known).words == ["--qcovar", "x", "--qcovar-name", "q", "--covar-name", "a"]
    assert translated(["--bed", "d", "--phenoUseFam"], known).words == ["--bfile", "d", "--pheno", "d.fam"]
    assert translated(["--mlma-loco"], known).words == ["--mlma-loco"]
