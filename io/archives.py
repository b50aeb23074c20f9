"""Arrays (.npy, .npz) and JSON from files that may be damaged or malicious: checked against what the file can hold.

Nothing is unpickled.  What a header promises is compared with the bytes that are there before memory is taken.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from .content import CHUNK, most_expanded, opened, read_content
from .errors import InputError

MOST_CONTAINERS = 1 << 22  # lists and objects take twenty times their text in memory
MOST_DEPTH = 100
_SURROGATES, _LAST_CHARACTER = (0xD800, 0xDFFF), 0x10FFFF

T = TypeVar("T")


def load_npy(path: str | Path, what: str, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file; one of Python objects is refused.  ``mapped``: as a read-only map where possible.

    Raises:
        InputError: no such file, or what is not exactly one array; ``what`` names it ("weight file").
    """
    with opened(path, what) as file:

        def read() -> np.ndarray:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            shape, order, dtype = _npy_header(file, size)
            if mapped and not isinstance(file, io.BytesIO) and math.prod(shape):
                return np.memmap(file, dtype, "r", file.tell(), shape, order)
            return _checked(_npy_values(file, shape, order, dtype))

        return _decoded(f"{path}: not a .npy array", "write it with numpy.save", read)


def npy_shape(path: str | Path, what: str) -> tuple[int, ...]:
    """The shape of the array of a .npy file, from its header."""
    return load_npy(path, what, mapped=True).shape


def load_npz(
    path: str | Path, what: str, fault: str = "not an .npz of plain arrays", remedy: str = "write it with numpy.savez"
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; those of Python objects are refused.

    Raises:
        InputError: no such file (``what`` names it), a damaged one, or one with something else in it; ``fault`` and
            ``remedy`` then stand in the message.
    """
    with opened(path, what) as file:
        return _decoded(f"{path}: {fault}", remedy, lambda: _npz_arrays(file))


def load_json(path: str | Path, what: str) -> Any:
    """The document of a JSON file, as :func:`parse_json`."""
    content = read_content(path, what)
    with content.text() as file:
        return parse_json(file.read(), str(path))


def parse_json(text: str, where: str) -> Any:
    """A JSON document; an InputError that starts with ``where`` when it is none, too deep, or has a key twice."""
    if text.count("[") + text.count("{") > MOST_CONTAINERS:
        raise InputError(f"{where}: more than {MOST_CONTAINERS:,} lists and objects; write fewer, or an .npz")
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, line {error.lineno}: not JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise InputError(f"{where}: not JSON that can be read (its lists are nested too deeply)") from None
    except ValueError as error:  # a number with thousands of digits, or a repeated key, is a ValueError
        raise InputError(f"{where}: not JSON that can be read ({error})") from None
    if _is_deeper(document, MOST_DEPTH):
        raise InputError(f"{where}: lists and objects are nested more than {MOST_DEPTH} deep")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs more than once in an object")
    return found


def _is_deeper(document: Any, depth: int) -> bool:
    """Whether lists and objects are nested more than ``depth`` deep; a level at a time."""
    level = [document]
    for _ in range(depth):
        level = [
            child
            for value in level
            if isinstance(value, list | dict)
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, list | dict)
        ]
        if not level:
            return False
    return True


def _decoded(message: str, remedy: str, read: Callable[[], T]) -> T:
    """``read()``, with whatever the decoders of NumPy and zipfile raise as one line."""
    try:
        return read()
    except InputError:
        raise
    except Exception as error:  # their kinds are not documented, and damaged files meet all of them
        reason = str(error).strip().splitlines()
        raise InputError(f"{message} ({reason[0] if reason else type(error).__name__}); {remedy}") from None


def _npy_header(file: BinaryIO, size: int) -> tuple[tuple[int, ...], str, np.dtype]:
    """(shape, order, type); ValueError where the file does not hold just that."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"format version {version}")
    shape, is_fortran, dtype = readers[version](file)
    if dtype.hasobject or dtype.kind not in "biufcSU":
        raise ValueError(f"an array of {dtype}, not of plain values")
    if any(length < 0 for length in shape):
        raise ValueError(f"shape {shape}")
    needed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needed != held:
        raise ValueError(f"{dtype} {shape} takes {needed} bytes, and {held} are there")
    return shape, "F" if is_fortran else "C", dtype


def _npy_values(file: BinaryIO, shape: tuple[int, ...], order: str, dtype: np.dtype) -> np.ndarray:
    """The values that follow a header, whose bytes are known to be there."""
    count = math.prod(shape)
    if not count * dtype.itemsize:
        return np.zeros(shape, dtype)
    held = np.empty(count * dtype.itemsize, np.uint8)
    view, place = memoryview(held), 0
    while place < len(view):
        chunk = file.read(min(CHUNK, len(view) - place))
        if not chunk:
            raise ValueError(f"{len(view)} bytes were promised, and {place} are there")
        view[place : place + len(chunk)] = chunk
        place += len(chunk)
    return held.view(dtype).reshape(shape, order=order)


def _checked(array: np.ndarray) -> np.ndarray:
    """The array; ValueError where its bytes are none of its type's values."""
    if array.dtype.kind == "U" and array.size:
        characters = np.ascontiguousarray(array).view(array.dtype.byteorder.replace("|", "=") + "u4")
        is_surrogate = (characters >= _SURROGATES[0]) & (characters <= _SURROGATES[1])
        if is_surrogate.any() or (characters > _LAST_CHARACTER).any():
            raise ValueError("a string has what is no character")
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise ValueError("a truth value that is neither true nor false")
    return array


def _npz_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    most, total = most_expanded(file.seek(0, io.SEEK_END)), 0
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if not info.filename.endswith(".npy"):
                raise ValueError(f"{info.filename!r} in it is no array")
            if name in arrays:
                raise ValueError(f"array {name!r} is in it twice")
            total += info.file_size
            if total > most:
                raise ValueError(f"its arrays expand beyond measure to {total >> 20} MiB; save them uncompressed")
            with archive.open(info) as member:
                shape, order, dtype = _npy_header(member, info.file_size)
                array = _checked(_npy_values(member, shape, order, dtype))
                if member.read(1):  # the checksum of a member is checked only when it is read to its end
                    raise ValueError(f"array {name!r} goes on after its end")
            arrays[name] = array
    return arrays
