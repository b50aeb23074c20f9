"""Files in, results out: genotypes, tables, sample alignment, component specifications and atomic writers."""

from .admixture import read_admixture
from .annotations import (
    annotation_files,
    components_from_annotations,
    components_from_lists,
    components_from_table,
)
from .archives import load_npy
from .bed import BedFile, read_bed
from .bgen import BgenFile, read_bgen
from .cache import PackedCache
from .checkpoint import read_checkpoint, write_checkpoint
from .component_sets import (
    BACKGROUND,
    AnalysedVariants,
    ComponentSet,
    check_independent,
    complete_components,
    component_set,
    components_by_chromosome,
    components_by_ld,
    components_by_maf,
    components_from_specs,
    join_components,
    minor_allele_frequencies,
)
from .components import ComponentSpec, component_weights, components_from_prefixes, read_component_spec
from .content import pipes_kept, read_content
from .design import Design, design_matrix, values_of
from .errors import InputError, OutputError
from .filters import (
    GenotypeFilters,
    Selection,
    VariantFilters,
    count_calls,
    count_missing,
    dosage_freq,
    select_by_genotype,
    select_samples,
    select_variants,
)
from .genotype_file import GenotypeFile
from .genotypes import load_genotypes
from .grm import GrmFile, read_grm, write_grm
from .harmonise import Matching, harmonise
from .ids import SampleTable
from .intervals import components_from_intervals
from .ld_scores import read_ld_scores
from .model import FixedTerms, Model, Scale, fixed_terms
from .model_file import read_model, write_model
from .null_models import NullModel, NullModels, null_bytes, read_null
from .pedigree_files import PedigreeFile, read_pedigree
from .pgen import PgenFile, read_pgen
from .samples import Alignment, align, write_samples
from .scoring import complete_samples, complete_scales, fixed_columns, genetic_scores, scale_columns
from .sexes import haploid_in_males, read_males
from .smile import parse_grm_groups, read_w, read_w_list
from .staging import clear_leftovers
from .stamps import Stamp, check_same, check_unchanged, digest_of_files, shrunken_maps, stamp_of, stamp_of_map
from .tables import (
    Covariates,
    Phenotype,
    read_covariates,
    read_phenotype,
    read_phenotypes,
    read_sample_list,
)
from .windows import gene_sets, interval_sets, windows
from .writers import check_writable, json_text, table_text, write_all, write_json, write_table, write_text

__all__ = [
    "BACKGROUND",
    "Alignment",
    "AnalysedVariants",
    "BedFile",
    "BgenFile",
    "ComponentSet",
    "ComponentSpec",
    "Covariates",
    "Design",
    "FixedTerms",
    "GenotypeFile",
    "GenotypeFilters",
    "GrmFile",
    "InputError",
    "Matching",
    "Model",
    "NullModel",
    "NullModels",
    "OutputError",
    "PackedCache",
    "PedigreeFile",
    "PgenFile",
    "Phenotype",
    "SampleTable",
    "Scale",
    "Selection",
    "Stamp",
    "VariantFilters",
    "align",
    "annotation_files",
    "check_independent",
    "check_same",
    "check_unchanged",
    "check_writable",
    "clear_leftovers",
    "complete_components",
    "complete_samples",
    "complete_scales",
    "component_set",
    "component_weights",
    "components_by_chromosome",
    "components_by_ld",
    "components_by_maf",
    "components_from_annotations",
    "components_from_intervals",
    "components_from_lists",
    "components_from_prefixes",
    "components_from_specs",
    "components_from_table",
    "count_calls",
    "count_missing",
    "design_matrix",
    "digest_of_files",
    "dosage_freq",
    "fixed_columns",
    "fixed_terms",
    "gene_sets",
    "genetic_scores",
    "haploid_in_males",
    "harmonise",
    "interval_sets",
    "join_components",
    "json_text",
    "load_genotypes",
    "load_npy",
    "minor_allele_frequencies",
    "null_bytes",
    "parse_grm_groups",
    "pipes_kept",
    "read_admixture",
    "read_bed",
    "read_bgen",
    "read_checkpoint",
    "read_component_spec",
    "read_content",
    "read_covariates",
    "read_grm",
    "read_ld_scores",
    "read_males",
    "read_model",
    "read_null",
    "read_pedigree",
    "read_pgen",
    "read_phenotype",
    "read_phenotypes",
    "read_sample_list",
    "read_w",
    "read_w_list",
    "scale_columns",
    "select_by_genotype",
    "select_samples",
    "select_variants",
    "shrunken_maps",
    "stamp_of",
    "stamp_of_map",
    "table_text",
    "values_of",
    "windows",
    "write_all",
    "write_checkpoint",
    "write_grm",
    "write_json",
    "write_model",
    "write_samples",
    "write_table",
    "write_text",
]
