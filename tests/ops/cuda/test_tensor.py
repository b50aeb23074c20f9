"""The tensor-core products against integer sums of NumPy, to the bit, on a device or on interpreted PTX.

All goes through the launchers, so grids, divided sums and operands are tested too.
"""

import re
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpu_reml.ops import MISSING, pack, standardise
from gpu_reml.ops.cpu import to_dense
from gpu_reml.ops.cpu_integers import IntegerProducts, best_kernels
from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.ops.dosages import DOSAGE_MISSING, DOSAGE_TYPE, DOSAGE_UNIT
from gpu_reml.ops.integers import DIGITS, LIMIT, MEAN_STEPS

MISSING_LIBRARIES = missing_toolkit_libraries()
if not MISSING_LIBRARIES:  # numba.cuda cannot be imported without cudart
    from gpu_reml.ops.cuda import layout, operands, tensor, tensor_products

pytestmark = pytest.mark.skipif(bool(MISSING_LIBRARIES), reason=f"not found: {', '.join(MISSING_LIBRARIES)}")

MISSING_CODE, COUNTS = 1, np.array([2.0, np.nan, 1.0, 0.0])


class Cohort:
    """Random packed genotypes with missing calls; what follows the last sample and the last variant is random too.

    ``Z`` (n, b) float64.  Of three variants or more, one is never called and one does not vary.
    """

    def __init__(self, n, b, seed=0, missing=0.1):
        rng = np.random.default_rng(seed)
        frequency = rng.uniform(0.02, 0.98, (b, 1))
        counts = rng.binomial(2, frequency, (b, n)).astype(float)
        counts[rng.random((b, n)) < missing] = np.nan
        if b > 2:
            counts[1], counts[2] = np.nan, 2
        codes = np.select([np.isnan(counts), counts == 0, counts == 1], [MISSING_CODE, 3, 2], 0).astype(np.uint8)
        pitch = 64 * -(-n // 256)
        padded = rng.integers(0, 4, (64 * -(-b // 64), 4 * pitch), np.uint8)
        padded[:b, :n] = codes
        quads = padded.reshape(len(padded), pitch, 4)
        self.packed = np.bitwise_or.reduce(quads << np.array([0, 2, 4, 6], np.uint8), axis=2)
        called = ~np.isnan(counts)
        filled = np.where(called, counts, 0)
        self.mean = filled.sum(1) / np.maximum(called.sum(1), 1)
        centred = np.where(called, counts - self.mean[:, None], 0)
        sd = np.sqrt((centred**2).sum(1) / np.maximum(called.sum(1), 1))
        self.inv_sd = np.divide(1, sd, out=np.zeros(b), where=sd > 0)
        self.Z = (centred * self.inv_sd[:, None]).T

        self.counts, self.called = filled.astype(np.int64), called

    @property
    def above(self):
        """Counts less 1, and 0 for a missing call."""
        return self.counts - self.called

    @property
    def complete(self):
        return bool(self.called.all())

    def block(self, put=lambda array, dtype: array, start=0):
        moments = np.stack([self.mean - 1, self.inv_sd], axis=1)
        return tensor_products.TensorBlock(put(self.packed, np.uint8), put(moments, np.float64), start, self.complete)


def integers_of(X):
    """(integers, scales) of the columns of X as ops/integers.py has them."""
    X = X.astype(np.float64)
    scale = np.abs(X).max(axis=0, initial=0) / LIMIT[DIGITS]
    steps = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.rint(X * steps).astype(np.int64), scale


def exact_zt(cohort, B):
    """Z' B from sums of integers."""
    q, scale = integers_of(B)
    above = (cohort.above @ q).astype(np.float64)
    return (above - (cohort.mean - 1)[:, None] * (cohort.called @ q)) * cohort.inv_sd[:, None] * scale


def exact_z(cohort, U, w, rows=None, start=0, there=0.0):
    """``there`` + Z diag(w) U, a chunk after the other, from sums of integers."""
    listed = np.arange(len(U)) if rows is None else rows
    w = np.broadcast_to(w, len(listed) if rows is None else len(U))
    numbers = U[listed].astype(np.float64) * w[listed][:, None] * cohort.inv_sd[listed][:, None]
    total = np.full((cohort.counts.shape[1], U.shape[1]), there)
    first = 0
    while first < len(listed):
        last = min(len(listed), first + layout.CHUNK - (start + first) % layout.CHUNK)
        chunk = listed[first:last]
        q, scale = integers_of(numbers[first:last])
        rests = np.rint(q * (MEAN_STEPS * (cohort.mean[chunk] - 1))[:, None]).astype(np.int64)
        sums = MEAN_STEPS * cohort.above[chunk].T @ q - cohort.called[chunk].T @ rests
        total += sums.astype(np.float64) / MEAN_STEPS * scale
        first = last
    return total


@pytest.fixture
def short_sums(monkeypatch):
    """Sums are divided, and one launch does not hold them, at sizes that an interpreter can do."""
    for module in (layout, operands, tensor, tensor_products):
        for name, value in (("MIN_STAGES", 1), ("MAX_PARTS", 2), ("MAX_CHUNKS", 2), ("CHUNK", 256), ("ZT_SLICE", 256)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    tensor.make_z_kernel.cache_clear()  # a chunk's stages are part of a kernel
    yield
    tensor.make_z_kernel.cache_clear()


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def zt_product(device, cohort, B, dtype=np.float64):
    """Z' B, with guard rows around the result."""
    operand = operands.launch_sample_operand(device.put(B), device.allocate, device.stream)
    out, read = device.guarded(np.full((len(cohort.counts), B.shape[1]), np.nan), dtype)
    tensor_products.launch_zt(cohort.block(device.put), operand, out, device.allocate, device.stream)
    return read()


def z_product(device, cohort, U, w=1.0, rows=None, there=0.0, start=0, dtype=np.float64):
    """``there`` + Z diag(w) U, of the listed variants, with guard rows around the result."""
    out, read = device.guarded(np.full((cohort.counts.shape[1], U.shape[1]), there), dtype)
    factor = device.put(np.broadcast_to(w, len(U))[slice(None) if rows is None else rows], np.float64)
    weighted = device.put(U, U.dtype), factor, None if rows is None else device.put(rows, np.int32)
    tensor_products.launch_z(cohort.block(device.put, start), weighted, out, device.allocate, device.stream)
    return read()


def assert_exact(device, cohort, B, U, w=1.0):
    """Both products are the sums of integers to the bit, and as near to float64 as half a unit of every integer is."""
    zt, z = zt_product(device, cohort, B), z_product(device, cohort, U, w)
    np.testing.assert_array_equal(zt, exact_zt(cohort, B))
    np.testing.assert_array_equal(z, exact_z(cohort, U, w))
    bound = np.abs(cohort.Z).sum(axis=0)[:, None] * np.abs(B).max(axis=0).astype(np.float64) / (2 * LIMIT[DIGITS])
    assert (np.abs(zt - cohort.Z.T @ B.astype(np.float64)) <= 1.001 * bound + 1e-300).all()
    numbers, centred = U * (cohort.inv_sd * w)[:, None], cohort.counts - cohort.called * cohort.mean[:, None]
    units = np.abs(centred).sum(axis=0) + cohort.called.sum(axis=0) / MEAN_STEPS
    bound = units[:, None] * np.abs(numbers).max(axis=0) / (2 * LIMIT[DIGITS])
    assert (np.abs(z - centred.T @ numbers) <= 1.001 * bound + 1e-300).all()


def on_device(test):
    """A test of kernels that need inline PTX, which numba's simulator does not know."""
    return pytest.mark.gpu(pytest.mark.device(test))


def large(*shape):
    """Parameters that are too much for an interpreter."""
    return pytest.param(*shape, marks=pytest.mark.large)


# Products


@on_device
@pytest.mark.parametrize(
    ("n", "b", "k", "missing"),
    [(1, 5, 1, 0), (300, 70, 3, 0.1), (517, 131, 8, 0), (530, 129, 17, 0.5), (1001, 70, 1, 0), (77, 5, 130, 0.1)]
    + [large(600, 900, 55, 0), large(3001, 777, 24, 0.05), large(12_000, 300, 33, 0), large(300, 12_000, 64, 0.01)]
    + [large(20_011, 1500, 1, 0), large(20_011, 1500, 32, 0.01), large(5000, 4000, 130, 0)],
)
def test_products_are_sums_of_integers_to_the_bit(device, n, b, k, missing):
    """n % 16, n % 256 and b of every kind, with missing calls and without, padding that holds anything, outputs that
    held NaN."""
    rng = np.random.default_rng([n, b, k])
    cohort = Cohort(n, b, seed=rng.integers(2**31), missing=missing)
    if n == 1:  # one copy of A1, in variants that vary elsewhere
        cohort.packed[:], cohort.mean, cohort.inv_sd = 0b10, np.full(b, 0.7), np.full(b, 1.5)
        cohort.counts[:], cohort.called[:], cohort.Z = 1, True, np.full((1, b), 1.5 * 0.3)
    assert_exact(device, cohort, normal(rng, n, k), normal(rng, b, k), rng.uniform(0, 2, b))


@on_device
@pytest.mark.parametrize("tiles", range(1, 6))
def test_every_panel_width_is_exact(device, tiles):
    rng = np.random.default_rng(tiles)
    n, b, k = 290, 66, 8 * tiles - 1
    assert_exact(device, Cohort(n, b, seed=tiles), normal(rng, n, k), normal(rng, b, k))
    assert [panel for _, panel in layout.panels(k)] == [tiles]


@on_device
@pytest.mark.parametrize(("n", "b"), [(300, 200), large(2100, 3000)])
@pytest.mark.parametrize("missing", [0, 0.1])
def test_a_product_with_listed_variants_reads_only_those(device, n, b, missing):
    rng = np.random.default_rng(4)
    cohort = Cohort(n, b, seed=4, missing=missing)
    rows = np.flatnonzero(rng.random(b) < 0.4).astype(np.int32)
    U, w = normal(rng, b, 5), rng.uniform(0, 2, b)
    U[np.setdiff1d(np.arange(b), rows)] = np.nan
    np.testing.assert_array_equal(z_product(device, cohort, U, w, rows), exact_z(cohort, U, w, rows))


@on_device
def test_a_product_is_added_to_what_was_there(device):
    cohort = Cohort(40, 30)
    U = normal(np.random.default_rng(0), 30, 2)
    found = z_product(device, cohort, U, there=1e6)
    np.testing.assert_array_equal(found, exact_z(cohort, U, 1.0, there=1e6))
    assert np.abs(found - 1e6).max() > 5


@on_device
def test_float32_results_are_the_exact_ones_rounded_and_features_may_be_float64(device):
    rng = np.random.default_rng(5)
    cohort, B, U = Cohort(90, 70), normal(rng, 90, 2), rng.standard_normal((70, 2))
    np.testing.assert_array_equal(zt_product(device, cohort, B, np.float32), exact_zt(cohort, B).astype(np.float32))
    np.testing.assert_array_equal(z_product(device, cohort, U), exact_z(cohort, U, 1.0))
    found = z_product(device, cohort, U, there=3.0, dtype=np.float32)
    np.testing.assert_array_equal(found, exact_z(cohort, U, 1.0, there=3.0).astype(np.float32))


@on_device
def test_values_over_six_decades_lose_nothing(device):
    """Within a column and from column to column, up to the ends of float32; one negative, one zero."""
    rng = np.random.default_rng(6)
    n, b, k = 500, 66, 8
    cohort = Cohort(n, b, seed=6)
    between = 10.0 ** np.array([-36, -12, -3, 0, 1, 12, 30, 0])
    X = (rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-6, 0, (n, k)) * between).astype(np.float32)
    X[:, 3], X[:, -1] = -np.abs(X[:, 3]), 0
    assert not zt_product(device, cohort, X)[:, -1].any() and not z_product(device, cohort, X[:b])[:, -1].any()
    assert_exact(device, cohort, X[:, :-1], X[:b, :-1])


@on_device
def test_a_column_that_is_not_finite_has_products_that_are_no_numbers_and_others_have_theirs(device):
    rng = np.random.default_rng(7)
    cohort, B, U = Cohort(60, 20), normal(rng, 60, 3), normal(rng, 20, 3)
    B[5, 1], U[7, 1], rest = np.inf, np.nan, [0, 2]
    zt, z = zt_product(device, cohort, B), z_product(device, cohort, U)
    assert np.isnan(zt[:, 1]).all() and np.isnan(z[:, 1]).all()
    np.testing.assert_array_equal(zt[:, rest], exact_zt(cohort, B[:, rest]))
    np.testing.assert_array_equal(z[:, rest], exact_z(cohort, U[:, rest], 1.0))


@on_device
def test_missing_calls_and_variants_that_do_not_vary_contribute_nothing(device):
    n, k = 50, 3
    cohort = Cohort(n, 4, seed=1)
    B = normal(np.random.default_rng(1), n, k)
    assert not zt_product(device, cohort, B)[1:3].any()
    cohort.packed[:] = 0b01010101  # nobody is called, but the mean and SD are those of the other samples
    cohort.mean, cohort.inv_sd, cohort.called[:] = np.array([0.1, 0.7, 1.3, 1.9]), np.full(4, 2.0), False
    assert not zt_product(device, cohort, B).any()
    assert not z_product(device, cohort, np.ones((4, k), np.float32)).any()


def dosage_errors(device, bits, n, b, k, missing):
    """Errors of both products with dosages against float64, in what rounding a right-hand side may at most add."""
    rng, type_, unit = np.random.default_rng([n, b, k]), DOSAGE_TYPE[bits], DOSAGE_UNIT[bits]
    codes = rng.integers(0, round(2 / unit) + 1, (b, n)).astype(type_)
    codes[rng.random((b, n)) < missing], codes[2] = DOSAGE_MISSING[bits], 100
    codes[3] = round(2 / unit)
    codes[3, 7] -= 1
    genotypes = standardise([codes], n, bits)
    per_line = 64 // type_().itemsize
    packed = rng.integers(0, 2**bits, (64 * -(-b // 64), per_line * -(-n // per_line))).astype(type_)
    packed[:b, :n] = codes
    moments = np.stack([genotypes.mean / unit, genotypes.inv_sd * unit], axis=1)
    complete = bool((genotypes.num_called == n).all())
    there = device.put(packed.view(np.uint8), np.uint8), device.put(moments, np.float64)
    block = tensor_products.TensorBlock(*there, complete=complete, bits=bits)
    Z, B, U, w = to_dense(genotypes), normal(rng, n, k), normal(rng, b, k), rng.uniform(0, 2, b)
    zt, read_zt = device.guarded(np.full((b, k), np.nan), np.float64)
    operand = operands.launch_sample_operand(device.put(B), device.allocate, device.stream)
    tensor_products.launch_zt(block, operand, zt, device.allocate, device.stream)
    z, read_z = device.guarded(np.zeros((n, k)), np.float64)
    weighted = device.put(U), device.put(w, np.float64), None
    tensor_products.launch_z(block, weighted, z, device.allocate, device.stream)
    numbers = U * (genotypes.inv_sd * w)[:, None]
    copies = np.where(genotypes.inv_sd > 0, Z / np.where(genotypes.inv_sd > 0, genotypes.inv_sd, 1), 0)
    zt_unit = np.abs(Z).sum(axis=0)[:, None] * np.abs(B).max(axis=0) / (2 * LIMIT[DIGITS])
    z_unit = (np.abs(copies).sum(axis=1) + b / 100)[:, None] * np.abs(numbers).max(axis=0) / (2 * LIMIT[DIGITS])
    zt_error, z_error = np.abs(read_zt() - Z.T @ B.astype(np.float64)), np.abs(read_z() - copies @ numbers)
    assert not read_zt()[2].any()  # does not vary
    return max((zt_error / np.where(zt_unit > 0, zt_unit, np.inf)).max(), (z_error / z_unit).max())


@on_device
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("n", "b", "k", "missing"), [(300, 70, 3, 0.1), (517, 131, 17, 0), large(70_000, 40, 9, 0.01)])
def test_products_of_dosages_are_as_near_as_integers_of_a_column_are(device, bits, n, b, k, missing):
    assert dosage_errors(device, bits, n, b, k, missing) <= 1.001


@pytest.fixture
def launches(monkeypatch):
    """(name, grid) of every kernel of a product that is launched."""
    found, launch = [], tensor_products.launch

    def recorded(kernel, grid, *arguments):
        found.append((kernel.py_func.__name__, grid))
        launch(kernel, grid, *arguments)

    monkeypatch.setattr(tensor_products, "launch", recorded)
    return found


@on_device
@pytest.mark.parametrize(("n", "b", "k", "missing"), [(1170, 570, 1, 0), (1170, 570, 25, 0.1)])
def test_sums_that_are_divided_over_launches_are_exact(device, launches, short_sums, n, b, k, missing):
    """The last part of a sum, and the last chunk of the variants, are shorter than the others; chunks begin within."""
    rng = np.random.default_rng(k)
    cohort = Cohort(n, b, seed=k, missing=missing)
    B, U, w = normal(rng, n, k), normal(rng, b, k), rng.uniform(0, 2, b)
    assert_exact(device, cohort, B, U, w)
    parts = {name: [grid[1] for launched, grid in launches if launched == name] for name in ("zt_kernel", "z_kernel")}
    assert all(len(found) > 1 and max(found) == 2 for found in parts.values())
    start = 5 * 256 + 200
    np.testing.assert_array_equal(z_product(device, cohort, U, w, start=start), exact_z(cohort, U, w, start=start))


@on_device
def test_listed_variants_in_several_launches_are_exact(device, launches, short_sums):
    rng = np.random.default_rng(12)
    cohort = Cohort(60, 900, seed=12)
    rows = np.flatnonzero(rng.random(900) < 0.7).astype(np.int32)
    U, w = normal(rng, 900, 30), rng.uniform(0, 2, 900)
    np.testing.assert_array_equal(z_product(device, cohort, U, w, rows, start=100), exact_z(cohort, U, w, rows))
    assert [name for name, _ in launches].count("z_kernel") > 2


@on_device
def test_nothing_to_multiply_leaves_the_result_alone(device, launches):
    U = np.ones((6, 2), np.float32)
    found = z_product(device, Cohort(20, 6), U, rows=np.zeros(0, np.int32), there=3.0)
    assert (found == 3).all() and not launches


# Host parts


class CountedMemory:
    """Allocates memory and knows the most that was held at a time."""

    def __init__(self):
        self.held = self.most = 0

    def __call__(self, shape, dtype):
        array = np.empty(shape, dtype)
        self.held += array.nbytes
        self.most = max(self.most, self.held)
        weakref.finalize(array, self._release, array.nbytes)
        return array

    def _release(self, size):
        self.held -= size


@pytest.mark.parametrize("bits", [2, 16])
@pytest.mark.parametrize(("n", "b", "k"), [(20, 3000, 1), (20, 9000, 70), (2500, 20, 12), (2500, 20, 70)])
def test_scratch_memory_is_what_was_promised(monkeypatch, n, b, k, bits):
    """Where calls are missing and a sum in float32 is divided, which takes most."""
    cohort = Cohort(n, b)
    for module in (operands, tensor_products):
        monkeypatch.setattr(module, "launch", lambda *a: None)  # the kernels need not run
    monkeypatch.setattr(tensor_products, "launch_fill", lambda *a: None)
    memory = CountedMemory()
    operand = operands.launch_sample_operand(np.ones((n, k), np.float32), memory, None)
    assert memory.most <= layout.operand_making_bytes(n, k) <= 1.1 * memory.most + 2**14
    assert memory.held <= layout.operand_bytes(n, k) <= 1.1 * memory.held
    held, memory.most = memory.held, memory.held
    tensor_products.launch_zt(replace(cohort.block(), bits=bits), operand, np.zeros((b, k), np.float32), memory, None)
    most, memory.most = memory.most - held, held
    assert most <= layout.zt_scratch_bytes(n, b, k, bits) <= 1.1 * most + 2**14
    weighted, out = (np.ones((b, k), np.float32), np.ones(b), None), np.zeros((n, k), np.float32)
    tensor_products.launch_z(cohort.block(start=layout.CHUNK - 1), weighted, out, memory, None)
    most = memory.most - held
    assert most <= layout.z_scratch_bytes(n, b, k) <= 1.2 * most + 2**16


def test_scratch_memory_stays_bounded_for_a_biobank():
    for n, b in ((500_000, 600_000), (500_000, 8192), (50_000, 500_000), (2000, 1_000_000)):
        for scratch in (layout.zt_scratch_bytes, layout.z_scratch_bytes):
            assert scratch(n, b, 64) <= 600 * 2**20
            assert scratch(n, b, 1) <= 64 * 2**20


def test_sums_are_divided_completely_and_no_finer_than_they_should():
    for num_blocks in (1, 3, 100, 5000):
        for num_stages in (1, 15, 16, 17, 500, 100_000):
            parts, stages = layout.divide(num_blocks, num_stages, 10_000)
            assert (parts - 1) * stages < num_stages <= parts * stages  # no part is empty
            assert stages <= 10_000 and parts <= layout.MAX_PARTS
            assert num_blocks < layout.ENOUGH_BLOCKS or parts == -(-num_stages // 10_000)


def test_no_sum_passes_an_int32():
    for bits, largest in ((2, 2), (8, 255), (16, 255)):
        for tiles in range(1, 6):
            _, stages, _ = layout.sample_division(10**8, 8192, DIGITS * tiles, bits)
            assert stages * layout.STEP_TERMS * layout.sample_stage_steps(DIGITS * tiles) * largest * 128 < 2**31
        assert layout.CHUNK * largest * 128 < 2**31


def test_panels_cover_the_columns_evenly():
    assert layout.panels(33) == ((0, 5),)
    assert layout.panels(130) == ((0, 5), (40, 4), (72, 4), (104, 4))
    for k in range(1, 300):
        for digits, most in layout.MAX_TILES.items():
            starts, tiles = zip(*layout.panels(k, digits), strict=True)
            assert starts == tuple(8 * sum(tiles[:i]) for i in range(len(tiles)))
            assert 0 <= 8 * sum(tiles) - k < 8
            assert max(tiles) <= most and max(tiles) - min(tiles) <= 1
        assert len({layout.sample_stage_steps(DIGITS * tiles) for _, tiles in layout.panels(k)}) == 1


# On interpreted PTX: the code that a device would run, and the same with a fault in it


@pytest.fixture(scope="module")
def interpreted():
    """interpreted(monkeypatch, an Emulator's options) -> a device for which every kernel here is compiled once."""
    if simulating():
        pytest.skip("the simulator compiles nothing")
    sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
    from ptx.shim import Emulator as Interpreter

    kernels = {}

    def make(monkeypatch, **options):
        found = Interpreter(kernels=kernels, **options)
        found.install(monkeypatch)
        return found

    yield make
    sys.path.pop(0)


def is_exact(device):
    """Whether both products are the sums of integers, long enough to use every buffer and with missing calls."""
    rng = np.random.default_rng(9)
    cohort = Cohort(1100, 300, seed=9)
    B, U, w = normal(rng, 1100, 9), normal(rng, 300, 9), rng.uniform(0, 2, 300)
    zt, z = zt_product(device, cohort, B), z_product(device, cohort, U, w)
    return np.array_equal(zt, exact_zt(cohort, B)) and np.array_equal(z, exact_z(cohort, U, w))


@pytest.mark.parametrize("schedule", ["lockstep", "reverse", "shuffled"])
def test_the_code_that_a_device_runs_is_right_and_has_no_races(interpreted, device, monkeypatch, schedule):
    """In whatever order warps run, so results do not depend on it."""
    found = interpreted(monkeypatch, schedule=schedule)
    assert is_exact(device)
    assert not found.machine.issues, found.machine.issues
    assert found.launched["zt_kernel"] == found.launched["z_kernel"] == 2  # counts and masks


@pytest.mark.skipif(best_kernels() is None, reason="no processor with VNNI or AMX")
def test_products_have_the_bits_of_those_on_a_cpu(interpreted, monkeypatch):
    """Of a whole pass with its weights too: from what a file holds to float32 blocks."""
    from gpu_reml.ops.cuda import device

    interpreted(monkeypatch).install(monkeypatch, device)
    n, m, k = 70, 4200, 3
    counts = np.random.default_rng(2).binomial(2, 0.3, (n, m)).astype(np.int8)
    counts[:40, ::7] = MISSING
    genotypes, B = standardise([pack(counts)], n), normal(np.random.default_rng(k), n, k)
    w = np.random.default_rng(3).uniform(0, 2, m)
    cpu = IntegerProducts(genotypes, fused_columns=0)
    there = make_device_products(genotypes, [device.CudaDevice(kernels="tensor")])
    np.testing.assert_array_equal(np.asarray(there.zt(B)), cpu.zt(B))
    np.testing.assert_array_equal(np.asarray(there.weighted(B, w)), cpu.weighted(B, w))


FRAGMENTS = r"(mma\S+\s+\{[^}]*\},\s*\{)(%r\d+), ?(%r\d+), ?(%r\d+), ?(%r\d+)\}"
COPY = r"(cp\.async\.c\w\S+) \[(%r\d+)\], ?\[(%rd\d+)\]"
DIGIT_WORDS = r"(mma\S+\s+\{[^}]*\},\s*\{[^}]*\},\s*\{)(%r\d+), ?(%r\d+)\}"
BETWEEN = r"\s*// end inline asm\s*// begin inline asm\s*"
MULTIPLIED = rf"mul\.rn\.f64 (%fd\d+), (%fd\d+), (%fd\d+);{BETWEEN}sub\.rn\.f64 (%fd\d+), (%fd\d+), \1;"
FUSED = r"neg.f64 \1, \2;\nfma.rn.f64 \4, \1, \3, \5;"
CUT = r"and.b64 \2, \2, 4294967295;\n\1\2"
FAULTS = {  # kernel, what is replaced in its PTX and by what, and how that shows
    "a barrier is lost in Z'B": ("zt_kernel", r"bar\.sync\s+0;", ";", "race|in flight"),
    "a barrier is lost in Z W": ("z_kernel", r"bar\.sync\s+0;", ";", "race|in flight"),
    "copies are not waited for in Z'B": ("zt_kernel", r"cp\.async\.wait_all;", ";", "in flight"),
    "copies are not waited for in Z W": ("z_kernel", r"cp\.async\.wait_all;", ";", "in flight"),
    "registers of A are swapped in Z'B": ("zt_kernel", FRAGMENTS, r"\1\2, \4, \3, \5}", "wrong"),
    "registers of A are swapped in Z W": ("z_kernel", FRAGMENTS, r"\1\2, \4, \3, \5}", "wrong"),
    "a copy arrives 16 bytes further": ("zt_kernel", COPY, r"\1 [\2+16], [\3]", "race|outside|wrong"),
    "a copy is read 4 bytes further": ("zt_kernel", COPY, r"\1 [\2], [\3+4]", "not aligned"),
    "a result is stored 8 bytes further": (
        "zt_kernel",
        r"(st\.global\S+\s+\[%rd\d+)\]",
        r"\1+8]",
        "race|outside|wrong",
    ),
    "words of digits are swapped in Z'B": ("zt_kernel", DIGIT_WORDS, r"\1\3, \2}", "wrong"),
    "words of digits are swapped in Z W": ("z_kernel", DIGIT_WORDS, r"\1\3, \2}", "wrong"),
    "genotypes are not told from their neighbours": ("zt_kernel", "50529027", "117901063", "wrong"),
    "missing calls are taken for two copies": ("z_kernel", "1431655765", "0", "wrong"),
    "a digit is worth half": ("z_kernel", "0d4070000000000000", "0d4060000000000000", "wrong"),
    "digits are not balanced": ("fragments_kernel", "-2139062144", "0", "wrong"),
    "integers are cut, not rounded": ("round_kernel", r"cvt\.rni\.f64\.f64", "mov.f64", "wrong"),
    "a product and a sum are rounded once": ("standardise_kernel", MULTIPLIED, FUSED, "wrong"),
    "a result is stored a byte further": ("z_kernel", r"(st\.global\S+\s+\[%rd\d+)\]", r"\1+1]", "not aligned"),
    "an address is cut to 32 bits": ("zt_kernel", r"(ld\.global\S+\s+\{?[%\w, ]+\}?, \[)(%rd\d+)", CUT, "outside"),
}


DOSAGE_FAULTS = {  # bits, kernel, what is replaced
    "missing dosages are not masked": (8, "zt_kernel", "-2139062144", "0"),
    "a missing dosage is worth 254": (8, "standardise_kernel", r"0d([4C])06FE", r"0d\g<1>06FC"),
    "a missing dosage stays": (16, "z_kernel", "65537", "1"),
    "high bytes are worth 128": (16, "standardise_kernel", "0d4070000000000000", "0d4060000000000000"),
    "means are in other steps": (16, "round_kernel", "0d3F70000000000000", "0d3F80000000000000"),
}


class Fault:
    """A change of PTX: every place in ``kernel``, of counts or of masks, that has the pattern."""

    def __init__(self, kernel, pattern, replacement):
        self.kernel, self.pattern, self.replacement, self.made = kernel, pattern, replacement, 0

    def __call__(self, name, text):
        if name != self.kernel:
            return text
        changed, count = re.subn(self.pattern, self.replacement, text)
        self.made += count
        return changed


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_code_is_noticed(interpreted, device, monkeypatch, fault):
    from ptx.semantics import PtxError

    *change, shows = FAULTS[fault]
    change = Fault(*change)
    found = interpreted(monkeypatch, change=change)
    try:
        noticed = [] if is_exact(device) else ["wrong"]
    except PtxError as error:  # an address
        noticed = [str(error)]
    except AssertionError:  # an entry where zero belongs, or a guard row of a result
        noticed = ["wrong"]
    noticed += [what for what, *_ in found.machine.issues]
    assert change.made, "the code has nothing to change"
    assert re.search(shows, "; ".join(noticed)), noticed


@pytest.mark.parametrize("fault", DOSAGE_FAULTS)
def test_a_fault_in_the_code_of_dosages_is_noticed(interpreted, device, monkeypatch, fault):
    bits, *change = DOSAGE_FAULTS[fault]
    change = Fault(*change)
    interpreted(monkeypatch, change=change)
    assert dosage_errors(device, bits, 300, 70, 3, 0.1) > 2
    assert change.made, "the code has nothing to change"
