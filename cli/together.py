"""Phenotypes of different samples: genotypes are read once, of all who have any, and each is fitted among its own."""

from collections.abc import Sequence

import numpy as np

from gpu_reml import io, ops
from gpu_reml.reml import Covariance, dense_covariance
from gpu_reml.reml.covariance.subset import SubsetCovariance
from gpu_reml.reml.matrices import matrices_of

from .align import Group, design_of, gathered
from .components import with_alpha
from .flags.analysis import Analysis
from .flags.model import Terms
from .inputs import Inputs, place
from .model import plain_model
from .plan import backend_for
from .planned import Planned, expected
from .read import Tables

PER_TRAIT = "per-trait"  # what --standardize says for genotypes of each phenotype's own samples


def read_once(tables: Tables, groups: Sequence[Group], analysis: Analysis, *, only_fits: bool) -> list[Group]:
    """The groups as one for each set of covariates, where they can share the genotypes that are read; else as they are.

    ``only_fits``: nothing is asked for beside the fits, which takes the genotypes of a phenotype's own samples.  On a
    device several components cannot: vectors of some samples are on the host, which is too slow for their basis.
    """
    plain = analysis.terms == Terms() and tables.sources.files
    if plain and expected(tables.sources, analysis)[0] > 1 and backend_for(analysis.compute) == "cuda":
        return list(groups)
    if len(groups) == 1 or not plain or not only_fits or analysis.scaling.standardize == PER_TRAIT:
        return list(groups)
    return gathered(groups)


def together_note(inputs: Inputs) -> str:
    """What it means that genotypes are read once."""
    return (
        f"the phenotypes have different samples: genotypes are filtered and standardised in the "
        f"{inputs.alignment.num_samples} samples that have any of them; --standardize {PER_TRAIT} does so for each "
        "phenotype, and reads them each time"
    )


def parts_of(inputs: Inputs, tables: Tables, method: str) -> list[tuple[Inputs, dict[str, Inputs]]]:
    """What is fitted at once: inputs, and those of each phenotype, which its files tell of.

    A stochastic fit of one component takes all phenotypes with the same fixed effects together; others are fitted in
    turn, one set of samples after another.
    """
    covariance = inputs.covariance
    if method == "exact" and covariance.num_components == 1:
        covariance = formed(covariance)
    diagonals = covariance.diagonals()
    each = [among(inputs, tables, member, covariance, diagonals) for member in inputs.members]
    one = method == "stochastic" and covariance.num_components == 1
    same = [one and same_effects(own.design, inputs.design) for own in each]
    shared = [own for own, fits in zip(each, same, strict=True) if fits]
    apart = [own for own, fits in zip(each, same, strict=True) if not fits]
    parts = [(own, dict.fromkeys(own.phenotypes, own)) for own in apart]
    if not shared:
        return parts
    names = tuple(name for own in shared for name in own.phenotypes)
    columns = [inputs.phenotypes.index(name) for name in names]
    whole = inputs._replace(Y=inputs.Y[:, columns], phenotypes=names)
    return [(whole, {name: own for own in shared for name in own.phenotypes}), *parts]


def same_effects(a: io.Design, b: io.Design) -> bool:
    """Whether two designs have the same columns, for other samples."""
    return a.names == b.names and a.reference_levels == b.reference_levels


def on_own_genotypes(inputs: Inputs, tables: Tables, member: Group, analysis: Analysis) -> Inputs:
    """The inputs of one set of samples with genotypes of their own, taken from those of all and standardised anew."""
    genotypes = ops.among_samples(inputs.products.genotypes, rows_of(inputs, member))
    own = planned_among(inputs, tables, member)
    weights = with_alpha(inputs.components.weights, genotypes, analysis.scaling.alpha)
    genetic = ops.make_covariance(place(genotypes, own, analysis.compute), weights, inputs.components.names)
    return of_member(inputs, member, own)._replace(genetic=genetic, model=plain_model(genetic))


def formed(covariance: Covariance) -> Covariance:
    """The matrix of one component, from which exact fits take those of every set of samples."""
    (K,) = (np.triu(K) + np.triu(K, 1).T for K in matrices_of(covariance))
    return dense_covariance([K], covariance.names)


def among(inputs: Inputs, tables: Tables, member: Group, covariance: Covariance, diagonals: np.ndarray) -> Inputs:
    """The inputs of one set of samples, with the covariance of all."""
    model = inputs.model._replace(covariance=SubsetCovariance(covariance, rows_of(inputs, member), diagonals))
    return of_member(inputs, member, planned_among(inputs, tables, member))._replace(model=model)


def rows_of(inputs: Inputs, member: Group) -> np.ndarray:
    """(n_t,) a member's samples among all."""
    return np.searchsorted(inputs.alignment.indices[0], member.alignment.indices[0])


def planned_among(inputs: Inputs, tables: Tables, member: Group) -> Planned:
    """The plan for a member, with its fixed effects."""
    sizes = inputs.planned.sizes._replace(num_samples=len(member.Y), num_traits=len(member.phenotypes))
    return inputs.planned._replace(design=design_of(tables, member), sizes=sizes)


def of_member(inputs: Inputs, member: Group, planned: Planned) -> Inputs:
    """The inputs with a member's samples and phenotypes; the covariance is that of all still."""
    return inputs._replace(
        alignment=member.alignment, Y=member.Y, phenotypes=member.phenotypes, planned=planned, members=()
    )
