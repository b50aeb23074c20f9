"""By how much the log-likelihood differs between two covariances that one basis answers for.

Along the straight line from one covariance to the other the log-determinant rises by the integral of tr(P dV), of which
every probe has a value within the basis, with controls of known mean as scores have (:mod:`..cross_fit`).  All values
have the same probes, so the spread of the integral over them is the Monte-Carlo error of the difference, far below that
of either log-likelihood; and it errs by the product of two errors of solves.
"""

from typing import NamedTuple

import numpy as np

from ..cross_fit import MOST_CONTROLS, Traces, fixed_controls, inverse_controls, num_controls
from ..reduced_matrices import ReducedMatrices
from .reduced import reduced_v
from .reduced_model import Model, Problem

# The Gauss rule begins with so many nodes, and doubles them until it is good enough.
NODES = 4
# It has at most so many.
MOST_NODES = 64
# It is good enough where y's part of the log-likelihood, whose integral is known, errs by no more than this.
QUADRATURE = 1e-6


class End(NamedTuple):
    """A covariance in a basis: ``genetic`` (d, d) U'(V - e I)U with its ``trace`` on the complement, and e."""

    genetic: np.ndarray
    trace: float
    residual: float


class Rise(NamedTuple):
    """The rise of a log-likelihood by its values (s,) from every probe; ``exact``: they leave no Monte-Carlo error."""

    per_probe: np.ndarray
    exact: bool

    @property
    def value(self) -> float:
        return float(self.per_probe.mean())

    @property
    def mc_se(self) -> float:
        """Monte-Carlo standard error: nan for under 16 probes, 0 for exact ones."""
        controls = num_controls(len(self.per_probe))
        return 0.0 if self.exact else float(np.sqrt(Traces(self.per_probe[None], controls).covariance[0, 0]))

    def __add__(self, other: "Rise") -> "Rise":
        """One rise after another, with the same probes though the basis may have changed between them."""
        return Rise(self.per_probe + other.per_probe, self.exact)


def end_at(problem: Problem, model: Model, theta: np.ndarray) -> End:
    """The covariance at theta."""
    genetic = model.basis.T.weighted(theta[:-1])
    return End(genetic, float(theta[:-1] @ problem.traces), float(theta[-1]))


class Path(NamedTuple):
    """V(t) = (1 - t) V_0 + t V_1, which is positive definite as both are, for two genetic parts T (d, d) and a residual
    from ``start`` that grows by ``change`` = log e_1 / e_0 evenly as s goes from 0 to 1."""

    T: ReducedMatrices
    start: float
    change: float

    def at(self, s: float) -> tuple[np.ndarray, float]:
        """(1 - t, t, e) and dt / ds."""
        e = self.start * np.exp(s * self.change)
        if abs(self.change) < np.finfo(float).eps:
            return np.array([1 - s, s, e]), 1.0
        t, slope = (f / np.expm1(self.change) for f in (np.expm1(s * self.change), self.change * e / self.start))
        return np.array([1 - t, t, e]), float(slope)

    def form(self, s: float, y: np.ndarray) -> float:
        """y'P y."""
        return float(y @ np.linalg.solve(reduced_v(self.T, self.at(s)[0]), y))

    def slope(self, s: float, y: np.ndarray) -> float:
        """y'P V' P y, V' the derivative in s."""
        theta, speed = self.at(s)
        c = np.linalg.solve(reduced_v(self.T, theta), y)
        return float(speed * (c @ self.T.weighted(np.array([-1.0, 1.0])) @ c) + self.change * theta[-1] * (c @ c))


def rise(problem: Problem, model: Model, before: End, after: End, trait: int = 0) -> Rise:
    """The rise of a trait's log-likelihood between two covariances for both of which the basis answers; no pass."""
    T = ReducedMatrices.of(np.stack([before.genetic, after.genetic]))
    change = float(np.log(after.residual / before.residual))
    path, y, z = Path(T, before.residual, change), model.trait(trait)[:, 0], model.probes
    ypy = path.form(1.0, y) - path.form(0.0, y)
    if model.exact:
        ends = (np.linalg.slogdet(reduced_v(T, path.at(s)[0]))[1] for s in (1.0, 0.0))
        return Rise(np.full(z.shape[1], -(next(ends) - next(ends) + ypy) / 2), True)
    fixed = fixed_controls(T, model.chains, z, np.array([before.trace, after.trace]))
    logdet, controls = np.zeros(z.shape[1]), np.zeros((MOST_CONTROLS, z.shape[1]))
    for s, weight in zip(*rule(path, y, -ypy), strict=True):
        theta, speed = path.at(s)
        V = reduced_v(T, theta)
        values = np.einsum("az,gaz->gz", np.linalg.solve(V, z), fixed.images)
        inverse = inverse_controls(T, V, theta, model.chains, z, fixed, problem.dimension)
        # P's own trace is (n - c - sum_h theta_h tr(P K_h)) / theta_e
        each = speed * np.array([-1.0, 1.0]) - change * theta[:-1]
        logdet += weight * (each @ values + change * problem.dimension)
        controls += weight * np.stack([part @ known for part in (each, theta[:-1]) for known in (inverse, fixed.off)])
    controls = controls[: num_controls(z.shape[1])]
    X = (controls - controls.mean(axis=1, keepdims=True)).T
    logdet -= np.linalg.lstsq(X, logdet - logdet.mean(), rcond=None)[0] @ controls
    return Rise(-(logdet + ypy) / 2, False)


def rule(path: Path, y: np.ndarray, known: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on (0, 1) that integrate the slope of y (d,), whose integral is ``known``; traces of P are
    smoother."""
    num = NODES
    while True:
        nodes, weights = np.polynomial.legendre.leggauss(num)
        nodes, weights = (1 + nodes) / 2, weights / 2
        off = weights @ [path.slope(s, y) for s in nodes] - known
        if num >= MOST_NODES or abs(off) <= 2 * QUADRATURE:
            return nodes, weights
        num *= 2
