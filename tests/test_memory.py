"""Memory does not grow with the length of a video, and large frames stay within bounds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowprep.video import write_video

SCRIPT = """
import sys, tempfile
from pathlib import Path
from flowprep.config import FlowConfig, Settings, StorageConfig, VideoConfig
from flowprep.extract import Extractor
parameters = {"preset": sys.argv[4]} if sys.argv[4] else {}
settings = Settings(VideoConfig(), FlowConfig(sys.argv[2], sys.argv[3], "forward", parameters), StorageConfig(), "")
with tempfile.TemporaryDirectory() as folder:
    row = Extractor(settings).extract(Path(sys.argv[1]), "x", Path(folder), lambda _: None)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(row.verdict, row.flow.length, status["VmHWM"].split()[0])  # ru_maxrss is at least what the parent had
"""


def drifting(frames: int, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """A texture that moves by one pixel a frame, cheap to make at any length."""
    noise = np.random.default_rng(0).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    texture = noise.repeat(4, axis=0).repeat(4, axis=1)
    for t in range(frames):
        yield np.roll(texture, t, axis=1)


def peak_mib(path: Path, method: str, backend: str, preset: str = "") -> float:
    """Largest resident size in MiB of a process that extracts ``path`` and nothing else."""
    command = [sys.executable, "-c", SCRIPT, str(path), method, backend, preset]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    verdict, fields, kib = done.stdout.split()
    assert verdict == "ok"
    assert int(fields) > 0
    return int(kib) / 1024


@pytest.mark.system
@pytest.mark.timeout(120)
def test_four_minutes_take_no_more_memory_than_one(tmp_path: Path) -> None:
    peaks = []
    for minutes in (1, 4):
        path = tmp_path / f"{minutes}.mp4"
        options = {"preset": "ultrafast"}
        write_video(path, drifting(minutes * 60 * 25, 64, 96), options=options)
        peaks.append(peak_mib(path, "dis", "opencv", "ultrafast"))
    assert peaks[1] <= 1.1 * peaks[0], peaks


def test_full_hd_stays_under_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "hd.mp4"
    write_video(path, drifting(12, 1080, 1920), options={"preset": "ultrafast"})
    assert peak_mib(path, "dis", "opencv", "medium") < 1024


@pytest.mark.parametrize(("method", "mib"), [("tvl1", 1024), pytest.param("brox", 1280, marks=pytest.mark.system)])
def test_full_hd_on_the_cpu_engine(tmp_path: Path, method: str, mib: int) -> None:
    path = tmp_path / "hd.mp4"
    write_video(path, drifting(3, 1080, 1920), options={"preset": "ultrafast"})
    assert peak_mib(path, method, "cpu") < mib


@pytest.mark.system
@pytest.mark.timeout(900)
def test_full_hd_of_opencvs_tvl1_stays_under_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "hd.mp4"
    write_video(path, drifting(3, 1080, 1920), options={"preset": "ultrafast"})
    assert peak_mib(path, "tvl1", "opencv") < 1024
