"""The demonstration: what it makes, and that its pipeline file says the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowprep import demo
from flowprep.config import STREAMS, ExtractConfig, build, read_pipeline, read_training, stream_config
from flowprep.demo import recognition, run_demo
from flowprep.errors import UnfinishedError
from flowprep.synthetic import DEMO_MOTIONS, write_training_videos

PIPELINE = Path(__file__).parents[1] / "pipelines/demo.yaml"
STAGES = {"render", "extract", "check", "stack", "train spatial", "train temporal", "evaluate", "fuse", "report"}


def test_the_pipeline_file_is_the_demonstration() -> None:
    output = Path("demo-output")
    assert build(read_pipeline(PIPELINE), str(PIPELINE), ExtractConfig) == demo.rendered_config(output)
    for stream in STREAMS:
        assert stream_config(read_training(PIPELINE), stream, str(PIPELINE)) == recognition.stream(output, stream)
    stacks = recognition.STACKS
    assert f"--length {stacks.length} --every {stacks.every}\n" in PIPELINE.read_text()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips from which nothing can be learned."""

    def render(folder: Path, **_: int) -> list[object]:
        return write_training_videos(folder, train=2, test=1, frames=7, height=32, width=40)

    monkeypatch.setattr(demo, "write_training_videos", render)


@pytest.mark.usefixtures("tiny")
def test_all_stages_leave_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"data": {"crop": 24}, "net": {"width": 0.05}, "solver": {"iterations": 2, "batch": 4}}
    monkeypatch.setattr(recognition, "TRAINING", small)
    heard: list[str] = []
    outcome = run_demo(tmp_path / "out", None, "dis", heard.append)
    assert (outcome.videos, outcome.failed, outcome.fields) == (18, 0, 108) and outcome.stages.keys() == STAGES
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["test_videos"] == 6 and report["chance"] == pytest.approx(1 / 6, abs=1e-4)
    assert 0 <= report["spatial_training_accuracy"] <= 1 and report["spatial_training_loss"] > 0
    assert report["seconds"].keys() == STAGES and report["seeds"] == {"spatial": 0, "temporal": 0}
    rows = {row["name"]: row["accuracy"] for row in report["rows"]}
    assert rows.keys() == {"spatial", "temporal", "fused, average", "fused, svm"}
    assert rows["temporal"] == pytest.approx(report["temporal_accuracy"], abs=1e-4)
    assert "<html" in (tmp_path / "out/report.html").read_text()
    assert any("Training the temporal stream" in line for line in heard)


@pytest.mark.usefixtures("tiny")
def test_stopped_while_training_it_says_that_it_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise UnfinishedError("stopped after iteration 60 of 120; the same command goes on from there.")

    monkeypatch.setattr(demo, "recognise", stopped)
    with pytest.raises(UnfinishedError, match="starts anew each time"):
        run_demo(tmp_path / "out", None, "dis", lambda _: None)


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_the_temporal_stream_recognises_what_the_spatial_one_cannot(tmp_path: Path) -> None:
    """The classes differ by motion alone."""
    run_demo(tmp_path / "out", None, "tvl1", print)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["temporal_accuracy"] >= 0.95 and report["fused_accuracy"] >= 0.95
    assert report["spatial_accuracy"] <= 0.35, "chance is 1/6; of 60 videos, 21 by chance is one in ten thousand"
    assert len(DEMO_MOTIONS) == 6 and report["test_videos"] == 60
