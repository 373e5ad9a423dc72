"""For tests of reports: scores and run folders to show, and what their pages say, read as a browser reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from flowprep.config import StreamConfig
from flowprep.train.checkpoint import Checkpoint, Task, save
from flowprep.train.nets import build
from flowprep.train.report import write_report
from flowprep.train.scores import Scores

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "{{ 7 * 7 }}{% raw %}",
    "long" * 500,
    "مشي إلى الوراء",
    "\u202egnp.exe\u202c and \x1b[31mred",
    "走る 🏃",
)
CLASSES = ("bend", "clap", "dive", "jump", "run", "wave", "yawn")  # nobody yawns


def made(
    name: str = "temporal",
    *,
    classes: Sequence[str] = CLASSES,
    labels: Sequence[int] | None = None,
    right: float = 0.6,
    seed: int = 0,
    **about: Any,
) -> Scores:
    """Random scores; a share ``right`` of the videos is recognised. Default: 40 videos of all classes but the last."""
    draws = np.random.default_rng(seed)
    known = np.arange(40) % 6 if labels is None else np.array(labels)
    scores = draws.random((len(known), len(classes)))
    hit = np.flatnonzero((draws.random(len(known)) < right) & (known >= 0))
    scores[hit, known[hit]] += 1
    scores /= scores.sum(axis=1, keepdims=True)
    fields = {"split": 1, "part": "test", "frames": 25, "crops": 10, "net": "cnn-m-2048"}
    return Scores(
        scores=scores.astype(np.float32),
        labels=known.astype(np.int64),
        ids=about.pop("ids", tuple(f"{classes[label]}/v{number:04}.avi" for number, label in enumerate(known))),
        classes=tuple(classes),
        name=name,
        stream=about.pop("stream", name if name in ("spatial", "temporal") else "fused"),
        **(fields | about),
    )


class Page(HTMLParser):
    """Elements, attributes and texts of a page; the numbers of each section, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.numbers: dict[str, list[float]] = {}
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "section":
            self._section = attributes["id"] or ""
            self.numbers[self._section] = []
        if tag == "data":
            self.numbers[self._section].append(float(attributes["value"] or ""))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def numbers_of(tree: dict[str, Any]) -> dict[str, list[float]]:
    """The numbers that the tables of a page must show, section by section, from its JSON tree."""
    accuracy: list[float] = []
    for row in tree["rows"]:
        for item in row["splits"]:
            accuracy += [item["accuracy"], item["low"], item["high"]]
        if len(row["splits"]) > 1:
            accuracy.append(row["accuracy"])
        accuracy.append(row["mean_recall"])
        accuracy += [row["inputs"], row["frames"], row["crops"]] if row["inputs"] else []
    paper = [
        number
        for table in tree["paper"]["tables"]
        for number in [
            *(n for line in table["results"] for n in [line["paper"], *(here["accuracy"] for here in line["here"])]),
            *(item["accuracy"] for item in table["others"]),
        ]
    ]
    return {
        "accuracy": accuracy,
        "paper": paper,
        "recall": [n for item in tree["recall"]["classes"] for n in [item["videos"], *item["recall"]]],
        "confusion": [],
        "hardest": [n for item in tree["hardest"]["confusions"] for n in [item["times"], item["videos"]]],
        "runs": [],
    }


def report(scores: list[Scores], path: Path) -> dict[str, Any]:
    return write_report(scores, path, say=lambda _: None)


def written(folder: Path, scores: list[Scores]) -> dict[str, Any]:
    """The JSON tree of a report in ``folder``, as it is in the file, too."""
    tree = report(scores, folder / "report.html")
    assert json.loads((folder / "report.json").read_text()) == tree
    return tree


def run_folder(folder: Path, stream: str = "temporal", channels: int = 4) -> Path:
    """A run folder with a small network that was not trained; path of its checkpoint."""
    folder.mkdir(parents=True)
    tree = {
        "stream": stream,
        "dataset": "ucf.zarr",
        "net": {"width": 0.05},
        "data": {"crop": 48},
        "stack": {"length": 2},
        "solver": {"learning_rate": 0.0123},
    }
    config = StreamConfig.from_json(tree)
    model = build(config.net, channels, [7], crop=48).state_dict()
    task = Task("ucf", "ucf.zarr", "f" * 64, CLASSES)
    versions = {"flowprep": "0.1.0", "torch": "2"}
    save(
        folder / "checkpoint.pt",
        Checkpoint(config, 77, [task], channels, {"flow": {"method": "tvl1"}}, model, versions=versions),
    )
    return folder / "checkpoint.pt"


def log(folder: Path, entries: list[dict[str, Any]], more: str = "") -> None:
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + more)


ENTRIES = [
    {"iteration": 20, "loss": 2.0, "accuracy": 0.25, "learning_rate": 0.01, "losses": {"ucf": 2.0}},
    {"iteration": 40, "loss": 1.0, "accuracy": 0.5, "learning_rate": 0.001, "losses": {"ucf": 1.0}},
    {"iteration": 40, "validation_loss": 1.5, "validation_accuracy": 0.4},
]
