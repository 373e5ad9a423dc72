"""Reading a dataset: videos by name, flow in pixels, frames in RGB."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from flowprep import codecs
from flowprep.errors import RefusedError, UsageError, Verdict
from flowprep.plan import Plan
from flowprep.quantise import dequantise
from flowprep.store import layout
from flowprep.store.blobs import LocalStore, store_error
from flowprep.store.commits import Commit, read_commits, rows_in_force
from flowprep.store.layout import SIDES, ArrayName
from flowprep.store.nfs import patiently
from flowprep.store.plans import existing_plans, planned_videos
from flowprep.store.shardfile import SLOTS, ShardReader
from flowprep.types import LedgerRow, Placement, Video

OPEN_FILES = 64  # shard files kept open by one dataset object
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
        """Why the status is not ok; "" if it is."""
        return self.row.reason

    @property
    def fields(self) -> int:
        """Number of flow fields (of each direction)."""
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
        self._shard = lru_cache(OPEN_FILES)(partial(_open_shard, self.store))  # without a lock: it may be forked

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
        array, first, last = self._flow_rows(video, start, stop, direction)
        levels = self._decoded(array, first, last)
        return dequantise(levels, self._side(array, "scale", first, last), self._side(array, "zero", first, last))

    def levels(
        self, video: str | int, start: int = 0, stop: int | None = None, *, direction: str = "forward"
    ) -> NDArray[np.uint8]:
        """The same fields as stored: (n, 2, H, W) uint8 in [0, 255]."""
        return self._decoded(*self._flow_rows(video, start, stop, direction))

    def stats(
        self, video: str | int, start: int = 0, stop: int | None = None, *, direction: str = "forward"
    ) -> NDArray[np.float32]:
        """Mean, minimum and maximum in px of the original floats: (n, 2, 3) float32."""
        array, first, last = self._flow_rows(video, start, stop, direction)
        return self._side(array, "stats", first, last)

    def frames(self, video: str | int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """RGB frames start..stop-1 of a video: (n, 3, H, W) uint8."""
        row = self._row(video)
        if row.row.frames is None:
            raise UsageError(f"{row.id}: its RGB frames were not stored (extract was run with --no-rgb).")
        array, first, last = self._rows(row.row.frames, start, stop)
        return self._decoded(array, first, last)

    def close(self) -> None:
        """Close the files that are held open; the object stays usable."""
        self._shard.cache_clear()

    def _row(self, video: str | int) -> VideoRow:
        row = self.videos[video]
        if row.row.verdict is not Verdict.OK:
            raise RefusedError(
                f"{row.id}: nothing is stored for this video, its status is {row.status}: {row.row.reason}"
            )
        return row

    def _flow_rows(self, video: str | int, start: int, stop: int | None, direction: str) -> tuple[ArrayName, int, int]:
        row = self._row(video)
        stored = self.settings.flow.direction
        if direction not in ("forward", "backward"):
            raise UsageError(f"direction {direction!r}: give forward or backward.")
        if stored not in ("both", direction):
            raise UsageError(f"{self.path} holds {stored} flow; {direction} flow needs extract --direction both.")
        assert row.row.flow
        array, first, last = self._rows(row.row.flow, start, stop)
        return array.turned("flow" if direction == "forward" else "flow_backward"), first, last

    @staticmethod
    def _rows(place: Placement, start: int, stop: int | None) -> tuple[ArrayName, int, int]:
        first, last, _ = slice(start, stop).indices(place.length)
        return ArrayName.parse(place.array), place.start + first, place.start + max(first, last)

    def _decoded(self, array: ArrayName, first: int, last: int) -> NDArray[np.uint8]:
        """Rows first..last-1 of a data array, decoded: (n, C, H, W)."""
        payloads = self._payloads(array, first, last)
        out = np.empty((len(payloads), *array.row_shape()), np.uint8)
        for i, payload in enumerate(payloads):
            try:
                if array.is_flow:
                    out[i] = codecs.decode_field(payload, array.height, array.width)
                else:
                    out[i] = codecs.decode_rgb(payload, array.height, array.width).transpose(2, 0, 1)
            except RefusedError as error:
                raise RefusedError(f"{self.path}: row {first + i} of {array}: {error}") from None
        return out

    def _payloads(self, array: ArrayName, first: int, last: int) -> list[bytes]:
        """Encoded rows, one read for each block file that they lie in."""
        found: list[bytes] = []
        for block, slots in _blocks(first, last):
            key = layout.shard_key(array, block)
            with _damage(self.store.path(key)):
                found += self._shard(key).rows(slots.start, slots.stop)
        return found

    def _side(self, array: ArrayName, side: str, first: int, last: int) -> NDArray[np.float32]:
        """Rows first..last-1 of ``scale``, ``zero`` or ``stats``."""
        found = [np.empty((0, *SIDES[side]), np.float32)]
        for block, slots in _blocks(first, last):
            path = self.store.path(layout.side_key(array, side, block))
            with _damage(path):
                data = patiently(path.read_bytes)
            if len(data) != 4 * SLOTS * math.prod(SIDES[side]):
                raise RefusedError(f"{path}: damaged: {len(data)} bytes are not {SLOTS} rows.")
            found.append(np.frombuffer(data, "<f4").reshape(SLOTS, *SIDES[side])[slots])
        return np.concatenate(found, dtype=np.float32)


def _blocks(first: int, last: int) -> Iterator[tuple[int, slice]]:
    """The block files that rows first..last-1 lie in, each with its slots."""
    while first < last:
        block, slot = divmod(first, SLOTS)
        count = min(SLOTS - slot, last - first)
        yield block, slice(slot, slot + count)
        first += count


def _open_shard(store: LocalStore, key: str) -> ShardReader:
    return patiently(lambda: ShardReader(store.path(key)))


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """A file that is gone is damage to the dataset; anything else that the disk says is about the disk."""
    try:
        yield
    except FileNotFoundError:
        raise RefusedError(f"{path}: this file of the dataset is missing.") from None
    except OSError as error:
        raise store_error(path, error) from error


def _closest(id: str, known: dict[str, VideoRow]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(id, known, n=1) if len(known) <= SEARCHED else []
    return f" Did you mean {close[0]!r}?" if close else " List them with: flowprep info DATASET --videos"
