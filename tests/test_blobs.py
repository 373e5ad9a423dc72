"""Put-if-absent on a disk and on NFS: the contract, what survives a kill, and an error that says what to do."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowprep.errors import ExitCode, StoreError
from flowprep.store.blobs import SCRATCH, LocalStore
from flowprep.store.nfs import patiently
from flowprep.store.scratch import STALE_SECONDS, new_name
from tests.bad_nfs import BadNfs
from tests.blob_contract import BIG, RACERS, BlobContract

RACES = 100


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out.zarr")


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the flush to the disk, which is most of the time and no part of a race."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def files(store: LocalStore) -> list[str]:
    """All files and scratch folders below the root."""
    found = (path for path in store.root.rglob("*") if path.is_file() or path.parent.name == "tmp")
    return sorted(path.relative_to(store.root).as_posix() for path in found)


def source(store: LocalStore, data: bytes) -> Path:
    store.root.mkdir(exist_ok=True)
    path = store.root / "source"
    path.write_bytes(data)
    return path


def failing(number: int, after: Callable[..., Any] | None = None) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> None:
        if after:
            after(*arguments, **named)
        raise OSError(number, os.strerror(number))

    return call


# --- the contract ---


class TestLocalStore(BlobContract):
    """On the disk that the tests run on."""


class TestLocalStoreOnBadNfs(BlobContract):
    """Where answers get lost after the deed, and handles go stale."""

    @pytest.fixture(params=[errno.EEXIST, errno.EIO], ids=["link says EEXIST", "link says EIO"])
    def nfs(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BadNfs:
        return BadNfs(tmp_path, monkeypatch, link_says=request.param)

    @pytest.fixture
    def store(self, tmp_path: Path, nfs: BadNfs) -> LocalStore:  # noqa: ARG002 - its faults are in force
        return LocalStore(tmp_path / "out.zarr")

    def test_the_faults_are_met(self, store: LocalStore, nfs: BadNfs) -> None:
        assert self.put(store, "a/key", b"one") and self.put(store, "a/key", b"two", replace=True)
        assert store.get("a/key") == b"two" and store.keys("a") == ["a/key"]
        assert nfs.met["link"] and nfs.met["replace"] and nfs.met["stale"] > 4


def test_a_file_that_is_not_listed_yet_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nfs = BadNfs(tmp_path, monkeypatch, hidden=3600)
    store = LocalStore(tmp_path / "out.zarr")
    store.put_new_bytes("c/1", b"data")
    assert store.keys("c") == [] and nfs.met["hidden"] == 1
    assert store.exists("c/1") and store.get("c/1") == b"data" and store.size("c/1") == 4


def test_a_handle_that_stays_stale_is_an_error_in_the_end() -> None:
    calls = []

    def stale() -> None:
        calls.append(time.monotonic())
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with pytest.raises(OSError, match="Stale file handle"):
        patiently(stale)
    assert 3 <= len(calls) <= 10 and calls[-1] - calls[0] < 10


# --- one winner, whole files ---


@pytest.mark.usefixtures("no_fsync")
def test_of_racing_threads_one_wins(store: LocalStore) -> None:
    start = threading.Barrier(RACERS)
    won: list[list[int]] = [[] for _ in range(RACES)]

    def race(me: int) -> None:
        for k in range(RACES):
            start.wait()
            if store.put_new_bytes(f"commits/{k}", b"%d" % me):
                won[k].append(me)

    threads = [threading.Thread(target=race, args=(me,)) for me in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.get(f"commits/{k}") for k in range(RACES)] == [b"%d" % winners[0] for winners in won]
    assert all(len(winners) == 1 for winners in won)
    assert len({winners[0] for winners in won}) > 1, "that was no race"


def test_a_kill_leaves_whole_files_and_a_folder_to_sweep(store: LocalStore) -> None:
    code = (
        "import itertools, sys\nfrom pathlib import Path\nfrom flowprep.store.blobs import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        f"for k in itertools.count(): store.put_new_bytes(f'c/{{k}}', bytes([k % 256]) * {BIG})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store.root)]) as process:
        while len(store.keys("c")) < 3:
            time.sleep(0.01)
            assert process.poll() is None
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    keys = store.keys("c")
    assert sorted(int(key[2:]) for key in keys) == list(range(len(keys)))
    for key in keys:
        assert store.get(key) == bytes([int(key[2:]) % 256]) * BIG
    store.sweep()
    assert files(store) == keys


def test_everything_is_on_the_disk_before_its_name_is(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    fsync, link = os.fsync, os.link

    def noted_fsync(handle: int) -> None:
        calls.append(("flush", os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), store.root)))  # noqa: PTH115
        fsync(handle)

    def noted_link(old: Path, new: Path) -> None:
        calls.append(("link", os.path.relpath(new, store.root)))
        link(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    store.put_new("flow/c/0", source(store, b"data"))
    assert calls == [("flush", "."), ("flush", "flow"), ("flush", "source"), ("link", "flow/c/0"), ("flush", "flow/c")]


# --- what the disk says ---

ADVICE = {
    errno.ENOSPC: "Free some space and run the same command again",
    errno.EDQUOT: "Your quota is used up",
    errno.EACCES: "Check the permissions",
    errno.EROFS: "mounted read-only",
    errno.EIO: "Check the disk and run the same command again",
}


@pytest.mark.parametrize("call", ["link", "fsync", "mkdir"])
@pytest.mark.parametrize("number", ADVICE)
def test_a_failing_disk_is_a_clear_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = source(store, b"data")
    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(StoreError, match=ADVICE[number]) as error:
        store.put_new("a/key", path)
    assert str(error.value).startswith(f"{store.root}/a/key: {os.strerror(number)}. ")
    assert error.value.exit_code == ExitCode.STORE
    monkeypatch.undo()
    assert files(store) == ["source"], "nothing was published"


@pytest.mark.parametrize("number", ADVICE)
def test_a_failing_replacement_leaves_the_old_file(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.put_new_bytes("key", b"old")
    path = source(store, b"new")
    monkeypatch.setattr(os, "replace", failing(number))
    with pytest.raises(StoreError, match=ADVICE[number]):
        store.replace("key", path)
    assert store.get("key") == b"old"


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_without_hard_links_is_named(store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "link", failing(number))
    with pytest.raises(StoreError, match="has no hard links, which commits need. Write the dataset to a local disk"):
        store.put_new_bytes("key", b"data")
    assert files(store) == []


def test_a_failed_replacement_is_not_taken_for_a_lost_answer(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is gone, but what lies at the key is not the source."""
    store.put_new_bytes("key", b"old")
    monkeypatch.setattr(os, "replace", failing(errno.ENOENT, after=lambda source, _: source.unlink()))
    with pytest.raises(StoreError, match="No such file"):
        store.replace("key", source(store, b"new"))
    assert store.get("key") == b"old"


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.get("missing"),
        lambda store: store.get("file/below"),
        lambda store: store.keys("file"),
        lambda store: store.put_new_bytes("file/below", b""),
        lambda store: store.put_new("key", store.root / "no such source"),
    ],
    ids=["get", "get below a file", "list a file", "put below a file", "put nothing"],
)
def test_whatever_the_disk_says_is_a_store_error(store: LocalStore, use: Callable[[LocalStore], object]) -> None:
    store.put_new_bytes("file", b"")
    with pytest.raises(StoreError, match=str(store.root)):
        use(store)


@pytest.mark.parametrize(
    "use", [lambda store: store.keys("commits"), lambda store: store.exists("plan"), LocalStore.sweep]
)
def test_a_folder_that_may_not_be_read(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, use: Callable[[LocalStore], object]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing(errno.EACCES))
        patch.setattr(os, "open", failing(errno.EACCES))
        with pytest.raises(StoreError, match="Check the permissions"):
            use(store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    store = LocalStore(small_disk / "out.zarr")
    with pytest.raises(StoreError, match=r"No space left on device\. Free some space and run the same command again"):
        store.put_new_bytes("key", b"x" * BIG)
    assert files(store) == []
    assert store.put_new_bytes("key", b"x" * 1000), "what fits is stored"


def test_a_read_only_disk(small_disk: Path) -> None:
    store = LocalStore(small_disk / "out.zarr")
    store.put_new_bytes("key", b"data")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="mounted read-only"):
        store.put_new_bytes("other", b"data")
    assert store.get("key") == b"data"


# --- listing and sweeping ---


def ended_process() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_only_dead_and_old_folders_are_swept(store: LocalStore) -> None:
    here, dead, long_ago = (
        new_name().split("-" + str(os.getpid()))[0],
        ended_process(),
        time.time() - STALE_SECONDS - 60,
    )
    assert here.startswith(f"{socket.gethostname()}.")
    some = "0a" * 16
    swept = [f"{here}-{dead}-{some}", f"elsewhere.1-1-{some}", f"{here}-{os.getpid()}-{some}"]
    old = [*swept[1:], "no scheme at all", f"{here}-99999999999999999999-{some}"]
    kept = [
        *old[2:],  # somebody else's: no process has such a number
        f"else-where.1-1-{some}",  # of another machine, and young
        f"{here}-{os.getpid()}-{'1b' * 16}",  # at work
        f"{socket.gethostname()}.1-{dead}-{some}",  # in another container of this machine
        f"{here}-{dead}",
        "something",
        f"elsewhere.2-1-{some}",  # made long ago, but its files still grow
    ]
    for name in swept + kept:
        folder = store.path(SCRATCH) / name / "video"
        folder.mkdir(parents=True)
        (folder / "flow.payload").write_bytes(b"data")
        if name in old or name == kept[-1]:
            for path in (folder / "flow.payload", folder, folder.parent):
                os.utime(path, (long_ago, long_ago))
    os.utime(store.path(SCRATCH) / kept[-1] / "video/flow.payload")
    store.sweep()
    assert sorted(path.name for path in store.path(SCRATCH).iterdir()) == sorted(kept)


def test_sweeping_where_nothing_was(store: LocalStore) -> None:
    store.sweep()
    assert not store.root.exists()
