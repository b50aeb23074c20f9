"""``python -m gpu_reml.validation.lrt_study``: are p-values of likelihood ratios uniform under the null?

The genotypes of a cohort are kept and phenotypes drawn anew; the first of three components has no variance, and of the
others both have some, or only the last.  Beside the dense p-value of each replicate stands that of the reduced model
with random probes, whose ratio is compared with the dense one in its stated Monte-Carlo errors.
"""

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from gpu_reml.reml import FitSettings, draw_probes, fit, fit_exact

from .small import covariance_of, make_cohort

NULLS = {"others positive": (0.0, 0.25, 0.25), "one other at zero": (0.0, 0.0, 0.4)}
LEVELS = (0.01, 0.05, 0.1, 0.25)
NUM_SAMPLES, NUM_VARIANTS = 400, 800


class Replicate(NamedTuple):
    """Dense and stochastic (NaN where it was not asked for) ratio and p of one phenotype; ``p_half`` is of
    1/2 chi2_0 + 1/2 chi2_1, whatever the others' bounds."""

    null: str
    statistic: float
    p: float
    p_half: float
    found: float
    found_mc_se: float
    found_p: float


def replicate(null: str, stochastic: bool, seed: int) -> Replicate:
    """A phenotype of the null, fitted and tested."""
    cohort = make_cohort(NUM_SAMPLES, NUM_VARIANTS, 3, seed=1, overlap=False)
    rng = np.random.default_rng([seed, list(NULLS).index(null)])
    theta = NULLS[null]
    y = np.sqrt(1 - sum(theta)) * rng.standard_normal(cohort.n)
    for variance, K in zip(theta, cohort.Ks, strict=True):
        values, vectors = np.linalg.eigh(K)
        y += np.sqrt(variance) * (vectors * np.sqrt(np.maximum(values, 0))) @ rng.standard_normal(cohort.n)
    covariance = covariance_of(cohort, np.float32)
    settings = FitSettings(lrt=((covariance.names[0],),))
    (dense,) = fit_exact(y, cohort.X, covariance, settings).ratio_tests
    half = 0.5 * float(special.chdtrc(1, dense.statistic)) if dense.statistic > 0 else 1.0
    found = (np.nan, np.nan, np.nan)
    if stochastic:
        (test,) = fit(y, cohort.X, covariance, draw_probes(cohort.n, seed=seed), settings).ratio_tests
        found = (test.statistic, test.mc_se, test.p)
    return Replicate(null, dense.statistic, dense.p, half, *found)


def sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of p-values up to each level, for every null and kind of p-value."""
    table = [
        {"null": null, "p": name, "replicates": int(part[name].notna().sum())}
        | {f"size at {level}": float((part[name].dropna() <= level).mean()) for level in LEVELS}
        for null, part in rows.groupby("null", sort=False)
        for name in ("p", "p_half", "found_p")
        if part[name].notna().any()
    ]
    return pd.DataFrame(table)


def errors(rows: pd.DataFrame) -> str:
    """Distance of stochastic ratios from dense ones, in their stated errors."""
    known = rows[(rows["found_mc_se"] > 0) & (rows["statistic"] > 0)]
    z = (known["found"] - known["statistic"]) / known["found_mc_se"]
    shares = ", ".join(f"{(z.abs() <= k).mean():.3f} within {k}" for k in (1, 2, 3))
    return f"{len(z)} ratios: root mean square {np.sqrt((z**2).mean()):.2f} Monte-Carlo errors, {shares}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=300, help="of each null (default 300)")
    parser.add_argument("--stochastic", type=int, default=300, help="how many of them with random probes too")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    options = parser.parse_args(arguments)
    rows = []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for null in NULLS:
            count = min(options.stochastic, options.replicates)
            rows += pool.map(partial(replicate, null, True), range(count))
            rows += pool.map(partial(replicate, null, False), range(count, options.replicates))
    table = pd.DataFrame(rows)
    print(sizes(table).to_string(index=False, float_format="%.3f"))
    if options.stochastic:
        print(errors(table))


if __name__ == "__main__":
    main()
