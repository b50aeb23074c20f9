"""Refined tests against dense generalised least squares, and how single variants scatter about the calibration."""

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, pack, standardise
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.ops.loco import leave_out
from gpu_reml.reml.studies.association import exact_scan
from gpu_reml.reml.studies.loco import LocoSettings, loco_scan, scatter_of_errors
from gpu_reml.reml.studies.refine import RefineSettings, refine
from gpu_reml.validation import dense
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import simulate_counts

N, M, C = 240, 180, 3
CHROMOSOME = np.repeat(np.arange(C), M // C)
ROWS = [np.flatnonzero(CHROMOSOME == c) for c in range(C)]
ALL = RefineSettings(log10p=0, most=M)


@pytest.fixture(scope="module")
def families():
    """Sibs in fours, two traits; variant 7 does not vary, 9 is the covariate.  Exact tests, and the score's scan."""
    rng = np.random.default_rng(5)
    counts = np.repeat(simulate_counts(N // 4, M, rng, missing=0.0), 4, axis=0)
    counts = np.where(rng.random((N, M)) < 0.4, simulate_counts(N, M, rng, missing=0.0), counts)
    counts[:, 7] = 1
    Z, genotypes = dense.standardised(counts), standardise([pack(counts)], N)
    X = np.column_stack([np.ones(N), 2 * Z[:, 9] + 1])
    Y = 50 + 3 * (Z @ rng.standard_normal((M, 2)) * np.sqrt(0.9 / M) + rng.standard_normal((N, 2)) * [0.6, 1.0])
    Y[:, 0] += Z[:, 100]
    exact = exact_scan(Y, X, genotypes, [(rows, rows) for rows in ROWS])
    return Z, X, Y, genotypes, exact, scan_of(X, Y, CpuProducts(genotypes, np.float64), exact.h2)


def scan_of(X, Y, products, h2, rows=ROWS, **settings):
    """The score's scan at given heritabilities (C, t) of K of trace n: theta_g is per K of mean weight."""
    left = leave_out(products, np.ones(M), rows, [str(c) for c in range(len(rows))])
    norms = products.genotypes.squared_norm
    traces = np.array([left.without(c) @ norms for c in range(len(rows))]) / N
    thetas = 9 * np.stack([h2 / traces[:, None], 1 - h2], axis=2)
    tested = ROWS if len(rows) == C else [np.arange(M)]
    return loco_scan(Y, X, left, tested, thetas, np.random.default_rng(0), LocoSettings(**settings))


def test_refined_tests_are_those_of_the_exact_scan_at_its_heritabilities(families):
    *_, exact, found = families
    refined = refine(found, ROWS, ALL)
    known = np.isfinite(exact.scan.beta)
    assert (refined.which == known).all() and known.sum() == 2 * (M - 2)
    np.testing.assert_allclose(refined.scan.se[known], exact.scan.se[known], rtol=1e-6)
    assert np.abs((refined.scan.beta - exact.scan.beta) / exact.scan.se)[known].max() <= 1e-5
    np.testing.assert_allclose(refined.scan.log10p[known], exact.scan.log10p[known], rtol=1e-5, atol=1e-5)
    assert np.abs(found.scan.se / exact.scan.se - 1)[known].max() > 0.1  # what the score's errors are off by
    assert refined.converged and refined.bounds.max() <= 2 * ALL.accuracy


class Counting:
    """Products that remember how many columns went through them."""

    def __init__(self, products):
        self.inner, self.columns = products, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def zt(self, B):
        self.columns += B.shape[1]
        return self.inner.zt(B)


def test_the_cost_is_a_column_of_solves_for_every_test_and_is_counted(families):
    _, X, Y, genotypes, exact, _ = families
    products = Counting(CpuProducts(genotypes, np.float64))
    found = scan_of(X, Y, products, exact.h2)
    before = products.columns
    refined = refine(found, ROWS, RefineSettings(log10p=2, most=6))
    assert products.columns - before == refined.column_passes > len(refined.iterations)
    assert refined.column_passes == refined.iterations.sum() + len(refined.iterations) + len(pairs_of(refined.which))


def pairs_of(which):
    """(chromosome, trait) pairs that have a test."""
    return {(CHROMOSOME[j], t) for j, t in np.argwhere(which)}


def test_the_bound_of_each_error_holds_and_says_something(families):
    Z, X, Y, genotypes, exact, _ = families
    found = scan_of(X, Y, CpuProducts(genotypes, np.float64), exact.h2)
    loose = refine(found, ROWS, RefineSettings(log10p=0, most=M, accuracy=1e-2))
    errors = []  # by trait and variant, as the bounds are
    for t in range(2):
        for c, rows in enumerate(ROWS):
            K = dense.kernel(Z, (CHROMOSOME != c) & Z.any(axis=0))
            P = dense.projection(found.fit.model.thetas[c, t] * found.fit.model.scales[t] ** 2, Y[:, t], X, [K]).P
            for j in rows[loose.which[rows, t]]:
                zPz, zPy = Z[:, j] @ P @ Z[:, j], Z[:, j] @ P @ Y[:, t]
                s = (Y[:, t] @ P @ Y[:, t] - zPy**2 / zPz) / (N - 3)
                errors.append(1 - loose.scan.se[j, t] ** -2 * s / zPz)  # z'Pz comes out too small, if at all
    errors = np.array(errors)
    assert (errors <= loose.bounds + 1e-6).all() and errors.max() > 1e-4 and loose.bounds.max() < 2e-2


@pytest.mark.parametrize("number", [0, 1, 2])
def test_single_precision_and_devices_give_the_same_tests(families, number):
    _, X, Y, genotypes, exact, _ = families
    devices = [HostDevice(label=f"device {d}") for d in range(number)]
    products = make_device_products(genotypes, devices) if number else CpuProducts(genotypes, np.float32)
    refined = refine(scan_of(X, Y, products, exact.h2, columns=50), ROWS, RefineSettings(0, M, columns=50))
    known = np.isfinite(exact.scan.beta)
    assert (refined.which == known).all()
    np.testing.assert_allclose(refined.scan.se[known], exact.scan.se[known], rtol=1e-5)
    assert np.abs((refined.scan.beta - exact.scan.beta) / exact.scan.se)[known].max() <= 1e-4


def test_a_model_that_leaves_nothing_out_is_refined_alike(families):
    _, X, Y, genotypes, _, _ = families
    nothing = np.zeros(0, int)
    exact = exact_scan(Y, X, genotypes, [(nothing, np.arange(M))])
    found = scan_of(X, Y, CpuProducts(genotypes, np.float64), exact.h2, [nothing])
    refined = refine(found, [np.arange(M)], RefineSettings(log10p=1, most=M))
    assert 10 < refined.which.sum() < M
    np.testing.assert_allclose(refined.scan.se[refined.which], exact.scan.se[refined.which], rtol=1e-6)


def test_the_most_significant_over_the_threshold_are_refined_and_the_others_left(families):
    *_, found = families
    refined = refine(found, ROWS, RefineSettings(log10p=1.5, most=4))
    over = np.nan_to_num(found.scan.log10p, nan=-1) >= 1.5
    assert (refined.wanted == over.sum(axis=0)).all() and refined.wanted.min() > 4
    assert (refined.which.sum(axis=0) == 4).all()
    for t in range(2):
        chosen = refined.which[:, t]
        assert found.scan.log10p[chosen, t].min() >= np.nanmax(found.scan.log10p[~chosen, t])
    for before, after in zip(found.scan[:3], refined.scan[:3], strict=True):
        np.testing.assert_array_equal(before[~refined.which], after[~refined.which])
        assert (before[refined.which] != after[refined.which]).all()
    none = refine(found, ROWS, RefineSettings(log10p=1.5, most=0))
    assert none.scan is found.scan and not none.which.any() and none.column_passes == 0 and none.converged


def test_a_refinement_that_runs_out_of_steps_says_so(families):
    *_, found = families
    refined = refine(found, ROWS, RefineSettings(log10p=2, most=5, max_iterations=1))
    assert not refined.converged and refined.bounds.max() > 1e-4


def test_the_scatter_of_single_errors_is_that_of_all_variants(families):
    *_, exact, found = families
    few = found.fit.calibration
    known = np.isfinite(exact.scan.beta[:, 0])
    # the exact test's error without what the variant explains: its z'Pz
    truth = np.sqrt(full_ratios(families)[known] / few.gamma[CHROMOSOME[known]]) - 1
    assert few.freedom.min() >= 30 and len(few.variants) < M / 2
    # an SD from some 40 variants is known to about an eighth
    np.testing.assert_allclose(few.scatter, np.sqrt((truth**2).mean(axis=0)), rtol=0.4)
    assert few.scatter.min() > 0.01


def test_variants_are_drawn_until_their_scatter_is_known_or_none_are_left(families):
    _, X, Y, genotypes, exact, _ = families
    products = CpuProducts(genotypes, np.float32)
    drawn = [
        scan_of(X, Y, products, exact.h2, calibration_se=1.0, variants=6, scatter=least).fit.calibration
        for least in (1, 30, 1000)
    ]
    # sixes are drawn until there are the 16 that know their own spread
    assert [len(each.variants) for each in drawn] == [18, len(drawn[1].variants), M - 2]
    assert drawn[0].freedom.min() < 30 <= drawn[1].freedom.min() < 36


def full_ratios(families):
    """(M, 2) z'P_c z / z'Mz by dense matrices on the scan's scale."""
    Z, X, Y, _, _, found = families
    Q = np.linalg.qr(X)[0]
    ratios = np.full((M, 2), np.nan)
    for c in range(C):
        K = dense.kernel(Z, (CHROMOSOME != c) & Z.any(axis=0))
        for t in range(2):
            P = dense.projection(found.fit.model.thetas[c, t], Y[:, t], X, [K]).P
            own = Z[:, ROWS[c]]
            left = own - Q @ (Q.T @ own)
            with np.errstate(invalid="ignore"):
                ratios[ROWS[c], t] = ((P @ own) * own).sum(axis=0) / (left**2).sum(axis=0)
    return ratios


def test_the_scatter_is_of_the_roots_of_the_ratios():
    ratios = np.array([[0.81, 1.0], [1.21, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(scatter_of_errors(ratios, np.array([2.0, 2.0])), [0.1, 0])
    assert np.isnan(scatter_of_errors(ratios[:1], np.zeros(2))).all()
