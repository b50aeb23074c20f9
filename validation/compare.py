"""Component specifications side by side: the same samples, phenotype, covariates and probes.

    python -m gpu_reml.validation compare a.json b.json --bfile data --pheno pheno.txt --folds 5

fits the components of every specification, and compares likelihoods with the error of their difference, AIC, h2, R2 of
held-out samples, passes and time.  Where one specification has all components of another and more, or only splits its
components, the likelihood ratio is there too.  All flags of gpu-reml that say what is analysed are taken.
"""

import argparse
import sys
from importlib.metadata import version
from itertools import permutations
from pathlib import Path

import numpy as np

from gpu_reml import io
from gpu_reml.cli.align import groups_of_samples
from gpu_reml.cli.flags.analysis import Analysis
from gpu_reml.cli.inputs import Inputs, load_group
from gpu_reml.cli.main import make_parser
from gpu_reml.cli.planned import plan_group
from gpu_reml.cli.read import read_tables
from gpu_reml.cli.run import run_command
from gpu_reml.reml import compare, draw_probes


def loaded(spec: str, flags: list[str]) -> tuple[Inputs, Analysis]:
    """What gpu-reml would fit with a specification; InputError where there are several phenotypes."""
    line = make_parser(version("gpu-reml")).read([*flags, "--component-spec", spec])
    analysis = Analysis.of(line.values)
    tables = read_tables(analysis)
    (group, *others) = groups_of_samples(tables, analysis.samples)
    if others or len(group.phenotypes) != 1:
        raise io.InputError("compare: takes one phenotype; name it by --pheno-name")
    return load_group(tables, group, plan_group(tables, group, analysis), analysis), analysis


def nested_pairs(inputs: dict[str, Inputs]) -> list[tuple[str, str]]:
    """(smaller, larger) where the smaller's components are combinations of the larger's."""
    found = []
    for small, large in permutations(inputs, 2):
        A, B = (inputs[name].covariance.weights.toarray() for name in (small, large))
        if A.shape[1] < B.shape[1]:
            solved, *_ = np.linalg.lstsq(B, A, rcond=None)
            if np.allclose(B @ solved, A, atol=1e-8 * np.abs(A).max()) and solved.min() > -1e-8:
                found.append((small, large))
    return found


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 for wrong input and 3 where a fit has not converged."""
    parser = argparse.ArgumentParser(
        prog="python -m gpu_reml.validation compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="component specifications, two or more")
    parser.add_argument("--folds", type=int, default=0, metavar="K", help="of cross-validation (default none)")
    parser.add_argument("--table", metavar="FILE", help="write the table as TSV")
    options, flags = parser.parse_known_args(argv)

    def command(_threads: int) -> bool:
        names = [Path(spec).stem for spec in options.specs]
        if len(set(names)) < max(2, len(names)):
            raise io.InputError(f"compare: expected 2 or more files of different names, found {', '.join(names)}")
        each = {name: loaded(spec, flags) for name, spec in zip(names, options.specs, strict=True)}
        inputs = {name: found for name, (found, _) in each.items()}
        first, analysis = each[names[0]]
        probes = draw_probes(len(first.Y), analysis.estimation.max_probes, 0, analysis.estimation.seed)
        models = {name: found.covariance for name, found in inputs.items()}
        found = compare(
            models, first.Y[:, 0], first.design.X, probes, nested=nested_pairs(inputs), num_folds=options.folds
        )
        print(found.summary())
        if options.table:
            io.write_table(options.table, found.to_frame())
        return True

    return run_command("compare", command, 0, "nothing was saved")


if __name__ == "__main__":
    sys.exit(main())
