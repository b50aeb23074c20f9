"""Relationship matrices, ancestries, environments, dominance, residuals: the command against dense formulas."""

import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml import io
from gpu_reml.cli.main import main
from gpu_reml.validation import dense, simulate_cohort, write_plink

N, M = 220, 500


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Genotypes in files, and everything a model may have beside them."""
    folder = tmp_path_factory.mktemp("model")
    people = simulate_cohort(N, M, 3)
    write_plink(people, folder / "data")
    rng = np.random.default_rng(4)
    Z = dense.standardised(people.counts)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    Q = rng.dirichlet([1.0, 0.6], N)
    np.savetxt(folder / "data.2.Q", Q, fmt="%.6f")
    Q = np.loadtxt(folder / "data.2.Q")
    E = np.round(rng.normal(20, 5, (N, 2)), 3)
    W = np.round(rng.uniform(0.5, 2, (N, 1)), 4)
    group = rng.choice(["clinic", "home", "lab"], N)
    y = np.round(
        10 + 3 * Z @ rng.standard_normal(M) / np.sqrt(M) * (1 + 0.05 * (E[:, 0] - 20)) + rng.normal(0, 3, N), 6
    )
    shuffled = rng.permutation(N)
    for name, table in {
        "pheno.txt": ids.assign(y=y),
        "env.txt": ids.assign(age=E[:, 0], dose=E[:, 1]).iloc[shuffled],
        "weights.txt": ids.assign(w=W[:, 0]).iloc[shuffled],
        "groups.txt": ids.assign(site=group),
    }.items():
        table.to_csv(folder / name, sep="\t", index=False)
    house = np.kron(np.eye(N // 4), np.full((4, 4), 0.5)) + 0.5 * np.eye(N)
    order = rng.permutation(N)
    io.write_grm(folder / "house", house[np.ix_(order, order)], people.samples.iloc[order])
    return {
        "folder": folder,
        "Z": Z,
        "Q": Q,
        "E": E,
        "W": W,
        "group": group,
        "y": y,
        "house": house,
        "counts": people.counts,
    }


def run(cohort, *arguments, out="out", genotypes=True, method="exact"):
    folder = cohort["folder"]
    first = ["--bfile", folder / "data"] if genotypes else []
    command = [*first, "--pheno", folder / "pheno.txt", "--out", folder / out, "--method", method, "--quiet"]
    code = main([str(a) for a in [*command, "--device", "cpu", "--dtype", "float64", *arguments]])
    return code, (json.loads((folder / f"{out}.json").read_text()) if code == 0 else None)


def check(record, y, X, Ks, Rs):
    """The record is the maximum that dense formulas see, its errors are theirs, and h2 is weighted by traces."""
    rows = [*record["components"], *record["residuals"]]
    every = [*Ks, *(np.diag(r) for r in Rs)]
    theta = np.array([row["theta"] for row in rows])
    se = np.array([row["theta_se"] for row in rows])
    assert len(theta) == len(every)
    score = dense.dense_score(np.append(theta, 0.0), y, X, every)[:-1] * se
    at_bound = theta < 1e-4 * theta.sum()
    assert (np.abs(score[~at_bound]) < 1e-4).all() and (score[at_bound] < 1e-4).all()
    assert record["loglik"] == pytest.approx(dense.dense_loglik(np.append(theta, 0), y, X, every), abs=1e-5)
    ai = dense.dense_average_information(np.append(theta, 0.0), y, X, every)[:-1, :-1]
    np.testing.assert_allclose(se, np.sqrt(np.diag(np.linalg.inv(ai))), rtol=1e-3)
    traces = [np.trace(K) for K in every]
    np.testing.assert_allclose([row["trace"] for row in rows], traces, rtol=1e-6)
    np.testing.assert_allclose([row["variance"] for row in rows], theta * traces / N, rtol=1e-6)
    shares = theta[: len(Ks)] * traces[: len(Ks)] / (theta @ traces)
    kinds = np.array([row["kind"] for row in record["components"]])
    sums = {"h2": kinds == "additive", "d2": kinds == "dominance", "gxe": kinds == "environment"}
    sums["H2"], sums["genetic"] = sums["h2"] | sums["d2"], kinds != ""
    for label, counted in sums.items():
        if label in record:
            assert record[label]["estimate"] == pytest.approx(shares[counted].sum(), rel=1e-6, abs=1e-9)
    reported = {label for label in ("d2", "gxe") if label in record}
    assert reported == {label for label in ("d2", "gxe") if sums[label].any()}
    assert ("H2" in record, "genetic" in record) == ("d2" in reported, "gxe" in reported)


ONES = np.ones((N, 1))


def test_a_relationship_matrix_alone_and_beside_genotypes(cohort):
    folder, y, house = cohort["folder"], cohort["y"], cohort["house"].astype(np.float32).astype(float)
    code, record = run(cohort, "--grm", folder / "house", genotypes=False)
    assert code == 0
    check(record, y, ONES, [house], [ONES[:, 0]])
    assert record["components"][0]["name"] == "house" and "num_variants" not in record
    code, record = run(cohort, "--grm", folder / "house")
    check(record, y, ONES, [dense.kernel(cohort["Z"]), house], [ONES[:, 0]])
    assert [c["num_variants"] for c in record["components"]] == [M - int((cohort["Z"] == 0).all(axis=0).sum()), None]


def test_relationship_matrices_are_aligned_by_id_and_fitted_without_genotypes_stochastically(cohort):
    folder = cohort["folder"]
    people = pd.read_csv(folder / "pheno.txt", sep="\t", dtype=str)
    people.iloc[10:].to_csv(folder / "some.txt", sep="\t", index=False)
    code, record = run(
        cohort, "--grm", folder / "house", "--keep", folder / "some.txt", genotypes=False, method="stochastic"
    )
    assert code == 0
    _, exact = run(cohort, "--grm", folder / "house", "--keep", folder / "some.txt", genotypes=False)
    gap = abs(record["h2"]["estimate"] - exact["h2"]["estimate"])
    assert gap < 4 * record["h2"]["mc_se"] + 0.02 * record["h2"]["se"]


@pytest.mark.parametrize("mode", ["shared", "per-ancestry"])
def test_ancestries_have_variances_of_their_own(cohort, mode):
    folder, Q, y = cohort["folder"], cohort["Q"], cohort["y"]
    code, record = run(
        cohort,
        "--admix-q",
        folder / "data.2.Q",
        "--admix-component-names",
        "north,south",
        "--admix-residual-mode",
        mode,
    )
    assert code == 0
    K = dense.kernel(cohort["Z"])
    Ks = [np.sqrt(np.outer(q, q)) * K for q in Q.T]
    own = mode == "per-ancestry"
    check(record, y, ONES, Ks, list(Q.T) if own else [ONES[:, 0]])
    assert [c["name"] for c in record["components"]] == ["north", "south"]
    names = [r["name"] for r in record["residuals"]]
    assert names == (["residual_north", "residual_south"] if own else ["residual"])
    for a, row in enumerate(record["ancestries"]):
        A, B = np.mean(Q[:, a] * np.diag(K)), Q[:, a].mean()
        tau, sigma = record["components"][a]["theta"], record["residuals"][a if own else 0]["theta"]
        assert row["h2"] == pytest.approx(tau * A / (tau * A + sigma * B), rel=1e-6)
        assert 0 < row["h2_se"]


def test_environments_with_noise_of_their_own(cohort):
    folder, E, y = cohort["folder"], cohort["E"], cohort["y"]
    code, record = run(cohort, "--gxe", folder / "env.txt", "--gxe-noise")
    assert code == 0
    S = (E - E.mean(axis=0)) / E.std(axis=0)
    K = dense.kernel(cohort["Z"])
    Ks = [K, *(np.outer(s, s) * K for s in S.T)]
    check(record, y, np.column_stack([np.ones(N), E]), Ks, [*(S.T**2), np.ones(N)])
    assert [c["name"] for c in record["components"]] == ["data", "data_x_age", "data_x_dose"]
    assert [f["name"] for f in record["fixed_effects"]] == ["intercept", "age", "dose"]


def test_known_weights_and_groups_of_residuals(cohort):
    folder, y, K = cohort["folder"], cohort["y"], dense.kernel(cohort["Z"])
    code, record = run(cohort, "--residual-weights", folder / "weights.txt")
    assert code == 0
    check(record, y, ONES, [K], [cohort["W"][:, 0]])
    code, record = run(cohort, "--residual-groups", folder / "groups.txt")
    levels = ["clinic", "home", "lab"]
    check(record, y, ONES, [K], [(cohort["group"] == level).astype(float) for level in levels])
    assert [r["name"] for r in record["residuals"]] == [f"residual_{level}" for level in levels]
    hsq = (folder / "out.hsq").read_text()
    assert "V(e3)" in hsq


def test_dominance_is_a_component_of_its_own(cohort):
    from gpu_reml.ops import dominance, pack, standardise, to_dense

    code, record = run(cohort, "--dominance")
    assert code == 0
    D = to_dense(dominance(standardise([pack(cohort["counts"])], N)))
    check(record, cohort["y"], ONES, [dense.kernel(cohort["Z"]), dense.kernel(D)], [ONES[:, 0]])
    assert record["h2"]["components"] == ["data"] and record["d2"]["components"] == ["dominance"]
    hsq = pd.read_csv(cohort["folder"] / "out.hsq", sep="\t", index_col=0)["Variance"].astype(float)
    for label, row in (("h2", "h2 (additive, narrow sense)"), ("d2", "d2 (dominance)")):
        assert hsq[row] == pytest.approx(record[label]["estimate"], abs=1e-6)
    assert hsq["H2 (additive + dominance, broad sense)"] == pytest.approx(hsq["Sum of V(G)/Vp"])
    log = (cohort["folder"] / "out.log").read_text()
    assert "(additive, narrow sense: data)" in log and "(dominance: dominance)" in log


def test_what_is_in_h2_is_said_beside_environments(cohort):
    code, record = run(cohort, "--gxe", cohort["folder"] / "env.txt", "--dominance")
    assert code == 0
    log = (cohort["folder"] / "out.log").read_text()
    assert "(additive, narrow sense: data)" in log
    assert "(genotype by environment, beside h2: data_x_age, data_x_dose)" in log
    assert record["genetic"]["components"] == ["data", "data_x_age", "data_x_dose", "dominance"]


def test_a_phenotype_made_of_the_genotypes_is_cautioned_about_and_has_no_standard_errors(cohort, capsys):
    folder, K = cohort["folder"], dense.kernel(cohort["Z"])
    values, vectors = np.linalg.eigh(K)
    made = vectors @ (np.maximum(values, 0) * np.random.default_rng(3).standard_normal(N))
    pd.read_csv(folder / "pheno.txt", sep="\t").assign(y=made).to_csv(folder / "made.txt", sep="\t", index=False)
    code, record = run(cohort, "--pheno", folder / "made.txt", out="made")
    printed = capsys.readouterr().out
    assert code == 0 and record["residuals"][0]["at_bound"] and not record["components"][0]["at_bound"]
    assert record["h2"]["se"] is None and record["residuals"][0]["se"] is None
    (caution,) = record["cautions"]
    assert "residual is at its lower bound" in caution and f"caution: {caution.removeprefix('caution: ')}" in printed
    hsq = pd.read_csv(folder / "made.hsq", sep="\t", index_col=0, keep_default_na=False)["SE"]
    assert (hsq["V(e)"], hsq["V(G)/Vp"], hsq["Vp"]) == ("NA", "NA", "NA")


def test_everything_in_one_command(cohort):
    folder, E, Q, y = cohort["folder"], cohort["E"], cohort["Q"], cohort["y"]
    arguments = [
        "--admix-q",
        folder / "data.2.Q",
        "--gxe",
        folder / "env.txt",
        "--gxe-noise",
        "--grm",
        folder / "house",
    ]
    code, record = run(cohort, *arguments, "--admix-residual-mode", "per-ancestry", "--gxe-scale", "none")
    assert code == 0
    K = dense.kernel(cohort["Z"])
    Ks = [*(np.sqrt(np.outer(q, q)) * K for q in Q.T), *(np.outer(e, e) * K for e in E.T)]
    Ks.append(cohort["house"].astype(np.float32).astype(float))
    check(record, y, np.column_stack([np.ones(N), E]), Ks, [*(E.T**2), *Q.T])


def test_joint_tests_are_in_the_files(cohort):
    folder = cohort["folder"]
    code, record = run(cohort, "--vc-block-sizes", "200,200,100", "--joint-test", "block_000,block_002")
    assert code == 0
    table = pd.read_csv(folder / "out.tests.tsv", sep="\t")
    assert list(table["test"]) == ["block_000", "block_001", "block_002", "all", "block_000,block_002"]
    np.testing.assert_allclose(table["statistic"], [row["statistic"] for row in record["joint_tests"]], rtol=1e-8)
    theta = np.array([row["theta"] for row in record["components"]])
    kept = np.append(theta > 0, True)  # what is held at zero is fixed there
    inverse = np.linalg.inv(np.linalg.inv(record["theta_covariance"])[np.ix_(kept, kept)])
    place = np.cumsum(kept) - 1
    for which, statistic in zip(([0], [1], [2], [0, 1, 2], [0, 2]), table["statistic"], strict=True):
        free = [g for g in which if theta[g] > 0]
        block = inverse[np.ix_(place[free], place[free])]
        assert statistic == pytest.approx(float(theta[free] @ np.linalg.inv(block) @ theta[free]), rel=1e-6)
    assert theta.any()


@pytest.mark.parametrize("method", ["exact", "stochastic"])
def test_likelihood_ratios_stand_beside_the_wald_tests(cohort, method, capsys):
    """GCTA's word and numbers; the smaller models are fitted by commands of their own."""
    folder = cohort["folder"]
    blocks = ["--vc-block-sizes", "200,300", "--mc-target", "9"]
    code, record = run(cohort, *blocks, "--reml-lrt", "2", "1", method=method)
    assert code == 0 and record["method"] == ("exact" if method == "exact" else "reduced")
    table = pd.read_csv(folder / "out.tests.tsv", sep="\t", index_col="test")
    assert list(table.index) == ["block_000", "block_001", "all", "block_001,block_000"]
    assert list(table.columns[5:]) == ["lrt", "lrt_mc_se", "lrt_df", "lrt_p_of_zero", "lrt_p"]
    assert table.loc["all", "lrt"] == pytest.approx(record["lrt"], rel=1e-8)
    assert table.loc["block_001,block_000", "lrt_p"] == table.loc["all", "lrt_p"]
    assert [row["lrt"] for row in record["joint_tests"][:2]] == [t["statistic"] for t in record["lrt_without"]]
    assert "P(LRT=0)" in (folder / "out.log").read_text()
    ids = pd.read_csv(folder / "data.bim", sep="\t", header=None)[1]
    ids[:200].to_csv(folder / "first.txt", index=False, header=False)
    code, smaller = run(cohort, "--extract", folder / "first.txt", out="smaller")
    _, whole = run(cohort, *blocks, out="whole")
    expected = 2 * (whole["loglik"] - smaller["loglik"])
    row = table.loc["block_001"]
    assert abs(row["lrt"] - expected) <= 4 * row["lrt_mc_se"] + 1e-3  # float32 products
    capsys.readouterr()


@pytest.mark.parametrize("flags", [["--vc-block-sizes", "200,300"], ["--dominance"]])
def test_profiles_are_in_files_and_on_screen(cohort, flags, capsys):
    folder = cohort["folder"]
    code, record = run(cohort, *flags, "--profile", out="profiled")
    assert code == 0
    total = "H2" if "--dominance" in flags else "h2"
    names = [row["name"] for row in record["components"]]
    table = pd.read_csv(folder / "profiled.profile.tsv", sep="\t")
    assert list(table.columns) == ["quantity", "value", "loglik_difference", "mc_se"]
    assert list(table["quantity"].unique()) == [curve["quantity"] for curve in record["profiles"]] == [*names, total]
    for curve in record["profiles"]:
        part = table[table["quantity"] == curve["quantity"]]
        assert part["value"][part["loglik_difference"].idxmax()] == pytest.approx(curve["estimate"], rel=1e-8)
        assert curve["lower"] <= curve["estimate"] <= curve["upper"]
    assert record["profiles"][0]["estimate"] == pytest.approx(record["components"][0]["variance"])
    assert record["profiles"][-1]["estimate"] == pytest.approx(record[total]["estimate"])
    assert "95% profile" in (folder / "profiled.log").read_text()
    capsys.readouterr()


def test_variances_may_be_negative_where_they_are_not_constrained(cohort):
    folder = cohort["folder"]
    ids = pd.read_csv(folder / "pheno.txt", sep="\t")[["FID", "IID"]]
    y = np.random.default_rng(5).standard_normal(N)
    ids.assign(y=y).to_csv(folder / "noise.txt", sep="\t", index=False)
    variances = {}
    for flags in ([], ["--reml-no-constrain"]):
        code, record = run(cohort, "--pheno", folder / "noise.txt", "--vc-block-sizes", "200,300", *flags)
        rows = record["components"]
        variances[record["constrained"]] = [row["variance"] for row in rows]
        assert code == 0 and any(row["at_bound"] for row in rows) == record["constrained"]
    assert min(variances[True]) == 0 > min(variances[False])


def test_a_likelihood_ratio_of_what_the_model_has_not_is_an_error(cohort, capsys):
    code, _ = run(cohort, "--vc-block-sizes", "200,300", "--lrt", "3")
    assert code == 2
    assert "--lrt 3: no component '3'; there are block_000, block_001" in capsys.readouterr().err


def test_effects_are_of_variances_that_are_not_negative(cohort, capsys):
    code, _ = run(cohort, "--no-constrain", "--compute-effects", "--cv", "3")
    assert code == 2
    assert (
        "--compute-effects, --cv: effects of a negative variance have no meaning; leave --no-c"
        in capsys.readouterr().err
    )


BAD = {
    "a .Q without its .fam": (["--admix-q", "{0}/lost.2.Q"], r"lost.fam, which is not there; give --admix-fam"),
    "proportions that do not sum to one": (
        ["--admix-q", "{0}/bad.Q", "--admix-fam", "{0}/data.fam"],
        "line 1 .*sum to",
    ),
    "names without ancestries": (["--admix-component-names", "a,b"], "has no meaning without --admix-q"),
    "residuals twice": (
        ["--admix-q", "{0}/data.2.Q", "--admix-residual-mode", "per-ancestry", "--residual-groups", "{0}/groups.txt"],
        "given by another flag too",
    ),
    "matrices of more than variants": (["--gxe", "{0}/env.txt", "--make-grm"], "--make-grm: writes .*leave out --gxe"),
    "noise without environments": (["--gxe-noise"], "without --gxe"),
    "a merge": (["--merge", "--gxe", "{0}/env.txt"], "--merge: pools components of variants only; leave --gxe out"),
    "a missing matrix": (["--grm", "{0}/nothing"], r"nothing.grm.id"),
    "a joint test of one component twice": (
        ["--gxe", "{0}/env.txt", "--joint-test", "data,data"],
        "--joint-test data,data: a component is named more than once",
    ),
    "a joint test of what is not there": (
        ["--gxe", "{0}/env.txt", "--joint-test", "age"],
        "no component 'age'; there are data, ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_says_what_is_wrong(cohort, case, capsys):
    import re

    folder = cohort["folder"]
    np.savetxt(folder / "bad.Q", np.full((N, 2), 0.4))
    (folder / "lost.2.Q").write_text("1 0\n")
    flags, message = BAD[case]
    code, _ = run(cohort, *(flag.format(folder) for flag in flags), out="bad")
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and re.search(message, error), error


def test_variances_that_cannot_be_told_apart_are_named(cohort, tmp_path, capsys):
    """An environment of two equally common values squares to a constant: its noise is the residual."""
    ids = np.loadtxt(cohort["folder"] / "data.fam", dtype=str, usecols=(0, 1))
    lines = [f"{fid} {iid} {k % 2 + 0.01 * (k < 8)}" for k, (fid, iid) in enumerate(ids)]
    (tmp_path / "env.txt").write_text("\n".join(["FID IID town", *lines]) + "\n")
    assert run(cohort, "--gxe", tmp_path / "env.txt", "--gxe-noise")[0] == 0
    assert "caution: noise_town and residual can hardly be told apart" in capsys.readouterr().out
    assert run(cohort, "--gxe", cohort["folder"] / "env.txt", "--gxe-noise")[0] == 0
    assert "caution" not in capsys.readouterr().out


def test_a_model_of_matrices_alone_runs_on_the_cpu(cohort):
    record = run(cohort, "--grm", cohort["folder"] / "house", genotypes=False)[1]
    assert record["backend"] == "cpu"
