"""What the tensor-core kernels compile to, without a device: no local memory, bounded registers, HMMA."""

import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating

MISSING_LIBRARIES = missing_toolkit_libraries()
if not MISSING_LIBRARIES and not simulating():
    from cuda import pathfinder

    from gpu_reml.ops.cuda import fragments, layout, tensor
    from gpu_reml.validation.cuda_compile import compile_kernel, count_instructions, disassemble

pytestmark = [
    pytest.mark.skipif(bool(MISSING_LIBRARIES), reason=f"not found: {', '.join(MISSING_LIBRARIES)}"),
    pytest.mark.skipif(simulating(), reason="the simulator replaces numba's CUDA compiler"),
]

SM_80, SM_90A = (8, 0), (9, 0, "a")
STATIC_SHARED_BYTES = 48 * 1024
REGISTERS_OF_A_MULTIPROCESSOR = 65536
# Most registers of a thread by number of column tiles.
ZT_REGISTERS = {1: 128, 2: 128, 4: 128, 5: 184, 8: 255}
Z_REGISTERS = {1: 104, 2: 128, 4: 224, 5: 168, 8: 232}
CASES = [(tiles, SM_90A) for tiles in ZT_REGISTERS] + [(tiles, SM_80) for tiles in (1, 4, 8)]
OPERAND_KERNELS = [
    "list_rows",
    "take_rows",
    "sample_partials",
    "variant_partials",
    "fold",
    "sample_fragments",
    "variant_fragments",
]


def assert_tensor_kernel(resources, threads, blocks, num_registers):
    """Fits the device ``blocks`` times, keeps everything in registers, multiplies on tensor cores in float32."""
    print(resources)
    assert not resources.warnings
    assert (resources.stack, resources.spills) == (0, 0), resources
    assert resources.registers <= num_registers, resources
    allocated = 8 * -(-resources.registers // 8)  # registers are given in eights
    assert blocks * threads * allocated <= REGISTERS_OF_A_MULTIPROCESSOR, resources
    assert resources.shared <= STATIC_SHARED_BYTES, resources
    assert ".f64" not in resources.ptx and ".local" not in resources.ptx
    assert resources.ptx.count("mma.sync.aligned.m16n8k16") > 0


@pytest.mark.parametrize(("tiles", "cc"), CASES)
def test_zt_fits_the_device(tiles, cc):
    resources = compile_kernel(tensor.make_zt_kernel(tiles), tensor.SIG_ZT, cc)
    assert_tensor_kernel(resources, 32 * tensor.ZT_WARPS, 2 if tiles <= 4 else 1, ZT_REGISTERS[tiles])
    steps = layout.sample_stage_steps(tiles)
    assert_instructions(resources, num_mma=2 * 2 * steps * tiles)


@pytest.mark.parametrize(("tiles", "cc"), CASES)
def test_z_fits_the_device(tiles, cc):
    resources = compile_kernel(tensor.make_z_kernel(tiles), tensor.SIG_Z, cc)
    threads = 32 * tensor.z_warps(tiles)
    assert_tensor_kernel(resources, threads, 4 if tiles <= 2 else 2 if tiles <= 4 else 1, Z_REGISTERS[tiles])
    m_tiles = 16 // tensor.z_warps(tiles)
    assert_instructions(resources, num_mma=2 * m_tiles * layout.variant_stage_steps(tiles) * tiles)


def assert_instructions(resources, num_mma):
    """Machine code: the products of one stage and no more, shared memory and no local, copies that do not wait."""
    if pathfinder.find_nvidia_binary_utility("nvdisasm") is None:
        return  # the PTX has been looked at
    counts = count_instructions(disassemble(resources.cubin))
    assert counts["HMMA"] == num_mma
    assert counts["LDGSTS"] > 0 and counts["LDS"] > 0
    for unwanted in ("DFMA", "DADD", "DMUL", "LDL", "STL", "LD", "ST", "F2F"):
        assert counts[unwanted] == 0, f"{counts[unwanted]} x {unwanted}"


@pytest.mark.parametrize("name", OPERAND_KERNELS)
def test_operand_kernels_fit_the_device(name):
    kernel, signature = getattr(fragments, f"{name}_kernel"), getattr(fragments, f"SIG_{name.upper()}")
    resources = compile_kernel(kernel, signature, SM_80)
    assert not resources.warnings
    assert (resources.stack, resources.spills) == (0, 0), resources
    assert resources.registers <= 48, resources
    assert (".f64" in resources.ptx) == (name in ("sample_partials", "variant_partials", "fold"))


def test_the_sum_of_parts_fits_the_device():
    resources = compile_kernel(tensor.sum_parts_kernel, tensor.SIG_SUM_PARTS, SM_80)
    assert (resources.stack, resources.spills) == (0, 0), resources
    assert resources.registers <= 40 and ".f64" not in resources.ptx
