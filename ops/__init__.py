"""Where bytes and devices live: packed genotypes, their products, and covariances built from them."""

from .backend import make_products, resolve_backend
from .block_covariance import BlockCovariance, make_block_covariance
from .covariance import GenotypeCovariance, Products, alpha_weights, make_covariance
from .cpu import CpuProducts, to_dense
from .dominance import dominance
from .genotypes import (
    CALL_BITS,
    PackedGenotypes,
    among_samples,
    code_values,
    standardise,
    take_variants,
    with_binomial_sd,
)
from .haploid import with_haploid_males
from .ld import ld_scores
from .ld_weights import block_edges, ld_block_weights, set_block_weights
from .loco import LeaveOut, leave_out
from .packing import MISSING, pack, take_samples, unpack
from .pedigree import Pedigree, PedigreeCovariance, inverse_relationship, make_pedigree
from .weights import BlockWeights

__all__ = [
    "CALL_BITS",
    "MISSING",
    "BlockCovariance",
    "BlockWeights",
    "CpuProducts",
    "GenotypeCovariance",
    "LeaveOut",
    "PackedGenotypes",
    "Pedigree",
    "PedigreeCovariance",
    "Products",
    "alpha_weights",
    "among_samples",
    "block_edges",
    "code_values",
    "dominance",
    "inverse_relationship",
    "ld_block_weights",
    "ld_scores",
    "leave_out",
    "make_block_covariance",
    "make_covariance",
    "make_pedigree",
    "make_products",
    "pack",
    "resolve_backend",
    "set_block_weights",
    "standardise",
    "take_samples",
    "take_variants",
    "to_dense",
    "unpack",
    "with_binomial_sd",
    "with_haploid_males",
]
