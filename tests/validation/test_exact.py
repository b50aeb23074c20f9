"""Exact fits against general optimisers, the other algorithm, their own optimality, and published numbers."""

import os
from pathlib import Path

import numpy as np
import pytest
from bed_reader import open_bed
from scipy import optimize

from gpu_reml.validation import dense, exact
from gpu_reml.validation.exact import exact_reml


def external(name: str) -> Path:
    """A file of somebody else's cohort, or skip."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    path = Path(os.environ.get("GPU_REML_EXTERNAL_DATA", default)) / name
    if not path.exists():
        pytest.skip(f"{name} is absent; point GPU_REML_EXTERNAL_DATA at the cohorts")
    return path


def simulated(theta, seed, n=100, m=150):
    """y, X and len(theta) - 1 components that overlap by half."""
    rng = np.random.default_rng(seed)
    Z = dense.standardised(rng.binomial(2, rng.uniform(0.05, 0.5, m), (n, m)).astype(np.int8))
    Ks, G = [], len(theta) - 1
    for g in range(G):
        w = np.exp(-(((np.arange(m) / m - g / G) * 2 * G) ** 2))
        Ks.append(dense.kernel(Z, w))
    X = np.column_stack([np.ones(n), rng.uniform(20, 80, n)])
    L = np.linalg.cholesky(dense.covariance_matrix(theta, Ks))
    return X @ [160, 0.2] + L @ rng.standard_normal(n), X, Ks


@pytest.mark.parametrize("seed", range(4))
def test_one_component_by_its_spectrum_equals_newton_on_the_dense_likelihood(seed):
    y, X, Ks = simulated([20.0, 25.0], seed)
    fit = exact_reml(y, X, Ks)
    newton, _ = exact.several_components(exact.contrasts(y, X, Ks), np.array([0.0, 1e-6]))
    np.testing.assert_allclose(fit.theta, newton, rtol=1e-9, atol=1e-10)
    assert fit.converged


@pytest.mark.parametrize("theta", [[12.0, 30.0], [15.0, 8.0, 25.0], [10.0, 0.0, 15.0, 20.0]])
def test_a_general_optimiser_finds_no_higher_likelihood(theta):
    y, X, Ks = simulated(theta, seed=5)
    fit = exact_reml(y, X, Ks)

    def negative(u):
        return -dense.dense_loglik(u, y, X, Ks), -dense.dense_score(u, y, X, Ks)

    bounds = [(0, None)] * len(Ks) + [(1e-6, None)]
    for start in (np.full(len(theta), 5.0), np.append(np.full(len(Ks), 30.0), 2.0)):
        found = optimize.minimize(negative, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-13})
        assert fit.loglik >= -found.fun - 1e-9
        np.testing.assert_allclose(fit.theta, found.x, atol=0.02)
    np.testing.assert_allclose(fit.loglik, dense.dense_loglik(fit.theta, y, X, Ks), rtol=1e-13)


@pytest.mark.parametrize("num_components", [2, 5])
def test_newton_steps_converge_quickly_also_where_the_likelihood_is_not_concave(num_components):
    rng = np.random.default_rng(num_components)
    for _ in range(12):
        Z = dense.standardised(rng.binomial(2, 0.3, (60, 100)).astype(np.int8))
        Ks = [dense.kernel(Z, rng.random(100) < 0.4) for _ in range(num_components)]
        y = rng.standard_normal(60) + Z[:, :20] @ rng.standard_normal(20)
        fit = exact_reml(y, np.ones((60, 1)), Ks)
        assert fit.converged and fit.iterations <= 15
        for nearby in fit.theta * rng.uniform(0.9, 1.1, (5, len(fit.theta))):
            assert dense.dense_loglik(nearby, y, np.ones((60, 1)), Ks) <= fit.loglik + 1e-10


def test_the_optimum_has_no_score_inside_and_a_falling_one_at_the_bound():
    y, X, Ks = simulated([25.0, 0.0, 0.0, 20.0], seed=3)
    fit = exact_reml(y, X, Ks)
    assert fit.converged and fit.at_bound.any() and not fit.at_bound.all()
    np.testing.assert_array_equal(fit.theta[fit.at_bound], 0)
    np.testing.assert_allclose(fit.score, dense.dense_score(fit.theta, y, X, Ks), atol=1e-12)
    np.testing.assert_allclose(fit.score[~fit.at_bound], 0, atol=1e-9)
    assert np.all(fit.score[fit.at_bound] < 0)


def test_a_component_at_its_bound_is_left_out_of_the_covariance():
    y, X, Ks = simulated([25.0, 0.0, 0.0, 20.0], seed=3)
    fit = exact_reml(y, X, Ks)
    inside = np.flatnonzero(~fit.at_bound)
    without = exact_reml(y, X, [Ks[g] for g in inside[:-1]])
    np.testing.assert_allclose(fit.theta[inside], without.theta, rtol=1e-7)
    np.testing.assert_allclose(fit.covariance[np.ix_(inside, inside)], without.covariance, rtol=1e-6)
    np.testing.assert_array_equal(fit.covariance[fit.at_bound], 0)
    np.testing.assert_array_equal(np.isnan(fit.se), fit.at_bound)
    np.testing.assert_allclose([fit.h2, fit.h2_se, fit.lrt], [without.h2, without.h2_se, without.lrt], rtol=1e-7)


def test_no_genetic_variance_gives_the_null_likelihood_and_the_least_squares_variance():
    y, X, Ks = simulated([0.0, 20.0], seed=2)
    vectors = np.linalg.eigh(Ks[0])[1]
    y = y - 0.8 * vectors[:, -40:] @ (vectors[:, -40:].T @ y)  # relatives less alike than strangers
    fit = exact_reml(y, X, Ks)
    residuals = y - X @ np.linalg.lstsq(X, y)[0]
    assert fit.at_bound.tolist() == [True, False] and fit.converged
    np.testing.assert_allclose(fit.theta, [0, residuals @ residuals / 98], rtol=1e-12)
    np.testing.assert_allclose([fit.h2, fit.h2_se], 0, atol=1e-10)
    assert abs(fit.lrt) <= 1e-11 * abs(fit.loglik)  # the difference of two likelihoods, each rounded in its own way


def test_a_phenotype_without_noise_ends_at_the_residual_bound():
    y, X, _ = simulated([20.0, 1.0], seed=4)
    Z = np.random.default_rng(0).standard_normal((100, 40))
    y = X @ [160, 0.2] + Z @ np.random.default_rng(1).standard_normal(40)
    fit = exact_reml(y, X, [Z @ Z.T / 40], lower_residual=1e-4)
    assert fit.at_bound.tolist() == [False, True] and fit.converged
    newton, _ = exact.several_components(exact.contrasts(y, X, [Z @ Z.T / 40]), np.array([0, fit.theta[1]]))
    np.testing.assert_allclose(fit.theta, newton, rtol=1e-8)


def test_theta_scales_with_the_square_of_y_and_the_likelihood_by_its_jacobian():
    y, X, Ks = simulated([15.0, 8.0, 25.0], seed=1)
    fit, scaled = exact_reml(y, X, Ks), exact_reml(1e3 * y, X, Ks)
    np.testing.assert_allclose(scaled.theta, 1e6 * fit.theta, rtol=1e-8)
    np.testing.assert_allclose(scaled.se, 1e6 * fit.se, rtol=1e-7)
    np.testing.assert_allclose(scaled.loglik, fit.loglik - 98 * np.log(1e3), rtol=1e-12)
    np.testing.assert_allclose([scaled.h2, scaled.lrt], [fit.h2, fit.lrt], rtol=1e-8)


def test_h2_is_trace_weighted_with_a_delta_method_error():
    y, X, Ks = simulated([15.0, 8.0, 25.0], seed=1)
    Ks = [Ks[0] * 3, Ks[1] * 0.2]
    fit = exact_reml(y, X, Ks)
    np.testing.assert_allclose(fit.traces, [np.trace(K) for K in Ks])

    def h2(theta):
        genetic = (theta[0] * np.trace(Ks[0]) + theta[1] * np.trace(Ks[1])) / 100
        return genetic / (genetic + theta[2])

    gradient = optimize.approx_fprime(fit.theta, h2, 1e-6)
    np.testing.assert_allclose(fit.h2, h2(fit.theta))
    np.testing.assert_allclose(fit.h2_se, np.sqrt(gradient @ np.linalg.inv(fit.ai) @ gradient), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y, X, Ks: (y[:-1], X, Ks), "y .n,. and X"),
        (lambda y, X, Ks: (y, X, [Ks[0][:5]]), "Ks: expected matrices"),
        (lambda y, X, Ks: (y, X, []), "Ks: expected matrices"),
        (lambda y, X, Ks: (np.where(y > y.mean(), np.nan, y), X, Ks), "must be finite"),
        (lambda y, X, Ks: (y, np.column_stack([X, X @ [1e-3, 1e3]]), Ks), "linearly dependent; leave one"),
        (lambda y, X, Ks: (X @ [160, 0.2], X, Ks), "explain it entirely"),
        (lambda y, X, Ks: (y, X, [Ks[0] - 2 * np.eye(100)]), "not positive semi-definite"),
        (lambda y, X, Ks: (y, X, [Ks[0], 2 * Ks[0]]), "components are linearly dependent"),
        (lambda y, X, Ks: (y, X, [Ks[0], np.eye(100)]), "components are linearly dependent"),
    ],
)
def test_input_without_a_unique_answer_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        exact_reml(*change(*simulated([20.0, 25.0], seed=1)))


@pytest.mark.external
def test_mouse_cd8_reproduces_the_published_variances_and_likelihood():
    lines = [line.split() for line in external("mouse_hs1940/pheno.txt").read_text().splitlines()]
    values = {(fid, iid): cd8 for fid, iid, cd8, _ in lines[1:]}
    with open_bed(external("mouse_hs1940/mouse_hs1940.bed")) as bed:
        cd8 = np.array([values[key] for key in zip(bed.fid, bed.iid, strict=True)])
        keep = np.flatnonzero(cd8 != "NA")
        Z = dense.standardised(bed.read(np.s_[keep, :], dtype="int8"))
    fit = exact_reml(cd8[keep].astype(float), np.ones((len(keep), 1)), [dense.kernel(Z)])
    assert (len(keep), Z.any(axis=0).sum()) == (1410, 10992)
    np.testing.assert_allclose(fit.theta, [0.502497, 0.339729], atol=1e-6)
    np.testing.assert_allclose(fit.se, [0.051648, 0.018491], atol=1e-6)
    np.testing.assert_allclose([fit.h2, fit.h2_se], [0.596629, 0.032468], atol=1e-6)
    np.testing.assert_allclose(fit.loglik, -1586.3993, atol=1e-4)


@pytest.mark.external
def test_toydata_reproduces_the_null_h2_that_fastlmm_found_without_each_chromosome():
    def column(name):
        return {tuple(line.split()[:2]): float(line.split()[2]) for line in external(name).read_text().splitlines()}

    y, covariate = column("toydata/toydata.phe"), column("toydata/toydata.cov")
    with open_bed(external("toydata/toydata.5chrom.bed")) as bed:
        samples = list(zip(bed.fid, bed.iid, strict=True))
        Z, chromosome = dense.standardised(bed.read(dtype="int8")), bed.chromosome
    X = np.column_stack([np.ones(len(samples)), [covariate[s] for s in samples]])
    h2 = []
    for left_out in ("1", "3"):
        K = dense.kernel(Z[:, chromosome != left_out])
        h2.append(exact_reml(np.array([y[s] for s in samples]), X, [K / np.trace(K) * len(K)]).h2)
    np.testing.assert_allclose(h2, [0.2534676524, 0.0925282809], atol=1e-6)
