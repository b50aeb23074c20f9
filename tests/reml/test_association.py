"""Association scans against dense formulas, variant by variant."""

import numpy as np
import pytest
from scipy import integrate, stats

from gpu_reml.ops import CpuProducts, standardise
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.ops.loco import leave_out
from gpu_reml.ops.packing import pack
from gpu_reml.reml.studies.association import (
    exact_scan,
    lambda_gc,
    log10p_normal,
    log10p_student,
    log_beta_tail,
    ols_scan,
    per_allele,
)
from gpu_reml.reml.studies.loco import LocoSettings, loco_scan, shrunken_means, solve_columns
from gpu_reml.validation import dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import simulate_counts

N, M = 160, 120
CHROMOSOME = np.repeat([0, 1, 2, 0], M // 4)  # the first in two stretches
ROWS = [np.flatnonzero(CHROMOSOME == c) for c in range(3)]
TIGHT = LocoSettings(tol=1e-11, calibration_tol=1e-12, variants=500, most=1000)


@pytest.fixture(scope="module")
def cohort():
    """Two traits far from zero; variant 7 does not vary, 9 is never called, 11 is the third covariate."""
    rng = np.random.default_rng(3)
    counts = simulate_counts(N, M, rng, missing=0.03)
    counts[:, 7], counts[:, 9] = 1, -127
    Z = dense.standardised(counts)
    X = np.column_stack([np.ones(N), rng.standard_normal(N), 3 * Z[:, 11] + 1])
    genetic = Z @ rng.standard_normal((M, 2)) * np.sqrt(0.5 / M)
    Y = 1e4 + 20 * X[:, 1:2] + 6 * (genetic + rng.standard_normal((N, 2)) * [0.7, 1.0])
    return counts, Z, X, Y, standardise([pack(counts[:, :50]), pack(counts[:, 50:])], N)


def regression(y, X, z):
    """beta, se and t of z in least squares on [X z], by the textbook."""
    A = np.column_stack([X, z])
    b, rss, _, _ = np.linalg.lstsq(A, y, rcond=None)
    se = np.sqrt(rss[0] / (len(y) - A.shape[1]) * np.linalg.inv(A.T @ A)[-1, -1])
    return b[-1], se, b[-1] / se


def test_least_squares_is_a_regression_of_each_variant_on_its_mean_filled_counts(cohort):
    counts, _, X, Y, genotypes = cohort
    scan = ols_scan(Y, X, CpuProducts(genotypes, np.float64))
    beta, se = per_allele(scan.beta, genotypes.inv_sd), per_allele(scan.se, genotypes.inv_sd)
    for j in (0, 20, 49, 50, 119):
        called = counts[:, j] >= 0
        z = np.where(called, counts[:, j], counts[called, j].mean())
        for t in range(2):
            expected = regression(Y[:, t], X, z)
            np.testing.assert_allclose((beta[j, t], se[j, t], scan.statistic[j, t]), expected, rtol=1e-8)
            p = 2 * stats.t.sf(abs(expected[2]), N - 4)
            np.testing.assert_allclose(scan.log10p[j, t], -np.log10(p), rtol=1e-8)
    assert np.flatnonzero(np.isnan(scan.log10p[:, 0])).tolist() == [7, 9, 11]
    assert scan.dof == N - 4


def test_float32_products_move_least_squares_by_rounding_though_y_is_far_from_zero(cohort):
    _, _, X, Y, genotypes = cohort
    exact, single = (ols_scan(Y, X, CpuProducts(genotypes, dtype)) for dtype in (np.float64, np.float32))
    known = np.isfinite(exact.beta)
    assert (np.isfinite(single.beta) == known).all()
    assert np.abs(single.statistic - exact.statistic)[known].max() <= 1e-5


def test_traits_scanned_together_are_those_scanned_alone_and_a_trait_may_fit_perfectly(cohort):
    _, Z, X, Y, genotypes = cohort
    products = CpuProducts(genotypes, np.float64)
    both = ols_scan(np.column_stack([Y[:, 0], Z[:, 30]]), X, products)
    alone = ols_scan(Y[:, :1], X, products)
    np.testing.assert_allclose(both.beta[:, 0], alone.beta[:, 0], rtol=1e-10)
    assert both.log10p[30, 1] > 500 and np.nanargmax(both.log10p[:, 1]) == 30
    np.testing.assert_allclose(both.beta[30, 1], 1, rtol=1e-10)


def test_bad_traits_are_refused_by_name(cohort):
    _, _, X, Y, genotypes = cohort
    products = CpuProducts(genotypes, np.float64)
    with pytest.raises(ValueError, match=r"Y\[:, 1\]: does not vary"):
        ols_scan(np.column_stack([Y[:, 0], 3 * X[:, 1] + 2]), X, products)
    with pytest.raises(ValueError, match=r"Y: value nan at \(4, 0\) is not finite"):
        ols_scan(np.where(np.arange(N)[:, None] == 4, np.nan, Y), X, products)
    with pytest.raises(ValueError, match="degree of freedom"):
        ols_scan(Y, np.eye(N)[:, : N - 1], products)


@pytest.mark.parametrize(("dof", "most"), [(3, 1e120), (30, 1e100), (10_000, 1e4)])
def test_p_of_student_never_underflows(dof, most):
    t = np.array([0.0, -1.5, 4.0, 30.0])
    np.testing.assert_allclose(log10p_student(t, dof), -np.log10(2 * stats.t.sf(np.abs(t), dof)), rtol=1e-10)
    for t in np.geomspace(100, most, 9):  # the density integrated from t on, relative to the density at t
        rate = (dof + 1) * t / (dof + t**2)

        def relative(w, t=t, rate=rate):
            return np.exp(stats.t.logpdf(t + w / rate, dof) - stats.t.logpdf(t, dof))

        tail = integrate.quad(relative, 0, np.inf, epsabs=0, epsrel=1e-10)[0] / rate
        logp = np.log(2) + stats.t.logpdf(t, dof) + np.log(tail)
        np.testing.assert_allclose(log10p_student(np.array([t]), dof), -logp / np.log(10), rtol=1e-8)
        assert log10p_student(t, dof) == log10p_student(np.array([t]), dof)[0]  # of a number as of an array


@pytest.mark.parametrize("dof", [3, 30, 1000])
def test_the_continued_fraction_is_the_incomplete_beta_function_where_that_is_known(dof):
    t = np.array([2.0, 4.0, 8.0])
    np.testing.assert_allclose(log_beta_tail(t**2 / dof, dof / 2), np.log(2 * stats.t.sf(t, dof)), rtol=1e-11)


def test_p_of_the_normal_law_never_underflows():
    known = -np.log10(2 * stats.norm.sf([1.96, 5]))
    np.testing.assert_allclose(log10p_normal(np.array([-1.96, 5.0])), known, rtol=1e-12)
    z = 1e4  # Mills' ratio to its third term
    mills = np.log(2) - z**2 / 2 - 0.5 * np.log(2 * np.pi) - np.log(z) + np.log1p(-1 / z**2)
    np.testing.assert_allclose(log10p_normal(np.array([z])), -mills / np.log(10), rtol=1e-12)


def test_inflation_is_the_ratio_of_medians():
    chi2 = stats.chi2.ppf((np.arange(999) + 0.5) / 999, 1)
    p = -np.log10(stats.chi2.sf(1.3 * chi2, 1))
    assert abs(lambda_gc(np.append(p, np.nan)) - 1.3) < 1e-9
    assert np.isnan(lambda_gc(np.array([np.nan])))


def kernels(Z):
    varies = Z.any(axis=0)
    return [dense.kernel(Z, (CHROMOSOME != c) & varies) for c in range(3)]


def test_exact_scan_is_generalised_least_squares_at_the_reml_heritability(cohort):
    _, Z, X, Y, genotypes = cohort
    found = exact_scan(Y, X, genotypes, [(rows, rows) for rows in ROWS])
    for c, K in enumerate(kernels(Z)):
        K = K * N / np.trace(K)
        for t in range(2):
            theta = exact_reml(Y[:, t], X, [K]).theta
            h2 = theta[0] / theta.sum()
            assert abs(found.h2[c, t] - h2) <= 1e-6
            V = h2 * K + (1 - h2) * np.eye(N)
            L = np.linalg.cholesky(V)
            for j in ROWS[c][[0, 5]]:
                expected = regression(*(np.linalg.solve(L, part) for part in (Y[:, t], X, Z[:, j])))
                got = found.scan.beta[j, t], found.scan.se[j, t], found.scan.statistic[j, t]
                np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.flatnonzero(np.isnan(found.scan.beta[:, 0])).tolist() == [7, 9, 11]


def thetas_of(h2=0.4):
    """(3, 2, 2) variances that differ by chromosome and trait."""
    shares = h2 + np.array([[0, 0.1], [0.05, -0.2], [-0.1, 0.2]])
    return 36 * np.stack([shares, 1 - shares], axis=2)


@pytest.fixture(scope="module")
def oracle(cohort):
    """z'P_c y and z'P_c z (M, 2) of every variant without its chromosome."""
    _, Z, X, Y, _ = cohort
    zPy, zPz = np.empty((M, 2)), np.empty((M, 2))
    for c, K in enumerate(kernels(Z)):
        for t in range(2):
            P = dense.projection(thetas_of()[c, t], Y[:, t], X, [K]).P
            own = Z[:, ROWS[c]]
            zPy[ROWS[c], t], zPz[ROWS[c], t] = own.T @ (P @ Y[:, t]), ((P @ own) * own).sum(axis=0)
    return zPy, zPz


def scan_of(cohort, make=None, settings=TIGHT):
    _, _, X, Y, genotypes = cohort
    products = CpuProducts(genotypes, np.float64) if make is None else make(genotypes)
    left = leave_out(products, np.ones(M), ROWS, ["1", "2", "3"])
    return loco_scan(Y, X, left, ROWS, thetas_of(), np.random.default_rng(0), settings)


def test_loco_scores_and_their_calibration_are_those_of_dense_matrices(cohort, oracle):
    _, Z, X, _, _ = cohort
    zPy, zPz = oracle
    found = scan_of(cohort)
    Q = np.linalg.qr(X)[0]
    zMz = ((Z - Q @ (Q.T @ Z)) ** 2).sum(axis=0)
    score = found.scan.beta / found.scan.se**2
    known = np.isfinite(found.scan.beta[:, 0])
    assert np.flatnonzero(~known).tolist() == [7, 9, 11]
    np.testing.assert_allclose(score[known], zPy[known], rtol=1e-8, atol=1e-9 * np.abs(zPy).max())
    every = found.fit.calibration
    assert sorted(every.variants) == np.flatnonzero(known).tolist() and found.fit.converged
    expected = zPz[every.variants] / zMz[every.variants, None] * unit(cohort)
    np.testing.assert_allclose(every.ratios, expected, rtol=1e-8)
    own = CHROMOSOME[every.variants]
    means = np.array([every.ratios[own == c].mean(axis=0) for c in range(3)])
    between = np.abs(every.gamma - every.ratios.mean(axis=0)) <= np.abs(means - every.ratios.mean(axis=0)) + 1e-12
    assert between.all()
    gamma = every.gamma[CHROMOSOME] / unit(cohort)
    np.testing.assert_allclose(found.scan.se[known] ** -2, (gamma * zMz[:, None])[known], rtol=1e-8)
    # and the approximation is near what it stands for
    exact = zPy[known, 0] ** 2 / zPz[known, 0]
    assert np.corrcoef((found.scan.statistic**2)[known, 0], exact)[0, 1] > 0.99


def unit(cohort):
    """(2,) variance of each trait beside the fixed effects, by which the calibration is scaled."""
    _, _, X, Y, _ = cohort
    return ((Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]) ** 2).sum(axis=0) / (N - X.shape[1])


def test_default_tolerances_move_the_statistics_little(cohort):
    tight = scan_of(cohort)
    usual = scan_of(cohort, lambda genotypes: CpuProducts(genotypes, np.float32), LocoSettings(variants=500, most=1000))
    known = np.isfinite(tight.scan.beta)
    assert np.abs(usual.scan.statistic - tight.scan.statistic)[known].max() <= 2e-3


@pytest.mark.parametrize("number", [1, 2])
def test_scans_on_devices_are_those_of_the_cpu(cohort, number):
    def make(genotypes):
        return make_device_products(genotypes, [HostDevice(label=f"device {d}") for d in range(number)])

    _, _, X, Y, genotypes = cohort
    settings = LocoSettings(tol=1e-5, calibration_tol=1e-3, variants=500, most=1000)
    expected, found = scan_of(cohort), scan_of(cohort, make, settings)
    known = np.isfinite(expected.scan.beta)
    assert (np.isfinite(found.scan.beta) == known).all()
    assert np.abs(found.scan.statistic - expected.scan.statistic)[known].max() <= 1e-3
    least = ols_scan(Y, X, CpuProducts(genotypes, np.float64)), ols_scan(Y, X, make(genotypes))
    assert np.abs(least[0].statistic - least[1].statistic)[known].max() <= 1e-4


def test_few_columns_at_once_and_few_calibration_variants_are_the_same_model(cohort):
    every = scan_of(cohort)
    few = scan_of(cohort, settings=LocoSettings(tol=1e-11, calibration_tol=1e-12, variants=30, most=30, columns=2))
    known = np.isfinite(every.scan.beta)
    np.testing.assert_allclose(
        (few.scan.beta / few.scan.se**2)[known], (every.scan.beta / every.scan.se**2)[known], rtol=1e-7, atol=1e-7
    )
    assert 6 <= len(few.fit.calibration.variants) <= 36
    assert (np.abs(few.fit.calibration.gamma - every.fit.calibration.gamma) <= 5 * few.fit.calibration.se).all()


def test_a_solve_that_runs_out_of_steps_says_so(cohort):
    found = scan_of(cohort, settings=LocoSettings(tol=1e-11, max_iterations=2))
    assert not found.fit.converged and found.fit.residuals.max() > 1e-11


def test_solves_are_inverses_of_every_columns_own_covariance(cohort):
    _, Z, X, Y, genotypes = cohort
    left = leave_out(CpuProducts(genotypes, np.float64), np.ones(M), ROWS, ["1", "2", "3"])
    Q = np.linalg.qr(X)[0]
    B = np.random.default_rng(1).standard_normal((N, 4))
    B -= Q @ (Q.T @ B)
    B[:, 3] = 0
    groups, traits = np.array([2, 0, 1, 0]), np.array([1, 0, 0, 1])
    solved = solve_columns(left, Q, thetas_of(), groups, traits, B, tol=1e-12, max_iterations=400)
    for i in range(4):
        P = dense.projection(thetas_of()[groups[i], traits[i]], Y[:, 0], X, [kernels(Z)[groups[i]]]).P
        np.testing.assert_allclose(solved.X[:, i], P @ B[:, i], atol=1e-10)
    assert solved.iterations[3] == 0 and solved.residuals.max() <= 1e-11


def test_weights_of_the_relationship_matrix_and_a_group_that_leaves_nothing_out(cohort):
    _, Z, _, _, genotypes = cohort
    products = CpuProducts(genotypes, np.float64)
    w = np.random.default_rng(2).random(M)
    rows = [ROWS[0], np.zeros(0, int), ROWS[1]]
    left = leave_out(products, w, rows, ["1", "none", "2"])
    B = np.random.default_rng(1).standard_normal((N, 3))
    expected = [dense.kernel(Z, np.where(CHROMOSOME == c, 0, w)) @ b for c, b in zip((0, 9, 1), B.T, strict=True)]
    np.testing.assert_allclose(left.apply(B, np.arange(3)).T, expected, atol=1e-10)
    np.testing.assert_allclose(left.without(2), np.where(CHROMOSOME == 1, 0, left.weights) / left.totals[2])
    for bad in (-w, np.where(np.arange(M) == 4, np.nan, w), w[1:]):
        with pytest.raises(ValueError, match=f"weights: expected {M} finite values, not negative"):
            leave_out(products, bad, rows, ["1", "none", "2"])
    with pytest.raises(ValueError, match="chromosome X: no variant that varies is left"):
        leave_out(products, w, [np.arange(M)], ["X"])


def test_means_of_groups_shrink_by_the_share_of_chance():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(4), 500)
    apart = np.array([1.0, 1.2, 0.8, 1.1])[:, None]
    values = apart[groups] + 0.1 * rng.standard_normal((2000, 1))
    means, se, freedom = shrunken_means(values, groups, 5)
    plain = np.array([values[groups == c].mean() for c in range(4)])
    np.testing.assert_allclose(means[:4, 0], plain, atol=2e-4)  # hardly any chance: B is 0.999
    np.testing.assert_allclose(se[:4, 0], 0.1 / np.sqrt(500), rtol=0.05)
    assert abs(means[4, 0] - values.mean()) < 1e-12 and se[4, 0] > 0.1  # a group without values
    assert abs(freedom[0] - (2000 - 4)) < 0.02  # means of their own take one each
    same, error, _ = shrunken_means(1 + 0.1 * rng.standard_normal((2000, 1)), groups, 4)
    assert np.ptp(same) < 0.5 * np.ptp(plain) and error.max() < 0.1 / np.sqrt(500)
    single, unknown, left = shrunken_means(np.ones((2, 1)), np.array([0, 1]), 2)
    assert (single == 1).all() and np.isnan(unknown).all() and left == 1
    assert (shrunken_means(np.ones((4, 1)), np.array([0, 0, 1, 1]), 2)[0] == 1).all()  # no spread at all


def test_score_tests_keep_their_level_and_their_standard_errors():
    """Traits simulated from the model: z statistics of unlinked null variants are standard normal."""
    rng = np.random.default_rng(8)
    n, m, t = 300, 400, 40
    counts = simulate_counts(n, m, rng, missing=0.0, ld=0.0)
    counts[: n // 2] = counts[n // 2 :]  # twins
    chromosome = np.repeat([0, 1], m // 2)
    Z, genotypes = dense.standardised(counts), standardise([pack(counts)], n)
    Y = Z[:, chromosome == 1] @ rng.standard_normal((m // 2, t)) * np.sqrt(0.6 / (m // 2))
    Y += np.sqrt(0.4) * rng.standard_normal((n, t))
    rows = [np.flatnonzero(chromosome == c) for c in range(2)]
    left = leave_out(CpuProducts(genotypes, np.float64), np.ones(m), rows, "12")
    thetas = np.broadcast_to([0.6, 0.4], (2, t, 2))
    found = loco_scan(Y, np.ones((n, 1)), left, rows, thetas, np.random.default_rng(0))
    null = found.scan.statistic[chromosome == 0]
    naive = ols_scan(Y, np.ones((n, 1)), CpuProducts(genotypes, np.float64)).statistic[chromosome == 0]
    # 8,000 correlated statistics; means of squares over traits, with their own standard error
    each = (null**2).mean(axis=0)
    assert abs(each.mean() - 1) <= 4 * each.std(ddof=1) / np.sqrt(t)
    assert (naive**2).mean() > 1.3
