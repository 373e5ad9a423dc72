"""Every process of a run computes with one thread: as many threads run as there are workers, and few more."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flowprep.synthetic import write_demo_videos
from tests.command import start

WORKERS = 2
BUDGET = WORKERS + 4  # the driver's own: its loop, the progress display, and two of the scheduler


def running(root: psutil.Process) -> tuple[int, int]:
    """Threads of ``root`` and all below it: those that run or could, and all."""
    states = []
    with suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            for stat in Path(f"/proc/{process.pid}/task").glob("*/stat"):
                with suppress(OSError):
                    states.append(stat.read_text().rpartition(")")[2].split()[0])
    return states.count("R"), len(states)


def counts(process: subprocess.Popen[bytes]) -> list[tuple[int, int]]:
    """:func:`running`, every hundredth of a second until the end of ``process``."""
    root = psutil.Process(process.pid)
    found = []
    while process.poll() is None:
        found.append(running(root))
        time.sleep(0.01)
    assert process.returncode == 0
    return found


def test_synthetic_videos(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    write_demo_videos(source, clips_per_class=2, frames=16, height=120, width=160)
    out = tmp_path / "out.zarr"
    found = counts(start("extract", source, out, "--method", "dis", "--workers", str(WORKERS)))
    assert len(found) > 50
    assert max(run for run, _ in found) <= BUDGET


@pytest.mark.system
@pytest.mark.timeout(900)
def test_real_videos(tmp_path: Path, data: Path, figure: Callable[[str, str], None]) -> None:
    source, out = data / "ucf10/videos", tmp_path / "out.zarr"
    method = ("--method", "dis", "--set", "dis.preset=medium", "--stride", "4")
    found = counts(start("extract", source, out, *method, "--workers", str(WORKERS)))
    run, threads = [run for run, _ in found], max(threads for _, threads in found)
    assert len(found) > 500
    assert max(run) <= BUDGET
    figure("R15", f"{max(run)} at most, {sum(run) / len(run):.1f} on average, of {threads} threads")


def test_threads_that_run_are_counted() -> None:
    """Three that compute without the interpreter's lock, and the one that waits for them."""
    code = """
import hashlib, threading
data = bytes(1 << 26)
def work():
    while True: hashlib.sha256(data)
for _ in range(3): threading.Thread(target=work, daemon=True).start()
threading.Event().wait(20)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        seen = set()
        deadline = time.monotonic() + 15
        while (3, 4) not in seen and time.monotonic() < deadline:
            seen.add(running(psutil.Process(process.pid)))
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert (3, 4) in seen, seen
