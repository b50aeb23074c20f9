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
    cpu_missing,
    cpu_sums,
    make_products,
    pack,
    standardise,
    to_dense,
)
from gpu_reml.ops import cpu_integers as by_integers
from gpu_reml.ops.cpu_integers import IntegerProducts
from gpu_reml.ops.dosages import DOSAGE_UNIT
from gpu_reml.ops.integers import LIMIT, as_integers
from gpu_reml.ops.weights import BlockWeights

MISSING = -127
ERROR = {2: 5e-5, 3: 3e-7}  # of a column's norm
STEPS = {8: 127, 16: 16384}  # codes in one copy of the allele
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


def dosages_of(seed, n, m, bits, missing=0.02, parts=2):
    """Dosages in files of unequal length, with one that does not vary and one that is always missing."""
    rng = np.random.default_rng(seed)
    codes = np.minimum(rng.poisson(2.0 ** (bits - 4), (m, n)), (2 * STEPS[bits]))
    codes[rng.random((m, n)) < missing] = 2**bits - 1
    if m > 8:
        codes[3], codes[5] = 7, 2**bits - 1
    cuts = np.sort(rng.choice(np.arange(1, m), parts - 1, replace=False)) if m > parts else []
    return standardise(np.split(codes.astype(f"uint{bits}"), cuts), n, bits)


def sums_of(q, sums):
    """Numbers (rows, k) from the sums (rows, columns) of every column of integers."""
    k = sums.shape[1] // q.parts
    return sums if q.parts == 1 else sums[:, :k] + sums[:, k:]


def by_formula(genotypes, B, digits):
    """Z'B as the docstring of the integers writes it, with NumPy's own integers."""
    q = as_integers(B, digits)
    values, out = q.values.astype(np.int64), 0
    for G, there, fill, base, above, unit in _planes(genotypes):
        seen = there.T.astype(np.int64) @ values
        lost = values.sum(axis=0) - seen
        total = G.T @ values - fill[:, None] * lost - base[:, None] * seen
        out = (
            out
            + (total.astype(float) - above[:, None] * seen.astype(float)) * (genotypes.inv_sd * unit)[:, None] * q.scale
        )
    return sums_of(q, out)


def by_formula_back(genotypes, V, digits, chunk):
    """Z V by NumPy's integers, a chunk at a time."""
    out, planes = 0, _planes(genotypes)
    for first in range(0, len(V), chunk):
        rows = slice(first, first + chunk)
        q = as_integers(V[rows] * genotypes.inv_sd[rows, None], digits)
        values, steps = q.values.astype(np.int64), q.mean_steps
        for G, there, fill, base, above, unit in planes:
            rests = rests_by_formula(q, (fill - base)[rows, None], above[rows, None])
            taken = steps * (fill[rows] @ values) + there[:, rows].astype(np.int64) @ rests
            out = out + (steps * (G[:, rows] @ values) - taken) / steps * (q.scale * unit)
    return sums_of(q, out)


def rests_by_formula(q, beyond, above):
    """What a genotype that is there takes off beside the fill, as integers of the same columns."""
    if q.parts == 1:
        return (np.rint(q.values * (q.mean_steps * above)) - q.mean_steps * beyond * q.values).astype(np.int64)
    k = q.values.shape[1] // 2
    whole = (q.values[:, :k].astype(np.int64) << 30) + q.values[:, k:]
    rest = np.rint(whole.astype(float) * above).astype(np.int64) - beyond * whole
    high = (rest + (1 << 29)) >> 30
    return np.hstack([high, rest - (high << 30)])


def _planes(genotypes):
    """Of calls, or of each byte of the dosages: genotypes (n, m) with the fill where they are missing, whether they are
    there, fill, base, mean above the base, and the size of a step."""
    items, mean = np.concatenate(genotypes.parts), genotypes.mean
    if genotypes.bits == 2:
        codes = (items[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
        codes = codes.reshape(len(items), -1)[:, : genotypes.num_samples].T
        return [
            (
                np.array([2, 1, 1, 0])[codes],
                codes != 1,
                np.ones(len(mean), np.int64),
                np.zeros(len(mean), np.int64),
                mean,
                1.0,
            )
        ]
    unit, there = DOSAGE_UNIT[genotypes.bits], (items != 2**genotypes.bits - 1).T
    centre = np.rint(mean / unit).astype(np.int64)
    G = np.where(there, items.T.astype(np.int64), centre)
    low, high = centre & 255, centre >> 8
    lowest = (G & 255, there, low, low, mean / unit - centre, unit)
    return [lowest] if genotypes.bits == 8 else [lowest, (G >> 8, there, high, high, 0 * mean, 256 * unit)]


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
    k=st.integers(1, 40),
    digits=st.sampled_from([2, 3, 8]),
    seed=st.integers(0, 9),
)
@example(n=2113, m=1027, k=70, digits=3, seed=1)
@example(n=2113, m=130, k=37, digits=8, seed=2)
@example(n=1, m=1, k=1, digits=2, seed=0)
def test_the_bits_are_those_of_the_formula_in_numpy(n, m, k, digits, seed):
    rng = np.random.default_rng(seed)
    genotypes = genotypes_of(seed, n, m, missing=rng.choice([0, 0.01, 0.05, 0.4, 1.0], m))
    assert_formula_s_bits(genotypes, k, digits, rng)


@needs_bytes
@settings(max_examples=20, deadline=None)
@given(
    n=st.sampled_from([1, 3, 15, 63, 64, 65, 191, 193, 260, 2049, 2113]),
    m=st.sampled_from([1, 2, 5, 95, 97, 130, 1027]),
    k=st.integers(1, 40),
    bits=st.sampled_from([8, 16]),
    digits=st.sampled_from([3, 8]),
    seed=st.integers(0, 9),
)
@example(n=2113, m=97, k=17, bits=16, digits=8, seed=3)
@example(n=260, m=1027, k=20, bits=8, digits=3, seed=4)
def test_products_of_dosages_are_to_the_bit_those_of_the_formula_in_numpy(n, m, k, bits, digits, seed):
    rng = np.random.default_rng(seed)
    genotypes = dosages_of(seed, n, m, bits, missing=rng.choice([0, 0.3, 1.0], (m, 1)))
    assert_formula_s_bits(genotypes, k, digits, rng)


def assert_formula_s_bits(genotypes, k, digits, rng):
    dtype = np.float64 if digits == 8 else np.float32
    B, V = (rng.standard_normal((rows, k)).astype(dtype) for rows in (genotypes.num_samples, genotypes.num_variants))
    products = IntegerProducts(genotypes, dtype, fused_columns=0, digits=digits)
    np.testing.assert_array_equal(products.zt(B), by_formula(genotypes, B, digits).astype(dtype))
    np.testing.assert_array_equal(products.z(V), by_formula_back(genotypes, V, digits, 4096).astype(dtype))


@needs_bytes
@pytest.mark.parametrize("digits", [2, 3])
@pytest.mark.parametrize("share", [-1.0, 10.0])
def test_a_list_of_missing_calls_and_the_product_with_their_mask_have_the_same_bits(monkeypatch, share, digits):
    n, m, k = 301, 1031, 21  # a sample misses more variants than are noted for it at a time
    genotypes, rng = genotypes_of(3, n, m, missing=0.2), np.random.default_rng(4)
    B, V = rng.standard_normal((n, k)), rng.standard_normal((m, k))
    monkeypatch.setattr(cpu_missing, "DENSE", share)
    products = IntegerProducts(genotypes, fused_columns=0, digits=digits)
    assert 0.2 * m > 2 * cpu_missing.ROOM
    np.testing.assert_array_equal(products.zt(B), by_formula(genotypes, B, digits).astype(np.float32))
    np.testing.assert_array_equal(products.z(V), by_formula_back(genotypes, V, digits, 4096).astype(np.float32))


@needs_bytes
@pytest.mark.parametrize(
    ("columns", "digits", "from_share"), [(16, 3, 0.02), (32, 3, 0.04), (128, 2, 0.06), (512, 3, 0.12)]
)
def test_masks_are_multiplied_from_a_share_of_missing_calls_that_rises_with_columns(columns, digits, from_share):
    shares = np.array([0, 0.001, from_share / 1.5, from_share * 1.5, 1])
    how = cpu_missing.how_missing(1000 * shares, 1000, columns, digits)
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
@pytest.mark.parametrize(("bits", "dtype"), [(2, np.float32), (2, np.float64), (8, np.float32), (16, np.float64)])
def test_results_do_not_depend_on_how_files_cut_the_variants(bits, dtype):
    n, m = 70, 4096 + 301
    whole, cut = (
        genotypes_of(4, n, m, parts=parts) if bits == 2 else dosages_of(4, n, m, bits, parts=parts) for parts in (1, 4)
    )
    rng = np.random.default_rng(5)
    V, B, w = rng.standard_normal((m, 3)), rng.standard_normal((n, 3)), rng.random(m)
    one, other = (IntegerProducts(genotypes, dtype, fused_columns=0) for genotypes in (whole, cut))
    np.testing.assert_array_equal(one.z(V), other.z(V))
    np.testing.assert_array_equal(one.weighted(B, w), other.weighted(B, w))


@needs_bytes
@pytest.mark.parametrize("bits", [2, 8])
def test_block_weights_between_integer_products_are_the_dense_ones_with_the_same_bits_on_any_threads(bits):
    n, sizes = 130, (3, 4200, 1, 90, 40)
    rng, m = np.random.default_rng(8), sum(sizes)
    genotypes = genotypes_of(4, n, m) if bits == 2 else dosages_of(4, n, m, bits)
    dense = [rng.standard_normal((size, size)) / size for size in sizes if size < 4000]
    blocks = [W @ W.T for W in dense]
    weights = BlockWeights([blocks[0], 4200, *blocks[1:]], [1.0, 0.5, 2.0, 0.0, 1.0])
    Z, B = to_dense(genotypes), rng.standard_normal((n, 40)).astype(np.float32)
    products, F = IntegerProducts(genotypes, fused_columns=0), to_dense(genotypes).T @ B
    expected = products.weighted(B, weights)
    assert_columns_within(expected, Z @ weights.multiply(F), 3e-6)
    groups = [slice(0, 4203), slice(4203, m)]
    for core, rows in zip(products.block_core(B, weights, groups), groups, strict=True):
        np.testing.assert_allclose(core, F[rows].T @ weights.multiply(F)[rows], rtol=1e-5, atol=1e-5 * m)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(products.weighted(B, weights), expected)
    finally:
        numba.set_num_threads(before)


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


def test_a_processor_that_multiplies_no_bytes_takes_the_float_products(monkeypatch):
    genotypes = genotypes_of(12, 100, 50)
    monkeypatch.setattr(by_integers, "KINDS", ())
    monkeypatch.setitem(backend.ARITHMETIC, "auto", ())
    assert type(make_products(genotypes, "cpu")) is CpuProducts
    with pytest.raises(ValueError, match="a processor with AMX or VNNI"):
        IntegerProducts(genotypes)


@needs_bytes
@pytest.mark.parametrize("bits", [2, 8, 16])
def test_sums_over_more_samples_than_an_int32_holds_are_the_formula_s(bits, monkeypatch):
    assert 16 * cpu_sums.SPAN * 255 * 128 < 2**31 <= 16 * 2 * cpu_sums.SPAN * 255 * 128
    n, m = 16 * cpu_sums.SPAN + 3000, 3  # the largest bytes, times the largest digits of one sign
    genotypes = genotypes_of(2, n, m, parts=1) if bits == 2 else dosages_of(2, n, m, bits, parts=1)
    if bits > 2:
        (codes,) = genotypes.parts
        codes[0], codes[1, ::2] = 2 * STEPS[bits], 2 * STEPS[bits]
        codes[0, 5] = 0
        genotypes = standardise([codes], n, bits)
    B = np.where(np.arange(n) % 50 == 0, -1e-3, 1.0)[:, None]
    found = IntegerProducts(genotypes, fused_columns=0).zt(B)
    np.testing.assert_array_equal(found, by_formula(genotypes, B, 3).astype(np.float32))


@needs_bytes
@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_eight_digits_are_as_exact_as_float64(bits, missing):
    n, m = 503, 301
    genotypes = genotypes_of(1, n, m, missing) if bits == 2 else dosages_of(1, n, m, bits, missing)
    rng = np.random.default_rng(2)
    B, U, w = rng.standard_normal((n, 5)), rng.standard_normal((m, 5)), rng.random(m)
    Z = 0
    for G, there, _, base, above, unit in _planes(genotypes):
        Z = Z + ((G - base).astype(np.longdouble) - above) * there * (genotypes.inv_sd * np.longdouble(unit))
    exact = (Z.T @ B, Z @ U, Z @ (w[:, None] * (Z.T @ B)))
    worst = []
    for products in (CpuProducts(genotypes, np.float64), IntegerProducts(genotypes, np.float64)):
        found = (products.zt(B), products.z(U), products.weighted(B, w))
        errors = [np.linalg.norm((f - e).astype(float), axis=0) for f, e in zip(found, exact, strict=True)]
        norms = [np.linalg.norm(e.astype(float), axis=0) for e in exact]
        worst.append([(e / norm).max() for e, norm in zip(errors, norms, strict=True)])
    assert (np.array(worst[1]) <= worst[0]).all()
    assert max(worst[1]) < 4e-16


@needs_bytes
@pytest.mark.parametrize(
    ("bits", "dtype", "taken"),
    [
        (2, np.float64, True),
        (8, np.float32, True),
        (8, np.float64, True),
        (16, np.float64, True),
        (16, np.float32, False),
    ],
)
def test_integers_are_taken_where_they_are_no_slower(bits, dtype, taken):
    genotypes = genotypes_of(1, 100, 50) if bits == 2 else dosages_of(1, 100, 50, bits)
    assert isinstance(make_products(genotypes, "cpu", dtype), IntegerProducts) == taken


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
    integers = f"products of more than 348 columns in integers ({taken}, 3 digits), of fewer in float32"
    assert products.arithmetic == ("float32 products" if taken is None else integers)


@needs_bytes
def test_few_samples_take_float32_products_for_more_columns():
    genotypes, rng = genotypes_of(13, 1000, 300), np.random.default_rng(14)
    B = rng.standard_normal((1000, 61)).astype(np.float32)
    products, float32 = IntegerProducts(genotypes), CpuProducts(genotypes, fused_columns=60)
    assert products.fused_columns == 60
    assert by_integers.fused_columns(500_000) == 28
    np.testing.assert_array_equal(products.zt(B[:, :60]), float32.zt(B[:, :60]))
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
