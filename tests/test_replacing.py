"""A file is replaced as a whole, or stays as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowprep.errors import StoreError, UsageError
from flowprep.store.replacing import replacing


def write(path: Path, data: bytes, error: BaseException | None = None) -> None:
    with replacing(path) as file:
        file.write(data)
        file.flush()
        if error:
            raise error


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a/folder/file"
    for data in (b"old", b"new and longer", b""):
        write(path, data)
        assert path.read_bytes() == data
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("error", [UsageError("no"), ValueError("no"), KeyboardInterrupt()], ids=lambda e: str(type(e)))
def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    write(tmp_path / "file", b"old")
    with pytest.raises(type(error)):
        write(tmp_path / "file", b"half of the ne", error)
    assert (tmp_path / "file").read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")  # which is not there yet
    for data in (b"old", b"new"):
        write(tmp_path / "link", data)
        assert (tmp_path / "folder/file").read_bytes() == data
    assert names(tmp_path / "folder") == ["file"] and (tmp_path / "link").is_symlink()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="loop: not a file"):
        write(tmp_path / "loop", b"new")


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UsageError, match=f"{name}: not a file"):
            write(tmp_path / name, b"new")
    assert sorted(names(tmp_path)) == ["folder", "pipe"] and (tmp_path / "pipe").is_fifo()


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(b"longer than what comes")
    write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and names(tmp_path) == ["file"]


def test_what_the_disk_says_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    write(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"file: No space left on device. Free"):
            write(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]
    with pytest.raises(StoreError, match=r"Not a directory|exists"):
        write(path / "below a file", b"new")


def test_a_library_that_fails_of_the_full_disk_in_its_own_way_counts(tmp_path: Path) -> None:
    error = RuntimeError("unexpected position")
    error.__context__ = OSError(28, "No space left on device")
    with pytest.raises(StoreError, match="No space left"):
        write(tmp_path / "file", b"new", error)
