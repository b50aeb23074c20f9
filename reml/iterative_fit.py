"""From a trait to its result with any number of components: begin or resume, iterate, and report at the end.

Cost of the end: s Lanczos steps for the log-determinant, G + 1 columns for the last information, c + 1 for the fixed
effects.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import likelihood
from .covariance import CountingCovariance
from .hooks import Hooks
from .iterative import (
    Evaluation,
    FitState,
    Loop,
    Problem,
    free_parameters,
    init,
    iterate,
    make_images,
    mc_covariance,
    prepare,
)
from .linalg import Block, columns, coordinates, gram, project
from .moments import Moments
from .null import lrt_weights, null_loglik
from .pcg import PcgResult
from .precondition import ProjectedCore, complement_traces, precondition
from .probes import Probes, probes_are_exact
from .result import Estimate, FitResult, FixedEffects, Record, make_result
from .settings import FitSettings
from .step import Step
from .traits import Traits

LAST_INFORMATION = 0.03  # residual of the last solves for the information, which then errs by 1e-3


class Saved(NamedTuple):
    """A :class:`Loop` between two iterations without what its products give again to the same bits."""

    theta: np.ndarray
    batches: tuple[int, ...]
    last: Evaluation | None
    step: Step | None
    halvings: int
    moments: Moments
    basis: np.ndarray
    cores: np.ndarray
    core_theta: np.ndarray
    core_tried: bool
    history: tuple[Record, ...]
    column_passes: float


def saved(loop: Loop) -> Saved:
    """What to keep of a loop that goes on."""
    problem, state, core = loop.problem, loop.state, loop.problem.core
    walk = (state.theta, state.batches, state.last, state.step, state.halvings)
    passes = problem.covariance.column_passes
    return Saved(*walk, problem.moments, core.U, core.cores, core.theta_g, problem.core_tried, loop.history, passes)


def restored(value: Saved, traits: Traits, covariance: CountingCovariance, probes: Probes, settings) -> Loop:
    """The loop that was saved, with the probes' products computed again."""
    Q, y = covariance.block(traits.Q), covariance.block(traits.scaled)
    traces = complement_traces(covariance, Q)
    dimension = len(Q) - Q.shape[1]
    core = ProjectedCore(covariance.block(value.basis), value.cores, traces, dimension, value.core_theta)
    lower = np.append(np.zeros(covariance.num_components), settings.residual_floor)
    problem = Problem(covariance, Q, y, lower, value.moments, core, settings, value.core_tried)
    images = make_images(problem, probes, value.batches)
    covariance.column_passes = value.column_passes
    last = value.last
    if last is not None:
        last = last._replace(PB=covariance.block(last.PB), PF=covariance.block(last.PF))
    state = FitState(value.theta, images, value.batches, last, value.step, value.halvings)
    return Loop(problem, state, value.history)


def iterative_fit(
    traits: Traits,
    covariance: CountingCovariance,
    probes: Probes,
    settings: FitSettings,
    hooks: Hooks,
    start: np.ndarray | None = None,
) -> FitResult:
    """REML fit of one trait with any number of components.

    start: theta (G + 1,) in the phenotype's units squared.  Raises SingularInformationError when components cannot be
    told apart.
    """
    scale = float(traits.scales[0])
    if hooks.resume is None:
        problem = prepare(covariance, traits, probes, settings)
        if start is not None:
            start = problem.layout.internal(np.asarray(start, np.float64) / scale**2, settings.residual_floor)
        loop = Loop(problem, init(problem, probes, start))
    else:
        loop = restored(hooks.resume, traits, covariance, probes, settings)
    while loop.status is None:
        hooks.save(saved(loop))
        loop = iterate(loop, probes, scale)
        hooks.report(loop.history[-1])
    return finish(loop, probes, traits)


def finish(loop: Loop, probes: Probes, traits: Traits) -> FitResult:
    """Likelihood, information and fixed effects at the final theta, in the phenotype's units."""
    problem, state, here = loop.problem, loop.state, loop.here
    covariance, Q, solver = problem.covariance, problem.Q, problem.settings.solver
    theta, s, scale = state.theta, state.images.Z.shape[1], float(traits.scales[0])
    preconditioner = precondition(problem.core, theta)
    apply_v = likelihood.apply_v_at(covariance, theta)
    exact = probes_are_exact(probes.trace)
    likely = likelihood.loglik_of_contrasts(
        Q,
        problem.y,
        state.images.Z,
        apply_v,
        preconditioner=preconditioner,
        tol=solver.final,
        quadrature={
            "tol": solver.quadrature,
            "mc_share": 0.0 if exact else 0.05,
            "at_once": problem.settings.probes.columns,
        },
        Py0=here.PB[:, :1],
    )

    def solve(B: Block, tol: float) -> PcgResult:
        return likelihood.solve(Q, apply_v, B, preconditioner, tol=tol, check=False)

    F = project(Q, likelihood.component_images(covariance, likely.Py))
    information = min(solver.information, LAST_INFORMATION)
    solved = likelihood.solve(Q, apply_v, F, preconditioner, tol=information, X0=here.PF, check=False)
    ai = likelihood.ai_matrix(F, solved.X, solved.R)
    mc = mc_covariance(problem, probes, theta, ai, here.traces)
    found = Estimate(
        theta=theta,
        score=here.score,
        ai=ai,
        mc=mc,
        free=free_parameters(problem, theta),
        loglik=likely.value,
        loglik_mc_se=0.0 if exact else likely.mc_se,
        weights=lrt_weights(problem.layout, problem.moments.T),
        ratio=problem.mc_ratio(theta, ai, mc),
        fixed_effects=fixed_effects(problem, solve, theta, likely.Py, traits),
        loglik_null=null_loglik(covariance, traits, problem.settings),
    )
    return make_result(
        covariance,
        traits.X,
        scale,
        found,
        status=loop.status,
        num_probes=s,
        mc_target=problem.settings.probes.mc_target,
        rank=problem.core.rank,
        column_passes=covariance.column_passes,
        history=loop.history,
    )


def fixed_effects(
    problem, solve: Callable[[Block, float], PcgResult], theta: np.ndarray, Py: Block, traits: Traits
) -> FixedEffects:
    """Generalised least squares from X b = y - V P y and X (X'V^-1X)^-1 X' = V - V P V; c + 1 columns.

    solve(B, tol) is P B at theta; ``problem`` has the covariance and Q.
    The second identity needs solves in the complement of X only (Searle, Casella & McCulloch 1992, App. M).
    """
    covariance, Q = problem.covariance, problem.Q
    apply_v = likelihood.apply_v_at(covariance, theta)
    images = apply_v(columns(Py, Q))
    VPy, VQ = images[:, :1], images[:, 1:]
    scale = float(traits.scales[0])
    solved = solve(VQ, 1e-3)
    inner = likelihood.fixed_inverse(Q, VQ, solved.X, solved.R)
    to_columns = coordinates(traits.X, traits.Q)
    fitted = traits.Q.T @ traits.Y - scale * gram(Q, VPy)
    cov = to_columns @ inner @ to_columns.T * scale**2
    return FixedEffects((to_columns @ fitted)[:, 0], (cov + cov.T) / 2)
