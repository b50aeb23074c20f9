"""Sparse REML: variants of large effect by the LASSO, everything else as random, in turns until both settle.

    y = X a + Z_A b_A + sum_g u_g + e,     A = support of min_b 1/2 (y - Zb)'P(theta)(y - Zb) + lambda |b|_1

The LASSO runs at the theta that REML gives with the last support as fixed effects; REML runs with the LASSO's support.
A round that gives its own support back is a fixed point.  Chosen variants keep their small share of the random effects
as well.  All inputs and results are in the phenotype's units; inside, y has unit variance given X.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy import sparse

from gpu_reml.ops.arguments import as_count, as_number

from ..covariance import CountingCovariance, as_covariance
from ..linalg import project
from ..pcg import BreakdownError
from ..precondition import ProjectedCore, complement_traces, make_projected_core, precondition
from ..probes import probe_block
from ..result import ConvergenceError, FitResult
from ..traits import one_trait
from .certified import (
    AtTheta,
    Candidates,
    LassoData,
    LassoFit,
    LassoSettings,
    extend,
    lasso_at,
    make_point,
    standardised_columns,
    tight_solve,
)
from .debias import Inference, debiased, independent_columns, least_squares
from .lasso import DescentSettings, Quadratic, distinct_columns
from .sparse_result import Explained, RoundRecord, SparseResult, SparseStatus

# The preconditioner is made anew where the components' proportions are this far from those that it was made for.
FAR_PROPORTIONS = 0.25


@dataclass(frozen=True)
class SparseSettings:
    """At most ``rounds`` of LASSO and REML; they end when the support has been the same, and theta moved by at most
    ``theta_tol`` of the phenotypic variance, in ``stable_rounds`` rounds running.
    """

    rounds: int = 6
    stable_rounds: int = 1
    theta_tol: float = 1e-2
    lasso: LassoSettings = field(default_factory=LassoSettings)

    def __post_init__(self):
        as_count(self.rounds, "rounds")
        as_count(self.stable_rounds, "stable_rounds")
        as_number(self.theta_tol, "theta_tol", above=0)


Estimator = Callable[[np.ndarray, np.ndarray | None], FitResult]


def sparse_reml(
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    estimate: Estimator,
    sketch: np.ndarray,
    settings: SparseSettings | None = None,
    *,
    callback: Callable[[RoundRecord], None] | None = None,
) -> SparseResult:
    """Alternate LASSO and REML until the support and theta settle, or a limit is met, which the result then says.

    y (n,), X (n, c); covariance: a :class:`~gpu_reml.ops.GenotypeCovariance`; only variants with weight in a component
    may be chosen.  ``estimate(X, start)`` fits y by REML with those fixed effects, and returns what it has where
    it does not converge: such as ``lambda X, start: fit(y, X, covariance, probes, start=start, strict=False)``.
    sketch (n, r): for the preconditioner of the LASSO's solves, r >= 0.
    Raises ValueError on invalid input, ConvergenceError where not even the fit without chosen variants is possible.
    Cost a round: a REML fit, and PCG steps' passes of the candidates.  Memory: 2 (n, k) of the candidates' columns.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_covariance, make_products, pack, standardise
    >>> from gpu_reml.reml import draw_probes, fit, sparse_reml
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.3, (200, 400)).astype(np.int8)
    >>> genotypes = standardise([pack(counts)], 200)
    >>> covariance = make_covariance(make_products(genotypes, "cpu"))
    >>> y, X = 2.0 * counts[:, 7] + rng.standard_normal(200), np.ones((200, 1))
    >>> probes = draw_probes(200, 32, rank=20)
    >>> estimate = lambda X, start: fit(y, X, covariance, probes, start=start, strict=False)
    >>> sparse_reml(y, X, covariance, estimate, probes.sketch).support.tolist()
    [7]
    """
    settings = settings or SparseSettings()
    if not sparse.issparse(as_covariance(covariance).weights):
        raise ValueError(
            "covariance: expected a GenotypeCovariance, whose variants have one effect for all samples and can be "
            f"chosen; found {type(covariance).__name__}"
        )
    setup = make_setup(y, X, CountingCovariance(covariance), estimate, sketch, settings)
    state = State(estimate(setup.X, None))
    for number in range(1, settings.rounds + 1):
        state = next_round(setup, state, number)
        if callback is not None:
            callback(state.history[-1])
        if state.ended is not None:
            break
    else:
        state = state._replace(ended=SparseStatus.MAX_ROUNDS)
    return result_of(setup, state)


class Setup(NamedTuple):
    """What does not change from round to round: X (n, c) and its basis ``Q``, y and the variants as a LASSO takes them
    (``data``), the standard deviation ``scale`` that y was divided by, and ``traces`` (G,) on the complement of X."""

    X: np.ndarray
    Q: np.ndarray
    data: LassoData
    scale: float
    traces: np.ndarray
    estimate: Estimator
    sketch: np.ndarray
    settings: SparseSettings


class State(NamedTuple):
    """Where the alternation stands: the last fit with the support that it was ``fitted`` with, of which ``dependent``
    variants are left out, and the last LASSO, with what it had at its theta.

    ``stable``: rounds running that changed nothing.  ``passes``: those of the REML fits before the last.  ``ended``:
    why the rounds ended.
    """

    fit: FitResult
    fitted: np.ndarray = np.zeros(0, np.int64)
    dependent: np.ndarray = np.zeros(0, np.int64)
    found: LassoFit | None = None
    point: AtTheta | None = None
    core: ProjectedCore | None = None
    history: tuple[RoundRecord, ...] = ()
    stable: int = 0
    passes: float = 0.0
    ended: SparseStatus | None = None

    def column_passes(self, setup: Setup) -> float:
        """Those of all fits and of the LASSOs."""
        return self.passes + self.fit.column_passes + setup.data.covariance.column_passes


def make_setup(
    y, X, covariance: CountingCovariance, estimate: Estimator, sketch: np.ndarray, settings: SparseSettings
) -> Setup:
    """The arguments checked and scaled, or a ValueError that says what is wrong with them."""
    trait, sketch = one_trait(y, X, covariance), probe_block(sketch, "sketch")
    if len(sketch) != covariance.num_samples:
        raise ValueError(f"sketch: expected ({covariance.num_samples}, r), found {sketch.shape}")
    weighted = np.zeros(covariance.products.num_variants, bool)
    weighted[covariance.weights.nonzero()[0]] = True
    data = LassoData(trait.scaled[:, 0], covariance.block(trait.Q), covariance, weighted)
    traces = complement_traces(covariance, data.Q)
    return Setup(trait.X, trait.Q, data, float(trait.scales[0]), traces, estimate, sketch, settings)


def at_last_fit(setup: Setup, state: State) -> State:
    """The state with P at the last fit's theta; the preconditioner is made again only for quite other proportions."""
    theta, core = state.fit.theta / setup.scale**2, state.core
    if core is None or (theta[:-1].any() and core.distance(theta[:-1]) > FAR_PROPORTIONS):
        made_for = theta[:-1] if theta[:-1].any() else np.ones(len(theta) - 1)
        core = make_projected_core(setup.data.covariance, setup.data.Q, setup.traces, made_for, setup.sketch)
    start = None if state.point is None else state.point.Py.X
    point = make_point(setup.data, theta, precondition(core, theta), setup.settings.lasso.max_pcg, start)
    return state._replace(core=core, point=point)


def next_round(setup: Setup, state: State, number: int) -> State:
    """A LASSO at the last fit's theta, and a fit with its support unless that is a fixed point."""
    state = at_last_fit(setup, state)
    warm = None if state.found is None else state.found.candidates
    found = lasso_at(setup.data, state.point, state.fitted, warm, setup.settings.lasso)
    state, theta, support = state._replace(found=found), state.fit.theta, found.support
    same = np.array_equal(support, state.fitted)
    change, status = np.nan, "not needed"
    if same and state.stable + 1 >= setup.settings.stable_rounds:
        state = state._replace(ended=SparseStatus.CONVERGED)
    elif not same and any(np.array_equal(support, record.support) for record in state.history):
        state = state._replace(ended=SparseStatus.CYCLE)
    if state.ended is not SparseStatus.CONVERGED:
        state, change, status = refitted(setup, state, support)
        stable = state.stable + 1 if same and change <= setup.settings.theta_tol else 0
        state = state._replace(stable=stable)
    return state._replace(history=(*state.history, record_of(setup, state, number, theta, change, status)))


def refitted(setup: Setup, state: State, support: np.ndarray) -> tuple[State, float, str]:
    """REML with a support as fixed effects: the state, the largest change of a variance as a share of all, a status."""
    columns, dependent = fixed_columns(setup, support)
    try:
        fit = setup.estimate(np.column_stack([setup.X, columns]), state.fit.theta)
    except (ConvergenceError, BreakdownError) as error:
        fit = error.result if isinstance(error, ConvergenceError) else None
        if fit is None:
            return state._replace(ended=SparseStatus.FIT_FAILED), np.nan, f"failed: {error}"
    moved = np.abs(fit.theta - state.fit.theta) * np.append(fit.mean_traces, 1.0)
    change, status = float(moved.max() / fit.vp.estimate[0]), fit.status.name.lower()
    passes = state.passes + state.fit.column_passes
    return state._replace(fit=fit, fitted=support, dependent=dependent, passes=passes), change, status


def fixed_columns(setup: Setup, support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, a) standardised columns of a support, and the variants left out as combinations of others or X."""
    Z = standardised_columns(setup.data, support).astype(np.float64)
    left = project(setup.Q, Z)
    kept = independent_columns(left.T @ left, (Z**2).sum(axis=0))
    return Z[:, kept], np.delete(support, kept)


def record_of(setup: Setup, state: State, number: int, theta: np.ndarray, change: float, status: str) -> RoundRecord:
    """The record of a round that began at theta."""
    found, seen = state.found, state.found.certificate
    return RoundRecord(
        number,
        tuple(theta.tolist()),
        float(found.lam / setup.scale),
        tuple(found.support.tolist()),
        len(found.candidates.rows),
        float(found.path.ebic[found.path.best]),
        np.nan if seen is None else seen.violation,
        np.nan if seen is None else seen.solve_error,
        0 if seen is None else seen.rounds,
        change,
        status,
        float(state.fit.loglik),
        state.column_passes(setup),
    )


def limits_of(setup: Setup, state: State) -> tuple[SparseStatus, ...]:
    """Everything that kept the run from converging."""
    found, path = state.found, state.found.path
    slow = found.candidates.stalled or state.point.Py.residuals.max() > setup.settings.lasso.solve_tol
    checks = {
        state.ended: state.ended is not SparseStatus.CONVERGED,
        SparseStatus.NOT_CERTIFIED: found.certificate is not None and not found.certificate.holds,
        SparseStatus.CANDIDATE_LIMIT: found.full,
        SparseStatus.ACTIVE_LIMIT: path.cut,
        SparseStatus.DESCENT_STALLED: not path.converged[path.best],
        SparseStatus.SOLVER_STALLED: bool(slow),
        SparseStatus.FIT_NOT_CONVERGED: not state.fit.converged,
    }
    return tuple(status for status, met in checks.items() if met)


def result_of(setup: Setup, state: State) -> SparseResult:
    """Effects, their errors and what they explain, at the last fit's theta."""
    found, scale, support, lasso = state.found, setup.scale, state.fitted, setup.settings.lasso
    limits = limits_of(setup, state)
    if state.history[-1].fit_status != "not needed":
        state = at_last_fit(setup, state)
    b = np.zeros(setup.data.covariance.products.num_variants)
    b[found.candidates.rows] = found.b
    order = np.argsort(found.candidates.rows)
    place = order[np.searchsorted(found.candidates.rows, support, sorter=order)]
    estimate = debiased_beside_copies(found.candidates.problem, found.b, place, lasso.descent)
    active = extend(setup.data, state.point, None, support, found.candidates, lasso)
    kept = np.flatnonzero(~np.isin(support, state.dependent))
    effects, covariance = least_squares(active.problem.take(kept))
    gls = np.full((2, len(support)), np.nan)
    gls[:, kept] = effects, np.sqrt(np.diag(covariance))
    used = np.zeros(len(support))
    used[kept] = effects
    B = np.column_stack([b[support], used])
    explained = explained_variances(setup.data, state.point, active, B, scale, lasso.max_pcg)
    path = found.path
    return SparseResult(
        limits=limits,
        support=support,
        beta_lasso=b[support] * scale,
        gls=Inference(*(gls * scale)),
        debiased=Inference(estimate.estimate * scale, estimate.se * scale),
        dependent=state.dependent,
        fit=state.fit,
        num_fixed=setup.X.shape[1],
        candidates=found.candidates.rows,
        path=path._replace(lambdas=path.lambdas / scale, coefficients=path.coefficients * scale),
        certificate=found.certificate,
        explained=dict(zip(("lasso", "gls"), explained, strict=True)),
        history=state.history,
        column_passes=state.column_passes(setup),
    )


def debiased_beside_copies(
    problem: Quadratic, b: np.ndarray, which: np.ndarray, settings: DescentSettings
) -> Inference:
    """:func:`.debias.debiased` in the model of distinct columns: an effect is that of all its copies."""
    distinct = distinct_columns(problem.S)
    known = np.isin(which, distinct)
    found = debiased(problem.take(distinct), b[distinct], np.searchsorted(distinct, which[known]), settings)
    out = np.full((2, len(which)), np.nan)
    out[:, known] = found
    return Inference(*out)


def explained_variances(
    data: LassoData, point: AtTheta, active: Candidates, B: np.ndarray, scale: float, max_pcg: int
) -> list[Explained]:
    """:class:`Explained` of each column of effects B (a, q) of the active variants; y and B of unit variance.

    e = y - X a(b) - g = V P (y - g).  To first order the error is 2 g'(I - X(X'V^-1X)^-1X'V^-1)(u + e) / n, of variance
    4 (Vg)'P(Vg) / n^2.  Cost: two products and q solves of one column.
    """
    n = len(data.y)
    out = []
    for b in B.T:
        g = active.Z.astype(np.float64) @ b
        Pr = np.asarray(point.Py.X, np.float64)[:, 0] - active.PZ.astype(np.float64) @ b
        e, Vg = np.asarray(point.apply_v(data.covariance.block(np.column_stack([Pr, g]))), np.float64).T
        value = (g @ g + 2 * (g @ e)) / n
        variance = 0.0
        if b.any():
            variance = 4 / n**2 * float(Vg @ np.asarray(tight_solve(data, point, Vg[:, None], None, max_pcg).X)[:, 0])
        out.append(Explained(float(value * scale**2), float(np.sqrt(variance) * scale**2)))
    return out
