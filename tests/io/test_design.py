import numpy as np
import pandas as pd
import pytest

from gpu_reml.io import Covariates, InputError, design_matrix, read_covariates


def make_covariates(ids, columns, kind="quantitative"):
    values = pd.DataFrame(columns)
    samples = ids(*[f"s{i}" for i in range(len(values))])
    return Covariates(path=f"{kind}.txt", samples=samples, has_fid=True, kind=kind, values=values)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_design_without_covariates_is_the_intercept(ids):
    design = design_matrix(None, None, ids("a", "b", "c"))
    np.testing.assert_array_equal(design.X, np.ones((3, 1)))
    assert design.names == ("intercept",)
    assert design.reference_levels == {}


def test_columns_are_intercept_then_quantitative_then_levels_but_the_first(ids, write):
    quantitative = read_covariates(write("q.txt", "FID IID age\nFa a 40\nFb b 50\nFc c 61\nFd d 70\nFe e 2\n"))
    categorical = read_covariates(
        write("c.txt", "FID IID sex batch\nFa a 2 b10\nFb b 1 b9\nFc c 2 b9\nFd d 1 b9\nFe e 1 b9\n"), "categorical"
    )
    design = design_matrix(quantitative, categorical, ids("a", "b", "c", "d", "e"))
    assert design.names == ("intercept", "age", "sex[2]", "batch[b9]")
    assert design.reference_levels == {"sex": "1", "batch": "b10"}
    expected = [[1, 40, 1, 0], [1, 50, 0, 1], [1, 61, 1, 1], [1, 70, 0, 1], [1, 2, 0, 1]]
    np.testing.assert_array_equal(design.X, expected)
    assert design.X.dtype == np.float64


def test_rows_follow_the_samples_asked_for_and_match_by_iid_where_there_is_no_fid(ids, write):
    covariates = read_covariates(write("q.txt", "IID age\na 1\nb 2\nc 4\nd 8\n"))
    assert design_matrix(covariates, None, ids("d", "a", "c")).X[:, 1].tolist() == [8, 1, 4]


def test_levels_that_are_numbers_sort_by_value(ids):
    levels = ["10", "2", "9", "10", "2", "9"]
    design = design_matrix(None, make_covariates(ids, {"site": levels}, "categorical"), _samples(ids, 6))
    assert design.reference_levels == {"site": "2"}
    assert design.names[1:] == ("site[9]", "site[10]")


def _samples(ids, n):
    return ids(*[f"s{i}" for i in range(n)])


def test_levels_absent_from_the_analysed_samples_have_no_column(ids):
    covariates = make_covariates(ids, {"site": ["a", "b", "c", "b", "c"]}, "categorical")
    design = design_matrix(None, covariates, ids("s1", "s2", "s3", "s4"))
    assert design.names == ("intercept", "site[c]")


@pytest.mark.parametrize("value", [1.0, 0.0, -3.5e6])
def test_constant_covariate_is_left_out_with_a_note(ids, rng, value):
    covariates = make_covariates(ids, {"ones": [value] * 6, "age": rng.normal(size=6)})
    design = design_matrix(covariates, None, _samples(ids, 6))
    assert design.names == ("intercept", "age")
    assert design.notes == (f"quantitative.txt: covariate ones is {value:g} for every sample, left out",)


def test_covariate_constant_but_for_rounding_is_left_out(ids):
    covariates = make_covariates(ids, {"x": [0.1 + 0.2, 0.3, 0.3, 0.3]})
    assert design_matrix(covariates, None, _samples(ids, 4)).names == ("intercept",)


def test_categorical_covariate_of_one_level_is_left_out_with_a_note(ids):
    design = design_matrix(None, make_covariates(ids, {"sex": ["1"] * 4}, "categorical"), _samples(ids, 4))
    assert design.names == ("intercept",)
    assert design.reference_levels == {"sex": "1"}
    assert "covariate sex is 1 for every sample" in design.notes[0]


def test_dependent_column_is_named_with_the_columns_it_depends_on(ids, rng):
    x = rng.normal(size=(30, 3))
    columns = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "d": 5 + 2 * x[:, 0] - 3 * x[:, 2]}
    with pytest.raises(InputError, match="d depends linearly on the intercept and a, c; remove one column of each set"):
        design_matrix(make_covariates(ids, columns), None, _samples(ids, 30))


def test_two_dependent_sets_are_both_named(ids, rng):
    x = rng.normal(size=(30, 2))
    columns = {"age": x[:, 0], "months": 12 * x[:, 0], "height": x[:, 1], "inches": x[:, 1] / 2.54 + 1}
    with pytest.raises(InputError, match=r"months depends .* and age") as error:
        design_matrix(make_covariates(ids, columns), None, _samples(ids, 30))
    assert "inches depends linearly on the intercept and height" in str(error.value)


def test_quantitative_copy_of_a_level_is_named(ids):
    sex = ["1", "2", "2", "1", "2", "1"]
    quantitative = make_covariates(ids, {"male": [float(level == "1") for level in sex]})
    categorical = make_covariates(ids, {"sex": sex}, "categorical")
    with pytest.raises(InputError, match=r"sex\[2\] depends linearly on the intercept and male"):
        design_matrix(quantitative, categorical, _samples(ids, 6))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_rank_decision_depends_on_neither_scale_nor_offset(ids, rng, scale, offset):
    x = rng.normal(size=(40, 2))
    columns = {"small": scale * x[:, 0], "other": x[:, 1] + offset}
    design = design_matrix(make_covariates(ids, columns), None, _samples(ids, 40))
    assert design.names == ("intercept", "small", "other")
    np.testing.assert_array_equal(design.X[:, 1], columns["small"])
    columns["sum"] = (x[:, 0] + x[:, 1]) * scale
    with pytest.raises(InputError, match="sum depends linearly on the intercept and small, other"):
        design_matrix(make_covariates(ids, columns), None, _samples(ids, 40))


def test_nearly_dependent_columns_are_kept(ids, rng):
    x = rng.normal(size=(50, 2))
    design = design_matrix(make_covariates(ids, {"a": x[:, 0], "b": x[:, 0] + 1e-5 * x[:, 1]}), None, _samples(ids, 50))
    assert np.linalg.matrix_rank(design.X) == design.num_columns == 3


def test_as_many_columns_as_samples_is_refused_with_the_widths(ids, rng):
    quantitative = make_covariates(ids, {"age": rng.normal(size=5)})
    categorical = make_covariates(ids, {"site": ["a", "b", "c", "d", "a"]}, "categorical")
    with pytest.raises(InputError, match=r"5 columns with the intercept for 5 samples.*site: 3, age: 1"):
        design_matrix(quantitative, categorical, _samples(ids, 5))


def test_identifier_given_as_a_categorical_covariate_is_refused_before_it_fills_the_memory(ids):
    n = 200_000  # one-hot in full, it would take 320 GB
    covariates = make_covariates(ids, {"id": [str(i) for i in range(n)]}, "categorical")
    with pytest.raises(InputError, match=r"200000 columns with the intercept for 200000 samples.*id: 199999"):
        design_matrix(None, covariates, covariates.samples)


def test_sample_without_complete_covariates_is_named(ids):
    covariates = make_covariates(ids, {"age": [1.0, np.nan, 3.0, 5.0]})
    with pytest.raises(InputError, match=r"quantitative\.txt: missing values for FID Fs1 IID s1"):
        design_matrix(covariates, None, _samples(ids, 4))
    with pytest.raises(InputError, match=r"quantitative\.txt: no row for FID Fz IID z"):
        design_matrix(covariates, None, ids("s0", "z"))


def test_one_name_in_both_files_is_refused(ids, rng):
    quantitative = make_covariates(ids, {"sex": rng.normal(size=4)})
    categorical = make_covariates(ids, {"sex": ["1", "2", "1", "2"]}, "categorical")
    with pytest.raises(InputError, match="covariate sex is also in the quantitative file; rename one"):
        design_matrix(quantitative, categorical, _samples(ids, 4))


def test_no_samples_are_refused(ids):
    with pytest.raises(InputError, match="expected at least one sample"):
        design_matrix(None, None, ids())
