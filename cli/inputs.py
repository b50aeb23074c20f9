"""Loading: genotypes of the analysed samples and variants, components, and the model that is fitted."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io, ops
from gpu_reml.io.ids import rows_among
from gpu_reml.ops.cluster.products import ClusterGenotypes, make_cluster_products
from gpu_reml.reml import Covariance, rank_normal, single_step

from .align import Group, design_of, without_samples
from .components import components, with_alpha
from .flags.analysis import Analysis
from .flags.compute import Compute
from .levels import SINGLE_STEP, people_of
from .model import Assembled, assemble
from .plan import budget_of
from .planned import Planned, check_group
from .read import Tables
from .relatives import one_component, pc_lines, pcs_of, related_among, with_pcs
from .smile import smile_covariance, smile_weights
from .sources import Loaded, Reader, Sources, load
from .wording import counts_in_flags, notes_in_flags

MOST_MISSING = 0.02  # a note warns above this share of the calls; with 0.1, an h2 of 0.5 was off by 0.03
RANKED = {
    "before": "phenotypes are normal quantiles of their ranks, taken before the covariates (--rint before)",
    "after": "phenotypes are normal quantiles of the ranks of what the covariates leave (--rint after); these stay in "
    "the model",
}
FAR = 20  # values more robust standard deviations from the median than this may be codes


class Inputs(NamedTuple):
    """What a fit of traits of the same samples needs, and what was read to get there; with ``members``, of all theirs.

    ``genetic``: components of the genotypes as they are, of which ``model`` makes what is fitted; None, as variants and
    components are then empty, where relationship matrices are all there is.  ``files``: those of the genotypes, their
    variants and samples; ``stamps``: of the files that are maps as long as the run lasts.
    """

    alignment: io.Alignment
    Y: np.ndarray
    phenotypes: tuple[str, ...]
    planned: Planned
    genetic: ops.GenotypeCovariance | None
    model: Assembled
    notes: tuple[str, ...]
    filtered: tuple[tuple[str, int], ...]
    variants: io.AnalysedVariants | None
    components: io.ComponentSet | None
    files: tuple[Path, ...] = ()
    stamps: tuple[io.Stamp, ...] = ()
    members: tuple[Group, ...] = ()

    def check_unchanged(self) -> None:
        """Raises InputError where a file that is mapped was written to: what was computed is then of no one file."""
        io.check_unchanged(self.stamps)

    @property
    def design(self) -> io.Design:
        return self.planned.design

    @property
    def covariance(self) -> Covariance:
        """What is fitted."""
        return self.model.covariance

    @property
    def products(self) -> ops.Products | None:
        """Products with the standardised genotypes of all analysed variants; None without genotypes."""
        return None if self.genetic is None else self.genetic.products


def load_group(
    tables: Tables, group: Group, planned: Planned, analysis: Analysis, reader: Reader | None = None
) -> Inputs:
    """Genotypes of a group's samples, where they are planned to be, without relatives and with principal components
    among the covariates where these are asked for, and the model of them; ``reader``: as
    :func:`~gpu_reml.cli.sources.load` has it."""
    cutoff, told = analysis.filters.grm_cutoff, []
    if cutoff is not None:
        kept, told = unrelated(tables, group, planned, analysis, reader)
        if not kept.all():
            group = without_samples(group, kept, f"related to another above --grm-cutoff {cutoff:g}")
            planned = planned._replace(design=design_of(tables, group))
            check_group(tables, group)
    if tables.parts.single_step:
        tables, more = with_relationships(tables, planned, analysis, reader)
        told += more
    inputs = load_samples(tables, group, planned, analysis, reader)
    if analysis.samples.pca_covar:
        inputs, more = with_components(inputs, analysis)
        told += more
    if analysis.samples.rint:
        inputs = ranked(inputs, tables, analysis.samples.rint)
        told.append(RANKED[analysis.samples.rint])
    return inputs._replace(notes=(*inputs.notes, *told))


def with_relationships(
    tables: Tables, planned: Planned, analysis: Analysis, reader: Reader | None
) -> tuple[Tables, list[str]]:
    """The tables with relationships of all animals in the place of the genotypes, and what is said of them."""
    file, sources = tables.parts.pedigree, tables.sources
    people = sources.files[0].samples
    animals = pd.Index(file.animals).get_indexer(pd.Index(people["iid"]))
    if people["iid"].duplicated().any():
        raise io.InputError(f"--single-step: {sources.files[0].prefix} has an IID twice; animals are matched by IID")
    if (animals < 0).all():
        raise io.InputError(f"--single-step: {file.table.path} has none of the animals of {sources.files[0].prefix}")
    here = np.flatnonzero(animals >= 0)
    indices = tuple(rows_among(each.samples, people.iloc[here]) for each in sources.files)
    if any((index < 0).any() for index in indices):
        raise io.InputError("--single-step: the genotype files have different animals; make them one fileset")
    filters = replace(analysis.filters, mind=None)
    loaded = load(sources, indices, filters, analysis.genotypes, analysis.scaling.standardize, reader)
    G = one_component(place(loaded.genotypes, planned, analysis.compute))
    H = single_step(file.pedigree, animals[here], G, name=SINGLE_STEP)
    told = [
        f"--single-step: {len(here)} of {file.pedigree.num_animals} animals have genotypes ({sum(G.num_variants)} "
        f"variants), which are brought to the pedigree's base and blended with 5 % of it"
    ]
    nothing = replace(sources, files=(), rows=())
    parts = replace(tables.parts, relationships=H)
    return tables._replace(sources=nothing, parts=parts), told


def ranked(inputs: Inputs, tables: Tables, when: str) -> Inputs:
    """The inputs with normal quantiles of ranks for phenotypes, each among its own samples."""

    def of(Y: np.ndarray, design: io.Design) -> np.ndarray:
        return np.column_stack([rank_normal(y, design.X if when == "after" else None) for y in Y.T])

    if not inputs.members:
        return inputs._replace(Y=of(inputs.Y, inputs.design))
    members = tuple(member._replace(Y=of(member.Y, design_of(tables, member))) for member in inputs.members)
    rows, Y, first = inputs.alignment.indices[0], np.full_like(inputs.Y, np.nan), 0
    for member in members:
        here = np.searchsorted(rows, member.alignment.indices[0])
        Y[here, first : first + member.Y.shape[1]] = member.Y
        first += member.Y.shape[1]
    return inputs._replace(Y=Y, members=members)


def unrelated(
    tables: Tables, group: Group, planned: Planned, analysis: Analysis, reader: Reader | None
) -> tuple[np.ndarray, list[str]]:
    """(n,) bool of the samples that ``--grm-cutoff`` leaves, and what is said of it; reads the genotypes."""
    files, alignment, cutoff = len(tables.sources.files), group.alignment, analysis.filters.grm_cutoff
    if not files and not tables.parts.grms:
        raise io.InputError("--grm-cutoff: relationships are those of genotypes or of --grm; give one of them")
    people = people_of(alignment.samples)
    first = np.arange(len(alignment.samples)) if people is None else people[0]
    samples = alignment.samples.iloc[first]
    if not files:
        matrix = tables.parts.grms[0].matrix(alignment.indices[-len(tables.parts.grms)][first])
        kept, told = related_among(matrix, samples, cutoff)
    else:
        indices = tuple(index[first] for index in alignment.indices[:files])
        filters = replace(analysis.filters, mind=None)
        loaded = load(tables.sources, indices, filters, analysis.genotypes, analysis.scaling.standardize, reader)
        products = place(loaded.genotypes, planned, analysis.compute)
        kept, told = related_among(one_component(products), samples, cutoff)
    return kept if people is None else kept[people[1]], told


def with_components(inputs: Inputs, analysis: Analysis) -> tuple[Inputs, list[str]]:
    """The inputs with principal components among their covariates, and what is said of these."""
    if inputs.products is None or inputs.members:
        why = "phenotypes have different samples; name one" if inputs.members else "there are no genotypes"
        raise io.InputError(f"--pca-covar: {why}")
    found = pcs_of(inputs.products, analysis.samples.pca_covar, analysis.estimation.seed)
    people = people_of(inputs.alignment.samples)
    if people is not None:
        found = found._replace(vectors=found.vectors[people[1]])
    told = [f"principal components: {line}" for line in pc_lines(found)]
    return inputs._replace(planned=inputs.planned._replace(design=with_pcs(inputs.design, found))), told


def load_samples(tables: Tables, group: Group, planned: Planned, analysis: Analysis, reader: Reader | None) -> Inputs:
    """Genotypes of a group's samples, where they are planned to be, and the model of them."""
    notes = notes_of(tables, group)
    if not tables.sources.files:
        model = assemble(None, None, tables.parts, group.alignment, None, analysis.terms)
        said = (*notes, *model.notes, *planned.design.notes, *trait_notes(group, told_of_liability(analysis)))
        return Inputs(
            group.alignment, group.Y, group.phenotypes, planned, None, model, notes_in_flags(said), (), None, None
        )
    files = len(tables.sources.files)
    indices, standardize = group.alignment.indices[:files], analysis.scaling.standardize
    people = people_of(group.alignment.samples)
    if people is not None:  # genotypes are of people, however many records they have
        indices = tuple(index[people[0]] for index in indices)
    loaded = load(tables.sources, indices, analysis.filters, analysis.genotypes, standardize, reader)
    if loaded.kept_samples is not None:
        kept = loaded.kept_samples if people is None else loaded.kept_samples[people[1]]
        group = without_samples(group, kept, f"more than --mind {analysis.filters.mind:g} of its calls missing")
        planned = planned._replace(design=design_of(tables, group))
        check_group(tables, group)
    if analysis.smile.wanted:
        genetic, made = smile_components(loaded, planned, analysis)
    else:
        genetic, made = set_components(tables.sources, loaded, planned, analysis)

    def beside(genotypes: ops.PackedGenotypes):
        return place(genotypes, planned, analysis.compute)

    model = assemble(genetic, loaded.genotypes, tables.parts, group.alignment, beside, analysis.terms)
    said = (
        *notes,
        *loaded.notes,
        *call_notes(loaded.genotypes),
        *made.notes,
        *model.notes,
        *planned.design.notes,
        *trait_notes(group, told_of_liability(analysis)),
    )
    return Inputs(
        group.alignment,
        group.Y,
        group.phenotypes,
        planned,
        genetic,
        model,
        notes_in_flags(said),
        counts_in_flags((*tables.sources.counts, *loaded.counts)),
        loaded.variants,
        made if isinstance(made, io.ComponentSet) else None,
        tuple(tables.sources.paths),
        (*loaded.genotypes.stamps, *getattr(made, "stamps", ())),
        group.members,
    )


def check_components(inputs: Inputs) -> None:
    """Raises InputError for sets of variants whose variances no fit can tell apart."""
    if inputs.components is not None:
        io.check_independent(inputs.components, inputs.products.genotypes.inv_sd > 0)


def notes_of(tables: Tables, group: Group) -> list[str]:
    """What was noticed in the files and lists, each thing once."""
    phenotypes = [phenotype for phenotype in tables.phenotypes if phenotype.name in group.phenotypes]
    tabled = [*phenotypes, *tables.covariates, *tables.parts.tables]
    noticed = [*tables.sources.files, tables.sources, group.alignment, *tabled]
    return list(dict.fromkeys(note for source in noticed for note in source.notes))


def call_notes(genotypes: ops.PackedGenotypes) -> list[str]:
    """What to know where many calls are missing: filling them with the mean takes variance from the genotypes."""
    varies = genotypes.inv_sd > 0
    called = float(genotypes.num_called[varies].mean()) / genotypes.num_samples if varies.any() else 1.0
    if 1 - called <= MOST_MISSING:
        return []
    return [
        f"{1 - called:.1%} of the analysed genotypes are missing (mean call rate {called:.4f}) and count as their "
        "variant's mean, which biases h2; impute them (--dosage takes what imputation gives), or leave out variants "
        "and samples that lack many by --geno and --mind"
    ]


def told_of_liability(analysis: Analysis) -> str | None:
    """What to do about a trait of two values; None where it is on the scale of liability already."""
    if analysis.estimation.method == "pcgc":
        return None
    return "; gpu-reml --prevalence has h2 of liability" if analysis.tests.prevalence is None else ""


def trait_notes(group: Group, remedy: str | None) -> list[str]:
    """What to know of traits that have two values, as a disease coded 0 and 1 or 1 and 2, or values far from others.

    ``remedy``: what to do about two values; None where they need no note.
    """
    pairs = [(name, y[~np.isnan(y)]) for name, y in zip(group.phenotypes, group.Y.T, strict=True)]
    binary = [name for name, y in pairs if len(np.unique(y)) == 2 and remedy is not None]
    where = f"variances and h2 are on that observed scale{remedy}"
    told = [f"{name} has two values: {where}" for name in binary]
    return told + [note for name, y in pairs for note in _far_note(name, y)]


def _far_note(name: str, y: np.ndarray) -> list[str]:
    """Values that may be codes for missing ones, as -999 and 9999 are in many files."""
    centre = np.median(y)
    spread = 1.4826 * np.median(np.abs(y - centre))  # this is the SD where values are normal
    far = y[np.abs(y - centre) > FAR * spread] if spread > 0 else y[:0]
    if not len(far):
        return []
    most = far[np.argmax(np.abs(far - centre))]
    return [
        f"{name}: {len(far)} value(s) are more than {FAR} standard deviations from the others (the farthest is "
        f"{most:g}); write NA where it is a code for missing"
    ]


def set_components(sources: Sources, loaded: Loaded, planned: Planned, analysis: Analysis):
    """Components that are sets of variants, and what they are."""
    made = components(sources, loaded.genotypes, loaded.variants, analysis.components)
    weights = with_alpha(made.weights, loaded.genotypes, analysis.scaling.alpha)
    products = place(loaded.genotypes, planned, analysis.compute)
    return ops.make_covariance(products, weights, made.names), made


def smile_components(loaded: Loaded, planned: Planned, analysis: Analysis):
    """Components that have dense blocks of weights, and what they are."""
    weights = smile_weights(loaded.genotypes, loaded.variants, analysis.smile)
    products = place(loaded.genotypes, planned, analysis.compute, cuts=weights.cuts)
    return smile_covariance(products, weights, analysis.smile.w_normalization), weights


def place(genotypes: ops.PackedGenotypes, planned: Planned, compute: Compute, **kept):
    """Products with the genotypes on the planned backend; ``kept`` as :func:`~gpu_reml.ops.make_products` has it."""
    if isinstance(genotypes, ClusterGenotypes):
        device = "cuda" if compute.named_device == "cuda" else "cpu"
        return make_cluster_products(genotypes, device, np.dtype(compute.dtype).type, **kept)
    if planned.device is not None:
        limit = max(planned.device.peak, budget_of(compute))
        kept.update(residency=planned.device.residency, limit=limit, num_devices=compute.num_gpus)
    products = ops.make_products(genotypes, planned.backend, np.dtype(compute.dtype).type, **kept)
    if planned.device is not None:
        products.keep_within(planned.device.peak)
    return products
