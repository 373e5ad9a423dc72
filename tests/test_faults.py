"""What bad videos may do to the process that decodes them, and what must not follow from it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from flowprep.sandbox import Limits, Sandbox
from flowprep.synthetic import write_demo_videos
from tests.command import MISBEHAVE, flowprep, start, stored_files

DIS = ("--method", "dis", "--set", "dis.preset=ultrafast", "--no-rgb")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    write_demo_videos(folder, clips_per_class=2, frames=6, height=48, width=64)
    return folder


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    marks = tmp_path / "marks"
    marks.mkdir()
    return {**MISBEHAVE, "FLOWPREP_TEST_MARKS": str(marks)}


def poison(folder: Path, *names: str) -> None:
    """Copies of a good clip whose names make the child misbehave (tests/faults/sitecustomize.py)."""
    source = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    for name in names:
        (folder / f"{name}{source.suffix}").write_bytes(source.read_bytes())


def rows(dataset: Path) -> dict[str, dict]:
    found = {}
    for path in sorted((dataset / ".flowprep/commits").iterdir()):
        for row in json.loads(path.read_bytes())["rows"]:
            found[row["id"]] = row
    return found


def test_each_fault_gets_its_verdict_and_nobody_else_suffers(tmp_path: Path, clips: Path, env: dict[str, str]) -> None:
    poison(clips, "segv", "abort", "exit", "hang", "memory", "killed", "bug", "segv-once", "hang-once", "killed-once")
    out = tmp_path / "out.zarr"
    done = flowprep("extract", clips, out, *DIS, "--workers", "2", "--stall-seconds", "2", env=env)
    assert done.returncode == 65, done.stderr
    assert "Traceback" not in done.stderr
    found = {Path(id).stem: row for id, row in rows(out).items()}
    expected = {
        "segv": "crashed", "abort": "crashed", "exit": "crashed", "bug": "crashed",
        "hang": "timeout", "memory": "memory", "killed": "memory",
        "segv-once": "ok", "hang-once": "ok", "killed-once": "ok",
    }  # fmt: skip
    assert {name: found[name]["verdict"] for name in expected} == expected
    assert "SIGSEGV" in found["segv"]["reason"]
    assert "SIGABRT" in found["abort"]["reason"]
    assert "internal error" in found["bug"]["reason"]
    innocent = [row for name, row in found.items() if name not in expected]
    assert len(innocent) == 12
    assert all(row["verdict"] == "ok" for row in innocent)
    assert flowprep("verify", out, "--full").returncode == 0


def test_allowed_failures_make_the_exit_code_zero(tmp_path: Path, clips: Path, env: dict[str, str]) -> None:
    poison(clips, "segv")
    arguments = ("extract", clips, tmp_path / "out.zarr", *DIS)
    assert flowprep(*arguments, env=env).returncode == 65
    assert flowprep(*arguments, "--max-failed", "1", env=env).returncode == 0
    assert flowprep(*arguments, "--max-failed", "7%", env=env).returncode == 65  # 7% of 13 is less than one
    assert flowprep(*arguments, "--max-failed", "8%", env=env).returncode == 0


def test_failed_videos_are_tried_again_when_asked(tmp_path: Path, clips: Path, env: dict[str, str]) -> None:
    poison(clips, "segv", "abort")
    out = tmp_path / "out.zarr"
    assert flowprep("extract", clips, out, *DIS, env=env).returncode == 65
    before = stored_files(out)
    again = flowprep("extract", clips, out, *DIS)  # nothing misbehaves now, but nobody asked for another try
    assert again.returncode == 65
    assert "nothing to do" in again.stdout
    healed = flowprep("extract", clips, out, *DIS, "--retry-status", "crashed")
    assert healed.returncode == 0, healed.stderr
    assert {row["verdict"] for row in rows(out).values()} == {"ok"}
    data = {key for key in before if "/c/" in key and not key.startswith("videos")}
    assert all(stored_files(out)[key] == before[key] for key in data)  # what was stored stays as it was
    assert flowprep("verify", out, "--full").returncode == 0


def test_no_process_outlives_a_killed_driver(tmp_path: Path, clips: Path, env: dict[str, str]) -> None:
    poison(clips, "hang")
    driver = start("extract", clips, tmp_path / "out.zarr", *DIS, "--workers", "2", env=env)
    try:
        children: list[psutil.Process] = []
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not any((tmp_path / "marks").iterdir()):
            children = psutil.Process(driver.pid).children(recursive=True) or children
            time.sleep(0.05)
        assert children
    finally:
        driver.kill()
        driver.wait()
    _, alive = psutil.wait_procs(children, timeout=3)
    assert not alive


def test_a_child_that_is_killed_between_two_videos_is_replaced(clips: Path) -> None:
    """The next job is written to a pipe that nobody reads: noticed, and not mistaken for anything else."""
    video = clips / "left/left_00.avi"
    box = Sandbox(Limits())
    try:
        first = box.probe(video)
        assert first is not None
        for _ in range(2):
            assert box._process  # other tests of this process may have left children of their own
            child = psutil.Process(box._process.pid)
            child.kill()
            psutil.wait_procs([child], timeout=10)
            assert box.probe(video) == first
    finally:
        box.close()
