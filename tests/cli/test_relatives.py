"""``--grm-cutoff``, ``--pca`` and ``--pca-covar`` against dense relationships."""

import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml.cli.gwas import main as gwas
from gpu_reml.cli.main import main
from gpu_reml.reml import fit_exact, relatedness
from gpu_reml.validation import dense, simulate_cohort, write_plink
from gpu_reml.validation.simulate import Cohort

N, M = 200, 500


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two populations with a person who is there twice."""
    folder = tmp_path_factory.mktemp("relatives")
    people = simulate_cohort(N, M, 2)
    counts = people.counts.copy()
    counts[120:, :150] = np.where(np.random.default_rng(0).random((80, 150)) < 0.6, 2, counts[120:, :150])
    counts[33] = counts[5]
    people = Cohort(counts, people.samples, people.variants)
    write_plink(people, folder / "data")
    Z = dense.standardised(counts)
    Z = Z[:, Z.any(axis=0)]
    y = Z @ np.random.default_rng(1).standard_normal(Z.shape[1]) / 20 + np.random.default_rng(2).standard_normal(N)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(y=y).to_csv(folder / "pheno.txt", sep="\t", index=False)
    return folder, people, Z, y


def run(folder, *words, out, command=main):
    files = ["--bfile", folder / "data", "--out", folder / out, "--device", "cpu"]
    return command([str(word) for word in [*files, "--dtype", "float64", *words]])


def theta_of(folder, out):
    record = json.loads((folder / f"{out}.json").read_text())
    return [row["theta"] for row in [*record["components"], *record["residuals"]]]


def test_relatives_are_left_out_before_means_and_relationships_are_made(cohort, capsys):
    folder, people, Z, _ = cohort
    pheno = ["--pheno", folder / "pheno.txt", "--method", "exact"]
    lists = ["--keep-out", folder / "kept.txt", "--dropped-out", folder / "dropped.txt"]
    assert run(folder, *pheno, "--grm-cutoff", "0.3", *lists, out="cut") == 0
    printed = capsys.readouterr().out
    kept = relatedness(Z @ Z.T / Z.shape[1], 0.3).unrelated
    assert 0 < (~kept).sum() < N
    listed = pd.read_csv(folder / "kept.txt", sep="\t", dtype=str)["IID"].tolist()
    assert listed == people.samples["iid"][kept].astype(str).tolist()
    assert "above --grm-cutoff 0.3" in (folder / "dropped.txt").read_text()
    first, twin = people.samples["iid"].iloc[[5, 33]]
    assert "identical twins" in printed and f"IID {first}" in printed and f"IID {twin}" in printed
    assert run(folder, *pheno, "--keep", folder / "kept.txt", out="kept") == 0
    np.testing.assert_allclose(theta_of(folder, "cut"), theta_of(folder, "kept"), rtol=1e-10)


def test_principal_components_are_written_as_plink_does_and_need_no_phenotype(cohort):
    folder, people, Z, _ = cohort
    assert run(folder, "--pca", "4", out="pcs") == 0
    K = Z @ Z.T / Z.shape[1]
    values, vectors = np.linalg.eigh(K)
    np.testing.assert_allclose(np.loadtxt(folder / "pcs.eigenval"), values[::-1][:4], rtol=1e-6)
    table = pd.read_csv(folder / "pcs.eigenvec", sep="\t", dtype={"#FID": str, "IID": str})
    assert list(table) == ["#FID", "IID", "PC1", "PC2", "PC3", "PC4"]
    assert (table["IID"] == people.samples["iid"].astype(str)).all()
    assert abs(vectors[:, -1] @ table["PC1"]) == pytest.approx(1, abs=1e-6)
    assert not (folder / "pcs.json").exists()


def test_principal_components_of_the_run_are_its_covariates(cohort):
    folder, _, Z, y = cohort
    K = Z @ Z.T / Z.shape[1]
    vectors = np.linalg.eigh(K)[1][:, ::-1][:, :2]
    X = np.column_stack([np.ones(N), vectors])
    assert run(folder, "--pheno", folder / "pheno.txt", "--method", "exact", "--pca-covar", "2", out="with") == 0
    np.testing.assert_allclose(theta_of(folder, "with"), fit_exact(y, X, K).theta, rtol=1e-4)
    record = json.loads((folder / "with.json").read_text())
    assert [row["name"] for row in record["fixed_effects"]] == ["intercept", "PC1", "PC2"]
    assert run(folder, "--pheno", folder / "pheno.txt", "--pca-covar", "2", out="scan", command=gwas) == 0
    assert run(folder, "--pca", "2", out="two") == 0
    given = ["--pheno", folder / "pheno.txt", "--qcovar", folder / "two.eigenvec"]
    assert run(folder, *given, out="given", command=gwas) == 0
    one, two = (pd.read_csv(folder / f"{name}.gwas.tsv", sep="\t")["LOG10P"] for name in ("scan", "given"))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
