"""What a fit holds at its peaks, counted in blocks: the basis of every memory plan.

The counts are those of blocks alive at once in fits whose memory was counted (tests/reml/test_devices.py compares).
"""

from dataclasses import dataclass
from typing import NamedTuple

# The log-determinant of so many probes of each fold is checked by Lanczos quadrature.
CHECKED = 2


class Blocks(NamedTuple):
    """Blocks alive together: ``samples`` and ``variants`` are (count, columns) pairs of (n, k) and (m, k) blocks, while
    a product of both halves with ``product`` columns, or of the first half alone with ``half``, is under way."""

    samples: tuple[tuple[int, int], ...]
    variants: tuple[tuple[int, int], ...]
    product: int = 0
    half: int = 0


@dataclass(frozen=True)
class Work:
    """What decides the size of a fit: components, traits, fixed effects, probes, the most vectors of the basis
    (several components), and the columns worked on at once (``columns``; None for all).

    ``scales``: ways in which samples are scaled, each with features of its own.  ``diagonals``: those in sample space
    that are kept, none in a plain model.  ``copies``: of features that a product with blocks of weights makes.
    ``starting``: probes of the moments that a fit of several components starts from.  ``bases``: held together.
    """

    num_components: int
    num_traits: int
    num_fixed: int
    num_probes: int
    basis: int = 0
    columns: int | None = None
    scales: int = 1
    diagonals: int = 0
    copies: int = 0
    starting: int = 8
    bases: int = 1


def fit_blocks(work: Work) -> dict[str, Blocks]:
    """The peaks of a fit by phase; one component is the Krylov engine's, several the reduced model's.

    >>> from gpu_reml.reml import Work, fit_blocks
    >>> sorted(fit_blocks(Work(num_components=1, num_traits=1, num_fixed=2, num_probes=32)))
    ['Lanczos steps', 'further probes']
    """
    phases = _krylov_blocks(work) if work.num_components == 1 else _reduced_blocks(work)
    return {name: _with_diagonals(blocks, work) for name, blocks in phases.items()}


def _with_diagonals(blocks: Blocks, work: Work) -> Blocks:
    """With the diagonals kept, and what scaling by them holds beside a product: its block, and a part of the sum."""
    if not work.diagonals:
        return blocks
    widest = max(blocks.product, blocks.half)
    return blocks._replace(samples=(*blocks.samples, (work.diagonals, 1), (2, widest)))


def _krylov_blocks(work: Work) -> dict[str, Blocks]:
    t, c = work.num_traits, work.num_fixed
    kept, going, more = (2, c), t + c + work.num_probes, min(work.columns or work.num_probes, work.num_probes)
    return {
        "Lanczos steps": Blocks((kept, (5, going)), (), going),
        "further probes": Blocks((kept, (2, going), (5, more)), (), more),
    }


def _reduced_blocks(work: Work) -> dict[str, Blocks]:
    """``restart`` and ``basis``: a round in which the basis starts again, with the one before still held, and grows."""
    t, c, G, S, more = work.num_traits, work.num_fixed, work.num_components, work.scales, work.copies
    k, d = t + work.num_probes, work.basis
    w = min(k, work.columns or k)
    first, held = max(work.starting, c, t), ()
    kept, pieces = ((1, c), (2, t), (1, k)), work.bases * -(-d // w)
    U, F = (pieces, w), (S * pieces, w)
    if t > 1:  # the first trait's basis stays for those after it
        held = (F,)
    return {
        "moments": Blocks((*kept, (2 * G + 4, work.starting)), ((2 * S + more, first),), half=first),
        "residuals": Blocks((*kept, U, (3, k), (2, w)), (F, (2 * S + more, w)), half=w),
        "restart": Blocks((*kept, U, (12, k), (4, t)), (F, (2 * S, k), (S + more, w)), half=w),
        "basis": Blocks((*kept, U, (10, k)), (F, (3 * S, k), (more, w)), half=w),
        "off the basis": Blocks((*kept, U, (3, k), (6, G)), (F, (3 * S, k), (more, 1)), half=G),
        "information": Blocks((*kept, U, (1, k), (8, G + 1)), (F, (2 * S + more, G + 1)), half=G + 1),
        "log-determinant": Blocks((*kept, (2, d), (9, CHECKED)), held, CHECKED),
        "solves": Blocks((*kept, (1, d), (13, c + 1)), (*held, (S + more, 1)), c + 1),
    }


def algebra_bytes(work: Work) -> int:
    """Host bytes of the small matrices: half of every U'K_gU, its products with the probes, and a few (d, d)."""
    d, s = work.basis, work.num_traits + work.num_probes
    return 8 * (work.num_components * (work.bases * d * (d + s) // 2 + 4 * d * s) + 6 * d**2)


def least_basis(num_columns: int) -> int:
    """Fewest vectors with which fits go on: of traits and probes, their solutions, and twice as many that are new.

    With as many that are new, fits move back and forth (docs/performance.md).
    """
    return 6 * num_columns


def he_blocks(work: Work) -> dict[str, Blocks]:
    """The peaks of randomised Haseman-Elston regression with ``num_probes`` probes.

    >>> from gpu_reml.reml import Work, he_blocks
    >>> he_blocks(Work(num_components=3, num_traits=1, num_fixed=2, num_probes=64))["moments"].samples[0]
    (1, 2)
    """
    c, s, G, S = work.num_fixed, work.num_probes, work.num_components, work.scales
    kept = ((1, c), (1, s))
    phases = {
        "images": Blocks((*kept, (G + 4, s)), ((S, s),), s),
        "moments": Blocks((*kept, (3, s)), ((2 * S, s), (S, 2 * s))),
    }
    return {name: _with_diagonals(blocks, work) for name, blocks in phases.items()}
