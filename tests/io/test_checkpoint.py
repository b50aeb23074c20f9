"""A checkpoint comes back as it was, and one that is not of this analysis is refused with what differs."""

import tracemalloc

import numpy as np
import pytest

from gpu_reml.io import InputError, read_checkpoint, write_checkpoint
from gpu_reml.reml import unpack

IDENTITY = {"phenotypes": "ab12", "--seed": 3}


def test_what_is_written_comes_back_bit_for_bit(tmp_path):
    arrays = [np.array([0.1, np.nan, -0.0]), np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((4, 0))]
    skeleton = {"kind": "tuple", "items": [{"array": 0}, 0.1 + 0.2, None, True]}
    write_checkpoint(tmp_path / "x.npz", IDENTITY, skeleton, arrays)
    found, back = read_checkpoint(tmp_path / "x.npz", IDENTITY)
    assert found == skeleton
    assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(arrays, back, strict=True))


def test_no_file_is_no_checkpoint(tmp_path):
    assert read_checkpoint(tmp_path / "none.npz", IDENTITY) is None


def test_another_analysis_is_refused_by_what_differs(tmp_path):
    write_checkpoint(tmp_path / "x.npz", IDENTITY, None, [])
    with pytest.raises(InputError, match=r"another analysis \(--seed differ\)"):
        read_checkpoint(tmp_path / "x.npz", {**IDENTITY, "--seed": 4})


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK half a file")
    with pytest.raises(InputError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "x.npz", IDENTITY)


def test_a_checkpoint_that_was_changed_or_made_up_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    write_checkpoint(path, IDENTITY, {"array": 0}, [np.arange(3.0)])
    with np.load(path) as file:
        entries = dict(file)
    np.savez(path, **entries | {"array_0": np.arange(1.0, 4)})
    with pytest.raises(InputError, match=r"x\.npz: its contents are not those that were written .* without `resume`"):
        read_checkpoint(path, IDENTITY)
    for empty in (b"", b"PK\x05\x06" + bytes(18)):
        path.write_bytes(empty)
        with pytest.raises(InputError, match=r"x\.npz: not a checkpoint"):
            read_checkpoint(path, IDENTITY)


@pytest.mark.parametrize(
    "skeleton",
    [
        {"array": 1},
        {"array": -1},
        {"array": "0"},
        {"array": True},
        [1],
        {"kind": "tuple"},
        {"kind": 3, "items": []},
        {},
    ],
)
def test_a_skeleton_that_points_to_nothing_is_refused(tmp_path, skeleton):
    write_checkpoint(tmp_path / "x.npz", IDENTITY, {"kind": "tuple", "items": [skeleton]}, [np.arange(3.0)])
    with pytest.raises(InputError, match=r"x\.npz: not a whole checkpoint; remove it"):
        read_checkpoint(tmp_path / "x.npz", IDENTITY)


def test_kinds_of_another_version_are_refused():
    with pytest.raises(ValueError, match="Step with 1 fields is of another version"):
        unpack({"kind": "Step", "items": [1]}, [])
    with pytest.raises(ValueError, match="Leap with 0 fields"):
        unpack({"kind": "Leap", "items": []}, [])


def test_a_checkpoint_is_never_held_whole_beside_the_arrays(tmp_path):
    arrays = [np.full((1 << 18, 2), float(i)) for i in range(8)]  # 4 MiB each
    tracemalloc.start()
    write_checkpoint(tmp_path / "x.npz", IDENTITY, {"kind": "tuple", "items": []}, arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * arrays[0].nbytes
    with np.load(tmp_path / "x.npz") as file:
        np.testing.assert_array_equal(file["array_7"], arrays[7])
