import itertools

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

from gpu_reml.reml import draw_probes, lanczos, slq


def spd(n, rng):
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return (Q * rng.uniform(0.3, 4, n)) @ Q.T


@pytest.mark.parametrize("f", [np.log, np.sqrt, np.reciprocal])
def test_with_a_full_set_of_probes_quadrature_is_the_spectral_sum(f):
    rng = np.random.default_rng(0)
    V = spd(40, rng)
    found = slq(lambda B: V @ B, np.sqrt(40) * np.eye(40), f, max_steps=40, tol=1e-14)
    np.testing.assert_allclose(found.estimate, f(np.linalg.eigvalsh(V)).sum(), rtol=1e-9)
    assert found.mc_se == 0


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


@pytest.mark.parametrize("seed", range(6))
def test_a_value_of_rounding_after_the_krylov_space_is_used_up_is_no_eigenvalue(seed):
    n, rng = 60, np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    V = (Q * np.append(np.ones(50), rng.uniform(1, 50, 10))) @ Q.T
    A = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, 1:]]))[0][:, 1:]
    probes = A @ (A.T @ rng.choice([-1.0, 1.0], (n, 8)))
    found = slq(lambda B: A @ (A.T @ (V @ B)), probes, max_steps=n, tol=0)
    values, vectors = np.linalg.eigh(A.T @ V @ A)
    np.testing.assert_allclose(found.per_probe, np.log(values) @ (vectors.T @ A.T @ probes) ** 2, rtol=1e-8)


def test_an_eigenvalue_without_a_logarithm_is_an_error_however_little_the_probes_have_of_it():
    V = np.diag(np.append(np.linspace(1.0, 2.0, 30), -1e-3))
    probes = np.append(np.ones(30), 1e-4)[:, None]
    with pytest.raises(ValueError, match=r"f: no finite value at an eigenvalue of V, .* not positive definite"):
        slq(lambda B: V @ B, probes, max_steps=31, tol=0)


def test_many_steps_are_looked_at_only_now_and_then(monkeypatch):
    looked = []
    monkeypatch.setattr(lanczos, "quadrature", lambda T, f: looked.append(len(T.alpha)) or np.full(2, len(looked)))
    V = spd(150, np.random.default_rng(3))
    found = slq(V, np.ones((150, 2)), max_steps=150, tol=0)
    assert looked[:20] == list(range(1, 21)) and len(looked) < 45
    assert looked[-1] == found.num_steps == 150 and not found.converged
    assert all(later <= np.ceil(1.1 * earlier) for earlier, later in itertools.pairwise(looked[20:]))


def test_a_number_of_probes_is_drawn_where_the_matrix_tells_its_size():
    V = spd(60, np.random.default_rng(3))
    expected = slq(V, draw_probes(60, 20), max_steps=60, tol=0)
    for given in (V, sparse.csr_array(V), aslinearoperator(V)):
        assert slq(given, 20, max_steps=60, tol=0).estimate == pytest.approx(expected.estimate, rel=1e-10)
    with pytest.raises(ValueError, match=r"probes: a function B -> V B does not tell how long they are; give an array"):
        slq(lambda B: V @ B, 20)
    with pytest.raises(ValueError, match="probes: expected a whole number from 1 up, found 0"):
        slq(V, 0)


def test_probes_of_small_integers_are_those_of_floats():
    """Signs come in int8, in which a product or a squared length of 300 of them would overflow."""
    V, probes = spd(300, np.random.default_rng(4)), draw_probes(300, 32).trace
    assert probes.dtype == np.int8
    found, expected = slq(V, probes), slq(V, probes.astype(np.float64))
    np.testing.assert_array_equal(found.per_probe, expected.per_probe)
    assert abs(found.estimate - np.linalg.slogdet(V)[1]) < 4 * found.mc_se
