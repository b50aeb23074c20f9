"""Chromosome X: sexes from files, and males counted once outside the pseudo-autosomal regions."""

import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml.cli.main import main
from gpu_reml.io import InputError, haploid_in_males, read_males
from gpu_reml.ops import MISSING, pack, standardise, to_dense, with_haploid_males
from gpu_reml.reml import fit_exact
from gpu_reml.validation import dense, simulate_cohort, write_plink


def test_sexes_are_those_of_the_files_of_samples(write):
    assert read_males(write("a.fam", "1 a 0 0 1 -9\n1 b 0 0 2 -9\n1 c 0 0 0 -9\n")).tolist() == [True, False, False]
    assert read_males(write("a.psam", "#FID IID SEX\n1 a F\n1 b M\n")).tolist() == [False, True]
    assert read_males(write("a.sample", "ID_1 ID_2 missing sex\n0 0 0 D\n1 a 0 1\n1 b 0 2\n")).tolist() == [True, False]
    with pytest.raises(InputError, match=r"b\.psam: has no column SEX"):
        read_males(write("b.psam", "#FID IID\n1 a\n"))
    with pytest.raises(InputError, match=r"b\.fam: nobody has a sex"):
        read_males(write("b.fam", "1 a 0 0 0 -9\n"))


def test_the_ends_of_x_are_autosomal_in_males():
    table = pd.DataFrame(
        {"chrom": ["23", "chrX", "X", "PAR1", "22", "XY"], "bp": [2_000_000, 5_000_000, 155_900_000] + [5_000_000] * 3}
    )
    assert haploid_in_males(table).tolist() == [False, True, False, False, False, False]


def test_males_are_counted_once_and_their_heterozygous_calls_are_missing():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (37, 9)).astype(np.int8)
    counts[rng.random((37, 9)) < 0.1] = MISSING
    males = rng.random(37) < 0.5
    genotypes = standardise([pack(counts[:, :4]), pack(counts[:, 4:])], 37)
    found = with_haploid_males(genotypes, np.array([2, 5, 6]), males)
    expected = counts.copy()
    for j in (2, 5, 6):
        own = expected[males, j]
        expected[males, j] = np.where(own == 2, 1, np.where(own == 1, MISSING, own))
    np.testing.assert_allclose(to_dense(found), dense.standardised(expected), atol=1e-12)
    np.testing.assert_allclose(to_dense(genotypes), dense.standardised(counts), atol=1e-12)  # a copy was changed


def test_x_is_counted_as_asked_and_a_component_of_its_own(tmp_path, capsys):
    people = simulate_cohort(150, 300, 9)
    people.variants["chrom"] = np.repeat(["1", "2", "X"], 100)
    people.variants["bp"] = np.arange(300) * 10_000 + 3_000_000
    write_plink(people, tmp_path / "data")
    males = np.random.default_rng(1).random(150) < 0.5
    lines = [line.split() for line in (tmp_path / "data.fam").read_text().splitlines()]
    sexed = [" ".join([*line[:4], "1" if male else "2", line[5]]) for line, male in zip(lines, males, strict=True)]
    (tmp_path / "data.fam").write_text("\n".join(sexed) + "\n")
    y = np.random.default_rng(2).standard_normal(150)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(y=y).to_csv(tmp_path / "p.txt", sep="\t", index=False)

    def run(*words):
        files = ["--bfile", tmp_path / "data", "--pheno", tmp_path / "p.txt", "--method", "exact", "--quiet"]
        line = [*files, "--dtype", "float64", "--device", "cpu", "--out", tmp_path / "o", *words]
        assert main([str(word) for word in line]) == 0
        return json.loads((tmp_path / "o.json").read_text())

    counts = people.counts.copy()
    own = counts[males, 200:]
    counts[males, 200:] = np.where(own == 2, 1, np.where(own == 1, MISSING, own))

    def kernel(part):
        Z = dense.standardised(part)
        Z = Z[:, Z.any(axis=0)]
        return Z @ Z.T / Z.shape[1]

    found = run("--xchr-model", "1", "--by-chromosome", "X")
    assert [row["name"] for row in found["components"]] == ["chr_others", "chrX"]
    expected = fit_exact(y, np.ones((150, 1)), [kernel(counts[:, :200]), kernel(counts[:, 200:])])
    assert found["loglik"] == pytest.approx(expected.loglik, abs=1e-6)
    assert any(f"{males.sum()} males of 150 samples are counted 0 or 1" in note for note in found["notes"])
    for words, part in ((["--xchr-model", "0"], people.counts[:, :200]), ([], people.counts)):
        assert run(*words)["loglik"] == pytest.approx(fit_exact(y, np.ones((150, 1)), kernel(part)).loglik, abs=1e-6)
