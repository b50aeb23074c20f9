"""The dense oracle of genetic covariances against differences, a univariate oracle, and shared cases."""

import numpy as np
import pytest

from gpu_reml.validation import bivariate
from gpu_reml.validation.bivariate import dense_covariances
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.small import make_cohort, two_traits


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(90, 150, 2, seed=4, overlap=False)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_score_is_the_gradient_of_the_dense_likelihood(cohort, overlap):
    Y, _ = two_traits(cohort, overlap, seed=1)
    data = bivariate.observed(Y, cohort.X, cohort.Ks)
    S = np.array([[[0.4, 0.1], [0.1, 0.3]], [[0.2, -0.1], [-0.1, 0.3]], [[0.6, 0.2], [0.2, 0.7]]]) * 40
    score = bivariate.likelihood(data, S)[1]
    for value, (h, a, b) in zip(score, data.entries, strict=True):
        shift = np.zeros_like(S)
        shift[h, a, b] = shift[h, b, a] = 1e-3
        rise = (bivariate.likelihood(data, S + shift)[0] - bivariate.likelihood(data, S - shift)[0]) / 2e-3
        np.testing.assert_allclose(value, rise, rtol=1e-5, atol=1e-7)


def test_average_information_is_the_mean_of_observed_and_expected_in_the_direction_of_scale(cohort):
    Y, _ = two_traits(cohort, 0.5, seed=1)
    found = dense_covariances(Y, cohort.X, cohort.Ks)
    u = bivariate.vector_of(found.S, found.entries)
    size = sum(np.sum(~np.isnan(y)) for y in Y.T) - 2 * cohort.X.shape[1]
    np.testing.assert_allclose(u @ found.ai @ u, size / 2, rtol=1e-6)
    np.testing.assert_allclose(u @ found.expected @ u, size / 2, rtol=1e-9)


def test_traits_that_are_independent_have_the_fits_of_each_alone(cohort):
    Y, _ = two_traits(cohort, 0.0, seed=2)
    S = dense_covariances(Y, cohort.X, cohort.Ks[:1], uncorrelated=(0,)).S
    for a in range(2):
        people = ~np.isnan(Y[:, a])
        alone = exact_reml(Y[people, a], cohort.X[people], [cohort.Ks[0][np.ix_(people, people)]])
        np.testing.assert_allclose(S[:, a, a], alone.theta, rtol=1e-4, atol=1e-6)


def test_at_the_optimum_inside_the_cone_the_score_is_zero_and_at_its_bound_it_points_outwards(cohort):
    Y, _ = two_traits(cohort, 1.0, seed=3)
    found = dense_covariances(Y, cohort.X, cohort.Ks)
    gradients = np.zeros_like(found.S)
    for value, (h, a, b) in zip(found.score, found.entries, strict=True):
        gradients[h, a, b] += value / 2
        gradients[h, b, a] += value / 2
    for gradient, S in zip(gradients, found.S, strict=True):
        size = np.sqrt(np.outer(np.diag(found.S.sum(0)), np.diag(found.S.sum(0))))
        assert np.linalg.eigvalsh(gradient * size).max() < 1e-3
        assert abs(np.sum(gradient * S)) < 1e-3


def test_restricted_optima_have_lower_likelihoods(cohort):
    Y, _ = two_traits(cohort, 0.5, seed=5)
    best = dense_covariances(Y, cohort.X, cohort.Ks[:1])
    zero = dense_covariances(Y, cohort.X, cohort.Ks[:1], uncorrelated=(0,))
    one = dense_covariances(Y, cohort.X, cohort.Ks[:1], rank_one=(0,))
    assert zero.S[0, 0, 1] == 0 and best.loglik > zero.loglik
    np.testing.assert_allclose(abs(one.correlation(0, 0, 1)[0]), 1, rtol=1e-9)
    assert best.loglik > one.loglik - 1e-9
