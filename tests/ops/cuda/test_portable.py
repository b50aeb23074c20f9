"""The portable float32 products against NumPy in float64, on a device or in numba's simulator."""

import numpy as np
import pytest

from gpu_reml.ops import pack
from gpu_reml.ops.cuda.driver import missing_toolkit_libraries

if not missing_toolkit_libraries():  # numba.cuda cannot be imported without cudart
    from gpu_reml.ops.cuda import portable, tiles
    from gpu_reml.ops.cuda.portable import Encoded, launch_diag, launch_z, launch_zt

MISSING = -127
N, B = 77, 70  # n % 4 = 1, n % 16 = 13; tiles have 64 or 128 rows
MONOMORPHIC, NEVER_CALLED = 7, 45
SEGMENTS = 2
TOLERANCE = 1e-6  # of the largest entry


def standardised(counts):
    """Z (n, b) and the table (b, 4) of z by code, float64."""
    Z, table = np.zeros(counts.shape), np.zeros((counts.shape[1], 4))
    for j, column in enumerate(counts.T):
        called = column[column != MISSING].astype(float)
        if len(called) and called.std() > 0:
            table[j] = (np.array([2, called.mean(), 1, 0]) - called.mean()) / called.std()
            Z[:, j] = np.where(column == MISSING, 0, (column - called.mean()) / called.std())
    return Z, table


@pytest.fixture(scope="module")
def genotypes():
    """(packed (b, 64) uint8 in which what is no genotype is random, table, Z); some calls are missing."""
    rng = np.random.default_rng(3)
    counts = rng.choice(np.array([0, 1, 2, MISSING], np.int8), (N, B), p=[0.5, 0.3, 0.15, 0.05])
    counts[:, MONOMORPHIC], counts[:, NEVER_CALLED] = 2, MISSING
    packed = rng.integers(0, 256, (B + 2, 64), np.uint8)
    packed[:B, : N // 4 + 1] = pack(counts)
    packed[:B, N // 4] |= 0b11111100
    Z, table = standardised(counts)
    return packed, table, Z


@pytest.fixture
def encoded(genotypes, device):
    packed, table, _ = genotypes
    return Encoded(device.put(packed, np.uint8), device.put(table))


@pytest.fixture(name="Z")
def dense_matrix(genotypes):
    return genotypes[2]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def short_chunks(monkeypatch):
    """A second chunk begins after 256 terms, so that the simulator need not sum thousands."""
    monkeypatch.setattr(tiles, "CHUNK_TERMS", tiles.SEGMENT)


def assert_close(found, expected, tolerance=TOLERANCE):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.parametrize("k", [1, 3, 33])
def test_zt_equals_the_dense_product(encoded, Z, device, rng, k):
    right = rng.standard_normal((N, k))
    out, read = device.guarded(np.full((B, k), np.nan))
    launch_zt(encoded, device.put(right), out, device.allocate, device.stream)
    assert_close(read(), Z.T @ right)
    assert not read()[[MONOMORPHIC, NEVER_CALLED]].any()


@pytest.mark.gpu
@pytest.mark.parametrize("k", [3, 33])
def test_z_of_all_variants_adds_the_dense_product(encoded, Z, device, rng, k):
    U, factor, there = rng.standard_normal((B, k)), rng.standard_normal(B), rng.standard_normal((N, k))
    out, read = device.guarded(there)
    launch_z(encoded, device.put(U), device.put(factor), None, out, device.allocate, device.stream)
    assert_close(read(), there + Z @ (factor[:, None] * U))


@pytest.mark.gpu
@pytest.mark.parametrize("k", [1, 7])
def test_z_of_listed_variants_reads_them_in_any_order(encoded, Z, device, rng, k):
    rows = rng.permutation(B)[:41]
    U, factor = rng.standard_normal((B, k)), rng.random(len(rows))
    out, read = device.guarded(np.zeros((N, k)))
    listed = device.put(rows, np.int32)
    launch_z(encoded, device.put(U), device.put(factor), listed, out, device.allocate, device.stream)
    assert_close(read(), Z[:, rows] @ (factor[:, None] * U[rows]))


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [None, [69, 3, 11, 45, 20]])
def test_diag_adds_the_weighted_squares_of_each_sample(encoded, Z, device, rng, rows):
    used = np.arange(B) if rows is None else np.array(rows)
    factor, there = rng.random(len(used)), rng.random(N)
    out, read = device.guarded(there)
    listed = None if rows is None else device.put(rows, np.int32)
    launch_diag(encoded, device.put(factor), listed, out, device.allocate, device.stream)
    assert_close(read(), there + Z[:, used] ** 2 @ factor)


@pytest.mark.gpu
def test_no_variants_and_no_columns_change_nothing(encoded, device):
    out, read = device.guarded(np.ones((N, 2)))
    none = device.put(np.zeros(0))
    launch_z(encoded, device.put(np.ones((B, 2))), none, device.put([], np.int32), out, device.allocate, device.stream)
    launch_diag(encoded, none, device.put([], np.int32), out[:, 0], device.allocate, device.stream)
    launch_zt(encoded, device.put(np.ones((N, 0))), device.empty((B, 0)), device.allocate, device.stream)
    np.testing.assert_array_equal(read(), np.ones((N, 2)))


@pytest.mark.gpu
@pytest.mark.parametrize("k", [1, 6])
def test_a_sum_over_samples_that_is_split_equals_the_dense_product(device, rng, short_chunks, k):
    n = 2 * tiles.SEGMENT + 88  # a multiple of 4: the bytes of a variant end with the last sample
    counts = rng.integers(0, 3, (n, 3)).astype(np.int8)
    Z, table = standardised(counts)
    right = rng.standard_normal((n, k))
    out, read = device.guarded(np.full((3, k), np.nan))
    genotypes = Encoded(device.put(pack(counts), np.uint8), device.put(table))
    launch_zt(genotypes, device.put(right), out, device.allocate, device.stream)
    assert_close(read(), Z.T @ right)
    assert device.allocated_bytes == portable.zt_scratch_bytes(n, 3, k) == 2 * 3 * k * 4


@pytest.mark.gpu
def test_a_sum_over_variants_that_is_split_equals_the_dense_products(device, rng, short_chunks):
    b, n, k = 2 * tiles.SEGMENT + 89, 8, 2
    counts = rng.integers(0, 3, (n, b)).astype(np.int8)
    Z, table = standardised(counts)
    U, factor, there = rng.standard_normal((b, k)), rng.random(b), rng.standard_normal((n, k))
    genotypes, factors = Encoded(device.put(pack(counts), np.uint8), device.put(table)), device.put(factor)
    out, read = device.guarded(there)
    launch_z(genotypes, device.put(U), factors, None, out, device.allocate, device.stream)
    assert_close(read(), there + Z @ (factor[:, None] * U))
    assert device.allocated_bytes == portable.z_scratch_bytes(n, b, k) == 2 * n * k * 4 + 4

    device.allocated_bytes = 0
    out, read = device.guarded(there[:, 0])
    launch_diag(genotypes, factors, None, out, device.allocate, device.stream)
    assert_close(read(), there[:, 0] + Z**2 @ factor)
    assert device.allocated_bytes == portable.diag_scratch_bytes(n, b) == 2 * n * 4 + 4


def ones_everywhere(device, b, n):
    """Genotypes of b variants and n samples that all are 1."""
    return Encoded(device.put(np.zeros((b, (n + 3) // 4)), np.uint8), device.put(np.ones((b, 4))))


def large_then_ones():
    """2^24 at the start, then one 1 in each later segment: a float32 sum without compensation stays at 2^24."""
    column = np.zeros(SEGMENTS * tiles.SEGMENT + 3, np.float32)
    column[tiles.SEGMENT :: tiles.SEGMENT] = 1
    column[0] = 2.0**24
    return column


@pytest.mark.gpu
def test_sums_over_samples_are_compensated_from_segment_to_segment(device):
    column, k = large_then_ones(), 5
    out = device.empty((1, k))
    right = device.put(np.repeat(column[:, None], k, axis=1))
    launch_zt(ones_everywhere(device, 1, len(column)), right, out, device.allocate, device.stream)
    np.testing.assert_array_equal(out.copy_to_host(), np.full((1, k), 2**24 + SEGMENTS))


@pytest.mark.gpu
def test_sums_over_variants_are_compensated_and_join_what_was_there(device):
    column = device.put(large_then_ones())
    genotypes, ones = ones_everywhere(device, len(column), 2), device.put(np.ones(len(column)))
    out = device.put([[0.0], [-(2.0**24)]])
    launch_z(genotypes, column.reshape((len(column), 1)), ones, None, out, device.allocate, device.stream)
    np.testing.assert_array_equal(out.copy_to_host()[:, 0], [2**24 + SEGMENTS, SEGMENTS])
    squares = device.put([0.0, -(2.0**24)])
    launch_diag(genotypes, column, None, squares, device.allocate, device.stream)
    np.testing.assert_array_equal(squares.copy_to_host(), [2**24 + SEGMENTS, SEGMENTS])


@pytest.mark.gpu
@pytest.mark.parametrize("add", [False, True])
def test_chunks_are_joined_by_a_compensated_sum(device, add):
    partials = np.ones((SEGMENTS + 1, 2, 3))
    partials[0] = 2.0**24
    out, read = device.guarded(np.full((2, 3), -(2.0**24)))
    tiles.join_chunks(device.put(partials), out, add, device.stream)
    np.testing.assert_array_equal(read(), np.full((2, 3), SEGMENTS + (0 if add else 2**24)))


@pytest.mark.gpu
def test_the_same_product_twice_is_the_same_bit_for_bit(encoded, device, rng):
    right = device.put(rng.standard_normal((N, 5)))
    outs = [device.empty((B, 5)) for _ in range(2)]
    for out in outs:
        launch_zt(encoded, right, out, device.allocate, device.stream)
    np.testing.assert_array_equal(outs[0].copy_to_host(), outs[1].copy_to_host())


@pytest.mark.gpu
@pytest.mark.device
@pytest.mark.large
def test_offsets_beyond_two_gigabytes_are_reached(device, rng):
    """The last variants of 2.2 GB of packed genotypes, whose sums are split; the simulator would take hours."""
    check_last_variants(device, rng, n=1 << 20, b=8400)


def check_last_variants(device, rng, n, b):
    counts = rng.integers(0, 3, (n, 2)).astype(np.int8)
    Z, table = standardised(counts)
    packed, tables = np.zeros((b, n // 4), np.uint8), np.zeros((b, 4))
    packed[-2:], tables[-2:] = pack(counts), table
    encoded, right = Encoded(device.put(packed, np.uint8), device.put(tables)), rng.standard_normal((n, 1))
    U, out, squares = device.empty((b, 1)), device.put(np.zeros((n, 1))), device.put(np.zeros(n))
    factor = device.put(np.ones(b))
    launch_zt(encoded, device.put(right), U, device.allocate, device.stream)
    launch_z(encoded, U, factor, None, out, device.allocate, device.stream)
    launch_diag(encoded, factor, None, squares, device.allocate, device.stream)
    assert not U.copy_to_host()[:-2].any()
    np.testing.assert_allclose(U.copy_to_host()[-2:], Z.T @ right, atol=1e-6 * np.sqrt(n) * 4)
    assert_close(out.copy_to_host(), Z @ (Z.T @ right), 1e-5)
    assert_close(squares.copy_to_host(), (Z**2).sum(axis=1))
