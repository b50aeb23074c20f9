"""Sparse REML against dense formulas: the LASSO of all variants, its certificate, effects, variances and limits."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import linalg
from sklearn.linear_model import Lasso

from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise, to_dense
from gpu_reml.ops.block_covariance import make_block_covariance
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import (
    BreakdownError,
    ConvergenceError,
    FitSettings,
    ScaledCovariance,
    dense_covariance,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
)
from gpu_reml.reml.linalg import orthonormal_basis, project
from gpu_reml.reml.precondition import complement_traces, make_projected_core, precondition
from gpu_reml.reml.studies.certified import (
    KktSettings,
    LassoData,
    LassoSettings,
    extend,
    first_candidates,
    lasso_at,
    make_point,
    standardised_columns,
)
from gpu_reml.reml.studies.lasso import DescentSettings, PathSettings
from gpu_reml.reml.studies.sparse import SparseSettings, SparseStatus, sparse_reml
from gpu_reml.validation import dense
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import simulate_counts

N, M = 300, 700
CAUSAL = np.array([100, 350, 695])
EFFECTS = np.array([0.6, -0.5, 0.55])
KKT = {np.float64: 1e-7, np.float32: 2e-6}  # shares of lambda


def make_cohort(G=1, seed=1, scale=5.0, n=N, m=M, effects=EFFECTS):
    """Three planted variants over a polygenic background, a monomorphic variant, one in no component; X of 3."""
    rng = np.random.default_rng(seed)
    counts = simulate_counts(n, m, rng, ld=0.5)
    counts[:, 7] = 1
    genotypes = standardise([pack(counts[:, :200]), pack(counts[:, 200:])], n)
    Z = to_dense(genotypes)
    W = np.zeros((m, G))
    W[np.arange(m), rng.integers(0, G, m)] = 1
    W[20] = 0
    X = np.column_stack([np.ones(n), rng.standard_normal(n), rng.integers(0, 2, n)])
    polygenic = Z @ rng.standard_normal(m) * np.sqrt(0.3 / m)
    signal = Z[:, CAUSAL] @ effects + polygenic + 0.8 * rng.standard_normal(n)
    y = X @ np.array([150.0, 2.0, -5.0]) + scale * signal
    Ks = [dense.kernel(Z, w) for w in W.T]
    return SimpleNamespace(y=y, X=X, Z=Z, W=W, Ks=Ks, genotypes=genotypes, n=n)


def covariance_of(cohort, dtype=np.float64):
    return make_covariance(CpuProducts(cohort.genotypes, dtype), cohort.W)


def exact_estimator(cohort, covariance):
    return lambda X, start: fit_exact(cohort.y, X, covariance, strict=False)


def sketch(n=N, rank=30):
    return draw_probes(n, 0, rank, seed=1).sketch


def run(cohort, settings=None, dtype=np.float64, covariance=None, **more):
    covariance = covariance or covariance_of(cohort, dtype)
    settings = settings or SparseSettings(lasso=LassoSettings(candidates=60))
    return sparse_reml(cohort.y, cohort.X, covariance, exact_estimator(cohort, covariance), sketch(), settings, **more)


def dense_lasso(cohort, theta, lam):
    """scikit-learn's coordinate descent on all variants, whitened by the dense V without the covariates' space."""
    L = linalg.cholesky(dense.covariance_matrix(theta, cohort.Ks), lower=True)
    whiten = lambda B: linalg.solve_triangular(L, B, lower=True)  # noqa: E731
    Q = linalg.qr(whiten(cohort.X), mode="economic")[0]
    A, t = whiten(cohort.Z), whiten(cohort.y[:, None])
    A, t = A - Q @ (Q.T @ A), t - Q @ (Q.T @ t)
    A[:, 20] = 0  # the variant in no component
    found = Lasso(alpha=lam / cohort.n, fit_intercept=False, tol=1e-12, max_iter=200_000).fit(A, t[:, 0])
    return found.coef_


@pytest.fixture(scope="module")
def cohorts():
    return {G: make_cohort(G) for G in (1, 3)}


@pytest.fixture(scope="module")
def results(cohorts):
    return {(G, dtype): run(cohorts[G], dtype=dtype) for G in (1, 3) for dtype in KKT}


CASES = [(G, dtype) for G in (1, 3) for dtype in KKT]


@pytest.mark.parametrize("case", CASES)
def test_planted_variants_are_found_and_the_run_converges(results, case):
    found = results[case]
    assert found.converged and found.statuses == (SparseStatus.CONVERGED,)
    assert found.support.tolist() == CAUSAL.tolist()
    assert (np.sign(found.gls.estimate) == np.sign(EFFECTS)).all()
    assert found.history[0].support == tuple(CAUSAL) and found.history[-1].fit_status == "not needed"


@pytest.mark.parametrize("case", CASES)
def test_conditions_hold_for_all_variants_by_the_dense_formulas(cohorts, results, case):
    cohort, found = cohorts[case[0]], results[case]
    P = dense.projection(found.fit.theta, cohort.y, cohort.X, cohort.Ks).P
    b = np.zeros(M)
    b[found.support] = found.beta_lasso
    lam = found.path.lambdas[found.path.best]
    gradient = cohort.Z.T @ (P @ (cohort.y - cohort.Z @ b)) / lam
    gradient[20] = 0
    tol = KKT[case[1]]
    assert np.abs(gradient).max() <= 1 + tol
    np.testing.assert_allclose(gradient[found.support], np.sign(found.beta_lasso), atol=tol)
    seen = found.certificate
    assert seen.holds and seen.num_variants == M - 2 and not len(seen.violators)
    assert seen.violation <= tol
    # the gradient's error is within its bound; float32 products round beyond what their solve knows
    assert seen.solve_error >= (0 if case[1] is np.float64 else 1e-7)
    assert seen.solve_error <= {np.float64: 1e-8, np.float32: 1e-4}[case[1]]


@pytest.mark.parametrize("case", CASES)
def test_coefficients_are_those_of_scikit_learn_on_all_whitened_variants(cohorts, results, case):
    found = results[case]
    b = np.zeros(M)
    b[found.support] = found.beta_lasso
    expected = dense_lasso(cohorts[case[0]], found.fit.theta, found.path.lambdas[found.path.best])
    np.testing.assert_allclose(b, expected, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize("case", CASES)
def test_effects_are_generalised_least_squares_beside_the_covariates(cohorts, results, case):
    cohort, found = cohorts[case[0]], results[case]
    V = dense.covariance_matrix(found.fit.theta, cohort.Ks)
    D = np.column_stack([cohort.X, cohort.Z[:, found.support]])
    covariance = np.linalg.inv(D.T @ np.linalg.solve(V, D))
    b = covariance @ D.T @ np.linalg.solve(V, cohort.y)
    np.testing.assert_allclose(found.gls.estimate, b[3:], rtol=1e-5)
    np.testing.assert_allclose(found.gls.se, np.sqrt(np.diag(covariance))[3:], rtol=1e-5)
    np.testing.assert_allclose(found.fit.fixed_effects.estimate[:3], b[:3], rtol=1e-5)


def test_variances_are_those_of_the_dense_fit_with_the_support_as_fixed_effects(cohorts, results):
    from gpu_reml.validation.exact import exact_reml

    cohort, found = cohorts[3], results[3, np.float64]
    expected = exact_reml(cohort.y, np.column_stack([cohort.X, cohort.Z[:, CAUSAL]]), cohort.Ks)
    np.testing.assert_allclose(found.fit.theta, expected.theta, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_explained_variance_and_its_error_are_the_formulas(cohorts, results, case):
    cohort, found = cohorts[case[0]], results[case]
    n, theta = cohort.n, found.fit.theta
    V = dense.covariance_matrix(theta, cohort.Ks)
    P = dense.projection(theta, cohort.y, cohort.X, cohort.Ks).P
    genetic = sum(t * np.trace(K) / n for t, K in zip(theta[:-1], cohort.Ks, strict=True))
    for which, b in (("lasso", found.beta_lasso), ("gls", found.gls.estimate)):
        g = cohort.Z[:, found.support] @ b
        a = np.linalg.solve(cohort.X.T @ np.linalg.solve(V, cohort.X), cohort.X.T @ np.linalg.solve(V, cohort.y - g))
        e = cohort.y - cohort.X @ a - g
        explained = found.explained[which]
        np.testing.assert_allclose(explained.variance, g @ g / n + 2 * (g @ e) / n, rtol=1e-5)
        np.testing.assert_allclose(explained.se, 2 / n * np.sqrt(g @ V @ P @ V @ g), rtol=1e-5)
        total = explained.variance + genetic + theta[-1]
        np.testing.assert_allclose(found.h2_sparse(which).estimate, explained.variance / total, rtol=1e-6)
        np.testing.assert_allclose(found.h2_total(which).estimate, 1 - theta[-1] / total, rtol=1e-6)
    np.testing.assert_allclose(found.h2_reml.estimate, genetic / (genetic + theta[-1]), rtol=1e-6)


def test_errors_of_heritabilities_follow_from_those_of_the_variances(results):
    """The delta method against numerical derivatives."""
    found = results[3, np.float64]
    values = np.append(found.explained["gls"].variance, found.fit.theta)
    atoms = np.concatenate([[1.0], found.fit.mean_traces, [1.0]])
    cov = linalg.block_diag(found.explained["gls"].se ** 2, found.fit.covariance)

    def h2(v, counted):
        return (counted * v) @ atoms / (v @ atoms)

    for share, counted in ((found.h2_sparse(), [1, 0, 0, 0, 0]), (found.h2_total(), [1, 1, 1, 1, 0])):
        counted = np.array(counted, float)
        steps = 1e-5 * values[0] * np.eye(5)
        slope = np.array([h2(values + s, counted) - h2(values - s, counted) for s in steps]) / (2e-5 * values[0])
        np.testing.assert_allclose(share.se, np.sqrt(slope @ cov @ slope), rtol=1e-6)


@pytest.mark.parametrize("dtype", KKT)
def test_the_phenotypes_unit_and_origin_change_nothing_but_units(cohorts, results, dtype):
    cohort, one = cohorts[1], results[1, dtype]
    moved = SimpleNamespace(**{**vars(cohort), "y": 1e-3 * cohort.y + 7})
    other = run(moved, dtype=dtype)
    rtol = 1e-8 if dtype is np.float64 else 2e-5
    assert other.support.tolist() == one.support.tolist() and other.path.best == one.path.best
    np.testing.assert_allclose(other.beta_lasso, 1e-3 * one.beta_lasso, rtol=rtol)
    np.testing.assert_allclose(other.gls.estimate, 1e-3 * one.gls.estimate, rtol=rtol)
    np.testing.assert_allclose(other.debiased.se, 1e-3 * one.debiased.se, rtol=rtol)
    np.testing.assert_allclose(other.path.lambdas, 1e3 * one.path.lambdas, rtol=rtol)
    np.testing.assert_allclose(other.explained["gls"].variance, 1e-6 * one.explained["gls"].variance, rtol=rtol)
    for which in ("lasso", "gls"):
        np.testing.assert_allclose(other.h2_total(which), one.h2_total(which), rtol=rtol)
        np.testing.assert_allclose(other.h2_sparse(which), one.h2_sparse(which), rtol=rtol)
    np.testing.assert_allclose(other.h2_reml, one.h2_reml, rtol=rtol)


def test_heritability_of_a_planted_trait_is_near_the_simulated_one():
    """Averaged over eight cohorts: what the reference's mixed units would miss by far."""
    found, truth = [], []
    for seed in range(8):
        cohort = make_cohort(seed=seed, scale=12.0)
        found.append(run(cohort).h2_total().estimate)
        g = cohort.Z[:, CAUSAL] @ EFFECTS
        truth.append((g.var() + 0.3) / (g.var() + 0.3 + 0.64))
    error = np.std(np.array(found) - truth) / np.sqrt(8)
    assert abs(np.mean(found) - np.mean(truth)) <= 3 * error + 0.03 and error < 0.05


def test_few_candidates_are_completed_by_the_certificate(cohorts, results):
    """Three candidates to begin with at a small lambda: violators are added until no variant is missing."""
    cohort = cohorts[1]
    path = PathSettings(gamma=0.2)
    kkt = KktSettings(add=20)
    few = run(cohort, SparseSettings(lasso=LassoSettings(candidates=3, full_p=False, path=path, kkt=kkt)))
    all_ = run(cohort, SparseSettings(lasso=LassoSettings(candidates=M, full_p=False, path=path, kkt=kkt)))
    assert max(record.kkt_rounds for record in few.history) > 1 and few.certificate.holds
    assert all(record.kkt_rounds == 1 for record in all_.history) and len(all_.candidates) == M - 2
    b = np.zeros(M)
    b[few.support] = few.beta_lasso
    expected = dense_lasso(cohort, few.fit.theta, few.path.lambdas[few.path.best])
    assert few.converged and 3 < len(few.candidates) < 200
    np.testing.assert_allclose(b, expected, atol=1e-6 * np.abs(b).max())


def test_without_the_check_no_certificate_is_claimed(cohorts):
    found = run(cohorts[1], SparseSettings(lasso=LassoSettings(candidates=60, kkt=KktSettings(check=False))))
    assert found.certificate is None and found.converged and np.isnan(found.history[0].kkt_violation)


def test_a_certificate_that_is_spoilt_does_not_hold(cohorts):
    """Candidates without the planted variants, and coefficients that are not the LASSO's."""
    from gpu_reml.reml.studies.certified import LassoFit, certify

    data, point = data_of(cohorts[1])
    settings = LassoSettings(candidates=60)
    found = lasso_at(data, point, np.zeros(0, np.int64), None, settings)
    path = found.path
    moved = path._replace(coefficients=path.coefficients * 1.01)
    assert not certify(data, point, LassoFit(found.candidates, moved, None), 1, settings).holds
    lower = path._replace(lambdas=path.lambdas * 0.7)
    seen = certify(data, point, LassoFit(found.candidates, lower, None), 1, settings)
    assert not seen.holds and seen.violation > 0.1


def data_of(cohort, dtype=np.float64, theta=(8.0, 18.0)):
    """The LASSO's data at a theta, in units where y has variance 1 given X."""
    covariance = covariance_of(cohort, dtype)
    Q = orthonormal_basis(cohort.X)
    left = project(Q, cohort.y[:, None])[:, 0]
    scale = np.linalg.norm(left) / np.sqrt(cohort.n - 3)
    data = LassoData(left / scale, covariance.block(Q), covariance, covariance.weights.sum(axis=1) > 0)
    theta = np.array(theta) / scale**2
    core = make_projected_core(covariance, data.Q, complement_traces(covariance, data.Q), theta[:-1], sketch())
    return data, make_point(data, theta, precondition(core, theta), 400)


@pytest.mark.parametrize("dtype", KKT)
def test_cross_products_of_loose_solves_err_by_their_square(cohorts, dtype):
    cohort = cohorts[1]
    data, point = data_of(cohort, dtype)
    P = dense.projection(point.theta, data.y, cohort.X, cohort.Ks).P
    rows = np.array([350, 3, 699, 100, 42])
    settings = LassoSettings(solve_tol=1e-2)
    known = extend(data, point, None, rows[:2], None, settings)
    both = extend(data, point, known, rows[2:], None, settings)
    Z = cohort.Z[:, rows]
    S = Z.T @ P @ Z
    np.testing.assert_allclose(both.problem.S, S, atol=3e-4 * np.abs(S).max())
    np.testing.assert_allclose(both.problem.s, Z.T @ P @ data.y, atol=1e-6 * np.abs(Z.T @ P @ data.y).max())
    assert np.abs(Z.T @ both.PZ - S).max() > 3e-4 * np.abs(S).max()  # without the correction they are worse
    assert both.stalled == 0 and both.problem.num_contrasts == N - 3
    np.testing.assert_allclose(both.problem.ypy, data.y @ P @ data.y, rtol=1e-6)
    again = extend(data, point, None, rows[::-1], both, replace(settings, solve_tol=1e-1))
    np.testing.assert_allclose(again.PZ[:, 0], both.PZ[:, 4], rtol=1e-6)  # a start that is near enough is kept


def test_columns_are_the_standardised_variants_across_parts(cohorts):
    data, _ = data_of(cohorts[1])
    rows = np.array([699, 0, 250, 7, 199])
    np.testing.assert_allclose(standardised_columns(data, rows), cohorts[1].Z[:, rows], atol=1e-14)


def test_candidates_are_the_last_support_and_then_the_best_that_may_be_chosen():
    scores = np.array([5.0, 9.0, 1.0, 9.0, 7.0, 8.0])
    eligible = np.array([True, True, True, True, True, False])
    rows = first_candidates(scores, np.array([2]), eligible, 4)
    assert rows.tolist() == [2, 1, 3, 4] and scores[2] == 1.0
    assert first_candidates(scores, np.array([], np.int64), eligible, 99).tolist() == [1, 3, 4, 0, 2]
    assert first_candidates(scores, np.array([0, 2, 4]), eligible, 2).tolist() == [0, 2, 4]


def test_variants_that_do_not_vary_or_have_no_weight_are_never_chosen(cohorts):
    """The variant without weight carries all of the signal here."""
    cohort = cohorts[1]
    loud = SimpleNamespace(**{**vars(cohort), "y": cohort.y + 30 * cohort.Z[:, 20]})
    found = run(loud)
    assert 20 not in found.candidates and 7 not in found.candidates


def test_variants_that_are_copies_are_said_to_be_dependent(cohorts):
    """Both copies are forced in: the LASSO has no unique solution there, generalised least squares none at all."""
    rng = np.random.default_rng(5)
    counts = simulate_counts(N, 60, rng, ld=0.0)
    counts[:, 31] = counts[:, 30]
    genotypes = standardise([pack(counts)], N)
    cohort = SimpleNamespace(genotypes=genotypes, W=np.ones((60, 1)), X=np.ones((N, 1)), n=N)
    cohort.y = to_dense(genotypes)[:, 30] * 2 + rng.standard_normal(N)
    found = run(cohort)
    assert set(found.support) & {30, 31} and found.converged
    from gpu_reml.reml.covariance import CountingCovariance
    from gpu_reml.reml.studies.sparse import fixed_columns, make_setup

    covariance = covariance_of(cohort)
    state = make_setup(
        cohort.y,
        cohort.X,
        CountingCovariance(covariance),
        exact_estimator(cohort, covariance),
        sketch(),
        SparseSettings(),
    )
    columns, dependent = fixed_columns(state, np.array([5, 30, 31]))
    assert columns.shape == (N, 2) and dependent.tolist() in ([30], [31])


@pytest.mark.parametrize("dtype", KKT)
def test_of_variants_in_perfect_ld_one_is_chosen_and_the_rounds_settle(dtype):
    """An effect divided between copies by rounding took two places in EBIC, in one round and not in the next."""
    rng = np.random.default_rng(254)
    counts = simulate_counts(250, 60, rng, 0.05)
    counts[:, 6] = counts[:, 5]
    genotypes = standardise([pack(counts)], 250)
    Z, X = to_dense(genotypes), np.column_stack([np.ones(250), rng.standard_normal((250, 3))])
    signal = Z[:, [5, 20, 30]] @ [0.8, -0.7, 0.6] + Z @ rng.standard_normal(60) * np.sqrt(0.2 / 60)
    y = signal + 0.6 * rng.standard_normal(250) + 30
    cohort = SimpleNamespace(genotypes=genotypes, W=np.ones((60, 1)), X=X, y=y, n=250, Ks=[dense.kernel(Z)])
    covariance = covariance_of(cohort, dtype)
    settings = SparseSettings(lasso=LassoSettings(candidates=40))
    found = sparse_reml(y, X, covariance, exact_estimator(cohort, covariance), sketch(250, 20), settings)
    assert found.converged and found.support.tolist() == [5, 20, 30] and not len(found.dependent)
    assert {5, 6} <= set(found.candidates)
    # the debiased effect of the pair, in the model of 39 distinct candidates: of the same size as least squares'
    ratio = found.debiased.se / found.gls.se
    assert (ratio > 0.9).all() and (ratio < 3).all()


def test_a_trait_without_large_effects_chooses_nothing():
    cohort = make_cohort(seed=4, effects=np.zeros(3))
    found = run(cohort)
    assert found.converged and not len(found.support) and len(found.history) == 1
    assert found.explained["gls"] == (0.0, 0.0) and found.h2_sparse().estimate == 0
    np.testing.assert_allclose(found.h2_total(), found.h2_reml, rtol=1e-9)


def test_matrix_free_fits_give_the_same_choice(cohorts, results):
    """The estimator is an argument: Krylov REML with random probes, and tight with all of them."""
    cohort, expected = cohorts[1], results[1, np.float64]
    covariance = covariance_of(cohort)
    settings = SparseSettings(lasso=LassoSettings(candidates=60))

    def with_probes(probes):
        return lambda X, start: fit(cohort.y, X, covariance, probes, FitSettings(), start=start, strict=False)

    exact = sparse_reml(cohort.y, cohort.X, covariance, with_probes(exact_probes(N)), sketch(), settings)
    np.testing.assert_allclose(exact.beta_lasso, expected.beta_lasso, rtol=2e-3)
    random = sparse_reml(cohort.y, cohort.X, covariance, with_probes(draw_probes(N, 64, 0)), sketch(), settings)
    assert random.support.tolist() == CAUSAL.tolist() and random.column_passes > 0


@pytest.mark.parametrize("number", [1, 2])
def test_devices_give_the_cpus_solution(cohorts, results, number):
    cohort, expected = cohorts[3], results[3, np.float32]
    devices = [HostDevice(label=f"device {d}") for d in range(number)]
    covariance = make_covariance(make_device_products(cohort.genotypes, devices, None), cohort.W)
    fits = exact_estimator(cohort, covariance_of(cohort))
    settings = SparseSettings(lasso=LassoSettings(candidates=60, at_once=17))
    found = sparse_reml(cohort.y, cohort.X, covariance, fits, sketch(), settings)
    assert found.converged and found.certificate.violation <= 2e-6
    np.testing.assert_allclose(found.beta_lasso, expected.beta_lasso, rtol=1e-5)
    np.testing.assert_allclose(found.gls.se, expected.gls.se, rtol=1e-5)


LIMITS = {
    "rounds": (SparseSettings(rounds=1), SparseStatus.MAX_ROUNDS),
    "active": (SparseSettings(lasso=LassoSettings(path=PathSettings(max_active=1))), SparseStatus.ACTIVE_LIMIT),
    "certificate": (
        SparseSettings(lasso=LassoSettings(candidates=1, kkt=KktSettings(max_rounds=1))),
        SparseStatus.NOT_CERTIFIED,
    ),
    "candidates": (
        SparseSettings(lasso=LassoSettings(candidates=2, kkt=KktSettings(max_candidates=2))),
        SparseStatus.CANDIDATE_LIMIT,
    ),
    "solver": (SparseSettings(lasso=LassoSettings(max_pcg=2)), SparseStatus.SOLVER_STALLED),
}


@pytest.mark.parametrize("case", LIMITS)
def test_a_limit_that_is_met_is_a_status_and_what_was_found_is_kept(cohorts, case):
    settings, status = LIMITS[case]
    found = run(cohorts[1], settings)
    assert status in found.limits and not found.converged
    assert len(found.history) >= 1 and np.isfinite(found.fit.theta).all() and "Settings." in status.value
    assert len(found.support) == len(found.beta_lasso) == len(found.gls.se)


def test_descent_that_stalls_is_said(cohorts, monkeypatch):
    """Without the closed form, which would mend it."""
    monkeypatch.setattr("gpu_reml.reml.studies.lasso.polished", lambda *_: None)
    lasso = LassoSettings(candidates=60, descent=DescentSettings(max_sweeps=1, tol=1e-12))
    assert SparseStatus.DESCENT_STALLED in run(cohorts[1], SparseSettings(lasso=lasso)).limits


def test_a_fit_that_fails_leaves_the_last_results(cohorts):
    cohort = cohorts[1]
    covariance = covariance_of(cohort)

    def failing(X, start):
        if X.shape[1] > 3:
            raise ConvergenceError("component cannot be told apart")
        return fit_exact(cohort.y, X, covariance)

    def breaking(X, start):
        if X.shape[1] > 3:
            raise BreakdownError("told apart no more")
        return fit_exact(cohort.y, X, covariance)

    for estimate in (failing, breaking):
        found = sparse_reml(cohort.y, cohort.X, covariance, estimate, sketch(), SparseSettings())
        assert found.limits == (SparseStatus.FIT_FAILED,) and not len(found.support)
        assert found.history[0].support == tuple(CAUSAL) and "told apart" in found.history[0].fit_status


def test_rounds_that_repeat_themselves_are_recognised():
    """Variances that swing with the support: with hardly a residual no variant stands out."""
    cohort = make_cohort(effects=0.55 * EFFECTS)
    covariance = covariance_of(cohort)
    first = fit_exact(cohort.y, cohort.X, covariance)

    settings = SparseSettings(rounds=9, lasso=LassoSettings(path=PathSettings(gamma=0.3, refit=False)))

    def swinging(X, start):
        return first if X.shape[1] == 3 else replace(first, theta=first.theta * [50, 1e-3])

    found = sparse_reml(cohort.y, cohort.X, covariance, swinging, sketch(), settings)
    assert SparseStatus.CYCLE in found.limits
    supports = [record.support for record in found.history]
    assert supports[-1] == supports[0] != supports[1] and len(supports) < 9


def test_stable_rounds_are_counted(cohorts):
    once, thrice = (
        run(cohorts[1], SparseSettings(stable_rounds=k, lasso=LassoSettings(candidates=60))) for k in (1, 3)
    )
    assert thrice.converged and len(thrice.history) == len(once.history) + 2
    assert thrice.history[-2].change <= 1e-6 and np.isnan(thrice.history[-1].change)
    np.testing.assert_allclose(thrice.beta_lasso, once.beta_lasso, rtol=1e-6)


def test_the_change_of_variances_is_a_share_of_the_phenotypic_one(results):
    found = results[3, np.float64]
    moved = np.abs(found.fit.theta - found.history[0].theta) * np.append(found.fit.mean_traces, 1)
    np.testing.assert_allclose(found.history[0].change, moved.max() / found.fit.vp.estimate[0], rtol=1e-9)
    # a change that counts as none ends nothing by itself; one that is too large keeps rounds from being stable
    assert (
        SparseStatus.MAX_ROUNDS
        in run(make_cohort(), SparseSettings(stable_rounds=2, rounds=2, lasso=LassoSettings(candidates=60))).limits
    )


def test_every_round_is_reported_as_it_ends(cohorts):
    seen = []
    found = run(cohorts[1], callback=seen.append)
    assert tuple(seen) == found.history
    passes = [record.column_passes for record in seen]
    assert passes == sorted(passes) and passes[-1] <= found.column_passes


def test_bad_arrays_are_refused(cohorts):
    cohort = cohorts[1]
    flat = SimpleNamespace(**{**vars(cohort), "y": cohort.X @ np.ones(3)})
    with pytest.raises(ValueError, match="does not vary"):
        run(flat)
    with pytest.raises(ValueError, match="300 samples"):
        run(SimpleNamespace(**{**vars(cohort), "y": cohort.y[:-1]}))
    plain = covariance_of(cohort)
    blocks = make_block_covariance(plain.products, [[M]])
    for other in (ScaledCovariance(plain, np.ones(N)), blocks, dense_covariance(cohort.Ks)):
        with pytest.raises(ValueError, match=f"expected a GenotypeCovariance.* found {type(other).__name__}"):
            run(cohort, covariance=other)
    with pytest.raises(ValueError, match="kkt tolerances"):
        KktSettings(tol=0, rel_tol=0)
    with pytest.raises(ValueError, match="rounds"):
        SparseSettings(rounds=0)
