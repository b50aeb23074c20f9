"""Bases for traits of different people: those that the same people have, with the same fixed effects, share one, and
all traits share the probes.

A basis grows, as that of a fit of one trait does (:mod:`gpu_reml.reml.engines.reduced_model`), by true residuals of all
its traits at their own variances, and of the probes at those of the trait with the least residual, which asks most.
Cost in column-passes: one for every vector, half of one for every residual that is looked at.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg

from ..covariance import Covariance
from ..covariance.subset import SubsetCovariance
from ..engines.people import People, peoples_of
from ..engines.reduced import Basis, combined, outside, reduced_v, tail_mean
from ..engines.reduced_model import (
    Model,
    Problem,
    first_model,
    grown,
    most_basis,
    prepare,
    probe_residuals,
    probe_solutions,
    with_probes,
)
from ..engines.reduced_point import y_tolerance
from ..inference import mc_covariance_of_theta
from ..linalg import Block, column_dots, column_lengths, columns, gram, project, take_columns
from ..monte_carlo import LEAST_PROBES
from ..probes import Probes, exact_probes, probes_are_exact
from ..settings import FitSettings
from ..traits import Traits, make_traits
from .rg_search import Maximum, maximised
from .rg_stack import Part, stacked

READY = 0.1  # relative error of the solves, in the norm of V, from which the basis serves to move variances
MOST_SHRINKAGE = 0.25  # of a residual in one round, as a small basis knows little of what is left
FINER = 0.15  # times the tolerance of one trait's probes, as a correlation's Monte-Carlo error is that much smaller
STILL = 1e-2  # standard errors, moves of variances that ask no further look at residuals
MOST_ROUNDS = 200
VECTORS = 20  # in a basis for every trait and probe, where settings do not say


class PeopleBasis(NamedTuple):
    """PeopleBasis with the same traits: ``rows`` of the cohort, ``whose`` traits, their ``model``, and the variances
    ``thetas`` (t, p) of each trait alone.  ``answered``: whether residuals are as small as asked; ``solved``: the
    residual variance, as a share, at which those of the probes were looked at."""

    rows: np.ndarray
    whose: tuple[int, ...]
    traits: Traits
    problem: Problem
    probes: Probes
    model: Model
    thetas: np.ndarray
    answered: bool = False
    solved: float = np.inf


def independent_columns(X: np.ndarray) -> np.ndarray:
    """Which columns of X (n, c) span it: a covariate that some people have all alike is none of theirs."""
    lengths = column_lengths(X)
    alive = np.flatnonzero(lengths > 0)
    if not len(alive):
        return alive
    _, R, pivots = linalg.qr(X[:, alive] / lengths[alive], mode="economic", pivoting=True)
    sizes = np.abs(np.diag(R))
    return np.sort(alive[pivots[: len(sizes)][sizes > max(X.shape) * np.finfo(float).eps * sizes[0]]])


def groups_of(Y: np.ndarray, X: Sequence[np.ndarray]) -> list[People]:
    """Traits Y (n, T) of the same samples with the same fixed effects X[trait] (n, c) among these, together."""
    groups = []
    for rows, which in peoples_of(~np.isnan(Y)):
        alike: dict[tuple, list[int]] = {}
        for trait in which:
            x = X[trait][rows]
            alike.setdefault((x.shape, x.tobytes()), []).append(trait)
        groups += [People(rows, np.array(same)) for same in alike.values()]
    return groups


def people_of(
    Y: np.ndarray, X: Sequence[np.ndarray], covariance: Covariance, probes: Probes, settings: FitSettings
) -> list[PeopleBasis]:
    """Every group of traits, X[trait] (n, c) their fixed effects, with its first basis; the diagonals of the
    components, half a pass, where some are a subset."""
    groups = groups_of(Y, X)
    whole = all(group.num_samples == len(Y) for group in groups)
    diagonals = None if whole else covariance.diagonals()
    found = []
    for rows, which in groups:
        own: Any = covariance if len(rows) == len(Y) else SubsetCovariance(covariance, rows, diagonals)
        x = X[which[0]][rows]
        traits = make_traits(Y[np.ix_(rows, which)], x[:, independent_columns(x)], [f"Y[:, {k}]" for k in which])
        mine = of_rows(probes, rows)
        problem = prepare(own, traits, mine, settings)
        starts = np.array([problem.start(trait) for trait in range(len(which))])
        found.append(
            PeopleBasis(rows, tuple(which.tolist()), traits, problem, mine, first_model(problem, mine), starts)
        )
    return found


def of_rows(probes: Probes, rows: np.ndarray) -> Probes:
    """The probes of some samples; exact ones are exact for any."""
    if probes_are_exact(probes.trace):
        return exact_probes(len(rows))
    return Probes(probes.trace[rows], probes.sketch[rows])


def part_of(people: PeopleBasis) -> Part:
    """The basis as stacks take it."""
    model, problem = people.model, people.problem
    T = np.concatenate([model.basis.T.whole(), np.eye(model.basis.size)[None]])
    traces, Y = np.append(problem.traces, problem.dimension), model.coords[:, : model.num_traits]
    return Part(T, Y, model.probes, model.chains, traces, problem.dimension, model.exact)


def alone(people: PeopleBasis, part: Part) -> list[Maximum]:
    """Every trait's maximum on its own within the basis, with a residual that falls by no more than a round allows."""
    floor, found = people.problem.settings.residual_floor, []
    for trait, theta in enumerate(people.thetas):
        least = floor if part.exact else max(floor, MOST_SHRINKAGE * theta[-1])
        found.append(maximised(stacked([part], [trait], {}), theta[:, None, None], least))
    return found


def off_images(people: PeopleBasis, C: np.ndarray) -> list[Block]:
    """G blocks (n, k) of what K_g U C has off the basis, for solutions C (d, k); half a pass, times the overlap."""
    model, problem = people.model, people.problem
    images = problem.covariance.apply_each(combined(model.basis.F, C))
    return [outside(model.basis, project(problem.Q, image)) for image in images]


def solutions(people: PeopleBasis) -> np.ndarray:
    """(d, t) Galerkin solutions of every trait at its own variances."""
    T, model = people.model.basis.T, people.model
    return np.column_stack(
        [np.linalg.solve(reduced_v(T, theta), model.coords[:, t]) for t, theta in enumerate(people.thetas)]
    )


def trait_residuals(people: PeopleBasis) -> tuple[Block, np.ndarray]:
    """True residuals (n, t) of every trait at its own variances, and their relative errors (t,) in the norm of V."""
    model, problem = people.model, people.problem
    C = solutions(people)
    images = off_images(people, C)
    R = images[0] * (-people.thetas[:, 0]).astype(problem.covariance.dtype)
    for g, image in enumerate(images[1:], 1):
        R = R + image * (-people.thetas[:, g]).astype(problem.covariance.dtype)
    energy = np.einsum("dt,dt->t", model.coords[:, : model.num_traits], C)
    tails = [tail_mean(model.basis, problem.traces, problem.dimension, theta) for theta in people.thetas]
    return R, np.sqrt(column_dots(R, R) / (np.array(tails) * energy))


def hardest(people: PeopleBasis, extra: np.ndarray | None = None) -> np.ndarray:
    """(p,) the variances that ask most of the basis: those with the least residual, of the traits or ``extra``."""
    theta = people.thetas[np.argmin(people.thetas[:, -1])]
    return extra if extra is not None and extra[-1] < theta[-1] else theta


def room(people: PeopleBasis) -> int:
    """Vectors that the basis may still take."""
    problem, model = people.problem, people.model
    num = model.B.shape[1]
    most = max(most_basis(problem, num), 0 if problem.settings.solver.most_basis else VECTORS * num)
    return min(most, problem.dimension) - model.basis.size


def has_room(people: PeopleBasis, num_new: int) -> bool:
    """Whether the basis has room for more vectors, or for all that there are."""
    return room(people) >= min(num_new, people.problem.dimension - people.model.basis.size)


def with_directions(people: PeopleBasis, W: Block, whose: np.ndarray | None = None) -> PeopleBasis:
    """The people with the columns of W (n, k) in their basis, where that has room; ``whose`` (k,): the probes of which
    they are residuals, None where they are of traits."""
    if not has_room(people, W.shape[1]):
        return people
    ends = take_columns(W, slice(0, 0)) if whose is None else W
    model = grown(people.problem, people.model, W, np.arange(0) if whose is None else whose, ends)
    return people._replace(model=model)


class Look(NamedTuple):
    """What a round looks at: ``probes``, None for all, and whether at the ``traits``."""

    probes: np.ndarray | None = None
    traits: bool = True

    @property
    def at_all(self) -> bool:
        return self.probes is None and self.traits


class Left(NamedTuple):
    """What a round leaves: ``probes`` that had not converged, whether any ``traits`` had not, the largest relative
    ``error``, and whether the basis is ``stuck``, as it has no room or rounding gives it no direction."""

    probes: np.ndarray
    traits: bool
    error: float
    stuck: bool = False

    @property
    def unsolved(self) -> bool:
        return self.traits or len(self.probes) > 0


def answering(people: PeopleBasis, extra: np.ndarray | None = None, look: Look | None = None) -> PeopleBasis:
    """The people with a basis that has grown until it answers for all traits at their best variances, and for all
    probes at the hardest of these, or at ``extra`` (p,) where that is harder; ``answered`` says whether it does.

    ``look``: what the first round looks at.  Once solved, probes and traits are looked at again when all are, at the
    variances of the end; these move when the basis has become good enough for it, and four times as good again.
    """
    look, moved_at = look or Look(), np.inf
    for _ in range(MOST_ROUNDS):
        if people.model.exact:
            return moved(people)[0]._replace(answered=True)
        people, left = one_round(people, extra, look)
        length = np.inf
        if left.error <= min(READY, moved_at / 4) or (left.error <= READY and not left.unsolved):
            people, length = moved(people)
            moved_at = left.error
        if left.stuck:
            break
        if not left.unsolved and look.at_all and length <= STILL:
            return people._replace(answered=True, solved=float(hardest(people, extra)[-1]))
        look = Look(left.probes, left.traits or STILL < length < np.inf) if left.unsolved else Look()
    return people._replace(answered=False)


def probe_tolerance(problem: Problem) -> float:
    """Relative error at which probes leave the block."""
    return FINER * problem.settings.solver.probes


def one_round(people: PeopleBasis, extra: np.ndarray | None, look: Look) -> tuple[PeopleBasis, Left]:
    """The people with residuals that are not small in their basis, and what is left."""
    problem, model = people.problem, people.model
    none = take_columns(model.B, slice(0, 0))
    late, wrong, W, ends, worst = False, np.arange(0), none, none, 0.0
    if look.traits:
        R, errors = trait_residuals(people)
        far = np.flatnonzero(errors > y_tolerance(problem))
        late, W, worst = len(far) > 0, take_columns(R, far), float(errors.max())
    looked_at = np.arange(model.num_probes) if look.probes is None else look.probes
    if len(looked_at):
        theta = hardest(people, extra)
        A = probe_solutions(model, reduced_v(model.basis.T, theta))
        R, errors = probe_residuals(problem, model, theta, looked_at, A)
        far = np.flatnonzero(errors > probe_tolerance(problem))
        wrong, ends, worst = looked_at[far], take_columns(R, far), max(worst, float(errors.max()))
    left, new = Left(wrong, late, worst), columns(W, ends)
    if not left.unsolved:
        return people, left
    if not has_room(people, new.shape[1]):
        return people, left._replace(stuck=True)
    grew = grown(problem, model, new, wrong, ends)
    return people._replace(model=grew), left._replace(stuck=grew.basis.size == model.basis.size)


def moved(people: PeopleBasis) -> tuple[PeopleBasis, float]:
    """The people with every trait at its best variances within the basis, and the longest move in standard errors."""
    found = alone(people, part_of(people))
    thetas = np.array([each.point.S[:, 0, 0] for each in found])
    moves = thetas - people.thetas
    lengths = [np.sqrt(move @ each.point.ai @ move) for move, each in zip(moves, found, strict=True)]
    return people._replace(thetas=thetas), float(max(lengths))


def with_probes_wanted(people: PeopleBasis) -> PeopleBasis:
    """The people with more probes, until Monte-Carlo errors of every trait's variances meet their target."""
    while not people.model.exact:
        wanted = probes_wanted(people)
        if wanted <= people.model.num_probes or not has_room(people, wanted - people.model.num_probes):
            break
        fresh = np.arange(people.model.num_probes, wanted)
        model = with_probes(people.problem, people.probes, people.model, wanted)
        people = answering(people._replace(model=model), look=Look(fresh, traits=False))
    return people


def probes_wanted(people: PeopleBasis) -> int:
    """Probes at which the Monte-Carlo error of every trait's variances is expected to meet the target."""
    problem, used, available = people.problem, people.model.num_probes, people.probes.trace.shape[1]
    ratio = 0.0
    for found in alone(people, part_of(people)):
        theta, point = found.point.S[:, 0, 0], found.point
        mc = mc_covariance_of_theta(point.ai, point.traces.covariance / 4, problem.free(theta))
        ratio = max(ratio, problem.mc_ratio(theta, point.ai, mc) / problem.settings.probes.mc_target)
        if np.isnan(mc).any():
            ratio = np.nan
            break
    if not ratio > 1 and not np.isnan(ratio):
        return used
    if np.isnan(ratio):
        return min(available, max(LEAST_PROBES, 2 * used))
    return min(available, max(used + 4, int(np.ceil(ratio**1.2 * used))))


def with_images(people: PeopleBasis) -> PeopleBasis:
    """The people with what K_g P y has off the basis in it, for every trait and component, where that has room.

    The average information of several components needs it.
    """
    num = people.problem.covariance.num_components
    if people.model.exact or num == 1 or room(people) < num * len(people.whose):
        return people
    return with_directions(people, columns(*off_images(people, solutions(people))))


def cross_products(covariance: Covariance, one: PeopleBasis, other: PeopleBasis) -> np.ndarray:
    """(H, d, d') T^ab between the bases of different people, the residual's last; no pass, 2 G m d d' flop."""
    A, B = one.model.basis, other.model.basis
    genetic = np.concatenate([np.concatenate([covariance.gram(fa, fb) for fb in B.F], axis=2) for fa in A.F], axis=1)
    _, mine, theirs = np.intersect1d(one.rows, other.rows, assume_unique=True, return_indices=True)
    residual = gram(rows_of(A, mine), rows_of(B, theirs))
    return np.concatenate([genetic, residual[None]])


def rows_of(basis: Basis, rows: np.ndarray) -> np.ndarray:
    """(k, d) some rows of U, on the host."""
    return np.concatenate([np.asarray(piece)[rows] for piece in basis.U], axis=1)
