"""The numbers of the two-stream paper, and when a report puts them beside its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowprep.config import StreamConfig
from flowprep.train.paper import CAPTIONS, CLASSES, RESULTS, TEST_VIDEOS
from flowprep.train.report.comparison import comparison, fused_setting, setting_of
from flowprep.train.report.tables import Row, rows_of
from tests.report_data import made

# The tables, row by row: (dataset, accuracies).
TABLES = {
    "1a": {"ucf101": [42.5, 52.3, 70.8, 72.8, 72.7, 59.9, 56.4]},
    "1b": {"ucf101": [73.9, 80.4, 79.9, 81.0, 79.6, 80.2, 81.2]},
    "2": {"ucf101": [81.5], "hmdb51": [46.6, 49.0, 52.8, 55.4]},
    "3": {"ucf101": [85.6, 85.9, 86.2, 87.0]},
    "4": {
        "ucf101": [85.9, 87.9, 65.4, 73.0, 83.7, 86.9, 88.0],
        "hmdb51": [57.2, 61.1, 66.8, 22.8, 40.5, 54.6, 58.0, 59.4],
    },
}


def scores(stream: str, dataset: str = "ucf101", splits: tuple[int, ...] = (1,), **about: Any) -> list[Row]:
    classes = CLASSES[dataset]
    return rows_of(
        [
            made(
                about.get("name", stream),
                classes=[f"class {number}" for number in range(about.get("classes", classes))],
                labels=[number % classes for number in range(TEST_VIDEOS[dataset][split] - about.get("lacking", 0))],
                split=split,
                seed=split,
                part=about.get("part", "test"),
            )
            for split in splits
        ]
    )


def setting(stream: str, **changes: Any) -> dict[str, Any]:
    """Of a checkpoint that was trained as the paper does unless ``changes`` say otherwise."""
    regime = "last-layer" if stream == "spatial" else "scratch"
    dropout = 0.5 if stream == "spatial" else 0.9
    tree: dict[str, Any] = {"stream": stream, "net": {"dropout": dropout}, "solver": {"regime": regime}}
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    return setting_of(StreamConfig.from_json(tree), None)


def placed(found: dict[str, Any]) -> list[tuple[str, float]]:
    """(table, the paper's number) of every row that has a counterpart."""
    return [(table["table"], line["paper"]) for table in found["tables"] for line in table["results"] if line["here"]]


def test_every_number_of_the_tables() -> None:
    assert set(CAPTIONS) == set(TABLES)
    for table, by_dataset in TABLES.items():
        for dataset in CLASSES:
            found = [item.accuracy for item in RESULTS if (item.table, item.dataset) == (table, dataset)]
            assert found == by_dataset.get(dataset, []), (table, dataset)
    assert all(item.splits == ((1, 2, 3) if item.table == "4" else (1,)) for item in RESULTS)


def test_test_videos_are_those_of_the_official_lists(data: Path) -> None:
    for split in (1, 2, 3):
        lines = (data / f"splits/ucf101/testlist0{split}.txt").read_text().split()
        assert len(lines) == TEST_VIDEOS["ucf101"][split]
        lists = list((data / "splits/hmdb51").glob(f"*_test_split{split}.txt"))
        assert len(lists) == CLASSES["hmdb51"]
        tests = [line for path in lists for line in path.read_text().splitlines() if line.split()[1:] == ["2"]]
        assert len(tests) == TEST_VIDEOS["hmdb51"][split]


@pytest.mark.parametrize(
    ("stream", "changes", "number"),
    [
        ("spatial", {}, ("1a", 0.727)),
        ("spatial", {"net": {"dropout": 0.9}}, ("1a", 0.599)),
        ("spatial", {"solver": {"regime": "scratch"}, "net": {"dropout": 0.9}}, ("1a", 0.523)),
        ("temporal", {}, ("1b", 0.81)),
        ("temporal", {"stack": {"length": 5}}, ("1b", 0.804)),
        ("temporal", {"stack": {"mean_subtract": False}}, ("1b", 0.799)),
        ("temporal", {"stack": {"kind": "trajectory"}}, ("1b", 0.802)),
        ("temporal", {"stack": {"bidirectional": True}}, ("1b", 0.812)),
        ("temporal", {"data": {"also": ["hmdb51.zarr"]}}, ("2", 0.815)),
        ("temporal", {"stack": {"length": 6}}, None),
        ("temporal", {"net": {"width": 0.5}}, None),
        ("temporal", {"net": {"name": "resnet18"}}, None),
    ],
)
def test_a_run_stands_beside_its_counterpart(stream: str, changes: dict[str, Any], number: Any) -> None:
    (row,) = rows = scores(stream)
    found = comparison(rows, {stream: setting(stream, **changes)})
    assert found["why_not"] == ""
    assert placed(found) == ([number] if number else [])
    others = [(table["table"], item) for table in found["tables"] for item in table["others"]]
    table = "1a" if stream == "spatial" else "1b"
    assert others == ([] if number else [(table, {"name": stream, "accuracy": row.accuracy})])


def test_the_stacking_of_a_dataset_of_stacks_counts() -> None:
    config = StreamConfig.from_json({"stream": "temporal", "stack": {"mean_subtract": False}})
    stored = {"kind": "trajectory", "length": 5, "bidirectional": False, "mean_subtract": True}
    found = setting_of(config, stored)
    assert (found["kind"], found["length"], found["mean_subtract"]) == ("trajectory", 5, False)


def test_hmdb51_and_three_splits() -> None:
    rows = scores("temporal", "hmdb51", (1, 2, 3))
    found = comparison(rows, {"temporal": setting("temporal", data={"also": ["ucf101.zarr"]})})
    assert found["dataset"] == "HMDB-51"
    assert placed(found) == [("2", 0.554), ("4", 0.546)]
    here = [line["here"][0]["accuracy"] for table in found["tables"] for line in table["results"] if line["here"]]
    assert here == [rows[0].by_split[1].accuracy, pytest.approx(rows[0].accuracy)]


@pytest.mark.parametrize(
    ("name", "tasks", "number"),
    [
        ("fused, average", [], ("3", 0.859)),
        ("fused, average", ["hmdb51.zarr"], ("3", 0.862)),
        ("fused, svm", ["hmdb51.zarr"], ("3", 0.87)),
        ("fused, svm", [], None),
        ("fused, max", [], None),
    ],
)
def test_fused_streams(name: str, tasks: list[str], number: Any) -> None:
    rows = [*scores("spatial"), *scores("temporal"), *scores("fused", name=name)]
    settings = {"spatial": setting("spatial"), "temporal": setting("temporal", data={"also": tasks})}
    settings[name] = fused_setting(name, rows, settings)
    found = comparison(rows, settings)
    assert [item for item in placed(found) if item[0] == "3"] == ([number] if number else [])
    assert fused_setting(name, rows[1:], settings) == {}
    assert fused_setting(name, rows, {"spatial": setting("spatial")}) == {}


@pytest.mark.parametrize(
    ("rows", "why_not"),
    [
        (lambda: scores("spatial", classes=102), "UCF-101 with 101 and HMDB-51 with 51 classes; this dataset has 102"),
        (lambda: scores("spatial", lacking=3), "its split 1 has 3,783 videos, and spatial has scores of 3,780"),
        (lambda: scores("spatial", part="train"), "these scores are of train"),
        (lambda: scores("spatial", splits=(2,)), "numbers for split 1 and for the mean over the three splits"),
    ],
)
def test_other_videos_are_not_compared(rows: Any, why_not: str) -> None:
    found = comparison(rows(), {"spatial": setting("spatial")})
    assert why_not in found["why_not"]
    assert found["tables"] == []


def test_without_a_checkpoint_nothing_is_a_counterpart() -> None:
    found = comparison(scores("temporal"), {})
    assert placed(found) == []
    assert [item["name"] for table in found["tables"] for item in table["others"]] == ["temporal"]
