"""The reduced model of several traits: what the first trait's basis is to the others."""

from dataclasses import replace

import numpy as np
import pytest

from gpu_reml.reml import (
    FitSettings,
    Hooks,
    ProbeSettings,
    SolverSettings,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
    fit_traits,
    pack,
    unpack,
)
from gpu_reml.reml.engines import reduced_end, reduced_fit
from gpu_reml.reml.engines.reduced_fit import with_residuals as with_residuals_of
from gpu_reml.reml.engines.reduced_model import grown
from gpu_reml.validation.small import covariance_of

REDUCED = FitSettings(engine="reduced")
EXACT = FitSettings(
    engine="reduced",
    tol=1e-12,
    solver=SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13),
)


@pytest.fixture(scope="module")
def four_traits(large):
    """Phenotypes of one cohort with components in other proportions, one of them all noise."""
    rng, n = np.random.default_rng(4), large.n
    halves = [np.linalg.cholesky(K + 1e-9 * np.eye(n)) for K in large.Ks]
    variances = np.array([[0.1, 0.1, 0.1, 0.7], [0.5, 0.2, 0.1, 0.2], [0.0, 0.0, 0.0, 1.0], [0.0, 0.3, 0.3, 0.4]])
    noise = rng.standard_normal((4, n, 4))
    values = [
        sum(np.sqrt(v) * (half @ e) for v, half, e in zip(theta, [*halves, np.eye(n)], drawn.T, strict=True))
        for theta, drawn in zip(variances, noise, strict=True)
    ]
    return np.column_stack(values) * [1.0, 10.0, 1.0, 0.1]


def test_traits_that_share_a_basis_are_each_their_dense_fit_and_cost_less_than_alone(large, four_traits):
    arguments = large.X, covariance_of(large, np.float32), draw_probes(large.n, 128, 0, 0), REDUCED
    together = fit_traits(four_traits, *arguments)
    for y, found in zip(four_traits.T, together, strict=True):
        expected = fit_exact(y, large.X, covariance_of(large))
        assert found.converged and found.mc_target_met
        assert (np.abs(found.theta - expected.theta) <= 4 * found.mc_se + 0.01 * found.se).all()
        assert abs(found.loglik - expected.loglik) <= 4 * found.loglik_mc_se


def test_further_traits_start_from_the_basis_of_the_first_where_its_algebra_is_cheap(four_traits, large, monkeypatch):
    covariance, probes = covariance_of(large, np.float32), draw_probes(large.n, 32, 0, 0)
    settings = replace(REDUCED, solver=SolverSettings(probes=0.1), probes=ProbeSettings(mc_target=1))
    monkeypatch.setattr(reduced_end, "serves_as_base", lambda problem, model: True)
    same = np.column_stack([four_traits[:, 1], 3 * four_traits[:, 1] + 1])
    first, second = fit_traits(same, large.X, covariance, probes, settings)
    alone = fit(same[:, 0], large.X, covariance, probes, settings)
    np.testing.assert_allclose(second.theta, 9 * first.theta, atol=0.05 * second.se.max())
    assert first.column_passes == second.column_passes <= 1.6 * alone.column_passes


def test_a_basis_serves_further_traits_while_its_algebra_is_cheap_beside_passes_and_it_has_room(coarse):
    problem, model, _, _, _ = coarse
    W = np.random.default_rng(3).standard_normal((len(problem.Y), 60)).astype(np.float32)
    larger = grown(problem, model, W, np.arange(0), W[:, :0])
    assert reduced_end.serves_as_base(problem, model) and not reduced_end.serves_as_base(problem, larger)
    biobank = problem._replace(Q=np.zeros((10**6, 1)))
    assert reduced_end.serves_as_base(biobank, larger)
    narrow = replace(problem.settings, solver=SolverSettings(most_basis=70))
    assert not reduced_end.serves_as_base(biobank._replace(settings=narrow), larger._replace(B=larger.B[:, :10]))


def test_a_further_trait_moves_as_far_as_the_basis_answers_before_its_probes_are_looked_at(
    four_traits, large, monkeypatch
):
    looks, asked = [], []

    def noted(problem, state):
        looks.append((state.walk.trait, state.active is None, len(state.walk.history)))
        return with_residuals_of(problem, state)

    def foreseen(problem, probes, state):
        asked.append(len(looks))
        return state._replace(ahead=True)

    monkeypatch.setattr(reduced_fit, "with_residuals", noted)
    monkeypatch.setattr(reduced_fit, "foreseen", foreseen)
    monkeypatch.setattr(reduced_end, "serves_as_base", lambda problem, model: True)
    arguments = large.X, covariance_of(large, np.float32), draw_probes(large.n, 64, 0, 0)
    fit_traits(four_traits[:, [0, 1, 3]], *arguments, replace(REDUCED, probes=ProbeSettings(first=16, mc_target=0.15)))
    for trait in (0, 2):
        further = [(at, *rest) for at, (of_trait, *rest) in enumerate(looks) if of_trait == trait]
        first = [every for _, every, _ in further].index(True)
        assert first >= 3 and further[first][2] >= 2
        without_a_look = range(further[0][0] + 1, further[first][0] + 1)
        assert not set(asked) & set(without_a_look)  # how many probes the end wants is not asked before one


def test_with_exact_probes_the_order_of_traits_means_nothing(large, four_traits):
    y, X = four_traits[:150], large.X[:150]
    Ks = [K[:150, :150] for K in large.Ks]
    first, again = (fit_traits(Y, X, Ks, exact_probes(150), EXACT) for Y in (y, y[:, ::-1]))
    for one, other in zip(first, again[::-1], strict=True):
        np.testing.assert_allclose(one.theta, other.theta, rtol=1e-5, atol=1e-6 * one.theta.sum())
        assert one.loglik == pytest.approx(other.loglik, abs=1e-6)


def test_several_traits_resume_from_any_round_to_the_last_bit(large, four_traits):
    """Some have ended by then; a narrow basis has been started again."""
    states = []
    settings = replace(REDUCED, solver=SolverSettings(most_basis=110), probes=ProbeSettings(first=16, mc_target=0.2))
    arguments = four_traits, large.X, covariance_of(large, np.float32), draw_probes(large.n, 24, 0, 3), settings
    whole = fit_traits(*arguments, hooks=Hooks(checkpoint=lambda value: states.append(pack(value))), strict=False)
    for state in states[:: max(1, len(states) // 5)]:
        resumed = fit_traits(*arguments, hooks=Hooks(resume=unpack(*state)), strict=False)
        for one, other in zip(resumed, whole, strict=True):
            assert (one.theta == other.theta).all() and one.loglik == other.loglik and one.history == other.history
            assert one.column_passes == other.column_passes
