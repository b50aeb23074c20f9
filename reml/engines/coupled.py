"""The trace's spectral measure among some of the people, from few probes of theirs and many of all (docs/design.md).

A is K on the complement of X among all people, A_t that among the ``inside`` of them who have a trait, M the 0/1
diagonal of these and E = I - M.  For a probe z of all people z'(M r(A) M - E r(A) E)z = 2 z'M r(A) z - z'r(A)z follows
from its Lanczos run, if that keeps the inner products z'M q with its vectors, and tells most of what a probe M z says
of r(A_t), where r is what polynomials leave of a function.  So tr r(A_t) is estimated by the mean of that over all
probes, plus the mean over a few of what a restricted probe says beyond it: a control variate whose mean is known from
all.  The moments of degree 0 and 1 are exact, and that of degree 2 follows for any people from the images A z of all
probes, without a product.  Degrees 3 and 4 of what all probes say need two steps of each, so that few take more.
"""

from typing import NamedTuple

import numpy as np

from ..lanczos import Tridiagonal, ritz_measures
from ..linalg import column_dots, gram
from ..monte_carlo import covariance_of_mean, widening
from .calibration import Functions, Polynomials, ProbeSpectra, polynomials_of
from .spectral import Measure, with_null_space

# The variance of what restricted probes add, over that of what probes of all say of the same people, is expected to be
# this times (1 - f)^(3/2), f = n_t / n: it was 4 in an array with LD, families and populations, and 2 among mice.
USUAL_SPREAD = 3.0
# Polynomials up to this degree are left to probes of two Lanczos steps,
DEGREE = 4
# and up to this one to what is known of a set of people.
KNOWN_DEGREE = 2
# The variance that all people have together counts like so many degrees of freedom beside the own ones.
PRIOR_FREEDOM = 8


class SpectraOfAll(NamedTuple):
    """Probes of all: their ``spectra``, and ``controls`` (P, d, k), weights of the same nodes for every one of P sets
    of people, whose integral of f is z'(M f(A) M - E f(A) E)z."""

    spectra: ProbeSpectra
    controls: np.ndarray

    def joined(self, other: "SpectraOfAll") -> "SpectraOfAll":
        """Both sets of probes, after the same number of steps."""
        controls = np.concatenate([self.controls, other.controls], axis=1)
        return SpectraOfAll(self.spectra.joined(other.spectra), controls)


class Added(NamedTuple):
    """Quadratures (s, k) of s restricted probes, ``own``, and what the same ones of all say of these people,
    ``paired``, both after k steps: each is (nodes, weights)."""

    own: tuple[np.ndarray, np.ndarray]
    paired: tuple[np.ndarray, np.ndarray]

    @property
    def num_probes(self) -> int:
        return len(self.own[0])


class Spread(NamedTuple):
    """Variance of what a restricted probe adds, over that of what a probe of all says of these people, and the degrees
    of ``freedom`` it is known with."""

    value: float
    freedom: float


class Coupled(NamedTuple):
    """``measure``: the calibrated one of A_t.  ``reference``: probes of all, ``control`` (d, k) what the deep ones say
    of A_t; ``forms`` (a, S): z'p(A_t)z as every probe tells it for the polynomial p of degree 2, z'p(A)z for those of 3
    and 4, as many as are estimated;
    ``added``: None before there are restricted probes, or where everybody is inside; then ``spread`` does not count."""

    measure: Measure
    reference: ProbeSpectra
    polynomials: Polynomials
    control: np.ndarray
    forms: np.ndarray
    added: Added | None = None
    spread: Spread | None = None

    def covariance(self, functions: Functions) -> np.ndarray:
        """(q, q) Monte-Carlo covariance of integrals of functions.

        What the probes of all say of the remainder and of the polynomials, and what the restricted ones add: its spread
        over few probes is taken as a multiple of the spread over all.
        """
        coefficients, rest = self._deep_remainder(functions)
        d, S = self.reference.num_deep, self.reference.num_probes
        centred = rest - rest.mean(axis=1, keepdims=True)
        shallow = coefficients[:, 2:] @ (self.forms - self.forms.mean(axis=1, keepdims=True))
        shared = centred @ shallow[:, :d].T / (S * max(d - 1, 1))
        total = covariance_of_mean(rest) + covariance_of_mean(shallow) + shared + shared.T
        if self.added is not None and self.spread is not None:
            error = self.spread.value / self.added.num_probes * widening(self.spread.freedom) ** 2
            total += self.each_covariance(functions) * error
        return total

    def deep_covariance(self, functions: Functions) -> np.ndarray:
        """The part of :meth:`covariance` that more deep probes of all people reduce."""
        return covariance_of_mean(self._deep_remainder(functions)[1])

    def each_covariance(self, functions: Functions) -> np.ndarray:
        """(q, q) covariance over probes of all of what they say beside the known polynomials; spreads are shares of
        it."""
        _, rest = self._remainder(functions, self.reference.nodes, self.control)
        return np.cov(rest)

    def own_spread(self, functions: Functions) -> Spread:
        """What the restricted probes alone say of their spread, by the last of the functions."""
        _, own = self._remainder(functions, *self.added.own)
        _, paired = self._remainder(functions, *self.added.paired)
        adds = (own - paired)[-1]
        return Spread(float(adds.var(ddof=1) / self.each_covariance(functions)[-1, -1]), self.added.num_probes - 1)

    def truncated(self, functions: Functions, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(q,) mean of the remainder by quadratures (s, k) of fewer steps, less that by all steps of the same probes,
        which come first."""
        _, fewer = self._remainder(functions, nodes, weights)
        _, rest = self._remainder(functions, self.reference.nodes[: len(nodes)], self.reference.weights[: len(nodes)])
        return (fewer - rest).mean(axis=1)

    def _deep_remainder(self, functions: Functions) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (q, a) on all polynomials, and (q, d) what a deep probe says of A_t beside these: the ones of
        degree 3 and 4 as it says them of A."""
        nodes, weights = self.reference.nodes, self.reference.weights
        _, rest = self._remainder(functions, nodes, self.control)
        basis = self.polynomials.at(nodes)
        coefficients = self._coefficients(functions, basis)
        beyond = np.einsum("adk,dk->ad", basis[KNOWN_DEGREE + 1 :], weights)
        return coefficients, rest - coefficients[:, KNOWN_DEGREE + 1 :] @ beyond

    def _remainder(self, functions: Functions, nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (q, a) on the polynomials of known integral, and integrals (q, s) of what these leave."""
        known = slice(KNOWN_DEGREE + 1)
        coefficients = self._coefficients(functions, self.polynomials.at(self.reference.nodes)[known])
        rest = functions(nodes) - np.einsum("qa,adk->qdk", coefficients, self.polynomials.at(nodes)[known])
        return coefficients, np.einsum("qdk,dk->qd", rest, weights)

    def _coefficients(self, functions: Functions, basis: np.ndarray) -> np.ndarray:
        """(q, a) of functions on polynomials (a, d, k) at the nodes of all, by their measure."""
        reference = self.reference
        weights = reference.weights / reference.num_deep
        return np.einsum("adk,qdk,dk->qa", basis, functions(reference.nodes), weights, optimize=True)


class Known(NamedTuple):
    """What is known of A_t without probes: ``dimension`` n_t - c, ``trace``; and of A among those inside: ``share`` n_t
    / n, ``inner_trace`` sum_i A_ii, and ``correction``, which added to sum_ij A_ij^2 is tr(A_t^2)."""

    dimension: int
    trace: float
    share: float
    inner_trace: float
    correction: float


def second_moments(Z: np.ndarray, U: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(s,) values whose mean estimates sum_ij A_ij^2 among those inside, and (s,) z'A z among them.

    Z (n, s) projected probes, U = A Z.  The sum is that of all rows and columns, less twice that of the rows outside,
    |A e_i|^2 = E (A z)_i^2, plus that of the rows and columns outside, which is small and follows from pairs of probes:
    E (z'z~)(u'u~) over the outside, with pseudo-values of the jackknife (Efron & Stein 1981, Ann. Stat. 9:586).
    """
    outside = ~inside
    squares = column_dots(U, U)
    forms = column_dots(Z[inside], U[inside])
    if not outside.any():
        return squares, forms
    Ze, Ue = Z[outside], U[outside]
    s = len(squares)
    H = gram(Ze, Ze) * gram(Ue, Ue)
    np.fill_diagonal(H, 0.0)
    total, rows = H.sum(), H.sum(axis=1)
    pairs = total / (s - 1) - (total - 2 * rows) / (s - 2)
    return squares - 2 * column_dots(Ue, Ue) + pairs, forms


def control_weights(
    tridiagonal: Tridiagonal, outside: np.ndarray, rounding: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights (s, k) of Gauss quadrature, and weights (P, s, k) of z'(M f(A) M - E f(A) E)z on these nodes.

    outside (P, k, s): z'E q for every Lanczos vector q, so that z'M q = |z| e_1 - z'E q and
    z'M f(A) z = |z| (Q'M z)' f(T) e_1.  rounding: that of the products with A.
    """
    alpha, beta, norms2 = tridiagonal
    k, s = alpha.shape
    T = np.zeros((s, k, k))
    steps = np.arange(k)
    T[:, steps, steps] = alpha.T
    T[:, steps[1:], steps[:-1]] = T[:, steps[:-1], steps[1:]] = beta[:-1].T
    vectors = np.linalg.eigh(T)[1]
    nodes, weights = ritz_measures(tridiagonal)
    lengths = np.sqrt(norms2)
    rotated = np.einsum("pks,skl->psl", outside, vectors, optimize=True)
    beyond = np.where(weights > 0, rotated * vectors[:, 0, :] * lengths[:, None], 0.0)
    return with_null_space(nodes, rounding), weights, weights - 2 * beyond


def coupled(
    everybody: SpectraOfAll, which: int, scale: float, known: Known, seen: np.ndarray, added: Added | None
) -> Coupled:
    """The measure of A_t of one set of people.  scale: the mean eigenvalue of A; seen (2, S): :func:`second_moments`.

    The integral of f is what probes of all say of it, plus what restricted ones add, with the polynomials of degree 0,
    1 and 2 taken to their known or estimated integrals, as in :func:`.calibration.calibrate`.  Those of degree 3 and 4
    are as all probes say them of A, and as the deep ones tell A_t from A.
    """
    reference, control = everybody.spectra, everybody.controls[which]
    d = reference.num_deep
    nodes, weights = reference.nodes, reference.weights / d
    polynomials = polynomials_of(nodes, weights, scale, DEGREE)
    basis = polynomials.at(nodes)
    forms = polynomials.integrals(reference.moments[: DEGREE + 1])[2:]
    square = 0.0
    if len(forms):
        values = squares_among(known, seen)
        square, forms[0] = values.mean(), polynomials.inverse[2, 2] * values / scale**2
    parts = [(nodes, control / d)]
    if added is not None:
        (own, own_weights), (paired, paired_weights) = added
        s = added.num_probes
        parts += [(own, own_weights / s), (paired, -paired_weights / s)]
    known_degrees = slice(min(len(basis), KNOWN_DEGREE + 1))
    found = sum(np.einsum("adk,dk->a", polynomials.at(at)[known_degrees], mass) for at, mass in parts)
    targets = polynomials.integrals(np.array([known.dimension, known.trace, square, *[0.0] * DEGREE]))[known_degrees]
    beyond = forms[1:].mean(axis=1) - np.einsum("adk,dk->a", basis[KNOWN_DEGREE + 1 :], weights)
    shifts = np.concatenate([targets - found, beyond])
    corrected = control / d + weights * np.einsum("a,adk->dk", shifts, basis)
    pieces = [(nodes, corrected), *parts[1:]]
    measure = Measure(*(np.concatenate([piece[part].ravel() for piece in pieces]) for part in (0, 1)))
    return Coupled(measure, reference, polynomials, control, forms, added)


def squares_among(known: Known, seen: np.ndarray) -> np.ndarray:
    """(S,) values whose mean estimates tr(A_t^2), less their regression on z'A z among the people, of known mean."""
    forms = seen[1] - known.inner_trace
    centred = forms - forms.mean()
    slope = (centred @ seen[0]) / (centred @ centred) if (centred @ centred) > 0 else 0.0
    return seen[0] + known.correction - slope * forms


def pooled(spreads: list[Spread], shares: list[float]) -> list[Spread]:
    """The spreads of several sets of people, each drawn towards what all have in common.

    A set's expectation is a common factor times (1 - f)^(3/2), and counts like PRIOR_FREEDOM degrees of freedom; as in
    the moderated statistics of Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3:3.
    """
    freedom = np.array([spread.freedom for spread in spreads])
    values = np.array([spread.value for spread in spreads])
    sizes = np.array([usual_spread(share) for share in shares])
    common = (freedom * values / sizes).sum() / freedom.sum() if freedom.any() else 1.0
    return [
        Spread((PRIOR_FREEDOM * common * size + f * value) / (PRIOR_FREEDOM + f), PRIOR_FREEDOM + f)
        for size, f, value in zip(sizes, freedom, values, strict=True)
    ]


def usual_spread(share: float) -> float:
    """The spread that is expected before any restricted probe is seen; share n_t / n."""
    return USUAL_SPREAD * (1 - share) ** 1.5
