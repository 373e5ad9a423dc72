"""What was measured, as one page of HTML and as JSON.

tables          the numbers: accuracies, recall of each class, confusions
comparison      beside the tables of the two-stream paper
runs            settings, learning curves and first layer of the checkpoints
pictures        frames and filters, as data URIs
curves, page    the drawing; page.html is the template
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowprep.errors import UsageError
from flowprep.store.replacing import replacing
from flowprep.train.report.comparison import comparison, fused_setting
from flowprep.train.report.page import render
from flowprep.train.report.pictures import Videos, filters_picture, png, thumbnail
from flowprep.train.report.runs import Run, runs_of, settings_of
from flowprep.train.report.tables import (
    Row,
    class_table,
    confusion_table,
    dataset_name,
    hardest_confusions,
    main_row,
    measured,
    rows_of,
)
from flowprep.train.scores import Scores
from flowprep.wording import printable

__all__ = ["write_report"]

SMALL = 1000  # videos: a test set with fewer is called small
DRAWN = 400  # classes up to which the confusion matrix is drawn


def write_report(scores: Sequence[Scores], path: Path, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Write the page ``path``, and the numbers on it beside it as ``.json``; returns them.

    ``scores`` are of one part of one dataset: streams and fusions, of one split or several. Their checkpoints, the logs
    beside those and their datasets are read where they exist. Raises UsageError for scores that do not belong together,
    StoreError where the files cannot be written.
    """
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"{path}: a report is a page, give it a name like report.html.")
    rows = rows_of(scores)
    main = main_row(rows)
    runs = runs_of(rows)
    hardest = hardest_confusions(main)
    videos = Videos([item.dataset for row in [main, *rows] for item in row.by_split.values() if item.dataset])
    frames = [videos.middle(confusion["video"]) for confusion in hardest]
    notes = list(dict.fromkeys(videos.notes)) if hardest else []
    tree = _tree(rows, main, runs) | {"hardest": {"of": main.name, "confusions": hardest, "notes": notes}}
    pictures = {
        "hardest": [None if frame is None else thumbnail(frame) for frame in frames],
        "filters": [None if run.first_layer is None else png(filters_picture(run.first_layer)) for run in runs],
    }
    numbers = path.with_suffix(".json")
    _write(numbers, json.dumps(tree, allow_nan=False))
    _write(path, render(tree, pictures))
    for row in tree["rows"]:
        of = "mean of splits " if len(row["splits"]) > 1 else "split "
        splits = ", ".join(str(item["split"]) for item in row["splits"])
        say(f"{printable(row['name'])}: {row['accuracy']:.1%}, {of}{splits}")
    say(f"{path}, its numbers in {numbers.name}")
    return tree


def _tree(rows: Sequence[Row], main: Row, runs: Sequence[Run]) -> dict[str, Any]:
    """Everything on the page that comes from scores and runs."""
    settings = settings_of(rows, runs)
    settings |= {row.name: fused_setting(row.name, rows, settings) for row in rows if row.stream == "fused"}
    first = next(iter(main.by_split.values()))
    splits = sorted({split for row in rows for split in row.by_split})
    videos = [max(int(row.by_split[split].known.sum()) for row in rows if split in row.by_split) for split in splits]
    return {
        "dataset": dataset_name(rows),
        "part": first.part,
        "classes": len(first.classes),
        "splits": splits,
        "videos": videos,
        "small": min(videos) < SMALL,
        "rows": [measured(row) for row in rows],
        "paper": comparison(rows, settings),
        "recall": class_table(rows, main),
        "confusion": confusion_table(main),
        "drawn": len(first.classes) <= DRAWN,
        "runs": [run.to_json() for run in runs],
    }


def _write(path: Path, text: str) -> None:
    """Letters that are no Unicode, as in odd file names, become "?"."""
    with replacing(path) as file:
        file.write(text.encode(errors="replace"))
