"""What every ``flowprep.store.blobs.BlobStore`` promises: subclass :class:`BlobContract` with a fixture ``store``.

The store must be usable from forked processes and from threads.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from flowprep.errors import StoreError
from flowprep.store.blobs import BlobStore

RACERS = 4
BIG = 1 << 20  # bytes: many pages, so that half a blob could be seen if there were one
DEADLINE = 60.0  # s for what takes milliseconds on a machine with nothing else to do

processes = multiprocessing.get_context("fork")


def race(store: BlobStore, folder: str, rounds: int) -> None:
    """RACERS processes put each of ``rounds`` keys at once; each key has one winner and holds its bytes."""
    start, answers = processes.Barrier(RACERS), processes.Queue()

    def run(me: int) -> None:
        won = []
        try:
            for k in range(rounds):
                start.wait(DEADLINE)
                if store.put_new_bytes(f"{folder}/{k:03d}", b"%d" % me):
                    won.append(k)
        except StoreError:
            start.abort()  # or the others would wait for this one
            raise
        finally:
            answers.put((me, won))

    racers = [processes.Process(target=run, args=(me,)) for me in range(RACERS)]
    for racer in racers:
        racer.start()
    results = dict(answers.get(timeout=DEADLINE) for _ in racers)
    for racer in racers:
        racer.join()
    assert sorted(k for won in results.values() for k in won) == list(range(rounds)), "one winner of each"
    for me, won in results.items():
        assert all(store.get(f"{folder}/{k:03d}") == b"%d" % me for k in won)
    assert sum(bool(won) for won in results.values()) > 1, "that was no race"


class BlobContract:
    """The tests. A subclass has a fixture ``store`` that gives an empty store."""

    @staticmethod
    def put(store: BlobStore, key: str, data: bytes, *, replace: bool = False) -> bool:
        """Put a file, from a scratch folder; whether it is there now. The source is gone if and only if it is."""
        with store.scratch() as folder:
            source = folder / "source"
            source.write_bytes(data)
            if replace:
                store.replace(key, source)
            done = replace or store.put_new(key, source)
            assert os.access(source, os.F_OK) != done
            assert done or source.read_bytes() == data
        return done

    def test_the_first_wins_and_the_second_changes_nothing(self, store: BlobStore) -> None:
        assert self.put(store, "a/b/c", b"first")
        assert not self.put(store, "a/b/c", b"the second")
        assert not store.put_new_bytes("a/b/c", b"third")
        assert store.get("a/b/c") == b"first" and store.size("a/b/c") == 5 and store.exists("a/b/c")
        assert store.put_new_bytes("a/b/d", b"another key")

    @pytest.mark.parametrize("data", [b"", b"x", b"\0\xff\r\n" * (BIG // 4)], ids=["none", "one byte", "a megabyte"])
    def test_bytes_come_back_as_they_were(self, store: BlobStore, data: bytes) -> None:
        assert store.put_new_bytes("some/key", data)
        assert store.get("some/key") == data and store.size("some/key") == len(data)

    def test_what_is_not_there(self, store: BlobStore) -> None:
        store.put_new_bytes("folder/key", b"")
        for key in ("missing", "folder", "folder/missing", "folder/key/below"):
            assert not store.exists(key)
            with pytest.raises(StoreError):
                store.get(key)
        assert store.size("missing") == -1
        assert store.keys("missing") == []

    def test_keys_are_the_blobs_of_one_folder_sorted(self, store: BlobStore) -> None:
        for key in ("c/2", "c/10", "c/1", "c/sub/3", "d/4"):
            store.put_new_bytes(key, b"")
        assert store.keys("c") == ["c/1", "c/10", "c/2"]

    def test_messages_can_name_a_key(self, store: BlobStore) -> None:
        assert store.address("a/b").endswith("a/b") and store.address("a/b") != store.address("a/c")
        with pytest.raises(StoreError, match="a/b"):
            store.get("a/b")

    def test_replacing_takes_the_place(self, store: BlobStore) -> None:
        for data in (b"one", b"two, longer", b"3"):
            assert self.put(store, "x/zarr.json", data, replace=True)
            assert store.get("x/zarr.json") == data
        assert store.keys("x") == ["x/zarr.json"]

    @pytest.mark.parametrize("replace", [False, True], ids=["put_new", "replace"])
    def test_no_reader_gets_half_a_blob(self, store: BlobStore, replace: bool) -> None:
        done = threading.Event()

        def write() -> None:
            try:
                for k in range(20):
                    self.put(store, "r/key" if replace else f"r/key{k}", bytes([k]) * BIG, replace=replace)
            finally:
                done.set()

        writer = threading.Thread(target=write)
        writer.start()
        seen = set()
        while not done.is_set():
            for key in store.keys("r"):
                data = store.get(key)
                assert data == data[:1] * BIG
                seen.add(data[0])
        writer.join()
        assert len(seen) > 1

    def test_of_racing_processes_one_wins(self, store: BlobStore) -> None:
        race(store, "commits", rounds=25)

    @pytest.mark.system
    def test_of_racing_processes_one_wins_200_times(self, store: BlobStore) -> None:
        race(store, "commits", rounds=200)

    def test_one_process_at_a_time_is_inside_and_its_death_lets_the_next_in(self, store: BlobStore) -> None:
        inside, answers = processes.Event(), processes.Queue()

        def hold() -> None:
            with store.exclusive("0.00001"):
                inside.set()
                time.sleep(DEADLINE)

        def follow() -> None:
            with store.exclusive("0.00002"):
                answers.put("another name")
            with store.exclusive("0.00001"):
                answers.put("the same name")

        holder, follower = processes.Process(target=hold), processes.Process(target=follow)
        holder.start()
        assert inside.wait(DEADLINE)
        follower.start()
        assert answers.get(timeout=DEADLINE) == "another name"
        time.sleep(0.1)
        assert answers.empty()
        holder.kill()
        assert answers.get(timeout=DEADLINE) == "the same name"
        for process in (holder, follower):
            process.join()

    def test_a_scratch_folder_is_new_and_goes_whatever_happens(self, store: BlobStore) -> None:
        def work() -> None:
            with store.scratch() as folder, store.scratch() as other:
                assert folder != other and not any(folder.iterdir())
                made.extend([folder, other])
                (folder / "deep").mkdir()
                (folder / "deep/file").write_bytes(b"data")
                store.sweep()
                assert os.access(folder / "deep/file", os.F_OK), "its maker is alive"
                raise KeyError

        made: list[Path] = []
        with pytest.raises(KeyError):
            work()
        assert len(made) == 2 and not any(os.access(folder, os.F_OK) for folder in made)

    def test_what_the_dead_leave_is_swept(self, store: BlobStore) -> None:
        made = processes.Queue()

        def work() -> None:
            with store.scratch() as folder:
                (folder / "file").write_bytes(b"data")
                made.put(folder)
                time.sleep(DEADLINE)

        process = processes.Process(target=work)
        process.start()
        folder = made.get(timeout=DEADLINE)
        store.sweep()
        assert os.access(folder / "file", os.F_OK)
        process.kill()
        process.join()
        store.sweep()
        assert not os.access(folder, os.F_OK)
        store.sweep()  # where nothing is left
