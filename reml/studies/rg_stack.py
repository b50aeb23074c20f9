"""Traits beside one another in the bases of their people: likelihood's score and information of all S without a pass.

A trait's part of a stacked vector is in the basis U_a of its people, in which the products between traits a and b are
T_g^ab = U_a'K_gU_b and, for residuals, U_a'U_b: the overlap of their people.  V = sum_h S_h (x) T_h is small, and its
Galerkin solution of P (y_1, .., y_t) is that of V^-1.  Probes are z (x) e_a.  The controls of their traces
(:mod:`gpu_reml.reml.cross_fit`) are those of one trait, with M = V on the chains of the other fold, and V's mean off
them.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from scipy import linalg

from ..cross_fit import FOLDS, Traces, fold_of, num_controls, regression_slopes
from ..linalg import symmetric
from .rg_cone import Entries, entries_of


@dataclass(frozen=True)
class Part:
    """The basis of people who have the same traits, residual last among H = G + 1 components.

    ``T`` (H, d, d); coordinates of traits ``Y`` (d, t) and probes ``z`` (d, s); ``chains`` of the folds (d, r);
    ``traces`` (H,) on the complement of the fixed effects, of ``dimension``; ``exact``: whether the basis is complete.
    """

    T: np.ndarray
    Y: np.ndarray
    z: np.ndarray
    chains: tuple[np.ndarray, ...]
    traces: np.ndarray
    dimension: int
    exact: bool

    @property
    def off_traces(self) -> np.ndarray:
        """(H,) traces off the basis."""
        return self.traces - np.trace(self.T, axis1=1, axis2=2)

    @cached_property
    def images(self) -> np.ndarray:
        """(H, d, s) T z."""
        return self.T @ self.z

    @cached_property
    def folds(self) -> tuple["Fold", ...]:
        """What controls take, of these people alone."""
        return tuple(self.between(self, self.T, self.images, fold) for fold in range(FOLDS))

    @cached_property
    def spectrum(self) -> "StackSpectrum":
        """What a single component takes: its eigenvectors in the basis make V a (t, t) matrix for each eigenvalue."""
        values, vectors = np.linalg.eigh(self.T[0])
        z, chains = vectors.T @ self.z, []
        for fold, of in enumerate(self.folds):
            own, rotation = np.linalg.eigh(of.core[0])
            inside = rotation.T @ of.inside
            products = np.stack([(rotation.T @ of.images[0]) * inside, inside**2])
            chains.append(FoldSpectrum(own, products, fold_of(self.z.shape[1]) == fold))
        return StackSpectrum(values, vectors, vectors.T @ self.Y, z**2, tuple(chains))

    def between(self, other: "Part", T: np.ndarray, images: np.ndarray, fold: int) -> "Fold":
        """What controls of a fold take: T (H, d, d') to the other people, and ``images`` (H, d', s) T'z."""
        S, Q = self.chains[1 - fold], other.chains[1 - fold]
        s = images.shape[2]
        mine = fold_of(s) == fold
        inside, of_mine = S.T @ self.z[:, :s][:, mine], images[:, :, mine]
        forms = np.zeros((len(T), of_mine.shape[2]))
        core = S.T @ T @ Q
        if self is other:
            forms = np.einsum("hds,ds->hs", of_mine, self.z[:, :s][:, mine] - S @ inside)
        return Fold(
            core, inside, Q.T @ of_mine, forms, self.traces - np.trace(core, axis1=1, axis2=2) * (self is other)
        )


class Fold(NamedTuple):
    """Of two traits' people, with chains S and Q of the other fold: ``core`` (H, r, r') S'T Q, probes ``inside`` (r, s)
    S'z and their ``images`` (H, r', s) Q'T'z; of the same people ``forms`` (H, s) z'T (I - SS')z, and ``tails`` (H,)
    the traces off S."""

    core: np.ndarray
    inside: np.ndarray
    images: np.ndarray
    forms: np.ndarray
    tails: np.ndarray


class FoldSpectrum(NamedTuple):
    """Of a fold and the other's chain: ``values`` (r,) of its core, ``products`` (2, r, s) of its probes there with
    their images, and which probes are its ``own``."""

    values: np.ndarray
    products: np.ndarray
    own: np.ndarray


class StackSpectrum(NamedTuple):
    """``values`` (d,) and ``vectors`` (d, d) of a component in its basis; ``Y`` (d, t) and ``squares`` (d, s) of the
    traits and probes in these, and what controls take of the ``folds``."""

    values: np.ndarray
    vectors: np.ndarray
    Y: np.ndarray
    squares: np.ndarray
    folds: tuple[FoldSpectrum, ...]


class Stack(NamedTuple):
    """Traits to be fitted together: each one's ``parts`` and coordinates ``y`` (d_a,); ``T[a][b]`` (H, d_a, d_b) and
    ``images[a][b]`` (H, d_b, s) T^ba z_a; ``folds[fold][a][b]``; ``same`` (t, t) bool: whether traits have the same
    people."""

    parts: tuple[Part, ...]
    y: tuple[np.ndarray, ...]
    T: tuple[tuple[np.ndarray, ...], ...]
    images: tuple[tuple[np.ndarray, ...], ...]
    folds: tuple[tuple[tuple[Fold, ...], ...], ...]
    same: np.ndarray
    entries: Entries
    columns: tuple[int, ...]

    @property
    def spectral(self) -> bool:
        """Whether one component's eigenvectors serve all traits."""
        return len(self.parts[0].T) == 2 and bool(self.same.all())

    @property
    def num_probes(self) -> int:
        return self.images[0][0].shape[2]

    @property
    def exact(self) -> bool:
        return all(part.exact for part in self.parts)

    @property
    def sizes(self) -> list[slice]:
        """Where every trait's part of a stacked vector is."""
        ends = np.cumsum([0, *(len(y) for y in self.y)])
        return [slice(first, last) for first, last in pairwise(ends)]

    def v(self, S: np.ndarray) -> np.ndarray:
        """(D, D) V at S (H, t, t)."""
        rows = [
            [np.tensordot(S[:, a, b], self.T[a][b], axes=1) for b in range(len(self.y))] for a in range(len(self.y))
        ]
        return np.block(rows)

    def images_of(self, c: tuple[np.ndarray, ...]) -> np.ndarray:
        """(p, D) dV c for every entry."""
        own, where = self.entries, self.sizes
        out = np.zeros((len(own.h), where[-1].stop))
        for k, (h, a, b) in enumerate(zip(*own, strict=True)):
            out[k, where[a]] += self.T[a][b][h] @ c[b]
            if a != b:
                out[k, where[b]] += self.T[b][a][h] @ c[a]
        return out


def stacked(parts: list[Part], columns: list[int], cross: dict[tuple[int, int], np.ndarray]) -> Stack:
    """Traits ``columns`` of their parts; cross[a, b], a < b, is T^ab where parts differ."""
    t = len(parts)
    s = min(part.z.shape[1] for part in parts)
    T = [[parts[a].T] * t for a in range(t)]
    images = [[parts[a].images[:, :, :s]] * t for a in range(t)]
    same = np.eye(t, dtype=bool)
    for a, b in combinations(range(t), 2):
        same[a, b] = same[b, a] = parts[a] is parts[b]
        if same[a, b]:
            T[a][b], T[b][a] = parts[a].T, parts[a].T
            continue
        T[a][b], T[b][a] = cross[a, b], cross[a, b].transpose(0, 2, 1)
        images[a][b] = T[b][a] @ parts[a].z[:, :s]
        images[b][a] = T[a][b] @ parts[b].z[:, :s]
    y = tuple(part.Y[:, column] for part, column in zip(parts, columns, strict=True))
    folds = tuple(
        tuple(
            tuple(
                parts[a].folds[fold]
                if same[a, b] and s == parts[a].z.shape[1]
                else parts[a].between(parts[b], T[a][b], images[a][b], fold)
                for b in range(t)
            )
            for a in range(t)
        )
        for fold in range(FOLDS)
    )
    entries = entries_of(len(parts[0].T), t)
    return Stack(tuple(parts), y, tuple(map(tuple, T)), tuple(map(tuple, images)), folds, same, entries, tuple(columns))


Controls = tuple[np.ndarray, np.ndarray] | None  # (p, s) each; None for exact probes


class StackPoint(NamedTuple):
    """What a stack says at S: ``score`` (p,), average information ``ai`` (p, p) within the basis, ``forms`` (p,)
    y'P dV P y, ``traces`` of P dV with their ``controls``, solutions ``c``, y'P y, and log|V|."""

    S: np.ndarray
    score: np.ndarray
    ai: np.ndarray
    forms: np.ndarray
    traces: Traces
    controls: Controls
    c: tuple[np.ndarray, ...]
    ypy: float
    logdet: float


def point_at(stack: Stack, S: np.ndarray, controls: Controls = None) -> StackPoint:
    """Score and information at S (H, t, t): a Cholesky factor of V (D, D) and its solutions for t s + p columns; or, of
    one component and the same people, d matrices (t, t).  ``controls``: those of an S near, where they are known."""
    if stack.spectral:
        return spectral_point(stack, S)
    if controls is None and not stack.exact:
        controls = controls_at(stack, S)
    where, y = stack.sizes, np.concatenate(stack.y)
    V = stack.v(S)
    factor = linalg.cho_factor(V, lower=True, check_finite=False)
    whole = linalg.cho_solve(factor, y, check_finite=False)
    c = tuple(whole[rows] for rows in where)
    F = stack.images_of(c)
    forms = F @ whole
    ai = symmetric(F @ linalg.cho_solve(factor, F.T, check_finite=False)) / 2
    traces = traces_at(stack, S, factor, controls)
    logdet = 2 * float(np.log(np.diag(factor[0])).sum())
    return StackPoint(S, (forms - traces.mean) / 2, ai, forms, traces, controls, c, float(y @ whole), logdet)


def inverse_of(A: np.ndarray) -> np.ndarray:
    """A^-1 of a positive definite matrix."""
    return inverse_from(linalg.cho_factor(A, lower=True, check_finite=False))


def inverse_from(factor) -> np.ndarray:
    """A^-1 from the factor that ``linalg.cho_factor`` gives, with half of the work of a general inverse."""
    lower, info = linalg.lapack.dpotri(factor[0], lower=factor[1])
    if info:
        raise np.linalg.LinAlgError("a factor of a matrix that is not positive definite")
    lower = np.tril(lower)
    return lower + np.tril(lower, -1).T


def traces_at(stack: Stack, S: np.ndarray, factor, controls: Controls) -> Traces:
    """tr(P dV) of every entry (p,), by probe."""
    where, own, t = stack.sizes, stack.entries, len(stack.y)
    if stack.exact:
        inverse = inverse_from(factor)
        exact = [
            (1 if a == b else 2) * np.sum(inverse[where[a], where[b]] * stack.T[a][b][h])
            for h, a, b in zip(*own, strict=True)
        ]
        return Traces(np.repeat(np.array(exact)[:, None], stack.num_probes, axis=1), 0)
    s = stack.num_probes
    Z = np.zeros((where[-1].stop, t * s))
    for a in range(t):
        Z[where[a], a * s : (a + 1) * s] = stack.parts[a].z[:, :s]
    X = linalg.cho_solve(factor, Z, check_finite=False)
    solutions = [[X[where[b], a * s : (a + 1) * s] for b in range(t)] for a in range(t)]
    values = forms_of(stack, solutions)
    return controlled(stack, S, values, *controls)


def spectral_point(stack: Stack, S: np.ndarray) -> StackPoint:
    """:func:`point_at` by the eigenvectors of the component: V is w S_g + S_e at every eigenvalue w."""
    own, of = stack.entries, stack.parts[0].spectrum
    y = of.Y[:, stack.columns]
    weights = np.stack([of.values, np.ones_like(of.values)])
    P, logdets = inverses(of.values[:, None, None] * S[0] + S[1])
    c = np.sum(P * y[:, None], axis=2)
    both = np.where(own.a == own.b, 1.0, 2.0)[:, None]
    sizes = both * weights[own.h]
    forms = np.sum(sizes * c.T[own.a] * c.T[own.b], axis=1)
    F = np.zeros((*c.shape, len(own.h)))
    for k, (h, a, b) in enumerate(zip(*own, strict=True)):
        F[:, a, k] = weights[h] * c[:, b]
        F[:, b, k] = weights[h] * c[:, a]
    solved = np.sum(P[:, :, :, None] * F[:, None], axis=2)
    ai = symmetric(F.reshape(-1, len(own.h)).T @ solved.reshape(-1, len(own.h))) / 2
    values = (sizes * P[:, own.a, own.b].T) @ (np.ones((len(P), 1)) if stack.exact else of.squares)
    if stack.exact:
        traces = Traces(np.repeat(values, stack.num_probes, axis=1), 0)
    else:
        traces = controlled(stack, S, values, *spectral_controls(stack, S, of))
    parts = tuple((of.vectors @ c).T)
    ypy = float(np.sum(c * y))
    return StackPoint(S, (forms - traces.mean) / 2, ai, forms, traces, None, parts, ypy, float(logdets.sum()))


def inverses(V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V^-1 (d, t, t) and log|V| (d,) of positive definite matrices; those of one or two traits in closed form."""
    t = V.shape[1]
    if t > 2:
        return np.linalg.inv(V), np.linalg.slogdet(V)[1]
    if t == 1:
        return 1 / V, np.log(V[:, 0, 0])
    determinants = V[:, 0, 0] * V[:, 1, 1] - V[:, 0, 1] ** 2
    adjoint = np.empty_like(V)
    adjoint[:, 0, 0], adjoint[:, 1, 1] = V[:, 1, 1], V[:, 0, 0]
    adjoint[:, 0, 1] = adjoint[:, 1, 0] = -V[:, 0, 1]
    return adjoint / determinants[:, None, None], np.log(determinants)


def spectral_controls(stack: Stack, S: np.ndarray, of: StackSpectrum) -> tuple[np.ndarray, np.ndarray]:
    """:func:`controls_at` by eigenvectors of the chains."""
    own, part = stack.entries, stack.parts[0]
    both, diagonal = np.where(own.a == own.b, 1.0, 2.0), own.a == own.b
    inverse, off = np.empty((len(own.h), stack.num_probes)), np.zeros((len(own.h), stack.num_probes))
    for known, chain in zip(part.folds, of.folds, strict=True):
        left = part.dimension - len(chain.values)
        D = np.linalg.inv(mean_off(S, known.tails[None], np.array([left]), np.ones((1, 1), bool)))
        M = inverses(chain.values[:, None, None] * S[0] + S[1])[0][:, own.a, own.b].T
        cores = np.stack([chain.values, np.ones_like(chain.values)])[own.h]
        found = np.stack([M[k] @ chain.products[h] for k, h in enumerate(own.h)])
        off_chain = D[own.a, own.b][:, None] * (known.forms - known.tails[:, None])[own.h]
        inverse[:, chain.own] = both[:, None] * (found - np.sum(M * cores, axis=1)[:, None] + off_chain)
        off[:, chain.own] = np.where(diagonal[:, None], (known.forms - known.tails[:, None])[own.h], 0.0)
    return inverse, off


def forms_of(stack: Stack, solutions: list[list[np.ndarray]]) -> np.ndarray:
    """(p, s) sum over traits of (z (x) e_a)'dV w_a for every entry, where w_a has the parts solutions[a][b] (d_b, s).

    Between two traits it is the sum of both orders.
    """
    out = np.empty((len(stack.entries.h), stack.num_probes))
    for k, (h, a, b) in enumerate(zip(*stack.entries, strict=True)):
        out[k] = np.einsum("ds,ds->s", stack.images[a][b][h], solutions[a][b])
        if a != b:
            out[k] += np.einsum("ds,ds->s", stack.images[b][a][h], solutions[b][a])
    return out


def mean_off(S: np.ndarray, off: np.ndarray, left: np.ndarray, same: np.ndarray) -> np.ndarray:
    """(t, t) V's mean off the spans of traits, for traces ``off`` (t, H) of components there and their dimensions
    ``left`` (t,); 0 between traits of different people."""
    means = np.divide(off, left[:, None], out=np.zeros_like(off), where=left[:, None] > 0)
    means[left <= 0, -1] = 1.0
    return np.where(same, np.einsum("hab,ah->ab", S, means), 0.0)


def controls_at(stack: Stack, S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p, s) each: (z (x) e)'dV M^-1 (z (x) e) less its trace, and (z (x) e)'dV (I - QQ')(z (x) e) less its own, Q the
    other fold's chains."""
    own, t, s = stack.entries, len(stack.y), stack.num_probes
    inverse, off, folds = np.empty((len(own.h), s)), np.zeros((len(own.h), s)), fold_of(s)
    dimensions = np.array([part.dimension for part in stack.parts])
    for fold, of in enumerate(stack.folds):
        sizes = np.array([len(of[a][a].inside) for a in range(t)])
        tails = np.array([of[a][a].tails for a in range(t)])
        D = np.linalg.inv(mean_off(S, tails, dimensions - sizes, stack.same))
        cores = [[np.tensordot(S[:, a, b], of[a][b].core, axes=1) for b in range(t)] for a in range(t)]
        M, ends = inverse_of(np.block(cores)), np.cumsum([0, *sizes])
        at = [slice(first, last) for first, last in pairwise(ends)]
        solved = [[M[at[b], at[a]] @ of[a][b].inside for b in range(t)] for a in range(t)]
        for k, (h, a, b) in enumerate(zip(*own, strict=True)):
            orders = ((a, b),) if a == b else ((a, b), (b, a))
            known = np.sum(M[at[a], at[b]] * of[a][b].core[h])
            found = sum(np.einsum("rs,rs->s", of[i][j].images[h], solved[i][j]) for i, j in orders)
            if stack.same[a, b]:
                known += D[a, b] * tails[a, h]
                found = found + sum(D[i, j] * of[i][j].forms[h] for i, j in orders)
            inverse[k, folds == fold] = found - len(orders) * known
            if a == b:
                off[k, folds == fold] = of[a][a].forms[h] - tails[a, h]
    return inverse, off


def controlled(stack: Stack, S: np.ndarray, values: np.ndarray, inverse: np.ndarray, off: np.ndarray) -> Traces:
    """Traces from values (p, s) less their controls: each one's own two, and the two of V's genetic part as a whole.

    The residual's of a trait follow from those of the others, as the trait's block of V P has a trace of n_a - c_a.
    """
    own, s = stack.entries, stack.num_probes
    num, G = num_controls(s), len(S) - 1
    theta = own.vector(S)
    share = np.where(own.h < G, theta, 0.0)
    share = share / np.abs(share).sum() if share.any() else np.full(len(theta), 1 / len(theta))
    totals = (np.broadcast_to(share @ control, control.shape) for control in (inverse, off))
    X = np.stack([inverse, next(totals), off, next(totals)], axis=2)[:, :, :num]
    slopes = regression_slopes(X - X.mean(axis=1, keepdims=True), values - values.mean(axis=1, keepdims=True))
    left = values - (X @ slopes[:, :, None])[:, :, 0]
    for a, part in enumerate(stack.parts):
        residual = own.index(G, a, a)
        mine = ((own.a == a) | (own.b == a)) & (np.arange(len(theta)) != residual)
        weights = np.where(mine, theta * np.where(own.a == own.b, 1.0, 0.5), 0.0)
        left[residual] = (part.dimension - weights @ left) / theta[residual]
    return Traces(left, num)
