"""What a scan says of every component, as arrays and as a table."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..inference import Derived

if TYPE_CHECKING:  # loaded only where a frame is asked for
    import pandas as pd

# One direction that holds this share of a statistic's variance is named.
DOMINANT = 0.8
# From this saturation on the variance of one step is about twice that of a full fit (validation/scan_study.py).
SATURATED = 3.0


@dataclass(frozen=True)
class ScanResult:
    """What a scan says of A components; every array is (A,), NaN for one that is not told from the fitted ones.

    ``variance``: theta_a tr(K_a) / n by one step, with sampling and Monte-Carlo error, beside the fitted components,
    which keep the rest: negative where the set has less than they say.  ``enrichment``: of heritability over variants,
    after that step, as :func:`~gpu_reml.reml.studies.enrichment.enrichment` has it; NaN where the baseline is not made
    of the same genotypes alone.  ``z`` has unit variance but is skew; ``log10p``: -log10 of P(z or more), one-sided,
    by its own law.  ``own``: share of the component's information that the fitted ones leave.  ``dominance``: share of
    the statistic's variance in its leading direction.  ``replicates``: of which pairs were taken; ``exact``: whether
    the law is without their error (:mod:`.scan_exact`).
    ``reml_variance``: where the likelihood is highest on the way of that step, and ``reml_lrt``, by how much, twice, it
    is above that of the fit: nearly those of a full fit (:mod:`.scan_along`); NaN for z below 1.
    """

    names: tuple[str, ...]
    num_variants: np.ndarray
    variance: Derived
    enrichment: Derived
    theta: np.ndarray
    z: np.ndarray
    z_mc_se: np.ndarray
    log10p: np.ndarray
    log10p_mc_se: np.ndarray
    skewness: np.ndarray
    own: np.ndarray
    dominance: np.ndarray
    replicates: np.ndarray
    num_replicates: int
    steps: int
    exact: np.ndarray
    reml_variance: Derived
    reml_lrt: np.ndarray
    reml_lrt_mc_se: np.ndarray

    @property
    def p(self) -> np.ndarray:
        return 10.0**-self.log10p

    @property
    def saturation(self) -> np.ndarray:
        """By how much one step multiplies the variance of y in the component's directions, weighted by their
        information: theta_a sum l^3 / sum l^2 for eigenvalues l of the component in the metric of P; 0 for a step down.

        One step takes the information of the fitted model, which is right where this is small; where it is not, a
        full fit gives directions that have more than others less weight, as ``reml_variance`` does.
        """
        return np.maximum(self.z, 0) * np.maximum(self.skewness, 0) / 2  # the same by the moments of the form

    @property
    def remarks(self) -> list[str]:
        """Which components are not told from the fitted ones, which statistics are of one direction, and which steps
        are too long for the variance that they give."""
        conditions = [np.isnan(self.z), self.dominance >= DOMINANT, self.saturation >= SATURATED]
        return np.select(conditions, ["not told from the baseline", "one direction", "saturated"], "").tolist()

    def to_frame(self) -> "pd.DataFrame":
        """One row for each component, with Bonferroni's and Benjamini and Hochberg's p."""
        import pandas as pd

        columns: dict[str, Any] = {"set": self.names, "variants": self.num_variants}
        for name in ("variance", "reml_variance", "enrichment"):
            for kind, values in getattr(self, name)._asdict().items():
                columns[name if kind == "estimate" else f"{name}_{kind}"] = values
        p = self.p
        columns |= {"z": self.z, "z_mc_se": self.z_mc_se, "p": p, "log10p": self.log10p}
        columns |= {"log10p_mc_se": self.log10p_mc_se, "p_bonferroni": bonferroni(p), "p_fdr": false_discovery(p)}
        columns |= {"own": self.own, "dominance": self.dominance, "saturation": self.saturation}
        columns |= {"reml_lrt": self.reml_lrt, "reml_lrt_mc_se": self.reml_lrt_mc_se}
        columns |= {"exact": self.exact, "remark": self.remarks}
        return pd.DataFrame(columns)


def bonferroni(p: np.ndarray) -> np.ndarray:
    """(A,) p times the number of tests, at most 1; NaN are no tests."""
    return np.minimum(p * np.count_nonzero(~np.isnan(p)), 1.0)


def false_discovery(p: np.ndarray) -> np.ndarray:
    """(A,) adjusted p of Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289; NaN are no tests."""
    out = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(-p[tested], kind="stable")]
    ranks = np.arange(len(order), 0, -1)
    out[order] = np.minimum.accumulate(np.minimum(p[order] * len(order) / np.maximum(ranks, 1), 1.0))
    return out
