"""From a scan's statistics to estimates with errors, p and enrichments, in y's units."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from gpu_reml.ops import GenotypeCovariance

from ..covariance import Covariance
from ..inference import Derived
from ..result import FitResult
from .scan_law import log10_p
from .scan_result import ScanResult
from .scan_statistics import DEPENDENT, Fitted, Statistics

STEP = 1e-3  # in z, for the slope of -log10 p


def made_result(
    result: FitResult, covariance: Covariance, sets: GenotypeCovariance, fitted: Fitted, found: Statistics
) -> ScanResult:
    """Statistics as estimates with their errors, in y's units."""
    own = found.variance / found.whole
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.where(own > DEPENDENT, found.variance, np.nan))
        z = found.score / root
        theta, se = 2 * found.score / root**2, 2 / root
        of_mean, of_variance, of_both = found.errors.T

        def error(by_mean: np.ndarray, by_variance: np.ndarray) -> np.ndarray:
            parts = by_mean**2 * of_mean + by_variance**2 * of_variance + 2 * by_mean * by_variance * of_both
            return np.sqrt(np.maximum(parts, 0))

        z_mc = error(1 / root, z / (2 * root**2))
        theta_mc = error(2 / root**2, theta / root**2)
        lead, skewness = found.lead / root, found.third / root**3
        unit_error = found.variance_error / (2 * root**2)
        inflation = of_mean / root**2
    log10p, slope = tails(z, lead, skewness, inflation, unit_error)
    scale, traces = fitted.scale**2, sets.traces / sets.num_samples
    theta, se, theta_mc = theta * scale, se * scale, theta_mc * scale
    along = found.along
    return ScanResult(
        tuple(sets.names),
        np.asarray(sets.num_variants),
        Derived(theta * traces, se * traces, theta_mc * traces),
        enrichment_of(result, covariance, sets, fitted, OneStep(theta, se, theta_mc, found.beta)),
        theta,
        z,
        z_mc,
        log10p,
        np.abs(slope) * z_mc,
        skewness,
        own,
        np.minimum(2 * lead**2, 1.0),
        found.pairs,
        fitted.replicates.count,
        fitted.replicates.steps,
        np.full(len(z), fitted.replicates.complete),
        Derived(*(values * scale * traces for values in (along.theta, along.se, along.mc_se))),
        along.lrt,
        along.lrt_mc_se,
    )


def tails(z, lead, skewness, inflation, unit_error) -> tuple[np.ndarray, np.ndarray]:
    """(-log10 p, its slope in z); NaN where z is."""
    log10p, slope = np.full(len(z), np.nan), np.full(len(z), np.nan)
    known = np.isfinite(z)
    law = tuple(values[known] for values in (lead, skewness, inflation, unit_error))
    log10p[known] = log10_p(z[known], *law)
    slope[known] = (log10_p(z[known] + STEP, *law) - log10p[known]) / STEP
    return log10p, slope


class OneStep(NamedTuple):
    """One step to ``theta`` (A,) with its errors; ``beta`` (A, q): what it takes from the fitted variances."""

    theta: np.ndarray
    se: np.ndarray
    mc_se: np.ndarray
    beta: np.ndarray


class Shares(NamedTuple):
    """Variance of the sets' variants, for each unit of theta: ``held`` (A, G) of the fitted components', with
    ``totals`` (G,), and ``further`` (A,) of the set's own, with ``further_totals`` (A,)."""

    held: np.ndarray
    totals: np.ndarray
    further: np.ndarray
    further_totals: np.ndarray


def shares_of(covariance: GenotypeCovariance, sets: GenotypeCovariance) -> Shares:
    """What a set's variants hold in every component."""
    genotypes, a = sets.products.genotypes, sets.weights
    squares = sparse.diags_array(genotypes.squared_norm / genotypes.num_samples)
    held = (a.T @ (squares @ covariance.weights)).toarray()
    further = np.asarray((a.multiply(a).T @ squares).sum(axis=1)).ravel()
    return Shares(held, covariance.traces / sets.num_samples, further, sets.traces / sets.num_samples)


def enrichment_of(
    result: FitResult, covariance: Covariance, sets: GenotypeCovariance, fitted: Fitted, step: OneStep
) -> Derived:
    """Share of heritability over share of variants after the step, a function of the fitted variances and theta_a;
    the fitted ones' errors are those of the fit."""
    A = len(step.theta)
    unknown = Derived(*(np.full(A, np.nan) for _ in range(3)))
    same = isinstance(covariance, GenotypeCovariance) and covariance.products is sets.products
    if not same:
        return unknown
    shares, G = shares_of(covariance, sets), covariance.num_components
    beta = np.zeros((A, len(result.theta)))
    beta[:, fitted.free] = step.beta
    moved = result.theta[:G] - step.theta[:, None] * beta[:, :G]
    value = (shares.held * moved).sum(axis=1) + step.theta * shares.further
    total = moved @ shares.totals + step.theta * shares.further_totals
    varies = float((sets.products.genotypes.inv_sd > 0).sum())
    of_variants = np.asarray(sets.weights.sum(axis=0)).ravel() / varies
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0, value / total, np.nan)
        by_fitted = (shares.held - share[:, None] * shares.totals) / total[:, None]
        own = shares.further - (shares.held * beta[:, :G]).sum(axis=1)
        own_total = shares.further_totals - beta[:, :G] @ shares.totals
        by_own = (own - share * own_total) / total
    free = fitted.free[fitted.free < G]

    def spread(covariance_of: np.ndarray, error: np.ndarray) -> np.ndarray:
        C, J = covariance_of[np.ix_(free, free)], by_fitted[:, free]
        return np.sqrt(np.einsum("ap,pq,aq->a", J, C, J) + (by_own * error) ** 2) / of_variants

    errors = spread(result.covariance, step.se), spread(result.mc_covariance, step.mc_se)
    return Derived(share / of_variants, *errors)
