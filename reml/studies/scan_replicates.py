"""Replicates x ~ (0, P), and what they say of quadratic forms y'P K P y under the fitted model, whatever K.

x = P^(1/2) w for random w with E[ww'] = I has E[xx'] = P.  So for any symmetric K, with E_bc = x_b'K x_c,

    E[y'P K P y]      = tr(P K)        mean of E_bb
    Var[y'P K P y]    = 2 tr(P K)^2    2 mean of E_bc^2 over b != c
    third cumulant    = 8 tr(P K)^3    8 mean of E_bc E_cd E_db over different b, c, d

without bias, and the last two with far less error than the sample moments of R forms have: the relative error of the
variance is about sqrt(8 / (k R)) for a form of k equal eigenvalues, not sqrt(2 / R).
Replicates sqrt(n) I are ``complete``: their sums over all b, c, d are exact.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from gpu_reml.ops import blas

from ..covariance import Covariance
from ..lanczos import lanczos_start, lanczos_step
from ..likelihood import Apply, on_complement
from ..linalg import Block, column_batches, columns, gram, project
from ..precondition import Preconditioner

MAX_STEPS = 400
POWER_STEPS = 12  # products with E^2 after which a Rayleigh quotient is that of the leading eigenvalue


class Replicates(NamedTuple):
    """``x`` (n, R) whose mean x x' is P; ``complete``: exactly.  ``steps`` that they took."""

    x: Block
    complete: bool
    steps: int

    @property
    def count(self) -> int:
        return self.x.shape[1]


def make_replicates(
    Q: Block, apply_v: Apply, W: Block, preconditioner: Preconditioner, tol: float, at_once: int | None = None
) -> tuple[Block, int]:
    """(x, steps): x = M^(-1/2) A^(-1/2) W for A = M^(-1/2) V M^(-1/2) on the complement of Q, whose second moment is P
    for any M that does not depend on W; by Lanczos, until a step changes no column by more than ``tol`` of its length.

    Cost: a pass of s columns a step, ``at_once`` together, and the memory of as many blocks as steps.
    Source: Druskin & Knizhnerman 1989, USSR Comput. Math. Math. Phys. 29:112.
    """
    apply_a = preconditioner.balanced(on_complement(Q, apply_v))
    parts, most = [], 0
    for batch in column_batches(W.shape[1], at_once):
        root, steps = inverse_root(apply_a, project(Q, W[:, batch]), tol)
        parts.append(project(Q, preconditioner.apply_power(root, -0.5)))
        most = max(most, steps)
    return parts[0] if len(parts) == 1 else columns(*parts), most


def inverse_root(apply_a: Apply, W: Block, tol: float) -> tuple[Block, int]:
    """A^(-1/2) W by Lanczos, and its steps."""
    state, basis, before = lanczos_start(W), [], None
    while len(basis) < MAX_STEPS:
        basis.append(state.current)
        state = lanczos_step(apply_a, state)
        C = root_coordinates(state.tridiagonal)
        if before is not None:
            change = np.sqrt(((C - np.pad(before, ((0, 1), (0, 0)))) ** 2).sum(axis=0))
            if (change <= tol * np.sqrt((C**2).sum(axis=0))).all():
                break
        if not state.live.any():
            break
        before = C
    total = basis[0] * C[0].astype(W.dtype)
    for vectors, c in zip(basis[1:], C[1:], strict=True):
        total += vectors * c.astype(W.dtype)
    return total, len(basis)


def root_coordinates(tridiagonal) -> np.ndarray:
    """(k, s) coordinates |w| T^(-1/2) e_1 of A^(-1/2) w in its Lanczos vectors."""
    alpha, beta, norms2 = tridiagonal
    k, s = alpha.shape
    T, steps = np.zeros((s, k, k)), np.arange(k)
    T[:, steps, steps] = alpha.T
    T[:, steps[1:], steps[:-1]] = T[:, steps[:-1], steps[1:]] = beta[:-1].T
    values, vectors = np.linalg.eigh(T)
    if not (values > 0).all():
        raise ArithmeticError(f"a Ritz value of {values.min():.3g}: the fitted covariance is not positive definite")
    found = np.einsum("ski,si,si->ks", vectors, values**-0.5, vectors[:, 0])
    return found * np.sqrt(norms2)


class Forms(NamedTuple):
    """Of forms E (R, R), or several: ``whole``, the variance of another, ``variance``, ``third`` cumulant, leading
    eigenvalue ``lead``, and ``variance_error``, the Monte-Carlo standard error of the second.  ``influence`` (R,): of
    every replicate on the variance."""

    whole: np.ndarray
    variance: np.ndarray
    third: np.ndarray
    lead: np.ndarray
    variance_error: np.ndarray
    influence: np.ndarray


def pair_means(A: np.ndarray, B: np.ndarray, *, complete: bool) -> np.ndarray:
    """tr(P K P L) for every pair of forms A (a, R, R) of K and B (b, R, R) of L, as (a, b)."""
    R = A.shape[-1]
    products = A.reshape(len(A), -1) @ B.reshape(len(B), -1).T
    if complete:
        return products / R**2
    diagonals = [np.diagonal(each, axis1=1, axis2=2) for each in (A, B)]
    return (products - diagonals[0] @ diagonals[1].T) / (R * (R - 1))


def forms_of(G: np.ndarray, E: np.ndarray, *, complete: bool) -> Forms:
    """Moments of the laws of forms E (a, R, R), and the variances of G (a, R, R); a matrix a thread."""

    def one(pair: tuple[np.ndarray, np.ndarray]) -> Forms:
        return moments_of(*pair, complete=complete)

    with blas.one_thread(), ThreadPoolExecutor(get_num_threads()) as pool:
        found = list(pool.map(one, zip(G, E, strict=True)))
    return Forms(*(np.array(values) for values in zip(*found, strict=True)))


def moments_of(G: np.ndarray, E: np.ndarray, *, complete: bool) -> Forms:
    """:func:`forms_of` one E (R, R); 2 R^3 flop.

    Sums over different replicates are those over all less what has one twice, as the diagonal d of E = E_0 + D is
    apart: tr E_0^3 = tr E^3 - 3 sum_b d_b (E_0^2)_bb - sum_b d_b^3.
    """
    R = len(E)
    S, d = E @ E, np.diagonal(E)
    squares, triples = np.diagonal(S), np.vdot(S, E)
    lead = leading(S, E, complete=complete)
    if complete:
        return Forms(2 * np.vdot(G, G) / R**2, 2 * squares.sum() / R**2, 8 * triples / R**3, lead, 0.0, np.zeros(R))
    squares = squares - d**2
    triples -= 3 * d @ squares + np.sum(d**3)
    whole = 2 * (np.vdot(G, G) - np.sum(np.diagonal(G) ** 2)) / (R * (R - 1))
    by_replicate = 2 * squares / (R - 1)
    variance = by_replicate.mean()
    influence = 2 * (by_replicate - variance)
    error = np.sqrt(influence @ influence / (R * (R - 1)))
    return Forms(whole, variance, 8 * triples / (R * (R - 1) * (R - 2)), lead, error, influence)


def leading(S: np.ndarray, E: np.ndarray, *, complete: bool) -> float:
    """The largest eigenvalue of P^(1/2) K P^(1/2) from its form E (R, R) and S = E^2, 0 where a negative one is larger.

    The largest of E / R exceeds it by about the others' sum over R (Baik & Silverstein 2006, J. Multivar. Anal.
    97:1382), which is taken off.
    """
    R = len(E)
    v = S[:, np.argmax(np.diagonal(S))]
    for _ in range(POWER_STEPS):
        v = S @ v
        v /= max(np.linalg.norm(v), np.finfo(float).tiny)
    top = v @ E @ v / R
    rest = 0.0 if complete else max(np.trace(E) / R - top, 0.0) / R
    return max(top - rest, 0.0)


class BaselineForms(NamedTuple):
    """Of the parameters of a fitted model: ``own`` (q, R, R) x_b'K_g x_c, ``of_both`` (q, R) x_b'K_g P y, and ``of_y``
    (q,) y'P K_g P y."""

    own: np.ndarray
    of_both: np.ndarray
    of_y: np.ndarray


def baseline_forms(covariance: Covariance, x: Block, which: np.ndarray, y: Block) -> BaselineForms:
    """Forms of the parameters ``which`` (q,), the identity last in the covariance's, for P y as y; half a pass of R + 1
    columns."""
    F, Fy = covariance.features(x), covariance.features(y)
    own = np.concatenate([covariance.gram(F), gram(x, x)[None]])[which]
    of_both = np.concatenate([covariance.gram(F, Fy)[:, :, 0], gram(x, y).T])[which]
    of_y = np.append(covariance.inner(Fy, Fy)[:, 0], gram(y, y)[0, 0])[which]
    return BaselineForms(own, of_both, of_y)
