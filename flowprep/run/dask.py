"""Tasks on Dask: on one machine an in-process cluster, whose threads each drive one sandboxed child process."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, as_completed
from distributed.scheduler import KilledWorker

from flowprep.run.window import Work, WorkerLostError
from flowprep.sandbox import STOP, close_all
from flowprep.shard import extract_shard
from flowprep.types import ShardResult

CONFIG = {
    "distributed.scheduler.allowed-failures": 0,  # a death comes back to our own loop at once
    "distributed.scheduler.work-stealing": False,  # the window already keeps the queues short
    "distributed.scheduler.worker-ttl": "10 minutes",
    "distributed.worker.profile.enabled": False,  # it would look at every thread's stack a hundred times a second
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",  # not fifty times a second
    "distributed.scheduler.http.routes": [],  # nothing to see: progress is ours
    "distributed.worker.http.routes": [],
    "distributed.worker.memory.target": False,  # results are a few hundred bytes: nothing to spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.admin.log-format": "%(message)s",
}


LOOPBACK = "127.0.0.1:0"


class DaskEngine:
    """The driver loop's engine over a Dask client."""

    def __init__(self, client: Client, work: Work, slots: int) -> None:
        self._client = client
        self._work = work
        self._slots = slots
        self._shards: dict[str, int] = {}
        self._completed = as_completed()

    @property
    def slots(self) -> int:
        return self._slots

    def submit(self, shard: int) -> None:
        # A key that was used before would silently join the old task.
        key = f"shard-{shard}-{uuid.uuid4().hex}"
        self._shards[key] = shard
        work = self._work
        arguments = (work.dataset, work.generation, shard, work.limits, work.root)
        self._completed.add(self._client.submit(extract_shard, *arguments, key=key, pure=False))

    def next_done(self) -> tuple[int, ShardResult | BaseException]:
        future: Future[ShardResult] = next(self._completed)
        shard = self._shards.pop(str(future.key))
        if future.status == "finished":
            result: ShardResult = future.result()
            return shard, result
        error: Any = future.exception() if future.status == "error" else None
        if error is None or isinstance(error, KilledWorker):
            return shard, WorkerLostError(f"the worker of shard {shard} is gone ({future.status})")
        return shard, error


@contextmanager
def local_engine(work: Work, workers: int) -> Iterator[DaskEngine]:
    """An engine on a cluster inside this process: ``workers`` threads, no further process.

    Dask opens HTTP servers whatever one says; here they listen on this machine alone, on free ports, and serve nothing.
    """
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with dask.config.set(CONFIG):
        cluster = LocalCluster(
            n_workers=1,
            threads_per_worker=workers,
            processes=False,
            protocol="inproc://",
            dashboard_address=LOOPBACK,
            worker_dashboard_address=LOOPBACK,
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster)
        try:
            yield DaskEngine(client, work, workers)
        finally:
            STOP.set()  # a thread that still waits for its child gives up, so that the cluster can close
            client.close()
            cluster.close()
            close_all()
            STOP.clear()
