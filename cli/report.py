"""What a user reads: the plan before the work, GCTA's .hsq, and the JSON record."""

from argparse import Namespace
from typing import Any

import pandas as pd

from gpu_reml import io
from gpu_reml.reml import Enrichment, FitResult, HEResult, enrichment

from .inputs import Inputs
from .plan import host_plan, memory_lines

STANDARDISATION = {"sample": "mean and SD (ddof 0)", "binomial": "mean and binomial SD sqrt(2p(1-p))"}


def plan_lines(inputs: Inputs, method: str, options: Namespace, threads: int) -> list[str]:
    """The plan: who and what is analysed, on what, in how much memory."""
    alignment, covariance = inputs.alignment, inputs.covariance
    genotypes = inputs.products.genotypes
    varying = int((genotypes.inv_sd > 0).sum())
    dropped = alignment.dropped_counts
    reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
    lines = [
        f"phenotype {', '.join(inputs.phenotypes)}: {alignment.num_samples} samples analysed, "
        f"{sum(dropped.values())} dropped" + (f" ({reasons})" if reasons else ""),
        f"variants: {genotypes.num_variants} read, {varying} vary among the analysed samples, "
        f"{genotypes.num_variants - varying} monomorphic or never called dropped",
        *(f"{text}: {count} removed" for text, count in inputs.filtered),
        f"standardised by {STANDARDISATION[options.standardize]} of the analysed samples; A1 counted; "
        "missing genotype = mean",
        f"fixed effects: {', '.join(inputs.design.names)}",
    ]
    lines += [f"reference level of {name}: {level}" for name, level in inputs.design.reference_levels.items()]
    for name, count in zip(covariance.names, covariance.num_variants, strict=True):
        lines.append(f"component {name}: {count} variants")
    lines.append(
        f"device {covariance.backend}, {threads} thread(s), {options.dtype} products; "
        f"{method_line(method, inputs, options)}"
    )
    planned = inputs.planned
    lines += memory_lines(host_plan(planned.sizes, method, options, planned.device), planned.device)
    return [*lines, *(f"note: {note}" for note in inputs.notes)]


def method_line(method: str, inputs: Inputs, options: Namespace) -> str:
    """What will run."""
    if method == "exact":
        return "method exact (dense, no Monte-Carlo error)"
    if method == "he":
        return f"method he (Haseman-Elston regression), seed {options.seed}"
    most = inputs.planned.probes(options.max_probes)
    probes = f"{options.first_probes} to {most} probes, seed {options.seed}"
    if most < options.max_probes:
        probes += f" (more than {most} would not fit the device's budget)"
    if inputs.covariance.num_components == 1:
        return f"method stochastic (one Lanczos run), {probes}"
    rank = inputs.planned.rank
    core = f"rank {rank}" if options.precond_rank is not None else f"rank {rank} if it pays"
    return f"method stochastic (AI-REML), preconditioner {core}, {probes}"


def hsq_text(result: FitResult | HEResult) -> str:
    """GCTA's .hsq: its rows and columns, variances in the phenotype's units squared.

    V(Gi) is the variance that the component explains, theta_i tr(K_i) / n; logL and logL0 follow GCTA's convention,
    without the (n - c)/2 log(2 pi).
    """
    G = len(result.names)
    label = ["V(G)"] if G == 1 else [f"V(G{g + 1})" for g in range(G)]
    scale = [*result.mean_traces, 1.0]
    variances = [(value * s, se * s) for value, se, s in zip(result.theta, result.se, scale, strict=True)]
    h2 = result.h2
    rows = [f"{name}\t{value:.6f}\t{se:.6f}" for name, (value, se) in zip([*label, "V(e)"], variances, strict=True)]
    rows.append(f"Vp\t{result.vp.estimate[0]:.6f}\t{result.vp.se[0]:.6f}")
    rows += [f"{name}/Vp\t{h2.estimate[g]:.6f}\t{h2.se[g]:.6f}" for g, name in enumerate(label)]
    if G > 1:
        rows.append(f"Sum of V(G)/Vp\t{h2.estimate[G]:.6f}\t{h2.se[G]:.6f}")
    if isinstance(result, HEResult):
        return "\n".join(["Source\tVariance\tSE", *rows, f"n\t{result.num_samples}"]) + "\n"
    null = result.loglik_null + result.loglik_gcta - result.loglik
    rows += [
        f"logL\t{result.loglik_gcta:.3f}",
        f"logL0\t{null:.3f}",
        f"LRT\t{result.lrt.statistic:.3f}",
        f"df\t{result.lrt.df}",
        f"Pval\t{result.lrt.p:.4E}",
        f"n\t{result.num_samples}",
    ]
    return "\n".join(["Source\tVariance\tSE", *rows]) + "\n"


def json_record(result: FitResult | HEResult, inputs: Inputs, context: dict[str, Any]) -> dict[str, Any]:
    """Everything about the run, ready for OUT.json."""
    record = result.to_dict()
    for component, count in zip(record["components"], inputs.covariance.num_variants, strict=True):
        component["num_variants"] = count
    genotypes = inputs.products.genotypes
    effects = getattr(result, "fixed_effects", None)
    divided = STANDARDISATION[context["settings"]["standardize"]]
    annotated = enrichment_of(result, inputs)
    record.update(
        enrichment=None if annotated is None else annotated.to_records(),
        num_variants=int((genotypes.inv_sd > 0).sum()),
        num_variants_dropped=int((genotypes.inv_sd == 0).sum()),
        fixed_effects=None
        if effects is None
        else [
            {"name": name, "estimate": value, "se": se}
            for name, value, se in zip(inputs.design.names, effects.estimate, effects.se, strict=True)
        ],
        reference_levels=inputs.design.reference_levels,
        samples={"analysed": inputs.alignment.num_samples, "dropped": inputs.alignment.dropped_counts},
        standardisation=f"{divided} of the analysed samples; missing = mean; A1 counted",
        filters=[{"filter": text, "removed": count} for text, count in inputs.filtered],
        units="phenotype units squared",
        backend=inputs.covariance.backend,
        device_memory=device_memory(inputs),
        notes=list(inputs.notes),
        **context,
    )
    return record


def enrichment_of(result: FitResult | HEResult, inputs: Inputs) -> Enrichment | None:
    """What every component's variants hold of the heritability, overlap counted; None for a single component."""
    if len(result.names) == 1:
        return None
    genotypes, made = inputs.products.genotypes, inputs.components
    mean_squares = genotypes.squared_norm / genotypes.num_samples
    return enrichment(result, inputs.covariance.weights, mean_squares, made.weights, made.names)


def device_memory(inputs: Inputs) -> dict[str, Any] | None:
    """Bytes planned for every device and the most that were held there; None on the CPU."""
    if inputs.planned.device is None:
        return None
    plan, peaks = inputs.planned.device, inputs.products.peak_bytes
    return {"planned": plan.peak, "planned_without_preconditioner": plan.peak_without_core, "peak": peaks}


def history_text(result: FitResult, seconds: list[float]) -> str:
    """OUT.history.tsv: one row an iteration."""
    names = [*result.names, "residual"]
    rows = [
        {
            "iteration": record.iteration,
            **{f"variance_{name}": value for name, value in zip(names, record.theta, strict=True)},
            "decrement": record.decrement,
            "score_norm": record.score_norm,
            "pcg_iterations": record.pcg_iterations,
            "num_probes": record.num_probes,
            "column_passes": record.column_passes,
            "seconds": elapsed,
        }
        for record, elapsed in zip(
            result.history, [*[float("nan")] * (len(result.history) - len(seconds)), *seconds], strict=True
        )
    ]
    return io.table_text(pd.DataFrame(rows))
