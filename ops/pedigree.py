"""Pedigrees: numerator relationships A of any number of animals, never formed, and their sparse inverse.

A = T D T', T unit lower triangular where parents come before their progeny: row i of T^-1 has 1 for the animal and -1/2
for each known parent, and D is the variance of what is not explained by parents.  A product with A is thus a sweep from
the youngest to the oldest, a scaling, and a sweep back.
Inbreeding is half the relationship of the parents, which a product with the column of one parent has for all of its
mates; generation by generation, so that D is known for all ancestors.
Sources: Henderson 1976, Biometrics 32:69; Quaas 1976, Biometrics 32:949; Colleau 2002, Genet. Sel. Evol. 34:409.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import prange
from scipy import sparse

from .arguments import as_array
from .base import Covariance
from .compile import compiled, parallel

UNKNOWN = -1
COLUMNS = 16  # of a block that one thread sweeps: a row of them is two cache lines
PARENTS = 64  # whose relationships with all before them are made at once


@compiled
def parents_first(sire, dam, order):
    """Write to ``order`` the animals with parents before progeny; returns an animal that is its own ancestor, or -1."""
    state = np.zeros(len(sire), np.int8)  # 1 while its ancestors are looked for, 2 when it has its place
    stack = np.empty(len(sire) + 1, np.int64)
    placed = 0
    for first in range(len(sire)):
        top = 0
        stack[0] = first
        while top >= 0:
            animal = stack[top]
            if state[animal] == 2:
                top -= 1
                continue
            state[animal] = 1
            waiting = -1
            for parent in (sire[animal], dam[animal]):
                if parent >= 0 and state[parent] != 2:
                    waiting = parent
            if waiting < 0:
                state[animal] = 2
                order[placed] = animal
                placed += 1
                top -= 1
            elif state[waiting] == 1:
                return waiting
            else:
                top += 1
                stack[top] = waiting
    return -1


@compiled
def generations_of(order, sire, dam, generation):
    """Write one more than the larger generation of the parents, 0 without any."""
    for animal in order:
        for parent in (sire[animal], dam[animal]):
            if parent >= 0:
                generation[animal] = max(generation[animal], generation[parent] + 1)


@parallel
def to_ancestors(order, sire, dam, B):
    """B <- T'B in place: every animal adds half of its row to each parent, the youngest first."""
    k = B.shape[1]
    for part in prange((k + COLUMNS - 1) // COLUMNS):
        first, last = part * COLUMNS, min((part + 1) * COLUMNS, k)
        for place in range(len(order) - 1, -1, -1):
            animal = order[place]
            for parent in (sire[animal], dam[animal]):
                if parent >= 0:
                    for c in range(first, last):
                        B[parent, c] += 0.5 * B[animal, c]


@parallel
def to_progeny(order, sire, dam, B):
    """B <- T B in place: every animal takes half of each parent's row, the oldest first."""
    k = B.shape[1]
    for part in prange((k + COLUMNS - 1) // COLUMNS):
        first, last = part * COLUMNS, min((part + 1) * COLUMNS, k)
        for place in range(len(order)):
            animal = order[place]
            for parent in (sire[animal], dam[animal]):
                if parent >= 0:
                    for c in range(first, last):
                        B[animal, c] += 0.5 * B[parent, c]


@dataclass(frozen=True)
class Pedigree:
    """Who descends from whom: ``sire``, ``dam`` (q,) rows of the parents, -1 where unknown; ``order`` (q,) has parents
    before progeny; ``inbreeding`` (q,) and ``within`` (q,), the diagonal of D.  Made by :func:`make_pedigree`."""

    sire: np.ndarray
    dam: np.ndarray
    order: np.ndarray
    inbreeding: np.ndarray
    within: np.ndarray

    @property
    def num_animals(self) -> int:
        return len(self.sire)


def make_pedigree(sire: Any, dam: Any) -> Pedigree:
    """A pedigree of q animals from the rows of their parents (q,), -1 where one is unknown, in any order.

    Cost: a product with A for every parent (the fewer of sires and dams), among the animals before its progeny; memory
    in proportion to the animals.
    Raises ValueError for a row that there is not, an animal whose sire and dam are the same, or one that is its own
    ancestor.

    >>> from gpu_reml.ops import make_pedigree
    >>> found = make_pedigree([-1, -1, 0, 0, 2], [-1, -1, 1, 1, 3])  # the last one's parents are full sibs
    >>> found.inbreeding.tolist(), found.within.tolist()
    ([0.0, 0.0, 0.0, 0.0, 0.25], [1.0, 1.0, 0.5, 0.5, 0.5])
    """
    sire, dam = _rows(sire, "sire"), _rows(dam, "dam")
    if len(sire) != len(dam) or not len(sire):
        raise ValueError(f"sire, dam: expected one of each for every animal, found {len(sire)} and {len(dam)}")
    for name, parents in (("sire", sire), ("dam", dam)):
        if parents.min() < UNKNOWN or parents.max() >= len(sire):
            raise ValueError(f"{name}: expected rows from 0 to {len(sire) - 1}, or -1 where unknown")
    same = (sire == dam) & (sire != UNKNOWN)
    if same.any():
        raise ValueError(f"dam: animal {int(np.argmax(same))} has the same sire and dam, {sire[np.argmax(same)]}")
    order = np.empty(len(sire), np.int64)
    looped = parents_first(sire, dam, order)
    if looped >= 0:
        raise ValueError(f"sire, dam: animal {looped} is its own ancestor")
    generation = np.zeros(len(sire), np.int64)
    generations_of(order, sire, dam, generation)
    order = np.argsort(generation, kind="stable")
    place = np.full(len(sire) + 1, UNKNOWN)
    place[order] = np.arange(len(sire))
    F, D = _inbreeding(place[sire[order]], place[dam[order]], generation[order])
    inbreeding, within = np.empty(len(sire)), np.empty(len(sire))
    inbreeding[order], within[order] = F, D
    return Pedigree(sire, dam, order, inbreeding, within)


def _inbreeding(sire: np.ndarray, dam: np.ndarray, generation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inbreeding F and within-family variances D (q,) of animals in the order of their generations."""
    F, D = np.zeros(len(sire)), np.empty(len(sire))
    of_unknown = np.append(F, -1.0)
    edges = np.searchsorted(generation, np.arange(generation[-1] + 2))
    for first, last in pairwise(edges):
        both = first + np.flatnonzero((sire[first:last] != UNKNOWN) & (dam[first:last] != UNKNOWN))
        if len(both):
            F[both] = 0.5 * _relationships(sire, dam, D[:first], sire[both], dam[both])
        own = slice(first, last)
        D[own] = 0.5 - 0.25 * (of_unknown[sire[own]] + of_unknown[dam[own]])
        of_unknown[own] = F[own]
    return F, D


def _relationships(sire: np.ndarray, dam: np.ndarray, D: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A[one, other] entry by entry, among the first animals, whose D is known: a product for each of the fewer."""
    if len(np.unique(other)) < len(np.unique(one)):
        one, other = other, one
    parents, column = np.unique(one, return_inverse=True)
    before, found = np.arange(len(D)), np.empty(len(one))
    for first in range(0, len(parents), PARENTS):
        some = parents[first : first + PARENTS]
        B = np.zeros((len(D), len(some)))
        B[some, np.arange(len(some))] = 1
        to_ancestors(before, sire, dam, B)
        B *= D[:, None]
        to_progeny(before, sire, dam, B)
        here = np.flatnonzero((column >= first) & (column < first + PARENTS))
        found[here] = B[other[here], column[here] - first]
    return found


def _rows(value: Any, name: str) -> np.ndarray:
    rows = as_array(value, name)
    if rows.ndim != 1 or (rows != np.round(rows)).any():
        raise ValueError(f"{name}: expected whole numbers (q,), the rows of parents, found {rows.shape}")
    return rows.astype(np.int64)


class PedigreeCovariance(Covariance):
    """One component, the numerator relationships A (q, q) of all animals of a pedigree.

    Features of B are D^(1/2) T'B.  A product takes 4 q additions a column and no genotypes; memory is the blocks'.
    """

    dtype = np.float64
    num_components = 1

    def __init__(self, pedigree: Pedigree, name: str = "pedigree"):
        self.pedigree, self.names, self.num_samples = pedigree, (name,), pedigree.num_animals
        self._root = np.sqrt(pedigree.within)[:, None]

    @property
    def home(self) -> Any:
        return ("arrays", np.dtype(self.dtype))

    @property
    def traces(self) -> np.ndarray:
        return self.diagonals().sum(axis=0)

    def diagonals(self) -> np.ndarray:
        """(q, 1) one plus the inbreeding."""
        return 1 + self.pedigree.inbreeding[:, None]

    def block(self, array):
        return np.ascontiguousarray(array, self.dtype)

    def features(self, B):
        F = np.array(B, self.dtype, order="C")
        to_ancestors(self.pedigree.order, self.pedigree.sire, self.pedigree.dam, F)
        F *= self._root
        return F

    def inner(self, FA, FB):
        return np.einsum("qk,qk->k", FA, FB)[None]

    def gram(self, FA, FB=None):
        return (FA.T @ (FA if FB is None else FB))[None]

    def apply_each(self, F):
        B = np.ascontiguousarray(F * self._root)
        to_progeny(self.pedigree.order, self.pedigree.sire, self.pedigree.dam, B)
        return B[None]

    def apply_features(self, theta, F):
        return float(theta[0]) * self.apply_each(F)[0]

    def apply(self, theta, B):
        return self.apply_features(theta, self.features(B))


def inverse_relationship(pedigree: Pedigree) -> sparse.csc_array:
    """A^-1 (q, q), sparse: at most nine entries an animal (Henderson 1976).

    >>> from gpu_reml.ops import inverse_relationship, make_pedigree
    >>> inverse_relationship(make_pedigree([-1, -1, 0], [-1, -1, 1])).toarray().tolist()
    [[1.5, 0.5, -1.0], [0.5, 1.5, -1.0], [-1.0, -1.0, 2.0]]
    """
    q = pedigree.num_animals
    rows, columns, values = [np.arange(q)], [np.arange(q)], [np.ones(q)]
    for parents in (pedigree.sire, pedigree.dam):
        known = np.flatnonzero(parents != UNKNOWN)
        rows.append(known)
        columns.append(parents[known])
        values.append(np.full(len(known), -0.5))
    entries = (np.concatenate(rows), np.concatenate(columns))
    inverse_t = sparse.csr_array((np.concatenate(values), entries), shape=(q, q))
    return sparse.csc_array(inverse_t.T @ sparse.diags_array(1 / pedigree.within) @ inverse_t)
