"""Components as dense matrices, for methods that factorise them."""

from collections.abc import Iterator

import numpy as np

from gpu_reml.ops.arguments import largest_skew

from .contract import NOT_FINITE, NOT_SYMMETRIC, SKEW, refuse
from .linalg import symmetric

# Matrices are formed by products of so many columns: enough for BLAS to be fast, and m x 128 numbers of memory.
COLUMNS = 128


def matrices_of(covariance) -> Iterator[np.ndarray]:
    """Every K_g (n, n) float64, one after another; the upper triangle is what counts.

    The caller may overwrite an array until it asks for the next one.

    A covariance that can make its matrices has ``matrices()``; half a pass of n columns.  Where that is None they are
    products with the identity: a pass of n columns for each.  ValueError where these are not finite or
    not symmetric.  Memory: a matrix, and what one is made from.
    """
    made = covariance.matrices()
    return products_with_identity(covariance) if made is None else made


def products_with_identity(covariance) -> Iterator[np.ndarray]:
    n, G = covariance.num_samples, covariance.num_components
    K = np.empty((n, n))
    for theta, name, trace in zip(np.eye(G), covariance.names, covariance.traces, strict=True):
        for first in range(0, n, COLUMNS):
            last = min(first + COLUMNS, n)
            block = covariance.block(np.eye(n, last - first, -first))
            K[first:last] = np.asarray(covariance.apply(theta, block), np.float64).T
        yield checked_matrix(K, name, trace / n)


def checked_matrix(K: np.ndarray, name: str, mean_trace: float) -> np.ndarray:
    """(K + K') / 2, or a ValueError where that is not finite, or asymmetric by more than rounding."""
    if not np.isfinite(K).all():
        refuse(name, NOT_FINITE)
    largest, skew = np.abs(K).max(), largest_skew(K)
    if skew > SKEW * max(largest, mean_trace):
        refuse(name, NOT_SYMMETRIC.format(skew=skew / largest))
    return symmetric(K)
