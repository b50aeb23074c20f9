"""Moments of Haseman-Elston regression: the start of a fit, and the information when all components are zero."""

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from scipy import optimize

from .contract import REMEDY, SKEW, check_symmetric, check_traces, refuse, units_of
from .covariance import Covariance
from .linalg import COLLINEAR, Block, column_dots, project
from .probes import Probes, probes_are_exact
from .result import ConvergenceError
from .step import SingularInformationError

# The images K_g z of the first probes, which give a fit its start, take at most so much memory.
MOMENT_BYTES = 1 << 28
# The float64 copies of K_g z take at most so much memory at once.
GRAM_BYTES = 1 << 22
# Products in float32 cannot tell components apart where T, as a correlation matrix, has an eigenvalue below this.
DEPENDENT = 1e-12


class Moments(NamedTuple):
    """``T`` (G + 1, G + 1) traces tr(K_g K_h) on the complement of X, residual last; ``q`` (G + 1,) y'K_g y, or
    (G + 1, t) of several traits."""

    T: np.ndarray
    q: np.ndarray

    def of(self, trait: int) -> "Moments":
        """The moments of one of several traits."""
        return Moments(self.T, self.q[:, trait])


def moments(covariance: Covariance, Q: Block, Y: Block, Z: Block, left: np.ndarray) -> Moments:
    """Normal equations T theta = q of Haseman-Elston regression, T from projected probes Z (n, s).

    T is a Gram matrix of the vectors K_g z, so it is positive semidefinite.  Y (n, t) projected.  left (G,): the stated
    tr(K_g) on the complement of X, which must agree with the probes.  Cost: one pass of s columns (times the overlap),
    half a pass of t columns.  Memory: G n s.
    Source: Haseman & Elston 1972, Behav. Genet. 2:3; randomised: Wu & Sankararaman 2018, Bioinformatics 34:i187.
    """
    images = component_images(covariance, Q, covariance.features(Z))
    grams = probe_grams(images, Z)
    check_images(covariance, images, Z)
    check_forms(covariance, grams, left)
    return Moments(grams.mean(axis=0), quadratic_forms(covariance, Y))


def starting_moments(covariance: Covariance, Q: Block, Y: Block, probes: Probes, left: np.ndarray) -> Moments:
    """:func:`moments` from the first few probes, as many as memory allows up to 8, or from all exact ones."""
    n = covariance.num_samples
    used = num_starting(n, covariance.num_components, np.dtype(covariance.dtype).itemsize)
    if probes_are_exact(probes.trace):
        used = probes.trace.shape[1]
    return moments(covariance, Q, Y, project(Q, covariance.block(probes.trace[:, :used])), left)


def num_starting(num_samples: int, num_components: int, itemsize: int = 4) -> int:
    """How many probes :func:`starting_moments` takes where they are not exact."""
    return int(np.clip(MOMENT_BYTES // (num_components * num_samples * itemsize), 1, 8))


def check_images(covariance: Covariance, images, Z: Block) -> None:
    """ValueError where images K_g Z (G, n, s) are not those of symmetric K_g; no pass."""
    for name, image, trace in zip(covariance.names, images, covariance.traces, strict=True):
        check_symmetric(name, Z, image, trace / covariance.num_samples)


def check_forms(covariance: Covariance, grams: np.ndarray, left: np.ndarray) -> None:
    """ValueError where probes deny the traces left (G,), from their :func:`probe_grams` (s, G + 1, G + 1)."""
    squares = np.diagonal(grams, axis1=1, axis2=2)[:, :-1].T
    check_traces(covariance, grams[:, :-1, -1].T, squares, left)


def component_images(covariance: Covariance, Q: Block, features):
    """(G, n, k), or G blocks, K_g B on the complement of X, from features of B; half a pass, times the overlap."""
    images = covariance.apply_each(features)
    for g in range(len(images)):
        images[g] = project(Q, images[g])
    return images


def quadratic_forms(covariance: Covariance, Y: Block) -> np.ndarray:
    """(G + 1, t) y'K_g y, residual last, for every column of Y (n, t); half a pass of each."""
    F = covariance.features(Y)
    return np.vstack([covariance.inner(F, F), column_dots(Y, Y)])


def probe_grams(images, Z: Block) -> np.ndarray:
    """(s, G + 1, G + 1) float64 inner products of K_1 z, .., K_G z, z for every column z of Z (n, s).

    images (G, n, s) or G blocks.  Cost: s n (G + 1)^2; rows are taken by chunks, so the float64 copies stay small.
    """
    if not isinstance(images, np.ndarray):
        return _grams_of_pairs([*images, Z])
    G, n, s = images.shape
    total = np.zeros((s, G + 1, G + 1))
    rows = max(1, GRAM_BYTES // (8 * (G + 1) * s))
    for first in range(0, n, rows):
        chunk = slice(first, min(first + rows, n))
        vectors = np.empty((s, G + 1, chunk.stop - first))
        vectors[:, :G] = images[:, chunk].transpose(2, 0, 1)
        vectors[:, G] = Z[chunk].T
        total += vectors @ vectors.transpose(0, 2, 1)
    return total


def _grams_of_pairs(blocks: list[Block]) -> np.ndarray:
    total = np.zeros((blocks[-1].shape[1], len(blocks), len(blocks)))
    for g, h in combinations_with_replacement(range(len(blocks)), 2):
        total[:, g, h] = total[:, h, g] = column_dots(blocks[g], blocks[h])
    return total


def check_separable(T: np.ndarray) -> None:
    """Raise SingularInformationError, with the index of one component, where T says that some cannot be told apart."""
    scale = np.sqrt(np.diag(T))
    if not (scale > 0).all():
        raise SingularInformationError(int(np.argmin(scale)))
    values, vectors = np.linalg.eigh(T / np.outer(scale, scale))
    if values[0] < DEPENDENT:
        raise SingularInformationError(int(np.argmax(np.abs(vectors[:, 0]))))


def check_left(covariance: Covariance, left: np.ndarray) -> None:
    """Raise ConvergenceError that names a component of which the fixed effects leave nothing.

    left (G,): traces on the complement of X, which rounding alone keeps from zero where X spans a component.
    ValueError where the fixed effects have more of a component than the trace that is stated.
    """
    for name, trace, rest, unit in zip(covariance.names, covariance.traces, left, units_of(covariance), strict=True):
        if rest < -SKEW * trace:
            found, stated = unit * (trace - rest), unit * trace
            refuse(name, f"has {found:.6g} on the fixed effects alone, more than its trace, {stated:.6g}; {REMEDY}")
    none = left <= COLLINEAR[np.dtype(covariance.dtype).itemsize] * covariance.traces
    if none.any():
        raise ConvergenceError(
            f"component {covariance.names[int(np.argmax(none))]}: the fixed effects leave nothing of it, so its "
            "variance cannot be estimated; remove it, or the covariates that explain it"
        )


def start_values(moments: Moments, lower: np.ndarray) -> np.ndarray:
    """Start of a fit: theta >= 0 that solves the moment equations in least squares, kept well inside the bounds.

    The residual gets at least a quarter of the phenotypic variance and every component 1 % of it: moments are noisy
    where relatives make a few eigenvalues large, and a start at the edge costs iterations.
    """
    G = len(moments.T) - 1
    scale = np.sqrt(np.diag(moments.T))
    total = moments.q[-1] / moments.T[-1, -1]
    mean_traces = moments.T[-1, :G] / moments.T[-1, -1]
    x, _ = optimize.nnls(moments.T / np.outer(scale, scale), moments.q / scale)
    genetic = np.maximum((x / scale)[:G], 0.01 * total / max(1, G))
    genetic *= min(1.0, 0.75 * total / (genetic @ mean_traces)) if G else 1.0
    residual = max(total - float(genetic @ mean_traces), 0.25 * total)
    return np.maximum(np.append(genetic, residual), lower)
