"""One component, identity residual: a single Lanczos run answers every theta (docs/design.md).

The block is [traits, fixed-effect columns, probes].  Each column's tridiagonal matrix is a quadrature of its spectral
measure, so after the run REML is a scalar problem (spectral.py) with no further product, whatever the number of traits.

Cost in column-passes: c for the fixed effects, and k for each trait, fixed effect and probe, k being the steps taken:
the run stops when no trait's estimate moves any more.  Where Monte-Carlo errors are then too large, further probes
follow: deep ones of k steps, and *shallow* ones of a single step, which tells the second moment.
Source: Border & Becker 2019, BMC Bioinformatics 20:411.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..contract import check_symmetric, check_traces
from ..covariance import CountingCovariance, Covariance
from ..hooks import Hooks
from ..inference import largest_mc_ratio, mc_covariance_of_theta, sampling_covariance
from ..lanczos import LanczosState, Tridiagonal, lanczos_start, lanczos_step, ritz_measures
from ..least_squares import FixedEffects, fixed_effects, fixed_inverse
from ..likelihood_ratio import test_of_one, tested_sets
from ..linalg import Block, column_batches, column_dots, columns, gram, project, symmetric
from ..moments import check_left, check_separable
from ..monte_carlo import LEAST_PROBES
from ..probes import Probes, probes_are_exact
from ..profile import with_profiles
from ..residuals import Layout, layout_of
from ..result import Estimate, FitResult, Record, Status, make_result
from ..settings import FitSettings
from ..traits import Traits
from . import spectral
from .calibration import Calibration, ProbeSpectra, calibrate, spectra_of
from .krylov_profile import krylov_curves
from .spectral import Measure, Spectrum, with_null_space

# A trait has settled where the decrement of its last step is below this share of the tolerance: a step of a quarter
# of the tolerated length, since quadrature has about that much left to go.
SETTLED_DECREMENT = 0.0625
# A trait has settled where its log-likelihood moved by no more than this.
LOGLIK_SETTLED = 0.01
# A run takes at most so many Lanczos steps.
MOST_STEPS = 400
# Up to so many steps the estimates are looked at after each, then after every fourth.
EVERY_STEP = 24
# So many times the probes that errors ask for are taken, since few probes know their errors by chance.
MARGIN = 1.15
# Probes are added at most so many times.
MOST_ROUNDS = 4
# The law of the likelihood-ratio statistic of one variance at zero is this mixture of chi-squares with 0 and 1
# degrees of freedom.
HALF_HALF = np.array([0.5, 0.5])


class Cohort(NamedTuple):
    """What all traits share: tr K on the complement of X; ``inner`` Q'KQ; and F = (I - QQ')KQ without the columns that
    are rounding (``moved``: which of the c are kept)."""

    covariance: CountingCovariance
    Q: Block
    trace: float
    inner: np.ndarray
    F: Block
    moved: np.ndarray

    @property
    def dimension(self) -> int:
        return len(self.Q) - self.Q.shape[1]


class LanczosRun(NamedTuple):
    """A Lanczos run: its ``state``, and for every step ``edges`` (c, b) = Q'K q, from which fixed effects follow."""

    state: LanczosState
    edges: tuple[np.ndarray, ...]

    @property
    def num_steps(self) -> int:
        return len(self.edges)

    @property
    def rounding(self) -> float:
        """That of the products with K."""
        return float(np.finfo(self.state.current.dtype).eps)

    def take(self, which: np.ndarray | slice) -> "LanczosRun":
        return LanczosRun(self.state.take(which), tuple(edge[:, which] for edge in self.edges))

    def quadratures(self, columns: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights (s, k) of the spectral measures of some columns."""
        alpha, beta, norms2 = self.state.tridiagonal
        nodes, weights = ritz_measures(Tridiagonal(alpha[:, columns], beta[:, columns], norms2[columns]))
        return with_null_space(nodes, self.rounding), weights

    def measures(self, columns: slice) -> list[Measure]:
        """Spectral measures of some columns."""
        return [Measure(*pair) for pair in zip(*self.quadratures(columns), strict=True)]


class Runs(NamedTuple):
    """The runs of the traits and of the columns of F, which may have other numbers of steps."""

    traits: LanczosRun
    fixed: LanczosRun


class Settling(NamedTuple):
    """The run between two steps: what the probes said in the first one, every trait's history and last (theta,
    log-likelihood), and the column-passes so far."""

    run: LanczosRun
    moments: tuple[np.ndarray, np.ndarray, np.ndarray]
    history: tuple[tuple[Record, ...], ...]
    last: tuple[tuple[np.ndarray, float] | None, ...]
    column_passes: float

    @property
    def num_deep(self) -> int:
        """Probes that take all steps."""
        return len(self.moments[0])


def krylov_fits(
    traits: Traits, covariance: Covariance, probes: Probes, settings: FitSettings, hooks: Hooks
) -> list[FitResult]:
    """REML fits of several traits of the same samples.

    ``column_passes`` of every result are those of the run that they share.  The callback gets the first trait's record
    after every step.
    """
    cohort = prepare(CountingCovariance(covariance), traits.Q)
    exact = probes_are_exact(probes.trace)
    available = probes.trace.shape[1]
    deep = available if exact else min(settings.probes.first, available)
    if hooks.resume is None:
        at = begin(cohort, traits, probes.trace[:, :deep])
        at, status = judged(cohort, traits, at, settings)
        hooks.report(at.history[0][-1])
    else:
        at, status = resumed(hooks.resume, covariance), None
        cohort = cohort._replace(covariance=CountingCovariance(covariance, before=at.column_passes))
    while status is None:
        hooks.save(at)
        known = len(at.history[0])
        at, status = judged(cohort, traits, at._replace(run=advance(cohort, at.run)), settings)
        for record in at.history[0][known:]:  # a step that is not judged has no record
            hooks.report(record)
    num_lead = traits.Y.shape[1] + cohort.F.shape[1]
    spectra = probe_spectra(at.run, num_lead, at.moments)
    measures = at.run.measures(slice(traits.Y.shape[1]))
    for rounds in range(MOST_ROUNDS + 1):
        calibration = calibrate(spectra, cohort.dimension, cohort.trace)
        estimates = [estimate(cohort, measure, calibration, settings, exact=exact) for measure in measures]
        wanted = probes_wanted(estimates, at.run.num_steps, spectra, available, settings.probes.mc_target)
        enough = wanted == (spectra.num_deep, spectra.num_probes) or spectra.num_probes == available
        if enough or rounds == MOST_ROUNDS:
            break
        at_once = min(settings.probes.columns or deep, deep)  # no wider than the steps before
        spectra = further_probes(cohort, probes, spectra, wanted, at.run.num_steps, at_once)
    details = {"status": status, "num_probes": spectra.num_probes, "mc_target": settings.probes.mc_target}
    details.update(constrain=settings.constrain, column_passes=cohort.covariance.column_passes)
    t = traits.Y.shape[1]
    runs = Runs(at.run.take(slice(t)), at.run.take(slice(t, num_lead)))
    return [
        further(
            result_of(cohort, runs, traits, which, found, history=at.history[which], **details),
            found,
            calibration,
            settings,
            float(traits.scales[which]),
            exact=exact,
        )
        for which, found in enumerate(estimates)
    ]


def further(
    result: FitResult,
    found: "TraitFit",
    calibration: Calibration,
    settings: FitSettings,
    scale: float,
    *,
    exact: bool,
) -> FitResult:
    """The result with the tests and profiles that are asked for; the test of one component is that of all."""
    tests = tuple(test_of_one(result.names, result.lrt) for _ in tested_sets(settings.lrt, result.names))
    layout, covariance = found.layout, result.covariance / scale**4
    curves = krylov_curves(found.spectrum, calibration, found.theta, layout, settings, covariance, exact=exact)
    return with_profiles(replace(result, ratio_tests=tests), curves, scale)


def prepare(covariance: CountingCovariance, Q: np.ndarray) -> Cohort:
    """K Q, and what follows from it; c column-passes."""
    Q = covariance.block(Q)
    return prepared(covariance, Q, covariance.apply(np.ones(1), Q) if Q.shape[1] else Q)


def prepared(covariance: Covariance, Q: Block, KQ: Block) -> Cohort:
    """What follows from K Q; no product."""
    inner = symmetric(gram(Q, KQ))
    trace = float(covariance.traces[0] - np.trace(inner))
    check_left(covariance, np.array([trace]))
    F = project(Q, project(Q, KQ))
    rounding = 64 * np.finfo(covariance.dtype).eps * trace / len(Q)
    moved = np.sqrt(column_dots(F, F)) > rounding
    return Cohort(covariance, Q, trace, inner, F[:, moved], moved)


def advance(cohort: Cohort, run: LanczosRun, image: Block | None = None) -> LanczosRun:
    """One Lanczos step of every column.  ``image``: K times the run's current vectors, where it is known already."""
    edges = []

    def apply(B):
        W = cohort.covariance.apply(np.ones(1), B) if image is None else image
        if not run.edges:
            check_symmetric(cohort.covariance.names[0], B, W, cohort.trace / cohort.dimension)
        edges.append(gram(cohort.Q, W))
        return W - cohort.Q @ edges[-1].astype(W.dtype)

    state = lanczos_step(apply, run.state)
    return LanczosRun(state, (*run.edges, *edges))


def first_steps(run: LanczosRun, num_lead: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared norm, alpha and beta of the probes' first step."""
    state = run.state
    return state.norms2[num_lead:], state.alphas[0][num_lead:], state.betas[0][num_lead:]


def probe_spectra(run: LanczosRun, num_lead: int, moments) -> ProbeSpectra:
    """Spectral measures of the deep probes and first moments of all, after the steps so far."""
    return spectra_of(*run.quadratures(slice(num_lead, None)), moments)


def begin(cohort: Cohort, traits: Traits, probes: np.ndarray) -> Settling:
    """The first step of the traits, fixed effects and deep probes (n, s)."""
    lead = columns(cohort.covariance.block(traits.scaled), cohort.F)
    num_lead, t = lead.shape[1], traits.Y.shape[1]
    Z = project(cohort.Q, cohort.covariance.block(probes))
    run = advance(cohort, LanczosRun(lanczos_start(columns(lead, Z)), ()))
    moments = first_steps(run, num_lead)
    norms2, alpha, beta = moments
    forms, squares = norms2 * alpha, norms2 * (alpha**2 + beta**2)
    check_traces(cohort.covariance, forms[None], squares[None], np.array([cohort.trace]))
    return Settling(run, moments, ((),) * t, (None,) * t, 0.0)


def resumed(at: Settling, covariance: Covariance) -> Settling:
    """A saved run with its vectors put back where products are computed."""
    state = at.run.state
    placed = state._replace(current=covariance.block(state.current), previous=covariance.block(state.previous))
    return at._replace(run=at.run._replace(state=placed))


def judged(cohort: Cohort, traits: Traits, at: Settling, settings: FitSettings) -> tuple[Settling, Status | None]:
    """The estimates that the run gives so far, and the status when no trait's moves any more.

    A trait has settled when its last step is within a quarter of the tolerated one in standard errors, and its
    log-likelihood within 0.01; quadrature converges geometrically, so what is left is of that size.
    """
    k, t = at.run.num_steps, traits.Y.shape[1]
    at = at._replace(column_passes=cohort.covariance.column_passes)
    limit = min(cohort.dimension, MOST_STEPS)
    if not is_judged(k, limit):
        return at, None
    num_lead = t + cohort.F.shape[1]
    trace = calibrate(probe_spectra(at.run, num_lead, at.moments), cohort.dimension, cohort.trace).measure
    at, settled = moved(traits, at, trace, cohort.dimension, settings)
    status = None
    if settled or k >= limit:
        status = Status.CONVERGED if settled or limit == cohort.dimension else Status.SOLVER_STALLED
    return at, status


def is_judged(step: int, limit: int) -> bool:
    """Whether estimates are made after a step, which takes eigendecompositions that cost the step's square."""
    return step <= EVERY_STEP or not step % 4 or step >= limit


def moved(traits: Traits, at: Settling, trace: Measure, dimension: int, settings: FitSettings) -> tuple[Settling, bool]:
    """The run with the estimates that it gives so far, and whether all traits have settled.

    The first columns are those of the traits.  trace: the spectral measure of the trace.
    """
    k, t = at.run.num_steps, traits.Y.shape[1]
    spectra = [Spectrum(measure, trace, dimension) for measure in at.run.measures(slice(t))]
    constrain = settings.constrain
    thetas = [spectral.maximise(spectrum, settings.residual_floor, constrain=constrain) for spectrum in spectra]
    records, settled, last = [], True, []  # not at the first step, whose log-likelihood has none before it
    for which, (spectrum, theta) in enumerate(zip(spectra, thetas, strict=True)):
        value, ai = spectral.loglik(spectrum, theta), spectral.average_information(spectrum, theta)
        before, value_before = at.last[which] or (theta, np.inf)
        decrement = float((theta - before) @ ai @ (theta - before))
        norm = float(np.sqrt(np.sum(spectral.score(spectrum, before) ** 2 / np.diag(ai))))
        variances = tuple(float(v) for v in theta * traits.scales[which] ** 2)
        records.append(Record(k, variances, decrement, norm, k, at.num_deep, at.column_passes))
        settled &= decrement <= SETTLED_DECREMENT * settings.tol and abs(value - value_before) <= LOGLIK_SETTLED
        last.append((theta, value))
    history = tuple((*old, new) for old, new in zip(at.history, records, strict=True))
    return at._replace(history=history, last=tuple(last)), settled


class TraitFit(NamedTuple):
    """The estimate of a trait that was scaled to unit variance, and what its errors follow from."""

    spectrum: Spectrum
    theta: np.ndarray
    ai: np.ndarray
    mc: np.ndarray
    free: np.ndarray
    ratio: float
    ratio_of_deep: float
    loglik_mc_se: float
    layout: Layout


def estimate(
    cohort: Cohort, measure: Measure, calibration: Calibration, settings: FitSettings, *, exact: bool
) -> TraitFit:
    """theta with its sampling information and Monte-Carlo covariance; no product."""
    spectrum = Spectrum(measure, calibration.measure, cohort.dimension)
    layout, floor = layout_of(cohort.covariance), settings.residual_floor
    theta = spectral.maximise(spectrum, floor, constrain=settings.constrain)
    ai = spectral.average_information(spectrum, theta)
    check_separable(ai)
    free = theta > layout.lower(floor, constrain=settings.constrain) * (1 + 1e-9)
    errors = calibration.covariance(lambda nodes: spectral.of_v(theta, nodes))
    deep_only = calibration.deep_covariance(lambda nodes: spectral.of_v(theta, nodes)[:2])
    if exact:
        errors, deep_only = np.zeros_like(errors), np.zeros_like(deep_only)
    mc, mc_of_deep = (mc_covariance_of_theta(ai, part / 4, free) for part in (errors[:2, :2], deep_only))
    sampling = sampling_covariance(ai, layout.without_error(free))
    ratio, ratio_of_deep = (
        largest_mc_ratio(theta, layout.mean_traces, sampling, part, layout.residual_traces) for part in (mc, mc_of_deep)
    )
    return TraitFit(spectrum, theta, ai, mc, free, ratio, ratio_of_deep, 0.5 * float(np.sqrt(errors[2, 2])), layout)


def probes_wanted(found: list[TraitFit], steps: int, spectra: ProbeSpectra, available: int, target: float):
    """(deep, all) probes at which every Monte-Carlo error is expected to meet the target at the least cost.

    The squared error is A / deep + B / all, the cost steps * deep + all: deep : all = sqrt(A / steps) : sqrt(B).
    """
    now = spectra.num_deep, spectra.num_probes
    worst = max(found, key=lambda f: np.inf if np.isnan(f.ratio) else f.ratio)
    if worst.ratio <= target:
        return now
    if np.isnan(worst.ratio):  # so few probes do not know their spread
        return tuple(min(available, max(LEAST_PROBES, 2 * count)) for count in now)
    a = worst.ratio_of_deep**2 * spectra.num_deep
    b = max(worst.ratio**2 - worst.ratio_of_deep**2, 0) * spectra.num_probes
    common = MARGIN * (np.sqrt(a * steps) + np.sqrt(b)) / target**2
    deep = min(available, max(now[0], int(np.ceil(common * np.sqrt(a / steps)))))
    every = min(available, max(now[1], deep, int(np.ceil(common * np.sqrt(b)))))
    return deep, every


def further_probes(
    cohort: Cohort,
    probes: Probes,
    known: ProbeSpectra,
    wanted: tuple[int, int],
    steps: int,
    at_once: int | None = None,
) -> ProbeSpectra:
    """``known`` with further probes, so that there are ``wanted`` (deep, all), after the same number of steps.

    Shallow probes stay shallow: further deep ones are new probes, as many as are left.  at_once: most columns of a
    step; None for all.
    """
    available, first = probes.trace.shape[1], known.num_probes
    deep = wanted[0] - known.num_deep
    total = min(max(wanted[1] - first, deep), available - first)
    for batch in column_batches(total, at_once):
        fresh = probes.trace[:, first + batch.start : first + batch.stop]
        going = min(max(deep - batch.start, 0), fresh.shape[1])
        known = known.joined(spectra_of_probes(cohort, fresh, going, steps))
    return known


def spectra_of_probes(cohort: Cohort, fresh: np.ndarray, deep: int, steps: int) -> ProbeSpectra:
    """Spectra of probes (n, s) after one step, and of the first ``deep`` of them after ``steps``."""
    run = advance(cohort, LanczosRun(lanczos_start(project(cohort.Q, cohort.covariance.block(fresh))), ()))
    moments = first_steps(run, 0)
    if not deep:
        return spectra_of(np.zeros((0, steps)), np.zeros((0, steps)), moments)
    run = run.take(slice(deep))
    while run.num_steps < steps:
        run = advance(cohort, run)
    return probe_spectra(run, 0, moments)


def result_of(
    cohort: Cohort, runs: Runs, traits: Traits, which: int, found: TraitFit, *, constrain: bool, **details
) -> FitResult:
    """A trait's FitResult: likelihood, profile and fixed effects from what the runs have kept; no product."""
    layout = layout_of(cohort.covariance)
    mean_trace = float(layout.mean_traces[0] / layout.residual_traces[0])
    packed = Estimate(
        theta=found.theta,
        score=spectral.score(found.spectrum, found.theta),
        ai=found.ai,
        mc=found.mc,
        free=found.free,
        loglik=spectral.loglik(found.spectrum, found.theta),
        loglik_mc_se=found.loglik_mc_se,
        weights=HALF_HALF if constrain else np.array([0.0, 1.0]),
        ratio=found.ratio,
        fixed_effects=effects_of(cohort, runs, traits, which, found.theta),
    )
    return make_result(
        cohort.covariance,
        traits.X,
        float(traits.scales[which]),
        packed,
        rank=0,
        method="krylov",
        **details,
        constrained=constrain,
        profile=spectral.profile_h2(found.spectrum, found.theta, mean_trace, constrain=constrain),
    )


def krylov_coordinates(run: LanczosRun, column: int, theta: np.ndarray) -> np.ndarray:
    """(k,) P b in the Lanczos basis of start b: |b| (theta_g T + theta_e I)^-1 e_1."""
    alpha, beta, norms2 = (part[..., column] for part in run.state.tridiagonal)
    T = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    right = np.zeros(len(alpha))
    right[0] = np.sqrt(norms2)
    return np.linalg.solve(theta[0] * T + theta[1] * np.eye(len(alpha)), right)


def edge_forms(run: LanczosRun, theta: np.ndarray) -> np.ndarray:
    """(c, b) Q'K P b for the starts b of a run, sums over steps of the edges Q'K q; no product."""
    edges = np.stack(run.edges, axis=-1).astype(np.float64)
    forms = [edges[:, column] @ krylov_coordinates(run, column, theta) for column in range(edges.shape[1])]
    return np.stack(forms, axis=1) if forms else np.zeros(edges.shape[:2])


def inverse_of(cohort: Cohort, fixed: LanczosRun, theta: np.ndarray) -> np.ndarray:
    """(c, c) :func:`~gpu_reml.reml.least_squares.fixed_inverse` from the run of F; no product."""
    FPF = np.zeros_like(cohort.inner)
    FPF[:, cohort.moved] = edge_forms(fixed, theta)
    FPF[~cohort.moved] = 0
    return fixed_inverse(theta[0] * cohort.inner + theta[1] * np.eye(len(FPF)), theta[0] ** 2 * FPF)


def effects_of(cohort: Cohort, runs: Runs, traits: Traits, which: int, theta: np.ndarray) -> FixedEffects:
    """Generalised least squares; no product."""
    vpy = theta[0] * edge_forms(runs.traits.take(slice(which, which + 1)), theta)[:, 0]
    return fixed_effects(traits.only(which), vpy, inverse_of(cohort, runs.fixed, theta))
