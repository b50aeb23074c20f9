"""Results to disk, whole or not at all: written beside their place, flushed to the disk, then renamed."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import OutputError
from .staging import clear_leftovers, staged

DIGITS = "%.9g"  # nine digits give back every float32 and every position; JSON and saved models have all digits


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically, making its directory: readers see the old file or the new one.

    Raises:
        OutputError: the directory or file cannot be written; no temporary file is left.
    """
    write_all({path: text})


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as :func:`json_text`, atomically."""
    write_text(path, json_text(value))


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write ``table`` as :func:`table_text`, atomically."""
    write_text(path, table_text(table))


def write_all(contents: Mapping[str | Path, str | bytes | Iterable[bytes]]) -> None:
    """Write several files so that all appear or none: every file is complete on disk before the first is renamed.

    A file that comes in pieces is never held whole.
    Raises:
        OutputError: a file cannot be written; the temporary files are removed and nothing at the paths has changed.
            Only the renames themselves can fail half way (a directory made unwritable at that moment); the message
            then lists the files already in place.
    """
    for path in contents:
        _check_target(Path(path))
    with staged() as staging:
        for path, content in contents.items():
            data = encoded(content) if isinstance(content, str) else content
            with _named(Path(path)):
                staging.write(Path(path), [data] if isinstance(data, bytes) else data)


def check_writable(prefix: str | Path) -> None:
    """Fail now, before hours of work, if files ``<prefix>.*`` cannot be written; makes the directory.

    What killed processes left of such files is removed.

    Raises:
        OutputError: ``prefix`` is a directory, or its directory cannot be made or written.
    """
    if str(prefix).endswith(("/", os.sep)) or os.path.isdir(prefix):
        raise OutputError(f"{prefix} is a directory; add the start of a file name, such as {Path(prefix) / 'result'}")
    path = Path(prefix)
    with _named(path):
        with staged(keep=False) as staging:
            staging.write(path, [])
        clear_leftovers(path.parent, path.name)


def json_text(value: Any) -> str:
    """JSON of nested mappings and sequences with NumPy values, paths and enums; NaN and infinities become null.

    Floats have the digits that give the same float64 back.  Bytes of a path that are not UTF-8 are escapes, \\udcXX.
    """
    text = json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()


def encoded(text: str) -> bytes:
    """UTF-8, and in a path's name the bytes that it has in the file system, which may be others."""
    return text.encode("utf-8", "surrogateescape")


def table_text(table: pd.DataFrame, missing: str = "NA") -> str:
    """Tab-separated text with a header, as people read it; ``missing`` stands for NaN, floats have nine digits."""
    return table.to_csv(sep="\t", index=False, na_rep=missing, float_format=DIGITS, lineterminator="\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; give an output path that exists, is yours and has room"
        ) from error


def _check_target(path: Path) -> None:
    if os.path.isdir(path):
        raise OutputError(f"cannot write {path}: it is a directory; give a file name")
