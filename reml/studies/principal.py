"""Principal components of relationships: the leading eigenvectors of K, from a few passes over the genotypes.

A block Krylov space of K from random columns holds the leading eigenvectors to high accuracy in fewer products than
subspace iteration (Musco & Musco 2015, NeurIPS 28; Halko, Martinsson & Tropp 2011, SIAM Review 53:217).
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import linalg

from gpu_reml.ops.arguments import as_count, as_number

from ..covariance import as_covariance, genetic

# Columns beside those asked for, and blocks of the space at most.
OVERSAMPLED, MOST_BLOCKS = 10, 30


class PrincipalComponents(NamedTuple):
    """``values`` (k,) eigenvalues of K, largest first, and its eigenvectors ``vectors`` (n, k) of length 1, each with
    its largest entry positive; ``residuals`` (k,) |K v - value v| / value; ``column_passes``; whether all met the
    tolerance."""

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    column_passes: int
    converged: bool


def principal_components(covariance: Any, k: int, *, seed: int = 0, tol: float = 1e-4) -> PrincipalComponents:
    """The k leading eigenvectors of K, one component of genotypes or any other.

    tol: relative residual of each.  A gap between eigenvalues makes them precise to about its square over the gap;
    eigenvectors of equal eigenvalues are any of their space.
    Cost: k + 10 column-passes for each block of the space, of which some five to twenty are needed.
    ValueError for several components, or more than n - 1 eigenvectors.

    >>> import numpy as np
    >>> from gpu_reml.reml import principal_components
    >>> found = principal_components(np.diag([1.0, 5.0, 2.0, 1.0]), 2)
    >>> found.values.round(6).tolist(), np.abs(found.vectors).round(6).T.tolist()
    ([5.0, 2.0], [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    """
    covariance = genetic(as_covariance(covariance))
    if covariance.num_components != 1:
        raise ValueError(
            f"covariance: expected one component, found {covariance.num_components}; take one of all variants"
        )
    n, k, tol = covariance.num_samples, as_count(k, "k"), as_number(tol, "tol", above=0)
    if k > n - 1:
        raise ValueError(f"k: expected at most {n - 1} components of {n} samples, found {k}")
    width = min(k + OVERSAMPLED, n)
    block = np.random.default_rng(seed).standard_normal((n, width))
    U, KU = np.empty((n, 0)), np.empty((n, 0))
    for _ in range(MOST_BLOCKS):
        new = _beside(U, block)
        if new.shape[1]:
            image = np.asarray(covariance.apply(np.ones(1), covariance.block(new)), np.float64)
            U, KU = np.hstack([U, new]), np.hstack([KU, image])
            block = image
        T = U.T @ KU
        values, small = linalg.eigh((T + T.T) / 2)
        values, small = values[::-1][:k], small[:, ::-1][:, :k]
        vectors = U @ small
        residuals = np.linalg.norm(KU @ small - vectors * values, axis=0) / np.maximum(values, np.finfo(float).tiny)
        done = bool((residuals <= tol).all())
        if done or not new.shape[1] or U.shape[1] >= n:
            break
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(k)])
    return PrincipalComponents(values, vectors, residuals, U.shape[1], done or U.shape[1] >= n)


def _beside(U: np.ndarray, block: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what a block has beside the orthonormal U; nothing where that is rounding."""
    left = block / np.maximum(np.linalg.norm(block, axis=0), np.finfo(float).tiny)
    for _ in range(2):
        left = left - U @ (U.T @ left)
    Q, R, _ = linalg.qr(left, mode="economic", pivoting=True)
    kept = np.abs(np.diag(R)) > 1e-10
    Q = Q[:, kept][:, : max(0, len(U) - U.shape[1])]
    Q = Q - U @ (U.T @ Q)
    return linalg.qr(Q, mode="economic")[0] if Q.shape[1] else Q
