"""LD scores: for every variant the sum of squared correlations with the variants around it, from packed genotypes."""

from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from .chromosomes import linkage_groups
from .cpu import CpuProducts, to_dense
from .genotypes import PackedGenotypes, take_variants, with_parts_here

SLAB = 4096  # variants correlated with a block at once
BLOCK = 512  # variants of a block at most
BLOCK_BYTES = 1 << 28  # of a block's decoded genotypes at most


def ld_scores(
    genotypes: PackedGenotypes,
    chromosomes: np.ndarray,
    bp: np.ndarray,
    *,
    window_kb: float = 10_000.0,
    window_variants: int | None = None,
    adjusted: bool = True,
) -> np.ndarray:
    """(m,) LD scores l_j = sum_k r2_jk over the variants k within a window around j, j itself (1) included.

    The window is |bp_j - bp_k| <= 1000 window_kb, or |j - k| <= window_variants where that is given, and never crosses
    chromosomes, however they are spelt (:func:`~gpu_reml.ops.chromosomes.linkage_groups`).  r is the correlation of
    standardised genotypes with missing calls at the mean, as in the GRM; ``adjusted`` takes r2 - (1 - r2) / (n - 2) for
    k other than j (LDSC's estimator; GCTA's default is r2 itself, and its ldscore, 1 + mean_rsq snp_num, includes j
    too).  A variant that does not vary, or is unplaced (no bp above 0, or PLINK's chromosome 0), has NaN and counts for
    no other.  chromosomes, bp (m,): in any order.

    Cost: n m w flop for w variants in a window.  Memory: a block of at most 512 decoded variants (256 MiB), never
    n x w; the packed genotypes once more where they are not in order.  Float32 products: a score errs by about
    1e-6 sqrt(w).
    Source: Bulik-Sullivan et al. 2015, Nat. Genet. 47:291.
    """
    m, n = genotypes.num_variants, genotypes.num_samples
    chromosomes, bp = linkage_groups(chromosomes), np.asarray(bp)
    if n < 3:
        raise ValueError(f"genotypes: LD needs at least 3 samples, found {n}")
    if chromosomes.shape != (m,) or bp.shape != (m,):
        raise ValueError(
            f"chromosomes, bp: expected one for each of {m} variants, found {chromosomes.shape}, {bp.shape}"
        )
    codes = np.unique(chromosomes.astype(str), return_inverse=True)[1]
    order = np.lexsort((bp, codes))
    order = order[(bp[order] > 0) & (chromosomes[order] != "0")]
    ends = window_ends(codes[order], bp[order], window_kb, window_variants)
    if not np.array_equal(order, np.arange(m)):
        genotypes = take_variants(genotypes, order)
    sums = getattr(genotypes, "ld_sums", None)  # genotypes elsewhere are correlated there
    found = ld_sums(genotypes, ends, adjusted) if sums is None else sums(ends, adjusted)
    scores = np.full(m, np.nan)
    scores[order] = np.where(genotypes.inv_sd > 0, 1.0 + found, np.nan)
    return scores


def ld_sums(genotypes: PackedGenotypes, ends: np.ndarray, adjusted: bool) -> np.ndarray:
    """(m,) what the pairs of the first ``len(ends)`` of m variants in order, with those after each, add to the scores
    of both; the window of j reaches to before ``ends[j]``."""
    m, n = genotypes.num_variants, genotypes.num_samples
    norms = np.sqrt(genotypes.squared_norm)
    scores = np.zeros(m)
    width = int(np.clip(BLOCK_BYTES // (12 * n), 1, BLOCK))
    for start in range(0, len(ends), width):
        block = np.arange(start, min(start + width, len(ends)))
        Z = to_dense(take_rows(genotypes, slice(start, block[-1] + 1))).astype(np.float32)
        for rows in _slabs(start, int(ends[block].max())):
            R = CpuProducts(take_rows(genotypes, rows)).zt(Z)
            others = np.arange(rows.start, rows.stop)[:, None]
            pairs = (others > block) & (others < ends[block]) & (norms[rows, None] > 0) & (norms[block] > 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                r2 = np.square(R / norms[block] / norms[rows, None])
            if adjusted:
                r2 -= (1 - r2) / (n - 2)
            r2 = np.where(pairs, r2, 0.0)
            scores[rows] += r2.sum(axis=1)
            scores[block] += r2.sum(axis=0)
    return scores


def window_ends(
    chromosomes: np.ndarray, bp: np.ndarray, window_kb: float, window_variants: int | None = None
) -> np.ndarray:
    """(m,) int64: one past the last variant in the window of each, for variants sorted by chromosome and position."""
    if window_variants is None and not window_kb > 0:
        raise ValueError(f"window_kb: expected more than 0, found {window_kb}")
    if window_variants is not None and window_variants < 1:
        raise ValueError(f"window_variants: expected at least 1, found {window_variants}")
    ends = np.empty(len(bp), np.int64)
    for chromosome in np.unique(chromosomes):
        first, last = np.searchsorted(chromosomes, [chromosome, chromosome + 1])
        here = bp[first:last]
        if window_variants is None:
            ends[first:last] = first + np.searchsorted(here, here + 1000 * window_kb, side="right")
        else:
            ends[first:last] = np.minimum(np.arange(first, last) + window_variants + 1, last)
    return ends


def take_rows(genotypes: PackedGenotypes, rows: slice) -> PackedGenotypes:
    """Consecutive variants of packed genotypes, with their standardisation; the bytes are views."""
    parts, offset = [], 0
    for part in genotypes.parts:
        first, last = max(rows.start - offset, 0), min(rows.stop - offset, len(part))
        if first < last:
            parts.append(part[first:last])
        offset += len(part)
    vectors = {field.name: getattr(genotypes, field.name) for field in fields(genotypes)}
    taken = {name: value[rows] for name, value in vectors.items() if isinstance(value, np.ndarray)}
    return with_parts_here(genotypes, parts=tuple(parts), **taken)


def _slabs(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, SLAB):
        yield slice(first, min(first + SLAB, stop))
