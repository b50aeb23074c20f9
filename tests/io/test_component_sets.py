import numpy as np
import pytest
from scipy import sparse

from gpu_reml.io.component_sets import (
    ComponentSet,
    check_independent,
    complete_components,
    component_set,
    components_by_chromosome,
    components_by_ld,
    components_by_maf,
    components_from_specs,
    join_components,
    minor_allele_frequencies,
)
from gpu_reml.io.components import ComponentSpec, read_component_spec, reindex
from gpu_reml.io.errors import InputError
from gpu_reml.ops import MISSING, CpuProducts, make_covariance, pack, standardise


def of_sets(m, **sets):
    rows = np.concatenate([np.asarray(members, int) for members in sets.values()])
    columns = np.repeat(np.arange(len(sets)), [len(members) for members in sets.values()])
    return component_set(list(sets), rows, columns, m)


def test_rows_of_the_unfiltered_file_become_rows_of_the_analysed_variants():
    spec = reindex(ComponentSpec("a", np.array([5, 0, 3, 2])), np.array([0, 2, 5]))
    assert spec.indices.tolist() == [2, 0, 1]
    assert reindex(ComponentSpec("a", np.array([9])), np.array([0, 2])).indices.tolist() == []


def test_specs_by_index_and_by_id_mean_the_same_after_filters(write, make_variants):
    variants = make_variants(["r0", "r1", "r2", "r3"], [True, False, True, True])
    path = write(
        "spec.json",
        '[{"name": "i", "variant_indices": [3, 1, 0]}, {"name": "n", "variant_ids": ["r3", "r1", "r0", "rx"]}]',
    )
    found = components_from_specs(read_component_spec(path, 4), variants)
    np.testing.assert_array_equal(found.weights.toarray(), [[1, 1], [0, 0], [1, 1]])
    assert found.notes == (
        "component i: 1 of 3 variants are not analysed",
        "component n: 2 of 4 variants are not analysed (r1, rx)",
    )


def test_prefixes_stay_components_after_filters(make_variants):
    specs = [ComponentSpec("common", np.arange(3)), ComponentSpec("rare", np.arange(3, 5))]
    found = components_from_specs(specs, make_variants("abcde", [True, True, False, False, True]))
    np.testing.assert_array_equal(found.weights.toarray(), [[1, 0], [1, 0], [0, 1]])


def test_an_id_of_several_analysed_variants_is_refused_only_where_it_is_used(make_variants):
    variants = make_variants(["a", ".", "."])
    spec = ComponentSpec("c", None, ids=("a",))
    assert components_from_specs([spec], variants).num_covered.tolist() == [1]
    with pytest.raises(InputError, match=r"component c: the id \. belongs to 2 analysed variants"):
        components_from_specs([ComponentSpec("c", None, ids=("a", "."))], variants)
    filtered = make_variants(["a", ".", "."], [True, True, False])
    assert components_from_specs([ComponentSpec("c", None, ids=(".",))], filtered).num_covered.tolist() == [1]


def test_sets_are_joined_side_by_side_and_share_no_name():
    joined = join_components([of_sets(3, a=[0], b=[1, 2]), of_sets(3, c=[0, 2])])
    assert joined.names == ("a", "b", "c")
    np.testing.assert_array_equal(joined.weights.toarray(), [[1, 0, 1], [0, 1, 0], [0, 1, 1]])
    with pytest.raises(InputError, match="a occur more than once"):
        join_components([of_sets(3, a=[0]), of_sets(3, a=[1])])


def test_uncovered_variants_are_counted_and_left_out_or_a_background():
    components = of_sets(6, a=[0, 1], b=[1, 3])
    varies = np.array([True, True, True, True, True, False])
    dropped = complete_components(components, varies=varies)
    assert dropped.names == ("a", "b")
    (note,) = dropped.notes
    assert note == "2 of 5 variants are in no component and left out (`uncovered` background keeps them as one)"
    whole = complete_components(components, "background", varies)
    assert whole.names == ("a", "b", "background")
    assert np.flatnonzero(whole.weights.toarray()[:, 2]).tolist() == [2, 4]
    assert whole.notes == ("2 of 5 variants are in no other component and form background",)
    assert complete_components(of_sets(2, a=[0, 1]), "background").names == ("a",)
    with pytest.raises(InputError, match="background occur more than once"):
        complete_components(of_sets(2, background=[0]), "background")


def test_components_without_variants_that_vary_are_named_or_left_out():
    components = of_sets(4, a=[0], b=[1], c=[])
    varies = np.array([True, False, True, True])
    with pytest.raises(InputError, match=r"2 component\(s\) have none of the 3 analysed variants that vary: b, c;"):
        complete_components(components, varies=varies)
    kept = complete_components(components, varies=varies, empty="drop")
    assert kept.names == ("a",)
    assert kept.notes[0] == "2 component(s) without variants left out: b, c"
    with pytest.raises(InputError, match="have none of the 4 analysed"):
        complete_components(of_sets(4, a=[]), empty="drop")
    with pytest.raises(InputError, match="uncovered: expected drop or background, found 'keep'"):
        complete_components(components, "keep")


def test_chromosomes_are_components_in_order_of_appearance(make_variants):
    found = components_by_chromosome(make_variants("abcd", chrom=["2", "2", "chr1", "X"]))
    assert found.names == ("chr2", "chr1", "chrX")
    np.testing.assert_array_equal(found.weights.toarray(), [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def test_maf_bins_hold_their_lower_edge():
    maf = np.array([0.001, 0.01, 0.0499, 0.05, 0.5, np.nan])
    found = components_by_maf(maf, [0.01, 0.05])
    assert found.names == ("maf_0_0.01", "maf_0.01_0.05", "maf_0.05_0.5")
    assert [np.flatnonzero(column).tolist() for column in found.weights.toarray().T] == [[0], [1, 2], [3, 4]]
    assert found.notes == ("1 variants are in no MAF bin: they do not vary, or have no value",)
    assert components_by_maf(maf[3:], [0.01, 0.05]).names == ("maf_0.05_0.5",)
    for edges in ([], [0.05, 0.01], [0.5], [0.0, 0.1]):
        with pytest.raises(InputError, match="expected rising edges between 0 and"):
            components_by_maf(maf, edges)


def test_minor_allele_frequencies_are_of_the_called_genotypes_of_the_analysed_samples():
    counts = np.array([[2, 0, 1, MISSING], [2, 1, 1, MISSING], [1, MISSING, 1, MISSING], [2, 0, 1, MISSING]], np.int8)
    found = minor_allele_frequencies(standardise([pack(counts)], 4))
    np.testing.assert_allclose(found, [1 / 8, 1 / 6, np.nan, np.nan])


def test_ld_bins_are_quantiles_within_each_maf_bin():
    rng = np.random.default_rng(0)
    m = 800
    maf, scores = rng.uniform(0, 0.5, m), rng.gamma(2, 10, m)
    within = components_by_maf(maf, [0.1, 0.2, 0.3])
    found = components_by_ld(scores, 4, within)
    assert found.num_components == 16
    assert found.names[:5] == (
        "maf_0_0.1.ld_1",
        "maf_0_0.1.ld_2",
        "maf_0_0.1.ld_3",
        "maf_0_0.1.ld_4",
        "maf_0.1_0.2.ld_1",
    )
    W = found.weights.toarray()
    np.testing.assert_array_equal(W.sum(axis=1), 1)
    for b in range(4):
        inside = within.weights.toarray()[:, b] > 0
        assert np.ptp(W[:, 4 * b : 4 * b + 4].sum(axis=0)) <= 1
        assert (W[:, 4 * b : 4 * b + 4].sum(axis=1) == inside).all()
        for k in range(3):
            low, high = (scores[W[:, 4 * b + j] > 0] for j in (k, k + 1))
            assert low.max() < high.min()


def test_equal_scores_share_a_bin_and_variants_without_a_score_are_in_none():
    found = components_by_ld(np.array([1.0, 1, 1, 1, 5, np.nan]), 2)
    assert found.names == ("ld_1", "ld_2")
    assert [np.flatnonzero(column).tolist() for column in found.weights.toarray().T] == [[0, 1, 2, 3], [4]]
    assert found.notes == ("1 variants are in no LD bin: they do not vary, or have no value",)
    assert components_by_ld(np.ones(5), 3).names == ("ld_1",)
    why = np.array(["", "do not vary", "", "have no position", "have no position"])
    told = components_by_ld(np.array([1.0, np.nan, 2, np.nan, np.nan]), 2, reasons=why).notes
    assert told == ("3 variants are in no LD bin: 2 have no position, 1 do not vary",)
    with pytest.raises(InputError, match="at least 2, found 1"):
        components_by_ld(np.ones(5), 1)


def test_a_set_makes_a_covariance(random_counts):
    genotypes = standardise([pack(random_counts(20, 12))], 20)
    components = complete_components(
        components_by_maf(minor_allele_frequencies(genotypes), [0.2]), varies=genotypes.inv_sd > 0
    )
    covariance = make_covariance(CpuProducts(genotypes), components.weights, components.names)
    assert covariance.names == components.names
    assert covariance.num_variants == tuple(components.num_covered)


def test_a_chromosome_of_two_spellings_is_one_component(make_variants):
    variants = make_variants("abcdefg", chrom=["1", "chr1", "23", "PAR1", "25", "chrX", "02"])
    found = components_by_chromosome(variants)
    assert found.names == ("chr1", "chrX", "chr2")
    assert found.weights.toarray().argmax(axis=1).tolist() == [0, 0, 1, 1, 1, 1, 2]


def test_filters_do_not_make_another_species_human(make_variants):
    chrom = ["23", "25", "29"]
    assert components_by_chromosome(make_variants("abc", chrom=chrom)).names == ("chr23", "chr25", "chr29")
    left = make_variants("abc", [True, True, False], chrom=chrom)
    assert components_by_chromosome(left).names == ("chr23", "chr25")
    assert components_by_chromosome(make_variants("ab", chrom=chrom[:2])).names == ("chrX",)


def test_sets_that_divide_the_variants_twice_are_named_before_a_fit():
    """Two chromosomes and two bins: the sum of the one is the sum of the other, however they are scaled."""
    chromosome, rare = np.repeat([0, 1], [30, 50]), np.arange(80) % 3 == 0
    columns = np.column_stack([chromosome == 0, chromosome == 1, rare, ~rare]).astype(float)
    names = ("chr1", "chr2", "rare", "common")
    varies = np.ones(80, bool)
    with pytest.raises(InputError, match=r"^components chr1, chr2, rare, common: .* leave out 1 of them"):
        check_independent(ComponentSet(names, sparse.csr_array(columns * [1, 2, 0.5, 3])), varies)
    check_independent(ComponentSet(names[:3], sparse.csr_array(columns[:, :3])), varies)
    alone = np.column_stack([columns[:, 0], columns[:, 0] + (np.arange(80) == 79)])
    check_independent(ComponentSet(names[:2], sparse.csr_array(alone)), varies)
    with pytest.raises(InputError, match="components chr1, chr2: "):
        check_independent(ComponentSet(names[:2], sparse.csr_array(alone)), np.arange(80) < 79)
