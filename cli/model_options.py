"""Flags for what a covariance is besides sets of variants."""


def add_model_parts(group) -> None:
    """Flags for what a covariance is besides sets of variants."""
    group.add_argument(
        "--grm", metavar="PREFIX[,PREFIX...]",
        help="relationship matrices in GCTA's format (.grm.bin, .grm.id), a component each, beside genotypes or alone",
    )  # fmt: skip
    group.add_argument(
        "--dominance", action="store_true", help="add a component of dominance deviations of all variants (CPU only)"
    )
    group.add_argument(
        "--admix-q", metavar="FILE",
        help="ancestry proportions (ADMIXTURE's .Q): a genetic variance for each ancestry, sqrt(q_a) K sqrt(q_a)",
    )  # fmt: skip
    group.add_argument("--admix-fam", metavar="FILE", help="samples of the rows of --admix-q (default: its .fam)")
    group.add_argument("--admix-component-names", metavar="NAME,NAME...", help="names of the ancestries")
    group.add_argument(
        "--admix-residual-mode", choices=("shared", "per-ancestry"), default="shared",
        help="one residual variance, or one for each ancestry in proportion to it (default shared)",
    )  # fmt: skip
    group.add_argument(
        "--gxe", metavar="FILE",
        help="environments, FID IID value...: components E K E, and E itself as a fixed effect",
    )  # fmt: skip
    group.add_argument("--gxe-noise", action="store_true", help="add residuals whose variance is that of E squared")
    group.add_argument(
        "--gxe-scale", choices=("standard", "none"), default="standard",
        help="environments with mean 0 and SD 1 among the analysed samples (default), or as they are",
    )  # fmt: skip
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--residual-weights", metavar="FILE",
        help="FID IID w...: the residual of a sample has variance w times one that is estimated, for every column w",
    )  # fmt: skip
    which.add_argument(
        "--residual-groups", metavar="FILE", help="FID IID group: a residual variance for each group of samples"
    )
