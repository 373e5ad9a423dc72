"""Curves for TensorBoard, in its files of events.

Written here, one record at a time: the writer that comes with PyTorch has a thread for it, whose errors reach nobody.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from flowprep.store.blobs import store_errors

VERSION = "brain.Event:2"  # of the format: each file begins with it


class Curves:
    """A file of events in ``folder``, of a run that goes on after ``iteration``: later points of others are dropped.

    Every method raises StoreError where the disk is full or fails.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        self._path = folder / f"events.out.tfevents.{time.time():.9f}.{socket.gethostname()}"  # read by their names
        with store_errors(self._path):
            folder.mkdir(exist_ok=True)
            self._records = RecordWriter(self._path.open("wb"))
        self._put(Event(file_version=VERSION))
        self._put(Event(step=iteration + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """A point of each curve, by its name."""
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._put(Event(step=iteration, summary=Summary(value=points)))

    def close(self) -> None:
        with store_errors(self._path):
            self._records.close()

    def _put(self, event: Event) -> None:
        event.wall_time = time.time()
        with store_errors(self._path):
            self._records.write(event.SerializeToString())
            self._records.flush()
