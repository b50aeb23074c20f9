"""The named functions on any small cohort, against dense REML in float64, with sqrt(n) I as probes."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.reml import Solver, ai_step, average_information, exact_probes, loglik, pcg, score, slq
from gpu_reml.validation import dense, strategies

TIGHT = Solver(1e-11, quadrature=1e-12)
some = settings(deadline=None, max_examples=25)


def arguments_of(problem):
    """(theta, y, X, covariance from packed genotypes), and the dense components."""
    Q = np.linalg.qr(problem.X)[0]
    left = problem.y - Q @ (Q.T @ problem.y)
    assume(np.abs(left).max() > 1e-3 * max(1.0, np.abs(problem.y).max()))
    n = len(problem.y)
    covariance = make_covariance(CpuProducts(standardise([pack(problem.counts)], n), np.float64), problem.weights)
    Z = dense.standardised(problem.counts)
    Ks = [dense.kernel(Z, w) for w in problem.weights.T]
    return (problem.theta, problem.y, problem.X, covariance), Ks


def near(found, expected, rtol=1e-6):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@given(strategies.problems(5))
@some
def test_loglik_score_and_information_are_those_of_dense_reml(problem):
    arguments, Ks = arguments_of(problem)
    probes = exact_probes(len(problem.y))
    likely = loglik(*arguments, probes=probes, solver=TIGHT)
    near(likely.value, dense.dense_loglik(*arguments[:3], Ks))
    assert likely.converged and likely.mc_se == 0
    found = score(*arguments, probes=probes, solver=TIGHT)
    P = dense.projection(*arguments[:3], Ks).P
    parts = np.array([np.sum(P * K) for K in [*Ks, np.eye(len(P))]])  # the score is a difference of such
    expected = dense.dense_score(*arguments[:3], Ks)
    assert (np.abs(found.score - expected) <= 1e-6 * (parts.max() + np.abs(expected).max())).all()
    near(found.traces, parts)
    ai = average_information(*arguments, solver=TIGHT).ai
    near(ai, dense.dense_average_information(*arguments[:3], Ks))
    np.testing.assert_array_equal(ai, ai.T)
    assert np.linalg.eigvalsh(ai)[0] >= -1e-9 * np.trace(ai)


@given(strategies.problems(3), st.integers(-6, 6), st.integers(0, 2**32 - 1))
@some
def test_a_shift_by_fixed_effects_a_unit_and_an_order_of_samples_leave_the_score(problem, power, seed):
    (theta, y, X, covariance), Ks = arguments_of(problem)
    n, unit = len(y), 10.0**power
    rng = np.random.default_rng(seed)
    order, probes = rng.permutation(n), exact_probes(n)
    base = score(theta, y, X, covariance, probes=probes, solver=TIGHT)
    size = np.abs(base.traces).max() + np.abs(base.score).max()
    effect = X @ (rng.standard_normal(X.shape[1]) / np.abs(X).max(axis=0)) * np.abs(y).max()
    shifted = score(theta, y + effect, X, covariance, probes=probes, solver=TIGHT).score
    scaled = score(theta * unit**2, y * unit, X, covariance, probes=probes, solver=TIGHT).score * unit**2
    permuted = [K[np.ix_(order, order)] for K in Ks]
    moved = score(theta, y[order], X[order], permuted, probes=probes, solver=TIGHT).score
    for other in (shifted, scaled, moved):
        assert np.abs(other - base.score).max() <= 1e-6 * size


@given(strategies.problems(3), st.integers(0, 2**32 - 1))
@some
def test_solves_and_spectral_sums_are_those_of_the_dense_matrix(problem, seed):
    V = dense.covariance_matrix(problem.theta, arguments_of(problem)[1])
    b = np.random.default_rng(seed).standard_normal(len(V))
    near(pcg(V, b, tol=1e-12, preconditioner=np.diag(1 / np.diag(V))).X, np.linalg.solve(V, b))
    eigenvalues = np.linalg.eigvalsh(V)
    for f in (np.log, np.sqrt, np.reciprocal):
        found = slq(V, exact_probes(len(V)), f, tol=1e-13)
        assert abs(found.estimate - f(eigenvalues).sum()) <= 1e-7 * np.abs(f(eigenvalues)).sum()


@given(strategies.problems(3))
@some
def test_a_short_step_by_score_and_information_raises_the_likelihood(problem):
    (theta, y, X, covariance), Ks = arguments_of(problem)
    gradient = score(theta, y, X, covariance, probes=exact_probes(len(y)), solver=TIGHT).score
    ai = average_information(theta, y, X, covariance, solver=TIGHT).ai
    scale = np.sqrt(np.diag(ai))
    assume((scale > 0).all() and np.linalg.cond(ai / np.outer(scale, scale)) < 1e6)
    step = ai_step(theta, gradient, ai, np.append(np.zeros(len(theta) - 1), 1e-3 * theta[-1]))
    assume(gradient @ step.direction > 1e-6)
    at = dense.dense_loglik(theta, y, X, Ks)
    assert any(dense.dense_loglik(theta + t * step.direction, y, X, Ks) > at for t in 0.5 ** np.arange(20))
