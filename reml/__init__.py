"""REML as pure functions on arrays, composed by a small fitting loop."""

from .covariance import (
    CountingCovariance,
    Covariance,
    FunctionCovariance,
    IncidenceCovariance,
    MixedCovariance,
    Operator,
    as_covariance,
    dense_covariance,
    grouping,
    incidence,
    legendre_basis,
    random_regression,
    records,
    single_step,
)
from .engines.exact import exact_fits, exact_memory, exact_seconds, fit_exact
from .engines.memory import Blocks, Work, fit_blocks, he_blocks
from .engines.snapshot import pack, unpack
from .fit import fit, fit_traits
from .he import HEResult, haseman_elston
from .hooks import Hooks
from .lanczos import SlqResult, slq
from .likelihood import Information, Loglik, Score, Solver, apply_v_at, average_information, loglik, score
from .pcg import BreakdownError, PcgResult, pcg
from .precondition import complement_traces, make_projected_core, precondition
from .probes import Probes, default_rank, draw_probes, exact_probes
from .residuals import ResidualCovariance, layout_of, with_residuals
from .result import ConvergenceError, FitResult, Record, SingularModelError, Status
from .scaled import DiagonalCovariance, ScaledCovariance
from .settings import FitSettings, ProbeSettings, SolverSettings
from .step import SingularInformationError, Step, ai_step
from .studies.accuracy import Accuracy, accuracy
from .studies.alpha import LearnedWeights, LogLinear, alpha_law, fit_weights
from .studies.association import ExactScan, Scan, exact_scan, lambda_gc, ols_scan
from .studies.certified import KktSettings, LassoSettings
from .studies.compare import ModelComparison, Nested, compare
from .studies.cross_validation import HeldOut, cross_validate, draw_folds
from .studies.debias import debiased, least_squares
from .studies.diagnosis import Diagnosis, Facts, diagnose, facts_of
from .studies.effects import (
    Effects,
    Reliability,
    allele_effects,
    allele_intercept,
    component_reliability,
    effects,
    fixed_tests,
    reliability,
    variant_effects,
)
from .studies.enrichment import Enrichment, Wald, enrichment, wald_test
from .studies.lasso import DescentSettings, PathSettings, Quadratic, lasso_path
from .studies.loco import LocoSettings, loco_scan
from .studies.pcgc import PCGCResult, pcgc
from .studies.principal import PrincipalComponents, principal_components
from .studies.ranks import rank_normal
from .studies.refine import Refined, RefineSettings, refine
from .studies.relatedness import Related, relatedness
from .studies.replicated import (
    effect_variances,
    py_replicates,
    reliability_of_values,
    replicated_effects,
    replicated_values,
)
from .studies.rg import RgSettings, fit_rg
from .studies.rg_result import GeneticCorrelations
from .studies.scan import ScanResult, ScanSettings, scan
from .studies.sparse import SparseSettings, sparse_reml
from .studies.sparse_result import SparseResult, SparseStatus
from .studies.values import Levels, level_reliability, level_values, levels_of

__all__ = [
    "Accuracy",
    "Blocks",
    "BreakdownError",
    "ConvergenceError",
    "CountingCovariance",
    "Covariance",
    "DescentSettings",
    "Diagnosis",
    "DiagonalCovariance",
    "Effects",
    "Enrichment",
    "ExactScan",
    "Facts",
    "FitResult",
    "FitSettings",
    "FunctionCovariance",
    "GeneticCorrelations",
    "HEResult",
    "HeldOut",
    "Hooks",
    "IncidenceCovariance",
    "Information",
    "KktSettings",
    "LassoSettings",
    "LearnedWeights",
    "Levels",
    "LocoSettings",
    "LogLinear",
    "Loglik",
    "MixedCovariance",
    "ModelComparison",
    "Nested",
    "Operator",
    "PCGCResult",
    "PathSettings",
    "PcgResult",
    "PrincipalComponents",
    "ProbeSettings",
    "Probes",
    "Quadratic",
    "Record",
    "RefineSettings",
    "Refined",
    "Related",
    "Reliability",
    "ResidualCovariance",
    "RgSettings",
    "ScaledCovariance",
    "Scan",
    "ScanResult",
    "ScanSettings",
    "Score",
    "SingularInformationError",
    "SingularModelError",
    "SlqResult",
    "Solver",
    "SolverSettings",
    "SparseResult",
    "SparseSettings",
    "SparseStatus",
    "Status",
    "Step",
    "Wald",
    "Work",
    "accuracy",
    "ai_step",
    "allele_effects",
    "allele_intercept",
    "alpha_law",
    "apply_v_at",
    "as_covariance",
    "average_information",
    "compare",
    "complement_traces",
    "component_reliability",
    "cross_validate",
    "debiased",
    "default_rank",
    "dense_covariance",
    "diagnose",
    "draw_folds",
    "draw_probes",
    "effect_variances",
    "effects",
    "enrichment",
    "exact_fits",
    "exact_memory",
    "exact_probes",
    "exact_scan",
    "exact_seconds",
    "facts_of",
    "fit",
    "fit_blocks",
    "fit_exact",
    "fit_rg",
    "fit_traits",
    "fit_weights",
    "fixed_tests",
    "grouping",
    "haseman_elston",
    "he_blocks",
    "incidence",
    "lambda_gc",
    "lasso_path",
    "layout_of",
    "least_squares",
    "legendre_basis",
    "level_reliability",
    "level_values",
    "levels_of",
    "loco_scan",
    "loglik",
    "make_projected_core",
    "ols_scan",
    "pack",
    "pcg",
    "pcgc",
    "precondition",
    "principal_components",
    "py_replicates",
    "random_regression",
    "rank_normal",
    "records",
    "refine",
    "relatedness",
    "reliability",
    "reliability_of_values",
    "replicated_effects",
    "replicated_values",
    "scan",
    "score",
    "single_step",
    "slq",
    "sparse_reml",
    "unpack",
    "variant_effects",
    "wald_test",
    "with_residuals",
]
