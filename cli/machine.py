"""What this machine, or the job's share of it, has."""

import os
import resource
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def machine_memory() -> int:
    """Bytes that this process may take: the machine's, or less where the process or its group of them is limited."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *cgroup_limits(OWN_CGROUP, CGROUPS)]
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([*limits, own] if own != resource.RLIM_INFINITY else limits)


def cgroup_limits(own: Path, root: Path) -> list[int]:
    """Limits of memory of the groups (version 2) that the process is in, from its own up; [] where there are none."""
    if not own.exists():
        return []
    lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    paths = [path for number, _, path in lines if number == "0"]
    groups = [root / path.lstrip("/") for path in paths]
    files = [folder / "memory.max" for group in groups for folder in (group, *group.parents)]
    found = [file.read_text().strip() for file in files if file.exists()]
    return [int(text) for text in found if text.isdigit()]
