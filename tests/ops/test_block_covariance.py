"""Components with dense blocks of weights: against dense matrices, on the CPU and on devices, and what they cost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag

from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.ops.block_covariance import effective_rank, make_block_covariance
from gpu_reml.ops.device.products import Residency, make_device_products
from gpu_reml.ops.ld_weights import block_edges, ld_block_weights, ld_blocks, set_block_weights
from gpu_reml.ops.weights import BlockWeights, numerical_rank
from gpu_reml.reml import FitSettings, SolverSettings, exact_probes, fit, fit_exact
from gpu_reml.reml.covariance import CountingCovariance
from gpu_reml.validation import dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import simulate_counts

N, M, FIRST_PART = 77, 330, 200  # n % 4 = 1; two genotype files
SIZES = [1, 50, (30,), 119, (70,), 60]  # (b,) is an identity; a file ends with the fourth block
GROUPS = [slice(0, 3), slice(3, 5), slice(5, 6)]
THETA = np.array([0.7, 0.0, 1.3])
TIGHT = FitSettings(
    tol=1e-12, solver=SolverSettings(y=1e-11, probes=1e-11, information=1e-9, final=1e-11, quadrature=1e-13)
)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def psd(rng, size):
    """A covariance that float32 holds exactly."""
    root = rng.standard_normal((size, size))
    return np.float64(np.float32(root @ root.T / size))


@pytest.fixture(scope="module")
def cohort():
    """(genotypes in two parts, Z) with missing calls and two variants that do not vary."""
    rng = np.random.default_rng(3)
    counts = simulate_counts(N, M, rng)
    counts[:, 7], counts[:, 245] = 2, -127
    genotypes = standardise([pack(counts[:, :FIRST_PART]), pack(counts[:, FIRST_PART:])], N)
    return genotypes, dense.standardised(counts)


@pytest.fixture(scope="module")
def blocks():
    """The blocks of three groups, and W of each as a dense (M, M)."""
    rng = np.random.default_rng(8)
    listed = [size[0] if isinstance(size, tuple) else psd(rng, size) for size in SIZES]
    groups, dense_ws, start = [listed[group] for group in GROUPS], [], 0
    for group in groups:
        W = block_diag(*(np.eye(block) if isinstance(block, int) else block for block in group))
        dense_ws.append(np.zeros((M, M)))
        dense_ws[-1][start : start + len(W), start : start + len(W)] = W
        start += len(W)
    return groups, dense_ws


def on_devices(genotypes, cuts, number=1, residency=None):
    return make_device_products(genotypes, [HostDevice(label=str(d)) for d in range(number)], residency, cuts)


ROW = 64  # bytes of a packed row on a device
LAYOUTS = {
    "float64": lambda g, cuts: CpuProducts(g, np.float64),
    "float64, tiles of 16 variants and 64 samples": lambda g, cuts: CpuProducts(g, np.float64, 16, 512),
    "float32": lambda g, cuts: CpuProducts(g),
    "float32 decoded": lambda g, cuts: CpuProducts(g, fused_columns=0),
    "a device": lambda g, cuts: on_devices(g, cuts),
    "a device, half streamed": lambda g, cuts: on_devices(g, cuts, 1, Residency(64 * ROW, 2 * 64 * ROW, 2)),
    "two devices": lambda g, cuts: on_devices(g, cuts, 2, Residency(64 * ROW)),
}


@pytest.fixture(params=LAYOUTS)
def built(request, cohort, blocks):
    """(covariance, its dense components, tolerance)."""
    groups, dense_ws = blocks
    cuts = BlockWeights([block for group in groups for block in group]).cuts
    products = LAYOUTS[request.param](cohort[0], cuts)
    Ks = [cohort[1] @ W @ cohort[1].T for W in dense_ws]
    Ks = [K * N / np.trace(K) for K in Ks]
    return make_block_covariance(products, groups), Ks, 1e-12 if "float64" in request.param else 3e-6


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("k", [2, 30])
def test_every_product_equals_the_dense_one(built, rng, k):
    covariance, Ks, tolerance = built
    B, A = rng.standard_normal((N, k)), rng.standard_normal((N, k))
    assert covariance.num_components == 3 and covariance.num_samples == N
    assert_close(
        np.asarray(covariance.apply(THETA, covariance.block(B))), THETA[0] * Ks[0] @ B + THETA[2] * Ks[2] @ B, tolerance
    )
    FA, FB = covariance.features(covariance.block(A)), covariance.features(covariance.block(B))
    assert_close(covariance.inner(FA, FB), [np.sum(A * (K @ B), axis=0) for K in Ks], tolerance)
    assert_close(covariance.gram(FB), [B.T @ K @ B for K in Ks], tolerance)
    assert_close(covariance.core(covariance.block(B)), [B.T @ K @ B for K in Ks], tolerance)
    assert_close([np.asarray(each) for each in covariance.apply_each(FB)], [K @ B for K in Ks], tolerance)
    assert_close(covariance.diagonals(), np.column_stack([np.diag(K) for K in Ks]), tolerance)
    assert_close(covariance.traces, [N, N, N], tolerance)
    assert covariance.num_variants == (80, 188, 60)


def test_effects_of_variants_are_theta_w_zpy(built, cohort, blocks, rng):
    covariance, Ks, tolerance = built
    Py = rng.standard_normal((N, 1))
    effects = covariance.variant_effects(THETA, covariance.features(covariance.block(Py)))
    c = [np.trace(cohort[1] @ W @ cohort[1].T) / N for W in blocks[1]]
    expected = np.column_stack(
        [t * (W @ (cohort[1].T @ Py)) / scale for t, W, scale in zip(THETA, blocks[1], c, strict=True)]
    )
    assert_close(effects, expected, tolerance)
    assert_close(cohort[1] @ effects, np.column_stack([t * K @ Py for t, K in zip(THETA, Ks, strict=True)]), tolerance)


def test_variants_in_no_group_are_left_out(cohort, rng):
    W = psd(rng, 50), psd(rng, 60)
    for products in (CpuProducts(cohort[0], np.float64), on_devices(cohort[0], np.array([0, 20, 70, 200, 260, 330]))):
        covariance = make_block_covariance(products, [[W[0]], [W[1]]], first=[20, 200])
        Ks = [cohort[1][:, a:b] @ w @ cohort[1][:, a:b].T for (a, b), w in zip([(20, 70), (200, 260)], W, strict=True)]
        Ks = [K * N / np.trace(K) for K in Ks]
        B = rng.standard_normal((N, 3))
        assert_close(np.asarray(covariance.apply([0.5, 2.0], B)), 0.5 * Ks[0] @ B + 2 * Ks[1] @ B, 3e-6)
        assert_close(covariance.core(covariance.block(B)), [B.T @ K @ B for K in Ks], 3e-6)
        F = covariance.features(covariance.block(B))
        assert_close([np.asarray(each) for each in covariance.apply_each(F)], [K @ B for K in Ks], 3e-6)
        assert not covariance.variant_effects([1.0, 1.0], F[..., [0]])[70:200].any()
        assert covariance.num_variants == (50, 59)


def trait(Z, Ks, theta, seed):
    rng = np.random.default_rng(seed)
    n = len(Z)
    X = np.column_stack([np.ones(n), rng.standard_normal(n)])
    V = sum(t * K for t, K in zip(theta[:-1], Ks, strict=True)) + theta[-1] * np.eye(n)
    return 30 * np.linalg.cholesky(V) @ rng.standard_normal(n) + X @ [100.0, 7.0], X


@pytest.fixture(scope="module")
def larger():
    rng = np.random.default_rng(1)
    counts = simulate_counts(240, 360, rng)
    return standardise([pack(counts)], 240), dense.standardised(counts)


def test_a_fit_of_two_components_is_the_dense_optimum(larger, rng):
    genotypes, Z = larger
    W = [psd(rng, size) for size in (40, 80, 100, 140)]
    covariance = make_block_covariance(CpuProducts(genotypes, np.float64), [W[:2], W[2:]], ["a", "b"])
    Ks = [Z[:, :120] @ block_diag(*W[:2]) @ Z[:, :120].T, Z[:, 120:] @ block_diag(*W[2:]) @ Z[:, 120:].T]
    Ks = [K * 240 / np.trace(K) for K in Ks]
    y, X = trait(Z, Ks, [0.3, 0.3, 0.4], 2)
    exact = exact_reml(y, X, Ks)
    assert not exact.at_bound.any()
    found = fit(y, X, covariance, exact_probes(240), TIGHT)
    assert np.abs(found.theta - exact.theta).max() < 1e-5 * exact.se.min()
    assert abs(found.h2.estimate[-1] - exact.h2) < 1e-5 * exact.h2_se
    assert abs(found.loglik - exact.loglik) < 1e-6
    single = make_block_covariance(CpuProducts(genotypes), [W[:2], W[2:]], ["a", "b"])
    assert np.abs(fit(y, X, single, exact_probes(240)).theta - exact.theta).max() < 1e-2 * exact.se.min()


@pytest.mark.parametrize("engine", ["exact", "stochastic"])
def test_identity_weights_give_the_ordinary_fit(larger, engine):
    genotypes, Z = larger
    products = CpuProducts(genotypes, np.float64)
    y, X = trait(Z, [dense.kernel(Z)], [0.5, 0.5], 3)
    ordinary = make_covariance(products, normalise="trace")
    as_matrix = [np.eye(size) for size in (100, 160, 100)]
    for blocks in ([360], [200, 160], as_matrix):
        covariance = make_block_covariance(products, [blocks])
        both = (
            [fit_exact(y, X, c) for c in (ordinary, covariance)]
            if engine == "exact"
            else [fit(y, X, c, exact_probes(240), TIGHT) for c in (ordinary, covariance)]
        )
        np.testing.assert_allclose(both[1].theta, both[0].theta, rtol=1e-6)
    by_rank = make_block_covariance(products, [[360]], normalise="effective_rank")
    assert by_rank.scales == 360
    usual = make_covariance(products)  # c is the number of variants that vary, here all
    np.testing.assert_allclose(fit_exact(y, X, by_rank).theta, fit_exact(y, X, usual).theta, rtol=1e-6)


def test_the_effective_rank_is_the_number_of_eigenvalues_that_are_kept(cohort, rng):
    factors = [rng.standard_normal((size, rank)) for size, rank in ((100, 30), (100, 100), (130, 7))]
    blocks = [factor @ factor.T for factor in factors]
    products = CpuProducts(cohort[0], np.float64)
    covariance = make_block_covariance(products, [blocks], normalise="effective_rank")
    assert covariance.scales == 137
    Z, W = cohort[1], block_diag(*(np.float64(np.float32(block)) for block in blocks))
    np.testing.assert_allclose(covariance.traces, np.trace(Z @ W @ Z.T) / 137, rtol=1e-12)
    given = make_block_covariance(products, [blocks[:1], blocks[1:]], normalise="effective_rank", ranks=[12.5, None])
    np.testing.assert_array_equal(given.scales, [12.5, 107])
    # float32 holds zero eigenvalues as noise of 1e-7, which is not counted
    assert numerical_rank(blocks[0].astype(np.float32)) == 30
    assert effective_rank([blocks[0], 50, blocks[2]]) == 87


def test_smile_itself_pseudo_inverse_ld_gives_n_for_every_rank(cohort):
    """W = R^+ makes Z W Z' a projection, times n, onto the directions of a block that are kept."""
    counts = simulate_counts(500, 60, np.random.default_rng(2), missing=0)
    counts[:, 10] = counts[:, 11]  # one direction less
    genotypes = standardise([pack(counts)], 500)
    made = ld_block_weights(genotypes, np.array([0, 25, 60]), "inverse", shrinkage=0.0)
    assert made.ranks == (24, 35)
    covariance = make_block_covariance(
        CpuProducts(genotypes, np.float64), [made.weights], normalise="effective_rank", ranks=[sum(made.ranks)]
    )
    np.testing.assert_allclose(covariance.traces, 500, rtol=1e-5)
    Z = dense.standardised(counts)
    Q = [np.linalg.svd(z, full_matrices=False)[0][:, :rank] for z, rank in ((Z[:, :25], 24), (Z[:, 25:], 35))]
    B = np.random.default_rng(0).standard_normal((500, 3))
    assert_close(covariance.apply([1.0], B), 500 / 59 * sum(q @ (q.T @ B) for q in Q), 1e-5)


def counted_rows(monkeypatch):
    """Variants times items that are decoded, from now on."""
    import gpu_reml.ops.cpu as cpu

    rows, original = [0], cpu.decode_items

    def counting(items, *rest):
        rows[0] += items.size
        return original(items, *rest)

    monkeypatch.setattr(cpu, "decode_items", counting)
    return rows


@pytest.mark.parametrize("num_groups", [1, 4])
def test_a_product_decodes_every_genotype_once_whatever_the_groups(larger, rng, monkeypatch, num_groups):
    genotypes, _ = larger
    matrices = [psd(rng, 30) for _ in range(8)] + [psd(rng, 120)]
    groups = [list(part) for part in np.array_split(np.array(matrices, object), num_groups)]
    covariance = make_block_covariance(CpuProducts(genotypes, fused_columns=0, block_width=64), groups)
    counting, rows = CountingCovariance(covariance), counted_rows(monkeypatch)
    B = rng.standard_normal((240, 30)).astype(np.float32)
    counting.apply(np.ones(num_groups), B)
    assert rows[0] == 360 * 60 and counting.column_passes == 30
    counting.core(B)
    assert rows[0] == 2 * 360 * 60 and counting.column_passes == 45
    rows[0] = 0
    if num_groups > 1:  # variants whose theta is 0 are not even read
        counting.apply(np.append(1.0, np.zeros(num_groups - 1)), B)
        assert 0 < rows[0] <= 130 * 60


def test_matrices_are_copied_to_a_device_once_for_all_theta(cohort, blocks, rng, monkeypatch):
    groups, _ = blocks
    placed = []
    original = HostDevice.place_blocks
    monkeypatch.setattr(HostDevice, "place_blocks", lambda self, held: placed.append(held) or original(self, held))
    cuts = BlockWeights([block for group in groups for block in group]).cuts
    covariance = make_block_covariance(on_devices(cohort[0], cuts, 1, Residency(64 * ROW)), groups)
    B = rng.standard_normal((N, 2))
    for theta in ([1, 1, 1], [0.5, 0.1, 2], [1, 1, 1]):
        covariance.apply(np.array(theta), B)
    covariance.gram(covariance.features(B))
    assert sum(len(held.matrices) for held in placed) == sum(b**2 for b in (1, 50, 119, 60))  # no identity among them
    assert covariance.weights.scaled(np.ones(6)).matrices is covariance.weights.matrices


def test_one_component_alone_is_the_same_component(built, rng):
    covariance, Ks, tolerance = built
    alone, B = covariance.only(1), rng.standard_normal((N, 2))
    assert alone.names == ("component_001",) and alone.num_variants == (188,)
    assert_close(np.asarray(alone.apply([2.0], B)), 2 * Ks[1] @ B, tolerance)
    assert_close(alone.core(alone.block(B)), [B.T @ Ks[1] @ B], tolerance)
    assert_close(alone.gram(alone.features(alone.block(B))), [B.T @ Ks[1] @ B], tolerance)
    assert_close(alone.traces, [N], tolerance)


@pytest.mark.gpu
def test_components_on_cuda_equal_the_dense_ones(rng):
    from gpu_reml.ops.cuda.device import CudaDevice

    n, m = 21, 80  # small, for the simulator; the second of two pieces streams, and it has an identity
    counts = simulate_counts(n, m, rng)
    blocks, Z = [psd(rng, 64), 4, psd(rng, 12)], dense.standardised(counts)
    residency = Residency(64 * ROW, 64 * ROW, 2)
    cuts = BlockWeights(blocks).cuts
    products = make_device_products(standardise([pack(counts)], n), [CudaDevice(kernels="portable")], residency, cuts)
    assert products.shards[0].store.num_streamed == 1
    covariance = make_block_covariance(products, [blocks[:1], blocks[1:]])
    Ks = [Z[:, :64] @ blocks[0] @ Z[:, :64].T, Z[:, 64:] @ block_diag(np.eye(4), blocks[2]) @ Z[:, 64:].T]
    Ks = [K * n / np.trace(K) for K in Ks]
    B = rng.standard_normal((n, 2))
    for theta in ([0.4, 0.7], [0.0, 1.0]):
        assert_close(np.asarray(covariance.apply(theta, B)), (theta[0] * Ks[0] + theta[1] * Ks[1]) @ B, 3e-6)
    F = covariance.features(covariance.block(B))
    assert_close(covariance.gram(F), [B.T @ K @ B for K in Ks], 3e-6)
    assert_close(covariance.core(covariance.block(B)), [B.T @ K @ B for K in Ks], 3e-6)
    assert_close(covariance.inner(F, F), [np.sum(B * (K @ B), axis=0) for K in Ks], 3e-6)
    for found, K in zip(covariance.apply_each(F), Ks, strict=True):
        assert_close(np.asarray(found), K @ B, 3e-6)


@pytest.mark.parametrize("number", [0, 2])
def test_factors_of_blocks_are_part_of_the_weights(cohort, rng, number):
    matrices = [psd(rng, 120), 80, psd(rng, 130)]
    factors = np.array([2.0, 0.5, 3.0])
    multiplied = [2 * matrices[0], 0.5 * np.eye(80), 3 * matrices[2]]
    cuts = np.array([0, 120, 200, 330])
    products = on_devices(cohort[0], cuts, number) if number else CpuProducts(cohort[0], np.float64)
    found = make_block_covariance(
        products, [BlockWeights(matrices[:2], factors[:2]), BlockWeights(matrices[2:], factors[2:])]
    )
    expected = make_block_covariance(CpuProducts(cohort[0], np.float64), [multiplied[:2], multiplied[2:]])
    B = rng.standard_normal((N, 3))
    np.testing.assert_allclose(found.scales, expected.scales, rtol=1e-6)
    assert_close(np.asarray(found.apply([1.0, 2.0], B)), expected.apply([1.0, 2.0], B), 3e-6)
    assert_close(found.core(found.block(B)), expected.core(B), 3e-6)
    F = found.features(found.block(B))
    assert_close(found.gram(F), expected.core(B), 3e-6)
    assert_close(
        found.variant_effects([1.0, 2.0], F[..., [0]]),
        expected.variant_effects([1.0, 2.0], (cohort[1].T @ B)[:, :1]),
        3e-6,
    )


def test_one_device_block_may_not_lie_in_two_genotype_files(cohort):
    weights = BlockWeights([np.eye(150), np.eye(180)])
    products = on_devices(cohort[0], weights.cuts)
    covariance = make_block_covariance(products, [weights])
    with pytest.raises(ValueError, match=r"variants 0:200 are moved together.*no block across two genotype files"):
        covariance.apply([1.0], np.ones((N, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [[100]]}, r"expected blocks of 330 variants in all, found 100; give first"),
        ({"groups": [[200], [200]], "first": [0, 130]}, r"component_001: its variants 130:330 overlap"),
        ({"groups": [[330]], "names": ["a", "b"]}, r"names: expected 1 different names"),
        ({"groups": [[330]], "normalise": "trace"}, r"normalise: expected kernel_trace or effective_rank"),
        ({"groups": [[7], [1], [322]]}, r"component component_001: none of its variants varies"),
        ({"groups": [[7], [np.zeros((323, 323))]]}, r"component component_001: tr\(Z W Z'\) is 0, not positive"),
        ({"groups": [[330]], "normalise": "effective_rank", "ranks": [331]}, r"at most 330, found 331"),
        ({"groups": [[330]], "ranks": [1, 2]}, r"ranks: expected 1, one a group, found 2"),
    ],
)
def test_what_cannot_be_is_refused_by_name(cohort, change, message):
    with pytest.raises(ValueError, match=message):
        make_block_covariance(CpuProducts(cohort[0]), **change)


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ([np.ones((2, 3))], r"matrices\[0\]: expected a square matrix"),
        ([np.eye(2), np.array([[1, np.nan], [np.nan, 1]])], r"matrices\[1\]: has entries that are not finite"),
        ([np.array([[1, 0.5], [0.4, 1]])], r"matrices\[0\]: is not symmetric"),
        ([0], r"matrices\[0\]: expected an identity of at least one variant"),
    ],
)
def test_a_block_that_is_none_is_refused(matrices, message):
    with pytest.raises(ValueError, match=message):
        BlockWeights(matrices)


def test_a_block_is_kept_as_it_is_or_made_exactly_symmetric(tmp_path):
    np.save(tmp_path / "W.npy", np.eye(3, dtype=np.float32))
    held = BlockWeights([np.load(tmp_path / "W.npy", mmap_mode="r")]).matrices[0]
    while held is not None and not isinstance(held, np.memmap):
        held = held.base
    assert isinstance(held, np.memmap)
    W = np.array([[1, 0.5 + 1e-7], [0.5, 1]], np.float32)
    np.testing.assert_array_equal(BlockWeights([W]).matrices[0], BlockWeights([W.T.copy()]).matrices[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=8), st.integers(1, 12), st.data())
def test_stretches_and_runs_cover_all_variants_and_cut_no_block(parts, width, data):
    weights = BlockWeights([np.full((size, size), 2.0) if is_dense else size for size, is_dense in parts])
    stretches = list(weights.stretches(width))
    assert [0, *(stop for _, stop in stretches)] == [*(start for start, _ in stretches), weights.num_variants]
    dense_size = max([size for size, is_dense in parts if is_dense], default=1)
    assert all(stop - start <= max(width, dense_size) for start, stop in stretches)
    U = np.arange(weights.num_variants, dtype=float)[:, None]
    whole = weights.multiply(U)
    for start, stop in stretches:
        np.testing.assert_array_equal(weights.multiply(U[start:stop], start), whole[start:stop])
        runs = list(weights.runs(start, stop))
        assert [start, *(run.stop for run in runs)] == [*(run.start for run in runs), stop]
        assert all(not run.matrices or sum(map(len, run.matrices)) == run.stop - run.start for run in runs)
    expected = block_diag(*(np.full((s, s), 2.0) if d else np.eye(s) for s, d in parts)) @ U
    np.testing.assert_array_equal(whole, expected)
    big = [i for i, (size, is_dense) in enumerate(parts) if is_dense and size > 1]
    if big:
        inside = int(weights.starts[data.draw(st.sampled_from(big))]) + 1
        with pytest.raises(ValueError, match="cut a block of weights"):
            list(weights.runs(0, inside))
        with pytest.raises(ValueError, match="cut a block of weights"):
            weights.multiply(U[:inside])


def test_ld_blocks_are_the_correlations_of_decoded_genotypes(cohort):
    found = list(ld_blocks(cohort[0], np.array([0, 150, 330])))
    Z = cohort[1] / np.where((lengths := np.linalg.norm(cohort[1], axis=0)) > 0, lengths, 1)
    for (R, varies), (a, b) in zip(found, [(0, 150), (150, 330)], strict=True):
        np.testing.assert_allclose(R, Z[:, a:b].T @ Z[:, a:b], atol=2e-6)
        np.testing.assert_array_equal(varies, lengths[a:b] > 0)


@pytest.mark.parametrize("bandwidth", [None, 4])
def test_weights_from_ld_are_the_shrunk_correlations_or_their_inverse(cohort, bandwidth):
    edges, keep = np.array([0, 150, 330]), np.flatnonzero(np.arange(150) != 7)
    Z = cohort[1][:, keep]
    R = Z.T @ Z / np.outer(np.linalg.norm(Z, axis=0), np.linalg.norm(Z, axis=0))
    if bandwidth is not None:
        R *= np.maximum(0, 1 - np.abs(np.subtract.outer(keep, keep)) / 5)
    S = 0.7 * R + 0.3 * np.eye(149)
    options = {"shrinkage": 0.3, "bandwidth": bandwidth}
    correlation = ld_block_weights(cohort[0], edges, "correlation", **options)
    inverse = ld_block_weights(cohort[0], edges, "inverse", **options)
    np.testing.assert_allclose(correlation.weights.matrices[0][np.ix_(keep, keep)], S, atol=3e-6)
    np.testing.assert_allclose(inverse.weights.matrices[0][np.ix_(keep, keep)], np.linalg.inv(S), atol=2e-5)
    for made in (correlation, inverse):
        assert made.ranks == (149, 179) and not made.weights.matrices[0][7].any()
        assert np.linalg.eigvalsh(np.float64(made.weights.matrices[1]))[0] > -1e-6


def test_full_shrinkage_is_the_ordinary_grm(larger):
    genotypes, Z = larger
    products = CpuProducts(genotypes, np.float64)
    y, X = trait(Z, [dense.kernel(Z)], [0.5, 0.5], 3)
    expected = fit_exact(y, X, make_covariance(products, normalise="trace")).theta
    for kind in ("inverse", "correlation"):
        weights = ld_block_weights(genotypes, block_edges(genotypes, 50), kind, shrinkage=1.0).weights
        np.testing.assert_allclose(
            fit_exact(y, X, make_block_covariance(products, [weights])).theta, expected, rtol=1e-6
        )


def test_edges_cross_neither_chromosomes_nor_files(cohort):
    chromosomes = np.repeat(["1", "2", "X"], [120, 90, 120])
    edges = block_edges(cohort[0], 50, chromosomes)
    spelt = [("chr" * (j % 2) + name).replace("X", ("23", "PAR1")[j % 2]) for j, name in enumerate(chromosomes)]
    np.testing.assert_array_equal(block_edges(cohort[0], 50, np.array(spelt)), edges)
    np.testing.assert_array_equal(edges, [0, 40, 80, 120, 160, 200, 210, 250, 290, 330])
    np.testing.assert_array_equal(block_edges(cohort[0], 200), [0, 200, 330])
    with pytest.raises(ValueError, match="block_size: expected at least 1"):
        block_edges(cohort[0], 0)
    with pytest.raises(ValueError, match="expected one for each of 330 variants"):
        block_edges(cohort[0], 10, chromosomes[1:])


def test_effects_of_a_set_are_correlated_within_its_blocks():
    weights = set_block_weights(np.array([0, 0, -1, -1, 1, 0]), np.array([0, 4, 6]), 0.25)
    np.testing.assert_array_equal(weights.matrices[0], [[1, 0.25, 0, 0], [0.25, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(weights.matrices[1], np.eye(2))
    with pytest.raises(ValueError, match="correlation: expected 0 to 1"):
        set_block_weights(np.zeros(3, int), np.array([0, 3]), -0.1)
    with pytest.raises(ValueError, match="labels: expected one for each of 4 variants"):
        set_block_weights(np.zeros(3, int), np.array([0, 4]), 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "banded"}, "kind: expected inverse or correlation"),
        ({"shrinkage": 1.5}, "shrinkage: expected 0 to 1"),
        ({"least": 0.0}, "least: expected a number between 0 and 1"),
        ({"bandwidth": -1}, "bandwidth: expected 0 or more"),
        ({"edges": np.array([0, 100])}, "edges: expected ascending variants from 0 to 330, found 0 to 100"),
    ],
)
def test_weights_from_ld_name_what_is_wrong(cohort, options, message):
    with pytest.raises(ValueError, match=message):
        ld_block_weights(cohort[0], **{"edges": np.array([0, 330]), **options})
