"""Make numba's threads and BLAS's threads live together.

Products alternate numba kernels (decode) with BLAS calls some hundred times a second.  numba's OpenMP layer keeps its
threads spinning after a kernel, on the cores that BLAS then needs: with it a product takes 2 to 13 times longer
(docs/performance.md).  The "workqueue" layer sleeps instead.  It is chosen unless the user has named a layer.

OpenBLAS's threads spin too, for 2^26 clock cycles (some 20 ms) after a call: fits of several components took a third
longer and twice the CPU time.  With 2^4 they sleep at once.  OpenBLAS looks at its environment once, when numpy is
first imported.
"""

import os
import sys

SPIN = "4"  # log2 of the clock cycles for which OpenBLAS's threads wait for another call


def prefer_sleeping_threads() -> None:
    """Select numba's workqueue layer and a short wait of OpenBLAS, unless the user has named others.

    The first has an effect only before the first parallel kernel runs, the second only before numpy is imported.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", SPIN)
    if "NUMBA_THREADING_LAYER" in os.environ:
        return
    os.environ["NUMBA_THREADING_LAYER"] = "workqueue"
    if "numba" in sys.modules:
        sys.modules["numba"].config.THREADING_LAYER = "workqueue"
