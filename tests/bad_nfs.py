"""A network file system on a bad day, played on a local folder by wrapping the calls of the module ``os``.

- ``link`` and ``replace`` do their work, then report what a client reports that lost the answer and asked again.
- The first ``open`` or ``stat`` of each path meets a stale file handle.
- ``scandir`` does not show files that are younger than a while, however often it is asked.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class BadNfs:
    """Faults for everything below ``root``, as long as ``patch`` is in force; ``met`` counts them by name."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, *, link_says: int = errno.EEXIST, hidden: float = 0.0):
        self.root = str(root)
        self.hidden = hidden  # seconds for which a new file is not listed
        self.met = {"link": 0, "replace": 0, "stale": 0, "hidden": 0}
        self._stale: set[tuple[str, str]] = set()
        patch.setattr(os, "link", self._losing("link", os.link, link_says))
        patch.setattr(os, "replace", self._losing("replace", os.replace, errno.ENOENT))
        patch.setattr(os, "open", self._stale_once("open", os.open))
        patch.setattr(os, "stat", self._stale_once("stat", os.stat))
        patch.setattr(os, "scandir", self._slow_to_list(os.scandir))

    def _below(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.root)

    def _losing(self, name: str, call: Callable[..., None], number: int) -> Callable[..., None]:
        def wrapped(source: Any, target: Any, **options: Any) -> None:
            call(source, target, **options)
            if self._below(target):
                self.met[name] += 1
                raise OSError(number, os.strerror(number), os.fspath(target))

        return wrapped

    def _stale_once(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *arguments: Any, **options: Any) -> Any:
            result = call(path, *arguments, **options)  # what is missing is missing: it has no handle to go stale
            if self._below(path) and (name, os.fspath(path)) not in self._stale:
                self._stale.add((name, os.fspath(path)))
                self.met["stale"] += 1
                if name == "open":
                    os.close(result)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fspath(path))
            return result

        return wrapped

    def _slow_to_list(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def wrapped(path: Any = ".") -> Iterator[list[os.DirEntry[str]]]:
            with call(path) as entries:
                found = list(entries)
            shown = [entry for entry in found if not self._below(path) or not self._is_new(entry)]
            self.met["hidden"] += len(found) - len(shown)
            yield shown

        return wrapped

    def _is_new(self, entry: os.DirEntry[str]) -> bool:
        return entry.is_file() and time.time() - entry.stat().st_ctime < self.hidden
