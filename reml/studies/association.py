"""Single-variant association: what is common to all models, ordinary least squares, and exact mixed models.

Effects are per standardised genotype here; :func:`per_allele` divides by the SD of the count.  A missing genotype is
the variant's mean.  Variants that do not vary, or that the fixed effects explain, are nan.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, special

from gpu_reml.ops import CpuProducts, make_covariance, take_variants
from gpu_reml.ops.arguments import as_matrix, as_numbers, as_vector
from gpu_reml.ops.genotypes import variants_between
from gpu_reml.ops.relationship import tile_width

from ..engines import spectral
from ..engines.contrasts import Contrasts, contrast_matrices, contrasts
from ..hooks import Keep, made_anew
from ..least_squares import column_effects
from ..linalg import COLLINEAR, column_lengths, orthonormal_basis, powers_of_two, project
from ..traits import check_varying

LOG_10 = np.log(10)
# The incomplete beta function is taken from its continued fraction, in logarithms, where p is under this.
SMALL_P = 1e-280
MEDIAN_CHI2 = float(special.chdtri(1, 0.5))
# Seconds of one core, as those of exact.py: K in float64 of all variants and of those left out, and Z' times a square
# Times n^2 m: Z' times a square matrix.
SCANNING = 7.5e-11
# Times n^3: an eigendecomposition.
EIGENVECTORS = 1.3e-10
# The exact features (rows, n - c) of so many variants are held in float64 at once.
ROWS = 1024
# Least squares are kept of so many variants at a time.
PIECE = 1 << 15


class Scan(NamedTuple):
    """Tests of m variants and t traits, all (m, t) float64 and nan where a variant cannot be tested.

    ``beta``, ``se``: per standardised genotype, in the trait's units; ``log10p``: -log10 of the two-sided p-value of
    beta / se under Student's t with ``dof`` degrees of freedom; ``dof`` None is the normal law, or that of each test.
    """

    beta: np.ndarray
    se: np.ndarray
    log10p: np.ndarray
    dof: int | None

    @property
    def statistic(self) -> np.ndarray:
        """(m, t) beta / se."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.beta / self.se


class Tested(NamedTuple):
    """Variants beside the fixed effects: ``norms`` (m,) |(I-QQ')z|^2, nan where nothing is left to test."""

    norms: np.ndarray
    Q: np.ndarray


def make_scan(beta: np.ndarray, se: np.ndarray, dof: int | None) -> Scan:
    """Effects and their errors with the p-values."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = beta / se
    return Scan(beta, se, log10p_normal(t) if dof is None else log10p_student(t, dof), dof)


def per_allele(values: np.ndarray, inv_sd: np.ndarray) -> np.ndarray:
    """beta or se (m, t) per copy of the counted allele, from those per standardised genotype and 1 / SD (m,)."""
    return values * inv_sd[:, None]


def log10p_normal(z: np.ndarray) -> np.ndarray:
    """-log10 of the two-sided p-value of a standard normal z; exact to rounding for any |z|."""
    return -(np.log(2) + special.log_ndtr(-np.abs(z))) / LOG_10


def log10p_student(t: np.ndarray, dof: float) -> np.ndarray:
    """-log10 of the two-sided p-value of Student's t; it does not underflow.

    p = I_x(dof / 2, 1 / 2) with x = dof / (dof + t^2) (Abramowitz & Stegun 1964, 26.5.27); where p is under 1e-280,
    log p from the continued fraction 26.5.8.
    """
    t = np.asarray(t, np.float64)
    ratio = t**2 / dof
    with np.errstate(divide="ignore"):
        logp = np.asarray(np.log(special.betainc(dof / 2, 0.5, 1 / (1 + ratio))))
    tiny = (logp < np.log(SMALL_P)) & np.isfinite(ratio)
    logp[tiny] = log_beta_tail(ratio[tiny], dof / 2)
    return -logp / LOG_10


def log_beta_tail(ratio: np.ndarray, a: float) -> np.ndarray:
    """log I_x(a, 1/2) at x = 1 / (1 + ratio) by the continued fraction of A&S 26.5.8, evaluated by Lentz's method."""
    b, x = 0.5, 1 / (1 + ratio)
    front = -a * np.log1p(ratio) + b * (np.log(ratio) - np.log1p(ratio)) - np.log(a) - special.betaln(a, b)
    c = np.ones_like(x)
    d = 1 / (1 - (a + b) * x / (a + 1))
    value = d.copy()
    for k in range(1, 10_000):
        even = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        odd = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            value *= c * d
        if np.all(np.abs(c * d - 1) <= 1e-14):
            return front + np.log(value)
    raise ArithmeticError("the continued fraction of the incomplete beta function did not settle")


def lambda_gc(log10p: np.ndarray) -> float:
    """Genomic inflation: the median p-value as a chi-squared on 1 df, over the median of that law.

    Devlin & Roeder 1999, Biometrics 55:997.  nan without a test.

    >>> import numpy as np
    >>> from gpu_reml.reml import lambda_gc
    >>> round(lambda_gc(-np.log10(np.linspace(0.0005, 0.9995, 1000))), 3)  # uniform p-values
    1.0
    """
    log10p = as_numbers(log10p, "log10p")
    known = log10p[~np.isnan(log10p)]
    if not len(known):
        return np.nan
    return float(special.ndtri_exp(-np.median(known) * LOG_10 - np.log(2)) ** 2 / MEDIAN_CHI2)


def left_of_fixed_effects(Y: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Q (n, c), (I-QQ')Y (n, t)) float64; raises ValueError for a trait of which nothing is left, or too few samples
    to test a variant beside the fixed effects."""
    X = as_matrix(X, "X")
    Y = as_matrix(Y, "Y", len(X))
    Q = orthonormal_basis(X)
    n, c = Q.shape
    if n <= c + 1:
        raise ValueError(f"Y: {n} samples leave no degree of freedom beside {c} fixed effects and a variant")
    units = powers_of_two(np.abs(Y).max(axis=0, initial=0.0))
    left = units * project(Q, project(Q, Y / units))
    check_varying(column_lengths(left) / np.sqrt(n - c), Y)
    return Q, left


def tested_variants(products, FQ: np.ndarray, Q: np.ndarray) -> Tested:
    """What is left of every variant, from the features Z'Q (m, c)."""
    return Tested(left_of_variants(products.genotypes.squared_norm, FQ, products.dtype), Q)


def left_of_variants(squared_norm: np.ndarray, FQ: np.ndarray, dtype: type) -> np.ndarray:
    """(m,) |(I-QQ')z|^2 from |z|^2 and the features Z'Q (m, c), nan where it is rounding of products in ``dtype``."""
    left = squared_norm - (np.asarray(FQ, np.float64) ** 2).sum(axis=1)
    return np.where(left > COLLINEAR[np.dtype(dtype).itemsize] * squared_norm, left, np.nan)


def ols_scan(Y: np.ndarray, X: np.ndarray, products, keep: Keep = made_anew) -> Scan:
    """y = X b + z_j beta + e by least squares, for every variant and column of Y (n, t), X (n, c).

    :func:`~gpu_reml.reml.least_squares.column_effects` with I - QQ' for P.  Cost: half a pass of t + c columns,
    whatever t; memory (m, t + c).  ``keep``: of pieces of the variants, on the CPU.
    y is projected in float64 and scaled before it meets products in float32, whose rounding moves t by about
    1e-6 sqrt(n) at most.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_products, pack, standardise
    >>> from gpu_reml.reml import ols_scan
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.3, (200, 400)).astype(np.int8)
    >>> genotypes = standardise([pack(counts)], 200)
    >>> y = 2.0 * counts[:, 7] + rng.standard_normal(200)
    >>> found = ols_scan(y[:, None], np.ones((200, 1)), make_products(genotypes, "cpu"))
    >>> int(found.log10p[:, 0].argmax()), bool(found.log10p[7, 0] > 20)
    (7, True)
    """
    Q, left = left_of_fixed_effects(Y, X)
    n, c = X.shape
    lengths = column_lengths(left)
    B = np.column_stack([left / lengths, Q])
    found = [keep(f"variants {first}", lambda part=part: features(part, B))[0] for first, part in pieces(products)]
    F = np.concatenate(found)
    t = left.shape[1]
    norms = tested_variants(products, F[:, t:], Q).norms[:, None]
    beta, se = column_effects(F[:, :t], norms, 1.0, n - c - 1)
    return make_scan(beta * lengths, se * lengths, n - c - 1)


def pieces(products) -> Iterator[tuple[int, Any]]:
    """The first variant of every piece, and products with it; one of all where they are not of this process's CPU."""
    m = products.num_variants
    if not isinstance(products, CpuProducts):
        yield 0, products
        return
    for first in range(0, m, PIECE):
        part = variants_between(products.genotypes, first, min(first + PIECE, m))
        yield first, replace(products, genotypes=part)


def features(products, B: np.ndarray) -> tuple[np.ndarray]:
    """(Z'B,) float64."""
    return (np.asarray(products.zt(products.block(B)), np.float64),)


class ExactScan(NamedTuple):
    """``scan``, and ``h2`` (C, t) theta_g / (theta_g + theta_e) of every group that was left out, K of trace n."""

    scan: Scan
    h2: np.ndarray


def exact_scan(
    Y: np.ndarray,
    X: np.ndarray,
    genotypes,
    groups: Sequence[tuple[np.ndarray, np.ndarray]],
    weights=None,
    keep: Keep = made_anew,
) -> ExactScan:
    """Mixed-model tests without approximation: y = X b + z_j beta + u + e, var(u + e) = s (h2 K + (1 - h2) I).

    groups: (variants left out of K, variants tested) each, indices; K = Z W Z' over the others, scaled to tr(K) = n.
    h2 maximises REML without z_j for every group and trait; tests are
    :func:`~gpu_reml.reml.least_squares.column_effects`, Student's t on n - c - 1 degrees of freedom.
    Source: Kang et al. 2010, Nat Genet 42:348 (h2 of the null model); Lippert et al. 2011, Nat Methods 8:833.
    Cost (:func:`exact_scan_seconds`): half a pass of n columns through all genotypes and through those left out, half
    a pass and an eigendecomposition for each group; float64 throughout.  Memory: :func:`exact_scan_memory`.  ``keep``:
    of groups.
    Raises ValueError where a group has all the weight, so that there is no K without it.

    >>> import numpy as np
    >>> from gpu_reml.ops import pack, standardise
    >>> from gpu_reml.reml import exact_scan
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.3, (200, 400)).astype(np.int8)
    >>> genotypes = standardise([pack(counts)], 200)
    >>> y = 2.0 * counts[:, 7] + rng.standard_normal(200)
    >>> halves = np.arange(200), np.arange(200, 400)  # each tested with a K of the other
    >>> found = exact_scan(y[:, None], np.ones((200, 1)), genotypes, [(half, half) for half in halves])
    >>> int(found.scan.log10p[:, 0].argmax()), found.h2.shape
    (7, (2, 1))
    """
    Q, left = left_of_fixed_effects(Y, X)
    n, c = X.shape
    basis, dof = contrasts(Q), n - c - 1
    scales = column_lengths(left) / np.sqrt(n - c)
    m, t = genotypes.num_variants, left.shape[1]
    varies = genotypes.inv_sd > 0
    weights = np.where(varies, np.ones(m) if weights is None else as_vector(weights, "weights", m), 0.0)
    beta, se, h2 = np.full((m, t), np.nan), np.full((m, t), np.nan), np.empty((len(groups), t))
    y = basis.coordinates(left / scales)
    matrix_without = left_out_matrices(genotypes, weights, [left_out for left_out, _ in groups], basis)
    for g, (_, tested) in enumerate(groups):
        rows = np.intersect1d(tested, np.flatnonzero(varies))
        found = keep(
            f"group {g}", lambda g=g, rows=rows: exact_tests(matrix_without(g), y, basis, genotypes, rows, dof)
        )
        beta[rows], se[rows], h2[g] = found[0] * scales, found[1] * scales, found[2]
    return ExactScan(make_scan(beta, se, dof), h2)


def exact_tests(
    K: np.ndarray, y: np.ndarray, basis: Contrasts, genotypes, testable: np.ndarray, dof: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(beta (k, t), se (k, t), h2 (t,)) of some variants with one K (N, N) on the contrasts, y (N, t) of variance 1."""
    values, vectors = linalg.eigh(K, lower=False, check_finite=False)
    rotated = vectors.T @ y
    thetas = np.stack([_reml_theta(values, own) for own in rotated.T])
    d = thetas[:, :1] * values + thetas[:, 1:]  # (t, N)
    axes = basis.vectors(vectors)
    yPy = (rotated.T**2 / d).sum(axis=1)
    beta, se = np.full((2, len(testable), y.shape[1]), np.nan)
    for first in range(0, len(testable), ROWS):
        rows = testable[first : first + ROWS]
        F = CpuProducts(take_variants(genotypes, rows), np.float64).zt(axes)  # (rows, N)
        zPz, zPy = (F**2) @ (1 / d).T, F @ (rotated / d.T)
        there = (F**2).sum(axis=1) > COLLINEAR[8] * genotypes.squared_norm[rows]
        zPz[~there] = np.nan
        beta[first : first + ROWS], se[first : first + ROWS] = column_effects(zPy, zPz, yPy, dof)
    return beta, se, thetas[:, 0] / thetas.sum(axis=1)


def exact_scan_memory(num_samples: int) -> int:
    """Peak bytes of :func:`exact_scan` beside the genotypes and the tests: K, K without a group, and its eigenvectors
    with what they are made from."""
    return 48 * num_samples**2 + 8 * num_samples * tile_width(num_samples, 8)


def exact_scan_seconds(num_samples: int, num_variants: int, num_groups: int) -> float:
    """Expected seconds of :func:`exact_scan` on one core; further traits add little."""
    return SCANNING * num_samples**2 * num_variants + EIGENVECTORS * num_groups * num_samples**3


def left_out_matrices(
    genotypes, weights: np.ndarray, groups: Sequence[np.ndarray], basis: Contrasts
) -> Callable[[int], np.ndarray]:
    """What makes A'K A (N, N) without a group's variants, scaled to tr(K) = n: that of all, which is made for the first
    one that is asked for, less that of the group.  Upper triangles; ValueError for a group without which none is left.
    """
    for g, rows in enumerate(groups):
        others = weights.copy()
        others[rows] = 0
        if not others.any():
            raise ValueError(f"groups[{g}]: no variant that varies has a weight without it, so there is no K")

    @cache
    def whole() -> np.ndarray:
        return weighted_matrix(genotypes, weights, basis)

    def without(g: int) -> np.ndarray:
        rows, others, K = groups[g], weights.copy(), whole().copy()
        others[rows] = 0
        if weights[rows].any():
            K -= weighted_matrix(take_variants(genotypes, rows), weights[rows], basis)
        K *= genotypes.num_samples / (others @ genotypes.squared_norm)
        return K

    return without


def weighted_matrix(genotypes, weights: np.ndarray, basis: Contrasts) -> np.ndarray:
    """The upper triangle of A'Z diag(w) Z'A (N, N) float64; half a pass of n columns."""
    covariance = make_covariance(CpuProducts(genotypes, np.float64), weights[:, None])
    return next(contrast_matrices(covariance, basis)) * weights.sum()


def _reml_theta(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """theta (2,) of one trait from the eigenvalues of K on the contrasts and y in their basis."""
    spectrum = spectral.Spectrum(
        spectral.Measure(values, y**2), spectral.Measure(values, np.ones(len(values))), len(values)
    )
    return spectral.maximise(spectrum, 1e-6)
