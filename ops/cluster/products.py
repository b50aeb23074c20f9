"""Genotypes on workers, and products with them: the driver has blocks (n, k), the workers features (m, k)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from ..cpu_integers import have_integers
from ..genotypes import PackedGenotypes
from ..loco import LeaveOut
from ..weights import BlockWeights
from . import tasks
from .features import ClusterFeatures
from .session import Cluster, placed
from .shards import Node, groups_of, nodes_of_owners, reduction, shard_edges
from .tasks import Computing, How, Source

FAN = 4  # parts that one task adds
KEPT = 4  # weights of so many different calls stay on the workers


@dataclass
class PlacedNode:
    """Shards that are placed together, and their variants ``rows``: ``held`` is the task that reads them, ``worker``
    where it should be."""

    node: Node
    rows: slice
    held: Any
    worker: str | None
    checksum: str = ""


@dataclass(frozen=True)
class ClusterGenotypes(PackedGenotypes):
    """Genotypes that workers hold; ``parts`` are read from the files where the driver itself asks for some variants."""

    cluster: Cluster = field(kw_only=True)
    groups: tuple[PlacedNode, ...] = field(kw_only=True)
    sources: tuple[Source, ...] = field(kw_only=True)
    cut: "Cut" = field(kw_only=True)

    @property
    def whole(self) -> Node:
        return Node(0, len(self.sources))

    @property
    def edges(self) -> np.ndarray:
        """(s + 1,) variants where shards begin and end."""
        return np.cumsum([0, *(source.num_variants for source in self.sources)])

    def ld_sums(self, ends: np.ndarray, adjusted: bool) -> np.ndarray:
        """:func:`~gpu_reml.ops.ld.ld_sums` of all variants: a task for every shard reads it, and what its windows
        reach into."""
        sums, futures = np.zeros(self.num_variants), []
        for first, last in pairwise(self.edges.tolist()):
            reach = max(last, int(ends[first:last].max()))
            (source,) = self.cut(np.array([first, reach]))
            futures.append((first, reach, self.cluster.submit(tasks.ld_of, source, ends[first:last] - first, adjusted)))
        for first, reach, future in futures:
            sums[first:reach] += self.cluster.fetch([future])[0]
        return sums


Cut = Callable[[np.ndarray], Sequence[Source]]
"""Shards between the given variants."""


def read_shards(cluster: Cluster, cut: Cut, edges: np.ndarray, parts: Sequence[Any]) -> ClusterGenotypes:
    """Have the workers read all shards, each its own; what standardises the variants comes back.

    ``cut(edges)`` gives the shards; parts: the same genotypes, as the driver may ask for some variants of them.
    Raises InputError for files that cannot be read, ClusterError where the workers have too little memory.
    """
    workers, sources = cluster.workers(), tuple(cut(edges))
    nodes = groups_of(len(sources), len(workers))
    of_nodes = [sources[node.first : node.last] for node in nodes]
    where = placed(nodes, np.array([sum(source.num_bytes for source in own) for own in of_nodes]), workers)
    groups = []
    for node, own, worker in zip(nodes, of_nodes, where, strict=True):
        rows = slice(int(edges[node.first]), int(edges[node.last]))
        held = cluster.submit(tasks.hold, node, own, tasks.versions(), worker=worker)
        groups.append(PlacedNode(node, rows, held, worker))
    found = cluster.fetch([cluster.submit(tasks.moments, group.held, worker=group.worker) for group in groups])
    for group, moments in zip(groups, found, strict=True):
        group.checksum = moments.checksum
    mean, inv_sd, num_called, variance = (
        np.concatenate(column) for column in zip(*(m[:4] for m in found), strict=True)
    )
    n, bits = sources[0].num_samples, sources[0].bits
    return ClusterGenotypes(
        tuple(parts),
        n,
        mean,
        inv_sd,
        num_called,
        bits,
        variance,
        cluster=cluster,
        groups=tuple(groups),
        sources=sources,
        cut=cut,
    )


@dataclass(frozen=True)
class Mixture:
    """Weights (m,) of variants: ``weights`` (m, G) of components times ``theta`` (G,), which alone travels anew."""

    weights: sparse.csr_array
    theta: np.ndarray


@dataclass(frozen=True, eq=False)
class ClusterProducts:
    """Products with Z (n, m) of ``genotypes`` on workers; the methods are those of
    :class:`~gpu_reml.ops.cpu.CpuProducts`, with features that stay there.

    A product sends the block to every worker that holds variants and gets the sum of their parts: 2 n k numbers a
    worker, and nothing of m rows.  Bits depend on the shards, not on the workers.
    """

    genotypes: ClusterGenotypes
    how: How
    _kept: list = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        """What the workers compute on."""
        return self.how.device

    @property
    def cluster(self) -> Cluster:
        return self.genotypes.cluster

    @property
    def dtype(self) -> type:
        return np.dtype(self.how.dtype).type

    @property
    def num_samples(self) -> int:
        return self.genotypes.num_samples

    @property
    def num_variants(self) -> int:
        return self.genotypes.num_variants

    @property
    def arithmetic(self) -> str:
        """What multiplies, in words for a log."""
        kind = "products in integers where columns are many" if self.how.integers else f"{self.how.dtype} products"
        return f"{kind}, {len(self.genotypes.sources)} shards of the variants"

    @property
    def home(self) -> tuple[str, np.dtype]:
        """Where blocks live: those of one type need no copy."""
        return "arrays", np.dtype(self.dtype)

    def block(self, array: np.ndarray) -> np.ndarray:
        """An array (n, k) in the working type."""
        return np.asarray(array, self.dtype)

    # products

    def zt(self, B: np.ndarray) -> ClusterFeatures:
        """Z' B, (n, k) -> (m, k), on the workers; half a pass."""
        self._require_rows(B, self.num_samples, "B")
        return self._features(self._on_groups(tasks.zt, self._sent(B)), B.shape[1])

    def z(self, U: Any, w: Any = None) -> np.ndarray:
        """Z U, or Z diag(w) U for weights w (m,) or a :class:`Mixture`, (m, k) -> (n, k); half a pass."""
        U = self.features(U)
        return self._sum(tasks.z, U.parts, *self._weights_of(w))

    def weighted(self, B: np.ndarray, w: Any) -> np.ndarray:
        """Z W Z' B, (n, k) -> (n, k); W is diag(w) for weights w (m,) or a :class:`Mixture`, or a
        :class:`BlockWeights`; one pass."""
        self._require_rows(B, self.num_samples, "B")
        if isinstance(w, BlockWeights):
            return self._sum(tasks.block_weighted, self._sent(B), *self._blocks(w))
        return self._sum(tasks.weighted, self._sent(B), *self._weights_of(w))

    def mixed(self, weights: sparse.csr_array, theta: np.ndarray) -> Mixture:
        """Weights of variants from those of components, without an array of m."""
        return Mixture(weights, np.asarray(theta, np.float64))

    def left_out(self, B: np.ndarray, left: LeaveOut, groups: np.ndarray) -> np.ndarray:
        """[K_{-c(1)} b_1, ..], (n, k) -> (n, k), for the group c(i) of every column; one pass."""
        masks = self._placed(left.labels, lambda rows: tasks.Mask(left.weights[rows], left.labels[rows]))
        groups = np.asarray(groups)
        return self._sum(tasks.left_out, self._sent(B), masks, groups, left.totals[groups])

    def grouped(self, U: Any, weights: sparse.spmatrix) -> np.ndarray:
        """(G, n, k) Z diag(W_g) U for every column g of ``weights`` (m, G); half a pass."""
        return self._sum(tasks.grouped, self.features(U).parts, self._rows_of(weights))

    def inner(self, FA: Any, FB: Any, weights: sparse.spmatrix) -> np.ndarray:
        """(G, k) float64 fa_k' W_g fb_k for every column g of ``weights``, from features (m, k); no pass."""
        FA, FB = self.features(FA), self.features(FB)
        return self._sum(tasks.inner, FA.parts, FB.parts, self._rows_of(weights))

    def gram(self, FA: Any, FB: Any, weights: sparse.spmatrix) -> np.ndarray:
        """(G, a, b) float64 FA' W_g FB for every column g of ``weights``, from features; FB None: FA; no pass."""
        others = None if FB is None else self.features(FB).parts
        return self._sum(tasks.gram, self.features(FA).parts, others, self._rows_of(weights))

    def grams(self, pieces: Sequence[Any], F: Any, weights: sparse.spmatrix) -> np.ndarray:
        """(G, d + k, k) float64 [F_1 .. F_p, F]' W_g F for every column g of ``weights``, from features; no pass."""
        of_pieces = [list(parts) for parts in zip(*(self.features(piece).parts for piece in pieces), strict=True)]
        of_pieces = of_pieces or [[] for _ in self.genotypes.groups]
        return self._sum(tasks.grams, tuple(of_pieces), self.features(F).parts, self._rows_of(weights))

    def core(self, B: np.ndarray, weights: sparse.spmatrix) -> np.ndarray:
        """(G, k, k) float64 B' Z W_g Z' B for every column g of ``weights``; half a pass."""
        self._require_rows(B, self.num_samples, "B")
        return self._sum(tasks.core, self._sent(B), self._rows_of(weights))

    def squared_norms_by_sample(self, weights: sparse.spmatrix) -> np.ndarray:
        """(n, G) float64: sum_j W_jg z_ij^2; half a pass."""
        return self._sum(tasks.squares, self._rows_of(weights))

    def matrices(self, weights: sparse.spmatrix) -> Iterator[np.ndarray]:
        """Z diag(w_g) Z' (n, n) float64 by its upper triangle for every column g of ``weights``; n^2 numbers from every
        worker for each."""
        columns = sparse.csc_array(weights)
        for g in range(columns.shape[1]):
            own = sparse.csr_array(columns[:, [g]])
            yield self._sum(tasks.matrix, tuple(own[group.rows] for group in self.genotypes.groups))

    # blocks of weights

    def multiply_blocks(self, F: Any, weights: BlockWeights) -> ClusterFeatures:
        """W F, (m, k) -> (m, k), of features F; no pass."""
        F = self.features(F)
        matrices, factors = self._blocks(weights)
        each = zip(self.genotypes.groups, F.parts, matrices, factors, strict=True)
        submit = self.cluster.submit
        return self._features([submit(tasks.multiply_blocks, *own, worker=g.worker) for g, *own in each], F.shape[1])

    def block_core(self, B: np.ndarray, weights: BlockWeights, groups: Sequence[slice]) -> np.ndarray:
        """(G, k, k) float64 B' Z_g W_g Z_g' B for groups of consecutive variants, made of whole blocks; half a pass."""
        own = self._slices(groups)
        return self._sum(tasks.block_core, self._sent(B), *self._blocks(weights), own)

    def block_diagonals(self, weights: BlockWeights, groups: Sequence[slice]) -> np.ndarray:
        """(n, G) float64 diag(Z W_g Z') of groups of consecutive variants; half a pass."""
        return self._sum(tasks.block_diagonals, *self._blocks(weights), self._slices(groups))

    def _slices(self, groups: Sequence[slice]) -> tuple[list[slice], ...]:
        return tuple(tasks.within(groups, group.rows) for group in self.genotypes.groups)

    def _blocks(self, weights: BlockWeights) -> tuple[tuple, tuple]:
        """(blocks on the workers, their factors) of every group; matrices travel once."""
        taken = [tasks.take_blocks(weights, group.rows.start, group.rows.stop) for group in self.genotypes.groups]
        by_start = {group.rows.start: own for group, (own, _) in zip(self.genotypes.groups, taken, strict=True)}
        placed = self._placed(weights.matrices, lambda rows: by_start[rows.start])
        return placed, tuple(weights.factors[which] for _, which in taken)

    # what goes out

    def features(self, array: Any) -> ClusterFeatures:
        """Features (m, k) on the workers; those that are there as they are."""
        if isinstance(array, ClusterFeatures):
            return array
        self._require_rows(array, self.num_variants, "U")
        array = np.ascontiguousarray(array, self.dtype)
        parts = [self.cluster.send(array[group.rows], group.worker) for group in self.genotypes.groups]
        return self._features(parts, array.shape[1])

    def _features(self, parts: Sequence[Any], columns: int) -> ClusterFeatures:
        edges = self.genotypes.edges
        of_groups = [edges[g.node.first : g.node.last + 1] - edges[g.node.first] for g in self.genotypes.groups]
        return ClusterFeatures(self.cluster, [(tuple(parts), None)], of_groups, columns, np.dtype(self.dtype))

    def _sent(self, B: np.ndarray) -> Any:
        """A block as a task's result, which workers pass on to each other."""
        return self.cluster.send(np.ascontiguousarray(B, self.dtype))

    def _weights_of(self, w: Any) -> tuple[Any, np.ndarray | None]:
        """(weights on the workers, theta) as tasks take them."""
        if w is None:
            return None, None
        if isinstance(w, Mixture):
            return self._rows_of(w.weights), w.theta
        if np.shape(w) != (self.num_variants,):
            raise ValueError(f"w: expected ({self.num_variants},), found {np.shape(w)}")
        w = np.asarray(w, np.float64)
        return self._placed(w, lambda rows: w[rows]), None

    def _rows_of(self, weights: sparse.spmatrix) -> tuple:
        """Every group's rows of weights (m, G), on its worker."""
        if weights.shape[0] != self.num_variants:
            raise ValueError(f"weights: expected ({self.num_variants}, G), found {weights.shape}")
        return self._placed(weights, lambda rows: sparse.csr_array(weights)[rows])

    def _placed(self, key: Any, of_rows: Any) -> tuple:
        """``of_rows`` of every group's variants, sent when ``key`` is another object than in the last calls."""
        found = next((placed for known, placed in self._kept if known is key), None)
        if found is None:
            found = tuple(self.cluster.send(of_rows(group.rows), group.worker) for group in self.genotypes.groups)
        self._kept[:] = [(key, found), *((known, placed) for known, placed in self._kept if known is not key)][:KEPT]
        return found

    def _require_rows(self, B: Any, rows: int, name: str) -> None:
        if B.ndim != 2 or len(B) != rows:
            raise ValueError(f"{name}: expected ({rows}, k), found {B.shape}")

    # tasks

    def _of_groups(self, arguments: Sequence[Any]) -> Iterator[tuple[PlacedNode, list[Any]]]:
        """Every group with its arguments: held genotypes, how to compute, and of a tuple the group's own entry."""
        if self.cluster.changes():
            self._place_again()
        for i, group in enumerate(self.genotypes.groups):
            own = [each[i] if isinstance(each, tuple) else each for each in arguments]
            yield group, [group.held, Computing(self.how, group.checksum), *own]

    def _on_groups(self, function: Any, *arguments: Any) -> list[Any]:
        """``function`` on every group."""
        return [self.cluster.submit(function, *own, worker=group.worker) for group, own in self._of_groups(arguments)]

    def _sum(self, function: Any, *arguments: Any) -> np.ndarray:
        """The sum of ``function`` over shards in the order of the tree, by a task for each node that a worker has."""
        groups = list(self._of_groups(arguments))
        owners = [group.worker for group, _ in groups for _ in range(len(group.node))]
        parts = []
        for node in nodes_of_owners(owners, self.genotypes.whole):
            within = [(group, own) for group, own in groups if node.first <= group.node.first < node.last]
            nodes, each = [group.node for group, _ in within], [own for _, own in within]
            worker = within[0][0].worker
            parts.append((node, self.cluster.submit(tasks.together, function, node, nodes, each, worker=worker)))
        _, total = reduction(parts, self.genotypes.whole, FAN, self._joined)
        return self.cluster.fetch([total])[0]

    def _joined(self, node: Node, parts: Sequence[tuple[Node, Any]]) -> Any:
        return self.cluster.submit(tasks.combine, node, [each for each, _ in parts], [future for _, future in parts])

    def _place_again(self) -> None:
        """Groups of lost workers where they are now, and some of a worker that has two more than another on that."""
        there = [worker.address for worker in self.cluster.workers()]
        if not there:
            return
        holders = self.cluster.client.who_has([group.held for group in self.genotypes.groups])
        for group in self.genotypes.groups:
            if group.worker not in there:
                found = [address for address in holders.get(group.held.key, ()) if address in there]
                group.worker = found[0] if found else None
        while True:
            loads = {address: [g for g in self.genotypes.groups if g.worker == address] for address in there}
            least, most = (pick(loads, key=lambda address: len(loads[address])) for pick in (min, max))
            homeless = [group for group in self.genotypes.groups if group.worker is None]
            if not homeless and len(loads[most]) - len(loads[least]) < 2:
                return
            group = (homeless or loads[most])[-1]
            own = self.genotypes.sources[group.node.first : group.node.last]
            group.worker = least
            group.held = self.cluster.submit(tasks.hold, group.node, own, tasks.versions(), worker=least)


def make_cluster_products(
    genotypes: ClusterGenotypes, device: str = "cpu", dtype: type = np.float32, cuts: np.ndarray | None = None
) -> ClusterProducts:
    """Products with genotypes on workers, by integers where all workers can.

    cuts: variants at which shards may end (``cuts`` of :class:`BlockWeights`); where they end elsewhere, the genotypes
    are read again in others.
    """
    if cuts is not None and not np.isin(genotypes.edges, cuts).all():
        edges = shard_edges(genotypes.num_variants, len(genotypes.sources), cuts)
        genotypes = read_shards(genotypes.cluster, genotypes.cut, edges, genotypes.parts)
    integers = all(genotypes.cluster.ask(tasks.have_integer_kernels).values())
    chosen = integers and have_integers(genotypes.bits, dtype)
    return ClusterProducts(genotypes, How(device, np.dtype(dtype).name, chosen))
