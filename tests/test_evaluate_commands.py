"""flowprep evaluate and flowprep fuse: what they write, print and refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flowprep.cli import evaluate as evaluate_command
from flowprep.cli import experiment as experiment_command
from flowprep.cli import fuse as fuse_command
from flowprep.cli import predict as predict_command
from flowprep.config import experiment as experiment_config
from flowprep.errors import RefusedError, UnfinishedError, UsageError
from flowprep.train import checkpoint as checkpoints
from flowprep.train import evaluate as evaluating
from flowprep.train import fusion, tasks
from flowprep.train.nets import network
from flowprep.train.paper import CAPTIONS
from flowprep.train.report import pictures
from flowprep.train.scores import TEST, TRAIN, Scores
from tests.loader_data import flow_folder
from tests.one_thread import one_thread  # noqa: F401 - for all tests here
from tests.score_data import random_scores
from tests.test_evaluate import trained


def run(command: Any, *arguments: str | Path) -> str:
    """What is printed, standard error included."""
    result = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def evaluate(*arguments: str | Path) -> str:
    return run(evaluate_command.command, *arguments)


def fuse(*arguments: str | Path) -> str:
    return run(fuse_command.command, *arguments)


QUICK = ("--frames", "2", "--crops", "1", "--device", "cpu", "--on-damage", "skip", "--workers", "1")


def test_evaluate_saves_scores_beside_the_checkpoint_or_elsewhere(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    said = evaluate(folder / "checkpoint.pt", flow_folder(), *QUICK)
    target = folder / "temporal-split2-test.npz"
    scores = Scores.load(target)
    assert f"{scores}\nsaved: {target}" in said
    assert "5 videos, accuracy" in said
    assert (scores.frames, scores.crops, scores.name) == (2, 1, "temporal")
    evaluate(folder, flow_folder(), *QUICK, "--split", 1, "--part", "", "--name", "all of it", "-o", tmp_path / "else")
    assert Scores.load(tmp_path / "else" / "all of it-split1-all.npz").name == "all of it"


def test_scores_of_another_dataset_are_not_replaced_without_a_word(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    target = folder / "temporal-split2-test.npz"
    for _ in range(2):
        assert "replace" not in evaluate(folder, flow_folder(), *QUICK)
    mine = Scores.load(target)
    replace(mine, dataset="/other.zarr").save(target)  # moved since
    assert "replace" not in evaluate(folder, flow_folder(), *QUICK)
    replace(mine, dataset="/other.zarr", fingerprint="other").save(target)
    assert f"{target}: had the scores of /other.zarr, which these replace." in evaluate(folder, flow_folder(), *QUICK)
    assert Scores.load(target).dataset == mine.dataset
    target.write_bytes(b"")
    assert "replace" not in evaluate(folder, flow_folder(), *QUICK)


def test_two_streams_at_once(tmp_path: Path) -> None:
    spatial, temporal = (trained(tmp_path / stream, stream) for stream in ("spatial", "temporal"))
    evaluate(spatial, temporal, flow_folder(), *QUICK, "-o", tmp_path, "-q")
    files = [tmp_path / f"{stream}-split2-test.npz" for stream in ("spatial", "temporal")]
    assert [Scores.load(file).stream for file in files] == ["spatial", "temporal"]
    with pytest.raises(UsageError, match="temporal-split2-test.npz would hold the scores of"):
        evaluate(temporal, temporal / "checkpoint.pt", flow_folder(), *QUICK)
    with pytest.raises(RefusedError, match="temporal lacks 1 video that spatial has: short/left/left_00.avi"):
        fuse(*files)
    said = fuse(*files, "--common", "-o", tmp_path / "fused.npz")
    assert "split 2: 5 videos in common, of up to 6" in said
    assert len(Scores.load(tmp_path / "fused.npz")) == 5


def test_an_interrupted_evaluation_says_that_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating.Scorer, "scores", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    folder = trained(tmp_path)
    with pytest.raises(UnfinishedError, match="nothing of .* is saved"):
        evaluate(folder, flow_folder(), *QUICK)
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]


def test_sigterm_says_what_ctrl_c_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating.Scorer, "scores", lambda *_: (_ for _ in ()).throw(SystemExit(75)))
    with pytest.raises(UnfinishedError, match="nothing of .* is saved"):
        evaluate(trained(tmp_path), flow_folder(), *QUICK)


def test_quiet_is_without_progress_not_without_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "SAY_SECONDS", -1.0)
    run = trained(tmp_path, training={"optimizer": {}, "sources": []})
    said = [evaluate(run, flow_folder(), *QUICK, *quiet) for quiet in ((), ("-q",))]
    assert ["of 5 videos" in text for text in said] == [True, False]
    assert all("its training is not finished" in text for text in said)


@pytest.mark.parametrize("output", ["file", "file/below", "n" * 300])
def test_where_scores_cannot_be_written_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.delattr(evaluating.Scorer, "scores")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="-o .*(no folder|can have that name)"):
        evaluate(trained(tmp_path), flow_folder(), *QUICK, "-o", tmp_path / output)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\x1b[2J", "\udcff"])
def test_names_that_no_file_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        evaluate(tmp_path, flow_folder(), "--name", name)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Scores of two streams in splits 1 and 2, in a folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    found = {}
    for seed, (stream, split, part) in enumerate(
        (stream, split, part) for stream in ("spatial", "temporal") for split in (1, 2) for part in ("test", "train")
    ):
        name = f"{stream}-split{split}-{part}"
        prefix = f"{part}{split}-"
        random_scores(seed, 24, 3, stream, split=split, part=part, prefix=prefix).save(Path(f"{name}.npz"))
        found[name] = Path(f"{name}.npz")
    return found


TESTS = ("spatial-split1-test.npz", "temporal-split1-test.npz")
LESSONS = ("--train", "spatial-split1-train.npz", "--train", "temporal-split1-train.npz")


@pytest.mark.usefixtures("files")
def test_fuse_is_the_function(tmp_path: Path) -> None:
    streams = [Scores.load(Path(name)) for name in TESTS]
    said = fuse(*TESTS, "--method", "weighted", "--weights", "2,1")
    target = Path("fused-weighted-split1-test.npz")
    expected = fusion.fuse(streams, "weighted", (2, 1))
    assert Scores.load(target).scores.tobytes() == expected.scores.tobytes()
    assert said == "".join(f"{one}\n" for one in (*streams, expected)) + f"saved: {target}\n"
    Path("link.npz").symlink_to("folder/s.npz")
    Path("folder").mkdir()
    said = fuse(*TESTS, "--method", "svm", *LESSONS, "-o", tmp_path / "link.npz")
    assert "of 18 training videos right in 5-fold cross-validation" in said
    assert Scores.load(tmp_path / "folder/s.npz").name == "fused, svm" and Path("link.npz").is_symlink()
    given = fuse(*TESTS, "--method", "svm", *LESSONS, "--svm-c", "2")
    assert "cross-validation" not in given


def test_several_splits_are_fused_each_and_averaged(files: dict[str, Path]) -> None:
    tests = [path for name, path in files.items() if name.endswith("test")]
    said = fuse(*tests, "-o", "out.npz").splitlines()
    fused = [Scores.load(Path(f"out-split{split}.npz")) for split in (1, 2)]
    assert [scores.split for scores in fused] == [1, 2]
    assert said[-1] == (
        f"fused, average, mean over 2 splits: accuracy {50 * (fused[0].accuracy + fused[1].accuracy):.2f} %"
    )
    assert said[-3].startswith("spatial, mean over 2 splits: accuracy")


def test_weights_are_of_the_streams_whatever_their_order(files: dict[str, Path]) -> None:
    tests = [Path(f"{name}-test.npz") for name in ("spatial-split1", "temporal-split1", "temporal-split2")]
    fuse(*tests, files["spatial-split2-test"], "--method", "weighted", "--weights", "3,1", "-o", "out.npz")
    for split in (1, 2):
        streams = [Scores.load(files[f"{stream}-split{split}-test"]) for stream in ("spatial", "temporal")]
        expected = fusion.fuse(streams, "weighted", (3, 1))
        assert Scores.load(Path(f"out-split{split}.npz")).scores.tobytes() == expected.scores.tobytes()


@pytest.mark.usefixtures("files")
def test_every_split_has_the_same_streams_two_or_more() -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(UsageError, match="splits 1 and 2 have not the same streams; only one has: spatial"):
        fuse(*TESTS, "temporal-split2-test.npz", "-o", "out.npz")
    with pytest.raises(UsageError, match="splits 1 and 2 have not the same streams; only one has: spatial, temporal"):
        fuse(TESTS[0], "temporal-split2-test.npz")
    with pytest.raises(UsageError, match="temporal, split 1: one stream alone"):
        fuse(TESTS[1], "temporal-split2-test.npz")
    assert sorted(Path().iterdir()) == before


@pytest.mark.usefixtures("files")
def test_names_do_not_steer_the_terminal() -> None:
    replace(Scores.load(Path(TESTS[1])), name="a\x1b[2J\udcffb").save(Path(TESTS[1]))
    assert "a?[2J?b, split 1, test" in fuse(*TESTS)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((*TESTS, "-o", "."), "a folder; name a file"),
        ((*TESTS, "-o", "new/"), "a folder; name a file"),
        ((*TESTS, "-o", "nowhere/fused.npz"), "there is no such folder"),
        ((*TESTS, "-o", "/dev/null"), "not a file"),
        ((*TESTS, "--weights", "1;2"), "numbers with commas"),
        ((*TESTS, TESTS[0]), "another file has spatial scores of split 1"),
        ((*TESTS, "--method", "svm", *LESSONS, "--train", "spatial-split2-train.npz"), "scores of split 2, of which"),
        ((*TESTS, "--method", "svm"), "flowprep evaluate --part train"),
        ((*TESTS, "-o", TESTS[1]), "one of the files to read"),
    ],
)
@pytest.mark.usefixtures("files")
def test_what_fuse_refuses(arguments: tuple[str, ...], match: str) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(UsageError, match=match):
        fuse(*arguments)
    assert sorted(Path().iterdir()) == before


@pytest.mark.usefixtures("files")
def test_classes_in_another_order_are_aligned() -> None:
    temporal = Scores.load(Path(TESTS[1]))
    turned = temporal.arranged(temporal.ids[::-1], temporal.classes[::-1])
    expected = fuse(*TESTS)
    replace(turned).save(Path(TESTS[1]))
    assert fuse(*TESTS) == expected


def test_each_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [trained(tmp_path / stream, stream) for stream in ("spatial", "temporal")]
    read, load = [], checkpoints.load
    monkeypatch.setattr(checkpoints, "load", lambda path: (read.append(path), load(path))[1])
    evaluate(*runs, flow_folder(), *QUICK, "-o", tmp_path)
    assert read == runs


def test_what_is_written_down_twice_is_the_same() -> None:
    """Commands do not import what takes long, and the report is read without PyTorch."""
    assert tuple(fuse_command.METHODS) == fusion.METHODS
    assert tuple(experiment_command.TABLES) == tuple(CAPTIONS)
    for command in (evaluate_command.command, predict_command.command):
        (crops,) = (option.type for option in command.params if option.name == "crops")
        assert crops.choices == tuple(map(str, evaluating.CROPS))
    assert tuple(evaluating.CROPS) == experiment_config.CROPS
    assert network.RGB == pictures.RGB
    assert (tasks.TRAIN, tasks.TESTS[0]) == (TRAIN, TEST)
