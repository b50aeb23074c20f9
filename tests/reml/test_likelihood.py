"""loglik, score and average information against the dense reference, to rounding, with sqrt(n) I as probes."""

import numpy as np
import pytest

from gpu_reml.reml import (
    apply_v_at,
    average_information,
    complement_traces,
    exact_probes,
    loglik,
    make_projected_core,
    precondition,
    score,
)
from gpu_reml.reml.likelihood import solve
from gpu_reml.reml.linalg import orthonormal_basis
from gpu_reml.validation import dense
from gpu_reml.validation.small import covariance_of, make_cohort

TIGHT = 1e-11


def core_of(cohort, covariance, rank):
    Q = orthonormal_basis(cohort.X)
    sketch = exact_probes(cohort.n, rank, seed=1).sketch
    return make_projected_core(covariance, Q, complement_traces(covariance, Q), cohort.theta[:-1], sketch)


@pytest.mark.parametrize("num_components", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("rank", [None, 0, 20])
def test_loglik_score_and_ai_equal_the_dense_reference(cohorts, num_components, rank):
    cohort = cohorts[num_components]
    covariance = covariance_of(cohort)
    core = None if rank is None else core_of(cohort, covariance, rank)
    probes = exact_probes(cohort.n).trace
    arguments = (cohort.theta, cohort.y, cohort.X)

    found = score(*arguments, covariance, probes, core=core, tol=TIGHT)
    expected = dense.dense_score(*arguments, cohort.Ks)
    np.testing.assert_allclose(found.score, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert (found.mc_covariance == 0).all()

    ai = average_information(*arguments, covariance, core=core, tol=TIGHT)
    np.testing.assert_allclose(ai, dense.dense_average_information(*arguments, cohort.Ks), rtol=1e-6)

    likely = loglik(
        cohort.y,
        cohort.X,
        apply_v_at(covariance, cohort.theta),
        probes,
        preconditioner=None if core is None else precondition(core, cohort.theta),
        tol=TIGHT,
        quadrature={"tol": 1e-13},
    )
    np.testing.assert_allclose(likely.value, dense.dense_loglik(*arguments, cohort.Ks), rtol=1e-8)


def test_score_is_the_gradient_of_loglik(cohorts):
    cohort = cohorts[3]
    covariance, probes = covariance_of(cohort), exact_probes(cohort.n).trace

    def value(theta):
        apply_v = apply_v_at(covariance, theta)
        return loglik(cohort.y, cohort.X, apply_v, probes, tol=1e-12, quadrature={"tol": 1e-14}).value

    found = score(cohort.theta, cohort.y, cohort.X, covariance, probes, tol=1e-12).score
    for g in range(4):
        h = np.zeros(4)
        h[g] = 1e-4 * cohort.theta[g]
        slope = (value(cohort.theta + h) - value(cohort.theta - h)) / (2 * h[g])
        np.testing.assert_allclose(found[g], slope, rtol=2e-5, atol=1e-6)


def test_functions_take_dense_matrices_and_a_bare_apply_v(cohorts):
    cohort = cohorts[2]
    probes = exact_probes(cohort.n).trace
    V = sum(t * K for t, K in zip(cohort.theta, cohort.Ks, strict=False)) + cohort.theta[-1] * np.eye(cohort.n)
    likely = loglik(cohort.y, cohort.X, lambda B: V @ B, probes, tol=TIGHT, quadrature={"tol": 1e-13})
    expected = dense.dense_loglik(cohort.theta, cohort.y, cohort.X, cohort.Ks)
    np.testing.assert_allclose(likely.value, expected, rtol=1e-8)
    found = score(cohort.theta, cohort.y, cohort.X, cohort.Ks, probes, tol=TIGHT).score
    np.testing.assert_allclose(
        found, dense.dense_score(cohort.theta, cohort.y, cohort.X, cohort.Ks), rtol=1e-6, atol=1e-8
    )


def test_adding_fixed_effects_to_y_leaves_the_likelihood_unchanged(cohorts):
    cohort = cohorts[1]
    apply_v = apply_v_at(covariance_of(cohort), cohort.theta)
    probes = exact_probes(cohort.n).trace
    shifted = cohort.y + cohort.X @ np.array([40.0, -3.0, 9.0])
    one, other = (loglik(y, cohort.X, apply_v, probes, tol=TIGHT).value for y in (cohort.y, shifted))
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_preconditioner_is_the_covariance_on_its_subspace_and_has_its_trace(cohorts):
    cohort = cohorts[3]
    covariance = covariance_of(cohort)
    core = core_of(cohort, covariance, 15)
    M = precondition(core, cohort.theta)
    V = sum(t * K for t, K in zip(cohort.theta, cohort.Ks, strict=False)) + cohort.theta[-1] * np.eye(cohort.n)
    Q = orthonormal_basis(cohort.X)
    A = np.linalg.qr(np.column_stack([Q, np.random.default_rng(0).standard_normal((cohort.n, cohort.n - 3))]))[0][:, 3:]
    dense_m = A.T @ M.apply_power(A, 1.0)
    U = core.U
    np.testing.assert_allclose(U.T @ M.apply_power(U, 1.0), U.T @ V @ U, atol=1e-8)
    np.testing.assert_allclose(np.trace(dense_m), np.trace(A.T @ V @ A), rtol=1e-10)
    np.testing.assert_allclose(M.logdet, np.linalg.slogdet(dense_m)[1], rtol=1e-10)
    inverse = np.linalg.inv(dense_m)
    np.testing.assert_allclose(A.T @ M.apply_minv(A), inverse, atol=1e-10)
    exact = [np.trace(inverse @ (A.T @ K @ A)) for K in cohort.Ks]
    np.testing.assert_allclose(M.inverse_traces, exact, rtol=1e-9)


def test_collinear_covariates_are_refused():
    cohort = make_cohort(40, 60, 1, seed=9)
    X = np.column_stack([cohort.X, cohort.X[:, 1] - 2 * cohort.X[:, 0]])
    with pytest.raises(ValueError, match="is a linear combination of the others"):
        orthonormal_basis(X)


def test_more_covariates_than_samples_are_refused():
    with pytest.raises(ValueError, match="fewer columns than samples"):
        orthonormal_basis(np.ones((3, 3)))


def test_a_column_that_the_fixed_effects_span_is_solved_by_zero_wherever_the_solve_starts(cohorts):
    cohort = cohorts[2]
    Q, V = (
        orthonormal_basis(cohort.X),
        sum(t * K for t, K in zip(cohort.theta, [*cohort.Ks, np.eye(cohort.n)], strict=True)),
    )
    B, start = np.column_stack([Q[:, 0], cohort.y]), 1e-20 * np.ones((cohort.n, 2))
    found = solve(Q, lambda A: V @ A, B, tol=1e-8, X0=start)
    assert (found.X[:, 0] == 0).all() and (found.iterations[0], found.converged.all()) == (0, True)
    assert found.iterations[1] > 0 and start.all()
