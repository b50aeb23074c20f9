"""What a fit holds at its peaks, counted in blocks: the basis of every memory plan.

Counts are of blocks alive at once, read off fits with their memory counted (tests/reml/test_memory.py compares).
"""

from dataclasses import dataclass
from typing import NamedTuple


class Blocks(NamedTuple):
    """Blocks alive together: ``samples`` and ``variants`` are (count, columns) pairs of (n, k) and (m, k) blocks, while
    a product of both halves with ``product`` columns, or of the first half alone with ``half``, is under way."""

    samples: tuple[tuple[int, int], ...]
    variants: tuple[tuple[int, int], ...]
    product: int = 0
    half: int = 0


@dataclass(frozen=True)
class Work:
    """What decides the size of a fit: components, traits, fixed effects, probes, rank of the preconditioner, and the
    columns solved at once (``columns``; None for all).

    ``scales``: ways in which samples are scaled, each with features of its own.  ``diagonals``: those in sample space
    that are kept, none in a plain model.
    """

    num_components: int
    num_traits: int
    num_fixed: int
    num_probes: int
    rank: int = 0
    columns: int | None = None
    scales: int = 1
    diagonals: int = 0


def fit_blocks(work: Work) -> dict[str, Blocks]:
    """The peaks of a fit by phase; one component is the Krylov engine's, several the iterative one's."""
    phases = _krylov_blocks(work) if work.num_components == 1 else _iterative_blocks(work)
    return {name: _with_diagonals(blocks, work) for name, blocks in phases.items()}


def _with_diagonals(blocks: Blocks, work: Work) -> Blocks:
    """With the diagonals kept, and what scaling by them holds beside a product: its block, and a part of the sum."""
    if not work.diagonals:
        return blocks
    widest = max(blocks.product, blocks.half)
    return blocks._replace(samples=(*blocks.samples, (work.diagonals, 1), (2, widest)))


def _krylov_blocks(work: Work) -> dict[str, Blocks]:
    t, c = work.num_traits, work.num_fixed
    deep, every = work.num_probes, 4 * work.num_probes
    kept, first, going = (2, c), t + c + every, t + c + deep
    steps = Blocks((kept, (5, going)), (), going)
    if work.columns is None or first <= work.columns:
        return {"first Lanczos step": Blocks((kept, (1, every), (4, first)), (), first), "Lanczos steps": steps}
    shallow = min(work.columns, every - deep)
    return {
        "shallow probes": Blocks((kept, (1, deep), (2, going), (5, shallow)), (), shallow),
        "Lanczos steps": steps,
    }


def _iterative_blocks(work: Work) -> dict[str, Blocks]:
    c, s, r, G, S = work.num_fixed, work.num_probes, work.rank, work.num_components, work.scales
    k = 1 + s
    at_once = min(k, work.columns or k)
    solving = (12, k) if at_once == k else (7, k)
    batch = () if at_once == k else ((8, at_once),)
    kept = ((1, c), (1, 1), (1, s), (1, r), (1, G + 1))
    phases = {
        "solves": Blocks((*kept, solving, *batch), ((S, s),), at_once),
        "traces": Blocks((*kept, (6, k)), ((S, s), (S if at_once == k else 2 * S, at_once)), half=at_once),
        "information": Blocks((*kept, (4, k), (13, G + 1)), ((S, s),), G + 1),
        "likelihood": Blocks((*kept, (1, k), (5, s), (2, at_once)), ((S, s),), at_once),
    }
    if r:
        phases["preconditioner"] = Blocks((*kept, (1, k), (4, r)), ((S, s),), r)
        phases["cores"] = Blocks((*kept, (1, k), (2, r)), ((S, s),), r)
    return phases


def he_blocks(work: Work) -> dict[str, Blocks]:
    """The peaks of randomised Haseman-Elston regression with ``num_probes`` probes."""
    c, s, G, S = work.num_fixed, work.num_probes, work.num_components, work.scales
    kept = ((1, c), (1, s))
    phases = {
        "images": Blocks((*kept, (G + 4, s)), ((S, s),), s),
        "moments": Blocks((*kept, (3, s)), ((2 * S, s), (S, 2 * s))),
    }
    return {name: _with_diagonals(blocks, work) for name, blocks in phases.items()}
