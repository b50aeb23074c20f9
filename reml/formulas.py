"""The formulas of REML that several estimators share, each written once.

V is the covariance of y, and P = A (A'VA)^-1 A' for a basis A (n, n - c) of the complement of the fixed effects.
``dimension`` is n - c.
"""

import numpy as np

from .linalg import Block, gram, symmetric

LOG_2PI = np.log(2 * np.pi)


def restricted_loglik(logdet, ypy, dimension: int):
    """-1/2 (log|A'VA| + y'Py + (n - c) log 2 pi): the log-likelihood of the error contrasts A'y.

    Source: Patterson & Thompson 1971, Biometrika 58:545.
    """
    return -0.5 * (logdet + ypy + dimension * LOG_2PI)


def profiled_loglik(logdet, variance, dimension: int):
    """:func:`restricted_loglik` at V = variance W, for the variance y'P_W y / (n - c) at which it is highest.

    logdet: log|A'WA|.
    """
    return -0.5 * (dimension * np.log(variance) + logdet + dimension * (1 + LOG_2PI))


def ai_matrix(F: Block, PF: Block, R: Block | None = None) -> np.ndarray:
    """Average information 1/2 F'P F in float64, from the working variates F = [K_g P y] (n, p) and solves PF.

    R: residuals of the solves, as :func:`inverse_form` takes them.
    Source: Gilmour, Thompson & Cullis 1995, Biometrics 51:1440, equation 7 (there for a different parameterisation).
    """
    return inverse_form(F, PF, R) / 2


def inverse_form(F: Block, PF: Block, R: Block | None = None) -> np.ndarray:
    """(p, p) F'P F in float64 from F (n, p) and solves X = P F.

    Where the solves are approximate, R are their residuals: F'X + X'R = F'X + X'F - X'V X errs by the square of the
    solves' errors, so that loose solves are enough.
    """
    inside = gram(F, PF)
    return symmetric(inside if R is None else inside + gram(PF, R))
