"""Scaled components and residual diagonals against dense formulas that know nothing of whitening or layouts."""

import numpy as np
import pytest

from gpu_reml import ops
from gpu_reml.ops.block_covariance import make_block_covariance
from gpu_reml.reml import (
    FitSettings,
    ProbeSettings,
    SolverSettings,
    average_information,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
    haseman_elston,
    loglik,
    score,
)
from gpu_reml.reml.covariance import FunctionCovariance, MixedCovariance, dense_covariance
from gpu_reml.reml.residuals import with_residuals
from gpu_reml.reml.scaled import ScaledCovariance
from gpu_reml.validation import dense
from gpu_reml.validation.small import make_cohort

N = 150
TIGHT = FitSettings(
    tol=1e-10, solver=SolverSettings(y=1e-10, probes=1e-10, information=1e-8, final=1e-10, quadrature=1e-12)
)


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(N, 400, 2, seed=4)


@pytest.fixture(scope="module")
def ancestry():
    return np.random.default_rng(3).dirichlet([1.0, 0.7, 0.5], N)


def diagonals_of(kind, ancestry):
    rng = np.random.default_rng(11)
    if kind == "known weights":
        return rng.uniform(0.3, 2.5, (N, 1))
    if kind == "identity beside noise of an environment":
        return np.column_stack([rng.standard_normal(N) ** 2, np.ones(N)])
    if kind == "groups":
        group = rng.integers(0, 3, N)
        return (group[:, None] == np.arange(3)).astype(float)
    if kind == "ancestries that are never zero":
        return ancestry
    sparse = np.where(ancestry < 0.1, 0.0, ancestry)
    return sparse / sparse.sum(axis=1, keepdims=True)


KINDS = [
    "known weights",
    "identity beside noise of an environment",
    "groups",
    "ancestries that are never zero",
    "ancestries",
]


def stationary(result, y, X, Ks, diagonals, names):
    """Whether dense formulas find the maximum where the fit did: scores in standard errors, zero or pushing out."""
    order = [names.index(name) for name in result.residual_names]
    every = [*Ks, *(np.diag(diagonals[:, j]) for j in order)]
    theta = np.append(result.theta, 0.0)
    ai = dense.dense_average_information(theta, y, X, every)[:-1, :-1]
    score = dense.dense_score(theta, y, X, every)[:-1] / np.sqrt(np.diag(ai))
    assert (np.abs(score[~result.at_bound]) < 2e-5).all() and (score[result.at_bound] < 1e-4).all()
    assert result.loglik == pytest.approx(dense.dense_loglik(theta, y, X, every), abs=1e-6)
    np.testing.assert_allclose(result.information, ai, rtol=1e-4, atol=1e-9 * np.diag(ai).max())
    at = dense.projection(theta, y, X, every)
    np.testing.assert_array_less(
        np.abs(result.fixed_effects.estimate - at.fixed_effects), 3e-4 * result.fixed_effects.se
    )
    np.testing.assert_allclose(result.fixed_effects.covariance, at.fixed_effects_cov, rtol=1e-4)
    V = sum(t * np.trace(K) / N for t, K in zip(result.theta, every, strict=True))
    genetic = sum(t * np.trace(K) / N for t, K in zip(result.theta, Ks, strict=False))
    assert result.h2.estimate[-1] == pytest.approx(genetic / V, rel=1e-9)
    assert result.vp.estimate[0] == pytest.approx(V, rel=1e-9)


def best_without_genes(y, X, diagonals):
    """Largest log-likelihood with residuals only, by a general optimiser."""
    from scipy import optimize

    def cost(log_eta):
        return -dense.dense_loglik(np.append(np.exp(log_eta), 0.0), y, X, [np.diag(r) for r in diagonals.T])

    start = np.full(diagonals.shape[1], np.log(np.var(y) / 2))
    return -optimize.minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).fun


@pytest.mark.parametrize("engine", ["exact", "stochastic"])
@pytest.mark.parametrize("kind", KINDS)
def test_fits_with_any_residual_end_at_the_dense_maximum(cohort, ancestry, kind, engine):
    diagonals = diagonals_of(kind, ancestry)
    names = [f"noise_{j}" for j in range(diagonals.shape[1])]
    y = cohort.y * np.sqrt(diagonals.sum(axis=1))
    model = with_residuals(dense_covariance(cohort.Ks), diagonals, names)
    if engine == "exact":
        result = fit_exact(y, cohort.X, model)
    else:
        result = fit(y, cohort.X, model, exact_probes(N, 20, 0), TIGHT)
    stationary(result, y, cohort.X, cohort.Ks, diagonals, names)
    assert result.loglik_null == pytest.approx(best_without_genes(y, cohort.X, diagonals), abs=1e-4)
    assert set(result.residual_names) == set(names)


def test_one_component_with_known_weights_keeps_the_single_lanczos_run(cohort):
    weights = np.random.default_rng(5).uniform(0.2, 3, (N, 1))
    y = cohort.y * np.sqrt(weights[:, 0])
    result = fit(y, cohort.X, with_residuals(dense_covariance(cohort.Ks[:1]), weights), exact_probes(N, 0, 0), TIGHT)
    assert result.method == "krylov"
    stationary(result, y, cohort.X, cohort.Ks[:1], weights, ["residual"])


def test_a_constant_diagonal_is_the_identity_and_nothing_is_whitened(cohort):
    plain = fit_exact(cohort.y, cohort.X, cohort.Ks)
    model = with_residuals(dense_covariance(cohort.Ks), np.full((N, 1), 1.0))
    assert model.layout.root is None
    same = fit_exact(cohort.y, cohort.X, model)
    np.testing.assert_allclose(same.theta, plain.theta, rtol=1e-10)
    doubled = fit_exact(cohort.y, cohort.X, with_residuals(dense_covariance(cohort.Ks), np.full((N, 1), 2.0)))
    np.testing.assert_allclose(doubled.theta * [1, 1, 2], plain.theta, rtol=1e-8)
    assert doubled.loglik == pytest.approx(plain.loglik, abs=1e-8)


def test_known_weights_in_haseman_elston_are_those_of_the_whitened_moments(cohort):
    weights = np.random.default_rng(5).uniform(0.2, 3, (N, 1))
    root = np.sqrt(weights[:, 0])
    model = with_residuals(dense_covariance(cohort.Ks), weights)
    found = haseman_elston(cohort.y * root, cohort.X, model, exact_probes(N, 0, 0))
    scaled = [K / np.outer(root, root) for K in cohort.Ks]
    oracle = haseman_elston(cohort.y, cohort.X / root[:, None], scaled, exact_probes(N, 0, 0))
    np.testing.assert_allclose(found.theta, oracle.theta, rtol=1e-8)
    with pytest.raises(ValueError, match="one residual"):
        haseman_elston(
            cohort.y, cohort.X, with_residuals(dense_covariance(cohort.Ks), np.eye(N, 2) + 1), exact_probes(N, 0, 0)
        )


def test_a_start_is_in_the_order_and_units_of_the_report(cohort, ancestry):
    model = with_residuals(dense_covariance(cohort.Ks), ancestry, ["a", "b", "c"])
    first = fit_exact(cohort.y, cohort.X, model)
    again = fit_exact(cohort.y, cohort.X, model, start=first.theta)
    assert len(again.history) <= 2 < len(first.history)
    np.testing.assert_allclose(again.theta, first.theta, rtol=1e-5)
    with pytest.raises(ValueError, match="a value for each of component_000, component_001, "):
        fit_exact(cohort.y, cohort.X, model, start=first.theta[:-1])


@pytest.fixture(scope="module")
def genotypes():
    """Packed genotypes, their dense Z, and two GRMs' weights."""
    counts = np.random.default_rng(9).binomial(2, 0.3, (N, 300)).astype(np.int8)
    counts[3, 5] = -127
    packed = ops.standardise([ops.pack(counts)], N)
    return packed, dense.standardised(counts)


def test_scaled_genotypes_are_scaled_kernels(genotypes, ancestry):
    packed, Z = genotypes
    weights = np.zeros((300, 2))
    weights[:200, 0], weights[100:, 1] = 1, 1
    base = ops.make_covariance(ops.make_products(packed, "cpu", np.float64), weights, ["u", "v"])
    s = np.sqrt(ancestry[:, 0])
    scaled = ScaledCovariance(base, s)
    kernels = [s[:, None] * dense.kernel(Z, w) * s for w in weights.T]
    B = np.random.default_rng(0).standard_normal((N, 3))
    F = scaled.features(B)
    theta = np.array([0.3, 0.7])
    np.testing.assert_allclose(scaled.apply(theta, B), 0.3 * kernels[0] @ B + 0.7 * kernels[1] @ B, atol=1e-10)
    np.testing.assert_allclose(scaled.traces, [np.trace(K) for K in kernels], rtol=1e-10)
    np.testing.assert_allclose(scaled.diagonals(), np.column_stack([np.diag(K) for K in kernels]), atol=1e-12)
    for K, inner, gram, core, image in zip(
        kernels, scaled.inner(F, F), scaled.gram(F), scaled.core(B), scaled.apply_each(F), strict=True
    ):
        np.testing.assert_allclose(image, K @ B, atol=1e-10)
        np.testing.assert_allclose(inner, np.einsum("nk,nk->k", B, K @ B), rtol=1e-9)
        np.testing.assert_allclose(gram, B.T @ K @ B, atol=1e-9)
        np.testing.assert_allclose(core, B.T @ K @ B, atol=1e-9)


def test_everything_at_once_equals_the_dense_maximum(genotypes, ancestry):
    """Two SMILE groups, annotations, ancestries with residuals of their own, an environment, an own function."""
    packed, Z = genotypes
    rng = np.random.default_rng(21)
    weights = np.column_stack([np.ones(300), rng.uniform(0, 2, 300)])
    base = ops.make_covariance(ops.make_products(packed, "cpu", np.float64), weights, ["grm", "annotation"])
    one = ops.make_covariance(ops.make_products(packed, "cpu", np.float64), None, ["grm"])
    environment = rng.standard_normal(N)
    house = np.kron(np.eye(N // 3), np.ones((3, 3)))
    user = FunctionCovariance([house.__matmul__], [N], N, ["house"], diagonals=np.ones((N, 1)))
    roots = [rng.standard_normal((size, 12)) for size in (80, 70, 150)]
    blocks = [root @ root.T / 12 for root in roots]
    smile = make_block_covariance(ops.make_products(packed, "cpu", np.float64), [blocks[:2], blocks[2:]], ["s0", "s1"])
    parts = [
        smile,
        base,
        *(ScaledCovariance(one, np.sqrt(q), [f"ancestry_{a}"]) for a, q in enumerate(ancestry.T)),
        ScaledCovariance(one, environment, ["grm x env"]),
        user,
    ]
    K, K2 = dense.kernel(Z), dense.kernel(Z, weights[:, 1])
    halves = [Z[:, :150], Z[:, 150:]]
    S0 = sum(z @ W @ z.T for z, W in zip((Z[:, :80], Z[:, 80:150]), blocks[:2], strict=True))
    S1 = halves[1] @ blocks[2] @ halves[1].T
    Ks = [
        S0 * N / np.trace(S0),
        S1 * N / np.trace(S1),
        K,
        K2,
        *(np.sqrt(np.outer(q, q)) * K for q in ancestry.T),
        np.outer(environment, environment) * K,
        house,
    ]
    X = np.column_stack([np.ones(N), environment])
    L = np.linalg.cholesky(sum(0.2 * k for k in Ks) + np.diag(ancestry @ [0.5, 1.0, 1.5]))
    y = X @ [3.0, 0.5] + L @ rng.standard_normal(N)
    model = with_residuals(MixedCovariance(parts), ancestry, ["res_0", "res_1", "res_2"])
    exact = fit_exact(y, X, model)
    stationary(exact, y, X, Ks, ancestry, ["res_0", "res_1", "res_2"])
    stochastic = fit(y, X, model, exact_probes(N, 15, 1), TIGHT)
    np.testing.assert_allclose(stochastic.theta, exact.theta, atol=2e-4 * np.nanmax(exact.se))
    assert stochastic.names == (
        "s0",
        "s1",
        "grm",
        "annotation",
        "ancestry_0",
        "ancestry_1",
        "ancestry_2",
        "grm x env",
        "house",
    )


def test_probe_errors_are_those_of_what_is_reported(cohort, ancestry):
    """With random probes a fit stays within its Monte-Carlo error of the exact one."""
    model = with_residuals(dense_covariance(cohort.Ks), ancestry)
    exact = fit_exact(cohort.y, cohort.X, model)
    z, small = [], FitSettings(solver=SolverSettings(most_basis=126), probes=ProbeSettings(mc_target=10))
    for seed in range(6):
        found = fit(cohort.y, cohort.X, model, draw_probes(N, 20, 0, seed), small)
        free = found.mc_se > 0
        z.extend(((found.theta - exact.theta) / (found.mc_se + 0.02 * exact.se))[free])
        assert found.mc_ratio > 0
    assert np.abs(z).max() < 4.5 and np.mean(np.abs(z) < 2) > 0.8


@pytest.mark.parametrize(
    ("diagonals", "names", "message"),
    [
        (np.ones(N), None, r"expected \(150, J"),
        (-np.ones((N, 1)), None, "values >= 0; sample 0"),
        (np.column_stack([np.arange(N) > 4, np.arange(N) > 9]), None, "sample 0 has no residual variance"),
        (np.ones((N, 2)), ["one"], "2 names"),
        (np.eye(N, 2) * [1, 0] + [1, 0], ["all", "none"], "residual none: is zero for all samples; leave it out"),
        (np.column_stack([np.ones(N), np.full(N, 2.0)]), ["a", "b"], "residual b: is a combination of a, so"),
        (np.column_stack([np.arange(N) < 9, np.arange(N) > 8, np.ones(N)]), list("abc"), "c: is a combination of a, b"),
    ],
)
def test_impossible_residuals_are_refused(cohort, diagonals, names, message):
    with pytest.raises(ValueError, match=message):
        with_residuals(dense_covariance(cohort.Ks), diagonals, names)


def test_the_null_is_at_its_maximum_whatever_the_limit_of_the_fit(cohort, ancestry):
    model = with_residuals(dense_covariance(cohort.Ks), ancestry)
    expected = fit_exact(cohort.y, cohort.X, model).loglik_null
    few = FitSettings(max_iterations=1)
    for found in (
        fit_exact(cohort.y, cohort.X, model, few, strict=False),
        fit(cohort.y, cohort.X, model, draw_probes(N, 20, 0), few, strict=False),
    ):
        assert not found.converged and found.loglik_null == pytest.approx(expected, abs=1e-8)


def test_the_null_is_that_of_groups_apart_where_their_variances_are_far_apart():
    """Beside groups no identity is estimated, so that one of them may have hardly any variance."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.eye(2), [60, 90], axis=0)
    y = rng.standard_normal(150) * (groups @ [0.05, 2.0])
    found = fit_exact(y, groups, with_residuals(dense_covariance([np.cov(rng.standard_normal((150, 300)))]), groups))
    rest = (y - groups @ np.linalg.lstsq(groups, y, rcond=None)[0]) ** 2
    expected = 0.0
    for group in groups.T:
        df = group.sum() - 1
        expected -= df / 2 * (np.log(rest @ group / df) + 1 + np.log(2 * np.pi))
    assert found.loglik_null == pytest.approx(expected, abs=1e-6)


def test_residuals_are_given_once_and_last(cohort):
    """A layout within another would be lost, and the fit that of a model nobody asked for."""
    base = dense_covariance(cohort.Ks[:1], ["k"])
    model = with_residuals(base, np.arange(1.0, N + 1)[:, None])
    for build in (
        lambda: with_residuals(model, np.arange(1.0, N + 1)[:, None]),
        lambda: ScaledCovariance(model, np.arange(1.0, N + 1)),
        lambda: fit_exact(cohort.y, cohort.X, [model, cohort.Ks[1]]),
    ):
        with pytest.raises(ValueError, match=r"found those of with_residuals \(k\); scale and mix components before"):
            build()
    for function in (loglik, score, average_information):
        with pytest.raises(ValueError, match="expected genetic components beside one identity residual"):
            function(np.ones(2), cohort.y, cohort.X, model)


def test_an_operator_without_diagonals_is_refused_with_the_remedy_where_they_are_needed(cohort):
    bare = FunctionCovariance([cohort.Ks[0].__matmul__], [np.trace(cohort.Ks[0])], N)
    with pytest.raises(ValueError, match="give FunctionCovariance"):
        fit(cohort.y, cohort.X, with_residuals(bare, np.arange(1.0, N + 1)[:, None]), exact_probes(N, 0, 0))
    with pytest.raises(ValueError, match=r"diagonals: expected \(150, 1\), a column for each function"):
        FunctionCovariance([cohort.Ks[0].__matmul__], [N], N, diagonals=np.ones(N))
