"""Any process may be killed at any moment; the same command finishes the work, and the bytes are the same."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from flowprep.synthetic import write_demo_videos
from tests.command import flowprep, start, stored_files

METHOD = ("--method", "dis", "--set", "dis.preset=medium", "--workers", "2")


def kill_workers(driver: psutil.Process, chance: random.Random, kills: int) -> int:
    """kill -9 a random child of ``driver`` at random moments until it ends or ``kills`` are done."""
    done = 0
    while done < kills and driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
        time.sleep(chance.expovariate(1 / 0.25))
        try:
            children = driver.children()
        except psutil.NoSuchProcess:
            break
        if children:
            chance.choice(children).kill()
            done += 1
    return done


def disturbed_run(source: Path, out: Path, *, worker_kills: int, driver_kills: int, seed: int) -> None:
    """Extract under kill -9 of workers and of the driver, then once more to the end."""
    chance = random.Random(seed)
    for _ in range(driver_kills):
        process = start("extract", source, out, *METHOD)
        kill_workers(psutil.Process(process.pid), chance, worker_kills // (driver_kills + 1))
        time.sleep(chance.uniform(0, 1.0))
        process.kill()
        process.wait()
    process = start("extract", source, out, *METHOD)
    kill_workers(psutil.Process(process.pid), chance, worker_kills // (driver_kills + 1))
    assert process.wait(timeout=600) == 0


@pytest.mark.timeout(200)
def test_killed_again_and_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    write_demo_videos(source, clips_per_class=6, frames=60, height=96, width=128)
    clean, disturbed = tmp_path / "clean.zarr", tmp_path / "disturbed.zarr"
    assert flowprep("extract", source, clean, *METHOD).returncode == 0
    disturbed_run(source, disturbed, worker_kills=12, driver_kills=3, seed=1)
    assert stored_files(disturbed) == stored_files(clean)
    assert flowprep("verify", disturbed, "--full").returncode == 0
    assert not list((disturbed / ".flowprep/tmp").iterdir())


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_real_videos_killed_twenty_times(tmp_path: Path, data: Path) -> None:
    source = data / "ucf10/videos"
    clean, disturbed = tmp_path / "clean.zarr", tmp_path / "disturbed.zarr"
    assert flowprep("extract", source, clean, *METHOD, timeout=900).returncode == 0
    disturbed_run(source, disturbed, worker_kills=20, driver_kills=4, seed=2)
    assert stored_files(disturbed) == stored_files(clean)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(tmp_path: Path, number: int) -> None:
    source, out = tmp_path / "videos", tmp_path / "out.zarr"
    write_demo_videos(source, clips_per_class=4, frames=60, height=120, width=160)
    process = start("extract", source, out, "--method", "tvl1", "--workers", "2")
    while not list(out.glob(".flowprep/tmp/*/video")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=15) == 75
    assert not list((out / ".flowprep/tmp").iterdir())  # nothing half-done is left
    assert not list((out / ".flowprep/commits").glob("*"))
