"""Effects, saved models and predictions where ancestry and environment scale components, against dense formulas."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from gpu_reml import io
from gpu_reml.cli.main import main
from gpu_reml.cli.predict import main as predict_main
from gpu_reml.io.model import Scale
from gpu_reml.io.model_file import read_model
from gpu_reml.validation import SPARSE, dense
from gpu_reml.validation.simulate import Cohort, simulate_cohort, write_plink

N, NEW, M = 200, 60, 240
TABLES = {"sep": "\t", "index": False, "na_rep": "NA"}
NO_ROW, NO_Q, NO_AGE, NO_DOSE = 5, 9, 14, 21  # new samples that lack something
COMPLETE = np.setdiff1d(np.arange(NEW), [NO_ROW, NO_Q, NO_AGE, NO_DOSE])
COMPONENTS = ["north", "south", "data_x_age"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """People to fit and others to predict, of two ancestries and many ages, with calls missing."""
    folder = tmp_path_factory.mktemp("scaled")
    people = simulate_cohort(N + NEW, M, 6, missing_rate=0.02, haplotypes=SPARSE)
    rng = np.random.default_rng(5)
    Z = dense.standardised(people.counts)
    Q = rng.dirichlet([1.0, 0.7], N + NEW).round(6)
    Q[:, 1] = (1 - Q[:, 0]).round(6)
    age, dose = rng.normal(45, 12, N + NEW).round(3), rng.normal(0, 2, N + NEW).round(3)
    e = (age - 45) / 12
    effects = rng.standard_normal((M, 3)) * [4.0, 2.5, 2.0] / np.sqrt(M)
    genetic = (np.column_stack([np.sqrt(Q), e]) * (Z @ effects)).sum(axis=1)
    noise = rng.standard_normal(N + NEW) * np.sqrt(Q @ [3.0, 8.0])
    y = (20 + 0.1 * age - dose + genetic + noise).round(6)
    site = rng.choice(["clinic", "home"], N + NEW)
    table = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    table = table.assign(y=y, age=age, dose=dose, site=site)
    old, new = np.arange(N), N + np.arange(NEW)
    for name, rows in (("data", old), ("new", new)):
        who = people.samples.iloc[rows].reset_index(drop=True)
        write_plink(Cohort(people.counts[rows], who, people.variants), folder / name)
        one = table.iloc[rows].reset_index(drop=True)
        if name == "new":
            one.loc[NO_AGE, "age"], one.loc[NO_DOSE, "dose"] = np.nan, np.nan
        listed = one.drop(index=NO_ROW) if name == "new" else one
        listed[["FID", "IID", "age"]].sample(frac=1, random_state=1).to_csv(folder / f"{name}.env", **TABLES)
        for file, columns in {"pheno": ["y"], "dose": ["dose"], "both": ["dose", "age"], "site": ["site"]}.items():
            one[["FID", "IID", *columns]].to_csv(folder / f"{name}.{file}", **TABLES)
    np.savetxt(folder / "data.2.Q", Q[old], fmt="%.6f")
    # the new samples' ancestries, in an order of their own and without one of them
    order = rng.permutation(np.setdiff1d(np.arange(NEW), [NO_Q]))
    np.savetxt(folder / "new.Q", Q[new][order], fmt="%.6f")
    np.savetxt(folder / "swapped.Q", Q[new][order][:, ::-1], fmt="%.6f")
    listed = people.samples.iloc[new].iloc[order]
    (folder / "who.fam").write_text(
        "".join(f"{fid} {iid} 0 0 0 -9\n" for fid, iid in listed[["fid", "iid"]].to_numpy())
    )
    return SimpleNamespace(folder=folder, people=people, Z=Z, Q=Q, age=age, dose=dose, y=y, site=site, old=old, new=new)


def fit(study, out, *arguments, genotypes=True):
    """The exit code of gpu-reml with these flags, exact and with float64 products."""
    folder = study.folder
    command = ["--bfile", folder / "data"] if genotypes else []
    command += ["--pheno", folder / "data.pheno", "--method", "exact", "--dtype", "float64", "--device", "cpu"]
    return main([str(part) for part in [*command, "--quiet", "--out", out, *arguments]])


def predict(study, out, model, *arguments):
    folder = study.folder
    command = ["--model", model, "--bfile", folder / "new", "--out", out, "--device", "cpu", "--dtype", "float64"]
    return predict_main([str(part) for part in [*command, "--quiet", *arguments]])


def model_flags(folder):
    """Ancestries with residuals of their own, and an environment."""
    named = ("--admix-q", folder / "data.2.Q", "--admix-component-names", "north,south")
    return (
        *named,
        "--admix-residual-mode",
        "per-ancestry",
        "--gxe",
        folder / "data.env",
        "--qcovar",
        folder / "data.dose",
    )


def new_flags(folder):
    """The predicted samples' tables."""
    given = ("--admix-q", folder / "new.Q", "--admix-fam", folder / "who.fam")
    return (*given, "--gxe", folder / "new.env", "--qcovar", folder / "new.dose")


@pytest.fixture(scope="module")
def fitted(study):
    folder, out = study.folder, study.folder / "fit" / "many"
    files = ("--compute-effects", "--reliability", 30, "--cv", 3, "--save-model", folder / "fit" / "m")
    assert fit(study, out, *model_flags(folder), *files) == 0
    assert predict(study, out, folder / "fit" / "m.npz", *new_flags(folder)) == 0
    record = json.loads(out.with_name("many.json").read_text())
    return SimpleNamespace(out=out, model=folder / "fit" / "m.npz", record=record)


def read(prefix, name="prediction.tsv"):
    return pd.read_csv(f"{prefix}.{name}", sep="\t", dtype={"FID": str, "IID": str, "CHR": str})


class Dense:
    """The model, with variances of a fit, by dense formulas from the files' numbers."""

    def __init__(self, study, theta, y=None):
        old, new = study.old, study.new
        counts = np.where(study.people.counts == dense.MISSING, np.nan, study.people.counts)
        self.mean, self.sd = np.nanmean(counts[old], axis=0), np.nanstd(counts[old], axis=0)
        varies = self.sd > 0
        self.num_variants = varies.sum()
        Z = self.Z = np.nan_to_num((counts - self.mean) / np.where(varies, self.sd, np.inf))
        self.centre, self.env_sd = study.age[old].mean(), study.age[old].std()
        self.S = np.column_stack([np.sqrt(study.Q), (study.age - self.centre) / self.env_sd])
        K = Z[old] @ Z[old].T / varies.sum()
        self.theta, self.residual = theta, study.Q[old] @ theta[3:]
        self.Ks = [np.outer(s, s) * K for s in self.S[old].T]
        self.T = sum(t * own for t, own in zip(theta, self.Ks, strict=False))
        self.y, X = study.y if y is None else y, np.column_stack([np.ones(N + NEW), study.dose, study.age])
        self.X, self.V = X, self.T + np.diag(self.residual)
        self.b, self.Py, self.P = self.gls(old)
        self.random = np.column_stack([t * own @ self.Py for t, own in zip(theta, self.Ks, strict=False)])
        self.beta_std = theta[:3] * (Z[old].T @ (self.S[old] * self.Py[:, None])) / varies.sum()
        self.new_random = self.S[new] * (Z[new] @ self.beta_std)
        self.new_fixed = X[new] @ self.b

    def gls(self, rows):
        X, inverse = self.X[rows], np.linalg.inv(self.V[np.ix_(rows, rows)])
        cov = np.linalg.inv(X.T @ inverse @ X)
        b = cov @ X.T @ inverse @ self.y[rows]
        return b, inverse @ (self.y[rows] - X @ b), inverse - inverse @ X @ cov @ X.T @ inverse


@pytest.fixture(scope="module")
def truth(study, fitted):
    rows = [*fitted.record["components"], *fitted.record["residuals"]]
    theta = np.array([row["theta"] for row in rows])
    assert (theta > 0.1).all()  # every component has a part in what follows
    return Dense(study, theta)


def close(found, expected, tol=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol * np.abs(expected).max())


def counts_of(study, rows, ids, mean):
    """Counts of some people at the variants of these ids, a missing one the mean."""
    chosen = study.people.variants["id"].isin(ids).to_numpy()
    counts = study.people.counts[rows][:, chosen]
    return np.where(counts == dense.MISSING, mean, counts)


def test_genetic_values_and_effects_are_the_dense_ones(study, fitted, truth):
    fixed = read(fitted.out, "fixed_effects.tsv")
    assert fixed["label"].tolist() == ["intercept", "dose", "age"]
    np.testing.assert_allclose(fixed["beta"], truth.b, rtol=1e-5)
    close(read(fitted.out, "random_effect_components.tsv")[COMPONENTS], truth.random)
    close(read(fitted.out, "random_effect.tsv")["random_effect"], truth.random.sum(axis=1))
    variants = read(fitted.out, "snp_effects.tsv")
    # there is no effect in all components together, so no column of it
    assert list(variants) == ["CHR", "BP", "ID", "A1", "A2", "FREQ", *COMPONENTS]
    varies = truth.sd > 0
    assert variants["ID"].tolist() == study.people.variants["id"][varies].tolist() and len(variants) == M - 1
    close(variants[COMPONENTS], truth.beta_std[varies] / truth.sd[varies, None])
    for g in range(3):
        close(read(fitted.out, f"snp_effects.component_{g:03d}.tsv")["beta"], truth.beta_std[varies, g])


def test_genetic_values_follow_from_the_effects_as_the_metadata_says(study, fitted):
    meta = json.loads(fitted.out.with_name("many.effect_metadata.json").read_text())
    variants = read(fitted.out, "snp_effects.tsv")
    counts = counts_of(study, study.old, variants["ID"], 2 * variants["FREQ"].to_numpy())
    scores = np.array(meta["intercept_components"]) + counts @ variants[COMPONENTS].to_numpy()
    values = {"north": study.Q[:, 0], "south": study.Q[:, 1], "age": study.age}
    for g, component in enumerate(meta["components"]):
        by = component["multiplied_by"]
        s = (values[by["name"]][study.old] - by["centre"]) / by["sd"]
        scores[:, g] *= np.sqrt(s) if by["root"] else s
    close(scores, read(fitted.out, "random_effect_components.tsv")[COMPONENTS].to_numpy(), 1e-6)
    assert meta["components"][0]["multiplied_by"]["formula"] == "sqrt(ancestry north)"
    assert "intercept" not in meta and meta["score_with_plink2"].endswith("--score-col-nums 7-9")
    assert [residual["name"] for residual in meta["residuals"]] == ["residual_north", "residual_south"]


def test_predictions_of_new_samples_are_the_dense_ones(study, fitted, truth):
    table = read(fitted.out)
    ids = study.people.samples["iid"].iloc[study.new]
    assert table["IID"].tolist() == ids.iloc[COMPLETE].tolist()
    close(table[[f"random_{name}" for name in COMPONENTS]], truth.new_random[COMPLETE])
    close(table["random_effect"], truth.new_random[COMPLETE].sum(axis=1))
    np.testing.assert_allclose(table["fixed_effect"], truth.new_fixed[COMPLETE], rtol=1e-5)
    np.testing.assert_allclose(table["y_pred"], table["fixed_effect"] + table["random_effect"], rtol=1e-8)
    meta = json.loads(fitted.out.with_name("many.prediction_metadata.json").read_text())
    assert meta["samples"]["dropped"] == {
        "missing environment age": 1,
        "missing covariate dose": 1,
        f"no environments in {study.folder / 'new.env'}": 1,
        f"no ancestries in {study.folder / 'new.Q'}": 1,
    }
    means = [study.Q[rows, 0].mean() for rows in (study.new[COMPLETE], study.old)]
    assert any(f"mean ancestry north {means[0]:.3f} here, {means[1]:.3f} in the fit" in note for note in meta["notes"])


def test_reliabilities_by_ancestry_and_environment_are_the_dense_ones(study, truth, tmp_path):
    folder, old, new = study.folder, study.old, study.new[COMPLETE]
    assert fit(study, tmp_path / "r", *model_flags(folder), "--save-model", tmp_path / "r", "--reliability", N) == 0
    assert predict(study, tmp_path / "r", tmp_path / "r.npz", *new_flags(folder)) == 0
    table, K = read(tmp_path / "r"), truth.Z[new] @ truth.Z[old].T / truth.num_variants
    own = (truth.Z[new] ** 2).sum(axis=1) / truth.num_variants
    parts = [t * np.outer(s[new], s[old]) * K for t, s in zip(truth.theta, truth.S.T, strict=False)]
    priors = [t * s[new] ** 2 * own for t, s in zip(truth.theta, truth.S.T, strict=False)]
    for name, c, prior in [*zip(COMPONENTS, parts, priors, strict=True), ("", sum(parts), sum(priors))]:
        after = f"_{name}" if name else ""
        pev = prior - np.einsum("an,nm,am->a", c, truth.P, c)
        np.testing.assert_allclose(table[f"pev{after}"], pev, rtol=0, atol=1e-6 * prior.max())
        has = prior > 1e-9  # someone may have nothing of an ancestry
        np.testing.assert_allclose(table[f"reliability{after}"][has], (1 - pev / prior)[has], rtol=0, atol=1e-6)


def test_another_process_predicts_the_same_to_the_bit(study, fitted, tmp_path):
    command = [sys.executable, "-m", "gpu_reml.cli.predict", "--model", fitted.model, "--bfile", study.folder / "new"]
    command += [*new_flags(study.folder), "--dtype", "float64", "--device", "cpu", "--threads", "1"]
    command += ["--out", tmp_path / "there"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(COMPLETE)} samples predicted, 4 dropped (" in done.stdout
    there = (tmp_path / "there.prediction.tsv").read_bytes()
    assert there == fitted.out.with_name("many.prediction.tsv").read_bytes()


def test_the_saved_model_says_what_scales_its_components(study, fitted, truth):
    model = read_model(fitted.model)
    assert model.components == tuple(COMPONENTS) and model.residuals == ("residual_north", "residual_south")
    north, south, age = model.scales
    assert (north, south) == (Scale("ancestry", "north", root=True), Scale("ancestry", "south", root=True))
    assert (age.kind, age.name, age.root) == ("environment", "age", False)
    np.testing.assert_allclose([age.centre, age.sd], [truth.centre, truth.env_sd], rtol=1e-12)
    assert (model.ancestries, model.environments) == (("north", "south"), ("age",))
    np.testing.assert_array_equal(model.theta, truth.theta)
    close(model.Py, truth.Py)


def test_environments_among_the_covariates_and_renamed_ancestries_change_nothing(study, fitted, tmp_path):
    folder = study.folder
    named = ("--admix-q", folder / "swapped.Q", "--admix-fam", folder / "who.fam")
    named += ("--admix-component-names", "south,north", "--qcovar", folder / "new.both")
    assert predict(study, tmp_path / "p", fitted.model, *named) == 0
    ours, before = read(tmp_path / "p"), read(fitted.out)
    both = ours.merge(before, on=["FID", "IID"])
    assert len(both) == len(before) and len(ours) == len(before) + 1  # this file has the age of one more
    np.testing.assert_array_equal(both["y_pred_x"], both["y_pred_y"])


def test_genetic_values_alone_need_what_scales_them_only(study, fitted, tmp_path):
    flags = new_flags(study.folder)[:-2]
    assert predict(study, tmp_path / "g", fitted.model, "--genetic-only", *flags) == 0
    both = read(tmp_path / "g").merge(read(fitted.out), on=["FID", "IID"], how="left")
    assert len(both) == NEW - 3 and "y_pred" in both and both["y_pred"].isna().sum() == 1
    known = both["y_pred"].notna()
    np.testing.assert_array_equal(both["random_effect_x"][known], both["random_effect_y"][known])


def test_reliability_and_cross_validation_are_the_dense_ones(study, fitted, truth):
    table = read(fitted.out, "random_effect.tsv")
    exact = np.diag(truth.T @ truth.P @ truth.T) / np.diag(truth.T)
    z = (table["reliability"] - exact) / table["reliability_mc_se"]
    assert 0.7 < np.sqrt(np.mean(z**2)) < 1.3
    held = read(fitted.out, "cv.tsv")
    fold = held["fold"].to_numpy()
    for k in range(3):
        train, out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        b, Py, _ = truth.gls(train)
        close(held["random_effect"][out], truth.T[np.ix_(out, train)] @ Py)
        np.testing.assert_allclose(held["fixed_effect"][out], truth.X[out] @ b, rtol=1e-5)


def test_stochastic_fits_of_several_traits_with_float32_products_predict_likewise(study, tmp_path):
    folder = study.folder
    other = (study.y + 3 * study.dose + study.Z[:, 0]).round(6)
    table = read(folder / "data", "pheno").assign(other=other[study.old])
    table.to_csv(tmp_path / "two.pheno", **TABLES)
    command = ["--bfile", folder / "data", "--pheno", tmp_path / "two.pheno", "--pheno-name", "all", "--device", "cpu"]
    command += ["--method", "stochastic", "--max-probes", 8, "--quiet", "--out", tmp_path / "s"]
    command += [*model_flags(folder), "--save-model", tmp_path / "m"]
    assert main([str(part) for part in command]) in (0, 3)
    for name, y in (("y", study.y), ("other", other)):
        model = read_model(tmp_path / f"m.{name}.npz")
        truth = Dense(study, model.theta, y)
        close(model.Py, truth.Py)
        new = ("--dtype", "float32", *new_flags(folder))
        assert predict(study, tmp_path / f"s.{name}", tmp_path / f"m.{name}.npz", *new) == 0
        found = read(tmp_path / f"s.{name}")
        close(found[[f"random_{each}" for each in COMPONENTS]], truth.new_random[COMPLETE])
        close(found["fixed_effect"], truth.new_fixed[COMPLETE])


def test_a_model_with_residual_groups_saves_and_predicts(study, tmp_path):
    folder = study.folder
    flags = (
        "--residual-groups",
        folder / "data.site",
        "--qcovar",
        folder / "data.both",
        "--save-model",
        tmp_path / "m",
    )
    new = ("--prediction-bed-prefix", folder / "new", "--prediction-qcovar", folder / "new.both")
    effects = ("--compute-effects", "--reliability", 20)
    assert fit(study, tmp_path / "r", *flags, *new, *effects) == 0
    model = read_model(tmp_path / "m.npz")
    assert (model.residuals, model.scales) == (("residual_clinic", "residual_home"), (None,))
    old, Z = study.old, dense.standardised(study.people.counts[study.old])
    K, D = dense.kernel(Z), study.site[old][:, None] == ["clinic", "home"]
    X = np.column_stack([np.ones(N + NEW), study.dose, study.age])
    inverse = np.linalg.inv(model.theta[0] * K + np.diag(D @ model.theta[1:]))
    cov = np.linalg.inv(X[old].T @ inverse @ X[old])
    b = cov @ X[old].T @ inverse @ study.y[old]
    Py = inverse @ (study.y[old] - X[old] @ b)
    close(read(tmp_path / "r", "random_effect.tsv")["random_effect"], model.theta[0] * K @ Py)
    table = read(tmp_path / "r")
    kept = np.setdiff1d(np.arange(NEW), [NO_AGE, NO_DOSE])
    np.testing.assert_allclose(table["fixed_effect"], X[study.new][kept] @ b, rtol=1e-5)
    assert predict(study, tmp_path / "p", tmp_path / "m.npz", "--qcovar", folder / "new.both") == 0
    assert (tmp_path / "p.prediction.tsv").read_bytes() == (tmp_path / "r.prediction.tsv").read_bytes()
    P = inverse - inverse @ X[old] @ cov @ X[old].T @ inverse
    T, found = model.theta[0] * K, read(tmp_path / "r", "random_effect.tsv")
    z = (found["reliability"] - np.diag(T @ P @ T) / np.diag(T)) / found["reliability_mc_se"]
    assert 0.7 < np.sqrt(np.mean(z**2)) < 1.3


def test_environments_as_they_are_scale_by_their_own_values(study, tmp_path):
    """Beside components of the genotypes as they are, and with noise of the environment."""
    folder = study.folder
    flags = ("--gxe", folder / "data.dose", "--gxe-scale", "none", "--gxe-noise", "--save-model", tmp_path / "m")
    assert fit(study, tmp_path / "e", *flags, "--compute-effects") == 0
    assert predict(study, tmp_path / "e", tmp_path / "m.npz", "--gxe", folder / "new.dose") == 0
    model = read_model(tmp_path / "m.npz")
    assert model.scales == (None, Scale("environment", "dose"))
    assert model.residuals == ("noise_dose", "residual") and len(model.theta) == 4
    table = read(tmp_path / "e")
    kept = np.setdiff1d(np.arange(NEW), [NO_DOSE])
    centred = counts_of(study, study.new[kept], model.variants["id"], model.mean) - model.mean
    expected = centred @ model.effects.toarray() * np.column_stack([np.ones(len(kept)), study.dose[study.new][kept]])
    close(table[["random_data", "random_data_x_dose"]], expected, 1e-8)
    variants = read(tmp_path / "e", "snp_effects.tsv")
    assert list(variants)[6:] == ["data", "data_x_dose"]


def test_given_matrices_have_genetic_values_only(study, tmp_path):
    folder, old = study.folder, study.old
    house = np.kron(np.eye(N // 4), np.full((4, 4), 0.5)) + 0.5 * np.eye(N)
    io.write_grm(folder / "house", house, study.people.samples.iloc[old])
    house = house.astype(np.float32).astype(float)
    K = dense.kernel(dense.standardised(study.people.counts[old]))
    effects = ("--compute-effects", "--reliability", 20, "--cv", 3)
    for genotypes, Ks in ((False, [house]), (True, [K, house])):
        out = tmp_path / f"with{genotypes}"
        assert fit(study, out, "--grm", folder / "house", *effects, genotypes=genotypes) == 0
        record = json.loads(out.with_name(f"{out.name}.json").read_text())
        theta = np.array([row["theta"] for row in (*record["components"], *record["residuals"])])
        at = dense.projection(theta, study.y[old], np.ones((N, 1)), Ks)
        expected = np.column_stack([t * own @ at.Py for t, own in zip(theta, Ks, strict=False)])
        names = [row["name"] for row in record["components"]]
        close(read(out, "random_effect_components.tsv")[names], expected)
        np.testing.assert_allclose(read(out, "fixed_effects.tsv")["beta"], at.fixed_effects, rtol=1e-5)
        meta = json.loads(out.with_name(f"{out.name}.effect_metadata.json").read_text())
        written = sorted(path.name for path in tmp_path.glob(f"{out.name}.snp_effects*"))
        if genotypes:
            assert meta["components_without_effects_of_variants"] == ["house"]
            assert written == [f"{out.name}.snp_effects.component_000.tsv", f"{out.name}.snp_effects.tsv"]
            variants = read(out, "snp_effects.tsv")
            counts = counts_of(study, old, variants["ID"], 2 * variants["FREQ"].to_numpy())
            close(meta["intercept"] + counts @ variants["TOTAL"].to_numpy(), expected[:, 0])
        else:
            assert not written and "genetic_value" not in meta


def test_dominance_has_genetic_values_beside_additive_effects(study, tmp_path):
    out = tmp_path / "d"
    assert fit(study, out, "--dominance", "--compute-effects") == 0
    table = read(out, "random_effect_components.tsv")
    assert list(table)[2:] == ["data", "dominance", "sample_index"]
    meta = json.loads(out.with_name("d.effect_metadata.json").read_text())
    assert meta["components_without_effects_of_variants"] == ["dominance"]
    assert list(read(out, "snp_effects.tsv"))[6:] == ["TOTAL"]


def named(folder, text):
    return [part.replace("@", f"{folder}/") for part in text.split()]


BAD_FITS = {
    "a model with dominance": (
        "--dominance --save-model m",
        "--dominance: a model with dominance cannot be saved or predict other samples",
    ),
    "a model with dominance predicting": (
        "--dominance --prediction-bfile @new",
        "--dominance: a model with dominance cannot be saved",
    ),
    "ancestries": (
        "--admix-q @data.2.Q --prediction-bfile @new",
        "the fit has --admix-q; give --save-model instead and predict by gpu-reml-predict",
    ),
    "environments": ("--gxe @data.env --prediction-bfile @new", "the fit has --gxe; give --save-model instead"),
    "nobody to predict": ("--prediction-covar a", "--prediction-covar: there are no samples to predict"),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_what_cannot_be_saved_or_predicted_is_refused_before_the_fit(study, tmp_path, case, capsys):
    folder = study.folder
    flags, message = BAD_FITS[case]
    assert fit(study, tmp_path / "x", *named(folder, flags)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error), error
    assert not list(tmp_path.iterdir())


Q_OF = "--admix-q @new.Q --admix-fam @who.fam"
BAD_PREDICTIONS = {
    "no ancestries": ("--gxe @new.env --qcovar @new.dose", "the model has ancestries north, south; give those of"),
    "no environments": (
        f"{Q_OF} --qcovar @new.dose",
        "scaled by environment age, and there are dose; name the columns",
    ),
    "no environments and no covariates": (f"{Q_OF} --genetic-only", "environment age, and no file was given"),
    "no covariates": (f"{Q_OF} --gxe @new.env", "the quantitative covariate dose, and the file has age"),
    "another number": (
        "--admix-q @one.Q --admix-fam @who.fam --qcovar @new.both",
        r"one.Q: has 1 ancestries, the model 2 \(north, south\)",
    ),
    "other names": (
        f"{Q_OF} --admix-component-names east,north --qcovar @new.both",
        "ancestries are called east, north, those of the model north, south",
    ),
    "a .fam alone": ("--admix-fam @who.fam", "--admix-fam, --admix-component-names: have no meaning without --admix-q"),
    "covariates with genetic values alone": (f"{Q_OF} --genetic-only --qcovar @new.both", "environments are given by"),
}


@pytest.mark.parametrize("case", BAD_PREDICTIONS)
def test_what_lacks_for_a_prediction_is_said_in_one_line(study, fitted, tmp_path, case, capsys):
    np.savetxt(study.folder / "one.Q", np.ones((NEW - 1, 1)))
    flags, message = BAD_PREDICTIONS[case]
    assert predict(study, tmp_path / "x", fitted.model, *named(study.folder, flags)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_a_model_without_ancestries_or_environments_takes_none(study, tmp_path, capsys):
    assert fit(study, tmp_path / "f", "--save-model", tmp_path / "m") == 0
    for flags, message in ((Q_OF, "scaled by an ancestry; leave"), ("--gxe @new.env", "--gxe: no component of the")):
        capsys.readouterr()
        assert predict(study, tmp_path / "x", tmp_path / "m.npz", *named(study.folder, flags)) == 2
        assert message in capsys.readouterr().err
