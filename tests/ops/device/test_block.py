"""Blocks on a device answer NumPy's operators as NumPy does, on the device made of NumPy and on CUDA."""

import numpy as np
import pytest

from gpu_reml.ops.device.block import DeviceBlock, ShardedBlock
from gpu_reml.reml.linalg import (
    column_dots,
    columns,
    gram,
    project,
    range_basis,
    take_columns,
    zeros_like,
)
from gpu_reml.validation.host_device import HostDevice


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "host":
        return HostDevice()
    from gpu_reml.ops.cuda.device import CudaDevice

    return CudaDevice()


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def both(device, rng, n=37, k=3):
    host = rng.standard_normal((n, k)).astype(np.float32)
    return host, DeviceBlock.upload(device, host)


def assert_equal(block, expected, tolerance=1e-6):
    assert isinstance(block, DeviceBlock)
    np.testing.assert_allclose(np.asarray(block), expected, rtol=tolerance, atol=tolerance)


def test_sums_differences_and_scaled_columns_are_numpys(device, rng):
    (A, a), (B, b) = both(device, rng), both(device, rng)
    row = rng.standard_normal(3).astype(np.float32)
    assert_equal(a + b, A + B)
    assert_equal(a - b, A - B)
    assert_equal(a * row, A * row)
    assert_equal(row * a, row * A)
    assert_equal(np.float32(2.5) * a, 2.5 * A)
    assert_equal(a * 0.5, A * np.float32(0.5))
    assert_equal(a / row, A / row)
    assert_equal(a.copy(), A)
    assert_equal(zeros_like(a), np.zeros_like(A))
    np.testing.assert_array_equal(np.asarray(a), A)  # no operand was changed


def test_a_copy_is_another_block(device, rng):
    A, a = both(device, rng)
    copied, same = a.astype(np.float32), a.astype(np.float32, copy=False)
    copied[:, :] = 0.0
    np.testing.assert_array_equal(np.asarray(a), A)
    assert same is a


@pytest.mark.parametrize(
    "key",
    [
        slice(1, None),
        slice(0, 0),
        np.array([2, 0]),
        np.array([True, False, True]),
        np.array([], int),
        slice(None),
    ],
)
def test_columns_are_taken_by_slice_mask_and_indices(device, rng, key):
    A, a = both(device, rng)
    assert_equal(a[:, key], A[:, key], 0)
    assert_equal(take_columns(a, key), A[:, key], 0)


def test_columns_are_set_from_blocks_and_numbers(device, rng):
    A, a = both(device, rng)
    B, b = both(device, rng, k=2)
    A[:, [2, 0]] = B
    a[:, np.array([2, 0])] = b
    assert_equal(a, A, 0)
    A[:, np.array([False, True, False])] = 0
    a[:, np.array([False, True, False])] = 0
    assert_equal(a, A, 0)
    a[:, np.array([0, 1])] += b
    A[:, :2] += B
    assert_equal(a, A)


def test_products_with_small_matrices_and_inner_products_are_numpys(device, rng):
    (A, a), (B, b) = both(device, rng), both(device, rng, k=5)
    C = rng.standard_normal((3, 4))
    assert_equal(a @ C, A @ C, 1e-5)
    found = a.T @ b
    assert isinstance(found, np.ndarray) and found.dtype == np.float64
    np.testing.assert_allclose(found, A.T.astype(float) @ B, rtol=1e-12)
    np.testing.assert_array_equal(gram(a, b), found)
    np.testing.assert_allclose(column_dots(a, a), np.sum(A.astype(float) ** 2, axis=0), rtol=1e-12)


def test_blocks_stand_side_by_side(device, rng):
    (A, a), (B, b) = both(device, rng), both(device, rng, k=2)
    empty = a[:, :0]
    assert_equal(columns(a, empty, b), np.concatenate([A, B], axis=1), 0)
    sharded = columns(ShardedBlock([a, a]), ShardedBlock([b, b]))
    assert sharded.shape == (74, 5) and len(sharded) == 74
    np.testing.assert_array_equal(np.asarray(sharded), np.tile(np.concatenate([A, B], axis=1), (2, 1)))


def test_blocks_without_columns_work(device, rng):
    _, a = both(device, rng)
    empty = a[:, :0]
    assert np.asarray(empty).shape == (37, 0)
    assert_equal(empty @ np.zeros((0, 2)), np.zeros((37, 2)))
    assert (empty.T @ a).shape == (0, 3) and column_dots(empty, empty).shape == (0,)
    assert (empty + empty).shape == (37, 0)
    assert_equal(project(empty, a), np.asarray(a), 0)


def test_a_projection_leaves_nothing_of_the_basis(device, rng):
    Q, _ = np.linalg.qr(rng.standard_normal((37, 4)))
    A, a = both(device, rng)
    projected = project(DeviceBlock.upload(device, Q), a)
    assert_equal(projected, A - Q @ (Q.T @ A), 1e-5)


def test_the_basis_of_an_image_is_orthonormal_and_spans_it_over_six_decades(device, rng):
    U, _ = np.linalg.qr(rng.standard_normal((37, 8)))
    V, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    image = (U * 10.0 ** -np.linspace(0, 5, 8)) @ V  # singular values from 1 to 1e-5
    basis = np.asarray(range_basis(DeviceBlock.upload(device, image)), np.float64)
    assert basis.shape == (37, 8)
    np.testing.assert_allclose(basis.T @ basis, np.eye(8), atol=1e-5)
    assert np.abs(basis @ (basis.T @ U[:, :6]) - U[:, :6]).max() < 1e-2
    repeated = np.concatenate([image[:, :2], image[:, :2]], axis=1)
    assert range_basis(DeviceBlock.upload(device, repeated)).shape[1] == 2


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda a: a + a[:, :1], ValueError, r"different shapes: \(37, 3\) and \(37, 1\)"),
        (lambda a: a * np.ones(2), ValueError, r"a row \(3,\), found \(2,\)"),
        (lambda a: a @ np.ones((2, 2)), ValueError, r"expected \(3, r\), found \(2, 2\)"),
        (lambda a: a[3], IndexError, r"indexed by columns, block\[:, columns\]"),
        (lambda a: a.astype(np.float64), TypeError, "are float32"),
        (lambda a: a + np.ones((37, 3)), TypeError, "does not support ufuncs"),
        (lambda a: DeviceBlock.upload(a.device, np.ones(3)), ValueError, r"expected \(n, k\), found \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(device, rng, operation, error, message):
    _, a = both(device, rng)
    with pytest.raises(error, match=message):
        operation(a)
