"""Fixed effects, genetic values, their reliability and effects of variants against the dense formulas."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from gpu_reml.ops import make_covariance, make_products
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import (
    MixedCovariance,
    ScaledCovariance,
    dense_covariance,
    draw_probes,
    exact_probes,
    make_projected_core,
)
from gpu_reml.reml.covariance import WrappedCovariance
from gpu_reml.reml.linalg import orthonormal_basis
from gpu_reml.reml.precondition import complement_traces
from gpu_reml.reml.residuals import layout_of, with_residuals
from gpu_reml.reml.result import ConvergenceError
from gpu_reml.reml.studies.accuracy import accuracy
from gpu_reml.reml.studies.cross_validation import cross_validate, draw_folds
from gpu_reml.reml.studies.effects import (
    allele_effects,
    allele_intercept,
    component_reliability,
    effects,
    fixed_tests,
    parameters_of,
    reliability,
    variant_effects,
)
from gpu_reml.validation import dense
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import covariance_of, make_cohort

TIGHT = 1e-12


@pytest.fixture(scope="module", params=[1, 3])
def case(request):
    """A cohort, its covariance in float64, and what the dense formulas say at its true theta."""
    cohort = make_cohort(90, 240, request.param, seed=request.param)
    at = dense.projection(cohort.theta, cohort.y, cohort.X, cohort.Ks)
    return cohort, covariance_of(cohort), at


def core_of(cohort, covariance, rank=20):
    Q = orthonormal_basis(cohort.X)
    sketch = draw_probes(cohort.n, 1, rank, seed=4).sketch
    return make_projected_core(covariance, Q, complement_traces(covariance, Q), cohort.theta[:-1], sketch)


def dense_pev(cohort, at, which=None):
    """diag(var(u - u_hat)) of one component, or of the total."""
    chosen = range(len(cohort.Ks)) if which is None else [which]
    T = sum(cohort.theta[g] * cohort.Ks[g] for g in chosen)
    return np.diag(T - T @ at.P @ T), np.diag(T)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_genetic_values_and_fixed_effects_are_the_dense_ones(case, preconditioned):
    cohort, covariance, at = case
    core = core_of(cohort, covariance) if preconditioned else None
    found = effects(cohort.theta, cohort.y, cohort.X, covariance, preconditioner=core, tol=TIGHT)
    images = dense.images(at.Py, cohort.Ks)[:, :-1] * cohort.theta[:-1]
    np.testing.assert_allclose(found.Py, at.Py, rtol=1e-8, atol=1e-10 * np.abs(at.Py).max())
    np.testing.assert_allclose(found.random, images, rtol=0, atol=1e-8 * np.abs(images).max())
    np.testing.assert_allclose(found.total, images.sum(axis=1), rtol=0, atol=1e-8 * np.abs(images).max())
    np.testing.assert_allclose(found.fixed.estimate, at.fixed_effects, rtol=1e-8)
    # solves of X stop at 1e-3, so the covariance is good to its square
    np.testing.assert_allclose(
        found.fixed.covariance, at.fixed_effects_cov, rtol=0, atol=1e-5 * found.fixed.se.max() ** 2
    )
    assert found.solve_residual <= TIGHT and found.iterations > 5


def test_genetic_values_are_the_mixed_model_equations_solution(case):
    cohort, covariance, _ = case
    found = effects(cohort.theta, cohort.y, cohort.X, covariance, tol=TIGHT)
    # Henderson's equations with u = T a, since T is singular: allele counts are centred
    T = sum(t * K for t, K in zip(cohort.theta[:-1], cohort.Ks, strict=True))
    X, e = cohort.X, cohort.theta[-1]
    left = np.block([[X.T @ X, X.T @ T], [X, T + e * np.eye(cohort.n)]])
    solution = np.linalg.solve(left, np.concatenate([X.T @ cohort.y, cohort.y]))
    u = T @ solution[3:]
    np.testing.assert_allclose(found.fixed.estimate, solution[:3], rtol=1e-6)
    np.testing.assert_allclose(found.total, u, rtol=0, atol=1e-6 * np.abs(u).max())


def test_float32_products_give_the_dense_values_to_a_millionth(case):
    cohort, _, at = case
    covariance = covariance_of(cohort, np.float32)
    found = effects(cohort.theta, cohort.y, cohort.X, covariance)
    images = dense.images(at.Py, cohort.Ks)[:, :-1] * cohort.theta[:-1]
    np.testing.assert_allclose(found.random, images, rtol=0, atol=1e-5 * np.abs(images).max())
    np.testing.assert_allclose(found.fixed.estimate, at.fixed_effects, rtol=0, atol=1e-5 * found.fixed.se.max())


@pytest.mark.parametrize("factor", [1e-25, 1e20])
def test_units_of_the_phenotype_only_scale_what_follows(case, factor):
    cohort, _, _ = case
    covariance = covariance_of(cohort, np.float32)
    found = effects(cohort.theta, cohort.y, cohort.X, covariance)
    scaled = effects(cohort.theta * factor**2, cohort.y * factor, cohort.X, covariance)
    np.testing.assert_allclose(
        scaled.random, found.random * factor, rtol=0, atol=1e-5 * np.abs(found.random).max() * factor
    )
    np.testing.assert_allclose(scaled.fixed.se, found.fixed.se * factor, rtol=1e-4)


def test_effects_of_variants_add_up_to_the_genetic_values(case):
    cohort, covariance, at = case
    found = effects(cohort.theta, cohort.y, cohort.X, covariance, tol=TIGHT)
    standardised = variant_effects(covariance, found.theta, found.Py)
    Z = covariance.products.z(np.eye(cohort.W.shape[0]))
    W = cohort.W / cohort.W.sum(axis=0)
    expected = (Z.T @ at.Py)[:, None] * W * cohort.theta[:-1]
    np.testing.assert_allclose(standardised.toarray(), expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    np.testing.assert_allclose(Z @ standardised.toarray(), found.random, rtol=0, atol=1e-8 * np.abs(found.random).max())
    genotypes = cohort.genotypes
    beta = allele_effects(standardised, genotypes.inv_sd)
    called = Z / np.where(genotypes.inv_sd > 0, genotypes.inv_sd, 1) + genotypes.mean  # counts, a missing one the mean
    values = called @ beta.toarray() + allele_intercept(beta, genotypes.mean)
    np.testing.assert_allclose(values, found.random, rtol=0, atol=1e-8 * np.abs(found.random).max())


def test_a_covariance_may_give_its_own_variant_effects(case):
    cohort, covariance, _ = case
    found = effects(cohort.theta, cohort.y, cohort.X, covariance, tol=TIGHT)

    class WithMethod(WrappedCovariance):
        def variant_effects(self, theta, F):
            return covariance.weights.multiply(F) * theta

    np.testing.assert_allclose(
        variant_effects(WithMethod(covariance), found.theta, found.Py).toarray(),
        variant_effects(covariance, found.theta, found.Py).toarray(),
        rtol=1e-12,
    )
    with pytest.raises(ValueError, match="has no variants"):
        variant_effects(dense_covariance(cohort.Ks), found.theta, found.Py)


def test_dense_blocks_of_weights_give_the_dense_effects():
    from gpu_reml.ops.block_covariance import make_block_covariance

    cohort, rng = make_cohort(90, 240, 1, seed=1), np.random.default_rng(2)
    halves = [rng.standard_normal((size, 2 * size)) for size in (100, 140)]
    W = [half @ half.T / half.shape[1] for half in halves]
    covariance = make_block_covariance(make_products(cohort.genotypes, "cpu", np.float64), [W])
    Z = covariance.products.z(np.eye(240))
    full = np.zeros((240, 240))
    full[:100, :100], full[100:, 100:] = W
    K = Z @ full @ Z.T / covariance.scales[0]
    theta = cohort.theta
    at = dense.projection(theta, cohort.y, cohort.X, [K])
    found = effects(theta, cohort.y, cohort.X, covariance, tol=TIGHT)
    # blocks of weights are kept in float32
    np.testing.assert_allclose(found.total, theta[0] * K @ at.Py, rtol=0, atol=1e-5 * np.abs(found.total).max())
    expected = theta[0] * full @ Z.T @ at.Py / covariance.scales[0]
    beta = variant_effects(covariance, theta, found.Py).toarray()[:, 0]
    np.testing.assert_allclose(beta, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(Z @ beta, found.total, rtol=0, atol=1e-6 * np.abs(found.total).max())


def test_a_device_gives_the_effects_of_the_cpu(case):
    cohort, covariance, _ = case
    products = make_device_products(cohort.genotypes, [HostDevice()])
    there = make_covariance(products, cohort.W)
    core = core_of(cohort, there, 10)
    found = effects(cohort.theta, cohort.y, cohort.X, there, preconditioner=core)
    expected = effects(cohort.theta, cohort.y, cohort.X, covariance, tol=TIGHT)
    np.testing.assert_allclose(found.random, expected.random, rtol=0, atol=1e-5 * np.abs(expected.random).max())
    np.testing.assert_allclose(
        found.fixed.estimate, expected.fixed.estimate, rtol=0, atol=1e-5 * expected.fixed.se.max()
    )
    here = variant_effects(covariance, expected.theta, expected.Py).toarray()
    np.testing.assert_allclose(
        variant_effects(there, found.theta, found.Py).toarray(), here, rtol=0, atol=1e-5 * np.abs(here).max()
    )
    probes = draw_probes(cohort.n, 40, seed=2).trace
    close = reliability(cohort.theta, cohort.X, there, probes, preconditioner=core, tol=1e-6)
    exact = reliability(
        cohort.theta, cohort.X, covariance, probes, preconditioner=core_of(cohort, covariance, 10), tol=1e-10
    )
    np.testing.assert_allclose(close.pev, exact.pev, rtol=1e-4)
    fold = draw_folds(cohort.n, 4, 1)
    held_there = cross_validate(cohort.theta, cohort.y, cohort.X, there, fold)
    held = cross_validate(cohort.theta, cohort.y, cohort.X, covariance, fold, tol=TIGHT)
    np.testing.assert_allclose(held_there.random, held.random, rtol=0, atol=1e-5 * np.abs(held.random).max())


@pytest.mark.parametrize("preconditioned", [False, True])
def test_exact_probes_give_the_dense_prediction_error_variances(case, preconditioned):
    cohort, covariance, at = case
    core = core_of(cohort, covariance) if preconditioned else None
    probes = exact_probes(cohort.n).trace
    found = reliability(cohort.theta, cohort.X, covariance, probes, preconditioner=core, tol=TIGHT)
    pev, prior = dense_pev(cohort, at)
    np.testing.assert_allclose(found.pev, pev, rtol=1e-5)
    np.testing.assert_allclose(found.prior, prior, rtol=1e-10)
    np.testing.assert_allclose(found.reliability, 1 - pev / prior, rtol=0, atol=1e-5)
    assert not found.mc_se.any()
    each = component_reliability(cohort.theta, cohort.X, covariance, probes, preconditioner=core, tol=TIGHT, at_once=33)
    for g in range(len(cohort.Ks)):
        pev, prior = dense_pev(cohort, at, g)
        np.testing.assert_allclose(each.pev[:, g], pev, rtol=1e-7)
        np.testing.assert_allclose(each.prior[:, g], prior, rtol=1e-10)
    assert not each.mc_se.any()


@pytest.mark.parametrize("preconditioned", [False, True])
def test_monte_carlo_errors_of_reliability_are_as_stated(case, preconditioned):
    cohort, covariance, at = case
    core = core_of(cohort, covariance) if preconditioned else None
    probes = draw_probes(cohort.n, 120, seed=8).trace
    total = reliability(cohort.theta, cohort.X, covariance, probes, preconditioner=core, tol=1e-9, at_once=50)
    z = (total.pev - dense_pev(cohort, at)[0]) / total.mc_se
    assert 0.75 < np.sqrt(np.mean(z**2)) < 1.25
    np.testing.assert_allclose(total.reliability_mc_se, total.mc_se / total.prior)
    each = component_reliability(cohort.theta, cohort.X, covariance, probes, preconditioner=core, tol=1e-9)
    for g in range(len(cohort.Ks)):
        z = (each.pev[:, g] - dense_pev(cohort, at, g)[0]) / each.mc_se[:, g]
        assert 0.75 < np.sqrt(np.mean(z**2)) < 1.25


def test_the_preconditioner_and_the_total_make_reliability_more_precise(case):
    cohort, covariance, _ = case
    probes = draw_probes(cohort.n, 60, seed=8).trace
    plain = reliability(cohort.theta, cohort.X, covariance, probes)
    with_core = reliability(cohort.theta, cohort.X, covariance, probes, preconditioner=core_of(cohort, covariance, 30))
    assert np.mean(with_core.mc_se**2) < 0.7 * np.mean(plain.mc_se**2)
    if len(cohort.Ks) == 1:
        direct = component_reliability(cohort.theta, cohort.X, covariance, probes)
        assert np.mean(plain.mc_se**2) < 0.5 * np.mean(direct.mc_se**2)


def test_tests_of_fixed_effects_are_those_of_least_squares_without_genetics():
    cohort = make_cohort(80, 100, 1, seed=5)
    n, c = cohort.X.shape
    left = cohort.y - cohort.X @ np.linalg.lstsq(cohort.X, cohort.y, rcond=None)[0]
    theta = np.array([0.0, left @ left / (n - c)])
    found = effects(theta, cohort.y, cohort.X, covariance_of(cohort), tol=TIGHT)
    tested = fixed_tests(found.fixed, n)
    cov = np.linalg.inv(cohort.X.T @ cohort.X) * theta[1]
    np.testing.assert_allclose(tested.se, np.sqrt(np.diag(cov)), rtol=1e-8)
    np.testing.assert_allclose(tested.p, 2 * stats.t.sf(np.abs(tested.t), n - c), rtol=1e-10)
    assert tested.df == n - c and not found.random.any()


def test_a_component_without_variance_has_no_reliability():
    cohort = make_cohort(60, 90, 2, seed=3)
    theta = np.array([0.0, 3.0, 5.0])
    found = component_reliability(theta, cohort.X, covariance_of(cohort), draw_probes(60, 4).trace)
    assert np.isnan(found.reliability[:, 0]).all() and np.isfinite(found.reliability[:, 1]).all()


def test_what_cannot_be_answered_is_an_error(case):
    cohort, covariance, _ = case
    with pytest.raises(ValueError, match=r"theta: expected \d genetic and 1 residual variances"):
        effects(cohort.theta[:-1], cohort.y, cohort.X, covariance)
    with pytest.raises(ValueError, match="does not vary once the fixed effects"):
        effects(cohort.theta, cohort.X @ [1.0, 2.0, 3.0], cohort.X, covariance)
    with pytest.raises(ConvergenceError, match="the solve for P y stopped"):
        effects(cohort.theta, cohort.y, cohort.X, covariance, max_iterations=2)
    with pytest.raises(ValueError, match="diagonals: expected"):
        reliability(cohort.theta, cohort.X, covariance, draw_probes(cohort.n, 2).trace, diagonals=np.ones((3, 1)))


# residuals other than one identity

RESIDUALS = {
    "weights": (lambda rng, n: rng.uniform(0.3, 3, (n, 1)), [2.0]),
    "noise beside an identity": (lambda rng, n: np.column_stack([rng.uniform(0, 2, n), np.ones(n)]), [1.0, 3.0]),
    "groups": (lambda rng, n: np.eye(2)[rng.integers(0, 2, n)], [1.5, 4.0]),
}


@pytest.mark.parametrize("kind", RESIDUALS)
def test_other_residuals_are_the_dense_ones(case, kind):
    cohort, base, _ = case
    make, etas = RESIDUALS[kind]
    D = make(np.random.default_rng(6), cohort.n)
    covariance = with_residuals(base, D)
    genetic = cohort.theta[:-1]
    theta = np.append(genetic, etas)
    T = sum(t * K for t, K in zip(genetic, cohort.Ks, strict=True))
    V = T + np.diag(D @ etas)

    def dense_fit(rows):
        X, inverse = cohort.X[rows], np.linalg.inv(V[np.ix_(rows, rows)])
        cov = np.linalg.inv(X.T @ inverse @ X)
        b = cov @ X.T @ inverse @ cohort.y[rows]
        return b, cov, inverse @ (cohort.y[rows] - X @ b)

    b, cov, Py = dense_fit(np.arange(cohort.n))
    found = effects(theta, cohort.y, cohort.X, covariance, tol=TIGHT)
    np.testing.assert_allclose(found.Py, Py, rtol=0, atol=1e-9 * np.abs(Py).max())
    np.testing.assert_allclose(
        found.random,
        np.column_stack([t * K @ Py for t, K in zip(genetic, cohort.Ks, strict=True)]),
        rtol=0,
        atol=1e-8 * np.abs(found.random).max(),
    )
    np.testing.assert_allclose(found.fixed.estimate, b, rtol=1e-8)
    np.testing.assert_allclose(found.fixed.covariance, cov, rtol=0, atol=1e-5 * np.diag(cov).max())
    fold = draw_folds(cohort.n, 3, seed=2)
    held = cross_validate(theta, cohort.y, cohort.X, covariance, fold, tol=TIGHT)
    for k in range(3):
        train, out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        b, _, Py = dense_fit(train)
        np.testing.assert_allclose(held.fixed[out], cohort.X[out] @ b, rtol=1e-8)
        expected = T[np.ix_(out, train)] @ Py
        np.testing.assert_allclose(held.random[out], expected, rtol=0, atol=1e-7 * np.abs(expected).max())
    np.testing.assert_allclose(
        variant_effects(covariance, theta, found.Py).toarray(),
        variant_effects(base, theta, found.Py).toarray(),
        rtol=1e-12,
    )


def whitened_core(cohort, covariance, theta, rank=20):
    """As :func:`core_of`, for a covariance with residuals of its own."""
    Q = orthonormal_basis(layout_of(covariance).whitened(cohort.X))
    sketch = draw_probes(cohort.n, 1, rank, seed=4).sketch
    genetic = parameters_of(theta, covariance)[:-1]
    return make_projected_core(covariance, Q, complement_traces(covariance, Q), genetic, sketch)


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("kind", RESIDUALS)
def test_reliability_with_other_residuals_is_the_dense_one(case, kind, preconditioned):
    cohort = case[0]
    make, etas = RESIDUALS[kind]
    D = make(np.random.default_rng(6), cohort.n)
    covariance, theta = with_residuals(dense_covariance(cohort.Ks), D), np.append(cohort.theta[:-1], etas)
    Ts = [t * K for t, K in zip(cohort.theta[:-1], cohort.Ks, strict=True)]
    T = sum(Ts)
    inverse = np.linalg.inv(T + np.diag(D @ etas))
    P = inverse - inverse @ cohort.X @ np.linalg.inv(cohort.X.T @ inverse @ cohort.X) @ cohort.X.T @ inverse
    core = whitened_core(cohort, covariance, theta) if preconditioned else None
    found = reliability(theta, cohort.X, covariance, exact_probes(cohort.n).trace, preconditioner=core, tol=TIGHT)
    np.testing.assert_allclose(found.pev, np.diag(T - T @ P @ T), rtol=1e-5)
    np.testing.assert_allclose(found.prior, np.diag(T), rtol=1e-10)
    each = component_reliability(
        theta, cohort.X, covariance, exact_probes(cohort.n).trace, preconditioner=core, tol=TIGHT
    )
    for g, own in enumerate(Ts):
        np.testing.assert_allclose(each.pev[:, g], np.diag(own - own @ P @ own), rtol=1e-6)
        np.testing.assert_allclose(each.prior[:, g], np.diag(own), rtol=1e-10)
    given = np.column_stack([np.diag(K) for K in cohort.Ks])
    probes = draw_probes(cohort.n, 60, seed=8).trace
    again = reliability(theta, cohort.X, covariance, probes, diagonals=given, preconditioner=core, tol=1e-7)
    z = (again.pev - found.pev) / again.mc_se
    assert 0.75 < np.sqrt(np.mean(z**2)) < 1.25
    np.testing.assert_allclose(again.prior, found.prior, rtol=1e-10)


# components scaled by sample


def test_scaled_components_give_the_dense_effects_of_variants(case):
    """Ancestries with residuals of their own, and an environment with negative values."""
    cohort, base, _ = case
    rng = np.random.default_rng(9)
    q = rng.dirichlet([1, 1], cohort.n)
    scales = [np.sqrt(q[:, 0]), np.sqrt(q[:, 1]), rng.standard_normal(cohort.n)]
    parts = [
        ScaledCovariance(base, s, [f"{name}.{g}" for g in base.names])
        for s, name in zip(scales, ("north", "south", "warm"), strict=True)
    ]
    covariance = with_residuals(MixedCovariance(parts), q, ["residual_north", "residual_south"])
    G = len(cohort.Ks)
    theta = np.concatenate([cohort.theta[:-1], 0.5 * cohort.theta[:-1], 0.3 * cohort.theta[:-1], [2.0, 3.0]])
    Ks = [np.outer(s, s) * K for s in scales for K in cohort.Ks]
    T = sum(t * K for t, K in zip(theta[:-2], Ks, strict=True))
    inverse = np.linalg.inv(T + np.diag(q @ theta[-2:]))
    P = inverse - inverse @ cohort.X @ np.linalg.inv(cohort.X.T @ inverse @ cohort.X) @ cohort.X.T @ inverse
    Py = P @ cohort.y
    found = effects(theta, cohort.y, cohort.X, covariance, tol=TIGHT)
    expected = np.column_stack([t * K @ Py for t, K in zip(theta[:-2], Ks, strict=True)])
    np.testing.assert_allclose(found.random, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    Z, W = base.products.z(np.eye(cohort.W.shape[0])), cohort.W / cohort.W.sum(axis=0)
    beta = variant_effects(covariance, found.theta, found.Py).toarray()
    for k, s in enumerate(scales):
        own = slice(k * G, (k + 1) * G)
        by_hand = (Z.T @ (s * Py))[:, None] * W * theta[own]
        np.testing.assert_allclose(beta[:, own], by_hand, rtol=0, atol=1e-8 * np.abs(by_hand).max())
        values = s[:, None] * (Z @ beta[:, own])
        np.testing.assert_allclose(values, expected[:, own], rtol=0, atol=1e-8 * np.abs(expected).max())
    pev = reliability(theta, cohort.X, covariance, exact_probes(cohort.n).trace, tol=1e-9).pev
    np.testing.assert_allclose(pev, np.diag(T - T @ P @ T), rtol=1e-5)
    there = make_covariance(make_device_products(cohort.genotypes, [HostDevice()]), cohort.W)
    there = MixedCovariance([ScaledCovariance(there, part.scale, part.names) for part in parts])
    there = variant_effects(with_residuals(there, q), found.theta, found.Py).toarray()
    np.testing.assert_allclose(there, beta, rtol=0, atol=1e-5 * np.abs(beta).max())
    twice = MixedCovariance([base, replace(base, names=tuple(f"{name}.again" for name in base.names))])
    both = variant_effects(ScaledCovariance(twice, scales[2]), np.tile(theta[2 * G : 3 * G], 2), Py).toarray()
    np.testing.assert_allclose(both, np.tile(beta[:, 2 * G :], 2), rtol=0, atol=1e-8 * np.abs(beta).max())
    beside = MixedCovariance([*parts, dense_covariance([np.eye(cohort.n)], ["house"])])
    with pytest.raises(ValueError, match="house has no variants"):
        variant_effects(beside, np.ones(3 * G + 2), Py)


# held-out samples


def dense_held_out(cohort, fold):
    """Fixed and genetic predictions by one dense fit of each fold's training samples."""
    fixed, random = np.empty(cohort.n), np.empty(cohort.n)
    T = sum(t * K for t, K in zip(cohort.theta[:-1], cohort.Ks, strict=True))
    for k in np.unique(fold):
        train, out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        Ks = [K[np.ix_(train, train)] for K in cohort.Ks]
        at = dense.projection(cohort.theta, cohort.y[train], cohort.X[train], Ks)
        fixed[out] = cohort.X[out] @ at.fixed_effects
        random[out] = T[np.ix_(out, train)] @ at.Py
    return fixed, random


def test_folds_in_one_block_are_the_dense_fits_of_each(case):
    cohort, covariance, _ = case
    fold = draw_folds(cohort.n, 5, seed=2)
    assert np.bincount(fold).tolist() == [18] * 5
    found = cross_validate(cohort.theta, cohort.y, cohort.X, covariance, fold, tol=TIGHT)
    fixed, random = dense_held_out(cohort, fold)
    np.testing.assert_allclose(found.random, random, rtol=0, atol=1e-8 * np.abs(random).max())
    np.testing.assert_allclose(found.fixed, fixed, rtol=1e-8)
    np.testing.assert_allclose(found.predicted, fixed + random, rtol=1e-8)


def test_a_held_out_phenotype_has_no_part_in_its_own_prediction(case):
    cohort, covariance, _ = case
    fold = draw_folds(cohort.n, 3, seed=2)
    changed = cohort.y + 1000.0 * (fold == 1)
    before, after = (
        cross_validate(cohort.theta, y, cohort.X, covariance, fold, tol=TIGHT) for y in (cohort.y, changed)
    )
    out = fold == 1
    np.testing.assert_allclose(after.predicted[out], before.predicted[out], rtol=1e-7)
    assert np.abs(after.predicted[~out] - before.predicted[~out]).max() > 1


def test_one_pass_serves_all_folds(case):
    from gpu_reml.reml import CountingCovariance

    cohort, covariance, _ = case
    counting = CountingCovariance(covariance)
    found = cross_validate(cohort.theta, cohort.y, cohort.X, counting, draw_folds(cohort.n, 6, 0))
    assert counting.calls["apply"] == found.iterations + 2  # the check and the prediction
    single = effects(cohort.theta, cohort.y, cohort.X, covariance)
    assert found.iterations <= 1.5 * single.iterations


def test_folds_that_cannot_be_fitted_are_named(case):
    cohort, covariance, _ = case
    fold = draw_folds(cohort.n, 3, seed=2)
    level = (fold == 1).astype(float) * np.linspace(1, 2, cohort.n)
    with pytest.raises(ValueError, match=r"fold 1: without its samples .*X: column 3 is zero"):
        cross_validate(cohort.theta, cohort.y, np.column_stack([cohort.X, level]), covariance, fold)
    with pytest.raises(ValueError, match="expected 2 to 90"):
        draw_folds(cohort.n, 1)
    with pytest.raises(ValueError, match="expected 2 folds"):
        cross_validate(cohort.theta, cohort.y, cohort.X, covariance, np.zeros(cohort.n, int))
    with pytest.raises(ValueError, match="expected one for each of 90 samples"):
        cross_validate(cohort.theta, cohort.y, cohort.X, covariance, fold[:-1])


# accuracy


def test_accuracy_is_that_of_the_textbook():
    rng = np.random.default_rng(3)
    n = 400
    X = np.column_stack([np.ones(n), rng.standard_normal(n), rng.integers(0, 2, n)])
    random = rng.standard_normal(n)
    fixed = X @ [3.0, 1.0, -2.0]
    y = fixed + 1.5 * random + rng.standard_normal(n)
    found = accuracy(y, fixed, random, X)
    r, p_interval = stats.pearsonr(y, fixed + random), stats.pearsonr(y, fixed + random).confidence_interval(0.95)
    assert found.n == n and found.level == 0.95
    np.testing.assert_allclose([found.correlation, found.lower, found.upper], [r.statistic, *p_interval], rtol=1e-10)
    np.testing.assert_allclose(found.r2, 1 - np.var(y - fixed - random) * n / (np.var(y) * n), atol=0.05)
    slope = stats.linregress(random, y - fixed).slope
    np.testing.assert_allclose(found.slope, slope, rtol=1e-10)

    def r2(*columns):
        A = np.column_stack(columns)
        return 1 - np.sum((y - A @ np.linalg.solve(A.T @ A, A.T @ y)) ** 2) / np.sum((y - y.mean()) ** 2)

    np.testing.assert_allclose(found.r2_covariates, r2(X), rtol=1e-9)
    np.testing.assert_allclose(found.r2_incremental, r2(X, random) - r2(X), rtol=1e-9)


def test_accuracy_that_the_samples_do_not_determine_is_nan():
    one = np.ones((3, 1))
    few = accuracy(np.array([1.0, 2.0, 4.0]), np.zeros(3), np.array([1.0, 2.0, 3.0]), one)
    assert np.isnan(few.lower) and 0.9 < few.correlation < 1
    flat = accuracy(np.array([1.0, 2.0, 4.0]), np.zeros(3), np.zeros(3), one)
    assert np.isnan(flat.correlation) and np.isnan(flat.slope)
    assert np.isnan(accuracy(np.ones(3), np.zeros(3), np.zeros(3), one).r2)
    # equal numbers whose mean rounds to another
    y, equal, ones = np.random.default_rng(0).standard_normal(50), np.full(50, 0.1), np.ones((50, 1))
    assert equal.mean() != 0.1
    assert np.isnan(accuracy(equal, y, y, ones).r2)
    assert np.isnan(accuracy(y, equal, np.zeros(50), ones).correlation)
    assert np.isnan(accuracy(y, np.zeros(50), equal, ones).slope)
    with pytest.raises(ValueError, match=r"fixed: expected \(3,\), found \(2,\)"):
        accuracy(np.ones(3), np.zeros(2), np.zeros(3), one)


def test_variants_that_do_not_vary_carry_no_effect():
    cohort = make_cohort(60, 90, 1, seed=3)
    genotypes = replace(cohort.genotypes, inv_sd=np.where(np.arange(90) % 7 == 0, 0.0, cohort.genotypes.inv_sd))
    covariance = make_covariance(make_products(genotypes, "cpu", np.float64))
    found = effects(np.array([1.0, 2.0]), cohort.y, cohort.X, covariance, tol=TIGHT)
    stored = variant_effects(covariance, found.theta, found.Py)
    assert set(stored.nonzero()[0]) == {j for j in range(90) if j % 7}


def test_a_preconditioner_of_the_callers_own_serves_effects_and_reliability(cohorts):
    cohort = cohorts[2]
    arguments = (cohort.theta, cohort.X, cohort.Ks)
    V = sum(t * K for t, K in zip(cohort.theta, [*cohort.Ks, np.eye(cohort.n)], strict=True))
    inverse, probes = np.linalg.inv(V), exact_probes(cohort.n).trace
    found = effects(cohort.theta, cohort.y, *arguments[1:], preconditioner=lambda B: inverse @ B)
    plain = effects(cohort.theta, cohort.y, *arguments[1:])
    assert found.iterations < plain.iterations / 3
    np.testing.assert_allclose(found.random, plain.random, rtol=1e-3, atol=1e-5)
    found, plain = (reliability(*arguments, probes, preconditioner=own, tol=1e-9) for own in (inverse, None))
    np.testing.assert_allclose(found.pev, plain.pev, rtol=1e-6)
