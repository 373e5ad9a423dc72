"""One video, from file to encoded rows: what runs inside the sandboxed process.

    decode (video.py) -> flow (flow/) -> levels (quantise.py) -> JPEG (codecs.py) -> payload files in a scratch folder

Frames stream through in blocks; memory does not depend on the length of the video.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep import codecs, flow
from flowprep.config import Settings
from flowprep.errors import Verdict, VideoError
from flowprep.flow.metrics import end_point_error
from flowprep.quantise import dequantise, quantise
from flowprep.store.blobs import store_error
from flowprep.store.layout import SIDES, ArrayName
from flowprep.types import LedgerRow, Placement
from flowprep.video import VideoReader

SAMPLE_EVERY = 16  # fields: how often the error that storage adds is measured
DISK_GONE = {errno.ENODEV, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ESTALE, errno.ETIMEDOUT}
WRITE_BYTES = 2**20  # that go to the disk at once: a system call for each row would cost more than its checksum


class RowFile:
    """The encoded rows of one video for one array: payloads in one file, lengths and side values in another."""

    def __init__(self, folder: Path, array: ArrayName) -> None:
        self.array = array
        self._payload = folder / f"{array}.payload"
        self._sides_path = folder / f"{array}.npz"
        try:
            self._file = self._payload.open("wb", buffering=WRITE_BYTES)
        except OSError as error:
            raise store_error(self._payload, error) from error
        self._lengths: list[int] = []
        self._sides: dict[str, list[NDArray[np.float32]]] = {name: [] for name in SIDES} if array.is_flow else {}
        self._hash = hashlib.sha256(str(array).encode())

    def append(self, payload: bytes, **sides: NDArray[np.float32]) -> None:
        try:
            self._file.write(payload)
        except OSError as error:
            raise store_error(self._payload, error) from error
        self._hash.update(len(payload).to_bytes(8, "little") + payload)
        self._lengths.append(len(payload))
        for name, value in sides.items():
            self._hash.update(value.tobytes())
            self._sides[name].append(value)

    def finish(self) -> None:
        try:
            self._file.close()
            with self._sides_path.open("wb") as file:
                sides: dict[str, Any] = {name: np.stack(values) for name, values in self._sides.items()}
                np.savez(file, lengths=np.array(self._lengths, np.int64), **sides)
        except OSError as error:
            raise store_error(self._payload, error) from error

    @property
    def rows(self) -> int:
        return len(self._lengths)

    @property
    def bytes(self) -> int:
        return sum(self._lengths)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def read_row_file(folder: Path, array: ArrayName) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float32]], Path]:
    """What :class:`RowFile` left in ``folder``: lengths (n,), side values by name (n, ...), and the payload file."""
    with np.load(folder / f"{array}.npz", allow_pickle=False) as data:
        sides = {name: data[name] for name in data.files if name != "lengths"}
        return data["lengths"], sides, folder / f"{array}.payload"


@dataclass
class _Stages:
    """CPU seconds by stage."""

    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "flow": 0.0, "encode": 0.0})

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.process_time() - start


@dataclass
class _AddedError:
    """End-point error in px that storage adds, on every SAMPLE_EVERY-th field."""

    total: float = 0.0
    largest: float = 0.0
    fields: int = 0

    def measure(self, original: NDArray[np.float32], restored: NDArray[np.float32]) -> None:
        error = end_point_error(restored, original)
        self.total += float(error.mean())
        self.largest = max(self.largest, float(error.max()))
        self.fields += 1


class Extractor:
    """Extracts videos with one set of settings; the flow algorithm is made once and serves them all."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        chosen = settings.flow
        self.algorithm = flow.get(chosen.method, chosen.backend, **chosen.parameters)

    def extract(self, path: Path, id: str, folder: Path, progress: Callable[[int], None]) -> LedgerRow:
        """Write the encoded rows of the video at ``path`` into ``folder`` and describe it.

        ``progress`` is called with the number of new fields after each block. The row's placements have start 0: where
        the rows finally lie is the shard's business. A video that cannot be used gets a row with its verdict.
        Raises StoreError where the disk fails, MemoryError where memory does.
        """
        stages, added = _Stages(), _AddedError()
        reader = VideoReader(path, self.settings.video, self.settings.storage)
        files: dict[str, RowFile] = {}
        sha256 = ""
        verdict, reason = Verdict.OK, ""
        try:
            with stages.time("decode"):
                sha256 = file_sha256(path)
            self._run(reader, folder, files, stages, added, progress)
            reader.check()
        except VideoError as error:
            verdict, reason = error.verdict, error.reason
        for file in files.values():
            file.finish()
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
            "seconds": {stage: round(value, 4) for stage, value in stages.seconds.items()},
        }
        if verdict is Verdict.OK:
            row |= self._stored(files, added)
            self._check_counts(files, found.frames_kept)
        return LedgerRow(**row)

    def _run(
        self,
        reader: VideoReader,
        folder: Path,
        files: dict[str, RowFile],
        stages: _Stages,
        added: _AddedError,
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
            pairs = self._pairs_at_once(*grey.shape[1:])
            for start in range(0, len(grey) - 1, pairs):
                part = grey[start : start + pairs + 1]
                with stages.time("flow"):
                    computed = self._flow(part)
                with stages.time("encode"):
                    for kind, fields in computed.items():
                        self._encode_fields(fields, kind, folder, files, added)
                progress(len(part) - 1)
            if block.rgb is not None:
                with stages.time("encode"):
                    self._encode_frames(block.rgb, folder, files)
            progress(0)

    def _pairs_at_once(self, height: int, width: int) -> int:
        """Frame pairs that take about a second: a slow method must show signs of life. It changes no byte."""
        return max(1, int(1e6 / (self.algorithm.seconds_per_megapixel() * height * width)))

    def _flow(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Fields of consecutive frames, by the kind of array they go to."""
        direction = self.settings.flow.direction
        if direction == "both":
            forward, backward = self.algorithm.both(frames)
            return {"flow": forward, "flow_backward": backward}
        if direction == "backward":
            return {"flow_backward": self.algorithm.backward(frames)}
        return {"flow": self.algorithm.flow(frames)}

    def _encode_fields(
        self, fields: NDArray[np.float32], kind: str, folder: Path, files: dict[str, RowFile], added: _AddedError
    ) -> None:
        if not len(fields):
            return
        height, width = fields.shape[2:]
        storage = self.settings.storage
        file = _file(files, folder, ArrayName(kind, height, width))
        quantised = quantise(fields, storage)
        for i, original in enumerate(fields):
            scale, zero = quantised.scale[i], quantised.zero[i]
            payload = codecs.encode_field(quantised.levels[i], codecs.table_entry(storage.quality, scale))
            if file.rows % SAMPLE_EVERY == 0:
                levels = codecs.decode_field(payload, height, width)
                added.measure(original, dequantise(levels[None], scale[None], zero[None])[0])
            file.append(payload, scale=scale, zero=zero, stats=quantised.stats[i])

    def _encode_frames(self, images: NDArray[np.uint8], folder: Path, files: dict[str, RowFile]) -> None:
        height, width = images.shape[1:3]
        file = _file(files, folder, ArrayName("frames", height, width))
        for image in images:
            file.append(codecs.encode_rgb(image, self.settings.storage.rgb_quality))

    def _stored(self, files: dict[str, RowFile], added: _AddedError) -> dict[str, Any]:
        """The columns of a ledger row that describe what was written."""
        flows = [file for file in files.values() if file.array.is_flow]
        frames = [file for file in files.values() if not file.array.is_flow]
        together = "".join(files[name].digest for name in sorted(files))
        return {
            "flow": Placement(str(flows[0].array), 0, flows[0].rows),
            "frames": Placement(str(frames[0].array), 0, frames[0].rows) if frames else None,
            "flow_bytes": sum(file.bytes for file in flows),
            "frames_bytes": sum(file.bytes for file in frames),
            "added_epe": added.total / added.fields,
            "added_epe_max": added.largest,
            "sampled_fields": added.fields,
            "content_sha256": hashlib.sha256(together.encode()).hexdigest(),
        }

    def _check_counts(self, files: dict[str, RowFile], frames: int) -> None:
        """T frames give T-1 fields, in each direction, and T stored frames."""
        for file in files.values():
            expected = frames - 1 if file.array.is_flow else frames
            if file.rows != expected:
                raise AssertionError(f"{frames} frames gave {file.rows} rows of {file.array}, not {expected}")


def _file(files: dict[str, RowFile], folder: Path, array: ArrayName) -> RowFile:
    if str(array) not in files:
        files[str(array)] = RowFile(folder, array)
    return files[str(array)]


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
