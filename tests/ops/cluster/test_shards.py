"""Shards follow from the data, and what they sum is the same bits wherever they are."""

import numpy as np
import pytest

from gpu_reml.ops.cluster.session import PROGRAM, Cluster, Worker, placed
from gpu_reml.ops.cluster.shards import (
    FEWEST,
    MOST_BYTES,
    USUAL,
    Node,
    groups_of,
    reduction,
    shard_edges,
    summed,
    summed_nodes,
    usual_shards,
)
from gpu_reml.ops.cluster.tasks import ClusterError
from gpu_reml.ops.genotypes import CHUNK


def test_the_number_of_shards_grows_with_the_genotypes_and_none_is_too_large():
    assert usual_shards(1000, 50) == FEWEST
    assert usual_shards(3, 50) == 3
    assert usual_shards(50_000, 1250) == 4
    assert usual_shards(1_000_000, 1250) == USUAL
    rows = 500_000 // 4
    assert 10_000_000 * rows / usual_shards(10_000_000, rows) <= MOST_BYTES


def test_shards_end_only_where_they_may():
    cuts = np.array([0, 30, 31, 70, 100])
    edges = shard_edges(100, 8, cuts)
    assert set(edges) <= set(cuts) and edges[0] == 0 and edges[-1] == 100
    np.testing.assert_array_equal(shard_edges(10, 3), [0, 3, 6, 10])
    large = shard_edges(50_000, 5)
    assert (large[:-1] % CHUNK == 0).all() and np.diff(large).min() > 7_000


@pytest.mark.parametrize("num_shards", [1, 2, 7, 8, 13])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 8])
def test_sums_of_groups_are_those_of_the_whole_tree_to_the_bit(num_shards, num_workers):
    parts = np.random.default_rng(num_shards).standard_normal((num_shards, 50)).astype(np.float32)
    whole = Node(0, num_shards)
    expected = summed(iter(parts), whole)
    groups = groups_of(num_shards, num_workers)
    assert [shard for node in groups for shard in range(node.first, node.last)] == list(range(num_shards))
    of_groups = [(node, summed(iter(parts[node.first : node.last]), node)) for node in groups]
    fans = []

    def make(node, below):
        fans.append(len(below))
        return summed_nodes(dict(below), node)

    node, total = reduction(of_groups, whole, 4, make)
    assert node == whole and max(fans, default=0) <= 4
    np.testing.assert_array_equal(total, expected)


def test_sums_in_another_order_differ_so_that_the_tree_is_needed():
    parts = np.random.default_rng(0).standard_normal((8, 50)).astype(np.float32)
    assert not np.array_equal(summed(iter(parts), Node(0, 8)), np.add.reduce(parts))


def test_workers_get_consecutive_groups_by_their_memory():
    workers = [Worker("a", PROGRAM + 100, 1), Worker("b", PROGRAM + 300, 1)]
    nodes = groups_of(8, 2)
    assert placed(nodes, np.full(len(nodes), 80), workers) == ["a", "b", "b", "b"]


def test_a_group_that_no_worker_can_hold_is_refused_before_it_is_read():
    nodes, workers = groups_of(8, 2), [Worker("a", PROGRAM + 100, 1), Worker("b", PROGRAM + 100, 1)]
    with pytest.raises(ClusterError, match="take more `shards`"):
        placed(nodes, np.array([10, 10, 10, 81]), workers)
    with pytest.raises(ClusterError, match=r"genotypes take .* MiB, and the 2 worker\(s\)"):
        placed(nodes, np.array([60, 60, 60, 60]), workers)


class Client:
    """A scheduler's client that knows no worker."""

    status = "running"

    def scheduler_info(self, n_workers):
        return {"workers": {}}


def test_a_run_that_lost_all_workers_waits_for_others_and_then_ends():
    said = []
    cluster = Cluster(Client(), said.append, patience=0.0)
    cluster._look()
    assert said == ["no worker is left; waiting 0 s for another"]
    with pytest.raises(ClusterError, match="no worker is left; start others, and run again with `resume`"):
        cluster._look()


def test_a_run_whose_scheduler_is_gone_says_so():
    cluster = Cluster(Client(), print)
    cluster.client.status = "closed"
    with pytest.raises(ClusterError, match="the scheduler was lost"):
        cluster._look()
