"""SMILE: components whose variant weights are dense blocks."""

from dataclasses import dataclass

from ..numbers import fraction, positive_int
from .group import Flags, flag

NORMALISATIONS = ("kernel_trace", "effective_rank")
KINDS = ("inverse", "correlation")
BLOCK_SIZE = 500
SHRINKAGE = 0.1
SOURCES = ("w_files", "w_files_list", "grm_groups", "identity_w", "smile_ld")


@dataclass(frozen=True)
class Smile(Flags):
    """Where the blocks come from, and how they are scaled."""

    smile: bool = flag(
        "--smile", action="store_true", default=False,
        help="weigh pairs of variants within blocks, K = sum Z_b W_b Z_b' / c; flags that name weights imply it",
    )  # fmt: skip
    w_files: str | None = flag(
        "--w-files", metavar="FILE[,FILE...]", unless="source",
        help="files of the blocks of one component, in the order of the variants before filters: .npy, .npz, .rds, "
        ".csv or text",
    )  # fmt: skip
    w_files_list: str | None = flag(
        "--w-files-list",
        metavar="FILE",
        unless="source",
        help="a list of such files, one per line, in which # starts a comment",
    )
    grm_groups: str | None = flag(
        "--grm-groups", metavar="FILE[,FILE...][;FILE...]", unless="source",
        help="files of the blocks of several components, as in 'A1.npy,A2.npy;B1.npy'; together they cover the "
        "variants in order",
    )  # fmt: skip
    identity_w: bool = flag(
        "--identity-w", action="store_true", default=False, unless="source",
        help="take W = I, which gives the ordinary GRM, without a file",
    )  # fmt: skip
    smile_ld: str | None = flag(
        "--smile-ld", choices=KINDS, unless="source",
        help="make W from the LD of the analysed samples: its shrunk inverse, or the shrunk correlations themselves",
    )  # fmt: skip
    smile_block_size: int | None = flag(
        "--smile-block-size", type=positive_int, metavar="N",
        help=f"largest number of variants in a block of --smile-ld, within a chromosome (default {BLOCK_SIZE})",
    )  # fmt: skip
    smile_shrinkage: float | None = flag(
        "--smile-shrinkage", type=fraction, metavar="X",
        help=f"how far the correlations of --smile-ld are shrunk towards the identity, 0 to 1 (default {SHRINKAGE})",
    )  # fmt: skip
    w_normalization: str = flag(
        "--w-normalization", choices=NORMALISATIONS, default=NORMALISATIONS[0],
        help="scale of K: kernel_trace makes tr(K) = n (default); effective_rank divides by the sum of the blocks' "
        "ranks, which are read from the .json beside a block or counted",
    )  # fmt: skip

    @property
    def sources(self) -> list[str]:
        """The fields that say where weights come from, of those given."""
        return [name for name in SOURCES if getattr(self, name)]

    @property
    def wanted(self) -> bool:
        """Whether blocks of weights are asked for, in any way."""
        return bool(self.smile or self.sources)
