"""Compile CUDA kernels where there is no device, and say what they need: registers, stack, spills, instructions.

The route is numba-cuda's own at run time (libNVVM, then nvJitLink, from the CUDA wheels); only the driver is left out.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from cuda import pathfinder
from cuda.core import Linker, LinkerOptions, ObjectCode
from numba import cuda
from numba.cuda import dispatcher

NUMBER = r"(\d+)"
FRAME = re.compile(rf"{NUMBER} bytes stack frame, {NUMBER} bytes spill stores, {NUMBER} bytes spill loads")
OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.MULTILINE)


@dataclass(frozen=True)
class Resources:
    """What ptxas reports: registers, bytes of stack and of spills of a thread, bytes of shared memory of a block."""

    registers: int
    stack: int
    spills: int
    shared: int
    warnings: tuple[str, ...]
    cubin: bytes
    ptx: str

    def __str__(self) -> str:
        return f"{self.registers} registers, {self.stack} B stack, {self.spills} B spills, {self.shared} B shared"


def compile_kernel(kernel, signature: tuple, cc: tuple = (9, 0, "a")) -> Resources:
    """Compile a lazily decorated ``kernel`` for argument types ``signature`` and compute capability ``cc``.

    cc: (major, minor) or (major, minor, "a") for the features of one architecture, as numba-cuda takes on a Hopper
    device.  The PTX is that of the link-time optimisation, so device functions are inlined in it.
    """
    code, limit = _lto_code(kernel, signature, cc), kernel.targetoptions.get("max_registers")
    options = LinkerOptions(arch=_arch(cc), link_time_optimization=True, max_register_count=limit, ptxas_options=["-v"])
    cubin, report = _link(code, kernel.__name__, options, "cubin")
    return _resources(report, cubin, _ptx(code, kernel.__name__, cc))


def compile_ptx(kernel, signature: tuple, cc: tuple = (9, 0, "a")) -> str:
    """The PTX of the link-time optimisation, which is what :func:`compile_kernel` makes machine code of."""
    return _ptx(_lto_code(kernel, signature, cc), kernel.__name__, cc)


def _lto_code(kernel, signature: tuple, cc: tuple) -> bytes:
    options = kernel.targetoptions
    # a kernel that calls device functions asks the driver which device there is
    device = SimpleNamespace(compute_capability=cc[:2])
    with mock.patch.object(dispatcher, "get_current_device", lambda: device):
        code, _ = cuda.compile(
            kernel.py_func,
            signature,
            device=False,
            abi="numba",
            cc=cc,
            fastmath=bool(options.get("fastmath")),
            launch_bounds=options.get("launch_bounds"),
            output="ltoir",
        )
    return code


def _arch(cc: tuple) -> str:
    return "sm_" + "".join(map(str, cc))


def _ptx(code: bytes, name: str, cc: tuple) -> str:
    return _link(code, name, LinkerOptions(arch=_arch(cc), link_time_optimization=True, ptx=True), "ptx")[0].decode()


def _link(code: bytes, name: str, options: LinkerOptions, kind: str) -> tuple[bytes, str]:
    linker = Linker(ObjectCode.from_ltoir(code, name=name), options=options)
    made = linker.link(kind).code
    return bytes(made), linker.get_info_log() + linker.get_error_log()


def _resources(report: str, cubin: bytes, ptx: str) -> Resources:
    frames = [tuple(map(int, frame)) for frame in FRAME.findall(report)]
    registers = [int(count) for count in re.findall(rf"Used {NUMBER} registers", report)]
    if not frames or not registers:
        raise RuntimeError(f"no ptxas report in the log of the link:\n{report}")
    return Resources(
        registers=max(registers),
        stack=max(frame[0] for frame in frames),
        spills=max(frame[1] + frame[2] for frame in frames),
        shared=max([0, *map(int, re.findall(rf"{NUMBER} bytes smem", report))]),
        warnings=tuple(line.strip() for line in report.splitlines() if "warning" in line.lower()),
        cubin=cubin,
        ptx=ptx,
    )


def disassemble(cubin: bytes) -> str:
    """The machine code (SASS) of a ``cubin``; needs nvdisasm (wheel nvidia-cuda-nvdisasm, or a CUDA toolkit)."""
    tool = pathfinder.find_nvidia_binary_utility("nvdisasm")
    if tool is None:
        raise RuntimeError("nvdisasm not found; pip install nvidia-cuda-nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return subprocess.run([tool, "-c", str(path)], capture_output=True, text=True, check=True).stdout


def count_instructions(sass: str) -> Counter:
    """How often each machine instruction occurs, without its modifiers: ``{"IMMA": 64, "LDS": 36, ...}``."""
    return Counter(OPCODE.findall(sass))
