"""Efficient scores of a scan's components and the moments of their laws, by sums over the features of replicates.

With theta's forms q = y'P K_g P y taken out by regression (:mod:`.scan`), the efficient form of a component is that of
K_a - sum_g beta_g K_g.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from gpu_reml.ops import GenotypeCovariance

from ..linalg import Block
from .scan_along import Along, maxima_along, unknown
from .scan_exact import Exact
from .scan_replicates import Replicates, forms_of, pair_means

LEAST_REPLICATES = 32
BATCH_NUMBERS = 1 << 20  # of forms that are held at once
# A component is not told from the fitted ones where so little of its information is its own.
DEPENDENT = 1e-6
FOLLOWED = 1.0  # the z from which the likelihood is followed along a step


class Fitted(NamedTuple):
    """The fitted model for a trait of unit variance: ``Py`` (n, 1), ``replicates`` and forms of its parameters off
    their bound: ``own`` (q, R, R) of replicates, ``of_both`` (q, R) of them and y, ``of_y`` (q,).  ``free``: which of
    those that are reported these are; ``root`` (n,): what samples were divided by, None for 1; ``block`` puts an array
    where blocks are, ``solve`` is B -> P B."""

    Py: Block
    replicates: Replicates
    own: np.ndarray
    of_both: np.ndarray
    of_y: np.ndarray
    free: np.ndarray
    scale: float
    root: np.ndarray | None
    block: Callable[[np.ndarray], Block]
    solve: Callable[[Block], Block]


class Statistics(NamedTuple):
    """Efficient scores of components, all (a,) but ``beta`` (a, q) and ``errors`` (a, 3), the Monte-Carlo variances of
    the mean and of the variance, and their covariance.  ``whole``: variance before the regression; ``pairs``:
    replicates of which pairs were taken.  ``along``: the highest likelihood on the way of the step, by the first
    ``pairs`` of the replicates, of those with z >= 1."""

    score: np.ndarray
    variance: np.ndarray
    third: np.ndarray
    lead: np.ndarray
    variance_error: np.ndarray
    whole: np.ndarray
    beta: np.ndarray
    pairs: np.ndarray
    errors: np.ndarray
    along: Along


class Seen(NamedTuple):
    """The features of the replicates, ``x`` (m, R), and of P y, ``y`` (m, 1), and ``forms`` (A,) y'P K_a P y."""

    x: Any
    y: Any
    forms: np.ndarray


def statistics(sets: GenotypeCovariance, fitted: Fitted, seen: Seen, pair_work: float) -> Statistics:
    """The efficient score of every component and its law, some at a time."""
    products, columns, order, parts = sets.products, sparse.csc_array(sets.weights), [], []
    for which, count in batches(np.diff(columns.indptr), fitted.replicates, pair_work):
        weights, x = columns[:, which], seen.x[..., :count]
        G = products.gram(x, None, weights)
        complete_diagonal = np.diagonal(G, axis1=1, axis2=2)
        if count < fitted.replicates.count:
            complete_diagonal = products.inner(seen.x, seen.x, weights)
        part = batch_statistics(G, complete_diagonal, seen.forms[which], fitted)
        told = part.variance > DEPENDENT * part.whole
        strong = np.flatnonzero(told & (part.score >= FOLLOWED * np.sqrt(np.maximum(part.variance, 0.0))))
        if len(strong):
            e = products.gram(x, seen.y, weights[:, strong])[:, :, 0]
            part = with_along(part, strong, G[strong], e, fitted)
        parts.append(part)
        order.append(which)
    back = np.argsort(np.concatenate(order))

    def together(each):
        return np.concatenate(each)[back]

    *numbers, along = zip(*parts, strict=True)
    return Statistics(*map(together, numbers), Along(*map(together, zip(*along, strict=True))))


def with_along(part: Statistics, strong: np.ndarray, G: np.ndarray, e: np.ndarray, fitted: Fitted) -> Statistics:
    """The statistics of a batch with the highest likelihoods along its components ``strong`` (k,), whose forms are G
    (k, r, r) and e (k, r)."""
    beta, r = part.beta[strong], G.shape[-1]
    E = G - np.tensordot(beta, fitted.own[:, :r, :r], axes=1)
    score, step = part.score[strong], 2 * part.score[strong] / part.variance[strong]
    found = maxima_along(E, e - beta @ fitted.of_both[:, :r], score, step, complete=fitted.replicates.complete)
    along = unknown(len(part.score))
    for values, new in zip(along, zip(*found, strict=True), strict=True):
        values[strong] = new
    return part._replace(along=along)


def with_exact(found: Statistics, exact: Exact, fitted: Fitted, of_y: np.ndarray) -> Statistics:
    """The statistics with those of some components without the error of their own replicates."""
    which, beta = exact.which, found.beta[exact.which]
    diagonals = np.diagonal(fitted.own, axis1=1, axis2=2)
    means = diagonals.mean(axis=1)
    score, errors = found.score.copy(), found.errors.copy()
    score[which] = of_y[which] - exact.mean - beta @ (fitted.of_y - means)
    errors[which] = errors_of(-beta @ (diagonals - means[:, None]), exact.influence)
    changed = {name: getattr(found, name).copy() for name in ("whole", "variance", "third", "lead", "variance_error")}
    for name, values in (*exact._asdict().items(), ("variance_error", np.sqrt(errors[which, 1]))):
        if name in changed:
            changed[name][which] = values
    return found._replace(score=score, errors=errors, **changed)


def errors_of(on_mean: np.ndarray, on_variance: np.ndarray) -> np.ndarray:
    """(a, 3) Monte-Carlo variances of means and of variances, and their covariances, from the influence (a, R) of every
    replicate on them."""
    R = on_mean.shape[1]
    pairs = ((on_mean, on_mean), (on_variance, on_variance), (on_mean, on_variance))
    return np.column_stack([np.einsum("ar,ar->a", *pair) for pair in pairs]) / (R * max(1, R - 1))


def batches(sizes: np.ndarray, replicates: Replicates, pair_work: float) -> Iterator[tuple[np.ndarray, int]]:
    """(components, replicates whose pairs they take), so that a component costs ``pair_work`` multiplications at most
    and a batch has room."""
    R = replicates.count
    counts = np.full(len(sizes), R)
    if not replicates.complete:
        allowed = np.sqrt(pair_work / np.maximum(sizes, 1))
        steps = np.maximum(np.floor(2 * np.log2(np.minimum(allowed / R, 1.0))) / 2, -64)
        counts = np.maximum((R * 2.0**steps).astype(int), min(R, LEAST_REPLICATES))
    for count in np.unique(counts):
        those, room = np.flatnonzero(counts == count), max(1, BATCH_NUMBERS // int(count) ** 2)
        for first in range(0, len(those), room):
            yield those[first : first + room], int(count)


def batch_statistics(G: np.ndarray, diagonal: np.ndarray, of_y: np.ndarray, fitted: Fitted) -> Statistics:
    """Efficient scores of components with forms G (a, r, r) of the first replicates, of all on the ``diagonal``
    (a, R), and of y (a,)."""
    r, (a, R) = G.shape[-1], diagonal.shape
    complete, own = fitted.replicates.complete, fitted.own[:, :r, :r]
    beta = regression(G, own, complete=complete)
    forms = forms_of(G, G - np.tensordot(beta, own, axes=1), complete=complete)
    diagonal = diagonal - beta @ np.diagonal(fitted.own, axis1=1, axis2=2)
    mean = diagonal.mean(axis=1)
    score = of_y - beta @ fitted.of_y - mean
    on_variance = np.zeros((a, R))
    on_variance[:, :r] = forms.influence * (R / r)
    on_mean = np.zeros((a, R)) if complete else diagonal - mean[:, None]
    moments = (forms.variance, forms.third, forms.lead, forms.variance_error)
    errors = errors_of(on_mean, on_variance)
    return Statistics(score, *moments, forms.whole, beta, np.full(a, r), errors, unknown(a))


def regression(G: np.ndarray, own: np.ndarray, *, complete: bool) -> np.ndarray:
    """(a, q) slopes of forms G (a, r, r) on those of the fitted variances, own (q, r, r)."""
    if not len(own):
        return np.zeros((len(G), 0))
    information = pair_means(own, own, complete=complete)
    units = np.sqrt(np.diag(information))
    scaled = information / np.outer(units, units)
    return np.linalg.solve(scaled, (pair_means(G, own, complete=complete) / units).T).T / units
