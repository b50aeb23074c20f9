"""Entry point of ``gpu-reml-gwas``: tests of every variant, by least squares or with a mixed model."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from .main import run_command
from .numbers import at_least, count, fraction, number, positive_float, positive_int
from .options import EXAMPLE, NEEDS, add_compute, add_data, add_filters, with_defaults
from .parser import EXIT_CODES, Options, Parser
from .process import entry_point

EPILOG = """\
examples:
  gpu-reml-gwas --bfile data --pheno pheno.txt --qcovar age.txt --out height
  gpu-reml-gwas --bfile data --pheno pheno.txt --pheno-name height,weight --model loco --gz --plots --out traits

models:
  ols   y = X b + z beta + e by least squares, in one read of the genotypes for any number of traits (the default: what
        the reference system's command gives)
  loco  adds u with variance theta_g K, K of all other chromosomes: for relatives, structure, and more power
  lmm   the same with K of all variants, that of the test among them: conservative

loco and lmm test by the score z'Py with the variance gamma z'Mz; gamma is estimated from solves for random variants,
and how far single variants scatter about it is printed (BOLT-LMM-inf, GRAMMAR-gamma). The strongest variants are tested
once more by generalised least squares (--refine; METHOD in the table says which). --method exact makes no
approximation, for small cohorts, and is what auto takes there. The effect is of one copy of A1, the counted allele.
"""


def make_gwas_parser(number: str) -> Parser:
    """The parser of gpu-reml-gwas; ``number``: the version."""
    parser = Parser(
        prog="gpu-reml-gwas",
        description="Test every variant for association with quantitative traits.",
        epilog=EPILOG + EXIT_CODES,
        example=EXAMPLE,
        needs=NEEDS,
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {number}")
    add_data(parser.add_argument_group("data; several filesets are one genome"))
    add_filters(parser.add_argument_group("variants and samples, with PLINK's meaning and order"))
    add_association(parser.add_argument_group("association"))
    add_compute(parser.add_argument_group("compute"))
    add_output(parser.add_argument_group("output"))
    return parser


def add_association(group) -> None:
    group.add_argument("--model", choices=("ols", "loco", "lmm"), default="ols", help="see below (default ols)")
    group.add_argument(
        "--method", dest="solver", choices=("auto", "score", "exact"), default="auto",
        help="of loco and lmm. exact: dense, float64, h2 fitted for every chromosome; n^2 memory, n^3 time for each. "
        "auto (default): exact where that costs little, as in gpu-reml, otherwise score",
    )  # fmt: skip
    group.add_argument(
        "--refine", type=fraction, metavar="P",
        help="test variants with p <= P by score once more by generalised least squares, 10 to 30 column-passes each "
        "(default 1e-5; 0 for none, 1 for all)",
    )  # fmt: skip
    group.add_argument(
        "--refine-most", type=count, metavar="N",
        help="refine the N most significant variants of a phenotype at most (default 100)",
    )  # fmt: skip
    group.add_argument(
        "--loco-refit", action="store_true",
        help="fit the variance components once more for every chromosome left out, not once on the whole genome",
    )  # fmt: skip
    group.add_argument(
        "--calibration-variants", type=at_least(2, "variants"), metavar="N",
        help="random variants that calibrate the variance of the score (default: 32 at a time, up to 256, until its "
        "standard error is 1 percent)",
    )  # fmt: skip
    group.add_argument(
        "--alpha", type=number, metavar="A", help="weigh the variants of K by [2p(1-p)]^(1 + A); -1 is the usual GRM"
    )
    group.add_argument(
        "--max-probes", "--n-rand-vec", dest="max_probes", type=positive_int, default=256, metavar="N",
        help="most probes of the REML fit (default 256)",
    )  # fmt: skip
    group.add_argument(
        "--mc-target", type=positive_float, default=0.1, metavar="X",
        help="add probes until the Monte-Carlo error of the REML fit is at most X standard errors (default 0.1)",
    )  # fmt: skip
    group.add_argument("--seed", type=count, default=0, metavar="N", help="of probes and calibration (default 0)")


def add_output(group) -> None:
    group.add_argument(
        "--out", "--out-prefix", dest="out", metavar="PREFIX", default="gpu_reml",
        help="results go to PREFIX.gwas.tsv and PREFIX.gwas_metadata.json, or PREFIX.TRAIT.gwas.tsv and so on for "
        "several traits (default gpu_reml)",
    )  # fmt: skip
    group.add_argument("--gz", action="store_true", help="compress the table: PREFIX.gwas.tsv.gz")
    group.add_argument(
        "--plots", action="store_true", help="draw PREFIX.manhattan.svg and PREFIX.qq.svg (no package is needed)"
    )
    group.add_argument("--keep-out", metavar="FILE", help="write the analysed samples")
    group.add_argument("--dropped-out", metavar="FILE", help="write the samples left out, with the reason")
    group.add_argument(
        "--call-width", type=count, default=0, metavar="N",
        help="accepted; how many variants are worked on at once follows from the memory there is",
    )  # fmt: skip
    group.add_argument("--verbose", action="store_true", help="accepted; this is the default")
    group.add_argument("--quiet", "--non-verbose", dest="quiet", action="store_true", help="print only the results")


def parse(argv: Sequence[str] | None) -> Options:
    """Options of gpu-reml-gwas, and gpu-reml's defaults for what this command does not ask."""
    return with_defaults(make_gwas_parser(version("gpu-reml")), argv)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Run gpu-reml-gwas; returns the exit code."""
    options = parse(argv)

    def command(threads: int) -> bool:
        from .gwas_run import gwas_command

        return gwas_command(options, threads)

    return run_command("gpu-reml-gwas", command, options.threads, "nothing is written before the end")


if __name__ == "__main__":
    sys.exit(main())
