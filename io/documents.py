"""A JSON document and arrays in one .npz: what saved models, null models, parts of a run and checkpoints are.

One file, so that it is whole or absent and can be moved; no pickles, so that loading it runs nothing; readable by
``numpy.load`` alone.  Strings are UTF-8 bytes, one per line.  A SHA-256 of everything is checked when it is read.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .archives import load_npz, parse_json
from .errors import InputError

HEAD = "document.json"


class Kind(NamedTuple):
    """A kind of file: its ``format`` and ``version``, as the document has them, and words for messages.

    ``what``: "model file"; ``other``: what a file of something else is called, "not a saved model"; ``remedy``: what is
    done about that, and ``again``: about one that was changed or cut, or is of another version.
    """

    format: str
    version: int
    what: str
    other: str
    remedy: str
    again: str


def document_pieces(kind: Kind, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """The content of a file, array by array; ``head`` is what JSON can say."""
    head = json.loads(json.dumps({"format": kind.format, "version": kind.version, **head}))
    text = json.dumps({**head, "sha256": checksum_of(head, arrays)}, indent=1)
    return npz_pieces({HEAD: np.frombuffer(text.encode(), np.uint8), **arrays})


def read_document(path: str | Path, kind: Kind) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The document and the arrays, checked to be those that were written.

    Raises:
        InputError: no such file, one of another kind or version, or one that was changed or cut short.
    """
    arrays = load_npz(path, kind.what, f"{kind.other}, or a damaged one", kind.remedy)
    if HEAD not in arrays:
        raise InputError(f"{path}: {kind.other}; {kind.remedy}")
    head = parse_json(arrays.pop(HEAD).tobytes().decode(errors="replace"), f"{path}: {HEAD}")
    if not isinstance(head, dict) or head.get("format") != kind.format:
        raise InputError(f"{path}: {kind.other}; {kind.remedy}")
    if head.get("version") != kind.version:
        raise InputError(
            f"{path}: a {kind.what} of version {head.get('version')!r}, and this program reads version {kind.version}; "
            f"{kind.again}"
        )
    if head.pop("sha256", None) != checksum_of(head, arrays):
        raise InputError(f"{path}: its contents are not those that were written (SHA-256 differs); {kind.again}")
    return head, arrays


def checksum_of(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the document without its own, and of every array with its name, type and shape."""
    return _digest(json.dumps(head, sort_keys=True), ((name, arrays[name]) for name in sorted(arrays))).hexdigest()


def digest(*arrays: np.ndarray) -> str:
    """A short hash of arrays, for telling whether data are the same."""
    return _digest("", (("", array) for array in arrays)).hexdigest()[:16]


def _digest(text: str, arrays: Iterable[tuple[str, np.ndarray]]):
    state = hashlib.sha256(text.encode())
    for name, array in arrays:
        array = np.ascontiguousarray(array)
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(array.reshape(-1).view(np.uint8))
    return state


def unlike(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """The keys in which two mappings differ, the first as JSON would have it."""
    now = json.loads(json.dumps(now))
    return sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))


def text_bytes(name: str, column: Iterable) -> np.ndarray:
    """A column of strings as bytes, one per line; ValueError where one has a line break."""
    values = [str(value) for value in column]
    if any("\n" in value for value in values):
        raise ValueError(f"{name}: an entry has a line break")
    return np.frombuffer("".join(f"{value}\n" for value in values).encode(), np.uint8)


def texts_of(path: str | Path, name: str, array: np.ndarray) -> list[str]:
    """What :func:`text_bytes` had."""
    try:
        return array.tobytes().decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {name} is not text ({error.reason}); the file is damaged, copy it again") from None


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


def npz_pieces(members: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """What :func:`numpy.savez` writes of arrays, array by array."""
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w") as archive:
        for name, array in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
            yield from pieces.taken()
    yield from pieces.taken()
