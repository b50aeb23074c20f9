"""Where results go, and how much is printed."""

from dataclasses import dataclass
from typing import Any

from ..numbers import not_negative, positive_int
from .group import Flags, flag

OUT = {"metavar": "PREFIX"}
QUIET = {"action": "store_true", "help": "print the results only"}


def report_flag(name: str, holds: str) -> Any:
    """The field of ``--report``: the page's name, and what is on it."""
    text = f"write PREFIX.{name}: one page with {holds} (needs the extra report)"
    return flag("--report", action="store_true", default=False, help=text)


@dataclass(frozen=True)
class Output(Flags):
    """The prefix of the results, and lists of samples."""

    out: str = flag("--out", "--out-prefix", default="gpu_reml", help="results go to PREFIX.*", **OUT)
    keep_out: str | None = flag("--keep-out", metavar="FILE", help="write a list of the analysed samples")
    dropped_out: str | None = flag(
        "--dropped-out", metavar="FILE", help="write a list of the samples that were left out, with the reason"
    )

    @property
    def lists(self) -> dict[str, str]:
        """Flag -> path of the lists of samples that are written."""
        given = {"--keep-out": self.keep_out, "--dropped-out": self.dropped_out}
        return {name: path for name, path in given.items() if path}

    @property
    def paths(self) -> list[str]:
        """What has to be writable."""
        return [self.out, *self.lists.values()]


@dataclass(frozen=True)
class RemlOutput(Output):
    """What gpu-reml writes beside, and how often."""

    out: str = flag(
        "--out", "--out-prefix", default="gpu_reml",
        help="results go to PREFIX.json, .hsq, .log and .history.tsv (default gpu_reml)", **OUT,
    )  # fmt: skip
    export_ai: bool = flag(
        "--export-ai", action="store_true", default=False,
        help="write PREFIX.theta.npy (variances, residual last), .ai.npy (average information per sample), .grad.npy "
        "(score per sample) and .ai_stats.json, in the phenotype's units",
    )  # fmt: skip
    report: bool = report_flag("report.html", "figures, warnings, diagnoses of an odd h2, and how it was computed")
    pca: int | None = flag(
        "--pca", type=positive_int, metavar="K",
        help="write K principal components of the genotypes as PLINK does (OUT.eigenvec, OUT.eigenval) and stop; needs "
        "no --pheno",
    )  # fmt: skip
    make_grm: bool = flag(
        "--make-grm", action="store_true", default=False,
        help="write the relationship matrix of every component in GCTA's format (OUT.grm.bin, .grm.N.bin, .grm.id) "
        "and stop; needs no --pheno",
    )  # fmt: skip

    @property
    def no_fit(self) -> str:
        """The flag that asks for something else than fits; empty where none does."""
        return "--make-grm" if self.make_grm else "--pca" if self.pca else ""


@dataclass(frozen=True)
class Checkpoints(Flags):
    """Going on from an interrupted run."""

    resume: bool = flag(
        "--resume", action="store_true", default=False,
        help="continue an interrupted run of the same flags from its checkpoint",
    )  # fmt: skip
    checkpoint_seconds: float = flag(
        "--checkpoint-seconds", type=not_negative, default=2.0, metavar="S",
        help="seconds between two checkpoints of a stochastic fit, or of steps of a scan, at least (default 2)",
    )  # fmt: skip


@dataclass(frozen=True)
class Screen(Flags):
    """How much is printed."""

    verbose: bool = flag("--verbose", action="store_true", default=False, help="print every iteration of the fits")
    quiet: bool = flag("--non-verbose", "--quiet", default=False, **QUIET)
