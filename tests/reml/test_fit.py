"""Whole fits against exact dense REML: to rounding with exact probes, within their stated error with random ones."""

import numpy as np
import pytest

from gpu_reml import ops
from gpu_reml.ops import blas
from gpu_reml.reml import (
    ConvergenceError,
    CountingCovariance,
    FitSettings,
    Operator,
    ProbeSettings,
    SingularModelError,
    SolverSettings,
    Status,
    complement_traces,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
    haseman_elston,
    make_projected_core,
    precondition,
    with_residuals,
)
from gpu_reml.reml.likelihood import Solver, apply_v_at, average_information, solve, traces_of
from gpu_reml.reml.linalg import orthonormal_basis, project
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.small import covariance_of, make_cohort

EXACT = FitSettings(
    tol=1e-12, solver=SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13)
)


@pytest.mark.parametrize("num_components", [1, 2, 3, 4, 5])
def test_with_exact_probes_the_fit_is_the_dense_fit(cohorts, num_components):
    cohort = cohorts[num_components]
    expected = exact_reml(cohort.y, cohort.X, cohort.Ks)
    found = fit(cohort.y, cohort.X, covariance_of(cohort), exact_probes(cohort.n, 20), EXACT)
    free = ~found.at_bound
    assert (np.abs(found.theta - expected.theta) <= 1e-4 * found.se).all()
    np.testing.assert_allclose(found.loglik, expected.loglik, rtol=1e-8)
    np.testing.assert_allclose(found.loglik_null, expected.loglik_null, rtol=1e-10)
    np.testing.assert_allclose(found.h2.estimate[-1], expected.h2, atol=1e-5)
    if free.all():
        np.testing.assert_allclose(found.se, expected.se, rtol=1e-3)
        np.testing.assert_allclose(found.h2.se[-1], expected.h2_se, rtol=1e-3)
    np.testing.assert_allclose(found.fixed_effects.estimate, expected.fixed_effects, rtol=1e-4, atol=1e-6)
    expected_se = np.sqrt(np.diag(expected.fixed_effects_cov))
    np.testing.assert_allclose(found.fixed_effects.se, expected_se, rtol=1e-3)
    assert found.converged and (found.mc_se == 0).all()


@pytest.fixture(scope="module")
def stochastic_cohorts():
    shapes = [(500, 1500, 1, 11, 0.5), (600, 2500, 3, 12, 0.6), (450, 3000, 2, 13, 0.4)]
    return [make_cohort(n, m, g, seed, h2) for n, m, g, seed, h2 in shapes]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stochastic_fits_are_within_four_monte_carlo_errors(stochastic_cohorts, which, seed):
    cohort = stochastic_cohorts[which]
    expected = exact_reml(cohort.y, cohort.X, cohort.Ks)
    found = fit(cohort.y, cohort.X, covariance_of(cohort, np.float32), draw_probes(cohort.n, 256, seed=seed))
    assert found.mc_target_met and found.converged
    error = np.abs(found.theta - expected.theta)
    assert (error <= 4 * found.mc_se + 0.01 * found.se).all(), error / found.mc_se
    assert np.abs(found.h2.estimate[-1] - expected.h2) <= 4 * found.h2.mc_se[-1] + 0.01 * found.h2.se[-1]
    assert np.abs(found.loglik - expected.loglik) <= 4 * found.loglik_mc_se


@pytest.mark.parametrize("which", [0, 1, 2])
def test_monte_carlo_errors_are_the_spread_over_seeds(stochastic_cohorts, which):
    cohort = stochastic_cohorts[which]
    covariance = covariance_of(cohort, np.float32)
    fixed = FitSettings(probes=ProbeSettings(first=24))
    # the spread of 20 fits is itself known to 16 % only (one set of 20 gave 1.78 here, the next two 0.91 and 0.86)
    fits = [fit(cohort.y, cohort.X, covariance, draw_probes(cohort.n, 24, seed=seed), fixed) for seed in range(60)]
    spread = np.std([f.theta for f in fits], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([f.mc_se**2 for f in fits], axis=0))
    free = ~np.any([f.at_bound for f in fits], axis=0)
    assert free.sum() >= 2
    ratio = (claimed / spread)[free]
    assert ((ratio > 1 / 1.5) & (ratio < 1.5)).all(), ratio


def test_control_variates_cut_the_monte_carlo_variance_to_a_third():
    cohort = make_cohort(2000, 8000, 1, seed=21, overlap=False)
    covariance = covariance_of(cohort, np.float32)
    Q = orthonormal_basis(cohort.X)
    probes = draw_probes(cohort.n, 60, 134, seed=3)
    core = make_projected_core(covariance, Q, complement_traces(covariance, Q), cohort.theta[:-1], probes.sketch)
    M = precondition(core, cohort.theta)
    Z = project(Q, probes.trace.astype(np.float32))
    PZ = solve(Q, apply_v_at(covariance, cohort.theta), Z, M, tol=1e-4).X
    loose = Solver(1e-4)
    ai = average_information(cohort.theta, cohort.y, cohort.X, covariance, preconditioner=core, solver=loose).ai
    inverse = np.linalg.inv(ai)
    variance = [
        np.diag(inverse @ traces_of(covariance, cohort.theta, Z, PZ, M_or_none).covariance @ inverse)
        for M_or_none in (None, M)
    ]
    assert (variance[1] <= variance[0] / 3).all(), variance[1] / variance[0]


def test_traces_with_control_variates_are_unbiased(stochastic_cohorts):
    cohort = stochastic_cohorts[1]
    covariance = covariance_of(cohort)
    Q = orthonormal_basis(cohort.X)
    traces = complement_traces(covariance, Q)
    core = make_projected_core(covariance, Q, traces, cohort.theta[:-1], draw_probes(cohort.n, 1, 40, 5).sketch)
    M = precondition(core, cohort.theta)
    V = sum(t * K for t, K in zip(cohort.theta, cohort.Ks, strict=False)) + cohort.theta[-1] * np.eye(cohort.n)
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ cohort.X @ np.linalg.solve(cohort.X.T @ Vi @ cohort.X, cohort.X.T @ Vi)
    exact = np.array([np.sum(P * K) for K in cohort.Ks] + [np.trace(P)])
    Z = project(Q, draw_probes(cohort.n, 400, 0, 6).trace.astype(float))
    found = traces_of(covariance, cohort.theta, Z, P @ Z, M)
    assert (np.abs(found.mean - exact) <= 4 * np.sqrt(np.diag(found.covariance))).all()


def test_genotype_passes_do_not_grow_with_the_number_of_components():
    counts = {}
    for groups in (1, 10):
        cohort = make_cohort(300, 1200, groups, seed=31, overlap=False)
        counting = CountingCovariance(covariance_of(cohort, np.float32))
        counting.apply(np.ones(groups), np.ones((300, 8), np.float32))
        counting.apply_each(counting.features(np.ones((300, 2), np.float32)))
        counts[groups] = counting.column_passes
    assert counts[1] == counts[10] == 8 + 1 + 1


def test_a_pcg_step_is_one_pass_and_the_result_reports_all_of_them(cohorts):
    cohort = cohorts[2]
    counting = CountingCovariance(covariance_of(cohort))
    theta = cohort.theta
    B = np.random.default_rng(0).standard_normal((cohort.n, 3))
    found = solve(orthonormal_basis(cohort.X), apply_v_at(counting, theta), B, tol=1e-6, check=False)
    assert counting.column_passes == found.iterations.sum()
    counting = CountingCovariance(covariance_of(cohort))
    result = fit(cohort.y, cohort.X, counting, draw_probes(cohort.n, 64, 10))
    assert result.column_passes == counting.column_passes > 0


def test_scaling_y_scales_the_variances_by_its_square(cohorts):
    cohort = cohorts[2]
    covariance, probes = covariance_of(cohort), draw_probes(cohort.n, 64, 10)
    one = fit(cohort.y, cohort.X, covariance, probes)
    for factor in (1e-9, 1e6):
        other = fit(cohort.y * factor, cohort.X, covariance, probes)
        np.testing.assert_allclose(other.theta, one.theta * factor**2, rtol=1e-8)
        np.testing.assert_allclose(other.mc_se, one.mc_se * factor**2, rtol=1e-6)
        np.testing.assert_allclose(other.lrt.statistic, one.lrt.statistic, rtol=1e-8)
        shift = (one.num_samples - one.num_fixed) * np.log(factor)
        np.testing.assert_allclose(other.loglik, one.loglik - shift, rtol=1e-9)


def test_permuting_the_components_permutes_the_estimates(cohorts):
    cohort = cohorts[3]
    one = fit(cohort.y, cohort.X, cohort.Ks, exact_probes(cohort.n, 10), EXACT)
    order = [2, 0, 1]
    other = fit(cohort.y, cohort.X, [cohort.Ks[g] for g in order], exact_probes(cohort.n, 10), EXACT)
    np.testing.assert_allclose(other.theta, one.theta[[*order, 3]], rtol=1e-5, atol=1e-6 * one.theta.sum())


def test_a_component_without_variance_ends_at_its_bound():
    cohort = make_cohort(300, 600, 2, seed=41, overlap=False)
    rng = np.random.default_rng(1)
    results = []
    for _ in range(6):  # pure noise: about half of the fits have a component at zero
        y = rng.standard_normal(300)
        results.append(fit(y, np.ones((300, 1)), covariance_of(cohort), draw_probes(300, 64, 30)))
        expected = exact_reml(y, np.ones((300, 1)), cohort.Ks)
        assert (np.abs(results[-1].theta - expected.theta) <= 4 * results[-1].mc_se + 0.02 * results[-1].se).all()
    assert any(r.at_bound[:2].any() for r in results)
    assert all((r.theta[r.at_bound] == 0).all() and (r.mc_se[r.at_bound] == 0).all() for r in results)


def test_identical_components_are_refused_by_name(cohorts):
    cohort = cohorts[1]
    with pytest.raises(SingularModelError, match=r"component component_00[01] cannot be told apart"):
        fit(cohort.y, cohort.X, [cohort.Ks[0], cohort.Ks[0]], exact_probes(cohort.n))


def test_a_fit_cut_short_says_so_and_carries_its_result(cohorts):
    cohort = cohorts[2]
    settings = FitSettings(max_iterations=1)
    with pytest.raises(ConvergenceError, match="iteration limit") as caught:
        fit(cohort.y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, 16, 10), settings)
    assert caught.value.result.status is Status.MAX_ITERATIONS
    lenient = fit(cohort.y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, 16, 10), settings, strict=False)
    assert not lenient.converged


def test_a_phenotype_explained_by_the_covariates_is_refused(cohorts):
    cohort = cohorts[1]
    with pytest.raises(ValueError, match="does not vary once the fixed effects are taken out"):
        fit(cohort.X @ np.array([1.0, 2.0, 3.0]), cohort.X, cohort.Ks, draw_probes(cohort.n, 16, 10))


def test_the_first_probes_do_not_depend_on_how_many_are_drawn():
    few, many = draw_probes(50, 4, 3, seed=5), draw_probes(50, 40, 9, seed=5)
    np.testing.assert_array_equal(few.trace, many.trace[:, :4])
    np.testing.assert_array_equal(few.sketch, many.sketch[:, :3])
    assert set(np.unique(many.trace)) == {-1, 1}
    assert not np.array_equal(many.trace[:, :3], many.sketch[:, :3])


def test_results_do_not_depend_on_the_tiling(cohorts):
    cohort = cohorts[3]
    from gpu_reml.ops import CpuProducts, make_covariance

    thetas = [
        fit(
            cohort.y,
            cohort.X,
            make_covariance(CpuProducts(cohort.genotypes, np.float64, *tiling), cohort.W),
            draw_probes(cohort.n, 32, 10),
        ).theta
        for tiling in ((512, 1 << 15), (17, 128))
    ]
    np.testing.assert_allclose(*thetas, rtol=1e-9)


@pytest.mark.parametrize(("n", "m", "groups"), [(100, 300, False), (120, 30, False), (100, 300, True)])
def test_a_trait_that_is_all_genetic_ends_with_its_residuals_at_their_bounds(n, m, groups):
    """The information about a residual that y hardly has is small, which is no reason to stop above the bound."""
    cohort = make_cohort(n, m, 2, seed=n)
    y = cohort.Ks[0] @ np.random.default_rng(n).standard_normal(n)
    X, covariance = np.ones((n, 1)), covariance_of(cohort)
    if groups:
        covariance = with_residuals(covariance, (np.arange(n)[:, None] % 2 == [0, 1]).astype(float), ["a", "b"])
    expected = fit_exact(y, X, covariance)
    found = fit(y, X, covariance, exact_probes(n, 10))
    assert expected.at_bound.tolist() == found.at_bound.tolist() == [False, True, *[True] * (1 + groups)]
    assert found.loglik == pytest.approx(expected.loglik, abs=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("estimator", ["exact", "krylov", "reduced", "two", "moments"])
def test_a_component_that_the_covariates_explain_is_named(dtype, estimator):
    """One variant that is a covariate as well: rounding is all that is left of its component."""
    cohort = make_cohort(120, 200, 1, seed=3)
    weights = np.column_stack([np.ones(200), np.arange(200) == 5])
    products = ops.make_products(cohort.genotypes, "cpu", dtype)
    both = ops.make_covariance(products, weights, ["grm", "one"])
    X = np.column_stack([cohort.X, ops.to_dense(cohort.genotypes)[:, 5]])
    probes = draw_probes(120, 40)
    fits = {
        "exact": lambda: fit_exact(cohort.y, X, both),
        "krylov": lambda: fit(cohort.y, X, both.only(1), probes),
        "reduced": lambda: fit(cohort.y, X, both.only(1), probes, FitSettings(engine="reduced")),
        "two": lambda: fit(cohort.y, X, both, probes),
        "moments": lambda: haseman_elston(cohort.y, X, both, probes),
    }
    with pytest.raises(ConvergenceError, match="component one: the fixed effects leave nothing of it"):
        fits[estimator]()
    assert fit_exact(cohort.y, cohort.X, both).converged


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("num_components", [1, 2])
def test_a_fit_without_genetic_variance_is_its_own_null_whatever_its_errors(seed, num_components):
    """p is 1, not the half that a statistic of 1e-13 would give."""
    n = 100
    covariance = covariance_of(make_cohort(n, 300, num_components, seed=5), np.float32)
    y, X = np.random.default_rng(seed).standard_normal(n) * 3 + 1, np.ones((n, 1))
    groups = with_residuals(covariance, (np.arange(n)[:, None] % 2 == [0, 1]).astype(float))
    tests = []
    for model in (covariance, groups):
        results = fit_exact(y, X, model), fit(y, X, model, draw_probes(n, 64, seed=seed))
        tests += [result.lrt for result in results if not result.theta[:num_components].any()]
    assert tests and all(test.statistic == 0 and test.p == 1 and test.mc_se == 0 for test in tests)


@pytest.mark.parametrize("components", [1, 2])
def test_small_matrices_have_one_thread_of_blas_and_a_callers_products_all(components, monkeypatch):
    """And after the fit BLAS has those that it had."""
    controller = blas._libraries()[0]
    rng = np.random.default_rng(1)
    Zs = [rng.standard_normal((90, 200)) for _ in range(components)]
    y = sum(Z @ rng.standard_normal(200) / 14 for Z in Zs) + rng.standard_normal(90)
    inside, outside = set(), set()

    def threads():
        return {library["num_threads"] for library in controller.info()}

    def operator(Z):
        def apply(B):
            inside.update(threads())
            return Z @ (Z.T @ B) / 200

        return Operator(apply, float(np.sum(Z**2) / 200))

    with controller.limit(limits=2):
        monkeypatch.setattr(blas, "_libraries", lambda: (controller, 2))
        monkeypatch.setattr(blas.numba, "get_num_threads", lambda: 2)
        callback = lambda _: outside.update(threads())  # noqa: E731
        fit(y, np.ones((90, 1)), [operator(Z) for Z in Zs], 16, strict=False, callback=callback)
        assert threads() == {2}
    assert inside == {2} and outside == {1}
