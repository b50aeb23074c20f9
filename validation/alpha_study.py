"""``python -m gpu_reml.validation.alpha_study``: is alpha found where it was put, and does its interval hold it?

Phenotypes of the alpha model, and of two annotations of known tau, on one cohort with LD and variants of every
frequency.  Dense likelihoods say what maximum likelihood itself does: the maxima for ``--dense`` phenotypes of each
alpha on a grid, whose eigendecompositions all share.  The first ``--phenotypes`` of these are fitted.

An estimate's error has the first-order part I^-1 s of the exact score at the truth, whose mean is 0.  What the bias is
without it scatters far less: "second order" in the tables.
"""

import argparse
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from gpu_reml.ops import CpuProducts, make_covariance, standardise
from gpu_reml.ops.packing import pack
from gpu_reml.reml import LogLinear, alpha_law, draw_probes, fit_weights

from .alpha_dense import Dense, maxima
from .simulate import simulate_cohort

ALPHAS = (-1.0, -0.5, -0.25, 0.0)
TAUS = (1.0, -0.5)  # of the annotations: of one variant in three, by neighbours, and of a normal score
NEIGHBOURS = 20
H2 = 0.8
GRM = -1.0  # alpha at tau = 0
GRID = np.arange(-2.2, 1.41, 0.1)
CHI = special.chdtri(1, 0.05)


class Case(NamedTuple):
    """A law of weights with the ``tau`` (K,) that phenotypes are drawn with."""

    label: str
    law: LogLinear
    tau: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """(m,)"""
        return np.exp(self.law.columns @ self.tau)


class Found(NamedTuple):
    """An estimate of one tau, ``truth``, with its errors and interval; ``linear``: the first-order part of its error;
    ``dense``: the dense likelihood's maximum (NaN where there is no grid)."""

    label: str
    truth: float
    estimate: float
    se: float
    mc_se: float
    lower: float
    upper: float
    flat: bool
    linear: float
    dense: float


@cache
def make_products(num_samples: int, num_variants: int, seed: int = 1) -> CpuProducts:
    """A cohort with LD."""
    people = simulate_cohort(num_samples, num_variants, seed)
    return CpuProducts(standardise([pack(people.counts)], num_samples), np.float32)


def cases_of(products: CpuProducts) -> list[Case]:
    """Every alpha, and the two annotations."""
    law, m = alpha_law(products.genotypes), products.num_variants
    rng = np.random.default_rng(1)
    groups = (rng.random(m // NEIGHBOURS + 1) < 1 / 3).repeat(NEIGHBOURS)[:m]
    annotations = LogLinear(np.column_stack([groups, rng.standard_normal(m)]).astype(float), ("neighbours", "score"))
    alphas = [Case(f"alpha {alpha:g}", law, np.array([alpha - GRM])) for alpha in ALPHAS]
    return [*alphas, Case("two annotations", annotations, np.array(TAUS))]


def phenotype(products: CpuProducts, case: Case, seed: int) -> np.ndarray:
    """(n,) a phenotype of variance 1."""
    rng, w = np.random.default_rng([seed, *case.label.encode()]), case.weights * (products.genotypes.inv_sd > 0)
    effects = np.sqrt(H2 * w / w.sum()) * rng.standard_normal(len(w))
    noise = np.sqrt(1 - H2) * rng.standard_normal(products.num_samples)
    return np.asarray(products.z(effects[:, None].astype(np.float32)), np.float64)[:, 0] + noise


def phenotypes(products: CpuProducts, case: Case, count: int) -> np.ndarray:
    """(n, count)"""
    return np.column_stack([phenotype(products, case, seed) for seed in range(count)])


class Oracle(NamedTuple):
    """What dense likelihoods say of R phenotypes of a case: ``linear`` (R, K) first-order parts with standard errors
    ``se`` (K,), and for one tau the maxima ``best`` (R,) and twice the ``fall`` from there to the truth."""

    case: Case
    linear: np.ndarray
    se: np.ndarray
    best: np.ndarray
    fall: np.ndarray


def oracles(products: CpuProducts, cases: Sequence[Case], count: int, grid: np.ndarray = GRID) -> list[Oracle]:
    """Of every case; an eigendecomposition for every point of the grid."""
    varies = products.genotypes.inv_sd > 0
    Ys = [phenotypes(products, case, count) for case in cases]
    X, taus = np.ones((products.num_samples, 1)), grid - GRM
    dense = Dense.of(products, np.hstack(Ys), X)
    column = alpha_law(products.genotypes).columns[:, 0]
    heights = np.array([dense.profile(varies * np.exp(tau * column)) for tau in taus])
    made = []
    for k, case in enumerate(cases):
        own = slice(k * count, (k + 1) * count)
        part = Dense(dense.gram, dense.forms[:, own], dense.squares[own], dense.dimension)
        linear, se = part.first_order(varies * case.weights, case.law.columns, H2)
        best = fall = np.full(count, np.nan)
        if len(case.tau) == 1:
            best, fall = maxima(taus, heights[:, own], np.repeat(case.tau, count))
        made.append(Oracle(case, linear, se, best, fall))
    return made


def replicate(products: CpuProducts, oracle: Oracle, seed: int) -> list[Found]:
    """One phenotype, fitted."""
    case, n = oracle.case, products.num_samples
    y = phenotype(products, case, seed)
    found = fit_weights(y, np.ones((n, 1)), make_covariance(products), case.law, draw_probes(n, 128, seed=seed))
    columns = (found.tau, found.se, found.mc_se, found.lower, found.upper)
    rows = []
    for k, name in enumerate(case.law.names):
        label = case.label if len(case.tau) == 1 else f"{name}, tau {case.tau[k]:g}"
        numbers = (float(column[k]) for column in columns)
        best = float(oracle.best[seed])
        rows.append(
            Found(label, case.tau[k], *numbers, bool(found.flat[k]), float(oracle.linear[seed, k]), best),
        )
    return rows


def bias(error: np.ndarray, linear: np.ndarray, se: float) -> dict[str, float]:
    """The mean error in standard errors, and that of its part beyond the first order, each with its own error."""
    parts, row = {"bias / SE": error, "second order": error - linear}, {}
    for name, values in parts.items():
        row[name] = values.mean() / se
        row[f"{name} +-"] = values.std(ddof=1) / se / np.sqrt(len(values))
    return row


def dense_table(found: Sequence[Oracle]) -> pd.DataFrame:
    """For each alpha, the maxima of dense likelihoods and how often the likelihood's interval holds the truth."""
    rows = []
    for oracle in found:
        if len(oracle.case.tau) == 1:
            error, se = oracle.best - oracle.case.tau[0], float(oracle.se[0])
            row = {"dense": oracle.case.label, "phenotypes": len(error), "SE": se, "SD": error.std(ddof=1)}
            rows.append(row | bias(error, oracle.linear[:, 0], se) | {"coverage": (oracle.fall <= CHI).mean()})
    return pd.DataFrame(rows)


def table_of(rows: Sequence[Found]) -> pd.DataFrame:
    """For each tau: bias in standard errors, coverage of intervals, and distance from the dense maximum."""
    table = []
    for label, part in pd.DataFrame(rows).groupby("label", sort=False):
        known = part[~part["flat"]]
        error, se = known["estimate"] - known["truth"], known["se"].median()
        table.append(
            {"fitted": label, "phenotypes": len(part), "flat": int(part["flat"].sum()), "SE": se, "SD": error.std()}
            | bias(error, known["linear"], se)
            | {
                "coverage": ((part["lower"] <= part["truth"]) & (part["truth"] <= part["upper"])).mean(),
                "MC error / SE": (known["mc_se"] / known["se"]).median(),
                "off dense / SE": ((known["estimate"] - known["dense"]) / known["se"]).abs().max(),
            }
        )
    return pd.DataFrame(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables, the second as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("--samples", 3000, "samples"),
        ("--variants", 1500, "variants"),
        ("--dense", 400, "phenotypes of each alpha whose dense likelihoods are maximised"),
        ("--phenotypes", 100, "of these that are fitted"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} (default {default})")
    options = parser.parse_args(arguments)
    products = make_products(options.samples, options.variants)
    known = oracles(products, cases_of(products), max(options.dense, options.phenotypes))
    print(dense_table(known).to_string(index=False, float_format="%.3f"), flush=True)
    rows: list[Found] = []
    for seed in range(options.phenotypes):
        rows += [row for oracle in known for row in replicate(products, oracle, seed)]
        if (seed + 1) % 10 == 0 or seed + 1 == options.phenotypes:
            print(table_of(rows).to_string(index=False, float_format="%.3f"), flush=True)


if __name__ == "__main__":
    main()
