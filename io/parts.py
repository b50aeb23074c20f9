"""What a job of several knows of its share of the variants: one .npz file each, put together by another job."""

from pathlib import Path
from typing import Any

import numpy as np

from .documents import Kind, document_pieces, read_document, unlike
from .errors import InputError
from .writers import write_all

REMEDY = "run this part again"
PART = Kind("gpu-reml part", 2, "part", "not a part", REMEDY, REMEDY)


def part_path(out: str, part: int, parts: int) -> Path:
    """The file of part 1 to ``parts``."""
    return Path(f"{out}.part-{part}-of-{parts}.npz")


def parts_of_run(out: str) -> list[Path]:
    """The files of all parts, in order; raises InputError where there is none, or one is missing."""
    prefix = Path(out)
    found: dict[int, dict[int, Path]] = {}
    for path in prefix.parent.glob(f"{prefix.name}.part-*-of-*.npz"):
        numbers = path.name[len(prefix.name) + len(".part-") : -len(".npz")].split("-of-")
        if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
            found.setdefault(int(numbers[1]), {})[int(numbers[0])] = path
    if not found:
        raise InputError(f"{out}.part-1-of-N.npz: no such file; `part` 1/N to N/N writes them")
    if len(found) > 1:
        told = ", ".join(map(str, sorted(found)))
        raise InputError(f"{out}.part-*: there are parts of {told}; remove those of other runs")
    ((parts, paths),) = found.items()
    missing = [part_path(out, part, parts) for part in range(1, parts + 1) if part not in paths]
    if missing:
        raise InputError(f"{missing[0]}: missing, of {parts} parts; run that one too")
    return [paths[part] for part in range(1, parts + 1)]


def write_part(path: Path, identity: dict[str, Any], head: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write what a part knows; ``identity``: what has to be the same in all parts.  Atomic."""
    write_all({path: document_pieces(PART, {"identity": identity, "head": head}, arrays)})


def read_part(path: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`write_part` wrote.  Raises InputError for a part of other data or flags (naming what differs), or a
    damaged one."""
    said, arrays = read_document(path, PART)
    different = unlike(identity, said["identity"])
    if different:
        raise InputError(f"{path}: is of another analysis ({', '.join(different)} differ); {REMEDY}, with these flags")
    return said["head"], arrays
