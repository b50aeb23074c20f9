"""``--reliability`` of predictions: what a saved model has of replicated phenotypes."""

import numpy as np

from gpu_reml import io
from gpu_reml.io.model import ReplicatedEffects
from gpu_reml.reml import draw_probes, effect_variances, exact_probes, layout_of, py_replicates, replicated_effects
from gpu_reml.reml.studies.effects import Effects
from gpu_reml.reml.studies.scan_replicates import Replicates
from gpu_reml.reml.studies.values import find_levels

from .effects_files import VariantEffects
from .inputs import Inputs
from .planned import Planned

MOST_BYTES = 1 << 32  # of effects of replicates in a model
NUMBER = 4  # bytes of one


def replicates_wanted(inputs: Inputs, asked: int) -> int:
    """Replicates that are made where so many are asked for: complete ones are as many as samples."""
    return min(asked, inputs.covariance.num_samples)


def effects_of_replicate(inputs: Inputs) -> int:
    """Numbers that a model has of each replicate."""
    levels = (find_levels(inputs.covariance, g) for g in range(layout_of(inputs.covariance).num_genetic))
    people = sum(len(level.labels) for level in levels if level is not None)
    variants = 0 if inputs.products is None else inputs.products.num_variants
    return people + variants * len(dict.fromkeys(inputs.model.scales))


def check_replicates(inputs: Inputs, asked: int | None, *, saved: bool) -> None:
    """Raises InputError for more effects of replicates than a model may have; before any fit."""
    if not asked or not saved:
        return
    each = NUMBER * effects_of_replicate(inputs)
    if each * replicates_wanted(inputs, asked) > MOST_BYTES:
        needed = each * replicates_wanted(inputs, asked) / 2**30
        raise io.InputError(
            f"--reliability {asked}: a model with reliabilities of predictions would have {needed:.1f} GiB of effects, "
            f"and at most {MOST_BYTES >> 30} GiB are written; give --reliability {MOST_BYTES // each} or less"
        )


def with_replicates(planned: Planned, asked: int | None, scales: int, *, saved: bool) -> Planned:
    """The plan with the effects of replicates of variants, twice while they are made."""
    sizes = planned.sizes
    if not asked or not saved:
        return planned
    held = min(asked, sizes.num_samples) * (NUMBER * (scales + 1) * sizes.num_variants + 16 * sizes.num_samples)
    return planned._replace(sizes=sizes._replace(further=(*sizes.further, ("effects of replicates", held))))


def replicates_of(theta: np.ndarray, inputs: Inputs, asked: int, seed: int, core) -> Replicates | None:
    """Replicates of the phenotype at the fit's variances; None where components have blocks of weights."""
    if inputs.model.of_variants is not None and inputs.components is None:
        return None
    n = inputs.covariance.num_samples
    probes = exact_probes(n) if asked >= n else draw_probes(n, asked, 0, seed + 1)
    options = {"preconditioner": core, "at_once": inputs.planned.columns}
    return py_replicates(theta, inputs.design.X, inputs.covariance, probes.trace, **options)


def variant_spreads(
    found: Effects, inputs: Inputs, of_variants: VariantEffects, replicates: Replicates
) -> tuple[ReplicatedEffects, ...]:
    """Of the effects of a copy of the variants that carry one, for each different scale."""
    if not of_variants.names:
        return ()
    covariance, rows, inv_sd = inputs.model.of_variants, of_variants.rows, of_variants.inv_sd
    variances = effect_variances(covariance, found.theta)
    effects = replicated_effects(covariance, found.theta, replicates.x)
    return tuple(
        ReplicatedEffects(variance[rows] * inv_sd**2, np.float32(each[rows] * inv_sd[:, None]), replicates.complete)
        for variance, each in zip(variances, effects, strict=True)
    )
