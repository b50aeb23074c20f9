"""Heritability of liability from cases and controls: phenotype-correlation genotype-correlation regression (PCGC).

A disease is a liability x b + g + e above zero, var(g + e) = 1.  Cases are chosen by having it, so the liability is not
normal in the sample and REML is biased; but for two people of small genetic correlation the product of their residuals

    E[z_i z_j] = q_i q_j sum_g theta_g (K_g)_ij + O(K_ij^2),   z_i = (y_i - P_i) / sqrt(P_i (1 - P_i))

holds whatever the ascertainment, with P_i the probability of disease given x_i and selection and q_i = sqrt(r) phi_i /
(D_i sqrt(k_i (1 - k_i))), k_i = Phi(x_i b) that in the population, phi_i the normal density at x_i b, r the chance of a
control to be chosen relative to a case's, D_i = k_i + r (1 - k_i).  So the components are regressed as in
Haseman-Elston regression, on matrices S (K_g - diag K_g) S with S = diag(q).
Source: Golan, Lander & Rosset 2014, PNAS 111:E5272 (there with a logistic model of x; a probit one is the liability's).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import special

from ..covariance import CountingCovariance, Covariance, as_covariance
from ..he import BATCH_BYTES, HEResult, probes_used
from ..least_squares import FixedEffects
from ..linalg import Block, column_batches, orthonormal_basis, scale_rows, symmetric, take_columns
from ..moments import check_separable, probe_grams
from ..monte_carlo import covariance_of_mean
from ..probes import Probes, checked_probes, probes_are_exact
from ..residuals import layout_of
from ..result import singular_moments
from ..scaled import ScaledCovariance
from ..step import SingularInformationError
from ..traits import checked, one_phenotype

# The probit model takes at most so many steps; about five are usual.
MOST_STEPS = 50
# A step is halved at most so many times.
HALVINGS = 30
# It ends where the squared length of a step, in standard errors, is below this,
SETTLED = 1e-16
# and no liability moved by more than this. Moves stay near 1 where covariates leave no doubt who is a case.
SETTLED_LIABILITY = 1e-4


@dataclass(frozen=True, kw_only=True, repr=False)
class PCGCResult(HEResult):
    """PCGC estimates on the scale of liability, whose variance given the fixed effects is 1.

    ``theta`` (G + 1,), the residual last: 1 less what the components explain.  ``covariance``: sampling covariance by
    a corrected jackknife over people, for unrelated ones.  ``fixed_effects``: on liability.  ``fixed_variance``: what
    they give it in the population, so that h2 of all liability is h2 / (1 + fixed_variance).
    """

    prevalence: float
    share_of_cases: float
    fixed_effects: FixedEffects
    fixed_variance: float
    kind: ClassVar[str] = "PCGC regression"
    scale: ClassVar[str] = "liability, variance 1 given the fixed effects"

    @property
    def h2_marginal(self) -> tuple[float, float]:
        """h2 with its standard error as a share of all liability, what the fixed effects give it included."""
        h2 = self.heritabilities[0][1]
        return tuple(float(part[0]) / (1 + self.fixed_variance) for part in (h2.estimate, h2.se))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and arrays, ready for JSON."""
        estimate, se = self.h2_marginal
        return {
            **super().to_dict(),
            "method": "pcgc",
            "scale": self.scale,
            "fixed_variance": self.fixed_variance,
            "h2_marginal": {"estimate": estimate, "se": se},
        }


def pcgc(
    y: np.ndarray, X: np.ndarray, covariance, prevalence: float, probes: Probes, *, num_probes: int | None = None
) -> PCGCResult:
    """PCGC estimate of the variances theta of liability x b + sum_g u_g + e, var(u_g) = theta_g K_g.

    y (n,) of two values, the larger a case; X (n, c) of full column rank with the intercept among its combinations;
    covariance as for :func:`~gpu_reml.reml.he.haseman_elston`, with diagonals; prevalence: share of cases in the
    population.  num_probes: how many of ``probes.trace`` are used, by default 64.
    Close relatives bias it, since it is exact to first order in their correlation; leave one of each pair out.
    Standard errors take b as known.
    Cost: num_probes (1 / 2 + overlap) column-passes.  Memory: features (m, num_probes), and K_g z of a batch of probes.
    Raises ValueError on invalid input, where covariates tell cases from controls without error, and where components
    cannot be told apart.

    >>> import numpy as np
    >>> from gpu_reml.reml import draw_probes, pcgc
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> cases = (y > np.quantile(y, 0.8)).astype(float)
    >>> found = pcgc(cases, np.ones((200, 1)), Z @ Z.T / 400, 0.2, draw_probes(200, 64))
    >>> found.names, found.theta.shape
    (('component_000',), (2,))
    """
    base = as_covariance(covariance, len(y))
    layout = layout_of(base)
    if layout.num_parts or layout.root is not None:
        raise ValueError("PCGC takes one residual, the same for all; leave residual weights and groups out")
    cases, X = checked_disease(y, X, base)
    model = liability_model(cases, X, prevalence)
    scaled = CountingCovariance(ScaledCovariance(base, model.scale))
    probes = checked_probes(probes, base.num_samples, 2)
    exact = probes_are_exact(probes.trace)
    s = probes_used(probes, num_probes, exact)
    hollow = Hollow(scaled, scaled.diagonals())
    Z = scaled.block(probes.trace[:, :s])
    per_probe, features = hollow.moments(Z)
    T, z = per_probe.mean(axis=0), scaled.block(model.z[:, None])
    images = hollow.images(scaled.features(z), z)
    parts = np.stack([np.asarray(image, np.float64)[:, 0] * model.z for image in images])
    try:
        check_separable(T)
    except SingularInformationError as error:
        raise singular_moments(base.names[error.index], s) from None
    theta, inverse = np.linalg.solve(T, parts.sum(axis=1)), np.linalg.inv(T)
    expected = hollow.diagonals_of_squares(Z, features, theta)
    if exact:
        expected = np.stack([expected.mean(axis=0)] * 2)
    sampling = inverse @ covariance_of_forms(parts, expected, T) @ inverse
    if not (np.diag(sampling) > 0).all():
        raise ValueError("the sample is too small, or its relatives too many, for the sampling errors of PCGC")
    mc = np.zeros_like(T) if exact else inverse @ covariance_of_mean((per_probe @ theta).T) @ inverse
    with_residual = np.vstack([np.eye(len(T)), -layout.mean_traces])  # the residual is 1 less the others
    return PCGCResult(
        names=layout.names,
        theta=with_residual @ theta + np.append(np.zeros(len(T)), 1.0),
        covariance=with_residual @ symmetric(sampling) @ with_residual.T,
        mc_covariance=with_residual @ symmetric(mc) @ with_residual.T,
        mean_traces=layout.mean_traces,
        T=T,
        num_samples=base.num_samples,
        num_fixed=X.shape[1],
        num_probes=s,
        column_passes=scaled.column_passes,
        prevalence=prevalence,
        share_of_cases=float(cases.mean()),
        fixed_effects=model.fixed_effects,
        fixed_variance=model.fixed_variance,
    )


def checked_disease(y: np.ndarray, X: np.ndarray, covariance: Covariance) -> tuple[np.ndarray, np.ndarray]:
    """Who is a case (n,), and X (n, c) as float64, or a ValueError that says what is wrong with them."""
    Y, X = checked(one_phenotype(y)[:, None], X, covariance)
    y, values = Y[:, 0], np.unique(Y)
    if len(values) != 2:
        raise ValueError(f"y: expected two values, the larger for cases, found {len(values)}")
    Q = orthonormal_basis(X)
    if not np.allclose(Q @ Q.sum(axis=0), 1, rtol=0, atol=1e-8):
        raise ValueError("X: has no intercept; add a column of ones")
    return y == values[1], X


class LiabilityModel(NamedTuple):
    """``z``, ``scale`` (n,): standardised residuals of the disease, and the q_i that their products are regressed with.

    ``fixed_effects`` on liability; ``fixed_variance``: of x b in the population.
    """

    z: np.ndarray
    scale: np.ndarray
    fixed_effects: FixedEffects
    fixed_variance: float


def liability_model(cases: np.ndarray, X: np.ndarray, prevalence: float) -> LiabilityModel:
    """The probit model of disease given X (n, c) by maximum likelihood, given that cases were chosen as such.

    P_i = k_i / (k_i + r (1 - k_i)) with k_i = Phi(x_i b) and r = K (1 - P) / (P (1 - K)).
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence: expected a share between 0 and 1, found {prevalence}")
    K, P = prevalence, float(np.mean(cases))
    r = K * (1 - P) / (P * (1 - K))
    b, covariance = _probit(cases, X, np.log(r), np.full(len(X), special.ndtri(K)))
    eta = X @ b
    k, other = special.ndtr(eta), special.ndtr(-eta)
    D = k + r * other
    probability = k / D
    z = (cases - probability) / np.sqrt(r * k * other) * D
    scale = np.sqrt(r) * np.exp(-(eta**2) / 2) / np.sqrt(2 * np.pi * k * other) / D
    weights = np.where(cases, K / P, (1 - K) / (1 - P))
    weights /= weights.sum()
    fixed_variance = float(weights @ (eta - weights @ eta) ** 2)
    return LiabilityModel(z, scale, FixedEffects(b, covariance), fixed_variance)


def _probit(cases: np.ndarray, X: np.ndarray, log_r: float, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """b (c,) and the inverse of its Fisher information, by scoring with halved steps."""
    sign = np.where(cases, 1.0, -1.0)

    def parts(b):
        eta = X @ b
        log_k, log_other = special.log_ndtr(eta), special.log_ndtr(-eta)
        logit = log_k - log_other - log_r
        slope = np.exp(-(eta**2) / 2 - log_k - log_other) / np.sqrt(2 * np.pi)
        return float(special.log_expit(sign * logit).sum()), special.expit(logit), slope

    b = np.linalg.lstsq(X, start, rcond=None)[0]
    loglik, P, slope = parts(b)
    for _ in range(MOST_STEPS):
        information = (X * (P * (1 - P) * slope**2)[:, None]).T @ X
        if not np.linalg.cond(information) < 1 / np.finfo(float).eps:
            break
        score = X.T @ ((cases - P) * slope)
        step = np.linalg.solve(information, score)
        if step @ score <= SETTLED * len(X) and np.abs(X @ step).max() <= SETTLED_LIABILITY:
            return b, np.linalg.inv(information)
        for halving in range(HALVINGS):
            trial = parts(b + step / 2**halving)
            if trial[0] >= loglik or halving == HALVINGS - 1:
                b, (loglik, P, slope) = b + step / 2**halving, trial
                break
    raise ValueError(
        "X: the covariates tell some cases from controls without error, as a level that only cases have does; leave "
        "those out"
    )


class Hollow(NamedTuple):
    """Matrices M_g = S (K_g - diag K_g) S, of a scaled covariance and its ``diagonals`` (n, G); no diagonal entries."""

    covariance: Covariance
    diagonals: np.ndarray

    def images(self, features: Any, B: Block) -> list[Block]:
        """M_g B for every g, from the features of B; half a pass, times the overlap."""
        images = self.covariance.apply_each(features)
        columns_of = (self.covariance.block(diagonal[:, None]) for diagonal in self.diagonals.T)
        return [images[g] - scale_rows(B, column) for g, column in enumerate(columns_of)]

    def batches(self, Z: Block) -> list[slice]:
        """Slices of the columns of Z whose images are held together."""
        n, G = self.diagonals.shape
        return column_batches(Z.shape[1], max(1, BATCH_BYTES // (G * n * Z.dtype.itemsize)))

    def moments(self, Z: Block) -> tuple[np.ndarray, list[Any]]:
        """(s, G, G) unbiased values z'M_g M_h z of tr(M_g M_h) of every probe, and the features of each batch."""
        G, features, grams = self.diagonals.shape[1], [], []
        for batch in self.batches(Z):
            block = take_columns(Z, batch)
            features.append(self.covariance.features(block))
            grams.append(probe_grams(self.images(features[-1], block), block)[:, :G, :G])
        return np.concatenate(grams), features

    def diagonals_of_squares(self, Z: Block, features: list[Any], theta: np.ndarray) -> np.ndarray:
        """(2, G, n) sum_h theta_h diag(M_g M_h), from the probes of even and of odd number apart."""
        n, G = self.diagonals.shape
        total, counts = np.zeros((2, G, n)), np.zeros(2)
        for batch, F in zip(self.batches(Z), features, strict=True):
            images = np.stack([np.asarray(image, np.float64) for image in self.images(F, take_columns(Z, batch))])
            mixed = np.tensordot(theta, images, axes=1)
            half = np.arange(Z.shape[1])[batch] % 2
            for which in (0, 1):
                mine = half == which
                total[which] += np.einsum("gns,ns->gn", images[:, :, mine], mixed[:, mine])
                counts[which] += mine.sum()
        return total / counts[:, None, None]


def covariance_of_forms(parts: np.ndarray, expected: np.ndarray, T: np.ndarray) -> np.ndarray:
    """(G, G) covariance of q - T theta over samples of independent people.

    q_g - sum_h T_gh theta_h is a sum over pairs, q'_i = parts (G, n) less expected (2, G, n) what all pairs of person i
    add to it.  4 sum_i q'_gi q'_hi counts twice what belongs to a pair alone, which is 2 T and is taken
    off: the corrected jackknife of Efron & Stein 1981, Ann. Statist. 9:586.  Each product takes one factor from each
    half of the probes, so that their noise is not squared.
    """
    first, second = parts - expected[0], parts - expected[1]
    return symmetric(4 * first @ second.T) - 2 * T
