"""``--fit-alpha``: the exponent of the alpha model, estimated with the variances after a fit."""

from typing import Any, NamedTuple

import numpy as np

from gpu_reml import io
from gpu_reml.reml import (
    FitSettings,
    LearnedWeights,
    ProbeSettings,
    SolverSettings,
    alpha_law,
    draw_probes,
    fit_weights,
)
from gpu_reml.reml.engines.reduced_model import MOST_BASIS
from gpu_reml.reml.tables import component_records, shown

from .flags.analysis import Analysis
from .flags.model import BESIDE_SETS
from .inputs import Inputs
from .planned import Planned, rooms

GRM = -1.0  # alpha at which all variants weigh the same


class AlphaFiles(NamedTuple):
    """``files``: suffix and content.  ``lines``: what to print.  ``converged``: whether the fit at the end has."""

    files: dict[str, str]
    lines: list[str]
    converged: bool


def check_alpha(asked: str | None, analysis: Analysis) -> None:
    """Raises InputError for flags that contradict ``--fit-alpha``."""
    if not asked:
        return
    terms, estimation = analysis.terms, analysis.estimation
    beside = BESIDE_SETS
    given = [f"--{name.replace('_', '-')}" for name in beside if getattr(terms, name)]
    if given or analysis.smile.wanted:
        others = ", ".join(given) or "SMILE"
        raise io.InputError(f"--fit-alpha: learns weights of sets of variants alone; leave {others} out")
    if estimation.by_moments or not estimation.constrain:
        other = f"--method {estimation.method}" if estimation.by_moments else "--no-constrain"
        raise io.InputError(f"--fit-alpha: needs a REML fit with bounds, which {other} is not; leave it out")


def alpha_files(name: str, inputs: Inputs, analysis: Analysis, asked: str) -> AlphaFiles:
    """Alpha of one trait, with its files.  It starts at --alpha, against which its likelihood ratio is."""
    y, X, estimation = inputs.Y[:, inputs.phenotypes.index(name)], inputs.design.X, analysis.estimation
    covariance, start = inputs.genetic, GRM if analysis.scaling.alpha is None else analysis.scaling.alpha
    law = alpha_law(inputs.products.genotypes, covariance.names if asked == "each" else None)
    settings = FitSettings(
        max_iterations=estimation.max_iterations,
        solver=SolverSettings(most_basis=inputs.planned.basis),
        probes=ProbeSettings(
            first=estimation.starting_probes, mc_target=estimation.mc_target, columns=inputs.planned.columns
        ),
    )
    probes = draw_probes(len(y), inputs.planned.probes(estimation.max_probes), 0, estimation.seed)
    found = fit_weights(y, X, covariance, law, probes, settings)
    files = {
        "alpha.tsv": io.table_text(found.to_frame(start)),
        "alpha.json": io.json_text(alpha_record(found, start)),
    }
    return AlphaFiles(files, alpha_lines(found, start), found.fit.converged)


def alpha_record(found: LearnedWeights, start: float) -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {
        "alpha": found.to_frame(start).to_dict("records"),
        "start": start,
        "lrt": found.lrt,
        "lrt_mc_se": found.lrt_mc_se,
        "lrt_df": len(found.names),
        "lrt_p": found.p,
        "h2": found.h2.estimate[0],
        "h2_se": found.h2.se[0],
        "h2_mc_se": found.h2.mc_se[0],
        "converged": found.fit.converged,
        "loglik": found.fit.loglik,
        "num_probes": found.fit.num_probes,
        "passes": found.fit.column_passes,
        "path": (np.array(found.path) + start).tolist(),
        "parameters": [*found.fit.names, *found.fit.residual_names, *found.names],
        "covariance": found.covariance,
        "mc_covariance": found.mc_covariance,
        **component_records(found.fit),
    }


def end(value: float) -> str:
    """An end of an interval, which may be infinite, or NA where it is not known."""
    return "NA" if np.isnan(value) else f"{value:.4f}"


def alpha_lines(found: LearnedWeights, start: float) -> list[str]:
    """Alpha as a person reads it."""
    lines = [
        f"{row.name}: {row.estimate:.4f}  SE {shown(row.se, '.4f')}  Monte-Carlo error {shown(row.mc_se, '.2g')}  "
        f"profile-likelihood 95% interval {end(row.lower)} to {end(row.upper)}"
        for row in found.to_frame(start).itertuples(index=False)
    ]
    h2 = found.h2
    lines.append(
        f"log-likelihood ratio against alpha = {start:g}: {shown(found.lrt, '.3f')} (Monte-Carlo error "
        f"{shown(found.lrt_mc_se, '.2g')}) on {len(found.names)} df, p = {shown(found.p, '.3g')}; h2 there "
        f"{h2.estimate[0]:.4f}  SE {shown(h2.se[0], '.4f')}, with alpha's error in it"
    )
    flat = [name for name, each in zip(found.names, found.flat, strict=True) if each]
    if flat:
        lines.append(f"note: {', '.join(flat)}: the likelihood is flat, so these data do not tell it")
    return lines


def planned_alpha(planned: Planned, asked: str | None, analysis: Analysis) -> Planned:
    """The plan with the basis that all alphas share, where the fit itself has none."""
    if not asked or planned.basis is not None:
        return planned
    sizes = planned.sizes
    device, room = rooms(sizes._replace(num_components=sizes.num_components + 1), planned.backend, analysis)
    if device is not None or room is not None:
        return planned._replace(device=device, room=room)
    vectors = min(MOST_BASIS, sizes.dimension)
    held = 4 * vectors * (sizes.num_samples + sizes.num_variants) + 8 * 3 * (sizes.num_components + 1) * vectors**2
    return planned._replace(sizes=sizes._replace(further=(*sizes.further, ("alpha", held))))
