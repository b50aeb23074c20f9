"""REML log-likelihood, score and average information at one theta, as functions of their own.

All of them work in the complement of the fixed effects: P = A (A'VA)^-1 A' for orthonormal A with A'X = 0, so
P B solves (I-QQ') V (I-QQ') X = (I-QQ') B.  y's units are kept: theta is in units squared.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_apply, as_matrix, as_variances, as_vector

from .contract import check_traces
from .covariance import Covariance, as_covariance, squares_of
from .cross_fit import Traces, controlled_traces, num_controls
from .lanczos import quadrature_of_trace, symmetric_in_sight
from .linalg import (
    Block,
    column_batches,
    column_dots,
    columns,
    gram,
    orthonormal_basis,
    powers_of_two,
    project,
    symmetric,
    take_columns,
)
from .moments import quadratic_forms
from .monte_carlo import error_of_mean
from .pcg import PcgResult, pcg
from .precondition import Preconditioner, ProjectedCore, precondition
from .probes import probes_are_exact, trace_probes
from .traits import make_traits

Apply = Callable[[Block], Block]
MAX_LANCZOS = 400  # steps; quadrature settles long before, at 10 to 30


class Loglik(NamedTuple):
    """``value`` of the error contrasts with -(n-c)/2 log 2 pi, its Monte-Carlo SE, and its parts."""

    value: float
    mc_se: float
    logdet: float
    ypy: float
    Py: Block


class Score(NamedTuple):
    """``score`` (G + 1,), its Monte-Carlo covariance, and the trace estimates behind it."""

    score: np.ndarray
    mc_covariance: np.ndarray
    traces: np.ndarray


class Model(NamedTuple):
    """The arguments of a function of theta, checked: phenotype (n,) over its ``scale``, basis of X (n, c), a covariance
    of one residual and its variances (G + 1,) over the scale's square."""

    y: np.ndarray
    Q: np.ndarray
    covariance: Covariance
    theta: np.ndarray
    scale: float


def model_of(theta, y, X, covariance) -> Model:
    """The arguments as numerics take them, or a ValueError that names the wrong one."""
    y = as_vector(y, "y")
    covariance = of_one_residual(covariance, len(y))
    n = covariance.num_samples
    traits = make_traits(as_vector(y, "y", n)[:, None], as_matrix(X, "X", n))
    theta, scale = as_variances(theta, "theta", covariance.num_components + 1), float(traits.scales[0])
    return Model(traits.scaled[:, 0], traits.Q, covariance, theta / scale**2, scale)


def of_one_residual(covariance, num_samples: int | None = None) -> Covariance:
    """A covariance, or components as one, whose residual is an identity; ValueError for other residuals."""
    covariance = as_covariance(covariance, num_samples)
    if getattr(covariance, "layout", None) is not None:
        raise ValueError(
            "covariance: expected genetic components beside one identity residual, found those of with_residuals; fit "
            "and effects take them"
        )
    return covariance


def on_complement(Q: Block, apply_v: Apply) -> Apply:
    """B -> (I-QQ') V B for B in the complement of Q."""
    return lambda B: project(Q, apply_v(B))


def apply_v_at(covariance, theta: np.ndarray) -> Apply:
    """B -> V(theta) B = sum_g theta_g K_g B + theta_e B; one pass.

    covariance: as :func:`~gpu_reml.reml.covariance.as_covariance` takes it; theta (G + 1,), residual last.
    """
    covariance = as_covariance(covariance)
    theta = as_vector(theta, "theta", covariance.num_components + 1)
    return lambda B: covariance.apply(theta[:-1], B) + B.dtype.type(theta[-1]) * B


def solve(
    Q, apply_v, B, preconditioner: Preconditioner | None = None, *, tol=1e-4, X0=None, at_once=None, **options
) -> PcgResult:
    """P B by PCG on the complement of Q; B is projected first.  ``options`` are those of :func:`pcg`.

    at_once: most columns solved together, where memory is short; None for all.
    A column within the span of Q leaves nothing but rounding, which is no vector of the complement: it counts as zero.
    One nearly so is outside the complement to rounding after one projection, hence two.
    """
    apply_minv = None if preconditioner is None else preconditioner.apply_minv
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
        return pcg(apply_a, projected, apply_minv=apply_minv, tol=tol, X0=X0, **options)
    tol = np.broadcast_to(np.asarray(tol, np.float64), (B.shape[1],))
    parts = []
    for batch in batches:
        start = None if X0 is None else X0[:, batch]
        options_here = {"tol": tol[batch], "X0": start, **options}
        parts.append(pcg(apply_a, take_columns(projected, batch), apply_minv=apply_minv, **options_here))
    return PcgResult(*(columns(*values) for values in zip(*parts, strict=True)))


def loglik(
    y: np.ndarray,
    X: np.ndarray,
    apply_v: Apply,
    probes: np.ndarray,
    *,
    preconditioner: Preconditioner | None = None,
    tol: float = 1e-6,
    quadrature: dict | None = None,
) -> Loglik:
    """REML log-likelihood at the covariance ``apply_v`` (n, k) -> V B, from probes (n, s).

    y (n,), X (n, c); the blocks have the probes' type (float64 for integer probes); V as a symmetric matrix (n, n) does
    as well.  Raises ValueError where an argument is wrong, BreakdownError where V is not positive definite.

    ell_R = -1/2 [log|A'VA| + y'Py] - (n-c)/2 log 2 pi (Patterson & Thompson 1971, Biometrika 58:545).  The
    log-determinant is log|M| exactly plus tr log(M^-1/2 V M^-1/2) by Lanczos quadrature; M = I without preconditioner.
    Without, the trace is n - c times the ratio of z'log(V)z to z'z, so that V in another unit only shifts it.
    tol: of the solve for P y.  quadrature: ``tol``, ``mc_share`` and ``at_once`` of :func:`~gpu_reml.reml.lanczos.slq`.
    Cost: the Lanczos steps' passes of s columns and one column for y.
    """
    y = as_vector(y, "y")
    Q = orthonormal_basis(as_matrix(X, "X", len(y)))
    probes, apply_v = trace_probes(probes, len(y)), symmetric_in_sight(as_apply(apply_v, "apply_v", len(y)))
    dtype = probes.dtype if probes.dtype.kind == "f" else np.float64
    unit = float(powers_of_two(np.abs(y).max(initial=0.0)))  # y's squares may be none of the blocks' type
    target = project(Q, y[:, None] / unit).astype(dtype)
    solved = solve(Q, apply_v, target, preconditioner, tol=tol, check=False)
    # errs by the square of the solve's error
    ypy = unit**2 * float(column_dots(target, solved.X)[0] + column_dots(solved.X, solved.R)[0])
    logdets = log_determinants(Q, project(Q, probes.astype(dtype)), apply_v, preconditioner, quadrature or {})
    mc_se = 0.0 if probes_are_exact(probes) else 0.5 * error_of_mean(logdets, 1)
    logdet = float(logdets.mean())
    value = -0.5 * (logdet + ypy + (len(y) - Q.shape[1]) * np.log(2 * np.pi))
    return Loglik(value, mc_se, logdet, ypy, solved.X * solved.X.dtype.type(unit))


def log_determinants(Q: Block, Z: Block, apply_v: Apply, preconditioner, options: dict) -> np.ndarray:
    """(s,) log|A'VA| by probe; see :func:`loglik`."""
    n, c = Q.shape
    apply_a, limit = on_complement(Q, apply_v), min(MAX_LANCZOS, n)
    if preconditioner is None:
        found = quadrature_of_trace(apply_a, Z, np.log, limit, **options)
        squares = column_dots(Z, Z)  # of known mean n - c: a common factor of V's eigenvalues then has no error
        mean_log = found.estimate / squares.mean()
        return (n - c) * mean_log + found.per_probe - mean_log * squares
    balanced = preconditioner.balanced(apply_a)
    found = quadrature_of_trace(balanced, Z, np.log, limit, control_mean=float(n - c), **options)
    return found.per_probe + preconditioner.logdet


def score(
    theta: np.ndarray,
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    probes: np.ndarray,
    *,
    core: ProjectedCore | None = None,
    tol: float = 1e-6,
) -> Score:
    """d ell_R / d theta = 1/2 [y'P K_g P y - tr(P K_g)] for g = 1..G and the residual, last.

    covariance: any :class:`~gpu_reml.reml.covariance.Covariance` or dense matrices [K_1, ...].  ``core`` brings the
    preconditioner and the control variates; without it the traces are plain Hutchinson (Hutchinson 1990, Comm. Stat.
    Simul. 19:433).
    """
    y, Q, covariance, theta, scale = model_of(theta, y, X, covariance)
    probes = trace_probes(probes, len(y))
    preconditioner = None if core is None else precondition(core, theta)
    B, Q = covariance.block(np.column_stack([y, probes])), covariance.block(Q)
    PB = solve(Q, apply_v_at(covariance, theta), B, preconditioner, tol=tol).X
    traces = traces_of(covariance, theta, project(Q, B[:, 1:]), PB[:, 1:], preconditioner)
    mc = np.zeros((len(theta),) * 2) if probes_are_exact(probes) else traces.covariance / 4
    value = (quadratic_forms(covariance, PB[:, :1])[:, 0] - traces.mean) / 2
    return Score(value / scale**2, mc / scale**4, traces.mean / scale**2)


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
    check_traces(covariance, covariance.inner(F, F), squares_of(covariance, F), core.traces)
    tail = Z - core.U @ (core.U.T @ Z)
    inverse, off = (covariance.inner(covariance.features(B), F) for B in (preconditioner.apply_minv(Z), tail))
    inverse, off = inverse - preconditioner.inverse_traces[:, None], off - core.tail_traces[:, None]
    return controlled_traces(values, inverse, off, theta, core.dimension, num_controls(Z.shape[1]))


def component_images(covariance, Py: Block) -> Block:
    """(n, G + 1) [K_1 Py, .., K_G Py, Py]; a pass of one column, times the overlap."""
    images = covariance.apply_each(covariance.features(Py))
    return columns(*(image[:, :1] for image in images), Py)


def average_information(
    theta: np.ndarray, y: np.ndarray, X: np.ndarray, covariance, *, core: ProjectedCore | None = None, tol: float = 1e-6
) -> np.ndarray:
    """(G + 1, G + 1) AI_gh = 1/2 y'P K_g P K_h P y: no traces, so no Monte-Carlo error.

    Source: Gilmour, Thompson & Cullis 1995, Biometrics 51:1440, equation 7 (there for a different parameterisation).
    """
    y, Q, covariance, theta, scale = model_of(theta, y, X, covariance)
    preconditioner = None if core is None else precondition(core, theta)
    apply_v = apply_v_at(covariance, theta)
    B, Q = covariance.block(y[:, None]), covariance.block(Q)
    Py = solve(Q, apply_v, B, preconditioner, tol=tol).X
    F = project(Q, component_images(covariance, Py))
    solved = solve(Q, apply_v, F, preconditioner, tol=tol)
    return ai_matrix(F, solved.X, solved.R) / scale**4


def ai_matrix(F: Block, PF: Block, R: Block) -> np.ndarray:
    """1/2 F'P F in float64 from F = [K_g Py] (n, G + 1), approximate solves PF and their residuals R.

    F'X + X'R = F'X + X'F - X'V X errs by the square of the solves' errors, so that loose ones do.
    """
    return symmetric(gram(F, PF) + gram(PF, R)) / 2


def fixed_inverse(Q: Block, VQ: Block, PVQ: Block, R: Block) -> np.ndarray:
    """(c, c) Q'X (X'V^-1X)^-1 X'Q = Q'VQ - Q'V P V Q in float64, from V Q and solves P V Q with residuals R.

    Errs by the square of the solves' errors, as :func:`ai_matrix`.
    Source: Searle, Casella & McCulloch 1992, Variance Components, App. M.
    """
    return symmetric(gram(Q, VQ)) - 2 * ai_matrix(project(Q, VQ), PVQ, R)
