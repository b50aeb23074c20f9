"""REML of one component with V = theta_g A + theta_e I, as a scalar problem in the spectrum of A.

A is K on the complement of the fixed effects.  All that REML asks for is an integral of a function of A's eigenvalues
against one of two measures: (u_i'y)^2 on every eigenvalue for quadratic forms, and 1 on every eigenvalue for traces.
The measures come from an eigendecomposition (exact) or from Lanczos quadrature (krylov.py).
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from ..formulas import profiled_loglik, restricted_loglik
from ..profile import Profile

# Shares of the total variance at which the profile is looked at: even ones, and ever closer ones near 1.
GRID = np.sort(np.concatenate([np.linspace(0, 0.98, 99), 1 - np.logspace(-2, -9, 29)]))
# Eigenvalues of K up to so many roundings of its largest are those of its null space.
NULL_SPACE = 16
# This stands for infinity, of which a search cannot take differences.
NEVER = 1e300


class Measure(NamedTuple):
    """The integral of f is sum_i weights_i f(nodes_i); both (q,) float64."""

    nodes: np.ndarray
    weights: np.ndarray

    def integrate(self, values: np.ndarray) -> np.ndarray:
        """Integrals of functions whose values at the nodes are (..., q)."""
        return values @ self.weights


class Spectrum(NamedTuple):
    """Spectral measures of A for y and for the trace on a complement of ``dimension`` n - c."""

    y: Measure
    trace: Measure
    dimension: int


def with_null_space(values: np.ndarray, rounding: float) -> np.ndarray:
    """Eigenvalues of K, those that products of this rounding do not tell from zero as 0.

    Left as they come they are small numbers of either sign, others for y than for the trace.  Where the residual
    variance is as small, the likelihood would take their ratio for evidence, or V for indefinite.
    """
    return np.where(np.abs(values) <= NULL_SPACE * rounding * np.abs(values).max(initial=0.0), 0.0, values)


def eigenvalues_of_v(theta: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """theta_g nodes + theta_e; theta (2,), residual last."""
    return theta[0] * nodes + theta[1]


def of_v(theta: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """(3, ...) lambda / d, 1 / d and log d at nodes of any shape: their integrals are tr(P K), tr(P) and log|V|."""
    d = eigenvalues_of_v(theta, nodes)
    return np.stack([nodes / d, 1 / d, np.log(d)])


def loglik(spectrum: Spectrum, theta: np.ndarray) -> float:
    """REML log-likelihood of the error contrasts, with -(n-c)/2 log 2 pi; -inf where V is not positive definite."""
    d_trace = eigenvalues_of_v(theta, spectrum.trace.nodes)
    d_y = eigenvalues_of_v(theta, spectrum.y.nodes)
    if min(d_trace.min(), d_y.min()) <= 0:
        return -np.inf
    logdet = spectrum.trace.integrate(np.log(d_trace))
    return float(restricted_loglik(logdet, spectrum.y.integrate(1 / d_y), spectrum.dimension))


def score(spectrum: Spectrum, theta: np.ndarray) -> np.ndarray:
    """(2,) derivative of :func:`loglik`."""
    return (
        spectrum.y.integrate(squares(theta, spectrum.y)) - spectrum.trace.integrate(ratios(theta, spectrum.trace))
    ) / 2


def ratios(theta: np.ndarray, measure: Measure) -> np.ndarray:
    """(2, q) [lambda / d, 1 / d]: their integrals against the trace measure are tr(P K) and tr(P)."""
    return np.stack([measure.nodes, np.ones_like(measure.nodes)]) / eigenvalues_of_v(theta, measure.nodes)


def squares(theta: np.ndarray, measure: Measure) -> np.ndarray:
    """(2, q) [lambda / d^2, 1 / d^2]: their integrals against y's measure are y'P K P y and y'P P y."""
    return ratios(theta, measure) / eigenvalues_of_v(theta, measure.nodes)


def average_information(spectrum: Spectrum, theta: np.ndarray) -> np.ndarray:
    """(2, 2) AI_gh = 1/2 y'P K_g P K_h P y; no trace, so no Monte-Carlo error."""
    atoms = ratios(theta, spectrum.y)
    return (atoms * (spectrum.y.weights / eigenvalues_of_v(theta, spectrum.y.nodes))) @ atoms.T / 2


def profiled(spectrum: Spectrum, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood and total variance s at theta = s (h, 1 - h) for shares h (k,), s at its maximum given h."""
    h = np.asarray(shares, np.float64)[:, None]

    def mixed(measure):
        return h * measure.nodes + (1 - h)

    d_trace, d_y = mixed(spectrum.trace), mixed(spectrum.y)
    valid = (d_trace.min(axis=1) > 0) & (d_y.min(axis=1) > 0)
    values, totals = np.full(len(h), -np.inf), np.full(len(h), np.nan)
    totals[valid] = spectrum.y.integrate(1 / d_y[valid]) / spectrum.dimension
    logdet = spectrum.trace.integrate(np.log(d_trace[valid]))
    values[valid] = profiled_loglik(logdet, totals[valid], spectrum.dimension)
    return values, totals


def maximise(spectrum: Spectrum, floor: float, *, constrain: bool = True) -> np.ndarray:
    """theta (2,) of the highest log-likelihood with theta_g >= 0 and theta_e >= floor; or, where it is not to be
    constrained and falls from theta_g = 0 on, of the first peak below.

    The likelihood is profiled over the total variance, searched on a grid of shares h = theta_g / (theta_g + theta_e)
    from 0 to 1 - 1e-9, and the best cell refined to rounding, so a second peak is not missed at the grid's resolution.
    """
    theta = _maximise_above(spectrum, floor)
    return theta if constrain or theta[0] > 0 else _first_peak_below(spectrum)


def _maximise_above(spectrum: Spectrum, floor: float) -> np.ndarray:
    values, totals = profiled(spectrum, GRID)
    inside = (totals * (1 - GRID) >= floor) & np.isfinite(values)
    best = int(np.argmax(np.where(inside, values, -np.inf)))
    low, high = GRID[max(best - 1, 0)], GRID[min(best + 1, len(GRID) - 1)]
    h = _peak(spectrum, low, high)
    total = float(profiled(spectrum, [h])[1][0])
    theta = np.array([h * total, (1 - h) * total])
    return theta if theta[1] >= floor else _at_floor(spectrum, floor)


def _first_peak_below(spectrum: Spectrum) -> np.ndarray:
    """theta (2,) of the peak with theta_g <= 0 that is next to 0; the grid's end where the likelihood only rises."""
    spectrum, factor = with_top_two(spectrum)
    values, _ = profiled(spectrum, -GRID)
    falls = np.flatnonzero(np.diff(values) < 0)
    best = int(falls[0]) if len(falls) else len(GRID) - 1
    h = _peak(spectrum, -GRID[min(best + 1, len(GRID) - 1)], -GRID[max(best - 1, 0)])
    total = float(profiled(spectrum, [h])[1][0])
    return np.array([h * total * factor, (1 - h) * total])


def with_top_two(spectrum: Spectrum) -> tuple[Spectrum, float]:
    """The spectrum of K times a factor that makes its largest node 2, so that V is positive definite for all shares
    between -1 and 1; and the factor."""
    factor = 2.0 / max(spectrum.y.nodes.max(), spectrum.trace.nodes.max())
    y, trace = (Measure(factor * measure.nodes, measure.weights) for measure in (spectrum.y, spectrum.trace))
    return Spectrum(y, trace, spectrum.dimension), float(factor)


def _slope(spectrum: Spectrum, h: float) -> float:
    """Derivative of the profile log-likelihood in h, up to a positive factor; nan where that is -inf."""
    total = profiled(spectrum, [h])[1][0]
    if not np.isfinite(total):  # V is not positive definite there
        return np.nan
    return float(score(spectrum, total * np.array([h, 1 - h])) @ np.array([1.0, -1.0])) * total


def _peak(spectrum: Spectrum, low: float, high: float) -> float:
    """The share between low and high at which the profile log-likelihood is highest."""
    if low == 0 and _slope(spectrum, 0.0) <= 0:
        return 0.0
    if _slope(spectrum, low) > 0 > _slope(spectrum, high):
        return float(optimize.brentq(lambda h: _slope(spectrum, h), low, high, xtol=1e-14, rtol=1e-14))
    found = optimize.minimize_scalar(
        lambda h: min(-profiled(spectrum, [h])[0][0], NEVER),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(found.x)


def _at_floor(spectrum: Spectrum, floor: float) -> np.ndarray:
    """theta with the residual at its floor: the best theta_g >= 0, on a logarithmic scale around y's variance."""
    scale = spectrum.y.weights.sum() / spectrum.dimension

    def value(log_g):
        return min(-loglik(spectrum, np.array([np.exp(log_g), floor])), NEVER)

    grid = np.log(scale) + np.linspace(-12, 12, 97)
    best = grid[int(np.argmin([value(g) for g in grid]))]
    found = optimize.minimize_scalar(
        value, bounds=(best - 0.25, best + 0.25), method="bounded", options={"xatol": 1e-10}
    )
    inside, at_zero = (np.array([theta_g, floor]) for theta_g in (np.exp(found.x), 0.0))
    return inside if loglik(spectrum, inside) > loglik(spectrum, at_zero) else at_zero


def share_of_h2(h2, mean_trace: float):
    """theta_g / (theta_g + theta_e) at which theta_g t / (theta_g t + theta_e) is h2, for t = tr(K) / n."""
    return h2 / (h2 + mean_trace * (1 - h2))


def profile_h2(
    spectrum: Spectrum, theta: np.ndarray, mean_trace: float, level: float = 0.95, *, constrain: bool = True
) -> Profile:
    """Profile likelihood of h2 and its confidence interval {h2: 2 (l_max - l) <= chi2_1(level)}, within [0, 1), or from
    where V is singular on.

    Source: Venzon & Moolgavkar 1988, Applied Statistics 37:87.  An end at 0 means that the interval reaches it.
    """
    least = 0.0
    if not constrain:
        scaled, factor = with_top_two(spectrum)
        spectrum, theta, mean_trace = scaled, theta / np.array([factor, 1.0]), mean_trace * factor
        least = -GRID[-1] * mean_trace / (1 + GRID[-1] - GRID[-1] * mean_trace)
    peak = theta[0] * mean_trace / (theta[0] * mean_trace + theta[1])
    top = loglik(spectrum, theta)
    drop = special.chdtri(1, 1 - level) / 2

    def value(h2):
        return profiled(spectrum, [share_of_h2(h2, mean_trace)])[0][0]

    def end(edge):
        if value(edge) - top + drop >= 0:
            return edge
        return float(optimize.brentq(lambda h2: max(value(h2), -NEVER) - top + drop, min(peak, edge), max(peak, edge)))

    lower, upper = end(float(least)), end(float(GRID[-1]))
    h2 = np.unique(np.concatenate([np.linspace(min(lower, 0.0), GRID[-1], 100), np.linspace(lower, upper, 50), [peak]]))
    return Profile(h2, profiled(spectrum, share_of_h2(h2, mean_trace))[0], lower, upper, level)
