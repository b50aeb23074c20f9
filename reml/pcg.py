"""Preconditioned conjugate gradients for many right-hand sides at once."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_apply, as_block, as_count, as_tolerance, as_vector

from .linalg import Block, column_dots, of_shape, powers_of_two, zeros_like

Apply = Callable[[Block], Block]
# A column whose recurred residual meets its tolerance has converged where the true residual is within so many
# tolerances: the rest is rounding.
ROUNDING_ALLOWANCE = 2.0
# A right-hand side is solved for as it is where its largest entry is between the inverse of this and this, and scaled
# by a power of two where it is not.
LARGEST = 1e12


class PcgResult(NamedTuple):
    """``X`` (n, k) and ``R`` = B - V X; ``residuals`` (k,) |R| / |B|, ``iterations`` and ``converged`` by column.

    With ``check``, R is multiplied out, and a column has converged where it is within twice its tolerance; without, R
    is the recurrence's, which does not know the rounding in X.  For B (n,), X and R are (n,) and the others are
    numbers.
    """

    X: Block
    R: Block
    residuals: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray


class BreakdownError(ArithmeticError):
    """A direction p with p'Vp <= 0 was met: V is not positive definite."""


def pcg(
    apply_v: Apply,
    B: Block,
    *,
    preconditioner=None,
    X0: Block | None = None,
    tol: float | np.ndarray = 1e-4,
    max_iterations: int = 400,
    check: bool = True,
    by_column: bool = False,
) -> PcgResult:
    """Solve V X = B (n, k) for symmetric positive definite V, every column to its own tolerance.

    apply_v: B -> V B, or V itself as a matrix.  B may be one right-hand side (n,); X0 is of the same shape.
    preconditioner: B -> M^-1 B, M^-1 itself as a matrix, or one of :func:`~gpu_reml.reml.precondition.precondition`.
    by_column: every column has a V of its own, and ``apply_v(P, which)`` is told which of the k columns are in P.

    A column stops when |b - V x| <= tol |b| and then leaves the block, so it costs no further product.  Blocks stay in
    B's type; every scalar is a float64 sum.  Cost: k columns a pass and iteration, one more pass for a start X0 and
    one for ``check``, which replaces the recursive residuals by true ones (float32 drift shows there).
    A column that does not converge is reported, not raised.  Raises ValueError for arguments that do not fit together,
    BreakdownError when V is not positive definite or a product is not finite.
    Source: Hestenes & Stiefel 1952, J. Res. NBS 49:409; preconditioned as in Golub & Van Loan, 4th ed., 11.5.

    >>> import numpy as np
    >>> from gpu_reml.reml import pcg
    >>> found = pcg(np.diag([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 1.0]), tol=1e-10)
    >>> found.X.round(8).tolist(), int(found.iterations), bool(found.converged)
    ([1.0, 0.5, 0.25], 3, True)
    """
    if _is_vector(B):
        options = {"tol": tol, "max_iterations": max_iterations, "check": check, "by_column": by_column}
        start = None if X0 is None else as_vector(X0, "X0")[:, None]
        found = pcg(apply_v, as_vector(B, "B")[:, None], preconditioner=preconditioner, X0=start, **options)
        return PcgResult(found.X[:, 0], found.R[:, 0], *(values[0] for values in found[2:]))
    B = as_block(B, "B")
    n, k = B.shape
    apply_v, max_iterations = as_apply(apply_v, "apply_v", n), as_count(max_iterations, "max_iterations")
    apply_minv = apply_minv_of(preconditioner, n)
    X0 = None if X0 is None else as_block(X0, "X0", n)
    if X0 is not None and X0.shape[1] != k:
        raise ValueError(f"X0: expected {k} columns as B, found {X0.shape}")
    tol = np.broadcast_to(as_tolerance(tol, "tol", k), (k,))

    def apply(P: Block, which: np.ndarray) -> Block:
        VP = apply_v(P, which) if by_column else apply_v(P)
        return of_shape(VP, P, "apply_v")

    units = powers_of_two(np.abs(B).max(axis=0, initial=0.0)) if isinstance(B, np.ndarray) else np.ones(k)
    if not ((units > LARGEST) | (units < 1 / LARGEST)).any():
        return _solve(apply, B, X0, apply_minv, tol, max_iterations, check)
    units = units.astype(B.dtype)  # the squares of B / units neither overflow nor vanish
    start = None if X0 is None else X0 / units
    found = _solve(apply, B / units, start, apply_minv, tol, max_iterations, check)
    return found._replace(X=found.X * units, R=found.R * units)


def _solve(apply: Callable, B: Block, X0, apply_minv, tol: np.ndarray, max_iterations: int, check: bool) -> PcgResult:
    k = B.shape[1]
    lengths = np.sqrt(column_dots(B, B))
    target = tol * lengths
    X = zeros_like(B) if X0 is None else X0.astype(B.dtype, copy=True)
    R = B.copy() if X0 is None else B - apply(X, np.arange(k))
    norms = finite_norms(R)
    iterations = np.zeros(k, int)
    active = np.flatnonzero(norms > target)
    left = R  # the residuals of all columns, while R has those of the active ones
    R, P, rz = R[:, active], None, None
    for _ in range(max_iterations):
        if not len(active):
            break
        M = R if apply_minv is None else of_shape(apply_minv(R), R, "preconditioner")
        rz_new = column_dots(R, M)
        if not np.isfinite(rz_new).all() or (P is None and not (rz_new > 0).any()):
            raise BreakdownError(
                f"r'M^-1 r = {rz_new[0]:.3g}: the preconditioner is not positive definite, or not finite"
            )
        P = M.copy() if P is None else M + (rz_new / rz).astype(B.dtype) * P
        VP = apply(P, active)
        curvature = column_dots(P, VP)
        bad = ~((curvature > 0) & np.isfinite(curvature))
        if bad.any():
            raise BreakdownError(
                f"p'Vp = {curvature[bad].min():.3g} in column {active[bad][0]}: the covariance is not "
                "positive definite in this precision; check the operator, or use products in float64"
            )
        alpha = (rz_new / curvature).astype(B.dtype)
        X[:, active] += alpha * P
        R = R - alpha * VP
        rz = rz_new
        iterations[active] += 1
        norms[active] = np.sqrt(column_dots(R, R))
        going = norms[active] > target[active]
        if not going.all():
            left[:, active[~going]] = R[:, ~going]
            active, R, P, rz = active[going], R[:, going], P[:, going], rz[going]
    left[:, active] = R
    if check and iterations.any():
        left = B - apply(X, np.arange(k))
        norms = finite_norms(left)
    relative = np.divide(norms, lengths, out=np.zeros(k), where=lengths > 0)
    met = np.isin(np.arange(k), active, invert=True) & (norms <= ROUNDING_ALLOWANCE * target)
    return PcgResult(X, left, relative, iterations, met)


def apply_minv_of(preconditioner, n: int) -> Apply | None:
    """B -> M^-1 B of a preconditioner of any kind, or None."""
    if preconditioner is None:
        return None
    return as_apply(getattr(preconditioner, "apply_minv", preconditioner), "preconditioner", n)


def _is_vector(B) -> bool:
    if hasattr(B, "shape"):
        return len(B.shape) == 1
    return isinstance(B, list | tuple) and len(B) > 0 and all(np.isscalar(value) for value in B)


def finite_norms(R: Block) -> np.ndarray:
    """(k,) lengths of residuals; BreakdownError where one is not finite."""
    norms = np.sqrt(column_dots(R, R))
    if not np.isfinite(norms).all():
        raise BreakdownError(
            f"b - V x is not finite in column {int(np.argmin(np.isfinite(norms)))}; check the operator"
        )
    return norms
