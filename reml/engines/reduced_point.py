"""What a basis says of one theta: score and information of a trait, and what is off the basis."""

from typing import NamedTuple

import numpy as np

from ..cross_fit import Traces, controlled_traces, inverse_controls, num_controls
from ..linalg import Block, column_dots, columns, gram, project, symmetric, take_columns, times
from .reduced import (
    Solved,
    combined,
    coordinates,
    outside,
    reduced_v,
    residuals,
    solved,
    tail_mean,
)
from .reduced_model import Model, Problem

MOST_GROWTH = 4  # of a variance in one round; all may grow to the total, as some start near zero


class Outside(NamedTuple):
    """What lies off the basis at one theta: the true ``residual`` (n, 1) of y, beside its ``energy`` y'P y.

    And of K_g P y, by a basis of ``size`` vectors at a ``theta`` that may be another: ``images`` (n, G) with their Gram
    matrix (G, G), and ``forms`` (G,) y'P K_g P y within that basis.
    """

    residual: Block
    energy: float
    theta: np.ndarray
    images: Block
    gram: np.ndarray
    forms: np.ndarray
    size: int


class Point(NamedTuple):
    """What the basis says of one theta.  ``mc`` (p, p): the Monte-Carlo covariance of theta, once it has been found."""

    theta: np.ndarray
    score: np.ndarray
    ai: np.ndarray
    traces: Traces
    mc: np.ndarray | None = None

    @property
    def num_probes(self) -> int:
        return self.traces.per_probe.shape[1]


def off_the_basis(problem: Problem, model: Model, theta: np.ndarray, trait: int = 0) -> Outside:
    """What is off the basis at theta; half a pass of a column, times the overlap."""
    T, y = model.basis.T, model.trait(trait)
    c = np.linalg.solve(reduced_v(T, theta), y)
    images = problem.covariance.apply_each(combined(model.basis.F, c))
    off = outside(model.basis, project(problem.Q, columns(*(image[:, :1] for image in images))))
    residual, energy = times(off, -theta[:-1, None]), float(y[:, 0] @ c[:, 0])
    return Outside(residual, energy, theta, off, gram(off, off), T.images(c[:, 0]) @ c[:, 0], model.basis.size)


def residual_near(problem: Problem, model: Model, known: Outside, theta: np.ndarray, trait: int) -> Outside:
    """What is off the basis at theta, with the images that are ``known``; half a pass of a column."""
    R, energy = y_residual(problem, model, theta, trait)
    off = outside(model.basis, known.images)
    return known._replace(residual=R, energy=energy, images=off, gram=gram(off, off))


def y_residual(problem: Problem, model: Model, theta: np.ndarray, trait: int) -> tuple[Block, float]:
    """A trait's true residual (n, 1) at theta, and y'P y; half a pass of a column."""
    y = model.trait(trait)
    c = np.linalg.solve(reduced_v(model.basis.T, theta), y)
    Y = take_columns(model.B, slice(trait, trait + 1))
    return residuals(problem.covariance, problem.Q, model.basis, theta, Y, c, None), float(y[:, 0] @ c[:, 0])


def y_error(problem: Problem, model: Model, residual: Block, energy: float, theta: np.ndarray) -> float:
    """Relative error of P y at theta in the norm of V, from its residual there and y'P y; 0 in a complete basis."""
    if model.exact:
        return 0.0
    tail = tail_mean(model.basis, problem.traces, problem.dimension, theta)
    return float(np.sqrt(column_dots(residual, residual)[0] / (tail * energy)))


def y_tolerance(problem: Problem) -> float:
    """Relative error at which a trait leaves the block.

    Its log-likelihood errs by (n - c) / 2 times the square of its error: 2e-4 at 0.02 / sqrt(n - c).
    """
    return min(problem.settings.solver.y, 0.02 / np.sqrt(problem.dimension))


def point_at(problem: Problem, model: Model, trait: int, theta: np.ndarray, off: Outside, inverse: np.ndarray) -> Point:
    """Score and average information at theta within the basis; no pass.  ``off`` and ``inverse`` (G, s), the controls,
    are those of a theta near."""
    V = reduced_v(model.basis.T, theta)
    here = solved(V, np.column_stack([model.trait(trait), model.probes]))
    score, traces, images = score_of(problem, model, theta, here, inverse)
    inside = np.column_stack([images.T, here.C[:, :1]])
    ai = inside.T @ here.times(inside)
    # off the basis V is its mean there; what is off of K_g P y changes with theta as the part within does
    scale = np.sqrt(np.maximum(images @ here.C[:, 0], 0) / np.where(off.forms > 0, off.forms, 1.0))
    ai[:-1, :-1] += off.gram * np.outer(scale, scale) / tail_mean(model.basis, problem.traces, problem.dimension, theta)
    return Point(theta, score, symmetric(ai) / 2, traces)


def score_at(
    problem: Problem, model: Model, trait: int, theta: np.ndarray, V: np.ndarray, inverse: np.ndarray
) -> np.ndarray:
    """(p,) the score of :func:`point_at` alone, for V = U'V(theta)U."""
    here = solved(V, np.column_stack([model.trait(trait), model.probes]))
    return score_of(problem, model, theta, here, inverse)[0]


def score_of(problem: Problem, model: Model, theta: np.ndarray, here: Solved, inverse: np.ndarray):
    """The score (p,) from solutions of y and the probes, the traces in it, and T_g c (G, d) of y's."""
    c, T = here.C[:, 0], model.basis.T
    images, s = T.images(c), model.num_probes
    if model.exact:
        values, controls = T.dots(here.times(np.eye(len(c)))).repeat(s, axis=1), 0
    else:
        values, controls = np.einsum("az,gaz->gz", here.C[:, 1:], model.fixed.images), num_controls(s)
    traces = controlled_traces(values, inverse, model.fixed.off, theta, problem.dimension, controls)
    means = traces.mean if problem.weights is None else traces.per_probe @ problem.weights
    return (np.append(images @ c, c @ c) - means) / 2, traces, images


def controls_at(problem: Problem, model: Model, theta: np.ndarray) -> np.ndarray:
    """(G, s) the controls that depend on theta (:mod:`..cross_fit`)."""
    T = model.basis.T
    return inverse_controls(T, reduced_v(T, theta), theta, model.chains, model.probes, model.fixed, problem.dimension)


def most_in_a_round(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """(p,) the most that one round from theta may lead to."""
    means = np.append(problem.traces / problem.dimension, 1.0)
    variances = theta * means
    return np.maximum(MOST_GROWTH * variances, variances.sum()) / means


def is_definite(model: Model, theta: np.ndarray) -> bool:
    """Whether V is positive definite within the basis, as it is without negative variances."""
    if not (theta < 0).any():
        return True
    try:
        np.linalg.cholesky(reduced_v(model.basis.T, theta))
    except np.linalg.LinAlgError:
        return False
    return True


def definite(model: Model, theta: np.ndarray) -> np.ndarray:
    """theta, with what is negative halved until V is positive definite within the basis, which may have grown."""
    while not is_definite(model, theta):
        theta = np.where(theta < 0, theta / 2, theta)
    return theta


def information(problem: Problem, model: Model, theta: np.ndarray, trait: int) -> np.ndarray:
    """(p, p) average information F'P F / 2 for F (n, p) the images of P y, by their Galerkin solutions in the basis;
    what these leave counts with V's mean off the basis.  Cost: half a pass of p columns, and half the overlap.

    Standard errors are within 1 % of those by solves to the end, on cohorts with LD and relatives.
    """
    covariance, Q, basis, V = problem.covariance, problem.Q, model.basis, reduced_v(model.basis.T, theta)
    c = np.linalg.solve(V, model.trait(trait))
    images = covariance.apply_each(combined(basis.F, c))
    F = project(Q, columns(*(image[:, :1] for image in images), combined(basis.U, c)))
    f = coordinates(basis, F)
    A = np.linalg.solve(V, f)
    inside = f.T @ A
    if not model.exact:
        R = residuals(covariance, Q, basis, theta, F, A, problem.settings.probes.columns)
        inside = inside + gram(R, R) / tail_mean(basis, problem.traces, problem.dimension, theta)
    return symmetric(inside) / 2
