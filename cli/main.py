"""Entry point of ``gpu-reml``: REML variance components; PLINK and GCTA spelling first, GPU_REML's as
aliases."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from .flags.accepted import TITLE, Determinants, Preconditioner, SmileSearch, Width
from .flags.alpha import Learned
from .flags.components import Components
from .flags.compute import Compute, add_devices
from .flags.data import EXAMPLE, GENOTYPES, GENOTYPES_HELP, Genotypes, Samples
from .flags.effects import Effects, NewSamples
from .flags.estimation import Estimation, Tests
from .flags.filters import Filters
from .flags.merge import Merge
from .flags.model import Scaling, Terms
from .flags.output import Checkpoints, RemlOutput, Screen
from .flags.parts import ByParts
from .flags.rg import Correlations
from .flags.scan import Scan
from .flags.smile import Smile
from .flags.workers import Workers
from .parser import EXIT_CODES, Need, Parser
from .process import entry_point
from .run import run_command, saved_text

WITHOUT = ("--grm", "--mgrm", "--pedigree", "--random")  # these need no genotypes
FIRST = "--bfile --pheno --pheno-name --qcovar --covar --maf --maf-bins --ld-bins --report --out".split()
EPILOG = """\
examples:
  gpu-reml --bfile data --pheno pheno.txt --pheno-name height --qcovar age.txt --covar sex.txt --out height
  gpu-reml --bfile common,rare --pheno pheno.txt --out two_components
  gpu-reml --bfile data --component-spec sets.json --pheno pheno.txt --out partitioned
  gpu-reml --bfile data --maf-bins 0.05,0.2 --ld-bins 4 --pheno pheno.txt --report --out ldms
  gpu-reml --bfile data --pheno pheno.txt --pheno-name height,weight --rg --out rg
"""


def make_parser(version: str) -> Parser:
    """The parser of gpu-reml."""
    parser = Parser(
        prog="gpu-reml",
        description="REML variance components and SNP heritability from packed genotypes, matrix-free.\n"
        "--bfile, --pheno and --out are enough to begin; --qcovar and --covar take covariates.",
        epilog=EPILOG + EXIT_CODES,
        example=EXAMPLE,
        first=FIRST,
        needs=(
            Need(f"{GENOTYPES_HELP}, or --grm PREFIX, --pedigree FILE or --random FILE)", (*GENOTYPES, *WITHOUT)),
            Need("--pheno FILE", ("--pheno",), unless=("--make-grm", "--pca")),
        ),
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {version}")
    parser.add_flags("data", Genotypes, Samples)
    parser.add_flags("variants and samples, with PLINK's meaning and order", Filters)
    parser.add_flags("variance components; several kinds may be combined", Components)
    parser.add_flags("SMILE: dense blocks of weights between variants", Smile)
    parser.add_flags("relationship matrices, ancestry, environments, residuals", Terms)
    parser.add_flags("merging weak components", Merge)
    parser.add_flags("model and accuracy", Scaling, Learned, Estimation, Tests)
    add_devices(parser.add_flags("compute", Compute))
    parser.add_flags("several processes or machines (docs/cluster.md)", Workers, ByParts)
    parser.add_flags("effects, prediction, cross-validation", Effects, NewSamples)
    parser.add_flags("tests of many sets after the fit", Scan)
    parser.add_flags("genetic correlations of several phenotypes", Correlations)
    parser.add_flags("output", RemlOutput, Checkpoints, Screen)
    parser.add_flags(TITLE, Width, Determinants, Preconditioner, SmileSearch)
    return parser


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Run gpu-reml; returns the exit code."""
    line = make_parser(version("gpu-reml")).read(argv)

    def command(threads: int) -> bool:
        from .reml import reml_command

        return reml_command(line, threads)

    def saved() -> str:
        return saved_text(line.values["out"])

    return run_command("gpu-reml", command, line.values["threads"], saved)


if __name__ == "__main__":
    sys.exit(main())
