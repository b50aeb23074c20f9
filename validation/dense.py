"""Exact dense REML in float64: the oracle that every other estimate is compared with.

Numpy and scipy only; nothing here is shared with the packed products or the matrix-free estimators, so an error in
those cannot hide in both.  Memory is G n^2 floats and time a few n^3: for n up to a few thousand.

V = sum_g theta_g K_g + theta_e I, the residual last in theta.  Variances are in y's units squared.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg

MISSING = -127


def standardised(counts: np.ndarray) -> np.ndarray:
    """(n, m) float64: allele counts (``MISSING`` = not called) minus their mean, over their SD (ddof 0).

    A missing genotype is 0.  A variant that does not vary among its calls, or has none, is a column of zeros.
    """
    counts = np.asarray(counts)
    called = counts != MISSING
    x = np.where(called, counts, 0).astype(np.float64)
    num_called = np.maximum(called.sum(axis=0), 1)
    centred = np.where(called, x - x.sum(axis=0) / num_called, 0.0)
    lowest = np.where(called, x, np.inf).min(axis=0, initial=np.inf)
    highest = np.where(called, x, -np.inf).max(axis=0, initial=-np.inf)
    varies = highest > lowest
    sd = np.sqrt((centred**2).sum(axis=0) / num_called)
    return np.where(varies, centred, 0.0) / np.where(varies, sd, 1.0)


def kernel(Z: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(n, n) K = Z diag(w) Z' / c with c the sum of the weights of the variants that vary; None is weight 1.

    With one weight for all this is the GRM of VanRaden 2008, J. Dairy Sci. 91:4414, on standardised genotypes.
    """
    w = np.ones(Z.shape[1]) if weights is None else np.asarray(weights, np.float64)
    w = np.where(Z.any(axis=0), w, 0.0)
    if w.min(initial=0) < 0 or not 0 < w.sum() < np.inf:
        raise ValueError("weights: expected finite, not negative, and not all on variants that do not vary")
    half = Z * np.sqrt(w / w.sum())
    return half @ half.T


class Projection(NamedTuple):
    """What the formulas need at one theta: ``P`` (n, n), ``Py`` (n,), log|A'VA| and the generalised least squares fit.

    P = V^-1 - V^-1 X (X'V^-1 X)^-1 X'V^-1.
    """

    P: np.ndarray
    Py: np.ndarray
    logdet: float
    fixed_effects: np.ndarray
    fixed_effects_cov: np.ndarray


def covariance_matrix(theta: np.ndarray, Ks: list[np.ndarray]) -> np.ndarray:
    """(n, n) V = sum_g theta_g K_g + theta_e I."""
    theta = np.asarray(theta, np.float64)
    if len(theta) != len(Ks) + 1:
        raise ValueError(f"theta: expected {len(Ks)} genetic variances and the residual one, found {len(theta)} values")
    V = theta[-1] * np.eye(len(Ks[0]))
    for variance, K in zip(theta[:-1], Ks, strict=True):
        V += variance * K
    return V


def projection(theta: np.ndarray, y: np.ndarray, X: np.ndarray, Ks: list[np.ndarray]) -> Projection:
    """P, Py, log|A'VA| = log|V| + log|X'V^-1 X| - log|X'X|, and the fixed effects with their covariance."""
    factor = linalg.cho_factor(covariance_matrix(theta, Ks), lower=True)
    Q, R = linalg.qr(X, mode="economic")
    vinv = linalg.cho_solve(factor, np.eye(len(y)))
    vinv = (vinv + vinv.T) / 2
    vinv_q = vinv @ Q
    information = linalg.cho_factor(Q.T @ vinv_q, lower=True)
    P = vinv - vinv_q @ linalg.cho_solve(information, vinv_q.T)
    # X = QR: log|X'V^-1 X| - log|X'X| = log|Q'V^-1 Q|, whatever the scale of X.
    logdet = 2 * (np.log(np.diag(factor[0])).sum() + np.log(np.diag(information[0])).sum())
    unscaled = linalg.cho_solve(information, vinv_q.T @ y)
    R_inverse = linalg.solve_triangular(R, np.eye(len(R)))
    covariance = R_inverse @ linalg.cho_solve(information, R_inverse.T)
    return Projection(P, P @ y, float(logdet), R_inverse @ unscaled, covariance)


def images(vectors: np.ndarray, Ks: list[np.ndarray]) -> np.ndarray:
    """(n, G + 1): K_g v for every component, and v for the residual."""
    return np.column_stack([K @ vectors for K in Ks] + [vectors])


def dense_loglik(theta: np.ndarray, y: np.ndarray, X: np.ndarray, Ks: list[np.ndarray]) -> float:
    """ell_R = -1/2 [log|A'VA| + y'Py] - (n-c)/2 log 2 pi, A an orthonormal basis of the complement of X.

    Source: Patterson & Thompson 1971, Biometrika 58:545; Harville 1974, Biometrika 61:383.
    """
    at = projection(theta, y, X, Ks)
    n, c = X.shape
    return float(-0.5 * (at.logdet + y @ at.Py) - 0.5 * (n - c) * np.log(2 * np.pi))


def dense_score(theta: np.ndarray, y: np.ndarray, X: np.ndarray, Ks: list[np.ndarray]) -> np.ndarray:
    """(G + 1,) d ell_R / d theta_g = 1/2 [y'P K_g P y - tr(P K_g)]."""
    at = projection(theta, y, X, Ks)
    traces = [np.sum(at.P * K) for K in Ks] + [np.trace(at.P)]
    return 0.5 * (at.Py @ images(at.Py, Ks) - np.array(traces))


def dense_average_information(theta: np.ndarray, y: np.ndarray, X: np.ndarray, Ks: list[np.ndarray]) -> np.ndarray:
    """(G + 1, G + 1) AI_gh = 1/2 y'P K_g P K_h P y (Gilmour, Thompson & Cullis 1995, Biometrics 51:1440)."""
    at = projection(theta, y, X, Ks)
    F = images(at.Py, Ks)
    ai = 0.5 * F.T @ at.P @ F
    return (ai + ai.T) / 2


def dense_expected_information(theta: np.ndarray, y: np.ndarray, X: np.ndarray, Ks: list[np.ndarray]) -> np.ndarray:
    """(G + 1, G + 1) Fisher's information 1/2 tr(P K_g P K_h)."""
    P = projection(theta, y, X, Ks).P
    products = [P @ K for K in Ks] + [P]
    return np.array([[0.5 * np.sum(a * b.T) for b in products] for a in products])
