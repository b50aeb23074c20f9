"""What a covariance is besides sets of variants, and the scale of its components."""

from dataclasses import dataclass

from ..numbers import number
from .group import Flags, flag

# Values that add something else to a model than sets of variants.
BESIDE_SETS = (
    *("grm", "mgrm", "pedigree", "random", "admix_q", "gxe", "dominance"),
    *("residual_weights", "residual_groups"),
)
IID = "iid"  # what --random calls people with several records


def groups_among(random: str | None) -> tuple[str, ...]:
    """The files of what ``--random`` names."""
    return tuple(path for path in (random or "").split(",") if path and path != IID)


@dataclass(frozen=True)
class Terms(Flags):
    """Relationship matrices, dominance, ancestries, environments, and residuals."""

    grm: str | None = flag(
        "--grm", "--grm-bin", "--grm-gz", "--grm-sparse", metavar="PREFIX[,PREFIX...]",
        help="relationship matrices in GCTA's formats (.grm.bin, .grm.gz or sparse .grm.sp, with .grm.id), with or "
        "without genotypes; each is a component",
    )  # fmt: skip
    mgrm: str | None = flag(
        "--mgrm",
        "--mgrm-bin",
        "--mgrm-gz",
        metavar="FILE",
        help="a list of prefixes as of --grm, one per line; each is a component",
    )
    pedigree: str | None = flag(
        "--pedigree", metavar="FILE",
        help="animal sire dam, one per line, or FID IID PAT MAT: a component of the relationships by descent, with or "
        "without genotypes",
    )  # fmt: skip
    single_step: bool = flag(
        "--single-step", action="store_true", default=False,
        help="join --pedigree with the genotypes of some of its animals into one relationship matrix (Aguilar et al. "
        "2010); phenotyped animals need no genotypes",
    )  # fmt: skip
    random: str | None = flag(
        "--random", metavar="FILE[,FILE...]",
        help="groups with a common effect, such as households or herds: FID IID level..., every column a component; "
        "the word iid stands for people who have several rows in --pheno, their records",
    )  # fmt: skip
    dominance: bool = flag(
        "--dominance", action="store_true", default=False,
        help="add a component of dominance deviations of all variants (CPU only)",
    )  # fmt: skip
    admix_q: str | None = flag(
        "--admix-q", metavar="FILE",
        help="ancestry proportions (ADMIXTURE's .Q); every ancestry has a genetic variance, of sqrt(q_a) K sqrt(q_a)",
    )  # fmt: skip
    admix_fam: str | None = flag(
        "--admix-fam", metavar="FILE", help="the .fam file of the rows of --admix-q (default: that beside it)"
    )
    admix_component_names: str | None = flag(
        "--admix-component-names", metavar="NAME,NAME...", help="names of the ancestries, in the order of the columns"
    )
    admix_residual_mode: str = flag(
        "--admix-residual-mode", choices=("shared", "per-ancestry"), default="shared",
        help="one residual variance for all, or one for each ancestry, in proportion to it (default shared)",
    )  # fmt: skip
    gxe: str | None = flag(
        "--gxe", metavar="FILE",
        help="environments: FID IID value...; each adds the components E K E, and E itself as a fixed effect",
    )  # fmt: skip
    gxe_noise: bool = flag(
        "--gxe-noise",
        action="store_true",
        default=False,
        help="add residuals whose variance is proportional to E squared",
    )
    gxe_scale: str = flag(
        "--gxe-scale", choices=("standard", "none"), default="standard",
        help="scale environments to mean 0 and SD 1 among the analysed samples (default), or take them as they are",
    )  # fmt: skip
    residual_weights: str | None = flag(
        "--residual-weights", metavar="FILE", unless="residuals",
        help="weights: FID IID w...; every column is a residual whose variance is w times one that is estimated, in "
        "place of the one that all samples share (a column of 1 keeps it)",
    )  # fmt: skip
    residual_groups: str | None = flag(
        "--residual-groups", metavar="FILE", unless="residuals",
        help="groups of samples: FID IID group; every group has a residual variance",
    )  # fmt: skip

    @property
    def ancestry_names(self) -> list[str] | None:
        """Names for the ancestries; None where they keep their own."""
        return self.admix_component_names.split(",") if self.admix_component_names else None

    @property
    def groups_of(self) -> tuple[str, ...]:
        """Files of groups."""
        return groups_among(self.random)

    @property
    def has_records(self) -> bool:
        """Whether people may have several rows."""
        return IID in (self.random or "").split(",")

    @property
    def beside_genotypes(self) -> bool:
        """Whether there are components that need no genotypes."""
        return bool(self.grm or self.mgrm or self.pedigree or self.random)

    @property
    def residual_by_ancestry(self) -> bool:
        """Whether every ancestry has a residual variance of its own."""
        return self.admix_residual_mode == "per-ancestry"


@dataclass(frozen=True)
class Scaling(Flags):
    """How genotypes and components are scaled."""

    standardize: str = flag(
        "--standardize", choices=("sample", "binomial", "per-trait"), default="sample",
        help="divide allele counts by their SD in the samples that have any phenotype (sample, the default), by "
        "sqrt(2p(1-p)) there (binomial), or by their SD in the samples of each phenotype, for which genotypes are read "
        "again (per-trait)",
    )  # fmt: skip
    alpha: float | None = flag(
        "--alpha", type=number, metavar="A",
        help="weigh variants by [2p(1-p)]^(1 + A); -1 gives the usual GRM (default: all variants weigh the same)",
    )  # fmt: skip
