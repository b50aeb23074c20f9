"""Small dense helpers: the complement of the fixed effects, and float64 reductions of float32 blocks."""

import numpy as np
from scipy import linalg


def orthonormal_basis(X: np.ndarray) -> np.ndarray:
    """Q (n, c) float64 with the column space of X (n, c).

    The rank is decided on unit-length columns by pivoted QR.  Raises ValueError that gives the index of a dependent
    column, or when X has no fewer columns than rows.
    """
    X = np.asarray(X, np.float64)
    n, c = X.shape
    if c >= n:
        raise ValueError(f"X: expected fewer columns than samples, found {c} columns for {n} samples")
    if not np.isfinite(X).all():
        raise ValueError(f"X: column {int(np.argwhere(~np.isfinite(X))[0, 1])} has a value that is not finite")
    if c == 0:
        return np.zeros((n, 0))
    lengths = np.linalg.norm(X, axis=0)
    if (lengths == 0).any():
        raise ValueError(f"X: column {int(np.argmin(lengths))} is zero; remove it")
    Q, R, pivots = linalg.qr(X / lengths, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(R))
    dependent = diagonal <= max(n, c) * np.finfo(np.float64).eps * diagonal[0]
    if dependent.any():
        raise ValueError(
            f"X: column {int(pivots[np.argmax(dependent)])} is a linear combination of the others; remove it"
        )
    return Q


def project(Q: np.ndarray, B: np.ndarray) -> np.ndarray:
    """(I - Q Q') B in B's type."""
    Q = Q.astype(B.dtype, copy=False)
    return B - Q @ (Q.T @ B)


def column_dots(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """(k,) float64 inner products of matching columns of two (n, k) blocks, summed in float64."""
    total = np.zeros(A.shape[1])
    for first in range(0, len(A), 4096):
        total += np.sum(A[first : first + 4096] * B[first : first + 4096], axis=0, dtype=np.float64)
    return total


def symmetric(A: np.ndarray) -> np.ndarray:
    """(A + A') / 2."""
    return (A + A.T) / 2
