import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpu_reml.io import (
    OutputError,
    check_writable,
    json_text,
    staging,
    table_text,
    write_all,
    write_json,
    write_table,
    write_text,
)


class Colour(Enum):
    RED = "red"


@pytest.fixture
def full_disk(monkeypatch):
    """full_disk(after) makes every fsync fail after ``after`` good ones."""

    def install(after):
        calls = iter([True] * after)

        def fsync(_):
            if not next(calls, False):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)

    return install


def test_text_is_written_into_a_new_directory_and_leaves_nothing_else(tmp_path):
    write_text(tmp_path / "a" / "b" / "out.txt", "é\n")
    assert (tmp_path / "a" / "b" / "out.txt").read_bytes() == "é\n".encode()
    assert os.listdir(tmp_path / "a" / "b") == ["out.txt"]


def test_existing_file_is_replaced(tmp_path):
    for text in ("old", "new"):
        write_text(tmp_path / "out", text)
    assert (tmp_path / "out").read_text() == "new"


def test_permissions_are_those_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "out", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_json_turns_numpy_values_paths_and_enums_plain_and_nan_into_null(tmp_path):
    value = {
        "h2": np.float64(0.1),
        "n": np.int64(3),
        "flag": np.bool_(True),
        "theta": np.array([1.0, np.nan]),
        "bad": [float("nan"), np.float32("inf"), -np.inf],
        "path": Path("a") / "b",
        "status": Colour.RED,
        "nested": ({"none": None},),
        1: "key",
    }
    write_json(tmp_path / "out.json", value)
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "h2": 0.1,
        "n": 3,
        "flag": True,
        "theta": [1.0, None],
        "bad": [None, None, None],
        "path": str(Path("a") / "b"),
        "status": "red",
        "nested": [{"none": None}],
        "1": "key",
    }


def test_floats_survive_json_to_the_last_bit_and_tables_to_nine_digits(tmp_path):
    numbers = np.random.default_rng(0).normal(size=100) * 10.0 ** np.arange(-50, 50)
    assert json.loads(json_text(numbers)) == numbers.tolist()
    write_table(tmp_path / "t.tsv", pd.DataFrame({"x": numbers}))
    words = (tmp_path / "t.tsv").read_text().split()[1:]
    assert all(len(word.lstrip("-").split("e")[0].replace(".", "").lstrip("0")) <= 9 for word in words)
    np.testing.assert_allclose([float(word) for word in words], numbers, rtol=5e-9)
    assert table_text(pd.DataFrame({"bp": [248956422.0], "x": np.float32([0.1])})) == "bp\tx\n248956422\t0.100000001\n"


def test_value_that_json_cannot_hold_is_a_type_error():
    with pytest.raises(TypeError, match="not JSON serializable"):
        json_text({"x": object()})


def test_table_has_tabs_a_header_and_na():
    table = pd.DataFrame({"iid": ["a", None], "y": [0.5, np.nan]})
    assert table_text(table) == "iid\ty\na\t0.5\nNA\tNA\n"


def test_several_files_appear_together_as_text_or_bytes(tmp_path):
    write_all({tmp_path / "a": "1", tmp_path / "sub" / "b": b"\x00"})
    assert (tmp_path / "a").read_text() == "1"
    assert (tmp_path / "sub" / "b").read_bytes() == b"\x00"


def test_full_disk_leaves_every_old_file_and_no_temporary_one(tmp_path, full_disk):
    (tmp_path / "a").write_text("old")
    full_disk(after=1)
    with pytest.raises(OutputError, match=rf"cannot write {tmp_path / 'b'}: No space left on device; ") as error:
        write_all({tmp_path / "a": "new", tmp_path / "b": "new"})
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt("stop")

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        write_text(tmp_path / "a", "x")
    assert os.listdir(tmp_path) == []


def test_directory_in_the_place_of_a_file_is_found_before_anything_is_renamed(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputError, match=r"cannot write \S*b: it is a directory"):
        write_all({tmp_path / "a": "1", tmp_path / "b": "2"})
    assert os.listdir(tmp_path) == ["b"]


def test_failed_rename_names_the_files_already_in_place(tmp_path, monkeypatch):
    replace = os.replace

    def fail_on_a(source, target):
        if Path(target).name == "a":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_a)
    with pytest.raises(OutputError, match=rf"a: Permission denied \(already in place: {tmp_path / 'b'}\)"):
        write_all({tmp_path / "a": "1", tmp_path / "b": "2"})
    assert os.listdir(tmp_path) == ["b"]


def test_file_in_the_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (lambda path: write_text(path, "x"), check_writable):
        with pytest.raises(OutputError, match=r"cannot write \S*file/out: .*exists"):
            write(tmp_path / "file" / "out")


def test_name_that_the_file_system_refuses_is_reported_before_the_work(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write \S*xxx: File name too long"):
        check_writable(tmp_path / ("x" * 300))


def test_check_writable_makes_the_directory_and_leaves_it_empty(tmp_path):
    check_writable(tmp_path / "new" / "run1")
    assert os.listdir(tmp_path / "new") == []


def test_check_writable_refuses_a_directory_as_prefix(tmp_path):
    for prefix in (tmp_path, f"{tmp_path}/", f"{tmp_path}/absent/"):
        with pytest.raises(OutputError, match="is a directory; add the start of a file name"):
            check_writable(prefix)


def test_check_writable_finds_a_full_disk(tmp_path, full_disk):
    full_disk(after=0)
    with pytest.raises(OutputError, match="No space left on device"):
        check_writable(tmp_path / "out")
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from gpu_reml.io import write_all
from pathlib import Path
def chunks():
    yield b"half"
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("half", flush=True)
    sys.stdin.readline()
out = Path(sys.argv[1])
write_all({out.with_name(out.name + ".a"): [b"whole"], out.with_name(out.name + ".b"): chunks()})
"""


def half_written(out, how):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_what_a_killed_process_left_is_cleared_and_what_a_live_one_writes_is_not(tmp_path):
    half_written(tmp_path / "out", "killed").wait()
    half_written(tmp_path / "outer", "killed").wait()
    half_written(tmp_path / "out.of", "killed").wait()
    left = {path.name.rsplit(".", 2)[0] for path in tmp_path.iterdir()}
    assert left == {".out.a", ".out.b", ".outer.a", ".outer.b", ".out.of.a", ".out.of.b"}
    with half_written(tmp_path / "out", "live") as live:
        assert live.stdout.readline() == "half\n"
        check_writable(tmp_path / "out")
        assert sorted(path.name.rsplit(".", 2)[0] for path in tmp_path.iterdir()) == [
            ".out.a", ".out.b", ".outer.a", ".outer.b",
        ]  # fmt: skip
        live.communicate("\n")
    assert (tmp_path / "out.a").read_text() == "whole" and (tmp_path / "out.b").read_text() == "half"
    check_writable(tmp_path / "outer")
    assert sorted(os.listdir(tmp_path)) == ["out.a", "out.b"]


def test_where_there_are_no_locks_only_what_is_a_day_old_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "_locked", lambda *_, **__: None)
    old, new = tmp_path / ".out.json.0123abcd.tmp", tmp_path / ".out.hsq.4567abcd.tmp"
    for path in (old, new):
        path.touch()
    before = time.time() - staging.ABANDONED - 1
    os.utime(old, (before, before))
    check_writable(tmp_path / "out")
    assert list(tmp_path.iterdir()) == [new]


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked_is_begun_anew(tmp_path, monkeypatch):
    real, taken = staging._locked, []

    def late(descriptor, wait=True):
        if wait and not taken:
            taken.extend(tmp_path.glob(".*.tmp"))
            taken[0].unlink()
        return real(descriptor, wait)

    monkeypatch.setattr(staging, "_locked", late)
    write_all({tmp_path / "a": "1", tmp_path / "b": "2"})
    assert taken and sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_files_of_two_runs_with_one_prefix_are_not_mixed(tmp_path, monkeypatch):
    """While one run renames, the other one waits."""
    replace, others = os.replace, []

    def other_run_between(source, target):
        replace(source, target)
        if not others:
            code = "import sys; from gpu_reml.io import write_all; write_all(dict.fromkeys(sys.argv[1:], 'other'))"
            others.append(subprocess.Popen([sys.executable, "-c", code, tmp_path / "a", tmp_path / "b"]))
            time.sleep(2.5)  # long enough for it to be there, were it not for the lock

    monkeypatch.setattr(os, "replace", other_run_between)
    write_all({tmp_path / "a": "one", tmp_path / "b": "one"})
    assert others[0].wait(30) == 0
    assert {(tmp_path / name).read_text() for name in "ab"} == {"other"}


def test_a_signal_during_the_renames_waits_until_they_are_done(tmp_path, monkeypatch):
    replace = os.replace

    def interrupted(source, target):
        replace(source, target)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        write_all({tmp_path / "a": "1", tmp_path / "b": "2"})
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
