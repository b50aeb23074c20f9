"""Products on workers are those of one process, and little travels for them."""

import numpy as np
import pytest
from scipy import sparse

from gpu_reml.io import InputError
from gpu_reml.ops import BlockWeights, CpuProducts, ld_scores, make_covariance
from gpu_reml.ops.block_covariance import make_block_covariance
from gpu_reml.ops.cluster import tasks
from gpu_reml.ops.cluster.products import How, make_cluster_products, read_shards
from gpu_reml.ops.loco import leave_out
from gpu_reml.ops.relationship import relationship_matrices

N, M = 201, 1000

pytestmark = pytest.mark.usefixtures("within_two_minutes")


def block(k=3, seed=1):
    return np.random.default_rng(seed).standard_normal((N, k))


@pytest.fixture(scope="module")
def weights():
    """Of three components, of which two overlap."""
    W = np.zeros((M, 3))
    W[:400, 0], W[300:, 1], W[::7, 2] = 1.0, np.linspace(0.5, 2, M - 300), 3.0
    return sparse.csr_array(W)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_those_of_one_process(cluster, sharded, genotypes, weights, dtype):
    here, there = CpuProducts(genotypes, dtype), sharded(cluster, dtype)
    B, w, theta = block().astype(dtype), np.linspace(0, 1, M), np.array([0.2, 0.0, 0.7])
    F, own = there.zt(B), here.zt(B)
    left = [leave_out(p, w, [np.arange(500), np.arange(500, M)], ["1", "2"]) for p in (there, here)]
    groups = np.array([0, 1, 1])
    pairs = {
        "standardised": (there.genotypes.inv_sd, genotypes.inv_sd),
        "squared norms": (there.genotypes.squared_norm, genotypes.squared_norm),
        "zt": (F, own),
        "z": (there.z(F, w), here.z(own, w)),
        "features sent": (there.z(own), here.z(own)),
        "weighted": (there.weighted(B, w), here.weighted(B, w)),
        "mixed": (there.weighted(B, there.mixed(weights, theta)), here.weighted(B, weights @ theta)),
        "mixed z": (there.z(F, there.mixed(weights, theta)), here.z(own, weights @ theta)),
        "grouped": (there.grouped(F, weights), here.grouped(own, weights)),
        "inner": (there.inner(F, F, weights), here.inner(own, own, weights)),
        "gram": (there.gram(F, None, weights), here.gram(own, None, weights)),
        "grams": (there.grams([F[..., :2], F], F, weights), here.grams([own[:, :2], own], own, weights)),
        "core": (there.core(B, weights), here.core(B, weights)),
        "diagonals": (there.squared_norms_by_sample(weights), here.squared_norms_by_sample(weights)),
        "left out": (left[0].apply(B, groups), left[1].apply(B, groups)),
        "F C": (F @ np.ones((3, 2)), own @ np.ones((3, 2))),
        "F + F": (type(F).side_by_side([F + F, F[..., [0]]]), np.c_[own + own, own[:, 0]]),
    }
    for name, (found, expected) in pairs.items():
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        rounding = (1e-6 if dtype == np.float32 else 1e-13) * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=rounding, err_msg=name)
    matrices = [list(map(np.triu, made)) for made in (there.matrices(weights), relationship_matrices(here, weights))]
    np.testing.assert_allclose(*matrices, rtol=0, atol=2e-6 * np.max(matrices[0]))


def test_bits_do_not_depend_on_how_many_workers_hold_the_shards(cluster, sharded, weights, monkeypatch):
    B, C = block(5).astype(np.float32), block(40, seed=2).astype(np.float32)

    def made():
        products = sharded(cluster)
        F = products.zt(C)
        found = [products.weighted(B, products.mixed(weights, np.ones(3))), products.grouped(F, weights)]
        small = F @ np.random.default_rng(3).standard_normal((40, 3))
        return products, [*found, products.gram(F, None, weights), products.core(C, weights), np.asarray(small)]

    two, expected = made()
    there = cluster.workers()
    monkeypatch.setattr(cluster, "workers", lambda: there[:1])
    one, alone = made()
    monkeypatch.setattr(cluster, "workers", lambda: [*there, *there[:1]])  # as three workers place groups
    three, among = made()
    placements = [[group.node for group in products.genotypes.groups] for products in (one, two, three)]
    assert placements[0] != placements[2]
    for found, other, third in zip(expected, alone, among, strict=True):
        np.testing.assert_array_equal(found, other)
        np.testing.assert_array_equal(found, third)


def test_blocks_of_weights_lie_within_shards(cluster, sharded, genotypes):
    rng = np.random.default_rng(5)
    matrices = [W @ W.T / len(W) for W in (rng.standard_normal((b, b)) for b in (60, 130, 10, 200, 100))]
    groups = [BlockWeights([*matrices[:3], 100]), BlockWeights(matrices[3:]), BlockWeights([400])]
    cuts = BlockWeights.joined(groups).cuts
    here = make_block_covariance(CpuProducts(genotypes), groups)
    there = make_block_covariance(sharded(cluster, cuts=cuts), groups)
    np.testing.assert_allclose(there.matrix_diagonals, here.matrix_diagonals, rtol=1e-5)
    B, theta = block().astype(np.float32), np.array([0.5, 0.0, 0.2])
    F, own = there.features(B), here.features(B)
    pairs = {
        "apply": (there.apply(theta, B), here.apply(theta, B)),
        "gram": (there.gram(F), here.gram(own)),
        "inner": (there.inner(F, F), here.inner(own, own)),
        "core": (there.core(B), here.core(B)),
        "each": (there.apply_each(F), here.apply_each(own)),
        "features": (there.apply_features(theta, F), here.apply_features(theta, own)),
        "effects": (there.variant_effects(theta, F[..., [0]]), here.variant_effects(theta, own[:, [0]])),
    }
    for name, (found, expected) in pairs.items():
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max(), err_msg=name)


def test_ld_scores_of_sharded_variants_are_those_of_one_process(cluster, sharded, genotypes):
    chromosomes, bp = np.repeat(["1", "2"], M // 2), 100 * np.arange(1, M + 1)
    products = sharded(cluster)
    for places in (bp, bp[::-1]):  # the second are not in order, and are correlated by the driver
        found = ld_scores(products.genotypes, chromosomes, places, window_kb=20)
        expected = ld_scores(genotypes, chromosomes, places, window_kb=20)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.nanmax(expected) > 1.5


def sent_bytes(cluster):
    """Bytes of data that workers have sent, to each other and to the driver."""
    return sum(cluster.client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total).values())


def test_a_product_sends_each_worker_a_block_and_gets_one_back(cluster, sharded, weights, monkeypatch):
    covariance = make_covariance(sharded(cluster), weights)
    B = np.asarray(np.random.default_rng(0).standard_normal((N, 300)), np.float32)  # long beside what messages take
    covariance.apply(np.ones(3), B)  # the components' weights travel once
    out, submit = [], cluster.submit

    def counting(function, *arguments, **options):
        out.extend(a.nbytes for a in arguments if isinstance(a, np.ndarray))
        return submit(function, *arguments, **options)

    monkeypatch.setattr(cluster, "submit", counting)
    before = sent_bytes(cluster)
    covariance.apply(np.array([0.1, 0.2, 0.3]), B)
    W, total = 2, sum(out) + sent_bytes(cluster) - before
    assert sum(out) <= B.nbytes + 1000  # from the driver: the block once, workers pass it on, and theta
    assert total <= W * 2 * B.nbytes * 1.02 and total >= W * 2 * B.nbytes
    out.clear()
    F = covariance.features(B[:, :5])
    covariance.gram(F)  # F is there when this ends
    before = sent_bytes(cluster)
    covariance.gram(F @ np.eye(5), F)
    assert sent_bytes(cluster) - before < 4 * M  # not even one column of features


def test_genotypes_that_changed_are_refused_when_they_are_read_again(cluster, sharded):
    products = sharded(cluster)
    products.genotypes.groups[0].checksum = "another"
    with pytest.raises(tasks.ClusterError, match="are not those that the run began with"):
        products.weighted(block(), np.ones(M))


def test_a_file_that_a_worker_cannot_read_is_named(cluster, tmp_path, write_bed):
    from gpu_reml.io import read_bed
    from gpu_reml.io.shares import share_of

    share = share_of(read_bed(write_bed), None, np.arange(M), 2)
    path = tmp_path / "short.bed"
    path.write_bytes(write_bed.with_suffix(".bed").read_bytes()[:-1])
    for changes, expected in (
        ({"path": tmp_path / "absent.bed"}, "absent.bed: a worker cannot read it .*every machine"),
        ({"path": path}, r"short.bed: has \d+ bytes where a worker reads it and had"),
    ):
        lost = type(share)(**{**share.__dict__, **changes})
        with pytest.raises(InputError, match=expected):
            read_shards(cluster, lambda edges, lost=lost: [tasks.Source((lost,), N)], np.array([0, M]), [])


def test_a_worker_of_other_versions_is_refused(cluster, sharded):
    products = sharded(cluster)
    group = products.genotypes.groups[0]
    held = cluster.submit(tasks.hold, group.node, products.genotypes.sources[:1], {"numpy": "0.1"})
    with pytest.raises(tasks.ClusterError, match=r"has numpy .* and not 0\.1, which the run began with"):
        cluster.fetch([held])


def test_a_worker_without_the_arithmetic_of_the_others_says_so(genotypes, monkeypatch):
    monkeypatch.setenv("GPU_REML_PRODUCTS", "float")
    with pytest.raises(tasks.ClusterError, match="its processor multiplies no bytes"):
        tasks.shard_products(genotypes, How("cpu", "float32", True))
    assert type(tasks.shard_products(genotypes, How("cpu", "float32", False))) is CpuProducts


def test_samples_and_variants_of_a_file_are_read_by_workers_as_they_are_here(cluster, tmp_path):
    from pgenlib import PgenWriter

    from gpu_reml.io import load_genotypes, read_pgen
    from gpu_reml.io.shares import share_of, shares_between

    prefix, counts = tmp_path / "cohort", np.random.default_rng(3).integers(0, 3, (300, 40)).astype(np.int8)
    with PgenWriter(bytes(prefix.with_suffix(".pgen")), 40, variant_ct=300) as writer:
        for row in counts:
            writer.append_biallelic(row)
    lines = (f"1\t{j + 1}\trs{j}\tA\tC\n" for j in range(300))
    prefix.with_suffix(".pvar").write_text("#CHROM\tPOS\tID\tREF\tALT\n" + "".join(lines))
    prefix.with_suffix(".psam").write_text("#FID\tIID\n" + "".join(f"F{i}\t{i}\n" for i in range(40)))
    file, who, which = read_pgen(prefix), np.arange(39, 2, -2), np.delete(np.arange(300), [5, 100, 299])
    expected = load_genotypes([file], [who], [which], True)

    def cut(edges):
        return [tasks.Source(each, len(who), 16) for each in shares_between([file], [who], [which], edges, 16)]

    found = read_shards(cluster, cut, np.array([0, 100, 297]), [share_of(file, who, which, 16)])
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.parts[0][10:20], expected.parts[0][10:20])
    w, B = np.ones(297), np.random.default_rng(0).standard_normal((len(who), 2))
    there = make_cluster_products(found, "cpu", np.float64).weighted(B, w)
    np.testing.assert_allclose(there, CpuProducts(expected, np.float64).weighted(B, w), rtol=1e-10, atol=1e-8)
