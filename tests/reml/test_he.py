"""Haseman-Elston: the dense answer with exact probes, and errors that are the spread they claim to be."""

import json

import numpy as np
import pytest

from gpu_reml.reml import SingularModelError, complement_traces, draw_probes, exact_probes
from gpu_reml.reml import he as module
from gpu_reml.reml.he import haseman_elston, moment_covariance
from gpu_reml.reml.linalg import orthonormal_basis, project
from gpu_reml.reml.moments import moments, probe_grams
from gpu_reml.validation.small import covariance_of, make_cohort


def dense_moments(cohort, y):
    """Projected kernels with the identity last, T and q."""
    Q = orthonormal_basis(cohort.X)
    M = np.eye(cohort.n) - Q @ Q.T
    Ks = [M @ K @ M for K in cohort.Ks] + [M]
    return Ks, np.array([[np.sum(a * b) for b in Ks] for a in Ks]), np.array([y @ K @ y for K in Ks])


@pytest.fixture(scope="module")
def cohort():
    """Two components with some relation between them; fixed for all phenotypes and probes."""
    return make_cohort(160, 300, 2, seed=8)


@pytest.mark.parametrize("num_components", [1, 2, 4])
@pytest.mark.parametrize("dense", [True, False])
def test_with_exact_probes_it_is_the_dense_regression(cohorts, num_components, dense):
    cohort = cohorts[num_components]
    Ks, T, q = dense_moments(cohort, cohort.y)
    found = haseman_elston(
        cohort.y, cohort.X, cohort.Ks if dense else covariance_of(cohort), exact_probes(cohort.n), num_probes=5
    )
    np.testing.assert_allclose(found.theta, np.linalg.solve(T, q), rtol=1e-8)
    np.testing.assert_allclose(found.T, T, rtol=1e-10)
    assert (found.mc_se == 0).all() and found.num_probes == cohort.n
    if (found.theta > 0).all():
        V = sum(t * K for t, K in zip(found.theta, Ks, strict=True))
        S = 2 * np.array([[np.sum((a @ V) * (b @ V).T) for b in Ks] for a in Ks])
        np.testing.assert_allclose(found.covariance, np.linalg.solve(T, np.linalg.solve(T, S).T), rtol=1e-7)


def test_estimates_below_zero_are_kept_and_named(cohorts):
    cohort = cohorts[4]
    found = haseman_elston(cohort.y, cohort.X, covariance_of(cohort), exact_probes(cohort.n))
    assert (found.theta[:-1] < 0).any() and (found.se > 0).all()
    assert found.summary().count("below zero") == (found.theta[:-1] < 0).sum()


def test_standard_errors_are_the_spread_over_phenotypes(cohort):
    rng = np.random.default_rng(4)
    theta = np.array([0.3, 0.3, 0.4])
    V = theta[0] * cohort.Ks[0] + theta[1] * cohort.Ks[1] + theta[2] * np.eye(cohort.n)
    Y = np.linalg.cholesky(V) @ rng.standard_normal((cohort.n, 200)) + cohort.X @ np.array([[3.0], [1.0], [-2.0]])
    probes = exact_probes(cohort.n)
    fits = [haseman_elston(y, cohort.X, cohort.Ks, probes) for y in Y.T]
    estimates = np.array([f.theta for f in fits])
    # 200 phenotypes know a spread to 5 %; the mean is tested against its own error
    claimed = np.sqrt(np.mean([f.se**2 for f in fits], axis=0))
    np.testing.assert_allclose(claimed / estimates.std(axis=0, ddof=1), 1, atol=0.2)
    assert (np.abs(estimates.mean(axis=0) - theta) <= 4 * estimates.std(axis=0) / np.sqrt(200)).all()
    h2 = np.array([f.h2.estimate for f in fits])
    np.testing.assert_allclose(np.mean([f.h2.se for f in fits], axis=0) / h2.std(axis=0, ddof=1), 1, atol=0.2)


@pytest.mark.parametrize("num_components", [1, 2, 4])
def test_monte_carlo_errors_are_the_spread_over_seeds(cohorts, num_components):
    cohort = cohorts[num_components]
    covariance = covariance_of(cohort, np.float32)
    exact = haseman_elston(cohort.y, cohort.X, covariance, exact_probes(cohort.n))
    fits = [haseman_elston(cohort.y, cohort.X, covariance, draw_probes(cohort.n, 40, 0, seed)) for seed in range(60)]
    thetas = np.array([f.theta for f in fits])
    spread = thetas.std(axis=0, ddof=1)
    ratio = np.sqrt(np.mean([f.mc_se**2 for f in fits], axis=0)) / spread
    assert ((ratio > 1 / 1.5) & (ratio < 1.5)).all(), ratio
    assert (np.abs(thetas.mean(axis=0) - exact.theta) <= 4 * spread / np.sqrt(60) + 0.02 * exact.se).all()
    h2_ratio = np.mean([f.h2.mc_se for f in fits], axis=0) / np.std([f.h2.estimate for f in fits], axis=0)
    assert ((h2_ratio > 1 / 1.5) & (h2_ratio < 1.5)).all(), h2_ratio
    # sampling errors from s probes are said to be known to about 1 / s
    errors = np.array([f.se for f in fits]) / exact.se
    assert (np.abs(errors.mean(axis=0) - 1) < 0.03).all() and (errors.std(axis=0) < 3 / 40).all()


def test_the_covariance_of_the_moments_is_unbiased_with_very_few_probes(cohort):
    Ks, _, _ = dense_moments(cohort, cohort.y)
    theta, Q = np.array([0.3, 0.2, 0.5]), orthonormal_basis(cohort.X)
    V = sum(t * K for t, K in zip(theta, Ks, strict=True))
    expected = 2 * np.array([[np.sum((a @ V) * (b @ V).T) for b in Ks] for a in Ks])
    covariance, found = covariance_of(cohort), []
    for seed in range(150):
        Z = project(Q, draw_probes(cohort.n, 5, 0, seed).trace.astype(np.float64))
        found.append(moment_covariance(covariance, Q, Z, covariance.features(Z), theta, exact=False))
    error = np.std(found, axis=0) / np.sqrt(150)
    assert (error < 0.06 * expected).all()
    assert (np.abs(np.mean(found, axis=0) - expected) <= 3 * error).all()


def test_more_probes_are_used_only_when_asked_for(cohort):
    covariance, probes = covariance_of(cohort), draw_probes(cohort.n, 100, 0)
    few, default, many = (haseman_elston(cohort.y, cohort.X, covariance, probes, num_probes=s) for s in (16, None, 100))
    assert (few.num_probes, default.num_probes, many.num_probes) == (16, 64, 100)
    assert many.mc_se[0] < few.mc_se[0]
    c = cohort.X.shape[1]
    assert few.column_passes == pytest.approx(16 * (2 + covariance.overlap / 2) + c / 2 + 0.5)


def test_batches_of_probes_do_not_change_the_result(cohort, monkeypatch):
    covariance, probes = covariance_of(cohort), draw_probes(cohort.n, 21, 0)
    one = haseman_elston(cohort.y, cohort.X, covariance, probes)
    monkeypatch.setattr(module, "BATCH_BYTES", 2 * cohort.n * 8 * 4)
    calls = []
    images = module.component_images
    monkeypatch.setattr(module, "component_images", lambda *a: calls.append(images(*a)) or calls[-1])
    other = haseman_elston(cohort.y, cohort.X, covariance, probes)
    assert max(block.nbytes for block in calls) <= module.BATCH_BYTES and len(calls) == 6
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-9)
    np.testing.assert_allclose(other.covariance, one.covariance, rtol=1e-9)
    np.testing.assert_allclose(other.mc_covariance, one.mc_covariance, rtol=1e-9)


def test_scaling_y_scales_the_variances_by_its_square(cohort):
    covariance, probes = covariance_of(cohort), draw_probes(cohort.n, 20, 0)
    one = haseman_elston(cohort.y, cohort.X, covariance, probes)
    other = haseman_elston(cohort.y * 1e-6, cohort.X, covariance, probes)
    for name in ("theta", "se", "mc_se"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name) * 1e-12, rtol=1e-7)
    np.testing.assert_allclose(other.h2.mc_se, one.h2.mc_se, rtol=1e-7)


def test_the_views_agree_with_the_result(cohort):
    found = haseman_elston(cohort.y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, 20, 0))
    frame = found.to_frame()
    np.testing.assert_array_equal(frame["theta"], found.theta)
    np.testing.assert_array_equal(frame["h2"][:2], found.h2.estimate[:2])
    record = found.to_dict()
    json.dumps(record["components"] + record["residuals"])
    assert record["h2"] == {name: values[-1] for name, values in found.h2._asdict().items()}
    assert [row["name"] for row in record["components"]] == list(found.names)
    assert record["components"][1]["trace"] == pytest.approx(np.trace(cohort.Ks[1]))
    assert f"{found.h2.estimate[-1]:.6f}" in found.summary()


def test_impossible_arguments_are_refused(cohort):
    covariance, probes = covariance_of(cohort), draw_probes(cohort.n, 20, 0)
    for wrong in (1, 21):
        with pytest.raises(ValueError, match=f"num_probes: expected 2 to 20, found {wrong}"):
            haseman_elston(cohort.y, cohort.X, covariance, probes, num_probes=wrong)
    with pytest.raises(ValueError, match="probes: expected"):
        haseman_elston(cohort.y, cohort.X, covariance, draw_probes(cohort.n - 1, 20, 0))
    with pytest.raises(SingularModelError, match=r"component component_00[01] cannot be told apart"):
        haseman_elston(cohort.y, cohort.X, [cohort.Ks[0]] * 2, probes)
    with pytest.raises(
        SingularModelError, match=r"component component_00[01] cannot be told apart"
    ):  # but for rounding
        haseman_elston(cohort.y, cohort.X, [cohort.Ks[0], cohort.Ks[0] + 3e-7 * cohort.Ks[1]], probes)
    with pytest.raises(ValueError, match="does not vary"):
        haseman_elston(cohort.X[:, 1], cohort.X, covariance, probes)


def test_the_starting_moments_are_means_of_the_probes_inner_products(cohort, monkeypatch):
    covariance, Q = covariance_of(cohort), orthonormal_basis(cohort.X)
    Z = project(Q, draw_probes(cohort.n, 6, 0).trace.astype(np.float64))
    y = project(Q, cohort.y[:, None])
    vectors = [project(Q, K @ Z) for K in cohort.Ks] + [Z]
    expected = np.array([[np.sum(a * b, axis=0) for b in vectors] for a in vectors])
    for size in (1 << 22, 8 * 3 * 6 * 7):  # at once, and seven samples at a time
        monkeypatch.setattr("gpu_reml.reml.moments.GRAM_BYTES", size)
        found = moments(covariance, Q, y, Z, complement_traces(covariance, Q))
        np.testing.assert_allclose(found.T, expected.mean(axis=2), rtol=1e-12)
        np.testing.assert_allclose(found.q[:, 0], dense_moments(cohort, cohort.y)[2], rtol=1e-9)
        grams = probe_grams(np.stack(vectors[:-1]), Z)
        np.testing.assert_allclose(grams, expected.transpose(2, 0, 1), rtol=1e-12)
