"""The values that travel between the rooms, with the shape and unit of every field.

All are frozen dataclasses of plain values, so that they can be compared, printed and written as JSON.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from flowprep.errors import Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS = 3  # UCF-101 and HMDB-51 define three train/test splits; other sources use the first


@dataclass(frozen=True)
class Video:
    """One video as a list or a folder names it, before anybody has opened it."""

    id: str  # path below the source folder, with suffix, '/' between parts; unique in a dataset
    label: str = ""  # class name; "" = unlabelled
    splits: tuple[str, str, str] = ("", "", "")  # part ("train", "val", "test") in split 1..3; "" = in none
    size: int = -1  # bytes on disk; -1 = no such file
    refused: str = ""  # why the path must not be opened ("leaves the source folder"); "" = it may
    content: str = ""  # sha256 of what a dataset that is the source has of it; "" = the source is the file

    def to_json(self) -> dict[str, Any]:
        tree = dict(vars(self))
        if not self.content:
            del tree["content"]
        return tree

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "splits": tuple(data["splits"])})


@dataclass(frozen=True)
class Probe:
    """What a file's header says of its video stream. A guess to plan with: never a verdict, never a count."""

    width: int  # px, after rotation
    height: int  # px, after rotation
    frames: int  # declared or estimated; at least 1
    fps: float  # frames per second; 0 = unknown


@dataclass(frozen=True)
class FrameBlock:
    """Consecutive frames of one video, as the decoder hands them on."""

    grey: NDArray[np.uint8]  # (n, H, W) full-range BT.601 luma, at the size that flow is computed at
    rgb: NDArray[np.uint8] | None  # (n, h, w, 3) at the size that is stored; None where not asked for


@dataclass(frozen=True)
class DecodeReport:
    """What was found while decoding one video to its end."""

    width: int  # px, after rotation, before resizing
    height: int
    fps: float  # of the kept frames: after --stride and --fps; 0 = unknown
    frames_declared: int  # from the header; -1 = it declares none
    frames_decoded: int  # by decoding to the end, flush included
    frames_kept: int  # after --stride and --fps
    frames_corrupt: int  # flagged by the decoder


@dataclass(frozen=True)
class Placement:
    """Where the rows of one video lie in one array."""

    array: str  # name of the Zarr array, as "flow_240x320"
    start: int  # first row
    length: int  # number of rows


@dataclass(frozen=True)
class LedgerRow:
    """The outcome of one video: exactly one row is in force for each planned video."""

    id: str
    verdict: Verdict
    reason: str = ""  # one sentence; "" for ok
    sha256: str = ""  # of the source file; "" where it could not be read
    width: int = 0  # px of the source, after rotation
    height: int = 0
    fps: float = 0.0  # of the stored frames; 0 = unknown
    frames_declared: int = -1  # -1 = the header declares none
    frames_decoded: int = 0
    frames_corrupt: int = 0
    flow: Placement | None = None  # rows of flow_HxW (and of flow_backward_HxW); None unless ok
    frames: Placement | None = None  # rows of frames_HxW; None unless ok and asked for
    flow_bytes: int = 0  # stored payload of the flow rows, both directions
    frames_bytes: int = 0  # stored payload of the RGB rows
    added_epe: float = 0.0  # px: mean end-point error that storage added, over the sampled fields
    added_epe_max: float = 0.0  # px: its largest value at any pixel of the sampled fields
    sampled_fields: int = 0  # how many fields that was measured on
    content_sha256: str = ""  # of everything stored for this video, wherever it lies
    attempt: int = 1  # strikes used: 1 = at the first try
    seconds: dict[str, float] = field(default_factory=dict)  # CPU seconds by stage: decode, flow, encode

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The row that :meth:`to_json` wrote; ``data`` is used up."""
        data["verdict"] = Verdict(data["verdict"])
        for name in ("flow", "frames"):
            data[name] = Placement(**data[name]) if data[name] else None
        if data.keys() != COLUMNS:
            return cls(**data)
        # What __init__ does, five times as quickly: a large dataset has hundreds of thousands of rows.
        row = object.__new__(cls)
        vars(row).update(data)
        return row


COLUMNS = {item.name for item in dataclasses.fields(LedgerRow)}


@dataclass(frozen=True)
class StoredFile:
    """One file of the dataset, as its commit record names it."""

    key: str  # path below the dataset folder
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardResult:
    """The summary that travels back from a finished shard; never arrays."""

    generation: int
    shard: int
    verdicts: dict[str, int]  # videos by verdict
    fields: int
    bytes: int
    seconds: float  # wall time
    failures: tuple[LedgerRow, ...] = ()  # rows that are not ok
    outcome: str = "committed"  # "committed" | "already done" | "lost race"
