"""Sources of any format through load_genotypes: the same cohort gives the same genotypes."""

import numpy as np
import pytest

from gpu_reml.io import InputError, load_genotypes, read_bed, read_pgen
from gpu_reml.ops import MISSING, pack, to_dense, unpack


@pytest.fixture(params=["bed", "pgen"])
def open_source(request, make_fileset, make_pgen):
    """open_source(counts, **names) -> the counts as an open file of one format."""
    make, read = {"bed": (make_fileset, read_bed), "pgen": (make_pgen, read_pgen)}[request.param]
    return lambda counts, **names: read(make(counts, **names))


def test_kept_samples_and_chosen_variants_are_packed(open_source, random_counts):
    counts, keep, some = random_counts(11, 12), np.array([7, 2, 10, 3, 0]), np.array([0, 3, 4, 11])
    genotypes = load_genotypes([open_source(counts)], [keep], [some])
    np.testing.assert_array_equal(genotypes.parts[0], pack(counts[np.ix_(keep, some)]))
    assert (genotypes.num_samples, genotypes.num_variants, genotypes.bits) == (5, 4, 2)


def test_all_is_taken_where_nothing_is_chosen(open_source, random_counts):
    counts = random_counts(11, 12)
    file = open_source(counts)
    for variants in (None, [None], [np.arange(12)]):
        np.testing.assert_array_equal(load_genotypes([file], None, variants).parts[0], pack(counts))


def test_moments_are_of_what_was_kept(open_source, random_counts):
    counts, keep, some = random_counts(40, 12), np.arange(0, 40, 3), np.array([1, 5, 6])
    genotypes = load_genotypes([open_source(counts)], [keep], [some])
    calls = np.where(counts == MISSING, np.nan, counts)[np.ix_(keep, some)]
    expected = np.nan_to_num((calls - np.nanmean(calls, axis=0)) / np.nanstd(calls, axis=0))
    np.testing.assert_allclose(to_dense(genotypes), expected, atol=1e-12)


def test_dosages_of_calls_give_the_genotypes_of_the_calls(open_source, random_counts):
    file, keep, some = open_source(random_counts(30, 12)), np.arange(29, 1, -2), np.array([1, 5, 6])
    calls = to_dense(load_genotypes([file], [keep], [some]))
    for bits in (8, 16):
        dosages = load_genotypes([file], [keep], [some], dosage=True, dosage_bits=bits)
        assert dosages.bits == bits
        np.testing.assert_allclose(to_dense(dosages), calls, atol=1e-12)


def test_a_bed_and_a_pgen_with_dosages_are_one_cohort(make_fileset, make_pgen, random_counts, random_dosages):
    counts, dosages = random_counts(9, 4), random_dosages(9, 5)
    order = np.random.default_rng(0).permutation(9)
    iids = [f"s{i}" for i in order]
    bed, pgen = read_bed(make_fileset(counts, "one")), read_pgen(make_pgen(dosages[order], "two", iids))
    genotypes = load_genotypes([bed, pgen], [np.arange(9), np.argsort(order)], dosage=True)
    values = np.concatenate([np.where(counts == MISSING, np.nan, counts), dosages.astype(float)], axis=1)
    expected = np.nan_to_num((values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0))
    np.testing.assert_allclose(to_dense(genotypes), expected, atol=1e-10)


def test_a_source_of_which_no_variant_is_chosen_adds_none(make_fileset, random_counts):
    counts = random_counts(6, 9)
    files = [read_bed(make_fileset(part, name)) for part, name in ((counts[:, :4], "one"), (counts[:, 4:], "two"))]
    genotypes = load_genotypes(files, None, [np.array([], int), np.array([1, 3])])
    assert [len(part) for part in genotypes.parts] == [0, 2]
    np.testing.assert_array_equal(unpack(genotypes.parts[1], 6), counts[:, [5, 7]])


def test_a_stretch_of_a_bed_stays_on_the_map_and_anything_else_is_packed(make_fileset, random_counts):
    bed = read_bed(make_fileset(random_counts(6, 9)))
    stretch = load_genotypes([bed], None, [np.arange(2, 7)]).parts[0]
    assert np.shares_memory(stretch, bed.packed)
    np.testing.assert_array_equal(stretch, bed.packed[2:7])
    scattered = load_genotypes([bed], None, [np.array([2, 4])]).parts[0]
    assert not np.shares_memory(scattered, bed.packed)
    np.testing.assert_array_equal(scattered, bed.packed[[2, 4]])


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([[0, 9]], r"variants: expected indices 0\.\.8 of \S*cohort\.(bim|pvar), found 0\.\.9"),
        ([[3, 2]], r"variants: expected ascending indices of \S*cohort, each once, found 3 before 2"),
        ([[3, 3]], "found 3 before 3"),
        ([np.ones(9, bool)], r"variants: expected a vector of integers for \S*cohort, found bool \(9,\)"),
        ([np.array([], int)], r"variants: none of \S*cohort is left; loosen the filters"),
        ([[0], [0]], "variants: expected one index array for each of 1 filesets, found 2"),
    ],
)
def test_bad_choices_of_variants_are_refused(open_source, random_counts, variants, message):
    with pytest.raises(InputError, match=message):
        load_genotypes([open_source(random_counts(6, 9))], None, variants)


def test_samples_out_of_range_are_refused_with_the_file_that_lists_them(open_source, random_counts):
    with pytest.raises(InputError, match=r"keep: expected rows 0\.\.5 of \S*cohort\.(fam|psam), found 0\.\.6"):
        load_genotypes([open_source(random_counts(6, 9))], [[0, 6]])


def test_dosages_of_other_sizes_are_refused(open_source, random_counts):
    with pytest.raises(InputError, match="dosage_bits: expected 8 or 16, found 4"):
        load_genotypes([open_source(random_counts(6, 9))], dosage=True, dosage_bits=4)


@pytest.mark.external
def test_bed_and_pgen_of_a_cohort_are_loaded_to_the_same_bits(external_data):
    prefix = external_data / "regenie_example" / "example"
    keep, some = np.random.default_rng(0).permutation(500)[:301], np.arange(0, 1000, 7)
    bed, pgen = (load_genotypes([read(prefix)], [keep], [some]) for read in (read_bed, read_pgen))
    for field in ("mean", "inv_sd", "num_called"):
        np.testing.assert_array_equal(getattr(bed, field), getattr(pgen, field))
    np.testing.assert_array_equal(bed.parts[0], pgen.parts[0])
