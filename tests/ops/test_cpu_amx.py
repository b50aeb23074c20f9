"""Products by AMX: the machine code that runs on such processors, with the tile instructions emulated."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding

from gpu_reml.ops import cpu_amx, cpu_integers, cpu_vnni, pack, standardise

SUPPORT = Path(__file__).parents[1] / "support" / "amx"
TILES = {"amx-tile": True, "amx-int8": True}
CASES = "bits_are or chunk or finite"  # of the tests of integer products


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """What run.py prints after the tests of integer products: counted instructions and assembler."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("the emulator is built by gcc, for Linux")
    host = binding.get_host_cpu_features()
    if not host.get("avx2"):
        pytest.skip("the emulator is for x86-64 with AVX2")
    folder = tmp_path_factory.mktemp("amx")
    library = folder / "emulator.so"
    subprocess.run(["gcc", "-O3", "-shared", "-fPIC", "-o", library, SUPPORT / "emulator.c"], check=True, timeout=60)
    features = ",".join(("+" if on else "-") + name for name, on in sorted((dict(host) | TILES).items()))
    settings = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(folder)}
    plain = [argument for name in ("cacheprovider", "faulthandler") for argument in ("-p", f"no:{name}")]
    tests = [Path(__file__).with_name("test_integers.py"), "-q", "-x", "-k", CASES, *plain]
    done = subprocess.run(
        [sys.executable, SUPPORT / "run.py", library, *tests],
        env=os.environ | settings | {"NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-2000:])
    *lines, last = done.stdout.splitlines()
    return json.loads(last) | {"passed": int(re.search(r"(\d+) passed", lines[-1]).group(1))}


def test_tiles_give_the_bits_of_the_formula_on_two_threads(emulated):
    assert emulated["passed"] == 3
    assert emulated["counters"][0] > 10_000  # tile products


def test_every_task_that_configures_tiles_releases_them(emulated):
    _, configurations, releases, _ = emulated["counters"]
    assert configurations == releases > 100


def test_a_row_of_a_tile_lies_in_one_cache_line(emulated):
    assert emulated["counters"][3] == 0


@pytest.mark.parametrize(("kernel", "instruction"), [("_zt", "tdpbusd"), ("_z", "tdpbsud")])
def test_the_inner_loop_has_four_products_for_four_loads_and_nothing_is_spilled(emulated, kernel, instruction):
    assembler = emulated["assembler"][kernel]
    labelled = re.findall(r"^\.(L\w+):\n(.*?)(?=^\.L\w+:|\Z)", assembler, re.MULTILINE | re.DOTALL)
    loops = [block[: block.index(f".{name}\n")] for name, block in labelled if f".{name}\n" in block]  # jump to start
    inner = [loop for loop in loops if "tilestored" not in loop and re.search(instruction + ".*%tmm3\n", loop)]
    assert inner
    for loop in inner:
        products = len(re.findall(instruction, loop))
        assert sorted(re.findall(r"tileloadd\t.*%tmm(\d)", loop)) == sorted("4567" * (products // 4))
        assert len(loop.splitlines()) <= 4 * products
    assert set(re.findall(r"tilestored\t%tmm(\d)", assembler)) == set("0123")
    assert not re.findall(r"tile(?:load|store)d+\t.*\(%rsp", assembler)


CROSS = """
import re
from gpu_reml.ops.cpu_amx_tiles import multiply_columns, multiply_rows
for kernel, calls in ((multiply_rows, "uint32[:, ::1]"), (multiply_columns, "uint32[:, :, ::1]")):
    kernel.compile(f"void({calls}, int8[:, :, :, ::1], int64, int64, int32[:, ::1])")
    (text,) = kernel.inspect_asm().values()
    print(*sorted(set(re.findall(r"\\b(tdpb\\w+|tile\\w+)\\t", text))))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="machine code of x86-64")
def test_any_machine_compiles_tile_instructions_for_a_processor_that_has_them(tmp_path):
    target = {"NUMBA_CPU_NAME": "sapphirerapids", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CROSS], env=os.environ | target, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["tdpbusd tileloadd tilestored", "tdpbsud tileloadd tilestored"]


def test_a_processor_without_tiles_is_not_asked_for_permission(monkeypatch):
    asked = []
    monkeypatch.setattr(cpu_amx, "compiled_for", lambda: {"+avx512f", "+amx-tile"})
    monkeypatch.setattr(cpu_amx, "permitted", lambda: asked.append(1) or True)
    assert not cpu_amx.available.__wrapped__()
    assert not asked


@pytest.mark.parametrize("answer", [True, False])
def test_tiles_are_used_where_the_system_permits_them(monkeypatch, answer):
    monkeypatch.setattr(cpu_amx, "compiled_for", lambda: {"+avx512f", "+amx-tile", "+amx-int8"})
    monkeypatch.setattr(cpu_amx, "permitted", lambda: answer)
    assert cpu_amx.available.__wrapped__() == answer


@pytest.mark.parametrize(
    ("has", "answer", "refused"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_log_says_that_the_system_refuses_the_tiles_that_the_processor_has(monkeypatch, has, answer, refused):
    monkeypatch.setattr(cpu_amx, "compiled_for", lambda: cpu_amx.FEATURES if has else set())
    monkeypatch.setattr(cpu_amx, "permitted", lambda: answer)
    monkeypatch.setattr(cpu_amx, "available", cpu_amx.available.__wrapped__)
    genotypes = standardise([pack(np.random.default_rng(0).binomial(2, 0.3, (70, 9)).astype(np.int8))], 70)
    vnni = cpu_vnni.KERNELS._replace(instruction="AVX-VNNI", available=lambda: True)
    said = cpu_integers.IntegerProducts(genotypes, np.float64, kernels=vnni).arithmetic
    assert said == f"products in integers (AVX-VNNI{', since the system refuses AMX' * refused}, 8 digits)"


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="only x86-64 Linux is asked")
def test_linux_permits_tiles_where_the_processor_has_them_and_only_there():
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE).group(1).split()
    assert cpu_amx.permitted() == ("amx_tile" in flags)
