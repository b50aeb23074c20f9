"""Planning: the design of a group of traits, and what its analysis needs where, before a genotype is read."""

from collections.abc import Sequence
from typing import NamedTuple

from gpu_reml import io, ops
from gpu_reml.ops.device.plan import DevicePlan
from gpu_reml.reml.traits import make_traits

from .align import Group, design_of
from .components import expected_components
from .flags.analysis import Analysis
from .model import planned_parts
from .plan import (
    PROGRAM,
    Room,
    Sizes,
    backend_for,
    device_plan,
    host_plan,
    host_room,
    memory_lines,
    sketch_rank,
    worker_items,
)
from .read import Tables
from .smile import planned_smile
from .sources import Sources
from .wording import in_names


class Planned(NamedTuple):
    """A group's design, and what its analysis needs where, before a genotype is read."""

    design: io.Design
    backend: str
    sizes: Sizes
    rank: int
    device: DevicePlan | None
    room: Room | None

    def probes(self, allowed: int) -> int:
        """Most probes, of those allowed, that there is room for."""
        planned = self.device or self.room
        return allowed if planned is None or planned.probes is None else min(allowed, planned.probes)

    @property
    def columns(self) -> int | None:
        """Most columns worked on at once; None for all."""
        if self.device is not None:
            return self.device.columns
        return None if self.room is None else self.room.choice.columns

    @property
    def basis(self) -> int | None:
        """Most vectors of the basis of several components; None where there is none."""
        if self.device is not None:
            return self.device.basis or None
        return None if self.room is None else self.room.choice.basis


def plan_group(tables: Tables, group: Group, analysis: Analysis) -> Planned:
    """Backend and memory plan of a group; raises ValueError when the device's budget cannot hold it."""
    design = design_of(tables, group)
    sizes = sizes_of(tables, group, design.num_columns, analysis)
    here = tables.sources.files and not analysis.workers.wanted  # workers that have devices plan for themselves
    backend = backend_for(analysis.compute) if here else "cpu"
    device, room = rooms(sizes, backend, analysis)
    rank = sketch_rank(sizes, device)
    return Planned(design, backend, sizes, rank, device, room)


def sizes_of(tables: Tables, group: Group, num_fixed: int, analysis: Analysis) -> Sizes:
    """What the memory of a group's analysis follows from."""
    parts, sources = tables.parts, tables.sources
    num_components, num_weights = expected(sources, analysis)
    num_components, num_diagonals = planned_parts(num_components, parts, analysis.terms)
    return Sizes(
        group.alignment.num_samples,
        sources.num_variants,
        num_components,
        len(group.phenotypes),
        num_fixed + (analysis.samples.pca_covar or 0),
        num_weights,
        bits=16 if analysis.genotypes.dosage else ops.CALL_BITS,
        num_scales=parts.num_scales,
        num_matrices=sum(not grm.is_sparse for grm in parts.grms),
        num_diagonals=num_diagonals,
        block_bytes=planned_smile(analysis.smile, sum(sources.num_variants)).num_bytes if analysis.smile.wanted else 0,
        compares=analysis.tests.compares,
        workers=analysis.workers.workers or (-1 if analysis.workers.scheduler else 0),
    )


def rooms(sizes: Sizes, backend: str, analysis: Analysis) -> tuple[DevicePlan | None, Room | None]:
    """What a fit is given on a device, or else on the CPU."""
    if backend == "cuda":
        return device_plan(sizes, analysis.estimation, analysis.compute), None
    return None, host_room(sizes, analysis.estimation, analysis.compute.dtype)


def expected(sources: Sources, analysis: Analysis) -> tuple[int, int]:
    """(components, weights stored) of the genotypes, before any is read."""
    if not sources.files:
        return 0, 0
    if analysis.smile.wanted:
        m = sum(sources.num_variants)
        return planned_smile(analysis.smile, m).num_components, m
    return expected_components(sources, analysis.components)


def check_all_traits(groups: Sequence[Group], planned: Sequence[Planned]) -> None:
    """:func:`check_traits` of every group, before the first is worked on."""
    for group, each in zip(groups, planned, strict=True):
        check_traits(group, each.design)


def check_group(tables: Tables, group: Group) -> None:
    """:func:`check_traits` of a group, or of each of its members."""
    for member in group.members or (group,):
        check_traits(member, design_of(tables, member))


def check_traits(group: Group, design: io.Design) -> None:
    """Raises InputError that names a trait that does not vary beside the fixed effects, or a column out of scale."""
    try:
        make_traits(group.Y, design.X)
    except ValueError as error:
        raise io.InputError(in_names(str(error), group.phenotypes, design.names)) from None


def held_here(planned: Sequence[Planned], analysis: Analysis) -> float:
    """Bytes that this process takes for the largest of the groups."""
    estimation, dtype = analysis.estimation, analysis.compute.dtype
    method = "exact" if estimation.method == "exact" else "stochastic"
    plans = (host_plan(each.sizes, method, estimation, dtype, each.device, each.room) for each in planned)
    return 2**20 * (PROGRAM + max(sum(plan.values()) for plan in plans))


def worker_bytes(planned: Planned, analysis: Analysis, workers: int) -> float:
    """Bytes that each of so many workers takes."""
    probes, dtype = analysis.estimation.starting_probes, analysis.compute.dtype
    shared, own = worker_items(planned.sizes, dtype, planned.room, probes)
    return 2**20 * (PROGRAM + sum(own.values()) + sum(shared.values()) / workers)


def planned_lines(planned: Planned, analysis: Analysis) -> list[str]:
    """The answer to ``--plan``."""
    sizes, estimation = planned.sizes, analysis.estimation
    method = "exact" if estimation.method == "exact" else "stochastic"
    return [
        f"{sizes.num_samples} samples, {sizes.num_variants} variants, {sizes.num_components} component(s), "
        f"{sizes.num_traits} trait(s); device {planned.backend}",
        *memory_lines(planned, method, estimation, analysis.compute.dtype),
    ]
