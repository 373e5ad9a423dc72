"""``flowprep extract`` from end to end, as users run it, on small rendered clips whose motion is known."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flowprep as package
from flowprep.config import StorageConfig, VideoConfig
from flowprep.errors import UsageError
from flowprep.flow import get
from flowprep.flow.metrics import mean_epe
from flowprep.synthetic import DemoVideo, Motion, render, write_demo_videos
from flowprep.video import VideoReader, write_video
from tests.command import COMMAND, flowprep, start, stored_files

ULTRAFAST = ("--method", "dis", "--set", "dis.preset=ultrafast")
QUICK = (*ULTRAFAST, "--workers", "1")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DemoVideo]]:
    folder = tmp_path_factory.mktemp("clips") / "videos"
    return folder, write_demo_videos(folder, clips_per_class=2, frames=8, height=64, width=80)


@pytest.fixture(scope="module")
def extracted(clips: tuple[Path, list[DemoVideo]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extracted") / "out.zarr"
    done = flowprep("extract", clips[0], out, "--method", "dis", "--direction", "both")
    assert done.returncode == 0, done.stderr
    return out


def computed(path: Path, video: VideoConfig | None = None) -> np.ndarray:
    """Flow of a file, computed here and now."""
    reader = VideoReader(path, video or VideoConfig(), StorageConfig(rgb=False))
    grey = np.concatenate([block.grey for block in reader.blocks()])
    return get("dis", "opencv", preset="medium").flow(grey)


def test_stored_flow_is_the_computed_flow_and_the_true_motion(
    clips: tuple[Path, list[DemoVideo]], extracted: Path
) -> None:
    folder, videos = clips
    dataset = package.open(extracted)
    assert [row.status for row in dataset.videos] == ["ok"] * len(videos)
    for video in videos:
        stored, truth = dataset.flow(video.id), video.clip()
        assert stored.shape == (7, 2, 64, 80)
        assert stored.dtype == np.float32
        assert mean_epe(stored, computed(folder / video.id)) < 0.03
        assert mean_epe(stored, truth.flow) < 0.35  # DIS on small clips that went through a video codec
        assert mean_epe(dataset.flow(video.id, direction="backward"), truth.backward) < 0.35
        assert mean_epe(stored, truth.backward) > 1.0  # the two directions are not the same thing
        assert dataset.frames(video.id).shape == (8, 3, 256, 320)
        assert dataset.videos[video.id].label == video.label


def test_running_it_again_does_nothing_and_quickly(clips: tuple[Path, list[DemoVideo]], extracted: Path) -> None:
    before = stored_files(extracted)
    started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    again = flowprep("extract", clips[0], extracted, "--method", "dis", "--direction", "both")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started < 3  # s of CPU
    assert stored_files(extracted) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--set", "dis.patch_stride=2"), "flow.parameters.patch_stride: 3 -> 2"),
        (("--quality", "80"), "storage.quality: 92 -> 80"),
        (("--stride", "2"), "video.stride: 1 -> 2"),
        (("--no-rgb",), "storage.rgb: True -> False"),
        (("--direction", "forward"), "flow.direction: both -> forward"),
    ],
)
def test_a_changed_setting_is_refused_naming_both(
    clips: tuple[Path, list[DemoVideo]], extracted: Path, options: tuple[str, ...], named: str
) -> None:
    base = ["--method", "dis"] + (["--direction", "both"] if "--direction" not in options else [])
    refused = flowprep("extract", clips[0], extracted, *base, *options)
    assert refused.returncode == 65
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_grown_source_is_refused_and_then_taken_in(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    source = tmp_path / "videos"
    shutil.copytree(clips[0], source)
    late = sorted(path for path in source.rglob("*") if path.is_file())[::5]
    for path in late:
        path.rename(tmp_path / path.name)
    out, whole = tmp_path / "out.zarr", tmp_path / "whole.zarr"
    assert flowprep("extract", source, out, *QUICK).returncode == 0
    for path in late:
        (tmp_path / path.name).rename(path)
    refused = flowprep("extract", source, out, *QUICK)
    assert refused.returncode == 65
    assert late[0].name in refused.stderr
    assert "--extend" in refused.stderr
    assert flowprep("extract", source, out, *QUICK, "--extend").returncode == 0
    assert flowprep("extract", source, whole, *QUICK).returncode == 0
    infos = [json.loads(flowprep("info", path, "--json").stdout) for path in (out, whole)]
    assert infos[0]["content_fingerprint"] == infos[1]["content_fingerprint"]
    assert infos[0]["fields"] == infos[1]["fields"] == 12 * 7
    assert flowprep("verify", out, "--full").returncode == 0
    late[0].unlink()
    assert "No longer in the source" in flowprep("extract", source, out, *QUICK).stderr


def test_the_number_of_workers_changes_no_byte(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    outs = [tmp_path / f"{workers}.zarr" for workers in (1, 3)]
    for out in outs:
        assert flowprep("extract", clips[0], out, *ULTRAFAST, "--workers", out.stem).returncode == 0
    assert stored_files(outs[0]) == stored_files(outs[1])


def test_resize_stride_and_fixed_range(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    folder, videos = clips
    out = tmp_path / "out.zarr"
    options = (
        "--resize",
        "64x48",
        "--stride",
        "2",
        "--range",
        "fixed",
        "--bound",
        "8",
        "--rounding",
        "round",
        "--no-rgb",
    )
    assert flowprep("extract", folder, out, "--method", "dis", *options).returncode == 0
    dataset = package.open(out)
    stored = dataset.flow(videos[0].id)
    assert stored.shape == (3, 2, 48, 64)
    assert mean_epe(stored, computed(folder / videos[0].id, VideoConfig(resize="64x48", stride=2))) < 0.06
    array = dataset.videos[0].row.flow.array
    import zarr

    assert np.unique(zarr.open(out, mode="r")[f"{array}_zero"][:3]) == 127.5
    with pytest.raises(UsageError, match="--no-rgb"):
        dataset.frames(0)


def test_a_list_with_labels_and_splits(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    folder, videos = clips
    lines = [
        "path,label,split",
        *(f"{video.id},class {k % 2},{'train' if k % 3 else 'test'}" for k, video in enumerate(videos)),
    ]
    listing = tmp_path / "list.csv"
    listing.write_text("\r\n".join([*lines, "gone.mp4,x,test", "../out.mp4,x,test"]) + "\r\n")
    out = tmp_path / "out.zarr"
    done = flowprep("extract", listing, out, "--root", folder, *QUICK, "--no-rgb", "--max-failed", "2")
    assert done.returncode == 0, done.stderr
    dataset = package.open(out)
    status = {row.id: row.status for row in dataset.videos}
    assert status["gone.mp4"] == "missing"
    assert sorted(status.values()).count("bad_path") == 1
    assert dataset.videos[videos[1].id].label == "class 1"
    assert dataset.videos[videos[0].id].splits == ("test", "", "")


def test_a_dry_run_writes_nothing(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    planned = flowprep("extract", clips[0], out, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    for word in ("videos", "frames", "bytes", "time"):
        assert word in planned.stdout
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere", "out.zarr"], 2, ["nowhere"]),
        ([], 2, ["source"]),
        (["."], 2, ["output"]),
        ([".", "out.zarr"], 2, ["no video"]),
        ([".", "out.zarr", "--methd", "dis"], 2, ["--method"]),
        ([".", "out.zarr", "--method", "tvl2"], 2, ["tvl1"]),
        ([".", "out.zarr", "--method", "brox", "--backend", "opencv"], 2, ["backend", "cpu"]),
        ([".", "out.zarr", "--set", "tvl1.warp=3"], 2, ["warps"]),
        ([".", "out.zarr", "--resize", "10"], 2, ["340x256"]),
        ([".", "out.zarr", "--workers", "-1"], 2, ["--workers"]),
        (["-c", "nowhere.yaml"], 2, ["nowhere.yaml"]),
    ],
)
def test_a_mistake_gets_one_clear_message(tmp_path: Path, arguments: list[str], code: int, words: list[str]) -> None:
    (tmp_path / "notes.txt").touch()
    done = flowprep("extract", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word.lower() in done.stderr.lower() for word in words), done.stderr
    assert not (tmp_path / "out.zarr").exists()


def test_a_folder_of_something_else_is_not_written_into(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    refused = flowprep("extract", clips[0], tmp_path, *QUICK)
    assert refused.returncode == 65
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_moved_source_and_a_repaired_one(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    source, moved, out = tmp_path / "videos", tmp_path / "elsewhere", tmp_path / "out.zarr"
    shutil.copytree(clips[0], source)
    broken = source / clips[1][0].id
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    assert flowprep("extract", source, out, *QUICK).returncode == 65
    for path in (out / ".flowprep/commits").iterdir():
        path.unlink()  # as if the run had been killed before its first commit
    source.rename(moved)
    assert flowprep("extract", moved, out, *QUICK).returncode == 65
    assert flowprep("info", out, "--failed").stdout.startswith(f"undecodable\t{clips[1][0].id}")
    (moved / clips[1][0].id).write_bytes(whole)
    assert flowprep("extract", moved, out, *QUICK, "--retry-status", "undecodable").returncode == 0
    assert flowprep("verify", out, "--full").returncode == 0


def test_new_labels_are_refused_and_then_taken_over_without_work(
    clips: tuple[Path, list[DemoVideo]], tmp_path: Path
) -> None:
    folder, videos = clips
    listing, out = tmp_path / "list.csv", tmp_path / "out.zarr"
    arguments = ("extract", listing, out, "--root", folder, *QUICK, "--no-rgb")
    listing.write_text("path,label\n" + "".join(f"{video.id},old\n" for video in videos))
    assert flowprep(*arguments).returncode == 0
    listing.write_text("path,label,split\n" + "".join(f"{video.id},new,test\n" for video in videos))
    refused = flowprep(*arguments)
    assert refused.returncode == 65
    assert "Labels or splits" in refused.stderr
    assert flowprep(*arguments, "--extend").returncode == 0
    assert {(row.label, row.splits[0]) for row in package.open(out).videos} == {("new", "test")}
    import zarr

    assert set(zarr.open(out, mode="r")["videos/label"][:]) == {"new"}
    assert len(list((out / ".flowprep/commits").iterdir())) == len(package.open(out).plans[0].shards)
    assert flowprep("verify", out, "--full").returncode == 0
    assert "nothing to do" in flowprep(*arguments).stdout


def test_limits_may_be_raised_for_another_try(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    assert flowprep("extract", clips[0], out, *QUICK, "--max-frames", "7").returncode == 65
    assert flowprep("info", out, "--failed").stdout.count("too_large") == len(clips[1])
    retried = flowprep("extract", clips[0], out, *QUICK, "--max-frames", "8", "--retry-status", "too_large")
    assert retried.returncode == 0, retried.stderr
    assert flowprep("verify", out, "--full").returncode == 0


def test_a_list_whose_paths_lead_nowhere_is_explained(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{video.id} 0\n" for video in clips[1]))
    done = flowprep("extract", listing, tmp_path / "out.zarr", *QUICK)
    assert done.returncode == 2
    assert "--root" in done.stderr


def test_nothing_in_the_working_directory_is_imported(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    shutil.copy(clips[0] / clips[1][0].id, evil)
    for name in ("av", "queue", "numpy"):
        (evil / f"{name}.py").write_text("open('ran', 'w')\n")
    script = Path(sys.executable).with_name("flowprep")
    if not script.exists():
        pytest.skip("the flowprep command is not installed beside this interpreter")
    arguments = [str(script), "extract", ".", str(tmp_path / "out.zarr"), *ULTRAFAST]
    done = subprocess.run(arguments, cwd=evil, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (evil / "ran").exists()


def test_a_lost_plan_is_damage(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    assert flowprep("extract", clips[0], out, *QUICK).returncode == 0
    (out / ".flowprep/plan.0.json").unlink()
    refused = flowprep("extract", clips[0], out, "--method", "farneback")
    assert refused.returncode == 65
    assert "plan.0.json" in refused.stderr


def test_two_first_runs_of_different_sources_do_not_mix(clips: tuple[Path, list[DemoVideo]], tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out.zarr"
    shutil.copytree(clips[0] / clips[1][0].label, other)
    (other / Path(clips[1][0].id).name).rename(other / "renamed.avi")
    runs = [start("extract", source, out, *ULTRAFAST) for source in (clips[0], other)]
    codes = [run.wait(timeout=100) for run in runs]
    assert sorted(codes) == [0, 65]
    assert {row.status for row in package.open(out).videos} == {"ok"}


def test_more_sizes_than_files_a_process_may_open(tmp_path: Path) -> None:
    source, out = tmp_path / "videos", tmp_path / "out.zarr"
    source.mkdir()
    for k in range(40):
        clip = render(Motion("left", velocity=(-1.0, 0.0)), seed=k, frames=2, height=32, width=32 + 2 * k)
        write_video(source / f"{k:02d}.avi", clip.frames, codec="mpeg4")
    command = f"ulimit -n 64; exec {shlex.join([*COMMAND, 'extract', str(source), str(out), *ULTRAFAST])}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(package.open(out).videos) == 40
