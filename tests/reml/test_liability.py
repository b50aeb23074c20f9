"""The liability scale against its definition, by simulation of thresholds."""

import numpy as np
import pytest
from scipy import stats

from gpu_reml.reml.studies.liability import liability_factor, on_liability, share_of_cases


def test_without_ascertainment_it_is_the_squared_regression_of_the_disease_on_liability():
    """cov(disease, liability)^2 / (K (1-K)) is the factor's inverse: Dempster & Lerner."""
    rng = np.random.default_rng(0)
    liability = rng.standard_normal(2_000_000)
    for K in (0.01, 0.2, 0.5):
        disease = liability > stats.norm.isf(K)
        inverse = np.cov(disease, liability)[0, 1] ** 2 / (K * (1 - K))
        assert liability_factor(K, K) == pytest.approx(1 / inverse, rel=0.02)


def test_a_published_worked_value():
    """K = 0.01 with as many cases as controls: K^2 (1-K)^2 / (z^2 / 4), z = 0.02665."""
    assert liability_factor(0.01, 0.5) == pytest.approx(0.01**2 * 0.99**2 / (0.25 * 0.0266521**2), rel=1e-4)


def test_errors_scale_alike():
    from gpu_reml.reml.inference import Derived

    found = on_liability(Derived(np.array([0.2]), np.array([0.05]), np.array([0.01])), 1.5)
    np.testing.assert_allclose([part[0] for part in found], [0.3, 0.075, 0.015])


def test_cases_are_the_larger_of_two_values():
    assert share_of_cases(np.array([1, 2, 2, 1.0, 1])) == 0.4
    assert share_of_cases(np.array([0.0, 1, 2])) is None and share_of_cases(np.ones(3)) is None


@pytest.mark.parametrize("K", [0, 1, -0.1, 2])
def test_impossible_prevalences_are_refused(K):
    with pytest.raises(ValueError, match="prevalence"):
        liability_factor(K, 0.5)
