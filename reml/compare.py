"""Log-likelihoods of different components of the same samples, so that their difference is of the components.

Two fits' log-likelihoods each err by their own preconditioner's share of the log-determinant, and their maxima by its
share of the score.  Here all are fitted and measured with the same probes and the same basis U, on which each
covariance is preconditioned exactly: errors of covariances that are alike are alike, and what differs over probes is
the difference's Monte-Carlo error.
"""

from typing import NamedTuple

import numpy as np

from . import likelihood
from .exact import one_trait
from .linalg import project
from .monte_carlo import error_of_mean
from .precondition import complement_traces, core_on, make_projected_core, precondition
from .probes import Probes, probes_are_exact
from .settings import FitSettings

QUADRATURE = 1e-3  # change of the log-determinant at which its quadrature ends, or rounding of the products' type


class Yardstick(NamedTuple):
    """What all log-likelihoods share, on the host: Q (n, c), the trait (n, 1) beside it divided by ``scale``, and
    ``probes``, whose sketch is the basis U (n, r) in the complement of Q; ``exact``: these leave no Monte-Carlo error.
    """

    Q: np.ndarray
    y: np.ndarray
    scale: float
    probes: Probes
    exact: bool
    settings: FitSettings


class Measured(NamedTuple):
    """Log-likelihood of the error contrasts with -(n-c)/2 log 2 pi, in y's units, and its values (s,) by probe."""

    value: float
    per_probe: np.ndarray


def make_yardstick(
    y: np.ndarray, X: np.ndarray, covariance, theta: np.ndarray, probes: Probes, settings: FitSettings
) -> Yardstick:
    """A yardstick whose basis is made for one covariance and theta (G + 1,); 2.5 passes of r columns."""
    trait = one_trait(y, X, covariance)
    Q = trait.Q
    block_Q = covariance.block(Q)
    core = make_projected_core(covariance, block_Q, complement_traces(covariance, block_Q), theta[:-1], probes.sketch)
    shared = Probes(probes.trace, np.asarray(core.U))
    return Yardstick(Q, trait.scaled, float(trait.scales[0]), shared, probes_are_exact(probes.trace), settings)


def measured(yardstick: Yardstick, covariance, theta: np.ndarray) -> Measured:
    """The log-likelihood of a covariance on the yardstick's samples at theta (G + 1,), in y's units squared.

    Cost: half a pass of r + c columns, a column of conjugate gradients, passes of s columns until the quadrature ends.
    """
    settings = yardstick.settings
    Q, y, U, Z = (covariance.block(B) for B in (yardstick.Q, yardstick.y, *yardstick.probes[::-1]))
    n, c = Q.shape
    theta = np.asarray(theta, np.float64) / yardstick.scale**2
    core = core_on(covariance, Q, complement_traces(covariance, Q), theta[:-1], U)
    change = max(min(settings.solver.quadrature, QUADRATURE / n), float(np.finfo(Z.dtype).eps))
    found = likelihood.loglik_of_contrasts(
        Q,
        y,
        project(Q, Z),
        likelihood.apply_v_at(covariance, theta),
        preconditioner=precondition(core, theta),
        tol=settings.solver.final,
        quadrature={"tol": change, "at_once": settings.probes.columns},
    )
    shift = (n - c) * np.log(yardstick.scale)
    return Measured(found.value - shift, found.per_probe - shift)


def difference(after: Measured, before: Measured) -> Measured:
    """By how much the log-likelihood rose, on one yardstick."""
    return Measured(float(after.value - before.value), after.per_probe - before.per_probe)


def added(one: Measured, two: Measured) -> Measured:
    """Two rises, one after the other, with the same probes though the basis may have changed between them."""
    return Measured(one.value + two.value, one.per_probe + two.per_probe)


def gain(rise: Measured, *, exact: bool) -> tuple[float, float]:
    """A rise and its Monte-Carlo standard error (nan for under 16 probes, 0 for exact ones)."""
    return rise.value, 0.0 if exact else error_of_mean(rise.per_probe)
