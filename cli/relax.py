"""Entry point of ``gpu-reml-relax``: soft grouping of variants by gradient steps on the REML likelihood."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from .flags.accepted import TITLE, Determinants, Loud, Width
from .flags.compute import Compute, add_devices
from .flags.data import ONE_FILESET, PHENOTYPE, Filesets, Samples
from .flags.relax import GroupFits, Grouping, RelaxOutput
from .parser import EXIT_CODES, Need, Parser
from .process import entry_point
from .run import run_command

FIRST = "--bfile --pheno --pheno-name --qcovar --covar --n-groups --outer-iters --theta-lr --report --out".split()
WORDS = {
    "--bfile": "PLINK 1 fileset; one is taken, whose variants are shared among the groups",
    "--pfile": "PLINK 2 fileset (.pgen, .pvar or .pvar.zst, .psam)",
    "--pheno-name": "name of the phenotype column; one is analysed",
}
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
        first=FIRST,
        needs=(ONE_FILESET, PHENOTYPE, Need("--n-groups G", ("--n-groups",))),
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {number}")
    parser.add_flags("data", Filesets, Samples)
    parser.add_flags("grouping", Grouping)
    parser.add_flags("REML fits", GroupFits)
    add_devices(parser.add_flags("compute", Compute))
    parser.add_flags("output", RelaxOutput)
    parser.add_flags(TITLE, Width, Determinants, Loud)
    parser.reword(WORDS)
    return parser


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Run gpu-reml-relax; returns the exit code."""
    line = make_relax_parser(version("gpu-reml")).read(argv)

    def command(threads: int) -> bool:
        from .relax_run import relax_command

        return relax_command(line, threads)

    return run_command("gpu-reml-relax", command, line.values["threads"], "nothing is written before the end")


if __name__ == "__main__":
    sys.exit(main())
