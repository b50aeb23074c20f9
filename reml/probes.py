"""The one place where random numbers enter."""

from numbers import Integral
from typing import NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_count, as_numbers

# So many probes are drawn where no number is given.
NUM_PROBES = 256
# The mean square of probes may differ from 1 by so many of its standard errors.
CHANCE = 6
# With so few samples, two probes of +-1 may be alike by chance.
FEW_SAMPLES = 64
# Two columns are multiples of one another where the cosine between them is this near to 1.
ROUNDING = 1e-10


class Probes(NamedTuple):
    """``trace`` (n, s) probes z with E[zz'] = I, used from the left as needed; ``sketch`` (n, r), independent, for the
    preconditioner of :func:`~gpu_reml.reml.precondition.make_projected_core`, which fits make none of."""

    trace: np.ndarray
    sketch: np.ndarray


def default_rank(num_samples: int) -> int:
    """Usual rank of a preconditioner: 3 sqrt(n), at most n / 4.

    >>> from gpu_reml.reml import default_rank
    >>> default_rank(10_000), default_rank(40)
    (300, 10)
    """
    as_count(num_samples, "num_samples")
    return int(min(3 * np.sqrt(num_samples), num_samples / 4))


def draw_probes(num_samples: int, num_probes: int = NUM_PROBES, rank: int = 0, seed: int = 0) -> Probes:
    """Rademacher probes (n, s), int8 of +1 or -1, and a sketch of ``rank`` columns from one seed; the first s do not
    depend on ``num_probes``.  Raises ValueError where a number is negative or there are no samples.

    >>> from gpu_reml.reml import draw_probes
    >>> draw_probes(5, 3, seed=1).trace.T.tolist() == draw_probes(5, 9, seed=1).trace[:, :3].T.tolist()
    True
    """
    num_samples, num_probes = as_count(num_samples, "num_samples"), as_count(num_probes, "num_probes", 0)
    rank = as_count(rank, "rank", 0)
    streams = np.random.SeedSequence(as_count(seed, "seed", 0)).spawn(2)
    drawn = [
        np.random.default_rng(stream).integers(0, 2, (columns, num_samples), np.int8).T * np.int8(2) - np.int8(1)
        for stream, columns in zip(streams, (num_probes, rank), strict=True)
    ]
    return Probes(*drawn)


def exact_probes(num_samples: int, rank: int = 0, seed: int = 0) -> Probes:
    """sqrt(n) I (n, n) as probes: every trace is then exact.  n columns, so for small n.
    Raises ValueError for no samples.

    >>> import numpy as np
    >>> from gpu_reml.reml import exact_probes, slq
    >>> found = slq(np.diag([1.0, 2.0, 4.0]), exact_probes(3))
    >>> round(float(found.estimate / np.log(2)), 9), found.mc_se
    (3.0, 0.0)
    """
    num_samples = as_count(num_samples, "num_samples")
    return Probes(np.sqrt(num_samples) * np.eye(num_samples), draw_probes(num_samples, 0, rank, seed).sketch)


def probes_are_exact(Z: np.ndarray) -> bool:
    """Whether the probes used are n multiples of an orthonormal basis, so that no Monte-Carlo error is left."""
    n, s = Z.shape
    if s < n:
        return False
    gram = Z.astype(np.float64) @ Z.T.astype(np.float64) / s
    return bool(np.allclose(gram, np.eye(n), rtol=0, atol=1e-10))


def as_probes(value, n: int) -> Probes:
    """Probes as they are; (n, s) numbers as those without a sketch; a number of probes as those of seed 0."""
    if isinstance(value, tuple) and len(value) == 2:
        return Probes(*value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return draw_probes(n, as_count(value, "probes"))
    if np.ndim(value) == 2:
        return Probes(value, np.zeros((n, 0), np.int8))
    raise ValueError(
        f"probes: expected a number of them, an array (n, s) or those of draw_probes, found {type(value).__name__}"
    )


def checked_probes(probes, n: int, least: int = 1) -> Probes:
    """Probes of n samples with at least so many to trace with, or a ValueError that says what is wrong with them.

    Those of ``trace`` must have E[zz'] = I, which is judged by their mean square.  No column of them may be a copy of
    another, or of a column of ``sketch``, which has to be independent.  Cost: two reads of the probes.
    """
    probes = as_probes(probes, n)
    trace, sketch = (probe_block(part, f"probes.{name}") for part, name in zip(probes, Probes._fields, strict=True))
    if len(trace) != n or len(sketch) != n or trace.shape[1] < least:
        raise ValueError(f"probes: expected ({n}, s >= {least}) and ({n}, r), found {trace.shape}, {sketch.shape}")
    check_trace_probes(trace, "probes.trace")
    for a, b in shared_columns(trace, sketch):
        raise ValueError(f"probes.sketch: column {b} is that of probes.trace {a}; draw them independently")
    return Probes(trace, sketch)


def shared_columns(trace: np.ndarray, sketch: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (a, b) where column b of the sketch is probe a up to its sign.  There are none where samples are so few
    that this happens by chance, or where probes are exact, so that it does no harm."""
    (n, s), r = trace.shape, sketch.shape[1]
    if n <= FEW_SAMPLES or not r or probes_are_exact(trace):
        return []
    pairs = copies(np.column_stack([trace[:FEW_SAMPLES], sketch[:FEW_SAMPLES]]))
    return [(a, b - s) for a, b in pairs if a < s <= b and _alike(trace[:, a], sketch[:, b - s])]


def trace_probes(value, n: int, name: str = "probes") -> np.ndarray:
    """Probes (n, s >= 1) to estimate traces with, from :class:`Probes`, an array or a number, or a ValueError."""
    if isinstance(value, Probes):
        value = value.trace
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = draw_probes(n, as_count(value, name)).trace
    Z = probe_block(value, name)
    if len(Z) != n or not Z.shape[1]:
        raise ValueError(f"{name}: expected ({n}, s >= 1), found {Z.shape}")
    check_trace_probes(Z, name)
    return Z


def probe_block(value, name: str) -> np.ndarray:
    """(n, s) finite numbers, in their own type where that is whole numbers or float."""
    array = (
        value
        if isinstance(value, np.ndarray) and value.dtype.kind in "if" and not np.ma.isMA(value)
        else as_numbers(value, name)
    )
    if array.ndim != 2:
        hint = "; one probe is z[:, None]" if array.ndim == 1 else ""
        raise ValueError(f"{name}: expected (n, s), found {array.shape}{hint}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name}: column {int(np.argwhere(~np.isfinite(array))[0, 1])} has a value that is not finite")
    return array


def check_trace_probes(Z: np.ndarray, name: str) -> None:
    """ValueError for probes (n, s) that are not of unit variance, or copies of one another."""
    n = len(Z)
    if not Z.size:
        return
    square = sum(float(np.square(Z[first : first + 4096], dtype=np.float64).sum()) for first in range(0, n, 4096))
    if abs(square / Z.size - 1) > CHANCE * np.sqrt(2 / Z.size) + 1e-3:
        raise ValueError(
            f"{name}: a mean square of {square / Z.size:.4g}, expected 1: probes have E[zz'] = I, as +-1 and N(0, 1)"
        )
    if n > FEW_SAMPLES and not probes_are_exact(Z):
        for a, b in copies(Z[:FEW_SAMPLES]):
            if _alike(Z[:, a], Z[:, b]):
                raise ValueError(f"{name}: columns {a} and {b} are one probe, taken twice")


def copies(Z: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (a, b), a < b, of columns that are one another's multiple to rounding; columns of zeros have none."""
    Z = Z.astype(np.float64)
    lengths = np.sqrt((Z**2).sum(axis=0))
    unit = np.divide(Z, lengths, out=np.zeros_like(Z), where=lengths > 0)
    return [(int(a), int(b)) for a, b in np.argwhere(np.triu(np.abs(unit.T @ unit) > 1 - ROUNDING, 1))]


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two columns are the same up to sign."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return bool(np.array_equal(a, b) or np.array_equal(a, -b))
