"""The stated Monte-Carlo error on cohorts where fits are hard: some cases of the study, and how it counts."""

import numpy as np
import pandas as pd
import pytest

from gpu_reml.validation.honesty import (
    COMPONENTS,
    HERITABILITIES,
    KINDS,
    Case,
    Comparison,
    beside,
    compare,
    coverage,
    first_cases,
    is_honest,
    main,
    make_sample,
    parse_case,
)


@pytest.mark.parametrize(
    "name",
    [
        "duplicates.G5.h0.95.s1",
        "families.G2.h0.5.s0",
        "families.G5.h0.98.s0",
        "few-variants.G5.h0.98.s0",
        "few-variants.G20.h0.95.s0",
        "linkage.G5.h0.95.s0",
        "linkage.G2.h0.1.s0",
    ],
)
def test_variances_and_heritabilities_are_within_their_stated_errors_of_the_dense_fit(name):
    found = compare(parse_case(name))
    assert found.status == "converged"
    assert found.quantities["in_mc_se"].max() <= 4
    assert found.shortfall < 0.1


def test_the_first_cases_are_every_combination_once_and_then_the_next_seed():
    count = len(KINDS) * len(COMPONENTS) * len(HERITABILITIES)
    first = first_cases(count)
    assert len(set(first)) == count and {case.seed for case in first} == {0}
    assert first_cases(count + 1)[-1] == first[0]._replace(seed=1)


@pytest.mark.parametrize("case", [*first_cases(5), Case("few-variants", 20, 0.98, 137)])
def test_a_case_is_known_by_its_name_and_its_cohort_by_the_case(case):
    assert parse_case(str(case)) == case
    for one, again in zip(make_sample(case), make_sample(parse_case(str(case))), strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("name", ["families", "families.G3.h0.5.s0", "families.G2.h0.5.s", "families.G2.h0.5.s-1"])
def test_a_name_that_is_no_case_is_refused(name):
    with pytest.raises(ValueError, match=r"is no case; they look like families\.G5\.h0\.95\.s3"):
        parse_case(name)


def test_duplicates_are_the_same_person_twice():
    counts = make_sample(Case("duplicates", 2, 0.5, 0)).counts
    pairs = len(counts) // 3
    np.testing.assert_array_equal(counts[-pairs:], counts[:pairs])


def test_an_error_without_a_stated_one_is_beyond_all_bounds_and_none_is_within():
    estimate, mc_se = np.array([1.0, 0.0, 0.0, 2.0, 3.0]), np.array([0.2, 0.0, 0.0, np.nan, 0.1])
    exact, se = np.array([1.5, 0.0, 0.3, 2.5, 3.0005]), np.array([2.0, 2.0, 2.0, np.nan, 1.0])
    table = beside(list("abcde"), (estimate, mc_se), (exact, se), 1e-9)
    np.testing.assert_allclose(table["in_mc_se"], [2.5, 0, np.inf, np.inf, 0])
    np.testing.assert_allclose(table["in_se"], [0.25, 0, 0.15, np.nan, 0])
    assert coverage(table["in_mc_se"]) == pytest.approx({1: 0.4, 2: 0.4, 3: 0.6, 4: 0.6})


@pytest.mark.parametrize(
    ("in_mc_se", "status", "verdict"),
    [
        ([0.5] * 995 + [3.5] * 5, "converged", True),
        ([0.5] * 995 + [4.5] * 5, "converged", False),
        ([0.5] * 600 + [1.5] * 400, "converged", False),
        ([0.5] * 1000, "converged, mc target not met", True),
        ([0.5] * 1000, "max_iterations", False),
    ],
)
def test_fits_are_honest_when_they_converge_and_enough_of_them_are_within_each_bound(in_mc_se, status, verdict):
    table = pd.DataFrame({"quantity": "residual", "in_mc_se": in_mc_se, "in_se": 0.1})
    found = Comparison(Case("families", 2, 0.5, 0), 300, status, 32, 100.0, 0.0, 1.0, table)
    assert is_honest([found]) is verdict


def test_a_case_that_is_run_alone_prints_its_quantities_and_is_written_whole(tmp_path, capsys):
    out = tmp_path / "honesty.tsv"
    main(["--only", "few-variants.G2.h0.1.s0", "--out", str(out)])
    table = pd.read_csv(out, sep="\t")
    assert table["quantity"].tolist()[-2:] == ["h2 total", "log-likelihood"] and len(table) == 7
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["quantity", "estimate", "exact", "mc_se", "se", "in_mc_se", "in_se"]
    assert "few-variants.G2.h0.1.s0 n=" in printed.err and "1 fits: converged" in printed.out
