"""Sets of people whose traits are fitted together: who they are, and the products that all share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..covariance import CountingCovariance, Covariance
from ..covariance.subset import SubsetCovariance
from ..linalg import column_batches, orthonormal_basis, project
from ..traits import Traits
from .coupled import (
    Known,
)
from .krylov import (
    Cohort,
    LanczosRun,
    advance,
    prepared,
)
from .people import People

# People are fitted together with others where they are at least this share of those who have any of the traits: below,
# everybody's probes say too little of theirs.
LEAST_SHARE = 0.7
# So many sets of people are fitted together, at most: the vectors of all are held, and with more of them everybody's
# probes, which they share, are a small part of the cost already.
MOST_TOGETHER = 100


class Crowd(NamedTuple):
    """One set of people with their ``traits`` and ``cohort``; ``inside`` (n,): who of everybody they are."""

    people: People
    traits: Traits
    cohort: Cohort
    inside: np.ndarray
    known: Known

    @property
    def subset(self) -> SubsetCovariance:
        return self.cohort.covariance

    @property
    def everybody(self) -> bool:
        return bool(self.inside.all())


def gathered(peoples: Sequence[People], most: int = MOST_TOGETHER) -> list[list[int]]:
    """Which sets of people are fitted together, at most so many: each is at least LEAST_SHARE of all who are in its
    gathering."""
    gatherings: list[tuple[list[int], np.ndarray]] = []
    for which in sorted(range(len(peoples)), key=lambda i: -peoples[i].num_samples):
        for position, (members, rows) in enumerate(gatherings):
            if len(members) == most:
                continue
            union = np.union1d(rows, peoples[which].rows)
            if min(peoples[i].num_samples for i in (*members, which)) >= LEAST_SHARE * len(union):
                gatherings[position] = ([*members, which], union)
                break
        else:
            gatherings.append(([which], peoples[which].rows))
    return [members for members, _ in gatherings]


class Gathering(NamedTuple):
    """Everybody: the ``reference``, whose covariance is among all who have a trait, and the crowds in it."""

    counting: CountingCovariance
    reference: Cohort
    crowds: list[Crowd]
    columns: int

    def images(self, cohorts: Sequence[Cohort], blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """K times blocks (n_t, k) of several sets of people, (n, k) of all; one read of the genotypes where memory
        allows."""
        whole = [cohort.covariance.among_others(B) for cohort, B in zip(cohorts, blocks, strict=True)]
        return products_together(self.counting, whole, self.columns)

    def advanced(self, cohorts: Sequence[Cohort], runs: Sequence[LanczosRun]) -> list[LanczosRun]:
        """One Lanczos step of every run, all in one block."""
        images = self.images(cohorts, [run.state.current for run in runs])
        return [
            advance(cohort, run, image[cohort.covariance.rows])
            for cohort, run, image in zip(cohorts, runs, images, strict=True)
        ]


def products_together(covariance: Covariance, blocks: Sequence[np.ndarray], at_once: int) -> list[np.ndarray]:
    """K times several blocks (n, k), ``at_once`` columns in a product."""
    B = np.concatenate(blocks, axis=1)
    parts = [
        np.asarray(covariance.apply(np.ones(1), covariance.block(B[:, batch])), B.dtype)
        for batch in column_batches(B.shape[1], at_once)
        if B[:, batch].shape[1]
    ]
    image = np.concatenate(parts, axis=1) if parts else B
    return np.split(image, np.cumsum([block.shape[1] for block in blocks])[:-1], axis=1)


def met(
    peoples: Sequence[People],
    traits: Sequence[Traits],
    X: np.ndarray,
    among: Sequence[SubsetCovariance],
    at_once: int,
) -> Gathering:
    """Everybody, with K Q of every set of people; a column-pass for each fixed effect of each."""
    every = among[-1]
    counting = every.base
    bases = [each.Q for each in traits] + [orthonormal_basis(X[every.rows])]
    blocks = [subset.block(Q) for subset, Q in zip(among, bases, strict=True)]
    whole = [subset.among_others(Q) for subset, Q in zip(among, blocks, strict=True)]
    images = products_together(counting, whole, at_once)
    cohorts = [prepared(subset, Q, image[subset.rows]) for subset, Q, image in zip(among, blocks, images, strict=True)]
    *own, reference = cohorts
    KQ = images[-1][every.rows]
    crowds = [
        Crowd(people, theirs, cohort, np.isin(every.rows, people.rows), known_of(cohort, reference, KQ, image))
        for people, theirs, cohort, image in zip(peoples, traits, own, images[:-1], strict=True)
    ]
    return Gathering(counting, reference, crowds, at_once)


def known_of(cohort: Cohort, reference: Cohort, KQ: np.ndarray, image: np.ndarray) -> Known:
    """What is known of A_t, and of A among its people; no product.

    KQ: K times the fixed effects' basis of all, (n, c) of all.  image: K times that of those people, of all samples of
    the covariance.  Their fixed effects span those of all, restricted, so with P_t and P that project them out
    A_t = P_t M K M P_t = P_t M A M P_t, A = P K P, and tr(A_t^2) = sum_ij A_ij^2 - 2 |M A Q_t|^2 + |Q_t'A Q_t|^2.
    """
    every, subset, Q = reference.covariance, cohort.covariance, np.asarray(reference.Q, np.float64)
    inside = np.isin(every.rows, subset.rows)
    Qt = np.zeros((len(inside), cohort.Q.shape[1]))
    Qt[inside] = cohort.Q
    AQ = project(Q, image[every.rows].astype(np.float64) - KQ.astype(np.float64) @ (Q.T @ Qt))
    diagonal = every.diagonals()[:, 0] - 2 * (Q * KQ).sum(axis=1) + ((Q @ reference.inner) * Q).sum(axis=1)
    correction = ((Qt.T @ AQ) ** 2).sum() - 2 * (AQ[inside] ** 2).sum()
    share = subset.num_samples / every.num_samples
    return Known(cohort.dimension, cohort.trace, share, float(diagonal[inside].sum()), float(correction))


def batches_of(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Positions in order, together as long as their columns are at most so many; one that has more is alone."""
    batches: list[list[int]] = []
    room = 0
    for position, size in enumerate(sizes):
        if not batches or size > room:
            batches.append([])
            room = most
        batches[-1].append(position)
        room -= size
    return batches
