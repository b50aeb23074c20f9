"""One component, traits of different people: their Lanczos runs share products, and their traces the probes of all.

Everybody's probes, and every trait's phenotype among its own people, go in one block.  The traces of a trait follow
from everybody's probes and a few restricted to its people (coupled.py), so that another trait costs its phenotype's
steps, a few for its fixed effects, and a few short runs, instead of a set of probes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..contract import check_traces
from ..covariance import CountingCovariance, Covariance
from ..covariance.subset import SubsetCovariance
from ..hooks import Hooks
from ..lanczos import lanczos_start
from ..linalg import project
from ..probes import Probes
from ..result import FitResult, Status
from ..settings import FitSettings
from ..traits import Traits
from .coupled import Coupled
from .crowds import Crowd, Gathering, batches_of, gathered, met
from .krylov import (
    MOST_STEPS,
    LanczosRun,
    Runs,
    Settling,
    TraitFit,
    estimate,
    first_steps,
    further,
    inverse_of,
    is_judged,
    krylov_fits,
    moved,
    result_of,
)
from .people import People, restricted_to
from .probes_of_all import Watched, calibrated, looked_at, spectra_of_all
from .restricted_probes import LOGLIK_TRUNCATION, loss_of, with_restricted

# Probes of all take no further step where the last one changed no variance by so many standard errors, as a tenth of
# what is allowed for chance; steps lose about a factor of three each.
LAST_STEP = 0.01
# A trait is near its estimate where the decrement of its last step is below this: a tenth of a standard error.
NEAR = 0.01
# The runs of fixed effects end where no variance of theirs moves by more than this share.
FIXED_SETTLED = 3e-3


def fits_together(
    peoples: Sequence[People],
    traits: Sequence[Traits],
    X: np.ndarray,
    covariance: Covariance,
    probes: Probes,
    settings: FitSettings,
    hooks: Hooks,
) -> list[FitResult]:
    """REML fits of the traits of several sets of people, in the order in which they were given; X (n, c) of all.

    Sets that share most people are fitted together (:func:`gathering_fits`), others on their own.
    """
    counting, diagonals = CountingCovariance(covariance), covariance.diagonals()
    results: dict[int, FitResult] = {}
    for members in gathered(peoples):
        own, theirs = [peoples[i] for i in members], [traits[i] for i in members]
        if len(members) == 1:
            subset = SubsetCovariance(covariance, own[0].rows, diagonals)
            found = [krylov_fits(theirs[0], subset, restricted_to(probes, own[0]), settings, hooks)]
        else:
            union = np.unique(np.concatenate([people.rows for people in own]))
            among = [SubsetCovariance(counting, rows, diagonals) for rows in (*(each.rows for each in own), union)]
            found = gathering_fits(own, theirs, X, among, probes, settings, hooks)
        for people, of_people in zip(own, found, strict=True):
            results.update(zip(people.which.tolist(), of_people, strict=True))
    return [results[which] for which in sorted(results)]


class Settled(NamedTuple):
    """The probes of all with their moments (5 + 2 P, s), and every crowd's traits with how they ended."""

    probes: Watched
    moments: np.ndarray
    ats: list[Settling]
    statuses: list[Status]


def gathering_fits(
    peoples: Sequence[People],
    traits: Sequence[Traits],
    X: np.ndarray,
    among: Sequence[SubsetCovariance],
    probes: Probes,
    settings: FitSettings,
    hooks: Hooks,
) -> list[list[FitResult]]:
    """REML fits of the traits of every set of people, who are all fitted together; X (n, c) of everybody.

    among: the covariance among those of every set, and last among all of them.
    ``column_passes`` of every result are those of all together.  The callback gets the first trait's record.
    """
    # as many columns as all runs begin with
    widest = settings.probes.first + sum(people.which.size for people in peoples)
    whole = met(peoples, traits, X, among, settings.probes.columns or widest)
    Z = probes.trace[whole.reference.covariance.rows]
    settled = settle(whole, Z[:, : settings.probes.first], settings, hooks)
    measures = [at.run.measures(slice(None)) for at in settled.ats]

    def estimates(calibrations: Sequence[Coupled]) -> list[list[TraitFit]]:
        groups = zip(whole.crowds, measures, calibrations, strict=True)
        return [[estimate(crowd.cohort, y, own, settings, exact=False) for y in ys] for crowd, ys, own in groups]

    spectra = spectra_of_all(whole, Z, settled.probes, settled.moments, estimates, settings)
    calibrations = with_restricted(whole, Z, settled.probes, spectra, estimates, settings)
    found = estimates(calibrations)
    fixed = fixed_runs(whole, [[each.theta for each in own] for own in found])
    details = {"num_probes": spectra.spectra.num_probes, "mc_target": settings.probes.mc_target}
    details.update(constrain=settings.constrain, column_passes=whole.counting.column_passes)
    return [
        crowd_results(crowd, Runs(at.run, effects), own, calibration, at, settings, {**details, "status": status})
        for crowd, at, status, own, calibration, effects in zip(
            whole.crowds, settled.ats, settled.statuses, found, calibrations, fixed, strict=True
        )
    ]


def crowd_results(
    crowd: Crowd, runs: Runs, found: list[TraitFit], calibration: Coupled, at: Settling, settings: FitSettings, details
) -> list[FitResult]:
    """The results of a crowd's traits; no product."""
    results = []
    for which, each in enumerate(found):
        result = result_of(crowd.cohort, runs, crowd.traits, which, each, history=at.history[which], **details)
        results.append(further(result, each, calibration, settings, float(crowd.traits.scales[which]), exact=False))
    return results


def settle(whole: Gathering, probes: np.ndarray, settings: FitSettings, hooks: Hooks) -> Settled:
    """The runs of all traits and of the first probes (n, s), until no trait's estimate moves any more."""
    reference, crowds = whole.reference, whole.crowds
    cohorts = [reference, *(crowd.cohort for crowd in crowds)]
    Z = project(reference.Q, reference.covariance.block(probes))
    starts = [Z, *(crowd.subset.block(crowd.traits.scaled) for crowd in crowds)]
    run, *leads = whole.advanced(cohorts, [LanczosRun(lanczos_start(start), ()) for start in starts])
    watched = Watched(run, Z, ()).stepped(run, crowds)
    run, *leads = whole.advanced(cohorts, [run, *leads])
    moments, watched = looked_at(whole, Z, run), watched.stepped(run, crowds)
    check_traces(reference.covariance, moments[1:2], moments[2:3], np.array([reference.trace]))
    ats = [
        Settling(lead, first_steps(run, 0), ((),) * len(crowd.people.which), (None,) * len(crowd.people.which), 0.0)
        for lead, crowd in zip(leads, crowds, strict=True)
    ]
    limit, going = min(MOST_STEPS, *(cohort.dimension for cohort in cohorts)), True
    while True:
        k = ats[0].run.num_steps
        if is_judged(k, limit):
            calibrations = calibrated(whole, watched.spectra(moments))
            passes = whole.counting.column_passes
            looks = [
                moved(crowd.traits, at._replace(column_passes=passes), own.measure, crowd.cohort.dimension, settings)
                for crowd, at, own in zip(crowds, ats, calibrations, strict=True)
            ]
            ats = [at for at, _ in looks]
            hooks.report(ats[0].history[0][-1])
            if k >= limit or all(settled for _, settled in looks):
                break
            going = going and not probes_settled(crowds, watched, calibrations, ats, settings)
        if going:
            run, *leads = whole.advanced(cohorts, [watched.run, *(at.run for at in ats)])
            watched = watched.stepped(run, crowds)
        else:
            leads = whole.advanced(cohorts[1:], [at.run for at in ats])
        ats = [at._replace(run=lead) for at, lead in zip(ats, leads, strict=True)]
    statuses = [
        Status.CONVERGED if settled or crowd.cohort.dimension == k else Status.SOLVER_STALLED
        for crowd, (_, settled) in zip(crowds, looks, strict=True)
    ]
    return Settled(watched, moments, ats, statuses)


def probes_settled(
    crowds: Sequence[Crowd], probes: Watched, calibrations: Sequence[Coupled], ats: Sequence[Settling], settings
) -> bool:
    """Whether another step of the probes of all would change nothing that matters, as the last one did not.

    Not before every trait is near its estimate, since which functions of the spectrum matter depends on that.
    """
    if probes.run.num_steps < 4 or any(records[-1].decrement > NEAR for at in ats for records in at.history):
        return False
    nodes, weights, _ = probes.quadratures(probes.run.num_steps - 1)
    for crowd, calibration, at in zip(crowds, calibrations, ats, strict=True):
        for measure in at.run.measures(slice(None)):
            found = estimate(crowd.cohort, measure, calibration, settings, exact=False)
            variances, logdet = loss_of(found, calibration, nodes, weights)
            if not (variances <= LAST_STEP and logdet <= LOGLIK_TRUNCATION):
                return False
    return True


def fixed_runs(whole: Gathering, thetas: Sequence[Sequence[np.ndarray]]) -> list[LanczosRun]:
    """The runs of F of every crowd, each until the variances of its fixed effects have settled at all its thetas."""
    crowds = whole.crowds
    runs = []
    for batch in batches_of([crowd.cohort.F.shape[1] for crowd in crowds], whole.columns):
        runs += settled_fixed(whole, [crowds[i] for i in batch], [thetas[i] for i in batch])
    return runs


def settled_fixed(
    whole: Gathering, crowds: Sequence[Crowd], thetas: Sequence[Sequence[np.ndarray]]
) -> list[LanczosRun]:
    """:func:`fixed_runs` of some crowds, side by side."""
    runs = [LanczosRun(lanczos_start(crowd.cohort.F), ()) for crowd in crowds]
    going, before = list(range(len(crowds))), [np.inf] * len(crowds)
    while going:
        stepped = whole.advanced([crowds[i].cohort for i in going], [runs[i] for i in going])
        left = []
        for i, run in zip(going, stepped, strict=True):
            runs[i] = run
            now = np.array([np.diag(inverse_of(crowds[i].cohort, run, theta)) for theta in thetas[i]])
            settled = (np.abs(now - before[i]) <= FIXED_SETTLED * now).all()
            before[i] = now
            if not settled and run.num_steps < min(MOST_STEPS, crowds[i].cohort.dimension):
                left.append(i)
        going = left
    return runs
