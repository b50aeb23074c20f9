"""The scan of components by dense algebra: efficient scores, their exact laws, one-step estimates, full fits."""

from typing import NamedTuple

import numpy as np
from scipy import linalg

from .dense import projection


class DenseScore(NamedTuple):
    """The efficient score of one component: ``score`` r, its ``variance`` and ``third`` cumulant under the fitted
    model, ``eigenvalues`` of its form, slopes ``beta``, and the share ``own`` of its variance that these leave."""

    score: float
    variance: float
    third: float
    eigenvalues: np.ndarray
    beta: np.ndarray
    own: float

    @property
    def z(self) -> float:
        return self.score / np.sqrt(self.variance)

    @property
    def theta(self) -> float:
        """One scoring step from 0."""
        return 2 * self.score / self.variance

    @property
    def se(self) -> float:
        return 2 / np.sqrt(self.variance)


def dense_score(theta, y, X, Ks: list[np.ndarray], K: np.ndarray, free: np.ndarray) -> DenseScore:
    """r = q - tr(P K) - beta'(q_g - tr(P K_g)) at theta (G + 1,), for the fitted variances that are ``free`` (bool)."""
    at = projection(theta, y, X, Ks)
    parts = [part for part, kept in zip([*Ks, np.eye(len(y))], free, strict=True) if kept]
    PK, PKs = at.P @ K, [at.P @ part for part in parts]
    information = np.array([[np.sum(a * b.T) for a in PKs] for b in PKs])
    beta = np.linalg.solve(information, [np.sum(PK * a.T) for a in PKs])
    form = K - sum((b * part for b, part in zip(beta, parts, strict=True)), np.zeros_like(K))
    PE = at.P @ form
    half = linalg.sqrtm((at.P + at.P.T) / 2).real
    eigenvalues = np.linalg.eigvalsh(half @ form @ half)
    variance, third = 2 * np.sum(eigenvalues**2), 8 * np.sum(eigenvalues**3)
    whole = 2 * np.sum(PK * PK.T)
    score = float(at.Py @ form @ at.Py - np.trace(PE))
    return DenseScore(score, float(variance), float(third), eigenvalues, beta, float(variance / whole))
