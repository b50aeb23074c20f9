"""The trace's spectral measure from probes, calibrated to the moments that are known (docs/design.md).

Every probe z gives a measure whose integral of f is z'f(A)z.  The mean over a few *deep* probes is corrected so that
its moments of degree 0 and 1 are exactly n - c and tr A, and that of degree 2 the mean over all probes.  Where errors
ask for more of these, some are *shallow*: their single Lanczos step costs one pass each.  One corrected measure serves
every f, so the likelihood that is maximised and those that are reported are the same smooth function.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..monte_carlo import covariance_of_mean, widening
from .spectral import Measure

# A power of the eigenvalues adds nothing to those before it where what is left of it is below this share of its
# length.
DISTINCT = 1e-5

# Functions of eigenvalues, all at once: nodes of any shape to values (q, *shape).
Functions = Callable[[np.ndarray], np.ndarray]


class ProbeSpectra(NamedTuple):
    """``nodes``, ``weights`` (d, k): Gauss quadrature of the deep probes; ``moments`` (3, s): z'z, z'Az, z'A^2z of
    all probes, the deep ones first."""

    nodes: np.ndarray
    weights: np.ndarray
    moments: np.ndarray

    @property
    def num_deep(self) -> int:
        return len(self.nodes)

    @property
    def num_probes(self) -> int:
        return self.moments.shape[1]

    def joined(self, other: "ProbeSpectra") -> "ProbeSpectra":
        """Both sets of probes, after the same number of steps."""
        d, e = self.num_deep, other.num_deep
        mine, theirs = self.moments, other.moments
        moments = np.concatenate([mine[:, :d], theirs[:, :e], mine[:, d:], theirs[:, e:]], axis=1)
        nodes, weights = np.concatenate([self.nodes, other.nodes]), np.concatenate([self.weights, other.weights])
        return ProbeSpectra(nodes, weights, moments)


class Calibration(NamedTuple):
    """``measure``: the calibrated one.  ``basis`` (a, d, k): polynomials orthonormal under the uncalibrated mean
    measure; ``quadratic`` (s,): integral of the one of degree 2 against each probe (None where it is not estimated).
    """

    measure: Measure
    spectra: ProbeSpectra
    basis: np.ndarray
    quadratic: np.ndarray | None

    def covariance(self, functions: Functions) -> np.ndarray:
        """(q, q) Monte-Carlo covariance of integrals of functions, which take nodes to values (q, ...).

        What is left after the least-squares fit by polynomials varies over the deep probes, and the quadratic's
        coefficient times its own integral over all of them.  NaN for fewer than 16 deep probes.
        """
        coefficients, per_probe = self._split(functions)
        total = covariance_of_mean(per_probe)
        if self.quadratic is None:
            return total
        d, s = self.spectra.num_deep, self.spectra.num_probes
        slope = coefficients[:, -1]
        centred = self.quadratic - self.quadratic.mean()
        shared = np.outer(slope, per_probe @ centred[:d]) / (s * max(d - 1, 1)) * widening(max(d - 1, 1)) ** 2
        return total + np.outer(slope, slope) * covariance_of_mean(self.quadratic[None]) + shared + shared.T

    def deep_covariance(self, functions: Functions) -> np.ndarray:
        """The part of :meth:`covariance` that more deep probes reduce."""
        return covariance_of_mean(self._split(functions)[1])

    def _split(self, functions: Functions) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (q, a) on the basis, and the centred integrals (q, d) of what the basis leaves."""
        spectra = self.spectra
        values = functions(spectra.nodes)
        coefficients = np.einsum("adk,qdk,dk->qa", self.basis, values, spectra.weights / spectra.num_deep)
        rest = values - np.einsum("qa,adk->qdk", coefficients, self.basis)
        per_probe = np.einsum("qdk,dk->qd", rest, spectra.weights)
        return coefficients, per_probe - per_probe.mean(axis=1, keepdims=True)


def spectra_of(nodes: np.ndarray, weights: np.ndarray, first_steps: tuple[np.ndarray, ...]) -> ProbeSpectra:
    """Probe spectra from deep quadrature and the first Lanczos step (squared norm, alpha, beta) of all probes."""
    norms2, alpha, beta = first_steps
    return ProbeSpectra(nodes, weights, norms2 * np.stack([np.ones_like(alpha), alpha, alpha**2 + beta**2]))


def calibrate(spectra: ProbeSpectra, dimension: int, trace: float) -> Calibration:
    """The measure w (1 + sum_a phi_a (tau_a - mean_a)) with the known moments tau; phi of degree 0, 1 and 2.

    The integral of f becomes that of f minus its weighted least-squares polynomial, plus the known integral of the
    polynomial: control variates with the coefficients that minimise 2 |f(A) - p(A)|_F^2, the variance of a Gaussian
    probe.  Source: survey calibration, Deville & Sarndal 1992, JASA 87:376; two-phase regression, Cochran 1977, 12.6.
    """
    nodes, weights = spectra.nodes, spectra.weights / spectra.num_deep
    scale = trace / dimension if trace > 0 else 1.0
    polynomials = polynomials_of(nodes, weights, scale)
    basis = polynomials.at(nodes)
    targets = polynomials.integrals(np.array([dimension, trace, 0.0]))
    quadratic = None
    if len(basis) == 3:
        quadratic = polynomials.integrals(spectra.moments[:3])[2]
        targets[2] = quadratic.mean()
    found = np.einsum("adk,dk->a", basis, weights)
    corrected = weights * (1 + np.einsum("a,adk->dk", targets - found, basis))
    return Calibration(Measure(nodes.ravel(), corrected.ravel()), spectra, basis, quadratic)


class Polynomials(NamedTuple):
    """Polynomials of degree 0, 1, ... in lambda / ``scale``, with coefficients ``inverse`` (powers, polynomials)."""

    inverse: np.ndarray
    scale: float

    def at(self, nodes: np.ndarray) -> np.ndarray:
        """(a, ...) values at nodes."""
        powers = (nodes / self.scale)[None] ** np.arange(len(self.inverse)).reshape(-1, *[1] * nodes.ndim)
        return np.tensordot(self.inverse.T, powers, 1)

    def integrals(self, moments: np.ndarray) -> np.ndarray:
        """(a, ...) integrals against measures with moments (a, ...) of degree 0, 1, ...; further ones do not count."""
        degrees = np.arange(len(self.inverse)).reshape(-1, *[1] * (moments.ndim - 1))
        return np.tensordot(self.inverse.T, moments[: len(self.inverse)] / self.scale**degrees, 1)


def polynomials_of(nodes: np.ndarray, weights: np.ndarray, scale: float, degree: int = 2) -> Polynomials:
    """Those up to a degree that are orthonormal under a measure (d, k), as many as its nodes tell apart."""
    powers = (nodes / scale)[None] ** np.arange(degree + 1)[:, None, None]
    root = np.sqrt(weights).ravel()
    _, R = np.linalg.qr(root[:, None] * powers.reshape(degree + 1, -1).T)
    lengths = np.sqrt(np.einsum("adk,dk->a", powers**2, weights))
    distinct = np.abs(np.diag(R)) > DISTINCT * lengths[: len(R)]  # so few nodes do not tell all powers apart
    degrees = len(distinct) if distinct.all() else int(np.argmin(distinct))
    return Polynomials(np.linalg.inv(R[:degrees, :degrees]), scale)
