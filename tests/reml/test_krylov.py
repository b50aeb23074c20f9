"""The one-run engine: the same answers as the stepping engine, calibrated measures, several traits."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import special

from gpu_reml.ops import CpuProducts, make_covariance, standardise
from gpu_reml.ops import pack as packed_counts
from gpu_reml.reml import (
    CountingCovariance,
    FitSettings,
    Hooks,
    Operator,
    ProbeSettings,
    SolverSettings,
    Status,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
    fit_traits,
    pack,
    unpack,
)
from gpu_reml.reml.engines import krylov
from gpu_reml.reml.engines.calibration import ProbeSpectra, calibrate, spectra_of
from gpu_reml.reml.engines.krylov_profile import krylov_curves
from gpu_reml.reml.engines.spectral import (
    Measure,
    Spectrum,
    average_information,
    loglik,
    maximise,
    profile_h2,
    profiled,
)
from gpu_reml.reml.linalg import orthonormal_basis
from gpu_reml.reml.traits import one_trait
from gpu_reml.validation import dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.small import covariance_of, make_cohort

TIGHT = SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13)
EXACT = FitSettings(tol=1e-12, solver=TIGHT)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_the_same_exact_probes_both_engines_agree_to_rounding(seed):
    cohort = make_cohort(180, 500, 1, seed)
    covariance, probes = covariance_of(cohort), exact_probes(cohort.n)
    krylov, steps = (
        fit(cohort.y, cohort.X, covariance, probes, replace(EXACT, engine=engine)) for engine in ("krylov", "reduced")
    )
    assert krylov.method == "krylov" and steps.method == "reduced"
    np.testing.assert_allclose(krylov.theta, steps.theta, atol=1e-5 * krylov.se.min())
    np.testing.assert_allclose(krylov.loglik, steps.loglik, rtol=1e-9)
    np.testing.assert_allclose(krylov.covariance, steps.covariance, rtol=1e-5)
    np.testing.assert_allclose(krylov.fixed_effects.estimate, steps.fixed_effects.estimate, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(krylov.fixed_effects.covariance, steps.fixed_effects.covariance, rtol=1e-4, atol=1e-9)


def test_by_default_one_component_takes_one_run_of_few_passes():
    cohort = make_cohort(1500, 6000, 1, seed=4)
    counting = CountingCovariance(covariance_of(cohort, np.float32))
    found = fit(cohort.y, cohort.X, counting, draw_probes(cohort.n, 256, seed=1))
    expected = exact_reml(cohort.y, cohort.X, cohort.Ks)
    assert found.method == "krylov" and found.mc_target_met and counting.column_passes < 450
    assert abs(found.h2.estimate[-1] - expected.h2) <= 4 * found.h2.mc_se[-1] + 0.005 * found.h2.se[-1]
    assert abs(found.loglik - expected.loglik) <= 4 * found.loglik_mc_se + 0.05


@pytest.mark.parametrize("seed", [1, 4, 5])
def test_of_few_variants_y_and_the_trace_have_one_null_space(seed):
    """Rounding leaves its eigenvalue small, and another one for each start; their ratio is no evidence."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(2, rng.uniform(0.05, 0.5, 20), (400, 20)).astype(np.int8)
    Z, X = dense.standardised(counts), np.column_stack([np.ones(400), rng.standard_normal(400)])
    y = Z @ rng.standard_normal(20) / 5 + rng.standard_normal(400)
    products = CpuProducts(standardise([packed_counts(counts)], 400), np.float32)
    found = fit(y, X, make_covariance(products, None), draw_probes(400, 256, seed=1))
    expected = exact_reml(y, X, [dense.kernel(Z, np.ones(20))])
    assert found.method == "krylov" and found.mc_target_met
    assert (np.abs(found.theta - expected.theta) <= 4 * found.mc_se + 0.01 * expected.se).all()
    assert abs(found.loglik - expected.loglik) <= 4 * found.loglik_mc_se + 0.01


def test_a_run_whose_first_probes_are_enough_has_no_others():
    """c column-passes for X, and at every step one for the trait, one for a covariate off the constant, one a probe."""
    cohort = make_cohort(600, 1500, 1, seed=5)
    x = np.column_stack([np.ones(cohort.n), np.random.default_rng(0).standard_normal(cohort.n)])
    found = fit(cohort.y, x, covariance_of(cohort), draw_probes(cohort.n, 256, seed=1))
    steps = found.history[-1].iteration
    assert found.mc_target_met and found.num_probes == 32
    assert found.column_passes == 2 + steps * (1 + 1 + 32)


def test_the_monte_carlo_error_is_the_spread_over_seeds():
    cohort = make_cohort(600, 1500, 1, seed=5)
    covariance = covariance_of(cohort, np.float32)
    settings = FitSettings(probes=ProbeSettings(mc_target=10.0))
    fits = [fit(cohort.y, cohort.X, covariance, draw_probes(cohort.n, 64, 0, seed), settings) for seed in range(60)]
    spread = np.std([f.h2.estimate[-1] for f in fits], ddof=1)
    claimed = np.sqrt(np.mean([f.h2.mc_se[-1] ** 2 for f in fits]))
    assert 1 / 1.5 < claimed / spread < 1.5
    logliks = [f.loglik for f in fits]
    claimed = np.sqrt(np.mean([f.loglik_mc_se**2 for f in fits]))
    assert 1 / 1.6 < claimed / np.std(logliks, ddof=1) < 1.6


def test_stated_monte_carlo_errors_are_those_of_leaving_out_one_probe_at_a_time():
    """The jackknife knows no formula: of theta, of the log-likelihood, and of the ends of intervals."""
    cohort, settings, steps, s = make_cohort(300, 800, 1, seed=5), FitSettings(profile=True), 25, 200
    trait = one_trait(cohort.y, cohort.X, covariance_of(cohort))
    space = krylov.prepare(CountingCovariance(covariance_of(cohort)), trait.Q)
    run = krylov.LanczosRun(krylov.lanczos_start(trait.scaled), ())
    while run.num_steps < steps:
        run = krylov.advance(space, run)
    (measure,) = run.measures(slice(None))
    spectra = krylov.spectra_of_probes(space, draw_probes(cohort.n, s, seed=1).trace, s, steps)

    def found(without=()):
        """theta and the log-likelihood, and their errors; and a function that tells the same of ends."""
        kept = np.delete(np.arange(s), without)
        part = ProbeSpectra(spectra.nodes[kept], spectra.weights[kept], spectra.moments[:, kept])
        calibration = calibrate(part, space.dimension, space.trace)
        at = krylov.estimate(space, measure, calibration, settings, exact=False)

        def ends():
            covariance = np.linalg.inv(at.ai)
            given = at.spectrum, calibration, at.theta, at.layout, settings, covariance
            curves = krylov_curves(*given, exact=False)
            errors = [(curve.lower_mc_se, curve.upper_mc_se) for curve in curves]
            return np.ravel([(curve.lower, curve.upper) for curve in curves]), np.ravel(errors)

        values = np.append(at.theta, loglik(at.spectrum, at.theta))
        return values, np.append(np.sqrt(np.diag(at.mc)), at.loglik_mc_se), ends

    _, stated, ends = found()
    spread = np.std([found([i])[0] for i in range(s)], axis=0)
    np.testing.assert_allclose(stated, np.sqrt(s - 1) * spread, rtol=0.05)
    parts = np.std([found(part)[2]()[0] for part in np.array_split(np.arange(s), 20)], axis=0)
    np.testing.assert_allclose(ends()[1], np.sqrt(19) * parts, rtol=0.4)


def test_a_calibrated_measure_has_the_known_moments_and_integrates_quadratics_of_all_probes():
    rng = np.random.default_rng(0)
    nodes, weights = rng.gamma(2.0, 1.0, (8, 5)), rng.random((8, 5)) * 20
    norms2, alpha, beta = rng.uniform(90, 110, 30), rng.uniform(0.8, 1.2, 30), rng.uniform(0.3, 0.6, 30)
    spectra = spectra_of(nodes, weights, (norms2, alpha, beta))
    measure = calibrate(spectra, 99, 101.0).measure
    np.testing.assert_allclose(measure.integrate(np.ones(40)), 99, rtol=1e-10)
    np.testing.assert_allclose(measure.integrate(measure.nodes), 101, rtol=1e-10)
    # what the second moment has beyond the first two is the mean over all probes
    slope, constant = np.polyfit(nodes.ravel(), nodes.ravel() ** 2, 1, w=np.sqrt(weights.ravel()))
    m0, m1, m2 = spectra.moments
    found = measure.integrate(measure.nodes**2 - slope * measure.nodes - constant)
    np.testing.assert_allclose(found, np.mean(m2 - slope * m1 - constant * m0), rtol=1e-8)


def test_calibration_leaves_an_exact_measure_as_it_is():
    lam = np.random.default_rng(1).gamma(2.0, 1.0, 50)
    spectra = spectra_of(lam[:, None], np.full((50, 1), 50.0), (np.full(50, 50.0), lam, np.zeros(50)))
    measure = calibrate(spectra, 50, lam.sum()).measure
    np.testing.assert_allclose(measure.weights, 1, rtol=1e-10)


def test_several_traits_share_the_run_and_agree_with_each_alone():
    cohort = make_cohort(400, 1500, 1, seed=6)
    covariance = covariance_of(cohort, np.float32)
    rng = np.random.default_rng(2)
    Y = np.column_stack([cohort.y, cohort.y + rng.standard_normal(cohort.n), rng.standard_normal(cohort.n)])
    probes = draw_probes(cohort.n, 64, seed=3)
    counting = CountingCovariance(covariance)
    together = fit_traits(Y, cohort.X, counting, probes)
    passes = counting.column_passes
    alone = [fit(y, cohort.X, covariance, probes) for y in Y.T]
    for shared, own in zip(together, alone, strict=True):
        assert (np.abs(shared.theta - own.theta) <= 0.01 * own.se).all()
    assert passes < 1.6 * alone[0].column_passes


def spectrum_of(h2: float, seed: int, n: int = 400) -> Spectrum:
    rng = np.random.default_rng(seed)
    lam = rng.gamma(2.0, 0.5, n)
    squares = (h2 * lam + 1 - h2) * rng.chisquare(1, n)
    return Spectrum(Measure(lam, squares), Measure(lam, np.ones(n)), n)


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_h2_ends_where_the_profile_has_dropped_by_half_a_chi_square_quantile(seed):
    spectrum = spectrum_of(0.4, seed)
    theta = maximise(spectrum, 1e-6)
    profile = profile_h2(spectrum, theta, 1.0)
    h2 = theta[0] / theta.sum()
    assert profile.lower <= h2 <= profile.upper
    assert np.diff(profile.h2).min() > 0 and profile.loglik.max() <= loglik(spectrum, theta) + 1e-9
    for end in (profile.lower, profile.upper):
        drop = loglik(spectrum, theta) - profiled(spectrum, np.array([end]))[0][0]
        assert abs(drop - 3.841459 / 2) < 1e-4 or (end == 0 and drop < 3.841459 / 2)


def test_a_trait_without_heritability_is_at_the_bound():
    rng = np.random.default_rng(8)
    lam = rng.gamma(2.0, 0.5, 500)
    y2 = rng.chisquare(1, 500) / (0.3 * lam + 1)  # less variance where K has more: the maximum is below zero
    theta = maximise(Spectrum(Measure(lam, y2), Measure(lam, np.ones(500)), 500), 1e-6)
    assert theta[0] == 0 and theta[1] > 0


@pytest.mark.parametrize("num_components", [1, 3])
def test_a_fit_resumed_from_any_checkpoint_is_the_same_to_the_last_bit(num_components):
    cohort = make_cohort(300, 900, num_components, seed=7)
    covariance, probes = covariance_of(cohort, np.float32), draw_probes(cohort.n, 64, 20)
    saved = []
    whole = fit_traits(
        cohort.y[:, None], cohort.X, covariance, probes, hooks=Hooks(checkpoint=lambda state: saved.append(pack(state)))
    )[0]
    assert len(saved) > 2
    for state in saved:
        resumed = fit_traits(cohort.y[:, None], cohort.X, covariance, probes, hooks=Hooks(resume=unpack(*state)))[0]
        assert (resumed.theta == whole.theta).all() and (resumed.mc_covariance == whole.mc_covariance).all()
        assert resumed.loglik == whole.loglik and resumed.column_passes == whole.column_passes
        assert resumed.history == whole.history


def test_a_component_at_zero_is_at_its_bound_and_its_chance_is_half(cohorts):
    cohort = cohorts[1]
    K = cohort.Ks[0]
    values, vectors = np.linalg.eigh(K)
    y = vectors @ (np.random.default_rng(0).standard_normal(cohort.n) / (1 + values))  # little where K is large
    bounded, free = (
        fit(y, cohort.X, [K], exact_probes(cohort.n), FitSettings(engine="krylov", constrain=constrain))
        for constrain in (True, False)
    )
    assert bounded.theta[0] == 0 and bounded.at_bound.tolist() == [True, False]
    assert (bounded.lrt.statistic, bounded.lrt.p) == (pytest.approx(0, abs=1e-8), 1)
    assert free.theta[0] < 0 and not free.at_bound.any()
    assert free.lrt.statistic > 1
    np.testing.assert_allclose(free.lrt.p, special.chdtrc(1, free.lrt.statistic), rtol=1e-12)


@pytest.mark.parametrize("constrain", [True, False])
def test_ends_of_intervals_are_those_of_the_dense_likelihood_with_and_without_bounds(cohorts, constrain):
    cohort = cohorts[1]
    K = cohort.Ks[0]
    values, vectors = np.linalg.eigh(K)
    y = vectors @ (np.random.default_rng(0).standard_normal(cohort.n) / np.sqrt(1 + values / 4))
    settings = FitSettings(engine="krylov", profile=True, constrain=constrain)
    found = fit(y, cohort.X, [K], exact_probes(cohort.n), settings)
    exact = fit_exact(y, cohort.X, [K], settings)
    ends, expected = ([(curve.lower, curve.upper) for curve in each.profiles] for each in (found, exact))
    np.testing.assert_allclose(ends, expected, rtol=1e-3, atol=1e-3)
    assert (np.array(ends)[:, 0] < 0).all() or constrain


def test_symmetry_is_looked_at_in_the_first_step_alone(cohorts, monkeypatch):
    looked, real = [], krylov.check_symmetric
    monkeypatch.setattr(krylov, "check_symmetric", lambda *given: looked.append(given) or real(*given))
    cohort = cohorts[1]
    found = fit(cohort.y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, 16), FitSettings(engine="krylov"))
    assert found.num_probes == 16 and found.history[-1].iteration > 3 and len(looked) == 1


@pytest.mark.parametrize("unit", [1e-3, 1e4])
def test_intervals_of_variances_are_in_the_square_of_any_unit_of_y(cohorts, unit):
    cohort, settings = cohorts[1], FitSettings(engine="krylov", profile=True)
    covariance, probes = covariance_of(cohort), exact_probes(cohort.n)
    plain, other = (fit(y, cohort.X, covariance, probes, settings) for y in (cohort.y, unit * cohort.y))
    ends = [np.array([[curve.lower, curve.upper] for curve in found.profiles[:1]]) for found in (plain, other)]
    np.testing.assert_allclose(ends[1], unit**2 * ends[0], rtol=1e-6)


def test_a_long_run_reports_every_record_once():
    rng = np.random.default_rng(3)
    vectors = np.linalg.qr(rng.standard_normal((400, 400)))[0]
    K = (vectors * np.logspace(-3, 3, 400)) @ vectors.T  # far-spread eigenvalues take many steps
    y = vectors @ (np.sqrt(np.logspace(-3, 3, 400) + 0.3) * rng.standard_normal(400))
    reported = []
    found = fit(y, np.ones((400, 1)), [K], draw_probes(400, 64), callback=reported.append)
    steps = np.array([record.iteration for record in found.history])
    assert tuple(reported) == found.history
    # the eigendecompositions of a step cost its square, so that not every step of a long run is looked at
    assert steps[-1] > 30 and set(range(1, 25)) <= set(steps) and not (steps[steps > 24] % 4).any()


@pytest.mark.parametrize(("deep", "every"), [(9, 20), (4, 20), (4, 11), (12, 10)])
def test_further_probes_in_batches_are_those_taken_at_once(cohorts, deep, every):
    cohort, probes = cohorts[1], draw_probes(150, 40, 0)
    counting = CountingCovariance(covariance_of(cohort))
    space = krylov.prepare(counting, orthonormal_basis(cohort.X))
    known = krylov.spectra_of_probes(space, probes.trace[:, :8], 4, 6)
    whole = krylov.further_probes(space, probes, known, (deep, every), 6)
    parts = krylov.further_probes(space, probes, known, (deep, every), 6, at_once=3)
    every = max(every, 8 + deep - 4)  # further deep ones are new probes
    assert (whole.num_deep, whole.num_probes) == (parts.num_deep, parts.num_probes) == (deep, every)
    np.testing.assert_allclose(parts.nodes, whole.nodes, rtol=1e-9)
    np.testing.assert_allclose(parts.moments, whole.moments, rtol=1e-9)


@pytest.mark.parametrize("most", [1, 3, 15])
def test_very_few_probes_come_near_the_exact_answer_and_say_what_is_known_of_their_error(most):
    cohort = make_cohort(150, 400, 1, seed=3)
    exact = fit_exact(cohort.y, cohort.X, cohort.Ks[:1])
    found = fit(cohort.y, cohort.X, cohort.Ks[:1], draw_probes(150, most, 0, seed=1))
    assert found.converged and found.num_probes == most and not found.mc_target_met
    assert (np.abs(found.theta - exact.theta) < 0.5 * exact.se).all()
    assert np.isnan(found.mc_se).all()


@pytest.mark.parametrize("seed", [5, 7])
def test_few_probes_of_a_wrong_error_are_added_to_until_the_target_is_met(seed, monkeypatch):
    """Four probes hardly know their error, so that what they ask for falls short and more rounds are needed."""
    rounds, real = [], krylov.further_probes
    monkeypatch.setattr(krylov, "further_probes", lambda *args: rounds.append(args) or real(*args))
    cohort = make_cohort(200, 300, 1, seed=seed)
    settings = FitSettings(probes=ProbeSettings(first=4, mc_target=0.03))
    found = fit(cohort.y, cohort.X, covariance_of(cohort), draw_probes(200, 4000, seed=seed), settings)
    assert found.mc_target_met and 2 <= len(rounds) <= 3
    assert found.num_probes < 4000


def test_probes_that_are_left_are_taken_and_no_others(cohorts, monkeypatch):
    taken, real = [], krylov.spectra_of_probes
    probes, counting = draw_probes(150, 12, 0), CountingCovariance(covariance_of(cohorts[1]))
    space = krylov.prepare(counting, orthonormal_basis(cohorts[1].X))
    known = krylov.spectra_of_probes(space, probes.trace[:, :8], 4, 6)
    monkeypatch.setattr(krylov, "spectra_of_probes", lambda *args: taken.append(args[1].shape[1]) or real(*args))
    found = krylov.further_probes(space, probes, known, (12, 12), 6, at_once=3)
    assert (found.num_deep, found.num_probes, taken) == (8, 12, [3, 1])


@pytest.mark.parametrize("target", [1e-3, 0.05])  # all further probes deep, and shallow ones among them
def test_further_probes_come_as_many_at_once_as_memory_has_room_for_until_none_is_left(target, monkeypatch):
    rounds, real = [], krylov.further_probes
    monkeypatch.setattr(krylov, "further_probes", lambda *args: rounds.append(args) or real(*args))
    cohort, widths = make_cohort(200, 300, 1, seed=3), []
    K = cohort.Ks[0]
    own = Operator(lambda B: widths.append(B.shape[1]) or K @ B, np.trace(K), "grm")
    settings = FitSettings(probes=ProbeSettings(first=16, columns=5, mc_target=target))
    found = fit(cohort.y, cohort.X, own, draw_probes(200, 40, seed=1), settings)
    run = widths.index(5)  # before these the products of X and of the run, which is as wide as it has to be
    assert not found.mc_target_met and found.num_probes == 40 and len(rounds) == 1
    assert min(widths[1:run]) > 16 and max(widths[run:]) == 5 and min(widths) > 0


def test_a_run_goes_on_until_the_log_likelihood_has_settled_however_loose_the_tolerance_of_theta():
    rng = np.random.default_rng(2)
    vectors = np.linalg.qr(rng.standard_normal((150, 150)))[0]
    K = (vectors * (20 / np.arange(1, 151.0))) @ vectors.T
    K = (K + K.T) / 2
    y = np.linalg.cholesky(K * 75 / np.trace(K) + 0.5 * np.eye(150)) @ rng.standard_normal(150)
    expected = fit_exact(y, np.ones((150, 1)), K)
    found = fit(y, np.ones((150, 1)), K, exact_probes(150), FitSettings(tol=0.9))
    assert abs(found.loglik - expected.loglik) < 0.02


@pytest.mark.parametrize("n", [9, 31])  # from 24 steps on only every fourth is looked at, and the last
def test_a_run_that_uses_up_the_space_has_converged_and_one_that_is_cut_has_not(n, monkeypatch):
    rng = np.random.default_rng(0)
    vectors, values = np.linalg.qr(rng.standard_normal((n, n)))[0], np.logspace(-2, 2, n)
    K = (vectors * values) @ vectors.T
    y = vectors @ (np.sqrt(values + 1) * rng.standard_normal(n))
    arguments = (y, np.ones((n, 1)), (K + K.T) / 2, exact_probes(n), FitSettings(tol=1e-300))
    found = fit(*arguments)
    assert found.status is Status.CONVERGED and found.history[-1].iteration == n - 1 and found.theta[0] > 0
    monkeypatch.setattr(krylov, "MOST_STEPS", 5)
    found = fit(*arguments, strict=False)
    assert found.status is Status.SOLVER_STALLED and found.history[-1].iteration == 5


def test_eigenvalues_of_two_sizes_leave_no_moment_of_degree_two_to_correct():
    """K of households is a multiple of a projection, so that its square tells what it tells itself."""
    rng = np.random.default_rng(1)
    K = np.kron(np.eye(60), np.ones((3, 3)))
    y = np.repeat(rng.standard_normal(60), 3) + rng.standard_normal(180)
    expected = fit_exact(y, np.ones((180, 1)), K)
    found = fit(y, np.ones((180, 1)), K, draw_probes(180, 64))
    assert (np.abs(found.theta - expected.theta) <= 1e-6 * expected.se).all() and (found.mc_se < 1e-6 * found.se).all()


@pytest.fixture(scope="module")
def run():
    """A run of six steps of a trait of 150 people and 8 probes: (cohort, traits, state, measure of the trace)."""
    small = make_cohort(150, 400, 1, seed=3)
    covariance = covariance_of(small)
    traits = one_trait(small.y, small.X, covariance)
    space = krylov.prepare(CountingCovariance(covariance), traits.Q)
    at = krylov.begin(space, traits, draw_probes(150, 8, 0).trace)
    for _ in range(5):
        at = at._replace(run=krylov.advance(space, at.run))
    spectra = krylov.probe_spectra(at.run, 1 + space.F.shape[1], at.moments)
    return space, traits, at, calibrate(spectra, space.dimension, space.trace).measure


@pytest.mark.parametrize(
    ("length", "rise", "settled"),
    [(0.24, 0.0, True), (0.26, 0.0, False), (0.0, 0.0095, True), (0.0, -0.0105, False), (0.24, 0.0095, True)],
)
def test_a_trait_has_settled_after_a_quarter_of_the_tolerated_step_and_a_hundredth_of_log_likelihood(
    run, length, rise, settled
):
    space, traits, at, trace = run
    now, first = krylov.moved(traits, at, trace, space.dimension, FitSettings())
    assert not first  # a first look has nothing to compare with
    theta, value = now.last[0]
    spectrum = Spectrum(at.run.measures(slice(1))[0], trace, space.dimension)
    step = length * np.sqrt(FitSettings().tol / average_information(spectrum, theta)[0, 0]) * np.array([1.0, 0.0])
    known = at._replace(last=((theta + step, value + rise),))
    assert krylov.moved(traits, known, trace, space.dimension, FitSettings())[1] == settled


def test_a_record_has_variances_in_units_of_the_trait_and_the_score_before_the_step_in_its_standard_errors(run):
    space, traits, at, trace = run
    theta, value = krylov.moved(traits, at, trace, space.dimension, FitSettings())[0].last[0]
    before = theta + np.array([0.05, -0.03])
    known = at._replace(last=((before, value),))
    record = krylov.moved(traits, known, trace, space.dimension, FitSettings())[0].history[0][-1]
    np.testing.assert_allclose(record.theta, theta * traits.scales[0] ** 2, rtol=1e-12)
    spectrum = Spectrum(at.run.measures(slice(1))[0], trace, space.dimension)
    ai, steps = average_information(spectrum, theta), 1e-5 * np.eye(2)
    slopes = [(loglik(spectrum, before + step) - loglik(spectrum, before - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(record.score_norm, np.sqrt(np.sum(np.square(slopes) / np.diag(ai))), rtol=1e-4)
    np.testing.assert_allclose(record.decrement, (theta - before) @ ai @ (theta - before), rtol=1e-9)
    assert (record.iteration, record.num_probes) == (6, 8)


def test_traces_of_a_look_are_those_of_the_probes_behind_traits_and_fixed_effects(run):
    space, traits, at, trace = run
    assert space.F.shape[1] > 0
    looked, _ = krylov.judged(space, traits, at, FitSettings())
    expected = maximise(Spectrum(at.run.measures(slice(1))[0], trace, space.dimension), FitSettings().residual_floor)
    np.testing.assert_allclose(looked.last[0][0], expected, rtol=1e-12)


def wanted(ratio, ratio_of_deep, steps, num_deep, num_probes, target=0.1, available=10_000):
    found = SimpleNamespace(ratio=ratio, ratio_of_deep=ratio_of_deep)
    counts = SimpleNamespace(num_deep=num_deep, num_probes=num_probes)
    return krylov.probes_wanted([found], steps, counts, available, target)


@pytest.mark.parametrize(("deep_share", "steps"), [(0.5, 9), (0.9, 16), (0.8, 4)])
def test_the_probes_that_are_wanted_meet_the_target_with_a_margin_and_no_cheaper_ones_do(deep_share, steps):
    ratio, now = 0.4, (20, 40)
    deep, every = wanted(ratio, ratio * np.sqrt(deep_share), steps, *now)
    a, b = ratio**2 * deep_share * now[0], ratio**2 * (1 - deep_share) * now[1]

    def error(deep, every):
        return a / deep + b / every

    allowed = 0.1**2 / 1.15
    assert 0.97 * allowed < error(deep, every) <= allowed
    others = np.arange(int(a / allowed) + 1, 4 * every)
    costs = steps * others + np.maximum(others, b / (allowed - a / others))
    assert steps * deep + every <= costs.min() + steps + 1


def test_probes_that_meet_the_target_are_left_as_they_are_and_ones_of_unknown_error_doubled():
    assert wanted(0.1, 0.05, 9, 20, 40) == (20, 40)
    assert wanted(np.nan, np.nan, 9, 20, 40) == (40, 80) and wanted(np.nan, np.nan, 9, 20, 40, available=50) == (40, 50)
    assert wanted(0.2, 0.2, 9, 20, 40, available=60) == (60, 60)
    assert wanted(0.11, 0.01, 9, 20, 40)[0] == 20  # shallow probes alone are few


def test_the_trait_with_the_largest_error_says_how_many_probes_are_wanted():
    counts = SimpleNamespace(num_deep=20, num_probes=40)
    small, large, unknown = (SimpleNamespace(ratio=r, ratio_of_deep=0.7 * r) for r in (0.05, 0.3, np.nan))
    for found in ([small, large], [large, small]):
        assert krylov.probes_wanted(found, 9, counts, 10_000, 0.1) == wanted(0.3, 0.21, 9, 20, 40)
    for found in ([large, unknown], [unknown, large]):  # what is not known may be the largest
        assert krylov.probes_wanted(found, 9, counts, 10_000, 0.1) == (40, 80)


def test_probes_are_added_four_times_at_most(monkeypatch):
    rounds, real = [], krylov.further_probes
    monkeypatch.setattr(krylov, "further_probes", lambda *args: rounds.append(args) or real(*args))
    monkeypatch.setattr(krylov, "probes_wanted", lambda found, steps, known, *_: (known.num_deep, known.num_probes + 1))
    small = make_cohort(150, 400, 1, seed=3)
    found = fit(small.y, small.X, covariance_of(small), draw_probes(150, 64, 0, seed=1))
    assert len(rounds) == 4 and found.num_probes == 36
