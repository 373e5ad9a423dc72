"""``flowprep stack`` and ``transcode`` as users run them: killed, continued, shared out, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import flowprep as package
from flowprep.errors import ExitCode
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import committed_shards
from flowprep.synthetic import write_demo_videos
from tests.command import MISBEHAVE, await_, flowprep, start, stored_files

SMALL = {**MISBEHAVE, "FLOWPREP_TEST_SHARD_SECONDS": "1e-6"}  # a shard for each video
STACK = ("--kind", "trajectory", "--length", "3", "--every", "1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve clips of 40 frames, 96x64 px."""
    folder = tmp_path_factory.mktemp("source")
    write_demo_videos(folder / "videos", clips_per_class=2, frames=40, height=64, width=96)
    done = flowprep(
        "extract", folder / "videos", folder / "flow.zarr", "--method", "dis", "--rgb-short-side", "32", "-q"
    )
    assert done.returncode == 0, done.stderr
    return folder / "flow.zarr"


@pytest.fixture(scope="module")
def clean(source: Path) -> Path:
    """Its stacks, made undisturbed."""
    done = flowprep("stack", source, source.with_name("clean.zarr"), *STACK, "-q", env=SMALL)
    assert done.returncode == 0 and "12  ok\n444 stacks, " in done.stdout, done.stderr
    return source.with_name("clean.zarr")


@pytest.mark.parametrize("moment", [pytest.param(1, marks=pytest.mark.system), 7])
def test_killed_it_goes_on_and_ends_with_the_same_bytes(source: Path, clean: Path, tmp_path: Path, moment: int) -> None:
    out = tmp_path / "out.zarr"
    store = LocalStore(out)
    process = start("stack", source, out, *STACK, "--workers", "1", env=SMALL)
    await_(lambda: len(committed_shards(store)) >= moment, "commits")
    process.kill()
    process.wait()
    done = flowprep("stack", source, out, *STACK, env=SMALL)
    assert done.returncode == 0 and "Continuing: " in done.stderr
    assert stored_files(out) == stored_files(clean)
    assert "complete, nothing to do" in flowprep("stack", source, out, *STACK).stdout


def test_told_to_stop_it_says_how_to_go_on(source: Path, clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    process = start("stack", source, out, *STACK, "--workers", "1", env=SMALL, log=tmp_path / "log")
    await_(lambda: committed_shards(LocalStore(out)), "a commit")
    process.terminate()
    assert process.wait(timeout=60) == ExitCode.UNFINISHED
    assert "run the same command to continue" in (tmp_path / "log").read_text()
    status = flowprep("status", out)
    assert status.returncode == ExitCode.UNFINISHED and "of 12 committed" in status.stdout
    assert flowprep("verify", out).returncode == ExitCode.UNFINISHED
    assert flowprep("stack", source, out, *STACK, env=SMALL).returncode == 0
    assert stored_files(out) == stored_files(clean)


def test_tasks_of_a_job_array_make_the_same(source: Path, clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    for task in ("1/2", "0/2"):
        done = flowprep("stack", source, out, *STACK, "--executor", "batch", "--task", task, "-q", env=SMALL)
        assert done.returncode == 0, done.stderr
    assert stored_files(out) == stored_files(clean)
    assert flowprep("verify", out, "--full").stdout.endswith("444 rows decoded: clean\n")


def test_what_is_new_in_the_source_is_taken_in_with_extend(source: Path, tmp_path: Path) -> None:
    grown = shutil.copytree(source, tmp_path / "flow.zarr")
    videos = source.with_name("videos")
    out = tmp_path / "small.zarr"
    assert flowprep("transcode", grown, out, "--codec", "htj2k", "-q").returncode == 0
    write_demo_videos(tmp_path / "more", clips_per_class=1, frames=12, height=64, width=96)
    shutil.copytree(videos, tmp_path / "videos")
    (tmp_path / "more/left/left_00.avi").rename(tmp_path / "videos/left/new.avi")
    more = flowprep(
        "extract", tmp_path / "videos", grown, "--method", "dis", "--rgb-short-side", "32", "--extend", "-q"
    )
    assert more.returncode == 0, more.stderr
    refused = flowprep("transcode", grown, out, "--codec", "htj2k")
    assert refused.returncode == ExitCode.REFUSED and "New or of another size: left/new.avi" in refused.stderr
    assert flowprep("transcode", grown, out, "--codec", "htj2k", "--extend", "-q").returncode == 0
    dataset = package.open(out)
    assert dataset.videos["left/new.avi"].fields == 11
    error = np.abs(dataset.flow("left/new.avi") - package.open(grown).flow("left/new.avi"))
    assert error.mean() < 0.05
    assert flowprep("verify", out, "--full").returncode == 0


def test_dry_run_says_what_it_would_make(source: Path, tmp_path: Path) -> None:
    said = flowprep("stack", source, tmp_path / "out.zarr", *STACK, "--dry-run").stdout
    assert "videos     12\nfields     468 to decode\n" in said
    assert "stacks     444, L=3 trajectory, means subtracted, one every 1 frames\n" in said
    assert said.endswith("Nothing was written.\n") and not (tmp_path / "out.zarr").exists()


def test_info_says_what_was_made_of_what(clean: Path, source: Path) -> None:
    said = flowprep("info", clean).stdout
    assert (
        "stacks       444 stacks, " in said and "stacks       L=3 trajectory, means subtracted, one every 1 fr" in said
    )
    assert "adds to the stacks" in said
    found = json.loads(flowprep("info", clean, "--json").stdout)
    assert found["settings"]["origins"] == [
        json.loads(flowprep("info", source, "--json").stdout)["settings"]["storage"]
    ]
    refused = flowprep("verify", clean, "--sources")
    assert refused.returncode == ExitCode.USAGE and f"made from the dataset {source}, not from videos" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stack"], "no dataset: name the one to read"),
        (["transcode", "nothing.zarr", "out.zarr"], "nothing.zarr does not exist"),
        (["stack", "SOURCE"], "no output: name the dataset to write"),
        (["stack", "SOURCE", "out.zarr", "--bidirectional", "--length", "5"], "give an even number"),
        (["stack", "SOURCE", "out.zarr", "--every", "2", "--per-video", "3"], "exclude each other"),
        (["transcode", "SOURCE", "out.zarr", "--codec", "htj2k", "--quality", "50"], "is for --codec jpeg"),
        (["stack", "SOURCE", "out.zarr", "--rgb"], "No such option"),
        (["stack", "SOURCE", "SOURCE"], "is the dataset to read, or in it: name another folder to write"),
    ],
)
def test_mistakes_get_one_clear_error(source: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    chosen = [str(source) if argument == "SOURCE" else argument for argument in arguments]
    failed = flowprep(*chosen, cwd=tmp_path)
    assert failed.returncode == ExitCode.USAGE and words in failed.stderr and "Traceback" not in failed.stderr
