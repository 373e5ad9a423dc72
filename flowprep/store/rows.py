"""Stored rows by their numbers: fields, stacks and frames decoded, and the values beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from flowprep.store.layout import ArrayName
from flowprep.store.nfs import patiently
from flowprep.store.shardfile import SLOTS, ShardReader
from flowprep.types import Placement

OPEN_FILES = 64  # shard files kept open


class DamagedRowError(RefusedError):
    """One row of an array does not decode."""

    def __init__(self, path: Path, array: ArrayName, row: int, what: str) -> None:
        super().__init__(f"{path}: row {row} of {array}: {what}")
        self.row = row


@contextmanager
def naming(place: Placement, unit: str = "field", video: str = "") -> Iterator[None]:
    """Put before what is wrong with rows of ``place`` whose they are, and the number that the video counts them by."""
    whose = f"{video}: " if video else ""
    try:
        yield
    except VideoError:
        raise
    except DamagedRowError as error:
        raise RefusedError(f"{whose}{unit} {error.row - place.start}: {error}") from None
    except RefusedError as error:
        raise RefusedError(f"{whose}{error}") from None


class StoredRows:
    """The arrays of one dataset. Rows first..last-1 are asked for; all of them must be there.

    Raises RefusedError naming the file for what is missing or damaged, StoreError for what the disk says.
    """

    def __init__(self, store: LocalStore, storage: StorageConfig) -> None:
        self.store = store
        self._codec = codecs.field_codec(storage)
        self._shard = lru_cache(OPEN_FILES)(partial(_open_shard, store))  # without a lock: it may be forked

    def flow(self, array: ArrayName, first: int, last: int) -> NDArray[np.float32]:
        """Fields or stacks in px: (n, 2L, H, W) float32."""
        scale, zero = (self.side(array, side, first, last) for side in ("scale", "zero"))
        return dequantise(self.levels(array, first, last), scale, zero)

    def levels(self, array: ArrayName, first: int, last: int) -> NDArray[Any]:
        """Fields or stacks as they are stored, integers: (n, 2L, H, W)."""
        out = np.empty((max(0, last - first), *array.row_shape()), self._codec.dtype)
        for i, payload in enumerate(self.payloads(array, first, last)):
            with self._naming(array, first + i):
                self._codec.decode(payload, array.row_shape(), out[i])
        return out

    def frames(self, array: ArrayName, first: int, last: int) -> NDArray[np.uint8]:
        """RGB frames: (n, 3, H, W) uint8."""
        out = np.empty((max(0, last - first), *array.row_shape()), np.uint8)
        for i, payload in enumerate(self.payloads(array, first, last)):
            with self._naming(array, first + i):
                out[i] = codecs.decode_rgb(payload, array.height, array.width).transpose(2, 0, 1)
        return out

    def payloads(self, array: ArrayName, first: int, last: int) -> list[bytes]:
        """Encoded rows, one read for each block file that they lie in."""
        found: list[bytes] = []
        for block, slots in blocks_of(first, last):
            key = layout.shard_key(array, block)
            with damage(self.store.path(key)):
                found += self._shard(key).rows(slots.start, slots.stop)
        return found

    def side(self, array: ArrayName, side: str, first: int, last: int) -> NDArray[Any]:
        """Values of a side array, as ``scale``: (n, ...)."""
        shape, dtype = array.sides[side]
        found = [np.empty((0, *shape), dtype)]
        found += [read_side(self.store, array, side, block)[slots] for block, slots in blocks_of(first, last)]
        return np.concatenate(found, dtype=np.dtype(dtype).newbyteorder("="))

    def close(self) -> None:
        """Close the files that are held open; the object stays usable."""
        self._shard.cache_clear()

    @contextmanager
    def _naming(self, array: ArrayName, row: int) -> Iterator[None]:
        try:
            yield
        except RefusedError as error:
            path = self.store.path(layout.shard_key(array, row // SLOTS))
            raise DamagedRowError(path, array, row, str(error)) from None


def read_side(store: LocalStore, array: ArrayName, side: str, block: int) -> NDArray[Any]:
    """One block of a side array: (SLOTS, ...)."""
    path = store.path(layout.side_key(array, side, block))
    shape, dtype = array.sides[side]
    with damage(path):
        data = patiently(path.read_bytes)
    if len(data) != np.dtype(dtype).itemsize * SLOTS * math.prod(shape):
        raise RefusedError(f"{path}: damaged: {len(data)} bytes are not {SLOTS} rows.")
    return np.frombuffer(data, dtype).reshape(SLOTS, *shape)


def blocks_of(first: int, last: int) -> Iterator[tuple[int, slice]]:
    """The block files that rows first..last-1 lie in, each with its slots."""
    while first < last:
        block, slot = divmod(first, SLOTS)
        count = min(SLOTS - slot, last - first)
        yield block, slice(slot, slot + count)
        first += count


def _open_shard(store: LocalStore, key: str) -> ShardReader:
    return patiently(lambda: ShardReader(store.path(key)))


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """A file that is gone is damage to the dataset; anything else that the disk says is about the disk."""
    try:
        yield
    except FileNotFoundError:
        raise RefusedError(f"{path}: this file of the dataset is missing.") from None
    except OSError as error:
        raise store_error(path, error) from error
