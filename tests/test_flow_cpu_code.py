"""Machine code of the kernels: compiled once, kept, shared by processes, and done without where it cannot be kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowprep.synthetic import write_demo_videos
from tests.command import flowprep

pytestmark = pytest.mark.timeout(400)  # most of them compile

# Prints the sum of a field, and the seconds from the start of Python to it.
PROGRAM = """
import sys, time
began = time.perf_counter()
import numpy as np
from flowprep import flow
frames = np.random.default_rng(0).integers(0, 256, (2, 48, 64), dtype=np.uint8)
total = flow.get(sys.argv[1], "cpu").flow(frames).sum()
print(float(total), time.perf_counter() - began)
"""


def start(method: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, method],
        env={**os.environ, "FLOWPREP_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[float, float, str]:
    """Sum, seconds, stderr."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    total, seconds = map(float, out.split())
    return total, seconds, err


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    """A folder with the compiled kernels of TV-L1, made by two processes that started together."""
    cache = tmp_path_factory.mktemp("cache")
    first, second = (finish(process) for process in [start("tvl1", cache), start("tvl1", cache)])
    assert first[0] == second[0] and not first[2] and not second[2]
    return cache


def copied(warm: Path, folder: Path) -> Path:
    return Path(shutil.copytree(warm, folder / "cache"))


def test_a_later_process_starts_at_once(warm):
    files = sorted(path.name for path in warm.rglob("*.nb[ic]"))
    assert files
    runs = [finish(start("tvl1", warm)) for _ in range(3)]
    assert min(seconds for _, seconds, _ in runs) < 1.5  # compiling takes 8
    assert files == sorted(path.name for path in warm.rglob("*.nb[ic]"))  # nothing was compiled again


def test_damaged_code_is_made_anew(warm, tmp_path):
    cache = copied(warm, tmp_path)
    expected = finish(start("tvl1", cache))[0]
    for i, path in enumerate(sorted(cache.rglob("*.nb[ic]"))):
        path.write_bytes(path.read_bytes()[: 100 * (i % 3)])
    total, _, err = finish(start("tvl1", cache))
    assert total == expected and "damaged" in err
    total, _, err = finish(start("tvl1", cache))
    assert total == expected and not err


def test_without_a_folder_it_works_and_says_so_once():
    total, _, err = finish(start("tvl1", Path("/proc/flowprep")))
    assert err.count("cannot be kept") == 1 and "FLOWPREP_CACHE" in err
    assert total != 0


def test_code_that_anybody_could_replace_is_not_loaded(warm, tmp_path):
    cache = copied(warm, tmp_path)
    (folder,) = cache.iterdir()
    folder.chmod(0o777)
    for path in folder.rglob("*.nb[ic]"):
        path.write_bytes(b"")  # would be noticed if it were read
    _, _, err = finish(start("tvl1", cache))
    assert "can be written by" in err and "damaged" not in err


def test_extract_says_when_it_compiles(tmp_path):
    source = tmp_path / "videos"
    write_demo_videos(source, clips_per_class=1, frames=3, height=32, width=48)
    environment = {"FLOWPREP_CACHE": str(tmp_path / "cache")}
    first = flowprep("extract", source, tmp_path / "a.zarr", "--workers", "2", env=environment)
    assert first.returncode == 0 and first.stderr.count("Compiling the kernels of tvl1") == 1
    again = flowprep("extract", source, tmp_path / "b.zarr", "--workers", "2", env=environment)
    assert again.returncode == 0 and "Compiling" not in again.stderr
    none = flowprep("extract", source, tmp_path / "c.zarr", "--workers", "1", env={"FLOWPREP_CACHE": "/proc/flowprep"})
    assert none.returncode == 0 and none.stderr.count("cannot be kept") == 1


def test_doctor_warms(tmp_path):
    environment = {"FLOWPREP_CACHE": str(tmp_path)}
    began = time.monotonic()
    result = flowprep("doctor", "--warm", env=environment, timeout=300)
    assert result.returncode == 0 and result.stdout.count("ready") == 2
    assert {path.name for path in tmp_path.rglob("*.compiled")} == {"tvl1.compiled", "brox.compiled"}
    cold = time.monotonic() - began
    began = time.monotonic()
    assert flowprep("doctor", "--warm", env=environment).returncode == 0
    assert time.monotonic() - began < cold / 2
    refused = flowprep("doctor", "--warm", env={"FLOWPREP_CACHE": "/proc/flowprep"})
    assert refused.returncode == 65 and "cannot be kept" in refused.stdout
