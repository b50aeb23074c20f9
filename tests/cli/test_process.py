"""What happens around a run: closed and full screens, signals, files that are lost while they are mapped."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module

import numpy as np
import pytest

from gpu_reml.cli import gwas, predict, process, relax, sparse
from gpu_reml.cli.main import main
from gpu_reml.io import read_bed
from gpu_reml.validation import simulate_bed

N, M = 150, 300
COMMANDS = {
    "gpu-reml": (main, ["--save-model", "{out}.model"], "{out}.json"),
    "gpu-reml-gwas": (gwas.main, [], "{out}.gwas.tsv"),
    "gpu-reml-sparse": (sparse.main, ["--outer-max", "1", "--candidate-k", "8"], "{out}.summary.json"),
    "gpu-reml-relax": (relax.main, ["--n-groups", "2", "--outer-iters", "1"], "{out}.meta.json"),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process")
    simulate_bed(folder / "data", N, M, 1)
    people = [line.split()[:2] for line in (folder / "data.fam").read_text().splitlines()]
    values = np.random.default_rng(0).standard_normal(N)
    rows = [f"{fid} {iid} {value:.5f}\n" for (fid, iid), value in zip(people, values, strict=True)]
    (folder / "pheno.txt").write_text("".join(rows))
    assert main([*arguments_of(folder, folder / "fit"), "--save-model", str(folder / "fit")]) == 0
    return folder


def arguments_of(cohort, out):
    return ["--bfile", str(cohort / "data"), "--pheno", str(cohort / "pheno.txt"), "--out", str(out), "--device", "cpu"]


class Failing(io.StringIO):
    """A screen that cannot be written to."""

    encoding = "utf-8"

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, _text):
        raise self.error

    flush = write


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")])
def test_a_screen_that_fails_costs_no_command_its_results(cohort, tmp_path, monkeypatch, capsys, name, error):
    command, more, result = COMMANDS[name]
    monkeypatch.setattr(sys, "stdout", Failing(error))
    out = str(tmp_path / "out")
    code = command([*arguments_of(cohort, out), *(part.format(out=out) for part in more)])
    assert code in (0, 3) and os.path.exists(result.format(out=out))
    assert isinstance(sys.stdout, Failing)  # it is put back
    told = "standard output could not be written (No space left on device)" in capsys.readouterr().err
    assert told == (error.errno == 28)


def test_a_prediction_is_written_where_both_screens_fail(cohort, tmp_path, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Failing(OSError(5, "Input/output error")))
    flags = ["--model", cohort / "fit", "--bfile", cohort / "data", "--out", tmp_path / "p", "--device", "cpu"]
    assert predict.main([str(flag) for flag in flags]) == 0
    assert (tmp_path / "p.prediction.tsv").exists()


def test_a_screen_that_somebody_keeps_is_no_terminal_once_its_stream_is_closed():
    stream = io.StringIO()
    screen = process.Screen(stream)
    stream.close()
    assert not screen.isatty()


def test_characters_that_a_screen_cannot_show_are_escaped(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", shown)
    with process.screens():
        print("caf\u00e9 h\u00b2")
    assert shown.buffer.getvalue() == b"caf\\xe9 h\\xb2\n"


SCREENS = """
import os, sys
from gpu_reml.cli.process import entry_point
@entry_point
def main(argv):
    os.close(os.open(os.devnull, os.O_RDONLY))  # would take the number of a closed screen
    with open(argv[0], "w") as file:
        os.write(2, b"said by a library\\n")
        for i in range(100000):
            print("line", i)
        print("to stderr", file=sys.stderr, flush=True)
        file.write("result")
    return 7
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("screens", ["| head -1 >&3", ">/dev/full", ">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_process_with_closed_or_full_screens_ends_with_its_own_code_and_whole_files(tmp_path, screens):
    run = f"{sys.executable} -c '{SCREENS}' result {screens}; code=${{PIPESTATUS[0]}}; exit $code"
    done = subprocess.run(["bash", "-c", f"exec 3>&1; {run}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "result").read_text() == "result"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_run_in_one_line_with_the_code_that_shells_give(
    cohort, tmp_path, monkeypatch, capsys, name, code
):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    monkeypatch.setattr("gpu_reml.cli.reml.load_group", lambda *_: os.kill(os.getpid(), number) or time.sleep(5))
    assert main(arguments_of(cohort, tmp_path / "out")) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu-reml: ") and "nothing was saved" in line
    assert signal.getsignal(number) == before and not list(tmp_path.iterdir())


def test_a_limit_of_addresses_that_leaves_libraries_no_room_ends_a_run_before_it_begins(cohort, monkeypatch, capsys):
    """Where BLAS gets no room for its buffers it waits for ever."""
    monkeypatch.setattr("resource.getrlimit", lambda which: (700 << 20, 700 << 20))
    arguments = ["--bfile", str(cohort / "data"), "--pheno", str(cohort / "pheno.txt"), "--out", str(cohort / "o")]
    assert main([*arguments, "--threads", "16"]) == 2
    assert capsys.readouterr().err == (
        "gpu-reml: error: ulimit -v allows 700 MiB of addresses, and libraries and threads take 1536; raise it, or use "
        "fewer --threads\n"
    )
    assert not list(cohort.glob("o.*"))


def test_a_signal_that_the_host_program_takes_is_left_to_it(cohort):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        with process.stopping_signals():
            os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_command_runs_in_a_thread_that_is_not_the_first(cohort, tmp_path):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main([*arguments_of(cohort, tmp_path / "out"), "--quiet"])))
    thread.start()
    thread.join()
    assert codes == [0] and (tmp_path / "out.json").exists()


LOST = """
import os, sys
import numpy as np
from gpu_reml.cli import process
from gpu_reml.io import load_genotypes, read_bed, shrunken_maps
from gpu_reml.ops import make_products
bed = read_bed(sys.argv[1])
products = make_products(load_genotypes([bed]), "cpu")
with process.lost_maps("gpu-reml", shrunken_maps):
    os.truncate(sys.argv[1] + ".bed", 3)
    if sys.argv[2] == "kernel":
        products.zt(np.ones((products.num_samples, 1), np.float32))
    else:
        bed.packed.sum()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no such signal")
@pytest.mark.parametrize("reader", ["kernel", "numpy"])
def test_a_bed_that_is_cut_short_while_it_is_mapped_ends_in_one_line_that_names_it(tmp_path, reader):
    simulate_bed(tmp_path / "data", 400, 2000, 1)
    command = [sys.executable, "-c", LOST, str(tmp_path / "data"), reader]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gpu-reml: error: {tmp_path / 'data.bed'}: cut short") and line.endswith("run again")


@pytest.mark.parametrize("name", ["gpu-reml", "gpu-reml-gwas", "gpu-reml-sparse", "gpu-reml-relax"])
def test_genotypes_that_are_written_to_during_a_run_give_no_result(cohort, tmp_path, monkeypatch, capsys, name):
    for path in cohort.glob("data.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    command, more, _ = COMMANDS[name]
    module = {"gpu-reml": "reml", "gpu-reml-gwas": "gwas_run", "gpu-reml-sparse": "sparse_run"}.get(name, "relax_run")
    real = import_module(f"gpu_reml.cli.{module}").load_group

    def then_overwritten(*arguments):
        loaded = real(*arguments)
        os.utime(tmp_path / "data.bed", ns=(0, 0))
        return loaded

    monkeypatch.setattr(f"gpu_reml.cli.{module}.load_group", then_overwritten)
    out = str(tmp_path / "out")
    flags = [*arguments_of(cohort, out), *(part.format(out=out) for part in more), "--bfile", str(tmp_path / "data")]
    assert command(flags) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{name}: error: {tmp_path / 'data.bed'}: was changed")
    assert not [path for path in tmp_path.glob("out*") if path.name != "out.history.json"]


def test_a_prediction_from_genotypes_that_change_meanwhile_is_not_written(cohort, tmp_path, monkeypatch, capsys):
    for path in cohort.glob("data.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())

    def then_overwritten(prefix):
        bed = read_bed(prefix)
        os.utime(tmp_path / "data.bed", ns=(0, 0))
        return bed

    monkeypatch.setattr("gpu_reml.io.read_bed", then_overwritten)
    flags = ["--model", cohort / "fit", "--bfile", tmp_path / "data", "--out", tmp_path / "p", "--device", "cpu"]
    assert predict.main([str(flag) for flag in flags]) == 2
    assert "data.bed: was changed while it was read" in capsys.readouterr().err
    assert not list(tmp_path.glob("p*"))


def test_a_checkpoint_of_other_people_with_the_same_frequencies_is_not_taken(cohort, tmp_path, monkeypatch, capsys):
    for path in cohort.glob("data.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())

    def died(*_, **__):
        raise KeyboardInterrupt

    flags = [*arguments_of(cohort, tmp_path / "out"), "--bfile", str(tmp_path / "data")]
    flags += ["--method", "stochastic", "--checkpoint-seconds", "0"]
    with monkeypatch.context() as patch:
        patch.setattr("gpu_reml.cli.progress.Progress.close", died)
        assert main(flags) == 130
    assert len(list(tmp_path.glob("out*checkpoint.npz"))) == 1
    packed = np.fromfile(tmp_path / "data.bed", np.uint8)
    rows = packed[3:].reshape(M, -1)
    rows[:, [0, 1, 2, 3]] = rows[:, [3, 2, 1, 0]]  # sixteen people change places, and nothing else
    when = os.stat(tmp_path / "data.bed")
    (tmp_path / "data.bed").write_bytes(packed.tobytes())
    os.utime(tmp_path / "data.bed", ns=(when.st_atime_ns, when.st_mtime_ns))
    capsys.readouterr()
    assert main([*flags, "--resume"]) == 2
    assert "the checkpoint is of another analysis (genotypes differ)" in capsys.readouterr().err


def test_a_damaged_entry_of_the_cache_is_told_in_the_notes(cohort, tmp_path):
    keep = tmp_path / "keep.txt"
    keep.write_text("".join((cohort / "data.fam").read_text().splitlines(True)[:100]))
    flags = ["--cache", str(tmp_path / "cache"), "--keep", str(keep), "--quiet"]
    assert main([*arguments_of(cohort, tmp_path / "first"), *flags]) == 0
    (entry,) = (tmp_path / "cache").iterdir()
    content = bytearray(entry.read_bytes())
    content[100] ^= 1
    entry.write_bytes(content)
    assert main([*arguments_of(cohort, tmp_path / "second"), *flags]) == 0
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "second"))
    assert first["h2"] == second["h2"]
    assert f"{entry}: the genotypes kept there are damaged; they are made again" in second["notes"]
