"""What a job of several knows of its share of the variants: one .npz file each, put together by another job."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .archives import load_npz, parse_json
from .checkpoint import _checksum, _npz_pieces
from .errors import InputError
from .writers import write_streams

VERSION = 1


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
    text = json.dumps({"version": VERSION, "identity": identity, "head": head})
    write_streams({path: _npz_pieces({"text": np.array(text), "sha256": np.array(_checksum(text, arrays)), **arrays})})


def read_part(path: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`write_part` wrote.  Raises InputError for a part of other data or flags (naming what differs), or a
    damaged one."""
    remedy = "run this part again"
    arrays = load_npz(path, "part", "not a part", remedy)
    text, checksum = (str(arrays.pop(name, "")) for name in ("text", "sha256"))
    said = parse_json(text, f"{path}: not a part: text")
    if not isinstance(said, dict) or said.get("version") != VERSION:
        raise InputError(f"{path}: not a part of this version; {remedy}")
    if checksum != _checksum(text, arrays):
        raise InputError(f"{path}: its contents are not those that were written (SHA-256 differs); {remedy}")
    now, then = json.loads(json.dumps(identity)), said["identity"]
    unlike = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if unlike:
        raise InputError(f"{path}: is of another analysis ({', '.join(unlike)} differ); {remedy}, with these flags")
    return said["head"], arrays
