"""Whole fits on any cohort: against an optimiser from many starts, and under changes that are none of the model."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.reml import FitSettings, exact_probes, fit, fit_exact, loglik, score, with_residuals
from gpu_reml.reml.likelihood import Solver
from gpu_reml.validation import dense
from gpu_reml.validation.small import make_cohort

FLOOR = 1e-6  # of y's variance, as in FitSettings
LOOSE = 1e-5  # of a log-likelihood, which an optimiser knows no better
few = settings(deadline=None, max_examples=6)


class Drawn(NamedTuple):
    """Allele counts (n, m), weights (m, G), y, X and residual diagonals (n, J) or None for the identity."""

    counts: np.ndarray
    weights: np.ndarray
    y: np.ndarray
    X: np.ndarray
    diagonals: np.ndarray | None

    @property
    def kernels(self) -> list[np.ndarray]:
        Z = dense.standardised(self.counts)
        return [dense.kernel(Z, w) for w in self.weights.T]

    @property
    def covariance(self):
        products = CpuProducts(standardise([pack(self.counts)], len(self.y)), np.float64)
        made = make_covariance(products, self.weights)
        return made if self.diagonals is None else with_residuals(made, self.diagonals)


RESIDUALS = {
    "identity": lambda n, rng: None,
    "weights": lambda n, rng: rng.uniform(0.5, 2, (n, 1)),
    "groups": lambda n, rng: np.repeat(np.eye(2), [n // 3, n - n // 3], axis=0),
    "beside": lambda n, rng: np.column_stack([rng.uniform(0, 2, n), np.ones(n)]),
    "ancestries": lambda n, rng: rng.dirichlet([1.0, 1.0], n),
}


@st.composite
def cohorts(draw, residuals=tuple(RESIDUALS)):
    """Cohorts of a hundred with missing calls, covariates, 1 to 3 overlapping components and any residuals."""
    seed, G = draw(st.integers(0, 2**16)), draw(st.integers(1, 3))
    made = make_cohort(90 + draw(st.integers(0, 3)), 150, G, seed=seed, h2=draw(st.sampled_from([0.05, 0.5, 0.9])))
    diagonals = RESIDUALS[draw(st.sampled_from(residuals))](made.n, np.random.default_rng(seed))
    return Drawn(made.counts, made.W, made.y, made.X, diagonals)


def estimators():
    """Both, without Monte-Carlo error."""
    tight = FitSettings(tol=1e-8)
    return {
        "exact": lambda d, covariance: fit_exact(d.y, d.X, covariance),
        "stochastic": lambda d, covariance: fit(d.y, d.X, covariance, exact_probes(len(d.y)), tight),
    }


def highest(drawn: Drawn) -> float:
    """The highest log-likelihood that L-BFGS-B finds from many starts, by dense matrices alone."""
    n = len(drawn.y)
    R = np.ones((n, 1)) if drawn.diagonals is None else drawn.diagonals
    V = np.array([*drawn.kernels, *(np.diag(r) for r in R.T)])
    G, traces = len(drawn.kernels), np.trace(V, axis1=1, axis2=2) / n
    scale = np.var(drawn.y - drawn.X @ np.linalg.lstsq(drawn.X, drawn.y, rcond=None)[0])
    Q = np.linalg.qr(drawn.X)[0]
    A = np.linalg.svd(Q, full_matrices=True)[0][:, Q.shape[1] :]
    # of the contrasts A'y with an orthonormal A, which is the log-likelihood of a fit for any residuals
    small, contrasts = A.T @ V @ A, A.T @ drawn.y

    def lowered(theta):
        L = np.linalg.cholesky(np.tensordot(theta * scale, small, axes=1))
        inverse = np.linalg.inv(L)
        P = inverse.T @ inverse
        Py = P @ contrasts
        value = np.log(np.diag(L)).sum() + contrasts @ Py / 2 + len(contrasts) / 2 * np.log(2 * np.pi)
        slope = (np.einsum("ij,gij->g", P, small) - np.einsum("i,gij,j->g", Py, small, Py)) / 2
        return value, slope * scale

    bounds = [(0, None)] * G + [(1e-5, None)] * R.shape[1]
    rng, best = np.random.default_rng(0), np.inf
    for start in range(6):
        shares = np.full(len(V), 1 / len(V)) if not start else rng.dirichlet(np.full(len(V), 0.7)) + 1e-3
        found = optimize.minimize(lowered, shares / traces, jac=True, bounds=bounds, method="L-BFGS-B")
        best = min(best, float(found.fun))
    return -best


@pytest.mark.parametrize("name", estimators())
@given(drawn=cohorts())
@few
def test_a_fit_is_no_worse_than_an_optimiser_from_many_starts(name, drawn):
    found = estimators()[name](drawn, drawn.covariance)
    assert found.loglik >= highest(drawn) - LOOSE


@pytest.mark.parametrize("name", estimators())
@given(drawn=cohorts(), seed=st.integers(0, 2**16))
@few
def test_a_fit_depends_neither_on_the_order_of_samples_and_variants_nor_on_which_allele_is_counted(name, drawn, seed):
    base = estimators()[name](drawn, drawn.covariance)
    rng = np.random.default_rng(seed)
    n, m = drawn.counts.shape
    rows, columns, flipped = rng.permutation(n), rng.permutation(m), rng.random(m) < 0.5
    counts = np.where(flipped & (drawn.counts != dense.MISSING), 2 - drawn.counts, drawn.counts).astype(np.int8)
    diagonals = None if drawn.diagonals is None else drawn.diagonals[rows]
    effect = drawn.X @ rng.standard_normal(drawn.X.shape[1])
    other = Drawn(counts[rows][:, columns], drawn.weights[columns], (drawn.y + effect)[rows], drawn.X[rows], diagonals)
    found = estimators()[name](other, other.covariance)
    assert found.loglik == pytest.approx(base.loglik, abs=LOOSE)
    size = np.sqrt(np.diag(np.linalg.inv(base.information)))
    assert (np.abs(found.theta - base.theta) <= 1e-3 * size).all()


@pytest.mark.parametrize("name", estimators())
@given(drawn=cohorts(("groups", "beside", "ancestries")), power=st.integers(-2, 2))
@few
def test_residuals_in_another_order_and_unit_are_the_same_residuals(name, drawn, power):
    base = estimators()[name](drawn, drawn.covariance)
    unit = 10.0**power
    other = drawn._replace(diagonals=unit * drawn.diagonals[:, ::-1])
    found = estimators()[name](other, other.covariance)
    expected = dict(zip(base.residual_names, base.theta[len(base.names) :], strict=True))
    renamed = {"residual_0": "residual_1", "residual_1": "residual_0"}
    size = np.sqrt(np.diag(np.linalg.inv(base.information)))
    assert found.loglik == pytest.approx(base.loglik, abs=LOOSE)
    G = len(base.names)
    assert (np.abs(found.theta[:G] - base.theta[:G]) <= 1e-3 * size[:G]).all()
    for residual, value in zip(found.residual_names, unit * found.theta[G:], strict=True):
        assert abs(value - expected[renamed[residual]]) <= 1e-3 * size[G:].max()


@given(drawn=cohorts(("identity",)), share=st.floats(0.1, 0.9))
@few
def test_a_component_split_into_two_halves_is_their_sum(drawn, share):
    """K = (c_1 K_1 + c_2 K_2) / c of the halves of its variants: the same V, and a score that is the sum of theirs."""
    weights = drawn.weights[:, :1]
    varies = (dense.standardised(drawn.counts) ** 2).sum(axis=0) > 0
    first = (np.arange(len(weights)) < share * len(weights))[:, None]
    halves = np.hstack([weights * first, weights * ~first])
    c = (halves * varies[:, None]).sum(axis=0)
    if not (c > 0).all():
        return
    part = c / c.sum()
    scale = float(np.var(drawn.y))
    theta, options = scale * np.array([0.4, 0.6]), {"probes": exact_probes(len(drawn.y)), "solver": Solver(1e-10)}
    apart = np.append(theta[0] * part, theta[1])
    whole, split = (drawn._replace(weights=w).covariance for w in (weights, halves))
    one = loglik(theta, drawn.y, drawn.X, whole, **options)
    assert loglik(apart, drawn.y, drawn.X, split, **options).value == pytest.approx(one.value, rel=1e-7)
    slope = score(theta, drawn.y, drawn.X, whole, **options)
    slopes = score(apart, drawn.y, drawn.X, split, **options)
    size = 1e-6 * (np.abs(slope.traces).max() + np.abs(slope.score).max())
    np.testing.assert_allclose([part @ slopes.score[:2], slopes.score[2]], slope.score, rtol=0, atol=size)
