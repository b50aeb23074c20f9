"""Lanczos tridiagonalisation of many start vectors at once, and stochastic Lanczos quadrature."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_apply, as_block, as_count, as_number

from .contract import NOT_FINITE, NOT_SYMMETRIC, skew_of
from .linalg import Block, column_batches, column_dots, columns, of_shape, take_columns
from .monte_carlo import error_of_mean
from .pcg import BreakdownError
from .probes import Probes, draw_probes, probes_are_exact

Apply = Callable[[Block], Block]
# Up to so many steps the quadrature's estimate is looked at after each.
ALL_STEPS = 20
# After that it is looked at when the steps have grown by this share, since the eigendecomposition of k steps costs
# k^3.
LATER = 0.1


class Tridiagonal(NamedTuple):
    """Lanczos coefficients of s start vectors: ``alpha`` (k, s), ``beta`` (k, s), squared start norms (s,).

    beta[i] couples steps i and i + 1; it is zero from the step at which a column's Krylov space was exhausted.
    """

    alpha: np.ndarray
    beta: np.ndarray
    norms2: np.ndarray


class SlqResult(NamedTuple):
    """Estimate of tr f(V), its Monte-Carlo standard error, the per-probe values (s,), the Lanczos steps taken, and
    whether the estimate had settled by then."""

    estimate: float
    mc_se: float
    per_probe: np.ndarray
    num_steps: int
    converged: bool


class LanczosState(NamedTuple):
    """The next Lanczos vectors ``current`` (n, s), those before, and every coefficient so far (one (s,) a step)."""

    current: Block
    previous: Block
    live: np.ndarray
    alphas: tuple[np.ndarray, ...]
    betas: tuple[np.ndarray, ...]
    norms2: np.ndarray

    @property
    def tridiagonal(self) -> Tridiagonal:
        return Tridiagonal(np.array(self.alphas), np.array(self.betas), self.norms2)

    def take(self, which: np.ndarray | slice) -> "LanczosState":
        """Only these columns go on: the others cost nothing further."""
        alphas, betas = (tuple(values[which] for values in kept) for kept in (self.alphas, self.betas))
        blocks = (take_columns(block, which) for block in (self.current, self.previous))
        return LanczosState(*blocks, self.live[which], alphas, betas, self.norms2[which])


def lanczos_start(starts: Block) -> LanczosState:
    """State before the first step; a start of zeros stays zero and has a measure of mass zero."""
    norms2 = column_dots(starts, starts)
    length = np.sqrt(norms2)
    current = starts / np.where(length > 0, length, 1.0).astype(starts.dtype)
    return LanczosState(current, current, length > 0, (), (), norms2)  # no step, so nothing before: never read


def lanczos_step(apply_v: Apply, state: LanczosState, at_once: int | None = None) -> LanczosState:
    """One step further; one pass of s columns, ``at_once`` at a time (None for all).

    No re-orthogonalisation: quadrature needs the Ritz values with their weights, and copies of a converged one share
    its weight (Golub & Meurant 2010, Matrices, Moments and Quadrature, ch. 4; Knizhnerman 1996).
    """
    batches = column_batches(len(state.live), at_once)
    if len(batches) > 1:
        return joined(state, [lanczos_step(apply_v, state.take(batch)) for batch in batches])
    current, previous, live = state.current, state.previous, state.live
    tiny = np.finfo(current.dtype).eps
    W = apply_v(current)
    if state.betas:
        W = W - state.betas[-1].astype(current.dtype) * previous
    alpha = np.where(live, column_dots(W, current), 1.0)
    if not np.isfinite(alpha).all():
        raise ValueError("apply_v: " + NOT_FINITE)
    W = W - alpha.astype(current.dtype) * current
    beta = np.sqrt(column_dots(W, W))
    live = live & (beta > 8 * tiny * np.abs(alpha))
    beta = np.where(live, beta, 0.0)
    following = W / np.where(live, beta, 1.0).astype(current.dtype)
    following[:, ~live] = 0
    return LanczosState(following, current, live, (*state.alphas, alpha), (*state.betas, beta), state.norms2)


def joined(before: LanczosState, parts: list[LanczosState]) -> LanczosState:
    """The state after a step that was taken in batches of columns."""
    live = np.concatenate([part.live for part in parts])
    alphas, betas = (np.concatenate([getattr(part, name)[-1] for part in parts]) for name in ("alphas", "betas"))
    following = columns(*(part.current for part in parts))
    return LanczosState(
        following, before.current, live, (*before.alphas, alphas), (*before.betas, betas), before.norms2
    )


def lanczos_steps(apply_v: Apply, starts: Block, at_once: int | None = None):
    """Yield a :class:`Tridiagonal` that is one step longer each time; one pass of s columns a step."""
    state = lanczos_start(starts)
    while True:
        state = lanczos_step(apply_v, state, at_once)
        yield state.tridiagonal


def ritz_measures(tridiagonal: Tridiagonal) -> tuple[np.ndarray, np.ndarray]:
    """Gauss quadrature of every start: nodes (s, k) and weights (s, k), so that z'f(V)z is weights @ f(nodes).

    After a start's Krylov space is exhausted its further nodes carry no weight; they repeat its first one, where any f
    of V exists.
    """
    alpha, beta, norms2 = tridiagonal
    k, s = alpha.shape
    T = np.zeros((s, k, k))
    steps = np.arange(k)
    T[:, steps, steps] = alpha.T
    T[:, steps[1:], steps[:-1]] = T[:, steps[:-1], steps[1:]] = beta[:-1].T
    ritz, vectors = np.linalg.eigh(T)
    weights = vectors[:, 0, :] ** 2
    carried = weights > np.finfo(float).eps ** 2
    weights[~carried] = 0
    heaviest = np.take_along_axis(ritz, weights.argmax(axis=1)[:, None], axis=1)
    return np.where(carried, ritz, heaviest), norms2[:, None] * weights


def quadrature(tridiagonal: Tridiagonal, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(s,) z'f(V)z by Gauss quadrature: |z|^2 e1' f(T) e1 for each start z.

    Where f has no finite value at a node that carries no more than rounding of the start's mass, V has no eigenvalue
    there: rounding leaves such a node once the Krylov space is used up, anywhere.
    """
    nodes, weights = ritz_measures(tridiagonal)
    values = f(nodes)
    rounding = weights <= np.finfo(float).eps * tridiagonal.norms2[:, None]
    return np.sum(weights * np.where(rounding & ~np.isfinite(values), 0.0, values), axis=1)


def slq(
    apply_v: Apply,
    probes: Probes | Block | int,
    f: Callable[[np.ndarray], np.ndarray] = np.log,
    *,
    max_steps: int = 60,
    tol: float = 1e-6,
    mc_share: float = 0.0,
    control_mean: float | None = None,
    at_once: int | None = None,
) -> SlqResult:
    """tr f(V) for symmetric positive definite V (n, n) from probes (n, s) with E[z z'] = I, by Lanczos quadrature.

    apply_v: B -> V B, or V itself as a matrix.  Probes are a block, of which the products have the type; or, for a V
    that has a shape, a number of them, drawn by seed 0.

    Stops when the estimate moves between two looks by at most ``tol`` per sample or ``mc_share`` Monte-Carlo errors,
    or after ``max_steps``; it is looked at after each step to 20, then whenever a tenth more were taken.
    control_mean: the exact tr(V) on the space of the probes, if known; z'Vz (the first Lanczos coefficient) is then
    used as a control variate with its regression slope over the probes.
    Cost: one pass of s columns a step, ``at_once`` at a time (None for all), and s k^3 for a look at k steps.  mc_se is
    the standard error over probes, NaN for fewer than 16; with sqrt(n) I as probes the estimate is exact and it is 0.
    Raises ValueError for wrong arguments, a V that is not symmetric, and an f without value at an eigenvalue of V, such
    as log where V is not positive definite.
    Source: Ubaru, Chen & Saad 2017, SIAM J. Matrix Anal. Appl. 38:1075.

    >>> import numpy as np
    >>> from gpu_reml.reml import exact_probes, slq
    >>> V = np.diag([1.0, 2.0, 4.0, 8.0])  # of log-determinant log 64, and tr V^-1 = 1.875
    >>> [float(round(slq(V, exact_probes(4), f).estimate, 6)) for f in (np.log, np.reciprocal)]
    [4.158883, 1.875]
    """
    if isinstance(probes, Integral) and not isinstance(probes, bool):
        probes = draw_probes(samples_of(apply_v), as_count(probes, "probes"))
    probes = as_block(probes.trace if isinstance(probes, Probes) else probes, "probes")
    if not probes.shape[1]:
        raise ValueError("probes: expected (n, s >= 1), found no column")
    apply_v = symmetric_in_sight(as_apply(apply_v, "apply_v", len(probes)))
    if as_number(tol, "tol") < 0:
        raise ValueError(f"tol: expected 0 or more, found {tol}")
    limit = min(as_count(max_steps, "max_steps"), len(probes))
    exact = isinstance(probes, np.ndarray) and probes_are_exact(probes)
    options = {"tol": tol, "mc_share": 0.0 if exact else mc_share, "control_mean": control_mean, "at_once": at_once}
    try:
        found = quadrature_at(apply_v, probes, f, looks(limit), **options)
    except BreakdownError as error:
        raise ValueError(f"f: {error}") from None
    return found._replace(mc_se=0.0) if exact else found


def samples_of(V) -> int:
    """The size of V (n, n), or a ValueError for a function, which does not tell it."""
    shape = np.shape(V) if not callable(V) else getattr(V, "shape", ())
    if len(shape) != 2:
        raise ValueError("probes: a function B -> V B does not tell how long they are; give an array (n, s)")
    return shape[0]


def looks(limit: int) -> list[int]:
    """The numbers of steps after which an estimate is looked at: each to ALL_STEPS, then whenever a tenth is added."""
    steps = list(range(1, min(ALL_STEPS, limit) + 1))
    while steps[-1] < limit:
        steps.append(min(limit, math.ceil((1 + LATER) * steps[-1])))
    return steps


def quadrature_of_trace(
    apply_v: Apply, probes: Block, f: Callable[[np.ndarray], np.ndarray], limit: int, **options
) -> SlqResult:
    """:func:`quadrature_at` that looks at the estimate after each step, of at most ``limit``."""
    return quadrature_at(apply_v, probes, f, range(1, limit + 1), **options)


def quadrature_at(
    apply_v: Apply,
    probes: Block,
    f: Callable[[np.ndarray], np.ndarray],
    steps: Sequence[int],
    *,
    tol: float = 1e-6,
    mc_share: float = 0.0,
    control_mean: float | None = None,
    at_once: int | None = None,
) -> SlqResult:
    """:func:`slq` for arguments that are known to fit together.  ``steps``: after how many steps the estimate is looked
    at, ascending; the last is the most that are taken.

    V is not compared with its transpose: where it is preconditioned, float32 rounds that away near a residual's floor.
    Raises BreakdownError where f has no finite value at an eigenvalue of V.
    """
    previous = np.nan
    for tridiagonal in lanczos_steps(apply_v, probes, at_once):
        taken = len(tridiagonal.alpha)
        if taken not in steps:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            values = quadrature(tridiagonal, f)
        if not np.isfinite(values).all():
            lowest = float(ritz_measures(tridiagonal)[0].min())
            raise BreakdownError(
                f"no finite value at an eigenvalue of V, of which the least seen is {lowest:.3g}: the covariance is "
                "not positive definite in this precision; check the operator, or use products in float64"
            )
        per_probe = controlled(values, tridiagonal, control_mean)
        estimate = float(per_probe.mean())
        mc_se = error_of_mean(per_probe, int(control_mean is not None))
        allowed = max(tol * len(probes), mc_share * np.nan_to_num(mc_se))
        settled = abs(estimate - previous) <= allowed
        if settled or taken >= steps[-1]:
            return SlqResult(estimate, mc_se, per_probe, taken, bool(settled))
        previous = estimate


def symmetric_in_sight(apply_v: Apply, name: str = "apply_v") -> Apply:
    """V with the shapes of its answers checked, and its symmetry by the first block; it raises ValueError."""
    seen = False

    def apply(B: Block) -> Block:
        nonlocal seen
        image = of_shape(apply_v(B), B, name)
        skew = 0.0 if seen or B.shape[1] < 2 else skew_of(B, image, 0.0)
        seen = seen or B.shape[1] > 1
        if skew:
            raise ValueError(f"{name}: V " + NOT_SYMMETRIC.format(skew=skew))
        return image

    return apply


def controlled(per_probe: np.ndarray, tridiagonal: Tridiagonal, control_mean: float | None) -> np.ndarray:
    """Per-probe values less their regression on z'Vz, whose mean is known."""
    if control_mean is None or len(per_probe) < 3:
        return per_probe
    first = tridiagonal.norms2 * tridiagonal.alpha[0]
    return per_probe - regression_slope(per_probe, first) * (first - control_mean)


def regression_slope(values: np.ndarray, control: np.ndarray) -> float:
    """Slope of values on control, both centred along their last axis; 0 when the control does not vary."""
    v = values - values.mean(axis=-1, keepdims=True)
    c = control - control.mean(axis=-1, keepdims=True)
    spread = np.sum(c * c)
    scale = np.finfo(float).eps * max(1.0, float(np.max(np.abs(control))))
    return float(np.sum(v * c) / spread) if spread > control.size * scale**2 else 0.0
