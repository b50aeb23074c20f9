"""Entry point of ``gpu-reml-gwas``: tests of every variant, by least squares or with a mixed model."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from .flags.accepted import TITLE, Loud, Width
from .flags.association import Association, GwasOutput, NullModel, Steps
from .flags.compute import Compute, add_devices
from .flags.data import EXAMPLE, GENOME, Genome, Samples
from .flags.filters import Filters
from .flags.output import Checkpoints
from .flags.workers import Workers
from .parser import EXIT_CODES, Parser
from .process import entry_point
from .run import run_command, saved_text

FIRST = "--bfile --pheno --pheno-name --qcovar --covar --model --maf --gz --report --out".split()
WORDS = {
    "--bfile": "PLINK 1 filesets; several, separated by commas, are pieces of one genome",
    "--pfile": "PLINK 2 filesets (.pgen, .pvar or .pvar.zst, .psam); several are pieces of one genome",
    "--pheno-name": "names of phenotype columns, or all; several are tested in one scan, each with a table of its own",
    "--verbose": "what is found is printed as it is found, unless --quiet is given",
}
EPILOG = """\
examples:
  gpu-reml-gwas --bfile data --pheno pheno.txt --qcovar age.txt --out height
  gpu-reml-gwas --bfile data --pheno pheno.txt --pheno-name height,weight --model loco --gz --plots --out traits
  gpu-reml-gwas --step 1 --bfile data --model-extract pruned.txt --pheno pheno.txt --out height
  gpu-reml-gwas --step 2 --null height.null.npz --pfile imputed_chr1 --dosage --out height.chr1

models:
  ols   y = X b + z beta + e by least squares, in one read of the genotypes for any number of traits (the default: what
        GPU_REML's command gives)
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
        first=FIRST,
        needs=(GENOME[0], GENOME[1]._replace(unless=("--null",))),
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {number}")
    parser.add_flags("data; several filesets are one genome", Genome, Samples)
    parser.add_flags("variants and samples, with PLINK's meaning and order", Filters)
    parser.add_flags("association", Association, NullModel, Steps)
    add_devices(parser.add_flags("compute", Compute))
    parser.add_flags("several processes or machines (docs/cluster.md)", Workers)
    parser.add_flags("output", GwasOutput, Checkpoints)
    parser.add_flags(TITLE, Width, Loud)
    parser.reword(WORDS)
    return parser


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Run gpu-reml-gwas; returns the exit code."""
    line = make_gwas_parser(version("gpu-reml")).read(argv)

    def command(threads: int) -> bool:
        from .gwas_steps import scan_command

        return scan_command(line, threads)

    return run_command("gpu-reml-gwas", command, line.values["threads"], lambda: saved_text(line.values["out"]))


if __name__ == "__main__":
    sys.exit(main())
