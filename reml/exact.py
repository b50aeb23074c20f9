"""Dense REML without Monte-Carlo error, for cohorts of up to a few thousand samples.

The likelihood is that of the error contrasts A'y, with A an orthonormal basis of the complement of X, so the fixed
effects appear only in the report.  One component is diagonalised and becomes a scalar problem; several take AI steps,
each checked against the exact likelihood.  Cost: n columns through the genotypes once, then n^3 an iteration.
Everything is float64 but the products with genotypes: in float32 they leave a relative error of about 1e-6 in the
entries of K_g, which moves theta by less than 1e-4 standard errors.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import linalg

from gpu_reml.ops.arguments import largest_skew

from . import spectral
from .contract import NOT_FINITE, NOT_SYMMETRIC, SKEW, WRONG_TRACE, refuse, units_of
from .covariance import CountingCovariance, as_covariance
from .exact_tests import exact_curves, exact_ratio_tests
from .fit import checked, one_phenotype, start_variances
from .hooks import Hooks
from .likelihood import apply_v_at
from .likelihood_ratio import tested_sets
from .linalg import symmetric
from .moments import Moments, check_left, check_separable, start_values
from .null import lrt_weights, null_loglik
from .precondition import complement_traces
from .profile import with_profiles
from .residuals import layout_of
from .result import (
    ConvergenceError,
    Estimate,
    FitResult,
    FixedEffects,
    Record,
    fixed_effects_of,
    make_result,
    singular_information,
)
from .search import Model, Point, Search, derivatives, search
from .settings import FitSettings
from .spectral import Measure, Spectrum
from .step import SingularInformationError
from .traits import Traits, make_traits
from .units import check_variances, hooks_in_given_units, in_given_units, in_moderate_units, reported_factors

BLOCK_COLUMNS = 128  # columns of a product while K_g is formed: enough for BLAS, m x 128 numbers of memory
# Seconds, measured on one core of a two-core AVX-512 machine, n = 1,000 to 3,000, m = 5,000 and 10,000, G = 1 to 22:
FORMING = 9e-12  # a flop of the products that form the kernels
DIAGONALISING = 2e-10  # n^3 of an eigendecomposition
FACTORISING = 2.4e-11  # n^3 of an iteration: factor, inverse and the trial of a line search
STREAMING = 1.4e-9  # G n^2 of an iteration
SEPARATING = 1e-10  # G^2 n^2 of the components' inner products
ITERATIONS = 10


class Contrasts(NamedTuple):
    """A'B and A C for the orthonormal basis A (n, n - c) of the complement of Q: the last columns of a reflection.

    H = I - W core W' with W (n, c) maps Q to the first c coordinates, so A takes no n x n memory.
    Source: Schreiber & Parlett 1988, SIAM J. Numer. Anal. 25:189.
    """

    W: np.ndarray
    core: np.ndarray

    @property
    def num_fixed(self) -> int:
        return self.W.shape[1]

    def reflect(self, B: np.ndarray) -> np.ndarray:
        return B - self.W @ (self.core @ (self.W.T @ B))

    def coordinates(self, B: np.ndarray) -> np.ndarray:
        """A'B (n - c, k) of B (n, k)."""
        return self.reflect(B)[self.num_fixed :]

    def vectors(self, C: np.ndarray) -> np.ndarray:
        """A C (n, k) of C (n - c, k)."""
        return self.reflect(np.concatenate([np.zeros((self.num_fixed, C.shape[1])), C]))

    def columns(self, first: int, last: int) -> np.ndarray:
        """A[:, first:last] (n, last - first)."""
        rows = np.arange(first, last) + self.num_fixed
        block = -self.W @ (self.core @ self.W[rows].T)
        block[rows, np.arange(last - first)] += 1
        return block


def contrasts(Q: np.ndarray) -> Contrasts:
    """The reflection for an orthonormal Q (n, c)."""
    c = Q.shape[1]
    if not c:
        return Contrasts(Q, np.zeros((0, 0)))
    U, cosines, Vt = np.linalg.svd(Q[:c])
    W = Q.copy()
    W[:c] += U @ Vt  # the sign that adds up: W'W = 2 (I + V diag(cosines) V') is far from singular
    return Contrasts(W, (Vt.T / (1 + cosines)) @ Vt)


def contrast_kernels(covariance, basis: Contrasts) -> np.ndarray:
    """(G, N, N) float64 A'K_gA with N = n - c, symmetric.

    Cost: N column-passes, times (1 + overlap) / 2 for several components.
    """
    G, N = covariance.num_components, covariance.num_samples - basis.num_fixed
    Ks = np.empty((G, N, N))
    for first in range(0, N, BLOCK_COLUMNS):
        last = min(first + BLOCK_COLUMNS, N)
        block = covariance.block(basis.columns(first, last))
        images = [covariance.apply(np.ones(1), block)] if G == 1 else covariance.apply_each(covariance.features(block))
        for K, image in zip(Ks, images, strict=True):
            K[first:last] = basis.coordinates(np.asarray(image, np.float64)).T
    for K, name, trace in zip(Ks, covariance.names, covariance.traces, strict=True):
        if not np.isfinite(K).all():
            refuse(name, NOT_FINITE)
        largest, skew = np.abs(K).max(), largest_skew(K)
        if skew > SKEW * max(largest, trace / covariance.num_samples):
            refuse(name, NOT_SYMMETRIC.format(skew=skew / largest))
        K[:] = symmetric(K)
    return Ks


def check_stated(covariance, Q: np.ndarray, left: np.ndarray) -> None:
    """ValueError where a trace that is stated is not that of the kernels, left (G,) on the complement of Q (n, c).

    Cost: half a pass of c columns.
    """
    expected = complement_traces(covariance, covariance.block(Q))
    stated = np.asarray(covariance.traces, np.float64)
    unlike = np.abs(left - expected) > SKEW * np.maximum(np.abs(stated), np.abs(left))
    if unlike.any():
        g = int(np.argmax(unlike))
        found, unit = stated[g] + left[g] - expected[g], units_of(covariance)[g]
        refuse(covariance.names[g], WRONG_TRACE.format(found=unit * found, se=0.0, stated=unit * stated[g]))


def exact_moments(Ks: np.ndarray, y: np.ndarray) -> Moments:
    """T_gh = tr(K_g K_h) and q_g = y'K_g y on the contrasts, residual last; y (N, 1)."""
    G, N = Ks.shape[:2]
    T = np.empty((G + 1, G + 1))
    T[:G, :G] = Ks.reshape(G, -1) @ Ks.reshape(G, -1).T
    T[G, :G] = T[:G, G] = np.einsum("gii->g", Ks)
    T[G, G] = N
    return Moments(T, np.append([(y.T @ K @ y).item() for K in Ks], (y.T @ y).item()))


class SpectralModel:
    """One component, diagonalised once: O(N) a point."""

    def __init__(self, Ks: np.ndarray, y: np.ndarray):
        self.values, self.vectors = linalg.eigh(Ks[0], check_finite=False)
        self.y = self.vectors.T @ y
        weights = self.y[:, 0] ** 2
        self.spectrum = Spectrum(Measure(self.values, weights), Measure(self.values, np.ones(len(y))), len(y))

    def at(self, theta):
        value = spectral.loglik(self.spectrum, theta)
        if not np.isfinite(value):
            return None
        d = spectral.eigenvalues_of_v(theta, self.values)[:, None]
        return Point(theta, value, d, self.vectors @ (self.y / d))

    def solve(self, point, B):
        return self.vectors @ ((self.vectors.T @ B) / point.factor)

    def traces(self, point):
        return self.spectrum.trace.integrate(spectral.ratios(point.theta, self.spectrum.trace))

    def images(self, B):
        return np.column_stack([self.vectors @ (self.values[:, None] * (self.vectors.T @ B)), B])


class DenseModel:
    """Any number of components by the Cholesky factor of V: N^3 a point, G N^2 to form V and for the traces."""

    def __init__(self, Ks: np.ndarray, y: np.ndarray):
        self.Ks, self.y = Ks, y

    def at(self, theta):
        N = len(self.y)
        V = np.tensordot(theta[:-1], self.Ks, axes=1)
        V[np.diag_indices(N)] += theta[-1]
        L, info = linalg.lapack.dpotrf(V.T, lower=1, clean=1, overwrite_a=1)  # V.T: what LAPACK takes without a copy
        if info > 0:
            return None
        Py = linalg.lapack.dpotrs(L, self.y, lower=1)[0]
        logdet = 2 * np.log(np.diag(L)).sum()
        value = -0.5 * (logdet + (self.y.T @ Py).item() + N * np.log(2 * np.pi))
        return Point(theta, float(value), L, Py)

    def solve(self, point, B):
        return linalg.lapack.dpotrs(point.factor, B, lower=1)[0]

    def traces(self, point):
        """tr(V^-1 K_g): twice the products of the lower triangles less those of the diagonals; 2/3 N^3 to invert."""
        lower = linalg.lapack.dpotri(point.factor, lower=1)[0]
        diagonal = np.diag(lower)
        genetic = 2 * (self.Ks.reshape(len(self.Ks), -1) @ lower.T.ravel())
        return np.append(genetic - np.einsum("gii,i->g", self.Ks, diagonal), diagonal.sum())

    def images(self, B):
        return np.column_stack([*(K @ B for K in self.Ks), B])


def fit_exact(
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    settings: FitSettings | None = None,
    *,
    start: np.ndarray | None = None,
    callback: Callable[[Record], None] | None = None,
    strict: bool = True,
) -> FitResult:
    """REML fit of y = X b + sum_g u_g + e with dense matrices: no probes and no Monte-Carlo error.

    Arguments, bounds and result as :func:`~gpu_reml.reml.fit.fit`; of ``settings`` only max_iterations, tol (at most
    1e-12), residual_floor, lrt and constrain are used.  One component is maximised over its whole range and needs no
    ``start``.
    Cost: n column-passes, then an eigendecomposition for G = 1, or n^3 + 4 G n^2 flop an iteration
    (:func:`exact_seconds`).  Memory: :func:`exact_memory`.
    Raises ValueError on invalid input, ConvergenceError (with the result so far) when it does not converge and
    ``strict``, and where components cannot be told apart or the fixed effects leave nothing of one.
    """
    settings = settings or FitSettings()
    y = one_phenotype(y)
    counting = CountingCovariance(in_moderate_units(as_covariance(covariance, len(y))))
    factors = reported_factors(counting)
    report_to = hooks_in_given_units(Hooks(callback), factors)
    trait = one_trait(y, X, counting)
    check_variances(counting, trait.scales)
    layout, scale = layout_of(counting), float(trait.scales[0])
    tested_sets(settings.lrt, layout.names)  # raises what is wrong with them before any work
    if start is not None:
        start = layout.internal(start_variances(start, counting) / scale**2, settings.residual_floor)
    basis = contrasts(trait.Q)
    Ks, target = contrast_kernels(counting, basis), basis.coordinates(trait.scaled)
    found = exact_moments(Ks, target)
    check_stated(counting, trait.Q, found.T[-1, :-1])
    check_left(counting, found.T[-1, :-1])
    lower = layout.lower(settings.residual_floor, constrain=settings.constrain)

    def report(iteration, theta, decrement, norm):
        record = Record(
            iteration, tuple(layout.reported(theta) * scale**2), decrement, norm, 0, 0, counting.column_passes
        )
        report_to.report(record)
        return record

    try:
        check_separable(layout.reduced(found.T))
        if len(Ks) == 1:
            model = SpectralModel(Ks, target)
            theta = spectral.maximise(model.spectrum, settings.residual_floor, constrain=settings.constrain)
        else:
            model = DenseModel(Ks, target)
            theta = np.where(layout.estimated, start_values(found, lower), lower)
            if start is not None:
                theta = np.maximum(start, lower)
        ended = search(model, theta, lower, settings, report, layout.estimated)
        result = result_of(model, ended, trait, basis, counting, found.T, settings)
    except SingularInformationError as error:
        name = [*layout.names, *layout.residual_names][error.index]
        raise ConvergenceError(singular_information(name, constrained=settings.constrain)) from None
    result = in_given_units(result, factors)
    if strict and not result.converged:
        raise ConvergenceError(result.status.value, result)
    return result


def exact_memory(num_samples: int, num_components: int) -> int:
    """Peak bytes of :func:`fit_exact` beside the genotypes: G kernels, and four matrices (n, n) to factorise them."""
    return 8 * num_samples**2 * (num_components + 4)


def exact_seconds(num_samples: int, num_variants: int, num_components: int, overlap: float = 1.0) -> float:
    """Expected wall time of :func:`fit_exact` on one core, good to a factor of three; more cores divide it."""
    n, G = num_samples, num_components
    forming = 4 * n**2 * num_variants * FORMING * (1 if G == 1 else (1 + overlap) / 2)
    if G == 1:
        return forming + DIAGONALISING * n**3
    return forming + SEPARATING * G**2 * n**2 + ITERATIONS * (FACTORISING * n**3 + STREAMING * G * n**2)


def one_trait(y: np.ndarray, X: np.ndarray, covariance) -> Traits:
    """y (n,) and X (n, c), checked and scaled, or a ValueError that says what is wrong with them."""
    Y, X = checked(one_phenotype(y)[:, None], X, covariance)
    return make_traits(Y, X)


def result_of(
    model: Model,
    ended: Search,
    trait: Traits,
    basis: Contrasts,
    covariance: CountingCovariance,
    T: np.ndarray,
    settings: FitSettings,
) -> FitResult:
    """Information, fixed effects and, for one component, the profile of h2 at the end of the search."""
    point, theta = ended.point, ended.point.theta
    layout = layout_of(covariance)
    lower = layout.lower(settings.residual_floor, constrain=settings.constrain)
    score, ai = derivatives(model, point)
    found = Estimate(
        theta=theta,
        score=score,
        ai=ai,
        mc=np.zeros((len(theta), len(theta))),
        free=(theta > lower * (1 + 1e-9)) & layout.estimated,
        loglik=point.loglik,
        loglik_mc_se=0.0,
        weights=lrt_weights(layout, T, constrain=settings.constrain),
        ratio=0.0,
        fixed_effects=fixed_effects(model, point, trait, basis, covariance),
        loglik_null=null_loglik(covariance, trait, settings),
    )
    profile = None
    if len(theta) == 2:
        mean_trace = float(layout.mean_traces[0] / layout.residual_traces[0])
        profile = spectral.profile_h2(model.spectrum, theta, mean_trace, constrain=settings.constrain)
    result = make_result(
        covariance,
        trait.X,
        float(trait.scales[0]),
        found,
        status=ended.status,
        num_probes=0,
        mc_target=settings.probes.mc_target,
        rank=0,
        column_passes=covariance.column_passes,
        history=ended.history,
        method="exact",
        constrained=settings.constrain,
        profile=profile,
        ratio_tests=exact_ratio_tests(model, point, lower, layout, settings),
    )
    scale = float(trait.scales[0])
    curves = exact_curves(model, point, lower, layout, settings, result.covariance / scale**4)
    return with_profiles(result, curves, scale)


def fixed_effects(model: Model, point: Point, trait: Traits, basis: Contrasts, covariance) -> FixedEffects:
    """Generalised least squares from Q'X b = Q'(y - V P y) and var(Q'X b) = Q'(V - V P V)Q; c + 1 column-passes."""
    Q, scale = trait.Q, float(trait.scales[0])
    block = covariance.block(np.column_stack([basis.vectors(point.Py), Q]))
    images = np.asarray(apply_v_at(covariance, point.theta)(block), np.float64)
    VPy, VQ = images[:, :1], images[:, 1:]
    cross = basis.coordinates(VQ)
    inner = Q.T @ VQ - cross.T @ model.solve(point, cross)
    fitted = Q.T @ (trait.Y - scale * VPy)
    return fixed_effects_of(trait.X, Q, fitted[:, 0], inner * scale**2)
