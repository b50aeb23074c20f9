"""Randomised Haseman-Elston regression as an estimator of its own: no iterations, no likelihood, unconstrained.

Moments y'K_g y are matched to their expectations sum_h theta_h tr(K_g K_h) on the complement of X.  Every
probe enters a fixed number of products, so that the cost is known in advance; it is a small part of a REML fit's.
Source: Haseman & Elston 1972, Behav. Genet. 2:3; randomised: Wu & Sankararaman 2018, Bioinformatics 34:i187.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_count

from .covariance import CountingCovariance, Covariance, as_covariance
from .likelihood import apply_v_at
from .linalg import Block, columns, gram, project, symmetric, take_columns
from .moments import (
    check_forms,
    check_images,
    check_left,
    check_separable,
    component_images,
    probe_grams,
    quadratic_forms,
)
from .monte_carlo import covariance_of_mean
from .precondition import complement_traces
from .probes import Probes, checked_probes, probes_are_exact
from .residuals import layout_of
from .result import singular_moments
from .step import SingularInformationError, ai_step
from .tables import Components, Sum, component_records
from .traits import one_phenotype, one_trait
from .units import check_variances, in_given_units, in_moderate_units, reported_factors

# The images K_g z of a batch of probes take at most so much memory.
BATCH_BYTES = 1 << 28
# So many probes are used where no number is given.
DEFAULT_PROBES = 64
# The sampling errors are stated under a covariance whose residual is at least this share of y's variance.
RESIDUAL_FLOOR = 1e-6


@dataclass(frozen=True, repr=False)
class HEResult(Components):
    """Haseman-Elston estimates, in the phenotype's units squared; ``theta`` has the residual last and may be negative.

    ``covariance``: sampling covariance for a normal phenotype, itself known to about 1 / num_probes of the errors.
    ``mc_covariance``: Monte-Carlo covariance from the probes, which more probes reduce; NaN for fewer than 16.
    ``T`` (G + 1, G + 1): traces tr(K_g K_h) on the complement of X, those with the residual exact.
    """

    names: tuple[str, ...]
    theta: np.ndarray
    covariance: np.ndarray
    mc_covariance: np.ndarray
    mean_traces: np.ndarray
    T: np.ndarray
    num_samples: int
    num_fixed: int
    num_probes: int
    column_passes: float
    residual_names: tuple[str, ...] = ("residual",)
    residual_traces: Sequence[float] = (1.0,)
    sums: tuple[Sum, ...] = ()
    kind: ClassVar[str] = "Haseman-Elston regression"

    @property
    def remarks(self) -> list[str]:
        """(G + 1,) which estimates are below zero."""
        return ["below zero" if value < 0 else "" for value in self.theta]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and arrays, ready for JSON."""
        return {
            "method": "haseman-elston",
            "n": self.num_samples,
            **component_records(self),
            "theta_covariance": self.covariance,
            "theta_mc_covariance": self.mc_covariance,
            "num_probes": self.num_probes,
            "passes": self.column_passes,
        }


def haseman_elston(
    y: np.ndarray, X: np.ndarray, covariance, probes: Probes, *, num_probes: int | None = None
) -> HEResult:
    """Haseman-Elston estimate of theta in y = X b + sum_g u_g + e, var(u_g) = theta_g K_g, var(e) = theta_e I.

    y (n,), X (n, c) of full column rank, covariance a :class:`~gpu_reml.reml.covariance.Covariance` or dense matrices.
    num_probes: how many of ``probes.trace`` are used, by default 64 (or all of them, if they are fewer or exact).
    Cost: num_probes (2 + overlap / 2) column-passes.  Memory: features of twice the probes, (m, 2 num_probes), and
    K_g z of a batch of probes, at most 256 MiB or one probe's.
    Raises ValueError on invalid input, SingularModelError where components cannot be told apart, ConvergenceError
    where the fixed effects leave nothing of one.

    >>> import numpy as np
    >>> from gpu_reml.reml import exact_probes, haseman_elston
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> found = haseman_elston(y, np.ones((200, 1)), Z @ Z.T / 400, exact_probes(200))
    >>> found.theta.round(3).tolist()
    [0.763, 1.248]
    """
    y = one_phenotype(y)
    counting = CountingCovariance(in_moderate_units(as_covariance(covariance, len(y))))
    trait = one_trait(y, X, counting)
    check_variances(counting, trait.scales)
    layout = layout_of(counting)
    if layout.num_parts:
        raise ValueError("Haseman-Elston regression here takes one residual; fit several by REML")
    probes = checked_probes(probes, counting.num_samples, 2)
    exact = probes_are_exact(probes.trace)
    s = probes_used(probes, num_probes, exact)
    Q = counting.block(trait.Q)
    Z = project(Q, counting.block(probes.trace[:, :s]))
    found = probe_moments(counting, Q, Z)
    q = quadratic_forms(counting, counting.block(trait.scaled))[:, 0]
    T = found.normal_matrix
    check_left(counting, found.traces)
    try:
        check_separable(T)
        lower = np.append(np.zeros(len(T) - 1), RESIDUAL_FLOOR)
        valid = ai_step(lower, q - T @ lower, T, lower).theta
    except SingularInformationError as error:
        raise singular_moments([*counting.names, "residual"][error.index], s) from None
    theta = np.linalg.solve(T, q)
    inverse = np.linalg.inv(T)
    S = moment_covariance(counting, Q, Z, found.features, valid, exact=exact)
    sampling = symmetric(inverse @ S @ inverse)
    if not (np.diag(sampling) > 0).all():
        raise ValueError(f"num_probes: {s} are too few to tell the sampling errors; use more")
    mc = np.zeros_like(T) if exact else inverse @ found.error_of(theta) @ inverse
    scale = float(trait.scales[0])
    result = HEResult(
        names=layout.names,
        theta=theta * scale**2,
        covariance=sampling * scale**4,
        mc_covariance=symmetric(mc) * scale**4,
        mean_traces=layout.mean_traces,
        T=T,
        num_samples=counting.num_samples,
        num_fixed=trait.X.shape[1],
        num_probes=s,
        column_passes=counting.column_passes,
        residual_names=layout.residual_names,
        residual_traces=tuple(layout.residual_traces),
    )
    return in_given_units(result, reported_factors(counting))


def probes_used(probes: Probes, num_probes: int | None, exact: bool) -> int:
    """How many probes are taken, or a ValueError."""
    available = probes.trace.shape[1]
    if exact:
        return available
    if num_probes is None:
        return min(DEFAULT_PROBES, available)
    if not 2 <= as_count(num_probes, "num_probes", 0) <= available:
        raise ValueError(f"num_probes: expected 2 to {available}, found {num_probes}; draw more probes")
    return num_probes


class ProbeMoments(NamedTuple):
    """Unbiased T of every probe (s, G, G), traces (G,) of K_g, n - c, and the probes' features, on the complement.

    A probe's value is z'(K_g - a_g I)(K_h - a_h I)z + t_g t_h / (n - c) with t_g = tr K_g and a_g = t_g / (n - c),
    whose expectation is tr(K_g K_h).  So the rows of T with the residual are exact, T is positive semidefinite once the
    residual is eliminated, and the part of the noise that is common to all K_g near the identity is gone.
    """

    per_probe: np.ndarray
    traces: np.ndarray
    dimension: int
    features: Any

    @property
    def normal_matrix(self) -> np.ndarray:
        """(G + 1, G + 1) T, residual last."""
        genetic = self.per_probe.mean(axis=0)
        return np.block([[genetic, self.traces[:, None]], [self.traces[None], np.array([[float(self.dimension)]])]])

    def error_of(self, theta: np.ndarray) -> np.ndarray:
        """(G + 1, G + 1) Monte-Carlo covariance of T theta, from the spread over probes."""
        G = len(self.traces)
        out = np.zeros((G + 1, G + 1))
        out[:G, :G] = covariance_of_mean((self.per_probe @ theta[:G]).T)
        return out


def probe_moments(covariance: Covariance, Q: Block, Z: Block) -> ProbeMoments:
    """Moments from projected probes Z (n, s); s (1 + overlap) / 2 column-passes, in batches."""
    G = covariance.num_components
    n, s = Z.shape
    dimension = n - Q.shape[1]
    traces = complement_traces(covariance, Q)
    batch = max(1, BATCH_BYTES // (G * n * Z.dtype.itemsize))
    features, grams = [], []
    for first in range(0, s, batch):
        block = take_columns(Z, slice(first, first + batch))
        features.append(covariance.features(block))
        images = component_images(covariance, Q, features[-1])
        grams.append(probe_grams(images, block))
        check_images(covariance, images, block)
    check_forms(covariance, np.concatenate(grams), traces)
    a = traces / dimension
    centre = np.hstack([np.eye(G), -a[:, None]])  # [K_1 z, .., K_G z, z] -> [(K_1 - a_1) z, ..]
    per_probe = centre @ np.concatenate(grams) @ centre.T + np.outer(a, traces)
    return ProbeMoments(per_probe, traces, dimension, columns(*features))


def moment_covariance(
    covariance: Covariance, Q: Block, Z: Block, features: Any, theta: np.ndarray, *, exact: bool
) -> np.ndarray:
    """(G + 1, G + 1) S_gh = cov(y'K_g y, y'K_h y) = 2 tr(K_g V K_h V) on the complement of X, at V(theta).

    With C_g = Z'K_g V Z over s probes, C_g[u, v] C_h[v, u] has expectation tr(K_g V K_h V) for independent probes u, v.
    S is the mean over the s (s - 1) pairs; its relative error is about 2 / s in every direction of theta.  ``exact``
    probes take all pairs.  Cost: 1.5 s column-passes for any number of components.
    """
    s = Z.shape[1]
    W = project(Q, apply_v_at(covariance, theta)(Z))
    C = np.empty((covariance.num_components + 1, s, s))
    C[:-1] = covariance.gram(features, covariance.features(W))
    C[-1] = gram(Z, W)
    pairs = s * s
    if not exact:
        C[:, np.arange(s), np.arange(s)] = 0
        pairs -= s
    flat, swapped = C.reshape(len(C), -1), C.transpose(0, 2, 1).reshape(len(C), -1)
    return 2 * symmetric(flat @ swapped.T) / pairs
