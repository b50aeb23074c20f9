"""What results are checked against: exact dense REML, simulated cohorts of known truth, hypothesis strategies."""

from .dense import (
    dense_average_information,
    dense_expected_information,
    dense_loglik,
    dense_score,
    kernel,
    standardised,
)
from .exact import ExactFit, exact_reml
from .example import example_cohort
from .haplotypes import Haplotypes, Structure
from .simulate import (
    Cohort,
    Genetics,
    Trait,
    simulate_bed,
    simulate_cohort,
    simulate_phenotype,
    write_covariates,
    write_phenotype,
    write_plink,
)

__all__ = [
    "Cohort",
    "ExactFit",
    "Genetics",
    "Haplotypes",
    "Structure",
    "Trait",
    "dense_average_information",
    "dense_expected_information",
    "dense_loglik",
    "dense_score",
    "exact_reml",
    "example_cohort",
    "kernel",
    "simulate_bed",
    "simulate_cohort",
    "simulate_phenotype",
    "standardised",
    "write_covariates",
    "write_phenotype",
    "write_plink",
]
