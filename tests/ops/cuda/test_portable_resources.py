"""What the portable kernels compile to, without a device: no spills, bounded registers, the precision they promise."""

import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating

MISSING_LIBRARIES = missing_toolkit_libraries()
if not MISSING_LIBRARIES:  # numba.cuda cannot be imported without cudart
    from gpu_reml.ops.cuda import algebra, portable, tiles, weights

if not MISSING_LIBRARIES and not simulating():
    from gpu_reml.validation.cuda_compile import compile_kernel

pytestmark = [
    pytest.mark.skipif(bool(MISSING_LIBRARIES), reason=f"not found: {', '.join(MISSING_LIBRARIES)}"),
    pytest.mark.skipif(simulating(), reason="the simulator replaces numba's CUDA compiler"),
]

NARROW, WIDE = True, False
ELEMENTWISE = ["combine", "scale", "take", "put", "spread", "fill"]
STATIC_SHARED_BYTES = 48 * 1024
# Thread blocks of 256: four of the narrow ones and two of the wide ones share 65,536 registers.
NARROW_REGISTERS, WIDE_REGISTERS = 64, 128


def float32_kernels():
    """{name: (kernel, signature, most registers)}."""
    kernels = {
        name: (getattr(algebra, f"{name}_kernel"), getattr(algebra, f"SIG_{name.upper()}"), 32) for name in ELEMENTWISE
    }
    for narrow, limit in ((NARROW, NARROW_REGISTERS), (WIDE, WIDE_REGISTERS)):
        width = "narrow" if narrow else "wide"
        kernels[f"matmul {width}"] = algebra.make_matmul_kernel(narrow), algebra.SIG_MATMUL, limit
        kernels[f"blocks {width}"] = weights.make_blocks_kernel(narrow), weights.SIG_BLOCKS, limit
        for bits in (2, 8) if narrow else (2, 16):  # the dosages differ in a type only
            kernels[f"zt {bits} {width}"] = portable.make_zt_kernel(bits, narrow), portable.SIG_ZT[bits], limit
            kernels[f"z {bits} {width}"] = portable.make_z_kernel(bits, narrow, True), portable.SIG_Z[bits], limit
    for bits in (2, 16):
        kernels[f"diag {bits}"] = portable.make_diag_kernel(bits, True), portable.SIG_DIAG[bits], 40
    kernels["z 2 wide, all rows"] = portable.make_z_kernel(2, WIDE, False), portable.SIG_Z[2], WIDE_REGISTERS
    kernels["join"] = tiles.join_kernel, tiles.SIG_JOIN["float32"], 40
    return kernels


def float64_kernels():
    return {
        "dots": (algebra.make_dots_kernel(False, False), algebra.SIG_DOTS, 64),
        "weighted dots": (algebra.make_dots_kernel(True, True), algebra.SIG_DOTS, 64),
        "column sums": (algebra.column_sums_kernel, algebra.SIG_COLUMN_SUMS, 40),
        "gram": (algebra.make_gram_kernel(False, False), algebra.SIG_GRAM, 128),
        "weighted gram": (algebra.make_gram_kernel(True, True), algebra.SIG_GRAM, 128),
        "join float64": (tiles.join_kernel, tiles.SIG_JOIN["float64"], 40),
    }


KERNELS = {} if MISSING_LIBRARIES or simulating() else float32_kernels() | float64_kernels()
DOUBLE = set() if MISSING_LIBRARIES or simulating() else set(float64_kernels())


ARCHITECTURES = {"sm_80": (8, 0), "sm_90a": (9, 0, "a")}
# On the newer one those near their limit: it has the same registers, and compiling is most of the tests' time.
COMPILED = [(name, arch) for name in KERNELS for arch in ARCHITECTURES if arch == "sm_80" or KERNELS[name][2] > 64]


@pytest.mark.parametrize(("name", "arch"), COMPILED)
def test_kernels_fit_the_device_and_have_only_the_precision_they_should(name, arch):
    kernel, signature, most_registers = KERNELS[name]
    resources = compile_kernel(kernel, signature, ARCHITECTURES[arch])
    assert not resources.warnings
    assert (resources.stack, resources.spills) == (0, 0), resources
    assert resources.registers <= most_registers, resources
    assert resources.shared <= STATIC_SHARED_BYTES, resources
    assert ".local" not in resources.ptx
    assert (".f64" in resources.ptx) == (name in DOUBLE)
