"""What is done with a fit besides reporting it: effects, a saved model, cross-validation, predictions."""

from dataclasses import dataclass

from ..numbers import at_least, positive_int
from .data import SEVERAL
from .group import Flags, flag


@dataclass(frozen=True)
class Matching(Flags):
    """How variants of other genotype files are found."""

    ambiguous: str = flag(
        "--ambiguous", choices=("keep", "drop"), default="keep",
        help="what happens to A/T and C/G variants, whose strand cannot be told: their alleles are taken as written "
        "(default keep), or they are left out",
    )  # fmt: skip


@dataclass(frozen=True)
class Effects(Flags):
    """What follows a fit in the same samples."""

    compute_effects: bool = flag(
        "--compute-effects", action="store_true", default=False,
        help="write fixed effects with their tests, genetic values (BLUPs) and effects of variants, by id and allele",
    )  # fmt: skip
    reliability: int | None = flag(
        "--reliability", type=positive_int, metavar="N",
        help="add the reliability of every genetic value to --compute-effects, and of every prediction to --save-model "
        "and --prediction-*, estimated with N random probes, or exactly with as many as samples",
    )  # fmt: skip
    save_model: str | None = flag(
        "--save-model",
        metavar="FILE",
        help="write what gpu-reml-predict needs to FILE.npz, or FILE.NAME.npz for each of several traits",
    )
    cv: int | None = flag(
        "--cv", type=at_least(2, "folds"), metavar="K",
        help="cross-validate: predict every sample from the others, in K random folds at the variances of the fit",
    )  # fmt: skip


@dataclass(frozen=True)
class NewSamples(Flags):
    """Other samples that are predicted in the same run."""

    prediction_bfile: str | None = flag(
        "--prediction-bed-prefix", "--prediction-bfile", metavar=SEVERAL,
        help="predict the samples of these PLINK 1 filesets, which are pieces of one genome",
    )  # fmt: skip
    prediction_pfile: str | None = flag(
        "--prediction-pgen-prefix", "--prediction-pfile", metavar=SEVERAL,
        help="predict the samples of these PLINK 2 filesets, likewise",
    )  # fmt: skip
    prediction_qcovar: str | None = flag(
        "--prediction-covar-txt", "--prediction-qcovar", metavar="FILE",
        help="quantitative covariates of the predicted samples, in columns named as in --qcovar",
    )  # fmt: skip
    prediction_covar: str | None = flag(
        "--prediction-covar",
        metavar="FILE",
        help="categorical covariates of the predicted samples, in columns named as in --covar",
    )

    @property
    def given(self) -> bool:
        """Whether there are samples to predict."""
        return bool(self.prediction_bfile or self.prediction_pfile)
