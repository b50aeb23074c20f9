"""Why is my h2 odd?  What is known of a run, and what in it makes an estimate of heritability mislead.

:func:`diagnose` is a pure function of :class:`Facts`; :func:`facts_of` gathers them from a fit and its cohort.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu_reml.ops import GenotypeCovariance, PackedGenotypes

from ..covariance import as_covariance
from ..least_squares import FixedEffects
from .cohort_sample import CohortSample, sample_cohort
from .scan import scan

# What is out of the ordinary: people with a copy or a near relative; calls missing; a share of cases over the
# prevalence; p of sets of variants, over the number of sets; a standard error of h2.
COPIES, RELATIVES, MISSING, OVERSAMPLED, STRUCTURED, HIDDEN, WIDE = 0.002, 0.05, 0.02, 1.5, 1e-3, 1e-4, 0.15
REPLICATES = 64  # of the test of sets
LARGEST_H2 = 0.95  # for which a standard error is foreseen: at 1 two copies of a person would tell all
GOOD_SE = 0.05  # a standard error of h2 that most questions need


class Diagnosis(NamedTuple):
    """``kind``: one word; ``problem``: what is odd; ``evidence``: what of this run shows it, with its number;
    ``remedy``: what to do."""

    kind: str
    problem: str
    evidence: str
    remedy: str


class Facts(NamedTuple):
    """What is known of a run; None where something is not.

    ``h2``, ``se``: of all components together; ``component_se``: standard error of every component's share, by name.
    ``at_bound``: names of what is at a bound; ``residual_at_bound``.  ``missing``: share of the calls.  ``cases``:
    share of the larger of two values, where the phenotype has two; ``prevalence``.  ``cohort``: a sample of the people;
    ``by_populations``: R2 and p of the phenotype on their axes.  ``bins``: p of each set of variants that has more
    variance than the model gives it, by name.
    """

    num_samples: int
    h2: float
    se: float
    component_se: dict[str, float]
    at_bound: tuple[str, ...] = ()
    residual_at_bound: bool = False
    missing: float | None = None
    cases: float | None = None
    prevalence: float | None = None
    on_liability: bool = False
    cohort: CohortSample | None = None
    by_populations: tuple[float, float] | None = None
    bins: dict[str, float] | None = None


def diagnose(facts: Facts) -> list[Diagnosis]:
    """What is odd about a fit of n samples and G components, what explains most first; empty where nothing is.

    Takes facts as :func:`facts_of` gathers them; what is None there is not looked at, so that nothing is raised.

    >>> from gpu_reml.reml import Facts, diagnose
    >>> facts = Facts(num_samples=100, h2=0.4, se=0.3, component_se={"all": 0.3}, missing=0.1)
    >>> [each.kind for each in diagnose(facts)]
    ['missing', 'samples']
    """
    found = [
        copies(facts), populations(facts), relatives(facts), missing_calls(facts), ascertained(facts),
        hidden_bins(facts), few_samples(facts), at_bound(facts),
    ]  # fmt: skip
    return [each for each in found if each is not None]


def copies(facts: Facts) -> Diagnosis | None:
    """People who are in the data twice."""
    cohort = facts.cohort
    if cohort is None or cohort.with_copy <= COPIES:
        return None
    return Diagnosis(
        "duplicates",
        "people are in the data twice, or are twins",
        f"{cohort.same} pair(s) among {cohort.num_sampled:,} people looked at have a relationship over 0.8; in all "
        f"people about {cohort.with_copy:.1%} have a copy",
        "keep one of each pair of copies; those of one record share their residual too, which counts as heritability",
    )


def relatives(facts: Facts) -> Diagnosis | None:
    """Near relatives."""
    cohort = facts.cohort
    if cohort is None or not cohort.told or cohort.with_relative <= RELATIVES:
        return None
    return Diagnosis(
        "relatives",
        "there are near relatives among the people",
        f"{cohort.near} pair(s) among {cohort.num_sampled:,} people looked at are like parents, children or siblings; "
        f"on average each person has {cohort.with_relative:.2g} such relatives",
        "leave one of each pair of relatives out, or fit a component of households beside, since what families share "
        "beside genes counts as heritability",
    )


def populations(facts: Facts) -> Diagnosis | None:
    """Populations that differ in the phenotype."""
    if facts.cohort is None or facts.by_populations is None:
        return None
    r2, p = facts.by_populations
    if not len(facts.cohort.held) or p > STRUCTURED:
        return None
    return Diagnosis(
        "structure",
        "the people are of several populations, which differ in the phenotype",
        f"{len(facts.cohort.held)} principal component(s) hold {facts.cohort.held.sum():.1%} of the relationships, and "
        f"explain {r2:.1%} of the phenotype (p = {p:.2g})",
        "give principal components as covariates, or analyse the populations apart",
    )


def missing_calls(facts: Facts) -> Diagnosis | None:
    """Calls that are missing, and count as the mean."""
    if facts.missing is None or facts.missing <= MISSING:
        return None
    return Diagnosis(
        "missing",
        "many calls are missing",
        f"{facts.missing:.1%} of the genotypes are missing and count as their variant's mean",
        "impute them, or leave out variants and people that lack many",
    )


def ascertained(facts: Facts) -> Diagnosis | None:
    """A disease, whose cases were oversampled or whose prevalence is not known."""
    if facts.cases is None or facts.on_liability:
        return None
    if facts.prevalence is None:
        seen = f"{facts.cases:.1%} of the people are cases; h2 is of the observed 0-1 scale"
        remedy = "give the prevalence; where cases were oversampled use PCGC, since REML is too low then"
    elif facts.cases > OVERSAMPLED * facts.prevalence:
        seen = f"{facts.cases:.1%} of the people are cases, of the population {facts.prevalence:.2%}"
        remedy = "use PCGC: REML's h2 of liability is too low where cases were oversampled"
    else:
        return None
    return Diagnosis("ascertained", "the phenotype is a disease, and cases were chosen", seen, remedy)


def hidden_bins(facts: Facts) -> Diagnosis | None:
    """Variants of some frequency or LD that hold more than their share."""
    if not facts.bins:
        return None
    name = min(facts.bins, key=lambda each: facts.bins[each])
    if facts.bins[name] * len(facts.bins) > HIDDEN:
        return None
    return Diagnosis(
        "bins",
        "variants of some frequency or LD hold more of the variance than the model gives them",
        f"{name}: p = {facts.bins[name]:.2g} in a score test beside the fitted components (of {len(facts.bins)} bins)",
        "give bins of frequency and LD components of their own (GREML-LDMS); a single component is biased "
        "then, up or down",
    )


def few_samples(facts: Facts) -> Diagnosis | None:
    """Standard errors too large to say anything."""
    wide = {name: se for name, se in facts.component_se.items() if se > WIDE}
    if facts.se > WIDE:
        expected = ""
        if facts.cohort is not None:
            likely = facts.cohort.expected_se(min(max(facts.h2, 0.0), LARGEST_H2))
            expected = f"; {likely:.2g} was to be expected of them"
        return Diagnosis(
            "samples",
            "there are too few samples",
            f"h2 = {facts.h2:.2f} has SE {facts.se:.2g} with {facts.num_samples:,} samples{expected}",
            f"about {facts.num_samples * facts.se / GOOD_SE:,.0f} such samples give an SE of {GOOD_SE:g}",
        )
    if len(facts.component_se) > 1 and wide:
        worst = max(wide, key=lambda name: wide[name])
        return Diagnosis(
            "samples",
            "there are too few samples for so many components",
            f"{len(wide)} of {len(facts.component_se)} shares have SE over {WIDE:g}, most {worst} with "
            f"{wide[worst]:.2g}",
            "fit fewer components, or more samples; their sum is known better",
        )
    return None


def at_bound(facts: Facts) -> Diagnosis | None:
    """An estimate at the end of what is allowed."""
    if facts.residual_at_bound or facts.h2 > 0.99:
        return Diagnosis(
            "bound",
            "h2 is at its upper bound",
            f"h2 = {facts.h2:.4f}: the components explain everything",
            "look for a phenotype made of the genotypes, for people or records that are there twice, and for relatives "
            "who share more than genes",
        )
    if len(facts.at_bound) == len(facts.component_se):
        return Diagnosis(
            "bound",
            "h2 is at its lower bound",
            f"h2 = {facts.h2:.4g}: all {len(facts.at_bound)} component(s) are at 0",
            "compare samples and phenotype for mixed-up ids; a fit without bounds shows how far below 0 it goes",
        )
    return None


def facts_of(
    result: Any,
    y: np.ndarray,
    X: np.ndarray,
    covariance: Any,
    *,
    prevalence: float | None = None,
    bins: tuple[Sequence[str], np.ndarray] | None = None,
    genotypes: PackedGenotypes | None = None,
    seed: int = 0,
) -> Facts:
    """What is known of a fit of y (n,) on X (n, c) with ``covariance``, and of the cohort.

    prevalence: of a disease.  bins: names and weights (m, A) of sets of variants to test beside the fit; only a fit
    that converged, with plain components of genotypes, is tested.  genotypes: of the same people, by default those of
    the covariance.  seed: of the people who are looked at.
    Cost: a sample of people (:func:`~.cohort_sample.sample_cohort`); with bins, 64 columns of solves.
    Raises ValueError for arrays that do not belong together.

    >>> import numpy as np
    >>> from gpu_reml.reml import facts_of, fit_exact
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((100, 300))
    >>> y, X, K = rng.standard_normal(100), np.ones((100, 1)), Z @ Z.T / 300
    >>> facts_of(fit_exact(y, X, K), y, X, K).num_samples
    100
    """
    covariance = as_covariance(covariance, len(y))
    G, residuals = len(result.names), residuals_of(y, X, getattr(result, "fixed_effects", None))
    plain, values = isinstance(covariance, GenotypeCovariance), np.unique(y)
    if genotypes is None and covariance.products is not None:
        genotypes = covariance.products.genotypes
    if genotypes is not None and genotypes.num_samples != len(y):
        genotypes = None  # they are of other people too
    at_zero = getattr(result, "at_bound", np.zeros(G + 1, bool))
    cohort = None if genotypes is None else sample_cohort(genotypes, seed)
    tested = None
    if bins is not None and plain and getattr(result, "converged", False) and not at_zero.any():
        names, weights = bins
        found = scan(result, y, X, covariance, weights, REPLICATES)
        tested = {name: float(p) for name, p in zip(names, found.p, strict=True) if np.isfinite(p)}
    return Facts(
        num_samples=len(y),
        h2=float(result.h2.estimate[-1]),
        se=float(result.h2.se[-1]),
        component_se={name: float(se) for name, se in zip(result.names, result.h2.se, strict=False)},
        at_bound=tuple(name for name, bound in zip(result.names, at_zero, strict=False) if bound),
        residual_at_bound=bool(getattr(result, "residuals_at_bound", ())),
        missing=None if genotypes is None else missing_share(genotypes),
        cases=float((y == values[-1]).mean()) if len(values) == 2 else None,
        prevalence=prevalence,
        on_liability=getattr(result, "scale", None) is not None,
        cohort=cohort,
        by_populations=None if cohort is None else cohort.explained_by_populations(residuals),
        bins=tested,
    )


def residuals_of(y: np.ndarray, X: np.ndarray, effects: FixedEffects | None) -> np.ndarray:
    """(n,) the phenotype without its fixed effects, by least squares where a result has none."""
    beta = np.linalg.lstsq(X, y, rcond=None)[0] if effects is None else effects.estimate
    return y - X @ beta


def missing_share(genotypes: PackedGenotypes) -> float:
    """Share of the calls of varying variants that are missing."""
    varies = genotypes.inv_sd > 0
    called = np.broadcast_to(genotypes.num_called, varies.shape)[varies]
    return float(1 - called.mean() / genotypes.num_samples) if len(called) else 0.0


def frequency_and_ld_bins(frequency: np.ndarray, scores: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names and weights (m, A) of two frequencies times two LD scores, half and half of those that have both.

    frequency (m,): of the minor allele, cut at 0.05 where a tenth is on either side, else at its median; scores (m,).
    NaN is in no bin.
    """
    known = np.isfinite(frequency) & np.isfinite(scores)
    if not known.any():
        return [], np.zeros((len(frequency), 0))
    cut = 0.05 if 0.1 < np.mean(frequency[known] < 0.05) < 0.9 else float(np.median(frequency[known]))
    rare = frequency < cut
    names, columns = [], []
    for label, mine in ((f"frequency below {cut:.2g}", rare), (f"frequency from {cut:.2g}", ~rare)):
        here = known & mine
        if not here.any():
            continue
        middle = np.median(scores[here])
        for low, side in (("low", scores <= middle), ("high", scores > middle)):
            if (here & side).any():
                names.append(f"{label}, {low} LD")
                columns.append((here & side).astype(np.float64))
    return names, np.column_stack(columns)
