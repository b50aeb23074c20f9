"""Full fits of a scan's components, each alone beside the fitted ones, to compare with one step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from gpu_reml.ops import GenotypeCovariance

from ..covariance import Covariance, MixedCovariance, as_covariance
from ..fit import fit_traits
from ..residuals import layout_of
from ..result import FitResult, SingularModelError
from ..settings import FitSettings

if TYPE_CHECKING:  # loaded only where a frame is asked for
    import pandas as pd


@dataclass(frozen=True)
class Refits:
    """Full fits of some components: ``which`` (k,) of the scan's; their ``variance`` with ``se``, and the likelihood
    ratio ``lrt`` against the fit without, with ``mc_se`` and ``p``; NaN where a fit did not converge."""

    which: np.ndarray
    variance: np.ndarray
    se: np.ndarray
    lrt: np.ndarray
    lrt_mc_se: np.ndarray
    p: np.ndarray

    def beside(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """The frame of the scan (A rows) with these as columns refit_*, NaN in the other rows."""
        out = frame.copy()
        for name in ("variance", "se", "lrt", "lrt_mc_se", "p"):
            values = np.full(len(frame), np.nan)
            values[self.which] = getattr(self, name)
            out[f"refit_{name}"] = values
        return out


def with_component(covariance: Covariance, sets: GenotypeCovariance, a: int) -> Covariance:
    """The covariance with the scan's component a, in the same products where it is of the same genotypes."""
    base = getattr(covariance, "base", covariance) if covariance.products is sets.products else covariance
    if isinstance(base, GenotypeCovariance):
        weights = sparse.csr_array(sparse.hstack([base.weights, sets.weights[:, [a]]]))
        counts = (*base.num_variants, sets.num_variants[a])
        return GenotypeCovariance(base.products, weights, (*base.names, sets.names[a]), counts)
    return MixedCovariance([covariance, sets.only(a)])


def refit(
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    sets: GenotypeCovariance,
    which: Sequence[int],
    settings: FitSettings | None = None,
    *,
    fit: Callable[..., list[FitResult]] = fit_traits,
) -> Refits:
    """REML fits of the covariance with each of the components ``which`` of ``sets``, and its likelihood ratio.

    fit: :func:`~gpu_reml.reml.fit.fit_traits`, which takes the default probes, or
    :func:`~gpu_reml.reml.engines.exact.exact_fits`.  Cost: that of a fit, and of one without, for each.
    Raises ValueError for a covariance with residuals of its own.
    """
    covariance, settings = as_covariance(covariance, len(y)), settings or FitSettings()
    if covariance.layout is not None:
        raise ValueError("covariance: a component cannot be added to one that has residuals; give one without")
    rows = [row_of(y, X, with_component(covariance, sets, a), settings, fit) for a in which]
    return Refits(np.asarray(which, int), *np.array(rows, np.float64).reshape(-1, 5).T)


def row_of(y, X, covariance: Covariance, settings: FitSettings, fit: Callable) -> tuple[float, ...]:
    """(variance, se, lrt, mc_se, p) of the last component."""
    name, unknown = covariance.names[-1], (np.nan,) * 5
    settings = replace(settings, lrt=((name,),), profile=False)
    try:
        (found,) = fit(y[:, None], X, covariance, settings=settings, strict=False)
    except SingularModelError:
        return unknown
    if not found.converged:
        return unknown
    g = layout_of(covariance).num_genetic - 1
    (test,) = found.ratio_tests
    return found.variances.estimate[g], found.variances.se[g], test.statistic, test.mc_se, test.p
