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
from gpu_reml.ops.arguments import as_count, as_number

from .compare import Measured, Yardstick, added, difference, gain, make_yardstick, measured
from .fit import fit
from .iterative import FAR
from .memberships import check_memberships, group_covariance, group_sizes, membership_gradient, moved
from .pcg import BreakdownError
from .probes import Probes
from .result import ConvergenceError, FitResult, Record
from .settings import FitSettings

TOL = 1e-6  # Newton decrement of every fit: a step of 1e-3 standard errors, which moves a log-likelihood by 1e-4
SOLVED = 1e-5  # residual of the solve for y at which a score is known to such a step
CANNOT_START = "the memberships at the start cannot be fitted; start from others, or with fewer groups"
LEAST_VARIANTS = 1.0  # memberships that a group must keep among the variants that vary: less is no group


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

    ``gain`` of its log-likelihood over the best before, measured alike (:mod:`~gpu_reml.reml.compare`), and the
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


class Data(NamedTuple):
    """What the fits of a search share: the trait, ``probes``, and a yardstick whose basis is that of all
    preconditioners, made for variants in the proportions ``weights`` (m,)."""

    y: np.ndarray
    X: np.ndarray
    products: Any
    probes: Probes
    settings: FitSettings
    yardstick: Yardstick
    weights: np.ndarray
    callback: Callable[[Record], None] | None


class Point(NamedTuple):
    """Memberships with their group sizes, REML fit and log-likelihood as it is compared."""

    logs: np.ndarray
    sizes: np.ndarray
    fit: FitResult
    measured: Measured


class NoFit(Enum):
    """Why memberships that were tried have no fit; the value is the message."""

    EMPTY = "a group has less than one variant left"
    ALIKE = "the groups cannot be told apart"
    PRECISION = "the covariance is not positive definite in the precision of the products; use float64"


def prepared(
    y: np.ndarray,
    X: np.ndarray,
    covariance: GenotypeCovariance,
    probes: Probes,
    settings: FitSettings,
    start: np.ndarray | None,
    hooks: RelaxHooks,
) -> tuple[Data, np.ndarray]:
    """What all fits share, from one at the start of the search that makes its preconditioner as it goes, and its
    theta."""
    many = replace(settings.probes, first=probes.trace.shape[1])
    solver = replace(settings.solver, y=min(settings.solver.y, SOLVED))
    fits = {"engine": "iterative", "core": "always", "probes": many, "solver": solver}
    settings = replace(settings, tol=min(settings.tol, TOL), **fits)
    try:
        theta = fit(y, X, covariance, probes, settings, start=start, callback=hooks.iteration, strict=False).theta
    except ConvergenceError as error:
        raise ConvergenceError(f"{CANNOT_START}: {error}") from None
    yardstick, weights = make_yardstick(y, X, covariance, theta, probes, settings), shares(covariance, theta)
    return Data(y, X, covariance.products, probes, settings, yardstick, weights, hooks.iteration), theta


def shares(covariance: GenotypeCovariance, theta: np.ndarray) -> np.ndarray:
    """(m,) of the genetic variance, in proportion to the variants' weights."""
    weights = covariance.weights @ theta[:-1]
    return weights / max(float(weights.sum()), np.finfo(float).tiny)


def fitted(data: Data, log_T: np.ndarray, start: np.ndarray) -> Point | NoFit:
    """The REML fit at memberships, or why there is none."""
    T = np.exp(log_T)
    sizes = group_sizes(data.products, T)
    if sizes.min() < LEAST_VARIANTS:
        return NoFit.EMPTY
    covariance = group_covariance(data.products, T)
    try:
        shared = (data.yardstick.probes, replace(data.settings, core="given"))
        found = fit(data.y, data.X, covariance, *shared, start=start, callback=data.callback, strict=False)
        return Point(log_T, sizes, found, measured(data.yardstick, covariance, found.theta))
    except ConvergenceError:
        return NoFit.ALIKE
    except BreakdownError:
        return NoFit.PRECISION


def renewed(data: Data, point: Point) -> tuple[Data, Point]:
    """A basis made for this point, and its fit and log-likelihood on it, where the one before was made for other
    proportions of the variants: what it leaves out then takes its toll in Monte-Carlo error.

    A fit that does not raise the log-likelihood, as one that did not converge, is not taken.
    """
    covariance = group_covariance(data.products, np.exp(point.logs))
    theta = point.fit.theta
    weights = shares(covariance, theta)
    if 0.5 * np.abs(weights - data.weights).sum() <= FAR:
        return data, point
    yardstick = make_yardstick(data.y, data.X, covariance, theta, data.probes, data.settings)
    fresh = data._replace(yardstick=yardstick, weights=weights)
    here, again = measured(yardstick, covariance, theta), fitted(fresh, point.logs, theta)
    if isinstance(again, NoFit) or again.measured.value < here.value:
        return fresh, point._replace(measured=here)
    return fresh, again


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
    All ``probes`` are used in every fit.  A step and the best before it are fitted and measured on one basis
    (:mod:`~gpu_reml.reml.compare`), so that they differ by what the memberships do and hardly by chance; it is made
    anew, and the best fitted on it, where accepted steps have led far from what it was made for.
    Cost: a REML fit an outer iteration, warm-started from the best before, one more at the start and for each new
    basis, and all their log-likelihoods once more; (1 + s) columns of solves for every accepted one's gradient.  Memory
    beside a fit's: four arrays (m, G) of float64, and the basis.
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
    with np.errstate(divide="ignore"):
        log_T = np.log(T)
    first = prepared(y, X, group_covariance(products, T), probes, settings.fit, start, hooks)
    state, record = begun(first, log_T, settings)
    history = [record]
    hooks.report(record)
    while len(history) < settings.outer_iterations and state.rejected < settings.trials:
        state, record = advanced(state, settings, len(history) + 1)
        history.append(record)
        hooks.report(record)
    status = RelaxStatus.NO_GAIN if state.rejected >= settings.trials else RelaxStatus.OUTER_LIMIT
    best, total = state.best, gain(state.risen, exact=state.data.yardstick.exact)
    return RelaxResult(status, np.exp(best.logs), state.gradient, best.sizes, best.fit, *total, tuple(history))


class State(NamedTuple):
    """Where a search stands: the best point and its ``gradient`` (m, G), the log-likelihood at the ``start`` and how it
    has ``risen`` since, the rate of the next step, and how many were rejected in a row."""

    data: Data
    best: Point
    start: float
    risen: Measured
    gradient: np.ndarray
    rate: float
    rejected: int


def begun(prepared: tuple[Data, np.ndarray], log_T: np.ndarray, settings: RelaxSettings) -> tuple[State, OuterRecord]:
    """The first fit."""
    data, theta = prepared
    point = fitted(data, log_T, theta)
    if isinstance(point, NoFit):
        raise ConvergenceError(f"{CANNOT_START}: {point.value}")
    gradient = gradient_at(data, point, settings)
    rate = start_rate(np.exp(log_T), gradient) if settings.rate is None else settings.rate
    nothing = Measured(0.0, np.zeros_like(point.measured.per_probe))
    value = point.measured.value
    record = outer_record(1, point, (value, np.nan, np.nan), True, 0.0, gradient)
    return State(data, point, value, nothing, gradient, rate, 0), record


def advanced(state: State, settings: RelaxSettings, outer: int) -> tuple[State, OuterRecord]:
    """One step tried, and taken where the log-likelihood rises."""
    data, best, rate = state.data, state.best, state.rate
    trial = fitted(data, moved(best.logs, state.gradient, rate), best.fit.theta)
    if isinstance(trial, NoFit):
        return rejected(state), outer_record(outer, trial, (np.nan,) * 3, False, rate, state.gradient)
    rise = difference(trial.measured, best.measured)
    risen = added(state.risen, rise)
    compared = (state.start + risen.value, *gain(rise, exact=data.yardstick.exact))
    if rise.value < 0:
        return rejected(state), outer_record(outer, trial, compared, False, rate, state.gradient)
    data, point = renewed(data, trial)
    gradient = gradient_at(data, point, settings)
    next_rate = rate if settings.rate is None else settings.rate
    record = outer_record(outer, trial, compared, True, rate, gradient)
    return State(data, point, state.start, risen, gradient, next_rate, 0), record


def rejected(state: State) -> State:
    """The state after a step that did not raise the log-likelihood."""
    return state._replace(rate=state.rate / 2, rejected=state.rejected + 1)


def gradient_at(data: Data, point: Point, settings: RelaxSettings) -> np.ndarray:
    """(m, G) the gradient at a point."""
    T, theta = np.exp(point.logs), point.fit.theta
    return membership_gradient(data.y, data.X, data.products, T, theta, data.probes, settings.fit)


def outer_record(
    outer: int, trial: Point | NoFit, compared: tuple[float, float, float], accepted: bool, rate: float, gradient
) -> OuterRecord:
    """The record of one outer iteration; compared: log-likelihood, gain and its error, nan where there is no fit."""
    norm = float(np.linalg.norm(gradient)) if accepted else np.nan
    if isinstance(trial, NoFit):
        return OuterRecord(outer, *compared, False, rate, (), (), np.nan, 0, trial.value, 0.0)
    found = trial.fit
    return OuterRecord(
        outer,
        *compared,
        accepted,
        float(rate),
        tuple(found.theta.tolist()),
        tuple(trial.sizes.tolist()),
        norm,
        len(found.history),
        found.status.name.lower(),
        found.column_passes,
    )
