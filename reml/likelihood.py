"""REML log-likelihood, score and average information at one theta, as functions of their own.

All of them work in the complement of the fixed effects: P = A (A'VA)^-1 A' for orthonormal A with A'X = 0, so
P B solves (I-QQ') V (I-QQ') X = (I-QQ') B.  y's units are kept: theta is in units squared.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_apply, as_count, as_matrix, as_number, as_tolerance, as_variances, as_vector

from .contract import check_traces
from .covariance import Covariance, as_covariance, genetic
from .cross_fit import Traces, controlled_traces, num_controls
from .formulas import ai_matrix, restricted_loglik
from .lanczos import looks, quadrature_at, symmetric_in_sight
from .linalg import (
    Block,
    column_batches,
    column_dots,
    columns,
    of_shape,
    project,
    take_columns,
)
from .moments import quadratic_forms
from .monte_carlo import error_of_mean
from .pcg import BreakdownError, PcgResult, apply_minv_of, pcg
from .precondition import Preconditioner, ProjectedCore, preconditioner_at
from .probes import NUM_PROBES, Probes, probes_are_exact, shared_columns, trace_probes
from .result import ConvergenceError
from .traits import make_traits

Apply = Callable[[Block], Block]
# Quadrature of the log-determinant takes at most so many steps. It settles long before, after 10 to 30.
MAX_LANCZOS = 400


class Solver(NamedTuple):
    """How the functions of this module solve: to the relative residual ``tol``, in at most ``max_iterations`` PCG
    steps; a log-determinant until it changes by less than ``quadrature`` per sample between two looks; ``columns`` at
    once, None for all.  ``strict``: whether a solve that misses its tolerance raises ConvergenceError or gives a result
    that says so."""

    tol: float = 1e-6
    max_iterations: int = 400
    quadrature: float = 1e-6
    columns: int | None = None
    strict: bool = True


class Loglik(NamedTuple):
    """``value`` of the error contrasts with -(n-c)/2 log 2 pi, its Monte-Carlo SE, and its parts: ``logdet`` log|A'VA|,
    ``ypy`` y'Py and ``Py`` (n, 1).  ``residuals`` (1,) of the solve for P y; ``converged``: it and the quadrature.
    ``per_probe`` (s,): log|A'VA| by each probe, of V over a scale that is y's."""

    value: float
    mc_se: float
    logdet: float
    ypy: float
    Py: Block
    residuals: np.ndarray
    converged: bool
    per_probe: np.ndarray


class Score(NamedTuple):
    """``score`` (G + 1,), its Monte-Carlo covariance, and the trace estimates behind it; ``residuals`` (1 + s,) of the
    solves for P y and P z."""

    score: np.ndarray
    mc_covariance: np.ndarray
    traces: np.ndarray
    residuals: np.ndarray
    converged: bool

    @property
    def mc_se(self) -> np.ndarray:
        """(G + 1,) Monte-Carlo standard errors."""
        return np.sqrt(np.diag(self.mc_covariance))


class Information(NamedTuple):
    """``ai`` (G + 1, G + 1), without Monte-Carlo error; ``residuals`` (G + 2,) of the solves for P y and P K_g P y."""

    ai: np.ndarray
    residuals: np.ndarray
    converged: bool


class Arguments(NamedTuple):
    """The arguments of a function of theta, checked: phenotype (n,) over its ``scale``, basis of X (n, c), a covariance
    of one residual and its variances (G + 1,) over the scale's square."""

    y: np.ndarray
    Q: np.ndarray
    covariance: Covariance
    theta: np.ndarray
    scale: float


def arguments_of(theta, y, X, covariance) -> Arguments:
    """The arguments as numerics take them, or a ValueError that names the wrong one."""
    y = as_vector(y, "y")
    covariance = genetic(as_covariance(covariance, len(y)))
    n = covariance.num_samples
    traits = make_traits(as_vector(y, "y", n)[:, None], as_matrix(X, "X", n))
    theta, scale = as_variances(theta, "theta", covariance.num_components + 1), float(traits.scales[0])
    return Arguments(traits.scaled[:, 0], traits.Q, covariance, theta / scale**2, scale)


def on_complement(Q: Block, apply_v: Apply) -> Apply:
    """B -> (I-QQ') V B for B in the complement of Q."""
    return lambda B: project(Q, apply_v(B))


def checked_shape(apply: Apply, name: str) -> Apply:
    """``apply`` with the shapes of its answers checked; it raises a ValueError that names the argument."""
    return lambda B: of_shape(apply(B), B, name)


def apply_v_at(covariance, theta: np.ndarray) -> Apply:
    """B -> V(theta) B = sum_g theta_g K_g B + theta_e B, for B (n, k) or (n,); one pass of k columns.

    covariance: as :func:`~gpu_reml.reml.covariance.as_covariance` takes it; theta (G + 1,), residual last.

    >>> import numpy as np
    >>> from gpu_reml.reml import apply_v_at
    >>> apply_v_at(np.diag([1.0, 2.0]), [10.0, 3.0])(np.ones(2)).tolist()
    [13.0, 23.0]
    """
    covariance = as_covariance(covariance)
    theta = as_vector(theta, "theta", covariance.num_components + 1)

    def apply(B: Block) -> Block:
        if len(B.shape) == 1:
            return apply(B[:, None])[:, 0]
        return covariance.apply(theta[:-1], B) + B.dtype.type(theta[-1]) * B

    return apply


def solve(Q, apply_v, B, preconditioner=None, *, tol=1e-4, X0=None, at_once=None, **options) -> PcgResult:
    """P B by PCG on the complement of Q; B is projected first.  ``options`` are those of :func:`pcg`.

    preconditioner: as :func:`pcg` takes it; a caller's own is projected, too.
    at_once: most columns solved together, where memory is short; None for all.
    A column within the span of Q leaves nothing but rounding, and counts as zero.  One that is almost within it still
    has a part in the span after one projection, so that B is projected twice.
    """
    apply_minv = apply_minv_of(preconditioner, len(Q))
    if apply_minv is not None and not isinstance(preconditioner, Preconditioner):
        apply_minv = on_complement(Q, checked_shape(apply_minv, "preconditioner"))
    projected = project(Q, project(Q, B))
    rounding = 64 * np.finfo(B.dtype).eps
    nothing = column_dots(projected, projected) <= rounding**2 * column_dots(B, B)
    projected[:, nothing] = 0
    if X0 is not None and nothing.any():
        X0 = X0.copy()
        X0[:, nothing] = 0
    apply_a = on_complement(Q, apply_v)
    batches = column_batches(B.shape[1], at_once)
    if len(batches) == 1:
        return pcg(apply_a, projected, preconditioner=apply_minv, tol=tol, X0=X0, **options)
    tol = np.broadcast_to(np.asarray(tol, np.float64), (B.shape[1],))
    parts = []
    for batch in batches:
        start = None if X0 is None else X0[:, batch]
        options_here = {"tol": tol[batch], "X0": start, **options}
        parts.append(pcg(apply_a, take_columns(projected, batch), preconditioner=apply_minv, **options_here))
    return PcgResult(*(columns(*values) for values in zip(*parts, strict=True)))


def loglik(
    theta: np.ndarray | None,
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    *,
    probes: Probes | np.ndarray | int = NUM_PROBES,
    preconditioner=None,
    solver: Solver = Solver(),  # noqa: B008
) -> Loglik:
    """REML log-likelihood at theta (G + 1,), residual last, in y's units squared.

    y (n,), X (n, c), covariance as :func:`~gpu_reml.reml.covariance.as_covariance` takes it; functions need no trace.
    With theta None it is V itself, a function B -> V B or a symmetric matrix.  probes: E[zz'] = I, an array (n, s),
    :class:`~gpu_reml.reml.probes.Probes` or a number; :func:`~gpu_reml.reml.probes.exact_probes` leave no error.
    preconditioner: a core of :func:`~gpu_reml.reml.precondition.make_projected_core`, what ``precondition`` makes of
    it, or your own, B -> M^-1 B or M^-1, which serves the solve alone: log|M| is not known.

    ell_R = -1/2 [log|A'VA| + y'Py] - (n-c)/2 log 2 pi (Patterson & Thompson 1971, Biometrika 58:545).  The
    log-determinant is log|M| exactly plus tr log(M^-1/2 V M^-1/2) by Lanczos quadrature; M = I without preconditioner.
    Without, the trace is n - c times the ratio of z'log(V)z to z'z, so that V in another unit only shifts it.
    Cost: the Lanczos steps' passes of s columns and one column for y.
    Raises ValueError where an argument is wrong, BreakdownError where V is not positive definite, ConvergenceError
    where a solve misses its tolerance (:class:`Solver`).

    >>> import numpy as np
    >>> from gpu_reml.reml import exact_probes, loglik
    >>> K, X, y = np.diag([0.5, 1.0, 1.5, 2.0]), np.ones((4, 1)), np.array([1.0, -1.0, 2.0, 0.5])
    >>> found = loglik([1.0, 1.0], y, X, K, probes=exact_probes(4))
    >>> float(round(found.value, 6)), found.mc_se, found.converged
    (-5.028341, 0.0, True)
    """
    solver = checked_solver(solver)
    if theta is None:
        model, apply_v = arguments_of_v(y, X, covariance)
    else:
        model = arguments_of(theta, y, X, covariance)
        apply_v = apply_v_at(model.covariance, model.theta)
    preconditioner = preconditioner_at(preconditioner, model.theta, model.scale)
    Z = trace_probes(probes, len(model.y))
    if theta is None:
        B, Q = np.column_stack([model.y, Z]).astype(Z.dtype if Z.dtype.kind == "f" else np.float64), model.Q
    else:
        B, Q = model.covariance.block(np.column_stack([model.y, Z])), model.covariance.block(model.Q)
    solved = solve(Q, apply_v, B[:, :1], preconditioner, **solver_options(solver), at_once=solver.columns)
    # this form errs by the square of the solve's error
    ypy = float(column_dots(B[:, :1], solved.X)[0] + column_dots(solved.X, solved.R)[0])
    ours = preconditioner if isinstance(preconditioner, Preconditioner) else None
    options = {"tol": solver.quadrature, "at_once": solver.columns}
    logdets, settled = log_determinants(Q, project(Q, B[:, 1:]), apply_v, ours, options)
    contrasts = len(model.y) - Q.shape[1]
    mc_se = 0.0 if probes_are_exact(Z) else 0.5 * error_of_mean(logdets, 1)
    logdet = float(logdets.mean() + 2 * contrasts * np.log(model.scale))
    value = float(restricted_loglik(logdet, ypy, contrasts))
    Py = solved.X * solved.X.dtype.type(1 / model.scale)
    found = Loglik(value, mc_se, logdet, ypy, Py, solved.residuals, bool(solved.converged.all()) and settled, logdets)
    return delivered(found, solver)


def log_determinants(Q: Block, Z: Block, apply_v: Apply, preconditioner, options: dict) -> tuple[np.ndarray, bool]:
    """(s,) log|A'VA| by probe, and whether they have settled; see :func:`loglik`."""
    n, c = Q.shape
    apply_a, steps = on_complement(Q, apply_v), looks(min(MAX_LANCZOS, 2 * n))
    if preconditioner is None:
        found = quadrature_at(apply_a, Z, np.log, steps, **options)
        # the mean n - c of these is known, so that a common factor of V's eigenvalues has no error
        squares = column_dots(Z, Z)
        mean_log = found.estimate / squares.mean()
        return (n - c) * mean_log + found.per_probe - mean_log * squares, found.converged
    balanced = preconditioner.balanced(apply_a)
    found = quadrature_at(balanced, Z, np.log, steps, control_mean=float(n - c), **options)
    return found.per_probe + preconditioner.logdet, found.converged


def arguments_of_v(y, X, V) -> tuple[Arguments, Apply]:
    """The model whose covariance is V itself, and B -> V B over the scale's square."""
    y = as_vector(y, "y")
    apply_v = symmetric_in_sight(as_apply(V, "covariance", len(y)), "covariance")
    traits = make_traits(y[:, None], as_matrix(X, "X", len(y)))
    scale = float(traits.scales[0])
    return Arguments(traits.scaled[:, 0], traits.Q, V, None, scale), lambda B: apply_v(B) / B.dtype.type(scale**2)


def checked_solver(solver: Solver) -> Solver:
    """The solver's settings, or a ValueError that names the wrong one."""
    if not isinstance(solver, Solver):
        raise ValueError(f"solver: expected Solver, found {type(solver).__name__}")
    as_tolerance(as_number(solver.tol, "tol"), "tol")
    as_number(solver.quadrature, "quadrature", above=0)
    as_count(solver.max_iterations, "max_iterations")
    if solver.columns is not None:
        as_count(solver.columns, "columns")
    return solver


def solver_options(solver: Solver) -> dict:
    """Those of :func:`pcg`."""
    return {"tol": solver.tol, "max_iterations": solver.max_iterations}


def delivered(found, solver: Solver):
    """A result of finite numbers as it is; BreakdownError for others, ConvergenceError where a solve missed its
    tolerance and that is asked for."""
    if not np.isfinite(found[0]).all():
        raise BreakdownError(f"the {found._fields[0]} is not finite in this precision; use products in float64")
    if solver.strict and not found.converged:
        raise ConvergenceError(
            f"solves stopped at {found.residuals.max():.2g} of their start, not {solver.tol:g}, after at most "
            f"{solver.max_iterations} PCG steps, or the log-determinant did not settle; use products in float64, a "
            "preconditioner, a looser tolerance, or Solver(strict=False)",
            found,
        )
    return found


def score(
    theta: np.ndarray,
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    *,
    probes: Probes | np.ndarray | int = NUM_PROBES,
    preconditioner=None,
    solver: Solver = Solver(),  # noqa: B008
) -> Score:
    """d ell_R / d theta = 1/2 [y'P K_g P y - tr(P K_g)] for g = 1..G and the residual, last; per y's unit squared.

    Arguments as :func:`loglik`'s.  A core brings the preconditioner and the control variates; its sketch must not be
    among the probes.  Without, or with your own preconditioner, the traces are plain Hutchinson (Hutchinson 1990, Comm.
    Stat. Simul. 19:433).
    Cost: 1 + s columns a PCG step and one pass; one more of s columns with a core.  Errors as of :func:`loglik`.

    >>> import numpy as np
    >>> from gpu_reml.reml import exact_probes, score
    >>> K, X, y = np.diag([0.5, 1.0, 1.5, 2.0]), np.ones((4, 1)), np.array([1.0, -1.0, 2.0, 0.5])
    >>> score([1.0, 1.0], y, X, K, probes=exact_probes(4)).score.round(6).tolist()
    [-0.22999, -0.183022]
    """
    solver = checked_solver(solver)
    y, Q, covariance, theta, scale = arguments_of(theta, y, X, covariance)
    probes = trace_probes(probes, len(y))
    check_independent(preconditioner, probes)
    preconditioner = preconditioner_at(preconditioner, theta, scale)
    B, Q = covariance.block(np.column_stack([y, probes])), covariance.block(Q)
    apply_v = apply_v_at(covariance, theta)
    solved = solve(Q, apply_v, B, preconditioner, **solver_options(solver), at_once=solver.columns)
    PB, ours = solved.X, preconditioner if isinstance(preconditioner, Preconditioner) else None
    traces = traces_of(covariance, theta, project(Q, B[:, 1:]), PB[:, 1:], ours)
    mc = np.zeros((len(theta),) * 2) if probes_are_exact(probes) else traces.covariance / 4
    value = (quadratic_forms(covariance, PB[:, :1])[:, 0] - traces.mean) / 2
    converged = bool(solved.converged.all())
    found = Score(value / scale**2, mc / scale**4, traces.mean / scale**2, solved.residuals, converged)
    return delivered(found, solver)


def check_independent(preconditioner, probes: np.ndarray) -> None:
    """ValueError where a column of the sketch that a core was made from is among the probes: traces were biased."""
    core = preconditioner.core if isinstance(preconditioner, Preconditioner) else preconditioner
    if not isinstance(core, ProjectedCore) or core.sketch is None:
        return
    for a, b in shared_columns(probes, core.sketch):
        raise ValueError(
            f"preconditioner: column {b} of its sketch is column {a} of probes, which biases traces; draw them "
            "independently, as draw_probes(n, s, rank) does"
        )


def traces_of(
    covariance, theta: np.ndarray, Z: Block, PZ: Block, preconditioner: Preconditioner | None = None
) -> Traces:
    """tr(P K_g) and tr(P) from projected probes Z (n, s) and their solves; a pass of s columns, or two.

    With a preconditioner M on a basis U that does not depend on the probes: less their regression on
    z'M^-1 K_g z and z'(I - UU')K_g z, whose means are known, as in :mod:`.cross_fit`.
    ValueError where the probes deny the traces that its core takes for known.
    """
    F = covariance.features(Z)
    values = covariance.inner(covariance.features(PZ), F)
    if preconditioner is None:
        return Traces(np.vstack([values, column_dots(PZ, Z)]), 0)
    core = preconditioner.core
    check_traces(covariance, covariance.inner(F, F), covariance.image_squares(F), core.traces)
    tail = Z - core.U @ (core.U.T @ Z)
    inverse, off = (covariance.inner(covariance.features(B), F) for B in (preconditioner.apply_minv(Z), tail))
    inverse, off = inverse - preconditioner.inverse_traces[:, None], off - core.tail_traces[:, None]
    return controlled_traces(values, inverse, off, theta, core.dimension, num_controls(Z.shape[1]))


def working_variates(covariance, Py: Block) -> Block:
    """(n, G + 1) [K_1 Py, .., K_G Py, Py]; a pass of one column, times the overlap."""
    images = covariance.apply_each(covariance.features(Py))
    return columns(*(image[:, :1] for image in images), Py)


def average_information(
    theta: np.ndarray,
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    *,
    preconditioner=None,
    solver: Solver = Solver(),  # noqa: B008
) -> Information:
    """(G + 1, G + 1) AI_gh = 1/2 y'P K_g P K_h P y, in y's units^-4: no traces, so no probes and no Monte-Carlo error.

    Arguments as :func:`loglik`'s; raises ValueError, BreakdownError and ConvergenceError as it does.  Cost: one
    column a PCG step for P y, G + 1 for the rest, and a pass.
    Source: Gilmour, Thompson & Cullis 1995, Biometrics 51:1440, equation 7 (there for a different parameterisation).

    >>> import numpy as np
    >>> from gpu_reml.reml import average_information
    >>> K, X, y = np.diag([0.5, 1.0, 1.5, 2.0]), np.ones((4, 1)), np.array([1.0, -1.0, 2.0, 0.5])
    >>> average_information([1.0, 1.0], y, X, K).ai.round(4).tolist()
    [[0.3078, 0.2663], [0.2663, 0.2466]]
    """
    solver = checked_solver(solver)
    y, Q, covariance, theta, scale = arguments_of(theta, y, X, covariance)
    preconditioner = preconditioner_at(preconditioner, theta, scale)
    apply_v, options = apply_v_at(covariance, theta), {**solver_options(solver), "at_once": solver.columns}
    B, Q = covariance.block(y[:, None]), covariance.block(Q)
    first = solve(Q, apply_v, B, preconditioner, **options)
    F = project(Q, working_variates(covariance, first.X))
    solved = solve(Q, apply_v, F, preconditioner, **options)
    residuals = np.append(first.residuals, solved.residuals)
    converged = bool(first.converged.all() and solved.converged.all())
    return delivered(Information(ai_matrix(F, solved.X, solved.R) / scale**4, residuals, converged), solver)
