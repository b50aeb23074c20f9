import numpy as np
import pytest
from scipy import stats

from gpu_reml.reml.inference import boundary_weights, heritability, likelihood_ratio_test, shares_of_genetic

THETA = np.array([0.3, 0.2, 0.7])
TRACES = np.array([0.98, 1.0])
C = np.array([[4.0, -1, -0.5], [-1, 3, -0.2], [-0.5, -0.2, 2]]) * 1e-4
MC = C / 50


@pytest.mark.parametrize("function", [heritability, shares_of_genetic])
def test_delta_method_errors_equal_those_by_numerical_differentiation(function):
    found = function(THETA, TRACES, C, MC)
    h = 1e-6
    columns = [
        (function(THETA + h * e, TRACES, C, MC).estimate - function(THETA - h * e, TRACES, C, MC).estimate) / (2 * h)
        for e in np.eye(3)
    ]
    J = np.stack(columns, axis=1)
    np.testing.assert_allclose(found.se, np.sqrt(np.diag(J @ C @ J.T)), rtol=1e-6)
    np.testing.assert_allclose(found.mc_se, found.se / np.sqrt(50), rtol=1e-12)


def test_heritability_is_the_trace_weighted_share():
    total = 0.3 * 0.98 + 0.2 + 0.7
    np.testing.assert_allclose(
        heritability(THETA, TRACES, C, MC).estimate, [0.294 / total, 0.2 / total, 0.494 / total], rtol=1e-12
    )


def test_one_component_is_tested_against_half_and_half():
    test = likelihood_ratio_test(-100.0, -101.5, 0.1, boundary_weights(np.eye(2)))
    np.testing.assert_allclose(test.p, 0.5 * stats.chi2.sf(3.0, 1))
    assert test.df == 1 and test.mc_se == 0.2
    assert likelihood_ratio_test(-100.0, -99.9, 0.1, test.weights).p == 1.0


def test_orthogonal_components_have_binomial_weights():
    for G in (2, 4):
        found = boundary_weights(np.diag([3.0, 0.1, 7.0, 2.0][:G] + [1.0]))
        np.testing.assert_allclose(found, stats.binom.pmf(np.arange(G + 1), G, 0.5), atol=0.01)


def test_two_correlated_components_have_the_angle_weights():
    # information [[1, r], [r, 1]]: the weight of 2 df is arccos(-corr of estimates)/2 pi with corr = -r
    r = 0.6
    information = np.eye(3)
    information[0, 1] = information[1, 0] = r
    found = boundary_weights(information)
    np.testing.assert_allclose(found[2], np.arccos(r) / (2 * np.pi), atol=0.01)
    np.testing.assert_allclose(found[1], 0.5, atol=0.01)
