"""The state of a long fit on disk: one .npz file, written whole or not at all."""

from pathlib import Path
from typing import Any

import numpy as np

from .documents import Kind, document_pieces, read_document, unlike
from .errors import InputError
from .writers import write_all

REMEDY = "remove it and run without `resume`"
CHECKPOINT = Kind("gpu-reml checkpoint", 3, "checkpoint", "not a checkpoint", REMEDY, REMEDY)


def write_checkpoint(path: str | Path, fingerprint: dict[str, Any], skeleton: Any, arrays: list[np.ndarray]) -> None:
    """Write the JSON-able skeleton of a state, its arrays, and what identifies the analysis; atomic.

    Raises:
        OutputError: the file cannot be written; the last good checkpoint is still there.
    """
    named = {f"array_{i}": array for i, array in enumerate(arrays)}
    write_all({Path(path): document_pieces(CHECKPOINT, {"fingerprint": fingerprint, "skeleton": skeleton}, named)})


def read_checkpoint(path: str | Path, fingerprint: dict[str, Any]) -> tuple[Any, list[np.ndarray]] | None:
    """(skeleton, arrays) of a checkpoint of the same analysis; None when there is no file.

    Raises:
        InputError: not a checkpoint, or one of another analysis (naming what differs).
    """
    if not Path(path).exists():
        return None
    head, named = read_document(path, CHECKPOINT)
    keys = [f"array_{i}" for i in range(len(named))]
    whole = set(keys) == set(named) and isinstance(head.get("fingerprint"), dict)
    if not whole or not _is_skeleton(head.get("skeleton"), len(keys)):
        raise InputError(f"{path}: not a whole checkpoint; {REMEDY}")
    different = unlike(fingerprint, head["fingerprint"])
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
