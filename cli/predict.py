"""Entry point of ``gpu-reml-predict``: genetic values and phenotypes of other samples from a saved model."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from .flags.compute import Device
from .flags.effects import Matching
from .flags.predict import NewTables, Pieces, Predicted, PredictOutput
from .parser import Need, Parser
from .process import entry_point
from .run import run_command

FIRST = "--model --bfile --pfile --qcovar --covar --pheno --keep --report --out".split()
EPILOG = """\
example:
  gpu-reml --bfile data --pheno pheno.txt --qcovar age.txt --save-model height.model.npz --out height
  gpu-reml-predict --model height.model.npz --bfile other --qcovar other_age.txt --out other

Variants are found by id, else by chromosome and position; swapped alleles and other strands are set right and counted.
A variant that is not there, or a genotype that is missing, is the mean of the samples that the model was fitted to.
Components by ancestry or environment need those of the predicted samples: --admix-q, --gxe.
Animals, people of a matrix and people with records have the values that the fit gave them; --random names groups.
A model without effects of variants needs no genotypes: all whom it knows are predicted.
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
        first=FIRST,
        needs=(Need("--model FILE", ("--model",)),),
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {number}")
    parser.add_flags("genotypes; several files are pieces of one genome", Pieces, Matching)
    parser.add_flags("model and samples", Predicted, NewTables)
    parser.add_flags("compute and output", Device, PredictOutput)
    return parser


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Run gpu-reml-predict; returns the exit code."""
    line = make_predict_parser(version("gpu-reml")).read(argv)

    def command(threads: int) -> bool:
        from .predict_command import predict_command

        return predict_command(line)

    return run_command("gpu-reml-predict", command, line.values["threads"], "nothing is written before the end")


if __name__ == "__main__":
    sys.exit(main())
