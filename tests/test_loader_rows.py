"""Encoded rows by their numbers, in any order, from files of which not too many are open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowprep.config import StorageConfig
from flowprep.errors import RefusedError, StoreError
from flowprep.store.blobs import LocalStore
from flowprep.store.checksums import with_checksum
from flowprep.store.layout import ArrayName
from flowprep.store.rows import OPEN_FILES, StoredRows
from flowprep.store.shardfile import ShardWriter


def test_rows_are_read_in_any_order_from_several_shards(tmp_path: Path) -> None:
    """Descending, repeated, with gaps, across shard files, around an empty slot."""
    array = ArrayName("flow", 16, 16)
    for block in range(2):
        path = tmp_path / str(array) / f"c/{block}/0/0/0"
        path.parent.mkdir(parents=True)
        writer = ShardWriter(path)
        for slot in range(2048):
            if (block, slot) != (1, 7):
                writer.append(slot, with_checksum(f"row {2048 * block + slot}".encode() * (1 + slot % 3)))
        writer.finish()
    reader = StoredRows(LocalStore(tmp_path), StorageConfig())
    for numbers in ((0,), (2047, 2048), (2050, 2049, 2046), (5, 5, 9), (2048 + 8,), range(2040, 2054)):
        found = reader.payloads(array, numbers)
        assert found == [f"row {number}".encode() * (1 + number % 2048 % 3) for number in numbers]
    with pytest.raises(RefusedError, match="flow_16x16/c/1/0/0/0: damaged: a row between 6 and 8 is missing"):
        reader.payloads(array, (2054, 2055))
    (tmp_path / str(array) / "c/1/0/0/0").chmod(0o000)
    if os.geteuid():  # root reads it all the same
        with pytest.raises(StoreError):
            StoredRows(LocalStore(tmp_path), StorageConfig()).payloads(array, (2048,))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_and_caches_are_bounded(tmp_path: Path) -> None:
    array = ArrayName("flow", 16, 16)
    blocks = 300
    for block in range(blocks):
        path = tmp_path / str(array) / f"c/{block}/0/0/0"
        path.parent.mkdir(parents=True)
        writer = ShardWriter(path)
        writer.append(3, with_checksum(b"row"))
        writer.finish()
    reader = StoredRows(LocalStore(tmp_path), StorageConfig())
    before = open_files()
    for block in range(blocks):
        assert reader.payloads(array, (block * 2048 + 3,)) == [b"row"]
    assert open_files() - before <= OPEN_FILES
    del reader
    assert open_files() == before
