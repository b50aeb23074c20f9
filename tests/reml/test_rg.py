"""Genetic correlations against a dense REML of every (trait, person) pair, and what units and order must not change."""

import numpy as np
import pandas as pd
import pytest
from bed_reader import open_bed
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import (
    ConvergenceError,
    CountingCovariance,
    FitSettings,
    RgSettings,
    SolverSettings,
    draw_probes,
    exact_probes,
    fit,
    fit_rg,
)
from gpu_reml.reml.studies.rg import bench_of
from gpu_reml.reml.studies.rg_pairs import images_for, probe_residuals, true_residuals
from gpu_reml.validation.bivariate import dense_covariances
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.rg_study import phenotypes, row_of
from gpu_reml.validation.small import covariance_of, make_cohort, two_traits


@pytest.fixture(scope="module")
def cohorts():
    return {g: make_cohort(90, 240, g, seed=2, overlap=False) for g in (1, 3)}


def exactly(cohort, Y, X=None, **options):
    X = cohort.X if X is None else X
    return fit_rg(Y, X, covariance_of(cohort), exact_probes(cohort.n), **options)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_exact_probes_give_the_dense_fit_of_traits_of_different_people(cohorts, components, overlap):
    cohort = cohorts[components]
    Y, _ = two_traits(cohort, overlap, seed=5)
    (found,), dense = exactly(cohort, Y).fits, dense_covariances(Y, cohort.X, cohort.Ks, starts=1)
    se = np.sqrt(np.diag(dense.covariance))
    known = np.isfinite(se)
    off = (found.entries.vector(found.S) - found.entries.vector(dense.S))[known] / se[known]
    assert np.abs(off).max() < 1e-4
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance))[known], se[known], rtol=1e-4)
    assert known.all() == (overlap > 0)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_a_row_has_the_dense_correlation_and_its_likelihood_ratios(cohorts, overlap):
    cohort = cohorts[1]
    Y, _ = two_traits(cohort, overlap, seed=11)
    row = exactly(cohort, Y).to_frame().iloc[0]
    best = dense_covariances(Y, cohort.X, cohort.Ks, starts=1)
    zero = dense_covariances(Y, cohort.X, cohort.Ks, uncorrelated=(0,), starts=1)
    one = dense_covariances(Y, cohort.X, cohort.Ks, rank_one=(0,), starts=2)
    rg, se = best.correlation(0, 0, 1)
    means = [np.mean(np.diag(cohort.Ks[0])[~np.isnan(y)]) for y in Y.T]
    np.testing.assert_allclose([row.rg, row.lrt_rg0], [rg, 2 * (best.loglik - zero.loglik)], atol=1e-5)
    np.testing.assert_allclose(row.lrt_rg1, 2 * (best.loglik - one.loglik), atol=1e-5)
    np.testing.assert_allclose(row.covariance, best.S[0, 0, 1] * np.sqrt(np.prod(means)), rtol=1e-4)
    if abs(rg) < 1 - 1e-5:
        np.testing.assert_allclose(row.rg_se, se, rtol=1e-4)
    else:
        assert np.isnan(row.rg_se) and "rg_at_bound" in row.status and row.p_rg1 == 1


def test_residuals_of_traits_that_share_nobody_have_no_covariance(cohorts):
    Y, _ = two_traits(cohorts[1], 0.0, seed=3)
    row = exactly(cohorts[1], Y).to_frame().iloc[-1]
    assert (row.component, row.n_common, row.status) == ("residual", 0, "converged,no_common_people")
    assert np.isnan(row[["covariance", "covariance_se", "rg", "rg_se", "p_rg0"]].astype(float)).all()


def test_a_trait_without_genetic_variance_has_no_genetic_correlation(cohorts):
    cohort = cohorts[1]
    Y, _ = two_traits(cohort, 1.0, seed=3)
    values, vectors = np.linalg.eigh(cohort.Ks[0])
    Y[:, 1] = vectors @ (np.random.default_rng(1).standard_normal(cohort.n) / (0.1 + np.maximum(values, 0)))
    row = exactly(cohort, Y).to_frame().iloc[0]
    assert row.variance_2 < 1e-4 * Y[:, 1].var() and row.status == "converged,variance_2_zero"
    assert np.isnan(row[["rg", "rg_se", "p_rg0", "p_rg1", "covariance_se"]].astype(float)).all()


def test_likelihood_ratios_of_no_correlation_add_up_over_components_of_total(cohorts):
    Y, _ = two_traits(cohorts[3], 1.0, seed=5)
    frame = exactly(cohorts[3], Y).to_frame()
    assert frame.component.tolist() == ["component_000", "component_001", "component_002", "total", "residual"]
    total = frame[frame.component == "total"].iloc[0]
    np.testing.assert_allclose(total.covariance, frame.covariance[:3].sum(), rtol=1e-9)
    np.testing.assert_allclose(total.rg, total.covariance / np.sqrt(total.variance_1 * total.variance_2), rtol=1e-9)
    assert total.lrt_rg0 > 0 and np.isnan(total.lrt_rg1)


@settings(max_examples=6, deadline=None)
@given(st.floats(1e-3, 1e3), st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.sampled_from([0.0, 0.5, 1.0]))
def test_order_units_and_fixed_effects_change_nothing_else(scale, b, overlap):
    cohort = make_cohort(60, 120, 1, seed=7)
    Y, _ = two_traits(cohort, overlap, seed=4)
    plain = exactly(cohort, Y).to_frame()
    other = np.column_stack([scale * Y[:, 1], Y[:, 0] + cohort.X @ np.array(b)])
    changed = exactly(cohort, other).to_frame()
    for name, factor in (("rg", 1), ("rg_se", 1), ("lrt_rg0", 1), ("covariance", scale), ("covariance_se", scale)):
        np.testing.assert_allclose(changed[name], factor * plain[name], rtol=1e-4, atol=1e-5 * factor)
    np.testing.assert_allclose(changed.variance_1, scale**2 * plain.variance_2, rtol=1e-4, atol=1e-6 * scale**2)
    np.testing.assert_allclose(changed.variance_2, plain.variance_1, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("overlap", "components"), [(1.0, 1), (1.0, 3), (0.4, 1)])
def test_random_probes_err_as_they_say(overlap, components):
    cohort = make_cohort(300, 900, components, seed=5, overlap=False)
    Y, _ = two_traits(cohort, overlap, seed=6)
    (exact,) = exactly(cohort, Y).fits
    found = fit_rg(Y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, seed=1))
    (fitted,) = found.fits
    assert found.num_probes < cohort.n / 2
    off = fitted.entries.vector(fitted.S - exact.S)
    mc, se = (np.sqrt(np.diag(matrix)) for matrix in (fitted.mc_covariance, exact.covariance))
    assert (np.abs(off) <= 4 * mc + 0.01 * se).all()
    assert (mc < 0.2 * se).all()
    np.testing.assert_allclose(np.sqrt(np.diag(fitted.covariance)), se, rtol=0.1)
    for ratio, truth in zip((*fitted.rg0[0], *fitted.rg1[0]), (*exact.rg0[0], *exact.rg1[0]), strict=True):
        assert np.isnan(truth.p) or abs(ratio.statistic - truth.statistic) <= 4 * ratio.mc_se + 0.05


@pytest.mark.parametrize("overlap", [False, True])
def test_a_look_at_probes_of_different_people_reads_every_basis_once(overlap):
    cohort = make_cohort(150, 300, 2, seed=5, overlap=overlap)
    Y, _ = two_traits(cohort, 0.5, seed=6)
    counting = CountingCovariance(covariance_of(cohort))
    bench = bench_of(Y, [cohort.X] * 2, counting, draw_probes(cohort.n, seed=1), FitSettings())
    stack, S = bench.stack((0, 1)), np.array([[[0.3, 0.1], [0.1, 0.4]], [[0.2, -0.1], [-0.1, 0.2]], 0.5 * np.eye(2)])
    before, s = counting.column_passes, stack.num_probes
    *_, worst = probe_residuals(bench, (0, 1), stack, S)
    assert counting.column_passes - before == 2 * counting.overlap * 2 * s / 2 and worst > 0.01
    # against dense products of what the probes' solutions leave
    people = [bench.people[member.people] for member in bench.members]
    C = np.random.default_rng(0).standard_normal((sum(len(y) for y in stack.y), 2 * s))
    found = true_residuals(bench, people, stack, S, C)
    x = [np.concatenate([np.asarray(u) for u in each.model.basis.U], axis=1) for each in people]
    for b, own in enumerate(people):
        rows, z = own.rows, np.asarray(own.model.probe_block(slice(0, s)))
        left = np.zeros((len(rows), 2 * s))
        left[:, b * s : (b + 1) * s] = z
        for c, other in enumerate(people):
            K = sum(S[g, b, c] * cohort.Ks[g] for g in range(2)) + S[2, b, c] * np.eye(cohort.n)
            left -= K[np.ix_(rows, other.rows)] @ x[c] @ C[stack.sizes[c]]
        Q = np.asarray(own.problem.Q)
        np.testing.assert_allclose(np.asarray(found[b]), left - Q @ (Q.T @ left), atol=1e-4 * np.abs(left).max())


@pytest.mark.parametrize(("overlap", "traits"), [(False, 2), (True, 1), (True, 2)])
def test_images_with_weights_cost_the_overlap_or_one_for_each_trait(overlap, traits):
    cohort = make_cohort(60, 90, 3, seed=5, overlap=overlap)
    counting = CountingCovariance(covariance_of(cohort))
    B, weights = np.random.default_rng(1).standard_normal((60, 2)), np.array([[1.0, 0.2], [-0.5, 0], [0.3, 2.0]])
    F, weights = counting.features(B), weights[:, :traits]
    before = counting.column_passes
    for column, image in zip(weights.T, images_for(counting, weights, F), strict=True):
        np.testing.assert_allclose(image, sum(w * K for w, K in zip(column, cohort.Ks, strict=True)) @ B, atol=1e-4)
    assert np.isclose(counting.column_passes - before, min(counting.overlap, traits))
    assert (counting.overlap > 1) == overlap


def test_two_sites_that_share_nobody_give_the_genetic_correlation_that_was_simulated():
    cohort = make_cohort(1200, 100, 1, seed=3, overlap=False)
    Y = phenotypes(cohort.Ks[0], 0.6, 0.0, 1, seed=2)
    X = np.column_stack([np.ones(cohort.n), np.isnan(Y[:, 0])])  # and the second site has a mean of its own
    Y = Y + 3 * X[:, 1:]
    found = fit_rg(Y, X, covariance_of(cohort), draw_probes(cohort.n, seed=1)).to_frame()
    row = found.iloc[0]
    assert row.n_common == 0 and row.status == "converged"
    assert row.rg_se < 0.1 and abs(row.rg - 0.6) < 2.5 * row.rg_se
    assert row.p_rg0 < 1e-3 and row.p_rg1 < 0.05


def test_traits_fitted_jointly_have_matrices_that_are_positive_semidefinite(cohorts):
    cohort = cohorts[1]
    first, _ = two_traits(cohort, 1.0, seed=1)
    second, _ = two_traits(cohort, 0.6, seed=2)
    Y = np.column_stack([first, second[:, 0]])
    (found,) = exactly(cohort, Y, rg=RgSettings(joint=True)).fits
    dense = dense_covariances(Y, cohort.X, cohort.Ks, starts=1)
    off = (found.entries.vector(found.S) - found.entries.vector(dense.S)) / np.sqrt(np.diag(dense.covariance))
    assert np.abs(off).max() < 1e-4
    assert (np.linalg.eigvalsh(found.S) > -1e-9 * np.abs(found.S).max()).all()


@pytest.mark.parametrize("seed", [1, 4])
def test_every_two_of_traits_fitted_jointly_have_the_likelihood_ratios_of_dense_fits(seed):
    cohort = make_cohort(36, 50, 1, seed=2, overlap=False)
    Y = np.hstack([two_traits(cohort, 1.0, seed=seed)[0], two_traits(cohort, 0.6, seed=seed + 1)[0][:, :1]])
    Y[:, 2] += Y[:, 0]
    found = exactly(cohort, Y, rg=RgSettings(joint=True))
    rows = {(a, b): row for a, b, _, row in found.rows() if row.component == found.names[0]}
    assert list(rows) == [(0, 1), (0, 2), (1, 2)]
    for (a, b), row in rows.items():
        own = Y[:, [a, b, 3 - a - b]]
        best, zero, one = (
            dense_covariances(own, cohort.X, cohort.Ks, **restricted, starts=starts).loglik
            for restricted, starts in (({}, 1), ({"uncorrelated": (0,)}, 1), ({"rank_one": (0,)}, 2))
        )
        found_ratios = [row.rg0.statistic, row.rg1.statistic]
        np.testing.assert_allclose(found_ratios, [2 * (best - zero), 2 * (best - one)], atol=1e-4)
        tails = stats.chi2.sf(row.rg1.statistic, [1, 2])
        np.testing.assert_allclose([row.rg0.p, row.rg1.p], [stats.chi2.sf(row.rg0.statistic, 1), tails.mean()])
    assert any(row.rg1.statistic > 1 for row in rows.values())


def test_all_pairs_of_a_frame_are_named_and_a_trait_alone_has_its_own_fit(cohorts):
    cohort = cohorts[1]
    Y = pd.DataFrame(np.hstack([two_traits(cohort, 1.0, seed=k)[0] for k in (1, 2)])[:, :3], columns=list("abc"))
    found = exactly(cohort, Y, rg=RgSettings(tests=False))
    assert found.to_frame()[["trait_1", "trait_2"]].drop_duplicates().to_numpy().tolist() == [
        ["a", "b"],
        ["a", "c"],
        ["b", "c"],
    ]
    alone = fit(Y["b"].to_numpy(), cohort.X, covariance_of(cohort), exact_probes(cohort.n))
    np.testing.assert_allclose(found.variances[1], alone.theta, rtol=1e-3, atol=1e-4 * alone.theta.sum())
    assert found.matrix("residual").loc["a", "c"] == found.to_frame().query("component == 'residual'").rg.iloc[1]
    one = exactly(cohort, Y, rg=RgSettings(pairs=((2, 0),), tests=False)).to_frame()
    assert one.trait_1.tolist() == ["c"] * 3 and one.trait_2.tolist() == ["a"] * 3


def test_a_covariate_that_is_constant_among_the_people_of_a_trait_is_none_of_its_fixed_effects(cohorts):
    cohort = cohorts[1]
    Y, _ = two_traits(cohort, 0.0, seed=3)
    site = np.isnan(Y[:, 0]).astype(float)
    X = np.column_stack([cohort.X, site])
    with_site, without = exactly(cohort, Y, X).to_frame(), exactly(cohort, Y).to_frame()
    np.testing.assert_allclose(with_site.covariance, without.covariance, rtol=1e-6)


def test_traits_of_the_same_people_may_have_fixed_effects_of_their_own(cohorts):
    cohort = cohorts[1]
    Y, _ = two_traits(cohort, 1.0, seed=3)
    own = [cohort.X, cohort.X[:, :1]]
    (found,) = exactly(cohort, Y, own).fits
    n = cohort.n
    X = np.zeros((2 * n, 4))  # one trait above the other, as a model of all values
    X[:n, :3], X[n:, 3:] = own

    def loglik(S):
        V = np.kron(S[0], cohort.Ks[0]) + np.kron(S[1], np.eye(n))
        inverse = np.linalg.inv(V)
        XVX = X.T @ inverse @ X
        y = Y.T.ravel()
        left = y @ inverse @ y - y @ inverse @ X @ np.linalg.solve(XVX, X.T @ inverse @ y)
        return -0.5 * (np.linalg.slogdet(V)[1] + np.linalg.slogdet(XVX)[1] + left)

    top, entries = loglik(found.S), found.entries
    theta, units = entries.vector(found.S), np.diag(np.linalg.inv(found.covariance)) ** -0.5
    for step in 0.05 * np.diag(units):
        rises = [loglik(entries.matrices(theta + sign * step)) - top for sign in (-1, 1)]
        assert max(rises) < 0 and abs(rises[0] - rises[1]) < 0.1 * abs(sum(rises))  # the top lies between them
    same = exactly(cohort, Y, [cohort.X, cohort.X.copy()]).to_frame()
    np.testing.assert_array_equal(same.covariance, exactly(cohort, Y).to_frame().covariance)


def test_a_trait_beside_its_own_multiple_is_not_said_to_have_converged(cohorts):
    y = two_traits(cohorts[1], 1.0, seed=3)[0][:, 0]
    for factor in (1.0, -2.0):
        found = exactly(cohorts[1], np.column_stack([y, factor * y]), strict=False)
        frame = found.to_frame()
        assert not found.converged and (frame.status == "screened,singular").all()
        assert frame[["covariance", "covariance_se", "rg", "rg_se", "p_rg0"]].isna().all(axis=None)


def test_a_basis_without_room_is_said(cohorts):
    cohort = make_cohort(300, 900, 1, seed=5, overlap=False)
    Y, _ = two_traits(cohort, 1.0, seed=6)
    few = FitSettings(solver=SolverSettings(most_basis=40))
    with pytest.raises(ConvergenceError, match="1 of 1 fits of traits have not converged") as error:
        fit_rg(Y, cohort.X, covariance_of(cohort), draw_probes(cohort.n, seed=1), few, rg=RgSettings(tests=False))
    assert "basis_too_small" in error.value.result.to_frame().status.iloc[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Y": np.ones(90)}, r"Y: expected two or more traits \(n, T\), found \(90,\)"),
        ({"Y": np.full((90, 2), np.inf)}, "Y: value inf of sample 0, trait 0 is not finite; NaN is missing"),
        ({"Y": np.full((90, 2), np.nan)}, r"Y\[:, 0\]: is measured in 0 people, too few beside 3 fixed effects"),
        ({"X": np.ones((80, 1))}, r"X: expected \(90, c\), found \(80, 1\)"),
        ({"X": [np.ones((90, 1))]}, "X: expected 2 matrices, one for each trait, found 1"),
        ({"X": [np.ones((90, 1)), np.ones(90)]}, r"X\[1\]: expected \(90, c\), found \(90,\)"),
        ({"X": [np.ones((90, 1)), np.full((90, 1), np.nan)]}, r"X\[1\]: has a value that is not finite"),
        ({"rg": RgSettings(pairs=((0, 2),))}, r"pairs: expected two different traits of 0 to 1, found \(0, 2\)"),
        ({"rg": RgSettings(pairs=())}, "pairs: expected at least one, found none"),
        ({"Y": pd.DataFrame(np.ones((90, 2)), columns=["a", "a"])}, "Y: expected columns of different names"),
        ({"Y": np.ones((90, 11)), "rg": RgSettings(joint=True)}, "joint: is for up to 10 traits, found 11"),
    ],
)
def test_what_is_wrong_with_arguments_is_said(cohorts, change, message):
    given = {"Y": two_traits(cohorts[1], 1.0, seed=3)[0], "X": cohorts[1].X, **change}
    with pytest.raises(ValueError, match=message):
        fit_rg(given.pop("Y"), given.pop("X"), covariance_of(cohorts[1]), exact_probes(90), **given)


def test_rows_of_a_study_say_how_often_intervals_cover():
    rows = pd.DataFrame(
        {
            "true_rg": 0.0,
            "overlap": 1.0,
            "status": ["converged", "converged", "converged,rg_at_bound", "screened"],
            "rg": [0.1, -0.5, 1.0, 0.1],
            "rg_se": [0.1, 0.2, np.nan, 0.2],
            "covariance": [0.01, 0.5, 0.1, 0.0],
            "covariance_se": [0.1, 0.1, 0.1, 0.1],
            "p_rg0": [0.3, 0.04, 0.001, 0.9],
            "p_rg1": 0.5,
        }
    )
    row = row_of(rows)
    assert (row["covers rg"], row["covers cov"], row["size 0.05"], row["at bound"]) == (2 / 3, 0.75, 0.5, 1)
    assert row["not converged"] == 1


@pytest.mark.external
def test_two_traits_of_mice_have_the_matrices_that_gemma_published(external_data):
    """example/demo.txt of GEMMA (genetics-statistics/GEMMA), on imputed dosages; here they are rounded to calls."""
    mice = open_bed(external_data / "mouse_hs1940" / "mouse_hs1940.bed")
    Y = pd.read_csv(external_data / "mouse_hs1940" / "pheno.txt", sep=r"\s+")[["CD8", "MCH"]].to_numpy()
    counts = mice.read(dtype="float64")
    measured = counts[~np.isnan(Y[:, 0])]
    freq = np.nanmean(measured, axis=0) / 2
    kept = (np.minimum(freq, 1 - freq) >= 0.01) & (np.isnan(measured).mean(axis=0) <= 0.05)
    assert kept.sum() == 10_768  # as GEMMA says
    Z = counts[:, kept]
    Z = np.nan_to_num(Z - np.nanmean(Z, axis=0))
    both = ~np.isnan(Y).any(axis=1)
    K = Z[both] @ Z[both].T / kept.sum()
    found = fit_rg(Y[both], np.ones((both.sum(), 1)), K, rg=RgSettings(tests=False))
    (fitted,) = found.fits
    published = np.array([1.39398, -0.226714, 2.08168, 0.348882, 0.0490525, 0.414433])
    errors = np.array([0.156661, 0.136319, 0.235858, 0.0206226, 0.0166233, 0.0266869])
    assert (np.abs(fitted.entries.vector(fitted.S) - published) < 0.15 * errors).all()
    np.testing.assert_allclose(np.sqrt(np.diag(fitted.covariance)), errors, rtol=0.05)


@pytest.mark.parametrize(("overlap", "components"), [(1.0, 1), (1.0, 2), (0.5, 1)])
def test_blocks_of_a_device_give_the_same_correlations(overlap, components):
    cohort = make_cohort(200, 500, components, seed=5, overlap=False)
    Y, _ = two_traits(cohort, overlap, seed=6)
    probes = draw_probes(cohort.n, seed=1)
    device = make_covariance(make_device_products(cohort.genotypes, [HostDevice(label="device 0")]), cohort.W)
    host = make_covariance(CpuProducts(cohort.genotypes), cohort.W)
    there, here = (fit_rg(Y, cohort.X, each, probes).to_frame() for each in (device, host))
    np.testing.assert_allclose(there.covariance, here.covariance, atol=0.02 * here.covariance_se.max())
    np.testing.assert_allclose(there.lrt_rg0, here.lrt_rg0, atol=0.05)
