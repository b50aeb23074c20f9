"""Workers of a run: what they may be asked, starting or joining them, and genotypes that they read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu_reml import io, ops
from gpu_reml.io.rows import BLOCK_BYTES
from gpu_reml.io.shares import share_of, shares_between
from gpu_reml.ops.cluster.products import read_shards
from gpu_reml.ops.cluster.session import Cluster, Size, joined_cluster, local_cluster
from gpu_reml.ops.cluster.shards import shard_edges, usual_shards
from gpu_reml.ops.cluster.tasks import Source
from gpu_reml.ops.genotypes import CALL_BITS, items_per_row

from .flags.analysis import Analysis
from .flags.data import Genotypes
from .machine import machine_memory
from .planned import Planned, held_here, worker_bytes
from .sources import Part, Reader

PIECES = 4  # a filter's count is of so many blocks of a file at a time
OWN_SHARE = 0.9  # of this machine's memory that the driver and its workers may take together


def check_workers(analysis: Analysis, beside: Sequence[str] = ()) -> None:
    """Raises InputError for what workers cannot do; ``beside``: flags of the command that need genotypes here."""
    asked = analysis.workers
    if not asked.wanted:
        return
    flag = "--workers" if asked.workers else "--scheduler"
    if not analysis.genotypes.given:
        raise io.InputError(f"{flag}: workers hold genotypes, and there are none beside --grm; leave it out")
    if asked.workers and analysis.compute.named_device == "cuda":
        raise io.InputError(
            "--workers: processes on this machine multiply on its CPU; --num-gpus shares variants among its devices, "
            "and --scheduler takes workers that have a device each"
        )
    refused = [*beside, *(["--dominance"] if analysis.terms.dominance else [])]
    refused += ["--cache"] if analysis.genotypes.cache else []
    if refused:
        raise io.InputError(f"{flag}: {', '.join(refused)} cannot be used with workers; leave one of them out")


@contextmanager
def reader_of(
    analysis: Analysis, threads: int, planned: Sequence[Planned], say: Callable[[str], Any]
) -> Iterator[Reader | None]:
    """What reads genotypes: workers where they are asked for, else None.

    ``threads``: of this machine, which its workers share; ``planned``: what will be fitted.  Raises InputError where
    the workers' memory cannot hold it.
    """
    asked = analysis.workers
    if not asked.wanted:
        yield None
        return
    told = lambda text: say(f"workers: {text}")  # noqa: E731
    if asked.scheduler is not None:
        joined = joined_cluster(asked.scheduler, told)
    else:
        size = own_size(asked.workers, asked.worker_memory_gib, threads, held_here(planned, analysis))
        check_memory(planned, analysis, size.workers, size.memory)
        joined = local_cluster(size, told)
    with joined as cluster:
        there = cluster.workers()
        memory = min(worker.memory for worker in there) / 2**30
        check_memory(planned, analysis, len(there), max(worker.memory for worker in there))
        told(f"{len(there)}, each with {memory:.3g} GiB of memory or more; dashboard {cluster.dashboard}")
        yield ReadThere(cluster, asked.shards)


def own_size(workers: int, memory_gib: float, threads: int, held: float) -> Size:
    """Threads and memory of every worker on this machine."""
    share = max(0.0, OWN_SHARE * machine_memory() - held) / workers
    return Size(workers, max(1, threads // workers), int(memory_gib * 2**30) if memory_gib else int(share))


def check_memory(planned: Sequence[Planned], analysis: Analysis, workers: int, memory: int) -> None:
    """Raises InputError where a worker of so many, with so many bytes (0: as many as it likes), has too few."""
    needed = max(worker_bytes(each, analysis, workers) for each in planned)
    if memory and needed > memory:
        flag = "--workers" if analysis.workers.workers else "--scheduler"
        raise io.InputError(
            f"{flag}: each of {workers} would take about {needed / 2**20:,.0f} MiB and has {memory / 2**20:,.0f}; "
            "start more, give them more memory, or take fewer --max-probes"
        )


class ReadThere:
    """Genotypes that workers read, count and hold; ``shards``: how many, None for the usual number."""

    def __init__(self, cluster: Cluster, shards: int | None = None):
        self.cluster, self.shards, self.notes = cluster, shards, []

    def counts(self, function: Callable, parts: Sequence[Part]) -> list[Any]:
        items = []
        for file, index, rows in parts:
            width = max(1, PIECES * BLOCK_BYTES // items_per_row(file.num_samples, CALL_BITS))
            for first in range(0, len(rows), width):
                mine = rows[first : first + width]
                items.append((file.piece(mine), np.asarray(index), np.arange(len(mine))))
        return self.cluster.each(function, items)

    def genotypes(self, parts: Sequence[Part], named: Genotypes, standardize: str) -> ops.PackedGenotypes:
        files, indices, rows = (list(column) for column in zip(*parts, strict=True))
        bits = 16 if named.dosage else CALL_BITS
        n, m = len(indices[0]), sum(map(len, rows))
        row_bytes = items_per_row(n, bits) * ops.genotypes.item_type(bits).itemsize
        if not m:
            prefixes = ", ".join(file.prefix for file in files)
            raise io.InputError(f"none of the variants of {prefixes} is left; loosen the filters")

        def cut(edges: np.ndarray) -> list[Source]:
            binomial = standardize == "binomial"
            return [Source(each, n, bits, binomial) for each in shares_between(files, indices, rows, edges, bits)]

        edges = shard_edges(m, min(m, self.shards or usual_shards(m, row_bytes)))
        here = [part_here(*part, bits) for part in parts if len(part[2])]
        return read_shards(self.cluster, cut, edges, here)


def part_here(file: io.GenotypeFile, index: np.ndarray, rows: np.ndarray, bits: int) -> Any:
    """A source's genotypes for the driver, which asks for few of them: the map of the file, or what reads some."""
    everyone = np.array_equal(index, np.arange(file.num_samples))
    if bits == CALL_BITS and everyone and file.is_mapped(None, rows):
        return file.read_packed(None, rows)
    return share_of(file, index, rows, bits)
