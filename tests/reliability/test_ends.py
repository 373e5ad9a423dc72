"""R2, R3, R11: the driver, the scheduler or a worker ends, by kill -9 or by a signal, and the same command goes on."""

from __future__ import annotations

import os
import random
import re
import shutil
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
from flowprep.synthetic import write_demo_videos
from tests.command import COMMAND, await_, flowprep, stored_files
from tests.dask_rig import Cluster

FAULTS = Path(__file__).parents[1] / "faults"
METHOD = ("--method", "dis", "--set", "dis.preset=medium", "--no-rgb")
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
GRACE = 2.0  # s


@dataclass(frozen=True)
class Bench:
    videos: Path
    clean: Path
    env: dict[str, str]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Thirty clips of a fifth of a second of work each, two to a shard, and their dataset."""
    folder = tmp_path_factory.mktemp("ends")
    env = {"PYTHONPATH": str(FAULTS), "FLOWPREP_TEST_SHARD_SECONDS": "0.5"}
    write_demo_videos(folder / "videos", clips_per_class=1, frames=40, height=120, width=160)
    for clip in sorted(folder.glob("videos/*/*")):
        for copy in range(1, 5):
            shutil.copy(clip, clip.with_name(f"{clip.stem}_{copy}{clip.suffix}"))
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


def strays(out: Path) -> list[int]:
    """Processes that still have to do with ``out``."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if str(out) in command and process.pid != os.getpid():
            found.append(process.pid)
    return found


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
        run = begin(bench, out, "--scheduler-file", cluster.file)
        time.sleep(2.0 + chance.uniform(0, 2.0))  # two seconds to begin with
        run.kill()
        run.communicate()
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
    figure("R2a", f"killed 5 times: bytes equal, {again} shards begun again in all")


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


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("options", [(), ("--executor", "batch", "--task", "0/1")], ids=["dask", "batch"])
def test_a_signal_lets_what_is_in_flight_end(bench: Bench, tmp_path: Path, number: int, options: Sequence[str]) -> None:
    out = tmp_path / "out.zarr"
    run = begin(bench, out, *options, "--workers", "2", "--grace", "30")
    await_(lambda: commits(out) >= 1, "a commit")
    before = commits(out)
    family = children(run)
    run.send_signal(number)
    run.send_signal(number)  # as a job manager does, to the job and through its script
    _, errors = run.communicate(timeout=40)
    assert run.returncode == 75
    assert before <= commits(out) <= before + 2 + 1  # both in flight, and one that ended meanwhile
    assert not list((out / ".flowprep/tmp").iterdir())  # nothing was given up
    assert re.search(r"Stopped: \d+ of \d+ shards are committed; run the same command to continue", errors)
    await_(lambda: not any(child.is_running() for child in family), "the end of all children", 3)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_grace_is_bounded(bench: Bench, tmp_path: Path, number: int) -> None:
    """Work that takes longer than the grace is given up; nothing half-done is left."""
    out = tmp_path / "out.zarr"
    slow = {"FLOWPREP_TEST_SHARD_SECONDS": "100"}  # all in a single shard
    run = begin(bench, out, "--workers", "1", "--grace", str(GRACE), env=slow)
    await_(lambda: list(out.glob(".flowprep/tmp/*/video")), "work in progress")
    begun = time.monotonic()
    run.send_signal(number)
    run.communicate(timeout=30)
    assert run.returncode == 75
    assert GRACE <= time.monotonic() - begun < GRACE + 2
    assert commits(out) == 0 and not list((out / ".flowprep/tmp").iterdir())


def test_a_second_signal_ends_it_at_once(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    run = begin(bench, out, "--workers", "1", "--grace", "60", env={"FLOWPREP_TEST_SHARD_SECONDS": "100"})
    await_(lambda: list(out.glob(".flowprep/tmp/*/video")), "work in progress")
    family = children(run)
    run.terminate()
    time.sleep(1.5)
    assert run.poll() is None
    run.terminate()
    assert run.wait(timeout=2) == 75
    run.communicate()
    await_(lambda: not any(child.is_running() for child in family), "the end of all children", 3)


@pytest.mark.timeout(200)
def test_a_worker_is_told_to_end(bench: Bench, cluster: Cluster, tmp_path: Path) -> None:
    """SIGTERM to a worker: it goes soon, its shards go to another, and the run ends as if nothing had been."""
    out = tmp_path / "out.zarr"
    run = begin(bench, out, "--scheduler-file", cluster.file)
    await_(lambda: commits(out) >= 1, "a commit")
    worker = cluster.workers[0]
    family = psutil.Process(worker.pid).children(recursive=True)
    worker.terminate()
    assert worker.wait(timeout=15) is not None
    await_(lambda: not any(child.is_running() for child in family), "the end of all children", 3)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert stored_files(out) == stored_files(bench.clean)
