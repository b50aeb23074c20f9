"""How reliable predictions are of samples that the fit did not have: from phenotypes replicated by the model.

For replicates x of P y, E[xx'] = P, all that is predicted from y is predicted from x in its place: effects of variants,
values of levels, and a sample's value v = c'x, c its covariance with the data.  The mean of v^2 is c'P c, the variance
of the predicted value, and the variance of the value less that is the prediction error variance (Henderson 1975,
Biometrics 31:423).  So the effects of replicates, (m, R) and (q, R), are all that new samples need.
"""

from typing import Any

import numpy as np
from scipy import linalg, sparse

from gpu_reml.ops.arguments import as_matrix, as_tolerance, as_vector

from ..covariance import Covariance, IncidenceCovariance, MixedCovariance, as_covariance
from ..linalg import column_batches
from ..precondition import Preconditioner, complement_traces, make_projected_core, precondition
from ..probes import trace_probes
from ..residuals import ResidualCovariance
from ..scaled import ScaledCovariance
from .effects import Reliability, before_whitening, scaled_model
from .scan_replicates import Replicates, make_replicates
from .values import Levels, levels_of


def py_replicates(
    theta: Any,
    X: Any,
    covariance: Any,
    probes: Any,
    *,
    preconditioner: Any = None,
    tol: float = 1e-3,
    at_once: int | None = None,
) -> Replicates:
    """Replicates x (n, R) of P y, whose mean x x' is P, from probes (n, R); theta (G + J,) as the fit's.

    With as many probes as samples P is factorised instead, and the n replicates are complete: their mean is P.
    tol: relative change of a replicate at which Lanczos stops.
    Cost: R columns a Lanczos step, ``at_once`` together; complete ones a pass of n columns and n^3.

    >>> import numpy as np
    >>> from gpu_reml.reml import py_replicates
    >>> K, X = np.diag([1.0, 2.0, 3.0]), np.ones((3, 1))
    >>> x = py_replicates([1.0, 1.0], X, K, 3).x
    >>> P = x @ x.T / 3
    >>> bool(np.allclose(P @ X, 0)), bool(np.allclose(P @ (K + np.eye(3)) @ P, P))
    (True, True)
    """
    tol = float(as_tolerance(tol, "tol"))
    model = scaled_model(theta, X, covariance, preconditioner)
    n = model.covariance.num_samples
    probes = trace_probes(probes, n)
    units = model.scale * (np.ones(n) if model.layout.root is None else model.layout.root)[:, None]
    if probes.shape[1] >= n:
        V = [
            np.asarray(model.apply_v(model.covariance.block(np.eye(n)[:, batch])), np.float64)
            for batch in column_batches(n, at_once)
        ]
        return Replicates(complete_replicates(np.hstack(V), model.Q) / units, True, 0)
    ours = model.preconditioner
    if not isinstance(ours, Preconditioner):
        traces, none = complement_traces(model.covariance, model.Q_there), np.zeros((n, 0))
        core = make_projected_core(model.covariance, model.Q_there, traces, model.theta[:-1], none)
        ours = precondition(core, model.theta)
    W = model.covariance.block(np.asarray(probes))
    x, steps = make_replicates(model.Q_there, model.apply_v, W, ours, tol, at_once)
    return Replicates(np.asarray(x, np.float64) / units, False, steps)


def complete_replicates(V: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """(n, n) x with xx'/n = P, from V (n, n) and an orthonormal basis Q (n, c) of X.

    With V = LL' and W an orthonormal basis of L^-1 Q, P = L^-T (I - WW') L^-1.
    """
    L = np.linalg.cholesky((V + V.T) / 2)
    W = linalg.qr(linalg.solve_triangular(L, Q, lower=True), mode="economic")[0]
    return np.sqrt(len(V)) * linalg.solve_triangular(L.T, np.eye(len(V)) - W @ W.T)


def replicated_effects(covariance: Any, theta: Any, x: np.ndarray) -> list[np.ndarray]:
    """Effects (m, R) of standardised variants, of replicates x (n, R) of P y: of every part whose samples are scaled
    alike, the sum of its components; float32 or float64 as the products.

    covariance: of genotypes, or several in a list, as :func:`~gpu_reml.reml.variant_effects` takes it; theta (G,) or
    longer.  Cost: half a pass of R columns for every part.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_covariance, make_products, pack, standardise
    >>> from gpu_reml.reml import replicated_effects
    >>> counts = np.random.default_rng(0).binomial(2, 0.3, (20, 5)).astype(np.int8)
    >>> covariance = make_covariance(make_products(standardise([pack(counts)], 20), "cpu"))
    >>> [effects.shape for effects in replicated_effects(covariance, [1.0], np.ones((20, 3)))]
    [(5, 3)]
    """
    return [_effects_of(part, own, x) for part, own in _parts(covariance, theta)]


def effect_variances(covariance: Any, theta: Any) -> list[np.ndarray]:
    """(m,) variances of the effects of standardised variants before the data, sum_g theta_g w_jg: of every part as in
    :func:`replicated_effects`.  ValueError for blocks of weights, whose effects depend on each other.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_covariance, make_products, pack, standardise
    >>> from gpu_reml.reml import effect_variances
    >>> counts = np.random.default_rng(0).binomial(2, 0.3, (20, 5)).astype(np.int8)
    >>> covariance = make_covariance(make_products(standardise([pack(counts)], 20), "cpu"))
    >>> effect_variances(covariance, [2.0])[0].round(6).tolist()
    [0.4, 0.4, 0.4, 0.4, 0.4]
    """
    found = []
    for part, own in _parts(covariance, theta):
        weights = _unscaled(part).weights
        if not sparse.issparse(weights):
            raise ValueError(f"components {', '.join(part.names)}: effects in blocks of weights depend on each other")
        found.append(np.asarray(weights @ own, np.float64))
    return found


def replicated_values(theta: Any, covariance: Any, g: int | Levels, x: np.ndarray) -> np.ndarray:
    """(q, R) values of all levels of component g, of replicates x (n, R) of P y; theta and g as in
    :func:`~gpu_reml.reml.level_values`.  A pass of R columns.

    >>> import numpy as np
    >>> from gpu_reml.reml import grouping, py_replicates, replicated_values
    >>> litter, theta = grouping(["a", "a", "b", "b"]), np.ones(2)
    >>> x = py_replicates(theta, np.ones((4, 1)), litter, 4).x
    >>> (replicated_values(theta, litter, 0, x) ** 2).mean(axis=1).round(6).tolist()  # the reliabilities
    [0.333333, 0.333333]
    """
    levels = g if isinstance(g, Levels) else levels_of(covariance, g)
    theta = as_vector(theta, "theta")
    return theta[levels.component] * levels.from_samples(as_matrix(x, "x", levels.covariance.num_samples))


def reliability_of_values(values: np.ndarray, prior: np.ndarray, *, complete: bool) -> Reliability:
    """Reliabilities (n,) from values (n, R) that were predicted from replicates, and the variances ``prior`` (n,) of
    the values themselves; ``complete``: as the replicates are.

    A mean of R squares of normal values has the relative error sqrt(2 / R); of few that are not normal, about so.

    >>> import numpy as np
    >>> from gpu_reml.reml import reliability_of_values
    >>> reliability_of_values(np.array([[0.6, -0.8]]), np.array([2.0]), complete=True).reliability.tolist()
    [0.25]
    """
    explained = (np.asarray(values, np.float64) ** 2).mean(axis=1)
    error = 0.0 if complete else np.sqrt(2 / values.shape[1])
    return Reliability(prior - explained, error * explained, prior)


def _parts(covariance: Any, theta: Any) -> list[tuple[Covariance, np.ndarray]]:
    """The parts of a covariance whose samples are scaled alike, each with its variances."""
    covariance = as_covariance(covariance)
    if isinstance(covariance, ResidualCovariance):
        covariance = before_whitening(covariance)
    theta = as_vector(theta, "theta")[: covariance.num_components]
    parts = covariance.parts if isinstance(covariance, MixedCovariance) else [covariance]
    bounds = np.cumsum([0, *(part.num_components for part in parts)])
    return [(part, theta[a:b]) for part, a, b in zip(parts, bounds[:-1], bounds[1:], strict=True)]


def _unscaled(covariance: Covariance) -> Covariance:
    """The components before samples, or people with records, are scaled."""
    while isinstance(covariance, ScaledCovariance | IncidenceCovariance):
        covariance = covariance.base
    return covariance


def _effects_of(covariance: Covariance, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(m, R) sum_g theta_g W_g Z'S x."""
    if isinstance(covariance, ScaledCovariance):
        return _effects_of(covariance.base, theta, covariance.scale[:, None] * x)
    if isinstance(covariance, IncidenceCovariance):
        return _effects_of(covariance.base, theta, covariance.Z.T @ x)
    F = covariance.features(covariance.block(x))
    if not sparse.issparse(covariance.weights):
        raise ValueError(f"components {', '.join(covariance.names)}: have no weights of single variants")
    return np.asarray(F) * np.asarray(covariance.weights @ theta, F.dtype)[:, None]
