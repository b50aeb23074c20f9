"""From traits to their results by the reduced model: begin or resume, go round, and report at the end.

Cost of the end: Lanczos steps of s columns for the log-determinant, few, as each fold is preconditioned by the other's
chain; half a pass of G + 1 columns for the last information; c + 1 columns of solves for the fixed effects.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .. import likelihood
from ..covariance import CountingCovariance, Covariance
from ..cross_fit import FOLDS, fold_of
from ..formulas import restricted_loglik
from ..hooks import Hooks
from ..lanczos import quadrature_of_trace, regression_slope
from ..least_squares import FixedEffects, fixed_effects, solved_inverse
from ..linalg import Block, columns, gram, project, take_columns
from ..moments import Moments
from ..monte_carlo import error_of_mean
from ..pcg import BreakdownError, PcgResult
from ..precondition import Preconditioner, ProjectedCore, precondition
from ..probes import Probes
from ..profile import with_profiles
from ..result import ConvergenceError, Estimate, FitResult, make_result
from ..settings import FitSettings
from ..traits import Traits
from .memory import CHECKED
from .null import lrt_weights, null_loglik
from .reduced import (
    Basis,
    combined,
    coordinates,
    empty_basis,
    extended,
    reduced_v,
)
from .reduced_fit import NO_PROBES, Checked, State, ended, state_at
from .reduced_likelihood import reduced_ratio_tests
from .reduced_model import Model, Problem, dealt, first_model, most_basis, prepare
from .reduced_profile import reduced_curves
from .reduced_search import Walk, known_better

ROOM = 0.6  # share of the most that a basis may have, up to which further traits start from it


class SavedBasis(NamedTuple):
    """A :class:`Model` without what its products give again to the same bits."""

    pieces: tuple[np.ndarray, ...]
    chains: tuple[np.ndarray, ...]
    num_probes: int


class SavedFits(NamedTuple):
    """Fits between two rounds: the ``base`` from which further traits start, if from any, the results of those that
    have ended, and the :class:`State` of the one that goes on."""

    base: SavedBasis | None
    results: tuple[FitResult, ...]
    model: SavedBasis
    walk: Walk
    active: np.ndarray | None
    rounds: int
    ahead: bool
    checked: Checked | None
    moments: Moments
    column_passes: float


class FitsSoFar(NamedTuple):
    """What all traits have so far: see :class:`SavedFits`; ``state`` of the trait that goes on, None for its start."""

    problem: Problem
    base: Model | None
    results: tuple[FitResult, ...]
    state: State | None


def saved(progress: FitsSoFar, state: State) -> SavedFits:
    """What to keep of fits that go on."""
    base, problem = progress.base, progress.problem
    return SavedFits(
        None if base is None else basis_of(base),
        progress.results,
        basis_of(state.model),
        state.walk,
        state.active,
        state.rounds,
        state.ahead,
        state.checked,
        problem.moments,
        problem.covariance.column_passes,
    )


def basis_of(model: Model) -> SavedBasis:
    """What to keep of a model."""
    return SavedBasis(model.basis.U, model.chains, model.num_probes)


def restored(value: SavedFits, traits: Traits, covariance: Covariance, probes: Probes, settings: FitSettings):
    """The progress that was saved, with the features of the basis computed again, which counts for no pass."""
    problem = prepare(covariance, traits, probes, settings, value.moments)
    base = None if value.base is None else model_of(problem, probes, value.base)
    off = value.walk.off
    off = off._replace(residual=covariance.block(off.residual), images=covariance.block(off.images))
    walk = value.walk._replace(off=off)
    model = model_of(problem, probes, value.model)
    state = State(model, walk, value.active, value.rounds, value.ahead, value.checked)
    problem = problem._replace(covariance=CountingCovariance(covariance, before=value.column_passes))
    return FitsSoFar(problem, base, value.results, state)


def model_of(problem: Problem, probes: Probes, value: SavedBasis) -> Model:
    """The model that was saved; half a pass of every vector."""
    covariance = problem.covariance
    basis = empty_basis(covariance.num_components)
    for piece in value.pieces:
        basis = extended(covariance, basis, covariance.block(piece))
    Z = project(problem.Q, covariance.block(probes.trace[:, : value.num_probes]))
    B = columns(problem.Y, Z)
    return dealt(problem, Model(basis, value.chains, B, coordinates(basis, B), None, problem.num_traits))


def reduced_fits(
    traits: Traits,
    covariance: Covariance,
    probes: Probes,
    settings: FitSettings,
    hooks: Hooks,
    start: np.ndarray | None = None,
) -> list[FitResult]:
    """REML fits of traits of the same samples with any number of components.

    The trait of the least residual comes first, since it asks most of the basis, from which the others start where that
    pays (:func:`serves_as_base`).  start: theta (G + J,) in the phenotypes' units squared.  ``column_passes`` of every
    result are those of all.  Raises SingularInformationError when components cannot be told apart.
    """
    if hooks.resume is None:
        progress = FitsSoFar(prepare(CountingCovariance(covariance), traits, probes, settings), None, (), None)
    else:
        progress = restored(hooks.resume, traits, covariance, probes, settings)
    problem = progress.problem
    order = sorted(range(problem.num_traits), key=lambda trait: problem.start(trait)[-1])
    for trait in order[len(progress.results) :]:
        theta = problem.start(trait) if start is None else started(problem, start / traits.scales[trait] ** 2)
        progress = with_trait(progress, probes, traits.only(trait), trait, theta, hooks)
    results = [progress.results[order.index(trait)] for trait in range(problem.num_traits)]
    return [replace(result, column_passes=problem.covariance.column_passes) for result in results]


def with_trait(
    progress: FitsSoFar, probes: Probes, only: Traits, trait: int, theta: np.ndarray, hooks: Hooks
) -> FitsSoFar:
    """The progress after one more trait, from theta unless it is under way."""
    problem, base, state = progress.problem, progress.base, progress.state
    if state is None and base is None:
        state = state_at(problem, first_model(problem, probes), theta, trait)
    elif state is None:
        state = state_at(problem, base, theta, trait)._replace(active=NO_PROBES)
    scale = float(only.scales[0])
    state = ended(problem, probes, state, scale, hooks, lambda state: hooks.save(saved(progress, state)))
    model, walk, state = state.model, state.walk, None
    if base is None and problem.num_traits > 1 and serves_as_base(problem, model):
        base = model
    walk = with_information(problem, model, walk)
    if not (problem.settings.lrt or problem.settings.profile):
        model = without_features(model)
    result = finished(problem, model, walk, only)
    curves = reduced_curves(problem, model, walk, result.covariance / scale**4)
    result = with_profiles(result, curves, scale)
    result = replace(result, ratio_tests=reduced_ratio_tests(problem, probes, model, walk))
    return FitsSoFar(problem, base, (*progress.results, result), None)


def with_information(problem: Problem, model: Model, walk: Walk) -> Walk:
    """The walk with all that is known of its end."""
    return walk if walk.point.mc is not None else known_better(problem, model, walk)


def without_features(model: Model) -> Model:
    """The model with its vectors in one piece, and without their features, whose memory is then free."""
    return model._replace(basis=Basis((columns(*model.basis.U),), (), model.basis.T))


def serves_as_base(problem: Problem, model: Model) -> bool:
    """Whether further traits are to start from this basis, in which they take half the passes: there is room for what
    they add, and passes of so many samples cost more than the algebra of a basis half as large again.  (With 5,000
    people and a basis of 600 the algebra costs more: 10.4 CPU seconds a trait from the basis, 7.2 alone.)"""
    size = model.basis.size
    return size <= ROOM * most_basis(problem, model.B.shape[1]) and problem.dimension**2 >= 0.5 * size**3


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


def preconditioner_on(problem: Problem, basis: Basis, theta: np.ndarray, S: np.ndarray | None = None) -> Preconditioner:
    """V(theta) on the span of U S, for orthonormal S (d, r), None for that of U, and its mean off it; no pass."""
    genetic, trace = basis.T.weighted(theta[:-1]), np.array([theta[:-1] @ problem.traces])
    if S is None:
        U = basis.U[0] if len(basis.U) == 1 else columns(*basis.U)
    else:
        U, genetic = combined(basis.U, S), S.T @ genetic @ S
    core = ProjectedCore(U, genetic[None], trace, problem.dimension, np.ones(1))
    return precondition(core, np.array([1.0, theta[-1]]))


def log_determinant(problem: Problem, model: Model, theta: np.ndarray) -> tuple[float, float]:
    """log|A'VA| and its Monte-Carlo error: tr log(M^-1/2 V M^-1/2) + log|M|, each fold with the other's chain for M.

    The basis holds M^-1/2 z as it holds z, so that z'log(.)z is small algebra within it, which errs on one side by a
    fraction of the last residuals; Lanczos quadrature of a few probes measures that.  (With a chain of its own a
    probe's quadrature would be biased.)  Fewer probes than that takes: their quadrature, without M.  A complete
    basis needs neither.
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
        preconditioner = preconditioner_on(problem, model.basis, theta, model.chains[1 - fold])
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
    """Likelihood and fixed effects at the end of a walk, in the phenotype's units."""
    covariance, Q, solver = problem.covariance, problem.Q, problem.settings.solver
    theta, scale, most = walk.theta, float(trait.scales[0]), solver.max_iterations
    apply_v = likelihood.apply_v_at(covariance, theta)
    whole = preconditioner_on(problem, model.basis, theta)
    V = reduced_v(model.basis.T, theta)
    y = take_columns(problem.Y, slice(walk.trait, walk.trait + 1))

    def solve(B: Block, tol: float) -> PcgResult:
        """P B: the basis's own solution where it is complete, else by PCG from there."""
        B = project(Q, B)
        X = combined(model.basis.U, np.linalg.solve(V, coordinates(model.basis, B)))
        if not model.exact:
            return likelihood.solve(Q, apply_v, B, whole, tol=tol, X0=X, max_iterations=most, check=False)
        k = B.shape[1]
        return PcgResult(X, project(Q, B - apply_v(X)), np.zeros(k), np.zeros(k, int), np.ones(k, bool))

    logdet, logdet_se = log_determinant(problem, model, theta)
    last = solve(y, solver.final)
    Py = last.X
    ypy = (gram(y, Py) + gram(Py, last.R)).item()  # errs by the square of the solve's error
    loglik = restricted_loglik(logdet, ypy, problem.dimension)
    ai, mc = walk.point.ai, walk.point.mc
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
        fixed_effects=effects_of(problem, solve, theta, Py, trait),
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


def effects_of(
    problem: Problem, solve: Callable[[Block, float], PcgResult], theta: np.ndarray, Py: Block, trait: Traits
) -> FixedEffects:
    """Generalised least squares; c + 1 columns.

    solve(B, tol) is P B at theta.
    """
    Q = problem.Q
    images = likelihood.apply_v_at(problem.covariance, theta)(columns(Py, Q))
    VPy, VQ = images[:, :1], images[:, 1:]
    solved = solve(VQ, 1e-3)
    return fixed_effects(trait, gram(Q, VPy)[:, 0], solved_inverse(Q, VQ, solved.X, solved.R))
