"""Runs whose flow the process of a GPU computes: the same bytes as without, whatever is killed, and nothing is left.

There is no GPU: a backend that says that it computes on one (tests/faults/gpu_double.py) computes in that process.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flowprep.sandbox import KILLS
from flowprep.synthetic import write_demo_videos
from tests.command import MISBEHAVE, await_, flowprep, start, stored_files

METHOD = ("--method", "dis", "--backend", "gpu", "--set", "dis.preset=ultrafast")
ALONE = ("--executor", "batch", "--task", "0/1")  # without Dask, which takes a second to load


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_demo_videos(folder, clips_per_class=1, frames=40, height=48, width=64)
    for label in ("rotate", "widen", "zoom_in", "zoom_out"):
        shutil.rmtree(folder / label)
    write_demo_videos(folder / "more", clips_per_class=1, frames=18, height=40, width=56)
    return folder


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    for name in ("marks", "tmp"):
        (tmp_path / name).mkdir()
    return {
        **MISBEHAVE,
        "CUDA_VISIBLE_DEVICES": "3,GPU-abc",
        "FLOWPREP_TEST_GPU": str(tmp_path / "log"),
        "FLOWPREP_TEST_MARKS": str(tmp_path / "marks"),
        "FLOWPREP_TEST_SHARD_SECONDS": "0.001",
        "TMPDIR": str(tmp_path / "tmp"),
    }


@pytest.fixture(scope="module")
def expected(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset as it is without a GPU."""
    out = tmp_path_factory.mktemp("expected") / "out.zarr"
    env = {**MISBEHAVE, "FLOWPREP_TEST_GPU": "", "FLOWPREP_TEST_SHARD_SECONDS": "0.001"}
    done = flowprep("extract", videos, out, *METHOD, *ALONE, "--direction", "both", "--workers", "2", env=env)
    assert done.returncode == 0, done.stderr
    return stored_files(out)


def check_nothing_is_left(env: dict[str, str], shared: set[Path]) -> None:
    """No process of flowprep that has this environment, no file."""

    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TMPDIR") == env["TMPDIR"] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    await_(lambda: not left(), "the end of all processes", 10)
    assert {path.name for path in Path(env["TMPDIR"]).iterdir()} <= {"dask-scratch-space"}
    assert set(Path("/dev/shm").glob("*flowprep*")) <= shared


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        pytest.param("", (), marks=pytest.mark.system),
        ("killed once", ALONE),
        pytest.param("die once", (), marks=pytest.mark.system),
        pytest.param("hang once", ("--stall-seconds", "3"), marks=pytest.mark.system),
        pytest.param("slow", ("--stall-seconds", "1.5"), marks=pytest.mark.system),
    ],
)
def test_the_bytes_are_the_same(
    fault: str, options: tuple[str, ...], videos: Path, env: dict[str, str], tmp_path: Path, expected: dict[str, bytes]
) -> None:
    shared = set(Path("/dev/shm").glob("*flowprep*"))
    env["FLOWPREP_TEST_GPU_FAULT"] = fault
    out = tmp_path / "out.zarr"
    workers = "2" if options == ALONE else "3"
    more = ("--direction", "both", "--workers", workers, *options)
    done = flowprep("extract", videos, out, *METHOD, *more, env=env)
    assert done.returncode == 0, done.stderr
    assert options == ALONE or "on 3 workers" in done.stderr  # however many GPUs
    assert stored_files(out) == expected
    log = [line.split("\t") for line in (tmp_path / "log").read_text().splitlines()]
    assert {gpu for gpu, _, _ in log} == {"3", "GPU-abc"}
    assert bool("once" in fault) == bool(list((tmp_path / "marks").iterdir()))
    check_nothing_is_left(env, shared)


@pytest.mark.parametrize("fault", ["start", pytest.param("die", marks=pytest.mark.system)])
def test_a_gpu_that_does_not_work_ends_the_run(fault: str, videos: Path, env: dict[str, str], tmp_path: Path) -> None:
    env["FLOWPREP_TEST_GPU_FAULT"] = fault
    done = flowprep("extract", videos, tmp_path / "out.zarr", *METHOD, *ALONE, "--workers", "2", env=env)
    assert done.returncode == 65
    words = {"start": "CUDA_ERROR_NO_DEVICE", "die": "RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS"}[fault]
    (line,) = re.findall(r"^.*The process that computes flow on GPU .* fails again and again, .*$", done.stderr, re.M)
    assert words in line and line.endswith(
        f"(nvidia-smi). Continue {tmp_path / 'out.zarr'} where gpu works, or write another dataset with --backend cpu."
    )
    assert "on GPU 3 of" in line or "on GPU GPU-abc of" in line
    assert not list((tmp_path / "out.zarr/.flowprep/commits").glob("*"))


@pytest.mark.system
def test_a_video_that_crashes_or_hoards_is_the_only_one_blamed(
    videos: Path, env: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "videos"
    shutil.copytree(videos / "left", source / "left")
    for name in ("segv.avi", "greedy.avi", "killed-once.avi"):
        shutil.copy(source / "left/left_00.avi", source / "left" / name)
    done = flowprep(
        *("extract", source, tmp_path / "out.zarr", *METHOD, "--memory-limit", "1536", "--workers", "2"), env=env
    )
    assert done.returncode == 65, done.stderr
    assert re.findall(r"^ +(\d+)  (\w+)$", done.stdout, re.M) == [("2", "ok"), ("1", "crashed"), ("1", "memory")]
    assert "memory: left/greedy.avi: over the memory limit of its process (--memory-limit)" in done.stderr


@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.system), signal.SIGINT])
def test_whoever_ends_the_run_nothing_is_left(number: int, videos: Path, env: dict[str, str], tmp_path: Path) -> None:
    shared = set(Path("/dev/shm").glob("*flowprep*"))
    env["FLOWPREP_TEST_GPU_FAULT"] = "slow"
    run = start("extract", videos, tmp_path / "out.zarr", *METHOD, *ALONE, "--workers", "2", env=env)
    await_((tmp_path / "log").exists, "the first batch")
    run.send_signal(number)
    assert run.wait(15) == (75 if number == signal.SIGINT else -number)
    check_nothing_is_left(env, shared)


def kill_gpu_processes(run: subprocess.Popen[bytes], chance: random.Random) -> int:
    """kill -9 one of them, at random moments, until ``run`` ends; not as often as a video is blamed for. Returns how
    many kills that were."""
    kills = 0
    while run.poll() is None and kills < KILLS - 1:
        time.sleep(chance.expovariate(1 / 0.7))
        with suppress(psutil.Error):
            children = psutil.Process(run.pid).children()
            if there := [child for child in children if "flowprep.gpu.server" in child.cmdline()]:
                chance.choice(there).kill()
                kills += 1
    run.wait(200)
    return kills


@pytest.mark.system
@pytest.mark.timeout(300)
def test_killed_again_and_again_it_ends_with_the_same_bytes(env: dict[str, str], tmp_path: Path) -> None:
    """The processes of GPUs, at random; also so quickly that a run gives up, which the next one continues."""
    source, clean, disturbed = tmp_path / "videos", tmp_path / "clean.zarr", tmp_path / "disturbed.zarr"
    write_demo_videos(source, clips_per_class=3, frames=60, height=96, width=128)
    assert flowprep("extract", source, clean, *METHOD, env={**env, "FLOWPREP_TEST_GPU": ""}).returncode == 0
    chance = random.Random(3)
    kills = 0
    for _ in range(3):
        slow = {**env, "FLOWPREP_TEST_GPU_FAULT": "slow"}
        run = start("extract", source, disturbed, *METHOD, "--workers", "3", env=slow, log=tmp_path / "said")
        kills += kill_gpu_processes(run, chance)
        assert run.returncode in (0, 65), (tmp_path / "said").read_text()
    assert kills > 3
    assert flowprep("extract", source, disturbed, *METHOD, env=env).returncode == 0
    assert stored_files(disturbed) == stored_files(clean)
    check_nothing_is_left(env, set())


@pytest.mark.system
def test_backward_flow_for_stacks_is_computed_there_too(videos: Path, env: dict[str, str], tmp_path: Path) -> None:
    fields = tmp_path / "fields.zarr"
    assert flowprep("extract", videos / "left", fields, *METHOD, env=env).returncode == 0
    out = {}
    for gpu in (env["FLOWPREP_TEST_GPU"], ""):
        Path(env["FLOWPREP_TEST_GPU"]).unlink(missing_ok=True)
        path = tmp_path / f"stacks{len(out)}.zarr"
        done = flowprep(
            *("stack", fields, path, "--length", "4", "--bidirectional", "--every", "8"),
            env={**env, "FLOWPREP_TEST_GPU": gpu},
        )
        assert done.returncode == 0, done.stderr
        assert Path(env["FLOWPREP_TEST_GPU"]).exists() == bool(gpu)
        out[gpu] = stored_files(path)
    assert out[env["FLOWPREP_TEST_GPU"]] == out[""]
