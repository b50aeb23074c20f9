"""Estimates with standard errors for variants that a LASSO chose: least squares on them, and the debiased LASSO.

Everything follows from S = Z'PZ and s = Z'Py (:class:`~gpu_reml.reml.studies.lasso.Quadratic`) at a fitted theta, which
is taken as known, under s ~ N(S b, S): y = X a + Z b + u + e with V(theta) the covariance of u + e.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg, special

from gpu_reml.ops.arguments import as_vector

from .lasso import DescentSettings, Quadratic, checked_quadratic, descend

# A column depends on the others where they leave less than this share of its length.
DEPENDENT = 1e-4
# The lambda of a column's regression on the others is this multiple of that of pure noise.
NODEWISE = 0.5


class Inference(NamedTuple):
    """``estimate`` and ``se`` (a,), with two-sided normal p-values; ``log10_p`` does not underflow."""

    estimate: np.ndarray
    se: np.ndarray

    @property
    def log10_p(self) -> np.ndarray:
        return (np.log(2) + special.log_ndtr(-np.abs(self.estimate / self.se))) / np.log(10)

    @property
    def p(self) -> np.ndarray:
        return 10.0**self.log10_p


def independent_columns(S: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
    """Indices, in order, of columns none of which is a linear combination of the others to 1e-4 of its length.

    S (k, k): their Gram matrix, in any inner product; norms (k,): squared lengths before something common (covariates)
    was taken out, which is dependence too; by default S's diagonal.  Pivoted Cholesky of S, the QR with column pivoting
    of the columns (Golub & Van Loan, 4th ed., 4.2.8); the longest come first, so what is dropped depends on what is
    kept, and ties go to the first.
    """
    norms = np.diag(S) if norms is None else np.asarray(norms, np.float64)
    scale = np.where(norms > 0, np.sqrt(norms), 1.0)
    left = S / np.outer(scale, scale)
    kept: list[int] = []
    for _ in range(len(S)):
        j = int(np.argmax(np.diag(left)))
        if left[j, j] <= DEPENDENT**2:
            break
        kept.append(j)
        left = left - np.outer(left[:, j], left[j]) / left[j, j]
        left[j], left[:, j] = 0.0, 0.0
    return np.sort(np.array(kept, int))


def least_squares(problem: Quadratic) -> tuple[np.ndarray, np.ndarray]:
    """Generalised least squares on all of Z's columns beside the covariates: S^-1 s and its covariance S^-1.

    The standard errors are those of a model given in advance: after a choice on the same phenotype they are too small.
    Raises ValueError where the columns are dependent.

    >>> import numpy as np
    >>> from gpu_reml.reml import Quadratic, least_squares
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((300, 5))
    >>> y = 2.0 * Z[:, 3] + rng.standard_normal(300)
    >>> problem = Quadratic(Z.T @ Z, Z.T @ y, float(y @ y), 300)  # P = I
    >>> effects, covariance = least_squares(problem)
    >>> bool(np.allclose(effects, np.linalg.lstsq(Z, y)[0])), covariance.shape
    (True, (5, 5))
    """
    problem = checked_quadratic(problem)
    if not problem.num_columns:
        return np.zeros(0), np.zeros((0, 0))
    try:
        factor = linalg.cho_factor(problem.S, lower=True)
    except linalg.LinAlgError:
        raise ValueError("columns: some are linear combinations of others; take independent_columns first") from None
    return linalg.cho_solve(factor, problem.s), linalg.cho_solve(factor, np.eye(problem.num_columns))


def debiased(
    problem: Quadratic, b: np.ndarray, which: np.ndarray, settings: DescentSettings | None = None
) -> Inference:
    """Debiased LASSO b_j + t_j'(s - S b) with variance t_j'S t_j, for j in ``which``; b (k,) solves the LASSO.

    In units where S is a correlation matrix C: t_j = (1, -gamma_j) / tau_j^2 approximates row j of C^-1, gamma_j is the
    LASSO of column j on the others at lambda = sqrt(2 log(k) / N) / 2 (half, since the candidates are few beside the
    samples), and tau_j^2 = 1 - C_j,-j gamma_j, so that the bias is at most lambda / tau_j^2 |b - b_true|_1.
    Source: van de Geer, Buehlmann, Ritov & Dezeure 2014, Ann. Stat. 42:1166, section 2, with a known covariance in
    place of sigma^2 I.

    What is covered: each coefficient's own interval in the joint model of these k columns.  What is not: that the
    columns, and those worth reporting among them, were chosen by the same phenotype (the largest estimates are too
    large), and the error of theta.  A column of which nothing is left beside the covariates has NaN.

    >>> import numpy as np
    >>> from gpu_reml.reml import Quadratic, debiased, lasso_path
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((300, 5))
    >>> y = 2.0 * Z[:, 3] + rng.standard_normal(300)
    >>> problem = Quadratic(Z.T @ Z, Z.T @ y, float(y @ y), 300)  # P = I
    >>> path = lasso_path(problem, 5)
    >>> found = debiased(problem, path.coefficients[path.best], np.array([3]))
    >>> bool(abs(found.estimate[0] - 2) < 4 * found.se[0])
    True
    """
    settings, problem = settings or DescentSettings(), checked_quadratic(problem)
    b = as_vector(b, "b", problem.num_columns)
    length = np.sqrt(np.diag(problem.S))
    varying = np.flatnonzero(length > 0)
    C = problem.S[np.ix_(varying, varying)] / np.outer(length[varying], length[varying])
    score = (problem.s - problem.S @ b)[varying] / length[varying]
    lam = NODEWISE * np.sqrt(2 * np.log(max(2, len(varying))) / problem.num_contrasts)
    estimate, se = np.full(len(which), np.nan), np.full(len(which), np.nan)
    for position, column in enumerate(which):
        if not length[column] > 0:
            continue
        j = int(np.searchsorted(varying, column))
        others = np.delete(np.arange(len(varying)), j)
        node = Quadratic(C[np.ix_(others, others)], C[others, j], 1.0, problem.num_contrasts)
        t = np.zeros(len(varying))
        t[j] = 1.0
        t[others] = -descend(node, lam, np.zeros(len(others)), settings).b
        t /= C[j] @ t
        estimate[position] = b[column] + (t @ score) / length[column]
        se[position] = np.sqrt(t @ C @ t) / length[column]
    return Inference(estimate, se)
