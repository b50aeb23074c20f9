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
    """theta >= 0 that solves the moment equations in least squares, moved off the bounds so that a step is defined."""
    scale = np.sqrt(np.diag(moments.T))
    total = moments.q[-1] / moments.T[-1, -1]
    x, _ = optimize.nnls(moments.T / np.outer(scale, scale), moments.q / scale)
    theta = x / scale
    theta[-1] = max(theta[-1], 0.1 * total)
    theta[:-1] = np.maximum(theta[:-1], 0.01 * total / max(1, len(theta) - 1))
    return np.maximum(theta, lower)
