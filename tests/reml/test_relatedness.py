"""Relatives and principal components against the dense matrix of relationships."""

import numpy as np
import pytest

from gpu_reml import ops
from gpu_reml.reml import CountingCovariance, principal_components, relatedness
from gpu_reml.validation import dense, simulate_cohort


@pytest.fixture(scope="module")
def cohort():
    """300 people in two populations, of whom two are there twice: (K, covariance)."""
    counts = simulate_cohort(300, 800, 3).counts
    counts[150:, :200] = np.where(np.random.default_rng(0).random((150, 200)) < 0.7, 2, counts[150:, :200])
    counts[40], counts[299] = counts[7], counts[160]
    genotypes = ops.standardise([ops.pack(counts)], 300)
    Z = dense.standardised(counts)
    K = Z @ Z.T / (genotypes.inv_sd > 0).sum()
    return K, ops.make_covariance(ops.make_products(genotypes, "cpu", np.float64))


def test_pairs_over_a_cutoff_are_those_of_the_matrix_for_every_width_of_blocks(cohort):
    K, covariance = cohort
    i, j = np.nonzero(np.triu(K, 1) > 0.2)
    for at_once in (7, 300):
        found = relatedness(covariance, 0.2, at_once=at_once)
        assert found.first.tolist() == i.tolist() and found.second.tolist() == j.tolist()
        np.testing.assert_allclose(found.relationship, K[i, j], atol=1e-9)
    assert found.duplicates.tolist() == [[7, 40], [160, 299]]


def test_no_pair_is_left_among_those_who_are_kept_and_each_who_went_had_a_relative(cohort):
    K, covariance = cohort
    found = relatedness(covariance, 0.35)
    kept = found.unrelated
    assert 0 < (~kept).sum() < 150 and not (np.triu(K, 1)[np.ix_(kept, kept)] > 0.35).any()
    left = np.flatnonzero(~kept)
    near = K > 0.35
    np.fill_diagonal(near, False)
    assert near[left].any(axis=1).all() and np.array_equal(found.unrelated, kept)


def test_a_hub_goes_and_not_its_relatives():
    K = np.eye(6)
    K[2, :] = K[:, 2] = 0.4
    K[2, 2] = 1
    assert relatedness(K, 0.1).unrelated.tolist() == [True, True, False, True, True, True]


def test_principal_components_are_the_leading_eigenvectors(cohort):
    K, covariance = cohort
    counting = CountingCovariance(covariance)
    found = principal_components(counting, 5, tol=1e-7)
    values, vectors = np.linalg.eigh(K)
    np.testing.assert_allclose(found.values, values[::-1][:5], rtol=1e-8)
    overlap = np.abs(np.sum(found.vectors * vectors[:, ::-1][:, :5], axis=0))
    np.testing.assert_allclose(overlap, 1, atol=1e-8)
    assert found.converged and found.column_passes == counting.column_passes < 300
    assert (found.vectors[np.abs(found.vectors).argmax(axis=0), np.arange(5)] > 0).all()
    again = principal_components(covariance, 5, seed=1, tol=1e-7)
    np.testing.assert_allclose(again.vectors, found.vectors, atol=1e-6)


def test_several_components_and_too_many_eigenvectors_are_refused(cohort):
    with pytest.raises(ValueError, match="expected one component, found 2"):
        relatedness([np.eye(3), np.ones((3, 3))])
    with pytest.raises(ValueError, match="at most 2 components of 3 samples"):
        principal_components(np.eye(3), 3)
