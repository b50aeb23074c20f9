"""Heritability of a disease on the scale of its liability, from that on the observed 0/1 scale."""

import numpy as np
from scipy import special

from ..inference import Derived


def liability_factor(prevalence: float, share_of_cases: float) -> float:
    """h2 of liability over h2 observed: K^2 (1-K)^2 / (P (1-P) z^2), z the normal density at the threshold of K.

    prevalence K in the population, share_of_cases P in the sample.  Source: Lee et al. 2011, Am. J. Hum. Genet. 88:294,
    equation 23; with P = K it is Dempster & Lerner 1950, Genetics 35:212.  It holds for small effects of each variant,
    cases chosen without regard to anything else, and estimates by REML of a strong ascertainment come out low
    (Golan, Lander & Rosset 2014, PNAS 111:E5272).
    """
    for name, value in (("prevalence", prevalence), ("share_of_cases", share_of_cases)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected a share between 0 and 1, found {value}")
    K, P = prevalence, share_of_cases
    z = np.exp(-(special.ndtri(K) ** 2) / 2) / np.sqrt(2 * np.pi)
    return float(K**2 * (1 - K) ** 2 / (P * (1 - P) * z**2))


def on_liability(h2: Derived, factor: float) -> Derived:
    """Heritabilities with their errors times the factor, which is known."""
    return Derived(*(factor * part for part in h2))


def share_of_cases(y: np.ndarray) -> float | None:
    """P, where y (n,) has two values of which the larger means a case; None where it has another number of values."""
    values = np.unique(y)
    return float(np.mean(y == values[1])) if len(values) == 2 else None
