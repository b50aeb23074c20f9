"""What a person sees of a run under way: lines every half minute, and what was saved when it is ended."""

import os
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from gpu_reml.cli.flags.output import Screen
from gpu_reml.cli.progress import MeanTraces, Progress, duration, under_way
from gpu_reml.cli.run import run_command, saved_text
from gpu_reml.reml import Record


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run_of(screen, seconds, clock):
    """A fit of five iterations, each of 100 products, which take so many seconds each."""
    progress = Progress(1e-4, screen, MeanTraces(np.array([1.0, 2.0]), np.array([1.0])), clock)
    for iteration in range(1, 6):
        for product in range(100):
            clock.now += seconds
            progress.passes(100.0 * (iteration - 1) + product + 1)
        progress.iteration(Record(iteration, (0.2, 0.1, 0.6), 10.0**-iteration, 0.1, 0, 32, 100.0 * iteration))
    progress.close()
    return progress


def test_a_log_has_a_line_every_half_minute_with_what_is_known(capsys):
    progress = run_of(Screen(), 0.5, Clock())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 250 // 30 and all(line.startswith("progress: ") for line in lines)
    assert "60 products in 30 s; before the first iteration" in lines[0]
    # V = 0.2 + 0.1 x 2 of 1.0
    assert "iteration 4, h2 so far 0.400, last change 0.01 SE, 32 probes; about" in lines[-1] and "left" in lines[-1]
    assert progress.seconds == pytest.approx([50, 100, 150, 200, 250])


@pytest.mark.parametrize("screen, seconds", [(Screen(quiet=True), 0.5), (Screen(), 0.001)])
def test_quiet_and_quick_runs_have_none(capsys, screen, seconds):
    run_of(screen, seconds, Clock())
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_instead_with_the_same_words(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run_of(Screen(), 0.5, Clock())
    text = capsys.readouterr().err
    assert "h2 so far 0.400" in text and "progress:" not in text


@pytest.mark.parametrize("seconds, said", [(3.2, "3 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_said_as_people_do(seconds, said):
    assert duration(seconds) == said


def test_a_run_that_is_ended_says_which_checkpoints_it_left(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert saved_text(out).startswith("nothing was saved")
    assert saved_text(str(tmp_path / "none" / "out")).startswith("nothing was saved")
    (tmp_path / "out.height.checkpoint.npz").write_bytes(b"")
    (tmp_path / "output.height.checkpoint.npz").write_bytes(b"")

    def stopped(_threads):
        raise KeyboardInterrupt

    assert run_command("gpu-reml", stopped, 1, lambda: saved_text(out)) == 130
    said = capsys.readouterr().err
    assert f"interrupted; saved: {out}.height.checkpoint.npz of 0 s ago; the same command with --resume" in said
    assert "output.height" not in said


def test_an_ended_sparse_run_names_its_own_rounds_and_not_those_of_a_run_before(tmp_path, monkeypatch, capsys):
    from gpu_reml.cli import sparse

    history = tmp_path / "m.history.json"
    history.write_text("{}")
    old = history.stat().st_mtime - 100

    os.utime(history, (old, old))

    def ended(name, command, threads, interrupted):
        print(interrupted())
        history.write_text("{}")
        print(interrupted())
        return 130

    monkeypatch.setattr(sparse, "run_command", ended)
    monkeypatch.setattr(sparse, "time", SimpleNamespace(time=lambda: old + 50))
    assert sparse.main(["--bfile", "d", "--pheno", "p", "--out", str(tmp_path / "m")]) == 130
    first, second = capsys.readouterr().out.splitlines()
    assert first == "nothing was saved: no round was finished" and second.endswith(f"in {history}")


@pytest.mark.parametrize("quiet", [False, True])
def test_work_that_reports_no_steps_is_said_to_go_on(capsys, quiet):
    with under_way("testing 10 variants", quiet=quiet, every=0.02):
        time.sleep(0.15)
    lines = capsys.readouterr().err.splitlines()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # nothing is said after its end
    assert bool(lines) != quiet and set(lines) <= {"progress: testing 10 variants, 0 s so far"}


def test_work_that_fails_ends_its_lines_and_keeps_its_error():
    before = threading.active_count()
    with pytest.raises(ValueError, match="of the work"), under_way("x", quiet=False, every=0.01):
        raise ValueError("of the work")
    assert threading.active_count() == before
