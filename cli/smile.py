"""SMILE on the command line: components whose variant weights are dense blocks, from files or from LD."""

from argparse import Namespace
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpu_reml import io
from gpu_reml.io import smile
from gpu_reml.ops import PackedGenotypes, Products
from gpu_reml.ops.block_covariance import BlockCovariance, make_block_covariance
from gpu_reml.ops.ld_weights import block_edges, ld_block_weights
from gpu_reml.ops.weights import BlockWeights

from .components import has_builders
from .smile_options import BLOCK_SIZE, NORMALISATIONS, SHRINKAGE, add_smile

__all__ = [
    "PlannedSmile",
    "SmileWeights",
    "add_smile",
    "check_smile",
    "planned_smile",
    "smile_covariance",
    "smile_weights",
    "wants_smile",
]

SOURCES = ("w_files", "w_files_list", "grm_groups", "identity_w", "smile_ld")


class SmileWeights(NamedTuple):
    """The blocks of every component, before products exist: what they need to be made with, :attr:`cuts`, is here.

    ``stamps``: of the files that the blocks are maps of.
    """

    groups: tuple[BlockWeights, ...]
    names: tuple[str, ...]
    ranks: tuple[float, ...] | None
    notes: tuple[str, ...]
    stamps: tuple[io.Stamp, ...] = ()

    @property
    def cuts(self) -> np.ndarray:
        """Variants where pieces of genotypes on a device may end."""
        return BlockWeights.joined(self.groups).cuts

    @property
    def num_bytes(self) -> int:
        """Of the matrices, on the host and, up to 2 GiB, on every device."""
        return sum(group.num_bytes for group in self.groups)


def wants_smile(options: Namespace) -> bool:
    """Whether blocks of weights are asked for, in any way."""
    return options.smile or any(getattr(options, name) for name in SOURCES)


def check_smile(options: Namespace) -> None:
    """InputError for flags that do not go together; nothing where SMILE is not asked for."""
    given = [name for name in SOURCES if getattr(options, name)]
    if not wants_smile(options):
        stray = [name for name in ("smile_block_size", "smile_shrinkage", "check_psd") if getattr(options, name)]
        if stray or options.w_normalization != NORMALISATIONS[0]:
            flag = _flag(stray[0] if stray else "w_normalization")
            raise io.InputError(f"{flag}: weights come from {_flags(SOURCES)}; give one of them")
        return
    if not given:
        raise io.InputError(f"--smile: say which weights: one of {_flags(SOURCES)}")
    if len(given) > 1:
        raise io.InputError(
            f"{_flags(given)}: give only one of them; several components are --grm-groups 'A.npy;B.npy'"
        )
    if options.smile_ld is None and (options.smile_block_size or options.smile_shrinkage is not None):
        raise io.InputError(f"--smile-block-size and --smile-shrinkage go with --smile-ld, not with {_flag(given[0])}")
    if given[0] in ("identity_w", "smile_ld") and options.check_psd:
        raise io.InputError(
            "--check-psd: is for weights from files; those of --identity-w and --smile-ld are covariances"
        )
    _check_others(options)


def _check_others(options: Namespace) -> None:
    """InputError for genotypes and components that blocks of weights cannot be combined with."""
    if options.rare_bfile or options.rare_pfile:
        raise io.InputError("--rare-bfile, --rare-pfile: not with SMILE, whose blocks cover one set of genotype files")
    prefixes = [options.bfile, options.pfile, options.bgen, options.mbfile, options.pfile_list]
    given = [value for value in prefixes if value]
    if len(given) != 1 or "," in (options.bfile or "") + (options.pfile or ""):
        raise io.InputError(
            "SMILE: give exactly one fileset, --bfile, --pfile or --bgen with one prefix (or one genome in pieces by "
            "--mbfile or --pfile-list): blocks are in the order of its variants"
        )
    if has_builders(options):
        raise io.InputError(
            "SMILE: components come from the weight matrices (--grm-groups makes several); leave out component specs, "
            "block sizes, bins, annotations and the other ways to make them"
        )
    for name in ("alpha", "merge"):
        if getattr(options, name, None) not in (None, False, []):
            raise io.InputError(f"{_flag(name)}: not with SMILE")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _flags(names: Sequence[str]) -> str:
    return ", ".join(map(_flag, names))


class PlannedSmile(NamedTuple):
    """What a plan has to know before the weights are read: components, and bytes of the blocks in float32."""

    num_components: int
    num_bytes: int


def planned_smile(options: Namespace, num_variants: int) -> PlannedSmile:
    """From the names and sizes of the files; a .npy says its shape, of others the bytes of the file are taken."""
    if options.identity_w:
        return PlannedSmile(1, 0)
    if options.smile_ld:
        return PlannedSmile(1, 4 * num_variants * (options.smile_block_size or BLOCK_SIZE))
    files = w_groups(options)
    return PlannedSmile(len(files), sum(smile.stored_bytes(path) for group in files for path in group))


def w_groups(options: Namespace) -> list[list[str]]:
    """The files of every component's blocks."""
    if options.grm_groups:
        return smile.parse_grm_groups(options.grm_groups)
    if options.w_files:
        return [smile.parse_w_files(options.w_files)]
    return [smile.read_w_list(options.w_files_list)]


def smile_weights(genotypes: PackedGenotypes, variants: io.AnalysedVariants, options: Namespace) -> SmileWeights:
    """The blocks that the options ask for, of the variants that filters left; InputError names what is wrong."""
    notes = ()
    if options.identity_w:
        return SmileWeights((BlockWeights([variants.num_variants]),), ("smile",), None, notes)
    if options.smile_ld:
        return _from_ld(genotypes, variants, options, notes)
    files = w_groups(options)
    names = ("smile",) if len(files) == 1 else tuple(f"smile_{g:03d}" for g in range(len(files)))
    read = [[smile.read_w(path, options.check_psd) for path in group] for group in files]
    groups, more = smile.take_analysed(read, names, variants)
    weights = tuple(BlockWeights([block.matrix for block in group]) for group in groups)
    ranks = None
    if options.w_normalization == "effective_rank":
        ranks = tuple(map(smile.total_rank, groups))
        counted = sum(block.rank is None for group in groups for block in group)
        if counted:
            more = (
                *more,
                f"weight matrices: {counted} ranks counted, of {sum(map(len, groups))}; no sidecar says them",
            )
    stamps = tuple(block.stamp for group in read for block in group if block.stamp is not None)
    return SmileWeights(weights, names, ranks, (*notes, *more), stamps)


def _from_ld(genotypes, variants: io.AnalysedVariants, options: Namespace, notes: tuple[str, ...]) -> SmileWeights:
    size = options.smile_block_size or BLOCK_SIZE
    shrinkage = SHRINKAGE if options.smile_shrinkage is None else options.smile_shrinkage
    edges = block_edges(genotypes, size, variants.table["chrom"].to_numpy())
    made = ld_block_weights(genotypes, edges, options.smile_ld, shrinkage=shrinkage)
    note = (
        f"weights from LD ({options.smile_ld}, shrinkage {shrinkage:g}): {len(made.ranks)} blocks of at most {size} "
        f"variants, {made.weights.num_bytes / 2**20:,.0f} MiB, total rank {sum(made.ranks)}"
    )
    return SmileWeights((made.weights,), ("smile",), (float(sum(made.ranks)),), (*notes, note))


def smile_covariance(
    products: Products,
    variants: io.AnalysedVariants,
    options: Namespace,
    weights: SmileWeights | None = None,
) -> tuple[BlockCovariance, tuple[str, ...]]:
    """The components that the options ask for, and notes.

    weights: of :func:`smile_weights`, by default read here; products on devices have to be made with their ``cuts``.
    """
    weights = weights or smile_weights(products.genotypes, variants, options)
    covariance = make_block_covariance(
        products, weights.groups, weights.names, options.w_normalization, ranks=weights.ranks
    )
    return covariance, weights.notes
