"""Association on a cohort with populations and families: calibration, power and time, against the REML fit beside it.

    python -m benchmarks.gwas                          # n = 5,000, m = 50,000, 8 traits
    python -m benchmarks.gwas --n 2000 --m 10000

Every trait has its own causal variants, on the even chromosomes only, so variants of the odd ones are null whatever
their LD; populations differ in mean by an environment.  lambda_GC is of the null variants, a mean over traits with its
standard error; power is of the causal ones, also after genomic control, which makes an inflated test comparable.
One trait alone is timed after a run that compiles.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from gpu_reml import io, ops
from gpu_reml.ops.loco import leave_out
from gpu_reml.reml import complement_traces, draw_probes, fit_traits, make_projected_core
from gpu_reml.reml.studies.association import Scan, lambda_gc, ols_scan
from gpu_reml.reml.studies.loco import LocoScan, loco_scan
from gpu_reml.reml.studies.refine import refine
from gpu_reml.validation import SPARSE, Structure, simulate_bed
from gpu_reml.validation.haplotypes import make_samples

NUM_CHROMOSOMES, NUM_PCS, NUM_CAUSAL = 10, 4, 200
HAPLOTYPES = replace(SPARSE, num_chromosomes=NUM_CHROMOSOMES)
STRUCTURE = Structure(num_populations=3, fst=0.02, family_share=0.4)
SHIFT = 0.3  # SD of the populations' means, in the residual's
GENOME_WIDE = stats.chi2.isf(5e-8, 1)


class Data(NamedTuple):
    """Products, chromosome of every variant, traits (n, t), and each trait's causal variants."""

    products: ops.CpuProducts
    chromosome: np.ndarray
    Y: np.ndarray
    causal: list[np.ndarray]


def simulate(n: int, m: int, num_traits: int, seed: int, folder: Path) -> Data:
    """A cohort, and traits of which half the variance is genetic, shared by NUM_CAUSAL variants."""
    prefix = folder / "cohort"
    simulate_bed(prefix, n, m, seed, haplotypes=HAPLOTYPES, structure=STRUCTURE)
    bed = io.read_bed(prefix)
    genotypes = io.load_genotypes([bed], [np.arange(n)])
    products = ops.make_products(genotypes, "cpu")
    chromosome = bed.variants["chrom"].astype(int).to_numpy()
    rng = np.random.default_rng(seed)
    possible = np.flatnonzero((chromosome % 2 == 0) & (genotypes.inv_sd > 0))
    causal = [rng.choice(possible, NUM_CAUSAL, replace=False) for _ in range(num_traits)]
    effects = np.zeros((m, num_traits))
    for t, rows in enumerate(causal):
        effects[rows, t] = rng.standard_normal(NUM_CAUSAL)
    genetic = np.asarray(products.z(effects), np.float64)
    seeds = np.random.SeedSequence(seed).spawn(4)  # as the simulator draws its samples
    population = make_samples(n, STRUCTURE, np.random.default_rng(seeds[0]))["population"].to_numpy()
    shift = SHIFT * rng.standard_normal((STRUCTURE.num_populations, num_traits))[population]
    Y = genetic / genetic.std(axis=0) + rng.standard_normal((n, num_traits)) + shift
    return Data(products, chromosome, Y, causal)


def principal_components(products: ops.CpuProducts, k: int) -> np.ndarray:
    """(n, k) leading eigenvectors of the relationship matrix, centred, by subspace iteration."""
    n = products.num_samples
    covariance = ops.make_covariance(products)
    Q = np.full((n, 1), n**-0.5)
    sketch = draw_probes(n, 0, 10 * k, seed=3).sketch
    core = make_projected_core(covariance, Q, complement_traces(covariance, Q), np.ones(1), sketch)
    return np.asarray(core.U, np.float64) @ np.linalg.eigh(core.cores[0])[1][:, : -k - 1 : -1]


def fit_and_scan(data: Data, Y: np.ndarray, X: np.ndarray) -> tuple[Scan, float, float, object]:
    """LOCO scan with its seconds and those of the REML fit before it."""
    products, n = data.products, len(Y)
    started = time.perf_counter()
    fits = fit_traits(Y, X, ops.make_covariance(products), draw_probes(n, 256, 0, seed=1))
    fitted = time.perf_counter()
    names = np.unique(data.chromosome)
    rows = [np.flatnonzero(data.chromosome == name) for name in names]
    left = leave_out(products, np.ones(products.num_variants), rows, [str(name) for name in names])
    thetas = np.broadcast_to([fit.theta for fit in fits], (len(rows), Y.shape[1], 2))
    found = loco_scan(Y, X, left, rows, thetas, np.random.default_rng(2))
    return found.scan, fitted - started, time.perf_counter() - fitted, found


def line(name: str, scan: Scan, data: Data) -> str:
    """Inflation at null variants, mean chi-squared and power at causal ones."""
    null = data.chromosome % 2 == 1
    lambdas = np.array([lambda_gc(p[null]) for p in scan.log10p.T])
    chi2 = np.array([scan.statistic[rows, t] ** 2 for t, rows in enumerate(data.causal)])
    hits = chi2 >= GENOME_WIDE
    corrected = chi2 >= GENOME_WIDE * np.maximum(lambdas, 1)[:, None]
    se = lambdas.std(ddof=1) / np.sqrt(len(lambdas)) if len(lambdas) > 1 else np.nan
    return (
        f"{name:14s} lambda_GC null {lambdas.mean():.4f} (SE {se:.4f}); causal: mean chi2 {chi2.mean():.2f}, power at "
        f"5e-8 {hits.mean():.4f}, {corrected.mean():.4f} after chi2 / lambda where that is over 1"
    )


def refinement_line(found: LocoScan, data: Data) -> str:
    """What the refinement costs, and how far it moves -log10 p."""
    started = time.perf_counter()
    rows = [np.flatnonzero(data.chromosome == name) for name in np.unique(data.chromosome)]
    refined = refine(found, rows)
    seconds, done = time.perf_counter() - started, refined.which
    moved = np.abs(refined.scan.log10p - found.scan.log10p)[done]
    return (
        f"{'':14s} {done.sum()} of {refined.wanted.sum()} tests with p <= 1e-5 refined in {seconds:.1f} s, "
        f"{refined.column_passes} column-passes; -log10 p moved by {np.median(moved):.2f} (median), {moved.max():.2f} "
        "(most)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5_000)
    parser.add_argument("--m", type=int, default=50_000)
    parser.add_argument("--traits", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = simulate(options.n, options.m, options.traits, options.seed, Path(folder))
        ones = np.ones((options.n, 1))
        with_pcs = np.column_stack([ones, principal_components(data.products, NUM_PCS)])
        print(f"n {options.n}, m {options.m}, {options.traits} traits, {NUM_CHROMOSOMES} chromosomes", flush=True)
        print(line("OLS", ols_scan(data.Y, ones, data.products), data), flush=True)
        print(line(f"OLS, {NUM_PCS} PCs", ols_scan(data.Y, with_pcs, data.products), data), flush=True)
        for name, X in (("LOCO", ones), (f"LOCO, {NUM_PCS} PCs", with_pcs)):
            scan, fitting, scanning, found = fit_and_scan(data, data.Y, X)
            print(line(name, scan, data), flush=True)
            gamma, se = found.fit.calibration.gamma, found.fit.calibration.se
            print(
                f"{'':14s} fit {fitting:.1f} s, scan {scanning:.1f} s, {found.fit.column_passes} column-passes, "
                f"{len(found.fit.calibration.variants)} calibration variants, relative SE {(se / gamma).max():.2g}; "
                f"errors of single variants scatter by {100 * found.fit.calibration.scatter.mean():.1f} %"
            )
            print(refinement_line(found, data), flush=True)
        _, fitting, scanning, _ = fit_and_scan(data, data.Y[:, :1], ones)
        started = time.perf_counter()
        ols_scan(data.Y[:, :1], ones, data.products)
        least_squares = time.perf_counter() - started
    print(
        f"one trait: REML fit {fitting:.2f} s, LOCO scan {scanning:.2f} s = {scanning / fitting:.2f} fits; "
        f"OLS {least_squares:.2f} s"
    )


if __name__ == "__main__":
    main()
