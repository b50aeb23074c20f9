"""Products with 8-bit and 16-bit dosages against NumPy in float64, on a device or in numba's simulator."""

import numpy as np
import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries
from gpu_reml.ops.dosages import DOSAGE_UNIT, dosage_table

if not missing_toolkit_libraries():  # numba.cuda cannot be imported without cudart
    from gpu_reml.ops.cuda.portable import Encoded, launch_diag, launch_z, launch_zt

N, B = 77, 66
MONOMORPHIC, NEVER_CALLED, NEARLY_FIXED = 7, 45, 12
LARGEST = {8: 254, 16: 32768}  # the code of two copies
DTYPE = {8: np.uint8, 16: np.uint16}
MISSING = {8: 255, 16: 65535}
TOLERANCE = 1e-6  # of the largest entry


def assert_close(found, expected, tolerance=TOLERANCE):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def cohort(bits):
    """(codes (b, pitch), mean, inv_sd, Z): dosages with missing calls; what is no dosage is a random code."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, LARGEST[bits] + 1, (B + 2, 80), endpoint=False).astype(DTYPE[bits])
    codes[NEARLY_FIXED] = LARGEST[bits]
    codes[NEARLY_FIXED, 5] -= 3
    calls = codes[:B, :N]
    calls[rng.random(calls.shape) < 0.05] = MISSING[bits]
    calls[MONOMORPHIC], calls[NEVER_CALLED] = 100, MISSING[bits]
    dosages = np.where(calls == MISSING[bits], np.nan, calls * DOSAGE_UNIT[bits])
    dosages[NEVER_CALLED] = 0
    mean, sd = np.nanmean(dosages, axis=1), np.nanstd(dosages, axis=1)
    sd[[MONOMORPHIC, NEVER_CALLED]] = np.inf
    return codes, mean, 1 / sd, np.nan_to_num((dosages - mean[:, None]) / sd[:, None]).T


@pytest.fixture(scope="module", params=[8, 16], ids=["8 bits", "16 bits"])
def dosages(request):
    return request.param, *cohort(request.param)


@pytest.fixture
def encoded(dosages, device):
    bits, codes, mean, inv_sd, _ = dosages
    return Encoded(device.put(codes, DTYPE[bits]), device.put(dosage_table(mean, inv_sd, bits)), bits)


@pytest.fixture(name="Z")
def dense_matrix(dosages):
    return dosages[-1]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.gpu
@pytest.mark.parametrize("k", [1, 6])
def test_zt_of_dosages_equals_the_dense_product(encoded, Z, device, rng, k):
    right = rng.standard_normal((N, k))
    out, read = device.guarded(np.full((B, k), np.nan))
    launch_zt(encoded, device.put(right), out, device.allocate, device.stream)
    assert_close(read(), Z.T @ right)
    assert not read()[[MONOMORPHIC, NEVER_CALLED]].any()


@pytest.mark.gpu
@pytest.mark.parametrize(("k", "listed"), [(1, False), (6, True)])
def test_z_of_dosages_adds_the_dense_product(encoded, Z, device, rng, k, listed):
    rows = rng.permutation(B)[:40] if listed else np.arange(B)
    U, factor, there = rng.standard_normal((B, k)), rng.random(len(rows)), rng.standard_normal((N, k))
    out, read = device.guarded(there)
    on_device = device.put(rows, np.int32) if listed else None
    launch_z(encoded, device.put(U), device.put(factor), on_device, out, device.allocate, device.stream)
    assert_close(read(), there + Z[:, rows] @ (factor[:, None] * U[rows]))


@pytest.mark.gpu
def test_diag_of_dosages_adds_the_weighted_squares(encoded, Z, device, rng):
    factor = rng.random(B)
    out, read = device.guarded(np.ones(N))
    launch_diag(encoded, device.put(factor), None, out, device.allocate, device.stream)
    assert_close(read(), 1 + Z**2 @ factor)


@pytest.mark.gpu
def test_dosages_end_with_the_last_sample_even_without_padding(device, rng):
    """The last row is the end of the memory: nothing is read after it."""
    codes = rng.integers(0, 255, (2, 5)).astype(np.uint8)
    unit_z = device.put(np.tile([0, 1, 0], (2, 1)))
    out = device.empty((2, 1))
    launch_zt(Encoded(device.put(codes, np.uint8), unit_z, 8), device.put(np.ones((5, 1))), out, device.allocate, 0)
    np.testing.assert_array_equal(out.copy_to_host()[:, 0], codes.sum(axis=1))


@pytest.mark.parametrize("bits", [8, 16])
def test_the_table_gives_z_to_float32_accuracy_even_where_the_mean_is_many_sds(bits):
    """A variant that is nearly fixed has a mean of hundreds of SDs, which cancels in the centre, not in float32."""
    mean, inv_sd = np.array([1.99987, 0.3]), np.array([400.0, 1.7])
    centre, slope, offset = dosage_table(mean, inv_sd, bits).T
    codes = np.array([[LARGEST[bits], LARGEST[bits] - 1, 0]])
    found = (np.float32(codes) - centre[:, None]) * slope[:, None] + offset[:, None]
    expected = (codes * DOSAGE_UNIT[bits] - mean[:, None]) * inv_sd[:, None]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6)
