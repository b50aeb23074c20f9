"""A checkpoint comes back as it was, and one that is not of this analysis is refused with what differs."""

import numpy as np
import pytest

from gpu_reml.io import InputError, read_checkpoint, write_checkpoint

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
