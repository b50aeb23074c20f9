"""Several components: which engine fits a trait.

AI steps with a block of solves each converge in a few iterations, or, where y has hardly any residual or a component
hardly any variants, not at all.  The reduced model then takes over, on the CPU: its steps stay where its solutions are
good.
"""

from dataclasses import replace

import numpy as np

from .covariance import CountingCovariance, MixedFeatures
from .hooks import Hooks
from .iterative_fit import iterative_fit
from .pcg import BreakdownError
from .probes import Probes
from .reduced_end import SavedBasis, reduced_fit
from .result import FitResult, Record
from .settings import FitSettings
from .step import SingularInformationError
from .traits import Traits

PATIENCE = 20  # iterations: fits that settle need under a dozen
FEATURE_BYTES = 1 << 26  # memory of the basis's features that any analysis has room for
BLOCKS = 6  # of y and the probes, that the basis has room for at least: as many features as the iterations had


def several_fit(
    traits: Traits,
    covariance: CountingCovariance,
    probes: Probes,
    settings: FitSettings,
    hooks: Hooks,
    start: np.ndarray | None = None,
) -> FitResult:
    """REML fit of one trait by the engine that ``settings`` names, or "auto": AI steps, and the reduced model where
    they do not settle or models are to be compared.  start: as :func:`~gpu_reml.reml.reduced_end.reduced_fit` takes
    it."""
    arguments = (traits, covariance, probes)
    on_host = isinstance(covariance.block(traits.Q[:, :1]), np.ndarray)
    if settings.engine == "reduced":
        return reduced_fit(*arguments, settings, hooks, start)
    if settings.lrt or isinstance(hooks.resume, SavedBasis):
        return reduced_fit(*arguments, with_room(settings, covariance, traits, probes), hooks, start)
    if settings.engine == "iterative" or not on_host:
        return iterative_fit(*arguments, settings, hooks, start)
    patient = replace(settings, max_iterations=min(PATIENCE, settings.max_iterations))
    records: list[Record] = list(hooks.resume.history) if hooks.resume is not None else []

    def report(record: Record) -> None:
        records.append(record)
        hooks.report(record)

    try:
        result = iterative_fit(*arguments, patient, hooks._replace(callback=report), start)
        if result.converged:
            return result
    except (BreakdownError, SingularInformationError):  # of a theta far off, which says nothing of the model
        pass
    settings = with_room(settings, covariance, traits, probes)
    return reduced_fit(*arguments, settings, hooks._replace(resume=None), start, tuple(records))


def with_room(settings: FitSettings, covariance, traits: Traits, probes: Probes) -> FitSettings:
    """The settings with a basis whose features take no more memory than the iterations' did."""
    column = covariance.block(traits.Q[:, :1])
    size = feature_bytes(covariance.features(column)) if column.shape[1] else 1
    blocks = BLOCKS * (1 + min(settings.probes.first, probes.trace.shape[1]))
    most = max(blocks, min(1024, FEATURE_BYTES // max(1, size)))
    return replace(settings, solver=replace(settings.solver, most_basis=settings.solver.most_basis or most))


def feature_bytes(F) -> int:
    """Bytes of the features of a block."""
    return sum(map(feature_bytes, F.parts)) if isinstance(F, MixedFeatures) else F.nbytes
