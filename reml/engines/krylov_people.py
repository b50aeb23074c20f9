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
from ..inference import largest_mc_ratio, mc_covariance_of_theta, sampling_covariance
from ..lanczos import Tridiagonal, lanczos_start, ritz_measures
from ..linalg import column_batches, column_dots, orthonormal_basis, project
from ..monte_carlo import LEAST_PROBES
from ..probes import Probes
from ..result import FitResult, Status
from ..settings import FitSettings
from ..traits import Traits
from . import spectral
from .calibration import ProbeSpectra
from .coupled import (
    Added,
    Coupled,
    Known,
    SpectraOfAll,
    Spread,
    control_weights,
    coupled,
    pooled,
    second_moments,
    usual_spread,
)
from .krylov import (
    MARGIN,
    MOST_ROUNDS,
    MOST_STEPS,
    Cohort,
    LanczosRun,
    Runs,
    Settling,
    TraitFit,
    advance,
    estimate,
    first_steps,
    further,
    inverse_of,
    krylov_fits,
    moved,
    prepared,
    probes_wanted,
    result_of,
)
from .people import People, restricted_to

# People are fitted together with others where they are at least this share of those who have any of the traits: below,
# everybody's probes say too little of theirs.
LEAST_SHARE = 0.7
# So many sets of people are fitted together, at most: the vectors of all are held, and with more of them everybody's
# probes, which they share, are a small part of the cost already.
MOST_TOGETHER = 100
# Everybody's probes take up to this share of the squared Monte-Carlo error that is allowed.
OF_ALL = 0.6
# What restricted probes add may be off, for having few steps, by so many standard errors of a variance,
TRUNCATION = 0.03
# and so many Monte-Carlo errors of a log-likelihood.
LOGLIK_TRUNCATION = 0.2
# Probes of all take no further step where the last one changed no variance by so many standard errors, as a tenth of
# what is allowed for chance; steps lose about a factor of three each.
LAST_STEP = 0.01
# A trait is near its estimate where the decrement of its last step is below this: a tenth of a standard error.
NEAR = 0.01
# The second moment is looked at with so many probes for each that takes all steps.
SHALLOW = 4
# The runs of fixed effects end where no variance of theirs moves by more than this share.
FIXED_SETTLED = 3e-3


class Crowd(NamedTuple):
    """One set of people with their ``traits`` and ``cohort``; ``inside`` (n,): who of everybody they are."""

    people: People
    traits: Traits
    cohort: Cohort
    inside: np.ndarray
    known: Known

    @property
    def subset(self) -> SubsetCovariance:
        return self.cohort.covariance

    @property
    def everybody(self) -> bool:
        return bool(self.inside.all())


def gathered(peoples: Sequence[People], most: int = MOST_TOGETHER) -> list[list[int]]:
    """Which sets of people are fitted together, at most so many: each is at least LEAST_SHARE of all who are in its
    gathering."""
    gatherings: list[tuple[list[int], np.ndarray]] = []
    for which in sorted(range(len(peoples)), key=lambda i: -peoples[i].num_samples):
        for position, (members, rows) in enumerate(gatherings):
            if len(members) == most:
                continue
            union = np.union1d(rows, peoples[which].rows)
            if min(peoples[i].num_samples for i in (*members, which)) >= LEAST_SHARE * len(union):
                gatherings[position] = ([*members, which], union)
                break
        else:
            gatherings.append(([which], peoples[which].rows))
    return [members for members, _ in gatherings]


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


class Gathering(NamedTuple):
    """Everybody: the ``reference``, whose covariance is among all who have a trait, and the crowds in it."""

    counting: CountingCovariance
    reference: Cohort
    crowds: list[Crowd]
    columns: int

    def images(self, cohorts: Sequence[Cohort], blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """K times blocks (n_t, k) of several sets of people, (n, k) of all; one read of the genotypes where memory
        allows."""
        whole = [cohort.covariance.among_all(B) for cohort, B in zip(cohorts, blocks, strict=True)]
        return products_together(self.counting, whole, self.columns)

    def advanced(self, cohorts: Sequence[Cohort], runs: Sequence[LanczosRun]) -> list[LanczosRun]:
        """One Lanczos step of every run, all in one block."""
        images = self.images(cohorts, [run.state.current for run in runs])
        return [
            advance(cohort, run, image[cohort.covariance.rows])
            for cohort, run, image in zip(cohorts, runs, images, strict=True)
        ]


class Watched(NamedTuple):
    """The ``run`` of probes Z (n, s) of all, projected, and for every step z'E q (P, s) with its vectors q over the
    people outside of every crowd."""

    run: LanczosRun
    Z: np.ndarray
    outside: tuple[np.ndarray, ...]

    def stepped(self, run: LanczosRun, crowds: Sequence[Crowd]) -> "Watched":
        """After one more step of the run."""
        q = run.state.previous
        dots = [column_dots(self.Z[~crowd.inside], q[~crowd.inside]) for crowd in crowds]
        return Watched(run, self.Z, (*self.outside, np.stack(dots)))

    def take(self, which: slice) -> "Watched":
        """Only these probes go on."""
        return Watched(self.run.take(which), self.Z[:, which], tuple(dots[:, which] for dots in self.outside))

    def quadratures(self, steps: int, count: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """:func:`.coupled.control_weights` of the first ``count`` probes after the first ``steps``."""
        alpha, beta, norms2 = self.run.state.tridiagonal
        first = Tridiagonal(alpha[:steps, :count], beta[:steps, :count], norms2[:count])
        return control_weights(first, np.stack(self.outside[:steps], axis=1)[..., :count])

    def spectra(self, moments: np.ndarray) -> SpectraOfAll:
        """What the probes say after the steps so far; moments (5 + 2 P, s): of these and of shallow ones."""
        nodes, weights, controls = self.quadratures(self.run.num_steps)
        return SpectraOfAll(ProbeSpectra(nodes, weights, moments), controls)


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
    widest = settings.probes.first + sum(
        people.which.size for people in peoples
    )  # as many columns as all runs begin with
    whole = met(peoples, traits, X, among, settings.probes.columns or widest)
    Z = probes.trace[whole.reference.covariance.rows]
    settled = settle(whole, Z[:, : settings.probes.first], settings, hooks)
    measures = [at.run.measures(slice(None)) for at in settled.ats]

    def estimates(calibrations: Sequence[Coupled]) -> list[list[TraitFit]]:
        groups = zip(whole.crowds, measures, calibrations, strict=True)
        return [[estimate(crowd.cohort, y, own, settings, exact=False) for y in ys] for crowd, ys, own in groups]

    spectra = spectra_of_all(whole, Z, settled, estimates, settings)
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


def products_together(covariance: Covariance, blocks: Sequence[np.ndarray], at_once: int) -> list[np.ndarray]:
    """K times several blocks (n, k), ``at_once`` columns in a product."""
    B = np.concatenate(blocks, axis=1)
    parts = [
        np.asarray(covariance.apply(np.ones(1), covariance.block(B[:, batch])), B.dtype)
        for batch in column_batches(B.shape[1], at_once)
        if B[:, batch].shape[1]
    ]
    image = np.concatenate(parts, axis=1) if parts else B
    return np.split(image, np.cumsum([block.shape[1] for block in blocks])[:-1], axis=1)


def met(
    peoples: Sequence[People],
    traits: Sequence[Traits],
    X: np.ndarray,
    among: Sequence[SubsetCovariance],
    at_once: int,
) -> Gathering:
    """Everybody, with K Q of every set of people; a column-pass for each fixed effect of each."""
    every = among[-1]
    counting = every.base
    bases = [each.Q for each in traits] + [orthonormal_basis(X[every.rows])]
    blocks = [subset.block(Q) for subset, Q in zip(among, bases, strict=True)]
    whole = [subset.among_all(Q) for subset, Q in zip(among, blocks, strict=True)]
    images = products_together(counting, whole, at_once)
    cohorts = [prepared(subset, Q, image[subset.rows]) for subset, Q, image in zip(among, blocks, images, strict=True)]
    *own, reference = cohorts
    KQ = images[-1][every.rows]
    crowds = [
        Crowd(people, theirs, cohort, np.isin(every.rows, people.rows), known_of(cohort, reference, KQ, image))
        for people, theirs, cohort, image in zip(peoples, traits, own, images[:-1], strict=True)
    ]
    return Gathering(counting, reference, crowds, at_once)


def known_of(cohort: Cohort, reference: Cohort, KQ: np.ndarray, image: np.ndarray) -> Known:
    """What is known of A_t, and of A among its people; no product.

    KQ: K times the fixed effects' basis of all, (n, c) of all.  image: K times that of those people, of all samples of
    the covariance.  Their fixed effects span those of all, restricted, so with P_t and P that project them out
    A_t = P_t M K M P_t = P_t M A M P_t, A = P K P, and tr(A_t^2) = sum_ij A_ij^2 - 2 |M A Q_t|^2 + |Q_t'A Q_t|^2.
    """
    every, subset, Q = reference.covariance, cohort.covariance, np.asarray(reference.Q, np.float64)
    inside = np.isin(every.rows, subset.rows)
    Qt = np.zeros((len(inside), cohort.Q.shape[1]))
    Qt[inside] = cohort.Q
    AQ = project(Q, image[every.rows].astype(np.float64) - KQ.astype(np.float64) @ (Q.T @ Qt))
    diagonal = every.diagonals()[:, 0] - 2 * (Q * KQ).sum(axis=1) + ((Q @ reference.inner) * Q).sum(axis=1)
    correction = ((Qt.T @ AQ) ** 2).sum() - 2 * (AQ[inside] ** 2).sum()
    share = subset.num_samples / every.num_samples
    return Known(cohort.dimension, cohort.trace, share, float(diagonal[inside].sum()), float(correction))


def looked_at(whole: Gathering, Z: np.ndarray, run: LanczosRun) -> np.ndarray:
    """(5 + 2 P, s) of projected probes Z (n, s) after two steps: z'A^b z for b = 0 to 4, and
    :func:`.coupled.second_moments` of every crowd."""
    state, dtype = run.state, Z.dtype
    (a1, a2), (b1, b2) = state.alphas, state.betas
    U = Z * a1.astype(dtype) + state.previous * (b1 * np.sqrt(state.norms2)).astype(dtype)
    square, cross = a1**2 + b1**2, b1 * (a1 + a2)  # A q1 = a1 q1 + b1 q2, A^2 q1 = square q1 + cross q2 + b1 b2 q3
    powers = np.stack([np.ones_like(a1), a1, square, a1 * square + b1 * cross, square**2 + cross**2 + (b1 * b2) ** 2])
    among = [np.stack(second_moments(Z, U, crowd.inside)) for crowd in whole.crowds]
    return np.concatenate([state.norms2 * powers, *among])


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
        if k <= 24 or not k % 4 or k >= limit:
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


def calibrated(whole: Gathering, spectra: SpectraOfAll, added: Sequence[Added | None] | None = None) -> list[Coupled]:
    """The measure of every crowd's trace; ``added``: what restricted probes add to each."""
    scale, moments = whole.reference.trace / whole.reference.dimension, spectra.spectra.moments
    return [
        coupled(spectra, i, scale, crowd.known, moments[5 + 2 * i : 7 + 2 * i], added[i] if added else None)
        for i, crowd in enumerate(whole.crowds)
    ]


def spectra_of_all(whole: Gathering, Z: np.ndarray, settled: Settled, estimates, settings: FitSettings) -> SpectraOfAll:
    """Spectra of as many probes of all (n, s) as leave room for the errors of those that are restricted."""
    steps, available = settled.probes.run.num_steps, Z.shape[1]
    everybody = settled.probes.spectra(settled.moments)
    known = everybody.spectra.num_probes
    more = min(SHALLOW * known, available) - known
    if more >= LEAST_PROBES:  # pairs of so few as there are to begin with say little of the second moment
        everybody = everybody.joined(spectra_of_some(whole, Z[:, known : known + more], 0, steps))
    for _ in range(MOST_ROUNDS):
        known = everybody.spectra
        found = [each for own in estimates(calibrated(whole, everybody)) for each in own]
        target = settings.probes.mc_target * np.sqrt(OF_ALL * MARGIN)  # restricted probes make up for a miss
        wanted = probes_wanted(found, steps / 2, known, available, target)  # the others take two steps
        left = available - known.num_probes
        deep = min(max(wanted[0] - known.num_deep, 0), left)
        every = min(max(wanted[1] - known.num_probes, deep, LEAST_PROBES), left)
        if wanted == (known.num_deep, known.num_probes) or every < LEAST_PROBES:
            break
        first = known.num_probes
        for batch in np.array_split(np.arange(first, first + every), -(-every // (4 * settings.probes.first))):
            going = int(np.clip(first + deep - batch[0], 0, len(batch)))
            everybody = everybody.joined(spectra_of_some(whole, Z[:, batch], going, steps))
    return everybody


def spectra_of_some(whole: Gathering, probes: np.ndarray, deep: int, steps: int) -> SpectraOfAll:
    """Spectra of probes (n, s) after two steps, and of the first ``deep`` of them after ``steps``."""
    reference = whole.reference
    Z = project(reference.Q, reference.covariance.block(probes))
    (run,) = whole.advanced([reference], [LanczosRun(lanczos_start(Z), ())])
    watched = Watched(run, Z, ()).stepped(run, whole.crowds)
    (run,) = whole.advanced([reference], [run])
    moments = looked_at(whole, Z, run)
    if not deep:
        none = np.zeros((0, steps))
        return SpectraOfAll(ProbeSpectra(none, none, moments), np.zeros((len(whole.crowds), 0, steps)))
    watched = watched.stepped(run, whole.crowds).take(slice(deep))
    while watched.run.num_steps < steps:
        (run,) = whole.advanced([reference], [watched.run])
        watched = watched.stepped(run, whole.crowds)
    return watched.spectra(moments)


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


def batches_of(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Positions in order, together as long as their columns are at most so many; one that has more is alone."""
    batches: list[list[int]] = []
    room = 0
    for position, size in enumerate(sizes):
        if not batches or size > room:
            batches.append([])
            room = most
        batches[-1].append(position)
        room -= size
    return batches


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
        found += [ritz_measures(run.state.tridiagonal) for run in runs]
    return found


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
