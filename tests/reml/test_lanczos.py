import numpy as np
import pytest

from gpu_reml.reml import slq


def spd(n, rng):
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return (Q * rng.uniform(0.3, 4, n)) @ Q.T


@pytest.mark.parametrize("f", [np.log, np.sqrt, np.reciprocal])
def test_with_a_full_set_of_probes_quadrature_is_the_spectral_sum(f):
    rng = np.random.default_rng(0)
    V = spd(40, rng)
    found = slq(lambda B: V @ B, np.sqrt(40) * np.eye(40), f, max_steps=40, tol=1e-14)
    np.testing.assert_allclose(found.estimate, f(np.linalg.eigvalsh(V)).sum(), rtol=1e-9)


def test_one_product_a_step():
    rng = np.random.default_rng(1)
    V = spd(50, rng)
    calls = []
    found = slq(lambda B: calls.append(B.shape[1]) or V @ B, rng.standard_normal((50, 3)), max_steps=7, tol=0)
    assert calls == [3] * 7 and found.num_steps == 7


def test_an_exhausted_krylov_space_stops_its_column_only():
    V = np.diag([1.0, 2.0, 3.0, 4.0, 5.0])
    starts = np.array([[1.0, 1], [0, 1], [0, 1], [0, 1], [0, 1]])  # an eigenvector, and a generic vector
    found = slq(lambda B: V @ B, starts, np.log, max_steps=5, tol=0)
    np.testing.assert_allclose(found.per_probe, [np.log(1.0), np.log(np.arange(1, 6)).sum()], atol=1e-10)


def test_estimates_scatter_as_their_monte_carlo_error_says_and_the_control_shrinks_it():
    rng = np.random.default_rng(2)
    V = spd(100, rng)
    exact = np.log(np.linalg.eigvalsh(V)).sum()
    plain, controlled = [], []
    for seed in range(40):
        probes = np.random.default_rng(seed).choice([-1.0, 1.0], (100, 20))
        plain.append(slq(lambda B: V @ B, probes, tol=1e-9))
        controlled.append(slq(lambda B: V @ B, probes, tol=1e-9, control_mean=np.trace(V)))
    for runs in (plain, controlled):
        errors = np.array([run.estimate - exact for run in runs])
        claimed = np.sqrt(np.mean([run.mc_se**2 for run in runs]))
        assert 0.7 < np.sqrt(np.mean(errors**2)) / claimed < 1.4
    assert np.mean([r.mc_se for r in controlled]) < 0.6 * np.mean([r.mc_se for r in plain])
