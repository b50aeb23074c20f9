"""How variants are divided into variance components."""

from dataclasses import dataclass

from ..numbers import numbers, positive_int, wholes
from .group import Flags, flag

LIST = {"nargs": "+", "action": "extend", "metavar": "FILE"}


@dataclass(frozen=True)
class Components(Flags):
    """Sets of variants, by files, blocks, bins and annotations; several kinds may be combined."""

    component_spec: tuple[str, ...] = flag(
        "--component-spec", "--component-indices-npz", metavar="FILE", action="append", default=(),
        help="sets of variants of the genotype files, one after another: .json or .npz with zero-based indices or ids",
    )  # fmt: skip
    vc_block_sizes: tuple[int, ...] | None = flag(
        "--vc-block-sizes", type=wholes, metavar="N,N...", help="contiguous blocks of variants, a component each"
    )
    snp_lists: tuple[str, ...] = flag("--snp-lists", default=(), help="files of variant ids, a component each", **LIST)
    component_table: tuple[str, ...] = flag(
        "--component-table", metavar="FILE", action="append", default=(),
        help="table: variant id, component[, weight]",
    )  # fmt: skip
    annot: tuple[str, ...] = flag(
        "--annot", default=(),
        help="annotations as LDSC has them, .annot or .annot.gz; @ stands for chromosomes; a component for each column",
        **LIST,
    )  # fmt: skip
    intervals: tuple[str, ...] = flag(
        "--intervals", default=(), help="BED intervals, a component for each name", **LIST
    )
    by_chromosome: bool = flag(
        "--by-chromosome", action="store_true", default=False, help="a component for each chromosome"
    )
    maf_bins: tuple[float, ...] | None = flag(
        "--maf-bins", type=numbers, metavar="X,X...", help="edges of bins of allele frequency, such as 0.01,0.05"
    )
    ld_bins: int | None = flag(
        "--ld-bins", type=positive_int, metavar="K",
        help="quantile bins of LD scores, within --maf-bins where they are given (GREML-LDMS)",
    )  # fmt: skip
    ld_scores: str | None = flag(
        "--ld-scores", metavar="FILE", help="LD scores for --ld-bins; by default they are computed"
    )
    uncovered: str = flag(
        "--uncovered", choices=("drop", "background"), default="drop",
        help="variants in no component: left out, or a component of their own (default drop)",
    )  # fmt: skip
    empty_components: str = flag(
        "--empty-components", choices=("error", "drop"), default="error",
        help="components without a variant that varies (default error)",
    )  # fmt: skip

    @property
    def given(self) -> bool:
        """Whether components are asked for by anything but the genotype files themselves."""
        of_files = (self.component_spec, self.snp_lists, self.component_table, self.annot, self.intervals)
        return any([*of_files, self.vc_block_sizes, self.by_chromosome, self.maf_bins, self.ld_bins])
