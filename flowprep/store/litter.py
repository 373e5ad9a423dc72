"""What lies in a dataset's folder without belonging to it: found, and removed when it is old enough.

Tries that never committed leave blocks of rows that no record names, scratch folders, lock files and half-written
files. Whatever is neither part of the dataset nor made by flowprep is named and stays.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flowprep.plan import Plan
from flowprep.store import layout
from flowprep.store.blobs import LOCKS, SCRATCH, LocalStore, store_error
from flowprep.store.commits import read_commits
from flowprep.store.locks import remove_free_lock
from flowprep.store.plans import read_plans
from flowprep.store.scratch import Scratch, is_scratch

KINDS = ("orphan block", "scratch folder", "lock file", "temporary file")
TABLE = re.compile(r"zarr\.json|videos/(\w+/)?zarr\.json|videos/\w+/c(/0)?")  # metadata, and the table of videos
TEMPORARY = re.compile(r"(.*/)?[^/]+\.[0-9a-f]{32}\.partial")  # a write of zarr-python's that was cut off
LOCK = re.compile(rf"{re.escape(LOCKS)}/(plan|finalise|[0-9]+\.[0-9]{{5,}})")
NFS = re.compile(r"(.*/)?\.nfs[0-9a-f]+")  # removed, but somebody holds it open: NFS itself takes it away


@dataclass
class Heap:
    """Things of one kind."""

    count: int = 0
    bytes: int = 0


@dataclass
class Litter:
    """What was found, kind by kind."""

    removed: dict[str, Heap] = field(default_factory=lambda: {kind: Heap() for kind in KINDS})
    kept: dict[str, Heap] = field(default_factory=lambda: {kind: Heap() for kind in KINDS})  # too young, or in use
    foreign: list[str] = field(default_factory=list)  # keys of files that flowprep did not make

    def sort(self, kind: str, path: Path, old: bool, remove: Callable[[], bool]) -> None:
        """Count ``path``, after trying to remove it if it is old; ``remove`` says whether it did."""
        size = _bytes(path)
        heap = (self.removed if old and remove() else self.kept)[kind]
        heap.count += 1
        heap.bytes += size


def collect(store: LocalStore, *, older_than: float) -> Litter:
    """Remove litter in which nothing has changed for ``older_than`` seconds; what is in use stays, however old.

    Raises StoreError, and RefusedError for a damaged record: only all records together tell what is litter.
    """
    plans = read_plans(store)
    commits = read_commits(store, plans)
    done = {(commit.generation, commit.shard) for commit in commits}
    ours = {item.key for commit in commits for item in commit.files}
    ours |= {layout.plan_key(plan.generation) for plan in plans} | {layout.commit_key(*item) for item in done}
    ours.add(layout.DIGEST)
    limit = time.time() - older_than
    found = Litter()
    for key in sorted(set(_files(store.root)) - ours):
        path = store.path(key)
        old = _changed(path) <= limit
        if key.startswith(f"{SCRATCH}/"):
            found.foreign.append(key)
        elif LOCK.fullmatch(key):
            found.sort("lock file", path, old, partial(remove_free_lock, path))
        elif TEMPORARY.fullmatch(key):
            found.sort("temporary file", path, old, partial(_remove, path))
        elif place := _block_of(key):
            waiting = [item for item in _writers(plans, *place) if item not in done]
            found.sort("orphan block", path, old, partial(_remove_block, store, key, waiting))
        elif not _is_metadata(key) and not NFS.fullmatch(key):
            found.foreign.append(key)
    for scratch in store.scratches():
        found.sort("scratch folder", scratch.folder, scratch.changed() <= limit, partial(_remove_scratch, scratch))
    return found


def _files(root: Path) -> Iterator[str]:
    """Keys of all files and of links to folders; of the folders among the scratch folders that are none themselves."""
    for folder, below, names in os.walk(root):
        here = Path(folder)
        links = [name for name in below if (here / name).is_symlink()]
        if here.relative_to(root).as_posix() == SCRATCH:
            links += [name for name in below if not is_scratch(name) and name not in links]
            below.clear()
        yield from ((here / name).relative_to(root).as_posix() for name in [*names, *links])


def _block_of(key: str) -> tuple[layout.ArrayName, int] | None:
    """Data array and number of the block of rows that ``key`` holds or goes with."""
    try:
        array, _, block = layout.parse_block_key(key)
    except ValueError:
        return None
    return array, block


def _is_metadata(key: str) -> bool:
    array = re.fullmatch(rf"{layout.NAME}/zarr\.json", key)
    return bool(TABLE.fullmatch(key) or (array and _block_of(layout.shard_key(array[1], 0))))


def _writers(plans: list[Plan], array: layout.ArrayName, block: int) -> Iterator[tuple[int, int]]:
    """(generation, shard) of every task that may write ``block``."""
    name = array.rows_of
    for plan in plans:
        number = plan.owner(name, block)
        if number is not None:
            yield plan.generation, number


def _remove_block(store: LocalStore, key: str, waiting: list[tuple[int, int]]) -> bool:
    """Remove a block unless a task in ``waiting`` has just committed; none of them can publish meanwhile."""
    with ExitStack() as stack:
        for item in waiting:
            stack.enter_context(store.exclusive(layout.shard_name(*item)))
        if any(store.exists(layout.commit_key(*item)) for item in waiting):
            return False
        path = store.path(key)
        _remove(path)
        with suppress(OSError):  # a folder that is not empty stays
            for folder in list(path.relative_to(store.root).parents)[:-3]:  # up to the block's own, below ARRAY/c
                store.path(folder.as_posix()).rmdir()
    return True


def _remove_scratch(scratch: Scratch) -> bool:
    if scratch.is_alive():
        return False
    try:
        shutil.rmtree(scratch.folder)
    except FileNotFoundError:  # somebody else was quicker
        return True
    except OSError as error:
        raise store_error(scratch.folder, error) from error
    return True


def _remove(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise store_error(path, error) from error
    return True


def _changed(path: Path) -> float:
    """When a file was written or put in its place, whichever is later, in seconds since 1970."""
    try:
        status = path.lstat()
    except OSError:
        return time.time()
    return max(status.st_mtime, status.st_ctime)


def _bytes(path: Path) -> int:
    try:
        return sum(each.lstat().st_size for each in [path, *path.rglob("*")] if not each.is_dir())
    except OSError:  # it is just being removed
        return 0
