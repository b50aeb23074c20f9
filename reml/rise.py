"""By how much the log-likelihood differs between two covariances that one basis answers for.

On a path V(t) = (1 - t) G_0 + t G_1 + e_0^(1-t) e_1^t I from one covariance to the other the log-determinant rises by
the integral of tr(P(t) V'(t)), of which every probe has a value within the basis, with controls of known mean as scores
have (:mod:`.cross_fit`).  All values have the same probes, so the spread of the integral over them is the Monte-Carlo
error of the difference, far below those of the two log-likelihoods; and it errs by the product of two errors of solves.
"""

from typing import NamedTuple

import numpy as np

from .cross_fit import Traces, fixed_controls, inverse_controls, num_controls
from .reduced import reduced_v
from .reduced_model import Model, Problem

NODES = 12  # of Gauss-Legendre quadrature, whose error falls geometrically with them
CONTROLS = 2


class End(NamedTuple):
    """A covariance in a basis: ``genetic`` (d, d) U'(V - e I)U with its ``trace`` on the complement, and e."""

    genetic: np.ndarray
    trace: float
    residual: float


class Rise(NamedTuple):
    """Of a log-likelihood, and its values (s,) by probe; ``exact``: these leave no Monte-Carlo error."""

    per_probe: np.ndarray
    exact: bool

    @property
    def value(self) -> float:
        return float(self.per_probe.mean())

    @property
    def mc_se(self) -> float:
        """Monte-Carlo standard error: nan for under 16 probes, 0 for exact ones."""
        return 0.0 if self.exact else float(np.sqrt(Traces(self.per_probe[None], CONTROLS).covariance[0, 0]))

    def __add__(self, other: "Rise") -> "Rise":
        """One rise after another, with the same probes though the basis may have changed between them."""
        return Rise(self.per_probe + other.per_probe, self.exact)


def end_at(problem: Problem, model: Model, theta: np.ndarray) -> End:
    """The covariance at theta."""
    genetic = np.tensordot(theta[:-1], model.basis.T, axes=1)
    return End(genetic, float(theta[:-1] @ problem.traces), float(theta[-1]))


def rise(problem: Problem, model: Model, before: End, after: End) -> Rise:
    """Of the log-likelihood from one covariance to another for both of which the basis answers; no pass."""
    z, dimension = model.probes, problem.dimension
    T, traces = np.stack([before.genetic, after.genetic]), np.array([before.trace, after.trace])
    fixed = fixed_controls(T, model.chains, z, traces)
    change = np.log(after.residual / before.residual)  # V'(t) = G_1 - G_0 + change e(t) I
    logdet, controls = np.zeros(z.shape[1]), np.zeros((CONTROLS, z.shape[1]))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    for t, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
        theta = np.array([1 - t, t, before.residual * np.exp(t * change)])
        V = reduced_v(T, theta)
        values = np.einsum("az,gaz->gz", np.linalg.solve(V, z), fixed.images)
        inverse = inverse_controls(T, V, theta, model.chains, z, fixed, dimension)
        each = np.array([-1.0, 1.0]) - change * theta[:-1]  # since sum_h theta_h tr(P K_h) = n - c for P's own trace
        logdet += weight * (each @ values + change * dimension)
        controls += weight * np.stack([each @ inverse, each @ fixed.off])
    if not model.exact and num_controls(z.shape[1]) >= CONTROLS:
        X = (controls - controls.mean(axis=1, keepdims=True)).T
        logdet -= np.linalg.lstsq(X, logdet - logdet.mean(), rcond=None)[0] @ controls
    return Rise(-(logdet + form(model, after) - form(model, before)) / 2, model.exact)


def form(model: Model, end: End) -> float:
    """y'P y."""
    y = model.trait(0)[:, 0]
    V = end.genetic + end.residual * np.eye(len(y))
    return float(y @ np.linalg.solve(V, y))
