"""Memberships of variants in groups: components made of them, and the gradient of the REML log-likelihood in them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from gpu_reml.ops import GenotypeCovariance, make_covariance
from gpu_reml.ops.arguments import as_matrix, as_numbers, as_variances

from ..covariance import CountingCovariance
from ..cross_fit import FoldInverse, fold_inverses, fold_of
from ..engines.reduced import combined, reduced_v
from ..engines.reduced_fit import answering
from ..engines.reduced_model import Model, Problem, first_model, prepare
from ..linalg import Block, column_batches
from ..probes import Probes, checked_probes
from ..settings import FitSettings
from ..traits import one_trait

# The features of so many columns are on the host in float64 at once.
COLUMNS = 16


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


def group_sizes(products, T: np.ndarray) -> np.ndarray:
    """(G,) c_g: memberships of the variants that vary."""
    return (products.genotypes.inv_sd > 0) @ T


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
    the gradient of the maximum as well.  Cost: a basis in which P y and P of all probes have converged at theta.
    """
    T = as_matrix(T, "T", products.num_variants)
    covariance = CountingCovariance(group_covariance(products, T))
    probes = checked_probes(probes, covariance.num_samples)
    traits = one_trait(y, X, covariance)
    theta = as_variances(theta, "theta", covariance.num_components + 1) / traits.scales[0] ** 2
    settings = settings or FitSettings()
    settings = replace(settings, probes=replace(settings.probes, first=probes.trace.shape[1]))
    problem = prepare(covariance, traits, probes, settings)
    model = answering(problem, first_model(problem, probes), theta)
    return gradient_within(problem, model, theta, norms_left(covariance, problem.Q), group_sizes(products, T))


def norms_left(covariance, Q: Block) -> np.ndarray:
    """(m,) |z_j|^2 on the complement of Q (n, c); half a pass of c columns."""
    of_q = images_of((covariance.features(Q),), np.eye(Q.shape[1])) if Q.shape[1] else ()
    return covariance.products.genotypes.squared_norm - sum(np.sum(F**2, axis=1) for F in of_q)


def gradient_within(
    problem: Problem, model: Model, theta: np.ndarray, norms: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """:func:`membership_gradient` from a basis that answers for theta; no pass, 2 m d (4 s + d) flop.

    norms: as :func:`norms_left` has them; sizes: as :func:`group_sizes`.
    """
    covariance = problem.covariance
    V = reduced_v(model.basis.T, theta)
    C = np.linalg.solve(V, model.coords)
    (of_y,) = images_of(model.basis.F, C[:, :1])
    if model.exact:
        diagonal = sum(np.sum(F**2, axis=1) for F in images_of(model.basis.F, np.linalg.inv(np.linalg.cholesky(V)).T))
    else:
        inverses = fold_inverses(V, theta, model.chains, model.fixed, problem.dimension)
        diagonal = projection_diagonal(model, C[:, 1:], inverses, norms)
    r = of_y[:, 0] ** 2 - diagonal
    varies = covariance.products.genotypes.inv_sd > 0
    scale = theta[:-1] / (2 * sizes)
    return np.where(varies[:, None], scale * (r[:, None] - covariance.weights.T @ r), 0.0)


def images_of(F: Sequence[Any], C: np.ndarray) -> Iterator[np.ndarray]:
    """Features of U C in float64 on the host, some columns (m, k) at a time, from the pieces F of the basis's."""
    for batch in column_batches(C.shape[1], COLUMNS):
        if C.shape[1]:
            yield np.asarray(combined(F, C[:, batch]), np.float64)


def projection_diagonal(
    model: Model, Cz: np.ndarray, inverses: tuple[FoldInverse, ...], norms: np.ndarray
) -> np.ndarray:
    """(m,) estimates of z_j'P z_j from the probes x of a model and their solutions Cz (d, s).

    An estimate is the mean of (z_j'x)(z_j'P x), which alone errs by sqrt(2 / s) of itself, less its regression on two
    controls of known mean, made with the other fold's M (:mod:`..cross_fit`): (z_j'x)(z_j'M^-1 x) of mean z_j'M^-1 z_j,
    and (z_j'x)(z_j'(I - SS')x) of mean |z_j|^2 - |S'z_j|^2.  Two slopes serve all variants.  norms: (m,) |z_j|^2 on the
    complement of the fixed effects.
    """
    F, z = model.basis.F, model.probes
    s, folds = z.shape[1], fold_of(z.shape[1])
    means, products = np.zeros((3, len(norms))), np.zeros((3, 3))
    for fold, inverse in enumerate(inverses):
        known, mine = np.stack([np.zeros_like(norms), *known_means(F, inverse, norms)]), folds == fold
        x = z[:, mine]
        vectors = (x, Cz[:, mine], inverse.times(x), x - inverse.S @ (inverse.S.T @ x))
        for of_x, *others in zip(*(images_of(F, part) for part in vectors), strict=True):
            parts = np.stack([of_x * other for other in others])
            parts -= known[:, :, None]
            means += parts.sum(axis=2) / s
            flat = parts.reshape(3, -1)
            products += flat @ flat.T
    if s < 3:
        return means[0]
    spread = products - s * means @ means.T
    return means[0] - np.linalg.lstsq(spread[1:, 1:], spread[1:, 0], rcond=None)[0] @ means[1:]


def known_means(F: Sequence[Any], inverse: FoldInverse, norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) z_j'M^-1 z_j and |z_j|^2 - |S'z_j|^2, from the pieces F of the basis's features."""
    values, vectors = np.linalg.eigh(inverse.H)
    inside, within, first = np.zeros_like(norms), np.zeros_like(norms), 0
    for images in images_of(F, inverse.S @ vectors):
        inside += images**2 @ values[first : first + images.shape[1]]
        within += np.sum(images**2, axis=1)
        first += images.shape[1]
    return inside + (norms - within) / inverse.d, norms - within
