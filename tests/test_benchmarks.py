"""The benchmarks run and say something about everything that they promise to; how quick things are is not tested."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import flow_gpu, gpu_code
from benchmarks.arguments import told
from flowprep.flow.cuda import driver
from flowprep.flow.files import write_flo
from flowprep.opencv import load
from flowprep.synthetic import Motion, render
from flowprep.video import write_video

ROOT = Path(__file__).parents[1]
OURS = {
    *("tvl1 opencv", "tvl1 opencv-cuda", "tvl1 ipol"),
    *("brox opencv-cuda", "brox opencv-default", "brox ipol"),
}


def numbers(tree: Any, where: str) -> Iterator[tuple[str, float]]:
    """(path, number) of every number in a tree of JSON."""
    if isinstance(tree, dict):
        for name, item in tree.items():
            yield from numbers(item, f"{where}.{name}")
    elif not isinstance(tree, str):
        yield where, tree


def test_flow_cpu(tmp_path: Path) -> None:
    clip = render(Motion("right", velocity=(1.5, -0.5)), seed=3, frames=4, height=64, width=80)
    videos, sequence = tmp_path / "videos", tmp_path / "truth" / "Texture"
    videos.mkdir()
    write_video(videos / "clip.mp4", clip.frames)
    (videos / "notes.txt").write_text("not a video")
    sequence.mkdir(parents=True)
    for name, frame in zip(("frame10.png", "frame11.png"), clip.frames[:2], strict=True):
        load().imwrite(str(sequence / name), frame[:, :, ::-1])
    write_flo(sequence / "flow10.flo", clip.flow[0])

    figures = tmp_path / "figures.json"
    short = ["--pairs", "1", "--rounds", "1", "--seconds", "0.2", "--middlebury", sequence.parent, "--json", figures]
    command = [sys.executable, "-m", "benchmarks.flow_cpu", videos, *short]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr

    result = json.loads(figures.read_text())
    (pair,) = result.pop("pairs")
    assert (pair["video"], pair["height"], pair["width"]) == ("clip.mp4", 64, 80)
    assert set(result["speed"]) == set(result["accuracy"]) == {"cv2 tvl1", *OURS}
    assert set(result["floor"]) == OURS - {"brox ipol"}
    for section in ("processor", "speed", "difference", "itself", "floor", "accuracy", "scaling"):
        found = [(path, number) for path, number in numbers(result[section], section) if not path.endswith(".load")]
        assert found
        assert not [item for item in found if not (math.isfinite(item[1]) and item[1] > 0)]
    for row in result["accuracy"].values():
        assert row["Texture"]["epe"] < 0.5  # px, of 1.6: what was timed does find the motion
    for way in ("cv2 tvl1", *OURS):
        assert f"| {way} |" in done.stdout


def test_codecs(tmp_path: Path) -> None:
    clip = render(Motion("right", velocity=(1.5, -0.5)), seed=3, frames=4, height=64, width=80)
    write_video(tmp_path / "clip.mp4", clip.frames)
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.codecs", tmp_path / "clip.mp4", "--pairs", "2", "--json", figures]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr

    result = json.loads(figures.read_text())
    rows = result["rows"]
    assert {name.split()[0] for name in rows} == {"paper", "jpeg", "htj2k", "blosc"}
    for name, row in rows.items():
        assert row["ratio"] > 1 and 0 <= row["mean"] <= row["p99"] <= row["worst_mean"] <= row["worst"], name
        assert f"| {name} |" in done.stdout
    steps = [row for name, row in rows.items() if name.startswith("htj2k")]
    for finer, coarser in pairwise(steps):
        assert finer["ratio"] < coarser["ratio"] and finer["mean"] < coarser["mean"]
    assert set(result["gain"]) == {"paper 92", "jpeg 92"}


@pytest.mark.parametrize(
    ("benchmark", "arguments", "words"),
    [
        ("gpu_code", "--architecture 9", "--architecture 9: CUDA compiles for 7.5, 8.0, "),
        ("gpu_code", "--architecture 5.0", "CUDA compiles for"),
        ("gpu_code", "--json /nowhere/a.json", "'/nowhere/a.json' cannot be written"),
        ("flow_gpu", "", "the following arguments are required: videos"),
        ("flow_gpu", "/nowhere", "'/nowhere' is not there"),
        ("flow_gpu", "VIDEOS --batches 1,x", "'x' is no number from 1 on"),
        ("flow_gpu", "VIDEOS --rounds 0", "'0' is no number from 1 on"),
        ("flow_gpu", "VIDEOS --middlebury VIDEOS", "no sequence with flow10.flo"),
        ("flow_gpu", "VIDEOS/clip.mp4 --extract", "takes a folder of videos, which is named first"),
        ("flow_gpu", "VIDEOS/notes.txt", "notes.txt: "),
        ("flow_gpu", "VIDEOS --batches 8", "no video of 9 frames or more below"),
    ],
)
def test_wrong_arguments_end_in_a_sentence(
    benchmark: str,
    arguments: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_video(tmp_path / "clip.mp4", render(Motion("right"), seed=3, frames=2, height=32, width=32).frames)
    (tmp_path / "notes.txt").write_text("not a video")
    monkeypatch.setattr(driver, "unavailable", lambda: "")
    monkeypatch.setattr("sys.argv", [benchmark, *arguments.replace("VIDEOS", str(tmp_path)).split()])
    with pytest.raises(SystemExit) as ended:
        told({"flow_gpu": flow_gpu, "gpu_code": gpu_code}[benchmark].main)
    assert ended.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["gpu", "flow_gpu"])
def test_without_a_gpu_there_is_nothing_to_measure(benchmark: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *([tmp_path] if benchmark == "flow_gpu" else [])]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 65 and len(done.stderr.splitlines()) == 1, done.stderr
