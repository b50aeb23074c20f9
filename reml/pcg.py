"""Preconditioned conjugate gradients for many right-hand sides at once."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .linalg import Block, column_dots, zeros_like

Apply = Callable[[Block], Block]


class PcgResult(NamedTuple):
    """``X`` (n, k); ``R`` = B - V X as recurred; relative residuals (k,), true ones if checked; iterations (k,) of each
    column."""

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
    apply_minv: Apply | None = None,
    X0: Block | None = None,
    tol: float | np.ndarray = 1e-4,
    max_iterations: int = 400,
    check: bool = True,
    by_column: bool = False,
) -> PcgResult:
    """Solve V X = B (n, k) for symmetric positive definite V, every column to its own tolerance.

    by_column: every column has a V of its own, and ``apply_v(P, which)`` is told which of the k columns are in P.

    A column stops when |b - V x| <= tol |b| and then leaves the block, so it costs no further product.  Blocks stay in
    B's type; every scalar is a float64 sum.  Cost: k columns a pass and iteration, one more pass for a start X0 and
    one for ``check``, which replaces the recursive residuals by true ones (float32 drift shows there).
    A column that does not converge is reported, not raised.  Raises BreakdownError when V is not positive definite.
    Source: Hestenes & Stiefel 1952, J. Res. NBS 49:409; preconditioned as in Golub & Van Loan, 4th ed., 11.5.
    """
    apply = apply_v if by_column else lambda P, which: apply_v(P)
    k = B.shape[1]
    tol = np.broadcast_to(np.asarray(tol, np.float64), (k,))
    lengths = np.sqrt(column_dots(B, B))
    target = tol * lengths
    X = zeros_like(B) if X0 is None else X0.astype(B.dtype, copy=True)
    R = B.copy() if X0 is None else B - apply(X, np.arange(k))
    norms = np.sqrt(column_dots(R, R))
    iterations = np.zeros(k, int)
    active = np.flatnonzero(norms > target)
    left = R  # residuals of all columns; R is that of the active ones
    R, P, rz = R[:, active], None, None
    for _ in range(max_iterations):
        if not len(active):
            break
        M = R if apply_minv is None else apply_minv(R)
        rz_new = column_dots(R, M)
        P = M.copy() if P is None else M + (rz_new / rz).astype(B.dtype) * P
        VP = apply(P, active)
        curvature = column_dots(P, VP)
        if (curvature <= 0).any():
            raise BreakdownError(
                f"p'Vp = {curvature.min():.3g} in column {active[np.argmin(curvature)]}: the covariance is not "
                "positive definite in this precision; check the operator, or use float64 products"
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
        norms = np.sqrt(column_dots(left, left))
    relative = np.divide(norms, lengths, out=np.zeros(k), where=lengths > 0)
    recursive_met = np.isin(np.arange(k), active, invert=True)
    return PcgResult(X, left, relative, iterations, recursive_met)
