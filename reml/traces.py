"""Hutchinson traces tr(P K_g) with control variates of known expectation, and their per-probe values (DESIGN 5)."""

from typing import Any, NamedTuple

import numpy as np

from .contract import check_traces
from .covariance import Covariance, placed, squares_of
from .lanczos import regression_slope
from .linalg import Block, column_batches, column_dots, take_columns
from .monte_carlo import covariance_of_mean
from .precondition import Preconditioner, ProjectedCore


class ProbeImages(NamedTuple):
    """Probes (n, s) projected off X, their features, and the control z'(I-UU')K_g z (G, s); fixed for a whole fit."""

    Z: Block
    features: Any
    control: np.ndarray | None


class TraceEstimates(NamedTuple):
    """``per_probe`` (G + 1, s): unbiased values of tr(P K_1) .. tr(P K_G), tr(P); ``num_slopes`` fitted to them."""

    per_probe: np.ndarray
    num_slopes: int

    @property
    def mean(self) -> np.ndarray:
        return self.per_probe.mean(axis=1)

    @property
    def covariance(self) -> np.ndarray:
        """Monte-Carlo covariance (G + 1, G + 1) of :attr:`mean`; a degree of freedom goes to the total's slope."""
        return covariance_of_mean(self.per_probe, int(self.num_slopes > 0))


def products_with(covariance: Covariance, A: Block, FB: Any, at_once: int | None = None) -> np.ndarray:
    """(G, s) a_k' K_g b_k by columns, from A (n, s) and features of B; half a pass, ``at_once`` columns a time."""
    batches = column_batches(A.shape[1], at_once)
    if len(batches) == 1:
        return covariance.inner(covariance.features(A), FB)
    parts = [covariance.inner(covariance.features(take_columns(A, b)), FB[..., b]) for b in batches]
    return np.concatenate(parts, axis=1)


def probe_images(
    covariance: Covariance, core: ProjectedCore | None, Z: Block, at_once: int | None = None
) -> ProbeImages:
    """Features of projected probes, and the control of ``core``; half a pass, another for the control.

    ValueError where the probes deny the traces that ``core`` takes for known.
    """
    Z = placed(covariance, Z, "Z")
    F = covariance.features(Z)
    if core is None:
        return ProbeImages(Z, F, None)
    forms = covariance.inner(F, F)
    check_traces(covariance, forms, squares_of(covariance, F), core.traces)
    if not core.rank:
        return ProbeImages(Z, F, forms)
    tail = Z - core.U @ (core.U.T @ Z)
    return ProbeImages(Z, F, products_with(covariance, tail, F, at_once))


def trace_estimates(
    covariance: Covariance,
    theta: np.ndarray,
    images: ProbeImages,
    PZ: Block,
    preconditioner: Preconditioner | None,
    at_once: int | None = None,
) -> TraceEstimates:
    """tr(P K_g) and tr(P) from solves P Z of the probes (n, s); half a pass, ``at_once`` columns a time (None for all).

    With a preconditioner M:  tr(P K_g) = tr(M^-1 K_g) + mean z'(P - M^-1)K_g z - control, where M's trace and the
    controls' are exact (:func:`control`).  Without: plain Hutchinson (Hutchinson 1990, Comm. Stat. Simul. 19:433).
    tr(P) follows from sum_h theta_h tr(P K_h) = n - c, so the residual's error is the mirror image of the components'.
    """
    Z = images.Z
    if preconditioner is None:
        genetic = products_with(covariance, PZ, images.features, at_once)
        return TraceEstimates(np.vstack([genetic, column_dots(PZ, Z)]), 0)
    core = preconditioner.core
    difference = PZ - preconditioner.apply_minv(Z)
    values = products_with(covariance, difference, images.features, at_once)
    genetic = preconditioner.inverse_traces[:, None] + values
    num_slopes = 0
    if Z.shape[1] > 2:
        genetic -= control(values, images.control - core.tail_traces[:, None], theta[:-1])
        num_slopes = 1 if len(values) == 1 else 2
    residual = (core.dimension - theta[:-1] @ genetic) / theta[-1]
    return TraceEstimates(np.vstack([genetic, residual]), num_slopes)


def control(values: np.ndarray, known: np.ndarray, theta_g: np.ndarray) -> np.ndarray:
    """(G, s) control variate of mean zero for values (G, s), from ``known`` (G, s) = z'(I-UU')K_g z less its trace.

    To first order in deviations D_h from multiples of I, P K_g = (I + D_g - sum_h theta_h D_h / v) / v: a
    component's own control and the theta-weighted total have different slopes.  One slope is fitted to the weighted
    mean of all components over probes, another to what differs from it, pooled over probes and components.
    """
    G = len(values)
    share = theta_g / theta_g.sum() if theta_g.sum() > 0 else np.full(G, 1 / G)
    mean_value, mean_known = share @ values, share @ known
    own = known - mean_known
    slope = regression_slope(values - mean_value, own)
    return slope * own + regression_slope(mean_value, mean_known) * mean_known
