"""Components in units in which their variances are near y's: K of any size is fitted as K / f, and theta is theta_K f.

A likelihood does not change with the unit of K, but shares of variance on a grid, and steps to rounding, do.
"""

from dataclasses import replace

import numpy as np

from gpu_reml.ops.arguments import as_vector

from .covariance import Covariance, WrappedCovariance
from .hooks import Hooks
from .matrices import matrices_of
from .residuals import layout_of
from .result import FitResult
from .tables import Components
from .traits import LARGEST

# K is taken as it is where tr(K)/n is between the inverse of this and this.
MODERATE_TRACE = 100.0


class UnitCovariance(WrappedCovariance):
    """The components K_g / f_g of another covariance, f = ``factors`` (G,) powers of ten; residuals as they are.

    Blocks, features and the cost of products are the other's.
    """

    def __init__(self, covariance: Covariance, factors: np.ndarray):
        super().__init__(covariance)
        found = layout_of(self.base)
        self.layout = replace(found, mean_traces=found.mean_traces / factors[: found.num_genetic])
        self.factors = factors

    @property
    def traces(self) -> np.ndarray:
        return np.asarray(self.base.traces, np.float64) / self.factors

    def diagonals(self) -> np.ndarray:
        return self.base.diagonals() / self.factors

    def matrices(self):
        return map(np.divide, matrices_of(self.base), self.factors)

    def apply(self, theta, B):
        return self.base.apply(np.asarray(theta, np.float64) / self.factors, B)

    def inner(self, FA, FB):
        return self.base.inner(FA, FB) / self.factors[:, None]

    def image_squares(self, F):
        return self.base.image_squares(F) / self.factors[:, None] ** 2

    def gram(self, FA, FB=None):
        return self.base.gram(FA, FB) / self.factors[:, None, None]

    def core(self, B):
        return self.base.core(B) / self.factors[:, None, None]

    def apply_each(self, F):
        return [image * image.dtype.type(1 / f) for image, f in zip(self.base.apply_each(F), self.factors, strict=True)]

    def apply_features(self, theta, F):
        return self.base.apply_features(np.asarray(theta, np.float64) / self.factors, F)


def in_moderate_units(covariance: Covariance) -> Covariance:
    """The covariance itself; or, where tr(K)/n of a genetic component is far from 1, with K over its power of ten."""
    sizes = np.asarray(covariance.traces, np.float64) / covariance.num_samples
    moderate = (sizes <= MODERATE_TRACE) & (sizes >= 1 / MODERATE_TRACE)
    powers = np.where(moderate, 0, np.round(np.log10(np.where(moderate, 1.0, sizes)))).astype(int)
    factors = np.array([float(f"1e{power}") for power in powers])
    factors[layout_of(covariance).num_genetic :] = 1.0
    return covariance if (factors == 1).all() else UnitCovariance(covariance, factors)


def reported_factors(covariance: Covariance) -> np.ndarray | None:
    """(G + J,) factors by which fitted variances are divided to be those of the components as given; None without."""
    factors = covariance.factors
    if factors is None:
        return None
    layout = layout_of(covariance)
    return np.append(factors[: layout.num_genetic], np.ones(len(layout.residual_names)))


def start_variances(start: np.ndarray, covariance) -> np.ndarray:
    """Start values as float64 in the units of the fit, or a ValueError where one is not finite or below 0."""
    start, factors = as_vector(start, "start"), reported_factors(covariance)
    if (start < 0).any():
        raise ValueError(f"start: expected variances from 0 up, the residual last, found {start}")
    return start if factors is None or start.shape != factors.shape else start * factors


def check_variances(covariance: Covariance, scales: np.ndarray) -> None:
    """ValueError for a component whose variance has an error too small or too large to be squared in float64.

    scales (t,): standard deviations of the phenotypes.
    """
    factors = reported_factors(covariance)
    if factors is None:
        return
    for name, factor in zip(covariance.names, factors, strict=False):
        sizes = np.asarray(scales) / np.sqrt(factor)
        if not ((sizes < LARGEST) & (sizes > 1 / LARGEST)).all():
            raise ValueError(
                f"covariance: component {name} has a tr(K)/n of about {factor:.3g}, for which a variance in y's units "
                f"squared cannot be held; give it in another unit, K / {float(10 ** np.round(np.log10(factor))):.0e}"
            )


def hooks_in_given_units(hooks: Hooks, factors: np.ndarray | None) -> Hooks:
    """Hooks whose callback gets variances of the components as given."""
    if factors is None or hooks.callback is None:
        return hooks
    return hooks._replace(callback=lambda record: hooks.callback(_given(record, factors)))


def _given(record, factors: np.ndarray):
    return record._replace(theta=tuple(np.asarray(record.theta) / factors))


def in_given_units(result: Components, factors: np.ndarray | None) -> Components:
    """A result with the variances of the components as given; shares, tests and likelihoods are the same."""
    if factors is None:
        return result
    squares, genetic = np.outer(factors, factors), factors[: len(result.names)]
    changes = {
        "theta": result.theta / factors,
        "covariance": result.covariance / squares,
        "mc_covariance": result.mc_covariance / squares,
        "mean_traces": result.mean_traces * genetic,
    }
    if isinstance(result, FitResult):
        history = tuple(_given(record, factors) for record in result.history)
        own = {"score": result.score * factors, "information": result.information * squares}
        return replace(result, **changes, **own, history=history)
    return replace(result, **changes, T=result.T * squares)
