"""``--rg`` end to end, against dense REML of the same small cohort."""

import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml import figures
from gpu_reml.cli import rg
from gpu_reml.cli.main import main
from gpu_reml.reml import dense_covariance, exact_probes, fit_rg
from gpu_reml.reml.studies.rg_result import COLUMNS
from gpu_reml.validation import dense
from gpu_reml.validation.bivariate import dense_covariances
from gpu_reml.validation.simulate import simulate_cohort, write_plink

PLOTS = ("--plots",) if figures.available() else ()

N, M = 160, 300


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three traits: a and b of most people, who overlap, and c of all."""
    folder, rng = tmp_path_factory.mktemp("rg"), np.random.default_rng(2)
    people = simulate_cohort(N, M, 5)
    write_plink(people, folder / "data")
    Z = dense.standardised(people.counts)
    effects = rng.standard_normal((M, 3)) @ np.array([[1, 0.7, 0.2], [0, 0.7, 0.3], [0, 0, 0.9]])
    Y = Z @ effects / np.sqrt(M) + 0.8 * rng.standard_normal((N, 3))
    Y[:40, 0], Y[120:, 1] = np.nan, np.nan
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    table = ids.assign(a=Y[:, 0], b=Y[:, 1], c=Y[:, 2])
    table.to_csv(folder / "pheno.txt", sep="\t", index=False, na_rep="NA")
    return {"folder": folder, "K": dense.kernel(Z), "Y": Y}


def run(cohort, out, *arguments):
    folder = cohort["folder"]
    command = ["--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--out", out, "--device", "cpu"]
    return main([str(part) for part in [*command, "--method", "exact", *arguments]])


def test_all_pairs_are_those_of_dense_reml_of_their_own_people(cohort, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(cohort, out, "--rg", *PLOTS) == 0
    table = pd.read_csv(f"{out}.rg.tsv", sep="\t")
    assert tuple(table.columns) == COLUMNS and len(table) == 9
    for (i, j), names in zip(((0, 1), (0, 2), (1, 2)), ("ab", "ac", "bc"), strict=True):
        oracle = dense_covariances(cohort["Y"][:, [i, j]], np.ones((N, 1)), [cohort["K"]], starts=1)
        row = table[(table.trait_1 == names[0]) & (table.trait_2 == names[1])].iloc[0]
        rg, se = oracle.correlation(0, 0, 1)
        np.testing.assert_allclose(row.rg, rg, atol=1e-3 * se)
        np.testing.assert_allclose(row.covariance_se, oracle.se(0, 0, 1), rtol=0.02)
        has = ~np.isnan(cohort["Y"])
        assert (row.n_1, row.n_2, row.n_common) == (has[:, i].sum(), has[:, j].sum(), (has[:, i] & has[:, j]).sum())
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["traits"] == ["a", "b", "c"] and len(record["pairs"]) == 9 and record["status"] == "converged"
    assert (tmp_path / "out.rg.svg").exists() == figures.available()
    assert "measured: a 120, b 120, c 160; 3 pair(s)" in capsys.readouterr().out


def test_the_plan_holds_the_bases_of_all_sets_of_people_and_refuses_what_the_machine_cannot(
    cohort, tmp_path, capsys, monkeypatch
):
    one = 4 * (N - 1) * (N + M)
    for samples, sets, bases in (("all", 3, 5), ("common", 1, 1)):
        assert run(cohort, tmp_path / "out", "--rg", "--rg-samples", samples, "--plan") == 0
        assert f"bases of {sets} set(s) of people {round(bases * one / 2**20)}," in capsys.readouterr().out
    monkeypatch.setattr(rg, "machine_memory", lambda: 4 * one)
    assert run(cohort, tmp_path / "out", "--rg") == 2
    error = capsys.readouterr().err
    assert "bases of 3 sets of people" in error and "--rg-samples common" in error
    assert run(cohort, tmp_path / "out", "--rg", "--rg-samples", "common", "--plan") == 0


def test_reml_bivar_writes_the_rows_that_gcta_writes(cohort, tmp_path):
    out = tmp_path / "out"
    assert run(cohort, out, "--reml-bivar", "2", "3", "--non-verbose") == 0
    rows = [line.split("\t") for line in (tmp_path / "out.hsq").read_text().splitlines()]
    assert [row[0] for row in rows[:12]] == [
        *("Source", "V(G)_tr1", "V(G)_tr2", "C(G)_tr12", "V(e)_tr1", "V(e)_tr2", "C(e)_tr12"),
        *("Vp_tr1", "Vp_tr2", "V(G)/Vp_tr1", "V(G)/Vp_tr2", "rG"),
    ]
    values = {row[0]: row[1:] for row in rows}
    oracle = dense_covariances(cohort["Y"][:, [1, 2]], np.ones((N, 1)), [cohort["K"]], starts=1)
    np.testing.assert_allclose([float(x) for x in values["rG"]], oracle.correlation(0, 0, 1), atol=1e-3)
    np.testing.assert_allclose(float(values["C(e)_tr12"][0]), oracle.S[1, 0, 1], atol=2e-3)
    assert values["n_common"] == ["120"] and ["# tr1: b"] in rows
    table = pd.read_csv(f"{out}.rg.tsv", sep="\t")
    assert set(table.trait_1) == {"b"} and set(table.trait_2) == {"c"}


def test_common_samples_and_a_list_of_second_traits(cohort, tmp_path):
    (tmp_path / "second.txt").write_text("c\n")
    out = tmp_path / "out"
    assert run(cohort, out, "--rg", "--rg-samples", "common", "--rg-with", tmp_path / "second.txt") == 0
    table = pd.read_csv(f"{out}.rg.tsv", sep="\t")
    assert (table[["n_1", "n_2", "n_common"]] == 80).all(axis=None)
    assert table[["trait_1", "trait_2"]].drop_duplicates().to_numpy().tolist() == [["a", "c"], ["b", "c"]]


def with_covariates(cohort, folder, *arguments):
    """The table of the pair a, c with age for all, and a site that a alone takes, unknown for ten people."""
    rng, ids = np.random.default_rng(3), pd.read_csv(cohort["folder"] / "pheno.txt", sep="\t")[["FID", "IID"]]
    age, site = rng.standard_normal(N), rng.integers(0, 2, N)
    known = np.where(np.arange(N) % 16 == 0, "NA", np.where(site, "x", "y"))
    ids.assign(age=age).to_csv(folder / "age.txt", sep="\t", index=False)
    ids.assign(site=known).to_csv(folder / "site.txt", sep="\t", index=False)
    given = ["--qcovar", folder / "age.txt", "--covar", folder / "site.txt", "--covar-for", "c=age", *arguments]
    assert run(cohort, folder / "out", *given) == 0
    return pd.read_csv(folder / "out.rg.tsv", sep="\t"), age, site, known != "NA"


def test_covariates_of_one_phenotype_are_beside_no_other_and_cost_it_nobody(cohort, tmp_path):
    table, age, site, known = with_covariates(cohort, tmp_path, "--rg", "--pheno-name", "a,c")
    row, Y = table.iloc[0], cohort["Y"]
    has = known & ~np.isnan(Y[:, 0])
    assert (row.n_1, row.n_2, row.n_common) == (has.sum(), N, has.sum())
    designs = [np.column_stack([np.ones(N), age, site])[has], np.column_stack([np.ones(N), age])]
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["covariates"] == {"a": ["intercept", "age", "site[y]"], "c": ["intercept", "age"]}
    covariance = dense_covariance([cohort["K"]])
    X = [np.zeros((N, 3)), designs[1]]
    X[0][has] = designs[0]
    y = np.column_stack([np.where(has, Y[:, 0], np.nan), Y[:, 2]])
    expected = fit_rg(y, X, covariance, exact_probes(N)).to_frame().iloc[0]
    np.testing.assert_allclose([row.rg, row.rg_se], [expected.rg, expected.rg_se], rtol=1e-3)
    shared = fit_rg(y, designs[1], covariance, exact_probes(N)).to_frame().iloc[0]
    assert abs(shared.rg - expected.rg) > 0.01 * expected.rg_se  # the site matters


def test_common_samples_have_the_covariates_of_all_phenotypes_and_gcta_numbers_them(cohort, tmp_path):
    bivar = ("--reml-bivar", "1", "3", "--rg-samples", "common")
    table, _, _, known = with_covariates(cohort, tmp_path, *bivar)
    both = known & ~np.isnan(cohort["Y"][:, 0])
    assert (table[["n_1", "n_2", "n_common"]] == both.sum()).all(axis=None)


def test_random_probes_are_the_default_and_agree_with_dense_reml(cohort, tmp_path):
    out, folder = tmp_path / "out", cohort["folder"]
    command = ["--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--out", out, "--device", "cpu"]
    assert main([str(part) for part in [*command, "--rg", "--pheno-name", "a,c"]]) == 0
    row = pd.read_csv(f"{out}.rg.tsv", sep="\t").iloc[0]
    oracle = dense_covariances(cohort["Y"][:, [0, 2]], np.ones((N, 1)), [cohort["K"]], starts=1)
    assert abs(row.rg - oracle.correlation(0, 0, 1)[0]) < 0.5 * oracle.correlation(0, 0, 1)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rg", "--lrt"], "--rg: cannot be used with --lrt"),
        (["--rg", "--method", "he"], "leave --method he out"),
        (["--rg", "--mpheno", "1"], "--rg: takes two phenotypes or more"),
        (["--rg", "--pheno-name", "a"], "--rg: expected two phenotypes or more, found a alone"),
        (["--reml-bivar", "1"], "--reml-bivar: expected two different phenotypes, such as 1 2"),
        (["--reml-bivar", "1", "2", "--pheno-name", "a"], "--reml-bivar: names phenotypes by number"),
        (["--reml-bivar", "--rg-with", "x"], "--rg-with: is for --rg; give both"),
    ],
)
def test_flags_that_contradict_correlations_are_named(cohort, tmp_path, capsys, arguments, message):
    assert run(cohort, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err


def test_flags_of_correlations_without_them_are_said_to_change_nothing(cohort, tmp_path, capsys):
    assert run(cohort, tmp_path / "out", "--plots", "--rg-samples", "common") == 0
    assert "note: --rg-samples, --plots: no effect, since they are for --rg" in capsys.readouterr().out
