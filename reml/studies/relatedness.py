"""Who is related to whom, found in blocks of people without a matrix, and whom to leave out."""

from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_count, as_number

from ..covariance import as_covariance, genetic

# Relationships of so many people to all others are made at once.
AT_ONCE = 256
# Two samples whose relationship is this share of their own are one person, or identical twins.
SAME = 0.9


class Related(NamedTuple):
    """Pairs of samples over a cutoff: ``first`` < ``second`` (p,), their ``relationship`` K_ij and ``correlation``
    K_ij / sqrt(K_ii K_jj) (p,); ``num_samples``; ``column_passes`` that it took."""

    first: np.ndarray
    second: np.ndarray
    relationship: np.ndarray
    correlation: np.ndarray
    num_samples: int
    column_passes: int = 0

    @property
    def duplicates(self) -> np.ndarray:
        """(d, 2) pairs that are one person twice, or identical twins: correlations over 0.9."""
        same = self.correlation > SAME
        return np.column_stack([self.first[same], self.second[same]])

    @property
    def unrelated(self) -> np.ndarray:
        """(n,) bool: samples that are kept, so that no pair is left.

        Greedy: the sample with most relatives among those who are left goes, of several the last one.

        >>> import numpy as np
        >>> from gpu_reml.reml import relatedness
        >>> K = np.eye(4) + 0.5 * (np.eye(4, k=1) + np.eye(4, k=-1))  # a chain: the second is related to two
        >>> relatedness(K, 0.05).unrelated.tolist()
        [True, False, False, True]
        """
        relatives: list[set[int]] = [set() for _ in range(self.num_samples)]
        for i, j in zip(self.first.tolist(), self.second.tolist(), strict=True):
            relatives[i].add(j)
            relatives[j].add(i)
        heap = [(-len(each), -i) for i, each in enumerate(relatives) if each]
        heapify(heap)
        kept = np.ones(self.num_samples, bool)
        while heap:
            count, i = heappop(heap)
            i = -i
            if not kept[i] or len(relatives[i]) != -count:
                continue  # it has lost relatives since, and is on the heap again
            kept[i] = False
            for j in relatives[i]:
                relatives[j].discard(i)
                if relatives[j]:
                    heappush(heap, (-len(relatives[j]), -j))
        return kept


def relatedness(covariance: Any, cutoff: float = 0.05, *, at_once: int = AT_ONCE) -> Related:
    """Pairs of samples with a relationship K_ij over ``cutoff``; covariance: one component, genotypes or any other.

    Cost: n column-passes, ``at_once`` together.  Memory: n x at_once numbers, and the pairs.
    ValueError for several components, of which no K is the one that is meant.

    >>> import numpy as np
    >>> from gpu_reml.reml import relatedness
    >>> found = relatedness(np.array([[1.0, 0.97, 0.1], [0.97, 1.0, 0.0], [0.1, 0.0, 1.0]]), 0.05)
    >>> found.first.tolist(), found.second.tolist(), found.duplicates.tolist()
    ([0, 0], [1, 2], [[0, 1]])
    """
    covariance = genetic(as_covariance(covariance))
    if covariance.num_components != 1:
        raise ValueError(
            f"covariance: expected one component, found {covariance.num_components}; take one of all variants"
        )
    cutoff, at_once = as_number(cutoff, "cutoff"), as_count(at_once, "at_once")
    n, own = covariance.num_samples, covariance.diagonals()[:, 0]
    found: list[np.ndarray] = []
    for start in range(0, n, at_once):
        width = min(at_once, n - start)
        unit = np.zeros((n, width))
        unit[start + np.arange(width), np.arange(width)] = 1
        block = np.asarray(covariance.apply(np.ones(1), covariance.block(unit)), np.float64)[start:]
        rows, columns = np.nonzero(block > cutoff)
        below = rows > columns
        rows, columns = rows[below], columns[below]
        found.append(np.stack([columns + start, rows + start, block[rows, columns]]))
    first, second, values = np.concatenate(found, axis=1)
    order = np.lexsort([second, first])
    first, second, values = first[order].astype(np.int64), second[order].astype(np.int64), values[order]
    return Related(first, second, values, values / np.sqrt(own[first] * own[second]), n, n)
