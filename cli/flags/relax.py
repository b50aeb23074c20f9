"""Soft grouping of variants: gpu-reml-relax."""

from dataclasses import dataclass

from ..numbers import at_least, count, not_negative, positive_float, positive_int, share
from .group import Flags, flag
from .output import OUT, QUIET, report_flag


@dataclass(frozen=True)
class Grouping(Flags):
    """The groups, where they start, and how they are searched for."""

    n_groups: int | None = flag(
        "--n-groups", type=at_least(2, "groups"), metavar="G", help="number of groups, 2 or more"
    )
    outer_iters: int = flag(
        "--outer-iters", type=positive_int, default=5, metavar="N",
        help="number of REML fits, those of rejected steps included (default 5)",
    )  # fmt: skip
    theta_lr: float | None = flag(
        "--theta-lr", type=positive_float, metavar="R",
        help="rate of a step, T exp(R gradient) (default: from the gradient, so that a typical membership changes by "
        "a factor of e; GPU_REML's 1e-3 hardly moves them)",
    )  # fmt: skip
    theta_linesearch_trials: int = flag(
        "--theta-linesearch-trials", type=positive_int, default=3, metavar="N",
        help="number of rejected steps in a row, each half as long as the last, that ends the search (default 3)",
    )  # fmt: skip
    theta_init_npy: str | None = flag(
        "--theta-init-npy", metavar="FILE", unless="start",
        help="memberships to start from: .npy (variants, groups)",
    )  # fmt: skip
    theta_init: str = flag(
        "--theta-init", choices=("random", "uniform"), default="random", unless="start",
        help="start from random memberships (default); uniform is refused, since its groups would be alike and stay so",
    )  # fmt: skip
    theta_random_low: float = flag(
        "--theta-random-low", type=not_negative, default=0.0, metavar="X",
        help="smallest random number of the start, before each row is divided by its sum (default 0)",
    )  # fmt: skip
    theta_random_high: float = flag(
        "--theta-random-high",
        type=not_negative,
        default=1.0,
        metavar="X",
        help="largest random number of the start (default 1)",
    )


@dataclass(frozen=True)
class GroupFits(Flags):
    """The REML fits of a search."""

    max_probes: int = flag(
        "--n-rand-vec", "--max-probes", type=positive_int, default=32, metavar="N",
        help="number of random probes, all of which every fit uses (default 32)",
    )  # fmt: skip
    seed: int = flag(
        "--seed", type=count, default=0, metavar="N", help="seed of the probes and of the random start (default 0)"
    )
    max_iterations: int = flag(
        "--minq-iter", "--max-iterations", type=positive_int, default=20, metavar="N",
        help="largest number of iterations of a fit (default 20)",
    )  # fmt: skip
    max_pcg_iters: int = flag(
        "--max-pcg-iters",
        type=positive_int,
        default=400,
        metavar="N",
        help="largest number of PCG steps of a solve (default 400)",
    )
    pcg_tol: float | None = flag(
        "--pcg-tol", type=share, metavar="X",
        help="relative residual at which solves stop, at most (default: what phenotype and probes each need)",
    )  # fmt: skip
    h2_init: float | None = flag(
        "--h2-init", type=share, metavar="X",
        help="heritability at which the first fit starts, the same for all groups (default: Haseman-Elston estimates)",
    )  # fmt: skip


@dataclass(frozen=True)
class RelaxOutput(Flags):
    """Where the groups go, and how much is printed."""

    out: str = flag(
        "--out", "--out-prefix", default="relaxation_grouping",
        help="results go to PREFIX.theta.npy (memberships), .var_components.npy, .theta_grad.npy, .history.json and "
        ".meta.json (default relaxation_grouping)", **OUT,
    )  # fmt: skip
    report: bool = report_flag(
        "relax.report.html", "the groups, their variances, how the likelihood rose, and how it was computed"
    )
    reml_log_detail: str = flag(
        "--reml-log-detail", choices=("off", "compact", "full"), default="compact",
        help="print the results only (off), a line for every outer iteration (compact, the default), or every "
        "iteration of the fits too (full)",
    )  # fmt: skip
    reml_verbose: bool = flag(
        "--reml-verbose", action="store_true", default=False, help="the same as --reml-log-detail full"
    )
    quiet: bool = flag("--quiet", "--non-verbose", default=False, **QUIET)

    @property
    def detail(self) -> str:
        """How much is printed, from all of the flags that say it."""
        if self.quiet:
            return "off"
        return "full" if self.reml_verbose else self.reml_log_detail
