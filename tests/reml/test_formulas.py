"""The shared formulas against dense matrices and scipy's normal law."""

import numpy as np
import pytest
from scipy import linalg, stats

from gpu_reml.reml.formulas import ai_matrix, profiled_loglik, restricted_loglik
from gpu_reml.reml.least_squares import column_effects, fixed_effects, fixed_inverse, solved_inverse
from gpu_reml.reml.traits import make_traits

N = 12


@pytest.fixture
def dense():
    """y, X, a covariance V, the contrasts A and P = A (A'VA)^-1 A'."""
    rng = np.random.default_rng(0)
    X, root = rng.standard_normal((N, 3)), rng.standard_normal((N, 2 * N))
    V = root @ root.T / N
    A = linalg.null_space(X.T)
    return rng.standard_normal(N), X, V, A, A @ np.linalg.inv(A.T @ V @ A) @ A.T


def test_the_restricted_log_likelihood_is_the_normal_density_of_error_contrasts(dense):
    y, _, V, A, P = dense
    expected = stats.multivariate_normal(np.zeros(A.shape[1]), A.T @ V @ A).logpdf(A.T @ y)
    found = restricted_loglik(np.linalg.slogdet(A.T @ V @ A)[1], y @ P @ y, A.shape[1])
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_profiled_log_likelihood_is_the_highest_over_the_variance(dense):
    y, _, W, A, P = dense
    dimension, logdet = A.shape[1], np.linalg.slogdet(A.T @ W @ A)[1]
    best = y @ P @ y / dimension

    def at(variance):
        return restricted_loglik(logdet + dimension * np.log(variance), y @ P @ y / variance, dimension)

    assert profiled_loglik(logdet, best, dimension) == pytest.approx(at(best), rel=1e-12)
    assert at(best) > max(at(0.99 * best), at(1.01 * best))


def test_solves_that_err_leave_errors_of_their_squares(dense):
    _, X, V, _, P = dense
    rng = np.random.default_rng(1)
    M = P @ V  # of every vector what is left beside X
    F = M @ rng.standard_normal((N, 2))
    Q = linalg.orth(X)
    outside = np.eye(N) - Q @ Q.T
    Qs = (Q, V @ Q)
    exact = F.T @ P @ F / 2
    np.testing.assert_allclose(ai_matrix(F, P @ F), exact, rtol=1e-10)
    inverse = Q.T @ X @ np.linalg.inv(X.T @ np.linalg.inv(V) @ X) @ X.T @ Q
    np.testing.assert_allclose(solved_inverse(*Qs, P @ V @ Q, np.zeros((N, 3))), inverse, rtol=1e-9)
    errors = []
    for size in (1e-3, 1e-4):
        wrong = size * outside @ rng.standard_normal((N, 2))
        PF = P @ F + wrong
        R = outside @ (F - V @ PF)
        errors.append(np.abs(ai_matrix(outside @ F, PF, R) - F.T @ P @ F / 2).max())
    assert errors[1] < 0.03 * errors[0]


def test_fixed_effects_without_x_in_a_solve_are_those_of_the_normal_equations(dense):
    y, X, V, _, P = dense
    trait = make_traits(y[:, None], X)
    Q, scale = trait.Q, float(trait.scales[0])
    scaled, P_scaled = V / scale**2, P * scale**2
    inverse = fixed_inverse(Q.T @ scaled @ Q, Q.T @ scaled @ P_scaled @ scaled @ Q)
    found = fixed_effects(trait, Q.T @ scaled @ P_scaled @ y / scale, inverse)
    expected = np.linalg.inv(X.T @ np.linalg.inv(V) @ X)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-9)
    np.testing.assert_allclose(found.estimate, expected @ X.T @ np.linalg.inv(V) @ y, rtol=1e-9)


def test_a_column_beside_the_fixed_effects_has_the_effect_and_error_of_all_columns_together(dense):
    y, X, V, _, P = dense
    z = np.random.default_rng(2).standard_normal(N)
    W, root = np.column_stack([X, z]), linalg.inv(np.linalg.cholesky(V))
    b, (rss,), *_ = np.linalg.lstsq(root @ W, root @ y)
    se = np.sqrt(rss / (N - 4) * np.linalg.inv(W.T @ np.linalg.inv(V) @ W)[-1, -1])
    assert column_effects(z @ P @ y, z @ P @ z, y @ P @ y, N - 4) == pytest.approx((b[-1], se), rel=1e-9)
