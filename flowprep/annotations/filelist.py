"""A list of videos: ``path label`` lines, or a table (.csv, .tsv) with the column ``path``.

Lines: the label is the last field, so that paths may hold blanks; a line of a single field, or whose last field is a
video file's name, has no label. Lines that begin with ``#`` are comments, unless they name a file that exists (HMDB-51
has such names). Lines are also read from a .csv without header, as SlowFast and PyTorchVideo write it.

Table: the columns ``path``, and where there are such ``label``, ``split`` (or ``split1``), ``split2`` and ``split3``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from flowprep.annotations.lists import header, last_field, lines, part, table
from flowprep.annotations.paths import Root, named
from flowprep.annotations.scan import Listing, is_video
from flowprep.errors import UsageError, VideoError
from flowprep.types import Video

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read(file: Path, root: Root) -> Listing:
    """The videos that ``file`` names; relative paths start at ``root``. Other files are not looked for.

    Raises UsageError for a list that is empty or cannot be understood, and for two lines that name the same video.
    """
    videos: list[Video] = []
    lines_by_id: dict[str, str] = {}
    for where, video in _rows(file, root) if _is_table(file) else _lines(file, root):
        if not video.refused:
            first = lines_by_id.setdefault(video.id, where)
            if first != where:
                raise UsageError(f"{where}: {video.id} was named before, in {first}. Remove one of the two.")
        videos.append(_look_for(video, root))
    if not videos:
        raise UsageError(f"{file} names no video. Give one path a line, followed by a blank and its label.")
    return Listing(videos, [])


def _is_table(file: Path) -> bool:
    delimiter = _DELIMITERS.get(file.suffix.lower())
    if delimiter is None:
        return False
    if "path" in header(file, delimiter):
        return True
    for where, line in lines(file):
        if not line.startswith("#"):
            if is_video(_fields(line)[0]):
                break
            raise UsageError(f"{where}: neither a header with the column 'path' nor a 'path label' line. Add a header.")
    return False


def _lines(file: Path, root: Root) -> Iterator[tuple[str, Video]]:
    for where, line in lines(file):
        path, label = _fields(line)
        video = named(root, path, label)
        if line.startswith("#") and _look_for(video, root).size < 0:
            continue
        yield where, video


def _fields(line: str) -> tuple[str, str]:
    path, label = last_field(line)
    return (line, "") if is_video(label) else (path, label)


def _rows(file: Path, root: Root) -> Iterator[tuple[str, Video]]:
    for where, row in table(file, _DELIMITERS[file.suffix.lower()]):
        if "split" in row and "split1" in row:
            raise UsageError(f"{file}: the columns 'split' and 'split1' mean the same. Remove one of the two.")
        first, second, third = (part(row.get(name, ""), where) for name in ("split1", "split2", "split3"))
        splits = (first or part(row.get("split", ""), where), second, third)
        yield where, named(root, row["path"], row.get("label", ""), splits)


def _look_for(video: Video, root: Root) -> Video:
    if video.refused:
        return video
    try:
        return dataclasses.replace(video, size=root.size(video.id))
    except VideoError as error:
        return dataclasses.replace(video, refused=error.reason)
