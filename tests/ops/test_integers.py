"""Products by exact sums of integers: their error, their bits, and which processors have them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from gpu_reml.ops import (
    CpuProducts,
    backend,
    cpu_amx,
    cpu_decode,
    cpu_sums,
    integers,
    make_products,
    pack,
    standardise,
    to_dense,
)
from gpu_reml.ops import cpu_integers as by_integers
from gpu_reml.ops.cpu_integers import IntegerProducts
from gpu_reml.ops.integers import LIMIT, MEAN_STEPS, as_integers, times_means

MISSING = -127
ERROR = {2: 5e-5, 3: 3e-7}  # of a column's norm
needs_bytes = pytest.mark.skipif(by_integers.best_kernels() is None, reason="this processor has neither VNNI nor AMX")


def genotypes_of(seed, n, m, missing=0.02, parts=2):
    """Calls in files of unequal length, with a variant that does not vary and one without a call."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(2, rng.uniform(0.05, 0.5, m), (n, m)).astype(np.int8)
    counts[rng.random((n, m)) < missing] = MISSING
    if m > 8:
        counts[:, 3], counts[:, 5] = 1, MISSING
    cuts = np.sort(rng.choice(np.arange(1, m), parts - 1, replace=False)) if m > parts else []
    return standardise([pack(part) for part in np.split(counts, cuts, axis=1)], n)


def by_formula(genotypes, B, digits):
    """Z'B as the docstring of the integers writes it, with NumPy's own integers."""
    q = as_integers(B, digits)
    G, called = _counts(genotypes)
    sums, seen = G.T @ q.values.astype(np.int64), called.T.astype(np.int64) @ q.values.astype(np.int64)
    return (sums - genotypes.mean[:, None] * seen) * genotypes.inv_sd[:, None] * q.scale


def by_formula_back(genotypes, V, digits, chunk):
    """Z V by NumPy's integers, a chunk at a time."""
    G, called = _counts(genotypes)
    out = np.zeros((len(G), V.shape[1]))
    for first in range(0, len(V), chunk):
        rows = slice(first, first + chunk)
        q = as_integers(V[rows] * genotypes.inv_sd[rows, None], digits)
        c = times_means(q, genotypes.mean[rows])
        sums = MEAN_STEPS * (G[:, rows] @ q.values.astype(np.int64)) - called[:, rows].astype(np.int64) @ c
        out += sums / MEAN_STEPS * q.scale
    return out


def _counts(genotypes):
    packed = np.concatenate(genotypes.parts)
    codes = (packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    codes = codes.reshape(len(packed), -1)[:, : genotypes.num_samples].T
    return np.array([2, 0, 1, 0])[codes], codes != 1


def assert_columns_within(found, expected, limit):
    lengths = np.linalg.norm(expected, axis=0)
    assert (np.linalg.norm(found - expected, axis=0) <= limit * lengths).all()


@needs_bytes
def test_what_a_file_has_after_the_last_sample_is_not_looked_at():
    genotypes = genotypes_of(4, 2113, 40, parts=1)
    (packed,) = genotypes.parts
    marked = packed.copy()
    marked[:, -1] |= 0b01010100  # three missing calls of nobody
    rng = np.random.default_rng(0)
    B, U = rng.standard_normal((2113, 20)).astype(np.float32), rng.standard_normal((40, 20)).astype(np.float32)
    clean, other = (IntegerProducts(replace(genotypes, parts=(part,)), fused_columns=0) for part in (packed, marked))
    np.testing.assert_array_equal(other.zt(B), clean.zt(B))
    np.testing.assert_array_equal(other.z(U), clean.z(U))


@pytest.mark.parametrize("digits", [2, 3])
def test_an_integer_is_half_a_step_from_its_number_and_fills_its_digits(digits):
    B = np.random.default_rng(0).standard_normal((500, 4)) * [1, 1e-60, 1e60, 0]
    q = as_integers(B, digits)
    assert (np.abs(q.values * q.scale - B) <= (0.5 + 1e-9) * q.scale).all()
    assert np.abs(q.values[:, :3]).max(axis=0).tolist() == [LIMIT[digits]] * 3
    assert not q.values[:, 3].any()


@needs_bytes
@pytest.mark.parametrize("digits", [2, 3])
@pytest.mark.parametrize("missing", [0.0, 0.005, 0.05, 0.5])
def test_products_are_within_the_stated_error_of_the_dense_ones(digits, missing):
    n, m = 1003, 777
    genotypes = genotypes_of(1, n, m, missing)
    Z, rng = to_dense(genotypes), np.random.default_rng(2)
    B, U, w = rng.standard_normal((n, 21)), rng.standard_normal((m, 21)), rng.random(m)
    products = IntegerProducts(genotypes, fused_columns=0, digits=digits)
    assert_columns_within(products.zt(B), Z.T @ B, ERROR[digits])
    assert_columns_within(products.z(U), Z @ U, 1.5 * ERROR[digits])  # 1/SD of rare variants is above the others'
    assert_columns_within(
        products.z(U, w), Z @ (w[:, None] * U), 2 * ERROR[digits]
    )  # weights leave few entries near the largest
    assert_columns_within(products.weighted(B, w), Z @ (w[:, None] * (Z.T @ B)), 2 * ERROR[digits])


@needs_bytes
@settings(max_examples=25, deadline=None)
@given(
    n=st.sampled_from([1, 3, 4, 15, 63, 64, 65, 191, 193, 260, 2049, 2113]),
    m=st.sampled_from([1, 2, 4, 5, 47, 95, 97, 130, 1027]),
    k=st.integers(1, 70),
    digits=st.sampled_from([2, 3]),
    seed=st.integers(0, 9),
)
@example(n=2113, m=1027, k=70, digits=3, seed=1)
@example(n=1, m=1, k=1, digits=2, seed=0)
def test_the_bits_are_those_of_the_formula_in_numpy(n, m, k, digits, seed):
    rng = np.random.default_rng(seed)
    genotypes = genotypes_of(seed, n, m, missing=rng.choice([0, 0.01, 0.05, 0.4, 1.0], m))
    B, V = rng.standard_normal((n, k)), rng.standard_normal((m, k))
    products = IntegerProducts(genotypes, fused_columns=0, digits=digits)
    np.testing.assert_array_equal(products.zt(B), by_formula(genotypes, B, digits).astype(np.float32))
    np.testing.assert_array_equal(products.z(V), by_formula_back(genotypes, V, digits, 4096).astype(np.float32))


@needs_bytes
@pytest.mark.parametrize("digits", [2, 3])
@pytest.mark.parametrize("share", [-1.0, 10.0])
def test_a_list_of_missing_calls_and_the_product_with_their_mask_have_the_same_bits(monkeypatch, share, digits):
    n, m, k = 301, 1031, 21  # a sample misses more variants than are noted for it at a time
    genotypes, rng = genotypes_of(3, n, m, missing=0.2), np.random.default_rng(4)
    B, V = rng.standard_normal((n, k)), rng.standard_normal((m, k))
    monkeypatch.setattr(cpu_sums, "DENSE", share)
    products = IntegerProducts(genotypes, fused_columns=0, digits=digits)
    assert 0.2 * m > 2 * cpu_sums.ROOM
    np.testing.assert_array_equal(products.zt(B), by_formula(genotypes, B, digits).astype(np.float32))
    np.testing.assert_array_equal(products.z(V), by_formula_back(genotypes, V, digits, 4096).astype(np.float32))


@needs_bytes
@pytest.mark.parametrize(
    ("columns", "digits", "from_share"), [(16, 3, 0.02), (32, 3, 0.04), (128, 2, 0.06), (512, 3, 0.12)]
)
def test_masks_are_multiplied_from_a_share_of_missing_calls_that_rises_with_columns(columns, digits, from_share):
    q = as_integers(np.ones((100, columns)), digits)
    shares = np.array([0, 0.001, from_share / 1.5, from_share * 1.5, 1])
    calls = cpu_sums.Calls(np.zeros((5, 25), np.uint8), np.ones(5), np.ones(5), 1000 * shares)
    how = cpu_sums._how_missing(calls, 1000, q)
    assert how.tolist() == [cpu_decode.COUNTS, cpu_decode.NOTES, cpu_decode.NOTES, cpu_decode.MASKS, cpu_decode.MASKS]


@needs_bytes
def test_a_chunk_of_variants_has_its_own_scale_wherever_files_end():
    n, m = 70, 4096 + 301
    whole, cut = (genotypes_of(4, n, m, parts=parts) for parts in (1, 4))
    V = np.random.default_rng(5).standard_normal((m, 3)) * np.where(np.arange(m) < 4096, 1.0, 1e-4)[:, None]
    found = [IntegerProducts(genotypes, fused_columns=0).z(V) for genotypes in (whole, cut)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], by_formula_back(whole, V, 3, 4096).astype(np.float32))


@needs_bytes
def test_bits_do_not_depend_on_threads_or_on_other_columns():
    genotypes = genotypes_of(6, 611, 500)
    B, w = np.random.default_rng(7).standard_normal((611, 40)), np.linspace(0, 1, 500)
    products, before = IntegerProducts(genotypes, fused_columns=0), numba.get_num_threads()
    expected = products.weighted(B, w)
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(products.weighted(B, w), expected)
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(products.weighted(B[:, 11:20], w), expected[:, 11:20])


@needs_bytes
@pytest.mark.parametrize("layout", ["contiguous", "overlapping", "gaps"])
@pytest.mark.parametrize("k", [1, 17])
def test_grouped_products_and_cores_are_the_dense_ones(layout, k):
    n, m, groups = 150, 4400, 3
    genotypes, rng = genotypes_of(8, n, m), np.random.default_rng(9)
    W = np.zeros((m, groups))
    W[np.arange(m), np.arange(m) * groups // m] = rng.random(m)
    if layout == "overlapping":
        W += rng.random((m, groups)) * (rng.random((m, groups)) < 0.3)
    if layout == "gaps":
        W[1000:2000] = 0
    Z, U, B = to_dense(genotypes), rng.standard_normal((m, k)), rng.standard_normal((n, k))
    for products in (
        IntegerProducts(genotypes, fused_columns=k - 1),
        CpuProducts(genotypes),
        CpuProducts(genotypes, fused_columns=0),
    ):
        found = products.grouped(U, sparse.csr_array(W))
        core = products.core(B, sparse.csr_array(W))
        for g in range(groups):
            assert_columns_within(found[g], Z @ (W[:, [g]] * U), 1e-6)
            F = Z.T @ B
            np.testing.assert_allclose(core[g], F.T @ (W[:, [g]] * F), rtol=1e-5, atol=1e-5 * m)


@needs_bytes
def test_a_number_that_is_not_finite_makes_its_column_not_finite_and_no_other():
    genotypes = genotypes_of(10, 130, 90)
    B = np.random.default_rng(11).standard_normal((130, 20))
    products = IntegerProducts(genotypes, fused_columns=0)
    expected = products.zt(B)
    B[5, 2], B[7, 9] = np.nan, np.inf
    found = products.zt(B)
    good = [c for c in range(20) if c not in (2, 9)]
    assert np.isnan(found[:, [2, 9]]).all()
    np.testing.assert_array_equal(found[:, good], expected[:, good])


def test_the_environment_chooses_the_float_products(monkeypatch):
    genotypes = genotypes_of(12, 100, 50)
    monkeypatch.setenv("GPU_REML_PRODUCTS", "float")
    assert type(make_products(genotypes, "cpu")) is CpuProducts
    monkeypatch.setenv("GPU_REML_PRODUCTS", "integer")
    with pytest.raises(ValueError, match="GPU_REML_PRODUCTS: expected one of auto, float, vnni, amx, found 'integer'"):
        make_products(genotypes, "cpu")
    monkeypatch.delenv("GPU_REML_PRODUCTS")
    expected = IntegerProducts if by_integers.best_kernels() else CpuProducts
    assert type(make_products(genotypes, "cpu")) is expected
    assert type(make_products(genotypes, "cpu", np.float64)) is CpuProducts


def test_a_processor_that_multiplies_no_bytes_takes_the_float_products(monkeypatch):
    genotypes = genotypes_of(12, 100, 50)
    monkeypatch.setattr(by_integers, "KINDS", ())
    monkeypatch.setitem(backend.ARITHMETIC, "auto", ())
    assert type(make_products(genotypes, "cpu")) is CpuProducts
    with pytest.raises(ValueError, match="a processor with AMX or VNNI"):
        IntegerProducts(genotypes)


@needs_bytes
def test_samples_whose_sums_could_overflow_take_the_float_products(monkeypatch):
    genotypes = genotypes_of(12, 100, 50)
    assert 2 * 128 * integers.MOST_SAMPLES < 2**31 <= 2 * 128 * (integers.MOST_SAMPLES + 1)
    monkeypatch.setattr(integers, "MOST_SAMPLES", 99)
    assert type(make_products(genotypes, "cpu")) is CpuProducts
    with pytest.raises(ValueError, match="exact for at most 99 samples, found 100"):
        IntegerProducts(genotypes)


def kind(instruction, there):
    return cpu_amx.KERNELS._replace(instruction=instruction, available=lambda: there)


@pytest.mark.parametrize(
    ("wanted", "amx", "vnni", "taken"),
    [
        ("auto", True, True, "AMX"),
        ("auto", False, True, "VNNI"),
        ("auto", False, False, None),
        ("vnni", True, True, "VNNI"),
        ("amx", True, True, "AMX"),
        ("float", True, True, None),
    ],
)
def test_the_best_instruction_is_taken_or_the_one_that_the_environment_names(monkeypatch, wanted, amx, vnni, taken):
    kinds = {"amx": (kind("AMX", amx),), "vnni": (kind("VNNI", vnni),)}
    for name, value in (kinds | {"auto": kinds["amx"] + kinds["vnni"]}).items():
        monkeypatch.setitem(backend.ARITHMETIC, name, value)
    monkeypatch.setenv("GPU_REML_PRODUCTS", wanted)
    products = make_products(genotypes_of(12, 100, 50), "cpu")
    integers = f"products of more than 816 columns in integers ({taken}, 3 digits), of fewer in float32"
    assert products.arithmetic == ("float32 products" if taken is None else integers)


@needs_bytes
def test_few_samples_take_float32_products_for_more_columns():
    genotypes, rng = genotypes_of(13, 1000, 300), np.random.default_rng(14)
    B = rng.standard_normal((1000, 97)).astype(np.float32)
    products, float32 = IntegerProducts(genotypes), CpuProducts(genotypes, fused_columns=96)
    assert products.fused_columns == 96
    assert by_integers.fused_columns(500_000) == 16
    np.testing.assert_array_equal(products.zt(B[:, :96]), float32.zt(B[:, :96]))
    np.testing.assert_array_equal(products.zt(B), by_formula(genotypes, B, 3).astype(np.float32))


@pytest.mark.parametrize("wanted", ["vnni", "amx"])
def test_an_instruction_that_is_named_and_not_there_is_an_error(monkeypatch, wanted):
    monkeypatch.setitem(backend.ARITHMETIC, wanted, (kind(wanted, False),))
    monkeypatch.setenv("GPU_REML_PRODUCTS", wanted)
    with pytest.raises(ValueError, match=f"GPU_REML_PRODUCTS={wanted}: {wanted.upper()} cannot be used"):
        make_products(genotypes_of(12, 100, 50), "cpu")


AVX_VNNI = """
import numpy as np
from gpu_reml.ops import cpu_vnni_dot
from gpu_reml.ops.cpu_integers import IntegerProducts
from test_integers import by_formula, by_formula_back, genotypes_of
assert cpu_vnni_dot.lanes() == 8
for n, m, k, digits in ((1, 1, 1, 3), (203, 97, 11, 3), (2113, 130, 40, 2)):
    genotypes, rng = genotypes_of(1, n, m), np.random.default_rng(0)
    B, V = rng.standard_normal((n, k)), rng.standard_normal((m, k))
    products = IntegerProducts(genotypes, fused_columns=0, digits=digits)
    assert (products.zt(B) == by_formula(genotypes, B, digits).astype(np.float32)).all()
    assert (products.z(V) == by_formula_back(genotypes, V, digits, 4096).astype(np.float32)).all()
"""


def test_vectors_of_eight_lanes_give_the_same_bits(tmp_path):
    from llvmlite.binding import get_host_cpu_features

    host = get_host_cpu_features()
    if not host.get("avxvnni"):
        pytest.skip("this processor has no AVX-VNNI")
    features = ",".join(
        ("+" if on and not name.startswith(("avx512", "evex512", "avx10")) else "-") + name for name, on in host.items()
    )
    settings = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    environment = os.environ | settings | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", AVX_VNNI], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
