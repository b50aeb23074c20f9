"""Memberships of variants in groups: components made of them, and the gradient of the REML log-likelihood in them."""

from collections.abc import Iterator

import numpy as np
from scipy import special

from gpu_reml.ops import GenotypeCovariance, make_covariance
from gpu_reml.ops.arguments import as_matrix, as_numbers, as_variances

from . import likelihood
from .exact import one_trait
from .linalg import Block, column_batches, project, take_columns
from .precondition import Preconditioner, complement_traces, make_projected_core, precondition
from .probes import Probes, checked_probes
from .settings import FitSettings

COLUMNS = 16  # whose features are on the host in float64 at once


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
