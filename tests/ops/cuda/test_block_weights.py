"""Block-diagonal weights against NumPy in float64, on a device or in numba's simulator."""

import numpy as np
import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries

if not missing_toolkit_libraries():  # numba.cuda cannot be imported without cudart
    from gpu_reml.ops.cuda import tiles
    from gpu_reml.ops.cuda.weights import TILE_ROWS, launch_block_weights, plan_tiles

SIZES = np.array([1, 70, 3, 17, 1])
FIRST = np.array([0, 6, 1, 80, 76])  # rows 4, 5 and 77 to 79 are in no block
NUM_ROWS = 97
GAPS = [4, 5, 77, 78, 79]


@pytest.fixture(scope="module")
def blocks():
    """Dense symmetric blocks, far apart in scale."""
    rng = np.random.default_rng(7)
    halves = [rng.standard_normal((size, size)) * scale for size, scale in zip(SIZES, [1, 1, 10, 0.1, 3], strict=True)]
    return [(half + half.T).astype(np.float32) for half in halves]


@pytest.mark.gpu
@pytest.mark.parametrize("k", [3, 40])
def test_each_block_multiplies_its_rows(device, blocks, k):
    U = np.random.default_rng(k).standard_normal((NUM_ROWS, k)).astype(np.float32)
    U[GAPS] = np.nan  # rows beside a block do not reach it, not even times zero
    buffer = device.put(np.concatenate([block.ravel() for block in blocks]))
    out, read = device.guarded(np.full((NUM_ROWS, k), 5.0))
    launch_block_weights(buffer, device.put(plan_tiles(FIRST, SIZES), np.int64), device.put(U), out, device.stream)
    found = read()
    assert (found[GAPS] == 5).all()
    for first, size, block in zip(FIRST, SIZES, blocks, strict=True):
        rows = slice(first, first + size)
        expected = block.astype(float) @ U[rows]
        assert np.abs(found[rows] - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.gpu
def test_sums_within_a_block_are_compensated_from_segment_to_segment(device):
    size = 2 * tiles.SEGMENT + 3
    W = np.zeros((size, size), np.float32)
    W[0, :: tiles.SEGMENT] = 2.0**24, 1, 1
    W[:, 0] = W[0]
    plan = plan_tiles([0], [size])
    first_tile = plan[plan[:, 2] == 0]  # the simulator takes a while for each of the others
    out = device.empty((size, 1))
    operands = device.put(W.ravel()), device.put(first_tile, np.int64), device.put(np.ones((size, 1)))
    launch_block_weights(*operands, out, device.stream)
    assert out.copy_to_host()[0, 0] == 2**24 + 2


@pytest.mark.gpu
def test_no_blocks_and_no_columns_write_nothing(device):
    out, read = device.guarded(np.ones((3, 2)))
    U, W = device.put(np.ones((3, 2))), device.put(np.ones(9))
    launch_block_weights(W, device.put(plan_tiles([], []), np.int64), U, out, device.stream)
    tiles_of_one = device.put(plan_tiles([0], [3]), np.int64)
    launch_block_weights(W, tiles_of_one, device.put(np.ones((3, 0))), device.empty((3, 0)), device.stream)
    np.testing.assert_array_equal(read(), np.ones((3, 2)))


def test_the_plan_has_a_tile_for_every_row_and_the_largest_blocks_first():
    plan = plan_tiles(FIRST, SIZES)
    rows = [first + row + r for first, size, row, _ in plan for r in range(min(TILE_ROWS, size - row))]
    np.testing.assert_array_equal(np.sort(rows), np.delete(np.arange(NUM_ROWS), GAPS))
    assert (np.diff(plan[:, 1]) <= 0).all()
    offsets = {int(first): int(offset) for first, _, _, offset in plan}
    assert offsets == {0: 0, 6: 1, 1: 4901, 80: 4910, 76: 5199}


def test_offsets_pass_two_to_the_31():
    plan = plan_tiles(np.arange(600) * 2000, np.full(600, 2000))
    assert plan[:, 3].max() == 599 * 2000**2 > 2**31


def test_overlapping_blocks_are_refused():
    with pytest.raises(ValueError, match="expected disjoint rows, found 4:9 in block 1 and 8:10 in block 0"):
        plan_tiles([8, 4], [2, 5])
