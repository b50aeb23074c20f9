"""Likelihood-ratio tests of some components beside others, and the law of their statistic.

Variances are not negative, and others beside those tested may be zero too.  Near the truth the likelihood is a
quadratic form, and the statistic is the squared length of a normal vector's projection on the cone of all components
that are tested or at their bound, less that on the cone of the latter alone.  Where no other is at its bound that is
a mixture of chi-squares (one tested: 1/2 chi2_0 + 1/2 chi2_1); else it is no mixture with fixed weights, and its tail
is integrated numerically over fixed Sobol points (no seed).
Source: Self & Liang 1987, JASA 82:605, cases 5 to 8.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from .inference import Lrt, boundary_weights
from .residuals import Layout
from .tables import shown

# The tail is integrated over so many Sobol points of the other components' coordinates, and errs by about 1e-3 of its
# value.
POINTS = 512
# So many points are taken where several components are tested beside others at their bound.
CONE_POINTS = 4096
# A root is found within so many Newton steps; six are usual.
NEWTON_STEPS = 30


def sobol_normals(dimension: int, num_points: int) -> np.ndarray:
    """(num_points, dimension) standard normal vectors of a fixed Sobol set; num_points a power of 2."""
    from scipy.stats import qmc  # half a second to import, which fits without such tests do without

    return special.ndtri(qmc.Sobol(dimension, scramble=False).random(num_points) + 0.5 / num_points)


class RatioTest(NamedTuple):
    """Test that ``components`` are all zero: ``statistic`` 2 (ell - ell_0) with its Monte-Carlo error; ``df``: how many
    they are; ``p_of_zero``: the probability, under the null, of a statistic of 0.  NaN where the fit without them did
    not converge."""

    components: tuple[str, ...]
    statistic: float
    mc_se: float
    df: int
    p_of_zero: float
    p: float


def tested_sets(asked: bool | Sequence[Sequence[str]], names: Sequence[str]) -> list[np.ndarray]:
    """Positions of the components of every test: True is one test of each, False none, else sets by name.

    ValueError for a name that is none, or twice in a set.
    """
    if isinstance(asked, bool):
        return [np.array([g]) for g in range(len(names))] if asked else []
    for each in asked:
        unknown = [name for name in each if name not in names]
        if unknown:
            raise ValueError(f"lrt: no component {unknown[0]!r}; there are {', '.join(names)}")
        if not each or len(set(each)) < len(each):
            raise ValueError(f"lrt: expected different components in every test, found {', '.join(each) or 'none'}")
    return [np.array([list(names).index(name) for name in each]) for each in asked]


def test_of_one(components: Sequence[str], lrt: Lrt) -> RatioTest:
    """The test of a model's only component, which is the test of all components."""
    return RatioTest(tuple(components), lrt.statistic, lrt.mc_se, lrt.df, float(lrt.weights[0]), lrt.p)


class Law(NamedTuple):
    """The law of a statistic under the null: ``tail`` is P(statistic >= t) for t > 0."""

    p_of_zero: float
    tail: Callable[[float], float]

    def p(self, statistic: float) -> float:
        if np.isnan(statistic):
            return np.nan
        return self.tail(statistic) if statistic > 0 else 1.0


def ratio_lines(tests: Sequence[RatioTest]) -> list[str]:
    """The table a person reads."""
    names = [" ".join(test.components) for test in tests]
    width = max(12, *(len(name) for name in names))
    head = f"{'without':{width}s} {'LRT':>10s} {'MC error':>9s} {'df':>3s} {'P(LRT=0)':>9s} {'p':>9s}"
    return [
        head,
        *(
            f"{name:{width}s} {shown(test.statistic, '10.3f')} {shown(test.mc_se, '9.2g')} {test.df:3d} "
            f"{test.p_of_zero:9.3f} {shown(test.p, '9.3g')}"
            for name, test in zip(names, tests, strict=True)
        ),
    ]


def ratio_test(components: Sequence[str], statistic: float, mc_se: float, law: Law) -> RatioTest:
    """The test by a statistic: one that rounding made negative counts as 0, and one that is not known is NaN."""
    statistic = statistic if np.isnan(statistic) else max(0.0, statistic)
    return RatioTest(tuple(components), statistic, mc_se, len(components), law.p_of_zero, law.p(statistic))


def ratio_law(information: np.ndarray, tested: np.ndarray, at_bound: np.ndarray, *, constrained: bool = True) -> Law:
    """The law under the null, where ``tested`` (p,) bool are zero and, of the others, ``at_bound`` (p,) bool are too.

    information (p, p): about all parameters, at the maximum under the null.  Parameters that are neither tested nor at
    their bound are profiled out: their true values count as positive.
    constrained: whether variances are kept from being negative; without bounds the law is chi-square.
    """
    number = int(tested.sum())
    if not constrained:
        return Law(0.0, lambda t: float(special.chdtrc(number, t)))
    beside = at_bound & ~tested
    kept, rest = np.concatenate([np.flatnonzero(beside), np.flatnonzero(tested)]), np.flatnonzero(~(beside | tested))
    cross = information[np.ix_(kept, rest)]
    profiled = information[np.ix_(kept, kept)] - cross @ np.linalg.solve(information[np.ix_(rest, rest)], cross.T)
    scale = np.sqrt(np.diag(profiled))
    upper = np.linalg.cholesky(profiled / np.outer(scale, scale)).T
    if not beside.any():
        return _mixture(upper)
    return _one_beside_others(upper) if number == 1 else _several_beside_others(upper, int(beside.sum()))


def law_of_fit(
    information: np.ndarray, layout: Layout, theta: np.ndarray, lower: np.ndarray, tested: np.ndarray
) -> Law:
    """:func:`ratio_law` at the maximum theta (p,) without the components ``tested`` (positions).

    A residual without which V would be singular has no error at its bound, and is held there.
    """
    at_bound = theta <= lower * (1 + 1e-9)
    kept = np.flatnonzero(layout.estimated & ~(layout.guarded & at_bound))
    constrained = bool(np.isfinite(lower).all())
    which = np.isin(kept, tested)
    return ratio_law(information[np.ix_(kept, kept)], which, at_bound[kept], constrained=constrained)


def without(theta: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """theta (p,) with these components at zero."""
    out = theta.copy()
    out[tested] = 0.0
    return out


def others(layout: Layout, tested: np.ndarray) -> np.ndarray:
    """(p,) bool: parameters that are estimated without these components."""
    out = layout.estimated.copy()
    out[tested] = False
    return out


def _mixture(upper: np.ndarray) -> Law:
    """The law where all components of upper'upper (k, k) are tested."""
    k = len(upper)
    whole = np.eye(k + 1)
    whole[:k, :k] = upper.T @ upper
    weights = boundary_weights(whole)
    degrees = np.arange(1, k + 1)
    return Law(float(weights[0]), lambda t: float(weights[1:] @ special.chdtrc(degrees, t)))


def _one_beside_others(upper: np.ndarray) -> Law:
    """The law where the last component is tested and the others are at their bound.

    With z = (w, r), the statistic is zero up to some r = r_0(w), and convex and increasing in r beyond, so that
    P(statistic >= t) is the mean over w of the normal tail of the r at which it is t, found by Newton's steps from
    above.
    """
    k = len(upper)
    column = upper[:, -1]  # of length 1
    points = sobol_normals(k - 1, POINTS)
    others = [optimize.nnls(upper[:-1, :-1], w) for w in points]
    left = np.array([w - upper[:-1, :-1] @ x for w, (x, _) in zip(points, others, strict=True)])
    lengths2 = np.sum(points**2, axis=1) - np.array([residual for _, residual in others]) ** 2
    starts = -(left @ column[:-1]) / column[-1]

    def tail(t: float) -> float:
        reached = [_reaches(upper, *each, t) for each in zip(points, starts, lengths2, strict=True)]
        return float(special.ndtr(-np.array(reached)).mean())

    return Law(float(np.mean(special.ndtr(starts))), tail)


def _reaches(upper: np.ndarray, w: np.ndarray, start: float, length2: float, t: float) -> float:
    """The r at which the statistic of z = (w, r) is t; it is at least the gain of the last component alone."""
    r = start + np.sqrt(t) / upper[-1, -1]
    for _ in range(NEWTON_STEPS):
        x, residual = optimize.nnls(upper, np.append(w, r))
        over = w @ w + r * r - residual**2 - length2 - t
        if over <= 1e-9 * t:
            return r
        r -= over / (2 * upper[-1, -1] * x[-1])
    return r


def _several_beside_others(upper: np.ndarray, beside: int) -> Law:
    """The law where components are tested beside the first ``beside``, which are at their bound.

    The statistic is homogeneous, so that its tail is the mean over directions u of the tail of chi2_k beyond t over the
    statistic of u."""
    k, first = len(upper), upper[:beside, :beside]
    directions = sobol_normals(k, CONE_POINTS)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    statistics = np.array(
        [
            u[beside:] @ u[beside:] - optimize.nnls(upper, u)[1] ** 2 + optimize.nnls(first, u[:beside])[1] ** 2
            for u in directions
        ]
    )
    positive = statistics[statistics > 1e-12]
    share = len(positive) / len(statistics)
    return Law(1 - share, lambda t: float(share * np.mean(special.chdtrc(k, t / positive))))
