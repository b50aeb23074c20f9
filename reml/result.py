"""What a fit returns: one frozen result, its status, and its views (frame, dict, text)."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from .formulas import LOG_2PI, profiled_loglik
from .inference import Lrt, likelihood_ratio_test, sampling_covariance
from .least_squares import FixedEffects
from .likelihood_ratio import RatioTest, ratio_lines
from .linalg import logdet_gram
from .profile import Curve, Profile, curve_lines
from .residuals import Layout, layout_of
from .tables import Components, Sum, component_lines, component_records, shown


class Status(Enum):
    """How a fit ended; the value is the message, with the remedy."""

    CONVERGED = "converged"
    MAX_ITERATIONS = (
        "the iteration limit was reached before the step fell under the tolerance; raise FitSettings.max_iterations, "
        "or look for components that can hardly be told apart"
    )
    SOLVER_STALLED = (
        "solutions did not reach their tolerance as far as the precision of the products, or the limit of steps, lets "
        "them; use products in float64"
    )


class Record(NamedTuple):
    """One iteration, scalars only.  ``theta`` in y's units squared, residual last; ``decrement``: the squared step in
    standard errors; ``basis``: vectors of the reduced model, 0 in other engines, as it has no ``pcg_iterations``."""

    iteration: int
    theta: tuple[float, ...]
    decrement: float
    score_norm: float
    pcg_iterations: int
    num_probes: int
    column_passes: float
    basis: int = 0


@dataclass(frozen=True, repr=False)
class FitResult(Components):
    """A REML fit.  Variances are in the phenotype's units squared; ``theta`` (G + J,) has the residuals last.

    ``score``: gradient of the log-likelihood where it was last evaluated.
    ``information``: average information about theta.  ``covariance``: sampling covariance of theta, its inverse; NaN
    for the residual at its lower bound (all of them, if there are several), where the likelihood still rises and no
    such error holds, nor one of h2: the components' errors are then those with it held.  ``at_bound`` (G + J,).
    ``mc_covariance``: Monte-Carlo covariance from the probes, a separate error that more probes reduce (zero on
    components held at their bound); widened by Student's law, NaN for fewer than 16 probes.
    ``loglik``: log-likelihood of the error contrasts, with -(n-c)/2 log 2 pi; ``loglik_gcta``: the convention of GCTA,
    -1/2 (log|V| + log|X'V^-1X| + y'Py), which depends on how X is coded.
    ``ratio_tests``: likelihood ratios against the model without some components, where ``FitSettings.lrt`` asks.
    ``constrained``: whether components were kept from being negative.
    ``profiles``: of every component's variance and of h2, where ``FitSettings.profile`` asks.
    ``method``: krylov, reduced or exact.  ``profile``: profile likelihood of h2, where it cost no pass.
    """

    status: Status
    names: tuple[str, ...]
    theta: np.ndarray
    score: np.ndarray
    information: np.ndarray
    covariance: np.ndarray
    mc_covariance: np.ndarray
    mean_traces: np.ndarray
    at_bound: np.ndarray
    num_samples: int
    num_fixed: int
    loglik: float
    loglik_gcta: float
    loglik_null: float
    loglik_mc_se: float
    lrt: Lrt
    fixed_effects: FixedEffects
    num_probes: int
    mc_ratio: float
    mc_target: float
    rank: int
    column_passes: float
    history: tuple[Record, ...]
    method: str = "reduced"
    profile: Profile | None = None
    residual_names: tuple[str, ...] = ("residual",)
    residual_traces: np.ndarray = field(default_factory=lambda: np.ones(1))
    sums: tuple[Sum, ...] = ()
    ratio_tests: tuple[RatioTest, ...] = ()
    constrained: bool = True
    profiles: tuple[Curve, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """(G + J,) which variances are at their lower bound."""
        return ["at bound" if bound else "" for bound in self.at_bound]

    @property
    def residuals_at_bound(self) -> tuple[str, ...]:
        """All residuals, where all are at their lower bound: they and h2 have no standard error; else none."""
        G = len(self.names)
        return tuple(name for name, se in zip(self.residual_names, self.se[G:], strict=True) if np.isnan(se))

    @property
    def converged(self) -> bool:
        return self.status is Status.CONVERGED

    @property
    def mc_target_met(self) -> bool:
        return bool(self.mc_ratio <= self.mc_target)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON; the keys of OUT.json that belong to the fit."""
        table = component_records(self)
        for row, at_bound in zip([*table["components"], *table["residuals"]], self.at_bound, strict=True):
            row["at_bound"] = bool(at_bound)
        return {
            "method": self.method,
            "status": self.status.name.lower(),
            "message": self.status.value,
            "converged": self.converged,
            "n": self.num_samples,
            "loglik": self.loglik,
            "loglik_convention": "error contrasts, including -(n-c)/2 log(2 pi)",
            "loglik_gcta": self.loglik_gcta,
            "loglik_null": self.loglik_null,
            "loglik_mc_se": self.loglik_mc_se,
            "lrt": self.lrt.statistic,
            "lrt_mc_se": self.lrt.mc_se,
            "lrt_df": self.lrt.df,
            "lrt_p": self.lrt.p,
            "lrt_weights": self.lrt.weights,
            "constrained": self.constrained,
            "lrt_without": [test._asdict() for test in self.ratio_tests],
            **table,
            "profiles": [curve._asdict() for curve in self.profiles],
            "h2_profile": None if self.profile is None else self.profile._asdict(),
            "theta_covariance": self.covariance,
            "theta_mc_covariance": self.mc_covariance,
            "num_probes": self.num_probes,
            "mc_se_over_se": self.mc_ratio,
            "mc_target": self.mc_target,
            "mc_target_met": self.mc_target_met,
            "precond_rank": self.rank,
            "passes": self.column_passes,
            "iterations": len(self.history),
        }

    @property
    def kind(self) -> str:
        """The engine, and how it ended."""
        return f"REML ({self.method}), {self.status.value}"

    def summary(self) -> str:
        """The result as text: a table, and what is known of the whole."""
        lines = component_lines(self)
        if self.profile is not None:
            lower, upper, level = self.profile.lower, self.profile.upper, self.profile.level
            interval = f"from {lower:.6g} up" if self.residuals_at_bound else f"{lower:.4f} to {upper:.4f}"
            lines[-1] += f"  profile-likelihood {level:.0%} interval {interval}"
        p = f"p = {self.lrt.p:.3g}" if self.lrt.p else "p < 1e-300"
        law = "a mixture of chi-squares, since variances are not negative" if self.constrained else "chi-square"
        errors = (f"(Monte-Carlo error {shown(value, '.2g')})" for value in (self.loglik_mc_se, self.lrt.mc_se))
        lines.append(
            f"log-likelihood {self.loglik:.4f} {next(errors)}, null {self.loglik_null:.4f}; "
            f"LRT {self.lrt.statistic:.3f} {next(errors)} on {self.lrt.df} df, {p} (of all components; {law})"
        )
        if self.ratio_tests:
            lines += ["", *ratio_lines(self.ratio_tests)]
        if self.profiles:
            lines += ["", *curve_lines(self.profiles)]
        return "\n".join(lines)


class ConvergenceError(ArithmeticError):
    """A fit that did not converge; ``result`` holds where it stood (None when not even a first step was possible)."""

    def __init__(self, message: str, result: FitResult | None = None):
        super().__init__(message)
        self.result = result


class SingularModelError(ConvergenceError, ValueError):
    """Components that cannot be told apart, whatever the estimator: no result, and an argument to change."""


def not_told_apart(name: str, found: str, remedy: str = "") -> SingularModelError:
    """The error of a component that is a combination of others: ``found`` says by what, ``remedy`` what else helps."""
    return SingularModelError(
        f"component {name} cannot be told apart from the others{found}; remove or merge it{remedy}"
    )


def singular_information(layout: Layout, index: int, *, constrained: bool) -> SingularModelError:
    """The error of the reported parameter ``index``, about which the information is singular."""
    names = [*layout.names, *layout.residual_names]
    name = names[index]
    if constrained and len(names) == 2:  # nothing can be merged
        return SingularModelError(
            f"component {names[0]} cannot be told apart from {names[1]}: on what the fixed effects leave, one is "
            "nearly a multiple of the other; give samples that are related in different degrees, or fewer covariates"
        )
    if constrained:
        return not_told_apart(name, " (singular information)")
    return not_told_apart(
        name,
        " (singular information), or the likelihood rises to where the covariance is no longer positive definite, as "
        "it may without bounds",
        ", or fit with the bounds (FitSettings.constrain)",
    )


def singular_moments(name: str, num_probes: int) -> SingularModelError:
    """The error of a component whose moments by so many probes are a combination of others'."""
    return not_told_apart(name, f" with {num_probes} probes", ", or use more")


class Estimate(NamedTuple):
    """Where an engine ended, for a phenotype scaled to unit variance; all p parameters of the fit's layout.

    ``mc``: Monte-Carlo covariance of theta.  ``free``: parameters off their bound.  ``weights``: those of the
    likelihood-ratio test's law.  ``ratio``: largest mc_se / se.  Fixed effects are in the phenotype's units already.
    ``loglik_null``: without genetic components, None where one identity residual is all there is then.
    """

    theta: np.ndarray
    score: np.ndarray
    ai: np.ndarray
    mc: np.ndarray
    free: np.ndarray
    loglik: float
    loglik_mc_se: float
    weights: np.ndarray
    ratio: float
    fixed_effects: FixedEffects
    loglik_null: float | None = None


def make_result(covariance, X: np.ndarray, scale: float, estimate: Estimate, **details) -> FitResult:
    """An estimate in the phenotype's units, with everything that follows from it.

    X (n, c), whitened as y was; scale: the standard deviation that y was divided by; details: the remaining fields of
    FitResult.
    """
    n, c = X.shape
    layout = layout_of(covariance)
    information = layout.reduced(estimate.ai) / scale**4
    null = estimate.loglik_null
    if null is None:
        null = profiled_loglik(0.0, 1.0, n - c)  # V = I, since the scaled y has unit variance
    against = (estimate.loglik, estimate.loglik_mc_se)
    if not estimate.theta[: layout.num_genetic].any():
        against = (null, 0.0)  # the fit is the null model: their difference would be rounding
    shift = layout.loglik_shift(X) - (n - c) * np.log(scale)
    value = estimate.loglik + shift
    original = X if layout.root is None else X * layout.root[:, None]
    logdet_x = logdet_gram(original)
    return FitResult(
        names=layout.names,
        theta=layout.reported(estimate.theta) * scale**2,
        score=estimate.score[layout.estimated] / scale**2,
        information=information,
        covariance=sampling_covariance(information, layout.without_error(estimate.free)),
        mc_covariance=layout.reduced(estimate.mc) * scale**4,
        mean_traces=layout.mean_traces,
        at_bound=~estimate.free[layout.estimated],
        num_samples=n,
        num_fixed=c,
        loglik=value,
        loglik_gcta=value + 0.5 * (n - c) * LOG_2PI - 0.5 * logdet_x,
        loglik_null=null + shift,
        loglik_mc_se=estimate.loglik_mc_se,
        lrt=likelihood_ratio_test(against[0], null, against[1], estimate.weights),
        fixed_effects=estimate.fixed_effects,
        mc_ratio=estimate.ratio,
        residual_names=layout.residual_names,
        residual_traces=layout.residual_traces,
        **details,
    )
