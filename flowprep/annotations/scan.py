"""The video files below a folder: one walk, one look at each file."""

from __future__ import annotations

import stat
from typing import NamedTuple

from flowprep.annotations.paths import Root, check_characters, printable, refusal, refused, size_of
from flowprep.errors import UsageError, VideoError
from flowprep.types import Video

_CONTAINERS = "3g2 3gp amv asf avi avif divx f4v flv gif ivf m4v mkv mov mp4 mxf nut ogm ogv qt rm rmvb webm wmv y4m"
_STREAMS = "av1 dv h264 h265 hevc m1v m2ts m2v mjpeg mjpg mpe mpeg mpg mpv mts obu ts vob"
VIDEO_SUFFIXES = frozenset(f"{_CONTAINERS} {_STREAMS}".split())


class Listing(NamedTuple):
    """What a reader found, in any order."""

    videos: list[Video]
    ignored: list[str]  # printable paths below the root of the files that are no video of the source


def is_video(name: str) -> bool:
    """Whether the suffix of a file name is that of a video file."""
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and suffix.lower() in VIDEO_SUFFIXES


def scan(root: Root) -> Listing:
    """Every video file below ``root``, labelled with the first folder on its path ("" directly in the root).

    Hidden files and folders are skipped. Links are followed where they stay below the root; a link, a folder or a name
    that cannot be used becomes a refused video, so that nothing is lost in silence.
    """
    listing = Listing([], [])
    folders = [("", "")]  # path below the root, ending in '/', as found and with links followed
    while folders:
        folder, real_folder = folders.pop()
        try:
            entries = root.entries(real_folder)
        except VideoError as error:
            if not folder:
                raise UsageError(f"{root.path}: {error.reason}. Make it readable, or give another folder.") from error
            listing.videos.append(_refused(folder.rstrip("/"), error))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path, real = f"{folder}{entry.name}", f"{real_folder}{entry.name}"
            try:
                if entry.is_symlink():
                    real = root.resolve(real)
                    is_folder = _is_folder(root, real)
                    if is_folder:
                        _check_folder_link(folder, real_folder, real)
                else:
                    is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder:
                    folders.append((f"{path}/", f"{real}/"))
                elif is_video(entry.name):
                    check_characters(path)
                    listing.videos.append(Video(path, _label(path), size=size_of(root.status(real))))
                else:
                    listing.ignored.append(printable(path))
            except VideoError as error:
                listing.videos.append(_refused(path, error))
    return listing


def _label(path: str) -> str:
    folder, slash, _ = path.partition("/")
    return folder if slash else ""


def _refused(path: str, error: VideoError) -> Video:
    return refused(path, error.reason, _label(path))


def _is_folder(root: Root, path: str) -> bool:
    status = root.status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _check_folder_link(folder: str, real_folder: str, target: str) -> None:
    """Raise VideoError for a link to a folder that would make the walk endless, or as long as links can be combined."""
    if real_folder.startswith(f"{target}/" if target else ""):
        raise refusal("a symbolic link leads back to a folder that holds it")
    if folder != real_folder:
        raise refusal("a symbolic link to a folder, inside a linked folder, is not followed")
