"""Shard files: plain Zarr reads them, rows come back as written, damage of any kind is refused with the file's name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowprep import codecs, plan
from flowprep.errors import RefusedError
from flowprep.store.shardfile import EMPTY, INDEX_BYTES, SLOTS, ShardReader, ShardWriter
from flowprep.store.zarr_codec import Jpeg

in_one_folder = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # each example writes the same file anew


def write(path: Path, rows: dict[int, bytes]) -> str:
    writer = ShardWriter(path)
    for slot, payload in rows.items():
        writer.append(slot, payload)
    return writer.finish()


def forge(path: Path, data: bytes, entries: dict[int, tuple[int, int]]) -> None:
    """A file whose index says what ``entries`` say, with a checksum that is right."""
    index = np.full((SLOTS, 2), EMPTY, "<u8")
    for slot, entry in entries.items():
        index[slot] = entry
    raw = index.tobytes()
    path.write_bytes(data + raw + google_crc32c.value(raw).to_bytes(4, "little"))


def damage_in(path: Path, start: int, stop: int) -> str:
    """What the reader says against rows start..stop-1."""
    with pytest.raises(RefusedError) as error, ShardReader(path) as reader:
        reader.rows(start, stop)
    assert str(error.value).startswith(f"{path}: damaged: ")
    return str(error.value)


def open_files() -> Sequence[str]:
    return os.listdir("/proc/self/fd")  # noqa: PTH208 - names only


def test_plan_and_file_agree_on_the_size_of_a_block() -> None:
    assert plan.BLOCK == SLOTS


@given(rows=st.dictionaries(st.integers(0, SLOTS - 1), st.binary(min_size=1, max_size=50), max_size=30))
@in_one_folder
def test_rows_come_back(tmp_path: Path, rows: dict[int, bytes]) -> None:
    path = tmp_path / "shard"
    rows = dict(sorted(rows.items()))
    assert write(path, rows) == hashlib.sha256(path.read_bytes()).hexdigest()
    with ShardReader(path) as reader:
        for slot, payload in rows.items():
            assert reader.rows(slot, slot + 1) == [payload]
        runs = [slot for slot in rows if slot + 1 in rows]
        for slot in runs:
            assert reader.rows(slot, slot + 2) == [rows[slot], rows[slot + 1]]
        assert reader.rows(7, 7) == reader.rows(9, 3) == []
        missing = next(slot for slot in range(SLOTS) if slot not in rows)
        with pytest.raises(RefusedError, match="missing"):
            reader.rows(missing, missing + 1)


def test_a_full_file_comes_back_in_one_read(tmp_path: Path) -> None:
    rows = {slot: bytes([slot % 251]) * (slot % 17 + 1) for slot in range(SLOTS)}
    write(tmp_path / "shard", rows)
    with ShardReader(tmp_path / "shard") as reader:
        assert reader.rows(0, SLOTS) == list(rows.values())


def test_pauses_change_no_byte(tmp_path: Path) -> None:
    """A writer may close its file between two rows, and go on."""
    write(tmp_path / "shard", {0: b"first", 1: b"second"})
    writer = ShardWriter(tmp_path / "paused")
    before = len(open_files())
    for slot, payload in enumerate((b"first", b"second")):
        writer.append(slot, payload)
        writer.pause()
        writer.pause()
        assert len(open_files()) == before - 1
    assert writer.finish() == hashlib.sha256((tmp_path / "shard").read_bytes()).hexdigest()
    assert (tmp_path / "paused").read_bytes() == (tmp_path / "shard").read_bytes()


def test_an_empty_file_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "shard", {})
    assert (tmp_path / "shard").stat().st_size == INDEX_BYTES
    assert "missing" in damage_in(tmp_path / "shard", 0, 1)


def test_plain_zarr_reads_the_same_rows(tmp_path: Path) -> None:
    """Fields and frames, in the first and in a later block, beside empty slots."""
    height, width = 24, 40
    random = np.random.default_rng(0)
    fields = random.integers(0, 256, (4, 2, height, width), dtype=np.uint8)
    payloads = [codecs.encode_field(field, 2) for field in fields]
    frames = [codecs.encode_rgb(random.integers(0, 256, (height, width, 3), dtype=np.uint8), 90) for _ in range(2)]
    places = [3, 4, SLOTS - 1, SLOTS + 5]
    for block in (0, 1):
        inside = {place % SLOTS: data for place, data in zip(places, payloads, strict=True) if place // SLOTS == block}
        path = tmp_path / f"flow/c/{block}/0/0/0"
        path.parent.mkdir(parents=True)
        write(path, inside)
    (tmp_path / "rgb/c/0/0/0").mkdir(parents=True)
    write(tmp_path / "rgb/c/0/0/0/0", dict(enumerate(frames)))

    def array(name: str, rows: int, *row: int, fill: int) -> zarr.Array:
        return zarr.create_array(
            tmp_path / name,
            shape=(rows, *row),
            chunks=(1, *row),
            shards=(SLOTS, *row),
            dtype="uint8",
            serializer=Jpeg(),
            compressors=None,
            fill_value=fill,
        )

    flow = array("flow", 2 * SLOTS, 2, height, width, fill=128)
    for place, payload in zip(places, payloads, strict=True):
        assert (flow[place] == codecs.decode_field(payload, height, width)).all()
    assert (flow[3:5] == [codecs.decode_field(data, height, width) for data in payloads[:2]]).all()
    for empty in (0, 5, SLOTS, 2 * SLOTS - 1):
        assert (flow[empty] == 128).all()
    rgb = array("rgb", SLOTS, height, width, 3, fill=0)
    assert (rgb[:2] == [codecs.decode_rgb(data, height, width) for data in frames]).all()


# --- damage ---

ROWS = {5: b"first row", 6: b"second", 7: b"the third row", 100: b"far away"}
SIZE = sum(map(len, ROWS.values()))


@given(at=st.integers(0, SIZE + INDEX_BYTES - 1), xor=st.integers(1, 255))
@in_one_folder
def test_one_changed_byte(tmp_path: Path, at: int, xor: int) -> None:
    """In the index it is found at once; in a row it changes that row alone (sha256 is what finds it)."""
    path = tmp_path / "shard"
    write(path, ROWS)
    data = bytearray(path.read_bytes())
    data[at] ^= xor
    path.write_bytes(data)
    if at >= SIZE:
        assert "checksum" in damage_in(path, 5, 6)
    else:
        with ShardReader(path) as reader:
            found = b"".join(reader.rows(5, 8) + reader.rows(100, 101))
        assert found == bytes(data[:SIZE])


@given(length=st.integers(0, SIZE + INDEX_BYTES - 1))
@in_one_folder
def test_a_truncated_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "shard"
    write(path, ROWS)
    path.write_bytes(path.read_bytes()[:length])
    assert ("too few" if length < INDEX_BYTES else "checksum") in damage_in(path, 5, 6)


@pytest.mark.parametrize("hole", [5, 6, 7])
def test_a_missing_row(tmp_path: Path, hole: int) -> None:
    write(tmp_path / "shard", {slot: data for slot, data in ROWS.items() if slot != hole})
    assert "a row between 5 and 8 is missing" in damage_in(tmp_path / "shard", 5, 8)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param({0: (0, 11), 1: (11, 1)}, id="one byte too long"),
        pytest.param({0: (10, 1), 1: (11, 1)}, id="behind the data"),
        pytest.param({0: (0, 4), 1: (5, 4)}, id="a gap"),
        pytest.param({0: (4, 4), 1: (0, 4)}, id="the wrong order"),
        pytest.param({0: (0, 4), 1: (4, EMPTY)}, id="half empty"),
        pytest.param({0: (2**64 - 8, 8), 1: (0, 4)}, id="a sum that wraps to zero"),
        pytest.param({0: (0, 4), 1: (4, 2**63)}, id="a sum beyond int64"),
        pytest.param({0: (2**40, 2**40), 1: (2**41, 1)}, id="terabytes"),
    ],
)
def test_an_index_that_lies(tmp_path: Path, entries: dict[int, tuple[int, int]]) -> None:
    forge(tmp_path / "shard", b"0123456789", entries)
    damage_in(tmp_path / "shard", 0, 2)


number = st.integers(0, 20) | st.integers(0, 2**64 - 1) | st.integers(2**64 - 20, 2**64 - 1)


@given(data=st.binary(max_size=20), entries=st.dictionaries(st.integers(0, 3), st.tuples(number, number)))
@in_one_folder
def test_any_index_gives_rows_of_the_file_or_is_refused(
    tmp_path: Path, data: bytes, entries: dict[int, tuple[int, int]]
) -> None:
    path = tmp_path / "shard"
    forge(path, data, entries)
    try:
        with ShardReader(path) as reader:
            rows = reader.rows(0, 3)
    except RefusedError:
        return
    assert b"".join(rows) in data and [len(row) for row in rows] == [entries[slot][1] for slot in range(3)]


def test_a_file_cut_off_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    write(path, ROWS)
    with ShardReader(path) as reader:
        os.truncate(path, 12)
        with pytest.raises(RefusedError, match="shorter"):
            reader.rows(5, 8)


def test_short_reads_are_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call gives 2 GiB at most, and less on some network disks."""
    write(tmp_path / "shard", ROWS)
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda file, count, offset: whole(file, min(count, 10_000), offset))
    with ShardReader(tmp_path / "shard") as reader:
        assert reader.rows(5, 8) == [ROWS[5], ROWS[6], ROWS[7]]


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["a pipe", "a folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "shard")
    assert "not a regular file" in damage_in(tmp_path / "shard", 0, 1)


def test_refusing_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(b"\0" * INDEX_BYTES)
    before = open_files()
    damage_in(tmp_path / "shard", 0, 1)
    assert len(open_files()) == len(before)
