"""The validation study: every fit of a grid both ways, and what is compared."""

import time
from typing import NamedTuple, TextIO

import numpy as np
import pandas as pd

from gpu_reml.reml import FitSettings, draw_probes, fit

from .exact import exact_reml
from .honesty import ROUNDING, TOLERATED, multiples
from .small import covariance_of, make_cohort

COVERAGE_TOLERANCE = 4.0  # standard errors that a mean or a share may be off before it is a complaint
SLACK_SE = 0.02  # share of a standard error that the tolerances of solver and optimiser may cost


class Setting(NamedTuple):
    """One cohort: samples, variants, components, heritability, simulation seed."""

    n: int
    m: int
    G: int
    h2: float
    cohort: int = 0


GRIDS = {
    "quick": [Setting(300, 900, G, h2) for G in (1, 3) for h2 in (0.2, 0.7)],
    "standard": [
        Setting(n, m, G, h2) for n, m in ((400, 1200), (800, 4000)) for G in (1, 2, 5) for h2 in (0.1, 0.5, 0.9)
    ],
    "large": [
        Setting(n, m, G, h2, cohort)
        for n, m in ((500, 600), (1500, 6000), (2500, 15000))
        for G in (1, 3, 10)
        for h2 in (0.1, 0.5, 0.9)
        for cohort in (0, 1)
    ],
}


def run_grid(settings: list[Setting], num_seeds: int, progress: TextIO | None = None) -> pd.DataFrame:
    """One row per setting and seed: errors of theta and h2 in units of se and mc_se, passes and times."""
    rows = []
    for setting in settings:
        cohort = make_cohort(setting.n, setting.m, setting.G, seed=1000 * setting.cohort + setting.G, h2=setting.h2)
        started = time.perf_counter()
        exact = exact_reml(cohort.y, cohort.X, cohort.Ks, FitSettings().residual_floor)
        dense_seconds = time.perf_counter() - started
        covariance = covariance_of(cohort, np.float32)
        for seed in range(num_seeds):
            started = time.perf_counter()
            found = fit(cohort.y, cohort.X, covariance, draw_probes(setting.n, seed=seed), strict=False)
            rows.append(
                {
                    **setting._asdict(),
                    "seed": seed,
                    **differences(found, exact),
                    "dense_seconds": dense_seconds,
                    "seconds": time.perf_counter() - started,
                }
            )
        if progress is not None:
            print(f"{setting}: done", file=progress, flush=True)
    return pd.DataFrame(rows)


def differences(found, exact) -> dict[str, float]:
    """How a fit differs from the exact one, in the units that matter; what its tolerances may cost is no error."""
    error = beyond(found.theta - exact.theta, TOLERATED * found.se)
    free = ~found.at_bound
    in_mc = multiples(error, found.mc_se)[free]
    h2_error, h2_mc, h2_se = found.h2.estimate[-1] - exact.h2, found.h2.mc_se[-1], found.h2.se[-1]
    loglik_error = beyond(np.array([found.loglik - exact.loglik]), TOLERATED)
    return {
        "converged": found.converged,
        "h2_exact": exact.h2,
        "h2_error": h2_error,
        # everything at a bound: no error, and none claimed
        "h2_error_over_mc_se": float(beyond(h2_error, TOLERATED * h2_se)) / h2_mc if h2_mc > 0 else np.nan,
        "max_error_over_se": float(np.nanmax(np.abs(error) / found.se)),
        "max_error_over_mc_se": float(np.max(np.abs(in_mc))),
        "rms_error_over_mc_se": float(np.sqrt(np.mean(in_mc**2))),
        "excess_over_four_mc_se": float(np.nanmax((np.abs(error) - 4 * found.mc_se) / found.se)),
        "mc_se_over_se": found.mc_ratio,
        "loglik_error_over_mc_se": float(multiples(loglik_error, np.array([found.loglik_mc_se]))[0]),
        "num_probes": found.num_probes,
        "column_passes": found.column_passes,
    }


def beyond(error, tolerated):
    """The error, or 0 where it is within what is tolerated; ROUNDING where that is unknown."""
    return np.where(np.abs(error) <= np.where(np.isnan(tolerated), ROUNDING, tolerated), 0.0, error)


def complaints(table: pd.DataFrame) -> list[str]:
    """What is out of line: fits that failed, errors beyond what they claim, claims that do not match the spread."""
    found = [f"{describe(row)}: did not converge" for row in table[~table["converged"].astype(bool)].to_dict("records")]
    for row in table[table["excess_over_four_mc_se"] > SLACK_SE].to_dict("records"):
        found.append(f"{describe(row)}: a variance is {row['max_error_over_mc_se']:.1f} mc_se from exact")
    for row in table[table["loglik_error_over_mc_se"].abs() > 4.5].to_dict("records"):
        found.append(f"{describe(row)}: the log-likelihood is {row['loglik_error_over_mc_se']:.1f} mc_se from exact")
    scaled = table["h2_error_over_mc_se"].dropna()
    # adaptive probes stop when the claimed error happens to be small, so a claim a little below the spread is expected
    spread = float(np.sqrt(np.mean(scaled**2)))
    if len(table) >= 20 and not 0.6 < spread < 1.6:
        found.append(f"h2: root mean square error is {spread:.2f} mc_se over {len(table)} fits; expected about 1")
    if len(table) >= 20 and abs(scaled.mean()) > COVERAGE_TOLERANCE * max(1, spread) / np.sqrt(len(table)):
        found.append(f"h2: mean error is {scaled.mean():.2f} mc_se over {len(table)} fits; expected about 0")
    return found


def describe(row: dict) -> str:
    return f"n={row['n']} m={row['m']} G={row['G']} h2={row['h2']} seed={row['seed']}"


def report_text(table: pd.DataFrame) -> str:
    """One line per setting, averaged over its seeds, and one for all."""
    grouped = table.groupby(["n", "m", "G", "h2", "cohort"])
    lines = [
        f"{'n':>6s} {'m':>6s} {'G':>3s} {'h2':>4s} {'bias/mc_se':>10s} {'rms/mc_se':>9s} {'max/SE':>7s} "
        f"{'mc_se/SE':>8s} {'probes':>6s} {'passes':>7s} {'s':>6s} {'dense s':>7s}"
    ]
    for (n, m, G, h2, _), group in grouped:
        lines.append(
            f"{n:6d} {m:6d} {G:3d} {h2:4.1f} {group['h2_error_over_mc_se'].mean():10.2f} "
            f"{np.sqrt((group['rms_error_over_mc_se'] ** 2).mean()):9.2f} {group['max_error_over_se'].max():7.3f} "
            f"{group['mc_se_over_se'].mean():8.3f} {group['num_probes'].mean():6.0f} "
            f"{group['column_passes'].mean():7.0f} {group['seconds'].mean():6.2f} {group['dense_seconds'].mean():7.2f}"
        )
    scaled = table["h2_error_over_mc_se"].dropna().abs()
    lines.append(
        f"coverage of h2 by 1 and 2 mc_se: {np.mean(scaled <= 1):.0%} and {np.mean(scaled <= 2):.0%} of {len(table)} "
        "fits (expected 68 % and 95 %)"
    )
    return "\n".join(lines)
