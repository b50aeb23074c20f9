"""``python -m gpu_reml.validation.honesty``: does the stated Monte-Carlo error of fits hold where fits are hard?

Every fit is compared with the dense fit of the same cohort: each variance and each heritability, the total too, in its
Monte-Carlo error.  Cases cross kinds of cohorts with numbers of components and heritabilities; a case's name says all
that it is made from, so that one that errs runs again alone with --only.

Both at the same bound: no error.  An error where none is stated counts as beyond every multiple.  What is under a
thousandth of the sampling error is left to the tolerances of the fit, which ends at a step of a hundredth.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io
from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.reml import ConvergenceError, FitResult, FitSettings, draw_probes, fit, fit_exact

from .dense import dense_loglik, kernel, standardised
from .haplotypes import Haplotypes, Structure
from .simulate import simulate_cohort

KINDS = ("linkage", "families", "duplicates", "few-variants")
COMPONENTS = (2, 5, 20)
HERITABILITIES = (0.0, 0.1, 0.5, 0.85, 0.95, 0.98)
WANTED = {1: 0.64, 2: 0.93, 3: 0.985, 4: 0.998}  # least share of quantities within so many Monte-Carlo errors
LISTED = 5.0  # Monte-Carlo errors beyond which a quantity is shown on its own
TOLERATED = 1e-3  # of the sampling error, for what is not of the probes
LOGLIK = "log-likelihood"  # its name among the quantities; the shares are of the variances and heritabilities
ROUNDING = 1e-6  # of the phenotypic variance, or of one for a heritability, where there is no sampling error
NUM_VARIANTS, FEW, CHROMOSOMES = 3000, 20, 20
# LD between that of an array and none: a mean LD score of 5
MODERATE = Haplotypes(100, 0.005, 0.9, 0.02, CHROMOSOMES, "log-odds", 0.0)
DENSE_ITERATIONS = 1000  # of the dense fit, so that hard cases have one too
HIGHER = 1e-6  # log-likelihood above the dense fit's that is not rounding
MEMBERSHIPS = 2  # sets that a variant is in, on average, where they overlap
SCALE, FIXED_EFFECTS = 7.0, (150.0, 2.0, -5.0)


class Case(NamedTuple):
    """One fit: a cohort of a kind, its number of components, the simulated heritability, the seed of all its draws."""

    kind: str
    G: int
    h2: float
    seed: int

    def __str__(self) -> str:
        return f"{self.kind}.G{self.G}.h{self.h2:g}.s{self.seed}"


def parse_case(text: str) -> Case:
    """The case of a name, or a ValueError."""
    for case in (Case(*parts, 0) for parts in product(KINDS, COMPONENTS, HERITABILITIES)):
        stem = str(case)[:-1]
        if text.startswith(stem) and text[len(stem) :].isdecimal():
            return case._replace(seed=int(text[len(stem) :]))
    raise ValueError(f"{text!r} is no case; they look like {Case('families', 5, 0.95, 3)}")


def first_cases(count: int) -> list[Case]:
    """The first ``count`` cases: each combination once, in an order that mixes them, then each with the next seed."""
    kinds = list(product(KINDS, COMPONENTS, HERITABILITIES))
    order = np.random.default_rng(0).permutation(len(kinds))
    return [Case(*kinds[order[i % len(kinds)]], i // len(kinds)) for i in range(count)]


class Sample(NamedTuple):
    """Allele counts (n, m), weights W (m, G), phenotype y (n,) and design X (n, c) of a case."""

    counts: np.ndarray
    W: np.ndarray
    y: np.ndarray
    X: np.ndarray


def make_sample(case: Case) -> Sample:
    """The cohort of a case, from its name alone."""
    rng = np.random.default_rng([case.seed, KINDS.index(case.kind), case.G, round(1000 * case.h2)])
    n = int(rng.integers(300, 501))
    m = FEW * case.G if case.kind == "few-variants" else NUM_VARIANTS
    structure = Structure(family_share=0.8 if case.kind == "families" else 0.0)
    haplotypes = Haplotypes(num_chromosomes=CHROMOSOMES) if case.kind == "linkage" else MODERATE
    seed = int(rng.integers(2**31))
    counts = simulate_cohort(n, m, seed, haplotypes=haplotypes, structure=structure).counts
    if case.kind == "duplicates":
        counts[n - n // 3 :] = counts[: n // 3]
    W = memberships(case, m, rng)
    share = rng.dirichlet(np.full(case.G, 2.0)) * carriers(case, rng)
    theta = SCALE**2 * np.append(case.h2 * share / share.sum(), 1 - case.h2)
    X = np.column_stack([np.ones(n), rng.standard_normal(n), rng.integers(0, 2, n)])
    effects = np.sqrt(W * theta[:-1] / W.sum(axis=0)) * rng.standard_normal(W.shape)
    noise = np.sqrt(theta[-1]) * rng.standard_normal(n)
    return Sample(counts, W, X @ np.array(FIXED_EFFECTS) + standardised(counts) @ effects.sum(axis=1) + noise, X)


def memberships(case: Case, m: int, rng: np.random.Generator) -> np.ndarray:
    """(m, G): runs of neighbours, or for odd seeds sets that overlap."""
    if case.seed % 2 == 0 or case.kind == "few-variants":
        return (np.arange(m)[:, None] * case.G // m == np.arange(case.G)).astype(float)
    W = (rng.random((m, case.G)) < min(0.75, MEMBERSHIPS / case.G)).astype(float)
    W[~W.any(axis=1), -1] = 1
    return W


def carriers(case: Case, rng: np.random.Generator) -> np.ndarray:
    """(G,) bool: components that have variance; about a third have none, the last of few variants never."""
    has = rng.random(case.G) < 2 / 3
    has[0] = True
    if case.kind == "few-variants":
        has[-1] = False
    return has


class Comparison(NamedTuple):
    """A fit beside the dense one.

    ``quantities``: a row for each, name, estimate, exact, mc_se, se, and its distance in_mc_se and in_se; empty where
    there was no fit.  ``shortfall``: of the estimate's log-likelihood, evaluated densely, from the dense optimum's.
    """

    case: Case
    n: int
    status: str
    probes: int
    passes: float
    shortfall: float
    seconds: float
    quantities: pd.DataFrame


def compare(case: Case) -> Comparison:
    """Make the case's cohort and fit it both ways."""
    sample = make_sample(case)
    n = len(sample.y)
    genotypes = standardise([pack(sample.counts)], n)
    precise, products = (CpuProducts(genotypes, dtype) for dtype in (np.float64, np.float32))
    patient, dense = FitSettings(max_iterations=DENSE_ITERATIONS), make_covariance(precise, sample.W)
    exact = fit_exact(sample.y, sample.X, dense, patient, strict=False)
    if not exact.converged:
        return Comparison(case, n, f"no dense fit: {exact.status.value}", 0, np.nan, np.nan, 0.0, pd.DataFrame())
    covariance, probes = make_covariance(products, sample.W), draw_probes(n, seed=case.seed)
    started = time.perf_counter()
    try:
        found = fit(sample.y, sample.X, covariance, probes, FitSettings(), strict=False)
    except (ConvergenceError, ArithmeticError) as error:  # a way to end that the summary counts
        seconds = time.perf_counter() - started
        return Comparison(case, n, f"raised: {error}", 0, np.nan, np.nan, seconds, pd.DataFrame())
    seconds = time.perf_counter() - started
    Ks = [kernel(standardised(sample.counts), w) for w in sample.W.T]
    reached = dense_loglik(found.theta, sample.y, sample.X, Ks)
    status = found.status.name.lower() + ("" if found.mc_target_met else ", mc target not met")
    if reached > exact.loglik + HIGHER:  # the likelihood has several maxima, and the dense search ended on a lower one
        exact = fit_exact(sample.y, sample.X, dense, patient, start=found.theta, strict=False)
        status += ", dense fit started there"
    shortfall = exact.loglik - reached
    return Comparison(
        case, n, status, found.num_probes, found.column_passes, shortfall, seconds, quantities(found, exact, reached)
    )


def quantities(found: FitResult, exact: FitResult, reached: float) -> pd.DataFrame:
    """Every variance and heritability of a fit beside the exact one, and its log-likelihood beside the dense one at the
    same theta, ``reached``."""
    total = float(exact.theta @ np.append(exact.mean_traces, 1.0))
    parts = [
        beside([*found.names, "residual"], (found.theta, found.mc_se), (exact.theta, exact.se), ROUNDING * total),
        beside(
            [f"h2 {name}" for name in (*found.names, "total")],
            (found.h2.estimate, found.h2.mc_se),
            (exact.h2.estimate, exact.h2.se),
            ROUNDING,
        ),
        beside(
            [LOGLIK],
            (np.array([found.loglik]), np.array([found.loglik_mc_se])),
            (np.array([reached]), np.array([np.nan])),
            TOLERATED,
        ),
    ]
    return pd.concat(parts, ignore_index=True)


def beside(names: list[str], found, exact, least: float) -> pd.DataFrame:
    """found: estimates and their mc_se; exact: the same quantities and their se; ``least``: the error that counts where
    there is no se."""
    (estimate, mc_se), (truth, se) = found, exact
    error = np.abs(estimate - truth)
    error[error <= np.where(se > 0, TOLERATED * se, least)] = 0.0
    columns = {"quantity": names, "estimate": estimate, "exact": truth, "mc_se": mc_se, "se": se}
    return pd.DataFrame({**columns, "in_mc_se": multiples(error, mc_se), "in_se": multiples(error, se, np.nan)})


def multiples(error: np.ndarray, unit: np.ndarray, unstated: float = np.inf) -> np.ndarray:
    """error / unit; 0 without an error, ``unstated`` for one where there is no unit."""
    stated = unit > 0
    return np.where(error == 0, 0.0, np.where(stated, error / np.where(stated, unit, 1.0), unstated))


def coverage(in_mc_se: pd.Series) -> dict[int, float]:
    """Share within 1, 2, 3 and 4 Monte-Carlo errors."""
    return {bound: float((in_mc_se <= bound).mean()) for bound in WANTED}


def table_of(found: Iterable[Comparison]) -> pd.DataFrame:
    """All quantities of all fits, with their case."""
    return pd.concat(
        [
            one.quantities.assign(
                case=str(one.case), kind=one.case.kind, G=one.case.G, h2=one.case.h2, seed=one.case.seed,
                status=one.status, probes=one.probes, passes=one.passes, shortfall=one.shortfall,
            )
            for one in found
        ],
        ignore_index=True,
    )  # fmt: skip


def report_text(found: list[Comparison]) -> str:
    """Coverage over all and by what cases are made of, how fits ended, and each quantity that is far off."""
    every = table_of(found)
    table = estimates(every)
    lines = [
        f"{len(found)} fits, {len(table)} quantities, {sum(one.seconds for one in found):.0f} s of fitting",
        f"{'':24s} {'number':>7s} " + " ".join(f"{'<= ' + str(k):>7s}" for k in WANTED) + f" {'max SE':>7s}",
        f"{'wanted':24s} {'':7s} " + " ".join(f"{share:7.3f}" for share in WANTED.values()),
        coverage_line("all", table),
    ]
    if len(table):
        is_h2 = table["quantity"].str.startswith("h2")
        lines += [coverage_line("variances", table[~is_h2]), coverage_line("heritabilities", table[is_h2])]
        for name in ("kind", "G", "h2"):
            lines += [coverage_line(f"{name} {value}", rows) for value, rows in table.groupby(name)]
        lines.append(coverage_line("(log-likelihoods)", every.drop(table.index)))
    passes = pd.DataFrame({"G": [one.case.G for one in found], "passes": [one.passes for one in found]})
    for G, rows in passes.groupby("G")["passes"]:
        lines.append(f"column-passes, G = {G}: median {rows.median():.0f}, most {rows.max():.0f}")
    for status, group in pd.Series([one.status for one in found], dtype=object).groupby(lambda i: found[i].status):
        lines.append(f"{len(group)} fits: {status}")
        if status != "converged":
            lines += [f"    {found[i].case}" for i in group.index]
    lines.append(f"beyond {LISTED:g} Monte-Carlo errors (shortfall: of the log-likelihood there):")
    return "\n".join([*lines, *far_lines(every)])


def estimates(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of variances and heritabilities."""
    return table[table["quantity"] != LOGLIK] if len(table) else table


def coverage_line(name: str, rows: pd.DataFrame) -> str:
    if not len(rows):
        return f"{name:24s} {0:7d}"
    shares = " ".join(f"{share:7.3f}" for share in coverage(rows["in_mc_se"]).values())
    return f"{name:24s} {len(rows):7d} {shares} {rows['in_se'].max():7.3f}"


def far_lines(table: pd.DataFrame) -> Iterator[str]:
    """One line for every quantity beyond LISTED Monte-Carlo errors."""
    if not len(table):
        return
    for row in table[table["in_mc_se"] > LISTED].itertuples():
        yield (
            f"    {row.case} {row.quantity}: {row.estimate:.6g}, exact {row.exact:.6g}, mc_se {row.mc_se:.2g}: "
            f"{row.in_mc_se:.1f} mc_se, {row.in_se:.3f} SE; shortfall {row.shortfall:.2g}; {row.status}"
        )


def is_honest(found: list[Comparison]) -> bool:
    """Whether every share is what is wanted, and every fit converged."""
    table = estimates(table_of(found))
    if not len(table):
        return False
    enough = all(share >= WANTED[bound] for bound, share in coverage(table["in_mc_se"]).items())
    return enough and all(one.status.startswith("converged") for one in found)


def compare_all(cases: list[Case], jobs: int) -> Iterator[Comparison]:
    """Comparisons in the order of the cases."""
    if jobs == 1:
        yield from map(compare, cases)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(compare, cases)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpu_reml.validation.honesty",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fits", type=int, default=72, metavar="N", help="how many cases (default 72, each kind once)")
    parser.add_argument("--only", nargs="+", type=parse_case, metavar="CASE", help="these cases alone, in full")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, of one thread each is best")
    parser.add_argument("--out", metavar="FILE", help="write every quantity, as TSV")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the shares within the stated errors are what is wanted and every fit converged, else 1."""
    options = make_parser().parse_args(argv)
    if options.out:
        io.check_writable(options.out)
    cases, found = options.only or first_cases(options.fits), []
    for one in compare_all(cases, options.jobs):
        found.append(one)
        worst = one.quantities["in_mc_se"].max() if len(one.quantities) else np.nan
        print(
            f"{one.case} n={one.n}: {one.status}; {one.probes} probes, {one.passes:.0f} passes, {one.seconds:.1f} s; "
            f"worst {worst:.2f} mc_se; shortfall {one.shortfall:.2g}",
            file=sys.stderr,
            flush=True,
        )
        if options.only and len(one.quantities):
            print(one.quantities.to_string(index=False, float_format=lambda value: f"{value:.5g}"))
    if options.out:
        io.write_table(options.out, table_of(found))
    print(report_text(found))
    return 0 if is_honest(found) else 1


if __name__ == "__main__":
    sys.exit(main())
