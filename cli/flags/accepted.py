"""Flags of GPU_REML that have no effect here: their values are checked, and notes say that they do nothing.

See :mod:`gpu_reml.cli.unused`.
"""

from dataclasses import dataclass

from ..numbers import count, not_negative, positive_float, positive_int
from .group import Flags, flag

TITLE = "accepted from GPU_REML without effect, since they are chosen as needed"


@dataclass(frozen=True)
class Width(Flags):
    """How many variants are worked on at once."""

    call_width: int | None = flag(
        "--call-width",
        type=count,
        metavar="N",
        help="the number of variants worked on at once follows from the memory there is",
    )


@dataclass(frozen=True)
class Determinants(Flags):
    """How log-determinants are approximated."""

    slq_samples: int | None = flag(
        "--slq-samples", type=positive_int, metavar="N", help="log-determinants use all probes"
    )
    slq_m: int | None = flag(
        "--slq-m", type=positive_int, metavar="N", help="log-determinants take as many Lanczos steps as they need"
    )


@dataclass(frozen=True)
class Preconditioner(Flags):
    """The preconditioner of a fit."""

    slq_mode: str | None = flag(
        "--slq-mode",
        choices=("raw", "projected_core_residual"),
        help="log-determinants are computed within the basis of the fit, and checked",
    )
    precond_refresh_reldp: float | None = flag(
        "--precond-refresh-reldp",
        type=not_negative,
        metavar="X",
        help="fits use a basis that follows the variances instead of a preconditioner",
    )
    precond_type: str | None = flag(
        "--precond-type", choices=("projected_core",), help="fits use a basis instead of a preconditioner"
    )


@dataclass(frozen=True)
class SmileSearch(Flags):
    """How a fit with blocks of weights is optimised."""

    smile_optimizer: str | None = flag(
        "--smile-optimizer", choices=("strict", "smile_scoring"),
        help="there is one optimiser, which never steps downhill",
    )  # fmt: skip
    smile_scoring_step_tol: float | None = flag(
        "--smile-scoring-step-tol",
        type=positive_float,
        metavar="X",
        help="a fit stops when its score is small in standard errors",
    )


@dataclass(frozen=True)
class Ridges(Flags):
    """What GPU_REML adds to diagonals."""

    pcg_ridge: float | None = flag("--pcg-ridge", type=not_negative, metavar="X", help="no ridge is added anywhere")
    lasso_ridge: float | None = flag("--lasso-ridge", type=not_negative, metavar="X", help="no ridge is added anywhere")
    proj_ridge: float | None = flag("--proj-ridge", type=not_negative, metavar="X", help="no ridge is added anywhere")


@dataclass(frozen=True)
class Loud(Flags):
    """Printing what is printed anyway."""

    verbose: bool = flag("--verbose", action="store_true", default=False, help="printing progress is the default")
