"""What a sparse REML gives: the chosen variants and their effects, the fit with them, and the rounds that led there."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from ..inference import delta_method
from ..result import FitResult
from .certified import Certificate
from .debias import Inference
from .lasso import LassoPath


class SparseStatus(Enum):
    """What became of a run; the value is the message, with the remedy."""

    CONVERGED = "the last LASSO gave back the variants that its variances were estimated with"
    MAX_ROUNDS = "the limit of rounds was reached before variants and variances settled; raise SparseSettings.rounds"
    CYCLE = (
        "the rounds repeat themselves: variances with one set of variants choose another, and the other way round; the "
        "variants that differ are at the margin (history); change PathSettings.gamma a little"
    )
    NOT_CERTIFIED = (
        "the last LASSO is not optimal over all variants to the tolerance; raise KktSettings.max_rounds, "
        "LassoSettings.candidates or DescentSettings.max_sweeps, or use products in float64"
    )
    CANDIDATE_LIMIT = (
        "variants that violate the LASSO's conditions were left out by KktSettings.max_candidates; raise it"
    )
    ACTIVE_LIMIT = (
        "a model of more than PathSettings.max_active variants had the lower EBIC; raise it, or PathSettings.gamma"
    )
    DESCENT_STALLED = "coordinate descent did not converge at the chosen lambda; raise DescentSettings.max_sweeps"
    SOLVER_STALLED = (
        "a linear solve missed its tolerance; raise LassoSettings.max_pcg, or give a sketch of more columns"
    )
    FIT_NOT_CONVERGED = "the last REML fit did not converge; raise FitSettings.max_iterations"
    FIT_FAILED = "REML with the last variants failed; results are those of the round before"


class RoundRecord(NamedTuple):
    """One LASSO and the REML fit after it.  ``theta``: the variances at which the LASSO ran.  ``change``: the largest
    change of a variance in the fit, as a share of the phenotypic variance, NaN where no fit was needed.  ``support``:
    the chosen variants, counted from 0."""

    round: int
    theta: tuple[float, ...]
    lam: float
    support: tuple[int, ...]
    num_candidates: int
    ebic: float
    kkt_violation: float
    kkt_solve_error: float
    kkt_rounds: int
    change: float
    fit_status: str
    loglik: float
    column_passes: float


class Explained(NamedTuple):
    """Variance of y that chosen variants explain, phenotype units squared: |g|^2 / n + 2 g'e / n with g = Z_A b and
    e = y - X a(b) - g.  ``se`` to first order, the support taken as given.

    Source: Cai & Guo 2020, J. R. Stat. Soc. B 82:391 (CHIVE), with generalised least squares for X.
    """

    variance: float
    se: float


class Share(NamedTuple):
    """A heritability with its standard error by the delta method."""

    estimate: float
    se: float


@dataclass(frozen=True)
class SparseResult:
    """Chosen variants, in ascending order, and the REML fit with them as fixed effects (X first).

    ``support`` (a,) rows of Z.  ``beta_lasso``, ``gls``, ``debiased``: effects of one standard deviation, phenotype
    units; NaN in ``gls`` where a variant is a combination of the others (``dependent``).  ``gls`` takes the choice as
    given, ``debiased`` is of the joint model of the candidates: see :mod:`.debias` for what that covers.
    Of variants in perfect LD one is chosen and stands for all.
    ``path``: of the last LASSO, lambda in 1 / phenotype units, coefficients of ``candidates`` (k,) in phenotype units.
    ``explained``: with the LASSO's and with the least-squares effects.  ``limits``: what kept the run from converging.
    """

    limits: tuple[SparseStatus, ...]
    support: np.ndarray
    beta_lasso: np.ndarray
    gls: Inference
    debiased: Inference
    dependent: np.ndarray
    fit: FitResult
    num_fixed: int
    candidates: np.ndarray
    path: LassoPath
    certificate: Certificate | None
    explained: dict[str, Explained]
    history: tuple[RoundRecord, ...]
    column_passes: float

    @property
    def converged(self) -> bool:
        return not self.limits

    @property
    def statuses(self) -> tuple[SparseStatus, ...]:
        return self.limits or (SparseStatus.CONVERGED,)

    @property
    def h2_reml(self) -> Share:
        """Heritability of what is left to the random effects, of the variance left by the chosen variants."""
        h2 = self.fit.h2
        return Share(float(h2.estimate[-1]), float(h2.se[-1]))

    def h2_sparse(self, which: str = "gls") -> Share:
        """Share of the chosen variants: Q / (Q + V_G + theta_e)."""
        return self._share(which, np.append(1.0, np.zeros(len(self.fit.theta))))

    def h2_total(self, which: str = "gls") -> Share:
        """(Q + V_G) / (Q + V_G + theta_e): chosen variants and random effects."""
        return self._share(which, np.concatenate([[1.0], self.fit.mean_traces, [0.0]]))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON; the variants by their rows of Z."""
        return {
            "converged": self.converged,
            "status": [status.name.lower() for status in self.statuses],
            "message": [status.value for status in self.statuses],
            "h2": self.h2_total("gls").estimate,
            "h2_se": self.h2_total("gls").se,
            "h2_reml": self.h2_reml.estimate,
            "h2_chive": self.h2_total("lasso").estimate,
            "h2_chive_reml": self.h2_total("gls").estimate,
            "explained": {which: self._explained(which) for which in self.explained},
            "support_size": len(self.support),
            "support": self.support.tolist(),
            "lambda": float(self.path.lambdas[self.path.best]),
            "ebic": float(self.path.ebic[self.path.best]),
            "num_candidates": len(self.candidates),
            "kkt": None if self.certificate is None else self.certificate.to_dict(),
            "fit": self.fit.to_dict(),
            "history": [record._asdict() for record in self.history],
            "column_passes": self.column_passes,
        }

    def _explained(self, which: str) -> dict[str, Any]:
        """What the chosen variants explain with one set of effects."""
        shares = {"h2_sparse": self.h2_sparse(which)._asdict(), "h2_total": self.h2_total(which)._asdict()}
        return {**self.explained[which]._asdict(), **shares}

    def _share(self, which: str, counted: np.ndarray) -> Share:
        """counted'v / all'v for v = (Q, theta), whose errors are independent to first order."""
        explained, theta = self.explained[which], self.fit.theta
        values = np.append(explained.variance, theta)
        all_ = np.concatenate([[1.0], self.fit.mean_traces, [1.0]])
        total = all_ @ values
        share = counted @ values / total
        slope = (counted - share * all_) / total
        of_theta = delta_method(share, slope[None, 1:], self.fit.covariance, self.fit.mc_covariance)
        return Share(float(share), float(np.hypot(slope[0] * explained.se, of_theta.se[0])))
