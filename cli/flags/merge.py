"""Merging weak components."""

from dataclasses import dataclass

from ..numbers import not_negative, number
from .group import Flags, flag


@dataclass(frozen=True)
class Merge(Flags):
    """Whether weak components become one, and which are weak."""

    merge: bool = flag(
        "--merge", action="store_true", default=False,
        help="pool the components with z = variance / SE under the cutoff in one and fit once more; OUT.* is the last "
        "fit",
    )  # fmt: skip
    merge_out_dir: str | None = flag(
        "--merge-out-dir", metavar="DIR", help="folder for the files of both fits (default OUT.merge)"
    )
    merge_mode: str = flag(
        "--merge-mode", choices=("global_weak",), default="global_weak", help="all weak components become one (default)"
    )
    z_cutoff: float | None = flag(
        "--z-cutoff", type=number, metavar="Z",
        help="keep components with z of at least Z (default 1.6449: 5 %% of variances that are zero exceed it)",
    )  # fmt: skip
    merge_ai_scale_mode: str = flag(
        "--merge-ai-scale-mode", choices=("per_sample", "full"), default="per_sample",
        help="what the SE follows from: per_sample is the information per sample times --merge-n-eff, full that of "
        "all analysed samples; they are the same unless --merge-n-eff is given (default per_sample)",
    )  # fmt: skip
    merge_n_eff: float = flag(
        "--merge-n-eff", type=not_negative, default=0.0, metavar="N",
        help="number of samples in per_sample mode (default 0: those analysed)",
    )  # fmt: skip
