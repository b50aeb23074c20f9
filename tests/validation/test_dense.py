"""The oracle against independent routes: finite differences, scipy's densities, hand-made numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import linalg, optimize, stats

from gpu_reml.validation import dense, strategies


@pytest.fixture
def problem():
    """theta (not at the optimum), y, X and two overlapping components."""
    rng = np.random.default_rng(1)
    counts = rng.binomial(2, rng.uniform(0.05, 0.5, 90), (60, 90)).astype(np.int8)
    counts[rng.random(counts.shape) < 0.03] = dense.MISSING
    Z = dense.standardised(counts)
    Ks = [dense.kernel(Z), dense.kernel(Z, np.linspace(0, 1, 90))]
    X = np.column_stack([np.ones(60), 100 * rng.standard_normal(60), rng.integers(0, 2, 60)])
    y = X @ [170, 0.1, -12] + 6 * rng.standard_normal(60)
    return np.array([9.0, 16.0, 20.0]), y, X, Ks


def test_standardised_follows_its_definition_on_a_hand_made_example():
    counts = np.array([[0, 1, -127, 2], [1, 1, -127, -127], [2, -127, -127, 0], [1, 1, -127, 0]], np.int8)
    half = np.sqrt(1 / 2)
    third = np.sqrt(2) * np.array([1, 0, -0.5, -0.5])
    expected = np.column_stack([np.array([-1, 0, 1, 0]) / half, np.zeros(4), np.zeros(4), third])
    np.testing.assert_allclose(dense.standardised(counts), expected, atol=1e-15)


@given(strategies.counts())
@settings(deadline=None)
def test_standardised_columns_have_mean_zero_and_variance_one_over_the_calls(counts):
    Z = dense.standardised(counts)
    called = counts != dense.MISSING
    np.testing.assert_array_equal(Z[~called], 0)
    for z, g, ok in zip(Z.T, counts.T, called.T, strict=True):
        if len(set(g[ok])) > 1:
            np.testing.assert_allclose([z[ok].mean(), z[ok].std()], [0, 1], atol=1e-12)
            assert np.corrcoef(z[ok], g[ok])[0, 1] > 1 - 1e-9
        else:
            np.testing.assert_array_equal(z, 0)


@given(strategies.problems())
@settings(deadline=None)
def test_kernel_divides_by_the_weights_of_variants_that_vary_and_is_positive_semi_definite(problem):
    Z = dense.standardised(problem.counts)
    w = problem.weights[:, 0]
    expected = sum(w[j] * np.outer(Z[:, j], Z[:, j]) for j in range(len(w)))
    expected = expected / sum(w[j] for j in range(len(w)) if np.ptp(Z[:, j]) > 0)
    K = dense.kernel(Z, w)
    np.testing.assert_allclose(K, expected, rtol=1e-10, atol=1e-12)
    assert np.linalg.eigvalsh(K)[0] > -1e-12 * np.trace(K)


def test_kernel_refuses_weights_that_are_negative_or_only_on_variants_that_do_not_vary():
    Z = np.array([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(ValueError, match="not negative"):
        dense.kernel(Z, np.array([-1.0, 1.0]))
    with pytest.raises(ValueError, match="do not vary"):
        dense.kernel(Z, np.array([0.0, 1.0]))


def test_loglik_is_the_normal_density_of_the_error_contrasts(problem):
    theta, y, X, Ks = problem
    A = linalg.null_space(X.T)
    V = theta[0] * Ks[0] + theta[1] * Ks[1] + theta[2] * np.eye(60)
    expected = stats.multivariate_normal(cov=A.T @ V @ A).logpdf(A.T @ y)
    np.testing.assert_allclose(dense.dense_loglik(*problem), expected, rtol=1e-12)


def test_loglik_does_not_depend_on_fixed_effects_or_the_coding_of_x(problem):
    theta, y, X, Ks = problem
    recoded = X @ np.array([[1, 0, 0], [5, 1e-3, 0], [-2, 1, 40.0]]).T
    moved = dense.dense_loglik(theta, y + X @ [3, -1, 7], recoded, Ks)
    np.testing.assert_allclose(moved, dense.dense_loglik(*problem), rtol=1e-11)


def test_projection_annihilates_x_and_inverts_v_on_its_complement(problem):
    theta, _, X, Ks = problem
    at = dense.projection(*problem)
    V = dense.covariance_matrix(theta, Ks)
    np.testing.assert_allclose(at.P @ X, 0, atol=1e-12)
    np.testing.assert_allclose(at.P @ V @ at.P, at.P, atol=1e-14)


def test_fixed_effects_are_those_of_least_squares_on_whitened_data(problem):
    theta, y, X, Ks = problem
    at = dense.projection(*problem)
    L = np.linalg.cholesky(dense.covariance_matrix(theta, Ks))
    whitened = np.linalg.solve(L, X)
    np.testing.assert_allclose(at.fixed_effects, np.linalg.lstsq(whitened, np.linalg.solve(L, y))[0], rtol=1e-10)
    np.testing.assert_allclose(at.fixed_effects_cov, np.linalg.inv(whitened.T @ whitened), rtol=1e-8)


def test_score_is_the_gradient_of_loglik(problem):
    theta, *data = problem
    numeric = optimize.approx_fprime(theta, dense.dense_loglik, 1e-5, *data)
    np.testing.assert_allclose(dense.dense_score(*problem), numeric, atol=2e-5)


def test_average_information_is_the_mean_of_observed_and_expected_information(problem):
    theta, *data = problem
    observed = -optimize.approx_fprime(theta, dense.dense_score, 1e-5, *data)
    average = (observed + dense.dense_expected_information(*problem)) / 2
    np.testing.assert_allclose(dense.dense_average_information(*problem), average, rtol=1e-4)


def test_expected_information_is_the_covariance_of_the_score(problem):
    theta, _, _, Ks = problem
    L = np.linalg.cholesky(dense.covariance_matrix(theta, Ks))
    P = dense.projection(*problem).P
    y = L @ np.random.default_rng(2).standard_normal((60, 4000))
    forms = np.array([np.sum((P @ y) * (K @ P @ y), axis=0) / 2 for K in [*Ks, np.eye(60)]])
    expected = dense.dense_expected_information(*problem)
    spread = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / 4000)
    # A quadratic form is skewed: its variance varies more than a normal's, by at most a factor of two here.
    assert np.all(np.abs(np.cov(forms) - expected) < 4 * 2 * spread)


def test_theta_of_the_wrong_length_is_refused(problem):
    theta, *data = problem
    with pytest.raises(ValueError, match="expected 2 genetic variances and the residual one, found 2 values"):
        dense.dense_loglik(theta[:2], *data)
