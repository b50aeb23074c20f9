"""Small dense helpers: the complement of the fixed effects, and float64 reductions of blocks.

A *block* (n, k) is a NumPy array, or an array of a backend that stays where the backend computes.  It answers NumPy's
operators: + - * / with blocks and with rows (k,), block @ small matrix, block.T @ block (a small NumPy matrix), columns
by slice, mask or indices, and ``np.asarray``.  Only the functions here ask which of the two it is.
"""

from typing import Any

import numpy as np
from scipy import linalg

from gpu_reml.ops.arguments import as_numbers

Block = Any  # as the module's docstring describes it
# What the fixed effects leave of a vector is rounding where its squared length is below this share of the vector's, by
# bytes of the products' type: a hundred times the rounding of products.
COLLINEAR = {4: 1e-5, 8: 1e-10}


def orthonormal_basis(X: np.ndarray) -> np.ndarray:
    """Q (n, c) float64 with the column space of X (n, c).

    The rank is decided on unit-length columns by pivoted QR.  Raises ValueError that gives the index of a dependent
    column, or when X has no fewer columns than rows.
    """
    X = as_numbers(X, "X")
    if X.ndim != 2:
        raise ValueError(f"X: expected (n, c), found {X.shape}")
    n, c = X.shape
    if c >= n:
        raise ValueError(f"X: expected fewer columns than samples, found {c} columns for {n} samples")
    if not np.isfinite(X).all():
        raise ValueError(f"X: column {int(np.argwhere(~np.isfinite(X))[0, 1])} has a value that is not finite")
    if c == 0:
        return np.zeros((n, 0))
    lengths = column_lengths(X)
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


def powers_of_two(sizes: np.ndarray) -> np.ndarray:
    """The power of two at or below each positive size, by which numbers scale without rounding; 1 for 0."""
    return np.where(sizes > 0, np.ldexp(1.0, np.frexp(sizes)[1] - 1), 1.0)


def column_lengths(B: np.ndarray) -> np.ndarray:
    """(k,) Euclidean lengths of columns of numbers of any size, whose squares may overflow or vanish."""
    units = powers_of_two(np.abs(B).max(axis=0, initial=0.0))
    return units * np.linalg.norm(B / units, axis=0)


def coordinates(X: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """T (c, p) for which X T is nearest to Q (n, p) in least squares, or (c,) for a vector; X (n, c), columns of any
    size."""
    lengths = column_lengths(X)
    lengths[lengths == 0] = 1.0
    found = np.linalg.lstsq(X / lengths, Q, rcond=None)[0]
    return (found.T / lengths).T


def logdet_gram(X: np.ndarray) -> float:
    """log|X'X| for X (n, c) of full rank; columns of any size."""
    lengths = column_lengths(X)
    unit = X / lengths
    return float(2 * np.log(lengths).sum() + np.linalg.slogdet(unit.T @ unit)[1])


def project(Q: Block, B: Block) -> Block:
    """(I - Q Q') B in B's type."""
    if isinstance(Q, np.ndarray):
        Q = Q.astype(B.dtype, copy=False)
    return B - Q @ (Q.T @ B)


def column_dots(A: Block, B: Block) -> np.ndarray:
    """(k,) float64 inner products of matching columns of two (n, k) blocks, in float64 throughout."""
    if not isinstance(A, np.ndarray):
        return A.column_dots(B)
    total = np.zeros(A.shape[1])
    for first in range(0, len(A), 4096):
        rows = slice(first, first + 4096)
        total += np.multiply(A[rows], B[rows], dtype=np.float64).sum(axis=0)
    return total


def gram(A: Block, B: Block) -> np.ndarray:
    """(p, q) float64 A'B of blocks (n, p) and (n, q), summed in float64."""
    if not isinstance(A, np.ndarray):
        return A.T @ B
    return A.T.astype(np.float64) @ B


def times(B: Block, C: np.ndarray) -> Block:
    """B C in B's type, for a block, or features of one, B and a small matrix C."""
    return B @ C.astype(B.dtype, copy=False) if isinstance(B, np.ndarray) else B @ C


def columns(*blocks: Block) -> Block:
    """Blocks, or features of blocks, side by side."""
    if not isinstance(blocks[0], np.ndarray):
        return type(blocks[0]).side_by_side(blocks)
    return np.concatenate(blocks, axis=-1)


def take_columns(B: Block, which) -> Block:
    """Some columns of a block, in memory of their own."""
    return np.ascontiguousarray(B[:, which]) if isinstance(B, np.ndarray) else B[:, which]


def column_batches(num_columns: int, at_once: int | None) -> list[slice]:
    """Slices of at most ``at_once`` columns that cover all; None is one slice of all."""
    step = max(1, num_columns if at_once is None else at_once)
    return [slice(first, min(first + step, num_columns)) for first in range(0, max(1, num_columns), step)]


def scale_rows(B: Block, column: Block) -> Block:
    """diag(s) B for a column s (n, 1) that is where B is, in B's type."""
    return B * column.astype(B.dtype, copy=False) if isinstance(B, np.ndarray) else B.scale_rows(column)


def of_shape(image: Any, B: Block, name: str) -> Block:
    """What a caller's function made of B, or a ValueError where that is no block of B's shape; its values are not
    read."""
    shape = getattr(image, "shape", None)
    if shape is None or tuple(shape) != tuple(B.shape):
        found = type(image).__name__ if shape is None else tuple(shape)
        raise ValueError(f"{name}: returns {found} for a block {tuple(B.shape)}; return one of the same shape")
    if isinstance(image, np.ndarray) and (type(image) is not np.ndarray or image.dtype.kind not in "biuf"):
        raise ValueError(f"{name}: returns {type(image).__name__} of {image.dtype}, expected real numbers in an array")
    return image


def zeros_like(B: Block) -> Block:
    """A block of zeros of B's shape, where B is."""
    return np.zeros_like(B) if isinstance(B, np.ndarray) else B.zeros_like()


def range_basis(image: Block) -> Block:
    """Orthonormal basis of the columns of an image (n, r), without those that are zero to rounding."""
    if not isinstance(image, np.ndarray):
        return _basis_by_gram(_basis_by_gram(image))
    basis, R, _ = linalg.qr(image, mode="economic", pivoting=True, overwrite_a=True, check_finite=False)
    scale = np.abs(np.diag(R))
    return basis[:, scale > scale.max(initial=0) * len(image) * np.finfo(image.dtype).eps]


def _basis_by_gram(image: Block) -> Block:
    """A basis of the image by eigenvectors of its float64 Gram matrix; orthonormal to rounding after two rounds.

    The Gram matrix of float32 columns is exact to float64 rounding, so columns 1e-7 of the largest still count.
    Source: Stathopoulos & Wu 2002, SIAM J. Sci. Comput. 23:2165 (SVQB).
    """
    G = symmetric(gram(image, image))
    lengths = np.sqrt(np.diag(G))
    lengths[lengths == 0] = 1.0
    values, vectors = np.linalg.eigh(G / np.outer(lengths, lengths))
    kept = values > values.max(initial=0) * len(G) * np.finfo(image.dtype).eps ** 2
    return image @ (vectors[:, kept] / np.sqrt(values[kept]) / lengths[:, None])


def symmetric(A: np.ndarray) -> np.ndarray:
    """(A + A') / 2."""
    return (A + A.T) / 2
