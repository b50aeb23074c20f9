"""``python -m benchmarks.run [--out PREFIX] -- COMMAND ...``: run a command and keep what it took.

Its output goes where it always goes and to PREFIX.log.  PREFIX.json gets the command, its exit code, wall and CPU
seconds, the peak memory of its largest process as the kernel accounts it, and the GPUs' memory and utilisation where
there is a driver to ask.  The exit code is the command's, or 128 + n when signal n ended it.

Ctrl-C reaches the command as it does every process of the terminal, SIGTERM is handed on to it; the record is written
in both cases.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from .gpu_usage import GpuUsage
from .process import wait_for

CHUNK = 1 << 16
DRAIN_SECONDS = 2.0  # for output still in the pipes once the command has ended
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit codes, as of a shell


def run(command: list[str], out: str, interval: float, make_usage: Callable = GpuUsage) -> int:
    """Run ``command``; write ``out``.log and ``out``.json; the exit code to end with."""
    started = datetime.now(UTC)
    with open(f"{out}.log", "wb") as log:
        signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the command would inherit
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(process.pid, signal.SIGTERM))
        lock = threading.Lock()
        copiers = [
            threading.Thread(target=copy_through, args=(pipe, stream.buffer, log, lock), daemon=True)
            for pipe, stream in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        ]
        for copier in copiers:
            copier.start()
        with make_usage(interval, lambda pid: descends(pid, process.pid)) as usage:
            account = wait_for(process.pid, start)
        process.returncode = account["code"]
        for copier in copiers:
            copier.join(DRAIN_SECONDS)  # a process left behind may hold the pipe open for good
        with lock:
            log.close()
    code = account.pop("code")
    record = {
        "command": command,
        "started": started.isoformat(timespec="seconds"),
        "exit_code": code if code >= 0 else None,
        "signal": signal.Signals(-code).name if code < 0 else None,
        **account,
        "log": Path(f"{out}.log").name,
        "gpu": usage.summary(),
    }
    write_whole(Path(f"{out}.json"), json.dumps(record, indent=1) + "\n")
    return code if code >= 0 else 128 - code


def copy_through(pipe: BinaryIO, stream: BinaryIO, log: BinaryIO, lock: threading.Lock) -> None:
    """Everything that comes out of ``pipe``, at once, to ``stream`` and ``log``; a reader that left is done without."""
    while chunk := os.read(pipe.fileno(), CHUNK):
        with lock:
            if not log.closed:
                log.write(chunk)
        if stream is not None:
            try:
                stream.write(chunk)
                stream.flush()
            except OSError:
                stream = None


def descends(pid: int, ancestor: int) -> bool:
    """Whether ``pid`` is ``ancestor`` or a process that it started, directly or not."""
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parent(pid)
    return False


def parent(pid: int) -> int:
    """Id of the process that started ``pid``; 0 where that is not to be found."""
    try:
        # The name, in parentheses, may hold anything; the state and the parent's id follow it.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen half-written."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = f"run-{datetime.now():%Y%m%d-%H%M%S}"
    parser.add_argument("--out", default=default, metavar="PREFIX", help="of the log and the record (run-DATE)")
    parser.add_argument("--interval", type=float, default=0.5, metavar="S", help="seconds between samples of the GPUs")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command; give it after --")
    if not options.interval > 0:
        parser.error(f"--interval: expected a positive number of seconds, found {options.interval}")
    try:
        return run(command, options.out, options.interval)
    except FileNotFoundError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND
    except PermissionError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main())
