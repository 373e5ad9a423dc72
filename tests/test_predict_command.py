"""``flowprep predict``: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flowprep.cli import flowprep as group
from flowprep.errors import ExitCode, GPUError, UnfinishedError, UsageError
from flowprep.train import checkpoint as checkpoints
from flowprep.train.evaluate import evaluate
from flowprep.train.fusion import fuse
from tests.command import flowprep
from tests.in_process import CLIP, InProcess
from tests.loader_data import flow_dataset
from tests.one_thread import one_thread  # noqa: F401 - for all tests here
from tests.test_predict import CLASSES, FEW, OTHER, extracted, path_of, trained  # noqa: F401 - extracted is for all tests here


def in_this_process(*arguments: str | Path, **_: Any) -> subprocess.CompletedProcess[str]:
    """As :func:`tests.command.flowprep`, without a process of its own."""
    done = CliRunner().invoke(group, list(map(str, arguments)), catch_exceptions=False)
    return subprocess.CompletedProcess([], done.exit_code, done.stdout, done.stderr)


@pytest.mark.parametrize("command", [in_this_process, pytest.param(flowprep, marks=pytest.mark.system)])
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    runs = [trained(tmp_path / stream, stream) for stream in ("spatial", "temporal")]
    bad, temporary, out = tmp_path / "bad.mp4", tmp_path / "tmp", tmp_path / "out.json"
    bad.write_bytes(b"no video at all " * 100)
    temporary.mkdir()
    shutil.copy(path_of(CLIP), tmp_path / "-left, 1.avi")
    monkeypatch.chdir(tmp_path)
    done = command(
        *("predict", "--frames", "3", "--crops", "2", "--top", "2", "--device", "cpu", "--json", out, "-q"),
        *("--", bad, *runs, "-left, 1.avi"),
        cwd=tmp_path,
        env={"TMPDIR": str(temporary)},
    )
    assert done.returncode == ExitCode.REFUSED, done.stderr
    warning, error = done.stderr.splitlines()
    assert warning.startswith("Warning: the network was trained on dis flow by opencv, whichever")  # also with -q
    assert error.startswith(f"flowprep: {bad}: undecodable: ")
    failure, found = json.loads(out.read_text())["videos"]
    assert failure["verdict"] == "undecodable" and failure["video"] == str(bad)
    known = [evaluate(run, flow_dataset(), part="", on_damage="skip", **FEW | {"crops": 2}) for run in runs]
    expected = fuse([scores.arranged([CLIP], CLASSES) for scores in known])
    for entry in found["classes"]:
        assert entry["score"] == pytest.approx(expected.scores[0, CLASSES.index(entry["class"])], abs=1e-5)
    name, heading, *rows = done.stdout.splitlines()
    assert name == "-left, 1.avi" and heading.split() == ["score", "spatial", "temporal", "class"]
    assert [row.split()[-1] for row in rows] == [entry["class"] for entry in found["classes"]][:2]
    assert rows[0].split()[:2] == ["1", f"{found['classes'][0]['score']:.4f}"]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("signal_sent", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_ends_it_and_what_is_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_sent: signal.Signals
) -> None:
    extract, seen = InProcess.extract, []

    def signalled(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 2:
            os.kill(os.getpid(), signal_sent)
        return extract(*arguments)

    monkeypatch.setattr(InProcess, "extract", signalled)
    run = trained(tmp_path / "run", "spatial")
    run = (run / checkpoints.NAME).rename(tmp_path / "network")  # a checkpoint whatever its name
    clips = [path_of(CLIP), path_of(OTHER), path_of(f"more/{CLIP}")]
    with pytest.raises(UnfinishedError, match="stopped"):
        in_this_process(
            "predict", "--frames", "2", "--crops", "1", "--device", "cpu", "--json", tmp_path / "o.json", run, *clips
        )
    assert len(seen) == 2
    assert [video["video"] for video in json.loads((tmp_path / "o.json").read_text())["videos"]] == [str(clips[0])]


def test_what_is_no_videos_fault_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU that fails: every other video would meet it too."""
    extract, seen = InProcess.extract, []

    def failing(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 2:
            raise GPUError("The GPU has failed.")
        return extract(*arguments)

    monkeypatch.setattr(InProcess, "extract", failing)
    run, out = trained(tmp_path / "run", "spatial"), tmp_path / "o.json"
    clips = [path_of(CLIP), path_of(OTHER), path_of(f"more/{CLIP}")]
    words = "The GPU has failed. Where CUDA_VISIBLE_DEVICES is set to nothing, the same command computes"
    with pytest.raises(GPUError, match=words):
        in_this_process("predict", "--frames", "2", "--crops", "1", "--device", "cpu", "--json", out, run, *clips)
    assert len(seen) == 2
    assert [video["video"] for video in json.loads(out.read_text())["videos"]] == [str(clips[0])]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json", "none/o.json", "run", "a.avi"], "--json none/o.json: there is no such folder"),
        (["--frames", "3000000", "run", "a.avi"], "up to 1000 frames"),
        (["a.avi"], "no checkpoint"),
        (["run"], "no video"),
        (["run", "folder", "a.avi"], "folder: a folder without checkpoint.pt"),
        (["none.pt", "a.avi"], "none.pt"),
        (["pipe.pt", "a.avi"], "pipe.pt: cannot be read .not a file"),
        (["run", "https://example.com/x.mp4"], "https://example.com/x.mp4: addresses are not read"),
        (["s3://runs/checkpoint.pt", "a.avi"], "s3://runs/checkpoint.pt: addresses are not read"),
        (["run", "a.avi", "--keep", "a.avi"], "a.avi: not a folder, or below a file"),
    ],
)
def test_arguments_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    from flowprep.cli.predict import command

    trained(tmp_path / "run", "spatial")
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.avi").touch()
    os.mkfifo(tmp_path / "pipe.pt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        command.main(arguments, standalone_mode=False)


def test_a_pipe_is_no_video(tmp_path: Path) -> None:
    """It is not opened, which would wait for somebody to write to it."""
    os.mkfifo(tmp_path / "pipe.avi")
    done = in_this_process("predict", trained(tmp_path / "run", "spatial"), tmp_path / "pipe.avi", "--device", "cpu")
    assert done.returncode == ExitCode.REFUSED
    assert "pipe.avi: bad_path: not a regular file" in done.stderr
