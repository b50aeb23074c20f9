"""What is reported of variances: those explained, the residual at its bound, sums of components of several kinds."""

from dataclasses import replace

import numpy as np
import pytest

from gpu_reml.io import json_text
from gpu_reml.reml import (
    FitSettings,
    SolverSettings,
    dense_covariance,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
    haseman_elston,
    with_residuals,
)
from gpu_reml.reml.inference import sampling_covariance
from gpu_reml.reml.tables import Sum
from gpu_reml.validation.small import covariance_of, make_cohort

ENGINES = ("exact", "krylov", "reduced")


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(150, 600, 1, seed=4)


def fitted(engine, y, X, covariance, floor=1e-6):
    if engine == "exact":
        return fit_exact(y, X, covariance, FitSettings(residual_floor=floor))
    solver = SolverSettings(y=1e-10, probes=1e-10, information=1e-8, final=1e-11)
    settings = FitSettings(engine=engine, residual_floor=floor, tol=1e-10, solver=solver)
    return fit(y, X, covariance, exact_probes(len(y), 20), settings)


@pytest.fixture(scope="module")
def without_noise(cohort):
    """A phenotype made of the genotypes, and its fits: more variance than the residual leaves room for."""
    values, vectors = np.linalg.eigh(cohort.Ks[0])
    y = vectors @ (np.sqrt(np.maximum(values, 0)) * np.random.default_rng(2).standard_normal(cohort.n))
    return {engine: fitted(engine, y, cohort.X, covariance_of(cohort), floor=0.3) for engine in ENGINES}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_residual_at_its_bound_is_flagged_and_has_no_standard_error(without_noise, engine):
    found = without_noise[engine]
    assert found.residuals_at_bound == ("residual",) and found.at_bound.tolist() == [False, True]
    assert np.isnan([found.se[1], found.h2.se[0], found.h2.se[1], found.vp.se[0]]).all()
    record = found.to_dict()
    assert [row["at_bound"] for row in (*record["components"], *record["residuals"])] == [False, True]
    assert '"se": null' in json_text(record["residuals"]) and '"se": null' in json_text(record["h2"])
    text = found.summary()
    (residual,) = [line for line in text.splitlines() if line.startswith("residual")]
    assert residual.split()[2] == "NA" and residual.endswith("at bound")
    assert f"h2 = {found.h2.estimate[-1]:.6f}  SE NA" in text and "nan" not in text


@pytest.mark.parametrize("engine", ENGINES)
def test_at_the_residuals_bound_a_components_error_is_that_with_the_residual_held(without_noise, cohort, engine):
    found = without_noise[engine]
    held = found.information[0, 0] ** -0.5
    assert found.se[0] == pytest.approx(held, rel=1e-12)
    assert found.se[0] == pytest.approx(without_noise["exact"].se[0], rel=1e-3)  # one answer whatever the method
    assert found.shares.se[0] == pytest.approx(0, abs=1e-12)  # does not depend on the residual


@pytest.mark.parametrize("engine", ["exact", "krylov"])
def test_the_interval_at_the_bound_is_one_sided(without_noise, engine):
    found = without_noise[engine]
    assert found.profile.upper == pytest.approx(1) and found.profile.lower < found.h2.estimate[-1]
    assert f"interval from {found.profile.lower:.6g} up" in found.summary()


def test_one_residual_at_its_bound_beside_another_keeps_its_error():
    """Groups of samples: V is far from singular where one has no noise, and errors hold as a component's."""
    cohort = make_cohort(120, 500, 1, seed=6)
    rng = np.random.default_rng(1)
    clean = np.arange(cohort.n) < 30
    y = np.linalg.cholesky(cohort.Ks[0] + 1e-9 * np.eye(cohort.n)) @ rng.standard_normal(cohort.n)
    y += np.where(clean, 0, 2) * rng.standard_normal(cohort.n)
    model = with_residuals(dense_covariance(cohort.Ks, ["grm"]), np.stack([clean, ~clean], axis=1), ["clean", "noisy"])
    found = fit_exact(y, np.ones((cohort.n, 1)), model)
    assert found.at_bound.tolist() == [False, True, False] and not found.residuals_at_bound
    assert np.isfinite([*found.se, *found.h2.se]).all()
    assert "at bound" in found.summary()


def test_errors_without_the_residuals_are_those_with_them_held():
    information = np.array([[4.0, 1.0, 3.0], [1.0, 9.0, 2.0], [3.0, 2.0, 16.0]])
    found = sampling_covariance(information, np.array([False, False, True]))
    np.testing.assert_allclose(found[:2, :2], np.linalg.inv(information[:2, :2]))
    assert np.isnan(found[2]).all() and np.isnan(found[:, 2]).all()


def test_haseman_elston_names_a_residual_below_zero(cohort):
    values, vectors = np.linalg.eigh(cohort.Ks[0])
    y = vectors @ (values * np.random.default_rng(5).standard_normal(cohort.n))
    found = haseman_elston(y, np.ones((cohort.n, 1)), cohort.Ks, exact_probes(cohort.n))
    assert found.theta[-1] < 0
    (line,) = [line for line in found.summary().splitlines() if line.startswith("residual")]
    assert line.endswith("below zero")


def test_the_variance_of_a_component_is_what_it_explains_and_theta_is_named(cohort):
    """K whose mean diagonal is 0.4: tables agree with K scaled to 1, but for theta."""
    K = cohort.Ks[0] / np.trace(cohort.Ks[0]) * cohort.n
    one, scaled = (fit_exact(cohort.y, cohort.X, [matrix]) for matrix in (K, 0.4 * K))
    for name in ("variances", "h2", "vp"):
        for a, b in zip(getattr(scaled, name), getattr(one, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    row, expected = (each.to_dict()["components"][0] for each in (scaled, one))
    assert row["variance"] == pytest.approx(expected["variance"], rel=1e-6)
    assert row["se"] == pytest.approx(expected["se"], rel=1e-5)
    assert row["theta"] == pytest.approx(expected["theta"] / 0.4, rel=1e-6)
    assert row["theta_se"] == pytest.approx(scaled.se[0])
    lines = {name: each.summary().splitlines() for name, each in (("one", one), ("scaled", scaled))}
    assert "theta" in lines["scaled"][0] and "theta" not in lines["one"][0]
    assert lines["scaled"][1].split()[1] == lines["one"][1].split()[1]
    frame = scaled.to_frame()
    assert frame["variance"].sum() == pytest.approx(scaled.vp.estimate[0])


def test_sums_of_components_are_their_shares_of_the_phenotypic_variance():
    cohort = make_cohort(150, 400, 3, seed=7)
    found = fit_exact(cohort.y, cohort.X, covariance_of(cohort))
    sums = (Sum("h2", "additive", (0, 2)), Sum("d2", "dominance", (1,)), Sum("H2", "broad sense", (0, 1, 2)))
    labelled = replace(found, sums=sums)
    (_, h2), (_, d2), (_, H2) = labelled.heritabilities
    assert h2.estimate[0] + d2.estimate[0] == pytest.approx(H2.estimate[0])
    np.testing.assert_allclose([part[0] for part in H2], [part[-1] for part in found.h2])
    np.testing.assert_allclose([part[0] for part in d2], [part[1] for part in found.h2])
    t, step = found.mean_traces, 1e-6
    slope = [
        (np.dot(theta[[0, 2]], t[[0, 2]]) / (theta[:3] @ t + theta[3]) - h2.estimate[0]) / step
        for theta in found.theta + step * np.eye(4)
    ]
    assert h2.se[0] == pytest.approx(np.sqrt(slope @ found.covariance @ slope), rel=1e-4)
    record = labelled.to_dict()
    assert record["h2"]["components"] == ["component_000", "component_002"] and record["H2"]["meaning"] == "broad sense"
    assert "d2 = " in labelled.summary() and "(dominance: component_001)" in labelled.summary()


def test_an_unknown_monte_carlo_error_is_na_not_nan(cohort):
    found = fit(cohort.y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, 2, seed=1))
    assert np.isnan(found.mc_se).all() and np.isnan(found.mc_ratio)
    assert "nan" not in found.summary() and "Monte-Carlo error NA" in found.summary()


def test_a_p_value_below_what_floats_hold_is_said_to_be_so(cohort):
    found = fit_exact(cohort.y, cohort.X, covariance_of(cohort))
    assert f"p = {found.lrt.p:.3g}" in found.summary()
    assert "p < 1e-300" in replace(found, lrt=found.lrt._replace(p=0.0)).summary()


def many_components(num):
    """Estimates of so many components, none of which matters."""
    rng = np.random.default_rng(3)
    Z, y = rng.standard_normal((num, 60, 80)), rng.standard_normal(60)
    return haseman_elston(y, np.ones((60, 1)), [z @ z.T / 80 for z in Z], draw_probes(60, 20, seed=1))


@pytest.mark.parametrize("num", [2, 60])
def test_a_result_shows_itself_on_one_screen(num):
    result = many_components(num)
    lines, summary = repr(result).splitlines(), result.summary().splitlines()
    h2 = result.h2.estimate[-1]
    assert lines[0].startswith(f"HEResult: Haseman-Elston regression, 60 samples; h2 = {h2:.6f}")
    assert len(lines) <= 32
    if num == 2:
        assert lines[1:] == summary
    else:
        (gap,) = (k for k, line in enumerate(lines) if line.startswith("..."))
        hidden = int(lines[gap].split()[1])
        assert lines[1:gap] == summary[: gap - 1] and lines[gap + 1 :] == summary[gap - 1 + hidden :]


def test_a_notebook_shows_components_as_a_table_and_escapes_their_names():
    result = replace(many_components(2), names=("<b>", "rest"))
    shown = result._repr_html_()
    assert "&lt;b&gt;" in shown and "<b>" not in shown and "Haseman-Elston regression, 60 samples" in shown
    assert shown.count("<tr") == 4 and f"h2 = {result.h2.estimate[-1]:.6f}" in shown.split("<pre>")[1]
