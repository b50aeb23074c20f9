"""Monte-Carlo errors of the reduced model: by the information, the curvature, and probes weighted anew."""

import numpy as np

from gpu_reml.reml import (
    CountingCovariance,
    FitSettings,
    as_covariance,
    draw_probes,
)
from gpu_reml.reml.engines import reduced_search
from gpu_reml.reml.engines.reduced_fit import ended, leading_images, state_at
from gpu_reml.reml.engines.reduced_model import first_model, prepare
from gpu_reml.reml.engines.reduced_point import (
    Outside,
    controls_at,
    information,
    point_at,
)
from gpu_reml.reml.engines.reduced_search import Walk, curvature_at, mc_covariance, resampled_covariance
from gpu_reml.reml.inference import bounded_covariance, mc_covariance_of_theta
from gpu_reml.reml.result import Status
from gpu_reml.reml.traits import make_traits
from gpu_reml.validation.small import covariance_of

REDUCED = FitSettings(engine="reduced")


def test_monte_carlo_errors_of_a_bound_are_those_of_the_bounded_step():
    """One component: the error is that of max(0, theta + an error), with the residual's share of it."""
    ai, errors = np.array([[100.0, 30.0], [30.0, 80.0]]), np.array([[4.0, -1.0], [-1.0, 3.0]])
    lower, upper, all_of_them = np.array([0.0, 1e-6]), np.array([10.0, 10.0]), np.array([True, True])

    def error(theta, score):
        return bounded_covariance(np.array(theta), np.array(score), ai, errors, (lower, upper), all_of_them)

    inside = np.linalg.inv(ai) @ errors @ np.linalg.inv(ai)
    np.testing.assert_allclose(error([0.5, 0.5], [0.0, 0.0]), inside, rtol=1e-12)
    held = np.array([[0, 0], [0, 3 / 80**2]])
    np.testing.assert_allclose(error([0.0, 0.5], [-20.0, 0.0]), held, rtol=1e-12)
    beside = error([0.0, 0.5], [0.0, 0.0])
    assert 0.4 * inside[0, 0] < beside[0, 0] < 0.6 * inside[0, 0]
    near = error([0.01, 0.5], [0.0, 0.0])
    assert beside[0, 0] < near[0, 0] < inside[0, 0]


def test_the_curvature_is_minus_the_derivative_of_the_dense_score(coarse, large):
    """2 AI less half the traces tr(P K_g P K_h), of components of which most is off the basis."""
    problem, model, theta, A, contrasts = coarse
    state, inverse = state_at(problem, model, theta), np.zeros((3, 64))
    point = point_at(problem, model, 0, theta, state.walk.off, inverse)
    point = point._replace(ai=information(problem, model, theta, 0))
    found = curvature_at(problem, model, state.walk._replace(point=point), np.ones(4, bool))
    atoms = [A.T @ K @ A for K in large.Ks] + [np.eye(len(contrasts))]
    PK = [np.linalg.solve(contrasts, K) for K in atoms]
    y = A.T @ np.asarray(problem.Y)[:, 0]
    images = [product @ np.linalg.solve(contrasts, y) for product in PK]
    forms = np.array([y @ np.linalg.solve(contrasts, K @ image) for K, image in zip(atoms, images, strict=True)])
    expected = forms - 0.5 * np.array([np.sum(product * product.T) for product in PK])
    np.testing.assert_allclose(np.diag(found)[:3], expected[:3], rtol=0.35)


def test_monte_carlo_errors_of_resampled_probes_are_about_those_of_the_curvature(large):
    problem, state = settled_state(large, 4)
    assert state.walk.status is Status.CONVERGED and not state.model.exact
    walk, free = state.walk, problem.free(state.walk.theta)
    curvature = curvature_at(problem, state.model, walk, free)
    smooth = mc_covariance_of_theta(curvature, walk.point.traces.covariance / 4, free)
    ratios = np.sqrt(np.diag(resampled_covariance(problem, state.model, walk)) / np.diag(smooth))
    assert free.all() and (ratios > 0.4).all() and (ratios < 2.0).all()


def settled_state(large, seed):
    """A problem, and a fit of 32 probes at its end."""
    covariance = CountingCovariance(as_covariance(covariance_of(large)))
    traits, probes = make_traits(large.y[:, None], large.X), draw_probes(large.n, 32, 0, seed)
    problem = prepare(covariance, traits, probes, REDUCED)
    return problem, ended(problem, probes, state_at(problem, first_model(problem, probes), problem.start()), 1.0)


def test_the_error_stated_is_the_larger_of_those_by_the_curvature_and_by_its_expectation(large, monkeypatch):
    """A basis that misses much of what the traces change by makes the likelihood look too steep."""
    problem, state = settled_state(large, 4)
    model, walk = state.model, state.walk
    errors = []
    for factor in (1.0, 4.0, 0.25):
        monkeypatch.setattr(reduced_search, "curvature_at", lambda *_, times=factor: times * walk.point.ai)
        errors.append(np.sqrt(np.diag(mc_covariance(problem, model, walk))))
    by_expectation, steep, flat = errors
    np.testing.assert_allclose(steep, by_expectation, rtol=1e-12)
    assert (flat > 2 * by_expectation).all()


def test_a_component_whose_score_is_three_errors_below_zero_at_its_bound_has_an_error(large):
    problem, state = settled_state(large, 4)
    model, walk = state.model, state.walk
    theta = np.where(np.arange(len(walk.theta)) == 1, problem.lower, walk.theta)
    point = point_at(problem, model, 0, theta, walk.off, controls_at(problem, model, theta))
    error = np.sqrt(point.traces.covariance[1, 1]) / 2
    ends = []
    for below in (0.0, 3.0, 6.0):
        score = np.where(np.arange(len(theta)) == 1, -below * error, 0.0)
        found = mc_covariance(problem, model, walk._replace(theta=theta, point=point._replace(score=score)))
        ends.append(np.sqrt(found[1, 1]))
    assert ends[0] > ends[1] > 0.1 * ends[0] and ends[2] == 0.0


def test_of_the_images_off_the_basis_the_combinations_that_carry_most_of_the_residual_join():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((200, 4)) * [1.0, 1.0, 0.05, 1.0]
    images[:, 1] = images[:, 0] + 0.01 * images[:, 1]  # two components whose images are nearly the same
    for theta in ([0.4, 0.4, 0.4, 0.0, 1.0], [-0.4, -0.4, -0.4, 0.0, 1.0]):
        theta = np.array(theta)
        residual = -images @ theta[:4, None]
        off = Outside(residual, 1.0, theta, images, images.T @ images, np.ones(4), 10)
        found = leading_images(Walk(0, theta, off))
        assert found.shape == (200, 2)  # one of the pair, and one whose variance is 0 now; none of the small one
        left = residual - found @ np.linalg.lstsq(found, residual)[0]
        assert np.linalg.norm(left) < 0.05 * np.linalg.norm(residual)
