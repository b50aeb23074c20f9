"""Several components: REML of one trait by the reduced model, which moves as far as its basis answers for.

Each round adds true residuals at the present theta to the basis, and maximises the likelihood within it by bounded AI
steps, which cost no pass.  The fit has converged when theta has settled and the residuals say so.

Cost in column-passes: a round one for each of y and the probes that have not converged, and half the overlap for what
is off the basis; the end as :mod:`.reduced_end` says.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .cross_fit import Traces, controlled_traces, inverse_controls, num_controls
from .hooks import Hooks
from .inference import bounded_covariance, mc_covariance_of_theta
from .linalg import Block, columns, gram, project, symmetric, take_columns, times
from .monte_carlo import LEAST_PROBES
from .probes import Probes
from .reduced import combined, outside, reduced_v, solved, tail_mean
from .reduced_model import Model, Problem, grown, has_room, probe_residuals, probe_solutions, smaller, with_probes
from .result import Record, Status
from .step import Step, ai_step, score_norm, shortened

READY = 0.3  # relative error of the solves, in the norm of V, from which the basis serves to move theta
TRUSTED = 0.3  # the same of a trait's solve at the theta moved to
MOST_SHRINKAGE = 0.25  # of a residual in one round, without which V would be singular
MOST_GROWTH = 4  # of a variance in one round; all may grow to the total, as some start near zero
INNER_STEPS = 4  # AI steps in a round, while they are long: the basis knows no better
LAST_STEPS = 20  # the same once a first step is short
SMALL_STEP = 1e-2  # squared move in standard errors from which a fit may end below its Monte-Carlo error
HALVINGS = 5  # of a move that the basis does not answer for
MOST_ROUNDS = 400


class Outside(NamedTuple):
    """What lies off the basis at one theta: of K_g P y the Gram matrix (G, G); of y the true residual ``R`` (n, 1),
    orthogonal to the basis.  ``forms`` (G,) y'P K_g P y within it, and ``energy`` y'P y."""

    gram: np.ndarray
    R: Block
    forms: np.ndarray
    energy: float


class Point(NamedTuple):
    """What the basis says of one theta."""

    theta: np.ndarray
    score: np.ndarray
    ai: np.ndarray
    traces: Traces

    @property
    def num_probes(self) -> int:
        return self.traces.per_probe.shape[1]


class Walk(NamedTuple):
    """Where a trait stands: its ``theta`` and what is ``off`` the basis there.

    ``lengths``: of the last moves of theta, in standard errors; ``cut``: whether the last was held back; ``point``:
    what was known after it.  ``status`` is set once it has ended.
    """

    trait: int
    theta: np.ndarray
    off: Outside
    lengths: tuple[float, ...] = ()
    cut: bool = False
    point: Point | None = None
    history: tuple[Record, ...] = ()
    status: Status | None = None

    def settled(self, tol: float, grew: bool) -> bool:
        """Whether theta moves no more: with a step of ``tol``, or two where the basis still grows."""
        if not self.lengths or self.cut or self.lengths[-1] > tol:
            return False
        return not grew or self.lengths[0] <= 3 * tol


class State(NamedTuple):
    """A fit between two rounds.  ``active``: probes that have not converged, None for a look at all."""

    model: Model
    walk: Walk
    active: np.ndarray | None = None
    rounds: int = 0


def state_at(problem: Problem, model: Model, theta: np.ndarray, trait: int = 0) -> State:
    """A trait at theta, before its first round; half a pass of a column, times the overlap."""
    return State(model, Walk(trait, theta, off_the_basis(problem, model, theta, trait)))


def off_the_basis(problem: Problem, model: Model, theta: np.ndarray, trait: int = 0) -> Outside:
    """What is off the basis at theta; half a pass of a column, times the overlap."""
    T, y = model.basis.T, model.trait(trait)
    c = np.linalg.solve(reduced_v(T, theta), y)
    images = problem.covariance.apply_each(combined(model.basis.F, c))
    off = outside(model.basis, project(problem.Q, columns(*(image[:, :1] for image in images))))
    return Outside(gram(off, off), times(off, -theta[:-1, None]), (T @ c)[:, :, 0] @ c[:, 0], float(y[:, 0] @ c[:, 0]))


def y_error(problem: Problem, model: Model, off: Outside, theta: np.ndarray) -> float:
    """Relative error of P y at theta in the norm of V, from its residual there; 0 in a complete basis."""
    if model.basis.size >= problem.dimension:
        return 0.0
    tail = tail_mean(model.basis, problem.traces, problem.dimension, theta)
    return float(np.sqrt(max(theta[:-1] @ off.gram @ theta[:-1], 0.0) / (tail * off.energy)))


def y_tolerance(problem: Problem) -> float:
    """Relative error at which a trait leaves the block.

    Its log-likelihood errs by (n - c) / 2 times the square of its error: 2e-4 at 0.02 / sqrt(n - c).
    """
    return min(problem.settings.solver.y, 0.02 / np.sqrt(problem.dimension))


def point_at(problem: Problem, model: Model, trait: int, theta: np.ndarray, off: Outside, inverse: np.ndarray) -> Point:
    """Score and average information at theta within the basis; no pass.  ``off`` and ``inverse`` (G, s), the controls,
    are those of a theta near."""
    T, fixed = model.basis.T, model.fixed
    here = solved(reduced_v(T, theta), np.column_stack([model.trait(trait), model.probes]))
    c, Cz = here.C[:, :1], here.C[:, 1:]
    images = (T @ c)[:, :, 0]
    forms = np.append(images @ c[:, 0], c[:, 0] @ c[:, 0])
    values = np.einsum("az,gaz->gz", Cz, fixed.images)
    controls = 0 if model.exact else num_controls(model.num_probes)
    traces = controlled_traces(values, inverse, fixed.off, theta, problem.dimension, controls)
    inside = np.column_stack([images.T, c])
    ai = inside.T @ (here.inverse @ inside)
    # off the basis V is its mean there; what is off of K_g P y changes with theta as the part within does
    scale = np.sqrt(np.maximum(forms[:-1], 0) / np.where(off.forms > 0, off.forms, 1.0))
    ai[:-1, :-1] += off.gram * np.outer(scale, scale) / tail_mean(model.basis, problem.traces, problem.dimension, theta)
    return Point(theta, (forms - traces.mean) / 2, symmetric(ai) / 2, traces)


def controls_at(problem: Problem, model: Model, theta: np.ndarray) -> np.ndarray:
    """(G, s) the controls that depend on theta (:mod:`.cross_fit`)."""
    T = model.basis.T
    return inverse_controls(T, reduced_v(T, theta), theta, model.chains, model.probes, model.fixed, problem.dimension)


def maximised(problem: Problem, model: Model, walk: Walk, inverse: np.ndarray) -> tuple[np.ndarray, bool]:
    """(theta, held): where bounded AI steps within the basis lead a trait, and whether one was held back: a residual on
    its way to its bound, or a variance that grows to where the basis says nothing true of V.

    They end when one is 1 % of the first: the next round looks at what is left.
    """
    layout, least, tol = problem.layout, MOST_SHRINKAGE * walk.theta, 1e-2 * problem.settings.tol
    guarded = layout.guarded & (least > problem.settings.residual_floor)
    lower, upper = np.where(guarded, least, problem.lower), most_in_a_round(problem, walk.theta)
    point = point_at(problem, model, walk.trait, walk.theta, walk.off, inverse)
    for taken in range(1, LAST_STEPS + 1):
        step = shortened(ai_step(point.theta, point.score, point.ai, lower, problem.estimated), point.theta, upper)
        point = along(problem, model, walk, point, step, inverse)
        tol = max(tol, 1e-4 * step.decrement)
        if step.decrement <= tol or (taken >= INNER_STEPS and step.decrement > SMALL_STEP):
            break
    held = (guarded & (point.theta <= lower * (1 + 1e-9))) | (point.theta >= upper * (1 - 1e-9))
    return point.theta, bool(held.any())


def most_in_a_round(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """(p,) the most that one round from theta may lead to."""
    means = np.append(problem.traces / problem.dimension, 1.0)
    variances = theta * means
    return np.maximum(MOST_GROWTH * variances, variances.sum()) / means


def along(problem: Problem, model: Model, walk: Walk, point: Point, step: Step, inverse: np.ndarray) -> Point:
    """The point that a step leads to; where the likelihood falls there half as steeply as it rose before, the step has
    overshot its maximum, which bisection finds."""
    slope, low, high, t = float(point.score @ step.direction), 0.0, 1.0, 1.0
    found = point
    while True:
        theta, after = np.maximum(point.theta + t * step.direction, problem.lower), -np.inf
        if is_definite(model, theta):
            found = point_at(problem, model, walk.trait, theta, walk.off, inverse)
            after = float(found.score @ step.direction)
        if after >= -0.5 * slope and (t == 1.0 or after <= 0.5 * slope):
            return found
        if high - low < 1e-3:
            return found
        low, high = (t, high) if after > 0 else (low, t)
        t = (low + high) / 2


def is_definite(model: Model, theta: np.ndarray) -> bool:
    """Whether V is positive definite within the basis, as it is without negative variances."""
    if not (theta < 0).any():
        return True
    try:
        np.linalg.cholesky(reduced_v(model.basis.T, theta))
    except np.linalg.LinAlgError:
        return False
    return True


def definite(model: Model, theta: np.ndarray) -> np.ndarray:
    """theta, with what is negative halved until V is positive definite within the basis, which may have grown."""
    while not is_definite(model, theta):
        theta = np.where(theta < 0, theta / 2, theta)
    return theta


def moved(problem: Problem, model: Model, walk: Walk, scale: float) -> Walk:
    """The walk at the best theta that the basis answers for.  Cost: half a pass of a column for every theta looked at,
    times the overlap: one, as a rule."""
    walk = walk._replace(theta=definite(model, walk.theta))
    inverse = controls_at(problem, model, walk.theta)
    theta, cut = maximised(problem, model, walk, inverse)
    off = off_the_basis(problem, model, theta, walk.trait)
    for _ in range(HALVINGS):
        if y_error(problem, model, off, theta) <= TRUSTED:
            break
        theta, cut = (walk.theta + theta) / 2, True
        off = off_the_basis(problem, model, theta, walk.trait)
    point = point_at(problem, model, walk.trait, theta, off, inverse)
    length = float(np.sqrt((theta - walk.theta) @ point.ai @ (theta - walk.theta)))
    record = Record(
        len(walk.history) + 1,
        tuple(problem.layout.reported(theta) * scale**2),
        length**2,
        score_norm(point.score, point.ai, problem.estimated),
        0,  # PCG steps: there are none until the end
        model.num_probes,
        problem.covariance.column_passes,
        model.basis.size,
    )
    lengths, history = (*walk.lengths[-1:], length), (*walk.history, record)
    return walk._replace(theta=theta, off=off, lengths=lengths, cut=cut, point=point, history=history)


def mc_covariance(problem: Problem, exact: bool, point: Point) -> np.ndarray:
    """Monte-Carlo covariance of theta, about it; 0 for exact probes.

    Other probes would have led to where the bounded step from here with another error of the score leads: linear in
    that error where no bound comes in, else found for draws of it, so that it covers which bounds are active.
    """
    if exact:
        return np.zeros_like(point.ai)
    errors = point.traces.covariance / 4
    if not np.isfinite(errors).all():
        return mc_covariance_of_theta(point.ai, errors, problem.free(point.theta))
    bounds = problem.lower, most_in_a_round(problem, point.theta)
    return bounded_covariance(point.theta, point.score, point.ai, errors, bounds, problem.estimated)


def probes_wanted(problem: Problem, probes: Probes, point: Point) -> int:
    """Probes at which mc_se is expected to meet the target, within what there is."""
    used, available = point.num_probes, probes.trace.shape[1]
    if used == available:
        return used
    ratio = problem.mc_ratio(point.theta, point.ai, mc_covariance(problem, False, point))
    ratio /= problem.settings.probes.mc_target
    if ratio <= 1:
        return used
    if not np.isfinite(ratio):  # too few probes to know their spread
        return min(available, max(LEAST_PROBES, 2 * used))
    return min(available, max(used + 4, int(np.ceil(1.15 * ratio**2 * used))))


class Growth(NamedTuple):
    """What a round's residuals said: whether the basis ``grew``, the probes that have not converged (``active``, None
    for a look at all), whether anything is ``unsolved``, and the largest relative error."""

    grew: bool
    active: np.ndarray | None
    unsolved: bool
    error: float


def with_residuals(problem: Problem, state: State) -> tuple[Model, Growth]:
    """The model with the residuals that are not small in its basis.

    Probes that have converged are looked at again only when all have, at the theta where the fit would end.
    """
    model, walk = state.model, state.walk
    looked_at = np.arange(model.num_probes) if state.active is None else state.active
    V = reduced_v(model.basis.T, walk.theta)
    A = probe_solutions(model, V)
    R, errors = probe_residuals(problem, model, walk.theta, looked_at, A)
    wrong = np.flatnonzero(errors > problem.settings.solver.probes)
    of_y = y_error(problem, model, walk.off, walk.theta)
    late, active, before = of_y > y_tolerance(problem), looked_at[wrong], model.basis.size
    unsolved = late or bool(len(active))
    if unsolved:
        if not has_room(problem, model, late + len(active), model.B.shape[1]):
            model = smaller(problem, model, V, A)
            before = model.basis.size
        ends = take_columns(R, wrong)
        model = grown(problem, model, columns(walk.off.R, ends) if late else ends, active, ends)
    return model, Growth(
        model.basis.size > before,
        active if unsolved else None,
        unsolved or len(looked_at) < model.num_probes,
        max(of_y, errors.max(initial=0.0)),
    )


def answering(problem: Problem, model: Model, theta: np.ndarray, trait: int = 0) -> Model:
    """The model with a basis in which the trait and all probes have converged at theta, or as near as rounding lets
    them."""
    state = state_at(problem, model, theta, trait)
    for _ in range(MOST_ROUNDS):
        model, growth = with_residuals(problem, state)
        if not growth.grew:
            break
        state = state_at(problem, model, theta, trait)._replace(active=growth.active)
    return model


def one_round(problem: Problem, probes: Probes, state: State, scale: float) -> State:
    """A round further; the walk's ``status`` is set when it was the last.  ``scale`` makes records of variances."""
    model, growth = with_residuals(problem, state)
    walk, rounds = state.walk, state.rounds + 1
    if growth.grew and growth.error > READY and rounds < MOST_ROUNDS:
        off = off_the_basis(problem, model, walk.theta, walk.trait)
        return State(model, walk._replace(off=off), growth.active, rounds)
    state = State(model, moved(problem, model, walk, scale), growth.active, rounds)
    return judged(problem, probes, state, growth)


def ended(
    problem: Problem,
    probes: Probes,
    state: State,
    scale: float,
    hooks: Hooks | None = None,
    keep: Callable[[State], None] | None = None,
) -> State:
    """The fit at its end; ``hooks`` report its records, ``keep`` gets what goes on."""
    while state.walk.status is None:
        if keep is not None:
            keep(state)
        known = len(state.walk.history)
        state = one_round(problem, probes, state, scale)
        for record in state.walk.history[known:] if hooks is not None else ():
            hooks.report(record)
    return state


def judged(problem: Problem, probes: Probes, state: State, growth: Growth) -> State:
    """The state with more probes where it has settled and they are wanted, or with a status where it ends."""
    walk, model = state.walk, state.model
    point, settled = walk.point, walk.settled(np.sqrt(problem.settings.tol), growth.grew)
    if settled and not growth.unsolved:
        wanted = model.num_probes if model.exact else probes_wanted(problem, probes, point)
        if wanted > model.num_probes:
            if not has_room(problem, model, wanted - model.num_probes, model.num_traits + wanted):
                V = reduced_v(model.basis.T, walk.theta)
                model = smaller(problem, model, V, probe_solutions(model, V))
            return State(with_probes(problem, probes, model, wanted), walk._replace(lengths=()), None, state.rounds)
        return state._replace(walk=walk._replace(status=Status.CONVERGED))
    if settled and not growth.grew and state.active is not None:
        return state._replace(walk=walk._replace(status=Status.SOLVER_STALLED))
    if len(walk.history) >= problem.settings.max_iterations or state.rounds >= MOST_ROUNDS:
        errors = np.trace(point.ai @ mc_covariance(problem, model.exact, point))
        within = not walk.cut and walk.lengths[-1] ** 2 <= min(errors, SMALL_STEP)
        status = Status.CONVERGED if within else Status.MAX_ITERATIONS
        return state._replace(walk=walk._replace(status=status))
    return state
