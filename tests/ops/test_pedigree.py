"""Pedigrees against the tabular method, which forms A entry by entry."""

import numpy as np
import pytest

from gpu_reml.ops import PedigreeCovariance, inverse_relationship, make_pedigree
from gpu_reml.validation import check_operator
from gpu_reml.validation.herds import random_pedigree, tabular_relationship


@pytest.fixture(scope="module")
def shuffled():
    """(sire, dam, A) of inbred animals that are not in the order of their birth."""
    sire, dam = random_pedigree(150, 12, seed=3)
    A = tabular_relationship(sire, dam)
    new = np.random.default_rng(0).permutation(150)
    place = np.append(np.argsort(new), -1)
    return place[sire[new]], place[dam[new]], A[np.ix_(new, new)]


def test_inbreeding_and_products_are_those_of_the_tabular_matrix(shuffled):
    sire, dam, A = shuffled
    pedigree = make_pedigree(sire, dam)
    np.testing.assert_allclose(1 + pedigree.inbreeding, np.diag(A), atol=1e-14)
    assert pedigree.inbreeding.max() > 0.2
    found, B = PedigreeCovariance(pedigree), np.random.default_rng(1).standard_normal((150, 37))
    np.testing.assert_allclose(found.apply([2.0], B), 2 * A @ B, atol=1e-12)
    F = found.features(B)
    np.testing.assert_allclose(found.gram(F)[0], B.T @ A @ B, atol=1e-11)
    np.testing.assert_allclose(found.inner(F, F)[0], np.diag(B.T @ A @ B), atol=1e-11)
    np.testing.assert_allclose(found.traces, [np.trace(A)])
    assert all(report.ok for report in check_operator(found))


def test_the_sparse_inverse_is_that_of_the_matrix(shuffled):
    sire, dam, A = shuffled
    inverse = inverse_relationship(make_pedigree(sire, dam))
    np.testing.assert_allclose(inverse.toarray() @ A, np.eye(150), atol=1e-10)
    assert inverse.nnz < 9 * 150


def test_a_large_pedigree_is_inbred_as_its_parents_are_related():
    sire, dam = random_pedigree(100_000, 2_000, seed=1, window=20_000, every=2_000)
    found = make_pedigree(sire, dam)
    covariance = PedigreeCovariance(found)
    some = np.flatnonzero((sire >= 0) & (dam >= 0))[-32:]
    unit = np.zeros((100_000, 32))
    unit[sire[some], np.arange(32)] = 1
    np.testing.assert_allclose(
        found.inbreeding[some], covariance.apply([0.5], unit)[dam[some], np.arange(32)], atol=1e-12
    )
    arrays = [value for value in vars(found).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 5 * 8 * 100_000  # in proportion to the animals


def test_an_animal_that_is_its_own_ancestor_is_named():
    with pytest.raises(ValueError, match=r"animal [012] is its own ancestor"):
        make_pedigree([2, 0, 1], [-1, -1, -1])
    with pytest.raises(ValueError, match="animal 2 has the same sire and dam, 0"):
        make_pedigree([-1, -1, 0], [-1, -1, 0])
    with pytest.raises(ValueError, match=r"sire: expected rows from 0 to 1, or -1"):
        make_pedigree([-1, 2], [-1, -1])
