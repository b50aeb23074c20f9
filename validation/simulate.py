"""Simulated cohorts and phenotypes of known truth, in memory or streamed to PLINK files.

``python -m gpu_reml.validation.simulate --out PREFIX --samples N --variants M`` writes PREFIX.bed, .bim, .fam and
.pheno: by default LD as on a genotyping array, three populations that have drifted apart a little, and a tenth of the
people in families.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from bed_reader import to_bed
from numba import prange

from ..cli.numbers import count, fraction, positive_int, share
from ..io import check_writable
from ..ops.compile import parallel
from .dense import standardised
from .haplotypes import COUNT_OF_CODE, SPARSE, Haplotypes, Structure, code_blocks, make_samples, make_variants

BED_HEADER = bytes([0x6C, 0x1B, 0x01])  # magic, SNP-major
_CHUNK = 1024
PANELS = {"array": Haplotypes(), "sparse": SPARSE}


@dataclass(frozen=True)
class Cohort:
    """Genotypes and who and what they are of.

    ``counts``: (n, m) int8 copies of a1, -127 where not called.  ``samples``: fid, iid, father, mother, sex,
    population.  ``variants``: chrom, id, cm, bp, a1, a2.
    """

    counts: np.ndarray
    samples: pd.DataFrame
    variants: pd.DataFrame


@dataclass(frozen=True)
class Trait:
    """A simulated phenotype ``y`` (n,) and its truth.

    ``theta``: (G + 1,) variances in y's units squared, residual last; ``traces``: (G,) tr(K_g); ``genetic``: (n, G)
    what every component contributed to y.
    """

    y: np.ndarray
    theta: np.ndarray
    traces: np.ndarray
    genetic: np.ndarray

    @property
    def h2(self) -> float:
        """V_G / (V_G + theta_e) with V_G = sum_g theta_g tr(K_g) / n."""
        variances = self.theta * np.append(self.traces / len(self.y), 1.0)
        return float(1 - variances[-1] / variances.sum())


def simulate_cohort(
    num_samples: int,
    num_variants: int,
    seed: int,
    *,
    missing_rate: float = 0.01,
    haplotypes: Haplotypes | None = None,
    structure: Structure | None = None,
) -> Cohort:
    """A cohort in memory; the genotypes that :func:`simulate_bed` writes for the same arguments.

    ``haplotypes``: by default LD as on a genotyping array; :data:`~.haplotypes.SPARSE` is a few thousand variants in
    weak LD.  ``structure``: by default one population of unrelated people.
    """
    haplotypes, structure = haplotypes or Haplotypes(), structure or Structure()
    plan = _plan(num_samples, num_variants, seed, haplotypes, structure)
    counts = np.empty((num_samples, num_variants), np.int8)
    for first, codes in code_blocks(plan.samples, plan.variants, missing_rate, haplotypes, structure, plan.genotypes):
        counts[:, first : first + len(codes)] = COUNT_OF_CODE[codes].T
    return Cohort(counts, plan.samples, plan.variants)


@dataclass(frozen=True)
class _Plan:
    samples: pd.DataFrame
    variants: pd.DataFrame
    genotypes: np.random.SeedSequence
    phenotype: np.random.SeedSequence


def _plan(num_samples: int, num_variants: int, seed: int, haplotypes: Haplotypes, structure: Structure) -> _Plan:
    if num_samples < 1 or num_variants < 1:
        raise ValueError(f"expected at least one sample and one variant, found {num_samples} and {num_variants}")
    who, what, genotypes, phenotype = np.random.SeedSequence(seed).spawn(4)
    samples = make_samples(num_samples, structure, np.random.default_rng(who))
    variants = make_variants(num_variants, haplotypes, np.random.default_rng(what))
    return _Plan(samples, variants, genotypes, phenotype)


def simulate_phenotype(
    genotypes: Cohort | np.ndarray,
    components: Sequence[np.ndarray],
    theta: np.ndarray,
    seed: int,
    *,
    X: np.ndarray | None = None,
    effects: np.ndarray | None = None,
) -> Trait:
    """y = X effects + sum_g Z diag(w_g)^(1/2) u_g (theta_g / c_g)^(1/2) + e, u_g and e normal.

    genotypes: a cohort, or Z (n, m) standardised.  components: G vectors of non-negative weights (m,), so that
    Cov(y) = sum_g theta_g K_g + theta_e I exactly.  theta: (G + 1,), residual last, in the units of y squared.
    """
    Z = standardised(genotypes.counts) if isinstance(genotypes, Cohort) else np.asarray(genotypes, np.float64)
    W = _checked_weights(components, Z.shape[1])
    theta = _checked_theta(theta, W.shape[1])
    if (X is None) != (effects is None):
        raise ValueError("X and effects: give both or neither")
    rng = np.random.default_rng(seed)
    genetic = Z @ (np.sqrt(W) * rng.standard_normal(W.shape))
    total = _scale(W, Z.any(axis=0))
    genetic *= np.sqrt(theta[:-1] / total)
    fixed = 0.0 if X is None else X @ effects
    y = fixed + genetic.sum(axis=1) + np.sqrt(theta[-1]) * rng.standard_normal(len(Z))
    return Trait(y, theta, (Z**2).sum(axis=0) @ W / total, genetic)


def _checked_weights(components: Sequence[np.ndarray], num_variants: int) -> np.ndarray:
    """(m, G) float64."""
    W = np.column_stack([np.asarray(w, np.float64) for w in components])
    if W.shape[0] != num_variants or not np.isfinite(W).all() or W.min() < 0:
        raise ValueError(f"components: expected finite weights of at least 0 for {num_variants} variants")
    return W


def _checked_theta(theta: np.ndarray, num_components: int) -> np.ndarray:
    theta = np.asarray(theta, np.float64)
    if theta.shape != (num_components + 1,) or not np.isfinite(theta).all() or theta.min() < 0:
        raise ValueError(f"theta: expected {num_components} genetic variances and the residual one, found {theta}")
    return theta


def _scale(W: np.ndarray, varies: np.ndarray) -> np.ndarray:
    """(G,) c_g, the sum of the weights of the variants that vary."""
    total = W.T @ varies.astype(np.float64)
    if not (total > 0).all():
        raise ValueError(f"component {int(np.argmin(total))}: none of its variants varies; give it another one")
    return total


def write_plink(cohort: Cohort, prefix: str | Path) -> None:
    """Write ``prefix``.bed, .bim and .fam by bed-reader."""
    samples, variants = cohort.samples, cohort.variants
    properties = {
        "fid": samples["fid"],
        "iid": samples["iid"],
        "father": samples["father"],
        "mother": samples["mother"],
        "sex": samples["sex"],
        "pheno": np.full(len(samples), "-9"),
        "chromosome": variants["chrom"],
        "sid": variants["id"],
        "cm_position": variants["cm"],
        "bp_position": variants["bp"],
        "allele_1": variants["a1"],
        "allele_2": variants["a2"],
    }
    properties = {name: np.asarray(column) for name, column in properties.items()}
    to_bed(f"{prefix}.bed", cohort.counts, properties=properties)


def write_phenotype(path: str | Path, samples: pd.DataFrame, name: str, values: np.ndarray) -> None:
    """FID IID ``name``, tab-separated with a header; NaN is written as NA."""
    _write_table(path, samples, {name: values})


def write_covariates(path: str | Path, samples: pd.DataFrame, columns: Mapping[str, np.ndarray]) -> None:
    """FID IID and one column for every covariate, tab-separated with a header; NaN is written as NA."""
    _write_table(path, samples, columns)


def _write_table(path, samples: pd.DataFrame, columns: Mapping[str, np.ndarray]) -> None:
    table = pd.DataFrame({"FID": samples["fid"].to_numpy(), "IID": samples["iid"].to_numpy(), **columns})
    table.to_csv(path, sep="\t", index=False, na_rep="NA", float_format="%.9g")


@dataclass(frozen=True)
class Genetics:
    """The model of a streamed phenotype: ``components`` (G weight vectors (m,), None is one GRM) and ``theta``."""

    theta: Sequence[float] = (0.5, 0.5)
    components: Sequence[np.ndarray] | None = field(default=None, repr=False)


def simulate_bed(
    prefix: str | Path,
    num_samples: int,
    num_variants: int,
    seed: int,
    *,
    genetics: Genetics | None = None,
    haplotypes: Haplotypes | None = None,
    structure: Structure | None = None,
    missing_rate: float = 0.01,
) -> Trait:
    """Write ``prefix``.bed, .bim, .fam and .pheno block by block: memory does not grow with the genotypes.

    The phenotype, column ``trait``, is that of :func:`simulate_phenotype` without covariates.
    """
    haplotypes, structure, genetics = haplotypes or Haplotypes(), structure or Structure(), genetics or Genetics()
    plan = _plan(num_samples, num_variants, seed, haplotypes, structure)
    W = _checked_weights(genetics.components or [np.ones(num_variants)], num_variants)
    theta = _checked_theta(genetics.theta, W.shape[1])
    rng = np.random.default_rng(plan.phenotype)
    effects = np.sqrt(W) * rng.standard_normal(W.shape)
    genetic = np.zeros((W.shape[1], num_samples))
    num_called = np.empty(num_variants)
    packed = np.empty((0, 0), np.uint8)
    with open(f"{prefix}.bed", "wb") as bed:
        bed.write(BED_HEADER)
        blocks = code_blocks(plan.samples, plan.variants, missing_rate, haplotypes, structure, plan.genotypes)
        for first, codes in blocks:
            rows = slice(first, first + len(codes))
            values, num_called[rows] = _standardised_codes(_count(codes))
            _add_genetic(codes, values, effects[rows], genetic)
            if len(packed) != len(codes):
                packed = np.empty((len(codes), (num_samples + 3) // 4), np.uint8)
            _pack(codes, packed)
            bed.write(packed)
    _write_fam_bim(prefix, plan)
    total = _scale(W, num_called > 0)
    genetic = (genetic * np.sqrt(theta[:-1] / total)[:, None]).T
    y = genetic.sum(axis=1) + np.sqrt(theta[-1]) * rng.standard_normal(num_samples)
    write_phenotype(f"{prefix}.pheno", plan.samples, "trait", y)
    return Trait(y, theta, num_called @ W / total, genetic)


def _write_fam_bim(prefix, plan: _Plan) -> None:
    fam = plan.samples[["fid", "iid", "father", "mother", "sex"]].assign(pheno=-9)
    bim = plan.variants[["chrom", "id", "cm", "bp", "a1", "a2"]]
    for suffix, table in (("fam", fam), ("bim", bim)):
        table.to_csv(f"{prefix}.{suffix}", sep="\t", header=False, index=False)


def _standardised_codes(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(w, 4) standardised value of each two-bit code, and (w,) tr of z z': the calls, or 0 where nothing varies."""
    called = np.maximum(counts[:, [0, 2, 3]].sum(axis=1), 1)
    mean = (2 * counts[:, 0] + counts[:, 2]) / called
    values = COUNT_OF_CODE[None].astype(np.float64) - mean[:, None]
    values[:, 1] = 0.0
    sd = np.sqrt((values**2 * counts).sum(axis=1) / called)
    varies = (counts[:, [0, 2, 3]] > 0).sum(axis=1) > 1
    values = np.where(varies[:, None], values / np.where(varies, sd, 1.0)[:, None], 0.0)
    return values, np.where(varies, called, 0)


@parallel
def _count(codes):
    counts = np.zeros((len(codes), 4), np.int64)
    for j in prange(len(codes)):
        for i in range(codes.shape[1]):
            counts[j, codes[j, i]] += 1
    return counts


@parallel
def _add_genetic(codes, values, effects, genetic):
    """genetic (G, n) += effects' Z'."""
    n = codes.shape[1]
    for chunk in prange((n + _CHUNK - 1) // _CHUNK):
        last = min((chunk + 1) * _CHUNK, n)
        for g in range(len(genetic)):
            for j in range(len(codes)):
                if effects[j, g] != 0:
                    scaled = values[j] * effects[j, g]
                    for i in range(chunk * _CHUNK, last):
                        genetic[g, i] += scaled[codes[j, i]]


@parallel
def _pack(codes, packed):
    n = codes.shape[1]
    for j in prange(len(codes)):
        for b in range(packed.shape[1]):
            byte = 0
            for i in range(4 * b, min(4 * b + 4, n)):
                byte |= codes[j, i] << (2 * (i - 4 * b))
            packed[j, b] = byte


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpu_reml.validation.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="PREFIX", help="of the files")
    parser.add_argument("--samples", type=positive_int, default=5_000, metavar="N", help="people (default 5,000)")
    parser.add_argument("--variants", type=positive_int, default=50_000, metavar="M", help="variants (default 50,000)")
    parser.add_argument("--seed", type=count, default=1, metavar="N", help="of everything that is drawn (default 1)")
    parser.add_argument("--h2", type=fraction, default=0.5, metavar="X", help="of the trait (default 0.5)")
    parser.add_argument("--ld", choices=PANELS, default="array", help="a mean LD score of about 30, or of 2")
    parser.add_argument("--chromosomes", type=positive_int, default=22, metavar="N", help="(default 22)")
    parser.add_argument("--populations", type=positive_int, default=3, metavar="N", help="of equal size (default 3)")
    parser.add_argument("--fst", type=share, default=0.005, metavar="X", help="between populations (default 0.005)")
    parser.add_argument(
        "--family-share", type=fraction, default=0.1, metavar="X",
        help="of the people who are in families of two parents and two children (default 0.1)",
    )  # fmt: skip
    parser.add_argument("--missing-rate", type=share, default=0.01, metavar="X", help="of genotypes (default 0.01)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 where the files cannot be written."""
    parser = make_parser()
    options = parser.parse_args(argv)
    try:
        check_writable(options.out)
    except OSError as error:
        parser.error(f"--out: {error}")
    trait = simulate_bed(
        options.out,
        options.samples,
        options.variants,
        options.seed,
        genetics=Genetics((options.h2, 1 - options.h2)),
        haplotypes=replace(PANELS[options.ld], num_chromosomes=options.chromosomes),
        structure=Structure(options.populations, options.fst if options.populations > 1 else 0, options.family_share),
        missing_rate=options.missing_rate,
    )
    print(f"written: {options.out}{{.bed,.bim,.fam,.pheno}}; the trait's h2 is {trait.h2:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
