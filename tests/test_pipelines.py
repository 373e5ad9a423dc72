"""The pipeline files are complete, say of every key what it is, and run as they are."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import flowprep
from flowprep.cli import flowprep as group
from flowprep.cli.options import NOT_TAKEN
from flowprep.config import (
    STREAMS,
    ExperimentConfig,
    ExtractConfig,
    StackConfig,
    StackingConfig,
    StorageConfig,
    StreamConfig,
    TrainingConfig,
    VideoConfig,
    build,
    read_experiment,
    read_pipeline,
    stream_config,
)
from flowprep.run.product import resolve
from flowprep.synthetic import write_demo_videos

FOLDER = Path(__file__).parents[1] / "pipelines"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "demo")  # that one leaves defaults out
TRAINED = [FOLDER / "hmdb51.yaml", FOLDER / "ucf101.yaml"]  # with the sections of training
STACKS = [FOLDER / "stack.yaml", FOLDER / "trajectory.yaml"]
SECTIONS = (
    *("source", "video", "flow", "storage", "stack", "run", "cluster"),
    *("train", "data", "net", "solver", "spatial", "temporal", "experiment"),
)
LEFT, ROTATE = "left/left_00.avi", "rotate/rotate_00.mp4"

# A comment of one line or more, and below it the key that it is about.
COMMENTED = re.compile(r"(?P<comment>(?:^ *#.*\n)+)^(?P<indent> *)(?P<key>\w+):(?P<value>.*)$", re.M)

every_file = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
extractions = pytest.mark.parametrize("file", [f for f in FILES if f not in STACKS], ids=lambda path: path.stem)
stacks = pytest.mark.parametrize("file", STACKS, ids=lambda path: path.stem)


def kind_of(file: Path) -> type[ExtractConfig] | type[StackingConfig]:
    return StackingConfig if file in STACKS else ExtractConfig


def defaults(file: Path) -> dict[str, Any]:
    """Every key of such a pipeline file, as "video.stride", with flowprep's default."""
    kind = kind_of(file)
    left_out = NOT_TAKEN.get(kind, set()) | {("train", "stream")}  # of which a file has both
    tree = dataclasses.asdict(kind())
    if file in TRAINED:
        tree |= {"train": dataclasses.asdict(TrainingConfig()), "experiment": dataclasses.asdict(ExperimentConfig())}
    return {".".join(path): value for path, value in leaves(tree) if path not in left_out}


def leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of all that is not a section."""
    for name, value in tree.items():
        if name in SECTIONS:
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name), value


def shared(names: Iterable[str]) -> set[str]:
    """Without the keys of one network alone, of which a file has some."""
    return {name for name in names if not name.startswith(("train.spatial.", "train.temporal."))}


def config_of(file: Path) -> Any:
    kind = kind_of(file)
    return build(read_pipeline(file, kind), file.name, kind)


@every_file
def test_every_key_is_there(file: Path) -> None:
    named = {".".join(path) for path, _ in leaves(yaml.safe_load(file.read_text(encoding="utf-8")))}
    assert shared(named) == set(defaults(file))


@every_file
def test_every_key_has_its_comment_and_says_whether_it_is_the_default(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    known = defaults(file)
    values = {".".join(path): value for path, value in leaves(yaml.safe_load(text))}
    seen = set()
    for match in COMMENTED.finditer(text):
        if match["value"] and (key := path_of(match, text)) in values:
            seen.add(key)
            says_default = match["comment"].rstrip().endswith(" Default.")
            assert says_default == (key in known and values[key] == known[key]), f"{key}: {values[key]!r}"
    assert seen == set(values)
    assert shared(seen) == set(known)


def path_of(match: re.Match[str], text: str) -> str:
    """The key of a line with the sections that it lies in, by their indentation."""
    path: dict[int, str] = {}
    for indent, key in re.findall(r"^( *)(\w+):", text[: match.end()], re.M):
        path = {depth: name for depth, name in path.items() if depth < len(indent)} | {len(indent): key}
    return ".".join(path.values())


@pytest.mark.parametrize("file", TRAINED, ids=lambda path: path.stem)
def test_the_networks_are_those_of_the_paper(file: Path) -> None:
    tree, experiment = read_experiment(file)
    assert tree["dataset"] == config_of(file).output == getattr(experiment, file.stem)
    names = {"stream": "", "dataset": tree["dataset"], "output": ""}
    spatial, temporal = (dataclasses.replace(stream_config(tree, stream, "x"), **names) for stream in STREAMS)
    assert temporal == StreamConfig(dataset=tree["dataset"])
    last_layer = {"dropout": 0.5, "weights": spatial.net.weights}
    assert spatial.net == dataclasses.replace(temporal.net, **last_layer)
    assert spatial.solver == dataclasses.replace(temporal.solver, regime="last-layer")
    assert spatial.data == temporal.data


def test_the_files_share_what_their_experiments_have_in_common() -> None:
    first, second = (read_experiment(file)[1] for file in TRAINED)
    assert first == second
    assert len(first.leave_out) == 101 - 78
    assert first.output


@extractions
def test_the_settings_are_those_of_the_paper(file: Path) -> None:
    settings = resolve(config_of(file))
    assert settings == resolve(ExtractConfig(video=VideoConfig(short_side=256)))
    assert (settings.flow.method, settings.storage.range, settings.storage.rgb_short_side) == ("tvl1", "field", 256)


@stacks
def test_the_stacks_are_those_of_the_paper(file: Path) -> None:
    paper = StackConfig("flow", 10, 1, bidirectional=False, mean_subtract=True, anchor="start", short="refuse")
    wanted = {"stack": paper, "trajectory": dataclasses.replace(paper, kind="trajectory", per_video=25)}
    assert config_of(file).stack == wanted[file.stem]
    assert config_of(file).storage == StorageConfig()


# --- with videos at the paths that the files name ---


@pytest.fixture
def here(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two clips and their lists where ``file`` looks for them."""
    monkeypatch.chdir(tmp_path)
    write_demo_videos(tmp_path / "clips", clips_per_class=1, frames=4, height=32, width=48)
    config = config_of(file).source
    videos = tmp_path / config.path
    lists = tmp_path / config.annotations
    lists.mkdir(parents=True, exist_ok=True)
    names = {LEFT: LEFT, ROTATE: ROTATE}
    if config.layout == "ucf101":
        write(lists / "classInd.txt", "1 left", "2 rotate")
        write(lists / "trainlist01.txt", f"{LEFT} 1")
        write(lists / "testlist01.txt", ROTATE)
    elif config.layout == "hmdb51":
        write(lists / "left_test_split1.txt", "left_00.avi 1 ")
        write(lists / "rotate_test_split1.txt", "rotate_00.mp4 2 ")
    elif config.layout == "kinetics":
        names = {LEFT: "train/left/abcdefghijk_000010_000020.avi", ROTATE: "val/rotate/-bcdefghijk_000000_000010.mp4"}
        write(lists / "train.csv", "label,youtube_id,time_start,time_end,split", "left,abcdefghijk,10,20,train")
        write(lists / "val.csv", "label,youtube_id,time_start,time_end,split", "rotate,-bcdefghijk,0,10,val")
    for source, target in names.items():
        (videos / target).parent.mkdir(parents=True)
        shutil.copy(tmp_path / "clips" / source, videos / target)
    return tmp_path


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def run(command: str, *arguments: str) -> Result:
    result = CliRunner().invoke(group, [command, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@extractions
def test_it_plans_what_it_names_and_writes_nothing(file: Path, here: Path) -> None:
    before = sorted(here.rglob("*"))
    output = run("extract", "-c", str(file), "--dry-run").output
    assert re.search(r"^videos +2$", output, re.M)
    assert re.search(r"^method +tvl1 on cpu \(flowprep kernels", output, re.M)
    assert "flow_256x384" in output
    assert sorted(here.rglob("*")) == before


@extractions
def test_it_extracts_with_options_over_its_keys(file: Path, here: Path) -> None:
    run("extract", "-c", str(file), "--method", "dis", "--short-side", "0", "--rgb-short-side", "32")
    dataset = flowprep.open(here / config_of(file).output)
    found = {row.label: (row.status, row.fields, row.splits[0]) for row in dataset.videos}
    test_part = {"kinetics400": "val", "folder": ""}.get(file.stem, "test")
    train_part = "" if file.stem == "folder" else "train"
    assert found == {"left": ("ok", 3, train_part), "rotate": ("ok", 3, test_part)}
    assert dataset.settings.flow.method == "dis"
    assert dataset.flow(0).shape == (3, 2, 32, 48)


@stacks
def test_it_stacks_the_dataset_that_it_names(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_demo_videos(tmp_path / "clips", clips_per_class=1, frames=13, height=32, width=48)
    config = config_of(file)
    run("extract", "clips", config.dataset, "--method", "dis", "--no-rgb")
    run("stack", "-c", str(file), "--length", "4")
    dataset = flowprep.open(tmp_path / config.output)
    assert dataset.settings.stack == dataclasses.replace(config.stack, length=4)
    frames = {"stack": [0, 4, 8], "trajectory": list(range(9))}[file.stem]
    for video in dataset.videos:
        assert dataset.stack_frames(video.id).tolist() == frames
        assert dataset.stacks(video.id).shape == (len(frames), 8, 32, 48)
