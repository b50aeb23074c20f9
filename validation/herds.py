"""Pedigrees and mixed-model equations, formed entry by entry: what the matrix-free operators are compared with."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np


def random_pedigree(
    num_animals: int, num_founders: int, seed: int = 0, *, window: int = 40, known: float = 0.9, every: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """(sire, dam) rows of animals in the order of birth, parents from the last ``window``, each known by chance; sires
    are among one in ``every`` animals."""
    rng = np.random.default_rng(seed)
    sire, dam = np.full(num_animals, -1), np.full(num_animals, -1)
    born = np.arange(num_founders, num_animals)
    span = np.minimum(window, born)
    first = rng.integers(0, span)
    second = (first + rng.integers(1, span)) % span
    sire[born], dam[born] = (born - 1 - first) // every * every, born - 1 - second
    sire[sire == dam] = -1
    for parents in (sire, dam):
        parents[rng.random(num_animals) > known] = -1
    return sire, dam


def tabular_relationship(sire: np.ndarray, dam: np.ndarray) -> np.ndarray:
    """A (q, q) of animals in the order of birth by the tabular method (Emik & Terrill 1949, J. Hered. 40:51)."""
    A = np.zeros((len(sire), len(sire)))
    for i, (s, d) in enumerate(zip(sire, dam, strict=True)):
        for parent in (s, d):
            if parent >= 0:
                A[i, :i] += 0.5 * A[parent, :i]
        A[:i, i] = A[i, :i]
        A[i, i] = 1 + (0.5 * A[s, d] if s >= 0 and d >= 0 else 0)
    return A


class MixedModelSolution(NamedTuple):
    """Fixed effects (c,), values of the levels of each random effect, and their prediction error variances."""

    fixed: np.ndarray
    values: list[np.ndarray]
    pev: list[np.ndarray]


def mixed_model_equations(
    y: np.ndarray, X: np.ndarray, effects: Sequence[tuple[np.ndarray, np.ndarray, float]], residual: np.ndarray
) -> MixedModelSolution:
    """Henderson's equations solved densely; effects: (Z (n, q), K (q, q), theta) of each; residual (n,) variances.

    Source: Henderson 1975, Biometrics 31:423.
    """
    W = np.hstack([X, *(Z for Z, _, _ in effects)])
    left = W.T @ (W / residual[:, None])
    bounds = np.cumsum([X.shape[1], *(Z.shape[1] for Z, _, _ in effects)])
    for (_, K, theta), first, last in zip(effects, bounds[:-1], bounds[1:], strict=True):
        left[first:last, first:last] += np.linalg.inv(K) / theta
    inverse = np.linalg.inv(left)
    solution = inverse @ (W.T @ (y / residual))
    own = [slice(first, last) for first, last in pairwise(bounds)]
    return MixedModelSolution(
        solution[: X.shape[1]], [solution[part] for part in own], [np.diag(inverse)[part] for part in own]
    )
