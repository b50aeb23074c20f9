"""Reliabilities of new samples from replicated phenotypes, against mixed-model equations and dense formulas."""

import numpy as np
import pytest

from gpu_reml import ops
from gpu_reml.ops import make_block_covariance, make_covariance, make_products
from gpu_reml.reml import (
    ScaledCovariance,
    draw_probes,
    effect_variances,
    exact_probes,
    grouping,
    incidence,
    levels_of,
    make_projected_core,
    py_replicates,
    records,
    reliability_of_values,
    replicated_effects,
    replicated_values,
    with_residuals,
)
from gpu_reml.reml.linalg import orthonormal_basis
from gpu_reml.reml.precondition import complement_traces
from gpu_reml.validation.herds import mixed_model_equations, random_pedigree, tabular_relationship

N, Q, M = 160, 90, 200  # records, animals, variants
EXACT = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def herd():
    """Records of 60 of 90 animals, all with genotypes and a pedigree, in 7 herds."""
    rng = np.random.default_rng(3)
    sire, dam = random_pedigree(Q, 12, seed=2)
    rows = np.sort(rng.choice(rng.permutation(Q)[:60], N))
    counts = rng.binomial(2, 0.4, (Q, M)).astype(np.int8)
    genotypes = ops.standardise([ops.pack(counts)], Q)
    return {
        "A": tabular_relationship(sire, dam),
        "pedigree": ops.PedigreeCovariance(ops.make_pedigree(sire, dam)),
        "rows": rows,
        "herds": rng.integers(0, 7, N),
        "genotypes": genotypes,
        "Z": ops.to_dense(genotypes),
        "X": np.column_stack([np.ones(N), rng.standard_normal(N)]),
    }


def genomic(herd):
    halves = np.repeat(np.eye(2), M // 2, axis=0)
    return make_covariance(make_products(herd["genotypes"], "cpu", np.float64), halves, ["left", "right"])


def inverse_of(V, X):
    P = np.linalg.inv(V)
    return P - P @ X @ np.linalg.solve(X.T @ P @ X, X.T @ P)


def test_complete_replicates_have_p_as_their_mean_square_whatever_the_residuals(herd):
    K = records(herd["pedigree"], herd["rows"])
    residuals = np.column_stack([np.linspace(0.5, 2, N), np.linspace(2, 0.1, N)])
    x = py_replicates([0.7, 0.4, 1.1], herd["X"], with_residuals([K], residuals), exact_probes(N))
    Z = incidence(herd["rows"], Q).toarray()
    P = inverse_of(0.7 * Z @ herd["A"] @ Z.T + np.diag(residuals @ [0.4, 1.1]), herd["X"])
    assert x.complete
    np.testing.assert_allclose(x.x @ x.x.T / x.count, P, **EXACT)


@pytest.mark.parametrize("rank", [0, 30])
def test_random_replicates_have_p_as_their_mean_square(herd, rank):
    K = records(herd["pedigree"], herd["rows"])
    theta, units = np.array([40.0, 90.0]), np.random.default_rng(5).standard_normal((N, 6))
    basis = orthonormal_basis(herd["X"])
    core = make_projected_core(K, basis, complement_traces(K, basis), theta[:1], draw_probes(N, 1, rank, 4).sketch)
    options = {"preconditioner": core if rank else None}
    parts = [py_replicates(theta, herd["X"], K, draw_probes(N, 150, 0, seed), **options) for seed in range(20)]
    x = np.hstack([part.x for part in parts])
    Z = incidence(herd["rows"], Q).toarray()
    exact = np.einsum("nk,nm,mk->k", units, inverse_of(40 * Z @ herd["A"] @ Z.T + 90 * np.eye(N), herd["X"]), units)
    found = ((units.T @ x) ** 2).mean(axis=1)
    assert not parts[0].complete and np.abs(found / exact - 1).max() < 4 * np.sqrt(2 / 3000)


def test_reliabilities_of_all_animals_and_of_their_total_are_those_of_mixed_model_equations(herd):
    rows, herds = herd["rows"], herd["herds"]
    model = with_residuals(
        [records(herd["pedigree"], rows), grouping(herds, "herd"), grouping(rows, "iid")],
        np.repeat(np.eye(2), N // 2, axis=0),
    )
    theta, residual = np.array([0.8, 0.4, 0.3, 0.9, 1.2]), np.repeat([0.9, 1.2], N // 2)
    Z, W, own = incidence(rows, Q).toarray(), np.eye(7)[herds], np.unique(rows)
    blocks = [(Z, herd["A"], 0.8), (W, np.eye(7), 0.4), (Z[:, own], np.eye(len(own)), 0.3)]
    expected = mixed_model_equations(np.zeros(N), herd["X"], blocks, residual)
    x = py_replicates(theta, herd["X"], model, exact_probes(N)).x
    values = [replicated_values(theta, model, g, x) for g in range(3)]
    for g, pev in enumerate(expected.pev):
        prior = theta[g] * np.diag(blocks[g][1])
        found = reliability_of_values(values[g], prior, complete=True)
        np.testing.assert_allclose(found.pev, pev, **EXACT)
    # an animal without records in a herd that is known: c'P c of both parts together
    new = np.setdiff1d(np.arange(Q), rows)[:5]
    c = 0.8 * herd["A"][new] @ Z.T + 0.4 * W[:, [2]].T
    V = sum(t * B @ K @ B.T for B, K, t in blocks) + np.diag(residual)
    explained = np.einsum("an,nm,am->a", c, inverse_of(V, herd["X"]), c)
    together = reliability_of_values(values[0][new] + values[1][2], np.full(5, 2.0), complete=True)
    np.testing.assert_allclose(2 - together.pev, explained, **EXACT)
    np.testing.assert_array_equal(levels_of(model, 1).labels, np.arange(7))


def test_effects_of_replicates_give_the_reliability_of_animals_that_have_genotypes_alone(herd):
    rows, scale = herd["rows"], np.random.default_rng(8).uniform(0.5, 2, N)
    K = genomic(herd)
    model = [records(K, rows), ScaledCovariance(records(K, rows), scale, ["a", "b"])]
    theta = np.array([0.5, 0.2, 0.3, 0.6, 1.0])
    x = py_replicates(theta, herd["X"], model, exact_probes(N)).x
    plain, scaled = replicated_effects(model, theta, x)
    v = effect_variances(model, theta)
    z, s = np.random.default_rng(9).standard_normal((4, M)), 1.7  # new animals, and what scales theirs
    left, right = np.arange(M) < M // 2, np.arange(M) >= M // 2
    Z, S = herd["Z"][rows], np.diag(scale)

    def kernel(a, b, t):
        return 2 / M * sum(t[g] * a[:, half] @ b[:, half].T for g, half in enumerate((left, right)))

    V = kernel(Z, Z, theta[:2]) + S @ kernel(Z, Z, theta[2:]) @ S + np.eye(N)
    c = kernel(z, Z, theta[:2]) + s * kernel(z, Z, theta[2:]) @ S
    prior = np.diag(kernel(z, z, theta[:2]) + s**2 * kernel(z, z, theta[2:]))
    np.testing.assert_allclose(z**2 @ v[0] + s**2 * z**2 @ v[1], prior, **EXACT)
    found = reliability_of_values(z @ plain + s * z @ scaled, prior, complete=True)
    np.testing.assert_allclose(found.pev, prior - np.einsum("an,nm,am->a", c, inverse_of(V, herd["X"]), c), **EXACT)


def test_reliabilities_of_random_replicates_are_within_their_errors(herd):
    model, theta = [records(herd["pedigree"], herd["rows"])], np.array([1.0, 1.0])
    prior = np.diag(herd["A"])
    values = [
        replicated_values(theta, model, 0, py_replicates(theta, herd["X"], model, probes).x)
        for probes in (exact_probes(N), draw_probes(N, 60, 0, 3))
    ]
    exact, found = (reliability_of_values(v, prior, complete=v.shape[1] == N) for v in values)
    informed = exact.reliability > 0.01
    ratio = ((found.reliability - exact.reliability) / np.where(informed, found.reliability_mc_se, 1))[informed]
    assert 0.6 < np.sqrt(np.mean(ratio**2)) < 1.4 and not exact.reliability_mc_se.any()


def test_effects_in_blocks_of_weights_have_no_variances_of_their_own(herd):
    products = make_products(herd["genotypes"], "cpu", np.float64)
    smile = make_block_covariance(products, [[np.eye(M) + 0.1]], ["smile"])
    with pytest.raises(ValueError, match="components smile: effects in blocks of weights depend on each other"):
        effect_variances(smile, [1.0])
