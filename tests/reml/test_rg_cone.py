"""Steps in the cone against a general optimiser, and the pieces of the algebra against dense matrices."""

import numpy as np
import pytest
from scipy import optimize

from gpu_reml.reml import CountingCovariance, FitSettings, draw_probes, exact_probes
from gpu_reml.reml.studies.rg_bases import part_of, people_of
from gpu_reml.reml.studies.rg_cone import Cone, at_bounds, cone_step, entries_of
from gpu_reml.reml.studies.rg_stack import Stack, point_at, stacked
from gpu_reml.validation.small import covariance_of, make_cohort, two_traits


def problem(seed, num_matrices, num_traits):
    rng = np.random.default_rng(seed)
    own = entries_of(num_matrices, num_traits)
    p = len(own.h)
    B = rng.standard_normal((p, p))
    A = 50 * B @ B.T + np.diag(rng.uniform(1, 100, p))
    lower = np.zeros((num_matrices, num_traits, num_traits))
    lower[-1] = 1e-6 * np.eye(num_traits)
    start = np.broadcast_to(0.3 * np.eye(num_traits), lower.shape).copy()
    start[0] = 0
    return own, own.vector(start), 100 * rng.standard_normal(p), A, Cone(own, lower)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num_matrices", "num_traits"), [(3, 2), (2, 4)])
def test_a_step_is_the_maximum_of_its_quadratic_in_the_cone(seed, num_matrices, num_traits):
    own, x, s, A, cone = problem(seed, num_matrices, num_traits)

    def value(w):
        return s @ w - w @ A @ w / 2

    def negative(u):
        L = np.zeros_like(cone.lower)
        L[own.h, own.b, own.a] = u
        w = own.vector(L @ L.transpose(0, 2, 1) + cone.lower) - x
        slope = np.zeros_like(L)
        slope[own.h, own.a, own.b] += s - A @ w
        slope[own.h, own.b, own.a] += s - A @ w
        return -value(w), -(slope @ L)[own.h, own.b, own.a]

    rng = np.random.default_rng(seed)
    starts = [rng.standard_normal(len(x)) for _ in range(4)]
    best = -min(optimize.minimize(negative, u, jac=True, method="BFGS", options={"gtol": 1e-9}).fun for u in starts)
    new = at_bounds(cone, x + cone_step(x, s, A, cone, np.eye(len(x))))
    assert abs(value(new - x) - best) < 1e-7 * max(1, best)
    assert (np.linalg.eigvalsh(own.matrices(new) - cone.lower) > -1e-12).all()


def test_a_step_inside_the_cone_is_newtons():
    own, x, s, A, cone = problem(1, 2, 2)
    x, s = own.vector(np.broadcast_to(np.eye(2), (2, 2, 2))), 1e-3 * s
    np.testing.assert_allclose(cone_step(x, s, A, cone, np.eye(len(x))), np.linalg.solve(A, s))


def test_a_function_held_at_zero_stays_there_while_the_rest_is_best():
    own, x, s, A, cone = problem(2, 3, 2)
    held = np.arange(len(x)) != own.index(0, 0, 1)
    J = np.eye(len(x))[:, held]
    new = x + J @ cone_step(x, J.T @ s, J.T @ A @ J, cone, J)
    assert own.matrices(new)[0, 0, 1] == 0
    assert (np.linalg.eigvalsh(own.matrices(new) - cone.lower) > -1e-9).all()


def test_zero_variances_take_their_covariances_with_them():
    own, x, _, _, cone = problem(0, 2, 2)
    x = own.vector(np.array([[[1e-9, 1e-5], [1e-5, 1.0]], [[1.0, 0.2], [0.2, 1.0]]]))
    S = own.matrices(at_bounds(cone, x))
    np.testing.assert_array_equal(S[0], [[0, 0], [0, 1]])
    np.testing.assert_array_equal(S[1], [[1, 0.2], [0.2, 1]])


@pytest.mark.parametrize("exact", [False, True])
def test_eigenvectors_of_one_component_say_what_factors_of_the_whole_matrix_do(exact, monkeypatch):
    cohort = make_cohort(150, 400, 1, seed=2)
    Y, _ = two_traits(cohort, 1.0, seed=3)
    probes = exact_probes(cohort.n) if exact else draw_probes(cohort.n, seed=1)
    (people,) = people_of(Y, [cohort.X] * 2, CountingCovariance(covariance_of(cohort)), probes, FitSettings())
    stack = stacked([part_of(people)] * 2, [0, 1], {})
    S = np.array([[[0.5, 0.2], [0.2, 0.4]], [[0.5, 0.1], [0.1, 0.6]]])
    spectral = point_at(stack, S)
    monkeypatch.setattr(Stack, "spectral", False)
    whole = point_at(stack, S)
    assert people.model.exact == exact
    for name in ("score", "ai", "forms", "ypy", "logdet"):
        np.testing.assert_allclose(getattr(spectral, name), getattr(whole, name), rtol=1e-9)
    np.testing.assert_allclose(spectral.traces.per_probe, whole.traces.per_probe, rtol=1e-9)
    np.testing.assert_allclose(spectral.c, whole.c, atol=1e-9)
