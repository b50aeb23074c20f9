import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml.io import (
    AnalysedVariants,
    BedFile,
    ComponentSpec,
    InputError,
    component_weights,
    components_from_prefixes,
    components_from_specs,
    read_component_spec,
)


@pytest.fixture
def write_spec(write):
    """write_spec(value) -> path of a JSON file."""
    return lambda value: write("spec.json", value if isinstance(value, str) else json.dumps(value))


@pytest.fixture
def write_npz(tmp_path):
    def save(*arrays, **named):
        np.savez(tmp_path / "spec.npz", *arrays, **named)
        return tmp_path / "spec.npz"

    return save


def make_bed(prefix, num_variants):
    return BedFile(
        prefix, pd.DataFrame(), pd.DataFrame(index=range(num_variants)), np.empty((num_variants, 0), np.uint8)
    )


@pytest.mark.parametrize("wrap", [lambda entries: entries, lambda entries: {"version": 1, "components": entries}])
def test_json_keeps_order_names_annotation_and_provenance(write_spec, wrap):
    entries = [
        {"variant_indices": [5, 0, 3], "name": "coding", "annotation": {"kind": "a"}, "provenance": {"by": "b"}},
        {"variant_indices": [1], "comment": "kept by others"},
    ]
    first, second = read_component_spec(write_spec(wrap(entries)), 6)
    assert first.name == "coding"
    assert first.indices.tolist() == [5, 0, 3]
    assert first.indices.dtype == np.int64
    assert (first.annotation, first.provenance) == ({"kind": "a"}, {"by": "b"})
    assert (second.name, second.annotation, second.provenance) == ("component_001", None, None)


def test_npz_with_unnamed_arrays_is_in_numeric_order(write_npz):
    specs = read_component_spec(write_npz(**{f"arr_{k}": np.array([k]) for k in reversed(range(12))}), 12)
    assert [spec.indices.tolist() for spec in specs] == [[k] for k in range(12)]
    assert specs[11].name == "component_011"


def test_npz_takes_names_from_keys_or_from_component_names(write_npz):
    assert [s.name for s in read_component_spec(write_npz(rare=np.array([1]), common=np.array([0])), 2)] == [
        "rare",
        "common",
    ]
    specs = read_component_spec(
        write_npz(
            np.array([2, 1], np.uint8),
            np.array([0]),
            component_names=np.array(["x", "y"]),
            component_annotations_json=np.array(['{"k": 1}', ""]),
            component_provenance_json=np.array(["null", '{"p": 2}']),
        ),
        3,
    )
    assert [(s.name, s.indices.tolist(), s.annotation, s.provenance) for s in specs] == [
        ("x", [2, 1], {"k": 1}, None),
        ("y", [0], None, {"p": 2}),
    ]


def test_components_may_overlap_and_leave_variants_out(write_spec):
    specs = read_component_spec(write_spec([{"variant_indices": [0, 1]}, {"variant_indices": [1, 3]}]), 5)
    weights, names = component_weights(specs, 5)
    np.testing.assert_array_equal(weights.toarray(), [[1, 0], [1, 1], [0, 0], [0, 1], [0, 0]])
    assert names == ("component_000", "component_001")
    assert weights.format == "csr"
    assert weights.dtype == np.float64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"variant_indices": [0], "name": "a"}, {"variant_indices": [], "name": "b"}], "component b is empty"),
        ([{"variant_indices": [0, 4]}], r"component component_000: variant index 4 is out of 0\.\.3 \(1 of 2 are\)"),
        ([{"variant_indices": [-1]}], r"variant index -1 is out of 0\.\.3"),
        ([{"variant_indices": [10**30]}], f"variant index {10**30} is out of any range"),
        ([{"variant_indices": [2, 1, 2]}], "variant index 2 occurs more than once"),
        ([{"variant_indices": [0], "name": "a"}] * 2, r"component name\(s\) a occur more than once"),
        ([{"variant_indices": [0], "name": ""}], "component name '': expected a string"),
        ([{"variant_indices": [0], "name": 3}], "component name 3: expected a string"),
        ([{"variant_indices": [1.0]}], "component 0: variant_indices holds 1.0; expected integers"),
        ([{"variant_indices": [True]}], "variant_indices holds True"),
        ([{"variant_indices": [0, None]}], "variant_indices holds None"),
        ([{"variant_indices": ["rs1"]}], "variant_indices holds 'rs1'"),
        ([{"variant_indices": [0], "weight": [2]}], "component 0: 'weight' would not be read; 'weights' is meant"),
        ([{"variant_ids": ["a"], "Name": "x"}], "component 0: 'Name' would not be read; 'name' is meant"),
        ([{"variant_indices": 3}], "expected a list of integers in 'variant_indices', found int"),
        ([{"indices": [3]}], "component 0: expected an object with 'variant_indices'"),
        ([{"variant_indices": [0], "annotation": "x"}], "expected an object in 'annotation', found str"),
        ([], "holds no component"),
        ({"groups": []}, "expected a list of components"),
        ("{", r"spec\.json, line 1: not JSON"),
    ],
)
def test_bad_json_component_is_named(write_spec, content, message):
    with pytest.raises(InputError, match=message):
        read_component_spec(write_spec(content), 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.array([0.5])}, r"array a: expected a vector of integers, found float64 of shape \(1,\)"),
        ({"a": np.array([True])}, "array a: expected a vector of integers, found bool"),
        ({"a": np.array([[0]])}, r"array a: expected a vector of integers, found int64 of shape \(1, 1\)"),
        ({"a": np.array([0]), "component_names": np.array(["x", "y"])}, "expected 1 strings in component_names"),
        (
            {"a": np.array([0]), "component_annotations_json": np.array(["{"])},
            r"annotations_json\[0\], line 1: not JSON",
        ),
        ({"a": np.array([0]), "component_provenance_json": np.array(["1"])}, "expected an object in .*provenance"),
        ({"a": np.array([{}], dtype=object)}, "not an .npz of plain arrays"),
        ({"a": np.array([], int)}, "component a is empty"),
    ],
)
def test_bad_npz_component_is_named(write_npz, arrays, message):
    with pytest.raises(InputError, match=message):
        read_component_spec(write_npz(**arrays), 4)


def test_file_that_is_absent_or_of_another_kind_is_refused(tmp_path, write):
    with pytest.raises(InputError, match=r"component file not found: \S*none\.json"):
        read_component_spec(tmp_path / "none.json", 4)
    with pytest.raises(InputError, match=r"named \.json or \.npz, found '\.txt'"):
        read_component_spec(tmp_path / "none.txt", 4)
    with pytest.raises(InputError, match=r"not an \.npz of plain arrays"):
        read_component_spec(write("bad.npz", b"zip?"), 4)


def test_prefixes_are_components_in_the_order_of_the_stacked_variants():
    specs = components_from_prefixes([make_bed("x/chr1", 3), make_bed("x/chr2", 2)])
    assert [(spec.name, spec.indices.tolist()) for spec in specs] == [("chr1", [0, 1, 2]), ("chr2", [3, 4])]


def test_prefixes_of_one_basename_are_named_in_full_and_a_repeated_prefix_is_refused():
    specs = components_from_prefixes([make_bed("x/chr1", 1), make_bed("y/chr1", 1)])
    assert [spec.name for spec in specs] == ["x/chr1", "y/chr1"]
    with pytest.raises(InputError, match=r"component name\(s\) x/chr1 occur more than once"):
        components_from_prefixes([make_bed("x/chr1", 1), make_bed("x/chr1", 1)])


def test_weights_of_whole_prefixes_sum_to_their_variant_counts():
    weights, _ = component_weights(components_from_prefixes([make_bed("a", 3), make_bed("b", 2)]), 5)
    assert weights.sum(axis=0).tolist() == [3, 2]


def test_number_of_variants_of_a_component_is_the_length_of_its_indices():
    assert ComponentSpec("a", np.array([4, 2])).num_variants == 2


def test_weights_of_a_component_file_are_the_components_weights(tmp_path):
    path = tmp_path / "weighted.json"
    path.write_text(
        json.dumps([{"name": "a", "variant_indices": [4, 1], "weights": [0.5, 2]}, {"variant_indices": [0]}])
    )
    weights, _ = component_weights(read_component_spec(path, 5), 5)
    np.testing.assert_array_equal(weights.toarray(), [[0, 1], [2, 0], [0, 0], [0, 0], [0.5, 0]])
    table = pd.DataFrame({"chrom": "1", "id": list("vwxy"), "cm": 0.0, "bp": 1, "a1": "A", "a2": "C"})
    analysed = AnalysedVariants(table, np.array([1, 2, 3, 4]), 5)  # the first variant is filtered out
    made = components_from_specs(read_component_spec(path, 5), analysed)
    np.testing.assert_array_equal(made.weights.toarray(), [[2, 0], [0, 0], [0, 0], [0.5, 0]])
    path.write_text(json.dumps([{"name": "a", "variant_ids": ["y", "v"], "weights": [3, 4]}]))
    made = components_from_specs(read_component_spec(path, 5), analysed)
    np.testing.assert_array_equal(made.weights.toarray()[:, 0], [4, 0, 0, 3])


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1], "expected 2 numbers in 'weights'"), (["a", 1], "expected 2 numbers"), ([1, -1], r"weights\[1\] is -1")],
)
def test_weights_that_are_none_are_refused(tmp_path, weights, message):
    path = tmp_path / "weighted.json"
    path.write_text(json.dumps([{"variant_indices": [4, 1], "weights": weights}]))
    with pytest.raises(InputError, match=message):
        read_component_spec(path, 5)
