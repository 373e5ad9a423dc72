"""One shard file of a Zarr v3 array with the ``sharding_indexed`` codec, written in one pass and read in one step.

    | chunk | chunk | ... | index: (offset, length) uint64 of each of the SLOTS chunks | crc32c of the index, uint32 |

all little-endian; an empty slot has offset = length = 2**64 - 1. A chunk is one row of the array: one field or frame.
Writing through zarr-python would need the whole decoded shard in memory and rewrite the file for every row.
"""

from __future__ import annotations

import hashlib
import os
import stat
import weakref
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import RefusedError
from flowprep.store.checksums import checksum

SLOTS = 2048  # rows of one shard file
EMPTY = 2**64 - 1
INDEX_BYTES = SLOTS * 16 + 4


class ShardWriter:
    """Writes one shard file, rows in rising order; :meth:`finish` completes it.

    Between two videos it can :meth:`pause`: a shard may have more files on the way than a process may hold open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = path.open("wb")
        self._index = np.full((SLOTS, 2), EMPTY, "<u8")
        self._hash = hashlib.sha256()
        self.bytes = 0

    def append(self, slot: int, payload: bytes) -> None:
        """Put the encoded row ``payload`` into ``slot``."""
        self._index[slot] = (self.bytes, len(payload))
        self._write(payload)

    def pause(self) -> None:
        """Close the file until the next row comes."""
        if self._file:
            self._file.close()
            self._file = None

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("ab")
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    def finish(self) -> str:
        """Write the index, close the file, and give its sha256 (hex)."""
        index = self._index.tobytes()
        self._write(index + checksum(index).to_bytes(4, "little"))
        self.pause()
        return self._hash.hexdigest()


class ShardReader:
    """Reads rows of one shard file; the index is read once. Raises RefusedError for damage, OSError for the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # should it be a pipe, nobody waits for its writer
        self.close = weakref.finalize(self, os.close, self._file)  # at the latest when nobody uses this any more
        try:
            status = os.fstat(self._file)
            if not stat.S_ISREG(status.st_mode):
                raise self._damaged("not a regular file")
            self._data_bytes = status.st_size - INDEX_BYTES
            if self._data_bytes < 0:
                raise self._damaged(f"{self._data_bytes + INDEX_BYTES} bytes are too few for a shard file")
            raw = self._read(self._data_bytes, self._data_bytes + INDEX_BYTES)
            if checksum(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
                raise self._damaged("the checksum of its index is wrong")
        except BaseException:
            self.close()
            raise
        self.index: NDArray[np.uint64] = np.frombuffer(raw, "<u8", SLOTS * 2).reshape(SLOTS, 2)  # (offset, length)

    def rows(self, start: int, stop: int) -> list[memoryview]:
        """The encoded rows of slots start..stop-1, read in one step (neighbours lie side by side).

        They share the memory of the whole step.
        """
        if stop <= start:
            return []
        wanted = self.index[start:stop]
        if (wanted == EMPTY).any():
            raise self._damaged(f"a row between {start} and {stop} is missing")
        if (wanted > self._data_bytes).any():  # first of all: the sums below must not wrap
            raise self._damaged("its index points outside the data")
        ends = wanted.sum(axis=1)
        if ends[-1] > self._data_bytes or (wanted[1:, 0] != ends[:-1]).any():
            raise self._damaged("its index points outside the data")
        first = int(wanted[0, 0])
        block = self._read(first, int(ends[-1]))
        cuts = [0, *(end - first for end in ends.tolist())]
        return [block[low:high] for low, high in pairwise(cuts)]

    def _read(self, first: int, last: int) -> memoryview:
        """Bytes first..last-1 of the file; a system call may give fewer than asked for."""
        block = memoryview(bytearray(last - first))
        left = block
        while left:
            count = os.preadv(self._file, [left], last - len(left))
            if not count:
                raise self._damaged("it has become shorter while it was read")
            left = left[count:]
        return block.toreadonly()

    def _damaged(self, how: str) -> RefusedError:
        return RefusedError(f"{self.path}: damaged: {how}.")

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
