"""The parser of every command: what is wrong in one line, and the flag that was meant."""

import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from difflib import get_close_matches

# flags of other programs, and what to give here
ELSEWHERE = {
    "--reml": "gpu-reml always fits REML: leave it out",
    "--HEreg": "give --method he",
    "--mgrm": "give --grm A,B",
    "--mgrm-bin": "give --grm A,B",
    "--grm-bin": "give --grm",
    "--make-grm-bin": "give --make-grm",
    "--mlma": "gpu-reml-gwas --model lmm",
    "--mlma-loco": "gpu-reml-gwas --model loco",
    "--lmm": "gpu-reml-gwas --model loco",
    "--linear": "gpu-reml-gwas",
    "--glm": "gpu-reml-gwas",
    "--score": "gpu-reml-predict takes what --save-model writes; plink2 --score what --compute-effects writes",
    "--bed": "give --bfile, the path without .bed",
    "--pgen": "give --pfile, the path without .pgen",
    "--bim": "give --bfile, the path shared by .bed, .bim and .fam",
    "--fam": "give --bfile, the path shared by .bed, .bim and .fam",
    "--phenoFile": "give --pheno",
    "--phenoCol": "give --pheno-name",
    "--covarFile": "give --qcovar for numbers, --covar for categories",
    "--nthreads": "give --threads",
    "--numThreads": "give --threads",
}


class Parser(ArgumentParser):
    """argparse's parser with one short line of usage and one line for an error, exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str, required: str):
        super().__init__(
            prog=prog,
            usage=f"{prog} {required} [any of the flags below]",
            description=description,
            epilog=epilog,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        message = re.sub(r"invalid float value: (.*)", r"expected a number, found \1", " ".join(message.split()))
        if message.startswith("unrecognized arguments:"):
            message += self._meant(message)
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help has all flags\n")

    def _meant(self, message: str) -> str:
        """What to give in place of the first unknown flag, where that can be guessed."""
        unknown = next((word.split("=")[0] for word in message.split() if word.startswith("-")), "")
        known = [flag for action in self._actions for flag in action.option_strings]
        if unknown in ELSEWHERE:
            return f" ({ELSEWHERE[unknown]})"
        near = get_close_matches(unknown, known, 1)
        return f" (did you mean {near[0]}?)" if near else ""
