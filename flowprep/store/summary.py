"""What is in a dataset, in numbers: the answer of ``flowprep info``."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from flowprep.errors import Verdict
from flowprep.store.commits import tally
from flowprep.store.layout import ArrayName
from flowprep.store.reader import Dataset


@dataclass(frozen=True)
class Info:
    """A dataset in numbers; sizes in bytes, errors in px."""

    path: str
    videos: int
    verdicts: dict[str, int]
    labels: int
    fields: int  # stored rows of flow, both directions counted, or stacks
    frames: int  # stored RGB frames
    bytes: int  # of all committed files
    flow_bytes: int  # payload of the flow rows
    frames_bytes: int  # payload of the RGB frames
    float32_bytes: int  # what the flow would take as float32
    ratio: float  # float32_bytes / flow_bytes
    added_epe: float  # mean end-point error that storage added, over the sampled fields
    added_epe_max: float  # its largest value at any pixel of them
    sampled_fields: int
    arrays: dict[str, int]  # data array -> rows stored
    unfinished_shards: int
    settings: dict[str, Any]
    versions: dict[str, str]
    settings_fingerprint: str
    content_fingerprint: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(dataset: Dataset) -> Info:
    """Add up the ledger rows in force."""
    rows = {row.id: row.row for row in dataset.videos}
    good = [row for row in rows.values() if row.verdict is Verdict.OK]
    arrays: dict[str, int] = {}
    raw = rows_stored = 0
    for row in good:
        assert row.flow
        name = ArrayName.parse(row.flow.array)
        for each in name.directions(dataset.settings.flow.direction):
            arrays[str(each)] = arrays.get(str(each), 0) + row.flow.length
            rows_stored += row.flow.length
            raw += row.flow.length * math.prod(each.row_shape()) * 4
        if row.frames:
            arrays[row.frames.array] = arrays.get(row.frames.array, 0) + row.frames.length
    flow_bytes = sum(row.flow_bytes for row in good)
    sampled = sum(row.sampled_fields for row in good)
    return Info(
        path=str(dataset.path),
        videos=len(rows),
        verdicts=tally(rows),
        labels=len({row.label for row in dataset.videos if row.label}),
        fields=rows_stored,
        frames=sum(row.frames.length for row in good if row.frames),
        bytes=sum(item.bytes for commit in dataset.commits for item in commit.files),
        flow_bytes=flow_bytes,
        frames_bytes=sum(row.frames_bytes for row in good),
        float32_bytes=raw,
        ratio=raw / flow_bytes if flow_bytes else 0.0,
        added_epe=sum(row.added_epe * row.sampled_fields for row in good) / sampled if sampled else 0.0,
        added_epe_max=max((row.added_epe_max for row in good), default=0.0),
        sampled_fields=sampled,
        arrays=dict(sorted(arrays.items())),
        unfinished_shards=dataset.unfinished_shards,
        settings=dataset.settings.to_json(),
        versions=dataset.commits[-1].versions if dataset.commits else {},
        settings_fingerprint=dataset.settings.fingerprint(),
        content_fingerprint=content_fingerprint(dataset),
    )


def content_fingerprint(dataset: Dataset) -> str:
    """sha256 of what is stored for which video: equal for equal content, wherever the rows lie, however it was made."""
    content = [[row.id, row.label, list(row.splits), row.status, row.row.content_sha256] for row in dataset.videos]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
