import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpu_reml.ops.genotypes import blocks, code_values, standardise
from gpu_reml.ops.packing import MISSING, count_codes, pack, take_samples, unpack

counts_arrays = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=13).flatmap(
    lambda shape: hnp.arrays(np.int8, shape, elements=st.sampled_from([0, 1, 2, MISSING]))
)


@settings(max_examples=60, deadline=None)
@given(counts_arrays)
def test_unpack_inverts_pack(counts):
    np.testing.assert_array_equal(unpack(pack(counts), len(counts)), counts)


@settings(max_examples=60, deadline=None)
@given(counts_arrays)
def test_code_counts_are_those_of_the_genotypes(counts):
    expected = np.stack([(counts == value).sum(axis=0) for value in (2, MISSING, 1, 0)], axis=1)
    np.testing.assert_array_equal(count_codes(pack(counts), len(counts)), expected)


@settings(max_examples=60, deadline=None)
@given(counts_arrays, st.randoms(use_true_random=False))
def test_taking_samples_commutes_with_packing(counts, random):
    index = np.array([random.randrange(len(counts)) for _ in range(random.randrange(1, 9))])
    np.testing.assert_array_equal(take_samples(pack(counts), index), pack(counts[index]))


def test_code_counts_ignore_the_padding_bits():
    packed = pack(np.zeros((5, 1), np.int8))
    packed[0, 1] |= 0b01010100  # the three samples past the fifth
    np.testing.assert_array_equal(count_codes(packed, 5), [[0, 0, 0, 5]])


def test_packing_refuses_a_genotype_that_is_none():
    with pytest.raises(ValueError, match="found 3 at sample 1, variant 0"):
        pack(np.array([[0], [3]], np.int8))


def test_taking_a_sample_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"expected samples in 0\.\.7"):
        take_samples(pack(np.zeros((8, 1), np.int8)), np.array([8]))


def test_standardisation_is_the_mean_and_population_sd_of_called_genotypes():
    rng = np.random.default_rng(0)
    counts = rng.choice(np.array([0, 1, 2, MISSING], np.int8), size=(57, 40), p=[0.5, 0.3, 0.15, 0.05])
    counts[:, 3], counts[:, 4] = 1, MISSING
    genotypes = standardise([pack(counts)], 57)
    for j in range(40):
        called = counts[:, j][counts[:, j] != MISSING].astype(float)
        assert genotypes.num_called[j] == len(called)
        if j in (3, 4):
            assert genotypes.inv_sd[j] == 0
        else:
            np.testing.assert_allclose(genotypes.mean[j], called.mean(), rtol=1e-14)
            np.testing.assert_allclose(genotypes.inv_sd[j], 1 / called.std(), rtol=1e-12)
    values = code_values(genotypes)
    assert (values[:, 1] == 0).all() and (values[[3, 4]] == 0).all()


def test_a_singleton_keeps_its_exact_sd_whichever_allele_is_counted():
    n = 200_000
    counts = np.zeros((n, 2), np.int8)
    counts[:, 1] = 2
    counts[0] = 1
    inv_sd = standardise([pack(counts)], n).inv_sd
    exact = 1 / np.sqrt(1 / n - 1 / n**2)
    np.testing.assert_allclose(inv_sd, exact, rtol=1e-14)


def test_parts_of_the_wrong_width_are_refused():
    with pytest.raises(ValueError, match=r"parts\[0\]: expected uint8 of shape \(variants, 3\) for 9 samples"):
        standardise([np.zeros((4, 2), np.uint8)], 9)


def test_blocks_cover_every_variant_once_and_never_cross_parts():
    counts = np.random.default_rng(1).integers(0, 3, (10, 23)).astype(np.int8)
    genotypes = standardise([pack(counts[:, :9]), pack(counts[:, 9:])], 10)
    found = list(blocks(genotypes, 4))
    assert [block.start for block in found] == [0, 4, 8, 9, 13, 17, 21]
    np.testing.assert_array_equal(np.concatenate([block.packed for block in found]), pack(counts))


def test_masked_counts_are_refused_whatever_their_type():
    counts = np.array([[0, 1], [1, 2]], np.int8)
    with pytest.raises(ValueError, match="counts: has masked entries"):
        pack(np.ma.masked_array(counts, counts == 1))
