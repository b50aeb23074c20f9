"""Entry point of ``gpu-reml-relax``: soft grouping of variants by gradient steps on the REML likelihood."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from .main import run_command
from .numbers import at_least, count, not_negative, positive_float, positive_int, share
from .options import NEEDS, add_compute, add_data, with_defaults
from .parser import EXIT_CODES, Need, Options, Parser
from .process import entry_point

EPILOG = """\
example:
  gpu-reml-relax --bfile data --pheno pheno.txt --n-groups 3 --outer-iters 20 --out groups

Group g is the component Z diag(T_g) Z' / sum(T_g); the memberships T of a variant sum to 1. They start at random and
follow the gradient of the likelihood as long as it rises. Its value and the errors of the last fit are those of groups
chosen to raise it on the same phenotypes: they are no test of the groups.  When --outer-iters is used up while it still
rises, the last line says outer_limit; the exit code is that of the last fit.
"""


def make_relax_parser(number: str) -> Parser:
    """The parser of gpu-reml-relax; ``number``: the version."""
    parser = Parser(
        prog="gpu-reml-relax",
        description="Learn which of several variance components every variant belongs to.",
        epilog=EPILOG + EXIT_CODES,
        example="--bfile data --pheno pheno.txt --n-groups 3 --out groups",
        needs=(*NEEDS, Need("--n-groups G", ("--n-groups",))),
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {number}")
    add_data(parser.add_argument_group("data"))
    add_grouping(parser.add_argument_group("grouping"))
    add_fits(parser.add_argument_group("REML fits"))
    add_compute(parser.add_argument_group("compute"))
    add_output(parser.add_argument_group("output"))
    return parser


def add_grouping(group) -> None:
    group.add_argument("--n-groups", type=at_least(2, "groups"), metavar="G", help="groups, 2 or more")
    group.add_argument(
        "--outer-iters", type=positive_int, default=5, metavar="N",
        help="REML fits, those of rejected steps among them (default 5)",
    )  # fmt: skip
    group.add_argument(
        "--theta-lr", type=positive_float, metavar="R",
        help="rate of a step, T exp(R gradient) (default: from the gradient, so that a typical membership changes by a "
        "factor of e; the reference system's 1e-3 hardly moves them)",
    )  # fmt: skip
    group.add_argument(
        "--theta-linesearch-trials", type=positive_int, default=3, metavar="N",
        help="rejected steps in a row, each half the last, that end the search (default 3)",
    )  # fmt: skip
    start = group.add_mutually_exclusive_group()
    start.add_argument("--theta-init-npy", metavar="FILE", help="memberships to start from: .npy (variants, groups)")
    start.add_argument(
        "--theta-init", choices=("random", "uniform"), default="random",
        help="random numbers (default), each row divided by its sum; uniform is refused, since nothing tells its "
        "groups apart",
    )  # fmt: skip
    group.add_argument(
        "--theta-random-low",
        type=not_negative,
        default=0.0,
        metavar="X",
        help="least number of a random start (default 0)",
    )
    group.add_argument(
        "--theta-random-high", type=not_negative, default=1.0, metavar="X", help="its largest number (default 1)"
    )


def add_fits(group) -> None:
    group.add_argument(
        "--n-rand-vec", "--max-probes", dest="max_probes", type=positive_int, default=32, metavar="N",
        help="probes, all used in every fit (default 32)",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=count, default=0, metavar="N", help="of the probes and the random start (default 0)"
    )
    group.add_argument(
        "--minq-iter", "--max-iterations", dest="max_iterations", type=positive_int, default=20, metavar="N",
        help="most iterations of a fit (default 20)",
    )  # fmt: skip
    group.add_argument(
        "--max-pcg-iters", type=positive_int, default=400, metavar="N", help="most PCG steps of a solve (default 400)"
    )
    group.add_argument(
        "--pcg-tol", type=share, metavar="X",
        help="largest relative residual at which solves for phenotype and probes stop (default: what each needs)",
    )  # fmt: skip
    group.add_argument(
        "--h2-init", type=share, metavar="X",
        help="heritability at which the first fit starts, the same for all groups (default: Haseman-Elston estimates)",
    )  # fmt: skip
    for flag, what in (("--slq-samples", "all probes are used"), ("--slq-m", "steps are taken until it settles")):
        group.add_argument(flag, type=positive_int, metavar="N", help=f"accepted; for the log-determinant {what}")


def add_output(group) -> None:
    group.add_argument(
        "--out", "--out-prefix", dest="out", metavar="PREFIX", default="relaxation_grouping",
        help="results go to PREFIX.theta.npy (memberships), .var_components.npy, .theta_grad.npy, .history.json and "
        ".meta.json (default relaxation_grouping)",
    )  # fmt: skip
    group.add_argument(
        "--call-width", type=count, default=0, metavar="N",
        help="accepted; how many variants are worked on at once follows from the memory there is",
    )  # fmt: skip
    group.add_argument(
        "--reml-log-detail", choices=("off", "compact", "full"), default="compact",
        help="print the results only, a line for every outer iteration (default), or every iteration of the fits too",
    )  # fmt: skip
    group.add_argument("--reml-verbose", action="store_true", help="the same as --reml-log-detail full")
    group.add_argument("--verbose", action="store_true", help="accepted; this is the default")
    group.add_argument("--quiet", "--non-verbose", dest="quiet", action="store_true", help="print only the results")


def parse(argv: Sequence[str] | None) -> Options:
    """Options of gpu-reml-relax, and gpu-reml's defaults for what this command does not ask."""
    options = with_defaults(make_relax_parser(version("gpu-reml")), argv)
    options.method, options.first_probes = "stochastic", options.max_probes
    if options.reml_verbose:
        options.reml_log_detail = "full"
    if options.quiet:
        options.reml_log_detail = "off"
    return options


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Run gpu-reml-relax; returns the exit code."""
    options = parse(argv)

    def command(threads: int) -> bool:
        from .relax_run import relax_command

        return relax_command(options, threads)

    return run_command("gpu-reml-relax", command, options.threads, "nothing is written before the end")


if __name__ == "__main__":
    sys.exit(main())
