"""Control variates for the traces tr(P K_g), made of the reduced model itself by halves of the probes.

The probes are dealt to two folds.  Each fold has a chain: the part of the basis that its own probes and their residuals
made, which does not depend on the other fold's probes.  With S the chain of the other fold and M = V on its span and
V's mean eigenvalue d off it, two controls of a probe z have exactly known expectations and cost no pass:

    c = z'K_g M^-1 z - tr(K_g M^-1)        and        c' = z'K_g (I - SS') z - tr(K_g (I - SS')).

Each component's values are regressed on its own two controls and on their theta-weighted totals, since P depends on
all components through V.  Chains are extended at thetas to which all probes led; that dependence is of higher order.
Sources: Meyer et al. 2021, SOSA 142 (Hutch++); Lavenberg & Welch 1981, Manage. Sci. 27:322 (regression on controls).
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg

from .monte_carlo import covariance_of_mean
from .reduced_matrices import ReducedMatrices

FOLDS = 2
MOST_CONTROLS = 4
PROBES_A_CONTROL = 4  # probes for each coefficient that is fitted to them


def fold_of(num_probes: int) -> np.ndarray:
    """(s,) the fold of every probe; probes that are added later leave the others where they are."""
    return np.arange(num_probes) % FOLDS


def num_controls(num_probes: int) -> int:
    """Coefficients that so many probes can tell."""
    return max(0, min(MOST_CONTROLS, (num_probes - 1) // PROBES_A_CONTROL - 1))


def longer_chain(S: np.ndarray, W: np.ndarray, size: int) -> np.ndarray:
    """The chain S (d, r) in a basis that has grown to ``size``, with the columns of W (size, k) added."""
    S = np.concatenate([S, np.zeros((size - len(S), S.shape[1]))])
    lengths = np.linalg.norm(W, axis=0)
    W = W[:, lengths > 0] / lengths[lengths > 0]
    for _ in range(2):
        W = W - S @ (S.T @ W)
        W, R, _ = linalg.qr(W, mode="economic", pivoting=True, check_finite=False)
        W = W[:, np.abs(np.diag(R)) > 1e-6]  # float32 residuals tell no finer direction
    return np.concatenate([S, W], axis=1)


class Fixed(NamedTuple):
    """What does not depend on theta: T_g U'z for every probe (G, d, s), the controls c' (G, s), and of each fold the
    traces (G,) of the components off the other's chain."""

    images: np.ndarray
    off: np.ndarray
    tails: tuple[np.ndarray, ...]


def fixed_controls(
    T: ReducedMatrices,
    chains: tuple[np.ndarray, ...],
    coords: np.ndarray,
    traces: np.ndarray,
    known: np.ndarray | None = None,
) -> Fixed:
    """coords (d, s) U'z; traces (G,) on the complement of the fixed effects; known: images of a smaller basis."""
    images = T.times(coords, known)
    folds, off = fold_of(coords.shape[1]), np.empty((len(traces), coords.shape[1]))
    tails = traces - T.dots(*(S @ S.T for S in chains[::-1])).T
    for fold in range(FOLDS):
        S, mine = chains[1 - fold], folds == fold
        z = coords[:, mine]
        off[:, mine] = np.einsum("az,gaz->gz", z - S @ (S.T @ z), images[:, :, mine]) - tails[fold][:, None]
    return Fixed(images, off, tuple(tails))


class FoldInverse(NamedTuple):
    """M^-1 = S H S' + (I - SS') / d for a fold, from the other's chain S (d, r)."""

    S: np.ndarray
    H: np.ndarray
    d: float

    def times(self, B: np.ndarray) -> np.ndarray:
        """M^-1 B for coordinates B (d, k)."""
        inside = self.S.T @ B
        return self.S @ (self.H @ inside) + (B - self.S @ inside) / self.d


def fold_inverses(
    V: np.ndarray, theta: np.ndarray, chains: tuple[np.ndarray, ...], fixed: Fixed, dimension: int
) -> tuple[FoldInverse, ...]:
    """Every fold's at theta, for V = U'V(theta)U and a complement of ``dimension``."""
    found = []
    for S, tails in zip(chains[::-1], fixed.tails, strict=True):
        left = dimension - S.shape[1]
        d = theta[:-1] @ tails / left + theta[-1] if left > 0 else theta[-1]
        found.append(FoldInverse(S, np.linalg.inv(S.T @ V @ S), float(d)))
    return tuple(found)


def inverse_controls(
    T: ReducedMatrices, V: np.ndarray, theta: np.ndarray, chains, coords: np.ndarray, fixed: Fixed, dimension: int
) -> np.ndarray:
    """(G, s) the controls c at theta; see :func:`fold_inverses`."""
    folds, out = fold_of(coords.shape[1]), np.empty_like(fixed.off)
    inverses = fold_inverses(V, theta, chains, fixed, dimension)
    within = T.dots(*(inverse.S @ inverse.H @ inverse.S.T for inverse in inverses)).T
    for fold, inverse in enumerate(inverses):
        mine = folds == fold
        known = within[fold] + fixed.tails[fold] / inverse.d
        out[:, mine] = np.einsum("az,gaz->gz", inverse.times(coords[:, mine]), fixed.images[:, :, mine])
        out[:, mine] -= known[:, None]
    return out


class Traces(NamedTuple):
    """``per_probe`` (p, s): values of tr(P K_1) .. tr(P K_G), tr(P), less their controls; ``controls`` fitted."""

    per_probe: np.ndarray
    controls: int

    @property
    def mean(self) -> np.ndarray:
        return self.per_probe.mean(axis=1)

    @property
    def covariance(self) -> np.ndarray:
        """(p, p) Monte-Carlo covariance of :attr:`mean`, NaN where the probes are too few to know it.

        The factor (s - 2) / (s - k - 2) is what k fitted coefficients add (Lavenberg & Welch 1981, equation 17).
        """
        s, k = self.per_probe.shape[1], self.controls
        return covariance_of_mean(self.per_probe, k) * (s - 2) / max(1, s - k - 2)


def regression_slopes(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(G, k) least-squares slopes of each y (G, s) on its X (G, s, k), the shortest where X is of less rank."""
    rounding = X.shape[1] * np.finfo(float).eps
    return (np.linalg.pinv(X, rcond=rounding) @ y[:, :, None])[:, :, 0]


def controlled_traces(
    values: np.ndarray, inverse: np.ndarray, off: np.ndarray, theta: np.ndarray, dimension: int, num: int
) -> Traces:
    """Traces from values (G, s) z'P K_g z and ``num`` controls; that of P follows from sum_h theta_h tr(P K_h) = n - c.

    So the residual's error is the mirror image of the components'.
    """
    share = theta[:-1] / np.abs(theta[:-1]).sum() if theta[:-1].any() else np.full(len(values), 1 / len(values))
    total_inverse, total_off = (np.broadcast_to(share @ control, control.shape) for control in (inverse, off))
    X = np.stack([inverse, total_inverse, off, total_off], axis=2)[:, :, :num]
    slopes = regression_slopes(X - X.mean(axis=1, keepdims=True), values - values.mean(axis=1, keepdims=True))
    left = values - (X @ slopes[:, :, None])[:, :, 0]
    return Traces(np.vstack([left, (dimension - theta[:-1] @ left) / theta[-1]]), num)
