"""Which further components are tested after the fit."""

from dataclasses import dataclass

from ..numbers import at_least, base_pairs, count
from .components import LIST
from .group import Flags, flag


@dataclass(frozen=True)
class Scan(Flags):
    """Sets of variants, of which each is tested alone beside the fitted components."""

    scan: tuple[str, ...] = flag(
        "--scan", default=(),
        help="test sets of variants after the fit, each beside its components (OUT.scan.tsv): .annot or .annot.gz "
        "(columns, @ for the chromosome), .bed (intervals, or names of several), .json or .npz (as --component-spec), "
        "or a table of variant id, set and, where wanted, weight",
        **LIST,
    )  # fmt: skip
    scan_genes: tuple[str, ...] = flag(
        "--scan-genes", default=(), help="test genes: lists of chrom, start, end (both included) and gene", **LIST
    )
    scan_flank: int = flag(
        "--scan-flank", type=base_pairs, default=0, metavar="SIZE",
        help="with --scan-genes or a .bed: take SIZE before and after as well, such as 50kb (default 0)",
    )  # fmt: skip
    scan_windows: int | None = flag(
        "--scan-windows", type=base_pairs, metavar="SIZE", help="test windows of this size, such as 1Mb or 500kb"
    )
    scan_step: int | None = flag(
        "--scan-step", type=base_pairs, metavar="SIZE", help="from one window to the next (default: its size)"
    )
    scan_replicates: int = flag(
        "--scan-replicates", type=at_least(32, "replicates"), default=256, metavar="R",
        help="replicates of the phenotype by which tests are calibrated (default 256)",
    )  # fmt: skip
    scan_refit: int = flag(
        "--scan-refit", type=count, default=0, metavar="K",
        help="fit the K sets of least p in full, each beside the components, with a likelihood ratio (default 0)",
    )  # fmt: skip

    @property
    def given(self) -> dict[str, object]:
        """Flags that name sets, with their values, of those that were given."""
        flags = {"--scan": self.scan, "--scan-genes": self.scan_genes, "--scan-windows": self.scan_windows}
        return {name: value for name, value in flags.items() if value not in ((), None)}

    @property
    def wanted(self) -> bool:
        """Whether anything is to be tested."""
        return bool(self.given)
