"""Products with block-diagonal weights between the halves: the part of the device backend that knows their blocks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..weights import BlockWeights, Stretch, overlapping
from .block import DeviceBlock, ShardedBlock, zero_sums
from .interface import Array, WeightedRows

RESIDENT_WEIGHTS = 1 << 31  # bytes of block weights that stay on a device


class BlockProducts:
    """What :class:`~gpu_reml.ops.device.products.DeviceProducts` does with :class:`BlockWeights`.

    Dense blocks are copied to the devices; a block's factor joins the factors of its variants, so a solve that changes
    theta moves m numbers.  Identity blocks take no memory and no product.
    """

    def _block_weighted(self, shard, B: DeviceBlock, weights: BlockWeights, w: np.ndarray, factor: Array):
        """The shard's part; w, factor: every variant's block's factor, which is all that solves change."""
        device, first, k = shard.device, shard.store.first, B.shape[1]
        if not k:
            return DeviceBlock.zeros(device, len(B), k)
        operand, out = device.operand(B.array), zero_sums(device, len(B), k)
        for variants in shard.store.variants(lambda piece: w[piece.start - first : piece.stop - first].any()):
            here = slice(variants.start - first, variants.stop - first)
            dense = any(run.matrices for run in weights.runs(*variants[:2]))
            U = device.pool.array((variants.stop - variants.start, k), np.float32 if dense else device.accumulator)
            device.zt(variants, operand, U)
            WU = self._multiplied(shard, weights, variants.rows, U)
            device.z(variants, WU, WeightedRows(None, factor[here]), out)
            del U, WU
        return DeviceBlock(device, device.rounded(out))

    def _multiplied(self, shard, weights: BlockWeights, rows: slice, U: Array) -> Array:
        """W U for the blocks of some variants, without their factors; U itself where all are identities."""
        runs = list(weights.runs(rows.start, rows.stop))
        if not any(run.matrices for run in runs):
            return U
        out = shard.device.pool.array(U.shape, np.float32)
        ones = np.ones(U.shape[1], np.float32)
        for run in runs:
            here = slice(run.start - rows.start, run.stop - rows.start)
            if run.matrices:
                shard.device.multiply_blocks(self._matrices(shard, weights, run), U[here], out[here])
            else:
                shard.device.combine(U[here], ones, None, None, out[here])
        return out

    def _matrices(self, shard, weights: BlockWeights, run: Stretch) -> Any:
        """Dense blocks on the device; those of the last weights stay, whatever their factors, if they are few."""
        placed = self._placed["matrices"][1]
        if (held := placed.get(run.start)) is not None:
            return held
        held = shard.device.place_blocks(run.held)
        if weights.num_bytes <= RESIDENT_WEIGHTS:
            placed[run.start] = held
        return held

    def _keep_matrices_of(self, weights: BlockWeights) -> None:
        """Let go of other weights' blocks."""
        if weights.num_variants != self.num_variants:
            raise ValueError(
                f"weights: expected blocks of {self.num_variants} variants in all, found {weights.num_variants}"
            )
        known, _ = self._placed.get("matrices", (None, None))
        if known is not weights.matrices:
            self._placed["matrices"] = weights.matrices, {}

    def multiply_blocks(self, F, weights: BlockWeights) -> ShardedBlock:
        """W F, (m, k) -> (m, k), of features F; no pass."""
        require_rows("F", F, self.num_variants)
        self._keep_matrices_of(weights)
        by_variant = weights.factors_by_variant

        def product(shard, F_there: DeviceBlock) -> DeviceBlock:
            out = F_there.copy()
            for piece in shard.store.pieces if F_there.shape[1] else ():
                for run in weights.runs(piece.start, piece.stop):
                    if run.matrices:
                        rows = slice(run.start - shard.store.first, run.stop - shard.store.first)
                        held = self._matrices(shard, weights, run)
                        shard.device.multiply_blocks(held, F_there.array[rows], out.array[rows])
            if (by_variant[shard.rows] == 1).all():
                return out
            return out.scale_rows(DeviceBlock.upload(shard.device, by_variant[shard.rows].reshape(-1, 1)))

        return ShardedBlock(self._each_with(self.features(F).parts, product))

    def block_core(self, B, weights: BlockWeights, groups: Sequence[slice]) -> np.ndarray:
        """(G, k, k) float64 B' Z_g W_g Z_g' B for groups of consecutive variants, made of whole blocks; half a pass.

        With Z' B of one piece at a time.
        """
        require_rows("B", B, self.num_samples)
        self._keep_matrices_of(weights)
        by_variant = weights.factors_by_variant.astype(np.float32)

        def cores(shard, B_there: DeviceBlock) -> np.ndarray:
            device, k = shard.device, B_there.shape[1]
            total = np.zeros((len(groups), k, k))
            operands = self._operands(device, B_there)
            for variants in shard.store.variants():
                F = self._piece_features(device, variants, operands, k)
                WF = DeviceBlock(device, self._multiplied(shard, weights, variants.rows, F.array))
                WF = WF.scale_rows(DeviceBlock.upload(device, by_variant[variants.rows].reshape(-1, 1)))
                for g, rows in overlapping(groups, variants.start, variants.stop):
                    total[g] += device.gram(F.array[rows], WF.array[rows])
                del F, WF
            return total

        total = sum(self._each(cores, B))
        return (total + total.transpose(0, 2, 1)) / 2


def require_rows(name: str, array, rows: int) -> None:
    shape = np.shape(array) if not isinstance(array, DeviceBlock | ShardedBlock) else array.shape
    if len(shape) != 2 or shape[0] != rows:
        raise ValueError(f"{name}: expected ({rows}, k), found {shape}")
