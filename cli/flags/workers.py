"""Who computes products where one process does not: workers on this machine, or those of a running cluster."""

from dataclasses import dataclass

from ..numbers import gibibytes, positive_int
from .group import Flags, flag


@dataclass(frozen=True)
class Workers(Flags):
    """How many workers are started here, or where a scheduler has some; and in how many shards they hold variants."""

    workers: int | None = flag(
        "--workers", type=positive_int, metavar="N", unless="workers",
        help="start N processes on this machine, which share its threads, hold the genotypes between them and make the "
        "products; results are the same bits for any N (needs dask.distributed: pip install 'gpu-reml[cluster]')",
    )  # fmt: skip
    scheduler: str | None = flag(
        "--scheduler", metavar="ADDRESS", unless="workers",
        help="have the workers of a running dask cluster hold the genotypes and make the products: the scheduler's "
        "ADDRESS (tcp://host:8786), or the .json file that dask scheduler --scheduler-file wrote; they read the "
        "genotypes themselves, under the same paths",
    )  # fmt: skip
    shards: int | None = flag(
        "--shards", type=positive_int, metavar="N",
        help="with workers: number of parts that variants are held and summed in (default: by the genotypes' size, and "
        "at most 8 GiB each); results depend on it by rounding, and not on the workers",
    )  # fmt: skip
    worker_memory_gib: float = flag(
        "--worker-memory-gib", type=gibibytes, default=0.0, metavar="GIB",
        help="with --workers: memory of each, beyond which it is ended (default 0: its share of the machine's)",
    )  # fmt: skip

    @property
    def wanted(self) -> bool:
        return self.workers is not None or self.scheduler is not None
