"""How genotypes lie on a CUDA device, and what a product takes besides: arithmetic that needs no CUDA software."""

PITCH = 64  # bytes of which a row of packed genotypes has a multiple: a tile of 256 samples
ROWS = 64  # variants of which a piece has a multiple
CONSTANTS = (8, 8)  # bytes for every variant: table, and reciprocal SD with the shift of the mean


def product_bytes(num_samples: int, num_variants: int, num_columns: int) -> int:
    return 4 * num_variants * num_columns


def half_product_bytes(num_samples: int, num_variants: int, num_columns: int) -> int:
    return 0
