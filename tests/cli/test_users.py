"""What five kinds of users type, as they type it, each on small data and with one number checked densely."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpu_reml import reml
from gpu_reml.cli.gwas import main as gwas
from gpu_reml.cli.main import main
from gpu_reml.cli.predict import main as predict
from gpu_reml.ops import PedigreeCovariance, make_pedigree
from gpu_reml.validation import dense, simulate_cohort, write_plink
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.herds import mixed_model_equations, random_pedigree, tabular_relationship

N, M = 130, 300
COMMANDS = {"gpu-reml": main, "gpu-reml-gwas": gwas, "gpu-reml-predict": predict}


class Study:
    """A cohort in files, and the same as arrays."""

    def __init__(self, folder):
        self.folder, rng = folder, np.random.default_rng(3)
        people = simulate_cohort(N, M, 7)
        people.variants["chrom"] = np.repeat(["1", "2", "3"], M // 3)
        write_plink(people, folder / "test")
        Z = dense.standardised(people.counts)
        self.Z = Z[:, Z.any(axis=0)]
        self.inv_sd = 1 / np.array([np.nanstd(np.where(c < 0, np.nan, c)) for c in people.counts.T[Z.any(axis=0)]])
        self.K = self.Z @ self.Z.T / self.Z.shape[1]
        self.age, self.sex = np.round(rng.uniform(20, 70, N)), rng.integers(1, 3, N)
        self.X = np.column_stack([np.ones(N), self.age, self.sex == 2])
        genes = self.Z @ rng.standard_normal((self.Z.shape[1], 2)) / np.sqrt(self.Z.shape[1])
        self.Y = np.round(genes + 0.02 * self.age[:, None] + rng.standard_normal((N, 2)), 6)
        self.ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
        self.write("test.phen", self.ids.assign(y=self.Y[:, 0], z=self.Y[:, 1]), header=False)
        self.write("test.qcovar", self.ids.assign(age=self.age), header=False)
        self.write("test.covar", self.ids.assign(sex=self.sex), header=False)
        everything = self.ids.assign(y=self.Y[:, 0], age=self.age, sex=self.sex)
        self.write("table.txt", everything.assign(**{f"PC{i}": rng.standard_normal(N) for i in (1, 2)}))
        self.sire, self.dam = random_pedigree(N, 20, seed=1)
        self.rows, self.herds = rng.integers(20, N, 200), rng.integers(0, 9, 200)
        name = np.append(self.ids["IID"].to_numpy(), "0")
        herd = pd.DataFrame({"animal": name[:N], "sire": name[self.sire], "dam": name[self.dam]})
        self.write("pedigree.txt", herd)
        A = tabular_relationship(self.sire, self.dam) + 1e-9 * np.eye(N)
        value = np.linalg.cholesky(A) @ rng.standard_normal(N) * 1.5
        self.milk = np.round(value[self.rows] + rng.standard_normal(200), 5)
        animals = self.ids.iloc[self.rows]
        self.write("milk.txt", animals.assign(milk=self.milk, herd=[f"h{h}" for h in self.herds]))
        self.write("herds.txt", animals.assign(herd=[f"h{h}" for h in self.herds]))

    def write(self, name, table, header=True):
        table.to_csv(self.folder / name, sep="\t", index=False, header=header)

    def run(self, command, line):
        """What a user types: a command and its words."""
        words = [word.replace("@", f"{self.folder}/") for word in line.split()]
        assert COMMANDS[command]([*words, "--quiet", "--dtype", "float64", "--device", "cpu"]) == 0, line

    def json(self, out):
        return json.loads((self.folder / f"{out}.json").read_text())

    def table(self, name):
        return pd.read_csv(self.folder / name, sep="\t", dtype={"IID": str, "animal": str})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("users"))


def h2_of(y, X, K):
    theta = exact_reml(y, X, [K]).theta
    return theta[0] * np.trace(K) / (theta[0] * np.trace(K) + len(y) * theta[1])


def test_a_user_of_gcta(study):
    covariates = "--qcovar @test.qcovar --covar @test.covar --thread-num 1"
    study.run("gpu-reml", f"--reml --bfile @test --autosome --pheno @test.phen {covariates} --out @g1")
    expected = h2_of(study.Y[:, 0], study.X, study.K)
    assert study.json("g1")["h2"]["estimate"] == pytest.approx(expected, abs=1e-5)
    study.run("gpu-reml", "--bfile @test --autosome --make-grm-bin --out @test")
    flags = "--reml-pred-rand --reml-est-fix --reml-maxit 100"
    study.run("gpu-reml", f"--reml --grm-bin @test --pheno @test.phen {covariates} {flags} --out @g2")
    assert study.json("g2")["h2"]["estimate"] == pytest.approx(expected, abs=1e-5)
    (study.folder / "list.txt").write_text(f"{study.folder}/test\n")
    study.run("gpu-reml", f"--reml --mgrm @list.txt --mpheno 2 --pheno @test.phen {covariates} --out @g3")
    assert study.json("g3")["h2"]["estimate"] == pytest.approx(h2_of(study.Y[:, 1], study.X, study.K), abs=1e-5)
    study.run("gpu-reml", "--grm @test --grm-cutoff 0.2 --pheno @test.phen --reml --out @g4 --keep-out @g4.txt")
    kept = study.table("g4.txt")["IID"]
    rows = study.ids["IID"].isin(kept).to_numpy()
    assert 10 < rows.sum() < N and not (np.triu(study.K, 1)[np.ix_(rows, rows)] > 0.2 + 1e-6).any()
    study.run("gpu-reml", "--bfile @test --pca 3 --out @g5")
    values = np.linalg.eigvalsh(study.K)[::-1][:3]
    np.testing.assert_allclose(np.loadtxt(study.folder / "g5.eigenval"), values, rtol=1e-6)
    study.run("gpu-reml-gwas", f"--mlma-loco --bfile @test --pheno @test.phen {covariates} --out @g6")
    assert set(study.table("g6.gwas.tsv")["METHOD"].dropna()) == {"exact"}


def test_a_user_of_regenie_or_bolt(study):
    files = "--phenoFile @table.txt --phenoCol y --covarFile @table.txt --qCovarCol PC{1:2} --qCovarCol age"
    study.run("gpu-reml", f"--reml --bfile @test {files} --covarCol sex --numThreads 1 --out @b1")
    pcs = study.table("table.txt")[["PC1", "PC2"]].to_numpy()
    X = np.column_stack([study.X, pcs])
    assert study.json("b1")["h2"]["estimate"] == pytest.approx(h2_of(study.Y[:, 0], X, study.K), abs=1e-5)
    lists = "--phenoFile @table.txt --phenoColList y --covarFile @table.txt --covarColList PC{1:2},age"
    more = "--catCovarList sex --qt --bsize 1000 --lowmem"
    study.run("gpu-reml-gwas", f"--step 1 --bed @test {lists} {more} --out @fit")
    assert gwas([*f"--step 2 --bed {study.folder}/test --chr 2 --pred {study.folder}/fit.null.npz".split(),
                       *f"--qt --bsize 400 --out {study.folder}/chr2 --quiet --device cpu".split()]) == 0  # fmt: skip
    table = study.table("chr2.gwas.tsv")
    assert len(table) == M // 3 and set(table["METHOD"].dropna()) == {"score"}
    study.run("gpu-reml-gwas", f"--bed @test {lists} {more} --apply-rint --model ols --out @rint")
    y = stats.norm.ppf((stats.rankdata(study.Y[:, 0]) - 0.375) / (N + 0.25))
    residual = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    z = study.Z[:, 5] - X @ np.linalg.lstsq(X, study.Z[:, 5], rcond=None)[0]
    row = study.table("rint.gwas.tsv").query("BETA == BETA").iloc[5]
    assert row["BETA"] == pytest.approx(z @ residual / (z @ z) * study.inv_sd[5], rel=1e-5)


def test_a_user_of_gpu_reml(study, capsys):
    study.write("p.txt", study.ids.assign(y=study.Y[:, 0]), header=False)
    files = "--bed-prefix @test --pheno-txt @p.txt --covar-txt @test.qcovar --out-prefix @r1"
    study.run("gpu-reml", f"{files} --compute-effects --n-rand-vec 100 --slq-samples 4 --minq-iter 50")
    X = study.X[:, :2]
    theta = exact_reml(study.Y[:, 0], X, [study.K]).theta
    V = theta[0] * study.K + theta[1] * np.eye(N)
    inverse = np.linalg.inv(V)
    P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    printed = capsys.readouterr().out
    numbers = re.search(r"^var_components:\s*\[(.*)\]$", printed, re.MULTILINE)[1].split()
    np.testing.assert_allclose(np.array(numbers, float), theta / study.Y[:, 0].var(), rtol=1e-4)
    h2 = float(re.search(r"^h2:\s*(\S+)$", printed, re.MULTILINE)[1])
    assert h2 == pytest.approx(h2_of(study.Y[:, 0], X, study.K), abs=1e-4)
    beta = theta[0] * study.Z.T @ P @ study.Y[:, 0] / study.Z.shape[1]
    found = study.table("r1.snp_effects.component_000.tsv")
    np.testing.assert_allclose(found["beta"], beta, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found["beta_allele"], beta * study.inv_sd, rtol=1e-3, atol=1e-6)
    study.run("gpu-reml-gwas", "--bed-prefix @test --pheno-txt @p.txt --out-prefix @r2")
    table = study.table("r2.gwas.tsv")
    slope = stats.linregress(study.Z[:, 0], study.Y[:, 0]).slope
    assert table.dropna(subset="beta")["beta_std"].iloc[0] == pytest.approx(slope, rel=1e-6)


def test_a_developer_of_methods(study):
    pedigree = PedigreeCovariance(make_pedigree(study.sire, study.dam))
    people = [study.K, reml.records(pedigree, np.arange(N)), reml.grouping(study.sex, "sex")]
    found = reml.fit(study.Y[:, 0], np.ones((N, 1)), people[:2], reml.exact_probes(N))
    expected = exact_reml(study.Y[:, 0], np.ones((N, 1)), [study.K, tabular_relationship(study.sire, study.dam)]).theta
    np.testing.assert_allclose(found.theta, expected, rtol=1e-4, atol=1e-5)
    assert reml.as_covariance(people).names == ("component_000", "pedigree", "sex")


def test_a_breeder(study, capsys):
    herds = f"iid,{study.folder}/herds.txt"
    line = f"--pedigree @pedigree.txt --pheno @milk.txt --pheno-name milk --random {herds} --out @cows"
    study.run("gpu-reml", f"{line} --compute-effects --reliability 130")
    A = tabular_relationship(study.sire, study.dam)
    Z = reml.incidence(study.rows, N).toarray()
    W, own = np.eye(9)[study.herds], np.unique(study.rows)
    theta = exact_reml(study.milk, np.ones((200, 1)), [Z @ A @ Z.T, W @ W.T, Z[:, own] @ Z[:, own].T]).theta
    found = [row["theta"] for row in study.json("cows")["components"]]
    np.testing.assert_allclose(found, theta[:3], rtol=1e-3, atol=1e-4)
    values = study.table("cows.pedigree.values.tsv")
    blocks = [(Z, A, found[0]), (W, np.eye(9), found[1]), (Z[:, own], np.eye(len(own)), found[2])]
    residual = np.full(200, study.json("cows")["residuals"][0]["theta"])
    pev = mixed_model_equations(
        study.milk, np.ones((200, 1)), [block for block in blocks if block[2] > 0], residual
    ).pev[0]
    certain = 1 - pev / (found[0] * np.diag(A))
    np.testing.assert_allclose(values.set_index("animal").loc[study.ids["IID"], "reliability"], certain, atol=1e-3)
    assert len(values) == N and (values["n_samples"] == 0).sum() >= 20
    printed = re.search(r"^h2: (.*)$", capsys.readouterr().out, re.MULTILINE)[1]  # of animals, without herds
    assert float(printed) == pytest.approx(study.json("cows")["h2"]["estimate"], abs=1e-6)
    study.run("gpu-reml", "--bfile @test --pedigree @pedigree.txt --single-step --pheno @test.phen --out @hybrid")
    assert [row["name"] for row in study.json("hybrid")["components"]] == ["single_step"]
