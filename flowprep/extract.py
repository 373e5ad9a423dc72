"""One video, from file to encoded rows: what runs inside the sandboxed process.

    decode (video.py) -> flow (flow/) -> encoded rows (encode.py)

Frames stream through in blocks; memory does not depend on the length of the video. Where the process of a GPU computes
the flow (gpu/), it has one part of the video while this one decodes the next and encodes the last.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep import flow
from flowprep.config import FlowConfig, Settings
from flowprep.encode import SAMPLE_EVERY, VideoWriter
from flowprep.errors import Verdict, VideoError
from flowprep.gpu.client import CodedFields, RemoteFlow
from flowprep.store.blobs import store_error
from flowprep.store.layout import ArrayName
from flowprep.types import LedgerRow
from flowprep.video import VideoReader

KINDS = {"forward": "flow", "backward": "flow_backward"}  # of arrays, by direction
DISK_GONE = {errno.ENODEV, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ESTALE, errno.ETIMEDOUT}


class Stages:
    """CPU seconds by stage."""

    def __init__(self, *stages: str) -> None:
        self.seconds = dict.fromkeys(stages, 0.0)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.process_time() - start

    def rounded(self) -> dict[str, float]:
        """As a ledger row has them."""
        return {stage: round(value, 4) for stage, value in self.seconds.items()}


class Extractor:
    """Extracts videos with one set of settings; the flow algorithm is made once and serves them all."""

    def __init__(self, settings: Settings, remote: RemoteFlow | None = None) -> None:
        """``remote``: computes the flow; None = this process does."""
        self.settings = settings
        self._maker = _Elsewhere(remote) if remote else _Here(settings.flow)

    def extract(self, path: Path, id: str, folder: Path, progress: Callable[[int], None]) -> LedgerRow:
        """Write the encoded rows of the video at ``path`` into ``folder`` and describe it.

        ``progress`` is called with the number of new fields after each block. The row's placements have start 0: where
        the rows finally lie is the shard's business. A video that cannot be used gets a row with its verdict.
        Raises StoreError where the disk fails, MemoryError where memory does.
        """
        stages = Stages("decode", "flow", "encode")
        reader = VideoReader(path, self.settings.video, self.settings.storage)
        writer = VideoWriter(folder, self.settings.storage)
        sha256 = ""
        verdict, reason = Verdict.OK, ""
        try:
            with stages.time("decode"):
                sha256 = file_sha256(path)
            self._run(reader, writer, stages, progress)
            reader.check()
        except VideoError as error:
            verdict, reason = error.verdict, error.reason
        writer.finish()
        found = reader.report
        row: dict[str, Any] = {
            "id": id,
            "verdict": verdict,
            "reason": reason,
            "sha256": sha256,
            "width": found.width,
            "height": found.height,
            "fps": found.fps,
            "frames_declared": found.frames_declared,
            "frames_decoded": found.frames_decoded,
            "frames_corrupt": found.frames_corrupt,
            "seconds": stages.rounded(),
        }
        if verdict is Verdict.OK:
            self._check_counts(writer, found.frames_kept)
            row |= writer.columns()
        return LedgerRow(**row)

    def _run(
        self,
        reader: VideoReader,
        writer: VideoWriter,
        stages: Stages,
        progress: Callable[[int], None],
    ) -> None:
        blocks = reader.blocks()
        last: NDArray[np.uint8] | None = None  # (1, H, W): the pair that spans two blocks needs it again
        begun: deque[tuple[int, Part]] = deque()
        done = 0  # pairs

        def finish() -> None:
            """Write the part that was begun first."""
            pairs, part = begun.popleft()
            with stages.time("flow"):
                computed = part()
            with stages.time("encode"):
                for direction, fields in computed.items():
                    _write(writer, KINDS[direction], fields)
            progress(pairs)

        while True:
            with stages.time("decode"):
                block = next(blocks, None)
            if block is None:
                break
            grey = block.grey if last is None else np.concatenate([last, block.grey])
            last = grey[-1:].copy()
            pairs = self._maker.pairs_in_a_call(*grey.shape[1:])  # a slow method must show signs of life
            for start in range(0, len(grey) - 1, pairs):
                frames = grey[start : start + pairs + 1]
                with stages.time("flow"):
                    begun.append((len(frames) - 1, self._maker.begin(frames, done)))
                done += len(frames) - 1
                if len(begun) > self._maker.ahead:
                    finish()
            if block.rgb is not None:
                with stages.time("encode"):
                    writer.frames(block.rgb)
            progress(0)
        while begun:
            finish()

    def _check_counts(self, writer: VideoWriter, frames: int) -> None:
        """T frames give T-1 fields, in each direction, and T stored frames."""
        for array, rows in writer.rows().items():
            if rows != (frames if array.is_rgb else frames - 1):
                raise AssertionError(f"{frames} frames gave {rows} rows of {array}")


Part = Callable[[], Mapping[str, NDArray[np.float32] | CodedFields]]  # gives the fields of a part, by direction


class _Here:
    """Flow that this process computes."""

    ahead = 0  # parts that are begun before the first of them is taken

    def __init__(self, config: FlowConfig) -> None:
        self._direction = config.direction
        self._algorithm = flow.configured(config)
        self.pairs_in_a_call = self._algorithm.pairs_in_a_call

    def begin(self, frames: NDArray[np.uint8], _done: int) -> Part:
        return partial(self._fields, frames)

    def _fields(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        if self._direction == "both":
            forward, backward = self._algorithm.both(frames)
            return {"forward": forward, "backward": backward}
        if self._direction == "backward":
            return {"backward": self._algorithm.backward(frames)}
        return {"forward": self._algorithm.flow(frames)}


class _Elsewhere:
    """Flow that the process of a GPU computes."""

    ahead = 1

    def __init__(self, remote: RemoteFlow) -> None:
        self._remote = remote
        self.pairs_in_a_call = remote.pairs_in_a_call

    def begin(self, frames: NDArray[np.uint8], done: int) -> Part:
        """``done``: pairs of the video before these."""
        pending = self._remote.begin(frames, -done % SAMPLE_EVERY, SAMPLE_EVERY)
        return partial(self._remote.take, pending)


def _write(writer: VideoWriter, kind: str, fields: NDArray[np.float32] | CodedFields) -> None:
    if isinstance(fields, CodedFields):
        name = ArrayName(kind, *fields.quantised.levels.shape[2:])
        writer.levels(name, fields.quantised, fields.originals, stats=fields.stats)
    else:
        writer.flow(ArrayName(kind, *fields.shape[2:]), fields)


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a source file; raises VideoError where it cannot be read, StoreError where its disk is gone."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise VideoError(Verdict.MISSING, "no such file") from None
    except OSError as error:
        if error.errno in DISK_GONE:
            raise store_error(path, error) from error
        raise VideoError(Verdict.UNDECODABLE, f"cannot be read: {error.strerror}") from None
