"""Genetic covariances and correlations of traits, each of its own people, by REML for any number of components.

With the components K_g and traits a, b the covariance of y_a[i] and y_b[j] is sum_g S_g[a, b] K_g[i, j], and
S_e[a, b] more where i = j: people who have both traits alone tell the residual's, relatedness of any people the
genetic ones.
Sources: Thompson 1973, Biometrics 29:527; Lee et al. 2012, Bioinformatics 28:2540 (bivariate REML on genotypes).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gpu_reml.ops import blas
from gpu_reml.ops.arguments import as_numbers

from ..covariance import CountingCovariance, as_covariance, genetic
from ..covariance.threaded import ThreadedCovariance
from ..linalg import orthonormal_basis
from ..probes import NUM_PROBES, Probes, checked_probes
from ..result import ConvergenceError
from ..settings import FitSettings
from ..units import in_moderate_units, reported_factors
from .rg_bases import PeopleBasis, answering, people_of, with_images, with_probes_wanted
from .rg_cone import entries_of, is_singular
from .rg_pairs import Bench, Member, StackFit, fits_of
from .rg_result import GeneticCorrelations, PairResult

MOST_JOINT = 10
NOT_CONVERGED = (
    "{count} of {all} fits of traits have not converged, and have the values of one step from the fits of each trait "
    "alone, or a basis that does not answer for them; see their status, raise SolverSettings.most_basis, or use "
    "products in float64"
)


@dataclass(frozen=True)
class RgSettings:
    """``pairs`` of traits by their place, by default all; or ``joint``, one fit of up to 10 traits.
    ``tests``: likelihood ratios of rg = 0 and |rg| = 1 of every two traits in every component, each a further search in
    the fit's basis.  |rg| = 1 of t traits fitted jointly has the law of chi-squares with t - 2 and t - 1 degrees of
    freedom, half of the time each."""

    pairs: tuple[tuple[int, int], ...] | None = None
    joint: bool = False
    tests: bool = True

    def wanted(self, num_traits: int) -> list[tuple[int, ...]]:
        """Which traits are fitted together, or a ValueError."""
        if self.joint:
            if num_traits > MOST_JOINT:
                raise ValueError(
                    f"joint: is for up to {MOST_JOINT} traits, found {num_traits}; leave it out to fit pairs"
                )
            return [tuple(range(num_traits))]
        if self.pairs is None:
            return list(combinations(range(num_traits), 2))
        for a, b in self.pairs:
            if a == b or not (0 <= a < num_traits and 0 <= b < num_traits):
                raise ValueError(f"pairs: expected two different traits of 0 to {num_traits - 1}, found ({a}, {b})")
        if not self.pairs:
            raise ValueError("pairs: expected at least one, found none")
        return [(int(a), int(b)) for a, b in self.pairs]


def fit_rg(
    Y: np.ndarray,
    X: np.ndarray | Sequence[np.ndarray],
    covariance,
    probes: Probes | np.ndarray | int = NUM_PROBES,
    settings: FitSettings | None = None,
    *,
    rg: RgSettings | None = None,
    callback: Callable[[int, int], None] | None = None,
    strict: bool = True,
) -> GeneticCorrelations:
    """REML of the genetic and residual covariance matrices of traits Y (n, T), NaN where a trait was not measured.

    X (n, c), fixed effects of every trait on its own people, of which columns that say nothing there are left out, or a
    list of T such matrices, one for each trait, of which the rows of other people are not read;
    covariance as :func:`~gpu_reml.reml.fit.fit` takes it, with an identity residual, of all n people (standardised over
    them all); probes too, and ``settings``, of which lrt, profile, engine and constrain are not used.
    Names of the traits are those of the columns of a data frame Y.  callback(done, all): after every fit.
    Matrices are positive semidefinite; what is at a bound is said in ``status`` and has no error.
    Cost in column-passes: about what the fits of the traits take on their own, for traits of the same people that of
    one fit and a few for each further trait; a pass for each pair.  Memory: a basis for every group of people, 4 (n +
    m) bytes a vector.
    Raises ValueError on invalid input, ConvergenceError (with the result) where a fit does not converge and ``strict``.

    >>> import numpy as np
    >>> from gpu_reml.reml import fit_rg
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> g = Z @ rng.standard_normal((400, 2)) @ np.array([[1, 0.8], [0, 0.6]]) / 20
    >>> Y = g + rng.standard_normal((200, 2))
    >>> Y[:50, 0], Y[150:, 1] = np.nan, np.nan
    >>> found = fit_rg(Y, np.ones((200, 1)), Z @ Z.T / 400)
    >>> found.to_frame()[["component", "n_1", "n_2", "n_common"]].to_numpy().tolist()[-1]
    ['residual', 150, 150, 100]
    """
    settings, rg = settings or FitSettings(), rg or RgSettings()
    names = names_of(Y)
    Y, designs = checked_traits(Y, X)
    names = names or tuple(f"trait_{k + 1}" for k in range(Y.shape[1]))
    wanted = rg.wanted(Y.shape[1])
    covariance = in_moderate_units(genetic(as_covariance(covariance, len(Y))))
    if covariance.num_samples != len(Y):
        raise ValueError(f"Y: expected {covariance.num_samples} samples, as the covariance has, found {len(Y)}")
    probes = checked_probes(probes, len(Y))
    factors = reported_factors(covariance)
    factors = np.ones(covariance.num_components + 1) if factors is None else factors
    counting = CountingCovariance(ThreadedCovariance(covariance))
    with blas.one_thread():
        bench = bench_of(Y, designs, counting, probes, settings)
        fits = []
        for fit in fits_of(bench, wanted, rg.tests):
            fits.append(reported(bench, fit, factors))
            if callback is not None:
                callback(len(fits), len(wanted))
    has = ~np.isnan(Y)
    result = GeneticCorrelations(
        names,
        tuple(covariance.names),
        tuple(fits),
        has.T.astype(int) @ has.astype(int),
        variances_alone(bench) / factors,
        max(people.model.num_probes for people in bench.people),
        counting.column_passes,
    )
    failed = sum(not (fit.converged and fit.answered) for fit in fits)
    if strict and failed:
        raise ConvergenceError(NOT_CONVERGED.format(count=failed, all=len(fits)), result)
    return result


def checked_traits(Y: np.ndarray, X: np.ndarray | Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Y (n, T) with NaN, and every trait's X (n, c), as float64, or a ValueError that says what is wrong with them."""
    Y = as_numbers(Y, "Y")
    if Y.ndim != 2 or Y.shape[1] < 2:
        raise ValueError(f"Y: expected two or more traits (n, T), found {Y.shape}")
    designs = checked_designs(X, ~np.isnan(Y))
    if np.isinf(Y).any():
        sample, trait = np.argwhere(np.isinf(Y))[0]
        raise ValueError(f"Y: value {Y[sample, trait]} of sample {sample}, trait {trait} is not finite; NaN is missing")
    for trait, count in enumerate((~np.isnan(Y)).sum(axis=0)):
        fixed = designs[trait].shape[1]
        if count <= fixed + 1:
            raise ValueError(f"Y[:, {trait}]: is measured in {count} people, too few beside {fixed} fixed effects")
    return Y, designs


def checked_designs(X: np.ndarray | Sequence[np.ndarray], has: np.ndarray) -> list[np.ndarray]:
    """X (n, c) for each of T traits as float64; one for all is checked among all people, others among those who are
    measured, has (n, T)."""
    n, T = has.shape
    if not isinstance(X, list | tuple):
        X = as_numbers(X, "X")
        if X.ndim != 2 or len(X) != n:
            raise ValueError(f"X: expected ({n}, c), found {X.shape}")
        orthonormal_basis(X)  # raises what is wrong with it for all people
        return [X] * T
    if len(X) != T:
        raise ValueError(f"X: expected {T} matrices, one for each trait, found {len(X)}")
    designs = [as_numbers(x, f"X[{trait}]") for trait, x in enumerate(X)]
    for trait, x in enumerate(designs):
        if x.ndim != 2 or len(x) != n:
            raise ValueError(f"X[{trait}]: expected ({n}, c), found {x.shape}")
        if not np.isfinite(x[has[:, trait]]).all():
            raise ValueError(f"X[{trait}]: has a value that is not finite for a sample that the trait is measured in")
    return designs


def names_of(Y) -> tuple[str, ...] | None:
    """Names of the columns of a data frame, different ones, or a ValueError; None for an array."""
    if not hasattr(Y, "columns"):
        return None
    names = tuple(map(str, Y.columns))
    if len(set(names)) < len(names):
        raise ValueError(f"Y: expected columns of different names, found {', '.join(names)}")
    return names


def bench_of(Y: np.ndarray, X: Sequence[np.ndarray], covariance, probes: Probes, settings: FitSettings) -> Bench:
    """Bases that answer for every trait on its own."""
    people = [ready(each) for each in people_of(Y, X, covariance, probes, settings)]
    members = {trait: Member(k, column) for k, each in enumerate(people) for column, trait in enumerate(each.whose)}
    return Bench(covariance, people, [members[trait] for trait in range(Y.shape[1])])


def ready(people: PeopleBasis) -> PeopleBasis:
    """The people with a basis and probes that answer for each of their traits on its own."""
    return with_images(with_probes_wanted(answering(people)))


def scales_of(bench: Bench) -> np.ndarray:
    """(T,) the standard deviation of every trait."""
    return np.array([bench.people[k].traits.scales[column] for k, column in bench.members])


def variances_alone(bench: Bench) -> np.ndarray:
    """(T, G + 1) of every trait on its own, in its units, per unit of K as it is fitted."""
    thetas = np.array([bench.people[k].thetas[column] for k, column in bench.members])
    return thetas * scales_of(bench)[:, None] ** 2


def residuals_at_floor(fit: StackFit, floor: float) -> np.ndarray:
    """(t,) bool: traits whose residual is at its bound, alone or as a combination with others."""
    values, vectors = np.linalg.eigh(fit.S[-1])
    return (np.abs(vectors[:, values <= floor * (1 + 1e-6)]) > 1e-6).any(axis=1)


def reported(bench: Bench, fit: StackFit, factors: np.ndarray) -> PairResult:
    """A fit in the units of its traits, with its sampling covariance.

    A residual at its bound has no error, and the others' are those with it held there.
    """
    own = entries_of(*fit.S.shape[:2])
    H, scales = len(fit.S), scales_of(bench)[list(fit.members)]
    at_floor = residuals_at_floor(fit, bench.floor)
    known = fit.told & ~((own.h == H - 1) & (at_floor[own.a] | at_floor[own.b]))
    covariance = np.full(fit.information.shape, np.nan)
    among = fit.information[np.ix_(known, known)]
    singular = is_singular(among)
    if not singular:
        covariance[np.ix_(known, known)] = np.linalg.inv(among)
    units = scales[own.a] * scales[own.b] / factors[own.h]
    squares = np.outer(units, units)
    people = [bench.people[bench.members[trait].people] for trait in fit.members]
    means = np.column_stack([each.problem.layout.mean_traces for each in people]) * factors[:-1, None]
    return PairResult(
        traits=fit.members,
        S=own.matrices(own.vector(fit.S) * units),
        covariance=covariance * squares,
        mc_covariance=fit.mc * squares,
        mean_traces=means,
        told=fit.told,
        converged=fit.converged,
        answered=fit.answered,
        residual_at_floor=at_floor,
        singular=singular,
        rg0=fit.rg0,
        rg1=fit.rg1,
    )
