"""benchmarks.run: the command runs as if alone, and what it took is on record; the GPUs by a driver that is made up."""

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GIB = 1 << 30
NOT_SUPPORTED = 3  # NVML_ERROR_NOT_SUPPORTED


@pytest.fixture(scope="module", autouse=True)
def checkout():
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


@pytest.fixture
def gpu_usage():
    return importlib.import_module("benchmarks.gpu_usage")


def start(tmp_path, *command, **popen):
    arguments = [sys.executable, "-m", "benchmarks.run", "--out", tmp_path / "r", "--interval", "0.05", "--", *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(list(map(str, arguments)), cwd=ROOT, text=True, start_new_session=True, **pipes, **popen)


def finished(process, tmp_path):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, json.loads((tmp_path / "r.json").read_text())


def python(code):
    return sys.executable, "-S", "-c", code


def test_output_passes_through_apart_and_is_logged_together(tmp_path):
    code = "import os; os.write(1, b'one\\n'); os.write(2, b'two\\n'); print('x' * 300_000)"
    returned, out, err, record = finished(start(tmp_path, *python(code)), tmp_path)
    assert (returned, out, err) == (0, "one\n" + "x" * 300_000 + "\n", "two\n")
    log = (tmp_path / record["log"]).read_text()
    assert "one\n" in log and "two\n" in log and log.count("x") == 300_000


def test_the_record_is_complete_and_nothing_else_is_left(tmp_path):
    code = "b = b'x' * (80 << 20); s = sum(range(3_000_000))"
    _, _, _, record = finished(start(tmp_path, *python(code)), tmp_path)
    assert record["command"] == list(python(code))
    assert (record["exit_code"], record["signal"]) == (0, None)
    assert 80 << 20 < record["peak_bytes"] < 200 << 20
    assert 0.02 < record["user_seconds"] <= record["seconds"] * 1.5
    assert record["system_seconds"] >= 0 and record["started"].endswith("+00:00")
    assert record["gpu"]["interval_seconds"] == 0.05
    assert record["gpu"]["devices"] or record["gpu"]["missing"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.log"]


def test_the_peak_is_that_of_the_largest_process_of_the_tree(tmp_path):
    child = "b = b'x' * (100 << 20)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    assert finished(start(tmp_path, *python(code)), tmp_path)[3]["peak_bytes"] > 100 << 20


def test_a_failing_command_gives_its_exit_code(tmp_path):
    returned, _, _, record = finished(start(tmp_path, *python("raise SystemExit(3)")), tmp_path)
    assert returned == record["exit_code"] == 3


def test_a_killed_command_is_recorded_with_its_signal(tmp_path):
    returned, _, _, record = finished(
        start(tmp_path, *python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")), tmp_path
    )
    assert (returned, record["exit_code"], record["signal"]) == (128 + signal.SIGKILL, None, "SIGKILL")


SLOW = """
import signal, sys, time
def stop(number, _):
    print('stopped by', number, flush=True)
    time.sleep(0.3)
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
try:
    print('ready', flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    stop(2, None)
"""


def test_ctrl_c_goes_to_the_command_and_the_record_is_written(tmp_path):
    process = start(tmp_path, *python(SLOW))
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    returned, out, _, record = finished(process, tmp_path)
    assert (returned, out, record["exit_code"]) == (7, "stopped by 2\n", 7)


def test_sigterm_is_handed_on_and_the_record_is_written(tmp_path):
    process = start(tmp_path, *python(SLOW))
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    returned, out, _, record = finished(process, tmp_path)
    assert (returned, out, record["exit_code"]) == (7, f"stopped by {int(signal.SIGTERM)}\n", 7)


def test_a_process_left_behind_with_the_output_does_not_hold_up_the_record(tmp_path):
    code = "import subprocess, sys; print('done'); subprocess.Popen([sys.executable, '-S', '-c', %r])"
    began = time.monotonic()
    process = start(tmp_path, *python(code % "import time; time.sleep(20)"))
    assert process.wait(timeout=15) == 0 and time.monotonic() - began < 10
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == 0
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_reader_that_leaves_does_not_stop_the_command(tmp_path):
    code = "import time\nfor i in range(40): print('x' * 10_000, flush=True)"
    process = start(tmp_path, *python(code))
    process.stdout.close()
    process.wait(timeout=30)
    assert len((tmp_path / "r.log").read_text()) == 40 * 10_001


@pytest.mark.parametrize(
    ("command", "returned", "message"),
    [((), 2, "no command"), (("no-such-command",), 127, "no-such-command: No such file")],
)
def test_a_command_that_cannot_run_is_said(tmp_path, command, returned, message):
    process = start(tmp_path, *command)
    _, err = process.communicate(timeout=30)
    assert process.returncode == returned and message in err
    assert not (tmp_path / "r.json").exists()


# GPUs


class FakeNvml:
    """Stands for libnvidia-ml: two devices whose memory rises with every sample; some functions may be unsupported."""

    def __init__(self, processes=((11, GIB), (22, 2 * GIB)), unsupported=()):
        self.processes, self.unsupported, self.samples, self.closed = list(processes), unsupported, 0, False

    def __getattr__(self, name):
        raise AssertionError(f"the library was asked for {name}, which NVML may not have")

    def nvmlInit_v2(self):  # noqa: N802
        return 0

    def nvmlShutdown(self):  # noqa: N802
        self.closed = True
        return 0

    def nvmlSystemGetDriverVersion(self, text, size):  # noqa: N802
        text.value = b"580.65.06"
        return 0

    def nvmlDeviceGetCount_v2(self, count):  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        handle._obj.value = 1000 + index.value
        return 0

    def nvmlDeviceGetName(self, handle, text, size):  # noqa: N802
        text.value = f"NVIDIA device {handle.value}".encode()
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory):  # noqa: N802
        self.samples += 1
        memory._obj.total, memory._obj.used = 80 * GIB, (self.samples if handle.value == 1000 else 1) * GIB
        memory._obj.free = memory._obj.total - memory._obj.used
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle, utilization):  # noqa: N802
        if "utilization" in self.unsupported:
            return NOT_SUPPORTED
        utilization._obj.gpu, utilization._obj.memory = 90, 10
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle, count, found):  # noqa: N802
        if "processes" in self.unsupported:
            return NOT_SUPPORTED
        listed = self.processes if handle.value == 1000 else []
        room, count._obj.value = count._obj.value, len(listed)
        if room < len(listed):
            return 7  # NVML_ERROR_INSUFFICIENT_SIZE
        for slot, process in zip(found, listed, strict=False):
            slot.pid, slot.used = process
        return 0


def watched(gpu_usage, library, is_own=None, seconds=0.1):
    with gpu_usage.GpuUsage(0.01, is_own, lambda: gpu_usage.Nvml(library)) as usage:
        time.sleep(seconds)
    return usage.summary()


def test_memory_and_utilisation_are_sampled_on_every_device(gpu_usage):
    library = FakeNvml()
    found = watched(gpu_usage, library, lambda pid: pid == 22)
    assert found["driver"] == "580.65.06" and library.closed
    first, second = found["devices"]
    assert (first["name"], first["total_bytes"], first["used_bytes_at_start"]) == ("NVIDIA device 1000", 80 * GIB, GIB)
    assert first["used_bytes"]["samples"] >= 3
    assert first["used_bytes"]["peak"] == (library.samples - 1) * GIB  # the other device was the last to be asked
    assert GIB < first["used_bytes"]["mean"] < first["used_bytes"]["peak"]
    assert second["used_bytes"]["peak"] == second["used_bytes"]["mean"] == GIB
    assert first["utilisation_percent"]["peak"] == 90
    assert found["missing"] == {}


def test_memory_of_the_command_is_apart_from_that_of_others(gpu_usage):
    devices = watched(gpu_usage, FakeNvml(), lambda pid: pid == 22)["devices"]
    assert devices[0]["own_bytes"]["peak"] == 2 * GIB
    assert devices[1]["own_bytes"] is None


def test_more_processes_than_were_expected_are_all_counted(gpu_usage):
    many = FakeNvml([(pid, GIB) for pid in range(100)])
    assert watched(gpu_usage, many, lambda pid: pid % 2 == 0)["devices"][0]["own_bytes"]["peak"] == 50 * GIB


def test_processes_of_unknown_memory_are_not_counted(gpu_usage):
    library = FakeNvml([(22, gpu_usage.UNKNOWN_BYTES)])
    found = watched(gpu_usage, library, lambda pid: True)
    assert found["devices"][0]["own_bytes"] is None and "hidden" in found["missing"]["own_bytes"]


@pytest.mark.parametrize(("what", "key"), [("utilization", "utilisation_percent"), ("processes", "own_bytes")])
def test_what_a_driver_does_not_tell_is_said_and_the_rest_is_sampled(gpu_usage, what, key):
    found = watched(gpu_usage, FakeNvml(unsupported=(what,)), lambda pid: True)
    assert "failed with code 3" in found["missing"][key]
    assert found["devices"][0][key] is None and found["devices"][0]["used_bytes"]["samples"] >= 3


def test_without_a_driver_the_record_says_so(gpu_usage):
    def no_driver():
        raise gpu_usage.UsageError("no libnvidia-ml.so.1 on this machine")

    with gpu_usage.GpuUsage(0.01, None, no_driver) as usage:
        pass
    assert usage.summary()["devices"] == []
    assert usage.summary()["missing"] == {"devices": "no libnvidia-ml.so.1 on this machine"}


def test_structures_lie_as_in_nvml_h(gpu_usage):
    offsets = [getattr(gpu_usage.ProcessStruct, name).offset for name in ("pid", "used", "instance")]
    assert (offsets, ctypes.sizeof(gpu_usage.ProcessStruct)) == ([0, 8, 16], 24)
    assert [getattr(gpu_usage.MemoryStruct, name).offset for name in ("total", "free", "used")] == [0, 8, 16]


def test_a_process_descends_from_those_that_started_it():
    run = importlib.import_module("benchmarks.run")
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert run.descends(child.pid, os.getpid()) and run.descends(child.pid, child.pid)
        assert not run.descends(os.getpid(), child.pid)
    finally:
        child.communicate(b"\n")


class WhoIsOwn:
    """Stands for the sampling: which running processes the run would count as the command's."""

    def __init__(self, interval, is_own):
        self.interval, self.is_own = interval, is_own

    def __enter__(self):
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        self.found = {"own": [pid for pid in pids if self.is_own(pid)], "me": self.is_own(os.getpid())}
        return self

    def __exit__(self, *_):
        pass

    def summary(self):
        return self.found


@pytest.fixture
def signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_the_processes_counted_apart_are_the_commands(tmp_path, signals, monkeypatch):
    run = importlib.import_module("benchmarks.run")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(run.sys, name, open(os.devnull, "w"))
    assert run.run(["sleep", "0.5"], str(tmp_path / "r"), 0.5, WhoIsOwn) == 0
    gpu = json.loads((tmp_path / "r.json").read_text())["gpu"]
    assert len(gpu["own"]) == 1 and not gpu["me"]


def test_the_package_is_importable_from_a_checkout_where_it_is_not_installed(tmp_path):
    code = (
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '')]\n"
        "sys.path = [p for p in sys.path if '__editable__' not in p]\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('gpu_reml') is None\n"
        "import benchmarks, gpu_reml.ops.packing\n"
        "print(gpu_reml.ops.packing.__file__)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()) == ROOT / "ops" / "packing.py"
