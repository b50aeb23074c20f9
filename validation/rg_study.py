"""``python -m gpu_reml.validation.rg_study``: do intervals of genetic correlations cover, and do their tests keep their
size?

The genotypes of a cohort are kept and pairs of phenotypes drawn anew, with a genetic correlation of 0, 0.5 or 1, of
people who have both, of whom half do, or of two sites that share nobody.  All pairs are traits of one fit.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from gpu_reml.reml import RgSettings, draw_probes, exact_probes, fit_rg

from .small import covariance_of, make_cohort

RGS, OVERLAPS = (0.0, 0.5, 1.0), (1.0, 0.5, 0.0)
H2, RESIDUAL_CORRELATION = (0.5, 0.6), 0.2
LEVELS = (0.01, 0.05, 0.1)
NORMAL_95 = 1.959964


def phenotypes(K: np.ndarray, rg: float, overlap: float, replicates: int, seed: int) -> np.ndarray:
    """(n, 2 replicates) pairs of traits of unit variance, NaN outside of their people: a share ``overlap`` of all has
    both, and of the others each half has one."""
    rng, n = np.random.default_rng([seed, int(100 * rg), int(100 * overlap)]), len(K)
    values, vectors = np.linalg.eigh(K)
    root = vectors * np.sqrt(np.maximum(values, 0))
    draws = rng.standard_normal((2, 2, n, replicates))
    genetic = [root @ draws[0, 0], root @ (rg * draws[0, 0] + np.sqrt(1 - rg**2) * draws[0, 1])]
    re = RESIDUAL_CORRELATION
    residual = [draws[1, 0], re * draws[1, 0] + np.sqrt(1 - re**2) * draws[1, 1]]
    Y = np.empty((n, replicates, 2))
    for trait, h2 in enumerate(H2):
        Y[:, :, trait] = np.sqrt(h2) * genetic[trait] + np.sqrt(1 - h2) * residual[trait]
    order, both = rng.permutation(n), round(overlap * n)
    rest = order[both:]
    Y[rest[: len(rest) // 2], :, 0] = np.nan
    Y[rest[len(rest) // 2 :], :, 1] = np.nan
    return Y.reshape(n, 2 * replicates)


def replicates_of(cohort, rg: float, overlap: float, replicates: int, seed: int, *, exact: bool) -> pd.DataFrame:
    """The row of the one component for every pair."""
    Y = phenotypes(cohort.Ks[0], rg, overlap, replicates, seed)
    probes = exact_probes(cohort.n) if exact else draw_probes(cohort.n, seed=seed)
    pairs = tuple((2 * k, 2 * k + 1) for k in range(replicates))
    X = np.ones((cohort.n, 1))
    found = fit_rg(Y, X, covariance_of(cohort), probes, rg=RgSettings(pairs), strict=False).to_frame()
    return found[found.component == cohort_component(found)].assign(true_rg=rg, overlap=overlap)


def cohort_component(found: pd.DataFrame) -> str:
    """The name of the one component."""
    return str(found.component.iloc[0])


def row_of(rows: pd.DataFrame) -> dict[str, float]:
    """Bias, spread, coverage of 95 % intervals where there is one, and sizes of the test that is of the truth."""
    rg, overlap = rows.true_rg.iloc[0], rows.overlap.iloc[0]
    covariance = rg * np.sqrt(np.prod(H2))
    inside = rows[rows.rg_se.notna()]
    p = rows.p_rg0 if rg == 0 else rows.p_rg1
    return {
        "rg": rg,
        "overlap": overlap,
        "pairs": len(rows),
        "not converged": int((~rows.status.str.startswith("converged")).sum()),
        "at bound": int(rows.status.str.contains("rg_at_bound").sum()),
        "no variance": int(rows.status.str.contains("zero").sum()),
        "mean rg": rows.rg.mean(),
        "SD rg": inside.rg.std(),
        "mean SE": inside.rg_se.mean(),
        "covers rg": float((np.abs(inside.rg - rg) <= NORMAL_95 * inside.rg_se).mean()),
        "covers cov": float((np.abs(rows.covariance - covariance) <= NORMAL_95 * rows.covariance_se).mean()),
        **{f"size {level}" if rg in (0, 1) else f"power {level}": float((p <= level).mean()) for level in LEVELS},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for every correlation and overlap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200, help="pairs of each kind (default 200)")
    parser.add_argument("--samples", type=int, default=600, help="people (default 600)")
    parser.add_argument("--variants", type=int, default=1200, help="variants (default 1200)")
    parser.add_argument("--random", action="store_true", help="random probes; exact ones by default")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    cohort = make_cohort(options.samples, options.variants, 1, seed=options.seed)
    for overlap in OVERLAPS:
        for rg in RGS:
            rows = replicates_of(cohort, rg, overlap, options.replicates, options.seed, exact=not options.random)
            print("\t".join(f"{name} {value:.3g}" for name, value in row_of(rows).items()), flush=True)


if __name__ == "__main__":
    main()
