"""What a user reads of ``gpu-reml-sparse``: the chosen variants, the path, the records and the closing lines."""

from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from gpu_reml import figures, io
from gpu_reml.io.sparse import PathTable, path_frame
from gpu_reml.reml.studies.sparse_result import RoundRecord, SparseResult
from gpu_reml.reml.tables import Sum, shown

from .inputs import Inputs
from .pictures import drawn
from .report import bound_lines
from .wording import fit_record, in_flags

CAUTION = (
    "beta_gls and its errors take the chosen variants as given in advance; beta_debiased is of the joint model of the "
    "candidates at the fitted variances. Neither corrects for having chosen, by the same phenotype, which variants to "
    "report: the largest effects are too large on average. Confirm them in other samples"
)


def positions(inputs: Inputs) -> tuple[np.ndarray, list[str]]:
    """Of every analysed variant: its place where components are laid one after another (-1: in none), and their names.

    Within a component variants keep the order of the files, however they were listed.  A variant of several components
    has the place in the first of them and all names.
    """
    weights = inputs.components.weights.tocsc(copy=True)
    weights.sort_indices()
    place = np.full(weights.shape[0], -1, np.int64)
    names = [[] for _ in range(weights.shape[0])]
    for g, name in enumerate(inputs.components.names):
        entries = np.arange(weights.indptr[g], weights.indptr[g + 1])
        rows = weights.indices[entries]
        new = place[rows] < 0
        place[rows[new]] = entries[new]
        for row in rows:
            names[row].append(name)
    return place, [",".join(each) for each in names]


def selected_table(result: SparseResult, inputs: Inputs) -> pd.DataFrame:
    """A row for every chosen variant: who it is, and its effects in phenotype units, of an SD and of a copy of a1."""
    rows, genotypes = result.support, inputs.products.genotypes
    place, names = positions(inputs)
    about = inputs.variants.table.iloc[rows].reset_index(drop=True)
    inv_sd = genotypes.inv_sd[rows]
    per_sd = {
        "beta_lasso": result.beta_lasso,
        "beta_gls": result.gls.estimate,
        "se_gls": result.gls.se,
        "beta_debiased": result.debiased.estimate,
        "se_debiased": result.debiased.se,
    }
    return pd.DataFrame(
        {
            "snp_index": place[rows],
            "source_snp_index": inputs.variants.rows[rows],
            "grm": [names[row] for row in rows],
            "chr": about["chrom"],
            "snp_id": about["id"],
            "cm": about["cm"],
            "bp": about["bp"],
            "a1": about["a1"],
            "a2": about["a2"],
            "freq": genotypes.mean[rows] / 2,
            **per_sd,
            "p_gls": result.gls.p,
            "p_debiased": result.debiased.p,
            "log10_p_debiased": result.debiased.log10_p,
            **{f"{name}_per_allele": values * inv_sd for name, values in per_sd.items()},
        }
    )


def path_table(result: SparseResult, inputs: Inputs) -> PathTable:
    """The last path, with the variants' names."""
    path, rows = result.path, result.candidates
    ids = inputs.variants.table["id"].to_numpy()[rows].tolist()
    return PathTable(
        path.lambdas, path.df, path.rss, path.ebic, path.coefficients, ids, positions(inputs)[0][rows], path.best
    )


def round_line(record: RoundRecord, inputs: Inputs) -> str:
    """One round as a person reads it."""
    theta = " ".join(f"{value:.5g}" for value in record.theta)
    certified = "optimality (KKT) not checked"
    if record.kkt_rounds:
        certified = f"optimal to {record.kkt_violation:.1e} of lambda (KKT)"
    moved = ""
    if record.change == record.change:
        moved = f" and moved variances by {record.change:.2%} of the phenotypic one"
    return (
        f"round {record.round}: theta {theta}; {len(record.support)} variants of {record.num_candidates} "
        f"candidates at lambda {record.lam:.5g}, {certified}; REML {record.fit_status}{moved}"
    )


def round_record(record: RoundRecord, ids: np.ndarray) -> dict[str, Any]:
    """A round with the names that files use; ``support`` counts the analysed variants."""
    values = record._asdict()
    return {"lambda": values.pop("lam"), **values, "snp_ids": ids[list(record.support)].tolist()}


def history_record(rounds: list[RoundRecord], inputs: Inputs, status: str) -> dict[str, Any]:
    """``OUT.history.json``: every round, its variants by id as well."""
    ids = inputs.variants.table["id"].to_numpy()
    return {
        "status": status,
        "theta_of": [*inputs.covariance.names, "residual"],
        "units": "theta in phenotype units squared per unit of K; lambda in 1 / phenotype units",
        "rounds": [round_record(r, ids) for r in rounds],
    }


def summary_record(
    result: SparseResult, table: pd.DataFrame, inputs: Inputs, context: dict[str, Any]
) -> dict[str, Any]:
    """``OUT.summary.json``."""
    effects, c = result.fit.fixed_effects, result.num_fixed
    fixed = zip(inputs.design.names, effects.estimate[:c], effects.se[:c], strict=True)
    ids = inputs.variants.table["id"].to_numpy()
    return {
        "phenotype": inputs.phenotypes[0],
        **result.to_dict(),
        "message": [in_flags(status.value) for status in result.statuses],
        "n": inputs.alignment.num_samples,
        "num_variants": int((inputs.products.genotypes.inv_sd > 0).sum()),
        "support": table["snp_index"].tolist(),
        "support_source": table["source_snp_index"].tolist(),
        "support_ids": table["snp_id"].tolist(),
        "dependent_ids": ids[result.dependent].tolist(),
        "fit": fit_record(result.fit),
        "fixed_effects": [{"name": name, "estimate": value, "se": se} for name, value, se in fixed],
        "caution": CAUTION,
        "units": "variances in phenotype units squared, lambda in 1 / phenotype units, effects in phenotype units",
        "history": history_record(list(result.history), inputs, result.statuses[0].name.lower())["rounds"],
        "samples": {"analysed": inputs.alignment.num_samples, "dropped": inputs.alignment.dropped_counts},
        "filters": [{"filter": text, "removed": number} for text, number in inputs.filtered],
        "backend": inputs.covariance.backend,
        "notes": inputs.notes,
        "version": version("gpu-reml"),
        **context,
    }


def output_files(
    out: str, result: SparseResult, table: pd.DataFrame, summary: dict[str, Any], inputs: Inputs
) -> dict[str, str]:
    """Path and content of the five files."""
    path = path_table(result, inputs)
    title = f"LASSO path of {inputs.phenotypes[0]}: {len(table)} of {len(result.candidates)} candidates chosen"
    status = result.statuses[0].name.lower()
    return {
        f"{out}.summary.json": io.json_text(summary),
        f"{out}.history.json": io.json_text(history_record(list(result.history), inputs, status)),
        f"{out}.selected_snps.tsv": io.table_text(table),
        f"{out}.path.tsv": io.table_text(path_frame(path)),
        **drawn(f"{out}.path.svg", lambda: figures.plot_path(path, title)),
    }


def closing_lines(result: SparseResult, table: pd.DataFrame) -> list[str]:
    """The results as a person reads them, then the [RESULT] lines."""
    columns = ["snp_id", "chr", "bp", "a1", "freq", "beta_gls", "se_gls", "beta_debiased", "se_debiased", "p_debiased"]
    rest = Sum("h2_reml", "beside the chosen variants", tuple(range(len(result.fit.names))))
    lines = [replace(result.fit, sums=(rest,)).summary(), *bound_lines(result.fit), ""]
    if len(table):
        lines += [table[columns].to_string(index=False, float_format=lambda value: f"{value:.4g}"), ""]
    if len(result.dependent):
        left_out = table["snp_id"][np.isin(result.support, result.dependent)]
        lines.append(f"no effect of their own, combinations of the other variants chosen: {', '.join(left_out)}")
    seen = result.certificate
    if seen is not None:
        lines.append(
            f"KKT conditions of all {seen.num_variants} variants hold to {seen.violation:.1e} of lambda, gradients "
            f"known to {seen.solve_error:.1e} (tolerance {seen.tolerance:.1e})"
        )
    explained = result.explained["gls"]
    lines += [f"chosen variants explain {explained.variance:.6g} (SE {explained.se:.3g}), phenotype units squared"]
    both = result.h2_total("gls")
    lines.append(f"h2 = {both.estimate:.6f}  SE {shown(both.se, '.6f')}  (of the chosen variants and the others)")
    lines += [f"{status.name.lower()}: {in_flags(status.value)}" for status in result.statuses]
    if len(table):
        lines.append(f"caution: {CAUTION}")
    chive = result.h2_total("lasso")
    variances = " ".join(f"{value:.6g}" for value in result.fit.theta)
    return [
        *lines,
        f"[RESULT] var_components: {variances}",
        *(
            f"[RESULT] {name}: {share.estimate:.6f} (SE {shown(share.se, '.6f')})"
            for name, share in (("h2_reml", result.h2_reml), ("h2_chive", chive), ("h2_chive_reml", both))
        ),
        f"[RESULT] support_size: {len(result.support)}",
    ]
