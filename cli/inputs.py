"""From options to arrays: read every file, align the samples, make the covariance."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gpu_reml import io, ops
from gpu_reml.ops.device.plan import DevicePlan

from .plan import Sizes, backend_for, budget_of, device_plan, most_rank


class Planned(NamedTuple):
    """A group's design, and what its analysis needs where, before a genotype is read."""

    design: io.Design
    backend: str
    sizes: Sizes
    rank: int
    device: DevicePlan | None

    def probes(self, allowed: int) -> int:
        """Most probes, of those allowed, that there is room for."""
        return allowed if self.device is None or self.device.probes is None else min(allowed, self.device.probes)

    @property
    def columns(self) -> int | None:
        """Most columns worked on at once; None for all."""
        return None if self.device is None else self.device.columns


class Inputs(NamedTuple):
    """What a fit of traits of the same samples needs, and what was read to get there."""

    alignment: io.Alignment
    Y: np.ndarray
    phenotypes: tuple[str, ...]
    planned: Planned
    covariance: ops.GenotypeCovariance
    notes: tuple[str, ...]

    @property
    def design(self) -> io.Design:
        return self.planned.design


class Tables(NamedTuple):
    """The files named on the command line, read once; genotypes only by their samples and variants."""

    bed_files: list[io.BedFile]
    phenotypes: list[io.Phenotype]
    quantitative: io.Covariates | None
    categorical: io.Covariates | None
    specs: list[io.ComponentSpec]


class Group(NamedTuple):
    """Traits that the same samples have."""

    alignment: io.Alignment
    Y: np.ndarray
    phenotypes: tuple[str, ...]


def read_inputs(options: Namespace) -> tuple[Tables, list[Group]]:
    """Read and check the tables; raises ValueError with one line for what is wrong."""
    bed_files = [io.read_bed(prefix) for prefix in options.bfile.split(",")]
    if options.component_spec and len(bed_files) > 1:
        raise io.InputError("--component-spec: its indices are for one fileset; give one prefix, found several")
    phenotypes = read_traits(options)
    quantitative = io.read_covariates(options.qcovar, "quantitative") if options.qcovar else None
    categorical = io.read_covariates(options.covar, "categorical") if options.covar else None
    if options.component_spec:
        specs = io.read_component_spec(options.component_spec, len(bed_files[0].variants))
    else:
        specs = io.components_from_prefixes(bed_files)
    tables = Tables(bed_files, phenotypes, quantitative, categorical, specs)
    return tables, list(grouped_by_samples(tables, options))


def read_traits(options: Namespace) -> list[io.Phenotype]:
    """The phenotypes asked for."""
    if options.pheno_name is None:
        return [io.read_phenotype(options.pheno, number=options.mpheno)]
    return io.read_phenotypes(options.pheno, io.phenotype_names(options.pheno, options.pheno_name))


def grouped_by_samples(tables: Tables, options: Namespace) -> Iterator[Group]:
    """Traits with the same analysed samples together, in the order of the first of each group."""
    keep = io.read_sample_list(options.keep) if options.keep else None
    remove = io.read_sample_list(options.remove) if options.remove else None
    covariates = [table for table in (tables.quantitative, tables.categorical) if table is not None]
    names = [str(bed.prefix) for bed in tables.bed_files]
    samples = [bed.samples for bed in tables.bed_files]
    groups: dict[bytes, list[tuple[str, io.Alignment]]] = {}
    for phenotype in tables.phenotypes:
        alignment = io.align(samples, phenotype, covariates, keep=keep, remove=remove, source_names=names)
        groups.setdefault(alignment.indices[0].tobytes(), []).append((phenotype.name, alignment))
    for members in groups.values():
        Y = np.column_stack([alignment.y for _, alignment in members])
        yield Group(replace(members[0][1]), Y, tuple(name for name, _ in members))


def plan_group(tables: Tables, group: Group, options: Namespace) -> Planned:
    """Backend and memory plan of a group; raises ValueError when the device's budget cannot hold it."""
    design = io.design_matrix(tables.quantitative, tables.categorical, group.alignment.samples)
    parts = tuple(bed.num_variants for bed in tables.bed_files)
    n, t = group.alignment.num_samples, len(group.phenotypes)
    num_weights = sum(spec.num_variants for spec in tables.specs)
    sizes = Sizes(n, parts, len(tables.specs), t, design.num_columns, num_weights)
    backend = backend_for(options)
    plan = device_plan(sizes, options) if backend == "cuda" else None
    rank = most_rank(sizes, options) if plan is None else plan.rank
    return Planned(design, backend, sizes, rank, plan)


def load_group(tables: Tables, group: Group, planned: Planned, options: Namespace) -> Inputs:
    """Genotypes of a group's samples, where they are planned to be."""
    genotypes = io.load_genotypes(tables.bed_files, group.alignment.indices)
    weights, names = io.component_weights(tables.specs, genotypes.num_variants)
    kept = {}
    if planned.device is not None:
        limit = max(planned.device.peak, budget_of(options))
        kept = {"residency": planned.device.residency, "limit": limit, "num_devices": options.num_gpus}
    products = ops.make_products(genotypes, planned.backend, np.dtype(options.dtype).type, **kept)
    if planned.device is not None:
        products.keep_within(planned.device.peak)
    covariance = ops.make_covariance(products, weights, names, options.normalise)
    covariates = [table for table in (tables.quantitative, tables.categorical) if table is not None]
    sources = (*tables.bed_files, tables.phenotypes[0], *covariates, planned.design)
    notes = tuple(note for source in sources for note in source.notes)
    return Inputs(group.alignment, group.Y, group.phenotypes, planned, covariance, notes)
