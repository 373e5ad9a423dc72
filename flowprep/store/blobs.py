"""Whole files with put-if-absent: all that the commit protocol asks of a disk.

A file is written under a temporary name, flushed to the disk, and then *linked* to its final name, which fails if that
name is taken: no reader ever sees half a file, and of two writers exactly one wins.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowprep.errors import StoreError

STALE_SECONDS = 24 * 3600.0  # a temporary folder of another host is litter after a day


class LocalStore:
    """Files below one folder, addressed by keys with '/' between the parts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        return self.root / key

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def get(self, key: str) -> bytes:
        """The bytes of ``key``. Raises StoreError if it cannot be read."""
        with _store_errors(self.path(key)):
            return self.path(key).read_bytes()

    def keys(self, folder: str) -> list[str]:
        """Keys of the files directly in ``folder``, sorted; none if there is no such folder."""
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
            target.parent.mkdir(parents=True, exist_ok=True)
            _flush(source)
            try:
                os.link(source, target)
            except FileExistsError:
                # Over NFS a link can be made and its answer lost: then the source has two names (open(2)).
                if os.stat(source).st_nlink != 2:
                    return False
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
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
            target.parent.mkdir(parents=True, exist_ok=True)
            _flush(source)
            os.replace(source, target)
            _flush(target.parent)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the same disk, removed at the end."""
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
        folder = self.path(f".flowprep/tmp/{name}")
        with _store_errors(folder):
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove temporary folders whose process is gone: what a kill left behind."""
        try:
            folders = list(self.path(".flowprep/tmp").iterdir())
        except FileNotFoundError:
            return
        for folder in folders:
            host, pid, _ = (*folder.name.rsplit("-", 2), "", "")[:3]
            try:
                old = time.time() - folder.stat().st_mtime > STALE_SECONDS
            except FileNotFoundError:
                continue
            if old or (host == socket.gethostname() and pid.isdigit() and not _alive(int(pid))):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
