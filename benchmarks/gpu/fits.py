"""Steps: whole fits from packed genotypes in host memory, and one within half the memory that the genotypes take."""

import time
from typing import NamedTuple

import numpy as np

from benchmarks.gpu_usage import GpuUsage
from gpu_reml.cli.flags.compute import Compute
from gpu_reml.cli.flags.estimation import Estimation
from gpu_reml.cli.plan import Sizes, device_plan
from gpu_reml.ops import PackedGenotypes, make_covariance
from gpu_reml.ops.device.plan import BudgetError, DevicePlan
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import FitResult, FitSettings, ProbeSettings, SolverSettings, draw_probes, fit

from .cohorts import Cohort, Trait, component_weights, simulate_trait
from .products import CheckError

TRUE_H2 = 0.5
FIRST_PROBES, MAX_PROBES = 32, 256
FREE_SHARE = 0.9  # of the device's free memory, for a fit without a budget
SAMPLING_SECONDS = 0.02  # between readings of the device's memory
MOST_SE = 5.0  # that an estimate may be off the truth
SAME_SE = 1e-3  # that two fits may differ, of the same probes in different memory


class Prepared(NamedTuple):
    """A cohort in host memory with its components and its trait."""

    cohort: Cohort
    genotypes: PackedGenotypes
    weights: np.ndarray
    trait: Trait

    @property
    def num_components(self) -> int:
        return self.weights.shape[1]


class Fitted(NamedTuple):
    result: FitResult
    plan: DevicePlan
    measured: dict


def prepare(bench, cohort: Cohort, num_components: int) -> Prepared:
    """The cohort, simulated once for all fits, with a trait of its own for this number of components."""
    genotypes = bench.genotypes(cohort)
    weights = component_weights(cohort.num_variants, num_components)
    products = make_device_products(genotypes, [bench.machine.device()])
    trait = simulate_trait(products, weights, TRUE_H2, seed=num_components)
    del products
    bench.machine.reclaim()
    return Prepared(cohort, genotypes, weights, trait)


def plan_for(prepared: Prepared, budget: int) -> DevicePlan:
    """The command's own plan for this fit within ``budget`` bytes."""
    n, m = prepared.cohort.num_samples, prepared.cohort.num_variants
    estimation = Estimation(method="stochastic", first_probes=FIRST_PROBES, max_probes=MAX_PROBES)
    compute = Compute(device="cuda", gpu_budget_gib=budget / 2**30)
    return device_plan(Sizes(n, (m,), prepared.num_components, 1, 1, m), estimation, compute)


def fit_within(bench, prepared: Prepared, budget: int) -> Fitted:
    """Genotypes to the device as planned, and the fit; what both took."""
    plan = plan_for(prepared, budget)
    with GpuUsage(SAMPLING_SECONDS) as usage:
        start = time.perf_counter()
        device = bench.machine.device(limit=max(plan.peak, budget))
        products = make_device_products(prepared.genotypes, [device], plan.residency)
        products.keep_within(plan.peak)
        bench.machine.synchronize()
        loaded = time.perf_counter()
        probes = draw_probes(prepared.cohort.num_samples, MAX_PROBES, 0)
        drawn = time.perf_counter()
        X = np.ones((prepared.cohort.num_samples, 1))
        settings = FitSettings(
            probes=ProbeSettings(first=FIRST_PROBES, columns=plan.columns),
            solver=SolverSettings(most_basis=plan.basis or None),
        )
        covariance = make_covariance(products, prepared.weights)
        result = fit(prepared.trait.y, X, covariance, probes, settings, strict=False)
        seconds = time.perf_counter() - drawn
    peak = device.pool.peak_held
    measured = {
        "load_seconds": loaded - start,
        "fit_seconds": seconds,
        "streamed_pieces": products.shards[0].store.num_streamed,
        "plan": plan.lines(),
        "planned_bytes": plan.peak,
        "peak_bytes": peak,
        "within_plan": bool(peak <= plan.peak),
        "driver_bytes": driver_bytes(usage.summary()),
        "columns_at_once": plan.columns,
    }
    del products, covariance, device
    bench.machine.reclaim()
    return Fitted(result, plan, measured)


def driver_bytes(usage: dict) -> dict | None:
    """Peak memory of the busiest device as its driver counts it, context and all, and before; None without a driver."""
    used = [device for device in usage["devices"] if device["used_bytes"]]
    if not used:
        return None
    device = max(used, key=lambda d: d["used_bytes"]["peak"] - d["used_bytes_at_start"])
    return {"peak": device["used_bytes"]["peak"], "before": device["used_bytes_at_start"]}


def fit_record(fitted: Fitted, trait: Trait) -> dict:
    """A fit against the truth; distances in standard errors, Monte-Carlo error included."""
    result = fitted.result
    h2 = {name: float(getattr(result.h2, name)[-1]) for name in ("estimate", "se", "mc_se")}
    total = np.sqrt(result.se**2 + result.mc_se**2)
    return {
        **fitted.measured,
        "status": result.status.name.lower(),
        "passes": float(result.column_passes),
        "probes": result.num_probes,
        "rank": result.rank,
        "h2": h2,
        "true_h2": trait.h2,
        "h2_off_by_se": float((h2["estimate"] - trait.h2) / np.hypot(h2["se"], h2["mc_se"])),
        "theta_off_by_se": float(np.abs((result.theta - trait.theta) / total).max()),
        "theta": result.theta.tolist(),
        "se": result.se.tolist(),
    }


def fit_step(bench, cohort: Cohort, num_components: int) -> dict:
    """A fit twice: the first compiles whatever is not compiled yet."""
    prepared = prepare(bench, cohort, num_components)
    budget = int(FREE_SHARE * bench.machine.free_bytes)
    first = fit_within(bench, prepared, budget).measured["fit_seconds"]
    fitted = fit_within(bench, prepared, budget)
    record = {
        "n": cohort.num_samples,
        "m": cohort.num_variants,
        "G": num_components,
        "first_fit_seconds": first,
        **fit_record(fitted, prepared.trait),
    }
    bench.say("  " + fit_text(record))
    if record["status"] != "converged" or not abs(record["h2_off_by_se"]) <= MOST_SE or not record["within_plan"]:
        raise CheckError("the fit did not converge, missed the truth, or passed the planned memory", record)
    return record


def budget_step(bench, cohort: Cohort) -> dict:
    """One component within half the genotypes' size, against the same fit with all memory."""
    prepared = prepare(bench, cohort, 1)
    free = fit_within(bench, prepared, int(FREE_SHARE * bench.machine.free_bytes))
    budget = prepared.genotypes.num_bytes // 2
    try:
        bounded = fit_within(bench, prepared, budget)
    except BudgetError as error:
        bench.say(f"  {error}")
        return {"budget_bytes": budget, "impossible": str(error)}
    difference = np.abs((bounded.result.theta - free.result.theta) / free.result.se).max()
    record = {
        "n": cohort.num_samples,
        "m": cohort.num_variants,
        "G": 1,
        "budget_bytes": budget,
        "seconds_over_resident": bounded.measured["fit_seconds"] / free.measured["fit_seconds"],
        "difference_in_se": float(difference),
        **fit_record(bounded, prepared.trait),
    }
    bench.say("  " + fit_text(record) + f", {difference:.1e} SE from the fit with all memory")
    if not difference <= SAME_SE or not record["within_plan"] or record["peak_bytes"] > budget:
        raise CheckError("the fit within a budget passes it, or is another fit", record)
    return record


def fit_text(record: dict) -> str:
    h2 = record["h2"]
    return (
        f"G = {record['G']}: {record['fit_seconds']:.2f} s, {record['passes']:.0f} column-passes, {record['status']}, "
        f"h2 {h2['estimate']:.4f} (SE {h2['se']:.4f}), {record['h2_off_by_se']:+.1f} SE from the truth, peak "
        f"{record['peak_bytes'] / 2**20:,.0f} MiB of {record['planned_bytes'] / 2**20:,.0f} planned"
    )
