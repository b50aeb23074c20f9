"""The study of learned alphas: one phenotype beside its grid, and the table."""

import numpy as np

from gpu_reml.validation.alpha_study import Found, replicate, table_of


def test_an_estimate_is_at_the_maximum_of_the_grid_of_dense_likelihoods():
    found = replicate((160, 400), -0.5, grid=1, seed=0)
    assert found.lower <= found.estimate <= found.upper
    assert abs(found.estimate - found.grid) < 0.05 * found.se


def test_the_table_has_bias_in_standard_errors_and_coverage():
    rows = [Found(0.0, x, 0.5, 0.01, x - 0.2, x + 0.2, False, np.nan) for x in (0.1, 0.3, -0.1)]
    row = table_of(rows).iloc[0]
    assert np.isclose(row["bias / SE"], 0.2) and np.isclose(row["coverage"], 2 / 3) and row["flat"] == 0
