"""Packed genotypes: the only form in which genotypes are kept in memory.

A genotype takes two bits, four samples to a byte, in PLINK's .bed coding (sample ``i`` is in byte
``i // 4`` at bits ``2 * (i % 4)``): ``00`` two copies of the counted allele A1, ``01`` missing,
``10`` one copy, ``11`` none.  Bytes read from a .bed file are therefore used as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .packing import count_codes

# Copies of the counted allele (BIM column 5, A1) for each two-bit code; NaN is a missing call.
COUNT_OF_CODE = np.array([2.0, np.nan, 1.0, 0.0])


@dataclass(frozen=True)
class PackedGenotypes:
    """n samples x m variants, two bits a call, with the statistics that standardise them.

    ``parts``: one uint8 array (m_p, ceil(n / 4)) for each source, in variant order; may be memory maps.
    ``mean``: (m,) mean count of A1 over the called genotypes.  ``inv_sd``: (m,) 1 / SD of the count, and 0 for a
    variant that does not vary (monomorphic or never called): such a variant contributes nothing anywhere.
    ``num_called``: (m,) samples with a call.
    """

    parts: tuple[np.ndarray, ...]
    num_samples: int
    mean: np.ndarray
    inv_sd: np.ndarray
    num_called: np.ndarray

    @property
    def num_variants(self) -> int:
        return len(self.mean)

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def standardise(parts, num_samples: int) -> PackedGenotypes:
    """Pair packed bytes with their standardisation: the mean and SD (ddof 0) of the called genotypes.

    Exact: the counts are integers and the moments are formed from them in float64.  Cost: one read of the packed
    bytes.
    """
    parts = tuple(parts)
    for p, part in enumerate(parts):
        if part.dtype != np.uint8 or part.ndim != 2 or part.shape[1] != (num_samples + 3) // 4:
            raise ValueError(
                f"parts[{p}]: expected uint8 of shape (variants, {(num_samples + 3) // 4}) for {num_samples} samples, "
                f"found {part.dtype} {part.shape}"
            )
    counts = np.concatenate([count_codes(part, num_samples) for part in parts])
    two, one = counts[:, 0].astype(np.float64), counts[:, 2].astype(np.float64)
    called = num_samples - counts[:, 1]
    divisor = np.maximum(called, 1)
    mean = (2 * two + one) / divisor
    # called * sum of squares - (sum)^2 is an exact integer, so a rare allele loses nothing to cancellation.
    scaled_variance = called * (4 * two + one) - (2 * two + one) ** 2
    varies = scaled_variance > 0
    inv_sd = np.zeros(len(mean))
    inv_sd[varies] = called[varies] / np.sqrt(scaled_variance[varies])
    return PackedGenotypes(parts, num_samples, mean, inv_sd, called)


def code_values(genotypes: PackedGenotypes) -> np.ndarray:
    """(m, 4) float64: the standardised genotype of each two-bit code; a missing call is the mean, so 0."""
    values = (np.nan_to_num(COUNT_OF_CODE)[None, :] - genotypes.mean[:, None]) * genotypes.inv_sd[:, None]
    values[:, 1] = 0.0
    return values


@dataclass(frozen=True)
class Block:
    """Consecutive variants of one part: rows ``start:stop`` of Z' and their packed bytes."""

    start: int
    stop: int
    packed: np.ndarray

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


def blocks(genotypes: PackedGenotypes, width: int) -> Iterator[Block]:
    """The variants in order, at most ``width`` at a time; a block never crosses two parts."""
    offset = 0
    for part in genotypes.parts:
        for first in range(0, len(part), width):
            last = min(first + width, len(part))
            yield Block(offset + first, offset + last, part[first:last])
        offset += len(part)
