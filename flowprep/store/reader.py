"""Reading a dataset: videos by name, flow in pixels, frames in RGB."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import RefusedError, UsageError, Verdict
from flowprep.plan import Plan
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import Commit, read_commits, rows_in_force
from flowprep.store.layout import ArrayName
from flowprep.store.plans import existing_plans, planned_videos
from flowprep.store.rows import StoredRows, naming
from flowprep.types import LedgerRow, Placement, Video

SEARCHED = 10_000  # videos among which a misspelt one is looked for: half a second


@dataclass(frozen=True)
class VideoRow:
    """One row of the table of videos: what was planned, and what became of it."""

    video: Video
    row: LedgerRow

    @property
    def id(self) -> str:
        return self.video.id

    @property
    def label(self) -> str:
        return self.video.label

    @property
    def splits(self) -> tuple[str, str, str]:
        return self.video.splits

    @property
    def status(self) -> str:
        return str(self.row.verdict)

    @property
    def reason(self) -> str:
        """Why the status is not ok; "" if it is, unless fields had to be repeated for a stack."""
        return self.row.reason

    @property
    def fields(self) -> int:
        """Number of flow fields (of each direction), or of stacks."""
        return self.row.flow.length if self.row.flow else 0

    @property
    def fps(self) -> float:
        return self.row.fps


class VideoTable(Sequence[VideoRow]):
    """All planned videos that have an outcome, sorted by id; rows by number or by id."""

    def __init__(self, rows: list[VideoRow]) -> None:
        self._rows = rows
        self._by_id = {row.id: row for row in rows}

    @overload
    def __getitem__(self, key: int | str) -> VideoRow: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[VideoRow]: ...
    def __getitem__(self, key: int | str | slice) -> VideoRow | Sequence[VideoRow]:
        if not isinstance(key, str):
            return self._rows[key]
        if key not in self._by_id:
            raise UsageError(f"no video {key!r} in this dataset.{_closest(key, self._by_id)}")
        return self._by_id[key]

    def __contains__(self, item: object) -> bool:
        return item in self._by_id if isinstance(item, str) else item in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        good = sum(row.row.verdict is Verdict.OK for row in self._rows)
        return f"<{len(self)} videos, {good} ok>"


class Dataset:
    """A dataset opened for reading; commit records are its only source of truth, so it can be read while it grows.

    Parameters
    ----------
    path: the OUT.zarr folder. Raises UsageError where there is no dataset, RefusedError where it is damaged.
    lenient: leave damaged commit records out, and name them in :attr:`broken`, instead of that RefusedError.

    May be shared between threads, forked, and pickled (by its path).
    """

    def __init__(self, path: str | os.PathLike[str], *, lenient: bool = False) -> None:
        self.path = Path(path)
        self.store = LocalStore(self.path)
        self.plans: list[Plan] = existing_plans(self.store)
        self.broken: dict[tuple[int, int], str] = {}  # (generation, shard) of damaged records -> what is wrong
        self.commits: list[Commit] = read_commits(self.store, self.plans, broken=self.broken if lenient else None)
        planned = planned_videos(self.plans)
        rows = rows_in_force(self.commits)
        self.settings = self.plans[-1].settings
        self.videos = VideoTable([VideoRow(planned[id], row) for id, row in rows.items() if id in planned])
        self.rows = StoredRows(self.store, self.settings.storage)

    def __reduce__(self) -> tuple[type[Dataset], tuple[Path]]:
        return Dataset, (self.path.absolute(),)

    def __repr__(self) -> str:
        return f"<flowprep dataset {self.path}: {len(self.videos)} videos, {self.settings.flow.method}>"

    @property
    def unfinished_shards(self) -> int:
        """How many shards are planned and have no commit record."""
        planned = {(plan.generation, number) for plan in self.plans for number in range(len(plan.shards))}
        return len(planned - {(commit.generation, commit.shard) for commit in self.commits} - self.broken.keys())

    def flow(
        self, video: str | int, start: int = 0, stop: int | None = None, *, direction: str = "forward"
    ) -> NDArray[np.float32]:
        """Fields start..stop-1 of a video in pixels: (n, 2, H, W) float32.

        Parameters
        ----------
        video: its id, or its row number in :attr:`videos`.
        start, stop: field numbers, counted as in slices; field i leads from frame i to frame i+1.
        direction: "forward", or "backward" (field i leads from frame i+1 to frame i) where it was extracted.
        """
        place = self._flow_rows(video, start, stop, direction)
        with self._naming(video, place):
            return self.rows.flow(*place)

    def levels(
        self, video: str | int, start: int = 0, stop: int | None = None, *, direction: str = "forward"
    ) -> NDArray[Any]:
        """The same fields as they are stored: (n, 2, H, W), uint8 unless stored in another way than JPEG."""
        place = self._flow_rows(video, start, stop, direction)
        with self._naming(video, place):
            return self.rows.levels(*place)

    def stats(
        self, video: str | int, start: int = 0, stop: int | None = None, *, direction: str = "forward"
    ) -> NDArray[np.float32]:
        """Mean, minimum and maximum in px of the original floats: (n, 2, 3) float32."""
        place = self._flow_rows(video, start, stop, direction)
        with self._naming(video, place):
            return self.rows.side(place[0], "stats", *place[1:])

    def stacks(self, video: str | int, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Of a dataset of stacks: stacks start..stop-1 of a video in pixels, (n, 2L, H, W) float32."""
        place = self._stack_rows(video, start, stop)
        with self._naming(video, place):
            return self.rows.flow(*place)

    def stack_frames(self, video: str | int) -> NDArray[np.int32]:
        """Of a dataset of stacks: the frame that each stack of a video is of, (n,) int32."""
        place = self._stack_rows(video, 0, None)
        with self._naming(video, place):
            return self.rows.side(place[0], "frame", *place[1:])

    def stack_means(self, video: str | int, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Of a dataset of stacks: the mean in px of the field that each channel was taken from, (n, 2L) float32.

        It is subtracted already where the stacks were made with ``--mean-subtract``.
        """
        place = self._stack_rows(video, start, stop)
        with self._naming(video, place):
            return self.rows.side(place[0], "mean", *place[1:])

    def frames(self, video: str | int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """RGB frames start..stop-1 of a video: (n, 3, H, W) uint8."""
        row = self._row(video).row
        if row.frames is None:
            how = "stacks have none" if self.settings.stack else "extract was run with --no-rgb"
            raise UsageError(f"{row.id}: its RGB frames were not stored ({how}).")
        array, first, last = _placed(row.frames, start, stop)
        with naming(row.frames.start, "frame", row.id, (first - row.frames.start, last - row.frames.start - 1)):
            return self.rows.frames(array, first, last)

    def close(self) -> None:
        """Close the files that are held open; the object stays usable."""
        self.rows.close()

    def _row(self, video: str | int) -> VideoRow:
        row = self.videos[video]
        if row.row.verdict is not Verdict.OK:
            raise RefusedError(
                f"{row.id}: nothing is stored for this video, its status is {row.status}: {row.row.reason}"
            )
        return row

    def _naming(self, video: str | int, place: tuple[ArrayName, int, int]) -> AbstractContextManager[None]:
        """Says of what is damaged in ``place`` whose it is."""
        row = self._row(video).row
        assert row.flow
        start, (_, first, last) = row.flow.start, place
        return naming(start, self.settings.unit, row.id, (first - start, last - start - 1))

    def _stack_rows(self, video: str | int, start: int, stop: int | None) -> tuple[ArrayName, int, int]:
        if self.settings.stack is None:
            raise UsageError(f"{self.path} holds flow, not stacks: make them with flowprep stack, or read its flow.")
        row = self._row(video)
        assert row.row.flow
        return _placed(row.row.flow, start, stop)

    def _flow_rows(self, video: str | int, start: int, stop: int | None, direction: str) -> tuple[ArrayName, int, int]:
        if self.settings.stack is not None:
            raise UsageError(f"{self.path} holds stacks, not fields: read them with stacks().")
        row = self._row(video)
        stored = self.settings.flow.direction
        if direction not in ("forward", "backward"):
            raise UsageError(f"direction {direction!r}: give forward or backward.")
        if stored not in ("both", direction):
            raise UsageError(f"{self.path} holds {stored} flow; {direction} flow needs extract --direction both.")
        assert row.row.flow
        array, first, last = _placed(row.row.flow, start, stop)
        return array.turned("flow" if direction == "forward" else "flow_backward"), first, last


def _placed(place: Placement, start: int, stop: int | None) -> tuple[ArrayName, int, int]:
    """Array, first row and last row + 1 of what a slice of ``place`` names."""
    first, last, _ = slice(start, stop).indices(place.length)
    return ArrayName.parse(place.array), place.start + first, place.start + max(first, last)


def _closest(id: str, known: dict[str, VideoRow]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(id, known, n=1) if len(known) <= SEARCHED else []
    return f" Did you mean {close[0]!r}?" if close else " List them with: flowprep info DATASET --videos"
