"""One video of a dataset made from a dataset: its stacks, or its rows stored in another way.

    stored rows (store/rows.py) -> px -> stacks (stacks/) -> encoded rows (encode.py)

Like :mod:`flowprep.extract`, it runs inside the sandboxed process. Where the video's rows lie comes with the job, so
that no process but its parent reads the records of the whole source.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from flowprep.config import Settings
from flowprep.encode import VideoWriter
from flowprep.errors import RefusedError, Verdict, VideoError
from flowprep.extract import Stages
from flowprep.gpu.client import RemoteFlow
from flowprep.stacks.materialise import VideoStacks
from flowprep.store.blobs import LocalStore, store_error
from flowprep.store.layout import COMMITS, ArrayName
from flowprep.store.reader import Dataset
from flowprep.store.rows import StoredRows, naming
from flowprep.types import LedgerRow, Placement, Video

ROWS_AT_ONCE = 32  # decoded together: a video may be long ...
BYTES_AT_ONCE = 64 * 2**20  # ... and its rows large


def source_rows(dataset: Path) -> dict[str, LedgerRow]:
    """The rows of all videos of ``dataset`` that are stored, by id; read again when its records are others."""
    return _source_rows(dataset, tuple(_records(dataset)))


@lru_cache(1)
def _source_rows(dataset: Path, _records: tuple[tuple[str, int, int], ...]) -> dict[str, LedgerRow]:
    return {row.id: row.row for row in Dataset(dataset).videos if row.row.verdict is Verdict.OK}


def _records(dataset: Path) -> Iterator[tuple[str, int, int]]:
    """Name, inode and time of every commit record: those of a dataset that was made anew are others."""
    folder = dataset / COMMITS
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                status = entry.stat()
                yield entry.name, status.st_ino, status.st_mtime_ns
    except OSError as error:
        raise store_error(folder, error) from error


def planned_source(video: Video, dataset: Path, rows: dict[str, LedgerRow]) -> LedgerRow:
    """The row of a video in the dataset that it is to be taken from. RefusedError if that is not what was planned."""
    row = rows.get(video.id)
    if row is None or row.content_sha256 != video.content:
        raise RefusedError(
            f"{dataset} has changed since this dataset was planned: {video.id} is not there any more, or not the same. "
            "Run the command again with --extend, or put the old dataset back."
        )
    return row


class Deriver:
    """Makes stacks, or rows stored in another way, with one set of settings."""

    def __init__(self, settings: Settings, remote: RemoteFlow | None = None) -> None:
        """``remote``: computes flow that is not stored; None = this process does."""
        self.settings = settings
        self._remote = remote

    def derive(self, dataset: Path, source: LedgerRow, folder: Path, progress: Callable[[int], None]) -> LedgerRow:
        """Write the encoded rows of one video into ``folder`` and describe them.

        ``source`` is the video's row in ``dataset``; ``progress`` is called with the number of new rows now and then.
        A video that cannot be used gets a row with its verdict. Raises StoreError where the disk fails.
        """
        stages = Stages("decode", "flow", "stack", "encode")
        writer = VideoWriter(folder, self.settings.storage)
        rows = StoredRows(LocalStore(dataset), self.settings.origins[-1])
        assert source.flow
        array = ArrayName.parse(source.flow.array)
        row = replace(source, flow=None, frames=None, flow_bytes=0, frames_bytes=0, attempt=1)
        try:
            with naming(source.flow.start):
                if self.settings.stack and array.kind != "stack":
                    row = replace(row, **self._stacks(rows, source, writer, stages, progress))
                else:
                    self._transcode(rows, source, writer, stages, progress)
            writer.finish()
            row = replace(row, **writer.columns())
        except VideoError as error:
            writer.finish()
            row = replace(row, verdict=error.verdict, reason=error.reason, content_sha256="")
        except RefusedError as error:  # the source is damaged here: this video's failure, the others go on
            writer.finish()
            row = replace(row, verdict=Verdict.CORRUPT_FRAMES, reason=str(error), content_sha256="")
        finally:
            rows.close()
        return replace(row, seconds=stages.rounded())

    def _stacks(
        self,
        rows: StoredRows,
        source: LedgerRow,
        writer: VideoWriter,
        stages: Stages,
        progress: Callable[[int], None],
    ) -> dict[str, Any]:
        """Write the stacks of a video; what its row says of them."""
        assert self.settings.stack and source.flow
        stacks = VideoStacks(rows, source, self.settings, stages.time, lambda: progress(0), self._remote)
        for frame, stack, mean in stacks:
            with stages.time("encode"):
                channels, height, width = stack.shape
                name = ArrayName("stack", height, width, channels)
                writer.flow(name, stack[None], mean=mean[None], frame=np.array([frame], np.int32))
            progress(1)
        return {"frames_declared": -1, "frames_decoded": source.flow.length + 1, "reason": stacks.note}

    def _transcode(
        self,
        rows: StoredRows,
        source: LedgerRow,
        writer: VideoWriter,
        stages: Stages,
        progress: Callable[[int], None],
    ) -> None:
        assert source.flow
        name = ArrayName.parse(source.flow.array)
        for array in name.directions(self.settings.flow.direction):
            for first, last in _parts(source.flow, array):
                with stages.time("decode"):
                    flow = rows.flow(array, first, last)
                    kept = {side: rows.side(array, side, first, last) for side in array.sides}
                with stages.time("encode"):
                    sides = {side: values for side, values in kept.items() if side not in ("scale", "zero")}
                    writer.flow(array, flow, **sides)
                progress(last - first if array == name else 0)
        if source.frames and self.settings.storage.rgb:
            images = ArrayName.parse(source.frames.array)
            for first, last in _parts(source.frames, images):
                for payload in rows.payloads(images, range(first, last)):
                    writer.payload(images, payload)
                progress(0)


def _parts(place: Placement, array: ArrayName) -> Iterator[tuple[int, int]]:
    """The rows of a video, a few at a time: first, last + 1."""
    end = place.start + place.length
    step = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // (4 * math.prod(array.row_shape()))))
    for first in range(place.start, end, step):
        yield first, min(end, first + step)
