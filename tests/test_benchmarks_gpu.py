"""benchmarks.gpu where there is no GPU: every step on a device of NumPy, its kernels in the simulator and compiled."""

import ctypes
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, standardise
from gpu_reml.ops.cuda.driver import cuda_available, missing_toolkit_libraries, simulating
from gpu_reml.ops.device import plan as device_plan
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.validation.host_device import HostDevice

ROOT = Path(__file__).resolve().parents[1]
NEEDS_TOOLKIT = pytest.mark.skipif(bool(missing_toolkit_libraries()), reason="numba.cuda cannot be imported without it")
NOT_SIMULATING = pytest.mark.skipif(simulating(), reason="the simulator replaces numba's CUDA compiler")


@pytest.fixture(scope="module")
def gpu():
    """Modules of the benchmark, which is run from the repository's root and is not installed."""
    sys.path.insert(0, str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.gpu.{name}")
    sys.path.remove(str(ROOT))


@pytest.fixture
def run(gpu, tmp_path):
    """run(*options) -> (exit code, record); on the NumPy device."""

    def call(*options):
        out = tmp_path / "record.json"
        code = gpu("__main__").main(["--device", "host", "--out", str(out), *options])
        return code, json.loads(out.read_text())

    return call


def outcomes(record):
    return {name: step["outcome"] for name, step in record["steps"].items()}


# whole runs


def test_every_step_runs_on_the_numpy_device(run, tmp_path):
    code, record = run()
    assert code == 0
    assert set(outcomes(record).values()) == {"done"}
    steps = record["steps"]
    fits = ["fit, G = 1", "fit, G = 3", "budget"]
    assert list(steps) == [
        "compile",
        "correctness, small",
        "correctness, medium",
        "ceilings",
        "products, n = 400, no call missing",
        "products, n = 400",
        *fits,
    ]
    rows = steps["products, n = 400"]["rows"]
    assert [row["columns"] for row in rows] == [1, 8]
    assert all(row["resident_seconds"] > 0 and row["streamed_seconds"] > 0 and row["ratio_to_copy"] > 0 for row in rows)
    assert all(row["ratio_to_gemm"] is None and row["speed_over_peer"] is None for row in rows)
    assert "needs a CUDA device" in steps["ceilings"]["gemm_missing"]
    assert steps["fit, G = 3"]["passes"] > 100 and len(steps["fit, G = 3"]["theta"]) == 4
    assert steps["fit, G = 1"]["within_plan"] and steps["fit, G = 1"]["streamed_pieces"] == 0
    assert record["commit"] and record["started"] and record["device"]["versions"]["numpy"]
    text = (tmp_path / "record.md").read_text()
    assert "| columns | resident, ms |" in text and "* budget: done" in text and "No peer: " in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["record.json", "record.md"]


def test_a_fit_within_half_its_genotypes_is_the_same_fit(gpu, run, monkeypatch):
    main = gpu("__main__")
    # Half of these genotypes holds the fit, when they may stream in pieces this small.
    monkeypatch.setattr(main, "TINY", main.TINY._replace(fit=gpu("cohorts").Cohort(1_500, 36_000)))
    monkeypatch.setattr(device_plan, "LEAST_PIECE", 1 << 16)
    code, record = run("--steps", "budget")
    budget = record["steps"]["budget"]
    assert code == 0, budget
    assert budget["peak_bytes"] <= budget["planned_bytes"] <= budget["budget_bytes"] == 1_500 * 36_000 // 8
    assert budget["streamed_pieces"] > 0 and budget["columns_at_once"] and budget["difference_in_se"] < 1e-3


def test_a_budget_that_holds_no_fit_is_on_record(run):
    code, record = run("--steps", "budget")
    assert code == 0 and "cannot hold this analysis" in record["steps"]["budget"]["impossible"]


@pytest.mark.parametrize("wrong", [1 + 1e-4, np.nan])
def test_a_wrong_product_ends_the_run(run, monkeypatch, wrong):
    right = HostDevice.z

    def z(self, variants, U, selection, out):
        right(self, variants, U, selection, out)
        out[-1, -1] *= wrong

    monkeypatch.setattr(HostDevice, "z", z)
    code, record = run()
    assert code == 1
    assert outcomes(record) == {"compile": "done", "correctness, small": "failed"}
    step = record["steps"]["correctness, small"]
    assert re.search(r"errors above 2e-06.*128 columns: grouped", step["why"]) and "zt" not in step["why"]
    assert step["errors"]["host, 203 x 301, 7 columns"]["zt"] < 1e-6


def test_a_step_that_breaks_leaves_the_others(gpu, run, monkeypatch):
    monkeypatch.setattr(gpu("fits"), "fit", lambda *_, **__: 1 / 0)
    code, record = run("--steps", "ceilings", "fits", "products")
    assert code == 1
    assert outcomes(record) == {
        "ceilings": "done", "products, n = 400, no call missing": "done", "products, n = 400": "done",
        "fit, G = 1": "error", "fit, G = 3": "error"
    }  # fmt: skip
    assert record["steps"]["fit, G = 1"]["why"] == "ZeroDivisionError: division by zero"


def test_what_was_measured_of_a_product_survives_what_follows(gpu, run, monkeypatch):
    products = gpu("products")
    monkeypatch.setitem(products.KEPT, "streamed", "no residency")
    code, record = run("--steps", "products")
    step = record["steps"]["products, n = 400"]
    assert code == 1 and step["outcome"] == "failed" and step["why"].startswith("streamed: ")
    assert all(row["resident_seconds"] > 0 and "streamed_seconds" not in row for row in step["rows"])


def test_a_run_that_is_cut_off_keeps_what_it_has(gpu, run, monkeypatch, tmp_path):
    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu("products"), "product_rows", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run("--steps", "ceilings", "products")
    record = json.loads((tmp_path / "record.json").read_text())
    assert outcomes(record) == {"ceilings": "done"} and record["total_seconds"] > 0


def test_steps_that_would_pass_the_limit_are_skipped_and_named(run):
    code, record = run("--limit", "2")
    assert code == 0
    assert set(outcomes(record).values()) == {"skipped"} and len(record["steps"]) == 9
    assert record["steps"]["budget"]["why"].startswith("expected to take 9 s; ")


def test_the_clock_allows_what_ends_within_the_limit(gpu):
    times = iter([100, 100, 160, 160])
    clock = gpu("__main__").Clock(100, lambda: next(times))
    assert clock.allows(100) and clock.allows(40) and not clock.allows(40.1)


def test_rows_stop_when_the_next_may_pass_the_limit(gpu, monkeypatch):
    products = gpu("products")
    monkeypatch.setattr(products, "product_seconds", lambda *_: 1.0)
    allowed = iter([True, False])
    bench = SimpleNamespace(clock=SimpleNamespace(allows=lambda _: next(allowed)))
    rows = [{"columns": k} for k in (1, 8, 32)]
    products.measure_rows(bench, SimpleNamespace(num_samples=4, num_variants=3), "resident", rows)
    assert [row.get("resident_seconds") for row in rows] == [1.0, 1.0, None]


def test_a_first_run_ends_with_what_fell_short_and_what_was_not_measured(run, capsys):
    code, record = run("--first-run", "--steps", "compile", "products", "fits")
    assert code == 0 and set(outcomes(record).values()) == {"done"}
    assert record["steps"]["compile"]["times"]["host, 33 columns"]["first_seconds"] > 0
    held = {each["name"]: each["held"] for each in record["predictions"]}
    assert held["seconds of 8 columns at n = 500,000 m = 600,000"] is False  # NumPy, and a cohort of 400
    assert held["seconds of a fit, G = 1"] is True and held["seconds of a fit, G = 22"] is None
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"fell short: seconds of 8 columns at .* \d+\.\d{3} \(0\.080 predicted\)", last)
    assert "not measured: " in last and "seconds of a fit, G = 22" in last and "seconds of a fit, G = 1;" not in last


def test_a_first_run_that_is_cut_off_has_its_predictions_on_record(gpu, run, monkeypatch, tmp_path):
    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu("products"), "product_rows", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run("--first-run", "--steps", "ceilings", "products")
    record = json.loads((tmp_path / "record.json").read_text())
    assert outcomes(record) == {"ceilings": "done"} and len(record["predictions"]) == 10


def measured_steps():
    """Steps of a run in which every prediction holds."""
    row = {"resident_seconds": 0.01, "ratio_to_copy": 0.4, "ratio_to_gemm": 0.35, "speed_over_peer": 4.0}
    rows = [{"columns": k, "ratio_to_host_to_device": 0.9, **row} for k in (8, 32, 128)]
    done = {"outcome": "done"}
    return {
        "products": {"n": 100_000, "m": 500_000, "missing": 0.0, "rows": rows, **done},
        "products, missing": {"n": 100_000, "m": 500_000, "missing": 0.01, "rows": [dict(rows[1])], **done},
        "fit, G = 1": {"fit_seconds": 20.0, **done},
        "fit, G = 22": {"fit_seconds": 59.0, **done},
    }


def test_predictions_that_hold_are_not_named(gpu):
    assert gpu("predictions").last_line(measured_steps()) == "every prediction held"


@pytest.mark.parametrize(
    ("row", "key", "value", "said"),
    [
        (0, "resident_seconds", 0.017, r"seconds of 8 columns at n = 500,000 m = 600,000 0\.102 \(0\.080 predicted\)"),
        (0, "ratio_to_copy", 0.39, r"share of copy bandwidth, 8 columns 0\.39 \(0\.40 predicted\)"),
        (1, "ratio_to_gemm", 0.2, r"share of the float16 GEMM, 32 columns 0\.20 \(0\.35 predicted\)"),
        (1, "speed_over_peer", 3.9, r"times as fast as decode and cuBLAS, 32 columns 3\.9 \(4\.0 predicted\)"),
        (0, "ratio_to_host_to_device", 0.5, r"share of the bus when streamed, 8 columns 0\.50 \(0\.85 predicted\)"),
    ],
)
def test_what_falls_short_is_named_with_its_prediction(gpu, row, key, value, said):
    steps = measured_steps()
    steps["products"]["rows"][row][key] = value
    assert re.fullmatch(f"fell short: {said}", gpu("predictions").last_line(steps))


def test_steps_that_are_not_done_and_figures_that_are_missing_are_named(gpu):
    steps = measured_steps()
    steps["fit, G = 22"] = {"outcome": "skipped", "why": "no time"}
    steps["products"]["rows"][1]["speed_over_peer"] = None
    assert gpu("predictions").last_line(steps) == (
        "not measured: times as fast as decode and cuBLAS, 32 columns; seconds of a fit, G = 22 | "
        "not done: fit, G = 22 (skipped)"
    )


def test_every_prediction_is_in_the_document(gpu):
    text = (ROOT / "docs" / "performance.md").read_text()
    section = text[text.index("## CUDA backend: predictions") :]
    section = section[: section.index("\n## ", 3)]
    for prediction in gpu("predictions").PREDICTIONS:
        value = format(prediction.value, prediction.form)
        assert re.search(rf"\| {re.escape(prediction.name)} \| {value} \|", section), prediction.name


def test_a_first_run_fits_the_cohort_that_it_multiplies_and_times_one_without_missing_calls(gpu):
    main = gpu("__main__")
    sizes = main.sizes_of(main.make_parser().parse_args(["--first-run"]))
    assert sizes.tables[1:] == (sizes.fit,) == (gpu("cohorts").Cohort(100_000, 500_000),)
    assert sizes.tables[0].missing == 0 < sizes.fit.missing
    assert sizes.columns == (8, 32, 128) and sizes.components == (1, 22)


@pytest.mark.skipif(cuda_available(), reason="there is a device")
@pytest.mark.skipif(simulating(), reason="the simulator stands for a device")
def test_without_a_device_the_reason_is_printed(gpu, capsys):
    assert gpu("__main__").main(["--quick"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_the_commit_may_be_given(run):
    assert run("--steps", "ceilings", "--commit", "abc123")[1]["commit"] == "abc123"


def test_a_record_of_the_same_day_and_device_is_not_overwritten(gpu, monkeypatch, tmp_path):
    main = gpu("__main__")
    monkeypatch.setattr(main, "RECORDS", tmp_path)
    first = main.default_path("NVIDIA H100 80GB HBM3")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-nvidia-h100-80gb-hbm3\.json", first.name)
    first.touch()
    assert main.default_path("NVIDIA H100 80GB HBM3").name == first.name.replace(".json", "-2.json")


def test_it_needs_neither_an_installed_package_nor_tables_and_progress_bars():
    modules = ["benchmarks.gpu.__main__", *([] if missing_toolkit_libraries() else ["gpu_reml.ops.cuda.device"])]
    code = (
        "import importlib, sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '')]\n"
        "sys.path = [p for p in sys.path if '__editable__' not in p]\n"
        "absent = ['pandas', 'bed_reader', 'pgenlib', 'tqdm', 'threadpoolctl', 'hypothesis', 'cupy']\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "from gpu_reml.ops import blas\n"
        "with blas.one_thread(), blas.all_threads(): pass\n"
        "import gpu_reml.ops; print(gpu_reml.ops.__file__)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()) == ROOT / "ops" / "__init__.py"


# what is measured


def test_ratios_are_rates_over_ceilings(gpu):
    ceilings = {
        "copy_bytes_per_second": 400.0, "gemm_flops_per_second": 64_000.0, "host_to_device_bytes_per_second": 50.0
    }  # fmt: skip
    row = {"columns": 8, "resident_seconds": 0.5, "streamed_seconds": 4.0, "peer_seconds": 1.5}
    found = gpu("products").with_ratios(row, {"n": 10, "m": 40, "packed_bytes": 100}, ceilings)
    assert found["resident_bytes_per_second"] == 400 and found["ratio_to_copy"] == 1
    assert found["resident_flops_per_second"] == 4 * 10 * 40 * 8 / 0.5
    assert found["ratio_to_gemm"] == 1.5 * 25_600 / 64_000
    assert (found["streamed_bytes_per_second"], found["ratio_to_host_to_device"]) == (25, 0.5)
    assert found["speed_over_peer"] == 3


def test_a_time_is_the_median_after_one_to_warm_up(gpu, monkeypatch):
    products = gpu("products")
    clock = iter([0, 100, 100, 103, 103, 104, 104, 106])
    monkeypatch.setattr(products.time, "perf_counter", lambda: next(clock))
    calls = []
    assert products.timed(lambda: calls.append("task"), lambda: calls.append("wait"), 3) == 2
    assert calls == ["wait", "task", "wait"] * 4


def test_the_reference_is_that_of_the_cpu_backend(gpu):
    genotypes = gpu("machines").HostMachine().simulate(gpu("cohorts").Cohort(90, 70))
    given = gpu("products").operands(90, 70, 5)
    given |= {name: given[name].astype(np.float64) for name in "BU"}
    expected = gpu("products").dense_products(genotypes, **given)
    found = gpu("products").all_products(CpuProducts(genotypes, np.float64), **given)
    assert max(gpu("products").largest_errors(found, expected).values()) < 1e-12


# cohorts


def test_hashes_are_those_of_splitmix64(gpu):
    """The first outputs for seed 0 are 0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4 and 0x06c45d188009454f."""
    cohorts = gpu("cohorts")
    assert cohorts.hashes(cohorts.Cohort(4, 1, seed=0), 0, 1)[0, 1:].tolist() == [0xE220A839, 0x6E789E6A, 0x06C45D18]


def test_genotypes_have_the_frequencies_that_were_drawn(gpu):
    cohorts = gpu("cohorts")
    cohort = cohorts.Cohort(40_000, 12, seed=3)
    codes = (cohorts.packed_rows(cohort, 0, 12)[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    shares = np.stack([(codes == code).mean(axis=(1, 2)) for code in (1, 0, 2)], axis=1)
    expected = np.diff(cohorts.thresholds(cohort) / 2**32, axis=1, prepend=0)
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / 40_000)
    two, one = expected[:, 1:].T / 0.99
    assert np.allclose(one, 2 * np.sqrt(two) * (1 - np.sqrt(two)), atol=1e-8)
    assert len(np.unique(two)) == 12


def test_any_part_of_a_cohort_is_the_same_and_another_seed_is_another_cohort(gpu):
    cohorts = gpu("cohorts")
    whole = cohorts.packed_rows(cohorts.Cohort(30, 20, 5), 0, 20)
    assert np.array_equal(cohorts.packed_rows(cohorts.Cohort(30, 20, 5), 7, 11), whole[7:11])
    assert not np.array_equal(cohorts.packed_rows(cohorts.Cohort(30, 20, 6), 0, 20), whole)


def code_counts(packed, n):
    """(m, 3) missing calls, two copies, one."""
    codes = ((packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3).reshape(len(packed), -1)[:, :n]
    return np.stack([(codes == code).sum(axis=1) for code in (1, 0, 2)], axis=1)


def test_statistics_from_counts_are_those_of_the_package(gpu):
    cohorts = gpu("cohorts")
    cohort = cohorts.Cohort(101, 60)
    packed = cohorts.packed_rows(cohort, 0, 60)
    packed[5] = 0xFF  # nobody has the allele
    packed[6] = 0x55  # nobody was called
    found, expected = cohorts.genotypes_of(packed, cohort, code_counts(packed, 101)), standardise([packed], 101)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-14)
    np.testing.assert_allclose(found.inv_sd, expected.inv_sd, rtol=1e-12)
    np.testing.assert_array_equal(found.num_called, expected.num_called)


def test_components_are_equal_runs_of_variants(gpu):
    weights = gpu("cohorts").component_weights(70, 3)
    assert (weights.sum(axis=1) == 1).all() and weights.sum(axis=0).tolist() == [23, 23, 24]
    assert (np.diff(weights.argmax(axis=1)) >= 0).all()


def test_a_trait_has_the_variances_it_says(gpu):
    cohorts = gpu("cohorts")
    genotypes = gpu("machines").HostMachine().simulate(cohorts.Cohort(2_000, 300))
    weights = cohorts.component_weights(300, 2)
    trait = cohorts.simulate_trait(make_device_products(genotypes, [HostDevice()]), weights, 0.6, 1)
    assert trait.h2 == pytest.approx(0.6) and trait.theta == pytest.approx([0.2, 0.4, 0.4])
    assert trait.y.var() == pytest.approx(1, abs=0.15)
    Z = np.asarray(CpuProducts(genotypes).z(np.eye(300, dtype=np.float32)))
    fitted = Z @ np.linalg.lstsq(Z, trait.y, rcond=None)[0]
    assert (trait.y - fitted).var() * 2_000 / 1_700 == pytest.approx(0.4, abs=0.06)


# cuBLAS


class FakeCublas:
    """float16 matrix products as cuBLAS defines them, by columns, on arrays of the host."""

    def __init__(self, failing=None):
        self.failing = failing

    def cublasCreate_v2(self, handle):  # noqa: N802
        handle._obj.value = 77
        return 1 if self.failing == "cublasCreate_v2" else 0

    def cublasDestroy_v2(self, handle):  # noqa: N802
        assert handle.value == 77
        return 0

    def cublasGemmEx(self, handle, *arguments):  # noqa: N802
        of_a, of_b, m, n, k = (argument.value for argument in arguments[:5])
        alpha, a, b, beta, c = arguments[5], arguments[6:9], arguments[9:12], arguments[12], arguments[13:16]
        A, B = self.operand(a, of_a, m, k), self.operand(b, of_b, k, n)
        C = self.matrix(c, n, np.float32, 0)[:, :m].T
        C[...] = alpha._obj.value * (A @ B) + (beta._obj.value * C if beta._obj.value else 0)
        assert [argument.value for argument in arguments[16:]] == [68, -1]
        return 15 if self.failing == "cublasGemmEx" else 0

    def operand(self, described, transposed, rows, columns):
        """op(X), (rows, columns) float32, of a matrix by columns."""
        stored = (columns, rows) if transposed else (rows, columns)
        X = self.matrix(described, stored[1], np.float16, 2)[:, : stored[0]].T.astype(np.float32)
        return X.T if transposed else X

    @staticmethod
    def matrix(described, count, dtype, kind):
        """(count, leading dimension): the columns of a matrix, one after another."""
        address, of_kind, leading = (argument.value for argument in described)
        assert of_kind == kind
        size = count * leading * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_ubyte * size).from_address(address), dtype).reshape(count, leading)


@NEEDS_TOOLKIT
@pytest.mark.parametrize("transpose", [False, True])
def test_products_of_row_major_matrices_are_asked_of_cublas(gpu, transpose):
    rng = np.random.default_rng(0)
    L, R = (rng.standard_normal(shape).astype(np.float16) for shape in ((6, 9), (9, 4)))
    out = rng.standard_normal((6, 4)).astype(np.float32)
    expected = 2 * (L.astype(np.float32) @ R.astype(np.float32)) + 0.5 * out
    given = np.ascontiguousarray(L.T) if transpose else L
    blas = gpu("blas").Blas(FakeCublas())
    blas.multiply(given, R, out, alpha=2, beta=0.5, transpose=transpose)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    blas.close()


@NEEDS_TOOLKIT
@pytest.mark.parametrize("failing", ["cublasCreate_v2", "cublasGemmEx"])
def test_an_error_of_cublas_is_said(gpu, failing):
    halves, out = np.ones((8, 8), np.float16), np.ones((8, 8), np.float32)
    with pytest.raises(gpu("blas").BlasError, match=f"{failing} failed with code"):
        gpu("blas").Blas(FakeCublas(failing)).multiply(halves, halves, out)


# kernels


@NEEDS_TOOLKIT
@NOT_SIMULATING
@pytest.mark.parametrize("name", ["simulate", "count", "decode", "halve"])
def test_kernels_compile_without_spills_or_double_precision(gpu, name):
    from gpu_reml.validation.cuda_compile import compile_kernel

    kernels = gpu("kernels")
    resources = compile_kernel(getattr(kernels, f"{name}_kernel"), getattr(kernels, f"SIG_{name.upper()}"))
    assert not resources.warnings
    assert (resources.stack, resources.spills) == (0, 0), resources
    assert resources.registers <= 32 and ".f64" not in resources.ptx


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of the simulator's NumPy scalars
def test_the_kernels_make_the_genotypes_and_counts_that_numpy_makes(gpu, monkeypatch):
    machines, cohort = gpu("machines"), gpu("cohorts").Cohort(77, 9, seed=4)
    monkeypatch.setattr(machines, "CHUNK_BYTES", 4 * cohort.row_bytes)  # three chunks, the last smaller
    found = machines.CudaMachine().simulate(cohort)
    packed = gpu("cohorts").packed_rows(cohort, 0, 9)
    np.testing.assert_array_equal(found.parts[0], packed)
    expected = standardise([packed], 77)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-14)
    np.testing.assert_allclose(found.inv_sd, expected.inv_sd, rtol=1e-12)


@pytest.mark.gpu
def test_halves_are_weighted_and_padded_with_zeros(gpu):
    from numba import cuda

    values = np.random.default_rng(0).standard_normal((11, 3)).astype(np.float32)
    factor = np.linspace(-2, 2, 11, dtype=np.float32)
    halves = cuda.to_device(np.full((16, 8), np.nan, np.float16))
    gpu("kernels").launch_halve(cuda.to_device(values), cuda.to_device(factor), halves)
    expected = np.zeros((16, 8), np.float16)
    expected[:11, :3] = factor[:, None] * values
    np.testing.assert_array_equal(halves.copy_to_host(), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not simulating(), reason="cuBLAS is made up, on arrays of the host")
def test_the_peer_is_the_same_product_to_float16(gpu):
    machine, cohort = gpu("machines").CudaMachine(), gpu("cohorts").Cohort(50, 30)
    genotypes = gpu("machines").HostMachine().simulate(cohort)
    products = make_device_products(genotypes, [machine.device()])
    w = np.random.default_rng(1).random(30) / 30
    B = gpu("products").random_block(50, 3)
    peer = gpu("blas").DecodedProduct(products, w, gpu("blas").Blas(FakeCublas()), tile_bytes=16 * 2 * 256)
    found = peer.weighted(products.block(B).array).copy_to_host()[:50, :3]
    expected = CpuProducts(genotypes, np.float64).weighted(B.astype(np.float64), w)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-6 < error < 2e-3


@NEEDS_TOOLKIT
@NOT_SIMULATING
def test_the_gpu_tests_of_the_benchmark_pass_in_the_simulator():
    """In a process of its own: the simulator replaces the compiler of a whole process."""
    command = [sys.executable, "-m", "pytest", "-q", "--require-gpu", "-p", "no:xdist", "-m", "gpu", __file__]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"3 passed", ran.stdout) and "skipped" not in ran.stdout, ran.stdout
