"""Products that leave out other variants for every column: one chromosome each, in shared passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .arguments import as_numbers
from .covariance import Products


@dataclass(frozen=True)
class LeaveOut:
    """K_{-c} = Z W_{-c} Z' / sum(W_{-c}) for every group c of variants; W_{-c} has zeros on the group.

    ``weights`` (m,) not negative, zero for variants that do not vary; ``rows``: the variants of every group (C arrays
    or slices); an empty one leaves nothing out.  Build it with :func:`leave_out`.
    """

    products: Products
    weights: np.ndarray
    rows: tuple[np.ndarray | slice, ...]
    totals: np.ndarray

    def without(self, group: int) -> np.ndarray:
        """(m,) W_{-c} / sum(W_{-c})."""
        w = self.weights / self.totals[group]
        w[self.rows[group]] = 0
        return w

    @cached_property
    def labels(self) -> np.ndarray:
        """(m,) the group of every variant, -1 for none."""
        found = np.full(len(self.weights), -1)
        for group, own in enumerate(self.rows):
            found[own] = group
        return found

    def apply(self, B, groups: np.ndarray):
        """[K_{-c(1)} b_1, ..., K_{-c(k)} b_k], (n, k) -> (n, k), for the group c(i) of every column; one pass.

        The weights come between the two halves of the product, so that all columns share both.  Features (m, k) are
        held; those of a device visit the host.
        """
        if hasattr(self.products, "left_out"):  # features stay where they are
            return self.products.left_out(B, self, groups)
        F = np.array(self.products.zt(B))
        F *= self.weights[:, None].astype(F.dtype)
        F /= self.totals[groups].astype(F.dtype)
        for column, group in enumerate(groups):
            F[self.rows[group], column] = 0
        return self.products.z(F)


def leave_out(products: Products, weights: np.ndarray, rows: Sequence[np.ndarray], names: Sequence[str]) -> LeaveOut:
    """Check the groups and sum the weights outside each.

    Raises ValueError for weights that are negative or not finite, and one that names a group without which no variant
    that varies has a weight.
    """
    weights = as_numbers(weights, "weights")
    if weights.shape != (products.num_variants,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"weights: expected {products.num_variants} finite values, not negative; found {weights}")
    weights = np.where(products.genotypes.inv_sd > 0, weights, 0.0)
    totals = np.array([weights.sum() - weights[own].sum() for own in rows])
    counts = np.array([np.count_nonzero(weights) - np.count_nonzero(weights[own]) for own in rows])
    if not counts.all():
        raise ValueError(
            f"chromosome {names[int(np.argmin(counts))]}: no variant that varies is left without it, so there is no "
            "relationship matrix; give the other chromosomes too, or use a model that leaves none out"
        )
    return LeaveOut(products, weights, tuple(_as_slice(own) for own in rows), totals)


def _as_slice(rows: np.ndarray) -> np.ndarray | slice:
    """Consecutive rows as a slice."""
    rows = np.asarray(rows)
    if len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
