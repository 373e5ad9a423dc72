"""Memory: bombs, leaks that add up, and a system that kills what takes too much."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from flowprep.config import ExtractConfig, FlowConfig, StorageConfig
from flowprep.errors import Verdict
from flowprep.run.product import resolve
from flowprep.sandbox import KILLS, Limits, Sandbox
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import read_commits, rows_in_force
from flowprep.synthetic import write_demo_videos
from flowprep.video import write_video
from tests.command import COMMAND
from tests.test_video_hostile import png_video

DIS = ("--method", "dis", "--set", "dis.preset=ultrafast", "--no-rgb", "--workers", "1")
CONFIG = ExtractConfig(
    flow=FlowConfig("dis", "opencv", "forward", {"preset": "ultrafast"}), storage=StorageConfig(rgb=False)
)

# --- bombs ---


def bomb_h264(path: Path) -> Path:
    """Ten grey frames of 41 million pixels each: some kilobytes that decode to 620 MB."""
    grey = np.full((6400, 6400, 3), 128, np.uint8)
    write_video(path, (grey for _ in range(10)), options={"preset": "ultrafast", "threads": "1"})
    return path


def refuse(path: Path, folder: Path) -> tuple[float, float]:
    """Seconds until ``path`` is refused, and the largest size in MB that its process had by then."""
    scratch = folder / "scratch"
    scratch.mkdir()
    harmless = next(iter(write_demo_videos(folder / "videos", clips_per_class=1, frames=4, height=48, width=64)))
    settings, box = resolve(CONFIG), Sandbox(Limits(60.0))
    try:
        before = {child.pid for child in psutil.Process().children()}
        box.extract(settings, folder / "videos" / harmless.id, "warm", scratch, lambda _: None)
        (child,) = {child.pid for child in psutil.Process().children()} - before
        started = time.monotonic()
        row = box.extract(settings, path, path.name, scratch, lambda _: None)
        seconds = time.monotonic() - started
        status = dict(line.split(":", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
    finally:
        box.close()
    assert row.verdict is Verdict.TOO_LARGE and row.attempt == 1, row
    assert "--max-pixels" in row.reason
    return seconds, int(status["VmHWM"].split()[0]) * 1024 / 1e6


def test_a_small_bomb(tmp_path: Path) -> None:
    seconds, megabytes = refuse(png_video(tmp_path / "bomb.avi", 9000, 9000, honest=False), tmp_path)
    assert seconds < 1 and megabytes < 300, (seconds, megabytes)


@pytest.mark.system
def test_a_bomb(tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    bomb = bomb_h264(tmp_path / "bomb.mp4")
    size = bomb.stat().st_size
    assert size < 620e6 / 2000
    seconds, megabytes = refuse(bomb, tmp_path)
    assert seconds < 1 and megabytes < 300, (seconds, megabytes)
    figure("R7a", f"{size / 1000:.0f} kB that decode to 620 MB: refused after {seconds:.2f} s, {megabytes:.0f} MB")


# --- many videos ---

SAMPLED = """
import sys
import psutil
from flowprep.cli import main
from flowprep.run.progress import Progress

honest, process, log = Progress.video, psutil.Process(), open(sys.argv.pop(1), "w")

def video(self, row):
    honest(self, row)
    print(sum(item.memory_info().rss for item in (process, *process.children())), file=log, flush=True)

Progress.video = video
main()
"""


def growth(folder: Path, videos: int, first: int) -> float:
    """By how much the memory of one worker and its child grows from video ``first`` to the last, as a share."""
    clips = folder / "clips"
    names = [video.id for video in write_demo_videos(clips, clips_per_class=1, frames=6, height=48, width=64)]
    source = folder / "videos"
    source.mkdir()
    for number in range(videos):
        clip = clips / names[number % len(names)]
        os.link(clip, source / f"{number:04d}{clip.suffix}")
    log = folder / "rss"
    command = [sys.executable, "-c", SAMPLED, str(log), "extract", str(source), str(folder / "out.zarr"), *DIS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sizes = np.loadtxt(log)
    assert len(sizes) == videos and sizes.min() > 50e6
    numbers = np.arange(first, videos)
    slope, start = np.polyfit(numbers - first, sizes[first:], 1)
    return float(slope * (videos - first) / start)


def test_a_hundred_and_fifty_videos_through_one_worker(tmp_path: Path) -> None:
    assert growth(tmp_path, 150, first=50) < 0.1


@pytest.mark.system
@pytest.mark.timeout(600)
def test_a_thousand_videos_through_one_worker(tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    grown = growth(tmp_path, 1000, first=100)
    assert grown < 0.1
    figure("R7b", f"{grown:+.1%} from video 100 to video 1,000")


# --- the system kills ---


@pytest.fixture
def group() -> Iterator[Callable[[int], Path]]:
    """A new control group whose processes may have so many bytes together, at each call."""
    made: list[Path] = []

    def make(size: int) -> Path:
        folder = Path(f"/sys/fs/cgroup/memory/flowprep-test-{os.getpid()}-{len(made)}")
        try:
            folder.mkdir()
            (folder / "memory.limit_in_bytes").write_text(str(size))
        except OSError as error:
            pytest.skip(f"no control group for memory (cgroup v1, as root) here: {error}")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        for pid in (folder / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while (folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        folder.rmdir()


@pytest.mark.system
def test_the_system_kills_a_greedy_video(
    tmp_path: Path, group: Callable[[int], Path], figure: Callable[[str, str], None]
) -> None:
    """Driver and child share 300 MiB; a video of 23 million pixels a frame wants more, below all limits of flowprep."""
    videos, out = tmp_path / "videos", tmp_path / "out.zarr"
    write_demo_videos(videos, clips_per_class=1, frames=6, height=48, width=64)
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = (np.roll(noise, 4 * t, axis=1) for t in range(3))
    write_video(videos / "greedy.mp4", frames, options={"preset": "ultrafast"})
    folder = group(300 * 2**20)
    join = f"import os; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); "
    started = time.monotonic()
    command = [COMMAND[0], "-c", join + COMMAND[2], "extract", str(videos), str(out), *DIS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    assert done.returncode == 65, done.stderr
    kills = dict(line.split() for line in (folder / "memory.oom_control").read_text().splitlines()).get("oom_kill")
    assert kills in (None, str(KILLS))  # Linux before 4.13 does not count them
    rows = rows_in_force(read_commits(LocalStore(out)))
    greedy = rows.pop("greedy.mp4")
    assert (greedy.verdict, greedy.attempt) == (Verdict.MEMORY, KILLS) and "killed" in greedy.reason
    assert len(rows) >= 6 and {row.verdict for row in rows.values()} == {Verdict.OK}
    figure("R7c", f"`memory` after {KILLS} kills by the system, the {len(rows)} others `ok`, {seconds:.0f} s in all")
