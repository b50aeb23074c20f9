"""Pairs of traits, or several jointly, in bases that answer for them: fits, errors and tests.

The residual of a stack of traits lies in what K_g U c has off their bases: half a pass of a column for each trait.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg

from ..covariance import Covariance
from ..cross_fit import FOLDS, fold_of
from ..engines.reduced import combined, coordinates
from ..linalg import Block, column_dots, columns, project, take_columns
from .rg_bases import PeopleBasis, answering, cross_products, off_images, part_of, probe_tolerance, with_directions
from .rg_search import Maximum, maximised, untold
from .rg_stack import Part, Stack, StackPoint, mean_off, point_at, stacked
from .rg_tests import NOTHING, UNKNOWN, Ratio, RgTest, mc_covariance, one_correlation, ratio_of, uncorrelated

READY = 0.1  # relative error of the probes from which the bases of different people serve to find a maximum
NO_VARIANCE = 1e-4  # share of a trait's variance that counts as none: beside it a correlation goes to its bound
AT_ONCE = 32  # fits of the same people that are looked at in one pass
FURTHER = 40  # times that bases grow for a pair
SMALL_RESIDUAL = 0.02  # share of the phenotypic variance below which no residual of a combination asks more of a basis
HARDER = 0.8  # times the residual that probes were solved for


class Member(NamedTuple):
    """A trait: its ``people`` by their place, and its ``column`` among their traits."""

    people: int
    column: int


class StackFit(NamedTuple):
    """A stack's fit in units of its traits' standard deviations: ``S`` (H, t, t), ``information`` and Monte-Carlo
    covariance ``mc`` (p, p) of the entries, whether it ``converged``, and ``answered``: whether the bases answer for
    it.  Tests ``rg0`` and ``rg1``, of every two by their place, (0, 1), (0, 2), .., (t - 2, t - 1): by component, of
    all, of the residual (H + 1,)."""

    members: tuple[int, ...]
    S: np.ndarray
    information: np.ndarray
    told: np.ndarray
    mc: np.ndarray
    converged: bool
    answered: bool
    rg0: tuple[tuple[Ratio, ...], ...]
    rg1: tuple[tuple[Ratio, ...], ...]


class OffBases(NamedTuple):
    """What a stack has off its bases: ``error``, of its solution in the norm of V; ``gram`` (p, p), which adds to the
    information; ``directions``: the true residual, a block (n_a, 1) for every trait."""

    error: float
    gram: np.ndarray
    directions: tuple[Block, ...]


class Bench:
    """All people with their bases, and the products between these, which are made when first asked for."""

    def __init__(self, covariance: Covariance, people: list[PeopleBasis], members: list[Member]):
        self.covariance, self.people, self.members = covariance, people, members
        self._parts: dict[int, Part] = {}
        self._cross: dict[tuple[int, int], np.ndarray] = {}

    @property
    def floor(self) -> float:
        return self.people[0].problem.settings.residual_floor

    def copy(self) -> "Bench":
        """Another with the same bases, which may grow apart from these."""
        other = Bench(self.covariance, list(self.people), self.members)
        other._parts, other._cross = dict(self._parts), dict(self._cross)
        return other

    def alike(self, traits: tuple[int, ...]) -> bool:
        """Whether the same people have all of these traits."""
        return len({self.members[trait].people for trait in traits}) == 1

    def part(self, which: int) -> Part:
        if which not in self._parts:
            self._parts[which] = part_of(self.people[which])
        return self._parts[which]

    def cross(self, one: int, other: int) -> np.ndarray:
        if (other, one) in self._cross:
            return self._cross[other, one].transpose(0, 2, 1)
        if (one, other) not in self._cross:
            self._cross[one, other] = cross_products(self.covariance, self.people[one], self.people[other])
        return self._cross[one, other]

    def replace(self, which: int, people: PeopleBasis) -> None:
        """Other bases for some people; what was made of the former is forgotten."""
        self.people[which] = people
        self._parts.pop(which, None)
        self._cross = {key: value for key, value in self._cross.items() if which not in key}

    def stack(self, traits: tuple[int, ...]) -> Stack:
        """The traits beside one another."""
        who = [self.members[trait].people for trait in traits]
        cross = {
            (a, b): self.cross(who[a], who[b])
            for a in range(len(traits))
            for b in range(a + 1, len(traits))
            if who[a] != who[b]
        }
        return stacked([self.part(k) for k in who], [self.members[trait].column for trait in traits], cross)

    def start(self, traits: tuple[int, ...]) -> np.ndarray:
        """(H, t, t) variances of every trait alone, and no covariances."""
        thetas = np.array([self.people[self.members[k].people].thetas[self.members[k].column] for k in traits])
        return np.einsum("ah,ab->hab", thetas, np.eye(len(traits)))


class First(NamedTuple):
    """A maximum within the bases as they are, and what these leave of it."""

    stack: Stack
    found: Maximum
    off: OffBases


def fits_of(bench: Bench, wanted: list[tuple[int, ...]], tests: bool) -> Iterator[StackFit]:
    """The fits of some traits after others; those of the same people are looked at many at once, in a pass."""
    for first in range(0, len(wanted), AT_ONCE):
        batch = wanted[first : first + AT_ONCE]
        for traits, known in zip(batch, firsts(bench, batch), strict=True):
            yield fitted(bench, traits, tests, known)


def firsts(bench: Bench, batch: list[tuple[int, ...]]) -> list[First | None]:
    """First fits of traits of the same people, with what is off their basis; None for others."""
    alike = [traits for traits in batch if bench.alike(traits)]
    stacks = {traits: bench.stack(traits) for traits in alike}
    found = {traits: maximised(stacks[traits], bench.start(traits), bench.floor) for traits in alike}
    known: dict[tuple[int, ...], First] = {}
    for which in {bench.members[traits[0]].people for traits in alike}:
        mine = [traits for traits in alike if bench.members[traits[0]].people == which]
        people = bench.people[which]
        images: list[Any] = [None] * len(mine)
        if not people.model.exact:
            C = np.column_stack([c for traits in mine for c in found[traits].point.c])
            blocks = [np.asarray(image) for image in off_images(people, C)]
            ends = np.cumsum([0, *map(len, mine)])
            images = [[with_residual(blocks, column) for column in range(start, end)] for start, end in pairwise(ends)]
        for traits, own in zip(mine, images, strict=True):
            columns_of = None if own is None else [own] * len(traits)
            off = outside_of(bench, traits, stacks[traits], found[traits].point, columns_of)
            known[traits] = First(stacks[traits], found[traits], off)
    return [known.get(traits) for traits in batch]


def with_residual(blocks: list[np.ndarray], column: int) -> np.ndarray:
    """(n, H) a column of each block (n, k) of a component, and the residual's, which has nothing off the basis."""
    genetic = [block[:, column].astype(np.float64) for block in blocks]
    return np.column_stack([*genetic, np.zeros(len(genetic[0]))])


def fitted(bench: Bench, traits: tuple[int, ...], tests: bool, known: First | None = None) -> StackFit:
    """The REML fit of some traits, whose first maximum may be ``known``.  Bases grow where they do not answer for it:
    for traits of the same people, for all fits after this one, else for this one alone, as it asks for products between
    people that no other does."""
    start, alike = bench.start(traits), bench.alike(traits)
    bench, trusted = bench if alike else bench.copy(), alike
    for further in range(FURTHER + 1):
        if known is not None:
            stack, found, off = known
            known = None
        else:
            stack = bench.stack(traits)
            trusted = trusted or stack.exact
            found = maximised(stack, start, bench.floor, most=None if trusted else 1)
            off = outside_of(bench, traits, stack, found.point)
            if not trusted or (not alike and off.error > READY):  # half of the way, where the bases know so little
                trusted, found = False, found._replace(point=point_at(stack, (start + found.point.S) / 2))
                off = outside_of(bench, traits, stack, found.point)
        needs = needs_of(bench, traits, stack, found.point, off)
        if further == FURTHER or (needs.answered and trusted) or not (needs.answered or grow(bench, traits, needs)):
            break
        start = found.point.S if trusted else start
        trusted = trusted or needs.error <= READY
    ai = found.point.ai + off.gram
    told = ~untold(stack).any(axis=0)
    rg0, rg1 = tests_of(bench, traits, stack, found, tests)
    S = found.point.S if found.converged else found.first
    mc = mc_covariance(stack, found.point, ai, bench.floor)
    return StackFit(traits, S, ai, told, mc, found.converged, needs.answered, rg0, rg1)


class Needs(NamedTuple):
    """What a fit asks of the bases of its traits: what is ``off`` them, whether that is ``late``; residuals of probes
    by trait, blocks (n_a, k), ``whose`` they are (k,) and their largest relative ``error``; variances at which the
    probes of the same people are to be solved, None where they are."""

    off: OffBases
    late: bool
    residuals: tuple[Block, ...]
    whose: np.ndarray
    error: float
    harder: np.ndarray | None

    @property
    def answered(self) -> bool:
        return not self.late and not len(self.whose) and self.harder is None


def needs_of(bench: Bench, traits: tuple[int, ...], stack: Stack, point: StackPoint, off: OffBases) -> Needs:
    """What a fit at a point asks.  The probes of traits of the same people are solved, for any S, where those of the
    combination of traits with the least residual are; those of different people are looked at themselves."""
    late = off.error > tolerance(bench, traits)
    if stack.exact:
        return Needs(off, late, (), np.arange(0), 0.0, None)
    if stack.same.all():
        return Needs(off, late, (), np.arange(0), 0.0, harder_variances(bench, traits, point.S))
    return Needs(off, late, *probe_residuals(bench, traits, stack, point.S), None)


def probe_residuals(bench: Bench, traits: tuple[int, ...], stack: Stack, S: np.ndarray):
    """(residuals, whose, error): of the probes z (x) e_a whose solutions, each in the chains of its fold, are not near
    enough.

    Cost: t s half passes of columns for each trait, times the overlap.
    """
    people = [bench.people[bench.members[k].people] for k in traits]
    t, s = len(traits), stack.num_probes
    V, where = stack.v(S), stack.sizes
    solved, energy, folds = np.zeros((len(V), t, s)), np.zeros((t, s)), fold_of(s)
    for fold in range(FOLDS):
        mine = np.flatnonzero(folds == fold)
        Q = linalg.block_diag(*(part.chains[fold] for part in stack.parts))
        factor = linalg.cho_factor(Q.T @ V @ Q)
        for a, part in enumerate(stack.parts):
            right = Q[where[a]].T @ part.z[:, mine]
            solution = linalg.cho_solve(factor, right)
            solved[:, a, mine] = Q @ solution
            energy[a, mine] = np.einsum("rs,rs->s", right, solution)
    flat = solved.reshape(len(V), t * s)
    residuals = true_residuals(bench, people, stack, S, flat)
    traces = np.array([part.off_traces for part in stack.parts])
    left = np.array([part.dimension - len(y) for part, y in zip(stack.parts, stack.y, strict=True)])
    tails = np.diag(mean_off(S, traces, left, stack.same))
    square = sum(column_dots(R, R) / tail for R, tail in zip(residuals, tails, strict=True))
    errors = np.sqrt(square / np.maximum(energy.ravel(), np.finfo(float).tiny))
    wrong = np.flatnonzero(errors > probe_tolerance(people[0].problem))
    return tuple(take_columns(R, wrong) for R in residuals), wrong % s, float(errors.max())


def true_residuals(bench: Bench, people: list[PeopleBasis], stack: Stack, S: np.ndarray, C: np.ndarray) -> list[Block]:
    """For every trait b, (n_b, t s) what the probes z (x) e_a leave of it, for solutions C (D, t s) in the bases.

    What a basis says of everybody serves all traits.
    """
    t, s, where, totals = len(people), stack.num_probes, stack.sizes, []
    for b, own in enumerate(people):
        Z = own.model.probe_block(slice(0, s))
        totals.append(np.zeros((len(own.rows), t * s), Z.dtype))
        totals[b][:, b * s : (b + 1) * s] = np.asarray(Z)
    for c, source in enumerate(people):
        genetic = images_for(bench.covariance, S[:-1, :, c], combined(source.model.basis.F, C[where[c]]))
        residual = np.asarray(combined(source.model.basis.U, C[where[c]]))
        for b, (own, image) in enumerate(zip(people, genetic, strict=True)):
            totals[b] -= np.asarray(image)[own.rows]
            _, mine, theirs = np.intersect1d(own.rows, source.rows, assume_unique=True, return_indices=True)
            totals[b][mine] -= (S[-1, b, c] * residual[theirs]).astype(totals[b].dtype)
    blocks = (own.problem.covariance.block(total) for own, total in zip(people, totals, strict=True))
    return [project(own.problem.Q, block) for own, block in zip(people, blocks, strict=True)]


def images_for(covariance: Covariance, weights: np.ndarray, F: Any) -> Iterator[Block]:
    """For every column of weights (G, t), sum_g w_g K_g B (n, k), from features F of B.

    Cost: a half pass of k columns times the overlap, or one for each column of the weights, whichever is less.
    """
    if covariance.overlap > weights.shape[1]:
        yield from (covariance.apply_features(column, F) for column in weights.T)
        return
    images = list(covariance.apply_each(F))
    for column in weights.T:
        total = images[0] * np.asarray(column[0], images[0].dtype)
        for weight, image in zip(column[1:], images[1:], strict=True):
            total = total + image * np.asarray(weight, image.dtype)
        yield total


def tolerance(bench: Bench, traits: tuple[int, ...]) -> float:
    """Relative error of a solution that moves the log-likelihood by 2e-4, as of one trait."""
    size = sum(bench.people[bench.members[k].people].problem.dimension for k in traits)
    return 0.02 / np.sqrt(size)


def outside_of(
    bench: Bench, traits: tuple[int, ...], stack: Stack, point: StackPoint, images: list[list[np.ndarray]] | None = None
) -> OffBases:
    """What the solution at a point leaves; half a pass of a column for each trait, times the overlap, unless
    ``images[a][b]`` (n_a, H) of what K_h U_b c_b has off the basis of a are known."""
    own, t = stack.entries, len(traits)
    p = len(own.h)
    people = [bench.people[bench.members[k].people] for k in traits]
    if stack.exact:
        return OffBases(0.0, np.zeros((p, p)), ())
    if images is None:
        (images,) = images_at(bench, traits, [point])
    parts = [np.zeros((len(each.rows), p)) for each in people]
    for k, (h, a, b) in enumerate(zip(*own, strict=True)):
        parts[a][:, k] += images[a][b][:, h]
        if a != b:
            parts[b][:, k] += images[b][a][:, h]
    traces = np.array([part.off_traces for part in stack.parts])
    left = np.array([part.dimension - len(y) for part, y in zip(stack.parts, stack.y, strict=True)])
    D = np.linalg.inv(mean_off(point.S, traces, left, stack.same))
    gram = sum(D[a, b] * parts[a].T @ parts[b] for a in range(t) for b in range(t) if stack.same[a, b])
    theta = own.vector(point.S)
    error = float(np.sqrt(max(theta @ gram @ theta, 0.0) / point.ypy))
    directions = tuple(-part @ theta[:, None] for part in parts)
    return OffBases(error, gram / 2, directions)


def images_at(bench: Bench, traits: tuple[int, ...], points: list[StackPoint]) -> list[list[list[np.ndarray]]]:
    """For every point, ``images`` as :func:`outside_of` takes them, in as many passes as for one."""
    people = [bench.people[bench.members[k].people] for k in traits]
    C = [np.column_stack([point.c[b] for point in points]) for b in range(len(traits))]
    each: list[list[np.ndarray]] = [[] for _ in people]
    for b, source in enumerate(people):
        U, F = (combined(part, C[b]) for part in (source.model.basis.U, source.model.basis.F))
        images = [np.asarray(image) for image in bench.covariance.apply_each(F)]
        for a, of in enumerate(people):
            each[a].append(images_off(of, source, images, np.asarray(U)))
    return [[[image[k] for image in row] for row in each] for k in range(len(points))]


def images_off(of: PeopleBasis, source: PeopleBasis, images: list[np.ndarray], U: np.ndarray) -> np.ndarray:
    """(k, n_a, H) what K_h U C has off the basis of the people ``of``, for ``images`` (n, k) of everybody and U C
    (n_b, k) of the people ``source``; residuals off a basis of their own are none."""
    model, problem, k = of.model, of.problem, U.shape[1]
    parts = [image[of.rows] for image in images]
    if of is not source:
        whole = np.zeros((len(images[0]), k))
        whole[source.rows] = U
        parts.append(whole[of.rows])  # what residuals of people who have both traits add
    block = project(problem.Q, columns(*(problem.covariance.block(part) for part in parts)))
    off = np.asarray(block - combined(model.basis.U, coordinates(model.basis, block)), np.float64)
    off = off if of is not source else np.column_stack([off, np.zeros((len(off), k))])
    return off.reshape(len(off), -1, k).transpose(2, 0, 1)


def harder_variances(bench: Bench, traits: tuple[int, ...], S: np.ndarray) -> np.ndarray | None:
    """(p,) variances of the combination of traits with the least residual, where that asks more of the probes than
    they were solved for; down to ``SMALL_RESIDUAL``, since less could only be answered by a complete basis."""
    people = [bench.people[bench.members[k].people] for k in traits]
    if all(each.model.exact for each in people):
        return None
    traces = np.mean([each.problem.traces / each.problem.dimension for each in people], axis=0)
    total = np.tensordot(np.append(traces, 1.0), S, axes=1)
    root = np.linalg.inv(np.linalg.cholesky(total))
    v = root.T @ np.linalg.eigh(root @ S[-1] @ root.T)[1][:, 0]
    theta = np.einsum("hab,a,b->h", S, v, v)
    theta[-1] = max(theta[-1], SMALL_RESIDUAL)
    solved = max(each.solved for each in people if not each.model.exact)
    return theta if theta[-1] < HARDER * solved else None


def grow(bench: Bench, traits: tuple[int, ...], needs: Needs) -> bool:
    """Let the bases of some traits answer better; whether any grew."""
    grew = False
    for which in sorted({bench.members[k].people for k in traits}):
        people, before = bench.people[which], bench.people[which].model.basis.size
        if people.model.exact:
            continue
        mine = [place for place, k in enumerate(traits) if bench.members[k].people == which]
        if needs.late:
            W = np.column_stack([needs.off.directions[place] for place in mine])
            people = with_directions(people, people.problem.covariance.block(W))
        if len(needs.whose):
            ends = columns(*(needs.residuals[place] for place in mine))
            people = with_directions(people, ends, np.tile(needs.whose, len(mine)))
        if needs.harder is not None:
            people = answering(people, needs.harder)
        if people.model.basis.size > before:
            bench.replace(which, people)
            grew = True
    return grew


Question = tuple[str, int, int, int]  # rg0 or rg1, the component, and two traits by their place


def tests_of(bench: Bench, traits: tuple[int, ...], stack: Stack, found: Maximum, wanted: bool):
    """(rg0, rg1) of every two of the traits: by component, of all together, of the residual (H + 1,); not known where
    they are not ``wanted``."""
    H, pairs = len(found.point.S), list(combinations(range(len(traits)), 2))
    ratios: dict[Question, Ratio] = {}
    if wanted:
        people = [bench.people[bench.members[k].people] for k in traits]
        means = np.array([each.problem.layout.mean_traces for each in people])
        asked = {key: test for a, b in pairs for key, test in questions(stack, found.point.S, means, a, b).items()}
        ratios = tested(bench, traits, stack, found, asked)
    if H == 2:  # one component is all of them
        ratios |= {(kind, 1, a, b): ratio for (kind, k, a, b), ratio in ratios.items() if k == 0}
    return tuple(
        tuple(tuple(ratios.get((kind, k, a, b), UNKNOWN) for k in range(H + 1)) for a, b in pairs)
        for kind in ("rg0", "rg1")
    )


def questions(stack: Stack, S: np.ndarray, means: np.ndarray, a: int, b: int) -> dict[Question, RgTest | None]:
    """What is tested of two traits; means (t, G): tr(K) / n of their people."""
    H, alive = len(S), alive_of(S)[:, [a, b]]
    G = H - 1
    asked: dict[Question, RgTest | None] = {}
    for g in np.flatnonzero(alive[:G].all(axis=1)):
        asked["rg0", g, a, b] = uncorrelated(stack, np.eye(H)[g], a, b)
        asked["rg1", g, a, b] = one_correlation(stack, S, g, a, b)
    if G > 1 and alive[:G].any(axis=0).all():
        asked["rg0", G, a, b] = uncorrelated(stack, np.append(np.sqrt(means[a] * means[b]), 0.0), a, b)
    if not untold(stack)[:, stack.entries.index(G, a, b)].any():
        asked["rg0", H, a, b] = uncorrelated(stack, np.eye(H)[-1], a, b)
    return asked


def tested(bench: Bench, traits: tuple[int, ...], stack: Stack, found: Maximum, asked: dict) -> dict[Any, Ratio]:
    """Likelihood ratios of the restrictions that are ``asked``; None is one that holds.

    A basis that answers at the best S may not at a smaller model's, where a likelihood that is too low makes the ratio
    too small: what restricted solutions leave joins it, for these tests alone.  One component of the same people needs
    none of that, as its basis answers for every combination of the traits.  A ratio is not known where the basis has no
    room, or a search did not converge.
    """
    done = {key: NOTHING if found.converged else UNKNOWN for key, test in asked.items() if test is None}
    left = {key: test for key, test in asked.items() if test is not None}
    smaller: dict[Any, Maximum] = {}
    bench, own = bench.copy(), stack
    late = list(left)
    for _ in range(FURTHER):
        for key in late:
            start = smaller[key].point.S if key in smaller else found.point.S
            smaller[key] = maximised(stack, start, bench.floor, left[key].restriction)
            if not smaller[key].converged and left[key].restriction.multiple is not None:
                smaller[key] = maximised(stack, start, bench.floor, left[key].restriction.turned)
        if stack.exact or stack.spectral or not late:
            late = []
            break
        points = [smaller[key].point for key in late]
        offs = [
            outside_of(bench, traits, stack, point, images)
            for point, images in zip(points, images_at(bench, traits, points), strict=True)
        ]
        late = [key for key, off in zip(late, offs, strict=True) if off.error > tolerance(bench, traits)]
        far = [off for off in offs if off.error > tolerance(bench, traits)]
        if not late or not grow_by(bench, traits, [off.directions for off in far]):
            break
        stack = bench.stack(traits)
    best = found.point if stack is own else point_at(stack, found.point.S)
    for key, test in left.items():
        if key in late or not (found.converged and smaller[key].converged):
            done[key] = UNKNOWN
            continue
        done[key] = ratio_of(stack, point_at(stack, smaller[key].point.S), best, test.degrees)
    return done


def grow_by(bench: Bench, traits: tuple[int, ...], directions: list[tuple[np.ndarray, ...]]) -> bool:
    """Let the bases take some residuals of every trait; whether any grew."""
    grew = False
    for which in sorted({bench.members[k].people for k in traits}):
        people = bench.people[which]
        W = [each[k] for each in directions for k, trait in enumerate(traits) if bench.members[trait].people == which]
        larger = with_directions(people, people.problem.covariance.block(np.column_stack(W)))
        if larger.model.basis.size > people.model.basis.size:
            bench.replace(which, larger)
            grew = True
    return grew


def alive_of(S: np.ndarray) -> np.ndarray:
    """(H, t) bool: variances that are not zero."""
    variances = np.einsum("haa->ha", S)
    return variances > NO_VARIANCE * variances.sum(axis=0)
