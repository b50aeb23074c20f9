"""``--prevalence``: heritability of a disease's liability, beside that on the observed scale."""

from typing import Any, NamedTuple

import numpy as np

from gpu_reml import io
from gpu_reml.reml import FitResult, HEResult, PCGCResult
from gpu_reml.reml.inference import Derived
from gpu_reml.reml.studies.liability import liability_factor, on_liability, share_of_cases
from gpu_reml.reml.tables import Sum, derived_record, derived_rows, sum_line

from .flags.analysis import Analysis
from .inputs import Inputs

ASCERTAINED = 1.5  # a caution is given where the odds of a case differ from the population's by more than this
BY_CHANCE = 4.0  # drawing people at random moves their share of cases by no more standard errors than this


class Liability(NamedTuple):
    """``h2`` (G,) of liability of every component; ``sums``: as the fit's; ``cases``: their share of the samples.

    ``cautions``: what to know of how the cases came into the sample.
    """

    prevalence: float
    cases: float
    h2: Derived
    sums: tuple[tuple[Sum, Derived], ...]
    cautions: tuple[str, ...] = ()


def check_prevalence(inputs: Inputs, analysis: Analysis) -> None:
    """Raises InputError for a phenotype that is no disease, before it is fitted."""
    if analysis.tests.prevalence is None:
        if analysis.estimation.method == "pcgc":
            raise io.InputError(
                "--method pcgc: estimates h2 of a disease's liability; give its prevalence by --prevalence K"
            )
        return
    for name, y in zip(inputs.phenotypes, inputs.Y.T, strict=True):
        if share_of_cases(y) is None:
            found = len(np.unique(y))
            raise io.InputError(
                f"--prevalence: phenotype {name} has {found} values, where a disease has two; leave --prevalence out"
            )


def liability_of(result: FitResult | HEResult, inputs: Inputs, name: str, prevalence: float | None) -> Liability | None:
    """Heritability of liability of one trait; None where no prevalence is given."""
    if prevalence is None:
        return None
    cases = share_of_cases(inputs.Y[:, inputs.phenotypes.index(name)])
    on_it = isinstance(result, PCGCResult)
    factor = 1.0 if on_it else liability_factor(prevalence, cases)
    sums = tuple((each, on_liability(derived, factor)) for each, derived in result.heritabilities)
    h2 = Derived(*(part[: len(result.names)] for part in result.h2))
    cautions = () if on_it else ascertainment(prevalence, cases, result.num_samples)
    return Liability(prevalence, cases, on_liability(h2, factor), sums, cautions)


def ascertainment(prevalence: float, cases: float, num_samples: int) -> tuple[str, ...]:
    """A caution where cases are another share of the samples than of people, by more than drawing people explains."""
    error = np.sqrt(prevalence * (1 - prevalence) / num_samples)
    odds = cases / (1 - cases) * (1 - prevalence) / prevalence
    if abs(cases - prevalence) <= BY_CHANCE * error or 1 / ASCERTAINED <= odds <= ASCERTAINED:
        return ()
    return (
        f"caution: {cases:.1%} of the samples are cases, where {prevalence:.1%} of people are: h2 of liability comes "
        "out too low from REML, and from Haseman-Elston regression beside covariates; --method pcgc allows for that",
    )


def liability_record(found: Liability | None, names: tuple[str, ...]) -> dict[str, Any] | None:
    """For OUT.json."""
    if found is None:
        return None
    rows = [dict(zip(("h2", "se", "mc_se"), row, strict=True)) for row in zip(*found.h2, strict=True)]
    components = [{"name": name, **row} for name, row in zip(names, rows, strict=True)]
    sums = {each.label: derived_record(derived, 0) for each, derived in found.sums}
    return {
        "prevalence": found.prevalence,
        "share_of_cases": found.cases,
        **sums,
        "components": components,
        "cautions": found.cautions,
    }


def liability_lines(found: Liability | None, names: tuple[str, ...]) -> list[str]:
    """As a person reads it."""
    if found is None:
        return []
    about = f"(prevalence {found.prevalence:g}, {found.cases:.1%} cases)"
    lines = [sum_line(each._replace(label=f"{each.label} of liability"), h2, names) for each, h2 in found.sums]
    return [*(f"{line}  {about}" for line in lines), *found.cautions]


def liability_rows(found: Liability | None) -> list[str]:
    """GCTA's rows of .hsq."""
    if found is None:
        return []
    G = len(found.h2.estimate)
    label = ["V(G)/Vp_L"] if G == 1 else [f"V(G{g + 1})/Vp_L" for g in range(G)]
    rows = derived_rows(label, found.h2)
    if G > 1:
        rows += derived_rows(["Sum of V(G)_L/Vp"], found.sums[-1][1])
    for each, h2 in found.sums if len(found.sums) > 1 else ():
        rows += derived_rows([f"{each.label}_L ({each.meaning})"], h2)
    return rows
