"""Phenotypes of different samples in one run, against dense REML of each; genotypes are standardised in all."""

import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml import io
from gpu_reml.cli import together
from gpu_reml.cli.align import groups_of_samples
from gpu_reml.cli.flags.analysis import Analysis
from gpu_reml.cli.main import main, make_parser
from gpu_reml.cli.read import read_tables
from gpu_reml.validation import SPARSE, dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.simulate import simulate_cohort, write_plink

N, M = 180, 400
SETS = [("a", range(0, 200)), ("b", range(200, M))]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Four phenotypes, of which the first two have gaps of their own, the third all, and the fourth those of the
    first; and a covariate of which one level is in few samples, none of whom has the second phenotype."""
    folder = tmp_path_factory.mktemp("together")
    people = simulate_cohort(N, M, 5, haplotypes=SPARSE)
    write_plink(people, folder / "data")
    rng = np.random.default_rng(2)
    g = dense.standardised(people.counts) @ rng.standard_normal(M) / np.sqrt(M)
    Y = 50 + g[:, None] + 0.7 * rng.standard_normal((N, 4))
    Y[rng.random((N, 4)) < 0.12] = np.nan
    Y[:, 2] = 50 + g + rng.standard_normal(N)
    Y[:, 3] = np.where(np.isnan(Y[:, 0]), np.nan, 50 - g + rng.standard_normal(N))
    Y[:3, :] = np.nan  # whom nobody measured
    Y[3:9, 1] = np.nan
    site = np.where((np.arange(N) >= 3) & (np.arange(N) < 9), "x", np.where(rng.random(N) < 0.5, "y", "z"))
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    table = ids.assign(**dict(zip("pqrs", Y.T, strict=True)))
    table.to_csv(folder / "pheno.txt", sep="\t", index=False, na_rep="NA")
    ids.assign(site=site).to_csv(folder / "site.txt", sep="\t", index=False)
    spec = [{"name": name, "variant_indices": list(indices)} for name, indices in SETS]
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def run(cohort, out, *flags, pheno="pheno.txt"):
    files = ("--bfile", cohort / "data", "--pheno", cohort / pheno, "--pheno-name", "all", "--out", out)
    return main([str(part) for part in (*files, "--device", "cpu", "--quiet", *flags)])


def records(out, names="pqrs"):
    return {name: json.loads(out.with_name(f"{out.name}.{name}.json").read_text()) for name in names}


def dense_fits(cohort, sets, site=None, names=("p", "q", "r", "s")):
    """Dense REML of some phenotypes; genotypes are standardised in all samples that have one of these."""
    from bed_reader import open_bed

    with open_bed(cohort / "data.bed") as bed:
        counts = bed.read(dtype="int8")
    table = pd.read_csv(cohort / "pheno.txt", sep="\t").set_index("IID")[list(names)]
    measured = table.notna().any(axis=1).to_numpy()
    Z = dense.standardised(counts[measured])
    Ks = [dense.kernel(Z, np.isin(np.arange(M), list(indices)).astype(float)) for _, indices in sets]
    found = {}
    for name in table:
        y = table[name].to_numpy()[measured]
        rows = np.flatnonzero(~np.isnan(y))
        X = np.ones((len(rows), 1))
        if site is not None:
            levels = sorted(set(site[measured][rows]))
            X = np.column_stack([X, *(site[measured][rows] == level for level in levels[1:])])
        found[name] = exact_reml(y[rows], X, [K[np.ix_(rows, rows)] for K in Ks])
    return found


def assert_as_dense(record, exact, atol=0.02):
    h2 = record["h2"]
    assert abs(h2["estimate"] - exact.h2) <= 4 * h2["mc_se"] + atol * h2["se"]
    np.testing.assert_allclose(h2["se"], exact.h2_se, rtol=0.05)
    assert abs(record["lrt"] - exact.lrt) <= 4 * record["lrt_mc_se"] + 1e-3


@pytest.mark.parametrize("method, sets", [("stochastic", [("all", range(M))]), ("exact", [("all", range(M))])])
def test_phenotypes_of_different_samples_are_fitted_from_one_read(cohort, tmp_path, monkeypatch, method, sets):
    reads, real = [], io.load_genotypes
    monkeypatch.setattr(io, "load_genotypes", lambda *a, **k: reads.append(1) or real(*a, **k))
    assert run(cohort, tmp_path / "all", "--method", method) == 0
    assert len(reads) == 1
    exact, found = dense_fits(cohort, sets), records(tmp_path / "all")
    table = pd.read_csv(cohort / "pheno.txt", sep="\t")
    for name, record in found.items():
        assert_as_dense(record, exact[name], atol=0.02 if method == "stochastic" else 1e-4)
        n = int(table[name].notna().sum())
        assert record["n"] == n == record["samples"]["analysed"]
        assert record["samples"]["dropped"] == {"missing phenotype": N - n}
        everybody = "the analysed samples" if name == "r" else f"the {N - 3} samples that have any phenotype"
        assert f"SD (ddof 0) of {everybody};" in record["standardisation"]
    rows = pd.read_csv(tmp_path / "all.traits.tsv", sep="\t", index_col="trait")
    assert list(rows.index) == list("pqrs") and list(rows["n"]) == [found[name]["n"] for name in "pqrs"]
    log = (tmp_path / "all.q.log").read_text()
    assert f"phenotype q: {found['q']['n']} samples analysed" in log and "--standardize per-trait does so" in log


def test_several_components_are_fitted_in_turn_from_one_read(cohort, tmp_path):
    flags = ("--method", "stochastic", "--component-spec", cohort / "spec.json", "--mc-target", 0.05)
    assert run(cohort, tmp_path / "all", *flags) == 0
    exact = dense_fits(cohort, SETS)
    for name, record in records(tmp_path / "all").items():
        assert_as_dense(record, exact[name])
        assert [component["name"] for component in record["components"]] == ["a", "b"]


def test_a_killed_run_of_several_components_resumes_to_the_same_results(cohort, tmp_path, monkeypatch):
    flags = ("--method", "stochastic", "--component-spec", cohort / "spec.json", "--checkpoint-seconds", 0)
    assert run(cohort, tmp_path / "whole", *flags) == 0
    real, count = io.write_checkpoint, []

    def dies_at_the_eighth(*arguments):
        real(*arguments)
        count.append(1)
        if len(count) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(io, "write_checkpoint", dies_at_the_eighth)
    assert run(cohort, tmp_path / "cut", *flags) == 130
    assert list(tmp_path.glob("cut.*.checkpoint.npz"))
    assert (tmp_path / "cut.traits.tsv").exists() == bool(list(tmp_path.glob("cut.*.json")))
    monkeypatch.setattr(io, "write_checkpoint", real)
    assert run(cohort, tmp_path / "cut", *flags, "--resume") == 0
    whole, cut = (records(tmp_path / name) for name in ("whole", "cut"))
    for name in whole:
        assert whole[name]["components"] == cut[name]["components"] and whole[name]["loglik"] == cut[name]["loglik"]
    assert not list(tmp_path.glob("*checkpoint*"))


def test_a_level_that_only_other_samples_have_is_left_out_of_a_phenotypes_effects(cohort, tmp_path):
    flags = ("--method", "stochastic", "--covar", cohort / "site.txt")
    assert run(cohort, tmp_path / "all", *flags) == 0
    site = pd.read_csv(cohort / "site.txt", sep="\t")["site"].to_numpy()
    exact, found = dense_fits(cohort, [("all", range(M))], site), records(tmp_path / "all")
    for name, record in found.items():
        assert_as_dense(record, exact[name])
        effects = record["fixed_effects"]
        np.testing.assert_allclose(
            [effect["estimate"] for effect in effects], exact[name].fixed_effects, atol=0.1 * effects[-1]["se"]
        )
    assert [effect["name"] for effect in found["q"]["fixed_effects"]] == ["intercept", "site[z]"]
    assert [effect["name"] for effect in found["p"]["fixed_effects"]] == ["intercept", "site[y]", "site[z]"]


@pytest.fixture
def ages(cohort, tmp_path):
    """A file of ages, which five people lack."""
    ids = pd.read_csv(cohort / "site.txt", sep="\t")[["FID", "IID"]]
    age = np.random.default_rng(4).uniform(20, 70, N)
    age[30:35] = np.nan
    ids.assign(age=age).to_csv(tmp_path / "age.txt", sep="\t", index=False, na_rep="NA")
    return tmp_path / "age.txt"


@pytest.mark.parametrize("method", ["exact", "stochastic"])
def test_a_phenotype_may_have_covariates_of_its_own(cohort, tmp_path, ages, method):
    """Who lacks a covariate leaves only the phenotypes that have it."""
    flags = ("--method", method, "--qcovar", ages, "--covar", cohort / "site.txt")
    assert run(cohort, tmp_path / "all", *flags, "--covar-for", "p=site", "--covar-for", "r=") == 0
    found, table = records(tmp_path / "all"), pd.read_csv(cohort / "pheno.txt", sep="\t")
    named = {name: [effect["name"] for effect in record["fixed_effects"]] for name, record in found.items()}
    assert named["p"] == ["intercept", "site[y]", "site[z]"] and named["r"] == ["intercept"]
    assert named["s"] == ["intercept", "age", "site[y]", "site[z]"] and named["q"] == ["intercept", "age", "site[z]"]
    aged = table.drop(range(30, 35))
    assert [found[name]["n"] for name in "pr"] == [table[name].notna().sum() for name in "pr"]
    assert [found[name]["n"] for name in "qs"] == [aged[name].notna().sum() for name in "qs"]
    site = pd.read_csv(cohort / "site.txt", sep="\t")["site"].to_numpy()
    sets = [("all", range(M))]  # genotypes are read once for each set of covariates
    assert_as_dense(found["p"], dense_fits(cohort, sets, site, ["p"])["p"])
    assert_as_dense(found["r"], dense_fits(cohort, sets, names=["r"])["r"])


@pytest.mark.parametrize(
    "given, said",
    [
        (["height=site"], "no phenotype 'height'; there are p, q, r, s"),
        (["p=sex"], "no covariate 'sex'; there are site"),
        (["p"], "expected TRAIT=NAME,NAME"),
        (["p=site", "p="], "p is given twice; name all"),
    ],
)
def test_covariates_of_a_phenotype_that_are_wrong_are_named(cohort, tmp_path, capsys, given, said):
    flags = [part for text in given for part in ("--covar-for", text)]
    assert run(cohort, tmp_path / "all", "--covar", cohort / "site.txt", *flags) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_covariates_of_a_phenotype_need_a_file_of_covariates(cohort, tmp_path, capsys):
    assert run(cohort, tmp_path / "all", "--covar-for", "p=age") == 2
    assert "give --qcovar or --covar" in capsys.readouterr().err


@pytest.mark.parametrize("backend, sets, reads", [("cpu", True, 1), ("cuda", False, 1), ("cuda", True, 3)])
def test_a_device_takes_the_samples_of_several_components_apart(cohort, monkeypatch, backend, sets, reads):
    monkeypatch.setattr(together, "backend_for", lambda _: backend)
    flags = ["--bfile", cohort / "data", "--pheno", cohort / "pheno.txt", "--pheno-name", "all"]
    flags += ["--component-spec", cohort / "spec.json"] if sets else []
    analysis = Analysis.of(make_parser("").read([str(flag) for flag in flags]).values)
    tables = read_tables(analysis)
    groups = list(groups_of_samples(tables, analysis.samples))
    assert len(groups) == 3 and len(together.read_once(tables, groups, analysis, only_fits=True)) == reads


def test_per_trait_is_what_each_phenotype_alone_gives(cohort, tmp_path):
    assert run(cohort, tmp_path / "all", "--method", "exact", "--standardize", "per-trait") == 0
    files = ("--bfile", cohort / "data", "--pheno", cohort / "pheno.txt", "--pheno-name", "q", "--out", tmp_path / "q")
    assert main([str(part) for part in (*files, "--device", "cpu", "--quiet", "--method", "exact")]) == 0
    alone = json.loads((tmp_path / "q.json").read_text())
    together = records(tmp_path / "all")["q"]
    assert together["components"] == alone["components"] and "of the analysed samples" in together["standardisation"]


def test_what_is_asked_for_beside_the_fits_takes_each_phenotypes_own_genotypes(cohort, tmp_path):
    assert run(cohort, tmp_path / "all", "--method", "exact", "--compute-effects") == 0
    assert "of the analysed samples" in records(tmp_path / "all")["p"]["standardisation"]
    assert len(pd.read_csv(tmp_path / "all.p.random_effect.tsv", sep="\t")) == records(tmp_path / "all")["p"]["n"]


def test_samples_that_lack_calls_leave_every_phenotype(cohort, tmp_path):
    from bed_reader import open_bed, to_bed

    with open_bed(cohort / "data.bed") as bed:
        counts, properties = bed.read(dtype="int8"), {key: np.array(value) for key, value in bed.properties.items()}
    counts[20:25, ::3] = -127
    to_bed(tmp_path / "gaps.bed", counts, properties)
    command = ("--pheno", cohort / "pheno.txt", "--pheno-name", "all", "--out", tmp_path / "all", "--mind", 0.2)
    command = ("--bfile", tmp_path / "gaps", *command, "--device", "cpu", "--quiet", "--method", "stochastic")
    assert main([str(part) for part in command]) == 0
    table = pd.read_csv(cohort / "pheno.txt", sep="\t")
    for name, record in records(tmp_path / "all").items():
        expected = table[name].drop(range(20, 25)).notna().sum()
        assert record["n"] == expected
        dropped = table[name].iloc[20:25].notna().sum()
        assert record["samples"]["dropped"]["more than --mind 0.2 of its calls missing"] == dropped


def test_a_phenotype_that_does_not_vary_is_named_before_the_work(cohort, tmp_path, capsys):
    table = pd.read_csv(cohort / "pheno.txt", sep="\t")
    site = pd.read_csv(cohort / "site.txt", sep="\t")["site"]
    table["q"] = np.where(table["q"].isna(), np.nan, (site == "y").astype(float))
    table.to_csv(cohort / "flat.txt", sep="\t", index=False, na_rep="NA")
    assert run(cohort, tmp_path / "all", "--covar", cohort / "site.txt", pheno="flat.txt") == 2
    assert "q: does not vary once the fixed effects are taken out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
