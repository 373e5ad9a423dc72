"""Which names may be opened: those of regular files below the root. Nothing else is opened, followed or even looked at.

Names come from lists and archives that anybody may have written. A name is therefore checked twice: as text
(:meth:`Root.below`), then link by link on the disk (:meth:`Root.resolve`).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from flowprep.errors import UsageError, Verdict, VideoError
from flowprep.types import Video

NO_SPLITS = ("", "", "")
MAX_PART = 255  # bytes of one file name: NAME_MAX of Linux and of every file system in use
MAX_PATH = 4095  # bytes of a whole path: PATH_MAX of Linux without the closing NUL
MAX_LINKS = 40  # symbolic links on one path: where Linux gives up, too

# Control characters, line and paragraph separators, and surrogates (what Python makes of bytes that are not UTF-8).
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` with escapes for what cannot be printed, cut to 255 characters: for messages and refused ids."""
    text = _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text if len(text) <= MAX_PART else f"{text[: MAX_PART - 3]}..."


def refusal(reason: str) -> VideoError:
    """The error that says why a path must not be opened."""
    return VideoError(Verdict.BAD_PATH, reason)


def refused(path: str, reason: str, label: str = "", splits: tuple[str, str, str] = NO_SPLITS) -> Video:
    """A video that must not be opened. Its id is for reading only, and not yet unique."""
    return Video(printable(path), printable(label), splits, refused=reason)


def check_characters(path: str) -> None:
    """Raise VideoError if ``path`` holds what would break a line of output or cannot be written as UTF-8."""
    if found := _UNPRINTABLE.search(path):
        raise refusal("the path is not UTF-8 text" if found[0] >= "\ud800" else "control characters in the path")


def size_of(status: os.stat_result | None) -> int:
    """Bytes of a regular file; -1 = there is none. Raises VideoError for a folder, pipe, socket or device."""
    if status is None:
        return -1
    if not stat.S_ISREG(status.st_mode):
        raise refusal("not a regular file")
    return status.st_size


class Root:
    """The folder below which every video lies. Paths "below the root" are relative, with '/', without '.' and '..'."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder. Give the folder that holds the videos.")
        self.path = folder.resolve()
        self._home = list(self.path.parts[1:])
        self._prefixes = [f"{str(spelling).rstrip('/')}/" for spelling in (self.path, folder.absolute())]
        self._real_folders: dict[str, str] = {}

    def below(self, listed: str) -> str:
        """``listed`` as a path below the root, by its text alone. Raises VideoError with the reason if it is none."""
        check_characters(listed)
        if listed.startswith("/"):
            inside = self._strip(listed)
            if inside is None:
                raise refusal("the path lies outside the source folder")
            listed = inside
        parts = [part for part in listed.split("/") if part not in ("", ".")]
        if not parts:
            raise refusal("the path names no file")
        if ".." in parts:
            raise refusal("'..' in the path")
        if any(len(part.encode()) > MAX_PART for part in parts):
            raise refusal(f"a part of the path is longer than {MAX_PART} bytes")
        path = "/".join(parts)
        if len(os.fsencode(self._absolute(path))) > MAX_PATH:
            raise refusal(f"the path is longer than {MAX_PATH} bytes")
        return path

    def size(self, path: str) -> int:
        """Bytes of the file that ``path`` (below the root) leads to; -1 = none. Raises VideoError as resolve does."""
        folder, _, name = path.rpartition("/")
        if folder not in self._real_folders:
            self._real_folders[folder] = self.resolve(folder)
        status = self.status(f"{self._real_folders[folder]}/{name}")
        if status is not None and stat.S_ISLNK(status.st_mode):
            status = self.status(self.resolve(path))
        return size_of(status)

    def resolve(self, path: str) -> str:
        """Where ``path`` (below the root) leads once its links are followed: again below the root, "" = the root.

        The links are followed one by one, so that nothing outside the root is looked at. Raises VideoError if a link
        leaves the root, or if there are more than MAX_LINKS.
        """
        home = self._home
        place = home.copy()
        ahead = path.split("/")[::-1]
        links = 0
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del place[-1:]
                continue
            place.append(part)
            if place == home[: len(place)]:
                continue  # on the way back to the root: its own path holds no links
            if place[: len(home)] != home:
                break
            target = _link_target(Path("/", *place))
            if target is None:
                continue
            links += 1
            if links > MAX_LINKS:
                raise refusal("symbolic links lead in a circle")
            place.pop()
            if target.startswith("/"):
                inside = self._strip(target)
                place = [] if inside is None else home.copy()
                target = target if inside is None else inside
            ahead += target.split("/")[::-1]
        if place[: len(home)] != home:
            raise refusal("a symbolic link leaves the source folder")
        return "/".join(place[len(home) :])

    def status(self, path: str) -> os.stat_result | None:
        """What lies at ``path`` (below the root; links are not followed), None = nothing. VideoError if denied."""
        try:
            return os.lstat(self._absolute(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise refusal(f"cannot be looked at: {error.strerror}") from error

    def entries(self, path: str) -> list[os.DirEntry[str]]:
        """What lies in a folder (below the root, "" = the root). Raises VideoError if it cannot be listed."""
        try:
            with os.scandir(self._absolute(path)) as found:
                return list(found)
        except OSError as error:
            raise refusal(f"the folder cannot be listed: {error.strerror}") from error

    def _absolute(self, path: str) -> str:
        return f"{self._prefixes[0]}{path}"

    def _strip(self, absolute: str) -> str | None:
        """The rest of an absolute path that begins with the root, as given or as resolved; None if it does not."""
        return next((absolute.removeprefix(prefix) for prefix in self._prefixes if absolute.startswith(prefix)), None)


def named(root: Root, listed: str, label: str = "", splits: tuple[str, str, str] = NO_SPLITS) -> Video:
    """The video that a list names, not yet looked for (size -1); ``refused`` says if it must not be."""
    try:
        return Video(root.below(listed), printable(label), splits)
    except VideoError as error:
        return refused(listed, error.reason, label, splits)


def _link_target(path: Path) -> str | None:
    """What a symbolic link points to; None if ``path`` is no link (or nothing)."""
    try:
        return str(path.readlink())
    except OSError:
        return None
