"""Dense REML without Monte-Carlo error, for cohorts of up to a few thousand samples.

The likelihood is that of the error contrasts A'y, with A an orthonormal basis of the complement of X, so the fixed
effects appear only in the report.  One component is diagonalised and becomes a scalar problem; several take AI steps,
each checked against the exact likelihood.  Cost: half a pass of n columns, then n^3 an iteration.
Everything is float64 but the products with genotypes, which are summed in float64, and the K_g of several components
that were made of them: in float32 they leave a relative error of about 2e-7 in the entries of K_g, which moves theta by
about 1e-6 standard errors.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gpu_reml.ops.relationship import tile_width

from ..contract import SKEW, WRONG_TRACE, refuse, units_of
from ..covariance import CountingCovariance, as_covariance
from ..hooks import Hooks
from ..least_squares import FixedEffects, fixed_effects, fixed_inverse
from ..likelihood import apply_v_at
from ..likelihood_ratio import tested_sets
from ..moments import Moments, check_left, check_separable, start_values
from ..precondition import complement_traces
from ..profile import with_profiles
from ..residuals import layout_of
from ..result import (
    ConvergenceError,
    Estimate,
    FitResult,
    Record,
    make_result,
    singular_information,
)
from ..settings import FitSettings
from ..step import SingularInformationError
from ..traits import Traits, checked, make_traits, one_phenotype
from ..units import (
    check_variances,
    hooks_in_given_units,
    in_given_units,
    in_moderate_units,
    reported_factors,
    start_variances,
)
from . import spectral
from .contrasts import Contrasts, contrast_matrices, contrasts
from .dense import DenseModel, Diagonalised, SpectralModel
from .exact_tests import exact_curves, exact_ratio_tests
from .null import lrt_weights, null_loglik
from .search import DensePoint, SearchResult, search
from .triangles import ROWS, Triangles

AnyModel = SpectralModel | DenseModel
# Seconds of one core of a two-core machine with AVX-512, measured for n = 1,000 to 3,000, m = 5,000 and 10,000, G = 1
# to 22:
# Times n^2 m: the products that form the matrices.
FORMING = 9e-12
# Times G n^2: taking the matrices to the contrasts and keeping them.
KEEPING = 5e-9
# Times n^3: the tridiagonal form and the eigenvalues of one component.
DIAGONALISING = 9e-11
# Times G^2 n^2: the inner products of the components.
SEPARATING = 4.5e-11
# Times n^3: the factor and the inverse of an iteration.
FACTORISING = 2.2e-11
# Times G n^2: reading the components in an iteration.
STREAMING = 9e-10
# A fit takes about so many iterations.
ITERATIONS = 8


class DenseProblem(NamedTuple):
    """What the fits of all phenotypes share: the components on the contrasts of X."""

    covariance: CountingCovariance
    basis: Contrasts
    matrices: Diagonalised | Triangles
    T: np.ndarray
    settings: FitSettings

    @property
    def lower(self) -> np.ndarray:
        """(p,) bounds of the variances."""
        return layout_of(self.covariance).lower(self.settings.residual_floor, constrain=self.settings.constrain)


def make_problem(covariance: CountingCovariance, Q: np.ndarray, settings: FitSettings) -> DenseProblem:
    """The components on the complement of Q (n, c), checked: their traces, and that something is left of each."""
    basis = contrasts(Q)
    matrices = matrices_on(covariance, basis)
    check_stated(covariance, Q, matrices.traces)
    check_left(covariance, matrices.traces)
    across = matrices.traces[:, None]
    T = np.block([[matrices.inner, across], [across.T, np.array([[len(Q) - Q.shape[1]]])]])
    return DenseProblem(covariance, basis, matrices, T, settings)


def matrices_on(covariance, basis: Contrasts) -> Diagonalised | Triangles:
    """The components on the contrasts: one is diagonalised, several are kept."""
    n, G = covariance.num_samples, covariance.num_components
    if G == 1:
        K = np.array(next(contrast_matrices(covariance, basis)))
        return Diagonalised(K, float(np.finfo(covariance.dtype).eps))
    kept = Triangles(G, n - basis.num_fixed, covariance.dtype)
    for K in contrast_matrices(covariance, basis):
        kept.append(K)
    return kept


def check_stated(covariance, Q: np.ndarray, left: np.ndarray) -> None:
    """ValueError where a trace that is stated is not that of the matrices, left (G,) on the complement of Q (n, c).

    Cost: half a pass of c columns.
    """
    expected = complement_traces(covariance, covariance.block(Q))
    stated = np.asarray(covariance.traces, np.float64)
    unlike = np.abs(left - expected) > SKEW * np.maximum(np.abs(stated), np.abs(left))
    if unlike.any():
        g = int(np.argmax(unlike))
        found, unit = stated[g] + left[g] - expected[g], units_of(covariance)[g]
        refuse(covariance.names[g], WRONG_TRACE.format(found=unit * found, se=0.0, stated=unit * stated[g]))


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
    2.5e-13), residual_floor, lrt, profile and constrain are used.  One component is maximised over its whole range and
    needs no ``start``.
    Cost (:func:`exact_seconds`): half a pass of n columns, then a tridiagonal decomposition for G = 1, or n^3 + 4 G n^2
    flop an iteration.  Memory: :func:`exact_memory`.
    Raises ValueError on invalid input, ConvergenceError (with the result so far) when it does not converge and
    ``strict``, and where components cannot be told apart or the fixed effects leave nothing of one.

    >>> import numpy as np
    >>> from gpu_reml.reml import fit_exact
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> found = fit_exact(y, np.ones((200, 1)), Z @ Z.T / 400)
    >>> found.method, found.theta.round(3).tolist(), found.mc_se.tolist()
    ('exact', [0.791, 1.223], [0.0, 0.0])
    """
    Y = one_phenotype(y)[:, None]
    return next(exact_fits(Y, X, covariance, settings, start=start, callback=callback, strict=strict))


def exact_fits(
    Y: np.ndarray,
    X: np.ndarray,
    covariance,
    settings: FitSettings | None = None,
    *,
    start: np.ndarray | None = None,
    callback: Callable[[Record], None] | None = None,
    strict: bool = True,
) -> Iterator[FitResult]:
    """:func:`fit_exact` of every column of Y (n, t), each when it is asked for; the matrices are formed once.

    >>> import numpy as np
    >>> from gpu_reml.reml import exact_fits
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> found = list(exact_fits(np.column_stack([y, 10 * y]), np.ones((200, 1)), Z @ Z.T / 400))
    >>> bool(np.allclose(found[1].theta, 100 * found[0].theta))
    True
    """
    settings = settings or FitSettings()
    counting = CountingCovariance(in_moderate_units(as_covariance(covariance, len(Y))))
    factors = reported_factors(counting)
    hooks = hooks_in_given_units(Hooks(callback), factors)
    traits = make_traits(*checked(Y, X, counting))
    check_variances(counting, traits.scales)
    layout = layout_of(counting)
    tested_sets(settings.lrt, layout.names)  # raises what is wrong with them before any work
    starts = [None] * len(traits.scales)
    if start is not None:
        given = start_variances(start, counting)
        starts = [layout.internal(given / scale**2, settings.residual_floor) for scale in traits.scales]
    problem = make_problem(counting, traits.Q, settings)
    for which, theta in enumerate(starts):
        try:
            result = in_given_units(fit_trait(problem, traits.only(which), theta, hooks), factors)
        except SingularInformationError as error:
            raise singular_information(layout, error.index, constrained=settings.constrain) from None
        if strict and not result.converged:
            raise ConvergenceError(result.status.value, result)
        yield result


def fit_trait(problem: DenseProblem, trait: Traits, start: np.ndarray | None, hooks: Hooks) -> FitResult:
    """The fit of one phenotype, from start (p,) in units of its variance where one is given."""
    settings, layout, lower = problem.settings, layout_of(problem.covariance), problem.lower
    scale = float(trait.scales[0])
    check_separable(layout.reduced(problem.T))
    y = problem.basis.coordinates(trait.scaled)
    if isinstance(problem.matrices, Diagonalised):
        model = SpectralModel(problem.matrices, y)
        theta = spectral.maximise(model.spectrum, settings.residual_floor, constrain=settings.constrain)
    else:
        model = DenseModel(problem.matrices, y)
        found = Moments(problem.T, (y.T @ model.images(y))[0])
        theta = np.where(layout.estimated, start_values(found, lower), lower)
        theta = theta if start is None else np.maximum(start, lower)

    def report(iteration, theta, decrement, norm):
        passes = problem.covariance.column_passes
        record = Record(iteration, tuple(layout.reported(theta) * scale**2), decrement, norm, 0, 0, passes)
        hooks.report(record)
        return record

    ended = search(model, theta, lower, settings, report, layout.estimated)
    return result_of(model, ended, trait, problem)


def exact_memory(num_samples: int, num_components: int, itemsize: int = 8) -> int:
    """Peak bytes of :func:`fit_exact` beside the genotypes: three matrices (n, n), a tile of genotypes, and the
    triangles of several components, in numbers of the products' ``itemsize``.

    >>> from gpu_reml.reml import exact_memory
    >>> round(exact_memory(5_000, 1) / 2**20)  # MiB
    611
    """
    n, G = num_samples, num_components
    kept = G * itemsize * n * (n + ROWS) // 2 if G > 1 else 0
    return 24 * n**2 + kept + itemsize * n * tile_width(n, itemsize)


def exact_seconds(
    num_samples: int, num_variants: int, num_components: int, overlap: float = 1.0, num_traits: int = 1
) -> float:
    """Expected seconds of :func:`exact_fits` on one core, float32 products, good to a factor of two.

    More cores divide it.  overlap: components that a variant is in, on average.

    >>> from gpu_reml.reml import exact_seconds
    >>> exact_seconds(5_000, 50_000, 22) > exact_seconds(5_000, 50_000, 1) > 0
    True
    """
    n, G = num_samples, num_components
    forming = n**2 * (FORMING * num_variants * overlap + KEEPING * G)
    if G == 1:
        return forming + DIAGONALISING * n**3
    iteration = FACTORISING * n**3 + STREAMING * G * n**2
    return forming + SEPARATING * G**2 * n**2 + num_traits * ITERATIONS * iteration


def result_of(model: AnyModel, ended: SearchResult, trait: Traits, problem: DenseProblem) -> FitResult:
    """Information, fixed effects and, for one component, the profile of h2 at the end of the search."""
    covariance, settings, lower = problem.covariance, problem.settings, problem.lower
    point, theta, layout = ended.point, ended.point.theta, layout_of(problem.covariance)
    found = Estimate(
        theta=theta,
        score=ended.score,
        ai=ended.ai,
        mc=np.zeros((len(theta), len(theta))),
        free=(theta > lower * (1 + 1e-9)) & layout.estimated,
        loglik=point.loglik,
        loglik_mc_se=0.0,
        weights=lrt_weights(layout, problem.T, constrain=settings.constrain),
        ratio=0.0,
        fixed_effects=effects_of(model, point, trait, problem),
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


def effects_of(model: AnyModel, point: DensePoint, trait: Traits, problem: DenseProblem) -> FixedEffects:
    """Generalised least squares; c + 1 column-passes."""
    covariance, basis, Q = problem.covariance, problem.basis, trait.Q
    block = covariance.block(np.column_stack([basis.vectors(model.back(point.Py)), Q]))
    images = np.asarray(apply_v_at(covariance, point.theta)(block), np.float64)
    VPy, VQ = images[:, :1], images[:, 1:]
    cross = model.rotate(basis.coordinates(VQ))
    return fixed_effects(trait, Q.T @ VPy[:, 0], fixed_inverse(Q.T @ VQ, cross.T @ model.solve(point, cross)))
