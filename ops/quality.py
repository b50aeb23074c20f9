"""Quality of calls: the exact test of Hardy-Weinberg equilibrium, and missing calls of every sample (numba)."""

import numba
import numpy as np
from numba import njit, prange

from .compile import parallel

_TIE = 1.0 + 1e-11  # two heterozygote counts can be equally likely, and the recurrence rounds
_NEGLIGIBLE = 1e-20
_HUGE = 1e300


@njit(inline="always")
def _walk(hets, rare, common, step):
    """Sums of P(h) / P(hets) over the heterozygote counts on one side of ``hets``: (as unlikely as hets, all)."""
    tail = total = 0.0
    likelihood = 1.0
    while True:
        if step > 0:
            ratio = 4.0 * rare * common / ((hets + 2.0) * (hets + 1.0))
        else:
            ratio = hets * (hets - 1.0) / (4.0 * (rare + 1.0) * (common + 1.0))
        likelihood *= ratio
        # P(h) has one mode, so a small term on its way down has only smaller ones behind it.
        if (ratio < 1.0 and likelihood < _NEGLIGIBLE) or total > _HUGE:
            return tail, total
        total += likelihood
        if likelihood <= _TIE:
            tail += likelihood
        hets += 2.0 * step
        rare -= step
        common -= step


@parallel
def _hardy_weinberg(hets, rare, common, p):
    for j in prange(len(p)):
        tail_up, up = _walk(hets[j], rare[j], common[j], 1)
        tail_down, down = _walk(hets[j], rare[j], common[j], -1)
        total = 1.0 + up + down
        p[j] = 0.0 if total > _HUGE else (1.0 + tail_up + tail_down) / total


def hardy_weinberg(counts: np.ndarray) -> np.ndarray:
    """(m,) exact p-values of Hardy-Weinberg equilibrium; no mid-p.

    Given the number of copies of each allele, the heterozygotes h have P(h) proportional to
    2^h / (hom_1! h! hom_2!); p is the sum of P over all h that are no likelier than the one observed (Wigginton,
    Cutler & Abecasis 2005, Am J Hum Genet 76:887).  1 without a call, and 0 where p is below 1e-295.

    ``counts``: (m, 4) from :func:`gpu_reml.ops.packing.count_codes`.  The sum starts at what was observed and stops
    where terms no longer count: O(sqrt(n)) for a variant, besides its distance from the mode.
    """
    counts = np.asarray(counts)
    homozygotes = counts[:, [0, 3]].astype(np.float64)
    p = np.empty(len(counts))
    _hardy_weinberg(counts[:, 2].astype(np.float64), homozygotes.min(axis=1), homozygotes.max(axis=1), p)
    return p


@parallel
def _missing_per_sample(packed, partial):
    m, num_tasks = packed.shape[0], partial.shape[0]
    for task in prange(num_tasks):
        own = partial[task]
        for j in range(task * m // num_tasks, (task + 1) * m // num_tasks):
            row = packed[j]
            for b in range(len(row)):
                missing = row[b] & 0x55 & ~(row[b] >> 1)  # code 01: the low bit without the high one
                if missing:
                    own[4 * b] += missing & 1
                    own[4 * b + 1] += (missing >> 2) & 1
                    own[4 * b + 2] += (missing >> 4) & 1
                    own[4 * b + 3] += missing >> 6


def missing_per_sample(packed: np.ndarray, num_samples: int) -> np.ndarray:
    """(n,) int64: how many variants of ``packed`` (m, ceil(n / 4)) have no call, for each sample.

    One read of the bytes; blocks of variants and filesets add up.  Memory: 16 n bytes for each thread.
    """
    partial = np.zeros((max(1, min(numba.get_num_threads(), len(packed))), 4 * packed.shape[1]), np.int32)
    _missing_per_sample(packed, partial)
    return partial.sum(axis=0, dtype=np.int64)[:num_samples]
