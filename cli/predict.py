"""Entry point of ``gpu-reml-predict``: genetic values and phenotypes of other samples from a saved model."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from .effects_options import add_ambiguous
from .main import run_command
from .numbers import positive_int, threads
from .parser import Need, Options, Parser
from .process import entry_point

EPILOG = """\
example:
  gpu-reml --bfile data --pheno pheno.txt --qcovar age.txt --save-model height.model.npz --out height
  gpu-reml-predict --model height.model.npz --bfile other --qcovar other_age.txt --out other

Variants are found by id, else by chromosome and position; swapped alleles and other strands are set right and counted.
A variant that is not there, or a genotype that is missing, is the mean of the samples that the model was fitted to.
Components by ancestry or environment need those of the predicted samples: --admix-q, --gxe.
With --pheno the accuracy is reported, which is that of new samples only if none of them was in the fit.

exit codes: 0 done, 2 invalid input or unwritable output, 4 device lost or out of memory, 130 interrupted,
143 ended by TERM.
"""


def make_predict_parser(number: str) -> Parser:
    """The parser of gpu-reml-predict; ``number``: the version."""
    parser = Parser(
        prog="gpu-reml-predict",
        description="Predict phenotypes and genetic values of other samples from a model that gpu-reml saved.",
        epilog=EPILOG,
        example="--model height.npz --bfile other --out other",
        needs=(
            Need("--model FILE", ("--model",)),
            Need("genotypes (--bfile PREFIX, --pfile PREFIX or --bgen FILE)", ("--bfile", "--pfile", "--bgen")),
        ),
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {number}")
    parser.add_argument("--model", metavar="FILE", help="what gpu-reml --save-model wrote")
    add_genotypes(parser.add_argument_group("genotypes; several files are pieces of one genome"))
    add_samples(parser.add_argument_group("samples"))
    add_compute(parser.add_argument_group("compute and output"))
    return parser


def add_genotypes(group) -> None:
    several = "PREFIX[,PREFIX...]"
    which = group.add_mutually_exclusive_group()
    which.add_argument("--bfile", "--bed-prefix", dest="bfile", metavar=several, help="PLINK 1 filesets")
    which.add_argument("--pfile", "--pgen-prefix", dest="pfile", metavar=several, help="PLINK 2 filesets")
    which.add_argument("--bgen", metavar="FILE", help="BGEN 1.2 or 1.3")
    group.add_argument("--sample", metavar="FILE", help="samples of --bgen, where the file does not hold them")
    group.add_argument("--dosage", action="store_true", help="take dosages of .pgen and .bgen, not calls")
    add_ambiguous(group)


def add_samples(group) -> None:
    group.add_argument(
        "--qcovar", "--covar-txt", dest="qcovar", metavar="FILE",
        help="quantitative covariates, in columns named as in the fit",
    )  # fmt: skip
    group.add_argument("--covar", metavar="FILE", help="categorical covariates, likewise, with levels of the fit")
    group.add_argument(
        "--admix-q", metavar="FILE",
        help="ancestry proportions (.Q), for a model with ancestries, in the order of the fit's columns",
    )  # fmt: skip
    group.add_argument("--admix-fam", metavar="FILE", help="samples of the rows of --admix-q (default: its .fam)")
    group.add_argument(
        "--admix-component-names", metavar="NAME,NAME...",
        help="names that the fit's ancestries have, in the order of these columns, where it is another",
    )  # fmt: skip
    group.add_argument(
        "--gxe", metavar="FILE",
        help="environments, for a model with some, in columns named as in the fit (or they are in --qcovar)",
    )  # fmt: skip
    group.add_argument(
        "--genetic-only", action="store_true", help="genetic values alone, without covariates and without y_pred"
    )
    group.add_argument(
        "--pheno", "--pheno-txt", dest="pheno", metavar="FILE", help="phenotypes, to report the accuracy"
    )
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--pheno-name", metavar="NAME", help="phenotype column by name (default: the model's, or the first)"
    )
    which.add_argument("--mpheno", type=positive_int, metavar="N", help="phenotype column by number")
    group.add_argument("--keep", "--keep-path", dest="keep", metavar="FILE", help="predict only these samples")
    group.add_argument("--remove", metavar="FILE", help="leave these samples out")


def add_compute(group) -> None:
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "gpu"), default="auto",
        help="auto (default) takes a CUDA device when there is one; gpu is another name of cuda",
    )  # fmt: skip
    group.add_argument(
        "--threads", "--cpu-threads", dest="threads", type=threads, default=0, metavar="N",
        help="CPU threads (default 0: all that this process may use)",
    )  # fmt: skip
    group.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="precision of the genotype products (default float32)",
    )
    group.add_argument(
        "--out", "--out-prefix", dest="out", metavar="PREFIX", default="gpu_reml_predict",
        help="results go to PREFIX.prediction.tsv and PREFIX.prediction_metadata.json (default gpu_reml_predict)",
    )  # fmt: skip
    group.add_argument("--quiet", "--non-verbose", dest="quiet", action="store_true", help="print nothing but errors")


def parse(argv: Sequence[str] | None) -> Options:
    """Options of gpu-reml-predict."""
    return make_predict_parser(version("gpu-reml")).parse_args(argv)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Run gpu-reml-predict; returns the exit code."""
    options = parse(argv)

    def command(threads: int) -> bool:
        from .predict_run import predict_command

        return predict_command(options)

    return run_command("gpu-reml-predict", command, options.threads, "nothing is written before the end")


if __name__ == "__main__":
    sys.exit(main())
