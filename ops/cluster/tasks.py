"""What runs on a worker: pure functions of what it holds and of what is sent to it.

BLAS has one thread here, since its sums depend on how many there are.  What is bound by BLAS takes several shards at
once instead; kernels use all of numba's threads, and no bit of theirs depends on how many there are.
"""

import hashlib
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np
from scipy import sparse
from threadpoolctl import ThreadpoolController

from .. import blas
from ..backend import integer_kernels, make_products
from ..block_covariance import matrix_diagonals
from ..checksum import checksum
from ..cpu_integers import IntegerProducts
from ..genotypes import CALL_BITS, PackedGenotypes, standardise, with_binomial_sd
from ..ld import ld_sums
from ..relationship import relationship_matrices
from ..weights import BlockWeights
from .shards import Node, summed, summed_nodes

SOURCES = ("ops", "io")  # folders whose text has to be the same where a run begins and where it is computed
COMPARED = ("numpy", "numba", "scipy", "distributed")


class ClusterError(OSError):
    """What is wrong with the workers, in a line."""


class Readable(Protocol):
    """Packed genotypes of some variants of one file: what tells a worker to read them."""

    num_variants: int
    num_bytes: int

    def read(self) -> np.ndarray:
        """The packed genotypes; raises InputError where the file cannot be read, or is not the one."""
        ...


class Source(NamedTuple):
    """A shard: its ``parts``, of so many samples and bits, and whether the SD is the binomial one."""

    parts: tuple[Readable, ...]
    num_samples: int
    bits: int = CALL_BITS
    binomial: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    @property
    def num_variants(self) -> int:
        return sum(part.num_variants for part in self.parts)

    def load(self) -> PackedGenotypes:
        genotypes = standardise([part.read() for part in self.parts], self.num_samples, self.bits)
        return with_binomial_sd(genotypes) if self.binomial else genotypes


class How(NamedTuple):
    """On what, in which type, and whether by integers on the CPU."""

    device: str = "cpu"
    dtype: str = "float32"
    integers: bool = True


@dataclass
class Shards:
    """The shards of a node, read when they are first needed; to another worker goes what says where they are."""

    node: Node
    sources: tuple[Source, ...]
    made_by: dict[str, str]
    _loaded: tuple[PackedGenotypes, ...] = ()
    _products: dict = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __reduce__(self):
        return Shards, (self.node, self.sources, self.made_by)

    def __sizeof__(self) -> int:  # dask asks, to tell what a worker holds and what it costs to move
        return sum(source.num_bytes for source in self.sources)

    @property
    def edges(self) -> np.ndarray:
        """(s + 1,) variants, counted from the node's first, where its shards begin and end."""
        return np.cumsum([0, *(source.num_variants for source in self.sources)])

    def genotypes(self) -> tuple[PackedGenotypes, ...]:
        with self._lock:
            if not self._loaded:
                check_versions(self.made_by)
                self._loaded = tuple(source.load() for source in self.sources)
                self.checksum = digest([checksum(part) for each in self._loaded for part in each.parts])
        return self._loaded

    def products(self, how: How) -> list[Any]:
        """Products with every shard."""
        genotypes = self.genotypes()
        with self._lock:
            if how not in self._products:
                self._products[how] = [shard_products(each, how) for each in genotypes]
        return self._products[how]


def shard_products(genotypes: PackedGenotypes, how: How) -> Any:
    """Products of one shard; ClusterError where this worker has not the arithmetic that the others have."""
    dtype = np.dtype(how.dtype).type
    if how.device != "cpu":
        return make_products(genotypes, how.device, dtype)
    made = make_products(genotypes, "cpu", dtype)
    if isinstance(made, IntegerProducts) == how.integers:
        return made
    if how.integers:
        raise ClusterError(
            f"worker on {platform.node()}: its processor multiplies no bytes (AVX512-VNNI or AMX), as those that the "
            "run began with do, and sums of another arithmetic would differ; leave it out, or begin with it"
        )
    from ..cpu import CpuProducts

    return CpuProducts(genotypes, dtype)


def have_integer_kernels() -> bool:
    """Whether this worker multiplies in integers."""
    return integer_kernels(CALL_BITS, np.float32) is not None


def digest(numbers: Sequence[int]) -> str:
    return hashlib.sha256(repr(list(numbers)).encode()).hexdigest()[:16]


@cache
def versions() -> dict[str, str]:
    """What has to be the same on all machines."""

    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    texts, root = hashlib.sha256(), Path(__file__).resolve().parents[2]
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            texts.update(path.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    own = f"{of('gpu-reml')} ({texts.hexdigest()[:8]})"
    return {"gpu-reml": own, "python": python, **{name: of(name) for name in COMPARED}}


def check_versions(expected: dict[str, str]) -> None:
    """ClusterError that names what differs."""
    found = versions()
    unlike = [f"{name} {found[name]} and not {expected[name]}" for name in expected if found[name] != expected[name]]
    if unlike:
        raise ClusterError(
            f"worker on {platform.node()} has {', '.join(unlike)}, which the run began with; install the same versions"
        )


@cache
def one_blas_thread() -> None:
    """For the rest of this process."""
    ThreadpoolController().limit(limits=1, user_api="blas")
    blas._libraries.cache_clear()


# reading


def hold(node: Node, sources: tuple[Source, ...], made_by: dict[str, str]) -> Shards:
    """Read a node's shards."""
    held = Shards(node, sources, made_by)
    held.genotypes()
    return held


class NodeMoments(NamedTuple):
    """Of a node's variants, and what tells its genotypes from others."""

    mean: np.ndarray
    inv_sd: np.ndarray
    num_called: np.ndarray
    variance: np.ndarray
    checksum: str


def moments(held: Shards) -> NodeMoments:
    """What standardises a node's variants."""
    found = held.genotypes()
    names = ("mean", "inv_sd", "num_called", "variance")
    columns = [np.concatenate([np.broadcast_to(getattr(g, n), g.mean.shape) for g in found]) for n in names]
    return NodeMoments(*columns, held.checksum)


def as_is(value: Any) -> Any:
    """What was sent, so that it is a task's result."""
    return value


def ld_of(source: Source, ends: np.ndarray, adjusted: bool) -> np.ndarray:
    """What pairs of a shard's variants, the first ``len(ends)`` of the source's, add to the LD scores of the
    source's."""
    one_blas_thread()
    return ld_sums(source.load(), ends, adjusted)


# products


class Computing(NamedTuple):
    """How to compute on what is held, and the checksum that it had when the run began."""

    how: How
    checksum: str


def summed_over(held: Shards, work: Computing, of_shard: Callable[[Any, slice], np.ndarray]) -> np.ndarray:
    """The sum over a node's shards of ``of_shard(products, its rows among the node's)``, in the order of the tree."""
    return summed(over(held, work, of_shard), held.node)


def together(function: Callable, node: Node, below: list[Node], each: list[list[Any]]) -> np.ndarray:
    """The sum of ``function(*arguments)`` over nodes, all on one worker, that cover another."""
    parts = {own: function(*arguments) for own, arguments in zip(below, each, strict=True)}
    return summed_nodes(parts, node)


def over(held: Shards, work: Computing, of_shard: Callable[[Any, slice], np.ndarray]) -> Iterator[np.ndarray]:
    """``of_shard`` of every shard in order; several at once where BLAS, with its one thread here, has most to do."""
    one_blas_thread()
    products = held.products(work.how)
    if held.checksum != work.checksum:
        raise ClusterError(
            f"genotypes of variants of shards {held.node.first} to {held.node.last - 1}, read on {platform.node()}, "
            "are not those that the run began with: a file was changed, or is another one there; run again"
        )
    rows = [slice(int(first), int(last)) for first, last in pairwise(held.edges)]
    if isinstance(products[0], IntegerProducts) or work.how.device != "cpu":
        yield from map(of_shard, products, rows)
        return
    threads = numba.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(products), threads):  # no more results wait than are made at once
            some = slice(first, first + threads)
            yield from list(pool.map(of_shard, products[some], rows[some]))


def zt(held: Shards, work: Computing, B: np.ndarray) -> np.ndarray:
    """Z'B of a node's variants."""
    return np.concatenate(list(over(held, work, lambda P, _: np.asarray(P.zt(P.block(B))))))


def z(held: Shards, work: Computing, U: np.ndarray, weights: Any, theta: np.ndarray | None) -> np.ndarray:
    """Z diag(w) U, (m, k) -> (n, k)."""
    w = mixed(weights, theta)
    return summed_over(held, work, lambda P, rows: np.asarray(P.z(U[rows], None if w is None else w[rows])))


def weighted(held: Shards, work: Computing, B: np.ndarray, weights: Any, theta: np.ndarray | None) -> np.ndarray:
    """Z diag(w) Z'B."""
    w = mixed(weights, theta)
    return summed_over(held, work, lambda P, rows: np.asarray(P.weighted(P.block(B), w[rows])))


def mixed(weights: Any, theta: np.ndarray | None) -> Any:
    """Weights (m,) of variants: as they are, or those of components (m, G) times theta (G,)."""
    return weights if theta is None else weights @ theta


def grouped(held: Shards, work: Computing, U: np.ndarray, weights: sparse.csr_array) -> np.ndarray:
    """(G, n, k)."""
    return summed_over(
        held, work, lambda P, rows: np.stack([np.asarray(each) for each in P.grouped(U[rows], weights[rows])])
    )


class Mask(NamedTuple):
    """Groups of variants that columns leave out: ``w`` (m,) weights and ``labels`` (m,) groups of a node's variants, -1
    for none."""

    w: np.ndarray
    labels: np.ndarray


def left_out(
    held: Shards, work: Computing, B: np.ndarray, mask: Mask, groups: np.ndarray, totals: np.ndarray
) -> np.ndarray:
    """[Z W_1 Z'b_1, ..]: W_i is diag(w) / totals_i with zeros on the variants of ``groups[i]``."""

    def of_shard(P, rows):
        F = np.array(P.zt(P.block(B)))
        F *= mask.w[rows, None].astype(F.dtype)
        F /= totals.astype(F.dtype)
        F[mask.labels[rows, None] == groups] = 0
        return np.asarray(P.z(F))

    return summed_over(held, work, of_shard)


def inner(held: Shards, work: Computing, FA: np.ndarray, FB: np.ndarray, weights: sparse.csr_array) -> np.ndarray:
    """(G, k)."""
    return summed_over(held, work, lambda P, rows: P.inner(FA[rows], FB[rows], weights[rows]))


def grams(
    held: Shards, work: Computing, pieces: list[np.ndarray], F: np.ndarray, weights: sparse.csr_array
) -> np.ndarray:
    """(G, d + k, k)."""
    return summed_over(held, work, lambda P, rows: P.grams([each[rows] for each in pieces], F[rows], weights[rows]))


def gram(held: Shards, work: Computing, FA: np.ndarray, FB: np.ndarray | None, weights: sparse.csr_array) -> np.ndarray:
    """(G, a, b)."""
    return summed_over(held, work, lambda P, rows: P.gram(FA[rows], None if FB is None else FB[rows], weights[rows]))


def core(held: Shards, work: Computing, B: np.ndarray, weights: sparse.csr_array) -> np.ndarray:
    """(G, k, k)."""
    return summed_over(held, work, lambda P, rows: P.core(P.block(B), weights[rows]))


def squares(held: Shards, work: Computing, weights: sparse.csr_array) -> np.ndarray:
    """(n, G)."""
    return summed_over(held, work, lambda P, rows: P.squared_norms_by_sample(weights[rows]))


def matrix(held: Shards, work: Computing, w: sparse.csr_array) -> np.ndarray:
    """(n, n) the upper triangle of Z diag(w) Z', for weights (m, 1) of a node's variants."""

    def of_shard(P, rows):
        own = w[rows]
        if not own.nnz:
            return np.zeros((P.num_samples, P.num_samples))
        return next(relationship_matrices(P, own))

    return summed_over(held, work, of_shard)


# blocks of weights


def take_blocks(weights: BlockWeights, start: int, stop: int) -> tuple[BlockWeights, np.ndarray]:
    """Blocks of variants start:stop alone, which cut none but an identity, and which of all they are."""
    matrices, which = [], []
    for i, (W, first, last) in enumerate(
        zip(weights.matrices, weights.starts[:-1].tolist(), weights.starts[1:].tolist(), strict=True)
    ):
        a, b = max(first, start), min(last, stop)
        if a < b:
            matrices.append(b - a if isinstance(W, int) else W)
            which.append(i)
    return BlockWeights(matrices, weights.factors[which]), np.array(which)


def blocks_by_shard(held: Shards, blocks: BlockWeights, factors: np.ndarray) -> dict[int, BlockWeights]:
    """The blocks of every shard with these factors, by its first variant among the node's."""
    whole = blocks.scaled(factors)
    return {int(a): take_blocks(whole, int(a), int(b))[0] for a, b in pairwise(held.edges)}


def within(groups: Sequence[slice], rows: slice) -> list[slice]:
    """Groups of variants as far as they are among ``rows``, counted from the first of these."""
    ends = [(max(g.start, rows.start) - rows.start, min(g.stop, rows.stop) - rows.start) for g in groups]
    return [slice(a, b) if a < b else slice(0, 0) for a, b in ends]


def block_weighted(
    held: Shards, work: Computing, B: np.ndarray, blocks: BlockWeights, factors: np.ndarray
) -> np.ndarray:
    """Z W Z'B."""
    own = blocks_by_shard(held, blocks, factors)
    return summed_over(held, work, lambda P, rows: np.asarray(P.weighted(P.block(B), own[rows.start])))


def multiply_blocks(F: np.ndarray, blocks: BlockWeights, factors: np.ndarray) -> np.ndarray:
    """W F of a node's features."""
    one_blas_thread()
    return blocks.scaled(factors).multiply(F)


def block_core(
    held: Shards, work: Computing, B: np.ndarray, blocks: BlockWeights, factors: np.ndarray, groups: list[slice]
) -> np.ndarray:
    """(G, k, k) B'Z_g W_g Z_g'B, for groups of the node's variants."""
    own = blocks_by_shard(held, blocks, factors)
    return summed_over(held, work, lambda P, rows: P.block_core(P.block(B), own[rows.start], within(groups, rows)))


def block_diagonals(
    held: Shards, work: Computing, blocks: BlockWeights, factors: np.ndarray, groups: list[slice]
) -> np.ndarray:
    """(n, G) diag(Z W_g Z')."""
    own = blocks_by_shard(held, blocks, factors)
    return summed_over(held, work, lambda P, rows: matrix_diagonals(P, own[rows.start], within(groups, rows)))


# features


def combination(pieces: list[np.ndarray], matrices: list[np.ndarray], edges: np.ndarray) -> np.ndarray:
    """F_1 C_1 + F_2 C_2 + .. of a node's features, a shard at a time: bits of BLAS depend on how many rows it is
    given."""
    one_blas_thread()
    matrices = [C.astype(pieces[0].dtype, copy=False) for C in matrices]
    out = np.empty((len(pieces[0]), matrices[0].shape[1]), pieces[0].dtype)

    def of_shard(ends: tuple[int, int]) -> None:
        rows = slice(*ends)
        np.matmul(pieces[0][rows], matrices[0], out=out[rows])
        for F, C in zip(pieces[1:], matrices[1:], strict=True):
            out[rows] += F[rows] @ C

    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        list(pool.map(of_shard, pairwise(edges.tolist())))
    return out


def take(F: np.ndarray, columns: Any) -> np.ndarray:
    return np.ascontiguousarray(F[..., columns])


def side_by_side(*blocks: np.ndarray) -> np.ndarray:
    return np.concatenate(blocks, axis=1)


def combine(node: Node, below: list[Node], parts: list[np.ndarray]) -> np.ndarray:
    """What a node sums, from those below it."""
    return summed_nodes(dict(zip(below, parts, strict=True)), node)
