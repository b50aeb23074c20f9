"""How kernels are compiled: where their machine code is kept, and that one parallel kernel runs at a time.

Machine code is kept where numba keeps it: in ``NUMBA_CACHE_DIR``, beside the kernels or in the home folder.  Where none
of them can be written (containers, cluster nodes) it is kept in a folder of this user below the temporary one, which
nobody else can write; where there is no such folder either, every process compiles anew.  Machine code that cannot be
saved or read back never fails a run.

A kernel inlines functions and constants of the modules that it imports, and numba looks at the kernel's own file alone.
Here kept code counts only while neither its module nor one of the same folder that this imports, directly or not, has
changed, so a kernel takes code from its own folder only.

numba's workqueue layer (:mod:`gpu_reml.threads`) ends the process when two Python threads start parallel kernels
together.  A lock lets one of this package's kernels run at a time, and each of them uses all threads.  Parallel kernels
of others in the same process do not know of the lock: run them in the same thread, or set
``NUMBA_THREADING_LAYER=omp`` before the first import.
"""

import hashlib
import os
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache, partial, update_wrapper
from pathlib import Path
from typing import Any

from numba import njit

CONFIGS = ("numba.core.config", "numba.cuda.core.config")  # numba-cuda has a configuration of its own
SHARED = stat.S_IRWXG | stat.S_IRWXO
_notes: dict[str, None] = {}  # in order, each once


def cache_notes() -> tuple[str, ...]:
    """What to know of where compiled code is kept; nothing where numba's usual folders serve."""
    return tuple(_notes)


def compiled(function: Callable) -> Callable:
    """The function compiled by numba; its machine code is kept for later processes."""
    return kept(njit, function)


def reordered(function: Callable) -> Callable:
    """:func:`compiled` with sums in whatever order is fastest, the same one in every run on a machine."""
    return kept(njit, function, fastmath={"reassoc", "contract", "nsz"})


class ParallelKernel:
    """A function compiled by numba whose ``prange`` loops run on all threads, one such kernel at a time."""

    def __init__(self, function: Callable):
        update_wrapper(self, function)
        self._kernel = kept(njit, function, parallel=True)

    def __call__(self, *arguments):
        with _running:
            return self._kernel(*arguments)

    def __getattr__(self, name: str):
        return getattr(self.__dict__["_kernel"], name)


def parallel(function: Callable) -> ParallelKernel:
    """The function compiled by numba for all threads; see :class:`ParallelKernel`."""
    return ParallelKernel(function)


def kept(jit: Callable, function: Callable, **options: Any) -> Callable:
    """``jit(**options)(function)`` with its machine code kept where there is a place for it."""
    try:
        return _careful(jit(cache=True, **options)(function), function)
    except RuntimeError as error:  # "cannot cache function": no usual folder can be written
        if "cache" not in str(error):
            raise
    folder = private_folder()
    if folder is None:
        _notes["compiled code is not kept, so every run compiles anew: " + _NO_PLACE] = None
        return jit(**options)(function)
    _notes[f"compiled code is kept in {folder}: {_NO_PLACE}"] = None
    before = _set_cache_folder(dict.fromkeys(CONFIGS, str(folder)))
    try:
        return _careful(jit(cache=True, **options)(function), function)
    finally:
        _set_cache_folder(before)


_NO_PLACE = "neither the package's folder nor the home folder can be written; NUMBA_CACHE_DIR names another"


@cache
def private_folder() -> Path | None:
    """A folder of this user below the temporary one, which nobody else can write; None where there can be none.

    Machine code that is found there is run, so a folder that others own, can write or could replace is not taken.
    """
    if not hasattr(os, "geteuid"):
        return None
    try:
        parent = Path(tempfile.gettempdir())
        folder = parent / f"gpu-reml-{os.geteuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        above, found = os.stat(parent), os.lstat(folder)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    replaceable = above.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not above.st_mode & stat.S_ISVTX
    trusted = above.st_uid in (0, os.geteuid()) and not replaceable
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & SHARED
    return folder if trusted and own else None


def _set_cache_folder(folders: dict[str, str]) -> dict[str, str]:
    """Set CACHE_DIR in each configuration that is loaded; what it was in those that have to be set back."""
    before = {}
    for name, folder in folders.items():
        if name in sys.modules:
            if name == CONFIGS[0]:  # other people's functions are cached by it too; numba-cuda asks again at a launch
                before[name] = sys.modules[name].CACHE_DIR
            sys.modules[name].CACHE_DIR = folder
    return before


def _careful(kernel: Any, function: Callable) -> Any:
    """The kernel with code of other sources or that cannot be read taken for absent, and what cannot be saved left."""
    found = getattr(kernel, "_cache", None)
    if hasattr(found, "_cache_file"):  # numba's simulator of a device compiles nothing
        file = found._cache_file
        file._source_stamp = (file._source_stamp, sources_digest(Path(function.__code__.co_filename)))
        found.load_overload = partial(_unless_it_fails, found.load_overload, "read")
        found.save_overload = partial(_unless_it_fails, found.save_overload, "saved")
    return kernel


# imports from the own folder: "from .name import", "from name import" and "from . import name, name"
FROM_MODULE = re.compile(rb"^from \.?(\w+) import", re.MULTILINE)
FROM_FOLDER = re.compile(rb"^from \. import \(?([\w\s,]+)", re.MULTILINE)


@cache
def sources_digest(module: Path) -> str:
    """A digest of a module and of those of its folder that it imports, directly or not, by name and text."""
    texts, left = {}, [module]
    while left:
        path = left.pop()
        if path not in texts and path.is_file():
            texts[path] = text = path.read_bytes()
            names = FROM_MODULE.findall(text) + [
                name for some in FROM_FOLDER.findall(text) for name in some.split(b",")
            ]
            left += [path.with_name(f"{name.decode().strip()}.py") for name in names if name.strip()]
    digest = hashlib.sha256()
    for path, text in sorted(texts.items()):
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def _unless_it_fails(step: Callable, what: str, *arguments):
    try:
        return step(*arguments)
    except Exception as error:  # a full disk, a damaged file: pickle raises what it likes for the latter
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        _notes[f"compiled code could not be {what} ({reason}); it is compiled anew"] = None
        return None


_running = threading.RLock()


def _new_lock() -> None:
    """For a forked process, which has none of the threads that might have held the lock."""
    global _running
    _running = threading.RLock()


if hasattr(os, "register_at_fork"):  # no fork in the middle of a kernel: the child would wait for its threads for ever
    os.register_at_fork(
        before=lambda: _running.acquire(), after_in_parent=lambda: _running.release(), after_in_child=_new_lock
    )
