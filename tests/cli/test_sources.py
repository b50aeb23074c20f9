"""The command with every kind of genotype source, filter and component, against dense references."""

import gzip
import json
import re

import numpy as np
import pandas as pd
import pgenlib
import pytest

from gpu_reml import io
from gpu_reml.cli.main import main
from gpu_reml.ops.quality import hardy_weinberg
from gpu_reml.validation import dense, exact_reml, simulate_cohort, write_plink

N, M = 240, 600
CHROMOSOME_OF = np.repeat(["1", "2", "3"], M // 3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """The same cohort as PLINK 1 and PLINK 2 files, whole and in pieces by chromosome, with missing calls."""
    folder = tmp_path_factory.mktemp("cohort")
    people = simulate_cohort(N, M, 5)
    people.counts[np.random.default_rng(8).random((N, M)) < 0.02] = -127
    people.variants["chrom"], people.variants["bp"] = CHROMOSOME_OF, np.tile(np.arange(1, M // 3 + 1) * 1000, 3)
    write_plink(people, folder / "data")
    write_pgen(folder / "data")
    rng = np.random.default_rng(2)
    Z = dense.standardised(people.counts)
    y = 10 + 3 * (Z @ rng.standard_normal(M) / np.sqrt(M)) + 3 * rng.standard_normal(N)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(height=y).to_csv(folder / "pheno.txt", sep="\t", index=False)
    return folder, people.counts, y, people.variants["id"].to_numpy()


def write_pgen(prefix, keep=slice(None), to=None):
    """PLINK 2 files with the calls of a PLINK 1 fileset; ALT is the counted allele."""
    to = to or prefix
    bed = io.read_bed(prefix)
    counts = np.array([2, -9, 1, 0], np.int8)[(bed.packed[keep, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3]
    counts = np.ascontiguousarray(counts.reshape(len(counts), -1)[:, :N])
    with pgenlib.PgenWriter(f"{to}.pgen".encode(), N, variant_ct=len(counts), nonref_flags=False) as writer:
        writer.append_biallelic_batch(counts)
    table = bed.variants.iloc[keep]
    pvar = pd.DataFrame(
        {"#CHROM": table["chrom"], "POS": table["bp"], "ID": table["id"], "REF": table["a2"], "ALT": table["a1"]}
    )
    pvar.to_csv(f"{to}.pvar", sep="\t", index=False)
    psam = bed.samples.set_axis(["#FID", "IID"], axis=1) if bed.samples.shape[1] == 2 else bed.samples
    psam.to_csv(f"{to}.psam", sep="\t", index=False)


def run(cohort, *arguments, out="out", genotypes=True):
    folder = cohort[0]
    first = ["--bfile", folder / "data"] if genotypes else []
    command = [*first, "--pheno", folder / "pheno.txt", "--out", folder / out, "--method", "exact", "--quiet"]
    code = main([str(a) for a in [*command, "--device", "cpu", *arguments]])
    return code, (json.loads((folder / f"{out}.json").read_text()) if code == 0 else None)


def expected(cohort, sets, samples=slice(None), standardise=dense.standardised):
    """Dense REML of the components with these variants (or weights), intercept only."""
    Z = standardise(cohort[1][samples])
    Ks = []
    for chosen in sets:
        w = np.asarray(chosen, float)
        varies = (Z != 0).any(axis=0)
        Ks.append((Z * w) @ Z.T / w[varies].sum())
    y = cohort[2][samples]
    return exact_reml(y, np.ones((len(y), 1)), Ks)


def assert_fit(found, fit):
    variances = [component["theta"] for component in found["components"]]
    np.testing.assert_allclose(variances, fit.theta[:-1], rtol=2e-3, atol=2e-3 * fit.theta.sum())
    np.testing.assert_allclose(found["loglik"], fit.loglik, rtol=1e-6)


def by_chromosome():
    return [CHROMOSOME_OF == name for name in "123"]


def test_plink_1_and_plink_2_files_give_the_same_numbers_to_the_last_digit(cohort):
    folder = cohort[0]
    _, bed = run(cohort, out="bed")
    for flag in ("--pfile", "--pgen-prefix"):
        code, pgen = run(cohort, flag, folder / "data", out="pgen", genotypes=False)
        assert code == 0
        assert pgen["components"] == bed["components"] and pgen["loglik"] == bed["loglik"]
    assert_fit(bed, expected(cohort, [np.ones(M)]))


def test_several_prefixes_are_components_and_a_list_of_them_one_genome(cohort):
    folder = cohort[0]
    for k in range(3):
        write_pgen(folder / "data", slice(200 * k, 200 * k + 200), folder / f"chr{k + 1}")
    prefixes = [str(folder / f"chr{k}") for k in (1, 2, 3)]
    _, several = run(cohort, "--pgen-prefix", ",".join(prefixes), genotypes=False)
    assert_fit(several, expected(cohort, by_chromosome()))
    _, hybrid = run(cohort, "--pfile", prefixes[0], "--rare-pgen-prefix", ",".join(prefixes[1:]), genotypes=False)
    assert hybrid["components"] == several["components"]
    (folder / "list.txt").write_text("# pieces\n" + "\n".join(prefixes) + "\n")
    _, genome = run(cohort, "--pfile-list", folder / "list.txt", genotypes=False)
    _, whole = run(cohort)
    assert [component["name"] for component in genome["components"]] == ["genome"]
    np.testing.assert_allclose(genome["components"][0]["variance"], whole["components"][0]["variance"], rtol=1e-6)


def test_filters_leave_what_plink_would_and_are_counted(cohort):
    folder, counts, _, ids = cohort
    (folder / "extract.txt").write_text("\n".join(ids[: M - 50]) + "\n")
    (folder / "exclude.txt").write_text("\n".join(ids[:20]) + "\n")
    flags = ["--extract", folder / "extract.txt", "--exclude", folder / "exclude.txt", "--chr", "1,3"]
    flags += ["--mind", "0.03", "--geno", "0.025", "--maf", "0.05", "--hwe", "1e-4"]
    code, found = run(cohort, *flags)
    assert code == 0
    listed = (np.arange(M) >= 20) & (np.arange(M) < M - 50) & (CHROMOSOME_OF != "2")
    missing = counts == -127
    samples = missing[:, listed].mean(axis=1) <= 0.03
    assert 0 < (~samples).sum() < N
    left = counts[samples]
    kept = listed & (missing[samples].mean(axis=0) <= 0.025)
    called = np.where(left == -127, np.nan, left)
    p = np.nanmean(called, axis=0) / 2
    codes = np.stack([(left == 2).sum(0), (left == -127).sum(0), (left == 1).sum(0), (left == 0).sum(0)], axis=1)
    kept &= (hardy_weinberg(codes) >= 1e-4) & (np.minimum(p, 1 - p) >= 0.05)
    assert found["num_variants"] == kept.sum()
    assert found["samples"]["analysed"] == samples.sum()
    assert sum(entry["removed"] for entry in found["filters"] if "--mind" not in entry["filter"]) == M - kept.sum()
    assert_fit(found, expected(cohort, [kept], samples))


@pytest.mark.parametrize("kind", ["chromosomes", "blocks", "lists", "table", "annot", "spec", "intervals"])
def test_components_of_every_kind_are_the_dense_ones(cohort, kind):
    folder, _, _, ids = cohort
    sets, flags = by_chromosome(), []
    if kind == "chromosomes":
        flags = ["--by-chromosome"]
    elif kind == "blocks":
        flags = ["--vc-block-sizes", "200,200,200"]
    elif kind == "lists":
        for k, chosen in enumerate(sets):
            (folder / f"set{k}.txt").write_text("\n".join(ids[chosen]) + "\n")
        flags = ["--snp-lists", *(folder / f"set{k}.txt" for k in range(3))]
    elif kind == "table":
        rng = np.random.default_rng(1)
        weights = rng.random(M) + 0.5
        rows = [f"{v}\tset{c}\t{float(w)!r}" for v, c, w in zip(ids, CHROMOSOME_OF, weights, strict=True)]
        (folder / "table.tsv").write_text("\n".join(rows) + "\n")
        flags, sets = ["--component-table", folder / "table.tsv"], [chosen * weights for chosen in sets]
    elif kind == "annot":
        rng = np.random.default_rng(3)
        values = np.column_stack([np.ones(M), rng.integers(0, 2, M), rng.random(M).round(4)])
        table = pd.DataFrame(values, columns=["base", "binary", "score"])
        head = pd.DataFrame({"CHR": CHROMOSOME_OF, "BP": np.tile(np.arange(1, 201) * 1000, 3), "SNP": ids, "CM": 0})
        with gzip.open(folder / "data.annot.gz", "wt") as file:
            pd.concat([head, table], axis=1).to_csv(file, sep="\t", index=False)
        flags, sets = ["--annot", folder / "data.annot.gz"], list(values.T)
    elif kind == "spec":
        spec = [{"name": str(k), "variant_indices": np.flatnonzero(chosen).tolist()} for k, chosen in enumerate(sets)]
        (folder / "spec.json").write_text(json.dumps(spec))
        flags = ["--component-spec", folder / "spec.json"]
    else:
        lines = [f"chr{c}\t0\t200000\tset{c}" for c in "123"]
        (folder / "sets.bed").write_text("\n".join(lines) + "\n")
        flags = ["--intervals", folder / "sets.bed"]
    code, found = run(cohort, *flags)
    assert code == 0
    assert_fit(found, expected(cohort, sets))
    assert len(found["enrichment"]) == len(sets)
    enriched = pd.read_csv(folder / "out.enrichment.tsv", sep="\t", dtype={"annotation": str})
    assert enriched["annotation"].tolist() == [component["name"] for component in found["components"]]


def test_bins_of_frequency_and_ld_are_components_in_one_command(cohort):
    code, found = run(cohort, "--maf-bins", "0.1,0.25", "--ld-bins", "2")
    assert code == 0
    names = [component["name"] for component in found["components"]]
    assert len(names) == 6 and names[0].startswith("maf_0_0.1.ld_")
    assert sum(component["num_variants"] for component in found["components"]) == found["num_variants"]


def test_uncovered_variants_are_dropped_or_form_a_background(cohort):
    folder, _, _, ids = cohort
    (folder / "some.txt").write_text("\n".join(ids[:150]) + "\n")
    some = np.arange(M) < 150
    _, dropped = run(cohort, "--snp-lists", folder / "some.txt")
    assert_fit(dropped, expected(cohort, [some]))
    assert any("left out" in note for note in dropped["notes"])
    _, both = run(cohort, "--snp-lists", folder / "some.txt", "--uncovered", "background")
    assert [component["name"] for component in both["components"]] == ["some", "background"]
    assert_fit(both, expected(cohort, [some, ~some]))


def test_the_alpha_model_and_binomial_scaling_are_the_dense_ones(cohort):
    def binomial(counts):
        called = np.where(counts == -127, np.nan, counts.astype(float))
        p = np.nanmean(called, axis=0) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num((called - 2 * p) / np.sqrt(2 * p * (1 - p)))

    called = np.where(cohort[1] == -127, np.nan, cohort[1].astype(float))
    p = np.nanmean(called, axis=0) / 2
    weights = (2 * p * (1 - p)) ** 0.75
    _, found = run(cohort, "--alpha", "-0.25", "--standardize", "binomial")
    assert_fit(found, expected(cohort, [weights], standardise=binomial))
    assert "binomial" in found["standardisation"]


def test_a_cache_gives_the_same_numbers_the_second_time(cohort, monkeypatch):
    folder = cohort[0]
    flags = ["--pfile", folder / "data", "--cache", folder / "cache"]
    _, first = run(cohort, *flags, genotypes=False)
    monkeypatch.setattr("gpu_reml.io.pgen.PgenFile.read_packed", lambda *_, **__: pytest.fail("read again"))
    _, second = run(cohort, *flags, genotypes=False)
    assert second["components"] == first["components"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vc-block-sizes", "10,20"], r"add up to the 600 variants, found 10,20 \(30\)"),
        (["--mbfile", "absent.txt"], "list of prefixes not found: absent.txt"),
        (["--chr", "9"], "no variant"),
    ],
)
def test_what_cannot_be_is_one_line(cohort, capsys, flags, message):
    code, _ = run(cohort, *flags, genotypes=flags[0] != "--mbfile")
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1
    assert re.search(message, error), error


def test_enrichments_of_a_stochastic_fit_are_within_their_monte_carlo_errors_of_the_dense_ones(cohort):
    folder, _, _, ids = cohort
    rng = np.random.default_rng(12)
    values = np.column_stack([np.ones(M), rng.integers(0, 2, (M, 2)), rng.gamma(2, 0.5, (M, 2)).round(3)])
    table = pd.DataFrame(values, columns=["base", "b1", "b2", "c1", "c2"])
    head = pd.DataFrame({"CHR": CHROMOSOME_OF, "BP": np.tile(np.arange(1, 201) * 1000, 3), "SNP": ids, "CM": 0})
    pd.concat([head, table], axis=1).to_csv(folder / "five.annot", sep="\t", index=False)
    flags = ["--annot", folder / "five.annot"]
    _, dense_fit = run(cohort, *flags)
    code, found = run(cohort, *flags, "--method", "stochastic", "--mc-target", "0.05")
    assert code == 0
    for one, other in zip(found["enrichment"], dense_fit["enrichment"], strict=True):
        for quantity in ("h2", "share", "enrichment"):
            allowed = 4 * one[f"{quantity}_mc_se"] + 0.02 * other[f"{quantity}_se"] + 1e-6
            assert abs(one[quantity] - other[quantity]) <= allowed, (one["annotation"], quantity)


def test_make_grm_writes_what_gcta_reads_and_stops(cohort):
    folder, counts, _, _ = cohort
    arguments = ["--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--by-chromosome", "--make-grm"]
    assert main([str(a) for a in [*arguments, "--device", "cpu", "--out", folder / "grm"]]) == 0
    Z = dense.standardised(counts)
    for name in "123":
        read = io.read_grm(folder / f"grm.chr{name}")
        chosen = CHROMOSOME_OF == name
        K = Z[:, chosen] @ Z[:, chosen].T / (Z[:, chosen] != 0).any(axis=0).sum()
        np.testing.assert_allclose(read.matrix(), K, atol=1e-5)
        assert read.samples["iid"].tolist() == io.read_bed(folder / "data").samples["iid"].tolist()
    assert not (folder / "grm.json").exists()


def test_a_fit_of_dosages_is_the_dense_one_of_the_same_dosages(cohort):
    folder, counts, y, _ = cohort
    rng = np.random.default_rng(4)
    shift = rng.uniform(-0.4, 0.4, (M, N)).round(3)
    dosages = np.clip(np.where(counts.T == -127, 1, counts.T) + shift, 0, 2).astype(np.float32)
    dosages[counts.T == -127] = -9
    with pgenlib.PgenWriter(
        f"{folder}/dosage.pgen".encode(), N, variant_ct=M, nonref_flags=False, dosage_present=True
    ) as writer:
        writer.append_dosages_batch(dosages)
    for suffix in ("pvar", "psam"):
        (folder / f"dosage.{suffix}").write_text((folder / f"data.{suffix}").read_text())
    code, found = run(cohort, "--pfile", folder / "dosage", "--dosage", "--by-chromosome", genotypes=False)
    assert code == 0
    D = np.where(dosages == -9, np.nan, np.round(dosages.astype(float) * 2**14) / 2**14).T
    Z = np.nan_to_num((D - np.nanmean(D, axis=0)) / np.nanstd(D, axis=0))
    Ks = [Z[:, chosen] @ Z[:, chosen].T / chosen.sum() for chosen in by_chromosome()]
    assert_fit(found, exact_reml(y, np.ones((N, 1)), Ks))
    _, calls = run(cohort, "--pfile", folder / "dosage", "--by-chromosome", genotypes=False, out="calls")
    assert abs(calls["loglik"] - found["loglik"]) > 1e-3  # calls are other genotypes
