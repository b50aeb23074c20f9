"""REML as pure functions on arrays, composed by a small fitting loop."""

from .covariance import (
    CountingCovariance,
    Covariance,
    FunctionCovariance,
    MixedCovariance,
    Operator,
    as_covariance,
    dense_covariance,
)
from .enrichment import Enrichment, Wald, enrichment, wald_test
from .exact import exact_memory, exact_seconds, fit_exact
from .fit import fit, fit_traits
from .he import HEResult, haseman_elston
from .hooks import Hooks
from .lanczos import SlqResult, slq
from .likelihood import Loglik, Score, apply_v_at, average_information, loglik, score
from .memory import Blocks, Work, fit_blocks, he_blocks
from .pcg import BreakdownError, PcgResult, pcg
from .precondition import complement_traces, make_projected_core, precondition
from .probes import Probes, default_rank, draw_probes, exact_probes
from .residuals import ResidualCovariance, layout_of, with_residuals
from .result import ConvergenceError, FitResult, Record, Status
from .scaled import DiagonalCovariance, ScaledCovariance
from .settings import FitSettings, ProbeSettings, SolverSettings
from .snapshot import pack, unpack
from .step import SingularInformationError, Step, ai_step
from .traces import TraceEstimates, probe_images, trace_estimates

__all__ = [
    "Blocks",
    "BreakdownError",
    "ConvergenceError",
    "CountingCovariance",
    "Covariance",
    "DiagonalCovariance",
    "Enrichment",
    "FitResult",
    "FitSettings",
    "FunctionCovariance",
    "HEResult",
    "Hooks",
    "Loglik",
    "MixedCovariance",
    "Operator",
    "PcgResult",
    "ProbeSettings",
    "Probes",
    "Record",
    "ResidualCovariance",
    "ScaledCovariance",
    "Score",
    "SingularInformationError",
    "SlqResult",
    "SolverSettings",
    "Status",
    "Step",
    "TraceEstimates",
    "Wald",
    "Work",
    "ai_step",
    "apply_v_at",
    "as_covariance",
    "average_information",
    "complement_traces",
    "default_rank",
    "dense_covariance",
    "draw_probes",
    "enrichment",
    "exact_memory",
    "exact_probes",
    "exact_seconds",
    "fit",
    "fit_blocks",
    "fit_exact",
    "fit_traits",
    "haseman_elston",
    "he_blocks",
    "layout_of",
    "loglik",
    "make_projected_core",
    "pack",
    "pcg",
    "precondition",
    "probe_images",
    "score",
    "slq",
    "trace_estimates",
    "unpack",
    "wald_test",
    "with_residuals",
]
