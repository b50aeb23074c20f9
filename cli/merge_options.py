"""Flags of ``--merge`` and ``--export-ai``; nothing heavy is imported here."""

from .numbers import not_negative, number


def add_merge(group) -> None:
    """The flags of ``--merge``, for a group of the parser."""
    group.add_argument(
        "--merge", action="store_true",
        help="make one component of those with z = variance / SE under the cutoff and fit once more; "
        "OUT.* is the last fit",
    )  # fmt: skip
    group.add_argument("--merge-out-dir", metavar="DIR", help="folder of both fits' files (default OUT.merge)")
    group.add_argument(
        "--merge-mode", choices=("global_weak",), default="global_weak", help="all weak components become one (default)"
    )
    group.add_argument(
        "--z-cutoff", type=number, metavar="Z",
        help="keep components with z of at least Z (default 1.6449: 5 %% of variances that are zero exceed it)",
    )  # fmt: skip
    group.add_argument(
        "--merge-ai-scale-mode", choices=("per_sample", "full"), default="per_sample",
        help="per_sample: SE from the information per sample times --merge-n-eff; full: from the information of all "
        "analysed samples. The information computed here is that of all samples, so both are the same by default",
    )  # fmt: skip
    group.add_argument(
        "--merge-n-eff", type=not_negative, default=0.0, metavar="N",
        help="samples that the information is taken to be of, in per_sample mode (default 0: those analysed)",
    )  # fmt: skip


def add_export(group) -> None:
    """The flag, for the group of outputs."""
    group.add_argument(
        "--export-ai", action="store_true",
        help="write PREFIX.theta.npy (variances, residual last), .ai.npy (average information per sample), .grad.npy "
        "(score per sample) and .ai_stats.json, in the phenotype's units",
    )  # fmt: skip
