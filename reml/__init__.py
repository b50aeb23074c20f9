"""REML as pure functions on arrays, composed by a small fitting loop."""

from .covariance import CountingCovariance, Covariance, FunctionCovariance, as_covariance
from .fit import fit, fit_traits
from .lanczos import SlqResult, slq
from .likelihood import Loglik, Score, apply_v_at, average_information, loglik, score
from .pcg import BreakdownError, PcgResult, pcg
from .precondition import complement_traces, make_projected_core, precondition
from .probes import Probes, default_rank, draw_probes, exact_probes
from .result import ConvergenceError, FitResult, Record, Status
from .settings import FitSettings, ProbeSettings, SolverSettings
from .step import SingularInformationError, Step, ai_step
from .traces import TraceEstimates, probe_images, trace_estimates

__all__ = [
    "BreakdownError",
    "ConvergenceError",
    "CountingCovariance",
    "Covariance",
    "FitResult",
    "FitSettings",
    "FunctionCovariance",
    "Loglik",
    "PcgResult",
    "ProbeSettings",
    "Probes",
    "Record",
    "Score",
    "SingularInformationError",
    "SlqResult",
    "SolverSettings",
    "Status",
    "Step",
    "TraceEstimates",
    "ai_step",
    "apply_v_at",
    "as_covariance",
    "average_information",
    "complement_traces",
    "default_rank",
    "draw_probes",
    "exact_probes",
    "fit",
    "fit_traits",
    "loglik",
    "make_projected_core",
    "pcg",
    "precondition",
    "probe_images",
    "score",
    "slq",
    "trace_estimates",
]
