"""Workers are killed, stopped and added while products are made: results keep every bit."""

import os
import signal

import numpy as np
import pytest

from gpu_reml.ops.cluster.session import Size, local_cluster

N, M, MEMORY = 201, 1000, 1 << 30

B = np.random.default_rng(1).standard_normal((N, 3)).astype(np.float32)
w = np.random.default_rng(2).random(M)

pytestmark = pytest.mark.usefixtures("within_two_minutes")


@pytest.fixture(scope="module")
def expected(cluster, sharded):
    """The product of workers that live."""
    return sharded(cluster).weighted(B, w)


@pytest.fixture(scope="module")
def losing(said, forked_workers):
    """Three workers, which are started again when they die.  On a busy machine one may say nothing for seconds, so none
    counts as lost for that."""
    import distributed.scheduler

    usual = distributed.scheduler.heartbeat_interval
    distributed.scheduler.heartbeat_interval = lambda n: 0.2  # ten of them have to be missed
    with local_cluster(Size(3, 1, MEMORY), said.append, stopped=2.0) as made:  # so often it looks
        made.client.cluster.scheduler.worker_ttl = 600.0
        yield made
    distributed.scheduler.heartbeat_interval = usual


def send_signal(cluster, number):
    """To the worker that has the first shards."""
    address = cluster.workers()[0].address
    os.kill(cluster.client.run(os.getpid, workers=[address])[address], number)


@pytest.mark.parametrize("moment", ["hold", "as_is", "together", "combine", "end"])
def test_a_worker_killed_while_it_works_changes_no_bit(moment, losing, sharded, expected, said, monkeypatch):
    losing.client.wait_for_workers(3, timeout=60)
    submit, killed, before = losing.submit, [], losing.lost

    def kill():
        killed.append(moment)
        send_signal(losing, signal.SIGKILL)

    def killing(function, *arguments, **options):
        future = submit(function, *arguments, **options)
        if function.__name__ == moment and not killed:
            kill()
        return future

    monkeypatch.setattr(losing, "submit", killing)
    products = sharded(losing)
    found = products.weighted(B, w)
    if moment == "end":
        kill()
    again = products.weighted(B, w)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again, expected)
    losing.changes()
    assert killed and losing.lost > before and "was lost; what it held is read again" in "".join(said)


def test_features_of_a_lost_worker_are_made_again(losing, sharded, expected):
    losing.client.wait_for_workers(3, timeout=60)
    products = sharded(losing)
    F = products.zt(B) @ np.eye(3, dtype=np.float32)
    before = np.asarray(F)
    send_signal(losing, signal.SIGKILL)
    np.testing.assert_array_equal(np.asarray(F), before)


def test_a_worker_that_is_stopped_is_left_after_the_time_for_it(losing, sharded, expected):
    losing.client.wait_for_workers(3, timeout=60)
    products = sharded(losing)
    losing.client.cluster.scheduler.worker_ttl = 2.0
    send_signal(losing, signal.SIGSTOP)
    np.testing.assert_array_equal(products.weighted(B, w), expected)


def test_a_worker_that_comes_late_takes_its_share(losing, sharded, expected, monkeypatch):
    losing.client.wait_for_workers(2, timeout=60)
    losing.client.cluster.scheduler.worker_ttl = 600.0
    there = losing.workers()
    monkeypatch.setattr(losing, "workers", lambda: there[:1])
    products = sharded(losing)
    np.testing.assert_array_equal(products.weighted(B, w), expected)
    monkeypatch.setattr(losing, "workers", lambda: there[:2])
    losing._known.discard(there[1].address)
    losing._heard((0.0, {"action": "add-worker", "worker": there[1].address}))
    np.testing.assert_array_equal(products.weighted(B, w), expected)
    assert {group.worker for group in products.genotypes.groups} == {there[0].address, there[1].address}
