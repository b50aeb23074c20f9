"""From options to arrays: read every file, align the samples, make the covariance."""

from argparse import Namespace
from typing import NamedTuple

import numpy as np

from gpu_reml import io, ops


class Inputs(NamedTuple):
    """Everything a fit needs, and what was read to get there."""

    alignment: io.Alignment
    design: io.Design
    covariance: ops.GenotypeCovariance
    phenotype: str
    notes: tuple[str, ...]


def read_inputs(options: Namespace) -> Inputs:
    """Read and check the files named on the command line; raises ValueError with one line for what is wrong."""
    bed_files = [io.read_bed(prefix) for prefix in options.bfile.split(",")]
    if options.component_spec and len(bed_files) > 1:
        raise io.InputError("--component-spec: its indices are for one fileset; give one prefix, found several")
    phenotype = io.read_phenotype(options.pheno, options.pheno_name, options.mpheno)
    quantitative = io.read_covariates(options.qcovar, "quantitative") if options.qcovar else None
    categorical = io.read_covariates(options.covar, "categorical") if options.covar else None
    if options.component_spec:
        specs = io.read_component_spec(options.component_spec, len(bed_files[0].variants))
    else:
        specs = io.components_from_prefixes(bed_files)
    covariates = [table for table in (quantitative, categorical) if table is not None]
    alignment = io.align(
        [bed.samples for bed in bed_files],
        phenotype,
        covariates,
        keep=io.read_sample_list(options.keep) if options.keep else None,
        remove=io.read_sample_list(options.remove) if options.remove else None,
        source_names=[str(bed.prefix) for bed in bed_files],
    )
    design = io.design_matrix(quantitative, categorical, alignment.samples)
    genotypes = io.load_genotypes(bed_files, alignment.indices)
    check_budget(genotypes, options)
    weights, names = io.component_weights(specs, genotypes.num_variants)
    device = "cuda" if options.device == "gpu" else options.device
    products = ops.make_products(genotypes, device, np.dtype(options.dtype).type)
    covariance = ops.make_covariance(products, weights, names, options.normalise)
    notes = [note for source in (*bed_files, phenotype, *covariates, design) for note in source.notes]
    return Inputs(alignment, design, covariance, phenotype.name, tuple(notes))


def check_budget(genotypes: ops.PackedGenotypes, options: Namespace) -> None:
    """Refuse a device budget that the packed genotypes alone exceed."""
    needed = genotypes.num_bytes / 2**30
    if options.device != "cpu" and 0 < options.gpu_budget_gib < needed:
        raise io.InputError(
            f"--gpu-budget-gib {options.gpu_budget_gib:g}: the packed genotypes alone take {needed:.3f} GiB; "
            "raise the budget or use --device cpu"
        )
