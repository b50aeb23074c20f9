"""Files in, results out: genotypes, tables, sample alignment, component specifications and atomic writers."""

from .bed import BedFile, load_genotypes, read_bed
from .checkpoint import read_checkpoint, write_checkpoint
from .components import ComponentSpec, component_weights, components_from_prefixes, read_component_spec
from .design import Design, design_matrix
from .errors import InputError, OutputError
from .ids import SampleTable
from .samples import Alignment, align, write_samples
from .tables import (
    Covariates,
    Phenotype,
    phenotype_names,
    read_covariates,
    read_phenotype,
    read_phenotypes,
    read_sample_list,
)
from .writers import check_writable, json_text, table_text, write_all, write_json, write_table, write_text

__all__ = [
    "Alignment",
    "BedFile",
    "ComponentSpec",
    "Covariates",
    "Design",
    "InputError",
    "OutputError",
    "Phenotype",
    "SampleTable",
    "align",
    "check_writable",
    "component_weights",
    "components_from_prefixes",
    "design_matrix",
    "json_text",
    "load_genotypes",
    "phenotype_names",
    "read_bed",
    "read_checkpoint",
    "read_component_spec",
    "read_covariates",
    "read_phenotype",
    "read_phenotypes",
    "read_sample_list",
    "table_text",
    "write_all",
    "write_checkpoint",
    "write_json",
    "write_samples",
    "write_table",
    "write_text",
]
