"""``fit`` and ``fit_traits``: check the arrays, choose the engine, return results in the phenotype's units."""

from collections.abc import Callable

import numpy as np

from gpu_reml.ops import blas
from gpu_reml.ops.arguments import as_numbers

from .covariance import as_covariance
from .covariance.threaded import ThreadedCovariance
from .engines.krylov import krylov_fits
from .engines.krylov_people import fits_together
from .engines.people import one_by_one, peoples_of, traits_of
from .engines.reduced_end import reduced_fits
from .hooks import Hooks
from .likelihood_ratio import tested_sets
from .probes import NUM_PROBES, Probes, checked_probes, probes_are_exact
from .residuals import layout_of
from .result import ConvergenceError, FitResult, Record, singular_information
from .settings import FitSettings
from .step import SingularInformationError
from .traits import check_measured, checked, make_traits, one_phenotype
from .units import (
    check_variances,
    hooks_in_given_units,
    in_given_units,
    in_moderate_units,
    reported_factors,
    start_variances,
)


def fit(
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    probes: Probes | np.ndarray | int = NUM_PROBES,
    settings: FitSettings | None = None,
    *,
    start: np.ndarray | None = None,
    callback: Callable[[Record], None] | None = None,
    strict: bool = True,
) -> FitResult:
    """REML fit of y = X b + sum_g u_g + e, var(u_g) = theta_g K_g, var(e) = theta_e I.

    Other residuals: :func:`~gpu_reml.reml.residuals.with_residuals`.
    y (n,), X (n, c) of full column rank, covariance a :class:`~gpu_reml.reml.covariance.Covariance` or a list of
    components of any kinds (:func:`~gpu_reml.reml.covariance.as_covariance`): genotypes, matrices, functions; probes
    from :func:`~gpu_reml.reml.probes.draw_probes`, an array (n, s), or a number of them, drawn by seed 0.
    start: theta (G + J,) in y's units squared; default randomised Haseman-Elston; the Krylov engine needs none.
    theta_g >= 0 and theta_e >= residual_floor var(y).
    Raises ValueError on invalid input, ConvergenceError (with the result so far) when it does not converge and
    ``strict``; with ``strict=False`` the result's status says so.  Components that cannot be told apart are a
    SingularModelError, those of which the fixed effects leave nothing a ConvergenceError without a result.

    >>> import numpy as np
    >>> from gpu_reml.reml import fit
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> found = fit(y, np.ones((200, 1)), Z @ Z.T / 400)
    >>> found.names, found.converged, bool(0 < found.theta[0] < 2)
    (('component_000',), True, True)
    """
    y = one_phenotype(y)
    check_measured(y)
    return fit_traits(y[:, None], X, covariance, probes, settings, start=start, hooks=Hooks(callback), strict=strict)[0]


def fit_traits(
    Y: np.ndarray,
    X: np.ndarray,
    covariance,
    probes: Probes | np.ndarray | int = NUM_PROBES,
    settings: FitSettings | None = None,
    *,
    start: np.ndarray | None = None,
    hooks: Hooks | None = None,
    strict: bool = True,
) -> list[FitResult]:
    """:func:`fit` of every column of Y (n, t), each on its own, on the same fixed effects; nan: not measured.

    One component: a single Krylov run serves all traits, which share its probes and passes.  Several components: the
    traits share moments and probes, and are fitted one after the other, from the basis of the first where that pays.
    Traits that not everybody has are fitted among their own samples, with K[rows, rows] of the K that is given; this
    needs its diagonal.  ``hooks``: progress, checkpoints, and one to resume from, where all traits have the same
    samples.  Raises what :func:`fit` raises, for the first trait that does.

    >>> import numpy as np
    >>> from gpu_reml.reml import fit_traits
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> found = fit_traits(np.column_stack([y, y[::-1]]), np.ones((200, 1)), Z @ Z.T / 400)
    >>> [result.converged for result in found]
    [True, True]
    """
    settings = FitSettings() if settings is None else settings
    if not isinstance(settings, FitSettings):
        raise ValueError(f"settings: expected FitSettings, found {type(settings).__name__}")
    hooks = hooks or Hooks()
    Y = as_numbers(Y, "Y")
    if Y.ndim != 2:
        raise ValueError(f"Y: expected traits (n, t), y[:, None] for one, found {Y.shape}")
    covariance = in_moderate_units(as_covariance(covariance, len(Y)))
    factors = reported_factors(covariance)
    hooks = hooks_in_given_units(hooks, factors)
    measured = ~np.isnan(Y)
    filled, X = checked(np.where(measured, Y, 0.0), X, covariance)
    Y = np.where(measured, filled, np.nan)
    probes = checked_probes(probes, covariance.num_samples)
    start = None if start is None else start_variances(start, covariance)
    peoples = peoples_of(measured)
    everybody = len(peoples) == 1 and measured.all()
    if not everybody and hooks.resume is not None:
        raise ValueError("hooks.resume: traits of different samples are fitted without checkpoints; fit them anew")
    traits = [make_traits(Y, X)] if everybody else [traits_of(people, Y, X) for people in peoples]
    for each in traits:
        check_variances(covariance, each.scales)
    tested_sets(settings.lrt, layout_of(covariance).names)  # raises what is wrong with them before any work
    if settings.engine == "krylov" and covariance.num_components != 1:
        raise ValueError(f"engine: krylov is for one component, found {covariance.num_components}; use auto")

    krylov = covariance.num_components == 1 and settings.engine in ("auto", "krylov")
    own = Hooks(hooks.callback)  # there are no checkpoints of traits of different samples

    def engine(traits, covariance, probes, hooks=own):
        if krylov:
            return krylov_fits(traits, covariance, probes, settings, hooks)
        return reduced_fits(traits, covariance, probes, settings, hooks, start)

    try:
        with blas.one_thread():
            threaded = ThreadedCovariance(covariance)
            together = krylov and not probes_are_exact(probes.trace)
            if everybody:
                results = engine(traits[0], threaded, probes, hooks)
            else:
                results = (
                    fits_together(peoples, traits, X, threaded, probes, settings, own)
                    if together
                    else one_by_one(peoples, traits, threaded, probes, engine)
                )
    except SingularInformationError as error:
        raise singular_information(layout_of(covariance), error.index, constrained=settings.constrain) from None
    results = [in_given_units(result, factors) for result in results]
    for result in results:
        if strict and not result.converged:
            raise ConvergenceError(result.status.value, result)
    return results
