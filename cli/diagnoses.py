"""What a report says of an odd h2: facts of the fit and its cohort, and what follows from them."""

from typing import Any

import numpy as np

from gpu_reml import io, ops
from gpu_reml.reml.studies.cohort_sample import MOST_PEOPLE, MOST_VARIANTS, sample_cohort
from gpu_reml.reml.studies.diagnosis import (
    GOOD_SE,
    WIDE,
    Diagnosis,
    Facts,
    diagnose,
    facts_of,
    frequency_and_ld_bins,
)

from .flags.analysis import Analysis
from .inputs import Inputs
from .sources import Sources

LIKELY_H2 = 0.5  # for which a plan says what standard error to expect

FLAGS = {
    "keep one of each pair of copies": "--grm-cutoff 0.8",
    "leave one of each pair of relatives out": "--grm-cutoff 0.05",
    "fit a component of households beside": "--random FILE",
    "give principal components as covariates": "--pca-covar 10",
    "impute them": "--dosage takes what imputation gives",
    "leave out variants and people that lack many": "--geno, --mind",
    "give the prevalence": "--prevalence K",
    "use PCGC": "--method pcgc",
    "give bins of frequency and LD components of their own": "--maf-bins 0.05,0.2 --ld-bins 4",
    "fit fewer components": "--merge pools weak ones",
    "a fit without bounds": "--no-constrain",
}
LD_WINDOW = 200  # variants on either side that count for an LD score


def diagnosed(name: str, result: Any, inputs: Inputs, analysis: Analysis) -> tuple[Facts, list[Diagnosis]]:
    """Facts of a trait's fit, and what in them is odd."""
    y, X = inputs.Y[:, inputs.phenotypes.index(name)], inputs.design.X
    genotypes = None if inputs.products is None else inputs.products.genotypes
    facts = facts_of(
        result, y, X, inputs.covariance, prevalence=analysis.tests.prevalence, bins=bins_of(inputs),
        genotypes=genotypes, seed=analysis.estimation.seed,
    )  # fmt: skip
    found = diagnose(facts)
    return facts, [each._replace(remedy=remedy_in_flags(each.remedy)) for each in found]


def remedy_in_flags(remedy: str) -> str:
    """A remedy with the flags that do what it says."""
    for words, flags in FLAGS.items():
        remedy = remedy.replace(words, f"{words} ({flags})")
    return remedy


def expected_lines(sources: Sources, alignment: io.Alignment, analysis: Analysis) -> list[str]:
    """What ``--plan`` says of the standard error of h2: by the relationships of some people, of whom a part of the
    variants is read; filters by genotype are not applied."""
    n, m = alignment.num_samples, sum(sources.num_variants)
    if not n or not m:
        return []
    rng = np.random.default_rng(analysis.estimation.seed)
    people = np.sort(rng.choice(n, min(n, MOST_PEOPLE), replace=False))
    taken = np.sort(rng.choice(m, min(m, MOST_VARIANTS), replace=False))
    ends = np.cumsum(sources.num_variants)
    rows = [
        own[taken[(taken >= end - len(own)) & (taken < end)] - (end - len(own))]
        for own, end in zip(sources.rows, ends, strict=True)
    ]
    used = [place for place, each in enumerate(rows) if len(each)]
    genotypes = io.load_genotypes(
        [sources.files[place] for place in used],
        [alignment.indices[place][people] for place in used],
        [rows[place] for place in used],
        analysis.genotypes.dosage,
    )
    if not (genotypes.inv_sd > 0).any():
        return []
    cohort = sample_cohort(genotypes, analysis.estimation.seed, (n, m))
    expected = cohort.expected_se(LIKELY_H2)
    line = f"SE of h2 to expect: about {expected:.2g} if h2 is {LIKELY_H2:g}, by the relationships of "
    line += f"{len(people):,} of {n:,} samples"
    if expected > WIDE:
        line += f"; that is too large to say much: {n * expected / GOOD_SE:,.0f} such samples would give {GOOD_SE:g}"
    return [line]


def bins_of(inputs: Inputs) -> tuple[list[str], np.ndarray] | None:
    """Sets by frequency and LD that may hold more than the model says; None without plain components of variants."""
    if not isinstance(inputs.covariance, ops.GenotypeCovariance):
        return None
    genotypes, table = inputs.products.genotypes, inputs.variants.table
    if genotypes.num_samples < 3:
        return None
    scores = ops.ld_scores(genotypes, table["chrom"].to_numpy(), table["bp"].to_numpy(), window_variants=LD_WINDOW)
    names, weights = frequency_and_ld_bins(io.minor_allele_frequencies(genotypes), scores)
    return (names, weights) if names else None


def diagnosis_lines(found: list[Diagnosis]) -> list[str]:
    """As a person reads them in the log."""
    return [f"odd: {each.problem} ({each.evidence}). What to do: {each.remedy}" for each in found]


def spectrum_record(facts: Facts) -> dict[str, list[float]] | None:
    """Eigenvalues of the relationship matrix of the people looked at; each stands for as many of all."""
    if facts.cohort is None:
        return None
    cohort = facts.cohort
    each = cohort.num_samples / len(cohort.eigenvalues)
    return {"nodes": cohort.eigenvalues.tolist(), "weights": [each] * len(cohort.eigenvalues)}
