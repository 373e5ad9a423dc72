"""The other commands: info, show, verify, doctor, demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flowprep as package
from flowprep.config import StorageConfig, VideoConfig
from flowprep.errors import ExitCode
from flowprep.flow import get
from flowprep.synthetic import write_demo_videos
from flowprep.video import VideoReader
from tests.command import flowprep


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    write_demo_videos(folder / "videos", clips_per_class=1, frames=6, height=64, width=80)
    (folder / "videos/left/broken.mp4").write_bytes(b"not a video")
    out = folder / "out.zarr"
    done = flowprep("extract", folder / "videos", out, "--method", "dis", "--max-failed", "1")
    assert done.returncode == 0, done.stderr
    assert "undecodable: left/broken.mp4" in done.stderr
    return out


def test_info_in_words_and_as_json(dataset: Path) -> None:
    words = flowprep("info", dataset).stdout
    assert "7 in 6 classes: 6 ok, 1 undecodable" in words
    info = json.loads(flowprep("info", dataset, "--json").stdout)
    assert info["videos"] == 7
    assert info["fields"] == 6 * 5
    assert info["ratio"] == pytest.approx(6 * 5 * 2 * 64 * 80 * 4 / info["flow_bytes"])
    assert info["bytes"] > info["flow_bytes"] + info["frames_bytes"]
    assert 0 < info["added_epe"] < 0.05
    assert len(info["settings_fingerprint"]) == len(info["content_fingerprint"]) == 64
    failed = flowprep("info", dataset, "--failed").stdout.split("\t")
    assert failed[:2] == ["undecodable", "left/broken.mp4"]
    assert len(flowprep("info", dataset, "--videos").stdout.splitlines()) == 7


def test_added_error_is_what_it_says(dataset: Path) -> None:
    info = json.loads(flowprep("info", dataset, "--json").stdout)
    opened = package.open(dataset)
    algorithm = get("dis", "opencv")
    errors = []
    for row in opened.videos:
        if row.status == "ok":
            reader = VideoReader(dataset.parent / "videos" / row.id, VideoConfig(), StorageConfig(rgb=False))
            field = algorithm.flow(np.concatenate([block.grey for block in reader.blocks()]))[0]  # the sampled one
            errors.append(np.sqrt(((opened.flow(row.id, 0, 1)[0] - field) ** 2).sum(axis=0)).mean())
    assert info["sampled_fields"] == len(errors)
    assert info["added_epe"] == pytest.approx(np.mean(errors), rel=1e-3)


def test_show_draws_png_sheet_and_mp4(dataset: Path, tmp_path: Path) -> None:
    assert flowprep("show", dataset, "left/left_00.avi", "-o", tmp_path / "one.png").returncode == 0
    assert flowprep("show", dataset, "0", "--every", "2", "-o", tmp_path / "sheet.png").returncode == 0
    assert flowprep("show", dataset, "left/left_00.avi", "-o", tmp_path / "clip.mp4").returncode == 0
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[1] > one.size[1]
    reader = VideoReader(tmp_path / "clip.mp4", VideoConfig(), StorageConfig(rgb=False))
    assert sum(len(block.grey) for block in reader.blocks()) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "OUT", "left/left_0.avi"], 2, "Did you mean 'left/left_00.avi'?"),
        (["show", "OUT", "99"], 2, "0 to 6"),
        (["show", "OUT", "left/broken.mp4"], 65, "undecodable"),
        (["show", "OUT", "left/left_00.avi", "--field", "5"], 2, "0 to 4"),
        (["show", "OUT", "left/left_00.avi", "-o", "x.gif"], 2, ".png or .mp4"),
        (["show", "OUT", "left/left_00.avi", "--direction", "backward"], 2, "--direction both"),
        (["info", "nowhere"], 2, "does not exist"),
        (["verify", "."], 2, "not a flowprep dataset"),
        (["inf", "OUT"], 2, "Did you mean 'info'?"),
    ],
)
def test_mistakes(dataset: Path, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = flowprep(*(str(dataset) if item == "OUT" else item for item in arguments), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_is_clean(dataset: Path) -> None:
    done = flowprep("verify", dataset, "--full")
    assert done.returncode == 0
    assert done.stdout.strip().endswith(": clean")


def test_doctor_finds_this_machine_well(tmp_path: Path) -> None:
    done = flowprep("doctor", tmp_path)
    assert done.returncode == 0, done.stdout
    for word in ("flow tvl1", "flow dis", "flow deepflow", "flow farneback", "disk", "hard links", "opencv build"):
        assert word in done.stdout


@pytest.mark.timeout(120)
def test_demo_of_rendered_and_of_own_clips(tmp_path: Path, dataset: Path) -> None:
    own = flowprep("demo", "--videos", dataset.parent / "videos", "-o", tmp_path / "own")
    assert own.returncode == 0, own.stderr
    assert "7 (1 failed)" in own.stdout
    assert "true motion" not in own.stdout
    assert (tmp_path / "own/contact-sheet.png").is_file()
    summary = json.loads((tmp_path / "own/summary.json").read_text())
    assert summary["truth_epe"] is None
    assert summary["fields"] == 30
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    refused = flowprep("demo", "-o", tmp_path / "mine")
    assert refused.returncode == 2
    assert (tmp_path / "mine/thesis.tex").exists()


def test_damage_is_refused_named_and_can_be_repaired(tmp_path: Path) -> None:
    source, out = tmp_path / "videos", tmp_path / "out.zarr"
    write_demo_videos(source, clips_per_class=1, frames=4, height=32, width=48)
    arguments = ("extract", source, out, "--method", "dis")
    assert flowprep(*arguments).returncode == 0
    victim = out / "flow_32x48/c/0/0/0/0"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-100])
    checked, refused = flowprep("verify", out), flowprep(*arguments)
    assert checked.returncode == refused.returncode == 65
    record = ".flowprep/commits/0.00000.json"
    assert record in checked.stdout
    assert record in refused.stderr
    (out / record).unlink()
    assert flowprep(*arguments).returncode == 0
    assert victim.read_bytes() == whole
    assert flowprep("verify", out, "--full").returncode == 0


@pytest.mark.parametrize(("reader", "code"), [(False, ExitCode.OK), (True, ExitCode.STORE)])
def test_a_broken_pipe_is_only_no_failure_where_it_is_standard_output(reader: bool, code: int) -> None:
    """``flowprep info ... | head`` is well; a pipe to a process of our own that breaks is not."""
    script = (
        "import errno, os, sys\nfrom flowprep import cli\nfrom flowprep.cli import doctor\n"
        "def fail(**_): raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))\n"
        "doctor.command.callback = fail\nsys.argv = ['flowprep', 'doctor']\ncli.main()"
    )
    read, write = os.pipe()
    if not reader:
        os.close(read)
    done = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
