"""Profiles of one component from its spectral measures: small algebra, as the fit is."""

import numpy as np

from ..profile import Curve, Drop, Quantity, curve_of, quantities
from ..residuals import Layout
from ..settings import FitSettings
from . import spectral
from .calibration import Calibration
from .exact_tests import dense_drop
from .search import DensePoint
from .spectral import Spectrum

# An end of an interval may err by so many standard errors.
END_ERROR = 1e-4


class SpectrumModel:
    """The likelihood that two measures give, for :func:`.search.search`; in y's spectral coordinates."""

    def __init__(self, spectrum: Spectrum):
        self.spectrum, self.y = spectrum, np.sqrt(np.maximum(spectrum.y.weights, 0))[:, None]

    def at(self, theta):
        value = spectral.loglik(self.spectrum, theta)
        if not np.isfinite(value):
            return None
        d = spectral.eigenvalues_of_v(theta, self.spectrum.y.nodes)[:, None]
        return DensePoint(theta, value, d, self.y / d)

    def solve(self, point, B):
        return B / point.factor

    def traces(self, point):
        return self.spectrum.trace.integrate(spectral.ratios(point.theta, self.spectrum.trace))

    def images(self, B):
        return np.column_stack([self.spectrum.y.nodes[:, None] * B, B])


def krylov_curves(
    spectrum: Spectrum,
    calibration: Calibration,
    theta: np.ndarray,
    layout: Layout,
    settings: FitSettings,
    covariance: np.ndarray,
    *,
    exact: bool,
) -> tuple[Curve, ...]:
    """Profiles of the component and of h2, if ``settings`` ask for them; no pass.

    covariance: the sampling covariance of theta.  exact: the probes leave no Monte-Carlo error.
    """
    if not settings.profile:
        return ()
    model, lower = SpectrumModel(spectrum), layout.lower(settings.residual_floor, constrain=settings.constrain)
    point = model.at(theta)

    def drop_of(quantity: Quantity):
        dense = dense_drop(model, point, lower, settings, quantity)

        def drop(value: float) -> Drop:
            found, end = dense(value)
            if end is None or exact:
                return found

            def difference(nodes):
                d, other = (spectral.eigenvalues_of_v(at, nodes) for at in (theta, end))
                return np.log(other / d)[None]

            logdet = calibration.covariance(difference)[0, 0]
            return found._replace(mc_se=0.5 * float(np.sqrt(logdet)))

        return drop

    made = quantities(layout, settings.residual_floor, constrained=settings.constrain)
    return tuple(curve_of(each, theta, covariance, drop_of(each), lambda _: False, END_ERROR) for each in made)
