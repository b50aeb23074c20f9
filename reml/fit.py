"""``fit`` and ``fit_traits``: check the arrays, choose the engine, return results in the phenotype's units."""

from collections.abc import Callable

import numpy as np

from .covariance import CountingCovariance, as_covariance
from .hooks import Hooks
from .iterative_fit import iterative_fit
from .krylov import krylov_fits
from .linalg import orthonormal_basis, project
from .probes import Probes
from .residuals import layout_of
from .result import ConvergenceError, FitResult, Record
from .settings import FitSettings
from .step import SingularInformationError
from .traits import Traits


def fit(
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    probes: Probes,
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
    from :func:`~gpu_reml.reml.probes.draw_probes`.  start: theta (G + J,) in y's units squared; default randomised
    Haseman-Elston; the Krylov engine needs none.  theta_g >= 0 and theta_e >= residual_floor var(y).
    Raises ValueError on invalid input, ConvergenceError (with the result so far) when it does not converge and
    ``strict``; with ``strict=False`` the result's status says so.  Components that cannot be told apart, or of which
    the fixed effects leave nothing, are a ConvergenceError without a result.
    """
    y = np.asarray(y, np.float64)
    if y.ndim != 1:
        raise ValueError(f"y: expected one phenotype (n,), found {y.shape}; several are for fit_traits")
    return fit_traits(y[:, None], X, covariance, probes, settings, start=start, hooks=Hooks(callback), strict=strict)[0]


def fit_traits(
    Y: np.ndarray,
    X: np.ndarray,
    covariance,
    probes: Probes,
    settings: FitSettings | None = None,
    *,
    start: np.ndarray | None = None,
    hooks: Hooks | None = None,
    strict: bool = True,
) -> list[FitResult]:
    """:func:`fit` of every column of Y (n, t), each on its own, on the same samples and fixed effects.

    One component: a single Krylov run serves all traits, which share its probes and passes.  Several components: the
    traits share the covariance and are fitted one after the other.  ``hooks``: progress, checkpoints, and one to resume
    from (of a single trait when there are several components).
    """
    settings = settings or FitSettings()
    hooks = hooks or Hooks()
    counting = CountingCovariance(as_covariance(covariance, len(Y)))
    Y, X = checked(Y, X, counting)
    check_probes(probes, counting.num_samples)
    Q = orthonormal_basis(X)
    residual = project(Q, Y)
    scales = np.sqrt((residual**2).sum(axis=0) / (len(Y) - Q.shape[1]))
    flat = ~(scales > 1e-12 * np.abs(Y).max(axis=0))
    if flat.any():
        which = "y" if Y.shape[1] == 1 else f"Y[:, {int(np.argmax(flat))}]"
        raise ValueError(f"{which}: does not vary once the fixed effects are taken out; there is no variance to divide")
    traits = Traits(Y, X, Q, scales)
    if settings.engine == "krylov" and counting.num_components != 1:
        raise ValueError(f"engine: krylov is for one component, found {counting.num_components}; use iterative")
    if counting.num_components == 1 and settings.engine != "iterative":
        results = krylov_fits(traits, counting, probes, settings, hooks)
    else:
        try:
            results = [
                iterative_fit(traits.only(which), counting, probes, settings, hooks, start)
                for which in range(Y.shape[1])
            ]
        except SingularInformationError as error:
            layout = layout_of(counting)
            name = [*layout.names, *layout.residual_names][error.index]
            raise ConvergenceError(
                f"component {name} cannot be told apart from the others (singular information); remove or merge it"
            ) from None
    for result in results:
        if strict and not result.converged:
            raise ConvergenceError(result.status.value, result)
    return results


def checked(Y: np.ndarray, X: np.ndarray, covariance) -> tuple[np.ndarray, np.ndarray]:
    """Y and X as float64, whitened by the reference residual, or a ValueError that says what is wrong with them."""
    Y, X = np.asarray(Y, np.float64), np.asarray(X, np.float64)
    n = covariance.num_samples
    if Y.ndim != 2 or len(Y) != n or not Y.shape[1]:
        raise ValueError(f"y: expected {n} samples to match the covariance, found {Y.shape}")
    if X.ndim != 2 or len(X) != n:
        raise ValueError(f"X: expected ({n}, c), found {X.shape}")
    if not np.isfinite(Y).all():
        sample = int(np.argwhere(~np.isfinite(Y))[0, 0])
        raise ValueError(f"y: value {Y[sample][~np.isfinite(Y[sample])][0]} of sample {sample} is not finite")
    layout = layout_of(covariance)
    return layout.whitened(Y), layout.whitened(X)


def check_probes(probes: Probes, n: int) -> None:
    """The probes' shapes, or a ValueError."""
    if len(probes.trace) != n or len(probes.sketch) != n or probes.trace.shape[1] < 1:
        found = f"{probes.trace.shape}, {probes.sketch.shape}"
        raise ValueError(f"probes: expected ({n}, s >= 1) and ({n}, r), found {found}")
