"""The interpreter of PTX itself: small kernels of which it is known what is right and what is not."""

from pathlib import Path

import numpy as np
import pytest

from gpu_reml.ops.cuda.driver import missing_toolkit_libraries, simulating

pytestmark = [
    pytest.mark.skipif(bool(missing_toolkit_libraries()), reason="numba.cuda cannot be imported without cudart"),
    pytest.mark.skipif(simulating(), reason="the simulator compiles nothing"),
]

HEAD = """
.visible .entry test(.param .u64 test_param_0)
{
.reg .pred %p<9>;
.reg .b32 %r<99>;
.reg .f32 %f<99>;
.reg .b64 %rd<99>;
.shared .align 16 .b8 memory[512];
ld.param.u64 %rd1, [test_param_0];
mov.u32 %r1, %tid.x;
mul.wide.u32 %rd2, %r1, 4;
add.s64 %rd3, %rd1, %rd2;
mov.u64 %rd4, memory;
add.s64 %rd5, %rd4, %rd2;
"""


@pytest.fixture(autouse=True)
def _interpreter_is_found(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "support"))


def run(body, schedule="lockstep", threads=64, num_words=64):
    """(what the kernel left in its array of int32, issues) of one block; %r1 is the thread, %rd3 and %rd5 its words."""
    from ptx.machine import Machine
    from ptx.memory import GlobalMemory
    from ptx.program import Kernel

    machine = Machine(GlobalMemory(1 << 20), schedule)
    array = machine.memory.allocate(4 * num_words)
    kernel = Kernel(f"{HEAD}{body}\nret;\n}}\n", "test")
    machine.launch(kernel, 1, threads, np.int64(machine.memory.address(array)).tobytes())
    return array.view("i4"), [what for what, *_ in machine.issues]


NEXT = "xor.b32 %r2, %r1, 32; mul.wide.u32 %rd6, %r2, 4; add.s64 %rd7, %rd4, %rd6;"  # the word of another warp
EXCHANGE = f"st.shared.u32 [%rd5], %r1; {NEXT} {{}} ld.shared.u32 %r3, [%rd7]; st.global.u32 [%rd3], %r3;"
SCHEDULES = ["lockstep", "reverse", "shuffled"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_words_that_are_exchanged_over_a_barrier_arrive_and_without_it_they_race(schedule):
    found, issues = run(EXCHANGE.format("bar.sync 0;"), schedule)
    np.testing.assert_array_equal(found, np.arange(64) ^ 32)
    assert not issues
    _, issues = run(EXCHANGE.format(""), schedule)
    assert any("shared race" in issue for issue in issues)


@pytest.mark.parametrize(
    ("body", "issue"),
    [
        ("st.global.u32 [%rd1], %r1;", "global race: two threads write"),
        ("ld.shared.u32 %r2, [%rd5];", "shared memory that nobody wrote"),
        ("ld.global.u32 %r2, [%rd3];", "global memory that nobody wrote"),
        ("cp.async.ca.shared.global [%rd5], [%rd3], 4; ld.shared.u32 %r2, [%rd5];", "while its copy is in flight"),
        ("cp.async.ca.shared.global [%rd5], [%rd3], 4;", "copy in flight at the end"),
        ("setp.lt.u32 %p1, %r1, 40; @%p1 bra $L; bar.sync 0; $L:", "some threads of the block do not reach"),
        ("st.shared.u32 [%rd5], %r1; bar.sync 0; shl.b32 %r2, %r1, 3; and.b32 %r2, %r2, 248; add.u32 %r3, %r2, 1024;"
         " ld.shared.u32 %r4, [%r3];", "several words of one bank"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_is_wrong_is_an_issue(body, issue, schedule):
    _, issues = run(body.replace("$L:", "\n$L:\n"), schedule)
    assert any(issue in each for each in issues), issues


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("st.global.u32 [%rd3+4], %r1;", "outside of every allocation.*1 threads"),
        ("st.global.u32 [%rd3+-4], %r1;", "outside of every allocation.*1 threads"),
        ("st.global.u32 [%rd1+2], %r1;", "global access of 4 bytes that is not aligned; 64 threads"),
        ("st.shared.u32 [%rd5+512], %r1;", "shared address outside of 512 bytes; 64 threads"),
        ("st.shared.v2.u32 [%rd5], {%r1, %r1};", "shared access of 8 bytes that is not aligned; 32 threads"),
        ("add.u32 %r2, %r3, 1;", "%r3 is read before it is written"),
        ("atom.global.add.u32 %r2, [%rd3], 1;", "line 15: atom.global.add .* is not modelled"),
        ("shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;", "shfl.sync.bfly .* is not modelled"),
        ("cp.async.cg.shared.global [%rd5], [%rd3], 8;", "cp.async.cg.* is not modelled"),
        ("cvt.rzi.s32.u32 %r2, %r1;", "cvt.rzi .* is not modelled"),
        ("add.u32 %r2, %r1;", "add .* is not modelled"),
        ("mov.u32 %r2, 0; div.u32 %r3, %r1, %r2;", "line 15: integer division by zero"),
    ],
)
def test_what_no_device_would_run_is_an_error(body, message):
    from ptx.semantics import PtxError

    with pytest.raises(PtxError, match=message):
        run(body)


VALUES = [
    ("mul.lo.s32 %r2, %r1, -7; shr.s32 %r3, %r2, 1;", lambda t: (-7 * t) >> 1),
    ("sub.u32 %r2, %r1, 9; shr.u32 %r3, %r2, 28;", lambda t: (t - 9) >> 28 & 15),
    ("shl.b32 %r3, %r1, 33;", lambda t: 0 * t),
    ("sub.s32 %r2, %r1, 9; div.s32 %r3, %r2, 4;", lambda t: np.trunc((t - 9) / 4)),
    ("sub.s32 %r2, %r1, 9; rem.s32 %r3, %r2, 4;", lambda t: np.fmod(t - 9, 4)),
    ("bfi.b32 %r3, %r1, -1, 4, 3;", lambda t: ~0x70 | (t & 7) << 4),
    ("prmt.b32 %r3, %r1, 128, 0x4C04;", lambda t: (128 << 24 | 0xFF << 16 | (t & 255) << 8 | 128) - 2**32),
    ("setp.lt.s32 %p1, %r1, 5; selp.s32 %r3, 1, 2, %p1;", lambda t: np.where(t < 5, 1, 2)),
    ("cvt.rn.f32.u32 %f1, %r1; neg.f32 %f1, %f1; mul.f32 %f2, %f1, 0f3F000000; cvt.rzi.s32.f32 %r3, %f2;",
     lambda t: -(t // 2)),
    ("mul.wide.s32 %rd6, %r1, -65536; mul.lo.s64 %rd7, %rd6, 65536; shr.s64 %rd7, %rd7, 32; cvt.u32.u64 %r3, %rd7;",
     lambda t: -t),
    ("mov.f32 %f1, 0f7FC00000; setp.gtu.f32 %p1, %f1, %f1; setp.eq.f32 %p2, %f1, %f1; selp.s32 %r2, 1, 0, %p1;"
     " selp.s32 %r3, 5, %r2, %p2;", lambda t: 1 + 0 * t),
    ("mov.u32 %r3, 7; setp.ge.s32 %p1, %r1, 40; @%p1 bra $L; add.s32 %r3, %r1, 1; $L:",
     lambda t: np.where(t >= 40, 7, t + 1)),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), VALUES, ids=[body.split(";")[-2].split()[0] for body, _ in VALUES])
@pytest.mark.parametrize("schedule", ["lockstep", "reverse"])
def test_instructions_do_what_the_isa_says(body, expected, schedule):
    found, issues = run(body.replace("$L:", "\n$L:\n") + "st.global.u32 [%rd3], %r3;", schedule)
    np.testing.assert_array_equal(found, expected(np.arange(64)))
    assert not issues


def test_a_fused_multiply_add_is_rounded_once():
    from ptx.semantics import fma

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4000)).astype(np.float32)
    c = (-(a.astype(np.longdouble) * b) * (1 + rng.integers(-3, 4, 4000) * 2.0**-30)).astype(np.float32)
    exact = a.astype(np.longdouble) * b + c  # 64 bits hold the product, and the sum of nearly opposite numbers
    np.testing.assert_array_equal(fma(a, b, c), exact.astype(np.float32))
    assert (a * b + c != exact.astype(np.float32)).any()
