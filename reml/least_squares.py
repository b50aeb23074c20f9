"""Generalised least squares: of the fixed effects, and of a column beside them.

With P = A (A'VA)^-1 A', as in :mod:`~gpu_reml.reml.formulas`, nothing here needs X in a solve.
"""

from typing import NamedTuple

import numpy as np

from .formulas import inverse_form
from .linalg import Block, coordinates, gram, project, symmetric
from .traits import Traits


class FixedEffects(NamedTuple):
    """Generalised least squares: ``estimate`` (c,) and ``covariance`` (c, c) = (X'V^-1X)^-1."""

    estimate: np.ndarray
    covariance: np.ndarray

    @property
    def se(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance))


def fixed_effects(trait: Traits, QVPy: np.ndarray, inverse: np.ndarray) -> FixedEffects:
    """b (c,) = (X'V^-1X)^-1 X'V^-1 y from X b = y - V P y; no pass.

    trait: one phenotype.  QVPy (c,): Q'V P y, of the phenotype as it is scaled.  inverse (c, c):
    :func:`fixed_inverse`, of the same V.
    Source: Searle, Casella & McCulloch 1992, Variance Components, App. M.
    """
    scale, to_columns = float(trait.scales[0]), coordinates(trait.X, trait.Q)
    fitted = trait.Q.T @ trait.Y[:, 0] - scale * QVPy
    covariance = to_columns @ (inverse * scale**2) @ to_columns.T
    return FixedEffects(to_columns @ fitted, symmetric(covariance))


def fixed_inverse(QVQ: np.ndarray, QVPVQ: np.ndarray) -> np.ndarray:
    """(c, c) Q'X (X'V^-1X)^-1 X'Q = Q'VQ - Q'V P V Q, the covariance of Q'X b.

    Source: as :func:`fixed_effects`.
    """
    return symmetric(QVQ) - symmetric(QVPVQ)


def solved_inverse(Q: Block, VQ: Block, PVQ: Block, R: Block) -> np.ndarray:
    """:func:`fixed_inverse` in float64 from V Q and solves P V Q with residuals R.

    It errs by the square of the solves' errors, so that loose solves are enough.
    """
    return fixed_inverse(gram(Q, VQ), inverse_form(project(Q, VQ), PVQ, R))


def column_effects(
    zPy: np.ndarray, zPz: np.ndarray, yPy: np.ndarray | float, dof: int
) -> tuple[np.ndarray, np.ndarray]:
    """Effect and standard error of a column z beside X: z'Py / z'Pz and the root of s / z'Pz.

    All of one shape, or of shapes that broadcast.  s = (y'Py - (z'Py)^2 / z'Pz) / dof is the scale of V, estimated with
    the column.  P of V = I is least squares (Frisch & Waugh 1933, Econometrica 1:387; Lovell 1963, JASA 58:993).
    """
    beta = zPy / zPz
    left = np.maximum(yPy - beta * zPy, 0)  # rounding of either sign is left where z and X explain all of y
    return beta, np.sqrt(left / zPz / dof)
