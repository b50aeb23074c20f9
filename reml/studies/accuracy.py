"""How well predictions agree with phenotypes that had no part in the fit."""

from typing import NamedTuple

import numpy as np
from scipy import special

from gpu_reml.ops.arguments import as_matrix, as_number, as_vector

from ..linalg import coordinates, powers_of_two

# Values are equal where they spread by less than this share of the largest.
ROUNDING = 1e-12


class Accuracy(NamedTuple):
    """Agreement of ``n`` predictions with phenotypes.

    ``r2``: 1 - sum (y - y_pred)^2 / sum (y - mean)^2, of the predictions as they are; negative when the mean is better.
    ``correlation`` of y and y_pred with its interval (Fisher 1921, z = artanh r, SE 1 / sqrt(n - 3)).
    ``r2_covariates``, ``r2_incremental``: share of y's variance that the covariates explain, regressed anew on these
    samples, and what the genetic value adds to it.  ``slope`` of y - fixed effects on the genetic value: 1 where there
    is no bias, below 1 where genetic values are spread too widely.
    """

    n: int
    r2: float
    correlation: float
    lower: float
    upper: float
    level: float
    r2_covariates: float
    r2_incremental: float
    slope: float


def accuracy(y: np.ndarray, fixed: np.ndarray, random: np.ndarray, X: np.ndarray, level: float = 0.95) -> Accuracy:
    """Accuracy of y_pred = fixed + random (n,) for y (n,), whose covariates are X (n, c), intercept among them.

    A number is NaN where the samples do not determine it: with fewer than 2 of them (4 for the interval, c + 2 for the
    regressions), or without variance.

    >>> import numpy as np
    >>> from gpu_reml.reml import accuracy
    >>> y = np.array([1.0, 2.0, 3.0, 4.0, 5.5])
    >>> found = accuracy(y, np.full(5, 3.0), y - 3.1, np.ones((5, 1)))
    >>> round(found.correlation, 6), round(found.r2, 4)
    (1.0, 0.9959)
    """
    y = as_vector(y, "y")
    fixed, random = as_vector(fixed, "fixed", len(y)), as_vector(random, "random", len(y))
    X = as_matrix(X, "X", len(y))
    as_number(level, "level", above=0, below=1)
    unit = powers_of_two(max(np.abs(values).max(initial=0.0) for values in (y, fixed, random)))
    y, fixed, random = y / unit, fixed / unit, random / unit  # so that no square overflows or vanishes
    n, nan = len(y), float("nan")
    total = float((_centred(y) ** 2).sum()) if n else 0.0
    if n < 2 or not total > 0:
        return Accuracy(n, *[nan] * 4, level, *[nan] * 3)
    predicted = fixed + random
    r = _correlation(y, predicted)
    lower = upper = nan
    if n > 3 and abs(r) < 1:
        half = special.ndtri((1 + level) / 2) / np.sqrt(n - 3)
        lower, upper = (float(np.tanh(np.arctanh(r) + step)) for step in (-half, half))
    alone = _explained(y, X, total) if n > X.shape[1] + 1 else nan
    both = _explained(y, np.column_stack([X, random]), total) if n > X.shape[1] + 1 else nan
    return Accuracy(
        n,
        1 - float(((y - predicted) ** 2).sum()) / total,
        r,
        lower,
        upper,
        level,
        alone,
        both - alone,
        _slope(random, y - fixed),
    )


def _centred(a: np.ndarray) -> np.ndarray:
    """a less its mean; exactly zero where all are equal to rounding."""
    centred = a - a.mean()
    return centred if np.abs(centred).max() > ROUNDING * np.abs(a).max() else np.zeros_like(a)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = _centred(a), _centred(b)
    lengths = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / lengths) if lengths > 0 else float("nan")


def _explained(y: np.ndarray, X: np.ndarray, total: float) -> float:
    """R2 of the least-squares fit of y on X; dependent columns of X do no harm."""
    left = y - X @ coordinates(X, y)
    return 1 - float(left @ left) / total


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    centred = _centred(x)
    length = float(centred @ centred)
    return float(centred @ y) / length if length > 0 else float("nan")
