"""What a fit predicts: fixed effects, genetic values (BLUPs) with their reliability, and effects of variants.

Everything follows from P y: u_g = theta_g K_g P y, effects of standardised variants theta_g W_g Z'P y, and
X b = y - V P y.  Variances are in y's units squared, genetic values in y's units.
Source: Henderson 1975, Biometrics 31:423; Searle, Casella & McCulloch 1992, Variance Components, 7.4 and App. M.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse, special

from gpu_reml.ops.arguments import as_count, as_matrix, as_numbers, as_sparse, as_tolerance, as_vector

from ..contract import SKEW
from ..covariance import IncidenceCovariance, MixedCovariance, as_covariance
from ..least_squares import FixedEffects, fixed_effects, solved_inverse
from ..likelihood import apply_v_at, solve
from ..linalg import Block, column_batches, columns, gram, orthonormal_basis, project
from ..monte_carlo import LEAST_PROBES, widening
from ..precondition import Preconditioner, preconditioner_at
from ..probes import probes_are_exact, trace_probes
from ..residuals import Layout, ResidualCovariance, layout_of
from ..result import ConvergenceError
from ..scaled import ScaledCovariance
from ..traits import make_traits

# A solve takes at most so many PCG steps. The one solve for y is worth more of them than a solve inside a fit.
MAX_ITERATIONS = 2000
# Solves whose errors enter by their squares go to this relative residual.
INFORMATION_TOL = 1e-3


class FixedTests(NamedTuple):
    """Estimates (c,) with ``se``, ``t`` = estimate / se and two-sided ``p`` of Student's t with ``df`` = n - c.

    Exact where the true theta_g are zero; otherwise approximate, since theta is estimated too.  p is 0 below 1e-308.
    """

    estimate: np.ndarray
    se: np.ndarray
    t: np.ndarray
    p: np.ndarray
    df: int


class Effects(NamedTuple):
    """``Py`` (n,) and what follows: ``random`` (n, G) genetic values u_g, ``fixed`` effects; ``theta`` as given.

    ``solve_residual``: |y - V P y| / |y| on the complement of X, multiplied out and not PCG's recurrence.
    """

    names: tuple[str, ...]
    theta: np.ndarray
    Py: np.ndarray
    random: np.ndarray
    fixed: FixedEffects
    solve_residual: float
    iterations: int

    @property
    def total(self) -> np.ndarray:
        """(n,) genetic value of all components together."""
        return self.random.sum(axis=1)


class Reliability(NamedTuple):
    """Reliability of genetic values, (n,) or (n, G): the prediction error variance ``pev`` = var(u - u_hat), the error
    of the fixed effects included, its Monte-Carlo error ``mc_se``, and ``prior``, the variance of u itself."""

    pev: np.ndarray
    mc_se: np.ndarray
    prior: np.ndarray

    @property
    def reliability(self) -> np.ndarray:
        """1 - pev / prior: the squared correlation of u and u_hat; NaN where the component has no variance."""
        return 1 - np.divide(self.pev, self.prior, out=np.full_like(self.pev, np.nan), where=self.prior > 0)

    @property
    def reliability_mc_se(self) -> np.ndarray:
        return np.divide(self.mc_se, self.prior, out=np.full_like(self.pev, np.nan), where=self.prior > 0)


class _Scaled(NamedTuple):
    """A model divided by its total variance, so that float32 products see numbers near 1; X is whitened as in a fit.

    ``parameters`` (p,): in y's units squared; ``theta``: the same over ``scale``^2.
    """

    covariance: Any
    layout: Layout
    parameters: np.ndarray
    theta: np.ndarray
    scale: float
    Q: np.ndarray
    Q_there: Block
    apply_v: Callable[[Block], Block]
    preconditioner: Any


def effects(
    theta: np.ndarray,
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    *,
    preconditioner=None,
    tol: float = 1e-6,
    max_iterations: int = MAX_ITERATIONS,
) -> Effects:
    """Fixed effects and genetic values at theta (G + J,), residuals last; y (n,) and X (n, c) as given to the fit.

    preconditioner: as that of :func:`~gpu_reml.reml.likelihood.loglik`, of the covariance as given.  tol: relative
    residual of the solve for P y; float32 products reach about 1e-6.  Residuals other than one identity
    (:func:`~gpu_reml.reml.residuals.with_residuals`) are whitened as by a fit.
    Cost: 1 + c column-passes a PCG step (those of X stop at 1e-3, as they enter by their squares), and one pass of one
    column, times the components' overlap, for the genetic values.
    Raises ValueError when theta has not G + J values or there is no variance to divide, ConvergenceError when
    ``max_iterations`` steps do not reach ``tol``.  ``solve_residual`` is the true residual: rounding in float32
    products may leave more than ``tol``.

    >>> import numpy as np
    >>> from gpu_reml.reml import effects
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> X, K = np.ones((200, 1)), Z @ Z.T / 400
    >>> found = effects([1.0, 1.0], y, X, K)
    >>> V = K + np.eye(200)
    >>> bool(np.allclose(found.total, K @ np.linalg.solve(V, y - X @ found.fixed.estimate), atol=1e-4))
    True
    """
    y = as_vector(y, "y")
    covariance = as_covariance(covariance, len(y))
    layout, n = layout_of(covariance), covariance.num_samples
    y, X, tol = as_vector(y, "y", n), as_matrix(X, "X", n), float(as_tolerance(tol, "tol"))
    parameters = parameters_of(theta, covariance)
    root = np.ones(len(y)) if layout.root is None else layout.root
    y, X = y / root, X / root[:, None]
    trait = make_traits(y[:, None], X)
    Q, scale = trait.Q, float(trait.scales[0])
    scaled = parameters / scale**2
    apply_v = apply_v_at(covariance, scaled)
    Q_there = covariance.block(Q)
    VQ = apply_v(Q_there)
    solved = solve(
        Q_there,
        apply_v,
        columns(covariance.block(trait.scaled), VQ),
        preconditioner_at(preconditioner, scaled, scale),
        tol=np.append(tol, np.full(Q.shape[1], INFORMATION_TOL)),
        max_iterations=max_iterations,
    )
    if not solved.converged[0] and solved.iterations[0] >= max_iterations:
        raise ConvergenceError(
            f"the solve for P y stopped at {solved.residuals[0]:.2g} of its start, not {tol:g}, after {max_iterations} "
            "PCG steps; use products in float64, a preconditioner, or a looser tolerance"
        )
    Py = solved.X[:, :1]
    inverse = solved_inverse(Q_there, VQ, solved.X[:, 1:], solved.R[:, 1:])
    fixed = fixed_effects(trait, gram(Q_there, apply_v(Py))[:, 0], inverse)
    G = layout.num_genetic
    images = covariance.apply_each(covariance.features(Py))
    random = np.column_stack([np.asarray(images[g], np.float64)[:, 0] for g in range(G)])
    return Effects(
        tuple(layout.names),
        np.asarray(theta, np.float64),
        np.asarray(Py, np.float64)[:, 0] / scale / root,
        random * (scaled[:G] * scale) * root[:, None],
        fixed,
        float(solved.residuals[0]),
        int(solved.iterations[0]),
    )


def parameters_of(theta: np.ndarray, covariance) -> np.ndarray:
    """(p,) parameters of the covariance as fitted, the identity last, from variances as reported; or a ValueError."""
    theta = as_numbers(theta, "theta")
    layout = layout_of(covariance)
    expected = int(layout.estimated.sum())
    if theta.shape != (expected,) or not np.isfinite(theta).all() or (theta < 0).any():
        raise ValueError(
            f"theta: expected {layout.num_genetic} genetic and {expected - layout.num_genetic} residual variances, all "
            f"finite and not negative, found {theta}"
        )
    if not theta[layout.num_genetic :].max() > 0:
        raise ValueError(f"theta: expected a residual variance above 0, last, found {theta}")
    # any floor up to the least residual gives the same V where all are diagonal
    return layout.internal(theta, float(theta[layout.num_genetic :].min()))


def variant_effects(covariance, theta: np.ndarray, Py: np.ndarray) -> sparse.csr_array:
    """(m, G) effects of standardised variants, theta_g W_g Z'S_g P y, in y's units a standard deviation.

    covariance: of genotypes, theta (G,) or longer, Py (n,) as :func:`effects` gives it; u_g = S_g Z effects_g, S_g what
    scales the component (:class:`~gpu_reml.reml.scaled.ScaledCovariance`) or gives people to records, else I.  Stored
    wherever a component has weight.  A covariance has sparse ``weights`` (m, G) or a method
    ``variant_effects(theta, F)``; mixed ones need parts of the same variants; whitening by a residual is undone.
    Cost: half a pass for every part.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_covariance, make_products, pack, standardise
    >>> from gpu_reml.reml import effects, variant_effects
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.3, (200, 400)).astype(np.int8)
    >>> genotypes = standardise([pack(counts)], 200)
    >>> covariance = make_covariance(make_products(genotypes, "cpu"))
    >>> y, X = counts @ rng.standard_normal(400) / 13 + rng.standard_normal(200), np.ones((200, 1))
    >>> found = effects([1.0, 1.0], y, X, covariance, tol=1e-5)
    >>> beta = variant_effects(covariance, found.theta, found.Py)
    >>> Z = (counts - counts.mean(axis=0)) / counts.std(axis=0)
    >>> beta.shape, bool(np.allclose(Z @ beta.toarray(), found.random, atol=1e-4))
    ((400, 1), True)
    """
    covariance = as_covariance(covariance)
    if isinstance(covariance, ResidualCovariance):
        covariance = before_whitening(covariance)
    theta, Py = as_vector(theta, "theta"), as_vector(Py, "Py", covariance.num_samples)
    if isinstance(covariance, ScaledCovariance):
        return variant_effects(covariance.base, theta, covariance.scale * Py)
    if isinstance(covariance, IncidenceCovariance):
        return variant_effects(covariance.base, theta, covariance.Z.T @ Py)
    if isinstance(covariance, MixedCovariance):
        bounds = np.cumsum([0, *(part.num_components for part in covariance.parts)])
        own = [
            variant_effects(part, theta[first:last], Py)
            for part, first, last in zip(covariance.parts, bounds[:-1], bounds[1:], strict=True)
        ]
        return sparse.csr_array(sparse.hstack(own, format="csr"))
    if len(theta) < covariance.num_components:
        raise ValueError(f"theta: expected {covariance.num_components} variances or more, found {theta}")
    theta = theta[: covariance.num_components]
    Py = Py[:, None]
    scale = float(np.abs(Py).max()) or 1.0
    F = covariance.features(covariance.block(Py / scale))
    if not sparse.issparse(covariance.weights):
        return sparse.csr_array(covariance.variant_effects(theta * scale, F))
    effects_of = sparse.csr_array(covariance.weights, dtype=np.float64, copy=True)
    effects_of.data *= theta[effects_of.indices]
    return scaled_rows(effects_of, np.asarray(F, np.float64)[:, 0] * scale)


def before_whitening(covariance: ResidualCovariance):
    """The genetic components that :func:`~gpu_reml.reml.residuals.with_residuals` was given."""
    genetic = covariance.parts[0]
    return genetic if covariance.layout.root is None else genetic.base


def scaled_rows(A: sparse.csr_array, scale: np.ndarray) -> sparse.csr_array:
    """diag(scale) A with the entries of A, zero or not."""
    return sparse.csr_array((A.data * np.repeat(scale, np.diff(A.indptr)), A.indices, A.indptr), shape=A.shape)


def allele_effects(standardised: sparse.csr_array, inv_sd: np.ndarray) -> sparse.csr_array:
    """(m, G) effects of one more copy of a1, from those of a standard deviation and 1 / SD of the count (m,).

    >>> import numpy as np
    >>> from scipy import sparse
    >>> from gpu_reml.reml import allele_effects
    >>> allele_effects(sparse.csr_array([[0.1], [0.3]]), np.array([2.0, 1.0])).toarray().ravel().tolist()
    [0.2, 0.3]
    """
    standardised = as_sparse(standardised, "standardised")
    return scaled_rows(standardised, as_vector(inv_sd, "inv_sd", standardised.shape[0]))


def allele_intercept(effects_of_alleles: sparse.csr_array, mean: np.ndarray) -> np.ndarray:
    """(G,) - sum_j beta_j mean_j: what makes sums of counts times effects into genetic values.

    >>> import numpy as np
    >>> from scipy import sparse
    >>> from gpu_reml.reml import allele_intercept
    >>> allele_intercept(sparse.csr_array([[0.5], [0.25]]), np.array([1.0, 2.0])).tolist()
    [-1.0]
    """
    effects_of_alleles = as_sparse(effects_of_alleles, "effects_of_alleles")
    return -(effects_of_alleles.T @ as_vector(mean, "mean", effects_of_alleles.shape[0]))


def fixed_tests(fixed: FixedEffects, num_samples: int) -> FixedTests:
    """Tests of the fixed effects, each alone, on n samples; ValueError where they leave no degree of freedom.

    >>> import numpy as np
    >>> from gpu_reml.reml import effects, fixed_tests
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> X, K = np.ones((200, 1)), Z @ Z.T / 400
    >>> found = fixed_tests(effects([1.0, 1.0], y, X, K).fixed, 200)
    >>> found.df, found.p.shape
    (199, (1,))
    """
    as_count(num_samples, "num_samples", len(fixed.estimate) + 1)
    df = num_samples - len(fixed.estimate)
    t = fixed.estimate / fixed.se
    return FixedTests(fixed.estimate, fixed.se, t, 2 * special.stdtr(df, -np.abs(t)), df)


def reliability(
    theta: np.ndarray,
    X: np.ndarray,
    covariance,
    probes: np.ndarray,
    *,
    diagonals: np.ndarray | None = None,
    preconditioner=None,
    tol: float = 1e-4,
    at_once: int | None = None,
) -> Reliability:
    """Prediction error variances (n,) of the total genetic value, from probes (n, s); theta (G + J,) as the fit's.

    With T = sum_g theta_g K_g = V - R for the diagonal R = sum_j eta_j R_j the products T P T need P alone, so that

        PEV_i = (T - T P T)_ii = R_ii + H_ii - 2 R_ii (V^-1 H)_ii - R_ii^2 P_ii,   H = X (X'V^-1X)^-1 X'

    in which all but P_ii is exact.  P_ii is the mean of z_i (P z)_i (Bekas, Kokiopoulou & Saad 2007, Appl. Numer. Math.
    57:1214) after a control z_i (M^-1 z)_i of known mean, where a core brings a preconditioner M.  No bias; exact for
    exact probes.  Other residuals than one identity are whitened as by the fit, and PEV_i unwhitened.  diagonals
    (n, G): of every K_g as given, by default the covariance's.
    Cost: s columns a PCG step, ``at_once`` together, and c columns for the fixed effects.

    >>> import numpy as np
    >>> from gpu_reml.reml import exact_probes, reliability
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> X, K = np.ones((200, 1)), Z @ Z.T / 400
    >>> found = reliability([1.0, 1.0], X, K, exact_probes(200))
    >>> bool((found.pev < found.prior).all()), float(found.mc_se.max())
    (True, 0.0)
    """
    model = scaled_model(theta, X, covariance, preconditioner)
    probes, tol = trace_probes(probes, model.covariance.num_samples), float(as_tolerance(tol, "tol"))
    mean, mc_se = _inverse_diagonal(model, probes, tol, at_once)
    VQ = model.apply_v(model.Q_there)
    solved = solve(model.Q_there, model.apply_v, VQ, model.preconditioner, tol=min(tol, INFORMATION_TOL))
    inner = solved_inverse(model.Q_there, VQ, solved.X, solved.R)
    # V^-1 H = I - P V on the span of X, so its rows are those of (Q - P V Q) Q'
    outer = np.einsum("nc,cd,nd->n", model.Q, inner, model.Q)
    cross = np.einsum("nc,nc->n", model.Q - np.asarray(solved.X, np.float64), model.Q)
    residual, units = _residual_diagonal(model), _units(model)
    pev = (residual + outer - 2 * residual * cross - residual**2 * mean) * units
    prior = _diagonals(model, diagonals) @ model.parameters[: model.layout.num_genetic]
    return Reliability(pev, mc_se * residual**2 * units, prior)


def component_reliability(
    theta: np.ndarray,
    X: np.ndarray,
    covariance,
    probes: np.ndarray,
    *,
    diagonals: np.ndarray | None = None,
    preconditioner=None,
    tol: float = 1e-4,
    at_once: int | None = None,
) -> Reliability:
    """Prediction error variances (n, G) of every component's value: theta_g K_ii - theta_g^2 (K_g P K_g)_ii.

    The second term is the mean of z_i (K_g P K_g z)_i over probes (n, s): Bekas et al. 2007 as in :func:`reliability`,
    which is far more precise for the total, the only component of a model with one.
    Cost: G s columns a PCG step and two passes of G s columns, ``at_once`` probes together.

    >>> import numpy as np
    >>> from gpu_reml.reml import component_reliability, draw_probes
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> X, K = np.ones((200, 1)), Z @ Z.T / 400
    >>> found = component_reliability([0.5, 0.5, 1.0], X, [K, np.diag(y**2)], draw_probes(200, 16))
    >>> found.reliability.shape
    (200, 2)
    """
    model = scaled_model(theta, X, covariance, preconditioner)
    probes, tol = trace_probes(probes, model.covariance.num_samples), float(as_tolerance(tol, "tol"))
    covariance, G = model.covariance, model.layout.num_genetic
    n, s = probes.shape
    total, squares = np.zeros((n, G)), np.zeros((n, G))
    for batch in column_batches(s, at_once):
        Z = np.asarray(probes[:, batch], np.float64)
        images = covariance.apply_each(covariance.features(covariance.block(Z)))
        for g in range(G):
            PB = solve(model.Q_there, model.apply_v, images[g], model.preconditioner, tol=tol, check=False).X
            values = Z * np.asarray(covariance.apply_each(covariance.features(PB))[g], np.float64)
            total[:, g] += values.sum(axis=1)
            squares[:, g] += (values**2).sum(axis=1)
    mean, mc_se = mean_and_error(total, squares, probes)
    factor = model.theta[:G] ** 2 * np.broadcast_to(_units(model), (n,))[:, None]
    prior = _diagonals(model, diagonals) * model.parameters[:G]
    return Reliability(prior - factor * mean, factor * mc_se, prior)


def scaled_model(theta: np.ndarray, X: np.ndarray, covariance, preconditioner) -> _Scaled:
    """The model at theta (G + J,) as reported."""
    X = as_numbers(X, "X")
    covariance = as_covariance(covariance, len(X) if X.ndim else None)
    X = as_matrix(X, "X", covariance.num_samples)
    layout, parameters = layout_of(covariance), parameters_of(theta, covariance)
    scale = np.sqrt(float(parameters[:-1] @ covariance.traces) / covariance.num_samples + parameters[-1])
    if not scale > 0:
        raise ValueError(f"theta: expected a positive total variance, found {theta}")
    scaled = parameters / scale**2
    Q = orthonormal_basis(layout.whitened(X))
    preconditioner = preconditioner_at(preconditioner, scaled, scale)
    apply_v, Q_there = apply_v_at(covariance, scaled), covariance.block(Q)
    return _Scaled(covariance, layout, parameters, scaled, scale, Q, Q_there, apply_v, preconditioner)


def _units(model: _Scaled) -> float | np.ndarray:
    """What variances of whitened samples in scaled units are multiplied by, a number or (n,)."""
    return (model.scale * (1.0 if model.layout.root is None else model.layout.root)) ** 2


def _residual_diagonal(model: _Scaled) -> np.ndarray:
    """(n,) the diagonal R of the whitened model, in scaled units."""
    residual = np.full(model.covariance.num_samples, model.theta[-1])
    if model.layout.num_parts:
        residual += model.layout.parts @ model.theta[model.layout.num_genetic : -1]
    return residual


def _diagonals(model: _Scaled, diagonals: np.ndarray | None) -> np.ndarray:
    """(n, G) K_g,ii before whitening."""
    expected = (model.covariance.num_samples, model.layout.num_genetic)
    if diagonals is not None:
        diagonals = as_matrix(diagonals, "diagonals", *expected)
        stated = model.layout.mean_traces
        unlike = np.abs(diagonals.mean(axis=0) - stated) > SKEW * stated
        if unlike.any():
            g = int(np.argmax(unlike))
            name, found = model.layout.names[g], diagonals[:, g].mean()
            raise ValueError(
                f"diagonals: component {name} has a mean K_ii of {found:.6g} here, and a tr(K)/n of {stated[g]:.6g}; "
                "one of the two is not that of K"
            )
        return diagonals
    found = np.asarray(model.covariance.diagonals(), np.float64)[:, : model.layout.num_genetic]
    return found if model.layout.root is None else found * model.layout.root[:, None] ** 2


def _inverse_diagonal(
    model: _Scaled, probes: np.ndarray, tol: float, at_once: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) estimates of P_ii and their Monte-Carlo errors."""
    n, s = probes.shape
    known, preconditioner = np.zeros(n), model.preconditioner
    ours = isinstance(preconditioner, Preconditioner)  # whose inverse is known
    if ours:
        U = np.asarray(preconditioner.core.U, np.float64) @ preconditioner.vectors
        known = (1 - (model.Q**2).sum(axis=1)) / preconditioner.d
        known += U**2 @ (1 / preconditioner.eigenvalues - 1 / preconditioner.d)
    total, squares = np.zeros(n), np.zeros(n)
    for batch in column_batches(s, at_once):
        Z = np.asarray(probes[:, batch], np.float64)
        B = project(model.Q_there, model.covariance.block(Z))
        PZ = solve(model.Q_there, model.apply_v, B, preconditioner, tol=tol, check=False).X
        if ours:
            PZ = PZ - preconditioner.apply_minv(B)
        values = Z * np.asarray(PZ, np.float64)
        total += values.sum(axis=1)
        squares += (values**2).sum(axis=1)
    mean, mc_se = mean_and_error(total, squares, probes)
    return known + mean, mc_se


def mean_and_error(total: np.ndarray, squares: np.ndarray, probes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the probes and its Monte-Carlo error: 0 for exact probes, NaN for fewer than 16."""
    s = probes.shape[1]
    mean = total / s
    if probes_are_exact(probes):
        return mean, np.zeros_like(mean)
    if s < LEAST_PROBES:
        return mean, np.full_like(mean, np.nan)
    # rounding may leave a variance of zero slightly negative
    return mean, widening(s - 1) * np.sqrt(np.maximum(squares / s - mean**2, 0) / (s - 1))
