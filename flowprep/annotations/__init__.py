"""What lies on the disk, as a list of videos: a folder, a list file, or the official lists of a data set.

Nothing here opens a video: a reader names the files, their labels, their parts in the splits, and their sizes. Paths
come from lists and archives that anybody may have written; one that must not be opened becomes a video with ``refused``
set, which costs that video and never the run.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flowprep.annotations import filelist, folder, hmdb51, kinetics, ucf101
from flowprep.annotations.paths import Root
from flowprep.annotations.scan import Listing, is_video
from flowprep.config import LAYOUTS
from flowprep.errors import UsageError, did_you_mean
from flowprep.types import Video

__all__ = ["LAYOUTS", "Source", "read_source", "source_root"]


@dataclass(frozen=True)
class Source:
    """The videos of a data set, as far as lists and folders tell."""

    root: Path  # absolute folder below which every video lies; root / video.id is its file
    videos: tuple[Video, ...]  # sorted by id, ids unique
    ignored: tuple[str, ...]  # files below root that were not taken for videos (relative); a file list looks for none
    layout: str  # the reader that was used, never "auto"


class _OfficialLists(Protocol):
    """A module that reads the official lists of one data set."""

    FILES: str  # what a folder of them holds, for messages

    def fits(self, annotations: Path) -> bool: ...
    def read(self, annotations: Path, root: Root) -> Listing: ...


_OFFICIAL: dict[str, _OfficialLists] = {"ucf101": ucf101, "hmdb51": hmdb51, "kinetics": kinetics}


def read_source(path: Path, annotations: Path | None = None, layout: str = "auto", root: Path | None = None) -> Source:
    """The videos of ``path``: a folder of videos or, for the layout "filelist", a list file.

    annotations: folder with the official lists of UCF-101, HMDB-51 or Kinetics, whose videos lie below ``path``.
    layout: one of LAYOUTS; "auto" tells by what ``path`` and ``annotations`` are.
    root: folder that the paths of a list file start from; the list's own folder if None.

    Raises UsageError for lists that cannot be understood, arguments that do not fit together, and where there are no
    videos at all.
    """
    _check_reachable("SOURCE", path)
    _check_reachable("--annotations", annotations)
    _check_reachable("--root", root)
    if layout not in LAYOUTS:
        raise UsageError(f"There is no layout {layout!r}.{did_you_mean(layout, list(LAYOUTS))}")
    if layout == "auto":
        layout = _recognise(path, annotations)
    if root is not None and layout != "filelist":
        raise UsageError(f"A root is for list files; with the layout {layout} it is {path} itself. Leave the root out.")
    if layout in _OFFICIAL:
        start, listing = _read_official(path, annotations, layout)
    elif annotations is not None:
        raise UsageError(
            f"The layout {layout} takes no annotations. Leave {annotations} out, or choose another layout."
        )
    elif layout == "filelist":
        _check_list(path)
        start = Root(path.parent if root is None else root)
        listing = filelist.read(path, start)
    else:
        start = Root(path)
        listing = folder.read(start)
    return Source(start.path, _sorted(listing.videos), tuple(sorted(listing.ignored)), layout)


def source_root(path: Path, root: Path | None = None) -> Path:
    """The folder that :func:`read_source` would say the videos of ``path`` lie below, without reading its lists."""
    _check_reachable("SOURCE", path)
    _check_reachable("--root", root)
    return Root(root or (path if path.is_dir() else path.parent)).path


def _recognise(path: Path, annotations: Path | None) -> str:
    if annotations is None:
        return "folder" if path.is_dir() else "filelist"
    _check_folder(annotations)
    fitting = [layout for layout, lists in _OFFICIAL.items() if lists.fits(annotations)]
    if len(fitting) > 1:
        raise UsageError(f"{annotations} holds the lists of several data sets. Choose a layout: {', '.join(fitting)}.")
    if not fitting:
        wanted = "; ".join(lists.FILES for lists in _OFFICIAL.values())
        raise UsageError(f"{annotations} holds none of the lists that are known. Looked for: {wanted}.")
    return fitting[0]


def _read_official(path: Path, annotations: Path | None, layout: str) -> tuple[Root, Listing]:
    lists = _OFFICIAL[layout]
    if annotations is None:
        raise UsageError(f"The layout {layout} needs the annotations, a folder with {lists.FILES}.")
    _check_folder(annotations)
    if not lists.fits(annotations):
        raise UsageError(f"{annotations} does not fit the layout {layout}. Looked for: {lists.FILES}.")
    root = Root(path)
    listing = lists.read(annotations, root)
    if not listing.videos:
        raise UsageError(f"The lists in {annotations} name no video. Take them from the data set's home page again.")
    return root, listing


def _check_reachable(option: str, path: Path | None) -> None:
    """``option``: where the command line has the path. Raises UsageError where nothing is there or can be reached."""
    try:
        if path is not None:
            path.stat()
    except OSError as error:
        what = "the folder of the official lists" if option == "--annotations" else "a folder or a file"
        raise UsageError(f"{option}: {path}: {error.strerror}. Give {what} that is there and can be read.") from error


def _check_folder(annotations: Path) -> None:
    if not annotations.is_dir():
        raise UsageError(f"{annotations} is not a folder. Give the folder that holds the official lists.")


def _check_list(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a list file. Give the list, or choose the layout folder.")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file. Give a folder of videos or a list file.")
    if is_video(path.name):
        raise UsageError(f"{path} is a video, not a list of videos. Give the folder it lies in.")


def _sorted(videos: Iterable[Video]) -> tuple[Video, ...]:
    """Sorted by id. Refused names may look alike once they are printable: they get a number, so that ids are unique."""
    unique = {video.id: video for video in videos if not video.refused}
    numbers: Counter[str] = Counter()
    for video in sorted((video for video in videos if video.refused), key=lambda video: (video.id, video.label)):
        name = video.id
        while name in unique:
            numbers[video.id] += 1
            name = f"{video.id} ({numbers[video.id] + 1})"
        unique[name] = dataclasses.replace(video, id=name)
    return tuple(unique[name] for name in sorted(unique))
