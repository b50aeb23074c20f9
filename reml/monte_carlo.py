"""Errors of means over random probes: stated so that two of them cover as two standard errors of a normal do."""

import numpy as np
from scipy import special

# Fewer probes than this do not know their own spread, so that their error is stated as unknown (docs/performance.md).
LEAST_PROBES = 16
# The share of a normal law below two standard errors.
TWO_ERRORS = special.ndtr(2.0)


def widening(df: np.ndarray | float) -> np.ndarray | float:
    """Student's t with ``df`` degrees of freedom over the normal law at two standard errors: 1.09 at 15, 1.04 at 31."""
    return special.stdtrit(df, TWO_ERRORS) / 2


def covariance_of_mean(per_probe: np.ndarray, num_fitted: int = 0) -> np.ndarray:
    """(q, q) Monte-Carlo covariance of the mean of per_probe (q, s), widened by Student's law.

    num_fitted: degrees of freedom, besides the mean's, that slopes of control variates took from the same probes.
    NaN for fewer than 16 probes.
    """
    q, s = per_probe.shape
    if s < LEAST_PROBES:
        return np.full((q, q), np.nan)
    df = s - 1 - num_fitted
    centred = per_probe - per_probe.mean(axis=1, keepdims=True)
    return centred @ centred.T / (s * df) * widening(df) ** 2


def error_of_mean(per_probe: np.ndarray, num_fitted: int = 0) -> float:
    """Monte-Carlo standard error of the mean of per_probe (s,); see :func:`covariance_of_mean`."""
    return float(np.sqrt(covariance_of_mean(per_probe[None], num_fitted)[0, 0]))
