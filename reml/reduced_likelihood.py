"""Differences of log-likelihoods within a basis, and what follows from them: likelihood ratios.

The log-determinants' difference is the integral of tr(P dV) along the straight line between two thetas.  It takes the
same probes and controls as the score, at every point of a Gauss rule, so that its Monte-Carlo error is that of the
difference, known from its spread over probes; y's part has none.  That the maxima themselves err adds to a ratio only
half of their squared error in standard errors, which is left out: 0.005 a component where mc_se is a tenth of se.
"""

from typing import NamedTuple

import numpy as np

from .cross_fit import Traces, controlled_traces, inverse_controls, num_controls
from .likelihood_ratio import RatioTest, law_of_fit, others, ratio_test, tested_sets, without
from .probes import Probes
from .reduced import reduced_v
from .reduced_fit import Walk, one_round, state_at
from .reduced_model import Model, Problem
from .result import Status

NODES = 4  # of the Gauss rule to begin with
MOST_NODES = 64
QUADRATURE = 1e-6  # error of y's part of a log-likelihood, whose integral is known, at which the nodes are enough


class Difference(NamedTuple):
    """Of two log-likelihoods, with its Monte-Carlo error."""

    value: float
    mc_se: float


def loglik_difference(
    problem: Problem, model: Model, theta: np.ndarray, other: np.ndarray, trait: int = 0
) -> Difference:
    """ell(theta) - ell(other) of a trait; no pass.  Both are as good as the basis's solutions there are."""
    step = theta - other
    y = model.trait(trait)[:, 0]

    def quadratic(at):
        return y @ np.linalg.solve(reduced_v(model.basis.T, at), y)

    ypy = quadratic(theta) - quadratic(other)
    t, weights = rule(model, y, other, step, -ypy)
    per_probe, controls = 0.0, 0
    for where, weight in zip(t, weights, strict=True):
        traces = traces_at(problem, model, other + where * step)
        per_probe, controls = per_probe + weight * (step @ traces.per_probe), traces.controls
    logdet = Traces(per_probe[None], controls)
    error = 0.0 if model.exact else float(np.sqrt(logdet.covariance[0, 0]))
    return Difference(float(-0.5 * (logdet.mean[0] + ypy)), 0.5 * error)


def rule(
    model: Model, y: np.ndarray, start: np.ndarray, step: np.ndarray, known: float
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on (0, 1) that integrate y'P dV P y, whose integral is ``known``; traces of P are smoother."""
    num = NODES
    while True:
        t, weights = np.polynomial.legendre.leggauss(num)
        t, weights = (1 + t) / 2, weights / 2
        solutions = [np.linalg.solve(reduced_v(model.basis.T, start + where * step), y) for where in t]
        slopes = np.array([c @ reduced_v(model.basis.T, step) @ c for c in solutions])
        if num >= MOST_NODES or abs(weights @ slopes - known) <= 2 * QUADRATURE:
            return t, weights
        num *= 2


def traces_at(problem: Problem, model: Model, theta: np.ndarray) -> Traces:
    """tr(P K_g) and tr(P) by probe at theta, less the controls made for it; no pass."""
    T, probes = model.basis.T, model.probes
    V = reduced_v(T, theta)
    values = np.einsum("az,gaz->gz", np.linalg.solve(V, probes), model.fixed.images)
    controls = 0 if model.exact or not problem.settings.probes.control_variates else num_controls(model.num_probes)
    inverse = inverse_controls(T, V, theta, model.chains, probes, model.fixed, problem.dimension)
    return controlled_traces(values, inverse, model.fixed.off, theta, problem.dimension, controls)


def maximum(
    problem: Problem, probes: Probes, model: Model, theta: np.ndarray, estimated: np.ndarray, trait: int = 0
) -> tuple[Model, Walk]:
    """The highest likelihood of a trait from theta along what is ``estimated``, as
    :func:`~gpu_reml.reml.step.ai_step` takes it, with the probes of the model, whose basis grows until it answers."""
    own = Probes(probes.trace[:, : model.num_probes], probes.sketch)
    problem = problem._replace(directions=estimated)
    state = state_at(problem, model, theta, trait)
    while state.lead is not None:
        state = one_round(problem, own, state, np.ones(problem.num_traits))
    return state.model, state.walks[0]


def reduced_ratio_tests(problem: Problem, probes: Probes, model: Model, walk: Walk) -> tuple[RatioTest, ...]:
    """The tests that the settings ask for, at the end of a trait's fit; each extends the basis for those after it."""
    tests, layout, theta = [], problem.layout, walk.theta
    for tested in tested_sets(problem.settings.lrt, layout.names):
        names, end, difference = [layout.names[g] for g in tested], walk, Difference(0.0, 0.0)
        if (theta[tested] != 0).any():
            model, end = maximum(problem, probes, model, without(theta, tested), others(layout, tested), walk.trait)
            difference = loglik_difference(problem, model, theta, end.theta, walk.trait)
            if end.status is not Status.CONVERGED:
                difference = Difference(np.nan, np.nan)
        law = law_of_fit(end.point.ai, layout, end.theta, problem.lower, tested)
        tests.append(ratio_test(names, 2 * difference.value, 2 * difference.mc_se, law))
    return tuple(tests)
