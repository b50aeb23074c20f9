"""Arguments of the public functions as arrays that numerics can trust, or a ValueError that names the argument.

Numbers come as arrays, lists, pandas' Series and DataFrames, and sparse matrices where they are small.  Booleans and
integers become float64, and nothing is copied that is float64 already.  Text, complex numbers, objects that are no
numbers, masked entries, NaN and infinities are refused.  Blocks may be those of a device: these are not touched.
"""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy import sparse

Block = Any  # an array (n, k), or one of a device
SKEW = 1e-5  # share of the largest entry by which a matrix may differ from its transpose: float32 sums in two orders
ROWS = 512  # of a matrix compared with its transpose at once


def as_numbers(value: Any, name: str) -> np.ndarray:
    """An array of float64, finite or not."""
    if sparse.issparse(value):
        value = value.toarray()
    if np.ma.is_masked(value):
        raise ValueError(f"{name}: has masked entries; leave these samples out")
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O" and not any(isinstance(entry, str | bytes | complex) for entry in array.flat):
            array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected real numbers, found {type(value).__name__} with others in it") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected real numbers, found {type(value).__name__} of {array.dtype}")
    return array.astype(np.float64, copy=False)


def as_array(value: Any, name: str) -> np.ndarray:
    """A finite array of float64."""
    array = as_numbers(value, name)
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        place = f" at {where if len(where) > 1 else where[0]}" if where else ""
        raise ValueError(f"{name}: value {array[where]}{place} is not finite")
    return array


def as_vector(value: Any, name: str, length: int | None = None) -> np.ndarray:
    """A finite (n,) vector of float64."""
    array = as_array(value, name)
    if array.ndim != 1 or (length is not None and len(array) != length):
        expected = "one dimension" if length is None else f"({length},)"
        raise ValueError(f"{name}: expected {expected}, found {array.shape}")
    return array


def as_labels(value: Any, name: str) -> np.ndarray:
    """A (n,) vector of labels, numbers or text, none of them missing."""
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one label for each sample, found {array.shape}")
    labels = array.tolist()
    missing = np.array([label is None or (isinstance(label, float) and np.isnan(label)) for label in labels], bool)
    if missing.any():
        raise ValueError(f"{name}: label {int(np.argmax(missing))} is missing")
    return array


def as_matrix(value: Any, name: str, rows: int | None = None, columns: int | None = None) -> np.ndarray:
    """A finite (n, k) matrix of float64."""
    array = as_array(value, name)
    expected = tuple("any" if size is None else size for size in (rows, columns))
    fits = array.ndim == 2 and rows in (None, array.shape[0]) and columns in (None, array.shape[1])
    if not fits:
        hint = "; a vector is a matrix of one column, v[:, None]" if array.ndim == 1 else ""
        raise ValueError(f"{name}: expected ({expected[0]}, {expected[1]}), found {array.shape}{hint}")
    return array


def as_variances(value: Any, name: str, length: int) -> np.ndarray:
    """(length,) variances of float64: finite, not negative, the residual last and positive."""
    theta = as_vector(value, name, length)
    if (theta < 0).any() or not theta[-1] > 0:
        raise ValueError(f"{name}: expected variances from 0 up, the residual last and above 0, found {theta}")
    return theta


def as_block(value: Any, name: str, rows: int | None = None) -> Block:
    """A block (n, k): float32 and float64 stay, other numbers become float64, a block of a device stays where it is."""
    if hasattr(value, "column_dots"):
        block = value
    elif isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64) and not np.ma.isMA(value):
        block = np.asarray(value)
        if not np.isfinite(block).all():
            as_array(block, name)
    else:
        block = as_array(value, name)
    if len(block.shape) != 2:
        hint = f", {name}[:, None] for a vector" if len(block.shape) == 1 else ""
        raise ValueError(f"{name}: expected a block (n, k){hint}, found {block.shape}")
    if rows is not None and block.shape[0] != rows:
        raise ValueError(f"{name}: expected {rows} rows, found {block.shape}")
    return block


def as_sparse(value: Any, name: str) -> sparse.csr_array:
    """A finite sparse matrix of float64, from a sparse or a dense one; stored zeros stay."""
    A = as_sparse_numbers(value, name)
    as_array(A.data, name)
    return A


def as_sparse_numbers(value: Any, name: str) -> sparse.csr_array:
    """A sparse matrix of float64, finite or not, from a sparse or a dense one; stored zeros stay."""
    if sparse.issparse(value):
        A = sparse.csr_array(value)
        return sparse.csr_array((as_numbers(A.data, name), A.indices, A.indptr), shape=A.shape)
    dense = as_numbers(value, name)
    if dense.ndim != 2:
        hint = "; a vector is a matrix of one column, v[:, None]" if dense.ndim == 1 else ""
        raise ValueError(f"{name}: expected a matrix, found {dense.shape}{hint}")
    return sparse.csr_array(dense)


def as_index(value: Any, name: str) -> np.ndarray:
    """(k,) whole numbers to take rows by, as int64."""
    array = np.asarray(value)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name}: expected whole numbers in one dimension, found {array.dtype} {array.shape}")
    return array.astype(np.int64, copy=False)


def as_number(value: Any, name: str, *, above: float = -np.inf, below: float = np.inf) -> float:
    """A finite number between two, neither included."""
    if not isinstance(value, Real | np.ndarray) or np.ndim(value) or not above < float(value) < below:
        between = "a finite number" if np.isinf([above, below]).all() else f"a number above {above:g}"
        between += "" if np.isinf(below) else f" and below {below:g}"
        raise ValueError(f"{name}: expected {between}, found {value!r}")
    return float(value)


def as_count(value: Any, name: str, least: int = 1) -> int:
    """A whole number from ``least`` up."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}: expected a whole number from {least} up, found {value!r}")
    return int(value)


def as_tolerance(value: Any, name: str, columns: int | None = None) -> np.ndarray:
    """A relative tolerance, or (k,) of them: above 0, below 1."""
    tol = as_array(value, name)
    if tol.ndim > 1 or (tol.ndim == 1 and columns is not None and tol.shape != (columns,)):
        raise ValueError(f"{name}: expected one number, or one for each of {columns} columns, found {tol.shape}")
    if not ((tol > 0) & (tol < 1)).all():
        raise ValueError(f"{name}: expected a relative tolerance between 0 and 1, found {value!r}")
    return tol


def as_apply(value: Any, name: str, rows: int | None = None) -> Callable[[Block], Block]:
    """A function B (n, k) -> V B as it is; a symmetric matrix, dense or sparse, as one that keeps B's type."""
    if callable(value):
        return value
    if not sparse.issparse(value) and np.ndim(value) != 2:
        raise ValueError(
            f"{name}: expected a function B (n, k) -> V B or a matrix (n, n), found {type(value).__name__}"
        )
    V = as_symmetric(value, name, rows)
    return lambda B: (V @ B).astype(B.dtype, copy=False)


def as_symmetric(value: Any, name: str, rows: int | None = None) -> Any:
    """A symmetric float64 matrix (n, n), sparse where it was; one that is symmetric to rounding becomes (K + K') / 2.

    Cost: one read of the matrix.  ValueError for a triangle, a value that is not finite, a negative diagonal.
    """
    K = sparse.csr_array(value) if sparse.issparse(value) else as_array(value, name)
    if K.ndim != 2 or K.shape[0] != K.shape[1] or rows not in (None, K.shape[0]) or not K.shape[0]:
        size = "n" if rows is None else rows
        raise ValueError(f"{name}: expected a matrix ({size}, {size}), found {K.shape}")
    if sparse.issparse(K):
        K = sparse.csr_array((as_array(K.data, name), K.indices, K.indptr), shape=K.shape)
    largest, skew = max(abs(K.max()), abs(K.min())), largest_skew(K)
    if skew > SKEW * largest:
        raise ValueError(
            f"{name}: is not symmetric: K[i, j] and K[j, i] differ by up to {skew:.3g}; give the whole matrix, "
            "which for a triangle T is T + T' - diag(T)"
        )
    diagonal = K.diagonal()
    if (diagonal < 0).any():
        i = int(np.argmin(diagonal))
        raise ValueError(f"{name}: K[{i}, {i}] = {diagonal[i]:.6g}; a covariance has no negative diagonal")
    return K if skew == 0 else (K + K.T) / 2


def largest_skew(K) -> float:
    """The largest difference of a square matrix and its transpose; a slab of rows at a time where it is dense."""
    if sparse.issparse(K):
        return float(abs(K - K.T).max())
    slabs = range(0, len(K), ROWS)
    return float(max(np.abs(K[first : first + ROWS] - K[:, first : first + ROWS].T).max() for first in slabs))
