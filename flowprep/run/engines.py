"""Which engine runs the tasks of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowprep.config import ClusterConfig
from flowprep.run.window import Engine
from flowprep.shard import Work


@contextmanager
def open_engine(
    config: ClusterConfig, work: Work, workers: int, *, gpu: bool, say: Callable[[str], None]
) -> Iterator[Engine]:
    """The engine that ``config`` asks for, with ``workers`` tasks at once (on a cluster 0 = all it has).

    Dask is imported only where it is used: it costs a second.
    """
    if config.executor == "batch":
        from flowprep.run.batch import thread_engine

        with thread_engine(work, workers) as threads:
            yield threads
    elif config.remote:
        from flowprep.run.dask import cluster_engine

        with cluster_engine(work, config, workers, gpu=gpu, say=say) as cluster:
            yield cluster
    else:
        from flowprep.run.dask import local_engine

        with local_engine(work, workers) as local:
            yield local
