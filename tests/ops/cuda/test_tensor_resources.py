"""What the tensor-core kernels compile to, without a device: no local memory, bounded registers, IMMA."""

import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating

MISSING_LIBRARIES = missing_toolkit_libraries()
if not MISSING_LIBRARIES and not simulating():
    from cuda import pathfinder
    from numba.cuda.types import float32, float64

    from gpu_reml.ops.cuda import layout, operands, tensor, tensor_products
    from gpu_reml.ops.integers import DIGITS
    from gpu_reml.validation.cuda_compile import compile_kernel, count_instructions, disassemble

pytestmark = [
    pytest.mark.skipif(bool(MISSING_LIBRARIES), reason=f"not found: {', '.join(MISSING_LIBRARIES)}"),
    pytest.mark.skipif(simulating(), reason="the simulator replaces numba's CUDA compiler"),
]

SM_80, SM_90A = (8, 0), (9, 0, "a")
STATIC_SHARED_BYTES = 48 * 1024
REGISTERS_OF_A_MULTIPROCESSOR = 65536
# Most registers of a thread by number of column tiles.
ZT_REGISTERS = {1: 112, 2: 128, 3: 176, 5: 240}
Z_REGISTERS = {1: 128, 2: 192, 3: 160, 5: 232}
MASK_REGISTERS = {1: 136, 2: 152, 4: 240}
CASES = [(tiles, SM_90A) for tiles in ZT_REGISTERS] + [(tiles, SM_80) for tiles in (1, 5)]


def assert_tensor_kernel(resources, threads, blocks, num_registers):
    """Fits the device ``blocks`` times, keeps everything in registers, multiplies bytes on tensor cores."""
    print(resources)
    assert not resources.warnings
    assert (resources.stack, resources.spills) == (0, 0), resources
    assert resources.registers <= num_registers, resources
    allocated = 8 * -(-resources.registers // 8)  # registers are given in eights
    assert blocks * threads * allocated <= REGISTERS_OF_A_MULTIPROCESSOR, resources
    assert resources.shared <= STATIC_SHARED_BYTES, resources
    assert ".local" not in resources.ptx and ".f32" not in resources.ptx


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("tiles", "cc"), CASES)
def test_zt_fits_the_device(tiles, cc, masks):
    resources = compile_kernel(tensor.make_zt_kernel(tiles, int(masks)), tensor.SIG_ZT, cc)
    assert_tensor_kernel(resources, 32 * tensor.ZT_WARPS, 2 if tiles <= 2 else 1, ZT_REGISTERS[tiles])
    steps = layout.sample_stage_steps(DIGITS * tiles)
    assert_instructions(resources, num_mma=2 * 2 * steps * DIGITS * tiles, genotypes=16 * 4 * steps)


@pytest.mark.parametrize(("tiles", "cc"), CASES)
def test_z_fits_the_device(tiles, cc):
    assert_z_fits(tiles, cc, DIGITS, Z_REGISTERS)


@pytest.mark.parametrize("tiles", MASK_REGISTERS)
def test_z_of_masks_fits_the_device(tiles):
    assert_z_fits(tiles, SM_90A, layout.MASK_DIGITS, MASK_REGISTERS)


def assert_z_fits(tiles, cc, digits, registers):
    resources = compile_kernel(tensor.make_z_kernel(tiles, int(digits > DIGITS)), tensor.SIG_Z, cc)
    warps, steps = tensor.z_warps(digits * tiles), layout.variant_stage_steps(digits * tiles)
    blocks = {3: 3, 4: 3, 6: 2}.get(digits * tiles, 1)
    assert_tensor_kernel(resources, 32 * warps, blocks, registers[tiles])
    m_tiles = 16 // warps
    assert_instructions(resources, 2 * m_tiles * steps * digits * tiles, genotypes=32 * m_tiles * steps)


@pytest.mark.parametrize("plane", ["BYTES", "HIGH_BYTES", "WORD_MASKS"])
@pytest.mark.parametrize("tiles", [1, 4])
def test_kernels_of_dosages_fit_the_device(tiles, plane):
    plane = getattr(tensor, plane)
    steps = layout.sample_stage_steps(DIGITS * tiles)
    made = [(tensor.make_zt_kernel(tiles, plane), tensor.SIG_ZT, 32 * tensor.ZT_WARPS, 2 * steps * DIGITS * tiles)]
    digit_tiles = (layout.MASK_DIGITS if plane in tensor.MASKS else DIGITS) * tiles
    m_tiles = 16 // tensor.BITS_OF[plane]
    steps = layout.variant_stage_steps(digit_tiles)
    made.append((tensor.make_z_kernel(tiles, plane), tensor.SIG_Z, 64, 2 * m_tiles * steps * digit_tiles))
    for kernel, signature, threads, num_mma in made:
        resources = compile_kernel(kernel, signature, SM_90A)
        assert_tensor_kernel(resources, threads, 1, 240)
        if pathfinder.find_nvidia_binary_utility("nvdisasm") is not None:
            assert count_instructions(disassemble(resources.cubin))["IMMA"] == num_mma


MOST_OPERATIONS = 0.75  # on integers for each genotype, those that find addresses included


def assert_instructions(resources, num_mma, genotypes):
    """Machine code: the products of one stage and no more, shared memory and no local, copies that do not wait, and few
    operations for each of the genotypes that a lane decodes in a stage."""
    if pathfinder.find_nvidia_binary_utility("nvdisasm") is None:
        return  # the PTX has been looked at
    sass = disassemble(resources.cubin)
    counts = count_instructions(sass)
    assert counts["IMMA"] == num_mma
    assert counts["LDGSTS"] > 0 and counts["LDS"] > 0
    for unwanted in ("HMMA", "LDL", "STL", "LD", "ST", "F2F", "FFMA", "DFMA"):
        assert counts[unwanted] == 0, f"{counts[unwanted]} x {unwanted}"
    first, last = (find("IMMA") for find in (sass.index, sass.rindex))
    between = count_instructions(sass[first:last])
    decoding = sum(between[name] for name in ("LOP3", "SHF", "PRMT", "IADD3", "IMAD"))
    print(f"{decoding / genotypes:.2f} operations a genotype")
    assert decoding <= MOST_OPERATIONS * genotypes


@pytest.mark.parametrize("name", ["list_rows", "take_rows", "scales", "totals", "fragments"])
def test_operand_kernels_fit_the_device(name):
    kernel, signature = getattr(operands, f"{name}_kernel"), getattr(operands, f"SIG_{name.upper()}")
    assert_fits(compile_kernel(kernel, signature, SM_80), 48)


@pytest.mark.parametrize("source", ["samples", "variants", "variants, float64"])
def test_kernels_that_make_integers_fit_the_device(source):
    weighted = source != "samples"
    assert_fits(compile_kernel(operands.make_peaks_kernel(weighted), operands.SIG_PEAKS[source], SM_80), 48)
    assert_fits(compile_kernel(operands.make_round_kernel(weighted, weighted), operands.SIG_ROUND[source], SM_80), 72)


def test_kernels_that_end_a_product_fit_the_device():
    for dtype in (float32, float64):
        assert_fits(
            compile_kernel(
                tensor_products.make_standardise_kernel(True), tensor_products.SIG_STANDARDISE[dtype], SM_80
            ),
            48,
        )
        assert_fits(compile_kernel(tensor_products.add_chunks_kernel, tensor_products.SIG_ADD_CHUNKS[dtype], SM_80), 40)
    assert_fits(compile_kernel(tensor_products.round_sums_kernel, tensor_products.SIG_ROUND_SUMS, SM_80), 40)


def assert_fits(resources, most_registers):
    assert not resources.warnings
    assert (resources.stack, resources.spills) == (0, 0), resources
    assert resources.registers <= most_registers, resources
