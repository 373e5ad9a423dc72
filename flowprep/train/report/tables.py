"""The numbers of a report, from scores alone: accuracies, recalls, confusions. All shares are in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import UsageError
from flowprep.train.scores import Scores
from flowprep.wording import some

NORMAL = 1.959964  # standard deviations on both sides that hold 95 % of a normal distribution
HARDEST = 12  # confusions that are listed


@dataclass(frozen=True)
class Row:
    """What one stream, or one way to fuse them, has scored: one row of the table of accuracies."""

    name: str
    by_split: dict[int, Scores]

    @property
    def stream(self) -> str:
        return next(iter(self.by_split.values())).stream

    @property
    def accuracy(self) -> float:
        """Mean over the splits."""
        return float(np.mean([scores.accuracy for scores in self.by_split.values()]))

    def confusion(self) -> NDArray[np.int64]:
        """(C, C) numbers of videos, of all splits added up: row = their class, column = what they are taken for."""
        total: NDArray[np.int64] = np.sum([scores.confusion() for scores in self.by_split.values()], axis=0)
        return total


def rows_of(scores: Sequence[Scores]) -> list[Row]:
    """``scores`` by name and split, all with the classes in one order; a name that comes again in a split is numbered.

    Raises UsageError for scores that do not belong in one report.
    """
    if not scores:
        raise UsageError("a report needs scores: name the files that flowprep evaluate or fuse has written.")
    first = scores[0]
    rows: dict[str, Row] = {}
    alike: dict[int, Scores] = {}  # the first of each split
    for item in scores:
        if differing := sorted(set(first.classes) ^ set(item.classes)):
            raise UsageError(
                f"{item.shown} and {first.shown} have not the same classes; only one has: {some(differing)}. "
                "A report is of one dataset: write one for each."
            )
        if item.part != first.part:
            raise UsageError(
                f"{item.shown} is of part {item.part!r}, {first.shown} of {first.part!r}: write a report for each."
            )
        beside = alike.setdefault(item.split, item)
        if differing := sorted(set(beside.ids) ^ set(item.ids)):
            raise UsageError(
                f"{item.shown} and {beside.shown} have not the same videos in split {item.split}; only one has: "
                f"{some(differing)}. Their numbers cannot be compared: evaluate both on the same videos."
            )
        if not item.known.any():
            raise UsageError(f"{item.shown}, split {item.split}: no video has a label, so there is nothing to report.")
        name, again = item.name, 1
        while name in rows and item.split in rows[name].by_split:
            again += 1
            name = f"{item.name} ({again})"
        rows.setdefault(name, Row(name, {})).by_split[item.split] = item.arranged(item.ids, first.classes)
    return [Row(row.name, dict(sorted(row.by_split.items()))) for row in rows.values()]


def main_row(rows: Sequence[Row]) -> Row:
    """The row whose errors are shown: the best of those that are fused, else the best."""
    return max([row for row in rows if row.stream == "fused"] or rows, key=lambda row: row.accuracy)


def dataset_name(rows: Sequence[Row]) -> str:
    """Name of the folder of the dataset, without ``.zarr``; "" where no scores name one."""
    paths = [Path(scores.dataset) for row in rows for scores in row.by_split.values() if scores.dataset]
    return paths[0].name.removesuffix(".zarr") if paths else ""


def wilson(right: int, videos: int) -> tuple[float, float]:
    """95 % score interval of the share ``right / videos`` (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    share, square = right / videos, NORMAL**2
    centre = share + square / (2 * videos)
    half = NORMAL * math.sqrt(share * (1 - share) / videos + square / (4 * videos**2))
    whole = 1 + square / videos
    return max(0.0, (centre - half) / whole), min(1.0, (centre + half) / whole)


def measured(row: Row) -> dict[str, Any]:
    """One row of the table of accuracies."""
    scores = list(row.by_split.values())
    return {
        "name": row.name,
        "stream": row.stream,
        "net": scores[0].net,
        "frames": scores[0].frames,
        "crops": scores[0].crops,
        "inputs": scores[0].frames * scores[0].crops,
        "splits": [_measured_split(item) for item in scores],
        "accuracy": row.accuracy,
        "mean_recall": float(np.mean([item.mean_recall for item in scores])),
    }


def _measured_split(scores: Scores) -> dict[str, Any]:
    videos = int(scores.known.sum())
    right = int((scores.predicted == scores.labels)[scores.known].sum())
    low, high = wilson(right, videos)
    return {
        "split": scores.split,
        "videos": videos,
        "unlabelled": len(scores) - videos,
        "right": right,
        "accuracy": scores.accuracy,
        "low": low,
        "high": high,
    }


def class_table(rows: Sequence[Row], main: Row) -> dict[str, Any]:
    """Recall of each class that has videos, by row; the classes that ``main`` knows best come first."""
    counts = {row.name: row.confusion() for row in rows}
    videos = counts[main.name].sum(axis=1)
    recall = {name: table.diagonal() / np.maximum(table.sum(axis=1), 1) for name, table in counts.items()}
    present = np.flatnonzero(videos)
    order = sorted(present, key=lambda number: (-recall[main.name][number], number))
    classes = _classes(main)
    return {
        "rows": [row.name for row in rows],
        "classes": [
            {
                "name": classes[number],
                "videos": int(videos[number]),
                "recall": [float(recall[row.name][number]) for row in rows],
            }
            for number in order
        ],
        "without_videos": len(classes) - len(present),
    }


def confusion_table(main: Row) -> dict[str, Any]:
    """All counts of ``main``: counts[true][taken for], splits added up."""
    return {"of": main.name, "classes": list(_classes(main)), "counts": main.confusion().tolist()}


def hardest_confusions(main: Row) -> list[dict[str, Any]]:
    """The pairs of classes confused most often, each with the video that is most surely taken for the other."""
    table = main.confusion()
    errors = table - np.diag(table.diagonal())
    videos = table.sum(axis=1)
    pairs = [(int(true), int(taken)) for true, taken in np.argwhere(errors)]
    pairs.sort(key=lambda pair: (-errors[pair], -errors[pair] / videos[pair[0]], pair))
    return [
        {
            "true": _classes(main)[true],
            "taken_for": _classes(main)[taken],
            "times": int(errors[true, taken]),
            "videos": int(videos[true]),
            **_example(main, true, taken),
        }
        for true, taken in pairs[:HARDEST]
    ]


def _example(main: Row, true: int, taken: int) -> dict[str, Any]:
    """Split and id of the video of class ``true`` with the highest score for ``taken`` among those taken for it."""
    found = [
        (float(scores.scores[number, taken]), split, scores.ids[number])
        for split, scores in main.by_split.items()
        for number in np.flatnonzero((scores.labels == true) & (scores.predicted == taken))
    ]
    _, split, id = max(found, key=lambda item: item[0])
    return {"split": split, "video": id}


def _classes(row: Row) -> tuple[str, ...]:
    return next(iter(row.by_split.values())).classes
