"""``python -m gpu_reml.validation.alpha_study``: is alpha found where it was put, and does its interval hold it?

Phenotypes of the alpha model on one cohort with LD and variants of every frequency.  ``--grid`` compares the estimate
of each first phenotype with a grid of dense likelihoods as well.
"""

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml.ops import CpuProducts, alpha_weights, make_covariance, standardise
from gpu_reml.ops.packing import pack
from gpu_reml.reml import alpha_law, draw_probes, fit_exact, fit_weights

from .simulate import simulate_cohort

ALPHAS = (-1.0, -0.5, -0.25, 0.0)
H2 = 0.6
GRM = -1.0  # alpha at tau = 0
GRID = np.linspace(-2, 1.5, 71)


class Found(NamedTuple):
    """An estimate of ``alpha``: ``estimate`` with its errors and interval, and the ``grid``'s (NaN without)."""

    alpha: float
    estimate: float
    se: float
    mc_se: float
    lower: float
    upper: float
    flat: bool
    grid: float


@cache
def make_products(num_samples: int, num_variants: int, seed: int = 1) -> CpuProducts:
    """A cohort with LD."""
    people = simulate_cohort(num_samples, num_variants, seed)
    return CpuProducts(standardise([pack(people.counts)], num_samples), np.float32)


def replicate(shape: tuple[int, int], alpha: float, grid: int, seed: int) -> Found:
    """One phenotype; the first ``grid`` are looked at on a grid, too."""
    products, rng = make_products(*shape), np.random.default_rng([seed, round(100 * (alpha + 2))])
    n, weights = products.num_samples, alpha_weights(products.genotypes, alpha)
    effects = np.sqrt(H2 * weights / weights.sum()) * rng.standard_normal(len(weights))
    y = np.asarray(products.z(effects[:, None].astype(np.float32)), np.float64)[:, 0]
    y += np.sqrt(1 - H2) * rng.standard_normal(n)
    X, law = np.ones((n, 1)), alpha_law(products.genotypes)
    found = fit_weights(y, X, make_covariance(products), law, draw_probes(n, 128, seed=seed))
    numbers = (found.tau[0] + GRM, found.se[0], found.mc_se[0], found.lower[0] + GRM, found.upper[0] + GRM)
    best = grid_maximum(products, y, X) if seed < grid else np.nan
    return Found(alpha, *map(float, numbers), bool(found.flat[0]), best)


def grid_maximum(products: CpuProducts, y: np.ndarray, X: np.ndarray) -> float:
    """alpha of the highest dense likelihood on the grid, by the parabola through its neighbours."""
    heights = np.array(
        [fit_exact(y, X, make_covariance(products, alpha_weights(products.genotypes, a)[:, None])).loglik for a in GRID]
    )
    top = int(np.clip(np.argmax(heights), 1, len(GRID) - 2))
    before, at, after = heights[top - 1 : top + 2]
    return float(GRID[top] + (GRID[1] - GRID[0]) / 2 * (before - after) / (before - 2 * at + after))


def table_of(rows: Sequence[Found]) -> pd.DataFrame:
    """For each alpha: bias in standard errors of the mean estimate and of one, coverage, and distance from the grid."""
    table = []
    for alpha, part in pd.DataFrame(rows).groupby("alpha"):
        known = part[~part["flat"]]
        error, se = known["estimate"] - alpha, known["se"].median()
        table.append(
            {
                "alpha": alpha,
                "phenotypes": len(part),
                "flat": int(part["flat"].sum()),
                "mean": known["estimate"].mean(),
                "median": known["estimate"].median(),
                "SE": se,
                "SD": known["estimate"].std(),
                "bias / SE": error.mean() / se,
                "its error": error.std() / se / np.sqrt(max(len(known), 1)),
                "coverage": ((part["lower"] <= alpha) & (alpha <= part["upper"])).mean(),
                "MC error / SE": (known["mc_se"] / known["se"]).median(),
                "off grid / SE": ((known["estimate"] - known["grid"]) / known["se"]).abs().max(),
            }
        )
    return pd.DataFrame(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("--samples", 1000, "samples"),
        ("--variants", 3000, "variants"),
        ("--phenotypes", 100, "phenotypes of each alpha"),
        ("--grid", 2, "of these are looked at on a grid of dense likelihoods, too"),
        ("--jobs", 1, "processes"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} (default {default})")
    options = parser.parse_args(arguments)
    rows: list[Found] = []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for alpha in ALPHAS:
            task = partial(replicate, (options.samples, options.variants), alpha, options.grid)
            rows += pool.map(task, range(options.phenotypes))
            print(table_of(rows).to_string(index=False, float_format="%.3f"), flush=True)


if __name__ == "__main__":
    main()
