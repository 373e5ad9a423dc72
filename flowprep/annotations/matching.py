"""Joins what official lists name with what lies on the disk: the same for UCF-101, HMDB-51 and Kinetics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from flowprep.annotations.paths import refused
from flowprep.annotations.scan import Listing
from flowprep.errors import UsageError
from flowprep.types import Video

Finder = Callable[[Video], Video | None]  # a listed video -> the file on disk that it means


class SplitLists:
    """Gathers what the lists of three splits say of each path."""

    def __init__(self) -> None:
        self._splits: dict[str, dict[int, tuple[str, str]]] = {}  # path -> split (1..3) -> (part, where)

    def add(self, path: str, split: int, part: str, where: str) -> None:
        """Record one line. Raises UsageError if the split names the path a second time."""
        _, first = self._splits.setdefault(path, {}).setdefault(split, (part, where))
        if first != where:
            raise UsageError(f"{where}: {path!r} was named before, in {first}. Remove one of the two.")

    def __iter__(self) -> Iterator[tuple[str, str, tuple[str, str, str]]]:
        """(where it was named first, path, the part in split 1..3)."""
        for path, splits in self._splits.items():
            where = next(iter(splits.values()))[1]
            first, second, third = (splits.get(split, ("", ""))[0] for split in (1, 2, 3))
            yield where, path, (first, second, third)


def match(listed: Iterable[tuple[str, Video]], find: Finder, disk: Listing) -> Listing:
    """Each ``(where, video)`` of the lists with the id and size of its file; what is not on ``disk`` stays missing.

    A second line that leads to the same file is refused. Files that no line leads to are ignored ones.
    """
    videos: list[Video] = []
    lines_by_id: dict[str, str] = {}
    refused_folders = {video.id: video.refused for video in disk.videos if video.refused}
    for where, video in listed:
        if not video.refused:
            file = find(video)
            if file:
                video = dataclasses.replace(video, id=file.id, size=file.size, refused=file.refused)
            elif reason := refused_folders.get(video.id.partition("/")[0]):
                video = dataclasses.replace(video, refused=reason)
            first = lines_by_id.setdefault(video.id, where)
            if first != where:
                video = refused(video.id, f"{first} names the same video", video.label, video.splits)
        videos.append(video)
    unlisted = [video.id for video in disk.videos if video.id not in lines_by_id]
    return Listing(videos, disk.ignored + unlisted)


def by_name(disk: Listing) -> Finder:
    """Finds CLASS/NAME at that path or as NAME in the root, in the same spelling or else in other upper and lower case.

    UCF-101 needs the latter: its lists say ``v_HandStandPushups_g01_c01.avi``, some copies ``v_HandstandPushups_...``.
    """
    exact = {video.id: video for video in disk.videos}
    folded = {video.id.casefold(): video for video in sorted(disk.videos, key=lambda video: video.id, reverse=True)}

    def find(video: Video) -> Video | None:
        places = (video.id, video.id.rpartition("/")[2])
        spelled = (exact.get(place) for place in places)
        respelled = (folded.get(place.casefold()) for place in places)
        return next((file for files in (spelled, respelled) for file in files if file), None)

    return find
