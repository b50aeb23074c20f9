"""Soft grouping: its gradient against finite differences of dense REML, its steps, and what it learns."""

from dataclasses import replace

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, pack, standardise, to_dense
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import CountingCovariance, FitSettings, ProbeSettings, SolverSettings, draw_probes, exact_probes
from gpu_reml.reml.engines.reduced_fit import answering
from gpu_reml.reml.engines.reduced_model import first_model, prepare
from gpu_reml.reml.studies.memberships import (
    check_memberships,
    gradient_within,
    group_covariance,
    group_sizes,
    membership_gradient,
    moved,
    norms_left,
    random_memberships,
)
from gpu_reml.reml.studies.relax import NoFit, RelaxHooks, RelaxSettings, RelaxStatus, fitted, outer_record, relax
from gpu_reml.reml.traits import one_trait
from gpu_reml.validation import dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import make_cohort, simulate_counts

TIGHT = FitSettings(
    tol=1e-12, solver=SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13)
)
THETA = np.array([9.0, 5.0, 0.0, 20.0])


@pytest.fixture(scope="module")
def small():
    """Few variants, one of them monomorphic, so that every part of the gradient is visible."""
    cohort = make_cohort(90, 60, 2, seed=3)
    rng = np.random.default_rng(0)
    counts = simulate_counts(90, 60, rng)
    counts[:, 7] = 1
    cohort.genotypes = standardise([pack(counts)], 90)
    return cohort, to_dense(cohort.genotypes), random_memberships(60, 3, 0.1, 1.0, seed=1)


def dense_gradient(cohort, Z, T, theta, at):
    """Central differences of the dense log-likelihood in some entries of T."""

    def value(T):
        return dense.dense_loglik(theta, cohort.y, cohort.X, [dense.kernel(Z, T[:, g]) for g in range(T.shape[1])])

    out, h = [], 1e-5
    for entry in at:
        shift = np.zeros_like(T)
        shift[entry] = h
        out.append((value(T + shift) - value(T - shift)) / (2 * h))
    return np.array(out)


def test_the_gradient_is_that_of_the_dense_log_likelihood(small):
    cohort, Z, T = small
    products = CpuProducts(cohort.genotypes, np.float64)
    found = membership_gradient(cohort.y, cohort.X, products, T, THETA, exact_probes(cohort.n), TIGHT)
    at = [(j, g) for j in (0, 7, 20, 41, 59) for g in range(3)]
    expected = dense_gradient(cohort, Z, T, THETA, at)
    np.testing.assert_allclose([found[entry] for entry in at], expected, atol=1e-5 * np.abs(expected).max())
    assert (found[7] == 0).all() and (found[:, 2] == 0).all() and np.abs(found[:, 0]).max() > 0.1
    np.testing.assert_allclose((T * found).sum(axis=0), 0, atol=1e-9)


def test_random_probes_err_little_around_the_exact_gradient_and_not_on_average(small):
    cohort, Z, T = small
    products = CpuProducts(cohort.genotypes, np.float64)
    at = (cohort.y, cohort.X, products, T, THETA)
    exact, covariance_of_groups = membership_gradient(*at, exact_probes(cohort.n), TIGHT), group_covariance(products, T)
    traits, covariance = one_trait(cohort.y, cohort.X, covariance_of_groups), CountingCovariance(covariance_of_groups)
    errors = []
    for seed in range(40):
        probes, settings = draw_probes(cohort.n, 16, 0, seed), replace(TIGHT, probes=ProbeSettings(first=16))
        problem, theta = prepare(covariance, traits, probes, settings), THETA / traits.scales[0] ** 2
        model = answering(problem, first_model(problem, probes), theta)
        assert model.exact  # which leaves nothing to the probes, unless they are asked
        args = theta, norms_left(covariance, problem.Q), group_sizes(products, T)
        np.testing.assert_allclose(gradient_within(problem, model, *args), exact, atol=1e-8 * np.abs(exact).max())
        errors.append(gradient_within(problem, model._replace(exact=False), *args) - exact)
    errors = np.array(errors)
    # plain Hutchinson errs by sqrt(2 / s) of z_j'P z_j
    P = dense.projection(THETA, cohort.y, cohort.X, [dense.kernel(Z, T[:, g]) for g in range(3)]).P
    plain = np.sqrt(2 / 16) * np.einsum("ij,ik,kj->j", Z, P, Z)[:, None] * THETA[:-1] / (2 * T.sum(axis=0))
    assert np.sqrt(np.mean(errors**2)) <= 0.5 * np.sqrt(np.mean(plain**2))
    assert np.abs(errors.mean(axis=0)).max() <= 5 * errors.std(axis=0).max() / np.sqrt(40)


def test_memory_for_few_columns_at_once_gives_the_same_gradient(small):
    cohort, _, T = small
    products = CpuProducts(cohort.genotypes, np.float64)
    at = (cohort.y, cohort.X, products, T, THETA, draw_probes(cohort.n, 40, 30, 0))
    whole = membership_gradient(*at, TIGHT)
    few = replace(TIGHT, probes=replace(TIGHT.probes, columns=7))
    np.testing.assert_allclose(membership_gradient(*at, few), whole, atol=1e-8)


def test_a_step_stays_on_the_simplex_however_large_and_keeps_zeros():
    T = np.array([[0.5, 0.3, 0.2], [0.0, 0.4, 0.6], [1.0, 0.0, 0.0]])
    gradient = np.array([[1.0, 2.0, 3.0], [9.0, 1.0, -1.0], [0.0, 5.0, 5.0]])
    with np.errstate(divide="ignore"):
        logs = np.log(T)
    np.testing.assert_allclose(
        np.exp(moved(logs, gradient, 0.1)), T * np.exp(0.1 * gradient) / (T * np.exp(0.1 * gradient)).sum(1)[:, None]
    )
    for rate in (1e6, -1e6):
        far = np.exp(moved(logs, gradient, rate))
        np.testing.assert_allclose(far.sum(axis=1), 1)
        assert (far[T == 0] == 0).all()
    assert np.exp(moved(logs, gradient, 1e6))[0].tolist() == [0, 0, 1]


def test_random_memberships_are_shares_of_uniform_numbers():
    T = random_memberships(2000, 3, 0.5, 1.0, seed=4)
    np.testing.assert_allclose(T.sum(axis=1), 1)
    assert 0.5 / 2.5 <= T.min() and T.max() <= 1 / 2
    assert (T == random_memberships(2000, 3, 0.5, 1.0, seed=4)).all()
    with pytest.raises(ValueError, match="0 <= low < high"):
        random_memberships(10, 2, 1.0, 0.5)


@pytest.mark.parametrize(
    ("T", "message"),
    [
        (np.full((5, 2), 0.5), "nothing tells them apart"),
        (np.ones((5, 1)), "2 groups or more"),
        (np.ones((4, 2)), r"\(5, 2 groups or more\)"),
        (np.array([[1, 0]] * 3 + [[0, 0], [0, 1]]), "variant 3: .* not all 0"),
        (np.array([[1, 0], [-1, 2], [0, 1], [0, 1], [0, 1]]), "variant 1"),
        (np.array([[1, 0], [1, 2], [np.nan, 1], [0, 1], [0, 1]]), "variant 2"),
    ],
)
def test_what_is_no_membership_is_refused(T, message):
    with pytest.raises(ValueError, match=message):
        check_memberships(T, 5)


def test_rows_are_scaled_to_one():
    np.testing.assert_allclose(check_memberships(np.array([[2, 6], [1, 0]]), 2), [[0.25, 0.75], [1, 0]])


def sparse_trait(n=500, m=160, causal_share=0.2, seed=1):
    """A phenotype to which a fifth of the variants contribute."""
    rng = np.random.default_rng(seed)
    genotypes = standardise([pack(simulate_counts(n, m, rng, ld=0.0))], n)
    Z = to_dense(genotypes)
    causal = rng.random(m) < causal_share
    genetic = Z @ np.where(causal, rng.standard_normal(m), 0)
    y = 3 * (genetic / genetic.std() + rng.standard_normal(n))
    return genotypes, Z, causal, y, np.ones((n, 1))


@pytest.fixture(scope="module")
def learned():
    genotypes, Z, causal, y, X = sparse_trait()
    start = random_memberships(len(causal), 2, seed=0)
    records = []
    result = relax(
        y,
        X,
        CpuProducts(genotypes),
        start,
        draw_probes(len(y), 32, 30, 0),
        RelaxSettings(outer_iterations=8),
        hooks=RelaxHooks(records.append),
    )
    return Z, causal, y, X, start, result, records


def test_the_likelihood_rises_with_every_accepted_step_and_the_groups_learn_who_matters(learned):
    _, causal, _, _, start, result, records = learned
    accepted = [record for record in result.history if record.accepted]
    assert tuple(records) == result.history and result.num_accepted == len(accepted) - 1 >= 3
    logliks = [record.loglik for record in accepted]
    assert logliks == sorted(logliks) and abs(logliks[0] + result.gain - logliks[-1]) < 1e-9
    assert logliks[-1] > logliks[0] + 20
    active = int(np.argmax(result.fit.theta[:-1] / result.group_sizes))
    T = result.memberships
    np.testing.assert_allclose(T.sum(axis=1), 1)
    before, after = (M[causal, active].mean() - M[~causal, active].mean() for M in (start, T))
    assert abs(before) < 0.1 and after > 0.4
    np.testing.assert_allclose(result.group_sizes, T.sum(axis=0))


def test_the_last_fit_is_the_dense_fit_at_the_learned_memberships(learned):
    Z, _, y, X, _, result, _ = learned
    expected = exact_reml(y, X, [dense.kernel(Z, result.memberships[:, g]) for g in range(2)])
    found = result.fit
    assert (np.abs(found.theta - expected.theta) <= 4 * found.mc_se + 0.02 * found.se).all()
    assert abs(found.loglik - expected.loglik) <= 4 * found.loglik_mc_se + 0.01


def test_the_gain_of_a_whole_search_is_that_of_dense_matrices_within_its_error(learned):
    Z, _, y, X, start, result, _ = learned
    first, last = dense_values(y, X, Z, [(start, result.history[0].theta), (result.memberships, result.fit.theta)])
    assert 0 < result.gain_mc_se < 2 and abs(result.gain - (last - first)) <= 4 * result.gain_mc_se


def test_a_search_whose_basis_is_full_makes_a_new_one_and_goes_on(monkeypatch):
    genotypes, Z, _, y, X = sparse_trait(300, 80)
    start, probes = random_memberships(80, 2, seed=0), draw_probes(300, 16, 0, 0)
    made = []

    def counted(*arguments):
        made.append(first_model(*arguments))
        return made[-1]

    monkeypatch.setattr("gpu_reml.reml.studies.relax.first_model", counted)
    gains, sizes = [], []
    for most in (75, 1000):
        made.clear()
        settings = FitSettings(solver=SolverSettings(most_basis=most))
        result = relax(y, X, CpuProducts(genotypes), start, probes, RelaxSettings(4, 0.02, fit=settings))
        assert result.num_accepted == 3
        gains.append(result.gain), sizes.append(len(made))
        first, last = dense_values(y, X, Z, [(start, result.history[0].theta), (result.memberships, result.fit.theta)])
        assert abs(result.gain - (last - first)) <= 4 * result.gain_mc_se + 0.01
    assert sizes[0] > 1 == sizes[1]


def test_rejected_steps_halve_the_rate_and_enough_of_them_end_the_search():
    genotypes, _, _, y, X = sparse_trait(200, 60)
    start = random_memberships(60, 2, seed=0)
    # so large a rate that every variant goes whole to one group, which no likelihood likes
    settings = RelaxSettings(outer_iterations=9, rate=1e9, trials=2)
    result = relax(y, X, CpuProducts(genotypes), start, draw_probes(200, 24, 20, 0), settings)
    rejected = [record for record in result.history if not record.accepted]
    assert result.status is RelaxStatus.NO_GAIN and len(rejected) >= 2
    assert [not record.accepted for record in result.history[-2:]] == [True, True]
    np.testing.assert_allclose(result.history[-1].rate, result.history[-2].rate / 2)
    best = max((record for record in result.history if record.accepted), key=lambda record: record.loglik)
    np.testing.assert_allclose(result.fit.theta, best.theta, atol=0.2 * result.fit.se.max())


@pytest.mark.parametrize(("n", "m", "seed"), [(300, 80, 0), (300, 80, 1), (400, 600, 0)])
def test_fitting_the_same_memberships_again_gains_nothing(n, m, seed):
    genotypes, _, _, y, X = sparse_trait(n, m)
    start = random_memberships(m, 2, seed=0)
    nowhere = RelaxSettings(outer_iterations=3, rate=1e-14)
    result = relax(y, X, CpuProducts(genotypes), start, draw_probes(n, 16, 20, seed), nowhere)
    gains = [record.gain for record in result.history[1:]]
    assert len(gains) == 2 and np.abs(gains).max() <= 1e-3 and abs(gains[-1]) <= 1e-4


def dense_values(y, X, Z, points):
    """Dense log-likelihoods at memberships and theta."""
    kernels = [[dense.kernel(Z, w) for w in T.T] for T, _ in points]
    return np.array([dense.dense_loglik(theta, y, X, K) for (_, theta), K in zip(points, kernels, strict=True)])


def searched(monkeypatch, *arguments):
    """A search, and the (memberships, theta) of its fits."""
    memberships = []

    def remembered(outer, trial, *rest):
        memberships.append(np.exp(trial.logs))
        return outer_record(outer, trial, *rest)

    monkeypatch.setattr("gpu_reml.reml.studies.relax.outer_record", remembered)
    result = relax(*arguments)
    return result, [(T, np.array(record.theta)) for T, record in zip(memberships, result.history, strict=True)]


def test_with_exact_probes_every_ascent_is_accepted_and_gains_are_those_of_dense_matrices(monkeypatch):
    genotypes, Z, _, y, X = sparse_trait(120, 50)
    settings = RelaxSettings(outer_iterations=4, rate=1e-4, fit=TIGHT)
    start, products = random_memberships(50, 2, seed=0), CpuProducts(genotypes, np.float64)
    result, points = searched(monkeypatch, y, X, products, start, exact_probes(120, 20), settings)
    values = dense_values(y, X, Z, points)
    rises = np.diff(values)
    assert (rises > 0).all() and rises.max() < 0.05  # small, and up
    assert all(record.accepted for record in result.history)
    np.testing.assert_allclose([record.gain for record in result.history[1:]], rises, rtol=1e-5)
    np.testing.assert_allclose([record.loglik for record in result.history], values, rtol=1e-9)
    assert [record.gain_mc_se for record in result.history[1:]] == [0, 0, 0]
    np.testing.assert_allclose(result.gain, rises.sum(), rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_random_probes_small_ascents_are_seen_and_their_stated_errors_hold(monkeypatch, seed):
    genotypes, Z, _, y, X = sparse_trait(400, 100)
    start, products = random_memberships(100, 2, seed=0), CpuProducts(genotypes)
    settings = RelaxSettings(outer_iterations=4, rate=2e-3)
    result, points = searched(monkeypatch, y, X, products, start, draw_probes(400, 24, 30, seed), settings)
    rises = np.diff(dense_values(y, X, Z, points))
    gains, errors = (
        np.array([getattr(record, name) for record in result.history[1:]]) for name in ("gain", "gain_mc_se")
    )
    assert all(record.accepted for record in result.history) and (rises > 0).all() and rises.max() < 1
    assert (np.abs(gains - rises) <= 4 * errors + 2e-3).all() and (errors < 0.1 * rises).all()


def test_a_step_that_cannot_be_fitted_is_rejected_and_says_why(monkeypatch):
    genotypes, _, _, y, X = sparse_trait(200, 60)
    start, probes = random_memberships(60, 2, seed=0), draw_probes(200, 16, 0, 0)
    calls = []

    def fails(*arguments):
        calls.append(arguments)
        return NoFit.ALIKE if len(calls) == 2 else fitted(*arguments)

    monkeypatch.setattr("gpu_reml.reml.studies.relax.fitted", fails)
    settings = RelaxSettings(outer_iterations=4, rate=0.02)
    history = relax(y, X, CpuProducts(genotypes), start, probes, settings).history
    assert [record.accepted for record in history] == [True, True, False, True]
    assert "told apart" in history[2].status and np.isnan(history[2].gain)
    search, _, best = calls[-1]
    tried = [np.column_stack([1 - w, w]) for w in (np.full(60, 0.01), np.full(60, 0.5))]
    assert [fitted(search, np.log(T), best) for T in tried] == [NoFit.EMPTY, NoFit.ALIKE]


def test_a_search_on_devices_is_that_of_the_cpu():
    genotypes, _, _, y, X = sparse_trait(200, 60)
    start, probes = random_memberships(60, 2, seed=0), draw_probes(200, 16, 20, 0)
    settings = RelaxSettings(outer_iterations=3, rate=0.02)
    devices = make_device_products(genotypes, [HostDevice(label=f"device {d}") for d in range(2)])
    one, two = (relax(y, X, products, start, probes, settings) for products in (CpuProducts(genotypes), devices))
    np.testing.assert_allclose(one.memberships, two.memberships, atol=1e-3)
    for here, there in zip(one.history, two.history, strict=True):
        assert abs(here.loglik - there.loglik) <= 2e-3
    assert one.gain > 0.1 and abs(one.gain - two.gain) <= 2e-3


def test_a_given_rate_is_tried_anew_after_every_accepted_step():
    genotypes, _, _, y, X = sparse_trait(200, 60)
    start = random_memberships(60, 2, seed=0)
    settings = RelaxSettings(outer_iterations=3, rate=1e-3)
    result = relax(y, X, CpuProducts(genotypes), start, draw_probes(200, 24, 20, 0), settings)
    assert result.status is RelaxStatus.OUTER_LIMIT
    assert [record.rate for record in result.history] == [0.0, 1e-3, 1e-3]
    assert all(record.accepted for record in result.history)
    assert np.abs(result.memberships - start).max() < 0.1


def test_a_group_without_variants_is_refused_at_the_start():
    genotypes, _, _, y, X = sparse_trait(200, 60)
    T = np.column_stack([np.full(60, 0.999), np.full(60, 0.001)])
    with pytest.raises(ValueError, match=r"group 1 has 0\.06 of the variants"):
        relax(y, X, CpuProducts(genotypes), T, draw_probes(200, 8, 0, 0))
