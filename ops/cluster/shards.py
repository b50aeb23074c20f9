"""Shards of the variants, which the data fix, and the tree in which what they contribute is summed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..genotypes import CHUNK

LEAST_BYTES = 1 << 24  # of packed genotypes in a shard: smaller ones cost more in messages than they share out
MOST_BYTES = 1 << 33  # a larger shard would ask for larger machines than there are many of
FEWEST, USUAL = 4, 64  # shards of genotypes of middling size


def usual_shards(num_variants: int, row_bytes: int) -> int:
    """How many shards genotypes have where nobody says: a number of their size, and of nothing else."""
    whole = num_variants * row_bytes
    wanted = int(np.clip(-(-whole // LEAST_BYTES), FEWEST, USUAL))
    return min(num_variants, max(wanted, -(-whole // MOST_BYTES)))


def shard_edges(num_variants: int, num_shards: int, cuts: np.ndarray | None = None) -> np.ndarray:
    """(s + 1,) variants at which shards begin and end; with ``cuts`` they end only there, so there may be fewer.

    Large shards are whole chunks, which products take at once.
    """
    edges = np.arange(num_shards + 1) * num_variants // num_shards
    if num_variants >= num_shards * CHUNK:
        edges[1:-1] = np.round(edges[1:-1] / CHUNK) * CHUNK
    if cuts is not None:
        edges = cuts[np.searchsorted(cuts, edges)]
    return np.unique(edges).astype(np.int64)


class Node(NamedTuple):
    """A node of the tree: shards ``first:last``.  What it sums is a half and the other half, each summed so."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def halves(self) -> tuple["Node", "Node"]:
        middle = (self.first + self.last + 1) // 2
        return Node(self.first, middle), Node(middle, self.last)


def summed(leaves: Iterator[np.ndarray], node: Node) -> np.ndarray:
    """The sum of a node's leaves, which come in order, in the order of the tree."""
    if len(node) == 1:
        return next(leaves)
    left, right = (summed(leaves, half) for half in node.halves)
    return left + right


def summed_nodes(parts: dict[Node, np.ndarray], node: Node) -> np.ndarray:
    """The sum of a node from those of nodes below it, which cover it."""
    if node in parts:
        return parts[node]
    left, right = (summed_nodes(parts, half) for half in node.halves)
    return left + right


def nodes_of_owners(owners: Sequence[Any], node: Node) -> list[Node]:
    """The largest nodes whose shards all have one owner, in order."""
    if len(set(owners[node.first : node.last])) == 1:
        return [node]
    return [each for half in node.halves for each in nodes_of_owners(owners, half)]


def divided(nodes: list[Node], least: int) -> list[Node]:
    """The same shards in ``least`` nodes or more, as far as there are shards: the largest node is halved, again and
    again."""
    nodes = list(nodes)
    while len(nodes) < least and max(map(len, nodes)) > 1:
        place = max(range(len(nodes)), key=lambda i: len(nodes[i]))
        nodes[place : place + 1] = nodes[place].halves
    return nodes


def groups_of(num_shards: int, num_workers: int, each: int = 2) -> list[Node]:
    """Nodes that cover all shards, about ``each`` for a worker: what is placed, and read, as one."""
    owners = [shard * num_workers // num_shards for shard in range(num_shards)]
    whole = Node(0, num_shards)
    return divided(nodes_of_owners(owners, whole), max(FEWEST, each * num_workers))


Part = tuple[Node, Any]


def reduction(parts: Sequence[Part], whole: Node, fan: int, make: Callable[[Node, Sequence[Part]], Any]) -> Part:
    """The whole from ``parts``, nodes that cover it with what each sums; ``make(node, parts)`` joins some of them, at
    most ``fan`` at a time where the tree lets it."""
    inside = [part for part in parts if whole.first <= part[0].first and part[0].last <= whole.last]
    if len(inside) > fan:
        inside = [reduction(inside, half, fan, make) for half in whole.halves]
    return inside[0] if len(inside) == 1 else (whole, make(whole, inside))
