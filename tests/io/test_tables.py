import numpy as np
import pytest

from gpu_reml.io import InputError, read_covariates, read_phenotype, read_phenotypes, read_sample_list

TWO_TRAITS = "FID IID CD8 MCH\n1 a 0.5 NA\n1 b -2e-3 7\n"


@pytest.mark.parametrize(
    ("choice", "name", "values"),
    [({}, "CD8", [0.5, -0.002]), ({"name": "MCH"}, "MCH", [np.nan, 7]), ({"number": 2}, "MCH", [np.nan, 7])],
)
def test_phenotype_is_chosen_by_name_or_number_and_is_the_first_by_default(write, choice, name, values):
    phenotype = read_phenotype(write("p.txt", TWO_TRAITS), **choice)
    assert phenotype.name == name
    np.testing.assert_array_equal(phenotype.values, values)
    assert phenotype.samples.to_dict("list") == {"fid": ["1", "1"], "iid": ["a", "b"]}
    assert phenotype.has_fid


@pytest.mark.parametrize("header", ["FID IID y", "#FID IID y", "fid iid y"])
def test_header_that_starts_with_fid_is_a_header_though_its_name_is_a_number(write, header):
    assert read_phenotype(write("p.txt", f"{header.replace('y', '7')}\n1 a 2\n")).name == "7"


@pytest.mark.parametrize("header", ["IID", "#IID", "iid"])
def test_file_with_iids_only_needs_a_header(write, header):
    phenotype = read_phenotype(write("p.txt", f"{header} y\na 1\nb 2\n"))
    assert not phenotype.has_fid
    assert phenotype.samples["iid"].tolist() == ["a", "b"]
    with pytest.raises(InputError, match=r"line 1: expected FID IID value, or .* found 2 fields"):
        read_phenotype(write("q.txt", "a 1\nb 2\n"))


def test_first_line_without_numbers_is_a_header_and_a_note_says_so(write):
    phenotype = read_phenotype(write("p.txt", "family person weight\n1 a 2\n"))
    assert phenotype.name == "weight"
    assert phenotype.heading == ("family", "person", "weight")
    assert "line 1 taken as a header" in phenotype.notes[0]


@pytest.mark.parametrize("first", ["1 a 2", "1 a NA", "1 a -9", "1 a ."])
def test_file_without_header_keeps_its_first_line(write, first):
    phenotype = read_phenotype(write("p.txt", f"{first}\n1 b 3\n"))
    assert phenotype.name == "phenotype_1"
    assert phenotype.samples["iid"].tolist() == ["a", "b"]
    assert not any("taken as a header" in note for note in phenotype.notes)


@pytest.mark.parametrize(
    "code", ["NA", "na", "nan", "NaN", "NAN", ".", "-9", "-9.0", "-9.000", "-0.9e1", "-09", "-9e0"]
)
def test_every_missing_code_is_missing(write, code):
    phenotype = read_phenotype(write("p.txt", f"FID IID y\n1 a {code}\n1 b 9\n"))
    np.testing.assert_array_equal(phenotype.values, [np.nan, 9])


@pytest.mark.parametrize(
    ("name", "text"), [("p.csv", "FID,IID,y\n1,a,\n1,b,3\n"), ("p.tsv", "FID\tIID\ty\n1\ta\t\n1\tb\t3\n")]
)
def test_empty_field_is_missing(write, name, text):
    np.testing.assert_array_equal(read_phenotype(write(name, text)).values, [np.nan, 3])


def test_numbers_are_read_to_the_last_bit(write):
    numbers = np.random.default_rng(1).normal(size=200)
    text = "FID IID y\n" + "".join(f"f s{i} {y!r}\n" for i, y in enumerate(numbers.tolist()))
    assert read_phenotype(write("p.txt", text)).values.tolist() == numbers.tolist()


@pytest.mark.parametrize("word", ["inf", "-inf", "+Inf", "Infinity", "1e999"])
def test_infinite_value_is_named_by_line_and_id(write, word):
    path = write("p.txt", f"FID IID y\n\n1 a 2\n1 b {word}\n")
    with pytest.raises(InputError, match=r"p\.txt, line 4 \(FID 1 IID b\): '.*' in column y is not finite"):
        read_phenotype(path)


@pytest.mark.parametrize("word", ["abc", "1,5", "1_000", "-nan", "0x1F", "1e", "--1", "٣", "True", "#N/A"])
def test_text_in_a_numeric_column_is_named_by_line_id_and_value(write, word):
    path = write("p.txt", f"FID IID y\n1 a 2\n1 b {word}\n")
    with pytest.raises(InputError, match=r"line 3 \(FID 1 IID b\): '(.*)' in column y is not a number") as error:
        read_phenotype(path)
    assert f"'{word}'" in str(error.value)


def test_text_in_a_column_that_is_not_analysed_is_no_error(write):
    path = write("p.txt", "FID IID y batch\n1 a 2 plate1\n1 b 3 plate2\n")
    assert read_phenotype(path).values.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "CD4"}, "no phenotype 'CD4'; the file has CD8, MCH"),
        ({"name": "2"}, "no phenotype '2'; the file has CD8, MCH; a position is given by number"),
        ({"number": 3}, "no phenotype number 3; the file has 1 to 2: CD8, MCH"),
        ({"number": 0}, "no phenotype number 0"),
        ({"name": "CD8", "number": 1}, r"by name \('CD8'\) or by number \(1\), not by both"),
    ],
)
def test_choice_that_the_file_does_not_have_is_refused_with_those_it_has(write, choice, message):
    with pytest.raises(InputError, match=message):
        read_phenotype(write("p.txt", TWO_TRAITS), **choice)


def test_name_that_is_a_number_is_taken_as_a_name(write):
    path = write("p.txt", "FID IID 2 1\n1 a 10 20\n")
    assert read_phenotype(path, name="1").values.tolist() == [20]
    assert read_phenotype(path, number=1).values.tolist() == [10]


def test_two_columns_of_the_chosen_name_are_refused(write):
    path = write("p.txt", "FID IID y y\n1 a 1 2\n")
    with pytest.raises(InputError, match="2 columns are called 'y'; choose one by its number"):
        read_phenotype(path, name="y")
    assert read_phenotype(path, number=2).values.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FID IID y\n1 a 2\n1 b\n", r"line 3 \(1 b\): expected 3 fields as in line 1, found 2"),
        ("FID IID y\n1 a 2 3\n", r"line 2 \(1 a\): expected 3 fields as in line 1, found 4"),
        ("FID IID y\n1 a 2\n1 b 2\n1 a 3\n", r"1 sample\(s\) occur more than once \(FID 1 IID a\); keep one row"),
        ("IID y\na 2\na 3\n", r"1 sample\(s\) occur more than once \(IID a\)"),
        ("", "the phenotype file is empty"),
        ("FID IID y\n", "has a header and no samples"),
        ("FID IID\n1 a\n", "line 1: expected FID IID value"),
        ("IID FID y\na 1 3\n", "line 1: FID or IID among the value columns"),
    ],
)
def test_malformed_phenotype_file_is_refused(write, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_phenotype(write("p.txt", text))
    assert "\n" not in str(error.value)


def test_empty_iid_is_refused(write):
    with pytest.raises(InputError, match="line 3: the IID is empty"):
        read_phenotype(write("p.csv", "FID,IID,y\n1,a,2\n1,,3\n"))


def test_missing_phenotype_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"phenotype file not found: \S*none"):
        read_phenotype(tmp_path / "none")


def test_quantitative_covariates_are_named_columns_and_minus_nine_is_counted(write):
    covariates = read_covariates(write("c.txt", "FID IID age pc1\n1 a 40 -9\n1 b NA 0.1\n1 c 50 -9.0\n"))
    assert covariates.values.columns.tolist() == ["age", "pc1"]
    np.testing.assert_array_equal(covariates.values, [[40, np.nan], [np.nan, 0.1], [50, np.nan]])
    assert [note.split(": ")[1] for note in covariates.notes] == ["2 value(s) of -9 in covariate pc1 taken as missing"]


def test_categorical_covariates_keep_levels_as_written(write):
    covariates = read_covariates(write("c.txt", "FID IID sex batch\n1 a 1 B\n1 b -9 NA\n1 c 01 b\n"), "categorical")
    assert covariates.values["sex"].tolist() == ["1", None, "01"]
    assert covariates.values["batch"].tolist() == ["B", None, "b"]
    assert covariates.kind == "categorical"
    assert len(covariates.notes) == 1
    assert "1 value(s) of -9 in covariate sex" in covariates.notes[0]


def test_categorical_file_of_words_without_header_keeps_its_first_line(write):
    covariates = read_covariates(write("c.txt", "1 a M\n1 b F\n"), "categorical")
    assert covariates.values["categorical_1"].tolist() == ["M", "F"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("FID IID age\n1 a old\n", "quantitative", r"line 2 \(FID 1 IID a\): 'old' in column age is not a number"),
        ("FID IID age\n1 a inf\n", "quantitative", r"line 2 \(FID 1 IID a\): 'inf' in column age is not finite"),
        ("FID IID x x\n1 a 1 2\n", "quantitative", r"covariate name\(s\) x occur more than once"),
        ("FID IID x\n1 a 1\n1 a 2\n", "categorical", r"FID 1 IID a\); keep one row"),
        ("FID IID x\n1 a 1\n", "ordinal", "expected 'quantitative' or 'categorical', found 'ordinal'"),
    ],
)
def test_malformed_covariates_are_refused(write, text, kind, message):
    with pytest.raises(InputError, match=message):
        read_covariates(write("c.txt", text), kind)


def test_covariate_column_without_a_name_is_refused(write):
    with pytest.raises(InputError, match=r"c\.csv, line 1: value column 2 has no name"):
        read_covariates(write("c.csv", "FID,IID,age,\n1,a,40,\n"))


@pytest.mark.parametrize(
    ("text", "fids", "iids"),
    [
        ("1 a\n2 b\n", ["1", "2"], ["a", "b"]),
        ("#FID IID\n1 a\n", ["1"], ["a"]),
        ("FID\tIID\tsex\n1\ta\t2\n", ["1"], ["a"]),
        ("1 a 0 0 1 -9\n1 a 0 0 1 -9\n2 a 0 0 1 -9\n", ["1", "2"], ["a", "a"]),
        ("a\nb\na\n", ["", ""], ["a", "b"]),
        ("#IID\na\n", [""], ["a"]),
        ("IID sex\na 1\n", [""], ["a"]),
        ("", [], []),
    ],
)
def test_sample_list_may_have_fid_and_iid_or_iids_only_and_a_header(write, text, fids, iids):
    listed = read_sample_list(write("keep.txt", text))
    assert listed.samples["fid"].tolist() == fids
    assert listed.samples["iid"].tolist() == iids
    assert listed.has_fid == (bool(fids) and fids[0] != "")


def test_missing_sample_list_is_always_an_error(tmp_path):
    with pytest.raises(InputError, match=r"sample list file not found: \S*keep\.txt"):
        read_sample_list(tmp_path / "keep.txt")


@pytest.mark.parametrize(
    ("text", "fids", "iids"),
    [
        ("eid height\na 1\nb 2\n", ["", ""], ["a", "b"]),
        ("family_id individual_id y\n1 a 1\n2 b 2\n", ["1", "2"], ["a", "b"]),
        ("ID1 ID1 1\nb b 2\n", ["ID1", "b"], ["ID1", "b"]),
    ],
)
def test_ids_of_a_phenotype_are_known_by_the_names_that_people_use(write, text, fids, iids):
    samples = read_phenotype(write("p.txt", text)).samples
    assert samples["fid"].tolist() == fids and samples["iid"].tolist() == iids
    if "y" in text:
        listed = read_sample_list(write("list.txt", text))
        assert listed.samples.equals(samples)
        assert read_covariates(write("c.txt", text), "categorical").values.columns.tolist() == ["y"]


def test_a_family_column_without_a_sample_column_is_refused(write):
    for read in (read_phenotype, read_sample_list):
        with pytest.raises(InputError, match=r"p\.txt, header: expected IID after FID, found y"):
            read(write("p.txt", "FID y z\n1 2 3\n"))


def test_values_of_minus_nine_are_counted_in_a_phenotype_too(write):
    path = write("p.txt", "FID IID y z\n1 a -9 1\n1 b 2 2\n1 c -9.00 3\n")
    first, second = read_phenotypes(path)
    assert first.notes == (f"{path}: 2 value(s) of -9 in phenotype y taken as missing",)
    assert np.isnan(first.values).tolist() == [True, False, True] and second.notes == ()


def test_parents_ids_are_no_trait_and_no_covariate(write):
    psam = write("p.txt", "#FID IID PAT MAT SEX y\n1 a 7 8 1 0.5\n1 b 7 9 2 1.5\n")
    fam = write("x.fam", "1 a 7 8 1 0.5\n1 b 7 9 2 1.5\n")
    with pytest.raises(
        InputError, match=r"p\.txt: column PAT is the father's id, not a trait or covariate; choose the"
    ):
        read_phenotype(psam)
    assert read_phenotype(fam).values.tolist() == [0.5, 1.5] and read_phenotype(fam).name == "phenotype"
    for read in (read_phenotypes, read_covariates):
        with pytest.raises(InputError, match=r"is the father's id"):
            read(psam)
    assert read_phenotype(psam, "y").values.tolist() == read_phenotype(fam, number=4).values.tolist() == [0.5, 1.5]
    with pytest.raises(InputError, match=r"column SID is a second id of the sample"):
        read_phenotype(write("q.txt", "#FID IID SID y\n1 a 1 2\n"))
