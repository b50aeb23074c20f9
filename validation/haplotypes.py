"""Simulated genotypes with linkage disequilibrium, structure and relatives, a block of variants at a time.

Every haplotype is a mosaic of a population's founder haplotypes: a first-order Markov chain copies one founder and
changes to another at rate ``switch_rate`` (Li & Stephens 2003, Genetics 165:2213).  A founder's alleles follow a
Markov chain of their own: a latent uniform is kept with probability ``persistence`` from one variant to the next, and
the allele is A1 where it lies under the frequency of A1, so neighbours are correlated whatever their frequencies.
Populations drift from ancestral frequencies (Balding & Nichols 1995, Genetica 96:3); children recombine their parents.

Every haplotype has its own stream of random numbers and all chains are resumed at the next block: results depend
neither on the width of the blocks nor on the number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass

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
CHILDREN, FAMILY = 2, 4  # of a nuclear family, and its members


@dataclass(frozen=True)
class Haplotypes:
    """How haplotypes are made.  Rates are per variant; A1 has frequency in (min_maf, 1 - min_maf), log-odds uniform."""

    num_founders: int = 200
    switch_rate: float = 0.01
    persistence: float = 0.8
    min_maf: float = 0.02
    num_chromosomes: int = 5

    def __post_init__(self):
        if self.num_founders < 1 or self.num_chromosomes < 1:
            raise ValueError("num_founders and num_chromosomes: expected at least 1")
        if not (0 <= self.switch_rate < 1 and 0 <= self.persistence <= 1 and 0 < self.min_maf < 0.5):
            raise ValueError("expected switch_rate in [0, 1), persistence in [0, 1] and min_maf in (0, 0.5)")


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


def make_variants(num_variants: int, num_chromosomes: int, rng: np.random.Generator) -> pd.DataFrame:
    """chrom, id, cm, bp, a1, a2 in order; chromosomes of nearly equal numbers of variants, 1 cM to a megabase."""
    chrom = 1 + np.arange(num_variants) * min(num_chromosomes, num_variants) // num_variants
    gaps = rng.integers(1_000, 20_000, num_variants)
    bp = pd.Series(gaps).groupby(chrom).cumsum().to_numpy()
    first = rng.integers(0, 4, num_variants)
    second = (first + rng.integers(1, 4, num_variants)) % 4
    return pd.DataFrame(
        {
            "chrom": chrom.astype(str),
            "id": [f"rs{j + 1}" for j in range(num_variants)],
            "cm": bp / 1e6,
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

    def take(self, starts: np.ndarray) -> np.ndarray:
        """(w, populations x founders) uint8, 1 for A1."""
        model, structure = self.model, self.structure
        limit = np.log((1 - model.min_maf) / model.min_maf)
        p = 1 / (1 + np.exp(-self.frequency.uniform(-limit, limit, (len(starts), 1))))
        if structure.fst > 0:
            spread = (1 - structure.fst) / structure.fst
            p = self.drift.beta(p * spread, (1 - p) * spread, (len(starts), structure.num_populations))
        p = np.repeat(np.broadcast_to(p, (len(starts), structure.num_populations)), model.num_founders, axis=1)
        change = self.keep.random(p.shape) >= model.persistence
        change[starts] = True
        latent = self.fresh.random(p.shape)
        for j in range(len(latent)):
            self.latent = np.where(change[j], latent[j], self.latent)
            latent[j] = self.latent
        return (latent < p).astype(np.uint8)


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
    haplotypes = np.empty((min(width, m), 2 * n), np.uint8)
    codes = np.empty((min(width, m), n), np.uint8)
    for first in range(0, m, width):
        starts = begins[first : first + width]
        w = len(starts)
        mosaics.advance(founders.take(starts), starts, first, haplotypes[:w])
        meioses.advance(haplotypes[:w], starts, first, haplotypes[:w])
        calls.advance(haplotypes[:w], first, codes[:w])
        yield first, codes[:w]


def _pairs(rows: np.ndarray) -> np.ndarray:
    """The two haplotype columns of every sample in ``rows``."""
    return (2 * rows[:, None] + [0, 1]).ravel()
