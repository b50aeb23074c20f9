"""``python -m gpu_reml.validation.smile_study``: what weights W between the genotypes do to h2 and its SE.

One cohort in linkage disequilibrium, phenotypes by three kinds of effects b ~ N(0, h2 W / c) in blocks of 50 variants:
independent (W = I), as correlated as the genotypes (W = S), and by the inverse (W = S^-1), S = 0.9 R + 0.1 I from 2,000
other people of the population.  Every phenotype is fitted by exact REML with W = I, with either W from the other
people, and with either W from the analysed sample itself.  All kernels have tr(K) = n, so h2 means the same throughout.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gpu_reml.io import write_text
from gpu_reml.ops import CpuProducts, pack, standardise
from gpu_reml.ops.block_covariance import make_block_covariance
from gpu_reml.ops.ld_weights import block_edges, ld_block_weights
from gpu_reml.ops.weights import BlockWeights
from gpu_reml.reml import fit_exact

from .haplotypes import SPARSE
from .simulate import simulate_cohort

SAMPLES, REFERENCE, VARIANTS, BLOCK, CHROMOSOMES = 600, 2000, 1500, 50, 30
TRUTH = {"independent": "W = I", "correlated like LD": "W = S", "inverse of LD": "W = S^-1"}  # effects -> model
MODELS = ("W = I", "W = S", "W = S of the sample", "W = S^-1", "W = S^-1 of the sample")


class Row(NamedTuple):
    """Fits of one model to one kind of effects: means over the replicates, and standard errors of the bias."""

    effects: str
    model: str
    mean: float
    bias: float
    bias_se: float
    sd: float
    mean_se: float
    loglik_gain: float


def kernels(seed: int, persistence: float) -> dict[str, np.ndarray]:
    """K (n, n) of every model, tr(K) = n."""
    haplotypes = replace(SPARSE, num_chromosomes=CHROMOSOMES, persistence=persistence)
    people = simulate_cohort(SAMPLES + REFERENCE, VARIANTS, seed, haplotypes=haplotypes, missing_rate=0.0)
    sample = standardise([pack(people.counts[:SAMPLES])], SAMPLES)
    others = standardise([pack(people.counts[SAMPLES:])], REFERENCE)
    edges = block_edges(sample, BLOCK, people.variants["chrom"].to_numpy())
    weights = {"W = I": BlockWeights([VARIANTS])}
    for name, kind in (("W = S", "correlation"), ("W = S^-1", "inverse")):
        weights[name] = ld_block_weights(others, edges, kind).weights
        weights[f"{name} of the sample"] = ld_block_weights(sample, edges, kind).weights
    products, identity = CpuProducts(sample, np.float64), np.eye(SAMPLES)
    return {name: make_block_covariance(products, [weights[name]]).apply([1.0], identity) for name in MODELS}


def study(h2: float, replicates: int, seed: int, persistence: float = 0.9) -> list[Row]:
    """Every model on every kind of effects."""
    Ks = kernels(seed, persistence)
    rng, X = np.random.default_rng(seed), np.ones((SAMPLES, 1))
    rows = []
    for effects, truth in TRUTH.items():
        values, vectors = np.linalg.eigh(Ks[truth])
        root = vectors * np.sqrt(h2 * np.maximum(values, 0.0))  # rounding leaves zeros a little below
        Y = root @ rng.standard_normal((SAMPLES, replicates))
        Y += np.sqrt(1 - h2) * rng.standard_normal((SAMPLES, replicates))
        fits = {name: [fit_exact(y, X, [Ks[name]]) for y in Y.T] for name in MODELS}
        base = np.array([found.loglik for found in fits["W = I"]])
        for name in MODELS:
            estimates = np.array([found.h2.estimate[-1] for found in fits[name]])
            errors = np.array([found.h2.se[-1] for found in fits[name]])
            gain = np.mean(np.array([found.loglik for found in fits[name]]) - base)
            sd = estimates.std(ddof=1)
            mean = estimates.mean()
            spread = sd / np.sqrt(replicates)
            rows.append(Row(effects, name, mean, mean - h2, spread, sd, np.nanmean(errors), gain))
    return rows


def table(rows: Sequence[Row], h2: float) -> str:
    """The rows as Markdown."""
    lines = [
        f"| effects | model | mean h2 (true {h2:g}) | bias ± its SE | SD | mean SE | loglik against W = I |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.effects} | {row.model} | {row.mean:.3f} | {row.bias:+.3f} ± {row.bias_se:.3f} | {row.sd:.3f} | "
            f"{row.mean_se:.3f} | {row.loglik_gain:+.2f} |"
        )
    return "\n".join(lines)


def figure(rows: Sequence[Row], h2: float) -> str:
    """SVG: the mean estimate of every model (dot), the SD of estimates (thin) and the 95 % interval of the mean
    (thick), by kind of effects; the line is the truth."""
    left, width, step, top = 250, 430, 22, 40
    height = top + step * (len(rows) + 2 * len(TRUTH)) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 40}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{left + width + 40}" height="{height}" fill="white"/>',
    ]
    for value in (0, 0.2, 0.4, 0.6, 0.8, 1):
        at = left + width * value
        parts.append(f'<line x1="{at:g}" y1="{top - 10}" x2="{at:g}" y2="{height - 40}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:g}" y="{height - 22}" text-anchor="middle">{value:g}</text>')
    middle = left + width / 2
    parts.append(f'<text x="{middle:g}" y="{height - 5}" text-anchor="middle">estimated h2</text>')
    true = left + width * h2
    parts.append(f'<line x1="{true:g}" y1="{top - 10}" x2="{true:g}" y2="{height - 40}" stroke="#c33"/>')
    y, shown = top, ""
    for row in rows:
        if row.effects != shown:
            shown, y = row.effects, y + (step if shown else 0)
            parts.append(f'<text x="10" y="{y + 4}" font-weight="bold">effects: {shown}</text>')
            y += step
        at, sd, half = (left + width * row.mean, width * row.sd, width * 1.96 * row.bias_se)
        parts.append(f'<text x="20" y="{y + 4}">{row.model}</text>')
        parts.append(f'<line x1="{at - sd:.1f}" y1="{y}" x2="{at + sd:.1f}" y2="{y}" stroke="#36a" stroke-width="1"/>')
        parts.append(
            f'<line x1="{at - half:.1f}" y1="{y}" x2="{at + half:.1f}" y2="{y}" stroke="#36a" stroke-width="5"/>'
        )
        parts.append(f'<circle cx="{at:.1f}" cy="{y}" r="4" fill="#124"/>')
        y += step
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--h2", type=float, default=0.5)
    parser.add_argument("--replicates", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--svg", metavar="FILE", help="write the figure")
    parser.add_argument("--json", metavar="FILE", help="write the rows")
    options = parser.parse_args()
    rows = study(options.h2, options.replicates, options.seed)
    print(table(rows, options.h2))
    if options.svg:
        write_text(options.svg, figure(rows, options.h2))
    if options.json:
        write_text(options.json, json.dumps([row._asdict() for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
