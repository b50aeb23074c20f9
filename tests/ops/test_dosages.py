"""Dosages as genotypes: every product equals that of the dense matrix that NumPy makes from them."""

import numpy as np
import pytest
from scipy import sparse

from gpu_reml.ops import CpuProducts, code_values, make_covariance, make_products, pack, standardise, to_dense
from gpu_reml.ops.device.plan import Shape
from gpu_reml.ops.device.pool import size_class
from gpu_reml.ops.device.products import Residency, make_device_products
from gpu_reml.ops.dosages import dosages_of_calls, encode_dosages
from gpu_reml.validation.host_device import HostDevice

N, M, FIRST_PART = 203, 310, 100
STEPS = {8: 127, 16: 16384}  # codes in one copy of the allele
TYPE = {8: np.uint8, 16: np.uint16}
MISSING = {8: 255, 16: 65535}
FIXED, UNCALLED, RARE = 7, 8, 150


def draw_dosages(bits, n=N, m=M):
    """(codes (m, n), copies (n, m) with NaN): one variant that does not vary, one never called, one hardly varying."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2 * STEPS[bits] + 1, (m, n)).astype(TYPE[bits])
    codes[RARE] = 2 * STEPS[bits]
    codes[RARE, 5] -= 1
    codes[rng.random((m, n)) < 0.05] = MISSING[bits]
    codes[RARE, 5] = 2 * STEPS[bits] - 1
    codes[FIXED], codes[UNCALLED] = 77, MISSING[bits]
    return codes, np.where(codes == MISSING[bits], np.nan, codes / STEPS[bits]).T


def dense_z(copies):
    Z = np.zeros(copies.shape)
    for j in range(copies.shape[1]):
        called = copies[~np.isnan(copies[:, j]), j]
        if len(called) and np.ptp(called) > 0:
            # about the first: the SD of a variant that hardly varies is lost when its mean is subtracted from 2
            deviation = called - called[0]
            Z[:, j] = np.nan_to_num((copies[:, j] - called[0] - deviation.mean()) / deviation.std())
    return Z


@pytest.fixture(scope="module", params=[8, 16], ids=["8 bits", "16 bits"])
def cohort(request):
    codes, copies = draw_dosages(request.param)
    return standardise([codes[:FIRST_PART], codes[FIRST_PART:]], N, request.param), dense_z(copies), copies


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def assert_close(found, expected, tolerance):
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_moments_are_those_of_the_called_dosages(cohort):
    genotypes, _, copies = cohort
    called = ~np.isnan(copies)
    np.testing.assert_array_equal(genotypes.num_called, called.sum(axis=0))
    some = called.any(axis=0)
    np.testing.assert_allclose(genotypes.mean[some], np.nanmean(copies[:, some], axis=0), rtol=1e-14)
    varies = some & (np.arange(M) != FIXED)
    np.testing.assert_array_equal(genotypes.inv_sd > 0, varies)
    np.testing.assert_allclose(1 / genotypes.inv_sd[varies], np.nanstd(copies[:, varies], axis=0), rtol=1e-9)


def test_the_sd_of_a_dosage_that_one_sample_has_otherwise_is_exact():
    codes = np.full((1, 100_000), 32768, np.uint16)
    codes[0, 17] = 32767
    n = codes.shape[1]
    expected = 2.0**14 / np.sqrt((1 - 1 / n) / n)
    np.testing.assert_allclose(standardise([codes], n, 16).inv_sd, expected, rtol=1e-14)


def operators(genotypes):
    return [
        (CpuProducts(genotypes, np.float64), 1e-10),
        (CpuProducts(genotypes, np.float64, block_width=37, chunk_bytes=256), 1e-10),
        (CpuProducts(genotypes), 1e-6),
        (CpuProducts(genotypes, block_width=37, chunk_bytes=128), 1e-6),
    ]


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("k", [1, 40])
def test_products_on_the_cpu_equal_those_of_the_dense_matrix(cohort, rng, which, k):
    genotypes, Z, _ = cohort
    products, tolerance = operators(genotypes)[which]
    B, U, w = rng.standard_normal((N, k)), rng.standard_normal((M, k)), rng.random(M)
    assert_close(products.zt(B), Z.T @ B, tolerance)
    assert_close(products.z(U), Z @ U, tolerance)
    assert_close(products.weighted(B, w), Z @ (w[:, None] * (Z.T @ B)), tolerance)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize(("groups", "density"), [(4, 0.9), (40, 0.02)], ids=["dense groups", "scattered groups"])
def test_grouped_products_and_diagonals_equal_the_dense_ones(cohort, rng, which, groups, density):
    genotypes, Z, _ = cohort
    products, tolerance = operators(genotypes)[which]
    U, W = rng.standard_normal((M, 3)), rng.random((M, groups)) * (rng.random((M, groups)) < density)
    weights = sparse.csr_array(W)
    assert products._is_scattered(weights) == (density < 0.1)
    grouped = products.grouped(U, weights)
    assert_close(grouped, np.stack([Z @ (W[:, [g]] * U) for g in range(groups)]), tolerance)
    assert_close(products.squared_norms_by_sample(weights), Z**2 @ W, tolerance)
    assert_close(products.core(U[:N], weights)[0], U[:N].T @ (Z * W[:, 0]) @ Z.T @ U[:N], 2 * tolerance)


def test_the_dense_matrix_is_that_of_the_dosages(cohort):
    genotypes, Z, _ = cohort
    np.testing.assert_allclose(to_dense(genotypes), Z, atol=1e-10)


def test_traces_of_a_covariance_of_dosages_are_those_of_the_dense_one(cohort):
    genotypes, Z, _ = cohort
    covariance = make_covariance(make_products(genotypes, "cpu", np.float64))
    m = np.count_nonzero(Z.any(axis=0))
    np.testing.assert_allclose(covariance.traces, [np.trace(Z @ Z.T) / m], rtol=1e-12)
    np.testing.assert_allclose(covariance.apply([1.0], np.eye(N)), Z @ Z.T / m, atol=1e-10)


@pytest.mark.parametrize(
    "residency", [Residency(), Residency(64 * 448), Residency(64 * 448, 64 * 448, 2)], ids=["one", "pieces", "streamed"]
)
def test_products_on_a_device_equal_those_of_the_dense_matrix(cohort, rng, residency):
    genotypes, Z, _ = cohort
    products = make_device_products(genotypes, [HostDevice()], residency)
    B, U, w = rng.standard_normal((N, 3)), rng.standard_normal((M, 3)), rng.random(M)
    W = sparse.csr_array(rng.random((M, 4)) * (rng.random((M, 4)) < 0.4))
    for _ in range(2):  # the ring goes round
        assert_close(products.zt(B), Z.T @ B, 1e-6)
        assert_close(products.z(U), Z @ U, 1e-6)
        assert_close(products.weighted(B, w), Z @ (w[:, None] * (Z.T @ B)), 1e-6)
    assert_close(products.squared_norms_by_sample(W), Z**2 @ W, 1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["portable", pytest.param("tensor", marks=pytest.mark.device)])
@pytest.mark.parametrize("bits", [8, 16])
def test_both_sets_of_kernels_multiply_the_dosages_that_a_device_holds(rng, bits, kernels):
    from gpu_reml.ops.cuda.device import CudaDevice

    n, m = 37, 70
    codes, copies = draw_dosages(bits, n, 310)
    codes, Z = codes[:m], dense_z(copies)[:, :m]
    products = make_device_products(standardise([codes], n, bits), [CudaDevice(kernels=kernels)])
    B, w = rng.standard_normal((n, 2)), rng.random(m)
    assert_close(products.zt(B), Z.T @ B, 1e-6)
    assert_close(products.weighted(B, w), Z @ (w[:, None] * (Z.T @ B)), 1e-6)
    W = sparse.csr_array(np.ones((m, 1)))
    assert_close(products.squared_norms_by_sample(W), Z**2 @ W.toarray(), 1e-6)


def test_a_plan_counts_the_bytes_that_dosages_take():
    calls, dosages = Shape(8000, (64,), 64, 64, 0), Shape(8000, (64,), 64, 64, 0, bits=16)
    assert calls.pieces(1 << 20) == [(size_class(64 * 2048), 1)]
    assert dosages.pieces(1 << 20) == [(size_class(64 * 16000), 1)]


@pytest.mark.parametrize("bits", [8, 16])
def test_calls_are_dosages_of_whole_copies(bits):
    counts = np.array([[0, 1, 2, -127, 2], [2, 2, 1, 0, -127]], np.int8).T
    out = np.empty((2, 4), TYPE[bits])
    dosages_of_calls(pack(counts), bits, np.array([4, 0, 3, 1]), out)
    whole = STEPS[bits]
    assert out.tolist() == [[2 * whole, 0, MISSING[bits], whole], [MISSING[bits], 2 * whole, 0, 2 * whole]]


@pytest.mark.parametrize("bits", [8, 16])
def test_copies_are_encoded_to_the_nearest_code(bits):
    copies = np.array([[0, 2, -9, np.nan, 1.23456, 0.4 / STEPS[bits], 1.6 / STEPS[bits]]], np.float32)
    out = np.empty((1, 7), TYPE[bits])
    encode_dosages(copies, bits, np.arange(7), out)
    near = round(1.23456 * STEPS[bits])
    assert out.tolist() == [[0, 2 * STEPS[bits], MISSING[bits], MISSING[bits], near, 0, 2]]


def test_dosages_of_another_type_or_width_are_refused():
    with pytest.raises(ValueError, match=r"parts\[0\]: expected uint16 of shape .* found uint8 \(2, 5\)"):
        standardise([np.zeros((2, 5), np.uint8)], 5, 16)
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(variants, 5\) .* found uint8 \(2, 2\)"):
        standardise([np.zeros((2, 2), np.uint8)], 5, 8)
    with pytest.raises(ValueError, match="bits: expected 2 for calls, 8 or 16 for dosages, found 4"):
        standardise([np.zeros((2, 5), np.uint8)], 5, 4)


def test_dosages_have_no_table_of_two_bit_codes(cohort):
    with pytest.raises(ValueError, match="expected calls of 2 bits, found dosages"):
        code_values(cohort[0])
