"""Exact REML fits: one component by an eigendecomposition, several by bounded Newton steps on the dense likelihood."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize

from gpu_reml.ops.arguments import as_numbers

from .dense import images, projection

LOG_2PI = np.log(2 * np.pi)
MAX_ITERATIONS = 200
# Squared length of a step in standard errors under which one more step, which squares the error, ends the search.
SHORT_STEP = 1e-10
# Smallest curvature, relative to the expected information, that a step relies on.
FLAT = 1e-3
# Eigenvalue of the information in correlation form under which components cannot be told apart.
DEPENDENT = 1e-10
# Largest score, times the standard error, that counts as zero in the check of the optimum.
KKT = 1e-5


@dataclass(frozen=True)
class ExactFit:
    """The REML optimum.  ``theta`` (G + 1,) in y's units squared, residual last.

    ``covariance``: inverse average information of the components inside their bounds.  A component at its bound is
    held there: its row and column are 0 and its ``se`` is NaN (``at_bound`` says which).  ``ai``: all of the average
    information, ``score``: the gradient, both at theta.  ``loglik``, ``loglik_null`` (no genetic variance): of the
    error contrasts, with -(n-c)/2 log 2 pi.  ``traces``: (G,) tr(K_g).  ``h2`` = V_G / (V_G + theta_e) with
    V_G = sum_g theta_g tr(K_g) / n, ``h2_se`` by the delta method.  ``fixed_effects`` (c,) by generalised least
    squares, ``fixed_effects_cov`` (X'V^-1 X)^-1.
    """

    theta: np.ndarray
    se: np.ndarray
    covariance: np.ndarray
    at_bound: np.ndarray
    loglik: float
    loglik_null: float
    lrt: float
    score: np.ndarray
    ai: np.ndarray
    traces: np.ndarray
    h2: float
    h2_se: float
    fixed_effects: np.ndarray
    fixed_effects_cov: np.ndarray
    iterations: int
    converged: bool


class Contrasts(NamedTuple):
    """The data in an orthonormal basis A of the complement of X: A'y (N,) and A'K_g A (N, N), N = n - c."""

    y: np.ndarray
    Ks: list[np.ndarray]

    @property
    def null_variance(self) -> float:
        """The residual variance of the model without genetic components, y'(I - QQ')y / (n - c)."""
        return float(self.y @ self.y / len(self.y))


def exact_reml(y: np.ndarray, X: np.ndarray, Ks: list[np.ndarray], lower_residual: float = 1e-8) -> ExactFit:
    """Maximise ell_R over theta_g >= 0 and theta_e >= ``lower_residual`` times the residual variance of the null.

    y (n,), X (n, c) of full column rank, Ks: G symmetric matrices (n, n).  ``converged`` is the verdict of the
    Karush-Kuhn-Tucker conditions at theta, not of the iteration.  Raises ValueError for arrays that do not fit
    together, a design without full rank, a phenotype that X explains entirely, or components that are linearly
    dependent.
    """
    y, X, Ks = checked(y, X, Ks)
    data = contrasts(y, X, Ks)
    lower = np.append(np.zeros(len(Ks)), lower_residual * data.null_variance)
    if len(Ks) == 1:
        theta, iterations = one_component(data, lower)
    else:
        theta, iterations = several_components(data, lower)
    return describe(theta, lower, iterations, y, X, Ks)


def checked(y, X, Ks) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The arguments as float64 arrays of matching shapes, or ValueError."""
    y, X, Ks = as_numbers(y, "y"), as_numbers(X, "X"), [as_numbers(K, f"Ks[{g}]") for g, K in enumerate(Ks)]
    n = len(y) if y.ndim else 0
    if y.shape != (n,) or X.ndim != 2 or len(X) != n:
        raise ValueError(f"expected y (n,) and X (n, c), found {y.shape} and {X.shape}")
    if not Ks or any(K.shape != (n, n) for K in Ks):
        raise ValueError(f"Ks: expected matrices of shape ({n}, {n}), found {[K.shape for K in Ks]}")
    if not all(np.isfinite(array).all() for array in (y, X, *Ks)):
        raise ValueError("y, X and Ks must be finite; drop the samples with missing values first")
    if np.linalg.matrix_rank(X / np.maximum(np.linalg.norm(X, axis=0), np.finfo(float).tiny)) < X.shape[1]:
        raise ValueError(f"X: its {X.shape[1]} columns are linearly dependent; leave one of them out")
    if n <= X.shape[1]:
        raise ValueError(f"X: {X.shape[1]} columns leave no error contrast of {n} samples")
    return y, X, Ks


def contrasts(y: np.ndarray, X: np.ndarray, Ks: list[np.ndarray]) -> Contrasts:
    """Rotate into the complement of X, where the likelihood is that of a zero-mean normal."""
    A = linalg.qr(X)[0][:, X.shape[1] :]
    data = Contrasts(A.T @ y, [A.T @ K @ A for K in Ks])
    if data.null_variance <= (np.finfo(float).eps ** 2) * (y @ y):
        raise ValueError("y: the fixed effects explain it entirely; there is no variance to partition")
    return data


class Spectrum(NamedTuple):
    """One kernel on the complement: its eigenvalues (N,) and the squared coordinates of y in its eigenvectors (N,)."""

    values: np.ndarray
    squares: np.ndarray

    def loglik(self, theta: np.ndarray) -> float:
        d = theta[0] * self.values + theta[1]
        return float(-0.5 * (np.log(d).sum() + (self.squares / d).sum() + len(d) * LOG_2PI))

    def profile_slope(self, h: np.ndarray) -> np.ndarray:
        """d/dh of the likelihood at theta = s (h, 1 - h) with s profiled out; h (k,) -> (k,)."""
        d = np.multiply.outer(h, self.values - 1) + 1
        scaled, ratio = self.squares / d, (self.values - 1) / d
        return 0.5 * (len(self.values) * (scaled * ratio).sum(axis=-1) / scaled.sum(axis=-1) - ratio.sum(axis=-1))

    def at_share(self, h: float) -> np.ndarray:
        """theta = s (h, 1 - h) with the s that maximises the likelihood."""
        s = np.mean(self.squares / (h * (self.values - 1) + 1))
        return s * np.array([h, 1 - h])

    def genetic_slope(self, theta_g: np.ndarray, theta_e: float) -> np.ndarray:
        """d ell / d theta_g at a residual variance that is held fixed; theta_g (k,) -> (k,)."""
        d = np.multiply.outer(theta_g, self.values) + theta_e
        return 0.5 * ((self.squares / d - 1) * self.values / d).sum(axis=-1)


def one_component(data: Contrasts, lower: np.ndarray) -> tuple[np.ndarray, int]:
    """theta of the global optimum and the number of stationary points that were compared.

    Every root of the profile's slope in h = theta_g / (theta_g + theta_e), the edge theta_g = 0 and the edge of the
    residual's bound are candidates; the likelihood chooses.  Source: the profile of Kang et al. 2008,
    Genetics 178:1709, equation 7, on a grid of the logit of h.
    """
    values, vectors = linalg.eigh(data.Ks[0])
    rounding = len(values) * np.finfo(float).eps * values[-1]
    if values[0] < -rounding:
        raise ValueError(f"Ks[0]: not positive semi-definite; its smallest eigenvalue is {values[0]:.3g}")
    values = np.where(values < rounding, 0.0, values)  # a null space is known to rounding only
    spectrum = Spectrum(values, (vectors.T @ data.y) ** 2)
    logits = np.linspace(-20, 20, 401)
    shares = 1 / (1 + np.exp(-logits))
    inside = [spectrum.at_share(h) for h in peaks(spectrum.profile_slope, shares)]
    candidates = [theta for theta in inside if theta[1] > lower[1]]
    variances = data.null_variance * np.exp(logits)
    candidates += [np.array([v, lower[1]]) for v in peaks(lambda v: spectrum.genetic_slope(v, lower[1]), variances)]
    candidates.append(np.array([0.0, data.null_variance]))
    return max(candidates, key=spectrum.loglik), len(candidates)


def peaks(slope: Callable[[np.ndarray], np.ndarray], grid: np.ndarray) -> list[float]:
    """Where ``slope`` falls through zero between points of an increasing grid, to rounding."""
    s = slope(grid)
    falls = np.flatnonzero((s[:-1] > 0) & (s[1:] <= 0))
    return [
        optimize.brentq(lambda x: slope(np.array([x]))[0], grid[i], grid[i + 1], xtol=1e-15, rtol=1e-14) for i in falls
    ]


class Curvature(NamedTuple):
    """Score (p,), observed and expected information (p, p) of the contrasts at one theta."""

    score: np.ndarray
    observed: np.ndarray
    expected: np.ndarray


def loglik_of_contrasts(theta: np.ndarray, data: Contrasts) -> float:
    """ell_R from the Cholesky factor of A'VA; -inf where it is not positive definite."""
    V = sum(t * K for t, K in zip(theta[:-1], data.Ks, strict=True))
    V[np.diag_indices_from(V)] += theta[-1]
    try:
        L = linalg.cholesky(V, lower=True, overwrite_a=True)
    except linalg.LinAlgError:
        return -np.inf
    half = linalg.solve_triangular(L, data.y, lower=True)
    return float(-np.log(np.diag(L)).sum() - 0.5 * half @ half - 0.5 * len(half) * LOG_2PI)


def curvature_of_contrasts(theta: np.ndarray, data: Contrasts) -> Curvature:
    """Derivatives of ell_R; the observed information is 2 AI - expected, exactly."""
    V = sum(t * K for t, K in zip(theta[:-1], data.Ks, strict=True))
    V[np.diag_indices_from(V)] += theta[-1]
    inverse = linalg.inv(V, assume_a="pos")
    u = inverse @ data.y
    products = [inverse @ K for K in data.Ks] + [inverse]
    F = np.column_stack([K @ u for K in data.Ks] + [u])
    traces = np.array([np.trace(product) for product in products])
    expected = np.array([[0.5 * np.sum(a * b.T) for b in products] for a in products])
    observed = F.T @ inverse @ F - expected
    return Curvature(0.5 * (u @ F - traces), (observed + observed.T) / 2, expected)


def bounded_step(theta: np.ndarray, lower: np.ndarray, at: Curvature) -> tuple[np.ndarray, float]:
    """An ascent step within the bounds, and its squared length in standard errors.

    Components at their bound with a falling likelihood stay.  For the others Newton's quadratic model is maximised by
    bounded least squares; where the likelihood is not concave, its curvatures relative to the expected information
    are taken by their size.
    """
    scale = 1 / np.sqrt(np.diag(at.expected))
    unit = np.outer(scale, scale)
    if np.linalg.eigvalsh(at.expected * unit)[0] < DEPENDENT:
        raise ValueError("Ks: the components are linearly dependent on the error contrasts; merge or drop one of them")
    free = np.flatnonzero((theta > lower) | (at.score > 0))
    square = np.ix_(free, free)
    relative, U = linalg.eigh((at.observed * unit)[square], (at.expected * unit)[square])
    root = np.sqrt(np.maximum(np.abs(relative), FLAT))
    # With U'EU = I, factor' factor = E U diag(root^2) U' E is the model's information and factor' target the score.
    factor = root[:, None] * (U.T @ (at.expected * unit)[square])
    target = (U.T @ (at.score * scale)[free]) / root
    room = ((lower - theta) / scale)[free]
    found = optimize.lsq_linear(factor, target, bounds=(np.minimum(room, 0), np.inf), method="bvls", tol=1e-15)
    step = np.zeros_like(theta)
    step[free] = found.x * scale[free]
    return step, float(step @ at.expected @ step)


def several_components(data: Contrasts, lower: np.ndarray) -> tuple[np.ndarray, int]:
    """theta by bounded Newton steps, each checked against the exact likelihood, and how many it took."""
    G = len(data.Ks)
    mean_diagonals = np.array([np.trace(K) / len(K) for K in data.Ks])
    theta = data.null_variance * np.append(0.5 / (G * mean_diagonals), 0.5)
    value = loglik_of_contrasts(theta, data)
    for iteration in range(1, MAX_ITERATIONS + 1):
        at = curvature_of_contrasts(theta, data)
        step, length = bounded_step(theta, lower, at)
        if length < SHORT_STEP:
            return np.maximum(theta + step, lower), iteration
        theta, value = line_search(theta, step, (value, float(at.score @ step)), data, lower)
    return theta, MAX_ITERATIONS


def line_search(theta, step, start: tuple[float, float], data: Contrasts, lower) -> tuple[np.ndarray, float]:
    """Halve the step until the likelihood gains a tenth of what its slope promises, to rounding.

    start: likelihood and slope along the step at theta.  Returns the new theta and its likelihood.
    """
    value, slope = start
    rounding = 1e-13 * (len(data.y) + abs(value))
    for halving in range(60):
        trial = np.maximum(theta + step * 0.5**halving, lower)
        reached = loglik_of_contrasts(trial, data)
        if reached >= value + 0.1 * slope * 0.5**halving - rounding:
            return trial, reached
    raise ArithmeticError(f"no increase of the likelihood along an ascent direction at theta = {theta}")


def heritability(theta: np.ndarray, traces: np.ndarray, n: int, covariance: np.ndarray) -> tuple[float, float]:
    """V_G / (V_G + theta_e), V_G = sum_g theta_g tr(K_g) / n, and its standard error by the delta method."""
    genetic = np.append(traces / n, 0.0)
    atoms = np.append(traces / n, 1.0)
    total = theta @ atoms
    h2 = theta @ genetic / total
    gradient = (genetic - h2 * atoms) / total
    return float(h2), float(np.sqrt(gradient @ covariance @ gradient))


def describe(theta, lower, iterations: int, y, X, Ks) -> ExactFit:
    """Everything that is reported at theta, from the formulas in V and not from the contrasts."""
    n, c = X.shape
    at = projection(theta, y, X, Ks)
    F = images(at.Py, Ks)
    score = 0.5 * (at.Py @ F - np.array([np.sum(at.P * K) for K in Ks] + [np.trace(at.P)]))
    ai = 0.5 * F.T @ at.P @ F
    ai = (ai + ai.T) / 2
    at_bound = theta <= lower
    free = np.ix_(~at_bound, ~at_bound)
    covariance = np.zeros_like(ai)
    covariance[free] = np.linalg.inv(ai[free])
    traces = np.array([np.trace(K) for K in Ks])
    h2, h2_se = heritability(theta, traces, n, covariance)
    residuals = y - X @ np.linalg.lstsq(X, y)[0]
    loglik = -0.5 * (at.logdet + y @ at.Py + (n - c) * LOG_2PI)
    loglik_null = -0.5 * (n - c) * (np.log(residuals @ residuals / (n - c)) + 1 + LOG_2PI)
    scaled = score / np.sqrt(np.diag(ai))
    return ExactFit(
        theta=theta,
        se=np.where(at_bound, np.nan, np.sqrt(np.diag(covariance))),
        covariance=covariance,
        at_bound=at_bound,
        loglik=float(loglik),
        loglik_null=float(loglik_null),
        lrt=float(2 * (loglik - loglik_null)),
        score=score,
        ai=ai,
        traces=traces,
        h2=h2,
        h2_se=h2_se,
        fixed_effects=at.fixed_effects,
        fixed_effects_cov=at.fixed_effects_cov,
        iterations=iterations,
        converged=bool(np.all(scaled <= KKT) and np.all(np.abs(scaled[~at_bound]) <= KKT)),
    )
