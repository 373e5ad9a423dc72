"""Videos to shards: who works on what, and which rows of which array are whose.

A plan is made once, written once, and read by every task. A shard is a list of videos (some minutes of work) and, in
each array that its videos should need, a run of whole blocks (shard files of 2048 rows) that nobody else writes:

    flow_240x320   | shard 0: blocks 0 1 2 | shard 1: blocks 3 4 | ... |   overflow of 0   |   overflow of 1   | ...

Headers may lie: a shard whose videos turn out longer than planned, or of another size, goes on in its own overflow
blocks behind the planned ones. Rows that nobody writes cost nothing: their files do not exist.

A retry or an extension is a new generation with a plan of its own, whose blocks begin behind all used ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowprep.config import FORMAT_VERSION, Settings, VideoConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.records import check_seal, seal_text
from flowprep.types import SPLITS, Probe, Video

SHARD_SECONDS = (10.0, 240.0)  # work in one shard on one core: short enough to lose, long enough to be worth a task
SHARDS_AIMED = 32  # so that a small dataset keeps several workers busy too
BYTES_PER_FRAME = 5000  # of a compressed file whose header says nothing: for the estimate of work ...
FEWEST_BYTES_PER_FRAME = 200  # ... and for the rows to reserve
LOST_PLAN = "Put it back from a copy of the dataset; without one, make the dataset anew, in another folder."
BLOCK = 2048  # rows of one shard file (flowprep.store.shardfile.SLOTS)


@dataclass(frozen=True)
class Blocks:
    """A run of blocks in one array."""

    first: int
    count: int


@dataclass(frozen=True)
class Shard:
    """The videos of one task, in order, and the blocks it may write."""

    videos: tuple[Video, ...]
    blocks: dict[str, Blocks]  # array of flow (either direction: they share rows) or frames -> its blocks
    fields: int = 0  # expected, for the progress display


@dataclass(frozen=True)
class Plan:
    """One generation of work."""

    generation: int
    settings: Settings
    root: str  # absolute folder that video ids start from
    shards: tuple[Shard, ...]
    ends: dict[str, int] = field(default_factory=dict)  # first block behind the planned ones, array by array
    base: int = 0  # the same for arrays that were not foreseen
    described: tuple[Video, ...] = ()  # videos of earlier generations whose label or splits have changed: no work
    longest: int = 0  # videos in the shard that has most

    def overflow(self, shard: int, array: str) -> int:
        """First block of the overflow of ``shard`` in ``array``; it has room for its longest thinkable videos."""
        return self.ends.get(array, self.base) + shard * self._room()

    def owner(self, array: str, block: int) -> int | None:
        """The shard that may write ``block`` of ``array``, as planned or as overflow; None if none may."""
        for number, shard in enumerate(self.shards):
            run = shard.blocks.get(array)
            if run and run.first <= block < run.first + run.count:
                return number
        beyond = block - self.ends.get(array, self.base)
        return beyond // self._room() if 0 <= beyond < self._room() * len(self.shards) else None

    def _room(self) -> int:
        """Blocks in the overflow of one shard."""
        return -(-self.settings.video.max_frames // BLOCK) * self.longest

    def to_bytes(self) -> bytes:
        """JSON with each shard on a line of its own, so that a task need not parse those of the others."""
        tree = {
            "format": FORMAT_VERSION,
            "generation": self.generation,
            "settings": self.settings.to_json(),
            "settings_fingerprint": self.settings.fingerprint(),
            "root": self.root,
            "ends": self.ends,
            "base": self.base,
            "described": [video.to_json() for video in self.described],
            "longest": self.longest,
        }
        shards = (
            {
                "videos": [video.to_json() for video in shard.videos],
                "blocks": {name: [run.first, run.count] for name, run in shard.blocks.items()},
                "fields": shard.fields,
            }
            for shard in self.shards
        )
        head = json.dumps(tree, separators=(",", ":"))[:-1]
        lines = ",\n".join(json.dumps(shard, separators=(",", ":")) for shard in shards)
        return seal_text(f'{head},"shards":[\n{lines}\n]}}'.encode())

    @classmethod
    def from_bytes(cls, data: bytes, where: str, only: int | None = None) -> Plan:
        """The plan that :meth:`to_bytes` wrote at ``where``; of its shards perhaps ``only`` one, the others empty.

        Raises RefusedError for damage and for other formats.
        """
        try:
            tree, shards = _load(data, only)
            if tree["format"] != FORMAT_VERSION:
                raise RefusedError(
                    f"{where}: dataset format {tree['format']}, this flowprep reads format {FORMAT_VERSION}. "
                    "Use the flowprep that wrote it, or extract it anew."
                )
            check_seal(tree, data)
            return cls(
                generation=_natural(tree["generation"]),
                settings=Settings.from_json(tree["settings"]),
                root=_text(tree["root"]),
                shards=tuple(_shard(item) for item in shards),
                ends={_text(name): _natural(end) for name, end in tree["ends"].items()},
                base=_natural(tree["base"]),
                described=tuple(_video(video) for video in tree["described"]),
                longest=_natural(tree["longest"]),
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, UsageError) as error:
            raise RefusedError(f"{where}: damaged plan ({error}). {LOST_PLAN}") from None


_EMPTY = Shard((), {})


def _load(data: bytes, only: int | None) -> tuple[dict[str, Any], list[dict[str, Any] | None]]:
    """The tree of a plan and its shards; with ``only`` the others are None, and only that line is parsed."""
    if only is None:
        tree: dict[str, Any] = json.loads(data)
        return tree, tree["shards"]
    head, *lines, tail = data.split(b"\n")
    tree = json.loads(head + lines[only].removesuffix(b",") + tail)
    shards: list[dict[str, Any] | None] = [None] * len(lines)
    (shards[only],) = tree["shards"]
    return tree, shards


def _shard(item: dict[str, Any] | None) -> Shard:
    if item is None:
        return _EMPTY
    return Shard(
        tuple(_video(video) for video in item["videos"]),
        {_text(name): Blocks(*map(_natural, run)) for name, run in item["blocks"].items()},
        _natural(item["fields"]),
    )


# A seal proves that a plan is whole, not that it is honest: anybody can make one. So nothing in it is believed.


def _video(data: dict[str, Any]) -> Video:
    video = Video.from_json(data)
    for text in (video.id, video.label, video.refused, video.content, *video.splits):
        _text(text)
    if type(video.size) is not int or len(video.splits) != SPLITS:
        raise ValueError(f"{video.id!r} is not described as a video is")
    if not video.refused and (video.id[:1] in ("", "/") or "\0" in video.id or ".." in video.id.split("/")):
        raise ValueError(f"{video.id!r} leaves the source folder")
    return video


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is not a text")
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a whole number from 0 on")
    return value


@dataclass(frozen=True)
class Estimate:
    """What one video should need."""

    rows: dict[str, int]  # array -> rows to reserve in it, at most; nothing where that is unknown
    fields: int  # expected: fields in each direction, or stacks
    decoded: int  # frames or fields to decode
    pixels: int = 0  # of one field; 0 = unknown


def estimate(video: Video, probe: Probe | None, settings: Settings) -> Estimate:
    """Fields and sizes from the header; from the file's size where there is no header to read."""
    size = max(0, video.size)
    if probe is None or (probe.frames <= 1 and not probe.fps):
        decoded, most = 1 + size // BYTES_PER_FRAME, 2 + size // FEWEST_BYTES_PER_FRAME
    else:
        decoded = most = probe.frames
    most = max(1, _kept(min(most, settings.video.max_frames), 0.0, settings.video))
    kept = _kept(decoded, probe.fps if probe else 0.0, settings.video)
    rows, pixels = {}, 0
    if probe and probe.width > 0 and probe.height > 0:
        flow = settings.video.flow_size(probe.height, probe.width)
        rgb = settings.storage.frames_size(probe.height, probe.width)
        pixels = flow[0] * flow[1]
        rows[f"flow_{flow[0]}x{flow[1]}"] = most - 1
        if rgb:
            rows[f"frames_{rgb[0]}x{rgb[1]}"] = most
    return Estimate({name: count for name, count in rows.items() if count}, max(0, kept - 1), decoded, pixels)


def _kept(frames: int, fps: float, config: VideoConfig) -> int:
    if config.fps and fps:
        return min(frames, 1 + int(frames * config.fps / fps))
    return -(-frames // config.stride)


def make_plan(
    videos: Sequence[tuple[Video, Estimate]],
    settings: Settings,
    root: str,
    *,
    seconds: Callable[[Estimate], float],
    generation: int = 0,
    used: dict[str, int] | None = None,
) -> Plan:
    """Cut ``videos`` into shards.

    Parameters
    ----------
    videos: with what they should need.
    seconds: expected work of one video on one core.
    used: first unused block of every array that already exists (a later generation).
    """
    weighed = [(video, guess, seconds(guess)) for video, guess in videos]
    # Videos of one size side by side: a shard that mixes sizes writes a file of each.
    weighed.sort(key=lambda item: (sorted(item[1].rows), item[0].id))
    total = sum(cost for _, _, cost in weighed)
    aim = min(max(total / SHARDS_AIMED, SHARD_SECONDS[0]), SHARD_SECONDS[1])

    groups: list[list[tuple[Video, Estimate]]] = []
    filled = 0.0
    for video, guess, cost in weighed:
        if not groups or filled + cost / 2 > aim:  # the nearer of the two ways to round
            groups.append([])
            filled = 0.0
        groups[-1].append((video, guess))
        filled += cost

    ends = dict(used or {})
    base = max(ends.values(), default=0)
    shards = []
    for group in groups:
        blocks = {name: Blocks(ends.get(name, 0), count) for name, count in _reserve(group).items()}
        ends |= {name: run.first + run.count for name, run in blocks.items()}
        fields = sum(guess.fields for _, guess in group)
        shards.append(Shard(tuple(video for video, _ in group), blocks, fields))
    longest = max((len(group) for group in groups), default=0)
    return Plan(generation, settings, root, tuple(shards), ends, base, longest=longest)


def _reserve(group: list[tuple[Video, Estimate]]) -> dict[str, int]:
    """Blocks that the videos of a shard fill, array by array, placed in order as :class:`Allocator` does."""
    allocators: dict[str, Allocator] = {}
    for _, guess in group:
        for name, rows in guess.rows.items():
            allocators.setdefault(name, Allocator(0)).place(rows)
    return {name: -(-allocator.next // BLOCK) for name, allocator in allocators.items()}


@dataclass
class Allocator:
    """Rows of one array, in order: a video starts in the current block if it fits there whole, else in a new one.

    That rule (next fit) is monotone: shorter videos than planned never need more blocks than planned.
    """

    next: int  # the next free row
    limit: int | None = None  # first row that is not ours; None = no limit
    overflow: int = 0  # first row of the overflow, used from the first video on that does not fit

    def place(self, rows: int) -> int:
        """First row for a video of ``rows`` rows, which are then taken."""
        start = self._start(rows)
        if self.limit is not None and start + rows > self.limit:
            self.next, self.limit = self.overflow, None
            start = self._start(rows)
        self.next = start + rows
        return start

    def _start(self, rows: int) -> int:
        left = -self.next % BLOCK
        return self.next if rows <= left or not left else self.next + left
