"""What a command's process needs around the work: screens that never cost a result, signals, maps that lose their file.

Nothing heavy is imported here: it runs before the number of threads is in the environment.
"""

import ctypes
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

EXIT_LOST_FILE = 2
STOPPING = ("SIGTERM", "SIGHUP")  # a scheduler says by these what a user says by Ctrl-C


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal other than Ctrl-C's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def entry_point(main: Callable[[Sequence[str] | None], int]) -> Callable[[Sequence[str] | None], int]:
    """A command's ``main(argv)`` with screens that cannot fail, and TERM and HUP taken as Ctrl-C is."""

    @wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        with screens(), stopping_signals():
            try:
                return main(argv)
            except KeyboardInterrupt as stop:  # before the work began, or after it ended
                return report_stop(os.path.basename(sys.argv[0]), stop, "nothing was begun or nothing was left to do")

    return guarded


def report_stop(name: str, stop: KeyboardInterrupt, hint: str) -> int:
    """One line on stderr; 128 + the signal's number, as shells have it: 130 after Ctrl-C, 143 after TERM."""
    number = getattr(stop, "number", signal.SIGINT)
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    print(f"{name}: {how}; {hint}", file=sys.stderr)
    return 128 + number


@contextmanager
def stopping_signals() -> Iterator[None]:
    """TERM and HUP raise :class:`Stopped`, where nobody else (nohup, a host program) has said what they do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        raise Stopped(number)

    taken = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    taken = [number for number in taken if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


class Screen(io.TextIOBase):
    """A text stream that is written to as long as that works: a reader that went away costs nobody a result.

    ``failure``: why writing ended, None as long as it goes on.  Characters that the stream cannot show are escaped.
    """

    def __init__(self, stream: Any):
        self.stream = stream
        self.failure: Exception | None = None if stream is not None else OSError("closed")

    def write(self, text: str) -> int:
        self._attempt(lambda: self._shown(text))
        return len(text)

    def _shown(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        self._attempt(lambda: self.stream.flush())

    def isatty(self) -> bool:
        try:
            return self.failure is None and self.stream.isatty()
        except ValueError:  # whoever kept this screen asks when the stream is closed
            return False

    def fileno(self) -> int:
        if self.stream is None:
            raise io.UnsupportedOperation("fileno of a closed stream")
        return self.stream.fileno()

    @property
    def encoding(self) -> str:
        return getattr(self.stream, "encoding", None) or "utf-8"

    def _attempt(self, step: Callable[[], Any]) -> None:
        if self.failure is None:
            try:
                step()
            except (OSError, ValueError) as error:  # ValueError: the stream was closed
                self.failure = error

    def leave(self) -> None:
        """Let what could not be written go, so that the interpreter does not stumble over it when it ends."""
        if self.failure is None or self.stream is None:
            return
        # A stream without a descriptor has nothing that the interpreter would flush.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


@contextmanager
def screens() -> Iterator[None]:
    """stdout and stderr as :class:`Screen`; one note where stdout could not take everything.

    A pipe whose reader went away (``| head``) needs no note.  Standard descriptors that are closed are opened on the
    null device first: else the next file that is opened would take what libraries say on stderr.
    """
    open_standard_descriptors()
    before = sys.stdout, sys.stderr
    out, err = sys.stdout, sys.stderr = Screen(sys.stdout), Screen(sys.stderr)
    try:
        yield
    finally:
        out.flush()
        if out.stream is not None and out.failure is not None and not isinstance(out.failure, BrokenPipeError):
            reason = getattr(out.failure, "strerror", None) or out.failure
            err.write(f"note: standard output could not be written ({reason}); what goes to files is not affected\n")
        err.flush()
        for screen in (out, err):
            screen.leave()
        sys.stdout, sys.stderr = before


def open_standard_descriptors() -> None:
    """Open those of 0, 1, 2 that are closed on the null device."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system gives the lowest free number, which is this one


@contextmanager
def lost_maps(name: str, shrunken: Callable[[], list[str]]) -> Iterator[None]:
    """End the process with one line where a mapped file is cut short, which is a bus error and no exception.

    ``shrunken()``: the mapped files that are smaller than they were.  The handler is called by the operating system at
    the very read that failed, in whatever thread, while no lock but the interpreter's can be held: maps are read by
    NumPy and by kernels only.
    """
    if not hasattr(signal, "SIGBUS") or threading.current_thread() is not threading.main_thread():
        yield
        return

    met: list[int] = []

    def lost(_number: int) -> None:
        met.append(threading.get_ident())
        if met[0] != threading.get_ident():  # another thread of the same kernel met it first and is saying so
            time.sleep(60)
        files = ", ".join(shrunken()) or "a mapped file (genotypes, weights or --cache)"
        text = f"{name}: error: {files}: cut short, or its disk failed, while it was read; restore it and run again\n"
        with suppress(OSError):
            os.write(2, text.encode(errors="backslashreplace"))
        os._exit(EXIT_LOST_FILE)

    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lost)
    before = ctypes.create_string_buffer(1024)  # a struct sigaction is smaller on every system
    libc.sigaction(signal.SIGBUS, None, before)
    libc.signal(signal.SIGBUS, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.sigaction(signal.SIGBUS, before, None)
