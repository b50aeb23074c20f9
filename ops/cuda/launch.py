"""How CUDA kernels are compiled and launched: one place for each."""

from collections.abc import Callable
from typing import Any

from numba import cuda

from ..compile import kept


def cuda_kernel(**options: Any) -> Callable[[Callable], Any]:
    """Decorator of a kernel whose machine code is kept for later processes; ``options`` of numba's ``cuda.jit``."""
    return lambda function: kept(cuda.jit, function, **options)


def launch(kernel, grid, block: int, stream, *arguments) -> None:
    """Queue ``kernel`` on ``stream``: ``grid`` is (x, y) thread blocks of ``block`` threads."""
    kernel[grid, block, stream](*arguments)
