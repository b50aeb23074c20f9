"""What fits by the reduced model share: the cohort, and a basis with the traits and the probes in it, which grows by
their true residuals.

Cost in column-passes: one for every vector that joins the basis, half of it for the residual that it comes from.
"""

from typing import NamedTuple

import numpy as np

from ..contract import check_traces
from ..covariance import CountingCovariance
from ..cross_fit import FOLDS, Fixed, fixed_controls, fold_of, longer_chain
from ..inference import largest_mc_ratio, sampling_covariance
from ..linalg import Block, column_dots, columns, project, take_columns
from ..moments import Moments, check_left, start_values, starting_moments
from ..precondition import complement_traces
from ..probes import Probes, probes_are_exact
from ..residuals import Layout, layout_of
from ..settings import FitSettings
from ..traits import Traits
from .memory import least_basis
from .reduced import (
    Basis,
    combined,
    coordinates,
    empty_basis,
    extended,
    new_directions,
    residuals,
    tail_mean,
)

REDUCED_BYTES = 1 << 29  # most memory of T, of which half is kept
MOST_BASIS = 1024


class Problem(NamedTuple):
    """What does not change during a fit; Y (n, t) is projected and has unit variance, ``traces`` (G,) are those on the
    complement of the fixed effects, of ``dimension`` n - c."""

    covariance: CountingCovariance
    Q: Block
    Y: Block
    lower: np.ndarray
    traces: np.ndarray
    moments: Moments
    settings: FitSettings
    directions: np.ndarray | None = None  # what is estimated, where that is not as the layout says
    weights: np.ndarray | None = None  # (s,) of the probes in the score's traces, where these are not their mean

    @property
    def estimated(self) -> np.ndarray:
        """Along what theta moves, as :func:`~gpu_reml.reml.step.ai_step` takes it."""
        return self.layout.estimated if self.directions is None else self.directions

    @property
    def layout(self) -> Layout:
        return layout_of(self.covariance)

    @property
    def dimension(self) -> int:
        return self.Q.shape[0] - self.Q.shape[1]

    @property
    def num_traits(self) -> int:
        return self.Y.shape[1]

    def start(self, trait: int = 0) -> np.ndarray:
        """Start values from the moments; an identity that is held stays at its floor."""
        theta = start_values(self.moments.of(trait), self.lower)
        return np.where(self.layout.estimated, theta, self.lower)

    def free(self, theta: np.ndarray) -> np.ndarray:
        """(p,) bool: parameters off their bound."""
        return (theta > self.lower * (1 + 1e-9)) & self.layout.estimated

    def mc_ratio(self, theta: np.ndarray, ai: np.ndarray, mc: np.ndarray) -> float:
        """Largest mc_se / se over what is reported; a residual at a bound has no se unless other probes may free it."""
        layout, free = self.layout, self.free(theta) | (np.diag(mc) > 0)
        sampling = sampling_covariance(layout.reduced(ai), layout.without_error(free))
        mc = layout.reduced(mc)
        return largest_mc_ratio(layout.reported(theta), layout.mean_traces, sampling, mc, layout.residual_traces)


class Model(NamedTuple):
    """The basis with the traits and the probes in it: ``B`` (n, t + s) and its coordinates ``coords`` (d, t + s), the
    ``num_traits`` first; ``chains``, by fold, of the probes alone (:mod:`..cross_fit`); ``exact``: whether the basis
    is all that there is, so that traces need no probes."""

    basis: Basis
    chains: tuple[np.ndarray, ...]
    B: Block
    coords: np.ndarray
    fixed: Fixed | None
    num_traits: int
    exact: bool = False

    @property
    def num_probes(self) -> int:
        return self.B.shape[1] - self.num_traits

    @property
    def probes(self) -> np.ndarray:
        """(d, s) coordinates of the probes."""
        return self.coords[:, self.num_traits :]

    def trait(self, which: int) -> np.ndarray:
        """(d, 1) coordinates of a trait."""
        return self.coords[:, which : which + 1]

    def probe_block(self, which=slice(None)) -> Block:
        """(n, k) some of the probes."""
        return take_columns(self.B, self.num_traits + np.arange(self.num_probes)[which])


def prepare(covariance, traits: Traits, probes: Probes, settings: FitSettings, known: Moments | None = None) -> Problem:
    """Traces and moments, if these are not ``known``: what a fit needs once."""
    Q, Y = covariance.block(traits.Q), covariance.block(traits.scaled)
    lower = layout_of(covariance).lower(settings.residual_floor, constrain=settings.constrain)
    traces = complement_traces(covariance, Q)
    check_left(covariance, traces)
    found = starting_moments(covariance, Q, Y, probes, traces) if known is None else known
    return Problem(covariance, Q, Y, lower, traces, found, settings)


def first_model(problem: Problem, probes: Probes) -> Model:
    """The basis of the traits and the first probes."""
    s, exact = min(problem.settings.probes.first, probes.trace.shape[1]), probes_are_exact(probes.trace)
    t, empty = problem.num_traits, empty_basis(problem.covariance.num_components)
    chains = tuple(np.zeros((0, 0)) for _ in range(FOLDS))
    start = Model(empty, chains, problem.Y, np.zeros((0, t)), None, t)
    model = with_probes(problem, probes, start, probes.trace.shape[1] if exact else s)
    check_stated(problem, model)
    return model


def with_probes(problem: Problem, probes: Probes, model: Model, wanted: int) -> Model:
    """The model with ``wanted`` probes; those it lacks join the basis."""
    covariance, used = problem.covariance, model.num_probes
    fresh = project(problem.Q, covariance.block(probes.trace[:, used:wanted]))
    B = columns(model.B, fresh)
    W = B if not model.basis.size else fresh
    return grown(problem, model._replace(B=B, fixed=None), W, np.arange(used, wanted), fresh)


def grown(problem: Problem, model: Model, W: Block, whose: np.ndarray, ends: Block) -> Model:
    """The model with the columns of W in its basis; ``ends``: those of them that are of the probes ``whose``."""
    new = new_directions(problem.Q, model.basis, W)
    basis = extended(problem.covariance, model.basis, new, problem.settings.probes.columns)
    coords = coordinates(basis, model.B)
    added, folds = coordinates(basis, ends), fold_of(model.num_probes)
    chains = tuple(
        longer_chain(chain, added[:, folds[whose] == fold], basis.size) for fold, chain in enumerate(model.chains)
    )
    return dealt(problem, model._replace(basis=basis, chains=chains, coords=coords))


def dealt(problem: Problem, model: Model) -> Model:
    """The model with the controls that its basis and chains give; any that it has are those of the same probes in the
    basis before it grew."""
    images = None if model.fixed is None else model.fixed.images
    fixed = fixed_controls(model.basis.T, model.chains, model.probes, problem.traces, images)
    return model._replace(fixed=fixed, exact=model.basis.size >= problem.dimension)


def check_stated(problem: Problem, model: Model) -> None:
    """ValueError where the probes deny the traces of the covariance that are stated."""
    z, covariance = model.probes, problem.covariance
    forms = np.einsum("az,gaz->gz", z, model.fixed.images)
    check_traces(covariance, forms, covariance.image_squares(combined(model.basis.F, z)), problem.traces)


def largest_basis(num_components: int) -> int:
    """Most vectors that a basis has where nobody says: within the memory of T."""
    return min(MOST_BASIS, int(np.sqrt(2 * REDUCED_BYTES / (8 * num_components))))


def most_basis(problem: Problem, num_columns: int) -> int:
    """Most vectors that the basis may have with so many traits and probes: by the settings, or what is usual."""
    usual = largest_basis(problem.covariance.num_components)
    return max(problem.settings.solver.most_basis or usual, least_basis(num_columns))


def has_room(problem: Problem, model: Model, num_new: int, num_columns: int) -> bool:
    """Whether the basis has room for more vectors, with so many traits and probes."""
    return min(model.basis.size + num_new, problem.dimension) <= most_basis(problem, num_columns)


def smaller(problem: Problem, model: Model, V: np.ndarray, A: np.ndarray) -> Model:
    """The model on the span of its columns and of their solutions alone, for V = U'V(theta)U and those of the probes A
    (d, s): a restart, for half a pass of each.  (Features that were combined instead would differ by rounding from
    those of a fit that is resumed.)"""
    covariance, folds, old = problem.covariance, fold_of(model.num_probes), model.basis
    of_traits = np.linalg.solve(V, model.coords[:, : model.num_traits])
    span = combined(old.U, np.concatenate([model.coords, of_traits, A], axis=1))
    empty, at_once = empty_basis(covariance.num_components), problem.settings.probes.columns or model.B.shape[1]
    basis = extended(covariance, empty, new_directions(problem.Q, empty, span), at_once)
    coords, chains = coordinates(basis, span), []
    for fold in range(FOLDS):
        mine = np.flatnonzero(folds == fold)
        own = coords[:, np.append(model.num_traits + mine, coords.shape[1] - model.num_probes + mine)]
        chains.append(longer_chain(np.zeros((basis.size, 0)), own, basis.size))
    coords = coordinates(basis, model.B)
    return dealt(problem, model._replace(basis=basis, chains=tuple(chains), coords=coords, fixed=None))


def probe_solutions(model: Model, V: np.ndarray) -> np.ndarray:
    """(d, s) Galerkin solutions of the probes, each in the chain of its fold, for V = U'V(theta)U."""
    folds, A = fold_of(model.num_probes), np.empty_like(model.probes)
    for fold, S in enumerate(model.chains):
        mine = folds == fold
        A[:, mine] = S @ np.linalg.solve(S.T @ V @ S, S.T @ model.probes[:, mine])
    return A


def probe_residuals(problem: Problem, model: Model, theta: np.ndarray, which: np.ndarray, A: np.ndarray):
    """(R, errors): true residuals (n, k) of the solutions ``which`` of A (d, s), half a pass; and their relative errors
    (k,) in the norm of V, 0 in a complete basis.

    Residuals are orthogonal to what was solved in, where V is taken for its mean off the basis.
    """
    covariance, at_once = problem.covariance, problem.settings.probes.columns
    R = residuals(covariance, problem.Q, model.basis, theta, model.probe_block(which), A[:, which], at_once)
    if model.exact:
        return R, np.zeros(len(which))
    energy = np.einsum("az,az->z", model.probes[:, which], A[:, which])
    tail = tail_mean(model.basis, problem.traces, problem.dimension, theta)
    return R, np.sqrt(column_dots(R, R) / (tail * np.maximum(energy, np.finfo(float).tiny)))
