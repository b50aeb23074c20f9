"""Algebra of blocks against NumPy in float64, on a device or in numba's simulator."""

import numpy as np
import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries

if not missing_toolkit_libraries():  # numba.cuda cannot be imported without cudart
    from gpu_reml.ops.cuda import algebra, tiles

TOLERANCE = 1e-6  # of the largest entry
FLOAT64_TOLERANCE = 1e-13


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def float32_block(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def assert_close(found, expected, tolerance=TOLERANCE):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "k"), [(301, 1), (40, 3), (5, 300)])
def test_combine_is_a_sum_of_scaled_columns(device, rng, n, k):
    A, B, a, b = float32_block(rng, n, k), float32_block(rng, n, k), float32_block(rng, k), float32_block(rng, k)
    operands = device.put(A), device.put(a), device.put(B), device.put(b)
    out, read = device.guarded(np.full((n, k), np.nan))
    algebra.launch_combine(*operands, out, device.stream)
    assert_close(read(), a.astype(float) * A + b.astype(float) * B)


@pytest.mark.gpu
def test_combine_may_write_over_either_operand_and_do_without_the_second(device, rng):
    A, B, a, b = float32_block(rng, 40, 3), float32_block(rng, 40, 3), float32_block(rng, 3), float32_block(rng, 3)
    for over in (0, 1):
        blocks = device.put(A), device.put(B)
        algebra.launch_combine(blocks[0], device.put(a), blocks[1], device.put(b), blocks[over], device.stream)
        assert_close(blocks[over].copy_to_host(), a * A + b * B)
    block = device.put(A)
    algebra.launch_combine(block, device.put(a), None, None, block, device.stream)
    np.testing.assert_array_equal(block.copy_to_host(), a * A)


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2999, 1), (700, 3), (50, 130)])
def test_column_dots_are_sums_in_float64(device, rng, n, k):
    A, B = float32_block(rng, n, k), float32_block(rng, n, k)
    out, read = device.guarded(np.full(k, np.nan), np.float64)
    algebra.launch_column_dots(device.put(A), device.put(B), out, device.allocate, device.stream)
    assert_close(read(), np.einsum("ij,ij->j", A.astype(float), B), FLOAT64_TOLERANCE)
    assert device.allocated_bytes == algebra.dots_scratch_bytes(n, k)


@pytest.mark.gpu
def test_column_dots_keep_what_float32_would_lose(device):
    """The products 2^30 - 2^30 + 1 are summed exactly only if both products and sums are float64."""
    A = np.array([[2.0**15, 2.0**-15], [-(2.0**15), 1 + 2.0**-12], [1.0, 0.0]])
    B = np.array([[2.0**15, 2.0**-15], [2.0**15, 1 + 2.0**-12], [1.0, 0.0]])
    out = device.empty(2, np.float64)
    algebra.launch_column_dots(device.put(A), device.put(B), out, device.allocate, device.stream)
    np.testing.assert_array_equal(out.copy_to_host(), [1.0, 2.0**-30 + (1 + 2.0**-12) ** 2])


@pytest.mark.gpu
@pytest.mark.parametrize("listed", [True, False])
def test_weighted_dots_sum_over_the_listed_rows(device, rng, listed):
    A, B = float32_block(rng, 90, 3), float32_block(rng, 90, 3)
    rows = rng.permutation(90)[:33] if listed else np.arange(90)
    w = rng.standard_normal(len(rows))
    out, read = device.guarded(np.full(3, np.nan), np.float64)
    on_device = device.put(rows, np.int32) if listed else None
    weights = device.put(w, np.float64)
    algebra.launch_weighted_dots(device.put(A), device.put(B), on_device, weights, out, device.allocate, device.stream)
    assert_close(read(), np.einsum("i,ij,ij->j", w, A[rows].astype(float), B[rows]), FLOAT64_TOLERANCE)


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "p", "q"), [(37, 1, 1), (75, 3, 2), (21, 5, 130)])
def test_gram_is_a_product_in_float64(device, rng, monkeypatch, n, p, q):
    monkeypatch.setattr(algebra, "GRAM_CHUNK_ROWS", 32)  # so that the simulator meets a split sum in few rows
    A, B = float32_block(rng, n, p), float32_block(rng, n, q)
    out, read = device.guarded(np.full((p, q), np.nan), np.float64)
    algebra.launch_gram(device.put(A), device.put(B), out, device.allocate, device.stream)
    assert_close(read(), A.T.astype(float) @ B, FLOAT64_TOLERANCE)
    assert device.allocated_bytes == algebra.gram_scratch_bytes(n, p, q)
    assert (n == 75) == (algebra.gram_shape(n, p, q)[0][2] > 1)


@pytest.mark.gpu
@pytest.mark.parametrize("listed", [True, False])
def test_weighted_gram_sums_over_the_listed_rows(device, rng, listed):
    A, B = float32_block(rng, 60, 4), float32_block(rng, 60, 66)
    rows = rng.permutation(60)[:25] if listed else np.arange(60)
    w = rng.standard_normal(len(rows))
    out, read = device.guarded(np.full((4, 66), np.nan), np.float64)
    on_device = device.put(rows, np.int32) if listed else None
    weights = device.put(w, np.float64)
    algebra.launch_weighted_gram(device.put(A), device.put(B), on_device, weights, out, device.allocate, device.stream)
    assert_close(read(), (A[rows] * w[:, None]).T @ B[rows].astype(float), FLOAT64_TOLERANCE)


@pytest.mark.gpu
def test_sums_over_no_rows_are_zero(device):
    A, rows, w = device.put(np.ones((4, 2))), np.zeros(0, np.int32), np.zeros(0)
    dots, gram = device.empty(2, np.float64), device.empty((2, 2), np.float64)
    algebra.launch_weighted_dots(A, A, rows, w, dots, device.allocate, device.stream)
    algebra.launch_weighted_gram(A, A, rows, w, gram, device.allocate, device.stream)
    out = device.empty((4, 3))
    algebra.launch_matmul(np.zeros((4, 0), np.float32), np.zeros((0, 3), np.float32), out, False, device.stream)
    for array in (dots, gram, out):
        assert not array.copy_to_host().any()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("n", "r", "k", "beta"), [(70, 21, 1, False), (66, 33, 4, True), (131, 17, 5, True), (9, 3, 70, False)]
)
def test_matmul_multiplies_and_may_add(device, rng, n, r, k, beta):
    A, C, there = float32_block(rng, n, r), float32_block(rng, r, k), float32_block(rng, n, k)
    out, read = device.guarded(there if beta else np.full((n, k), np.nan))
    algebra.launch_matmul(device.put(A), device.put(C), out, beta, device.stream)
    assert_close(read(), A.astype(float) @ C + (there if beta else 0))


@pytest.mark.gpu
def test_matmul_sums_are_compensated_from_segment_to_segment(device):
    A = np.zeros((1, 2 * tiles.SEGMENT + 3))
    A[0, :: tiles.SEGMENT] = 2.0**24, 1, 1
    out = device.empty((1, 1))
    algebra.launch_matmul(device.put(A), device.put(np.ones((A.size, 1))), out, False, device.stream)
    assert out.copy_to_host()[0, 0] == 2**24 + 2


@pytest.mark.gpu
@pytest.mark.parametrize("columns", [[4], [5, 0, 3]])
def test_take_and_put_move_columns(device, rng, columns):
    A = float32_block(rng, 97, 6)
    taken = device.empty((97, len(columns)))
    listed = device.put(columns, np.int32)
    algebra.launch_take(device.put(A), listed, taken, device.stream)
    np.testing.assert_array_equal(taken.copy_to_host(), A[:, columns])
    out, read = device.guarded(np.zeros((97, 6)))
    algebra.launch_put(taken, listed, out, device.stream)
    expected = np.zeros_like(A)
    expected[:, columns] = A[:, columns]
    np.testing.assert_array_equal(read(), expected)


@pytest.mark.gpu
def test_spread_scales_the_block_by_each_column_of_weights(device, rng):
    U, W = float32_block(rng, 31, 3), float32_block(rng, 31, 4)
    out, read = device.guarded(np.full((31, 12), np.nan))
    algebra.launch_spread(device.put(U), device.put(W), out, device.stream)
    np.testing.assert_array_equal(read(), np.concatenate([W[:, [g]] * U for g in range(4)], axis=1))


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "dtype"), [((300, 3), np.float32), (5, np.float64), ((2, 3, 4), np.float64)])
def test_fill_sets_every_entry(device, shape, dtype):
    out, read = device.guarded(np.zeros(shape), dtype)
    algebra.launch_fill(out, 0.1, device.stream)
    np.testing.assert_array_equal(read(), np.full(shape, 0.1, dtype))


@pytest.mark.parametrize("k", [1, 8, 33, 64, 65, 2000])
@pytest.mark.parametrize("n", [1, 1000, 10**6])
def test_launches_cover_their_arrays_within_bounded_scratch(n, k):
    (row_tiles, column_tiles), (x, y) = tiles.flat_shape(n, k)
    assert x * y <= tiles.FLAT_THREADS and row_tiles * y >= n and column_tiles * x >= k
    (chunks, column_tiles), (x, y), length = algebra.dots_shape(n, k)
    assert x * y <= algebra.DOTS_THREADS and chunks * length >= n > (chunks - 1) * length and column_tiles * x >= k
    assert chunks <= algebra.DOTS_CHUNKS
    (p_tiles, q_tiles, chunks), length = algebra.gram_shape(n, k, 3)
    assert p_tiles * algebra.GRAM_TILE >= k and q_tiles == 1
    assert chunks * length >= n > (chunks - 1) * length
    assert algebra.gram_scratch_bytes(n, k, k) <= 34e6
    for tile in (tiles.NARROW, tiles.WIDE, tiles.LOW):
        (row_tiles, column_tiles), (x, y) = tiles.launch_shape(tile, n, k)
        assert row_tiles * y * tile.side == row_tiles * tile.rows >= n
        assert x * tile.side <= tile.columns and (column_tiles - 1) * x * tile.side < k <= column_tiles * x * tile.side
        assert x * y <= 256


@pytest.mark.parametrize("terms", [0, 1, 5000, 10**6])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (130, 33), (10**5, 33)])
def test_split_sums_cover_their_terms_within_bounded_scratch(rows, columns, terms):
    chunks, length = tiles.split_product(rows, columns, terms)
    assert chunks * length >= terms > (chunks - 1) * length or (terms == 0 and chunks == 1)
    assert length % tiles.SEGMENT == 0
    assert tiles.product_scratch_bytes(rows, columns, terms) <= 34e6
