"""What was measured, beside the tables of the two-stream paper: where dataset, splits and part are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flowprep.train.paper import CAPTIONS, CLASSES, NAMES, RESULTS, TEST_VIDEOS, Result
from flowprep.train.report.tables import Row
from flowprep.train.scores import TEST


def comparison(rows: Sequence[Row], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The paper's tables for the same videos, or in ``why_not`` the reason why there is nothing to compare.

    ``settings`` has for the name of a row what :func:`setting_of` says of its checkpoint; a row without one is listed
    without a counterpart. Accuracies are shares in [0, 1].
    """
    dataset, why_not = _same_dataset(rows)
    tables = [] if why_not else _tables(dataset, rows, settings)
    if not tables and not why_not:
        why_not = "The paper has numbers for split 1 and for the mean over the three splits; neither was measured here."
    return {"dataset": NAMES.get(dataset, ""), "why_not": why_not, "tables": tables}


def setting_of(config: Any, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the rows of the paper differ in, of a StreamConfig; ``stored`` is the stacking of a dataset of stacks."""
    setting = {
        "net": config.net.name,
        "width": config.net.width,
        "dropout": config.net.dropout,
        "regime": config.solver.regime,
        "tasks": "multi-task" if config.data.also else "added classes" if config.data.added else "one",
    }
    if config.stream == "temporal":
        stack = stored or vars(config.stack)
        setting |= {key: stack.get(key) for key in ("kind", "length", "bidirectional")}
        setting["mean_subtract"] = config.stack.mean_subtract
    return setting


def fused_setting(name: str, rows: Sequence[Row], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The setting of a fused row, "fused, METHOD", of one spatial and one temporal row; {} where it is not known."""
    by_stream = {row.stream: settings.get(row.name, {}) for row in rows if row.stream != "fused"}
    if set(by_stream) != {"spatial", "temporal"} or not all(by_stream.values()):
        return {}
    if sum(row.stream != "fused" for row in rows) > 2:
        return {}
    method = name.split(",")[-1].split("(")[0].strip().lower()
    return {**by_stream["temporal"], "spatial": by_stream["spatial"]["regime"], "method": method}


def _same_dataset(rows: Sequence[Row]) -> tuple[str, str]:
    """Key of the paper's dataset, and why the scores are not of its videos ("" if they are)."""
    scores = [item for row in rows for item in row.by_split.values()]
    classes = len(scores[0].classes)
    dataset = next((key for key, count in CLASSES.items() if count == classes), "")
    if not dataset:
        known = " and ".join(f"{NAMES[key]} with {count}" for key, count in CLASSES.items())
        return "", f"The paper has {known} classes; this dataset has {classes:,}."
    if scores[0].part != TEST:
        return dataset, f"The paper measures on the test part; these scores are of {scores[0].part or 'every video'}."
    for item in scores:
        videos, expected = int(item.known.sum()), TEST_VIDEOS[dataset].get(item.split, 0)
        if videos != expected:
            return dataset, (
                f"{classes} classes as in {NAMES[dataset]}, but the test part of its split {item.split} has "
                f"{expected:,} videos, and {item.name} has scores of {videos:,}."
            )
    return dataset, ""


def _tables(dataset: str, rows: Sequence[Row], settings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tables on splits that were measured; what has no counterpart comes below the first one of its stream."""
    tables = []
    told: set[tuple[str, tuple[int, ...]]] = set()
    for key, results in _results(dataset, rows).items():
        lines = []
        for result in results:
            here = [row for row in rows if _is_counterpart(result, row, settings.get(row.name, {}))]
            told |= {(row.name, result.splits) for row in here}
            lines.append({"row": result.row, "paper": round(result.accuracy / 100, 3), "here": _told(here, result)})
        tables.append({"table": key, "caption": CAPTIONS[key], "splits": list(results[0].splits), "results": lines})
    for table, results in zip(tables, _results(dataset, rows).values(), strict=True):
        streams = {result.stream for result in results}
        others = [
            row
            for row in rows
            if row.stream in streams and _measured(row, results[0]) and (row.name, results[0].splits) not in told
        ]
        told |= {(row.name, results[0].splits) for row in others}
        table["others"] = _told(others, results[0])
    return tables


def _results(dataset: str, rows: Sequence[Row]) -> dict[str, list[Result]]:
    """By table: the results on ``dataset``, all of the same splits, if any of ``rows`` was measured on those."""
    found: dict[str, list[Result]] = {}
    for result in RESULTS:
        if result.dataset == dataset and any(_measured(row, result) for row in rows):
            found.setdefault(result.table, []).append(result)
    return dict(sorted(found.items()))


def _told(rows: Sequence[Row], result: Result) -> list[dict[str, Any]]:
    """Name and mean accuracy of ``rows`` on the splits of ``result``."""
    accuracies = [np.mean([row.by_split[split].accuracy for split in result.splits]) for row in rows]
    return [{"name": row.name, "accuracy": float(mean)} for row, mean in zip(rows, accuracies, strict=True)]


def _measured(row: Row, result: Result) -> bool:
    return set(result.splits) <= set(row.by_split)


def _is_counterpart(result: Result, row: Row, setting: Mapping[str, Any]) -> bool:
    """Whether ``row`` was measured on the same splits with every value that the paper's row stands for."""
    same = all(name in setting and setting[name] == value for name, value in result.setting.items())
    return bool(setting) and row.stream == result.stream and _measured(row, result) and same
