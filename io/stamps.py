"""Whether files that a run reads from start to end are still what they were when it began."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .errors import InputError

HEAD_BYTES = 1 << 16  # so many bytes are read from the start of each file
SAMPLED_BLOCKS, SAMPLED_BYTES = 64, 1 << 12  # these blocks are spread evenly over the rest


class Stamp(NamedTuple):
    """What tells whether a file was written to: where it is, its device and number there, size, and time of change."""

    path: Path
    place: tuple[int, int]
    size: int
    mtime_ns: int


_mapped: dict[Path, Stamp] = {}


def stamp_of(path: str | Path) -> Stamp:
    """The file as it is now."""
    found = os.stat(path)
    return Stamp(Path(path), (found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)


def stamp_of_map(path: str | Path) -> Stamp:
    """The same, of a file that is mapped from now on: see :func:`shrunken_maps`."""
    stamp = stamp_of(path)
    _mapped[stamp.path] = stamp
    return stamp


def shrunken_maps() -> list[str]:
    """Files that this process has mapped and that are now smaller, or gone."""
    return [str(path) for path, stamp in _mapped.items() if _size(path) < stamp.size]


def check_unchanged(stamps: Iterable[Stamp]) -> None:
    """Raises InputError that names a file which was written to since its stamp was taken.

    A file that was removed, or replaced by another of its name, is no error: what was mapped or opened is still there.
    """
    for stamp in stamps:
        try:
            now = stamp_of(stamp.path)
        except OSError:
            continue
        if now != stamp and now.place == stamp.place:
            raise _changed(stamp)


def check_same(stamps: Iterable[Stamp]) -> None:
    """Raises InputError that names a file which was replaced: for files that are opened by name once more."""
    for stamp in stamps:
        try:
            same = stamp_of(stamp.path) == stamp
        except OSError:
            same = False
        if not same:
            raise _changed(stamp)


def digest_of_files(paths: Iterable[str | Path]) -> str:
    """What tells files from others of their names: size, time of change, start and evenly spread blocks of each.

    Cost: at most 320 kB read of each file.
    """
    digest = hashlib.sha256()
    for path in paths:
        add_file(digest, path)
    return digest.hexdigest()


def add_file(digest, path: str | Path) -> None:
    """Add a file to a digest as :func:`digest_of_files` does."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        digest.update(file.read(HEAD_BYTES))
        rest = max(0, status.st_size - HEAD_BYTES - SAMPLED_BYTES)
        for block in range(SAMPLED_BLOCKS):  # the last one ends with the file
            file.seek(HEAD_BYTES + rest * block // (SAMPLED_BLOCKS - 1))
            digest.update(file.read(SAMPLED_BYTES))


def _changed(stamp: Stamp) -> InputError:
    return InputError(
        f"{stamp.path}: was changed while it was read, so a result would belong to no single file; run again"
    )


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
