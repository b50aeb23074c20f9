"""What gpu-reml-gwas was asked, and what it cannot be."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Self

from gpu_reml import io

from .flags.analysis import Analysis
from .flags.association import Association, GwasOutput, NullModel, Steps
from .flags.components import Components
from .flags.estimation import Estimation, Tests
from .flags.model import Scaling, Terms
from .flags.output import Checkpoints
from .flags.smile import Smile
from .parser import CommandLine
from .pictures import check_drawable, check_reportable

OF_STEP_1 = (
    "pheno pheno_name mpheno qcovar covar qcovar_name covar_name rint covar_for keep remove mind grm_cutoff pca_covar "
    "model solver loco_refit alpha max_probes seed model_extract dtype"
).split()  # values that are decided by then


class Asked(NamedTuple):
    """What gpu-reml-gwas was asked, group by group; ``line``: flag by flag."""

    line: CommandLine
    analysis: Analysis
    association: Association
    output: GwasOutput
    steps: Steps = Steps()
    checkpoints: Checkpoints = Checkpoints()

    @classmethod
    def of(cls, line: CommandLine) -> Self:
        """Read every group; the analysis has one component, of all variants."""
        null = NullModel.of(line.values)
        analysis = Analysis.of(
            line.values,
            components=Components(),
            smile=Smile(),
            terms=Terms(),
            scaling=Scaling(alpha=null.alpha),
            estimation=Estimation(max_probes=null.max_probes, seed=null.seed),
            tests=Tests(),
        )
        steps, association = Steps.of(line.values), Association.of(line.values)
        if (steps.step or steps.model_extract) and "model" not in line.typed:
            association = replace(association, model="loco")
        return cls(line, analysis, association, GwasOutput.of(line.values), steps, Checkpoints.of(line.values))

    @property
    def say(self) -> Callable:
        """Prints, unless only the results are wanted."""
        return print if not self.output.quiet else (lambda *_, **__: None)


def check_pages(output: GwasOutput) -> None:
    """Raises InputError where drawings or a report are asked for and cannot be made."""
    if output.plots:
        check_drawable("--plots")
    check_reportable(output.report)


def check_asked(asked: Association, alpha: float | None) -> None:
    """Raises InputError for flags that contradict each other."""
    given = asked.score_flags
    if asked.solver == "exact" and asked.model == "ols":
        raise io.InputError("--method exact: ols is exact as it is; give --model loco or lmm with it")
    if asked.loco_refit and asked.model != "loco":
        raise io.InputError(
            "--loco-refit: only --model loco leaves chromosomes out; give it, or leave --loco-refit out"
        )
    if asked.solver == "exact" and given:
        raise io.InputError(f"{', '.join(given)}: only --method score uses them; leave them out, or --method exact")
    if asked.model == "ols" and (given or alpha is not None):
        flags = [*given, *(["--alpha"] if alpha is not None else [])]
        raise io.InputError(f"{', '.join(flags)}: only mixed models use them; give --model loco or lmm")


def check_steps(asked: Asked) -> None:
    """Raises InputError for flags that the two steps of a scan do not have."""
    steps, line = asked.steps, asked.line
    if (steps.step == 2) != bool(steps.null):
        raise io.InputError("--step 2, --null: tests of any genotypes take null models of --step 1; give both")
    if not steps.step and not steps.model_extract:
        return
    if asked.association.model == "ols":
        raise io.InputError("--step, --model-extract: least squares have no null model; give --model loco or lmm")
    neither = {1: ("refine", "refine_most", "plots", "report"), 2: OF_STEP_1}.get(steps.step, ())
    given = [line.typed[name] for name in neither if name in line.typed]
    if given and steps.step == 2:
        raise io.InputError(f"--step 2: samples and null models are those of --null; leave {', '.join(given)} out")
    if given:
        raise io.InputError(f"--step 1: tests no variant; give {', '.join(given)} to --step 2")
    if asked.association.solver == "exact":
        raise io.InputError(
            "--method exact: is of one run without --step and --model-extract; these test by score, and the strongest "
            "variants by generalised least squares (--refine 1 --refine-most N)"
        )
