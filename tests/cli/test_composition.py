"""What a model has beside sets of variants, with what is asked of it: each pair works, or is refused in one line."""

import numpy as np
import pandas as pd
import pytest

from gpu_reml import io
from gpu_reml.cli.main import main
from gpu_reml.ops import PedigreeCovariance, make_pedigree
from gpu_reml.reml import incidence, single_step
from gpu_reml.validation import dense, simulate_cohort, write_plink
from gpu_reml.validation.bivariate import dense_covariances
from gpu_reml.validation.herds import random_pedigree, tabular_relationship

N, M, RECORDS = 70, 120, 110
BED = "--bfile @data"
OPERATORS = {
    "two sets": f"{BED} --vc-block-sizes 60,60",
    "a matrix": "--grm @A",
    "a sparse matrix": f"{BED} --grm @S",
    "a pedigree": "--pedigree @pedigree.txt",
    "single-step": f"{BED} --pedigree @pedigree.txt --single-step",
    "groups": f"{BED} --random @house.txt",
    "records": f"{BED} --random iid",
    "dominance": f"{BED} --dominance",
    "environments": f"{BED} --gxe @env.txt",
    "groups of residuals": f"{BED} --residual-groups @house.txt",
    "blocks of weights": f"{BED} --smile-ld inverse",
}
STUDIES = {
    "correlations": "--rg",
    "merge": "--merge",
    "scan": "--scan-windows 200kb --scan-replicates 32",
    "alpha": "--fit-alpha",
    "matrices": "--make-grm",
    "a model": "--save-model @model --reliability 3",
    "folds": "--cv 2",
}
REFUSED = {
    "correlations": {"groups of residuals"},
    "merge": set(OPERATORS) - {"two sets"},
    "scan": {"a matrix", "a pedigree", "single-step", "records"},
    "alpha": set(OPERATORS) - {"two sets"},
    "matrices": set(OPERATORS) - {"two sets", "groups of residuals", "blocks of weights"},
    "a model": {"dominance"},
    "folds": set(),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two traits of people, once each and in records, with all that a model may have."""
    folder, rng = tmp_path_factory.mktemp("composition"), np.random.default_rng(1)
    people = simulate_cohort(N, M, 3)
    write_plink(people, folder / "data")
    Z = dense.standardised(people.counts)
    sire, dam = random_pedigree(N, 15, seed=1)
    A = tabular_relationship(sire, dam)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    rows = np.concatenate([np.arange(N), rng.integers(0, N, RECORDS - N)])
    values = (Z @ rng.standard_normal((M, 2)) / np.sqrt(M)) @ [[1.5, 1.0], [0.0, 1.0]]
    Y = values[rows] + 0.5 * rng.standard_normal((N, 2))[rows] + rng.standard_normal((RECORDS, 2))
    table = ids.iloc[rows].assign(a=Y[:, 0], b=Y[:, 1])
    write = {"sep": "\t", "index": False}
    table.to_csv(folder / "records.txt", **write)
    table[:N].to_csv(folder / "pheno.txt", **write)
    ids.assign(house=[f"h{i // 5}" for i in range(N)]).to_csv(folder / "house.txt", **write)
    ids.assign(env=rng.standard_normal(N)).to_csv(folder / "env.txt", **write)
    name = np.append(ids["IID"].to_numpy(), "0")
    pd.DataFrame({"a": name[:N], "s": name[sire], "d": name[dam]}).to_csv(folder / "pedigree.txt", **write)
    io.write_grm(folder / "A", A, people.samples)
    i, j = np.nonzero(np.tril(A))
    (folder / "S.grm.sp").write_text("".join(f"{a}\t{b}\t{A[a, b]:.9g}\n" for a, b in zip(i, j, strict=True)))
    (folder / "S.grm.id").write_text((folder / "A.grm.id").read_text())
    return {"folder": folder, "K": dense.kernel(Z), "rows": rows, "Y": Y, "sire": sire, "dam": dam}


def run(cohort, operator, study, out, *more):
    """Exit code of the command."""
    pheno = "records.txt" if "iid" in operator else "pheno.txt"
    words = f"{operator} {study} --pheno @{pheno} --out @{out} --device cpu --quiet".replace(
        "@", f"{cohort['folder']}/"
    )
    return main([*words.split(), *more])


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_works_with_every_study_or_is_refused_in_one_line(cohort, operator, study, capsys):
    code = run(
        cohort, OPERATORS[operator], STUDIES[study], "out", "--pheno-name", "a,b" if study == "correlations" else "a"
    )
    error = capsys.readouterr().err
    if operator in REFUSED[study]:
        assert code == 2 and error.count("\n") == 1, error
    else:
        assert code in (0, 3) and "Traceback" not in error, error  # so few people may not tell all components


def test_a_model_of_blocks_of_weights_is_saved_without_reliabilities_and_says_so(cohort, capsys):
    assert run(cohort, OPERATORS["blocks of weights"], STUDIES["a model"], "smile", "--pheno-name", "a") in (0, 3)
    assert "reliabilities of predictions: none, as components have blocks of weights" in capsys.readouterr().out
    assert not io.read_model(cohort["folder"] / "model.npz").has_reliabilities


def relationships(cohort):
    """H of the pedigree and the genotypes of all."""
    pedigree = make_pedigree(cohort["sire"], cohort["dam"])
    return single_step(pedigree, np.arange(N), cohort["K"]).apply([1.0], np.eye(N))


def test_correlations_by_single_step_relationships_are_those_of_their_matrix(cohort):
    assert run(cohort, OPERATORS["single-step"], "--rg --method exact --dtype float64", "h") == 0
    row = pd.read_csv(cohort["folder"] / "h.rg.tsv", sep="\t").iloc[0]
    Y = cohort["Y"][:N]
    oracle = dense_covariances(Y, np.ones((N, 1)), [relationships(cohort)], starts=1)
    rg, se = oracle.correlation(0, 0, 1)
    np.testing.assert_allclose(row.rg, rg, atol=1e-3 * se)
    assert row.component == "single_step" and row.n_common == N


def test_correlations_of_records_are_those_of_their_matrices(cohort):
    gaps = pd.read_csv(cohort["folder"] / "records.txt", sep="\t")
    gaps.loc[[3, 80, 81], "a"] = np.nan
    gaps.to_csv(cohort["folder"] / "records.txt", sep="\t", index=False, na_rep="NA")
    operator = "--pedigree @pedigree.txt --random iid"
    assert run(cohort, operator, "--rg --method exact --dtype float64", "r") == 0
    table = pd.read_csv(cohort["folder"] / "r.rg.tsv", sep="\t").set_index("component")
    Y = cohort["Y"].copy()
    Y[[3, 80, 81], 0] = np.nan
    Z = incidence(cohort["rows"], N).toarray()
    A = PedigreeCovariance(make_pedigree(cohort["sire"], cohort["dam"])).apply([1.0], np.eye(N))
    oracle = dense_covariances(Y, np.ones((RECORDS, 1)), [Z @ A @ Z.T, Z @ Z.T], starts=1)
    for g, name in enumerate(("pedigree", "iid")):
        scale = np.trace(Z @ (A if g == 0 else np.eye(N)) @ Z.T) / RECORDS
        np.testing.assert_allclose(table.loc[name, "covariance"], oracle.S[g][0, 1] * scale, rtol=0.02, atol=0.01)
    assert (table.loc["pedigree", "n_1"], table.loc["pedigree", "n_2"]) == (RECORDS - 3, RECORDS)
