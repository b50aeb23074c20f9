"""Wall time, CPU time and peak memory of a whole process, from the kernel's own account of it.

Linux counts the memory of the process that starts another into the peak of the one started.  So a command runs under a
small launcher (this file, which imports nothing but the standard library), and a large caller does not show.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss


class Run(NamedTuple):
    """How a process went; ``peak_bytes`` resident in the largest process of its tree, ``code`` -n for signal n."""

    seconds: float
    user_seconds: float
    system_seconds: float
    peak_bytes: int
    code: int
    output: str


def available_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(command: Sequence[str], threads: int) -> Run:
    """Run ``command`` from the repository's root with its libraries held to ``threads`` threads."""
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    with tempfile.TemporaryDirectory() as folder:
        report, printed = Path(folder, "report.json"), Path(folder, "output.txt")
        with open(printed, "wb") as output:
            launcher = [sys.executable, "-I", "-S", __file__, str(report), *map(str, command)]
            subprocess.run(launcher, stdout=output, stderr=output, cwd=ROOT, env=environment, check=True)
        return Run(**json.loads(report.read_text()), output=printed.read_text(encoding="utf-8", errors="replace"))


def measure_module(module: str, arguments: Sequence, threads: int, accepted: Sequence[int] = (0,)) -> Run:
    """``python -m module arguments``; RuntimeError with what it printed unless its exit code is an ``accepted`` one."""
    run = measure([sys.executable, "-m", module, *map(str, arguments)], threads)
    if run.code not in accepted:
        raise RuntimeError(f"python -m {module} {' '.join(map(str, arguments))} ended with {run.code}:\n{run.output}")
    return run


def launch(report: str, command: list[str]) -> None:
    """Run ``command``, wait for it, and write its account to ``report``."""
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ)
    Path(report).write_text(json.dumps(wait_for(pid, start)))


def wait_for(pid: int, start: float) -> dict[str, float | int]:
    """Wait for a process begun at ``start`` (perf_counter); its account: the fields of :class:`Run` but the output.

    CPU seconds are those of the process and all descendants that were waited for.
    """
    _, status, usage = os.wait4(pid, 0)
    return {
        "seconds": time.perf_counter() - start,
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * RSS_UNIT,
        "code": os.waitstatus_to_exitcode(status),
    }


if __name__ == "__main__":
    launch(sys.argv[1], sys.argv[2:])
