"""Block-diagonal weights without a file: from the LD of the analysed genotypes, or from sets of variants."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from .block_covariance import decoded
from .chromosomes import linkage_groups
from .cpu import CpuProducts
from .genotypes import PackedGenotypes
from .weights import BlockWeights

Kind = Literal["inverse", "correlation"]
KINDS = ("inverse", "correlation")


class LdBlocks(NamedTuple):
    """Block weights and every block's rank: the directions of LD that it kept."""

    weights: BlockWeights
    ranks: tuple[int, ...]


def block_edges(genotypes: PackedGenotypes, block_size: int, chromosomes: np.ndarray | None = None) -> np.ndarray:
    """First variants of blocks of at most ``block_size`` variants, and m: none across chromosomes or genotype files.

    A stretch is cut into as few blocks as can be, of equal sizes but for one variant.  chromosomes (m,): of every
    variant, however spelt; those of one chromosome that are apart are two stretches.
    """
    m = genotypes.num_variants
    if block_size < 1:
        raise ValueError(f"block_size: expected at least 1, found {block_size}")
    ends = np.cumsum([len(part) for part in genotypes.parts])
    if chromosomes is not None:
        chromosomes = linkage_groups(chromosomes)
        if chromosomes.shape != (m,):
            raise ValueError(f"chromosomes: expected one for each of {m} variants, found {chromosomes.shape}")
        ends = np.append(ends, np.flatnonzero(chromosomes[1:] != chromosomes[:-1]) + 1)
    edges = [0]
    for start, stop in pairwise(np.unique(np.append(ends, 0)).tolist()):
        count = -(-(stop - start) // block_size)
        edges += [start + (stop - start) * i // count for i in range(1, count + 1)]
    return np.array(edges, np.int64)


def ld_block_weights(
    genotypes: PackedGenotypes,
    edges: np.ndarray,
    kind: Kind = "inverse",
    *,
    shrinkage: float = 0.1,
    bandwidth: int | None = None,
    least: float = 1e-3,
) -> LdBlocks:
    """W_b from the correlations R of a block's variants in the analysed sample, S = (1 - shrinkage) R + shrinkage I.

    With effects b ~ N(0, theta W / c) per standardised genotype:
    "inverse", W = S^-1: every direction of LD contributes alike, so a region counts by its independent signals and not
    by its variants.  Neighbours in positive LD have effects of opposite sign.  S^-1 leaves out directions with an
    eigenvalue of at most ``least`` (S has mean eigenvalue 1, and none below ``shrinkage``, so this happens where that
    is near 0); the rank counts those that are kept.
    "correlation", W = S: effects are as correlated as the genotypes, which gives directions of much LD the square of
    their weight: haplotypes act, and variants tag them.
    W = I is the GRM: effects are independent whatever the LD.
    shrinkage 1 is W = I too.  bandwidth: R_jk is multiplied by max(0, 1 - |j - k| / (bandwidth + 1)), which keeps S
    positive semi-definite.  Variants that do not vary have weight 0.

    edges: first variants of blocks, and m (:func:`block_edges`).  In-sample correlations are noisy where n is not much
    more than the block: shrink more there.
    Cost: half a pass and sum_b (2 b^2 n + b^3) flop on the CPU; memory: W, 4 sum_b b^2 bytes.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected {' or '.join(KINDS)}, found {kind!r}")
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage: expected 0 to 1, found {shrinkage}")
    if not 0 < least < 1:
        raise ValueError(f"least: expected a number between 0 and 1, found {least}")
    if bandwidth is not None and bandwidth < 0:
        raise ValueError(f"bandwidth: expected 0 or more, found {bandwidth}")
    matrices, ranks = [], []
    for R, varies in ld_blocks(genotypes, edges):
        if bandwidth is not None:
            apart = np.abs(np.subtract.outer(np.arange(len(R)), np.arange(len(R))))
            R *= np.maximum(0.0, 1 - apart / (bandwidth + 1))
        S = (1 - shrinkage) * R
        S[np.diag_indices_from(S)] += shrinkage
        values, vectors = np.linalg.eigh(S[np.ix_(varies, varies)])
        keep = values > least
        if kind == "inverse":
            W = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
        else:
            W = S[np.ix_(varies, varies)]
        whole = np.zeros_like(S)
        whole[np.ix_(varies, varies)] = (W + W.T) / 2
        matrices.append(whole.astype(np.float32))
        ranks.append(int(keep.sum()))
    return LdBlocks(BlockWeights(matrices), tuple(ranks))


def ld_blocks(genotypes: PackedGenotypes, edges: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(R (b, b) float64, varies (b,)) of every block: correlations of standardised genotypes, missing calls at 0.

    Rows and columns of variants that do not vary are 0.  float32 products: r errs by about 1e-6.
    """
    edges = np.asarray(edges, np.int64)
    if edges[0] != 0 or edges[-1] != genotypes.num_variants or (np.diff(edges) < 1).any():
        raise ValueError(
            f"edges: expected ascending variants from 0 to {genotypes.num_variants}, found {edges[0]} to {edges[-1]}"
        )
    products = CpuProducts(genotypes)
    for start, stop in pairwise(edges.tolist()):
        R = np.zeros((stop - start, stop - start))
        for _, T in decoded(products, start, stop):
            R += T @ T.T
        lengths = np.sqrt(np.diag(R))
        varies = genotypes.inv_sd[start:stop] > 0
        R[np.ix_(varies, varies)] /= np.outer(lengths[varies], lengths[varies])
        yield (R + R.T) / 2, varies


def set_block_weights(labels: np.ndarray, edges: np.ndarray, correlation: float) -> BlockWeights:
    """W_jk = 1 for j = k, ``correlation`` for variants of a block in the same set, else 0.

    labels (m,): the set of every variant, such as its gene or annotation; -1 for none.  edges: first variants of
    blocks, and m.  Positive semi-definite for correlations from 0 to 1.
    """
    labels, edges = np.asarray(labels), np.asarray(edges, np.int64)
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation: expected 0 to 1, found {correlation}")
    if labels.ndim != 1 or edges[0] != 0 or edges[-1] != len(labels):
        raise ValueError(f"labels: expected one for each of {edges[-1]} variants, found {labels.shape}")
    matrices = []
    for start, stop in pairwise(edges.tolist()):
        here = labels[start:stop]
        W = correlation * ((here[:, None] == here) & (here[:, None] >= 0))
        np.fill_diagonal(W, 1.0)
        matrices.append(W)
    return BlockWeights(matrices)
