"""``--prevalence``: heritability of a disease's liability, beside that on the observed scale."""

from typing import Any, NamedTuple

import numpy as np

from gpu_reml import io
from gpu_reml.reml import FitResult, HEResult
from gpu_reml.reml.inference import Derived
from gpu_reml.reml.liability import liability_factor, on_liability, share_of_cases

from .inputs import Inputs


class Liability(NamedTuple):
    """``h2`` (G + 1,) of liability, the last of all components; ``cases``: their share among the analysed samples."""

    prevalence: float
    cases: float
    h2: Derived


def check_prevalence(inputs: Inputs, prevalence: float | None) -> None:
    """Raises InputError for a phenotype that is no disease, before it is fitted."""
    if prevalence is None:
        return
    for name, y in zip(inputs.phenotypes, inputs.Y.T, strict=True):
        if share_of_cases(y) is None:
            found = len(np.unique(y))
            raise io.InputError(f"--prevalence: phenotype {name} has {found} values; a disease has two, leave it out")


def liability_of(result: FitResult | HEResult, inputs: Inputs, name: str, prevalence: float | None) -> Liability | None:
    """Heritability of liability of one trait; None where no prevalence is given."""
    if prevalence is None:
        return None
    cases = share_of_cases(inputs.Y[:, inputs.phenotypes.index(name)])
    return Liability(prevalence, cases, on_liability(result.h2, liability_factor(prevalence, cases)))


def liability_record(found: Liability | None, names: tuple[str, ...]) -> dict[str, Any] | None:
    """For OUT.json."""
    if found is None:
        return None
    rows = [dict(zip(("h2", "se", "mc_se"), row, strict=True)) for row in zip(*found.h2, strict=True)]
    components = [{"name": name, **row} for name, row in zip(names, rows, strict=False)]
    return {"prevalence": found.prevalence, "share_of_cases": found.cases, **rows[-1], "components": components}


def liability_lines(found: Liability | None) -> list[str]:
    """As a person reads it."""
    if found is None:
        return []
    h2 = found.h2
    return [
        f"h2 of liability = {h2.estimate[-1]:.6f}  SE {h2.se[-1]:.6f}  Monte-Carlo error {h2.mc_se[-1]:.2g}  "
        f"(prevalence {found.prevalence:g}, {found.cases:.1%} cases)"
    ]


def liability_rows(found: Liability | None) -> list[str]:
    """GCTA's rows of .hsq."""
    if found is None:
        return []
    G = len(found.h2.estimate) - 1
    names = ["V(G)/Vp_L"] if G == 1 else [*(f"V(G{g + 1})/Vp_L" for g in range(G)), "Sum of V(G)_L/Vp"]
    rows = zip(names, found.h2.estimate, found.h2.se, strict=False)
    return [f"{name}\t{value:.6f}\t{se:.6f}" for name, value, se in rows]
