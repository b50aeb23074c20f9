"""``python -m gpu_reml.validation.scan_study``: is a scan's p uniform under the null, and its one step a full fit's?

A cohort with LD, families and populations is kept, and phenotypes are drawn anew.  Null: one component, fitted to each
phenotype; windows of 10 to 2,000 variants and scattered sets.  Planted: a window or an annotation has a variance of its
own; its one-step estimate and p stand beside the full fit and its likelihood ratio.
"""

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse, stats

from gpu_reml.ops import CpuProducts, GenotypeCovariance, make_covariance, standardise
from gpu_reml.ops.packing import pack
from gpu_reml.reml import ScanResult, draw_probes, exact_fits, fit_exact, scan
from gpu_reml.reml.studies.scan_refit import refit

from .haplotypes import Structure
from .simulate import simulate_cohort

SIZES = (10, 20, 50, 200, 500, 2000)
LEVELS = (0.1, 0.01, 0.001, 0.0001)
H2 = 0.4
RANK = 60
PLANTED = (100, 6)  # variants of a window that has a variance of its own; an annotation has one in so many of all


SHARES = (0.0, 0.01, 0.03, 0.1)
SATURATIONS = (0, 0.1, 0.3, 1, 3, np.inf)


class Sample(NamedTuple):
    """A cohort's one component, sets of variants to scan with their numbers, and X."""

    covariance: GenotypeCovariance
    sets: GenotypeCovariance
    sizes: np.ndarray
    X: np.ndarray


@cache
def make_sample(num_samples: int, num_variants: int, num_sets: int, seed: int = 1) -> Sample:
    """A tenth of the people in families, three populations; half of the sets are windows, half scattered variants."""
    people = simulate_cohort(num_samples, num_variants, seed, structure=Structure(3, 0.005, 0.1))
    products = CpuProducts(standardise([pack(people.counts)], num_samples), np.float32)
    rng = np.random.default_rng(seed)
    sizes = rng.choice([size for size in SIZES if size <= num_variants // 2], num_sets)
    columns = []
    for a, size in enumerate(sizes):
        rows = rng.choice(num_variants, size, replace=False)
        if a % 2:
            rows = rng.integers(0, num_variants - size + 1) + np.arange(size)
        columns.append(sparse.coo_array((np.ones(size), (rows, np.zeros(size, int))), shape=(num_variants, 1)))
    sets = make_covariance(products, sparse.hstack(columns), [f"set{a}" for a in range(num_sets)])
    dummies = pd.get_dummies(people.samples["population"]).to_numpy(np.float64)
    return Sample(make_covariance(products), sets, sizes, dummies)


def draw_phenotype(sample: Sample, extra: np.ndarray | None, h2: float, share: float, rng) -> np.ndarray:
    """y of variance 1: h2 by all variants, ``share`` by the weights ``extra`` (m,) of a window, the rest noise."""
    products, n = sample.covariance.products, sample.covariance.num_samples
    u = np.sqrt(h2) * np.sqrt(sample.covariance.weights.toarray()[:, 0])
    effects = u * rng.standard_normal(len(u))
    if extra is not None:
        effects += np.sqrt(share * extra / extra.sum()) * rng.standard_normal(len(u))
    y = np.asarray(products.z(effects[:, None].astype(np.float32)), np.float64)[:, 0]
    return y + np.sqrt(1 - h2 - share) * rng.standard_normal(n)


def scanned(sample: Sample, y: np.ndarray, sets: GenotypeCovariance, replicates: int, seed: int) -> ScanResult:
    """The scan of one phenotype."""
    result = fit_exact(y, sample.X, sample.covariance)
    probes = draw_probes(len(y), replicates, RANK, seed)
    return scan(result, y, sample.X, sample.covariance, sets, probes)


def null_p(shape: tuple[int, int, int], replicates: int, seed: int) -> np.ndarray:
    """(A,) p of one phenotype without a set of its own."""
    sample = make_sample(*shape)
    y = draw_phenotype(sample, None, H2, 0.0, np.random.default_rng([seed, 0]))
    return scanned(sample, y, sample.sets, replicates, seed).p


def sizes_of_tests(p: np.ndarray, sizes: np.ndarray) -> pd.DataFrame:
    """Share of p (k, A) up to each level over that level, and lambda, the median chi-square over its expectation, for
    each number of variants and all."""
    rows = []
    for label, which in [*((str(size), sizes == size) for size in np.unique(sizes)), ("all", sizes > 0)]:
        part = p[:, which].ravel()
        row = {
            "variants": label,
            "tests": len(part),
            "lambda": np.median(stats.chi2.isf(part, 1)) / stats.chi2.median(1),
        }
        rows.append(row | {f"at {level:g}": float((part <= level).mean() / level) for level in LEVELS})
    return pd.DataFrame(rows)


class Planted(NamedTuple):
    """A set with a variance of its own: its ``kind``, its ``share`` of the phenotype's, and what was found of it;
    ``top`` and ``top_lrt`` along the step, NaN for z below 1."""

    kind: str
    share: float
    one_step: float
    se: float
    log10p: float
    full: float
    full_se: float
    lrt: float
    lrt_p: float
    saturation: float
    top: float
    top_lrt: float


def planted_variants(kind: str, num_variants: int, rng) -> np.ndarray:
    """(m,) 0/1: neighbours, or scattered variants."""
    window, every = PLANTED
    first = rng.integers(0, num_variants - window + 1)
    place = np.arange(num_variants) - first
    own = (place >= 0) & (place < window) if kind == "window" else rng.permutation(num_variants) % every == 0
    return own.astype(float)


def planted(shape: tuple[int, int, int], replicates: int, case: tuple[str, float], seed: int) -> Planted:
    """A phenotype with a planted set, scanned and fitted in full; case: kind and share."""
    kind, share = case
    sample, rng = make_sample(*shape), np.random.default_rng([seed, 1])
    own = planted_variants(kind, sample.covariance.products.num_variants, rng)
    sets = make_covariance(sample.covariance.products, own[:, None], ["planted"])
    y = draw_phenotype(sample, own, H2 - share, share, rng)
    found = scanned(sample, y, sets, replicates, seed)
    full = refit(y, sample.X, sample.covariance, sets, [0], fit=exact_fits)
    values = (found.variance.estimate, found.variance.se, found.log10p, full.variance, full.se, full.lrt, full.p)
    values = (*values, found.saturation, found.reml_variance.estimate, found.reml_lrt)
    return Planted(kind, share, *(float(value[0]) for value in values))


def slope_on_full(part: pd.DataFrame, column: str, full: str = "full") -> float:
    """Slope of a column on that of the full fits, through 0."""
    known = part.dropna(subset=[column, full])
    if not known[full].any():
        return np.nan
    return (known[column] * known[full]).sum() / (known[full] ** 2).sum()


def planted_table(rows: Sequence[Planted]) -> pd.DataFrame:
    """For each kind and share: means, slopes on the full fit of one step, of the top and of its likelihood ratio, and
    powers at 1e-3."""
    table = []
    for (kind, share), part in pd.DataFrame(rows).groupby(["kind", "share"]):
        known = part.dropna(subset=["one_step", "full"])
        table.append(
            {
                "planted": kind,
                "share": share,
                "phenotypes": len(part),
                "one step": known["one_step"].mean(),
                "full fit": known["full"].mean(),
                "slope": slope_on_full(part, "one_step"),
                "slope of top": slope_on_full(part, "top"),
                "slope of lrt": slope_on_full(part, "top_lrt", "lrt"),
                "correlation": known["one_step"].corr(known["full"]) if len(known) > 2 else np.nan,
                "power of p": (known["log10p"] >= 3).mean(),
                "power of lrt": (known["lrt_p"] <= 1e-3).mean(),
            }
        )
    return pd.DataFrame(table)


def by_saturation(rows: Sequence[Planted]) -> pd.DataFrame:
    """For each kind and saturation of the step: means, and slopes on the full fit of one step and of the top."""
    frame = pd.DataFrame(rows).dropna(subset=["one_step", "full"])
    frame["saturation"] = pd.cut(frame["saturation"], SATURATIONS)
    table = []
    for (kind, saturation), part in frame.groupby(["kind", "saturation"], observed=True):
        slopes = {"slope": slope_on_full(part, "one_step"), "slope of top": slope_on_full(part, "top")}
        means = {"one step": part["one_step"].mean(), "full fit": part["full"].mean()}
        row = {"planted": kind, "saturation": str(saturation), "phenotypes": len(part), **means, **slopes}
        table.append(row | {"correlation": part["one_step"].corr(part["full"])})
    return pd.DataFrame(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print sizes under the null, then what was found of planted sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("--samples", 1000, "samples"),
        ("--variants", 6000, "variants"),
        ("--sets", 1000, "sets that are scanned"),
        ("--phenotypes", 100, "phenotypes of the null"),
        ("--planted", 30, "phenotypes for each planted share"),
        ("--replicates", 256, "replicates of a scan"),
        ("--jobs", 1, "processes"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} (default {default})")
    options = parser.parse_args(arguments)
    shape = (options.samples, options.variants, options.sets)
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        if options.phenotypes:
            p = np.array(list(pool.map(partial(null_p, shape, options.replicates), range(options.phenotypes))))
            print(sizes_of_tests(p, make_sample(*shape).sizes).to_string(index=False, float_format="%.3f"), flush=True)
        rows = []
        for case in [(kind, share) for kind in ("window", "annotation") for share in SHARES]:
            rows += pool.map(partial(planted, shape, options.replicates, case), range(options.planted))
        if rows:
            print(planted_table(rows).to_string(index=False, float_format="%.3f"))
            print(by_saturation(rows).to_string(index=False, float_format="%.4f"))


if __name__ == "__main__":
    main()
