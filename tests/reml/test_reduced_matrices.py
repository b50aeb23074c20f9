"""Matrices of a basis that grows, against the whole ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_reml.reml.reduced_matrices import ReducedMatrices

sizes = st.lists(st.integers(1, 5), min_size=1, max_size=5)


def grown(sizes, seed, num_components=3):
    """Random symmetric matrices (G, d, d) and the same in pieces of ``sizes`` columns."""
    d = sum(sizes)
    A = np.random.default_rng(seed).standard_normal((num_components, d, d))
    A = A + A.transpose(0, 2, 1)
    pieces, last = ReducedMatrices(num_components), 0
    for size in sizes:
        last += size
        pieces = pieces.joined(A[:, :last, last - size : last].copy())
    return A, pieces


@settings(deadline=None)  # the first call compiles
@given(sizes, st.integers(0, 2**16))
def test_pieces_say_what_whole_matrices_say(sizes, seed):
    A, T = grown(sizes, seed)
    rng, d = np.random.default_rng(seed + 1), sum(sizes)
    theta, C, W = rng.standard_normal(3), rng.standard_normal((d, 4)), rng.standard_normal((2, d, d))
    W = W + W.transpose(0, 2, 1)
    assert T.size == d
    np.testing.assert_array_equal(T.whole(), A)
    np.testing.assert_allclose(T.weighted(theta), np.tensordot(theta, A, axes=1), atol=1e-12)
    np.testing.assert_allclose(T.times(C), A @ C, atol=1e-12)
    np.testing.assert_allclose(T.images(C[:, 0]), A @ C[:, 0], atol=1e-12)
    np.testing.assert_allclose(T.dots(*W), np.einsum("gab,wab->gw", A, W), atol=1e-11)
    np.testing.assert_allclose(T.traces, np.trace(A, axis1=1, axis2=2), atol=1e-12)


@given(sizes, st.integers(0, 2**16), st.data())
def test_products_that_are_known_of_a_smaller_basis_leave_the_same_bits(sizes, seed, data):
    _, T = grown(sizes, seed)
    C = np.random.default_rng(seed).standard_normal((T.size, 3))
    before = T._replace(pieces=T.pieces[: data.draw(st.integers(0, len(sizes)))])
    np.testing.assert_array_equal(T.times(C, before.times(C[: before.size])), T.times(C))


@pytest.mark.parametrize("size", [1, 6])
def test_whole_matrices_are_one_piece(size):
    A, _ = grown((size,), 0)
    np.testing.assert_array_equal(ReducedMatrices.of(A).whole(), A)


def test_an_empty_basis_has_matrices_of_nothing():
    T = ReducedMatrices(2)
    assert T.weighted(np.ones(2)).shape == (0, 0)
    assert T.dots(np.zeros((0, 0))).tolist() == [[0.0], [0.0]]
