"""Profile likelihoods and their intervals: of the variance of every component, and of h2.

An interval holds the values that a likelihood-ratio test does not reject: {v: 2 (l_max - l(v)) <= chi2_1(level)}, where
l(v) is the highest log-likelihood with the quantity at v.  The signed root of that ratio is nearly linear in v, so that
secant steps reach an end in two or three.  Where the likelihood still is that high at a bound, the interval ends there.
Source: Venzon & Moolgavkar 1988, Applied Statistics 37:87.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import linalg, special

from .inference import heritability
from .residuals import Layout
from .tables import shown

# Intervals are of this confidence.
LEVEL = 0.95
# An end of an interval is looked for at no more than so many values; three are usual.
MOST_TRIALS = 12
# An end is looked for so many times, where what is known of the likelihood has grown since the last time.
ROUNDS = 3


class Profile(NamedTuple):
    """Profile log-likelihood of h2: ``h2`` (k,) ascending, ``loglik`` (k,), and the interval of ``level``."""

    h2: np.ndarray
    loglik: np.ndarray
    lower: float
    upper: float
    level: float


class Curve(NamedTuple):
    """Profile of the variance that a component explains, or of h2 (``quantity`` "h2"): ``value`` (k,) ascending,
    ``difference`` (k,) of the log-likelihood from its maximum, with its Monte-Carlo error ``mc_se`` (k,), and the ends
    of the interval of ``level`` with theirs; NaN where an end was not found."""

    quantity: str
    estimate: float
    value: np.ndarray
    difference: np.ndarray
    mc_se: np.ndarray
    lower: float
    upper: float
    lower_mc_se: float
    upper_mc_se: float
    level: float

    def scaled(self, factor: float) -> "Curve":
        """The curve in another unit of its quantity."""
        names = ("estimate", "value", "lower", "upper", "lower_mc_se", "upper_mc_se")
        return self._replace(**{name: getattr(self, name) * factor for name in names})


class Drop(NamedTuple):
    """l_max - l(v) and its Monte-Carlo error; infinite where V cannot be positive definite, NaN where unknown."""

    value: float
    mc_se: float


class Quantity(NamedTuple):
    """What is profiled: the component ``which``, in theta's unit, or h2 for None."""

    layout: Layout
    floor: float
    constrained: bool
    which: int | None

    @property
    def name(self) -> str:
        return "h2" if self.which is None else self.layout.names[self.which]

    def value(self, theta: np.ndarray) -> float:
        """The quantity at theta (p,)."""
        if self.which is not None:
            return float(theta[self.which])
        parts = self.layout.reported(theta) * np.append(self.layout.mean_traces, self.layout.residual_traces)
        return float(parts[: self.layout.num_genetic].sum() / parts.sum())

    def error(self, theta: np.ndarray, covariance: np.ndarray) -> float:
        """Sampling standard error, from that of theta as reported; NaN where there is none."""
        if self.which is not None:
            return float(np.sqrt(covariance[self.which, self.which]))
        traces = self.layout.mean_traces, self.layout.residual_traces
        found = heritability(self.layout.reported(theta), traces[0], covariance, 0 * covariance, traces[1])
        return float(found.se[-1])

    @property
    def least(self) -> float:
        return 0.0 if self.constrained else -np.inf

    @property
    def most(self) -> float:
        """A bound above all values of the quantity."""
        return 1.0 if self.which is None else np.inf

    def at(self, theta: np.ndarray, value: float) -> np.ndarray:
        """theta (p,) changed so that the quantity has this value; where the search at the value starts."""
        if self.which is not None:
            out = theta.copy()
            out[self.which] = value
            return out
        layout, G = self.layout, self.layout.num_genetic
        atoms = np.append(layout.mean_traces, layout.residual_traces)
        parts = layout.reported(theta) * atoms
        total, genetic = parts.sum(), parts[:G].sum()
        parts[:G] = parts[:G] * (value * total / genetic) if genetic > 0 else value * total / G
        parts[G:] *= (1 - value) * total / parts[G:].sum()
        return layout.internal(parts / atoms, self.floor)

    def directions(self, value: float) -> np.ndarray:
        """(p, q) along which theta keeps the value."""
        layout = self.layout
        axes = np.eye(layout.num_parameters)[:, layout.estimated]
        if self.which is not None:
            return np.delete(axes, self.which, axis=1)
        G = layout.num_genetic
        if value == 0 and self.constrained:  # none of a sum of variances is above 0 then
            return axes[:, G:]
        normal = np.append((1 - value) * layout.mean_traces, -value * np.asarray(layout.residual_traces))
        return axes @ linalg.null_space(normal[None])


def quantities(layout: Layout, floor: float, *, constrained: bool) -> list[Quantity]:
    """Every component, then h2."""
    return [Quantity(layout, floor, constrained, which) for which in (*range(layout.num_genetic), None)]


def curve_of(
    quantity: Quantity,
    theta: np.ndarray,
    covariance: np.ndarray,
    drop: Callable[[float], Drop],
    settle: Callable[[float], bool],
    tol: float,
    level: float = LEVEL,
) -> Curve:
    """The profile about the maximum theta (p,), of which ``covariance`` is the sampling covariance as reported.

    drop(v): the :class:`Drop` of the likelihood maximised at v.  settle(v): improves what is known of the likelihood at
    v where it has to, and says whether it did.  tol: the error that an end may have, in standard errors.
    """
    target = float(np.sqrt(special.chdtri(1, 1 - level)))
    peak, se = quantity.value(theta), quantity.error(theta, covariance)
    if not se > 0:
        se = (1 - peak) / 4 if quantity.which is None else max(abs(peak), float(np.abs(theta).sum()) / 10)
    ends, points = [], {peak: Drop(0.0, 0.0)}
    for side, edge in ((-1.0, quantity.least), (1.0, quantity.most)):
        guess = peak + side * target * se
        found = Trials({})
        for _ in range(ROUNDS):
            found = found_end(drop, peak, guess, edge, target, tol)
            if not np.isfinite(found.end) or not settle(found.end):
                break
            guess = found.end
        points.update(found.drops)
        ends.append(found)
    values = sorted(value for value, each in points.items() if np.isfinite(each.value))
    drops = [points[value] for value in values]
    return Curve(
        quantity.name,
        peak,
        np.array(values),
        -np.array([each.value for each in drops]),
        np.array([each.mc_se for each in drops]),
        *(found.end for found in ends),
        *(found.error(peak, target, edge) for found, edge in zip(ends, (quantity.least, quantity.most), strict=True)),
        level,
    )


class Trials(NamedTuple):
    """The values that were tried for an end with their drops, and the end."""

    drops: dict[float, Drop]
    end: float = np.nan

    def error(self, peak: float, target: float, edge: float) -> float:
        """Monte-Carlo error of the end, by the root's slope; 0 at a bound."""
        if self.end == edge:
            return 0.0
        nearest = min(self.drops, key=lambda value: abs(value - self.end), default=None)
        return np.nan if nearest is None else self.drops[nearest].mc_se * abs(self.end - peak) / target**2


def found_end(
    drop: Callable[[float], Drop], peak: float, guess: float, edge: float, target: float, tol: float
) -> Trials:
    """The value on the side of ``guess`` at which sqrt(2 drop) is ``target``, or the edge.

    An edge at 0 is tried itself; the edge of h2 at 1 is approached by halving the distance.  The end is NaN where a
    likelihood is not known, or no better than to half of what it has to fall by.
    """
    if peak == edge:
        return Trials({}, edge)
    drops: dict[float, Drop] = {}
    inner, outer, value = (peak, 0.0), None, guess
    for _ in range(MOST_TRIALS):
        last = edge if edge == 0 else (inner[0] + edge) / 2
        if (value - last) * np.sign(guess - peak) >= 0:
            value = last
        drops[value] = drop(value)
        root = float(np.sqrt(2 * max(drops[value].value, 0.0)))
        if np.isnan(root) or drops[value].mc_se > target**2 / 4:
            return Trials(drops)
        if abs(root - target) <= tol:
            return Trials(drops, value)
        if root < target:
            if value == edge:
                return Trials(drops, edge)
            inner = value, root
        else:
            outer = value, root
        if outer is None:
            value = peak + (value - peak) * min(2.5, 1.02 * target / max(root, 1e-3))
        elif not np.isfinite(outer[1]):
            value = (inner[0] + outer[0]) / 2
        else:
            share = (target - inner[1]) / (outer[1] - inner[1])
            value = inner[0] + min(max(share, 0.05), 0.95) * (outer[0] - inner[0])
    return Trials(drops, edge if outer is None else value)


def profile_of_h2(curves: Sequence[Curve], loglik: float) -> Profile | None:
    """The profile of h2 in the form of the Lanczos engine; None without one, or where an end was not found."""
    for curve in curves:
        if curve.quantity == "h2" and np.isfinite([curve.lower, curve.upper]).all():
            return Profile(curve.value, loglik + curve.difference, curve.lower, curve.upper, curve.level)
    return None


def with_profiles(result, curves: Sequence[Curve], scale: float):
    """A FitResult with the profiles of a phenotype that was divided by ``scale``; variances are those explained."""
    if not curves:
        return result
    own = [
        curve if curve.quantity == "h2" else curve.scaled(float(trace * scale**2))
        for curve, trace in zip(curves, np.append(result.mean_traces, 1.0), strict=True)
    ]
    profile = result.profile if result.profile is not None else profile_of_h2(own, result.loglik)
    return replace(result, profiles=tuple(own), profile=profile)


def curve_lines(curves: Sequence[Curve]) -> list[str]:
    """The lines of the summary's table."""
    width = max(12, *(len(curve.quantity) for curve in curves))
    lines = [
        f"{f'{curves[0].level:.0%} profile':{width}s} {'estimate':>12s} {'lower':>12s} {'upper':>12s} {'MC error':>17s}"
    ]
    return lines + [
        f"{curve.quantity:{width}s} {curve.estimate:12.6g} {shown(curve.lower, '12.6g')} {shown(curve.upper, '12.6g')} "
        f"{shown(curve.lower_mc_se, '8.2g')} {shown(curve.upper_mc_se, '8.2g')}"
        for curve in curves
    ]
