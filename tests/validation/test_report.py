"""The validation study: what counts as an error, and what it complains of."""

import re

import numpy as np
import pytest

from gpu_reml.validation.report import Setting, beyond, complaints, run_grid


@pytest.fixture(scope="module")
def table():
    """One fit with something to estimate, and one of a cohort without genetic variance."""
    return run_grid([Setting(150, 400, 2, 0.4), Setting(300, 900, 1, 0.0, 1)], 1)


def test_fits_of_small_cohorts_are_in_line_and_one_at_its_bound_has_no_error(table):
    assert complaints(table) == []
    assert np.isfinite(table[["max_error_over_mc_se", "loglik_error_over_mc_se"]]).all(axis=None)


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("converged", False, "n=150 m=400 G=2 h2=0.4 seed=0: did not converge"),
        ("excess_over_four_mc_se", 0.1, "a variance is .* mc_se from exact"),
        ("loglik_error_over_mc_se", -np.inf, "the log-likelihood is -inf mc_se from exact"),
    ],
)
def test_what_is_out_of_line_is_named_with_its_setting(table, column, value, complaint):
    changed = table.copy()
    changed[column] = changed[column].astype(object if column == "converged" else float)
    changed.loc[0, column] = value
    (found,) = complaints(changed)
    assert found.startswith("n=150 m=400 G=2 h2=0.4 seed=0")
    assert re.search(complaint, found)


def test_errors_within_what_is_tolerated_are_none_and_unknown_tolerances_are_rounding():
    found = beyond(np.array([0.1, -0.1, 1e-10, 1e-5]), np.array([0.2, 0.05, np.nan, np.nan]))
    np.testing.assert_array_equal(found, [0, -0.1, 0, 1e-5])
