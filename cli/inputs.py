"""From options to arrays: read every file, align the samples, make the covariance."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gpu_reml import io, ops


class Inputs(NamedTuple):
    """What a fit of traits of the same samples needs, and what was read to get there."""

    alignment: io.Alignment
    Y: np.ndarray
    phenotypes: tuple[str, ...]
    design: io.Design
    covariance: ops.GenotypeCovariance
    notes: tuple[str, ...]


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


def load_group(tables: Tables, group: Group, options: Namespace) -> Inputs:
    """Design matrix and genotypes of a group's samples."""
    design = io.design_matrix(tables.quantitative, tables.categorical, group.alignment.samples)
    genotypes = io.load_genotypes(tables.bed_files, group.alignment.indices)
    check_budget(genotypes, options)
    weights, names = io.component_weights(tables.specs, genotypes.num_variants)
    device = "cuda" if options.device == "gpu" else options.device
    products = ops.make_products(genotypes, device, np.dtype(options.dtype).type)
    covariance = ops.make_covariance(products, weights, names, options.normalise)
    covariates = [table for table in (tables.quantitative, tables.categorical) if table is not None]
    sources = (*tables.bed_files, tables.phenotypes[0], *covariates, design)
    notes = tuple(note for source in sources for note in source.notes)
    return Inputs(group.alignment, group.Y, group.phenotypes, design, covariance, notes)


def check_budget(genotypes: ops.PackedGenotypes, options: Namespace) -> None:
    """Refuse a device budget that the packed genotypes alone exceed."""
    needed = genotypes.num_bytes / 2**30
    if options.device != "cpu" and 0 < options.gpu_budget_gib < needed:
        raise io.InputError(
            f"--gpu-budget-gib {options.gpu_budget_gib:g}: the packed genotypes alone take {needed:.3f} GiB; "
            "raise the budget or use --device cpu"
        )
