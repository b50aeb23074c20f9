"""Where a fit starts from the moments of Haseman-Elston regression."""

import numpy as np
import pytest

from gpu_reml.reml.moments import Moments, start_values

T = np.array([[40.0, 10, 20], [10, 30, 20], [20, 20, 20]])  # tr(K_g K_h) on 20 contrasts, with tr(K_g) = 20
LOWER = np.array([0.0, 0.0, 1e-6])


@pytest.mark.parametrize(
    "theta, expected",
    [
        ([0.3, 0.2, 0.5], [0.3, 0.2, 0.5]),  # well inside, the start is what the moments say
        (
            [0.6, 0.6, -0.2],
            [0.38934034416826, 0.36065965583174, 0.25],
        ),  # moments that leave less than a quarter for the residual are noise
        ([0.3, -0.1, 0.8], None),  # and so are those at a bound, where the others are estimated without it
        ([-0.2, -0.3, 1.5], [0.005, 0.005, 0.99]),
    ],
)
def test_a_start_is_what_the_moments_say_but_no_nearer_to_a_bound_than_they_know(theta, expected):
    found = start_values(Moments(T, T @ np.array(theta)), LOWER)
    total = (T @ np.array(theta))[-1] / 20
    assert (found[:2] >= 0.005 * total * (1 - 1e-12)).all() and found[2] >= 0.25 * total
    assert found.sum() == pytest.approx(total, rel=1e-12)
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-9)
