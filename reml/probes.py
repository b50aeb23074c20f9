"""The one place where random numbers enter."""

from typing import NamedTuple

import numpy as np


class Probes(NamedTuple):
    """``trace`` (n, s) probes z with E[zz'] = I, used from the left as needed; ``sketch`` (n, r), independent."""

    trace: np.ndarray
    sketch: np.ndarray


def default_rank(num_samples: int) -> int:
    """Rank of the preconditioner: 3 sqrt(n), at most n / 4."""
    return int(min(3 * np.sqrt(num_samples), num_samples / 4))


def draw_probes(num_samples: int, num_probes: int = 256, rank: int | None = None, seed: int = 0) -> Probes:
    """Rademacher probes (int8, +1 or -1) and sketch from one seed; the first s do not depend on ``num_probes``."""
    rank = default_rank(num_samples) if rank is None else rank
    streams = np.random.SeedSequence(seed).spawn(2)
    drawn = [
        np.random.default_rng(stream).integers(0, 2, (columns, num_samples), np.int8).T * np.int8(2) - np.int8(1)
        for stream, columns in zip(streams, (num_probes, rank), strict=True)
    ]
    return Probes(*drawn)


def exact_probes(num_samples: int, rank: int = 0, seed: int = 0) -> Probes:
    """sqrt(n) I as probes: every trace is then exact.  n columns, so for small n."""
    return Probes(np.sqrt(num_samples) * np.eye(num_samples), draw_probes(num_samples, 0, rank, seed).sketch)


def probes_are_exact(Z: np.ndarray) -> bool:
    """Whether the probes used are n multiples of an orthonormal basis, so that no Monte-Carlo error is left."""
    n, s = Z.shape
    if s < n:
        return False
    gram = Z.astype(np.float64) @ Z.T.astype(np.float64) / s
    return bool(np.allclose(gram, np.eye(n), rtol=0, atol=1e-10))
