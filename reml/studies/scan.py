"""A scan of further components after one fit: for each, the score test, and what one step would estimate.

The fitted model is the null.  For a further component K_a = Z diag(a) Z' / c_a the statistic is q_a = y'P K_a P y.  As
theta was fitted, its law is that of the efficient score: of q_a less its regression on the forms of the fitted
variances,

    r_a = q_a - t_a - beta'(q - t),   beta = I^-1 I_a,   I_gh = tr(P K_g P K_h) / 2,   z = r_a / sqrt(v_a)

of which variance v_a and third cumulant, beta and the means come from replicates of P y (:mod:`.scan_replicates`), the
same for all components: R columns of solves once, half a pass, and then sums.  Variances at their bound are held.
One scoring step from theta_a = 0 is 2 r_a / v_a with standard error 2 / sqrt(v_a), and takes beta theta_a from the
fitted variances.
Source: Zhang & Lin 2003, Biostatistics 4:57 (score tests of variance components); for the law :mod:`.scan_law`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from gpu_reml.ops import GenotypeCovariance, blas, make_covariance
from gpu_reml.ops.arguments import as_count, as_number, as_vector

from ..covariance import Covariance, as_covariance
from ..covariance.threaded import ThreadedCovariance
from ..inference import Derived
from ..likelihood import apply_v_at, solve
from ..linalg import Block, orthonormal_basis
from ..precondition import complement_traces, make_projected_core, precondition
from ..probes import Probes, checked_probes, default_rank, draw_probes, probes_are_exact
from ..residuals import layout_of
from ..result import ConvergenceError, FitResult
from .effects import parameters_of
from .scan_exact import Exact, exact_moments, few_variants
from .scan_law import log10_p
from .scan_replicates import Replicates, baseline_forms, forms_of, make_replicates, pair_means

if TYPE_CHECKING:  # loaded only where a frame is asked for
    import pandas as pd

NUM_REPLICATES = 256
LEAST_REPLICATES = 32
# A component is not told from the fitted ones where so little of its information is its own.
DEPENDENT = 1e-6
# One direction that holds this share of a statistic's variance is named.
DOMINANT = 0.8
# From this saturation on the variance of one step is about twice that of a full fit (validation/scan_study.py).
SATURATED = 3.0
BATCH_NUMBERS = 1 << 20  # of forms that are held at once
# -log10 p from which few variants are solved for; and the relative residual of these solves, whose squares count.
STRONG, COLUMN_TOL = 3.0, 1e-3
STEP = 1e-3  # in z, for the slope of -log10 p


@dataclass(frozen=True)
class ScanSettings:
    """``tol``: of replicates, the change by a Lanczos step over their length.  ``solve``: relative residual of P y.
    ``rank`` of the preconditioner, None for at most a quarter of R; ``columns``: most columns worked on at once.
    ``pair_work``: multiplications for the pairs of replicates of one component, of which a component of many variants
    takes fewer.  ``exact_variants``: of the strongest components, with p <= 1e-3, so many variants together are solved
    for, so that their laws have no error of replicates."""

    tol: float = 0.01
    solve: float = 1e-5
    rank: int | None = None
    columns: int | None = None
    pair_work: float = 5e8
    exact_variants: int = 128

    def __post_init__(self):
        for name in ("tol", "solve"):
            as_number(getattr(self, name), name, above=0, below=1)
        as_number(self.pair_work, "pair_work", above=0)
        as_count(self.exact_variants, "exact_variants", 0)
        for name, least in (("rank", 0), ("columns", 1)):
            if getattr(self, name) is not None:
                as_count(getattr(self, name), name, least)


@dataclass(frozen=True)
class ScanResult:
    """What a scan says of A components; every array is (A,), NaN for one that is not told from the fitted ones.

    ``variance``: theta_a tr(K_a) / n by one step, with sampling and Monte-Carlo error, beside the fitted components,
    which keep the rest: negative where the set has less than they say.  ``enrichment``: of heritability over variants,
    after that step, as :func:`~gpu_reml.reml.studies.enrichment.enrichment` has it; NaN where the baseline is not made
    of the same genotypes alone.  ``z`` has unit variance but is skew; ``log10p``: -log10 of P(z or more), one-sided,
    by its own law.  ``own``: share of the component's information that the fitted ones leave.  ``dominance``: share of
    the statistic's variance in its leading direction.  ``replicates``: of which pairs were taken; ``exact``: whether
    the law is without their error (:mod:`.scan_exact`).
    """

    names: tuple[str, ...]
    num_variants: np.ndarray
    variance: Derived
    enrichment: Derived
    theta: np.ndarray
    z: np.ndarray
    z_mc_se: np.ndarray
    log10p: np.ndarray
    log10p_mc_se: np.ndarray
    skewness: np.ndarray
    own: np.ndarray
    dominance: np.ndarray
    replicates: np.ndarray
    num_replicates: int
    steps: int
    exact: np.ndarray

    @property
    def p(self) -> np.ndarray:
        return 10.0**-self.log10p

    @property
    def saturation(self) -> np.ndarray:
        """By how much one step multiplies the variance of y in the component's directions, weighted by their
        information: theta_a sum l^3 / sum l^2 for eigenvalues l of the component in the metric of P; 0 for a step down.

        One step takes the information of the fitted model, which is right where this is small; where it is not, a
        full fit gives directions that have more than others less weight.
        """
        return np.maximum(self.z, 0) * np.maximum(self.skewness, 0) / 2  # the same by the moments of the form

    @property
    def remarks(self) -> list[str]:
        """Which components are not told from the fitted ones, which statistics are of one direction, and which steps
        are too long for the variance that they give."""
        conditions = [np.isnan(self.z), self.dominance >= DOMINANT, self.saturation >= SATURATED]
        return np.select(conditions, ["not told from the baseline", "one direction", "saturated"], "").tolist()

    def to_frame(self) -> "pd.DataFrame":
        """One row for each component, with Bonferroni's and Benjamini and Hochberg's p."""
        import pandas as pd

        columns: dict[str, Any] = {"set": self.names, "variants": self.num_variants}
        for name in ("variance", "enrichment"):
            for kind, values in getattr(self, name)._asdict().items():
                columns[name if kind == "estimate" else f"{name}_{kind}"] = values
        p = self.p
        columns |= {"z": self.z, "z_mc_se": self.z_mc_se, "p": p, "log10p": self.log10p}
        columns |= {"log10p_mc_se": self.log10p_mc_se, "p_bonferroni": bonferroni(p), "p_fdr": false_discovery(p)}
        columns |= {"own": self.own, "dominance": self.dominance, "saturation": self.saturation}
        columns |= {"exact": self.exact, "remark": self.remarks}
        return pd.DataFrame(columns)


def bonferroni(p: np.ndarray) -> np.ndarray:
    """(A,) p times the number of tests, at most 1; NaN are no tests."""
    return np.minimum(p * np.count_nonzero(~np.isnan(p)), 1.0)


def false_discovery(p: np.ndarray) -> np.ndarray:
    """(A,) adjusted p of Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289; NaN are no tests."""
    out = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(-p[tested], kind="stable")]
    ranks = np.arange(len(order), 0, -1)
    out[order] = np.minimum.accumulate(np.minimum(p[order] * len(order) / np.maximum(ranks, 1), 1.0))
    return out


class Fitted(NamedTuple):
    """The fitted model for a trait of unit variance: ``Py`` (n, 1), ``replicates`` and forms of its parameters off
    their bound: ``own`` (q, R, R) of replicates, ``of_y`` (q,).  ``free``: which of those that are reported these are;
    ``root`` (n,): what samples were divided by, None for 1; ``block`` puts an array where blocks are, ``solve`` is
    B -> P B."""

    Py: Block
    replicates: Replicates
    own: np.ndarray
    of_y: np.ndarray
    free: np.ndarray
    scale: float
    root: np.ndarray | None
    block: Callable[[np.ndarray], Block]
    solve: Callable[[Block], Block]


class Statistics(NamedTuple):
    """Efficient scores of components, all (a,) but ``beta`` (a, q) and ``errors`` (a, 3), the Monte-Carlo variances of
    the mean and of the variance, and their covariance.  ``whole``: variance before the regression; ``pairs``:
    replicates of which pairs were taken."""

    score: np.ndarray
    variance: np.ndarray
    third: np.ndarray
    lead: np.ndarray
    variance_error: np.ndarray
    whole: np.ndarray
    beta: np.ndarray
    pairs: np.ndarray
    errors: np.ndarray


def scan(
    result: FitResult,
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    sets: GenotypeCovariance | np.ndarray | sparse.sparray,
    probes: Probes | np.ndarray | int = NUM_REPLICATES,
    settings: ScanSettings | None = None,
) -> ScanResult:
    """Score tests and one-step estimates of further components ``sets``, each alone beside those of a fit.

    result, y, X, covariance: a fit and what it was given.  sets: components as
    :func:`~gpu_reml.ops.make_covariance` makes them, of any genotypes of the same samples, thousands if need be, which
    may overlap; or weights (m, A) of the variants of ``covariance``, where that is made of genotypes.
    probes: R of them make as many replicates; :func:`~gpu_reml.reml.probes.exact_probes` leave no Monte-Carlo error.
    Cost: R columns of solves, half a pass for the replicates' features, R^2 multiplications for every weight.  Memory:
    4 m R bytes and 8 R^2 (G + 1).  The strongest of few variants: a column for each variant.
    The tests are one-sided: p is small where a component has more variance than the fit gives it.
    Raises ValueError for wrong arguments, ConvergenceError where P y is not solved.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_covariance, make_products, pack, standardise
    >>> from gpu_reml.reml import fit_exact, scan
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.4, (300, 400)).astype(np.int8)
    >>> whole = make_covariance(make_products(standardise([pack(counts)], 300), "cpu"))
    >>> y = (counts[:, :20] - 0.8) @ rng.standard_normal(20) / 5 + rng.standard_normal(300)
    >>> windows = np.repeat(np.eye(20), 20, axis=0)
    >>> found = scan(fit_exact(y, np.ones((300, 1)), whole), y, np.ones((300, 1)), whole, windows)
    >>> int(np.argmax(found.log10p)), bool(found.p[0] < 1e-4)
    (0, True)
    """
    settings = settings or ScanSettings()
    y = as_vector(y, "y")
    covariance = as_covariance(covariance, len(y))
    sets = as_sets(sets, covariance)
    with blas.one_thread():
        fitted = fitted_model(result, y, X, ThreadedCovariance(covariance), probes, settings)
        F, of_y = features_of(sets, fitted)
        found = statistics(sets, fitted, F, of_y, settings)
        made = made_result(result, covariance, sets, fitted, found)
        which = few_variants(made.log10p, np.diff(sets.weights.tocsc().indptr), STRONG, settings.exact_variants)
        if not len(which) or fitted.replicates.complete:
            return made
        exact = exact_moments(sets, fitted, F, which, found.beta[which], settings.columns)
        made = made_result(result, covariance, sets, fitted, with_exact(found, exact, fitted, of_y))
        return replace(made, exact=np.isin(np.arange(len(made.z)), which))


def as_sets(sets: Any, covariance: Covariance) -> GenotypeCovariance:
    """Components to scan, or a ValueError that says what is wrong with them."""
    if isinstance(sets, GenotypeCovariance):
        if sets.num_samples != covariance.num_samples:
            raise ValueError(f"sets: expected {covariance.num_samples} samples, found {sets.num_samples}")
        return sets
    if covariance.products is None:
        raise ValueError("sets: the covariance has no variants to weigh; give components of make_covariance")
    A = np.shape(sets)[1] if np.ndim(sets) == 2 or sparse.issparse(sets) else 0
    return make_covariance(covariance.products, sets, [f"set_{a:04d}" for a in range(A)])


def fitted_model(result: FitResult, y, X, covariance: Covariance, probes, settings: ScanSettings) -> Fitted:
    """The fitted model with its replicates."""
    layout = layout_of(covariance)
    y, X = layout.whitened(y[:, None]), layout.whitened(np.asarray(X, np.float64))
    parameters = parameters_of(result.theta, covariance)
    scale = np.sqrt(float(parameters[:-1] @ covariance.traces) / len(y) + parameters[-1])
    theta, Q = parameters / scale**2, covariance.block(orthonormal_basis(X))
    probes = replicate_probes(probes, *Q.shape, settings)
    traces = complement_traces(covariance, Q)
    core = make_projected_core(covariance, Q, traces, np.maximum(theta[:-1], 0), probes.sketch)
    preconditioner, apply_v = precondition(core, theta), apply_v_at(covariance, theta)
    solved = solve(Q, apply_v, covariance.block(y / scale), preconditioner, tol=settings.solve, max_iterations=2000)
    if not solved.converged.all():
        raise ConvergenceError(
            f"the solve for P y stopped at {solved.residuals[0]:.2g} of its start, not {settings.solve:g}; use "
            "products in float64, or a looser ScanSettings.solve"
        )
    W = covariance.block(np.asarray(probes.trace))
    x, steps = make_replicates(Q, apply_v, W, preconditioner, settings.tol, settings.columns)
    replicates = Replicates(x, probes_are_exact(probes.trace), steps)
    free = np.flatnonzero(~result.at_bound)
    own, of_y = baseline_forms(covariance, x, np.flatnonzero(layout.estimated)[free], solved.X)

    def inverse(B: Block) -> Block:
        return solve(Q, apply_v, B, preconditioner, tol=COLUMN_TOL, check=False).X

    return Fitted(solved.X, replicates, own, of_y, free, float(scale), layout.root, covariance.block, inverse)


def usual_rank(dimension: int, replicates: int) -> int:
    """Rank of a scan's preconditioner: a larger one saves no more passes of so many columns than making it takes."""
    return min(default_rank(dimension), dimension // 4, replicates // 4)


def replicate_probes(probes, n: int, num_fixed: int, settings: ScanSettings) -> Probes:
    """Probes with a sketch of the preconditioner's rank."""
    probes = checked_probes(probes, n, LEAST_REPLICATES if n > LEAST_REPLICATES else 1)
    usual = usual_rank(n - num_fixed, probes.trace.shape[1])
    rank = usual if settings.rank is None else min(settings.rank, n - num_fixed)
    if probes.sketch.shape[1] < rank:
        probes = Probes(probes.trace, draw_probes(n, 1, rank, seed=1).sketch)
    return Probes(probes.trace, probes.sketch[:, :rank])


def features_of(sets: GenotypeCovariance, fitted: Fitted) -> tuple[Any, np.ndarray]:
    """(F, of_y): Z'x of the replicates, and y'P K_a P y (A,); half a pass."""
    products, x, y = sets.products, fitted.replicates.x, fitted.Py
    if fitted.root is not None:
        x, y = (np.asarray(block, np.float64) / fitted.root[:, None] for block in (x, y))
    with blas.all_threads():
        F, Fy = products.zt(products.block(x)), products.zt(products.block(y))
    return F, products.inner(Fy, Fy, sets.weights)[:, 0]


def statistics(
    sets: GenotypeCovariance, fitted: Fitted, F: Any, of_y: np.ndarray, settings: ScanSettings
) -> Statistics:
    """The efficient score of every component and its law, some at a time."""
    products, columns, order, parts = sets.products, sparse.csc_array(sets.weights), [], []
    for which, count in batches(np.diff(columns.indptr), fitted.replicates, settings.pair_work):
        weights = columns[:, which]
        G = products.gram(F[..., :count], None, weights)
        complete_diagonal = np.diagonal(G, axis1=1, axis2=2)
        if count < fitted.replicates.count:
            complete_diagonal = products.inner(F, F, weights)
        parts.append(batch_statistics(G, complete_diagonal, of_y[which], fitted))
        order.append(which)
    back = np.argsort(np.concatenate(order))
    return Statistics(*(np.concatenate(each)[back] for each in zip(*parts, strict=True)))


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
    return Statistics(score, *moments, forms.whole, beta, np.full(a, r), errors_of(on_mean, on_variance))


def regression(G: np.ndarray, own: np.ndarray, *, complete: bool) -> np.ndarray:
    """(a, q) slopes of forms G (a, r, r) on those of the fitted variances, own (q, r, r)."""
    if not len(own):
        return np.zeros((len(G), 0))
    information = pair_means(own, own, complete=complete)
    units = np.sqrt(np.diag(information))
    scaled = information / np.outer(units, units)
    return np.linalg.solve(scaled, (pair_means(G, own, complete=complete) / units).T).T / units


def made_result(
    result: FitResult, covariance: Covariance, sets: GenotypeCovariance, fitted: Fitted, found: Statistics
) -> ScanResult:
    """Statistics as estimates with their errors, in y's units."""
    own = found.variance / found.whole
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.where(own > DEPENDENT, found.variance, np.nan))
        z = found.score / root
        theta, se = 2 * found.score / root**2, 2 / root
        of_mean, of_variance, of_both = found.errors.T

        def error(by_mean: np.ndarray, by_variance: np.ndarray) -> np.ndarray:
            parts = by_mean**2 * of_mean + by_variance**2 * of_variance + 2 * by_mean * by_variance * of_both
            return np.sqrt(np.maximum(parts, 0))

        z_mc = error(1 / root, z / (2 * root**2))
        theta_mc = error(2 / root**2, theta / root**2)
        lead, skewness = found.lead / root, found.third / root**3
        unit_error = found.variance_error / (2 * root**2)
        inflation = of_mean / root**2
    log10p, slope = tails(z, lead, skewness, inflation, unit_error)
    scale, traces = fitted.scale**2, sets.traces / sets.num_samples
    theta, se, theta_mc = theta * scale, se * scale, theta_mc * scale
    return ScanResult(
        tuple(sets.names),
        np.asarray(sets.num_variants),
        Derived(theta * traces, se * traces, theta_mc * traces),
        enrichment_of(result, covariance, sets, fitted, OneStep(theta, se, theta_mc, found.beta)),
        theta,
        z,
        z_mc,
        log10p,
        np.abs(slope) * z_mc,
        skewness,
        own,
        np.minimum(2 * lead**2, 1.0),
        found.pairs,
        fitted.replicates.count,
        fitted.replicates.steps,
        np.full(len(z), fitted.replicates.complete),
    )


def tails(z, lead, skewness, inflation, unit_error) -> tuple[np.ndarray, np.ndarray]:
    """(-log10 p, its slope in z); NaN where z is."""
    log10p, slope = np.full(len(z), np.nan), np.full(len(z), np.nan)
    known = np.isfinite(z)
    law = tuple(values[known] for values in (lead, skewness, inflation, unit_error))
    log10p[known] = log10_p(z[known], *law)
    slope[known] = (log10_p(z[known] + STEP, *law) - log10p[known]) / STEP
    return log10p, slope


class OneStep(NamedTuple):
    """One step to ``theta`` (A,) with its errors; ``beta`` (A, q): what it takes from the fitted variances."""

    theta: np.ndarray
    se: np.ndarray
    mc_se: np.ndarray
    beta: np.ndarray


class Shares(NamedTuple):
    """Variance of the sets' variants, for each unit of theta: ``held`` (A, G) of the fitted components', with
    ``totals`` (G,), and ``further`` (A,) of the set's own, with ``further_totals`` (A,)."""

    held: np.ndarray
    totals: np.ndarray
    further: np.ndarray
    further_totals: np.ndarray


def shares_of(covariance: GenotypeCovariance, sets: GenotypeCovariance) -> Shares:
    """What a set's variants hold in every component."""
    genotypes, a = sets.products.genotypes, sets.weights
    squares = sparse.diags_array(genotypes.squared_norm / genotypes.num_samples)
    held = (a.T @ (squares @ covariance.weights)).toarray()
    further = np.asarray((a.multiply(a).T @ squares).sum(axis=1)).ravel()
    return Shares(held, covariance.traces / sets.num_samples, further, sets.traces / sets.num_samples)


def enrichment_of(
    result: FitResult, covariance: Covariance, sets: GenotypeCovariance, fitted: Fitted, step: OneStep
) -> Derived:
    """Share of heritability over share of variants after the step, a function of the fitted variances and theta_a;
    the fitted ones' errors are those of the fit."""
    A = len(step.theta)
    unknown = Derived(*(np.full(A, np.nan) for _ in range(3)))
    same = isinstance(covariance, GenotypeCovariance) and covariance.products is sets.products
    if not same:
        return unknown
    shares, G = shares_of(covariance, sets), covariance.num_components
    beta = np.zeros((A, len(result.theta)))
    beta[:, fitted.free] = step.beta
    moved = result.theta[:G] - step.theta[:, None] * beta[:, :G]
    value = (shares.held * moved).sum(axis=1) + step.theta * shares.further
    total = moved @ shares.totals + step.theta * shares.further_totals
    varies = float((sets.products.genotypes.inv_sd > 0).sum())
    of_variants = np.asarray(sets.weights.sum(axis=0)).ravel() / varies
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0, value / total, np.nan)
        by_fitted = (shares.held - share[:, None] * shares.totals) / total[:, None]
        own = shares.further - (shares.held * beta[:, :G]).sum(axis=1)
        own_total = shares.further_totals - beta[:, :G] @ shares.totals
        by_own = (own - share * own_total) / total
    free = fitted.free[fitted.free < G]

    def spread(covariance_of: np.ndarray, error: np.ndarray) -> np.ndarray:
        C, J = covariance_of[np.ix_(free, free)], by_fitted[:, free]
        return np.sqrt(np.einsum("ap,pq,aq->a", J, C, J) + (by_own * error) ** 2) / of_variants

    errors = spread(result.covariance, step.se), spread(result.mc_covariance, step.mc_se)
    return Derived(share / of_variants, *errors)
