"""PLINK 2 filesets: pgenlib writes them, so its encoder is the oracle, and plink2 itself where it is installed."""

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pgenlib import PgenWriter

from gpu_reml.io import InputError, read_bed, read_pgen
from gpu_reml.io import rows as rows_module
from gpu_reml.io.content import read_content
from gpu_reml.ops import MISSING, pack, unpack


def suffixed(prefix, suffix):
    return Path(f"{prefix}.{suffix}")


def copies(dosages):
    """float64 copies of 16-bit dosages (m, n), NaN where missing."""
    return np.where(dosages == 65535, np.nan, dosages / 16384)


@pytest.fixture
def plink2(tmp_path):
    """plink2("--pfile", ...): run it in the test's folder."""
    program = shutil.which("plink2")
    if program is None:
        pytest.skip("plink2 is not installed (Debian package plink2)")

    def run(*arguments):
        command = [program, *map(str, arguments)]
        subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


# genotypes


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 8, 17, 130])
def test_calls_are_packed_as_in_a_bed_of_the_same_counts(make_pgen, random_counts, num_samples):
    counts = random_counts(num_samples, 30)
    np.testing.assert_array_equal(read_pgen(make_pgen(counts)).read_packed(), pack(counts))


@pytest.mark.external
def test_a_cohort_is_the_same_bytes_and_tables_as_bed_and_as_pgen(external_data):
    bed, pgen = (read(external_data / "regenie_example" / "example") for read in (read_bed, read_pgen))
    np.testing.assert_array_equal(pgen.read_packed(), bed.packed)
    np.testing.assert_array_equal(pgen.read_dosages(), bed.read_dosages())
    assert pgen.variants.equals(bed.variants)
    assert pgen.samples.equals(bed.samples)


def test_plink2_makes_the_bed_that_is_packed_here(make_pgen, random_counts, random_dosages, plink2, tmp_path):
    for name, genotypes in (("calls", random_counts(50, 40)), ("dosages", random_dosages(50, 40))):
        prefix = make_pgen(genotypes, name)
        plink2("--pfile", prefix, "--make-bed", "--out", f"{name}_bed")
        bed, pgen = read_bed(tmp_path / f"{name}_bed"), read_pgen(prefix)
        np.testing.assert_array_equal(pgen.read_packed(), bed.packed)
        assert pgen.variants.equals(bed.variants)
        assert pgen.samples.equals(bed.samples)


def test_dosages_are_those_of_the_file_to_the_bit(make_pgen, random_dosages):
    dosages = random_dosages(37, 25)
    np.testing.assert_array_equal(copies(read_pgen(make_pgen(dosages)).read_dosages()), dosages.T)


def test_dosages_of_8_bits_are_the_nearest(make_pgen, random_dosages):
    dosages = random_dosages(37, 25)
    found = read_pgen(make_pgen(dosages)).read_dosages(bits=8)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found == 255, np.isnan(dosages.T))
    known = ~np.isnan(dosages.T)
    assert np.abs(found[known] / 127 - dosages.T[known]).max() <= 0.5 / 127


def test_a_file_without_dosages_gives_its_calls(make_pgen, random_counts):
    counts = random_counts(9, 14)
    expected = np.where(counts == MISSING, np.nan, counts).T
    np.testing.assert_array_equal(copies(read_pgen(make_pgen(counts)).read_dosages()), expected)


def test_samples_in_any_order_and_some_variants_are_taken(make_pgen, random_counts, random_dosages):
    index, some = np.array([11, 3, 7, 0, 6]), np.array([1, 2, 9, 13])
    counts, dosages = random_counts(13, 14), random_dosages(13, 14)
    packed = read_pgen(make_pgen(counts, "calls")).read_packed(index, some)
    np.testing.assert_array_equal(packed, pack(counts[np.ix_(index, some)]))
    found = read_pgen(make_pgen(dosages, "dosages")).read_dosages(index, some)
    np.testing.assert_array_equal(copies(found), dosages[np.ix_(index, some)].T)


def test_blocks_do_not_change_what_is_read(make_pgen, random_counts, monkeypatch):
    counts = random_counts(13, 50)
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 13 * 7)
    np.testing.assert_array_equal(read_pgen(make_pgen(counts)).read_packed(), pack(counts))


def test_genotypes_are_written_where_they_are_asked_for(make_pgen, random_counts):
    counts = random_counts(6, 5)
    pgen, out = read_pgen(make_pgen(counts)), np.zeros((5, 2), np.uint8)
    assert pgen.read_packed(out=out) is out
    np.testing.assert_array_equal(out, pack(counts))
    with pytest.raises(ValueError, match=r"out: expected uint8 \(5, 2\), found uint8 \(5, 3\)"):
        pgen.read_packed(out=np.zeros((5, 3), np.uint8))


# several ALT alleles


@pytest.fixture
def multiallelic(tmp_path):
    """(prefix, alleles (3 variants, n, 2) with -9 missing): the second variant has three ALT alleles."""
    n = 20
    alleles = np.random.default_rng(4).integers(0, 2, (3, n, 2)).astype(np.int32)
    alleles[1] = np.random.default_rng(5).integers(0, 4, (n, 2))
    alleles[:, 3] = -9
    with PgenWriter(bytes(tmp_path / "multi.pgen"), n, variant_ct=3, allele_ct_limit=4) as writer:
        for variant, count in zip(alleles, (2, 4, 2), strict=True):
            writer.append_alleles(np.ascontiguousarray(variant.reshape(-1)), allele_ct=count)
    (tmp_path / "multi.pvar").write_text("#CHROM POS ID REF ALT\n1 5 rs1 A C\n1 6 rs2 A C,G,TT\n1 7 rs3 G T\n")
    (tmp_path / "multi.psam").write_text("#IID\n" + "".join(f"s{i}\n" for i in range(n)))
    return tmp_path / "multi", alleles


def test_a_variant_with_several_alt_alleles_is_a_row_for_each(multiallelic):
    prefix, alleles = multiallelic
    pgen = read_pgen(prefix)
    rows = [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1)]  # variant, allele
    expected = np.array([np.where(alleles[v, :, 0] < 0, MISSING, (alleles[v] == a).sum(axis=1)) for v, a in rows])
    np.testing.assert_array_equal(unpack(pgen.read_packed(), 20).T, expected)
    assert pgen.variants[["id", "a1", "a2", "bp"]].to_numpy().tolist() == [
        ["rs1", "C", "A", 5],
        ["rs2", "C", "A", 6],
        ["rs2", "G", "A", 6],
        ["rs2", "TT", "A", 6],
        ["rs3", "T", "G", 7],
    ]
    assert pgen.variants.index.tolist() == list(range(5))
    assert "1 variants with several ALT alleles are split, one row each ALT" in pgen.notes[-1]
    some = np.array([2, 4])
    np.testing.assert_array_equal(unpack(pgen.read_packed(variants=some), 20).T, expected[some])
    np.testing.assert_array_equal(np.nan_to_num(copies(pgen.read_dosages(variants=some)), nan=MISSING), expected[some])


# tables

SAMPLES = {
    "#FID and IID": ("#FID\tIID\tSEX\nFa\ta\t1\nFb\tb\t2\n", ["Fa", "Fb"]),
    "#IID alone": ("#IID\tSEX\na\t1\nb\t2\n", ["0", "0"]),
    "IID and nothing else": ("#IID\na\nb\n", ["0", "0"]),
    "comments above": ("##about this\n#made by hand\n#FID IID\nFa a\nFb b\n", ["Fa", "Fb"]),
    "no header, six columns": ("Fa\ta\t0\t0\t1\t-9\nFb\tb\t0\t0\t2\t-9\n", ["Fa", "Fb"]),
    "no header, five columns": ("Fa a 0 0 1\nFb b 0 0 2\n", ["Fa", "Fb"]),
    "blank lines": ("#FID IID\nFa a\n\nFb b\n\n", ["Fa", "Fb"]),
    "no last line end": ("#FID IID\nFa a\nFb b", ["Fa", "Fb"]),
    "Windows line ends": ("#FID\tIID\r\nFa\ta\r\nFb\tb\r\n", ["Fa", "Fb"]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_read_below_any_header(make_pgen, random_counts, name):
    prefix, (text, fids) = make_pgen(random_counts(2, 3)), SAMPLES[name]
    suffixed(prefix, "psam").write_bytes(text.encode())
    samples = read_pgen(prefix).samples
    assert samples["fid"].tolist() == fids
    assert samples["iid"].tolist() == ["a", "b"]


VARIANTS = {
    "no CM": ("#CHROM\tPOS\tID\tREF\tALT\n1\t5\trs1\tA\tC\n2\t7\trs2\tG\tT\n", [0, 0]),
    "more columns and meta lines": (
        '##fileformat=VCFv4.3\n##INFO=<ID=AF,Description="a frequency">\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tINFO\tCM\n'
        "1\t5\trs1\tA\tC\t.\tAF=0.1;NOTE=one\t0.5\n2\t7\trs2\tG\tT\t.\t.\t1.5\n",
        [0.5, 1.5],
    ),
    "columns in another order": ("#CHROM ID CM POS ALT REF\n1 rs1 0.5 5 C A\n2 rs2 1.5 7 T G\n", [0.5, 1.5]),
    "no header, six columns": ("1 rs1 0.5 5 C A\n2 rs2 1.5 7 T G\n", [0.5, 1.5]),
    "no header, five columns": ("1\trs1\t5\tC\tA\n2\trs2\t7\tT\tG\n", [0, 0]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_read_below_any_header(make_pgen, random_counts, name):
    prefix, (text, cm) = make_pgen(random_counts(2, 2)), VARIANTS[name]
    suffixed(prefix, "pvar").write_text(text)
    variants = read_pgen(prefix).variants
    assert variants.columns.tolist() == ["chrom", "id", "cm", "bp", "a1", "a2"]
    assert variants[["chrom", "id", "bp", "a1", "a2"]].to_numpy().tolist() == [
        ["1", "rs1", 5, "C", "A"],
        ["2", "rs2", 7, "T", "G"],
    ]
    assert variants["cm"].tolist() == cm


def test_headers_mean_what_they_mean_to_plink2(make_pgen, random_counts, plink2, tmp_path):
    prefix = make_pgen(random_counts(2, 2))
    # refused by PLINK 2: blank lines, and in 2022 still a .psam of five columns without a header
    refused = ("blank lines", "no header, five columns")
    cases = [("psam", text) for name, (text, _) in SAMPLES.items() if name not in refused]
    cases += [("pvar", text) for text, _ in VARIANTS.values()]
    for suffix, text in cases:
        make_pgen(random_counts(2, 2))
        suffixed(prefix, suffix).write_bytes(text.encode())
        plink2("--pfile", prefix, "--make-bed", "--out", "as_bed")
        bed, pgen = read_bed(tmp_path / "as_bed"), read_pgen(prefix)
        assert pgen.samples.equals(bed.samples), text
        assert pgen.variants.equals(bed.variants), text


def test_compressed_variants_are_read_over_all_their_frames(make_pgen, random_counts):
    zstandard = pytest.importorskip("zstandard")
    prefix = make_pgen(random_counts(3, 40))
    expected = read_pgen(prefix).variants
    text = suffixed(prefix, "pvar").read_bytes()
    frames = [zstandard.compress(part) for part in (text[:300], text[300:])]
    suffixed(prefix, "pvar.zst").write_bytes(b"".join(frames))
    suffixed(prefix, "pvar").unlink()
    assert read_pgen(prefix).variants.equals(expected)
    with read_content(suffixed(prefix, "pvar.zst"), ".pvar file").text() as file:
        assert len(list(file)) == 41


def test_without_zstandard_the_extra_is_named(make_pgen, random_counts, monkeypatch):
    prefix = make_pgen(random_counts(3, 4))
    zstandard = pytest.importorskip("zstandard")
    suffixed(prefix, "pvar.zst").write_bytes(zstandard.compress(suffixed(prefix, "pvar").read_bytes()))
    suffixed(prefix, "pvar").unlink()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"cohort\.pvar\.zst: reading \.zst needs .* pip install 'gpu-reml\[zst\]'"):
        read_pgen(prefix)


def test_prefix_may_end_in_pgen(make_pgen, random_counts):
    prefix = make_pgen(random_counts(4, 3), name="cohort.v1")
    assert read_pgen(f"{prefix}.pgen").prefix == read_pgen(prefix).prefix == str(prefix)


def test_repeated_variant_ids_are_counted_in_the_notes(make_pgen, random_counts):
    prefix = make_pgen(random_counts(2, 4))
    assert read_pgen(prefix).notes == ()
    pvar = suffixed(prefix, "pvar")
    pvar.write_text(pvar.read_text().replace("rs1", "rs0"))
    assert "2 variants share their id" in read_pgen(prefix).notes[0]


# errors


@pytest.mark.parametrize("suffix", ["pgen", "pvar", "psam"])
def test_missing_file_of_the_three_is_named(make_pgen, random_counts, suffix):
    prefix = make_pgen(random_counts(2, 2))
    suffixed(prefix, suffix).unlink()
    with pytest.raises(InputError, match=rf"not found: \S*cohort\.{suffix};"):
        read_pgen(prefix)


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        ("psam", "#FID IID\nFa a\n", r"cohort\.psam lists 1 samples, but \S*cohort\.pgen holds 2; copy the three"),
        ("psam", "#FID IID\nFa a\nFa a\n", r"1 FID \+ IID occur more than once \(FID Fa IID a\)"),
        ("psam", "#FID IID\nFa a\nFb\n", r"cohort\.psam, line 3 \(Fb\): nothing in column IID"),
        ("psam", "#FID SEX\nFa 1\nFb 1\n", "expected IID after #FID in the header"),
        ("psam", "a\nb\n", "expected a header #FID or #IID, or the 5 or 6 columns of a .fam, found 1"),
        ("psam", "", r"cohort\.psam is empty"),
        ("psam", "#FID IID\n", r"cohort\.psam is empty"),
        ("pvar", "#CHROM POS ID REF ALT\n1 5 rs1 A C\n", r"cohort\.pvar lists 1 variants, but \S* holds 2"),
        (
            "pvar",
            "##x\n#CHROM POS ID REF ALT\n1 5 rs1 A C\n\n1 x rs2 A C\n",
            r"line 5 \(variant rs2\): expected a",
        ),
        ("pvar", "#CHROM POS ID REF ALT\n1 5 rs1 A C\n1 6 rs2 A\n", r"line 3 \(1 6 rs2 A\): nothing in column ALT"),
        ("pvar", "#CHROM POS ID REF\n1 5 rs1 A\n1 6 rs2 A\n", "expected a column ALT in the header"),
        ("pvar", "#CHROM POS ID REF ALT\n1 5 rs 1 A C\n1 6 rs2 A C\n", r"line 2: more than the 5 fields of the header"),
        ("pvar", "#CHROM POS ID REF ALT\n1 5 rs1 A C\n1 99999999999999999999 rs2 A C\n", r"line 3 .*whole number"),
        ("pvar", "1 rs1 5 A C\n1 rs2 6 A C x y\n", r"line 2: more than the 5 fields of the first line"),
        ("pvar", "#CHROM POS ID REF ALT POS\n1 5 rs1 A C 7\n", r"line 1: column POS occurs more than once"),
        ("pvar", "1 5\n1 6\n", "expected a #CHROM header, or the 5 or 6 columns of a .bim, found 2"),
        ("pvar", "#CHROM POS ID REF ALT\n", r"cohort\.pvar is empty"),
        ("pvar", b"#CHROM POS ID REF ALT\n1 5 \xff A C\n", "is not UTF-8 text"),
        ("pgen", b"l\x1b\x02", "cohort.p(sam|var) lists 2 (samples|variants), but .* holds 0"),
        ("pgen", b"PK\x03\x04", "does not start with the magic bytes of a .pgen"),
        ("pgen", b"l\x1b\x01\x00\x00", r"is a PLINK 1 \.bed; name it so"),
    ],
)
def test_bad_files_are_refused(make_pgen, random_counts, suffix, text, message):
    prefix = make_pgen(random_counts(2, 2))
    suffixed(prefix, suffix).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_pgen(prefix)


def test_a_pgen_that_was_cut_short_is_refused_when_it_is_read(make_pgen, random_counts):
    prefix = make_pgen(random_counts(400, 30))
    pgen = suffixed(prefix, "pgen")
    pgen.write_bytes(pgen.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"cohort\.pgen: pgenlib cannot read it .* check it with plink2 --validate"):
        read_pgen(prefix).read_packed()


def test_text_that_is_compressed_is_read_whatever_its_name(make_pgen, random_counts):
    prefix = make_pgen(random_counts(2, 2))
    expected = read_pgen(prefix).variants
    suffixed(prefix, "pvar").write_bytes(gzip.compress(suffixed(prefix, "pvar").read_bytes()))
    assert read_pgen(prefix).variants.equals(expected)


@pytest.mark.parametrize(
    ("suffix", "old", "new"), [("pvar", "#CHROM", "#CHR"), ("pvar", "#CHROM", "#ID"), ("psam", "#FID", "#family")]
)
def test_a_header_by_another_name_is_no_comment(make_pgen, random_counts, suffix, old, new):
    prefix = make_pgen(random_counts(8, 3))
    path = prefix.with_name(f"cohort.{suffix}")
    path.write_text("# a comment\n##another\n" + path.read_text())
    assert read_pgen(prefix).num_samples == 8
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"cohort\.{suffix}, line 3: the header begins with {new}, not with {old}"):
        read_pgen(prefix)


def test_dosages_of_samples_that_do_not_exist_are_refused_and_written_nowhere_else(make_pgen):
    dosages = np.array([[1.27, 0.54, np.nan], [0.3, 1.7, 0.1]], np.float32).T
    prefix = make_pgen(dosages)
    whole = suffixed(prefix, "pgen").read_bytes()
    assert whole[25] == 0b011  # of the first variant, the samples with a dosage: the first two of three
    for samples in (0b1010, 0b10010, 0b10000001):
        suffixed(prefix, "pgen").write_bytes(whole[:25] + bytes([samples]) + whole[26:])
        with pytest.raises(InputError, match=r"cohort\.pgen: variant rs0 has dosages of more than the 3 samples"):
            read_pgen(prefix).read_dosages()


def test_any_changed_byte_of_a_pgen_is_read_or_refused(make_pgen, random_dosages):
    prefix = make_pgen(random_dosages(5, 2))
    whole = suffixed(prefix, "pgen").read_bytes()
    for place in range(11, len(whole)):
        for change in (1, 64, 255):
            suffixed(prefix, "pgen").write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            try:
                found = read_pgen(prefix)
                shape = found.read_packed().shape, found.read_dosages().shape
            except InputError as error:
                assert "cohort.p" in str(error)
            else:
                assert shape == ((2, 2), (2, 5))
