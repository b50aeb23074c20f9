"""What a sample of a cohort's people tells of all: who is related, populations, and how well h2 can be known.

K_s (s, s) is the relationship matrix of at most 2,000 people by at most 8,192 variants, both drawn at random, so its
cost does not grow with the cohort.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg, special

from gpu_reml.ops import PackedGenotypes
from gpu_reml.ops.genotypes import take_variants
from gpu_reml.ops.relationship import decoded_variants

MOST_PEOPLE, MOST_VARIANTS = 2000, 8192
CHUNK = 512  # variants that are decoded at once
# Relationships of which on: of one person twice (or twins), and of parents, children and siblings.
SAME, NEAR = 0.8, 0.35
# A pair is told from unrelated ones where its relationship is so many of their standard deviations.
CLEAR = 6.0
# An eigenvector is of populations where it is spread over people as a normal variable is (fourth moment 3, within this)
SPREAD = 8.0
# and its eigenvalue is so many times the largest of unrelated people.
ABOVE_EDGE = 2.0
MOST_POPULATIONS = 10


class CohortSample(NamedTuple):
    """Counts and eigenvalues in a sample of ``num_sampled`` of ``num_samples`` people.

    ``same``: pairs that are one person, or twins; ``near``: pairs like parents, children or siblings; ``told``: whether
    these could be told from unrelated pairs.  ``spread``: variance of a relationship of unrelated people by all m
    variants.  ``axes``: eigenvectors (s, k) of populations, ``held``: the share of tr(K_s) in each.  ``eigenvalues``
    (s,).  ``people`` (s,): places of the sampled ones, one of each pair that is the same.
    """

    num_samples: int
    num_sampled: int
    same: int
    near: int
    told: bool
    spread: float
    axes: np.ndarray
    held: np.ndarray
    eigenvalues: np.ndarray
    people: np.ndarray

    @property
    def with_relative(self) -> float:
        """Of all people, how many near relatives each has on average."""
        s = len(self.people)
        return 2 * self.near / s * (self.num_samples - 1) / max(1, s - 1)

    @property
    def with_copy(self) -> float:
        """Of all people, how many copies each has on average."""
        return 2 * self.same / self.num_sampled * (self.num_samples - 1) / max(1, self.num_sampled - 1)

    def expected_se(self, h2: float = 0.0, num_fixed: int = 1) -> float:
        """SE of h2 that so many people give: sqrt(2 / (n var w)) for w = (l - 1) / (1 + h2 (l - 1)) over eigenvalues l
        of their relationships.

        Eigenvalues of all n are those of 1 / var K_ij independent variants, and 1 +- r of pairs of relatives; of
        populations they are few and large, and tell next to nothing more.  Where h2 and n are small it is sqrt(2 / (n^2
        var K_ij)).
        Source: Visscher et al. 2014, PLoS Genet. 10:e1004269, with the spectrum of Marchenko & Pastur 1967.
        """
        n = self.num_samples - num_fixed
        values, shares = marchenko_pastur(n * self.spread)
        w = (values - 1) / (1 + h2 * (values - 1))
        pairs = self.num_samples * (self.num_samples - 1) / max(1, self.num_sampled * (self.num_sampled - 1))
        known = n * (shares @ w**2 - (shares @ w) ** 2)
        for found, r in ((self.same, 1.0), (self.near, 0.5)):
            of_pair = (r / (1 + h2 * r)) ** 2 + (r / (1 - h2 * r)) ** 2
            known += min(found * pairs, n / 2) * of_pair  # each person is in one pair
        return float(np.sqrt(2 / known))

    def explained_by_populations(self, residuals: np.ndarray) -> tuple[float, float]:
        """R2 of the phenotype (n,), its fixed effects taken out, on the axes of populations, and p of the F test."""
        k, y = self.axes.shape[1], residuals[self.people]
        y = y - y.mean()
        if not k:
            return 0.0, 1.0
        on = self.axes.T @ y
        r2, left = float(on @ on / (y @ y)), len(y) - 1 - k
        return r2, float(special.fdtrc(k, left, r2 / k / ((1 - r2) / left)))


def marchenko_pastur(ratio: float, num_points: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """(eigenvalues, their shares) of X X' / m for n people and m independent variants, n / m = ``ratio``; mean 1."""
    angles = (np.arange(num_points) + 0.5) * np.pi / num_points
    values = 1 + ratio + 2 * np.sqrt(ratio) * np.cos(angles)
    shares = 2 * np.sin(angles) ** 2 / values / num_points
    return np.append(values, 0.0), np.append(shares, max(0.0, 1 - shares.sum()))


def sample_cohort(genotypes: PackedGenotypes, seed: int = 0, drawn_from: tuple[int, int] | None = None) -> CohortSample:
    """Relationships of people drawn at random.

    drawn_from: samples and variants of the cohort, where ``genotypes`` are a random part of one already.

    Cost: at most 2,000^2 x 8,192 multiplications, an eigendecomposition of order 2,000, and 8,192 variants decoded.
    Memory: 100 MiB.  Raises ValueError where no variant varies.
    """
    rng = np.random.default_rng(seed)
    n, varying = genotypes.num_samples, np.flatnonzero(genotypes.inv_sd > 0)
    if not len(varying):
        raise ValueError("genotypes: no variant varies")
    people = np.sort(rng.choice(n, min(n, MOST_PEOPLE), replace=False))
    rows = np.sort(rng.choice(varying, min(len(varying), MOST_VARIANTS), replace=False))
    chunks = [
        decoded_variants(take_variants(genotypes, rows[first : first + CHUNK]), np.float32)[:, people]
        for first in range(0, len(rows), CHUNK)
    ]
    halves = np.array_split(np.concatenate(chunks), 2)
    n, m = drawn_from or (n, len(varying))
    return described([gram(X) for X in halves], n, people, len(rows), m)


def gram(X: np.ndarray) -> np.ndarray:
    """X'X / k of k variants, (s, s); zeros of none."""
    return (X.T @ X).astype(np.float64) / max(1, len(X))


def described(halves: list[np.ndarray], n: int, people: np.ndarray, num_taken: int, num_varying: int) -> CohortSample:
    """What the matrices (s, s) of two halves of the genome, ``num_taken`` of ``num_varying`` variants, tell.

    An axis of populations is one in both halves; one of a region in linkage disequilibrium is in one of them only.
    """
    K = sum(halves) / 2
    s = len(K)
    upper = np.triu_indices(s, 1)
    size = np.sqrt(np.outer(np.diag(K), np.diag(K)))[upper]
    same = K[upper] > max(SAME, CLEAR * robust_sd(K[upper])) * size
    kept = np.setdiff1d(np.arange(s), upper[1][same])  # one of each pair
    K, halves = K[np.ix_(kept, kept)], [half[np.ix_(kept, kept)] for half in halves]
    values, vectors = linalg.eigh(K)
    values, vectors = values[::-1], vectors[:, ::-1]
    whole = axes_of_populations(halves, values, vectors, robust_sd(K[np.triu_indices(len(K), 1)]))
    axes = vectors[:, whole]
    pairs = (K - (axes * values[whole]) @ axes.T)[np.triu_indices(len(K), 1)]
    spread = robust_sd(pairs)
    near = max(NEAR, CLEAR * spread)
    r2 = max(0.0, (spread**2 - 1 / num_taken) * num_taken / max(1, num_taken - 1))  # of a pair of variants
    return CohortSample(
        num_samples=n,
        num_sampled=s,
        same=int(same.sum()),
        near=int((pairs > near).sum()),
        told=near < SAME / 1.5,
        spread=1 / num_varying + (1 - 1 / num_varying) * r2,
        axes=axes,
        held=values[whole] / values.sum(),
        eigenvalues=values,
        people=people[kept],
    )


def axes_of_populations(halves: list[np.ndarray], values: np.ndarray, vectors: np.ndarray, spread: float) -> np.ndarray:
    """Which of the leading eigenvectors are of populations: large in both halves, and spread over the people."""
    s = len(values)
    edge = (1 + spread * np.sqrt(s)) ** 2  # Marchenko & Pastur: s people of 1 / spread^2 independent variants
    first = vectors[:, :MOST_POPULATIONS]
    in_both = np.min([((half @ first) * first).sum(axis=0) for half in halves], axis=0)
    return np.flatnonzero((in_both > ABOVE_EDGE * edge) & (s * (first**4).sum(axis=0) < SPREAD))


def robust_sd(values: np.ndarray) -> float:
    """Standard deviation of the bulk: relatives in the tail do not move it."""
    centre = np.median(values)
    return float(1.4826 * np.median(np.abs(values - centre)))
