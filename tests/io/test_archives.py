"""Arrays and JSON from files that are damaged or made to harm: one line each, and no memory for what is not there."""

import io
import json
import tracemalloc
import zipfile

import numpy as np
import pytest

from gpu_reml.io import read_component_spec, read_w
from gpu_reml.io.archives import load_json, load_npy, load_npz, npy_shape, parse_json
from gpu_reml.io.errors import InputError

SPEC = {"a": np.arange(5), "b": np.array([2, 7], np.uint8)}
ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
    np.array(["é", "", "long"]),
    np.array(["é"], dtype=">U3"),
    np.array("text"),
    np.array([True, False]),
    np.zeros((0, 4), np.int8),
    np.array([], dtype="U1"),
    np.array(3 + 1j),
    np.array([b"ab"]),
]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, stored in members.items():
            archive.writestr(name, stored)
    return path


def header(description):
    """A .npy of version 1 with this header and no values."""
    text = description.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype} {array.shape}")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_is_read_back(tmp_path, array, save):
    np.save(tmp_path / "x.npy", array)
    save(tmp_path / "x.npz", array=array, **{"with/slash and blank": array})
    found = [load_npy(tmp_path / "x.npy", "test file"), load_npy(tmp_path / "x.npy", "test file", mapped=True)]
    found += load_npz(tmp_path / "x.npz", "test file").values()
    assert npy_shape(tmp_path / "x.npy", "test file") == array.shape and len(found) == 4
    for back in found:
        assert back.dtype == array.dtype and back.shape == array.shape
        np.testing.assert_array_equal(back, array)


def test_a_large_npy_is_mapped_and_a_piped_one_is_not(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(4))
    assert isinstance(load_npy(tmp_path / "x.npy", "test file", mapped=True), np.memmap)
    assert not isinstance(load_npy(tmp_path / "x.npy", "test file"), np.memmap)


TERABYTES = "{'descr': '<f8', 'fortran_order': False, 'shape': (999999, 999999), }"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b"", "not a .npy array"),
        (b"\x93NUMPY", "not a .npy array"),
        (b"\x93NUMPY\x09\x00" + bytes(200), r"not a .npy array \(.*version"),
        (header(TERABYTES), r"takes 7999984000008 bytes, and 0 are there"),
        (header(TERABYTES.replace("999999)", "-1)")), r"shape \(999999, -1\)"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,"), "not a .npy array"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': 3}"), "not a .npy array"),
        (header("[" * 110), "not a .npy array"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (0,)}"), "an array of object, not of plain values"),
        (header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (0,)}"), "not of plain values"),
        (header("{'descr': '<U99999999', 'fortran_order': False, 'shape': (9,)}"), "bytes, and 0 are there"),
        (npy(np.arange(4.0))[:-1], "takes 32 bytes, and 31 are there"),
        (npy(np.arange(4.0)) + b"x", "takes 32 bytes, and 33 are there"),
        (npy(np.array("ab"))[:-4] + b"\xff\xff\xff\x7f", "a string has what is no character"),
        (npy(np.array("ab"))[:-4] + b"\x00\xd8\x00\x00", "a string has what is no character"),
        (npy(np.array([True, True]))[:-1] + b"\x07", "a truth value that is neither true nor false"),
    ],
)
def test_a_npy_that_is_none_is_refused_alone_and_in_an_npz(tmp_path, stored, message):
    path = tmp_path / "x.npy"
    path.write_bytes(stored)
    npz(tmp_path / "x.npz", {"a.npy": stored})
    with pytest.raises(InputError, match=message) as alone:
        load_npy(path, "test file")
    within = message.replace("not a .npy array", "not an .npz of plain arrays")
    with pytest.raises(InputError, match=within) as inside:
        load_npz(tmp_path / "x.npz", "test file")
    assert str(path) in str(alone.value) and str(tmp_path / "x.npz") in str(inside.value)
    assert "\n" not in str(alone.value) + str(inside.value)


def test_an_npz_of_something_else_is_refused(tmp_path):
    whole = npz(tmp_path / "x.npz", {"a.npy": npy(np.arange(100))}).read_bytes()
    entry = whole.index(b"PK\x01\x02")  # in the directory
    cases = {
        "empty": (b"", "not a zip file"),
        "array": (npy(np.ones(3)), "not a zip file"),
        "cut": (whole[:-30], "not a zip file"),
        "sum": (whole.replace(np.arange(100).tobytes(), np.arange(1, 101).tobytes()), "Bad CRC-32"),
        "method": (whole[: entry + 10] + b"\x63" + whole[entry + 11 :], "compression method"),
        "locked": (whole[: entry + 8] + b"\x01" + whole[entry + 9 :], "encrypted"),
        "other": (npz(tmp_path / "x.npz", {"notes.txt": "no array"}).read_bytes(), "'notes.txt' in it is no array"),
    }
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for k in range(2):
            archive.writestr("a.npy", npy(np.arange(k)))
    cases["twice"] = ((tmp_path / "x.npz").read_bytes(), "array 'a' is in it twice")
    for name, (stored, message) in cases.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(stored)
        with pytest.raises(InputError, match=rf"{name}\.npz: not an .npz of plain arrays \(.*{message}"):
            load_npz(path, "test file")
        with pytest.raises(InputError, match=rf"{name}\.npz: not an .npz"):
            read_component_spec(path, 10)
        with pytest.raises(InputError, match=rf"{name}\.npz: not an .npz"):
            read_w(path)


def test_promises_and_bombs_take_no_memory(tmp_path):
    bomb = npz(tmp_path / "bomb.npz", {"a.npy": npy(np.zeros(1 << 24))}, compression=zipfile.ZIP_DEFLATED)
    (tmp_path / "promise.npy").write_bytes(header(TERABYTES))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.npz: .*its arrays expand beyond measure to 128 MiB; save them uncom"):
        load_npz(bomb, "test file")
    with pytest.raises(InputError, match=r"promise\.npy"):
        load_npy(tmp_path / "promise.npy", "test file")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: not JSON \(Expecting value, column 1\)"),
        ('{"a": 1,\n]', r"line 2: not JSON"),
        ("[" * 100_000, r"not JSON that can be read \(its lists are nested too deeply\)"),
        ('{"a":' * 100_000, r"not JSON that can be read \(its lists are nested too deeply\)"),
        ("[" * 200 + "]" * 200, "nested more than 100 deep"),
        ('{"a": ' * 150 + "1" + "}" * 150, "nested more than 100 deep"),
        ("[" + "9" * 5000 + "]", "not JSON that can be read .*4300"),
        ('[{"name": "x", "name": "y"}]', "key 'name' occurs more than once in an object"),
        ("[" + "[]," * (1 << 22) + "[]]", "more than 4,194,304 lists and objects"),
    ],
    ids=lambda text: text[:12],
)
def test_json_that_is_none_or_harms_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=rf"x\.json\S* .*{message}|x\.json, {message}") as refused:
        load_json(tmp_path / "x.json", "test file")
    assert len(str(refused.value)) < 400
    with pytest.raises(InputError, match=r"x\.json"):
        read_component_spec(tmp_path / "x.json", 10)


def test_json_with_a_byte_order_mark_and_numbers_of_any_kind_is_read(tmp_path):
    document = {"a": [1, 2.5, None, True, "é"], "b": {"c": [[[]]]}}
    (tmp_path / "x.json").write_text("\ufeff" + json.dumps(document))
    assert load_json(tmp_path / "x.json", "test file") == document
    assert parse_json("[" * 100 + "]" * 100, "x")
