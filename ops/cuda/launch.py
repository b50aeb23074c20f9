"""How CUDA kernels are compiled and launched: one place for each."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import cuda

from ..compile import kept


def cuda_kernel(**options: Any) -> Callable[[Callable], Any]:
    """Decorator of a kernel whose machine code is kept for later processes; ``options`` of numba's ``cuda.jit``."""
    return lambda function: _of_these_sources(kept(cuda.jit, function, **options))


@cache
def sources_digest(folder: Path) -> str:
    """A digest of the modules in a folder, by name and text."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def _of_these_sources(kernel):
    """The kernel, whose kept machine code counts only while no module beside it has changed.

    Kernels inline device functions and constants of the other modules, and numba looks at a kernel's own file alone.
    """
    kept_by = getattr(kernel, "_cache", None)  # the simulator compiles nothing
    if hasattr(kept_by, "_cache_file"):  # or there is no place to keep code
        file, folder = kept_by._cache_file, Path(kernel.py_func.__code__.co_filename).parent
        file._source_stamp = (file._source_stamp, sources_digest(folder))
    return kernel


def launch(kernel, grid, block: int, stream, *arguments) -> None:
    """Queue ``kernel`` on ``stream``: ``grid`` is (x, y) thread blocks of ``block`` threads."""
    kernel[grid, block, stream](*arguments)
