"""The CUDA kernels: what they compile to, without a device, and their arithmetic, in numba's simulator or on a device.

The simulator replaces numba's compiler for a whole process, so it has a process of its own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpu_reml.ops import pack, standardise
from gpu_reml.ops.cuda_device import missing_toolkit_libraries, simulating

MISSING_LIBRARIES = missing_toolkit_libraries()
if not MISSING_LIBRARIES:  # numba.cuda cannot be imported without cudart
    from numba import cuda

    from gpu_reml.ops import cuda_kernels as kernels
    from gpu_reml.ops.cuda import make_cuda_products

KERNELS = ["zt", "z", "diag"]
ARCHITECTURES = [(8, 0), (9, 0)]
REGISTERS_OF_A_MULTIPROCESSOR = 65536
STATIC_SHARED_BYTES = 48 * 1024
SEGMENT, SEGMENTS = 512, 4
LONG = SEGMENTS * SEGMENT + 3  # four ones after the first term
LONG_SUM = np.float32(2**24 + SEGMENTS)

importable = pytest.mark.skipif(bool(MISSING_LIBRARIES), reason=f"not found: {', '.join(MISSING_LIBRARIES)}")
outside_simulator = pytest.mark.skipif(simulating(), reason="the simulator replaces numba's CUDA compiler")


def compile_kernel(name, cc, output="ptx"):
    kernel, signature = getattr(kernels, f"{name}_kernel"), getattr(kernels, f"SIG_{name.upper()}")
    return cuda.compile(kernel.py_func, signature, device=False, abi="numba", cc=cc, output=output)[0]


@importable
@outside_simulator
@pytest.mark.parametrize("cc", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_float32_kernels_have_no_float64_and_no_local_memory(name, cc):
    ptx = compile_kernel(name, cc)
    assert f".target sm_{cc[0]}{cc[1]}" in ptx
    assert "fma.rn.f32" in ptx
    assert ".f64" not in ptx
    assert ".local" not in ptx  # covers ld.local, st.local and the local depot


@importable
@outside_simulator
@pytest.mark.parametrize("cc", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_fit_the_device_without_stack_or_spills(name, cc):
    core = pytest.importorskip("cuda.core", reason="the resource report needs cuda-core >= 0.5")
    code = core.ObjectCode.from_ltoir(compile_kernel(name, cc, "ltoir"), name=name)
    options = core.LinkerOptions(arch=f"sm_{cc[0]}{cc[1]}", link_time_optimization=True, ptxas_options=["-v"])
    linker = core.Linker(code, options=options)
    linker.link("cubin")
    report = linker.get_info_log() + linker.get_error_log()
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert frames and set(frames) == {("0", "0", "0")}, report
    registers = max(int(count) for count in re.findall(r"Used (\d+) registers", report))
    assert 2 * kernels.MAX_THREADS * registers <= REGISTERS_OF_A_MULTIPROCESSOR, report
    assert max([0, *(int(size) for size in re.findall(r"(\d+) bytes smem", report))]) <= STATIC_SHARED_BYTES, report


@importable
@outside_simulator
def test_the_gpu_tests_pass_in_the_simulator():
    """Same tests as on a device; --require-gpu makes a skipped one a failure."""
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "--require-gpu", "-p", "no:xdist", "-m", "gpu and not device"]
    files = [str(folder / "test_cuda.py"), str(folder / "test_cuda_kernels.py")]
    result = subprocess.run(
        command + files, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True, cwd=folder
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"\d+ passed", result.stdout) and "skipped" not in result.stdout, result.stdout


def on_device(array, dtype=np.float32):
    return cuda.to_device(np.ascontiguousarray(array, dtype))


def ones_everywhere(b, n):
    """Packed genotypes of b variants and n samples, and a table, in which every genotype is 1."""
    return on_device(np.zeros((b, (n + 3) // 4)), np.uint8), on_device(np.ones((b, 4)))


def large_then_ones(terms):
    """2^24 at the start, then one 1 in each later segment: a float32 sum without compensation stays at 2^24."""
    column = np.zeros(terms, np.float32)
    column[SEGMENT::SEGMENT] = 1
    column[0] = 2.0**24
    return column


@pytest.mark.gpu
def test_sums_over_samples_are_compensated_from_segment_to_segment():
    packed, values = ones_everywhere(1, LONG)
    U = on_device(np.full((1, 1), np.nan))
    grid, block = kernels.launch_shape(1, 1, 32)
    kernels.zt_kernel[grid, block](packed, values, on_device(large_then_ones(LONG)[:, None]), U)
    np.testing.assert_array_equal(U.copy_to_host(), [[LONG_SUM]])


@pytest.mark.gpu
def test_sums_over_variants_are_compensated_and_join_what_was_there():
    packed, values = ones_everywhere(LONG, 2)
    variants, ones = on_device(np.arange(LONG), np.int64), on_device(np.ones(LONG))
    U = on_device(large_then_ones(LONG)[:, None])
    out = on_device([[0.0], [-(2.0**24)]])
    grid, block = kernels.launch_shape(2, 1, 32)
    kernels.z_kernel[grid, block](packed, values, variants, ones, U, out)
    np.testing.assert_array_equal(out.copy_to_host()[:, 0], [LONG_SUM, SEGMENTS])


@pytest.mark.gpu
def test_diagonal_sums_are_compensated_and_join_what_was_there():
    packed, values = ones_everywhere(LONG, 2)
    variants, weights = on_device(np.arange(LONG), np.int64), on_device(large_then_ones(LONG))
    out = on_device([0.0, -(2.0**24)])
    kernels.diag_kernel[1, 32](packed, values, variants, weights, out)
    np.testing.assert_array_equal(out.copy_to_host(), [LONG_SUM, SEGMENTS])


@pytest.mark.gpu
def test_a_kernel_writes_only_inside_its_result():
    """Guard rows and columns around U keep their value: the tiles that stick out write nothing."""
    n, b, k = 6, 3, 2
    packed, values = ones_everywhere(b, n)
    guarded = on_device(np.full((b + 2, k), -7.0))
    grid, block = kernels.launch_shape(b, k, 32)
    kernels.zt_kernel[grid, block](packed, values, on_device(np.ones((n, k))), guarded[1 : b + 1])
    np.testing.assert_array_equal(guarded.copy_to_host()[:, 0], [-7, n, n, n, -7])


@importable
@pytest.mark.parametrize("threads", [32, 96, 256])
@pytest.mark.parametrize("columns", [1, 8, 9, 32, 33, 130])
def test_launch_shape_covers_the_result_within_the_shared_tiles(columns, threads):
    (row_tiles, column_tiles), (x, y) = kernels.launch_shape(1000, columns, threads)
    rows = kernels.OUTPUTS * y
    assert x * y <= threads
    assert (row_tiles - 1) * rows < 1000 <= row_tiles * rows
    assert (column_tiles - 1) * x < columns <= column_tiles * x
    assert rows < kernels.Z_TILE[1] and x <= kernels.RIGHT_TILE[1]


@pytest.mark.gpu
@pytest.mark.device
def test_offsets_beyond_two_gigabytes_are_reached():
    """The last variants of 2.2 GB of packed genotypes; on a device only, the simulator would take hours."""
    n, m = 1 << 20, 8400
    rng = np.random.default_rng(5)
    packed = np.zeros((m, n // 4), np.uint8)
    counts = rng.integers(0, 3, (n, 2)).astype(np.int8)
    packed[-2:] = pack(counts)
    products = make_cuda_products(standardise([packed], n))
    Z = (counts - counts.mean(axis=0)) / counts.std(axis=0)
    B, w = rng.standard_normal((n, 1)), np.zeros(m)
    w[-2:] = 0.5, 2.0
    U = products.zt(B)
    assert not U[:-2].any()
    np.testing.assert_allclose(U[-2:], Z.T @ B, atol=1e-6 * np.sqrt(n) * 10)
    expected = Z @ (w[-2:, None] * (Z.T @ B))
    assert np.abs(products.weighted(B, w) - expected).max() <= 1e-5 * np.abs(expected).max()
