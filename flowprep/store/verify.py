"""Is everything there, whole, and readable? Checks a dataset against its own commit records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from flowprep.errors import FlowprepError, RefusedError, Verdict
from flowprep.store import layout
from flowprep.store.commits import CONTINUE, state_of, state_written
from flowprep.store.finalise import metadata_faults
from flowprep.store.nfs import patiently
from flowprep.store.plans import planned_videos
from flowprep.store.reader import Dataset, VideoRow
from flowprep.store.shardfile import SLOTS
from flowprep.types import Placement, StoredFile

CHUNK = 1 << 22  # bytes read at a time


@dataclass
class Report:
    """What was checked, and every fault found, one sentence each."""

    videos: int = 0
    files: int = 0
    bytes: int = 0
    rows_read: int = 0
    faults: list[str] = field(default_factory=list)
    unfinished: str = ""  # what is still to do, in a sentence: no fault, the command that made the dataset does it
    damaged_commits: set[str] = field(default_factory=set)  # records that are damaged, or whose files are

    @property
    def clean(self) -> bool:
        """No fault, and nothing left to do."""
        return not self.faults and not self.unfinished


def verify(dataset: Dataset, *, full: bool = False, step: Callable[[str], None] = lambda _: None) -> Report:
    """Check conservation (each planned video has one row in force), row counts, checksums and readability.

    Parameters
    ----------
    full: decode every stored row; otherwise the first, middle and last of each video.
    step: called with a line of text from time to time.
    """
    report = Report(videos=len(dataset.videos), unfinished=unfinished(dataset))
    report.faults += dataset.broken.values()
    report.damaged_commits |= {layout.commit_key(*item) for item in dataset.broken}
    report.faults += _conservation(dataset, report)
    report.faults += _settings(dataset)
    report.faults += _checksums(dataset, report, step)
    report.faults += _placements(dataset)
    if not report.unfinished and not dataset.broken:
        report.faults += _metadata(dataset, report)
    for number, row in enumerate(dataset.videos):
        if row.row.verdict is Verdict.OK:
            report.faults += _rows(dataset, row, report, full)
        if number % 500 == 499:
            step(f"read rows of {number + 1:,} of {len(dataset.videos):,} videos")
    return report


def unfinished(dataset: Dataset) -> str:
    """How much is still to do, in a sentence; "" if nothing is."""
    left, planned = dataset.unfinished_shards, sum(len(plan.shards) for plan in dataset.plans)
    return f"{left:,} of {planned:,} shards are not committed, it is not finished: {CONTINUE}" if left else ""


def _conservation(dataset: Dataset, report: Report) -> Iterator[str]:
    """planned = ok + every other status, each committed shard accounting for exactly its own videos."""
    planned = {(plan.generation, k): item for plan in dataset.plans for k, item in enumerate(plan.shards)}
    for commit in dataset.commits:
        shard = planned.get((commit.generation, commit.shard))
        name = f"commit {commit.generation}.{commit.shard:05d}"
        if shard is None:
            yield f"{name} belongs to no plan."
        elif sorted(video.id for video in shard.videos) != sorted(row.id for row in commit.rows):
            yield f"{name} does not account for exactly the videos planned for it."
    for id in planned_videos(dataset.plans).keys() - {row.id for row in dataset.videos}:
        if not report.unfinished and not dataset.broken:
            yield f"{id}: planned, but has no ledger row."


def _metadata(dataset: Dataset, report: Report) -> list[str]:
    """What plain Zarr readers see is what the records say."""
    try:
        written = state_written(dataset.store)
    except RefusedError as error:
        return [str(error)]
    if written != state_of(len(dataset.plans), len(dataset.commits)):
        report.unfinished = (
            f"zarr.json is missing or older than the commit records, it was stopped before its end: {CONTINUE}"
        )
        return []
    return list(dict.fromkeys(metadata_faults(dataset.store, dataset.plans, dataset.commits)))


def _settings(dataset: Dataset) -> Iterator[str]:
    prints = {plan.settings.fingerprint() for plan in dataset.plans} | {c.settings_fingerprint for c in dataset.commits}
    if len(prints) > 1:
        yield f"settings are mixed: fingerprints {', '.join(sorted(item[:12] for item in prints))}."


def _checksums(dataset: Dataset, report: Report, step: Callable[[str], None]) -> Iterator[str]:
    for commit in dataset.commits:
        for item in commit.files:
            report.files += 1
            report.bytes += item.bytes
            if fault := _checksum_fault(dataset.store.path(item.key), item):
                record = layout.commit_key(commit.generation, commit.shard)
                report.damaged_commits.add(record)
                yield f"{item.key}: {fault}; its commit record is {record}."
            if report.files % 500 == 0:
                step(f"checked {report.files:,} files, {report.bytes / 1e9:.1f} GB")


def _checksum_fault(path: Path, item: StoredFile) -> str:
    try:
        size = patiently(path.stat).st_size
        if size != item.bytes:
            return f"{size} bytes, {item.bytes} were committed"
        digest = hashlib.sha256()
        with patiently(lambda: path.open("rb")) as file:
            while data := file.read(CHUNK):
                digest.update(data)
        return "" if digest.hexdigest() == item.sha256 else "its checksum is wrong"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _placements(dataset: Dataset) -> Iterator[str]:
    """No row belongs to two videos."""
    taken: dict[str, list[tuple[int, int, str]]] = {}
    for commit in dataset.commits:
        for row in commit.rows:
            for place in (row.flow, row.frames):
                if place:
                    taken.setdefault(place.array, []).append((place.start, place.start + place.length, row.id))
    for array, runs in taken.items():
        runs.sort()
        for (_, end, first), (start, _, second) in pairwise(runs):
            if start < end:
                yield f"{array}: {first} and {second} claim the same rows."


def _rows(dataset: Dataset, row: VideoRow, report: Report, full: bool) -> Iterator[str]:
    """Counts and readability of one video's rows."""
    flow, frames = row.row.flow, row.row.frames
    assert flow
    if dataset.settings.stack:
        yield from _stacks(dataset, row, report, full)
        return
    kept = frames.length if frames else flow.length + 1
    if flow.length != kept - 1:
        yield f"{row.id}: {kept} frames and {flow.length} fields; there must be one field less than frames."
    directions = {"both": ("forward", "backward")}.get(
        dataset.settings.flow.direction, (dataset.settings.flow.direction,)
    )
    try:
        for start, stop in _samples(flow, full):
            for direction in directions:
                report.rows_read += len(dataset.levels(row.id, start, stop, direction=direction))
        for start, stop in _samples(frames, full) if frames else ():
            report.rows_read += len(dataset.frames(row.id, start, stop))
    except FlowprepError as error:
        yield str(error)


def _stacks(dataset: Dataset, row: VideoRow, report: Report, full: bool) -> Iterator[str]:
    """Frames and readability of one video's stacks."""
    assert row.row.flow
    try:
        frames = dataset.stack_frames(row.id).tolist()
        if frames != sorted(set(frames)) or frames[0] < 0 or frames[-1] >= row.row.frames_decoded:
            yield f"{row.id}: its stacks are of frames {frames}, of a video of {row.row.frames_decoded}."
        for start, stop in _samples(row.row.flow, full):
            report.rows_read += len(dataset.stacks(row.id, start, stop))
    except FlowprepError as error:
        yield str(error)


def _samples(place: Placement, full: bool) -> Iterator[tuple[int, int]]:
    if full:
        for start in range(0, place.length, SLOTS // 16):
            yield start, min(place.length, start + SLOTS // 16)
    else:
        for number in sorted({0, place.length // 2, place.length - 1}):
            yield number, number + 1
