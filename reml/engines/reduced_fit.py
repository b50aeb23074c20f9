"""Several components: REML of one trait by the reduced model, which moves as far as its basis answers for.

Each round adds true residuals at the present theta to the basis, and maximises the likelihood within it by bounded AI
steps, which cost no pass.  The fit has converged when theta has settled and the residuals say so.

Cost in column-passes: a round one for each of y and the probes that have not converged, and half the overlap for what
is off the basis; the end as :mod:`.reduced_end` says.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..hooks import Hooks
from ..inference import mc_covariance_of_theta
from ..linalg import Block, columns, take_columns, times
from ..monte_carlo import LEAST_PROBES
from ..probes import Probes
from ..result import Record, Status
from ..step import score_norm
from .reduced import reduced_v
from .reduced_model import Model, Problem, grown, has_room, probe_residuals, probe_solutions, smaller, with_probes
from .reduced_point import (
    Outside,
    Point,
    controls_at,
    definite,
    off_the_basis,
    point_at,
    residual_near,
    y_error,
    y_tolerance,
)
from .reduced_search import Walk, known_better, maximised, mc_covariance, tolerance

READY = 0.3  # relative error of the solves, in the norm of V, from which the basis serves to move theta
FORESEEN = 0.1  # relative error of the solves from which the Monte-Carlo error at the end can be foreseen
NEAR = 1.0  # standard errors that theta may have moved by in the round in which it is foreseen
MARGIN = 1.05  # by which a Monte-Carlo error that is foreseen is taken for larger: falling short costs a second look
AGAIN = 1.5  # times its tolerance: from this error on, a probe that had converged is solved further
NEARBY = 0.1  # standard errors that theta may move by before looks at probes are old
SAME_IMAGES = 1.0  # the same of images off the basis, which tell how long steps are, not where they end
MORE_BASIS = 1.5  # times what a basis was: until then its images off the basis tell as much at any theta
TRUSTED = 0.3  # the same of a trait's solve at the theta moved to
SMALL_STEP = 0.1  # standard errors, from which a fit may end below its Monte-Carlo error
FAR_OFF = 8.0  # times y's tolerance, from where y's residual alone would take many rounds
LEADING = 0.1  # of the largest square of a combination of images, from which one joins
HALVINGS = 5  # of a move that the basis does not answer for
MOST_ROUNDS = 400
RANGE = (0.05, 1.0)  # of what tolerances are multiplied by


# The probes of a round that looks at none: a further trait moves first as far as the basis of the others answers.
NO_PROBES = np.arange(0)


class Checked(NamedTuple):
    """The first ``probes`` probes were looked at, and found solved, at ``theta``."""

    theta: np.ndarray
    probes: int


class State(NamedTuple):
    """A fit between two rounds.  ``active``: probes that have not converged, None for a look at all.  ``ahead``:
    whether the probes that the end will want have been foreseen.  ``checked``: those that need no further look near a
    theta."""

    model: Model
    walk: Walk
    active: np.ndarray | None = None
    rounds: int = 0
    ahead: bool = False
    checked: Checked | None = None


def state_at(problem: Problem, model: Model, theta: np.ndarray, trait: int = 0) -> State:
    """A trait at theta, before its first round; half a pass of a column, times the overlap."""
    return State(model, Walk(trait, theta, off_the_basis(problem, model, theta, trait)))


def off_at(problem: Problem, model: Model, walk: Walk, theta: np.ndarray) -> Outside:
    """What is off the basis at theta; images that the walk has still tell enough where they are of a theta near or of
    a basis not much smaller.  Cost: half a pass of a column, times the overlap where they do not."""
    if model.basis.size < MORE_BASIS * walk.off.size or is_near(walk, theta, walk.off.theta, SAME_IMAGES):
        return residual_near(problem, model, walk.off, theta, walk.trait)
    return off_the_basis(problem, model, theta, walk.trait)


def moved(problem: Problem, model: Model, walk: Walk, scale: float) -> Walk:
    """The walk at the best theta that the basis answers for; :func:`off_at` every theta looked at: one, as a rule."""
    walk = walk._replace(theta=definite(model, walk.theta))
    inverse = controls_at(problem, model, walk.theta)
    theta, cut = maximised(problem, model, walk, inverse)
    off = off_at(problem, model, walk, theta)
    for _ in range(HALVINGS):
        if y_error(problem, model, off.residual, off.energy, theta) <= TRUSTED:
            break
        theta, cut = (walk.theta + theta) / 2, True
        off = off_at(problem, model, walk, theta)
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


def probes_wanted(problem: Problem, probes: Probes, point: Point, margin: float = 1.0) -> int:
    """Probes at which mc_se, times ``margin``, is expected to meet the target, within what there is.

    It falls faster than with their root, since their chains grow with them: as the power 0.8 to 1.0 of their number on
    the mice by chromosome.  Too few cost another look, and are added to.
    """
    used, available = point.num_probes, probes.trace.shape[1]
    ratio = problem.mc_ratio(point.theta, point.ai, point.mc)
    ratio *= margin / problem.settings.probes.mc_target
    if ratio <= 1:
        return used
    if not np.isfinite(ratio):  # too few probes to know their spread
        return min(available, max(LEAST_PROBES, 2 * used))
    return min(available, max(used + 4, int(np.ceil(ratio**1.2 * used))))


class Growth(NamedTuple):
    """What a round's residuals said: whether the basis ``grew``, the probes that have not converged (``active``, None
    for a look at all), whether anything is ``unsolved``, and the largest relative error."""

    grew: bool
    active: np.ndarray | None
    unsolved: bool
    error: float


def with_residuals(problem: Problem, state: State) -> tuple[Model, Growth]:
    """The model with the residuals that are not small in its basis.

    Probes that have converged are looked at again only when all have, at the theta where the fit would end, unless they
    were looked at near it.
    """
    model, walk = state.model, state.walk
    if model.exact:
        return model, Growth(False, None, False, 0.0)
    known = known_solved(state)
    looked_at = np.arange(known, model.num_probes) if state.active is None else state.active
    V = reduced_v(model.basis.T, walk.theta)
    A = probe_solutions(model, V)
    R, errors = probe_residuals(problem, model, walk.theta, looked_at, A)
    most = problem.settings.solver.probes * accuracy(problem, model, walk.point)
    wrong = np.flatnonzero(errors > most * (AGAIN if state.active is None and walk.point is not None else 1.0))
    y_left = y_error(problem, model, walk.off.residual, walk.off.energy, walk.theta)
    late, active, before = y_left > y_tolerance(problem), looked_at[wrong], model.basis.size
    unsolved = late or bool(len(active))
    if unsolved:
        # y's residual is a combination of the images off the basis, at any theta near: far off and alone, they join
        alone = not len(active) and y_left > FAR_OFF * y_tolerance(problem)
        of_y = columns(walk.off.residual, leading_images(walk)) if alone else walk.off.residual
        new = of_y.shape[1] * late + len(active)
        if not has_room(problem, model, new, model.B.shape[1]):
            model = smaller(problem, model, V, A)
            before = model.basis.size
        ends = take_columns(R, wrong)
        model = grown(problem, model, columns(of_y, ends) if late else ends, active, ends)
    return model, Growth(
        model.basis.size > before,
        active if unsolved else None,
        unsolved or len(looked_at) < model.num_probes - known,
        max(y_left, errors.max(initial=0.0)),
    )


def leading_images(walk: Walk) -> Block:
    """(n, r) the combinations of the images off the basis that carry most of y's residual, at thetas near: all count as
    much as the mean at least, since small ones may grow."""
    weights = np.abs(walk.theta[:-1])
    weights = np.maximum(weights, weights.mean())
    values, vectors = np.linalg.eigh(walk.off.gram * np.outer(weights, weights))
    return times(walk.off.images, weights[:, None] * vectors[:, values > LEADING * values[-1]])


def is_near(walk: Walk, theta: np.ndarray, other: np.ndarray, near: float = NEARBY) -> bool:
    """Whether two thetas are so near that solutions and images at one tell of the other."""
    change = theta - other
    return walk.point is not None and bool(change @ walk.point.ai @ change <= near**2)


def known_solved(state: State) -> int:
    """Probes, the first ones, that need no look: they were found solved at a theta near."""
    checked = state.checked
    return checked.probes if checked is not None and is_near(state.walk, state.walk.theta, checked.theta) else 0


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
    if model.basis.size < state.model.basis.size:  # it has been started again
        state = state._replace(checked=None)
    walk, rounds, looked = state.walk, state.rounds + 1, state.active is None or len(state.active) > 0
    if growth.grew and growth.error > READY and rounds < MOST_ROUNDS:
        off = residual_near(problem, model, walk.off, walk.theta, walk.trait)
        return state._replace(model=model, walk=walk._replace(off=off), active=growth.active, rounds=rounds)
    walk = moved(problem, model, walk, scale)
    state = state._replace(model=model, walk=walk, active=growth.active, rounds=rounds)
    if looked and growth.grew and not state.ahead and growth.error <= FORESEEN and state.walk.lengths[-1] <= NEAR:
        state = foreseen(problem, probes, state)
        if state.model.num_probes > model.num_probes:
            return state
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


def mc_errors(problem: Problem, model: Model, point: Point) -> float:
    """Monte-Carlo error of theta as a whole, in standard errors, while bounds stay as they are; NaN where unknown."""
    if model.exact:
        return 0.0
    mc = mc_covariance_of_theta(point.ai, point.traces.covariance / 4, problem.free(point.theta))
    return float(np.sqrt(np.trace(point.ai @ mc)))


def accuracy(problem: Problem, model: Model, point: Point | None) -> float:
    """By what tolerances are multiplied, as they are meant for a Monte-Carlo error of a tenth of a standard error."""
    errors = np.nan if point is None or model.exact else mc_errors(problem, model, point)
    return 1.0 if np.isnan(errors) else float(np.clip(10 * errors, *RANGE))


def with_more(problem: Problem, probes: Probes, state: State, wanted: int) -> State:
    """The state with ``wanted`` probes, and with a smaller basis where these would have no room."""
    model, walk, known = state.model, state.walk, known_solved(state)
    active = np.arange(known, wanted) if known else None
    if not has_room(problem, model, wanted - model.num_probes, model.num_traits + wanted):
        V = reduced_v(model.basis.T, walk.theta)
        model, active = smaller(problem, model, V, probe_solutions(model, V)), None
        state = state._replace(checked=None)
    model = with_probes(problem, probes, model, wanted)
    return state._replace(model=model, walk=walk._replace(lengths=()), active=active)


def foreseen(problem: Problem, probes: Probes, state: State) -> State:
    """The state with the probes that the end is expected to want, so that all are solved in the same rounds."""
    mc = mc_covariance(problem, state.model, state.walk)
    wanted = probes_wanted(problem, probes, state.walk.point._replace(mc=mc), MARGIN)
    state = state._replace(ahead=True)
    return with_more(problem, probes, state, wanted) if wanted > state.model.num_probes else state


def judged(problem: Problem, probes: Probes, state: State, growth: Growth) -> State:
    """The state with more probes where it has settled and they are wanted, or with a status where it ends."""
    walk, model = state.walk, state.model
    step = np.sqrt(tolerance(problem, model)) * accuracy(problem, model, walk.point)
    settled = walk.settled(step, growth.grew)
    if settled and not growth.unsolved:
        wanted = model.num_probes
        if not model.exact and wanted < probes.trace.shape[1]:
            walk = known_better(problem, model, walk)
            wanted = probes_wanted(problem, probes, walk.point)
        if wanted > model.num_probes:
            theta = state.checked.theta if known_solved(state) else walk.theta
            state = state._replace(walk=walk, checked=Checked(theta, model.num_probes))
            return with_more(problem, probes, state, wanted)
        return state._replace(walk=walk._replace(status=Status.CONVERGED))
    if settled and not growth.grew and state.active is not None:
        return state._replace(walk=walk._replace(status=Status.SOLVER_STALLED))
    if len(walk.history) >= problem.settings.max_iterations or state.rounds >= MOST_ROUNDS:
        errors = np.nan_to_num(mc_errors(problem, model, walk.point))
        within = not walk.cut and walk.lengths[-1] <= min(errors, SMALL_STEP)
        status = Status.CONVERGED if within else Status.MAX_ITERATIONS
        return state._replace(walk=walk._replace(status=status))
    return state
