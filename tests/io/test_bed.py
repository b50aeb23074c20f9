import numpy as np
import pytest
from bed_reader import open_bed

from gpu_reml.io import InputError, align, load_genotypes, read_bed, read_phenotype
from gpu_reml.ops import MISSING, pack, to_dense, unpack

EXTERNAL = ["mouse_hs1940/mouse_hs1940", "regenie_example/example", "toydata/toydata.5chrom"]


def rewrite(prefix, suffix, edit):
    """Replace the bytes of one file of a fileset by edit(bytes)."""
    path = prefix.with_name(f"{prefix.name}.{suffix}")
    path.write_bytes(edit(path.read_bytes()))


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 8, 17])
def test_packed_bytes_decode_to_what_bed_reader_reads(make_fileset, random_counts, num_samples):
    prefix = make_fileset(random_counts(num_samples, 30))
    bed = read_bed(prefix)
    with open_bed(f"{prefix}.bed") as oracle:
        np.testing.assert_array_equal(unpack(bed.packed, num_samples), oracle.read(dtype="int8"))


def test_packing_the_decoded_genotypes_gives_the_bytes_of_the_file(make_fileset, random_counts):
    counts = random_counts(13, 20)
    np.testing.assert_array_equal(pack(counts), read_bed(make_fileset(counts)).packed)


def test_metadata_are_those_that_bed_reader_reads(make_fileset, random_counts):
    prefix = make_fileset(random_counts(6, 40))
    assert_metadata_agree(read_bed(prefix), f"{prefix}.bed")


def assert_metadata_agree(bed, path):
    with open_bed(path) as oracle:
        for mine, theirs in [
            (bed.samples["fid"], oracle.fid),
            (bed.samples["iid"], oracle.iid),
            (bed.variants["chrom"], oracle.chromosome),
            (bed.variants["id"], oracle.sid),
            (bed.variants["bp"], oracle.bp_position),
            (bed.variants["a1"], oracle.allele_1),
            (bed.variants["a2"], oracle.allele_2),
        ]:
            assert mine.tolist() == theirs.tolist()
        np.testing.assert_allclose(bed.variants["cm"], oracle.cm_position, rtol=1e-6)  # bed-reader has float32


@pytest.mark.external
@pytest.mark.parametrize("name", EXTERNAL)
def test_external_cohorts_read_as_bed_reader_reads_them(external_data, name):
    bed = read_bed(external_data / name)
    assert_metadata_agree(bed, external_data / f"{name}.bed")
    some = np.arange(0, bed.num_variants, max(1, bed.num_variants // 500))
    with open_bed(external_data / f"{name}.bed") as oracle:
        np.testing.assert_array_equal(unpack(bed.packed[some], bed.num_samples), oracle.read(some, dtype="int8"))


@pytest.mark.external
def test_mouse_cohort_has_the_samples_and_variants_that_gemma_analyses(external_data):
    bed = read_bed(external_data / EXTERNAL[0])
    aligned = align([bed.samples], read_phenotype(external_data / "mouse_hs1940" / "pheno.txt", name="CD8"))
    genotypes = load_genotypes([bed], aligned.indices)
    assert aligned.num_samples == 1410
    assert aligned.dropped_counts == {"missing phenotype": 530}
    assert (genotypes.inv_sd > 0).sum() == 10992


def test_prefix_may_end_in_bed_or_hold_dots(make_fileset, random_counts):
    prefix = make_fileset(random_counts(4, 3), name="cohort.v1.chr2")
    assert read_bed(f"{prefix}.bed").prefix == read_bed(str(prefix)).prefix == str(prefix)


def test_packed_is_a_read_only_map_of_the_file(make_fileset, random_counts):
    packed = read_bed(make_fileset(random_counts(5, 7))).packed
    assert isinstance(packed, np.memmap)
    assert packed.shape == (7, 2)
    with pytest.raises(ValueError, match="read-only"):
        packed[0, 0] = 1


def test_ids_with_a_hash_sign_are_kept_whole(make_fileset, random_counts):
    bed = read_bed(make_fileset(random_counts(2, 3), iids=["#1", "a#b"]))
    assert bed.samples["iid"].tolist() == ["#1", "a#b"]


def test_bim_separated_by_blanks_and_positions_in_exponent_form_are_read(make_fileset, random_counts):
    prefix = make_fileset(random_counts(2, 1))
    rewrite(prefix, "bim", lambda _: b"1  rs0 0.25 1e+05 A C\r\n")
    variants = read_bed(prefix).variants
    assert variants["bp"].tolist() == [100000]
    assert variants["a2"].tolist() == ["C"]


def test_repeated_variant_ids_are_counted_in_the_notes(make_fileset, random_counts):
    prefix = make_fileset(random_counts(2, 4))
    assert read_bed(prefix).notes == ()
    rewrite(prefix, "bim", lambda text: text.replace(b"rs1\t", b"rs0\t"))
    assert "2 variants share their id" in read_bed(prefix).notes[0]


@pytest.mark.parametrize("suffix", ["bed", "bim", "fam"])
def test_missing_file_of_the_three_is_named(make_fileset, random_counts, suffix):
    prefix = make_fileset(random_counts(2, 2))
    prefix.with_name(f"cohort.{suffix}").unlink()
    with pytest.raises(InputError, match=rf"not found: \S*cohort\.{suffix};"):
        read_bed(prefix)


def test_missing_prefix_names_all_three_files(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.bed, \S*nothing\.bim, \S*nothing\.fam"):
        read_bed(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("edit", "found"),
    [(lambda b: b[:-1], 3 + 6 * 2 - 1), (lambda b: b + b"\0\0", 3 + 6 * 2 + 2)],
    ids=["short", "long"],
)
def test_bed_of_another_size_gives_expected_and_found_bytes(make_fileset, random_counts, edit, found):
    prefix = make_fileset(random_counts(5, 6))
    rewrite(prefix, "bed", edit)
    with pytest.raises(
        InputError, match=f"expected 15 bytes for 5 samples in the .fam and 6 variants.* found {found};"
    ):
        read_bed(prefix)


@pytest.mark.parametrize(("suffix", "expected"), [("fam", 3 + 6 * 1), ("bim", 3 + 5 * 2)])
def test_text_file_with_fewer_lines_than_the_bed_holds_is_an_error(make_fileset, random_counts, suffix, expected):
    prefix = make_fileset(random_counts(5, 6))
    rewrite(prefix, suffix, lambda text: b"".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match=f"expected {expected} bytes .* found 15; copy the three files again"):
        read_bed(prefix)


@pytest.mark.parametrize("header", [b"", b"l\x1b", b"\x00\x1b\x01", b"l\x1b\x02", b"#CHROM"])
def test_bed_without_the_magic_bytes_is_refused(make_fileset, random_counts, header):
    prefix = make_fileset(random_counts(2, 2))
    rewrite(prefix, "bed", lambda _: header)
    with pytest.raises(InputError, match="does not start with PLINK's magic bytes"):
        read_bed(prefix)


def test_individual_major_bed_names_the_remedy(make_fileset, random_counts):
    prefix = make_fileset(random_counts(2, 2))
    rewrite(prefix, "bed", lambda b: b[:2] + b"\x00" + b[3:])
    with pytest.raises(InputError, match="individual-major; rewrite it SNP-major with plink --make-bed"):
        read_bed(prefix)


@pytest.mark.parametrize("suffix", ["fam", "bim"])
@pytest.mark.parametrize("text", [b"", b"\n  \n"])
def test_empty_fam_or_bim_is_an_error(make_fileset, random_counts, suffix, text):
    prefix = make_fileset(random_counts(2, 2))
    rewrite(prefix, suffix, lambda _: text)
    with pytest.raises(InputError, match=rf"\.{suffix} is empty"):
        read_bed(prefix)


@pytest.mark.parametrize("suffix", ["fam", "bim"])
def test_short_row_is_named_by_line_counting_blank_lines(make_fileset, random_counts, suffix):
    prefix = make_fileset(random_counts(3, 3))

    def shorten_last(text):
        first, second, last = text.splitlines(keepends=True)
        return first + second + b"\n" + b"\t".join(last.split()[:4]) + b"\n"

    rewrite(prefix, suffix, shorten_last)
    with pytest.raises(InputError, match=rf"\.{suffix}, line 4 .*: expected 6 fields as in line 1, found 4"):
        read_bed(prefix)


def test_bim_with_a_seventh_field_is_an_error(make_fileset, random_counts):
    prefix = make_fileset(random_counts(3, 2))
    rewrite(prefix, "bim", lambda text: text.replace(b"\n", b" x\n"))
    with pytest.raises(InputError, match=r"\.bim, line 1: expected 6 fields, found 7"):
        read_bed(prefix)


def test_fam_with_further_phenotypes_is_read(make_fileset, random_counts):
    prefix = make_fileset(random_counts(3, 2))
    rewrite(prefix, "fam", lambda text: text.replace(b"\n", b" 1.5 NA\n"))
    assert read_bed(prefix).num_samples == 3


@pytest.mark.parametrize(("old", "new"), [(b"\t100\t", b"\t1.5\t"), (b"\t100\t", b"\tx\t"), (b"\t0.5\t", b"\tinf\t")])
def test_bad_position_is_named_by_line_and_variant(make_fileset, random_counts, old, new):
    prefix = make_fileset(random_counts(3, 3))
    rewrite(prefix, "bim", lambda text: text.replace(old, new))
    with pytest.raises(InputError, match=rf"\.bim, line 2 \(variant rs1\): expected .* found '{new.decode().strip()}'"):
        read_bed(prefix)


def test_repeated_sample_in_fam_is_named_but_a_shared_iid_is_not_an_error(make_fileset, random_counts):
    prefix = make_fileset(random_counts(3, 2), iids=["a", "b", "c"])
    rewrite(prefix, "fam", lambda text: text.replace(b"Fc c", b"Fc a").replace(b"Fc\tc", b"Fc\ta"))
    assert read_bed(prefix).samples["iid"].tolist() == ["a", "b", "a"]
    rewrite(prefix, "fam", lambda text: text.replace(b"Fc", b"Fa"))
    with pytest.raises(InputError, match=r"1 FID \+ IID occur more than once \(FID Fa IID a\)"):
        read_bed(prefix)


def test_all_samples_in_file_order_are_not_copied(make_fileset, random_counts):
    bed = read_bed(make_fileset(random_counts(6, 5)))
    assert load_genotypes([bed]).parts[0] is bed.packed
    assert load_genotypes([bed], [np.arange(6)]).parts[0] is bed.packed


def test_subset_and_order_of_samples_are_those_of_keep(make_fileset, random_counts):
    counts = random_counts(11, 40)
    keep = np.array([9, 2, 3, 10, 0])
    genotypes = load_genotypes([read_bed(make_fileset(counts))], [keep])
    np.testing.assert_array_equal(unpack(genotypes.parts[0], 5), counts[keep])
    assert genotypes.num_called.tolist() == (counts[keep] != MISSING).sum(axis=0).tolist()


def test_filesets_with_samples_in_other_orders_are_stacked_in_one(make_fileset, random_counts):
    counts = random_counts(4, 9)
    first = read_bed(make_fileset(counts[:, :4], "one", ["a", "b", "c", "d"]))
    second = read_bed(make_fileset(counts[[2, 0, 3], 4:], "two", ["c", "a", "d"]))
    genotypes = load_genotypes([first, second], [np.array([0, 2, 3]), np.array([1, 0, 2])])
    stacked = np.concatenate([unpack(part, 3) for part in genotypes.parts], axis=1)
    np.testing.assert_array_equal(stacked, counts[[0, 2, 3]])


def test_loaded_genotypes_standardise_as_numpy_does(make_fileset, random_counts):
    counts = random_counts(30, 12)
    calls = np.where(counts == MISSING, np.nan, counts)
    expected = np.nan_to_num((calls - np.nanmean(calls, axis=0)) / np.nanstd(calls, axis=0))
    genotypes = load_genotypes([read_bed(make_fileset(counts))])
    np.testing.assert_allclose(to_dense(genotypes), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([[0, 6]], r"expected rows 0\.\.5 of \S*cohort\.fam, found 0\.\.6"),
        ([[-1]], r"expected rows 0\.\.5 .* found -1"),
        ([[0.0]], "expected a vector of integers .* found float64"),
        ([np.array([], int)], r"no samples of \S*cohort are left"),
        ([[0], [0]], "expected one index array for each of 1 filesets, found 2"),
    ],
)
def test_bad_keep_is_refused(make_fileset, random_counts, keep, message):
    bed = read_bed(make_fileset(random_counts(6, 5)))
    with pytest.raises(InputError, match=message):
        load_genotypes([bed], keep)


def test_filesets_of_different_samples_are_refused(make_fileset, random_counts):
    first = read_bed(make_fileset(random_counts(3, 2), "one", ["a", "b", "c"]))
    other = read_bed(make_fileset(random_counts(3, 2), "two", ["a", "c", "b"]))
    with pytest.raises(InputError, match=r"sample 2 is FID Fb IID b in \S*one and FID Fc IID c in \S*two"):
        load_genotypes([first, other])
    with pytest.raises(InputError, match=r"two gives 2 samples and \S*one 3"):
        load_genotypes([first, other], [np.arange(3), np.arange(2)])


def test_no_fileset_is_refused():
    with pytest.raises(InputError, match="expected at least one fileset"):
        load_genotypes([])


def test_a_fam_with_a_header_is_refused(make_fileset, random_counts):
    prefix = make_fileset(random_counts(7, 3))
    fam = prefix.with_name("cohort.fam")
    fam.write_text("FID IID father mother sex phenotype\n" + fam.read_text())
    with pytest.raises(InputError, match=r"cohort\.fam, line 1: FID IID is a header, which this file does not have"):
        read_bed(prefix)


@pytest.mark.parametrize("n", [9, 10, 11, 12])
def test_a_fam_that_lost_a_line_shows_in_the_padding(make_fileset, random_counts, n):
    prefix = make_fileset(random_counts(n, 40))
    assert read_bed(prefix).num_samples == n
    fam = prefix.with_name("cohort.fam")
    fam.write_text("".join(fam.read_text().splitlines(keepends=True)[1:]))
    message = r"bytes for 8 samples" if n == 9 else r"cohort\.bed: the bits after the last of the .*cohort\.fam are not"
    with pytest.raises(InputError, match=message):
        read_bed(prefix)


def test_a_fam_that_gained_a_line_shows_in_a_sample_without_any_other_call(make_fileset, random_counts):
    counts = np.clip(random_counts(30, 600), 0, 2)
    prefix = make_fileset(counts)
    fam = prefix.with_name("cohort.fam")
    fam.write_text("F9 new 0 0 0 -9\n" + fam.read_text())
    with pytest.raises(InputError, match=r"last sample of \S*cohort\.fam \(FID Fs29 IID s29\) has two copies of A1"):
        read_bed(prefix)
    rare = np.full((31, 600), 2, np.int8)
    rare[np.random.default_rng(0).integers(0, 30, 600), np.arange(600)] = 1
    assert read_bed(make_fileset(rare, "rare")).num_samples == 31  # A1 is common: the last one carries no rare allele
    linked = np.full((31, 600), 2, np.int8)
    linked[:28] = 0  # a window's variants are one haplotype, and the last three people have two copies of it
    make_fileset(linked, "linked")
    bim = prefix.with_name("linked.bim")
    bim.write_text("".join("1" + line[line.index("\t") :] for line in bim.read_text().splitlines(keepends=True)))
    assert read_bed(prefix.with_name("linked")).num_samples == 31
