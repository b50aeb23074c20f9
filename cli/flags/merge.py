"""Merging weak components."""

from dataclasses import dataclass

from ..numbers import not_negative, number
from .group import Flags, flag


@dataclass(frozen=True)
class Merge(Flags):
    """Whether weak components become one, and which are weak."""

    merge: bool = flag(
        "--merge", action="store_true", default=False,
        help="make one component of those with z = variance / SE under the cutoff and fit once more; "
        "OUT.* is the last fit",
    )  # fmt: skip
    merge_out_dir: str | None = flag(
        "--merge-out-dir", metavar="DIR", help="folder of both fits' files (default OUT.merge)"
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
        help="per_sample: SE from the information per sample times --merge-n-eff; full: from the information of all "
        "analysed samples. The information computed here is that of all samples, so both are the same by default",
    )  # fmt: skip
    merge_n_eff: float = flag(
        "--merge-n-eff", type=not_negative, default=0.0, metavar="N",
        help="samples that the information is taken to be of, in per_sample mode (default 0: those analysed)",
    )  # fmt: skip
