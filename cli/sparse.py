"""Entry point of ``gpu-reml-sparse``: variants of large effect by a certified LASSO, everything else by REML."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from .main import run_command
from .numbers import count, not_negative, positive_float, positive_int, share
from .options import (
    EXAMPLE,
    NEEDS,
    add_components,
    add_compute,
    add_data,
    add_filters,
    add_ignored,
    add_model,
    with_defaults,
)
from .parser import EXIT_CODES, Options, Parser
from .process import entry_point

EPILOG = """\
example:
  gpu-reml-sparse --bed-prefix data --pheno-txt pheno.txt --covar-txt age.txt --out-prefix sparse

min_b 1/2 (y - Zb)'P(y - Zb) + lambda |b|_1 at the fitted variances, covariates profiled out, standardised genotypes; in
turns with REML that has the chosen variants as fixed effects. Effects are in the phenotype's units, of one standard
deviation and of one copy of a1, the counted allele.

With exit code 3 a limit was met; everything found so far is written, and says which limit.
"""


def make_sparse_parser(number: str) -> Parser:
    """The parser of gpu-reml-sparse; ``number``: the version."""
    parser = Parser(
        prog="gpu-reml-sparse",
        description="Choose variants of large effect by the LASSO under the fitted covariance; the rest by REML.",
        epilog=EPILOG + EXIT_CODES,
        example=EXAMPLE,
        needs=NEEDS,
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {number}")
    add_data(parser.add_argument_group("data"))
    add_filters(parser.add_argument_group("variants and samples, with PLINK's meaning and order"))
    add_components(parser.add_argument_group("variance components; several kinds may be combined"))
    add_model(parser.add_argument_group("REML fits"))
    add_rounds(parser.add_argument_group("rounds and candidates"))
    add_path(parser.add_argument_group("LASSO"))
    add_kkt(parser.add_argument_group("certificate over all variants"))
    add_compute(parser.add_argument_group("compute"))
    add_output(parser.add_argument_group("output"))
    ignored = parser.add_argument_group("accepted from the reference system, without effect: chosen here by need")
    add_ignored(ignored)
    for flag in ("--pcg-ridge", "--lasso-ridge", "--proj-ridge"):
        ignored.add_argument(flag, type=not_negative, metavar="X", help="no ridge is added anywhere")
    return parser


def add_rounds(group) -> None:
    group.add_argument(
        "--outer-max", type=positive_int, default=6, metavar="N", help="most rounds of LASSO and REML (default 6)"
    )
    group.add_argument(
        "--support-stable-rounds", type=positive_int, default=1, metavar="N",
        help="rounds running in which variants and variances must be the same (default 1)",
    )  # fmt: skip
    group.add_argument(
        "--vc-rel-tol", type=positive_float, default=1e-2, metavar="X",
        help="largest change of a variance, as a share of the phenotypic one, that counts as the same (default 0.01)",
    )  # fmt: skip
    group.add_argument(
        "--candidate-k", type=positive_int, default=256, metavar="N",
        help="variants of largest score |z'Py| that the LASSO begins with, those of the last round first (default 256)",
    )  # fmt: skip
    group.add_argument(
        "--screen-topk", type=positive_int, default=2000, metavar="N",
        help="most variants that screening keeps; fewer than --candidate-k limit the candidates (default 2000)",
    )  # fmt: skip
    group.add_argument(
        "--max-active", type=positive_int, default=128, metavar="N",
        help="most variants that may be chosen; a path that wants more ends there and the run says so (default 128)",
    )  # fmt: skip
    group.add_argument(
        "--pcg-tol", type=share, default=1e-4, metavar="X",
        help="relative residual of the candidates' solves; the LASSO errs by its square (default 1e-4). Those of the "
        "phenotype go to 1e-6, or 1e-10 with --dtype float64",
    )  # fmt: skip
    group.add_argument(
        "--max-pcg-iters", type=positive_int, default=400, metavar="N", help="most PCG steps of a solve (default 400)"
    )


def add_path(group) -> None:
    group.add_argument(
        "--lasso-n-lambda", type=positive_int, default=60, metavar="N", help="values of lambda, geometric (default 60)"
    )
    group.add_argument(
        "--lasso-lam-min-ratio", type=share, default=0.05, metavar="X", help="last lambda / the first (default 0.05)"
    )
    group.add_argument(
        "--lasso-ebic-gamma", type=not_negative, metavar="X",
        help="penalty on the number of models of a size: a variant pays if its squared z is above log n + 2 X log p or "
        "so; 0 is BIC (default 1; with --lasso-ebic-rss lasso 0.5, as in the reference system)",
    )  # fmt: skip
    group.add_argument(
        "--ebic-p-mode", choices=("candidate", "full"), default="full",
        help="variants among which EBIC thinks the choice was made: all of them (default), or the candidates as in the "
        "reference system, which is too lenient since the same phenotype chose those",
    )  # fmt: skip
    group.add_argument(
        "--lasso-ebic-rss", choices=("refit", "lasso"), default="refit",
        help="residuals that EBIC takes: of least squares on each model's variants (default), or the LASSO's own as in "
        "the reference system, by which noise pays where it lets large effects be shrunk less",
    )  # fmt: skip
    group.add_argument(
        "--lasso-ebic-early-stop", action=argparse.BooleanOptionalAction, default=False,
        help="end the path after 10 values of lambda without a lower EBIC. Default off: the whole path takes no time "
        "beside the rest, and many variants that enter together may not pay for their number at once",
    )  # fmt: skip
    group.add_argument(
        "--lasso-ebic-es-min-delta", type=not_negative, default=0.0, metavar="X", help="what counts as lower (0)"
    )
    group.add_argument(
        "--lasso-cd-max-iter", type=positive_int, default=2000, metavar="N",
        help="most sweeps of coordinate descent for one lambda (default 2000)",
    )  # fmt: skip
    group.add_argument(
        "--lasso-cd-tol", type=positive_float, default=1e-6, metavar="X",
        help="largest change of a coefficient, in its standard errors, that ends it (default 1e-6)",
    )  # fmt: skip
    group.add_argument(
        "--lasso-active-set-period", type=positive_int, default=5, metavar="N",
        help="sweeps over active variants between two over all (default 5)",
    )  # fmt: skip


def add_kkt(group) -> None:
    group.add_argument(
        "--kkt-check", action=argparse.BooleanOptionalAction, default=True,
        help="check the solution's conditions for every variant, and add those that violate them (default on)",
    )  # fmt: skip
    for flag, what in (("--kkt-tol", "least"), ("--kkt-rel-tol", "times max(1, lambda)")):
        group.add_argument(
            flag, type=not_negative, default=1e-5, metavar="X",
            help=f"tolerance for a gradient beyond lambda, {what}, phenotype of unit variance (default 1e-5)",
        )  # fmt: skip
    group.add_argument(
        "--kkt-add-topk", type=positive_int, default=256, metavar="N", help="violators added at a time (default 256)"
    )
    group.add_argument(
        "--kkt-max-rounds", type=positive_int, default=20, metavar="N", help="most checks of a LASSO (default 20)"
    )
    group.add_argument(
        "--kkt-max-candidate", type=count, default=0, metavar="N", help="most candidates (default 0: no limit)"
    )


def add_output(group) -> None:
    group.add_argument(
        "--out", "--out-prefix", dest="out", metavar="PREFIX", default="sparse_reml",
        help="results go to PREFIX.summary.json, .history.json, .selected_snps.tsv, .path.tsv and .path.svg "
        "(default sparse_reml)",
    )  # fmt: skip
    group.add_argument("--keep-out", metavar="FILE", help="write the analysed samples")
    group.add_argument("--dropped-out", metavar="FILE", help="write the samples left out, with the reason")
    group.add_argument("--verbose", action="store_true", help="print every iteration of the REML fits")
    group.add_argument("--quiet", "--non-verbose", dest="quiet", action="store_true", help="print only the results")


def parse(argv: Sequence[str] | None) -> Options:
    """Options of gpu-reml-sparse, and gpu-reml's defaults for what this command does not ask."""
    return with_defaults(make_sparse_parser(version("gpu-reml")), argv)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Run gpu-reml-sparse; returns the exit code."""
    options = parse(argv)

    def command(threads: int) -> bool:
        from .sparse_run import sparse_command

        return sparse_command(options, threads)

    hint = f"rounds that were finished, if any, are in {options.out}.history.json"
    return run_command("gpu-reml-sparse", command, options.threads, hint)


if __name__ == "__main__":
    sys.exit(main())
