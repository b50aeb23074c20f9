"""Pedigrees, groups, repeated records and sparse matrices: the command against mixed-model equations and matrices."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from gpu_reml import io
from gpu_reml.cli.main import main
from gpu_reml.cli.predict import main as predict_main
from gpu_reml.reml import fit_exact, incidence
from gpu_reml.validation import dense, simulate_cohort, write_plink
from gpu_reml.validation.herds import mixed_model_equations, random_pedigree, tabular_relationship
from gpu_reml.validation.simulate import Cohort

Q = 120  # animals, of which the first 20 have no record


@pytest.fixture(scope="module")
def herd(tmp_path_factory):
    """Records of a herd in files: 20 founders without any, one to four of each other animal, in 8 herds."""
    folder = tmp_path_factory.mktemp("herd")
    rng = np.random.default_rng(11)
    sire, dam = random_pedigree(Q, 20, seed=4)
    people = simulate_cohort(Q, 300, 5)
    write_plink(people, folder / "data")
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    A = tabular_relationship(sire, dam)
    rows = rng.permutation(np.concatenate([np.arange(20, Q), rng.integers(20, Q, 120)]))
    herds, age = rng.integers(0, 8, len(rows)), np.round(rng.uniform(2, 9, len(rows)), 2)
    u = np.linalg.cholesky(A + 1e-9 * np.eye(Q)) @ rng.standard_normal(Q)
    y = 5 + 0.3 * age + u[rows] + 0.6 * rng.standard_normal(Q)[rows] + 0.7 * rng.standard_normal(8)[herds]
    y = np.round(y + rng.standard_normal(len(rows)), 5)
    table = ids.iloc[rows].assign(y=y, age=age)
    table[["FID", "IID", "y"]].to_csv(folder / "pheno.txt", sep="\t", index=False)
    table[["FID", "IID", "age"]].to_csv(folder / "age.txt", sep="\t", index=False)
    ids.iloc[rows].assign(herd=[f"h{h}" for h in herds]).to_csv(folder / "herds.txt", sep="\t", index=False)
    name = np.append(ids["IID"].to_numpy(), "0")
    order = rng.permutation(Q)
    lines = [f"{name[i]} {name[sire[i]]} {name[dam[i]]}\n" for i in order]
    (folder / "pedigree.txt").write_text("animal sire dam\n" + "".join(lines))
    X = np.column_stack([np.ones(len(rows)), age])
    return {
        "folder": folder, "A": A, "rows": rows, "herds": herds, "X": X, "y": y, "ids": ids,
        "samples": people.samples,
    }  # fmt: skip


def run(herd, *arguments, out="out", pheno="pheno.txt"):
    folder = herd["folder"]
    named = ("data", "pedigree.txt", "age.txt", "fewer.txt", "bad.txt")
    words = [folder / word if word in named else word for word in arguments]
    command = ["--pheno", folder / pheno, "--out", folder / out, "--quiet", "--device", "cpu", "--dtype", "float64"]
    code = main([str(word) for word in [*command, *words]])
    return json.loads((folder / f"{out}.json").read_text()) if code == 0 else None


def theta_of(record):
    return np.array([row["theta"] for row in [*record["components"], *record["residuals"]]])


def test_a_pedigree_herds_and_repeated_records_are_fitted_as_their_matrices_and_predict_as_mixed_model_equations(herd):
    folder = herd["folder"]
    both = f"iid,{folder}/herds.txt"
    words = ["--pedigree", "pedigree.txt", "--random", both, "--qcovar", "age.txt", "--method", "exact"]
    record = run(herd, *words, "--compute-effects", "--reliability", "200")
    own, codes = np.unique(herd["rows"], return_inverse=True)
    Z, P, W = (incidence(*each).toarray() for each in [(herd["rows"], Q), (codes, len(own)), (herd["herds"], 8)])
    expected = fit_exact(herd["y"], herd["X"], [Z @ herd["A"] @ Z.T, W @ W.T, P @ P.T])
    theta = theta_of(record)
    assert [row["name"] for row in record["components"]] == ["pedigree", "herd", "iid"]
    assert not [note for note in record["notes"] if "pedigree.txt" in note]  # animals without records are no mistake
    np.testing.assert_allclose(theta, expected.theta, rtol=1e-5)
    variances = [row["variance"] for row in record["components"]]
    assert record["h2"]["estimate"] == pytest.approx(variances[0] / record["vp"]["estimate"])
    assert record["groups"]["estimate"] == pytest.approx(sum(variances[1:]) / record["vp"]["estimate"])
    blocks = [(Z, herd["A"], theta[0]), (W, np.eye(8), theta[1]), (P, np.eye(len(own)), theta[2])]
    equations = mixed_model_equations(herd["y"], herd["X"], blocks, np.full(len(herd["y"]), theta[3]))
    animals = pd.read_csv(folder / "out.pedigree.values.tsv", sep="\t", dtype={"animal": str}).set_index("animal")
    animals = animals.loc[herd["ids"]["IID"]]
    np.testing.assert_allclose(animals["value"], equations.values[0], rtol=1e-5, atol=1e-5)
    assert (animals["n_samples"] == np.bincount(herd["rows"], minlength=Q)).all()
    certain = 1 - equations.pev[0] / (theta[0] * np.diag(herd["A"]))
    np.testing.assert_allclose(animals["reliability"], certain, atol=1e-6)  # as many probes as animals are exact
    assert (certain[:20] > 0.02).any() and (animals["reliability_mc_se"] == 0).all()
    people = pd.read_csv(folder / "out.iid.values.tsv", sep="\t", dtype={"FID": str, "IID": str}).set_index("IID")
    np.testing.assert_allclose(
        people.loc[herd["ids"]["IID"].iloc[own], "value"], equations.values[2], rtol=1e-5, atol=1e-5
    )
    groups = pd.read_csv(folder / "out.herd.values.tsv", sep="\t").set_index("level")
    np.testing.assert_allclose(groups.loc[[f"h{h}" for h in range(8)], "value"], equations.values[1], atol=1e-5)


def test_genotypes_of_people_with_several_records_are_read_once_and_save_a_model(herd):
    folder, rows = herd["folder"], herd["rows"]
    model = folder / "model.npz"
    words = ["--bfile", "data", "--random", "iid", "--method", "exact", "--compute-effects", "--save-model", model]
    record = run(herd, *words, out="records")
    Z, present = incidence(rows, Q).toarray(), np.unique(rows)
    counts = simulate_cohort(Q, 300, 5).counts
    G = dense.standardised(counts[present])
    G = G[:, G.any(axis=0)]
    part = Z[:, present]
    expected = fit_exact(herd["y"], np.ones((len(rows), 1)), [part @ (G @ G.T / G.shape[1]) @ part.T, part @ part.T])
    np.testing.assert_allclose(theta_of(record), expected.theta, rtol=1e-5)
    saved = io.read_model(model)
    assert saved.components == ("data",) and saved.residuals == ("iid", "residual")
    value = pd.read_csv(folder / "records.random_effect_components.tsv", sep="\t", dtype={"IID": str})
    of_people = (G / saved.inv_sd @ saved.effects.toarray())[:, 0]
    at = np.searchsorted(present, rows)
    assert (value["IID"] == herd["ids"]["IID"].iloc[rows].to_numpy()).all()
    np.testing.assert_allclose(value["data"], of_people[at], atol=1e-5)


def test_rows_of_one_sample_are_an_error_without_the_word_iid(herd, capsys):
    assert run(herd, "--bfile", "data") is None
    assert "occur more than once" in capsys.readouterr().err
    assert run(herd, "--bfile", "data", "--random", "iid", "--merge") is None
    assert "repeated records cannot be used with --merge" in capsys.readouterr().err


def test_covariates_of_other_records_than_the_phenotypes_are_refused(herd, write_text, capsys):
    text = (herd["folder"] / "age.txt").read_text().splitlines()
    write_text(herd["folder"] / "fewer.txt", "\n".join(text[:-1]) + "\n")
    assert run(herd, "--bfile", "data", "--random", "iid", "--qcovar", "fewer.txt") is None
    assert "which are not those of" in capsys.readouterr().err


@pytest.fixture
def write_text():
    return lambda path, text: path.write_text(text)


@pytest.fixture(scope="module")
def single(herd):
    """One record of each animal that has any, and a relationship matrix in three formats."""
    folder, ids = herd["folder"], herd["ids"]
    first = pd.Series(herd["rows"]).drop_duplicates()
    ids.iloc[first].assign(y=herd["y"][first.index]).to_csv(folder / "single.txt", sep="\t", index=False)
    A = herd["A"]
    io.write_grm(folder / "a", A, herd["samples"], num_variants=7)
    i, j = np.tril_indices(Q)
    with gzip.open(folder / "z.grm.gz", "wt") as file:
        file.writelines(f"{a + 1} {b + 1} 7 {A[a, b]:.9g}\n" for a, b in zip(i, j, strict=True))
    stored = A[i, j] != 0
    entries = zip(i[stored], j[stored], strict=True)
    (folder / "s.grm.sp").write_text("".join(f"{a}\t{b}\t{A[a, b]:.9g}\n" for a, b in entries))
    for name in "zs":
        (folder / f"{name}.grm.id").write_text((folder / "a.grm.id").read_text())
    (folder / "list.txt").write_text(f"{folder}/a\n")
    return first.to_numpy()


@pytest.mark.parametrize("how", ["a.grm.bin", "z.grm.gz", "s.grm.sp", "mgrm"])
def test_matrices_of_every_format_give_the_same_fit_and_values_of_people_without_phenotypes(herd, single, how):
    folder = herd["folder"]
    flags = ["--mgrm", folder / "list.txt"] if how == "mgrm" else ["--grm", folder / how]
    record = run(herd, *flags, "--compute-effects", "--method", "exact", out="grm", pheno="single.txt")
    y = pd.read_csv(folder / "single.txt", sep="\t")["y"].to_numpy()
    Z = incidence(single, Q).toarray()
    expected = fit_exact(y, np.ones((len(y), 1)), [Z @ herd["A"] @ Z.T])
    theta = theta_of(record)
    np.testing.assert_allclose(theta, expected.theta, rtol=1e-4)
    name = "a" if how == "mgrm" else how[0]
    found = pd.read_csv(folder / f"grm.{name}.values.tsv", sep="\t", dtype={"IID": str}).set_index("IID")
    equations = mixed_model_equations(y, np.ones((len(y), 1)), [(Z, herd["A"], theta[0])], np.full(len(y), theta[1]))
    np.testing.assert_allclose(found.loc[herd["ids"]["IID"], "value"], equations.values[0], atol=1e-4)
    assert found["n_samples"].sum() == len(y) < Q


def test_a_sparse_matrix_stays_sparse(herd, single):
    found = io.read_grm(herd["folder"] / "s")
    assert found.is_sparse and sparse.issparse(found.matrix([3, 1, 2]))
    np.testing.assert_allclose(found.matrix([3, 1, 2]).toarray(), herd["A"][np.ix_([3, 1, 2], [3, 1, 2])])


def test_a_pedigree_that_cannot_be_is_named_by_its_animals(herd, capsys):
    folder = herd["folder"]
    for text, message in [
        ("a b c\nb a 0\n", "is its own ancestor"),
        ("a b b\n", "animal a has the same sire and dam, b"),
        ("a b c\na b c\n", "1 animal(s) have several lines (a)"),
    ]:
        (folder / "bad.txt").write_text(text)
        assert run(herd, "--pedigree", "bad.txt") is None
        assert message in capsys.readouterr().err


def test_a_fam_is_a_pedigree(tmp_path):
    (tmp_path / "herd.fam").write_text("f1 c s d 1 -9\nf1 s 0 0 1 -9\n")
    found = io.read_pedigree(tmp_path / "herd.fam")
    assert found.animals.tolist() == ["c", "s", "d"] and found.pedigree.sire.tolist() == [1, -1, -1]
    assert found.pedigree.dam.tolist() == [2, -1, -1] and "1 parent(s) have no line" in found.table.notes[0]


def test_single_step_takes_animals_with_records_and_without_genotypes(herd, single):
    folder, ids = herd["folder"], herd["ids"]
    people = simulate_cohort(Q, 300, 5)
    some = np.sort(np.random.default_rng(3).choice(Q, 50, replace=False))  # of whom some have no record
    part = Cohort(np.ascontiguousarray(people.counts[some]), people.samples.iloc[some].reset_index(drop=True), None)
    write_plink(replace(part, variants=people.variants), folder / "some")
    words = ["--bfile", folder / "some", "--pedigree", "pedigree.txt", "--single-step", "--method", "exact"]
    more = ["--compute-effects", "--save-model", folder / "h", "--reliability", Q]
    values = np.linalg.cholesky(herd["A"] + 1e-9 * np.eye(Q)) @ np.random.default_rng(8).standard_normal(Q)
    table = pd.read_csv(folder / "single.txt", sep="\t")
    table.assign(y=np.round(3 * values[single] + table["y"], 5)).to_csv(folder / "strong.txt", sep="\t", index=False)
    record = run(herd, *words, *more, out="single", pheno="strong.txt")
    M = dense.standardised(people.counts[some])
    M = M[:, M.any(axis=0)]
    A, G = herd["A"], M @ M.T / M.shape[1]
    A22 = A[np.ix_(some, some)]
    slope = (np.trace(A22) / 50 - A22.mean()) / (np.trace(G) / 50 - G.mean())
    shift = A22.mean() - slope * G.mean()
    G = slope * G + shift if shift >= 0 else np.trace(A22) / np.trace(G) * G
    inverse = np.linalg.inv(A)
    inverse[np.ix_(some, some)] += np.linalg.inv(0.95 * G + 0.05 * A22) - np.linalg.inv(A22)
    H, Z = np.linalg.inv(inverse), incidence(single, Q).toarray()
    y = pd.read_csv(folder / "strong.txt", sep="\t")["y"].to_numpy()
    expected = fit_exact(y, np.ones((len(y), 1)), [Z @ H @ Z.T])
    theta = theta_of(record)
    assert theta[0] > 1
    np.testing.assert_allclose(theta, expected.theta, rtol=1e-4)
    assert record["samples"]["analysed"] == len(single) and len(np.setdiff1d(single, some)) > 20
    found = pd.read_csv(folder / "single.single_step.values.tsv", sep="\t", dtype={"animal": str}).set_index("animal")
    values = theta[0] * H @ Z.T @ np.linalg.solve(theta[0] * Z @ H @ Z.T + theta[1] * np.eye(len(y)), np.eye(len(y)))
    V = theta[0] * Z @ H @ Z.T + theta[1] * np.eye(len(y))
    one = np.ones(len(y))
    b = one @ np.linalg.solve(V, y) / (one @ np.linalg.solve(V, one))
    np.testing.assert_allclose(found.loc[ids["IID"], "value"], values @ (y - b), rtol=1e-4, atol=1e-5)
    assert predict(herd, "--model", folder / "h.npz", out="single") == 0
    table = pd.read_csv(folder / "single.prediction.tsv", sep="\t", dtype={"IID": str}).set_index("IID")
    np.testing.assert_allclose(table.loc[ids["IID"], "random_effect"], found.loc[ids["IID"], "value"], atol=1e-8)
    np.testing.assert_allclose(table["y_pred"] - table["random_effect"], b, rtol=1e-5)
    equations = mixed_model_equations(y, np.ones((len(y), 1)), [(Z, H, theta[0])], np.full(len(y), theta[1]))
    certain = 1 - equations.pev[0] / (theta[0] * np.diag(H))
    np.testing.assert_allclose(table.loc[ids["IID"], "reliability"], certain, atol=1e-6)
    np.testing.assert_allclose(found.loc[ids["IID"], "reliability"], certain, atol=1e-6)


def test_a_saved_model_has_the_values_of_a_pedigree_and_of_a_matrix_for_people_without_phenotypes(herd, single):
    folder, ids = herd["folder"], herd["ids"]
    order = np.random.default_rng(6).permutation(Q)  # households of four, of people who are not near in the pedigree
    house = np.kron(np.eye(Q // 4), np.full((4, 4), 0.5)) + 0.5 * np.eye(Q)
    io.write_grm(folder / "house", house[np.ix_(order, order)], herd["samples"])
    words = ["--bfile", "data", "--pedigree", "pedigree.txt", "--grm", folder / "house", "--method", "exact"]
    words += ["--reliability", Q]
    model, table = folder / "both.npz", folder / "both.prediction.tsv"
    record = run(herd, *words, "--save-model", model, "--compute-effects", out="both", pheno="single.txt")
    assert predict_main(["--model", str(model), "--bfile", f"{folder}/data", "--out", f"{folder}/both"]) == 0
    found = pd.read_csv(table, sep="\t", dtype={"IID": str}).set_index("IID").loc[ids["IID"]]
    assert len(found) == Q > len(single)
    for name in ("pedigree", "house"):
        values = pd.read_csv(folder / f"both.{name}.values.tsv", sep="\t", dtype={"IID": str, "animal": str})
        values = values.set_index("animal" if name == "pedigree" else "IID").loc[ids["IID"]]
        np.testing.assert_allclose(found[f"random_{name}"], values["value"], atol=1e-8)
        prior = next(row["theta"] for row in record["components"] if row["name"] == name)
        if prior:
            np.testing.assert_allclose(found[f"reliability_{name}"], values["reliability"], atol=1e-6)
    parts = found[[f"random_{row['name']}" for row in record["components"]]]
    np.testing.assert_allclose(found["random_effect"], parts.sum(axis=1), atol=1e-7)
    saved = io.read_model(model)
    assert saved.parts == ("data", "house", "pedigree") and [level.by for level in saved.levels] == ["person", "animal"]
    strangers = pd.DataFrame({"fid": ["x"], "iid": ["y"]}, dtype=str)
    assert [level.of(level.rows_of(strangers, {})) for level in saved.levels] == [0.0, 0.0]


def equations_of(herd, theta):
    """Mixed-model equations of the herd's records: pedigree, herds, people with records, at theta (4,)."""
    own, codes = np.unique(herd["rows"], return_inverse=True)
    Z, W, P = (incidence(*each).toarray() for each in [(herd["rows"], Q), (herd["herds"], 8), (codes, len(own))])
    blocks = [(Z, herd["A"], theta[0]), (W, np.eye(8), theta[1]), (P, np.eye(len(own)), theta[2])]
    return mixed_model_equations(herd["y"], herd["X"], blocks, np.full(len(herd["y"]), theta[3])), own


def predict(herd, *arguments, out):
    folder = herd["folder"]
    return predict_main([str(word) for word in [*arguments, "--out", folder / out, "--quiet", "--device", "cpu"]])


@pytest.fixture(scope="module")
def saved_herd(herd):
    """A model of a pedigree, herds and permanent environments, without genotypes."""
    words = ["--pedigree", "pedigree.txt", "--random", f"iid,{herd['folder']}/herds.txt", "--qcovar", "age.txt"]
    more = ["--save-model", herd["folder"] / "cows", "--reliability", 300]  # no less than the records: exact
    record = run(herd, *words, "--method", "exact", *more, out="cows")
    return herd["folder"] / "cows.npz", theta_of(record)


def test_a_model_without_genotypes_predicts_all_whom_it_knows(herd, saved_herd):
    model, theta = saved_herd
    folder, ids = herd["folder"], herd["ids"]
    expected, own = equations_of(herd, theta)
    ages = np.round(np.linspace(2, 9, Q), 3)
    ids.assign(age=ages).to_csv(folder / "new_age.txt", sep="\t", index=False)
    herds = np.arange(Q) % 9  # the ninth was not in the fit
    ids.assign(herd=[f"h{h}" for h in herds]).to_csv(folder / "new_herds.txt", sep="\t", index=False)
    tables = ["--qcovar", folder / "new_age.txt", "--random", f"iid,{folder}/new_herds.txt"]
    assert predict(herd, "--model", model, *tables, out="cows") == 0
    found = pd.read_csv(folder / "cows.prediction.tsv", sep="\t", dtype={"FID": str, "IID": str})
    assert (found[["FID", "IID"]] == ids.set_index("IID").loc[found["IID"]].reset_index()[["FID", "IID"]]).all(
        axis=None
    )
    found = found.set_index("IID").loc[ids["IID"]]
    effects = {"pedigree": expected.values[0], "herd": np.append(expected.values[1], 0.0)[herds], "iid": np.zeros(Q)}
    effects["iid"][own] = expected.values[2]
    for name, values in effects.items():
        np.testing.assert_allclose(found[f"random_{name}"], values, rtol=1e-5, atol=1e-6)
    for g, (name, pev) in enumerate(zip(effects, expected.pev, strict=True)):
        prior = theta[g] * (np.diag(herd["A"]) if g == 0 else np.ones(Q))
        known = {"pedigree": np.arange(Q), "herd": np.flatnonzero(herds < 8), "iid": own}[name]
        certain = np.zeros(Q)
        certain[known] = 1 - (pev[herds[known]] if name == "herd" else pev) / prior[known]
        np.testing.assert_allclose(found[f"reliability_{name}"], certain, atol=1e-6)
    total = found["pev"] / (1 - found["reliability"])
    np.testing.assert_allclose(total, theta[0] * np.diag(herd["A"]) + theta[1] + theta[2], rtol=1e-6)
    fixed = np.column_stack([np.ones(Q), ages]) @ expected.fixed
    np.testing.assert_allclose(found["fixed_effect"], fixed, rtol=1e-6)
    np.testing.assert_allclose(found["y_pred"], fixed + sum(effects.values()), rtol=1e-5, atol=1e-6)
    notes = json.loads((folder / "cows.prediction_metadata.json").read_text())["notes"]
    assert f"herd: {(herds == 8).sum()} of {Q} samples are not among its levels, and have 0 of it" in notes


def test_genetic_values_alone_leave_out_groups_and_permanent_environments(herd, saved_herd):
    model, theta = saved_herd
    some = herd["ids"].iloc[[3, 70, 5]]  # animals with records and without
    some.to_csv(herd["folder"] / "some.txt", sep="\t", index=False)
    words = ["--model", model, "--genetic-only", "--keep", herd["folder"] / "some.txt"]
    assert predict(herd, *words, out="values") == 0
    found = pd.read_csv(herd["folder"] / "values.prediction.tsv", sep="\t", dtype={"FID": str, "IID": str})
    columns = ["random_effect", "reliability", "reliability_mc_se", "pev"]
    assert list(found) == ["FID", "IID", *columns] and sorted(found["IID"]) == sorted(some["IID"])
    values = pd.Series(equations_of(herd, theta)[0].values[0], herd["ids"]["IID"])
    np.testing.assert_allclose(found["random_effect"], values[found["IID"]], rtol=1e-5, atol=1e-6)


def test_groups_that_a_model_does_not_know_and_genotypes_that_it_lacks_are_one_line(herd, saved_herd, capsys):
    folder = herd["folder"]
    model, _ = saved_herd
    herd["ids"].assign(stable="a").to_csv(folder / "stables.txt", sep="\t", index=False)
    words = ["--model", model, "--random", folder / "stables.txt"]
    for more, message in [
        (words, "has groups stable, and the model effects of herd; name the columns as in the fit"),
        ([*words, "--genetic-only"], "--genetic-only: takes no covariates or groups"),
        (["--model", folder / "model.npz", "--genetic-only"], "give the predicted samples by --bfile"),
    ]:
        if not (folder / "model.npz").exists():
            assert run(herd, "--bfile", "data", "--random", "iid", "--save-model", folder / "model.npz", out="records")
        capsys.readouterr()
        assert predict(herd, *more, out="wrong") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error, error
