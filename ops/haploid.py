"""Calls of chromosomes of which males have one copy: X outside its pseudo-autosomal regions."""

from dataclasses import replace

import numpy as np

from .arguments import as_index
from .genotypes import CALL_BITS, PackedGenotypes, standardise
from .packing import MISSING, pack, unpack

ROWS = 1024  # variants that are unpacked at once


def with_haploid_males(genotypes: PackedGenotypes, rows: np.ndarray, males: np.ndarray) -> PackedGenotypes:
    """The genotypes with males (n,) bool counted 0 or 1 on the variants ``rows``, where files have 0 or 2.

    A heterozygous male call cannot be, and is missing.  Means and SDs are those of the new counts; a copy of all packed
    calls.  Cost: one read of the genotypes.
    ValueError for dosages.

    >>> import numpy as np
    >>> from gpu_reml.ops import pack, standardise, to_dense, with_haploid_males
    >>> genotypes = standardise([pack(np.array([[0, 0], [2, 2], [1, 1], [2, 2]], np.int8))], 4)
    >>> found = with_haploid_males(genotypes, [1], np.array([False, False, True, True]))
    >>> found.mean.tolist(), found.num_called.tolist()
    ([1.25, 1.0], [4, 3])
    """
    if genotypes.bits != CALL_BITS:
        raise ValueError("genotypes: expected calls, found dosages, which have no heterozygous male to tell")
    rows, males = as_index(rows, "rows"), np.asarray(males)
    if males.shape != (genotypes.num_samples,) or males.dtype != bool:
        raise ValueError(f"males: expected ({genotypes.num_samples},) of True and False, found {males.shape}")
    parts, first = [], 0
    for part in genotypes.parts:
        here = rows[(rows >= first) & (rows < first + len(part))] - first
        copy = np.array(part)
        for start in range(0, len(here), ROWS):
            some = here[start : start + ROWS]
            counts = unpack(copy[some], genotypes.num_samples)
            own = counts[males]
            counts[males] = np.where(own == 2, 1, np.where(own == 1, MISSING, own)).astype(np.int8)
            copy[some] = pack(counts)
        parts.append(copy)
        first += len(part)
    return replace(standardise(parts, genotypes.num_samples), stamps=genotypes.stamps)
