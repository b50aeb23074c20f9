"""Several components: AI-REML steps with a block of solves each, over an explicit state (DESIGN 4).

``init / step / converged`` make the loop, of which ``iterate`` is one turn; :mod:`.iterative_fit` runs and ends it.

Cost in column-passes (one column through Z and Z'): the preconditioner 2.5 r, an iteration (1 + s) PCG steps for y
and s probes plus (G + 1) PCG steps for the average information.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from . import likelihood
from .covariance import CountingCovariance
from .inference import largest_mc_ratio, mc_covariance_of_theta, sampling_covariance
from .linalg import Block, columns, project
from .moments import Moments, check_left, start_values, starting_moments
from .monte_carlo import LEAST_PROBES
from .precondition import (
    Preconditioner,
    ProjectedCore,
    complement_traces,
    core_on,
    make_projected_core,
    precondition,
)
from .probes import Probes, probes_are_exact
from .residuals import Layout, layout_of
from .result import Record, Status
from .settings import FitSettings, SolverSettings
from .step import Step, ai_step
from .traces import ProbeImages, TraceEstimates, probe_images, trace_estimates
from .traits import Traits

SMALL_STEP = 1e-2  # decrement (0.1 standard errors) from which steps are trusted and Monte-Carlo errors known
MOST_SHRINKAGE = 0.25  # of the residual in one step: an overshoot to zero would make V singular in float32
FEW_STEPS = 12  # of PCG, that a good preconditioner leaves
STEPS_LEFT = 2.5  # iterations to come when the errors are first known
FAR = 0.25  # distance of the components' proportions at which the preconditioner is made anew


class Problem(NamedTuple):
    """What changes seldom during a fit; y (n, 1) is projected and has unit variance.  ``core_tried``: whether the
    preconditioner has been decided on."""

    covariance: CountingCovariance
    Q: Block
    y: Block
    lower: np.ndarray
    moments: Moments
    core: ProjectedCore
    settings: FitSettings
    core_tried: bool = False

    @property
    def layout(self) -> Layout:
        return layout_of(self.covariance)

    def start(self) -> np.ndarray:
        """Start values from the moments; an identity that is held stays at its floor."""
        theta = start_values(self.moments, self.lower)
        return np.where(self.layout.estimated, theta, self.lower)

    def core_is_far(self, theta: np.ndarray) -> bool:
        """Whether the preconditioner was made for other proportions, and may be made anew."""
        return bool(self.core.rank) and self.settings.core != "given" and self.core.distance(theta[:-1]) > FAR

    def mc_ratio(self, theta: np.ndarray, ai: np.ndarray, mc: np.ndarray) -> float:
        """Largest mc_se / se over what is reported."""
        layout = self.layout
        sampling = sampling_covariance(layout.reduced(ai), layout.without_error(free_parameters(self, theta)))
        mc = layout.reduced(mc)
        return largest_mc_ratio(layout.reported(theta), layout.mean_traces, sampling, mc, layout.residual_traces)


class Evaluation(NamedTuple):
    """Everything known at one theta; solves are kept to start the next ones."""

    theta: np.ndarray
    score: np.ndarray
    ai: np.ndarray
    traces: TraceEstimates
    PB: Block
    PF: Block
    pcg_iterations: int
    solved: bool


class FitState(NamedTuple):
    """theta to evaluate next, where it came from, and the probes in use, in ``batches`` of columns."""

    theta: np.ndarray
    images: ProbeImages
    batches: tuple[int, ...]
    last: Evaluation | None = None
    step: Step | None = None
    halvings: int = 0


def prepare(covariance, traits: Traits, probes: Probes, settings: FitSettings) -> Problem:
    """Moments and preconditioner: what a fit needs once."""
    Q, y = covariance.block(traits.Q), covariance.block(traits.scaled)
    lower = np.append(np.zeros(covariance.num_components), settings.residual_floor)
    traces = complement_traces(covariance, Q)
    check_left(covariance, traces)
    found = starting_moments(covariance, Q, y, probes, traces).of(0)
    guess = start_values(found, lower)
    if settings.core == "given":
        core = core_on(covariance, Q, traces, guess[:-1], covariance.block(probes.sketch))
        return Problem(covariance, Q, y, lower, found, core, settings, core_tried=True)
    at_once = settings.core == "always"
    core = make_projected_core(covariance, Q, traces, guess[:-1], probes.sketch[:, : None if at_once else 0])
    return Problem(covariance, Q, y, lower, found, core, settings, at_once or not probes.sketch.shape[1])


def probe_tolerance(solver: SolverSettings, theta: np.ndarray, warm: Evaluation | None) -> float:
    """Tolerance of the probe solves at theta: a fiftieth of the relative change of V, at most the loosest."""
    if warm is None:
        return solver.probes
    change = np.abs(theta - warm.theta).sum() / theta.sum()
    return float(np.clip(0.02 * change, min(solver.final, solver.probes), solver.probes))


def evaluate(
    problem: Problem, theta: np.ndarray, images: ProbeImages, warm: Evaluation | None, *, near: bool = False
) -> Evaluation:
    """Score and average information at theta, with solves that start from ``warm``.

    ``near``: theta is within a tenth of a standard error of warm's, where the information has hardly changed: it is
    taken over, which costs the last steps little and saves G + 1 columns of solves.
    """
    covariance, Q, solver = problem.covariance, problem.Q, problem.settings.solver
    preconditioner = precondition(problem.core, theta)
    apply_v = likelihood.apply_v_at(covariance, theta)
    s = images.Z.shape[1]
    B = columns(problem.y, images.Z)
    PB0 = None
    if warm is not None:
        PB0 = warm.PB
        if PB0.shape[1] < 1 + s:
            fresh = preconditioner.apply_minv(images.Z[:, PB0.shape[1] - 1 :])
            PB0 = columns(PB0, fresh)
    tol = np.append(min(solver.y, 1e-2 / np.sqrt(len(Q))), np.full(s, probe_tolerance(solver, theta, warm)))
    at_once = problem.settings.probes.columns
    options = {"max_iterations": solver.max_iterations, "check": False, "at_once": at_once}
    solved = likelihood.solve(Q, apply_v, B, preconditioner, tol=tol, X0=PB0, **options)
    Py = solved.X[:, :1]
    ai, PF, steps, ok = (warm.ai, warm.PF, 0, True) if near else informed(problem, apply_v, preconditioner, Py, warm)
    with_control = preconditioner if problem.settings.probes.control_variates else None
    traces = trace_estimates(covariance, theta, images, solved.X[:, 1:], with_control, at_once)
    score = (likelihood.quadratic_forms(covariance, Py) - traces.mean) / 2
    steps = max(steps, int(solved.iterations.max()))
    return Evaluation(theta, score, ai, traces, solved.X, PF, steps, ok and bool(solved.converged.all()))


def informed(problem: Problem, apply_v, preconditioner: Preconditioner, Py: Block, warm: Evaluation | None):
    """Average information from P y, the solves P K_g P y behind it, the PCG steps they took, and whether all met
    their tolerance."""
    covariance, Q, solver = problem.covariance, problem.Q, problem.settings.solver
    F = project(Q, likelihood.component_images(covariance, Py))
    PF0 = None if warm is None else warm.PF
    options = {"tol": solver.information, "max_iterations": solver.max_iterations, "check": False}
    solved = likelihood.solve(Q, apply_v, F, preconditioner, X0=PF0, **options)
    ai = likelihood.ai_matrix(F, solved.X, solved.R)
    return ai, solved.X, int(solved.iterations.max()), bool(solved.converged.all())


def init(problem: Problem, probes: Probes, start: np.ndarray | None) -> FitState:
    """The first state: start values and the first batch of probes."""
    theta = problem.start() if start is None else np.maximum(start, problem.lower)
    first = min(problem.settings.probes.first, probes.trace.shape[1])
    if probes_are_exact(probes.trace):
        first = probes.trace.shape[1]
    return FitState(theta, make_images(problem, probes, (first,)), (first,))


def make_images(problem: Problem, probes: Probes, batches: tuple[int, ...]) -> ProbeImages:
    """Images of the first probes, batch by batch: the same batches give the same bits."""
    core = problem.core if problem.settings.probes.control_variates else None
    edges = np.cumsum((0, *batches))
    parts = []
    for first, last in pairwise(edges):
        Z = project(problem.Q, problem.covariance.block(probes.trace[:, first:last]))
        parts.append(probe_images(problem.covariance, core, Z, problem.settings.probes.columns))
    return joined_images(parts)


def joined_images(parts: list[ProbeImages]) -> ProbeImages:
    """Images of several sets of probes as one."""
    return ProbeImages(*(None if part[0] is None else columns(*part) for part in zip(*parts, strict=True)))


def with_more_probes(problem: Problem, probes: Probes, state: FitState, here: Evaluation, wanted: int) -> FitState:
    """The state with ``wanted`` probes, keeping what is known of the others."""
    used = sum(state.batches)
    rest = Probes(probes.trace[:, used:], probes.sketch)
    fresh = make_images(problem, rest, (wanted - used,))
    return FitState(state.theta, joined_images([state.images, fresh]), (*state.batches, wanted - used), here)


def step(problem: Problem, state: FitState) -> tuple[FitState, Evaluation]:
    """Evaluate at the state's theta and propose the next, by the bounded AI step.

    When the likelihood already falls steeply along the step just taken, its maximum on that line was overshot: the
    step is cut at the zero of its derivative (a secant step), which needs no likelihood.
    """
    near = state.step is not None and not state.halvings and state.step.decrement <= SMALL_STEP
    near = near and not shortened(problem, state)
    here = evaluate(problem, state.theta, state.images, state.last, near=near)
    if state.step is not None and state.halvings < 8:
        direction = state.step.direction
        before, now = state.last.score @ direction, here.score @ direction
        if state.step.decrement > SMALL_STEP and now < -0.5 * abs(before):
            cut = state.step._replace(direction=direction * (before / (before - now)))
            theta = np.maximum(state.last.theta + cut.direction, problem.lower)
            kept = state.last._replace(PB=here.PB, PF=here.PF)
            return FitState(theta, state.images, state.batches, kept, cut, state.halvings + 1), here
    lower = step_bounds(problem, state.theta)
    proposal = ai_step(state.theta, here.score, here.ai, lower, problem.layout.estimated)
    return FitState(proposal.theta, state.images, state.batches, here, proposal), here


def step_bounds(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """(p,) the least that one step from theta may lead to; residuals may fall to their bound from near the floor."""
    least = MOST_SHRINKAGE * theta
    return np.where(problem.layout.guarded & (least > problem.settings.residual_floor), least, problem.lower)


def shortened(problem: Problem, state: FitState) -> bool:
    """Whether the step just proposed takes a residual down as far as one step may, above its bound.

    Where y's variance has hardly any of that residual its information is small, and so is a step in standard errors,
    while the likelihood still rises.
    """
    least = step_bounds(problem, state.last.theta)
    return bool(((least > problem.lower) & (state.theta <= least * (1 + 1e-9))).any())


def converged(problem: Problem, state: FitState) -> bool:
    """Whether the step just proposed is within the tolerance, and as long as the likelihood asked for."""
    if state.halvings or state.step is None or shortened(problem, state):
        return False
    return state.step.decrement <= problem.settings.tol


def refreshed(problem: Problem, probes: Probes, state: FitState) -> tuple[Problem, FitState]:
    """The preconditioner made (anew) for the present theta, and the controls of the probes with it.

    Where components differ in what they share with relatives, a basis made for the start's proportions leaves an order
    of magnitude of Monte-Carlo variance (docs/performance.md).  Solves are kept.
    """
    theta_g, traces = state.theta[:-1], problem.core.traces
    core = make_projected_core(problem.covariance, problem.Q, traces, theta_g, probes.sketch)
    problem = problem._replace(core=core, core_tried=True)
    images = make_images(problem, probes, state.batches)
    return problem, FitState(state.theta, images, state.batches, state.last)


def core_may_pay(problem: Problem, probes: Probes, state: FitState, here: Evaluation) -> bool:
    """Whether a preconditioner not made yet is expected to cost less than the passes it can save.

    What it can save in the iterations that remain: the probes above those in use that the Monte-Carlo error asks for,
    and PCG steps above the dozen that a good preconditioner leaves.
    """
    if problem.core_tried:
        return False
    used, steps, rank = sum(state.batches), here.pcg_iterations, probes.sketch.shape[1]
    small = state.step.decrement <= max(SMALL_STEP, problem.settings.tol)
    wanted = probes_wanted(problem, probes, state, here) if small else used
    spared = STEPS_LEFT * ((wanted - used) * steps + max(0, steps - FEW_STEPS) * (1 + used))
    return spared > 2.5 * rank + used


def with_core_if_better(problem: Problem, probes: Probes, state: FitState, here: Evaluation):
    """The problem and state with the preconditioner made, unless it neither shortens solves nor lessens the error."""
    candidate, prepared = refreshed(problem, probes, state)
    Z, theta = here.PB[:, 1:], here.theta
    preconditioner, at_once = precondition(candidate.core, theta), problem.settings.probes.columns
    traces = trace_estimates(problem.covariance, theta, prepared.images, Z, preconditioner, at_once)
    reduced = problem.layout.reduced
    now, then = (np.trace(reduced(here.ai) @ reduced(t.covariance)) for t in (here.traces, traces))
    if here.pcg_iterations > FEW_STEPS or not now <= then:
        return candidate, prepared
    return problem._replace(core_tried=True), state


class Loop(NamedTuple):
    """The loop between two iterations: all that is needed to go on from there."""

    problem: Problem
    state: FitState
    history: tuple[Record, ...] = ()
    here: Evaluation | None = None
    status: Status | None = None


def iterate(loop: Loop, probes: Probes, scale: float) -> Loop:
    """One iteration further: a step, then whatever its errors call for; ``status`` is set when it was the last."""
    problem, state, history = loop.problem, loop.state, loop.history
    settings = problem.settings
    used, layout = sum(state.batches), problem.layout
    state, here = step(problem, state)
    record = Record(
        len(history) + 1,
        tuple(layout.reported(here.theta) * scale**2),
        state.step.decrement,
        float(np.sqrt(np.sum((here.score**2 / np.diag(here.ai))[layout.estimated]))),
        here.pcg_iterations,
        used,
        problem.covariance.column_passes,
    )
    history = (*history, record)
    status = None
    if not here.solved:
        status = Status.SOLVER_STALLED
    elif state.halvings == 0 and problem.core_is_far(state.theta):
        problem, state = refreshed(problem, probes, state)
    elif state.halvings == 0 and core_may_pay(problem, probes, state, here):
        problem, state = with_core_if_better(problem, probes, state, here)
    elif not state.halvings and state.step.decrement <= max(SMALL_STEP, settings.tol):
        wanted = probes_wanted(problem, probes, state, here)
        if wanted > used:
            state = with_more_probes(problem, probes, state, here, wanted)
        elif converged(problem, state):
            status = Status.CONVERGED
    if status is None and len(history) >= settings.max_iterations:
        status = Status.CONVERGED if within_errors(problem, probes, state, here) else Status.MAX_ITERATIONS
    return Loop(problem, state, history, here, status)


def within_errors(problem: Problem, probes: Probes, state: FitState, here: Evaluation) -> bool:
    """Whether the step just proposed is small, and shorter than the Monte-Carlo error of where it leads, so that
    another would tell no more."""
    if state.halvings or state.step is None or shortened(problem, state) or state.step.decrement > SMALL_STEP:
        return False
    mc = mc_covariance(problem, probes, state.theta, here.ai, here.traces)
    return bool(state.step.decrement <= np.trace(here.ai @ mc))


def free_parameters(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Which parameters are off their bound (p,) bool; only these carry Monte-Carlo error."""
    return (theta > problem.lower * (1 + 1e-9)) & problem.layout.estimated


def mc_covariance(problem: Problem, probes: Probes, theta, ai, traces: TraceEstimates) -> np.ndarray:
    """Monte-Carlo covariance of theta; 0 for exact probes."""
    if probes_are_exact(probes.trace):
        return np.zeros_like(ai)
    return mc_covariance_of_theta(ai, traces.covariance / 4, free_parameters(problem, theta))


def probes_wanted(problem: Problem, probes: Probes, state: FitState, here: Evaluation) -> int:
    """Probes at which mc_se is expected to meet the target, within what there is."""
    used, available = state.images.Z.shape[1], probes.trace.shape[1]
    mc = mc_covariance(problem, probes, state.theta, here.ai, here.traces)
    ratio = problem.mc_ratio(state.theta, here.ai, mc) / problem.settings.probes.mc_target
    if ratio <= 1:
        return used
    if not np.isfinite(ratio):  # too few probes to know their spread
        return min(available, max(LEAST_PROBES, 2 * used))
    return min(available, max(used + 4, int(np.ceil(1.15 * ratio**2 * used))))
