"""Packed genotypes: the only form in which genotypes are kept in memory.

A called genotype takes two bits, four samples to a byte, in PLINK's .bed coding (sample ``i`` is in byte
``i // 4`` at bits ``2 * (i % 4)``): ``00`` two copies of the counted allele A1, ``01`` missing,
``10`` one copy, ``11`` none.  Bytes read from a .bed file are therefore used as they are.
Dosages take 8 or 16 bits, one item a sample: see :mod:`gpu_reml.ops.dosages`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .arguments import as_count, as_index
from .dosages import DOSAGE_TYPE, dosage_moments, dosage_table
from .packing import count_codes, take_samples

CALL_BITS = 2
CHUNK = 4096  # variants that are summed together: a part of the arithmetic, so that results do not depend on settings

# Copies of the counted allele (BIM column 5, A1) for each two-bit code; NaN is a missing call.
COUNT_OF_CODE = np.array([2.0, np.nan, 1.0, 0.0])


@dataclass(frozen=True)
class PackedGenotypes:
    """n samples x m variants, calls or dosages, with the statistics that standardise them.

    ``parts``: one array for each source, in variant order; may be memory maps.  ``bits``: 2 for calls, uint8 (m_p,
    ceil(n / 4)); 8 or 16 for dosages, uint8 or uint16 (m_p, n).
    ``mean``: (m,) mean count of A1 over the called genotypes.  ``inv_sd``: (m,) 1 / SD of the count, and 0 for a
    variant that does not vary (monomorphic or never called): such a variant contributes nothing anywhere.
    ``num_called``: (m,) samples with a call.  ``variance``: (m,) of a standardised variant's calls (ddof 0), 1 unless
    its SD is another than theirs (:func:`with_binomial_sd`).  ``stamps``: of the files that parts are maps of, for
    :func:`gpu_reml.io.check_unchanged` when all has been computed.
    """

    parts: tuple[np.ndarray, ...]
    num_samples: int
    mean: np.ndarray
    inv_sd: np.ndarray
    num_called: np.ndarray
    bits: int = CALL_BITS
    variance: np.ndarray | float = 1.0
    stamps: tuple[Any, ...] = ()

    @property
    def squared_norm(self) -> np.ndarray:
        """(m,) z_j' z_j of every standardised variant; 0 where it does not vary."""
        return np.where(self.inv_sd > 0, self.num_called * self.variance, 0.0)

    @property
    def samples_per_item(self) -> int:
        """Samples in one item of a row: items are bytes of calls, or single dosages."""
        return samples_per_item(self.bits)

    @property
    def num_variants(self) -> int:
        return len(self.mean)

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def samples_per_item(bits: int) -> int:
    """Samples in one item of a row of genotypes: four calls in a byte, or one dosage."""
    return 8 // CALL_BITS if bits == CALL_BITS else 1


def item_type(bits: int) -> np.dtype:
    """Type of one item of a row of genotypes."""
    return np.dtype(np.uint8 if bits == CALL_BITS else DOSAGE_TYPE[bits])


def items_per_row(num_samples: int, bits: int) -> int:
    """Items in a variant's row of genotypes."""
    return -(-num_samples // samples_per_item(bits))


def standardise(parts, num_samples: int, bits: int = CALL_BITS) -> PackedGenotypes:
    """Pair genotypes with their standardisation: the mean and SD (ddof 0) of those that are called, (m,) each.

    Exact: the counts, or sums of dosage codes, are integers and the moments are formed from them in float64.  Cost: one
    read of the genotypes.  Raises ValueError for parts that are no packed genotypes of so many samples.

    >>> import numpy as np
    >>> from gpu_reml.ops import MISSING, pack, standardise
    >>> genotypes = standardise([pack(np.array([[0, 2], [1, 2], [2, MISSING]], np.int8))], 3)
    >>> genotypes.mean.tolist(), genotypes.squared_norm.tolist()  # the second variant does not vary
    ([1.0, 2.0], [3.0, 0.0])
    """
    if bits not in (CALL_BITS, *DOSAGE_TYPE):
        raise ValueError(f"bits: expected {CALL_BITS} for calls, 8 or 16 for dosages, found {bits}")
    as_count(num_samples, "num_samples")
    parts = tuple(parts)
    if not parts:
        raise ValueError("parts: expected one array of genotypes or more, found none")
    dtype, width = item_type(bits), items_per_row(num_samples, bits)
    for p, part in enumerate(parts):
        if not hasattr(part, "dtype"):
            raise ValueError(f"parts[{p}]: expected an array of packed genotypes, found {type(part).__name__}")
        if part.dtype != dtype or part.ndim != 2 or part.shape[1] != width:
            raise ValueError(
                f"parts[{p}]: expected {dtype} of shape (variants, {width}) for {num_samples} samples, "
                f"found {part.dtype} {part.shape}"
            )
    moments = [_call_moments(part, num_samples) if bits == CALL_BITS else dosage_moments(part, bits) for part in parts]
    mean, inv_sd, called = (np.concatenate(column) for column in zip(*moments, strict=True))
    return PackedGenotypes(parts, num_samples, mean, inv_sd, called, bits)


def with_binomial_sd(genotypes: PackedGenotypes) -> PackedGenotypes:
    """The same genotypes divided by sqrt(2p(1-p)), p = mean / 2: the SD in Hardy-Weinberg equilibrium.

    A variant that does not vary among the calls stays out, also where all are heterozygous.  No read of genotypes.
    """
    varies = genotypes.inv_sd > 0
    p = genotypes.mean / 2
    ratio = np.ones(len(p))  # SD of the calls / binomial SD
    ratio[varies] = 1 / (genotypes.inv_sd[varies] * np.sqrt(2 * p[varies] * (1 - p[varies])))
    return replace(genotypes, inv_sd=genotypes.inv_sd * ratio, variance=genotypes.variance * ratio**2)


def _call_moments(packed: np.ndarray, num_samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, 1 / SD or 0, called) of every variant of packed calls."""
    counts = count_codes(packed, num_samples)
    two, one = counts[:, 0].astype(np.float64), counts[:, 2].astype(np.float64)
    called = num_samples - counts[:, 1]
    divisor = np.maximum(called, 1)
    mean = (2 * two + one) / divisor
    # called * sum of squares - (sum)^2 is an exact integer, so a rare allele loses nothing to cancellation.
    scaled_variance = called * (4 * two + one) - (2 * two + one) ** 2
    varies = scaled_variance > 0
    inv_sd = np.zeros(len(mean))
    inv_sd[varies] = called[varies] / np.sqrt(scaled_variance[varies])
    return mean, inv_sd, called


def code_values(genotypes: PackedGenotypes) -> np.ndarray:
    """(m, 4) float64: the standardised genotype of each two-bit code; a missing call is the mean, so 0."""
    if genotypes.bits != CALL_BITS:
        raise ValueError(f"genotypes: expected calls of {CALL_BITS} bits, found dosages of {genotypes.bits}")
    values = (np.nan_to_num(COUNT_OF_CODE)[None, :] - genotypes.mean[:, None]) * genotypes.inv_sd[:, None]
    values[:, 1] = 0.0
    return values


def decode_table(genotypes: PackedGenotypes, dtype: type = np.float64) -> np.ndarray:
    """What decodes each variant: :func:`code_values` (m, 4) of calls, or the table (m, 3) of dosages."""
    if genotypes.bits == CALL_BITS:
        return code_values(genotypes).astype(dtype)
    return dosage_table(genotypes.mean, genotypes.inv_sd, genotypes.bits, dtype)


def take_variants(genotypes: PackedGenotypes, rows: np.ndarray) -> PackedGenotypes:
    """Variants ``rows`` in that order, with their standardisation; their packed bytes are copied to one part."""
    rows, m = as_index(rows, "rows"), genotypes.num_variants
    if len(rows) and not 0 <= rows.min() <= rows.max() < m:
        raise ValueError(f"rows: expected variants in 0..{m - 1}, found {rows.min()}..{rows.max()}")
    starts = np.cumsum([0, *(len(part) for part in genotypes.parts)])
    taken = np.empty((len(rows), genotypes.parts[0].shape[1]), genotypes.parts[0].dtype)
    for part, first, last in zip(genotypes.parts, starts[:-1], starts[1:], strict=True):
        here = np.flatnonzero((rows >= first) & (rows < last))
        taken[here] = part[rows[here] - first]
    vectors = ("mean", "inv_sd", "num_called", "variance")
    chosen = {name: value[rows] for name in vectors if isinstance(value := getattr(genotypes, name), np.ndarray)}
    return with_parts_here(genotypes, parts=(taken,), **chosen)


def variants_between(genotypes: PackedGenotypes, start: int, stop: int) -> PackedGenotypes:
    """Variants start:stop with their standardisation; their packed bytes are not copied."""
    parts = tuple(block.packed for block in blocks_between(genotypes, start, stop, stop - start))
    vectors = ("mean", "inv_sd", "num_called", "variance")
    chosen = {name: each[start:stop] for name in vectors if isinstance(each := getattr(genotypes, name), np.ndarray)}
    return with_parts_here(genotypes, parts=parts, **chosen)


def with_parts_here(genotypes: PackedGenotypes, **changed: Any) -> PackedGenotypes:
    """The genotypes with some fields changed, and no longer of a class that has them elsewhere too."""
    known = {each.name: getattr(genotypes, each.name) for each in fields(PackedGenotypes)}
    return PackedGenotypes(**{**known, **changed})


def among_samples(genotypes: PackedGenotypes, index: np.ndarray) -> PackedGenotypes:
    """Genotypes of samples ``index``, in that order, standardised by their own means and SDs; their items are copied.

    Cost: one read of the genotypes, and of the copy.
    """
    index = as_index(index, "index")
    if genotypes.bits == CALL_BITS:
        parts = [take_samples(part, index) for part in genotypes.parts]
    else:
        parts = [np.ascontiguousarray(part[:, index]) for part in genotypes.parts]
    return replace(standardise(parts, len(index), genotypes.bits), stamps=genotypes.stamps)


@dataclass(frozen=True)
class Block:
    """Consecutive variants of one part: rows ``start:stop`` of Z' and their packed items."""

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


def blocks_between(genotypes: PackedGenotypes, start: int, stop: int, width: int) -> Iterator[Block]:
    """Variants start:stop in order, at most ``width`` at a time, none across two parts."""
    offset = 0
    for part in genotypes.parts:
        first, last = max(start, offset), min(stop, offset + len(part))
        for begin in range(first, last, width):
            end = min(begin + width, last)
            yield Block(begin, end, part[begin - offset : end - offset])
        offset += len(part)


def chunks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Variants start:stop, cut where chunks end: these are counted from the first variant of all."""
    while start < stop:
        end = min(stop, start // CHUNK * CHUNK + CHUNK)
        yield start, end
        start = end
