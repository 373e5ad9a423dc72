"""Encoded rows of a dataset by their numbers, as fast as the disk gives them.

A row costs one system call together with its neighbours, and nothing is read twice: the index of a shard file and the
side arrays of its rows are kept, in compact form and up to a bound, however many shard files there are.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import RefusedError
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.layout import ArrayName
from flowprep.store.nfs import patiently
from flowprep.store.rows import blocks_of, damage, read_side
from flowprep.store.shardfile import EMPTY, SLOTS, ShardReader

OPEN_FILES = 128  # shard files kept open
INDEXES = 4096  # indexes kept: 8 kB each where the file is below 4 GB
VALUES = 1024  # blocks whose side arrays are kept: 48 kB each of fields, L times that of stacks, which are fewer


class RowReader:
    """Rows of the data arrays in ``folder``, an OUT.zarr.

    May be shared between threads, forked, and pickled (by its path). Raises RefusedError for damage, naming the file;
    StoreError for what the disk says.
    """

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder.absolute())
        # Caches without locks, since they may be forked, and without a way back to this object, so that files close.
        self._edges = lru_cache(INDEXES)(partial(_read_edges, self.store))
        self._files = lru_cache(OPEN_FILES)(partial(_open, self.store))
        self._values = lru_cache(VALUES)(partial(_read_values, self.store))
        self._frames = lru_cache(VALUES)(partial(_read_frames, self.store))

    def __reduce__(self) -> tuple[type[RowReader], tuple[Path]]:
        return RowReader, (self.store.root,)

    def rows(self, array: ArrayName, numbers: Sequence[int]) -> list[memoryview]:
        """The encoded rows ``numbers``, in that order; everything between the lowest and the highest is read at once.

        Most often the lowest and the highest lie in one shard file, so that this is one system call.
        """
        first, last = min(numbers), max(numbers) + 1
        span: list[memoryview] = []
        for block, slots in blocks_of(first, last):
            span += self._span(layout.shard_key(array, block), slots.start, slots.stop)
        found = [span[number - first] for number in numbers]
        if not all(found):
            row = numbers[[bool(payload) for payload in found].index(False)]
            raise RefusedError(f"{self.path(array, row)}: damaged: row {row} of {array} is missing.")
        return found

    def values(self, array: ArrayName, numbers: Sequence[int]) -> NDArray[np.float32]:
        """What goes with the rows of flow or stacks: (n, 3, C) float32, for each channel its scale in px per level, the
        level of 0 px, and the mean in px of the field that it comes from.
        """
        blocks = {number // SLOTS for number in numbers}
        if len(blocks) == 1:
            kept: NDArray[np.float32] = self._values(array, *blocks)[[number % SLOTS for number in numbers]]
            return kept
        return np.stack([self._values(array, number // SLOTS)[number % SLOTS] for number in numbers])

    def frame(self, array: ArrayName, number: int) -> int:
        """The frame that a stack is of."""
        return int(self._frames(array, number // SLOTS)[number % SLOTS])

    def path(self, array: ArrayName, number: int) -> Path:
        """The shard file of a row."""
        return self.store.path(layout.shard_key(array, number // SLOTS))

    def _span(self, key: str, start: int, stop: int) -> list[memoryview]:
        """Encoded rows of slots start..stop-1; empty where a slot is."""
        with damage(self.store.path(key)):
            edges = self._edges(key)[start : stop + 1].tolist()
            data = memoryview(patiently(partial(self._bytes, key, edges[0], edges[-1])))
        if len(data) != edges[-1] - edges[0]:
            raise RefusedError(f"{self.store.path(key)}: damaged: it has become shorter while it was read.")
        cuts = [edge - edges[0] for edge in edges]
        return [data[low:high] for low, high in pairwise(cuts)]

    def _bytes(self, key: str, first: int, last: int) -> bytes:
        try:
            return self._files(key).read(first, last)
        except OSError:
            self._files.cache_clear()  # a stale file handle stays stale: the next try opens the file anew
            raise


class _File:
    """A file that is open until nobody uses this object any more, in whatever thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, first: int, last: int) -> bytes:
        """Bytes first..last-1, fewer at the end of the file only."""
        data = os.pread(self._file, last - first, first)
        while first + len(data) < last:  # a system call may give fewer than asked for
            more = os.pread(self._file, last - first - len(data), first + len(data))
            if not more:
                break
            data += more
        return data


def _open(store: LocalStore, key: str) -> _File:
    return _File(store.path(key))


def _read_edges(store: LocalStore, key: str) -> NDArray[Any]:
    """Where the rows of a shard file begin and end: row i at bytes edges[i]..edges[i+1]-1, none for an empty slot."""
    path = store.path(key)
    with patiently(lambda: ShardReader(path)) as reader:
        offsets, sizes = reader.index.T
        size = path.stat().st_size
    filled = sizes != EMPTY
    lengths = np.where(filled, sizes, 0)
    if (lengths > size).any():  # first of all: the sums below must not wrap
        raise RefusedError(f"{path}: damaged: its index points outside the data.")
    edges = np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths)])
    if edges[-1] > size or (offsets[filled] != edges[:-1][filled]).any():
        raise RefusedError(f"{path}: damaged: its rows do not lie side by side.")
    return edges.astype(np.uint32) if size < 2**32 else edges


def _read_values(store: LocalStore, array: ArrayName, block: int) -> NDArray[np.float32]:
    """Scale, zero and mean of one block: (SLOTS, 3, C) float32. Means of fields are the first of their statistics."""
    scale, zero = (read_side(store, array, side, block) for side in ("scale", "zero"))
    if "mean" in array.sides:
        mean = read_side(store, array, "mean", block)
    else:
        mean = read_side(store, array, "stats", block)[:, :, 0]
    pairs = array.channels // 2
    return np.stack([np.tile(scale, pairs), np.tile(zero, pairs), mean], axis=1)


def _read_frames(store: LocalStore, array: ArrayName, block: int) -> NDArray[Any]:
    return read_side(store, array, "frame", block)
