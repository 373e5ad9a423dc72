"""The tables of the two-stream paper, made again on small data: every row, in one go or many."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowprep.errors import UnfinishedError
from flowprep.train import evaluate as evaluating
from flowprep.train import fusion
from flowprep.train.checkpoint import load
from flowprep.train.experiment import kept, laboratory, lines_of, made
from flowprep.train.fusion import fuse
from flowprep.train.paper import CAPTIONS, RESULTS
from flowprep.train.run_folder import claimed
from flowprep.train.scores import Scores
from tests.experiment_data import dataset, made_by, pipeline, run, weights
from tests.one_thread import one_thread  # noqa: F401 - for all tests here
from tests.training_data import same


@pytest.fixture(scope="module", autouse=True)
def quick_fits() -> Iterator[None]:
    """A fusion that learns tries little: how well it does is of no account here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "CANDIDATES", (0.1, 1.0))
        yield


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline file of which all tables have been made."""
    file = pipeline(tmp_path_factory.mktemp("everything"))
    for table in CAPTIONS:
        run(file, table, "--json", str(file.with_name(f"{table}.json")))
    return file


def rows_of(file: Path, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(file.with_name(f"{table}.json").read_text())["rows"]
    return rows


# --- all rows ---


@pytest.mark.parametrize("table", CAPTIONS)
def test_every_row_is_made_or_says_why_not(everything: Path, table: str) -> None:
    rows = rows_of(everything, table)
    results = [result for result in RESULTS if result.table == table]
    assert [row["row"] for row in rows] == [result.row for result in results]
    for row, result in zip(rows, results, strict=True):
        assert not row["failed"]
        assert (row["here"] is None) == bool(row["not_run"]) == (result.stream == "")
        assert row["splits"] == list(result.splits)
        if result.stream:
            assert row["by_split"].keys() == set(map(str, result.splits))
            assert row["here"] == pytest.approx(sum(row["by_split"].values()) / len(result.splits))
        else:
            assert row["not_run"] == "another method than the paper's two streams"
            assert row["runs"] == []


def test_runs_are_what_the_rows_say(everything: Path) -> None:
    def of(table: str, row: int, number: int = -1) -> Any:
        return load(Path(rows_of(everything, table)[row - 1]["runs"][number]))

    values = [(of("1a", row).config.solver.regime, of("1a", row).config.net.dropout) for row in range(1, 7)]
    assert values == [(regime, share) for regime in ("scratch", "fine-tune", "last-layer") for share in (0.5, 0.9)]
    assert [of("1a", row).config.net.weights for row in (1, 3, 5)] == ["", str(weights()), str(weights())]
    assert {of("1a", row).channels for row in range(1, 7)} == {3}

    stacks = [of("1b", row) for row in range(1, 8)]
    assert [item.channels for item in stacks] == [2, 10, 20, 20, 20, 20, 20]
    assert [item.config.stack.mean_subtract for item in stacks] == [True, True, False, True, False, True, True]
    assert [item.config.stack.kind for item in stacks] == [*["flow"] * 4, *["trajectory"] * 2, "flow"]
    assert [item.config.dataset for item in stacks] == [*[str(dataset("ucf101"))] * 6, str(dataset("both"))]
    assert stacks[6].config.stack.bidirectional
    assert all((item.config.net.dropout, item.config.solver.regime) == (0.9, "scratch") for item in stacks)

    alone, tuned, added, multi, ucf = (of("2", row) for row in range(1, 6))
    hmdb, ucf101 = ("heighten", "rotate"), ("Left", "Rotate", "ZoomIn")
    assert [task.classes for task in alone.tasks] == [task.classes for task in tuned.tasks] == [hmdb]
    assert [task.classes for task in added.tasks] == [(*hmdb, "Left", "ZoomIn")]
    assert [task.classes for task in multi.tasks] == [hmdb, ucf101]
    assert [task.classes for task in ucf.tasks] == [ucf101, hmdb]
    start = of("2", 2, number=0)
    assert tuned.config.solver.regime == "fine-tune"
    assert Path(tuned.config.net.weights).parent == Path(rows_of(everything, "2")[1]["runs"][0])
    assert (start.config.dataset, start.config.data.whole) == (str(dataset("ucf101")), True)

    three = rows_of(everything, "4")[9]
    assert (three["row"], three["data"]) == ("temporal net", "ucf101, splits 1, 2, 3")
    assert [load(Path(folder)).config.data.split for folder in three["runs"]] == [1, 2, 3]
    assert three["runs"][0] == rows_of(everything, "2")[4]["runs"][0]


def test_rows_share_runs(everything: Path) -> None:
    folders = {path.name for path in (everything.parent / "runs").iterdir()}
    named = [Path(run).name for table in CAPTIONS for row in rows_of(everything, table) for run in row["runs"]]
    assert folders == set(named)
    assert len(folders) == 28 < len(named)


@pytest.mark.parametrize(("number", "method"), [(2, "average"), (4, "svm")])
def test_fused_rows_are_fusions_of_their_streams(everything: Path, number: int, method: str) -> None:
    row = rows_of(everything, "3")[number - 1]
    spatial, temporal = map(Path, row["runs"])

    def of(part: str) -> list[Scores]:
        files = [spatial / f"spatial-split1-{part}.npz", temporal / f"temporal-split1-{part}.npz"]
        return [Scores.load(file) for file in files]

    fused = fuse(of("test"), method, training=of("train") if method == "svm" else ())
    assert np.array_equal(fused.scores, Scores.load(temporal / f"fused-{method}-split1-test.npz").scores)
    assert row["here"] == fused.accuracy


# --- again ---


def test_nothing_is_made_twice(everything: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = []
    monkeypatch.setattr(laboratory, "evaluate", lambda *_, **__: again.append("evaluated"))
    monkeypatch.setattr(laboratory, "fuse", lambda *_, **__: again.append("fused"))
    before = {path: path.stat().st_mtime_ns for path in everything.parent.glob("runs/*/*")}
    for table in CAPTIONS:
        target = everything.with_name("again.json")
        printed = run(everything, table, "-q", "--json", str(target)).output.strip()
        assert target.read_bytes() == everything.with_name(f"{table}.json").read_bytes()
        assert printed in run(everything, table, "--list").output
    assert not again
    assert {path: path.stat().st_mtime_ns for path in everything.parent.glob("runs/*/*")} == before


def test_scores_are_made_again_where_they_no_longer_hold(tmp_path: Path) -> None:
    said: list[str] = []

    def evaluated(**experiment: Any) -> bool:
        said.clear()
        room = made_by(pipeline(tmp_path, experiment=experiment), said.append)
        (line,) = lines_of("1a", room, rows=[1])
        assert made(line, room).accuracies
        return any(text.startswith("evaluating") for text in said)

    assert evaluated()
    assert not evaluated()
    assert evaluated(frames=3)
    assert evaluated(frames=3, crops=2)
    (file,) = tmp_path.glob("runs/*/*.npz")
    os.utime(file, ns=(0, 0))  # older than the checkpoint
    assert evaluated(frames=3, crops=2)
    replace(Scores.load(file), fingerprint="of what the dataset was").save(file)
    assert evaluated(frames=3, crops=2)
    file.write_bytes(b"damaged")
    assert evaluated(frames=3, crops=2)


def test_what_is_trained_is_not_said_to_be_trained_again(everything: Path) -> None:
    said: list[str] = []
    room = made_by(everything, said.append)
    rows = [made(line, room) for line in lines_of("3", room)]
    assert said == [f"row {row.number}, {row.result.row}: {row.accuracy:.1%}" for row in rows]


@pytest.mark.parametrize(("part", "again"), [("train", [4]), ("test", [3, 4])])
def test_what_is_fused_is_so_anew_where_scores_have_changed(everything: Path, part: str, again: list[int]) -> None:
    """Of rows 3, by averaging, and 4, by an SVM that learns from the training part."""
    said: list[str] = []
    room = made_by(everything, said.append)
    lines = lines_of("3", room, rows=[3, 4])
    room.file(lines[0].runs[1], part).touch()
    assert [line.accuracy is None for line in map(kept, lines, [room] * 2)] == [line.number in again for line in lines]
    done = [made(line, room) for line in lines]
    assert [row["here"] for row in rows_of(everything, "3")[2:]] == [line.accuracy for line in done]
    methods = [line.recipes[0].method for line in lines if line.number in again]
    assert [text.rpartition(" ")[2] for text in said if text.startswith("fusing")] == methods


def test_warnings_are_shown_whenever_a_row_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of progress nothing is, with -q.

    The network of row 5 has learned from all videos of the other dataset, which here is the same one.
    """
    monkeypatch.setattr(evaluating, "SAY_SECONDS", -1.0)
    file = pipeline(tmp_path, experiment={"hmdb51": str(dataset("ucf101"))})
    arguments = ("--rows", "5", "-q", "--json", str(tmp_path / "2.json"))
    warning = "3 of 3 test videos were trained on: this is no test"
    first = run(file, "2", *arguments).output
    assert "3 of 3 videos were trained on (split 1): this is no test." in first
    table = run(file, "2", *arguments).output
    assert first.endswith(table) and f"Warnings:\n  5: {warning}.\n" in table
    assert rows_of(file, "2")[0]["warnings"] == [warning]
    assert warning in run(file, "2", "--rows", "5", "--list").output
    for progress in ("training ", "evaluating", "/s", "row 5"):
        assert progress not in first


def test_a_stopped_table_goes_on_as_if_nothing_had_been(everything: Path, tmp_path: Path) -> None:
    file = pipeline(tmp_path)
    lines: list[str] = []

    def stop(text: str) -> None:
        lines.append(text)
        if len([line for line in lines if line.startswith("1/2")]) == 2:  # in the second run
            os.kill(os.getpid(), signal.SIGINT)
            lines.clear()

    room = made_by(file, stop)
    with pytest.raises(UnfinishedError, match="stopped after iteration 1 of 2; the same command goes on"):
        [made(line, room) for line in lines_of("1b", room, rows=[1, 2])]
    listed = run(file, "1b", "--rows", "1,2", "--list").output
    assert "ucf101-temporal-flow1-split1: trained" in listed
    assert "ucf101-temporal-flow5-split1: 1 of 2 iterations" in listed
    first, second = rows_of(everything, "1b")[:2]
    assert f"{first['here']:.1%}".replace("%", " %") in listed
    run(file, "1b", "--rows", "1,2", "--json", str(tmp_path / "1b.json"))
    assert [row["here"] for row in rows_of(file, "1b")] == [first["here"], second["here"]]
    for row, whole in zip(rows_of(file, "1b"), (first, second), strict=True):
        assert same(load(Path(row["runs"][0])).model, load(Path(whole["runs"][0])).model)


def test_a_stop_at_the_end_of_a_run_is_not_lost(tmp_path: Path) -> None:
    def stop(text: str) -> None:
        if text.startswith("2: validation"):
            os.kill(os.getpid(), signal.SIGTERM)

    room = made_by(pipeline(tmp_path), stop)
    (line,) = lines_of("1b", room, rows=[1])
    with pytest.raises(UnfinishedError, match="the same command goes on"):
        made(line, room)
    assert not list(tmp_path.glob("runs/*/*.npz"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupted_while_evaluating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(laboratory, "evaluate", interrupted)
    with pytest.raises(UnfinishedError, match="the same command goes on"):
        run(pipeline(tmp_path), "1b", "--rows", "1")


def test_a_run_in_use_is_left_to_who_makes_it(tmp_path: Path) -> None:
    room = made_by(pipeline(tmp_path))
    (line,) = lines_of("1b", room, rows=[1])
    with claimed(room.folder(line.runs[0])):
        done = made(line, room)
    assert done.failed
    assert "another process is training there" in done.why_not
