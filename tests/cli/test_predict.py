"""Effects, saved models, gpu-reml-predict and cross-validation of the command, against dense formulas."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pgenlib import PgenWriter

from gpu_reml import io
from gpu_reml.cli.align import groups_of_samples
from gpu_reml.cli.effects import FileSettings, after_fit, check_effects
from gpu_reml.cli.inputs import load_group
from gpu_reml.cli.main import make_parser
from gpu_reml.cli.methods import choose_method, run_method, safe_name
from gpu_reml.cli.planned import plan_group
from gpu_reml.cli.predict import main
from gpu_reml.cli.read import read_tables
from gpu_reml.cli.reml import Asked
from gpu_reml.cli.replicates import check_replicates
from gpu_reml.io.model_file import read_model
from gpu_reml.ops import unpack
from gpu_reml.validation import dense
from gpu_reml.validation.simulate import Cohort, simulate_cohort, write_plink

N, NEW, M = 260, 90, 240
TABLES = {"sep": "\t", "index": False, "na_rep": "NA"}
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def subset(people, rows):
    return Cohort(people.counts[rows], people.samples.iloc[rows].reset_index(drop=True), people.variants)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A fitted cohort and new samples of the same population, one of whom lacks a covariate and one a phenotype."""
    folder = tmp_path_factory.mktemp("predict")
    people = simulate_cohort(N + NEW, M, 4, missing_rate=0.02)
    alleles = ["AC", "AG", "GT", "TC", "CA"]  # none reads the same on both strands
    pairs = [alleles[j % 5] for j in range(M)]
    variants = people.variants.assign(a1=[pair[0] for pair in pairs], a2=[pair[1] for pair in pairs])
    people = Cohort(people.counts, people.samples, variants)
    rng = np.random.default_rng(0)
    Z = dense.standardised(people.counts)
    first = np.arange(M) < M // 3
    genetic = Z @ (rng.standard_normal(M) * np.where(first, 2.0, 0.6)) / np.sqrt(M)
    age, sex = rng.integers(20, 70, N + NEW).astype(float), rng.integers(1, 3, N + NEW)
    y = 3 * genetic + 0.1 * age + 2.0 * (sex == 2) + 2 * rng.standard_normal(N + NEW) + 170
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    tables = ids.assign(age=age, sex=sex, height=y)
    old, new = np.arange(N), N + np.arange(NEW)
    for name, rows in (("old", old), ("new", new)):
        write_plink(subset(people, rows), folder / name)
        table = tables.iloc[rows].reset_index(drop=True)
        if name == "new":
            table.loc[7, "age"] = np.nan
            table.loc[11, "height"] = np.nan
        table[["FID", "IID", "height"]].to_csv(folder / f"{name}.pheno", **TABLES)
        table[["FID", "IID", "age"]].to_csv(folder / f"{name}.age", **TABLES)
        table[["FID", "IID", "sex"]].to_csv(folder / f"{name}.sex", **TABLES)
    ids_of = people.variants["id"].to_numpy()
    (folder / "first.ids").write_text("\n".join(ids_of[first]) + "\n")
    (folder / "rest.ids").write_text("\n".join(ids_of[~first]) + "\n")
    X = np.column_stack([np.ones(N + NEW), age, sex == 2])
    return SimpleNamespace(folder=folder, people=people, X=X, y=y, first=first, old=old, new=new)


def fit(study, out, *arguments):
    """A fit of the old samples, as gpu-reml does it with these flags; returns {trait: the fit}."""
    folder = study.folder
    files = ["--bfile", folder / "old", "--pheno", folder / "old.pheno", "--qcovar", folder / "old.age"]
    return run(out, *files, "--covar", folder / "old.sex", *arguments)


def run(out, *arguments):
    parser = make_parser("0")
    line = parser.read([str(part) for part in ["--out", out, "--device", "cpu", "--quiet", *arguments]])
    asked = Asked.of(line)
    analysis = asked.analysis
    check_effects(asked.further, analysis)
    tables = read_tables(analysis)
    groups = list(groups_of_samples(tables, analysis.samples))
    found, several = {}, sum(len(group.phenotypes) for group in groups) > 1
    for group in groups:
        inputs = load_group(tables, group, plan_group(tables, group, analysis), analysis)

        def finish(report, inputs=inputs):
            name, result, _ = report
            prefix = f"{out}.{safe_name(name)}" if several else str(out)
            outcome = after_fit(name, result, inputs, analysis, asked.further, FileSettings(prefix, line.values))
            io.write_all(outcome.files)
            found[name] = SimpleNamespace(result=result, lines=outcome.lines)

        method = choose_method(inputs, analysis.estimation.method)
        run_method(method, inputs, analysis, asked.following, finish)
    return found


def loaded(study, out):
    """What a fit of the old samples takes."""
    words = ["--bfile", study.folder / "old", "--pheno", study.folder / "old.pheno", "--out", out, "--device", "cpu"]
    analysis = Asked.of(make_parser("0").read([str(word) for word in words])).analysis
    tables = read_tables(analysis)
    (group,) = groups_of_samples(tables, analysis.samples)
    return load_group(tables, group, plan_group(tables, group, analysis), analysis)


TWO = ("--dtype", "float64", "--method", "exact")


@pytest.fixture(scope="module")
def fitted(study):
    """Two components, effects, a model and a prediction in the same run, with float64 products."""
    folder, out = study.folder, study.folder / "fit" / "two"
    lists = ("--snp-lists", folder / "first.ids", folder / "rest.ids")
    effects = ("--compute-effects", "--save-model", folder / "fit" / "two.model", "--cv", 4, "--reliability", 40)
    new = ("--prediction-bed-prefix", folder / "new", "--prediction-covar-txt", folder / "new.age")
    found = fit(study, out, *TWO, *lists, *effects, *new, "--prediction-covar", folder / "new.sex")
    return SimpleNamespace(out=out, model=folder / "fit" / "two.model.npz", **vars(found["height"]))


def predict(study, out, model, *arguments, sources=("--bfile", "new")):
    folder = study.folder
    source = [sources[0], folder / sources[1]]
    covariates = ["--qcovar", folder / "new.age", "--covar", folder / "new.sex"]
    command = ["--model", model, *source, *covariates, "--out", out, "--device", "cpu", *arguments]
    return main([str(part) for part in command])


def read(prefix, name="prediction.tsv"):
    return pd.read_csv(f"{prefix}.{name}", sep="\t", dtype={"FID": str, "IID": str, "CHR": str})


class Dense:
    """Everything by dense formulas at the variances of a fit, from the counts."""

    def __init__(self, study, theta):
        Z, W = dense.standardised(study.people.counts[study.old]), np.column_stack([study.first, ~study.first])
        counts = study.people.counts.astype(float)
        counts[counts == dense.MISSING] = np.nan
        old = counts[study.old]
        self.mean, self.sd = np.nanmean(old, axis=0), np.nanstd(old, axis=0)
        self.Ks = [dense.kernel(Z, W[:, g]) for g in range(2)]
        self.X, self.y, self.theta = study.X[study.old], study.y[study.old], theta
        self.at = dense.projection(theta, self.y, self.X, self.Ks)
        self.random = np.column_stack([t * K @ self.at.Py for t, K in zip(theta[:-1], self.Ks, strict=True)])
        scale = (Z != 0).any(axis=0)
        self.beta_std = (Z.T @ self.at.Py)[:, None] * W * theta[:-1] / (W * scale[:, None]).sum(axis=0)
        new = np.nan_to_num((counts[study.new] - self.mean) / self.sd)
        self.new_random = new @ self.beta_std
        self.new_fixed = study.X[study.new] @ self.at.fixed_effects


@pytest.fixture(scope="module")
def truth(study, fitted):
    return Dense(study, fitted.result.theta)


def close(found, expected, tol=1e-8):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol * np.abs(expected).max())


def test_effects_of_the_command_are_the_dense_ones(study, fitted, truth):
    fixed = read(fitted.out, "fixed_effects.tsv")
    assert fixed["label"].tolist() == ["intercept", "age", "sex[2]"]
    np.testing.assert_allclose(fixed["beta"], truth.at.fixed_effects, rtol=1e-6)
    np.testing.assert_allclose(fixed["se"], np.sqrt(np.diag(truth.at.fixed_effects_cov)), rtol=1e-5)
    random, each = read(fitted.out, "random_effect.tsv"), read(fitted.out, "random_effect_components.tsv")
    assert random["IID"].tolist() == study.people.samples["iid"].iloc[study.old].tolist()
    close(random["random_effect"], truth.random.sum(axis=1), 1e-5)
    close(each[["first", "rest"]], truth.random, 1e-5)
    variants = read(fitted.out, "snp_effects.tsv")
    assert list(variants) == ["CHR", "BP", "ID", "A1", "A2", "FREQ", "TOTAL", "first", "rest"]
    assert variants["ID"].tolist() == study.people.variants["id"].tolist()
    assert variants["A1"].tolist() == study.people.variants["a1"].tolist()
    np.testing.assert_allclose(variants["FREQ"], truth.mean / 2, rtol=1e-8)
    close(variants[["first", "rest"]], truth.beta_std / truth.sd[:, None], 1e-5)
    np.testing.assert_allclose(variants["TOTAL"], variants["first"] + variants["rest"], rtol=1e-7, atol=1e-10)
    for g, name in enumerate(("first", "rest")):
        one = read(fitted.out, f"snp_effects.component_{g:03d}.tsv")
        rows = study.first if g == 0 else ~study.first
        assert one["ID"].tolist() == study.people.variants["id"][rows].tolist()
        assert set(one["component_name"]) == {name} and set(one["component_index"]) == {g}
        close(one["beta"], truth.beta_std[rows, g], 1e-5)


def test_the_effects_add_up_to_genetic_values_as_the_metadata_says(study, fitted):
    meta = json.loads(fitted.out.with_name("two.effect_metadata.json").read_text())
    variants = read(fitted.out, "snp_effects.tsv")
    counts = study.people.counts[study.old].astype(float)
    counts = np.where(counts == dense.MISSING, 2 * variants["FREQ"].to_numpy(), counts)
    values = meta["intercept"] + counts @ variants["TOTAL"].to_numpy()
    close(values, read(fitted.out, "random_effect.tsv")["random_effect"].to_numpy(), 1e-6)
    np.testing.assert_allclose(sum(meta["intercept_components"]), meta["intercept"])
    assert meta["score_with_plink2"] == "plink2 --pfile NEW --score two.snp_effects.tsv 3 4 7 header cols=+scoresums"
    assert [component["n_snps"] for component in meta["components"]] == [M // 3, M - M // 3]
    assert meta["pcg_rel_res"] <= 1e-6 and "phenotype units" in meta["units"]["random effects"]
    assert all((fitted.out.parent / name).is_file() for name in meta["files"])


def test_reliability_is_written_with_its_error(study, fitted, truth):
    table = read(fitted.out, "random_effect.tsv")
    T = sum(t * K for t, K in zip(truth.theta[:-1], truth.Ks, strict=True))
    exact = np.diag(T @ truth.at.P @ T) / np.diag(T)
    z = (table["reliability"] - exact) / table["reliability_mc_se"]
    assert 0.7 < np.sqrt(np.mean(z**2)) < 1.3
    np.testing.assert_allclose(table["pev"], np.diag(T) * (1 - table["reliability"]), rtol=1e-5)
    assert any(line.startswith("mean reliability of genetic values") for line in fitted.lines)


def test_predictions_of_new_samples_are_the_dense_ones(study, fitted, truth):
    table = read(fitted.out)
    kept = np.arange(NEW) != 7  # no age
    assert table["IID"].tolist() == study.people.samples["iid"].iloc[study.new][kept].tolist()
    close(table[["random_first", "random_rest"]], truth.new_random[kept], 1e-5)
    close(table["random_effect"], truth.new_random[kept].sum(axis=1), 1e-5)
    np.testing.assert_allclose(table["fixed_effect"], truth.new_fixed[kept], rtol=1e-6)
    np.testing.assert_allclose(table["y_pred"], table["fixed_effect"] + table["random_effect"], rtol=1e-8)
    meta = json.loads(fitted.out.with_name("two.prediction_metadata.json").read_text())
    assert meta["samples"]["dropped"] == {"missing covariate age": 1} and meta["variants"]["matched"] == M


def reliability_of_new(study, truth):
    """Dense reliabilities of the new samples' genetic values, of all components together."""
    counts = study.people.counts.astype(float)
    counts[counts == dense.MISSING] = np.nan
    Z = np.nan_to_num((counts - truth.mean) / truth.sd)
    w = np.column_stack([study.first, ~study.first]) @ (truth.theta[:-1] / [study.first.sum(), (~study.first).sum()])
    c, prior = (Z[study.new] * w) @ Z[study.old].T, Z[study.new] ** 2 @ w
    return np.einsum("an,nm,am->a", c, truth.at.P, c) / prior


def test_reliabilities_of_new_samples_are_the_dense_ones(study, fitted, truth, tmp_path):
    lists = ("--snp-lists", study.folder / "first.ids", study.folder / "rest.ids")
    new = ("--prediction-bed-prefix", study.folder / "new", "--prediction-covar-txt", study.folder / "new.age")
    words = ("--prediction-covar", study.folder / "new.sex", "--save-model", tmp_path / "m", "--reliability", N)
    found = fit(study, tmp_path / "r", *TWO, *lists, *new, *words)["height"]
    assert "reliabilities of predictions: exact" in found.lines
    assert predict(study, tmp_path / "other", tmp_path / "m.npz", "--dtype", "float64") == 0
    here, there = read(tmp_path / "r"), read(tmp_path / "other")
    exact, kept = reliability_of_new(study, truth), np.arange(NEW) != 7
    for table in (here, there):
        np.testing.assert_allclose(table["reliability"], exact[kept], rtol=0, atol=1e-6)
        assert not table["reliability_mc_se"].any()


def test_reliabilities_of_new_samples_by_random_replicates_are_within_their_errors(study, fitted, truth):
    table, exact = read(fitted.out), reliability_of_new(study, truth)
    z = (table["reliability"] - exact[np.arange(NEW) != 7]) / table["reliability_mc_se"]
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5
    assert any(line.startswith("reliabilities of predictions: by 40 replicates") for line in fitted.lines)


def test_more_effects_of_replicates_than_a_model_may_have_are_refused_before_the_fit(study, tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_reml.cli.replicates.MOST_BYTES", 4 * M * 100)
    with pytest.raises(io.InputError, match=r"--reliability 200: a model .* give --reliability 100 or less"):
        check_replicates(loaded(study, tmp_path), 200, saved=True)
    check_replicates(loaded(study, tmp_path), 100, saved=True)
    check_replicates(loaded(study, tmp_path), 200, saved=False)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_another_process_predicts_the_same_to_the_bit(study, fitted, tmp_path, dtype):
    """float32 products of the run's own prediction are made here too, so that both kinds are compared."""
    here = tmp_path / "here"
    assert predict(study, here, fitted.model, "--dtype", dtype, "--quiet") == 0
    command = [sys.executable, "-m", "gpu_reml.cli.predict", "--model", fitted.model, "--bfile", study.folder / "new"]
    command += ["--qcovar", study.folder / "new.age", "--covar", study.folder / "new.sex", "--dtype", dtype]
    command += ["--device", "cpu", "--threads", "1", "--out", tmp_path / "there"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{NEW - 1} samples predicted, 1 dropped (1 missing covariate age)" in done.stdout
    assert f"{M} of the model's {M} found" in done.stdout
    there = (tmp_path / "there.prediction.tsv").read_bytes()
    assert there == (tmp_path / "here.prediction.tsv").read_bytes()
    if dtype == "float64":
        assert there == fitted.out.with_name("two.prediction.tsv").read_bytes()


def write_new(study, name, variants, counts):
    """New genotypes under other descriptions of the variants."""
    people = subset(study.people, study.new)
    write_plink(Cohort(np.ascontiguousarray(counts), people.samples, variants), study.folder / name)


def test_the_model_is_found_by_the_name_it_was_saved_by(study, fitted, tmp_path):
    stem = tmp_path / "height"
    stem.with_suffix(".npz").write_bytes(fitted.model.read_bytes())
    assert predict(study, tmp_path / "out", stem) == 0


def test_swapped_alleles_other_strands_and_shuffled_variants_change_nothing(study, fitted, tmp_path):
    people = subset(study.people, study.new)
    rng = np.random.default_rng(3)
    swap, strand, order = rng.random(M) < 0.5, rng.random(M) < 0.5, rng.permutation(M)
    variants, counts = people.variants.copy(), people.counts.copy()
    variants.loc[swap, ["a1", "a2"]] = variants.loc[swap, ["a2", "a1"]].to_numpy()
    counts[:, swap] = np.where(counts[:, swap] == dense.MISSING, dense.MISSING, 2 - counts[:, swap])
    for column in ("a1", "a2"):
        variants.loc[strand, column] = variants.loc[strand, column].str.translate(COMPLEMENT)
    variants.loc[::3, "id"] = [f"x{j}" for j in range(len(variants[::3]))]  # to be found by position
    write_new(study, "other", variants.iloc[order].reset_index(drop=True), counts[:, order])
    for name in ("new", "other"):
        words = ("--dtype", "float64", "--quiet")
        assert predict(study, tmp_path / name, fitted.model, *words, sources=("--bfile", name)) == 0
    plain, other = read(tmp_path / "new"), read(tmp_path / "other")
    pd.testing.assert_frame_equal(plain[["FID", "IID"]], other[["FID", "IID"]])
    numbers = ["fixed_effect", "random_effect", "y_pred", "random_first", "random_rest", "reliability", "pev"]
    for column in numbers:
        np.testing.assert_allclose(other[column], plain[column], rtol=0, atol=1e-6 * np.abs(plain[column]).max())
    meta = json.loads((tmp_path / "other.prediction_metadata.json").read_text())["variants"]
    assert meta["matched"] == M
    assert meta["alleles swapped"] == (swap & ~strand).sum()
    assert meta["alleles of the other strand"] == (strand & ~swap).sum()
    assert meta["alleles of the other strand, swapped"] == (strand & swap).sum()
    assert meta["found by position, not by id"] == M // 3


def test_a_pgen_that_counts_the_other_allele_predicts_the_same(study, fitted, tmp_path):
    people = subset(study.people, study.new)
    prefix = study.folder / "newp"
    with PgenWriter(bytes(prefix.with_suffix(".pgen")), NEW, variant_ct=M) as writer:
        for column in people.counts.T:
            writer.append_biallelic(np.where(column == dense.MISSING, -9, 2 - column).astype(np.int8))
    lines = [f"{v.chrom}\t{v.bp}\t{v.id}\t{v.a1}\t{v.a2}\n" for v in people.variants.itertuples()]
    prefix.with_suffix(".pvar").write_text("#CHROM\tPOS\tID\tREF\tALT\n" + "".join(lines))
    who = [f"{s.fid}\t{s.iid}\n" for s in people.samples.itertuples()]
    prefix.with_suffix(".psam").write_text("#FID\tIID\n" + "".join(who))
    assert predict(study, tmp_path / "bed", fitted.model, "--quiet") == 0
    assert predict(study, tmp_path / "pgen", fitted.model, "--quiet", sources=("--pfile", "newp")) == 0
    a, b = read(tmp_path / "bed"), read(tmp_path / "pgen")
    np.testing.assert_allclose(b["y_pred"], a["y_pred"], rtol=0, atol=1e-6 * a["random_effect"].abs().max())
    assert json.loads((tmp_path / "pgen.prediction_metadata.json").read_text())["variants"]["alleles swapped"] == M


def test_absent_variants_count_as_the_mean(study, fitted, truth, tmp_path, capsys):
    people = subset(study.people, study.new)
    there = np.arange(M) % 4 != 1
    write_new(study, "fewer", people.variants[there].reset_index(drop=True), people.counts[:, there])
    assert predict(study, tmp_path / "p", fitted.model, "--dtype", "float64", sources=("--bfile", "fewer")) == 0
    out = capsys.readouterr().out
    assert (
        f"{there.sum()} of the model's {M} found" in out
        and f"not there (as if all had the model's mean): {M // 4}" in out
    )
    weights = np.where(study.first, truth.theta[0] / study.first.sum(), truth.theta[1] / (~study.first).sum())
    share = weights[~there].sum() / weights.sum()
    assert f"variants that are not there have {share:.1%} of the genetic variance, which reliabilities leave out" in out
    counts = people.counts.astype(float)
    counts[counts == dense.MISSING] = np.nan
    centred = np.nan_to_num((counts - truth.mean) / truth.sd) * there
    kept = np.arange(NEW) != 7
    close(read(tmp_path / "p")["random_effect"], (centred @ truth.beta_std).sum(axis=1)[kept], 1e-5)


def test_pieces_of_the_genome_predict_as_the_whole(study, fitted, tmp_path):
    people = subset(study.people, study.new)
    for name, part in (("left", slice(0, 100)), ("right", slice(100, M))):
        write_new(study, name, people.variants[part].reset_index(drop=True), people.counts[:, part])
    both = f"left,{study.folder / 'right'}"
    assert predict(study, tmp_path / "parts", fitted.model, sources=("--bfile", both)) == 0
    assert predict(study, tmp_path / "whole", fitted.model) == 0
    a, b = read(tmp_path / "parts"), read(tmp_path / "whole")
    np.testing.assert_allclose(a["y_pred"], b["y_pred"], rtol=1e-6)


def test_accuracy_is_reported_with_phenotypes(study, fitted, tmp_path, capsys):
    out = tmp_path / "acc"
    assert predict(study, out, fitted.model, "--pheno", study.folder / "new.pheno") == 0
    table, printed = read(out), capsys.readouterr().out
    known = table["y"].notna().to_numpy()
    assert known.sum() == NEW - 2 and np.isnan(table["y"][10])  # row 11, after the one without age
    found = json.loads(out.with_name("acc.prediction_metadata.json").read_text())["accuracy"]
    r = np.corrcoef(table["y"][known], table["y_pred"][known])[0, 1]
    half = 1.959963984540054 / np.sqrt(known.sum() - 3)
    np.testing.assert_allclose(
        [found["correlation"], found["lower"], found["upper"]], [r, *np.tanh(np.arctanh(r) + np.array([-half, half]))]
    )
    y = table["y"][known]
    np.testing.assert_allclose(found["r2"], 1 - ((y - table["y_pred"][known]) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert found["r2_incremental"] > 0.1 and f"accuracy in {NEW - 2} samples: correlation {r:.4f}" in printed
    assert "were in the fit" not in printed
    # the same for the samples of the fit is said to be no test
    old = [
        "--qcovar",
        study.folder / "old.age",
        "--covar",
        study.folder / "old.sex",
        "--pheno",
        study.folder / "old.pheno",
    ]
    command = ["--model", fitted.model, "--bfile", study.folder / "old", *old, "--out", tmp_path / "old"]
    assert main([str(part) for part in [*command, "--device", "cpu"]]) == 0
    assert f"{N} of the samples with a phenotype were in the fit" in capsys.readouterr().out
    np.testing.assert_allclose(
        read(tmp_path / "old")["random_effect"],
        read(fitted.out, "random_effect.tsv")["random_effect"],
        rtol=0,
        atol=1e-4,
    )


def test_genetic_values_alone_need_no_covariates(study, fitted, tmp_path):
    command = ["--model", fitted.model, "--bfile", study.folder / "new", "--genetic-only", "--out", tmp_path / "g"]
    phenotypes = ["--pheno", study.folder / "new.pheno", "--device", "cpu", "--dtype", "float64"]
    assert main([str(part) for part in [*command, *phenotypes]]) == 0
    table = read(tmp_path / "g")
    assert len(table) == NEW and list(table)[:4] == ["FID", "IID", "random_effect", "y"]
    both = table.merge(read(fitted.out), on=["FID", "IID"])
    np.testing.assert_allclose(both["random_effect_x"], both["random_effect_y"], rtol=1e-12)
    found = json.loads((tmp_path / "g.prediction_metadata.json").read_text())["accuracy"]
    assert found["n"] == NEW - 1 and 0 < found["r2"] < 1 and found["r2_covariates"] == pytest.approx(0, abs=1e-12)


def test_cross_validation_of_the_command_is_the_dense_one(study, fitted, truth):
    table = read(fitted.out, "cv.tsv")
    assert sorted(table["fold"].value_counts()) == [N // 4] * 4
    fold = table["fold"].to_numpy()
    T = sum(t * K for t, K in zip(truth.theta[:-1], truth.Ks, strict=True))
    for k in range(4):
        train, out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        at = dense.projection(truth.theta, truth.y[train], truth.X[train], [K[np.ix_(train, train)] for K in truth.Ks])
        close(table["random_effect"][out], T[np.ix_(out, train)] @ at.Py, 1e-5)
        np.testing.assert_allclose(table["fixed_effect"][out], truth.X[out] @ at.fixed_effects, rtol=1e-6)
    record = json.loads(fitted.out.with_name("two.cv.json").read_text())
    r2 = [
        1 - ((g["y"] - g["y_pred"]) ** 2).sum() / ((g["y"] - g["y"].mean()) ** 2).sum()
        for _, g in table.groupby("fold")
    ]
    np.testing.assert_allclose([one["r2"] for one in record["folds"]], r2, rtol=1e-6)
    np.testing.assert_allclose(record["over_folds"]["r2"]["mean"], np.mean(r2), rtol=1e-6)
    np.testing.assert_allclose(record["over_folds"]["r2"]["se"], np.std(r2, ddof=1) / 2, rtol=1e-5)
    assert record["pooled"]["n"] == N and record["pooled"]["r2_incremental"] > 0.1
    assert any(line.startswith("all together: R2") for line in fitted.lines) and "relatives" in record["caution"]


def test_the_saved_model_says_what_it_is(study, fitted):
    model = read_model(fitted.model)
    assert (model.phenotype, model.components) == ("height", ("first", "rest"))
    np.testing.assert_array_equal(model.theta, fitted.result.theta)
    np.testing.assert_array_equal(model.theta_se, fitted.result.se)
    assert model.samples["iid"].tolist() == study.people.samples["iid"].iloc[study.old].tolist()
    assert model.fixed.columns == (("age", None), ("sex", "2")) and model.fixed.references == {"sex": "1"}
    assert model.about["converged"] and model.about["settings"]["bfile"].endswith("old")
    assert set(model.about["hashes"]) == {"phenotype", "covariates", "genotypes"}


def test_a_stochastic_fit_of_several_traits_saves_a_model_each(study, tmp_path):
    table = read(study.folder / "old", "pheno")
    two = table.assign(weight=table["height"] + np.random.default_rng(1).standard_normal(N))
    two.to_csv(tmp_path / "two.pheno", **TABLES)
    traits = ("--pheno", tmp_path / "two.pheno", "--pheno-name", "all", "--method", "stochastic")
    found = fit(study, tmp_path / "many", *traits, "--save-model", tmp_path / "m.npz", "--max-probes", 16)
    assert sorted(path.name for path in tmp_path.glob("m.*.npz")) == ["m.height.npz", "m.weight.npz"]
    for name in ("height", "weight"):
        model = read_model(tmp_path / f"m.{name}.npz")
        np.testing.assert_array_equal(model.theta, found[name].result.theta)
        Z = dense.standardised(study.people.counts[study.old])
        at = dense.projection(model.theta, two[name].to_numpy(), study.X[study.old], [dense.kernel(Z)])
        close(model.Py, at.Py, 1e-5)
        np.testing.assert_allclose(model.fixed.estimate, at.fixed_effects, rtol=1e-5)


def test_a_fit_without_genetic_variance_still_predicts(study, tmp_path):
    rng = np.random.default_rng(12)
    table = read(study.folder / "old", "pheno")
    Z = dense.standardised(study.people.counts[study.old])
    noise = rng.standard_normal(N)
    # what the genotypes explain is taken out, and more, so that no variance is left for them
    noise -= 1.5 * Z @ np.linalg.lstsq(Z.T @ Z + 50 * np.eye(M), Z.T @ noise, rcond=None)[0]
    table.assign(height=noise).to_csv(tmp_path / "noise.pheno", **TABLES)
    model = tmp_path / "m.npz"
    found = fit(
        study, tmp_path / "n", *TWO, "--pheno", tmp_path / "noise.pheno", "--save-model", model, "--compute-effects"
    )
    assert found["height"].result.theta[0] == 0
    assert predict(study, tmp_path / "p", model) == 0
    assert not read(tmp_path / "p")["random_effect"].any() and len(read(tmp_path / "n", "snp_effects.tsv")) == M


# what is wrong, in one line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reliability", "8"], "give --compute-effects or --save-model"),
        (["--prediction-covar-txt", "a"], "there are no samples to predict"),
        (["--compute-effects", "--method", "he"], "--compute-effects: needs a REML fit, which --method he is not"),
        (["--prediction-bed-prefix", "a", "--prediction-pgen-prefix", "b"], "give only one of them"),
        (["--prediction-bed-prefix", "a"], "--prediction-covar-txt: the fit has covariates by --qcovar"),
        (["--prediction-bed-prefix", "a", "--prediction-covar-txt", "b"], "--prediction-covar: the fit has covariates"),
    ],
)
def test_flags_that_do_not_go_together(study, tmp_path, arguments, message):
    with pytest.raises(io.InputError, match=message):
        fit(study, tmp_path / "x", *arguments)


@pytest.mark.parametrize("flags", [["--cv", "1"], ["--cv", "x"], ["--reliability", "0"]])
def test_numbers_out_of_range_are_refused(study, tmp_path, flags, capsys):
    with pytest.raises(SystemExit):
        fit(study, tmp_path / "x", "--compute-effects", *flags)
    assert flags[0] in capsys.readouterr().err


def test_a_fold_that_holds_a_level_alone_is_named(study, tmp_path):
    table = read(study.folder / "old", "sex")
    table.loc[3, "sex"] = 9
    table.to_csv(tmp_path / "rare.sex", **TABLES)
    with pytest.raises(io.InputError, match=r"--cv: fold \d: without its samples .* 3 is sex\[9\]"):
        fit(study, tmp_path / "x", *TWO, "--covar", tmp_path / "rare.sex", "--cv", 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: ["--covar", folder / "strange.sex"], "covariate sex has level 3 for FID"),
        (
            lambda folder: ["--qcovar", folder / "new.pheno"],
            "has the quantitative covariate age, and the file has height",
        ),
        (lambda folder: ["--model", folder / "new.bed"], "not a saved model"),
        (lambda folder: ["--keep", folder / "nobody"], "nobody shares no sample with the genotypes"),
        (lambda folder: ["--remove", folder / "nobody"], "nobody shares no sample with the genotypes"),
        (lambda folder: ["--genetic-only"], "--genetic-only: takes no covariates"),
        (lambda folder: ["--pheno-name", "height"], "give --pheno"),
        (lambda folder: ["--pheno", folder / "old.pheno"], "no predicted sample has phenotype height"),
        (lambda folder: ["--bfile", folder / "absent"], "not found"),
        (lambda folder: ["--bfile", folder / "strange"], "none of the model's 240 variants can be used"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(study, fitted, tmp_path, capsys, change, message):
    folder = study.folder
    table = read(folder / "new", "sex")
    table.loc[5, "sex"] = 3
    table.to_csv(folder / "strange.sex", **TABLES)
    (folder / "nobody").write_text("x y\n")
    people = subset(study.people, study.new)
    variants = people.variants.assign(id=[f"z{j}" for j in range(M)], bp=people.variants["bp"] + 10**8)
    write_plink(Cohort(people.counts, people.samples, variants), folder / "strange")
    capsys.readouterr()
    assert predict(study, tmp_path / "x", fitted.model, *change(folder)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("gpu-reml-predict: error: ")
    assert not list(tmp_path.iterdir())


def test_keep_and_remove_choose_the_predicted(study, fitted, tmp_path, capsys):
    ids = study.people.samples.iloc[study.new][["fid", "iid"]]
    ids[:30].to_csv(tmp_path / "keep", sep="\t", header=False, index=False)
    ids[20:30].to_csv(tmp_path / "remove", sep="\t", header=False, index=False)
    lists = ("--keep", tmp_path / "keep", "--remove", tmp_path / "remove")
    assert predict(study, tmp_path / "k", fitted.model, *lists) == 0
    assert read(tmp_path / "k")["IID"].tolist() == ids["iid"][:20].drop(ids.index[7]).tolist()
    assert (
        "19 samples predicted, 71 dropped (60 not in keep; 10 in remove; 1 missing covariate age)"
        in capsys.readouterr().out
    )


DATA = Path(os.environ.get("GPU_REML_EXTERNAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
MOUSE = DATA / "mouse_hs1940"


@pytest.mark.external
def test_mice_are_predicted_from_other_mice_as_by_dense_formulas(tmp_path, capsys):
    """Float32 products and a stochastic fit, on a real cohort of families with missing calls."""
    if not MOUSE.is_dir():
        pytest.skip(f"no external data at {MOUSE}; set GPU_REML_EXTERNAL_DATA")
    bed = io.read_bed(MOUSE / "mouse_hs1940")
    cd8 = io.read_phenotype(MOUSE / "pheno.txt", "CD8")
    who = io.align([bed.samples], cd8)
    old = np.sort(np.random.default_rng(0).permutation(who.num_samples)[:1000])
    new = np.setdiff1d(np.arange(who.num_samples), old)
    io.write_samples(tmp_path / "old", who.samples.iloc[old])
    io.write_samples(tmp_path / "new", who.samples.iloc[new])
    files = ("--bfile", MOUSE / "mouse_hs1940", "--pheno", MOUSE / "pheno.txt", "--pheno-name", "CD8")
    flags = (
        "--chr",
        "1-4,17",
        "--keep",
        tmp_path / "old",
        "--method",
        "stochastic",
        "--max-probes",
        8,
        "--compute-effects",
    )
    found = run(tmp_path / "m", *files, *flags, "--save-model", tmp_path / "m.npz")["CD8"]
    predicted = ["--model", tmp_path / "m.npz", *files, "--keep", tmp_path / "new", "--out", tmp_path / "p"]
    assert main([str(part) for part in [*predicted, "--device", "cpu"]]) == 0

    chosen = np.flatnonzero(bed.variants["chrom"].isin(["1", "2", "3", "4", "17"]))
    counts = unpack(bed.read_packed(None, chosen), bed.num_samples)[who.indices[0]]
    calls = np.where(counts == dense.MISSING, np.nan, counts)
    mean, sd = np.nanmean(calls[old], axis=0), np.nanstd(calls[old], axis=0)
    Z = np.nan_to_num((calls - mean) / np.where(sd > 0, sd, np.inf))
    K = Z @ Z[old].T / (sd > 0).sum()
    theta = found.result.theta
    at = dense.projection(theta, who.y[old], np.ones((1000, 1)), [K[old]])
    u = theta[0] * K @ at.Py
    close(read(tmp_path / "m", "random_effect.tsv")["random_effect"], u[old], 1e-5)
    table = read(tmp_path / "p")
    close(table["random_effect"], u[new], 1e-5)
    np.testing.assert_allclose(table["fixed_effect"], at.fixed_effects[0], rtol=0, atol=1e-5 * who.y.std())
    r = np.corrcoef(u[new], who.y[new])[0, 1]
    assert r > 0.6 and f"correlation {r:.4f}" in capsys.readouterr().out
