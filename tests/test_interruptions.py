"""Around a run: suspended jobs, disks that go away, locks that others hold, runs that overtake each other."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import flowprep as package
from flowprep import __version__
from flowprep.config import ExtractConfig, FlowConfig, RunConfig, SourceConfig
from flowprep.errors import RefusedError, StoreError
from flowprep.run import driver
from flowprep.run.workers import Workers, within
from flowprep.sandbox import Limits
from flowprep.shard import Work, extract_shard
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import committed_shards
from flowprep.synthetic import write_demo_videos
from tests.command import COMMAND, MISBEHAVE, await_, flowprep
from tests.in_process import plan_more, write_clips

METHOD = ("--method", "dis", "--set", "dis.preset=ultrafast", "--no-rgb")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    write_demo_videos(tmp_path / "videos", clips_per_class=1, frames=6, height=48, width=64)
    return tmp_path / "videos"


def begin(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env={**os.environ, **(env or {})}, stderr=subprocess.PIPE, text=True
    )


def test_a_late_driver_does_not_undo_a_newer_generation(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its last shard and its summary, another one extends the dataset and finishes."""
    out = tmp_path / "out.zarr"
    flow = FlowConfig("dis", "opencv", parameters={"preset": "ultrafast"})

    def extraction(*, extend: bool = False) -> driver.Extraction:
        config = ExtractConfig(SourceConfig(str(videos)), str(out), flow=flow, run=RunConfig(workers=1, extend=extend))
        return driver.Extraction(config, lambda _: None, quiet=True)

    honest = driver.Extraction._summary

    def overtaken(self: driver.Extraction, *arguments: Any) -> driver.Summary:
        monkeypatch.setattr(driver.Extraction, "_summary", honest)
        shutil.copy(videos / "left/left_00.avi", videos / "left/new.avi")
        assert extraction(extend=True).run().verdicts == {"ok": 7}
        return honest(self, *arguments)

    monkeypatch.setattr(driver.Extraction, "_summary", overtaken)
    assert extraction().run().verdicts == {"ok": 7}
    assert len(package.open(out).videos) == 7
    assert flowprep("verify", out).returncode == 0
    assert flowprep("status", out).returncode == 0


def test_videos_that_go_away_in_the_middle_of_a_shard_are_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, folder = tmp_path / "out.zarr", tmp_path / "videos"
    plan = plan_more(out, folder, write_clips(folder), per_shard=99)
    from flowprep import shard
    from tests.in_process import InProcess

    class Unmounted(InProcess):
        done = 0

        def extract(self, *arguments: Any) -> Any:
            if Unmounted.done == 2:
                folder.rename(tmp_path / "elsewhere")
            Unmounted.done += 1
            return super().extract(*arguments)

    monkeypatch.setattr(shard, "Sandbox", Unmounted)
    monkeypatch.setattr(shard, "_thread", threading.local())
    with pytest.raises(StoreError, match=f"{folder}: No such file"):
        extract_shard(Work(str(out), plan.generation, Limits()), 0)
    assert not committed_shards(LocalStore(out))


@pytest.mark.system
def test_a_suspended_job_is_not_a_silent_video(videos: Path, tmp_path: Path) -> None:
    """Longer than --stall-seconds, twice, the parent and its child together."""
    (tmp_path / "marks").mkdir()
    for path in sorted(videos.rglob("*.*"))[1:]:
        path.unlink()
    only = next(videos.rglob("*.*"))
    only.rename(only.with_name(f"slow{only.suffix}"))
    env = {**MISBEHAVE, "FLOWPREP_TEST_MARKS": str(tmp_path / "marks")}
    run = begin("extract", videos, tmp_path / "out.zarr", *METHOD, "--stall-seconds", "4", "--workers", "1", env=env)
    await_(lambda: list((tmp_path / "marks").iterdir()), "the slow video")
    for _ in range(2):
        family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
        for process in family:
            process.suspend()
        time.sleep(5)
        for process in family:
            process.resume()
        time.sleep(0.3)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors


def test_a_wait_for_another_planner_is_explained_and_ends_with_a_signal(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    with LocalStore(out).exclusive("plan"):
        run = begin("extract", videos, out, *METHOD)
        assert run.stderr is not None
        assert "Another process plans" in run.stderr.readline()
        run.terminate()
        assert run.wait(timeout=5) == 75
    run.communicate()


def test_a_signal_ends_a_dry_run(tmp_path: Path) -> None:
    """While the headers of many files are read."""
    for number in range(20_000):
        path = tmp_path / "videos" / f"{number % 100}" / f"{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no video")
    run = begin("extract", tmp_path / "videos", tmp_path / "out.zarr", *METHOD, "--dry-run")
    assert run.stderr is not None
    assert "Planning" in run.stderr.readline()
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=5)
    assert run.returncode == 75 and "Stopped while planning" in errors


def test_a_task_whose_videos_are_not_mounted_yet_is_tried_again(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    task = ("--executor", "batch", "--task", "0/1")
    assert flowprep("extract", videos, out, *METHOD).returncode == 0
    videos.rename(tmp_path / "elsewhere")
    done = flowprep("extract", videos, out, *METHOD, *task)
    assert done.returncode == 74 and "is its disk mounted?" in done.stderr
    assert flowprep("extract", videos, tmp_path / "new.zarr", *METHOD, *task).returncode == 2


def test_a_server_that_is_not_dasks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowprep.config import ClusterConfig
    from flowprep.errors import UnfinishedError
    from flowprep.run import dask

    monkeypatch.setattr(dask, "CONNECT_SECONDS", 3)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = ClusterConfig(scheduler=f"127.0.0.1:{server.server_port}")
        begun = time.monotonic()
        with (
            pytest.raises(UnfinishedError, match="No Dask scheduler answers"),
            dask.cluster_engine(Work(str(tmp_path), 0, Limits()), config, 0, gpu=False, say=print),
        ):
            pass
        assert time.monotonic() - begun < 20
        server.shutdown()


def test_waiting_for_what_never_comes() -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer"):
        within(0.3, lambda: time.sleep(60))
    assert time.monotonic() - begun < 5
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


class FakeClient:
    """Says what each worker has for flowprep.__version__, or the error that it meets there."""

    status = "running"

    def __init__(self, **versions: Any) -> None:
        self.versions = versions

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1
        return {"workers": {name: {"nthreads": 3, "resources": {"GPU": 1}} for name in self.versions}}

    def run(self, function: Any, argument: str, *, workers: list[str], on_error: str) -> dict[str, Any]:
        assert (function(argument), on_error) == (__version__, "return")  # nothing of ours is needed to understand it
        return {name: self.versions[name] for name in workers}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("0.0.1", "has flowprep 0.0.1"),
        (None, "has no flowprep"),
        (ImportError("cv2"), "has no flowprep that works .cv2"),
    ],
)
def test_a_worker_with_another_flowprep_or_none_is_refused(other: Any, words: str) -> None:
    client = FakeClient(a=__version__)
    workers = Workers(client, "tcp://x", 0, gpu=False, say=print)
    workers.look()
    assert workers.room() == 6
    client.versions["late"] = other
    with pytest.raises(RefusedError, match=f"worker at late {words}"):
        workers.look()


def test_room_is_twice_what_the_workers_have_or_are_allowed() -> None:
    client = FakeClient(a=__version__, b=__version__, gone=OSError("gone"))
    for most, gpu, room in ((0, False, 18), (4, False, 8), (0, True, 18)):
        workers = Workers(client, "tcp://x", most, gpu=gpu, say=print)
        workers.look()
        assert workers.room() == room


@pytest.mark.system
def test_a_worker_of_many_runs_keeps_one_child(videos: Path, tmp_path: Path) -> None:
    """Runs with other limits in turn, as on a long-lived worker."""
    script = (
        "import sys, psutil\nfrom flowprep.sandbox import Limits\nfrom flowprep.shard import Work, extract_shard\n"
        "for k in range(3):\n"
        "    extract_shard(Work(f'{sys.argv[1]}/{k}.zarr', 0, Limits(60, 2000 + k)), 0)\n"
        "print(len(psutil.Process().children()))\n"
    )
    for k in range(3):
        assert flowprep("extract", videos, tmp_path / f"{k}.zarr", *METHOD).returncode == 0
        for commit in (tmp_path / f"{k}.zarr/.flowprep/commits").iterdir():
            commit.unlink()
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr


def test_what_is_pending_goes_first_and_what_is_new_is_planned_after_it(videos: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out.zarr", []
    flow = FlowConfig("dis", "opencv", parameters={"preset": "ultrafast"})

    def extraction(*, extend: bool = False) -> driver.Extraction:
        config = ExtractConfig(SourceConfig(str(videos)), str(out), flow=flow, run=RunConfig(workers=1, extend=extend))
        return driver.Extraction(config, said.append, quiet=True)

    assert extraction().prepare() == (1, 1)
    shutil.copy(videos / "left/left_00.avi", videos / "left/new.avi")
    assert extraction(extend=True).prepare() == (1, 1)
    assert said[-1] == (
        "Of what was planned before, 6 videos still to do. 1 new or failed video will be planned by the same command "
        "after that."
    )
    assert extraction(extend=True).run().verdicts == {"ok": 7}
    assert extraction(extend=True).prepare() == (0, 2)
