"""Put-if-absent on a disk: one winner, whole files or none, and an error that says what to do when the disk fails."""

from __future__ import annotations

import errno
import multiprocessing
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
from flowprep.store.blobs import SCRATCH, STALE_SECONDS, LocalStore

RACES = 200
RACERS = 4
BIG = 1 << 20  # bytes: many pages, so that half a file could be seen if there were one


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


# --- one winner, whole files ---


def test_the_first_wins_and_the_second_changes_nothing(store: LocalStore) -> None:
    assert store.put_new("a/b/c", source(store, b"first"))
    assert not (store.root / "source").exists()
    assert not store.put_new("a/b/c", source(store, b"second"))
    assert (store.root / "source").read_bytes() == b"second"
    assert store.get("a/b/c") == b"first"
    assert not store.put_new_bytes("a/b/c", b"third")
    assert store.get("a/b/c") == b"first"
    assert files(store) == ["a/b/c", "source"], "no scratch folder stays"


def test_replacing_takes_the_place_in_one_step(store: LocalStore) -> None:
    for data in (b"one", b"two"):
        store.replace("x/zarr.json", source(store, data))
        assert store.get("x/zarr.json") == data
    assert files(store) == ["x/zarr.json"]


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


@pytest.mark.usefixtures("no_fsync")
def test_of_racing_processes_one_wins(store: LocalStore) -> None:
    processes = multiprocessing.get_context("fork")
    start, answers = processes.Barrier(RACERS), processes.Queue()

    def race(me: int) -> None:
        won = []
        for k in range(RACES):
            start.wait()
            if store.put_new_bytes(f"commits/{k}", b"%d" % me):
                won.append(k)
        answers.put((me, won))

    racers = [processes.Process(target=race, args=(me,)) for me in range(RACERS)]
    for racer in racers:
        racer.start()
    results = dict(answers.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    assert sorted(k for won in results.values() for k in won) == list(range(RACES))
    for me, won in results.items():
        assert all(store.get(f"commits/{k}") == b"%d" % me for k in won)
    assert sum(bool(won) for won in results.values()) > 1, "that was no race"


def test_one_process_at_a_time_is_inside_and_its_death_lets_the_next_in(store: LocalStore) -> None:
    processes = multiprocessing.get_context("fork")
    inside, answers = processes.Event(), processes.Queue()

    def hold() -> None:
        with store.exclusive("0.00001"):
            inside.set()
            time.sleep(60)

    def follow() -> None:
        with store.exclusive("0.00002"):
            answers.put("another name")
        with store.exclusive("0.00001"):
            answers.put("the same name")

    holder, follower = processes.Process(target=hold), processes.Process(target=follow)
    holder.start()
    assert inside.wait(30)
    follower.start()
    assert answers.get(timeout=30) == "another name"
    time.sleep(0.1)
    assert answers.empty()
    holder.kill()
    assert answers.get(timeout=30) == "the same name"
    for process in (holder, follower):
        process.join()


@pytest.mark.usefixtures("no_fsync")
@pytest.mark.parametrize("way", ["put_new", "replace"])
def test_no_reader_sees_half_a_file(store: LocalStore, way: str) -> None:
    done = threading.Event()

    def write() -> None:
        for k in range(60):
            path = source(store, bytes([k]) * BIG)
            if way == "replace":
                store.replace("key", path)
            else:
                store.put_new(f"key{k}", path)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        for key in store.keys("."):
            if "key" in key:
                data = store.get(key)
                assert data == data[:1] * BIG
                seen.add(data[0])
    writer.join()
    assert len(seen) > 1


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


def test_a_link_whose_answer_was_lost_counts(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over NFS the link may be made although the call says that the name is taken."""
    monkeypatch.setattr(os, "link", failing(errno.EEXIST, after=os.link))
    assert store.put_new_bytes("key", b"data")
    assert store.get("key") == b"data"


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
        patch.setattr(Path, "stat", failing(errno.EACCES))
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


def test_keys_are_the_files_of_one_folder_sorted(store: LocalStore) -> None:
    for key in ("c/2", "c/10", "c/1", "c/sub/3", "d/4"):
        store.put_new_bytes(key, b"")
    assert store.keys("c") == ["c/1", "c/10", "c/2"]
    assert store.keys("nothing") == []
    assert store.exists("c/2") and not store.exists("c/sub") and not store.exists("c/9")


def ended_process() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_only_dead_and_old_folders_are_swept(store: LocalStore) -> None:
    here, dead, long_ago = socket.gethostname(), ended_process(), time.time() - STALE_SECONDS - 60
    swept = [f"{here}-{dead}-0a", "elsewhere-1-0b", f"{here}-{os.getpid()}-0c", "no scheme at all"]
    old = swept[1:]
    kept = [
        "else-where-1-1a",  # of another machine, and young
        f"{here}-{os.getpid()}-1b",  # at work
        f"{here}-99999999999999999999-1c",  # no process has such a number
        f"{here}-{dead}",
        "something",
        "elsewhere-2-1d",  # made long ago, but its files still grow
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


def test_a_scratch_folder_goes_whatever_happens(store: LocalStore) -> None:
    def work() -> None:
        with store.scratch() as folder:
            (folder / "deep").mkdir()
            (folder / "deep/file").write_bytes(b"data")
            store.sweep()
            assert (folder / "deep/file").exists(), "its own process is alive"
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert files(store) == []
