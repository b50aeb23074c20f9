"""Where bytes and devices live: packed genotypes, their products, and covariances built from them."""

from .threads import prefer_sleeping_threads

prefer_sleeping_threads()

from .backend import make_products, resolve_backend  # noqa: E402
from .covariance import GenotypeCovariance, make_covariance  # noqa: E402
from .cpu import CpuProducts, to_dense  # noqa: E402
from .genotypes import PackedGenotypes, code_values, standardise  # noqa: E402
from .packing import MISSING, pack, take_samples, unpack  # noqa: E402

__all__ = [
    "MISSING",
    "CpuProducts",
    "GenotypeCovariance",
    "PackedGenotypes",
    "code_values",
    "make_covariance",
    "make_products",
    "pack",
    "resolve_backend",
    "standardise",
    "take_samples",
    "to_dense",
    "unpack",
]
