"""From options to arrays: read every file, align the samples, make the covariance."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io, ops
from gpu_reml.ops.device.plan import DevicePlan
from gpu_reml.reml import Covariance
from gpu_reml.reml.traits import make_traits

from .components import components, expected_components, has_builders, with_alpha
from .model import Model, Parts, assemble, planned_parts, read_parts
from .plan import Room, Sizes, backend_for, budget_of, device_plan, host_room, sketch_rank
from .smile import check_smile, planned_smile, smile_covariance, smile_weights, wants_smile
from .sources import Loaded, Sources, load, read_sources
from .wording import in_names

MOST_MISSING = 0.02  # share of the genotypes; with 0.1 an h2 of 0.5 was off by 0.03, up in families, down in others


FAR = 20  # robust standard deviations from the median


class Planned(NamedTuple):
    """A group's design, and what its analysis needs where, before a genotype is read."""

    design: io.Design
    backend: str
    sizes: Sizes
    rank: int
    device: DevicePlan | None
    room: Room | None

    def probes(self, allowed: int) -> int:
        """Most probes, of those allowed, that there is room for."""
        planned = self.device or self.room
        return allowed if planned is None or planned.probes is None else min(allowed, planned.probes)

    @property
    def columns(self) -> int | None:
        """Most columns worked on at once; None for all."""
        if self.device is not None:
            return self.device.columns
        return None if self.room is None else self.room.choice.columns

    @property
    def basis(self) -> int | None:
        """Most vectors of the basis of several components; None where there is none."""
        if self.device is not None:
            return self.device.basis or None
        return None if self.room is None else self.room.choice.basis


class Inputs(NamedTuple):
    """What a fit of traits of the same samples needs, and what was read to get there.

    ``genetic``: components of the genotypes as they are, of which ``model`` makes what is fitted; None, as variants and
    components are then empty, where relationship matrices are all there is.  ``files``: those of the genotypes, their
    variants and samples; ``stamps``: of the files that are maps as long as the run lasts.
    """

    alignment: io.Alignment
    Y: np.ndarray
    phenotypes: tuple[str, ...]
    planned: Planned
    genetic: ops.GenotypeCovariance | None
    model: Model
    notes: tuple[str, ...]
    filtered: tuple[tuple[str, int], ...]
    variants: io.AnalysedVariants | None
    components: io.ComponentSet | None
    files: tuple[Path, ...] = ()
    stamps: tuple[io.Stamp, ...] = ()

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


class Tables(NamedTuple):
    """The files named on the command line, read once; genotypes only by their samples and variants."""

    sources: Sources
    parts: Parts
    phenotypes: list[io.Phenotype]
    quantitative: io.Covariates | None
    categorical: io.Covariates | None

    @property
    def covariates(self) -> list[io.Covariates]:
        return [table for table in (self.quantitative, self.categorical) if table is not None]


class Group(NamedTuple):
    """Traits that the same samples have."""

    alignment: io.Alignment
    Y: np.ndarray
    phenotypes: tuple[str, ...]


def read_inputs(options: Namespace) -> tuple[Tables, list[Group]]:
    """Read and check the tables; raises ValueError with one line for what is wrong."""
    check_smile(options)
    sources, parts = read_sources(options), read_parts(options)
    if not sources.files and (has_builders(options) or parts.num_scales > 1 or options.dominance or options.make_grm):
        raise io.InputError("--grm alone: components of variants, ancestries and environments need genotypes beside it")
    if options.make_grm and (parts.num_scales > 1 or parts.admixture is not None or parts.grms or options.dominance):
        raise io.InputError(
            "--make-grm: writes matrices of sets of variants; leave out --grm, --admix-q, --gxe and --dominance"
        )
    phenotypes = read_traits(options) if options.pheno else [no_trait(sources)]
    quantitative = io.read_covariates(options.qcovar, "quantitative") if options.qcovar else None
    categorical = io.read_covariates(options.covar, "categorical") if options.covar else None
    tables = Tables(sources, parts, phenotypes, quantitative, categorical)
    return tables, list(grouped_by_samples(tables, options))


def read_traits(options: Namespace) -> list[io.Phenotype]:
    """The phenotypes asked for."""
    if options.pheno_name is None:
        return [io.read_phenotype(options.pheno, number=options.mpheno)]
    return io.read_phenotypes(options.pheno, options.pheno_name)


def no_trait(sources: Sources) -> io.Phenotype:
    """In place of a phenotype where a relationship matrix is all that is asked for: everyone has a value."""
    file = sources.files[0]
    values = np.arange(file.num_samples, dtype=np.float64)
    return io.Phenotype(path=str(file.prefix), samples=file.samples, has_fid=True, name="none", values=values)


def grouped_by_samples(tables: Tables, options: Namespace) -> Iterator[Group]:
    """Traits with the same analysed samples together, in the order of the first of each group."""
    keep = io.read_sample_list(options.keep) if options.keep else None
    remove = io.read_sample_list(options.remove) if options.remove else None
    sources = [*tables.sources.files, *tables.parts.grms]
    names, samples = [str(source.prefix) for source in sources], [source.samples for source in sources]
    complete = [*tables.covariates, *tables.parts.tables]
    groups: dict[bytes, list[tuple[str, io.Alignment]]] = {}
    for phenotype in tables.phenotypes:
        alignment = io.align(samples, phenotype, complete, keep=keep, remove=remove, source_names=names)
        groups.setdefault(alignment.indices[0].tobytes(), []).append((phenotype.name, alignment))
    for members in groups.values():
        Y = np.column_stack([alignment.y for _, alignment in members])
        yield Group(replace(members[0][1]), Y, tuple(name for name, _ in members))


def plan_group(tables: Tables, group: Group, options: Namespace) -> Planned:
    """Backend and memory plan of a group; raises ValueError when the device's budget cannot hold it."""
    design = design_of(tables, group.alignment)
    n, t = group.alignment.num_samples, len(group.phenotypes)
    num_components, num_weights = expected(tables.sources, options)
    num_components, num_diagonals = planned_parts(num_components, tables.parts, options)
    bits = 16 if options.dosage else ops.CALL_BITS
    sizes = Sizes(n, tables.sources.num_variants, num_components, t, design.num_columns, num_weights, bits)
    sizes = sizes._replace(num_scales=tables.parts.num_scales, num_matrices=len(tables.parts.grms))
    sizes = sizes._replace(num_diagonals=num_diagonals)
    if wants_smile(options):
        sizes = sizes._replace(block_bytes=planned_smile(options, sizes.num_variants).num_bytes)
    backend = backend_for(options) if tables.sources.files else "cpu"
    device, room = rooms(sizes, backend, options)
    return Planned(design, backend, sizes, sketch_rank(sizes, options, device), device, room)


def rooms(sizes: Sizes, backend: str, options: Namespace) -> tuple[DevicePlan | None, Room | None]:
    """What a fit is given on a device, or else on the CPU."""
    on_device = backend == "cuda"
    return device_plan(sizes, options) if on_device else None, None if on_device else host_room(sizes, options)


def expected(sources: Sources, options: Namespace) -> tuple[int, int]:
    """(components, weights stored) of the genotypes, before any is read."""
    if not sources.files:
        return 0, 0
    if wants_smile(options):
        return planned_smile(options, sum(sources.num_variants)).num_components, sum(sources.num_variants)
    return expected_components(sources, options)


def design_of(tables: Tables, alignment: io.Alignment) -> io.Design:
    """Fixed effects of a group's samples; environments are among them."""
    environments = tables.parts.environments
    return io.design_matrix(tables.quantitative, tables.categorical, alignment.samples, environments)


def check_all_traits(groups: Sequence[Group], planned: Sequence[Planned]) -> None:
    """:func:`check_traits` of every group, before the first is worked on."""
    for group, each in zip(groups, planned, strict=True):
        check_traits(group, each.design)


def check_traits(group: Group, design: io.Design) -> None:
    """Raises InputError that names a trait that does not vary beside the fixed effects, or a column out of scale."""
    try:
        make_traits(group.Y, design.X)
    except ValueError as error:
        raise io.InputError(in_names(str(error), group.phenotypes, design.names)) from None


def load_group(tables: Tables, group: Group, planned: Planned, options: Namespace) -> Inputs:
    """Genotypes of a group's samples, where they are planned to be, and the model of them."""
    notes = notes_of(tables, group)
    if not tables.sources.files:
        model = assemble(None, None, tables.parts, group.alignment, None, options)
        said = (*notes, *model.notes, *planned.design.notes, *trait_notes(group, options))
        return Inputs(group.alignment, group.Y, group.phenotypes, planned, None, model, said, (), None, None)
    files = len(tables.sources.files)
    loaded = load(tables.sources, group.alignment.indices[:files], options)
    if loaded.kept_samples is not None:
        group = without_samples(group, loaded.kept_samples, f"more than --mind {options.mind:g} of its calls missing")
        planned = planned._replace(design=design_of(tables, group.alignment))
        check_traits(group, planned.design)
    if wants_smile(options):
        genetic, made = smile_components(loaded, planned, options)
    else:
        genetic, made = set_components(tables.sources, loaded, planned, options)

    def beside(genotypes: ops.PackedGenotypes):
        return place(genotypes, planned, options)

    model = assemble(genetic, loaded.genotypes, tables.parts, group.alignment, beside, options)
    said = (
        *notes,
        *loaded.notes,
        *call_notes(loaded.genotypes),
        *made.notes,
        *model.notes,
        *planned.design.notes,
        *trait_notes(group, options),
    )
    return Inputs(
        group.alignment,
        group.Y,
        group.phenotypes,
        planned,
        genetic,
        model,
        said,
        (*tables.sources.counts, *loaded.counts),
        loaded.variants,
        made if isinstance(made, io.ComponentSet) else None,
        tuple(tables.sources.paths),
        (*loaded.genotypes.stamps, *getattr(made, "stamps", ())),
    )


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


def trait_notes(group: Group, options: Namespace) -> list[str]:
    """What to know of traits that have two values, as a disease coded 0 and 1 or 1 and 2, or values far from others."""
    pairs = zip(group.phenotypes, group.Y.T, strict=True)
    binary = [name for name, y in pairs if len(np.unique(y)) == 2 and options.method != "pcgc"]
    remedy = "; gpu-reml --prevalence has h2 of liability" if getattr(options, "prevalence", None) is None else ""
    where = f"variances and h2 are on that observed scale{remedy}"
    told = [f"{name} has two values: {where}" for name in binary]
    return told + [note for name, y in zip(group.phenotypes, group.Y.T, strict=True) for note in _far_note(name, y)]


def _far_note(name: str, y: np.ndarray) -> list[str]:
    """Values that may be codes for missing ones, as -999 and 9999 are in many files."""
    centre = np.median(y)
    spread = 1.4826 * np.median(np.abs(y - centre))  # the SD of a normal
    far = y[np.abs(y - centre) > FAR * spread] if spread > 0 else y[:0]
    if not len(far):
        return []
    most = far[np.argmax(np.abs(far - centre))]
    return [
        f"{name}: {len(far)} value(s) are more than {FAR} standard deviations from the others (the farthest is "
        f"{most:g}); write NA where it is a code for missing"
    ]


def set_components(sources: Sources, loaded: Loaded, planned: Planned, options: Namespace):
    """Components that are sets of variants, and what they are."""
    made = components(sources, loaded.genotypes, loaded.variants, options)
    weights = with_alpha(made.weights, loaded.genotypes, options.alpha)
    products = place(loaded.genotypes, planned, options)
    return ops.make_covariance(products, weights, made.names, options.normalise), made


def smile_components(loaded: Loaded, planned: Planned, options: Namespace):
    """Components that have dense blocks of weights, and what they are."""
    weights = smile_weights(loaded.genotypes, loaded.variants, options)
    products = place(loaded.genotypes, planned, options, cuts=weights.cuts)
    return smile_covariance(products, loaded.variants, options, weights)[0], weights


def place(genotypes: ops.PackedGenotypes, planned: Planned, options: Namespace, **kept):
    """Products with the genotypes on the planned backend; ``kept`` as :func:`~gpu_reml.ops.make_products` has it."""
    if planned.device is not None:
        limit = max(planned.device.peak, budget_of(options))
        kept.update(residency=planned.device.residency, limit=limit, num_devices=options.num_gpus)
    products = ops.make_products(genotypes, planned.backend, np.dtype(options.dtype).type, **kept)
    if planned.device is not None:
        products.keep_within(planned.device.peak)
    return products


def without_samples(group: Group, kept: np.ndarray, reason: str) -> Group:
    """The group with only the samples where ``kept`` is True."""
    alignment = group.alignment
    dropped = alignment.samples[~kept].assign(reason=reason)
    left = replace(
        alignment,
        samples=alignment.samples[kept].reset_index(drop=True),
        indices=tuple(index[kept] for index in alignment.indices),
        y=alignment.y[kept],
        dropped=pd.concat([alignment.dropped, dropped], ignore_index=True),
    )
    return Group(left, group.Y[kept], group.phenotypes)
