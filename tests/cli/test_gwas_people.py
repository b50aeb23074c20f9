"""Scans of phenotypes of different samples: genotypes are read once, and each phenotype is tested among its own."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpu_reml import io
from gpu_reml.cli import methods
from gpu_reml.cli.gwas import main
from gpu_reml.validation import SPARSE
from gpu_reml.validation.simulate import simulate_cohort, write_plink

N, M = 160, 120
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three phenotypes with gaps of their own, an age, calls that are missing, and a variant that varies in one sample,
    who lacks the second phenotype."""
    folder = tmp_path_factory.mktemp("gwas_people")
    people = simulate_cohort(N, M, 6, haplotypes=SPARSE)
    rng = np.random.default_rng(1)
    people.counts[rng.random((N, M)) < 0.03] = -127
    people.counts[:, 7] = 0
    people.counts[11, 7] = 1
    write_plink(people, folder / "data")
    age = rng.integers(20, 70, N).astype(float)
    Y = 5 + 0.02 * age[:, None] + np.maximum(people.counts[:, [40]], 0) * 0.5 + rng.standard_normal((N, 3))
    Y[rng.random((N, 3)) < 0.15] = np.nan
    Y[11] = np.nan
    Y[11, 0] = 6.0
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    write = {"sep": "\t", "index": False, "na_rep": "NA"}
    ids.assign(**dict(zip(NAMES, Y.T, strict=True))).to_csv(folder / "pheno.txt", **write)
    ids.assign(age=age).to_csv(folder / "age.txt", **write)
    return folder, people.counts.astype(float), age, Y


def run(folder, out, *flags, names="all"):
    files = ("--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--qcovar", folder / "age.txt", "--out", out)
    return main([str(part) for part in (*files, "--pheno-name", names, "--device", "cpu", "--quiet", *flags)])


def table_of(prefix):
    return pd.read_csv(f"{prefix}.gwas.tsv", sep="\t")


def record_of(prefix):
    return json.loads(open(f"{prefix}.gwas_metadata.json").read())


@pytest.fixture
def reads(monkeypatch):
    """A list that grows with every read of genotypes."""
    found, real = [], io.load_genotypes
    monkeypatch.setattr(io, "load_genotypes", lambda *a, **k: found.append(1) or real(*a, **k))
    return found


def test_least_squares_of_every_phenotype_is_that_of_its_own_samples(cohort, tmp_path, reads):
    folder, counts, age, Y = cohort
    assert run(folder, tmp_path / "o") == 0 and len(reads) == 1
    for name, y in zip(NAMES, Y.T, strict=True):
        rows = np.flatnonzero(~np.isnan(y))
        table, record = table_of(tmp_path / f"o.{name}"), record_of(tmp_path / f"o.{name}")
        assert record["n"] == len(rows) and any("read and filtered once" in note for note in record["notes"])
        G = np.where(counts[rows] < 0, np.nan, counts[rows])
        assert (table["n_obs"] == np.isfinite(G).sum(axis=0)).all()
        np.testing.assert_allclose(table["af"], np.nanmean(G, axis=0) / 2, rtol=1e-8)
        X = np.column_stack([np.ones(len(rows)), age[rows]])
        for j in (0, 7, 40, M - 1):
            z = np.where(np.isnan(G[:, j]), np.nanmean(G[:, j]), G[:, j])
            if np.ptp(z) == 0:
                assert name != "a" and np.isnan(table.loc[j, "beta"])
                continue
            left = [part - X @ np.linalg.lstsq(X, part, rcond=None)[0] for part in (z, y[rows])]
            found = stats.linregress(*left)
            se = found.stderr * np.sqrt((len(rows) - 2) / (len(rows) - 3))
            np.testing.assert_allclose(table.loc[j, ["beta", "se"]].astype(float), [found.slope, se], rtol=1e-5)
    assert np.isfinite(table_of(tmp_path / "o.a").loc[7, "beta"])  # it varies among those who have the first


@pytest.mark.parametrize("flags", [("--model", "loco", "--method", "exact"), ("--model", "loco", "--method", "score")])
def test_a_mixed_scan_is_what_each_phenotype_alone_gives(cohort, tmp_path, reads, flags):
    folder = cohort[0]
    assert run(folder, tmp_path / "o", *flags) == 0 and len(reads) == 1
    assert run(folder, tmp_path / "b", *flags, names="b") == 0
    assert (tmp_path / "o.b.gwas.tsv").read_text() == (tmp_path / "b.gwas.tsv").read_text()


def test_a_phenotype_may_have_covariates_of_its_own(cohort, tmp_path):
    folder = cohort[0]
    assert run(folder, tmp_path / "o", "--covar-for", "b=") == 0
    files = ("--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--out", tmp_path / "b", "--pheno-name", "b")
    assert main([str(part) for part in (*files, "--device", "cpu", "--quiet")]) == 0
    assert (tmp_path / "o.b.gwas.tsv").read_text() == (tmp_path / "b.gwas.tsv").read_text()
    assert record_of(tmp_path / "o.a")["covariates"] == ["intercept", "age"]


def test_null_models_of_large_cohorts_share_one_run(cohort, tmp_path, monkeypatch):
    folder = cohort[0]
    monkeypatch.setattr(methods, "exact_is_cheap", lambda *_: False)
    flags = ("--model", "loco", "--method", "score")
    assert run(folder, tmp_path / "o", *flags) == 0
    assert run(folder, tmp_path / "b", *flags, names="b") == 0
    fits = [record_of(tmp_path / f"o.{name}")["fit"] for name in NAMES]
    alone = record_of(tmp_path / "b")["fit"]
    assert len({fit["passes"] for fit in fits}) == 1 and len({fit["n"] for fit in fits}) == 3
    assert fits[1]["passes"] < 3 * alone["passes"]
    error = np.hypot(fits[1]["h2"]["mc_se"], alone["h2"]["mc_se"])
    assert abs(fits[1]["h2"]["estimate"] - alone["h2"]["estimate"]) <= 4 * error + 0.05 * alone["h2"]["se"]
    together, own = table_of(tmp_path / "o.b"), table_of(tmp_path / "b")
    np.testing.assert_allclose(together["A1FREQ"], own["A1FREQ"])
    tested = own["CHISQ"].notna()
    assert (together["CHISQ"].notna() == tested).all()
    np.testing.assert_allclose(together["CHISQ"][tested], own["CHISQ"][tested], rtol=0.1, atol=0.02)
