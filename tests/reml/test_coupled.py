"""Traits of different people that share probes: the pieces against dense algebra, and whole fits against dense REML."""

import numpy as np
import pytest

from gpu_reml.reml import FitSettings, ProbeSettings, draw_probes, fit, fit_traits
from gpu_reml.reml.covariance import CountingCovariance, dense_covariance
from gpu_reml.reml.covariance.subset import SubsetCovariance
from gpu_reml.reml.engines.calibration import ProbeSpectra
from gpu_reml.reml.engines.coupled import (
    Added,
    Known,
    SpectraOfAll,
    Spread,
    control_weights,
    coupled,
    pooled,
    second_moments,
    usual_spread,
)
from gpu_reml.reml.engines.crowds import batches_of, gathered, met
from gpu_reml.reml.engines.krylov import LanczosRun
from gpu_reml.reml.engines.people import People, peoples_of, traits_of
from gpu_reml.reml.engines.probes_of_all import looked_at
from gpu_reml.reml.lanczos import lanczos_start, lanczos_step, ritz_measures
from gpu_reml.reml.linalg import project
from gpu_reml.reml.monte_carlo import widening
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.small import covariance_of, make_cohort

N = 90


@pytest.fixture(scope="module")
def world():
    """A positive semidefinite A (n, n), and two thirds of the people."""
    rng = np.random.default_rng(0)
    G = rng.standard_normal((N, 2 * N))
    return G @ G.T / (2 * N), rng.permutation(N) < 2 * N // 3


def test_second_moments_among_some_people_follow_from_the_images_of_all(world):
    A, inside = world
    Z = draw_probes(N, 4000, seed=2).trace.astype(float)
    values, forms = second_moments(Z, A @ Z, inside)
    exact = (A[np.ix_(inside, inside)] ** 2).sum()
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - exact) <= 4 * error and error < 0.01 * exact
    np.testing.assert_allclose(forms, np.einsum("is,is->s", Z[inside], (A @ Z)[inside]))


def test_pairs_of_few_probes_are_not_biased(world):
    A, inside = world
    Z = draw_probes(N, 6000, seed=3).trace.astype(float).reshape(N, 1500, 4)
    means = np.array([second_moments(z, A @ z, inside)[0].mean() for z in Z.transpose(1, 0, 2)])
    exact = (A[np.ix_(inside, inside)] ** 2).sum()
    assert abs(means.mean() - exact) <= 4 * means.std(ddof=1) / np.sqrt(len(means))


def test_a_run_of_all_people_tells_forms_among_some(world):
    A, inside = world
    Z = np.random.default_rng(1).standard_normal((N, 3))
    state, outside = lanczos_start(Z), []
    for _ in range(24):
        state = lanczos_step(lambda B: A @ B, state)
        outside.append(np.einsum("is,is->s", Z[~inside], state.previous[~inside])[None])
    nodes, weights, controls = control_weights(state.tridiagonal, np.stack(outside, axis=1), 0.0)
    values, vectors = np.linalg.eigh(A + 2 * np.eye(N))
    V = (vectors * np.log(values)) @ vectors.T
    within = np.where(np.outer(inside, inside), V, 0) - np.where(np.outer(~inside, ~inside), V, 0)
    found = (controls[0] * np.log(nodes + 2)).sum(axis=1)
    np.testing.assert_allclose(found, np.einsum("is,ij,js->s", Z, within, Z), rtol=1e-8)
    np.testing.assert_allclose((weights * np.log(nodes + 2)).sum(axis=1), np.einsum("is,ij,js->s", Z, V, Z), rtol=1e-8)


def steps_of(A, Z, num_steps, outside=None):
    """The tridiagonal matrices of runs from Z (n, s), and z'E q of every step (1, steps, s)."""
    state, dots = lanczos_start(Z), []
    for _ in range(num_steps):
        state = lanczos_step(lambda B: A @ B, state)
        if outside is not None:
            dots.append(np.einsum("is,is->s", Z[outside], state.previous[outside]))
    return state.tridiagonal, np.array(dots)[None]


@pytest.fixture(scope="module")
def pieces(world):
    """A and A_t beside an intercept, what is known of A_t, and probes sqrt(n) I of all with what they say of it."""
    K, inside = world
    n_t = int(inside.sum())
    A, At = (off - off.mean(axis=0) for off in (K - K.mean(axis=1, keepdims=True), among(K, inside)))
    ones = inside / np.sqrt(n_t)
    correction = (ones @ A @ ones) ** 2 - 2 * ((A @ ones)[inside] ** 2).sum()
    known = Known(n_t - 1, np.trace(At), n_t / N, np.trace(A[np.ix_(inside, inside)]), correction)
    Z = np.sqrt(N) * (np.eye(N) - 1 / N)
    found, outside = steps_of(A, Z, 30, ~inside)
    nodes, weights, controls = control_weights(found, outside, 0.0)
    moments = np.array([np.einsum("is,is->s", Z, np.linalg.matrix_power(A, b) @ Z) for b in range(5)])
    seen = np.stack([np.full(N, (A[np.ix_(inside, inside)] ** 2).sum()), np.full(N, known.inner_trace)])
    everybody = SpectraOfAll(ProbeSpectra(nodes, weights, moments), controls)
    restricted = np.sqrt(N) * (np.eye(N)[inside] - 1 / n_t * inside)
    added = Added(ritz_measures(steps_of(At, restricted, 30)[0]), (nodes, controls[0]))
    return A, At, known, everybody, seen, added


def among(K, inside):
    within = K[np.ix_(inside, inside)]
    return within - within.mean(axis=1, keepdims=True)


def test_probes_that_are_exact_give_the_trace_of_any_function_among_some_people(pieces):
    A, At, known, everybody, seen, added = pieces
    found = coupled(everybody, 0, np.trace(A) / (N - 1), known, seen, added).measure
    values = np.linalg.eigvalsh(At)[1:]  # without the intercept's
    for f in (np.ones_like, lambda x: x, np.square, lambda x: x**5, lambda x: np.log(x + 0.5), lambda x: 1 / (x + 0.5)):
        np.testing.assert_allclose(found.integrate(f(found.nodes)), f(values).sum(), rtol=1e-7)


def test_polynomials_of_degree_three_and_four_are_means_over_all_probes(pieces):
    """Of everybody, whom ten deep probes and eighty shallow ones tell of."""
    A, _, _, everybody, _, _ = pieces
    spectra = everybody.spectra
    few = ProbeSpectra(spectra.nodes[:10], spectra.weights[:10], spectra.moments)
    known = Known(N - 1, np.trace(A), 1.0, np.trace(A), 0.0)
    seen = np.stack([spectra.moments[2], spectra.moments[1]])
    found = coupled(SpectraOfAll(few, few.weights[None]), 0, np.trace(A) / (N - 1), known, seen, None).measure
    values = np.linalg.eigvalsh(A)[1:]
    for b in range(5):
        np.testing.assert_allclose(found.integrate(found.nodes**b), (values**b).sum(), rtol=1e-8)


def test_the_spread_of_restricted_probes_is_part_of_the_error(pieces):
    A, _, known, everybody, seen, added = pieces
    some = Added(*((nodes[:5], weights[:5]) for nodes, weights in added))
    found = coupled(everybody, 0, np.trace(A) / (N - 1), known, seen, some)

    def functions(nodes):
        return np.stack([nodes / (nodes + 1), 1 / (nodes + 1), np.log(nodes + 1)])

    without, spread = found.covariance(functions), Spread(0.2, 12)
    more = found._replace(spread=spread).covariance(functions) - without
    np.testing.assert_allclose(more, found.each_covariance(functions) * 0.2 / 5 * widening(12) ** 2)
    assert found.own_spread(functions).freedom == 4 and found.own_spread(functions).value > 0


def gathering(cohort, Y):
    measured = ~np.isnan(Y)
    peoples = peoples_of(measured)
    counting = CountingCovariance(dense_covariance([cohort.Ks[0]]))
    rows = [*(people.rows for people in peoples), np.flatnonzero(measured.any(axis=1))]
    among = [SubsetCovariance(counting, each) for each in rows]
    return met(peoples, [traits_of(people, Y, cohort.X) for people in peoples], cohort.X, among, 40)


def with_gaps(cohort, num_traits, share, seed=0):
    rng = np.random.default_rng(seed)
    Y = np.column_stack([cohort.y + 3 * rng.standard_normal(cohort.n) for _ in range(num_traits)])
    return np.where(rng.random(Y.shape) < share, np.nan, Y)


def test_what_is_known_of_a_set_of_people_is_exact(cohorts):
    """A_t is K among them beside their fixed effects, A that of all."""
    cohort = cohorts[1]
    Y = with_gaps(cohort, 2, 0.15)
    whole = gathering(cohort, Y)
    everybody = whole.reference.covariance.rows

    def off(K, X):
        Q = np.linalg.qr(X)[0]
        return project(Q, project(Q, K).T)

    A = off(cohort.Ks[0][np.ix_(everybody, everybody)], cohort.X[everybody])
    for crowd in whole.crowds:
        rows = crowd.people.rows
        At = off(cohort.Ks[0][np.ix_(rows, rows)], cohort.X[rows])
        known, inner = crowd.known, A[np.ix_(crowd.inside, crowd.inside)]
        np.testing.assert_allclose(known.trace, np.trace(At), rtol=1e-9)
        np.testing.assert_allclose(known.inner_trace, np.trace(inner), rtol=1e-9)
        np.testing.assert_allclose((inner**2).sum() + known.correction, (At**2).sum(), rtol=1e-9)
        assert known.dimension == len(rows) - cohort.X.shape[1] and known.share == len(rows) / len(everybody)


def test_two_steps_of_probes_tell_the_moments_of_all_and_of_every_set_of_people(cohorts):
    cohort = cohorts[1]
    whole = gathering(cohort, with_gaps(cohort, 2, 0.15))
    reference = whole.reference
    Z = project(reference.Q, draw_probes(len(reference.Q), 20, seed=1).trace.astype(float))
    runs = [LanczosRun(lanczos_start(Z), ())]
    for _ in range(2):
        runs = whole.advanced([reference], runs)
    found = looked_at(whole, Z, runs[0])
    everybody, X = reference.covariance.rows, cohort.X[reference.covariance.rows]
    Q = np.linalg.qr(X)[0]
    A = project(Q, project(Q, cohort.Ks[0][np.ix_(everybody, everybody)]).T)
    powers = [np.einsum("is,is->s", Z, np.linalg.matrix_power(A, b) @ Z) for b in range(5)]
    np.testing.assert_allclose(found[:5], powers, rtol=1e-9)
    for i, crowd in enumerate(whole.crowds):
        np.testing.assert_allclose(found[5 + 2 * i : 7 + 2 * i], second_moments(Z, A @ Z, crowd.inside), rtol=1e-8)


def test_sets_of_people_are_gathered_where_each_is_most_of_all():
    def people(*spans):
        return People(np.concatenate([np.arange(*span) for span in spans]), np.array([0]))

    first = [people((0, 90)), people((10, 100)), people((0, 80))]
    second = [people((200, 290)), people((205, 300))]
    alone = [people((0, 30))]
    found = gathered([first[0], alone[0], second[0], first[1], second[1], first[2]])
    assert sorted(map(sorted, found)) == [[0, 3, 5], [1], [2, 4]]
    assert gathered([*first, *first], 4) == [[0, 1, 3, 4], [2, 5]]


def test_runs_are_taken_together_as_long_as_their_columns_fit():
    assert batches_of([2, 3, 4, 1, 9, 0, 2], 6) == [[0, 1], [2, 3], [4], [5, 6]]
    assert batches_of([], 6) == [] and batches_of([0, 0], 6) == [[0, 1]]


def test_spreads_are_drawn_to_what_all_have_in_common():
    shares = [0.9, 0.9, 0.75]
    usual = [usual_spread(share) for share in shares]
    alike = pooled([Spread(value / 2, 2) for value in usual], shares)
    np.testing.assert_allclose([spread.value for spread in alike], np.array(usual) / 2)
    odd = pooled([Spread(value, 2) for value in (usual[0], 9 * usual[1], usual[2])], shares)
    assert usual[1] < odd[1].value < 9 * usual[1] and odd[0].value < odd[1].value
    assert pooled([Spread(7.0, 0)], [0.9])[0].value == usual[0]


@pytest.fixture(scope="module")
def fits():
    """Of nine seeds, seven traits with their own gaps, the last without: (result, dense REML, a fit of the last)."""
    found = []
    for seed in range(9):
        cohort = make_cohort(240, 700, 1, seed=seed, h2=(0.4, 0.6, 0.8)[seed % 3])
        Y = with_gaps(cohort, 7, 0.1, seed)
        Y[:, -1] = cohort.y
        probes = draw_probes(cohort.n, seed=seed)
        results = fit_traits(Y, cohort.X, covariance_of(cohort), probes, strict=False)
        alone = fit(cohort.y, cohort.X, covariance_of(cohort), probes)
        for result, y in zip(results, Y.T, strict=True):
            rows = np.flatnonzero(~np.isnan(y))
            found.append((result, exact_reml(y[rows], cohort.X[rows], [cohort.Ks[0][np.ix_(rows, rows)]]), alone))
    return found


def test_dense_reml_is_within_the_monte_carlo_errors_of_shared_probes(fits):
    z = np.array([(r.h2.estimate[-1] - e.h2) / r.h2.mc_se[-1] for r, e, _ in fits])
    of_loglik = np.array([(r.loglik - e.loglik) / r.loglik_mc_se for r, e, _ in fits])
    for values in (z, of_loglik):
        assert 0.4 < np.sqrt(np.mean(values**2)) < 1.35 and np.mean(np.abs(values) < 2) > 0.9
        assert abs(np.mean(values)) < 0.6


def test_other_numbers_of_shared_probes_are_those_of_dense_reml(fits):
    for result, exact, _ in fits:
        assert result.converged
        np.testing.assert_allclose(result.h2.se[-1], exact.h2_se, rtol=0.05)
        errors = np.sqrt(np.diag(exact.fixed_effects_cov))
        np.testing.assert_allclose(result.fixed_effects.se, errors, rtol=0.05)
        np.testing.assert_allclose(result.fixed_effects.estimate, exact.fixed_effects, atol=0.03 * errors.max())
        assert result.mc_target_met


def test_seven_sets_of_people_cost_less_than_half_of_as_many_runs(fits):
    cost = np.array([result.column_passes / alone.column_passes for result, _, alone in fits[::7]])
    assert np.mean(cost) < 3.5


def test_the_tighter_target_is_met_with_more_restricted_probes():
    cohort = make_cohort(240, 700, 1, seed=3, h2=0.6)
    Y = with_gaps(cohort, 4, 0.1)
    tight = FitSettings(probes=ProbeSettings(mc_target=0.06))
    usual, closer = (fit_traits(Y, cohort.X, covariance_of(cohort), 256, each) for each in (FitSettings(), tight))
    assert max(result.mc_ratio for result in closer) <= 0.06 < max(result.mc_ratio for result in usual)
    assert closer[0].column_passes > usual[0].column_passes


def test_a_memory_that_takes_few_columns_gives_the_same_results():
    cohort = make_cohort(150, 300, 1, seed=4)
    Y = with_gaps(cohort, 3, 0.1)
    few = FitSettings(probes=ProbeSettings(columns=5))
    whole, parts = (fit_traits(Y, cohort.X, covariance_of(cohort), 64, each) for each in (FitSettings(), few))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a.theta, b.theta, rtol=1e-7)
        assert a.column_passes == b.column_passes


def test_so_few_probes_that_errors_are_unknown_give_estimates_all_the_same():
    cohort = make_cohort(150, 300, 1, seed=4, h2=0.6)
    results = fit_traits(with_gaps(cohort, 3, 0.1), cohort.X, covariance_of(cohort), 8)
    assert all(result.converged and np.isnan(result.h2.mc_se[-1]) and result.num_probes == 8 for result in results)


def test_a_matrix_of_low_rank_ends_the_runs_early():
    """K has twenty eigenvalues beside zero, so that every Krylov space is used up."""
    rng = np.random.default_rng(0)
    n = 200
    Z = rng.standard_normal((n, 20))
    Y = Z @ rng.standard_normal((20, 4)) / np.sqrt(20) + 0.5 * rng.standard_normal((n, 4))
    Y[rng.random(Y.shape) < 0.1] = np.nan
    K, X = Z @ Z.T / 20, np.ones((n, 1))
    for result, y in zip(fit_traits(Y, X, K), Y.T, strict=True):
        rows = np.flatnonzero(~np.isnan(y))
        exact = exact_reml(y[rows], X[rows], [K[np.ix_(rows, rows)]])
        assert result.converged and abs(result.h2.estimate[-1] - exact.h2) <= 4 * result.h2.mc_se[-1] + 1e-4
