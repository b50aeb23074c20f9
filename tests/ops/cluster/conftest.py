"""Two workers for all tests, each a process that talks over TCP; a test that kills some has others."""

import numpy as np
import pytest

from gpu_reml.ops import MISSING, pack, standardise
from gpu_reml.ops.cluster.products import make_cluster_products, read_shards
from gpu_reml.ops.cluster.session import Size, local_cluster
from gpu_reml.ops.cluster.shards import shard_edges
from gpu_reml.ops.cluster.tasks import Source

MEMORY = 1 << 30
N, M, SHARDS = 201, 1000, 7


def packed(seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.binomial(2, rng.uniform(0.1, 0.5, M), (N, M)).astype(np.int8)
    counts[rng.random((N, M)) < 0.02] = MISSING
    return pack(counts)


@pytest.fixture(scope="session")
def said():
    """What clusters said, a line each."""
    return []


@pytest.fixture(scope="session")
def cluster(said, forked_workers):
    with local_cluster(Size(2, 1, MEMORY), said.append) as made:
        yield made


@pytest.fixture(scope="session")
def genotypes():
    return standardise([packed()], N)


@pytest.fixture(scope="session")
def sharded(write_bed):
    """sharded(cluster, dtype=np.float32) -> products with the same genotypes on its workers."""

    def make(cluster, dtype=np.float32, cuts=None):
        from gpu_reml.io import read_bed
        from gpu_reml.io.shares import shares_between

        file, edges = read_bed(write_bed), shard_edges(M, SHARDS)

        def cut(edges):
            return [Source(each, N) for each in shares_between([file], [None], [np.arange(M)], edges, 2)]

        return make_cluster_products(read_shards(cluster, cut, edges, [packed()]), "cpu", dtype, cuts)

    return make


@pytest.fixture(scope="session")
def write_bed(tmp_path_factory):
    """The prefix of a .bed fileset of the genotypes."""
    prefix = tmp_path_factory.mktemp("cluster") / "cohort"
    prefix.with_suffix(".bed").write_bytes(bytes([0x6C, 0x1B, 1]) + packed().tobytes())
    lines = (f"{1 + 2 * j // M}\trs{j}\t0\t{100 * j + 1}\tA\tC\n" for j in range(M))
    prefix.with_suffix(".bim").write_text("".join(lines))
    prefix.with_suffix(".fam").write_text("".join(f"F{i} s{i} 0 0 0 -9\n" for i in range(N)))
    return prefix
