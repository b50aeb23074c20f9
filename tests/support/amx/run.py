"""Run tests of integer products by AMX, emulated; a process of its own, which prints JSON as its last line.

python run.py EMULATOR PYTEST_ARGUMENTS    (numba compiles for amx-tile and amx-int8 by NUMBA_CPU_FEATURES)
"""

import ctypes
import json
import sys

import pytest

from gpu_reml.ops import cpu_amx, cpu_sums

COUNTERS = ("amx_products", "amx_configurations", "amx_releases", "amx_split")


def main() -> int:
    emulator = ctypes.CDLL(sys.argv[1])
    for name in COUNTERS:
        getattr(emulator, name).restype = ctypes.c_uint64
    if emulator.amx_install() != 0:
        return 2
    cpu_amx.permitted = lambda: True  # the system of a machine without tiles refuses
    status = pytest.main(sys.argv[2:])
    text = {name: "\n".join(getattr(cpu_sums, name).inspect_asm().values()) for name in ("_zt", "_z")}
    print(json.dumps({"counters": [getattr(emulator, name)() for name in COUNTERS], "assembler": text}))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
