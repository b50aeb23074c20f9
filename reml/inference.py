"""From estimates to what is reported: heritability with delta-method errors, the likelihood-ratio test."""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from .step import ai_step, shortened

DRAWS = 256  # of an error of the score, in pairs of opposite signs, where bounds come in
PROJECTED = 80_000  # numbers in the normal vectors that tell the weights of a chi-bar-squared law


class Derived(NamedTuple):
    """Functions of theta: ``estimate`` (k,) with sampling ``se`` and Monte-Carlo ``mc_se``."""

    estimate: np.ndarray
    se: np.ndarray
    mc_se: np.ndarray


class Lrt(NamedTuple):
    """Likelihood-ratio test of all genetic components at zero; ``weights[i]`` belongs to chi-square with i df."""

    statistic: float
    mc_se: float
    df: int
    p: float
    weights: np.ndarray


def delta_method(estimate: np.ndarray, jacobian: np.ndarray, covariance: np.ndarray, mc: np.ndarray) -> Derived:
    """Standard errors sqrt(diag(J C J')) of functions with Jacobian J (k, p)."""

    def spread(C):
        unknown = ~np.isfinite(np.diag(C))  # of a parameter without an error: what depends on it has none either
        known = np.where(unknown[:, None] | unknown[None], 0.0, C)
        found = np.sqrt(np.maximum(np.einsum("kp,pq,kq->k", jacobian, known, jacobian), 0))
        return np.where((jacobian != 0) @ unknown, np.nan, found)

    return Derived(np.atleast_1d(estimate), spread(covariance), spread(mc))


def explained_variances(
    theta: np.ndarray, mean_traces: np.ndarray, covariance: np.ndarray, mc: np.ndarray, residual_traces=(1.0,)
) -> Derived:
    """(G + J,) theta_g tr(K_g) / n and eta_j tr(R_j) / n: they add up to the phenotypic variance."""
    atoms = np.append(mean_traces, residual_traces)
    return delta_method(theta * atoms, np.diag(atoms), covariance, mc)


def heritability(
    theta: np.ndarray, mean_traces: np.ndarray, covariance: np.ndarray, mc: np.ndarray, residual_traces=(1.0,)
) -> Derived:
    """Trace-weighted h2 of every component, then of all together (G + 1,).

    h2_g = theta_g t_g / (sum_h theta_h t_h + sum_j eta_j r_j) with t_g = tr(K_g) / n, mean_traces (G,), and
    r_j = tr(R_j) / n, residual_traces (J,); theta (G + J,).
    """
    G = len(mean_traces)
    counted = np.vstack([np.eye(G), np.ones(G)])
    return share_of_phenotypic(theta, mean_traces, covariance, mc, residual_traces, counted)


def share_of_phenotypic(
    theta: np.ndarray, mean_traces: np.ndarray, covariance: np.ndarray, mc: np.ndarray, residual_traces, counted
) -> Derived:
    """(k,) sums of components over the phenotypic variance; counted (k, G) is 1 for those that a sum has."""
    atoms = np.append(mean_traces, residual_traces)
    total = theta @ atoms
    direct = np.hstack([counted, np.zeros((len(counted), len(residual_traces)))]) * atoms
    shares = direct @ theta / total
    return delta_method(shares, (direct - shares[:, None] * atoms[None]) / total, covariance, mc)


def shares_of_genetic(
    theta: np.ndarray, mean_traces: np.ndarray, covariance: np.ndarray, mc: np.ndarray, residual_traces=(1.0,)
) -> Derived:
    """(G,) share of the genetic variance in every component; NaN when there is none."""
    G = len(mean_traces)
    atoms = np.append(mean_traces, np.zeros(len(residual_traces)))
    parts = theta * atoms
    total = parts.sum()
    if total <= 0:
        nan = np.full(G, np.nan)
        return Derived(nan, nan, nan)
    shares = parts[:G] / total
    jacobian = (np.diag(atoms)[:G] - shares[:, None] * atoms[None]) / total
    return delta_method(shares, jacobian, covariance, mc)


def total_variance(
    theta: np.ndarray, mean_traces: np.ndarray, covariance: np.ndarray, mc: np.ndarray, residual_traces=(1.0,)
) -> Derived:
    """V_P = sum_g theta_g t_g + sum_j eta_j r_j, (1,)."""
    atoms = np.append(mean_traces, residual_traces)
    return delta_method(theta @ atoms, atoms[None], covariance, mc)


def mc_covariance_of_theta(ai: np.ndarray, score_covariance: np.ndarray, free: np.ndarray) -> np.ndarray:
    """(p, p) AI^-1 Cov(score) AI^-1 on the free parameters, zero for those at a bound: they carry no probe error."""
    out = np.zeros_like(ai)
    block = np.ix_(free, free)
    inverse = np.linalg.inv(ai[block])
    out[block] = inverse @ score_covariance[block] @ inverse
    return out


def bounded_covariance(
    theta: np.ndarray,
    score: np.ndarray,
    ai: np.ndarray,
    errors: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    estimated: np.ndarray,
) -> np.ndarray:
    """(p, p) second moment, about theta, of where the bounded AI step from the maximum theta leads when the score errs.

    errors (p, p): covariance of the score's normal errors.  bounds: lower (p,), and upper, at which a step is cut
    short.  :func:`mc_covariance_of_theta` where no error that is drawn moves theta to a bound or away from one; else
    the mean over the draws, which are always the same.
    """
    lower, upper = bounds
    free, axes = theta > lower * (1 + 1e-9), np.ndim(estimated) == 1
    if axes:
        free &= estimated
    values, vectors = np.linalg.eigh(errors)
    half = np.random.default_rng(0).standard_normal((len(theta), DRAWS // 2))
    drawn = (vectors * np.sqrt(np.maximum(values, 0))) @ np.hstack([half, -half])
    score, moves = np.where(free, 0.0, score), np.zeros_like(drawn)
    moves[free] = np.linalg.solve(ai[np.ix_(free, free)], drawn[free])
    at_bound = ~free & (estimated if axes else True)
    slopes = score[:, None] + drawn - ai @ moves
    stays = (theta[:, None] + moves >= lower[:, None])[free].all(axis=0) & (slopes[at_bound] <= 0).all(axis=0) & axes
    if stays.all():
        return mc_covariance_of_theta(ai, errors, free)
    for b in np.flatnonzero(~stays):
        moves[:, b] = shortened(ai_step(theta, score + drawn[:, b], ai, lower, estimated), theta, upper).direction
    return moves @ moves.T / DRAWS


def sampling_covariance(information: np.ndarray, without_error: np.ndarray) -> np.ndarray:
    """(p, p) inverse of the information about the parameters that have an error; NaN for the others.

    without_error (p,) bool: residuals at their bound.  There the likelihood still rises, so its curvature is no error;
    the others' errors are those with these residuals held.
    """
    covariance = np.full(information.shape, np.nan)
    rest = np.ix_(~without_error, ~without_error)
    covariance[rest] = np.linalg.inv(information[rest])
    return covariance


def largest_mc_ratio(
    theta: np.ndarray, mean_traces: np.ndarray, covariance: np.ndarray, mc: np.ndarray, residual_traces=(1.0,)
) -> float:
    """The largest mc_se / se over the variance components and heritabilities that have a standard error."""
    h2 = heritability(theta, mean_traces, covariance, mc, residual_traces)
    se = np.append(np.sqrt(np.diag(covariance)), h2.se)
    mc_se = np.append(np.sqrt(np.diag(mc)), h2.mc_se)
    known = se > 0
    return float(np.max(mc_se[known] / se[known], initial=0.0))


def antithetic_normals(dimension: int, num_points: int) -> np.ndarray:
    """(num_points, dimension) standard normal vectors in pairs of opposite signs, the same ones in every run."""
    half = np.random.default_rng(0).standard_normal((num_points // 2, dimension))
    return np.concatenate([half, -half])


def boundary_weights(information: np.ndarray, *, num_residuals: int = 1) -> np.ndarray:
    """(G + 1,) weights of the chi-bar-squared law of the test that G non-negative components are all zero.

    information (G + J, G + J): Fisher's at the null, the J residuals last and profiled out.  Exact for one component
    and two; otherwise the share of normal vectors whose projection on the orthant has i positive parts, over a fixed
    set (no seed), which errs by about 0.01 a weight.
    Source: Self & Liang 1987, JASA 82:605; Silvapulle & Sen 2005, Constrained Statistical Inference, 3.5.
    """
    G = len(information) - num_residuals
    if G == 1:
        return np.array([0.5, 0.5])
    cross = information[:G, G:]
    profiled = information[:G, :G] - cross @ np.linalg.solve(information[G:, G:], cross.T)
    scale = np.sqrt(np.diag(profiled))
    correlations = profiled / np.outer(scale, scale)
    if G == 2:
        both = np.arccos(correlations[0, 1]) / (2 * np.pi)
        return np.array([0.5 - both, 0.5, both])
    upper, points = np.linalg.cholesky(correlations).T, antithetic_normals(G, max(1024, PROJECTED // G // 2 * 2))
    positive = [np.count_nonzero(optimize.nnls(upper, point)[0]) for point in points]
    return np.bincount(positive, minlength=G + 1) / len(points)


def likelihood_ratio_test(loglik: float, loglik_null: float, loglik_mc_se: float, weights: np.ndarray) -> Lrt:
    """2 (ell - ell_0) against the mixture sum_i weights_i chi2_i; the null's likelihood is exact."""
    statistic = max(0.0, 2 * (loglik - loglik_null))
    tail = np.array([float(statistic <= 0)] + [special.chdtrc(i, statistic) for i in range(1, len(weights))])
    return Lrt(statistic, 2 * loglik_mc_se, len(weights) - 1, float(weights @ tail), weights)
