"""Several components: REML by the reduced model (:mod:`.reduced`), which moves as far as its basis answers for.

Each round takes the true residuals at the present theta, adds them to the basis, and maximises the likelihood within it
by bounded AI steps, which cost no pass.  The fit has converged when theta has settled and the residuals say so.

Cost in column-passes: a round one for each of y and the probes that have not converged, and the overlap for the AI
matrix's part outside the basis; the end as :mod:`.reduced_end` says.
"""

from typing import NamedTuple

import numpy as np

from .contract import check_traces
from .covariance import CountingCovariance, squares_of
from .cross_fit import (
    FOLDS,
    Fixed,
    Traces,
    controlled_traces,
    fixed_controls,
    fold_of,
    inverse_controls,
    longer_chain,
    num_controls,
)
from .inference import largest_mc_ratio, mc_covariance_of_theta, sampling_covariance
from .linalg import Block, column_dots, columns, gram, project, symmetric, take_columns
from .moments import Moments, check_left, start_values, starting_moments
from .monte_carlo import LEAST_PROBES
from .precondition import complement_traces
from .probes import Probes, probes_are_exact
from .reduced import (
    Basis,
    Solved,
    combined,
    compressed,
    coordinates,
    empty_basis,
    extended,
    new_directions,
    outside,
    reduced_v,
    residuals,
    solved,
    tail_mean,
)
from .residuals import Layout, layout_of
from .result import Record, Status
from .settings import FitSettings
from .step import Step, ai_step, score_norm
from .traits import Traits

READY = 0.3  # relative error of the solves, in the norm of V, from which the basis serves to move theta
TRUSTED = 0.3  # the same of y's solve at the theta moved to, as far as the basis can tell
MOST_SHRINKAGE = 0.25  # of a residual in one round, without which V would be singular
MOST_GROWTH = 4  # of a variance in one round; all may grow to the total, as some start near zero
INNER_STEPS = 20  # AI steps in a round
SMALL_STEP = 1e-2  # squared move in standard errors from which a fit may end below its Monte-Carlo error
HALVINGS = 5  # of a move that the basis does not answer for
MOST_ROUNDS = 400
REDUCED_BYTES = 1 << 28  # most memory of T
MOST_BASIS = 1024


class Problem(NamedTuple):
    """What does not change during a fit; y (n, 1) is projected and has unit variance, ``traces`` (G,) are those on the
    complement of the fixed effects, of ``dimension`` n - c."""

    covariance: CountingCovariance
    Q: Block
    y: Block
    lower: np.ndarray
    traces: np.ndarray
    moments: Moments
    settings: FitSettings
    directions: np.ndarray | None = None  # what is estimated, where that is not as the layout says

    @property
    def estimated(self) -> np.ndarray:
        """Along what theta moves, as :func:`~gpu_reml.reml.step.ai_step` takes it."""
        return self.layout.estimated if self.directions is None else self.directions

    @property
    def layout(self) -> Layout:
        return layout_of(self.covariance)

    @property
    def dimension(self) -> int:
        return self.Q.shape[0] - self.Q.shape[1]

    def start(self) -> np.ndarray:
        """Start values from the moments; an identity that is held stays at its floor."""
        theta = start_values(self.moments, self.lower)
        return np.where(self.layout.estimated, theta, self.lower)

    def free(self, theta: np.ndarray) -> np.ndarray:
        """(p,) bool: parameters off their bound; only these carry Monte-Carlo error."""
        return (theta > self.lower * (1 + 1e-9)) & self.layout.estimated

    def mc_ratio(self, theta: np.ndarray, ai: np.ndarray, mc: np.ndarray) -> float:
        """Largest mc_se / se over what is reported."""
        layout = self.layout
        sampling = sampling_covariance(layout.reduced(ai), layout.without_error(self.free(theta)))
        mc = layout.reduced(mc)
        return largest_mc_ratio(layout.reported(theta), layout.mean_traces, sampling, mc, layout.residual_traces)


class Model(NamedTuple):
    """The basis with y and the probes in it: ``B`` (n, 1 + s) and its coordinates ``coords`` (d, 1 + s), y first;
    ``chains``, by fold, of the probes alone (:mod:`.cross_fit`); ``exact``: whether the probes leave no error."""

    basis: Basis
    chains: tuple[np.ndarray, ...]
    B: Block
    coords: np.ndarray
    fixed: Fixed
    exact: bool

    @property
    def num_probes(self) -> int:
        return self.B.shape[1] - 1


class Outside(NamedTuple):
    """Of K_g P y what lies off the basis: its Gram matrix (G, G), and y'P K_g P y (G,) where that was."""

    gram: np.ndarray
    forms: np.ndarray


class Point(NamedTuple):
    """What the basis says of one theta."""

    theta: np.ndarray
    score: np.ndarray
    ai: np.ndarray
    traces: Traces
    solved: Solved


class State(NamedTuple):
    """A fit between two rounds.  ``active``: columns of B that have not converged, None for a look at all; ``lengths``:
    of the last moves of theta, in standard errors; ``cut``: whether the last was held back;
    ``inherited``: records at the start of ``history`` that are another engine's."""

    theta: np.ndarray
    model: Model
    active: np.ndarray | None = None
    lengths: tuple[float, ...] = ()
    cut: bool = False
    rounds: int = 0
    history: tuple[Record, ...] = ()
    inherited: int = 0
    point: Point | None = None
    status: Status | None = None


def prepare(covariance, traits: Traits, probes: Probes, settings: FitSettings) -> Problem:
    """Traces and moments: what a fit needs once."""
    Q, y = covariance.block(traits.Q), covariance.block(traits.scaled)
    lower = np.append(np.zeros(covariance.num_components), settings.residual_floor)
    traces = complement_traces(covariance, Q)
    check_left(covariance, traces)
    found = starting_moments(covariance, Q, y, probes, traces)
    return Problem(covariance, Q, y, lower, traces, found, settings)


def first_model(problem: Problem, probes: Probes) -> Model:
    """The basis of y and the first probes."""
    s, exact = min(problem.settings.probes.first, probes.trace.shape[1]), probes_are_exact(probes.trace)
    empty = empty_basis(problem.covariance.num_components)
    chains = tuple(np.zeros((0, 0)) for _ in range(FOLDS))
    start = Model(empty, chains, problem.y, np.zeros((0, 1)), Fixed(np.zeros(0), np.zeros(0), ()), exact)
    model = with_probes(problem, probes, start, probes.trace.shape[1] if exact else s)
    check_stated(problem, model)
    return model


def with_probes(problem: Problem, probes: Probes, model: Model, wanted: int) -> Model:
    """The model with ``wanted`` probes; those it lacks join the basis."""
    covariance, used = problem.covariance, model.num_probes
    fresh = project(problem.Q, covariance.block(probes.trace[:, used:wanted]))
    B = columns(model.B, fresh)
    W = B if not model.basis.size else fresh
    return grown(problem, model._replace(B=B), W, np.arange(used, wanted), fresh)


def grown(problem: Problem, model: Model, W: Block, whose: np.ndarray, ends: Block) -> Model:
    """The model with the columns of W in its basis; ``ends``: those of them that are of the probes ``whose``."""
    covariance, at_once = problem.covariance, problem.settings.probes.columns
    basis = model.basis
    new = new_directions(problem.Q, basis, W)
    for first in range(0, new.shape[1], at_once or max(1, new.shape[1])):
        basis = extended(covariance, basis, take_columns(new, slice(first, first + (at_once or new.shape[1]))))
    coords = coordinates(basis, model.B)
    added, folds = coordinates(basis, ends), fold_of(model.num_probes)
    chains = tuple(
        longer_chain(chain, added[:, folds[whose] == fold], basis.size) for fold, chain in enumerate(model.chains)
    )
    return dealt(problem, model._replace(basis=basis, chains=chains, coords=coords))


def dealt(problem: Problem, model: Model) -> Model:
    """The model with the controls that its basis and chains give."""
    fixed = fixed_controls(model.basis.T, model.chains, model.coords[:, 1:], problem.traces)
    return model._replace(fixed=fixed)


def check_stated(problem: Problem, model: Model) -> None:
    """ValueError where the probes deny the traces of the covariance that are stated."""
    z, covariance = model.coords[:, 1:], problem.covariance
    forms = np.einsum("az,gaz->gz", z, model.fixed.images)
    check_traces(covariance, forms, squares_of(covariance, combined(model.basis.F, z)), problem.traces)


def most_basis(problem: Problem, num_columns: int) -> int:
    """Most vectors that the basis may have: by the settings, and by the memory of T."""
    G = problem.covariance.num_components
    limit = problem.settings.solver.most_basis or min(MOST_BASIS, int(np.sqrt(REDUCED_BYTES / (8 * G))))
    return max(limit, 4 * num_columns)


def smaller(problem: Problem, model: Model, A: np.ndarray) -> Model:
    """The model on the span of y, the probes and their solutions A (d, 1 + s) alone: a restart that costs no pass."""
    folds = fold_of(model.num_probes)
    keep, _ = np.linalg.qr(np.concatenate([model.coords, A], axis=1))
    basis = compressed(model.basis, keep)
    chains = []
    for fold in range(FOLDS):
        own = np.concatenate([model.coords[:, 1:][:, folds == fold], A[:, 1:][:, folds == fold]], axis=1)
        chains.append(longer_chain(np.zeros((basis.size, 0)), keep.T @ own, basis.size))
    return dealt(problem, model._replace(basis=basis, chains=tuple(chains), coords=keep.T @ model.coords))


def own_solutions(model: Model, V: np.ndarray) -> np.ndarray:
    """(d, 1 + s) Galerkin solutions: y's in the whole basis, each probe's in the chain of its fold."""
    folds = np.append(-1, fold_of(model.num_probes))
    A = np.empty_like(model.coords)
    A[:, :1] = np.linalg.solve(V, model.coords[:, :1])
    for fold, S in enumerate(model.chains):
        mine = folds == fold
        A[:, mine] = S @ np.linalg.solve(S.T @ V @ S, S.T @ model.coords[:, mine])
    return A


def off_the_basis(problem: Problem, model: Model, theta: np.ndarray) -> Outside:
    """What AI needs of K_g P y outside the basis at theta; half a pass of one column, times the overlap."""
    covariance, T = problem.covariance, model.basis.T
    c = np.linalg.solve(reduced_v(T, theta), model.coords[:, :1])
    images = covariance.apply_each(combined(model.basis.F, c))
    off = outside(model.basis, project(problem.Q, columns(*(image[:, :1] for image in images))))
    return Outside(gram(off, off), (T @ c)[:, :, 0] @ c[:, 0])


def point_at(problem: Problem, model: Model, theta: np.ndarray, off: Outside, inverse: np.ndarray) -> Point:
    """Score and average information at theta within the basis; no pass.  inverse (G, s): controls, of a theta near."""
    T, fixed = model.basis.T, model.fixed
    here = solved(reduced_v(T, theta), model.coords)
    c, Cz = here.C[:, :1], here.C[:, 1:]
    images = (T @ c)[:, :, 0]
    forms = np.append(images @ c[:, 0], c[:, 0] @ c[:, 0])
    values = np.einsum("az,gaz->gz", Cz, fixed.images)
    controls = 0 if model.exact or not problem.settings.probes.control_variates else num_controls(model.num_probes)
    traces = controlled_traces(values, inverse, fixed.off, theta, problem.dimension, controls)
    inside = np.column_stack([images.T, c])
    ai = inside.T @ (here.inverse @ inside)
    # off the basis V is its mean there; what is off of K_g P y changes with theta as the part within does
    scale = np.sqrt(np.maximum(forms[:-1], 0) / np.where(off.forms > 0, off.forms, 1.0))
    ai[:-1, :-1] += off.gram * np.outer(scale, scale) / tail_mean(model.basis, problem.traces, problem.dimension, theta)
    return Point(theta, (forms - traces.mean) / 2, symmetric(ai) / 2, traces, here)


def maximised(problem: Problem, model: Model, theta: np.ndarray, off: Outside, inverse: np.ndarray):
    """(point, held): bounded AI steps within the basis from theta, and whether one was held back: a residual on its way
    to its bound, or a variance that grows to where the basis says nothing true of V."""
    layout, least = problem.layout, MOST_SHRINKAGE * theta
    guarded = layout.guarded & (least > problem.settings.residual_floor)
    lower, upper = np.where(guarded, least, problem.lower), most_in_a_round(problem, theta)
    point = point_at(problem, model, theta, off, inverse)
    for _ in range(INNER_STEPS):
        step = shortened(ai_step(point.theta, point.score, point.ai, lower, problem.estimated), point.theta, upper)
        point = along(problem, model, point, step, off, inverse)
        if step.decrement <= 1e-2 * problem.settings.tol:
            break
    held = (guarded & (point.theta <= lower * (1 + 1e-9))) | (point.theta >= upper * (1 - 1e-9))
    return point, bool(held.any())


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


def along(problem: Problem, model: Model, point: Point, step: Step, off: Outside, inverse: np.ndarray) -> Point:
    """The point that a step leads to; where the likelihood falls there half as steeply as it rose before, the step has
    overshot its maximum, which bisection finds."""
    slope, low, high, t = float(point.score @ step.direction), 0.0, 1.0, 1.0
    while True:
        theta = np.maximum(point.theta + t * step.direction, problem.lower)
        found = point_at(problem, model, theta, off, inverse)
        after = float(found.score @ step.direction)
        if after >= -0.5 * slope and (t == 1.0 or after <= 0.5 * slope):
            return found
        if high - low < 1e-3:
            return found
        low, high = (t, high) if after > 0 else (low, t)
        t = (low + high) / 2


def y_error(problem: Problem, model: Model, off: Outside, point: Point) -> float:
    """Relative error of P y in the norm of V at a point, from its residual: what V U C has off the basis."""
    theta_g = point.theta[:-1]
    yPy = float(model.coords[:, 0] @ point.solved.C[:, 0])
    tail = tail_mean(model.basis, problem.traces, problem.dimension, point.theta)
    return float(np.sqrt(max(theta_g @ off.gram @ theta_g, 0.0) / (tail * yPy)))


def moved(problem: Problem, model: Model, theta: np.ndarray) -> tuple[Point, float, bool]:
    """The best theta that the basis answers for, its distance from theta in standard errors, and whether it was held
    back.  Cost: half a pass of one column, times the overlap, for every theta looked at: two, as a rule."""
    T, probes = model.basis.T, model.coords[:, 1:]
    inverse = inverse_controls(T, reduced_v(T, theta), theta, model.chains, probes, model.fixed, problem.dimension)
    point, cut = maximised(problem, model, theta, off_the_basis(problem, model, theta), inverse)
    for _ in range(HALVINGS):
        off = off_the_basis(problem, model, point.theta)
        point = point_at(problem, model, point.theta, off, inverse)
        if y_error(problem, model, off, point) <= TRUSTED:
            break
        point, cut = point_at(problem, model, (theta + point.theta) / 2, off, inverse), True
    direction = point.theta - theta
    return point, float(np.sqrt(direction @ point.ai @ direction)), cut


def errors_of(problem: Problem, model: Model, theta: np.ndarray, which: np.ndarray, A: np.ndarray, R: Block):
    """(k,) relative errors of the solutions ``which`` of A in the norm of V, from their residuals R; 0 in a complete
    basis.

    Residuals are orthogonal to what was solved in, where V is taken for its mean off the basis.
    """
    if model.basis.size >= problem.dimension:
        return np.zeros(len(which))
    energy = np.einsum("az,az->z", model.coords[:, which], A[:, which])
    tail = tail_mean(model.basis, problem.traces, problem.dimension, theta)
    return np.sqrt(column_dots(R, R) / (tail * np.maximum(energy, np.finfo(float).tiny)))


def tolerances(problem: Problem, num_probes: int) -> np.ndarray:
    """(1 + s,) relative errors of y and the probes at which they leave the block.

    y's log-likelihood errs by (n - c) / 2 times the square of its error: 2e-4 at 0.02 / sqrt(n - c).
    """
    solver = problem.settings.solver
    return np.append(min(solver.y, 0.02 / np.sqrt(problem.dimension)), np.full(num_probes, solver.probes))


def mc_covariance(problem: Problem, model: Model, point: Point) -> np.ndarray:
    """Monte-Carlo covariance of theta; 0 for exact probes."""
    if model.exact:
        return np.zeros_like(point.ai)
    return mc_covariance_of_theta(point.ai, point.traces.covariance / 4, problem.free(point.theta))


def probes_wanted(problem: Problem, probes: Probes, model: Model, point: Point) -> int:
    """Probes at which mc_se is expected to meet the target, within what there is."""
    used, available = model.num_probes, probes.trace.shape[1]
    ratio = problem.mc_ratio(point.theta, point.ai, mc_covariance(problem, model, point))
    ratio /= problem.settings.probes.mc_target
    if ratio <= 1:
        return used
    if not np.isfinite(ratio):  # too few probes to know their spread
        return min(available, max(LEAST_PROBES, 2 * used))
    return min(available, max(used + 4, int(np.ceil(1.15 * ratio**2 * used))))


def widened(
    problem: Problem, model: Model, theta: np.ndarray, looked_at: np.ndarray
) -> tuple[Model, np.ndarray, float]:
    """(model, active, error): the model with residuals at theta in its basis, those of the columns ``looked_at`` that
    have not converged there, which are ``active``, and the largest relative error; the same model where nothing joins.

    Cost: half a pass of the columns looked at, half of the active ones.
    """
    A = own_solutions(model, reduced_v(model.basis.T, theta))
    R = residuals(
        problem.covariance,
        problem.Q,
        model.basis,
        theta,
        take_columns(model.B, looked_at),
        A[:, looked_at],
        problem.settings.probes.columns,
    )
    errors = errors_of(problem, model, theta, looked_at, A, R)
    wrong = errors > tolerances(problem, model.num_probes)[looked_at]
    active = looked_at[wrong]
    if not len(active):
        return model, active, float(errors.max())
    before = model
    if model.basis.size + len(active) > most_basis(problem, 1 + model.num_probes):
        before = smaller(problem, model, A)
    W = take_columns(R, np.flatnonzero(wrong))
    whose = np.flatnonzero(active > 0)
    after = grown(problem, before, W, active[whose] - 1, take_columns(W, whose))
    return after if after.basis.size > before.basis.size else model, active, float(errors.max())


def answering(problem: Problem, model: Model, theta: np.ndarray) -> Model:
    """The model with a basis in which all columns have converged at theta, or as near as rounding lets them."""
    active = np.arange(1 + model.num_probes)
    for _ in range(MOST_ROUNDS):
        before = model
        model, active, _ = widened(problem, before, theta, active)
        if model is before:
            break
    return model


def one_round(problem: Problem, probes: Probes, state: State, scale: float) -> State:
    """A round further; ``status`` is set when it was the last.

    Columns that have converged are looked at again only when all have, at the theta where the fit would end.
    """
    model, theta = state.model, state.theta
    all_columns = np.arange(1 + model.num_probes)
    looked_at = all_columns if state.active is None else state.active
    model, active, error = widened(problem, model, theta, looked_at)
    grew = model is not state.model
    unsolved = bool(len(active)) or len(looked_at) < len(all_columns)
    following = active if len(active) else None
    state = state._replace(model=model, rounds=state.rounds + 1, active=following)
    if grew and error > READY and state.rounds < MOST_ROUNDS:
        return state
    point, length, cut = moved(problem, model, theta)
    record = Record(
        len(state.history) + 1,
        tuple(problem.layout.reported(point.theta) * scale**2),
        length**2,
        score_norm(point.score, point.ai, problem.estimated),
        0,  # PCG steps: there are none until the end
        model.num_probes,
        problem.covariance.column_passes,
    )
    state = state._replace(
        theta=point.theta,
        point=point,
        cut=cut,
        lengths=(*state.lengths[-1:], length),
        history=(*state.history, record),
    )
    return judged(problem, probes, state, unsolved, grew)


def judged(problem: Problem, probes: Probes, state: State, unsolved: bool, grew: bool) -> State:
    """The state with more probes where it has settled and they are wanted, or with a status where it ends."""
    tol, model, point = np.sqrt(problem.settings.tol), state.model, state.point
    settled = not state.cut and state.lengths[-1] <= tol and (not grew or state.lengths[0] <= 3 * tol)
    if settled and not unsolved:
        wanted = model.num_probes if model.exact else probes_wanted(problem, probes, model, point)
        if wanted > model.num_probes:
            return state._replace(model=with_probes(problem, probes, model, wanted), active=None, lengths=())
        return state._replace(status=Status.CONVERGED)
    if state.active is not None and not grew and settled:
        return state._replace(status=Status.SOLVER_STALLED)
    if len(state.history) - state.inherited >= problem.settings.max_iterations or state.rounds >= MOST_ROUNDS:
        errors = np.trace(point.ai @ mc_covariance(problem, model, point))
        within = not state.cut and state.lengths[-1] ** 2 <= min(errors, SMALL_STEP)
        return state._replace(status=Status.CONVERGED if within else Status.MAX_ITERATIONS)
    return state
