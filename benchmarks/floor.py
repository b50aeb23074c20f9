"""``python -m benchmarks.floor N M K``: seconds of one column through Z and Z', Z being float32 and in memory already.

The floor of a fit is this times its column-passes: two GEMMs by numpy, K columns at a time, and nothing decoded.
"""

import json
import statistics
import sys
import time

import numpy as np

MOST_BYTES = 1 << 30


def column_pass_seconds(n: int, m: int, k: int, repeats: int = 3) -> float:
    """Median of Z(Z'B) for B (n, k) over k; Z (n, m) is cut to MOST_BYTES and the time scaled up."""
    rows = min(m, max(1, MOST_BYTES // (4 * n)))
    rng = np.random.default_rng(0)
    Z = np.empty((rows, n), np.float32)
    for first in range(0, rows, 256):
        part = Z[first : first + 256]
        part[...] = rng.standard_normal(part.shape, np.float32)
    B = rng.standard_normal((n, k), np.float32)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        Z.T @ (Z @ B)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) * m / rows / k


if __name__ == "__main__":
    print(json.dumps({"seconds": column_pass_seconds(*map(int, sys.argv[1:4]))}))
