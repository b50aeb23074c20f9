"""Weights of variants that are learned with the variances: w_j = exp(sum_k tau_k a_jk), such as the alpha model's.

With K_g(tau) = Z diag(w~_g) Z', w~_jg = w_jg exp(..) / sum_i, the derivative of V by tau_k is one more weight column,
signed: D_k = Z diag(sum_g theta_g w~_g (a_k - abar_kg)) Z', abar the mean of a_k under w~_g.  So score and average
information of (theta, tau) are those of the covariance with D_k as further components at zero, and tau moves by AI
steps of the likelihood that is maximised over theta at every tau.  All tau share a basis and its probes, as other
weights of the variants need none of its products anew; likelihoods are compared within it.
Source: Speed et al. 2017, Nat. Genet. 49:986 (the alpha model, there by a grid).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse, special

from gpu_reml.ops import GenotypeCovariance, blas, make_covariance
from gpu_reml.ops.arguments import as_matrix
from gpu_reml.ops.genotypes import PackedGenotypes

from ..covariance import CountingCovariance
from ..covariance.threaded import ThreadedCovariance
from ..engines.reduced import reduced_v, solved
from ..engines.reduced_end import finish, with_information
from ..engines.reduced_fit import answering, ended, state_at
from ..engines.reduced_model import Model, Problem, first_model, prepare
from ..engines.reduced_point import controls_at, information, score_of
from ..engines.reduced_search import Walk
from ..engines.rise import End, end_at, rise
from ..inference import Derived, delta_method
from ..probes import NUM_PROBES, Probes, checked_probes
from ..profile import LEVEL, Drop, found_end
from ..result import ConvergenceError, FitResult, SingularModelError
from ..settings import FitSettings
from ..traits import Traits, one_trait
from .memberships import norms_left
from .relax import in_components, with_room

if TYPE_CHECKING:  # loaded only where a frame is asked for
    import pandas as pd

TOL = 1e-6  # Newton decrement that ends fits and the search for tau: a step of 1e-3 standard errors
MOST_STEPS = 30
HALVINGS = 6
LONGEST = 1.0  # most by which a step may change the standard deviation of log weights
FLAT = 4.0  # a tau whose error changes log weights by this many units of their spread is not told by the data
DEPENDENT = 1e-9  # an eigenvalue of the information, of unit diagonal, over the largest that is rounding
REACH = 8.0  # ends of an interval are looked for up to so many units of log weights' spread from tau


@dataclass(frozen=True)
class LogLinear:
    """log w_j = sum_k tau_k columns_jk: ``columns`` (m, K), ``names`` (K,); ``components`` (K,): the component whose
    weights tau_k multiplies, by name, None for all."""

    columns: np.ndarray
    names: tuple[str, ...]
    components: tuple[str | None, ...] | None = None

    def applies(self, names: Sequence[str]) -> np.ndarray:
        """(K, G) 0/1: which components tau_k multiplies; ValueError for one that there is not."""
        asked = self.components or (None,) * len(self.names)
        if len(asked) != len(self.names) or len(set(self.names)) < len(self.names):
            raise ValueError(
                f"weights: expected different names, and a component for each, found {self.names}, {asked}"
            )
        unknown = [name for name in asked if name is not None and name not in names]
        if unknown:
            raise ValueError(f"weights: no component {unknown[0]}; there are {', '.join(names)}")
        return np.array([[each is None or each == name for name in names] for each in asked], float)


def alpha_law(genotypes: PackedGenotypes, components: Sequence[str] | None = None) -> LogLinear:
    """The alpha model: log w_j = tau log 2p(1-p), alpha = tau - 1; one alpha for all, or one for each component named.

    0 where a variant does not vary.

    >>> import numpy as np
    >>> from gpu_reml.ops import pack, standardise
    >>> from gpu_reml.reml import alpha_law
    >>> law = alpha_law(standardise([pack(np.array([[0, 1], [1, 1], [2, 0], [1, 0]], np.int8))], 4))
    >>> law.names, np.exp(law.columns[:, 0]).round(3).tolist()  # 2p(1-p) for p = 1/2 and 1/4
    (('alpha',), [0.5, 0.375])
    """
    varies, p = genotypes.inv_sd > 0, genotypes.mean / 2
    column = np.zeros(genotypes.num_variants)
    column[varies] = np.log(2 * p[varies] * (1 - p[varies]))
    names = ("alpha",) if components is None else tuple(f"alpha_{name}" for name in components)
    return LogLinear(np.repeat(column[:, None], len(names), axis=1), names, tuple(components) if components else None)


@dataclass(frozen=True)
class LearnedWeights:
    """tau (K,) with sampling ``se``, Monte-Carlo ``mc_se`` and profile-likelihood interval ``lower``, ``upper`` of 95 %
    (infinite where the likelihood does not fall as far, NaN where it is not known).

    ``lrt``: twice the rise of the log-likelihood from tau = 0, with ``lrt_mc_se`` and ``p`` of chi-square with K
    degrees of freedom; NaN where the basis has no room for both.  ``flat`` (K,): whether the data hardly tell tau.
    ``fit``: the variances at tau, whose errors take tau as known; ``covariance``, ``mc_covariance``: of (theta, tau),
    jointly; ``h2`` with the error of tau in it.
    ``path``: every tau that was fitted on the way.
    """

    names: tuple[str, ...]
    tau: np.ndarray
    se: np.ndarray
    mc_se: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    lrt: float
    lrt_mc_se: float
    p: float
    flat: np.ndarray
    h2: Derived
    fit: FitResult
    covariance: np.ndarray
    mc_covariance: np.ndarray
    path: tuple[tuple[float, ...], ...]

    def to_frame(self, shift: float = 0.0) -> "pd.DataFrame":
        """A row for each tau, moved by ``shift``: -1 makes tau of the alpha model alpha."""
        import pandas as pd

        moved = {"estimate": self.tau + shift, "se": self.se, "mc_se": self.mc_se}
        ends = {"lower": self.lower + shift, "upper": self.upper + shift}
        return pd.DataFrame({"name": self.names, **moved, **ends, "flat": self.flat})


class Place(NamedTuple):
    """A tau with the problem of its covariance, and its fit with its basis."""

    tau: np.ndarray
    problem: Problem
    model: Model
    walk: Walk

    @property
    def own(self) -> GenotypeCovariance:
        """The covariance itself."""
        return self.problem.covariance.base.base

    @property
    def end(self) -> End:
        return end_at(self.problem, self.model, self.walk.theta)

    def within(self, model: Model) -> "Place":
        """The place in the basis of another's model; no pass."""
        return self._replace(model=in_components(self.problem, model))

    def answered(self, model: Model) -> "Place":
        """The place with a model in whose basis its columns have converged."""
        return self._replace(model=answering(self.problem, model, self.walk.theta))


class Slopes(NamedTuple):
    """Score and average information (p, p) of (theta, tau), theta's residual before tau, and the Monte-Carlo covariance
    of the score; ``free`` (p,): parameters off their bound."""

    score: np.ndarray
    information: np.ndarray
    mc: np.ndarray
    free: np.ndarray

    def inverse(self, kept: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Of the information about parameters ``kept`` (p,) bool; SingularModelError where some, by ``names`` (p,),
        cannot be told apart."""
        information = self.information[np.ix_(kept, kept)]
        units = np.sqrt(np.diag(information))
        values, vectors = np.linalg.eigh(information / np.outer(units, units))
        if values[0] <= DEPENDENT * values[-1]:
            involved = np.flatnonzero(kept)[np.abs(vectors[:, 0]) > 0.1]
            raise SingularModelError(
                f"weights: {', '.join(names[i] for i in involved)} cannot be told apart (singular information); leave "
                "one out"
            )
        return (vectors / values) @ vectors.T / np.outer(units, units)


class Shared(NamedTuple):
    """What all fits share: the ``base`` covariance at tau = 0, the law of the weights and which components it
    ``applies`` to (K, G), the trait, its probes, |z_j|^2 off the fixed effects (m,), and the
    ``names`` of (theta, tau)."""

    base: GenotypeCovariance
    columns: np.ndarray
    applies: np.ndarray
    trait: Traits
    probes: Probes
    norms: np.ndarray
    names: tuple[str, ...]

    def covariance(self, tau: np.ndarray) -> GenotypeCovariance:
        """K_g(tau)."""
        exponents = self.columns @ (tau[:, None] * self.applies)  # (m, G)
        weights = self.base.weights.tocoo()
        logs = np.log(weights.data) + exponents[weights.row, weights.col]
        largest = np.full(self.base.num_components, -np.inf)
        np.maximum.at(largest, weights.col, logs)
        scaled = sparse.coo_array((np.exp(logs - largest[weights.col]), (weights.row, weights.col)), weights.shape)
        return make_covariance(self.base.products, scaled, self.base.names)

    def fitted(self, tau: np.ndarray, problem: Problem, model: Model, theta: np.ndarray) -> Place:
        """The fit at tau from theta, in the basis of a model."""
        covariance = CountingCovariance(
            ThreadedCovariance(self.covariance(tau)), before=problem.covariance.column_passes
        )
        problem = problem._replace(covariance=covariance, traces=covariance.weights.T @ self.norms)
        state = ended(problem, self.probes, state_at(problem, in_components(problem, model), theta), 1.0)
        return Place(tau, problem, state.model, state.walk)

    def derivatives(self, covariance: GenotypeCovariance, theta: np.ndarray) -> sparse.csr_array:
        """(m, K) the weights of D_k."""
        made = []
        for a, applies in zip(self.columns.T, self.applies, strict=True):
            part = sparse.csr_array(covariance.weights @ sparse.diags_array(applies))
            means = part.T @ a
            signed = part.multiply(a[:, None]) - part @ sparse.diags_array(means)
            made.append(sparse.csr_array((sparse.csr_array(signed) @ theta)[:, None]))
        return sparse.csr_array(sparse.hstack(made))

    def spread(self, covariance: GenotypeCovariance) -> np.ndarray:
        """(K,) the largest standard deviation of a column under the weights that it changes."""
        means = covariance.weights.T @ self.columns
        squares = covariance.weights.T @ self.columns**2
        return np.sqrt(np.maximum((squares - means**2).T * self.applies, 0).max(axis=1))

    def slopes(self, place: Place) -> Slopes:
        """Score and information at a place; a pass of G + K + 1 columns, half the overlap."""
        own, theta = place.own, place.walk.theta
        added = self.derivatives(own, theta[:-1])
        weights = sparse.csr_array(sparse.hstack([own.weights, added]))
        K = added.shape[1]
        names = (*own.names, *(f"tau {k}" for k in range(K)))
        covariance = CountingCovariance(
            ThreadedCovariance(GenotypeCovariance(own.products, weights, names, (0,) * len(names)))
        )
        lower = np.concatenate([place.problem.lower[:-1], np.full(K, -np.inf), place.problem.lower[-1:]])
        problem = place.problem._replace(covariance=covariance, traces=weights.T @ self.norms, lower=lower)
        model, theta = in_components(problem, place.model), np.concatenate([theta[:-1], np.zeros(K), theta[-1:]])
        V, B = reduced_v(model.basis.T, theta), np.column_stack([model.trait(0), model.probes])
        inverse = controls_at(problem, model, theta)
        score, traces, _ = score_of(problem, model, theta, solved(V, B), inverse)
        order = np.r_[: own.num_components, len(theta) - 1, own.num_components : len(theta) - 1]
        ai = information(problem, model, theta, 0)
        mc = np.zeros_like(ai) if model.exact else traces.covariance / 4
        free = np.append(place.problem.free(place.walk.theta), np.diag(ai)[own.num_components : -1] > 0)
        return Slopes(score[order], ai[np.ix_(order, order)], mc[np.ix_(order, order)], free)


def fit_weights(
    y: np.ndarray,
    X: np.ndarray,
    covariance: GenotypeCovariance,
    law: LogLinear,
    probes: Probes | np.ndarray | int = NUM_PROBES,
    settings: FitSettings | None = None,
    *,
    interval: bool = True,
) -> LearnedWeights:
    """REML of the variances together with tau, the exponents of log-linear weights of the variants.

    y (n,), X (n, c); covariance: components of genotypes, whose weights are those at tau = 0; ``law``:
    :class:`LogLinear`, :func:`alpha_law`; probes and settings as for :func:`~gpu_reml.reml.fit.fit`.
    interval: whether profile-likelihood intervals are looked for, five to ten more fits for each tau.
    Cost: a fit, half a pass of the probes or less for every tau after the first, and m d^2 flop of small algebra.
    Raises ValueError for wrong arguments, ConvergenceError where the fit at tau = 0 does not converge.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_covariance, make_products, pack, standardise
    >>> from gpu_reml.reml import LogLinear, fit_weights
    >>> rng = np.random.default_rng(0)
    >>> counts, score = rng.binomial(2, 0.4, (200, 300)).astype(np.int8), rng.standard_normal(300)
    >>> whole = make_covariance(make_products(standardise([pack(counts)], 200), "cpu"))
    >>> effects = np.exp(score / 2) * rng.standard_normal(300) / 12  # their variance is that of tau = 1
    >>> y = (counts - 0.8) @ effects + rng.standard_normal(200)
    >>> found = fit_weights(y, np.ones((200, 1)), whole, LogLinear(score[:, None], ("score",)), interval=False)
    >>> bool(abs(found.tau[0] - 1) < 3 * found.se[0]), bool(found.p < 0.05)
    (True, True)
    """
    if not isinstance(covariance, GenotypeCovariance):
        raise ValueError(f"covariance: expected one of make_covariance, found {type(covariance).__name__}")
    settings = replace(settings or FitSettings(), lrt=False, profile=False)
    settings = replace(settings, tol=min(settings.tol, TOL))
    with blas.one_thread():
        shared, first = first_place(y, X, covariance, law, probes, settings)
        best, path = climbed(shared, first, np.ones(len(law.names), bool))
        return learned(shared, law, first, best, tuple(path), interval=interval)


def first_place(
    y: np.ndarray, X: np.ndarray, covariance: GenotypeCovariance, law: LogLinear, probes, settings: FitSettings
) -> tuple[Shared, Place]:
    """What all fits share, and the fit at tau = 0, which takes as many probes as its Monte-Carlo errors ask for."""
    columns = as_matrix(law.columns, "weights", covariance.products.num_variants, len(law.names))
    counting = CountingCovariance(ThreadedCovariance(covariance))
    trait, probes = one_trait(y, X, counting), checked_probes(probes, covariance.num_samples)
    problem = prepare(counting, trait, probes, settings)
    norms, names = norms_left(counting, problem.Q), (*covariance.names, "residual", *law.names)
    shared = Shared(covariance, columns, law.applies(covariance.names), trait, probes, norms, names)
    zero = np.zeros(columns.shape[1])
    first = shared.fitted(zero, problem, first_model(problem, probes), problem.start())
    if first.walk.status is None or not first.walk.history:
        raise ConvergenceError("the fit at tau = 0 does not converge; try a covariance of fewer components")
    count = first.model.num_probes  # others that begin anew take as many
    shared = shared._replace(probes=Probes(probes.trace[:, :count], probes.sketch))
    settings = replace(settings, probes=replace(settings.probes, first=count))
    first = first._replace(problem=first.problem._replace(settings=settings))
    return shared, first


def climbed(shared: Shared, place: Place, moves: np.ndarray) -> tuple[Place, list[tuple[float, ...]]]:
    """The place of the highest likelihood over the tau that move (K,), and every tau on the way.

    Average-information steps, halved while the likelihood is known to fall; they end with a Newton decrement of TOL.
    """
    path, K = [tuple(place.tau.tolist())], len(moves)
    for _ in range(MOST_STEPS):
        slopes = shared.slopes(place)
        kept = slopes.free & np.append(np.ones(len(slopes.free) - K, bool), moves)
        if not kept[-K:].any():
            break
        step = np.zeros(len(kept))
        step[kept] = slopes.inverse(kept, shared.names) @ slopes.score[kept]
        if slopes.score @ step <= TOL:
            break
        place = with_room(shared, place)
        length = np.max(np.abs(step[-K:]) * shared.spread(place.own))
        share = min(1.0, LONGEST / length) if length > 0 else 1.0
        for _ in range(HALVINGS):
            theta = np.maximum(place.walk.theta + share * step[:-K], place.problem.lower)
            trial = shared.fitted(place.tau + share * step[-K:], place.problem, place.model, theta)
            gained = difference(place, trial).value
            if not gained < 0:
                break
            share /= 2
        path.append(tuple(trial.tau.tolist()))
        if gained < 0:
            break
        place = trial
    return place, path


def extends(later: Model, earlier: Model) -> bool:
    """Whether a basis has grown from another, and was not started again."""
    return later.basis.U[0] is earlier.basis.U[0]


def difference(lower: Place, upper: Place) -> Drop:
    """The log-likelihood of one place above another's, in the later's basis, with its Monte-Carlo error; NaN where that
    has no room to answer for both."""
    beside = lower.within(upper.model)
    if not extends(upper.model, lower.model):
        beside = beside.answered(beside.model)
        if not extends(beside.model, upper.model):
            return Drop(np.nan, np.nan)
        upper = upper.within(beside.model)
    found = rise(upper.problem, upper.model, beside.end, upper.end)
    return Drop(found.value, found.mc_se)


def learned(
    shared: Shared, law: LogLinear, first: Place, best: Place, path: tuple[tuple[float, ...], ...], *, interval: bool
) -> LearnedWeights:
    """Errors, tests and intervals at the end of a search, in y's units."""
    K, slopes = len(law.names), shared.slopes(best)
    p = len(slopes.score)
    covariance, mc = np.full((p, p), np.nan), np.zeros((p, p))
    free = np.flatnonzero(slopes.free)
    inverse = slopes.inverse(slopes.free, shared.names)
    covariance[np.ix_(free, free)] = inverse
    mc[np.ix_(free, free)] = inverse @ slopes.mc[np.ix_(free, free)] @ inverse
    se = np.sqrt(np.diag(covariance)[-K:])
    spread = shared.spread(best.own)
    flat = ~(se * spread < FLAT)
    ends = np.full((K, 2), np.nan)
    ends[flat] = -np.inf, np.inf
    for k in np.flatnonzero(~flat) if interval else ():
        ends[k] = interval_of(shared, best, k, se[k], spread[k])
    risen = difference(first, best)
    units = np.append(np.full(p - K, shared.trait.scales[0] ** 2), np.ones(K))
    covariance, mc = (matrix * np.outer(units, units) for matrix in (covariance, mc))
    fit = fit_at(shared, best)
    statistic = float(np.maximum(2 * risen.value, 0.0))  # NaN stays
    return LearnedWeights(
        law.names,
        best.tau,
        se,
        np.sqrt(np.diag(mc)[-K:]),
        ends[:, 0],
        ends[:, 1],
        statistic,
        2 * risen.mc_se,
        float(special.chdtrc(K, statistic)),
        flat,
        heritability_of(shared, best, fit, (covariance, mc)),
        fit,
        covariance,
        mc,
        path,
    )


def interval_of(shared: Shared, best: Place, k: int, se: float, spread: float) -> tuple[float, float]:
    """The profile-likelihood interval of tau_k."""
    peak, target, reach = float(best.tau[k]), float(np.sqrt(special.chdtri(1, 1 - LEVEL))), REACH / spread
    others = np.arange(len(best.tau)) != k

    def drop(value: float) -> Drop:
        tau = best.tau.copy()
        tau[k] = value
        place = with_room(shared, best)
        found = shared.fitted(tau, place.problem, place.model, place.walk.theta)
        if others.any():
            found, _ = climbed(shared, found, others)
        fallen = difference(place, found)
        return Drop(-fallen.value, fallen.mc_se)

    ends = []
    for side in (-1.0, 1.0):
        edge = peak + side * max(reach, 4 * target * se)
        found = found_end(drop, peak, peak + side * target * se, edge, target, 0.02).end
        ends.append(side * np.inf if found == edge else found)
    return ends[0], ends[1]


def fit_at(shared: Shared, place: Place) -> FitResult:
    """The fit at a place as it is reported."""
    problem = prepare(place.problem.covariance, shared.trait, shared.probes, place.problem.settings)
    return finish(problem, place.model, with_information(problem, place.model, place.walk), shared.trait)


def heritability_of(
    shared: Shared, place: Place, fit: FitResult, covariances: tuple[np.ndarray, np.ndarray]
) -> Derived:
    """h2 (1,) at a place, with the error of tau in it."""
    n, G, own = fit.num_samples, len(fit.names), place.own
    atoms = np.append(fit.mean_traces, 1.0)
    total = float(fit.theta @ atoms)
    h2 = 1 - float(fit.theta[-1]) / total
    by_theta = (np.append(fit.mean_traces, 0.0) - h2 * atoms) / total
    traces = shared.derivatives(own, fit.theta[:G]).T @ own.products.genotypes.squared_norm / n
    return delta_method(np.array([h2]), np.append(by_theta, (1 - h2) / total * traces)[None], *covariances)
