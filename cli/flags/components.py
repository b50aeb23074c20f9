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
        help="components as sets of variants: .json or .npz with ids, or with zero-based indices into all genotype "
        "files one after another",
    )  # fmt: skip
    vc_block_sizes: tuple[int, ...] | None = flag(
        "--vc-block-sizes",
        type=wholes,
        metavar="N,N...",
        help="sizes of contiguous blocks of variants, each of which is a component",
    )
    snp_lists: tuple[str, ...] = flag(
        "--snp-lists", default=(), help="files of variant ids, each of which is a component", **LIST
    )
    component_table: tuple[str, ...] = flag(
        "--component-table", metavar="FILE", action="append", default=(),
        help="a table with the columns variant id, component and, where wanted, weight",
    )  # fmt: skip
    annot: tuple[str, ...] = flag(
        "--annot", default=(),
        help="LDSC annotations, .annot or .annot.gz, in which @ stands for the chromosome; every column is a component",
        **LIST,
    )  # fmt: skip
    intervals: tuple[str, ...] = flag(
        "--intervals", default=(), help="intervals in BED format; every name is a component", **LIST
    )
    by_chromosome: str | None = flag(
        "--by-chromosome", nargs="?", const="all", metavar="NAME[,NAME...]",
        help="make every chromosome a component, or these and one of all others, such as X",
    )  # fmt: skip
    maf_bins: tuple[float, ...] | None = flag(
        "--maf-bins",
        type=numbers,
        metavar="X,X...",
        help="edges of bins of minor allele frequency, such as 0.01,0.05; every bin is a component",
    )
    ld_bins: int | None = flag(
        "--ld-bins", type=positive_int, metavar="K",
        help="number of quantile bins of LD scores, within each of --maf-bins where these are given (GREML-LDMS)",
    )  # fmt: skip
    ld_scores: str | None = flag(
        "--ld-scores",
        metavar="FILE",
        help="a file of LD scores for --ld-bins (default: they are computed from the genotypes)",
    )
    uncovered: str = flag(
        "--uncovered", choices=("drop", "background"), default="drop",
        help="what happens to variants in no component: they are left out, or form a component of their own (default "
        "drop)",
    )  # fmt: skip
    empty_components: str = flag(
        "--empty-components", choices=("error", "drop"), default="error",
        help="what happens to components without a variant that varies: an error, or they are left out (default error)",
    )  # fmt: skip

    @property
    def given(self) -> bool:
        """Whether components are asked for by anything but the genotype files themselves."""
        of_files = (self.component_spec, self.snp_lists, self.component_table, self.annot, self.intervals)
        return any([*of_files, self.vc_block_sizes, self.by_chromosome, self.maf_bins, self.ld_bins])
