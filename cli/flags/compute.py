"""On what, in which precision and in how much memory the work is done."""

import argparse
from dataclasses import dataclass

from ..numbers import count, gibibytes, positive_int, threads
from ..wording import in_flags
from .group import Flags, flag


@dataclass(frozen=True)
class Device(Flags):
    """Where products are made, by how many threads, in which type."""

    device: str = flag(
        "--device", choices=("auto", "cpu", "cuda", "gpu"), default="auto",
        help="auto (default) uses a CUDA device when there is one; gpu is another name for cuda",
    )  # fmt: skip
    threads: int = flag(
        "--threads", "--cpu-threads", "--thread-num", type=threads, default=0, metavar="N",
        help="number of CPU threads (default 0: all that this process may use)",
    )  # fmt: skip
    dtype: str = flag(
        "--dtype", choices=("float32", "float64"), default="float32",
        help="precision of the genotype products (default float32)",
    )  # fmt: skip

    @property
    def named_device(self) -> str:
        """ "auto", "cpu" or "cuda"."""
        return "cuda" if self.device == "gpu" else self.device

    @property
    def width(self) -> int:
        """Bytes of a number in the products' type."""
        return 8 if self.dtype == "float64" else 4


@dataclass(frozen=True)
class Compute(Device):
    """The memory of devices, how many there are, and whether only the plan is wanted."""

    gpu_budget_gib: float = flag(
        "--gpu-budget-gib", "--gpu-budget-gb", type=gibibytes, default=0.0, metavar="GIB",
        help="largest memory to use on each CUDA device (default 0: nine tenths of what is free); genotypes that do "
        "not fit are streamed, and other large arrays are worked on in parts",
    )  # fmt: skip
    ring_depth: int = flag(
        "--ring-depth", type=count, default=0, metavar="N",
        help="number of page-locked host buffers through which genotypes are streamed to a device (default 0: 3)",
    )  # fmt: skip
    num_gpus: int = flag(
        "--num-gpus", type=positive_int, default=1, metavar="N",
        help="number of CUDA devices that share the variants (default 1; CUDA_VISIBLE_DEVICES says which)",
    )  # fmt: skip
    plan: bool = flag(
        "--plan", action="store_true", default=False,
        help="print how much memory the run will need and stop; with --gpu-budget-gib and --device cuda no device is "
        "needed",
    )  # fmt: skip


class ListDevices(argparse.Action):
    """``--devices``: print what can be seen, or what is missing, and exit."""

    def __call__(self, parser, namespace, values, option_string=None):
        from gpu_reml.ops.cuda.driver import list_devices

        try:
            found = list_devices()
        except ValueError as error:
            parser.exit(2, f"gpu-reml: error: {in_flags(str(error))}\n")
        for device in found:
            major, minor = device.compute_capability
            memory = f"{device.free / 2**30:.1f} of {device.total / 2**30:.1f} GiB free"
            print(f"{device.index}  {device.name}  compute capability {major}.{minor}  {memory}")
        parser.exit(0)


def add_devices(group: argparse._ArgumentGroup) -> None:
    """The flag that lists devices; it has no value."""
    group.add_argument(
        "--devices", action=ListDevices, nargs=0, default=argparse.SUPPRESS, help="list the CUDA devices and exit"
    )
