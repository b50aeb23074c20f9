import threading
import time

import numpy as np
import pytest
from scipy import sparse

from gpu_reml.ops import CpuProducts, cpu, make_covariance, pack, standardise, to_dense
from gpu_reml.ops.cpu import weighted_gram

MISSING = -127
N, M = 203, 310


def dense_z(counts):
    """Standardised genotypes by NumPy alone."""
    values = np.where(counts == MISSING, np.nan, counts.astype(float))
    Z = np.zeros(counts.shape)
    for j in range(counts.shape[1]):
        called = values[~np.isnan(values[:, j]), j]
        if len(called) and called.std() > 0:
            Z[:, j] = np.nan_to_num((values[:, j] - called.mean()) / called.std())
    return Z


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(3)
    counts = rng.choice(np.array([0, 1, 2, MISSING], np.int8), size=(N, M), p=[0.55, 0.3, 0.12, 0.03])
    counts[:, 7], counts[:, 8] = 2, MISSING
    genotypes = standardise([pack(counts[:, :100]), pack(counts[:, 100:])], N)
    return genotypes, dense_z(counts), rng


def operators(genotypes):
    """The same products under different tilings: they must agree, and with the dense matrix."""
    return [
        (CpuProducts(genotypes, np.float64), 1e-13),
        (CpuProducts(genotypes, np.float64, block_width=37, chunk_bytes=256), 1e-13),
        (CpuProducts(genotypes), 2e-6),
        (CpuProducts(genotypes, block_width=37, chunk_bytes=128), 2e-6),
    ]


def assert_close(found, expected, tol):
    assert np.abs(found - expected).max() <= tol * np.abs(expected).max()


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("k", [1, 5, 40])
def test_products_equal_those_of_the_dense_matrix(cohort, which, k):
    genotypes, Z, rng = cohort
    products, tol = operators(genotypes)[which]
    B, U, w = rng.standard_normal((N, k)), rng.standard_normal((M, k)), rng.random(M)
    before = B.copy()
    assert_close(products.zt(B), Z.T @ B, tol)
    assert_close(products.z(U), Z @ U, tol)
    assert_close(products.weighted(B, w), Z @ (w[:, None] * (Z.T @ B)), tol)
    np.testing.assert_array_equal(B, before)


@pytest.mark.parametrize("which", range(4))
def test_grouped_products_and_diagonals_equal_the_dense_ones(cohort, which):
    genotypes, Z, rng = cohort
    products, tol = operators(genotypes)[which]
    U = rng.standard_normal((M, 3))
    W = rng.random((M, 4)) * (rng.random((M, 4)) < 0.4)
    grouped = products.grouped(U, sparse.csr_array(W))
    for g in range(4):
        assert_close(grouped[g], Z @ (W[:, [g]] * U), tol)
    assert_close(products.squared_norms_by_sample(sparse.csr_array(W)), Z**2 @ W, tol)


def test_to_dense_is_the_standardised_matrix(cohort):
    genotypes, Z, _ = cohort
    np.testing.assert_allclose(to_dense(genotypes), Z, atol=1e-12)


def test_adjoint_of_zt_is_z(cohort):
    genotypes, _, rng = cohort
    products = CpuProducts(genotypes, np.float64)
    B, U = rng.standard_normal((N, 2)), rng.standard_normal((M, 2))
    np.testing.assert_allclose(np.sum(products.zt(B) * U), np.sum(B * products.z(U)), rtol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_gram_matrices_of_components_are_the_dense_ones_however_many_threads_share_them(cohort, threads, monkeypatch):
    genotypes, _, rng = cohort
    used = set()
    monkeypatch.setattr(cpu, "get_num_threads", lambda: threads)
    A, B = rng.standard_normal((M, 5)).astype(np.float32), rng.standard_normal((M, 9)).astype(np.float32)
    W = rng.random((M, 12)) * (rng.random((M, 12)) < 0.4)
    alone = CpuProducts(genotypes).gram(A, B, sparse.csr_array(W))

    def noted(*arguments):
        used.add(threading.get_ident())
        time.sleep(0.01)  # so that no thread takes all of them
        return weighted_gram(*arguments)

    monkeypatch.setattr(cpu, "ALONE", 0)
    monkeypatch.setattr(cpu, "weighted_gram", noted)
    shared = CpuProducts(genotypes).gram(A, B, sparse.csr_array(W))
    assert (shared == alone).all() and len(used) == threads and threading.get_ident() not in used
    for g in range(12):
        np.testing.assert_allclose(shared[g], A.T.astype(float) @ (W[:, [g]] * B), rtol=1e-12, atol=1e-12)


def test_covariance_traces_and_forms_equal_the_dense_ones(cohort):
    genotypes, Z, rng = cohort
    W = rng.random((M, 3)) * (rng.random((M, 3)) < 0.5)
    covariance = make_covariance(CpuProducts(genotypes, np.float64), W, ["a", "b", "c"])
    varies = genotypes.inv_sd > 0
    Ks = [(Z * W[:, g]) @ Z.T / W[varies, g].sum() for g in range(3)]
    A, B = rng.standard_normal((2, N, 4))
    FA, FB = covariance.features(A), covariance.features(B)
    np.testing.assert_allclose(covariance.traces, [np.trace(K) for K in Ks], rtol=1e-12)
    np.testing.assert_allclose(covariance.diagonals(), np.stack([np.diag(K) for K in Ks], axis=1), rtol=1e-10)
    for g, K in enumerate(Ks):
        np.testing.assert_allclose(covariance.inner(FA, FB)[g], np.sum(A * (K @ B), axis=0), rtol=1e-10)
        np.testing.assert_allclose(covariance.gram(FA)[g], A.T @ K @ A, rtol=1e-10, atol=1e-10)
        both = np.concatenate([A, B], axis=1)
        np.testing.assert_allclose(covariance.grams((FA,), FB)[g], both.T @ K @ B, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(covariance.apply_each(FA)[g], K @ A, rtol=1e-10, atol=1e-10)
    theta = np.array([0.3, 0.0, 1.2])
    expected = sum(t * K for t, K in zip(theta, Ks, strict=True)) @ B
    np.testing.assert_allclose(covariance.apply(theta, B), expected, rtol=1e-10, atol=1e-10)


def test_trace_normalisation_makes_the_mean_diagonal_one(cohort):
    genotypes, _, _ = cohort
    covariance = make_covariance(CpuProducts(genotypes), normalise="trace")
    np.testing.assert_allclose(covariance.traces, N, rtol=1e-12)


def test_flipping_alleles_leaves_the_covariance_unchanged():
    counts = np.random.default_rng(5).choice(np.array([0, 1, 2, MISSING], np.int8), size=(30, 50))
    flipped = np.where(counts == MISSING, counts, 2 - counts).astype(np.int8)
    B = np.eye(30)
    theta = np.ones(1)
    one, other = (
        make_covariance(CpuProducts(standardise([pack(c)], 30), np.float64)).apply(theta, B) for c in (counts, flipped)
    )
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_component_without_polymorphic_variants_is_named(cohort):
    genotypes, _, _ = cohort
    W = np.zeros((M, 2))
    W[:7, 0] = W[[7, 8], 1] = 1
    with pytest.raises(ValueError, match="component still: none of its variants varies"):
        make_covariance(CpuProducts(genotypes), W, ["moving", "still"])


def test_negative_weights_are_refused_with_the_component(cohort):
    genotypes, _, _ = cohort
    W = np.ones((M, 2))
    W[3, 1] = -1
    with pytest.raises(ValueError, match="component b: weights must be finite and not negative"):
        make_covariance(CpuProducts(genotypes), W, ["a", "b"])


def test_a_block_of_the_wrong_height_is_refused(cohort):
    with pytest.raises(ValueError, match=r"B: expected \(203, k\), found \(5, 2\)"):
        CpuProducts(cohort[0]).zt(np.ones((5, 2)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scattered_groups_are_the_dense_product_of_each(dtype):
    rng = np.random.default_rng(9)
    counts = rng.choice(np.array([0, 1, 2, -127], np.int8), (203, 700), p=[0.4, 0.35, 0.2, 0.05])
    genotypes = standardise([pack(counts[:, :301]), pack(counts[:, 301:])], 203)
    weights = sparse.csr_array(rng.random((700, 40)) * (rng.random((700, 40)) < 0.05))
    products = CpuProducts(genotypes, dtype)
    assert products._is_scattered(weights)
    U = rng.standard_normal((700, 3)).astype(dtype)
    Z = to_dense(genotypes)
    expected = np.stack([Z @ (weights[:, [g]].toarray() * U) for g in range(40)])
    tolerance = 5e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(products.grouped(U, weights), expected, atol=tolerance * np.abs(expected).max())
