"""What results are checked against: exact dense REML, simulated cohorts of known truth, hypothesis strategies."""

from importlib import import_module

_HOMES = {
    "bivariate": ("DenseCovariances", "dense_covariances"),
    "dense": (
        "dense_average_information",
        "dense_expected_information",
        "dense_loglik",
        "dense_score",
        "kernel",
        "standardised",
    ),
    "exact": ("ExactFit", "exact_reml"),
    "example": ("example_cohort",),
    "haplotypes": ("SPARSE", "Haplotypes", "Structure"),
    "host_device": ("HostDevice",),
    "operator": ("OperatorReport", "check_operator"),
    "simulate": (
        "Cohort",
        "Genetics",
        "Trait",
        "simulate_bed",
        "simulate_cohort",
        "simulate_phenotype",
        "write_covariates",
        "write_phenotype",
        "write_plink",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    """Modules are loaded when asked for: some want pandas, which a machine for GPU tests may lack."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
