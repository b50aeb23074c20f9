"""Results to disk, whole or not at all: written beside their place, flushed to the disk, then renamed."""

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import OutputError

DIGITS = "%.9g"  # gives every float32 back, and every position; OUT.json and saved models have all digits


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


def write_all(texts: Mapping[str | Path, str | bytes]) -> None:
    """Write several files so that all appear or none: every file is complete on disk before the first is renamed.

    Raises:
        OutputError: a file cannot be written; the temporary files are removed and nothing at the paths has changed.
            Only the renames themselves can fail half way (a directory made unwritable at that moment); the message
            then lists the files already in place.
    """
    content = {Path(path): encoded(text) if isinstance(text, str) else text for path, text in texts.items()}
    temporary: dict[Path, Path] = {}
    try:
        for path, data in content.items():
            with _named(path):
                _check_target(path)
                temporary[path] = _temporary_beside(path)
                _write_flushed(temporary[path], data)
        _rename_all(temporary)
    finally:
        for part in temporary.values():
            with suppress(OSError):  # gone already when all went well; else the first error is the one to report
                part.unlink()


def check_writable(prefix: str | Path) -> None:
    """Fail now, before hours of work, if files ``<prefix>.*`` cannot be written; makes the directory.

    Raises:
        OutputError: ``prefix`` is a directory, or its directory cannot be made or written.
    """
    if str(prefix).endswith(("/", os.sep)) or os.path.isdir(prefix):
        raise OutputError(f"{prefix} is a directory; add the start of a file name, such as {Path(prefix) / 'result'}")
    path = Path(prefix)
    with _named(path):
        probe = _temporary_beside(path)
        try:
            _write_flushed(probe, b"")
        finally:
            probe.unlink(missing_ok=True)


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


def _temporary_beside(path: Path) -> Path:
    """A new name in the same directory, since a rename is atomic only inside one file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _write_flushed(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _rename_all(temporary: Mapping[Path, Path]) -> None:
    done: list[str] = []
    for path, part in temporary.items():
        try:
            os.replace(part, path)
        except OSError as error:
            already = f" (already in place: {', '.join(done)})" if done else ""
            raise OutputError(f"cannot write {path}: {error.strerror or error}{already}") from error
        done.append(str(path))
