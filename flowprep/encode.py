"""From flow and frames to encoded rows: the files of one video that its shard is put together from.

levels (quantise/) -> payload (codecs/) -> files in a scratch folder, two for each array
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep import codecs
from flowprep.config import StorageConfig
from flowprep.flow.metrics import end_point_error
from flowprep.quantise import Quantised, dequantise, quantise, statistics
from flowprep.store.blobs import store_error
from flowprep.store.checksums import with_checksum
from flowprep.store.layout import ArrayName
from flowprep.types import Placement

SAMPLE_EVERY = 16  # rows: how often the error that storage adds is measured
WRITE_BYTES = 2**20  # that go to the disk at once: a system call for each row would cost more than its checksum


class RowFile:
    """The encoded rows of one video for one array: payloads in one file, each with its checksum behind it; lengths and
    side values in another."""

    def __init__(self, folder: Path, array: ArrayName) -> None:
        self.array = array
        self._payload = folder / f"{array}.payload"
        self._sides_path = folder / f"{array}.npz"
        try:
            self._file = self._payload.open("wb", buffering=WRITE_BYTES)
        except OSError as error:
            raise store_error(self._payload, error) from error
        self._lengths: list[int] = []
        self._sides: dict[str, list[NDArray[Any]]] = {name: [] for name in array.sides}
        self._hash = hashlib.sha256(str(array).encode())

    def append(self, payload: bytes | memoryview, **sides: Any) -> None:
        """One more row; ``sides`` has a value for each side array, of the shape of one row."""
        stored = with_checksum(payload)
        try:
            self._file.write(stored)
        except OSError as error:
            raise store_error(self._payload, error) from error
        self._hash.update(len(payload).to_bytes(8, "little") + payload)
        self._lengths.append(len(stored))
        for name, values in self._sides.items():
            value = np.asarray(sides[name], self.array.sides[name].dtype)
            self._hash.update(value.tobytes())
            values.append(value)

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


def read_row_file(folder: Path, array: ArrayName) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]], Path]:
    """What :class:`RowFile` left in ``folder``: lengths (n,), side values by name (n, ...), and the payload file."""
    with np.load(folder / f"{array}.npz", allow_pickle=False) as data:
        sides = {name: data[name] for name in data.files if name != "lengths"}
        return data["lengths"], sides, folder / f"{array}.payload"


@dataclass
class _AddedError:
    """End-point error in px that storage adds, on every SAMPLE_EVERY-th row; of a stack on one field, by turns."""

    total: float = 0.0
    largest: float = 0.0
    fields: int = 0

    def measure(
        self,
        original: NDArray[np.float32],
        levels: NDArray[Any],
        scale: NDArray[np.float32],
        zero: NDArray[np.float32],
    ) -> None:
        """One row: (2L, H, W) in px and as levels that were read back, with their (2,) scale and zero."""
        first = 2 * (self.fields % (len(levels) // 2))
        field = slice(first, first + 2)
        (restored,) = dequantise(levels[None, field], scale[None], zero[None])
        error = end_point_error(restored, original[field])
        self.total += float(error.mean())
        self.largest = max(self.largest, float(error.max()))
        self.fields += 1


class VideoWriter:
    """Writes the rows of one video into ``folder``, an array at its first row."""

    def __init__(self, folder: Path, storage: StorageConfig) -> None:
        self._folder = folder
        self._storage = storage
        self._codec = codecs.field_codec(storage)
        self._files: dict[str, RowFile] = {}
        self._added = _AddedError()

    def flow(self, array: ArrayName, flow: NDArray[np.float32], **sides: NDArray[Any]) -> None:
        """Fields or stacks (n, 2L, H, W) in px as rows of ``array``.

        ``sides``: values (n, ...) of the side arrays that do not follow from the flow, or in place of what would.
        Raises VideoError where the codec cannot take such an image, ValueError for flow that is not finite.
        """
        if not len(flow):
            return
        quantised = quantise(flow, self._storage)
        if "stats" in array.sides and "stats" not in sides:
            sides["stats"] = statistics(flow, quantised.extremes)
        self.levels(array, quantised, flow, **sides)

    def levels(
        self,
        array: ArrayName,
        quantised: Quantised,
        flow: NDArray[np.float32] | Mapping[int, NDArray[np.float32]],
        **sides: NDArray[Any],
    ) -> None:
        """What :meth:`flow` writes, of fields that are quantised already.

        ``flow``: the fields in px, by number; needed are only those that become every SAMPLE_EVERY-th row of ``array``.
        """
        values = {"scale": quantised.scale, "zero": quantised.zero, **sides}
        for i, levels in enumerate(quantised.levels):
            payload = self._codec.encode(levels, quantised.scale[i])
            file = self._file(array)
            if file.rows % SAMPLE_EVERY == 0:
                restored = self._codec.decode(payload, array.row_shape())
                self._added.measure(flow[i], restored, quantised.scale[i], quantised.zero[i])
            file.append(payload, **{name: value[i] for name, value in values.items()})

    def frames(self, images: NDArray[np.uint8]) -> None:
        """RGB frames (n, H, W, 3)."""
        height, width = images.shape[1:3]
        file = self._file(ArrayName("frames", height, width, 3))
        for image in images:
            file.append(codecs.encode_rgb(image, self._storage.rgb_quality))

    def payload(self, array: ArrayName, payload: bytes | memoryview) -> None:
        """An RGB frame that is encoded already."""
        self._file(array).append(payload)

    def finish(self) -> None:
        """Complete the files."""
        for file in self._files.values():
            file.finish()

    def rows(self) -> dict[ArrayName, int]:
        """How many rows each array has got."""
        return {file.array: file.rows for file in self._files.values()}

    def columns(self) -> dict[str, Any]:
        """The columns of a ledger row that describe what was written. Placements begin at row 0."""
        files = self._files.values()
        flows = [file for file in files if not file.array.is_rgb]
        frames = [file for file in files if file.array.is_rgb]
        together = "".join(self._files[name].digest for name in sorted(self._files))
        return {
            "flow": Placement(str(flows[0].array), 0, flows[0].rows),
            "frames": Placement(str(frames[0].array), 0, frames[0].rows) if frames else None,
            "flow_bytes": sum(file.bytes for file in flows),
            "frames_bytes": sum(file.bytes for file in frames),
            "added_epe": self._added.total / self._added.fields,
            "added_epe_max": self._added.largest,
            "sampled_fields": self._added.fields,
            "content_sha256": hashlib.sha256(together.encode()).hexdigest(),
        }

    def _file(self, array: ArrayName) -> RowFile:
        if str(array) not in self._files:
            self._files[str(array)] = RowFile(self._folder, array)
        return self._files[str(array)]
