"""Levels of samples - groups, records, animals of a pedigree - against dense formulas and mixed-model equations."""

import numpy as np
import pytest
from scipy import sparse

from gpu_reml import ops
from gpu_reml.reml import (
    IncidenceCovariance,
    as_covariance,
    effects,
    exact_probes,
    fit,
    fit_exact,
    grouping,
    incidence,
    legendre_basis,
    level_reliability,
    level_values,
    levels_of,
    random_regression,
    records,
    single_step,
    variant_effects,
    with_residuals,
)
from gpu_reml.validation import check_operator
from gpu_reml.validation.herds import mixed_model_equations, random_pedigree, tabular_relationship

EXACT = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def herd():
    """150 animals of which 100 have one to four of 200 records each, in 12 herds; 300 variants."""
    rng = np.random.default_rng(7)
    sire, dam = random_pedigree(150, 15, seed=2)
    rows = np.sort(rng.choice(rng.permutation(150)[:100], 200))
    groups = rng.integers(0, 12, 200)
    counts = rng.binomial(2, 0.4, (150, 300)).astype(np.int8)
    X = np.column_stack([np.ones(200), rng.standard_normal(200)])
    A = tabular_relationship(sire, dam)
    u = np.linalg.cholesky(A + 1e-12 * np.eye(150)) @ rng.standard_normal(150)
    y = 3 + u[rows] + 0.7 * rng.standard_normal(12)[groups] + 0.5 * rng.standard_normal(150)[rows]
    return {
        "A": A,
        "pedigree": ops.PedigreeCovariance(ops.make_pedigree(sire, dam)),
        "rows": rows,
        "groups": groups,
        "genotypes": ops.standardise([ops.pack(counts)], 150),
        "X": X,
        "y": y + rng.standard_normal(200),
    }


def genomic(herd):
    return ops.make_covariance(ops.make_products(herd["genotypes"], "cpu", np.float64), names=["genomic"])


def genomic_dense(herd):
    Z = ops.to_dense(herd["genotypes"])
    return Z @ Z.T / Z.shape[1]


def test_every_product_of_levels_is_that_of_the_dense_matrix(herd):
    rng = np.random.default_rng(0)
    several = sparse.random_array((60, 150), density=0.03, rng=rng).tocsr()
    one = incidence(rng.integers(-1, 150, 60), 150)
    B = rng.standard_normal((60, 5))
    bases = [(herd["pedigree"], herd["A"]), (genomic(herd), genomic_dense(herd)), (herd["A"], herd["A"])]
    bases += [(sparse.csr_array(herd["A"]), herd["A"])]
    for Z in (several, one):
        for base, K in bases:
            found, dense = IncidenceCovariance(base, Z), Z @ K @ Z.toarray().T
            np.testing.assert_allclose(found.apply([2.0], B), 2 * dense @ B, **EXACT)
            np.testing.assert_allclose(found.diagonals()[:, 0], np.diag(dense), **EXACT)
            F = found.features(B)
            np.testing.assert_allclose(found.gram(F)[0], B.T @ dense @ B, **EXACT)
            np.testing.assert_allclose(found.apply_each(F)[0], dense @ B, **EXACT)
            np.testing.assert_allclose(found.core(B)[0], B.T @ dense @ B, **EXACT)
            assert all(report.ok for report in check_operator(found))


def model_of(herd):
    """Genotypes of animals, their pedigree, permanent environments and herds of records, and the same as matrices."""
    rows, groups = herd["rows"], herd["groups"]
    Z = incidence(rows, 150).toarray()
    W = np.eye(12)[groups]
    parts = [
        records(genomic(herd), rows),
        records(herd["pedigree"], rows),
        grouping(rows, "iid"),
        grouping(groups, "herd"),
    ]
    dense = [Z @ genomic_dense(herd) @ Z.T, Z @ herd["A"] @ Z.T, Z @ Z.T, W @ W.T]
    return parts, dense


def test_a_list_of_genotypes_pedigree_records_herds_and_residual_groups_is_fitted_as_its_matrices(herd):
    parts, dense = model_of(herd)
    halves = np.repeat(np.eye(2), 100, axis=0)
    found = fit(herd["y"], herd["X"], with_residuals(parts, halves), exact_probes(200))
    expected = fit_exact(herd["y"], herd["X"], with_residuals(dense, halves))
    np.testing.assert_allclose(found.theta, expected.theta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.loglik, expected.loglik, atol=1e-6)
    exact = fit_exact(herd["y"], herd["X"], parts)
    np.testing.assert_allclose(exact.theta, fit_exact(herd["y"], herd["X"], dense).theta, rtol=1e-7, atol=1e-9)


def test_blocks_of_weights_of_people_stand_beside_a_pedigree_and_residual_groups(herd):
    rng, rows = np.random.default_rng(4), herd["rows"]
    halves = [W @ W.T / 150 + np.eye(150) for W in rng.standard_normal((2, 150, 150))]
    smile = ops.make_block_covariance(ops.make_products(herd["genotypes"], "cpu", np.float64), [halves], ["smile"])
    Z, G = incidence(rows, 150).toarray(), ops.to_dense(herd["genotypes"])
    W = np.zeros((300, 300))
    W[:150, :150], W[150:, 150:] = halves
    K = G @ W @ G.T
    K *= 150 / np.trace(K)
    groups = np.repeat(np.eye(2), 100, axis=0)
    parts = [records(smile, rows), records(genomic(herd), rows), records(herd["pedigree"], rows)]
    dense = [Z @ K @ Z.T, Z @ genomic_dense(herd) @ Z.T, Z @ herd["A"] @ Z.T]
    for part, matrix in zip(parts, dense, strict=True):
        np.testing.assert_allclose(part.apply([1.0], np.eye(200)), matrix, **EXACT)
    theta = np.array([0.3, 0.2, 0.5, 0.8, 1.1])
    found, expected = (
        effects(theta, herd["y"], herd["X"], with_residuals(Ks, groups), tol=1e-11) for Ks in (parts, dense)
    )
    np.testing.assert_allclose(found.Py, expected.Py, **EXACT)
    np.testing.assert_allclose(found.random, expected.random, **EXACT)


def test_values_and_reliabilities_of_all_animals_are_those_of_mixed_model_equations(herd):
    rows, groups, y, X = (herd[name] for name in ("rows", "groups", "y", "X"))
    parts = [
        records(herd["pedigree"], rows, [f"a{i}" for i in range(150)]),
        grouping(rows, "iid"),
        grouping(groups, "h"),
    ]
    theta, residual = np.array([0.8, 0.3, 0.4, 0.9, 1.2]), np.repeat([0.9, 1.2], 100)
    model = with_residuals(parts, np.repeat(np.eye(2), 100, axis=0))
    Z, W = incidence(rows, 150).toarray(), np.eye(12)[groups]
    own = np.unique(rows)
    blocks = [(Z, herd["A"], 0.8), (Z[:, own], np.eye(len(own)), 0.3), (W, np.eye(12), 0.4)]
    expected = mixed_model_equations(y, X, blocks, residual)
    found = effects(theta, y, X, model, tol=1e-11)
    np.testing.assert_allclose(found.fixed.estimate, expected.fixed, **EXACT)
    assert levels_of(model, 0).labels[:2].tolist() == ["a0", "a1"] and len(np.setdiff1d(np.arange(150), rows)) > 40
    for g, (values, pev) in enumerate(zip(expected.values, expected.pev, strict=True)):
        np.testing.assert_allclose(level_values(found.theta, found.Py, model, g), values, **EXACT)
        certain = level_reliability(theta, X, model, g, exact_probes(len(values)), tol=1e-11)
        np.testing.assert_allclose(certain.pev, pev, **EXACT)
        prior = theta[g] * np.diag(blocks[g][1])
        np.testing.assert_allclose(certain.reliability, 1 - pev / prior, **EXACT)


def test_reliabilities_of_random_probes_are_within_their_errors(herd):
    parts, _ = model_of(herd)
    theta = np.array([0.5, 0.8, 0.3, 0.4, 0.9])
    exact = level_reliability(theta, herd["X"], parts, 1, exact_probes(150), tol=1e-9)
    found = level_reliability(theta, herd["X"], parts, 1, np.sign(np.random.default_rng(0).standard_normal((150, 400))))
    ratio = (found.reliability - exact.reliability) / found.reliability_mc_se
    assert 0.8 < ratio.std() < 1.2 and np.abs(ratio).max() < 4.5


def test_effects_of_variants_of_records_give_the_values_of_people(herd):
    K = records(genomic(herd), herd["rows"])
    found = effects([1.0, 1.0], herd["y"], herd["X"], K, tol=1e-11)
    beta = variant_effects(K, found.theta, found.Py).toarray()
    np.testing.assert_allclose(
        ops.to_dense(herd["genotypes"]) @ beta[:, 0], level_values(found.theta, found.Py, K, 0), atol=1e-6
    )


def test_random_regression_on_age_is_the_sum_of_its_curves(herd):
    rows, age = herd["rows"], np.random.default_rng(3).uniform(2, 9, 200)
    basis = legendre_basis(age, 2)
    x = (age - age.min()) / np.ptp(age) * 2 - 1
    np.testing.assert_allclose(basis[:, 2], np.sqrt(5 / 2) * (3 * x**2 - 1) / 2)
    found = as_covariance(random_regression(herd["pedigree"], basis, ["p0", "p1", "p2"], rows))
    Z, theta = incidence(rows, 150).toarray(), np.array([0.9, 0.4, 0.2])
    R = np.stack([basis[:, k][:, None] * Z for k in range(3)])
    V = sum(t * part @ herd["A"] @ part.T for t, part in zip(theta, R, strict=True))
    np.testing.assert_allclose(found.apply(theta, np.eye(200)), V, atol=1e-10)
    assert found.names == ("p0_x_pedigree", "p1_x_pedigree", "p2_x_pedigree")


@pytest.mark.parametrize(("blend", "tune"), [(0.0, False), (0.1, True)])
def test_single_step_is_the_inverse_of_aguilars_inverse(herd, blend, tune):
    A, rng = herd["A"], np.random.default_rng(5)
    genotyped = rng.permutation(150)[:60]
    counts = rng.binomial(2, 0.3, (60, 500)).astype(float)
    M = (counts - counts.mean(axis=0)) / counts.std(axis=0)
    G = 0.9 * M @ M.T / 500 + 0.1 * np.eye(60)
    A22, adjusted = A[np.ix_(genotyped, genotyped)], G
    if tune:
        slope = (np.trace(A22) / 60 - A22.mean()) / (np.trace(G) / 60 - G.mean())
        adjusted = A22.mean() - slope * G.mean() + slope * G
    adjusted = (1 - blend) * adjusted + blend * A22
    inverse = np.linalg.inv(A)
    inverse[np.ix_(genotyped, genotyped)] += np.linalg.inv(adjusted) - np.linalg.inv(A22)
    H = single_step(herd["pedigree"].pedigree, genotyped, G, blend=blend, tune=tune)
    dense = np.linalg.inv(inverse)
    np.testing.assert_allclose(H.apply([1.0], np.eye(150)), dense, atol=1e-9)
    np.testing.assert_allclose(H.traces, [np.trace(dense)], rtol=1e-10)
    assert all(report.ok for report in check_operator(H))


def test_levels_that_do_not_fit_are_named(herd):
    with pytest.raises(ValueError, match=r"Z: expected a column for each of 150 levels, found \(3, 4\)"):
        IncidenceCovariance(herd["pedigree"], np.ones((3, 4)))
    with pytest.raises(ValueError, match="no sample has a level"):
        records(herd["pedigree"], [-1, -1])
    with pytest.raises(ValueError, match="expected numbers below 150, found 150"):
        records(herd["pedigree"], [150])
    with pytest.raises(ValueError, match=r"component pedigree: has no levels but the samples"):
        levels_of(herd["pedigree"], 0)
