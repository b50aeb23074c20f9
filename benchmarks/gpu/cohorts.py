"""Simulated genotypes, packed: a genotype is a function of the seed, its variant and its sample, and of nothing else.

So they can be made by a kernel where they are needed, in any order and any part, and again in NumPy to compare.
"""

from typing import NamedTuple

import numpy as np

from gpu_reml.ops import PackedGenotypes

MISSING_SHARE = 0.01
FREQUENCIES = (0.05, 0.5)  # of the counted allele, uniform over the variants
GOLDEN = 0x9E3779B97F4A7C15  # Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64)
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))  # shift, multiplier
VARIANT_SHIFT = 32  # the counter of a genotype is variant * 2^32 + sample
HASH_BITS = 32  # of the hash that are used


class Cohort(NamedTuple):
    """n samples x m variants in Hardy-Weinberg proportions, all independent; ``missing``: share of the calls."""

    num_samples: int
    num_variants: int
    seed: int = 1
    missing: float = MISSING_SHARE

    @property
    def row_bytes(self) -> int:
        return (self.num_samples + 3) // 4


def thresholds(cohort: Cohort) -> np.ndarray:
    """(m, 3) uint32 rising: a hash under the first is a missing call, then two copies, then one, and above none."""
    p = np.random.default_rng(cohort.seed).uniform(*FREQUENCIES, cohort.num_variants)
    called = 1 - cohort.missing
    shares = np.stack([np.full_like(p, cohort.missing), called * p**2, called * 2 * p * (1 - p)], axis=1)
    return (np.cumsum(shares, axis=1) * 2**HASH_BITS).astype(np.uint32)


def stream_of(seed: int) -> int:
    """Where the seed's counters start among all 2^64."""
    return seed * 0xD1342543DE82EF95 % 2**64


def hashes(cohort: Cohort, first: int, last: int) -> np.ndarray:
    """(last - first, 4 row_bytes) uint32: what decides every genotype of some variants."""
    variants = np.arange(first, last, dtype=np.uint64)[:, None]
    samples = np.arange(4 * cohort.row_bytes, dtype=np.uint64)
    z = np.uint64(stream_of(cohort.seed)) + ((variants << np.uint64(VARIANT_SHIFT)) | samples) * np.uint64(GOLDEN)
    for shift, multiplier in MIX:
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(multiplier)
    return (z >> np.uint64(HASH_BITS)).astype(np.uint32)


def packed_rows(cohort: Cohort, first: int, last: int) -> np.ndarray:
    """(last - first, row_bytes) uint8 genotypes of some variants, in NumPy; after the last sample there are more."""
    drawn = hashes(cohort, first, last)
    low, middle, high = thresholds(cohort)[first:last].T[:, :, None]
    codes = np.select([drawn < low, drawn < middle, drawn < high], [1, 0, 2], 3).astype(np.uint8)
    quads = codes.reshape(len(codes), -1, 4)
    return quads[:, :, 0] | quads[:, :, 1] << 2 | quads[:, :, 2] << 4 | quads[:, :, 3] << 6


def genotypes_of(packed: np.ndarray, cohort: Cohort, counts: np.ndarray) -> PackedGenotypes:
    """Packed genotypes with their statistics, from the (m, 3) counts of missing calls, two copies and one."""
    missing, two, one = counts.astype(np.float64).T
    called = cohort.num_samples - missing
    total = 2 * two + one
    scaled_variance = called * (4 * two + one) - total**2
    inv_sd = np.divide(called, np.sqrt(scaled_variance), out=np.zeros_like(called), where=scaled_variance > 0)
    mean = total / np.maximum(called, 1)
    return PackedGenotypes((packed,), cohort.num_samples, mean, inv_sd, called.astype(np.int64))


def component_weights(num_variants: int, num_components: int) -> np.ndarray:
    """(m, G) 0/1: equal runs of neighbouring variants, as chromosomes are."""
    edges = np.arange(1, num_components) * num_variants // num_components
    return np.eye(num_components)[np.searchsorted(edges, np.arange(num_variants), side="right")]


class Trait(NamedTuple):
    """y (n,) and the variances it was made with: of every component, residual last."""

    y: np.ndarray
    theta: np.ndarray

    @property
    def h2(self) -> float:
        return float(self.theta[:-1].sum() / self.theta.sum())


def simulate_trait(products, weights: np.ndarray, h2: float, seed: int) -> Trait:
    """y = Z beta + e of unit variance; component g has a share of h2 that grows with g.  Half a pass."""
    G = weights.shape[1]
    theta = np.append(h2 * np.arange(1, G + 1) / (G * (G + 1) / 2), 1 - h2)
    rng = np.random.default_rng(seed)
    variance = weights @ (theta[:-1] / weights.sum(axis=0))
    effects = rng.standard_normal(products.num_variants) * np.sqrt(variance)
    genetic = np.asarray(products.z(effects.astype(np.float32)[:, None]), np.float64)[:, 0]
    return Trait(genetic + np.sqrt(theta[-1]) * rng.standard_normal(products.num_samples), theta)
