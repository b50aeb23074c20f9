"""Covariance components whose weights are dense blocks of consecutive variants: K_g = Z W_g Z' / c_g (SMILE)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import sparse

from .covariance import OnGenotypes, Products
from .cpu import HELD_BYTES, CpuProducts, decode_items
from .genotypes import blocks_between, items_per_row
from .weights import BlockWeights, numerical_rank, overlapping

Normalisation = Literal["kernel_trace", "effective_rank"]
NORMALISATIONS = ("kernel_trace", "effective_rank")


@dataclass(frozen=True, eq=False)
class BlockCovariance(OnGenotypes):
    """G components over one standardised genotype matrix Z (n, m); build it with :func:`make_block_covariance`.

    ``weights``: the blocks of all groups in the order of the variants, with factor 0 on variants in no group;
    ``groups``: (G,) slices of variants; ``scales``: (G,) c_g; ``matrix_diagonals``: (n, G) diag(Z W_g Z'), not divided.
    A *pass* is one read of the packed genotypes for both directions of a product; its cost does not depend on G.
    """

    products: Products = field()  # without the default that any covariance has
    weights: BlockWeights = field()
    groups: tuple[slice, ...]
    names: tuple[str, ...]
    scales: np.ndarray
    matrix_diagonals: np.ndarray
    num_variants: tuple[int, ...]

    overlap = 1.0  # a variant is in one group

    def only(self, g: int) -> "BlockCovariance":
        """Component g alone, on the same products and scale."""
        own = np.where(self._group_of_block == g, self.weights.factors, 0.0)
        return replace(
            self,
            weights=self.weights.scaled(own),
            groups=(self.groups[g],),
            names=(self.names[g],),
            scales=self.scales[[g]],
            matrix_diagonals=self.matrix_diagonals[:, [g]],
            num_variants=(self.num_variants[g],),
        )

    @property
    def identity(self) -> tuple[np.ndarray, ...]:
        """Arrays that tell these components from others of the same genotypes: W itself shows in the diagonals."""
        return self.weights.starts, self.weights.factors, self.scales, self.matrix_diagonals

    @property
    def traces(self) -> np.ndarray:
        """(G,) tr(K_g), exact."""
        return self.matrix_diagonals.sum(axis=0) / self.scales

    def diagonals(self) -> np.ndarray:
        """(n, G) the diagonal of every K_g; no pass, they were needed for the traces."""
        return self.matrix_diagonals / self.scales

    @cached_property
    def _group_of_block(self) -> np.ndarray:
        """(blocks,) the group of every block, -1 for those that are left out."""
        found = np.full(len(self.weights.matrices), -1)
        for g, group in enumerate(self.groups):
            found[(self.weights.starts[:-1] >= group.start) & (self.weights.starts[:-1] < group.stop)] = g
        return found

    @cached_property
    def _memberships(self) -> sparse.csr_array:
        """(m, G) 1 / c_g where a variant is in group g."""
        rows = np.concatenate([np.arange(group.start, group.stop) for group in self.groups])
        columns = np.repeat(np.arange(len(self.groups)), [group.stop - group.start for group in self.groups])
        shape = (self.products.num_variants, len(self.groups))
        return sparse.csr_array((1 / self.scales[columns], (rows, columns)), shape=shape)

    def apply(self, theta: np.ndarray, B):
        """sum_g theta_g K_g B, (n, k) -> (n, k), in one pass; blocks whose theta is 0 are not read."""
        factors = np.append(np.asarray(theta, np.float64) / self.scales, 0.0)[self._group_of_block]
        return self.products.weighted(B, self.weights.scaled(self.weights.factors * factors))

    def inner(self, FA, FB) -> np.ndarray:
        """(G, k) a_k' K_g b_k, column by column, from features of A and B; no pass."""
        return self.products.inner(FA, self.products.multiply_blocks(FB, self.weights), self._memberships)

    def gram(self, FA, FB=None) -> np.ndarray:
        """(G, a, b) A' K_g B from features of A and B (None: A); no pass."""
        WF = self.products.multiply_blocks(FA if FB is None else FB, self.weights)
        total = self.products.gram(FA, WF, self._memberships)
        return (total + total.transpose(0, 2, 1)) / 2 if FB is None else total

    def core(self, B) -> np.ndarray:
        """(G, k, k) B' K_g B, with the features of some blocks at a time; half a pass."""
        return self.products.block_core(B, self.weights, self.groups) / self.scales[:, None, None]

    def apply_each(self, F):
        """(G, n, k) K_g B for every g from features of B; half a pass with k columns."""
        return self.products.grouped(self.products.multiply_blocks(F, self.weights), self._memberships)

    def apply_features(self, theta: np.ndarray, F):
        """sum_g theta_g K_g B (n, k) from features of B; half a pass."""
        w = self._memberships @ np.asarray(theta, np.float64)
        return self.products.z(self.products.multiply_blocks(F, self.weights), w)

    def variant_effects(self, theta: np.ndarray, F) -> np.ndarray:
        """(m, G) float64 theta_g W_g Z'Py / c_g: effects per standardised genotype, from features F (m, 1) of P y."""
        WF = self.weights.multiply(np.asarray(F, np.float64))
        return self._memberships.multiply(WF).toarray() * np.asarray(theta, np.float64)


def make_block_covariance(
    products: Products,
    groups: Sequence[BlockWeights | Sequence[np.ndarray | int]],
    names: Sequence[str] | None = None,
    normalise: Normalisation = "kernel_trace",
    ranks: Sequence[float | None] | None = None,
    first: Sequence[int] | None = None,
) -> BlockCovariance:
    """Components K_g = sum_b Z_b W_b Z_b' / c_g from the blocks of every group: of consecutive variants, in order.

    groups: :class:`BlockWeights`, or lists of matrices and sizes of identities.  first: the first variant of every
    group, by default the end of the one before; variants in no group are left out.  Without it the groups have to
    cover all variants.

    normalise: "kernel_trace" makes tr(K_g) = n; "effective_rank" divides by the sum of the blocks' ranks: ``ranks``
    (G,) where they are known, else (None) eigenvalues are counted (:func:`~gpu_reml.ops.weights.numerical_rank`), and
    an identity counts its size, as SMILE does.  Variants that do not vary have z = 0 and drop out of every product;
    an effective rank counts them.

    Devices: make the products with ``cuts=weights.cuts``, and no dense block across two genotype files.
    Cost: 2 sum_b b^2 n flop on the CPU, as a product with b / 2 columns, for the exact diagonals and traces; one block
    of decoded genotypes at a time, at most 64 MiB.  Ranks that are not known: b^3 a block.
    Raises ValueError that names the component: sizes that do not fit, no variant that varies, a trace or rank that is
    not positive.
    """
    names = tuple(names) if names is not None else tuple(f"component_{g:03d}" for g in range(len(groups)))
    if len(names) != len(groups) or len(set(names)) != len(names) or not names:
        raise ValueError(f"names: expected {len(groups)} different names, one a group, found {', '.join(names)}")
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise: expected {' or '.join(NORMALISATIONS)}, found {normalise!r}")
    if ranks is not None and len(ranks) != len(groups):
        raise ValueError(f"ranks: expected {len(groups)}, one a group, found {len(ranks)}")
    parts = [group if isinstance(group, BlockWeights) else BlockWeights(group) for group in groups]
    where = _places(parts, names, first, products.num_variants)
    weights = _with_gaps(parts, where, products.num_variants)
    varies = products.genotypes.inv_sd > 0
    counts = tuple(int(varies[rows].sum()) for rows in where)
    for name, count in zip(names, counts, strict=True):
        if count == 0:
            raise ValueError(
                f"component {name}: none of its variants varies among the {products.num_samples} analysed samples; "
                "remove it or give it polymorphic variants"
            )
    diagonals_of = getattr(products, "block_diagonals", None)
    diagonals = matrix_diagonals(products, weights, where) if diagonals_of is None else diagonals_of(weights, where)
    traces = diagonals.sum(axis=0)
    for name, trace in zip(names, traces, strict=True):
        if not trace > 0:
            raise ValueError(
                f"component {name}: tr(Z W Z') is {trace:g}, not positive; its blocks of W are zero on the variants "
                "that vary, or not positive semi-definite"
            )
    if normalise == "kernel_trace":
        scales = traces / products.num_samples
    else:
        scales = _total_ranks(groups, names, ranks)
    return BlockCovariance(products, weights, where, names, scales, diagonals, counts)


def _places(parts, names, first: Sequence[int] | None, num_variants: int) -> tuple[slice, ...]:
    """The variants of every group."""
    sizes = [part.num_variants for part in parts]
    if first is None and sum(sizes) != num_variants:
        raise ValueError(
            f"groups: expected blocks of {num_variants} variants in all, found {sum(sizes)}; give first=[...] where "
            "variants are to be left out"
        )
    starts = np.cumsum([0, *sizes[:-1]]) if first is None else np.asarray(first, np.int64)
    if starts.shape != (len(parts),):
        raise ValueError(f"first: expected {len(parts)} variants, one a group, found {starts.shape}")
    where = tuple(slice(int(start), int(start) + size) for start, size in zip(starts, sizes, strict=True))
    order = np.argsort(starts, kind="stable")
    reached = 0
    for g in order:
        if where[g].start < reached or where[g].stop > num_variants:
            raise ValueError(
                f"component {names[g]}: its variants {where[g].start}:{where[g].stop} overlap another group's or "
                f"exceed the {num_variants} variants"
            )
        reached = where[g].stop
    return where


def _with_gaps(parts: Sequence[BlockWeights], where: Sequence[slice], num_variants: int) -> BlockWeights:
    """All groups in the order of the variants, with factor 0 on variants in none."""
    joined, reached = [], 0
    for g in np.argsort([rows.start for rows in where], kind="stable"):
        if where[g].start > reached:
            joined.append(BlockWeights([where[g].start - reached], np.zeros(1)))
        joined.append(parts[g])
        reached = where[g].stop
    if reached < num_variants:
        joined.append(BlockWeights([num_variants - reached], np.zeros(1)))
    return BlockWeights.joined(joined)


def _total_ranks(groups, names, ranks) -> np.ndarray:
    """(G,) sums of the blocks' ranks, given or counted."""
    given = [None] * len(groups) if ranks is None else list(ranks)
    total = np.array(
        [effective_rank(group) if rank is None else rank for group, rank in zip(groups, given, strict=True)], np.float64
    )
    for name, rank, group in zip(names, total, groups, strict=True):
        size = sum(block_size(W) for W in blocks_of(group))
        if not 0 < rank <= size:
            raise ValueError(
                f"component {name}: expected an effective rank above 0 and at most {size}, found {rank:g}; "
                "use kernel_trace where W is zero"
            )
    return total


def blocks_of(group: BlockWeights | Sequence[np.ndarray | int]) -> Sequence[np.ndarray | int]:
    """The matrices, or sizes of identities, of a group."""
    return group.matrices if isinstance(group, BlockWeights) else group


def block_size(W: np.ndarray | int) -> int:
    return len(W) if np.ndim(W) else int(W)


def effective_rank(group: BlockWeights | Sequence[np.ndarray | int]) -> int:
    """Sum over the blocks of a group of their numerical ranks; an identity has its size.  Cost: b^3 a block."""
    return sum(numerical_rank(W) if np.ndim(W) else int(W) for W in blocks_of(group))


def matrix_diagonals(products: Products, weights: BlockWeights, groups: Sequence[slice]) -> np.ndarray:
    """(n, G) float64 diag(Z W_g Z') = sum_b diag(Z_b W_b Z_b'), exact; on the CPU, half a pass and sum_b 2 b^2 n flop.

    Tiles are of the products' type, sums over samples and blocks are float64.  A group is a slice of variants, made of
    whole blocks.
    """
    tiles = products if isinstance(products, CpuProducts) else CpuProducts(products.genotypes)
    out = np.zeros((products.num_samples, len(groups)))
    for W, factor, start, stop in zip(
        weights.matrices, weights.factors, weights.starts[:-1].tolist(), weights.starts[1:].tolist(), strict=True
    ):
        g = next((g for g, _ in overlapping(groups, start, start + 1)), None)
        if g is None or factor == 0:
            continue
        step = tiles.block_width if isinstance(W, int) else stop - start
        for first in range(start, stop, step):
            for samples, T in decoded(tiles, first, min(first + step, stop)):
                squares = T * T if isinstance(W, int) else np.multiply(W.astype(T.dtype, copy=False) @ T, T)
                out[samples, g] += factor * squares.sum(axis=0, dtype=np.float64)
    return out


def decoded(products: CpuProducts, start: int, stop: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(samples, T (stop - start, samples)) of variants start:stop of Z', by chunks of samples of at most 64 MiB.

    T is valid until the next is asked for.
    """
    genotypes, table = products.genotypes, products.table
    items, per_item = items_per_row(genotypes.num_samples, genotypes.bits), genotypes.samples_per_item
    chunk = HELD_BYTES // ((stop - start) * per_item * np.dtype(products.dtype).itemsize)
    chunk = max(1, min(items, chunk))
    buffer = np.empty((stop - start, per_item * chunk), products.dtype)
    for item in range(0, items, chunk):
        end = min(item + chunk, items)
        samples = slice(per_item * item, min(per_item * end, genotypes.num_samples))
        tile = buffer[:, : per_item * (end - item)]
        for block in blocks_between(genotypes, start, stop, stop - start):
            rows = slice(block.start - start, block.stop - start)
            decode_items(block.packed[:, item:end], table[block.rows], tile[rows], genotypes.bits)
        yield samples, tile[:, : samples.stop - samples.start]
