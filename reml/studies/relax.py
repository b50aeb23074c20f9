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

from gpu_reml.ops.arguments import as_count, as_number, as_vector

from ..covariance import CountingCovariance
from ..engines.reduced import of_components
from ..engines.reduced_end import finish, started, with_information
from ..engines.reduced_fit import answering, ended, state_at
from ..engines.reduced_model import Model, Problem, dealt, first_model, most_basis, prepare
from ..engines.reduced_search import Walk
from ..engines.rise import End, Rise, end_at, rise
from ..hooks import Hooks
from ..probes import Probes, checked_probes
from ..result import ConvergenceError, FitResult, Record
from ..settings import FitSettings
from ..step import SingularInformationError
from ..traits import Traits, one_trait
from ..units import start_variances
from .memberships import (
    check_memberships,
    gradient_within,
    group_covariance,
    group_sizes,
    moved,
    norms_left,
)

# Every fit goes to this Newton decrement: a step of 1e-3 standard errors, which moves a log-likelihood by 1e-4.
TOL = 1e-6
CANNOT_START = "the memberships at the start cannot be fitted; start from others, or with fewer groups"
# The memberships of a group in variants that vary have to add up to at least this; with less there is no group.
LEAST_VARIANTS = 1.0
# A search makes a new basis where the one that it has holds more than this share of the most that it may.
ROOM = 0.6


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

    ``gain`` of its log-likelihood over the best before, in one basis (:mod:`~gpu_reml.reml.engines.rise`), and the
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

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON: the last accepted fit, the groups, and how they were found."""
        return {
            "status": self.status.name.lower(),
            "message": self.status.value,
            "num_accepted_updates": self.num_accepted,
            "num_variants": len(self.memberships),
            "n_groups": self.memberships.shape[1],
            "group_sizes": self.group_sizes.tolist(),
            "mean_largest_membership": float(self.memberships.max(axis=1).mean()),
            "loglik_gain": self.gain,
            "loglik_gain_mc_se": self.gain_mc_se,
            "fit": self.fit.to_dict(),
        }


def start_rate(T: np.ndarray, gradient: np.ndarray) -> float:
    """1 / (root mean square over variants of the gradient's spread across groups under T); 1 where there is none."""
    spread = np.sum(T * (gradient - np.sum(T * gradient, axis=1, keepdims=True)) ** 2, axis=1)
    size = float(np.sqrt(spread.mean()))
    return 1 / size if size > 0 else 1.0


class Grouped(NamedTuple):
    """Memberships with their group sizes, what does not change at them, and their fit with its basis."""

    logs: np.ndarray
    sizes: np.ndarray
    problem: Problem
    model: Model
    walk: Walk

    @property
    def end(self) -> End:
        return end_at(self.problem, self.model, self.walk.theta)

    def within(self, model: Model) -> "Grouped":
        """The point in the basis of another's model; no pass."""
        return self._replace(model=in_components(self.problem, model))

    def answered(self, model: Model) -> "Grouped":
        """The point with a model in whose basis its columns have converged."""
        return self._replace(model=answering(self.problem, model, self.walk.theta))


class NoFit(Enum):
    """Why memberships that were tried have no fit; the value is the message."""

    EMPTY = "a group has less than one variant left"
    ALIKE = "the groups cannot be told apart"


class SharedByFits(NamedTuple):
    """What all fits share: the trait, ``probes``, |z_j|^2 off the fixed effects (m,), and ``hooks`` of their rounds."""

    trait: Traits
    products: Any
    probes: Probes
    norms: np.ndarray
    hooks: Hooks

    def fit(self, logs: np.ndarray, sizes: np.ndarray, problem: Problem, model: Model, theta: np.ndarray) -> Grouped:
        """The fit at log memberships from theta."""
        start = state_at(problem, model, theta)
        state = ended(problem, self.probes, start, float(self.trait.scales[0]), self.hooks)
        return Grouped(logs, sizes, problem, state.model, state.walk)

    def result(self, point: Grouped) -> FitResult:
        """A fit as it is reported."""
        problem = prepare(point.problem.covariance, self.trait, self.probes, point.problem.settings)
        walk = with_information(problem, point.model, point.walk)
        return finish(problem, point.model, walk, self.trait)

    def gradient(self, point: Grouped) -> np.ndarray:
        """(m, G) the gradient at a point."""
        return gradient_within(point.problem, point.model, point.walk.theta, self.norms, point.sizes)


def first_fit(
    y: np.ndarray,
    X: np.ndarray,
    products,
    T: np.ndarray,
    probes: Probes,
    settings: FitSettings,
    start: np.ndarray | None,
    hooks: Hooks,
) -> tuple[SharedByFits, Grouped]:
    """What all fits share, and the first of them, which takes as many probes as its Monte-Carlo errors ask for."""
    covariance = CountingCovariance(group_covariance(products, T))
    trait, probes = one_trait(y, X, covariance), checked_probes(probes, covariance.num_samples)
    problem = prepare(covariance, trait, probes, replace(settings, tol=min(settings.tol, TOL)))
    theta = problem.start()
    if start is not None:
        theta = as_vector(start_variances(start, covariance), "start", len(theta))
        theta = started(problem, theta / trait.scales[0] ** 2)
    shared = SharedByFits(trait, products, probes, norms_left(covariance, problem.Q), hooks)
    with np.errstate(divide="ignore"):
        logs = np.log(T)
    try:
        point = shared.fit(logs, group_sizes(products, T), problem, first_model(problem, probes), theta)
    except SingularInformationError:
        raise ConvergenceError(f"{CANNOT_START}: {NoFit.ALIKE.value}") from None
    return shared._replace(probes=Probes(probes.trace[:, : point.model.num_probes], probes.sketch)), point


def fitted(shared: SharedByFits, log_T: np.ndarray, best: Grouped) -> Grouped | NoFit:
    """The fit at memberships, from the theta and the basis of the best before, or why there is none."""
    T = np.exp(log_T)
    sizes = group_sizes(shared.products, T)
    if sizes.min() < LEAST_VARIANTS:
        return NoFit.EMPTY
    covariance = CountingCovariance(group_covariance(shared.products, T))
    problem = best.problem._replace(covariance=covariance, traces=covariance.weights.T @ shared.norms)
    try:
        return shared.fit(log_T, sizes, problem, in_components(problem, best.model), best.walk.theta)
    except SingularInformationError:
        return NoFit.ALIKE


def in_components(problem: Problem, model: Model) -> Model:
    """The model of other components in the same basis; no pass."""
    return dealt(problem, model._replace(basis=of_components(problem.covariance, model.basis), fixed=None))


def in_one_basis(best: Grouped, trial: Grouped) -> tuple[Grouped, Grouped]:
    """Both in the basis of the trial, which grew from the best's; where it was started again since, it is made to
    answer for the best once more."""
    beside = best.within(trial.model)
    if trial.model.basis.size >= best.model.basis.size:
        return beside, trial
    beside = beside.answered(beside.model)
    return beside, trial.within(beside.model)


def with_room(shared: SharedByFits, point: Grouped) -> Grouped:
    """The point in a basis with room for further steps: one made for it alone where the one it has is nearly full."""
    if point.model.basis.size <= ROOM * most_basis(point.problem, 1 + point.model.num_probes):
        return point
    return point.answered(first_model(point.problem, shared.probes))


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
    from the best before it by what the memberships do and hardly by chance (:mod:`~gpu_reml.reml.engines.rise`).
    Cost: a REML fit, half a pass of y and the probes and the new basis vectors for every step, the end of a fit twice;
    gradients cost no pass.  Memory beside a fit's: four arrays (m, G) of float64, (2, d, d) more of the basis.
    Raises ValueError for memberships with a negative value or a row of zeros, ConvergenceError where the first fit
    fails.
    """
    settings, hooks = settings or RelaxSettings(), hooks or RelaxHooks()
    T = check_memberships(memberships, products.num_variants)
    small = group_sizes(products, T)
    if small.min() < LEAST_VARIANTS:
        raise ValueError(
            f"memberships: group {int(np.argmin(small))} has {small.min():.3g} of the variants that vary; "
            "start from other memberships, or from fewer groups"
        )
    shared, best = first_fit(y, X, products, T, probes, settings.fit, start, Hooks(hooks.iteration))
    first, gradient = shared.result(best), shared.gradient(best)
    state = State(best, Rise(np.zeros(best.model.num_probes), best.model.exact), gradient, start_rate(T, gradient), 0)
    history = [outer_record(1, best, (first.loglik, np.nan, np.nan), True, 0.0, gradient)]
    hooks.report(history[0])
    while len(history) < settings.outer_iterations and state.rejected < settings.trials:
        if not state.rejected and settings.rate is not None:
            state = state._replace(rate=settings.rate)
        state, record = advanced(shared, state, first.loglik, len(history) + 1)
        history.append(record)
        hooks.report(record)
    status = RelaxStatus.NO_GAIN if state.rejected >= settings.trials else RelaxStatus.OUTER_LIMIT
    found = first if state.best.logs is best.logs else shared.result(state.best)
    gained, best = state.risen, state.best
    return RelaxResult(
        status, np.exp(best.logs), state.gradient, best.sizes, found, gained.value, gained.mc_se, tuple(history)
    )


class State(NamedTuple):
    """Where a search stands: the best point and its ``gradient`` (m, G), how the log-likelihood has ``risen``, the rate
    of the next step, and how many were ``rejected`` in a row."""

    best: Grouped
    risen: Rise
    gradient: np.ndarray
    rate: float
    rejected: int


def advanced(shared: SharedByFits, state: State, loglik: float, outer: int) -> tuple[State, OuterRecord]:
    """One step tried, and taken where the log-likelihood, ``loglik`` at the start of the search, rises."""
    best, rate, gradient = with_room(shared, state.best), state.rate, state.gradient
    rejected = state._replace(best=best, rate=rate / 2, rejected=state.rejected + 1)
    trial = fitted(shared, moved(best.logs, gradient, rate), best)
    if isinstance(trial, NoFit):
        return rejected, outer_record(outer, trial, (np.nan,) * 3, False, rate, gradient)
    best, trial = in_one_basis(best, trial)
    step = rise(trial.problem, trial.model, best.end, trial.end)
    risen = state.risen + step
    compared = (loglik + risen.value, step.value, step.mc_se)
    if step.value < 0:
        return rejected._replace(best=best), outer_record(outer, trial, compared, False, rate, gradient)
    gradient = shared.gradient(trial)
    return State(trial, risen, gradient, rate, 0), outer_record(outer, trial, compared, True, rate, gradient)


def outer_record(
    outer: int, trial: Grouped | NoFit, compared: tuple[float, float, float], accepted: bool, rate: float, gradient
) -> OuterRecord:
    """The record of one outer iteration; compared: log-likelihood, gain and its error, nan where there is no fit."""
    norm = float(np.linalg.norm(gradient)) if accepted else np.nan
    if isinstance(trial, NoFit):
        return OuterRecord(outer, *compared, False, rate, (), (), np.nan, 0, trial.value, 0.0)
    walk = trial.walk
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
