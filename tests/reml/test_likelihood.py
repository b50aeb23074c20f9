"""loglik, score and average information against the dense reference, to rounding, with sqrt(n) I as probes."""

import inspect

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from gpu_reml.reml import (
    ConvergenceError,
    Solver,
    apply_v_at,
    average_information,
    complement_traces,
    draw_probes,
    exact_probes,
    fit,
    likelihood,
    loglik,
    make_projected_core,
    precondition,
    score,
)
from gpu_reml.reml.likelihood import solve
from gpu_reml.reml.linalg import orthonormal_basis
from gpu_reml.validation import dense
from gpu_reml.validation.small import covariance_of, make_cohort

TIGHT = Solver(1e-11, quadrature=1e-13)


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

    found = score(*arguments, covariance, probes=probes, preconditioner=core, solver=TIGHT)
    expected = dense.dense_score(*arguments, cohort.Ks)
    np.testing.assert_allclose(found.score, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert (found.mc_covariance == 0).all()

    ai = average_information(*arguments, covariance, preconditioner=core, solver=TIGHT).ai
    np.testing.assert_allclose(ai, dense.dense_average_information(*arguments, cohort.Ks), rtol=1e-6)

    for preconditioner in (core, None if core is None else precondition(core, cohort.theta)):
        likely = loglik(*arguments, covariance, probes=probes, preconditioner=preconditioner, solver=TIGHT)
        np.testing.assert_allclose(likely.value, dense.dense_loglik(*arguments, cohort.Ks), rtol=1e-8)
        assert likely.converged and likely.mc_se == 0


def test_score_is_the_gradient_of_loglik(cohorts):
    cohort = cohorts[3]
    covariance, probes = covariance_of(cohort), exact_probes(cohort.n).trace

    def value(theta):
        return loglik(theta, cohort.y, cohort.X, covariance, probes=probes, solver=TIGHT).value

    found = score(cohort.theta, cohort.y, cohort.X, covariance, probes=probes, solver=TIGHT).score
    for g in range(4):
        h = np.zeros(4)
        h[g] = 1e-4 * cohort.theta[g]
        slope = (value(cohort.theta + h) - value(cohort.theta - h)) / (2 * h[g])
        np.testing.assert_allclose(found[g], slope, rtol=2e-5, atol=1e-6)


def test_functions_take_dense_matrices_and_a_bare_apply_v(cohorts):
    cohort = cohorts[2]
    probes = exact_probes(cohort.n).trace
    V = sum(t * K for t, K in zip(cohort.theta, cohort.Ks, strict=False)) + cohort.theta[-1] * np.eye(cohort.n)
    likely = loglik(None, cohort.y, cohort.X, lambda B: V @ B, probes=probes, solver=TIGHT)
    expected = dense.dense_loglik(cohort.theta, cohort.y, cohort.X, cohort.Ks)
    np.testing.assert_allclose(likely.value, expected, rtol=1e-8)
    found = score(cohort.theta, cohort.y, cohort.X, cohort.Ks, probes=probes, solver=TIGHT).score
    np.testing.assert_allclose(
        found, dense.dense_score(cohort.theta, cohort.y, cohort.X, cohort.Ks), rtol=1e-6, atol=1e-8
    )


def test_adding_fixed_effects_to_y_leaves_the_likelihood_unchanged(cohorts):
    cohort = cohorts[1]
    covariance, probes = covariance_of(cohort), exact_probes(cohort.n).trace
    shifted = cohort.y + cohort.X @ np.array([40.0, -3.0, 9.0])
    one, other = (
        loglik(cohort.theta, y, cohort.X, covariance, probes=probes, solver=TIGHT).value for y in (cohort.y, shifted)
    )
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


def stiff_model(n=60):
    """K of condition 1e8 beside hardly any residual, which PCG does not solve in 20 steps."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return np.array([1.0, 1e-8]), rng.standard_normal(n), np.ones((n, 1)), (basis * np.logspace(-8, 0, n)) @ basis.T


def test_a_solve_that_misses_its_tolerance_is_an_error_or_a_result_that_says_so():
    model, few = stiff_model(), Solver(max_iterations=20)
    functions = [
        lambda solver: average_information(*model, solver=solver),
        lambda solver: score(*model, probes=20, solver=solver),
        lambda solver: loglik(*model, probes=20, solver=solver),
    ]
    for function in functions:
        with pytest.raises(ConvergenceError, match=r"not 1e-06, after at most 20 PCG steps") as raised:
            function(few)
        told = function(few._replace(strict=False))
        assert not told.converged and told.residuals.max() > 1e-6
        np.testing.assert_array_equal(told[0], raised.value.result[0])


def test_a_log_determinant_that_has_not_settled_is_no_answer(cohorts, monkeypatch):
    cohort = cohorts[1]
    monkeypatch.setattr(likelihood, "MAX_LANCZOS", 3)
    arguments = (cohort.theta, cohort.y, cohort.X, cohort.Ks)
    with pytest.raises(ConvergenceError, match="the log-determinant did not settle"):
        loglik(*arguments, probes=20)
    assert not loglik(*arguments, probes=20, solver=Solver(strict=False)).converged


@pytest.mark.parametrize("kind", ["function", "matrix"])
def test_a_preconditioner_of_the_callers_own_changes_the_steps_and_not_the_answers(cohorts, kind):
    cohort = cohorts[2]
    arguments, probes = (cohort.theta, cohort.y, cohort.X, cohort.Ks), exact_probes(cohort.n)
    inverse = np.linalg.inv(dense.covariance_matrix(cohort.theta, cohort.Ks))
    own = inverse if kind == "matrix" else lambda B: inverse @ B
    two = TIGHT._replace(max_iterations=8)  # it takes some forty without
    found = score(*arguments, probes=probes, preconditioner=own, solver=two)
    np.testing.assert_allclose(found.score, dense.dense_score(*arguments), rtol=1e-6, atol=1e-8)
    ai = average_information(*arguments, preconditioner=own, solver=two).ai
    np.testing.assert_allclose(ai, dense.dense_average_information(*arguments), rtol=1e-6)
    likely = loglik(*arguments, probes=probes, preconditioner=own, solver=two)
    np.testing.assert_allclose(likely.value, dense.dense_loglik(*arguments), rtol=1e-8)
    with pytest.raises(ConvergenceError, match="after at most 8 PCG steps"):
        average_information(*arguments, solver=two)


def test_a_sketch_that_is_among_the_probes_is_refused(cohorts):
    cohort, probes = cohorts[1], draw_probes(150, 30, 20, seed=1)
    covariance, Q = covariance_of(cohort), orthonormal_basis(cohort.X)
    traces = complement_traces(covariance, Q)
    core = make_projected_core(covariance, Q, traces, cohort.theta[:-1], probes.trace[:, 5:15])
    arguments = (cohort.theta, cohort.y, cohort.X, covariance)
    for preconditioner in (core, precondition(core, cohort.theta)):
        with pytest.raises(ValueError, match="preconditioner: column 0 of its sketch is column 5 of probes"):
            score(*arguments, probes=probes, preconditioner=preconditioner)
    core = make_projected_core(covariance, Q, traces, cohort.theta[:-1], probes.sketch)
    assert score(*arguments, probes=probes, preconditioner=core).converged


def test_a_preconditioner_made_at_theta_and_its_core_have_one_score(cohorts):
    cohort, probes = cohorts[2], draw_probes(150, 30, seed=1)
    covariance = covariance_of(cohort)
    core = core_of(cohort, covariance, 20)
    arguments = (cohort.theta, cohort.y, cohort.X, covariance)
    one = score(*arguments, probes=probes, preconditioner=core)
    other = score(*arguments, probes=probes.trace, preconditioner=precondition(core, cohort.theta))
    np.testing.assert_allclose(one.score, other.score, rtol=1e-9)
    np.testing.assert_allclose(one.mc_se, other.mc_se, rtol=1e-9)
    assert (one.mc_se < score(*arguments, probes=probes).mc_se).all()


def test_functions_and_scipys_operators_need_a_trace_only_where_one_is_used(cohorts):
    cohort = cohorts[1]
    K, probes = cohort.Ks[0], draw_probes(150, 8, seed=0)
    arguments = (cohort.theta, cohort.y, cohort.X)
    operator = aslinearoperator(K)
    for own in (K.__matmul__, operator, [operator], [(operator, None)]):
        for function in (loglik, score):
            found, expected = (function(*arguments, c, probes=probes)[0] for c in (own, K))
            np.testing.assert_allclose(found, expected, rtol=1e-7)
        np.testing.assert_allclose(average_information(*arguments, own).ai, average_information(*arguments, K).ai)
        with pytest.raises(ValueError, match="component_000 is a function without its trace, which is needed here"):
            fit(cohort.y, cohort.X, own)
    operator.trace = np.trace(K)
    np.testing.assert_allclose(fit(*arguments[1:], operator).theta, fit(*arguments[1:], K).theta, rtol=1e-8)


def test_a_number_an_array_and_probes_are_the_same_probes(cohorts):
    cohort = cohorts[1]
    arguments = (cohort.y, cohort.X, cohort.Ks)
    drawn = draw_probes(150, 40)
    for probes in (40, drawn.trace, drawn.trace.astype(float)):
        np.testing.assert_array_equal(fit(*arguments, probes).theta, fit(*arguments, drawn).theta)
        found, expected = (score(cohort.theta, *arguments, probes=given).score for given in (probes, drawn))
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(fit(*arguments).theta, fit(*arguments, draw_probes(150, 256, seed=0)).theta)


def test_one_vector_times_v_is_one_vector(cohorts):
    cohort = cohorts[2]
    apply_v = apply_v_at(cohort.Ks, cohort.theta)
    found = apply_v(cohort.y)
    assert found.shape == cohort.y.shape
    np.testing.assert_allclose(found, dense.covariance_matrix(cohort.theta, cohort.Ks) @ cohort.y, rtol=1e-10)
    np.testing.assert_array_equal(found, apply_v(cohort.y[:, None])[:, 0])


def test_the_functions_of_theta_take_the_same_arguments():
    """Those of the data in one order; ``average_information`` has no probes, since it needs none."""
    found = [inspect.signature(function).parameters for function in (loglik, score, average_information)]
    names = [[name for name in parameters if name != "probes"] for parameters in found]
    assert names[0] == names[1] == names[2] == ["theta", "y", "X", "covariance", "preconditioner", "solver"]
    for parameters in found:
        assert parameters["preconditioner"].default is None and parameters["solver"].default == Solver()
        assert parameters["preconditioner"].kind is parameters["solver"].kind is inspect.Parameter.KEYWORD_ONLY
