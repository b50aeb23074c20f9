"""Steps: products against float64 and each other, the device's measured ceilings, and products against those."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import sparse

from gpu_reml.ops.device.products import Residency, make_device_products
from gpu_reml.ops.genotypes import COUNT_OF_CODE, PackedGenotypes

from .cohorts import Cohort, component_weights

TOLERANCE = 2e-6  # of the largest entry
CHECKED_COLUMNS = (1, 7, 33, 128)
CHECKED_COMPONENTS = 3
MEDIUM_COLUMNS = 32
REPEATS = 3
ROW_LIMIT_FACTOR = 4  # the next row has up to four times the columns, and takes up to that much longer
KEPT = {"resident": Residency(), "streamed": Residency(resident_bytes=0)}


class CheckError(RuntimeError):
    """Results are wrong; ``found`` is what was measured."""

    def __init__(self, message: str, found: dict):
        super().__init__(message)
        self.found = found


def timed(task: Callable, synchronize: Callable, repeats: int = REPEATS) -> float:
    """Median seconds of ``task``, waited for, after once to warm up."""
    times = []
    for _ in range(repeats + 1):
        synchronize()
        start = time.perf_counter()
        task()
        synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def product_seconds(bench, products, B: np.ndarray, w: np.ndarray) -> float:
    """Median seconds of a weighted product of a block that is on the device already."""
    there = products.block(B)
    return timed(lambda: products.weighted(there, w), bench.machine.synchronize)


# correctness


def operands(n: int, m: int, k: int, seed: int = 0) -> dict:
    """What the products are tried on."""
    rng = np.random.default_rng(seed)
    weights = component_weights(m, CHECKED_COMPONENTS)
    weights[:, -1] += rng.random(m)  # overlaps the others
    return {
        "B": rng.standard_normal((n, k)).astype(np.float32),
        "U": rng.standard_normal((m, k)).astype(np.float32),
        "w": rng.random(m) / m,
        "weights": sparse.csc_array(weights),
    }


def all_products(products, B, U, w, weights) -> dict[str, np.ndarray]:
    """Every product of a backend, float64."""
    found = {
        "zt": products.zt(B),
        "z": products.z(U),
        "weighted": products.weighted(B, w),
        "grouped": np.stack([np.asarray(block) for block in products.grouped(U, weights)]),
        "gram": products.gram(U, None, weights),
    }
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


def dense_products(genotypes: PackedGenotypes, B, U, w, weights) -> dict[str, np.ndarray]:
    """The same in float64 from Z itself, which is decoded here by itself."""
    (packed,) = genotypes.parts
    codes = (packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    counts = COUNT_OF_CODE[codes.reshape(len(packed), -1)[:, : genotypes.num_samples]].T
    mean = np.nanmean(counts, axis=0)
    Z = np.nan_to_num((counts - mean) / np.nanstd(counts, axis=0))
    B, U, W = B.astype(np.float64), U.astype(np.float64), weights.toarray()
    return {
        "zt": Z.T @ B,
        "z": Z @ U,
        "weighted": Z @ (w[:, None] * (Z.T @ B)),
        "grouped": np.stack([Z @ (W[:, [g]] * U) for g in range(W.shape[1])]),
        "gram": np.stack([U.T @ (W[:, [g]] * U) for g in range(W.shape[1])]),
    }


def largest_errors(found: dict, expected: dict) -> dict[str, float]:
    """Largest difference of each product over its largest entry."""
    return {name: float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()) for name in expected}


def compile_kernels(bench) -> dict:
    """Seconds of all products of every set of kernels, the first time and again: between them lies the compiler."""
    cohort = bench.sizes.small[0]
    genotypes = bench.machine.simulate(cohort)
    rows = {}
    for kernels in bench.machine.kernels:
        products = make_device_products(genotypes, [bench.machine.device(kernels)])
        for k in CHECKED_COLUMNS:
            given = operands(cohort.num_samples, cohort.num_variants, k)
            first, again = (seconds_of(partial(all_products, products, **given)) for _ in range(2))
            rows[f"{kernels}, {k} columns"] = {"first_seconds": first, "again_seconds": again}
    total = sum(row["first_seconds"] - row["again_seconds"] for row in rows.values())
    bench.say(f"  {total:.1f} s of compiling, or of reading what an earlier run compiled")
    return {"compile_seconds": total, "times": rows}


def seconds_of(task: Callable) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def check_small(bench) -> dict:
    """Every product of every set of kernels against float64, on cohorts of awkward sizes."""
    errors = {}
    for cohort in bench.sizes.small:
        n, m = cohort.num_samples, cohort.num_variants
        genotypes = bench.machine.simulate(cohort)
        for kernels in bench.machine.kernels:
            products = make_device_products(genotypes, [bench.machine.device(kernels)])
            for k in CHECKED_COLUMNS:
                given = operands(n, m, k)
                found = largest_errors(all_products(products, **given), dense_products(genotypes, **given))
                errors[f"{kernels}, {n} x {m}, {k} columns"] = found
                largest = max(found.values())
                bench.say(f"  {kernels:9s} {n:5d} x {m:5d}, {k:3d} columns  largest error {largest:.1e}")
    return within_tolerance({"errors": errors})


def check_medium(bench) -> dict:
    """All kernels, with genotypes resident and streamed, against the first of them; and their times."""
    cohort = bench.sizes.medium
    genotypes = bench.machine.simulate(cohort)
    given = operands(cohort.num_samples, cohort.num_variants, MEDIUM_COLUMNS)
    expected, errors, seconds = None, {}, {}
    for kernels in reversed(bench.machine.kernels):
        for kept, residency in KEPT.items():
            name = f"{kernels} {kept}"
            products = make_device_products(genotypes, [bench.machine.device(kernels)], residency)
            found = all_products(products, **given)
            expected = expected or found
            errors[name] = largest_errors(found, expected)
            seconds[name] = product_seconds(bench, products, given["B"], given["w"])
            bench.say(
                f"  {name:19s} differs by {max(errors[name].values()):.1e}, {1e3 * seconds[name]:.2f} ms a product"
            )
    return within_tolerance(
        {"n": cohort.num_samples, "m": cohort.num_variants, "errors": errors, "weighted_seconds": seconds}
    )


def within_tolerance(found: dict) -> dict:
    """What was measured; CheckError when an error is too large, or is no number."""
    bad = [
        f"{where}: {name} {error:.1e}"
        for where, errors in found["errors"].items()
        for name, error in errors.items()
        if not error <= TOLERANCE
    ]
    if bad:
        raise CheckError(f"errors above {TOLERANCE} of the largest entry: {'; '.join(bad)}", found)
    return found


# ceilings


def ceilings(bench) -> dict:
    """Bytes a second of copies on the device and to it, and operations a second of a float16 GEMM; None if unknown."""
    machine, size = bench.machine, bench.sizes.copy_bytes
    device = machine.device()
    gemm, missing = None, None
    try:
        gemm = gemm_rate(machine, device, bench.sizes.gemm)
    except Exception as error:  # a peer that is missing, or broken, is no fault of the package
        missing = str(error)
    found = {
        "copy_bytes_per_second": copy_rate(machine, device, size),
        "host_to_device_bytes_per_second": bus_rate(machine, device, size),
        "gemm_flops_per_second": gemm,
        "gemm_missing": missing,
    }
    bench.say(
        f"  copies {found['copy_bytes_per_second'] / 1e12:.3f} TB/s on the device, "
        f"{found['host_to_device_bytes_per_second'] / 1e9:.1f} GB/s from pinned host memory; float16 GEMM "
        + (f"{gemm / 1e12:.0f} TFLOP/s" if gemm else f"not measured ({found['gemm_missing']})")
    )
    return found


def copy_rate(machine, device, size: int) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source, target = (device.pool.array((size,), np.uint8) for _ in range(2))
    return 2 * size / timed(lambda: machine.copy(source, target), machine.synchronize)


def bus_rate(machine, device, size: int) -> float:
    """Bytes a second from page-locked host memory to the device."""
    source, target = device.pinned(size), device.pool.array((size,), np.uint8)
    return size / timed(lambda: device.wait(device.copy_in(source, target, None)), machine.synchronize)


def gemm_rate(machine, device, size: int) -> float:
    """Operations a second of a square float16 product of cuBLAS with float32 sums."""
    blas = machine.blas()
    from . import kernels

    ones = device.upload(np.ones(size, np.float32))
    # Random numbers: tensor cores run faster, at less power, on constants.
    values = device.upload(random_block(size, size))
    left, right = (device.pool.array((size, size), np.float16) for _ in range(2))
    machine.synchronize()  # the device has a stream of its own
    for halves in (left, right):
        kernels.launch_halve(values, ones, halves)
    seconds = timed(lambda: blas.multiply(left, right, values), machine.synchronize)
    blas.close()
    return 2 * size**3 / seconds


# products


def product_rows(bench, cohort: Cohort) -> dict:
    """One weighted product for several numbers of columns: genotypes resident, streamed, and the peer."""
    start = time.perf_counter()
    genotypes = bench.genotypes(cohort)
    found = {
        "n": cohort.num_samples,
        "m": cohort.num_variants,
        "missing": cohort.missing,
        "packed_bytes": genotypes.num_bytes,
        "simulation_seconds": time.perf_counter() - start,
        "kernels": bench.machine.kernels[0],
    }
    rows = [{"columns": k} for k in bench.sizes.columns]
    errors = []
    for kept in KEPT:
        try:
            found |= kept_rows(bench, genotypes, kept, rows)
        except Exception as error:  # what was measured before is worth keeping
            errors.append(f"{kept}: {type(error).__name__}: {error}")
        bench.machine.reclaim()
    found["rows"] = [with_ratios(row, found, bench.ceilings) for row in rows]
    for row in found["rows"]:
        bench.say("  " + row_text(row))
    if errors:
        raise CheckError("; ".join(errors), found)
    return found


def kept_rows(bench, genotypes: PackedGenotypes, kept: str, rows: list[dict]) -> dict:
    """Seconds for every row with the genotypes ``kept`` so, and of the peer where they are resident."""
    start = time.perf_counter()
    products = make_device_products(genotypes, [bench.machine.device()], KEPT[kept])
    bench.machine.synchronize()
    found = {f"{kept}_load_seconds": time.perf_counter() - start}
    measure_rows(bench, products, kept, rows)
    if kept == "resident":
        found["peer_missing"] = peer_rows(bench, products, rows)
    return found


def measure_rows(bench, products, kept: str, rows: list[dict]) -> None:
    """Seconds of a product for every row, as ``kept``; rows that time may not be left for are left out."""
    w = np.full(products.num_variants, 1 / products.num_variants)
    for row in rows:
        start = time.perf_counter()
        row[f"{kept}_seconds"] = product_seconds(bench, products, random_block(products.num_samples, row["columns"]), w)
        if not bench.clock.allows(ROW_LIMIT_FACTOR * (time.perf_counter() - start)):
            return


def peer_rows(bench, products, rows: list[dict]) -> str | None:
    """Seconds of the peer and its difference for every row; the reason where there is none."""
    try:
        blas = bench.machine.blas()
        from .blas import DecodedProduct

        w = np.full(products.num_variants, 1 / products.num_variants)
        peer = DecodedProduct(products, w, blas)
        for row in rows:
            B = products.block(random_block(products.num_samples, row["columns"]))
            expected = np.asarray(products.weighted(B, w))
            row["peer_seconds"] = timed(partial(peer.weighted, B.array), bench.machine.synchronize)
            found = peer.weighted(B.array).copy_to_host()[: len(expected), : row["columns"]]
            row["peer_error"] = float(np.abs(found - expected).max() / np.abs(expected).max())
        blas.close()
    except Exception as error:  # a peer that is missing, or broken, is no fault of the package
        return str(error)
    return None


def random_block(n: int, k: int) -> np.ndarray:
    return np.random.default_rng(k).standard_normal((n, k), np.float32)


def with_ratios(row: dict, cohort: dict, ceilings: dict) -> dict:
    """A row with rates, and their ratios to what was measured of the device; None where either is not known."""
    flops = 4 * cohort["n"] * cohort["m"] * row["columns"]
    resident, streamed, peer = (row.get(f"{name}_seconds") for name in ("resident", "streamed", "peer"))
    bandwidth = ratio(2 * cohort["packed_bytes"], resident)
    bus = ratio(cohort["packed_bytes"], streamed)
    rate = ratio(flops, resident)
    return {
        **row,
        "resident_bytes_per_second": bandwidth,
        "resident_flops_per_second": rate,
        "ratio_to_copy": ratio(bandwidth, ceilings.get("copy_bytes_per_second")),
        # Three digits are multiplied, at twice the rate of float16.
        "ratio_to_gemm": ratio(rate and 1.5 * rate, ceilings.get("gemm_flops_per_second")),
        "streamed_bytes_per_second": bus,
        "ratio_to_host_to_device": ratio(bus, ceilings.get("host_to_device_bytes_per_second")),
        "speed_over_peer": ratio(peer, resident),
    }


def ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def row_text(row: dict) -> str:
    def shown(name: str, scale: float, form: str) -> str:
        return "-" if row.get(name) is None else format(scale * row[name], form)

    return (
        f"{row['columns']:4d} columns: resident {shown('resident_seconds', 1e3, '.2f')} ms "
        f"({shown('ratio_to_copy', 1, '.2f')} of copy, {shown('ratio_to_gemm', 1, '.2f')} of GEMM), streamed "
        f"{shown('streamed_seconds', 1e3, '.1f')} ms ({shown('ratio_to_host_to_device', 1, '.2f')} of the bus), "
        f"{shown('speed_over_peer', 1, '.1f')} times as fast as decode and GEMM"
    )
