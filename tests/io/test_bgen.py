"""BGEN files: the package bgen writes them, plink2 is the oracle for calls and dosages where it is installed."""

import shutil
import struct
import subprocess
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from gpu_reml.io import InputError, read_bed, read_bgen, read_pgen
from gpu_reml.io import bgen as bgen_module
from gpu_reml.io import rows as rows_module
from gpu_reml.ops import MISSING, pack, unpack

bgen = pytest.importorskip("bgen", reason="the package bgen is not installed (pip install 'gpu-reml[bgen]')")


@pytest.fixture
def make_bgen(tmp_path):
    """make_bgen(probabilities (m, n, 3) of 0, 1, 2 copies of the second allele, ...) -> path of a BGEN file."""

    def write_bgen(probabilities, bits=8, name="cohort", with_ids=True, **options):
        path, n = tmp_path / f"{name}.bgen", probabilities.shape[1]
        iids = [f"s{i}" for i in range(n)] if with_ids else None
        with bgen.BgenWriter(str(path), n, samples=iids, **options) as writer:
            for j, values in enumerate(probabilities):
                writer.add_variant(f"v{j}", f"rs{j}", "3", 100 * j, ["C", "A"], values, bit_depth=bits)
        return path

    return write_bgen


def of_counts(counts):
    """(m, n, 3) probabilities of called counts (n, m)."""
    probabilities = np.eye(3)[np.clip(counts.T, 0, 2)]
    probabilities[counts.T == MISSING] = np.nan
    return probabilities


def random_probabilities(n, m, bits, seed=0):
    """(m, n, 3) multiples of 1 / (2^bits - 1), about a tenth missing, and the multiples."""
    rng = np.random.default_rng(seed)
    steps = 2**bits - 1
    cuts = np.sort(rng.integers(0, steps + 1, (m, n, 2)), axis=2)
    parts = np.stack([cuts[..., 0], cuts[..., 1] - cuts[..., 0], steps - cuts[..., 1]], axis=2)
    probabilities = parts / steps
    probabilities[rng.random((m, n)) < 0.1] = np.nan
    return probabilities, parts


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
def test_calls_are_packed_as_in_a_bed_of_the_same_counts(make_bgen, random_counts, bits, compression):
    counts = random_counts(13, 20)
    found = read_bgen(make_bgen(of_counts(counts), bits, compression=compression))
    np.testing.assert_array_equal(found.read_packed(), pack(counts))


@pytest.mark.parametrize("bits", [8, 16])
def test_dosages_are_the_nearest_to_the_probabilities(make_bgen, bits):
    probabilities, parts = random_probabilities(40, 30, bits)
    found = read_bgen(make_bgen(probabilities, bits)).read_dosages()
    steps = 2**bits - 1
    nearest = ((parts[..., 1] + 2 * parts[..., 2]) * 2 * 16384 + steps) // (2 * steps)
    expected = np.where(np.isnan(probabilities[..., 0]), 65535, nearest)
    if bits == 8:  # odd denominators have no ties
        np.testing.assert_array_equal(found, expected)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_dosage_is_called_within_a_tenth_of_a_copy(make_bgen):
    dosages = np.array([0, 0.09, 0.11, 0.89, 0.91, 1.09, 1.11, 1.89, 1.91, 2])
    probabilities = np.stack([np.maximum(1 - dosages, 0), 1 - np.abs(1 - dosages), np.maximum(dosages - 1, 0)], axis=1)
    found = read_bgen(make_bgen(probabilities[None], 16)).read_packed()
    assert unpack(found, 10)[:, 0].tolist() == [0, 0, MISSING, MISSING, 1, 1, MISSING, MISSING, 2, 2]


def test_samples_in_any_order_and_some_variants_are_taken(make_bgen, random_counts, monkeypatch):
    counts, index, some = random_counts(13, 14), np.array([11, 3, 7, 0, 6]), np.array([1, 2, 9, 13])
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 3 * 13 * 4)
    found = read_bgen(make_bgen(of_counts(counts)))
    np.testing.assert_array_equal(found.read_packed(index, some), pack(counts[np.ix_(index, some)]))
    expected = np.where(counts == MISSING, 255, 127 * counts.astype(int))[np.ix_(index, some)].T
    np.testing.assert_array_equal(found.read_dosages(index, some, bits=8), expected)


def test_phased_haplotypes_are_added_up(tmp_path):
    with bgen.BgenWriter(str(tmp_path / "phased.bgen"), 3, samples=["a", "b", "c"]) as writer:
        haplotypes = np.array([[1, 0, 0, 1.0], [0, 1, 0, 1], [1, 0, 1, 0]])
        writer.add_variant("v", "rs", "1", 5, ["A", "G"], haplotypes, phased=True)
    assert unpack(read_bgen(tmp_path / "phased.bgen").read_packed(), 3)[:, 0].tolist() == [1, 2, 0]


def test_the_second_allele_is_counted_and_the_table_is_the_files(make_bgen, random_counts):
    variants = read_bgen(make_bgen(of_counts(random_counts(4, 2)))).variants
    assert variants.to_numpy().tolist() == [["3", "rs0", 0.0, 0, "A", "C"], ["3", "rs1", 0.0, 100, "A", "C"]]
    assert variants.columns.tolist() == ["chrom", "id", "cm", "bp", "a1", "a2"]


def test_samples_are_those_of_the_sample_file_or_of_the_bgen(make_bgen, random_counts, write):
    path = make_bgen(of_counts(random_counts(2, 2)))
    assert read_bgen(path).samples.to_numpy().tolist() == [["0", "s0"], ["0", "s1"]]
    write("cohort.sample", "ID_1 ID_2 missing sex\n0 0 0 D\nFa a 0 1\nFb b 0 2\n")
    assert read_bgen(path).samples.to_numpy().tolist() == [["Fa", "a"], ["Fb", "b"]]
    for header in ("ID missing\n0 0", "ID_1 missing\n0 0", "sample_id sex\n0 D"):
        other = write("other.sample", f"{header}\na 0\nb 0\n")
        assert read_bgen(path, other).samples.to_numpy().tolist() == [["0", "a"], ["0", "b"]]
    for header in ("FID IID missing", "family sample missing", "ID_1 ID_2 missing", "ID id_2 missing"):
        other = write("other.sample", f"{header}\n0 0 0\nFa a 0\nFb b 0\n")
        assert read_bgen(path, other).samples.to_numpy().tolist() == [["Fa", "a"], ["Fb", "b"]]


@pytest.mark.external
@pytest.mark.parametrize("bits", [8, 16])
def test_a_cohort_is_the_same_bytes_as_bed_pgen_and_bgen(external_data, tmp_path, bits):
    if shutil.which("plink2") is None:
        pytest.skip("plink2 is not installed (Debian package plink2)")
    prefix = external_data / "regenie_example" / "example"
    export(tmp_path, "--pfile", prefix, "--export", "bgen-1.2", f"bits={bits}", "ref-first", "--out", "cohort")
    bed, pgen, found = read_bed(prefix), read_pgen(prefix), read_bgen(tmp_path / "cohort")
    np.testing.assert_array_equal(found.read_packed(), bed.packed)
    np.testing.assert_array_equal(found.read_packed(), pgen.read_packed())
    np.testing.assert_array_equal(found.read_dosages(), pgen.read_dosages())
    assert found.samples.equals(bed.samples)
    assert found.variants.equals(bed.variants)


@pytest.mark.parametrize("bits", [8, 16])
def test_calls_and_dosages_are_those_that_plink2_imports(make_bgen, tmp_path, bits):
    if shutil.which("plink2") is None:
        pytest.skip("plink2 is not installed (Debian package plink2)")
    path = make_bgen(random_probabilities(60, 50, bits, seed=2)[0], bits)
    export(tmp_path, "--bgen", path, "ref-first", "--make-pgen", "--out", "imported")
    found, imported = read_bgen(path), read_pgen(tmp_path / "imported")
    np.testing.assert_array_equal(found.read_packed(), imported.read_packed())
    # PLINK 2 of 2022 multiplies by a rounded reciprocal, which takes 128.502 and 16512.502 down
    difference = found.read_dosages().astype(int) - imported.read_dosages()
    assert set(np.unique(difference)) <= {0, 1}
    assert (difference != 0).mean() < 0.01


def export(folder, *arguments):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([shutil.which("plink2"), *map(str, arguments)], cwd=folder, check=True, **quiet)


# errors


def test_without_zstandard_the_extra_is_named(make_bgen, random_counts, monkeypatch):
    path = make_bgen(of_counts(random_counts(2, 2)), compression="zstd")
    monkeypatch.setattr(bgen_module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package zstandard; pip install 'gpu-reml\[zst\]'"):
        read_bgen(path)
    assert read_bgen(make_bgen(of_counts(random_counts(2, 2)), compression="zlib")).num_variants == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"BGEN file not found: \S*nothing\.bgen"):
        read_bgen(tmp_path / "nothing")


def test_what_is_no_bgen_is_refused(write):
    with pytest.raises(InputError, match=r"cohort\.bgen: it cannot be read as BGEN"):
        read_bgen(write("cohort.bgen", "these are no genotypes at all, but a line of text\n"))


def test_a_bgen_cut_short_is_refused(make_bgen, random_counts):
    path = make_bgen(of_counts(random_counts(50, 40)))
    Path(path).write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cohort\.bgen: it cannot be read as BGEN"):
        read_bgen(path).read_packed()


def test_layout_1_is_refused(make_bgen, random_counts):
    path = make_bgen(of_counts(random_counts(3, 2)), 16, layout=1, compression="zlib")
    with pytest.raises(InputError, match=r"is BGEN 1\.1 .* rewrite it"):
        read_bgen(path)


def test_a_sample_file_has_the_bgens_own_ids_in_its_order(make_bgen, random_counts, write):
    path = make_bgen(of_counts(random_counts(3, 2)))
    for text in ("0 s1 0\n0 s0 0\n0 s2 0\n", "s s1 0\ns s2 0\ns s0 0\n"):
        with pytest.raises(InputError, match=r"other\.sample: sample 1 is s1, and s0 in \S*cohort\.bgen, which holds"):
            read_bgen(path, write("other.sample", "ID_1 ID_2 missing\n0 0 0\n" + text))
    own = write("other.sample", "ID_1 ID_2 missing\n0 0 0\na s0 0\nb s1 0\nc x 0\n")
    assert read_bgen(path, own).samples["iid"].tolist() == ["s0", "s1", "x"]


def test_a_bgen_without_ids_needs_a_sample_file(make_bgen, random_counts, write):
    path = make_bgen(of_counts(random_counts(2, 2)), with_ids=False)
    with pytest.raises(InputError, match=r"cohort\.bgen holds no sample ids; give the \.sample"):
        read_bgen(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID_1 ID_2 missing\n0 0 0\nFa a 0\n", r"lists 1 samples, but \S*cohort\.bgen holds 2"),
        ("Fa a 0\nFb b 0\n", "expected the two header lines of a .sample"),
        ("FID sex\n0 D\na 1\nb 2\n", r"bad\.sample: columns FID sex are not known for ids"),
        ("name code missing\n0 0 0\na b 0\nb c 0\n", "columns name code are not known for ids"),
        ("ID_1 ID_2 missing\n0 0 0\nFa a 0\nFa a 0\n", r"1 FID \+ IID occur more than once"),
    ],
)
def test_bad_sample_files_are_refused(make_bgen, random_counts, write, text, message):
    path = make_bgen(of_counts(random_counts(2, 2)))
    with pytest.raises(InputError, match=message):
        read_bgen(path, write("bad.sample", text))


def test_variants_that_are_not_biallelic_or_not_diploid_are_named(tmp_path):
    with bgen.BgenWriter(str(tmp_path / "three.bgen"), 2, samples=["a", "b"]) as writer:
        writer.add_variant("v", "rs7", "1", 5, ["A", "G", "T"], np.array([[1, 0, 0, 0, 0, 0.0]] * 2))
    with pytest.raises(InputError, match="variant rs7 at 1:5 has 3 alleles; keep the biallelic ones"):
        read_bgen(tmp_path / "three")
    with bgen.BgenWriter(str(tmp_path / "haploid.bgen"), 2, samples=["a", "b"]) as writer:
        ploidy = np.array([1, 2], np.uint8)
        writer.add_variant("v", "rs8", "X", 5, ["A", "G"], np.array([[1, 0, np.nan], [0, 1, 0]]), ploidy=ploidy)
    with pytest.raises(InputError, match="variant rs8 at X:5 is not diploid in 1 samples"):
        read_bgen(tmp_path / "haploid").read_packed()


def one_variant(bits=8, ploidy=(2, 2), probabilities=b"\0\0\0\0", phased=0, alleles=2, n=2):
    """The genotypes of a variant, uncompressed."""
    fixed = struct.pack("<IHBB", n, alleles, min(ploidy, default=0), max(ploidy, default=0))
    return fixed + bytes(ploidy) + bytes([phased, bits]) + probabilities


def bgen_of(block, n=2, ids=(b"a", b"b"), compression=0, name=b"rs1", num_variants=1, length=None):
    """A BGEN file of layout 2 with one variant, as the specification says it byte by byte."""
    flags = compression | 2 << 2 | (1 << 31 if ids else 0)
    listed = b"".join(struct.pack("<H", len(iid)) + iid for iid in ids)
    listed = struct.pack("<II", len(listed) + 8, n) + listed if ids else b""
    head = struct.pack("<IIII", 20 + len(listed), 20, num_variants, n) + b"bgen" + struct.pack("<I", flags) + listed
    variant = struct.pack("<H", 0) + b"".join(struct.pack("<H", len(word)) + word for word in (name, b"1"))
    variant += struct.pack("<IH", 5, 2) + b"".join(struct.pack("<I", 1) + allele for allele in (b"C", b"A"))
    return head + variant + struct.pack("<I", len(block) if length is None else length) + block


def test_every_number_of_bits_is_what_the_package_reads(tmp_path):
    for bits in range(1, 33):
        probabilities, _ = random_probabilities(37, 3, bits, seed=bits)
        path = tmp_path / f"{bits}.bgen"
        with bgen.BgenWriter(str(path), 37, samples=[f"s{i}" for i in range(37)]) as writer:
            for j, values in enumerate(probabilities):
                writer.add_variant(f"v{j}", f"rs{j}", "3", 100 * j, ["C", "A"], values, bit_depth=bits)
        found = read_bgen(path)
        with bgen.BgenReader(str(path)) as reader:
            expected = np.stack([variant.alt_dosage for variant in reader])
        copies = np.concatenate([copies.copy() for _, copies in found._blocks(np.arange(3))])
        np.testing.assert_allclose(copies, expected, rtol=0, atol=3e-7)


def test_a_file_written_by_the_specification_is_read(write):
    for compression, block in ((0, bytes), (1, lambda b: struct.pack("<I", len(b)) + zlib.compress(b))):
        stored = one_variant(probabilities=bytes([255, 0, 0, 255]))
        found = read_bgen(write("a.bgen", bgen_of(block(stored), compression=compression)))
        np.testing.assert_array_equal(unpack(found.read_packed(), 2)[:, 0], [0, 1])
        assert found.samples["iid"].tolist() == ["a", "b"] and found.variants["a1"].tolist() == ["A"]


GOOD = one_variant(probabilities=bytes([255, 0, 0, 255]))
ZIPPED = zlib.compress(GOOD)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (bgen_of(GOOD, n=1 << 31, ids=()), "holds no sample ids"),
        (bgen_of(GOOD, n=1 << 31), "2147483648 samples, and 2147483648 sample ids in 14 bytes"),
        (bgen_of(GOOD, num_variants=1 << 31), "bytes are promised at byte"),
        (bgen_of(GOOD, num_variants=0), "bytes follow its 0 variants"),
        (bgen_of(GOOD, length=1 << 31), "2147483648 bytes are promised at byte"),
        (bgen_of(GOOD) + b"x", "1 bytes follow its 1 variants"),
        (bgen_of(GOOD, name=b"r\ns"), "is no name"),
        (bgen_of(GOOD, name=b"r\xff"), "cannot be read as BGEN"),
        (bgen_of(GOOD, compression=3), "compression 3"),
        (bgen_of(one_variant(bits=0)), "phased 0, of 0 bits"),
        (bgen_of(one_variant(bits=33)), "of 33 bits"),
        (bgen_of(one_variant(phased=2)), "phased 2"),
        (bgen_of(one_variant(probabilities=b"\0\0\0")), "do not fit together"),
        (bgen_of(one_variant(n=3)), "its genotypes are of 3 samples and 2 alleles"),
        (bgen_of(one_variant(alleles=3)), "its genotypes are of 2 samples and 3 alleles"),
        (bgen_of(GOOD[:9]), "too few for 2 samples"),
        (bgen_of(one_variant(ploidy=(2, 1))), "not diploid in 1 samples"),
        (bgen_of(one_variant(probabilities=bytes([200, 100, 0, 0]))), "add up to more than 1"),
        (bgen_of(b"\0", compression=1), "1 bytes of genotypes"),
        (
            bgen_of(struct.pack("<I", 1 << 31) + ZIPPED, compression=1),
            "2147483648 bytes of genotypes are too many",
        ),
        (bgen_of(struct.pack("<I", len(GOOD) + 1) + ZIPPED, compression=1), "do not expand to the 17 bytes"),
        (bgen_of(struct.pack("<I", len(GOOD) - 1) + ZIPPED, compression=1), "do not expand to the 15 bytes"),
        (bgen_of(struct.pack("<I", len(GOOD)) + ZIPPED[:-2], compression=1), "do not expand to the 16 bytes"),
        (bgen_of(struct.pack("<I", len(GOOD)) + ZIPPED[:-1] + b"x", compression=1), "cannot be expanded"),
        (bgen_of(struct.pack("<I", len(GOOD)) + ZIPPED, compression=2), "cannot be expanded"),
    ],
)
def test_what_a_file_promises_and_does_not_hold_is_refused_and_takes_no_memory(write, stored, message):
    path = write("bad.bgen", stored)
    tracemalloc.start()
    with pytest.raises(InputError, match=message) as refused:
        read_bgen(path).read_packed()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(path) in str(refused.value) and "\n" not in str(refused.value) and peak < 8 << 20


def test_a_bgen_cut_anywhere_is_refused(make_bgen, random_counts):
    path = make_bgen(of_counts(random_counts(9, 4)))
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"cohort\.bgen"):
            read_bgen(path)
