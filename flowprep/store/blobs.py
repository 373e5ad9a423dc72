"""Whole files with put-if-absent: all that the commit protocol asks of a disk.

A file is written under a temporary name, flushed to the disk, and then *linked* to its final name, which fails if that
name is taken: no reader ever sees half a file, and of two writers exactly one wins.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowprep.errors import StoreError

STALE_SECONDS = 24 * 3600.0  # a temporary folder in which nothing has changed for a day is litter
SCRATCH = ".flowprep/tmp"
LOCKS = ".flowprep/locks"
NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # how file systems say so


class LocalStore:
    """Files below one folder, addressed by keys with '/' between the parts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        return self.root / key

    def exists(self, key: str) -> bool:
        with _store_errors(self.path(key)):
            return self.path(key).is_file()

    def size(self, key: str) -> int:
        """Bytes of ``key``; -1 if there is no such file."""
        with _store_errors(self.path(key)):
            try:
                return self.path(key).stat().st_size
            except FileNotFoundError:
                return -1

    def get(self, key: str) -> bytes:
        """The bytes of ``key``. Raises StoreError if it cannot be read."""
        with _store_errors(self.path(key)):
            if not self.path(key).is_file():
                raise FileNotFoundError(errno.ENOENT, "no such regular file")
            return self.path(key).read_bytes()

    def keys(self, folder: str) -> list[str]:
        """Keys of the files directly in ``folder``, sorted; none if there is no such folder."""
        with _store_errors(self.path(folder)):
            try:
                with os.scandir(self.path(folder)) as entries:
                    return sorted(f"{folder}/{entry.name}" for entry in entries if entry.is_file())
            except FileNotFoundError:
                return []

    def put_new(self, key: str, source: Path) -> bool:
        """Publish the finished file ``source`` as ``key``; False, and nothing changed, if ``key`` exists.

        ``source`` (same disk) is gone afterwards if it was published. Raises StoreError.
        """
        target = self.path(key)
        with _store_errors(target):
            _make_folder(target.parent)
            _flush(source)
            try:
                os.link(source, target)
            except FileExistsError:
                # Over NFS a link can be made and its answer lost: then the source has two names (open(2)).
                if os.stat(source).st_nlink != 2:
                    return False
            except OSError as error:
                if error.errno in NO_HARD_LINKS:
                    raise StoreError(
                        f"{self.root}: this file system has no hard links, which commits need. "
                        "Write the dataset to a local disk or NFS and copy it afterwards."
                    ) from None
                raise
            os.unlink(source)
            _flush(target.parent)
            return True

    def put_new_bytes(self, key: str, data: bytes) -> bool:
        """:meth:`put_new` for bytes at hand."""
        with self.scratch() as folder:
            source = folder / "data"
            with _store_errors(source):
                source.write_bytes(data)
            return self.put_new(key, source)

    def replace(self, key: str, source: Path) -> None:
        """Publish ``source`` as ``key``, in place of what may be there, in one step."""
        target = self.path(key)
        with _store_errors(target):
            _make_folder(target.parent)
            _flush(source)
            os.replace(source, target)
            _flush(target.parent)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Only one process at a time is here under the same ``name``; the lock goes with its holder, however it ends.

        On file systems without locks this waits for nobody; commits are still made once, by :meth:`put_new`.
        """
        path = self.path(f"{LOCKS}/{name}")
        with _store_errors(path):
            _make_folder(path.parent)
            handle = _locked(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the same disk, removed at the end."""
        folder = self.path(f"{SCRATCH}/{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}")
        with _store_errors(folder):
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what kills left behind: temporary folders whose process is gone, or unchanged for a day."""
        with _store_errors(self.path(SCRATCH)):
            folders = list(self.path(SCRATCH).iterdir()) if self.path(SCRATCH).is_dir() else []
        for folder in folders:
            if _is_dead(folder.name) or _is_stale(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _locked(path: Path) -> int:
    """Descriptor of the lock file ``path``, locked; its last holder removed it, so it may have to be made anew."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def _is_dead(name: str) -> bool:
    """Whether ``name`` (host-process-random) was given by a process of this machine that is no more."""
    match = re.fullmatch(r"(.+)-([0-9]{1,9})-[0-9a-f]+", name)
    if not match or match[1] != socket.gethostname():
        return False
    try:
        os.kill(int(match[2]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        return False
    return False


def _is_stale(folder: Path) -> bool:
    """Whether nothing in ``folder`` has changed for a day; at work, its files grow all the time."""
    try:
        newest = max(path.lstat().st_mtime for path in [folder, *folder.rglob("*")])
    except OSError:  # it is just being used, or removed
        return False
    return time.time() - newest > STALE_SECONDS


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each flushed to the disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _flush(folder.parent)


def _flush(path: Path) -> None:
    """fsync a file or folder: what was promised must survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """OSError as StoreError, saying which file and what to do."""
    try:
        yield
    except OSError as error:
        raise store_error(path, error) from error


def store_error(path: Path, error: OSError) -> StoreError:
    """The StoreError for an OSError met at ``path``, with the advice that fits its number."""
    advice = {
        errno.ENOSPC: "Free some space and run the same command again.",
        errno.EDQUOT: "Your quota is used up: free some space and run the same command again.",
        errno.EACCES: "Check the permissions of that folder.",
        errno.EROFS: "The disk is mounted read-only.",
    }.get(error.errno or 0, "Check the disk and run the same command again.")
    return StoreError(f"{path}: {error.strerror or error}. {advice}")
