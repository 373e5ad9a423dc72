"""R2, R3, R11: the driver, the scheduler or a worker ends, by kill -9 or by a signal, and the same command goes on."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from flowprep.store.blobs import LocalStore
from flowprep.store.commits import committed_shards
from flowprep.store.plans import read_plans
from tests.command import COMMAND, MISBEHAVE, await_, flowprep, stored_files
from tests.dask_rig import Cluster, write_work

METHOD = ("--method", "dis", "--set", "dis.preset=medium", "--no-rgb")
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
GRACE = 2.0  # s
DASK: tuple[str, ...] = ()
BATCH = ("--executor", "batch", "--task", "0/1")


@dataclass(frozen=True)
class Bench:
    videos: Path
    clean: Path
    env: dict[str, str]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Thirty clips of a fifth of a second of work each, two to a shard, and their dataset."""
    folder = tmp_path_factory.mktemp("ends")
    env = {**MISBEHAVE, "FLOWPREP_TEST_SHARD_SECONDS": "0.5"}
    write_work(folder / "videos")
    done = flowprep("extract", folder / "videos", folder / "clean.zarr", *METHOD, env=env)
    assert done.returncode == 0, done.stderr
    (plan,) = read_plans(LocalStore(folder / "clean.zarr"))
    assert len(plan.shards) >= 8
    return Bench(folder / "videos", folder / "clean.zarr", env)


@pytest.fixture
def cluster(bench: Bench, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", env={**bench.env, "FLOWPREP_TEST_LOG": str(tmp_path / "log")}) as cluster:
        yield cluster


def begin(bench: Bench, out: Path, *options: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "extract", str(bench.videos), str(out), *METHOD, *map(str, options)],
        env={**os.environ, **bench.env, **(env or {})},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def commits(out: Path) -> int:
    return len(committed_shards(LocalStore(out)))


def finish(bench: Bench, out: Path, *options: str | Path) -> None:
    """The same command again ends well, with the bytes of an undisturbed run, and leaves nothing behind."""
    done = flowprep("extract", bench.videos, out, *METHOD, *options, env=bench.env)
    assert done.returncode == 0, done.stderr
    assert stored_files(out) == stored_files(bench.clean)


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


# --- R2 ---


def kill_and_resume(bench: Bench, cluster: Cluster, out: Path, seed: int, kills: int) -> int:
    """Shards that were begun more often than once, after ``kills`` drivers were killed at random moments."""
    chance = random.Random(seed)
    shards = {
        video.id: k for k, item in enumerate(read_plans(LocalStore(bench.clean))[0].shards) for video in item.videos
    }
    for _ in range(kills):
        before = commits(out)
        run = begin(bench, out, "--scheduler-file", cluster.file)
        await_(lambda before=before: commits(out) > before, "a new commit")
        time.sleep(chance.uniform(0, 0.3))
        assert run.poll() is None
        run.kill()
        run.communicate()
    assert commits(out) < len(set(shards.values()))  # the last kill, too, came in time
    finish(bench, out, "--scheduler-file", cluster.file)
    log = (cluster.file.parent.parent / "log").read_text().split()
    begun = Counter(shards[id] for id, _ in Counter(log).items())
    again = Counter(shards[id] for id, count in Counter(log).items() if count > 1)
    assert len(begun) == len(set(shards.values()))
    return len(again)


@pytest.mark.timeout(200)
def test_the_driver_is_killed(bench: Bench, cluster: Cluster, tmp_path: Path) -> None:
    again = kill_and_resume(bench, cluster, tmp_path / "out.zarr", seed=1, kills=2)
    assert again <= 2 * 4


@pytest.mark.system
@pytest.mark.timeout(600)
def test_the_driver_is_killed_five_times(
    bench: Bench, cluster: Cluster, tmp_path: Path, figure: Callable[[str, str], None]
) -> None:
    again = kill_and_resume(bench, cluster, tmp_path / "out.zarr", seed=2, kills=5)
    assert again <= 5 * 4
    figure("R2", f"killed 5 times: bytes equal, {again} shards begun twice in all")


# --- R3 ---


@pytest.mark.timeout(200)
def test_the_scheduler_is_killed(bench: Bench, cluster: Cluster, tmp_path: Path) -> None:
    seconds = kill_scheduler(bench, cluster, tmp_path / "out.zarr")
    assert seconds <= 10


@pytest.mark.system
@pytest.mark.timeout(200)
def test_how_soon_the_loss_of_the_scheduler_is_noticed(
    bench: Bench, cluster: Cluster, tmp_path: Path, figure: Callable[[str, str], None]
) -> None:
    seconds = kill_scheduler(bench, cluster, tmp_path / "out.zarr")
    assert seconds <= 10
    figure("R3", f"exit 75 after {seconds:.1f} s")


def kill_scheduler(bench: Bench, cluster: Cluster, out: Path) -> float:
    """Seconds from the death of the scheduler to the end of the run, which says how far it came."""
    run = begin(bench, out, "--scheduler-file", cluster.file)
    await_(lambda: commits(out) >= 2, "two commits")
    cluster.scheduler.kill()
    begun = time.monotonic()
    _, errors = run.communicate(timeout=60)
    seconds = time.monotonic() - begun
    assert run.returncode == 75, errors
    assert re.search(r"scheduler is gone: \d+ of \d+ shards are committed; run the same command to continue", errors)
    assert "Traceback" not in errors
    finish(bench, out)
    return seconds


# --- R11 ---


def in_flight_ends(bench: Bench, out: Path, number: int, options: Sequence[str]) -> int:
    """Commits that followed the signal; nothing in flight was given up, and no process is left."""
    run = begin(bench, out, *options, "--workers", "2", "--grace", "30")
    await_(lambda: commits(out) >= 1, "a commit")
    before = commits(out)
    family = children(run)
    run.send_signal(number)
    run.send_signal(number)  # as a job manager does, to the job and through its script
    _, errors = run.communicate(timeout=40)
    assert run.returncode == 75
    after = commits(out) - before
    assert 1 <= after <= 2 + 1  # both in flight, or one that ended meanwhile; none was dropped
    assert not list((out / ".flowprep/tmp").iterdir())
    assert re.search(r"Stopped: \d+ of \d+ shards are committed; run the same command to continue", errors)
    await_(lambda: not any(child.is_running() for child in family), "the end of all children", 3)
    return after


def grace_ends(bench: Bench, out: Path, number: int, options: Sequence[str]) -> float:
    """Seconds from the signal to the end of a run whose work takes longer than its grace; nothing half-done is left."""
    slow = {"FLOWPREP_TEST_SHARD_SECONDS": "100"}  # all in a single shard
    run = begin(bench, out, *options, "--workers", "1", "--grace", str(GRACE), env=slow)
    await_(lambda: list(out.glob(".flowprep/tmp/*/video")), "work in progress")
    family = children(run)
    begun = time.monotonic()
    run.send_signal(number)
    run.communicate(timeout=30)
    seconds = time.monotonic() - begun
    assert run.returncode == 75
    assert GRACE <= seconds < GRACE + 2
    assert commits(out) == 0 and not list((out / ".flowprep/tmp").iterdir())
    await_(lambda: not any(child.is_running() for child in family), "the end of all children", 3)
    return seconds


def second_signal_ends(bench: Bench, out: Path, number: int) -> float:
    """Seconds from the second signal to the end of a run that has a minute of grace."""
    run = begin(bench, out, "--workers", "1", "--grace", "60", env={"FLOWPREP_TEST_SHARD_SECONDS": "100"})
    await_(lambda: list(out.glob(".flowprep/tmp/*/video")), "work in progress")
    family = children(run)
    run.send_signal(number)
    time.sleep(1.5)
    assert run.poll() is None
    begun = time.monotonic()
    run.send_signal(number)
    assert run.wait(timeout=2) == 75
    seconds = time.monotonic() - begun
    run.communicate()
    await_(lambda: not any(child.is_running() for child in family), "the end of all children", 3)
    return seconds


@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGTERM, BATCH), (signal.SIGUSR2, DASK)], ids=["batch", "dask"]
)
def test_a_signal_lets_what_is_in_flight_end(bench: Bench, tmp_path: Path, number: int, options: Sequence[str]) -> None:
    in_flight_ends(bench, tmp_path / "out.zarr", number, options)


@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGTERM, DASK), (signal.SIGUSR2, BATCH)], ids=["dask", "batch"]
)
def test_the_grace_is_bounded(bench: Bench, tmp_path: Path, number: int, options: Sequence[str]) -> None:
    grace_ends(bench, tmp_path / "out.zarr", number, options)


def test_a_second_signal_ends_it_at_once(bench: Bench, tmp_path: Path) -> None:
    second_signal_ends(bench, tmp_path / "out.zarr", signal.SIGTERM)


def worker_ends(bench: Bench, cluster: Cluster, out: Path) -> float:
    """Seconds from SIGTERM to the end of a worker and its children; its shards go to another, and no harm is done."""
    run = begin(bench, out, "--scheduler-file", cluster.file)
    await_(lambda: commits(out) >= 1, "a commit")
    worker = cluster.workers[0]
    family = psutil.Process(worker.pid).children(recursive=True)
    begun = time.monotonic()
    worker.terminate()
    assert worker.wait(timeout=30) is not None
    seconds = time.monotonic() - begun
    await_(lambda: not any(child.is_running() for child in family), "the end of all children", 3)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert stored_files(out) == stored_files(bench.clean)
    return seconds


@pytest.mark.system
@pytest.mark.timeout(200)
def test_a_worker_is_told_to_end(bench: Bench, cluster: Cluster, tmp_path: Path) -> None:
    worker_ends(bench, cluster, tmp_path / "out.zarr")


@pytest.mark.system
@pytest.mark.timeout(400)
def test_all_signals(bench: Bench, cluster: Cluster, tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    cases = [(number, options) for number in SIGNALS for options in (DASK, BATCH)]
    for k, (number, options) in enumerate(cases):
        in_flight_ends(bench, tmp_path / f"flight{k}.zarr", number, options)
    late = [grace_ends(bench, tmp_path / f"grace{k}.zarr", *case) - GRACE for k, case in enumerate(cases)]
    twice = [second_signal_ends(bench, tmp_path / f"twice{number}.zarr", number) for number in SIGNALS]
    worker = worker_ends(bench, cluster, tmp_path / "worker.zarr")
    figure(
        "R11",
        f"exit 75 at most {max(late):.1f} s after the grace; a second signal: {max(twice):.1f} s; "
        f"a worker: {worker:.1f} s; no process left",
    )
