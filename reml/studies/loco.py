"""Mixed-model association, leaving a variant's chromosome out of the relationship matrix (LOCO), matrix-free.

V_c = theta_g K_{-c} + theta_e I for every chromosome c.  All chromosomes and traits are solved in shared passes, a
column each.  The variance of the score z'P_c y is approximated: z'P_c z = gamma z'Mz, M = I - QQ', with one gamma for
each chromosome and trait, from random variants (GRAMMAR-gamma: Svishcheva et al. 2012, Nat Genet 44:1166;
BOLT-LMM-inf: Loh et al. 2015, Nat Genet 47:284).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gpu_reml.ops import CpuProducts, Products, take_variants, to_dense
from gpu_reml.ops.arguments import as_array, as_count, as_number
from gpu_reml.ops.loco import LeaveOut

from ..hooks import Keep, made_anew
from ..lanczos import lanczos_steps, ritz_measures
from ..linalg import Block, column_batches, column_dots, column_lengths, columns, project, take_columns
from ..monte_carlo import LEAST_PROBES, widening
from ..pcg import PcgResult, pcg
from ..traits import check_unit
from .association import Scan, left_of_fixed_effects, left_of_variants, make_scan, tested_variants

# Features (m, k) that are held while columns are solved together take at most so much memory.
FEATURE_BYTES = 1 << 29


@dataclass(frozen=True)
class LocoSettings:
    """``tol``: relative residual of the solves for y.  ``calibration_tol``: relative change of z'Pz at which Lanczos
    stops.  ``calibration_se``: relative standard error of gamma at which no more variants are drawn, once ``scatter``
    degrees of freedom tell how single variants scatter about it; ``variants``: drawn at a time, at least two of each
    chromosome; ``most``: about that many in all.  ``columns``: most columns solved at once, None by memory.
    """

    tol: float = 5e-5
    calibration_tol: float = 5e-4
    calibration_se: float = 1e-2
    variants: int = 32
    most: int = 256
    scatter: int = 30
    max_iterations: int = 400
    columns: int | None = None

    def __post_init__(self):
        for name in ("tol", "calibration_tol"):
            as_number(getattr(self, name), name, above=0, below=1)
        as_number(self.calibration_se, "calibration_se", above=0)
        for name in ("variants", "most", "max_iterations", "scatter"):
            as_count(getattr(self, name), name)
        if self.variants < 2 or self.most < self.variants or self.max_iterations < 1 or self.scatter < 1:
            raise ValueError("expected variants >= 2, most >= variants, max_iterations >= 1 and scatter >= 1")


class LocoModel(NamedTuple):
    """Traits ``y`` (n, t) beside the fixed effects' basis ``Q`` (n, c), scaled to variance 1 by ``scales`` (t,), and
    the variances ``thetas`` (C, t, 2) on that scale: V_c = thetas[c, trait, 0] K_{-c} + thetas[c, trait, 1] I."""

    left: LeaveOut
    Q: np.ndarray
    y: np.ndarray
    scales: np.ndarray
    thetas: np.ndarray


class SolvedColumns(NamedTuple):
    """``X`` (n, k); true relative residuals and iterations (k,); column-passes spent; whether all met the tolerance."""

    X: Block
    residuals: np.ndarray
    iterations: np.ndarray
    column_passes: int
    converged: bool


class ScoreCalibration(NamedTuple):
    """``variants`` (s,) drawn and the ``groups`` they are of; ``ratios`` (s, t) z'P_c z / z'Mz; ``gamma`` (C, t) and
    its standard errors ``se``, see :func:`shrunken_means`; ``scatter`` (t,): SD over single variants of the relative
    error of their standard error, which one gamma for all leaves, on ``freedom`` (t,) degrees of freedom;
    ``converged``: whether every run did."""

    variants: np.ndarray
    groups: np.ndarray
    ratios: np.ndarray
    gamma: np.ndarray
    se: np.ndarray
    scatter: np.ndarray
    freedom: np.ndarray
    column_passes: int
    converged: bool


class LocoNull(NamedTuple):
    """What tests of variants need of fitted null models, but for the genotypes of these: ``Q`` (n, c) of the fixed
    effects, the traits' ``scales`` (t,), ``Py`` (n, t C) P_c y on the scale of variance 1, the groups of a trait
    together, and ``gamma`` (C, t); for generalised least squares also ``y`` (n, t) and ``thetas`` (C, t, 2) as
    :class:`LocoModel` has them."""

    Q: np.ndarray
    scales: np.ndarray
    Py: np.ndarray
    gamma: np.ndarray
    y: np.ndarray
    thetas: np.ndarray

    @property
    def dof(self) -> int:
        """Degrees of freedom beside the fixed effects and a variant."""
        return len(self.Q) - self.Q.shape[1] - 1


class LocoFit(NamedTuple):
    """The solves for y and the calibration: ``Py`` (n, t C) P_c y on the model's scale, the groups of a trait together;
    ``residuals``, ``iterations`` (C, t) of them."""

    model: LocoModel
    Py: Block
    calibration: ScoreCalibration
    residuals: np.ndarray
    iterations: np.ndarray
    column_passes: int
    converged: bool

    @property
    def null(self) -> LocoNull:
        """What tests need."""
        model = self.model
        return LocoNull(model.Q, model.scales, np.asarray(self.Py), self.calibration.gamma, model.y, model.thetas)


class LocoScan(NamedTuple):
    """``scan`` with the ``fit`` behind it."""

    scan: Scan
    fit: LocoFit


def apply_v(left: LeaveOut, thetas: np.ndarray, groups: np.ndarray, traits: np.ndarray, B: Block) -> Block:
    """Columns theta_g K_{-c} b + theta_e b, each at its own group c and theta = thetas[c, trait] (2,); one pass."""
    theta = thetas[groups, traits]
    return left.apply(B, groups) * theta[:, 0].astype(B.dtype) + B * theta[:, 1].astype(B.dtype)


def solve_columns(
    left: LeaveOut, Q: Block, thetas: np.ndarray, groups: np.ndarray, traits: np.ndarray, B: Block, **options
) -> PcgResult:
    """P_c b for every column of B (n, k) in the complement of Q, each with its own V_c; ``options`` of :func:`pcg`."""

    def apply(P, which):
        return project(Q, apply_v(left, thetas, groups[which], traits[which], P))

    return pcg(apply, B, by_column=True, **options)


def solve_in_batches(
    left: LeaveOut, Q: Block, thetas, groups, traits, B: Block, settings: LocoSettings, keep: Keep
) -> SolvedColumns:
    """:func:`solve_columns`, as many columns at once as memory allows; a last pass makes the residuals true ones."""
    options = {"tol": settings.tol, "max_iterations": settings.max_iterations}

    def solved(batch: slice) -> tuple:
        found = solve_columns(left, Q, thetas, groups[batch], traits[batch], take_columns(B, batch), **options)
        return found.X, found.residuals, found.iterations, found.converged

    batches = column_batches(B.shape[1], columns_at_once(left, B, settings))
    parts = [keep(f"columns {batch.start}", lambda batch=batch: solved(batch)) for batch in batches]
    residuals, iterations, converged = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    X = columns(*(left.products.block(part[0]) for part in parts))
    return SolvedColumns(X, residuals, iterations, int(iterations.sum()) + len(iterations), bool(converged.all()))


def columns_at_once(left: LeaveOut, B: Block, settings: LocoSettings) -> int:
    """Columns whose features are held together; a float64 column of genotypes counts too."""
    rows = max(left.products.num_variants, 2 * len(B))
    return settings.columns or max(8, FEATURE_BYTES // (rows * B.dtype.itemsize))


def calibrate(
    left: LeaveOut,
    Q: np.ndarray,
    thetas: np.ndarray,
    candidates: Sequence[np.ndarray],
    rng: np.random.Generator,
    settings: LocoSettings,
    keep: Keep,
) -> ScoreCalibration:
    """gamma of every group and trait, from random ``candidates`` of each group, until its error is small enough.

    Cost: a Lanczos run for each variant, some ten column-passes, whatever the number of traits.
    """
    t, block_Q = thetas.shape[1], left.products.block(Q)
    orders = [rng.permutation(rows) for rows in candidates]
    C, total = len(orders), sum(map(len, orders))
    each = max(2, -(-settings.variants // C))
    variants, groups, ratios = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, t))
    passes, converged, first = 0, True, 0
    while True:
        drawn = [order[first : first + each] for order in orders]
        chosen, own = np.concatenate(drawn), np.repeat(np.arange(C), [len(rows) for rows in drawn])

        def drawn_ratios(chosen=chosen, own=own) -> tuple:
            B = left.products.block(project(Q, to_dense(take_variants(left.products.genotypes, chosen))))
            parts = [
                inverse_forms(left, block_Q, thetas[own[batch]], own[batch], take_columns(B, batch), settings)
                for batch in column_batches(len(chosen), columns_at_once(left, B, settings))
            ]
            values = np.concatenate([part.values for part in parts]) / column_dots(B, B)[:, None]
            return values, sum(part.column_passes for part in parts), all(part.converged for part in parts)

        found, spent, settled = keep(f"calibration {first}", drawn_ratios)
        variants, groups = np.append(variants, chosen), np.append(groups, own)
        ratios, first = np.concatenate([ratios, found]), first + each
        passes += spent
        converged &= settled
        gamma, se, freedom = shrunken_means(ratios, groups, C)
        known = (se <= settings.calibration_se * gamma).all() and (freedom >= settings.scatter).all()
        if known or len(variants) >= min(total, settings.most):
            scatter = scatter_of_errors(ratios / gamma[groups], freedom)
            return ScoreCalibration(variants, groups, ratios, gamma, se, scatter, freedom, passes, converged)


def scatter_of_errors(ratios: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """(t,) SD of the relative error of a standard error, from z'P_c z / (gamma z'Mz) of variants (s, t).

    The error that is reported is (gamma z'Mz)^-1/2 for (z'P_c z)^-1/2: their quotient is the root of the ratio.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.sum((np.sqrt(ratios) - 1) ** 2, axis=0) / np.where(freedom > 0, freedom, np.nan))


class QuadraticForms(NamedTuple):
    """Quadratic forms ``values`` (k, t), and what they took."""

    values: np.ndarray
    column_passes: int
    converged: bool


def inverse_forms(
    left: LeaveOut, Q: Block, thetas: np.ndarray, groups: np.ndarray, B: Block, settings: LocoSettings
) -> QuadraticForms:
    """b'P_c b for every column of B (n, k) in the complement of Q, at the t variances thetas (k, t, 2) of each.

    Lanczos on K_{-c} from b serves every theta, as theta_g K + theta_e I share its Krylov spaces; Gauss quadrature,
    from below (Golub & Meurant 2010, Matrices, Moments and Quadrature, ch. 6).  Ends when no value moves by more than
    ``calibration_tol`` of itself between two steps.
    """
    values = np.full(thetas.shape[:2], np.nan)
    for found in lanczos_steps(lambda P: project(Q, left.apply(P, groups)), B):
        nodes, weights = ritz_measures(found)
        before = values
        values = np.stack([(weights / (at[:, :1] * nodes + at[:, 1:])).sum(axis=1) for at in thetas.swapaxes(0, 1)], 1)
        settled = bool((np.abs(values - before) <= settings.calibration_tol * values).all())
        if settled or len(found.alpha) >= settings.max_iterations:
            return QuadraticForms(values, found.alpha.size, settled)
    raise AssertionError("lanczos_steps ended")


class Shrunken(NamedTuple):
    """``means`` (C, t), their standard ``errors``, and the degrees of ``freedom`` (t,) that are left to the values."""

    means: np.ndarray
    errors: np.ndarray
    freedom: np.ndarray


def shrunken_means(values: np.ndarray, groups: np.ndarray, num_groups: int) -> Shrunken:
    """Means (C, t) of values (s, t) in each group, drawn to that of all as far as they differ by chance; their errors.

    m_c = m + B_c (mean_c - m), B_c = tau^2 / (tau^2 + s^2 / n_c), with s^2 and tau^2 the variances within and between
    groups from the analysis of variance, tau^2 >= 0 (Searle, Casella & McCulloch 1992, Variance Components, 3.6).
    nan errors for fewer than 16 values, or where no group has two that tell s^2.  Freedom: s less the trace of the map
    from values to means.
    """
    N = len(values)
    counts = np.bincount(groups, minlength=num_groups)[:, None].astype(np.float64)
    used = counts[:, 0] > 0
    overall = values.mean(axis=0)
    sums = np.zeros((num_groups, values.shape[1]))
    np.add.at(sums, groups, values)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
    between = used.sum() - 1
    within = N - used.sum()
    if not within:
        alone = np.broadcast_to(overall, means.shape).copy()
        return Shrunken(alone, np.full(means.shape, np.nan), np.full(values.shape[1], N - 1.0))
    s2 = ((values - means[groups]) ** 2).sum(axis=0) / within
    spread = (counts * (means - overall) ** 2).sum(axis=0) - between * s2
    tau2 = np.maximum(spread, 0) / (N - (counts**2).sum() / N) if between else np.zeros_like(s2)
    B = np.divide(counts * tau2, counts * tau2 + s2, out=np.zeros_like(means), where=counts * tau2 + s2 > 0)
    error = np.where(counts > 0, B * s2 / np.maximum(counts, 1), tau2) + (1 - B) ** 2 * s2 / N
    freedom = N - 1 - (B * (used[:, None] - counts / N)).sum(axis=0)
    known = widening(within) if N >= LEAST_PROBES else np.nan
    return Shrunken(overall + B * (means - overall), known * np.sqrt(error), freedom)


def loco_scan(
    Y: np.ndarray,
    X: np.ndarray,
    left: LeaveOut,
    tested: Sequence[np.ndarray],
    thetas: np.ndarray,
    rng: np.random.Generator,
    settings: LocoSettings | None = None,
    keep: Keep = made_anew,
) -> LocoScan:
    """Score tests of every variant of ``tested[c]`` under V_c, for every column of Y (n, t), X (n, c).

    thetas: (C, t, 2) variances of each group and trait, residual last.  beta = z'P_c y / (gamma z'Mz),
    se = (gamma z'Mz)^-1/2, chi^2 = (beta / se)^2 on 1 df; what z_j explains is not taken out of the variance, as
    in BOLT-LMM-inf and GRAMMAR-gamma.
    Cost: passes of C t columns until P_c y, the calibration's, half a pass of C t + c columns.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_products, pack, standardise
    >>> from gpu_reml.ops.loco import leave_out
    >>> from gpu_reml.reml import loco_scan
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.3, (200, 400)).astype(np.int8)
    >>> genotypes = standardise([pack(counts)], 200)
    >>> y = 2.0 * counts[:, 7] + rng.standard_normal(200)
    >>> halves = [np.arange(200), np.arange(200, 400)]
    >>> left = leave_out(make_products(genotypes, "cpu"), np.ones(400), halves, ["1", "2"])
    >>> thetas = np.tile([0.5, 1.5], (2, 1, 1))  # of each half and trait, as a fit found them
    >>> found = loco_scan(y[:, None], np.ones((200, 1)), left, halves, thetas, rng)
    >>> int(found.scan.log10p[:, 0].argmax()), found.fit.converged
    (7, True)
    """
    fitted = loco_fit(Y, X, left, tested, thetas, rng, settings, keep)
    return LocoScan(score_tests(fitted.null, left.products, tested, keep), fitted)


def loco_fit(
    Y: np.ndarray,
    X: np.ndarray,
    left: LeaveOut,
    candidates: Sequence[np.ndarray],
    thetas: np.ndarray,
    rng: np.random.Generator,
    settings: LocoSettings | None = None,
    keep: Keep = made_anew,
) -> LocoFit:
    """P_c y of every group and trait, and gamma from random ``candidates`` of each group; as :func:`loco_scan`.

    ``keep``: of columns that are solved together, and of variants that are drawn together.
    """
    settings = settings or LocoSettings()
    model = loco_model(Y, X, left, thetas)
    products, Q = left.products, model.Q
    C, t = model.thetas.shape[:2]
    if len(candidates) != C:
        raise ValueError(f"thetas: expected those of {len(candidates)} groups, found {C}")
    groups, traits = np.tile(np.arange(C), t), np.repeat(np.arange(t), C)
    block_Q = products.block(Q)
    B = products.block(np.repeat(model.y, C, axis=1))
    solved = solve_in_batches(left, block_Q, model.thetas, groups, traits, B, settings, keep)
    known = tested_variants(products, products.zt(block_Q), Q)
    candidates = [rows[np.isfinite(known.norms[rows])] for rows in candidates]
    if not sum(map(len, candidates)):
        raise ValueError("no variant can be tested: none varies beside the fixed effects")
    calibration = calibrate(left, Q, model.thetas, candidates, rng, settings, keep)
    by_group = (t, C)
    return LocoFit(
        model,
        solved.X,
        calibration,
        solved.residuals.reshape(by_group).T,
        solved.iterations.reshape(by_group).T,
        solved.column_passes + calibration.column_passes,
        solved.converged and calibration.converged,
    )


def score_tests(null: LocoNull, products: Products, tested: Sequence[np.ndarray], keep: Keep = made_anew) -> Scan:
    """Score tests of the variants ``tested[c]`` of any genotypes of the null models' samples, in their order.

    Each group's variants are read with its own columns alone, on the CPU from a copy of their packed bytes: a test does
    not depend, in any bit, on which other groups are there.
    Cost: half a pass of t + c columns.  ``keep``: of groups.
    """
    C, t = null.gamma.shape
    m = products.num_variants
    if len(tested) != C:
        raise ValueError(f"tested: expected the variants of {C} groups, found {len(tested)}")
    score, variance = np.full((m, t), np.nan), np.full((m, t), np.nan)
    for c, rows in enumerate(tested):
        if not len(rows):
            continue
        score[rows], norms = keep(f"group {c}", lambda c=c, rows=rows: group_scores(null, products, c, rows))
        variance[rows] = null.gamma[c] * norms[:, None]
    return make_scan(score / variance * null.scales, null.scales / np.sqrt(variance), None)


def group_scores(null: LocoNull, products: Products, c: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z'P_c y (k, t) and |(I-QQ')z|^2 (k,) of the variants of group c."""
    C, t = null.gamma.shape
    part, own = products_of(products, rows)
    F = np.asarray(part.zt(part.block(np.column_stack([null.Py[:, c::C], null.Q]))))[own]
    return F[:, :t], left_of_variants(products.genotypes.squared_norm[rows], F[:, t:], products.dtype)


def products_of(products: Products, rows: np.ndarray) -> tuple[Products, np.ndarray | slice]:
    """Products with some variants, and where these are among their own: a copy of them on the CPU, else all."""
    if not isinstance(products, CpuProducts):
        return products, rows
    return replace(products, genotypes=take_variants(products.genotypes, rows)), slice(None)


def loco_model(Y: np.ndarray, X: np.ndarray, left: LeaveOut, thetas: np.ndarray) -> LocoModel:
    """Y (n, t), X (n, c) and thetas (C, t, 2) in the traits' units squared, checked and on the scale of variance 1."""
    thetas = as_array(thetas, "thetas")
    Q, y = left_of_fixed_effects(Y, X)
    expected = (len(left.rows), y.shape[1], 2)
    if thetas.shape != expected:
        raise ValueError(f"thetas: expected {expected}, found {thetas.shape}")
    if (thetas < 0).any() or not (thetas[..., -1] > 0).all():
        raise ValueError("thetas: expected variances from 0 up, the residual last and above 0")
    scales = column_lengths(y) / np.sqrt(len(y) - Q.shape[1])
    for trait, scale in enumerate(scales):
        check_unit(scale, f"Y[:, {trait}]")
    return LocoModel(left, Q, y / scales, scales, thetas / scales[None, :, None] ** 2)
