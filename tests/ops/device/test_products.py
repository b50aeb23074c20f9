"""Products of the device backend against NumPy in float64: resident, streamed and shared out, on any device."""

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.ops.device.block import DeviceBlock, ShardedBlock
from gpu_reml.ops.device.pool import DeviceMemoryError
from gpu_reml.ops.device.products import Residency, make_device_products
from gpu_reml.ops.device.store import pieces
from gpu_reml.ops.weights import BlockWeights
from gpu_reml.validation.host_device import HostDevice

MISSING = -127
N, M, FIRST_PART = 77, 330, 200  # n % 4 = 1, n % 16 = 13; parts of 200 and 130 variants, pieces of 64 and 128
ROW = 64  # bytes of a packed row on a device
TOLERANCE = 2e-6  # of the largest entry

LAYOUTS = {
    "resident": (1, Residency()),
    "in small pieces": (1, Residency(64 * ROW)),
    "half of it streamed": (1, Residency(64 * ROW, 3 * 64 * ROW, 2)),
    "all streamed": (1, Residency(128 * ROW, 0, 3)),
    "through one buffer": (1, Residency(64 * ROW, 0, 1)),
    "on three devices": (3, Residency()),
    "on two devices, streamed": (2, Residency(64 * ROW, 64 * ROW, 2)),
}


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
    counts[:, 7], counts[:, 245] = 2, MISSING
    return standardise([pack(counts[:, :FIRST_PART]), pack(counts[:, FIRST_PART:])], N), dense_z(counts)


def make(genotypes, layout="resident", **options):
    number, residency = LAYOUTS[layout]
    return make_device_products(genotypes, [HostDevice(label=str(d)) for d in range(number)], residency, **options)


@pytest.fixture(params=LAYOUTS)
def products(cohort, request):
    return make(cohort[0], request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def sparse_weights(rng, groups=4, density=0.4):
    """(M, groups) overlapping weights; group 1 lies in the first part only and group 2 has none."""
    W = rng.random((M, groups)) * (rng.random((M, groups)) < density)
    W[FIRST_PART:, 1] = W[:, 2] = 0
    return W


def assert_close(found, expected, tolerance=TOLERANCE):
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_products_equal_those_of_the_dense_matrix(cohort, products, rng):
    Z = cohort[1]
    B, U, w = rng.standard_normal((N, 3)), rng.standard_normal((M, 3)), rng.random(M) * (rng.random(M) < 0.7)
    w[64:128] = 0  # a piece without weight
    before = B.copy(), U.copy(), w.copy()
    for _ in range(2):  # the ring goes round
        assert_close(products.zt(B), Z.T @ B)
        assert_close(products.z(U), Z @ U)
        assert_close(products.weighted(B, w), Z @ (w[:, None] * (Z.T @ B)))
    for array, copy in zip((B, U, w), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("layout", [sparse.csr_array, sparse.csc_array, sparse.csr_matrix])
def test_grouped_products_and_diagonals_equal_the_dense_ones(cohort, products, rng, layout):
    Z = cohort[1]
    U, W = rng.standard_normal((M, 2)), sparse_weights(rng)
    grouped = products.grouped(U, layout(W))
    assert len(grouped) == 4
    for g, found in enumerate(grouped):
        assert_close(found, Z @ (W[:, [g]] * U))
    assert not np.asarray(grouped[2]).any()
    assert_close(products.squared_norms_by_sample(layout(W)), Z**2 @ W)


@pytest.mark.parametrize(("groups", "density"), [(20, 1.0), (20, 0.02)])
def test_groups_that_overlap_everywhere_and_scattered_ones_equal_the_dense_ones(cohort, products, rng, groups, density):
    U, W = rng.standard_normal((M, 1)), sparse_weights(rng, groups, density)
    for g, found in enumerate(products.grouped(U, sparse.csr_array(W))):
        assert_close(found, cohort[1] @ (W[:, [g]] * U))


def test_inner_products_and_grams_of_features_equal_the_dense_ones(products, rng):
    FA, FB, W = rng.standard_normal((M, 3)), rng.standard_normal((M, 3)), sparse_weights(rng)
    FA, FB = (np.float64(np.float32(F)) for F in (FA, FB))
    weights = sparse.csr_array(W)
    np.testing.assert_allclose(products.inner(FA, FB, weights), np.einsum("jg,jk,jk->gk", W, FA, FB), atol=1e-9)
    np.testing.assert_allclose(products.gram(FA, None, weights), np.einsum("jg,ja,jb->gab", W, FA, FA), atol=1e-9)
    both = np.concatenate([FB, FA], axis=1)
    expected = np.einsum("jg,ja,jb->gab", W, both, FA)
    np.testing.assert_allclose(products.grams((FB,), FA, weights), expected, atol=1e-9)


@pytest.mark.parametrize("density", [0.2, 0.9], ids=["listed", "side by side"])
@pytest.mark.parametrize("layout", ["in small pieces", "on two devices, streamed"])
def test_weights_of_groups_cross_the_bus_once_until_others_come(cohort, rng, density, layout):
    products = make(cohort[0], layout)
    first, second = (sparse.csr_array(rng.random((M, 30)) * (rng.random((M, 30)) < density)) for _ in range(2))
    U = products.features(rng.standard_normal((M, 3)).astype(np.float32))

    def crossed(weights):
        before = [len(shard.device.uploaded) for shard in products.shards]
        for found, column in zip(products.grouped(U, weights), weights.T.toarray(), strict=True):
            assert_close(found, cohort[1] @ (column[:, None] * np.asarray(U)), TOLERANCE)
        shapes = [s for shard, i in zip(products.shards, before, strict=True) for s in shard.device.uploaded[i:]]
        return [shape for shape in shapes if shape[0] != N]  # sums over devices visit the first

    assert crossed(first) and not crossed(first)
    np.asarray(products.z(U, rng.random(M)))
    assert not crossed(first)
    assert crossed(second) and not crossed(second)


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["portable", pytest.param("tensor", marks=pytest.mark.device)])
def test_products_on_cuda_equal_those_of_the_dense_matrix(rng, kernels):
    from gpu_reml.ops.cuda.device import CudaDevice

    n, m = 21, 80  # small, for the simulator; the second of two pieces streams
    counts = rng.choice(np.array([0, 1, 2, MISSING], np.int8), (n, m), p=[0.5, 0.3, 0.15, 0.05])
    Z, weights = dense_z(counts), BlockWeights([np.eye(64), np.eye(16) + 0.5])
    residency = Residency(64 * ROW, 64 * ROW, 2)
    products = make_device_products(
        standardise([pack(counts)], n), [CudaDevice(kernels=kernels)], residency, weights.starts
    )
    assert products.shards[0].store.num_streamed == 1
    assert ("integers" in products.arithmetic) == (kernels == "tensor")
    B, U, w = (rng.standard_normal(shape) for shape in ((n, 2), (m, 2), m))
    W = rng.random((m, 2)) * (rng.random((m, 2)) < 0.5)
    assert_close(products.zt(B), Z.T @ B)
    assert_close(products.weighted(B, w), Z @ (w[:, None] * (Z.T @ B)))
    for found, column in zip(products.grouped(U, sparse.csr_array(W)), W.T, strict=True):
        assert_close(found, Z @ (column[:, None] * U))
    assert_close(products.squared_norms_by_sample(sparse.csr_array(W)), Z**2 @ W)
    assert_close(products.inner(U, U, sparse.csr_array(W)), W.T @ U**2)
    ZB = Z.T @ B
    ZB[64:] += 0.5 * ZB[64:].sum(axis=0)
    assert_close(products.weighted(B, weights), Z @ ZB)


def test_the_core_of_a_block_is_its_gram_without_features_kept(cohort, products, rng, monkeypatch):
    monkeypatch.setattr("gpu_reml.ops.device.products.PRODUCT_COLUMNS", 2)
    B, W = rng.standard_normal((N, 5)), sparse_weights(rng)
    expected = np.einsum("jg,ja,jb->gab", W, cohort[1].T @ B, cohort[1].T @ B)
    assert_close(products.core(B, sparse.csr_array(W)), expected)
    assert_close(CpuProducts(cohort[0]).core(B, sparse.csr_array(W)), expected)
    assert_close(products.weighted(B, np.ones(M)), cohort[1] @ (cohort[1].T @ B))  # in batches of columns too


def test_block_diagonal_weights_stand_between_the_halves(cohort, rng):
    sizes = [1, 50, 30, 119, 70, 60]
    roots = [rng.standard_normal((size, size)) for size in sizes]
    weights = BlockWeights([root @ root.T / len(root) for root in roots])
    W = np.zeros((M, M))
    for matrix, start in zip(weights.matrices, weights.starts[:-1], strict=True):
        W[start : start + len(matrix), start : start + len(matrix)] = matrix
    B = rng.standard_normal((N, 3))
    expected = cohort[1] @ (W @ (cohort[1].T @ B))
    assert_close(CpuProducts(cohort[0]).weighted(B, weights), expected, 1e-5)
    for layout in LAYOUTS:
        products = make(cohort[0], layout, cuts=weights.starts)
        for _ in range(2):
            assert_close(products.weighted(B, weights), expected, 1e-5)


def test_weights_that_a_piece_would_cut_are_refused_with_the_remedy(cohort):
    weights = BlockWeights([np.eye(100), np.eye(230)])
    with pytest.raises(ValueError, match=r"make the products with cuts=weights.cuts"):
        make(cohort[0], "in small pieces").weighted(np.ones((N, 1)), weights)


def test_identity_blocks_are_the_ordinary_product_bit_for_bit(cohort, rng):
    weights, B = BlockWeights([100, 100, 130]), rng.standard_normal((N, 2))
    products = make(cohort[0], "in small pieces", cuts=weights.starts)
    expected = np.asarray(products.weighted(B, np.ones(M)))
    np.testing.assert_array_equal(np.asarray(products.weighted(B, weights)), expected)
    dense = BlockWeights([np.eye(size) for size in (100, 100, 130)])  # between halves that are float32
    assert_close(products.weighted(B, dense), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_covariance_on_devices_equals_the_dense_one(cohort, rng, layout):
    Z, W = cohort[1], rng.random((M, 2))
    varies = cohort[0].inv_sd > 0
    covariance = make_covariance(make(cohort[0], layout), W, ["a", "b"])
    B, theta = rng.standard_normal((N, 2)), np.array([0.4, 0.7])
    Ks = [(Z * W[:, g]) @ Z.T / W[varies, g].sum() for g in range(2)]
    assert covariance.backend == "cuda"
    assert_close(covariance.apply(theta, B), (theta[0] * Ks[0] + theta[1] * Ks[1]) @ B)
    features = covariance.features(B)
    assert isinstance(features, ShardedBlock)
    for found, K in zip(covariance.apply_each(features), Ks, strict=True):
        assert_close(found, K @ B)
    for found, K in zip(covariance.gram(features), Ks, strict=True):
        assert_close(found, B.T @ K @ B)


def test_the_bits_after_the_last_sample_are_not_read(cohort, rng):
    genotypes, Z = cohort
    parts = tuple(part.copy() for part in genotypes.parts)
    for part in parts:
        part[:, -1] |= 0b11111100  # one sample is in the last byte
    products = make(dataclasses.replace(genotypes, parts=parts))
    B, U = rng.standard_normal((N, 1)), rng.standard_normal((M, 1))
    assert_close(products.zt(B), Z.T @ B)
    assert_close(products.z(U), Z @ U)


def test_a_memory_map_is_streamed_without_being_read_whole(cohort, rng, tmp_path):
    genotypes, Z = cohort
    parts = []
    for number, part in enumerate(genotypes.parts):
        part.tofile(tmp_path / str(number))
        parts.append(np.memmap(tmp_path / str(number), np.uint8, "r", shape=part.shape))
    products = make(dataclasses.replace(genotypes, parts=tuple(parts)), "all streamed")
    store = products.shards[0].store
    assert store.num_streamed == 4 and products.lead.pool.held < 4 * 128 * ROW + 16384
    assert_close(products.zt(B := rng.standard_normal((N, 1))), Z.T @ B)


def test_pieces_cover_every_variant_once_and_never_cross_a_source(cohort):
    for width in (1, 64, 199, 1000):
        found = pieces(cohort[0], width)
        assert [j for piece in found for j in range(piece.start, piece.stop)] == list(range(M))
        assert all(piece.stop - piece.start <= width for piece in found)
        assert all(piece.start >= FIRST_PART or piece.stop <= FIRST_PART for piece in found)
        for piece in found:
            assert piece.start - piece.first == (0, FIRST_PART)[piece.part]


def test_pieces_end_at_cuts_and_a_long_stretch_stays_whole(cohort):
    found = pieces(cohort[0], 100, cuts=np.array([0, 30, 60, 200, 250, 330]))
    assert [piece.stop for piece in found] == [60, 200, 250, 330]


def test_columns_in_fortran_order_and_no_columns_are_accepted(cohort, products, rng):
    B = np.asfortranarray(rng.standard_normal((N, 3)))
    assert_close(products.zt(B), cohort[1].T @ B)
    assert np.asarray(products.zt(B[:, :0])).shape == (M, 0)
    assert np.asarray(products.weighted(B[:, :0], np.ones(M))).shape == (N, 0)
    assert [block.shape for block in products.grouped(np.ones((M, 0)), sparse.eye_array(M, 2))] == [(N, 0), (N, 0)]


def test_a_block_is_placed_once(products):
    block = products.block(np.ones((N, 2)))
    assert isinstance(block, DeviceBlock) and products.block(block) is block


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.zt(np.ones((5, 2))), r"B: expected \(77, k\), found \(5, 2\)"),
        (lambda p: p.zt(np.ones(N)), r"B: expected \(77, k\), found \(77,\)"),
        (lambda p: p.z(np.ones((N, 2))), r"U: expected \(330, k\), found \(77, 2\)"),
        (lambda p: p.weighted(np.ones((N, 2)), np.ones((M, 1))), r"w: expected \(330,\), found \(330, 1\)"),
        (lambda p: p.grouped(np.ones((M, 2)), sparse.eye_array(N)), r"weights: expected \(330, G\), found \(77, 77\)"),
    ],
)
def test_an_argument_of_the_wrong_shape_is_refused(cohort, call, message):
    with pytest.raises(ValueError, match=message):
        call(make(cohort[0]))


def test_genotypes_that_do_not_fit_are_an_error(cohort):
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        make_device_products(cohort[0], [HostDevice(memory=20000)])
    products = make_device_products(cohort[0], [HostDevice(memory=40000)], Residency(64 * ROW, 0, 2))
    assert products.peak_bytes["host device"] <= 40000


@pytest.mark.parametrize("settings", [{"piece_bytes": 0}, {"resident_bytes": -1}, {"ring_depth": 0}])
def test_impossible_residencies_are_refused(settings):
    with pytest.raises(ValueError, match="expected piece_bytes >= 1"):
        Residency(**settings)
