"""The state of a long fit on disk: one .npz file, written whole or not at all."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .writers import write_all

VERSION = 1


def write_checkpoint(path: str | Path, fingerprint: dict[str, Any], skeleton: Any, arrays: list[np.ndarray]) -> None:
    """Write the JSON-able skeleton of a state, its arrays, and what identifies the analysis; atomic.

    Raises:
        OutputError: the file cannot be written; the last good checkpoint is still there.
    """
    head = json.dumps({"version": VERSION, "fingerprint": fingerprint, "skeleton": skeleton})
    buffer = io.BytesIO()
    np.savez(buffer, head=np.array(head), **{f"array_{i}": array for i, array in enumerate(arrays)})
    write_all({path: buffer.getvalue()})


def read_checkpoint(path: str | Path, fingerprint: dict[str, Any]) -> tuple[Any, list[np.ndarray]] | None:
    """(skeleton, arrays) of a checkpoint of the same analysis; None when there is no file.

    Raises:
        InputError: not a checkpoint, or one of another analysis (naming what differs).
    """
    if not Path(path).exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(str(file["head"]))
            arrays = [file[f"array_{i}"] for i in range(len(file.files) - 1)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a checkpoint ({error}); remove it and run without --resume") from None
    if head.get("version") != VERSION:
        raise InputError(f"{path}: written by another version; remove it and run without --resume")
    now, then = json.loads(json.dumps(fingerprint)), head["fingerprint"]
    different = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if different:
        raise InputError(
            f"{path}: the checkpoint is of another analysis ({', '.join(different)} differ); run without --resume, or "
            "with the data and flags of the run that wrote it"
        )
    return head["skeleton"], arrays
