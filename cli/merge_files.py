"""What ``--merge`` prints and writes: the table, the rounds' files, component files, trace and summary."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from gpu_reml import io
from gpu_reml.reml import FitResult
from gpu_reml.reml.studies.merge import KEPT, MERGED, SINGLETON, MergePlan

from .export import export_files, npy_bytes
from .flags.analysis import Analysis
from .flags.merge import Merge
from .inputs import Inputs
from .report import history_text, hsq_text, json_record
from .wording import in_flags

REFITTED, NOT_MERGED, NOT_CONVERGED = "one_shot_merge_refit_complete", "no_more_weak_merges", "round00_not_converged"
TRACE, SUMMARY = "zscore_merge_trace.tsv", "zscore_merge_summary.json"
WORDS = {KEPT: "kept", SINGLETON: "weak, alone: kept", MERGED: "merged"}


class Partition(NamedTuple):
    """Components before normalisation: ``weights`` (m, G) of the analysed variants, and ``rows`` (m,) of these in the
    genotype files, which is how component files count."""

    weights: sparse.csr_array
    rows: np.ndarray


class MergeRound(NamedTuple):
    """One fit, with the components it had and what becomes of them."""

    inputs: Inputs
    partition: Partition
    result: FitResult
    seconds: list[float]
    plan: MergePlan


def fit_prefix(folder: Path, number: int) -> Path:
    return folder / f"round{number:02d}" / "fit"


def spec_path(folder: Path, number: int) -> Path:
    return folder / f"round{number:02d}.component_spec.json"


def round_files(
    folder: Path, number: int, done: MergeRound, analysis: Analysis, settings: dict[str, Any], before: MergeRound | None
) -> dict[str, str | bytes]:
    """Path and content of all files of a round; ``settings``: what they tell of the flags."""
    prefix, spec, result = fit_prefix(folder, number), spec_path(folder, number), done.result
    context = {
        "phenotype": done.inputs.phenotypes[0],
        "settings": settings,
        "seed": analysis.estimation.seed,
        "version": version("gpu-reml"),
    }
    title = f"gpu-reml {context['version']} --merge, round {number}"
    return {
        f"{prefix}.json": io.json_text(json_record(result, done.inputs, analysis, context)),
        f"{prefix}.hsq": hsq_text(result),
        f"{prefix}.log": "\n".join([title, "", result.summary(), in_flags(result.status.value), ""]),
        f"{prefix}.history.tsv": history_text(result, done.seconds),
        **export_files(prefix, result, spec.name),
        str(prefix.with_name("theta_se.npy")): npy_bytes(done.plan.se),
        str(prefix.with_name("theta_z.npy")): npy_bytes(done.plan.z),
        str(spec): io.json_text(spec_record(done.partition, done.plan.names, before)),
    }


def spec_record(partition: Partition, names: tuple[str, ...], before: MergeRound | None) -> dict[str, Any]:
    """A component file of the components: rows of the genotype files, weights where they are not all 1, and for merged
    ones where they come from."""
    columns = sparse.csc_array(partition.weights)
    described = {} if before is None else origins(before.plan)
    components = []
    for g, name in enumerate(names):
        entries = slice(columns.indptr[g], columns.indptr[g + 1])
        order = np.argsort(columns.indices[entries])
        values = columns.data[entries][order]
        component = {"name": name, "variant_indices": partition.rows[columns.indices[entries][order]]}
        if (values != 1).any():
            component["weights"] = values
        components.append({**component, **described.get(name, {})})
    return {"components": components}


def origins(plan: MergePlan) -> dict[str, dict[str, Any]]:
    """Annotation and provenance of every component of the fit after a merge."""
    described = {
        plan.names[g]: {"annotation": {"status": plan.statuses[g], "zscore": plan.z[g]}} for g in plan.unchanged
    }
    z = plan.z[plan.pooled]
    described[plan.merged_name] = {
        "annotation": {
            "method": "zscore_global_weak_merge",
            "num_components": len(plan.pooled),
            "z_cutoff": plan.z_cutoff,
            "z_min": z.min(),
            "z_max": z.max(),
            "z_mean": z.mean(),
            "source_positions": plan.pooled,
        },
        "provenance": {"source_components": [plan.names[g] for g in plan.pooled]},
    }
    return described


def merge_lines(rounds: list[MergeRound], reason: str) -> list[str]:
    """What was merged and why, and what the last fit says of its components."""
    first, plan = rounds[0], rounds[0].plan
    weak, G = len(plan.weak), len(plan.names)
    outcome = {
        REFITTED: f"they become {plan.merged_name} in a second fit" if plan.merges else "",
        NOT_MERGED: "nothing to merge",
        NOT_CONVERGED: "the fit has not converged, so nothing is merged",
    }
    lines = [f"merge: {weak} of {G} components have z = variance / SE under {plan.z_cutoff:.4g}; {outcome[reason]}"]
    merging = reason == REFITTED
    fates = [WORDS[status] if merging or status != MERGED else "weak" for status in plan.statuses]
    lines += z_lines(plan, first.result, fates)
    if len(rounds) > 1:
        lines += ["components of the second fit:", *z_lines(rounds[1].plan, rounds[1].result, None)]
    close = np.abs(plan.z - plan.z_cutoff) <= 2 * first.result.mc_se[:-1] / plan.se
    if close.any() and first.result.mc_se.any():
        names = ", ".join(plan.names[g] for g in np.flatnonzero(close))
        lines.append(f"note: {names}: z is within two Monte-Carlo errors of the cutoff; a smaller --mc-target decides")
    return [*lines, ""]


def z_lines(plan: MergePlan, result: FitResult, fates: list[str] | None) -> list[str]:
    """A row for every component."""
    width = max(12, *(len(name) for name in plan.names))
    lines = [f"{'component':{width}s} {'variance':>12s} {'SE':>10s} {'z':>8s}"]
    for g, name in enumerate(plan.names):
        fate = f"  {fates[g]}" if fates else ""
        variance, se = (result.mean_traces[g] * value for value in (result.theta[g], plan.se[g]))
        lines.append(f"{name:{width}s} {variance:12.6g} {se:10.4g} {plan.z[g]:8.3f}{fate}")
    return lines


def trace_table(rounds: list[MergeRound], asked: Merge) -> pd.DataFrame:
    """A row for each round, with GPU_REML's columns."""
    rows = []
    for number, done in enumerate(rounds):
        plan, theta = done.plan, done.result.theta
        merges = number == 0 and len(rounds) > 1
        rows.append(
            {
                "round": number,
                "stage": "refit" if number else "fit",
                "merge_mode": asked.merge_mode,
                "n_components": len(plan.names),
                "h2": done.result.h2.estimate[-1],
                "sum_theta_g": theta[:-1].sum(),
                "theta_e": theta[-1],
                "n_weak_z": len(plan.weak),
                "n_reject_z": len(plan.keep),
                "n_merged_groups": int(merges),
                "next_n_components": len(plan.next_names) if merges else len(plan.names),
                "z_cutoff": plan.z_cutoff,
                "z_min": plan.z.min(),
                "z_median": np.median(plan.z),
                "z_max": plan.z.max(),
                "se_median": np.median(plan.se),
                "component_spec": spec_path(Path(), number).name,
                "theta_npy": f"round{number:02d}/fit.theta.npy",
                "ai_npy": f"round{number:02d}/fit.ai.npy",
            }
        )
    return pd.DataFrame(rows)


def summary_record(rounds: list[MergeRound], reason: str, asked: Merge) -> dict[str, Any]:
    """What was done, and the estimates, errors and z of both fits by component."""
    first, last = rounds[0], rounds[-1]
    analysed = first.result.num_samples
    n_eff = asked.merge_n_eff if asked.merge_ai_scale_mode == "per_sample" else 0.0
    return {
        "stop_reason": reason,
        "converged": last.result.converged,
        "merge_mode": asked.merge_mode,
        "z_cutoff": first.plan.z_cutoff,
        "ai_scale_mode": asked.merge_ai_scale_mode,
        "n_eff": n_eff or analysed,
        "n_samples": analysed,
        "phenotype": first.inputs.phenotypes[0],
        "n_rounds": len(rounds),
        "rounds": [round_record(done, number, number + 1 < len(rounds)) for number, done in enumerate(rounds)],
        "merged": [first.plan.names[g] for g in first.plan.pooled] if len(rounds) > 1 else [],
        "merged_into": first.plan.merged_name if len(rounds) > 1 else None,
        "final_round": len(rounds) - 1,
    }


def round_record(done: MergeRound, number: int, merges: bool) -> dict[str, Any]:
    """A round of the summary; ``merges``: whether another follows, so that its weak components were merged."""
    plan, result = done.plan, done.result
    statuses = [status if merges or status != MERGED else "weak" for status in plan.statuses]
    traces, G = result.mean_traces, len(plan.names)
    theta, mc_se = result.theta[:G], result.mc_se[:G]
    rows = zip(plan.names, traces * theta, traces * plan.se, theta, plan.z, mc_se / plan.se, statuses, strict=True)
    keys = ("name", "variance", "se", "theta", "z", "z_mc_se", "status")
    return {
        "round": number,
        "status": result.status.name.lower(),
        "h2": result.h2.estimate[-1],
        "h2_se": result.h2.se[-1],
        "loglik": result.loglik,
        "components": [dict(zip(keys, row, strict=True)) for row in rows],
        "residual": result.theta[-1],
    }
