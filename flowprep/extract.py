"""One video, from file to encoded rows: what runs inside the sandboxed process.

    decode (video.py) -> flow (flow/) -> encoded rows (encode.py)

Frames stream through in blocks; memory does not depend on the length of the video.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep import flow
from flowprep.config import Settings
from flowprep.encode import VideoWriter
from flowprep.errors import Verdict, VideoError
from flowprep.store.blobs import store_error
from flowprep.store.layout import ArrayName
from flowprep.types import LedgerRow
from flowprep.video import VideoReader

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

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.algorithm = flow.configured(settings.flow)

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
        while True:
            with stages.time("decode"):
                block = next(blocks, None)
            if block is None:
                return
            grey = block.grey if last is None else np.concatenate([last, block.grey])
            last = grey[-1:].copy()
            pairs = self.algorithm.pairs_in_a_second(*grey.shape[1:])  # a slow method must show signs of life
            for start in range(0, len(grey) - 1, pairs):
                part = grey[start : start + pairs + 1]
                with stages.time("flow"):
                    computed = self._flow(part)
                with stages.time("encode"):
                    for kind, fields in computed.items():
                        writer.flow(ArrayName(kind, *fields.shape[2:]), fields)
                progress(len(part) - 1)
            if block.rgb is not None:
                with stages.time("encode"):
                    writer.frames(block.rgb)
            progress(0)

    def _flow(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Fields of consecutive frames, by the kind of array they go to."""
        direction = self.settings.flow.direction
        if direction == "both":
            forward, backward = self.algorithm.both(frames)
            return {"flow": forward, "flow_backward": backward}
        if direction == "backward":
            return {"flow_backward": self.algorithm.backward(frames)}
        return {"flow": self.algorithm.flow(frames)}

    def _check_counts(self, writer: VideoWriter, frames: int) -> None:
        """T frames give T-1 fields, in each direction, and T stored frames."""
        for array, rows in writer.rows().items():
            if rows != (frames if array.is_rgb else frames - 1):
                raise AssertionError(f"{frames} frames gave {rows} rows of {array}")


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
