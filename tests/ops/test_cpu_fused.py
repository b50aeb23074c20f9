"""Products with few columns, straight from packed bytes, against the dense matrix."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, cpu, cpu_fused, pack, standardise, to_dense

MISSING = -127
M = 173  # odd, and odd in every part, so that variants are left over after the tiles


def make_genotypes(n, m=M, first_part=57):
    """Two parts with missing calls, a monomorphic variant and one without a call."""
    rng = np.random.default_rng(n)
    counts = rng.choice(np.array([0, 1, 2, MISSING], np.int8), size=(n, m), p=[0.5, 0.3, 0.15, 0.05])
    counts[:, 7], counts[:, 60] = 2, MISSING
    return standardise([pack(counts[:, :first_part]), pack(counts[:, first_part:])], n)


def assert_columns_close(found, expected):
    """Within float32 rounding, relative to the length of each column."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    error = np.abs(found - expected).max(axis=0)
    assert (error <= 5e-6 * np.linalg.norm(expected, axis=0)).all()


def all_products(genotypes, B, U, w):
    products = CpuProducts(genotypes)
    return products.zt(B), products.z(U), products.weighted(B, w)


@pytest.mark.parametrize("n", [64, 97, 203, 500])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 16, 17])
def test_the_products_are_the_dense_products(n, k):
    genotypes = make_genotypes(n)
    Z = to_dense(genotypes)
    rng = np.random.default_rng(k)
    B, U, w = rng.standard_normal((n, k)), rng.standard_normal((M, k)), rng.random(M)
    before = B.copy(), U.copy(), w.copy()
    zt, z, weighted = all_products(genotypes, B, U, w)
    assert_columns_close(zt, Z.T @ B)
    assert_columns_close(z, Z @ U)
    assert_columns_close(weighted, Z @ (w[:, None] * (Z.T @ B)))
    for array, copy in zip((B, U, w), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_sums_over_several_chunks_and_runs_are_the_dense_products(monkeypatch):
    n, m = cpu_fused.CHUNK_WORDS * cpu_fused.WORD + 333, cpu_fused.RUN + 75
    genotypes = make_genotypes(n, m, first_part=m - 9)
    Z = to_dense(genotypes)
    rng = np.random.default_rng(1)
    B, U, w = rng.standard_normal((n, 3)), rng.standard_normal((m, 3)), rng.random(m)
    for block_bytes in (4096, 1 << 22):
        monkeypatch.setattr(cpu_fused, "BLOCK_BYTES", block_bytes)
        zt, z, weighted = all_products(genotypes, B, U, w)
        assert_columns_close(zt, Z.T @ B)
        assert_columns_close(z, Z @ U)
        assert_columns_close(weighted, Z @ (w[:, None] * (Z.T @ B)))


@pytest.mark.parametrize("k", [1, 16])
def test_the_number_of_threads_does_not_change_a_bit(k):
    genotypes = make_genotypes(500)
    rng = np.random.default_rng(0)
    B, U, w = rng.standard_normal((500, k)), rng.standard_normal((M, k)), rng.random(M)
    threads = numba.get_num_threads()
    if threads < 2:
        pytest.skip("one thread only")
    found = []
    try:
        for number in (1, 2):
            numba.set_num_threads(number)
            found.append(all_products(genotypes, B, U, w))
    finally:
        numba.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_padding_bits_after_the_last_sample_contribute_nothing():
    genotypes = make_genotypes(97)
    for part in genotypes.parts:
        part[:, -1] |= 0b11111100
    B, U, w = np.ones((97, 3)), np.ones((M, 3)), np.ones(M)
    for found, expected in zip(
        all_products(genotypes, B, U, w), all_products(make_genotypes(97), B, U, w), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_memory_maps_and_arrays_of_any_stride_share_one_compilation(tmp_path):
    genotypes = make_genotypes(203)
    mapped, strided = tmp_path / "part", np.repeat(genotypes.parts[1], 2, axis=0)[::2]
    genotypes.parts[0].tofile(mapped)
    parts = (np.memmap(mapped, np.uint8, "r", shape=genotypes.parts[0].shape), strided)
    B, U, w = np.ones((203, 2), np.float32), np.ones((M, 4), np.float32)[:, ::2], np.ones(M, np.float32)
    expected = all_products(genotypes, B, U.copy(), w)
    B.flags.writeable = U.flags.writeable = w.flags.writeable = False
    for found, product in zip(all_products(standardise(parts, 203), B, U, w), expected, strict=True):
        np.testing.assert_array_equal(found, product)
    assert len(cpu_fused._zt_block.signatures) == len(cpu_fused._z_block.signatures) == 1


@pytest.mark.parametrize(
    ("columns", "n", "dtype", "fused"),
    [
        (cpu.FUSED_COLUMNS, 64, np.float32, True),
        (cpu.FUSED_COLUMNS + 1, 64, np.float32, False),
        (1, 63, np.float32, False),
        (1, 64, np.float64, False),
        (0, 64, np.float32, False),
    ],
)
def test_only_few_columns_in_float32_skip_the_decoded_tile(columns, n, dtype, fused, monkeypatch):
    decoded = []
    decode = cpu.decode
    monkeypatch.setattr(cpu, "decode", lambda *arguments: decoded.append(1) or decode(*arguments))
    products = CpuProducts(make_genotypes(n), dtype)
    for product in (
        lambda: products.zt(np.ones((n, columns))),
        lambda: products.z(np.ones((M, columns))),
        lambda: products.weighted(np.ones((n, columns)), np.ones(M)),
    ):
        decoded.clear()
        assert product().shape[1] == columns
        assert bool(decoded) != fused


def test_variant_space_blocks_of_the_wrong_height_are_refused():
    with pytest.raises(ValueError, match=rf"U: expected \({M}, k\), found \(5, 2\)"):
        CpuProducts(make_genotypes(64)).z(np.ones((5, 2)))


SECOND_PROCESS = """
import numpy as np
from gpu_reml.ops import CpuProducts, cpu_fused, pack, standardise
counts = np.random.default_rng(0).integers(0, 3, (97, 11)).astype(np.int8)
CpuProducts(standardise([pack(counts)], 97)).weighted(np.ones((97, 3)), np.ones(11))
print(*[sum(kernel.stats.cache_misses.values()) for kernel in (cpu_fused._zt_block, cpu_fused._z_block)])
"""


def test_a_second_process_compiles_nothing():
    all_products(make_genotypes(97), np.ones((97, 3)), np.ones((M, 3)), np.ones(M))
    second = subprocess.run(
        [sys.executable, "-c", SECOND_PROCESS], capture_output=True, text=True, check=True, env=os.environ
    )
    assert second.stdout.split() == ["0", "0"]
