"""Exact dense REML of several traits, each of its own people: the oracle of genetic covariances.

NumPy and SciPy only, float64, one explicit covariance matrix of every (trait, person) pair that was observed:

    V[(a, i), (b, j)] = sum_g S_g[a, b] K_g[i, j] + S_e[a, b] [i = j],

with S_g and S_e symmetric and positive semidefinite.  Each trait has fixed effects of its own, on the people who have
it.  The likelihood is that of the error contrasts, trait by trait.  Time and memory are those of a matrix with a row
for every pair, so this is for a few hundred people.
"""

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize

FLOOR = 1e-6  # smallest eigenvalue of S_e for traits of unit variance


class Observed(NamedTuple):
    """The contrasts of all observed pairs: ``y`` (N,), ``derivatives`` (p, N, N) of V in the ``entries`` (component,
    a, b) of S, a <= b, residual last, which counts as component G; ``num_traits``."""

    y: np.ndarray
    derivatives: np.ndarray
    entries: list[tuple[int, int, int]]
    num_traits: int

    @property
    def num_matrices(self) -> int:
        """G + 1."""
        return self.entries[-1][0] + 1


class DenseCovariances(NamedTuple):
    """The REML optimum: ``S`` (G + 1, t, t) in the traits' units, the residual last; ``score`` and ``ai`` of its
    ``entries`` (component, a, b), a <= b; ``loglik`` of the error contrasts, with -(N/2) log 2 pi."""

    S: np.ndarray
    score: np.ndarray
    ai: np.ndarray
    expected: np.ndarray
    loglik: float
    entries: list[tuple[int, int, int]]

    @property
    def covariance(self) -> np.ndarray:
        """(p, p) inverse average information; rows of what the data say nothing of, residual covariances of traits
        that share nobody, are NaN."""
        known = np.diag(self.ai) > 0
        out = np.full(self.ai.shape, np.nan)
        out[np.ix_(known, known)] = np.linalg.inv(self.ai[np.ix_(known, known)])
        return out

    def se(self, component: int, a: int, b: int) -> float:
        """Standard error of S[component, a, b]."""
        which = self.entries.index((component, min(a, b), max(a, b)))
        return float(np.sqrt(self.covariance[which, which]))

    def correlation(self, component: int, a: int, b: int) -> tuple[float, float]:
        """S_ab / sqrt(S_aa S_bb) and its standard error by the delta method."""
        S = self.S[component]
        r = S[a, b] / np.sqrt(S[a, a] * S[b, b])
        slopes = np.zeros(len(self.entries))
        slopes[self.entries.index((component, a, a))] = -r / (2 * S[a, a])
        slopes[self.entries.index((component, b, b))] = -r / (2 * S[b, b])
        slopes[self.entries.index((component, min(a, b), max(a, b)))] = 1 / np.sqrt(S[a, a] * S[b, b])
        touched = slopes != 0
        covariance = self.covariance[np.ix_(touched, touched)]
        return float(r), float(np.sqrt(slopes[touched] @ covariance @ slopes[touched]))


def observed(Y: np.ndarray, X: np.ndarray, Ks: list[np.ndarray]) -> Observed:
    """Y (n, t) with NaN where a trait was not measured, X (n, c), Ks G matrices (n, n)."""
    n, t = Y.shape
    bases = []
    for y in Y.T:
        people = np.flatnonzero(~np.isnan(y))
        left, sizes, _ = linalg.svd(X[people])
        rank = int((sizes > sizes[0] * len(people) * np.finfo(float).eps).sum())
        A = np.zeros((n, len(people) - rank))
        A[people] = left[:, rank:]
        bases.append(A)
    sizes = np.cumsum([0, *(A.shape[1] for A in bases)])
    entries = [(h, a, b) for h in range(len(Ks) + 1) for a, b in combinations_with_replacement(range(t), 2)]
    derivatives = np.zeros((len(entries), sizes[-1], sizes[-1]))
    for k, (h, a, b) in enumerate(entries):
        K = np.eye(n) if h == len(Ks) else Ks[h]
        block = bases[a].T @ K @ bases[b]
        rows, columns = slice(sizes[a], sizes[a + 1]), slice(sizes[b], sizes[b + 1])
        derivatives[k][rows, columns] = block
        derivatives[k][columns, rows] = block.T
    y = np.concatenate([A.T @ np.nan_to_num(y) for A, y in zip(bases, Y.T, strict=True)])
    return Observed(y, derivatives, entries, t)


def vector_of(S: np.ndarray, entries: list[tuple[int, int, int]]) -> np.ndarray:
    """(p,) the entries of S."""
    return np.array([S[entry] for entry in entries])


def likelihood(data: Observed, S: np.ndarray) -> tuple[float, np.ndarray]:
    """loglik and score (p,) at S (G + 1, t, t), by their definitions."""
    V = np.tensordot(vector_of(S, data.entries), data.derivatives, axes=1)
    P = np.linalg.inv(V)
    Py = P @ data.y
    traces = data.derivatives.reshape(len(data.entries), -1) @ P.ravel()
    loglik = -0.5 * (np.linalg.slogdet(V)[1] + data.y @ Py + len(data.y) * np.log(2 * np.pi))
    return float(loglik), 0.5 * (data.derivatives @ Py @ Py - traces)


def informations(data: Observed, S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average and expected information (p, p) at S, by their definitions."""
    P = np.linalg.inv(np.tensordot(vector_of(S, data.entries), data.derivatives, axes=1))
    images = data.derivatives @ (P @ data.y)
    products = P @ data.derivatives
    return 0.5 * images @ P @ images.T, 0.5 * np.einsum("aij,bji->ab", products, products)


def dense_covariances(
    Y: np.ndarray,
    X: np.ndarray,
    Ks: list[np.ndarray],
    uncorrelated: tuple[int, ...] = (),
    rank_one: tuple[int, ...] = (),
    starts: int = 3,
) -> DenseCovariances:
    """REML of the matrices S_g and S_e of traits Y (n, t), NaN where not measured.

    S_g = L L' and S_e = L L' + floor, so every point is positive semidefinite, and bounds are where L loses rank.
    ``uncorrelated``: components in which the first two traits are; ``rank_one``: in which their correlation is 1 or -1.
    The best of several ``starts`` of BFGS with the analytic score.
    """
    scales = np.sqrt(np.nanvar(Y - np.nanmean(Y, axis=0), axis=0))
    data = observed(Y / scales, X, Ks)
    t, H = data.num_traits, len(Ks) + 1
    free = np.tril(np.ones((H, t, t), bool))
    free[list(uncorrelated), 1, 0] = False
    free[list(rank_one), 1, 1] = False
    if t == 2 and not data.derivatives[-2].any():  # the residual covariance of traits that share nobody
        free[-1, 1, 0] = False
    floor = np.zeros((H, t, t))
    floor[-1] = FLOOR * np.eye(t)

    def matrices(u):
        L = np.zeros((H, t, t))
        L[free] = u
        return L, L @ L.transpose(0, 2, 1) + floor

    def negative(u):
        L, S = matrices(u)
        loglik, score = likelihood(data, S)
        gradient = np.zeros((H, t, t))
        for value, (h, a, b) in zip(score, data.entries, strict=True):
            gradient[h, a, b] += value
            gradient[h, b, a] += value  # the diagonal twice, as d(LL') is dL L' + L dL'
        return -loglik, -(gradient @ L)[free]

    best, rng = None, np.random.default_rng(0)
    for start in range(starts):
        first = np.broadcast_to(np.eye(t) * np.sqrt(0.5 / H), (H, t, t)) + 0.1 * start * rng.standard_normal((H, t, t))
        for component in rank_one:
            sign = 1 if start % 2 == 0 else -1
            first[component, :, 0] = 0.5 * np.sign(first[component, 0, 0]) * np.where(np.arange(t) == 0, 1, sign)
        found = optimize.minimize(negative, first[free], jac=True, method="BFGS", options={"gtol": 1e-8})
        best = found if best is None or found.fun < best.fun else best
    S = matrices(best.x)[1]
    (loglik, score), (ai, expected) = likelihood(data, S), informations(data, S)
    units = np.array([scales[a] * scales[b] for _, a, b in data.entries])
    logs = sum(np.log(scale) * np.sum(~np.isnan(y)) for scale, y in zip(scales, Y.T, strict=True))
    logs -= sum(np.log(scale) * rank for scale, rank in zip(scales, ranks(Y, X), strict=True))
    squares = np.outer(units, units)
    S = S * np.outer(scales, scales)
    return DenseCovariances(S, score / units, ai / squares, expected / squares, loglik - float(logs), data.entries)


def ranks(Y: np.ndarray, X: np.ndarray) -> list[int]:
    """Rank of the fixed effects on the people of every trait."""
    return [int(np.linalg.matrix_rank(X[~np.isnan(y)])) for y in Y.T]
