"""Prediction from a saved model: gpu-reml-predict."""

from dataclasses import dataclass

from ..numbers import positive_int
from .data import SEVERAL
from .group import Flags, flag
from .output import OUT, report_flag


@dataclass(frozen=True)
class Pieces(Flags):
    """Genotype files of the predicted samples, pieces of one genome."""

    bfile: str | None = flag("--bfile", "--bed-prefix", metavar=SEVERAL, unless="genotypes", help="PLINK 1 filesets")
    pfile: str | None = flag("--pfile", "--pgen-prefix", metavar=SEVERAL, unless="genotypes", help="PLINK 2 filesets")
    bgen: str | None = flag("--bgen", metavar="FILE", unless="genotypes", help="BGEN 1.2 or 1.3")
    sample: str | None = flag(
        "--sample", metavar="FILE", help="the .sample file of --bgen, where the BGEN file has no sample ids"
    )
    dosage: bool = flag(
        "--dosage",
        action="store_true",
        default=False,
        help="predict from the dosages of .pgen and .bgen files instead of their calls",
    )


@dataclass(frozen=True)
class NewTables(Flags):
    """What is known of the predicted samples beside genotypes."""

    qcovar: str | None = flag(
        "--qcovar", "--covar-txt", metavar="FILE", help="quantitative covariates, in columns named as in the fit"
    )
    covar: str | None = flag(
        "--covar", metavar="FILE", help="categorical covariates, in columns named and with levels as in the fit"
    )
    admix_q: str | None = flag(
        "--admix-q", metavar="FILE",
        help="ancestry proportions (.Q) for a model with ancestries, in the order of the fit's columns",
    )  # fmt: skip
    admix_fam: str | None = flag(
        "--admix-fam", metavar="FILE", help="the .fam file of the rows of --admix-q (default: that beside it)"
    )
    admix_component_names: str | None = flag(
        "--admix-component-names", metavar="NAME,NAME...",
        help="the names of the fit's ancestries in the order of these columns, where that is another",
    )  # fmt: skip
    gxe: str | None = flag(
        "--gxe", metavar="FILE",
        help="environments for a model with some, in columns named as in the fit (they may also be in --qcovar)",
    )  # fmt: skip
    random: str | None = flag(
        "--random", metavar="FILE[,FILE...]",
        help="groups for a model with effects of some, in columns named as in the fit; a sample without one, or of a "
        "group that was not in the fit, has 0 of it",
    )  # fmt: skip


@dataclass(frozen=True)
class Predicted(Flags):
    """Who is predicted, and what the predictions are compared with."""

    model: str | None = flag("--model", metavar="FILE", help="the file that gpu-reml --save-model wrote")
    genetic_only: bool = flag(
        "--genetic-only", action="store_true", default=False,
        help="predict genetic values alone, without covariates and without y_pred",
    )  # fmt: skip
    pheno: str | None = flag(
        "--pheno", "--pheno-txt", metavar="FILE", help="phenotypes of the predicted samples, to report the accuracy"
    )
    pheno_name: str | None = flag(
        "--pheno-name", metavar="NAME", unless="mpheno",
        help="name of the phenotype column (default: the model's, or the first)",
    )  # fmt: skip
    mpheno: int | None = flag(
        "--mpheno", type=positive_int, metavar="N", unless="mpheno", help="number of the phenotype column"
    )
    keep: str | None = flag("--keep", "--keep-path", metavar="FILE", help="predict only these samples")
    remove: str | None = flag("--remove", metavar="FILE", help="leave out these samples")


@dataclass(frozen=True)
class PredictOutput(Flags):
    """Where predictions go."""

    out: str = flag(
        "--out", "--out-prefix", default="gpu_reml_predict",
        help="results go to PREFIX.prediction.tsv and PREFIX.prediction_metadata.json (default gpu_reml_predict)",
        **OUT,
    )  # fmt: skip
    report: bool = report_flag(
        "prediction.report.html", "the predictions, their accuracy, which variants were found, and how it was computed"
    )
    quiet: bool = flag("--quiet", "--non-verbose", action="store_true", default=False, help="print nothing but errors")
