"""Models of the covariance side by side: the same samples, phenotype, fixed effects and probes.

The likelihoods of all models are taken with the same probes, at each model's estimate, so that most of their errors
leaves the difference, whose error is that of the mean of the probes' own differences.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

from ..covariance import as_covariance
from ..fit import fit
from ..inference import boundary_weights
from ..likelihood import Solver, loglik
from ..monte_carlo import error_of_mean
from ..probes import NUM_PROBES, Probes, checked_probes, probes_are_exact
from ..result import FitResult
from ..settings import FitSettings
from .cross_validation import cross_validate, draw_folds

if TYPE_CHECKING:
    import pandas as pd


class Nested(NamedTuple):
    """Likelihood ratio of a ``smaller`` model in a ``larger`` one, with its Monte-Carlo error; ``df`` components more.

    ``p``: where the larger has the smaller's components and further ones, of the mixture of chi-squares that bounded
    variances have; else of chi-square, as where the smaller one shares a variance among parts.
    """

    smaller: str
    larger: str
    statistic: float
    mc_se: float
    df: int
    p: float


@dataclass(frozen=True, repr=False)
class ModelComparison:
    """K models, in the order given.

    ``loglik`` (K,) by common probes, and ``difference`` (K,) from the first model's with ``difference_mc_se``; ``aic``
    (K,) -2 loglik + 2 (variances); ``r2`` (K,) of held-out samples, what genetic values add to the fixed effects, NaN
    without folds; ``seconds`` (K,) of the fits; ``nested``: likelihood ratios.
    """

    names: tuple[str, ...]
    fits: tuple[FitResult, ...]
    loglik: np.ndarray
    loglik_mc_se: np.ndarray
    difference: np.ndarray
    difference_mc_se: np.ndarray
    aic: np.ndarray
    r2: np.ndarray
    seconds: np.ndarray
    nested: tuple[Nested, ...] = ()

    def to_frame(self) -> "pd.DataFrame":
        """A row for every model."""
        import pandas as pd

        h2 = [each.h2 for each in self.fits]
        return pd.DataFrame(
            {
                "model": self.names,
                "variances": [len(each.theta) for each in self.fits],
                "loglik": self.loglik,
                "loglik_mc_se": self.loglik_mc_se,
                "difference": self.difference,
                "difference_mc_se": self.difference_mc_se,
                "aic": self.aic,
                "h2": [each.estimate[-1] for each in h2],
                "h2_se": [each.se[-1] for each in h2],
                "h2_mc_se": [each.mc_se[-1] for each in h2],
                "r2_cv": self.r2,
                "passes": [each.column_passes for each in self.fits],
                "seconds": self.seconds,
            }
        )

    def summary(self) -> str:
        """The table as text, with the likelihood ratios."""
        lines = self.to_frame().to_string(index=False, float_format=lambda value: f"{value:.5g}").splitlines()
        lines += [
            f"{each.smaller} in {each.larger}: LRT {each.statistic:.3f} (Monte-Carlo error {each.mc_se:.2g}) on "
            f"{each.df} df, p = {each.p:.3g}"
            for each in self.nested
        ]
        lines.append("the model of least AIC: " + self.names[int(np.argmin(self.aic))])
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def compare(
    models: Mapping[str, Any] | Sequence[Any],
    y: np.ndarray,
    X: np.ndarray,
    probes: Probes | np.ndarray | int = NUM_PROBES,
    settings: FitSettings | None = None,
    *,
    nested: Sequence[tuple[str, str]] = (),
    num_folds: int = 0,
) -> ModelComparison:
    """Fit every model to y (n,) on X (n, c), and compare.

    models: covariances by name, or a list of them, which are called model_1 and so on; each as
    :func:`~gpu_reml.reml.fit.fit` takes it.  nested: (smaller, larger) by name, of which likelihood ratios are taken.
    num_folds: of cross-validation, 0 for none.  probes: the same for all, also for the likelihoods.
    Cost: the fits; for each, a likelihood (the Lanczos steps' passes of s columns), and the folds.
    Raises ValueError for wrong arguments, ConvergenceError where a fit does not converge.

    >>> import numpy as np
    >>> from gpu_reml.reml import compare
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> A, B = Z[:, :200] @ Z[:, :200].T / 200, Z[:, 200:] @ Z[:, 200:].T / 200
    >>> y = Z[:, :200] @ rng.standard_normal(200) / 14 + rng.standard_normal(200)
    >>> found = compare({"A": [A], "A and B": [A, B]}, y, np.ones((200, 1)), nested=[("A", "A and B")])
    >>> found.nested[0].df, bool(found.nested[0].p > 0.01)
    (1, True)
    """
    named = dict(models) if isinstance(models, Mapping) else {f"model_{k + 1}": m for k, m in enumerate(models)}
    if len(named) < 2:
        raise ValueError(f"models: expected 2 or more, found {len(named)}")
    unknown = [name for pair in nested for name in pair if name not in named]
    if unknown:
        raise ValueError(f"nested: no model {unknown[0]!r}; there are {', '.join(named)}")
    y, X = np.asarray(y, np.float64), np.asarray(X, np.float64)
    covariances = {name: as_covariance(model, len(y)) for name, model in named.items()}
    probes = checked_probes(probes, len(y))
    fits, seconds, logdets, values = [], [], [], []
    for covariance in covariances.values():
        start = time.perf_counter()
        fits.append(fit(y, X, covariance, probes, settings))
        seconds.append(time.perf_counter() - start)
        found = loglik(fits[-1].theta, y, X, covariance, probes=probes, solver=Solver(max_iterations=2000))
        values.append(found.value)
        logdets.append(found.per_probe)
    exact = probes_are_exact(probes.trace)
    differences = [0.5 * (logdets[0] - each) for each in logdets]
    value = np.array(values)
    compared = ModelComparison(
        names=tuple(named),
        fits=tuple(fits),
        loglik=value,
        loglik_mc_se=np.array([0.0 if exact else 0.5 * error_of_mean(each, 1) for each in logdets]),
        difference=value - value[0],
        difference_mc_se=np.array([0.0 if exact else error_of_mean(each, 1) for each in differences]),
        aic=-2 * value + 2 * np.array([len(each.theta) for each in fits]),
        r2=np.array(
            [held_out_r2(f.theta, y, X, c, num_folds) for f, c in zip(fits, covariances.values(), strict=True)]
        ),
        seconds=np.array(seconds),
    )
    per_probe, places = dict(zip(named, logdets, strict=True)), {name: k for k, name in enumerate(named)}
    tests = []
    for small, large in nested:
        mc_se = 0.0 if exact else float(error_of_mean(per_probe[small] - per_probe[large], 1))
        extra = further_components(covariances[small], covariances[large])
        tests.append(ratio(compared, (places[small], places[large]), extra, mc_se))
    return ModelComparison(**{**vars(compared), "nested": tuple(tests)})


def further_components(smaller: Any, larger: Any) -> list[int] | None:
    """Components of the larger model that the smaller has not; None where the smaller has others than the larger's.

    Equal ones are told by their products with the same random vectors.  Cost: a pass of two columns of each model.
    """
    starts = np.random.default_rng(0).standard_normal((smaller.num_samples, 2))
    own, others = (each_product(model, starts) for model in (smaller, larger))
    found = [next((g for g, B in enumerate(others) if np.allclose(A, B, rtol=1e-4, atol=1e-5)), None) for A in own]
    if None in found:
        return None
    return [g for g in range(len(others)) if g not in found]


def each_product(covariance: Any, starts: np.ndarray) -> list[np.ndarray]:
    """K_g B of every component, over the length of its first column."""
    products = covariance.apply_each(covariance.features(covariance.block(starts)))
    arrays = [np.asarray(each, np.float64) for each in products]
    return [each / np.linalg.norm(each[:, 0]) for each in arrays]


def ratio(compared: ModelComparison, pair: tuple[int, int], extra: list[int] | None, mc_se: float) -> Nested:
    """The likelihood ratio of two of the models; ``extra``: as :func:`further_components` has it."""
    (small, large), names = pair, [compared.names[k] for k in pair]
    fit_of_large = compared.fits[large]
    df = len(fit_of_large.theta) - len(compared.fits[small].theta)
    if df < 1:
        raise ValueError(f"nested: {names[1]} has no more variances than {names[0]}")
    statistic = max(0.0, 2 * float(compared.loglik[large] - compared.loglik[small]))
    if extra is None:
        return Nested(names[0], names[1], statistic, mc_se, df, float(special.chdtrc(df, statistic)))
    rest = [g for g in range(len(fit_of_large.theta)) if g not in extra]
    order = np.array([*extra, *rest])
    weights = boundary_weights(fit_of_large.information[np.ix_(order, order)], num_residuals=len(rest))
    tail = [float(statistic <= 0), *(special.chdtrc(k, statistic) for k in range(1, len(weights)))]
    return Nested(names[0], names[1], statistic, mc_se, df, float(weights @ tail))


def held_out_r2(theta: np.ndarray, y: np.ndarray, X: np.ndarray, covariance: Any, num_folds: int) -> float:
    """Share of the variance of held-out phenotypes, less their fixed effects, that genetic values predict."""
    if not num_folds:
        return float("nan")
    held = cross_validate(theta, y, X, covariance, draw_folds(len(y), num_folds))
    left = y - held.fixed
    return float(1 - np.sum((left - held.random) ** 2) / np.sum(left**2))
