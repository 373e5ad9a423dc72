"""Stored rows by their numbers: fields, stacks and frames, and the values beside them.

A run of neighbours costs one system call, and nothing is read twice: shard files with their indexes and the blocks of
side values are kept, up to a bound, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep import codecs
from flowprep.config import StorageConfig
from flowprep.errors import RefusedError, VideoError
from flowprep.quantise import dequantise
from flowprep.store import layout
from flowprep.store.blobs import LocalStore, store_error
from flowprep.store.checksums import without_checksum
from flowprep.store.layout import ArrayName
from flowprep.store.nfs import patiently
from flowprep.store.shardfile import SLOTS, ShardReader

OPEN_FILES = 128  # shard files kept open, each with its index of 32 kB
SIDE_BLOCKS = 1024  # blocks of side values kept, of 16 or 48 kB for fields


class DamagedRowError(RefusedError):
    """One row of an array is damaged."""

    def __init__(self, path: Path, array: ArrayName, row: int, what: str) -> None:
        super().__init__(f"{path}: row {row} of {array}: {what}")
        self.row = row


@contextmanager
def naming(start: int, unit: str = "field", video: str = "", asked: tuple[int, int] | None = None) -> Iterator[None]:
    """Put before what is wrong with rows of a video, the first of them ``start``, whose they are, and which.

    ``asked``: the first and the last that are read, by the video's own numbers, for damage not of one row alone.
    """
    whose = f"{video}: " if video else ""
    try:
        yield
    except VideoError:
        raise
    except DamagedRowError as error:
        raise RefusedError(f"{whose}{unit} {error.row - start}: {error}") from None
    except RefusedError as error:
        low, high = asked or (0, -1)
        which = f"{unit} {low}: " if low == high else f"{unit}s {low} to {high}: " if low < high else ""
        raise RefusedError(f"{whose}{which}{error}") from None


class StoredRows:
    """The arrays of one dataset.

    May be shared between threads, forked, and pickled (by its path). Raises RefusedError naming the file for what is
    missing or damaged, StoreError for what the disk says.
    """

    def __init__(self, store: LocalStore, storage: StorageConfig) -> None:
        self.store = store
        self.storage = storage
        self.codec = codecs.field_codec(storage)
        # Caches without locks, since they may be forked, and without a way back to this object, so that files close.
        self._shard = lru_cache(OPEN_FILES)(partial(_open_shard, store))
        self._side = lru_cache(SIDE_BLOCKS)(partial(_read_side, store))

    def __reduce__(self) -> tuple[type[StoredRows], tuple[LocalStore, StorageConfig]]:
        return StoredRows, (LocalStore(self.store.root.absolute()), self.storage)

    def flow(self, array: ArrayName, first: int, last: int) -> NDArray[np.float32]:
        """Fields or stacks first..last-1 in px: (n, 2L, H, W) float32."""
        scale, zero = (self.side(array, side, first, last) for side in ("scale", "zero"))
        return dequantise(self.levels(array, first, last), scale, zero)

    def levels(self, array: ArrayName, first: int, last: int) -> NDArray[Any]:
        """Fields or stacks first..last-1 as they are stored, integers: (n, 2L, H, W)."""
        rows = range(first, last)
        payloads = self.payloads(array, rows)  # first of all: a forged record may claim rows without end
        out = np.empty((len(payloads), *array.row_shape()), self.codec.dtype)
        for row, payload, target in zip(rows, payloads, out, strict=True):
            self.decode(array, row, payload, target)
        return out

    def decode(self, array: ArrayName, row: int, payload: bytes | memoryview, out: NDArray[Any]) -> None:
        """Levels (2L, H, W) of one field or stack into ``out``; DamagedRowError if ``payload`` is not that."""
        try:
            self.codec.decode(payload, array.row_shape(), out)
        except RefusedError as error:
            raise DamagedRowError(self.path(array, row), array, row, str(error)) from None

    def frames(self, array: ArrayName, first: int, last: int) -> NDArray[np.uint8]:
        """RGB frames first..last-1: (n, 3, H, W) uint8."""
        rows = range(first, last)
        payloads = self.payloads(array, rows)
        out = np.empty((len(payloads), *array.row_shape()), np.uint8)
        for row, payload, target in zip(rows, payloads, out, strict=True):
            target[:] = self.image(array, row, payload).transpose(2, 0, 1)
        return out

    def image(self, array: ArrayName, row: int, payload: bytes | memoryview) -> NDArray[np.uint8]:
        """One RGB frame, (H, W, 3) uint8; DamagedRowError if ``payload`` is not that."""
        try:
            return codecs.decode_rgb(payload, array.height, array.width)
        except RefusedError as error:
            raise DamagedRowError(self.path(array, row), array, row, str(error)) from None

    def payloads(self, array: ArrayName, rows: Sequence[int]) -> list[memoryview]:
        """Encoded ``rows``, in that order, their checksums right. What lies between them is read with them."""
        if not rows:
            return []
        low, high = (rows[0], rows[-1]) if isinstance(rows, range) else (min(rows), max(rows))
        found: list[memoryview] = []
        for block, slots in _blocks(low, high + 1):
            found += self._stored(layout.shard_key(array, block), slots)
        payloads = []
        for row in rows:
            try:
                payloads.append(without_checksum(found[row - low]))
            except RefusedError as error:
                raise DamagedRowError(self.path(array, row), array, row, str(error)) from None
        return payloads

    def side(self, array: ArrayName, side: str, first: int, last: int) -> NDArray[Any]:
        """Values of a side array, as ``scale``, for rows first..last-1: (n, ...)."""
        shape, dtype = array.sides[side]
        found = [np.empty((0, *shape), dtype)]
        found += [self.side_block(array, side, block)[slots] for block, slots in _blocks(first, last)]
        return np.concatenate(found, dtype=np.dtype(dtype).newbyteorder("="))

    def side_block(self, array: ArrayName, side: str, block: int) -> NDArray[Any]:
        """One block of a side array: (SLOTS, ...)."""
        kept: NDArray[Any] = self._side(array, side, block)
        return kept

    def path(self, array: ArrayName, row: int) -> Path:
        """The shard file of a row."""
        return self.store.path(layout.shard_key(array, row // SLOTS))

    def close(self) -> None:
        """Close the files that are held open; the object stays usable."""
        self._shard.cache_clear()

    def _stored(self, key: str, slots: slice) -> list[memoryview]:
        """Rows of one shard file, as they lie there."""

        def read() -> list[memoryview]:
            try:
                return self._shard(key).rows(slots.start, slots.stop)
            except OSError:
                self._shard.cache_clear()  # a stale file handle stays stale: the next try opens the file anew
                raise

        with _damage(self.store, key):
            return patiently(read)


def _blocks(first: int, last: int) -> Iterator[tuple[int, slice]]:
    """The block files that rows first..last-1 lie in, each with its slots."""
    while first < last:
        block, slot = divmod(first, SLOTS)
        count = min(SLOTS - slot, last - first)
        yield block, slice(slot, slot + count)
        first += count


def _open_shard(store: LocalStore, key: str) -> ShardReader:
    return ShardReader(store.path(key))


def _read_side(store: LocalStore, array: ArrayName, side: str, block: int) -> NDArray[Any]:
    key = layout.side_key(array, side, block)
    path = store.path(key)
    shape, dtype = array.sides[side]
    with _damage(store, key):
        stored = patiently(path.read_bytes)
    try:
        data = without_checksum(stored)
    except RefusedError as error:
        raise RefusedError(f"{path}: {error}.") from None
    if len(data) != np.dtype(dtype).itemsize * SLOTS * math.prod(shape):
        raise RefusedError(f"{path}: damaged: {len(data)} bytes are not {SLOTS} rows.")
    values = np.frombuffer(data, dtype).reshape(SLOTS, *shape)
    if not np.isfinite(values).all():
        raise RefusedError(f"{path}: damaged: it holds values that are not finite.")
    return values


@contextmanager
def _damage(store: LocalStore, key: str) -> Iterator[None]:
    """A file that is gone is damage to the dataset; anything else that the disk says is about the disk."""
    try:
        yield
    except FileNotFoundError:
        raise RefusedError(f"{store.path(key)}: this file of the dataset is missing.") from None
    except OSError as error:
        raise store_error(store.path(key), error) from error
