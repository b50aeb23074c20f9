"""Files in the making: written beside their places, locked as long as their process lives, renamed together.

A process that is killed leaves its temporary files.  The next one that writes there clears them, and tells them from
those of a process that is still at work by the lock, which ends with the process (also in containers and, where the
server supports locks, on network file systems).  Where there are no locks a day without a change says it.
"""

import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has no fcntl
    fcntl = None

ABANDONED = 24 * 3600.0  # a file that cannot be locked is taken for a killed run's so many seconds after its last write
RENAMING = 10.0  # others who rename files in the same folder are waited for so many seconds
_TEMPORARY = re.compile(r"\.(?P<name>.*)\.(?P<token>[0-9a-f]{8})\.tmp", re.DOTALL)
_STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Staging:
    """Temporary files of one write; see :func:`staged`."""

    def __init__(self, stack: ExitStack):
        self._stack, self._token = stack, ""
        self._parts: dict[Path, Path] = {}
        self._locks: dict[Path, Path] = {}  # folder -> the file there that is locked for all of this write's

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Write a file beside its place and flush it to the disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in self._locks:
            self._lock(path)
        else:
            self._parts[path] = _temporary(path, self._token)
            self._parts[path].touch(exist_ok=False)
        with open(self._parts[path], "r+b") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())

    def _lock(self, path: Path) -> None:
        """The first file in a folder: its lock says that all with its token there are in use."""
        while True:
            token = self._token or secrets.token_hex(4)
            part = _temporary(path, token)
            self._parts[path] = part
            part.touch(exist_ok=False)
            if fcntl is not None:
                file = self._stack.enter_context(open(part, "r+b"))
                _locked(file.fileno())
                if not os.fstat(file.fileno()).st_nlink:  # another run took it for a leftover before it was locked
                    continue
            self._token, self._locks[path.parent] = token, part
            return

    def rename(self) -> None:
        """Put all files in their places; the one that is locked goes last in its folder."""
        done: list[str] = []
        locked = set(self._locks.values())
        with _uninterrupted(), _alone_in(self._locks):
            for path, part in sorted(self._parts.items(), key=lambda each: each[1] in locked):
                try:
                    os.replace(part, path)
                except OSError as error:
                    already = f" (already in place: {', '.join(done)})" if done else ""
                    raise OutputError(f"cannot write {path}: {error.strerror or error}{already}") from error
                done.append(str(path))

    def clear(self) -> None:
        """Remove what was not renamed."""
        for part in self._parts.values():
            with suppress(OSError):  # the file is gone when all went well; else the first error is the one to report
                part.unlink()


@contextmanager
def staged(keep: bool = True) -> Iterator[Staging]:
    """Files that all appear in their places when the block ends; none where it raises, or without ``keep``."""
    with ExitStack() as stack:
        staging = Staging(stack)
        try:
            yield staging
            if keep:
                staging.rename()
        finally:
            staging.clear()


def clear_leftovers(folder: Path, prefix: str = "") -> None:
    """Remove temporary files of ``prefix`` and ``prefix.*`` (of any name for "") whose processes are gone."""
    found: dict[str, list[Path]] = {}
    for path in folder.glob(".*.tmp"):
        named = _TEMPORARY.fullmatch(path.name)
        if named and (not prefix or named["name"] == prefix or named["name"].startswith(f"{prefix}.")):
            found.setdefault(named["token"], []).append(path)
    for paths in found.values():
        with ExitStack() as stack:
            if all([is_abandoned(path, stack) for path in paths]):
                for path in paths:
                    path.unlink(missing_ok=True)


def is_abandoned(path: Path, stack: ExitStack) -> bool:
    """Whether the process that wrote a temporary file is gone; ``stack`` keeps the file locked until it is closed."""
    try:
        file = stack.enter_context(open(path, "r+b"))
        free = _locked(file.fileno(), wait=False)
        return time.time() - os.fstat(file.fileno()).st_mtime > ABANDONED if free is None else free
    except OSError:  # it was renamed or removed meanwhile, or belongs to another user
        return False


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The file, locked for as long as the block runs."""
    with open(path, "r+b") as file:
        _locked(file.fileno())
        yield


def _temporary(path: Path, token: str) -> Path:
    """A name in the same folder, since a rename is atomic only inside one file system."""
    return path.with_name(f".{path.name}.{token}.tmp")


def _locked(descriptor: int, wait: bool = True) -> bool | None:
    """Lock an open file for this process: whether that was possible at once, or None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # some file systems have no locks
        return None
    return True


@contextmanager
def _alone_in(folders: Iterable[Path]) -> Iterator[None]:
    """Nobody else renames in these folders meanwhile, so that files of two runs with one prefix are not mixed."""
    with ExitStack() as stack:
        until = time.monotonic() + RENAMING
        for folder in sorted(folders):
            with suppress(OSError):  # folders cannot be opened on every system; then files may be of two runs
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                while _locked(descriptor, wait=False) is False and time.monotonic() < until:
                    time.sleep(0.005)
        yield


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals that end a run wait until the block has ended: a result is whole or not there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _STOPPING}
    taken = [number for number, handler in before.items() if callable(handler)]
    for number in taken:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
        for number in came[:1]:
            signal.raise_signal(number)
