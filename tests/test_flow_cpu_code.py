"""Machine code of the kernels: compiled once, kept, shared by processes, and done without where it cannot be kept.

What holds for any kernels is tested on two small ones, which compile in a moment, and by "make test-system" on TV-L1's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from flowprep.config import FlowConfig
from flowprep.flow.cpu.compiling import ensure_compiled
from flowprep.run.product import warm_flow
from flowprep.synthetic import write_demo_videos
from tests.command import COMMAND, flowprep

pytestmark = pytest.mark.timeout(400)  # most of them compile

# Prints a number that kernels have computed, and the process's CPU seconds.
PROGRAM = """
import sys
import time
import numpy as np
from flowprep import flow
from flowprep.flow.cpu.compiling import ensure_compiled, inline, kernel

@inline
def square(x):
    return x * x

@kernel
def energy(levels):
    total = 0.0
    for level in levels:
        total += square(level)
    return total

@kernel
def largest(levels):
    found = 0
    for level in levels:
        found = max(found, level)
    return found

frames = np.random.default_rng(0).integers(0, 256, (2, 48, 64), dtype=np.uint8)
if sys.argv[1] == "small":
    levels = frames.ravel()
    ensure_compiled("small", lambda: (energy(levels), largest(levels)))
    result = energy(levels) + largest(levels)
else:
    result = flow.get(sys.argv[1], "cpu").flow(frames).sum()
print(float(result), time.process_time())
"""

every_kernel = pytest.mark.parametrize("kernels", ["small", pytest.param("tvl1", marks=pytest.mark.system)])


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """One file for all processes: code is kept for a file as it is."""
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return path


def start(program: Path, kernels: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(program), kernels],
        env={**os.environ, "FLOWPREP_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[float, float, str]:
    """Number, CPU seconds, stderr."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    number, seconds = map(float, out.split())
    return number, seconds, err


def code(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.nb[ic]"))


# Kept and shared


@every_kernel
def test_processes_that_start_together_agree(program, tmp_path, kernels):
    first, second = (finish(process) for process in [start(program, kernels, tmp_path) for _ in range(2)])
    assert first[0] == second[0] and not first[2] and not second[2]
    assert code(tmp_path)


@every_kernel
def test_damaged_code_is_made_anew(program, tmp_path, kernels):
    expected = finish(start(program, kernels, tmp_path))[0]
    for i, path in enumerate(code(tmp_path)):
        path.write_bytes(path.read_bytes()[: 100 * (i % 3)])
    number, _, err = finish(start(program, kernels, tmp_path))
    assert number == expected and "damaged" in err
    number, _, err = finish(start(program, kernels, tmp_path))
    assert number == expected and not err


@every_kernel
def test_without_a_folder_it_works_and_says_so_once(program, kernels):
    number, _, err = finish(start(program, kernels, Path("/proc/flowprep")))
    assert err.count("cannot be kept") == 1 and "FLOWPREP_CACHE" in err
    assert number != 0


@every_kernel
def test_code_that_anybody_could_replace_is_not_loaded(program, tmp_path, kernels):
    finish(start(program, kernels, tmp_path))
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o777)
    for path in code(folder):
        path.write_bytes(b"")  # would be noticed if it were read
    _, _, err = finish(start(program, kernels, tmp_path))
    assert "can be written by" in err and "damaged" not in err


# As users meet it


class FirstRun(NamedTuple):
    """The first run on a machine: what compiled the kernels of TV-L1."""

    videos: Path
    cache: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> FirstRun:
    folder = tmp_path_factory.mktemp("first")
    videos, cache = folder / "videos", folder / "cache"
    write_demo_videos(videos, clips_per_class=1, frames=3, height=32, width=48)
    done = flowprep("extract", videos, folder / "out.zarr", "--workers", "2", env={"FLOWPREP_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr
    return FirstRun(videos, cache, done)


def test_extract_says_when_it_compiles(first, tmp_path):
    assert first.done.stderr.count("Compiling the kernels of tvl1") == 1
    command = "extract", first.videos, tmp_path / "again.zarr", "--workers", "2"
    again = flowprep(*command, env={"FLOWPREP_CACHE": str(first.cache)})
    assert again.returncode == 0 and "Compiling" not in again.stderr


@pytest.mark.system
def test_extract_says_that_kernels_cannot_be_kept(first, tmp_path):
    command = "extract", first.videos, tmp_path / "none.zarr", "--workers", "1"
    none = flowprep(*command, env={"FLOWPREP_CACHE": "/proc/flowprep"})
    assert none.returncode == 0 and none.stderr.count("cannot be kept") == 1


def test_a_later_process_starts_at_once(first, program):
    files = code(first.cache)
    assert files
    runs = [finish(start(program, "tvl1", first.cache)) for _ in range(3)]
    assert len({number for number, _, _ in runs}) == 1 and not any(err for _, _, err in runs)
    assert min(seconds for _, seconds, _ in runs) < 1.5  # compiling takes 8
    assert files == code(first.cache)  # nothing was compiled again


def test_doctor_warms(first, program, tmp_path):
    """While another process wants the same kernels."""
    cache = Path(shutil.copytree(first.cache, tmp_path / "cache"))
    next(cache.rglob("tvl1.compiled")).unlink()  # as if it had been stopped just before the end
    environment = {"FLOWPREP_CACHE": str(cache)}
    began = time.monotonic()
    doctor = subprocess.Popen(
        [*COMMAND, "doctor", "--warm"], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    other = start(program, "brox", cache)
    said = doctor.communicate(timeout=300)[0]
    assert doctor.returncode == 0 and said.count("ready") == 3
    kept = {path.stem for path in cache.rglob("*.compiled")}
    assert kept == {"tvl1", "brox", "quantise"}
    cold = time.monotonic() - began
    assert not finish(other)[2]
    began = time.monotonic()
    assert flowprep("doctor", "--warm", env=environment).returncode == 0
    assert time.monotonic() - began < cold / 2
    refused = flowprep("doctor", "--warm", env={"FLOWPREP_CACHE": "/proc/flowprep"})
    assert refused.returncode == 65 and "cannot be kept" in refused.stdout


@pytest.mark.parametrize(("name", "value"), [("NUMBA_OPT", "0"), ("NUMBA_OPT", "1"), ("NUMBA_DISABLE_JIT", "1")])
def test_a_compiler_that_is_switched_off_is_refused(tmp_path, name, value):
    """Its kernels would be wrong, or none."""
    done = flowprep("doctor", "--warm", env={"FLOWPREP_CACHE": str(tmp_path), name: value})
    assert done.returncode == 65
    assert done.stdout.count(name) == 3 and done.stdout.count("unset it") == 3


# Those for GPUs


def test_what_is_compiled_is_said_and_for_what(tmp_path):
    said = []
    for _ in range(2):
        ensure_compiled("tvl1-9.0", lambda: None, said.append, tmp_path, "the kernels of tvl1 for GPUs like that")
    assert said == ["Compiling the kernels of tvl1 for GPUs like that, about 10 seconds, once."]


def test_a_run_says_beforehand_what_the_processes_of_gpus_will_compile(tmp_path, monkeypatch):
    """Nobody hears those."""
    folders = [tmp_path]
    monkeypatch.setattr("flowprep.flow.cuda.device.SIMULATED", False)
    monkeypatch.setattr("flowprep.flow.cuda.device.code_folder", lambda: folders[-1])
    config, said = FlowConfig("tvl1", "cuda"), []
    warm_flow(config, said.append)
    assert said == ["The process of each GPU compiles the kernels of tvl1 first, about 10 seconds, once."]
    (tmp_path / "tvl1-9.0.compiled").touch()
    warm_flow(config, said.append)
    assert len(said) == 1
    warm_flow(FlowConfig("brox", "cuda"), said.append)
    folders.append("/proc/x: No such file or directory")
    warm_flow(config, said.append)
    assert "kernels of brox" in said[1] and said[2].endswith(
        "each time: they cannot be kept (/proc/x: No such file or directory)."
    )
