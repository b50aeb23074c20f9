"""Steps of covariance matrices that stay positive semidefinite.

The matrices S (H, t, t) of H components, the residual last, are known by their entries on and above the diagonal, a
vector x (p,).  A step maximises the quadratic s'd - d'A d / 2 of score s and information A over S - L >= 0, exactly: by
an interior point, whose barrier -mu log|S - L| is taken to where it moves the maximum by less than rounding of the
score.  What has then come near its bound is put there.
Source: Nesterov & Nemirovskii 1994, Interior-StackPoint Polynomial Algorithms in Convex Programming.
"""

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from ..linalg import symmetric

GAP = 1e-8  # of the log-likelihood, from the maximum of a step before what is at its bound is put there
COOLING = 0.1  # of mu from one centre to the next
CENTRED = 1e-2  # Newton decrement at which a centre is near enough
SINGULAR = 1e-12  # eigenvalue of the information in correlation form
MARGIN = 1.1  # times a longer step, which has to be inside
MOST_NEWTON = 60  # steps to one centre
AT_BOUND = 1e-6  # eigenvalue, or variance, as a share of the matrix's trace that counts as zero


class Entries(NamedTuple):
    """Which entry of S every parameter is: component ``h``, traits ``a`` <= ``b``, (p,) each."""

    h: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def vector(self, S: np.ndarray) -> np.ndarray:
        """(p,) the entries of S (H, t, t)."""
        return S[self.h, self.a, self.b]

    def matrices(self, x: np.ndarray) -> np.ndarray:
        """S (H, t, t) from its entries."""
        H, t = int(self.h[-1]) + 1, int(self.b[-1]) + 1
        S = np.zeros((H, t, t))
        S[self.h, self.a, self.b] = x
        S[self.h, self.b, self.a] = x
        return S

    def index(self, h: int, a: int, b: int) -> int:
        """The parameter of S[h, a, b]."""
        return int(np.flatnonzero((self.h == h) & (self.a == min(a, b)) & (self.b == max(a, b)))[0])


def entries_of(num_matrices: int, num_traits: int) -> Entries:
    """The entries of H matrices (t, t), matrix by matrix."""
    a, b = np.array(list(combinations_with_replacement(range(num_traits), 2))).T
    return Entries(np.repeat(np.arange(num_matrices), len(a)), np.tile(a, num_matrices), np.tile(b, num_matrices))


class Cone(NamedTuple):
    """S_h >= L_h for every component, L = ``lower`` (H, t, t); of one component the row and column of a trait may be
    ``left_out``, (component, trait), as they follow from the others."""

    entries: Entries
    lower: np.ndarray
    left_out: tuple[int, int] | None = None

    @property
    def inside(self) -> np.ndarray:
        """(p,) bool: the entries that the cone is of."""
        if self.left_out is None:
            return np.ones(len(self.entries.h), bool)
        h, trait = self.left_out
        return (self.entries.h != h) | ((self.entries.a != trait) & (self.entries.b != trait))

    def slack(self, x: np.ndarray) -> np.ndarray:
        """(H, t, t) S - L, with a row and column of the identity where one is left out."""
        slack = self.entries.matrices(np.where(self.inside, x, 0.0)) - self.lower
        if self.left_out is not None:
            h, trait = self.left_out
            slack[h, trait, trait] = 1.0
        return slack

    def contains(self, x: np.ndarray) -> bool:
        """Whether all slacks are positive definite."""
        try:
            np.linalg.cholesky(self.slack(x))
        except np.linalg.LinAlgError:
            return False
        return True

    def centre(self, size: float) -> np.ndarray:
        """(p,) x at L + size I."""
        return self.entries.vector(self.lower + size * np.eye(self.lower.shape[1]))

    def barrier(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (p,) and Hessian (p, p) of -sum log|S - L|."""
        e = self.entries
        inverse = np.linalg.inv(self.slack(x))
        if self.left_out is not None:
            h, trait = self.left_out
            inverse[h, trait, trait] = 0.0
        twice = np.where(e.a == e.b, 1.0, 2.0)
        gradient = -twice * e.vector(inverse)
        same = e.h[:, None] == e.h[None]
        first = inverse[e.h[:, None], e.a[:, None], e.a[None]] * inverse[e.h[:, None], e.b[:, None], e.b[None]]
        cross = inverse[e.h[:, None], e.a[:, None], e.b[None]] * inverse[e.h[:, None], e.b[:, None], e.a[None]]
        return gradient, np.where(same, np.outer(twice, twice) * (first + cross) / 2, 0.0)


def is_singular(A: np.ndarray) -> bool:
    """Whether an information matrix is not positive definite to rounding."""
    scale = np.sqrt(np.maximum(np.diag(A), 0))
    return not (scale > 0).all() or bool(np.linalg.eigvalsh(A / np.outer(scale, scale))[0] < SINGULAR)


def cone_step(x: np.ndarray, s: np.ndarray, A: np.ndarray, cone: Cone, J: np.ndarray) -> np.ndarray:
    """(q,) the w that maximises s'w - w'A w / 2 with x + J w in the cone, for J (p, q) whose columns include all
    directions in which diagonals of the cone's matrices move.  LinAlgError where A (q, q) is not positive definite to
    rounding, as with traits that are one another's multiples."""
    A = symmetric(A)
    if is_singular(A):
        raise np.linalg.LinAlgError("information that is singular")
    w = np.linalg.solve(A, s)
    if cone.contains(x + J @ w):
        return w
    size = max(float(np.abs(x).max()), 1e-3)
    inside = cone.inside
    w = np.linalg.lstsq(J[inside], (cone.centre(size) - x)[inside], rcond=None)[0]
    mu = max(1e-3, abs(float(s @ w - w @ A @ w / 2)) / len(x))
    while mu > GAP / len(x):
        w = centred(x, s, A, cone, J, w, mu)
        mu *= COOLING
    return w


def centred(x: np.ndarray, s, A: np.ndarray, cone: Cone, J: np.ndarray, w: np.ndarray, mu: float) -> np.ndarray:
    """w at the maximum of the quadratic with the barrier mu, by Newton steps that stay inside."""
    for _ in range(MOST_NEWTON):
        gradient, hessian = cone.barrier(x + J @ w)
        slope = s - A @ w - mu * (J.T @ gradient)
        H = A + mu * (J.T @ hessian @ J)
        scale = 1 / np.sqrt(np.diag(H))
        step = scale * np.linalg.solve(scale[:, None] * H * scale, scale * slope)
        decrement = float(slope @ step)
        if decrement <= CENTRED * mu:
            break
        t = min(1.0, 1.0 / (1.0 + np.sqrt(decrement / mu)) if decrement > mu / 4 else 1.0)  # in Dikin's ellipsoid
        if t < 1:
            further = (t * 2.0**k for k in range(4, 0, -1) if t * 2.0**k <= 1)
            t = next((far for far in further if cone.contains(x + J @ (w + MARGIN * far * step))), t)
        w = w + t * step
    return w


def at_bounds(cone: Cone, x: np.ndarray) -> np.ndarray:
    """x with eigenvalues of S - L that count as zero, and what belongs to variances that do, at zero, as is what the
    cone leaves out."""
    S = cone.entries.matrices(np.where(cone.inside, x, 0.0))
    for h in range(len(S)):
        S[h] = cone.lower[h] + of_less_rank(S[h] - cone.lower[h], AT_BOUND * np.trace(S[h]))
    return cone.entries.vector(S)


def of_less_rank(M: np.ndarray, least: float) -> np.ndarray:
    """M (t, t) without eigenvalues, rows and columns of variances of at most ``least``."""
    kept = np.diag(M) > least
    out = np.zeros_like(M)
    if not kept.any():
        return out
    values, vectors = np.linalg.eigh(M[np.ix_(kept, kept)])
    if values[0] > least:
        out[np.ix_(kept, kept)] = M[np.ix_(kept, kept)]
        return out
    vectors, values = vectors[:, values > least], values[values > least]
    out[np.ix_(kept, kept)] = (vectors * values) @ vectors.T
    return out
