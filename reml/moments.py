"""Randomised Haseman-Elston moments: the start of a fit, and the information when all components are zero."""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from .covariance import Covariance
from .linalg import column_dots, project


class Moments(NamedTuple):
    """``T`` (G + 1, G + 1) traces tr(K_g K_h) on the complement of X, residual last; ``q`` (G + 1,) y'K_g y."""

    T: np.ndarray
    q: np.ndarray


def moments(covariance: Covariance, Q: np.ndarray, y: np.ndarray, Z: np.ndarray) -> Moments:
    """Normal equations T theta = q of Haseman-Elston regression, T from projected probes Z (n, s).

    T is a Gram matrix of the vectors K_g z, so it is positive semidefinite.  y (n, 1) projected.  Cost: one pass of s
    columns (times the overlap), half a pass of one column.  Memory: G n s.
    Source: Haseman & Elston 1972, Behav. Genet. 2:3; randomised: Wu & Sankararaman 2018, Bioinformatics 34:i187.
    """
    features = covariance.features(Z)
    images = [project(Q, image) for image in covariance.apply_each(features)] + [Z]
    T = np.array([[column_dots(a, b).mean() for b in images] for a in images])
    F = covariance.features(y)
    return Moments(T, np.append(covariance.inner(F, F)[:, 0], column_dots(y, y)[0]))


def start_values(moments: Moments, lower: np.ndarray) -> np.ndarray:
    """Start of a fit: theta >= 0 that solves the moment equations in least squares, kept well inside the bounds.

    The residual gets at least a quarter of the phenotypic variance and every component 1 % of it: moments are noisy
    where relatives make a few eigenvalues large, and a start at the edge costs iterations.
    """
    G = len(moments.T) - 1
    scale = np.sqrt(np.diag(moments.T))
    total = moments.q[-1] / moments.T[-1, -1]
    mean_traces = moments.T[-1, :G] / moments.T[-1, -1]
    x, _ = optimize.nnls(moments.T / np.outer(scale, scale), moments.q / scale)
    genetic = np.maximum((x / scale)[:G], 0.01 * total / max(1, G))
    genetic *= min(1.0, 0.75 * total / (genetic @ mean_traces)) if G else 1.0
    residual = max(total - float(genetic @ mean_traces), 0.25 * total)
    return np.maximum(np.append(genetic, residual), lower)
