"""The memory plan of an analysis, from sizes alone: no genotype is read for it."""

from argparse import Namespace
from dataclasses import replace
from typing import NamedTuple

from gpu_reml import ops
from gpu_reml.ops.cpu import INNER_ROWS
from gpu_reml.ops.cuda import layout
from gpu_reml.ops.device.block_weights import RESIDENT_WEIGHTS
from gpu_reml.ops.device.plan import LEAST_COLUMNS, BudgetError, DevicePlan, Shape, make_plan
from gpu_reml.ops.device.pool import size_class
from gpu_reml.ops.device.products import PRODUCT_COLUMNS
from gpu_reml.reml import Blocks, Work, default_rank, exact_memory, fit_blocks, he_blocks

from .options import MOMENTS

PROGRAM = 230  # MiB that Python, its libraries and compiled kernels take
VARIANT_BYTES, SAMPLE_BYTES = 500, 400  # of tables: ids, positions and constants of a variant, ids of a sample
WEIGHT_BYTES = (4, 8, 4, 4)  # a weight: where and how much, for inner products and for the groups of a product
STORED_WEIGHT = 24  # bytes: as the components have it and as the covariance does, a number and an index each
COPIES = 3  # of a product's block where several devices share the variants: sent, returned, summed
SMALL_BYTES = 1 << 16  # rows of scalars and lists of columns
BLOCK_FEATURES = 2  # copies of features that a product with blocks of weights makes
GROWTH = 4  # times the first probes: room that is kept for more of them where genotypes stream
FREE_SHARE = 0.9  # of a device's free memory, when no budget is given: others may want some


class Sizes(NamedTuple):
    """Samples, variants of every source, components, traits, fixed effects, variants of all components together, bits
    of a genotype, ways in which samples are scaled, relationship matrices, diagonals in sample space, and bytes of
    blocks of weights.  ``further``: host bytes of what a command holds beside its fits, by name."""

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

    @property
    def num_variants(self) -> int:
        return sum(self.parts)


def most_rank(sizes: Sizes, options: Namespace) -> int:
    """The highest rank that the preconditioner may take; none for one component, which needs none."""
    if options.precond_rank is None:
        rank = default_rank(sizes.num_samples) if sizes.num_components > 1 else 0
    else:
        rank = options.precond_rank
    return min(rank, sizes.num_samples - sizes.num_fixed)


def work_of(sizes: Sizes, probes: int, rank: int, columns: int | None = None) -> Work:
    """The fit that is planned for."""
    return Work(
        sizes.num_components,
        sizes.num_traits,
        sizes.num_fixed,
        probes,
        rank,
        columns,
        sizes.num_scales + BLOCK_FEATURES * bool(sizes.block_bytes),
        sizes.num_diagonals,
    )


def budget_of(options: Namespace) -> int:
    """Bytes to stay within on every device: what was asked for, or most of what is free on the fullest."""
    if options.gpu_budget_gib:
        return int(options.gpu_budget_gib * 2**30)
    from gpu_reml.ops.cuda.driver import list_devices

    return int(FREE_SHARE * min(device.free for device in list_devices()[: options.num_gpus]))


def phase_bytes(blocks: Blocks, n: int, m: int, rows: int, copies: int) -> int:
    """Bytes of a phase of a fit on a device with m variants, pieces of ``rows`` and ``copies`` of a product's block."""
    samples = sum(count * size_class(4 * n * k) for count, k in blocks.samples if k)
    variants = sum(count * size_class(4 * m * k) for count, k in blocks.variants if k)
    product, half = (min(k, PRODUCT_COLUMNS) for k in (blocks.product, blocks.half))
    whole = layout.product_bytes(n, rows, product) + size_class(4 * rows * blocks.product) if product else 0
    half = layout.half_product_bytes(n, rows, half) if half else 0
    return samples + variants + max(whole, half) + copies * size_class(4 * n * blocks.product) + SMALL_BYTES


def device_plan(sizes: Sizes, options: Namespace) -> DevicePlan:
    """What every CUDA device will hold with the probes a fit starts with, and the most probes there is room for.

    Where genotypes stream, some of what could stay makes room for more probes than the first.  Raises ValueError when
    the budget cannot hold the fit in any way.
    """
    budget, first = budget_of(options), min(options.first_probes, options.max_probes)
    shape = device_shape(sizes, options.num_gpus)
    plan = plan_for_probes(sizes, shape, options, first, budget)
    if plan.ring and sizes.num_components > 1:
        try:
            roomy = plan_for_probes(sizes, shape, options, min(options.max_probes, GROWTH * first), budget)
        except BudgetError:
            roomy = plan
        if (roomy.rank, roomy.columns) == (plan.rank, plan.columns):
            plan = replace(roomy, phases=plan.phases)
    return replace(plan, probes=most_probes(sizes, shape, options, plan, budget))


def device_shape(sizes: Sizes, num_gpus: int) -> Shape:
    """An equal share of the cohort on every device."""
    share = tuple(-(-variants // num_gpus) for variants in sizes.parts)
    weights = -(-sizes.num_weights // num_gpus)
    per_variant = [*(layout.CONSTANTS if sizes.bits == 2 else layout.DOSAGE_CONSTANTS), 4]
    constants = [*(size * sum(share) for size in per_variant), *(size * weights for size in WEIGHT_BYTES)]
    blocks = -(-min(sizes.block_bytes, RESIDENT_WEIGHTS) // num_gpus)
    held = sum(map(size_class, constants)) + (size_class(blocks) if blocks else 0)
    return Shape(sizes.num_samples, share, layout.PITCH, layout.ROWS, held, sizes.bits)


def fit_phases(sizes: Sizes, shape: Shape, options: Namespace, work: Work, piece_bytes: int) -> dict[str, int]:
    """Workspace bytes of every phase on one device."""
    m = sum(shape.parts)
    rows = min(m, piece_bytes // (shape.group_bytes // layout.ROWS))
    copies = COPIES if options.num_gpus > 1 else 0
    phases = he_blocks(work) if options.method in MOMENTS else fit_blocks(work)
    return {name: phase_bytes(blocks, sizes.num_samples, m, rows, copies) for name, blocks in phases.items()}


def plan_for_probes(sizes: Sizes, shape: Shape, options: Namespace, probes: int, budget: int) -> DevicePlan:
    """The plan of a fit with so many probes."""

    def workspace(columns: int | None, rank: int, piece_bytes: int) -> dict[str, int]:
        return fit_phases(sizes, shape, options, work_of(sizes, probes, rank, columns), piece_bytes)

    rank = most_rank(sizes, options)
    ranks = [rank] if options.precond_rank is not None or not rank else [rank, rank // 2, rank // 4, 0]
    widest = max(blocks.product for blocks in fit_blocks(work_of(sizes, probes, rank)).values())
    columns = [None]
    while (columns[-1] or widest) > LEAST_COLUMNS:
        columns.append(max(LEAST_COLUMNS, (columns[-1] or widest) // 2))
    return make_plan(shape, workspace, ranks, columns, budget, options.ring_depth)


def most_probes(sizes: Sizes, shape: Shape, options: Namespace, plan: DevicePlan, budget: int) -> int:
    """Most probes, up to what is allowed, whose workspace fits beside the genotypes as planned.

    One component's further probes run apart, as many at once as the first ones, so they need no more room.
    """
    first, most = min(options.first_probes, options.max_probes), options.max_probes
    if sizes.num_components == 1:
        return most
    room = budget - (plan.peak - max(plan.phases.values()))

    def fits(probes: int) -> bool:
        work = work_of(sizes, probes, plan.rank, plan.columns)
        return max(fit_phases(sizes, shape, options, work, plan.residency.piece_bytes).values()) <= room

    while first < most:
        middle = (first + most + 1) // 2
        first, most = (middle, most) if fits(middle) else (first, middle - 1)
    return first


def host_plan(sizes: Sizes, method: str, options: Namespace, plan: DevicePlan | None = None) -> dict[str, float]:
    """Peak host memory by item, in MiB."""
    n, m, G = sizes.num_samples, sizes.num_variants, sizes.num_components
    width = 8 if options.dtype == "float64" else 4
    items = {
        "packed genotypes": m * (n * sizes.bits + 7) // 8,
        "tables": VARIANT_BYTES * m + SAMPLE_BYTES * n,
        **dict(sizes.further),
    }
    if sizes.num_weights > m:  # of components that overlap; one for each variant is among the tables
        items["weights"] = STORED_WEIGHT * sizes.num_weights
    if sizes.block_bytes:
        items["blocks of weights"] = sizes.block_bytes
    if sizes.num_matrices:
        items["relationship matrices"] = 8 * n**2 * sizes.num_matrices
    if plan is not None:
        items["ring"] = plan.host_ring
        return {name: size / 2**20 for name, size in items.items()}
    items["tile"] = width * min(512 * 4 * ((n + 3) // 4), 512 * 8192)
    if method == "exact":
        return {name: size / 2**20 for name, size in {**items, "matrices": exact_memory(n, G, width)}.items()}
    probes, rank = min(options.max_probes, 2 * options.first_probes), most_rank(sizes, options)
    if G == 1:
        items["sample blocks"] = width * n * 5 * (4 * options.first_probes + sizes.num_traits)
    else:
        # features of the probes and of their solutions, and, when more are drawn, those before and those that are new
        blocks = 3 if probes > options.first_probes else 2
        items["variant blocks"] = width * m * (blocks * probes * sizes.num_scales + 4)
        items["sums in float64"] = 8 * min(m, INNER_ROWS) * probes
        items["sample blocks"] = width * n * (8 * probes + 8 * min(G, 8) + 3 * G)
        items["preconditioner, if it pays"] = width * rank * 4 * n
    return {name: size / 2**20 for name, size in items.items()}


def memory_lines(host: dict[str, float], plan: DevicePlan | None) -> list[str]:
    """Host memory in a line, and the device's table."""
    line = (
        f"memory about {sum(host.values()) + PROGRAM:.0f} MiB: "
        + ", ".join(f"{name} {size:.0f}" for name, size in host.items())
        + f", program {PROGRAM}"
    )
    return [line, *(plan.lines() if plan is not None else [])]


def backend_for(options: Namespace) -> str:
    """ "cpu" or "cuda"; a plan within a budget may be made for a device that is elsewhere."""
    device = "cuda" if options.device == "gpu" else options.device
    if options.plan and device == "cuda" and options.gpu_budget_gib:
        return "cuda"
    return ops.resolve_backend(device)
