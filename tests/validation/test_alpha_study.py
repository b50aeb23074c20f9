"""The study of learned alphas: its dense likelihoods against fits, one phenotype beside its grid, and the tables."""

import numpy as np
import pytest

from gpu_reml.ops import make_covariance, to_dense
from gpu_reml.reml import fit_exact
from gpu_reml.validation.alpha_dense import Dense
from gpu_reml.validation.alpha_study import (
    H2,
    Found,
    bias,
    cases_of,
    dense_table,
    make_products,
    oracles,
    phenotype,
    phenotypes,
    replicate,
    table_of,
)

SHAPE = (160, 240)


@pytest.fixture(scope="module")
def products():
    return make_products(*SHAPE)


@pytest.fixture(scope="module")
def found(products):
    return oracles(products, [cases_of(products)[i] for i in (1, 4)], 2)


def test_dense_likelihoods_of_the_study_differ_as_those_of_exact_fits_do(products):
    case, X = cases_of(products)[1], np.ones((SHAPE[0], 1))
    Y = phenotypes(products, case, 2)
    weights = [products.genotypes.inv_sd > 0, case.weights]
    dense = Dense.of(products, Y, X)
    heights = np.array([dense.profile(w.astype(float)) for w in weights])
    for r in range(2):
        fits = [fit_exact(Y[:, r], X, make_covariance(products, w[:, None].astype(float))).loglik for w in weights]
        np.testing.assert_allclose(heights[1, r] - heights[0, r], fits[1] - fits[0], atol=1e-4)


def test_the_first_order_part_is_the_dense_score_over_the_information(products, found):
    oracle, n = found[1], SHAPE[0]
    case, Z = oracle.case, np.asarray(to_dense(products.genotypes), np.float64)
    y = phenotype(products, case, 0)
    w = case.weights * (products.genotypes.inv_sd > 0)
    w /= w.sum()
    columns = case.law.columns - w @ case.law.columns
    D = [H2 * (Z * (w * column)) @ Z.T for column in columns.T] + [(Z * w) @ Z.T, np.eye(n)]
    inverse = np.linalg.inv(H2 * D[2] + (1 - H2) * D[3])
    one = inverse.sum(axis=1)
    P = inverse - np.outer(one, one) / one.sum()
    score = np.array([y @ P @ each @ P @ y - np.trace(P @ each) for each in D])
    information = np.array([[np.trace(P @ a @ P @ b) for a in D] for b in D])
    np.testing.assert_allclose(oracle.linear[0], np.linalg.solve(information, score)[:2], rtol=1e-4)
    np.testing.assert_allclose(oracle.se, np.sqrt(2 * np.diag(np.linalg.inv(information))[:2]), rtol=1e-4)


def test_an_estimate_is_at_the_maximum_of_the_grid_of_dense_likelihoods(products, found):
    (row,) = replicate(products, found[0], 0)
    assert row.lower <= row.estimate <= row.upper
    assert abs(row.estimate - row.dense) < 0.05 * row.se
    assert len(dense_table(found)) == 1


def test_the_table_has_bias_in_standard_errors_and_coverage():
    rows = [Found("a", 0.0, x, 0.5, 0.01, x - 0.2, x + 0.2, False, x - 0.05, np.nan) for x in (0.1, 0.3, -0.1)]
    row = table_of(rows).iloc[0]
    assert np.isclose(row["bias / SE"], 0.2) and np.isclose(row["coverage"], 2 / 3) and row["flat"] == 0
    assert np.isclose(row["second order"], 0.1) and np.isclose(row["second order +-"], 0)
    assert np.isclose(bias(np.array([0.0, 2.0]), np.zeros(2), 1.0)["bias / SE +-"], 1)
