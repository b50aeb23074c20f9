"""Simulated phenotypes against the truth they claim, and files against bed-reader and plain parsers."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from bed_reader import open_bed

from gpu_reml.validation import (
    SPARSE,
    Genetics,
    Structure,
    dense_expected_information,
    dense_score,
    example_cohort,
    kernel,
    simulate_bed,
    simulate_cohort,
    simulate_phenotype,
    standardised,
    write_covariates,
    write_plink,
)
from gpu_reml.validation.simulate import main

MISSING = -127


@pytest.fixture(scope="module")
def cohort():
    cohort = simulate_cohort(81, 120, 1, missing_rate=0.03, structure=Structure(family_share=0.3))
    cohort.counts[:, [5, 70]] = [1, MISSING]
    return cohort


def test_scores_at_the_simulated_theta_have_mean_zero_and_the_expected_information(cohort):
    Z = standardised(cohort.counts)
    components = [np.linspace(0, 1, 120), np.where(np.arange(120) < 40, 3.0, 0.0)]
    Ks, theta, X = [kernel(Z, w) for w in components], np.array([30.0, 12.0, 25.0]), np.ones((81, 1))
    traits = [simulate_phenotype(cohort, components, theta, seed, X=X, effects=[170.0]) for seed in range(300)]
    scores = np.array([dense_score(theta, trait.y, X, Ks) for trait in traits])
    information = dense_expected_information(theta, traits[0].y, X, Ks)
    standard = scores / np.sqrt(np.diag(information))
    assert np.all(np.abs(standard.mean(axis=0)) < 4 / np.sqrt(300))
    # Var of a variance of 300 draws whose excess kurtosis is under 3.
    np.testing.assert_allclose(standard.var(axis=0), 1, atol=4 * np.sqrt(5 / 300))
    np.testing.assert_allclose(traits[0].traces, [np.trace(K) for K in Ks], rtol=1e-12)
    parts = theta[:2] @ traits[0].traces / 81
    np.testing.assert_allclose(traits[0].h2, parts / (parts + 25))


def test_a_phenotype_is_its_fixed_effects_genetic_values_and_noise(cohort):
    X = np.column_stack([np.ones(81), np.arange(81)])
    quiet = simulate_phenotype(cohort, [np.ones(120)], [4.0, 0.0], 1, X=X, effects=[170.0, 0.5])
    np.testing.assert_allclose(quiet.y, X @ [170, 0.5] + quiet.genetic[:, 0], rtol=1e-12)
    same = simulate_phenotype(standardised(cohort.counts), [np.ones(120)], [4.0, 0.0], 1)
    np.testing.assert_allclose(same.y, quiet.genetic[:, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("components", "theta", "options", "message"),
    [
        ([np.ones(119)], [1, 1], {}, "weights of at least 0 for 120 variants"),
        ([-np.ones(120)], [1, 1], {}, "weights of at least 0 for 120 variants"),
        ([np.ones(120)], [1, 1, 1], {}, "theta: expected 1 genetic"),
        ([np.ones(120)], [-1, 1], {}, "theta: expected 1 genetic"),
        ([np.ones(120), np.arange(120) == 5], [1, 1, 1], {}, "component 1: none of its variants varies"),
        ([np.ones(120)], [1, 1], {"X": np.ones((81, 1))}, "give both or neither"),
    ],
)
def test_a_phenotype_that_cannot_be_simulated_is_refused(cohort, components, theta, options, message):
    with pytest.raises(ValueError, match=message):
        simulate_phenotype(cohort, components, theta, 1, **options)


def test_plink_files_hold_the_cohort(cohort, tmp_path):
    write_plink(cohort, tmp_path / "small")
    with open_bed(tmp_path / "small.bed") as bed:
        np.testing.assert_array_equal(bed.read(dtype="int8"), cohort.counts)
        for name, column in {"fid": "fid", "iid": "iid", "father": "father", "mother": "mother", "sex": "sex"}.items():
            np.testing.assert_array_equal(getattr(bed, name), cohort.samples[column])
        names = {"chromosome": "chrom", "sid": "id", "bp_position": "bp", "allele_1": "a1", "allele_2": "a2"}
        for name, column in names.items():
            np.testing.assert_array_equal(getattr(bed, name), cohort.variants[column])


def test_covariates_are_written_with_a_header_and_na(cohort, tmp_path):
    age = np.where(np.arange(81) == 3, np.nan, np.arange(81) / 7)
    write_covariates(tmp_path / "covariates.txt", cohort.samples, {"age": age, "sex": cohort.samples["sex"]})
    lines = [line.split("\t") for line in (tmp_path / "covariates.txt").read_text().splitlines()]
    assert lines[0] == ["FID", "IID", "age", "sex"]
    assert lines[4] == [*cohort.samples.loc[3, ["fid", "iid"]], "NA", str(cohort.samples.loc[3, "sex"])]
    assert float(lines[2][2]) == pytest.approx(1 / 7, rel=1e-8)


@pytest.mark.parametrize("num_samples", [401, 402, 403, 404])
def test_streamed_files_are_those_of_the_cohort_in_memory(tmp_path, num_samples):
    settings = {"missing_rate": 0.02, "structure": Structure(2, 0.05, 0.2)}
    simulate_bed(tmp_path / "streamed", num_samples, 300, 7, **settings)
    write_plink(simulate_cohort(num_samples, 300, 7, **settings), tmp_path / "whole")
    assert (tmp_path / "streamed.bed").read_bytes() == (tmp_path / "whole.bed").read_bytes()
    for suffix in ("fam", "bim"):
        paths = [tmp_path / f"{name}.{suffix}" for name in ("streamed", "whole")]
        pd.testing.assert_frame_equal(*(pd.read_csv(path, sep=r"\s+", header=None) for path in paths))


def test_a_streamed_phenotype_is_made_from_the_streamed_genotypes(tmp_path):
    overlapping = [(np.arange(150) < 90).astype(float), np.geomspace(0.1, 30, 150)]
    theta = (9.0, 4.0, 6.0)
    few = replace(SPARSE, num_founders=20)  # so that some variants do not vary
    trait = simulate_bed(
        tmp_path / "cohort", 2000, 150, 3, genetics=Genetics(theta, overlapping), haplotypes=few, missing_rate=0.02
    )
    with open_bed(tmp_path / "cohort.bed") as bed:
        Z = standardised(bed.read(dtype="int8"))
    varies = Z.any(axis=0)
    assert 0 < np.count_nonzero(~varies) < 60
    for g, w in enumerate(overlapping):
        basis = Z * np.sqrt(w * theta[g] / w[varies].sum())
        u, *_ = np.linalg.lstsq(basis, trait.genetic[:, g])
        np.testing.assert_allclose(basis @ u, trait.genetic[:, g], atol=1e-9 * np.abs(trait.genetic).max())
        num_effects = np.count_nonzero(w[varies])
        assert abs((u**2).sum() / num_effects - 1) < 4 * np.sqrt(2 / num_effects)
        np.testing.assert_allclose(trait.traces[g], np.trace(kernel(Z, w)), rtol=1e-10)
    noise = trait.y - trait.genetic.sum(axis=1)
    assert abs(noise.var() / 6 - 1) < 4 * np.sqrt(2 / 2000)
    written = pd.read_csv(tmp_path / "cohort.pheno", sep="\t")
    assert written.columns.tolist() == ["FID", "IID", "trait"]
    np.testing.assert_allclose(written["trait"], trait.y, rtol=1e-8)


def test_the_example_is_complete_and_says_what_it_was_made_from(tmp_path):
    trait = example_cohort(tmp_path / "made")
    files = {path.name: path for path in (tmp_path / "made").iterdir()}
    assert set(files) == {
        *(f"example.{suffix}" for suffix in ("bed", "bim", "fam")),
        *("height.txt", "covariates.txt", "components.json", "truth.json"),
    }
    truth = json.loads(files["truth.json"].read_text())
    components = json.loads(files["components.json"].read_text())["components"]
    assert [part["name"] for part in components] == ["coding", "regulatory", "other"]
    assert sorted(j for part in components for j in part["variant_indices"]) == list(range(4500))
    height, covariates = (pd.read_csv(files[name], sep="\t") for name in ("height.txt", "covariates.txt"))
    assert height["height"].isna().sum() in range(10, 60) and covariates["age"].isna().sum() > 0
    rows = height.merge(covariates, on=["FID", "IID"]).dropna()
    X = np.column_stack([np.ones(len(rows)), rows["age"], rows["sex"]])
    estimate, rss, *_ = np.linalg.lstsq(X, rows["height"])
    spread = np.sqrt(rss / len(rows) * np.diag(np.linalg.inv(X.T @ X)))
    assert np.all(np.abs(estimate - list(truth["fixed_effects"].values())) < 4 * spread)
    np.testing.assert_allclose([trait.h2, sum(truth["h2_by_component"].values())], truth["h2"])
    assert abs(rss[0] / len(rows) / sum(truth["theta"].values()) - 1) < 0.2


def test_the_command_writes_a_cohort_with_families_populations_and_a_trait(tmp_path, capsys):
    prefix = tmp_path / "made"
    assert main(["--out", str(prefix), "--samples", "200", "--variants", "300", "--h2", "0.4", "--seed", "5"]) == 0
    assert "the trait's h2 is 0." in capsys.readouterr().out
    fam = pd.read_csv(f"{prefix}.fam", sep=r"\s+", header=None, dtype=str)
    assert (fam[2] != "0").sum() == 10  # a tenth are in families, and half of those are children
    assert len(pd.read_csv(f"{prefix}.pheno", sep="\t")) == 200
    structure = Structure(3, 0.005, 0.1)
    same = simulate_cohort(200, 300, 5, structure=structure)
    with open_bed(f"{prefix}.bed") as bed:
        np.testing.assert_array_equal(bed.read(dtype="int8"), same.counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fst", "1.5"], "--fst: expected a number between 0 and 1, found 1.5"),
        (["--h2", "1.2"], "--h2: expected a number from 0 to 1, found 1.2"),
        (["--samples", "0"], "--samples: expected a positive integer, found 0"),
        (["--out", "/"], "--out: / is a directory"),
    ],
)
def test_the_command_refuses_what_makes_no_cohort(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "made"), "--variants", "40", *options])
    assert message in capsys.readouterr().err
