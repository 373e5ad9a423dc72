"""What a report adds to its scores: learning curves, filters and frames, as far as there are any."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowprep.show import flow_to_rgb
from flowprep.store.reader import Dataset
from flowprep.train.report.curves import plot
from flowprep.train.report.names import shown
from flowprep.train.report.pictures import MARGIN, MIDDLE, Videos, filters_picture
from flowprep.train.report.runs import POINTS, curves_of
from flowprep.train.scores import Scores
from tests import loader_data
from tests.in_process import stack
from tests.report_data import ENTRIES, log, made, read, run_folder, written


def test_training_is_shown(tmp_path: Path) -> None:
    checkpoint = run_folder(tmp_path / "run")
    log(checkpoint.parent, ENTRIES)
    (run,) = written(tmp_path, [made(checkpoint=str(checkpoint))])["runs"]
    assert run["notes"] == []
    assert run["iteration"] == 77
    assert run["settings"]["solver.learning_rate"] == "0.0123"
    assert run["settings"]["dataset.flow.method"] == "tvl1"
    assert run["versions"] == {"flowprep": "0.1.0", "torch": "2"}
    assert run["curves"] == [
        {
            "title": "loss",
            "lines": [
                {"name": "training", "points": [[20, 2.0], [40, 1.0]]},
                {"name": "validation", "points": [[40, 1.5]]},
            ],
        },
        {
            "title": "accuracy",
            "lines": [
                {"name": "training", "points": [[20, 0.25], [40, 0.5]]},
                {"name": "validation", "points": [[40, 0.4]]},
            ],
        },
        {"title": "learning rate", "lines": [{"name": "training", "points": [[20, 0.01], [40, 0.001]]}]},
    ]
    page = read(tmp_path / "report.html")
    assert "0.0123" in page.text
    assert len(page.of("polyline")) == 5
    (filters,) = page.of("img")
    assert (filters["src"] or "").startswith("data:image/png;base64,")


def test_what_is_missing_is_a_sentence(tmp_path: Path) -> None:
    gone = made("spatial", checkpoint=str(tmp_path / "gone" / "checkpoint.pt"), dataset=str(tmp_path / "gone.zarr"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "bad" / "log.jsonl").write_text("\n")
    bad = made("temporal", checkpoint=str(tmp_path / "bad" / "checkpoint.pt"), dataset="\0")
    tree = written(tmp_path, [gone, bad])
    for run in tree["runs"]:
        assert "checkpoint cannot be read" in run["notes"][0]
        assert "no learning curves" in run["notes"][-1]
    text = read(tmp_path / "report.html").text
    for note in [note for run in tree["runs"] for note in run["notes"]] + tree["hardest"]["notes"]:
        assert shown(note, 400) in text
    assert len(tree["hardest"]["notes"]) == 2
    written(tmp_path, [made()])
    assert "The scores name no checkpoints" in read(tmp_path / "report.html").text


def test_without_torch_the_scores_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = run_folder(tmp_path / "run")
    log(checkpoint.parent, ENTRIES)
    for name in ("flowprep.train.checkpoint", "flowprep.train.progress", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "flowprep.train.log", raising=False)
    tree = written(tmp_path, [made(checkpoint=str(checkpoint))])
    assert tree["rows"]
    assert "pip install" in tree["runs"][0]["notes"][0]
    assert len(tree["runs"][0]["notes"]) == 1 and tree["runs"][0]["curves"]


def test_a_damaged_log_gives_what_it_has(tmp_path: Path) -> None:
    checkpoint = run_folder(tmp_path / "run")
    bad = 'half a li\n[1, 2]\n{"iteration": "x"}\n{"iteration": -1}\n{"iteration": NaN, "loss": 1}\n'
    strange = [{"iteration": 60, "loss": float("nan"), "accuracy": "high", "losses": 3, "learning_rate": True}]
    log(checkpoint.parent, [*ENTRIES, *strange], bad)
    (run,) = written(tmp_path, [made(checkpoint=str(checkpoint))])["runs"]
    assert "5 of its lines are no entries" in run["notes"][0]
    assert run["curves"][0]["lines"][0]["points"] == [[20, 2.0], [40, 1.0]]
    log(checkpoint.parent, ENTRIES, "[" * 9999)  # too deep to be read
    (run,) = written(tmp_path, [made(checkpoint=str(checkpoint))])["runs"]
    assert "1 of its lines are no entries" in run["notes"][0] and run["curves"]


def test_long_curves_are_thinned_to_means() -> None:
    entries = [{"iteration": number, "loss": float(number % 2)} for number in range(4 * POINTS)]
    ((line,),) = [curve["lines"] for curve in curves_of(entries)]
    assert [y for _, y in line["points"]] == [0.5] * POINTS
    assert line["points"][-1][0] == 4 * POINTS - 1


def test_tasks_have_lines_of_their_own() -> None:
    entries = [{"iteration": 1, "loss": 3.0, "losses": {"ucf101": 1.0, "hmdb51": 2.0}}]
    assert [line["name"] for line in curves_of(entries)[0]["lines"]] == ["training", "ucf101", "hmdb51"]


@pytest.mark.parametrize("title", ["loss", "accuracy", "learning rate"])
@pytest.mark.parametrize("values", [[0.0], [1e299, -1e299], [-1e200], [1e-300, 1.0], [0.5, 0.5], [3.0, 1e-9, 0.2]])
def test_any_curve_stays_in_its_picture(title: str, values: list[float]) -> None:
    points = [[number * 1000, value] for number, value in enumerate(values)]
    drawn = plot({"title": title, "lines": [{"name": "training", "points": points}]})
    left, right, top, bottom = drawn["frame"]
    for x, y in drawn["lines"][0]["dots"]:
        assert left <= x <= right
        assert y <= bottom
        assert top <= y or title == "accuracy"  # a share over 1 is none
    assert 1 <= len(drawn["y"]) <= 8
    assert all(top <= y <= bottom for y, _ in drawn["y"])


# --- pictures ---


def test_filters_of_flow_are_columns() -> None:
    kernels = np.random.default_rng(0).normal(size=(9, 4, 3, 3)).astype(np.float32)
    kernels[2] = 0
    picture = filters_picture(kernels)
    cell = picture.shape[1] // 9
    factor = cell // (3 + MARGIN)
    assert picture.shape == (4 * cell, 9 * cell)
    for number, channel in np.ndindex(9, 4):
        corner = picture[channel * cell :: factor, number * cell :: factor][:3, :3]
        largest = np.abs(kernels[number]).max() or 1
        assert np.array_equal(corner, np.rint(MIDDLE + (255 - MIDDLE) * kernels[number, channel] / largest))


def test_filters_of_frames_are_coloured_squares() -> None:
    kernels = np.zeros((20, 3, 7, 7), np.float32)
    kernels[17, 0], kernels[17, 2] = 1, -1
    picture = filters_picture(kernels)
    cell = picture.shape[1] // 16
    assert picture.shape == (2 * cell, 16 * cell, 3)
    assert picture[cell, cell].tolist() == [255, MIDDLE, 2 * MIDDLE - 255]
    assert filters_picture(np.full((4, 20, 7, 7), np.nan, np.float32)).max() == MIDDLE


def test_thumbnails_are_middle_frames(tmp_path: Path) -> None:
    path = loader_data.flow_folder()
    id = "left/left_00.avi"
    dataset = Dataset(path)
    middle = Videos([str(path)]).middle(id)
    assert middle is not None
    assert np.array_equal(middle.transpose(2, 0, 1), dataset.frames(id)[loader_data.FRAMES // 2])
    assert Videos([str(path)]).middle("another") is None

    ids = (id, "zoom_out/zoom_out_00.avi")
    scores = Scores(
        scores=np.array([[0.4, 0.6], [0.4, 0.6]], np.float32),
        labels=np.array([0, 1]),
        ids=ids,
        classes=("large", "small"),
        name="temporal",
        stream="temporal",
        split=1,
        part="test",
        frames=25,
        crops=10,
        dataset=str(path),
    )
    tree = written(tmp_path, [scores])
    assert [(item["video"], item["times"]) for item in tree["hardest"]["confusions"]] == [(id, 1)]
    assert tree["hardest"]["notes"] == []
    (image,) = read(tmp_path / "report.html").of("img")
    kind, data = (image["src"] or "").split(",")
    assert kind == "data:image/jpeg;base64"
    drawn = np.array(Image.open(io.BytesIO(base64.b64decode(data))), np.int64)
    assert np.abs(drawn - middle).mean() < 8  # it is that picture, in JPEG


def test_without_frames_the_flow_is_drawn(tmp_path: Path) -> None:
    stack(loader_data.flow_folder(), tmp_path / "stacks.zarr", length=2, every=4)
    id = "left/left_00.avi"
    middle = Videos([str(tmp_path / "stacks.zarr")]).middle(id)
    stacks = Dataset(tmp_path / "stacks.zarr").stacks(id)
    assert middle is not None
    assert np.array_equal(middle, flow_to_rgb(stacks[len(stacks) // 2, :2]))
    both = Videos([str(tmp_path / "stacks.zarr"), str(loader_data.flow_folder())]).middle(id)
    assert both is not None
    assert np.array_equal(both.transpose(2, 0, 1), Dataset(loader_data.flow_folder()).frames(id)[6])
