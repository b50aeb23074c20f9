"""Soft grouping: learn from the phenotype which group every variant belongs to, by gradient steps on the likelihood.

Memberships T (m, G) have rows on the simplex; group g is the component K_g = Z diag(T_g) Z' / c_g, c_g the sum of T_g
over the variants that vary.  The objective is the REML log-likelihood maximised over the variances at every T, always
with the same probes, so that its values can be compared.

The likelihood found is that of groups chosen to raise it: neither it nor the errors of the last fit are a test of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from gpu_reml.ops import GenotypeCovariance
from gpu_reml.ops.arguments import as_count, as_number, as_vector

from .covariance import CountingCovariance
from .exact import one_trait
from .fit import start_variances
from .memberships import (
    check_memberships,
    gradient_within,
    group_covariance,
    group_sizes,
    moved,
    norms_left,
)
from .probes import Probes, checked_probes
from .reduced import of_components
from .reduced_end import finish
from .reduced_fit import State, answering, one_round, state_at
from .reduced_model import Model, Problem, dealt, first_model, most_basis, prepare
from .result import ConvergenceError, FitResult, Record
from .rise import Rise, end_at, rise
from .settings import FitSettings
from .step import SingularInformationError
from .traits import Traits

TOL = 1e-6  # Newton decrement of every fit: a step of 1e-3 standard errors, which moves a log-likelihood by 1e-4
CANNOT_START = "the memberships at the start cannot be fitted; start from others, or with fewer groups"
LEAST_VARIANTS = 1.0  # memberships that a group must keep among the variants that vary: less is no group
ROOM = 0.6  # share of the most that a basis may have, from which a search makes a new one


class RelaxStatus(Enum):
    """How the search ended; the value is the message."""

    OUTER_LIMIT = "all outer iterations were used; more of them may raise the log-likelihood further"
    NO_GAIN = "no step along the gradient, halved as often as allowed, raised the log-likelihood"


@dataclass(frozen=True)
class RelaxSettings:
    """``outer_iterations``: REML fits in all, the first and those of rejected steps among them.

    ``rate``: of the steps in log T, tried anew after every accepted step.  None starts with 1 / (root mean square of
    the gradient across groups), so that a typical membership changes by a factor of e, and halvings last.
    ``trials``: rejected steps in a row that end the search; each halves the rate.  ``fit``: of every REML fit.
    """

    outer_iterations: int = 5
    rate: float | None = None
    trials: int = 3
    fit: FitSettings = field(default_factory=FitSettings)

    def __post_init__(self):
        as_count(self.outer_iterations, "outer_iterations")
        as_count(self.trials, "trials")
        if self.rate is not None:
            as_number(self.rate, "rate", above=0)


class OuterRecord(NamedTuple):
    """One REML fit of the search.

    ``gain`` of its log-likelihood over the best before, in one basis (:mod:`~gpu_reml.reml.rise`), and the
    Monte-Carlo error ``gain_mc_se`` of that; ``loglik``: that of the first fit and the gains since; ``status``: the
    fit's.
    """

    outer: int
    loglik: float
    gain: float
    gain_mc_se: float
    accepted: bool
    rate: float
    theta: tuple[float, ...]
    group_sizes: tuple[float, ...]
    gradient_norm: float
    iterations: int
    status: str
    column_passes: float


class RelaxHooks(NamedTuple):
    """``outer`` gets the record of every outer iteration, ``iteration`` those of every fit."""

    outer: Callable[[OuterRecord], None] | None = None
    iteration: Callable[[Record], None] | None = None

    def report(self, record: OuterRecord) -> None:
        if self.outer is not None:
            self.outer(record)


@dataclass(frozen=True)
class RelaxResult:
    """``memberships``, ``gradient`` (m, G) of the best log-likelihood found, the ``fit`` there, and the way to it.

    ``gradient``: d ell / d T_jg, each entry on its own; 0 for variants that do not vary.  ``gain``: of the
    log-likelihood from the first fit to the best, and its Monte-Carlo error.
    """

    status: RelaxStatus
    memberships: np.ndarray
    gradient: np.ndarray
    group_sizes: np.ndarray
    fit: FitResult
    gain: float
    gain_mc_se: float
    history: tuple[OuterRecord, ...]

    @property
    def num_accepted(self) -> int:
        """Accepted updates of the memberships."""
        return sum(record.accepted for record in self.history) - 1


def start_rate(T: np.ndarray, gradient: np.ndarray) -> float:
    """1 / (root mean square over variants of the gradient's spread across groups under T); 1 where there is none."""
    spread = np.sum(T * (gradient - np.sum(T * gradient, axis=1, keepdims=True)) ** 2, axis=1)
    size = float(np.sqrt(spread.mean()))
    return 1 / size if size > 0 else 1.0


class Search(NamedTuple):
    """What all fits share: the trait, ``probes``, and |z_j|^2 off the fixed effects (m,)."""

    traits: Traits
    products: Any
    probes: Probes
    norms: np.ndarray
    settings: FitSettings
    callback: Callable[[Record], None] | None

    @property
    def scale(self) -> float:
        return float(self.traits.scales[0])


class Point(NamedTuple):
    """Memberships with their group sizes, what does not change at them, and their fit."""

    logs: np.ndarray
    sizes: np.ndarray
    problem: Problem
    state: State

    @property
    def theta(self) -> np.ndarray:
        return self.state.walks[0].theta


class NoFit(Enum):
    """Why memberships that were tried have no fit; the value is the message."""

    EMPTY = "a group has less than one variant left"
    ALIKE = "the groups cannot be told apart"


def settled(problem: Problem, probes: Probes, state: State, scale: float, callback) -> State:
    """The end of a fit."""
    while state.lead is not None:
        known = len(state.walks[0].history)
        state = one_round(problem, probes, state, np.array([scale]))
        for record in state.walks[0].history[known:] if callback is not None else ():
            callback(record)
    return state


def prepared(
    y: np.ndarray,
    X: np.ndarray,
    covariance: GenotypeCovariance,
    probes: Probes,
    settings: FitSettings,
    start: np.ndarray | None,
    callback: Callable[[Record], None] | None,
) -> tuple[Search, Problem, State]:
    """What all fits share, and the first of them, which takes as many probes as its Monte-Carlo errors ask for."""
    traits, counting = one_trait(y, X, covariance), CountingCovariance(covariance)
    probes = checked_probes(probes, counting.num_samples)
    settings = replace(settings, tol=min(settings.tol, TOL))
    problem = prepare(counting, traits, probes, settings)
    scale = float(traits.scales[0])
    theta = problem.start()
    if start is not None:
        theta = np.maximum(as_vector(start_variances(start, counting), "start", len(theta)) / scale**2, problem.lower)
    try:
        state = settled(problem, probes, state_at(problem, first_model(problem, probes), theta), scale, callback)
    except SingularInformationError:
        raise ConvergenceError(f"{CANNOT_START}: {NoFit.ALIKE.value}") from None
    used = Probes(probes.trace[:, : state.model.num_probes], probes.sketch)
    norms = norms_left(counting, problem.Q)
    return Search(traits, covariance.products, used, norms, settings, callback), problem, state


def fitted(search: Search, log_T: np.ndarray, best: Point) -> Point | NoFit:
    """The fit at memberships, from the theta and the basis of the best before, or why there is none."""
    T = np.exp(log_T)
    sizes = group_sizes(search.products, T)
    if sizes.min() < LEAST_VARIANTS:
        return NoFit.EMPTY
    covariance = CountingCovariance(group_covariance(search.products, T))
    problem = best.problem._replace(covariance=covariance, traces=covariance.weights.T @ search.norms)
    try:
        model = in_components(problem, best.state.model)
        start = state_at(problem, model, best.theta)
        return Point(log_T, sizes, problem, settled(problem, search.probes, start, search.scale, search.callback))
    except SingularInformationError:
        return NoFit.ALIKE


def in_components(problem: Problem, model: Model) -> Model:
    """The model of other components in the same basis; no pass."""
    return dealt(problem, model._replace(basis=of_components(problem.covariance, model.basis)))


def with_model(point: Point, model: Model) -> Point:
    """The point in the basis of another's model; no pass."""
    return point._replace(state=point.state._replace(model=in_components(point.problem, model)))


def in_one_basis(best: Point, trial: Point) -> tuple[Point, Point]:
    """Both in the basis of the trial, which grew from the best's; where it was started again since, it is made to
    answer for the best once more."""
    beside = with_model(best, trial.state.model)
    if trial.state.model.basis.size >= best.state.model.basis.size:
        return beside, trial
    model = answering(best.problem, beside.state.model, best.theta)
    return with_model(best, model), with_model(trial, model)


def with_room(search: Search, point: Point) -> Point:
    """The point in a basis with room for further steps: one made for it alone where the one it has is nearly full."""
    problem, model = point.problem, point.state.model
    if model.basis.size <= ROOM * most_basis(problem, 1 + model.num_probes):
        return point
    model = answering(problem, first_model(problem, search.probes), point.theta)
    return point._replace(state=point.state._replace(model=model))


def relax(
    y: np.ndarray,
    X: np.ndarray,
    products,
    memberships: np.ndarray,
    probes: Probes,
    settings: RelaxSettings | None = None,
    *,
    start: np.ndarray | None = None,
    hooks: RelaxHooks | None = None,
) -> RelaxResult:
    """Raise the REML log-likelihood by exponentiated-gradient steps in the memberships, halved until it rises.

    y (n,), X (n, c), products with Z (n, m), memberships (m, G) to start from, start: theta (G + 1,) of the first fit.
    The first fit takes as many of the ``probes`` as its Monte-Carlo errors ask for, and the others the same.  All share
    a basis: other weights of the variants need none of its products anew, so a fit only extends it, and a step differs
    from the best before it by what the memberships do and hardly by chance (:mod:`~gpu_reml.reml.rise`).
    Cost: a REML fit, half a pass of y and the probes and the new basis vectors for every step, the end of a fit twice;
    gradients cost no pass.  Memory beside a fit's: four arrays (m, G) of float64, (2, d, d) more of the basis.
    Raises ValueError for memberships that are no such thing, ConvergenceError where the first fit fails.
    """
    settings, hooks = settings or RelaxSettings(), hooks or RelaxHooks()
    T = check_memberships(memberships, products.num_variants)
    small = group_sizes(products, T)
    if small.min() < LEAST_VARIANTS:
        raise ValueError(
            f"memberships: group {int(np.argmin(small))} has {small.min():.3g} of the variants that vary; "
            "start from other memberships, or from fewer groups"
        )
    first = prepared(y, X, group_covariance(products, T), probes, settings.fit, start, hooks.iteration)
    walk, record = begun(*first, T, settings)
    history = [record]
    hooks.report(record)
    while len(history) < settings.outer_iterations and walk.rejected < settings.trials:
        walk, record = advanced(walk, settings, len(history) + 1)
        history.append(record)
        hooks.report(record)
    status = RelaxStatus.NO_GAIN if walk.rejected >= settings.trials else RelaxStatus.OUTER_LIMIT
    search, best, risen = walk.search, walk.best, walk.risen
    found = walk.first
    if best.logs is not walk.start:
        found = ended(search, best)
    gain = (risen.value, risen.mc_se) if len(history) > 1 else (0.0, 0.0)
    return RelaxResult(status, np.exp(best.logs), walk.gradient, best.sizes, found, *gain, tuple(history))


def ended(search: Search, point: Point) -> FitResult:
    """The result of a fit."""
    problem, traits = point.problem, search.traits
    return finish(
        prepare(problem.covariance, traits, search.probes, problem.settings),
        point.state.model,
        point.state.walks[0],
        traits,
    )


class Walk(NamedTuple):
    """Where a search stands: its ``first`` result, at the log memberships ``start``, the best point and its
    ``gradient`` (m, G), how the log-likelihood has ``risen``, the rate of the next step, and how many were rejected in
    a row."""

    search: Search
    first: FitResult
    start: np.ndarray
    best: Point
    risen: Rise
    gradient: np.ndarray
    rate: float
    rejected: int


def begun(
    search: Search, problem: Problem, state: State, T: np.ndarray, settings: RelaxSettings
) -> tuple[Walk, OuterRecord]:
    """The first fit."""
    with np.errstate(divide="ignore"):
        logs = np.log(T)
    point = Point(logs, group_sizes(search.products, T), problem, state)
    first, gradient = finish(problem, state.model, state.walks[0], search.traits), gradient_at(search, point)
    rate = start_rate(T, gradient) if settings.rate is None else settings.rate
    nothing = Rise(np.zeros(state.model.num_probes), state.model.exact)
    record = outer_record(1, point, (first.loglik, np.nan, np.nan), True, 0.0, gradient)
    return Walk(search, first, logs, point, nothing, gradient, rate, 0), record


def advanced(walk: Walk, settings: RelaxSettings, outer: int) -> tuple[Walk, OuterRecord]:
    """One step tried, and taken where the log-likelihood rises."""
    search, best, rate = walk.search, with_room(walk.search, walk.best), walk.rate
    trial = fitted(search, moved(best.logs, walk.gradient, rate), best)
    if isinstance(trial, NoFit):
        record = outer_record(outer, trial, (np.nan,) * 3, False, rate, walk.gradient)
        return rejected(walk, best), record
    best, trial = in_one_basis(best, trial)
    ends = (end_at(point.problem, point.state.model, point.theta) for point in (best, trial))
    step = rise(trial.problem, trial.state.model, *ends)
    risen = walk.risen + step
    compared = (walk.first.loglik + risen.value, step.value, step.mc_se)
    if step.value < 0:
        return rejected(walk, best), outer_record(outer, trial, compared, False, rate, walk.gradient)
    gradient = gradient_at(search, trial)
    record = outer_record(outer, trial, compared, True, rate, gradient)
    next_rate = rate if settings.rate is None else settings.rate
    return walk._replace(best=trial, risen=risen, gradient=gradient, rate=next_rate, rejected=0), record


def rejected(walk: Walk, best: Point) -> Walk:
    """The walk after a step that did not raise the log-likelihood; best: the best point in the basis that is now."""
    return walk._replace(best=best, rate=walk.rate / 2, rejected=walk.rejected + 1)


def gradient_at(search: Search, point: Point) -> np.ndarray:
    """(m, G) the gradient at a point."""
    return gradient_within(point.problem, point.state.model, point.theta, search.norms, point.sizes)


def outer_record(
    outer: int, trial: Point | NoFit, compared: tuple[float, float, float], accepted: bool, rate: float, gradient
) -> OuterRecord:
    """The record of one outer iteration; compared: log-likelihood, gain and its error, nan where there is no fit."""
    norm = float(np.linalg.norm(gradient)) if accepted else np.nan
    if isinstance(trial, NoFit):
        return OuterRecord(outer, *compared, False, rate, (), (), np.nan, 0, trial.value, 0.0)
    walk = trial.state.walks[0]
    return OuterRecord(
        outer,
        *compared,
        accepted,
        float(rate),
        walk.history[-1].theta,
        tuple(trial.sizes.tolist()),
        norm,
        len(walk.history),
        walk.status.name.lower(),
        trial.problem.covariance.column_passes,
    )
