import itertools

import numpy as np
import pytest

from gpu_reml.reml import SingularInformationError, ai_step
from gpu_reml.reml.step import _least_distance, score_norm, shortened


def best_by_enumeration(theta, score, ai, lower):
    """The bounded quadratic's maximiser by trying every set of active bounds."""
    best, value = None, -np.inf
    p = len(theta)
    for held in itertools.product([False, True], repeat=p):
        held = np.array(held)
        new = lower.copy()
        free = ~held
        if free.any():
            d_held = (lower - theta)[held]
            rhs = score[free] - ai[np.ix_(free, held)] @ d_held
            new[free] = theta[free] + np.linalg.solve(ai[np.ix_(free, free)], rhs)
        d = new - theta
        q = score @ d - d @ ai @ d / 2
        if (new >= lower - 1e-12).all() and q > value:
            best, value = new, q
    return best


@pytest.mark.parametrize("seed", range(20))
def test_step_maximises_the_bounded_quadratic(seed):
    rng = np.random.default_rng(seed)
    p = rng.integers(1, 5)
    A = rng.standard_normal((p, p + 2)) * np.exp(rng.uniform(-4, 4, p))[:, None]
    ai, theta, lower = A @ A.T, rng.random(p) + 0.1, np.zeros(p)
    score = 5 * rng.standard_normal(p) * np.sqrt(np.diag(ai))
    found = ai_step(theta, score, ai, lower)
    np.testing.assert_allclose(found.theta, best_by_enumeration(theta, score, ai, lower), rtol=1e-7, atol=1e-9)
    assert (found.theta >= lower).all()
    np.testing.assert_allclose(found.decrement, found.direction @ ai @ found.direction)


def test_an_interior_step_is_newtons():
    ai = np.array([[4.0, 1.0], [1.0, 3.0]])
    score = np.array([0.3, -0.2])
    found = ai_step(np.array([1.0, 1.0]), score, ai, np.zeros(2))
    np.testing.assert_allclose(found.direction, np.linalg.solve(ai, score), rtol=1e-10)


def test_indistinguishable_components_are_named_not_regularised():
    ai = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 2]])
    with pytest.raises(SingularInformationError, match=r"singular at parameter [01]"):
        ai_step(np.ones(3), np.ones(3), ai, np.zeros(3))


def test_directions_that_are_all_axes_make_the_step_of_the_bounds_however_far_these_are():
    for seed, size in itertools.product(range(10), (1.0, 1e4, 1e8)):
        rng = np.random.default_rng(seed)
        p = rng.integers(1, 5)
        A = rng.standard_normal((p, p + 2))
        ai, theta = A @ A.T, size * (rng.random(p) + 0.1)
        score = 5 * size * rng.standard_normal(p) * np.sqrt(np.diag(ai))
        expected = ai_step(theta, score, ai, np.zeros(p)).theta
        found = ai_step(theta, score, ai, np.zeros(p), np.eye(p))
        np.testing.assert_allclose(found.theta, expected, rtol=1e-6, atol=1e-9 * size)
        np.testing.assert_array_equal(found.direction, found.theta - theta)
        assert found.decrement == pytest.approx(found.direction @ ai @ found.direction)


def test_along_directions_a_step_that_meets_a_bound_ends_on_it():
    met = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        A, lower = rng.standard_normal((3, 5)), np.append(-np.inf, rng.uniform(1e-7, 1e-5, 2))
        found = ai_step(rng.random(3) + 0.1, 20 * rng.standard_normal(3), A @ A.T, lower)
        near = found.theta <= lower * (1 + 1e-6)
        met += near.sum()
        assert (found.theta >= lower).all() and (found.theta[near] == lower[near]).all()
    assert met > 50


def test_a_parameter_without_information_is_the_one_that_is_named():
    ai = np.diag([2.0, 0.0, 3.0])
    for estimated in (None, np.eye(3)):
        with pytest.raises(SingularInformationError, match="singular at parameter 1") as raised:
            ai_step(np.ones(3), np.ones(3), ai, np.zeros(3), estimated)
        assert raised.value.index == 1
    alike = np.array([[1.0, 0, 0], [0, 1, 1e4], [0, 1e4, 1e8]])  # the last has the same information in another unit
    with pytest.raises(SingularInformationError, match="singular at parameter 1"):
        ai_step(np.ones(3), np.ones(3), alike, np.zeros(3), np.eye(3))


def test_a_step_past_an_upper_bound_is_shortened_to_where_it_first_meets_one():
    theta, upper = np.array([1.0, 1.0, 1.0]), np.array([3.0, 2.0, 0.5])
    step = ai_step(theta, np.array([4.0, 4.0, -0.5]), np.eye(3), np.full(3, -9.0))
    found = shortened(step, theta, upper)
    np.testing.assert_allclose(found.theta, [2.0, 2.0, 0.875])  # the last falls, so that its bound does not count
    np.testing.assert_allclose(found.direction, found.theta - theta)
    assert found.decrement == pytest.approx(found.direction @ found.direction)
    assert shortened(step, theta, np.full(3, 5.0)) is step  # as far as it goes, and no farther


def test_the_length_of_a_score_is_in_its_standard_errors_along_the_directions():
    score, ai = np.array([6.0, 5.0, 7.0]), np.diag([4.0, 25.0, 1.0])
    assert score_norm(score, ai, np.array([True, True, False])) == pytest.approx(np.sqrt(9 + 1))
    assert score_norm(score, ai, np.array([[1.0], [1.0], [0.0]])) == pytest.approx(11 / np.sqrt(29))


def test_parameters_without_a_bound_move_freely_beside_one_that_has_one():
    theta, score, lower = np.array([0.5, 0.5]), np.array([-3.0, -3.0]), np.array([-np.inf, 0.0])
    found = ai_step(theta, score, np.eye(2), lower)
    np.testing.assert_allclose(found.theta, [-2.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(ai_step(theta, score, np.eye(2), np.full(2, -np.inf)).theta, [-2.5, -2.5])


def test_parameters_that_are_not_estimated_stay_where_they_are():
    ai, estimated = np.array([[2.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 1.0]]), np.array([True, False, True])
    theta, score = np.array([1.0, 2.0, 3.0]), np.array([0.4, 9.0, -0.3])
    found = ai_step(theta, score, ai, np.zeros(3), estimated)
    moved = np.linalg.solve(ai[np.ix_(estimated, estimated)], score[estimated])
    np.testing.assert_allclose(found.direction, [moved[0], 0.0, moved[1]], rtol=1e-10)
    assert found.decrement == pytest.approx(found.direction @ ai @ found.direction)


def test_a_parameter_at_its_upper_bound_that_does_not_move_shortens_nothing():
    theta, upper = np.array([1.0, 0.0]), np.array([1.0, 0.25])
    step = ai_step(theta, np.array([0.0, 0.5]), np.eye(2), np.full(2, -9.0))
    np.testing.assert_allclose(shortened(step, theta, upper).theta, [1.0, 0.25])


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e7])
def test_the_shortest_vector_beyond_a_plane_is_found_in_any_unit(size):
    G, h = size * np.array([[3.0, 4.0], [-4.0, 3.0]]), size * np.array([0.1, -1.0])
    u, held = _least_distance(G, h)
    np.testing.assert_allclose(u, 0.1 / 25 * np.array([3.0, 4.0]), rtol=1e-12)
    assert held.tolist() == [True, False]


def test_a_point_on_its_bounds_is_the_shortest_itself():
    u, held = _least_distance(np.eye(2), np.zeros(2))
    assert u.tolist() == [0, 0] and not held.any()
