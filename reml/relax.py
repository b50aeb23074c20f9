"""Soft grouping: learn from the phenotype which group every variant belongs to, by gradient steps on the likelihood.

Memberships T (m, G) have rows on the simplex; group g is the component K_g = Z diag(T_g) Z' / c_g, c_g the sum of T_g
over the variants that vary.  The objective is the REML log-likelihood maximised over the variances at every T, always
with the same probes, so that its values can be compared.

The likelihood found is that of groups chosen to raise it: neither it nor the errors of the last fit are a test of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from gpu_reml.ops import GenotypeCovariance, make_covariance
from gpu_reml.ops.arguments import as_count, as_matrix, as_number, as_numbers, as_variances

from . import likelihood
from .compare import Measured, Yardstick, gain, make_yardstick, measured
from .exact import one_trait
from .fit import fit
from .linalg import Block, column_batches, project, take_columns
from .pcg import BreakdownError
from .precondition import Preconditioner, complement_traces, make_projected_core, precondition
from .probes import Probes, checked_probes
from .result import ConvergenceError, FitResult, Record
from .settings import FitSettings

COLUMNS = 16  # whose features are on the host in float64 at once
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
    """One REML fit of the search, its ``loglik`` measured as all others are (:mod:`~gpu_reml.reml.compare`).

    ``gain`` over the best before, and its Monte-Carlo error ``gain_mc_se`` from the probes they share; ``status``: the
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


def random_memberships(num_variants: int, num_groups: int, low: float = 0.0, high: float = 1.0, seed: int = 0):
    """(m, G) uniform numbers between ``low`` and ``high``, every row divided by its sum."""
    if not 0 <= low < high < np.inf:
        raise ValueError(f"memberships: expected 0 <= low < high, found {low} and {high}")
    drawn = np.random.default_rng(seed).uniform(low, high, (num_variants, num_groups))
    return drawn / drawn.sum(axis=1, keepdims=True)


def check_memberships(memberships: np.ndarray, num_variants: int) -> np.ndarray:
    """Memberships as float64 with rows that sum to 1, or a ValueError that says which variant is wrong."""
    T = as_numbers(memberships, "memberships")
    if T.ndim != 2 or len(T) != num_variants or T.shape[1] < 2:
        raise ValueError(f"memberships: expected ({num_variants}, 2 groups or more), found {T.shape}")
    totals = T.sum(axis=1)
    bad = ~(np.isfinite(T).all(axis=1) & (T.min(axis=1) >= 0) & (totals > 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"memberships of variant {row}: expected finite values from 0 up, not all 0, found {T[row]}")
    T = T / totals[:, None]
    if np.ptp(T, axis=1).max() <= 1e-12:
        raise ValueError(
            "memberships: every variant is in all groups alike, so the groups are one and nothing tells them apart; "
            "start from random memberships"
        )
    return T


def moved(log_T: np.ndarray, gradient: np.ndarray, rate: float) -> np.ndarray:
    """(m, G) log memberships after the exponentiated-gradient step T exp(rate gradient), rows on the simplex again.

    Log-sum-exp: no rate overflows, and a membership of 0 stays 0.
    Source: Kivinen & Warmuth 1997, Information and Computation 132:1.
    """
    stepped = log_T + rate * gradient
    return stepped - special.logsumexp(stepped, axis=1, keepdims=True)


def group_covariance(products, T: np.ndarray) -> GenotypeCovariance:
    """Components K_g = Z diag(T_g) Z' / c_g of memberships T (m, G)."""
    return make_covariance(products, T, [f"group_{g:03d}" for g in range(T.shape[1])])


def start_rate(T: np.ndarray, gradient: np.ndarray) -> float:
    """1 / (root mean square over variants of the gradient's spread across groups under T); 1 where there is none."""
    spread = np.sum(T * (gradient - np.sum(T * gradient, axis=1, keepdims=True)) ** 2, axis=1)
    size = float(np.sqrt(spread.mean()))
    return 1 / size if size > 0 else 1.0


class Data(NamedTuple):
    """What every fit of a search shares; its probes, and the basis of its preconditioner, are the yardstick's."""

    y: np.ndarray
    X: np.ndarray
    products: Any
    settings: FitSettings
    yardstick: Yardstick
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
    callback: Callable[[Record], None] | None,
) -> tuple[Data, np.ndarray]:
    """What all fits share, from one at the start of the search that makes its preconditioner as it goes, and its
    theta."""
    many = replace(settings.probes, first=probes.trace.shape[1])
    solver = replace(settings.solver, y=min(settings.solver.y, SOLVED))
    fits = {"engine": "iterative", "core": "always", "probes": many, "solver": solver}
    settings = replace(settings, tol=min(settings.tol, TOL), **fits)
    try:
        theta = fit(y, X, covariance, probes, settings, start=start, callback=callback, strict=False).theta
    except ConvergenceError as error:
        raise ConvergenceError(f"{CANNOT_START}: {error}") from None
    yardstick = make_yardstick(y, X, covariance, theta, probes, settings)
    return Data(y, X, covariance.products, replace(settings, core="given"), yardstick, callback), theta


def fitted(data: Data, log_T: np.ndarray, start: np.ndarray) -> Point | NoFit:
    """The REML fit at memberships, or why there is none."""
    T = np.exp(log_T)
    sizes = group_sizes(data.products, T)
    if sizes.min() < LEAST_VARIANTS:
        return NoFit.EMPTY
    covariance = group_covariance(data.products, T)
    try:
        shared = (data.yardstick.probes, data.settings)
        found = fit(data.y, data.X, covariance, *shared, start=start, callback=data.callback, strict=False)
        return Point(log_T, sizes, found, measured(data.yardstick, covariance, found.theta))
    except ConvergenceError:
        return NoFit.ALIKE
    except BreakdownError:
        return NoFit.PRECISION


def group_sizes(products, T: np.ndarray) -> np.ndarray:
    """(G,) c_g: memberships of the variants that vary."""
    return (products.genotypes.inv_sd > 0) @ T


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
    All ``probes`` and one basis, made at the start, are used in every fit, and in its log-likelihood
    (:mod:`~gpu_reml.reml.compare`), so that these differ by what the memberships do and hardly by chance.
    Cost: a REML fit an outer iteration, warm-started from the best before, one more at the start, and their
    log-likelihoods once more; (1 + s) columns of solves for every accepted one's gradient.  Memory beside a fit's: four
    arrays (m, G) of float64, and the basis.
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
    at_start = group_covariance(products, T)
    data, theta = prepared(y, X, at_start, probes, settings.fit, start, hooks.iteration)
    best: Point | None = None
    gradient, rate, rejected, status = np.zeros_like(T), 0.0, 0, RelaxStatus.OUTER_LIMIT
    history: list[OuterRecord] = []
    for outer in range(1, settings.outer_iterations + 1):
        if best is None:
            trial = origin = fitted(data, log_T, theta)
            if isinstance(origin, NoFit):
                raise ConvergenceError(f"{CANNOT_START}: {origin.value}")
        else:
            trial = fitted(data, moved(best.logs, gradient, rate), best.fit.theta)
        tried, rise = rate, compared(trial, best, data.yardstick)
        accepted = best is None or rise[0] >= 0
        if accepted:
            first, best, rejected = best is None, trial, 0
            gradient = membership_gradient(y, X, products, np.exp(best.logs), best.fit.theta, probes, settings.fit)
            rate = next_rate(settings, best, gradient, None if first else rate)
        else:
            rate, rejected = rate / 2, rejected + 1
        history.append(outer_record(outer, trial, rise, accepted, tried, gradient))
        if hooks.outer is not None:
            hooks.outer(history[-1])
        if rejected >= settings.trials:
            status = RelaxStatus.NO_GAIN
            break
    total = compared(best, origin, data.yardstick)
    return RelaxResult(status, np.exp(best.logs), gradient, best.sizes, best.fit, *total, tuple(history))


def compared(trial: Point | NoFit, best: Point | None, yardstick: Yardstick) -> tuple[float, float]:
    """The gain of a trial over the best and its Monte-Carlo error; nan where there is nothing to compare."""
    if isinstance(trial, NoFit) or best is None:
        return np.nan, np.nan
    return gain(trial.measured, best.measured, exact=yardstick.exact)


def next_rate(settings: RelaxSettings, point: Point, gradient: np.ndarray, rate: float | None) -> float:
    """The rate of the step after an accepted one; ``rate``: of that one, None at the start."""
    if settings.rate is not None:
        return settings.rate
    return start_rate(np.exp(point.logs), gradient) if rate is None else rate


def outer_record(
    outer: int, trial: Point | NoFit, rise: tuple[float, float], accepted: bool, rate: float, gradient
) -> OuterRecord:
    """The record of one outer iteration; a trial without a fit has no numbers."""
    norm = float(np.linalg.norm(gradient)) if accepted else np.nan
    if isinstance(trial, NoFit):
        return OuterRecord(outer, np.nan, *rise, False, rate, (), (), np.nan, 0, trial.value, 0.0)
    found = trial.fit
    return OuterRecord(
        outer,
        trial.measured.value,
        *rise,
        accepted,
        float(rate),
        tuple(found.theta.tolist()),
        tuple(trial.sizes.tolist()),
        norm,
        len(found.history),
        found.status.name.lower(),
        found.column_passes,
    )


def membership_gradient(
    y: np.ndarray,
    X: np.ndarray,
    products,
    T: np.ndarray,
    theta: np.ndarray,
    probes: Probes,
    settings: FitSettings | None = None,
) -> np.ndarray:
    """(m, G) d ell_R / d T_jg at theta (G + 1,) for K_g = Z diag(T_g) Z' / c_g, each entry on its own.

    theta_g / (2 c_g) { r_j - sum_i T_ig r_i / c_g },  r_j = (z_j'P y)^2 - z_j'P z_j; 0 where z_j does not vary.
    The sum over a group of T_jg times it is zero: the scale of T_g is no parameter.  Where theta maximises ell_R it is
    the gradient of the maximum as well.  Cost: 1 + s columns of solves, half a pass of 1 + 3 s + r + c columns.
    """
    T = as_matrix(T, "T", products.num_variants)
    settings, covariance = settings or FitSettings(), group_covariance(products, T)
    probes = checked_probes(probes, covariance.num_samples)
    trait = one_trait(y, X, covariance)
    theta = as_variances(theta, "theta", covariance.num_components + 1) / trait.scales[0] ** 2
    Q, Y = covariance.block(trait.Q), trait.scaled
    core = make_projected_core(covariance, Q, complement_traces(covariance, Q), theta[:-1], probes.sketch)
    preconditioner = precondition(core, theta)
    B = project(Q, covariance.block(np.column_stack([Y, probes.trace])))
    solver, at_once = settings.solver, settings.probes.columns
    tol = np.append(min(solver.y, 1e-2 / np.sqrt(len(Y))), np.full(probes.trace.shape[1], solver.probes))
    options = {"max_iterations": solver.max_iterations, "check": False, "at_once": at_once}
    PB = likelihood.solve(Q, likelihood.apply_v_at(covariance, theta), B, preconditioner, tol=tol, **options).X
    fixed = columns_of_features(covariance, Q)
    norms = products.genotypes.squared_norm - sum(np.sum(F**2, axis=1) for F in fixed)
    diagonal = projection_diagonal(covariance, preconditioner, norms, take_columns(B, slice(1, None)), PB[:, 1:])
    (of_y,) = columns_of_features(covariance, take_columns(PB, slice(0, 1)))
    r = of_y[:, 0] ** 2 - diagonal
    scale = theta[:-1] / (2 * group_sizes(products, T))
    varies = products.genotypes.inv_sd > 0
    return np.where(varies[:, None], scale * (r[:, None] - covariance.weights.T @ r), 0.0)


def columns_of_features(covariance, B: Block) -> Iterator[np.ndarray]:
    """Z'B in float64 on the host, some columns (m, k) at a time; half a pass of all of them."""
    for batch in column_batches(B.shape[1], COLUMNS):
        if B.shape[1]:
            yield np.asarray(covariance.features(take_columns(B, batch)), np.float64)


def projection_diagonal(
    covariance, preconditioner: Preconditioner, norms: np.ndarray, Z: Block, PZ: Block
) -> np.ndarray:
    """(m,) estimates of z_j'P z_j from projected probes Z (n, s) and solves P Z.

    z_j'M^-1 z_j, exact, + mean_x (z_j'x)(z_j'(P - M^-1)x), less its regression on (z_j'x)(z_j'(I - UU')x), whose
    expectation |z_j|^2 - |U'z_j|^2 is known; one slope for all variants.  norms: (m,) |z_j|^2 on the complement of X.
    Plain Hutchinson has a standard error of sqrt(2 / s) of every entry.
    """
    core, d = preconditioner.core, preconditioner.d
    exact, tail = norms / d, norms.copy()
    first = 0
    for F in columns_of_features(covariance, core.U @ preconditioner.vectors.astype(covariance.dtype)):
        squares = F**2
        exact += squares @ (1 / preconditioner.eigenvalues[first : first + F.shape[1]] - 1 / d)
        tail -= squares.sum(axis=1)
        first += F.shape[1]
    difference, off = PZ - preconditioner.apply_minv(Z), Z - core.U @ (core.U.T @ Z)
    value, known, cross, spread = np.zeros(len(norms)), np.zeros(len(norms)), 0.0, 0.0
    num_probes = Z.shape[1]
    parts = (columns_of_features(covariance, block) for block in (Z, difference, off))
    for F, of_difference, of_tail in zip(*parts, strict=True):
        values, controls = F * of_difference, F * of_tail
        value += values.sum(axis=1) / num_probes
        known += controls.sum(axis=1) / num_probes
        cross += np.sum(values * controls)
        spread += np.sum(controls**2)
    cross, spread = cross - num_probes * value @ known, spread - num_probes * known @ known
    slope = cross / spread if num_probes > 2 and spread > 0 else 0.0
    return exact + value - slope * (known - tail)
