"""The reduced model: one basis of sample space, in which every theta is small algebra.

A basis U (n, d), orthonormal in the complement of the fixed effects, holds y, the probes, and what block Krylov steps
add to them.  With T_g = U'K_gU, kept from Gram matrices of the features of U, the Galerkin solution of P B is U C,
C = (sum_g theta_g T_g + theta_e I)^-1 U'B: optimal in the norm of V, as conjugate gradients are, and for any number of
thetas without a genotype pass.  A basis vector costs one column-pass: half for the residual that it comes from, half
for its features.
Sources: O'Leary 1980, Linear Algebra Appl. 29:293 (block conjugate gradients); Parks et al. 2006, SIAM J. Sci. Comput.
28:1651 (one space for a sequence of systems).
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg

from ..covariance import Covariance
from ..linalg import Block, column_batches, column_dots, columns, gram, project, range_basis, take_columns, times
from ..reduced_matrices import ReducedMatrices


class Basis(NamedTuple):
    """``U`` (n, d) and its features ``F``, in the pieces in which they were added; ``T``: U'K_gU of every component."""

    U: tuple[Block, ...]
    F: tuple[Any, ...]
    T: ReducedMatrices

    @property
    def size(self) -> int:
        return self.T.size


def empty_basis(num_components: int) -> Basis:
    """A basis of nothing."""
    return Basis((), (), ReducedMatrices(num_components))


def coordinates(basis: Basis, B: Block) -> np.ndarray:
    """(d, k) U'B."""
    return np.concatenate([np.zeros((0, B.shape[1])), *(gram(piece, B) for piece in basis.U)])


def combined(pieces: Sequence[Any], C: np.ndarray) -> Any:
    """U C, or F C, from the pieces of U or F and C (d, k)."""
    first = pieces[0].shape[-1]
    total = times(pieces[0], C[:first])
    for piece in pieces[1:]:
        last = first + piece.shape[-1]
        total += times(piece, C[first:last])  # not named, so that no more than two blocks are alive
        first = last
    return total


def outside(basis: Basis, B: Block) -> Block:
    """(I - UU') B."""
    return B - combined(basis.U, coordinates(basis, B)) if basis.size else B


def new_directions(Q: Block, basis: Basis, W: Block) -> Block:
    """Orthonormal columns that span W (n, k) outside the basis and Q; what is rounding is left out, and so are the
    least of what would be more than the dimension that is left.

    Orthogonalised twice, since once leaves what cancellation loses.
    """
    room = Q.shape[0] - Q.shape[1] - basis.size
    lengths = np.sqrt(column_dots(W, W))
    W = take_columns(W, np.flatnonzero(lengths > 0)) * (1 / lengths[lengths > 0]).astype(W.dtype)
    for _ in range(2):
        W = range_basis(outside(basis, project(Q, W)))
        if W.shape[1] > room:  # the largest come first from a pivoted QR, last from the eigenvectors of a Gram matrix
            W = take_columns(W, slice(0, room) if isinstance(W, np.ndarray) else slice(W.shape[1] - room, None))
    return W


def extended(covariance: Covariance, basis: Basis, W: Block, at_once: int | None = None) -> Basis:
    """The basis with orthonormal columns W (n, k) outside of it added, in pieces of ``at_once`` (None for one); half a
    pass for each column, and 2 m d k flop."""
    for batch in column_batches(W.shape[1], at_once) if W.shape[1] else ():
        piece = take_columns(W, batch)
        basis = joined(covariance, basis, piece, covariance.features(piece))
    return basis


def joined(covariance: Covariance, basis: Basis, W: Block, F: Any) -> Basis:
    """The basis with columns W (n, k) added, of which F are the features; no pass."""
    return Basis((*basis.U, W), (*basis.F, F), basis.T.joined(covariance.grams(basis.F, F)))


def of_components(covariance: Covariance, basis: Basis) -> Basis:
    """The basis with T of other components that have the same features; no pass, m d^2 flop a component."""
    parts = zip(basis.U, basis.F, strict=True)
    return reduce(lambda made, part: joined(covariance, made, *part), parts, empty_basis(covariance.num_components))


def reduced_v(T: ReducedMatrices, theta: np.ndarray) -> np.ndarray:
    """(d, d) U'VU = sum_g theta_g T_g + theta_e I."""
    V = T.weighted(theta[:-1])
    V[np.diag_indices_from(V)] += theta[-1]
    return V


class Solved(NamedTuple):
    """V at one theta within the basis by its Cholesky ``factor``, and the Galerkin solutions ``C`` (d, k)."""

    factor: tuple[np.ndarray, bool]
    C: np.ndarray

    def times(self, B: np.ndarray) -> np.ndarray:
        """V^-1 B for coordinates B (d, k)."""
        return linalg.cho_solve(self.factor, B, check_finite=False)


def solved(V: np.ndarray, B: np.ndarray) -> Solved:
    """Galerkin solutions for coordinates B (d, k) of the right-hand sides; d^3 / 3 operations, and 2 d^2 for each."""
    factor = linalg.cho_factor(V, lower=True, check_finite=False)
    return Solved(factor, linalg.cho_solve(factor, B, check_finite=False))


def residuals(
    covariance: Covariance, Q: Block, basis: Basis, theta: np.ndarray, B: Block, A: np.ndarray, at_once: int | None
) -> Block:
    """B - V(theta) U A on the complement of Q; half a pass, ``at_once`` columns a time (None for all)."""
    parts = []
    for batch in column_batches(B.shape[1], at_once):
        image = covariance.apply_features(theta[:-1], combined(basis.F, A[:, batch]))
        image = image + combined(basis.U, theta[-1] * A[:, batch])
        parts.append(project(Q, take_columns(B, batch) - image))
    return columns(*parts) if len(parts) > 1 else parts[0]


def tail_mean(basis: Basis, traces: np.ndarray, dimension: int, theta: np.ndarray) -> float:
    """V's mean eigenvalue off the basis, on a complement of ``dimension`` where the components have these traces."""
    left = dimension - basis.size
    if left <= 0:
        return float(theta[-1])
    return float(theta[:-1] @ (traces - basis.T.traces) / left + theta[-1])
