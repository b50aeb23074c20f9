"""The device memory plan: what is kept where, before anything is allocated, within a budget.

Arithmetic only.  A budget that cannot hold everything shrinks the work in this order: genotypes stream through a ring
instead of staying; the basis of several components has fewer vectors, down to the least that works; fewer columns are
worked on at once.  When nothing fits, the smallest budget that would is named.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from .pool import size_class
from .products import PIECE_BYTES, RING_DEPTH, Residency
from .store import padded, pitch, rows_at_once

LEAST_PIECE = 1 << 22  # bytes of genotypes below which launches cost more than they do
LEAST_COLUMNS = 8
MIB = 2**20


class BudgetError(ValueError):
    """No plan fits the budget."""


class Shape(NamedTuple):
    """Samples, variants of each source on one device, the alignment of packed rows, bytes of constants, and bits of a
    genotype."""

    num_samples: int
    parts: tuple[int, ...]
    pitch_alignment: int
    row_alignment: int
    constant_bytes: int
    bits: int = 2

    @property
    def group_bytes(self) -> int:
        """Bytes of the fewest rows that are kept together."""
        return pitch(self.num_samples, self.pitch_alignment, self.bits) * self.row_alignment

    def pieces(self, piece_bytes: int) -> list[tuple[int, int]]:
        """(bytes on the device, how many) of pieces, in order."""
        row_bytes = self.group_bytes // self.row_alignment
        at_once = rows_at_once(piece_bytes, row_bytes, self.row_alignment) // self.row_alignment
        found = []
        for variants in self.parts:
            whole, rest = divmod(-(-variants // self.row_alignment), at_once)
            if whole:
                found.append((size_class(at_once * self.group_bytes), whole))
            if rest:
                found.append((size_class(rest * self.group_bytes), 1))
        return found


@dataclass(frozen=True)
class DevicePlan:
    """Bytes on one device by item and, for the workspace, by phase; and the choices that lead to them."""

    residency: Residency
    columns: int | None
    basis: int
    genotypes: int
    ring: int
    constants: int
    phases: dict[str, int]
    probes: int | None = None  # the most that there is room for; None where nobody asked

    @property
    def peak(self) -> int:
        """Most bytes held at once."""
        return self.genotypes + self.ring + self.constants + max(self.phases.values())

    @property
    def host_ring(self) -> int:
        """Page-locked bytes of host memory while genotypes stream."""
        return self.ring

    def lines(self) -> list[str]:
        """The plan as a person reads it."""
        kept = "resident" if not self.ring else f"streamed in part, ring of {self.residency.ring_depth}"
        basis = f"a basis of at most {self.basis:,} vectors; " if self.basis else ""
        items = {"genotypes resident": self.genotypes, "ring": self.ring, "constants": self.constants}
        table = [f"  {name:<24}{size / MIB:>12,.1f} MiB" for name, size in items.items()]
        table += [f"  phase {name:<18}{size / MIB:>12,.1f} MiB" for name, size in self.phases.items()]
        return [
            f"device memory at most {self.peak / MIB:,.1f} MiB ({kept}; "
            f"{self.residency.piece_bytes / MIB:,.0f} MiB of genotypes a launch; {basis}"
            f"{self.columns or 'all'} columns at once"
            f"{f'; room for {self.probes} probes' if self.probes else ''})",
            *table,
        ]


Workspace = Callable[[int | None, int, int], dict[str, int]]
"""(columns at once, vectors of the basis, bytes of a piece of genotypes) -> workspace bytes of every phase."""


class Choice(NamedTuple):
    """What shrinks with the memory there is: vectors of the basis (0 where there is none), columns worked on at once
    (None for all)."""

    basis: int
    columns: int | None


def make_plan(
    shape: Shape, workspace: Workspace, choices: Iterable[Choice], budget: int, ring_depth: int = 0
) -> DevicePlan:
    """The first of the choices, which go from the fastest to the smallest, that fits ``budget`` bytes.

    ring_depth: 0 chooses.  Raises BudgetError with the least budget.
    """
    smallest = None
    for plan in _plans(shape, workspace, choices, ring_depth):
        fitted = _with_resident(shape, plan, budget)
        if fitted is not None:
            return fitted
        smallest = plan.peak if smallest is None else min(smallest, plan.peak)
    raise BudgetError(
        f"a device budget of {budget / 2**30:.6g} GiB cannot hold this analysis in any way; the least budget in GiB "
        f"that can is {math.ceil(smallest / 2**30 * 1e6) / 1e6:.6f}; or use device='cpu'"
    )


def _plans(shape: Shape, workspace: Workspace, choices, ring_depth: int) -> Iterator[DevicePlan]:
    """Plans without resident genotypes, from the fastest to the smallest."""
    for choice in choices:
        for piece_bytes in _piece_sizes(shape):
            residency = Residency(piece_bytes, 0, ring_depth or RING_DEPTH)
            yield _streaming(shape, residency, choice, workspace(choice.columns, choice.basis, piece_bytes))


def _piece_sizes(shape: Shape) -> list[int]:
    """Sizes of pieces to try, in whole groups of rows."""
    group = shape.group_bytes
    sizes, size = [], min(PIECE_BYTES, padded(max(shape.parts), shape.row_alignment) // shape.row_alignment * group)
    while True:
        size = max(group, size // group * group)
        sizes.append(size)
        if size <= max(group, LEAST_PIECE):
            return sizes
        size //= 4


def _streaming(shape: Shape, residency: Residency, choice: Choice, phases: dict[str, int]) -> DevicePlan:
    sizes = shape.pieces(residency.piece_bytes)
    return DevicePlan(
        residency=residency,
        columns=choice.columns,
        basis=choice.basis,
        genotypes=0,
        ring=min(residency.ring_depth, sum(count for _, count in sizes)) * max(size for size, _ in sizes),
        constants=shape.constant_bytes,
        phases=phases,
    )


def _with_resident(shape: Shape, plan: DevicePlan, budget: int) -> DevicePlan | None:
    """The plan with as many resident pieces as fit; None when it does not even fit without."""
    sizes = shape.pieces(plan.residency.piece_bytes)
    everything = sum(size * count for size, count in sizes)
    without_ring = replace(plan, ring=0, genotypes=everything, residency=replace(plan.residency, resident_bytes=None))
    if without_ring.peak <= budget:
        return without_ring
    room, kept = budget - plan.peak, 0
    if room < 0:
        return None
    for size, count in sizes:
        fitting = min(count, (room - kept) // size)
        kept += size * fitting
        if fitting < count:
            break
    return replace(plan, genotypes=kept, residency=replace(plan.residency, resident_bytes=kept))
