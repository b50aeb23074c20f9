"""Where bytes and devices live: packed genotypes, their products, and covariances built from them."""

from .threads import prefer_sleeping_threads

prefer_sleeping_threads()

from .backend import make_products, resolve_backend  # noqa: E402
from .block_covariance import BlockCovariance, make_block_covariance  # noqa: E402
from .covariance import GenotypeCovariance, Products, alpha_weights, make_covariance  # noqa: E402
from .cpu import CpuProducts, to_dense  # noqa: E402
from .dominance import dominance  # noqa: E402
from .genotypes import CALL_BITS, PackedGenotypes, code_values, standardise, take_variants, with_binomial_sd  # noqa: E402
from .ld import ld_scores  # noqa: E402
from .ld_weights import block_edges, ld_block_weights, set_block_weights  # noqa: E402
from .loco import LeaveOut, leave_out  # noqa: E402
from .packing import MISSING, pack, take_samples, unpack  # noqa: E402
from .weights import BlockWeights  # noqa: E402

__all__ = [
    "CALL_BITS",
    "MISSING",
    "BlockCovariance",
    "BlockWeights",
    "CpuProducts",
    "GenotypeCovariance",
    "LeaveOut",
    "PackedGenotypes",
    "Products",
    "alpha_weights",
    "block_edges",
    "code_values",
    "dominance",
    "ld_block_weights",
    "ld_scores",
    "leave_out",
    "make_block_covariance",
    "make_covariance",
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
]
