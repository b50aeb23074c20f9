"""Several components, any number of traits: REML by the reduced model, which moves as far as its basis answers for.

Each round adds true residuals at the present thetas to the basis, and maximises every trait's likelihood within it by
bounded AI steps, which cost no pass.  The probes are solved at the theta of one trait at a time, the ``lead``, that of
the least residual first, since it asks most of the basis; the others move along, and have little left to do when their
turn comes.

Cost in column-passes: a round one for each trait and each probe that has not converged, and half the overlap for each
trait; the end as :mod:`.reduced_end` says.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .cross_fit import Traces, controlled_traces, inverse_controls, num_controls
from .hooks import Hooks
from .inference import mc_covariance_of_theta
from .linalg import Block, columns, gram, project, symmetric, take_columns, times
from .memory import IMAGES
from .monte_carlo import LEAST_PROBES
from .probes import Probes
from .reduced import combined, outside, reduced_v, solved, tail_mean
from .reduced_model import Model, Problem, grown, has_room, probe_residuals, probe_solutions, smaller, with_probes
from .result import Record, Status
from .step import Step, ai_step, score_norm

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
    """Where one trait stands: its ``theta`` and what is ``off`` the basis there.

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

    def settled(self, tol: float, grew: bool = False) -> bool:
        """Whether theta moves no more: with a step of ``tol``, or two where the basis still grows."""
        if not self.lengths or self.cut or self.lengths[-1] > tol:
            return False
        return not grew or self.lengths[0] <= 3 * tol


class State(NamedTuple):
    """Fits between two rounds.  ``active``: probes that have not converged at the lead's theta, None for a look at all;
    ``rounds``: since this trait leads."""

    model: Model
    walks: tuple[Walk, ...]
    active: np.ndarray | None = None
    rounds: int = 0

    @property
    def lead(self) -> int | None:
        """Which of the walks leads: the first that has not ended."""
        return next((i for i, walk in enumerate(self.walks) if walk.status is None), None)


def first_state(problem: Problem, model: Model, start: np.ndarray | None) -> State:
    """All traits at their start values, or at ``start`` (p,) for each of them; half a pass, times the overlap."""
    thetas = [problem.start(t) if start is None else start[t] for t in range(problem.num_traits)]
    order = sorted(range(problem.num_traits), key=lambda t: thetas[t][-1])
    offs = off_the_basis(problem, model, order, [thetas[t] for t in order])
    return State(model, tuple(Walk(t, thetas[t], off) for t, off in zip(order, offs, strict=True)))


def off_the_basis(problem: Problem, model: Model, traits: Sequence[int], thetas: Sequence[np.ndarray]) -> list[Outside]:
    """What is off the basis for some traits, each at its theta; half a pass of a column each, times the overlap."""
    covariance, T, G = problem.covariance, model.basis.T, problem.covariance.num_components
    found: list[Outside] = []
    at_once = max(1, IMAGES // G)
    for first in range(0, len(traits), at_once):
        batch = slice(first, first + at_once)
        C = np.column_stack(
            [
                np.linalg.solve(reduced_v(T, theta), model.trait(trait))
                for trait, theta in zip(traits[batch], thetas[batch], strict=True)
            ]
        )
        images = covariance.apply_each(combined(model.basis.F, C))
        for k, theta in enumerate(thetas[batch]):
            of_trait = columns(*(image[:, k : k + 1] for image in images))
            off, c = outside(model.basis, project(problem.Q, of_trait)), C[:, k]
            R = times(off, -theta[:-1, None])
            energy = float(model.trait(traits[first + k])[:, 0] @ c)
            found.append(Outside(gram(off, off), R, (T @ c) @ c, energy))
    return found


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


def shortened(step: Step, theta: np.ndarray, upper: np.ndarray) -> Step:
    """The step from theta, as far as it stays at or below ``upper``."""
    rising = step.direction > 0
    t = min(1.0, float(np.min((upper - theta)[rising] / step.direction[rising], initial=1.0)))
    return Step(theta + t * step.direction, t * step.direction, t**2 * step.decrement) if t < 1 else step


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


class Move(NamedTuple):
    """A trait on its way to ``theta``, held back or not (``cut``); ``inverse``: the controls there."""

    walk: Walk
    theta: np.ndarray
    cut: bool
    inverse: np.ndarray | None

    def halved(self) -> "Move":
        return self._replace(theta=(self.walk.theta + self.theta) / 2, cut=True)


def moved(problem: Problem, model: Model, walks: Sequence[Walk], ready: Sequence[bool], scales) -> list[Walk]:
    """The walks at the best thetas that the basis answers for; those that are not ``ready`` stay, with what is now off
    the basis.  Cost: half a pass of a column for every theta looked at, times the overlap: one each, as a rule."""
    walks = [walk._replace(theta=definite(model, walk.theta)) for walk in walks]
    moves = [
        planned(problem, model, walk) if able else Move(walk, walk.theta, False, None)
        for walk, able in zip(walks, ready, strict=True)
    ]
    offs: list[Outside | None] = [None] * len(moves)
    asked = list(range(len(moves)))
    for trial in range(HALVINGS + 1):
        found = off_the_basis(problem, model, [moves[i].walk.trait for i in asked], [moves[i].theta for i in asked])
        for i, off in zip(asked, found, strict=True):
            offs[i] = off
        asked = [i for i in asked if ready[i] and y_error(problem, model, offs[i], moves[i].theta) > TRUSTED]
        if not asked or trial == HALVINGS:
            break
        for i in asked:
            moves[i] = moves[i].halved()
    return [
        arrived(problem, model, move, off, scales[move.walk.trait]) if able else move.walk._replace(off=off)
        for move, off, able in zip(moves, offs, ready, strict=True)
    ]


def planned(problem: Problem, model: Model, walk: Walk) -> Move:
    """Where the basis would lead a trait."""
    inverse = controls_at(problem, model, walk.theta)
    return Move(walk, *maximised(problem, model, walk, inverse), inverse)


def arrived(problem: Problem, model: Model, move: Move, off: Outside, scale: float) -> Walk:
    """The walk after a move, with its record."""
    walk, layout = move.walk, problem.layout
    point = point_at(problem, model, walk.trait, move.theta, off, move.inverse)
    direction = point.theta - walk.theta
    length = float(np.sqrt(direction @ point.ai @ direction))
    record = Record(
        len(walk.history) + 1,
        tuple(layout.reported(point.theta) * scale**2),
        length**2,
        score_norm(point.score, point.ai, problem.estimated),
        0,  # PCG steps: there are none until the end
        model.num_probes,
        problem.covariance.column_passes,
        model.basis.size,
    )
    return walk._replace(
        theta=point.theta,
        off=off,
        lengths=(*walk.lengths[-1:], length),
        cut=move.cut,
        point=point,
        history=(*walk.history, record),
    )


def mc_covariance(problem: Problem, exact: bool, point: Point) -> np.ndarray:
    """Monte-Carlo covariance of theta; 0 for exact probes."""
    if exact:
        return np.zeros_like(point.ai)
    return mc_covariance_of_theta(point.ai, point.traces.covariance / 4, problem.free(point.theta))


def probes_wanted(problem: Problem, probes: Probes, point: Point) -> int:
    """Probes at which mc_se is expected to meet the target, within what there is."""
    used, available = point.num_probes, probes.trace.shape[1]
    ratio = problem.mc_ratio(point.theta, point.ai, mc_covariance(problem, False, point))
    ratio /= problem.settings.probes.mc_target
    if ratio <= 1:
        return used
    if not np.isfinite(ratio):  # too few probes to know their spread
        return min(available, max(LEAST_PROBES, 2 * used))
    return min(available, max(used + 4, int(np.ceil(1.15 * ratio**2 * used))))


class Growth(NamedTuple):
    """What a round's residuals said: whether the basis ``grew``, the probes that have not converged at the lead's theta
    (``active``, None for a look at all), whether anything is ``unsolved`` there, the largest error of a ``probe``, and
    that of each trait's y (t,), 0 where it has ended."""

    grew: bool
    active: np.ndarray | None
    unsolved: bool
    probe: float
    y: np.ndarray


def with_residuals(problem: Problem, state: State) -> tuple[Model, Growth]:
    """The model with the residuals that are not small in its basis.

    Probes that have converged are looked at again only when all have, at the theta where the fit would end.
    """
    model, walks, lead = state.model, state.walks, state.lead
    s, theta = model.num_probes, walks[lead].theta
    looked_at = np.arange(s) if state.active is None else state.active
    A = probe_solutions(model, reduced_v(model.basis.T, theta))
    R, errors = probe_residuals(problem, model, theta, looked_at, A)
    wrong = np.flatnonzero(errors > problem.settings.solver.probes)
    going = [walk.status is None for walk in walks]
    y = np.array([y_error(problem, model, w.off, w.theta) if on else 0.0 for w, on in zip(walks, going, strict=True)])
    late = np.flatnonzero(y > y_tolerance(problem))
    active, before = looked_at[wrong], model.basis.size
    lead_late = bool(y[lead] > y_tolerance(problem))
    if len(active) + len(late):
        if not has_room(problem, model, len(active) + len(late), s + len(walks)):
            model = smaller(problem, model, np.column_stack([trait_solutions(model, walks, theta), A]))
            before = model.basis.size
        ends = take_columns(R, wrong)
        model = grown(problem, model, columns(*(walks[i].off.R for i in late), ends), active, ends)
    busy = bool(len(active)) or lead_late
    unsolved = busy or len(looked_at) < s
    return model, Growth(model.basis.size > before, active if busy else None, unsolved, errors.max(initial=0.0), y)


def trait_solutions(model: Model, walks: Sequence[Walk], theta: np.ndarray) -> np.ndarray:
    """(d, t) Galerkin solutions of all traits, each where it stands, or at theta where none of the walks is its."""
    at = {walk.trait: walk.theta for walk in walks}
    T = model.basis.T
    return np.column_stack(
        [np.linalg.solve(reduced_v(T, at.get(t, theta)), model.trait(t)) for t in range(model.num_traits)]
    )


def state_at(problem: Problem, model: Model, theta: np.ndarray, trait: int = 0) -> State:
    """One trait at theta, before its first round; half a pass of a column, times the overlap."""
    return State(model, (Walk(trait, theta, *off_the_basis(problem, model, [trait], [theta])),))


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


def one_round(problem: Problem, probes: Probes, state: State, scales: np.ndarray) -> State:
    """A round further; the lead's ``status`` is set when it was its last.  scales (t,) make records of variances."""
    model, growth = with_residuals(problem, state)
    lead, tol = state.lead, np.sqrt(problem.settings.tol)
    last = state.rounds + 1 >= MOST_ROUNDS
    which = [
        i
        for i, walk in enumerate(state.walks)
        if i == lead or (walk.status is None and not (walk.settled(tol) and growth.y[i] <= y_tolerance(problem)))
    ]
    ready = [not growth.grew or last or max(growth.probe, growth.y[i]) <= READY for i in which]
    walks = list(state.walks)
    for i, walk in zip(which, moved(problem, model, [walks[i] for i in which], ready, scales), strict=True):
        walks[i] = walk
    state = State(model, tuple(walks), growth.active, state.rounds + 1)
    return judged(problem, probes, state, growth) if ready[which.index(lead)] else state


def ended(
    problem: Problem,
    probes: Probes,
    state: State,
    scales: np.ndarray,
    hooks: Hooks | None = None,
    keep: Callable[[State], None] | None = None,
) -> State:
    """The fits at their end; ``hooks`` report the records of the trait that leads, ``keep`` gets what goes on."""
    while state.lead is not None:
        if keep is not None:
            keep(state)
        lead = state.lead
        known = len(state.walks[lead].history)
        state = one_round(problem, probes, state, scales)
        for record in state.walks[lead].history[known:] if hooks is not None else ():
            hooks.report(record)
    return state


def judged(problem: Problem, probes: Probes, state: State, growth: Growth) -> State:
    """The state with more probes where the lead has settled and they are wanted, or with its status where it ends."""
    walk, model = state.walks[state.lead], state.model
    point, settled = walk.point, walk.settled(np.sqrt(problem.settings.tol), growth.grew)
    status = None
    if settled and not growth.unsolved:
        wanted = model.num_probes if model.exact else probes_wanted(problem, probes, point)
        if wanted > model.num_probes:
            waiting = (walk._replace(lengths=()) if w is walk else w for w in state.walks)
            if not has_room(problem, model, wanted - model.num_probes, wanted + len(state.walks)):
                A = probe_solutions(model, reduced_v(model.basis.T, walk.theta))
                solutions = np.column_stack([trait_solutions(model, state.walks, walk.theta), A])
                model = smaller(problem, model, solutions)
            return state._replace(model=with_probes(problem, probes, model, wanted), walks=tuple(waiting), active=None)
        status = Status.CONVERGED
    elif state.active is not None and not growth.grew and settled:
        status = Status.SOLVER_STALLED
    elif len(walk.history) >= problem.settings.max_iterations or state.rounds >= MOST_ROUNDS:
        errors = np.trace(point.ai @ mc_covariance(problem, model.exact, point))
        within = not walk.cut and walk.lengths[-1] ** 2 <= min(errors, SMALL_STEP)
        status = Status.CONVERGED if within else Status.MAX_ITERATIONS
    if status is None:
        return state
    ended = (walk._replace(status=status) if w is walk else w for w in state.walks)
    return State(model, tuple(ended))
