"""The state of a long fit on disk: one .npz file, written whole or not at all."""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .archives import load_npz, parse_json
from .errors import InputError
from .writers import write_streams

VERSION = 2


def write_checkpoint(path: str | Path, fingerprint: dict[str, Any], skeleton: Any, arrays: list[np.ndarray]) -> None:
    """Write the JSON-able skeleton of a state, its arrays, and what identifies the analysis; atomic.

    Raises:
        OutputError: the file cannot be written; the last good checkpoint is still there.
    """
    head = json.dumps({"version": VERSION, "fingerprint": fingerprint, "skeleton": skeleton})
    named = {f"array_{i}": array for i, array in enumerate(arrays)}
    members = {"head": np.array(head), "sha256": np.array(_checksum(head, named)), **named}
    write_streams({Path(path): _npz_pieces(members)})


def read_checkpoint(path: str | Path, fingerprint: dict[str, Any]) -> tuple[Any, list[np.ndarray]] | None:
    """(skeleton, arrays) of a checkpoint of the same analysis; None when there is no file.

    Raises:
        InputError: not a checkpoint, or one of another analysis (naming what differs).
    """
    if not Path(path).exists():
        return None
    remedy = "remove it and run without `resume`"
    named = load_npz(path, "checkpoint", "not a checkpoint", remedy)
    text, checksum = (str(named.pop(name, "")) for name in ("head", "sha256"))
    head = parse_json(text, f"{path}: not a checkpoint: head")
    if not isinstance(head, dict) or head.get("version") != VERSION:
        raise InputError(f"{path}: not a checkpoint of this version; {remedy}")
    if checksum != _checksum(text, named):
        raise InputError(f"{path}: its contents are not those that were written (SHA-256 differs); {remedy}")
    keys = [f"array_{i}" for i in range(len(named))]
    whole = set(keys) == set(named) and isinstance(head.get("fingerprint"), dict)
    if not whole or not _is_skeleton(head.get("skeleton"), len(keys)):
        raise InputError(f"{path}: not a whole checkpoint; {remedy}")
    now, then = json.loads(json.dumps(fingerprint)), head["fingerprint"]
    different = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if different:
        raise InputError(
            f"{path}: the checkpoint is of another analysis ({', '.join(different)} differ); run without `resume`, or "
            "with the data and flags of the run that wrote it"
        )
    return head["skeleton"], [named[key] for key in keys]


def _is_skeleton(value: Any, num_arrays: int) -> bool:
    """Whether a document is what a state is written as: scalars, arrays by number, and items of a kind."""
    if not isinstance(value, dict):
        return not isinstance(value, list)
    if set(value) == {"array"}:
        return type(value["array"]) is int and 0 <= value["array"] < num_arrays
    if set(value) != {"kind", "items"} or not isinstance(value["items"], list):
        return False
    return isinstance(value["kind"], str) and all(_is_skeleton(item, num_arrays) for item in value["items"])


class _Pieces(list):
    """A file to write to, which keeps what was written until it is taken."""

    def write(self, data) -> int:
        self.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Everything written is here."""

    def taken(self) -> list[bytes]:
        pieces = self.copy()
        self.clear()
        return pieces


def _npz_pieces(members: dict[str, np.ndarray]) -> Iterator[bytes]:
    """What :func:`numpy.savez` writes of arrays, array by array."""
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w") as archive:
        for name, array in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
            yield from pieces.taken()
    yield from pieces.taken()


def _checksum(head: str, arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the document, and of every array with its name, type and shape."""
    state = hashlib.sha256(head.encode())
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(array.reshape(-1).view(np.uint8))
    return state.hexdigest()
