"""A numba kernel for symmetric matrices that are kept by their columns down to the diagonal."""

import numpy as np

from .compile import reordered


@reordered
def add_products(columns, c, out):
    """out[g] += A_g c for symmetric A_g, whose last k columns (G, d, k) are given and whose other entries are 0.

    c (d,), out (G, >= d).  Each entry is read once, for its own place and for that across the diagonal.
    """
    d, k = columns.shape[1:]
    above = d - k
    last, across = c[above:d].copy(), np.empty(k)
    for g in range(columns.shape[0]):
        across[:] = 0.0
        for a in range(d):
            factor, here = c[a] if a < above else 0.0, 0.0
            for b in range(k):
                here += columns[g, a, b] * last[b]
                across[b] += columns[g, a, b] * factor
            out[g, a] += here
        for b in range(k):
            out[g, above + b] += across[b]
