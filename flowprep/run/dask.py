"""Tasks on Dask: threads of this process, or a cluster that somebody started.

    one machine     an in-process cluster; each of its threads drives one sandboxed child process
    a cluster       any Dask scheduler with any workers, by its address; each worker thread drives such a child there

What travels is a shard's number one way and a few counts back. Dask's messages are pickles: whoever can send them to a
scheduler or worker can run code there. So an address on another machine must be tls://, or be allowed in words.
"""

from __future__ import annotations

import logging
import queue
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dask
from distributed import Client, Future, LocalCluster
from distributed.comm.core import CommClosedError, FatalCommClosedError
from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.scheduler import KilledWorker
from distributed.security import Security

from flowprep.config import ClusterConfig
from flowprep.errors import RefusedError, UnfinishedError, UsageError
from flowprep.run.address import scheduler_address
from flowprep.run.window import WorkerLostError
from flowprep.run.workers import Workers, within
from flowprep.sandbox import STOP, close_all
from flowprep.shard import Work, extract_shard
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
CONNECT_SECONDS = 30  # to reach a scheduler
ANSWER_SECONDS = 8  # for scheduler and workers to answer
RESULT_SECONDS = 5  # to fetch a result
FAREWELL_SECONDS = 2
# Of the resource GPU=1 that a worker was started with, for each task: only so much that tasks go to no worker without
# it, as many at once as it has threads. They share its GPUs, by one process for each. A power of two: sums are exact.
GPU_SHARE = 2**-12


class DaskEngine:
    """The driver loop's engine over a Dask client; ``room`` tells how many tasks may be in flight."""

    def __init__(
        self, client: Client, work: Work, room: Callable[[], int], resources: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self._client = client
        self._work = work
        self._room = room
        self._resources = dict(resources) or None
        self._in_flight: dict[str, tuple[int, Future[ShardResult]]] = {}
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()

    @property
    def room(self) -> int:
        return self._room()

    def submit(self, shard: int) -> None:
        self._check_scheduler()
        # A key that was used before would silently join the old task.
        key = f"shard-{shard}-{uuid.uuid4().hex}"
        future = self._client.submit(extract_shard, self._work, shard, key=key, pure=False, resources=self._resources)
        self._in_flight[key] = shard, future
        future.add_done_callback(lambda ended: self._done.put(str(ended.key)))

    def next_done(self, seconds: float) -> tuple[int, ShardResult | BaseException] | None:
        try:
            key = self._done.get(timeout=seconds)
        except queue.Empty:
            self._check_scheduler()
            return None
        shard, future = self._in_flight.pop(key)
        error: Any = None
        if future.status == "finished":
            try:
                return shard, future.result(timeout=RESULT_SECONDS)
            except (TimeoutError, OSError, CancelledError, KilledWorker):
                pass  # its worker went before it could hand the result over: it counts as lost, too
        elif future.status == "error":
            error = future.exception()
        if error is None:  # lost with its worker, or all of them with the scheduler
            self._check_scheduler()
        stopped_there = isinstance(error, UnfinishedError) and not STOP.is_set()
        if error is None or stopped_there or isinstance(error, KilledWorker):
            return shard, WorkerLostError(f"the worker of shard {shard} is gone ({future.status})")
        return shard, error

    def _check_scheduler(self) -> None:
        if self._client.status != "running":
            raise UnfinishedError("The scheduler is gone.")

    def cancel(self) -> None:
        """Take back what no worker has begun; what is being worked on there still commits by itself."""
        self._client.cancel([future for _, future in self._in_flight.values()])


class _Courtesy(WorkerPlugin):
    """A worker that is told to close does not wait for its children."""

    name = "flowprep"

    def teardown(self, worker: Any) -> None:
        if worker.status is not Status.running:  # not only replaced by that of another run
            STOP.set()


@contextmanager
def local_engine(work: Work, workers: int) -> Iterator[DaskEngine]:
    """An engine on a cluster inside this process: ``workers`` threads, no further process.

    Dask opens HTTP servers whatever one says; here they listen on this machine alone, on free ports, and serve nothing.
    """
    _hush()
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
            yield DaskEngine(client, work, lambda: workers)
        finally:
            STOP.set()  # a thread that still waits for its child gives up, so that the cluster can close
            client.close()
            cluster.close()
            close_all()
            STOP.clear()


@contextmanager
def cluster_engine(
    work: Work, config: ClusterConfig, most: int, *, gpu: bool, say: Callable[[str], None]
) -> Iterator[DaskEngine]:
    """An engine on the cluster that ``config`` names, with twice as many tasks in flight as it has threads.

    ``most``: tasks that may run at once; 0 = as many as there are threads. ``gpu``: only on workers that were started
    with the resource GPU=1. Raises RefusedError for an address that is not safe, UnfinishedError where nobody answers.
    """
    address = scheduler_address(config)
    security = _security(config, address)
    _hush()
    with dask.config.set({**CONFIG, "distributed.comm.require-encryption": address.startswith("tls://")}):
        try:
            client = within(
                CONNECT_SECONDS,
                lambda: Client(address, security=security, timeout=CONNECT_SECONDS, set_as_default=False),
            )
        except FatalCommClosedError as error:
            raise RefusedError(
                f"{address}: its certificate and ours are not of one authority ({error.__cause__}). "
                "Give the --tls-... files of that cluster."
            ) from None
        except (OSError, TimeoutError, ValueError) as error:
            raise UnfinishedError(
                f"No Dask scheduler answers at {address} ({error}): start it, or correct the address (with TLS: tls://)"
            ) from None
        workers = Workers(client, address, most, gpu=gpu, say=say)
        engine = DaskEngine(client, work, workers.room, {"GPU": GPU_SHARE} if gpu else {})
        try:
            workers.start()
            # Of a worker that hangs, or dies just now: it is a courtesy, and no reason to wait longer or to end.
            with suppress(OSError, TimeoutError):
                within(ANSWER_SECONDS, lambda: client.register_plugin(_Courtesy()))
            yield engine
        except CommClosedError:
            raise UnfinishedError("The scheduler is gone.") from None
        finally:
            workers.stop()
            for farewell in (engine.cancel, client.close):
                with suppress(OSError, TimeoutError):
                    within(FAREWELL_SECONDS, farewell, even_if_stopped=True)


def _hush() -> None:
    """What goes wrong in Dask is said by us, once."""
    for name in ("distributed", "distributed.client", "distributed.worker", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _security(config: ClusterConfig, address: str) -> Security:
    """Certificates as configured here, else as in Dask's own configuration."""
    if not config.tls_cert:
        security = Security()
        if address.startswith("tls://") and not security.get_connection_args("client").get("ssl_context"):
            raise UsageError(f"--scheduler {address}: add --tls-ca-file, --tls-cert and --tls-key.")
        return security
    for path in (config.tls_ca_file, config.tls_cert, config.tls_key):
        if not Path(path).is_file():
            raise UsageError(f"{path}: no such file; it was given for TLS.")
    security = Security(
        require_encryption=True,
        tls_ca_file=config.tls_ca_file,
        tls_client_cert=config.tls_cert,
        tls_client_key=config.tls_key,
    )
    try:
        security.get_connection_args("client")
    except OSError as error:  # ssl.SSLError is one, too
        raise UsageError(f"--tls-ca-file, --tls-cert and --tls-key do not go together: {error}.") from None
    return security
