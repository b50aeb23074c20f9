"""The quick start of GPU_REML, its commands as they are written, against dense REML."""

import json
import os
import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pgenlib
import pytest

from gpu_reml import io
from gpu_reml.cli.main import main
from gpu_reml.validation import dense, exact_reml, simulate_cohort, write_plink

N, M = 230, 540
THIRDS = np.repeat([0, 1, 2], M // 3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with every file that the commands name, and the truth about it."""
    folder = tmp_path_factory.mktemp("quickstart")
    people = simulate_cohort(N, M, 12)
    rng = np.random.default_rng(13)
    write_plink(people, folder / "data")
    write_pgen(people, folder / "data")
    for g in range(3):
        part = replace(
            people, counts=people.counts[:, g == THIRDS], variants=people.variants[g == THIRDS].reset_index(drop=True)
        )
        write_plink(part, folder / f"grm{g + 1}")
    Z = dense.standardised(people.counts)
    effects = rng.standard_normal(M) * np.sqrt(np.array([4.0, 0.02, 0.01])[THIRDS])
    covariates = np.column_stack([rng.normal(50, 10, N), rng.integers(0, 2, N)]).round(3)
    y = (170 + 0.2 * covariates[:, 0] + 4 * Z @ effects / np.sqrt(M) + 4 * rng.standard_normal(N)).round(6)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(y=y).to_csv(folder / "pheno.txt", sep=" ", header=False, index=False)
    ids.assign(a=covariates[:, 0], b=covariates[:, 1]).to_csv(folder / "covar.txt", sep=" ", header=False, index=False)
    ids.to_csv(folder / "keep.txt", sep=" ", header=False, index=False)
    sets = [{"name": f"set{g}", "variant_indices": np.flatnonzero(g == np.arange(M) % 3).tolist()} for g in range(3)]
    (folder / "components.json").write_text(json.dumps({"components": sets}))
    fine = [{"name": f"fine{g}", "variant_indices": np.flatnonzero(THIRDS == g).tolist()} for g in range(3)]
    (folder / "fine_components.json").write_text(json.dumps({"components": fine}))
    return folder, Z, y, np.column_stack([np.ones(N), covariates])


def write_pgen(people, prefix):
    counts = np.ascontiguousarray(np.where(people.counts < 0, -9, people.counts).T.astype(np.int8))
    with pgenlib.PgenWriter(f"{prefix}.pgen".encode(), N, variant_ct=M, nonref_flags=False) as writer:
        writer.append_biallelic_batch(counts)
    names = {"chrom": "#CHROM", "bp": "POS", "id": "ID", "a2": "REF", "a1": "ALT"}
    people.variants[list(names)].rename(columns=names).to_csv(f"{prefix}.pvar", sep="\t", index=False)
    people.samples[["fid", "iid"]].set_axis(["#FID", "IID"], axis=1).to_csv(f"{prefix}.psam", sep="\t", index=False)


def run(folder, command, entry=main):
    """A command as it is typed in ``folder``; its exit code."""
    _, *arguments = shlex.split(command.replace("\\\n", " "))
    before = os.getcwd()
    os.chdir(folder)
    try:
        return entry([*arguments, "--device", "cpu"])
    finally:
        os.chdir(before)


def kernels(Z, groups):
    return [dense.kernel(Z, (groups == g).astype(float)) for g in range(3)]


def same(folder, out, y, X, Ks):
    """The record beside dense REML: theta and h2 within 1e-3 standard errors, errors within 0.1 %."""
    record = json.loads((folder / f"{out}.json").read_text())
    expected = exact_reml(y, X, Ks)
    rows = [*record["components"], *record["residuals"]]
    se = np.sqrt(np.diag(np.linalg.inv(expected.ai)))
    np.testing.assert_allclose([row["theta"] for row in rows], expected.theta, atol=2e-3 * se.min())
    np.testing.assert_allclose([row["theta_se"] for row in rows], se, rtol=5e-3)
    assert record["loglik"] == pytest.approx(expected.loglik, abs=1e-3)
    return record


QUICK_START = {
    "--bed-prefix data": lambda Z: [dense.kernel(Z)],
    "--pgen-prefix data": lambda Z: [dense.kernel(Z)],
    "--bed-prefix grm1,grm2,grm3": lambda Z: kernels(Z, THIRDS),
    "--bed-prefix data --component-spec components.json": lambda Z: kernels(Z, np.arange(M) % 3),
}


@pytest.mark.parametrize("genotypes", QUICK_START)
def test_the_quick_start_gives_the_dense_answer(place, genotypes):
    folder, Z, y, X = place
    assert run(folder, f"gpu-reml {genotypes} --pheno-txt pheno.txt --covar-txt covar.txt --out-prefix out/reml") == 0
    same(folder, "out/reml", y, X, QUICK_START[genotypes](Z))


def test_the_documented_merge_gives_the_dense_answers_of_both_fits(place):
    folder, Z, y, X = place
    command = """gpu-reml --merge --bed-prefix data --component-spec fine_components.json --pheno-txt pheno.txt \\
    --covar-txt covar.txt --keep-path keep.txt --out-prefix out/zscore_merge"""
    assert run(folder, command) == 0
    rounds = json.loads((folder / "out/zscore_merge.merge/zscore_merge_summary.json").read_text())["rounds"]
    first = exact_reml(y, X, kernels(Z, THIRDS))
    np.testing.assert_allclose([c["theta"] for c in rounds[0]["components"]], first.theta[:-1], atol=1e-3)
    assert [c["name"] for c in rounds[-1]["components"]] == ["fine0", "zmerge_block_0000"]
    weak = dense.kernel(Z, (THIRDS > 0).astype(float))
    same(folder, "out/zscore_merge", y, X, [dense.kernel(Z, (THIRDS == 0).astype(float)), weak])
    assert io.read_component_spec(folder / "out/zscore_merge.component_spec.json", M)[1].num_variants == 2 * M // 3


def test_bed_and_pgen_give_the_same_files_to_the_last_digit(place):
    folder = place[0]
    for kind in ("bed", "pgen"):
        command = f"gpu-reml --{kind}-prefix data --pheno-txt pheno.txt --out-prefix out/{kind} --method stochastic"
        assert run(folder, command) == 0
    assert (folder / "out/bed.hsq").read_bytes() == (folder / "out/pgen.hsq").read_bytes()
    tables = [
        pd.read_csv(folder / f"out/{kind}.history.tsv", sep="\t").drop(columns="seconds") for kind in ("bed", "pgen")
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize("covariates", ["", "--covar-txt covar.txt"])
def test_the_documented_gwas_is_least_squares(place, covariates):
    from scipy import stats

    from gpu_reml.cli.gwas import main as gwas_main

    folder, Z, y, X = place
    X = X if covariates else X[:, :1]
    command = f"gpu-reml-gwas --bed-prefix data --pheno-txt pheno.txt {covariates} --out-prefix out/gwas"
    assert run(folder, command, gwas_main) == 0
    table = pd.read_csv(folder / "out/gwas.gwas.tsv", sep="\t")
    first = "component_index component_name variant_index_global variant_index_local chrom variant_id cm bp a1 a2 af"
    assert len(table) == M and list(table.columns[:11]) == first.split()
    Q = np.linalg.qr(X)[0]
    residual = y - Q @ (Q.T @ y)
    for j in (0, 77, 300, M - 1):
        z = Z[:, j] - Q @ (Q.T @ Z[:, j])
        beta = z @ residual / (z @ z)
        rest = residual - beta * z
        df = N - X.shape[1] - 1
        t = beta / np.sqrt(rest @ rest / df / (z @ z))
        row = table.iloc[j]
        np.testing.assert_allclose([row["beta_std"], row["t"]], [beta, t], rtol=1e-5)
        np.testing.assert_allclose(row["p"], 2 * stats.t.sf(abs(t), df), rtol=1e-4)


SPARSE = ["--bed-prefix data", "--bed-prefix grm1,grm2,grm3", "--bed-prefix data --component-spec components.json"]


@pytest.mark.parametrize("genotypes", SPARSE)
def test_the_documented_sparse_commands_start_at_the_dense_fit(place, genotypes):
    from gpu_reml.cli.sparse import main as sparse_main

    folder, Z, y, X = place
    command = f"gpu-reml-sparse {genotypes} --pheno-txt pheno.txt --covar-txt covar.txt --out-prefix out/sparse"
    assert run(folder, command, sparse_main) == 0
    first = json.loads((folder / "out/sparse.history.json").read_text())["rounds"][0]
    null = exact_reml(y, X, QUICK_START[genotypes](Z))
    np.testing.assert_allclose(first["theta"], null.theta, atol=2e-3 * np.sqrt(np.diag(np.linalg.inv(null.ai))).min())
    summary = json.loads((folder / "out/sparse.summary.json").read_text())
    assert summary["support_size"] == len(pd.read_csv(folder / "out/sparse.selected_snps.tsv", sep="\t"))


@pytest.fixture(scope="module")
def blocks(place):
    """Block weights of the thirds, on disk under the names that the commands use, and as matrices."""
    folder, rng = place[0], np.random.default_rng(3)
    roots = [rng.standard_normal((M // 3, 40)) for _ in range(3)]
    W = [root @ root.T / 40 + 0.1 * np.eye(M // 3) for root in roots]
    for b in range(3):
        np.save(folder / f"W_block_{b + 1}.npy", W[b])
    halves = np.array_split(np.arange(M), 4)
    quarters = []
    for name, part in zip(("A_1", "A_2", "B_1", "B_2"), halves, strict=True):
        root = rng.standard_normal((len(part), 30))
        quarters.append(root @ root.T / 30)
        np.save(folder / f"{name}.npy", quarters[-1])
    return W, quarters


def smile_kernel(Z, matrices, first):
    """K = sum Z_b W_b Z_b' / c with tr(K) = n."""
    K = 0
    for W in matrices:
        Z_b = Z[:, first : first + len(W)]
        K, first = K + Z_b @ W @ Z_b.T, first + len(W)
    return K * len(Z) / np.trace(K)


def test_the_documented_smile_commands_give_the_dense_answer(place, blocks):
    folder, Z, y, X = place
    command = """gpu-reml --smile --bed-prefix data --w-files W_block_1.npy,W_block_2.npy,W_block_3.npy \\
    --pheno-txt pheno.txt --covar-txt covar.txt --out-prefix out/smile"""
    assert run(folder, command) == 0
    same(folder, "out/smile", y, X, [smile_kernel(Z, blocks[0], 0)])
    command = """gpu-reml --smile --bed-prefix data --grm-groups 'A_1.npy,A_2.npy;B_1.npy,B_2.npy' \\
    --pheno-txt pheno.txt --covar-txt covar.txt --out-prefix out/smile_multi"""
    assert run(folder, command) == 0
    first = sum(map(len, blocks[1][:2]))
    Ks = [smile_kernel(Z, blocks[1][:2], 0), smile_kernel(Z, blocks[1][2:], first)]
    record = same(folder, "out/smile_multi", y, X, Ks)
    assert [c["name"] for c in record["components"]] == ["smile_000", "smile_001"]


def test_smile_weights_join_environments_and_several_residuals(place, blocks):
    folder, Z, y, X = place
    ids = pd.read_csv(folder / "pheno.txt", sep=" ", header=None, dtype=str)[[0, 1]].set_axis(["FID", "IID"], axis=1)
    rng = np.random.default_rng(8)
    e, group = rng.normal(0, 2, N).round(4), rng.choice(["a", "b"], N)
    ids.assign(dose=e).to_csv(folder / "env.txt", sep="\t", index=False)
    ids.assign(site=group).to_csv(folder / "site.txt", sep="\t", index=False)
    command = """gpu-reml --w-files W_block_1.npy,W_block_2.npy,W_block_3.npy --bed-prefix data --pheno-txt pheno.txt
    --covar-txt covar.txt --gxe env.txt --residual-groups site.txt --out-prefix out/all --dtype float64"""
    assert run(folder, command.replace("\n", " ")) == 0
    record = json.loads((folder / "out/all.json").read_text())
    K, s = smile_kernel(Z, blocks[0], 0), (e - e.mean()) / e.std()
    every = [K, np.outer(s, s) * K, *(np.diag((group == level).astype(float)) for level in "ab")]
    theta = np.array([row["theta"] for row in [*record["components"], *record["residuals"]]])
    se = np.array([row["se"] for row in [*record["components"], *record["residuals"]]])
    score = dense.dense_score(np.append(theta, 0), y, np.column_stack([X, e]), every)[:-1] * se
    free = theta > 1e-4 * theta.sum()
    assert (np.abs(score[free]) < 1e-3).all() and (score[~free] < 1e-3).all()
    assert record["loglik"] == pytest.approx(
        dense.dense_loglik(np.append(theta, 0), y, np.column_stack([X, e]), every), abs=1e-3
    )


def test_identity_weights_are_the_ordinary_matrix(place):
    folder = place[0]
    for name, flag in (("identity", "--identity-w"), ("ordinary", "")):
        command = f"gpu-reml --bed-prefix data {flag} --pheno-txt pheno.txt --out-prefix out/{name} --method stochastic"
        assert run(folder, command) == 0
    records = [json.loads((folder / f"out/{name}.json").read_text()) for name in ("identity", "ordinary")]
    first, second = ([c["variance"] for c in r["components"] + r["residuals"]] for r in records)
    np.testing.assert_allclose(first, second, rtol=5e-6)  # sums in float32, and in integers of 23 bits where there are
