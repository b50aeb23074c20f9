"""Make numba's threads and BLAS's threads live together.

Products alternate numba kernels (decode) with BLAS calls some hundred times a second.  numba's OpenMP layer keeps its
threads spinning after a kernel, on the cores that BLAS then needs: with it a product takes 2 to 13 times longer
(docs/performance.md).  The "workqueue" layer sleeps instead.  It is chosen unless the user has named a layer.
"""

import os
import sys


def prefer_sleeping_threads() -> None:
    """Select numba's workqueue layer; has an effect only before the first parallel kernel runs."""
    if "NUMBA_THREADING_LAYER" in os.environ:
        return
    os.environ["NUMBA_THREADING_LAYER"] = "workqueue"
    if "numba" in sys.modules:
        sys.modules["numba"].config.THREADING_LAYER = "workqueue"
