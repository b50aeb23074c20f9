"""The strongest of a scan's components that have few variants, again without the error of their own replicates.

With C = Z_S'P Z_S solved for, a column for each variant, the form of a component with weights a is a weighted sum of
chi-squares whose weights are the eigenvalues of diag(a)^(1/2) C diag(a)^(1/2): its mean, variance, third cumulant and
leading eigenvalue are then exact, and replicates say only what the regression on the fitted components changes, as the
ratio of two moments of the same replicates.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from gpu_reml.ops import GenotypeCovariance, take_variants, to_dense

from ..linalg import column_batches, gram, symmetric
from .scan_replicates import moments_of


class Exact(NamedTuple):
    """Of components ``which`` (k,): ``mean`` and variance (``whole``) of their forms, and moments of efficient ones;
    ``influence`` (k, R): of every replicate on the variance."""

    which: np.ndarray
    mean: np.ndarray
    whole: np.ndarray
    variance: np.ndarray
    third: np.ndarray
    lead: np.ndarray
    influence: np.ndarray


def few_variants(log10p: np.ndarray, sizes: np.ndarray, least: float, most_variants: int) -> np.ndarray:
    """The components of log10p (A,) from ``least`` on, the strongest first, as long as their variants, sizes (A,), are
    no more than ``most_variants`` together; larger ones are left out."""
    order = np.argsort(-np.nan_to_num(log10p, nan=-1.0), kind="stable")
    order = order[np.nan_to_num(log10p[order], nan=-1.0) >= least]
    kept, room = [], most_variants
    for a in order:
        if sizes[a] <= room:
            kept.append(a)
            room -= sizes[a]
    return np.array(kept, int)


def exact_moments(
    sets: GenotypeCovariance, fitted, F: Any, which: np.ndarray, beta: np.ndarray, columns: int | None
) -> Exact:
    """Moments of the components ``which`` (k,) with slopes ``beta`` (k, q); F: features of the fitted replicates.

    Cost: a column of solves for every variant that is in one, ``columns`` together.
    """
    weights = sets.weights.tocsc()[:, which]
    rows = np.unique(weights.indices)
    Z = to_dense(take_variants(sets.products.genotypes, rows))
    Z = Z if fitted.root is None else Z / fitted.root[:, None]
    whole = fitted.block(Z)
    parts = [gram(whole, fitted.solve(fitted.block(Z[:, batch]))) for batch in column_batches(len(rows), columns)]
    C = symmetric(np.concatenate(parts, axis=1))
    found = []
    for k in range(len(which)):
        G = sets.products.gram(F, None, weights[:, [k]])[0]
        E = G - np.tensordot(beta[k], fitted.own, axes=1)
        found.append(with_eigenvalues(eigenvalues_of(C, rows, weights[:, [k]]), G, E))
    return Exact(which, *(np.array(values) for values in zip(*found, strict=True)))


def eigenvalues_of(C: np.ndarray, rows: np.ndarray, column: sparse.csc_array) -> np.ndarray:
    """Those of diag(a)^(1/2) C diag(a)^(1/2), ascending, for weights a (m, 1) of variants among ``rows``."""
    own, half = np.searchsorted(rows, column.indices), np.sqrt(column.data)
    return np.linalg.eigvalsh(half[:, None] * C[np.ix_(own, own)] * half)


def with_eigenvalues(values: np.ndarray, G: np.ndarray, E: np.ndarray) -> tuple[Any, ...]:
    """(mean, whole, variance, third, lead, influence) of a form of these eigenvalues; the last four are the efficient
    form's, by what its E (R, R) is over its G in the same replicates."""
    before, after = (moments_of(form, form, complete=False) for form in (G, E))
    whole, third = 2 * np.sum(values**2), 8 * np.sum(values**3)
    share = after.variance / before.variance
    relative = after.influence / after.variance - before.influence / before.variance
    ratios = after.third / before.third, after.lead / before.lead
    return values.sum(), whole, share * whole, ratios[0] * third, ratios[1] * values[-1], share * whole * relative
