"""Products on a CUDA device against NumPy in float64.

Marked gpu: with NUMBA_ENABLE_CUDASIM=1 the same tests run in numba's simulator, which test_cuda_kernels.py does.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from gpu_reml.ops import make_covariance, pack, standardise
from gpu_reml.ops.cuda_device import missing_toolkit_libraries

if not missing_toolkit_libraries():  # numba.cuda cannot be imported without cudart
    from numba import cuda

    from gpu_reml.ops import cuda as backend
    from gpu_reml.ops.cuda import make_cuda_products

MISSING = -127
N, M, FIRST_PART = 77, 56, 40  # n % 4 = 1, n % 16 = 13; parts of 40 and 16 variants, tiles of 32
THREADS = 64  # small blocks: the simulator runs every thread in Python
TOLERANCE = 1e-6  # of the largest entry


def dense_z(counts):
    values = np.where(counts == MISSING, np.nan, counts.astype(float))
    Z = np.zeros(counts.shape)
    for j in range(counts.shape[1]):
        called = values[~np.isnan(values[:, j]), j]
        if len(called) and called.std() > 0:
            Z[:, j] = np.nan_to_num((values[:, j] - called.mean()) / called.std())
    return Z


@pytest.fixture(scope="module")
def cohort():
    """(packed genotypes in two parts, Z): missing calls, and one variant each monomorphic and never called."""
    counts = np.random.default_rng(3).choice(np.array([0, 1, 2, MISSING], np.int8), (N, M), p=[0.5, 0.3, 0.15, 0.05])
    counts[:, 7], counts[:, 45] = 2, MISSING
    return standardise([pack(counts[:, :FIRST_PART]), pack(counts[:, FIRST_PART:])], N), dense_z(counts)


@pytest.fixture
def products(cohort, poisoned_allocations):
    return make_cuda_products(cohort[0], threads=THREADS)


@pytest.fixture
def poisoned_allocations(monkeypatch):
    """Device memory that nobody wrote is NaN, so an entry that a kernel leaves out shows."""
    allocate = cuda.device_array

    def poisoned(shape, dtype):
        array = allocate(shape, dtype)
        array.copy_to_device(np.full(shape, np.nan, dtype))
        return array

    monkeypatch.setattr(cuda, "device_array", poisoned)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def sparse_weights(rng, groups=4):
    """(M, groups) overlapping weights; group 1 lies in the first part only and group 2 has none."""
    W = rng.random((M, groups)) * (rng.random((M, groups)) < 0.4)
    W[FIRST_PART:, 1] = W[:, 2] = 0
    return W


def assert_close(found, expected, tolerance=TOLERANCE):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.parametrize("k", [1, 3, 8, 33])
def test_products_equal_those_of_the_dense_matrix(cohort, products, rng, k):
    Z = cohort[1]
    B, U, w = rng.standard_normal((N, k)), rng.standard_normal((M, k)), rng.random(M) * (rng.random(M) < 0.7)
    before = B.copy(), U.copy(), w.copy()
    results = products.zt(B), products.z(U), products.weighted(B, w)
    for found, expected in zip(results, (Z.T @ B, Z @ U, Z @ (w[:, None] * (Z.T @ B))), strict=True):
        assert found.dtype == np.float32
        assert_close(found, expected)
    for array, copy in zip((B, U, w), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [sparse.csr_array, sparse.csc_array, sparse.csr_matrix])
def test_grouped_products_and_diagonals_equal_the_dense_ones(cohort, products, rng, layout):
    Z = cohort[1]
    U, W = rng.standard_normal((M, 3)), sparse_weights(rng)
    grouped, norms = products.grouped(U, layout(W)), products.squared_norms_by_sample(layout(W))
    assert_close(grouped, np.stack([Z @ (W[:, [g]] * U) for g in range(4)]))
    assert_close(norms, Z**2 @ W)
    assert not grouped[2].any() and not norms[:, 2].any()


@pytest.mark.gpu
def test_weights_may_list_their_variants_in_any_order(cohort, products, rng):
    W = sparse.csc_array(sparse_weights(rng)[:, :1])
    reversed_rows = sparse.csc_array((W.data[::-1], W.indices[::-1], W.indptr), W.shape)
    expected = cohort[1] ** 2 @ W.toarray()
    assert_close(products.squared_norms_by_sample(reversed_rows), expected)
    assert reversed_rows.indices[0] > reversed_rows.indices[-1]  # the caller's matrix was not sorted in place


@pytest.mark.gpu
def test_results_do_not_depend_on_the_size_of_a_thread_block(cohort, products, rng):
    others = make_cuda_products(cohort[0], threads=96)
    B, U, W = rng.standard_normal((N, 3)), rng.standard_normal((M, 3)), sparse.csr_array(sparse_weights(rng))
    np.testing.assert_array_equal(products.zt(B), others.zt(B))
    np.testing.assert_array_equal(products.z(U), others.z(U))
    np.testing.assert_array_equal(products.squared_norms_by_sample(W), others.squared_norms_by_sample(W))


@pytest.mark.gpu
def test_results_do_not_depend_on_the_block_of_variants(cohort, rng):
    Z, narrow = cohort[1], make_cuda_products(cohort[0], block_width=17, threads=THREADS)
    assert [block.stop - block.start for block in narrow.blocks] == [17, 17, 6, 16]
    B, U, w, W = rng.standard_normal((N, 1)), rng.standard_normal((M, 1)), rng.random(M), sparse_weights(rng)[:, 2:]
    assert_close(narrow.zt(B), Z.T @ B)
    assert_close(narrow.z(U), Z @ U)
    assert_close(narrow.weighted(B, w), Z @ (w[:, None] * (Z.T @ B)))
    assert_close(narrow.grouped(U, sparse.csr_array(W))[1], Z @ (W[:, [1]] * U))
    assert_close(narrow.squared_norms_by_sample(sparse.csr_array(W)), Z**2 @ W)


@pytest.mark.gpu
def test_the_bits_after_the_last_sample_are_not_read(cohort, rng):
    genotypes, Z = cohort
    parts = tuple(part.copy() for part in genotypes.parts)
    for part in parts:
        part[:, -1] |= 0b11111100  # one sample is in the last byte
    products = make_cuda_products(dataclasses.replace(genotypes, parts=parts), threads=THREADS)
    B, U = rng.standard_normal((N, 1)), rng.standard_normal((M, 1))
    assert_close(products.zt(B), Z.T @ B)
    assert_close(products.z(U), Z @ U)


@pytest.mark.gpu
def test_columns_in_fortran_order_and_no_columns_are_accepted(cohort, products, rng):
    B = np.asfortranarray(rng.standard_normal((N, 3)))
    assert_close(products.zt(B), cohort[1].T @ B)
    assert products.zt(B[:, :0]).shape == (M, 0)
    assert products.weighted(B[:, :0], np.ones(M)).shape == (N, 0)


@pytest.mark.gpu
def test_a_covariance_on_the_device_equals_the_dense_one(cohort, products, rng):
    Z, W = cohort[1], rng.random((M, 2))
    varies = cohort[0].inv_sd > 0
    covariance = make_covariance(products, W, ["a", "b"])
    B, theta = rng.standard_normal((N, 2)), np.array([0.4, 0.7])
    Ks = [(Z * W[:, g]) @ Z.T / W[varies, g].sum() for g in range(2)]
    assert covariance.backend == "cuda"
    assert_close(covariance.apply(theta, B), (theta[0] * Ks[0] + theta[1] * Ks[1]) @ B)
    assert_close(covariance.apply_each(covariance.features(B)), np.stack([K @ B for K in Ks]))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.zt(np.ones((5, 2))), r"B: expected \(77, k\), found \(5, 2\)"),
        (lambda p: p.zt(np.ones(N)), r"B: expected \(77, k\), found \(77,\)"),
        (lambda p: p.z(np.ones((N, 2))), r"U: expected \(56, k\), found \(77, 2\)"),
        (lambda p: p.weighted(np.ones((N, 2)), np.ones((M, 1))), r"w: expected \(56,\), found \(56, 1\)"),
        (lambda p: p.grouped(np.ones((M, 2)), sparse.eye_array(N)), r"weights: expected \(56, G\), found \(77, 77\)"),
    ],
)
def test_an_argument_of_the_wrong_shape_is_refused(products, call, message):
    with pytest.raises(ValueError, match=message):
        call(products)


@pytest.mark.gpu
def test_genotypes_larger_than_the_free_memory_are_refused_with_both_numbers(cohort, monkeypatch):
    context = SimpleNamespace(get_memory_info=lambda: SimpleNamespace(free=1000))
    monkeypatch.setattr(cuda, "current_context", lambda: context)
    with pytest.raises(ValueError, match=r"need 2,016 bytes on the device and 1,000 are free; use --device cpu"):
        make_cuda_products(cohort[0])


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_width": 0}, "block_width: expected a positive number of variants, found 0"),
        ({"threads": 48}, "threads: expected a multiple of 32 up to 256, found 48"),
        ({"threads": 288}, "threads: expected a multiple of 32 up to 256, found 288"),
    ],
)
def test_impossible_launch_settings_are_refused(cohort, options, message):
    with pytest.raises(ValueError, match=message):
        make_cuda_products(cohort[0], **options)


@pytest.mark.gpu
def test_products_without_a_device_are_refused_with_the_reason(cohort, monkeypatch):
    monkeypatch.setattr(backend, "cuda_available", lambda allow_simulator: False)
    monkeypatch.setattr(backend, "cuda_unavailable_reason", lambda: "the device is asleep")
    with pytest.raises(ValueError, match="no CUDA device can be used: the device is asleep"):
        make_cuda_products(cohort[0])
