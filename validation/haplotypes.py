"""Simulated genotypes with linkage disequilibrium, structure and relatives, a block of variants at a time.

Every haplotype is a mosaic of a population's founder haplotypes: a first-order Markov chain copies one founder and
changes to another at rate ``switch_rate`` (Li & Stephens 2003, Genetics 165:2213).  A founder's alleles follow a
Markov chain of their own: a latent uniform is kept with probability ``persistence`` from one variant to the next, and
its own allele is minor where it lies under the minor allele's frequency, so minor alleles of neighbours are nested.
Populations drift from ancestral frequencies (Balding & Nichols 1995, Genetica 96:3); children recombine their parents.

Every haplotype has its own stream of random numbers and all chains are resumed at the next block: results depend
neither on the width of the blocks nor on the number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numba import njit, prange

from ..ops import MISSING
from ..ops.compile import parallel

# Copies of A1 for each two-bit PLINK code; code 1 is a genotype that was not called.
COUNT_OF_CODE = np.array([2, MISSING, 1, 0], np.int8)
_CODE_OF_COUNT = np.array([3, 2, 0], np.uint8)
_NEVER = np.iinfo(np.int64).max
_CHUNK = 128
_BASES = np.array(["A", "C", "G", "T"])
MEAN_GAP = 10_500  # base pairs between neighbours
CHILDREN, FAMILY = 2, 4  # of a nuclear family, and its members


@dataclass(frozen=True)
class Haplotypes:
    """How haplotypes are made.  The defaults are those of a genotyping array on a human genome: a mean LD score of
    about 30, r2 of 0.4 between neighbours and of a tenth 50 variants on.

    ``switch_rate``, ``persistence``: per variant.  ``min_maf``: of ancestral frequencies; with the spectrum "uniform"
    the minor allele's is uniform and either allele is A1, with "log-odds" that of A1 is, in log-odds, and A1's are
    nested.  ``hotspots``: shape of the gamma law of recombination rates between neighbours, the smaller the more
    uneven; persistence follows the map.  0: the same rate everywhere, and LD that fades by the number of variants.
    """

    num_founders: int = 1000
    switch_rate: float = 0.005
    persistence: float = 0.985
    min_maf: float = 0.01
    num_chromosomes: int = 22
    spectrum: Literal["uniform", "log-odds"] = "uniform"
    hotspots: float = 0.03

    def __post_init__(self):
        if self.num_founders < 1 or self.num_chromosomes < 1:
            raise ValueError("num_founders and num_chromosomes: expected at least 1")
        if not (0 <= self.switch_rate < 1 and 0 <= self.persistence <= 1 and 0 < self.min_maf < 0.5):
            raise ValueError("expected switch_rate in [0, 1), persistence in [0, 1] and min_maf in (0, 0.5)")
        if self.spectrum not in ("uniform", "log-odds"):
            raise ValueError(f"spectrum: expected uniform or log-odds, found {self.spectrum!r}")
        if not 0 <= self.hotspots < np.inf:
            raise ValueError(f"hotspots: expected a shape of at least 0, found {self.hotspots}")


# A few thousand variants spread over a genome, in weak LD: a mean LD score of about 2, and more rare alleles.
SPARSE = Haplotypes(200, 0.01, 0.8, 0.02, 5, "log-odds", 0.0)


@dataclass(frozen=True)
class Structure:
    """Who the samples are: populations of a given Fst, and the share of samples in families of four.

    Populations are assigned at random, a family to one.
    """

    num_populations: int = 1
    fst: float = 0.0
    family_share: float = 0.0

    def __post_init__(self):
        if self.num_populations < 1 or not 0 <= self.fst < 1 or not 0 <= self.family_share <= 1:
            raise ValueError("expected num_populations of at least 1, fst in [0, 1) and family_share in [0, 1]")


def make_samples(num_samples: int, structure: Structure, rng: np.random.Generator) -> pd.DataFrame:
    """fid, iid, father, mother ("0" = not sampled), sex (1, 2), population; families first, parents before children."""
    num_families = int(num_samples * structure.family_share) // FAMILY
    related = num_families * FAMILY
    row = np.arange(num_samples)
    unit = np.where(row < related, row // FAMILY, row - related + num_families)
    role = np.where(row < related, row % FAMILY, -1)
    iid = np.array([f"P{i + 1:06d}" for i in row], dtype=object)
    is_child = role >= FAMILY - CHILDREN
    sex = rng.integers(1, 3, num_samples)
    sex[role == 0], sex[role == 1] = 1, 2
    population = rng.integers(0, structure.num_populations, num_samples)[unit]
    father, mother = np.full((2, num_samples), "0", dtype=object)
    father[is_child] = iid[(row - role)[is_child]]
    mother[is_child] = iid[(row - role)[is_child] + 1]
    fid = [f"F{u + 1:06d}" for u in unit]
    columns = {"fid": fid, "iid": iid, "father": father, "mother": mother, "sex": sex, "population": population}
    return pd.DataFrame(columns)


def make_variants(num_variants: int, model: Haplotypes, rng: np.random.Generator) -> pd.DataFrame:
    """chrom, id, cm, bp, a1, a2 in order; chromosomes of nearly equal numbers of variants, on average 1 cM to a
    megabase."""
    chrom = 1 + np.arange(num_variants) * min(model.num_chromosomes, num_variants) // num_variants
    gaps = rng.integers(1_000, 2 * MEAN_GAP - 1_000, num_variants)
    bp = pd.Series(gaps).groupby(chrom).cumsum().to_numpy()
    first = rng.integers(0, 4, num_variants)
    second = (first + rng.integers(1, 4, num_variants)) % 4
    rates = rng.gamma(model.hotspots, 1 / model.hotspots, num_variants) if model.hotspots else np.ones(num_variants)
    cm = pd.Series(gaps * rates / 1e6).groupby(chrom).cumsum().to_numpy()
    return pd.DataFrame(
        {
            "chrom": chrom.astype(str),
            "id": [f"rs{j + 1}" for j in range(num_variants)],
            "cm": cm,
            "bp": bp,
            "a1": _BASES[first],
            "a2": _BASES[second],
        }
    )


@njit(inline="always")
def _uniform(states, h):
    """The next number in (0, 1] of stream h: SplitMix64 (Steele, Lea & Flood 2014, OOPSLA, 453)."""
    states[h] += np.uint64(0x9E3779B97F4A7C15)
    z = states[h]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (np.float64(z >> np.uint64(11)) + 1.0) * 2.0**-53


@njit(inline="always")
def _after(position, states, h, log_stay):
    """The position of the next event when each variant has none with probability exp(log_stay)."""
    if log_stay == 0.0:
        return _NEVER
    return position + 1 + np.int64(np.log(_uniform(states, h)) / log_stay)


@parallel
def _copy(alleles, starts, first, num_choices, log_stay, chains, states, out):
    """Copy columns of ``alleles`` (w, .) to ``out``; row h of ``chains`` (H, 4) is to, offset, choice, until.

    Chain h fills column ``to`` from column ``offset + choice``; at variant ``until``, and where ``starts``, it draws
    another of the ``num_choices``.
    """
    num_chunks = (len(chains) + _CHUNK - 1) // _CHUNK
    for chunk in prange(num_chunks):
        for j in range(len(alleles)):
            row = alleles[j]
            for h in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(chains))):
                if starts[j] or first + j >= chains[h, 3]:
                    chains[h, 2] = min(num_choices - 1, np.int64(_uniform(states, h) * num_choices))
                    chains[h, 3] = _after(first + j, states, h, log_stay)
                out[j, chains[h, 0]] = row[chains[h, 1] + chains[h, 2]]


@parallel
def _call(haplotypes, first, log_called, until, states, codes):
    """Two-bit codes of the pairs of haplotypes, some of them missing."""
    n = codes.shape[1]
    num_chunks = (n + _CHUNK - 1) // _CHUNK
    for chunk in prange(num_chunks):
        for j in range(len(codes)):
            for i in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, n)):
                codes[j, i] = _CODE_OF_COUNT[haplotypes[j, 2 * i] + haplotypes[j, 2 * i + 1]]
                if first + j >= until[i]:
                    codes[j, i] = 1
                    until[i] = _after(first + j, states, i, log_called)


class _Copying:
    """Markov chains that each copy one column out of ``num_choices``, and change with probability ``rate``."""

    def __init__(self, to, offsets, num_choices: int, rate: float, seed):
        rng = np.random.default_rng(seed)
        self.num_choices, self.log_stay = num_choices, np.log1p(-rate)
        self.chains = np.zeros((len(to), 4), np.int64)
        self.chains[:, 0], self.chains[:, 1] = to, offsets
        self.states = rng.integers(0, 2**64, len(to), np.uint64)

    def advance(self, alleles, starts, first: int, out) -> None:
        """Write the next variants to this object's columns of ``out``; ``starts`` (w,) begin a chromosome."""
        _copy(alleles, starts, first, self.num_choices, self.log_stay, self.chains, self.states, out)


class _Calls:
    """Which genotypes are called: every sample loses each with probability ``rate``."""

    def __init__(self, num_samples: int, rate: float, seed):
        if not 0 <= rate < 1:
            raise ValueError(f"missing_rate: expected a share in [0, 1), found {rate}")
        self.log_called = np.log1p(-rate)
        self.states = np.random.default_rng(seed).integers(0, 2**64, num_samples, np.uint64)
        # The first event may fall on the first variant.
        self.until = np.array([_after(-1, self.states, i, self.log_called) for i in range(num_samples)], np.int64)

    def advance(self, haplotypes, first: int, codes) -> None:
        _call(haplotypes, first, self.log_called, self.until, self.states, codes)


class _Founders:
    """Alleles of all founders, population by population, in order of the variants."""

    def __init__(self, model: Haplotypes, structure: Structure, seeds):
        self.model, self.structure = model, structure
        self.frequency, self.drift, self.keep, self.fresh = (np.random.default_rng(seed) for seed in seeds)
        self.latent = np.zeros(structure.num_populations * model.num_founders)

    def take(self, starts: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """(w, populations x founders) uint8, 1 for A1; ``steps`` (w,) from the variant before, in average ones."""
        model, structure = self.model, self.structure
        p, other = self.frequencies(len(starts))
        if structure.fst > 0:
            spread = (1 - structure.fst) / structure.fst
            p = self.drift.beta(p * spread, (1 - p) * spread, (len(starts), structure.num_populations))
        p = np.repeat(np.broadcast_to(p, (len(starts), structure.num_populations)), model.num_founders, axis=1)
        change = self.keep.random(p.shape) >= model.persistence ** steps[:, None]
        change[starts] = True
        latent = self.fresh.random(p.shape)
        for j in range(len(latent)):
            self.latent = np.where(change[j], latent[j], self.latent)
            latent[j] = self.latent
        return ((latent < p) ^ other).astype(np.uint8)

    def frequencies(self, w: int) -> tuple[np.ndarray, np.ndarray]:
        """(w, 1) ancestral frequency of the nested allele, and whether A1 is the other one."""
        least = self.model.min_maf
        if self.model.spectrum == "uniform":
            u = self.frequency.uniform(-1, 1, (w, 1))
            return least + np.abs(u) * (0.5 - least), u < 0
        limit = np.log((1 - least) / least)
        return 1 / (1 + np.exp(-self.frequency.uniform(-limit, limit, (w, 1)))), np.zeros((w, 1), bool)


def code_blocks(
    samples: pd.DataFrame, variants: pd.DataFrame, missing_rate: float, model: Haplotypes, structure: Structure,
    seed: np.random.SeedSequence, width: int = 256,
) -> Iterator[tuple[int, np.ndarray]]:  # fmt: skip
    """Yield (first variant, two-bit codes (w, n) uint8, one code to a byte); the array is overwritten by the next.

    samples, variants: as from :func:`make_samples` and :func:`make_variants`.  Memory: 3 n bytes a variant of the
    block, and about 40 bytes a founder.
    """
    n, m = len(samples), len(variants)
    founders_seed, mosaic_seed, meiosis_seed, missing_seed = seed.spawn(4)
    founders = _Founders(model, structure, founders_seed.spawn(4))
    is_child = (samples["father"] != "0").to_numpy()
    offsets = samples["population"].to_numpy()[~is_child] * model.num_founders
    unrelated = _pairs(np.flatnonzero(~is_child))
    mosaics = _Copying(unrelated, np.repeat(offsets, 2), model.num_founders, model.switch_rate, mosaic_seed)
    row_of = pd.Series(np.arange(n), index=samples["iid"])
    parents = row_of[samples.loc[is_child, ["father", "mother"]].to_numpy().ravel()].to_numpy()
    crossover_rate = min(0.5, model.num_chromosomes / m)  # one to a chromosome
    meioses = _Copying(_pairs(np.flatnonzero(is_child)), 2 * parents, 2, crossover_rate, meiosis_seed)
    calls = _Calls(n, missing_rate, missing_seed)
    chrom = variants["chrom"].to_numpy()
    begins = np.append(True, chrom[1:] != chrom[:-1])
    steps = np.diff(variants["cm"], prepend=0.0) * 1e6 / MEAN_GAP if model.hotspots else np.ones(m)
    haplotypes = np.empty((min(width, m), 2 * n), np.uint8)
    codes = np.empty((min(width, m), n), np.uint8)
    for first in range(0, m, width):
        starts = begins[first : first + width]
        w = len(starts)
        alleles = founders.take(starts, np.maximum(steps[first : first + w], 0))  # none matters at a chromosome's start
        mosaics.advance(alleles, starts, first, haplotypes[:w])
        meioses.advance(haplotypes[:w], starts, first, haplotypes[:w])
        calls.advance(haplotypes[:w], first, codes[:w])
        yield first, codes[:w]


def _pairs(rows: np.ndarray) -> np.ndarray:
    """The two haplotype columns of every sample in ``rows``."""
    return (2 * rows[:, None] + [0, 1]).ravel()
