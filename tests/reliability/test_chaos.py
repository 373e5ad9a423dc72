"""R1: workers and their children are killed all the time, some videos are poison, shards run twice: nothing is lost."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowprep.store.blobs import LocalStore
from flowprep.store.commits import read_commits
from flowprep.synthetic import write_demo_videos
from tests.command import MISBEHAVE, flowprep, start, stored_files
from tests.dask_rig import Cluster, kill_some

POISON = ("segv_0", "segv_1", "segv_2", "segv_3", "memory_0", "undecodable_0", "undecodable_1", "undecodable_2")
HANG = ("hang_0", "hang_1")  # their shards need four seconds without a kill: for the long form
METHOD = ("--method", "dis", "--set", "dis.preset=medium", "--short-side", "128", "--no-rgb")
RUN = (*METHOD, "--stall-seconds", "2", "--max-failed", str(len(POISON + HANG)))
MEAN = 1.5  # s between two kills


@dataclass(frozen=True)
class Bench:
    """What all runs of this module share."""

    videos: Path
    clean: Path  # dataset of an undisturbed run
    seconds: float  # that it took
    env: dict[str, str]


def write_videos(folder: Path, clips: int, poison: tuple[str, ...]) -> None:
    """``clips`` tiny clips, all of different lengths and motions in turn, and the poisoned ones."""
    masters = folder.parent / "masters"
    for frames in (8, 9, 11, 14):
        write_demo_videos(masters / str(frames), clips_per_class=1, frames=frames, height=48, width=64)
    ready = sorted(path for path in masters.rglob("*") if path.is_file())
    for number in range(clips):
        master = ready[number % len(ready)]
        (folder / f"class{number % 7}").mkdir(parents=True, exist_ok=True)
        shutil.copy(master, folder / f"class{number % 7}/clip{number:03d}{master.suffix}")
    for number, name in enumerate(poison):
        target = folder / f"class{number % 7}" / f"{name}.avi"
        if "undecodable" in name:
            target.write_bytes(b"no video at all " * 100)
        else:
            shutil.copy(next(path for path in ready if path.suffix == ".avi"), target)


def make_bench(folder: Path, clips: int, poison: tuple[str, ...]) -> Bench:
    """The videos and the dataset of an undisturbed run on a cluster of two workers."""
    env = {
        **MISBEHAVE,
        "FLOWPREP_TEST_MARKS": str(folder / "marks"),
        "FLOWPREP_TEST_SHARD_SECONDS": "0.4",
    }
    (folder / "marks").mkdir(parents=True)
    write_videos(folder / "videos", clips, poison)
    with Cluster(folder / "cluster", env=env) as cluster:
        begun = time.monotonic()
        run = flowprep(
            "extract", folder / "videos", folder / "clean.zarr", *RUN, "--scheduler-file", cluster.file, env=env
        )
        seconds = time.monotonic() - begun
    assert run.returncode == 0, run.stderr
    return Bench(folder / "videos", folder / "clean.zarr", seconds, env)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("chaos"), 60, POISON)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("soak"), 390, POISON + HANG)


def verdicts(dataset: Path) -> dict[str, str]:
    """Verdict of every video; an AssertionError for one that has two rows."""
    rows = [row for commit in read_commits(LocalStore(dataset)) for row in commit.rows]
    twice = [id for id, count in Counter(row.id for row in rows).items() if count > 1]
    assert not twice
    return {row.id: str(row.verdict) for row in rows}


def soak(bench: Bench, folder: Path, seed: int, mean: float) -> tuple[int, float]:
    """One run under kills, a third of its shards worked on by a batch task as well: kills, seconds."""
    out = folder / f"soak{seed}.zarr"
    chance = random.Random(seed)
    with Cluster(folder / f"cluster{seed}", env=bench.env) as cluster:
        begun = time.monotonic()
        log = folder / f"soak{seed}.log"
        run = start("extract", bench.videos, out, *RUN, "--scheduler-file", cluster.file, env=bench.env, log=log)
        while not list(out.glob(".flowprep/plan.0.json")):
            assert run.poll() is None
            time.sleep(0.05)
        double = start(
            "extract", bench.videos, out, *RUN, "--executor", "batch", "--task", "0/3", "--workers", "1", env=bench.env
        )
        kills = kill_some(cluster, run, chance, mean)
        seconds = time.monotonic() - begun
        assert run.wait() == 0, log.read_text()
        assert double.wait(timeout=120) == 0
    assert verdicts(out) == verdicts(bench.clean)  # none lost, none blamed
    assert stored_files(out) == stored_files(bench.clean)
    shutil.rmtree(out)
    return kills, seconds


def test_the_clean_run_blames_the_poison_alone(small: Bench) -> None:
    found = verdicts(small.clean)
    assert len(found) == 60 + len(POISON)
    blamed = {Path(id).stem: verdict for id, verdict in found.items() if verdict != "ok"}
    words = {"segv": "crashed", "memory": "memory", "undecodable": "undecodable"}
    assert blamed == {name: words[name.split("_")[0]] for name in POISON}


@pytest.mark.system  # test_kills.py kills a run on one machine again and again
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_when_workers_die(small: Bench, tmp_path: Path, seed: int) -> None:
    kills, _ = soak(small, tmp_path, seed, MEAN / 2)
    assert kills >= 3


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_soak(large: Bench, tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    assert sum(verdict == "timeout" for verdict in verdicts(large.clean).values()) == len(HANG)
    runs = [soak(large, tmp_path, seed, MEAN) for seed in range(5)]
    kills = sum(count for count, _ in runs)
    slowest = max(seconds for _, seconds in runs) / large.seconds
    assert kills >= 50
    assert slowest <= 5
    figure(
        "R1",
        f"{kills} kills in {len(runs)} runs: 0 videos lost, 0 duplicated, 0 innocent blamed, bytes equal; "
        f"at most {slowest:.1f} times the clean run",
    )
