"""How many threads BLAS uses: one for small matrices, all for products and factorisations.

OpenBLAS's threads wait for each other in loops, some thousand times in a fit of several components.  Where other
processes share the cores, the one that waits takes the time of the one that works: a fit by chromosome (5,000 people,
50,000 variants, two cores with a load of nine) took 105 CPU seconds and 455 s, and 22 and 77 where BLAS had one thread
(docs/performance.md).  Without threadpoolctl (the device benchmark runs from a bare checkout) BLAS keeps
the threads that it has: that costs time, and changes no result but by rounding.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import numba

try:
    from threadpoolctl import ThreadpoolController
except ImportError:
    ThreadpoolController = None


@cache
def _libraries() -> tuple["ThreadpoolController | None", int]:
    """The BLAS libraries of this process, and the most threads that any had when they were first looked at."""
    if ThreadpoolController is None:
        return None, 1
    found = ThreadpoolController().select(user_api="blas")
    return found, max((library["num_threads"] for library in found.info()), default=1)


def _at_most(threads: int) -> AbstractContextManager:
    libraries, most = _libraries()
    return nullcontext() if libraries is None else libraries.limit(limits=min(most, threads))


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS works on one thread meanwhile: for many products of small matrices."""
    with _at_most(1):
        yield


@contextmanager
def all_threads() -> Iterator[None]:
    """BLAS works on as many threads as numba meanwhile, at most those that it had."""
    with _at_most(numba.get_num_threads()):
        yield
