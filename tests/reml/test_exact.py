"""The dense engine against the independent dense reference, and against what REML must be invariant to."""

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array

from gpu_reml.reml import (
    ConvergenceError,
    CountingCovariance,
    FitSettings,
    SingularModelError,
    Status,
    as_covariance,
    exact_fits,
)
from gpu_reml.reml.engines.contrasts import contrasts
from gpu_reml.reml.engines.dense import DenseModel, Diagonalised
from gpu_reml.reml.engines.exact import exact_memory, exact_seconds, fit_exact, matrices_on
from gpu_reml.reml.engines.search import Secant, derivatives, line_search, with_secants
from gpu_reml.reml.linalg import orthonormal_basis
from gpu_reml.reml.matrices import matrices_of
from gpu_reml.reml.scaled import DiagonalCovariance, ScaledCovariance
from gpu_reml.reml.step import ai_step
from gpu_reml.reml.units import UnitCovariance
from gpu_reml.validation import dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.small import covariance_of, make_cohort


def assert_same_fit(found, expected):
    """Everything that both report; errors of theta in standard errors."""
    assert found.converged and found.method == "exact"
    allowed = np.where(np.isnan(found.se), found.theta, found.se)  # a residual at its bound has no error
    assert (np.abs(found.theta - expected.theta) <= 1e-6 * allowed).all()
    np.testing.assert_allclose(found.loglik, expected.loglik, rtol=1e-9)
    np.testing.assert_allclose(found.loglik_null, expected.loglik_null, rtol=1e-9)
    np.testing.assert_allclose(found.lrt.statistic, expected.lrt, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.h2.estimate[-1], expected.h2, atol=1e-7)
    np.testing.assert_allclose(found.fixed_effects.estimate, expected.fixed_effects, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.fixed_effects.covariance, expected.fixed_effects_cov, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(found.at_bound, expected.at_bound)
    if not found.at_bound.any():
        np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-6, atol=1e-6 * found.se.max() ** 2)
        np.testing.assert_allclose(found.h2.se[-1], expected.h2_se, rtol=1e-6)


@pytest.mark.parametrize("num_components", [1, 2, 3, 4, 5])
def test_the_dense_fit_is_the_reference_fit(cohorts, num_components):
    cohort = cohorts[num_components]
    assert_same_fit(
        fit_exact(cohort.y, cohort.X, covariance_of(cohort)), exact_reml(cohort.y, cohort.X, cohort.Ks, 1e-6)
    )


def test_float32_products_move_the_fit_by_less_than_a_thousandth_of_its_error(cohorts):
    for cohort in (cohorts[1], cohorts[3]):
        found = fit_exact(cohort.y, cohort.X, covariance_of(cohort, np.float32))
        expected = exact_reml(cohort.y, cohort.X, cohort.Ks)
        assert (np.abs(found.theta - expected.theta) <= 1e-3 * found.se).all()
        np.testing.assert_allclose(found.loglik, expected.loglik, rtol=1e-6)


@pytest.mark.parametrize("num_components", [1, 3])
def test_any_full_rank_design_is_projected_out(cohorts, num_components):
    cohort = cohorts[num_components]
    rng = np.random.default_rng(5)
    intercept = np.ones((cohort.n, 1))
    many = np.column_stack([cohort.X, rng.standard_normal((cohort.n, 7)), np.eye(cohort.n)[:, :2]])
    for X in (intercept, many):
        assert_same_fit(fit_exact(cohort.y, X, cohort.Ks), exact_reml(cohort.y, X, cohort.Ks, 1e-6))


def test_without_fixed_effects_the_fit_is_maximum_likelihood(cohorts):
    cohort = cohorts[2]
    y, empty = cohort.y - cohort.y.mean(), np.zeros((cohort.n, 0))
    found = fit_exact(y, empty, cohort.Ks)
    V = sum(t * K for t, K in zip(found.theta[:-1], cohort.Ks, strict=True)) + found.theta[-1] * np.eye(cohort.n)
    value = -0.5 * (np.linalg.slogdet(V)[1] + y @ np.linalg.solve(V, y) + cohort.n * np.log(2 * np.pi))
    np.testing.assert_allclose(found.loglik, value, rtol=1e-12)
    assert found.fixed_effects.estimate.shape == (0,)


@pytest.mark.parametrize("num_components", [1, 2])
def test_a_component_without_variance_ends_at_its_bound(num_components):
    cohort = make_cohort(200, 400, num_components, seed=41, overlap=False)
    rng = np.random.default_rng(1)
    at_bound = 0
    for _ in range(6):  # pure noise: about half of the components end at zero
        y = rng.standard_normal(cohort.n)
        found = fit_exact(y, cohort.X, cohort.Ks)
        assert_same_fit(found, exact_reml(y, cohort.X, cohort.Ks, 1e-6))
        assert (found.theta[found.at_bound] == 0).all()
        at_bound += found.at_bound.sum()
    assert at_bound


def test_the_residual_stops_at_its_floor():
    cohort = make_cohort(120, 300, 2, seed=3, overlap=False)
    K = cohort.Ks[0]
    values, vectors = np.linalg.eigh(K)
    y = vectors @ (np.sqrt(np.maximum(values, 0)) * np.random.default_rng(2).standard_normal(cohort.n))
    X = np.ones((cohort.n, 1))
    for Ks in ([K], cohort.Ks):
        found = fit_exact(y, X, Ks, FitSettings(residual_floor=0.05))
        assert found.at_bound[-1] and found.converged
        assert_same_fit(found, exact_reml(y, X, Ks, 0.05))


@pytest.mark.parametrize("num_components", [1, 3])
def test_scaling_y_scales_the_variances_by_its_square(cohorts, num_components):
    cohort = cohorts[num_components]
    one = fit_exact(cohort.y, cohort.X, cohort.Ks)
    for factor in (1e-9, 1e6):
        other = fit_exact(cohort.y * factor, cohort.X, cohort.Ks)
        np.testing.assert_allclose(other.theta, one.theta * factor**2, rtol=1e-6)
        np.testing.assert_allclose(other.se, one.se * factor**2, rtol=1e-6)
        np.testing.assert_allclose(other.fixed_effects.se, one.fixed_effects.se * factor, rtol=1e-6)
        np.testing.assert_allclose(other.lrt.p, one.lrt.p, rtol=1e-6)


def test_the_law_of_the_test_comes_from_the_exact_information(cohorts):
    """Two components: weights arccos(r) / 2 pi, 1/2, 1/2 - arccos(r) / 2 pi at the null's correlation r."""
    cohort = cohorts[2]
    Q = orthonormal_basis(cohort.X)
    M = np.eye(cohort.n) - Q @ Q.T
    T = np.array([[np.trace(M @ a @ M @ b) for b in (*cohort.Ks, M)] for a in (*cohort.Ks, M)])
    profiled = T[:2, :2] - np.outer(T[:2, 2], T[2, :2]) / T[2, 2]
    correlation = profiled[0, 1] / np.sqrt(profiled[0, 0] * profiled[1, 1])
    both = 0.5 - np.arccos(correlation) / (2 * np.pi)
    weights = fit_exact(cohort.y, cohort.X, cohort.Ks).lrt.weights
    np.testing.assert_allclose(np.sort(weights), np.sort([both, 0.5, 0.5 - both]), atol=2e-3)


def test_the_start_does_not_matter(cohorts):
    cohort = cohorts[3]
    one = fit_exact(cohort.y, cohort.X, cohort.Ks)
    far = one.theta.sum() * np.array([0.0, 3.0, 0.01, 0.02])
    other = fit_exact(cohort.y, cohort.X, cohort.Ks, start=far)
    assert other.history[0].theta != one.history[0].theta
    assert (np.abs(other.theta - one.theta) <= 1e-6 * one.se).all()


def test_no_step_loses_likelihood(cohorts):
    cohort = cohorts[5]
    start = np.append(np.full(5, 1e-6), 1.0) * cohort.y.var()
    path = fit_exact(cohort.y, cohort.X, cohort.Ks, start=start).history
    A = np.linalg.svd(cohort.X)[0][:, cohort.X.shape[1] :]
    values = []
    for record in path:
        V = sum(t * K for t, K in zip(record.theta, [*cohort.Ks, np.eye(cohort.n)], strict=True))
        V = A.T @ V @ A
        values.append(-0.5 * (np.linalg.slogdet(V)[1] + cohort.y @ A @ np.linalg.solve(V, A.T @ cohort.y)))
    assert (np.diff(values) >= -1e-9).all() and len(values) > 3


def test_a_step_that_overshoots_is_cut_until_it_gains(cohorts):
    cohort = cohorts[2]
    basis = contrasts(orthonormal_basis(cohort.X))
    model = DenseModel(matrices_on(covariance_of(cohort), basis), basis.coordinates(cohort.y[:, None]))
    lower, start = np.zeros(3), model.at(np.array([0.2, 0.2, 0.6]) * cohort.y.var())
    score, ai = derivatives(model, start)
    step = ai_step(start.theta, score, ai, lower)
    for factor in (30, 1000):
        long = step._replace(direction=factor * step.direction)
        beyond = model.at(np.maximum(start.theta + long.direction, lower))
        assert beyond is None or beyond.loglik < start.loglik
        assert line_search(model, start, long, factor * float(score @ step.direction), lower).loglik > start.loglik


def test_components_that_cannot_be_told_apart_are_refused_by_name(cohorts):
    cohort = cohorts[1]
    K = cohort.Ks[0]
    with pytest.raises(SingularModelError, match=r"component component_00[01] cannot be told apart"):
        fit_exact(cohort.y, cohort.X, [K, K])
    with pytest.raises(SingularModelError, match=r"component component_00[012] cannot be told apart"):
        fit_exact(cohort.y, cohort.X, [K, K @ K / 10, 2 * K + 3 * K @ K])
    with pytest.raises(SingularModelError, match=r"component component_000 cannot be told apart from residual: "):
        fit_exact(cohort.y, cohort.X, [np.eye(cohort.n)])


def test_a_fit_cut_short_says_so_and_carries_its_result(cohorts):
    cohort = cohorts[2]
    with pytest.raises(ConvergenceError, match="iteration limit") as caught:
        fit_exact(cohort.y, cohort.X, cohort.Ks, FitSettings(max_iterations=1))
    assert caught.value.result.status is Status.MAX_ITERATIONS
    lenient = fit_exact(cohort.y, cohort.X, cohort.Ks, FitSettings(max_iterations=1), strict=False)
    assert not lenient.converged


def test_impossible_arguments_are_refused(cohorts):
    cohort = cohorts[1]
    with pytest.raises(ValueError, match="does not vary once the fixed effects are taken out"):
        fit_exact(cohort.X @ np.array([1.0, 2.0, 3.0]), cohort.X, cohort.Ks)
    with pytest.raises(ValueError, match="linear combination"):
        fit_exact(cohort.y, cohort.X[:, [0, 1, 1]], cohort.Ks)
    with pytest.raises(ValueError, match=r"y: expected one phenotype"):
        fit_exact(cohort.y[:, None], cohort.X, cohort.Ks)
    with pytest.raises(ValueError, match=r"start: expected a value for each of component_000, residual"):
        fit_exact(cohort.y, cohort.X, cohort.Ks, start=np.ones(3))
    with pytest.raises(ValueError, match=r"covariance\[0\]: value nan at \(0, 0\) is not finite"):
        fit_exact(cohort.y, cohort.X, [np.full_like(cohort.Ks[0], np.nan)])


def test_the_callback_sees_every_record_and_the_passes_are_counted(cohorts):
    cohort = cohorts[2]
    counting, seen = CountingCovariance(covariance_of(cohort)), []
    found = fit_exact(cohort.y, cohort.X, counting, callback=seen.append)
    assert tuple(seen) == found.history
    c = cohort.X.shape[1]
    forming = counting.overlap * cohort.n / 2
    assert found.column_passes == counting.column_passes == pytest.approx(forming + 1.5 * c + 1)


@pytest.mark.parametrize("c", [0, 1, 6])
def test_the_contrasts_are_an_orthonormal_basis_of_the_complement(c):
    rng = np.random.default_rng(c)
    n = 40
    X = rng.standard_normal((n, c))
    X[: min(c, 2)] *= -50  # leading rows of either sign and any size
    Q = orthonormal_basis(X)
    basis = contrasts(Q)
    A = basis.vectors(np.eye(n - c))
    np.testing.assert_allclose(A.T @ A, np.eye(n - c), atol=1e-13)
    np.testing.assert_allclose(Q.T @ A, 0, atol=1e-13)
    B, C = rng.standard_normal((n, 3)), rng.standard_normal((n - c, 3))
    np.testing.assert_allclose(basis.coordinates(B), A.T @ B, atol=1e-13)
    np.testing.assert_allclose(basis.vectors(C), A @ C, atol=1e-13)
    K = B @ B.T
    np.testing.assert_allclose(np.triu(basis.restrict(np.triu(K))), np.triu(A.T @ K @ A), atol=1e-12)


def test_kernels_are_the_same_however_the_covariance_makes_them(cohorts, monkeypatch):
    """Tiles of few variants, products with the identity, matrices, and components scaled, mixed and in other units."""
    cohort = cohorts[3]
    monkeypatch.setattr("gpu_reml.ops.relationship.LEAST_VARIANTS", 30)
    monkeypatch.setattr("gpu_reml.ops.relationship.TILE_BYTES", 1)
    genotypes, scale = covariance_of(cohort), np.random.default_rng(0).uniform(0.5, 2, cohort.n)
    functions = [(K.__matmul__, np.trace(K)) for K in cohort.Ks]
    scaled = ScaledCovariance(genotypes, scale)
    made = {
        "genotypes": (genotypes, cohort.Ks),
        "functions": (as_covariance(functions, cohort.n), cohort.Ks),
        "matrices, one of them sparse": (as_covariance([*cohort.Ks[:2], csr_array(cohort.Ks[2])]), cohort.Ks),
        "scaled": (scaled, [scale[:, None] * K * scale for K in cohort.Ks]),
        "mixed": (as_covariance([genotypes.only(1), *functions[:1]]), [cohort.Ks[1], cohort.Ks[0]]),
        "other units": (UnitCovariance(genotypes, np.array([10.0, 1, 0.1])), [cohort.Ks[0] / 10, *cohort.Ks[1:]]),
        "diagonals": (DiagonalCovariance(scale[:, None], ["noise"], genotypes), [np.diag(scale)]),
    }
    made["other units"][1][2] = 10 * cohort.Ks[2]
    for name, (covariance, expected) in made.items():
        found = [np.triu(K) for K in matrices_of(covariance)]
        np.testing.assert_allclose(found, np.triu(expected), atol=1e-12, err_msg=name)


def test_kernels_from_float32_products_are_summed_in_float64(cohorts, monkeypatch):
    monkeypatch.setattr("gpu_reml.ops.relationship.LEAST_VARIANTS", 10)
    monkeypatch.setattr("gpu_reml.ops.relationship.TILE_BYTES", 1)
    cohort = cohorts[1]
    (found,) = matrices_of(covariance_of(cohort, np.float32))
    assert np.abs(np.triu(found - cohort.Ks[0])).max() < 3e-7


@pytest.mark.parametrize("size", [1, 2, 3, 60])
def test_a_diagonalised_component_is_the_matrix_it_was_made_from(size):
    rng = np.random.default_rng(size)
    B, vectors = rng.standard_normal((size, size // 2 + 1)), rng.standard_normal((size, 3))
    K = B @ B.T  # of half the rank
    found = Diagonalised(np.triu(K), np.finfo(float).eps)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(K), atol=1e-12)
    np.testing.assert_allclose(found.back(found.values[:, None] * found.rotate(vectors)), K @ vectors, atol=1e-12)
    np.testing.assert_allclose(found.back(found.rotate(vectors)), vectors, atol=1e-13)
    np.testing.assert_allclose([found.traces[0], found.inner[0, 0]], [np.trace(K), np.sum(K * K)], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_phenotype_made_of_few_variants_has_all_of_their_variance(dtype):
    """V is singular but for the residual's floor, where rounding of K would be of either sign and larger than it."""
    cohort = make_cohort(300, 40, 1, seed=2)
    y = dense.standardised(cohort.counts) @ np.random.default_rng(0).standard_normal(40)
    X = np.ones((cohort.n, 1))
    found = fit_exact(y, X, covariance_of(cohort, dtype))
    values, vectors = np.linalg.eigh(cohort.Ks[0])
    coordinates = (vectors.T @ (y - y.mean()))[-40:]
    np.testing.assert_allclose(found.theta[0], np.mean(coordinates**2 / values[-40:]), rtol=1e-3)
    assert found.h2.estimate[-1] > 0.9999 and found.at_bound.tolist() == [False, True]


def test_phenotypes_share_their_matrices_and_nothing_else(cohorts):
    for G in (1, 3):
        cohort = cohorts[G]
        Y = np.column_stack([cohort.y, np.random.default_rng(0).standard_normal(cohort.n)])
        counting = CountingCovariance(covariance_of(cohort))
        together = list(exact_fits(Y, cohort.X, counting))
        assert counting.calls["matrices"] == 1
        for y, found in zip(Y.T, together, strict=True):
            alone = fit_exact(y, cohort.X, covariance_of(cohort))
            np.testing.assert_allclose(found.theta, alone.theta, rtol=1e-9)
            np.testing.assert_allclose(found.fixed_effects.estimate, alone.fixed_effects.estimate, rtol=1e-9)


def test_a_secant_makes_the_information_fall_along_its_step_as_the_score_did():
    rng = np.random.default_rng(3)
    B = rng.standard_normal((4, 4))
    ai, step = B @ B.T + np.eye(4), rng.standard_normal(4)
    fall = 0.7 * ai @ step + 0.1 * np.linalg.norm(ai @ step) * rng.standard_normal(4)
    found = with_secants(ai, [Secant(rng.standard_normal(4), ai @ ai @ step), Secant(step, fall)])
    np.testing.assert_allclose(found @ step, fall, rtol=1e-10)
    np.testing.assert_allclose(found, found.T)
    assert np.linalg.eigvalsh(found)[0] > 0
    convex = Secant(step, -fall)  # where the likelihood is not concave, the average information is all there is
    np.testing.assert_array_equal(with_secants(ai, [convex]), ai)


def test_the_plan_grows_as_the_work_does():
    three = 24 * 2000**2  # matrices (n, n), beside triangles of every component and a tile
    assert three < exact_memory(2000, 1, 4) < 1.25 * three
    assert exact_memory(2000, 22, 4) < three + 22 * 4 * 2000**2 / 2 * 1.07 + 0.25 * three
    assert exact_memory(2000, 9) - exact_memory(2000, 5) == pytest.approx(4 * 8 * 2000**2 / 2, rel=0.07)
    assert exact_seconds(2000, 10_000, 1) < exact_seconds(2000, 10_000, 5) < exact_seconds(2000, 10_000, 50)
    assert exact_seconds(2000, 10**6, 1) > 5 * exact_seconds(2000, 10**4, 1)
    assert exact_seconds(8000, 1000, 3) > 8 * exact_seconds(2000, 1000, 3)
    assert exact_seconds(2000, 10_000, 1, num_traits=9) == exact_seconds(2000, 10_000, 1)
    assert exact_seconds(2000, 10_000, 5, num_traits=9) > 5 * exact_seconds(2000, 10_000, 5)


def test_eigenvalues_that_float32_makes_negative_are_outside_of_the_search_without_a_warning():
    """A trait of m < n variants without a residual: K has zeros, of either sign in float32, and h2 goes to 1."""
    cohort = make_cohort(120, 30, 2, seed=120)
    covariance = covariance_of(cohort, np.float32).only(0)
    y = cohort.Ks[0] @ np.random.default_rng(120).standard_normal(120)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_exact(y, np.ones((120, 1)), covariance)
    assert found.h2.estimate[-1] > 0.9999
