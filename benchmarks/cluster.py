"""``python -m benchmarks.cluster``: a model of a product's time on several workers, and what it is on this machine's.

A product V B of k columns sends the block to every worker, which makes its share of 4 n m k operations, and sums what
they made: the block goes out to a first worker and on in a tree, sums come back in one.  The rates are measured: how
fast one process multiplies, how fast a block travels to a worker and back, and how long a task takes that does nothing.
The model is set against 1, 2 and 4 workers of one thread here, and then told other rates and sizes.

``--overhead`` sets two workers of one thread each against one process of two threads, and says where the time goes.
Seconds of the wall mean nothing where other programs run; seconds of CPU, of all processes together, do.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpu_reml.io import read_bed
from gpu_reml.io.shares import shares_between
from gpu_reml.ops import make_products
from gpu_reml.ops.cluster import tasks
from gpu_reml.ops.cluster.products import ClusterProducts, make_cluster_products, read_shards
from gpu_reml.ops.cluster.session import Cluster, Size, local_cluster
from gpu_reml.ops.cluster.shards import shard_edges, usual_shards

from .cohorts import DEFAULT_CACHE, Cohort, cached_cohort
from .process import available_threads

NUMBER = 4  # bytes of float32
REPEATS = 5
WIDE = Cohort(5_000, 50_000)
COLUMNS = 33  # a trait and the first probes


class Rates(NamedTuple):
    """Of one worker: operations a second; bytes a second of a link; seconds of a task that does nothing."""

    flops: float
    bandwidth: float
    latency: float


class Setting(NamedTuple):
    """So many workers at these rates, of which at most ``at_once`` compute together (cores of one machine)."""

    name: str
    workers: int
    rates: Rates
    at_once: int | None = None


class Seconds(NamedTuple):
    """Where a product's time goes."""

    compute: float
    send: float
    collect: float
    tasks: float

    @property
    def whole(self) -> float:
        return sum(self)


def product_seconds(n: int, m: int, k: int, setting: Setting) -> Seconds:
    """The model: a block out to one worker and on in log2(W) rounds, sums back in as many and to the driver."""
    W, rates = setting.workers, setting.rates
    block, rounds = NUMBER * n * k / rates.bandwidth, math.ceil(math.log2(W))
    at_once = min(W, setting.at_once or W)
    compute = 4 * n * m * k / (at_once * rates.flops)
    joins = max(0, math.ceil((W - 1) / 3))  # tasks that add up to four parts
    return Seconds(compute, block * (1 + rounds), block * (1 + rounds), rates.latency * (W + joins + 1))


# What is assumed of machines that nobody here has: a third of what a core measures here where 64 share their memory, an
# H200 as docs/performance.md predicts it, and nine tenths of links of 10 and 100 Gbit/s.
CORE, H200 = 6e10, 1.5e14
ELSEWHERE = (
    Setting("8 x 64 cores, 10 GbE", 8, Rates(64 * CORE, 1.1e9, 2e-3)),
    Setting("8 x 64 cores, 100 GbE", 8, Rates(64 * CORE, 1.1e10, 2e-3)),
    Setting("10 H200, 100 GbE", 10, Rates(H200, 1.1e10, 2e-3)),
    Setting("10 H200, 10 GbE", 10, Rates(H200, 1.1e9, 2e-3)),
)
LARGE = (500_000, 10_000_000, 64)


def best(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of some runs."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        found.append(time.perf_counter() - started)
    return min(found)


@contextmanager
def products_on(prefix: Path, workers: int, threads: int) -> Iterator[ClusterProducts]:
    """Products with the cohort's genotypes on so many workers of this machine."""
    file = read_bed(prefix)
    n, m = file.num_samples, file.num_variants

    def cut(edges):
        return [tasks.Source(each, n) for each in shares_between([file], [None], [np.arange(m)], edges, 2)]

    with local_cluster(Size(workers, threads, 4 << 30), lambda text: print(text, flush=True)) as cluster:
        edges = shard_edges(m, usual_shards(m, -(-n // 4)))
        yield make_cluster_products(read_shards(cluster, cut, edges, [file.packed]))


def rates_of(products: ClusterProducts, B: np.ndarray) -> tuple[float, float]:
    """(bytes a second there and back, seconds of a task that does nothing)."""
    cluster = products.cluster
    latency = best(lambda: cluster.fetch([cluster.submit(tasks.as_is, 0)]))
    large = np.zeros((len(B), 20 * B.shape[1]), np.float32)
    travel = best(lambda: cluster.fetch([cluster.send(large)])) - latency
    return 2 * large.nbytes / travel, latency


def here(prefix: Path, columns: int, counts: tuple[int, ...]) -> None:
    """The model against workers of this machine."""
    file = read_bed(prefix)
    n, m = file.num_samples, file.num_variants
    B, w = block(n, columns), np.ones(m)
    seconds: dict[int, float] = {}
    rates = None
    for workers in counts:
        with products_on(prefix, workers, 1) as products:
            products.weighted(B, w)
            if rates is None:
                bandwidth, latency = rates_of(products, B)
                own = best(lambda products=products: node_seconds(products, B, w), 2)
                rates = Rates(4 * n * m * columns / own, bandwidth, latency)
                print(
                    f"one worker: {rates.flops / 1e9:.0f} GFLOP/s, {bandwidth / 2**30:.2f} GiB/s, "
                    f"{1e3 * latency:.1f} ms a task"
                )
                print(f"{'workers':>8s} {'measured s':>11s} {'model s':>9s} {'ratio':>6s}")
            seconds[workers] = best(lambda products=products: products.weighted(B, w))
        setting = Setting("here", workers, rates, available_threads())
        model = product_seconds(n, m, columns, setting).whole
        print(f"{workers:8d} {seconds[workers]:11.3f} {model:9.3f} {seconds[workers] / model:6.2f}", flush=True)


def node_seconds(products: ClusterProducts, B: np.ndarray, w: np.ndarray) -> float:
    """The sums of all groups on the worker that has them, with the block there already."""
    cluster = products.cluster
    sent = products._sent(B)
    weights = products._weights_of(w)
    cluster.fetch([cluster.submit(len, sent)])
    started = time.perf_counter()
    futures = products._on_groups(tasks.weighted, sent, *weights)
    cluster.fetch([cluster.submit(len, future) for future in futures])
    return time.perf_counter() - started


def block(n: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, columns)).astype(np.float32)


def cpu_seconds(cluster: Cluster | None) -> float:
    """Of this process and all workers, so far."""
    return time.process_time() + (0.0 if cluster is None else sum(cluster.ask(time.process_time).values()))


def timed(products, B: np.ndarray, w: np.ndarray, cluster: Cluster | None, repeats: int) -> tuple[float, float]:
    """(seconds, CPU seconds of all processes) of a product."""
    products.weighted(B, w)
    before, started = cpu_seconds(cluster), time.perf_counter()
    for _ in range(repeats):
        products.weighted(B, w)
    return (time.perf_counter() - started) / repeats, (cpu_seconds(cluster) - before) / repeats


def overhead(prefix: Path, columns: int, repeats: int) -> None:
    """Two workers of one thread against one process of two."""
    from gpu_reml import load_genotypes

    file = read_bed(prefix)
    n, m = file.num_samples, file.num_variants
    B, w = block(n, columns), np.ones(m)
    with products_on(prefix, 2, 1) as products:
        cluster = products.cluster
        both = timed(products, B, w, cluster, repeats)
        bandwidth, latency = rates_of(products, B)
    alone = timed(make_products(load_genotypes([file]), "cpu"), B, w, None, repeats)
    model = product_seconds(n, m, columns, Setting("here", 2, Rates(np.inf, bandwidth, latency)))
    print(f"n={n} m={m} k={columns}: a product takes seconds (CPU seconds of all processes)")
    print(f"  one process of two threads  {alone[0]:.3f} ({alone[1]:.3f})")
    print(f"  two workers of one thread   {both[0]:.3f} ({both[1]:.3f}); ratio {both[0] / alone[0]:.2f} "
          f"({both[1] / alone[1]:.2f})")  # fmt: skip
    print(
        f"  of which, by the model: sending {model.send:.3f}, collecting {model.collect:.3f}, tasks {model.tasks:.3f}"
    )


def elsewhere() -> None:
    """The model's table for machines that are not here."""
    n, m, k = LARGE
    genotypes = n * m / 4 / 1e12
    print(f"\nmodel: n={n:,} m={m:,} k={k}, {genotypes:.2f} TB of packed genotypes; seconds of a product")
    print(f"{'':24s} {'compute':>8s} {'send':>6s} {'collect':>8s} {'tasks':>6s} {'all':>7s} {'travel':>7s}")
    for setting in ELSEWHERE:
        found = product_seconds(n, m, k, setting)
        travel = (found.send + found.collect) / found.whole
        print(
            f"{setting.name:24s} {found.compute:8.1f} {found.send:6.2f} {found.collect:8.2f} {found.tasks:6.3f} "
            f"{found.whole:7.1f} {travel:7.1%}"
        )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bfile", type=Path, metavar="PREFIX", help="genotypes (default: a simulated cohort)")
    parser.add_argument("--columns", type=int, default=COLUMNS, metavar="K")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4], metavar="N")
    parser.add_argument("--repeats", type=int, default=10, metavar="N")
    parser.add_argument("--overhead", action="store_true", help="two workers against one process")
    parser.add_argument("--table", action="store_true", help="only the model's table of large machines")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="folder of simulated cohorts")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    if options.table:
        elsewhere()
        return 0
    prefix = options.bfile or cached_cohort(WIDE, options.cache)
    if options.overhead:
        overhead(prefix, options.columns, options.repeats)
    else:
        here(prefix, options.columns, tuple(options.workers))
        elsewhere()
    return 0


if __name__ == "__main__":
    sys.exit(main())
