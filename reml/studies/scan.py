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

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from gpu_reml.ops import GenotypeCovariance, blas, make_covariance
from gpu_reml.ops.arguments import as_count, as_number, as_vector

from ..covariance import Covariance, as_covariance
from ..covariance.threaded import ThreadedCovariance
from ..likelihood import apply_v_at, solve
from ..linalg import Block, orthonormal_basis
from ..precondition import complement_traces, make_projected_core, precondition
from ..probes import Probes, checked_probes, default_rank, draw_probes, probes_are_exact
from ..residuals import layout_of
from ..result import ConvergenceError, FitResult
from .effects import parameters_of
from .scan_estimates import made_result
from .scan_exact import exact_moments, few_variants
from .scan_replicates import Replicates, baseline_forms, make_replicates
from .scan_result import ScanResult
from .scan_statistics import LEAST_REPLICATES, Fitted, Seen, statistics, with_exact

NUM_REPLICATES = 256
# -log10 p from which few variants are solved for: a few Monte-Carlo errors below 3, since sets that replicates put
# below p = 0.001 by chance would leave, and those that they put above would stay.  And the relative residual of these
# solves, whose squares count.
STRONG, COLUMN_TOL = 2.5, 1e-3


@dataclass(frozen=True)
class ScanSettings:
    """``tol``: of replicates, the change by a Lanczos step over their length.  ``solve``: relative residual of P y.
    ``rank`` of the preconditioner, None for at most a quarter of R; ``columns``: most columns worked on at once.
    ``pair_work``: multiplications for the pairs of replicates of one component, of which a component of many variants
    takes fewer.  ``exact_variants``: of the strongest components, with p <= 0.003, so many variants together are solved
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
        seen = features_of(sets, fitted)
        found = statistics(sets, fitted, seen, settings.pair_work)
        made = made_result(result, covariance, sets, fitted, found)
        which = few_variants(made.log10p, np.diff(sets.weights.tocsc().indptr), STRONG, settings.exact_variants)
        if not len(which) or fitted.replicates.complete:
            return made
        exact = exact_moments(sets, fitted, seen.x, which, found.beta[which], settings.columns)
        made = made_result(result, covariance, sets, fitted, with_exact(found, exact, fitted, seen.forms))
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
    forms = baseline_forms(covariance, x, np.flatnonzero(layout.estimated)[free], solved.X)

    def inverse(B: Block) -> Block:
        return solve(Q, apply_v, B, preconditioner, tol=COLUMN_TOL, check=False).X

    return Fitted(solved.X, replicates, *forms, free, float(scale), layout.root, covariance.block, inverse)


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


def features_of(sets: GenotypeCovariance, fitted: Fitted) -> Seen:
    """What the variants of the sets see of replicates and P y; half a pass."""
    products, x, y = sets.products, fitted.replicates.x, fitted.Py
    if fitted.root is not None:
        x, y = (np.asarray(block, np.float64) / fitted.root[:, None] for block in (x, y))
    with blas.all_threads():
        F, Fy = products.zt(products.block(x)), products.zt(products.block(y))
    return Seen(F, Fy, products.inner(Fy, Fy, sets.weights)[:, 0])
