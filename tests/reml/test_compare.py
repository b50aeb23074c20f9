"""Log-likelihoods on one yardstick, against dense ones, and fits on a basis that is given."""

from dataclasses import replace

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.reml import FitSettings, Probes, SolverSettings, draw_probes, exact_probes, fit
from gpu_reml.reml.compare import Measured, added, difference, gain, make_yardstick, measured
from gpu_reml.validation import dense
from gpu_reml.validation.small import make_cohort

TIGHT = FitSettings(solver=SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13))
THETA = np.array([9.0, 5.0, 20.0])


@pytest.fixture(scope="module")
def pair():
    """Two splits of the same variants into two components, their kernels and covariances."""
    cohort = make_cohort(110, 70, 2, seed=3)
    rng = np.random.default_rng(0)
    products = CpuProducts(cohort.genotypes, np.float64)
    splits = [np.column_stack([w, 1 - w]) for w in (rng.random(70), rng.random(70))]
    return cohort, [make_covariance(products, T) for T in splits]


def dense_value(cohort, covariance, theta):
    kernels = [covariance.only(g).apply(np.ones(1), np.eye(cohort.n)) for g in range(2)]
    return dense.dense_loglik(theta, cohort.y, cohort.X, kernels)


@pytest.mark.parametrize("rank", [0, 20])
def test_with_exact_probes_values_and_gains_are_those_of_dense_matrices(pair, rank):
    cohort, (before, after) = pair
    probes = exact_probes(cohort.n, rank)
    yardstick = make_yardstick(cohort.y, cohort.X, before, THETA, probes, TIGHT)
    values = measured(yardstick, before, THETA), measured(yardstick, after, THETA * 1.3)
    expected = dense_value(cohort, before, THETA), dense_value(cohort, after, THETA * 1.3)
    np.testing.assert_allclose([value.value for value in values], expected, rtol=1e-10)
    assert gain(difference(*values[::-1]), exact=yardstick.exact) == (values[1].value - values[0].value, 0.0)


def test_the_error_of_a_gain_is_far_below_those_of_its_two_values_and_holds(pair):
    cohort, (before, _) = pair
    near = THETA * [1.02, 0.99, 1.0]
    expected = dense_value(cohort, before, near) - dense_value(cohort, before, THETA)
    ratios = []
    for seed in range(30):
        yardstick = make_yardstick(cohort.y, cohort.X, before, THETA, draw_probes(cohort.n, 16, 10, seed), TIGHT)
        one, two = measured(yardstick, before, THETA), measured(yardstick, before, near)
        rise, error = gain(difference(two, one), exact=yardstick.exact)
        ratios.append((rise - expected) / error)
        assert error < 0.1 * one.per_probe.std(ddof=1) / np.sqrt(16)
    assert np.abs(ratios).max() < 5 and 0.6 < np.std(ratios) < 1.7


def test_the_error_from_a_single_probe_is_unknown():
    half = difference(Measured(2.0, np.array([2.0])), Measured(1.5, np.array([1.5])))
    rise, error = gain(added(half, half), exact=False)
    assert rise == 1.0 and np.isnan(error)


def test_a_basis_that_is_given_is_used_as_it_is(pair):
    cohort, (covariance, _) = pair
    probes = draw_probes(cohort.n, 16, 25, 0)
    yardstick = make_yardstick(cohort.y, cohort.X, covariance, THETA, probes, TIGHT)
    U = yardstick.probes.sketch
    np.testing.assert_allclose(U.T @ U, np.eye(U.shape[1]), atol=1e-12)
    np.testing.assert_allclose(cohort.X.T @ U, 0, atol=1e-10)
    settings = replace(TIGHT, core="given", tol=1e-10)
    given = fit(cohort.y, cohort.X, covariance, yardstick.probes, settings)
    turned = Probes(probes.trace, U @ np.linalg.qr(np.random.default_rng(1).standard_normal((U.shape[1],) * 2))[0])
    same = fit(cohort.y, cohort.X, covariance, turned, settings)  # another basis of the same space
    other = fit(cohort.y, cohort.X, covariance, yardstick.probes, replace(settings, core="always"))
    assert given.rank == same.rank == U.shape[1]
    np.testing.assert_allclose(given.theta, same.theta, rtol=1e-6)
    assert np.abs(given.theta / other.theta - 1).max() > 1e-4  # which makes a basis of its own from it
