"""Components Z K Z' of levels that samples belong to: households, herds, animals of a pedigree, people with records.

Z (n, q) says which levels a sample has, and how much of each.  With K = I it makes grouping effects; with genotypes of
q people and a row for each record, repeated records; with A, the animals of a pedigree, of which some have no record;
with values of an environment or of age in place of ones, random regression.
Source: Henderson 1984, Applications of Linear Models in Animal Breeding, ch. 2 and 5.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from scipy import sparse

from gpu_reml.ops.arguments import as_array, as_count, as_labels, as_numbers, as_sparse_numbers, as_vector

from ..linalg import Block
from ..matrices import matrices_of
from .conversion import as_covariance
from .functions import FunctionCovariance, SymmetricMatrix, of_symmetric
from .placement import PlacedCovariance
from .wrapped import genetic

ROWS = 128  # of Z, of which diagonals are made at once


class IncidenceCovariance(PlacedCovariance):
    """The components Z K_g Z' (n, n) of a covariance of q levels: its products with Z'B, taken back by Z.

    Z (n, q), dense or sparse.  names: by default the covariance's.  ``levels`` (q,): what the levels are called, for
    the values of those without a sample (:mod:`gpu_reml.reml.studies.values`).
    Products cost what they cost there, and two products with Z.  The traces take its diagonals once where each sample
    has one level or K is a sparse matrix; else features of n columns, half a pass.
    ValueError where Z does not fit or has a value that is not finite, or is zero throughout.
    """

    def __init__(self, covariance: Any, Z: Any, names: Sequence[str] | None = None, levels: Any = None):
        covariance = genetic(as_covariance(covariance))
        Z = sparse.csr_array(as_sparse_numbers(Z, "Z"))
        if Z.shape[1] != covariance.num_samples or not Z.shape[0]:
            raise ValueError(f"Z: expected a column for each of {covariance.num_samples} levels, found {Z.shape}")
        as_array(Z.data, "Z")
        if not Z.data.any():
            raise ValueError("Z: expected values that are not zero; no sample has a level")
        super().__init__(covariance, Z.shape[0])
        self.Z = Z
        self._transposed = sparse.csr_array(Z.T)
        self.names = self.names if names is None else tuple(names)
        if len(self.names) != covariance.num_components:
            raise ValueError(f"names: expected {covariance.num_components}, found {len(self.names)}")
        self.levels = None if levels is None else np.asarray(levels)
        if self.levels is not None and self.levels.shape != (covariance.num_samples,):
            raise ValueError(f"levels: expected ({covariance.num_samples},), found {self.levels.shape}")
        self._diagonals: np.ndarray | None = None

    def diagonals(self) -> np.ndarray:
        """(n, G) the diagonal of every component; kept once it is made."""
        if self._diagonals is None:
            self._diagonals = self._made_diagonals()
        return self._diagonals

    def _made_diagonals(self) -> np.ndarray:
        Z = self.Z
        if (np.diff(Z.indptr) <= 1).all():
            out = np.zeros((self.num_samples, self.num_components))
            rows = np.flatnonzero(np.diff(Z.indptr))
            out[rows] = self.base.diagonals()[Z.indices] * Z.data[:, None] ** 2
            return out
        known = self._sparse_matrices()
        if known is not None:
            return np.column_stack([np.asarray((Z @ K).multiply(Z).sum(axis=1)).ravel() for K in known])
        return np.concatenate([self._of_rows(Z[first : first + ROWS]) for first in range(0, self.num_samples, ROWS)])

    def _sparse_matrices(self) -> list[sparse.sparray] | None:
        """The K_g where they are sparse matrices."""
        if not isinstance(self.base, FunctionCovariance):
            return None
        known = [apply_k.K for apply_k in self.base.apply_ks if isinstance(apply_k, SymmetricMatrix)]
        return known if len(known) == self.num_components and all(map(sparse.issparse, known)) else None

    def _of_rows(self, rows: sparse.csr_array) -> np.ndarray:
        F = self.base.features(self.base.block(rows.T.toarray()))
        return self.base.inner(F, F).T

    def matrices(self):
        """Every Z K_g Z'; None, for products, where there are more levels than samples."""
        if self.base.num_samples > self.num_samples:
            return None
        return (self.Z @ (self.Z @ _symmetric_of_upper(K)).T for K in matrices_of(self.base))

    def among_others(self, B):
        return np.asarray(self._transposed @ np.asarray(B, np.float64), self.dtype)

    def _taken(self, image: Block) -> np.ndarray:
        return np.asarray(self.Z @ np.asarray(image), self.dtype)


def _symmetric_of_upper(K: np.ndarray) -> np.ndarray:
    upper = np.triu(K)
    return upper + np.triu(K, 1).T


def incidence(rows: Any, num_levels: int | None = None) -> sparse.csr_array:
    """Z (n, q) of samples that have one level each: its rows (n,), -1 for none; q is by default the largest plus one.

    >>> from gpu_reml.reml import incidence
    >>> incidence([1, 0, 1, -1]).toarray().tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    rows = as_vector(rows, "rows")
    if (rows != np.round(rows)).any() or rows.min(initial=0) < -1:
        raise ValueError("rows: expected whole numbers, -1 for a sample without a level")
    rows = rows.astype(np.int64)
    q = int(rows.max(initial=-1)) + 1 if num_levels is None else as_count(num_levels, "num_levels")
    if rows.max(initial=-1) >= q:
        raise ValueError(f"rows: expected numbers below {q}, found {rows.max()}")
    indptr = np.concatenate([[0], np.cumsum(rows >= 0)])
    return sparse.csr_array((np.ones(indptr[-1]), rows[rows >= 0], indptr), shape=(len(rows), q))


def grouping(labels: Any, name: str = "group") -> IncidenceCovariance:
    """The component Z Z' of samples with the same label (n,), or in the same levels of Z (n, q), dense or sparse.

    A household, litter, plate, herd-year or, for repeated records of people, their permanent environment.

    >>> import numpy as np
    >>> from gpu_reml.reml import grouping
    >>> found = grouping(["a", "b", "a"], "litter")
    >>> found.levels.tolist(), found.apply([1.0], np.eye(3)).tolist()
    (['a', 'b'], [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    """
    if sparse.issparse(labels) or np.ndim(labels) == 2:
        Z, levels = sparse.csr_array(as_sparse_numbers(labels, "labels")), None
    else:
        levels, codes = np.unique(as_labels(labels, "labels"), return_inverse=True)
        Z = incidence(codes, len(levels))
    return IncidenceCovariance(of_symmetric([sparse.eye_array(Z.shape[1], format="csr")], [name]), Z, None, levels)


def records(covariance: Any, rows: Any, levels: Any = None) -> IncidenceCovariance:
    """The components of q people for records (n,) of them: ``rows`` says whose each is; some may have none.

    Genotypes are read once for every person, however many records there are.

    >>> import numpy as np
    >>> from gpu_reml.reml import records
    >>> records(np.array([[1.0, 0.5], [0.5, 1.0]]), [0, 0, 1]).apply([2.0], np.eye(3)).tolist()
    [[2.0, 2.0, 1.0], [2.0, 2.0, 1.0], [1.0, 1.0, 2.0]]
    """
    covariance = as_covariance(covariance)
    return IncidenceCovariance(covariance, incidence(rows, covariance.num_samples), None, levels)


def random_regression(covariance: Any, values: Any, names: Sequence[str], rows: Any = None) -> list:
    """Random regression: for every column x of values (n, r) the components R K R', R = diag(x) Z.

    A person's effect is a_0 x_0 + a_1 x_1 + ..., each a_k with a variance of its own: with an intercept and an
    environment this is gene by environment, with :func:`legendre_basis` of age a curve.  covariance: of the samples, or
    of people of whom ``rows`` (n,) says whose each record is.  names (r,) go before the covariance's names.
    For coefficients that correlate give the columns x_0 + x_1 and x_0 - x_1 too: the covariance is the variance of the
    first less that of the second, and both add to the variances of a_0 and a_1.
    Cost: a pass for every column.

    >>> import numpy as np
    >>> from gpu_reml.reml import random_regression
    >>> slope, = random_regression(np.eye(2), np.array([[1.0], [3.0]]), ["age"])
    >>> slope.names, slope.diagonals().ravel().tolist()
    (('age_x_component_000',), [1.0, 9.0])
    """
    covariance = genetic(as_covariance(covariance))
    values = as_numbers(values, "values")
    n = covariance.num_samples if rows is None else len(as_vector(rows, "rows"))
    if values.ndim != 2 or values.shape != (n, len(names)):
        raise ValueError(f"values: expected ({n}, {len(names)}), a column for each name, found {values.shape}")
    Z = incidence(np.arange(n) if rows is None else rows, covariance.num_samples)
    return [
        IncidenceCovariance(
            covariance, sparse.diags_array(column) @ Z, [f"{name}_x_{each}" for each in covariance.names]
        )
        for name, column in zip(names, values.T, strict=True)
    ]


def legendre_basis(age: Any, degree: int) -> np.ndarray:
    """(n, degree + 1) Legendre polynomials of age (n,), which is brought to [-1, 1], normalised to an integral of 1.

    Source: Kirkpatrick, Lofsvold & Bulmer 1990, Genetics 124:979.

    >>> from gpu_reml.reml import legendre_basis
    >>> legendre_basis([2, 4, 6], 1).round(3).tolist()
    [[0.707, -1.225], [0.707, 0.0], [0.707, 1.225]]
    """
    age = as_vector(age, "age")
    degree = as_count(degree, "degree", 0)
    width = np.ptp(age)
    if not width > 0:
        raise ValueError("age: is the same for all samples; leave it out")
    scaled = 2 * (age - age.min()) / width - 1
    return legendre.legvander(scaled, degree) * np.sqrt((2 * np.arange(degree + 1) + 1) / 2)
