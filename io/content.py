"""What a file holds, brought in once: every reader of text and of archives begins here.

A path may be a file, a pipe (``/dev/stdin``, a FIFO, ``<(command)``) or ``/dev/null``.  It is opened once; lines are
named from what was read then.  Errors of the system, of decompressors and of text that is none end here, as one line
that names the file.  What a compressed file expands to is measured before any of it is kept.
"""

import codecs
import gzip
import io
import os
import select
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from .errors import InputError
from .frames import gzip_fault, zstd_fault
from .plausible import CONTROL_BYTES

CHUNK = 1 << 20
PIPE_LIMIT = 3 << 28  # 768 MiB: what a pipe gives is held in memory, and nothing says when it will end
PATIENCE = 10.0  # a FIFO may have no writer for so many seconds
# A compressed file may expand to so many bytes, and to so many more for each of its own.
EXPANDED, EXPANSION = 1 << 25, 250
GZIP, ZSTD = ".gz", ".zst"
_MAGIC = {GZIP: b"\x1f\x8b", ZSTD: b"\x28\xb5\x2f\xfd"}
_FAULTS = {GZIP: gzip_fault, ZSTD: zstd_fault}  # these find faults that a decompressor does not notice

_delivered: ContextVar[dict[tuple[int, int], bytes] | None] = ContextVar("delivered", default=None)


@contextmanager
def pipes_kept() -> Iterator[None]:
    """Within it a pipe that several readers or flags name gives each of them all that came through it.

    A command runs within it.  Elsewhere a pipe is read once, as nothing would tell it from the next of its name.
    """
    token = _delivered.set({})
    try:
        yield
    finally:
        _delivered.reset(token)


@dataclass(frozen=True)
class Content:
    """Text of a file, checked to be whole and UTF-8.  ``stored``: its bytes as they are in the file."""

    path: Path
    stored: bytes
    compression: str = ""

    def text(self) -> TextIO:
        """A new stream of the text from its start, without the byte-order mark that spreadsheets write."""
        return io.TextIOWrapper(self.expanded(), encoding="utf-8-sig", newline="")

    def expanded(self) -> BinaryIO:
        """A new stream of the bytes of the text."""
        stored = io.BytesIO(self.stored)
        if self.compression == GZIP:
            return gzip.GzipFile(fileobj=stored)
        return _zstd_stream(self.path, stored) if self.compression == ZSTD else stored


def read_content(path: str | Path, what: str) -> Content:
    """The text of a file (also .gz and .zst), complete and checked; ``what`` names it in errors ("phenotype file").

    Raises:
        InputError: no such file, a folder or device, a pipe that nobody writes to or that does not end, a compressed
            file that is damaged, cut short or expands beyond measure, or what is not UTF-8 text.
    """
    path = Path(path)
    stored = read_stored(path, what)
    compression = next((name for name, magic in _MAGIC.items() if stored.startswith(magic)), "")
    if path.suffix in _MAGIC and path.suffix != compression:
        fault = "it is no archive" if stored else "it is empty, which no archive is"
        raise InputError(
            f"{path}: the {what} cannot be read ({fault}); compress it again, or name it without {path.suffix}"
        )
    content = Content(path, stored, compression)
    _check_text(content, what)
    return content


def read_stored(path: str | Path, what: str) -> bytes:
    """All bytes of a file, pipe or ``/dev/null``, as they are."""
    with opened(path, what) as file:
        if isinstance(file, io.BytesIO):
            return file.getvalue()
        size, memory = os.fstat(file.fileno()).st_size, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > memory:
            raise InputError(f"{path}: the {what} has {size >> 30} GiB, and this machine {memory >> 30} GiB of memory")
        return file.read()


@contextmanager
def opened(path: str | Path, what: str) -> Iterator[BinaryIO]:
    """A file to read bytes from and to seek in; what comes through a pipe is held in memory.

    Errors of the system within it become InputErrors that name the file.
    """
    path = Path(path)
    with named_errors(path, what):
        with open(path, "rb", opener=_without_waiting) as file:
            descriptor, status = file.fileno(), os.fstat(file.fileno())
            if stat.S_ISFIFO(status.st_mode):
                yield io.BytesIO(_of_pipe(descriptor, path, what))
                return
            is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev
            if not (stat.S_ISREG(status.st_mode) or is_null or os.isatty(descriptor)):
                raise InputError(f"{path}: the {what} cannot be read, as this is a device; give a file")
            os.set_blocking(descriptor, True)
            yield file


@contextmanager
def named_errors(path: Path, what: str) -> Iterator[None]:
    """Errors of the system as InputErrors that name the file."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{what} not found: {path}; check the path") from None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: the {what} cannot be read ({reason}); check it and its permissions") from None


def most_expanded(num_stored: int) -> int:
    """Most bytes that are taken from ``num_stored`` compressed ones."""
    return EXPANDED + EXPANSION * num_stored


def _without_waiting(path: str, flags: int) -> int:
    """Opens a FIFO at once, whether or not it has a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _of_pipe(descriptor: int, path: Path, what: str) -> bytes:
    """Everything that comes through a pipe, from memory where it came before."""
    delivered, status = _delivered.get(), os.fstat(descriptor)
    key = (status.st_dev, status.st_ino)
    if delivered is not None and key in delivered:
        return delivered[key]
    held = io.BytesIO()
    held.write(_first_of_pipe(descriptor, path, what))
    os.set_blocking(descriptor, True)
    for chunk in iter(lambda: os.read(descriptor, CHUNK), b""):
        held.write(chunk)
        if held.tell() > PIPE_LIMIT:
            raise InputError(
                f"{path}: more than {PIPE_LIMIT >> 20} MiB came through this pipe; write the {what} to disk first"
            )
    if delivered is not None:
        delivered[key] = held.getvalue()
    return held.getvalue()


def _first_of_pipe(descriptor: int, path: Path, what: str) -> bytes:
    """The first bytes of a pipe; none where its writers are gone, or where they have written nothing yet."""
    is_named = os.path.exists(os.path.realpath(path))  # no writer can come to a pipe without a name
    deadline = time.monotonic() + PATIENCE
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while True:
        try:
            chunk = os.read(descriptor, CHUNK)
        except BlockingIOError:  # this error means that there is a writer
            return b""
        if chunk or not is_named or any(event & select.POLLHUP for _, event in waiting.poll(0)):
            return chunk
        if time.monotonic() > deadline:
            raise InputError(
                f"{path}: no process writes to this pipe; start the one that gives the {what}, or give a file"
            )
        waiting.poll(20)


def _check_text(content: Content, what: str) -> None:
    """The whole text once, a chunk at a time: that it can be expanded, is of bounded size, and is UTF-8."""
    path, decoder = content.path, codecs.getincrementaldecoder("utf-8")()
    most = most_expanded(len(content.stored)) if content.compression else None
    num_read, last, fault = 0, b"", ""
    try:
        with content.expanded() as stream:
            for chunk in iter(lambda: stream.read(CHUNK), b""):
                num_read, last = num_read + len(chunk), chunk[-1:]
                decoder.decode(chunk)
                if b"\0" in chunk:
                    raise InputError(f"{path}: the {what} is not UTF-8 text (a zero byte); save it as plain text")
                if len(chunk.translate(None, CONTROL_BYTES)) < len(chunk):
                    code = next(byte for byte in chunk if byte in CONTROL_BYTES)
                    raise InputError(
                        f"{path}: the {what} has a control character (\\x{code:02x}) in it; save it as plain text"
                    )
                if most is not None and num_read > most:
                    raise InputError(
                        f"{path}: the {what} expands to more than {EXPANSION} times its {len(content.stored)} bytes; "
                        "if that is meant, expand it and give the file so"
                    )
        decoder.decode(b"", final=True)
        if content.compression:
            fault = _FAULTS[content.compression](content.stored, last in (b"\n", b"\r", b""))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the {what} is not UTF-8 text ({error.reason}); save it as plain text") from None
    except InputError:
        raise
    except (OSError, EOFError, zlib.error, *_zstd_errors()) as error:
        fault = str(error)
    if fault:
        raise InputError(f"{path}: the {what} cannot be read ({fault}); it is damaged or cut short, copy it again")


def _zstd_stream(path: Path, stored: BinaryIO) -> BinaryIO:
    try:
        import zstandard
    except ImportError:
        raise InputError(
            f"{path}: reading .zst needs the package zstandard; pip install 'gpu-reml[zst]', or decompress the file"
        ) from None
    # all frames are read, since compressors that work in parallel write several
    return zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True)


def _zstd_errors() -> tuple[type[Exception], ...]:
    try:
        from zstandard import ZstdError
    except ImportError:
        return ()
    return (ZstdError,)
