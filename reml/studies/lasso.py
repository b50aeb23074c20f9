"""L1-penalised least squares from cross-products: coordinate descent, its path, and the choice along it by EBIC.

Minimise f(b) = 1/2 (y - Zb)'P(y - Zb) + lambda |b|_1 over b (k,), given only S = Z'PZ, s = Z'Py and y'Py, float64.
P is the REML projection at some theta, so covariates are profiled out and f has no units: with y in units u and Z in
standard deviations, b is in u and lambda in 1/u.  Everything here costs k^2 and no genotype pass.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import linalg, special

from gpu_reml.ops.arguments import as_count, as_matrix, as_number, as_numbers, as_symmetric, as_vector
from gpu_reml.ops.compile import compiled

# The last lambda of a path is at least this share of the first.
SMALLEST_RATIO = 1e-6
# An eigenvalue of correlations counts as zero below this: the columns are alike to 1e-4 of their length.
DEPENDENT = 1e-8
# Two columns count as one where 1 - |correlation| is below this, which is rounding of float32 and no genotype.
COPIES = 1e-6
# A solution in closed form may miss a condition, through rounding, by this share of lambda.
STRICT = 1e-9


class Quadratic(NamedTuple):
    """f's data: ``S`` (k, k) = Z'PZ, ``s`` (k,) = Z'Py, ``ypy`` = y'Py and the number of error contrasts n - c."""

    S: np.ndarray
    s: np.ndarray
    ypy: float
    num_contrasts: int

    @property
    def num_columns(self) -> int:
        return len(self.s)

    def rss(self, b: np.ndarray) -> float:
        """(y - Zb)'P(y - Zb)."""
        return float(self.ypy - 2 * (b @ self.s) + b @ self.S @ b)

    def take(self, rows: np.ndarray) -> "Quadratic":
        """The same with some of the columns of Z."""
        return self._replace(S=self.S[np.ix_(rows, rows)], s=self.s[rows])


@dataclass(frozen=True)
class DescentSettings:
    """``tol``: largest change of a coefficient in a full sweep that ends the descent, in its standard error with the
    other coefficients known, 1 / sqrt(S_jj): no units.  ``period``: a full sweep after so many of the active set.
    """

    max_sweeps: int = 2000
    tol: float = 1e-6
    period: int = 5

    def __post_init__(self):
        as_count(self.max_sweeps, "max_sweeps")
        as_count(self.period, "period")
        as_number(self.tol, "tol", above=0)


@dataclass(frozen=True)
class PathSettings:
    """``num_lambda`` values in geometric progression from max|s| down to ``min_ratio`` times that.

    ``gamma``: of EBIC; 0 is BIC, 1 is consistent for p any power of N.  The path ends early after ``patience`` values
    that do not improve EBIC by more than ``min_delta`` (None: never, since effects that enter together may not pay for
    their number at once), and before a model of more than half as many coefficients as error contrasts.  At most
    ``max_active`` may be chosen.
    ``refit``: EBIC takes the residuals of least squares on each model's columns, and of all lambda with the best model
    the smallest is chosen.  Without, it takes the LASSO's own: then every further column, noise as well, lets lambda
    fall and so pays by what the large effects are shrunk less.
    """

    num_lambda: int = 60
    min_ratio: float = 0.05
    gamma: float = 1.0
    patience: int | None = None
    min_delta: float = 0.0
    max_active: int = 128
    refit: bool = True

    def __post_init__(self):
        as_count(self.num_lambda, "num_lambda")
        as_count(self.max_active, "max_active")
        if self.patience is not None:
            as_count(self.patience, "patience")
        if not SMALLEST_RATIO <= as_number(self.min_ratio, "min_ratio") <= 1:
            raise ValueError(f"min_ratio: expected {SMALLEST_RATIO:g} to 1, found {self.min_ratio}")
        for name in ("gamma", "min_delta"):
            if as_number(getattr(self, name), name) < 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")


class Descent(NamedTuple):
    """``b`` (k,), sweeps taken, and whether the last full sweep changed it by no more than the tolerance."""

    b: np.ndarray
    sweeps: int
    converged: bool


class LassoPath(NamedTuple):
    """Values along the path, one for every lambda that was reached: ``coefficients`` (L, k).

    ``rss``: those that EBIC takes.  ``best``: the chosen one, of lowest EBIC among those that may be.  ``cut``: a model
    of more than ``max_active`` coefficients has a lower one.
    """

    lambdas: np.ndarray
    coefficients: np.ndarray
    df: np.ndarray
    rss: np.ndarray
    ebic: np.ndarray
    converged: np.ndarray
    best: int
    cut: bool


def checked_quadratic(problem: Quadratic) -> Quadratic:
    """The data of f as float64: S (k, k) symmetric, s (k,), y'Py > 0, at least one contrast; or a ValueError."""
    S = as_numbers(problem.S, "S")
    S = as_symmetric(S, "S") if S.size else as_matrix(S, "S", 0, 0)
    s = as_vector(problem.s, "s", len(S))
    return Quadratic(S, s, as_number(problem.ypy, "ypy", above=0), as_count(problem.num_contrasts, "num_contrasts"))


def lambda_values(s: np.ndarray, settings: PathSettings) -> np.ndarray:
    """(L,) geometric from the smallest lambda at which b = 0, max|s|; empty where s is zero."""
    largest = float(np.abs(s).max(initial=0))
    return largest * np.geomspace(1, settings.min_ratio, settings.num_lambda) if largest > 0 else np.zeros(0)


def ebic(rss: float, df: int, num_contrasts: int, num_variants: int, gamma: float) -> float:
    """N log(RSS / N) + k log N + 2 gamma log C(p, k) with N = n - c contrasts, k coefficients out of p.

    Infinite for an RSS that is not positive, which only the errors of linear solves can make.
    Source: Chen & Chen 2008, Biometrika 95:759.
    """
    if not rss > 0:
        return np.inf
    N, p = num_contrasts, num_variants
    log_binomial = special.gammaln(p + 1) - special.gammaln(df + 1) - special.gammaln(p - df + 1)
    return float(N * np.log(rss / N) + df * np.log(N) + 2 * gamma * log_binomial)


def descend(problem: Quadratic, lam: float, b0: np.ndarray, settings: DescentSettings | None = None) -> Descent:
    """argmin_b 1/2 b'Sb - s'b + lam |b|_1 by cyclic coordinate descent over active sets, from b0.

    A column with S_jj = 0 (nothing of it is left beside the covariates) keeps its coefficient.
    Source: Friedman, Hastie & Tibshirani 2010, J. Stat. Softw. 33(1), covariance updates.
    """
    settings = settings or DescentSettings()
    b = np.array(b0, np.float64)
    gradient = problem.s - problem.S @ b
    sweeps, converged = _descend(
        np.ascontiguousarray(problem.S), gradient, lam, b, settings.tol, settings.max_sweeps, settings.period
    )
    return Descent(b, int(sweeps), bool(converged))


@compiled
def _descend(S, gradient, lam, b, tol, max_sweeps, period):
    k = len(b)
    full, since_full = True, 0
    for sweep in range(1, max_sweeps + 1):
        largest = 0.0
        for j in range(k):
            d = S[j, j]
            if d <= 0.0 or (not full and b[j] == 0.0):
                continue
            target = gradient[j] + d * b[j]
            new = 0.0
            if target > lam:
                new = (target - lam) / d
            elif target < -lam:
                new = (target + lam) / d
            change = new - b[j]
            if change != 0.0:
                b[j] = new
                for i in range(k):
                    gradient[i] -= change * S[j, i]
                largest = max(largest, abs(change) * np.sqrt(d))
        if largest <= tol:
            if full:
                return sweep, True
            full = True
        else:
            since_full = 0 if full else since_full + 1
            full = since_full >= period
    return max_sweeps, False


def polished(problem: Quadratic, lam: float, b: np.ndarray) -> np.ndarray | None:
    """The minimiser in closed form, S_AA^-1 (s_A - lam sign b_A), if its signs and the other gradients bear b out.

    None where S_AA is singular or a condition fails: then b is not near enough.  Exact to float64's rounding.
    """
    active = np.flatnonzero(b)
    signs = np.sign(b[active])
    out = np.zeros_like(b)
    if len(active):
        try:
            factor = linalg.cho_factor(problem.S[np.ix_(active, active)], lower=True)
        except linalg.LinAlgError:
            return None
        out[active] = linalg.cho_solve(factor, problem.s[active] - lam * signs)
    gradient = problem.s - problem.S @ out
    if (np.sign(out[active]) != signs).any() or (np.abs(gradient) > lam * (1 + STRICT)).any():
        return None
    return out if np.abs(gradient[active] - lam * signs).max(initial=0) <= lam * STRICT else None


def refitted_rss(problem: Quadratic, active: np.ndarray) -> float:
    """y'Py - s_A'S_AA^-1 s_A: what least squares on some columns leaves, also where they depend on one another."""
    if not len(active):
        return problem.ypy
    S, s = problem.S[np.ix_(active, active)], problem.s[active]
    length = np.sqrt(np.diag(S))
    b = np.linalg.lstsq(S / np.outer(length, length), s / length, rcond=DEPENDENT)[0]
    return float(problem.ypy - b @ (s / length))


def distinct_columns(S: np.ndarray) -> np.ndarray:
    """Indices, in order, of columns that are no copy of an earlier one, up to sign and length, from S (k, k)."""
    length = np.sqrt(np.diag(S))
    unit = np.divide(1, length, out=np.zeros_like(length), where=length > 0)
    alike = np.abs(S * np.outer(unit, unit)) >= 1 - COPIES
    return np.flatnonzero(~np.triu(alike, 1).any(axis=0))


def last_of_same_support(rows: list[tuple], best: int) -> int:
    """The last step of those after ``best`` that have its support: the same model, shrunk least."""
    while best + 1 < len(rows) and ((rows[best + 1][1] != 0) == (rows[best][1] != 0)).all():
        best += 1
    return best


def lasso_path(
    problem: Quadratic, num_variants: int, settings: PathSettings | None = None, descent: DescentSettings | None = None
) -> LassoPath:
    """Solutions along the path from b = 0, each from the one before, and the one of lowest EBIC among them.

    num_variants: p of EBIC.  Every solution is the closed form on its active set where that is one (:func:`polished`).
    Copies of an earlier column (variants in perfect LD) keep 0: any division of an effect among them is a minimiser,
    rounding would choose one, and EBIC would count a column twice.

    >>> import numpy as np
    >>> from gpu_reml.reml import Quadratic, lasso_path
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((300, 5))
    >>> y = 2.0 * Z[:, 3] + rng.standard_normal(300)
    >>> problem = Quadratic(Z.T @ Z, Z.T @ y, float(y @ y), 300)  # P = I
    >>> path = lasso_path(problem, 5)
    >>> path.coefficients[path.best].nonzero()[0].tolist()
    [3]
    """
    problem = checked_quadratic(problem)
    as_count(num_variants, "num_variants", max(1, problem.num_columns))
    distinct = distinct_columns(problem.S)
    if len(distinct) < problem.num_columns:
        path = lasso_path(problem.take(distinct), num_variants, settings, descent)
        coefficients = np.zeros((len(path.lambdas), problem.num_columns))
        coefficients[:, distinct] = path.coefficients
        return path._replace(coefficients=coefficients)
    settings, descent = settings or PathSettings(), descent or DescentSettings()
    b = np.zeros(problem.num_columns)
    rows: list[tuple] = []
    best = 0
    lowest = waiting = 0  # of all models, whether they may be chosen or not
    for lam in lambda_values(problem.s, settings):
        found = descend(problem, lam, b, descent)
        exact = polished(problem, lam, found.b)
        b = found.b if exact is None else exact
        df = int(np.count_nonzero(b))
        if df > problem.num_contrasts // 2:
            break
        rss = refitted_rss(problem, np.flatnonzero(b)) if settings.refit else problem.rss(b)
        value = ebic(rss, df, problem.num_contrasts, num_variants, settings.gamma)
        rows.append((lam, b, df, rss, value, found.converged or exact is not None))
        here = len(rows) - 1
        if df <= settings.max_active and value < rows[best][4] - settings.min_delta:
            best = here
        if here and not value < rows[lowest][4] - settings.min_delta:
            waiting += 1
        else:
            lowest, waiting = here, 0
        if settings.patience is not None and waiting >= settings.patience:
            break
    if settings.refit and rows:
        best = last_of_same_support(rows, best)
    if not rows:  # the phenotype has nothing in common with any column
        value = ebic(problem.ypy, 0, problem.num_contrasts, num_variants, settings.gamma)
        rows = [(0.0, b, 0, problem.ypy, value, True)]
    lambdas, coefficients, df, rss, values, converged = map(np.array, zip(*rows, strict=True))
    return LassoPath(lambdas, coefficients, df, rss, values, converged, best, bool(df[lowest] > settings.max_active))
