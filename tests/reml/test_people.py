"""Traits that not everybody has: each as dense REML has it among its own people, from one covariance of all."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_reml.ops import make_covariance
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import FitSettings, Status, draw_probes, exact_probes, fit, fit_traits, with_residuals
from gpu_reml.reml.covariance import FunctionCovariance
from gpu_reml.reml.covariance.subset import SubsetCovariance
from gpu_reml.reml.engines import krylov_people
from gpu_reml.reml.engines.restricted_probes import LOGLIK_TRUNCATION
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import covariance_of

TIGHT = FitSettings(tol=1e-10)


def with_gaps(cohort, patterns, seed=3):
    """(n, t) traits of the cohort's genetic values, nan where a pattern (n,) is False."""
    rng = np.random.default_rng(seed)
    Y = np.column_stack([cohort.y + 3 * rng.standard_normal(cohort.n) for _ in patterns])
    return np.where(np.column_stack(patterns), Y, np.nan)


def patterns_of(n, shares, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.permutation(n) < round(share * n) for share in shares]


def assert_as_dense(result, y, cohort):
    """The result is dense REML's among those who have y."""
    rows = np.flatnonzero(~np.isnan(y))
    exact = exact_reml(y[rows], cohort.X[rows], [K[np.ix_(rows, rows)] for K in cohort.Ks])
    assert result.num_samples == len(rows)
    np.testing.assert_allclose(result.theta / result.se, exact.theta / result.se, atol=1e-4)
    np.testing.assert_allclose(result.information, exact.ai, rtol=2e-3)
    np.testing.assert_allclose(result.loglik, exact.loglik, atol=1e-3)
    np.testing.assert_allclose(result.lrt.statistic, exact.lrt, atol=2e-3)
    effects = result.fixed_effects
    np.testing.assert_allclose(effects.estimate, exact.fixed_effects, atol=1e-3 * effects.se.max())
    np.testing.assert_allclose(effects.covariance, exact.fixed_effects_cov, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("num_components", [1, 3])
def test_each_trait_is_that_of_dense_reml_among_its_own_people(cohorts, num_components):
    cohort = cohorts[num_components]
    everybody = np.ones(cohort.n, bool)
    Y = with_gaps(cohort, [*patterns_of(cohort.n, (0.9, 0.8)), everybody, everybody])
    Y[:, 3] = np.where(np.isnan(Y[:, 0]), np.nan, Y[:, 3])  # the same people as the first
    found = fit_traits(Y, cohort.X, covariance_of(cohort), exact_probes(cohort.n), TIGHT)
    for result, y in zip(found, Y.T, strict=True):
        assert_as_dense(result, y, cohort)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0.3, 1.0), min_size=1, max_size=3), st.integers(0, 1000))
def test_any_pattern_of_missing_values_gives_dense_reml(cohorts, shares, seed):
    cohort = cohorts[1]
    Y = with_gaps(cohort, patterns_of(cohort.n, shares, seed), seed)
    found = fit_traits(Y, cohort.X, covariance_of(cohort), exact_probes(cohort.n), TIGHT)
    for result, y in zip(found, Y.T, strict=True):
        assert_as_dense(result, y, cohort)


@pytest.mark.parametrize("num_components", [1, 3])
def test_a_device_multiplies_for_traits_of_different_people_as_the_cpu_does(cohorts, num_components):
    cohort = cohorts[num_components]
    Y = with_gaps(cohort, patterns_of(cohort.n, (0.9, 0.85, 1.0)))
    devices = [HostDevice(label=f"device {d}") for d in range(2)]
    on_device = make_covariance(make_device_products(cohort.genotypes, devices), cohort.W)
    there, here = (fit_traits(Y, cohort.X, each, 64) for each in (on_device, covariance_of(cohort)))
    for a, b in zip(there, here, strict=True):
        np.testing.assert_allclose(a.theta / b.se, b.theta / b.se, atol=1e-3)
        np.testing.assert_allclose(a.loglik, b.loglik, atol=1e-2)


def test_every_product_of_a_subset_is_that_of_its_rows(cohorts):
    cohort = cohorts[3]
    rows = np.flatnonzero(patterns_of(cohort.n, [0.6])[0])
    among = SubsetCovariance(covariance_of(cohort), rows)
    B = np.random.default_rng(0).standard_normal((len(rows), 4))
    Ks = [K[np.ix_(rows, rows)] for K in cohort.Ks]
    theta = np.array([0.3, 0.0, 0.9])
    np.testing.assert_allclose(among.traces, [np.trace(K) for K in Ks], rtol=1e-9)
    np.testing.assert_allclose(among.apply(theta, B), sum(t * K @ B for t, K in zip(theta, Ks, strict=True)), atol=1e-9)
    F = among.features(B)
    np.testing.assert_allclose(np.stack(among.apply_each(F)), [K @ B for K in Ks], atol=1e-9)
    np.testing.assert_allclose(among.gram(F), [B.T @ K @ B for K in Ks], atol=1e-9)
    np.testing.assert_allclose(among.core(B), [B.T @ K @ B for K in Ks], atol=1e-9)
    np.testing.assert_allclose(among.apply_features(theta, F), among.apply(theta, B), atol=1e-9)
    for made, K in zip(among.matrices(), Ks, strict=True):
        np.testing.assert_allclose(np.triu(made), np.triu(K), atol=1e-9)


def test_residuals_of_groups_are_those_of_the_people_who_are_measured(cohorts):
    cohort = cohorts[1]
    groups = np.repeat(np.eye(2), [90, 60], axis=0)
    (pattern,) = patterns_of(cohort.n, [0.8])
    Y = with_gaps(cohort, [pattern])
    whole = with_residuals(covariance_of(cohort), groups)
    (found,) = fit_traits(Y, cohort.X, whole, exact_probes(cohort.n), TIGHT)
    among = SubsetCovariance(covariance_of(cohort), np.flatnonzero(pattern))
    own = with_residuals(among, groups[pattern])
    alone = fit(Y[pattern, 0], cohort.X[pattern], own, exact_probes(pattern.sum()), TIGHT)
    np.testing.assert_allclose(found.theta, alone.theta, rtol=1e-4)
    np.testing.assert_allclose(found.residual_traces, alone.residual_traces)
    np.testing.assert_allclose(found.mean_traces, alone.mean_traces)
    np.testing.assert_allclose(found.h2.se, alone.h2.se, rtol=1e-3)


def test_what_is_wrong_with_a_trait_that_not_everybody_has_names_it(cohorts):
    cohort = cohorts[1]
    covariance, nobody = covariance_of(cohort), np.zeros(cohort.n, bool)
    everybody = ~nobody
    with pytest.raises(ValueError, match=r"Y\[:, 1\]: is measured in no sample"):
        fit_traits(with_gaps(cohort, [everybody, nobody]), cohort.X, covariance)
    Y = with_gaps(cohort, patterns_of(cohort.n, [0.9, 0.9]))
    flat = Y.copy()
    flat[~np.isnan(Y[:, 1]), 1] = 3.0
    with pytest.raises(ValueError, match=r"Y\[:, 1\]: does not vary"):
        fit_traits(flat, cohort.X, covariance)
    level = np.column_stack([cohort.X, np.isnan(Y[:, 0])])  # nobody with the first trait has this level
    with pytest.raises(ValueError, match=r"X: column 3 is zero.*135 samples of Y\[:, 0\]"):
        fit_traits(Y, level, covariance)
    with pytest.raises(ValueError, match="y: value nan of sample 0 is not finite"):
        fit(np.where(np.arange(cohort.n) > 0, cohort.y, np.nan), cohort.X, covariance)
    K = cohort.Ks[0]
    with pytest.raises(ValueError, match="a trait has not all, so traces need the diagonals of the operators"):
        fit_traits(Y, cohort.X, FunctionCovariance([lambda B: K @ B], [np.trace(K)], cohort.n))


def settled_probes(monkeypatch, *, steps=4, decrement=0.0, loss=(0.0, 0.0)):
    """Whether the probes of all have settled for two traits, of which one's last step had this decrement, where their
    last step changed variances and the log-likelihood by ``loss``."""
    looked = []
    monkeypatch.setattr(krylov_people, "estimate", lambda *_, **__: None)
    monkeypatch.setattr(krylov_people, "loss_of", lambda *_: loss)
    probes = SimpleNamespace(
        run=SimpleNamespace(num_steps=steps), quadratures=lambda k: looked.append(k) or (None, None, None)
    )
    records = [[SimpleNamespace(decrement=value) for value in (1.0, 1.0, last)] for last in (0.0, decrement)]
    at = SimpleNamespace(history=tuple(map(tuple, records)), run=SimpleNamespace(measures=lambda columns: [None]))
    settled = krylov_people.probes_settled([SimpleNamespace(cohort=None)], probes, [None], [at], FitSettings())
    assert set(looked) <= {steps - 1}  # against those of the step before
    return settled


def test_probes_of_all_go_on_until_their_last_step_changed_no_trait_near_its_estimate(monkeypatch):
    assert settled_probes(monkeypatch) and not settled_probes(monkeypatch, steps=3)
    assert settled_probes(monkeypatch, decrement=0.0099) and not settled_probes(monkeypatch, decrement=0.0101)
    assert settled_probes(monkeypatch, loss=(0.0099, 0.0)) and not settled_probes(monkeypatch, loss=(0.0101, 0.0))
    at = LOGLIK_TRUNCATION
    assert settled_probes(monkeypatch, loss=(0.0, 0.99 * at)) and not settled_probes(monkeypatch, loss=(0.0, 1.01 * at))
    assert not settled_probes(monkeypatch, loss=(np.nan, 0.0))


def test_the_runs_of_fixed_effects_end_where_no_variance_moves_by_three_in_a_thousand(monkeypatch):
    variances = iter([1.0, 1.0031, 1.0061, 0.0])
    monkeypatch.setattr(krylov_people, "inverse_of", lambda *_: np.diag([next(variances), 1.0]))
    crowd = SimpleNamespace(cohort=SimpleNamespace(F=np.eye(9)[:, :2], dimension=8))
    whole = SimpleNamespace(advanced=lambda _, runs: [run._replace(edges=(*run.edges, None)) for run in runs])
    (run,) = krylov_people.settled_fixed(whole, [crowd], [[None]])
    assert run.num_steps == 3
    moving = iter(np.arange(1.0, 99.0))
    monkeypatch.setattr(krylov_people, "inverse_of", lambda *_: np.diag([next(moving), 1.0]))
    (run,) = krylov_people.settled_fixed(whole, [crowd], [[None]])
    assert run.num_steps == 8  # all that there are


@pytest.fixture(scope="module")
def gathering():
    """Two traits of far-spread eigenvalues, which take many steps, each measured in 0.9 of 400 people; and K."""
    rng = np.random.default_rng(3)
    vectors = np.linalg.qr(rng.standard_normal((400, 400)))[0]
    values = np.logspace(-3, 3, 400)
    K = (vectors * values) @ vectors.T
    Y = vectors @ (np.sqrt(values + 0.3)[:, None] * rng.standard_normal((400, 2)))
    return np.where(np.column_stack(patterns_of(400, [0.9, 0.9])), Y, np.nan), K


def test_traits_of_different_people_are_judged_at_every_step_and_later_at_every_fourth(gathering):
    Y, K = gathering
    for result in fit_traits(Y, np.ones((400, 1)), [K], draw_probes(400, 64)):
        steps = np.array([record.iteration for record in result.history])
        assert steps[-1] > 28 and set(range(2, 25)) <= set(steps) and not (steps[steps > 24] % 4).any()
        assert result.history[-1].decrement < result.history[2].decrement


def test_probes_of_all_that_have_settled_take_no_more_products(gathering):
    Y, K = gathering
    first, second = fit_traits(Y, np.ones((400, 1)), [K], draw_probes(400, 64))
    passes = np.array([record.column_passes for record in first.history])
    steps = np.array([record.iteration for record in first.history])
    a_step = np.diff(passes) / np.diff(steps)
    assert a_step[0] == 32 + 2 and a_step[-1] == 2  # probes and traits, and traits alone
    assert first.column_passes == second.column_passes > passes[-1]


def test_runs_of_different_people_that_are_cut_off_have_not_converged(gathering, monkeypatch):
    Y, K = gathering
    monkeypatch.setattr(krylov_people, "MOST_STEPS", 6)
    found = fit_traits(Y, np.ones((400, 1)), [K], draw_probes(400, 64), strict=False)
    assert [(result.status, result.history[-1].iteration) for result in found] == [(Status.SOLVER_STALLED, 6)] * 2
