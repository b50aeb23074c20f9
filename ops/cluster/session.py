"""The workers of a run: starting or joining them, sending tasks, waiting for what they make, and losing some of them.

Placement is a wish: where a worker is gone, its tasks run on another, which reads what it needs.  Tasks are pure, so
dask computes again what was lost with a worker, and here is only said that it happened.
"""

import os
import queue
import secrets
import time
import warnings
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from .shards import Node
from .tasks import ClusterError, as_is, versions

LOOK = 5.0  # seconds after which a wait looks at who is there
ALONE = 300.0  # seconds without any worker after which a run ends
ATTEMPTS = 6  # to fetch what workers made: each may meet a connexion that a lost worker closed
ANSWER = 30.0  # seconds in which a scheduler answers
PROGRAM = 256 << 20  # bytes that a worker takes before it reads anything
FALLBACK = 0.8  # share of the rest of its memory that its genotypes may take
STOPPED = 60.0  # seconds without a sign after which a worker of one's own counts as lost
INSTALL = "needs dask.distributed: pip install 'gpu-reml[cluster]'"

Say = Callable[[str], None]


class Size(NamedTuple):
    """Of the workers to start: how many, threads and bytes of each."""

    workers: int
    threads: int
    memory: int


def own_settings(stopped: float) -> dict[str, Any]:
    """dask's configuration of workers of one's own.

    What they hold is sized beforehand and read again where it has to be, so nothing is written to disk or stolen.  What
    is set before a worker starts would stay in this process's environment, so nothing is.
    """
    return {
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.worker-ttl": f"{stopped:g} s",
        "distributed.scheduler.allowed-failures": 5,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.worker.profile.enabled": False,  # dask looks a hundred times a second what a task does
        "distributed.admin.tick.interval": "500 ms",
        "distributed.logging": {"distributed": "critical", "distributed.client": "critical"},
    }


@contextmanager
def local_cluster(
    size: Size, say: Say, stopped: float = STOPPED, dashboard: str = "127.0.0.1:0"
) -> Iterator["Cluster"]:
    """Workers on this machine, each a process that talks over TCP; they end with the block."""
    distributed = imported()
    import dask

    threads = {"NUMBA_NUM_THREADS": size.threads, "OMP_NUM_THREADS": size.threads, "OPENBLAS_NUM_THREADS": 1}
    with dask.config.set(own_settings(stopped)):
        with distributed.LocalCluster(
            n_workers=size.workers,
            threads_per_worker=1,  # numba's threads are the worker's, and one task runs at a time
            memory_limit=size.memory,
            processes=True,
            host="127.0.0.1",
            protocol="tcp",
            dashboard_address=dashboard,
            silence_logs=50,
            env={name: str(number) for name, number in threads.items()},
        ) as own:
            with joined(own, say) as cluster:
                yield cluster


@contextmanager
def joined_cluster(address: str, say: Say, patience: float = ALONE) -> Iterator["Cluster"]:
    """The workers of a scheduler that runs, at an address or told of in the file that it wrote.

    Raises ClusterError where there is none, or no worker within ``patience`` seconds.
    """
    with joined(scheduler_of(address), say, patience) as cluster:
        yield cluster


def scheduler_of(address: str) -> dict[str, str] | str:
    """What to connect to."""
    if not address.endswith(".json"):
        return address if "://" in address else f"tcp://{address}"
    if not os.path.isfile(address):
        raise ClusterError(
            f"{address}: no such file; it is what a scheduler of dask writes that is given a scheduler file"
        )
    return {"scheduler_file": address}


@contextmanager
def joined(where: Any, say: Say, patience: float = ALONE) -> Iterator["Cluster"]:
    distributed = imported()
    options = where if isinstance(where, dict) else {"address": where}
    try:
        client = distributed.Client(**options, direct_to_workers=True, set_as_default=False, timeout=ANSWER)
    except (OSError, TimeoutError, ValueError) as error:
        named = options.get("scheduler_file", options.get("address"))
        raise ClusterError(f"no scheduler answers at {named} ({first_line(error)}); is it running?") from None
    with client:
        cluster = Cluster(client, say, patience)
        cluster.meet()
        try:
            yield cluster
        finally:
            if client.status == "running":
                client.unsubscribe_topic("all")


def imported():
    """dask.distributed, or a ClusterError that says how to have it."""
    try:
        import distributed
    except ImportError:
        raise ClusterError(f"`workers`, `scheduler`: {INSTALL}") from None
    # B goes out as a task's argument, so that it can be sent again; dask would rather have it scattered.
    warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
    return distributed


class Worker(NamedTuple):
    address: str
    memory: int
    threads: int


class Cluster:
    """Tasks go out and results come back.  ``say`` is told of workers that came and went."""

    def __init__(self, client: Any, say: Say, patience: float = ALONE):
        self.client, self.say, self.patience = client, say, patience
        self.lost = 0  # workers that left while the run went on
        self.told: list[str] = []  # what was said of them
        self._keys, self._token = count(), secrets.token_hex(4)
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._known: set[str] = set()
        self._alone_since: float | None = None

    @property
    def dashboard(self) -> str:
        return self.client.dashboard_link

    def meet(self) -> None:
        """Wait for a first worker, refuse those of other versions, and hear of others from then on.

        Raises ClusterError.
        """
        try:
            self.client.wait_for_workers(1, timeout=self.patience)
        except TimeoutError:
            raise ClusterError(
                f"no worker came to the scheduler at {self.client.scheduler.address} within {self.patience:.0f} s; "
                "start some, as dask worker does"
            ) from None
        self._known = {worker.address for worker in self.workers()}
        unlike = [(address, found) for address, found in self.ask(versions).items() if found != versions()]
        if unlike:
            address, found = unlike[0]
            own = versions()
            said = ", ".join(f"{name} {found[name]} and here {own[name]}" for name in own if found[name] != own[name])
            raise ClusterError(f"worker {address} has {said}; install the same versions on all machines")
        self.client.subscribe_topic("all", self._heard)

    def ask(self, function: Callable) -> dict[str, Any]:
        """What a function without arguments gives on every worker."""
        try:
            return self.client.run(function)
        except Exception as error:  # whatever unpickling gpu_reml on a worker without it raises
            raise ClusterError(
                f"workers cannot run gpu-reml ({first_line(error)}); install it on all machines"
            ) from error

    def workers(self) -> list[Worker]:
        """Those that are there, in the order of their addresses."""
        found = self.client.scheduler_info(n_workers=-1)["workers"]
        return sorted(
            Worker(address, int(each.get("memory_limit") or 0), int(each["nthreads"]))
            for address, each in found.items()
        )

    def _heard(self, event: tuple[float, Any]) -> None:
        """Called by dask's own thread."""
        _, told = event
        if isinstance(told, dict) and told.get("action") in ("add-worker", "remove-worker"):
            self._events.put((told["action"], told.get("worker", "")))

    def changes(self) -> bool:
        """Say who came and went since the last call; whether anybody did."""
        changed = False
        while not self._events.empty():
            action, address = self._events.get()
            if action == "add-worker" and address not in self._known:
                self._known.add(address)
                self._tell(f"worker {address} came")
            elif action == "remove-worker" and address in self._known:
                self._known.discard(address)
                self.lost += 1
                self._tell(f"worker {address} was lost; what it held is read again by others")
            else:
                continue
            changed = True
        return changed

    def _tell(self, text: str) -> None:
        self.told.append(text)
        self.say(text)

    # tasks

    def submit(self, function: Callable, *arguments: Any, worker: str | None = None) -> Any:
        """A task's future; ``worker``: where it should run, if that one is there."""
        key = f"{function.__name__}-{self._token}-{next(self._keys)}"
        where = {} if worker is None else {"workers": [worker], "allow_other_workers": True}
        return self.client.submit(function, *arguments, key=key, pure=False, **where)

    def send(self, value: Any, worker: str | None = None) -> Any:
        """A value as a task's result: it is sent again where it is lost."""
        return self.submit(as_is, value, worker=worker)

    def fetch(self, futures: Sequence[Any]) -> list[Any]:
        """What tasks made, in order.

        Raises what a task raised; ClusterError where workers died of it again and again, or none is left.
        """
        return [self._fetch_one(future) for future in futures]

    def _fetch_one(self, future: Any) -> Any:
        distributed = imported()
        from distributed.comm import CommClosedError

        attempts = 0
        while True:
            try:
                found = future.result(timeout=LOOK)
            except distributed.TimeoutError:
                self._look()
            except distributed.KilledWorker as error:
                died, last = error.allowed_failures + 1, error.last_worker.address
                raise ClusterError(
                    f"{died} workers died of the same task, the last {last}; this "
                    "is most often for want of memory: give workers more, or take more `shards`"
                ) from None
            except (CommClosedError, ConnectionError, CancelledError) as error:
                attempts += 1
                if attempts == ATTEMPTS:
                    raise ClusterError(f"the workers cannot be reached ({first_line(error)})") from None
                time.sleep(0.1 * attempts)
            else:
                self._alone_since = None
                return found

    def _look(self) -> None:
        """ClusterError where no worker has been there for long."""
        self.changes()
        if self.client.status != "running":
            raise ClusterError("the scheduler was lost, and with it what the workers made; run again with `resume`")
        if self.workers():
            self._alone_since = None
            return
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
            self.say(f"no worker is left; waiting {self.patience:.0f} s for another")
        if now - self._alone_since > self.patience:
            raise ClusterError("no worker is left; start others, and run again with `resume`")

    def each(self, function: Callable, items: Sequence[tuple]) -> list[Any]:
        """``function(*item)`` of every item, each on whichever worker is free."""
        return self.fetch([self.submit(function, *item) for item in items])


def placed(nodes: Sequence[Node], sizes: np.ndarray, workers: Sequence[Worker]) -> list[str]:
    """A worker for each node, in order: consecutive ones, about as many bytes for each worker as its share of memory.

    Raises ClusterError where a node is too large for every worker that could have it, before anything is read.
    """
    memory = np.array([worker.memory or np.inf for worker in workers], np.float64)
    room, largest, whole = FALLBACK * np.maximum(memory - PROGRAM, 0), int(max(sizes)), float(np.sum(sizes))
    if largest > room.max():
        raise ClusterError(
            f"a worker of {memory.max() / 2**20:,.0f} MiB has room for {room.max() / 2**20:,.0f} MiB of genotypes, and "
            f"what it would read at once takes {largest / 2**20:,.1f}; give workers more memory, or take more `shards`"
        )
    if whole > room.sum():
        raise ClusterError(
            f"the genotypes take {whole / 2**20:,.0f} MiB, and the {len(workers)} worker(s) have room for "
            f"{room.sum() / 2**20:,.0f} between them; start more, or give each more memory"
        )
    shares = np.ones(len(room)) if np.isinf(room).any() else room
    ends = np.cumsum(shares) / shares.sum() * whole
    middles = np.cumsum(sizes) - np.asarray(sizes) / 2
    return [workers[int(i)].address for i in np.minimum(np.searchsorted(ends, middles), len(workers) - 1)]


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
