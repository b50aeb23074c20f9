"""What a user reads: the plan before the work, GCTA's .hsq, and the JSON record."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from gpu_reml import io, ops
from gpu_reml.reml import Enrichment, FitResult, HEResult, PCGCResult, enrichment, layout_of
from gpu_reml.reml.studies.admixture import ancestry_heritability
from gpu_reml.reml.tables import derived_rows

from .component_tests import component_tests, sets_of
from .flags.analysis import Analysis
from .flags.estimation import MOMENTS, Estimation
from .inputs import Inputs
from .liability import liability_of, liability_record
from .model import ancestry_residuals
from .plan import memory_lines
from .wording import fit_record

MANY_NAMES = 30
CONFOUNDED = 0.99
STANDARDISATION = {
    "sample": "mean and SD (ddof 0)",
    "per-trait": "mean and SD (ddof 0)",
    "binomial": "mean and binomial SD sqrt(2p(1-p))",
}


def plan_lines(inputs: Inputs, method: str, analysis: Analysis, threads: int, how: str | None = None) -> list[str]:
    """The plan: who and what is analysed, on what, in how much memory; ``how``: what runs, where not as usual."""
    alignment, covariance, dtype = inputs.alignment, inputs.covariance, analysis.compute.dtype
    dropped = alignment.dropped_counts
    reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
    lines = [
        f"phenotype {', '.join(inputs.phenotypes)}: {alignment.num_samples} samples analysed, "
        f"{sum(dropped.values())} dropped" + (f" ({reasons})" if reasons else ""),
        *genotype_lines(inputs, analysis.scaling.standardize),
        fixed_line(inputs.design.names),
    ]
    lines += [f"reference level of {name}: {level}" for name, level in inputs.design.reference_levels.items()]
    layout = layout_of(covariance)
    lines += [f"component {name}: {text}" for name, text in zip(layout.names, inputs.model.descriptions, strict=True)]
    if layout.residual_names != ("residual",) or layout.residual_traces[0] != 1:
        pairs = zip(layout.residual_names, layout.residual_traces, strict=True)
        named = ((name if name == "residual" else f"residual {name}", trace) for name, trace in pairs)
        lines += [f"{name}: mean of its diagonal {trace:.4g}" for name, trace in named]
    lines.append(
        f"device {inputs.planned.backend}, {threads} thread(s), {arithmetic(inputs, dtype)}; "
        f"{how or method_line(method, inputs, analysis.estimation)}"
    )
    lines += memory_lines(inputs.planned, method, analysis.estimation, dtype)
    return [*lines, *(f"note: {note}" for note in inputs.notes)]


def arithmetic(inputs: Inputs, dtype: str) -> str:
    """What multiplies by genotypes; by given matrices it is their type."""
    return f"{dtype} products" if inputs.products is None else inputs.products.arithmetic


def fixed_line(names: Sequence[str]) -> str:
    """The fixed effects by name; the first of very many."""
    if len(names) <= MANY_NAMES:
        return f"fixed effects: {', '.join(names)}"
    return f"fixed effects: {len(names)}: {', '.join(names[:MANY_NAMES])} and {len(names) - MANY_NAMES} more"


def genotype_lines(inputs: Inputs, standardize: str) -> list[str]:
    """How many variants, what was filtered, and how they are standardised; nothing without genotypes."""
    if inputs.products is None:
        return []
    genotypes = inputs.products.genotypes
    varying = int((genotypes.inv_sd > 0).sum())
    return [
        f"variants: {genotypes.num_variants} read, {varying} vary among the analysed samples, "
        f"{genotypes.num_variants - varying} monomorphic or never called dropped",
        *(f"{text}: {count} removed" for text, count in inputs.filtered),
        f"standardised by {STANDARDISATION[standardize]} of {standardised_in(inputs)}; A1 counted; missing genotype = "
        "mean",
    ]


def standardised_in(inputs: Inputs) -> str:
    """The samples whose means and SDs are those of the genotypes."""
    n = inputs.products.genotypes.num_samples
    everybody = inputs.members or n != inputs.alignment.num_samples
    return f"the {n} samples that have any phenotype" if everybody else "the analysed samples"


def grm_lines(inputs: Inputs, standardize: str) -> list[str]:
    """What --make-grm is of."""
    notes = (f"note: {note}" for note in inputs.notes)
    return [f"{inputs.alignment.num_samples} samples", *genotype_lines(inputs, standardize), *notes]


def confounded_lines(result: FitResult) -> list[str]:
    """The two variances that are hardest to tell apart, where a user should know of it."""
    se = result.se
    names = [*result.names, *result.residual_names]
    if len(names) < 3 or not (np.isfinite(se) & (se > 0)).all():
        return []
    correlation = np.tril(result.covariance / np.outer(se, se), -1)
    i, j = np.unravel_index(int(np.argmin(correlation)), correlation.shape)
    if correlation[i, j] > -CONFOUNDED:
        return []
    return [
        f"caution: {names[j]} and {names[i]} can hardly be told apart, their estimates have correlation "
        f"{correlation[i, j]:.4f}; their sum is known better"
    ]


def bound_lines(result: FitResult) -> list[str]:
    """What it means that a residual is at its lower bound."""
    if not result.residuals_at_bound:
        return []
    return [
        f"caution: {', '.join(result.residuals_at_bound)} is at its lower bound: the components want more than all of "
        "the variance that they could explain, so h2 has no standard error. Look for samples that are there twice, "
        "repeated records of one person, or a phenotype made of the genotypes"
    ]


def method_line(method: str, inputs: Inputs, estimation: Estimation) -> str:
    """What will run."""
    if method == "exact":
        return "method exact (dense, no Monte-Carlo error)"
    if method in MOMENTS:
        return f"method {method} ({MOMENTS[method]}), seed {estimation.seed}"
    most = inputs.planned.probes(estimation.max_probes)
    first = min(estimation.first_probes, most)
    probes = (
        f"{first} to {most} probes, seed {estimation.seed}"
        if first < most
        else f"{most} probes, seed {estimation.seed}"
    )
    if most < estimation.max_probes:
        room = "memory" if inputs.planned.device is None else "the device's budget"
        probes += f" (more than {most} would not fit {room})"
    if inputs.covariance.num_components == 1:
        return f"method stochastic (one Lanczos run), {probes}"
    vectors = min(inputs.planned.basis, inputs.planned.sizes.dimension)
    return f"method stochastic (AI-REML in a reduced model of at most {vectors:,} vectors), {probes}"


def hsq_text(result: FitResult | HEResult, further: Sequence[str] = ()) -> str:
    """GCTA's .hsq: its rows and columns, variances in the phenotype's units squared; ``further`` rows after h2.

    V(Gi) is the variance that the component explains, theta_i tr(K_i) / n; logL and logL0 follow GCTA's convention,
    without the (n - c)/2 log(2 pi).  GCTA numbers several components; comments after its rows say which is which.
    """
    G, J = len(result.names), len(result.residual_names)
    label = ["V(G)"] if G == 1 else [f"V(G{g + 1})" for g in range(G)]
    residual = ["V(e)"] if J == 1 else [f"V(e{j + 1})" for j in range(J)]
    digits = ".6f" if 1e-2 <= result.vp.estimate[0] < 1e9 else ".6e"  # GCTA prints so many; other units need exponents
    shares = [f"{name}/Vp" for name in label] + ["Sum of V(G)/Vp"] * (G > 1)
    rows = derived_rows([*label, *residual], result.variances, digits)
    rows += derived_rows(["Vp"], result.vp, digits) + derived_rows(shares, result.h2)
    for each, derived in result.heritabilities if result.sums else ():
        rows += derived_rows([f"{each.label} ({each.meaning})"], derived)
    rows += further
    numbered = zip([*label, *residual], [*result.names, *result.residual_names], strict=True)
    named = [f"# {row}: {name}" for row, name in numbered] if G + J > 2 else []
    if isinstance(result, HEResult):
        return "\n".join(["Source\tVariance\tSE", *rows, f"n\t{result.num_samples}", *named]) + "\n"
    null = result.loglik_null + result.loglik_gcta - result.loglik
    rows += [
        f"logL\t{result.loglik_gcta:.3f}",
        f"logL0\t{null:.3f}",
        f"LRT\t{result.lrt.statistic:.3f}",
        f"df\t{result.lrt.df}",
        f"Pval\t{result.lrt.p:.4E}",
        f"n\t{result.num_samples}",
    ]
    return "\n".join(["Source\tVariance\tSE", *rows, *named]) + "\n"


def json_record(
    result: FitResult | HEResult, inputs: Inputs, analysis: Analysis, context: dict[str, Any]
) -> dict[str, Any]:
    """Everything about the run, ready for OUT.json."""
    record = fit_record(result) if isinstance(result, FitResult) else result.to_dict()
    described = zip(record["components"], inputs.model.num_variants, inputs.model.descriptions, strict=True)
    for (component, count, text), kind in zip(described, inputs.model.kinds, strict=True):
        component.update(kind=kind, num_variants=count, description=text)
    effects = result.fixed_effects if isinstance(result, FitResult | PCGCResult) else None
    annotated = enrichment_of(result, inputs)
    record.update(genotype_record(inputs, analysis.scaling.standardize))
    record.update(
        enrichment=None if annotated is None else annotated.to_records(),
        ancestries=ancestry_records(result, inputs, analysis.terms.residual_by_ancestry),
        liability=liability_record(
            liability_of(result, inputs, context["phenotype"], analysis.tests.prevalence), result.names
        ),
        joint_tests=None
        if isinstance(result, HEResult)
        else component_tests(result, sets_of(analysis.tests, result.names)),
        fixed_effects=None
        if effects is None
        else [
            {"name": name, "estimate": value, "se": se}
            for name, value, se in zip(inputs.design.names, effects.estimate, effects.se, strict=True)
        ],
        reference_levels=inputs.design.reference_levels,
        samples={"analysed": inputs.alignment.num_samples, "dropped": inputs.alignment.dropped_counts},
        filters=[{"filter": text, "removed": count} for text, count in inputs.filtered],
        units="phenotype units squared" if result.scale is None else result.scale,
        backend=inputs.planned.backend,
        arithmetic=arithmetic(inputs, analysis.compute.dtype),
        device_memory=device_memory(inputs),
        notes=list(inputs.notes),
        cautions=caution_lines(result),
        **context,
    )
    return record


def beside_record(name: str, result: FitResult | HEResult, inputs: Inputs) -> dict[str, Any]:
    """What a report shows beside OUT.json: iterations, and the phenotype without its fixed effects."""
    further: dict[str, Any] = {}
    if isinstance(result, FitResult):
        y, X = inputs.Y[:, inputs.phenotypes.index(name)], inputs.design.X
        further["history"] = [record._asdict() for record in result.history]
        further["residuals_of_y"] = y - X @ result.fixed_effects.estimate
    return further


def caution_lines(result: FitResult | HEResult) -> list[str]:
    """What to be careful about in a fit's estimates."""
    return [*bound_lines(result), *confounded_lines(result)] if isinstance(result, FitResult) else []


def reference_lines(result: FitResult | HEResult, inputs: Inputs, phenotype: str) -> list[str]:
    """What GPU_REML prints of a fit, for scripts that read it there: theta of the phenotype over its SD, and h2, of
    relationships where there are groups and others too."""
    if not isinstance(result, FitResult):
        return []
    variance = np.nanvar(inputs.Y[:, inputs.phenotypes.index(phenotype)])
    thetas = " ".join(f"{value:.8f}" for value in result.theta / variance)
    told = "as GPU_REML prints it (theta of the phenotype divided by its SD):"
    return [told, f"var_components: [{thetas}]", f"h2: {result.heritabilities[0][1].estimate[0]:.6f}"]


def genotype_record(inputs: Inputs, standardize: str) -> dict[str, Any]:
    """What OUT.json says of the genotypes; nothing without them."""
    if inputs.products is None:
        return {}
    inv_sd = inputs.products.genotypes.inv_sd
    divided = STANDARDISATION[standardize]
    return {
        "num_variants": int((inv_sd > 0).sum()),
        "num_variants_dropped": int((inv_sd == 0).sum()),
        "standardisation": f"{divided} of {standardised_in(inputs)}; missing = mean; A1 counted",
    }


def enrichment_of(result: FitResult | HEResult, inputs: Inputs) -> Enrichment | None:
    """What every component's variants hold of the heritability, overlap counted.

    None for a single component, and where samples are scaled: then a variant's variance is not the same for all.
    Relationship matrices have no variants; they count in the phenotypic variance only.
    """
    if len(result.names) == 1 or inputs.genetic is None or inputs.planned.sizes.num_scales > 1:
        return None
    if not isinstance(inputs.genetic, ops.GenotypeCovariance) or len(inputs.genetic.names) == 1:
        return None
    genotypes, made = inputs.products.genotypes, inputs.components
    mean_squares = genotypes.squared_norm / genotypes.num_samples
    m, own = inputs.genetic.weights.shape
    weights = sparse.hstack([inputs.genetic.weights, sparse.csr_array((m, len(result.names) - own))])
    if genotypes.num_samples != result.num_samples:  # what variants explain is among those that standardised them
        traces = np.append(inputs.genetic.traces / genotypes.num_samples, result.mean_traces[own:])
        result = replace(result, mean_traces=traces)
    return enrichment(result, weights, mean_squares, made.weights, made.names)


def ancestry_records(result: FitResult | HEResult, inputs: Inputs, own_residuals: bool) -> list | None:
    """Heritability by ancestry; None without ancestries.  ``own_residuals``: whether each has a residual of its own."""
    model = inputs.model
    if not model.ancestries:
        return None
    residuals = ancestry_residuals(model, own_residuals)
    found = ancestry_heritability(result, model.ancestries, residuals, model.proportions)
    rows = zip(model.ancestries, model.proportions, *found, strict=True)
    keys = ("ancestry", "mean_proportion", "h2", "h2_se", "h2_mc_se")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def device_memory(inputs: Inputs) -> dict[str, Any] | None:
    """Bytes planned for every device and the most that were held there; None on the CPU."""
    if inputs.planned.device is None:
        return None
    plan, peaks = inputs.planned.device, inputs.products.peak_bytes
    return {"planned": plan.peak, "peak": peaks}


def profile_text(result: FitResult) -> str:
    """OUT.profile.tsv: every value that was looked at; variances are those explained."""
    rows = [
        {"quantity": curve.quantity, "value": value, "loglik_difference": difference, "mc_se": mc_se}
        for curve in result.profiles
        for value, difference, mc_se in zip(curve.value, curve.difference, curve.mc_se, strict=True)
    ]
    return io.table_text(pd.DataFrame(rows))


def history_text(result: FitResult, seconds: list[float]) -> str:
    """OUT.history.tsv: one row an iteration; variances are those explained."""
    names, traces = [*result.names, *result.residual_names], np.append(result.mean_traces, result.residual_traces)
    rows = [
        {
            "iteration": record.iteration,
            **{f"variance_{name}": value for name, value in zip(names, traces * record.theta, strict=True)},
            "decrement": record.decrement,
            "score_norm": record.score_norm,
            "pcg_iterations": record.pcg_iterations,
            "num_probes": record.num_probes,
            "column_passes": record.column_passes,
            "seconds": elapsed,
            "basis": record.basis,
        }
        for record, elapsed in zip(
            result.history, [*[float("nan")] * (len(result.history) - len(seconds)), *seconds], strict=True
        )
    ]
    return io.table_text(pd.DataFrame(rows))
