"""The memory plan of an analysis, from sizes alone: no genotype is read for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gpu_reml import ops
from gpu_reml.ops.backend import integer_kernels
from gpu_reml.ops.cpu import INNER_ROWS
from gpu_reml.ops.cpu_integers import integer_bytes
from gpu_reml.ops.cuda import layout
from gpu_reml.ops.device.block_weights import RESIDENT_WEIGHTS
from gpu_reml.ops.device.plan import LEAST_COLUMNS, BudgetError, Choice, DevicePlan, Shape, make_plan
from gpu_reml.ops.device.pool import size_class
from gpu_reml.ops.device.products import PRODUCT_COLUMNS
from gpu_reml.reml import Blocks, Work, default_rank, exact_memory, fit_blocks, he_blocks
from gpu_reml.reml.engines.memory import algebra_bytes, least_basis
from gpu_reml.reml.engines.reduced_model import largest_basis
from gpu_reml.reml.moments import num_starting
from gpu_reml.reml.studies.scan import usual_rank

from .flags.compute import Compute
from .flags.estimation import HE_PROBES, Estimation
from .machine import machine_memory

PROGRAM = 230  # Python, its libraries and the compiled kernels take so many MiB
# Tables take so many bytes a variant (ids, positions, constants) and a sample (ids).
VARIANT_BYTES, SAMPLE_BYTES = 500, 400
WEIGHT_BYTES = (4, 8, 4, 8)  # a weight is stored twice, each time with its place
STORED_WEIGHT = 24  # components and covariance each store a weight with its index
SCAN_BLOCKS = 16  # blocks of a scan's Lanczos steps
WORKER_BLOCKS = 4  # a worker has a block that came, two parts of a sum and what it is computed in
COPIES = 3  # devices that share the variants each receive a block, return one, and have it summed
SMALL_BYTES = 1 << 16  # scalars and lists of columns fit in this
BLOCK_FEATURES = 2  # a product with blocks of weights copies its features so often
RANK_SHARE = 4  # making a preconditioner of rank r takes the memory of this many times r vectors of the basis
GROWTH = 4  # where genotypes stream, there is room for this many times the first probes
BASIS_STEP = 0.75  # every choice of the basis's size is this share of the one before
HOST_SHARE = 0.8  # basis and probes may fill this share of the machine's memory
FREE_SHARE = 0.9  # without a budget this share of a device's free memory is used, as others may need some


class Sizes(NamedTuple):
    """Samples, variants of every source, components, traits, fixed effects, variants of all components together, bits
    of a genotype, ways in which samples are scaled, relationship matrices, diagonals in sample space, and bytes of
    blocks of weights.  ``further``: host bytes of what a command holds beside its fits, by name.  ``compares``: whether
    further models are fitted beside the full one, for likelihood ratios and profiles.  ``scanned``: replicates of a
    scan after the fit.  ``workers``: processes that hold the genotypes and the features of blocks; 0 where this one
    does, -1 where a scheduler knows how many."""

    num_samples: int
    parts: tuple[int, ...]
    num_components: int
    num_traits: int
    num_fixed: int
    num_weights: int
    bits: int = 2
    num_scales: int = 1
    num_matrices: int = 0
    num_diagonals: int = 0
    block_bytes: int = 0
    further: tuple[tuple[str, int], ...] = ()
    compares: bool = False
    scanned: int = 0
    workers: int = 0

    @property
    def features_here(self) -> int:
        """Variants whose features this process holds."""
        return 0 if self.workers else self.num_variants

    @property
    def num_variants(self) -> int:
        return sum(self.parts)

    @property
    def dimension(self) -> int:
        """Of the complement of the fixed effects."""
        return self.num_samples - self.num_fixed


def sketch_rank(sizes: Sizes, device: DevicePlan | None) -> int:
    """Rank of the preconditioner of the solves beside a fit, as those of the LASSO: the usual one, and on a device no
    more than takes the memory that the fit's basis is planned to."""
    rank = default_rank(sizes.num_samples) if device is None else device.basis // RANK_SHARE
    return min(rank, sizes.dimension)


def work_of(sizes: Sizes, probes: int, choice: Choice) -> Work:
    """The fit that is planned for; with more probes than its basis was chosen for, that grows to the least for them.

    Likelihood ratios and profiles hold the fit's basis beside their own and one that this is started again from;
    further traits hold that of the first.
    """
    vectors = max(choice.basis, least_basis(sizes.num_traits + probes)) if choice.basis else 0
    return Work(
        sizes.num_components,
        sizes.num_traits,
        sizes.num_fixed,
        probes,
        min(vectors, sizes.dimension),
        choice.columns,
        sizes.num_scales,
        sizes.num_diagonals,
        BLOCK_FEATURES * bool(sizes.block_bytes),
        num_starting(sizes.num_samples, sizes.num_components),
        1 + 2 * sizes.compares + (sizes.num_traits > 1),
    )


def choices_for(sizes: Sizes, probes: int, estimation: Estimation) -> list[Choice]:
    """What a fit with so many probes may be given, from the fastest to the smallest: fewer vectors of the basis, down
    to the least that works, then fewer columns at once."""
    if estimation.by_moments:
        return [Choice(0, None)]
    bases, widest = [0], 0
    if sizes.num_components > 1:
        widest = sizes.num_traits + probes
        least = least_basis(widest)
        bases = [max(least, largest_basis(sizes.num_components))]
        while bases[-1] > least:
            bases.append(max(least, int(BASIS_STEP * bases[-1])))
    else:
        blocks = fit_blocks(work_of(sizes, probes, Choice(0, None)))
        widest = max(phase.product for phase in blocks.values())
    narrower = []
    while (narrower[-1] if narrower else widest) > LEAST_COLUMNS:
        narrower.append(max(LEAST_COLUMNS, (narrower[-1] if narrower else widest) // 2))
    return [Choice(basis, None) for basis in bases] + [Choice(bases[-1], columns) for columns in narrower]


def budget_of(compute: Compute) -> int:
    """Bytes to stay within on every device: what was asked for, or most of what is free on the fullest."""
    if compute.gpu_budget_gib:
        return int(compute.gpu_budget_gib * 2**30)
    from gpu_reml.ops.cuda.driver import list_devices

    return int(FREE_SHARE * min(device.free for device in list_devices()[: compute.num_gpus]))


def phase_bytes(blocks: Blocks, sizes: Sizes, m: int, rows: int, copies: int) -> int:
    """Bytes of a phase of a fit on a device with m variants, pieces of ``rows`` and ``copies`` of a product's block."""
    n, bits = sizes.num_samples, sizes.bits
    samples = sum(count * size_class(4 * n * k) for count, k in blocks.samples if k)
    variants = sum(count * size_class(4 * m * k) for count, k in blocks.variants if k)
    product, half = (min(k, PRODUCT_COLUMNS) for k in (blocks.product, blocks.half))
    whole = layout.product_bytes(n, rows, product, bits) + size_class(4 * rows * blocks.product) if product else 0
    half = layout.half_product_bytes(n, rows, half, bits) if half else 0
    return samples + variants + max(whole, half) + copies * size_class(4 * n * blocks.product) + SMALL_BYTES


class Limits(NamedTuple):
    """Bytes to stay within on every device, how many devices there are, and buffers of a ring (0: the usual number)."""

    budget: int
    num_devices: int
    ring_depth: int


def device_plan(sizes: Sizes, estimation: Estimation, compute: Compute) -> DevicePlan:
    """What every CUDA device will hold with the probes a fit starts with, and the most probes there is room for.

    Where genotypes stream, some of what could stay makes room for more probes than the first.  Raises ValueError when
    the budget cannot hold the fit in any way.
    """
    limits = Limits(budget_of(compute), compute.num_gpus, compute.ring_depth)
    first, shape = estimation.starting_probes, device_shape(sizes, limits.num_devices)
    plan = plan_for_probes(sizes, shape, estimation, limits, first)
    if plan.ring and sizes.num_components > 1:
        try:
            roomy = plan_for_probes(sizes, shape, estimation, limits, min(estimation.max_probes, GROWTH * first))
        except BudgetError:
            roomy = plan
        if (roomy.basis, roomy.columns) == (plan.basis, plan.columns):
            plan = replace(roomy, phases=plan.phases)
    return replace(plan, probes=most_probes(sizes, shape, estimation, limits, plan))


def device_shape(sizes: Sizes, num_gpus: int) -> Shape:
    """An equal share of the cohort on every device."""
    share = tuple(-(-variants // num_gpus) for variants in sizes.parts)
    weights = -(-sizes.num_weights // num_gpus)
    per_variant = [*layout.CONSTANTS, 8]
    constants = [*(size * sum(share) for size in per_variant), *(size * weights for size in WEIGHT_BYTES)]
    if sizes.num_weights > sizes.num_variants:  # components that overlap may be multiplied side by side
        constants += [4 * sum(share) * sizes.num_components, 8 * sum(share)]
    blocks = -(-min(sizes.block_bytes, RESIDENT_WEIGHTS) // num_gpus)
    held = sum(map(size_class, constants)) + (size_class(blocks) if blocks else 0)
    return Shape(sizes.num_samples, share, layout.PITCH, layout.ROWS, held, sizes.bits)


def fit_phases(
    sizes: Sizes, shape: Shape, by_moments: bool, limits: Limits, work: Work, piece_bytes: int
) -> dict[str, int]:
    """Workspace bytes of every phase on one device."""
    m = sum(shape.parts)
    rows = min(m, piece_bytes // (shape.group_bytes // layout.ROWS))
    copies = COPIES if limits.num_devices > 1 else 0
    phases = he_blocks(work) if by_moments else fit_blocks(work)
    if sizes.scanned:
        phases = {**phases, "scan": scan_blocks(sizes, work.columns)}
    return {name: phase_bytes(blocks, sizes, m, rows, copies) for name, blocks in phases.items()}


def scan_blocks(sizes: Sizes, columns: int | None) -> Blocks:
    """What a scan holds: replicates with their Lanczos vectors, a preconditioner, and features of the genotypes and of
    the components."""
    R = sizes.scanned
    rank = usual_rank(sizes.dimension, R)
    w = min(R, columns or R)
    kept = ((1, sizes.num_fixed), (3, rank), (2, R), (SCAN_BLOCKS, w))
    return Blocks(kept, ((2 + sizes.num_scales, R),), max(w, rank))


def plan_for_probes(sizes: Sizes, shape: Shape, estimation: Estimation, limits: Limits, probes: int) -> DevicePlan:
    """The plan of a fit with so many probes."""

    def workspace(columns: int | None, basis: int, piece_bytes: int) -> dict[str, int]:
        work = work_of(sizes, probes, Choice(basis, columns))
        return fit_phases(sizes, shape, estimation.by_moments, limits, work, piece_bytes)

    return make_plan(shape, workspace, choices_for(sizes, probes, estimation), limits.budget, limits.ring_depth)


def most_probes(sizes: Sizes, shape: Shape, estimation: Estimation, limits: Limits, plan: DevicePlan) -> int:
    """Most probes, up to what is allowed, whose workspace fits beside the genotypes as planned.

    One component's further probes run apart, as many at once as the first ones, so they need no more room.
    """
    if sizes.num_components == 1:
        return estimation.max_probes
    room = limits.budget - (plan.peak - max(plan.phases.values()))

    def fits(probes: int) -> bool:
        work, piece_bytes = work_of(sizes, probes, Choice(plan.basis, plan.columns)), plan.residency.piece_bytes
        return max(fit_phases(sizes, shape, estimation.by_moments, limits, work, piece_bytes).values()) <= room

    return most_that(fits, estimation)


class Room(NamedTuple):
    """What a fit of several components on the CPU is given within the machine's memory; ``probes``: the most."""

    choice: Choice
    probes: int


def host_room(sizes: Sizes, estimation: Estimation, dtype: str) -> Room | None:
    """The largest basis, then the most probes, that memory has room for; None where no basis is made.

    Raises BudgetError where this machine cannot hold the least.  Genotypes in mapped files need not all be in memory.
    """
    if sizes.num_components == 1 or estimation.method == "exact" or estimation.by_moments:
        return None
    first, machine = estimation.starting_probes, machine_memory()
    common = common_items(sizes)
    beside = sum(common.values()) + tile_bytes(sizes, dtype) + PROGRAM * 2**20

    def needed(choice: Choice, probes: int) -> int:
        return beside + sum(fit_items(sizes, dtype, choice, probes, estimation.max_probes).values())

    choices = choices_for(sizes, first, estimation)
    choice = next((each for each in choices if needed(each, first) <= HOST_SHARE * machine), choices[-1])
    least = needed(choice, first) - common.get("packed genotypes", 0)
    if least > machine:
        raise BudgetError(
            f"this analysis needs {least / 2**20:,.0f} MiB of memory beside the genotypes' files, and this machine "
            f"lets it have {machine / 2**20:,.0f}; use one with more, fewer than {first} probes (--max-probes) or "
            "fewer components"
        )
    return Room(choice, most_that(lambda probes: needed(choice, probes) <= HOST_SHARE * machine, estimation))


def most_that(fits: Callable[[int], bool], estimation: Estimation) -> int:
    """Most probes, from those at first to those allowed, that fit."""
    first, most = estimation.starting_probes, estimation.max_probes
    while first < most:
        middle = (first + most + 1) // 2
        first, most = (middle, most) if fits(middle) else (first, middle - 1)
    return first


def genotype_bytes(sizes: Sizes) -> int:
    """Bytes of the packed genotypes."""
    return sizes.num_variants * ((sizes.num_samples * sizes.bits + 7) // 8)


def worker_items(sizes: Sizes, dtype: str, room: Room | None, probes: int) -> tuple[dict[str, float], dict[str, float]]:
    """MiB that the workers hold between them, and what each has beside its share."""
    n, m, width = sizes.num_samples, sizes.num_variants, np.dtype(dtype).itemsize
    columns = kept = probes + sizes.num_traits
    if room is not None:
        work = work_of(sizes, probes, room.choice)
        held = max(sum(count * k for count, k in phase.variants) for phase in fit_blocks(work).values())
        kept = work.bases * work.basis * sizes.num_scales + held
    shared = {
        "packed genotypes": genotype_bytes(sizes),
        "features": width * m * kept,
        "blocks of weights": sizes.block_bytes,
    }
    own = {"blocks": width * n * columns * WORKER_BLOCKS, **integer_items(sizes, dtype, columns)}
    return tuple({name: size / 2**20 for name, size in items.items() if size} for items in (shared, own))


def common_items(sizes: Sizes) -> dict[str, int]:
    """Host bytes, by item, of what is held whatever the method."""
    n, m = sizes.num_samples, sizes.num_variants
    items = {
        **({} if sizes.workers else {"packed genotypes": genotype_bytes(sizes)}),
        "tables": VARIANT_BYTES * m + SAMPLE_BYTES * n,
        **dict(sizes.further),
    }
    # Overlapping components have more weights than variants; one for each variant is among the tables.
    if sizes.num_weights > m:
        items["weights"] = STORED_WEIGHT * sizes.num_weights
    if sizes.block_bytes:
        items["blocks of weights"] = sizes.block_bytes
    if sizes.num_matrices:
        items["relationship matrices"] = 8 * n**2 * sizes.num_matrices
    return items


def tile_bytes(sizes: Sizes, dtype: str) -> int:
    """Host bytes of decoded genotypes at once."""
    return np.dtype(dtype).itemsize * min(512 * 4 * ((sizes.num_samples + 3) // 4), 512 * 8192)


def integer_items(sizes: Sizes, dtype: str, columns: int) -> dict[str, int]:
    """Host bytes of a product of so many columns in integers; nothing where products are others."""
    if integer_kernels(sizes.bits, np.dtype(dtype)) is None:
        return {}
    return {"integers": integer_bytes(sizes.num_samples, sizes.num_variants, columns, np.dtype(dtype))}


def fit_items(sizes: Sizes, dtype: str, choice: Choice, probes: int, max_probes: int) -> dict[str, int]:
    """Host bytes, by item, of a fit of several components on the CPU."""
    n, m, width = sizes.num_samples, sizes.features_here, np.dtype(dtype).itemsize
    work = work_of(sizes, probes, choice)
    basis = width * work.bases * work.basis * (n + m * sizes.num_scales)
    sent = {"blocks that may be sent again": width * work.basis * n} if sizes.workers else {}
    peak = most_held(sizes, dtype, fit_blocks(work))
    return {
        f"basis of up to {work.basis:,} vectors": basis,
        "its small matrices": algebra_bytes(work),
        "sample and variant blocks": max(0, peak - basis),
        "sums in float64": 8 * min(m, INNER_ROWS) * 2 * (1 + probes),
        "probes": n * max_probes,
        **sent,
    }


def most_held(sizes: Sizes, dtype: str, phases: dict[str, Blocks]) -> int:
    """Host bytes of the blocks of the largest phase."""

    def columns(blocks: tuple[tuple[int, int], ...]) -> int:
        return sum(count * each for count, each in blocks)

    n, m = sizes.num_samples, sizes.features_here
    width = np.dtype(dtype).itemsize
    return width * max(n * columns(b.samples) + m * columns(b.variants) for b in phases.values())


def host_plan(
    sizes: Sizes,
    method: str,
    estimation: Estimation,
    dtype: str,
    plan: DevicePlan | None = None,
    room: Room | None = None,
    probes: int | None = None,
) -> dict[str, float]:
    """Peak host memory by item, in MiB, with the first probes or so many."""
    n, G, most = sizes.num_samples, sizes.num_components, estimation.max_probes
    items = common_items(sizes)
    probes = probes or estimation.starting_probes
    if plan is not None:
        work = work_of(sizes, probes, Choice(plan.basis, None))
        kept = work.bases * plan.basis or 2 * (probes + sizes.num_traits + sizes.num_fixed)  # a basis, or a Lanczos run
        items.update({"ring": plan.host_ring, "probes": n * most, "checkpoint": 4 * n * kept})
        if plan.basis:
            items["small matrices"] = algebra_bytes(work)
        return {name: size / 2**20 for name, size in items.items()}
    items["decoded block"] = tile_bytes(sizes, dtype)
    if method == "exact":
        items["matrices"] = exact_memory(
            n, G, np.dtype(dtype).itemsize if sizes.parts else 8
        )  # matrices that are given are float64
    elif room is not None:
        items.update(fit_items(sizes, dtype, room.choice, probes, most))
    elif G == 1:
        columns = estimation.first_probes + sizes.num_traits
        items["sample blocks"] = np.dtype(dtype).itemsize * n * 7 * columns
        items |= {} if sizes.workers else integer_items(sizes, dtype, columns)
    else:
        phases = he_blocks(work_of(sizes, min(HE_PROBES, most), Choice(0, None)))
        items["sample and variant blocks"] = most_held(sizes, dtype, phases)
    return {name: size / 2**20 for name, size in items.items()}


def memory_lines(planned, method: str, estimation: Estimation, dtype: str) -> list[str]:
    """Host memory in a line, and the device's table.  planned: a :class:`~gpu_reml.cli.planned.Planned`."""
    arguments = planned.sizes, method, estimation, dtype, planned.device, planned.room
    host = host_plan(*arguments)
    line = (
        f"memory about {sum(host.values()) + PROGRAM:.0f} MiB: "
        + ", ".join(f"{name} {size:.0f}" for name, size in host.items())
        + f", program {PROGRAM} (in MiB)"
    )
    most = planned.probes(estimation.max_probes)
    if method == "stochastic" and planned.basis is not None and most > estimation.first_probes:
        line += f"; with {most} probes {sum(host_plan(*arguments, most).values()) + PROGRAM:.0f} MiB"
    return [
        line,
        *worker_lines(planned, estimation, dtype),
        *(planned.device.lines() if planned.device is not None else []),
    ]


def worker_lines(planned, estimation: Estimation, dtype: str) -> list[str]:
    """The memory of workers, where there are some."""
    count = planned.sizes.workers
    if not count:
        return []
    shared, own = worker_items(planned.sizes, dtype, planned.room, estimation.starting_probes)
    told = ", ".join(f"{name} {size:.0f}" for name, size in {**shared, **own}.items())
    alone, between = PROGRAM + sum(own.values()), sum(shared.values())
    each = (
        f"{alone:.0f} MiB each, and {between:.0f} between them"
        if count < 0
        else f"{alone + between / count:.0f} MiB each"
    )
    return [f"memory of the {f'{count} ' if count > 0 else ''}workers about {each}: {told}, program {PROGRAM} (in MiB)"]


def backend_for(compute: Compute) -> str:
    """ "cpu" or "cuda"; a plan within a budget may be made for a device that is elsewhere."""
    if compute.plan and compute.named_device == "cuda" and compute.gpu_budget_gib:
        return "cuda"
    return ops.resolve_backend(compute.named_device)
