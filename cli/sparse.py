"""Entry point of ``gpu-reml-sparse``: variants of large effect by a certified LASSO, everything else by REML."""

import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version

from .flags.accepted import TITLE, Determinants, Preconditioner, Ridges, Width
from .flags.components import Components
from .flags.compute import Compute, add_devices
from .flags.data import EXAMPLE, NEEDS, Genotypes, Samples
from .flags.estimation import Estimation
from .flags.filters import Filters
from .flags.model import Scaling
from .flags.output import Screen
from .flags.sparse import Certificate, Path, Rounds, SparseOutput
from .parser import EXIT_CODES, Parser
from .process import entry_point
from .run import run_command

FIRST = "--bfile --pheno --pheno-name --qcovar --covar --maf --candidate-k --max-active --report --out".split()
WORDS = {"--pheno-name": "name of the phenotype column; one is analysed"}
EPILOG = """\
example:
  gpu-reml-sparse --bfile data --pheno pheno.txt --qcovar age.txt --report --out sparse

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
        first=FIRST,
        needs=NEEDS,
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {number}")
    parser.add_flags("data", Genotypes, Samples)
    parser.add_flags("variants and samples, with PLINK's meaning and order", Filters)
    parser.add_flags("variance components; several kinds may be combined", Components)
    parser.add_flags("REML fits", Scaling, Estimation)
    parser.add_flags("rounds and candidates", Rounds)
    parser.add_flags("LASSO", Path)
    parser.add_flags("certificate over all variants", Certificate)
    add_devices(parser.add_flags("compute", Compute))
    parser.add_flags("output", SparseOutput, Screen)
    parser.add_flags(TITLE, Width, Determinants, Preconditioner, Ridges)
    parser.reword(WORDS)
    return parser


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Run gpu-reml-sparse; returns the exit code."""
    line, started = make_sparse_parser(version("gpu-reml")).read(argv), time.time()

    def command(threads: int) -> bool:
        from .sparse_run import sparse_command

        return sparse_command(line, threads)

    def saved() -> str:
        path = f"{line.values['out']}.history.json"
        is_new = os.path.exists(path) and os.path.getmtime(path) >= started
        return (
            f"saved: the rounds that were finished, in {path}" if is_new else "nothing was saved: no round was finished"
        )

    return run_command("gpu-reml-sparse", command, line.values["threads"], saved)


if __name__ == "__main__":
    sys.exit(main())
