"""Symmetric matrices kept by half, against the whole ones."""

import numpy as np
import pytest

from gpu_reml.reml.engines.triangles import ROWS, Triangles


def matrices(count: int, size: int) -> np.ndarray:
    Ks = np.random.default_rng(size).standard_normal((count, size, size))
    return Ks + Ks.transpose(0, 2, 1)


def kept(Ks: np.ndarray, dtype: type = np.float64) -> Triangles:
    """Only the upper triangles are there to be taken."""
    found = Triangles(len(Ks), Ks.shape[1], dtype)
    for K in Ks:
        found.append(np.triu(K) + np.tril(np.full_like(K, 1e6), -1))
    return found


@pytest.mark.parametrize("size", [1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
def test_everything_asked_of_triangles_is_that_of_the_matrices(size):
    Ks, rng = matrices(3, size), np.random.default_rng(0)
    triangles, theta, x = kept(Ks), rng.standard_normal(3), rng.standard_normal(size)
    A = matrices(1, size)[0]
    np.testing.assert_allclose(np.triu(triangles.combine(theta)), np.triu(np.tensordot(theta, Ks, 1)), atol=1e-12)
    np.testing.assert_allclose(triangles.images(x), (Ks @ x).T, atol=1e-11)
    np.testing.assert_allclose(triangles.traces_with(np.triu(A)), np.einsum("ij,gji->g", A, Ks), rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(triangles.traces, np.trace(Ks, axis1=1, axis2=2), rtol=1e-12)
    np.testing.assert_allclose(triangles.inner, np.einsum("gij,hji->gh", Ks, Ks), rtol=1e-10, atol=1e-9)


def test_what_is_kept_in_float32_is_rounded_once_and_computed_in_float64():
    Ks = matrices(2, ROWS + 9)
    rounded, x = Ks.astype(np.float32).astype(np.float64), np.random.default_rng(1).standard_normal(ROWS + 9)
    found = kept(Ks, np.float32)
    assert np.abs(rounded - Ks).max() > 0
    np.testing.assert_allclose(found.images(x), (rounded @ x).T, atol=1e-12)
    np.testing.assert_allclose(found.inner, np.einsum("gij,hji->gh", rounded, rounded), rtol=1e-12, atol=1e-9)


def test_triangles_take_half_of_the_matrices():
    numbers = sum(panel.size for panel in Triangles(4, 1000)._panels)
    assert 4 * 1000**2 / 2 < numbers < 4 * 1000 * (1000 + ROWS) / 2 * 1.01
