"""From traits to their results by the reduced model: begin or resume, go round, and report at the end.

Cost of the end: Lanczos steps of s columns for the log-determinant, few, as each fold is preconditioned by the other's
chain; G + 1 columns of solves for the last information, which start from the basis; c + 1 for the fixed effects.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from . import likelihood
from .covariance import CountingCovariance
from .cross_fit import FOLDS, fold_of
from .hooks import Hooks
from .lanczos import quadrature_of_trace, regression_slope
from .linalg import Block, columns, gram, project, take_columns
from .memory import CHECKED
from .moments import Moments
from .monte_carlo import error_of_mean
from .null import lrt_weights, null_loglik
from .pcg import BreakdownError, PcgResult
from .precondition import Preconditioner, ProjectedCore, precondition
from .probes import Probes, probes_are_exact
from .profile import with_profiles
from .reduced import Basis, combined, coordinates, empty_basis, extended, reduced_v
from .reduced_fit import State, Walk, ended, first_state, mc_covariance
from .reduced_likelihood import reduced_ratio_tests
from .reduced_model import Model, Problem, dealt, first_model, prepare
from .reduced_profile import reduced_curves
from .result import ConvergenceError, Estimate, FitResult, FixedEffects, Status, fixed_effects_of, make_result
from .settings import FitSettings
from .traits import Traits


class SavedBasis(NamedTuple):
    """A :class:`State` between two rounds without what its products give again to the same bits."""

    pieces: tuple[np.ndarray, ...]
    chains: tuple[np.ndarray, ...]
    num_probes: int
    walks: tuple[Walk, ...]
    active: np.ndarray | None
    rounds: int
    moments: Moments
    column_passes: float


def saved(problem: Problem, state: State) -> SavedBasis:
    """What to keep of a fit that goes on."""
    model = state.model
    named = (walk._replace(status=walk.status and walk.status.name) for walk in state.walks)
    return SavedBasis(
        model.basis.U,
        model.chains,
        model.num_probes,
        tuple(named),
        state.active,
        state.rounds,
        problem.moments,
        problem.covariance.column_passes,
    )


def restored(value: SavedBasis, traits: Traits, covariance: CountingCovariance, probes: Probes, settings: FitSettings):
    """(problem, state) that were saved, with the features of the basis computed again."""
    problem = prepare(covariance, traits, probes, settings, value.moments)
    basis = empty_basis(covariance.num_components)
    for piece in value.pieces:
        basis = extended(covariance, basis, covariance.block(piece))
    Z = project(problem.Q, covariance.block(probes.trace[:, : value.num_probes]))
    B, exact = columns(problem.Y, Z), probes_are_exact(probes.trace)
    model = Model(basis, value.chains, B, coordinates(basis, B), None, problem.num_traits, exact)
    covariance.column_passes = value.column_passes
    return problem, State(
        dealt(problem, model),
        tuple(going_on(walk, covariance) for walk in value.walks),
        value.active,
        value.rounds,
    )


def going_on(walk: Walk, covariance: CountingCovariance) -> Walk:
    """A walk as it was before it was saved."""
    off = walk.off._replace(R=covariance.block(walk.off.R))
    return walk._replace(off=off, status=walk.status and Status[walk.status])


def reduced_fits(
    traits: Traits,
    covariance: CountingCovariance,
    probes: Probes,
    settings: FitSettings,
    hooks: Hooks,
    start: np.ndarray | None = None,
) -> list[FitResult]:
    """REML fits of traits of the same samples with any number of components.

    start: theta (G + J,) in the phenotypes' units squared.  ``column_passes`` of every result are those of all.  The
    callback gets the records of the trait that leads.  Raises SingularInformationError when components cannot be told
    apart.
    """
    if hooks.resume is None:
        problem = prepare(covariance, traits, probes, settings)
        start = None if start is None else [started(problem, start / scale**2) for scale in traits.scales]
        state = first_state(problem, first_model(problem, probes), start)
    else:
        problem, state = restored(hooks.resume, traits, covariance, probes, settings)
    state = ended(problem, probes, state, traits.scales, hooks, lambda state: hooks.save(saved(problem, state)))
    if not (settings.lrt or settings.profile):  # the features, whose memory is free from here, are of no more use
        state = with_vectors(state, state.model.basis.U, ())
    state = with_vectors(state, (columns(*state.model.basis.U),), state.model.basis.F)
    walks = sorted(state.walks, key=lambda walk: walk.trait)
    results = [finished(problem, state.model, walk, traits.only(walk.trait)) for walk in walks]
    tests = [reduced_ratio_tests(problem, probes, state.model, walk) for walk in walks]
    results = [
        with_profiles(result, reduced_curves(problem, state.model, walk, result.covariance / scale**4), scale)
        for result, walk, scale in zip(results, walks, traits.scales, strict=True)
    ]
    return [
        replace(result, column_passes=covariance.column_passes, ratio_tests=test)
        for result, test in zip(results, tests, strict=True)
    ]


def with_vectors(state: State, U: tuple[Block, ...], F: tuple) -> State:
    """The state with the vectors of the basis and its features in these pieces."""
    basis = Basis(U, F, state.model.basis.T)
    return state._replace(model=state.model._replace(basis=basis))


def started(problem: Problem, start: np.ndarray) -> np.ndarray:
    """Start values (p,) that a caller gave, for a trait of unit variance."""
    theta = problem.layout.internal(np.asarray(start, np.float64), problem.settings.residual_floor)
    return np.maximum(theta, problem.lower)


def finished(problem: Problem, model: Model, walk: Walk, trait: Traits) -> FitResult:
    """:func:`finish`; a ConvergenceError where V is not positive definite off the basis."""
    try:
        return finish(problem, model, walk, trait)
    except BreakdownError as error:
        negative = [name for name, value in zip(problem.layout.names, walk.theta, strict=False) if value < 0]
        if not negative:
            raise
        raise ConvergenceError(
            f"component {', '.join(negative)}: without bounds the likelihood rises to where the covariance is no "
            "longer positive definite; fit with the bounds (FitSettings.constrain), or leave it out"
        ) from error


def core_of(problem: Problem, basis: Basis, S: np.ndarray, theta: np.ndarray) -> ProjectedCore:
    """The preconditioner on the span of U S, for orthonormal S (d, r); no pass."""
    cores = np.stack([S.T @ t @ S for t in basis.T])
    U = combined(basis.U, S)
    return ProjectedCore(U, cores, problem.traces, problem.dimension, theta[:-1])


def log_determinant(problem: Problem, model: Model, theta: np.ndarray) -> tuple[float, float]:
    """log|A'VA| and its Monte-Carlo error: tr log(M^-1/2 V M^-1/2) + log|M|, each fold with the other's chain for M.

    The basis holds M^-1/2 z as it holds z, so that z'log(.)z is small algebra within it, which errs on one side by a
    fraction of the last residuals; Lanczos quadrature of a few probes measures that.  (With a chain of its own a
    probe's quadrature would be biased.)  Fewer probes than that takes: their quadrature, without M.  Exact probes span
    all that there is.
    """
    V = reduced_v(model.basis.T, theta)
    if model.exact:
        return float(np.linalg.slogdet(V)[1]), 0.0
    apply_a = likelihood.on_complement(problem.Q, likelihood.apply_v_at(problem.covariance, theta))
    Z, folds = model.probe_block(), fold_of(model.num_probes)
    options = {"tol": problem.settings.solver.quadrature, "at_once": problem.settings.probes.columns}
    limit = min(likelihood.MAX_LANCZOS, len(Z))
    if model.num_probes < 2 * FOLDS:
        found = quadrature_of_trace(apply_a, Z, np.log, limit, **options)
        return found.estimate, found.mc_se
    values, controls, off = np.empty(model.num_probes), np.empty(model.num_probes), []
    for fold in range(FOLDS):
        mine = np.flatnonzero(folds == fold)
        preconditioner = precondition(core_of(problem, model.basis, model.chains[1 - fold], theta), theta)
        half = half_power(preconditioner, model.chains[1 - fold])
        balanced = half @ V @ half
        z = model.probes[:, mine]
        controls[mine] = np.einsum("az,az->z", z, balanced @ z) - problem.dimension
        values[mine] = quadratic_logs(balanced, z) + preconditioner.logdet
        few = mine[:CHECKED]
        checked = quadrature_of_trace(preconditioner.balanced(apply_a), take_columns(Z, few), np.log, limit, **options)
        off.append(checked.per_probe + preconditioner.logdet - values[few])
    values = values - regression_slope(values, controls) * controls
    off = np.concatenate(off)
    checked = off.std(ddof=1) / np.sqrt(len(off))
    return float(values.mean() + off.mean()), float(np.hypot(error_of_mean(values, 1), checked))


def half_power(preconditioner: Preconditioner, S: np.ndarray) -> np.ndarray:
    """(d, d) M^-1/2 within the basis, of which M's own is the part S (d, r)."""
    X, off = S @ preconditioner.vectors, preconditioner.d**-0.5
    return off * np.eye(len(S)) + (X * (preconditioner.eigenvalues**-0.5 - off)) @ X.T


def quadratic_logs(A: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(s,) z'log(A)z for the columns of z."""
    values, vectors = np.linalg.eigh(A)
    return np.log(values) @ (vectors.T @ z) ** 2


def finish(problem: Problem, model: Model, walk: Walk, trait: Traits) -> FitResult:
    """Likelihood, information and fixed effects at the final theta, in the phenotype's units."""
    covariance, Q, solver = problem.covariance, problem.Q, problem.settings.solver
    theta, scale, most = walk.theta, float(trait.scales[0]), solver.max_iterations
    apply_v = likelihood.apply_v_at(covariance, theta)
    U = model.basis.U[0] if len(model.basis.U) == 1 else columns(*model.basis.U)
    whole = precondition(ProjectedCore(U, model.basis.T, problem.traces, problem.dimension, theta[:-1]), theta)
    V = reduced_v(model.basis.T, theta)
    y = take_columns(problem.Y, slice(walk.trait, walk.trait + 1))

    def solve(B: Block, tol: float) -> PcgResult:
        """P B: the basis's own solution where it is complete, else by PCG from there."""
        B = project(Q, B)
        X = combined(model.basis.U, np.linalg.solve(V, coordinates(model.basis, B)))
        if model.basis.size < problem.dimension:
            return likelihood.solve(Q, apply_v, B, whole, tol=tol, X0=X, max_iterations=most, check=False)
        k = B.shape[1]
        return PcgResult(X, project(Q, B - apply_v(X)), np.zeros(k), np.zeros(k, int), np.ones(k, bool))

    logdet, logdet_se = log_determinant(problem, model, theta)
    contrasts = problem.dimension * np.log(2 * np.pi)
    last = solve(y, solver.final)
    Py = last.X
    ypy = (gram(y, Py) + gram(Py, last.R)).item()  # errs by the square of the solve's error
    loglik = -0.5 * (logdet + ypy + contrasts)
    F = project(Q, likelihood.component_images(covariance, Py))
    found = solve(F, solver.information)
    ai = likelihood.ai_matrix(F, found.X, found.R)
    mc = mc_covariance(problem, model.exact, walk.point._replace(ai=ai))
    estimate = Estimate(
        theta=theta,
        score=walk.point.score,
        ai=ai,
        mc=mc,
        free=problem.free(theta),
        loglik=loglik,
        loglik_mc_se=0.5 * logdet_se,
        weights=lrt_weights(problem.layout, problem.moments.T, constrain=problem.settings.constrain),
        ratio=problem.mc_ratio(theta, ai, mc),
        fixed_effects=fixed_effects(problem, solve, theta, Py, trait),
        loglik_null=null_loglik(covariance, trait, problem.settings),
    )
    return make_result(
        covariance,
        trait.X,
        scale,
        estimate,
        status=walk.status,
        num_probes=walk.point.num_probes,
        mc_target=problem.settings.probes.mc_target,
        rank=model.basis.size,
        column_passes=covariance.column_passes,
        history=walk.history,
        method="reduced",
        constrained=problem.settings.constrain,
    )


def fixed_effects(
    problem: Problem, solve: Callable[[Block, float], PcgResult], theta: np.ndarray, Py: Block, trait: Traits
) -> FixedEffects:
    """Generalised least squares from X b = y - V P y and X (X'V^-1X)^-1 X' = V - V P V; c + 1 columns.

    solve(B, tol) is P B at theta.
    """
    Q, scale = problem.Q, float(trait.scales[0])
    images = likelihood.apply_v_at(problem.covariance, theta)(columns(Py, Q))
    VPy, VQ = images[:, :1], images[:, 1:]
    solved = solve(VQ, 1e-3)
    inner = likelihood.fixed_inverse(Q, VQ, solved.X, solved.R)
    fitted = trait.Q.T @ trait.Y - scale * gram(Q, VPy)
    return fixed_effects_of(trait.X, trait.Q, fitted[:, 0], inner * scale**2)
