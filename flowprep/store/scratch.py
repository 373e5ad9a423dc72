"""Scratch folders: who made one, whether its maker still lives, and when something in it last changed."""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAME = re.compile(r"(?P<place>.+\.[0-9]+)-(?P<process>[0-9]{1,9})-[0-9a-f]{32}")
STALE_SECONDS = 24 * 3600.0  # a scratch folder in which nothing has changed for a day is litter


@dataclass(frozen=True)
class Scratch:
    """A scratch folder, named after its maker: HOST.NAMESPACE-PROCESS-RANDOM."""

    folder: Path

    def is_ours(self) -> bool:
        """Whether this process could see its maker: the same machine and, in containers, the same process numbers."""
        return self._maker()["place"] == _here()

    def is_dead(self) -> bool:
        """Whether its maker certainly is no more."""
        return self.is_ours() and not self.is_alive()

    def is_alive(self) -> bool:
        """Whether its maker certainly lives."""
        if not self.is_ours():
            return False
        try:
            os.kill(int(self._maker()["process"]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's process
            return True
        return True

    def changed(self) -> float:
        """When something in it last changed, in seconds since 1970; now, if it is just being removed."""
        try:
            return max(path.lstat().st_mtime for path in [self.folder, *self.folder.rglob("*")])
        except OSError:
            return time.time()

    def is_litter(self) -> bool:
        """Whether its maker is gone, or has not touched it for a day; at work, files grow all the time."""
        return self.is_dead() or time.time() - self.changed() > STALE_SECONDS

    def _maker(self) -> re.Match[str]:
        match = NAME.fullmatch(self.folder.name)
        assert match, "is_scratch(name)"
        return match


def is_scratch(name: str) -> bool:
    """Whether a folder of this name is one that flowprep made."""
    return bool(NAME.fullmatch(name))


def new_name() -> str:
    """A name for a scratch folder of this process."""
    return f"{_here()}-{os.getpid()}-{uuid.uuid4().hex}"


@cache
def _here() -> str:
    """Machine and process namespace: containers on one machine may count their processes from 1 each."""
    return f"{socket.gethostname()}.{Path('/proc/self/ns/pid').stat().st_ino}"
