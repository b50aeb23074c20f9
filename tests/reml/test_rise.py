"""Differences of log-likelihoods within one basis, against dense ones."""

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.reml import CountingCovariance, FitSettings, ProbeSettings, SolverSettings, draw_probes, exact_probes
from gpu_reml.reml.engines.reduced import of_components, reduced_v
from gpu_reml.reml.engines.reduced_fit import answering
from gpu_reml.reml.engines.reduced_model import dealt, first_model, prepare
from gpu_reml.reml.engines.rise import Path, Rise, end_at, rise, rule
from gpu_reml.reml.reduced_matrices import ReducedMatrices
from gpu_reml.reml.traits import one_trait
from gpu_reml.validation import dense
from gpu_reml.validation.small import make_cohort

THETA = np.array([9.0, 5.0, 20.0])


@pytest.fixture(scope="module")
def pair():
    """Two splits of the same variants into two components, and their covariances."""
    cohort = make_cohort(300, 500, 2, seed=3)
    rng = np.random.default_rng(0)
    products = CpuProducts(cohort.genotypes, np.float64)
    return cohort, [make_covariance(products, np.column_stack([w, 1 - w])) for w in rng.random((2, 500))]


def dense_rise(cohort, before, after):
    values = []
    for covariance, theta in (before, after):
        kernels = [covariance.only(g).apply(np.ones(1), np.eye(cohort.n)) for g in range(2)]
        values.append(dense.dense_loglik(theta, cohort.y, cohort.X, kernels))
    return values[1] - values[0]


def risen(cohort, before, after, given, **solver):
    """The rise between two (covariance, theta) within a basis that answers for both."""
    settings = FitSettings(solver=SolverSettings(**solver), probes=ProbeSettings(first=given.trace.shape[1]))
    traits = one_trait(cohort.y, cohort.X, before[0])
    scale, model, problems = float(traits.scales[0]), None, []
    for covariance, theta in (before, after):
        problems.append((prepare(CountingCovariance(covariance), traits, given, settings), theta / scale**2))
        problem, theta = problems[-1]
        if model is None:
            model = first_model(problem, given)
        model = dealt(problem, model._replace(basis=of_components(covariance, model.basis)))
        model = answering(problem, model, theta)
    ends = []
    for problem, theta in problems:
        there = model._replace(basis=of_components(problem.covariance, model.basis))
        ends.append(end_at(problem, there, theta))
    return rise(problem, model, *ends), model


def test_with_exact_probes_rises_are_those_of_dense_matrices_near_and_far(pair):
    cohort, (one, two) = pair
    for theta in (THETA, THETA * [0.5, 2.0, 1.3], np.array([0.0, 9.0, 20.0]), np.array([20.0, 3.0, 0.2])):
        points = (one, THETA), (two, theta)
        found, _ = risen(cohort, *points, exact_probes(cohort.n))
        np.testing.assert_allclose(found.value, dense_rise(cohort, *points), rtol=1e-7)
        assert found.mc_se == 0


def test_the_error_of_a_rise_is_far_below_those_of_its_two_values_and_holds(pair):
    cohort, (one, _) = pair
    points = (one, THETA), (one, THETA * [1.02, 0.99, 1.0])
    expected, ratios, errors = dense_rise(cohort, *points), [], []
    for seed in range(16):
        found, model = risen(cohort, *points, draw_probes(cohort.n, 24, 0, seed), y=1e-6, probes=1e-3)
        assert model.basis.size < cohort.n - cohort.X.shape[1]  # so the basis answers without being all there is
        ratios.append((found.value - expected) / found.mc_se)
        errors.append(found.mc_se)
    assert np.abs(ratios).max() < 5 and 0.6 < np.std(ratios) < 1.5
    assert max(errors) < 0.02  # a log-determinant from so many probes errs by 1


def test_a_covariance_does_not_rise_over_itself_whatever_the_probes(pair):
    cohort, (one, _) = pair
    found, _ = risen(cohort, (one, THETA), (one, THETA), draw_probes(cohort.n, 16, 0, 1))
    np.testing.assert_allclose(found.per_probe, 0, atol=1e-9)


def test_the_error_from_a_few_probes_is_unknown_and_rises_add_up_by_probe():
    half = Rise(np.array([0.5]), False)
    assert (half + half).value == 1.0 and np.isnan((half + half).mc_se)
    rng = np.random.default_rng(0)
    one = Rise(rng.standard_normal(20), False)
    other = replace_values(one, -one.per_probe)
    assert (one + other).mc_se == 0 < one.mc_se


def replace_values(rise_, values):
    return rise_._replace(per_probe=values)


@pytest.mark.parametrize("size", [1.0, 0.0])
@pytest.mark.parametrize("residual", [1.0, 1e-3])
def test_nodes_are_added_until_what_is_known_is_integrated_and_are_no_fewer_than_traces_need(residual, size):
    """What is known is y's part, which is nothing where y is."""
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((2, 30, 60)) * np.geomspace(0.1, 3, 30)[:, None]
    path = Path(ReducedMatrices.of(roots @ roots.transpose(0, 2, 1) / 60), 1.0, float(np.log(residual)))
    y = size * rng.standard_normal(30)
    known = path.form(0.0, y) - path.form(1.0, y)
    nodes, weights = rule(path, y, known)
    assert weights @ [path.slope(s, y) for s in nodes] == pytest.approx(known, abs=1e-5)

    def rise_of_logdet(s):
        theta, speed = path.at(s)
        change = speed * path.T.weighted(np.array([-1.0, 1.0])) + path.change * theta[-1] * np.eye(30)
        return np.trace(np.linalg.solve(reduced_v(path.T, theta), change))

    ends = [np.linalg.slogdet(reduced_v(path.T, path.at(s)[0]))[1] for s in (0.0, 1.0)]
    assert weights @ [rise_of_logdet(s) for s in nodes] == pytest.approx(ends[1] - ends[0], abs=0.05)
