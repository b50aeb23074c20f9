"""A pair's .hsq as GCTA writes it."""

import numpy as np

from gpu_reml.reml import GeneticCorrelations
from gpu_reml.reml.inference import Derived, delta_method
from gpu_reml.reml.studies.rg_result import PairResult
from gpu_reml.reml.tables import shown


def hsq_of_pair(result: GeneticCorrelations) -> str:
    """GCTA's rows of a bivariate REML: variances of every component that it explains, covariances, and correlations."""
    (fit,) = result.fits
    G, own = len(result.names), fit.entries
    x = own.vector(fit.S)
    roots = np.sqrt(np.vstack([fit.mean_traces, np.ones(2)]))
    scaled = roots[own.h, own.a] * roots[own.h, own.b]
    labels = ["G"] if G == 1 else [f"G{g + 1}" for g in range(G)]
    rows, picked = [], []
    for h, label in enumerate([*labels, "e"]):
        for name, (a, b) in ((f"V({label})_tr1", (0, 0)), (f"V({label})_tr2", (1, 1)), (f"C({label})_tr12", (0, 1))):
            rows.append(name)
            picked.append(np.eye(len(x))[own.index(h, a, b)] * scaled)
    lines = rows_of(rows, linear(fit, np.array(picked)))
    total = np.array([np.where((own.a == k) & (own.b == k), scaled, 0.0) for k in (0, 1)])
    lines += rows_of(["Vp_tr1", "Vp_tr2"], linear(fit, total))
    for label, h in zip(labels, range(G), strict=True):
        for k in (0, 1):
            part = np.where(own.h == h, total[k], 0.0)
            share, whole = part @ x / (total[k] @ x), total[k] @ x
            slopes = (part - share * total[k])[None] / whole
            found = delta_method(np.array([share]), slopes, fit.covariance, fit.mc_covariance)
            lines += rows_of([f"V({label})/Vp_tr{k + 1}"], found)
    for label, row in zip(labels, fit.rows(result.names), strict=False):
        lines += rows_of([f"r{label}"], row.rg)
    (i, j), n = fit.traits, result.num_samples
    lines += [f"n_tr1\t{n[i, i]}", f"n_tr2\t{n[j, j]}", f"n_common\t{n[i, j]}"]
    named = [f"# {label}: {name}" for label, name in zip(labels, result.names, strict=True) if G > 1]
    named += [f"# tr{k + 1}: {result.traits[trait]}" for k, trait in enumerate(fit.traits)]
    return "\n".join(["Source\tVariance\tSE", *lines, *named]) + "\n"


def linear(fit: PairResult, J: np.ndarray) -> Derived:
    """Linear functions J (k, p) of the entries with their errors."""
    return delta_method(J @ fit.entries.vector(fit.S), J, fit.covariance, fit.mc_covariance)


def rows_of(names: list[str], found: Derived) -> list[str]:
    """Name, estimate and standard error."""
    return [
        f"{name}\t{shown(value, '.6f').strip()}\t{shown(se, '.6f').strip()}"
        for name, value, se in zip(names, found.estimate, found.se, strict=True)
    ]
