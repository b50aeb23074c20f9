"""Filters: PLINK 2 selects the same variants and samples, alone and combined; exact p-values; errors with remedies."""

import gzip
import math
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bed_reader import to_bed
from hypothesis import given, settings
from hypothesis import strategies as st
from pgenlib import PgenWriter

from gpu_reml.io import InputError, read_bed, read_pgen, rows
from gpu_reml.io.filters import (
    GenotypeFilters,
    VariantFilters,
    count_calls,
    count_missing,
    dosage_freq,
    parse_chromosomes,
    read_variant_ids,
    select_by_genotype,
    select_samples,
    select_variants,
)
from gpu_reml.ops import MISSING, pack
from gpu_reml.ops.packing import count_codes
from gpu_reml.ops.quality import hardy_weinberg, missing_per_sample

CHROMOSOMES = ["1", "2", "3", "11", "22", "X", "Y", "XY", "MT", "contig7", "0"]


@pytest.fixture
def variants():
    """Four variants on each of CHROMOSOMES, at 100, 200, 300 and 400 bp; rs0 to rs43."""
    chrom = np.repeat(CHROMOSOMES, 4)
    return pd.DataFrame(
        {"chrom": chrom, "id": [f"rs{j}" for j in range(len(chrom))], "bp": np.tile([100, 200, 300, 400], 11)}
    )


def codes(two, missing, one, none):
    """One row of counts by two-bit code."""
    return np.array([[two, missing, one, none]])


# ---- Hardy-Weinberg ----


def enumerated(hom1, hets, hom2):
    """The exact test in whole numbers: the multinomial weight of every heterozygote count, ties included."""
    n, copies = hom1 + hets + hom2, 2 * hom1 + hets
    weight = {}
    for h in range(copies % 2, min(copies, 2 * n - copies) + 1, 2):
        a = (copies - h) // 2
        ways = math.factorial(n) // (math.factorial(a) * math.factorial(h) * math.factorial(n - a - h))
        weight[h] = ways << h
    return float(Fraction(sum(w for w in weight.values() if w <= weight[hets]), sum(weight.values())))


def test_hardy_weinberg_is_the_enumeration_of_every_small_table():
    tables = [(a, h, n - a - h) for n in range(13) for a in range(n + 1) for h in range(n - a + 1)]
    p = hardy_weinberg(np.array([[a, 5, h, b] for a, h, b in tables]))
    np.testing.assert_allclose(p, [enumerated(*table) for table in tables], rtol=1e-13)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
def test_hardy_weinberg_is_the_enumeration_of_larger_tables(hom1, hets, hom2):
    np.testing.assert_allclose(hardy_weinberg(codes(hom1, 0, hets, hom2)), enumerated(hom1, hets, hom2), rtol=1e-12)


def test_hardy_weinberg_of_half_a_million_samples_is_the_normal_limit_and_zero_far_out():
    counts = np.array([[125_000, 0, 250_000, 125_000], [125_250, 0, 249_500, 125_250], [250_000, 0, 0, 250_000]])
    p = hardy_weinberg(counts)
    # the mode has p = 1; 500 heterozygotes off it are sqrt(2) standard errors (chi2 = 4 * 250^2 * 4 / n = 2)
    assert p[0] == 1.0
    assert abs(p[1] - math.erfc(1.0)) < 1e-3
    assert p[2] == 0.0


# ---- missing calls of every sample ----


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 21), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_missing_per_sample_counts_missing_calls_and_blocks_add_up(n, m, seed):
    counts = np.random.default_rng(seed).choice(np.array([0, 1, 2, MISSING], np.int8), (n, m))
    packed = pack(counts)
    packed[:, -1] |= np.uint8(0b01010101 << 2 * (n % 4 or 4) & 0xFF)  # what is past the last sample does not count
    expected = (counts == MISSING).sum(axis=1)
    np.testing.assert_array_equal(missing_per_sample(packed, n), expected)
    cut = m // 2
    blocks = missing_per_sample(packed[:cut], n) + missing_per_sample(packed[cut:], n)
    np.testing.assert_array_equal(blocks, expected)


def test_mind_keeps_a_sample_at_the_limit():
    selection = select_samples(np.array([0, 7, 8]), 70, 0.1)
    assert selection.mask.tolist() == [True, True, False]
    assert selection.counts == (("`mind` 0.1", 1),)


def test_mind_says_so_when_nobody_is_left():
    with pytest.raises(InputError, match=r"no samples are left: `mind` 0.1 removed 2; loosen"):
        select_samples(np.array([8, 9]), 10, 0.1)


# ---- by metadata ----


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1-4,22,X", {"1", "2", "3", "4", "22", "X"}),
        ("chr1, chr3-chr4", {"1", "3", "4"}),
        ("23 24", {"X", "Y"}),
        ("25,26", {"XY", "MT"}),
        ("22-24", {"22", "X", "Y"}),
        ("x,chrM,par1", {"X", "MT", "PAR1"}),
        ("contig7", {"contig7"}),
        ("HLA-A", {"HLA-A"}),
        ("0", {"0"}),
        ("1,,2", {"1", "2"}),
    ],
)
def test_chromosomes_are_read_as_plink_reads_them(text, wanted):
    assert parse_chromosomes(text, ["1", "contig7", "HLA-A"]) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Z", r"'Z' is neither a human chromosome nor one of the variants'; they are on 1, X"),
        ("1-X", r"'1-X' is not a range; give two numbers"),
        ("3-1", r"'3-1' is not a range"),
        ("4-4", r"'4-4' is not a range"),
        ("1-27", r"'1-27' is not a range"),
        (" , ", r"name at least one"),
    ],
)
def test_a_chromosome_that_cannot_be_is_an_error(text, message):
    with pytest.raises(InputError, match=message):
        parse_chromosomes(text, ["chr1", "23"])


def test_one_chromosome_of_several_spellings_is_one():
    table = pd.DataFrame({"chrom": ["1", "chr1", "01", "PAR1", "25", "X"], "id": list("abcdef"), "bp": 5})
    wanted = {"1": "abc", "chr1": "abc", "XY": "e", "PAR1": "d", "23": "f"}
    for text, ids in wanted.items():
        assert "".join(table["id"][select_variants(table, VariantFilters(chrom=text)).mask]) == ids


def test_numbers_above_26_are_chromosomes_where_there_are_such():
    cattle = pd.DataFrame({"chrom": ["22", "23", "25", "29"], "id": list("abcd"), "bp": 5})
    for text, ids in {"23": "b", "23-29": "bcd", "25,29": "cd"}.items():
        assert "".join(cattle["id"][select_variants(cattle, VariantFilters(chrom=text)).mask]) == ids


def test_each_filter_is_charged_with_what_it_removes_of_those_left(variants, write):
    extract, exclude = write("in.txt", "rs1 rs2\nrs3\nrs9\n"), write("out.txt", "rs2\nrs40\n")
    filters = VariantFilters(extract=[extract], exclude=[exclude], chrom="1-3", from_bp=None)
    selection = select_variants(variants, filters)
    assert variants["id"][selection.mask].tolist() == ["rs1", "rs3", "rs9"]
    assert selection.counts == (("`chrom` 1-3", 32), (f"`extract` {extract}", 8), (f"`exclude` {exclude}", 1))
    assert selection.notes == ()


def test_a_list_of_no_variant_shows_an_id_of_each_side_and_a_chromosome_without_variants_is_named(variants, write):
    path = write("out.txt", "rs1,rs2\n")
    notes = select_variants(variants, VariantFilters(exclude=[path], chrom="1-4,PAR1,X")).notes
    assert notes[0] == "`chrom` 1-4,PAR1,X: no variant is on PAR1"
    assert notes[1].startswith(
        f"`exclude` {path}: 1 of 1 ids are of no variant (rs1,rs2, the variants have rs0, rs1, rs2, ...); separate ids "
    )


def test_no_filter_keeps_everything(variants):
    selection = select_variants(variants, VariantFilters())
    assert selection.mask.all()
    assert selection.counts == ()
    assert select_by_genotype(np.zeros((3, 4), int), GenotypeFilters()).mask.all()


def test_variants_of_sex_chromosomes_are_noted_where_they_stay(variants):
    linked = variants["chrom"].isin(["X", "Y", "MT"]).sum()
    note = f"{linked} variants of X, Y or MT analysed like autosomal ones; `autosome` leaves them out"
    assert select_variants(variants, VariantFilters()).notes == (note,)
    coded = variants.assign(chrom=variants["chrom"].replace({"X": "23", "Y": "chrY", "MT": "M"}))
    assert select_variants(coded, VariantFilters()).notes == (note,)
    assert select_variants(variants, VariantFilters(autosome=True)).notes == ()


def test_chromosome_names_of_the_variants_are_read_like_those_asked_for(variants):
    renamed = variants.assign(chrom=variants["chrom"].replace({"1": "chr1", "X": "23", "MT": "chrM"}))
    for filters in (VariantFilters(chrom="1,X,26"), VariantFilters(autosome=True)):
        expected = select_variants(variants, filters).mask
        np.testing.assert_array_equal(select_variants(renamed, filters).mask, expected)
    assert expected.sum() == 20


def test_listed_ids_of_no_variant_and_of_several_are_stated(variants, write):
    variants = variants.assign(id=variants["id"].replace({"rs5": "rs1"}))
    path = write("ids.txt", "rs1\nrs1\nother1\nother2\n")
    selection = select_variants(variants, VariantFilters(extract=[path]))
    assert np.flatnonzero(selection.mask).tolist() == [1, 5]
    assert selection.notes == (
        f"`extract` {path}: 2 of 3 ids are of no variant (other1, other2)",
        f"`extract` {path}: 1 ids are of several variants, 2 in all (rs1)",
    )


def test_several_id_files_are_one_list_and_may_be_compressed(write):
    packed = write("b.txt.gz", gzip.compress(b"rs2 rs3\r\nrs1\n"))
    assert read_variant_ids([write("a.txt", "rs1\n\n rs1\t\n"), packed], "`extract`").tolist() == ["rs1", "rs2", "rs3"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.txt", None, r"`extract` file not found: .*absent.txt; check the path"),
        ("empty.txt", "\n \n", r"empty.txt: the `extract` file is empty; expected one variant id a line"),
        ("latin.txt", b"rs\xe9\n", r"latin.txt: the `extract` file is not UTF-8 text"),
        ("cut.txt.gz", b"no gzip", r"cut.txt.gz: the `extract` file cannot be read"),
    ],
)
def test_an_id_file_that_cannot_be_read_is_named(tmp_path, write, name, text, message):
    path = tmp_path / name if text is None else write(name, text)
    with pytest.raises(InputError, match=message):
        read_variant_ids([path], "`extract`")


def test_no_variant_left_says_what_each_filter_removed(variants, write):
    path = write("ids.txt", "snp1\nrs40\n")
    with pytest.raises(
        InputError, match=r"no variants are left: `chrom` 1 removed 40; `extract` .* removed 4; `extract`"
    ):
        select_variants(variants, VariantFilters(chrom="1", extract=[path]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chrom": "1", "autosome": True}, r"`chrom` cannot be used with `autosome`"),
        ({"from_bp": 5}, r"name it by `chrom`"),
        ({"autosome": True, "to_bp": 5}, r"name it by `chrom`"),
        ({"chrom": "1", "from_bp": 10, "to_bp": 5}, r"`to_bp` 5 is before `from_bp` 10"),
    ],
)
def test_filters_by_metadata_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        VariantFilters(**settings)


def test_a_variant_at_no_position_is_in_no_range(variants):
    variants = variants.assign(bp=variants["bp"].replace({100: -9}))
    for filters in (VariantFilters(chrom="2", to_bp=200), VariantFilters(chrom="2", from_bp=-10, to_bp=200)):
        assert variants["bp"][select_variants(variants, filters).mask].tolist() == [200]
    assert select_variants(variants, VariantFilters(chrom="2", from_bp=-10)).mask.sum() == 3
    assert select_variants(variants, VariantFilters(chrom="2")).mask.sum() == 4


@pytest.mark.parametrize("chrom", ["1,2", "1-3"])
def test_a_range_needs_exactly_one_chromosome(variants, chrom):
    with pytest.raises(InputError, match=rf"exactly one chromosome; `chrom` {chrom} is several"):
        select_variants(variants, VariantFilters(chrom=chrom, from_bp=1))


# ---- by genotypes ----


def test_limits_themselves_are_kept():
    # 10 samples, 1 missing: rate 0.1; 9 called with 9 copies of 18: frequency 0.5; then 3 of 18
    counts = np.concatenate([codes(0, 1, 9, 0), codes(0, 1, 3, 6), codes(0, 2, 3, 5)])
    assert select_by_genotype(counts, GenotypeFilters(geno=0.1)).mask.tolist() == [True, True, False]
    assert select_by_genotype(counts, GenotypeFilters(maf=3 / 18)).mask.tolist() == [True, True, True]
    assert select_by_genotype(counts, GenotypeFilters(max_maf=3 / 18)).mask.tolist() == [False, True, False]
    assert select_by_genotype(counts, GenotypeFilters(maf=0.5)).mask.tolist() == [True, False, False]
    p = enumerated(0, 9, 0)
    assert select_by_genotype(counts, GenotypeFilters(hwe=p)).mask.tolist() == [True, True, True]
    assert select_by_genotype(counts, GenotypeFilters(hwe=p * 1.0001)).mask.tolist() == [False, True, True]


def test_genotype_filters_are_counted_in_plinks_order():
    counts = np.concatenate([codes(0, 60, 40, 0), codes(0, 0, 100, 0), codes(0, 0, 1, 99), codes(9, 0, 42, 49)])
    selection = select_by_genotype(counts, GenotypeFilters(geno=0.5, hwe=1e-6, maf=0.05, max_maf=0.5))
    assert selection.mask.tolist() == [False, False, False, True]
    assert selection.counts == (("`geno` 0.5", 1), ("`hwe` 1e-06", 1), ("`maf` 0.05", 1), ("`max_maf` 0.5", 0))


def test_hardy_weinberg_is_not_tested_on_x_y_and_mt():
    counts = np.repeat(codes(50, 0, 0, 50), 6, axis=0)
    chrom = ["1", "23", "chrY", "MT", "XY", "contig7"]
    selection = select_by_genotype(counts, GenotypeFilters(hwe=1e-4), chrom)
    assert selection.mask.tolist() == [False, True, True, True, False, False]
    assert selection.notes == ("`hwe`: 3 variants of X, Y or MT were not tested",)


def test_frequencies_of_dosages_take_the_place_of_those_of_calls():
    counts = np.repeat(codes(0, 0, 10, 90), 2, axis=0)
    selection = select_by_genotype(counts, GenotypeFilters(maf=0.04), freq=np.array([0.97, 0.95]))
    assert selection.mask.tolist() == [False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"maf": 5}, r"`maf` 5: expected a number from 0 to 1"),
        ({"hwe": -1e-6}, r"`hwe` -1e-06: expected"),
        ({"geno": float("nan")}, r"`geno` nan: expected"),
        ({"max_maf": 1.5}, r"`max_maf` 1.5: expected"),
        ({"maf": 0.2, "max_maf": 0.1}, r"`max_maf` 0.1 is below `maf` 0.2"),
    ],
)
def test_limits_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        GenotypeFilters(**settings)


# ---- genotype files ----


@pytest.mark.parametrize("block_bytes", [1, 40, 1 << 25])
def test_calls_and_dosages_are_counted_a_block_at_a_time(make_fileset, random_counts, monkeypatch, block_bytes):
    monkeypatch.setattr(rows, "BLOCK_BYTES", block_bytes)
    counts = random_counts(23, 31)
    counts[:, 4] = MISSING
    bed = read_bed(make_fileset(counts))
    variants = np.r_[0:5, 9, 12:31]
    for samples in (None, np.array([7, 0, 3, 21, 4])):
        part = counts[:, variants] if samples is None else counts[np.ix_(samples, variants)]
        by_code = np.stack([(part == value).sum(axis=0) for value in (2, MISSING, 1, 0)], axis=1)
        np.testing.assert_array_equal(count_calls(bed, samples, variants), by_code)
        np.testing.assert_array_equal(count_missing(bed, samples, variants), (part == MISSING).sum(axis=1))
        called = np.where(part == MISSING, np.nan, part)
        expected = [np.nanmean(x) / 2 if np.isfinite(x).any() else 0.5 for x in called.T]
        np.testing.assert_allclose(dosage_freq(bed, samples, variants), expected, rtol=1e-14)


# ---- PLINK 2 ----

METADATA = [
    {"chrom": "1-3"},
    {"chrom": "chr2,22,X"},
    {"chrom": "23-26"},
    {"chrom": "contig7 0"},
    {"autosome": True},
    {"chrom": "2", "from_bp": 200.5},
    {"chrom": "2", "from_bp": 500, "to_bp": 2000},
    {"extract": ["a.txt", "b.txt"]},
    {"exclude": ["a.txt"]},
    {"extract": ["a.txt"], "exclude": ["b.txt"], "autosome": True},
]
GENOTYPES = [
    {"maf": 0.05},
    {"max_maf": 0.2},
    {"geno": 0.1},
    {"hwe": 1e-3},
    {"hwe": 0.2},
    {"maf": 0.01, "max_maf": 0.4, "geno": 0.15, "hwe": 1e-4},
]


def flags(settings):
    """Keyword arguments of a filter as PLINK's command line."""
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [] if value is True else str(value).split()
        words += ["--chr" if name == "chrom" else f"--{name.replace('_', '-')}", *map(str, values)]
    return words


@pytest.fixture(scope="session")
def plink2():
    """plink2(prefix, folder, flags, source="--bfile") -> (variant ids, IIDs) it selects; skipped where it is absent."""
    program = shutil.which("plink2")
    if program is None:
        pytest.skip("no plink2 on the path")

    def select(prefix, folder, words, source="--bfile"):
        out = folder / "plink"
        command = [program, source, prefix, "--allow-extra-chr", "--nonfounders", *words]
        command += ["--write-snplist", "allow-dups", "--make-just-fam", "--threads", "1", "--out", out]
        done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        iids = [line.split()[1] for line in (folder / "plink.fam").read_text().splitlines()]
        return (folder / "plink.snplist").read_text().split(), iids

    return select


@pytest.fixture
def cohort(tmp_path):
    """make(chromosomes) -> prefix: 203 samples, a third of them children; 40 variants on each chromosome, with common
    and rare alleles, uneven missing calls, inbreeding, some never called, some that do not vary, and shared ids."""

    def make(chromosomes, seed=0):
        rng = np.random.default_rng(seed)
        n, m = 203, 40 * len(chromosomes)
        freq, inbreeding = rng.choice([0.0, 0.005, 0.05, 0.2, 0.5, 0.8], m), rng.choice([0.0, 0.1, 0.6], m)
        first = rng.random((n, m)) < freq
        same = rng.random((n, m)) < inbreeding
        counts = first + np.where(same, first, rng.random((n, m)) < freq)
        missing = rng.random((n, m)) < rng.choice([0.0, 0.05, 0.1, 0.2], m) * rng.uniform(0, 2, n)[:, None]
        counts = np.where(missing, MISSING, counts).astype(np.int8)
        counts[:, ::37] = MISSING
        iids = [f"s{i}" for i in range(n)]
        properties = {
            "fid": [f"F{i}" for i in range(n)],
            "iid": iids,
            "father": ["p1" if i % 3 == 0 else "0" for i in range(n)],
            "mother": ["p2" if i % 3 == 0 else "0" for i in range(n)],
            "sex": [1 + i % 2 for i in range(n)],
            "chromosome": np.repeat(chromosomes, 40),
            "sid": [f"rs{j - j % 50 // 49}" for j in range(m)],
            "bp_position": np.tile(100 * np.arange(40), len(chromosomes)),
            "allele_1": ["A"] * m,
            "allele_2": ["C"] * m,
        }
        prefix = tmp_path / "cohort"
        to_bed(f"{prefix}.bed", counts, properties=properties)
        return prefix

    return make


def selected(bed, keep=None, metadata=None, mind=None, genotypes=None):
    """Ids and IIDs that a command selects with the functions under test, in PLINK's order of operations."""
    by_metadata = select_variants(bed.variants, VariantFilters(**(metadata or {})))
    taken = np.flatnonzero(by_metadata.mask)
    samples = np.arange(bed.num_samples) if keep is None else keep
    if mind is not None:
        samples = samples[select_samples(count_missing(bed, samples, taken), len(taken), mind).mask]
    counts, chrom = count_calls(bed, samples, taken), bed.variants["chrom"].iloc[taken]
    taken = taken[select_by_genotype(counts, GenotypeFilters(**(genotypes or {})), chrom).mask]
    return bed.variants["id"].iloc[taken].tolist(), bed.samples["iid"].iloc[samples].tolist()


@pytest.mark.parametrize("metadata", METADATA, ids=lambda settings: " ".join(flags(settings)))
def test_plink2_selects_the_same_variants_by_metadata(plink2, cohort, write, tmp_path, metadata, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.txt", "\n".join(f"rs{j}" for j in range(0, 440, 3)) + "\nnobody\n")
    write("b.txt", "rs1 rs2 rs48\nrs399\nrs398\trs9\n\n")
    prefix = cohort(CHROMOSOMES)
    ids, _ = plink2(prefix, tmp_path, flags(metadata))
    found, _ = selected(read_bed(prefix), metadata=metadata)
    assert found == ids
    assert 0 < len(ids) < 440


@pytest.mark.parametrize("genotypes", GENOTYPES, ids=lambda settings: " ".join(flags(settings)))
def test_plink2_selects_the_same_variants_by_genotype(plink2, cohort, tmp_path, genotypes):
    prefix = cohort(["1", "2", "9", "22", "contig7", "0"])
    ids, _ = plink2(prefix, tmp_path, flags(genotypes))
    found, _ = selected(read_bed(prefix), genotypes=genotypes)
    assert found == ids
    assert 0 < len(ids) < 240


@pytest.mark.parametrize("mind", [0.05, 0.1, 0.13])
def test_plink2_selects_the_same_samples(plink2, cohort, tmp_path, mind):
    prefix = cohort(["1", "2", "9", "22"])
    _, iids = plink2(prefix, tmp_path, flags({"mind": mind}))
    _, found = selected(read_bed(prefix), mind=mind)
    assert found == iids
    assert 0 < len(iids) < 203


@pytest.mark.parametrize("seed", range(4))
def test_plink2_applies_all_filters_in_the_same_order(plink2, cohort, write, tmp_path, seed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prefix = cohort(["1", "2", "9", "22"], seed)
    write("out.txt", "\n".join(f"rs{j}" for j in range(0, 160, 7)))
    keep = np.sort(np.random.default_rng(seed).choice(203, 150, replace=False))
    write("keep.txt", "".join(f"F{i}\ts{i}\n" for i in keep))
    metadata, genotypes = {"chrom": "1-9", "exclude": ["out.txt"]}, {"geno": 0.06, "hwe": 1e-2, "maf": 0.04}
    words = flags({**metadata, "mind": 0.09, **genotypes, "keep": "keep.txt"})
    ids, iids = plink2(prefix, tmp_path, words)
    assert selected(read_bed(prefix), keep, metadata, 0.09, genotypes) == (ids, iids)
    assert 0 < len(ids) < 120
    assert 0 < len(iids) < 150


@pytest.mark.parametrize("limits", [{"maf": 0.1}, {"max_maf": 0.3}, {"maf": 0.1, "geno": 0.4, "hwe": 0.05}], ids=str)
def test_plink2_selects_the_same_variants_of_a_cohort_with_dosages(plink2, tmp_path, limits):
    rng = np.random.default_rng(5)
    n, m = 101, 400
    dosages = np.clip(rng.binomial(2, rng.uniform(0, 1, m), (n, m)) + rng.uniform(-0.15, 0.15, (n, m)), 0, 2)
    dosages = dosages.round(2).astype(np.float32)  # some are too far from a whole number to be a call
    dosages[rng.random((n, m)) < 0.1] = -9
    prefix = tmp_path / "dosages"
    with PgenWriter(f"{prefix}.pgen".encode(), n, m, nonref_flags=False, dosage_present=True) as writer:
        writer.append_dosages_batch(np.ascontiguousarray(dosages.T))
    ids = "".join(f"1\t{j + 1}\trs{j}\tA\tC\n" for j in range(m))
    Path(f"{prefix}.pvar").write_text("#CHROM\tPOS\tID\tREF\tALT\n" + ids)
    Path(f"{prefix}.psam").write_text("#FID\tIID\tSEX\n" + "".join(f"F\ts{i}\tNA\n" for i in range(n)))
    pgen, everything = read_pgen(prefix), np.arange(m)
    counts, freq = count_calls(pgen, None, everything), dosage_freq(pgen, None, everything)
    selection = select_by_genotype(counts, GenotypeFilters(**limits), pgen.variants["chrom"], freq)
    expected, _ = plink2(prefix, tmp_path, flags(limits), "--pfile")
    assert pgen.variants["id"][selection.mask].tolist() == expected
    assert expected != pgen.variants["id"][select_by_genotype(counts, GenotypeFilters(**limits)).mask].tolist()


@pytest.fixture
def mice(external_data):
    """The mice without the variants at position -9, which PLINK ignores."""
    bed = read_bed(external_data / "mouse_hs1940" / "mouse_hs1940")
    placed = np.flatnonzero(bed.variants["bp"] >= 0)
    return replace(bed, variants=bed.variants.iloc[placed].reset_index(drop=True), packed=bed.packed[placed])


@pytest.mark.external
@pytest.mark.parametrize(
    "genotypes", [{"maf": 0.05}, {"hwe": 1e-6}, {"hwe": 1e-3, "max_maf": 0.45}, {"maf": 0.1, "geno": 0.0}], ids=str
)
def test_plink2_selects_the_same_variants_of_the_mice(plink2, mice, tmp_path, genotypes):
    ids, iids = plink2(mice.prefix, tmp_path, flags({"chrom": "2-18", **genotypes}))
    assert selected(mice, metadata={"chrom": "2-18"}, genotypes=genotypes) == (ids, iids)
    assert 0 < len(ids) < 9_000


@pytest.mark.external
def test_plink2_gives_the_same_exact_p_values(plink2, mice, tmp_path):
    plink2(mice.prefix, tmp_path, ["--hardy"])
    table = pd.read_csv(tmp_path / "plink.hardy", sep="\t")
    assert table["ID"].tolist() == mice.variants["id"].tolist()
    p = hardy_weinberg(count_codes(mice.packed, mice.num_samples))
    np.testing.assert_allclose(p, table["P"], rtol=6e-6)  # printed to six digits
