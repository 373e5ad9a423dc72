"""Encoded rows by their numbers, in any order, from files of which not too many are open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowprep.errors import RefusedError, StoreError
from flowprep.stacks.rows import RowReader
from flowprep.store.layout import ArrayName
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
                writer.append(slot, f"row {2048 * block + slot}".encode() * (1 + slot % 3))
        writer.finish()
    reader = RowReader(tmp_path)
    for numbers in ((0,), (2047, 2048), (2050, 2049, 2046), (5, 5, 9), (2048 + 8,), range(2040, 2054)):
        found = [bytes(row) for row in reader.rows(array, numbers)]
        assert found == [f"row {number}".encode() * (1 + number % 2048 % 3) for number in numbers]
    with pytest.raises(RefusedError, match="row 2055 of flow_16x16 is missing"):
        reader.rows(array, (2054, 2055))
    (tmp_path / str(array) / "c/1/0/0/0").chmod(0o000)
    if os.geteuid():  # root reads it all the same
        with pytest.raises(StoreError):
            RowReader(tmp_path).rows(array, (2048,))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_and_caches_are_bounded(tmp_path: Path) -> None:
    array = ArrayName("flow", 16, 16)
    blocks = 300
    for block in range(blocks):
        path = tmp_path / str(array) / f"c/{block}/0/0/0"
        path.parent.mkdir(parents=True)
        writer = ShardWriter(path)
        writer.append(3, b"row")
        writer.finish()
    reader = RowReader(tmp_path)
    before = open_files()
    for block in range(blocks):
        assert bytes(reader.rows(array, (block * 2048 + 3,))[0]) == b"row"
    assert open_files() - before <= 128
    del reader
    assert open_files() == before
