"""Where the likelihood is highest along the way of a component's one step, and by how much: no solve, no pass.

The step moves V by theta D, D = K_a - sum_g beta_g K_g (:mod:`.scan_statistics`).  Along it

    2 (l(theta) - l(0)) = theta y'P D (I + theta P D)^-1 P y - log|I + theta P D|

whose first two terms in theta are what one step knows.  With replicates x in place of P = E[x x'], E_bc = x_b'D x_c and
e_b = x_b'D P y, it follows from the eigenvalues of E / R; but R replicates say at t what P says at

    theta = t (1 - u),  u = tr(t E / R (I + t E / R)^-1) / R
    log|I + theta P D| = log|I + t E / R| + R (log(1 - u) + u)

as in the limit of many replicates and directions (Marchenko & Pastur 1967, Math. USSR Sb. 1:457; for resolvents Hachem,
Loubaton & Najim 2007, Ann. Appl. Probab. 17:875).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from gpu_reml.ops import blas

WAY = np.geomspace(0.01, 100, 257)  # thetas that are looked at, over that of one step


class Along(NamedTuple):
    """The highest point: ``theta`` with standard error by the curvature there and Monte-Carlo error, and the likelihood
    ratio ``lrt`` against theta = 0 with its; (a,) each, NaN where there is none.  Monte-Carlo errors are by the
    influence of every replicate; those of components of many equal directions are up to twice too large."""

    theta: np.ndarray
    se: np.ndarray
    mc_se: np.ndarray
    lrt: np.ndarray
    lrt_mc_se: np.ndarray


def unknown(count: int) -> Along:
    """None of so many components."""
    return Along(*np.full((5, count), np.nan))


def maxima_along(
    E: np.ndarray, e: np.ndarray, score: np.ndarray, step: Sequence[float], *, complete: bool
) -> list[tuple[float, ...]]:
    """(theta, se, mc_se, lrt, lrt_mc_se) of forms E (a, R, R) and e (a, R), efficient scores (a,), and one ``step``
    (a,) each; a component a thread."""

    def one(item) -> tuple[float, ...]:
        return maximum_along(*item, complete=complete)

    with blas.one_thread(), ThreadPoolExecutor(get_num_threads()) as pool:
        return list(pool.map(one, zip(E, e, score, step, strict=True)))


def maximum_along(E: np.ndarray, e: np.ndarray, score: float, step: float, *, complete: bool) -> tuple[float, ...]:
    """:func:`maxima_along` of one component: the first maximum on the way; 10 R^3 flop."""
    R = len(E)
    values, vectors = np.linalg.eigh(E / R)
    coords = vectors.T @ e
    t = step * WAY
    t = t[: np.count_nonzero(1 + t * min(values[0], 0.0) > 0)]
    d = 1 + t[:, None] * values
    u = np.zeros(len(t)) if complete else (t[:, None] * values / d).sum(axis=1) / R
    theta, quadratic = t * (1 - u), score + values.sum() - t * (coords**2 / R / d).sum(axis=1)
    with np.errstate(invalid="ignore"):
        rise = theta * quadratic - np.log(d).sum(axis=1) - R * (np.log1p(-u) + u)
    falls = np.flatnonzero(~(np.diff(rise) > 0))
    if not len(falls) or falls[0] == 0 or not np.isfinite(rise[: falls[0] + 2]).all():
        return (np.nan,) * 5
    at = falls[0]
    origin = np.log(theta[at])
    curve, slope, top = np.polyfit(np.log(theta[at - 1 : at + 2]) - origin, rise[at - 1 : at + 2], 2)
    best, lrt = float(np.exp(origin - slope / (2 * curve))), float(top - slope**2 / (4 * curve))
    se = best / np.sqrt(-curve)  # half of the rise has the curvature of the log-likelihood
    if complete:
        return best, se, 0.0, lrt, 0.0
    on_slope, on_rise = influences(values, vectors, coords, float(t[at]))
    return best, se, float(se**2 * spread(on_slope) / 2), lrt, spread(on_rise)


def influences(values: np.ndarray, vectors: np.ndarray, coords: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """(R,) each: by how much the slope and the height of the rise at t change with the weight of every replicate."""
    R, d = len(values), 1 + t * values
    left, bent = vectors @ (coords / d), -(vectors @ (values * coords / d**2))  # (I + t E / R)^-1 e, its derivative
    squares = vectors**2
    on_slope = -2 * t * left * (left + t * bent) / R - squares @ (values / d**2)
    return on_slope, -(t**2) * left**2 / R - squares @ (t * values / d)


def spread(influence: np.ndarray) -> float:
    """The standard error of a number of which every replicate has this influence (R,)."""
    R = len(influence)
    return float(np.std(influence) * R / np.sqrt(R - 1))
