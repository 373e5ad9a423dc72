"""Rows that cannot be made, arguments, and the printed table beside the paper's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowprep.config import ExperimentConfig, FlowConfig, read_experiment
from flowprep.errors import UsageError
from flowprep.train.experiment import Laboratory, kept, laboratory, lines_of, made, text_of
from flowprep.train.paper import CAPTIONS, CLASSES, TEST_VIDEOS
from tests.experiment_data import dataset, made_by, pipeline, run
from tests.in_process import SETTINGS, stack
from tests.one_thread import one_thread  # noqa: F401 - for all tests here
from tests.score_data import random_scores

PIPELINES = Path(__file__).parents[1] / "pipelines"

# --- what cannot be made ---


@pytest.mark.parametrize(
    ("table", "changes", "expected"),
    [
        ("1a", {"train": {"spatial": {"net": {"weights": None}}}}, {3: "train.spatial.net.weights names no file"}),
        ("1a", {"train": {"spatial": {"net": {"weights": "no/w.pt"}}}}, {5: "there is no file no/w.pt"}),
        ("1b", {"experiment": {"bidirectional": ""}}, {7: "holds forward flow alone: extract with --direction both"}),
        ("2", {"experiment": {"ucf101": ""}}, {2: "experiment.ucf101 names no dataset of UCF-101"}),
        ("2", {"experiment": {"leave_out": []}}, {3: "experiment.leave_out names no classes; pipelines/hmdb51.yaml"}),
        ("3", {"experiment": {"hmdb51": "/none.zarr"}}, {3: "/none.zarr"}),
        ("4", {"experiment": {"hmdb51": ""}}, {11: "experiment.hmdb51 names no dataset of HMDB-51"}),
    ],
)
def test_what_is_lacking_is_said(tmp_path: Path, table: str, changes: dict[str, Any], expected: dict[int, str]) -> None:
    room = made_by(pipeline(tmp_path, **changes))
    lines = lines_of(table, room)
    for number, words in expected.items():
        assert words in lines[number - 1].why_not
    printed = text_of(table, lines, room)
    assert all(words in printed for words in expected.values())
    assert not (tmp_path / "runs").exists()


def test_what_goes_wrong_ends_one_row_only(tmp_path: Path) -> None:
    file = pipeline(tmp_path, train={"stack": {"temporal_stride": 3}})  # ten such fields need more than there are
    output = run(file, "1b", "--rows", "1,4", code=65).output
    assert output.count("not run") == 1
    assert "4: " in output.partition("Not run:")[2]
    assert "fields are too few for a stack" in output


def test_test_videos_that_cannot_be_used_are_known_before_the_training(tmp_path: Path, monkeypatch: Any) -> None:
    def sampler(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(sampler=SimpleNamespace(excluded={"a.avi": "its status is undecodable"}))

    monkeypatch.setattr(laboratory, "test_loader", sampler)
    output = run(pipeline(tmp_path), "1b", "--rows", "1", code=65).output
    assert "a.avi (its status is undecodable). Leave them out with --set data.on_damage=skip" in output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("temporal=5", "--set temporal=5: a section"),
        ("net.typo=1", "typo"),
        ("net.name=resnet19", "resnet19"),
        ("experiment.frames=3", "experiment"),
    ],
)
def test_mistakes_are_told_at_once(tmp_path: Path, setting: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(pipeline(tmp_path), "1a", "--set", setting)


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    file = pipeline(tmp_path, experiment={"ucf101": "", "bidirectional": ""})
    assert "names no dataset" in run(file, "1b", "--rows", "1", code=65).output
    assert "names no dataset" in run(file, "1b", "--rows", "1", "--list").output


def test_a_run_with_other_settings_is_left_alone(tmp_path: Path) -> None:
    file = pipeline(tmp_path)
    run(file, "1b", "--rows", "1")
    output = run(file, "1b", "--rows", "1", "--iterations", "3", code=65).output
    assert "solver.iterations: 2 -> 3" in output
    listed = run(file, "1b", "--rows", "1", "--iterations", "3", "--list").output
    assert "flow1-split1: a run with other settings: solver.iterations: 2 -> 3" in listed
    assert "  not run  (other videos) 73.9 %\n" in listed


def test_a_dataset_of_other_stacks_is_not_taken_for_these(tmp_path: Path) -> None:
    stack(dataset("ucf101"), tmp_path / "stacks.zarr", length=5)
    room = made_by(pipeline(tmp_path, experiment={"ucf101": str(tmp_path / "stacks.zarr")}))
    one, five, *_ = lines_of("1b", room)
    assert "its stacks have length 5, not 1" in one.why_not
    assert not five.why_not
    assert "holds stacks, without RGB frames" in lines_of("1a", room)[0].why_not


@pytest.mark.parametrize(
    "key", ["data.split", "net.dropout", "net.weights", "temporal.net.weights", "dataset", "stack"]
)
def test_keys_that_rows_set_are_refused(tmp_path: Path, key: str) -> None:
    value = {"stack": "{length: 3}"}.get(key, "1")
    with pytest.raises(UsageError, match=rf"--set {key}[.\w]*: the rows of the tables set that key"):
        run(pipeline(tmp_path), "1a", "--list", "--set", f"{key}={value}")


def test_keys_that_they_do_not_set_count(tmp_path: Path) -> None:
    file = pipeline(tmp_path)
    given = ["--set", "solver.seed=3", "--set", "temporal.solver.batch=9", "--set", "spatial.net.weights=w.pt"]
    output = run(file, "3", "--list", "--iterations", "4", *given).output
    assert "there is no file w.pt" in output
    room = made_by(file, solver={"seed": 3}, temporal={"solver": {"batch": 9}})
    (line,) = lines_of("3", room, rows=[2])
    assert [(room.config(run).solver.seed, room.config(run).solver.batch) for run in line.runs] == [(3, 6), (3, 9)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "9"], "--rows 9: table 1a has the rows 1 to 7"),
        (["--rows", "1,x"], "--rows 1,x: give numbers with commas"),
        (["--json", "none/there.json"], "there is no such folder"),
        (["--json", "/dev/full"], "not a file"),
        (["--json", "none/"], "a folder; name a file"),
    ],
)
def test_arguments(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(pipeline(tmp_path), "1a", *arguments)


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        run(pipeline(tmp_path), "1a")


def test_a_file_without_the_section_says_so(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("train: {}\n")
    with pytest.raises(UsageError, match="no section experiment; pipelines/ucf101.yaml shows one"):
        run(file, "1a")


def test_runs_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder for the runs: give experiment.output"):
        made_by(pipeline(tmp_path, experiment={"output": ""}))
    room = made_by(pipeline(tmp_path, experiment={"output": ""}, train={"output": "runs"}))
    assert room.folder(lines_of("1b", room)[0].runs[0]) == Path("runs/ucf101-temporal-flow1-split1")


@pytest.mark.parametrize(
    ("keys", "words"),
    [({"frames": 0}, "frames 0: give 1 to"), ({"crops": 3}, "give 1, 2, 5, 10"), ({"leave_out": ["a", "a"]}, "twice")],
)
def test_values_of_the_section(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ExperimentConfig(**keys)


# --- beside the paper ---


def official(key: str, *, method: str = "brox") -> Any:
    """Stands in for a dataset with the classes and the parts of one of the paper's."""
    tests, classes = TEST_VIDEOS[key], CLASSES[key]
    rows = [
        SimpleNamespace(
            label=f"class{number % classes}",
            splits=tuple("test" if number < tests[split] else "train" for split in (1, 2, 3)),
        )
        for number in range(7000)
    ]
    storage = replace(SETTINGS.storage, rgb=True)
    settings = replace(SETTINGS, flow=FlowConfig(method, direction="both"), storage=storage)
    return SimpleNamespace(path=Path(f"{key}.zarr"), videos=rows, settings=settings)


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Laboratory]:
    """A laboratory with the pipeline file for UCF-101, and what stands in for the datasets that it names."""

    def of(**datasets: Any) -> Laboratory:
        training, experiment = read_experiment(PIPELINES / "ucf101.yaml")
        room = Laboratory(training, replace(experiment, output="runs"), "ucf101.yaml", {}, lambda _: None)
        stands_in = {experiment.ucf101: official("ucf101"), experiment.hmdb51: official("hmdb51")}
        stands_in |= {getattr(experiment, key): value for key, value in datasets.items()}
        monkeypatch.setattr(room, "dataset", stands_in.__getitem__)
        return room

    monkeypatch.chdir(tmp_path)
    Path("data/weights").mkdir(parents=True)
    Path("data/weights/cnn-m-2048.pt").touch()
    return of


TABLE_3 = """\
Table 3 of Simonyan and Zisserman 2014: two-stream net. Accuracy on the test videos.

   row                                   data                here   paper
1  bidirectional, averaging              ucf101, split 1  not run  85.6 %
2  one direction, averaging              ucf101, split 1   85.0 %  85.9 %
3  one direction, multi-task, averaging  ucf101, split 1  not run  86.2 %
4  one direction, multi-task, SVM        ucf101, split 1  not run  87.0 %

Not run:
  3, 4: the disk of HMDB-51 burnt.

Otherwise than in the paper:
  flow by tvl1, not by brox

Runs:
  runs/ucf101-spatial-last-layer-dropout0.5-split1: not begun
  runs/ucf101-temporal-flow10-bidirectional-split1: not begun
  runs/ucf101-temporal-flow10-split1: not begun
  runs/ucf101-temporal-flow10-also-hmdb51-split1: not begun"""


def test_the_printed_table(paper: Callable[..., Laboratory]) -> None:
    room = paper(ucf101=official("ucf101", method="tvl1"))
    lines = lines_of("3", room)
    assert not any(line.why_not for line in lines)
    lines[1] = replace(lines[1], accuracies=(0.85,))
    lines[2:] = [replace(line, why_not="the disk of HMDB-51 burnt.") for line in lines[2:]]
    assert text_of("3", lines, room, states=True) == TABLE_3


@pytest.mark.parametrize("table", CAPTIONS)
def test_the_pipeline_file_makes_the_tables_as_the_paper_did(paper: Callable[..., Laboratory], table: str) -> None:
    room = paper()
    lines = lines_of(table, room)
    assert not any(line.otherwise for line in lines)
    printed = text_of(table, lines, room)
    assert "Otherwise" not in printed
    assert [f"{line.result.accuracy:.1f} %" in printed for line in lines] == [True] * len(lines)
    assert {line.why_not for line in lines} <= {"", "another method than the paper's two streams"}


def test_other_videos_are_not_compared(paper: Callable[..., Laboratory]) -> None:
    fewer = official("ucf101")
    fewer.videos[0].splits = ("train", "test", "test")
    lines = lines_of("2", paper(ucf101=fewer))
    reason = "split 1 of ucf101.zarr has 3,782 test videos, that of UCF-101 3,783"
    assert [line.otherwise for line in lines] == ["", reason, reason, reason, reason]
    printed = text_of("2", lines, paper(ucf101=fewer)).splitlines()
    assert [line.endswith("  46.6 %") for line in printed].count(True) == 1
    assert [line.endswith("  (other videos) 81.5 %") for line in printed].count(True) == 1
    (line,) = lines_of("1b", paper(), splits=[2], rows=[4])
    assert line.otherwise == "the paper's number is of split 1"
    (line,) = lines_of("4", paper(), splits=[1], rows=[8])
    assert line.otherwise == "the paper's number is the mean over three splits"


def test_scores_of_too_few_videos_are_not_compared(
    paper: Callable[..., Laboratory], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = paper()
    (line,) = lines_of("1b", room, rows=[4])
    monkeypatch.setattr(room, "warnings", lambda *_: [])
    monkeypatch.setattr(room, "scores", lambda _: random_scores(0, 3783, 101))
    assert (made(line, room).otherwise, made(line, room).why_not) == ("", "")
    monkeypatch.setattr(room, "scores", lambda _: random_scores(0, 3700, 101))
    assert made(line, room).otherwise == "of split 1, 3,700 of 3,783 videos have scores"


def test_nothing_is_kept_of_what_was_not_made(tmp_path: Path) -> None:
    room = made_by(pipeline(tmp_path))
    for table in CAPTIONS:
        for line in lines_of(table, room):
            assert kept(line, room) == line
    assert not (tmp_path / "runs").exists()


def test_classes_left_out_are_those_of_the_data_set(data: Path) -> None:
    lines = (data / "splits/ucf101/classInd.txt").read_text().splitlines()
    classes = {line.split()[1] for line in lines}
    left_out = read_experiment(PIPELINES / "hmdb51.yaml")[1].leave_out
    assert set(left_out) < classes
    assert len(classes - set(left_out)) == 78
