"""A process of its own that reads damaged files, so that one that dies or never ends takes nothing with it."""

import json
import os
import resource
import select
import shutil
import signal
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpu_reml.io import InputError

from .readers import READERS, Reader

MOST_ADDRESSES = 6 << 30  # bytes beyond those in use: a promise that is believed is a MemoryError, not a dead machine


def input_of(name: str, seed: int, k: int, stored: bytes) -> bytes:
    """Input ``k`` of a reader, the same in every run."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), k])
    ways = READERS[name].ways
    return ways[k % len(ways)](rng, stored)


def outcome_of(reader: Reader, folder: Path) -> tuple[str, str]:
    """(refused, accepted, unnamed or traceback; what was said)."""
    try:
        reader.read(folder)
    except InputError as error:
        text = str(error)
        if str(folder) not in text or "\n" in text:
            return "unnamed", text
        return "refused", text
    except Exception:
        return "traceback", traceback.format_exc()
    return "accepted", ""


def reset_peak() -> int:
    """KiB in use now; the peak is measured from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def work(name: str, first: int, last: int, seed: int, out: BinaryIO) -> None:
    """Read the inputs of a reader one by one; a line of JSON before each, and one after it."""

    def say(**record: object) -> None:
        out.write(json.dumps(record).encode() + b"\n")
        out.flush()

    reader, folder = READERS[name], Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        reader.make(folder)
        stored = (folder / reader.name).read_bytes()
        reader.read(folder)  # valid files are read, and compiled code is there
        used = reset_peak()
        for k in range(first, last):
            say(begin=k)
            (folder / reader.name).write_bytes(input_of(name, seed, k, stored))
            outcome, text = outcome_of(reader, folder)
            say(input=k, outcome=outcome, text=text, peak=peak() - used)
    finally:
        shutil.rmtree(folder)


def outcomes(name: str, num_inputs: int, seed: int, patience: float) -> Iterator[dict]:
    """What became of every input: as :func:`outcome_of`, "crash" or "hang"; {"peak": KiB} with it."""
    first = 0
    while first < num_inputs:
        for record in _forked(name, first, num_inputs, seed, patience):
            yield record
            first = record["input"] + 1


def _forked(name: str, first: int, last: int, seed: int, patience: float) -> Iterator[dict]:
    """The outcomes of one child, which ends with the inputs or with the first that it does not survive."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        code = 1
        try:
            _limit()
            with os.fdopen(writing, "wb") as out:
                work(name, first, last, seed, out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    current, fault = None, "crash"
    with os.fdopen(reading, "rb") as lines:
        while select.select([lines], [], [], patience if current is not None else 300)[0]:
            line = lines.readline()
            if not line:
                break
            record = json.loads(line)
            current = record.get("begin")
            if current is None:
                yield record
        else:
            fault = "hang"
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and status:
        raise RuntimeError(f"{name}: this program failed at input {current}")
    if current is not None:
        yield {"input": current, "outcome": fault, "text": f"wait status {status}", "peak": 0}


def _limit() -> None:
    warnings.simplefilter("error")  # what is only whispered is not said
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_ADDRESSES,) * 2)
