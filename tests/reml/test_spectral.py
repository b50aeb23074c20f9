"""The maximum of a one-component likelihood, where it has several peaks, none inside, or one below zero."""

import numpy as np
import pytest

from gpu_reml.reml.engines.spectral import Measure, Spectrum, loglik, maximise, profiled, score


def spectrum_of(seed):
    """A spectrum of few and far-spread eigenvalues, of which some likelihoods have several peaks."""
    rng = np.random.default_rng(seed)
    n = rng.integers(6, 20)
    values = 10.0 ** rng.uniform(-3, 2, n)
    values /= values.mean()
    y = Measure(values, rng.standard_normal(n) ** 2 * rng.choice([0.05, 1, 5], n))
    return Spectrum(y, Measure(values, np.ones(n)), int(n))


@pytest.mark.parametrize("seed", [2, 25, 35, 37, 38, 40, 42, 46, 54, 73, 74, 90])
def test_the_higher_of_two_peaks_is_found_to_rounding(seed):
    spectrum = spectrum_of(seed)
    theta = maximise(spectrum, 1e-9)
    shares = np.linspace(0, 1 - 1e-6, 20_001)
    values = profiled(spectrum, shares)[0]
    assert loglik(spectrum, theta) >= values.max() - 1e-12
    best = shares[np.argmax(values)]
    assert abs(theta[0] / theta.sum() - best) <= 1e-4
    if best == 0:
        assert theta[0] == 0
    else:
        slope = score(spectrum, theta) * theta
        assert np.abs(slope).max() <= 1e-9 * spectrum.dimension


@pytest.mark.parametrize("seed", [16, 106, 203, 514])
def test_without_bounds_the_peak_next_to_zero_is_taken(seed):
    """The likelihood below zero may have another, higher, peak near where the covariance is singular."""
    spectrum = spectrum_of(seed)
    theta = maximise(spectrum, 1e-9, constrain=False)
    values = loglik(spectrum, theta)
    assert theta[0] < 0 and np.abs(score(spectrum, theta) * theta).max() <= 1e-6 * spectrum.dimension
    between = [profiled_at(spectrum, share * theta[0] / theta[1]) for share in np.linspace(0, 1, 200)]
    assert (np.diff(between) >= -1e-9).all() and values == pytest.approx(between[-1], abs=1e-9)


def profiled_at(spectrum, ratio):
    """The highest log-likelihood where theta_g / theta_e is ``ratio``."""
    d = ratio * spectrum.y.nodes + 1
    residual = spectrum.y.integrate(1 / d) / spectrum.dimension
    return loglik(spectrum, residual * np.array([ratio, 1.0]))


@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e2])
def test_a_residual_below_its_floor_is_held_there_and_the_component_is_the_best_beside_it(unit):
    own = spectrum_of(25)
    y, trace = (Measure(unit * part.nodes, part.weights) for part in (own.y, own.trace))
    spectrum = Spectrum(y, trace, own.dimension)
    lowest = maximise(own, 1e-9)[1]
    theta = maximise(spectrum, 3 * lowest)
    assert theta[1] == 3 * lowest
    around = [loglik(spectrum, theta * [factor, 1]) for factor in (0.999, 1, 1.001)]
    assert np.argmax(around) == 1
    np.testing.assert_array_equal(maximise(spectrum, 1e3 * lowest), [0.0, 1e3 * lowest])  # nothing is left for it
