"""The reduced model: dense REML's numbers, what it costs, and fits that AI steps with solves do not end."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, make_covariance, standardise
from gpu_reml.ops import pack as packed
from gpu_reml.reml import (
    CountingCovariance,
    FitSettings,
    Hooks,
    ProbeSettings,
    SolverSettings,
    as_covariance,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
    fit_traits,
    pack,
    unpack,
    with_residuals,
)
from gpu_reml.reml.cross_fit import controlled_traces, fixed_controls, fold_of, inverse_controls, longer_chain
from gpu_reml.reml.engines.reduced import empty_basis, extended, new_directions, reduced_v
from gpu_reml.reml.engines.reduced_end import log_determinant
from gpu_reml.reml.engines.reduced_fit import Checked, accuracy, ended, off_at, state_at
from gpu_reml.reml.engines.reduced_fit import with_residuals as with_residuals_of
from gpu_reml.reml.engines.reduced_model import first_model, grown, prepare, probe_residuals, probe_solutions
from gpu_reml.reml.engines.reduced_point import (
    off_the_basis,
    point_at,
    residual_near,
    y_residual,
)
from gpu_reml.reml.reduced_matrices import ReducedMatrices
from gpu_reml.reml.step import Step, shortened
from gpu_reml.reml.traits import make_traits
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.honesty import make_sample, parse_case
from gpu_reml.validation.small import covariance_of, make_cohort

REDUCED = FitSettings(engine="reduced")
EXACT = FitSettings(
    engine="reduced",
    tol=1e-12,
    solver=SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13),
)


@pytest.mark.parametrize("num_components", [1, 2, 3, 4, 5])
def test_with_exact_probes_it_is_the_dense_fit(cohorts, num_components):
    cohort = cohorts[num_components]
    expected = exact_reml(cohort.y, cohort.X, cohort.Ks)
    found = fit(cohort.y, cohort.X, covariance_of(cohort), exact_probes(cohort.n), EXACT)
    assert (np.abs(found.theta - expected.theta) <= 1e-4 * found.se).all()
    assert found.converged and (found.mc_se == 0).all() and found.method == "reduced"
    np.testing.assert_allclose(found.loglik, expected.loglik, rtol=1e-8)
    np.testing.assert_allclose(found.fixed_effects.estimate, expected.fixed_effects, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.fixed_effects.se, np.sqrt(np.diag(expected.fixed_effects_cov)), rtol=1e-3)
    if not found.at_bound.any():
        np.testing.assert_allclose(found.se, expected.se, rtol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_probes_err_by_what_is_stated_and_the_basis_is_not_complete(large, seed):
    expected = exact_reml(large.y, large.X, large.Ks)
    found = fit(large.y, large.X, covariance_of(large, np.float32), draw_probes(large.n, 128, 0, seed), REDUCED)
    assert found.converged and found.mc_target_met and found.rank < large.n / 2
    assert (np.abs(found.theta - expected.theta) <= 4 * found.mc_se + 0.01 * found.se).all()
    assert abs(found.loglik - expected.loglik) <= 4 * found.loglik_mc_se
    np.testing.assert_allclose(found.se, expected.se, rtol=0.15)


def test_it_costs_no_more_passes_than_a_few_solves_would(large):
    covariance, probes = covariance_of(large, np.float32), draw_probes(large.n, 32, 0, 1)
    found = fit(large.y, large.X, covariance, probes, REDUCED, strict=False)
    assert found.column_passes <= 400


def test_probes_that_the_end_will_want_join_while_theta_still_moves(large):
    """So that they are solved in the rounds of the first ones."""
    settings = replace(REDUCED, probes=ProbeSettings(first=16))
    found = fit(large.y, large.X, covariance_of(large, np.float32), draw_probes(large.n, 128, 0, 1), settings)
    before, joined = next(pair for pair in pairwise(found.history) if pair[1].num_probes > 16)
    assert found.mc_target_met and joined.decrement > 1e-3 and before.basis < 0.6 * found.rank


def test_probes_a_little_over_their_tolerance_are_solved_no_further_where_theta_has_hardly_moved(large):
    covariance, probes = CountingCovariance(covariance_of(large, np.float32)), draw_probes(large.n, 24, 0, 1)
    settings = replace(REDUCED, probes=ProbeSettings(first=24, mc_target=10))
    problem = prepare(covariance, make_traits(large.y[:, None], large.X), probes, settings)
    state = ended(problem, probes, state_at(problem, first_model(problem, probes), problem.start()), 1.0)
    model, walk, every = state.model, state.walk, np.arange(24)
    A = probe_solutions(model, reduced_v(model.basis.T, walk.theta))
    largest = probe_residuals(problem, model, walk.theta, every, A)[1].max() / accuracy(problem, model, walk.point)
    for below, unsolved in ((1.2, False), (1.8, True)):
        solver = SolverSettings(probes=largest / below, y=0.5)
        stricter = problem._replace(settings=replace(settings, solver=solver))
        assert with_residuals_of(stricter, state._replace(active=None))[1].unsolved == unsolved
        assert with_residuals_of(stricter, state._replace(active=every))[1].unsolved


def test_probes_found_solved_near_theta_are_not_looked_at_again_when_others_join(large):
    covariance, probes = CountingCovariance(covariance_of(large, np.float32)), draw_probes(large.n, 24, 0, 1)
    settings = replace(REDUCED, probes=ProbeSettings(first=24, mc_target=10))
    problem = prepare(covariance, make_traits(large.y[:, None], large.X), probes, settings)
    state = ended(problem, probes, state_at(problem, first_model(problem, probes), problem.start()), 1.0)
    loose = problem._replace(settings=replace(settings, solver=SolverSettings(probes=0.5, y=0.5)))
    theta, errors = state.walk.theta, 1 / np.sqrt(np.diag(state.walk.point.ai))
    for moved, looked_at in ((0.05, 4), (0.3, 24)):
        there = theta + np.array([moved, 0, 0, 0]) * errors
        checked = state._replace(active=None, checked=Checked(there, 20))
        before = covariance.column_passes
        assert not with_residuals_of(loose, checked)[1].unsolved
        assert covariance.column_passes - before == looked_at / 2


def test_a_basis_that_is_started_again_leads_to_the_same_estimates(large):
    arguments = large.y, large.X, covariance_of(large), draw_probes(large.n, 24, 0, 2)
    free = fit(*arguments, replace(REDUCED, probes=ProbeSettings(first=24, mc_target=10)))
    narrow = replace(REDUCED, solver=SolverSettings(most_basis=150), probes=ProbeSettings(first=24, mc_target=10))
    again = fit(*arguments, narrow)
    assert again.rank <= 150 < free.rank
    assert (np.abs(again.theta - free.theta) <= 0.15 * free.se).all()


def test_a_fit_resumed_from_any_round_is_the_same_to_the_last_bit():
    cohort, states = make_cohort(300, 800, 3, 5), []
    arguments = cohort.y[:, None], cohort.X, covariance_of(cohort, np.float32), draw_probes(300, 40, 0, 3), REDUCED
    (whole,) = fit_traits(*arguments, hooks=Hooks(checkpoint=lambda value: states.append(pack(value))))
    for state in states[:: max(1, len(states) // 4)]:
        (resumed,) = fit_traits(*arguments, hooks=Hooks(resume=unpack(*state)))
        assert (resumed.theta == whole.theta).all() and resumed.loglik == whole.loglik
        assert resumed.history == whole.history and resumed.column_passes == whole.column_passes


@pytest.fixture(scope="module")
def few_variants():
    """Four components of 20 variants and one without variance, h2 near 1: AI overshoots where few effects tell it."""
    cohort = make_cohort(400, 100, 5, seed=8)
    rng = np.random.default_rng(8)
    values = [np.linalg.cholesky(K + 1e-9 * np.eye(400)) @ rng.standard_normal(400) for K in cohort.Ks[:4]]
    y = sum(np.sqrt(0.75) * value for value in values) + np.sqrt(0.07) * rng.standard_normal(400)
    return y, cohort


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_variants_a_component_and_hardly_any_residual_are_the_dense_fit(few_variants, seed):
    y, cohort = few_variants
    expected = fit_exact(y, cohort.X, covariance_of(cohort))
    found = fit(y, cohort.X, covariance_of(cohort, np.float32), draw_probes(400, 64, 0, seed))
    assert found.converged and found.at_bound.tolist() == expected.at_bound.tolist()
    assert (np.abs(found.theta - expected.theta) <= 4 * found.mc_se + 0.05 * np.nan_to_num(expected.se)).all()
    assert found.h2.estimate[-1] == pytest.approx(expected.h2.estimate[-1], abs=1e-4)


def test_residuals_of_several_kinds_are_the_dense_fit(cohorts):
    cohort = cohorts[2]
    groups = (np.arange(cohort.n)[:, None] % 2 == [0, 1]).astype(float)
    covariance = with_residuals(covariance_of(cohort), groups, ["even", "odd"])
    expected = fit_exact(cohort.y, cohort.X, covariance)
    found = fit(cohort.y, cohort.X, covariance, exact_probes(cohort.n), EXACT)
    np.testing.assert_allclose(found.theta, expected.theta, rtol=1e-4, atol=1e-6)


def test_a_basis_is_orthonormal_and_holds_the_components_forms(cohorts):
    cohort = cohorts[3]
    covariance = CountingCovariance(as_covariance(covariance_of(cohort)))
    Q, rng = np.ones((cohort.n, 1)) / np.sqrt(cohort.n), np.random.default_rng(1)
    basis, B = empty_basis(3), rng.standard_normal((cohort.n, 5))
    for W in (B, np.column_stack([B[:, :2], rng.standard_normal((cohort.n, 3))])):
        basis = extended(covariance, basis, new_directions(Q, basis, W))
    U = np.concatenate(basis.U, axis=1)
    assert basis.size == 8 and covariance.column_passes == 4
    np.testing.assert_allclose(U.T @ np.column_stack([U, Q]), np.eye(8, 9), atol=1e-12)
    np.testing.assert_allclose(basis.T.whole(), [U.T @ K @ U for K in cohort.Ks], atol=1e-10)


def test_controls_have_mean_zero_and_cut_the_variance_of_traces():
    """Over fresh probes of one fold, with a chain of the other fold's: means within four standard errors of zero."""
    cohort, rng = make_cohort(200, 500, 2, 9), np.random.default_rng(2)
    Ks, n = cohort.Ks, cohort.n
    theta = np.array([0.4, 0.2, 0.4])
    V = np.tensordot(theta[:2], Ks, axes=1) + theta[2] * np.eye(n)
    P, traces = np.linalg.inv(V), np.trace(Ks, axis1=1, axis2=2)
    start = rng.choice([-1.0, 1.0], (n, 8))
    S = longer_chain(np.zeros((n, 0)), np.column_stack([start, V @ start, V @ V @ start]), n)
    Z = rng.choice([-1.0, 1.0], (n, 4000))
    chains = (S, S)
    fixed = fixed_controls(ReducedMatrices.of(np.array(Ks)), chains, Z, traces)
    inverse = inverse_controls(ReducedMatrices.of(np.array(Ks)), V, theta, chains, Z, fixed, n)
    for control in (inverse, fixed.off):
        assert (np.abs(control.mean(axis=1)) <= 4 * control.std(axis=1) / np.sqrt(4000)).all()
    values = np.einsum("az,gaz->gz", P @ Z, fixed.images)
    plain, cut = (controlled_traces(values, inverse, fixed.off, theta, n, k) for k in (0, 4))
    truth = [*(np.sum(P * K) for K in Ks), np.trace(P)]
    for estimate in (plain, cut):
        errors = np.sqrt(np.diag(estimate.covariance))[:2]
        assert (np.abs(estimate.mean - truth)[:2] <= 4 * errors).all()
    assert (np.diag(cut.covariance)[:2] <= 0.5 * np.diag(plain.covariance)[:2]).all()
    assert fold_of(5).tolist() == [0, 1, 0, 1, 0]
    assert (np.linalg.eigvalsh(reduced_v(ReducedMatrices.of(np.array(Ks)), theta)) > 0).all()


def test_a_component_that_starts_near_zero_is_not_taken_where_the_basis_knows_nothing():
    """Left free, the first round takes a variance to 1e13 times y's."""
    cohort = make_cohort(1500, 150, 4, 4, overlap=False)
    covariance = make_covariance(CpuProducts(cohort.genotypes), cohort.W)
    settings = replace(REDUCED, probes=ProbeSettings(first=24, mc_target=100))
    found = fit(cohort.y, cohort.X, covariance, draw_probes(1500, 24, 0), settings)
    assert (np.abs(found.theta - cohort.theta) <= 4 * found.se).all()


def test_a_step_ends_where_the_first_variance_is_at_its_limit():
    step = Step(np.array([3.0, 0.5, 1.0]), np.array([2.0, -0.5, 0.5]), 8.0)
    found = shortened(step, np.array([1.0, 1.0, 0.5]), np.array([2.0, 9.0, 9.0]))
    assert found.theta.tolist() == [2.0, 0.75, 0.75] and found.direction.tolist() == [1.0, -0.25, 0.25]
    assert found.decrement == 2.0
    assert shortened(step, np.array([1.0, 1.0, 0.5]), np.full(3, 9.0)) is step


def test_the_log_determinant_is_set_right_for_what_the_basis_lacks(coarse):
    problem, model, theta, _, contrasts = coarse
    value, error = log_determinant(problem, model, theta)
    assert abs(value - np.linalg.slogdet(contrasts)[1]) <= 4 * error < 30


def test_images_off_the_basis_make_the_true_residual_of_the_trait(coarse):
    problem, model, theta, A, contrasts = coarse
    off = off_the_basis(problem, model, theta)
    c = np.linalg.solve(reduced_v(model.basis.T, theta), model.trait(0))
    y, solution = A.T @ np.asarray(problem.Y), A.T @ (model.basis.U[0] @ c)
    R, energy = y_residual(problem, model, theta, 0)
    for residual in (off.residual, R):
        np.testing.assert_allclose(A.T @ residual, y - contrasts @ solution, atol=1e-4)
    assert energy == off.energy
    assert np.abs(model.basis.U[0].T @ off.images).max() < 1e-4


def test_images_near_a_theta_leave_a_basis_that_has_grown(coarse):
    problem, model, theta, _, _ = coarse
    off, near = off_the_basis(problem, model, theta), theta * 1.05
    larger = grown(problem, model, off.residual, np.arange(0), off.residual[:, :0])
    found, anew = residual_near(problem, larger, off, near, 0), off_the_basis(problem, larger, near)
    np.testing.assert_allclose(found.residual, anew.residual, atol=1e-5)
    assert found.energy == anew.energy and (found.theta == theta).all() and (found.forms == off.forms).all()
    assert all(np.abs(piece.T @ found.images).max() < 1e-4 for piece in larger.basis.U)
    np.testing.assert_allclose(found.gram, found.images.T.astype(float) @ found.images, rtol=1e-12)


def test_images_off_the_basis_are_made_anew_once_it_is_half_as_large_again_and_theta_has_moved(coarse):
    problem, model, theta, _, _ = coarse
    walk = state_at(problem, model, theta).walk
    walk = walk._replace(point=point_at(problem, model, 0, theta, walk.off, np.zeros((3, 64))))
    step = 1 / np.sqrt(walk.point.ai[0, 0]) * np.array([1.0, 0, 0, 0])  # a standard error of the first alone
    W = np.random.default_rng(1).standard_normal((len(problem.Y), 45)).astype(np.float32)
    a_third, two_thirds = (grown(problem, model, W[:, :k], np.arange(0), W[:, :0]) for k in (22, 45))
    for larger, moved, anew in ((a_third, 5, False), (two_thirds, 0.5, False), (two_thirds, 5, True)):
        found = off_at(problem, larger, walk, theta + moved * step)
        assert (found.size > model.basis.size) == anew, (larger.basis.size, moved)


def test_average_information_counts_what_lies_off_the_basis(coarse, large):
    problem, model, theta, A, contrasts = coarse
    off = off_the_basis(problem, model, theta)
    point = point_at(problem, model, 0, theta, off, np.zeros((3, 64)))
    c = np.linalg.solve(reduced_v(model.basis.T, theta), model.trait(0))
    Py = model.basis.U[0] @ c[:, 0]  # the P y of this basis, whose images K_g P y lie mostly off it
    F = A.T @ np.column_stack([*(K @ Py for K in large.Ks), Py])
    expected = F.T @ np.linalg.solve(contrasts, F) / 2
    np.testing.assert_allclose(np.diag(point.ai), np.diag(expected), rtol=0.3)


@pytest.mark.parametrize("name", ["families.G2.h0.98.s2", "few-variants.G20.h0.85.s0"])
def test_a_basis_that_is_all_there_is_leaves_no_error_to_the_probes(name):
    """Of the residual, which these probes had put to its floor, or of a component beside a bound."""
    sample = make_sample(parse_case(name))
    covariance = make_covariance(CpuProducts(standardise([packed(sample.counts)], len(sample.y)), np.float32), sample.W)
    patient = FitSettings(max_iterations=500)
    expected = fit_exact(sample.y, sample.X, covariance, patient)
    found = fit(sample.y, sample.X, covariance, draw_probes(len(sample.y), 32, 0, 0), REDUCED)
    assert found.converged and found.rank == len(sample.y) - 3
    assert (found.mc_se == 0).all() and found.mc_ratio == 0 and found.loglik_mc_se == 0
    assert (np.abs(found.theta - expected.theta) <= 1e-3 * np.nan_to_num(expected.se, nan=1.0)).all()
    assert found.loglik == pytest.approx(expected.loglik, abs=1e-4)
