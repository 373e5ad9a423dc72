"""Whole files with put-if-absent: all that the commit protocol asks of a disk.

:class:`BlobStore` is what the rest of flowprep relies on, :class:`LocalStore` does it on local disks and NFS: a file is
written under a temporary name, flushed to the disk, and then *linked* to its final name, which fails if that name is
taken. No reader ever sees half a file, and of two writers exactly one wins.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from flowprep.errors import RefusedError, StoreError
from flowprep.store.locks import locked
from flowprep.store.nfs import patiently
from flowprep.store.scratch import Scratch, is_scratch, new_name

SCRATCH = ".flowprep/tmp"
LOCKS = ".flowprep/locks"
NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # how file systems say so


class BlobStore(ABC):
    """Blobs of bytes under keys, text with '/' between the parts; every method raises StoreError where the store fails.

    Whoever can read a key gets all its bytes, at any moment, whatever was killed or cut off on the way.
    tests/blob_contract.py holds an implementation to these promises.
    """

    @abstractmethod
    def address(self, key: str) -> str:
        """What messages call ``key``: a path or a URL."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is a blob ``key`` (a folder is none). Knows of it as soon as the put has returned, anywhere."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of ``key``; -1 if there is no such blob."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The bytes of ``key``."""

    @abstractmethod
    def keys(self, folder: str) -> list[str]:
        """Keys directly in ``folder``, sorted; none if there is no such folder. The newest ones may still lack."""

    @abstractmethod
    def put_new(self, key: str, source: Path) -> bool:
        """Publish the finished file ``source`` as ``key``; False, and nothing changed, if ``key`` exists.

        Of many who try at once, on any machine, exactly one is told True. It has survived a power cut before this
        returns. ``source``, which lies in a :meth:`scratch` folder, is gone afterwards if it was published.
        """

    @abstractmethod
    def replace(self, key: str, source: Path) -> None:
        """Publish ``source`` as ``key`` in one step, in place of what may be there; ``source`` is gone afterwards."""

    @abstractmethod
    def exclusive(self, name: str, waiting: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Only one process at a time is here under the same ``name``; the place is free when its holder is gone.

        ``waiting`` is called every now and then while another is here; what it raises ends the wait.

        Where a store has no locks this waits for nobody: :meth:`put_new` alone decides who wins.
        """

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Path]:
        """A new folder on a disk of this machine, removed at the end, from which a put is cheap."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove the scratch folders that dead processes left; those of the living stay."""

    def put_new_bytes(self, key: str, data: bytes) -> bool:
        """:meth:`put_new` for bytes at hand."""
        with self.scratch() as folder:
            source = folder / "data"
            with store_errors(source):
                source.write_bytes(data)
            return self.put_new(key, source)


class LocalStore(BlobStore):
    """Files below one folder of a local disk or of NFS; keys are paths below it.

    Over NFS an answer may be lost and the question asked again, so that a link or rename that was made reports an
    error: what counts is what is there. And a name may lead for a moment to a file that is gone (ESTALE).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = f"{root}/"

    def path(self, key: str) -> Path:
        return self.root / key

    def address(self, key: str) -> str:
        return self._prefix + key

    def _inside(self, key: str) -> Path:
        """The path of ``key``, to write there. Raises RefusedError if a link on the way leads somewhere else."""
        path = self.path(key)
        for parent in path.parents:
            if parent == self.root:
                return path
            if patiently(parent.is_symlink):
                raise RefusedError(f"{parent} is a link: nothing is written outside the dataset. Put a folder there.")
        raise RefusedError(f"{path} is not in {self.root}.")

    def exists(self, key: str) -> bool:
        with store_errors(self.path(key)), suppress(FileNotFoundError, NotADirectoryError):
            # Opened, not looked at: that is what NFS asks its server about.
            handle = patiently(lambda: _open(self.address(key)))
            try:
                return stat.S_ISREG(os.fstat(handle).st_mode)
            finally:
                os.close(handle)
        return False

    def size(self, key: str) -> int:
        path = self.address(key)
        try:
            return patiently(lambda: os.stat(path)).st_size
        except FileNotFoundError:
            return -1
        except OSError as error:
            raise store_error(Path(path), error) from error

    def get(self, key: str) -> bytes:
        with store_errors(self.path(key)):
            return patiently(lambda: _read(self.address(key)))

    def keys(self, folder: str) -> list[str]:
        with store_errors(self.path(folder)):
            try:
                return patiently(lambda: _list(self.address(folder), folder))
            except FileNotFoundError:
                return []

    def put_new(self, key: str, source: Path) -> bool:
        target = self._inside(key)
        with store_errors(target):
            _make_folder(target.parent)
            flush(source)
            try:
                os.link(source, target)
            except OSError as error:
                # With two names it was made, whatever the answer (open(2), on O_EXCL).
                if patiently(lambda: os.stat(source)).st_nlink != 2:
                    if error.errno == errno.EEXIST:
                        return False
                    if error.errno in NO_HARD_LINKS:
                        raise StoreError(
                            f"{self.root}: this file system has no hard links, which commits need. "
                            "Write the dataset to a local disk or NFS and copy it afterwards."
                        ) from None
                    raise
            with suppress(OSError):  # it is published; what stays goes with its scratch folder
                os.unlink(source)
            flush(target.parent)
            return True

    def replace(self, key: str, source: Path) -> None:
        target = self._inside(key)
        with store_errors(target):
            _make_folder(target.parent)
            flush(source)
            file = patiently(lambda: os.stat(source))
            try:
                os.replace(source, target)
            except OSError:
                if patiently(source.exists) or not os.path.samestat(file, patiently(lambda: os.stat(target))):
                    raise
            flush(target.parent)

    @contextmanager
    def exclusive(self, name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        path = self._inside(f"{LOCKS}/{name}")
        with store_errors(path):
            _make_folder(path.parent)
            handle = locked(path, waiting)
        try:
            yield
        finally:
            with suppress(OSError):  # a lock file that stays is free
                patiently(lambda: path.unlink(missing_ok=True))
            os.close(handle)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        folder = self._inside(f"{SCRATCH}/{new_name()}")
        with store_errors(folder):
            patiently(lambda: folder.mkdir(parents=True, exist_ok=True))
        try:
            yield folder
        finally:
            _remove(folder)

    def scratches(self) -> list[Scratch]:
        """All scratch folders, whosoever they are; not what somebody else put beside them."""
        folder = self._inside(f"{SCRATCH}/any").parent
        with store_errors(folder), suppress(FileNotFoundError):
            return [Scratch(folder / name) for name in patiently(lambda: _folders(folder)) if is_scratch(name)]
        return []

    def sweep(self) -> None:
        for scratch in self.scratches():
            if scratch.is_litter():
                _remove(scratch.folder)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # should it be a pipe, nobody waits for its writer


def _read(path: str) -> bytes:
    with os.fdopen(_open(path), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no such regular file")
        return file.read()


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _remove(folder: Path) -> None:
    """Remove a scratch folder; what cannot be removed now is left to :meth:`BlobStore.sweep`."""
    with suppress(OSError):
        patiently(lambda: shutil.rmtree(folder))


def _list(path: str, folder: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(f"{folder}/{entry.name}" for entry in entries if entry.is_file())


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each flushed to the disk."""
    if not patiently(folder.is_dir):
        _make_folder(folder.parent)
        patiently(lambda: folder.mkdir(exist_ok=True))
        flush(folder.parent)


def flush(path: Path) -> None:
    """fsync a file or folder: what was promised must survive a power cut."""
    handle = patiently(lambda: os.open(path, os.O_RDONLY))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
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
