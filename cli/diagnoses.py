"""What a report says of an odd h2: facts of the fit and its cohort, and what follows from them."""

from typing import Any

import numpy as np

from gpu_reml import io, ops
from gpu_reml.reml.studies.diagnosis import Diagnosis, Facts, diagnose, facts_of, frequency_and_ld_bins

from .flags.analysis import Analysis
from .inputs import Inputs

LD_WINDOW = 200  # variants on either side that count for an LD score


def diagnosed(name: str, result: Any, inputs: Inputs, analysis: Analysis) -> tuple[Facts, list[Diagnosis]]:
    """Facts of a trait's fit, and what in them is odd."""
    y, X = inputs.Y[:, inputs.phenotypes.index(name)], inputs.design.X
    genotypes = None if inputs.products is None else inputs.products.genotypes
    facts = facts_of(
        result, y, X, inputs.covariance, prevalence=analysis.tests.prevalence, bins=bins_of(inputs),
        genotypes=genotypes, seed=analysis.estimation.seed,
    )  # fmt: skip
    return facts, diagnose(facts)


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
    return [f"odd: {each.problem}: {each.evidence}. {each.remedy}" for each in found]


def spectrum_record(facts: Facts) -> dict[str, list[float]] | None:
    """Eigenvalues of the relationship matrix of the people looked at; each stands for as many of all."""
    if facts.cohort is None:
        return None
    cohort = facts.cohort
    each = cohort.num_samples / len(cohort.eigenvalues)
    return {"nodes": cohort.eigenvalues.tolist(), "weights": [each] * len(cohort.eigenvalues)}
