"""The tensor-core products against NumPy in float64, on a device or on interpreted PTX.

All goes through the launchers, so grids, divided sums and operands are tested too.
"""

import re
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating

MISSING_LIBRARIES = missing_toolkit_libraries()
if not MISSING_LIBRARIES:  # numba.cuda cannot be imported without cudart
    from gpu_reml.ops.cuda import fragments, layout, tensor

pytestmark = pytest.mark.skipif(bool(MISSING_LIBRARIES), reason=f"not found: {', '.join(MISSING_LIBRARIES)}")

# Of a column's norm, and of the root of the sum of an entry's squared terms.  Seen were 2.5e-7 and 8e-7 with rounding
# to nearest, 1.4e-6 and 3.8e-6 in 180 cases with sums that tensor cores truncate.
NEAREST, TRUNCATING = np.array([3e-7, 1e-6]), np.array([3e-6, 1e-5])
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

    def block(self, put=lambda array, dtype: array):
        table, moments = fragments.make_tables(self.mean, self.inv_sd)
        return tensor.TensorBlock(put(self.packed, np.uint8), put(table, np.float16), put(moments, np.float32))


@pytest.fixture
def short_sums(monkeypatch):
    """Sums are divided, and one launch does not hold them, at sizes that an interpreter can do."""
    for name, value in (("MAX_STAGES", 2), ("MIN_STAGES", 1), ("MAX_PARTS", 2)):
        monkeypatch.setattr(layout, name, value)


def errors(found, A, X, missing):
    """Errors of ``found`` as A X against float64: (norm-wise by column, the largest of an entry).

    Relative to the root of the sum of the squared terms, the size of a sum whose terms have random signs; and beyond
    what missing calls may add, each being zero within 2^-23 ``missing``.
    """
    A, X = A.astype(np.float64), X.astype(np.float64)
    error, scale = np.abs(found - A @ X), np.sqrt(A**2 @ X**2)
    by_norm = np.linalg.norm(error, axis=0) / np.linalg.norm(scale, axis=0)
    excess = np.maximum(error - 2.0**-23 * missing @ np.abs(X), 0)
    assert not excess[scale == 0].any()
    return by_norm.max(), (excess / np.where(scale > 0, scale, 1)).max()


def zt_errors(found, cohort, B):
    return errors(found, cohort.Z.T, B, ((cohort.Z == 0) * cohort.inv_sd).T)


def z_errors(found, cohort, U, w=1.0, rows=slice(None)):
    A = (cohort.Z * w)[:, rows]
    return errors(found, A, U[rows], ((cohort.Z == 0) * cohort.inv_sd * w)[:, rows])


def assert_small(errors_found, device):
    assert (np.array(errors_found) <= (TRUNCATING if device.may_truncate else NEAREST)).all(), errors_found


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def zt_product(device, cohort, B):
    """Z' B, with guard rows around the result."""
    operand = fragments.launch_sample_operand(device.put(B), device.allocate, device.stream)
    out, read = device.guarded(np.full((cohort.Z.shape[1], B.shape[1]), np.nan))
    tensor.launch_zt(cohort.block(device.put), operand, out, device.allocate, device.stream)
    return read()


def z_product(device, cohort, U, w=1.0, rows=None, there=0.0):
    """``there`` + Z diag(w) U, of the listed variants, with guard rows around the result."""
    out, read = device.guarded(np.full((len(cohort.Z), U.shape[1]), there))
    factor = device.put(cohort.inv_sd * w)
    rows = None if rows is None else device.put(rows, np.int32)
    tensor.launch_z(cohort.block(device.put), device.put(U), factor, out, device.allocate, device.stream, rows)
    return read()


def on_device(test):
    """A test of kernels that need inline PTX, which numba's simulator does not know."""
    return pytest.mark.gpu(pytest.mark.device(test))


def large(*shape):
    """Parameters that are too much for an interpreter."""
    return pytest.param(*shape, marks=pytest.mark.large)


# Products


@on_device
@pytest.mark.parametrize(
    ("n", "b", "k"),
    [(1, 5, 1), (300, 70, 3), (517, 131, 8), (530, 129, 17), (1001, 70, 1), (77, 5, 130)]
    + [large(600, 900, 55), large(3001, 777, 24), large(12_000, 300, 33), large(300, 12_000, 64)]
    + [large(20_011, 1500, 1), large(20_011, 1500, 32), large(5000, 4000, 130)],
)
def test_products_match_numpy(device, n, b, k):
    """n % 16, n % 256 and b of every kind, missing calls, padding that holds anything, outputs that held NaN."""
    rng = np.random.default_rng([n, b, k])
    cohort = Cohort(n, b, seed=rng.integers(2**31))
    if n == 1:  # one copy of A1, in variants that vary elsewhere
        cohort.packed[:], cohort.mean, cohort.inv_sd = 0b10, np.full(b, 0.7), np.full(b, 1.5)
        cohort.Z = np.full((1, b), 1.5 * 0.3)
    B, U, w = normal(rng, n, k), normal(rng, b, k), rng.uniform(0, 2, b)
    assert_small(zt_errors(zt_product(device, cohort, B), cohort, B), device)
    assert_small(z_errors(z_product(device, cohort, U, w), cohort, U, w), device)


@on_device
@pytest.mark.parametrize("tiles", range(1, 9))
def test_every_panel_width_matches_numpy(device, tiles):
    rng = np.random.default_rng(tiles)
    n, b, k = 290, 66, 8 * tiles - 1
    cohort = Cohort(n, b, seed=tiles)
    B, U = normal(rng, n, k), normal(rng, b, k)
    assert_small(zt_errors(zt_product(device, cohort, B), cohort, B), device)
    assert_small(z_errors(z_product(device, cohort, U), cohort, U), device)
    assert [panel for _, panel in layout.panels(k)] == [tiles]


@on_device
@pytest.mark.parametrize(("n", "b"), [(300, 200), large(2100, 3000)])
def test_a_product_with_listed_variants_reads_only_those(device, n, b):
    rng = np.random.default_rng(4)
    cohort = Cohort(n, b, seed=4)
    rows = np.flatnonzero(rng.random(b) < 0.4).astype(np.int32)
    U, w = normal(rng, b, 5), rng.uniform(0, 2, b)
    U[np.setdiff1d(np.arange(b), rows)] = np.nan
    assert_small(z_errors(z_product(device, cohort, U, w, rows), cohort, U, w, rows), device)


@on_device
def test_a_product_is_added_to_what_was_there(device):
    cohort = Cohort(40, 30)
    U = normal(np.random.default_rng(0), 30, 2)
    once = z_product(device, cohort, U)
    assert np.abs(once).max() > 5
    found = z_product(device, cohort, U, there=1e6)
    np.testing.assert_allclose(found, 1e6 + once, atol=0.07)  # 2^-4 is the spacing of float32 at 1e6


@on_device
def test_values_over_six_decades_lose_nothing(device):
    """Within a column and from column to column, up to the ends of float32; one negative, one zero."""
    rng = np.random.default_rng(6)
    n, b, k = 500, 66, 8
    cohort = Cohort(n, b, seed=6)
    between = 10.0 ** np.array([-36, -12, -3, 0, 1, 12, 30, 0])
    scales = rng.uniform(-6, 0, (n, k))
    X = (rng.standard_normal((n, k)) * 10.0**scales * between).astype(np.float32)
    X[:, 3], X[:, -1] = -np.abs(X[:, 3]), 0
    zt, z = zt_product(device, cohort, X), z_product(device, cohort, X[:b])
    assert not zt[:, -1].any() and not z[:, -1].any()
    assert_small(zt_errors(zt[:, :-1], cohort, X[:, :-1]), device)
    assert_small(z_errors(z[:, :-1], cohort, X[:b, :-1]), device)


@on_device
def test_adversarial_columns_match_numpy(device):
    """Constant columns, where the centring cancels everything, single spikes, powers of two and alternating signs."""
    n, b = 513, 40
    cohort = Cohort(n, b, seed=8, missing=0.3)
    B = np.zeros((n, 5), np.float32)
    B[:, 0], B[512, 1], B[:, 2], B[:, 3] = 1, 3e4, 2.0 ** (np.arange(n) % 20 - 10), (-1.0) ** np.arange(n)
    B[:, 4] = 1 + np.arange(n) / 1e6
    by_entry = zt_errors(zt_product(device, cohort, B), cohort, B)[1]
    assert_small((0, by_entry), device)


@on_device
def test_missing_calls_and_variants_that_do_not_vary_contribute_nothing(device):
    n, k = 50, 3
    cohort = Cohort(n, 4, seed=1)
    B = normal(np.random.default_rng(1), n, k)
    assert not zt_product(device, cohort, B)[1:3].any()
    cohort.packed[:] = 0b01010101  # nobody is called, but the mean and SD are those of the other samples
    cohort.mean, cohort.inv_sd = np.array([0.1, 0.7, 1.3, 1.9]), np.full(4, 2.0)
    assert np.abs(zt_product(device, cohort, B)).max() <= 2 * 2**-23 * np.abs(B).sum(0).max()
    assert np.abs(z_product(device, cohort, np.ones((4, k)))).max() <= 4 * 2 * 2**-23


@pytest.fixture
def launches(monkeypatch):
    """(name, grid) of every kernel of a product that is launched."""
    found, launch = [], tensor.launch

    def recorded(kernel, grid, *arguments):
        found.append((kernel.py_func.__name__, grid))
        launch(kernel, grid, *arguments)

    monkeypatch.setattr(tensor, "launch", recorded)
    return found


@on_device
@pytest.mark.parametrize(("n", "b", "k"), [(1170, 570, 1), (1170, 570, 25), large(3000, 2000, 40)])
def test_divided_sums_and_several_launches_match_numpy(device, launches, short_sums, n, b, k):
    """The last part of a sum is shorter than the others."""
    rng = np.random.default_rng(k)
    cohort = Cohort(n, b, seed=k)
    B, U, w = normal(rng, n, k), normal(rng, b, k), rng.uniform(0, 2, b)
    assert_small(zt_errors(zt_product(device, cohort, B), cohort, B), device)
    assert_small(z_errors(z_product(device, cohort, U, w), cohort, U, w), device)
    for name in ("zt_kernel", "z_kernel"):
        parts = [grid[1] for launched, grid in launches if launched == name]
        assert len(parts) > 1 and max(parts) == 2


@on_device
def test_listed_variants_in_several_launches_match_numpy(device, launches, short_sums):
    rng = np.random.default_rng(12)
    cohort = Cohort(60, 900, seed=12)
    rows = np.flatnonzero(rng.random(900) < 0.7).astype(np.int32)
    U, w = normal(rng, 900, 30), rng.uniform(0, 2, 900)
    assert_small(z_errors(z_product(device, cohort, U, w, rows), cohort, U, w, rows), device)
    assert [name for name, _ in launches].count("z_kernel") > 1


@on_device
def test_nothing_to_multiply_leaves_the_result_alone(device, launches):
    found = z_product(device, Cohort(20, 6), np.ones((6, 2)), rows=np.zeros(0, np.int32), there=3.0)
    assert (found == 3).all() and not launches


@on_device
def test_long_sums_stay_accurate_where_tensor_cores_truncate(device):
    """A chain of 8,200 terms in the accumulators alone would err by more than 1e-5 of the norm."""
    rng = np.random.default_rng(10)
    n, b = 8200, 2200
    cohort, B = Cohort(n, 32, seed=10), normal(rng, n, 2)
    assert zt_errors(zt_product(device, cohort, B), cohort, B)[0] <= 2e-6
    cohort, U = Cohort(32, b, seed=11), normal(rng, b, 2)
    assert z_errors(z_product(device, cohort, U), cohort, U)[0] <= 2e-6


@on_device
def test_operands_hold_scaled_columns_and_their_sums(device):
    rng = np.random.default_rng(3)
    B = normal(rng, 700, 11) * np.float32(10.0) ** rng.integers(-20, 20, 11).astype(np.float32)
    B[3, 4] = 2.0**7
    B[:, 4] = np.clip(B[:, 4], -(2.0**7), 2.0**7)
    (panel,) = fragments.launch_sample_operand(device.put(B), device.allocate, device.stream).panels
    scale, unscale, total = panel.columns.copy_to_host()[:, :11]
    peak = np.abs(B).max(0) * scale.astype(np.float64)
    assert ((2.0**11 <= peak) & (peak < 2.0**12)).all()
    np.testing.assert_array_equal(scale * unscale, 1)
    assert (np.frexp(scale)[0] == 0.5).all()
    np.testing.assert_array_equal(total, B.astype(np.float64).sum(0).astype(np.float32))


@on_device
@pytest.mark.large
def test_results_are_the_same_bit_for_bit_every_time(device):
    rng = np.random.default_rng(33)
    cohort = Cohort(9000, 1200, seed=rng.integers(2**31))
    B, U = normal(rng, 9000, 33), normal(rng, 1200, 33)
    first = zt_product(device, cohort, B), z_product(device, cohort, U)
    for _ in range(3):
        np.testing.assert_array_equal(first[0], zt_product(device, cohort, B))
        np.testing.assert_array_equal(first[1], z_product(device, cohort, U))


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


@pytest.mark.parametrize(("n", "b", "k"), [(20, 3000, 1), (20, 1500, 70), (2500, 20, 12), (2500, 20, 70)])
def test_scratch_memory_is_what_was_promised(monkeypatch, n, b, k):
    cohort = Cohort(n, b)
    for module in (fragments, tensor):
        monkeypatch.setattr(module, "launch", lambda *a: None)  # the kernels need not run
    memory = CountedMemory()
    operand = fragments.launch_sample_operand(np.ones((n, k), np.float32), memory, None)
    assert memory.most <= layout.sample_operand_bytes(n, k) <= 1.1 * memory.most + 2**14
    held, memory.most = memory.held, memory.held
    tensor.launch_zt(cohort.block(), operand, np.zeros((b, k), np.float32), memory, None)
    arguments = np.ones((b, k), np.float32), np.ones(b, np.float32), np.zeros((n, k), np.float32)
    tensor.launch_z(cohort.block(), *arguments, memory, None)
    most = memory.most - held
    assert most <= layout.scratch_bytes(n, b, k) <= 1.1 * most + 2**14


def test_scratch_memory_stays_bounded_for_a_biobank():
    for n, b in ((500_000, 600_000), (500_000, 8192), (50_000, 500_000), (2000, 1_000_000)):
        assert layout.scratch_bytes(n, b, 64) <= 400 * 2**20
        assert layout.scratch_bytes(n, b, 1) <= 64 * 2**20


def test_sums_are_divided_completely_and_no_finer_than_they_should():
    for num_blocks in (1, 3, 100, 5000):
        for num_stages in (1, 15, 16, 17, 500, 100_000):
            division = layout.divide(num_blocks, num_stages)
            covered = 0
            for first, parts in division.launches(num_stages):
                assert first == covered and 1 <= parts <= division.parts <= layout.MAX_PARTS
                covered += parts * division.stages
                assert first + (parts - 1) * division.stages < num_stages  # no part is empty
            assert covered >= num_stages and division.stages <= layout.MAX_STAGES
            assert num_blocks < layout.ENOUGH_BLOCKS or division.parts == 1


def test_no_stage_is_longer_than_a_flush():
    for tiles in range(1, layout.MAX_TILES + 1):
        assert layout.STEP_TERMS * layout.sample_stage_steps(tiles) <= layout.FLUSH_TERMS
        assert layout.STEP_TERMS * layout.variant_stage_steps(tiles) <= layout.FLUSH_TERMS


def test_tables_are_centred_and_missing_is_zero():
    rng = np.random.default_rng(2)
    mean, inv_sd = np.append(rng.uniform(0, 2, 500), [0, 2, 1 / 2048]), np.append(rng.uniform(0.5, 40, 502), 0)
    table, moments = fragments.make_tables(mean, inv_sd)
    delta = moments[:, 1].astype(np.float64)
    assert (np.abs(delta) <= 2.0**-11).all()
    np.testing.assert_array_equal(moments[:, 0], inv_sd.astype(np.float32))
    values = table.astype(np.float64) - delta[:, None]
    np.testing.assert_allclose(values[:-1, [0, 2, 3]], COUNTS[[0, 2, 3]] - mean[:-1, None], rtol=0, atol=2.0**-36)
    assert (np.abs(values[:, MISSING_CODE]) <= 2.0**-23).all()
    assert not table[-1].any() and not moments[-1].any()


def test_panels_cover_the_columns_evenly():
    assert layout.panels(33) == ((0, 5),)
    assert layout.panels(130) == ((0, 6), (48, 6), (96, 5))
    for k in range(1, 300):
        starts, tiles = zip(*layout.panels(k), strict=True)
        assert starts == tuple(8 * sum(tiles[:i]) for i in range(len(tiles)))
        assert 0 <= 8 * sum(tiles) - k < 8
        assert max(tiles) <= layout.MAX_TILES and max(tiles) - min(tiles) <= 1


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


def interpreted_errors(device):
    """Largest errors of Z' B and Z W, by column and by entry, with sums long enough to use every buffer."""
    rng = np.random.default_rng(9)
    cohort = Cohort(700, 200, seed=9)
    B, U, w = normal(rng, 700, 9), normal(rng, 200, 9), rng.uniform(0, 2, 200)
    zt, z = zt_product(device, cohort, B), z_product(device, cohort, U, w)
    return np.maximum(zt_errors(zt, cohort, B), z_errors(z, cohort, U, w))


@pytest.mark.parametrize("options", [{}, {"schedule": "reverse"}, {"schedule": "shuffled"}, {"truncating": True}])
def test_the_code_that_a_device_runs_is_right_and_has_no_races(interpreted, device, monkeypatch, options):
    found = interpreted(monkeypatch, **options)
    assert (interpreted_errors(device) <= (TRUNCATING if found.machine.truncating else NEAREST)).all()
    assert not found.machine.issues, found.machine.issues
    assert found.launched["zt_kernel"] == found.launched["z_kernel"] == 1


def test_results_do_not_depend_on_the_order_of_the_warps(interpreted, device, monkeypatch):
    cohort = Cohort(300, 70)
    B, U = normal(np.random.default_rng(0), 300, 9), normal(np.random.default_rng(1), 70, 9)
    found = []
    for schedule in ("lockstep", "reverse"):
        interpreted(monkeypatch, schedule=schedule)
        found.append((zt_product(device, cohort, B), z_product(device, cohort, U)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


FRAGMENTS = r"(mma\S+\s+\{[^}]*\},\s*\{)(%r\d+), ?(%r\d+), ?(%r\d+), ?(%r\d+)\}"
COPY = r"(cp\.async\.c\w\S+) \[(%r\d+)\], ?\[(%rd\d+)\]"
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
    "a result is stored 4 bytes further": (
        "zt_kernel",
        r"(st\.global\S+\s+\[%rd\d+)\]",
        r"\1+4]",
        "race|outside|wrong",
    ),
    "a result is stored a byte further": ("z_kernel", r"(st\.global\S+\s+\[%rd\d+)\]", r"\1+1]", "not aligned"),
    "an address is cut to 32 bits": ("zt_kernel", r"(ld\.global\S+\s+%\w+, \[)(%rd\d+)", CUT, "outside"),
}


def with_fault(kernel, pattern, replacement):
    """A change of PTX: every place in ``kernel`` that has the pattern."""

    def change(name, text):
        if name != kernel:
            return text
        assert re.search(pattern, text), f"{name} has no {pattern}"
        return re.sub(pattern, replacement, text)

    return change


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_code_is_noticed(interpreted, device, monkeypatch, fault):
    from ptx.semantics import PtxError

    kernel, pattern, replacement, shows = FAULTS[fault]
    found = interpreted(monkeypatch, change=with_fault(kernel, pattern, replacement))
    try:
        right = (interpreted_errors(device) <= NEAREST).all()
        noticed = [] if right else ["wrong"]
    except PtxError as error:  # an address
        noticed = [str(error)]
    except AssertionError:  # an entry where zero belongs, or a guard row of a result
        noticed = ["wrong"]
    noticed += [what for what, *_ in found.machine.issues]
    assert re.search(shows, "; ".join(noticed)), noticed
