"""How a run came about: the command as it was typed, versions, the machine, and the memory that the process took."""

import os
import platform
import resource
import shlex
import sys
from importlib.metadata import version
from typing import Any

from .parser import CommandLine

PACKAGES = ("gpu-reml", "numpy", "scipy", "numba")


def provenance(line: CommandLine) -> dict[str, Any]:
    """What OUT.json says under ``run``; memory is the most that the process has held so far."""
    return {
        "command": shlex.join(line.words),
        "typed": sorted(line.typed),
        "folder": os.getcwd(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "host": {
            "name": platform.node(),
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor(),
            "cores": os.cpu_count(),
        },
        "peak_memory_bytes": peak_memory(),
    }


def processor() -> str:
    """The processor's name, as the system has it."""
    try:
        with open("/proc/cpuinfo") as lines:
            named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except FileNotFoundError:  # this system is not Linux
        named = []
    return named[0] if named else platform.processor()


def peak_memory() -> int:
    """Most bytes that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
