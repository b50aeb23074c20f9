"""Residuals that are not one identity: known weights, groups of samples, noise of an environment (docs/design.md).

The estimators know a covariance and a last parameter that multiplies the identity.  Everything else is brought to that
form here.  With residual diagonals R_j (n,) and D a positive diagonal, y / sqrt(D) has components K_g / sqrt(D) and
residuals R_j / D, and the same theta:

* one diagonal: D = R, and nothing is left but the identity;
* several, one of them constant: D is that one, the others are diagonal components beside the identity;
* several, none constant (ancestries, groups): D = sum_j R_j, all are diagonal components, and since the R_j / D sum to
  the identity, holding its parameter at the floor f bounds every eta_j from below by f, exactly:
  sum_j eta_j R_j = sum_j (eta_j - f) R_j + f D.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gpu_reml.ops.arguments import as_numbers

from .covariance import Covariance, MixedCovariance, as_covariance, genetic
from .linalg import logdet_gram
from .scaled import DiagonalCovariance, ScaledCovariance


@dataclass(frozen=True)
class Layout:
    """What the parameters of a fit are, and what is reported of them.

    Parameters (p,): G genetic components, the residual diagonals ``parts`` (n, p - G - 1), the identity.  Reported: the
    G, then J residuals ``residual_names`` with mean traces tr(R_j) / n; ``mean_traces`` (G,) tr(K_g) / n are those
    before whitening.  ``held``: the identity is not estimated but kept at the floor.  ``root`` (n,): what y was divided
    by.
    """

    names: tuple[str, ...]
    mean_traces: np.ndarray
    residual_names: tuple[str, ...] = ("residual",)
    residual_traces: np.ndarray = field(default_factory=lambda: np.ones(1))
    parts: np.ndarray | None = None
    held: bool = False
    root: np.ndarray | None = None

    @property
    def num_genetic(self) -> int:
        return len(self.names)

    @property
    def num_parts(self) -> int:
        return 0 if self.parts is None else self.parts.shape[1]

    @property
    def num_parameters(self) -> int:
        return self.num_genetic + self.num_parts + 1

    @property
    def estimated(self) -> np.ndarray:
        """(p,) bool: which parameters are estimated; as many as are reported, in the same order."""
        out = np.ones(self.num_parameters, bool)
        out[-1] = not self.held
        return out

    @property
    def guarded(self) -> np.ndarray:
        """(p,) bool: parameters without which V would be singular."""
        out = np.zeros(self.num_parameters, bool)
        if self.held:
            out[self.num_genetic : -1] = True
        else:
            out[-1] = True
        return out

    def lower(self, floor: float, *, constrain: bool = True) -> np.ndarray:
        """(p,) bounds: ``floor`` for the identity, 0 for other residuals and, where constrained, for components."""
        out = np.zeros(self.num_parameters)
        out[-1] = floor
        if not constrain:
            out[: self.num_genetic] = -np.inf
        return out

    def without_error(self, free: np.ndarray) -> np.ndarray:
        """(G + J,) bool: residuals without a standard error: all of them where each is at its bound, else none.

        free (p,) bool: parameters off their bound.  A residual at its bound beside others that are not is like a
        component at zero: V is far from singular, and its information gives an error as that of the others does.
        """
        at_bound = ~free[self.estimated]
        at_bound[: self.num_genetic] = False
        return at_bound & at_bound[self.num_genetic :].all()

    def reported(self, theta: np.ndarray) -> np.ndarray:
        """Variances to report (G + J,) from parameters (p,)."""
        out = np.array(theta, np.float64)[self.estimated]
        if self.held:
            out[self.num_genetic :] += theta[-1]
        return out

    def internal(self, reported: np.ndarray, floor: float) -> np.ndarray:
        """Parameters (p,) from variances as reported; ``floor``: the least residual variance, in the same units."""
        theta = np.array(reported, np.float64)
        if theta.shape != (int(self.estimated.sum()),):
            names = ", ".join([*self.names, *self.residual_names])
            raise ValueError(f"start: expected a value for each of {names}, found {theta.shape}")
        if not self.held:
            return theta
        theta[self.num_genetic :] -= floor
        return np.append(theta, floor)

    def reduced(self, matrix: np.ndarray) -> np.ndarray:
        """Rows and columns (p, p) of the estimated parameters."""
        return matrix[np.ix_(self.estimated, self.estimated)]

    def whitened(self, B: np.ndarray) -> np.ndarray:
        """B (n, k) with rows divided by the root of the reference residual."""
        return B if self.root is None else B / self.root[:, None]

    def loglik_shift(self, X: np.ndarray) -> float:
        """What to add to the whitened log-likelihood of error contrasts; X (n, c) whitened.

        -1/2 (log|D| + log|X'D^-1 X| - log|X'X|), the Jacobian of the contrasts.
        """
        if self.root is None:
            return 0.0
        before = logdet_gram(X * self.root[:, None])
        return float(-np.log(self.root).sum() - 0.5 * (logdet_gram(X) - before))


def layout_of(covariance: Covariance) -> Layout:
    """The layout of a covariance: its own, or that of a single identity residual.

    >>> import numpy as np
    >>> from gpu_reml.reml import as_covariance, layout_of
    >>> layout_of(as_covariance(np.eye(3))).residual_names
    ('residual',)
    """
    if covariance.layout is not None:
        return covariance.layout
    return Layout(tuple(covariance.names), np.asarray(covariance.traces, np.float64) / covariance.num_samples)


class ResidualCovariance(MixedCovariance):
    """A covariance whitened by its reference residual, with the other residual diagonals as components."""

    def __init__(self, parts: Sequence[Covariance], layout: Layout):
        super().__init__(parts)
        self.layout = layout


def with_residuals(covariance, diagonals: np.ndarray, names: Sequence[str] | None = None) -> ResidualCovariance:
    """The model sum_g theta_g K_g + sum_j eta_j diag(r_j) for :func:`~gpu_reml.reml.fit.fit` and its likes.

    covariance: any; diagonals (n, J) not negative, each sample positive in at least one; names (J,).
    The fit takes y and X as they are and reports theta (G + J,), h2 weighted by traces: V_P = sum theta_g tr(K_g)/n +
    sum eta_j tr(R_j)/n.  Bounds: eta_j >= residual_floor times the variance of y / sqrt(D); beside a constant residual
    the others only >= 0.
    Cost: the diagonals of the K_g once, half a pass.
    Raises ValueError that names a residual which is zero for all or a combination of others, a sample without any, and
    for a covariance that has residuals already.

    >>> import numpy as np
    >>> from gpu_reml.reml import fit_exact, with_residuals
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> groups = np.repeat(np.eye(2), 100, axis=0)  # a residual variance for each half of the samples
    >>> found = fit_exact(y, np.ones((200, 1)), with_residuals(Z @ Z.T / 400, groups, ["first", "second"]))
    >>> found.names, found.residual_names, found.theta.shape
    (('component_000',), ('first', 'second'), (3,))
    """
    covariance = genetic(as_covariance(covariance))
    diagonals = as_numbers(diagonals, "diagonals")
    if diagonals.ndim != 2 or len(diagonals) != covariance.num_samples or not diagonals.shape[1]:
        raise ValueError(f"diagonals: expected ({covariance.num_samples}, J >= 1), found {diagonals.shape}")
    J = diagonals.shape[1]
    names = tuple(names) if names is not None else ("residual",) if J == 1 else tuple(f"residual_{j}" for j in range(J))
    bad = ~np.isfinite(diagonals) | (diagonals < 0)
    if bad.any() or len(names) != J:
        sample, which = np.argwhere(bad)[0] if bad.any() else (0, 0)
        raise ValueError(
            f"diagonals: residual {names[which]}: expected {J} names and values >= 0; sample {sample} has another"
        )
    _check_distinct(diagonals, names)
    if not (diagonals.sum(axis=1) > 0).all():
        sample = int(np.argmin(diagonals.sum(axis=1) > 0))
        raise ValueError(f"residuals: sample {sample} has no residual variance in any of {', '.join(names)}")
    constant = np.flatnonzero(np.ptp(diagonals, axis=0) == 0)
    held = J > 1 and not len(constant)
    parts = list(range(J))
    if held:
        order, reference = parts, diagonals.sum(axis=1)
    else:
        last = int(constant[-1]) if J > 1 else 0
        parts.remove(last)
        order, reference = [*parts, last], diagonals[:, last]
    root = np.sqrt(reference)
    layout = Layout(
        tuple(covariance.names),
        np.asarray(covariance.traces, np.float64) / covariance.num_samples,
        tuple(names[j] for j in order),
        diagonals[:, order].mean(axis=0),
        diagonals[:, parts] / root[:, None] ** 2 if parts else None,
        held=held,
        root=None if (root == 1).all() else root,
    )
    whitened = covariance if layout.root is None else ScaledCovariance(covariance, 1 / root)
    if not parts:
        return ResidualCovariance([whitened], layout)
    extra = DiagonalCovariance(layout.parts, [names[j] for j in parts], whitened)
    return ResidualCovariance([whitened, extra], layout)


def _check_distinct(diagonals: np.ndarray, names: Sequence[str]) -> None:
    """ValueError that names a residual which is zero for all samples, or a combination of the others."""
    empty = ~diagonals.any(axis=0)
    if empty.any():
        name = names[int(np.argmax(empty))]
        raise ValueError(f"residual {name}: is zero for all samples; leave it out, or merge it with another group")
    unit = diagonals / np.linalg.norm(diagonals, axis=0)
    for last in range(2, len(names) + 1):
        if np.linalg.matrix_rank(unit[:, :last]) < last:
            raise ValueError(
                f"residual {names[last - 1]}: is a combination of {', '.join(names[: last - 1])}, so their variances "
                "cannot be told apart; leave one out"
            )
