"""flowprep train: what its options mean, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from flowprep.cli import train, training
from flowprep.cli.train import with_options
from flowprep.cli.training import assignments, stream_of
from flowprep.config import Stacking, StreamConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.train.checkpoint import load
from flowprep.train.log import LOG, read_log
from flowprep.train.run_folder import CONFIG
from flowprep.types import Video
from tests.in_process import make_dataset
from tests.training_data import TINY, dataset, run, stacks, tiny

SETTINGS = ["data.crop=32", "data.workers=1", "stack.length=2", "net.width=0.05", "net.init=he", "solver.batch=4"]


def command(*arguments: str) -> Any:
    """Run it; what it raises is raised."""
    return CliRunner().invoke(train.command, list(arguments), catch_exceptions=False)


def test_a_dataset_a_folder_and_a_stream_suffice(tmp_path: Path) -> None:
    settings = [text for setting in SETTINGS for text in ("--set", setting)]
    given = ["--stream", "temporal", "--iterations", "2", "--seed", "5", "--device", "cpu", *settings]
    result = command(str(dataset()), str(tmp_path), *given)
    assert result.exit_code == 0
    folder = tmp_path / "temporal-split1"
    assert f"2 iterations done: {folder}/checkpoint.pt" in result.output
    assert "validation  accuracy" in result.output
    assert "2/2  loss 1." in result.stderr
    checkpoint = load(folder)
    assert (checkpoint.config.solver.seed, checkpoint.config.solver.iterations, checkpoint.config.net.init) == (
        5,
        2,
        "he",
    )
    again = command(str(dataset()), str(tmp_path), *given)
    assert "all 2 iterations are done, nothing to do" in again.output


def test_a_pipeline_file_with_two_streams(tmp_path: Path) -> None:
    shared = {"dataset": str(dataset()), "output": str(tmp_path / "runs"), **TINY, "spatial": {"net": {"width": 0.06}}}
    del shared["stream"]
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(yaml.safe_dump({"train": shared}))
    result = command("-c", str(pipeline), "--stream", "spatial", "--iterations", "1", "--quiet")
    assert "loss" not in result.stderr
    config = load(tmp_path / "runs" / "spatial-split1").config
    assert (config.stream, config.net.width, config.solver.iterations) == ("spatial", 0.06, 1)
    other = command(
        "-c", str(tmp_path / "runs/spatial-split1/config.yaml"), "--stream", "spatial", "", str(tmp_path / "b")
    )
    assert other.exit_code == 0
    first, second = (read_log(folder / "spatial-split1" / LOG) for folder in (tmp_path / "runs", tmp_path / "b"))
    assert [line.get("loss") for line in first] == [line.get("loss") for line in second]


def test_stacks_are_as_they_are_stored(tmp_path: Path) -> None:
    """Unless the command or the pipeline file says otherwise, which is refused, be it flowprep's default."""
    settings = [text for setting in SETTINGS if "stack" not in setting for text in ("--set", setting)]
    given = [str(stacks()), str(tmp_path), "--stream", "temporal", "--iterations", "1", *settings]
    result = command(*given)
    assert "stacks.zarr: stacks as they are stored (kind trajectory, length 3, " in result.stderr
    assert "their means kept" in result.stderr
    expected = Stacking("trajectory", 3, mean_subtract=False)
    checkpoint = load(tmp_path / "temporal-split1")
    assert (checkpoint.config.stack, checkpoint.channels) == (expected, 6)
    file = tmp_path / "temporal-split1" / CONFIG
    assert StreamConfig.from_json(yaml.safe_load(file.read_text())["train"]).stack == expected
    assert "nothing to do" in command(*given).output
    for nothing in ("stack=", "stack.length=", "stack={}"):
        assert "nothing to do" in command(*given, "--set", nothing).output
    with pytest.raises(UsageError, match="its stacks have length 3, not 10"):
        command(*given, "--set", "stack.length=10")
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text("train: {temporal: {stack: {kind: flow}}}")
    with pytest.raises(UsageError, match="its stacks have kind trajectory, not flow"):
        command("-c", str(pipeline), *given)
    assert stream_of(None, "temporal", {"dataset": str(stacks()), "output": "x", "stack": {"mean_subtract": True}}) == (
        StreamConfig("temporal", str(stacks()), "x/temporal-split1", stack=Stacking("trajectory", 3))
    )


def test_options_over_settings() -> None:
    assert with_options({"data": {"split": 2, "crop": 32}}, {"split": 3, "seed": None}) == {
        "data": {"split": 3, "crop": 32}
    }
    assert with_options({"data": None}, {"split": 3}) == {"data": {"split": 3}}


def test_a_folder_and_a_dataset_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset: give DATASET"):
        command("--stream", "spatial")
    with pytest.raises(UsageError, match="no output: give RUN"):
        command(str(tmp_path), "--stream", "spatial")


def test_values_of_set_are_yaml() -> None:
    texts = ["solver.batch=64", "data.scales=[1, 0.8]", "solver.compile=true", "net.weights=a=b.pt", "data.also=[]"]
    assert assignments(texts) == {
        "solver": {"batch": 64, "compile": True},
        "data": {"scales": [1, 0.8], "also": []},
        "net": {"weights": "a=b.pt"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("solver.batch", "write SECTION.KEY=VALUE"),
        ("=3", "write SECTION.KEY=VALUE"),
        ("solver..batch=3", "write SECTION.KEY=VALUE"),
        ("solver.batch=[", "not valid YAML"),
        ("solver.bach=3", "unknown key train.temporal.solver.bach. Did you mean 'batch'"),
        ("solver.batch=many", "is not a whole number"),
        ("solver=3", "must be a mapping"),
        ("data.leave_out=[2020-13-45]", "not valid YAML: month must be in"),
        ("solver.seed=0b_", "not valid YAML"),
        (f"data.also={'[' * 500}", "not valid YAML: maximum recursion depth"),
        ("stream=spatial", "stream is spatial, and --stream temporal"),
        ("data.split=2", "no video is in part 'train' of split 2; .* --set data.whole=true"),
        ("data.crop=64", "no video can be drawn"),
        ("stack.length=0", "command line: stack.length 0: give 1 to 32 fields"),
        ("stack.temporal_stride=0", "command line: stack.temporal_stride 0: give 1"),
        ("stack={length: 3, bidirectional: true}", "stack.length 3: half of it"),
        ("data.also=['']", "data.also: an empty path"),
        ("data.added=[a.zarr, '']", "data.added: an empty path"),
        ("data.scales=[1, 0.001]", r"data.scales \[1.0, 0.001\]: give shares of the shorter side from 0.1 to 1"),
        ("data.scales=[1.1]", r"data.scales \[1.1\]: give shares"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        command(str(dataset()), str(tmp_path / "a/b"), "--stream", "temporal", "--iterations", "1", "--set", text)
    assert not list(tmp_path.iterdir()), "no empty folders stay"


def test_a_file_for_the_other_stream_is_refused(tmp_path: Path) -> None:
    pipeline = tmp_path / "config.yaml"
    pipeline.write_text("train: {stream: temporal}")
    with pytest.raises(UsageError, match="config.yaml: stream is temporal, and --stream spatial"):
        command("-c", str(pipeline), str(dataset()), str(tmp_path), "--stream", "spatial")


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match="runs/temporal-split1: not a folder, or below a file"):
        command(str(dataset()), str(tmp_path / "runs"), "--stream", "temporal")


def test_work_goes_on_when_nobody_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(text: str = "", *, err: bool = False) -> None:
        if err:
            raise BrokenPipeError(text)

    monkeypatch.setattr(click, "echo", gone)
    settings = [text for setting in SETTINGS for text in ("--set", setting)]
    command(str(dataset()), str(tmp_path), "--stream", "temporal", "--iterations", "1", "--device", "cpu", *settings)
    assert load(tmp_path / "temporal-split1").iteration == 1


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "find_spec", lambda _: None)
    with pytest.raises(RefusedError, match=r"pip install '\.\[train\]'"):
        command(str(dataset()), str(tmp_path), "--stream", "temporal")


@pytest.mark.system
def test_real_videos_are_learned(data: Path, tmp_path: Path) -> None:
    """A clip of each of ten classes of UCF-101, stacks of ten fields: a narrow network knows them all."""
    videos = data / "ucf10" / "videos"
    paths = [sorted(folder.glob("*.avi"))[0] for folder in sorted(videos.iterdir()) if folder.is_dir()]
    found = [
        Video(path.relative_to(videos).as_posix(), path.parent.name, ("train", "", ""), path.stat().st_size)
        for path in paths
    ]
    make_dataset(tmp_path / "flow.zarr", videos, found, per_shard=20)
    settings = {"iterations": 200, "batch": 32, "learning_rate": 0.05, "checkpoint_every": 1000, "log_every": 10}
    changes = {
        "dataset": str(tmp_path / "flow.zarr"),
        "data": {"crop": 64, "scales": [1.0], "position": "centre"},
        "stack": {"length": 10},
        "net": {"name": "resnet18", "width": 0.25, "dropout": 0.0},
        "solver": settings,
    }
    run(tiny(tmp_path / "run", **changes))
    losses = [line["loss"] for line in read_log(tmp_path / "run" / LOG)]
    assert losses[0] > 1
    assert min(losses) < 0.05
