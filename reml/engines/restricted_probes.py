"""Probes of one set of people: a few short runs that add what everybody's probes cannot tell of its traces."""

from collections.abc import Sequence

import numpy as np

from ..inference import largest_mc_ratio, mc_covariance_of_theta, sampling_covariance
from ..lanczos import lanczos_start
from ..linalg import project
from ..monte_carlo import LEAST_PROBES
from ..settings import FitSettings
from . import spectral
from .coupled import (
    Added,
    Coupled,
    SpectraOfAll,
    Spread,
    pooled,
    usual_spread,
)
from .crowds import Crowd, Gathering, batches_of
from .krylov import (
    MOST_ROUNDS,
    LanczosRun,
    TraitFit,
)
from .probes_of_all import OF_ALL, Watched, calibrated

# What restricted probes add may be off, for having few steps, by so many standard errors of a variance,
TRUNCATION = 0.03
# and so many Monte-Carlo errors of a log-likelihood.
LOGLIK_TRUNCATION = 0.2


def steps_of_restricted(
    whole: Gathering, probes: Watched, calibrations: Sequence[Coupled], found: Sequence[Sequence[TraitFit]]
) -> int:
    """How many steps restricted probes take: as many as keep what is cut off small in every trait's standard errors.

    What probes of all lose by so few steps is known.  What a restricted probe adds loses a difference of two such
    losses: about the share of people outside, and a tenth to be safe.
    """
    for steps in range(2, probes.run.num_steps):
        nodes, weights, _ = probes.quadratures(steps)
        losses = [
            (1.1 - crowd.known.share) * np.array(loss_of(each, calibration, nodes, weights))
            for crowd, own, calibration in zip(whole.crowds, found, calibrations, strict=True)
            for each in own
        ]
        if (np.max(losses, axis=0) <= (TRUNCATION, LOGLIK_TRUNCATION)).all():
            return steps
    return probes.run.num_steps


def loss_of(found: TraitFit, calibration: Coupled, nodes: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """What fewer steps change: variances in standard errors, and the log-likelihood in its Monte-Carlo errors."""
    if found.theta[0] == 0:  # then all functions are constant
        return 0.0, 0.0
    loss = np.abs(calibration.truncated(lambda at: spectral.of_v(found.theta, at), nodes, weights)) / 2
    sampling = sampling_covariance(found.ai, found.layout.without_error(found.free))
    known = np.isfinite(np.diag(sampling)) & found.free
    shift = np.abs(np.where(known[:, None] & known, sampling, 0.0)) @ loss[:2]
    relative = shift[known] / np.sqrt(np.diag(sampling)[known])
    return float(relative.max(initial=0.0)), float(loss[2] / found.loglik_mc_se)


def with_restricted(
    whole: Gathering, Z: np.ndarray, probes: Watched, spectra: SpectraOfAll, estimates, settings: FitSettings
) -> list[Coupled]:
    """The measure of every crowd's trace with what restricted probes add, as many as its error asks for."""
    calibrations = calibrated(whole, spectra)
    found = estimates(calibrations)
    some = [i for i, crowd in enumerate(whole.crowds) if not crowd.everybody]
    if not some:
        return calibrations
    most, steps = probes.run.state.norms2.size, steps_of_restricted(whole, probes, calibrations, found)
    least = min(most, max(2, 1 + -(-LEAST_PROBES // len(some))))
    spreads = {i: Spread(usual_spread(whole.crowds[i].known.share), np.inf) for i in some}
    added: list[Added | None] = [None] * len(whole.crowds)
    for _ in range(MOST_ROUNDS):
        wanted = {}
        for i in some:
            count = restricted_wanted(found[i], calibrations[i], spreads[i], settings)
            before = 0 if added[i] is None else added[i].num_probes
            if before < min(most, max(least, count)):
                wanted[i] = slice(before, min(most, max(least, count)))
        if not wanted:
            break
        for (i, new), own in zip(wanted.items(), restricted_runs(whole, Z, wanted, steps), strict=True):
            nodes, weights = own if not new.start else map(np.concatenate, zip(added[i].own, own, strict=True))
            at, _, controls = probes.quadratures(steps, new.stop)
            added[i] = Added((nodes, weights), (at, controls[i]))
        calibrations = calibrated(whole, spectra, added)
        own = [
            worst_spread(whole.crowds[i], calibrations[i], each)
            for i, each in enumerate(estimates(calibrations))
            if i in some
        ]
        spreads = dict(zip(some, pooled(own, [whole.crowds[i].known.share for i in some]), strict=True))
        calibrations = [each._replace(spread=spreads.get(i)) for i, each in enumerate(calibrations)]
        found = estimates(calibrations)
    return calibrations


def worst_spread(crowd: Crowd, calibration: Coupled, found: Sequence[TraitFit]) -> Spread:
    """The largest over traits of the same people, whose functions differ; a constant one tells of none."""
    spreads = [
        calibration.own_spread(lambda nodes, at=each: spectral.of_v(at.theta, nodes))
        for each in found
        if each.theta[0] != 0
    ]
    return max(spreads, key=lambda spread: spread.value, default=Spread(usual_spread(crowd.known.share), 0))


def restricted_wanted(found: Sequence[TraitFit], calibration: Coupled, spread: Spread, settings: FitSettings) -> int:
    """How many restricted probes bring a crowd's errors under the target, beside those of the probes of all."""
    wanted, target = 0, settings.probes.mc_target
    for each in found:
        errors = calibration.each_covariance(lambda nodes, at=each: spectral.of_v(at.theta, nodes))
        one = error_ratio(each, errors[:2, :2]) ** 2 * spread.value
        taken = 0.0 if calibration.spread is None else one / calibration.added.num_probes
        room = max((1 - OF_ALL) / 2 * target**2, target**2 - (each.ratio**2 - taken))  # less needs probes of all
        if np.isfinite(one) and np.isfinite(each.ratio):  # so few probes as not to know their spread want no more
            wanted = max(wanted, int(np.ceil(one / room)))
    return wanted


def error_ratio(found: TraitFit, errors: np.ndarray) -> float:
    """The largest Monte-Carlo error, over its standard error, that errors (2, 2) of tr(P K) and tr(P) make."""
    layout = found.layout
    mc = mc_covariance_of_theta(found.ai, errors / 4, found.free)
    sampling = sampling_covariance(found.ai, layout.without_error(found.free))
    return largest_mc_ratio(found.theta, layout.mean_traces, sampling, mc, layout.residual_traces)


def restricted_runs(
    whole: Gathering, Z: np.ndarray, wanted: dict[int, slice], steps: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Quadratures of some probes of all (n, s), restricted to the crowds that want them."""
    some = [(whole.crowds[i], columns) for i, columns in wanted.items()]
    found = []
    for batch in batches_of([columns.stop - columns.start for _, columns in some], whole.columns):
        members = [some[position] for position in batch]
        cohorts = [crowd.cohort for crowd, _ in members]
        starts = [project(crowd.cohort.Q, crowd.subset.block(Z[crowd.inside, columns])) for crowd, columns in members]
        runs = [LanczosRun(lanczos_start(start), ()) for start in starts]
        for _ in range(steps):
            runs = whole.advanced(cohorts, runs)
        found += [run.quadratures() for run in runs]
    return found
