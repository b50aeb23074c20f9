"""Values of levels that have no sample: people without a phenotype, animals of a pedigree, households.

With the component Z K Z' of q levels the values are u = theta K Z'P y, and their prediction error variances
theta K_ii - theta^2 (K Z'P Z K)_ii: of all levels, whether samples have them or not.  Mixed-model equations give the
same (Henderson 1975, Biometrics 31:423).
"""

from typing import Any, NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_count, as_tolerance, as_variances, as_vector

from ..covariance import IncidenceCovariance, MixedCovariance, as_covariance
from ..likelihood import solve
from ..linalg import column_batches
from ..probes import trace_probes
from ..residuals import ResidualCovariance
from ..scaled import ScaledCovariance
from .effects import Reliability, before_whitening, mean_and_error, scaled_model


class Levels(NamedTuple):
    """Where a ``component`` of a model has levels: component ``own`` of ``covariance``; ``scale`` (n,) is what
    multiplies samples besides its Z."""

    covariance: IncidenceCovariance
    own: int
    scale: np.ndarray
    component: int

    @property
    def labels(self) -> np.ndarray:
        """(q,) what they are called, or their numbers."""
        given = self.covariance.levels
        return np.arange(self.covariance.base.num_samples) if given is None else given

    def from_samples(self, B: np.ndarray) -> np.ndarray:
        """(q, k) K Z'S B."""
        base = self.covariance.base
        features = base.features(base.block(self.covariance.among_others(B * self.scale[:, None])))
        return np.asarray(base.apply_each(features)[self.own], np.float64)

    def to_samples(self, U: np.ndarray) -> np.ndarray:
        """(n, k) S Z K U."""
        base = self.covariance.base
        image = base.apply_each(base.features(base.block(U)))[self.own]
        return self.scale[:, None] * np.asarray(self.covariance.Z @ np.asarray(image, np.float64))


def levels_of(covariance: Any, g: int) -> Levels:
    """The levels of component g of a covariance of any parts; ValueError where it has none but the samples.

    :func:`find_levels` is None there.

    >>> from gpu_reml.reml import as_covariance, grouping, levels_of
    >>> levels_of(as_covariance([grouping(["b", "a", "b"])]), 0).labels.tolist()
    ['a', 'b']
    """
    covariance = as_covariance(covariance)
    found = find_levels(covariance, g)
    if found is None:
        name = covariance.names[g]
        raise ValueError(f"component {name}: has no levels but the samples; grouping and records make some")
    return found


def find_levels(covariance: Any, g: int) -> Levels | None:
    """As :func:`levels_of`, None for a component that has no levels but the samples."""
    if isinstance(covariance, ResidualCovariance):
        covariance = before_whitening(covariance)
    as_count(g, "g", 0)
    if g >= covariance.num_components:
        raise ValueError(f"g: expected a component from 0 to {covariance.num_components - 1}, found {g}")
    component, scale = g, np.ones(covariance.num_samples)
    while not isinstance(covariance, IncidenceCovariance):
        if isinstance(covariance, MixedCovariance):
            for part in covariance.parts:
                if g < part.num_components:
                    covariance = part
                    break
                g -= part.num_components
        elif isinstance(covariance, ScaledCovariance):
            scale = scale * covariance.scale
            covariance = covariance.base
        else:
            return None
    return Levels(covariance, g, scale, component)


def level_values(theta: Any, Py: Any, covariance: Any, g: int | Levels) -> np.ndarray:
    """(q,) values of all levels of component g, from theta (G + J,) and P y (n,) as
    :func:`~gpu_reml.reml.studies.effects.effects` gives it; a pass of one column.

    g: also other levels of the component, such as people of a larger matrix of which the fit has a part.

    >>> import numpy as np
    >>> from gpu_reml.reml import effects, grouping, level_values
    >>> y, litter = np.array([1.0, 2.0, 4.0, 5.0]), grouping(["a", "a", "b", "b"])
    >>> found = effects([1.0, 1.0], y, np.ones((4, 1)), litter)
    >>> level_values(found.theta, found.Py, litter, 0).round(6).tolist()
    [-1.0, 1.0]
    """
    levels = g if isinstance(g, Levels) else levels_of(covariance, g)
    theta, Py = as_vector(theta, "theta"), as_vector(Py, "Py", levels.covariance.num_samples)
    return theta[levels.component] * levels.from_samples(Py[:, None])[:, 0]


def level_reliability(
    theta: Any,
    X: Any,
    covariance: Any,
    g: int | Levels,
    probes: np.ndarray,
    *,
    preconditioner=None,
    tol: float = 1e-4,
    at_once: int | None = None,
) -> Reliability:
    """Prediction error variances (q,) of the values of all levels of component g, from probes (q, s).

    theta (G + J,), X and covariance as the fit's; g as in :func:`level_values`.  The part that data explain,
    theta^2 K Z'P Z K, is positive semidefinite, and its diagonal is the mean of u_i (K Z'P Z K u)_i over probes u
    (Bekas, Kokiopoulou & Saad 2007, Appl. Numer. Math. 57:1214): no bias; exact for exact probes, which is the inverse
    of the mixed-model equations.
    Cost: s columns a PCG step and two passes of s columns, ``at_once`` together.

    >>> import numpy as np
    >>> from gpu_reml.reml import exact_probes, grouping, level_reliability
    >>> litter = grouping(["a", "a", "b", "b"])
    >>> found = level_reliability([1.0, 1.0], np.ones((4, 1)), litter, 0, exact_probes(2))
    >>> found.reliability.round(6).tolist()
    [0.333333, 0.333333]
    """
    levels = g if isinstance(g, Levels) else levels_of(covariance, g)
    model = scaled_model(theta, X, covariance, preconditioner)
    q = levels.covariance.base.num_samples
    probes, tol = trace_probes(probes, q), float(as_tolerance(tol, "tol"))
    theta_g = float(as_variances(theta, "theta", len(theta))[levels.component])
    root = np.ones(model.covariance.num_samples) if model.layout.root is None else model.layout.root
    total, squares = np.zeros(q), np.zeros(q)
    for batch in column_batches(probes.shape[1], at_once):
        U = np.asarray(probes[:, batch], np.float64)
        B = model.covariance.block(levels.to_samples(U) / root[:, None])
        PB = solve(model.Q_there, model.apply_v, B, model.preconditioner, tol=tol, check=False).X
        image = U * levels.from_samples(np.asarray(PB, np.float64) / root[:, None])
        total += image.sum(axis=1)
        squares += (image**2).sum(axis=1)
    mean, mc_se = mean_and_error(total, squares, probes)
    prior = theta_g * levels.covariance.base.diagonals()[:, levels.own]
    factor = (theta_g / model.scale) ** 2
    return Reliability(prior - factor * mean, factor * mc_se, prior)
