"""SMILE on the command line: components whose variant weights are dense blocks, from files or from LD."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpu_reml import io
from gpu_reml.io import smile
from gpu_reml.ops import PackedGenotypes, Products
from gpu_reml.ops.block_covariance import BlockCovariance, make_block_covariance
from gpu_reml.ops.ld_weights import block_edges, ld_block_weights
from gpu_reml.ops.weights import BlockWeights

from .flags.components import Components
from .flags.data import Genotypes
from .flags.smile import BLOCK_SIZE, NORMALISATIONS, SHRINKAGE, SOURCES, Smile


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


def check_smile(asked: Smile) -> None:
    """InputError for flags that do not go together, or where SMILE is not asked for."""
    given = asked.sources
    if not asked.wanted:
        stray = [name for name in ("smile_block_size", "smile_shrinkage") if getattr(asked, name)]
        if stray or asked.w_normalization != NORMALISATIONS[0]:
            flag = _flag(stray[0] if stray else "w_normalization")
            raise io.InputError(f"{flag}: weights come from {_flags(SOURCES)}; give one of them")
        return
    if not given:
        raise io.InputError(f"--smile: say which weights: one of {_flags(SOURCES)}")
    if len(given) > 1:
        raise io.InputError(
            f"{_flags(given)}: give only one of them; several components are --grm-groups 'A.npy;B.npy'"
        )
    if asked.smile_ld is None and (asked.smile_block_size or asked.smile_shrinkage is not None):
        raise io.InputError(f"--smile-block-size and --smile-shrinkage go with --smile-ld, not with {_flag(given[0])}")


def check_beside_smile(genotypes: Genotypes, components: Components, alpha: float | None) -> None:
    """InputError for genotypes and components that blocks of weights cannot be combined with."""
    if genotypes.rare_bfile or genotypes.rare_pfile:
        raise io.InputError("--rare-bfile, --rare-pfile: cannot be used with SMILE, whose blocks cover one fileset")
    if genotypes.num_filesets != 1 or "," in (genotypes.bfile or "") + (genotypes.pfile or ""):
        raise io.InputError(
            "SMILE: give exactly one fileset, --bfile, --pfile or --bgen with one prefix (or one genome in pieces by "
            "--mbfile or --pfile-list): blocks are in the order of its variants"
        )
    if components.given:
        raise io.InputError(
            "SMILE: components come from the weight matrices (--grm-groups makes several); leave out component specs, "
            "block sizes, bins, annotations and the other ways to make them"
        )
    if alpha is not None:
        raise io.InputError("--alpha: cannot be used with SMILE, whose blocks weigh the variants; leave one out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _flags(names: Sequence[str]) -> str:
    return ", ".join(map(_flag, names))


class PlannedSmile(NamedTuple):
    """What a plan has to know before the weights are read: components, and bytes of the blocks in float32."""

    num_components: int
    num_bytes: int


def planned_smile(asked: Smile, num_variants: int) -> PlannedSmile:
    """From the names and sizes of the files; a .npy says its shape, of others the bytes of the file are taken."""
    if asked.identity_w:
        return PlannedSmile(1, 0)
    if asked.smile_ld:
        return PlannedSmile(1, 4 * num_variants * (asked.smile_block_size or BLOCK_SIZE))
    files = w_groups(asked)
    return PlannedSmile(len(files), sum(smile.stored_bytes(path) for group in files for path in group))


def w_groups(asked: Smile) -> list[list[str]]:
    """The files of every component's blocks."""
    if asked.grm_groups:
        return smile.parse_grm_groups(asked.grm_groups)
    if asked.w_files:
        return [smile.parse_w_files(asked.w_files)]
    return [smile.read_w_list(asked.w_files_list)]


def smile_weights(genotypes: PackedGenotypes, variants: io.AnalysedVariants, asked: Smile) -> SmileWeights:
    """The blocks that are asked for, of the variants that filters left; InputError names what is wrong."""
    if asked.identity_w:
        return SmileWeights((BlockWeights([variants.num_variants]),), ("smile",), None, ())
    if asked.smile_ld:
        return _from_ld(genotypes, variants, asked)
    files = w_groups(asked)
    names = ("smile",) if len(files) == 1 else tuple(f"smile_{g:03d}" for g in range(len(files)))
    read = [[smile.read_w(path) for path in group] for group in files]
    groups, notes = smile.take_analysed(read, names, variants)
    weights = tuple(BlockWeights([block.matrix for block in group]) for group in groups)
    ranks = None
    if asked.w_normalization == "effective_rank":
        ranks = tuple(map(smile.total_rank, groups))
        counted = sum(block.rank is None for group in groups for block in group)
        if counted:
            notes = (
                *notes,
                f"weight matrices: {counted} ranks counted, of {sum(map(len, groups))}; no sidecar says them",
            )
    stamps = tuple(block.stamp for group in read for block in group if block.stamp is not None)
    return SmileWeights(weights, names, ranks, tuple(notes), stamps)


def _from_ld(genotypes: PackedGenotypes, variants: io.AnalysedVariants, asked: Smile) -> SmileWeights:
    size = asked.smile_block_size or BLOCK_SIZE
    shrinkage = SHRINKAGE if asked.smile_shrinkage is None else asked.smile_shrinkage
    edges = block_edges(genotypes, size, variants.table["chrom"].to_numpy())
    made = ld_block_weights(genotypes, edges, asked.smile_ld, shrinkage=shrinkage)
    note = (
        f"weights from LD ({asked.smile_ld}, shrinkage {shrinkage:g}): {len(made.ranks)} blocks of at most {size} "
        f"variants, {made.weights.num_bytes / 2**20:,.0f} MiB, total rank {sum(made.ranks)}"
    )
    return SmileWeights((made.weights,), ("smile",), (float(sum(made.ranks)),), (note,))


def smile_covariance(products: Products, weights: SmileWeights, normalization: str) -> BlockCovariance:
    """The components of :func:`smile_weights`; products on devices have to be made with their ``cuts``."""
    return make_block_covariance(products, weights.groups, weights.names, normalization, ranks=weights.ranks)
