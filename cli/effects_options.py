"""Flags for what is done with a fit besides reporting it; shared with gpu-reml-predict."""

from .numbers import at_least, positive_int


def add_effects(group) -> None:
    """The flags of this module."""
    group.add_argument(
        "--compute-effects", action="store_true",
        help="write fixed effects with their tests, genetic values (BLUPs) and effects of variants, by id and allele",
    )  # fmt: skip
    group.add_argument(
        "--reliability", type=positive_int, metavar="N",
        help="with --compute-effects: reliability of every genetic value, estimated by N probes",
    )  # fmt: skip
    group.add_argument(
        "--save-model", metavar="FILE", help="write what gpu-reml-predict needs (FILE.npz; with traits, FILE.NAME.npz)"
    )
    several_prefixes = "PREFIX[,PREFIX...]"
    group.add_argument(
        "--prediction-bed-prefix", "--prediction-bfile", dest="prediction_bfile", metavar=several_prefixes,
        help="predict the samples of these PLINK 1 filesets, pieces of one genome",
    )  # fmt: skip
    group.add_argument(
        "--prediction-pgen-prefix", "--prediction-pfile", dest="prediction_pfile", metavar=several_prefixes,
        help="predict the samples of these PLINK 2 filesets",
    )  # fmt: skip
    group.add_argument(
        "--prediction-covar-txt", "--prediction-qcovar", dest="prediction_qcovar", metavar="FILE",
        help="their quantitative covariates, in columns named as in --qcovar",
    )  # fmt: skip
    group.add_argument("--prediction-covar", metavar="FILE", help="their categorical covariates, as in --covar")
    group.add_argument(
        "--prediction-admix-q", metavar="FILE",
        help="their ancestry proportions, in columns of --admix-q's ancestries in the same order",
    )  # fmt: skip
    group.add_argument(
        "--prediction-admix-fam", metavar="FILE", help="samples of the rows of --prediction-admix-q (default: its .fam)"
    )
    group.add_argument(
        "--prediction-admix-component-names", metavar="NAME,NAME...",
        help="the ancestries' names in the order of these columns, where it is another",
    )  # fmt: skip
    group.add_argument(
        "--prediction-gxe", metavar="FILE", help="their environments, in columns named as in --gxe, FID IID value..."
    )
    add_ambiguous(group)
    group.add_argument(
        "--cv", type=at_least(2, "folds"), metavar="K",
        help="predict every sample from the others, in K random folds at the variances of the whole fit",
    )  # fmt: skip


def add_ambiguous(group) -> None:
    group.add_argument(
        "--ambiguous", choices=("keep", "drop"), default="keep",
        help="A/T and C/G variants, whose strand cannot be told: alleles as written (default), or left out",
    )  # fmt: skip
