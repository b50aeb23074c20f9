"""``gpu-reml-gwas`` end to end: GPU_REML's command, mixed models, files, and one line for what is wrong."""

import gzip
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bed_reader import open_bed
from scipy import stats

from gpu_reml import figures
from gpu_reml.cli.gwas import main
from gpu_reml.validation import SPARSE, dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.simulate import Cohort, simulate_cohort, write_plink

PLOTS = ("--plots",) if figures.available() else ()
DATA = Path(os.environ.get("GPU_REML_EXTERNAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TOYDATA = DATA / "toydata"
N, M = 200, 150
HALF = 60  # variants in the first of two filesets


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two traits and an age; weight lacks two people; variant 3 does not vary."""
    folder = tmp_path_factory.mktemp("gwas")
    people = simulate_cohort(N, M, 6, haplotypes=SPARSE)
    people.counts[:, 3] = 0
    write_plink(people, folder / "data")
    for name, part in {"first": slice(0, HALF), "second": slice(HALF, M)}.items():
        variants = people.variants.iloc[part].reset_index(drop=True)
        write_plink(Cohort(np.ascontiguousarray(people.counts[:, part]), people.samples, variants), folder / name)
    rng = np.random.default_rng(0)
    Z = dense.standardised(people.counts)
    genetic = Z @ rng.standard_normal((M, 2)) / np.sqrt(M)
    age = rng.integers(20, 70, N).astype(float)
    Y = 500 + 4 * (genetic + rng.standard_normal((N, 2))) + 0.2 * age[:, None]
    Y[:, 0] += 3 * Z[:, 40]
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    write = {"sep": "\t", "index": False, "na_rep": "NA"}
    ids.assign(height=Y[:, 0], mass=Y[:, 1]).to_csv(folder / "pheno.txt", **write)
    ids.assign(height=Y[:, 0], older=2 * age + 1).to_csv(folder / "flat.txt", **write)
    short = Y[:, 1].copy()
    short[[4, 9]] = np.nan
    ids.assign(height=Y[:, 0], weight=short).to_csv(folder / "gaps.txt", **write)
    ids.assign(age=age).to_csv(folder / "age.txt", **write)
    ids[:150].to_csv(folder / "keep.txt", sep=" ", header=False, index=False)
    return folder, people, Z, age, Y


def run(*arguments):
    return main([str(part) for part in [*arguments, "--device", "cpu"]])


def command(folder, *arguments, out, bed="data", pheno="pheno.txt"):
    files = ("--bfile", folder / bed, "--pheno", folder / pheno, "--qcovar", folder / "age.txt", "--out", out)
    return run(*files, *arguments)


def table_of(path):
    return pd.read_csv(path, sep="\t", dtype={"chrom": str, "CHROM": str})


def record_of(prefix):
    return json.loads(Path(f"{prefix}.gwas_metadata.json").read_text())


def test_the_reference_command_gives_its_file_and_a_regression_of_every_variant(cohort, tmp_path, capsys):
    folder, people, _, age, Y = cohort
    flags = ("--pheno-txt", folder / "pheno.txt", "--covar-txt", folder / "age.txt", "--out-prefix", tmp_path / "o")
    beds = f"{folder}/first,{folder}/second"
    accepted = ("--call-width", 4096, "--ring-depth", 4, "--cpu-threads", 1, "--verbose")
    assert run("--bed-prefix", beds, *flags, "--keep-path", folder / "keep.txt", *accepted) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.gwas.log", "o.gwas.tsv", "o.gwas_metadata.json"]
    table = table_of(tmp_path / "o.gwas.tsv")
    X = np.column_stack([np.ones(150), age[:150]])
    counts = people.counts[:150].astype(float)
    counts[counts < 0] = np.nan
    for j in (0, 40, HALF, M - 1):
        z = np.where(np.isnan(counts[:, j]), np.nanmean(counts[:, j]), counts[:, j])
        found = stats.linregress(*(part - X @ np.linalg.lstsq(X, part, rcond=None)[0] for part in (z, Y[:150, 0])))
        se = found.stderr * np.sqrt((150 - 2) / (150 - 3))
        row = table.iloc[j]
        np.testing.assert_allclose([row["beta"], row["se"], row["t"]], [found.slope, se, found.slope / se], rtol=1e-5)
        p = 2 * stats.t.sf(abs(row["t"]), 147)
        np.testing.assert_allclose([row["p"], row["LOG10P"]], [p, -np.log10(p)], rtol=1e-6)
        assert row["n_obs"] == np.isfinite(counts[:, j]).sum()
        np.testing.assert_allclose(row["af"], np.nanmean(counts[:, j]) / 2, rtol=1e-8)
    assert (table["variant_id"] == people.variants["id"]).all() and (table["a1"] == people.variants["a1"]).all()
    assert table["component_name"].value_counts().to_dict() == {"first": HALF, "second": M - HALF}
    assert table["variant_index_local"].tolist() == [*range(HALF), *range(M - HALF)]
    assert np.isnan(table.loc[3, ["beta", "se", "t", "p", "LOG10P"]].astype(float)).all()
    record = record_of(tmp_path / "o")
    assert (record["model"], record["n"], record["m"], record["rank"], record["dof"]) == (
        "marginal_ols_fwl",
        150,
        M,
        2,
        147,
    )
    known = table["LOG10P"].dropna()
    inflation = stats.chi2.isf(10 ** -known.median(), 1) / stats.chi2.median(1)
    np.testing.assert_allclose(record["lambda_gc"], inflation, rtol=1e-6)
    assert f"lambda_GC {inflation:.4f}" in capsys.readouterr().out and record["num_tested"] == len(known)


def test_exact_loco_is_dense_generalised_least_squares(cohort, tmp_path):
    folder, people, Z, age, Y = cohort
    assert command(folder, "--model", "loco", "--method", "exact", "--pheno-name", "height", out=tmp_path / "o") == 0
    table, record = table_of(tmp_path / "o.gwas.tsv"), record_of(tmp_path / "o")
    assert list(table) == "CHROM GENPOS ID A1 A2 A1FREQ N INFO BETA SE CHISQ LOG10P P METHOD".split()
    assert (table["METHOD"].dropna() == "exact").all() and table["METHOD"].isna().tolist() == (~Z.any(axis=0)).tolist()
    chrom = people.variants["chrom"].to_numpy()
    X = np.column_stack([np.ones(N), age])
    for name in ("1", "3"):
        K = dense.kernel(Z, (chrom != name) & Z.any(axis=0))
        K *= N / np.trace(K)
        theta = exact_reml(Y[:, 0], X, [K]).theta
        assert abs(record["h2_by_chromosome"][name] - theta[0] / theta.sum()) <= 1e-5
        P = dense.projection(theta / theta.sum(), Y[:, 0], X, [K]).P
        j = int(np.flatnonzero(chrom == name)[7])
        z, y = Z[:, j], Y[:, 0]
        beta = z @ P @ y / (z @ P @ z)
        se = np.sqrt((y @ P @ y - beta * (z @ P @ y)) / (z @ P @ z) / (N - 3))
        sd = np.nanstd(np.where(people.counts[:, j] < 0, np.nan, people.counts[:, j]))
        row = table.iloc[j]
        np.testing.assert_allclose([row["BETA"], row["SE"]], [beta / sd, se / sd], rtol=1e-4)
        np.testing.assert_allclose(row["LOG10P"], -np.log10(stats.f.sf((beta / se) ** 2, 1, N - 3)), rtol=1e-3)


def test_loco_by_scores_is_near_the_exact_one_and_says_how_it_was_calibrated(cohort, tmp_path, capsys):
    folder, _, _, _, _ = cohort
    found = {}
    score = ("--method", "score", "--refine", 0)
    for name, flags in {"score": score, "refit": (*score, "--loco-refit"), "exact": ("--method", "exact")}.items():
        assert command(folder, "--model", "loco", "--pheno-name", "all", *flags, out=tmp_path / name) == 0
        found[name] = table_of(tmp_path / f"{name}.mass.gwas.tsv")
    printed = capsys.readouterr().out
    assert "relative SE at most" in printed and "refined" not in printed
    # the same variances: what is left is gamma, and that a variant's own part is not taken out of the variance
    known = found["exact"]["CHISQ"].notna()
    assert not known[3] and all((table["CHISQ"].notna() == known).all() for table in found.values())
    exact, refit, score = (found[name][known] for name in ("exact", "refit", "score"))
    scale = np.sqrt(exact["CHISQ"])
    near = (np.abs(np.sqrt(refit["CHISQ"]) - scale) <= 0.05 + 0.1 * scale).mean()
    assert near > 0.9
    assert np.corrcoef(refit["CHISQ"], exact["CHISQ"])[0, 1] > 0.99
    assert np.corrcoef(score["CHISQ"], exact["CHISQ"])[0, 1] > 0.97
    record = record_of(tmp_path / "refit.mass")
    calibration = record["calibration"]
    assert set(calibration["gamma_by_chromosome"]) == set("12345") == set(record["theta_by_chromosome"])
    assert calibration["num_variants"] >= 32 and max(calibration["se_by_chromosome"].values()) < 0.05
    assert record["method"] == "score" and record["solves"]["converged"] and "gamma z'Mz" in record["approximation"]
    scatter = calibration["relative_sd_of_standard_errors"]
    assert 0.01 < scatter < 0.2 and calibration["degrees_of_freedom"] >= 30
    assert f"single variants scatter by {100 * scatter:.2g} % about it" in printed
    assert set(score["METHOD"]) == {"score"} and record["refinement"]["refined"] == 0
    # the p-value that is written belongs to the chi-squared that is written
    np.testing.assert_allclose(score["LOG10P"], -np.log10(stats.chi2.sf(score["CHISQ"], 1)), rtol=1e-5)
    np.testing.assert_allclose((score["BETA"] / score["SE"]) ** 2, score["CHISQ"], rtol=1e-6)


def test_refined_variants_are_those_of_the_exact_method_and_are_marked(cohort, tmp_path, capsys):
    folder = cohort[0]
    refit = ("--model", "loco", "--pheno-name", "all", "--loco-refit", "--refine", 0.2)
    for name, flags in {"cap": ("--refine-most", 5), "every": ("--refine-most", 500)}.items():
        assert command(folder, *refit, *flags, out=tmp_path / name) == 0
        printed = capsys.readouterr().out
        assert ("the 5 most significant were tested again" in printed) == (name == "cap")
    assert command(folder, "--model", "loco", "--method", "exact", "--pheno-name", "all", out=tmp_path / "exact") == 0
    for trait in ("height", "mass"):
        few, every, exact = (table_of(tmp_path / f"{name}.{trait}.gwas.tsv") for name in ("cap", "every", "exact"))
        done = every["METHOD"] == "refined"
        record = record_of(tmp_path / f"cap.{trait}")["refinement"]
        assert record["met"] == done.sum() > 20 and record["refined"] == 5 == (few["METHOD"] == "refined").sum()
        assert 0 < record["largest_error_bound_of_zPz"] < 5e-6 and record["column_passes_of_all_traits"] > 10
        assert set(every["METHOD"].dropna()) == {"refined", "score"}
        for name in ("BETA", "SE", "LOG10P"):
            scale = exact["SE"] if name == "BETA" else exact[name]
            assert (np.abs(every[name] - exact[name]) / scale)[done].max() <= 1e-4
        assert (np.abs(every["SE"] / exact["SE"] - 1)[~done]).max() > 0.01
        pd.testing.assert_frame_equal(few[few["METHOD"] == "refined"], every.loc[few["METHOD"] == "refined"], rtol=1e-5)


def test_small_cohorts_are_tested_exactly_unless_the_score_is_asked_for(cohort, tmp_path, capsys):
    folder = cohort[0]
    for name, flags in {"auto": (), "exact": ("--method", "exact")}.items():
        assert command(folder, "--model", "loco", *flags, out=tmp_path / name) == 0
        assert "method exact" in capsys.readouterr().out
    assert (tmp_path / "auto.gwas.tsv").read_bytes() == (tmp_path / "exact.gwas.tsv").read_bytes()
    assert record_of(tmp_path / "auto")["method"] == "exact"
    assert command(folder, "--model", "loco", "--refine", 1e-3, out=tmp_path / "score") == 0
    assert "method score" in capsys.readouterr().out and record_of(tmp_path / "score")["method"] == "score"


def test_relatives_are_warned_of_errors_of_single_variants_and_others_are_not(cohort, tmp_path, capsys):
    folder, people = cohort[:2]
    assert command(folder, "--model", "loco", "--method", "score", out=tmp_path / "o") == 0
    assert "warning" not in capsys.readouterr().out
    twins = people.counts.copy()
    twins[: N // 2] = twins[N // 2 :]
    write_plink(Cohort(twins, people.samples, people.variants), tmp_path / "twins")
    Z = dense.standardised(twins)
    y = Z @ np.random.default_rng(2).standard_normal(M) / np.sqrt(M) + 0.5 * np.random.default_rng(3).standard_normal(N)
    people.samples[["fid", "iid"]].assign(y=y).to_csv(tmp_path / "y.txt", sep=" ", header=False, index=False)
    files = ("--bfile", tmp_path / "twins", "--pheno", tmp_path / "y.txt", "--out", tmp_path / "t")
    assert run(*files, "--model", "loco", "--method", "score", "--quiet") == 0
    printed = capsys.readouterr().out
    assert "refined" not in printed  # but what is wrong is said
    assert re.search(r"warning: .*: standard errors of single variants err by about \d+ % \(SD\)", printed)
    assert record_of(tmp_path / "t")["calibration"]["relative_sd_of_standard_errors"] > 0.05


def test_how_far_errors_of_single_variants_scatter_is_unknown_from_one(cohort, tmp_path, capsys):
    folder = cohort[0]
    for number in (1, 2):
        (tmp_path / "ids").write_text("".join(f"rs{j}\n" for j in range(60, 60 + number)))
        only = ("--model", "lmm", "--method", "score", "--extract", tmp_path / "ids")
        assert command(folder, *only, out=tmp_path / "o") in (0, 3)
        printed = capsys.readouterr().out
        assert f"{number} variants tested" in printed
        assert ("err by an unknown amount" in printed) == (number == 1)
        assert "relative SE unknown" in printed  # of so few variants
        assert "nan" not in printed


def test_variants_without_a_test_are_counted_by_reason_and_a_perfect_one_is_named(cohort, tmp_path, capsys):
    _, people, Z, _, _ = cohort
    ids = people.samples[["fid", "iid"]]
    counts = people.counts.copy()
    counts[:, 9] = -127
    write_plink(Cohort(counts, people.samples, people.variants), tmp_path / "d")
    fixed = int((~Z.any(axis=0)).sum())
    table = {"sep": " ", "header": False, "index": False}
    ids.assign(z=Z[:, 20]).to_csv(tmp_path / "covar.txt", **table)
    ids.assign(y=2 * Z[:, 40]).to_csv(tmp_path / "y.txt", **table)
    for model, missing in {"ols": "NA", "lmm": "NA"}.items():
        files = ("--bfile", tmp_path / "d", "--pheno", tmp_path / "y.txt", "--qcovar", tmp_path / "covar.txt")
        assert run(*files, "--model", model, "--out", tmp_path / model) == 0
        printed, record = capsys.readouterr().out, record_of(tmp_path / model)
        why = f"1 without a call, {fixed} that do not vary, 1 explained by the fixed effects"
        assert f"{M - 2 - fixed} variants tested (NA: {why})" in printed
        assert sum(record["not_tested"].values()) == M - record["num_tested"] == 2 + fixed
        text = (tmp_path / f"{model}.gwas.tsv").read_text().splitlines()
        assert text[1 + 9].endswith(f"\t{missing}") and text[1 + 20].endswith(f"\t{missing}")
        largest = table_of(tmp_path / f"{model}.gwas.tsv").filter(regex="(?i)log10p").max().item()
        assert largest > 100 and f"-log10 p {largest:.2f}" in printed
        assert ("1 explain the phenotype wholly" in printed) == np.isinf(largest)


def test_a_run_repeats_itself_and_another_seed_moves_only_the_calibration(cohort, tmp_path):
    folder = cohort[0]
    tables = []
    for name, flags in {"a": (), "b": (), "c": ("--seed", 5)}.items():
        same = ("--model", "lmm", "--method", "score", "--refine", 0, "--quiet")
        assert command(folder, *same, *flags, out=tmp_path / name) == 0
        tables.append(table_of(tmp_path / f"{name}.gwas.tsv").drop(index=3))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    ratio = tables[2]["CHISQ"] / tables[0]["CHISQ"]
    assert ratio.max() - ratio.min() < 1e-5 and 0 < abs(ratio.iloc[0] - 1) < 0.1
    assert record_of(tmp_path / "c")["calibration"]["num_variants"] >= 32


def test_several_traits_share_a_scan_and_each_has_its_files(cohort, tmp_path):
    pytest.importorskip("matplotlib")
    folder = cohort[0]
    flags = ("--pheno-name", "height,weight", "--gz", "--plots")
    assert command(folder, *flags, pheno="gaps.txt", out=tmp_path / "o") == 0
    kinds = ["gwas.log", "gwas.tsv.gz", "gwas_metadata.json", "manhattan.svg", "qq.svg"]
    names = sorted(f"o.{trait}.{kind}" for trait in ("height", "weight") for kind in kinds)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [record_of(tmp_path / f"o.{trait}")["n"] for trait in ("height", "weight")] == [N, N - 2]
    assert command(folder, "--pheno-name", "weight", pheno="gaps.txt", out=tmp_path / "w") == 0
    text = gzip.decompress((tmp_path / "o.weight.gwas.tsv.gz").read_bytes()).decode()
    assert text == (tmp_path / "w.gwas.tsv").read_text()
    assert "height: ols, lambda" in (tmp_path / "o.height.qq.svg").read_text()


def test_filters_choose_what_is_tested_and_what_the_relationship_is_of(cohort, tmp_path):
    folder, people, _, _, _ = cohort
    assert command(folder, "--model", "loco", "--chr", "1,2", "--maf", 0.1, out=tmp_path / "o") == 0
    table = table_of(tmp_path / "o.gwas.tsv")
    assert set(table["CHROM"]) == {"1", "2"} and (np.abs(table["A1FREQ"] - 0.5) <= 0.4).all()
    assert set(table["ID"]) < set(people.variants["id"])


@pytest.mark.parametrize("method", ["exact", "score"])
def test_loco_leaves_out_the_whole_chromosome_however_its_variants_spell_it(cohort, tmp_path, method):
    folder, people, _, _, _ = cohort
    chrom = people.variants["chrom"].replace({"4": "X", "5": "MT"})
    mixed = [f"chr{name}" if j % 3 == 0 else {"X": "25", "MT": "26"}.get(name, name) for j, name in enumerate(chrom)]
    records = {}
    for name, spelt in {"plain": chrom, "mixed": mixed}.items():
        write_plink(Cohort(people.counts, people.samples, people.variants.assign(chrom=spelt)), tmp_path / name)
        flags = ("--pheno", folder / "pheno.txt", "--pheno-name", "height", "--model", "loco", "--method", method)
        assert run("--bfile", tmp_path / name, *flags, *PLOTS, "--out", tmp_path / f"{name}.o") == 0
        records[name] = record_of(tmp_path / f"{name}.o")
    tables = [table_of(tmp_path / f"{name}.o.gwas.tsv") for name in records]
    np.testing.assert_allclose(tables[1]["LOG10P"], tables[0]["LOG10P"], rtol=1e-9, equal_nan=True)
    plain, mixed = (record.get("h2_by_chromosome") for record in records.values())
    assert plain == mixed
    assert set(tables[1]["CHROM"]) == {"chr1", "chr2", "chr3", "chrX", "25", "chrMT"}


BAD = {
    "one chromosome": (("--model", "loco", "--chr", "1"), "--model loco: chromosome 1 is the only one there is"),
    "exact least squares": (("--method", "exact"), "--method exact: ols is exact"),
    "refit without loco": (("--model", "lmm", "--loco-refit"), "--loco-refit: only --model loco leaves"),
    "refinement of exact": (("--model", "loco", "--method", "exact", "--refine", 1), "--refine: only --method score"),
    "refinement of least squares": (("--refine-most", 5), "--refine-most: only mixed models use them"),
    "trait of the covariates": (
        ("--pheno", "{}/flat.txt", "--pheno-name", "all"),
        "phenotype older: does not vary once",
    ),
    "weights without K": (("--alpha", -0.5), "--alpha: only mixed models use them"),
    "missing keep": (("--keep", "{}/absent.txt"), "absent.txt"),
    "no such trait": (("--pheno-name", "shoe"), "shoe"),
    "output under a file": (("--out", "{}/pheno.txt/x"), "pheno.txt"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_code_two(cohort, tmp_path, capsys, case):
    folder = cohort[0]
    flags, message = BAD[case]
    assert command(folder, *(str(flag).format(folder) for flag in flags), out=tmp_path / "x") == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-reml-gwas: error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_a_plan_reads_no_genotype_and_help_names_the_flags_of_the_reference_system(cohort, tmp_path, capsys):
    assert command(cohort[0], "--plan", out=tmp_path / "x") == 0
    assert "1 component(s)" in capsys.readouterr().out and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="0"):
        main(["--help", "all"])
    text = capsys.readouterr().out
    reference = "--bed-prefix --pgen-prefix --pheno-txt --covar-txt --keep-path --keep-out --dropped-out --out-prefix"
    for flag in f"{reference} --device --call-width --ring-depth --cpu-threads --verbose".split():
        assert flag in text


@pytest.mark.external
def test_the_published_table_of_the_toy_cohort_is_reproduced(tmp_path):
    if not TOYDATA.is_dir():
        pytest.skip(f"no external data at {TOYDATA}; set GPU_REML_EXTERNAL_DATA")
    bed, tables = TOYDATA / "toydata.5chrom", ("--pheno", TOYDATA / "toydata.phe", "--qcovar", TOYDATA / "toydata.cov")
    assert run("--bfile", bed, *tables, "--out", tmp_path / "toy", "--model", "loco", "--method", "exact") == 0
    expected = pd.read_csv(TOYDATA / "expected_looc.txt.gz", sep="\t").set_index("SNP")
    table = pd.read_csv(tmp_path / "toy.gwas.tsv", sep="\t").set_index("ID").loc[expected.index]
    h2 = record_of(tmp_path / "toy")["h2_by_chromosome"]
    by_chromosome = expected.groupby("Chr")["Nullh2"].first()
    assert len(table) == 10_000
    for chrom, value in by_chromosome.items():
        assert abs(h2[str(int(chrom))] - value) <= 1e-6
    p = 10.0 ** -table["LOG10P"]
    assert (np.abs(p / expected["PValue"] - 1) <= 1e-5).all()
    with open_bed(f"{bed}.bed") as opened:  # theirs is per standardised genotype; every call is there
        sd = pd.Series(opened.read(dtype="float64").std(axis=0), index=opened.sid).loc[expected.index]
    assert (np.abs(np.abs(table["BETA"]) * sd - np.abs(expected["SnpWeight"])) <= 1e-6).all()
    assert (np.abs(table["SE"] * sd - expected["SnpWeightSE"]) <= 1e-6).all()


@pytest.mark.external
def test_bed_and_pgen_of_the_same_genotypes_give_the_same_statistics(tmp_path):
    folder = DATA / "regenie_example"
    if not folder.is_dir():
        pytest.skip(f"no external data at {folder}; set GPU_REML_EXTERNAL_DATA")
    tables = []
    for name, flag in {"bed": "--bed-prefix", "pgen": "--pgen-prefix"}.items():
        files = (
            flag,
            folder / "example",
            "--pheno-txt",
            folder / "phenotype.txt",
            "--covar-txt",
            folder / "covariates.txt",
        )
        assert run(*files, "--out-prefix", tmp_path / name) == 0
        tables.append(pd.read_csv(tmp_path / f"{name}.gwas.tsv", sep="\t"))
    flipped = np.where(tables[0]["a1"] == tables[1]["a1"], 1, -1)
    np.testing.assert_allclose(tables[0]["beta"], flipped * tables[1]["beta"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(tables[0]["LOG10P"], tables[1]["LOG10P"], rtol=1e-4, atol=1e-6)


def test_h2_is_of_all_chromosomes_where_none_is_left_out(cohort, tmp_path, capsys):
    for model in ("lmm", "loco"):
        assert command(cohort[0], "--model", model, "--method", "exact", out=tmp_path / model) == 0
        assert ("h2 without each chromosome" in capsys.readouterr().out) == (model == "loco")
