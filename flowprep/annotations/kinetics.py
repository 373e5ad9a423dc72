"""Kinetics-400, -600 and -700: tables with youtube_id, time_start, time_end, and where known label, split and is_cc.

A clip is the file ``{youtube_id}_{time_start:06d}_{time_end:06d}.mp4``, or of another video suffix, in any folder below
the root: downloaders differ in how they name the folders of splits and classes, while the name of a clip occurs once in
a release. ``{youtube_id}.mp4`` is taken, too, for an id of which only one clip is listed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flowprep.annotations.lists import header, part, table
from flowprep.annotations.matching import Finder, match
from flowprep.annotations.paths import Root, named
from flowprep.annotations.scan import Listing, scan
from flowprep.errors import UsageError
from flowprep.types import Video

FILES = "a .csv with the columns youtube_id, time_start and time_end (Kinetics)"
_COLUMNS = {"youtube_id", "time_start", "time_end"}


def fits(annotations: Path) -> bool:
    """Whether a folder holds a table of Kinetics."""
    return bool(_tables(annotations))


def read(annotations: Path, root: Root) -> Listing:
    """Every clip that a table names; one that is gone from the web, and so from the disk, has size -1."""
    listed = list(_listed(annotations, root))
    disk = scan(root)
    return match(listed, _by_clip(disk, Counter(_youtube_id(video) for _, video in listed)), disk)


def _tables(annotations: Path) -> list[Path]:
    files = (file for file in sorted(annotations.glob("*.csv")) if file.is_file())
    return [file for file in files if set(header(file, ",")) >= _COLUMNS]


def _listed(annotations: Path, root: Root) -> Iterator[tuple[str, Video]]:
    for file in _tables(annotations):
        in_name = re.search("train|val|test", file.stem.lower())
        for where, row in table(file, ","):
            label = row.get("label", "")
            split = part(row.get("split") or (in_name[0] if in_name else ""), where)
            yield where, named(root, str(PurePosixPath(label, _clip(row, where))), label, (split, "", ""))


def _clip(row: dict[str, str], where: str) -> str:
    """File name of a clip."""
    try:
        start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
    except (ValueError, OverflowError):
        raise UsageError(f"{where}: time_start and time_end must be seconds, as 10 and 20 are.") from None
    return f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"


def _youtube_id(video: Video) -> str:
    return _stem(video).rsplit("_", 2)[0]


def _stem(video: Video) -> str:
    return video.id.rpartition("/")[2].rpartition(".")[0]


def _by_clip(disk: Listing, clips: Counter[str]) -> Finder:
    """Finds the file of a clip; of several, the one whose folders name its class and its part, then mp4."""
    files: dict[str, list[Video]] = defaultdict(list)
    for file in disk.videos:
        files[_stem(file)].append(file)

    def find(video: Video) -> Video | None:
        found = files.get(_stem(video))
        if not found and clips[_youtube_id(video)] == 1:
            found = files.get(_youtube_id(video))
        if not found:
            return None

        def preference(file: Video) -> tuple[bool, bool, bool, str]:
            folders = {_folder_name(folder) for folder in PurePosixPath(file.id).parts[:-1]}
            split = video.splits[0]
            in_split = any(folder.startswith(split) for folder in folders)  # "val", "validate", "val_256"
            return _folder_name(video.label) not in folders, not in_split, not file.id.endswith(".mp4"), file.id

        return min(found, key=preference)

    return find


def _folder_name(label: str) -> str:
    """A class name as downloaders write it as a folder: some put '_' for blanks and drop quotes and parentheses."""
    return re.sub(r"['\"()]", "", label).replace(" ", "_").lower()
